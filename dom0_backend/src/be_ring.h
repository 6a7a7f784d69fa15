/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device side of one split ring (virtio 2.7): taking heads from the available ring, returning them through the
 * used ring, and both directions of notification suppression. Knows memory, not grants.
 */
#ifndef SVQ_BE_RING_H
#define SVQ_BE_RING_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "vring.h"
#include "svq_backend.h"

struct svq_be_ring {
    const struct vring_desc *desc;   /* mapped read-only */
    const struct vring_avail *avail; /* mapped read-only */
    struct vring_used *used;
    uint32_t size;
    bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
    bool indirect;  /* VIRTIO_F_INDIRECT_DESC negotiated */
    bool quiet;     /* the peer was told not to kick (flags form) */
    uint16_t next_avail;
    uint16_t avail_seen; /* avail idx when last read: we read the shared word only when we need it */
    uint16_t used_idx;   /* our own value: we only write the shared word */
    uint16_t published;
    int fault; /* SVQ_BE_FAULT_*; once set, we no longer touch the ring */
    uint64_t live[SVQ_BE_QUEUE_SIZE_MAX / 64];
};

/* Starts where the ring's used idx stands. */
void svq_be_ring_init(struct svq_be_ring *ring, const void *desc, const void *avail, void *used, uint32_t size,
                      uint64_t features);

/* Takes the next head. 1: *head; 0: none; -EPROTO: ring->fault says what is wrong. */
int svq_be_ring_pop(struct svq_be_ring *ring, uint16_t *head);
/* Undoes the last pop. */
void svq_be_ring_unpop(struct svq_be_ring *ring, uint16_t head);

/* Writes a used entry; the peer sees it after publish. */
void svq_be_ring_push(struct svq_be_ring *ring, uint16_t head, uint32_t len);
/* Makes pushed entries visible. True: the peer wants a notification (virtio 2.7.7.2). */
bool svq_be_ring_publish(struct svq_be_ring *ring);

/* Tells the peer not to kick, since we poll the ring (virtio 2.7.10.2). */
void svq_be_ring_quiet(struct svq_be_ring *ring);
/* Asks for a kick with the next head. True: there already is one, so do not sleep. */
bool svq_be_ring_arm(struct svq_be_ring *ring);

static inline int svq_be_ring_fail(struct svq_be_ring *ring, int fault)
{
    ring->fault = fault;
    return -EPROTO;
}

#endif
