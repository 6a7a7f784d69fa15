/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's private structures. Data flows one way: driver's ring -> chain (chain.c) -> parts (placement.c) ->
 * shadow ring (forward.c), and back (complete.c).
 *
 * A queue is touched by one thread at a time: its worker, or the control thread while it holds the worker's lock.
 */
#ifndef SVQ_ENGINE_H
#define SVQ_ENGINE_H

#include "bounce.h"
#include "chain.h"
#include "svq.h"
#include "window.h"

enum {
    SVQ_TINY_PARTS = 4,
    SVQ_MID_PARTS = 32,
    SVQ_NO_DESC = 0xffff,
    SVQ_ERR_CODES = SVQ_ERR_BASE - SVQ_E_LAST,
    SVQ_FULL = -2000, /* not an error: no slot, block or gref is free now */
};

struct svq_guest {
    struct svq_guestmem mem;
    struct svq_window window;
    struct svq_hv *hv;
    uint32_t stale_revoked, stale_mapped; /* see svq_window_sweep */
    struct svq_worker *worker; /* the first that served a queue of this guest; NULL: none does */
    uint32_t worker_queues;    /* how many it serves */
};

/* Where a piece of a segment went. Kept for the way back: the shadow descriptors are never read again. */
enum { SVQ_GRANTED = SVQ_POOLS };

struct svq_part {
    uint64_t gpa;
    uint32_t len;
    uint32_t ref;     /* first gref, or slot number */
    uint32_t pages;   /* of a grant */
    uint8_t where;    /* enum svq_pool, or SVQ_GRANTED */
    uint8_t writable;
};

/* What passes did since their counters were last made public: plain words, one reader. */
struct svq_tally {
    uint64_t segments, parts, zero_copy, bounced, grants, revokes;
};

/* A chain at the backend. A chain of one part keeps it here and needs one shadow descriptor; others have a block. */
struct svq_in_flight {
    uint32_t writable_bytes;
    uint16_t part_count;
    uint16_t block;
    uint8_t live;
    uint8_t block_class; /* SVQ_NO_BLOCK: the part is here */
    struct svq_part part;
};

/* Blocks of one size: a shadow indirect table in shared memory, and beside it our private record of the parts. */
struct svq_block_class {
    struct svq_slots tables;
    struct svq_part *parts;
    uint32_t parts_per_block;
};
enum { SVQ_BLOCK_CLASSES = 3, SVQ_NO_BLOCK = 0xff };

enum svq_queue_state { SVQ_QUEUE_EMPTY, SVQ_QUEUE_READY, SVQ_QUEUE_RUNNING, SVQ_QUEUE_DRAINING, SVQ_QUEUE_STOPPED };

/* Adaptive answer to event storms (XSA-391): events without work earn the peer a growing pause. */
struct svq_leg_events {
    uint32_t port; /* local; 0: none */
    uint32_t spurious_row;
    uint64_t moved;        /* chains since the last event */
    uint64_t unmask_at_ns; /* 0: not held back */
};
enum { SVQ_LEG_FRONTEND, SVQ_LEG_BACKEND };

struct svq_queue {
    struct svq_device *dev;
    struct svq_guest *guest;
    uint16_t index, size, mask; /* of the shadow ring; the driver's may be smaller after a reset: svq_driver_size */
    uint8_t state;
    bool frontend_event_idx, backend_event_idx;

    /* leg 1: shared with the frontend */
    struct svq_chain_source source;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t next_avail;    /* next entry of avail to take */
    uint16_t used_idx;      /* our used->idx; the shared word is only written */
    uint16_t used_signalled;

    /* leg 2: shared with the backend */
    struct vring_desc *shadow_desc;
    struct vring_avail *shadow_avail;
    struct vring_used *shadow_used;
    uint16_t shadow_avail_idx;
    uint16_t shadow_avail_signalled;
    uint16_t shadow_used_seen;
    uint16_t in_flight_count;
    bool parked; /* the next chain waits for a completion of ours */

    struct svq_in_flight *in_flight; /* by head */
    struct svq_bounce bounce;
    struct svq_block_class blocks[SVQ_BLOCK_CLASSES];
    struct svq_window_range range;
    struct svq_chain *chain;
    struct svq_tally tally;
    struct svq_queue_stats stats;

    struct svq_queue_config config;
    struct svq_queue_refs refs;
    void *ring_maps[3]; /* desc, avail, used of the frontend, page-aligned */
    void *shadow_maps[3];

    struct svq_worker *worker;
    struct svq_leg_events leg[2];
    struct svq_queue *next_active;
    bool active;
    uint64_t idle_since_ns;
};

struct svq_device {
    struct svq_guest *guest;
    struct svq_device_config config;
    struct svq_queue *queues;
    struct svq_fault fault;
    int broken; /* latched: the first fault's code, 0 while well */
    uint64_t fault_counts[SVQ_ERR_CODES];
};

static inline int svq_device_broken(const struct svq_device *dev)
{
    return __atomic_load_n(&dev->broken, __ATOMIC_RELAXED);
}

/* Latches the device as broken, keeps the first fault for the operator, counts them all. Returns `code`. */
int svq_fault_set(struct svq_queue *q, int code, uint16_t head, uint16_t desc, uint64_t value, uint64_t limit);

/*
 * placement.c: splits q->chain into parts, takes what they need, and writes their shadow descriptors: one direct, or one
 * that refers to a shadow indirect table. Fills `entry`, the in-flight record of q->chain->head. 0, SVQ_FULL or
 * enum svq_err; all or nothing.
 */
int svq_place_chain(struct svq_queue *q, struct svq_in_flight *entry);
/*
 * Gives back all that a placed chain holds, without copying anything to the driver. Returns the grants that could not be
 * ended (*code says why): then the entry still holds those, and may be given here again.
 */
unsigned svq_unplace_chain(struct svq_queue *q, struct svq_in_flight *entry, int *code);
static inline void svq_give_block(struct svq_queue *q, const struct svq_in_flight *entry)
{
    if (entry->block_class != SVQ_NO_BLOCK)
        svq_slots_give(&q->blocks[entry->block_class].tables, entry->block);
}
/*
 * Ends the grants of a part. Returns how many pages could not be ended; *code says why, and is left alone if all could.
 * The part then is those pages and no others, so that no page is ended twice: someone else may have it granted by then.
 */
unsigned svq_end_grants(struct svq_queue *q, struct svq_part *part, int *code);

static inline uint8_t *svq_part_va(const struct svq_queue *q, const struct svq_part *part) /* of a bounced one */
{
    return svq_slots_va(&q->bounce.pool[part->where], part->ref);
}

/*
 * Slots hold nothing between requests: neither the driver's bytes for the backend to find, nor the device's for a driver
 * to be given when the backend claims to have written more than it did (XSA-403: bounce into zeroed pages).
 */
static inline void svq_part_give_slot(struct svq_queue *q, const struct svq_part *part)
{
    struct svq_slots *slots = &q->bounce.pool[part->where];
    uint8_t *va = svq_slots_va(slots, part->ref);
    if (part->where <= SVQ_SMALL_WRITABLE)
        __builtin_memset(va, 0, SVQ_SMALL_BYTES);
    else
        __builtin_memset(va, 0, part->where == SVQ_PAGE_WRITABLE ? SVQ_PAGE_SIZE : part->len);
    svq_slots_give(slots, part->ref);
}

/* Ends the grant of page `i` of a part. */
static inline enum svq_revoke svq_end_page(struct svq_queue *q, const struct svq_part *part, uint32_t i)
{
    struct svq_window *window = &q->guest->window;
    uint64_t gfn = part->gpa >> SVQ_PAGE_SHIFT;
    enum svq_revoke outcome =
        svq_window_revoke(window, part->ref + i, q->dev->config.backend_domid, gfn + i, part->writable);
    if (outcome == SVQ_REVOKED && !window->direct)
        svq_window_free_gref(window, &q->range, part->ref + i);
    return outcome;
}

/* Makes what a pass did visible to readers of the statistics. */
static inline void svq_publish_tally(struct svq_queue *q)
{
    svq_count(&q->stats.segments, q->tally.segments);
    svq_count(&q->stats.parts, q->tally.parts);
    svq_count(&q->stats.bytes_zero_copy, q->tally.zero_copy);
    svq_count(&q->stats.bytes_bounced, q->tally.bounced);
    svq_count(&q->stats.grants, q->tally.grants);
    svq_count(&q->stats.revokes, q->tally.revokes);
    q->tally = (struct svq_tally){ 0 };
}

/* Of the driver's own ring, as it is now: a power of two, no larger than the shadow ring (virtio 2.6.1). */
static inline uint16_t svq_driver_size(const struct svq_queue *q)
{
    return q->source.size;
}

/* Does it move descriptors, in at least one direction? Only then are both its rings mapped. */
static inline bool svq_queue_is_live(const struct svq_queue *q)
{
    return q->state == SVQ_QUEUE_RUNNING || q->state == SVQ_QUEUE_DRAINING;
}

static inline struct svq_part *svq_in_flight_parts(struct svq_queue *q, struct svq_in_flight *entry)
{
    if (entry->block_class == SVQ_NO_BLOCK)
        return &entry->part;
    struct svq_block_class *class = &q->blocks[entry->block_class];
    return class->parts + (size_t)entry->block * class->parts_per_block;
}

/* forward.c, complete.c: one pass each; see svq.h. `signal` tells whether the peer asked to be notified. */
int svq_forward_pass(struct svq_queue *q, unsigned budget, bool *signal);
int svq_complete_pass(struct svq_queue *q, unsigned budget, bool *signal);

/* queue.c */
int svq_queue_map_rings(struct svq_queue *q, const struct svq_queue_config *config);
void svq_queue_unmap_rings(struct svq_queue *q);
unsigned svq_queue_abandon_in_flight(struct svq_queue *q);
unsigned svq_queue_free(struct svq_queue *q);

/* worker.c: the control thread's side of a worker. */
void svq_worker_lock(struct svq_worker *worker);
void svq_worker_unlock(struct svq_worker *worker);
int svq_worker_bind_queue(struct svq_worker *worker, struct svq_queue *q);
void svq_worker_unbind_queue(struct svq_worker *worker, struct svq_queue *q);
void svq_worker_activate(struct svq_worker *worker, struct svq_queue *q);

#endif
