/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Chains, checked against what their descriptors describe: which pages and bytes the backend gets, what it finds there,
 * and what comes back.
 */
#include "fuzz.h"

#include <string.h>

#include "barrier.h"

/* The driver's chain as it is in memory; the engine has accepted it, so following it here is safe. */
static void describe(const struct fuzz *f, const struct fuzz_lane *lane, uint16_t head, struct fuzz_described *out)
{
    const struct vring_desc *table = lane->q->desc;
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
static bool is_described(const struct fuzz_lane *lane, const struct fuzz_described *what, uint64_t gfn, bool writable)
{
    uint64_t start = rig_gpa(gfn), end = rig_gpa(gfn + 1);
    bool exact = lane->device->config.placement == SVQ_PLACE_EXACT;
    for (unsigned i = 0; i < what->count; i++) {
        const struct vring_desc *seg = &what->seg[i];
        uint64_t seg_end = seg->addr + seg->len;
        bool same = !!(seg->flags & VRING_DESC_F_WRITE) == writable;
        if (same && (exact ? seg->addr <= start && end <= seg_end : seg->addr < end && start < seg_end))
            return true;
    }
    return false;
}

/* --- contents --------------------------------------------------------------------------------------------------- */

static bool overlap(const struct vring_desc *a, const struct vring_desc *b)
{
    uint64_t page = SVQ_PAGE_SIZE - 1, a_end = (a->addr + a->len + page) & ~page,
             b_end = (b->addr + b->len + page) & ~page;
    return (a->addr & ~page) < b_end && (b->addr & ~page) < a_end;
}

static bool any_overlap(const struct fuzz_described *a, const struct fuzz_described *b)
{
    for (unsigned i = 0; i < a->count; i++)
        for (unsigned k = 0; k < b->count; k++)
            if ((a != b || i != k) && overlap(&a->seg[i], &b->seg[k]))
                return true;
    return false;
}

static bool within_data(const struct fuzz_described *what)
{
    for (unsigned i = 0; i < what->count; i++)
        if (what->seg[i].addr < rig_gpa(FUZZ_DATA_GFN) ||
            what->seg[i].addr + what->seg[i].len > rig_gpa(FUZZ_DATA_GFN + FUZZ_DATA_PAGES))
            return false;
    return true;
}

static void set_alone(struct fuzz *f, struct fuzz_chain *chain)
{
    chain->alone = within_data(&chain->what) && !any_overlap(&chain->what, &chain->what);
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        for (unsigned head = 0; head < FUZZ_SIZE; head++) {
            struct fuzz_chain *other = &f->lane[l].chain[head];
            if (other != chain && other->alive && any_overlap(&chain->what, &other->what))
                other->alone = chain->alone = false;
        }
}

/*
 * A chain that was not forwarded, since it has a fault or lacks something, may have had its writable pages cleared
 * before that was found: the driver gave them away for writing.
 */
static void note_cleared(struct fuzz *f, const struct fuzz_lane *lane)
{
    const struct svq_queue *q = fuzz_queue(lane);
    struct fuzz_described what = { .count = 0 };
    if (!q->clears || q->in_flight[q->chain->head].live || svq_load_u16(&lane->q->avail->idx) == q->next_avail)
        return;
    for (uint32_t i = 0; i < q->chain->count && what.count < FUZZ_SIZE; i++)
        if (q->chain->segments[i].writable)
            what.seg[what.count++] = (struct vring_desc){ .addr = q->chain->segments[i].gpa,
                                                          .len = q->chain->segments[i].len };
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        for (unsigned head = 0; head < FUZZ_SIZE; head++) {
            struct fuzz_chain *chain = &f->lane[l].chain[head];
            chain->alone = chain->alone && !any_overlap(&chain->what, &what);
        }
}

/* Byte `at` of what the chain's segments with that access describe. */
static const uint8_t *described_byte(const struct fuzz *f, const struct fuzz_described *what, bool writable,
                                     uint64_t at)
{
    for (unsigned i = 0; i < what->count; i++) {
        const struct vring_desc *seg = &what->seg[i];
        if (!!(seg->flags & VRING_DESC_F_WRITE) != writable)
            continue;
        if (at < seg->len)
            return f->rig->ram + seg->addr + at;
        at -= seg->len;
    }
    FUZZ_MUST(!"the chain describes that byte");
}

/* The backend reads what the driver has there; pages that it may write show nothing of their old contents. */
static void check_content(struct fuzz *f, const struct fuzz_lane *lane, const struct fuzz_chain *chain,
                          const struct vring_desc *part, uint64_t at)
{
    static uint8_t content[FUZZ_BOUNCE_PAGES * SVQ_PAGE_SIZE];
    bool writable = part->flags & VRING_DESC_F_WRITE, granted = rig_in_window(part->addr);
    if (writable && (granted ? !lane->device->config.clear : lane->scribbled))
        return;
    FUZZ_MUST(rig_part_read(f->rig, part, content) == 0);
    for (uint32_t i = 0; i < part->len; i++)
        FUZZ_MUST(content[i] == (writable ? 0 : *described_byte(f, &chain->what, false, at + i)));
}

/* The driver's old bytes in the parts that are copied back. */
static uint8_t before[FUZZ_LANES][FUZZ_SIZE][FUZZ_BOUNCE_PAGES * SVQ_PAGE_SIZE];

static uint8_t *before_of(const struct fuzz *f, const struct fuzz_lane *lane, const struct fuzz_chain *chain)
{
    return before[lane - f->lane][chain - lane->chain];
}

static void remember_copied(const struct fuzz *f, const struct fuzz_lane *lane, struct fuzz_chain *chain, uint64_t at,
                            uint32_t len)
{
    FUZZ_MUST(chain->copied < FUZZ_BOUNCE_PAGES);
    chain->copy[chain->copied].at = at;
    chain->copy[chain->copied++].len = len;
    for (uint32_t i = 0; i < len; i++)
        before_of(f, lane, chain)[at + i] = *described_byte(f, &chain->what, true, at + i);
}

/*
 * What the driver finds: what the backend wrote, zeros where it only claims to have written, and beyond that the old
 * bytes, as far as we could write there.
 */
static void check_written(const struct fuzz *f, const struct fuzz_lane *lane, const struct fuzz_chain *chain)
{
    for (unsigned k = 0; k < chain->copied; k++)
        for (uint64_t i = chain->copy[k].at; i < chain->copy[k].at + chain->copy[k].len; i++)
            FUZZ_MUST(i < chain->len || *described_byte(f, &chain->what, true, i) == before_of(f, lane, chain)[i]);
    bool zeros = lane->device->config.clear && !lane->scribbled;
    for (uint32_t i = 0; i < (zeros ? chain->len : chain->written); i++) {
        uint8_t expected = i < chain->written ? (uint8_t)(chain->seed + 7 * i + 1) : 0;
        FUZZ_MUST(*described_byte(f, &chain->what, true, i) == expected);
    }
}

/* --- chains ----------------------------------------------------------------------------------------------------- */

/*
 * The pages of a granted part: consecutive frames that the chain describes with that access, by entries of this device.
 */
static void check_granted(struct fuzz *f, const struct fuzz_lane *lane, struct fuzz_chain *chain,
                          const struct vring_desc *part)
{
    uint32_t first = rig_window_first(), gref = svq_grant_addr_gref(part->addr);
    uint32_t pages = (uint32_t)svq_pages_for((size_t)svq_grant_addr_offset(part->addr) + part->len);
    const struct svq_window_config *window = &lane->device->config.window;
    bool writable = part->flags & VRING_DESC_F_WRITE;
    FUZZ_MUST(gref >= window->first_gref && gref + pages <= window->first_gref + window->count);
    for (uint32_t i = 0; i < pages && !f->tampered; i++) {
        uint64_t entry = svq_load_u64(&f->entries[gref + i - first]), gfn = entry >> 32;
        FUZZ_MUST((entry & ~FUZZ_MAPPED) == fuzz_granted(gfn, writable, lane->device->config.mark));
        FUZZ_MUST(!window->direct || gref + i - first == gfn);
        FUZZ_MUST(i == 0 || gfn == (chain->grant[chain->granted - 1].entry >> 32) + 1);
        FUZZ_MUST(is_described(lane, &chain->what, gfn, writable));
        FUZZ_MUST(chain->granted < FUZZ_BOUNCE_PAGES);
        chain->grant[chain->granted].gref = gref + i;
        chain->grant[chain->granted++].entry = entry & ~FUZZ_MAPPED;
    }
}

static void take_in(struct fuzz *f, struct fuzz_lane *lane, uint16_t head)
{
    struct fuzz_chain *chain = &lane->chain[head];
    FUZZ_MUST(!chain->alive);
    memset(chain, 0, sizeof *chain);
    describe(f, lane, head, &chain->what);
    set_alone(f, chain);
    chain->alive = true;
    lane->wild |= !within_data(&chain->what) && chain->what.bytes[1]; /* the device may write over the driver's rings */
}

static void check_chain(struct fuzz *f, struct fuzz_lane *lane, uint16_t head)
{
    struct fuzz_chain *chain = &lane->chain[head];
    struct rig_shadow shadow;
    uint64_t bytes[2] = { 0, 0 };
    bool writable = false;
    FUZZ_MUST(rig_queue_shadow_chain(f->rig, lane->q, head, &shadow));
    for (unsigned i = 0; i < shadow.count; i++) {
        const struct vring_desc *part = &shadow.part[i];
        FUZZ_MUST(!writable || part->flags & VRING_DESC_F_WRITE);
        writable = part->flags & VRING_DESC_F_WRITE;
        if (rig_in_window(part->addr))
            check_granted(f, lane, chain, part);
        if (chain->alone && !f->tampered)
            check_content(f, lane, chain, part, bytes[writable]);
        if (chain->alone && writable && !rig_in_window(part->addr))
            remember_copied(f, lane, chain, bytes[1], part->len);
        bytes[writable] += part->len;
    }
    FUZZ_MUST(bytes[0] == chain->what.bytes[0] && bytes[1] == chain->what.bytes[1]);
}

/*
 * The backend also owns chains of a pass that found a fault later, though it is not told of them. All chains of a pass
 * are recorded before any is checked: one may clear what another one has.
 */
void fuzz_check_new_chains(struct fuzz *f, struct fuzz_lane *lane)
{
    const struct rig_queue *q = lane->q;
    const struct svq_queue *engine = fuzz_queue(lane);
    uint32_t heads = 0;
    for (uint16_t idx = svq_load_u16(&q->shadow_avail->idx); lane->checked != idx; lane->checked++) {
        uint16_t head = svq_load_u16(&q->shadow_avail->ring[lane->checked & (FUZZ_SIZE - 1)]);
        FUZZ_MUST(engine->in_flight[head].live && !lane->chain[head].alive);
    }
    for (uint16_t head = 0; head < FUZZ_SIZE; head++)
        if (engine->in_flight[head].live && !lane->chain[head].alive) {
            take_in(f, lane, head);
            heads |= 1u << head;
        }
    note_cleared(f, lane);
    for (uint16_t head = 0; head < FUZZ_SIZE; head++)
        if (heads >> head & 1)
            check_chain(f, lane, head);
}

void fuzz_check_completions(struct fuzz *f, struct fuzz_lane *lane)
{
    struct rig_queue *q = lane->q;
    while (q->used && svq_acquire_u16(&q->used->idx) != q->used_seen && fuzz_queue(lane)->used) {
        const struct vring_used_elem *elem = &q->used->ring[q->used_seen++ & (lane->driver_size - 1)];
        uint32_t id = svq_load_u32(&elem->id), len = svq_load_u32(&elem->len);
        if (lane->wild && (id >= FUZZ_SIZE || !lane->chain[id].alive))
            return; /* the driver let its own used ring be overwritten */
        FUZZ_MUST(id < FUZZ_SIZE && lane->chain[id].alive);
        struct fuzz_chain *chain = &lane->chain[id];
        FUZZ_MUST(len <= chain->what.bytes[1]);
        FUZZ_MUST(f->tampered || !fuzz_is_held(f, lane, chain));
        if (chain->answered && chain->alone && !f->tampered && len == chain->len)
            check_written(f, lane, chain);
        chain->alive = false;
    }
}
