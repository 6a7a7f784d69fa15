/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver's ring on plain memory, against a device that follows the specification and one that lies. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "barrier.h"
#include "device_peer.h"
#include "drv_ring.h"
#include "svq_test.h"

enum {
    SIZE = 16,
    MEMORY_BYTES = 64 * 1024,
    AVAIL_AT = 4096,
    USED_AT = 8192,
    TABLES_AT = 16384,
    BASE_GPA = 0x100000,
};

struct bench {
    uint8_t *memory;
    struct svq_drv_ring ring;
    struct device_peer peer;
};

static void *flat(void *opaque, uint64_t gpa, uint64_t len)
{
    uint8_t *memory = opaque;
    if (gpa < BASE_GPA || gpa - BASE_GPA > MEMORY_BYTES || len > MEMORY_BYTES - (gpa - BASE_GPA))
        return NULL;
    return memory + (gpa - BASE_GPA);
}

static void open_bench(struct bench *b, bool event_idx)
{
    memset(b, 0, sizeof *b);
    b->memory = aligned_alloc(4096, MEMORY_BYTES);
    REQUIRE(b->memory);
    memset(b->memory, 0xee, MEMORY_BYTES);
    b->ring.desc = (void *)b->memory;
    b->ring.avail = (void *)(b->memory + AVAIL_AT);
    b->ring.used = (void *)(b->memory + USED_AT);
    REQUIRE(svq_drv_ring_alloc(&b->ring, SIZE) == 0);
    svq_drv_ring_reset(&b->ring, SIZE, event_idx);
    b->peer = (struct device_peer){ .va = flat,
                                    .opaque = b->memory,
                                    .desc = BASE_GPA,
                                    .avail = BASE_GPA + AVAIL_AT,
                                    .used = BASE_GPA + USED_AT,
                                    .size = SIZE,
                                    .event_idx = event_idx,
                                    .indirect = true };
}

static void close_bench(struct bench *b)
{
    CHECK_EQUAL(b->peer.violations, 0);
    if (b->peer.violation)
        printf("# %s\n", b->peer.violation);
    svq_drv_ring_free(&b->ring);
    free(b->memory);
}

/* A chain of `out` readable segments of 10 bytes and `in` writable ones of 20; returns the head, or why not. */
static int add(struct bench *b, uint32_t out, uint32_t in, const struct svq_drv_table *table)
{
    struct svq_drv_sg sg[SIZE + 4];
    for (uint32_t k = 0; k < out + in; k++)
        sg[k] = (struct svq_drv_sg){ .addr = BASE_GPA + 32768 + 64 * k, .len = k < out ? 10 : 20 };
    return svq_drv_ring_add(&b->ring, sg, out, in, table);
}

static int get(struct bench *b, uint16_t *head, uint32_t *len)
{
    *head = 0xffff;
    *len = 0;
    return svq_drv_ring_get(&b->ring, head, len);
}

TEST(direct_chain, "A direct chain reaches the device segment by segment, and comes back with its length")
{
    struct bench b;
    open_bench(&b, false);
    int added = add(&b, 2, 3, NULL);
    CHECK(added >= 0);
    struct peer_chain chain;
    CHECK(!peer_pop(&b.peer, &chain));
    CHECK(svq_drv_ring_publish(&b.ring));
    CHECK(!svq_drv_ring_publish(&b.ring));
    REQUIRE(peer_pop(&b.peer, &chain));
    CHECK_EQUAL(chain.head, added);
    CHECK_EQUAL(chain.n, 5);
    CHECK_EQUAL(chain.seg[1].len, 10);
    CHECK(!chain.seg[1].writable && chain.seg[2].writable);
    CHECK_EQUAL(chain.seg[4].gpa, BASE_GPA + 32768 + 256);
    uint16_t head;
    uint32_t len;
    CHECK_EQUAL(get(&b, &head, &len), 0);
    peer_push(&b.peer, chain.head, 60);
    CHECK_EQUAL(get(&b, &head, &len), 1);
    CHECK_EQUAL(head, added);
    CHECK_EQUAL(len, 60);
    CHECK_EQUAL(b.ring.free_count, SIZE);
    CHECK_EQUAL(get(&b, &head, &len), 0);
    close_bench(&b);
}

TEST(indirect_chain, "An indirect chain takes one descriptor, and the device finds all segments in its table")
{
    struct bench b;
    open_bench(&b, false);
    struct svq_drv_table table = { (void *)(b.memory + TABLES_AT), BASE_GPA + TABLES_AT, 8 };
    CHECK(add(&b, 3, 5, &table) >= 0);
    CHECK_EQUAL(b.ring.free_count, SIZE - 1);
    svq_drv_ring_publish(&b.ring);
    struct peer_chain chain;
    REQUIRE(peer_pop(&b.peer, &chain));
    CHECK(chain.indirect);
    CHECK_EQUAL(chain.n, 8);
    close_bench(&b);
}

TEST(limits, "A chain that is too long is refused for good; while the ring is full, any chain is refused for now")
{
    struct bench b;
    open_bench(&b, false);
    struct svq_drv_table table = { (void *)(b.memory + TABLES_AT), BASE_GPA + TABLES_AT, 4 };
    CHECK_EQUAL(add(&b, 0, 0, NULL), -EINVAL);
    CHECK_EQUAL(add(&b, 10, 7, NULL), -E2BIG);
    CHECK_EQUAL(add(&b, 4, 1, &table), -E2BIG);
    CHECK(add(&b, 10, 5, NULL) >= 0);
    CHECK_EQUAL(add(&b, 1, 1, NULL), -ENOSPC);
    CHECK(add(&b, 2, 2, &table) >= 0);
    CHECK_EQUAL(b.ring.free_count, 0);
    CHECK_EQUAL(add(&b, 2, 2, &table), -ENOSPC);
    close_bench(&b);
}

TEST(any_order, "Random chains completed in random order over 70000 turns neither leak nor mix descriptors")
{
    struct bench b;
    unsigned n_held = 0;
    uint32_t seed = 12345;
    uint64_t completed = 0;
    open_bench(&b, true);
    uint16_t held[SIZE];
    struct peer_chain chain;
    uint16_t head;
    uint32_t len;
    for (int turn = 0; turn < 70000; turn++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t out = 1 + (seed >> 8) % 3;
        uint32_t in = (seed >> 12) % 3;
        struct svq_drv_table table = { (void *)(b.memory + TABLES_AT + 256 * b.ring.free_head),
                                       BASE_GPA + TABLES_AT + 256u * b.ring.free_head, SIZE };
        bool indirect = b.ring.free_count && seed >> 16 & 1;
        if (add(&b, out, in, indirect ? &table : NULL) >= 0) {
            svq_drv_ring_publish(&b.ring);
            REQUIRE(peer_pop(&b.peer, &chain));
            CHECK_EQUAL(chain.n, out + in);
            held[n_held++] = chain.head;
            continue;
        }
        unsigned pick = (seed >> 20) % n_held;
        uint16_t expected = held[pick];
        held[pick] = held[--n_held];
        peer_push(&b.peer, expected, 0);
        REQUIRE(get(&b, &head, &len) == 1);
        CHECK_EQUAL(head, expected);
        completed++;
    }
    CHECK(completed > 30000);
    while (n_held) {
        peer_push(&b.peer, held[--n_held], 0);
        CHECK_EQUAL(get(&b, &head, &len), 1);
    }
    CHECK_EQUAL(b.ring.free_count, SIZE);
    CHECK_EQUAL(b.ring.live, 0);
    close_bench(&b);
}

static void suppression(bool event_idx)
{
    struct bench b;
    open_bench(&b, event_idx);
    CHECK(!peer_arm(&b.peer));
    add(&b, 1, 1, NULL);
    CHECK(svq_drv_ring_publish(&b.ring)); /* asked for */
    struct peer_chain chain;
    CHECK(peer_pop(&b.peer, &chain));
    peer_disarm(&b.peer);
    add(&b, 1, 1, NULL);
    CHECK(!svq_drv_ring_publish(&b.ring)); /* asked not to */
    CHECK(peer_arm(&b.peer) || peer_pop(&b.peer, &chain));

    CHECK(!svq_drv_ring_arm(&b.ring));
    peer_push(&b.peer, chain.head, 0);
    CHECK(peer_wants_interrupt(&b.peer));
    svq_drv_ring_disarm(&b.ring);
    uint16_t head;
    uint32_t len;
    CHECK_EQUAL(get(&b, &head, &len), 1);
    CHECK(peer_pop(&b.peer, &chain));
    peer_push(&b.peer, chain.head, 0);
    CHECK(!peer_wants_interrupt(&b.peer));
    CHECK(svq_drv_ring_arm(&b.ring)); /* it arrived before we asked */
    CHECK_EQUAL(get(&b, &head, &len), 1);
    add(&b, 1, 1, NULL);
    svq_drv_ring_publish(&b.ring);
    CHECK(!svq_drv_ring_arm(&b.ring));
    CHECK(peer_pop(&b.peer, &chain));
    peer_push(&b.peer, chain.head, 0);
    CHECK(peer_wants_interrupt(&b.peer));
    CHECK_EQUAL(svq_load_u16(&b.ring.avail->flags), 0);
    close_bench(&b);
}

TEST(suppression_by_event_idx,
     "With EVENT_IDX both sides are notified exactly when they asked for it, and flags stay 0")
{
    suppression(true);
}

TEST(suppression_by_flags, "Without EVENT_IDX the flags words suppress notifications both ways") { suppression(false); }

TEST(event_idx_batches, "With EVENT_IDX a batch that steps over the device's event index is announced")
{
    struct bench b;
    open_bench(&b, true);
    svq_store_u16(vring_avail_event(b.ring.used, SIZE), 3);
    add(&b, 1, 0, NULL);
    add(&b, 1, 0, NULL);
    CHECK(!svq_drv_ring_publish(&b.ring)); /* 0 -> 2 does not reach past 3 */
    add(&b, 1, 0, NULL);
    add(&b, 1, 0, NULL);
    add(&b, 1, 0, NULL);
    CHECK(svq_drv_ring_publish(&b.ring)); /* 2 -> 5 does */
    close_bench(&b);
}

/* The ring's error for one lie after one honest completion; and that the error stays until a reset. */
static void lie(int expected, void (*tell)(struct bench *b, uint16_t live, uint16_t done))
{
    struct bench b;
    open_bench(&b, false);
    add(&b, 1, 2, NULL);
    add(&b, 1, 2, NULL);
    svq_drv_ring_publish(&b.ring);
    struct peer_chain first;
    struct peer_chain second;
    REQUIRE(peer_pop(&b.peer, &first) && peer_pop(&b.peer, &second));
    peer_push(&b.peer, first.head, 40);
    uint16_t head;
    uint32_t len;
    CHECK_EQUAL(get(&b, &head, &len), 1);
    tell(&b, second.head, first.head);
    CHECK(svq_drv_ring_pending(&b.ring));
    CHECK_EQUAL(get(&b, &head, &len), expected);
    CHECK_EQUAL(head, 0xffff);
    svq_store_u16(&b.ring.used->idx, 1);
    CHECK_EQUAL(get(&b, &head, &len), expected);
    CHECK(svq_drv_ring_pending(&b.ring));
    svq_drv_ring_reset(&b.ring, SIZE / 2, false);
    CHECK_EQUAL(get(&b, &head, &len), 0);
    CHECK_EQUAL(b.ring.free_count, SIZE / 2);
    CHECK(add(&b, 4, 4, NULL) >= 0);
    close_bench(&b);
}

static void tell_id_at_size(struct bench *b, uint16_t live, uint16_t done)
{
    (void)live, (void)done;
    peer_push(&b->peer, SIZE, 0);
}
static void tell_id_in_high_bits(struct bench *b, uint16_t live, uint16_t done)
{
    (void)done;
    peer_push(&b->peer, 0x10000u | live, 0);
}
static void tell_done(struct bench *b, uint16_t live, uint16_t done)
{
    (void)live;
    peer_push(&b->peer, done, 0);
}
static void tell_middle(struct bench *b, uint16_t live, uint16_t done)
{
    (void)done;
    peer_push(&b->peer, b->ring.next[live], 0);
}
static void tell_too_long(struct bench *b, uint16_t live, uint16_t done)
{
    (void)done;
    peer_push(&b->peer, live, 41);
}
static void tell_huge(struct bench *b, uint16_t live, uint16_t done)
{
    (void)done;
    peer_push(&b->peer, live, UINT32_MAX);
}
static void tell_jump(struct bench *b, uint16_t live, uint16_t done)
{
    (void)done;
    peer_push(&b->peer, live, 0);
    svq_store_u16(&b->ring.used->idx, 3);
}
static void tell_backwards(struct bench *b, uint16_t live, uint16_t done)
{
    (void)live, (void)done;
    svq_store_u16(&b->ring.used->idx, 0);
}

TEST(bad_id, "A used id beyond the ring is refused, even if its low 16 bits are in range")
{
    lie(-ERANGE, tell_id_at_size);
    lie(-ERANGE, tell_id_in_high_bits);
}

TEST(dead_id, "A second completion, and one of a descriptor inside a chain, are refused")
{
    lie(-EALREADY, tell_done);
    lie(-EALREADY, tell_middle);
}

TEST(long_len, "A used length beyond the writable bytes is refused")
{
    lie(-EMSGSIZE, tell_too_long);
    lie(-EMSGSIZE, tell_huge);
}

TEST(index_jump, "A used index beyond what is in flight, or behind what we have seen, is refused")
{
    lie(-EPROTO, tell_jump);
    lie(-EPROTO, tell_backwards);
}

SVQ_TEST_MAIN()
