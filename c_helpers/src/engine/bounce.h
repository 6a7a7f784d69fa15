/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mediator memory that the backend sees: bounce slots for what we copy, and blocks for shadow indirect tables. We share
 * it with the backend once, at set-up. Slots are taken last-in first-out, so they stay in the cache.
 */
#ifndef SVQ_BOUNCE_H
#define SVQ_BOUNCE_H

#include "arena.h"
#include "vring.h"

/* Slots of equal size in shared pages; a slot lies within one page. */
struct svq_slots {
    struct svq_arena *arena;
    uint8_t *va;
    uint64_t *page_addrs; /* the grant address of each page */
    uint16_t *free;       /* stack of slot numbers */
    uint32_t free_count;
    uint32_t count;
    uint32_t pages;
    uint32_t slot_shift; /* log2 of the slot's bytes */
};

int svq_slots_init(struct svq_slots *slots, struct svq_arena *arena, uint32_t slot_shift, uint32_t count,
                   int backend_may_write);
void svq_slots_destroy(struct svq_slots *slots);

enum { SVQ_NO_SLOT = -1 };

static inline int svq_slots_take(struct svq_slots *slots)
{
    return slots->free_count ? slots->free[--slots->free_count] : SVQ_NO_SLOT;
}
static inline void svq_slots_give(struct svq_slots *slots, uint32_t slot)
{
    slots->free[slots->free_count++] = (uint16_t)slot;
}
static inline uint8_t *svq_slots_va(const struct svq_slots *slots, uint32_t slot)
{
    return slots->va + ((size_t)slot << slots->slot_shift);
}
static inline uint64_t svq_slots_addr(const struct svq_slots *slots, uint32_t slot)
{
    uint32_t offset = slot << slots->slot_shift; /* below 2^28: a slot number has 16 bits */
    return slots->page_addrs[offset >> SVQ_PAGE_SHIFT] | (offset & (SVQ_PAGE_SIZE - 1));
}

enum { SVQ_SMALL_SHIFT = 6, SVQ_SMALL_BYTES = 1 << SVQ_SMALL_SHIFT };

/* The pools of one queue, by enum svq_pool. Readable: for the backend, which may only read (driver to device). */
enum svq_pool { SVQ_SMALL_READABLE, SVQ_SMALL_WRITABLE, SVQ_PAGE_READABLE, SVQ_PAGE_WRITABLE, SVQ_POOLS };

struct svq_bounce {
    struct svq_slots pool[SVQ_POOLS];
};

int svq_bounce_init(struct svq_bounce *bounce, struct svq_arena *arena, uint32_t small_slots, uint32_t page_slots);
void svq_bounce_destroy(struct svq_bounce *bounce);

#endif
