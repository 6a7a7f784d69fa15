/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The grant window: the part of the frontend's own grant table that the mediator writes (design: granting a page is a
 * store of 8 bytes, no hypercall). An entry is taken only if all of it is 0, and given back only by the compare-and-swap
 * that proves that the backend has it mapped no more (XSA-396: test and end must be one step).
 *
 * direct:  gref = first + gfn. No allocator; an entry in use (the page is in flight already) is simply not to be had.
 * dynamic: each queue owns a range of entries and takes consecutive ones from it.
 */
#ifndef SVQ_WINDOW_H
#define SVQ_WINDOW_H

#include "barrier.h"
#include "check.h"
#include "layout.h"

struct svq_window {
    struct svq_hv *hv;
    void *mapping;        /* token of the grant table mapping */
    uint64_t *entries;    /* shared with the frontend and the hypervisor */
    uint32_t first_gref;
    uint32_t count;
    bool direct;
    bool exclusive;       /* one thread alone takes entries: no compare-and-swap needed for that */
    uint32_t range_words; /* dynamic: 64-entry words not handed to a queue yet live in range_free */
    uint64_t *range_free; /* one bit per word of 64 entries: 1 = free */
};

/* The entries of one queue in a dynamic window. */
struct svq_window_range {
    uint32_t first_word;
    uint32_t words;
    uint32_t hint;  /* word where the last search ended */
    uint64_t *used; /* one bit per entry; a bit that stays set is quarantined or somebody else's */
};

/* A run of consecutive grefs. */
struct svq_grant_run {
    uint32_t gref;
    uint32_t pages;
};

int svq_window_init(struct svq_window *window, struct svq_hv *hv, uint16_t domid, uint32_t first_frame,
                    uint32_t frames, bool direct);
void svq_window_destroy(struct svq_window *window);
uint32_t svq_window_in_use(const struct svq_window *window);

/*
 * Takes back what a mediator that died has left in the window: its device could map those pages until the guest ends.
 * In a direct window that is what grants a frame at the frame's own place; in a dynamic one every grant, since nobody
 * else is to use it. *mapped: those that their grantee has mapped: Xen keeps such a mapping, but once it has ended there
 * is no other (grant_table.h: GTF_reading and GTF_writing change under the granter's hands, the type does not).
 * Returns how many are free now. Only while no request of this mediator is alive.
 */
uint32_t svq_window_sweep(struct svq_window *window, uint32_t *mapped);

/* Reserves at least `grefs` entries (rounded up to 64) for one queue. -ENOSPC: not that many in a row are left. */
int svq_window_reserve(struct svq_window *window, uint32_t grefs, struct svq_window_range *range);
void svq_window_unreserve(struct svq_window *window, struct svq_window_range *range);

/*
 * Grants `frame` at `gref` to `domid`. False: the entry is not free, so it is somebody else's: it stays as it is.
 * With one thread alone, only the frontend itself could come between the look and the store, to its own harm alone.
 */
static inline bool svq_window_take(struct svq_window *window, uint32_t gref, uint16_t domid, uint64_t frame,
                                   bool backend_may_write)
{
    uint64_t granted = svq_grant_entry_for(domid, frame, backend_may_write), expected = 0;
    uint64_t *entry = &window->entries[gref - window->first_gref];
    if (svq_unlikely(!window->exclusive))
        return svq_cas_u64(entry, &expected, granted);
    if (svq_unlikely(svq_load_u64(entry) != 0))
        return false;
    svq_release_u64(entry, granted);
    return true;
}

enum svq_revoke { SVQ_REVOKED, SVQ_REVOKE_BUSY, SVQ_REVOKE_TAMPERED };

/* Ends the grant that svq_window_take made with the same arguments. */
static inline enum svq_revoke svq_window_revoke(struct svq_window *window, uint32_t gref, uint16_t domid,
                                                uint64_t frame, bool backend_may_write)
{
    uint64_t granted = svq_grant_entry_for(domid, frame, backend_may_write), expected = granted;
    if (svq_likely(svq_cas_u64(&window->entries[gref - window->first_gref], &expected, 0)))
        return SVQ_REVOKED;
    if ((expected & ~(uint64_t)(GTF_READING | GTF_WRITING)) == granted)
        return SVQ_REVOKE_BUSY;
    return SVQ_REVOKE_TAMPERED;
}

/*
 * Dynamic window: grants up to `pages` frames from `gfn` on with consecutive grefs, as many as the next free run of the
 * range allows. pages = 0 in the answer: the range is full. *taken counts entries found not to be free.
 */
struct svq_grant_run svq_window_take_run(struct svq_window *window, struct svq_window_range *range, uint16_t domid,
                                         uint64_t gfn, uint32_t pages, bool backend_may_write, uint64_t *taken);

static inline void svq_window_free_gref(const struct svq_window *window, struct svq_window_range *range, uint32_t gref)
{
    uint32_t i = gref - window->first_gref - range->first_word * 64;
    range->used[i / 64] &= ~(1ULL << (i % 64));
}

#endif
