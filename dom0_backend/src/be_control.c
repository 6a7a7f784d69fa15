/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the control plane asks of a device: the device's thread runs these calls, so the data plane needs no locks. */
#include <string.h>
#include <sys/eventfd.h>

#include "barrier.h"
#include "be_device.h"

int svq_be_in_thread(struct svq_be_device *dev, int (*function)(struct svq_be_device *, void *), void *argument)
{
    struct svq_be_call call = { .function = function, .argument = argument };
    if (!dev->running)
        return function(dev, argument);
    pthread_mutex_lock(&dev->lock);
    dev->call = &call;
    atomic_store_explicit(&dev->call_pending, true, memory_order_release);
    eventfd_write(dev->control_fd, 1);
    while (!call.done)
        pthread_cond_wait(&dev->answered, &dev->lock);
    pthread_mutex_unlock(&dev->lock);
    return call.answer;
}

void svq_be_answer_call(struct svq_be_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    struct svq_be_call *call = dev->call;
    dev->call = NULL;
    atomic_store_explicit(&dev->call_pending, false, memory_order_release);
    pthread_mutex_unlock(&dev->lock);
    if (!call)
        return;
    int answer = call->function(dev, call->argument); /* without the lock: it may report a fault */
    pthread_mutex_lock(&dev->lock);
    call->answer = answer;
    call->done = true;
    pthread_cond_signal(&dev->answered);
    pthread_mutex_unlock(&dev->lock);
}

static int set_hold(struct svq_be_device *dev, void *argument)
{
    dev->hold = *(const int *)argument;
    dev->map.map_all = dev->hold;
    if (!dev->hold)
        svq_be_release_held(dev);
    return 0;
}

int svq_be_hold(struct svq_be_device *dev, int on) { return svq_be_in_thread(dev, set_hold, &on); }

static int set_capacity(struct svq_be_device *dev, void *argument)
{
    dev->blk.capacity = *(const uint64_t *)argument;
    return 0;
}

void svq_be_set_capacity(struct svq_be_device *dev, uint64_t bytes) { svq_be_in_thread(dev, set_capacity, &bytes); }

struct listing {
    struct svq_be_part *parts;
    size_t max;
    size_t count;
};

static void list_request(struct svq_be_device *dev, const struct svq_be_req *req, struct listing *listing)
{
    for (uint32_t i = 0; i < req->chain.count; i++) {
        const struct svq_be_seg *seg = &req->chain.segs[i];
        size_t at = listing->count++;
        if (at >= listing->max)
            continue;
        listing->parts[at] = (struct svq_be_part){
            .gref = seg->gref,
            .offset = seg->offset,
            .length = seg->length,
            .owner = seg->in_window ? dev->config.window_owner : dev->config.mediator_domid,
            .queue = req->queue,
            .head = req->head,
            .writable = seg->writable,
            .held = req->state == SVQ_BE_REQ_HELD,
        };
    }
}

static int list_live(struct svq_be_device *dev, void *argument)
{
    for (uint32_t i = 0; i < dev->config.max_requests; i++) {
        if (dev->requests[i].state != SVQ_BE_REQ_FREE)
            list_request(dev, &dev->requests[i], argument);
    }
    return 0;
}

int svq_be_live_parts(struct svq_be_device *dev, struct svq_be_part *parts, size_t max)
{
    struct listing listing = { .parts = parts, .max = max };
    svq_be_in_thread(dev, list_live, &listing);
    return (int)listing.count;
}

void svq_be_read_stats(const struct svq_be_device *dev, struct svq_be_stats *out)
{
    const size_t words = offsetof(struct svq_be_stats, io_engine) / sizeof(uint64_t);
    const uint64_t *from = (const uint64_t *)(const void *)&dev->stats;
    uint64_t *to = (uint64_t *)(void *)out;
    for (size_t i = 0; i < words; i++)
        to[i] = svq_load_u64(&from[i]);
    out->io_engine = dev->stats.io_engine; /* fixed since create */
    out->io_engine_errno = dev->stats.io_engine_errno;
    out->direct_io = dev->stats.direct_io;
}

void svq_be_read_crossover(const struct svq_be_device *dev, struct svq_be_crossover *out) { *out = dev->crossover; }

int svq_be_error_fd(const struct svq_be_device *dev) { return dev->error_fd; }

int svq_be_read_error(const struct svq_be_device *dev, struct svq_be_error *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&dev->lock; /* the device is const only for the caller */

    pthread_mutex_lock(lock);
    *out = dev->error;
    pthread_mutex_unlock(lock);
    return out->fault != SVQ_BE_FAULT_NONE;
}
