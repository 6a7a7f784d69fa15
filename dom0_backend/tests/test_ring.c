/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ring and the chain walk on plain memory: what is taken, what is refused, who is notified. */
#include <stddef.h>

#include "be_chain.h"
#include "be_test.h"
#include "grant.h"

enum { SIZE = 8 };

static struct vring_desc desc[SIZE], table[SVQ_BE_TABLE_MAX + 8], scratch[SVQ_BE_TABLE_MAX];
static uint16_t avail_words[3 + SIZE], used_words[(6 + 8 * SIZE) / 2 + 1];
static struct vring_avail *const avail = (struct vring_avail *)(void *)avail_words;
static struct vring_used *const used = (struct vring_used *)(void *)used_words;
static struct svq_be_ring ring;
static struct svq_be_chain chain;
static int reader_answer;
static const struct svq_be_window window = { .owner = 2, .first = 1000, .count = 100 };

static int read_table(void *context, uint32_t gref, uint32_t offset, uint32_t count, struct vring_desc *to)
{
    (void)context;
    REQUIRE_EQUAL(gref, 7);
    REQUIRE_EQUAL(offset, 16);
    memcpy(to, table, count * sizeof *to);
    return reader_answer;
}

static void fresh(uint64_t features)
{
    memset(desc, 0, sizeof desc);
    memset(table, 0, sizeof table);
    memset(avail_words, 0, sizeof avail_words);
    memset(used_words, 0, sizeof used_words);
    reader_answer = 0;
    svq_be_ring_init(&ring, desc, avail, used, SIZE, features);
}

static int walk(void)
{
    struct svq_be_table_reader reader = { .read = read_table, .table = scratch };
    return svq_be_chain_walk(&ring, 0, &window, &reader, &chain);
}

static struct vring_desc part(uint32_t gref, uint32_t offset, uint32_t len, uint16_t flags, uint16_t next)
{
    bool owned = gref >= window.first && gref < window.first + window.count;
    return (struct vring_desc){ owned ? svq_window_addr(gref, offset) : svq_grant_addr(gref, offset), len, flags,
                                next };
}

static void require_fault(int expected)
{
    REQUIRE_EQUAL(walk(), -EPROTO);
    REQUIRE_EQUAL(ring.fault, expected);
}

TEST(heads, "Heads come in order, and no head while it is still live")
{
    fresh(0);
    uint16_t head;
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 0);
    avail->ring[0] = 3;
    avail->ring[1] = 5;
    avail->idx = 2;
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 1);
    REQUIRE_EQUAL(head, 3);
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 1);
    REQUIRE_EQUAL(head, 5);
    svq_be_ring_unpop(&ring, head);
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 1);
    REQUIRE_EQUAL(head, 5);
    avail->ring[2] = 3; /* we still have it */
    avail->idx = 3;
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), -EPROTO);
    REQUIRE_EQUAL(ring.fault, SVQ_BE_FAULT_HEAD_LIVE);
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), -EPROTO);
}

TEST(wrap, "A returned head may come again, even after the indices wrap")
{
    fresh(0);
    uint16_t head;
    for (uint32_t i = 0; i < 70000; i++) { /* indices wrap */
        avail->ring[avail->idx & (SIZE - 1)] = 6;
        avail->idx++;
        REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 1);
        svq_be_ring_push(&ring, head, i);
        REQUIRE(svq_be_ring_publish(&ring));
        REQUIRE_EQUAL(used->idx, (uint16_t)(i + 1));
        REQUIRE_EQUAL(used->ring[i & (SIZE - 1)].id, 6);
        REQUIRE_EQUAL(used->ring[i & (SIZE - 1)].len, i);
    }
}

TEST(indices, "Indices that run ahead, go back or name no descriptor stop the ring")
{
    fresh(0);
    avail->idx = SIZE + 1;
    uint16_t head;
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), -EPROTO);
    REQUIRE_EQUAL(ring.fault, SVQ_BE_FAULT_AVAIL_IDX);
    fresh(0);
    avail->idx = UINT16_MAX; /* gone back */
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), -EPROTO);
    fresh(0);
    avail->idx = 1;
    avail->ring[0] = SIZE;
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), -EPROTO);
    REQUIRE_EQUAL(ring.fault, SVQ_BE_FAULT_HEAD_RANGE);
}

TEST(take_up, "Serving starts where the ring's used idx stands")
{
    fresh(0);
    used->idx = 65534;
    avail->idx = 1;
    avail->ring[6] = 1;
    avail->ring[7] = 2;
    avail->ring[0] = 3;
    svq_be_ring_init(&ring, desc, avail, used, SIZE, 0);
    uint16_t head;
    for (uint16_t expected = 1; expected <= 3; expected++) {
        REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 1);
        REQUIRE_EQUAL(head, expected);
    }
    REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 0);
}

TEST(event_idx, "With EVENT_IDX, event indices are honoured both ways, and flags are ignored")
{
    fresh(1ULL << VIRTIO_F_EVENT_IDX);
    avail->flags = VRING_AVAIL_F_NO_INTERRUPT; /* to be ignored (2.7.7.2) */
    avail->idx = 3;
    avail->ring[1] = 1;
    avail->ring[2] = 2;
    *vring_used_event(avail, SIZE) = 1;
    uint16_t head;
    for (int i = 0; i < 3; i++) {
        REQUIRE_EQUAL(svq_be_ring_pop(&ring, &head), 1);
        svq_be_ring_push(&ring, head, 0);
        REQUIRE_EQUAL(svq_be_ring_publish(&ring), i == 1);
    }
    REQUIRE(!svq_be_ring_publish(&ring));
    svq_be_ring_quiet(&ring);
    REQUIRE_EQUAL(used->flags, 0);
    REQUIRE(!svq_be_ring_arm(&ring));
    REQUIRE_EQUAL(*vring_avail_event(used, SIZE), 3);
    avail->idx = 4;
    REQUIRE(svq_be_ring_arm(&ring));
}

TEST(event_flags, "Without EVENT_IDX, flags are honoured both ways, and used_event is ignored")
{
    fresh(0);
    *vring_used_event(avail, SIZE) = 100; /* to be ignored */
    svq_be_ring_quiet(&ring);
    REQUIRE_EQUAL(used->flags, VRING_USED_F_NO_NOTIFY);
    REQUIRE(!svq_be_ring_arm(&ring));
    REQUIRE_EQUAL(used->flags, 0);
    svq_be_ring_push(&ring, 0, 0);
    REQUIRE(svq_be_ring_publish(&ring));
    avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
    svq_be_ring_push(&ring, 1, 0);
    REQUIRE(!svq_be_ring_publish(&ring));
}

TEST(parts, "Direct descriptors followed by an indirect table become one list of parts")
{
    fresh(1ULL << VIRTIO_F_INDIRECT_DESC);
    desc[0] = part(5, 100, 16, VRING_DESC_F_NEXT, 2);
    desc[2] = part(0, 0, 0, VRING_DESC_F_NEXT, 1); /* empty: no part */
    desc[1] = part(7, 16, 48, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0);
    table[0] = part(1090, 4000, 9 * 4096 + 96, VRING_DESC_F_NEXT, 2);
    table[2] = part(12, 1, 1, VRING_DESC_F_WRITE, 0);
    REQUIRE_EQUAL(walk(), 0);
    REQUIRE_EQUAL(chain.count, 3);
    REQUIRE_EQUAL(chain.readable, 2);
    REQUIRE_EQUAL(chain.readable_bytes, 16 + 9 * 4096 + 96);
    REQUIRE_EQUAL(chain.writable_bytes, 1);
    REQUIRE(!chain.segs[0].in_window && chain.segs[1].in_window && !chain.segs[2].in_window);
    REQUIRE_EQUAL(svq_be_seg_pages(&chain.segs[1]), 10);
}

TEST(chains, "Chains that loop, run long, or mix directions stop the ring")
{
    fresh(0);
    desc[0] = part(5, 0, 16, VRING_DESC_F_NEXT, SIZE);
    require_fault(SVQ_BE_FAULT_NEXT_RANGE);
    fresh(0);
    desc[0] = part(5, 0, 16, VRING_DESC_F_NEXT, 0);
    require_fault(SVQ_BE_FAULT_LOOP);
    fresh(0);
    desc[0] = part(5, 0, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
    desc[1] = part(5, 0, 16, 0, 0);
    require_fault(SVQ_BE_FAULT_ORDER);
    fresh(0);
    desc[0] = part(5, 0, UINT32_MAX, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
    desc[1] = part(5000, 0, 1, VRING_DESC_F_WRITE, 0);
    require_fault(SVQ_BE_FAULT_TOO_LONG); /* the mediator's, though their numbers cover the window */
    fresh(0);
    desc[0] = part(5000, 0, UINT32_MAX, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
    desc[1] = part(5000, 0, 1, VRING_DESC_F_WRITE, 0);
    require_fault(SVQ_BE_FAULT_TOO_LONG);
}

TEST(addresses, "Addresses without a gref, or outside the window that they name, stop the ring")
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        int fault;
    } cases[] = {
        { 0x1000, 16, SVQ_BE_FAULT_ADDRESS },                                          /* no grant address */
        { SVQ_GRANT_ADDR_FLAG | 1ULL << 44, 16, SVQ_BE_FAULT_ADDRESS },                /* gref above 32 bits */
        { SVQ_GRANT_ADDR_FLAG | 0xffffffffULL << 12 | 4095, 2, SVQ_BE_FAULT_ADDRESS }, /* runs past the last gref */
        { SVQ_GRANT_ADDR_FLAG | SVQ_WINDOW_ADDR_FLAG | 999ULL << 12, 4097, SVQ_BE_FAULT_WINDOW }, /* into the window */
        { SVQ_GRANT_ADDR_FLAG | SVQ_WINDOW_ADDR_FLAG | 1099ULL << 12 | 4095, 2, SVQ_BE_FAULT_WINDOW }, /* out of it */
        { SVQ_GRANT_ADDR_FLAG | SVQ_WINDOW_ADDR_FLAG | 990ULL << 12, 200 * 4096,
          SVQ_BE_FAULT_WINDOW }, /* all over it */
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fresh(0);
        desc[0] = (struct vring_desc){ .addr = cases[i].addr, .len = cases[i].len };
        require_fault(cases[i].fault);
    }
    fresh(0);
    desc[0] = part(0xffffffff, 4095, 1, 0, 0);
    REQUIRE_EQUAL(walk(), 0);
}

TEST(tables, "Tables of a wrong size or place stop the ring")
{
    static const struct {
        uint32_t gref, offset, len;
        uint16_t flags;
        int fault;
    } cases[] = {
        { 7, 16, 0, 0, SVQ_BE_FAULT_INDIRECT_SIZE },
        { 7, 16, 17, 0, SVQ_BE_FAULT_INDIRECT_SIZE },
        { 7, 16, 16 * (SVQ_BE_TABLE_MAX + 1), 0, SVQ_BE_FAULT_INDIRECT_SIZE },
        { 7, 8, 16, 0, SVQ_BE_FAULT_INDIRECT_SIZE },
        { 7, 16, 16, VRING_DESC_F_NEXT, SVQ_BE_FAULT_INDIRECT_NEXT },
        { 1000, 16, 16, 0, SVQ_BE_FAULT_WINDOW },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fresh(1ULL << VIRTIO_F_INDIRECT_DESC);
        desc[0] = part(cases[i].gref, cases[i].offset, cases[i].len, VRING_DESC_F_INDIRECT | cases[i].flags, 0);
        require_fault(cases[i].fault);
    }
    fresh(0);
    desc[0] = part(7, 16, 16, VRING_DESC_F_INDIRECT, 0);
    require_fault(SVQ_BE_FAULT_INDIRECT_OFF);
}

TEST(table_contents, "Tables that nest, loop or are not granted stop the ring")
{
    for (int i = 0; i < 4; i++) {
        static const int faults[] = { SVQ_BE_FAULT_INDIRECT_NESTED, SVQ_BE_FAULT_NEXT_RANGE, SVQ_BE_FAULT_LOOP,
                                      SVQ_BE_FAULT_INDIRECT_MAP };
        fresh(1ULL << VIRTIO_F_INDIRECT_DESC);
        desc[0] = part(7, 16, 32, VRING_DESC_F_INDIRECT, 0);
        table[0] = part(9, 0, 1, VRING_DESC_F_NEXT, 1);
        table[1] = part(9, 0, 1, i == 0 ? VRING_DESC_F_INDIRECT : VRING_DESC_F_NEXT, i == 1 ? 2 : 1);
        reader_answer = i == 3 ? -EACCES : 0;
        require_fault(faults[i]);
    }
    fresh(1ULL << VIRTIO_F_INDIRECT_DESC);
    desc[0] = part(7, 16, 32, VRING_DESC_F_INDIRECT, 0);
    reader_answer = -EAGAIN;
    REQUIRE_EQUAL(walk(), -EAGAIN);
    REQUIRE_EQUAL(ring.fault, 0);
}

TEST(random_rings, "Whatever a ring holds, the walk ends, and parts marked as the window's lie in it")
{
    uint32_t accepted = 0;
    srandom(1);
    for (int round = 0; round < 200000; round++) {
        fresh(1ULL << VIRTIO_F_INDIRECT_DESC);
        for (int i = 0; i < SIZE; i++)
            desc[i] = part((uint32_t)random() % 1200, (uint32_t)random() % 4096, (uint32_t)random() % 9000,
                           (uint16_t)(random() % 8), (uint16_t)(random() % (SIZE + 1)));
        for (int i = 0; i < SIZE; i++)
            table[i] = part((uint32_t)random() % 1200, (uint32_t)random() % 4096, (uint32_t)random() % 9000,
                            (uint16_t)(random() % 4), (uint16_t)(random() % (SIZE + 1)));
        if (random() % 2)
            desc[random() % SIZE] = part(7, 16, 16 * SIZE, VRING_DESC_F_INDIRECT, 0);
        for (int i = 0; i < SIZE; i++) {
            if (desc[i].flags & VRING_DESC_F_INDIRECT) /* the reader knows one table */
                desc[i] = part(7, 16, 16 * SIZE, desc[i].flags, desc[i].next);
        }
        if (walk()) {
            REQUIRE(ring.fault != 0);
            continue;
        }
        accepted++;
        REQUIRE(chain.readable <= chain.count && chain.count <= 2 * SIZE);
        for (uint32_t i = 0; i < chain.count; i++) {
            const struct svq_be_seg *seg = &chain.segs[i];
            bool first = seg->gref - 1000 < 100, last = seg->gref + svq_be_seg_pages(seg) - 1 - 1000 < 100;
            REQUIRE(!seg->in_window || (first && last));
            REQUIRE_EQUAL(seg->writable, i >= chain.readable);
        }
    }
    REQUIRE(accepted > 1000);
}

SVQ_TEST_MAIN()
