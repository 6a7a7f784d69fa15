/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backend keeps mapped: each page by itself, until it lets go; and what a dead mediator leaves behind. */
#include <errno.h>

#include "barrier.h"
#include "grant_entry.h"
#include "rig_view.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE, RUN = 8 };
#define DATA(n) rig_gpa(RIG_DATA_GFN + (n))

static struct vring_desc page_of(const struct vring_desc *part, unsigned i)
{
    return (struct vring_desc){ .addr = part->addr + (uint64_t)i * PAGE, .len = PAGE };
}

static void forward(struct rig *rig, uint16_t head, const struct rig_seg *segs, unsigned count,
                    struct rig_shadow *shadow)
{
    rig_chain(rig, head, segs, count);
    rig_offer(rig, head);
    CHECK_EQUAL(rig_forward(rig), 1);
    CHECK_EQUAL(rig_take(rig), head);
    CHECK(rig_shadow_chain(rig, head, shadow));
}

/* Each pattern gets a new device, whose rings start again. */
static void renew_device(struct rig *rig)
{
    struct svq_device_config config = rig_other_device(rig, RIG_MARK);
    struct svq_queue_config q = rig_queue_config(rig, 0);
    if (rig->dev)
        rig_close_device(rig);
    REQUIRE(svq_device_create(rig->guest, &config, &rig->dev) == 0);
    memset(rig->ram + q.avail_gpa, 0, PAGE);
    memset(rig->ram + q.used_gpa, 0, PAGE);
    REQUIRE(rig_connect(rig, 0) == 0 && svq_device_start(rig->dev) == 0);
}

static unsigned entries_granted(struct rig *rig, const uint64_t *entries)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < rig_window(rig).count; i++)
        n += (svq_load_u64(&entries[i]) & GTF_TYPE_MASK) != 0;
    return n;
}

TEST(every_page_by_itself,
     "Whichever pages of a run the backend keeps, exactly those are held and none stays granted; let go, all end")
{
    static struct rig rig;
    struct rig_shadow shadow;
    uint8_t *va[RUN], bits[32];
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = dynamic });
        const uint64_t *entries = rig_window_entries(&rig);
        for (unsigned mask = 1; mask < 1u << RUN; mask++) {
            renew_device(&rig);
            const struct rig_seg run = { DATA(RUN * (mask % 64)), RUN * PAGE, SEG_WRITE };
            forward(&rig, 3, &run, 1, &shadow);
            for (unsigned i = 0; i < RUN; i++) {
                struct vring_desc page = page_of(&shadow.part[0], i);
                if (mask >> i & 1)
                    REQUIRE(rig_part_map(&rig, &page, 1, &va[i]) == 0);
            }
            rig_give(&rig, 3, RUN * PAGE);
            CHECK_EQUAL(rig_complete(&rig), SVQ_E_GRANT_BUSY);
            int held = __builtin_popcount(mask);
            bool good = CHECK_EQUAL(entries_granted(&rig, entries), 0) & CHECK_EQUAL(rig_window_in_use(&rig), held) &
                        CHECK_EQUAL(svq_device_stop(rig.dev), held) & CHECK_EQUAL(rig_stats(&rig, 0).held, held) &
                        CHECK_EQUAL(svq_queue_held(rig.dev, 0, bits, sizeof bits), 256 / 8) & CHECK_EQUAL(bits[0], 8);
            for (unsigned i = 0; i < RUN; i++) {
                struct vring_desc page = page_of(&shadow.part[0], i);
                if (!(mask >> i & 1))
                    continue;
                good &= CHECK_EQUAL(svq_device_stop(rig.dev), held--);
                rig_part_unmap(&rig, &page, va[i]);
            }
            good &= CHECK_EQUAL(svq_device_stop(rig.dev), 0) & CHECK_EQUAL(rig_window_in_use(&rig), 0) &
                    CHECK_EQUAL(svq_device_window_in_use(rig.dev), 0);
            struct svq_queue_stats stats = rig_stats(&rig, 0);
            good &= CHECK(svq_queue_held(rig.dev, 0, bits, sizeof bits) == 32 && bits[0] == 0) &
                    CHECK_EQUAL(stats.grants, stats.grants_ended);
            if (!good)
                return;
        }
        rig_close(&rig);
    }
}

TEST(no_more_than_it_has,
     "A backend that reads a held page cannot gain the right to write it; once it lets go, it cannot map it again")
{
    static struct rig rig;
    const struct rig_seg seg = { DATA(0), 2 * PAGE, SEG_WRITE };
    uint8_t *va, *again;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_shadow shadow;
    forward(&rig, 0, &seg, 1, &shadow);
    struct vring_desc kept = page_of(&shadow.part[0], 0), other = page_of(&shadow.part[0], 1);
    REQUIRE(rig_part_map(&rig, &kept, 0, &va) == 0);
    rig_give(&rig, 0, 2 * PAGE);
    CHECK_EQUAL(rig_complete(&rig), SVQ_E_GRANT_BUSY);
    CHECK(rig_part_map(&rig, &kept, 1, &again) < 0);
    CHECK(rig_part_map(&rig, &other, 0, &again) < 0);
    rig_part_unmap(&rig, &kept, va);
    CHECK(rig_part_map(&rig, &kept, 0, &again) < 0);
    CHECK_EQUAL(rig_close_device(&rig), 0);
    rig_close(&rig);
}

TEST(others_end,
     "A request with a held page stays in flight, and only its bit is set; all others have ended, in every queue")
{
    static struct rig rig;
    uint8_t *va, bits[32], expected[32] = { 0 };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct rig_shadow shadow;
    for (uint16_t head = 0; head < 40; head++) {
        const struct rig_seg seg = { DATA(head), PAGE, SEG_READ };
        forward(&rig, head, &seg, 1, &shadow);
        if (head == 21)
            REQUIRE(rig_part_map(&rig, &shadow.part[0], 0, &va) == 0);
    }
    CHECK_EQUAL(svq_device_stop(rig.dev), 1);
    CHECK_EQUAL(rig_window_in_use(&rig), 1);
    expected[21 / 8] = 1 << 21 % 8;
    CHECK(svq_queue_held(rig.dev, 0, bits, sizeof bits) == 32 && memcmp(bits, expected, 32) == 0);
    CHECK_EQUAL(svq_queue_held(rig.dev, 0, bits, 31), -EINVAL);
    CHECK_EQUAL(svq_queue_held(rig.dev, 1, bits, 32), -EINVAL);
    /* The rings are the driver's again: nobody may write there. */
    memset(rig.q[0].used, 0x5a, PAGE);
    svq_hv_unmap_grants(rig.backend, va, 1);
    CHECK_EQUAL(rig_close_device(&rig), 0);
    for (unsigned i = 0; i < PAGE; i++)
        REQUIRE(((uint8_t *)rig.q[0].used)[i] == 0x5a);
    rig_close(&rig);
}

TEST(mediator_died,
     "What a dead mediator granted is swept by mark: at once, or when its grantee has let go. Entries without the "
     "mark, another device's and the guest's own, stay as they are, mapped or not")
{
    static struct rig rig;
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = dynamic });
        uint64_t *entries = rig_window_entries(&rig);
        uint32_t count = rig_window(&rig).count, i = 0;
        const uint8_t marks[] = { 77, RIG_MARK };
        struct svq_sweep_result swept;
        const uint64_t own[] = { svq_grant_entry(GTF_PERMIT_ACCESS, RIG_BACKEND, 7),
                                 svq_entry_granted(RIG_BACKEND, 8, true, RIG_MARK + 1),
                                 svq_grant_entry(GTF_TYPE_MASK, 3, 9),
                                 svq_grant_entry(GTF_PERMIT_ACCESS, 11, count - 4) };
        for (unsigned k = 0; k < 4; k++)
            svq_store_u64(&entries[count - 4 + k], own[k]);
        rig_blk(&rig, 0, 0, 3, SEG_WRITE);
        rig_offer(&rig, 0);
        CHECK_EQUAL(rig_forward(&rig), 1);
        CHECK_EQUAL(svq_device_window_in_use(rig.dev), 3);
        while (i < count && !entries[i])
            i++;
        uint32_t gref = rig_window(&rig).first_gref + i;
        void *va, *again;
        REQUIRE(svq_hv_map_grants(rig.backend, RIG_FRONTEND, &gref, 1, 0, &va) == 0);

        CHECK_EQUAL(svq_sweep(rig.mediator, RIG_FRONTEND, marks, 1, &swept), 0);
        CHECK(swept.freed == 0 && swept.held == 0);
        CHECK_EQUAL(svq_sweep(rig.mediator, RIG_FRONTEND, marks, 2, &swept), 0);
        CHECK(swept.freed == 2 && swept.held == 1 && swept.holder == RIG_BACKEND);
        CHECK(svq_hv_map_grants(rig.backend, RIG_FRONTEND, &gref, 1, 1, &again) < 0);
        svq_hv_unmap_grants(rig.backend, va, 1);
        CHECK(svq_hv_map_grants(rig.backend, RIG_FRONTEND, &gref, 1, 0, &va) < 0);
        CHECK_EQUAL(svq_sweep(rig.mediator, RIG_FRONTEND, marks, 2, &swept), 0);
        CHECK(swept.freed == 1 && swept.held == 0);
        CHECK_EQUAL(svq_sweep(rig.mediator, RIG_FRONTEND, marks, 2, &swept), 0);
        CHECK(swept.freed == 0 && swept.held == 0);
        for (unsigned k = 0; k < 4; k++)
            CHECK_EQUAL(entries[count - 4 + k], own[k]);
        CHECK_EQUAL(rig_window_in_use(&rig), 4);
        rig_close(&rig);
    }
}

TEST(hostile_neighbour,
     "A disk whose backend keeps everything costs the guest's other disk no request: that one copies")
{
    static struct rig rig;
    struct rig_shadow shadow;
    uint8_t *va[RUN];
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = dynamic, .window_grefs = 64 });
        const struct rig_seg run = { DATA(0), RUN * PAGE, SEG_WRITE };
        forward(&rig, 0, &run, 1, &shadow);
        for (unsigned i = 0; i < RUN; i++) {
            struct vring_desc page = page_of(&shadow.part[0], i);
            REQUIRE(rig_part_map(&rig, &page, 1, &va[i]) == 0);
        }
        struct svq_device *broken = rig.dev;
        CHECK_EQUAL(svq_device_stop(broken), RUN);
        rig_disconnect_backend(&rig);
        rig.dev = NULL;
        struct svq_device_config config = rig_other_device(&rig, RIG_MARK + 1);
        struct svq_queue_config q = rig_queue_config(&rig, 0);
        REQUIRE(svq_device_create(rig.guest, &config, &rig.dev) == 0);
        memset(rig.ram + q.avail_gpa, 0, PAGE);
        memset(rig.ram + q.used_gpa, 0, PAGE);
        REQUIRE(rig_connect(&rig, 0) == 0 && svq_device_start(rig.dev) == 0);
        for (int round = 0; round < 20; round++) {
            forward(&rig, 0, &run, 1, &shadow);
            rig_give(&rig, 0, RUN * PAGE);
            if (!CHECK_EQUAL(rig_complete(&rig), 1) || !CHECK_EQUAL(rig_reap(&rig, NULL), 0))
                break;
        }
        CHECK_EQUAL(rig_stats(&rig, 0).bytes_zero_copy > 0, dynamic);
        CHECK_EQUAL(svq_device_close(broken), RUN);
        rig_close(&rig);
    }
}

SVQ_TEST_MAIN()
