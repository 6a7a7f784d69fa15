/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The way back: what the driver gets, when the backend's access ends, and what is left where it could not be ended. */
#include "barrier.h"
#include "rig_trip.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE };
#define DATA(n) rig_gpa(RIG_DATA_GFN + (n))
#define SMALL(n) (rig_gpa(RIG_HEADER_GFN) + (n))

static void forward(struct rig *rig, uint16_t head, const struct rig_seg *segs, unsigned count, struct rig_shadow *out)
{
    rig_chain(rig, head, segs, count);
    rig_offer(rig, head);
    CHECK_EQUAL(rig_forward(rig), 1);
    CHECK_EQUAL(rig_take(rig), head);
    CHECK(rig_shadow_chain(rig, head, out));
}

/* One page of a part. */
static struct vring_desc page_of(const struct vring_desc *part, uint32_t n)
{
    return (struct vring_desc){ .addr = part->addr + (uint64_t)n * PAGE, .len = PAGE };
}

static uint64_t entry_of(struct rig *rig, uint64_t gfn) { return svq_load_u64(&rig_window_entries(rig)[gfn]); }

TEST(used_length, "Exactly the copied bytes below used.len come back, wherever it ends")
{
    static struct rig rig;
    struct rig_trip trip;
    const struct rig_seg segs[] = { { SMALL(0), 16, SEG_READ },
                                    { DATA(1) - 70, 70 + PAGE + 300, SEG_WRITE },
                                    { SMALL(20), 3, SEG_WRITE } };
    static const uint32_t lengths[] = {
        0, 1, 69, 70, 71, 70 + PAGE, 70 + PAGE + 1, 70 + PAGE + 300, 71 + PAGE + 300, 73 + PAGE + 300
    };
    for (int placement = SVQ_PLACE_EXACT; placement <= SVQ_PLACE_COPY; placement++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = placement });
        for (unsigned i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            rig_fill(&rig, DATA(0), 0xee, 4 * PAGE);
            rig_chain(&rig, 0, segs, 3);
            CHECK(rig_trip(&rig, 0, segs, 3, lengths[i], &trip));
        }
        rig_close(&rig);
    }
}

TEST(scrubbed_slots, "After the completion the backend finds zeros where the driver's copied bytes were")
{
    static struct rig rig;
    static uint8_t bytes[PAGE];
    const struct rig_seg segs[] = { { SMALL(0), 16, SEG_READ }, { SMALL(PAGE), 3000, SEG_READ } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_fill(&rig, SMALL(0), 0x5a, 2 * PAGE);
    struct rig_shadow shadow;
    forward(&rig, 0, segs, 2, &shadow);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQUAL(rig_part_read(&rig, &shadow.part[i], bytes), 0);
        CHECK_EQUAL(bytes[0], 0x5a);
    }
    rig_give(&rig, 0, 0);
    CHECK_EQUAL(rig_complete(&rig), 1);
    for (unsigned i = 0; i < 2; i++) {
        memset(bytes, 1, sizeof bytes);
        CHECK_EQUAL(rig_part_read(&rig, &shadow.part[i], bytes), 0); /* the pool stays shared */
        CHECK(bytes[0] == 0 && memcmp(bytes, bytes + 1, shadow.part[i].len - 1) == 0);
    }
    rig_close(&rig);
}

TEST(nothing_after_completion, "After the completion no page of the guest can be mapped any more")
{
    static struct rig rig;
    struct rig_shadow shadow;
    const struct rig_seg seg = { DATA(0), 3 * PAGE, SEG_WRITE };
    uint8_t *va;
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = dynamic });
        forward(&rig, 0, &seg, 1, &shadow);
        rig_give(&rig, 0, 0);
        CHECK_EQUAL(rig_complete(&rig), 1);
        CHECK(rig_part_map(&rig, &shadow.part[0], 0, &va) < 0);
        CHECK_EQUAL(rig_scan_grants(&rig, RIG_FRONTEND, 64 * SVQ_GRANTS_PER_FRAME, 0, NULL, NULL), 0);
        rig_close(&rig);
    }
}

TEST(still_mapped, "While the backend maps one page, nothing of the request returns; the grants of all other pages end")
{
    static struct rig rig;
    struct rig_shadow shadow;
    const struct rig_seg segs[] = { { SMALL(0), 16, SEG_READ },
                                    { DATA(0), 5 * PAGE, SEG_WRITE },
                                    { SMALL(32), 1, SEG_WRITE },
                                    { DATA(9), PAGE, SEG_WRITE } };
    uint8_t *va;
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = dynamic });
        rig_fill(&rig, SMALL(32), 0x77, 1);
        forward(&rig, 0, segs, 4, &shadow);
        struct vring_desc kept = page_of(&shadow.part[1], 2);
        REQUIRE(rig_part_map(&rig, &kept, 1, &va) == 0);
        rig_give(&rig, 0, 5 * PAGE + 1);
        CHECK_EQUAL(rig_complete(&rig), SVQ_E_GRANT_BUSY);
        CHECK_EQUAL(rig_reap(&rig, NULL), -1);
        CHECK(rig_is_filled(&rig, SMALL(32), 0x77, 1));
        CHECK_EQUAL(rig_window_in_use(&rig), 1);
        struct svq_queue_stats stats = rig_stats(&rig, 0);
        CHECK(stats.held == 1 && stats.grants == 6 && stats.grants_ended == 5 && stats.completions == 0);
        CHECK_EQUAL(rig_complete(&rig), SVQ_E_GRANT_BUSY); /* latched */
        CHECK_EQUAL(rig_close_device(&rig), 1);
        CHECK_EQUAL(rig_window_in_use(&rig), 1); /* held: never granted to anybody else */
        rig_part_unmap(&rig, &kept, va);
        rig_close(&rig);
    }
}

TEST(let_go_before_close, "A page that the backend has unmapped by the time the device closes is not held")
{
    static struct rig rig;
    const struct rig_seg seg = { DATA(0), 4 * PAGE, SEG_READ };
    uint8_t *first, *last;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_shadow shadow;
    forward(&rig, 0, &seg, 1, &shadow);
    struct vring_desc a = page_of(&shadow.part[0], 0), b = page_of(&shadow.part[0], 2);
    REQUIRE(rig_part_map(&rig, &a, 0, &first) == 0 && rig_part_map(&rig, &b, 0, &last) == 0);
    rig_give(&rig, 0, 0);
    CHECK_EQUAL(rig_complete(&rig), SVQ_E_GRANT_BUSY);
    rig_part_unmap(&rig, &a, first);
    rig_part_unmap(&rig, &b, last);
    CHECK_EQUAL(rig_close_device(&rig), 0);
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    rig_close(&rig);
}

TEST(no_second_end,
     "Closing a broken device ends no grant a second time: another device may have granted that page since")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { DATA(0), PAGE, SEG_READ }, { DATA(8), PAGE, SEG_READ } };
    const uint64_t ring = 512;
    const struct svq_queue_config queue = {
        .size = 4, .desc_gpa = rig_gpa(ring), .avail_gpa = rig_gpa(ring + 1), .used_gpa = rig_gpa(ring + 2)
    };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct svq_device_config config = rig_other_device(&rig, RIG_MARK + 1);
    struct svq_device *other;
    REQUIRE(svq_device_create(rig.guest, &config, &other) == 0);
    struct svq_queue_refs refs;
    REQUIRE(svq_queue_setup(other, NULL, &queue, &refs) == 0 && svq_device_start(other) == 0);
    struct rig_shadow shadow;
    forward(&rig, 0, segs, 2, &shadow);
    uint8_t *va;
    REQUIRE(rig_part_map(&rig, &shadow.part[1], 0, &va) == 0);
    rig_give(&rig, 0, 0);
    CHECK_EQUAL(rig_complete(&rig), SVQ_E_GRANT_BUSY);
    CHECK_EQUAL(entry_of(&rig, RIG_DATA_GFN), 0);

    *(struct vring_desc *)(void *)(rig.ram + rig_gpa(ring)) = (struct vring_desc){ DATA(0), PAGE, 0, 0 };
    svq_release_u16(&((struct vring_avail *)(void *)(rig.ram + rig_gpa(ring + 1)))->idx, 1);
    CHECK_EQUAL(svq_queue_forward(other, 0, 4), 1);
    uint64_t granted = entry_of(&rig, RIG_DATA_GFN);
    CHECK(granted != 0);
    CHECK_EQUAL(rig_close_device(&rig), 1);
    CHECK_EQUAL(entry_of(&rig, RIG_DATA_GFN), granted);
    CHECK_EQUAL(svq_device_close(other), 0);
    CHECK_EQUAL(entry_of(&rig, RIG_DATA_GFN), 0);
    rig_part_unmap(&rig, &shadow.part[1], va);
    rig_close(&rig);
}

TEST(good_ones_first,
     "Chains completed before a lie belong to the driver; the lie and what follows it are not published")
{
    static struct rig rig;
    uint32_t len = 0;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    for (uint16_t i = 0; i < 4; i++) {
        rig_page(&rig, i, i, SEG_WRITE);
        rig_offer(&rig, i);
    }
    CHECK_EQUAL(rig_forward(&rig), 4);
    rig_give(&rig, 2, 7);
    rig_give(&rig, 0, 0);
    rig_give(&rig, 0, 0); /* the lie */
    rig_give(&rig, 1, 0);
    CHECK_EQUAL(rig_complete(&rig), SVQ_E_USED_ID_NOT_LIVE);
    CHECK_EQUAL(rig_reap(&rig, &len), 2);
    CHECK_EQUAL(len, 7);
    CHECK_EQUAL(rig_reap(&rig, NULL), 0);
    CHECK_EQUAL(rig_reap(&rig, NULL), -1);
    struct svq_fault fault;
    svq_device_fault(rig.dev, &fault);
    CHECK(fault.queue == 0 && fault.head == 0 && fault.desc == 0xffff && !fault.in_indirect);
    CHECK_EQUAL(svq_queue_in_flight(rig.dev, 0), 2);
    CHECK_EQUAL(rig_close_device(&rig), 0);
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    rig_close(&rig);
}

TEST(statistics, "Bytes, parts, grants and chains in the statistics add up over a mix of chains")
{
    static struct rig rig;
    struct svq_queue_stats sum = { 0 };
    unsigned seed = 1;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_trip trip;
    for (int i = 0; i < 40; i++) {
        struct rig_seg segs[3];
        for (unsigned k = 0; k < 3; k++) {
            seed = seed * 1103515245 + 12345;
            segs[k] = (struct rig_seg){ DATA(k * 32) + (seed >> 16) % 9000, 1 + (seed >> 8) % 30000,
                                        k ? SEG_WRITE : SEG_READ };
            sum.bytes_zero_copy += segs[k].len;
        }
        rig_chain(&rig, 0, segs, 3);
        CHECK(rig_trip(&rig, 0, segs, 3, segs[1].len, &trip));
        sum.parts += trip.parts;
        sum.grants += trip.granted_pages;
        sum.bytes_bounced += trip.bounced_bytes;
    }
    struct svq_queue_stats stats = rig_stats(&rig, 0);
    CHECK_EQUAL(stats.chains, 40);
    CHECK_EQUAL(stats.completions, 40);
    CHECK_EQUAL(stats.segments, 120);
    CHECK_EQUAL(stats.parts, sum.parts);
    CHECK_EQUAL(stats.grants, sum.grants);
    CHECK_EQUAL(stats.grants_ended, sum.grants);
    CHECK_EQUAL(stats.bytes_bounced, sum.bytes_bounced);
    CHECK_EQUAL(stats.bytes_zero_copy + stats.bytes_bounced, sum.bytes_zero_copy);
    CHECK(stats.parked == 0 && stats.held == 0 && stats.window_taken == 0);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
