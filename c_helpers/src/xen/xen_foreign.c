/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Other domains' memory and grant tables, through libxenforeignmemory. */
#include <stdlib.h>
#include <sys/mman.h>

#include "xen_hv.h"

enum {
    XENMEM_RESOURCE_GRANT_TABLE = 1, /* xen/memory.h */
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = 0,
    XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS = 1,
};

/*
 * Errors of a batch come per frame, so a domain that does not exist, or that we may not map, shows in every frame.
 * Linux's privcmd writes negative numbers there, where the library's header promises positive ones: accept both.
 */
static int whole_error(int *errs, size_t count)
{
    int refused = 0;
    size_t mapped = 0;
    for (size_t i = 0; i < count; i++) {
        errs[i] = errs[i] > 0 ? -errs[i] : errs[i];
        mapped += errs[i] == 0;
        if (errs[i] == -EPERM || errs[i] == -ESRCH)
            refused = errs[i];
    }
    return mapped == 0 ? refused : 0;
}

/* Room to record a mapping of `domid`, and a use of its handle. NULL: *rc says why. */
static struct xen_map *new_map(struct xen_hv *xen, enum xen_map_kind kind, size_t count, uint16_t domid, int *rc)
{
    struct xen_domain *domain = xen_domain_get(xen, domid, rc);
    struct xen_map *map = domain ? xen_map_new(kind, count) : NULL;
    if (map) {
        map->domain = domain;
    } else if (domain) {
        xen_domain_put(xen, domain);
        *rc = -ENOMEM;
    }
    return map;
}

/* For a mapping that failed; returns -errno. */
static int drop_map(struct xen_hv *xen, struct xen_map *map)
{
    int rc = xen_negative_errno();
    xen_domain_put(xen, map->domain);
    free(map);
    return rc;
}

int xen_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable, int *errs,
                    void **va)
{
    struct xen_hv *xen = xen_of(hv);
    int rc;
    struct xen_map *map = new_map(xen, XEN_MAP_FOREIGN, count, domid, &rc);
    if (!map)
        return rc;
    void *mapped = xen->libs->foreignmemory_map(map->domain->foreignmemory, domid,
                                                writable ? PROT_READ | PROT_WRITE : PROT_READ, count, gfns, errs);
    if (!mapped)
        return drop_map(xen, map);
    rc = whole_error(errs, count);
    xen_map_publish(xen, map, mapped);
    if (rc != 0) {
        (void)xen_unmap(xen, mapped, XEN_MAP_FOREIGN, count);
        return rc;
    }
    *va = mapped;
    return 0;
}

int xen_unmap_foreign(struct svq_hv *hv, void *va, size_t count)
{
    return xen_unmap(xen_of(hv), va, XEN_MAP_FOREIGN, count);
}

/* Only a table of version 2 has status frames (xen/memory.h); its entries are twice as long as those that we write. */
static int has_version_2(const struct xen_libs *libs, const struct xen_domain *domain)
{
    void *mapped = NULL;
    void *resource = libs->foreignmemory_map_resource(domain->foreignmemory, domain->domid, XENMEM_RESOURCE_GRANT_TABLE,
                                                      XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS, 0, 1, &mapped, PROT_READ,
                                                      0);
    if (!resource)
        return 0;
    (void)libs->foreignmemory_unmap_resource(domain->foreignmemory, resource);
    return 1;
}

int xen_map_grant_table(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                        void **token)
{
    struct xen_hv *xen = xen_of(hv);
    void *mapped = NULL;
    int rc;
    struct xen_map *map = new_map(xen, XEN_MAP_TABLE, frames, domid, &rc);
    if (!map)
        return rc;
    if (has_version_2(xen->libs, map->domain)) {
        (void)drop_map(xen, map);
        return -EPROTONOSUPPORT;
    }
    map->resource = xen->libs->foreignmemory_map_resource(
        map->domain->foreignmemory, domid, XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
        first_frame, frames, &mapped, PROT_READ | PROT_WRITE, 0);
    if (!map->resource)
        return drop_map(xen, map);
    xen_map_publish(xen, map, mapped);
    *va = *token = mapped;
    return 0;
}

int xen_unmap_grant_table(struct svq_hv *hv, void *token) { return xen_unmap(xen_of(hv), token, XEN_MAP_TABLE, 0); }

int xen_grant_table_frames(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames)
{
    struct xen_hv *xen = xen_of(hv);
    size_t bytes = 0;
    void *mapped, *token;
    if (!xen->libs->foreignmemory_resource_size)
        return -ENOSYS;
    int rc;
    struct xen_domain *domain = xen_domain_get(xen, domid, &rc);
    if (!domain)
        return rc;
    rc = xen->libs->foreignmemory_resource_size(domain->foreignmemory, domid, XENMEM_RESOURCE_GRANT_TABLE,
                                                XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, &bytes) != 0
             ? xen_negative_errno()
             : 0;
    xen_domain_put(xen, domain);
    if (rc != 0)
        return rc;
    *max_frames = (uint32_t)(bytes >> SVQ_PAGE_SHIFT);
    /* If something would keep us from mapping it later, say so now, while the operator attaches a disk. */
    rc = xen_map_grant_table(hv, domid, 0, 1, &mapped, &token);
    return rc != 0 ? rc : xen_unmap_grant_table(hv, token);
}
