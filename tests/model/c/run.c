/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of a run of pages (svq_end_grants in c_helpers/src/engine/part.c), and of a request before its driver sees it
 * used (end_access in complete.c): every page is tried, whichever its grantee keeps, and what has ended is left alone.
 */
#include "grantee.h"

#include "part.c"

#include "complete.c"

enum { PAGES = 3 };

static uint64_t entries[PAGES];
static struct grantee grantees[PAGES];
static bool tried[PAGES], ended[PAGES];
static bool overwritten[PAGES]; /* by its frontend, which did not reserve it for us */
static unsigned failures[PAGES];
static struct svq_window window = { .entries = entries, .count = PAGES, .direct = true, .config = { .guarded = true } };
static struct svq_device dev = { .window = &window };
static struct svq_queue q = { .dev = &dev, .window = &window };
static uint64_t first_gfn;

int svq_fault_set(struct svq_queue *queue, int code, uint16_t head, uint16_t desc, uint64_t value, uint64_t limit)
{
    (void)queue, (void)head, (void)desc, (void)value, (void)limit;
    return code;
}

static uint64_t granted(const struct svq_part *part, unsigned i)
{
    return q.granted[part->writable] | (first_gfn + i) << 32;
}

static void peers_move(uint64_t *word)
{
    unsigned i = (unsigned)(word - entries);
    __CPROVER_assert(i < PAGES, "the run's own entries");
    tried[i] = true;
    if (!ended[i] && !overwritten[i])
        grantee_moves(&grantees[i], word);
}

static void we_write(const uint64_t *word, uint64_t after)
{
    unsigned i = (unsigned)(word - entries);
    __CPROVER_assert(!ended[i] && !overwritten[i],
                     "what has ended is somebody else's by now, and so is what was overwritten");
    check_end(*word, after);
    ended[i] = after == 0;
}

static void we_fail(const uint64_t *word) { failures[word - entries]++; }

/* A run that was granted: nobody, somebody or everybody has mapped it, this way or that. */
static struct svq_part any_run(void)
{
    bool writable = nondet_bool();
    uint64_t of_device = any_grant() & 0xffffffffu & ~(uint64_t)GTF_READONLY;
    first_gfn = nondet_u64() & 0xffff;
    q.granted[0] = of_device | GTF_READONLY;
    q.granted[1] = of_device;
    struct svq_part part = {
        .gpa = first_gfn << SVQ_PAGE_SHIFT, .ref = 0, .pages = PAGES, .where = SVQ_GRANTED, .writable = writable
    };
    for (unsigned i = 0; i < PAGES; i++) {
        entries[i] = granted(&part, i);
        grantee_moves(&grantees[i], &entries[i]);
    }
    return part;
}

static unsigned count_held(void)
{
    unsigned held = 0;
    for (unsigned i = 0; i < PAGES; i++)
        held += !ended[i];
    return held;
}

static void check_tried(unsigned held, int code)
{
    __CPROVER_assert(held == count_held(), "held are those that did not end, no more and no fewer");
    __CPROVER_assert((code != 0) == (held != 0), "and it says so");
    for (unsigned i = 0; i < PAGES; i++) {
        __CPROVER_assert(tried[i], "every page is tried");
        __CPROVER_assert(ended[i] || overwritten[i] || is_held_form(entries[i]) || failures[i] >= SVQ_ENTRY_TRIES,
                         "a page that did not end cannot be mapped by anybody who has it not");
    }
}

/*
 * Between two tries: what is free is granted again, by another device or for another chain of this one with the same
 * page. And the frontend takes an entry that is held for its own use, so that nobody knows any more when the page is
 * let go.
 */
static void others_move(const struct svq_part *part, bool fought)
{
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t other = any_grant();
        tried[i] = false;
        failures[i] = 0;
        if (ended[i] && nondet_bool()) {
            bool same = nondet_bool();
            __CPROVER_assume(same ? !fought : svq_entry_mark(other) != svq_entry_mark(q.granted[0]));
            entries[i] = same ? granted(part, i) : other;
        } else if (!ended[i] && !fought && nondet_bool()) {
            overwritten[i] = true;
            entries[i] = other;
            __CPROVER_assume(!is_of_grant(other, granted(part, i)));
        }
    }
}

/* Ends a run, and tries again what was held. */
void prove_run(void)
{
    struct svq_part part = any_run();
    bool fought = false;
    int code = 0;
    unsigned held = svq_end_grants(&q, &part, &code);
    check_tried(held, code);
    if (!held)
        return;
    for (unsigned i = 0; i < PAGES; i++)
        fought = fought || failures[i] >= SVQ_ENTRY_TRIES;
    others_move(&part, fought);
    code = 0;
    held = svq_end_grants(&q, &part, &code);
    check_tried(held, code);
}

/* The driver sees a request used only when each of its pages has ended. */
void prove_used(void)
{
    struct svq_part run = any_run(), parts[2] = { run, run };
    parts[0].pages = 1;
    parts[1].pages = PAGES - 1;
    parts[1].ref = 1;
    parts[1].gpa += SVQ_PAGE_SIZE;
    int rc = end_access(&q, 0, parts, 2);
    __CPROVER_assert((rc == 0) == (count_held() == 0),
                     "it goes on to the driver when all pages have ended, and only then");
    __CPROVER_assert(tried[0] && tried[1] && tried[2], "every page is tried");
}
