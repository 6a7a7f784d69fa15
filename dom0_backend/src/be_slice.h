/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one request has of a mapping of frontend pages. Requests that were taken up together share a mapping, each with
 * a slice of its own, so that one call maps them all. Slices end independently; those that lie side by side and are
 * done at the same time end with one call.
 */
#ifndef SVQ_BE_SLICE_H
#define SVQ_BE_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

struct svq_be_slice {
    uint8_t *map_va; /* the whole mapping */
    uint32_t map_pages;
    uint32_t first;                      /* of the slice, in the mapping */
    uint32_t pages;                      /* 0: nothing is mapped */
    bool done;                           /* its request does not touch it any more */
    int error;                           /* of its end: a page may still be mapped */
    struct svq_be_slice *before, *after; /* still mapped neighbours */
};

static inline uint8_t *svq_be_slice_va(const struct svq_be_slice *slice)
{
    return slice->pages == 0 ? NULL : slice->map_va + ((size_t)slice->first << SVQ_PAGE_SHIFT);
}

/* Makes `slice`, whose pages are set, the part of the mapping that follows `before` (NULL: the first part). */
void svq_be_slice_place(struct svq_be_slice *slice, struct svq_be_slice *before, void *map_va, uint32_t map_pages);

/*
 * Unmaps a slice that is done, and with the same call all around it that are done too. 0, or -errno for this slice:
 * also if it ended earlier, with a neighbour. *calls grows by the calls made.
 */
int svq_be_slice_end(struct svq_hv *hv, struct svq_be_slice *slice, uint64_t *calls);

#endif
