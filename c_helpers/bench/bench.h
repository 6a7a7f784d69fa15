/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Benchmarks print one JSON object per sample on stdout; the caller takes medians and draws charts. */
#ifndef SVQ_BENCH_H
#define SVQ_BENCH_H

#include <stdint.h>

#include "clock.h"

/* {"case": name, "x": x, "value": value}; x is the position on a curve, or the number of the round. */
void bench_sample(const char *name, double x, double value);
void bench_round_done(unsigned round); /* a sample "round_done", so that the caller can show progress */

void bench_floor_and_chains(unsigned rounds);
void bench_curves(unsigned rounds);
void bench_two_cores(unsigned rounds);
void bench_sleeping(unsigned rounds);

#endif
