/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Queues and devices from set-up to close: nothing stays behind, nothing is lost on the way. */
#include <errno.h>

#include "barrier.h"
#include "rig_trip.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE };

static void one_trip(struct rig *rig)
{
    const struct rig_seg segs[] = { { rig_gpa(RIG_HEADER_GFN), 16, SEG_READ },
                                    { rig_gpa(RIG_DATA_GFN), PAGE, SEG_WRITE } };
    rig_chain(rig, 0, segs, 2);
    struct rig_trip trip;
    CHECK(rig_trip(rig, 0, segs, 2, PAGE, &trip));
}

TEST(close_in_flight, "Closing a device with requests in flight ends every grant, and closing the guest every mapping")
{
    static struct rig rig;
    for (int placement = SVQ_PLACE_EXACT; placement <= SVQ_PLACE_COPY; placement++) {
        for (int dynamic = 0; dynamic < 2; dynamic++) {
            rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = placement, .dynamic_window = dynamic });
            for (uint16_t i = 0; i < 40; i++) {
                rig_blk(&rig, (uint16_t)(i * 3), i * 4u, 3, i % 2 ? SEG_READ : SEG_WRITE);
                rig_offer(&rig, (uint16_t)(i * 3));
            }
            CHECK_EQUAL(rig_forward(&rig), 40);
            CHECK((rig_window_in_use(&rig) > 0) == (placement != SVQ_PLACE_COPY));
            CHECK_EQUAL(rig_close_device(&rig), 0);
            CHECK_EQUAL(rig_window_in_use(&rig), 0);
            CHECK_EQUAL(rig_counters(rig.mediator).shared_pages_live, 0);
            svq_guest_close(rig.guest);
            struct svq_hv_counters left = rig_counters(rig.mediator);
            CHECK(left.foreign_pages_live == 0 && left.grant_tables_live == 0 && left.ports_live == 0);
            CHECK(left.grant_pages_live == 0);
            rig.guest = NULL;
            rig_close(&rig);
        }
    }
}

TEST(indices_wrap, "70,000 chains through one queue: the 16-bit indices of all four rings wrap")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .queue_size = 64 });
    uint64_t done = 0;
    for (uint32_t i = 0; i < 70000 / 20; i++) {
        for (uint16_t k = 0; k < 20; k++) {
            rig_blk(&rig, (uint16_t)(k * 3), k * 2u, 1, SEG_WRITE);
            rig_offer(&rig, (uint16_t)(k * 3));
        }
        CHECK_EQUAL(rig_forward(&rig), 20);
        for (int head; (head = rig_take(&rig)) >= 0;)
            rig_give(&rig, (uint32_t)head, PAGE + 1);
        CHECK_EQUAL(rig_complete(&rig), 20);
        for (int head, k = 0; (head = rig_reap(&rig, NULL)) >= 0; k++, done++)
            if (!CHECK_EQUAL(head, k * 3))
                return;
    }
    CHECK_EQUAL(done, 70000);
    CHECK_EQUAL(rig_stats(&rig, 0).completions, 70000);
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    rig_close(&rig);
}

static void round_trips(struct rig *rig, int count)
{
    for (int i = 0; i < count; i++) {
        rig_page(rig, 2, 3, SEG_WRITE);
        rig_offer(rig, 2);
        CHECK_EQUAL(rig_forward(rig), 1);
        CHECK_EQUAL(rig_take(rig), 2);
        rig_give(rig, 2, 9);
        CHECK_EQUAL(rig_complete(rig), 1);
        CHECK_EQUAL(rig_reap(rig, NULL), 2);
    }
}

TEST(ring_reset, "A queue drains, lets go of its ring, and goes on with a ring elsewhere (VIRTIO_F_RING_RESET)")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_page(&rig, 0, 0, SEG_WRITE);
    rig_page(&rig, 1, 1, SEG_WRITE);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);
    CHECK_EQUAL(svq_queue_drain(rig.dev, 0), 1);
    rig_offer(&rig, 1);
    CHECK_EQUAL(rig_forward(&rig), 0); /* it takes no more chains */
    CHECK_EQUAL(svq_queue_reset(rig.dev, 0), -EBUSY);
    CHECK_EQUAL(rig_take(&rig), 0);
    rig_give(&rig, 0, 5);
    CHECK_EQUAL(rig_complete(&rig), 1); /* but what is in flight completes */
    CHECK_EQUAL(rig_reap(&rig, NULL), 0);
    CHECK_EQUAL(svq_queue_drain(rig.dev, 0), 0);
    CHECK_EQUAL(svq_queue_reset(rig.dev, 0), 0);
    CHECK_EQUAL(rig_forward(&rig), 0);
    CHECK_EQUAL(rig_complete(&rig), 0);

    struct svq_queue_config moved = rig_queue_config(&rig, 1); /* a different place */
    moved.index = 0;
    struct svq_queue_config wrong = moved;
    wrong.size = 512;
    CHECK_EQUAL(svq_queue_restart(rig.dev, &wrong), -EINVAL);
    CHECK_EQUAL(svq_queue_restart(rig.dev, &moved), 0);
    CHECK_EQUAL(svq_queue_restart(rig.dev, &moved), -EINVAL); /* it runs */
    struct rig_queue *q = &rig.q[0];
    q->desc = (void *)(rig.ram + moved.desc_gpa);
    q->avail = (void *)(rig.ram + moved.avail_gpa);
    q->used = (void *)(rig.ram + moved.used_gpa);
    q->avail_idx = q->used_seen = 0;
    round_trips(&rig, 300); /* the shadow ring goes on where it was */

    for (moved.size = 4; moved.size <= 256; moved.size *= 8) { /* smaller, and as large as before */
        CHECK_EQUAL(svq_queue_reset(rig.dev, 0), 0);
        CHECK_EQUAL(svq_queue_restart(rig.dev, &moved), 0);
        rig.driver_size = moved.size;
        memset(q->avail, 0, vring_avail_bytes(256));
        memset(q->used, 0, vring_used_bytes(256));
        q->avail_idx = q->used_seen = 0;
        round_trips(&rig, 300);
    }
    CHECK_EQUAL(rig_fault(&rig), 0);
    CHECK_EQUAL(svq_queue_reset(rig.dev, 0), 0);
    moved.size = rig.driver_size = 4;
    CHECK_EQUAL(svq_queue_restart(rig.dev, &moved), 0);
    q->avail_idx = q->used_seen = 0;
    memset(q->avail, 0, vring_avail_bytes(256));
    rig_offer(&rig, 4); /* a head that is valid only in the ring as it was */
    rig_forward(&rig);
    CHECK_EQUAL(rig_fault(&rig), SVQ_E_HEAD_RANGE);
    rig_close(&rig);
}

TEST(old_ring_is_data_again, "After a reset the pages of the old ring may be granted like any others")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .queues = 2 });
    const struct svq_queue_config other = rig_queue_config(&rig, 1);
    const struct rig_seg seg = { other.desc_gpa, PAGE, SEG_READ };
    rig_chain(&rig, 0, &seg, 1);
    struct rig_trip trip;
    CHECK(rig_trip(&rig, 0, &seg, 1, 0, &trip) && trip.granted_pages == 0);
    CHECK_EQUAL(svq_queue_reset(rig.dev, 1), 0);
    CHECK(rig_trip(&rig, 0, &seg, 1, 0, &trip) && trip.granted_pages == 1);
    rig_close(&rig);
}

TEST(refused_setup, "A refused set-up undoes all that it made, and the ring pages of other queues stay protected")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct svq_device_config config = rig_other_device(&rig, RIG_MARK + 1);
    const struct rig_seg beside = { rig_gpa(RIG_RING_GFN - 1), PAGE, SEG_READ };
    rig_chain(&rig, 0, &beside, 1);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1);                         /* this maps the chunk */
    struct svq_queue_config queue = rig_queue_config(&rig, 0); /* the same pages as the first device's ring */
    CHECK_EQUAL(svq_sim_domain_hole(rig.machine, RIG_FRONTEND, queue.used_gpa >> SVQ_PAGE_SHIFT, 1), 0);
    struct svq_hv_counters before = rig_counters(rig.mediator);
    struct svq_device *dev;
    struct svq_queue_refs refs;
    for (int i = 0; i < 3; i++) {
        REQUIRE(svq_device_create(rig.guest, &config, &dev) == 0);
        CHECK_EQUAL(svq_queue_setup(dev, NULL, &queue, &refs), SVQ_E_RING_NOT_RAM);
        CHECK_EQUAL(svq_device_close(dev), 0);
    }
    struct svq_hv_counters after = rig_counters(rig.mediator);
    CHECK_EQUAL(before.foreign_pages_live, after.foreign_pages_live);
    CHECK_EQUAL(before.shared_pages_live, after.shared_pages_live);
    const struct rig_seg ring[] = { { queue.desc_gpa, PAGE, SEG_READ }, { queue.used_gpa, PAGE, SEG_WRITE } };
    struct rig_shadow shadow;
    rig_chain(&rig, 1, ring, 2);
    rig_offer(&rig, 1);
    CHECK_EQUAL(rig_forward(&rig), 1);
    struct rig_trip trip;
    CHECK(rig_shadow_chain(&rig, 1, &shadow) && rig_trip_sum(&shadow, &trip));
    CHECK_EQUAL(trip.granted_pages, 0);
    rig_close(&rig);
}

TEST(out_of_grants, "When the mediator's own grant table is full, set-up says so and leaves nothing behind")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct svq_device_config config = rig_other_device(&rig, RIG_MARK + 1);
    config.num_queues = 4;
    config.bounce_pages = 120000;
    config.large_chains = 60000;
    struct svq_hv_counters before = rig_counters(rig.mediator);
    struct svq_device *dev;
    REQUIRE(svq_device_create(rig.guest, &config, &dev) == 0);
    int rc = 0;
    struct svq_queue_refs refs;
    for (uint16_t i = 0; i < 4 && rc == 0; i++) {
        struct svq_queue_config queue = rig_queue_config(&rig, (uint16_t)(i + 1));
        queue.index = i;
        rc = svq_queue_setup(dev, NULL, &queue, &refs);
    }
    CHECK_EQUAL(rc, -ENOSPC);
    CHECK_EQUAL(svq_device_close(dev), 0);
    CHECK_EQUAL(rig_counters(rig.mediator).shared_pages_live, before.shared_pages_live);
    CHECK_EQUAL(rig_counters(rig.mediator).foreign_pages_live, before.foreign_pages_live);
    one_trip(&rig);
    rig_close(&rig);
}

TEST(own_mistakes, "Requests that the control plane must not make fail with EINVAL")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    const struct svq_guest_config guests[] = { { .domid = RIG_FRONTEND },
                                               { .domid = RIG_FRONTEND, .gfn_limit = RAM, .memory = 2 },
                                               { .domid = RIG_FRONTEND, .gfn_limit = 1ull << 33 } };
    struct svq_guest *guest;
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQUAL(svq_guest_open(rig.mediator, &guests[i], &guest), -EINVAL);
    struct svq_device_config devices[7];
    for (unsigned i = 0; i < 7; i++)
        devices[i] = rig_other_device(&rig, RIG_MARK + 1);
    devices[0].num_queues = 0;
    devices[1].placement = 3;
    devices[2].bounce_pages = 1;
    devices[3].large_chains = 0;
    devices[4].mark = 0;
    devices[5].mark = SVQ_MARKS_MAX + 1;
    devices[6].window.count = RAM - 1; /* of a direct one */
    struct svq_device *dev;
    for (unsigned i = 0; i < 7; i++)
        CHECK_EQUAL(svq_device_create(rig.guest, &devices[i], &dev), -EINVAL);
    const uint8_t no_mark = 0;
    struct svq_sweep_result swept;
    CHECK_EQUAL(svq_sweep(rig.mediator, RIG_FRONTEND, &no_mark, 1, &swept), -EINVAL);
    struct svq_queue_config queue = rig_queue_config(&rig, 0);
    struct svq_queue_refs refs;
    CHECK_EQUAL(svq_queue_setup(rig.dev, NULL, &queue, &refs), -EINVAL); /* already set up */
    CHECK_EQUAL(svq_queue_restart(rig.dev, &queue), -EINVAL);
    queue.index = 1;
    CHECK_EQUAL(svq_queue_setup(rig.dev, NULL, &queue, &refs), -EINVAL); /* no such queue */
    CHECK(svq_queue_drain(rig.dev, 1) == -EINVAL && svq_queue_in_flight(rig.dev, 1) == -EINVAL);
    CHECK(svq_queue_reset(rig.dev, 1) == -EINVAL && svq_queue_restart(rig.dev, &queue) == -EINVAL);
    CHECK(svq_queue_forward(rig.dev, 1, 1) == -EINVAL && svq_queue_complete(rig.dev, 1, 1) == -EINVAL);
    struct svq_queue_stats stats;
    CHECK_EQUAL(svq_queue_read_stats(rig.dev, 1, &stats), -EINVAL);
    CHECK_EQUAL(svq_device_fault_count(rig.dev, 1), 0);
    CHECK_EQUAL(svq_device_fault_count(rig.dev, SVQ_E_LAST), 0);
    one_trip(&rig);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
