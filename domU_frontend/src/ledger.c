/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A ledger as every process that maps it sees it: taken back as a whole, and audited. */
#include "svq_ledger.h"

#include "barrier.h"
#include "drv_tag.h"
#include "grant.h"
#include "ledger_state.h"
#include "svq_driver.h"

size_t svq_ledger_bytes(size_t pages) { return sizeof(struct svq_ledger) + pages * sizeof(struct svq_ledger_page); }

void svq_ledger_take_back(struct svq_ledger *ledger, int back)
{
    uint64_t pages = svq_acquire_u64(&ledger->pages);
    for (uint64_t i = 0; i < pages; i++) {
        uint64_t *state = &ledger->page[i].state;
        uint64_t seen = svq_load_u64(state);
        while (!svq_cas_u64(state, &seen, ledger_word(0, back, (seen >> LEDGER_CHANGES_SHIFT) + 1)))
            ;
    }
    uint64_t by_hand = svq_load_u64(&ledger->by_hand);
    svq_release_u64(&ledger->by_hand, by_hand + by_hand % 2);
}

void svq_ledger_by_hand(struct svq_ledger *ledger)
{
    uint64_t by_hand = svq_load_u64(&ledger->by_hand);
    svq_release_u64(&ledger->by_hand, by_hand + 1 - by_hand % 2);
    svq_full_fence(); /* before the next write to a ring */
}

/* Can the grantee map the page, or does somebody have it mapped (even if its grant has ended: then it is held)? */
static bool reachable(uint64_t entry) { return entry & (GTF_TYPE_MASK | GTF_READING | GTF_WRITING); }

static bool writable(uint64_t entry)
{
    bool by_anybody = (entry & GTF_TYPE_MASK) && !(entry & GTF_READONLY);
    return by_anybody || entry & GTF_WRITING;
}

static struct svq_ledger_page *page_of(struct svq_ledger *ledger, uint64_t gfn)
{
    uint64_t pages = svq_acquire_u64(&ledger->pages);
    if (pages == 0)
        return NULL;
    uint64_t place = gfn - ledger->page[0].gfn; /* where it lies if the frames are consecutive */
    if (place < pages && ledger->page[place].gfn == gfn)
        return &ledger->page[place];
    for (uint64_t i = 0; i < pages; i++)
        if (ledger->page[i].gfn == gfn)
            return &ledger->page[i];
    return NULL;
}

static bool shows_secret(const uint8_t *memory, uint64_t entry, uint64_t state)
{
    uint64_t gfn = 0;
    uint32_t offset = 0;
    int seed = svq_tag_at(memory + ((entry >> 32) << SVQ_PAGE_SHIFT), &gfn, &offset);
    return seed == ledger_secret(state) && gfn == entry >> 32 && offset == 0;
}

/* What is wrong with an entry, according to this ledger; 0: nothing. */
static int judge(const struct svq_audit *a, uint64_t entry, uint64_t state)
{
    if (!a->exact)
        return ledger_given(state) ? 0 : SVQ_BREACH_NOT_GIVEN;
    bool ended = !(entry & GTF_TYPE_MASK); /* it no longer says how it was granted */
    if (writable(entry) && !ledger_has(state, LEDGER_WRITE))
        return ledger_has(state, LEDGER_READ) ? SVQ_BREACH_NOT_SO : SVQ_BREACH_NOT_GIVEN;
    if (!writable(entry) && !ledger_has(state, LEDGER_READ) && !(ended && ledger_has(state, LEDGER_WRITE)))
        return SVQ_BREACH_NOT_GIVEN;
    if (a->memory && writable(entry) && shows_secret(a->memory, entry, state))
        return SVQ_BREACH_OLD_CONTENT;
    return 0;
}

/* The page in each ledger that has it, and its state there. */
struct view {
    size_t ledger;
    struct svq_ledger_page *page;
    uint64_t state;
};

static size_t view(const struct svq_audit *a, uint64_t gfn, struct view views[SVQ_LEDGERS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < a->ledgers_count && i < SVQ_LEDGERS_MAX; i++) {
        struct svq_ledger_page *page = page_of(a->ledgers[i], gfn);
        if (page)
            views[n++] = (struct view){ .ledger = i, .page = page, .state = svq_acquire_u64(&page->state) };
    }
    return n;
}

/*
 * Devices of a guest may share pages: it is enough that one driver has given a page away. But everything that the
 * ledgers say has to hold at the moment when the entry is read, so we read them before and after.
 */
static bool is_breach(const struct svq_audit *a, size_t gref, struct svq_breach *breach)
{
    struct view views[SVQ_LEDGERS_MAX];
    uint64_t gfn = svq_acquire_u64(&a->table[gref]) >> 32;
    size_t n = view(a, gfn, views);
    uint64_t entry = svq_acquire_u64(&a->table[gref]);
    if (!reachable(entry) || entry >> 32 != gfn)
        return false; /* it has another page now: left to the next audit */
    *breach = (struct svq_breach){ .kind = SVQ_BREACH_NOBODYS, .gref = (uint32_t)gref, .entry = entry };
    for (size_t i = 0; i < n; i++) {
        breach->kind = judge(a, entry, views[i].state);
        breach->state = views[i].state;
        breach->ledger = views[i].ledger;
        if (breach->kind == 0)
            return false;
    }
    svq_full_fence(); /* reads of entry and page come before this reading of the ledgers */
    for (size_t i = 0; i < n; i++)
        if (svq_load_u64(&views[i].page->state) != views[i].state)
            return false;
    return true;
}

/* Sums up counters that only grow. False: one of them is odd (rings written by hand). */
static bool all_known(const struct svq_audit *a, uint64_t *sum)
{
    *sum = 0;
    for (size_t i = 0; i < a->ledgers_count; i++) {
        uint64_t by_hand = svq_acquire_u64(&a->ledgers[i]->by_hand);
        if (by_hand % 2)
            return false;
        *sum += by_hand;
    }
    return true;
}

size_t svq_ledger_audit(const struct svq_audit *audit, struct svq_breach *breaches, size_t breaches_max, size_t *open)
{
    uint64_t before, after;
    size_t found = 0;
    *open = 0;
    if (!all_known(audit, &before))
        return 0;
    struct svq_breach breach;
    for (size_t gref = 0; gref < audit->entries; gref++) {
        if (!reachable(svq_load_u64(&audit->table[gref])))
            continue;
        ++*open;
        if (!is_breach(audit, gref, &breach))
            continue;
        if (found < breaches_max)
            breaches[found] = breach;
        found++;
    }
    svq_full_fence();
    return all_known(audit, &after) && after == before ? found : 0;
}
