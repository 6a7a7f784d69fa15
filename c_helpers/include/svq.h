/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mediator's data plane: shadow virtqueues between a frontend's rings and a backend.
 *
 * One struct svq_guest per frontend domain (its memory, its grant window), one struct svq_device per virtio device, one
 * struct svq_worker per thread. A control thread sets things up and tears them down; the workers move descriptors. All
 * allocation happens at set-up.
 *
 * Plain declarations only: cffi reads this header (after svq_hv.h) with the preprocessor lines removed. Every int
 * result is >= 0, or -errno if the machine refused, or a value of enum svq_err (all below SVQ_ERR_BASE) if a peer did
 * something wrong.
 */
#ifndef SVQ_H
#define SVQ_H

#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

enum {
    SVQ_QUEUE_SIZE_MAX = 1024, /* the largest ring that we mediate; virtio allows 32768 */
    SVQ_PARTS_MAX = 256,       /* shadow descriptors of one chain: they fill one page */
    SVQ_MARKS_MAX = 127,       /* devices of one guest */
    SVQ_ERR_BASE = -1000,
};

/* What a peer can do wrong. errors.c has the name, meaning and source of each. */
enum svq_err {
    SVQ_E_NONE = 0,
    /* the frontend's ring set-up */
    SVQ_E_RING_SIZE = -1001,
    SVQ_E_RING_ALIGN = -1002,
    SVQ_E_RING_WRAP = -1003,
    SVQ_E_RING_OVERLAP = -1004,
    SVQ_E_RING_NOT_RAM = -1005,
    /* the frontend's chains */
    SVQ_E_AVAIL_IDX_JUMP = -1010,
    SVQ_E_IN_FLIGHT_LIMIT = -1011,
    SVQ_E_HEAD_RANGE = -1012,
    SVQ_E_HEAD_BUSY = -1013,
    SVQ_E_NEXT_RANGE = -1014,
    SVQ_E_CHAIN_LOOP = -1015,
    SVQ_E_INDIRECT_NOT_NEGOTIATED = -1016,
    SVQ_E_INDIRECT_NESTED = -1017,
    SVQ_E_INDIRECT_WITH_NEXT = -1018,
    SVQ_E_INDIRECT_LENGTH = -1019,
    SVQ_E_INDIRECT_TOO_LONG = -1020,
    SVQ_E_INDIRECT_NOT_RAM = -1021,
    SVQ_E_WRITABLE_BEFORE_READABLE = -1022,
    SVQ_E_ZERO_LENGTH = -1023,
    SVQ_E_ADDRESS_WRAP = -1024,
    SVQ_E_NOT_RAM = -1026,
    SVQ_E_CHAIN_LIMIT = -1027,
    /* the backend's answers */
    SVQ_E_USED_IDX_JUMP = -1040,
    SVQ_E_USED_ID_RANGE = -1041,
    SVQ_E_USED_ID_NOT_LIVE = -1042,
    SVQ_E_USED_LENGTH = -1043,
    SVQ_E_GRANT_BUSY = -1044,
    /* the frontend's grant table */
    SVQ_E_GRANT_TAMPERED = -1050,
    SVQ_E_LAST = -1051,
};

/* "SVQ_E_HEAD_RANGE"; what is expected of the peer; the section or advisory that the check comes from. */
const char *svq_err_name(int code);
const char *svq_err_text(int code);
const char *svq_err_source(int code);

/* Where and how a device broke. value and limit: what we found, and the bound that it violates. */
struct svq_fault {
    int32_t code; /* 0: not broken */
    uint16_t queue;
    uint16_t head; /* 0xffff where no chain is concerned */
    uint16_t desc; /* index in the descriptor's own table; 0xffff where no descriptor is concerned */
    uint16_t in_indirect;
    uint64_t value;
    uint64_t limit;
};

/* --- a frontend domain ------------------------------------------------------------------------------------- */
struct svq_guest;

/* How we reach the guest's memory for what we copy or clear ourselves. */
enum svq_memory {
    SVQ_MEMORY_FIXED = 0, /* a frame never changes its page, so we map it once. The guest must not balloon */
    SVQ_MEMORY_REMAP = 1, /* a frame's page may change between requests (ballooning), so each pass maps it again */
};

struct svq_guest_config {
    uint16_t domid;
    uint64_t gfn_limit; /* no frame of the guest has this number or a higher one */
    int memory;         /* enum svq_memory */
};

int svq_guest_open(struct svq_hv *hv, const struct svq_guest_config *config, struct svq_guest **out);
void svq_guest_close(struct svq_guest *guest); /* close its devices first */

/*
 * Takes back what any mediator granted to anybody in the entries of `domid`'s grant table that have one of the `count`
 * marks. For a mediator before it serves a device that it did not make itself, and for what a dead mediator left; never
 * call it while a mediator that serves those devices lives. 0 or -errno (as svq_hv_map_grant_table); on failure nothing
 * is known.
 */
struct svq_sweep_result {
    uint32_t freed;  /* entries that are free now */
    uint32_t held;   /* entries that their grantee still has mapped: sweep again when it may have let go */
    uint16_t holder; /* the grantee of one of the held entries */
};
int svq_sweep(struct svq_hv *hv, uint16_t domid, const uint8_t *marks, size_t count, struct svq_sweep_result *out);

/* --- a device ----------------------------------------------------------------------------------------------- */
struct svq_device;
struct svq_worker;

enum svq_placement {
    SVQ_PLACE_EXACT = 0, /* whole pages are granted, the rest is copied: byte-exact */
    SVQ_PLACE_PAGE = 1,  /* every page that a segment touches is granted: page-granular, leaks neighbours */
    SVQ_PLACE_COPY = 2,  /* we copy everything */
};

/*
 * The part of the guest's grant table where we make a device's grants. Devices and mediators may share it: we take an
 * entry only while it is 0.
 */
struct svq_window_config {
    uint32_t first_gref, count; /* any range; with count 0 we copy everything */
    int direct;                 /* 1: gref = first_gref + gfn; needs count >= gfn_limit */
    int guarded; /* 1: nobody reserved it; once the guest's own use comes near from below, we grant nothing more */
};

/*
 * Pages of ours that one backend sees, kept from one connection of a device to the next (arena.h). Close it only when
 * no device uses it any more.
 */
struct svq_arena;
int svq_arena_open(struct svq_hv *hv, uint16_t backend_domid, struct svq_arena **out);
void svq_arena_close(struct svq_arena *arena);

struct svq_device_config {
    uint16_t backend_domid;
    uint16_t num_queues;
    uint8_t mark; /* 1 to 127: marks this device's grant entries, for svq_sweep */
    struct svq_window_config window;
    int clear;               /* 1: we clear a page that the backend may write before we grant it */
    int placement;           /* enum svq_placement */
    uint32_t copy_threshold; /* SVQ_PLACE_EXACT: we also copy whole-page parts of fewer bytes */
    /*
     * Page slots of each queue's bounce pool; half for each direction. A chain may touch no more pages than one half
     * has, and no more than SVQ_PARTS_MAX, so we can copy all of any chain, whatever else the guest does.
     */
    uint32_t bounce_pages;
    uint32_t large_chains;  /* how many chains of more than 32 parts a queue can have alive */
    int frontend_event_idx; /* features in force on leg 1 */
    int frontend_indirect;
    int backend_event_idx; /* features in force on leg 2 */
    /* Source of the pages that the backend sees, which return there: it outlives the device. NULL: a private one. */
    struct svq_arena *arena;
};

struct svq_queue_config {
    uint16_t index;
    uint16_t size;
    uint64_t desc_gpa;
    uint64_t avail_gpa;
    uint64_t used_gpa;
    uint32_t frontend_port; /* unbound port of the frontend; 0: none (tests drive the queue by hand) */
};

/* What the backend must know about a shadow queue; the arrays hold one gref per page. */
struct svq_queue_refs {
    uint32_t desc_pages, avail_pages, used_pages;
    uint32_t desc_refs[4]; /* 1024 * 16 bytes */
    uint32_t avail_refs[1];
    uint32_t used_refs[3];
    uint32_t backend_port; /* the port that the backend binds; 0: none */
};

struct svq_queue_stats {
    uint64_t chains;      /* forwarded to the backend */
    uint64_t completions; /* returned to the driver */
    uint64_t segments;
    uint64_t parts; /* shadow descriptors made from them */
    uint64_t bytes_zero_copy;
    uint64_t bytes_bounced;
    uint64_t grants;           /* pages */
    uint64_t grants_ended;     /* pages */
    uint64_t window_taken;     /* entries that were not free: we copied instead, or searched on */
    uint64_t parked;           /* how often the queue waited for its own completions (back-pressure) */
    uint64_t kicks_received;   /* from the driver */
    uint64_t kicks_sent;       /* to the backend */
    uint64_t answers_received; /* notifications from the backend */
    uint64_t interrupts_sent;  /* to the driver */
    uint64_t spurious_events;  /* events from either peer that brought no work */
    uint64_t throttled;        /* how often we held back a peer's events (XSA-391) */
    uint64_t held;             /* pages that were held when we ended their grants, whether or not they still are */
};

int svq_device_create(struct svq_guest *guest, const struct svq_device_config *config, struct svq_device **out);

/*
 * Checks and maps the frontend's ring, allocates and shares the shadow ring and the queue's pools. With a worker, it
 * also makes the event channels of both legs on that worker (worker NULL: none). Call it once for each queue, before
 * svq_device_start.
 */
int svq_queue_setup(struct svq_device *dev, struct svq_worker *worker, const struct svq_queue_config *config,
                    struct svq_queue_refs *refs);

/* From now on the worker of each queue serves it. */
int svq_device_start(struct svq_device *dev);

/* Takes no more chains; completions go on. Returns the number of chains still alive at the backend. */
int svq_queue_drain(struct svq_device *dev, uint16_t index);
int svq_queue_in_flight(struct svq_device *dev, uint16_t index);

/*
 * Lets go of the frontend's ring once the queue is drained (before that: -EBUSY). The shadow ring stays, so the
 * frontend may set the queue up again at new addresses, but no larger than before (VIRTIO_F_RING_RESET, virtio 2.6.1).
 */
int svq_queue_reset(struct svq_device *dev, uint16_t index);
int svq_queue_restart(struct svq_device *dev, const struct svq_queue_config *config);

/*
 * Takes the queues from their workers, lets go of the driver's rings for good, and ends every grant. A page that the
 * backend still has mapped is held, and its request stays in flight; all other requests have ended. May be called again
 * to retry. Returns the number of pages held.
 */
int svq_device_stop(struct svq_device *dev);
/*
 * Call it when the backend's domain has ended, and all its mappings with it. Only then can we forget pages whose entry
 * the frontend itself has overwritten in a window that it did not reserve: we cannot tell whether the backend had them
 * mapped.
 */
void svq_device_grantee_gone(struct svq_device *dev);
/*
 * After svq_device_stop: the requests with held pages, one bit for each head, size / 8 bytes. Returns that number of
 * bytes.
 */
int svq_queue_held(const struct svq_device *dev, uint16_t index, uint8_t *bits, size_t bytes_max);
/* Stops the device and frees it. Returns the number of pages held: their entries keep the mark, for svq_sweep. */
int svq_device_close(struct svq_device *dev);
/* Entries of the window that have the device's mark: its live grants and its held pages. */
uint32_t svq_device_window_in_use(const struct svq_device *dev);
/*
 * 1: the guest's own use of its grant table has come near the window (svq_window_config.guarded), and we copy
 * everything since.
 */
int svq_device_window_lost(const struct svq_device *dev);

void svq_device_fault(const struct svq_device *dev, struct svq_fault *out);
uint64_t svq_device_fault_count(const struct svq_device *dev, int code);
int svq_queue_read_stats(const struct svq_device *dev, uint16_t index, struct svq_queue_stats *out);

/*
 * The trace of a queue, for whoever looks for a stuck request: the latest events out of the ordinary, and, on request,
 * of every Nth chain.
 */
enum { SVQ_TRACE_ENTRIES = 64 };

enum svq_trace_event {
    SVQ_TRACE_FORWARDED = 1, /* an Nth chain went to the backend */
    SVQ_TRACE_COMPLETED = 2, /* it came back, and the driver has it */
    SVQ_TRACE_PARKED = 3,    /* a chain waits for what chains in flight will give back */
    SVQ_TRACE_REFUSED = 4,   /* a check failed: `code` */
    SVQ_TRACE_HELD = 5,      /* the queue stopped, and the backend keeps pages of this chain */
};

struct svq_trace_entry {
    uint64_t number;      /* of the event in its queue, from 1 on: where one is missing, newer ones have its place */
    uint64_t time_ns;     /* CLOCK_MONOTONIC */
    int32_t code;         /* enum svq_err, or 0 */
    uint16_t event;       /* enum svq_trace_event */
    uint16_t head;        /* 0xffff where no chain is concerned */
    uint16_t parts;       /* of the chain; of a parked one its segments. Of these: */
    uint16_t granted;     /* went as grants, */
    uint16_t copied;      /* went through the bounce pool. */
    uint16_t pages;       /* of what was granted; parked: of all segments; SVQ_TRACE_HELD: held */
    uint32_t bytes;       /* of the chain */
    uint32_t used_length; /* SVQ_TRACE_COMPLETED: what the backend says that it has written */
};

/* Also trace every Nth chain from now on; 0: none. */
int svq_queue_trace_every(struct svq_device *dev, uint16_t index, uint32_t every);
/* The trace, oldest event first; the queue goes on meanwhile. Returns how many there are. */
int svq_queue_read_trace(const struct svq_device *dev, uint16_t index, struct svq_trace_entry out[SVQ_TRACE_ENTRIES]);

enum svq_queue_state {
    SVQ_QUEUE_EMPTY,
    SVQ_QUEUE_READY,
    SVQ_QUEUE_RUNNING,
    SVQ_QUEUE_DRAINING,
    SVQ_QUEUE_STOPPED,
};

/* Where a queue stands. Indices wrap at 65536; what the peers say of theirs is unchecked. */
struct svq_queue_snapshot {
    uint16_t state;  /* enum svq_queue_state */
    uint16_t parked; /* 1: the next chain waits for completions */
    uint16_t size;
    uint16_t in_flight;
    uint16_t untrusted_avail_idx;         /* the driver's; taken_idx if its ring is not mapped */
    uint16_t taken_idx;                   /* chains taken from it */
    uint16_t untrusted_used_idx;          /* the backend's */
    uint16_t completed_idx;               /* completions taken from it, and given to the driver */
    uint8_t live[SVQ_QUEUE_SIZE_MAX / 8]; /* the heads in flight: bit h % 8 of byte h / 8 */
};
/* Taken between two rounds of the queue's worker. */
int svq_queue_read_snapshot(struct svq_device *dev, uint16_t index, struct svq_queue_snapshot *out);

/*
 * One pass by hand, for tests and benchmarks: at most `budget` chains. Returns how many it moved, or the error that
 * broke the device.
 */
int svq_queue_forward(struct svq_device *dev, uint16_t index, unsigned budget);
int svq_queue_complete(struct svq_device *dev, uint16_t index, unsigned budget);

/* --- worker threads ------------------------------------------------------------------------------------------ */
struct svq_worker_config {
    uint32_t poll_us_max; /* longest busy-wait before it sleeps; 0: never poll */
    int32_t cpu;          /* pin to this processor; -1: do not pin */
};

struct svq_worker_stats {
    uint64_t rounds;
    uint64_t sleeps;
    uint64_t wakeups;
    uint64_t busy_ns;   /* spent in rounds that moved something */
    uint64_t poll_ns;   /* spent polling without finding work */
    uint64_t notify_ns; /* spent sending notifications */
    uint64_t notifications;
};

int svq_worker_start(struct svq_hv *hv, const struct svq_worker_config *config, struct svq_worker **out);
void svq_worker_stop(struct svq_worker *worker); /* close its devices first */
void svq_worker_read_stats(const struct svq_worker *worker, struct svq_worker_stats *out);
/* An eventfd, readable after a device of this worker broke. */
int svq_worker_alert_fd(const struct svq_worker *worker);

#pragma GCC visibility pop

#endif
