/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How much one pass over a queue may do before others have their turn; engine.h has the limits. */
#ifndef SVQ_BUDGET_H
#define SVQ_BUDGET_H

#include "clock.h"
#include "engine.h"

/*
 * What a pass has done so far, against what it may do. We look at the clock only after enough work, since a look costs
 * as much as a small chain.
 */
struct svq_budget {
    uint32_t chains;
    int32_t pages;
    int32_t next_look; /* look at the clock when `pages` has fallen to this */
    uint64_t until_ns; /* 0: we have not looked at the clock yet */
};

static inline struct svq_budget svq_budget_for(uint32_t chains)
{
    const int32_t pages = SVQ_PASS_PAGES;
    return (struct svq_budget){ .chains = chains, .pages = pages, .next_look = pages - SVQ_LOOK_PAGES };
}

/* Is time left? The first look starts the clock: what is done before it is little. */
static __attribute__((noinline, unused)) bool svq_budget_look(struct svq_budget *budget)
{
    uint64_t now = svq_now_ns();
    budget->until_ns = budget->until_ns ? budget->until_ns : now + SVQ_PASS_NS;
    budget->next_look = budget->pages > SVQ_LOOK_PAGES ? budget->pages - SVQ_LOOK_PAGES : 0; /* look at the end too */
    return budget->pages > 0 && now < budget->until_ns;
}

/* Is anything left after one more chain, which cost this number of pages? */
static inline bool svq_budget_spend(struct svq_budget *budget, uint32_t pages)
{
    budget->pages -= (int32_t)pages;
    if (--budget->chains == 0)
        return false;
    return svq_likely(budget->pages > budget->next_look) || svq_budget_look(budget);
}

/* May a pass go on, given what it has mapped so far? */
static inline bool svq_may_map(const struct svq_view *view)
{
    return svq_likely(!view->maps) || view->maps < (view->mem->fixed ? SVQ_PASS_CHUNKS : SVQ_PASS_MAPS);
}

/* What a pass has cost, in pages. */
static inline uint32_t svq_pass_cost(const struct svq_queue *q, const struct svq_budget *budget)
{
    return (uint32_t)(SVQ_PASS_PAGES - budget->pages) + q->view.maps * SVQ_MAP_PAGES;
}

#endif
