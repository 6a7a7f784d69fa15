/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A backend that keeps what it has mapped, maps it again, and lets go of it when it likes. */
#include "barrier.h"
#include "fuzz.h"

/*
 * The lane of the living chain that has this entry; NULL: none. The mark tells the device: our books still have chains
 * of a device that crashed, whose entries another device may have taken.
 */
static struct fuzz_lane *lane_of(struct fuzz *f, uint32_t gref, uint64_t entry)
{
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        for (unsigned head = 0; head < FUZZ_SIZE && svq_entry_mark(entry) == f->lane[l].device->config.mark; head++) {
            const struct fuzz_chain *chain = &f->lane[l].chain[head];
            for (unsigned i = 0; chain->alive && i < chain->granted; i++)
                if (chain->grant[i].gref == gref && chain->grant[i].entry >> 32 == entry >> 32)
                    return &f->lane[l];
        }
    return NULL;
}

static struct fuzz_hold *free_hold(struct fuzz *f)
{
    for (unsigned i = 0; i < FUZZ_HOLDS; i++)
        if (!f->hold[i].va)
            return &f->hold[i];
    return NULL;
}

static int map(struct fuzz *f, uint32_t gref, bool writable, struct fuzz_hold *hold)
{
    int rc = svq_hv_map_grants(f->rig->backend, RIG_FRONTEND, &gref, 1, writable, &hold->va);
    if (rc < 0)
        hold->va = NULL;
    hold->gref = gref;
    hold->writable = writable;
    return rc;
}

/* Maps one of the entries that grant something now. A mapping that the entry does not allow must fail. */
void fuzz_hold(struct fuzz *f, uint8_t which, bool writable)
{
    struct fuzz_hold *hold = free_hold(f);
    uint32_t count = rig_window(f->rig).count, n = 0, found[64];
    for (uint32_t i = 0; i < count && n < 64; i++)
        if (svq_load_u64(&f->entries[i]) & GTF_TYPE_MASK)
            found[n++] = i;
    if (!hold || !n)
        return;
    uint32_t i = found[which % n];
    uint64_t entry = svq_load_u64(&f->entries[i]);
    int rc = map(f, rig_window_first() + i, writable, hold);
    if (f->tampered)
        return;
    bool is_ram = entry >> 32 < FUZZ_HOLE; /* the engine does not know this if the guest balloons */
    FUZZ_MUST((rc == 0) == (is_ram && (!writable || !(entry & GTF_READONLY))));
    hold->lane = lane_of(f, hold->gref, entry);
    FUZZ_MUST(hold->lane);
}

/*
 * Maps a page that it holds again: this works even after its grant has ended, but never with more access than before.
 */
void fuzz_hold_again(struct fuzz *f, unsigned which, bool writable)
{
    struct fuzz_hold *hold = free_hold(f), *first = &f->hold[which % FUZZ_HOLDS];
    if (!hold || !first->va)
        return;
    uint64_t entry = svq_load_u64(&f->entries[first->gref - rig_window_first()]);
    bool may_write = entry & GTF_WRITING || !(entry & GTF_READONLY);
    int rc = map(f, first->gref, writable, hold);
    hold->lane = first->lane;
    if (!f->tampered)
        FUZZ_MUST((rc == 0) == (!writable || may_write));
}

void fuzz_let_go(struct fuzz *f, unsigned which)
{
    struct fuzz_hold *hold = &f->hold[which % FUZZ_HOLDS];
    if (hold->va)
        svq_hv_unmap_grants(f->rig->backend, hold->va, 1);
    hold->va = NULL;
}

static bool is_first_of_its_page(const struct fuzz *f, unsigned which)
{
    for (unsigned i = 0; i < which; i++)
        if (f->hold[i].va && f->hold[i].gref == f->hold[which].gref)
            return false;
    return true;
}

unsigned fuzz_held_pages(const struct fuzz *f, const struct fuzz_device *device)
{
    unsigned pages = 0;
    for (unsigned i = 0; i < FUZZ_HOLDS; i++)
        pages += f->hold[i].va && f->hold[i].lane && f->hold[i].lane->device == device && is_first_of_its_page(f, i);
    return pages;
}

bool fuzz_is_held(const struct fuzz *f, const struct fuzz_lane *lane, const struct fuzz_chain *chain)
{
    for (unsigned i = 0; i < FUZZ_HOLDS; i++)
        for (unsigned k = 0; f->hold[i].va && f->hold[i].lane == lane && k < chain->granted; k++)
            if (chain->grant[k].gref == f->hold[i].gref)
                return true;
    return false;
}
