/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * c_helpers/src/ring/barrier.h, with everybody else at work between any two of our accesses to a word of 64 bits: it
 * comes first, so that the code under proof uses these. CBMC looks at every execution: `nondet_...` is any value,
 * __CPROVER_assume what can be.
 */
#ifndef SVQ_PEERS_H
#define SVQ_PEERS_H

#define svq_load_u64 plain_load_u64
#define svq_store_u64 plain_store_u64
#define svq_release_u64 plain_release_u64
#define svq_cas_u64 plain_cas_u64
#include "barrier.h"
#undef svq_load_u64
#undef svq_store_u64
#undef svq_release_u64
#undef svq_cas_u64

bool nondet_bool(void);
uint64_t nondet_u64(void);

/* What a harness brings: the others' steps, and what it asserts of our own. */
static void peers_move(uint64_t *word);
static void we_write(const uint64_t *word, uint64_t after);
static void we_fail(const uint64_t *word);

static inline uint64_t svq_load_u64(const uint64_t *word)
{
    peers_move((uint64_t *)word);
    return *word;
}

static inline void svq_release_u64(uint64_t *word, uint64_t value)
{
    peers_move(word);
    we_write(word, value);
    *word = value;
}

static inline bool svq_cas_u64(uint64_t *word, uint64_t *expected, uint64_t desired)
{
    peers_move(word);
    if (*word != *expected) {
        we_fail(word);
        *expected = *word;
        return false;
    }
    we_write(word, desired);
    *word = desired;
    return true;
}

#endif
