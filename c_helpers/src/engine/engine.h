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
#include "trace.h"
#include "window.h"

enum {
    SVQ_TINY_PARTS = 4,
    SVQ_MID_PARTS = 32,
    SVQ_NO_DESC = 0xffff,
    SVQ_ERR_CODES = SVQ_ERR_BASE - SVQ_E_LAST,
    SVQ_FULL = -2000,        /* not an error: no slot or block is free now */
    SVQ_AGAIN = -2001,       /* not an error: this pass has done enough */
    SVQ_PASS_CHAINS = 64,    /* what one pass may do before others have their turn: chains, ... */
    SVQ_PASS_PAGES = 128,    /* ... pages that they touch, or other work that costs as much, ... */
    SVQ_MAP_PAGES = 64,      /* ... where a call that maps something counts as this many, ... */
    SVQ_PASS_NS = 50 * 1000, /* ... and time, checked every few pages. The chain that exceeds a limit is the last */
    SVQ_LOOK_PAGES = 32,
    SVQ_PASS_MAPS = 16,   /* a pass ends after this many calls that map a page for the pass alone */
    SVQ_PASS_CHUNKS = 1,  /* calls that map a chunk for good; a chain that needs one more waits for the next pass */
    SVQ_LOOK_PASSES = 16, /* look at the guard below an unreserved window every so many passes */
};

struct svq_guest {
    struct svq_guestmem mem;
    struct svq_window *windows; /* the windows that its devices use, each once */
    struct svq_hv *hv;
};

/* Where a piece of a segment went. Kept for the way back: we never read the shadow descriptors again. */
enum { SVQ_GRANTED = SVQ_POOLS };

struct svq_part {
    uint64_t gpa;
    uint32_t len;
    uint32_t ref;  /* first gref, or slot number */
    uint8_t where; /* enum svq_pool, or SVQ_GRANTED */
    uint8_t writable;
    uint16_t pages;      /* of a grant, like the rest */
    uint16_t held;       /* pages held after the last try to end the grant; 0: not tried, or all ended */
    uint16_t lost : 15;  /* entries that the frontend overwrote in a window that it did not reserve: count as held */
    uint16_t fought : 1; /* some of the held may still be grants (SVQ_FOUGHT) */
};

/* What passes did since their counters were last made public: plain words, one reader. */
struct svq_tally {
    uint64_t segments, parts, zero_copy, bounced, grants, grants_ended;
};

/* A chain at the backend. A chain of one part keeps it here and needs one shadow descriptor; others have a block. */
struct svq_in_flight {
    uint32_t writable_bytes;
    uint16_t pages; /* pages that it touches: what ending it costs */
    uint16_t part_count;
    uint16_t block;
    uint8_t block_class; /* SVQ_NO_BLOCK: the part is in this struct */
    uint8_t live;
    uint8_t copied; /* some of its parts are bounced */
    uint8_t traced; /* its completion is noted as well */
    struct svq_part part;
};

/* Blocks of one size: a shadow indirect table in shared memory, with our private record of the parts beside it. */
struct svq_block_class {
    struct svq_slots tables;
    struct svq_part *parts;
    uint32_t parts_per_block;
};
enum { SVQ_BLOCK_CLASSES = 3, SVQ_NO_BLOCK = 0xff };

/*
 * What the next chain lacks while its queue is parked: we do not try it again before that much is there. The first time
 * that is what it ran out of; the second time, the most that it can need. So we place no chain in vain more than twice.
 */
struct svq_lack {
    uint32_t attempts; /* attempts to place this chain so far */
    uint32_t parts;    /* parts that a block must have room for; 0: it does not lack a block */
    uint32_t slots[2]; /* in the page pools, by direction */
};

/* Adaptive defence against event storms (XSA-391): events without work earn the peer a growing pause. */
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
    struct svq_window *window;
    struct svq_view view;
    uint64_t granted[2];                      /* our grant entries without the frame: read-only, writable */
    bool exact, grants_pages, clears, direct; /* what each segment needs to know about configuration and window */
    uint16_t index, size, mask;               /* of the shadow ring; after a reset the driver's may be smaller */
    uint8_t state;
    bool frontend_event_idx, backend_event_idx;

    /* leg 1: shared with the frontend */
    struct svq_chain_source source;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t next_avail; /* the next entry of avail to take */
    uint16_t used_idx;   /* our used->idx; we only write the shared word */
    uint16_t used_signalled;

    /* leg 2: shared with the backend */
    struct vring_desc *shadow_desc;
    struct vring_avail *shadow_avail;
    struct vring_used *shadow_used;
    uint16_t shadow_avail_idx;
    uint16_t shadow_avail_signalled;
    uint16_t shadow_used_seen;
    uint16_t in_flight_count;
    bool parked; /* the next chain waits for our own completions */
    struct svq_lack lack;

    struct svq_in_flight *in_flight; /* by head */
    struct svq_bounce bounce;
    struct svq_block_class blocks[SVQ_BLOCK_CLASSES];
    uint32_t cursor; /* dynamic window: where we found the last free entry */
    uint32_t passes;
    uint32_t cost; /* of its passes in this round of its worker, in pages */
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
    struct svq_trace trace;
};

struct svq_device {
    struct svq_guest *guest;
    struct svq_window *window;
    struct svq_arena *arena;
    struct svq_device_config config;
    struct svq_queue *queues;
    struct svq_fault fault;
    int broken; /* latched: the first fault's code; 0: not broken */
    uint64_t fault_counts[SVQ_ERR_CODES];
};

static inline int svq_device_broken(const struct svq_device *dev)
{
    return __atomic_load_n(&dev->broken, __ATOMIC_RELAXED);
}

/* fault.c: latches the device as broken, keeps the first fault for the operator, counts them all. Returns `code`. */
int svq_fault_set(struct svq_queue *q, int code, uint16_t head, uint16_t desc, uint64_t value, uint64_t limit);

/*
 * placement.c: splits q->chain into parts, takes what they need, and writes their shadow descriptors: one direct
 * descriptor, or one that refers to a shadow indirect table. Fills `entry`, the in-flight record of q->chain->head.
 * Returns 0, SVQ_FULL or enum svq_err; all or nothing.
 */
int svq_place_chain(struct svq_queue *q, struct svq_in_flight *entry);
/* Publishes what a pass did to readers of the statistics. */
static inline void svq_publish_tally(struct svq_queue *q)
{
    svq_count(&q->stats.segments, q->tally.segments);
    svq_count(&q->stats.parts, q->tally.parts);
    svq_count(&q->stats.bytes_zero_copy, q->tally.zero_copy);
    svq_count(&q->stats.bytes_bounced, q->tally.bounced);
    svq_count(&q->stats.grants, q->tally.grants);
    svq_count(&q->stats.grants_ended, q->tally.grants_ended);
    q->tally = (struct svq_tally){ 0 };
}

/* The present size of the driver's own ring: a power of two, no larger than the shadow ring (virtio 2.6.1). */
static inline uint16_t svq_driver_size(const struct svq_queue *q) { return q->source.size; }

/* Does the queue move descriptors in at least one direction? Only then are both its rings mapped. */
static inline bool svq_queue_is_live(const struct svq_queue *q)
{
    return q->state == SVQ_QUEUE_RUNNING || q->state == SVQ_QUEUE_DRAINING;
}

/*
 * trace.c: notes an event. `entry`: the chain's record, where it is placed; NULL: what is known of a chain that is not
 * is in q->chain. Cold: it reads the clock.
 */
void svq_trace_note(struct svq_queue *q, enum svq_trace_event event, uint16_t head, int code,
                    struct svq_in_flight *entry, uint32_t used_length);

/* forward.c, complete.c: one pass each; see svq.h. `signal`: whether the peer asked to be notified. */
int svq_forward_pass(struct svq_queue *q, unsigned budget, bool *signal);
int svq_complete_pass(struct svq_queue *q, unsigned budget, bool *signal);

/* queue.c */
void svq_window_share(struct svq_window *window); /* from now on others take entries there too */
void svq_queue_grantee_gone(struct svq_queue *q);
int svq_queue_map_rings(struct svq_queue *q, const struct svq_queue_config *config);
void svq_queue_unmap_rings(struct svq_queue *q);
unsigned svq_queue_stop(struct svq_queue *q);
void svq_queue_free(struct svq_queue *q);

/*
 * worker_control.c: the control thread's side of a worker. svq_worker_call has the worker's thread run something
 * between two of its rounds, and waits for the result. Keep it short: everything that the worker serves waits for it.
 */
int svq_worker_call(struct svq_worker *worker, int (*run)(void *arg), void *arg);
int svq_worker_bind_queue(struct svq_worker *worker, struct svq_queue *q);
void svq_worker_unbind_queue(struct svq_worker *worker, struct svq_queue *q);

/* worker.c: its thread's own. Puts a queue on the list of those that it serves. */
void svq_worker_activate(struct svq_worker *worker, struct svq_queue *q);

#endif
