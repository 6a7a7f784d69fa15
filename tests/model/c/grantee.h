/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Xen and the grantee of one entry, as tests/model/xen.py has them: any number of maps and unmaps at once, from what
 * there is to whatever can come of it.
 */
#ifndef SVQ_GRANTEE_H
#define SVQ_GRANTEE_H

#include "peers.h"

#include "grant_entry.h"

/* What Xen knows of the entry. */
struct grantee {
    bool reads, writes; /* it has a read-only mapping, a writable one */
};

/* The type and GTF_readonly are asked for by the first mapping, GTF_readonly by the first writable one. */
static inline void grantee_moves(struct grantee *grantee, uint64_t *word)
{
    struct grantee next = { nondet_bool(), nondet_bool() };
    bool typed = (*word & GTF_TYPE_MASK) == GTF_PERMIT_ACCESS, readonly = *word & GTF_READONLY;
    if (!grantee->reads && !grantee->writes)
        __CPROVER_assume(typed || (!next.reads && !next.writes));
    __CPROVER_assume(!next.writes || grantee->writes || !readonly);
    *grantee = next;
    *word = (*word & ~SVQ_ENTRY_MAPPED) | (next.reads || next.writes ? (uint64_t)GTF_READING : 0u) |
            (next.writes ? (uint64_t)GTF_WRITING : 0u);
}

/* The flags are what Xen has made them. */
static inline bool grantee_is_true(const struct grantee *grantee, uint64_t word)
{
    return !!(word & GTF_READING) == (grantee->reads || grantee->writes) && !!(word & GTF_WRITING) == grantee->writes;
}

/* What our own compare-and-swap may make of an entry that is to end. */
static inline void check_end(uint64_t before, uint64_t after)
{
    const uint64_t changes = GTF_TYPE_MASK | GTF_READONLY;
    __CPROVER_assert(after != 0 || !(before & SVQ_ENTRY_MAPPED),
                     "it becomes free only while its flags say that nobody has it mapped");
    __CPROVER_assert(after == 0 || (after & ~changes) == (before & ~changes),
                     "what is held keeps flags, mark, grantee and frame");
    __CPROVER_assert(after == 0 || ((after & GTF_TYPE_MASK) == 0 && after & GTF_READONLY),
                     "and has no type, and is read-only");
}

static inline bool is_held_form(uint64_t word)
{
    return (word & GTF_TYPE_MASK) == 0 && word & GTF_READONLY && word & SVQ_ENTRY_MAPPED;
}

/* Is it what was granted, or what that became when it was ended while it was mapped? */
static inline bool is_of_grant(uint64_t word, uint64_t granted)
{
    uint64_t bare = word & ~SVQ_ENTRY_MAPPED;
    return bare == granted || bare == ((granted & ~(uint64_t)GTF_TYPE_MASK) | GTF_READONLY);
}

static inline uint64_t any_grant(void)
{
    uint64_t domid = nondet_u64(), frame = nondet_u64(), mark = nondet_u64();
    __CPROVER_assume(domid < 1 << 16 && frame < 1ULL << 32 && mark >= 1 && mark <= SVQ_MARK_MAX);
    return svq_entry_granted(domid, frame, nondet_bool(), mark);
}

#endif
