/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One core: the floor, one-segment chains and virtio-blk chains in turn, and the three curves. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "relay.h"

enum { BLOCKS = 400 }; /* ring-fuls per sample */

static double time_floor(struct floor_relay *r, struct rig *rig)
{
    uint64_t spent = 0;
    unsigned per_block = rig->config.queue_size;
    for (unsigned b = 0; b < BLOCKS; b++) {
        bench_offer_pages(rig, per_block, 1);
        uint64_t t0 = bench_now_ns();
        for (unsigned i = 0; i < per_block; i += BENCH_BATCH)
            floor_forward(r, BENCH_BATCH);
        uint64_t t1 = bench_now_ns();
        bench_echo(rig, SVQ_PAGE_SIZE);
        uint64_t t2 = bench_now_ns();
        for (unsigned i = 0; i < per_block; i += BENCH_BATCH)
            floor_complete(r, BENCH_BATCH);
        spent += (t1 - t0) + (bench_now_ns() - t2);
        bench_reap(rig);
    }
    return (double)spent / BLOCKS / per_block;
}

/* ns per chain in the engine alone: forward and complete passes of 32, the neighbours' work left out. */
static double time_engine(struct rig *rig, unsigned segments, int blk, unsigned blocks)
{
    uint64_t spent = 0;
    unsigned per_chain = blk ? 3 : segments, per_block = rig->config.queue_size / per_chain;
    per_block -= per_block > BENCH_BATCH ? per_block % BENCH_BATCH : 0;
    uint32_t len = blk ? SVQ_PAGE_SIZE + 1 : segments * SVQ_PAGE_SIZE;
    for (unsigned b = 0; b < blocks; b++) {
        if (blk)
            bench_offer_blk(rig, per_block);
        else
            bench_offer_pages(rig, per_block, segments);
        uint64_t t0 = bench_now_ns();
        for (unsigned i = 0; i < per_block; i += BENCH_BATCH)
            svq_queue_forward(rig->dev, 0, BENCH_BATCH);
        uint64_t t1 = bench_now_ns();
        bench_echo(rig, len);
        uint64_t t2 = bench_now_ns();
        for (unsigned i = 0; i < per_block; i += BENCH_BATCH)
            svq_queue_complete(rig->dev, 0, BENCH_BATCH);
        spent += (t1 - t0) + (bench_now_ns() - t2);
        if (bench_reap(rig) != per_block)
            abort(); /* a benchmark of an engine that loses chains is worthless */
    }
    return (double)spent / blocks / per_block;
}

/* The relay works on rings of a second rig, so that both have the same kind of memory below them. */
static void make_floor(struct floor_relay *r, struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    size_t size = rig->config.queue_size;
    memset(r, 0, sizeof *r);
    r->desc = q->desc;
    r->avail = q->avail;
    r->used = q->used;
    r->mask = (uint16_t)(size - 1);
    r->grants = aligned_alloc(SVQ_PAGE_SIZE, rig->config.ram_pages * 8);
    r->shadow_desc = aligned_alloc(SVQ_PAGE_SIZE, SVQ_PAGE_SIZE * 4);
    r->shadow_avail = aligned_alloc(SVQ_PAGE_SIZE, SVQ_PAGE_SIZE);
    r->shadow_used = aligned_alloc(SVQ_PAGE_SIZE, SVQ_PAGE_SIZE * 4);
    memset(r->grants, 0, rig->config.ram_pages * 8);
    memset(r->shadow_desc, 0, SVQ_PAGE_SIZE * 4);
    memset(r->shadow_avail, 0, SVQ_PAGE_SIZE);
    memset(r->shadow_used, 0, SVQ_PAGE_SIZE * 4);
    q->shadow_desc = r->shadow_desc;
    q->shadow_avail = r->shadow_avail;
    q->shadow_used = r->shadow_used;
}

void bench_floor_and_chains(unsigned rounds)
{
    static struct rig floor_rig, one, blk, dynamic;
    struct floor_relay relay;
    rig_open(&floor_rig, &(struct rig_config){ 0 });
    rig_open(&one, &(struct rig_config){ 0 });
    rig_open(&blk, &(struct rig_config){ .queue_size = 1024 });
    rig_open(&dynamic, &(struct rig_config){ .dynamic_window = 1 });
    struct rig_queue kept = floor_rig.q[0];
    make_floor(&relay, &floor_rig);
    for (unsigned r = 0; r <= rounds; r++) {
        double floor = time_floor(&relay, &floor_rig), one_ns = time_engine(&one, 1, 0, BLOCKS);
        double blk_ns = time_engine(&blk, 1, 1, BLOCKS), dynamic_ns = time_engine(&dynamic, 1, 0, BLOCKS);
        if (r == 0)
            continue; /* warm-up */
        bench_sample("floor_ns", r, floor);
        bench_sample("one_segment_ns", r, one_ns);
        bench_sample("blk_chain_ns", r, blk_ns);
        bench_sample("one_segment_dynamic_ns", r, dynamic_ns);
        bench_sample("one_segment_over_floor", r, one_ns / floor);
        bench_sample("blk_chain_over_one_segment", r, blk_ns / one_ns);
    }
    floor_rig.q[0].shadow_desc = kept.shadow_desc;
    floor_rig.q[0].shadow_avail = kept.shadow_avail;
    floor_rig.q[0].shadow_used = kept.shadow_used;
    rig_close(&floor_rig);
    rig_close(&one);
    rig_close(&blk);
    rig_close(&dynamic);
    free(relay.grants);
    free(relay.shadow_desc);
    free(relay.shadow_avail);
    free(relay.shadow_used);
}

void bench_curves(unsigned rounds)
{
    static struct rig rig;
    for (unsigned r = 0; r < rounds; r++) {
        rig_open(&rig, &(struct rig_config){ 0 });
        for (unsigned segments = 1; segments <= 128; segments *= 2) {
            time_engine(&rig, segments, 0, 20);
            bench_sample("chain_ns_by_segments", segments, time_engine(&rig, segments, 0, BLOCKS / 4));
        }
        rig_close(&rig);
        for (uint64_t mib = 64; mib <= 4096; mib *= 4) {
            rig_open(&rig, &(struct rig_config){ .ram_pages = mib << 8 });
            time_engine(&rig, 1, 0, 40);
            bench_sample("chain_ns_by_memory_mib", (double)mib, time_engine(&rig, 1, 0, BLOCKS));
            rig_close(&rig);
        }
        rig_open(&rig, &(struct rig_config){ 0 });
        for (unsigned past = 0; past < 6; past++) {
            bench_sample("chain_ns_by_past_requests", past * BLOCKS * 256.0 * 4, time_engine(&rig, 1, 0, BLOCKS));
            time_engine(&rig, 1, 0, BLOCKS * 3);
        }
        rig_close(&rig);
    }
}
