/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bounce.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int svq_slots_init(struct svq_slots *slots, struct svq_hv *hv, uint16_t backend_domid, uint32_t slot_shift,
                   uint32_t count, int backend_may_write)
{
    memset(slots, 0, sizeof *slots);
    if (count == 0 || count > UINT16_MAX)
        return -EINVAL;
    uint32_t pages = (uint32_t)svq_pages_for((size_t)count << slot_shift);
    uint32_t *grefs = calloc(pages, sizeof *grefs);
    slots->page_addrs = calloc(pages, sizeof *slots->page_addrs);
    slots->free = calloc(count, sizeof *slots->free);
    void *va = NULL;
    int rc = grefs && slots->page_addrs && slots->free
                 ? svq_hv_share_pages(hv, backend_domid, pages, backend_may_write, grefs, &va)
                 : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < pages; i++)
        slots->page_addrs[i] = svq_grant_addr(grefs[i], 0);
    free(grefs);
    if (rc < 0) {
        svq_slots_destroy(slots);
        return rc;
    }
    slots->hv = hv;
    slots->va = va;
    slots->pages = pages;
    slots->count = count;
    slots->slot_shift = slot_shift;
    for (uint32_t i = count; i-- > 0;)
        svq_slots_give(slots, i);
    return 0;
}

int svq_slots_destroy(struct svq_slots *slots)
{
    int rc = slots->va ? svq_hv_unshare_pages(slots->hv, slots->va, slots->pages) : 0;
    free(slots->page_addrs);
    free(slots->free);
    memset(slots, 0, sizeof *slots);
    return rc;
}

int svq_bounce_init(struct svq_bounce *bounce, struct svq_hv *hv, uint16_t backend_domid, uint32_t small_slots,
                    uint32_t page_slots)
{
    memset(bounce, 0, sizeof *bounce);
    for (int i = 0; i < SVQ_POOLS; i++) {
        bool small = i == SVQ_SMALL_READABLE || i == SVQ_SMALL_WRITABLE;
        int writable = i == SVQ_SMALL_WRITABLE || i == SVQ_PAGE_WRITABLE;
        int rc = svq_slots_init(&bounce->pool[i], hv, backend_domid, small ? SVQ_SMALL_SHIFT : SVQ_PAGE_SHIFT,
                                small ? small_slots : page_slots, writable);
        if (rc < 0) {
            svq_bounce_destroy(bounce);
            return rc;
        }
    }
    return 0;
}

int svq_bounce_destroy(struct svq_bounce *bounce)
{
    int first_error = 0;
    for (int i = 0; i < SVQ_POOLS; i++) {
        int rc = svq_slots_destroy(&bounce->pool[i]);
        first_error = first_error ? first_error : rc;
    }
    return first_error;
}
