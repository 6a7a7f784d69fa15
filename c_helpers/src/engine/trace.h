/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A queue's trace: a fixed ring of events, written by whoever has the queue, read by anybody at any time.
 *
 * Each entry carries its number, which is 0 while it is being written. A reader takes the number, the words, and the
 * number again: only if both are the same the words belong together.
 */
#ifndef SVQ_TRACE_H
#define SVQ_TRACE_H

#include "barrier.h"
#include "check.h"
#include "svq.h"

enum { SVQ_TRACE_WORDS = sizeof(struct svq_trace_entry) / sizeof(uint64_t) };

struct svq_trace {
    uint32_t every; /* which chains are noted that are nothing special; 0: none */
    uint32_t left;  /* how many are to come before the next of those; 0: tracing is off */
    uint64_t last;  /* the number of the latest event */
    uint64_t word[SVQ_TRACE_ENTRIES][SVQ_TRACE_WORDS];
};

_Static_assert(sizeof(struct svq_trace_entry) == 40 && offsetof(struct svq_trace_entry, number) == 0, "whole words");

/* Is this chain one of those? */
static inline bool svq_trace_is_due(struct svq_trace *trace)
{
    if (!svq_unlikely(trace->left) || --trace->left)
        return false;
    trace->left = trace->every;
    return true;
}

void svq_trace_set_every(struct svq_trace *trace, uint32_t every);
void svq_trace_add(struct svq_trace *trace, const struct svq_trace_entry *entry); /* gives it its number */
int svq_trace_read(const struct svq_trace *trace, struct svq_trace_entry out[SVQ_TRACE_ENTRIES]);

#endif
