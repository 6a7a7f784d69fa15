/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_slice.h"

void svq_be_slice_place(struct svq_be_slice *slice, struct svq_be_slice *before, void *map_va, uint32_t map_pages)
{
    slice->map_va = map_va;
    slice->map_pages = map_pages;
    slice->first = before ? before->first + before->pages : 0;
    slice->before = before;
    slice->after = NULL;
    if (before)
        before->after = slice;
}

static int unmap(struct svq_hv *hv, const struct svq_be_slice *first, uint32_t pages)
{
    if (pages == first->map_pages)
        return svq_hv_unmap_grants(hv, first->map_va, pages);
    return svq_hv_unmap_grants_part(hv, first->map_va, first->first, pages);
}

/* Each slice is walked over once: it is not in any chain of neighbours afterwards. */
int svq_be_slice_end(struct svq_hv *hv, struct svq_be_slice *slice, uint64_t *calls)
{
    struct svq_be_slice *first = slice, *last = slice;
    if (slice->pages == 0)
        return slice->error;
    while (first->before && first->before->done)
        first = first->before;
    while (last->after && last->after->done)
        last = last->after;
    int error = unmap(hv, first, last->first + last->pages - first->first);
    (*calls)++;
    if (first->before)
        first->before->after = NULL;
    if (last->after)
        last->after->before = NULL;
    for (struct svq_be_slice *next; first; first = next) {
        next = first == last ? NULL : first->after;
        *first = (struct svq_be_slice){ .error = error };
    }
    return error;
}
