/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a head to a list of checked parts: follows a descriptor chain (virtio 2.7.5), copies each descriptor once, and
 * turns grant addresses into (gref, offset, length).
 */
#ifndef SVQ_BE_CHAIN_H
#define SVQ_BE_CHAIN_H

#include "be_ring.h"

enum {
    SVQ_BE_SEGS_MAX = SVQ_BE_QUEUE_SIZE_MAX + SVQ_BE_TABLE_MAX, /* the longest direct chain, then a full table */
};

struct svq_be_window {
    uint16_t owner;
    uint32_t first;
    uint32_t count;
};

/* A checked descriptor: length > 0, and all its grefs exist, inside the window if marked as the window's. */
struct svq_be_seg {
    uint32_t gref;
    uint32_t length;
    uint16_t offset;
    uint8_t writable;
    uint8_t in_window;
};

struct svq_be_chain {
    uint32_t count;
    uint32_t readable; /* segs[0..readable) are device-readable, the rest device-writable */
    uint64_t readable_bytes;
    uint64_t writable_bytes;
    struct svq_be_seg segs[SVQ_BE_SEGS_MAX];
};

/*
 * Copies `count` descriptors of an indirect table at (gref, offset), in the mediator's pages, to `table`. 0, -EAGAIN
 * (try again when another request has ended) or another -errno.
 */
struct svq_be_table_reader {
    int (*read)(void *context, uint32_t gref, uint32_t offset, uint32_t count, struct vring_desc *table);
    void *context;
    struct vring_desc *table; /* room for SVQ_BE_TABLE_MAX */
};

static inline uint32_t svq_be_seg_pages(const struct svq_be_seg *seg)
{
    return (uint32_t)(((uint64_t)seg->offset + seg->length + SVQ_PAGE_SIZE - 1) >> SVQ_PAGE_SHIFT);
}

/* 0, -EAGAIN from the reader, or -EPROTO: ring->fault says what is wrong with the chain. */
int svq_be_chain_walk(struct svq_be_ring *ring, uint16_t head, const struct svq_be_window *window,
                      const struct svq_be_table_reader *reader, struct svq_be_chain *chain);

#endif
