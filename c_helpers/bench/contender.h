/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contenders, which run on one core in turn, in short slices, so that other load on the machine affects all of them
 * alike. The ratios of a slice compare neighbours in time, and medians over the slices drop disturbed ones.
 */
#ifndef SVQ_BENCH_CONTENDER_H
#define SVQ_BENCH_CONTENDER_H

#include "relay.h"

enum { CONTENDERS_MAX = 8, SLICES_MAX = 64 };

struct contender {
    struct rig *rig;
    struct floor_relay *relay; /* NULL: the engine */
    unsigned segments;         /* pages per chain; 0: a virtio-blk request */
    bool only_clears;          /* no engine: only writes zeros to the pages of the chains */
    double ns[SLICES_MAX];     /* per chain, for each slice of the last bench_interleave */
};

/* A slice of each contender in turn, `slices` times. Aborts when a chain is lost. */
void bench_interleave(struct contender *c, unsigned count, unsigned slices);
/* Serves at least `chains` chains without measuring. */
void bench_serve(struct contender *c, unsigned chains);

double bench_median(double *values, unsigned count); /* sorts them */
/* Compares slice by slice, so call it before bench_median sorts the ns of either one. */
double bench_median_ratio(const struct contender *over, const struct contender *under, unsigned slices);

#endif
