/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside the Xen side of the hypervisor seam. */
#ifndef SVQ_XEN_HV_H
#define SVQ_XEN_HV_H

#include "xen_libs.h"

enum { XEN_MAP_BUCKETS = 256 };

enum xen_map_kind { XEN_MAP_FOREIGN, XEN_MAP_TABLE, XEN_MAP_GRANTS, XEN_MAP_SHARED, XEN_MAP_OWN };

/* One live mapping: the libraries do not undo these when their handle closes, so we must know them. */
struct xen_map {
    struct xen_map *next;
    enum xen_map_kind kind;
    void *va;
    size_t count; /* pages */
    void *resource; /* of XEN_MAP_TABLE */
};

struct xen_hv {
    struct svq_hv base;
    const struct xen_libs *libs;
    pthread_mutex_t lock; /* of what follows */
    void *gnttab, *gntshr, *foreignmemory; /* opened when first used: not every domain has every device node */
    int privcmd_fd;
    struct xen_map *maps[XEN_MAP_BUCKETS];
};

static inline struct xen_hv *xen_of(struct svq_hv *hv)
{
    return (struct xen_hv *)(void *)hv; /* its first member */
}

/* hv_xen.c: a handle on libraries that were found already; tests give their own. */
int svq_hv_open_xen_on(const struct xen_libs *libs, struct svq_hv **out);

/* xen_maps.c */
/* Room for a mapping, before there is one: what is mapped can then always be remembered. NULL: out of memory. */
struct xen_map *xen_map_new(enum xen_map_kind kind, size_t count);
void xen_map_publish(struct xen_hv *xen, struct xen_map *map, void *va);
/* Takes the mapping at `va` off the list if it is of that kind and size (0: any size); else NULL. */
struct xen_map *xen_map_take(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count);
/* Undoes a mapping that was taken off the list; on failure it is put back. 0 or -errno. */
int xen_map_undo(struct xen_hv *xen, struct xen_map *map);
void xen_maps_undo_all(struct xen_hv *xen);

/* xen_own.c: locked memory of our own domain, and what only an ioctl can do. */
int xen_own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va);
int xen_release_own_pages(struct svq_hv *hv, void *va, size_t count);
int xen_set_readonly(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly);

/* xen_evtchn.c */
int xen_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out);
void xen_evtchn_close(struct svq_evtchn *ec);
int xen_evtchn_fd(struct svq_evtchn *ec);
int xen_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid);
int xen_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port);
int xen_evtchn_notify(struct svq_evtchn *ec, uint32_t port);
int xen_evtchn_pending(struct svq_evtchn *ec);
int xen_evtchn_unmask(struct svq_evtchn *ec, uint32_t port);
int xen_evtchn_unbind(struct svq_evtchn *ec, uint32_t port);

#endif
