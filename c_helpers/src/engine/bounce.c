/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bounce.h"

#include "grant.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int svq_slots_init(struct svq_slots *slots, struct svq_arena *arena, uint32_t slot_shift, uint32_t count,
                   int backend_may_write)
{
    memset(slots, 0, sizeof *slots);
    if (count == 0 || count > UINT16_MAX)
        return -EINVAL;
    uint32_t pages = (uint32_t)svq_pages_for((size_t)count << slot_shift);
    uint32_t *grefs = calloc(pages, sizeof *grefs);
    slots->page_addrs = calloc(pages, sizeof *slots->page_addrs);
    slots->free = calloc(count, sizeof *slots->free);
    void *va = NULL;
    int rc = grefs && slots->page_addrs && slots->free ? svq_arena_take(arena, pages, backend_may_write, grefs, &va)
                                                       : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < pages; i++)
        slots->page_addrs[i] = svq_grant_addr(grefs[i], 0);
    free(grefs);
    if (rc < 0) {
        svq_slots_destroy(slots);
        return rc;
    }
    slots->arena = arena;
    slots->va = va;
    slots->pages = pages;
    slots->count = count;
    slots->slot_shift = slot_shift;
    for (uint32_t i = count; i-- > 0;)
        svq_slots_give(slots, i);
    return 0;
}

void svq_slots_destroy(struct svq_slots *slots)
{
    if (slots->va)
        svq_arena_give(slots->arena, slots->va);
    free(slots->page_addrs);
    free(slots->free);
    memset(slots, 0, sizeof *slots);
}

int svq_bounce_init(struct svq_bounce *bounce, struct svq_arena *arena, uint32_t small_slots, uint32_t page_slots)
{
    memset(bounce, 0, sizeof *bounce);
    for (int i = 0; i < SVQ_POOLS; i++) {
        bool small = i == SVQ_SMALL_READABLE || i == SVQ_SMALL_WRITABLE;
        int writable = i == SVQ_SMALL_WRITABLE || i == SVQ_PAGE_WRITABLE;
        int rc = svq_slots_init(&bounce->pool[i], arena, small ? SVQ_SMALL_SHIFT : SVQ_PAGE_SHIFT,
                                small ? small_slots : page_slots, writable);
        if (rc < 0) {
            svq_bounce_destroy(bounce);
            return rc;
        }
    }
    return 0;
}

void svq_bounce_destroy(struct svq_bounce *bounce)
{
    for (int i = 0; i < SVQ_POOLS; i++)
        svq_slots_destroy(&bounce->pool[i]);
}
