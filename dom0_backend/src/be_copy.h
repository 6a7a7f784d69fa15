/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copying in place of mapping: the pages of one side of a small request are copied to or from a slot, local memory with
 * the layout that the mapping would have. Pieces are collected, and one call of the hypervisor copies those of a pass.
 */
#ifndef SVQ_BE_COPY_H
#define SVQ_BE_COPY_H

#include "be_req.h"
#include "svq_hv.h"

enum {
    SVQ_BE_COPY_SLOTS = 64,
    SVQ_BE_COPY_PIECES_MAX = SVQ_BE_COPY_SLOTS * SVQ_BE_COPY_PAGES_MAX, /* at most one for each page of a slot */
};

/* Pieces that wait for one call, and the request of each. */
struct svq_be_batch {
    uint32_t count;
    struct svq_hv_copy pieces[SVQ_BE_COPY_PIECES_MAX];
    struct svq_be_req *requests[SVQ_BE_COPY_PIECES_MAX];
};

struct svq_be_copy {
    struct svq_hv *hv;
    uint16_t domid; /* whose grants */
    struct svq_be_stats *stats;
    uint32_t pages; /* the most pages of a side that is copied; 0: every side is mapped */
    uint8_t *slots; /* SVQ_BE_COPY_SLOTS of `pages` each */
    uint64_t free;  /* bit mask of the slots */
    struct svq_be_batch in, out;
};

/* Sets up slots for sides of up to `pages` pages; 0: none. 0 or -ENOMEM. Nothing may be in a slot. */
int svq_be_copy_init(struct svq_be_copy *copy, struct svq_hv *hv, uint16_t domid, uint32_t pages,
                     struct svq_be_stats *stats);
void svq_be_copy_fini(struct svq_be_copy *copy);

/* A slot for a side with that many pages; -1: it has to be mapped. */
int svq_be_copy_take(struct svq_be_copy *copy, uint32_t pages);
void svq_be_copy_put(struct svq_be_copy *copy, int slot);
uint8_t *svq_be_copy_slot(const struct svq_be_copy *copy, int slot);

/*
 * Adds what the segments (checked, and those of one side) describe in the window: `batch` is copy->in for readable
 * ones, copy->out for writable ones. Nothing beside the described bytes is ever copied.
 */
void svq_be_copy_add(struct svq_be_batch *batch, struct svq_be_req *req, const struct svq_be_seg *first,
                     const struct svq_be_seg *end, uint8_t *slot);
/* Adds the last byte of the last segment alone, which lies at `local`. */
void svq_be_copy_add_last(struct svq_be_batch *batch, struct svq_be_req *req, const struct svq_be_seg *last,
                          uint8_t *local);
/* Copies all pieces of the batch with one call, and empties it. A request with a failed piece gets `copy_failed`. */
void svq_be_copy_run(struct svq_be_copy *copy, struct svq_be_batch *batch);

#endif
