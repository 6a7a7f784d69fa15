/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver's ledger: which of its memory it has given away at this moment, page by page, in memory that it shares with
 * the auditor. And the audit: does the guest's grant table open to anybody a page that the driver has back?
 *
 * The rule for the mediator: at no moment can anybody reach a page unless a request that the driver has given away
 * describes it. One cannot look at the table and at the ledger at the same moment. So every change gives a word of the
 * ledger a new value that never returns (except that 24 bits wrap): if a page was the driver's in the same word before
 * and after a look at the table, it was the driver's at that look.
 *
 * cffi parses this header with the preprocessor lines removed: plain declarations only.
 */
#ifndef SVQ_LEDGER_H
#define SVQ_LEDGER_H

#include <stddef.h>
#include <stdint.h>

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

/* How the driver got a page back. */
enum svq_back {
    SVQ_BACK_ALWAYS = 0,   /* it was never given away */
    SVQ_BACK_USED = 1,     /* a used entry */
    SVQ_BACK_RESET = 2,    /* a completed reset of its queue */
    SVQ_BACK_NOT_HELD = 3, /* Closing, and its request is not among those with held pages */
    SVQ_BACK_CLOSED = 4,   /* Closed */
    SVQ_BACK_SWEPT = 5,    /* dom0 has swept in place of a mediator that is gone */
    SVQ_BACK_REMOVED = 6,  /* the device was detached */
    SVQ_BACK_OFFERED = 7,  /* a new offer: a mediator makes one only after taking back what another had granted */
};

/*
 * state: live requests that let the device read all of the page (bits 0-11), write all of it (12-23), or that use a
 * part of it (24-35); then enum svq_back (36-39) and the number of changes (40-63).
 */
enum { SVQ_LEDGERS_MAX = 128 }; /* of one guest, in one audit */

struct svq_ledger_page {
    uint64_t gfn;
    uint64_t state;
};

struct svq_ledger {
    uint64_t pages;   /* 0 until the ledger is complete */
    uint64_t by_hand; /* grows; odd: its driver writes rings by hand, so an audit of its guest says nothing */
    struct svq_ledger_page page[]; /* in the driver's order */
};

size_t svq_ledger_bytes(size_t pages);

/* All pages are the driver's own again, whatever requests were alive. */
void svq_ledger_take_back(struct svq_ledger *ledger, int back);

/* From now on the driver may give away anything, until svq_ledger_take_back. */
void svq_ledger_by_hand(struct svq_ledger *ledger);

enum svq_breach_kind {
    SVQ_BREACH_NOT_GIVEN = 1,   /* the page is its driver's own */
    SVQ_BREACH_NOT_SO = 2,      /* it was given for reading, but can be written */
    SVQ_BREACH_OLD_CONTENT = 3, /* it was given for writing, but shows the driver's old contents */
    SVQ_BREACH_NOBODYS = 4,     /* no driver has such a page */
};

struct svq_breach {
    int kind;
    uint32_t gref;
    uint64_t entry; /* as the audit saw it */
    uint64_t state; /* of the page, in one of the ledgers that have it */
    size_t ledger;  /* which ledger */
};

struct svq_audit {
    const uint64_t *table; /* a guest's grant table (version 1) */
    size_t entries;
    struct svq_ledger *const *ledgers; /* of all the guest's drivers, at most SVQ_LEDGERS_MAX */
    size_t ledgers_count;
    int exact;             /* 1: a page of which requests use only parts must not be granted (placement) */
    const uint8_t *memory; /* the guest's, from frame 0 on, to find SVQ_BREACH_OLD_CONTENT; NULL: do not look for it */
};

/*
 * Looks once at each entry that opens its page to anybody, or whose page is mapped; *open becomes the number of those
 * entries. Returns how many breaches there are; writes the first `breaches_max` of them to `breaches`.
 */
size_t svq_ledger_audit(const struct svq_audit *audit, struct svq_breach *breaches, size_t breaches_max, size_t *open);

#pragma GCC visibility pop

#endif
