/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside the Xen side of the hypervisor seam. */
#ifndef SVQ_XEN_HV_H
#define SVQ_XEN_HV_H

#include <errno.h>

#include "hv_maps.h"
#include "xen_libs.h"

enum xen_map_kind { XEN_MAP_FOREIGN, XEN_MAP_TABLE, XEN_MAP_GRANTS, XEN_MAP_SHARED, XEN_MAP_OWN };

/*
 * All that we can do to another domain's memory goes through handles of its own. The kernel restricts these to that
 * domain before they map anything, so a wrong number cannot reach another domain. The process has no unrestricted
 * handle.
 */
struct xen_domain {
    struct xen_domain *next;
    uint16_t domid;
    uint32_t users; /* mappings and calls in progress */
    void *foreignmemory;
    int privcmd_fd; /* for what the library cannot do; -1 until it is needed */
};

/* One live mapping: the libraries do not undo mappings when their handle closes, so we must record them. */
struct xen_map {
    struct svq_hv_map base;    /* of an enum xen_map_kind */
    void *resource;            /* of XEN_MAP_TABLE */
    struct xen_domain *domain; /* of XEN_MAP_FOREIGN and XEN_MAP_TABLE: the owner; the mapping is one of its users */
};

struct xen_hv {
    struct svq_hv base;
    const struct xen_libs *libs;
    pthread_mutex_t lock;  /* of what follows */
    void *gnttab, *gntshr; /* opened when first used: not every domain has every device node */
    struct xen_domain *domains;

    struct svq_hv_maps maps; /* of struct xen_map; they have their own lock */
};

static inline struct xen_hv *xen_of(struct svq_hv *hv) { return (struct xen_hv *)(void *)hv; /* its first member */ }

/* hv_xen.c: a handle on libraries that are already loaded; tests pass their own. */
int svq_hv_open_xen_on(const struct xen_libs *libs, struct svq_hv **out);

/* xen_maps.c */
/* Room for a mapping, made before the mapping itself, so that recording it cannot fail. NULL: out of memory. */
struct xen_map *xen_map_new(enum xen_map_kind kind, size_t count);
void xen_map_publish(struct xen_hv *xen, struct xen_map *map, void *va);
/* Undoes the mapping at `va` if it has that kind and size (0: any size). */
int xen_unmap(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count);
/* Takes the mapping at `va` off the list if it has that kind and size (0: any size); else NULL. */
struct xen_map *xen_map_take(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count);
/* Undoes a mapping that was taken off the list; on failure, puts it back. 0 or -errno. */
int xen_map_undo(struct xen_hv *xen, struct xen_map *map);
void xen_maps_undo_all(struct xen_hv *xen);

static inline int xen_negative_errno(void) { return errno > 0 ? -errno : -EIO; }

/* xen_domains.c */
/* The domain's handle, which counts the caller as a user from now on. NULL: *rc says why. */
struct xen_domain *xen_domain_get(struct xen_hv *xen, uint16_t domid, int *rc);
void xen_domain_put(struct xen_hv *xen, struct xen_domain *domain);
/* A descriptor of privcmd, restricted to that domain, for its users; or -errno. */
int xen_domain_privcmd(struct xen_hv *xen, struct xen_domain *domain);
/* A device-model operation on it (struct xen_dm_op of Xen's public/hvm/dm_op.h, of the same size). */
int xen_domain_dm_op(struct xen_hv *xen, struct xen_domain *domain, void *op, size_t bytes);
void xen_domains_close(struct xen_hv *xen);

/* hv_xen.c: the handle of libxengnttab, opened when it is first needed. NULL: *rc says why. */
void *xen_gnttab(struct xen_hv *xen, int *rc);

/* xen_copy.c */
int xen_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count);

/* xen_foreign.c */
int xen_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable, int *errs,
                    void **va);
int xen_unmap_foreign(struct svq_hv *hv, void *va, size_t count);
int xen_map_grant_table(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                        void **token);
int xen_unmap_grant_table(struct svq_hv *hv, void *token);
int xen_grant_table_frames(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames);

/* xen_own.c: locked memory of our own domain, and what only an ioctl can do. */
int xen_own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va);
int xen_release_own_pages(struct svq_hv *hv, void *va, size_t count);
int xen_set_readonly(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly);

/* xen_frames.c */
int xen_frames_watch(struct svq_hv *hv, uint16_t domid, struct svq_frames **out);
int xen_frames_fd(struct svq_frames *frames);
int xen_frames_changed(struct svq_frames *frames);
int xen_frames_ack(struct svq_frames *frames);
void xen_frames_close(struct svq_frames *frames);

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
