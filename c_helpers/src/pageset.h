/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which pages the ends of a chain's segments lie on, and in which direction: a hash set that is emptied by counting an epoch
 * up. Only placement `page` needs it: a page that holds both a readable and a writable buffer must not be granted
 * writable, or the backend could write what it may only read. Looking at each pair of segments would be quadratic.
 */
#ifndef SVQ_PAGESET_H
#define SVQ_PAGESET_H

#include "svq.h"

enum {
    SVQ_PAGESET_SLOTS = 4 * SVQ_QUEUE_SIZE_MAX, /* two ends a segment: at most half full */
    SVQ_PAGE_READ = 1,
    SVQ_PAGE_WRITTEN = 2,
};

struct svq_pageset {
    uint32_t epoch;
    struct svq_pageset_slot {
        uint64_t gfn;
        uint32_t epoch;
        uint32_t directions;
    } slots[SVQ_PAGESET_SLOTS];
};

static inline struct svq_pageset_slot *svq_pageset_find(struct svq_pageset *set, uint64_t gfn)
{
    uint32_t i = (uint32_t)((gfn * 0x9e3779b97f4a7c15ull) >> 32) % SVQ_PAGESET_SLOTS;
    for (uint32_t tries = 0; tries < SVQ_PAGESET_SLOTS; tries++) {
        struct svq_pageset_slot *slot = &set->slots[(i + tries) % SVQ_PAGESET_SLOTS];
        if (slot->epoch != set->epoch) {
            slot->epoch = set->epoch;
            slot->gfn = gfn;
            slot->directions = 0;
            return slot;
        }
        if (slot->gfn == gfn)
            return slot;
    }
    return &set->slots[i]; /* not reached: half of the slots are free */
}

static inline void svq_pageset_clear(struct svq_pageset *set)
{
    if (++set->epoch == 0) { /* once in 2^32 chains: no slot may look current by chance */
        for (uint32_t i = 0; i < SVQ_PAGESET_SLOTS; i++)
            set->slots[i].epoch = 0;
        set->epoch = 1;
    }
}

#endif
