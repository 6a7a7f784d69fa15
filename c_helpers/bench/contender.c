/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "contender.h"

#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { BLOCKS_PER_SLICE = 20, WARM_BLOCKS = 4, CHAINS_PER_BLOCK = 256, CLOCK_READS = 201, IDLE_PASSES = 4 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, unsigned count)
{
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

double bench_median_ratio(const struct contender *over, const struct contender *under, unsigned slices)
{
    double ratios[SLICES_MAX];
    for (unsigned s = 0; s < slices; s++)
        ratios[s] = over->ns[s] / under->ns[s];
    return bench_median(ratios, slices);
}

/* How long reading the clock twice takes: every span includes it, and for the floor's short spans that matters. */
static double clock_ns(void)
{
    double spans[CLOCK_READS];
    for (unsigned i = 0; i < CLOCK_READS; i++) {
        uint64_t start = svq_now_ns();
        spans[i] = (double)(svq_now_ns() - start);
    }
    return bench_median(spans, CLOCK_READS);
}

static unsigned chains_per_block(const struct contender *c)
{
    unsigned room = c->rig->config.queue_size / (c->segments ? c->segments : 3);
    return room < CHAINS_PER_BLOCK ? room : CHAINS_PER_BLOCK;
}

/*
 * Makes passes until something moves: one pass may run out of time, or reach its limit of mappings before it moves
 * anything.
 */
static void passes(struct contender *c, unsigned chains,
                   int (*pass)(struct svq_device *dev, uint16_t index, unsigned chains))
{
    int n = 0;
    for (unsigned done = 0, idle = 0; done < chains && n >= 0 && idle < IDLE_PASSES; done += (unsigned)n) {
        n = pass(c->rig->dev, 0, BENCH_BATCH);
        idle = n ? 0 : idle + 1;
    }
}

static uint64_t forward(struct contender *c, unsigned chains)
{
    uint64_t start = svq_now_ns();
    if (!c->relay)
        passes(c, chains, svq_queue_forward);
    for (unsigned i = 0; c->relay && i < chains; i += BENCH_BATCH)
        floor_forward(c->relay, BENCH_BATCH);
    return svq_now_ns() - start;
}

static uint64_t complete(struct contender *c, unsigned chains)
{
    uint64_t start = svq_now_ns();
    if (!c->relay)
        passes(c, chains, svq_queue_complete);
    for (unsigned i = 0; c->relay && i < chains; i += BENCH_BATCH)
        floor_complete(c->relay, BENCH_BATCH);
    return svq_now_ns() - start;
}

/* How long it takes just to clear the pages of these chains. */
static uint64_t clear_pages(struct contender *c, unsigned chains)
{
    const struct rig_queue *q = &c->rig->q[0];
    uint64_t start = svq_now_ns();
    for (unsigned i = 0; i < chains * c->segments; i++) {
        memset(c->rig->ram + q->desc[i].addr, 0, SVQ_PAGE_SIZE);
        svq_compiler_barrier();
    }
    return svq_now_ns() - start;
}

/*
 * One full ring there and back. Returns the time of the relay or the engine alone in ns, without the neighbours' work.
 */
static uint64_t run_block(struct contender *c, unsigned chains)
{
    uint32_t len = c->segments ? c->segments * SVQ_PAGE_SIZE : SVQ_PAGE_SIZE + 1;
    if (c->segments)
        bench_offer_pages(c->rig, chains, c->segments);
    else
        bench_offer_blk(c->rig, chains);
    uint64_t cleared = c->only_clears ? clear_pages(c, chains) : 0;
    uint64_t spent = forward(c, chains);
    bench_echo(c->rig, len);
    spent += complete(c, chains);
    if (bench_reap(c->rig) != chains)
        abort(); /* a benchmark of an engine that loses chains is worthless */
    return c->only_clears ? cleared : spent;
}

static double run_slice(struct contender *c, double span_cost)
{
    unsigned chains = chains_per_block(c);
    uint64_t spent = 0;
    for (unsigned b = 0; b < WARM_BLOCKS; b++)
        run_block(c, chains);
    for (unsigned b = 0; b < BLOCKS_PER_SLICE; b++)
        spent += run_block(c, chains);
    return ((double)spent / BLOCKS_PER_SLICE - (c->only_clears ? 1 : 2) * span_cost) / chains;
}

void bench_interleave(struct contender *c, unsigned count, unsigned slices)
{
    double span_cost = clock_ns();
    for (unsigned s = 0; s < slices; s++)
        for (unsigned i = 0; i < count; i++)
            c[i].ns[s] = run_slice(&c[i], span_cost);
}

void bench_serve(struct contender *c, unsigned chains)
{
    for (unsigned per_block = chains_per_block(c), n = 0; n < chains; n += per_block)
        run_block(c, per_block);
}
