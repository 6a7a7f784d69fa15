/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_ring.h"

#include <string.h>

#include "barrier.h"

void svq_be_ring_init(struct svq_be_ring *ring, const void *desc, const void *avail, void *used, uint32_t size,
                      uint64_t features)
{
    memset(ring, 0, sizeof *ring);
    ring->desc = desc;
    ring->avail = avail;
    ring->used = used;
    ring->size = size;
    ring->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
    ring->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
    ring->used_idx = svq_load_u16(&ring->used->idx);
    ring->published = ring->used_idx;
    ring->next_avail = ring->used_idx;
    ring->avail_seen = ring->used_idx;
}

int svq_be_ring_pop(struct svq_be_ring *ring, uint16_t *head)
{
    if (ring->fault)
        return -EPROTO;
    if (ring->avail_seen == ring->next_avail) {
        uint16_t untrusted_idx = svq_acquire_u16(&ring->avail->idx);

        /* 2.7.6.1: idx never goes back, so it cannot be ahead of us by more than the ring's size (CVE-2016-5403) */
        if ((uint16_t)(untrusted_idx - ring->next_avail) > ring->size)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_AVAIL_IDX);
        ring->avail_seen = untrusted_idx;
        if (untrusted_idx == ring->next_avail)
            return 0;
    }
    uint16_t untrusted_head = svq_load_u16(&ring->avail->ring[ring->next_avail & (ring->size - 1)]);
    if (untrusted_head >= ring->size)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_HEAD_RANGE);
    if (ring->live[untrusted_head / 64] >> (untrusted_head % 64) & 1)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_HEAD_LIVE);
    ring->live[untrusted_head / 64] |= 1ULL << (untrusted_head % 64);
    ring->next_avail++;
    *head = untrusted_head;
    return 1;
}

void svq_be_ring_unpop(struct svq_be_ring *ring, uint16_t head)
{
    ring->live[head / 64] &= ~(1ULL << (head % 64));
    ring->next_avail--;
}

void svq_be_ring_push(struct svq_be_ring *ring, uint16_t head, uint32_t len)
{
    struct vring_used_elem *elem = &ring->used->ring[ring->used_idx & (ring->size - 1)];
    svq_store_u32(&elem->id, head);
    svq_store_u32(&elem->len, len);
    ring->used_idx++;
    ring->live[head / 64] &= ~(1ULL << (head % 64));
}

bool svq_be_ring_publish(struct svq_be_ring *ring)
{
    uint16_t old = ring->published;
    if (old == ring->used_idx)
        return false;
    svq_release_u16(&ring->used->idx, ring->used_idx);
    ring->published = ring->used_idx;
    svq_full_fence(); /* 2.7.7.1: the peer writes its wish, then reads idx; we do the reverse */
    if (ring->event_idx)
        return vring_need_event(svq_load_u16(&ring->avail->ring[ring->size]), ring->used_idx, old);
    return !(svq_load_u16(&ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

void svq_be_ring_quiet(struct svq_be_ring *ring)
{
    /* With EVENT_IDX it is enough to leave avail_event behind, and flags must be 0 (2.7.10.2). */
    if (ring->event_idx || ring->quiet || ring->fault)
        return;
    svq_store_u16(&ring->used->flags, VRING_USED_F_NO_NOTIFY);
    ring->quiet = true;
}

bool svq_be_ring_arm(struct svq_be_ring *ring)
{
    if (ring->fault)
        return false;
    if (ring->event_idx) {
        svq_store_u16(vring_avail_event(ring->used, ring->size), ring->next_avail);
    } else if (ring->quiet) {
        svq_store_u16(&ring->used->flags, 0);
        ring->quiet = false;
    }
    svq_full_fence(); /* a head offered before the peer saw our wish must be seen now */
    return svq_load_u16(&ring->avail->idx) != ring->next_avail;
}
