/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How each byte of a well-formed chain reaches the backend, and that nothing else of the guest does. */
#include "barrier.h"
#include "rig_trip.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE, CHUNK_PAGES = 512 };
#define DATA(n) rig_gpa(RIG_DATA_GFN + (n))
#define SMALL(n) (rig_gpa(RIG_HEADER_GFN) + (n))
#define TABLE(n) (rig_gpa(RIG_TABLE_GFN) + (n))
#define COUNT(array) ((unsigned)(sizeof(array) / sizeof((array)[0])))

static void trip_ok(struct rig *rig, const struct rig_seg *segs, unsigned count, uint32_t used_len, struct rig_trip *t)
{
    for (unsigned i = 0; i < count; i++)
        for (uint32_t k = 0; k < segs[i].len; k++)
            rig->ram[segs[i].gpa + k] = (uint8_t)(i * 31 + k + 5);
    rig_chain(rig, 3, segs, count);
    CHECK(rig_trip(rig, 3, segs, count, used_len, t));
}

TEST(whole_page, "One whole page is one direct shadow descriptor that grants that page, read-only or writable")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_trip t;
    for (unsigned writable = 0; writable < 2; writable++) {
        const struct rig_seg seg = { DATA(5), PAGE, writable ? SEG_WRITE : SEG_READ };
        trip_ok(&rig, &seg, 1, writable ? PAGE : 0, &t);
        CHECK(!t.indirect && t.parts == 1 && t.granted_pages == 1 && t.bounced_bytes == 0);
        CHECK_EQUAL(svq_grant_addr_gref(rig.q[0].shadow_desc[3].addr), rig_window_first() + RIG_DATA_GFN + 5);
    }
    rig_close(&rig);
}

TEST(blk_chain, "The data of a request is granted, its header and status are copied; the status comes back")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { SMALL(192), 16, SEG_READ },
                                    { DATA(0), 2 * PAGE, SEG_WRITE },
                                    { SMALL(208), 1, SEG_WRITE } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_trip t;
    trip_ok(&rig, segs, 3, 2 * PAGE + 1, &t);
    CHECK(t.indirect && t.parts == 3 && t.granted_parts == 1 && t.granted_pages == 2 && t.bounced_bytes == 17);
    rig_close(&rig);
}

struct sight {
    unsigned canaries;
    const uint8_t *wanted;
};

static void look(void *arg, uint32_t gref, const uint8_t *page)
{
    struct sight *sight = arg;
    (void)gref;
    for (unsigned i = 0; i + 8 <= PAGE; i++)
        sight->canaries += memcmp(page + i, sight->wanted, 8) == 0;
}

/* How often the backend finds the canary, and how many of the frontend's pages it can map at all. */
static unsigned canaries_seen(struct rig *rig, const uint8_t *canary, unsigned *frontend_pages)
{
    struct sight sight = { 0, canary };
    uint32_t end = rig_window_first() + rig_window(rig).count + 32 * SVQ_GRANTS_PER_FRAME;
    *frontend_pages = rig_scan_grants(rig, RIG_FRONTEND, end, 0, look, &sight);
    CHECK(rig_scan_grants(rig, RIG_MEDIATOR, 64 * SVQ_GRANTS_PER_FRAME, 0, look, &sight) > 0);
    return sight.canaries;
}

static void neighbours(int placement, unsigned *canaries, unsigned *pages)
{
    static struct rig rig;
    static const uint8_t canary[8] = "CANARY!";
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = placement });
    for (uint64_t at = 0; at < 4 * PAGE; at += 8)
        memcpy(rig.ram + SMALL(at), canary, 8);
    for (uint64_t at = 0; at < 4 * PAGE; at += 8)
        memcpy(rig.ram + DATA(0) + at, canary, 8);
    const struct rig_seg segs[] = { { SMALL(PAGE - 8), 16, SEG_READ }, /* across a page border */
                                    { DATA(1) - 100, PAGE + 200, SEG_WRITE },
                                    { SMALL(3 * PAGE), 1, SEG_WRITE } };
    memset(rig.ram + segs[0].gpa, 1, segs[0].len);
    memset(rig.ram + segs[1].gpa, 2, segs[1].len);
    rig_chain(&rig, 0, segs, 3);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    *canaries = canaries_seen(&rig, canary, pages);
    rig_close(&rig);
}

TEST(neighbours_stay_hidden,
     "No page that the backend can map shows a byte outside the described buffers, except with page placement")
{
    unsigned canaries, pages;
    neighbours(SVQ_PLACE_EXACT, &canaries, &pages);
    CHECK_EQUAL(canaries, 0);
    CHECK_EQUAL(pages, 1);
    neighbours(SVQ_PLACE_COPY, &canaries, &pages);
    CHECK_EQUAL(canaries, 0);
    CHECK_EQUAL(pages, 0);
    neighbours(SVQ_PLACE_PAGE, &canaries, &pages); /* so the search would have found them */
    CHECK(canaries > 0);
    CHECK_EQUAL(pages, 2 + 3 + 1);
}

TEST(unaligned, "A segment that starts and ends within pages is head (copied), whole pages (granted) and tail (copied)")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_trip t;
    for (unsigned writable = 0; writable < 2; writable++) {
        uint16_t flags = writable ? SEG_WRITE : SEG_READ;
        const struct rig_seg seg = { DATA(1) - 100, 100 + 3 * PAGE + 50, flags };
        trip_ok(&rig, &seg, 1, writable ? seg.len : 0, &t);
        CHECK(t.parts == 3 && t.granted_parts == 1 && t.granted_pages == 3 && t.bounced_bytes == 150);
        const struct rig_seg within = { DATA(1) + 1000, PAGE, flags }; /* two pages, none of them whole */
        trip_ok(&rig, &within, 1, writable ? PAGE : 0, &t);
        CHECK(t.granted_pages == 0 && t.bounced_bytes == PAGE);
        const struct rig_seg tail = { DATA(1), PAGE + 1, flags };
        trip_ok(&rig, &tail, 1, writable ? tail.len : 0, &t);
        CHECK(t.parts == 2 && t.granted_pages == 1 && t.bounced_bytes == 1);
    }
    rig_close(&rig);
}

TEST(policies, "Copy grants nothing, page grants every touched page, a copy threshold copies small whole pages too")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { DATA(1) - 100, 100 + 3 * PAGE + 50, SEG_READ }, { DATA(8), PAGE, SEG_WRITE } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_COPY });
    struct rig_trip t;
    trip_ok(&rig, segs, 2, PAGE, &t);
    CHECK(t.granted_pages == 0 && t.bounced_bytes == 150 + 4 * PAGE);
    rig_close(&rig);
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_PAGE });
    trip_ok(&rig, segs, 2, PAGE, &t);
    CHECK(t.parts == 2 && t.granted_pages == 6 && t.bounced_bytes == 0);
    rig_close(&rig);
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .copy_threshold = 2 * PAGE });
    trip_ok(&rig, segs, 2, PAGE, &t);
    CHECK(t.granted_pages == 3 && t.bounced_bytes == 150 + PAGE);
    rig_close(&rig);
}

TEST(page_shared_both_ways,
     "A page that one chain reads and writes is never granted by page placement: the backend could write it")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { SMALL(0), 16, SEG_READ },
                                    { SMALL(16), 1, SEG_WRITE },
                                    { DATA(0), 64, SEG_WRITE } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_PAGE });
    struct rig_trip t;
    trip_ok(&rig, segs, 3, 65, &t);
    CHECK(t.granted_pages == 1 && t.bounced_bytes == 17);
    rig_close(&rig);
}

TEST(dynamic_window, "In a dynamic window a run of pages gets a run of grefs, the same page a second gref")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { DATA(0), 7 * PAGE, SEG_READ }, { DATA(3), PAGE, SEG_READ } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = 1, .window_grefs = 64 });
    struct rig_trip t;
    for (int i = 0; i < 40; i++) /* again and again around the range */
        trip_ok(&rig, segs, 2, 0, &t);
    CHECK(t.granted_parts >= 2 && t.granted_pages == 8 && t.bounced_bytes == 0);
    rig_close(&rig);
}

TEST(indirect_tables, "Indirect tables are read wherever they lie: unaligned, across page and chunk borders")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    const uint64_t tables[] = { TABLE(0),
                                TABLE(8),
                                TABLE(1),
                                TABLE(PAGE - 24),
                                TABLE(3 * PAGE - 16),
                                rig_gpa(CHUNK_PAGES) - 40,
                                rig_gpa(CHUNK_PAGES) - 16 };
    struct rig_seg segs[40];
    for (unsigned i = 0; i < COUNT(segs); i++)
        segs[i] = (struct rig_seg){ i % 2 ? DATA(i) : SMALL(i * 100), i % 2 ? PAGE : 100,
                                    i < 20 ? SEG_READ : SEG_WRITE };
    struct rig_trip t;
    for (unsigned i = 0; i < COUNT(tables); i++) {
        rig_indirect(&rig, 9, tables[i], segs, COUNT(segs));
        CHECK(rig_trip(&rig, 9, segs, COUNT(segs), 10 * PAGE + 1000, &t));
        CHECK(t.parts == COUNT(segs) && t.granted_pages == 20);
    }
    rig_close(&rig);
}

TEST(table_behind_descriptors, "Descriptors of the ring followed by an indirect one are one chain (virtio 2.7.5.3.1)")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { SMALL(0), 16, SEG_READ },
                                    { DATA(0), PAGE, SEG_WRITE },
                                    { SMALL(20), 1, SEG_WRITE } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_indirect(&rig, 7, TABLE(0), segs + 1, 2);
    rig_desc(&rig, 2, segs[0].gpa, segs[0].len, VRING_DESC_F_NEXT, 7);
    struct rig_trip t;
    CHECK(rig_trip(&rig, 2, segs, 3, PAGE + 1, &t));
    rig_close(&rig);
}

TEST(ring_pages, "A page that holds a ring is copied, never granted, in any placement, alone or among others")
{
    static struct rig rig;
    struct rig_trip t;
    for (int placement = SVQ_PLACE_EXACT; placement <= SVQ_PLACE_PAGE; placement++) {
        const struct rig_seg alone = { rig_gpa(RIG_RING_GFN), PAGE, SEG_READ };
        const struct rig_seg amid = { rig_gpa(RIG_RING_GFN - 2), 4 * PAGE, SEG_READ };
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = placement });
        rig_chain(&rig, 3, &alone, 1);
        CHECK(rig_trip(&rig, 3, &alone, 1, 0, &t));
        CHECK(t.granted_pages == 0 && t.bounced_bytes == PAGE);
        rig_chain(&rig, 3, &amid, 1);
        CHECK(rig_trip(&rig, 3, &amid, 1, 0, &t));
        CHECK(t.granted_pages == 3 && t.bounced_bytes == PAGE); /* the table of 256 fills one page */
        rig_close(&rig);
    }
}

TEST(foreign_entry, "A window entry that is not free is left as it is, and its page is copied")
{
    static struct rig rig;
    const struct rig_seg seg = { DATA(0), 3 * PAGE, SEG_READ };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    uint64_t *entry = &rig_window_entries(&rig)[RIG_DATA_GFN + 1];
    svq_store_u64(entry, 0x1234);
    rig_chain(&rig, 0, &seg, 1);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    struct rig_shadow shadow;
    struct rig_trip t;
    CHECK(rig_shadow_chain(&rig, 0, &shadow) && rig_trip_sum(&shadow, &t));
    CHECK(t.parts == 3 && t.granted_pages == 2 && t.bounced_bytes == PAGE);
    CHECK(rig_trip_matches(&rig, &shadow, &seg, 1));
    rig_give(&rig, 0, 0);
    CHECK_EQUAL(rig_complete(&rig), 1);
    CHECK_EQUAL(svq_load_u64(entry), 0x1234);
    CHECK_EQUAL(rig_stats(&rig, 0).window_taken, 1);
    svq_store_u64(entry, 0);
    rig_close(&rig);
}

TEST(same_page_twice, "In a direct window, a page that is already in flight is copied for the second chain")
{
    static struct rig rig;
    const struct rig_seg seg = { DATA(0), PAGE, SEG_READ };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_page(&rig, 0, 0, SEG_WRITE);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    rig_chain(&rig, 1, &seg, 1);
    rig_offer(&rig, 1);
    CHECK_EQUAL(rig_forward(&rig), 1);
    struct rig_shadow shadow;
    struct rig_trip t;
    CHECK(rig_shadow_chain(&rig, 1, &shadow) && rig_trip_sum(&shadow, &t));
    CHECK(t.granted_pages == 0 && t.bounced_bytes == PAGE);
    CHECK(rig_trip_matches(&rig, &shadow, &seg, 1));
    rig_give(&rig, 0, PAGE);
    rig_give(&rig, 1, 0);
    CHECK_EQUAL(rig_complete(&rig), 2);
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
