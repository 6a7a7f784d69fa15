/* SPDX-License-Identifier: GPL-2.0-or-later */
/* usage: svq_bench CASE [ROUNDS]   CASE: engine | curves | throughput | sleeping | all */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

void bench_sample(const char *name, double x, double value)
{
    printf("{\"case\": \"%s\", \"x\": %.17g, \"value\": %.17g}\n", name, x, value);
    fflush(stdout);
}

void bench_round_done(unsigned round) { bench_sample("round_done", round, 1); }

int main(int argc, char **argv)
{
    const char *which = argc > 1 ? argv[1] : "all";
    unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 7;
    int all = !strcmp(which, "all"), known = all;
    if (all || !strcmp(which, "engine"))
        known = 1, bench_floor_and_chains(rounds);
    if (all || !strcmp(which, "curves"))
        known = 1, bench_curves(rounds);
    if (all || !strcmp(which, "throughput"))
        known = 1, bench_two_cores(rounds);
    if (all || !strcmp(which, "sleeping"))
        known = 1, bench_sleeping(rounds);
    if (!known)
        fprintf(stderr, "usage: svq_bench engine|curves|throughput|sleeping|all [ROUNDS]\n");
    return !known;
}
