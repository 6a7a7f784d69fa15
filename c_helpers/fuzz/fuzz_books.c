/* SPDX-License-Identifier: GPL-2.0-or-later */
/* After any step: compares what the table grants, what chains the driver has given away, and what the engine counts. */
#include "fuzz.h"

#include <string.h>

#include "barrier.h"

/* Is the entry this chain's grant: as it was made, or (`ended`) as it is while held? */
static bool is_of(const struct fuzz_chain *chain, bool ended, uint32_t gref, uint64_t entry)
{
    for (unsigned i = 0; chain->alive && i < chain->granted; i++) {
        uint64_t granted = chain->grant[i].entry, bare = entry & ~FUZZ_MAPPED;
        if (chain->grant[i].gref == gref && (bare == fuzz_ended(granted) || (!ended && bare == granted)))
            return true;
    }
    return false;
}

/* The rule: whatever the table opens to anybody, a chain that the driver has given away describes. */
static void check_entry(const struct fuzz *f, uint32_t gref, uint64_t entry)
{
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        for (unsigned head = 0; head < FUZZ_SIZE; head++)
            if (is_of(&f->lane[l].chain[head], f->lane[l].device->ended, gref, entry))
                return;
    FUZZ_MUST(!"a living chain has this entry");
}

static void check_lane(const struct fuzz *f, const struct fuzz_lane *lane)
{
    struct svq_queue *q = fuzz_queue(lane);
    uint32_t live = 0, granted = 0;
    for (uint16_t head = 0; head < FUZZ_SIZE; head++) {
        const struct fuzz_chain *chain = &lane->chain[head];
        live += q->in_flight[head].live;
        FUZZ_MUST(f->tampered || lane->wild || q->in_flight[head].live == chain->alive);
        granted += chain->alive ? chain->granted : 0;
        if (svq_device_broken(lane->device->dev) || lane->device->life == FUZZ_STOPPED || f->tampered)
            continue;
        for (unsigned i = 0; chain->alive && i < chain->granted; i++)
            FUZZ_MUST((svq_load_u64(&f->entries[chain->grant[i].gref - rig_window_first()]) & ~FUZZ_MAPPED) ==
                      chain->grant[i].entry);
    }
    FUZZ_MUST(live == q->in_flight_count && live <= FUZZ_SIZE);
    if (svq_device_broken(lane->device->dev) || lane->device->life == FUZZ_STOPPED || f->tampered || lane->wild)
        return; /* the last pass stopped in the middle and published nothing */
    struct svq_queue_stats stats;
    FUZZ_MUST(svq_queue_read_stats(lane->device->dev, lane->index, &stats) == 0);
    FUZZ_MUST(stats.chains - stats.completions == live);
    FUZZ_MUST(stats.grants - stats.grants_ended == granted);
    FUZZ_MUST(stats.held == 0);
}

void fuzz_check_slots(const struct fuzz_lane *lane)
{
    static const uint8_t nothing[SVQ_PAGE_SIZE];
    for (int pool = 0; pool < SVQ_POOLS; pool++) {
        const struct svq_slots *slots = &fuzz_queue(lane)->bounce.pool[pool];
        if (lane->scribbled && (pool == SVQ_SMALL_WRITABLE || pool == SVQ_PAGE_WRITABLE))
            continue;
        for (uint32_t i = 0; i < slots->free_count; i++)
            FUZZ_MUST(memcmp(svq_slots_va(slots, slots->free[i]), nothing, 1u << slots->slot_shift) == 0);
    }
}

void fuzz_check_books(struct fuzz *f)
{
    uint32_t count = rig_window(f->rig).count;
    for (uint32_t i = 0; i < count && !f->tampered; i++) {
        uint64_t entry = svq_load_u64(&f->entries[i]);
        if (entry)
            check_entry(f, rig_window_first() + i, entry);
    }
    for (unsigned l = 0; l < FUZZ_LANES; l++) {
        const struct fuzz_lane *lane = &f->lane[l];
        if (lane->device->life != FUZZ_CLOSED)
            check_lane(f, lane);
    }
}
