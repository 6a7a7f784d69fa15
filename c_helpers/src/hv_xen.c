/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Xen behind the hypervisor seam: its libraries, with their errors in our convention. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xen_hv.h"

enum {
    XENMEM_RESOURCE_GRANT_TABLE = 1,          /* xen/memory.h */
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = 0,
    XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS = 1,
};

/*
 * Opens one of the three handles when it is first needed. NULL: not to be had; *rc says why, as does svq_hv_why.
 */
static void *handle(struct xen_hv *xen, void **slot, void *(*open_it)(void *, unsigned int),
                    const struct xen_node *node, int *rc)
{
    void *found;

    pthread_mutex_lock(&xen->lock);
    if (*slot == NULL) {
        errno = 0;
        *slot = open_it(xen_silent_logger(), 0);
        if (*slot == NULL)
            *rc = xen_node_failed(node, errno != 0 ? errno : EIO);
    }
    found = *slot;
    pthread_mutex_unlock(&xen->lock);
    return found;
}

static void *gnttab_of(struct xen_hv *xen, int *rc)
{
    return handle(xen, &xen->gnttab, xen->libs->gnttab_open, &xen_node_gntdev, rc);
}

static void *gntshr_of(struct xen_hv *xen, int *rc)
{
    return handle(xen, &xen->gntshr, xen->libs->gntshr_open, &xen_node_gntalloc, rc);
}

static void *foreignmemory_of(struct xen_hv *xen, int *rc)
{
    return handle(xen, &xen->foreignmemory, xen->libs->foreignmemory_open, &xen_node_privcmd, rc);
}

static int negative_errno(void)
{
    return errno > 0 ? -errno : -EIO;
}

static int set_domid(struct svq_hv *hv, uint16_t domid)
{
    __atomic_store_n(&hv->domid, domid, __ATOMIC_RELAXED);
    return 0;
}

/*
 * Errors of a batch come per frame, so a domain that we may not map, or that does not exist, shows in every one of
 * them. Linux's privcmd writes negative numbers there where the library's header promises positive ones: take
 * both.
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

static int map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                       int *errs, void **va)
{
    struct xen_hv *xen = xen_of(hv);
    struct xen_map *map;
    void *fmem, *mapped;
    int rc = -EIO;

    fmem = foreignmemory_of(xen, &rc);
    if (fmem == NULL)
        return rc;
    map = xen_map_new(XEN_MAP_FOREIGN, count);
    if (map == NULL)
        return -ENOMEM;
    mapped = xen->libs->foreignmemory_map(fmem, domid, writable ? PROT_READ | PROT_WRITE : PROT_READ, count, gfns,
                                          errs);
    if (mapped == NULL) {
        rc = negative_errno();
        free(map);
        return rc;
    }
    rc = whole_error(errs, count);
    xen_map_publish(xen, map, mapped);
    if (rc != 0) {
        map = xen_map_take(xen, mapped, XEN_MAP_FOREIGN, count);
        if (map != NULL)
            (void)xen_map_undo(xen, map);
        return rc;
    }
    *va = mapped;
    return 0;
}

static int unmap(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count)
{
    struct xen_map *map = xen_map_take(xen, va, kind, count);

    return map == NULL ? -EINVAL : xen_map_undo(xen, map);
}

static int unmap_foreign(struct svq_hv *hv, void *va, size_t count)
{
    return unmap(xen_of(hv), va, XEN_MAP_FOREIGN, count);
}

/* Only a table of version 2 has status frames (xen/memory.h); its entries are twice as long as those that we write. */
static int has_version_2(const struct xen_libs *libs, void *fmem, uint16_t domid)
{
    void *mapped = NULL;
    void *resource = libs->foreignmemory_map_resource(fmem, domid, XENMEM_RESOURCE_GRANT_TABLE,
                                                      XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS, 0, 1, &mapped, PROT_READ,
                                                      0);

    if (resource == NULL)
        return 0;
    (void)libs->foreignmemory_unmap_resource(fmem, resource);
    return 1;
}

static int map_grant_table(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                           void **token)
{
    struct xen_hv *xen = xen_of(hv);
    struct xen_map *map;
    void *fmem, *mapped = NULL;
    int rc = -EIO;

    fmem = foreignmemory_of(xen, &rc);
    if (fmem == NULL)
        return rc;
    if (has_version_2(xen->libs, fmem, domid))
        return -EPROTONOSUPPORT;
    map = xen_map_new(XEN_MAP_TABLE, frames);
    if (map == NULL)
        return -ENOMEM;
    map->resource = xen->libs->foreignmemory_map_resource(fmem, domid, XENMEM_RESOURCE_GRANT_TABLE,
                                                          XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, first_frame,
                                                          frames, &mapped, PROT_READ | PROT_WRITE, 0);
    if (map->resource == NULL) {
        rc = negative_errno();
        free(map);
        return rc;
    }
    xen_map_publish(xen, map, mapped);
    *va = *token = mapped;
    return 0;
}

static int unmap_grant_table(struct svq_hv *hv, void *token)
{
    return unmap(xen_of(hv), token, XEN_MAP_TABLE, 0);
}

static int grant_table_frames(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames)
{
    struct xen_hv *xen = xen_of(hv);
    size_t bytes = 0;
    int rc = -EIO;
    void *mapped, *token, *fmem = foreignmemory_of(xen, &rc);

    if (fmem == NULL)
        return rc;
    if (xen->libs->foreignmemory_resource_size == NULL)
        return -ENOSYS;
    if (xen->libs->foreignmemory_resource_size(fmem, domid, XENMEM_RESOURCE_GRANT_TABLE,
                                               XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, &bytes) != 0)
        return negative_errno();
    *max_frames = (uint32_t)(bytes >> SVQ_PAGE_SHIFT);
    /* What would keep us from mapping it later is said now, while the operator attaches a disk. */
    rc = map_grant_table(hv, domid, 0, 1, &mapped, &token);
    return rc != 0 ? rc : unmap_grant_table(hv, token);
}

/* gntalloc allows 1024 pages in all by default (its module parameter `limit`), and answers ENOSPC beyond. */
static int share_pages(struct svq_hv *hv, uint16_t peer_domid, size_t count, int peer_may_write, uint32_t *grefs,
                       void **va)
{
    struct xen_hv *xen = xen_of(hv);
    struct xen_map *map;
    void *gntshr, *mapped;
    int rc = -EIO;

    gntshr = gntshr_of(xen, &rc);
    if (gntshr == NULL)
        return rc;
    map = xen_map_new(XEN_MAP_SHARED, count);
    if (map == NULL)
        return -ENOMEM;
    mapped = xen->libs->gntshr_share_pages(gntshr, peer_domid, (int)count, grefs, peer_may_write != 0);
    if (mapped == NULL) {
        rc = negative_errno();
        free(map);
        return rc;
    }
    xen_map_publish(xen, map, mapped);
    *va = mapped;
    return 0;
}

/* gntalloc itself keeps a page that the peer still maps, and tries again later: there is no busy here. */
static int unshare_pages(struct svq_hv *hv, void *va, size_t count)
{
    return unmap(xen_of(hv), va, XEN_MAP_SHARED, count);
}

static int map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable,
                      void **va)
{
    struct xen_hv *xen = xen_of(hv);
    struct xen_map *map;
    void *gnttab, *mapped;
    int rc = -EIO;

    gnttab = gnttab_of(xen, &rc);
    if (gnttab == NULL)
        return rc;
    map = xen_map_new(XEN_MAP_GRANTS, count);
    if (map == NULL)
        return -ENOMEM;
    /* The library does not write to refs; its prototype lacks the const. */
    mapped = xen->libs->gnttab_map_domain_grant_refs(gnttab, (uint32_t)count, domid, (uint32_t *)(uintptr_t)grefs,
                                                     writable ? PROT_READ | PROT_WRITE : PROT_READ);
    if (mapped == NULL) {
        rc = negative_errno();
        free(map);
        /* Every refusal by the hypervisor, whatever its status, reaches us from gntdev as EINVAL. */
        return rc == -EINVAL ? -EACCES : rc;
    }
    xen_map_publish(xen, map, mapped);
    *va = mapped;
    return 0;
}

static int unmap_grants(struct svq_hv *hv, void *va, size_t count)
{
    return unmap(xen_of(hv), va, XEN_MAP_GRANTS, count);
}

/* Mappings outlive the descriptors that made them, so they go first. */
static void close_handle(struct svq_hv *hv)
{
    struct xen_hv *xen = xen_of(hv);

    xen_maps_undo_all(xen);
    if (xen->gnttab != NULL)
        (void)xen->libs->gnttab_close(xen->gnttab);
    if (xen->gntshr != NULL)
        (void)xen->libs->gntshr_close(xen->gntshr);
    if (xen->foreignmemory != NULL)
        (void)xen->libs->foreignmemory_close(xen->foreignmemory);
    if (xen->privcmd_fd >= 0)
        close(xen->privcmd_fd);
    pthread_mutex_destroy(&xen->lock);
    free(xen);
}

static const struct svq_hv_ops xen_ops = {
    .name = "xen",
    .close = close_handle,
    .set_domid = set_domid,
    .map_foreign = map_foreign,
    .unmap_foreign = unmap_foreign,
    .map_grant_table = map_grant_table,
    .unmap_grant_table = unmap_grant_table,
    .grant_table_frames = grant_table_frames,
    .share_pages = share_pages,
    .unshare_pages = unshare_pages,
    .map_grants = map_grants,
    .unmap_grants = unmap_grants,
    .own_pages = xen_own_pages,
    .release_own_pages = xen_release_own_pages,
    .set_readonly = xen_set_readonly,
    .evtchn_open = xen_evtchn_open,
    .evtchn_close = xen_evtchn_close,
    .evtchn_fd = xen_evtchn_fd,
    .evtchn_alloc_unbound = xen_evtchn_alloc_unbound,
    .evtchn_bind = xen_evtchn_bind,
    .evtchn_notify = xen_evtchn_notify,
    .evtchn_pending = xen_evtchn_pending,
    .evtchn_unmask = xen_evtchn_unmask,
    .evtchn_unbind = xen_evtchn_unbind,
};

int svq_hv_open_xen_on(const struct xen_libs *libs, struct svq_hv **out)
{
    struct xen_hv *xen = calloc(1, sizeof(*xen));

    if (xen == NULL)
        return svq_hv_fail(-ENOMEM, "out of memory");
    pthread_mutex_init(&xen->lock, NULL);
    xen->libs = libs;
    xen->privcmd_fd = -1;
    svq_hv_init(&xen->base, &xen_ops, -ENOSYS);
    *out = &xen->base;
    return 0;
}

int svq_hv_open_xen(struct svq_hv **out)
{
    const struct xen_libs *libs;
    int rc;

    if (out == NULL)
        return -EINVAL;
    rc = xen_libs_load(&libs);
    if (rc != 0)
        return rc;
    /* Every role needs event channels; the other nodes are asked for when they are first used. */
    if (access(xen_node_evtchn.path, R_OK | W_OK) != 0) {
        rc = xen_node_failed(&xen_node_evtchn, errno);
        return rc == -EACCES ? rc : -ENOSYS;
    }
    return svq_hv_open_xen_on(libs, out);
}
