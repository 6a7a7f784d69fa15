/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The public side of the hypervisor seam: checks arguments, asks the implementation, counts. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "hv_impl.h"

static __thread char why[256] = "nothing failed";

static struct svq_hv_counters *shard_of(struct svq_hv *hv)
{
    static unsigned int next_shard;
    static __thread unsigned int own_shard; /* 1 .. SVQ_HV_SHARDS once chosen */

    if (own_shard == 0)
        own_shard = 1 + __atomic_fetch_add(&next_shard, 1, __ATOMIC_RELAXED) % SVQ_HV_SHARDS;
    return &hv->shards[own_shard - 1].counters;
}

/* Several threads add to the counters; a "live" one may go below zero in one shard, but the sum never does. */
#define COUNT(hv, field, n) ((void)__atomic_fetch_add(&shard_of(hv)->field, (uint64_t)(n), __ATOMIC_RELAXED))

void svq_hv_init(struct svq_hv *hv, const struct svq_hv_ops *ops, int domid)
{
    hv->ops = ops;
    hv->domid = domid;
    hv->evtchns = NULL;
    hv->frames = NULL;
    pthread_mutex_init(&hv->lists_lock, NULL);
    memset(hv->shards, 0, sizeof hv->shards);
}

int svq_hv_fail(int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return err;
}

const char *svq_hv_why(void) { return why; }

void svq_hv_close(struct svq_hv *hv)
{
    if (!hv)
        return;
    while (hv->frames)
        svq_frames_close(hv->frames);
    while (hv->evtchns)
        svq_evtchn_close(hv->evtchns);
    pthread_mutex_destroy(&hv->lists_lock);
    hv->ops->close(hv);
}

const char *svq_hv_name(const struct svq_hv *hv) { return hv->ops->name; }

int svq_hv_domid(const struct svq_hv *hv) { return __atomic_load_n(&hv->domid, __ATOMIC_RELAXED); }

int svq_hv_set_domid(struct svq_hv *hv, uint16_t domid) { return hv->ops->set_domid(hv, domid); }

void svq_hv_read_counters(const struct svq_hv *hv, struct svq_hv_counters *out)
{
    uint64_t *sums = (uint64_t *)(void *)out;
    const size_t words = sizeof *out / sizeof(uint64_t);
    memset(out, 0, sizeof *out);
    for (int shard = 0; shard < SVQ_HV_SHARDS; shard++) {
        const uint64_t *words_of_shard = (const uint64_t *)(const void *)&hv->shards[shard].counters;
        for (size_t i = 0; i < words; i++)
            sums[i] += svq_load_u64(&words_of_shard[i]);
    }
}

static int bad_count(size_t count) { return count == 0 || count > SVQ_HV_MAP_PAGES_MAX; }

int svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable, int *errs,
                       void **va)
{
    if (!gfns || !errs || !va || bad_count(count))
        return -EINVAL;
    int rc = hv->ops->map_foreign(hv, domid, gfns, count, writable, errs, va);
    COUNT(hv, hypercalls, 1);
    COUNT(hv, foreign_maps, 1);
    if (rc == 0)
        COUNT(hv, foreign_pages_live, count);
    return rc;
}

int svq_hv_unmap_foreign(struct svq_hv *hv, void *va, size_t count)
{
    if (!va || bad_count(count))
        return -EINVAL;
    int rc = hv->ops->unmap_foreign(hv, va, count);
    if (rc == 0) {
        COUNT(hv, hypercalls, 1);
        COUNT(hv, foreign_pages_live, -(int64_t)count);
    }
    return rc;
}

int svq_hv_map_grant_table(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                           void **token)
{
    if (!va || !token || bad_count(frames) || first_frame > SVQ_HV_MAP_PAGES_MAX)
        return -EINVAL;
    int rc = hv->ops->map_grant_table(hv, domid, first_frame, frames, va, token);
    COUNT(hv, hypercalls, 1);
    if (rc == 0)
        COUNT(hv, grant_tables_live, 1);
    return rc;
}

int svq_hv_unmap_grant_table(struct svq_hv *hv, void *token)
{
    if (!token)
        return -EINVAL;
    int rc = hv->ops->unmap_grant_table(hv, token);
    if (rc == 0) {
        COUNT(hv, hypercalls, 1);
        COUNT(hv, grant_tables_live, -1);
    }
    return rc;
}

int svq_hv_grant_table_frames(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames)
{
    if (!max_frames)
        return -EINVAL;
    COUNT(hv, hypercalls, 1);
    return hv->ops->grant_table_frames(hv, domid, max_frames);
}

int svq_hv_share_pages(struct svq_hv *hv, uint16_t peer_domid, size_t count, int peer_may_write, uint32_t *grefs,
                       void **va)
{
    if (!grefs || !va || bad_count(count))
        return -EINVAL;
    int rc = hv->ops->share_pages(hv, peer_domid, count, peer_may_write, grefs, va);
    if (rc == 0) /* granting is a write to our own table: no hypercall */
        COUNT(hv, shared_pages_live, count);
    return rc;
}

int svq_hv_unshare_pages(struct svq_hv *hv, void *va, size_t count)
{
    if (!va || bad_count(count))
        return -EINVAL;
    int rc = hv->ops->unshare_pages(hv, va, count);
    if (rc == 0 || rc == -EBUSY) /* busy: we let go of them, but lose some to the peer for good */
        COUNT(hv, shared_pages_live, -(int64_t)count);
    return rc;
}

int svq_hv_map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va)
{
    if (!grefs || !va || bad_count(count))
        return -EINVAL;
    int rc = hv->ops->map_grants(hv, domid, grefs, count, writable, va);
    COUNT(hv, hypercalls, 1);
    COUNT(hv, grant_maps, 1);
    if (rc == 0) {
        COUNT(hv, grant_pages_mapped, count);
        COUNT(hv, grant_pages_live, count);
    }
    return rc;
}

int svq_hv_unmap_grants(struct svq_hv *hv, void *va, size_t count)
{
    if (!va || bad_count(count))
        return -EINVAL;
    int rc = hv->ops->unmap_grants(hv, va, count);
    if (rc == 0) {
        COUNT(hv, hypercalls, 1);
        COUNT(hv, grant_unmaps, 1);
        COUNT(hv, grant_pages_live, -(int64_t)count);
    }
    return rc;
}

static int bad_copy(const struct svq_hv_copy *op)
{
    return !op->local || op->length == 0 || (uint32_t)op->offset + op->length > SVQ_PAGE_SIZE;
}

int svq_hv_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count)
{
    uint64_t bytes = 0;
    if (!ops || bad_count(count))
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        if (bad_copy(&ops[i]))
            return -EINVAL;
        ops[i].result = 0;
    }
    int rc = hv->ops->copy_grants(hv, domid, ops, count);
    for (size_t i = 0; i < count; i++) {
        if (rc != 0)
            ops[i].result = rc;
        else if (ops[i].result == 0)
            bytes += ops[i].length;
    }
    COUNT(hv, hypercalls, (count + SVQ_HV_COPY_BATCH - 1) / SVQ_HV_COPY_BATCH);
    COUNT(hv, grant_copies, 1);
    COUNT(hv, grant_bytes_copied, bytes);
    return rc;
}

int svq_hv_own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va)
{
    if (!gfns || !va || bad_count(count))
        return -EINVAL;
    return hv->ops->own_pages(hv, first_gfn, count, gfns, va);
}

int svq_hv_release_own_pages(struct svq_hv *hv, void *va, size_t count)
{
    if (!va || bad_count(count))
        return -EINVAL;
    return hv->ops->release_own_pages(hv, va, count);
}

int svq_hv_set_readonly(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly)
{
    COUNT(hv, hypercalls, 1);
    return hv->ops->set_readonly(hv, domid, gfn, readonly);
}

/* --- frames that become other pages ------------------------------------------------------------------------ */
int svq_frames_watch(struct svq_hv *hv, uint16_t domid, struct svq_frames **out)
{
    if (!out)
        return -EINVAL;
    struct svq_frames *frames;
    int rc = hv->ops->frames_watch(hv, domid, &frames);
    if (rc != 0)
        return rc;
    frames->hv = hv;
    pthread_mutex_lock(&hv->lists_lock);
    frames->next = hv->frames;
    hv->frames = frames;
    pthread_mutex_unlock(&hv->lists_lock);
    *out = frames;
    return 0;
}

int svq_frames_fd(struct svq_frames *frames) { return frames->hv->ops->frames_fd(frames); }

int svq_frames_changed(struct svq_frames *frames) { return frames->hv->ops->frames_changed(frames); }

int svq_frames_ack(struct svq_frames *frames) { return frames->hv->ops->frames_ack(frames); }

void svq_frames_close(struct svq_frames *frames)
{
    if (!frames)
        return;
    struct svq_hv *hv = frames->hv;
    pthread_mutex_lock(&hv->lists_lock);
    struct svq_frames **link;
    for (link = &hv->frames; *link != frames; link = &(*link)->next)
        ;
    *link = frames->next;
    pthread_mutex_unlock(&hv->lists_lock);
    hv->ops->frames_close(frames);
}

/* --- event channels ----------------------------------------------------------------------------------- */
int svq_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out)
{
    if (!out)
        return -EINVAL;
    struct svq_evtchn *ec;
    int rc = hv->ops->evtchn_open(hv, &ec);
    if (rc != 0)
        return rc;
    ec->hv = hv;
    ec->ports_open = 0;
    pthread_mutex_lock(&hv->lists_lock);
    ec->next = hv->evtchns;
    hv->evtchns = ec;
    pthread_mutex_unlock(&hv->lists_lock);
    *out = ec;
    return 0;
}

void svq_evtchn_close(struct svq_evtchn *ec)
{
    if (!ec)
        return;
    struct svq_hv *hv = ec->hv;
    pthread_mutex_lock(&hv->lists_lock);
    struct svq_evtchn **link;
    for (link = &hv->evtchns; *link != ec; link = &(*link)->next)
        ;
    *link = ec->next;
    pthread_mutex_unlock(&hv->lists_lock);
    COUNT(hv, hypercalls, ec->ports_open);
    COUNT(hv, ports_live, -(int64_t)ec->ports_open);
    hv->ops->evtchn_close(ec);
}

int svq_evtchn_fd(struct svq_evtchn *ec) { return ec->hv->ops->evtchn_fd(ec); }

static int count_new_port(struct svq_evtchn *ec, int port)
{
    COUNT(ec->hv, hypercalls, 1);
    if (port >= 0) {
        COUNT(ec->hv, ports_live, 1);
        ec->ports_open++;
    }
    return port;
}

int svq_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid)
{
    return count_new_port(ec, ec->hv->ops->evtchn_alloc_unbound(ec, remote_domid));
}

int svq_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port)
{
    return count_new_port(ec, ec->hv->ops->evtchn_bind(ec, remote_domid, remote_port));
}

int svq_evtchn_notify(struct svq_evtchn *ec, uint32_t port)
{
    COUNT(ec->hv, hypercalls, 1);
    COUNT(ec->hv, notifies, 1);
    return ec->hv->ops->evtchn_notify(ec, port);
}

int svq_evtchn_pending(struct svq_evtchn *ec) { return ec->hv->ops->evtchn_pending(ec); }

int svq_evtchn_unmask(struct svq_evtchn *ec, uint32_t port) { return ec->hv->ops->evtchn_unmask(ec, port); }

int svq_evtchn_unbind(struct svq_evtchn *ec, uint32_t port)
{
    int rc = ec->hv->ops->evtchn_unbind(ec, port);
    if (rc == 0) {
        COUNT(ec->hv, hypercalls, 1);
        COUNT(ec->hv, ports_live, -1);
        ec->ports_open--;
    }
    return rc;
}
