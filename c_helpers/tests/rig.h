/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A test bench around one shadow queue: a frontend, the mediator and a backend as three domains of an embedded machine
 * in this process. The frontend's and the backend's sides are raw memory, so that tests can write anything there.
 */
#ifndef SVQ_TEST_RIG_H
#define SVQ_TEST_RIG_H

#include "grant.h"
#include "vring.h"
#include "svq.h"
#include "svq_sim.h"

enum {
    RIG_FRONTEND = 7,
    RIG_MEDIATOR = 0,
    RIG_BACKEND = 9,
    RIG_RING_GFN = 16,     /* the frontend's rings: desc, then avail, then used, each on pages of its own */
    RIG_TABLE_GFN = 64,    /* free pages for indirect tables */
    RIG_HEADER_GFN = 1024, /* free pages for small things */
    RIG_DATA_GFN = 2048,   /* free pages for data, up to ram_pages */
    RIG_WINDOW_FRAME = 32, /* where the window begins in the frontend's grant table */
    RIG_MARK = 5,          /* the mark of rig->dev */
};

struct rig_config {
    uint64_t ram_pages;    /* default 16384 (64 MiB) */
    uint16_t queue_size;   /* default 256 */
    int dynamic_window;    /* default direct */
    uint32_t window_grefs; /* dynamic: entries of the window; default 16384 */
    int guarded_window;
    int clear;  /* default: pages are not cleared */
    int memory; /* enum svq_memory */
    int placement;
    uint32_t copy_threshold;
    uint32_t bounce_pages; /* default 512 */
    uint32_t large_chains; /* default 16 */
    int no_indirect;       /* leg 1: not negotiated */
    int no_event_idx;
    uint64_t hole_gfn, hole_pages;
    uint16_t queues;           /* default 1 */
    struct svq_worker *worker; /* filled by rig_start_worker */
    int with_worker;
    struct svq_worker_config worker_config;
};

struct rig_queue {
    struct svq_queue_refs refs;
    int frontend_port;
    int backend_port;
    /* the frontend's side */
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx;
    uint16_t used_seen;
    /* the backend's side */
    const struct vring_desc *shadow_desc;
    const struct vring_avail *shadow_avail;
    struct vring_used *shadow_used;
    uint16_t shadow_avail_seen;
    uint16_t shadow_used_idx;
};

struct rig {
    struct rig_config config;
    char directory[64];
    struct svq_sim_machine *machine;
    struct svq_hv *frontend, *mediator, *backend;
    struct svq_evtchn *frontend_ec, *backend_ec;
    struct svq_guest *guest;
    struct svq_device *dev;
    struct svq_worker *worker;
    uint8_t *ram; /* the frontend's memory, up to the hole if there is one */
    struct rig_queue q[64];
    uint16_t driver_size; /* of queue 0's ring in the frontend: queue_size, until a test resets it to a smaller one */
    int setup_rc;         /* what svq_queue_setup returned for queue 0 */
};

/* Aborts with a message if the machine itself fails; a refused queue sets rig->setup_rc. */
void rig_open(struct rig *rig, const struct rig_config *config);
void rig_close(struct rig *rig);
void rig_disconnect_backend(struct rig *rig); /* the backend unmaps the shadow rings, as a well-behaved one does */
int rig_close_device(struct rig *rig);        /* that, and svq_device_close; returns its result */
/* Sets queue `index` of rig->dev up and maps its shadow ring as the backend; rig_open does it for all queues. */
int rig_connect(struct rig *rig, uint16_t index);
/* What rig_open uses for the guest, and for queue `index`; tests that spoil something set it up themselves. */
struct svq_guest_config rig_guest_config(const struct rig *rig);
struct svq_window_config rig_window(const struct rig *rig);
/* For a second, small device with that mark, in the same window. */
struct svq_device_config rig_other_device(const struct rig *rig, uint8_t mark);
struct svq_queue_config rig_queue_config(const struct rig *rig, uint16_t index);

/* The frontend's side. */
void rig_desc(struct rig *rig, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next);
void rig_offer(struct rig *rig, uint16_t head); /* one available entry, published at once */
static inline uint64_t rig_gpa(uint64_t gfn) { return gfn << SVQ_PAGE_SHIFT; }

/* The backend's side: takes the next head (-1: none), returns one. */
int rig_take(struct rig *rig);
void rig_give(struct rig *rig, uint32_t id, uint32_t len);

int rig_forward(struct rig *rig);
int rig_complete(struct rig *rig);
int rig_fault(struct rig *rig); /* the device's latched code */

#endif
