/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_chain.h"

#include "fetch.h"
#include "grant.h"

static bool all_in_window(const struct svq_be_window *window, uint64_t first, uint64_t pages)
{
    return first >= window->first && first + pages <= (uint64_t)window->first + window->count;
}

/* Checks an address (grant.h) and its length. 0 or SVQ_BE_FAULT_*. */
static int seg_from(const struct svq_be_window *window, uint64_t untrusted_addr, uint32_t length,
                    struct svq_be_seg *seg)
{
    uint64_t gref = (untrusted_addr & ~(SVQ_GRANT_ADDR_FLAG | SVQ_WINDOW_ADDR_FLAG)) >> SVQ_PAGE_SHIFT;
    seg->offset = (uint16_t)svq_grant_addr_offset(untrusted_addr);
    seg->length = length;
    uint64_t pages = svq_be_seg_pages(seg);
    if (!(untrusted_addr & SVQ_GRANT_ADDR_FLAG) || gref + pages > (1ULL << 32))
        return SVQ_BE_FAULT_ADDRESS;
    seg->gref = (uint32_t)gref;
    seg->in_window = (untrusted_addr & SVQ_WINDOW_ADDR_FLAG) != 0;
    if (seg->in_window && !all_in_window(window, gref, pages))
        return SVQ_BE_FAULT_WINDOW;
    return 0;
}

static int add_desc(struct svq_be_chain *chain, const struct svq_be_window *window, const struct vring_desc *desc)
{
    struct svq_be_seg *seg = &chain->segs[chain->count];
    bool writable = desc->flags & VRING_DESC_F_WRITE;

    /* 2.7.4.2: device-writable elements come after all device-readable ones */
    if (!writable && chain->writable_bytes > 0)
        return SVQ_BE_FAULT_ORDER;
    if (desc->len == 0)
        return 0;
    if (chain->count == SVQ_BE_SEGS_MAX)
        return SVQ_BE_FAULT_TOO_LONG;
    int fault = seg_from(window, desc->addr, desc->len, seg);
    if (fault)
        return fault;
    seg->writable = writable;
    chain->count++;
    if (writable) {
        chain->writable_bytes += desc->len;
    } else {
        chain->readable_bytes += desc->len;
        chain->readable++;
    }
    /* 2.7.5.2: at most 2^32 bytes; used.len cannot express more than 2^32 - 1 */
    if (chain->readable_bytes + chain->writable_bytes > UINT32_MAX)
        return SVQ_BE_FAULT_TOO_LONG;
    return 0;
}

/* An indirect table (2.7.5.3), copied once as a whole, then walked by `next` in the copy. */
static int walk_table(struct svq_be_ring *ring, const struct vring_desc *referrer, const struct svq_be_window *window,
                      const struct svq_be_table_reader *reader, struct svq_be_chain *chain)
{
    uint32_t entries = referrer->len / sizeof(struct vring_desc);
    uint32_t i = 0;
    if (!ring->indirect)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_OFF);
    if (referrer->flags & VRING_DESC_F_NEXT)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_NEXT);
    if (entries == 0 || entries > SVQ_BE_TABLE_MAX || referrer->len % sizeof(struct vring_desc) ||
        referrer->addr % VRING_DESC_ALIGN)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_SIZE);
    struct svq_be_seg where;
    int rc = seg_from(window, referrer->addr, referrer->len, &where);
    if (rc || where.in_window) /* a table in the frontend's memory could change under us */
        return svq_be_ring_fail(ring, rc ? rc : SVQ_BE_FAULT_WINDOW);
    rc = reader->read(reader->context, where.gref, where.offset, entries, reader->table);
    if (rc)
        return rc == -EAGAIN ? rc : svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_MAP);
    for (uint32_t seen = 0;; seen++) {
        struct vring_desc *desc = &reader->table[i];
        if (seen == entries)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_LOOP);
        if (desc->flags & VRING_DESC_F_INDIRECT)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_NESTED);
        rc = add_desc(chain, window, desc);
        if (rc)
            return svq_be_ring_fail(ring, rc);
        if (!(desc->flags & VRING_DESC_F_NEXT))
            return 0;
        i = desc->next;
        if (i >= entries)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_NEXT_RANGE);
    }
}

int svq_be_chain_walk(struct svq_be_ring *ring, uint16_t head, const struct svq_be_window *window,
                      const struct svq_be_table_reader *reader, struct svq_be_chain *chain)
{
    uint32_t i = head;
    chain->count = 0;
    chain->readable = 0;
    chain->readable_bytes = 0;
    chain->writable_bytes = 0;
    for (uint32_t seen = 0;; seen++) {
        if (seen == ring->size)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_LOOP);
        struct vring_desc desc = svq_fetch_desc(&ring->desc[i]);
        if (desc.flags & VRING_DESC_F_INDIRECT)
            return walk_table(ring, &desc, window, reader, chain);
        int fault = add_desc(chain, window, &desc);
        if (fault)
            return svq_be_ring_fail(ring, fault);
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        i = desc.next;
        if (i >= ring->size)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_NEXT_RANGE);
    }
}
