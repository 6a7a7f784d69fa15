/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How we grant one page: find its entry of the window, clear the page if the backend may write it, write the grant. All
 * in one header, since placing pages is most of what the mediator does, and one function should do it.
 */
#ifndef SVQ_GRANT_PAGE_H
#define SVQ_GRANT_PAGE_H

#include "engine.h"

/* A page that we must touch is not RAM (any more): the guest's own doing. */
static __attribute__((cold, noinline, unused)) int svq_not_ram(struct svq_queue *q, uint64_t gpa, uint32_t len)
{
    q->chain->bad_value = gpa;
    q->chain->bad_limit = len;
    return SVQ_E_NOT_RAM;
}

/* How many pages from gfn on may be granted at all: ring pages never are. */
static inline uint32_t svq_grantable_pages(struct svq_view *view, uint64_t gfn, uint32_t pages)
{
    uint32_t n = 0;
    while (n < pages && svq_guestmem_is_plain_frame(view, gfn + n))
        n++;
    return n;
}

/*
 * The free entry for the page at gfn, or NULL if it is not available. `run`: the grants that the page is to follow, if
 * it has any.
 */
static inline uint64_t *svq_find_entry(struct svq_queue *q, uint64_t gfn, const struct svq_grant_run *run,
                                       uint32_t *gref)
{
    struct svq_window *window = q->window;
    uint32_t i = (uint32_t)gfn;
    if (svq_unlikely(!q->direct)) {
        if (!run->pages)
            return window->count && svq_window_find(window, &q->cursor, &q->stats.window_taken, gref)
                       ? svq_window_entry(window, *gref)
                       : NULL;
        i = run->gref + run->pages - window->first_gref;
    }
    *gref = window->first_gref + i;
    if (svq_unlikely(i >= window->count))
        return NULL;
    uint64_t *entry = &window->entries[i];
    if (svq_likely(svq_load_u64(entry) == 0))
        return entry;
    if (!run->pages) /* an entry that cuts a run short comes up again, as the first of the next run */
        svq_count(&q->stats.window_taken, 1);
    return NULL;
}

/* Out of line: a call costs nothing compared with clearing, and the path of guests without `clear` stays short. */
static __attribute__((noinline, unused)) bool svq_clear_out_of_line(struct svq_view *view, uint64_t gpa, uint32_t len)
{
    return svq_view_clear(view, gpa, len);
}

/*
 * Adds the page of gpa to a run of grants; `len` bytes of it belong to the request. A page that the backend may write
 * is cleared first: what the guest kept there is no part of the request (CVE-2022-26365). Returns 1, 0 (not available),
 * or enum svq_err.
 */
static inline __attribute__((always_inline)) int svq_grant_page(struct svq_queue *q, uint64_t gpa, uint32_t len,
                                                                bool writable, struct svq_grant_run *run)
{
    uint64_t gfn = gpa >> SVQ_PAGE_SHIFT;
    uint32_t gref;
    uint64_t *entry = svq_find_entry(q, gfn, run, &gref);
    if (svq_unlikely(!entry))
        return 0;
    if (writable && q->clears && svq_unlikely(!svq_clear_out_of_line(&q->view, gpa, len)))
        return svq_not_ram(q, gpa, len);
    uint64_t granted = (writable ? q->granted[1] : q->granted[0]) | gfn << 32; /* an array index would cost a wait */
    if (svq_unlikely(!svq_entry_take(entry, granted, q->window->alone)))
        return 0;
    run->gref = run->pages ? run->gref : gref;
    run->pages++;
    if (svq_unlikely(!q->direct))
        q->cursor = gref + 1 - q->window->first_gref;
    return 1;
}

/* Bytes of [gpa, end) that lie on gpa's page. */
static inline uint32_t svq_bytes_on_page(uint64_t gpa, uint64_t end)
{
    uint64_t next = (gpa | (SVQ_PAGE_SIZE - 1)) + 1;
    return (uint32_t)((next < end ? next : end) - gpa);
}

/* Grants pages from gpa on while their references are consecutive. *end becomes where it stopped. */
static inline int svq_grant_pages(struct svq_queue *q, uint64_t gpa, uint64_t *end, bool writable,
                                  struct svq_grant_run *run)
{
    int rc = 1;
    while (gpa < *end && (rc = svq_grant_page(q, gpa, svq_bytes_on_page(gpa, *end), writable, run)) == 1)
        gpa += svq_bytes_on_page(gpa, *end);
    *end = gpa;
    return rc < 0 ? rc : 0;
}

#endif
