/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way back of a placed chain: finds its parts, ends their grants, gives back its slots and its block. This gives
 * back what placement.c takes for a chain; the structures are in engine.h.
 */
#ifndef SVQ_PART_H
#define SVQ_PART_H

#include "engine.h"

static inline struct svq_part *svq_in_flight_parts(struct svq_queue *q, struct svq_in_flight *entry)
{
    if (entry->block_class == SVQ_NO_BLOCK)
        return &entry->part;
    struct svq_block_class *class = &q->blocks[entry->block_class];
    return class->parts + (size_t)entry->block * class->parts_per_block;
}

static inline void svq_give_block(struct svq_queue *q, const struct svq_in_flight *entry)
{
    if (entry->block_class != SVQ_NO_BLOCK)
        svq_slots_give(&q->blocks[entry->block_class].tables, entry->block);
}

static inline uint8_t *svq_part_va(const struct svq_queue *q, const struct svq_part *part) /* of a bounced part */
{
    return svq_slots_va(&q->bounce.pool[part->where], part->ref);
}

/*
 * Slots hold nothing between requests: neither the driver's bytes for the backend to find, nor the device's bytes for a
 * driver to receive when the backend claims to have written more than it did (XSA-403: bounce into zeroed pages).
 */
static inline void svq_part_give_slot(struct svq_queue *q, const struct svq_part *part)
{
    struct svq_slots *slots = &q->bounce.pool[part->where];
    uint8_t *va = svq_slots_va(slots, part->ref);
    if (part->where <= SVQ_SMALL_WRITABLE)
        __builtin_memset(va, 0, SVQ_SMALL_BYTES);
    else
        __builtin_memset(va, 0, part->where == SVQ_PAGE_WRITABLE ? SVQ_PAGE_SIZE : part->len);
    svq_slots_give(slots, part->ref);
}

/* The grant that was made for page `i` of a part. */
static inline uint64_t svq_part_grant(const struct svq_queue *q, const struct svq_part *part, uint32_t i)
{
    return q->granted[part->writable] | ((part->gpa >> SVQ_PAGE_SHIFT) + i) << 32;
}

/* Ends that grant. */
static inline enum svq_end svq_end_page(struct svq_queue *q, const struct svq_part *part, uint32_t i)
{
    return svq_entry_end(svq_window_entry(q->window, part->ref + i), svq_part_grant(q, part, i));
}

/*
 * Ends the grants of a part, page by page. Returns how many are held; *code says why not all could be ended, and stays
 * as it is if all could. May be called again, to retry those that are held.
 */
unsigned svq_end_grants(struct svq_queue *q, struct svq_part *part, int *code);

/*
 * Gives back all that a placed chain holds, without copying anything to the driver. Returns the number of pages held
 * (*code says so, or that the frontend tampered): then the entry still has those, and must be passed here again.
 */
unsigned svq_unplace_chain(struct svq_queue *q, struct svq_in_flight *entry, int *code);

/* Is what the parked chain lacks available now? */
bool svq_lack_is_met(const struct svq_queue *q);

#endif
