/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Placement: which way each byte of a chain reaches the backend. Whole pages are granted, the rest is copied through the
 * bounce pool (exact); or every touched page is granted (page); or all is copied (copy).
 */
#include "engine.h"

/* The chain being placed. Parts and descriptors are written where they will stay, so nothing is moved in the usual case. */
struct builder {
    struct svq_queue *q;
    struct svq_in_flight *entry;
    struct svq_part *parts;
    struct vring_desc *table; /* shared with the backend, which is told of it only at the end */
    uint32_t count, capacity;
    bool plain; /* the segment under way has no ring page */
};

/* Takes the smallest free block for `parts` parts and moves there what there is. False: no such block is free. */
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
    return false;
}

/* The next part, to be filled where it stays, or NULL: the chain has more parts than any free block holds. */
static inline struct svq_part *next_part(struct builder *b)
{
    if (svq_unlikely(b->count == b->capacity) && !take_block(b, b->count + 1))
        return NULL;
    return &b->parts[b->count];
}

/* Writes the shadow descriptor of the part that next_part gave, and moves on. */
static inline void add_desc(struct builder *b, uint64_t addr, uint32_t len, bool writable)
{
    struct vring_desc *desc = &b->table[b->count++];
    desc->addr = addr;
    desc->len = len;
    desc->flags = (uint16_t)(VRING_DESC_F_NEXT | (writable ? VRING_DESC_F_WRITE : 0));
    desc->next = (uint16_t)b->count;
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
        if (svq_unlikely(!part || !slots->free_count))
            return SVQ_FULL;
        uint32_t slot = (uint32_t)svq_slots_take(slots), n = len < SVQ_PAGE_SIZE ? len : SVQ_PAGE_SIZE;
        if (!writable)
            svq_guestmem_read(&q->guest->mem, gpa, svq_slots_va(slots, slot), n);
        part->gpa = gpa;
        part->len = n;
        part->ref = slot;
        part->where = (uint8_t)where;
        part->writable = writable;
        add_desc(b, svq_slots_addr(slots, slot), n, writable);
        q->tally.bounced += n;
        gpa += n;
        len -= n;
    }
    return 0;
}

/*
 * The other thing that most requests are made of: a header, a status byte. The same as bounce_range, which is asked when
 * something is special about it.
 */
static inline int bounce_small(struct builder *b, uint64_t gpa, uint32_t len, bool writable)
{
    struct svq_queue *q = b->q;
    struct svq_slots *slots = &q->bounce.pool[SVQ_SMALL_READABLE + writable];
    size_t span;
    const uint8_t *from = svq_guestmem_span(&q->guest->mem, gpa, len, &span);
    if (svq_unlikely(!slots->free_count || b->count == b->capacity || span < len))
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
    part->writable = writable;
    add_desc(b, svq_slots_addr(slots, slot), len, writable);
    q->tally.bounced += len;
    return 0;
}

/* Pages from gfn on that may be granted at all: rings never are. */
static uint32_t grantable(struct svq_guestmem *mem, uint64_t gfn, uint32_t pages)
{
    uint32_t n = 0;
    while (n < pages && svq_guestmem_is_plain_frame(mem, gfn + n))
        n++;
    return n;
}

static struct svq_grant_run take_run(struct svq_queue *q, uint64_t gfn, uint32_t pages, bool writable)
{
    struct svq_window *window = &q->guest->window;
    uint16_t domid = q->dev->config.backend_domid;
    if (!window->direct)
        return svq_window_take_run(window, &q->range, domid, gfn, pages, writable, &q->stats.window_taken);

    struct svq_grant_run run = { window->first_gref + (uint32_t)gfn, 0 };
    while (run.pages < pages && svq_window_take(window, run.gref + run.pages, domid, gfn + run.pages, writable))
        run.pages++;
    if (svq_unlikely(!run.pages)) /* an entry that cuts a run short is met again, as the first of the next */
        svq_count(&q->stats.window_taken, 1);
    return run;
}

static int grant_range(struct builder *b, uint64_t gpa, uint32_t len, bool writable)
{
    struct svq_queue *q = b->q;
    uint64_t end = gpa + len;
    while (gpa < end) {
        uint64_t gfn = gpa >> SVQ_PAGE_SHIFT;
        uint32_t pages = (uint32_t)(((end - 1) >> SVQ_PAGE_SHIFT) - gfn + 1);
        uint32_t allowed = svq_likely(b->plain) ? pages : grantable(&q->guest->mem, gfn, pages);
        struct svq_part *part = next_part(b);
        if (svq_unlikely(!part))
            return SVQ_FULL;
        struct svq_grant_run run = { 0, 0 };
        if (svq_likely(allowed))
            run = take_run(q, gfn, allowed, writable);
        uint64_t stop = (gfn + (run.pages ? run.pages : 1)) << SVQ_PAGE_SHIFT;
        uint32_t n = (uint32_t)((stop < end ? stop : end) - gpa);
        if (svq_unlikely(!run.pages)) {
            /* a ring page, or a page in flight already: copy. A full dynamic range: wait. */
            int rc = allowed && !q->guest->window.direct ? SVQ_FULL : bounce_range(b, gpa, n, writable);
            if (rc < 0)
                return rc;
        } else {
            part->gpa = gpa;
            part->len = n;
            part->ref = run.gref;
            part->pages = run.pages;
            part->where = SVQ_GRANTED;
            part->writable = writable;
            add_desc(b, svq_window_addr(run.gref, (uint32_t)(gpa & (SVQ_PAGE_SIZE - 1))), n, writable);
            q->tally.zero_copy += n;
            q->tally.grants += run.pages;
        }
        gpa += n;
    }
    return 0;
}

/*
 * What most requests are made of, a page that is a segment: the same as grant_range in a fifth of the instructions. False:
 * something is special about it, let grant_range look.
 */
static inline bool grant_page(struct builder *b, uint64_t gpa, bool writable)
{
    struct svq_queue *q = b->q;
    struct svq_window *window = &q->guest->window;
    uint64_t gfn = gpa >> SVQ_PAGE_SHIFT;
    uint32_t gref = window->first_gref + (uint32_t)gfn;
    if (!window->direct || !b->plain || b->count == b->capacity ||
        !svq_window_take(window, gref, q->dev->config.backend_domid, gfn, writable))
        return false;
    struct svq_part *part = &b->parts[b->count];
    part->gpa = gpa;
    part->len = SVQ_PAGE_SIZE;
    part->ref = gref;
    part->pages = 1;
    part->where = SVQ_GRANTED;
    part->writable = writable;
    add_desc(b, svq_window_addr(gref, 0), SVQ_PAGE_SIZE, writable);
    q->tally.zero_copy += SVQ_PAGE_SIZE;
    q->tally.grants++;
    return true;
}

/* Whole pages are granted if they are at least copy_threshold bytes; the ends are copied. */
static inline int place_exact(struct builder *b, const struct svq_segment *seg)
{
    if (seg->len == SVQ_PAGE_SIZE && !(seg->gpa & (SVQ_PAGE_SIZE - 1)) &&
        seg->len >= b->q->dev->config.copy_threshold && grant_page(b, seg->gpa, seg->writable))
        return 0;
    if (seg->len <= SVQ_SMALL_BYTES)
        return bounce_small(b, seg->gpa, seg->len, seg->writable);
    uint64_t end = seg->gpa + seg->len;
    uint64_t first = (seg->gpa + SVQ_PAGE_SIZE - 1) & ~(uint64_t)(SVQ_PAGE_SIZE - 1);
    uint64_t last = end & ~(uint64_t)(SVQ_PAGE_SIZE - 1);
    if (last <= first || last - first < b->q->dev->config.copy_threshold)
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

/*
 * Does another segment of the chain use a page of this one the other way round? Then the backend could write what it may
 * only read. All pages count, not the ends alone; each pair is looked at, in this placement only.
 */
static bool shares_page_both_ways(const struct svq_chain *chain, const struct svq_segment *seg)
{
    uint64_t first = seg->gpa >> SVQ_PAGE_SHIFT, last = (seg->gpa + seg->len - 1) >> SVQ_PAGE_SHIFT;
    for (uint32_t i = 0; i < chain->count; i++) {
        const struct svq_segment *other = &chain->segments[i];
        if (other->writable != seg->writable && other->gpa >> SVQ_PAGE_SHIFT <= last &&
            (other->gpa + other->len - 1) >> SVQ_PAGE_SHIFT >= first)
            return true;
    }
    return false;
}

static inline int place_segment(struct builder *b, const struct svq_segment *seg)
{
    int placement = b->q->dev->config.placement;
    if (svq_likely(placement == SVQ_PLACE_EXACT))
        return place_exact(b, seg);
    if (placement == SVQ_PLACE_PAGE && !shares_page_both_ways(b->q->chain, seg))
        return grant_range(b, seg->gpa, seg->len, seg->writable);
    return bounce_range(b, seg->gpa, seg->len, seg->writable);
}

/* Takes back what placing these parts counted: they never reach the backend. */
static void untally(struct svq_queue *q, const struct svq_part *parts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i].where == SVQ_GRANTED) {
            q->tally.zero_copy -= parts[i].len;
            q->tally.grants -= parts[i].pages;
            q->tally.revokes -= parts[i].pages; /* svq_unplace_chain is about to end them */
        } else {
            q->tally.bounced -= parts[i].len;
        }
    }
}

static int place_segments(struct builder *b)
{
    struct svq_chain *chain = b->q->chain;
    struct svq_guestmem *mem = &b->q->guest->mem;
    for (uint32_t i = 0; i < chain->count; i++) {
        const struct svq_segment *seg = &chain->segments[i];
        b->plain = svq_guestmem_is_plain(mem, seg->gpa, seg->len);
        if (SVQ_REJECTS(!b->plain && !svq_guestmem_is_ram(mem, seg->gpa, seg->len), SVQ_E_NOT_RAM)) {
            chain->desc = seg->desc;
            chain->bad_value = seg->gpa;
            chain->bad_limit = seg->len;
            return SVQ_E_NOT_RAM;
        }
        int rc = place_segment(b, seg);
        if (svq_unlikely(rc < 0))
            return rc;
    }
    return 0;
}

/*
 * The chain cannot be placed, or not now. A backend that guesses grefs may have mapped a page of it already: then the
 * driver must not get that page back, and the device is broken (XSA-396).
 */
static __attribute__((cold, noinline)) int take_back(struct svq_queue *q, struct builder *b, int rc)
{
    int code = 0;
    untally(q, b->parts, b->count);
    unsigned left = svq_unplace_chain(q, b->entry, &code);
    if (SVQ_REJECTS(left, code)) {
        b->entry->live = 1; /* closing the device tries again */
        q->in_flight_count++;
        q->tally.grants += left;
        q->tally.revokes += left; /* untally took them away */
        svq_count(&q->stats.quarantined, left);
        q->chain->bad_value = left;
        q->chain->bad_limit = 0;
        return code;
    }
    return rc;
}

int svq_place_chain(struct svq_queue *q, struct svq_in_flight *entry)
{
    const struct svq_chain *chain = q->chain;
    struct vring_desc *shadow = &q->shadow_desc[chain->head];
    struct builder b = { .q = q, .entry = entry, .parts = &entry->part, .table = shadow, .capacity = 1 };
    entry->block_class = SVQ_NO_BLOCK;
    if (chain->count > 1 && svq_unlikely(!take_block(&b, chain->count)))
        return SVQ_FULL;
    int rc = place_segments(&b);
    entry->part_count = (uint16_t)b.count;
    if (svq_unlikely(rc < 0))
        return take_back(q, &b, rc);
    b.table[b.count - 1].flags &= VRING_DESC_F_WRITE; /* the last has no next */
    b.table[b.count - 1].next = 0;
    if (entry->block_class != SVQ_NO_BLOCK)
        *shadow = (struct vring_desc){ .addr = svq_slots_addr(&q->blocks[entry->block_class].tables, entry->block),
                                       .len = b.count * (uint32_t)sizeof *shadow, .flags = VRING_DESC_F_INDIRECT };
    entry->writable_bytes = chain->writable_bytes;
    q->tally.parts += b.count;
    q->tally.segments += chain->count;
    return 0;
}

/* Page `first` of the part could not be ended: ends what it can from the other end, and keeps the pages between. */
static __attribute__((cold, noinline)) unsigned keep_pages(struct svq_queue *q, struct svq_part *part, uint32_t first)
{
    uint32_t end = part->pages;
    while (end - 1 > first && svq_end_page(q, part, end - 1) == SVQ_REVOKED)
        end--;
    q->tally.revokes += part->pages - end;
    part->gpa += (uint64_t)first << SVQ_PAGE_SHIFT;
    part->ref += first;
    part->pages = end - first;
    return part->pages;
}

unsigned svq_end_grants(struct svq_queue *q, struct svq_part *part, int *code)
{
    enum svq_revoke outcome = SVQ_REVOKED;
    uint32_t ended = 0;
    while (ended < part->pages && svq_likely((outcome = svq_end_page(q, part, ended)) == SVQ_REVOKED))
        ended++;
    q->tally.revokes += ended;
    if (svq_likely(ended == part->pages)) {
        part->pages = 0;
        return 0;
    }
    *code = outcome == SVQ_REVOKE_BUSY ? SVQ_E_GRANT_BUSY : SVQ_E_GRANT_TAMPERED;
    return keep_pages(q, part, ended);
}

unsigned svq_unplace_chain(struct svq_queue *q, struct svq_in_flight *entry, int *code)
{
    struct svq_part *parts = svq_in_flight_parts(q, entry);
    unsigned left = 0;
    for (uint32_t i = 0; i < entry->part_count; i++) {
        struct svq_part *part = &parts[i];
        if (part->where == SVQ_GRANTED) {
            left += svq_end_grants(q, part, code);
        } else {
            svq_part_give_slot(q, part);
            part->where = SVQ_GRANTED; /* nothing is left of it */
            part->pages = 0;
        }
    }
    if (svq_likely(!left))
        svq_give_block(q, entry);
    return left;
}
