/* SPDX-License-Identifier: GPL-2.0-or-later */
/* In place of be_chain.c: the same walk over descriptors that hold the guest's own addresses. */
#include "be_chain.h"
#include "fetch.h"

static int add_desc(struct svq_be_chain *chain, const struct vring_desc *desc)
{
    struct svq_be_seg *seg = &chain->segs[chain->count];
    bool writable = desc->flags & VRING_DESC_F_WRITE;
    if (!writable && chain->writable_bytes > 0)
        return SVQ_BE_FAULT_ORDER;
    if (desc->len == 0)
        return 0;
    if (chain->count == SVQ_BE_SEGS_MAX)
        return SVQ_BE_FAULT_TOO_LONG;
    if (desc->addr >> SVQ_PAGE_SHIFT >> 32)
        return SVQ_BE_FAULT_ADDRESS;
    *seg = (struct svq_be_seg){
        .gref = (uint32_t)(desc->addr >> SVQ_PAGE_SHIFT), /* here: the guest's frame */
        .offset = (uint16_t)(desc->addr & (SVQ_PAGE_SIZE - 1)),
        .length = desc->len,
        .writable = writable,
    };
    chain->count++;
    if (writable) {
        chain->writable_bytes += desc->len;
    } else {
        chain->readable_bytes += desc->len;
        chain->readable++;
    }
    return chain->readable_bytes + chain->writable_bytes > UINT32_MAX ? SVQ_BE_FAULT_TOO_LONG : 0;
}

/* Walks a table of `entries` from entry `i` on. 0, 1: the last one looked at is an indirect one; or -EPROTO. */
static int walk(struct svq_be_ring *ring, const struct vring_desc *table, uint32_t entries, uint32_t i,
                struct svq_be_chain *chain, struct vring_desc *indirect)
{
    for (uint32_t seen = 0; seen < entries; seen++) {
        struct vring_desc desc = svq_fetch_desc(&table[i]);
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            *indirect = desc;
            return 1;
        }
        int fault = add_desc(chain, &desc);
        if (fault)
            return svq_be_ring_fail(ring, fault);
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return 0;
        i = desc.next;
        if (i >= entries)
            return svq_be_ring_fail(ring, SVQ_BE_FAULT_NEXT_RANGE);
    }
    return svq_be_ring_fail(ring, SVQ_BE_FAULT_LOOP);
}

int svq_be_chain_walk(struct svq_be_ring *ring, uint16_t head, const struct svq_be_window *window,
                      const struct svq_be_table_reader *reader, struct svq_be_chain *chain)
{
    struct vring_desc table;
    (void)window;
    chain->count = 0;
    chain->readable = 0;
    chain->readable_bytes = 0;
    chain->writable_bytes = 0;
    int rc = walk(ring, ring->desc, ring->size, head, chain, &table);
    if (rc <= 0)
        return rc;
    uint32_t entries = table.len / sizeof table;
    if (entries == 0 || entries > SVQ_BE_TABLE_MAX || table.addr >> SVQ_PAGE_SHIFT >> 32)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_SIZE);
    uint32_t offset = (uint32_t)(table.addr & (SVQ_PAGE_SIZE - 1));
    rc = reader->read(reader->context, (uint32_t)(table.addr >> SVQ_PAGE_SHIFT), offset, entries, reader->table);
    if (rc)
        return svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_MAP);
    rc = walk(ring, reader->table, entries, 0, chain, &table);
    return rc == 1 ? svq_be_ring_fail(ring, SVQ_BE_FAULT_INDIRECT_NESTED) : rc;
}
