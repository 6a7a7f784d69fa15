/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guests and devices: what the control plane creates, asks and closes. */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "suppress.h"

#ifdef SVQ_MUTATION
int svq_omitted_check;
#endif

int svq_guest_open(struct svq_hv *hv, const struct svq_guest_config *config, struct svq_guest **out)
{
    if (config->gfn_limit == 0 || config->window_frames == 0 || config->gfn_limit > UINT32_MAX)
        return -EINVAL;
    if (config->window_direct && (uint64_t)config->window_frames * SVQ_GRANTS_PER_FRAME < config->gfn_limit)
        return -EINVAL;
    struct svq_guest *guest = calloc(1, sizeof *guest);
    if (!guest)
        return -ENOMEM;
    guest->hv = hv;
    int rc = svq_guestmem_init(&guest->mem, hv, config->domid, config->gfn_limit);
    if (rc == 0)
        rc = svq_window_init(&guest->window, hv, config->domid, config->window_first_frame, config->window_frames,
                             config->window_direct);
    if (rc < 0) {
        svq_guest_close(guest);
        return rc;
    }
    guest->stale_revoked = svq_window_sweep(&guest->window, &guest->stale_mapped);
    *out = guest;
    return 0;
}

void svq_guest_close(struct svq_guest *guest)
{
    svq_window_destroy(&guest->window);
    svq_guestmem_destroy(&guest->mem);
    free(guest);
}

uint32_t svq_guest_window_first(const struct svq_guest *guest) { return guest->window.first_gref; }
uint32_t svq_guest_window_count(const struct svq_guest *guest) { return guest->window.count; }
uint32_t svq_guest_stale_revoked(const struct svq_guest *guest) { return guest->stale_revoked; }
uint32_t svq_guest_stale_mapped(const struct svq_guest *guest) { return guest->stale_mapped; }
uint32_t svq_guest_window_in_use(const struct svq_guest *guest) { return svq_window_in_use(&guest->window); }

int svq_device_create(struct svq_guest *guest, const struct svq_device_config *config, struct svq_device **out)
{
    if (config->num_queues == 0 || config->placement < SVQ_PLACE_EXACT || config->placement > SVQ_PLACE_COPY ||
        config->bounce_pages < 2 || config->large_chains == 0)
        return -EINVAL;
    struct svq_device *dev = calloc(1, sizeof *dev);
    if (!dev || !(dev->queues = calloc(config->num_queues, sizeof *dev->queues))) {
        free(dev);
        return -ENOMEM;
    }
    dev->guest = guest;
    dev->config = *config;
    for (uint16_t i = 0; i < config->num_queues; i++) {
        dev->queues[i].dev = dev;
        dev->queues[i].guest = guest;
        dev->queues[i].index = i;
    }
    *out = dev;
    return 0;
}

static struct svq_queue *queue_of(const struct svq_device *dev, uint16_t index)
{
    return index < dev->config.num_queues ? &dev->queues[index] : NULL;
}

/* The control thread's hold on a queue: nobody else touches it until `unlock_queue`. */
static void lock_queue(struct svq_queue *q)
{
    if (q->worker)
        svq_worker_lock(q->worker);
}

static void unlock_queue(struct svq_queue *q)
{
    if (q->worker)
        svq_worker_unlock(q->worker);
}

static void run_queue(struct svq_queue *q)
{
    lock_queue(q);
    if (q->state == SVQ_QUEUE_READY) {
        q->state = SVQ_QUEUE_RUNNING;
        svq_queue_disarm(q);
        if (q->worker)
            svq_worker_activate(q->worker, q);
    }
    unlock_queue(q);
}

int svq_device_start(struct svq_device *dev)
{
    for (uint16_t i = 0; i < dev->config.num_queues; i++)
        run_queue(&dev->queues[i]);
    return 0;
}

int svq_queue_drain(struct svq_device *dev, uint16_t index)
{
    struct svq_queue *q = queue_of(dev, index);
    if (!q)
        return -EINVAL;
    lock_queue(q);
    if (q->state == SVQ_QUEUE_RUNNING)
        q->state = SVQ_QUEUE_DRAINING;
    int alive = q->in_flight_count;
    unlock_queue(q);
    return alive;
}

int svq_queue_in_flight(struct svq_device *dev, uint16_t index)
{
    struct svq_queue *q = queue_of(dev, index);
    if (!q)
        return -EINVAL;
    lock_queue(q);
    int alive = q->in_flight_count;
    unlock_queue(q);
    return alive;
}

int svq_queue_reset(struct svq_device *dev, uint16_t index)
{
    struct svq_queue *q = queue_of(dev, index);
    if (!q || q->state == SVQ_QUEUE_EMPTY)
        return -EINVAL;
    lock_queue(q);
    /* A chain that the backend still has could not be told apart from a new one with the same head. */
    int rc = q->in_flight_count ? -EBUSY : 0;
    if (rc == 0) {
        svq_queue_unmap_rings(q);
        q->state = SVQ_QUEUE_STOPPED;
    }
    unlock_queue(q);
    return rc;
}

int svq_queue_restart(struct svq_device *dev, const struct svq_queue_config *config)
{
    struct svq_queue *q = queue_of(dev, config->index);
    if (!q || q->state != SVQ_QUEUE_STOPPED || config->size > q->size)
        return -EINVAL;
    lock_queue(q);
    int rc = svq_queue_map_rings(q, config);
    if (rc == 0)
        q->state = SVQ_QUEUE_READY;
    unlock_queue(q);
    if (rc == 0)
        run_queue(q);
    return rc;
}

/* A worker may be stopped once its devices are closed, so the guest must not remember it then. */
static void forget_worker(struct svq_guest *guest, const struct svq_worker *worker)
{
    if (guest->worker == worker && --guest->worker_queues == 0)
        guest->worker = NULL;
}

int svq_device_close(struct svq_device *dev)
{
    unsigned left = 0;
    for (uint16_t i = 0; i < dev->config.num_queues; i++) {
        struct svq_queue *q = &dev->queues[i];
        struct svq_worker *worker = q->worker;
        if (worker) {
            svq_worker_unbind_queue(worker, q);
            forget_worker(dev->guest, worker);
        }
        left += svq_queue_free(q);
    }
    free(dev->queues);
    free(dev);
    return (int)left;
}

void svq_device_fault(const struct svq_device *dev, struct svq_fault *out)
{
    memset(out, 0, sizeof *out);
    if (__atomic_load_n(&dev->fault.code, __ATOMIC_ACQUIRE))
        *out = dev->fault;
}

uint64_t svq_device_fault_count(const struct svq_device *dev, int code)
{
    if (code >= SVQ_ERR_BASE || code <= SVQ_E_LAST)
        return 0;
    return svq_load_u64(&dev->fault_counts[SVQ_ERR_BASE - code]);
}

int svq_queue_read_stats(const struct svq_device *dev, uint16_t index, struct svq_queue_stats *out)
{
    const struct svq_queue *q = queue_of(dev, index);
    if (!q)
        return -EINVAL;
    const uint64_t *from = (const uint64_t *)&q->stats;
    uint64_t *to = (uint64_t *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = svq_load_u64(&from[i]);
    return 0;
}

int svq_queue_forward(struct svq_device *dev, uint16_t index, unsigned budget)
{
    bool signal;
    struct svq_queue *q = queue_of(dev, index);
    return q ? svq_forward_pass(q, budget, &signal) : -EINVAL;
}

int svq_queue_complete(struct svq_device *dev, uint16_t index, unsigned budget)
{
    bool signal;
    struct svq_queue *q = queue_of(dev, index);
    return q ? svq_complete_pass(q, budget, &signal) : -EINVAL;
}
