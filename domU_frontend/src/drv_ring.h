/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver's side of one split virtqueue (virtio 2.7.13, 2.7.14), on memory that the device reads and writes. */
#ifndef SVQ_DRV_RING_H
#define SVQ_DRV_RING_H

#include <stdbool.h>

#include "vring.h"

/* One segment of a chain. */
struct svq_drv_sg {
    uint64_t addr;
    uint32_t len;
};

/* An indirect table that a chain may use. */
struct svq_drv_table {
    struct vring_desc *entries;
    uint64_t gpa;
    uint32_t size;
};

/* What we know about a chain in flight, by its head; never read back from shared memory. */
struct svq_drv_chain {
    uint16_t descs; /* of the ring's own table; 0: not in flight */
    uint16_t last;  /* the last of them */
    uint32_t writable;
};

struct svq_drv_ring {
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint32_t size;
    bool event_idx;
    int error;      /* how the device lied; latched */
    uint16_t *next; /* free list and chains, private: the shared `next` is for the device only */
    struct svq_drv_chain *chains;
    uint16_t free_head;
    uint16_t free_count;
    uint16_t live; /* chains in flight */
    uint16_t avail_idx;
    uint16_t used_seen;
    uint16_t kick_checked; /* avail_idx when the device was last considered for a kick */
};

/* Private memory for rings of at most `size_max`; -ENOMEM. The caller sets the shared areas. */
int svq_drv_ring_alloc(struct svq_drv_ring *r, uint32_t size_max);
void svq_drv_ring_free(struct svq_drv_ring *r);

/* Zeroes the shared areas and forgets all chains. `size`: a power of two, at most size_max. */
void svq_drv_ring_reset(struct svq_drv_ring *r, uint32_t size, bool event_idx);

/* The head that the next chain will get; only meaningful while free_count > 0. */
static inline uint16_t svq_drv_ring_next_head(const struct svq_drv_ring *r) { return r->free_head; }

/*
 * Adds a chain of n_out readable, then n_in writable segments; through `table` if not NULL. The device does not see it
 * before svq_drv_ring_publish. Returns the head; -ENOSPC: not now; -E2BIG: never; -EINVAL: no segment.
 */
int svq_drv_ring_add(struct svq_drv_ring *r, const struct svq_drv_sg *sg, uint32_t n_out, uint32_t n_in,
                     const struct svq_drv_table *table);

/* Shows the device all chains added so far. True: it wants a notification. */
bool svq_drv_ring_publish(struct svq_drv_ring *r);

/*
 * Next used chain: 1 with *head and *len; 0: none; else the device lied (see svq_drv_run), and every later call returns
 * the same.
 */
int svq_drv_ring_get(struct svq_drv_ring *r, uint16_t *head, uint32_t *len);

/* Is there something to get (including an error)? */
bool svq_drv_ring_pending(const struct svq_drv_ring *r);

/* Asks for a notification of the next used entry. True: there already is one. */
bool svq_drv_ring_arm(struct svq_drv_ring *r);
/* Disables notifications, as far as possible. */
void svq_drv_ring_disarm(struct svq_drv_ring *r);

#endif
