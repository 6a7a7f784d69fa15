/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fuzz.h"

#include <string.h>

struct described {
    unsigned count;
    uint64_t bytes[2]; /* readable, writable */
    struct vring_desc seg[FUZZ_SIZE];
};

/* The driver's chain as it lies in memory; the engine has found it good, so following it is safe here. */
static void describe(const struct fuzz *f, uint16_t head, struct described *out)
{
    const struct vring_desc *table = f->rig->q[0].desc;
    struct vring_desc desc = table[head];
    memset(out, 0, sizeof *out);
    for (;;) {
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            table = (const void *)(f->rig->ram + desc.addr);
            memcpy(&desc, table, sizeof desc);
            continue;
        }
        FUZZ_MUST(out->count < FUZZ_SIZE);
        out->seg[out->count++] = desc;
        out->bytes[!!(desc.flags & VRING_DESC_F_WRITE)] += desc.len;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return;
        memcpy(&desc, (const uint8_t *)table + 16u * desc.next, sizeof desc);
    }
}

/* Is this whole page within a described buffer with that access? With page placement: does it touch one? */
static bool is_described(const struct fuzz *f, const struct described *chain, uint64_t gfn, bool writable)
{
    uint64_t start = rig_gpa(gfn), end = rig_gpa(gfn + 1);
    bool exact = f->config.placement == SVQ_PLACE_EXACT;
    for (unsigned i = 0; i < chain->count; i++) {
        const struct vring_desc *seg = &chain->seg[i];
        uint64_t seg_end = seg->addr + seg->len;
        bool same = !!(seg->flags & VRING_DESC_F_WRITE) == writable;
        if (same && (exact ? seg->addr <= start && end <= seg_end : seg->addr < end && start < seg_end))
            return true;
    }
    return false;
}

static void check_granted(const struct fuzz *f, const struct described *chain, const struct vring_desc *part)
{
    uint32_t first = svq_guest_window_first(f->rig->guest), gref = svq_grant_addr_gref(part->addr);
    uint32_t pages = (uint32_t)svq_pages_for((size_t)svq_grant_addr_offset(part->addr) + part->len);
    for (uint32_t i = 0; i < pages && !f->tampered; i++) {
        uint64_t entry = svq_load_u64(&f->rig->guest->window.entries[gref + i - first]), gfn = entry >> 32;
        bool writable = part->flags & VRING_DESC_F_WRITE;
        FUZZ_MUST((entry & GTF_TYPE_MASK) == GTF_PERMIT_ACCESS && (uint16_t)(entry >> 16) == RIG_BACKEND);
        FUZZ_MUST(!(entry & GTF_READONLY) == writable);
        FUZZ_MUST(!f->rig->guest->window.direct || gref + i - first == gfn);
        FUZZ_MUST(is_described(f, chain, gfn, writable));
    }
}

void fuzz_check_new_chains(struct fuzz *f)
{
    struct rig_queue *q = &f->rig->q[0];
    for (uint16_t idx = svq_load_u16(&q->shadow_avail->idx); f->checked != idx; f->checked++) {
        uint16_t head = svq_load_u16(&q->shadow_avail->ring[f->checked & (FUZZ_SIZE - 1)]);
        struct described chain;
        struct rig_shadow shadow;
        uint64_t bytes[2] = { 0, 0 };
        bool writable = false;
        describe(f, head, &chain);
        FUZZ_MUST(rig_shadow_chain(f->rig, head, &shadow));
        for (unsigned i = 0; i < shadow.count; i++) {
            const struct vring_desc *part = &shadow.part[i];
            FUZZ_MUST(!writable || part->flags & VRING_DESC_F_WRITE);
            writable = part->flags & VRING_DESC_F_WRITE;
            bytes[writable] += part->len;
            if (rig_in_window(part->addr))
                check_granted(f, &chain, part);
        }
        FUZZ_MUST(bytes[0] == chain.bytes[0] && bytes[1] == chain.bytes[1]);
        FUZZ_MUST(!f->owed[head]);
        f->owed[head] = 1 + bytes[1];
    }
}

void fuzz_check_completions(struct fuzz *f)
{
    uint32_t len = 0;
    for (int id; (id = rig_reap(f->rig, &len)) >= 0;) {
        FUZZ_MUST(id < FUZZ_SIZE && len < f->owed[id]);
        f->owed[id] = 0;
    }
}

void fuzz_check_books(struct fuzz *f)
{
    struct svq_queue *q = &f->rig->dev->queues[0];
    struct svq_queue_stats stats = rig_stats(f->rig, 0);
    uint32_t live = 0, granted = 0;
    for (uint16_t head = 0; head < FUZZ_SIZE; head++) {
        struct svq_in_flight *entry = &q->in_flight[head];
        live += entry->live;
        for (uint32_t i = 0; entry->live && i < entry->part_count; i++) {
            const struct svq_part *part = &svq_in_flight_parts(q, entry)[i];
            granted += part->where == SVQ_GRANTED ? part->pages : 0;
        }
    }
    FUZZ_MUST(live == q->in_flight_count && live <= FUZZ_SIZE);
    if (!f->tampered)
        FUZZ_MUST(svq_guest_window_in_use(f->rig->guest) == granted);
    if (svq_device_broken(f->rig->dev))
        return; /* the last pass stopped in the middle and published nothing */
    FUZZ_MUST(stats.chains - stats.completions == live);
    FUZZ_MUST(stats.grants - stats.revokes == granted);
    FUZZ_MUST(stats.quarantined == 0);
}
