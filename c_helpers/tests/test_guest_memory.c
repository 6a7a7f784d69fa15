/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a device may see of the guest's memory before it has written there; memory that changes; and a window that we do
 * not have to ourselves.
 */
#include <errno.h>
#include <string.h>

#include "barrier.h"
#include "grant_entry.h"
#include "rig_trip.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE };
#define DATA(n) rig_gpa(RIG_DATA_GFN + (n))
static const char secret[] = "-----BEGIN OPENSSH PRIVATE KEY-----";

/*
 * --- a guest that balloons: frames that are out, and frames that have become another page ---------------------------
 */
static uint64_t out_from, out_to;
static bool map_fails;

int __real_svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                              int *errs, void **va);
int __wrap_svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                              int *errs, void **va);
int __wrap_svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable,
                              int *errs, void **va)
{
    if (map_fails)
        return -EAGAIN;
    int rc = __real_svq_hv_map_foreign(hv, domid, gfns, count, writable, errs, va);
    for (size_t i = 0; rc == 0 && i < count; i++)
        if (gfns[i] >= out_from && gfns[i] < out_to)
            errs[i] = -EINVAL;
    return rc;
}

TEST(
    cleared,
    "A page that the backend may write is cleared before it is granted, whole or in part, in any placement and window; "
    "a page that it may only read is not; without `clear` it sees old bytes")
{
    static struct rig rig;
    struct rig_shadow shadow;
    uint8_t bytes[3 * PAGE];
    for (int variant = 0; variant < 2 * 2 * 3 * 2; variant++) {
        int clear = variant & 1, memory = variant >> 1 & 1, placement = (variant >> 2) % 3, dynamic = variant / 12;
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM,
                                             .dynamic_window = dynamic,
                                             .placement = placement,
                                             .clear = clear,
                                             .memory = memory });
        const uint32_t offset = placement == SVQ_PLACE_PAGE ? 1000 : 0, len = 3 * PAGE - 2 * offset;
        const struct rig_seg segs[] = { { DATA(8), PAGE, SEG_READ }, { DATA(0) + offset, len, SEG_WRITE } };
        rig_fill(&rig, DATA(0), 0xee, 3 * PAGE);
        strcpy((char *)rig.ram + DATA(1) + 100, secret);
        strcpy((char *)rig.ram + DATA(8) + 100, secret);
        rig_chain(&rig, 0, segs, 2);
        rig_offer(&rig, 0);
        CHECK_EQUAL(rig_forward(&rig), 1);
        REQUIRE(rig_shadow_chain(&rig, 0, &shadow));
        CHECK(rig_part_read(&rig, &shadow.part[0], bytes) == 0 && strcmp((char *)bytes + 100, secret) == 0);
        bool seen = false;
        for (unsigned i = 1; i < shadow.count; i++) {
            REQUIRE(rig_part_read(&rig, &shadow.part[i], bytes) == 0);
            for (uint32_t k = 0; k < shadow.part[i].len; k++)
                seen = seen || bytes[k];
        }
        CHECK_EQUAL(seen, !clear && placement != SVQ_PLACE_COPY);
        CHECK(rig_is_filled(&rig, DATA(0), 0xee, offset) && rig_is_filled(&rig, DATA(3) - offset, 0xee, offset));
        rig_close(&rig);
    }
}

TEST(clears_only_what_is_free,
     "A request that cannot get a page, in flight to another disk, does not clear it: it copies")
{
    static struct rig rig;
    const struct rig_seg out = { DATA(0), PAGE, SEG_READ }, in = { DATA(0), PAGE, SEG_WRITE };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .clear = 1 });
    rig_fill(&rig, DATA(0), 0x77, PAGE);
    rig_chain(&rig, 0, &out, 1);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    rig_chain(&rig, 1, &in, 1);
    rig_offer(&rig, 1);
    CHECK_EQUAL(rig_forward(&rig), 1);
    CHECK(rig_is_filled(&rig, DATA(0), 0x77, PAGE));
    struct rig_shadow shadow;
    CHECK(rig_shadow_chain(&rig, 1, &shadow) && !rig_in_window(shadow.part[0].addr));
    rig_close(&rig);
}

TEST(in_place,
     "If one chain reads and writes the same page, the backend reads it as the driver left it, though `clear` is set")
{
    static struct rig rig;
    struct rig_shadow shadow;
    uint8_t bytes[PAGE];
    for (int variant = 0; variant < 4; variant++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM,
                                             .clear = 1,
                                             .dynamic_window = variant & 1,
                                             .placement = variant & 2 ? SVQ_PLACE_PAGE : SVQ_PLACE_EXACT });
        const struct rig_seg segs[] = { { DATA(3), PAGE, SEG_READ },
                                        { DATA(0), PAGE, SEG_READ },
                                        { DATA(0), PAGE, SEG_WRITE } };
        rig_fill(&rig, DATA(0), 0x77, PAGE);
        rig_chain(&rig, 0, segs, 3);
        rig_offer(&rig, 0);
        CHECK_EQUAL(rig_forward(&rig), 1);
        REQUIRE(rig_shadow_chain(&rig, 0, &shadow) && shadow.count == 3);
        REQUIRE(rig_part_read(&rig, &shadow.part[1], bytes) == 0);
        CHECK(bytes[0] == 0x77 && memcmp(bytes, bytes + 1, PAGE - 1) == 0);
        REQUIRE(rig_part_read(&rig, &shadow.part[2], bytes) == 0);
        CHECK(bytes[0] == 0 && memcmp(bytes, bytes + 1, PAGE - 1) == 0);
        rig_close(&rig);
    }
}

TEST(remap,
     "A guest that balloons: frames that come back, and frames that have become another page, are read and written as "
     "they are now; a frame that is out breaks its own request's device with its address; nothing stays mapped between "
     "passes")
{
    static struct rig rig;
    const struct rig_seg segs[] = { { rig_gpa(RIG_HEADER_GFN), 16, SEG_READ },
                                    { DATA(256), PAGE, SEG_WRITE },
                                    { rig_gpa(RIG_HEADER_GFN + 1), 1, SEG_WRITE } };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .memory = SVQ_MEMORY_REMAP, .clear = 1 });
    out_from = RIG_DATA_GFN + 256;
    out_to = RIG_DATA_GFN + 512;
    const struct rig_seg near[] = { segs[0], { DATA(1), PAGE, SEG_WRITE }, segs[2] };
    uint64_t live = rig_counters(rig.mediator).foreign_pages_live;
    rig_chain(&rig, 0, near, 3);
    struct rig_trip trip;
    CHECK(rig_trip(&rig, 0, near, 3, PAGE + 1, &trip));
    CHECK_EQUAL(rig_counters(rig.mediator).foreign_pages_live, live);
    out_from = out_to = 0;
    rig_chain(&rig, 0, segs, 3);
    CHECK(rig_trip(&rig, 0, segs, 3, PAGE + 1, &trip));
    CHECK_EQUAL(trip.granted_pages, 1);
    CHECK_EQUAL(rig_counters(rig.mediator).foreign_pages_live, live);
    out_from = RIG_DATA_GFN + 256;
    out_to = out_from + 1;
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), SVQ_E_NOT_RAM);
    struct svq_fault fault;
    svq_device_fault(rig.dev, &fault);
    CHECK(fault.value == segs[1].gpa && fault.desc == 1);
    CHECK_EQUAL(rig_counters(rig.mediator).foreign_pages_live, live);
    out_from = out_to = 0;
    rig_close(&rig);
}

static void count_secrets(void *found, uint32_t gref, const uint8_t *page)
{
    (void)gref;
    *(unsigned *)found += memmem(page, PAGE, secret, strlen(secret)) != NULL;
}

TEST(half_copied, "A piece half on a frame that is out: nothing of its other half stays where the backend sees it")
{
    static struct rig rig;
    const struct rig_seg seg = { DATA(256) - 1000, 2000, SEG_READ };
    unsigned found = 0;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .memory = SVQ_MEMORY_REMAP });
    strcpy((char *)rig.ram + seg.gpa + 100, secret);
    out_from = RIG_DATA_GFN + 256;
    out_to = out_from + 1;
    rig_chain(&rig, 0, &seg, 1);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), SVQ_E_NOT_RAM);
    CHECK(rig_scan_grants(&rig, RIG_MEDIATOR, 4096, 0, count_secrets, &found) > 0);
    CHECK_EQUAL(found, 0);
    out_from = out_to = 0;
    rig_close(&rig);
}

TEST(transient, "The next request tries again to map a chunk or a frame that once could not be mapped")
{
    static struct rig rig;
    struct rig_trip trip;
    const struct rig_seg small = { DATA(256) + 8, 100, SEG_WRITE };
    for (int whole = 0; whole < 2; whole++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
        map_fails = whole;
        out_from = RIG_DATA_GFN + 256;
        out_to = out_from + 1;
        rig_chain(&rig, 0, &small, 1);
        rig_offer(&rig, 0);
        CHECK_EQUAL(rig_forward(&rig), SVQ_E_NOT_RAM);
        map_fails = false;
        out_from = out_to = 0;
        CHECK_EQUAL(rig_close_device(&rig), 0);
        struct svq_device_config config = rig_other_device(&rig, RIG_MARK);
        struct svq_queue_config q = rig_queue_config(&rig, 0);
        REQUIRE(svq_device_create(rig.guest, &config, &rig.dev) == 0);
        memset(rig.ram + q.avail_gpa, 0, PAGE);
        memset(rig.ram + q.used_gpa, 0, PAGE);
        REQUIRE(rig_connect(&rig, 0) == 0 && svq_device_start(rig.dev) == 0);
        CHECK(rig_trip(&rig, 0, &small, 1, 100, &trip));
        rig_close(&rig);
    }
}

TEST(guests_own_grants,
     "The guest's own entries in an unreserved window survive; from its first entry just below, nothing is granted")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = 1, .guarded_window = 1 });
    uint64_t *entries = rig_window_entries(&rig), own = svq_grant_entry(GTF_PERMIT_ACCESS, RIG_BACKEND, 3000);
    for (unsigned i = 0; i < 200; i++)
        svq_store_u64(&entries[i], own + ((uint64_t)i << 32));
    const struct rig_seg seg = { DATA(0), 4 * PAGE, SEG_WRITE };
    rig_chain(&rig, 0, &seg, 1);
    struct rig_trip trip;
    CHECK(rig_trip(&rig, 0, &seg, 1, 4 * PAGE, &trip));
    CHECK_EQUAL(trip.granted_pages, 4);
    CHECK_EQUAL(svq_device_window_lost(rig.dev), 0);

    void *va, *token;
    REQUIRE(svq_hv_map_grant_table(rig.frontend, RIG_FRONTEND, RIG_WINDOW_FRAME - 1, 1, &va, &token) == 0 ||
            svq_hv_map_grant_table(rig.mediator, RIG_FRONTEND, RIG_WINDOW_FRAME - 1, 1, &va, &token) == 0);
    svq_store_u64(va, own);
    for (unsigned i = 0; i < 16; i++) /* the engine looks at the guard only now and then */
        CHECK(rig_trip(&rig, 0, &seg, 1, 4 * PAGE, &trip));
    CHECK_EQUAL(svq_device_window_lost(rig.dev), 1);
    CHECK(rig_trip(&rig, 0, &seg, 1, 4 * PAGE, &trip));
    CHECK(trip.granted_pages == 0 && trip.bounced_bytes == 4 * PAGE);
    for (unsigned i = 0; i < 200; i++)
        CHECK_EQUAL(entries[i], own + ((uint64_t)i << 32));
    rig_close(&rig);
}

TEST(
    overwritten,
    "What the guest's kernel overwrites in flight counts as ended in a window that it reserved: a lie to its own harm. "
    "In one that it did not reserve it may be innocent: the page counts as held, and its request stays in flight, "
    "until "
    "the backend's domain has ended")
{
    static struct rig rig;
    uint8_t bits[32];
    for (int variant = 0; variant < 4; variant++) {
        int guarded = variant & 1, mapped = variant & 2;
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .guarded_window = guarded });
        uint64_t *entry = &rig_window_entries(&rig)[RIG_DATA_GFN + 1];
        const struct rig_seg seg = { DATA(0), 3 * PAGE, SEG_WRITE };
        struct rig_shadow shadow;
        uint8_t *va = NULL;
        rig_chain(&rig, 2, &seg, 1);
        rig_offer(&rig, 2);
        CHECK_EQUAL(rig_forward(&rig), 1);
        REQUIRE(rig_shadow_chain(&rig, 2, &shadow));
        struct vring_desc page = { .addr = shadow.part[0].addr, .len = PAGE };
        if (mapped)
            REQUIRE(rig_part_map(&rig, &page, 1, &va) == 0);
        svq_store_u64(entry, svq_grant_entry(GTF_PERMIT_ACCESS, 11, 3000));
        CHECK_EQUAL(svq_device_stop(rig.dev), guarded + !!mapped);
        CHECK_EQUAL(svq_device_stop(rig.dev), guarded + !!mapped); /* no second count */
        if (mapped)
            rig_part_unmap(&rig, &page, va);
        CHECK_EQUAL(svq_device_stop(rig.dev), guarded);
        svq_store_u64(entry, 0); /* proves nothing */
        CHECK_EQUAL(svq_device_stop(rig.dev), guarded);
        CHECK_EQUAL(svq_queue_held(rig.dev, 0, bits, sizeof bits), 32);
        CHECK_EQUAL(bits[0], guarded ? 4 : 0);
        svq_device_grantee_gone(rig.dev);
        CHECK_EQUAL(svq_device_stop(rig.dev), 0);
        CHECK(svq_queue_held(rig.dev, 0, bits, sizeof bits) == 32 && bits[0] == 0);
        rig_close(&rig);
    }
}

TEST(no_window, "Without any window everything is copied")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    CHECK_EQUAL(rig_close_device(&rig), 0);
    struct svq_device_config config = rig_other_device(&rig, RIG_MARK);
    config.window = (struct svq_window_config){ 0 };
    REQUIRE(svq_device_create(rig.guest, &config, &rig.dev) == 0);
    REQUIRE(rig_connect(&rig, 0) == 0 && svq_device_start(rig.dev) == 0);
    const struct rig_seg seg = { DATA(0), 4 * PAGE, SEG_WRITE };
    rig_chain(&rig, 0, &seg, 1);
    struct rig_trip trip;
    CHECK(rig_trip(&rig, 0, &seg, 1, 4 * PAGE, &trip) && trip.granted_pages == 0);
    rig_close(&rig);
}

/* A mirror: MD RAID1 writes the same pages to two disks. */
TEST(same_pages_on_two_disks,
     "The largest chain that the limits allow goes through on the second disk while the first disk has its pages")
{
    static struct rig rig;
    unsigned n = 0;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct svq_device_config config = rig_other_device(&rig, RIG_MARK + 1);
    config.bounce_pages = rig.config.bounce_pages;
    struct svq_device *mirror;
    struct svq_queue_config q = rig_queue_config(&rig, 1);
    struct svq_queue_refs refs;
    q.index = 0;
    REQUIRE(svq_device_create(rig.guest, &config, &mirror) == 0 && svq_queue_setup(mirror, NULL, &q, &refs) == 0);
    REQUIRE(svq_device_start(mirror) == 0);
    struct rig_seg segs[86];
    segs[n++] = (struct rig_seg){ rig_gpa(RIG_HEADER_GFN), 16, SEG_READ };
    for (unsigned k = 0; k < 50; k++) /* 16 KiB each, touching five pages each: legs.py, chain_limits */
        segs[n++] = (struct rig_seg){ DATA(5 * k) + 512, 4 * PAGE, SEG_READ };
    segs[n++] = (struct rig_seg){ rig_gpa(RIG_HEADER_GFN) + 64, 1, SEG_WRITE };
    rig_chain(&rig, 0, segs, n);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    struct rig_shadow shadow;
    CHECK(rig_shadow_chain(&rig, 0, &shadow));
    memcpy(rig.ram + q.desc_gpa, (void *)(uintptr_t)rig.q[0].desc, n * sizeof segs[0]);
    struct vring_avail *avail = (void *)(rig.ram + q.avail_gpa);
    avail->ring[0] = 0;
    svq_release_u16(&avail->idx, 1);
    CHECK_EQUAL(svq_queue_forward(mirror, 0, 64), 1);
    struct svq_queue_stats stats;
    CHECK(svq_queue_read_stats(mirror, 0, &stats) == 0 && stats.grants == 0);
    CHECK_EQUAL(stats.bytes_bounced, 50 * 4 * PAGE + 17);
    CHECK_EQUAL(svq_device_close(mirror), 0);
    rig_close(&rig);
}

TEST(beyond_the_limits, "A chain that touches more pages than could be copied is refused before it touches any of them")
{
    static struct rig rig;
    const struct rig_seg seg = { DATA(0), 257 * PAGE, SEG_READ };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_chain(&rig, 0, &seg, 1);
    rig_offer(&rig, 0);
    uint64_t maps = rig_counters(rig.mediator).foreign_maps;
    CHECK_EQUAL(rig_forward(&rig), SVQ_E_CHAIN_LIMIT);
    CHECK_EQUAL(rig_counters(rig.mediator).foreign_maps, maps);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
