/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_copy.h"

#include <errno.h>
#include <sys/mman.h>

#include "barrier.h"

static size_t bytes(const struct svq_be_copy *copy) { return (size_t)SVQ_BE_COPY_SLOTS * copy->pages * SVQ_PAGE_SIZE; }

int svq_be_copy_init(struct svq_be_copy *copy, struct svq_hv *hv, uint16_t domid, uint32_t pages,
                     struct svq_be_stats *stats)
{
    copy->hv = hv;
    copy->domid = domid;
    copy->stats = stats;
    copy->pages = pages;
    copy->free = UINT64_MAX;
    if (pages == 0)
        return 0;
    /* The lowest free slot is taken: only as much of this becomes memory as requests have used at one time */
    void *va = mmap(NULL, bytes(copy), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (va == MAP_FAILED) {
        copy->pages = 0;
        return -ENOMEM;
    }
    copy->slots = va;
    return 0;
}

void svq_be_copy_fini(struct svq_be_copy *copy)
{
    if (copy->slots)
        munmap(copy->slots, bytes(copy));
    copy->slots = NULL;
    copy->pages = 0;
}

int svq_be_copy_take(struct svq_be_copy *copy, uint32_t pages)
{
    if (pages > copy->pages)
        return -1;
    if (copy->free == 0) {
        svq_count(&copy->stats->copy_misses, 1);
        return -1;
    }
    int slot = __builtin_ctzll(copy->free);
    copy->free &= copy->free - 1;
    svq_count(&copy->stats->copied_sides, 1);
    return slot;
}

void svq_be_copy_put(struct svq_be_copy *copy, int slot) { copy->free |= 1ULL << slot; }

uint8_t *svq_be_copy_slot(const struct svq_be_copy *copy, int slot)
{
    return copy->slots + (size_t)slot * copy->pages * SVQ_PAGE_SIZE;
}

static void add(struct svq_be_batch *batch, struct svq_be_req *req, const struct svq_hv_copy *piece)
{
    batch->requests[batch->count] = req;
    batch->pieces[batch->count++] = *piece;
}

void svq_be_copy_add(struct svq_be_batch *batch, struct svq_be_req *req, const struct svq_be_seg *first,
                     const struct svq_be_seg *end, uint8_t *slot)
{
    for (const struct svq_be_seg *seg = first; seg < end; seg++) {
        uint32_t offset = seg->offset;
        uint32_t left = seg->in_window ? seg->length : 0;
        for (uint32_t gref = seg->gref; left > 0; gref++) {
            uint32_t take = SVQ_PAGE_SIZE - offset < left ? SVQ_PAGE_SIZE - offset : left;
            add(batch, req,
                &(struct svq_hv_copy){ .local = slot + offset,
                                       .gref = gref,
                                       .offset = (uint16_t)offset,
                                       .length = (uint16_t)take,
                                       .to_grant = seg->writable });
            slot += SVQ_PAGE_SIZE;
            left -= take;
            offset = 0;
        }
    }
}

void svq_be_copy_add_last(struct svq_be_batch *batch, struct svq_be_req *req, const struct svq_be_seg *last,
                          uint8_t *local)
{
    uint64_t byte = (uint64_t)last->offset + last->length - 1;
    add(batch, req,
        &(struct svq_hv_copy){ .local = local,
                               .gref = last->gref + (uint32_t)(byte >> SVQ_PAGE_SHIFT),
                               .offset = (uint16_t)(byte & (SVQ_PAGE_SIZE - 1)),
                               .length = 1,
                               .to_grant = last->writable });
}

void svq_be_copy_run(struct svq_be_copy *copy, struct svq_be_batch *batch)
{
    if (batch->count == 0)
        return;
    svq_count(&copy->stats->copy_calls, 1);
    /* If the call as a whole fails, that is each piece's result */
    (void)svq_hv_copy_grants(copy->hv, copy->domid, batch->pieces, batch->count);
    for (uint32_t i = 0; i < batch->count; i++) {
        if (batch->pieces[i].result)
            batch->requests[i]->copy_failed = true;
    }
    batch->count = 0;
}
