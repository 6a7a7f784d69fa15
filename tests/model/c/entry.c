/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of one grant entry (c_helpers/src/engine/grant_entry.h), whatever its grantee and its frontend do meanwhile.
 */
#include "grantee.h"

static enum { TAKES, TAKES_ALONE, ENDS, ENDS_HELD, SWEEPS } we;
static struct grantee grantee;
static bool frontend_lies; /* it writes into the entry whatever it likes */

static uint64_t granted;
static struct svq_marks marks;

static unsigned changes, failures;
static uint64_t last_seen, last_written;

static bool is_ours(uint64_t word)
{
    uint64_t mark = word >> SVQ_MARK_SHIFT & SVQ_MARK_MAX;
    if (we == ENDS)
        return is_of_grant(word, granted);
    if (we == ENDS_HELD)
        return (word & ~SVQ_ENTRY_MAPPED) == svq_entry_held(granted);
    return we == SWEEPS ? mark && (marks.bits[mark / 64] >> mark % 64 & 1) : word == 0;
}

static void peers_move(uint64_t *word)
{
    if (frontend_lies) {
        if (nondet_bool())
            *word = nondet_u64();
    } else if (we == ENDS || we == ENDS_HELD || we == SWEEPS) {
        grantee_moves(&grantee, word);
    }
    last_seen = *word;
}

static void we_write(const uint64_t *word, uint64_t after)
{
    changes++;
    last_written = after;
    __CPROVER_assert(is_ours(*word), "only a word of ours is changed");
    if (we == TAKES || we == TAKES_ALONE) {
        __CPROVER_assert(after == granted, "what is written is the grant");
        return;
    }
    check_end(*word, after);
    __CPROVER_assert(after != 0 || frontend_lies || (!grantee.reads && !grantee.writes),
                     "it becomes free only while nobody has it mapped");
}

static void we_fail(const uint64_t *word)
{
    (void)word;
    failures++;
}

static void take(bool alone)
{
    uint64_t word = nondet_u64();
    granted = any_grant();
    bool taken = svq_entry_take(&word, granted, alone);
    __CPROVER_assert(taken ? changes == 1 && word == granted : changes == 0,
                     "the grant stands there, or nothing of it");
    __CPROVER_assert((granted & GTF_TYPE_MASK) == GTF_PERMIT_ACCESS && (granted & SVQ_ENTRY_MAPPED) == 0,
                     "a grant is one, and claims no mapping");
}

/* Grants only where nothing stands, whoever else takes entries there. */
void prove_take(void)
{
    we = TAKES;
    frontend_lies = true;
    take(false);
}

/* The same where nobody else does. */
void prove_take_alone(void)
{
    we = TAKES_ALONE;
    take(true);
}

/* The entry at any time of its life. */
static uint64_t any_word(void)
{
    uint64_t word = nondet_u64();
    grantee = (struct grantee){ nondet_bool(), nondet_bool() };
    __CPROVER_assume(frontend_lies || grantee_is_true(&grantee, word));
    return word;
}

static void check_outcome(enum svq_end outcome, bool was_ours)
{
    __CPROVER_assert(outcome != SVQ_ENDED || (changes && last_written == 0), "ended: it is free, and we made it so");
    __CPROVER_assert(outcome != SVQ_TAMPERED || !is_ours(last_seen), "tampered: something else stood there");
    __CPROVER_assert(outcome != SVQ_HELD || is_held_form(changes ? last_written : last_seen),
                     "held: it has lost its type");
    __CPROVER_assert(outcome != SVQ_FOUGHT || (!changes && failures >= SVQ_ENTRY_TRIES),
                     "fought: somebody came between every single time");
    __CPROVER_assert(frontend_lies || was_ours == (outcome != SVQ_TAMPERED), "ours is ended, and nothing else");
    __CPROVER_assert(changes <= 1, "one change at the most");
}

static void end(bool lies)
{
    we = ENDS;
    frontend_lies = lies;
    granted = any_grant();
    uint64_t word = any_word();
    bool was_ours = is_ours(word);
    check_outcome(svq_entry_end(&word, granted), was_ours);
}

static void sweep(bool lies)
{
    we = SWEEPS;
    frontend_lies = lies;
    marks.bits[0] = nondet_u64();
    marks.bits[1] = nondet_u64();
    uint64_t word = any_word();
    bool was_ours = is_ours(word);
    check_outcome(svq_entry_sweep(&word, &marks), was_ours);
}

/* Ends a grant, the first time or again, while its grantee maps and unmaps it. */
void prove_end(void) { end(false); }

/* The same while the frontend writes there. */
void prove_end_of_a_liar(void) { end(true); }

/* Tries again to end what is held, and no later grant of the same page, whatever the frontend writes. */
void prove_end_held(void)
{
    we = ENDS_HELD;
    frontend_lies = nondet_bool();
    granted = any_grant();
    uint64_t word = any_word();
    bool was_ours = is_ours(word);
    check_outcome(svq_entry_end_held(&word, granted), was_ours);
}

/* Ends what an earlier mediator granted: entries with one of its marks, and no others. */
void prove_sweep(void) { sweep(false); }

void prove_sweep_of_a_liar(void) { sweep(true); }
