/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_cache.h"

#include <errno.h>
#include <stdlib.h>

#include "barrier.h"

int svq_be_cache_init(struct svq_be_cache *cache, struct svq_hv *hv, uint16_t domid, uint32_t capacity,
                      struct svq_be_stats *stats)
{
    uint32_t buckets = 1;
    while (buckets < capacity)
        buckets *= 2;
    *cache = (struct svq_be_cache){
        .hv = hv,
        .domid = domid,
        .capacity = capacity,
        .bucket_mask = buckets - 1,
        .stats = stats,
        .pages = calloc(capacity, sizeof *cache->pages),
        .buckets = calloc(buckets, sizeof *cache->buckets),
    };
    if (!cache->pages || !cache->buckets) {
        svq_be_cache_fini(cache);
        return -ENOMEM;
    }
    return 0;
}

void svq_be_cache_fini(struct svq_be_cache *cache)
{
    for (uint32_t i = 0; cache->pages && i < cache->filled; i++) {
        if (cache->pages[i].va)
            svq_hv_unmap_grants(cache->hv, cache->pages[i].va, 1);
    }
    free(cache->pages);
    free(cache->buckets);
    cache->pages = NULL;
    cache->buckets = NULL;
    cache->filled = 0;
}

static uint32_t *bucket_of(struct svq_be_cache *cache, uint32_t gref)
{
    /* a pool's grefs are consecutive: the identity spreads them best */
    return &cache->buckets[gref & cache->bucket_mask];
}

static struct svq_be_cache_page *find(struct svq_be_cache *cache, uint32_t gref, bool writable)
{
    struct svq_be_cache_page *found = NULL;
    for (uint32_t at = *bucket_of(cache, gref); at != 0 && !found; at = cache->pages[at - 1].next) {
        struct svq_be_cache_page *page = &cache->pages[at - 1];
        if (page->gref == gref && (page->writable || !writable))
            found = page;
    }
    return found;
}

static void unlink_page(struct svq_be_cache *cache, struct svq_be_cache_page *page)
{
    uint32_t *link = bucket_of(cache, page->gref);
    while (&cache->pages[*link - 1] != page)
        link = &cache->pages[*link - 1].next;
    *link = page->next;
}

/* Second chance: two rounds of the hand find an unused page if there is one. */
static struct svq_be_cache_page *evict(struct svq_be_cache *cache)
{
    for (uint64_t steps = 0; steps < 2ULL * cache->capacity; steps++) {
        struct svq_be_cache_page *page = &cache->pages[cache->hand];
        cache->hand = (cache->hand + 1) % cache->capacity;
        if (page->users > 0)
            continue;
        if (!page->va)
            return page;
        if (page->recent) {
            page->recent = false;
            continue;
        }
        unlink_page(cache, page);
        if (svq_hv_unmap_grants(cache->hv, page->va, 1) == 0)
            svq_store_u64(&cache->stats->cache_pages, cache->stats->cache_pages - 1);
        page->va = NULL;
        svq_count(&cache->stats->cache_evictions, 1);
        return page;
    }
    return NULL;
}

int svq_be_cache_get(struct svq_be_cache *cache, uint32_t gref, bool writable, uint32_t *index)
{
    struct svq_be_cache_page *page = find(cache, gref, writable);
    void *va;
    int rc;
    if (!page) {
        svq_count(&cache->stats->cache_misses, 1);
        page = cache->filled < cache->capacity ? &cache->pages[cache->filled] : evict(cache);
        if (!page)
            return -EAGAIN;
        rc = svq_hv_map_grants(cache->hv, cache->domid, &gref, 1, writable, &va);
        if (rc)
            return rc == -EAGAIN ? -EBUSY : rc;
        if (cache->filled < cache->capacity)
            cache->filled++;
        *page = (struct svq_be_cache_page){ .va = va, .gref = gref, .writable = writable };
        page->next = *bucket_of(cache, gref);
        *bucket_of(cache, gref) = (uint32_t)(page - cache->pages) + 1;
        svq_count(&cache->stats->cache_pages, 1);
    }
    page->users++;
    page->recent = true;
    *index = (uint32_t)(page - cache->pages);
    return 0;
}

void svq_be_cache_put(struct svq_be_cache *cache, uint32_t index) { cache->pages[index].users--; }
