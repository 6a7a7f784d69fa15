/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How one page is granted: its entry of the window is found, the page cleared if the backend may write it, the grant
 * written. All in one header, for placing a page is most of what the mediator does and one function does it.
 */
#ifndef SVQ_GRANT_PAGE_H
#define SVQ_GRANT_PAGE_H

#include "engine.h"

/* A page that was to be touched is none (any more): the guest's own doing. */
static __attribute__((cold, noinline, unused)) int svq_not_ram(struct svq_queue *q, uint64_t gpa, uint32_t len)
{
    q->chain->bad_value = gpa;
    q->chain->bad_limit = len;
    return SVQ_E_NOT_RAM;
}

/* Pages from gfn on that may be granted at all: rings never are. */
static inline uint32_t svq_grantable_pages(struct svq_view *view, uint64_t gfn, uint32_t pages)
{
    uint32_t n = 0;
    while (n < pages && svq_guestmem_is_plain_frame(view, gfn + n))
        n++;
    return n;
}

/*
 * The free entry for the page at gfn; NULL: it is not to be had. `run`: what the page is to follow, if that has pages.
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
    if (!run->pages) /* an entry that cuts a run short is met again, as the first of the next */
        svq_count(&q->stats.window_taken, 1);
    return NULL;
}

/* Out of line: next to what it takes, a call is nothing, and the way of those that do not clear stays short. */
static __attribute__((noinline, unused)) bool svq_clear_out_of_line(struct svq_view *view, uint64_t gpa, uint32_t len)
{
    return svq_view_clear(view, gpa, len);
}

/*
 * Adds the page of gpa to a run of grants, `len` bytes of it being the request's. What the backend may write is cleared
 * before: what the guest kept there is no part of the request (CVE-2022-26365). 1, 0 (not to be had), or enum svq_err.
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
    uint64_t granted = (writable ? q->granted[1] : q->granted[0]) | gfn << 32; /* indexed, it waits for the index */
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

/* Grants pages from gpa on for as long as their references follow one another. *end becomes where it stopped. */
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
