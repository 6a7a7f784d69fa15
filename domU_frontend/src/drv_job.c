/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The job runner: many requests, some of them in flight at a time, over all queues. */
#include <errno.h>

#include "barrier.h"
#include "drv_blk.h"
#include "drv_ledger.h"
#include "drv_wait.h"

struct job {
    const struct svq_drv_req *reqs;
    size_t n;
    unsigned depth;
    struct svq_drv_result *results;    /* or NULL */
    struct svq_drv_progress *progress; /* never NULL */
    size_t next;                       /* the first request not submitted yet */
    unsigned in_flight;
    uint64_t done_ns; /* when something last completed */
};

static unsigned queues_running(const struct svq_drv *d)
{
    unsigned count = 0;
    for (unsigned i = 0; i < d->config.queues; i++)
        count += d->queues[i].running;
    return count;
}

static void prepare_results(struct job *job)
{
    for (size_t i = 0; job->results && i < job->n; i++)
        job->results[i] = (struct svq_drv_result){ .error = -ECANCELED, .status = SVQ_DRV_STATUS_NONE };
}

static void ended(struct job *job, uint64_t data_bytes)
{
    svq_count(&job->progress->bytes_done, data_bytes);
    svq_count(&job->progress->requests_done, 1);
}

/* --- submission ------------------------------------------------------------------------------------------ */

static void submitted(struct svq_drv *d, struct job *job, unsigned queue, uint16_t head)
{
    struct svq_drv_slot *slot = &d->queues[queue].slots[head];
    slot->job = d->job;
    slot->index = job->next;
    slot->data_len = job->reqs[job->next].len;
    slot->submitted_ns = svq_now_ns();
    if (job->results) {
        job->results[job->next].error = -EINPROGRESS;
        job->results[job->next].queue = queue;
    }
    job->next++;
    job->in_flight++;
}

static void refused(struct job *job, int error)
{
    if (job->results)
        job->results[job->next].error = error;
    job->next++;
    ended(job, 0);
}

/* Gives the next request to the next queue that can take it. False: no queue can now. */
static bool submit_one(struct svq_drv *d, struct job *job)
{
    for (unsigned tries = 0; tries < d->config.queues; tries++) {
        unsigned queue = d->next_queue;
        d->next_queue = (queue + 1) % d->config.queues;
        if (!d->queues[queue].running)
            continue;
        int head = svq_drv_blk_add(d, &d->queues[queue], &job->reqs[job->next]);
        if (head == -ENOSPC)
            continue;
        if (head < 0)
            refused(job, head);
        else
            submitted(d, job, queue, (uint16_t)head);
        return true;
    }
    return false;
}

static int publish_all(struct svq_drv *d)
{
    for (unsigned i = 0; i < d->config.queues; i++) {
        struct svq_drv_queue *q = &d->queues[i];
        if (!q->dirty)
            continue;
        q->dirty = false;
        if (!svq_drv_ring_publish(&q->ring)) {
            svq_count(&d->counters.kicks_suppressed, 1);
            continue;
        }
        int rc = svq_drv_kick(d, i);
        if (rc == -ENOTCONN) /* the mediator is away; when it returns, it looks at the ring first */
            svq_count(&d->counters.kicks_lost, 1);
        else if (rc < 0)
            return rc;
    }
    return 0;
}

/* --- completion ------------------------------------------------------------------------------------------ */

static void completed(struct svq_drv *d, struct job *job, struct svq_drv_queue *q, uint16_t head, uint32_t used_len)
{
    struct svq_drv_slot *slot = &q->slots[head];
    uint32_t status = SVQ_DRV_STATUS_NONE;
    svq_drv_ledger_back(d, slot, SVQ_BACK_USED);
    int error = svq_drv_blk_finish(d, q, head, &status);
    svq_count(&d->counters.completions, 1);
    if (error)
        svq_count(&d->counters.canaries_broken, 1);
    if (slot->job != d->job) {
        svq_count(&d->counters.late_completions, 1);
        return;
    }
    slot->job = 0;
    job->in_flight--;
    job->done_ns = svq_now_ns();
    if (job->results) {
        struct svq_drv_result *result = &job->results[slot->index];
        result->latency_ns = job->done_ns - slot->submitted_ns;
        result->error = error;
        result->used_len = used_len;
        result->status = status;
    }
    ended(job, status == SVQ_DRV_STATUS_OK ? slot->data_len : 0);
}

/*
 * Takes completions, at most one full ring of each queue. Returns how many, or the error of a queue whose device lied.
 */
static int reap(struct svq_drv *d, struct job *job)
{
    int count = 0;
    for (unsigned i = 0; i < d->config.queues; i++) {
        struct svq_drv_queue *q = &d->queues[i];
        for (uint32_t turn = 0; q->running && turn < q->ring.size; turn++) {
            uint16_t head = 0;
            uint32_t used_len = 0;
            int rc = svq_drv_ring_get(&q->ring, &head, &used_len);
            if (rc < 0)
                return rc;
            if (rc == 0)
                break;
            completed(d, job, q, head, used_len);
            count++;
        }
    }
    return count;
}

/* --- the loop -------------------------------------------------------------------------------------------- */

/* This run gives up what it leaves in flight: the caller's results may be gone when it completes. */
static void abandon(struct svq_drv *d)
{
    for (unsigned i = 0; i < d->config.queues; i++)
        for (uint32_t head = 0; head < d->queues[i].ring.size; head++)
            d->queues[i].slots[head].job = 0;
}

/* One turn. 0: go on; 1: all is done; else why the run ends. */
static int turn(struct svq_drv *d, struct job *job)
{
    uint32_t stop = svq_load_u32(&job->progress->stop);
    if (stop == SVQ_DRV_STOP_NOW)
        return -EINTR;
    while (!stop && job->next < job->n && job->in_flight < job->depth && submit_one(d, job))
        ;
    int rc = publish_all(d);
    if (rc < 0)
        return rc;
    rc = reap(d, job);
    svq_store_u32(&job->progress->in_flight, job->in_flight);
    if (rc != 0)
        return rc < 0 ? rc : 0;
    if (job->in_flight == 0 && (stop || job->next == job->n))
        return 1;
    uint64_t deadline_ns = job->done_ns + (uint64_t)d->config.timeout_ms * 1000000;
    if (svq_now_ns() >= deadline_ns)
        return -ETIMEDOUT;
    return svq_drv_wait(d, deadline_ns);
}

int svq_drv_run(struct svq_drv *d, const struct svq_drv_req *reqs, size_t n, unsigned depth,
                struct svq_drv_result *results, struct svq_drv_progress *progress)
{
    struct svq_drv_progress unwatched = { 0 };
    if (depth == 0)
        return -EINVAL;
    if (queues_running(d) == 0)
        return -ENOTCONN;
    struct job job = { .reqs = reqs, .n = n, .depth = depth, .results = results, .done_ns = svq_now_ns() };
    job.progress = progress ? progress : &unwatched;
    prepare_results(&job);
    d->job++;
    int rc = 0;
    while (rc == 0)
        rc = turn(d, &job);
    if (job.in_flight > 0)
        abandon(d);
    svq_store_u32(&job.progress->in_flight, job.in_flight);
    return rc < 0 ? rc : 0;
}
