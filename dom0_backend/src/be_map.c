/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_map.h"

#include <errno.h>

#include "barrier.h"

enum { READABLE = 0, WRITABLE = 1 };

int svq_be_map_init(struct svq_be_map *map, struct svq_hv *hv, const struct svq_be_config *config,
                    struct svq_be_stats *stats)
{
    map->hv = hv;
    map->stats = stats;
    map->window = (struct svq_be_window){
        .owner = config->window_owner,
        .first = config->window_first,
        .count = config->window_count,
    };
    map->parts = svq_hv_can_unmap_part(hv);
    return svq_be_cache_init(&map->cache, hv, config->mediator_domid, config->cache_pages, stats);
}

void svq_be_map_fini(struct svq_be_map *map) { svq_be_cache_fini(&map->cache); }

static const struct svq_be_seg *side_begin(const struct svq_be_chain *chain, int side)
{
    return side == READABLE ? chain->segs : chain->segs + chain->readable;
}

static const struct svq_be_seg *side_end(const struct svq_be_chain *chain, int side)
{
    return side == READABLE ? chain->segs + chain->readable : chain->segs + chain->count;
}

/* Adds a piece to the side's iovec, joined with the previous piece if the addresses touch. */
static void add_piece(struct iovec *iov, uint32_t *count, void *at, size_t length)
{
    if (*count > 0 && (uint8_t *)iov[*count - 1].iov_base + iov[*count - 1].iov_len == (uint8_t *)at) {
        iov[*count - 1].iov_len += length;
        return;
    }
    iov[(*count)++] = (struct iovec){ .iov_base = at, .iov_len = length };
}

/* Do the pages of one side fit? Window and mediator pages both count against the request's bound. */
static bool side_fits(const struct svq_be_chain *chain, int side)
{
    uint64_t pages = 0;
    for (const struct svq_be_seg *seg = side_begin(chain, side); seg < side_end(chain, side); seg++)
        pages += svq_be_seg_pages(seg);
    return pages <= SVQ_BE_REQ_PAGES_MAX;
}

static void reset(struct svq_be_req *req)
{
    req->mem.window[READABLE] = (struct svq_be_slice){ 0 };
    req->mem.window[WRITABLE] = (struct svq_be_slice){ 0 };
    req->mem.wanted[READABLE] = 0;
    req->mem.wanted[WRITABLE] = 0;
    req->mem.cached = 0;
    req->unreachable = false;
    req->status_at = NULL;
    svq_be_span_init(&req->in, req->iov[WRITABLE], 0);
    svq_be_span_init(&req->out, req->iov[READABLE], 0);
}

/* The next mediator page of a request, held until it is unmapped. */
static int get_mediator_page(struct svq_be_map *map, struct svq_be_req *req, uint32_t gref, bool writable)
{
    uint32_t index;
    int rc = svq_be_cache_get(&map->cache, gref, writable, &index);
    if (rc)
        return rc == -EAGAIN ? rc : -EPROTO;
    req->mem.cache_index[req->mem.cached++] = index;
    return 0;
}

static void put_mediator_pages(struct svq_be_map *map, struct svq_be_req *req)
{
    for (uint32_t i = 0; i < req->mem.cached; i++)
        svq_be_cache_put(&map->cache, req->mem.cache_index[i]);
    req->mem.cached = 0;
}

static int begin_seg(struct svq_be_map *map, struct svq_be_req *req, const struct svq_be_seg *seg)
{
    uint32_t pages = svq_be_seg_pages(seg);
    int rc = 0;
    if (seg->in_window) {
        req->mem.wanted[seg->writable ? WRITABLE : READABLE] += pages;
        return 0;
    }
    for (uint32_t i = 0; rc == 0 && i < pages; i++)
        rc = get_mediator_page(map, req, seg->gref + i, seg->writable);
    return rc;
}

/* The last writable byte of a request that has one: where the driver looks whether it failed. */
static uint32_t status_gref(const struct svq_be_req *req, const struct svq_be_seg **seg, uint32_t *offset)
{
    *seg = side_end(&req->chain, WRITABLE) - 1;
    uint64_t byte = (uint64_t)(*seg)->offset + (*seg)->length - 1;
    *offset = (uint32_t)byte & (SVQ_PAGE_SIZE - 1);
    return (*seg)->gref + (uint32_t)(byte >> SVQ_PAGE_SHIFT);
}

/* Of a request that is too large: the page of its status, if it is the mediator's. */
static int begin_unreachable(struct svq_be_map *map, struct svq_be_req *req)
{
    const struct svq_be_seg *seg;
    uint32_t offset;
    req->unreachable = true;
    if (req->chain.writable_bytes == 0)
        return 0;
    uint32_t gref = status_gref(req, &seg, &offset);
    return seg->in_window ? 0 : get_mediator_page(map, req, gref, true);
}

int svq_be_map_begin(struct svq_be_map *map, struct svq_be_req *req)
{
    int rc = 0;
    reset(req);
    if (!side_fits(&req->chain, READABLE) || !side_fits(&req->chain, WRITABLE))
        rc = begin_unreachable(map, req);
    for (uint32_t i = 0; rc == 0 && !req->unreachable && i < req->chain.count; i++)
        rc = begin_seg(map, req, &req->chain.segs[i]);
    if (rc)
        put_mediator_pages(map, req);
    return rc;
}

/* One call for the window pages of one access mode of some requests, in the order of their descriptors. */
static int map_together(struct svq_be_map *map, struct svq_be_req **reqs, uint32_t count, int side)
{
    uint32_t pages = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct svq_be_chain *chain = &reqs[i]->chain;
        const struct svq_be_seg *end = reqs[i]->mem.wanted[side] ? side_end(chain, side) : side_begin(chain, side);
        for (const struct svq_be_seg *seg = side_begin(chain, side); seg < end; seg++) {
            uint32_t of_seg = seg->in_window ? svq_be_seg_pages(seg) : 0;
            for (uint32_t page = 0; page < of_seg; page++)
                map->grefs[pages++] = seg->gref + page;
        }
    }
    if (pages == 0)
        return 0;
    svq_count(&map->stats->map_calls, 1);
    void *va;
    int rc = svq_hv_map_grants(map->hv, map->window.owner, map->grefs, pages, side == WRITABLE, &va);
    if (rc)
        return rc;
    svq_count(&map->stats->map_pages, pages);
    struct svq_be_slice *before = NULL;
    for (uint32_t i = 0; i < count; i++) {
        struct svq_be_slice *slice = &reqs[i]->mem.window[side];
        slice->pages = reqs[i]->mem.wanted[side];
        if (slice->pages == 0)
            continue;
        svq_be_slice_place(slice, before, va, pages);
        before = slice;
    }
    return 0;
}

/* If one call for all is refused, each request has a call of its own, and an answer of its own. */
static void map_side(struct svq_be_map *map, struct svq_be_req **reqs, uint32_t count, int side)
{
    uint32_t having = 0;
    for (uint32_t i = 0; i < count; i++)
        having += reqs[i]->mem.wanted[side] > 0;
    if (map_together(map, reqs, count, side) == 0)
        return;
    for (uint32_t i = 0; i < count; i++) {
        struct svq_be_req *req = reqs[i];
        if (req->mem.wanted[side] > 0 && (having == 1 || map_together(map, &req, 1, side))) {
            req->unreachable = true;
            req->mem.wanted[READABLE] = 0;
            req->mem.wanted[WRITABLE] = 0;
        }
    }
}

/* How many of the requests, from the first on, one call of each mode can map. Each fits by itself. */
static uint32_t count_fitting(const struct svq_be_map *map, struct svq_be_req *const *reqs, uint32_t count)
{
    uint32_t readable = 0, writable = 0, fitting = 0;
    if (!map->parts) /* then pages that share a mapping would wait for one another */
        return 1;
    for (; fitting < count; fitting++) {
        readable += reqs[fitting]->mem.wanted[READABLE];
        writable += reqs[fitting]->mem.wanted[WRITABLE];
        if (readable > SVQ_BE_REQ_PAGES_MAX || writable > SVQ_BE_REQ_PAGES_MAX)
            break;
    }
    return fitting;
}

/* Pieces of one mediator part: page by page, as the cache maps pages one by one. */
static void add_mediator_seg(const struct svq_be_map *map, const uint32_t **held, const struct svq_be_seg *seg,
                             struct iovec *iov, uint32_t *count)
{
    uint32_t offset = seg->offset;
    uint32_t left = seg->length;
    while (left > 0) {
        uint32_t take = SVQ_PAGE_SIZE - offset < left ? SVQ_PAGE_SIZE - offset : left;
        add_piece(iov, count, map->cache.pages[*(*held)++].va + offset, take);
        left -= take;
        offset = 0;
    }
}

static void build_side(const struct svq_be_map *map, struct svq_be_req *req, int side, const uint32_t **held,
                       struct svq_be_span *span)
{
    uint8_t *window = svq_be_slice_va(&req->mem.window[side]);
    uint32_t count = 0;
    for (const struct svq_be_seg *seg = side_begin(&req->chain, side); seg < side_end(&req->chain, side); seg++) {
        if (seg->in_window) {
            add_piece(req->iov[side], &count, window + seg->offset, seg->length);
            window += (size_t)svq_be_seg_pages(seg) * SVQ_PAGE_SIZE;
        } else {
            add_mediator_seg(map, held, seg, req->iov[side], &count);
        }
    }
    svq_be_span_init(span, req->iov[side], count);
}

static void build(const struct svq_be_map *map, struct svq_be_req *req)
{
    const uint32_t *held = req->mem.cache_index; /* in the order of the descriptors: the readable ones come first */
    build_side(map, req, READABLE, &held, &req->out);
    build_side(map, req, WRITABLE, &held, &req->in);
    req->status_at = svq_be_span_cut_last(&req->in);
}

/* Only the page of the last writable byte, so that the driver learns that its request failed. */
static void map_status_only(struct svq_be_map *map, struct svq_be_req *req)
{
    const struct svq_be_seg *seg;
    uint32_t offset;
    svq_count(&map->stats->map_failures, 1);
    if (req->chain.writable_bytes == 0)
        return;
    uint32_t gref = status_gref(req, &seg, &offset);
    if (!seg->in_window) {
        if (get_mediator_page(map, req, gref, true) == 0) /* it was held a moment ago, so it is there */
            req->status_at = map->cache.pages[req->mem.cache_index[0]].va + offset;
        return;
    }
    svq_count(&map->stats->map_calls, 1);
    void *va;
    if (svq_hv_map_grants(map->hv, map->window.owner, &gref, 1, 1, &va))
        return; /* nobody can be told; the used entry will have length 0 */
    svq_count(&map->stats->map_pages, 1);
    req->mem.window[WRITABLE].pages = 1;
    svq_be_slice_place(&req->mem.window[WRITABLE], NULL, va, 1);
    req->status_at = (uint8_t *)va + offset;
}

void svq_be_map_window(struct svq_be_map *map, struct svq_be_req **reqs, uint32_t count)
{
    for (uint32_t at = 0; at < count;) {
        uint32_t fitting = count_fitting(map, &reqs[at], count - at);
        map_side(map, &reqs[at], fitting, READABLE);
        map_side(map, &reqs[at], fitting, WRITABLE);
        at += fitting;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!reqs[i]->unreachable)
            build(map, reqs[i]);
        else if (svq_be_unmap_request(map, reqs[i]) == 0)
            map_status_only(map, reqs[i]);
    }
}

void svq_be_map_done(struct svq_be_req *req)
{
    req->mem.window[READABLE].done = true;
    req->mem.window[WRITABLE].done = true;
}

int svq_be_unmap_request(struct svq_be_map *map, struct svq_be_req *req)
{
    int rc = 0;
    uint64_t calls = 0;
    svq_be_map_done(req);
    for (int side = READABLE; side <= WRITABLE; side++) {
        int failed = svq_be_slice_end(map->hv, &req->mem.window[side], &calls);
        rc = failed ? failed : rc;
    }
    svq_count(&map->stats->unmap_calls, calls);
    put_mediator_pages(map, req);
    return rc;
}

int svq_be_map_read_table(void *context, uint32_t gref, uint32_t offset, uint32_t count, struct vring_desc *table)
{
    struct svq_be_map *map = context;
    uint64_t *to = (uint64_t *)(void *)table;
    uint32_t words = count * 2;
    while (words > 0) {
        uint32_t here = (SVQ_PAGE_SIZE - offset) / 8;
        uint32_t index;
        int rc = svq_be_cache_get(&map->cache, gref, false, &index);
        if (rc)
            return rc;
        const uint64_t *from = (const uint64_t *)(const void *)(map->cache.pages[index].va + offset);
        if (here > words)
            here = words;
        for (uint32_t i = 0; i < here; i++)
            *to++ = svq_load_u64(&from[i]);
        svq_be_cache_put(&map->cache, index);
        words -= here;
        offset = 0;
        gref++;
    }
    return 0;
}
