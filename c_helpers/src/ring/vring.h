/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The split ring as virtio 1.4 defines it (2.7), and the feature bits that change it. Constants and offsets, no policy.
 */
#ifndef SVQ_VRING_H
#define SVQ_VRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

/* --- split ring, virtio 2.7 ------------------------------------------------------------------------------- */
enum {
    VRING_DESC_F_NEXT = 1,          /* 2.7.5 */
    VRING_DESC_F_WRITE = 2,         /* 2.7.5 */
    VRING_DESC_F_INDIRECT = 4,      /* 2.7.5 */
    VRING_AVAIL_F_NO_INTERRUPT = 1, /* 2.7.6 */
    VRING_USED_F_NO_NOTIFY = 1,     /* 2.7.8 */
    VRING_DESC_ALIGN = 16,          /* 2.7 */
    VRING_AVAIL_ALIGN = 2,
    VRING_USED_ALIGN = 4,
};

struct vring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct vring_used_elem {
    uint32_t id;
    uint32_t len;
};

/* The available ring: flags, idx, ring[size], used_event (2.7.6). */
struct vring_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
};

/* The used ring: flags, idx, ring[size], avail_event (2.7.8). */
struct vring_used {
    uint16_t flags;
    uint16_t idx;
    struct vring_used_elem ring[];
};

_Static_assert(sizeof(struct vring_desc) == 16 && sizeof(struct vring_used_elem) == 8, "virtio 2.7.5, 2.7.8");

static inline size_t vring_desc_bytes(uint32_t size) { return (size_t)16 * size; }
static inline size_t vring_avail_bytes(uint32_t size) { return 6 + (size_t)2 * size; }
static inline size_t vring_used_bytes(uint32_t size) { return 6 + (size_t)8 * size; }
static inline size_t svq_pages_for(size_t bytes) { return (bytes + SVQ_PAGE_SIZE - 1) >> SVQ_PAGE_SHIFT; }

static inline uint64_t svq_pages_touched(uint64_t addr, uint32_t len)
{
    return ((addr & (SVQ_PAGE_SIZE - 1)) + len + SVQ_PAGE_SIZE - 1) >> SVQ_PAGE_SHIFT;
}

static inline uint16_t *vring_used_event(struct vring_avail *avail, uint32_t size) { return &avail->ring[size]; }
static inline uint16_t *vring_avail_event(struct vring_used *used, uint32_t size)
{
    return (uint16_t *)(void *)&used->ring[size];
}

/* 2.7.10: does moving idx from `old` to `now` cross the index at which the peer asked for an event? */
static inline int vring_need_event(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* --- feature bits, virtio 6 --------------------------------------------------------------------------------- */
enum {
    VIRTIO_F_INDIRECT_DESC = 28,
    VIRTIO_F_EVENT_IDX = 29,
    VIRTIO_F_VERSION_1 = 32,
    VIRTIO_F_ACCESS_PLATFORM = 33,
    VIRTIO_F_RING_RESET = 40,
};

#endif
