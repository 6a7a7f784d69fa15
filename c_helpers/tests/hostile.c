/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostile.h"

#include <stdlib.h>

#include "barrier.h"
#include "rig_view.h"

enum {
    RAM = 8192,
    HOLE = RAM - 8, /* the last 8 frames are not RAM */
    RING_GFN = 512, /* the ring that is set up by hand */
    TABLE = RIG_TABLE_GFN << SVQ_PAGE_SHIFT,
    SMALL = RIG_HEADER_GFN << SVQ_PAGE_SHIFT,
    DATA = RIG_DATA_GFN << SVQ_PAGE_SHIFT,
};

#define SIZES .ram_pages = RAM, .hole_gfn = HOLE, .hole_pages = RAM - HOLE
static const struct rig_config plain = { SIZES };
static const struct rig_config four = { SIZES, .queue_size = 4 };
static const struct rig_config large = { SIZES, .queue_size = 1024 };
static const struct rig_config no_indirect = { SIZES, .no_indirect = 1 };
static const struct rig_config copies = { SIZES, .placement = SVQ_PLACE_COPY };
static const struct rig_config whole_pages = { SIZES, .placement = SVQ_PLACE_PAGE };
static const struct rig_config two_slots = { SIZES, .bounce_pages = 2 };

/* --- rings ---------------------------------------------------------------------------------------------------- */
struct svq_queue_config hostile_ring(void)
{
    return (struct svq_queue_config){ .size = 256,
                                      .desc_gpa = rig_gpa(RING_GFN),
                                      .avail_gpa = rig_gpa(RING_GFN + 2),
                                      .used_gpa = rig_gpa(RING_GFN + 4) };
}

static void size_odd(struct svq_queue_config *c) { c->size = 48; }
static void size_zero(struct svq_queue_config *c) { c->size = 0; }
static void size_huge(struct svq_queue_config *c) { c->size = 32768; }
static void align_desc(struct svq_queue_config *c) { c->desc_gpa += 8; }
static void align_avail(struct svq_queue_config *c) { c->avail_gpa += 1; }
static void align_used(struct svq_queue_config *c) { c->used_gpa += 2; }
static void wrap_around(struct svq_queue_config *c) { c->desc_gpa = UINT64_MAX - 15; }
static void wrap_end(struct svq_queue_config *c) { c->used_gpa = rig_gpa(RAM) - 64; }
static void overlap_desc_avail(struct svq_queue_config *c) { c->avail_gpa = c->desc_gpa + 256 * 16 - 2; }
static void overlap_used_desc(struct svq_queue_config *c) { c->used_gpa = c->desc_gpa - 256 * 8; }
static void ring_in_hole(struct svq_queue_config *c) { c->used_gpa = rig_gpa(HOLE); }
static void ring_into_hole(struct svq_queue_config *c) { c->desc_gpa = rig_gpa(HOLE) - 64; }

/* --- chains --------------------------------------------------------------------------------------------------- */
static void publish(struct rig *rig, uint16_t idx) { svq_release_u16(&rig->q[0].avail->idx, idx); }

static void offer_pages(struct rig *rig, uint16_t count)
{
    for (uint16_t i = 0; i < count; i++) {
        rig_page(rig, i, i, SEG_WRITE);
        rig_offer(rig, i);
    }
}

static void in_flight(struct rig *rig, uint16_t count)
{
    offer_pages(rig, count);
    if (rig_forward(rig) != count)
        abort();
}

static void one_in_flight(struct rig *rig) { in_flight(rig, 1); }
static void two_in_flight(struct rig *rig) { in_flight(rig, 2); }
static void three_in_flight(struct rig *rig) { in_flight(rig, 3); }

static void idx_jumps(struct rig *rig)
{
    rig_page(rig, 0, 0, SEG_READ);
    publish(rig, (uint16_t)(rig->config.queue_size + 1));
}
static void idx_goes_back(struct rig *rig) { publish(rig, 0xffff); }
static void too_many(struct rig *rig)
{
    rig_page(rig, 3, 3, SEG_READ);
    rig_offer(rig, 3);
    rig_offer(rig, 0);
}
static void head_at_size(struct rig *rig) { rig_offer(rig, rig->config.queue_size); }
static void head_max(struct rig *rig) { rig_offer(rig, 0xffff); }
static void head_again(struct rig *rig) { rig_offer(rig, 0); }

static void next_at_size(struct rig *rig)
{
    rig_desc(rig, 0, DATA, SVQ_PAGE_SIZE, VRING_DESC_F_NEXT, rig->config.queue_size);
    rig_offer(rig, 0);
}

static void indirect(struct rig *rig, uint64_t gpa, uint32_t len, uint16_t flags)
{
    rig_desc(rig, 0, gpa, len, (uint16_t)(VRING_DESC_F_INDIRECT | flags), 1);
    rig_page(rig, 1, 1, SEG_READ);
    rig_offer(rig, 0);
}

static void entry(struct rig *rig, unsigned i, uint16_t flags, uint16_t next)
{
    struct vring_desc *table = (void *)(rig->ram + TABLE);
    table[i] = (struct vring_desc){ DATA + (uint64_t)i * SVQ_PAGE_SIZE, SVQ_PAGE_SIZE, flags, next };
}

static void next_at_table_end(struct rig *rig)
{
    entry(rig, 0, VRING_DESC_F_NEXT, 1);
    entry(rig, 1, VRING_DESC_F_NEXT, 2);
    entry(rig, 2, 0, 0);
    indirect(rig, TABLE, 2 * 16, 0);
}

static void loop(struct rig *rig)
{
    rig_desc(rig, 0, SMALL, 64, VRING_DESC_F_NEXT, 1);
    rig_desc(rig, 1, SMALL + 64, 64, VRING_DESC_F_NEXT, 0);
    rig_offer(rig, 0);
}
static void loop_in_table(struct rig *rig)
{
    entry(rig, 0, VRING_DESC_F_NEXT, 1);
    entry(rig, 1, VRING_DESC_F_NEXT, 0);
    indirect(rig, TABLE, 2 * 16, 0);
}
static void long_over_both_tables(struct rig *rig)
{
    for (unsigned i = 0; i < 4; i++)
        entry(rig, i, i < 3 ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
    rig_desc(rig, 1, SMALL, 64, VRING_DESC_F_NEXT, 0);
    rig_desc(rig, 0, TABLE, 4 * 16, VRING_DESC_F_INDIRECT, 0);
    rig_offer(rig, 1);
}

static void indirect_plain(struct rig *rig)
{
    entry(rig, 0, 0, 0);
    indirect(rig, TABLE, 16, 0);
}
static void indirect_nested(struct rig *rig)
{
    entry(rig, 0, VRING_DESC_F_INDIRECT, 0);
    indirect(rig, TABLE, 16, 0);
}
static void indirect_with_next(struct rig *rig)
{
    entry(rig, 0, 0, 0);
    indirect(rig, TABLE, 16, VRING_DESC_F_NEXT);
}
static void indirect_odd(struct rig *rig)
{
    entry(rig, 0, 0, 0);
    indirect(rig, TABLE, 17, 0);
}
static void indirect_empty(struct rig *rig)
{
    entry(rig, 0, 0, 0);
    indirect(rig, TABLE, 0, 0);
}
static void indirect_long(struct rig *rig)
{
    entry(rig, 0, 0, 0);
    indirect(rig, TABLE, (rig->config.queue_size + 1u) * 16, 0);
}
static void indirect_in_hole(struct rig *rig) { indirect(rig, rig_gpa(HOLE), 16, 0); }
static void indirect_into_hole(struct rig *rig) { indirect(rig, rig_gpa(HOLE) - 16, 32, 0); }
static void indirect_beyond(struct rig *rig) { indirect(rig, rig_gpa(RAM + 4096), 16, 0); }
static void indirect_wraps(struct rig *rig) { indirect(rig, UINT64_MAX - 15, 32, 0); }

static void pair(struct rig *rig, struct rig_seg first, struct rig_seg second)
{
    const struct rig_seg segs[] = { first, second };
    rig_chain(rig, 0, segs, 2);
    rig_offer(rig, 0);
}
static void readable_last(struct rig *rig)
{
    pair(rig, (struct rig_seg){ SMALL, 64, SEG_WRITE }, (struct rig_seg){ SMALL + 64, 64, SEG_READ });
}
static void empty_segment(struct rig *rig)
{
    pair(rig, (struct rig_seg){ SMALL, 64, SEG_READ }, (struct rig_seg){ SMALL + 64, 0, SEG_WRITE });
}
static void one_segment(struct rig *rig, uint64_t gpa, uint32_t len)
{
    rig_desc(rig, 0, gpa, len, SEG_WRITE, 0);
    rig_offer(rig, 0);
}
static void only_empty(struct rig *rig) { one_segment(rig, SMALL, 0); }
static void address_wraps(struct rig *rig) { one_segment(rig, UINT64_MAX - 4095, 8192); }
static void address_beyond(struct rig *rig) { one_segment(rig, rig_gpa(RAM) + 64, 64); }
static void address_end(struct rig *rig) { one_segment(rig, rig_gpa(HOLE) - 64, (RAM - HOLE) * SVQ_PAGE_SIZE + 65); }
static void data_in_hole(struct rig *rig) { one_segment(rig, rig_gpa(HOLE + 1), SVQ_PAGE_SIZE); }
static void data_into_hole(struct rig *rig) { one_segment(rig, rig_gpa(HOLE) - 32, 64); }

static void sum_over_4_gib(struct rig *rig)
{
    uint32_t len = (uint32_t)rig_gpa(HOLE) - (uint32_t)DATA;
    struct rig_seg segs[250];
    for (unsigned i = 0; i < 250; i++)
        segs[i] = (struct rig_seg){ DATA, len, SEG_WRITE };
    rig_chain(rig, 0, segs, 250);
    rig_offer(rig, 0);
}

static void smalls(struct rig *rig, unsigned count, uint32_t len)
{
    for (unsigned i = 0; i < count; i++)
        rig_desc(rig, (uint16_t)i, SMALL + (uint64_t)i * len, len, i + 1 < count ? VRING_DESC_F_NEXT : 0,
                 (uint16_t)(i + 1));
    rig_offer(rig, 0);
}
static void more_than_the_pool(struct rig *rig) { smalls(rig, 3, 3000); }
static void more_parts(struct rig *rig) { smalls(rig, SVQ_PARTS_MAX + 1, 64); }

/* --- used entries --------------------------------------------------------------------------------------------- */
static void used_jumps(struct rig *rig)
{
    rig_give(rig, 0, 0);
    svq_release_u16(&rig->q[0].shadow_used->idx, 2);
}
static void used_goes_back(struct rig *rig) { svq_release_u16(&rig->q[0].shadow_used->idx, 0xffff); }
static void used_id_at_size(struct rig *rig) { rig_give(rig, rig->config.queue_size, 0); }
static void used_id_huge(struct rig *rig) { rig_give(rig, 0x10000, 0); } /* head 0 if cut to 16 bits */
static void used_id_unknown(struct rig *rig) { rig_give(rig, 77, 0); }
static void first_is_back(struct rig *rig)
{
    two_in_flight(rig);
    rig_give(rig, 0, 0);
    if (rig_complete(rig) != 1)
        abort();
}
static void used_id_again(struct rig *rig) { rig_give(rig, 0, 0); }
static void used_too_long(struct rig *rig) { rig_give(rig, 0, SVQ_PAGE_SIZE + 1); }
static void readable_in_flight(struct rig *rig)
{
    rig_page(rig, 0, 0, SEG_READ);
    rig_offer(rig, 0);
    if (rig_forward(rig) != 1)
        abort();
}
static void used_of_readable(struct rig *rig) { rig_give(rig, 0, 1); }

/* --- grants --------------------------------------------------------------------------------------------------- */
static void mapped_by_backend(struct rig *rig)
{
    one_in_flight(rig);
    struct rig_shadow shadow;
    uint8_t *va;
    if (!rig_shadow_chain(rig, 0, &shadow) || rig_part_map(rig, &shadow.part[0], 1, &va) < 0)
        abort();
}
static void give_back(struct rig *rig) { rig_give(rig, 0, SVQ_PAGE_SIZE); }

static void tamper(struct rig *rig, uint64_t entry)
{
    uint64_t *entries = rig_window_entries(rig);
    for (uint32_t i = 0; i < rig_window(rig).count; i++)
        if (svq_load_u64(&entries[i]))
            svq_store_u64(&entries[i], entry);
    rig_give(rig, 0, SVQ_PAGE_SIZE);
}
static void entry_cleared(struct rig *rig) { tamper(rig, 0); }
static void entry_for_another(struct rig *rig) { tamper(rig, svq_grant_entry(GTF_PERMIT_ACCESS, 3, RIG_DATA_GFN)); }
static void entry_of_another_page(struct rig *rig)
{
    tamper(rig, svq_grant_entry(GTF_PERMIT_ACCESS, RIG_BACKEND, RIG_DATA_GFN + 1));
}

/* --- the list: name of the code, input, set-up ------------------------------------------------------------------ */
#define RINGS(X)                                                                                                       \
    X(RING_SIZE, size_odd, plain)                                                                                      \
    X(RING_ALIGN, align_desc, plain)                                                                                   \
    X(RING_WRAP, wrap_around, plain)                                                                                   \
    X(RING_OVERLAP, overlap_desc_avail, plain)                                                                         \
    X(RING_NOT_RAM, ring_in_hole, plain)
#define MORE_RINGS(X)                                                                                                  \
    X(RING_SIZE, size_zero, plain)                                                                                     \
    X(RING_SIZE, size_huge, plain)                                                                                     \
    X(RING_ALIGN, align_avail, plain)                                                                                  \
    X(RING_ALIGN, align_used, plain)                                                                                   \
    X(RING_WRAP, wrap_end, plain)                                                                                      \
    X(RING_OVERLAP, overlap_used_desc, plain)                                                                          \
    X(RING_NOT_RAM, ring_into_hole, plain)

#define TRAFFIC(X)                                                                                                     \
    X(AVAIL_IDX_JUMP, idx_jumps, plain, NULL, 0)                                                                       \
    X(IN_FLIGHT_LIMIT, too_many, four, three_in_flight, 0)                                                             \
    X(HEAD_RANGE, head_at_size, plain, NULL, 0)                                                                        \
    X(HEAD_BUSY, head_again, plain, one_in_flight, 0)                                                                  \
    X(NEXT_RANGE, next_at_size, plain, NULL, 0)                                                                        \
    X(CHAIN_LOOP, loop, plain, NULL, 0)                                                                                \
    X(INDIRECT_NOT_NEGOTIATED, indirect_plain, no_indirect, NULL, 0)                                                   \
    X(INDIRECT_NESTED, indirect_nested, plain, NULL, 0)                                                                \
    X(INDIRECT_WITH_NEXT, indirect_with_next, plain, NULL, 0)                                                          \
    X(INDIRECT_LENGTH, indirect_odd, plain, NULL, 0)                                                                   \
    X(INDIRECT_TOO_LONG, indirect_long, plain, NULL, 0)                                                                \
    X(INDIRECT_NOT_RAM, indirect_in_hole, plain, NULL, 0)                                                              \
    X(WRITABLE_BEFORE_READABLE, readable_last, plain, NULL, 0)                                                         \
    X(ZERO_LENGTH, empty_segment, plain, NULL, 0)                                                                      \
    X(ADDRESS_WRAP, address_wraps, plain, NULL, 0)                                                                     \
    X(NOT_RAM, data_in_hole, plain, NULL, 0)                                                                           \
    X(CHAIN_LIMIT, more_than_the_pool, two_slots, NULL, 0)                                                             \
    X(USED_IDX_JUMP, used_jumps, plain, one_in_flight, 0)                                                              \
    X(USED_ID_RANGE, used_id_at_size, plain, one_in_flight, 0)                                                         \
    X(USED_ID_NOT_LIVE, used_id_again, copies, first_is_back, 0)                                                       \
    X(USED_LENGTH, used_too_long, plain, one_in_flight, 0)                                                             \
    X(GRANT_BUSY, give_back, plain, mapped_by_backend, 1)                                                              \
    X(GRANT_TAMPERED, entry_for_another, plain, one_in_flight, 1)
#define MORE_TRAFFIC(X)                                                                                                \
    X(AVAIL_IDX_JUMP, idx_goes_back, plain, NULL, 0)                                                                   \
    X(HEAD_RANGE, head_max, plain, NULL, 0)                                                                            \
    X(NEXT_RANGE, next_at_table_end, plain, NULL, 0)                                                                   \
    X(CHAIN_LOOP, loop_in_table, plain, NULL, 0)                                                                       \
    X(CHAIN_LOOP, long_over_both_tables, four, NULL, 0)                                                                \
    X(INDIRECT_LENGTH, indirect_empty, plain, NULL, 0)                                                                 \
    X(INDIRECT_NOT_RAM, indirect_into_hole, plain, NULL, 0)                                                            \
    X(INDIRECT_NOT_RAM, indirect_beyond, plain, NULL, 0)                                                               \
    X(INDIRECT_NOT_RAM, indirect_wraps, plain, NULL, 0)                                                                \
    X(ZERO_LENGTH, only_empty, plain, NULL, 0)                                                                         \
    X(ADDRESS_WRAP, address_beyond, plain, NULL, 0)                                                                    \
    X(ADDRESS_WRAP, address_end, plain, NULL, 0)                                                                       \
    X(NOT_RAM, data_into_hole, plain, NULL, 0)                                                                         \
    X(NOT_RAM, data_in_hole, whole_pages, NULL, 0)                                                                     \
    X(CHAIN_LIMIT, more_parts, large, NULL, 0)                                                                         \
    X(CHAIN_LIMIT, sum_over_4_gib, plain, NULL, 0)                                                                     \
    X(USED_IDX_JUMP, used_goes_back, plain, one_in_flight, 0)                                                          \
    X(USED_ID_RANGE, used_id_huge, plain, one_in_flight, 0)                                                            \
    X(USED_ID_NOT_LIVE, used_id_unknown, plain, one_in_flight, 0)                                                      \
    X(USED_LENGTH, used_of_readable, plain, readable_in_flight, 0)                                                     \
    X(GRANT_TAMPERED, entry_cleared, plain, one_in_flight, 1)                                                          \
    X(GRANT_TAMPERED, entry_of_another_page, plain, one_in_flight, 1)

#define RING(name, input, on) { .code = SVQ_E_##name, .what = #input, .config = &on, .spoil = input },
#define PASS(name, input, on, before, keeps)                                                                           \
    { .code = SVQ_E_##name, .what = #input, .config = &on, .prepare = before, .attack = input, .keeps_entries = keeps },
const struct hostile hostile_inputs[] = { RINGS(RING) MORE_RINGS(RING) TRAFFIC(PASS) MORE_TRAFFIC(PASS) };
const unsigned hostile_count = sizeof hostile_inputs / sizeof hostile_inputs[0];

/* A code that is missing from the first two lists above does not compile (-Wswitch). */
#define CASE(name, ...) case SVQ_E_##name:
__attribute__((unused)) static void all_codes_are_listed(enum svq_err code)
{
    switch (code) {
        RINGS(CASE)
        TRAFFIC(CASE)
    case SVQ_E_NONE:
    case SVQ_E_LAST: break;
    }
}
