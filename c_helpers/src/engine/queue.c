/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A queue's life: checks and maps the frontend's ring, makes the shadow ring, lets go of both. */
#include "engine.h"
#include "part.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DESC, AVAIL, USED, RING_PARTS };

struct ring_part {
    uint64_t gpa;
    uint64_t bytes;
    uint64_t align;
};

static void ring_parts(const struct svq_queue_config *config, struct ring_part part[RING_PARTS])
{
    part[DESC] = (struct ring_part){ config->desc_gpa, vring_desc_bytes(config->size), VRING_DESC_ALIGN };
    part[AVAIL] = (struct ring_part){ config->avail_gpa, vring_avail_bytes(config->size), VRING_AVAIL_ALIGN };
    part[USED] = (struct ring_part){ config->used_gpa, vring_used_bytes(config->size), VRING_USED_ALIGN };
}

static int refuse(struct svq_queue *q, int code, uint64_t value, uint64_t limit)
{
    return svq_fault_set(q, code, SVQ_NO_DESC, SVQ_NO_DESC, value, limit);
}

/* Checks what the frontend says about its ring: size, alignment, range, overlap. */
static int check_ring(struct svq_queue *q, const struct svq_queue_config *untrusted, const struct ring_part *part)
{
    uint64_t end = q->guest->mem.gfn_limit << SVQ_PAGE_SHIFT;
    uint16_t size = untrusted->size;
    if (SVQ_REJECTS(size == 0 || size & (size - 1) || size > SVQ_QUEUE_SIZE_MAX, SVQ_E_RING_SIZE))
        return refuse(q, SVQ_E_RING_SIZE, size, SVQ_QUEUE_SIZE_MAX);
    for (int i = 0; i < RING_PARTS; i++) {
        if (SVQ_REJECTS(part[i].gpa & (part[i].align - 1), SVQ_E_RING_ALIGN))
            return refuse(q, SVQ_E_RING_ALIGN, part[i].gpa, part[i].align);
        uint64_t part_end = part[i].gpa + part[i].bytes;
        if (SVQ_REJECTS(part_end < part[i].gpa || part_end > end, SVQ_E_RING_WRAP))
            return refuse(q, SVQ_E_RING_WRAP, part[i].gpa, end);
    }
    for (int i = 0; i < RING_PARTS; i++) {
        const struct ring_part *a = &part[i], *b = &part[(i + 1) % RING_PARTS];
        if (SVQ_REJECTS(a->gpa < b->gpa + b->bytes && b->gpa < a->gpa + a->bytes, SVQ_E_RING_OVERLAP))
            return refuse(q, SVQ_E_RING_OVERLAP, a->gpa, b->gpa);
    }
    return 0;
}

static uint64_t pages_of(const struct ring_part *part)
{
    return ((part->gpa + part->bytes - 1) >> SVQ_PAGE_SHIFT) - (part->gpa >> SVQ_PAGE_SHIFT) + 1;
}

static int map_part(struct svq_queue *q, int i, const struct ring_part *part)
{
    uint64_t gfns[SVQ_QUEUE_SIZE_MAX * 16 / SVQ_PAGE_SIZE + 1], pages = pages_of(part);
    int errs[SVQ_QUEUE_SIZE_MAX * 16 / SVQ_PAGE_SIZE + 1] = { 0 };
    for (uint64_t p = 0; p < pages; p++)
        gfns[p] = (part->gpa >> SVQ_PAGE_SHIFT) + p;
    int rc = svq_hv_map_foreign(q->guest->hv, q->guest->mem.domid, gfns, pages, 1, errs, &q->ring_maps[i]);
    if (rc < 0)
        return rc;
    for (uint64_t p = 0; p < pages && rc == 0; p++)
        if (SVQ_REJECTS(errs[p], SVQ_E_RING_NOT_RAM))
            rc = refuse(q, SVQ_E_RING_NOT_RAM, gfns[p], 0);
    if (rc == 0)
        rc = svq_guestmem_add_ring(&q->guest->mem, part->gpa, part->bytes);
    if (rc < 0) {
        /* unmap here: svq_queue_unmap_rings would also take away the protection of another ring on the same pages */
        svq_hv_unmap_foreign(q->guest->hv, q->ring_maps[i], pages);
        q->ring_maps[i] = NULL;
    }
    return rc;
}

int svq_queue_map_rings(struct svq_queue *q, const struct svq_queue_config *untrusted)
{
    struct ring_part part[RING_PARTS];
    ring_parts(untrusted, part);
    int rc = check_ring(q, untrusted, part);
    q->config = *untrusted;
    for (int i = 0; i < RING_PARTS && rc == 0; i++)
        rc = map_part(q, i, &part[i]);
    if (rc < 0) {
        svq_queue_unmap_rings(q);
        return rc;
    }
    uint8_t *at[RING_PARTS];
    for (int i = 0; i < RING_PARTS; i++)
        at[i] = (uint8_t *)q->ring_maps[i] + (part[i].gpa & (SVQ_PAGE_SIZE - 1));
    uint32_t slots = q->dev->config.bounce_pages / 2;
    q->source = (struct svq_chain_source){ .view = &q->view,
                                           .gpa_limit = q->guest->mem.gfn_limit << SVQ_PAGE_SHIFT,
                                           .table = (void *)at[DESC],
                                           .pages_max = slots < SVQ_PARTS_MAX ? slots : SVQ_PARTS_MAX,
                                           .size = untrusted->size,
                                           .indirect_negotiated = q->dev->config.frontend_indirect };
    q->avail = (void *)at[AVAIL];
    q->used = (void *)at[USED];
    q->next_avail = q->used_idx = q->used_signalled = 0;
    q->parked = false;
    return 0;
}

void svq_queue_unmap_rings(struct svq_queue *q)
{
    struct ring_part part[RING_PARTS];
    ring_parts(&q->config, part);
    for (int i = 0; i < RING_PARTS; i++) {
        if (!q->ring_maps[i])
            continue;
        svq_guestmem_remove_ring(&q->guest->mem, part[i].gpa, part[i].bytes);
        svq_hv_unmap_foreign(q->guest->hv, q->ring_maps[i], pages_of(&part[i]));
        q->ring_maps[i] = NULL;
    }
    q->source.table = NULL;
    q->avail = NULL;
    q->used = NULL;
}

static uint32_t shadow_pages(const struct svq_queue *q, int i)
{
    return i == DESC ? q->refs.desc_pages : i == AVAIL ? q->refs.avail_pages : q->refs.used_pages;
}

/* Descriptor table and available ring are read-only for the backend; only the used ring is writable. */
static int make_shadow_ring(struct svq_queue *q)
{
    q->refs.desc_pages = (uint32_t)svq_pages_for(vring_desc_bytes(q->size));
    q->refs.avail_pages = (uint32_t)svq_pages_for(vring_avail_bytes(q->size));
    q->refs.used_pages = (uint32_t)svq_pages_for(vring_used_bytes(q->size));
    uint32_t *refs[RING_PARTS] = { q->refs.desc_refs, q->refs.avail_refs, q->refs.used_refs };
    for (int i = 0; i < RING_PARTS; i++) {
        int rc = svq_arena_take(q->dev->arena, shadow_pages(q, i), i == USED, refs[i], &q->shadow_maps[i]);
        if (rc < 0)
            return rc;
    }
    q->shadow_desc = q->shadow_maps[DESC];
    q->shadow_avail = q->shadow_maps[AVAIL];
    q->shadow_used = q->shadow_maps[USED];
    return 0;
}

static int make_blocks(struct svq_queue *q)
{
    const uint32_t parts[SVQ_BLOCK_CLASSES] = { SVQ_TINY_PARTS, SVQ_MID_PARTS, SVQ_PARTS_MAX };
    const uint32_t count[SVQ_BLOCK_CLASSES] = { q->size, q->size > 4 ? q->size / 4u : 1, q->dev->config.large_chains };
    for (int c = 0; c < SVQ_BLOCK_CLASSES; c++) {
        struct svq_block_class *class = &q->blocks[c];
        uint32_t shift = (uint32_t)__builtin_ctz(parts[c]) + 4; /* 16 bytes a descriptor */
        int rc = svq_slots_init(&class->tables, q->dev->arena, shift, count[c], 0);
        if (rc < 0)
            return rc;
        class->parts_per_block = parts[c];
        class->parts = calloc((size_t)parts[c] * count[c], sizeof *class->parts);
        if (!class->parts)
            return -ENOMEM;
    }
    return 0;
}

static int make_pools(struct svq_queue *q)
{
    const struct svq_device_config *config = &q->dev->config;
    q->in_flight = calloc(q->size, sizeof *q->in_flight);
    if (!q->in_flight)
        return -ENOMEM;
    uint32_t small = q->size * 2u;
    int rc = svq_bounce_init(&q->bounce, q->dev->arena, small, config->bounce_pages / 2);
    return rc < 0 ? rc : make_blocks(q);
}

/*
 * Ends all chains in flight as far as possible, and lets go of the frontend's rings: from now on we touch nothing of a
 * driver that has its buffers back. Chains with pages that the backend has mapped stay in flight. Returns the number of
 * pages held; may be called again.
 */
unsigned svq_queue_stop(struct svq_queue *q)
{
    unsigned held = 0;
    int code = 0;
    for (uint32_t head = 0; q->in_flight && head < q->size; head++) {
        struct svq_in_flight *entry = &q->in_flight[head];
        if (!entry->live)
            continue;
        unsigned of_chain = svq_unplace_chain(q, entry, &code);
        held += of_chain;
        entry->traced = 0;
        if (of_chain && q->state != SVQ_QUEUE_STOPPED)
            svq_trace_note(q, SVQ_TRACE_HELD, (uint16_t)head, code, entry, 0);
        entry->live = of_chain != 0;
        q->in_flight_count -= of_chain == 0;
    }
    svq_queue_unmap_rings(q);
    svq_publish_tally(q);
    if (q->state != SVQ_QUEUE_EMPTY)
        q->state = SVQ_QUEUE_STOPPED;
    return held;
}

void svq_queue_grantee_gone(struct svq_queue *q)
{
    for (uint32_t head = 0; q->in_flight && head < q->size; head++) {
        struct svq_in_flight *entry = &q->in_flight[head];
        struct svq_part *parts = svq_in_flight_parts(q, entry);
        for (uint32_t i = 0; entry->live && i < entry->part_count; i++)
            parts[i].lost = 0;
    }
}

/* Frees all that svq_queue_setup made, however far it got. The queue must be stopped. Safe on an empty queue. */
static void free_queue(struct svq_queue *q)
{
    svq_queue_unmap_rings(q);
    for (int i = 0; i < RING_PARTS; i++) {
        svq_arena_give(q->dev->arena, q->shadow_maps[i]);
        q->shadow_maps[i] = NULL;
    }
    svq_bounce_destroy(&q->bounce);
    for (int c = 0; c < SVQ_BLOCK_CLASSES; c++) {
        svq_slots_destroy(&q->blocks[c].tables);
        free(q->blocks[c].parts);
        q->blocks[c].parts = NULL;
    }
    free(q->in_flight);
    q->in_flight = NULL;
    q->state = SVQ_QUEUE_EMPTY;
}

static int share_window(void *window)
{
    ((struct svq_window *)window)->alone = false;
    return 0;
}

void svq_window_share(struct svq_window *window)
{
    if (!window->alone)
        return;
    if (window->worker)
        svq_worker_call(window->worker, share_window, window);
    else
        share_window(window);
}

/* From the second worker on, a window's entries are contended. */
static void note_worker(struct svq_window *window, struct svq_worker *worker)
{
    if (!window->worker)
        window->worker = worker;
    if (window->worker != worker)
        svq_window_share(window);
}

int svq_queue_setup(struct svq_device *dev, struct svq_worker *worker, const struct svq_queue_config *config,
                    struct svq_queue_refs *refs)
{
    if (config->index >= dev->config.num_queues || dev->queues[config->index].state != SVQ_QUEUE_EMPTY)
        return -EINVAL;
    struct svq_queue *q = &dev->queues[config->index];
    if (!q->chain && !(q->chain = calloc(1, sizeof *q->chain)))
        return -ENOMEM;
    int rc = svq_queue_map_rings(q, config);
    if (rc == 0) {
        q->size = config->size;
        q->mask = (uint16_t)(config->size - 1);
        q->frontend_event_idx = dev->config.frontend_event_idx;
        q->backend_event_idx = dev->config.backend_event_idx;
        rc = make_shadow_ring(q);
    }
    if (rc == 0)
        rc = make_pools(q);
    if (rc == 0) {
        q->state = SVQ_QUEUE_READY; /* from svq_worker_bind_queue on, the worker reads it */
        rc = worker ? svq_worker_bind_queue(worker, q) : 0;
    }
    if (rc < 0) {
        free_queue(q);
        return rc;
    }
    if (worker)
        note_worker(dev->window, worker);
    *refs = q->refs;
    return 0;
}

void svq_queue_free(struct svq_queue *q)
{
    free_queue(q);
    free(q->chain);
    q->chain = NULL;
}
