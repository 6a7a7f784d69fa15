/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placement: how each byte of a chain reaches the backend. Whole pages are granted and the rest is copied through the
 * bounce pool (exact); or every touched page is granted (page); or everything is copied (copy).
 */
#include "engine.h"
#include "grant_page.h"
#include "part.h"

/* The chain that we are placing. Parts and descriptors are written where they will stay, so usually nothing moves. */
struct builder {
    struct svq_queue *q;
    struct svq_in_flight *entry;
    struct svq_part *parts;
    struct vring_desc *table; /* shared with the backend, which learns of it only at the end */
    uint32_t count, capacity;
    bool plain; /* the current segment has no ring page */
};

/* Takes the smallest free block for `parts` parts and moves the existing parts there. False: no such block is free. */
static bool take_block(struct builder *b, uint32_t parts)
{
    struct svq_queue *q = b->q;
    for (uint8_t c = 0; c < SVQ_BLOCK_CLASSES; c++) {
        struct svq_block_class *class = &q->blocks[c];
        int slot = parts <= class->parts_per_block ? svq_slots_take(&class->tables) : SVQ_NO_SLOT;
        if (slot < 0)
            continue;
        struct svq_part *new_parts = class->parts + (size_t)slot * class->parts_per_block;
        struct vring_desc *new_table = (void *)svq_slots_va(&class->tables, (uint32_t)slot);
        for (uint32_t i = 0; i < b->count; i++) {
            new_parts[i] = b->parts[i];
            new_table[i] = b->table[i];
        }
        svq_give_block(q, b->entry);
        b->entry->block_class = c;
        b->entry->block = (uint16_t)slot;
        b->parts = new_parts;
        b->table = new_table;
        b->capacity = class->parts_per_block;
        return true;
    }
    q->lack.parts = q->lack.attempts ? SVQ_PARTS_MAX : parts;
    return false;
}

/* The next part, which the caller fills where it stays. NULL: the chain has more parts than any free block holds. */
static inline struct svq_part *next_part(struct builder *b)
{
    if (svq_unlikely(b->count == b->capacity) && !take_block(b, b->count + 1))
        return NULL;
    return &b->parts[b->count];
}

/* Writes the shadow descriptor of the part that next_part returned, and moves on. */
static inline void add_desc(struct builder *b, uint64_t addr, uint32_t len, bool writable)
{
    struct vring_desc *desc = &b->table[b->count++];
    desc->addr = addr;
    desc->len = len;
    desc->flags = (uint16_t)(VRING_DESC_F_NEXT | (writable ? VRING_DESC_F_WRITE : 0));
    desc->next = (uint16_t)b->count;
}

static __attribute__((cold, noinline)) int lacks_slots(const struct builder *b, bool writable)
{
    const struct svq_chain *chain = b->q->chain;
    struct svq_lack *lack = &b->q->lack;
    uint32_t taken = 0, most = 0;
    for (uint32_t i = 0; i < b->count; i++)
        taken += b->parts[i].where == SVQ_PAGE_READABLE + writable;
    for (const struct svq_segment *seg = chain->segments; seg < chain->segments + chain->count; seg++)
        most += seg->writable == writable ? (uint32_t)svq_pages_touched(seg->gpa, seg->len) : 0;
    lack->slots[writable] = lack->attempts ? most : taken + 1;
    return SVQ_FULL;
}

static int bounce_range(struct builder *b, uint64_t gpa, uint32_t len, bool writable)
{
    struct svq_queue *q = b->q;
    while (len) {
        bool small = len <= SVQ_SMALL_BYTES;
        unsigned where = (small ? SVQ_SMALL_READABLE : SVQ_PAGE_READABLE) + writable;
        if (svq_unlikely(small && !q->bounce.pool[where].free_count))
            where = SVQ_PAGE_READABLE + writable;
        struct svq_slots *slots = &q->bounce.pool[where];
        struct svq_part *part = next_part(b);
        if (svq_unlikely(!part))
            return SVQ_FULL;
        if (svq_unlikely(!slots->free_count))
            return lacks_slots(b, writable);
        uint32_t slot = (uint32_t)svq_slots_take(slots), n = len < SVQ_PAGE_SIZE ? len : SVQ_PAGE_SIZE;
        part->gpa = gpa;
        part->len = n;
        part->ref = slot;
        part->where = (uint8_t)where;
        part->writable = writable;
        b->entry->copied = 1;
        if (!writable && svq_unlikely(!svq_view_read(&q->view, gpa, svq_slots_va(slots, slot), n))) {
            svq_part_give_slot(q, part); /* it may have received some of the bytes */
            return svq_not_ram(q, gpa, n);
        }
        add_desc(b, svq_slots_addr(slots, slot), n, writable);
        q->tally.bounced += n;
        gpa += n;
        len -= n;
    }
    return 0;
}

/*
 * The other thing that most requests consist of: a header, a status byte. The same as bounce_range, to which it leaves
 * all special cases.
 */
static inline int bounce_small(struct builder *b, uint64_t gpa, uint32_t len, bool writable)
{
    struct svq_queue *q = b->q;
    struct svq_slots *slots = &q->bounce.pool[SVQ_SMALL_READABLE + writable];
    size_t span;
    const uint8_t *from = svq_view_span(&q->view, gpa, len, &span);
    if (svq_unlikely(!from || !slots->free_count || b->count == b->capacity || span < len))
        return bounce_range(b, gpa, len, writable);
    uint32_t slot = (uint32_t)svq_slots_take(slots);
    if (!writable) {
        svq_copy(slots->va + ((size_t)slot << SVQ_SMALL_SHIFT), from, len);
        svq_compiler_barrier();
    }
    struct svq_part *part = &b->parts[b->count];
    part->gpa = gpa;
    part->len = len;
    part->ref = slot;
    part->where = (uint8_t)(SVQ_SMALL_READABLE + writable);
    b->entry->copied = 1;
    part->writable = writable;
    add_desc(b, svq_slots_addr(slots, slot), len, writable);
    q->tally.bounced += len;
    return 0;
}

/* Records what was granted, and counts it. */
static inline void note_granted(struct svq_queue *q, struct svq_part *part, uint64_t gpa, uint32_t len, bool writable,
                                struct svq_grant_run run)
{
    part->gpa = gpa;
    part->len = len;
    part->ref = run.gref;
    part->pages = (uint16_t)run.pages;
    part->held = part->lost = part->fought = 0;
    part->where = SVQ_GRANTED;
    part->writable = writable;
    q->tally.zero_copy += len;
    q->tally.grants += run.pages;
}

static inline void add_granted(struct builder *b, struct svq_part *part, uint64_t gpa, uint32_t len, bool writable,
                               struct svq_grant_run run)
{
    note_granted(b->q, part, gpa, len, writable, run);
    add_desc(b, svq_window_addr(run.gref, (uint32_t)(gpa & (SVQ_PAGE_SIZE - 1))), len, writable);
}

static int grant_range(struct builder *b, uint64_t gpa, uint32_t len, bool writable)
{
    struct svq_queue *q = b->q;
    uint64_t end = gpa + len;
    bool lost = svq_unlikely(svq_window_is_lost(q->window));
    while (gpa < end) {
        uint64_t gfn = gpa >> SVQ_PAGE_SHIFT, stop = end;
        struct svq_part *part = next_part(b);
        if (svq_unlikely(!part))
            return SVQ_FULL;
        if (svq_unlikely(!b->plain)) {
            uint32_t pages = (uint32_t)svq_pages_touched(gpa, (uint32_t)(end - gpa));
            uint64_t allowed = svq_grantable_pages(&q->view, gfn, pages);
            uint64_t plain_end = (gfn + allowed) << SVQ_PAGE_SHIFT;
            stop = allowed == 0 ? gpa : plain_end < end ? plain_end : end;
        }
        struct svq_grant_run run = { 0, 0 };
        if (svq_likely(stop > gpa && !lost)) {
            int rc = svq_grant_pages(q, gpa, &stop, writable, &run);
            if (svq_unlikely(run.pages)) /* even if a later page failed: then these must be taken back */
                add_granted(b, part, gpa, (uint32_t)(stop - gpa), writable, run);
            if (svq_unlikely(rc < 0))
                return rc;
        }
        if (svq_unlikely(!run.pages)) {
            /* a ring page, a page already in flight, a window that is full or lost: copy */
            int rc = bounce_range(b, gpa, svq_bytes_on_page(gpa, end), writable);
            if (rc < 0)
                return rc;
            stop = gpa + svq_bytes_on_page(gpa, end);
        }
        gpa = stop;
    }
    return 0;
}

/*
 * What most requests consist of, a segment of exactly one page: the same as grant_range in a fifth of the instructions.
 * 0: a special case, which is left to grant_range.
 */
static inline int grant_page(struct builder *b, uint64_t gpa, bool writable)
{
    struct svq_grant_run run = { 0, 0 };
    if (!b->plain || b->count == b->capacity || svq_window_is_lost(b->q->window))
        return 0;
    int rc = svq_grant_page(b->q, gpa, SVQ_PAGE_SIZE, writable, &run);
    if (svq_likely(rc == 1))
        add_granted(b, &b->parts[b->count], gpa, SVQ_PAGE_SIZE, writable, run);
    return rc;
}

/*
 * Does another segment of the chain use a page of this one in the other direction? Then the backend could write what it
 * may only read, and clearing the page would spoil it. All pages count, not only those at the ends. Readable segments
 * come first, and are few where many are writable.
 */
static bool shares_page_both_ways(const struct svq_chain *chain, const struct svq_segment *seg)
{
    uint64_t first = seg->gpa >> SVQ_PAGE_SHIFT, last = (seg->gpa + seg->len - 1) >> SVQ_PAGE_SHIFT;
    for (uint32_t i = 0; i < chain->count && !(seg->writable && chain->segments[i].writable); i++) {
        const struct svq_segment *other = &chain->segments[i];
        if (other->writable != seg->writable && other->gpa >> SVQ_PAGE_SHIFT <= last &&
            (other->gpa + other->len - 1) >> SVQ_PAGE_SHIFT >= first)
            return true;
    }
    return false;
}

/* Or does the chain use some of its pages in the other direction, and would the window have another entry for them? */
static inline bool may_be_granted_whole(const struct builder *b, const struct svq_segment *seg)
{
    return svq_likely(b->q->direct) || !seg->writable || !shares_page_both_ways(b->q->chain, seg);
}

/*
 * Grants whole pages if they are at least copy_threshold bytes, and copies the ends. A page that the chain has granted
 * for reading is not available again in a direct window; a dynamic one would have another entry for it.
 */
static __attribute__((noinline)) int place_exact(struct builder *b, const struct svq_segment *seg)
{
    uint64_t end = seg->gpa + seg->len;
    uint64_t first = (seg->gpa + SVQ_PAGE_SIZE - 1) & ~(uint64_t)(SVQ_PAGE_SIZE - 1);
    uint64_t last = end & ~(uint64_t)(SVQ_PAGE_SIZE - 1);
    if (last <= first || last - first < b->q->dev->config.copy_threshold || !may_be_granted_whole(b, seg))
        return bounce_range(b, seg->gpa, seg->len, seg->writable);
    int rc = 0;
    if (first > seg->gpa)
        rc = bounce_range(b, seg->gpa, (uint32_t)(first - seg->gpa), seg->writable);
    if (rc == 0)
        rc = grant_range(b, first, (uint32_t)(last - first), seg->writable);
    if (rc == 0 && end > last)
        rc = bounce_range(b, last, (uint32_t)(end - last), seg->writable);
    return rc;
}

/* The other placements. */
static __attribute__((noinline)) int place_otherwise(struct builder *b, const struct svq_segment *seg)
{
    if (b->q->dev->config.placement == SVQ_PLACE_PAGE && !shares_page_both_ways(b->q->chain, seg))
        return grant_range(b, seg->gpa, seg->len, seg->writable);
    return bounce_range(b, seg->gpa, seg->len, seg->writable);
}

/* Places the common cases in one go: a segment of one page, and a few bytes. */
static inline int place_segment(struct builder *b, const struct svq_segment *seg)
{
    if (svq_unlikely(!b->q->exact))
        return place_otherwise(b, seg);
    if (seg->len <= SVQ_SMALL_BYTES)
        return bounce_small(b, seg->gpa, seg->len, seg->writable);
    if (seg->len == SVQ_PAGE_SIZE && !(seg->gpa & (SVQ_PAGE_SIZE - 1)) && b->q->grants_pages &&
        may_be_granted_whole(b, seg)) {
        int rc = grant_page(b, seg->gpa, seg->writable);
        if (svq_likely(rc != 0))
            return rc < 0 ? rc : 0;
    }
    return place_exact(b, seg);
}

/* Takes back what was counted while these parts were placed: they never reach the backend. */
static void untally(struct svq_queue *q, const struct svq_part *parts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i].where == SVQ_GRANTED) {
            q->tally.zero_copy -= parts[i].len;
            q->tally.grants -= parts[i].pages;
            q->tally.grants_ended -= parts[i].pages; /* svq_unplace_chain is about to end them */
        } else {
            q->tally.bounced -= parts[i].len;
        }
    }
}

static int place_segments(struct builder *b)
{
    struct svq_chain *chain = b->q->chain;
    struct svq_view *view = &b->q->view;
    for (const struct svq_segment *seg = chain->segments, *end = seg + chain->count; seg < end; seg++) {
        b->plain = svq_guestmem_is_plain(view, seg->gpa, seg->len);
        if (svq_unlikely(view->maps > SVQ_PASS_CHUNKS) && view->mem->fixed)
            return SVQ_AGAIN; /* what was mapped stays mapped: the next pass gets further */
        if (SVQ_REJECTS(!b->plain && !svq_guestmem_is_ram(view, seg->gpa, seg->len), SVQ_E_NOT_RAM)) {
            chain->desc = seg->desc;
            chain->bad_value = seg->gpa;
            chain->bad_limit = seg->len;
            return SVQ_E_NOT_RAM;
        }
        int rc = place_segment(b, seg);
        if (svq_unlikely(rc < 0)) {
            chain->desc = seg->desc;
            return rc;
        }
    }
    return 0;
}

/*
 * For a chain that cannot be placed, or not now. A backend that guesses grefs may have mapped one of its pages already:
 * then the driver must not get that page back, and the device is broken (XSA-396).
 */
static __attribute__((cold, noinline)) int take_back(struct svq_queue *q, struct builder *b, int rc)
{
    int code = 0;
    untally(q, b->parts, b->count);
    unsigned held = svq_unplace_chain(q, b->entry, &code);
    if (svq_unlikely(held)) {
        b->entry->live = 1; /* it stays in flight until stopping the device finds that the backend let go */
        q->in_flight_count++;
        q->tally.grants += held;
        q->tally.grants_ended += held; /* untally took them away */
    }
    if (SVQ_REJECTS(code, code)) {
        q->chain->bad_value = held;
        q->chain->bad_limit = 0;
        return code;
    }
    return rc;
}

/*
 * A chain that is one whole page, like a driver's receive buffer: no table, nothing to take back. False: a special
 * case, and nothing was done.
 */
static inline bool place_page(struct svq_queue *q, struct svq_in_flight *entry)
{
    const struct svq_chain *chain = q->chain;
    const struct svq_segment *seg = chain->segments;
    struct svq_grant_run run = { 0, 0 };
    uint64_t gpa = seg->gpa;
    if (seg->len != SVQ_PAGE_SIZE || gpa & (SVQ_PAGE_SIZE - 1) || !q->exact || !q->grants_pages ||
        !svq_frame_bit(q->view.mem->plain, gpa >> SVQ_PAGE_SHIFT) || svq_window_is_lost(q->window) ||
        svq_grant_page(q, gpa, SVQ_PAGE_SIZE, seg->writable, &run) != 1)
        return false;
    note_granted(q, &entry->part, gpa, SVQ_PAGE_SIZE, seg->writable, run);
    entry->block_class = SVQ_NO_BLOCK;
    entry->copied = 0;
    entry->part_count = 1;
    entry->writable_bytes = chain->writable_bytes;
    q->tally.parts++;
    q->tally.segments++;
    struct vring_desc *desc = &q->shadow_desc[chain->head];
    desc->addr = svq_window_addr(run.gref, 0);
    desc->len = SVQ_PAGE_SIZE;
    desc->flags = seg->writable ? VRING_DESC_F_WRITE : 0;
    desc->next = 0;
    return true;
}

int svq_place_chain(struct svq_queue *q, struct svq_in_flight *entry)
{
    const struct svq_chain *chain = q->chain;
    if (chain->count == 1 && svq_likely(place_page(q, entry)))
        return 0;
    struct vring_desc *shadow = &q->shadow_desc[chain->head];
    struct builder b = { .q = q, .entry = entry, .parts = &entry->part, .table = shadow, .capacity = 1 };
    entry->block_class = SVQ_NO_BLOCK;
    entry->copied = 0;
    if (chain->count > 1 && svq_unlikely(!take_block(&b, chain->count)))
        return SVQ_FULL;
    int rc = place_segments(&b);
    entry->part_count = (uint16_t)b.count;
    if (svq_unlikely(rc < 0))
        return take_back(q, &b, rc);
    b.table[b.count - 1].flags &= VRING_DESC_F_WRITE; /* the last one has no next */
    b.table[b.count - 1].next = 0;
    if (entry->block_class != SVQ_NO_BLOCK)
        *shadow = (struct vring_desc){ .addr = svq_slots_addr(&q->blocks[entry->block_class].tables, entry->block),
                                       .len = b.count * (uint32_t)sizeof *shadow,
                                       .flags = VRING_DESC_F_INDIRECT };
    entry->writable_bytes = chain->writable_bytes;
    q->tally.parts += b.count;
    q->tally.segments += chain->count;
    return 0;
}
