/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mediator's data plane: shadow virtqueues between a frontend's rings and a backend.
 *
 * One struct svq_guest per frontend domain (its memory, its grant window), one struct svq_device per virtio device,
 * one struct svq_worker per thread. A control thread sets things up and tears them down; the workers move
 * descriptors. All allocation happens at set-up.
 *
 * Plain declarations only: cffi reads this header (after svq_hv.h) with the preprocessor lines removed. Every int
 * answer is >= 0, or -errno for what the machine refused, or one of enum svq_err (all below SVQ_ERR_BASE) for what a
 * peer did wrong.
 */
#ifndef SVQ_H
#define SVQ_H

#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

enum {
    SVQ_QUEUE_SIZE_MAX = 1024, /* largest ring that we mediate; virtio allows 32768 */
    SVQ_PARTS_MAX = 256,       /* shadow descriptors of one chain: one page of them */
    SVQ_ERR_BASE = -1000,
};

/* What a peer can do wrong. Name, meaning and source of each: errors.c. */
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
    SVQ_E_TOTAL_LENGTH = -1025,
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

/* "SVQ_E_HEAD_RANGE", what is wrong and what was expected, and the section or advisory that the check comes from. */
const char *svq_err_name(int code);
const char *svq_err_text(int code);
const char *svq_err_source(int code);

/* Where and how a device broke. value and limit: what was found and the bound that it violates. */
struct svq_fault {
    int32_t code; /* 0: not broken */
    uint16_t queue;
    uint16_t head; /* 0xffff where no chain is concerned */
    uint16_t desc; /* descriptor index, in the table that it was found in; 0xffff where none is concerned */
    uint16_t in_indirect;
    uint64_t value;
    uint64_t limit;
};

/* --- a frontend domain ------------------------------------------------------------------------------------- */
struct svq_guest;

struct svq_guest_config {
    uint16_t domid;
    uint64_t gfn_limit;          /* no frame of the guest has this number or a higher one */
    uint32_t window_first_frame; /* the part of its grant table that is ours, in frames of 512 entries */
    uint32_t window_frames;
    int window_direct;           /* 1: gref = 512 * window_first_frame + gfn; needs window_frames * 512 >= gfn_limit */
};

/*
 * Also takes back the grants that a mediator of this guest left in the window when it died: svq_guest_stale_revoked of
 * them; svq_guest_stale_mapped are still mapped by their grantee, who cannot map them again. So no other mediator may
 * be serving the guest now.
 */
int svq_guest_open(struct svq_hv *hv, const struct svq_guest_config *config, struct svq_guest **out);
uint32_t svq_guest_stale_revoked(const struct svq_guest *guest);
uint32_t svq_guest_stale_mapped(const struct svq_guest *guest);
void svq_guest_close(struct svq_guest *guest); /* its devices must be closed before */
uint32_t svq_guest_window_first(const struct svq_guest *guest);
uint32_t svq_guest_window_count(const struct svq_guest *guest);
/* Entries of the window that are not 0 now: 0 when no request is alive and nobody else wrote there. */
uint32_t svq_guest_window_in_use(const struct svq_guest *guest);

/* --- a device ----------------------------------------------------------------------------------------------- */
struct svq_device;
struct svq_worker;

enum svq_placement {
    SVQ_PLACE_EXACT = 0, /* whole pages are granted, the rest is copied: byte-exact */
    SVQ_PLACE_PAGE = 1,  /* every page that a segment touches is granted: page-granular, leaks neighbours */
    SVQ_PLACE_COPY = 2,  /* everything is copied */
};

struct svq_device_config {
    uint16_t backend_domid;
    uint16_t num_queues;
    int placement;             /* enum svq_placement */
    uint32_t copy_threshold;   /* SVQ_PLACE_EXACT: whole-page parts of fewer bytes are copied as well */
    uint32_t bounce_pages;     /* page slots of the bounce pool of each queue; half for each direction */
    uint32_t large_chains;     /* chains of more than 32 parts that a queue can have alive */
    uint32_t window_grefs;     /* dynamic window: entries reserved for each queue */
    int frontend_event_idx;    /* features in force on leg 1 */
    int frontend_indirect;
    int backend_event_idx;     /* features in force on leg 2 */
};

struct svq_queue_config {
    uint16_t index;
    uint16_t size;
    uint64_t desc_gpa;
    uint64_t avail_gpa;
    uint64_t used_gpa;
    uint32_t frontend_port; /* unbound port of the frontend; 0: none (tests drive the queue by hand) */
};

/* What the backend must know of a shadow queue; the arrays hold one gref per page. */
struct svq_queue_refs {
    uint32_t desc_pages, avail_pages, used_pages;
    uint32_t desc_refs[4]; /* 1024 * 16 bytes */
    uint32_t avail_refs[1];
    uint32_t used_refs[3];
    uint32_t backend_port; /* port that the backend binds; 0: none */
};

struct svq_queue_stats {
    uint64_t chains;           /* forwarded to the backend */
    uint64_t completions;      /* given back to the driver */
    uint64_t segments;
    uint64_t parts;            /* shadow descriptors made of them */
    uint64_t bytes_zero_copy;
    uint64_t bytes_bounced;
    uint64_t grants;           /* pages */
    uint64_t revokes;          /* pages */
    uint64_t window_taken;     /* entries found not to be free: copied or passed over instead */
    uint64_t parked;           /* times that the queue waited for its own completions to go on (back-pressure) */
    uint64_t kicks_received;   /* from the driver */
    uint64_t kicks_sent;       /* to the backend */
    uint64_t answers_received; /* notifications from the backend */
    uint64_t interrupts_sent;  /* to the driver */
    uint64_t spurious_events;  /* events of either peer that brought no work */
    uint64_t throttled;        /* times that a peer's events were held back (XSA-391) */
    uint64_t quarantined;      /* grants that could not be ended */
};

int svq_device_create(struct svq_guest *guest, const struct svq_device_config *config, struct svq_device **out);

/*
 * Checks and maps the frontend's ring, allocates and shares the shadow ring and the queue's pools. With a worker, the
 * event channels of both legs are made on it (worker NULL: none). Each queue once, before svq_device_start.
 */
int svq_queue_setup(struct svq_device *dev, struct svq_worker *worker, const struct svq_queue_config *config,
                    struct svq_queue_refs *refs);

/* Lets the worker of each queue serve it from now on. */
int svq_device_start(struct svq_device *dev);

/* No chain is taken any more; completions go on. Returns the chains still alive at the backend. */
int svq_queue_drain(struct svq_device *dev, uint16_t index);
int svq_queue_in_flight(struct svq_device *dev, uint16_t index);

/*
 * Lets go of the frontend's ring once the queue is drained (-EBUSY before); the shadow ring stays, so that the frontend
 * may set the queue up again with new addresses, no larger than it was (VIRTIO_F_RING_RESET, virtio 2.6.1).
 */
int svq_queue_reset(struct svq_device *dev, uint16_t index);
int svq_queue_restart(struct svq_device *dev, const struct svq_queue_config *config);

/* Ends all grants, closes the event channels, unmaps everything, frees the device. Returns grants left in quarantine. */
int svq_device_close(struct svq_device *dev);

void svq_device_fault(const struct svq_device *dev, struct svq_fault *out);
uint64_t svq_device_fault_count(const struct svq_device *dev, int code);
int svq_queue_read_stats(const struct svq_device *dev, uint16_t index, struct svq_queue_stats *out);

/* One pass by hand, for tests and benchmarks: at most `budget` chains. Returns how many, or the error that broke it. */
int svq_queue_forward(struct svq_device *dev, uint16_t index, unsigned budget);
int svq_queue_complete(struct svq_device *dev, uint16_t index, unsigned budget);

/* --- worker threads ------------------------------------------------------------------------------------------ */
struct svq_worker_config {
    uint32_t poll_us_max; /* longest busy-wait before sleeping; 0: always sleep */
    int32_t cpu;          /* pin to this processor; -1: do not pin */
};

struct svq_worker_stats {
    uint64_t rounds;
    uint64_t sleeps;
    uint64_t wakeups;
    uint64_t busy_ns;      /* spent in rounds that moved something */
    uint64_t poll_ns;      /* spent polling in vain */
    uint64_t notify_ns;    /* spent sending notifications */
    uint64_t notifications;
};

int svq_worker_start(struct svq_hv *hv, const struct svq_worker_config *config, struct svq_worker **out);
void svq_worker_stop(struct svq_worker *worker); /* its devices must be closed before */
void svq_worker_read_stats(const struct svq_worker *worker, struct svq_worker_stats *out);
/* Readable (an eventfd) after a device of this worker broke. */
int svq_worker_alert_fd(const struct svq_worker *worker);

#endif
