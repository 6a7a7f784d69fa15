/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver's ledger: what it has given away of its memory at this very moment, page by page, in memory that it shares
 * with whoever audits it; and the audit: does the guest's grant table let anybody at a page that the driver has back?
 *
 * The rule that it holds a mediator to: at no moment can a page be reached that no request describes which the driver
 * has given away. A look at the table and a look at the ledger are never the same moment. So each word of the ledger
 * changes with every change, and never back (but for 24 bits that come round): a page that was the driver's in one and
 * the same word before and after a look at the table was its own at that look.
 *
 * cffi parses this header with the preprocessor lines removed: plain declarations only.
 */
#ifndef SVQ_LEDGER_H
#define SVQ_LEDGER_H

#include <stddef.h>
#include <stdint.h>

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

/* How the driver came to have a page back. */
enum svq_back {
    SVQ_BACK_ALWAYS = 0,   /* it was never given away */
    SVQ_BACK_USED = 1,     /* a used entry */
    SVQ_BACK_RESET = 2,    /* a reset of its queue that is done */
    SVQ_BACK_NOT_HELD = 3, /* Closing, and its request is not among those with held pages */
    SVQ_BACK_CLOSED = 4,   /* Closed */
    SVQ_BACK_SWEPT = 5,    /* dom0 has swept for a mediator that is gone */
    SVQ_BACK_REMOVED = 6,  /* the device was detached */
    SVQ_BACK_OFFERED = 7,  /* a new offer: a mediator that makes one has taken back what another had granted */
};

/*
 * state: requests alive that let the device read all of the page (bits 0-11), write all of it (12-23), or that have a
 * part of it (24-35); then enum svq_back (36-39) and the number of changes (40-63).
 */
enum { SVQ_LEDGERS_MAX = 128 }; /* of one guest, in an audit */

struct svq_ledger_page {
    uint64_t gfn;
    uint64_t state;
};

struct svq_ledger {
    uint64_t pages;   /* 0 until the ledger is complete */
    uint64_t by_hand; /* grows; odd: its driver writes rings that no ledger knows: of its guest nothing can be said */
    struct svq_ledger_page page[]; /* in the driver's order */
};

size_t svq_ledger_bytes(size_t pages);

/* All pages are the driver's own again, whatever was alive. */
void svq_ledger_take_back(struct svq_ledger *ledger, int back);

/* The driver gives away what it likes from now on, until svq_ledger_take_back. */
void svq_ledger_by_hand(struct svq_ledger *ledger);

enum svq_breach_kind {
    SVQ_BREACH_NOT_GIVEN = 1,   /* the page is its driver's own */
    SVQ_BREACH_NOT_SO = 2,      /* it was given to be read, and can be written */
    SVQ_BREACH_OLD_CONTENT = 3, /* it was given to be written, and shows what its driver had there before */
    SVQ_BREACH_NOBODYS = 4,     /* no driver has such a page */
};

struct svq_breach {
    int kind;
    uint32_t gref;
    uint64_t entry; /* as it was seen */
    uint64_t state; /* of the page, in one of the ledgers that have it */
    size_t ledger;  /* in which */
};

struct svq_audit {
    const uint64_t *table; /* a guest's grant table (version 1) */
    size_t entries;
    struct svq_ledger *const *ledgers; /* of all its drivers, at most SVQ_LEDGERS_MAX */
    size_t ledgers_count;
    int exact;             /* 1: a page of which requests have only parts must not be granted (placement) */
    const uint8_t *memory; /* the guest's, from frame 0 on, for SVQ_BREACH_OLD_CONTENT; NULL: without that */
};

/*
 * Looks once at each entry that lets anybody at its page, or whose page is mapped; *open becomes their number. Returns
 * how many breaches there are, the first `breaches_max` of them in `breaches`.
 */
size_t svq_ledger_audit(const struct svq_audit *audit, struct svq_breach *breaches, size_t breaches_max, size_t *open);

#pragma GCC visibility pop

#endif
