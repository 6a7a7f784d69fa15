/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Behind the seam: what an implementation provides (one table of operations), and what hv.c does for all of them
 * (checks arguments, counts). Modelled on QEMU's xen_backend_ops.h.
 */
#ifndef SVQ_HV_IMPL_H
#define SVQ_HV_IMPL_H

#include <pthread.h>

#include "barrier.h"
#include "svq_hv.h"

enum {
    SVQ_HV_SHARDS = 8,              /* each thread counts into a shard of its own, so threads share no cache lines */
    SVQ_HV_MAP_PAGES_MAX = 1 << 24, /* pages of one call, so that count * 4096 cannot overflow */
    SVQ_HV_COPY_BATCH = 16, /* pieces that one hypercall copies: Linux drivers/xen/gntdev.c, GNTDEV_COPY_BATCH */
};

struct svq_hv_shard {
    struct svq_hv_counters counters;
    uint64_t padding[3]; /* to two cache lines */
};

_Static_assert(sizeof(struct svq_hv_shard) == 128, "a shard fills two cache lines");

struct svq_hv {
    const struct svq_hv_ops *ops;
    int domid;                  /* or -ENOSYS */
    pthread_mutex_t lists_lock; /* of the next two lists */
    struct svq_evtchn *evtchns; /* open ones, closed with the handle */
    struct svq_frames *frames;  /* likewise */
    struct svq_hv_shard shards[SVQ_HV_SHARDS];
};

struct svq_evtchn {
    struct svq_hv *hv;
    struct svq_evtchn *next;
    uint64_t ports_open;
};

struct svq_frames {
    struct svq_hv *hv;
    struct svq_frames *next;
};

/* hv.c has checked the arguments: no NULL, 0 < count <= SVQ_HV_MAP_PAGES_MAX. Results as in svq_hv.h. */
struct svq_hv_ops {
    const char *name;
    void (*close)(struct svq_hv *hv);
    int (*set_domid)(struct svq_hv *hv, uint16_t domid);
    int (*map_foreign)(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable, int *errs,
                       void **va);
    int (*unmap_foreign)(struct svq_hv *hv, void *va, size_t count);
    int (*map_grant_table)(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                           void **token);
    int (*unmap_grant_table)(struct svq_hv *hv, void *token);
    int (*grant_table_frames)(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames);
    int (*share_pages)(struct svq_hv *hv, uint16_t peer_domid, size_t count, int peer_may_write, uint32_t *grefs,
                       void **va);
    int (*unshare_pages)(struct svq_hv *hv, void *va, size_t count);
    int (*map_grants)(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va);
    int (*unmap_grants)(struct svq_hv *hv, void *va, size_t count);
    int (*copy_grants)(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count);
    int (*own_pages)(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va);
    int (*release_own_pages)(struct svq_hv *hv, void *va, size_t count);
    int (*set_readonly)(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly);

    int (*frames_watch)(struct svq_hv *hv, uint16_t domid, struct svq_frames **out);
    int (*frames_fd)(struct svq_frames *frames);
    int (*frames_changed)(struct svq_frames *frames);
    int (*frames_ack)(struct svq_frames *frames);
    void (*frames_close)(struct svq_frames *frames);

    int (*evtchn_open)(struct svq_hv *hv, struct svq_evtchn **out);
    void (*evtchn_close)(struct svq_evtchn *ec);
    int (*evtchn_fd)(struct svq_evtchn *ec);
    int (*evtchn_alloc_unbound)(struct svq_evtchn *ec, uint16_t remote_domid);
    int (*evtchn_bind)(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port);
    int (*evtchn_notify)(struct svq_evtchn *ec, uint32_t port);
    int (*evtchn_pending)(struct svq_evtchn *ec);
    int (*evtchn_unmask)(struct svq_evtchn *ec, uint32_t port);
    int (*evtchn_unbind)(struct svq_evtchn *ec, uint32_t port);
};

/* An implementation's open calls this before it returns its handle. */
void svq_hv_init(struct svq_hv *hv, const struct svq_hv_ops *ops, int domid);

/* Remembers, for this thread, why opening failed; returns `err`. */
int svq_hv_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
