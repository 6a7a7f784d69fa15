/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is compared on one core. Contenders run in turn in short slices, so that whatever else the machine does
 * meets all alike; a slice's ratios are between neighbours in time, and medians over the slices forget those that were
 * disturbed.
 */
#ifndef SVQ_BENCH_CONTENDER_H
#define SVQ_BENCH_CONTENDER_H

#include "relay.h"

enum { CONTENDERS_MAX = 8, SLICES_MAX = 64 };

struct contender {
    struct rig *rig;
    struct floor_relay *relay; /* NULL: the engine */
    unsigned segments;         /* pages per chain; 0: a virtio-blk request */
    bool only_clears;          /* no engine: zeros are written to the pages of the chains, and nothing else is done */
    double ns[SLICES_MAX];     /* per chain, of each slice of the last bench_interleave */
};

/* A slice of each contender in turn, `slices` times. Aborts when a chain is lost. */
void bench_interleave(struct contender *c, unsigned count, unsigned slices);
/* Serves without measuring: `chains` at least. */
void bench_serve(struct contender *c, unsigned chains);

double bench_median(double *values, unsigned count); /* sorts them */
/* Slice by slice: so it comes before bench_median sorts either's ns. */
double bench_median_ratio(const struct contender *over, const struct contender *under, unsigned slices);

#endif
