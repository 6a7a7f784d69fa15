/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_map.h"

#include <errno.h>

#include "barrier.h"
#include "be_blk.h"

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
    return svq_be_cache_init(&map->cache, hv, config->mediator_domid, config->cache_pages, stats);
}

void svq_be_map_fini(struct svq_be_map *map)
{
    svq_be_copy_fini(&map->copy);
    svq_be_cache_fini(&map->cache);
}

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

/* All frontend pages of one access mode, in the order of the descriptors: a slot for a copy, or one call. */
static int map_window_side(struct svq_be_map *map, struct svq_be_req *req, int side)
{
    uint32_t count = 0;
    for (const struct svq_be_seg *seg = side_begin(&req->chain, side); seg < side_end(&req->chain, side); seg++) {
        uint32_t pages = seg->in_window ? svq_be_seg_pages(seg) : 0;
        for (uint32_t i = 0; i < pages; i++)
            map->grefs[count++] = seg->gref + i;
    }
    if (count == 0)
        return 0;
    int slot = map->map_all ? -1 : svq_be_copy_take(&map->copy, count);
    if (slot >= 0) {
        req->mem.slot[side] = slot;
        req->mem.window_va[side] = svq_be_copy_slot(&map->copy, slot);
        req->mem.window_pages[side] = count;
        return 0;
    }
    svq_count(&map->stats->map_calls, 1);
    void *va;
    int rc = svq_hv_map_grants(map->hv, map->window.owner, map->grefs, count, side == WRITABLE, &va);
    if (rc)
        return rc;
    req->mem.window_va[side] = va;
    req->mem.window_pages[side] = count;
    svq_count(&map->stats->map_pages, count);
    return 0;
}

/* Adds one mediator part page by page, since the cache maps single pages. */
static int add_mediator_seg(struct svq_be_map *map, struct svq_be_req *req, const struct svq_be_seg *seg,
                            struct iovec *iov, uint32_t *count)
{
    uint32_t offset = seg->offset;
    uint32_t left = seg->length;
    for (uint32_t gref = seg->gref; left > 0; gref++) {
        uint32_t take = SVQ_PAGE_SIZE - offset < left ? SVQ_PAGE_SIZE - offset : left;
        uint32_t index;
        int rc = svq_be_cache_get(&map->cache, gref, seg->writable, &index);
        if (rc)
            return rc == -EAGAIN ? rc : -EPROTO;
        req->mem.cache_index[req->mem.cached++] = index;
        add_piece(iov, count, map->cache.pages[index].va + offset, take);
        left -= take;
        offset = 0;
    }
    return 0;
}

static int build_side(struct svq_be_map *map, struct svq_be_req *req, int side, struct svq_be_span *span)
{
    uint8_t *window = req->mem.window_va[side];
    uint32_t count = 0;
    for (const struct svq_be_seg *seg = side_begin(&req->chain, side); seg < side_end(&req->chain, side); seg++) {
        if (seg->in_window) {
            add_piece(req->iov[side], &count, window + seg->offset, seg->length);
            window += (size_t)svq_be_seg_pages(seg) * SVQ_PAGE_SIZE;
        } else {
            int rc = add_mediator_seg(map, req, seg, req->iov[side], &count);
            if (rc)
                return rc;
        }
    }
    svq_be_span_init(span, req->iov[side], count);
    return 0;
}

/* Maps only the page of the last writable byte, so that the driver learns that its request failed. */
static int map_status_only(struct svq_be_map *map, struct svq_be_req *req)
{
    const struct svq_be_seg *last = side_end(&req->chain, WRITABLE) - 1;
    uint64_t byte = (uint64_t)last->offset + last->length - 1;
    uint32_t gref = last->gref + (uint32_t)(byte >> SVQ_PAGE_SHIFT);
    req->unreachable = true;
    svq_count(&map->stats->map_failures, 1);
    if (req->chain.writable_bytes == 0)
        return 0;
    uint32_t index;
    int rc;
    if (!last->in_window) {
        rc = svq_be_cache_get(&map->cache, gref, true, &index);
        if (rc)
            return rc == -EAGAIN ? rc : -EPROTO;
        req->mem.cache_index[req->mem.cached++] = index;
        req->status_at = map->cache.pages[index].va + (byte & (SVQ_PAGE_SIZE - 1));
        return 0;
    }
    svq_count(&map->stats->map_calls, 1);
    void *va;
    if (svq_hv_map_grants(map->hv, map->window.owner, &gref, 1, 1, &va))
        return 0; /* we cannot report it; the used entry will have length 0 */
    svq_count(&map->stats->map_pages, 1);
    req->mem.window_va[WRITABLE] = va;
    req->mem.window_pages[WRITABLE] = 1;
    req->status_at = (uint8_t *)va + (byte & (SVQ_PAGE_SIZE - 1));
    return 0;
}

static void reset(struct svq_be_req *req)
{
    req->mem.window_va[READABLE] = NULL;
    req->mem.window_va[WRITABLE] = NULL;
    req->mem.window_pages[READABLE] = 0;
    req->mem.window_pages[WRITABLE] = 0;
    req->mem.slot[READABLE] = -1;
    req->mem.slot[WRITABLE] = -1;
    req->mem.cached = 0;
    req->unreachable = false;
    req->copy_failed = false;
    req->status_at = NULL;
    svq_be_span_init(&req->in, req->iov[WRITABLE], 0);
    svq_be_span_init(&req->out, req->iov[READABLE], 0);
}

int svq_be_map_request(struct svq_be_map *map, struct svq_be_req *req)
{
    reset(req);
    int rc;
    if (!side_fits(&req->chain, READABLE) || !side_fits(&req->chain, WRITABLE) || map_window_side(map, req, READABLE) ||
        map_window_side(map, req, WRITABLE)) {
        if (svq_be_unmap_request(map, req))
            return -EIO;
        rc = map_status_only(map, req);
    } else {
        rc = build_side(map, req, READABLE, &req->out);
        if (rc == 0)
            rc = build_side(map, req, WRITABLE, &req->in);
        if (rc == 0)
            req->status_at = svq_be_span_cut_last(&req->in);
    }
    if (rc && svq_be_unmap_request(map, req))
        rc = -EIO;
    if (rc == 0 && req->mem.slot[READABLE] >= 0)
        svq_be_copy_add(&map->copy.in, req, side_begin(&req->chain, READABLE), side_end(&req->chain, READABLE),
                        req->mem.window_va[READABLE]);
    return rc;
}

int svq_be_unmap_request(struct svq_be_map *map, struct svq_be_req *req)
{
    int rc = 0;
    for (int side = READABLE; side <= WRITABLE; side++) {
        if (req->mem.slot[side] >= 0) {
            svq_be_copy_put(&map->copy, req->mem.slot[side]);
        } else if (req->mem.window_pages[side] > 0) {
            int failed = svq_hv_unmap_grants(map->hv, req->mem.window_va[side], req->mem.window_pages[side]);
            rc = failed ? failed : rc;
        }
        req->mem.slot[side] = -1;
        req->mem.window_va[side] = NULL;
        req->mem.window_pages[side] = 0;
    }
    for (uint32_t i = 0; i < req->mem.cached; i++)
        svq_be_cache_put(&map->cache, req->mem.cache_index[i]);
    req->mem.cached = 0;
    return rc;
}

void svq_be_map_copy_in(struct svq_be_map *map) { svq_be_copy_run(&map->copy, &map->copy.in); }

static void not_copied(struct svq_be_map *map, struct svq_be_req *req)
{
    req->copy_failed = false;
    req->unreachable = true;
    svq_count(&map->stats->map_failures, 1);
}

void svq_be_map_check_in(struct svq_be_map *map, struct svq_be_req *req)
{
    if (req->copy_failed)
        not_copied(map, req);
}

void svq_be_map_add_out(struct svq_be_map *map, struct svq_be_req *req)
{
    svq_be_copy_add(&map->copy.out, req, side_begin(&req->chain, WRITABLE), side_end(&req->chain, WRITABLE),
                    req->mem.window_va[WRITABLE]);
}

/* The status has been copied already, and says something else. */
static void copy_status_again(struct svq_be_map *map, struct svq_be_req *req)
{
    const struct svq_be_seg *last = side_end(&req->chain, WRITABLE) - 1;
    not_copied(map, req);
    req->status = VIRTIO_BLK_S_IOERR;
    *req->status_at = req->status;
    if (last->in_window)
        svq_be_copy_add_last(&map->copy.out, req, last, req->status_at);
}

void svq_be_map_copy_out(struct svq_be_map *map, struct svq_be_req *list)
{
    svq_be_copy_run(&map->copy, &map->copy.out);
    for (struct svq_be_req *req = list; req; req = req->next) {
        if (req->copy_failed)
            copy_status_again(map, req);
    }
    svq_be_copy_run(&map->copy, &map->copy.out);
    for (struct svq_be_req *req = list; req; req = req->next) {
        if (req->copy_failed)
            req->status_at = NULL; /* we cannot report it; the used entry will have length 0 */
    }
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
