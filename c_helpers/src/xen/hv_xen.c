/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Xen behind the hypervisor seam: Xen's libraries, with their errors in our convention. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xen_hv.h"

/* Opens one of the two handles when it is first needed. NULL: that failed; *rc says why, and so does svq_hv_why. */
static void *handle(struct xen_hv *xen, void **slot, void *(*open_it)(void *, unsigned int),
                    const struct xen_node *node, int *rc)
{
    pthread_mutex_lock(&xen->lock);
    if (!*slot) {
        errno = 0;
        *slot = open_it(xen_silent_logger(), 0);
        if (!*slot)
            *rc = xen_node_failed(node, errno != 0 ? errno : EIO);
    }
    void *found = *slot;
    pthread_mutex_unlock(&xen->lock);
    return found;
}

void *xen_gnttab(struct xen_hv *xen, int *rc)
{
    return handle(xen, &xen->gnttab, xen->libs->gnttab_open, &xen_node_gntdev, rc);
}

static void *gntshr_of(struct xen_hv *xen, int *rc)
{
    return handle(xen, &xen->gntshr, xen->libs->gntshr_open, &xen_node_gntalloc, rc);
}

static int set_domid(struct svq_hv *hv, uint16_t domid)
{
    __atomic_store_n(&hv->domid, domid, __ATOMIC_RELAXED);
    return 0;
}

/* gntalloc allows 1024 pages in all by default (its module parameter `limit`), and returns ENOSPC beyond that. */
static int share_pages(struct svq_hv *hv, uint16_t peer_domid, size_t count, int peer_may_write, uint32_t *grefs,
                       void **va)
{
    struct xen_hv *xen = xen_of(hv);
    int rc = -EIO;
    void *gntshr = gntshr_of(xen, &rc);
    if (!gntshr)
        return rc;
    struct xen_map *map = xen_map_new(XEN_MAP_SHARED, count);
    if (!map)
        return -ENOMEM;
    void *mapped = xen->libs->gntshr_share_pages(gntshr, peer_domid, (int)count, grefs, peer_may_write != 0);
    if (!mapped) {
        rc = xen_negative_errno();
        free(map);
        return rc;
    }
    xen_map_publish(xen, map, mapped);
    *va = mapped;
    return 0;
}

/* gntalloc itself keeps a page that the peer still maps, and tries again later: so -EBUSY never occurs here. */
static int unshare_pages(struct svq_hv *hv, void *va, size_t count)
{
    return xen_unmap(xen_of(hv), va, XEN_MAP_SHARED, count);
}

static int map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va)
{
    struct xen_hv *xen = xen_of(hv);
    int rc = -EIO;
    void *gnttab = xen_gnttab(xen, &rc);
    if (!gnttab)
        return rc;
    struct xen_map *map = xen_map_new(XEN_MAP_GRANTS, count);
    if (!map)
        return -ENOMEM;
    /* The library does not write to refs; its prototype lacks the const. */
    void *mapped = xen->libs->gnttab_map_domain_grant_refs(gnttab, (uint32_t)count, domid, (uint32_t *)(uintptr_t)grefs,
                                                           writable ? PROT_READ | PROT_WRITE : PROT_READ);
    if (!mapped) {
        rc = xen_negative_errno();
        free(map);
        /* gntdev reports every refusal by the hypervisor as EINVAL, whatever its status. */
        return rc == -EINVAL ? -EACCES : rc;
    }
    xen_map_publish(xen, map, mapped);
    *va = mapped;
    return 0;
}

static int unmap_grants(struct svq_hv *hv, void *va, size_t count)
{
    return xen_unmap(xen_of(hv), va, XEN_MAP_GRANTS, count);
}

/* Mappings outlive the descriptors that made them, so they go first. */
static void close_handle(struct svq_hv *hv)
{
    struct xen_hv *xen = xen_of(hv);
    xen_maps_undo_all(xen);
    if (xen->gnttab)
        (void)xen->libs->gnttab_close(xen->gnttab);
    if (xen->gntshr)
        (void)xen->libs->gntshr_close(xen->gntshr);
    xen_domains_close(xen);
    svq_hv_maps_destroy(&xen->maps);
    pthread_mutex_destroy(&xen->lock);
    free(xen);
}

static const struct svq_hv_ops xen_ops = {
    .name = "xen",
    .close = close_handle,
    .set_domid = set_domid,
    .map_foreign = xen_map_foreign,
    .unmap_foreign = xen_unmap_foreign,
    .map_grant_table = xen_map_grant_table,
    .unmap_grant_table = xen_unmap_grant_table,
    .grant_table_frames = xen_grant_table_frames,
    .share_pages = share_pages,
    .unshare_pages = unshare_pages,
    .map_grants = map_grants,
    .unmap_grants = unmap_grants,
    .copy_grants = xen_copy_grants,
    .own_pages = xen_own_pages,
    .release_own_pages = xen_release_own_pages,
    .set_readonly = xen_set_readonly,
    .frames_watch = xen_frames_watch,
    .frames_fd = xen_frames_fd,
    .frames_changed = xen_frames_changed,
    .frames_ack = xen_frames_ack,
    .frames_close = xen_frames_close,
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
    struct xen_hv *xen = calloc(1, sizeof *xen);
    if (!xen)
        return svq_hv_fail(-ENOMEM, "out of memory");
    pthread_mutex_init(&xen->lock, NULL);
    svq_hv_maps_init(&xen->maps);
    xen->libs = libs;
    svq_hv_init(&xen->base, &xen_ops, -ENOSYS);
    *out = &xen->base;
    return 0;
}

int svq_hv_open_xen(struct svq_hv **out)
{
    if (!out)
        return -EINVAL;
    const struct xen_libs *libs;
    int rc = xen_libs_load(&libs);
    if (rc != 0)
        return rc;
    /* Every role needs event channels; the other nodes are opened when they are first used. */
    if (access(xen_node_evtchn.path, R_OK | W_OK) != 0) {
        rc = xen_node_failed(&xen_node_evtchn, errno);
        return rc == -EACCES ? rc : -ENOSYS;
    }
    return svq_hv_open_xen_on(libs, out);
}
