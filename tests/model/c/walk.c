/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The walk of a driver's chain (c_helpers/src/engine/chain.c), in a ring and in indirect tables that hold whatever the
 * frontend likes, and something else at each look: every word that is loaded is any value.
 */
/* In place of ring/barrier.h and engine/guestmem.h. */
#define SVQ_BARRIER_H
#define SVQ_GUESTMEM_H
#include "check.h"
#include "vring.h"
#include "svq.h"

bool nondet_bool(void);
uint16_t nondet_u16(void);
uint32_t nondet_u32(void);
uint64_t nondet_u64(void);

struct svq_view;
static uint64_t svq_load_u64(const uint64_t *word);
bool svq_guestmem_is_ram(struct svq_view *view, uint64_t gpa, uint64_t len);
bool svq_view_read(struct svq_view *view, uint64_t gpa, void *to, size_t len);

#ifdef SVQ_MUTATION
int svq_omitted_check = SVQ_MUTATION; /* the check that is taken out */
#endif

#include "chain.c"

static struct vring_desc table[SVQ_QUEUE_SIZE_MAX + 1];
static struct svq_chain_source source = { .table = table };
static struct svq_chain chain;

static unsigned loads, reads;
static uint64_t ram_from, ram_len; /* what was last said to be RAM */

static uint64_t svq_load_u64(const uint64_t *word)
{
    uint64_t offset = (uint64_t)((const uint8_t *)word - (const uint8_t *)table);
    __CPROVER_assert(offset < source.size * sizeof table[0], "only the ring's own descriptors are read");
    loads++;
    return nondet_u64();
}

bool svq_guestmem_is_ram(struct svq_view *view, uint64_t gpa, uint64_t len)
{
    (void)view;
    __CPROVER_assert(len > 0 && gpa + len >= gpa && gpa + len <= source.gpa_limit,
                     "only what can be RAM is asked about");
    bool is_ram = nondet_bool();
    ram_from = gpa;
    ram_len = is_ram ? len : 0;
    return is_ram;
}

bool svq_view_read(struct svq_view *view, uint64_t gpa, void *to, size_t len)
{
    uint64_t *words = to;
    (void)view;
    __CPROVER_assert(len == sizeof(struct vring_desc) && ram_len >= len && gpa >= ram_from &&
                         gpa - ram_from <= ram_len - len,
                     "only the table that was found to be RAM is read");
    reads++;
    words[0] = nondet_u64();
    words[1] = nondet_u64();
    return nondet_bool();
}

/* What holds of a chain that was accepted, or of the part of one that was looked at so far. */
static bool is_good(const struct walk *walk)
{
    uint64_t pages = 0, writable_bytes = 0;
    bool good = walk->count <= source.size && walk->count <= SVQ_QUEUE_SIZE_MAX;
    for (unsigned i = 0; i < SVQ_QUEUE_SIZE_MAX && i < walk->count; i++) {
        const struct svq_segment *segment = &chain.segments[i];
        uint64_t end = segment->gpa + segment->len, touched = svq_pages_touched(segment->gpa, segment->len);
        good = good && segment->len > 0 && end > segment->gpa && end <= source.gpa_limit;
        good = good && (segment->writable || writable_bytes == 0);
        pages += touched;
        writable_bytes += segment->writable ? segment->len : 0;
    }
    return good && pages <= source.pages_max && walk->pages == pages && walk->writable_bytes == writable_bytes;
}

static void any_source(uint16_t size_max)
{
    source.size = nondet_u16();
    source.pages_max = nondet_u32();
    source.gpa_limit = nondet_u64();
    __CPROVER_assume(source.size >= 1 && source.size <= size_max);
    __CPROVER_assume(source.pages_max <= SVQ_PARTS_MAX && source.gpa_limit <= 1ULL << 52);
}

static void check_answer(int rc, const struct walk *walk)
{
    __CPROVER_assert(rc == 0 || (rc < SVQ_ERR_BASE && rc >= SVQ_E_LAST), "the answer is 0 or says what is wrong");
    __CPROVER_assert(rc || walk->count >= 1, "a chain has a segment");
    __CPROVER_assert(rc || is_good(walk), "a chain that is accepted keeps to every rule, and is counted right");
    __CPROVER_assert(loads <= 2u * (source.size + 1u) && reads <= source.size + 1u,
                     "each descriptor is read once, and the walk ends");
}

/* In the ring. */
void prove_ring(void)
{
    uint16_t head = nondet_u16();
    any_source(SVQ_QUEUE_SIZE_MAX + 1); /* so that both limits of a chain's length are met */
    __CPROVER_assume(head < source.size);
    source.indirect_negotiated = false;
    int rc = svq_chain_fetch(&source, head, &chain);
    struct walk walk = { .pages = chain.pages, .count = chain.count, .writable_bytes = chain.writable_bytes };
    check_answer(rc, &walk);
    __CPROVER_assert(rc || !chain.in_indirect, "without indirect tables, unless they were agreed on");
}

/* In an indirect table, alone or after a segment that lay in the ring. */
void prove_table(void)
{
    struct vring_desc reference = { nondet_u64(), nondet_u32(), nondet_u16(), nondet_u16() };
    struct walk walk = { nondet_u64(), nondet_u32(), nondet_u32(), nondet_u16() };
    any_source(SVQ_QUEUE_SIZE_MAX);
    for (unsigned i = 0; i < SVQ_QUEUE_SIZE_MAX; i++)
        chain.segments[i] = (struct svq_segment){ nondet_u64(), nondet_u32(), nondet_bool(), nondet_u16() };
    __CPROVER_assume(walk.count <= 1 && is_good(&walk));
    source.indirect_negotiated = nondet_bool();
    int rc = walk_indirect(&source, reference, &chain, &walk);
    check_answer(rc, &walk);
    __CPROVER_assert(rc || source.indirect_negotiated, "indirect tables only where they were agreed on");
}
