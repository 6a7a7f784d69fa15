/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver's chain, fetched once into private memory and checked there. We never read any of this from the frontend
 * again (XSA-155), so what we checked is what we use.
 */
#ifndef SVQ_CHAIN_H
#define SVQ_CHAIN_H

#include "guestmem.h"
#include "svq.h"

struct svq_segment {
    uint64_t gpa;
    uint32_t len;
    uint16_t writable;
    uint16_t desc; /* index in its table, for messages */
};

struct svq_chain {
    uint16_t head;
    uint16_t count;
    uint16_t in_indirect; /* 1 from the first descriptor of an indirect table on */
    uint16_t desc;        /* the last descriptor that we looked at, for messages */
    uint32_t writable_bytes;
    uint32_t pages;                /* pages that all of its segments touch */
    uint64_t bad_value, bad_limit; /* what made svq_chain_fetch fail */
    struct svq_segment segments[SVQ_QUEUE_SIZE_MAX];
};

/* Where chains come from: one queue's descriptor table and the rules in force. */
struct svq_chain_source {
    struct svq_view *view;
    uint64_t gpa_limit;             /* all addresses of the guest are below this */
    const struct vring_desc *table; /* shared with the frontend */
    uint32_t pages_max;             /* the most pages that a chain may touch */
    uint16_t size;
    bool indirect_negotiated;
};

/* Walks the chain that starts at `head` (below size). 0, or enum svq_err with chain->bad_* and ->desc set. */
int svq_chain_fetch(const struct svq_chain_source *source, uint16_t head, struct svq_chain *chain);

#endif
