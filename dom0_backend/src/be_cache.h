/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mediator pages by grant reference. They live as long as the device (bounce pool, indirect tables), so each is mapped
 * at its first use and stays mapped. A bounded table; all memory is allocated at set-up. Never used for window pages.
 */
#ifndef SVQ_BE_CACHE_H
#define SVQ_BE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "svq_backend.h"
#include "svq_hv.h"

struct svq_be_cache_page {
    uint8_t *va; /* NULL: free */
    uint32_t gref;
    uint32_t next; /* in its bucket, index + 1; 0: the last */
    uint32_t users;
    bool writable;
    bool recent; /* used since the clock hand last passed */
};

struct svq_be_cache {
    struct svq_hv *hv;
    uint16_t domid;
    struct svq_be_cache_page *pages;
    uint32_t *buckets; /* index + 1 */
    uint32_t capacity;
    uint32_t bucket_mask;
    uint32_t filled; /* pages[filled..capacity) were never used */
    uint32_t hand;
    struct svq_be_stats *stats;
};

int svq_be_cache_init(struct svq_be_cache *cache, struct svq_hv *hv, uint16_t domid, uint32_t capacity,
                      struct svq_be_stats *stats);
void svq_be_cache_fini(struct svq_be_cache *cache); /* unmaps everything; nothing may be in use */

/*
 * The page's index, held until put. A page granted read-only cannot be mapped writable, and a page mapped writable
 * serves readers too, so the two modes of a gref are two entries. -EAGAIN: all entries are in use now; another -errno:
 * the page is not granted with that access.
 */
int svq_be_cache_get(struct svq_be_cache *cache, uint32_t gref, bool writable, uint32_t *index);
void svq_be_cache_put(struct svq_be_cache *cache, uint32_t index);

#endif
