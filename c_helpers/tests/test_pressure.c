/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Back-pressure: a queue waits for what it lacks; nothing is lost, nothing overtakes, nothing leaks. */
#include "barrier.h"
#include "rig_trip.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE };

/* --- the backend does something while the mediator maps a chunk of the guest: between two segments of a chain ---- */
static void (*on_map_foreign)(void);

int __real_svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                              int *errs, void **va);
int __wrap_svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                              int *errs, void **va);
int __wrap_svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                              int *errs, void **va)
{
    if (on_map_foreign)
        on_map_foreign();
    return __real_svq_hv_map_foreign(hv, domid, gfns, count, writable, errs, va);
}

/* Chain `n` of a test, `pages` pages read by the device, each filled with the chain's number. */
static void offer(struct rig *rig, uint16_t n, unsigned pages, unsigned per_segment, uint32_t shift)
{
    struct rig_seg segs[64];
    unsigned count = pages / per_segment;
    for (unsigned i = 0; i < count; i++) {
        segs[i] = (struct rig_seg){ rig_gpa(RIG_DATA_GFN + n * (pages + 1) + i * per_segment) + shift,
                                    per_segment * PAGE, SEG_READ };
        rig_fill(rig, segs[i].gpa, (uint8_t)(n + 1), segs[i].len);
    }
    if (count == 1)
        rig_chain(rig, n, segs, 1);
    else
        rig_indirect(rig, n, rig_gpa(RIG_TABLE_GFN) + n * 1024u, segs, count);
    rig_offer(rig, n);
}

/* Takes the next chain and checks that it is `n`, with its bytes. */
static void take(struct rig *rig, uint16_t n)
{
    static uint8_t bytes[64 * PAGE];
    CHECK_EQUAL(rig_take(rig), n);
    struct rig_shadow shadow;
    CHECK(rig_shadow_chain(rig, n, &shadow));
    for (unsigned i = 0; i < shadow.count; i++) {
        CHECK_EQUAL(rig_part_read(rig, &shadow.part[i], bytes), 0);
        CHECK(bytes[0] == n + 1 && memcmp(bytes, bytes + 1, shadow.part[i].len - 1) == 0);
    }
}

/* 12 chains, of which `at_once` fit; each completion lets the next one through. Three times. */
static void press(const struct rig_config *config, unsigned pages, unsigned per_segment, uint32_t shift, int at_once)
{
    static struct rig rig;
    rig_open(&rig, config);
    for (int round = 0; round < 3; round++) {
        uint64_t parked = rig_stats(&rig, 0).parked;
        for (uint16_t n = 0; n < 12; n++)
            offer(&rig, n, pages, per_segment, shift);
        CHECK_EQUAL(rig_forward(&rig), at_once);
        CHECK_EQUAL(rig_stats(&rig, 0).parked, parked + 1);
        CHECK_EQUAL(rig_forward(&rig), 0); /* it does not even try before something has come back */
        CHECK_EQUAL(rig_stats(&rig, 0).parked, parked + 1);
        for (uint16_t n = 0; n < 12; n++) {
            take(&rig, n);
            rig_give(&rig, n, 0);
            CHECK_EQUAL(rig_complete(&rig), 1);
            CHECK_EQUAL(rig_reap(&rig, NULL), n);
            CHECK_EQUAL(rig_forward(&rig), n + at_once < 12 ? 1 : 0);
        }
        CHECK_EQUAL(rig_window_in_use(&rig), 0);
        CHECK_EQUAL(svq_queue_in_flight(rig.dev, 0), 0);
    }
    struct svq_queue_stats stats = rig_stats(&rig, 0);
    CHECK_EQUAL(stats.chains, 36);
    CHECK_EQUAL(stats.completions, 36);
    CHECK_EQUAL(stats.grants, stats.grants_ended);
    CHECK_EQUAL(stats.bytes_bounced + stats.bytes_zero_copy, 36ull * pages * PAGE);
    CHECK_EQUAL(rig_fault(&rig), 0);
    rig_close(&rig);
}

TEST(bounce_pool, "Without a free bounce slot the queue waits for completions, and then goes on where it stopped")
{
    press(&(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_COPY, .bounce_pages = 8 }, 1, 1, 0, 4);
    press(&(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_COPY, .bounce_pages = 10 }, 3, 3, 0, 1);
}

TEST(halfway, "A chain with room only for its granted pages gives them back until all of it can go")
{
    /* shifted by half a page: head and tail need a slot each */
    press(&(struct rig_config){ .ram_pages = RAM, .bounce_pages = 10 }, 3, 3, PAGE / 2, 2);
}

TEST(block_pool, "Without a free block for its parts a long chain waits, as it does for slots")
{
    press(&(struct rig_config){ .ram_pages = RAM, .large_chains = 2 }, 33, 1, 0, 2);
}

TEST(window_range,
     "A page without a free entry in a dynamic window is copied; it waits only for slots, and nothing breaks")
{
    static struct rig rig;
    const struct rig_config few = { .ram_pages = RAM, .dynamic_window = 1, .window_grefs = 64, .bounce_pages = 80 };
    rig_open(&rig, &few);
    for (unsigned per_segment = 2; per_segment <= 20; per_segment *= 10) {
        for (uint16_t n = 0; n < 12; n++)
            offer(&rig, n, 20, per_segment, 0);
        CHECK_EQUAL(rig_forward(&rig), 5); /* 64 pages granted, 36 of 40 slots taken */
        for (uint16_t n = 0; n < 12; n++) {
            take(&rig, n);
            rig_give(&rig, n, 0);
            CHECK_EQUAL(rig_complete(&rig), 1);
            CHECK_EQUAL(rig_reap(&rig, NULL), n);
            CHECK(rig_forward(&rig) >= 0);
        }
        CHECK_EQUAL(rig_window_in_use(&rig), 0);
    }
    struct svq_queue_stats stats = rig_stats(&rig, 0);
    CHECK(stats.completions == 24 && stats.grants == stats.grants_ended && stats.bytes_bounced && stats.parked);
    rig_close(&rig);
}

TEST(full_ring,
     "A full ring of parts on every descriptor goes through: a shadow ring never runs out before the driver's")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .queue_size = 64, .bounce_pages = 512 });
    for (uint16_t n = 0; n < 64; n++)
        offer(&rig, n, 2, 1, 0);
    CHECK_EQUAL(rig_forward(&rig), 64);
    for (uint16_t n = 0; n < 64; n++)
        take(&rig, n);
    for (uint16_t n = 64; n-- > 0;) /* any order of completion */
        rig_give(&rig, n, 0);
    CHECK_EQUAL(rig_complete(&rig), 64);
    for (uint16_t n = 64; n-- > 0;)
        CHECK_EQUAL(rig_reap(&rig, NULL), n);
    rig_close(&rig);
}

/* --- a backend that guesses a gref and maps its page while the chain is being placed ---------------------------- */
static struct rig *victim;
static uint8_t *held;
static const struct vring_desc guessed = { .len = PAGE };

static void map_first_page(void)
{
    struct vring_desc part = guessed;
    part.addr = svq_window_addr(rig_window_first() + RIG_DATA_GFN + 1, 0);
    on_map_foreign = NULL;
    REQUIRE(rig_part_map(victim, &part, 1, &held) == 0);
}

TEST(guessed_gref,
     "A page that the backend mapped before its chain was given up for now breaks the device, not the guest")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { rig_gpa(RIG_DATA_GFN + 1), PAGE, SEG_WRITE },
                                    { rig_gpa(RIG_DATA_GFN + 1024), 100, SEG_WRITE } }; /* in a chunk not mapped yet */
    struct vring_desc part = guessed;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .bounce_pages = 4, .queue_size = 16 });
    const struct rig_seg whole = { rig_gpa(RIG_DATA_GFN + 8), PAGE, SEG_WRITE };
    struct rig_trip trip;
    rig_chain(&rig, 3, &whole, 1);
    CHECK(rig_trip(&rig, 3, &whole, 1, PAGE, &trip)); /* maps the chunk of the first segment */
    const struct rig_seg slots[] = { { rig_gpa(RIG_HEADER_GFN), 100, SEG_WRITE },
                                     { rig_gpa(RIG_HEADER_GFN) + 512, 100, SEG_WRITE } };
    rig_indirect(&rig, 0, rig_gpa(RIG_TABLE_GFN), slots, 2); /* takes both page slots */
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    rig_chain(&rig, 1, segs, 2);
    rig_offer(&rig, 1);
    victim = &rig;
    on_map_foreign = map_first_page;
    CHECK_EQUAL(rig_forward(&rig), SVQ_E_GRANT_BUSY);
    REQUIRE(held != NULL);
    CHECK_EQUAL(rig_fault(&rig), SVQ_E_GRANT_BUSY);
    CHECK_EQUAL(rig_stats(&rig, 0).held, 1);
    CHECK_EQUAL(rig_window_in_use(&rig), 1);
    CHECK_EQUAL(svq_load_u16(&rig.q[0].shadow_avail->idx), 2);
    part.addr = svq_window_addr(rig_window_first() + RIG_DATA_GFN + 1, 0);
    rig_part_unmap(&rig, &part, held);
    CHECK_EQUAL(rig_close_device(&rig), 0); /* the backend lets go of it now */
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
