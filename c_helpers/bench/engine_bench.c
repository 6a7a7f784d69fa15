/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One core: the floor, one-segment chains and virtio-blk chains in turn, and three curves. */
#include "bench.h"
#include "contender.h"

enum { SLICES = 61, CURVE_SLICES = 15, PAST_STEP = 400000 };

/* Two groups, with the floor in both: contenders that clear pages would evict the others from the cache. */
enum { ONE, BLK, DYNAMIC, FLOOR, CLEARED, ONLY_CLEARS, CONTENDERS };

/* A chain of one page that is cleared first may cost six times the floor, and 1.4 times the clearing alone. */
static double cleared_over_budget(const struct contender *c)
{
    double ratios[SLICES];
    for (unsigned s = 0; s < SLICES; s++)
        ratios[s] = c[CLEARED].ns[s] / (6 * c[FLOOR].ns[s] + 1.4 * c[ONLY_CLEARS].ns[s]);
    return bench_median(ratios, SLICES);
}

void bench_floor_and_chains(unsigned rounds)
{
    static struct rig rigs[CONTENDERS];
    static struct contender c[CONTENDERS];
    static struct floor_relay relay;
    /*
     * Three descriptors for each request: the larger ring holds as many virtio-blk chains in flight as the others'
     * rings.
     */
    const struct rig_config configs[] = { [BLK] = { .queue_size = 1024 },
                                          [DYNAMIC] = { .dynamic_window = 1 },
                                          [CLEARED] = { .clear = 1 },
                                          [ONLY_CLEARS] = { 0 } };
    for (int i = 0; i < CONTENDERS; i++) {
        rig_open(&rigs[i], &configs[i]);
        c[i].rig = &rigs[i];
        c[i].segments = i != BLK;
    }
    floor_open(&relay, &rigs[FLOOR]);
    c[FLOOR].relay = &relay;
    c[ONLY_CLEARS].only_clears = true;
    bench_interleave(c, CONTENDERS, SLICES); /* warm-up */
    for (unsigned r = 0; r < rounds; r++) {
        bench_interleave(c + FLOOR, CONTENDERS - FLOOR, SLICES);
        bench_sample("cleared_over_budget", r, cleared_over_budget(c));
        bench_interleave(c, FLOOR + 1, SLICES);
        bench_sample("one_segment_over_floor", r, bench_median_ratio(&c[ONE], &c[FLOOR], SLICES));
        bench_sample("blk_chain_over_one_segment", r, bench_median_ratio(&c[BLK], &c[ONE], SLICES));
        bench_sample("floor_ns", r, bench_median(c[FLOOR].ns, SLICES));
        bench_sample("one_segment_ns", r, bench_median(c[ONE].ns, SLICES));
        bench_sample("blk_chain_ns", r, bench_median(c[BLK].ns, SLICES));
        bench_sample("one_segment_dynamic_ns", r, bench_median(c[DYNAMIC].ns, SLICES));
        bench_sample("one_segment_cleared_ns", r, bench_median(c[CLEARED].ns, SLICES));
        bench_sample("memset_page_ns", r, bench_median(c[ONLY_CLEARS].ns, SLICES));
        bench_round_done(r);
    }
    floor_close(&relay, &rigs[FLOOR]);
    for (int i = 0; i < CONTENDERS; i++)
        rig_close(&rigs[i]);
}

static void curve_by_segments(void)
{
    static struct rig rig;
    static struct contender c[CONTENDERS_MAX];
    rig_open(&rig, &(struct rig_config){ 0 });
    for (unsigned i = 0; i < CONTENDERS_MAX; i++) {
        c[i].rig = &rig;
        c[i].segments = 1u << i;
    }
    bench_interleave(c, CONTENDERS_MAX, CURVE_SLICES);
    for (unsigned i = 0; i < CONTENDERS_MAX; i++)
        bench_sample("chain_ns_by_segments", c[i].segments, bench_median(c[i].ns, CURVE_SLICES));
    rig_close(&rig);
}

static void curve_by_memory(void)
{
    enum { SIZES = 4 };
    static struct rig rigs[SIZES];
    static struct contender c[SIZES];
    for (unsigned i = 0; i < SIZES; i++) {
        rig_open(&rigs[i], &(struct rig_config){ .ram_pages = 16384ull << (2 * i) });
        c[i].rig = &rigs[i];
        c[i].segments = 1;
    }
    bench_interleave(c, SIZES, CURVE_SLICES);
    for (unsigned i = 0; i < SIZES; i++) {
        double mib = (double)(rigs[i].config.ram_pages * SVQ_PAGE_SIZE >> 20);
        bench_sample("chain_ns_by_memory_mib", mib, bench_median(c[i].ns, CURVE_SLICES));
        rig_close(&rigs[i]);
    }
}

static void curve_by_past_requests(void)
{
    static struct rig rig;
    struct contender c = { .rig = &rig, .segments = 1 };
    rig_open(&rig, &(struct rig_config){ 0 });
    for (unsigned step = 0; step < 6; step++) {
        struct svq_queue_stats before;
        svq_queue_read_stats(rig.dev, 0, &before);
        bench_interleave(&c, 1, CURVE_SLICES);
        bench_sample("chain_ns_by_past_requests", (double)before.chains, bench_median(c.ns, CURVE_SLICES));
        bench_serve(&c, PAST_STEP);
    }
    rig_close(&rig);
}

void bench_curves(unsigned rounds)
{
    for (unsigned r = 0; r < rounds; r++) {
        curve_by_segments();
        curve_by_memory();
        curve_by_past_requests();
        bench_round_done(r);
    }
}
