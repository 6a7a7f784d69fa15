/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The word of a page in a ledger: see svq_ledger.h. */
#ifndef SVQ_LEDGER_STATE_H
#define SVQ_LEDGER_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "svq_ledger.h"

enum ledger_count { LEDGER_READ, LEDGER_WRITE, LEDGER_PART };

enum {
    LEDGER_COUNT_BITS = 12,
    LEDGER_BACK_SHIFT = 36,
    LEDGER_CHANGES_SHIFT = 40,
};

#define LEDGER_COUNT_MAX ((1ULL << LEDGER_COUNT_BITS) - 1)

static inline uint64_t ledger_has(uint64_t state, enum ledger_count count)
{
    return state >> (count * LEDGER_COUNT_BITS) & LEDGER_COUNT_MAX;
}

/* Is the page part of any request? */
static inline bool ledger_given(uint64_t state) { return state & ((1ULL << LEDGER_BACK_SHIFT) - 1); }

static inline uint64_t ledger_word(uint64_t counts, int back, uint64_t changes)
{
    return counts | (uint64_t)(unsigned)back << LEDGER_BACK_SHIFT | changes << LEDGER_CHANGES_SHIFT;
}

/*
 * Adds or subtracts one. What was taken back as a whole stays so, and a full count stays full until everything is taken
 * back: the ledger may then show as given away what the driver has, but never the reverse.
 */
static inline uint64_t ledger_changed(uint64_t state, enum ledger_count count, bool more, int back)
{
    uint64_t counts = state & ((1ULL << LEDGER_BACK_SHIFT) - 1), one = 1ULL << (count * LEDGER_COUNT_BITS);
    uint64_t has = ledger_has(state, count);
    if (more && has < LEDGER_COUNT_MAX)
        counts += one;
    if (!more && has > 0 && has < LEDGER_COUNT_MAX)
        counts -= one;
    return ledger_word(counts, back, (state >> LEDGER_CHANGES_SHIFT) + 1);
}

/* What the driver leaves on a page that it gives away for writing; it changes each time. */
static inline uint16_t ledger_secret(uint64_t state) { return (uint16_t)(state >> LEDGER_CHANGES_SHIFT); }

#endif
