/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "chain.h"

#include "fetch.h"

/* What the walk has counted so far: in registers, while the chain itself is in memory. */
struct walk {
    uint64_t pages;
    uint32_t count, writable_bytes;
    uint16_t desc; /* the descriptor that we look at, for messages */
};

static __attribute__((cold, noinline)) int reject(struct svq_chain *chain, int code, uint64_t value, uint64_t limit)
{
    chain->bad_value = value;
    chain->bad_limit = limit;
    return code;
}

/* One buffer descriptor, already in private memory. */
static inline __attribute__((always_inline)) int add_segment(const struct svq_chain_source *source,
                                                             struct vring_desc untrusted_desc, struct svq_chain *chain,
                                                             struct walk *walk)
{
    uint64_t gpa = untrusted_desc.addr, end = gpa + untrusted_desc.len;
    uint32_t len = untrusted_desc.len;
    bool writable = untrusted_desc.flags & VRING_DESC_F_WRITE;

    /* count over the whole chain, including its indirect table: openvmm #2986 */
    if (SVQ_REJECTS(walk->count >= source->size, SVQ_E_CHAIN_LOOP))
        return reject(chain, SVQ_E_CHAIN_LOOP, walk->count + 1u, source->size);
    if (svq_unlikely(walk->count >= SVQ_QUEUE_SIZE_MAX))
        return reject(chain, SVQ_E_CHAIN_LIMIT, walk->count + 1u, SVQ_QUEUE_SIZE_MAX);
    if (SVQ_REJECTS(len == 0, SVQ_E_ZERO_LENGTH))
        return reject(chain, SVQ_E_ZERO_LENGTH, 0, 1);
    if (SVQ_REJECTS(!writable && walk->writable_bytes, SVQ_E_WRITABLE_BEFORE_READABLE))
        return reject(chain, SVQ_E_WRITABLE_BEFORE_READABLE, walk->desc, 0);
    if (SVQ_REJECTS(end < gpa || end > source->gpa_limit, SVQ_E_ADDRESS_WRAP))
        return reject(chain, SVQ_E_ADDRESS_WRAP, gpa, source->gpa_limit);
    walk->pages += svq_pages_touched(gpa, len);
    if (SVQ_REJECTS(walk->pages > source->pages_max, SVQ_E_CHAIN_LIMIT))
        return reject(chain, SVQ_E_CHAIN_LIMIT, walk->pages, source->pages_max);

    walk->writable_bytes += writable ? len : 0;
    struct svq_segment *segment = &chain->segments[walk->count++];
    segment->gpa = gpa;
    segment->len = len;
    segment->writable = writable;
    segment->desc = walk->desc;
    return 0;
}

/*
 * An indirect table: copy each entry once and check the copy; 2.7.5.3.2 says to ignore WRITE of the referring
 * descriptor.
 */
static __attribute__((noinline)) int walk_indirect(const struct svq_chain_source *source,
                                                   struct vring_desc untrusted_ref, struct svq_chain *chain,
                                                   struct walk *walk)
{
    uint64_t gpa = untrusted_ref.addr;
    uint32_t len = untrusted_ref.len, entries = len / sizeof(struct vring_desc);

    if (SVQ_REJECTS(!source->indirect_negotiated, SVQ_E_INDIRECT_NOT_NEGOTIATED))
        return reject(chain, SVQ_E_INDIRECT_NOT_NEGOTIATED, untrusted_ref.flags, 0);
    if (SVQ_REJECTS(untrusted_ref.flags & VRING_DESC_F_NEXT, SVQ_E_INDIRECT_WITH_NEXT))
        return reject(chain, SVQ_E_INDIRECT_WITH_NEXT, untrusted_ref.flags, VRING_DESC_F_INDIRECT);
    if (SVQ_REJECTS(len == 0 || len % sizeof(struct vring_desc), SVQ_E_INDIRECT_LENGTH))
        return reject(chain, SVQ_E_INDIRECT_LENGTH, len, sizeof(struct vring_desc));
    if (SVQ_REJECTS(entries > source->size, SVQ_E_INDIRECT_TOO_LONG))
        return reject(chain, SVQ_E_INDIRECT_TOO_LONG, entries, source->size);
    uint64_t end = gpa + len, limit = source->gpa_limit;
    if (SVQ_REJECTS(end < gpa || end > limit || !svq_guestmem_is_ram(source->view, gpa, len), SVQ_E_INDIRECT_NOT_RAM))
        return reject(chain, SVQ_E_INDIRECT_NOT_RAM, gpa, limit);

    chain->in_indirect = 1;
    uint32_t i = 0;
    for (uint32_t walked = 0; walked <= entries; walked++) {
        struct vring_desc untrusted_desc;
        if (SVQ_REJECTS(!svq_view_read(source->view, gpa + (uint64_t)i * sizeof untrusted_desc, &untrusted_desc,
                                       sizeof untrusted_desc),
                        SVQ_E_INDIRECT_NOT_RAM))
            return reject(chain, SVQ_E_INDIRECT_NOT_RAM, gpa, limit);
        walk->desc = (uint16_t)i;
        if (SVQ_REJECTS(untrusted_desc.flags & VRING_DESC_F_INDIRECT, SVQ_E_INDIRECT_NESTED))
            return reject(chain, SVQ_E_INDIRECT_NESTED, untrusted_desc.flags, 0);
        int rc = add_segment(source, untrusted_desc, chain, walk);
        if (rc < 0 || !(untrusted_desc.flags & VRING_DESC_F_NEXT))
            return rc;
        if (SVQ_REJECTS(untrusted_desc.next >= entries, SVQ_E_NEXT_RANGE))
            return reject(chain, SVQ_E_NEXT_RANGE, untrusted_desc.next, entries);
        i = untrusted_desc.next;
    }
    /* more steps than entries: a loop in a table smaller than the queue, since add_segment catches all others */
    if (SVQ_REJECTS(true, SVQ_E_CHAIN_LOOP))
        return reject(chain, SVQ_E_CHAIN_LOOP, entries + 1u, entries);
    return reject(chain, SVQ_E_CHAIN_LIMIT, entries + 1u, entries);
}

static inline int walk_table(const struct svq_chain_source *source, uint16_t head, struct svq_chain *chain,
                             struct walk *walk)
{
    uint16_t i = head;
    for (uint32_t walked = 0; walked <= source->size; walked++) {
        struct vring_desc untrusted_desc = svq_fetch_desc(&source->table[i]);
        walk->desc = i;
        if (svq_unlikely(untrusted_desc.flags & VRING_DESC_F_INDIRECT))
            return walk_indirect(source, untrusted_desc, chain, walk);
        int rc = add_segment(source, untrusted_desc, chain, walk);
        if (rc < 0 || !(untrusted_desc.flags & VRING_DESC_F_NEXT))
            return rc;
        if (SVQ_REJECTS(untrusted_desc.next >= source->size, SVQ_E_NEXT_RANGE))
            return reject(chain, SVQ_E_NEXT_RANGE, untrusted_desc.next, source->size);
        i = untrusted_desc.next;
    }
    /* not reached: add_segment returns CHAIN_LOOP first */
    return reject(chain, SVQ_E_CHAIN_LIMIT, source->size + 1u, source->size);
}

int svq_chain_fetch(const struct svq_chain_source *source, uint16_t head, struct svq_chain *chain)
{
    struct walk walk = { .desc = head };
    chain->head = head;
    chain->in_indirect = 0;
    int rc = walk_table(source, head, chain, &walk);
    chain->count = (uint16_t)walk.count;
    chain->writable_bytes = walk.writable_bytes;
    chain->pages = (uint32_t)walk.pages;
    chain->desc = walk.desc;
    return rc;
}
