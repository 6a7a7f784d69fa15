/* SPDX-License-Identifier: GPL-2.0-or-later */
/* In place of be_map.c: the memory of requests, all of it mapped beforehand. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "barrier.h"
#include "be_map.h"
#include "plain.h"

enum {
    FRAMES_MAX = 1 << 20, /* guests of up to 4 GiB */
    CHUNK = 1024,         /* pages mapped in one call */
    READABLE = 0,
    WRITABLE = 1,
};

static uint8_t *pages[FRAMES_MAX];

uint8_t *svq_plain_page(uint64_t addr)
{
    uint64_t gfn = addr >> SVQ_PAGE_SHIFT;
    return gfn < FRAMES_MAX ? pages[gfn] : NULL;
}

void *svq_plain_at(uint64_t addr, size_t length)
{
    uint8_t *start = svq_plain_page(addr);
    for (uint64_t page = addr >> SVQ_PAGE_SHIFT; start && page << SVQ_PAGE_SHIFT < addr + length; page++) {
        if (svq_plain_page(page << SVQ_PAGE_SHIFT) != start + ((page - (addr >> SVQ_PAGE_SHIFT)) << SVQ_PAGE_SHIFT))
            return NULL;
    }
    return start ? start + (addr & (SVQ_PAGE_SIZE - 1)) : NULL;
}

/* Halves a run that cannot be mapped as a whole, until what is left out is a page. */
static int map_chunk(struct svq_hv *hv, uint16_t domid, uint32_t gfn, uint32_t count, uint32_t gref)
{
    uint32_t grefs[CHUNK] = { 0 };
    void *va;
    for (uint32_t i = 0; i < count; i++)
        grefs[i] = gref + i;
    if (svq_hv_map_grants(hv, domid, grefs, count, 1, &va) == 0) {
        for (uint32_t i = 0; i < count; i++)
            pages[gfn + i] = (uint8_t *)va + (size_t)i * SVQ_PAGE_SIZE;
        return (int)count;
    }
    if (count == 1)
        return 0;
    uint32_t half = count / 2;
    return map_chunk(hv, domid, gfn, half, gref) + map_chunk(hv, domid, gfn + half, count - half, gref + half);
}

int svq_plain_map_run(struct svq_hv *hv, uint16_t domid, const struct svq_plain_run *run)
{
    int mapped = 0;
    if (run->count > FRAMES_MAX || run->gfn > FRAMES_MAX - run->count)
        return -EINVAL;
    for (uint32_t at = 0; at < run->count; at += CHUNK) {
        uint32_t count = run->count - at < CHUNK ? run->count - at : CHUNK;
        mapped += map_chunk(hv, domid, run->gfn + at, count, run->gref + at);
    }
    return mapped;
}

int svq_be_map_init(struct svq_be_map *map, struct svq_hv *hv, const struct svq_be_config *config,
                    struct svq_be_stats *stats)
{
    (void)config;
    map->hv = hv;
    map->stats = stats;
    return 0;
}

void svq_be_map_fini(struct svq_be_map *map) { (void)map; }

/* The pieces of one side, page by page, joined where they touch. False: a page is not mapped. */
static bool build_side(struct svq_be_req *req, int side, struct svq_be_span *span)
{
    const struct svq_be_chain *chain = &req->chain;
    struct iovec *iov = req->iov[side];
    uint32_t from = side == READABLE ? 0 : chain->readable, to = side == READABLE ? chain->readable : chain->count;
    uint32_t count = 0;
    for (const struct svq_be_seg *seg = chain->segs + from; seg < chain->segs + to; seg++) {
        uint64_t addr = (uint64_t)seg->gref << SVQ_PAGE_SHIFT | seg->offset;
        for (uint32_t left = seg->length, take; left > 0; left -= take, addr += take) {
            uint32_t offset = (uint32_t)(addr & (SVQ_PAGE_SIZE - 1));
            uint8_t *page = svq_plain_page(addr);
            take = SVQ_PAGE_SIZE - offset < left ? SVQ_PAGE_SIZE - offset : left;
            if (!page || count == SVQ_BE_REQ_PAGES_MAX)
                return false;
            if (count > 0 && (uint8_t *)iov[count - 1].iov_base + iov[count - 1].iov_len == page + offset)
                iov[count - 1].iov_len += take;
            else
                iov[count++] = (struct iovec){ .iov_base = page + offset, .iov_len = take };
        }
    }
    svq_be_span_init(span, iov, count);
    return true;
}

int svq_be_map_request(struct svq_be_map *map, struct svq_be_req *req)
{
    (void)map;
    req->unreachable = req->copy_failed = false;
    req->status_at = NULL;
    req->mem.slot[READABLE] = req->mem.slot[WRITABLE] = -1; /* nothing is ever copied by grant */
    if (!build_side(req, READABLE, &req->out) || !build_side(req, WRITABLE, &req->in))
        return -EPROTO;
    req->status_at = svq_be_span_cut_last(&req->in);
    return 0;
}

int svq_be_unmap_request(struct svq_be_map *map, struct svq_be_req *req)
{
    (void)map;
    (void)req;
    return 0;
}

void svq_be_map_copy_in(struct svq_be_map *map) { (void)map; }

void svq_be_map_check_in(struct svq_be_map *map, struct svq_be_req *req)
{
    (void)map;
    (void)req;
}

void svq_be_map_add_out(struct svq_be_map *map, struct svq_be_req *req) { svq_be_map_check_in(map, req); }

void svq_be_map_copy_out(struct svq_be_map *map, struct svq_be_req *list) { svq_be_map_check_in(map, list); }

int svq_be_map_read_table(void *context, uint32_t gref, uint32_t offset, uint32_t count, struct vring_desc *table)
{
    (void)context;
    const void *at = svq_plain_at((uint64_t)gref << SVQ_PAGE_SHIFT | offset, count * sizeof *table);
    if (!at)
        return -EINVAL;
    memcpy(table, at, count * sizeof *table);
    return 0;
}
