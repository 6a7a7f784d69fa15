/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The grant window: the part of the frontend's own grant table where a mediator makes grants (to grant a page is a
 * store of 8 bytes, no hypercall). The table itself is the allocator: an entry is free if all of it is 0, and belongs
 * to whoever takes it then (grant_entry.h). So devices, workers and mediators share a window without exchanging a word,
 * and an entry that somebody else holds is merely not available.
 *
 * direct:  gref = first + gfn. If the entry is in use (the page is already in flight), we copy the page.
 * dynamic: any consecutive free entries; the search begins where the queue found the last ones.
 */
#ifndef SVQ_WINDOW_H
#define SVQ_WINDOW_H

#include "grant_entry.h"
#include "svq.h"

struct svq_worker;

struct svq_window {
    struct svq_hv *hv;
    void *mapping;     /* token of the grant table mapping; NULL: a window of no entries */
    uint64_t *entries; /* shared with the frontend, the hypervisor and other mediators; [0] is first_gref's */
    uint32_t first_gref;
    uint32_t count;
    bool direct;
    bool alone;                /* only one thread takes entries here: reserved for us, and served by one worker */
    struct svq_worker *worker; /* the first that served a queue of this window */
    /*
     * Nobody reserved these entries for us. Linux takes new ones from the bottom up, so when it uses those just below
     * ours, it may be here next: then we grant nothing more.
     */
    const uint64_t *guard; /* NULL: they are reserved */
    uint32_t guard_count;
    int lost;

    struct svq_window_config config;
    struct svq_window *next; /* of the guest's windows */
    uint32_t users;
};

/* Consecutive grefs. */
struct svq_grant_run {
    uint32_t gref;
    uint32_t pages;
};

int svq_window_init(struct svq_window *window, struct svq_hv *hv, uint16_t domid,
                    const struct svq_window_config *config);
void svq_window_destroy(struct svq_window *window);

/* Entries that have this mark. */
uint32_t svq_window_in_use(const struct svq_window *window, uint32_t mark);

/* Looks whether the frontend's own use has come near; if so, svq_window_is_lost from then on. */
void svq_window_look(struct svq_window *window);

static inline bool svq_window_is_lost(const struct svq_window *window)
{
    return __atomic_load_n(&window->lost, __ATOMIC_RELAXED);
}

static inline uint64_t *svq_window_entry(const struct svq_window *window, uint32_t gref)
{
    return &window->entries[gref - window->first_gref];
}

/*
 * Finds the next free entry of a dynamic window, from *cursor on, in at most SVQ_WINDOW_TRIES entries. *taken counts
 * those that were not free. False: none of them is free.
 */
enum { SVQ_WINDOW_TRIES = 128 };
bool svq_window_find(const struct svq_window *window, uint32_t *cursor, uint64_t *taken, uint32_t *gref);

#endif
