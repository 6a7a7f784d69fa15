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
    if (config->gfn_limit == 0 || config->gfn_limit > UINT32_MAX || config->memory < SVQ_MEMORY_FIXED ||
        config->memory > SVQ_MEMORY_REMAP)
        return -EINVAL;
    struct svq_guest *guest = calloc(1, sizeof *guest);
    if (!guest)
        return -ENOMEM;
    guest->hv = hv;
    int rc = svq_guestmem_init(&guest->mem, hv, config->domid, config->gfn_limit, config->memory == SVQ_MEMORY_FIXED);
    if (rc < 0) {
        free(guest);
        return rc;
    }
    *out = guest;
    return 0;
}

void svq_guest_close(struct svq_guest *guest)
{
    svq_guestmem_destroy(&guest->mem);
    free(guest);
}

static bool same_window(const struct svq_window_config *a, const struct svq_window_config *b)
{
    return a->first_gref == b->first_gref && a->count == b->count && a->direct == b->direct && a->guarded == b->guarded;
}

static bool overlap(const struct svq_window *a, const struct svq_window *b)
{
    return a->first_gref < b->first_gref + b->count && b->first_gref < a->first_gref + a->count;
}

/*
 * The control plane may have given devices of one guest some entries in common, in windows of two kinds: then no thread
 * takes those entries alone.
 */
static void note_overlaps(struct svq_guest *guest, struct svq_window *fresh)
{
    for (struct svq_window *other = guest->windows; other; other = other->next) {
        if (!overlap(other, fresh))
            continue;
        svq_window_share(other);
        svq_window_share(fresh);
    }
}

/* The guest's window with that description: its devices share it, and its mapping. */
static int acquire_window(struct svq_guest *guest, const struct svq_window_config *config, struct svq_window **out)
{
    for (*out = guest->windows; *out && !same_window(&(*out)->config, config); *out = (*out)->next)
        ;
    if (!*out) {
        struct svq_window *window = calloc(1, sizeof *window);
        if (!window)
            return -ENOMEM;
        int rc = svq_window_init(window, guest->hv, guest->mem.domid, config);
        if (rc < 0) {
            free(window);
            return rc;
        }
        note_overlaps(guest, window);
        window->next = guest->windows;
        *out = guest->windows = window;
    }
    (*out)->users++;
    return 0;
}

static void release_window(struct svq_guest *guest, struct svq_window *window)
{
    if (--window->users)
        return;
    struct svq_window **link = &guest->windows;
    while (*link != window)
        link = &(*link)->next;
    *link = window->next;
    svq_window_destroy(window);
    free(window);
}

static bool config_is_valid(const struct svq_guest *guest, const struct svq_device_config *config)
{
    return config->num_queues && config->placement >= SVQ_PLACE_EXACT && config->placement <= SVQ_PLACE_COPY &&
           config->bounce_pages >= 2 && config->large_chains && config->mark && config->mark <= SVQ_MARK_MAX &&
           (!config->window.direct || config->window.count >= guest->mem.gfn_limit);
}

/* Where its search for free entries begins: queues that begin apart do not meet. */
static uint32_t first_cursor(const struct svq_device *dev, uint16_t index)
{
    uint32_t number = (uint32_t)dev->config.mark * 64u + index;
    return dev->window->count ? (uint32_t)((uint64_t)number * 2654435761u % dev->window->count) : 0;
}

int svq_device_create(struct svq_guest *guest, const struct svq_device_config *config, struct svq_device **out)
{
    if (!config_is_valid(guest, config))
        return -EINVAL;
    struct svq_device *dev = calloc(1, sizeof *dev);
    if (!dev || !(dev->queues = calloc(config->num_queues, sizeof *dev->queues))) {
        free(dev);
        return -ENOMEM;
    }
    dev->guest = guest;
    dev->config = *config;
    dev->arena = config->arena;
    int rc = dev->arena ? 0 : svq_arena_open(guest->hv, config->backend_domid, &dev->arena);
    rc = rc < 0 ? rc : acquire_window(guest, &config->window, &dev->window);
    if (rc < 0) {
        if (!config->arena)
            svq_arena_close(dev->arena);
        free(dev->queues);
        free(dev);
        return rc;
    }
    for (uint16_t i = 0; i < config->num_queues; i++) {
        struct svq_queue *q = &dev->queues[i];
        q->dev = dev;
        q->guest = guest;
        q->window = dev->window;
        q->view.mem = &guest->mem;
        q->index = i;
        q->cursor = first_cursor(dev, i);
        for (int writable = 0; writable < 2; writable++)
            q->granted[writable] = svq_entry_granted(config->backend_domid, 0, writable, config->mark);
        q->exact = config->placement == SVQ_PLACE_EXACT;
        q->grants_pages = config->copy_threshold <= SVQ_PAGE_SIZE;
        q->clears = config->clear;
        q->direct = config->window.direct;
    }
    *out = dev;
    return 0;
}

static struct svq_queue *queue_of(const struct svq_device *dev, uint16_t index)
{
    return index < dev->config.num_queues ? &dev->queues[index] : NULL;
}

/* Only the worker may touch a queue that it serves, so it does this for the control thread. */
static int call_with(struct svq_queue *q, int (*run)(void *arg), void *arg)
{
    return q->worker ? svq_worker_call(q->worker, run, arg) : run(arg);
}

static int call(struct svq_queue *q, int (*run)(void *queue)) { return call_with(q, run, q); }

static int start_queue(void *queue)
{
    struct svq_queue *q = queue;
    if (q->state == SVQ_QUEUE_READY) {
        q->state = SVQ_QUEUE_RUNNING;
        svq_queue_disarm(q);
        if (q->worker)
            svq_worker_activate(q->worker, q);
    }
    return 0;
}

int svq_device_start(struct svq_device *dev)
{
    for (uint16_t i = 0; i < dev->config.num_queues; i++)
        call(&dev->queues[i], start_queue);
    return 0;
}

static int count_in_flight(void *queue) { return ((const struct svq_queue *)queue)->in_flight_count; }

static int drain_queue(void *queue)
{
    struct svq_queue *q = queue;
    if (q->state == SVQ_QUEUE_RUNNING)
        q->state = SVQ_QUEUE_DRAINING;
    return q->in_flight_count;
}

int svq_queue_drain(struct svq_device *dev, uint16_t index)
{
    struct svq_queue *q = queue_of(dev, index);
    return q ? call(q, drain_queue) : -EINVAL;
}

int svq_queue_in_flight(struct svq_device *dev, uint16_t index)
{
    struct svq_queue *q = queue_of(dev, index);
    return q ? call(q, count_in_flight) : -EINVAL;
}

/* We could not tell a chain that the backend still has from a new one with the same head. */
static int stop_empty_queue(void *queue)
{
    struct svq_queue *q = queue;
    if (q->in_flight_count)
        return -EBUSY;
    q->state = SVQ_QUEUE_STOPPED; /* from now on the worker ignores its rings */
    return 0;
}

int svq_queue_reset(struct svq_device *dev, uint16_t index)
{
    struct svq_queue *q = queue_of(dev, index);
    if (!q || q->state == SVQ_QUEUE_EMPTY)
        return -EINVAL;
    int rc = call(q, stop_empty_queue);
    if (rc == 0)
        svq_queue_unmap_rings(q);
    return rc;
}

static int restart_queue(void *queue)
{
    ((struct svq_queue *)queue)->state = SVQ_QUEUE_READY;
    return start_queue(queue);
}

int svq_queue_restart(struct svq_device *dev, const struct svq_queue_config *config)
{
    struct svq_queue *q = queue_of(dev, config->index);
    if (!q || q->state != SVQ_QUEUE_STOPPED || config->size > q->size)
        return -EINVAL;
    int rc = svq_queue_map_rings(q, config);
    return rc < 0 ? rc : call(q, restart_queue);
}

int svq_device_stop(struct svq_device *dev)
{
    unsigned held = 0;
    for (uint16_t i = 0; i < dev->config.num_queues; i++) {
        struct svq_queue *q = &dev->queues[i];
        if (q->worker)
            svq_worker_unbind_queue(q->worker, q);
    }
    for (uint16_t i = 0; i < dev->config.num_queues; i++) /* now that no queue takes chains any more */
        held += svq_queue_stop(&dev->queues[i]);
    return (int)held;
}

void svq_device_grantee_gone(struct svq_device *dev)
{
    for (uint16_t i = 0; i < dev->config.num_queues; i++)
        svq_queue_grantee_gone(&dev->queues[i]);
}

static void copy_live(const struct svq_queue *q, uint8_t *bits)
{
    for (uint32_t head = 0; q->in_flight && head < q->size; head++)
        bits[head / 8] |= (uint8_t)(q->in_flight[head].live << head % 8);
}

int svq_queue_held(const struct svq_device *dev, uint16_t index, uint8_t *bits, size_t bytes_max)
{
    const struct svq_queue *q = queue_of(dev, index);
    size_t bytes = q ? (q->size + 7u) / 8 : 0;
    if (!q || bytes > bytes_max)
        return -EINVAL;
    memset(bits, 0, bytes);
    copy_live(q, bits);
    return (int)bytes;
}

int svq_device_close(struct svq_device *dev)
{
    int held = svq_device_stop(dev);
    for (uint16_t i = 0; i < dev->config.num_queues; i++)
        svq_queue_free(&dev->queues[i]);
    release_window(dev->guest, dev->window);
    if (!dev->config.arena)
        svq_arena_close(dev->arena);
    free(dev->queues);
    free(dev);
    return held;
}

uint32_t svq_device_window_in_use(const struct svq_device *dev)
{
    return svq_window_in_use(dev->window, dev->config.mark);
}

int svq_device_window_lost(const struct svq_device *dev) { return svq_window_is_lost(dev->window); }

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

struct every {
    struct svq_queue *q;
    uint32_t every;
};

static int set_every(void *arg)
{
    const struct every *every = arg;
    svq_trace_set_every(&every->q->trace, every->every);
    return 0;
}

int svq_queue_trace_every(struct svq_device *dev, uint16_t index, uint32_t every)
{
    struct every arg = { queue_of(dev, index), every };
    return arg.q ? call_with(arg.q, set_every, &arg) : -EINVAL;
}

int svq_queue_read_trace(const struct svq_device *dev, uint16_t index, struct svq_trace_entry out[SVQ_TRACE_ENTRIES])
{
    const struct svq_queue *q = queue_of(dev, index);
    return q ? svq_trace_read(&q->trace, out) : -EINVAL;
}

struct snapshot {
    struct svq_queue *q;
    struct svq_queue_snapshot *out;
};

static int take_snapshot(void *arg)
{
    const struct snapshot *snapshot = arg;
    const struct svq_queue *q = snapshot->q;
    *snapshot->out = (struct svq_queue_snapshot){
        .state = q->state,
        .parked = q->parked,
        .size = q->size,
        .in_flight = q->in_flight_count,
        .untrusted_avail_idx = q->avail ? svq_load_u16(&q->avail->idx) : q->next_avail,
        .taken_idx = q->next_avail,
        .untrusted_used_idx = q->state == SVQ_QUEUE_EMPTY ? 0 : svq_load_u16(&q->shadow_used->idx),
        .completed_idx = q->shadow_used_seen,
    };
    copy_live(q, snapshot->out->live);
    return 0;
}

int svq_queue_read_snapshot(struct svq_device *dev, uint16_t index, struct svq_queue_snapshot *out)
{
    struct snapshot arg = { queue_of(dev, index), out };
    return arg.q ? call_with(arg.q, take_snapshot, &arg) : -EINVAL;
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
