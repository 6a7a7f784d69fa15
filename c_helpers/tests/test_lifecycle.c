/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Queues and devices from set-up to close: nothing is kept, nothing is lost on the way. */
#include <errno.h>

#include "barrier.h"
#include "rig_trip.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE };

static void one_trip(struct rig *rig)
{
    const struct rig_seg segs[] = { { rig_gpa(RIG_HEADER_GFN), 16, SEG_READ },
                                    { rig_gpa(RIG_DATA_GFN), PAGE, SEG_WRITE } };
    struct rig_trip trip;
    rig_chain(rig, 0, segs, 2);
    CHECK(rig_trip(rig, 0, segs, 2, PAGE, &trip));
}

TEST(close_in_flight,
     "Closing a device with requests in flight ends every grant, and closing the guest every mapping")
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
            CHECK((svq_guest_window_in_use(rig.guest) > 0) == (placement != SVQ_PLACE_COPY));
            CHECK_EQUAL(rig_close_device(&rig), 0);
            CHECK_EQUAL(svq_guest_window_in_use(rig.guest), 0);
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

/* What another mediator finds in the window of the rig's: opens the guest as that would, and closes it again. */
static void opened_by_another(struct rig *rig, uint32_t revoked, uint32_t mapped)
{
    struct svq_guest_config config = rig_guest_config(rig);
    struct svq_guest *guest;
    REQUIRE(svq_guest_open(rig->mediator, &config, &guest) == 0);
    CHECK_EQUAL(svq_guest_stale_revoked(guest), revoked);
    CHECK_EQUAL(svq_guest_stale_mapped(guest), mapped);
    svq_guest_close(guest);
}

TEST(mediator_died,
     "What a mediator granted that died is taken back by the next: at once, or once its grantee has unmapped it; what "
     "the guest granted itself is left alone where it can be told apart")
{
    static struct rig rig;
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .dynamic_window = dynamic });
        uint64_t *entries = rig_window_entries(&rig);
        uint32_t count = svq_guest_window_count(rig.guest), first = svq_guest_window_first(rig.guest), i = 0;
        rig_blk(&rig, 0, 0, 3, SEG_WRITE);
        rig_offer(&rig, 0);
        CHECK_EQUAL(rig_forward(&rig), 1);
        CHECK_EQUAL(svq_guest_window_in_use(rig.guest), 3);
        while (i < count && !entries[i])
            i++;
        uint32_t gref = first + i;
        void *va;
        REQUIRE(svq_hv_map_grants(rig.backend, RIG_FRONTEND, &gref, 1, 0, &va) == 0);
        uint64_t own = svq_grant_entry_for(RIG_BACKEND, 7, true);
        uint64_t odd = svq_grant_entry(GTF_TYPE_MASK, RIG_BACKEND, count - 1);
        svq_store_u64(&entries[count - 2], own);
        svq_store_u64(&entries[count - 1], odd);

        opened_by_another(&rig, dynamic ? 3 : 2, 1);
        CHECK_EQUAL(entries[count - 2], dynamic ? 0 : own);
        CHECK_EQUAL(entries[count - 1], odd);
        svq_hv_unmap_grants(rig.backend, va, 1);
        CHECK(svq_hv_map_grants(rig.backend, RIG_FRONTEND, &gref, 1, 0, &va) < 0);
        opened_by_another(&rig, 1, 0);
        CHECK_EQUAL(entries[i], 0);
        opened_by_another(&rig, 0, 0);
        rig_close(&rig);
    }
}

TEST(indices_wrap, "70,000 chains through one queue: the 16-bit indices of all four rings go round")
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
    CHECK_EQUAL(svq_guest_window_in_use(rig.guest), 0);
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
    CHECK_EQUAL(rig_forward(&rig), 0); /* no chain is taken any more */
    CHECK_EQUAL(svq_queue_reset(rig.dev, 0), -EBUSY);
    CHECK_EQUAL(rig_take(&rig), 0);
    rig_give(&rig, 0, 5);
    CHECK_EQUAL(rig_complete(&rig), 1); /* but what is in flight completes */
    CHECK_EQUAL(rig_reap(&rig, NULL), 0);
    CHECK_EQUAL(svq_queue_drain(rig.dev, 0), 0);
    CHECK_EQUAL(svq_queue_reset(rig.dev, 0), 0);
    CHECK_EQUAL(rig_forward(&rig), 0);
    CHECK_EQUAL(rig_complete(&rig), 0);

    struct svq_queue_config moved = rig_queue_config(&rig, 1); /* another place */
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
    round_trips(&rig, 300); /* the shadow ring went on where it was */

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
    rig_offer(&rig, 4); /* a head of the ring as it was */
    rig_forward(&rig);
    CHECK_EQUAL(rig_fault(&rig), SVQ_E_HEAD_RANGE);
    rig_close(&rig);
}

TEST(old_ring_is_data_again, "After a reset the pages of the old ring may be granted as any others")
{
    static struct rig rig;
    struct rig_trip trip;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .queues = 2 });
    const struct svq_queue_config other = rig_queue_config(&rig, 1);
    const struct rig_seg seg = { other.desc_gpa, PAGE, SEG_READ };
    rig_chain(&rig, 0, &seg, 1);
    CHECK(rig_trip(&rig, 0, &seg, 1, 0, &trip) && trip.granted_pages == 0);
    CHECK_EQUAL(svq_queue_reset(rig.dev, 1), 0);
    CHECK(rig_trip(&rig, 0, &seg, 1, 0, &trip) && trip.granted_pages == 1);
    rig_close(&rig);
}

TEST(refused_setup, "A refused set-up takes back all it made, and the ring pages of other queues stay protected")
{
    static struct rig rig;
    const struct svq_device_config config = { .backend_domid = RIG_BACKEND, .num_queues = 1, .bounce_pages = 16,
                                              .large_chains = 1 };
    struct svq_device *dev;
    struct svq_queue_refs refs;
    struct rig_trip trip;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    const struct rig_seg beside = { rig_gpa(RIG_RING_GFN - 1), PAGE, SEG_READ };
    rig_chain(&rig, 0, &beside, 1);
    rig_offer(&rig, 0);
    CHECK_EQUAL(rig_forward(&rig), 1); /* the chunk is known now */
    struct svq_queue_config queue = rig_queue_config(&rig, 0); /* the very pages of the first device's ring */
    CHECK_EQUAL(svq_sim_domain_hole(rig.machine, RIG_FRONTEND, queue.used_gpa >> SVQ_PAGE_SHIFT, 1), 0);
    struct svq_hv_counters before = rig_counters(rig.mediator);
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
    CHECK(rig_shadow_chain(&rig, 1, &shadow) && rig_trip_sum(&shadow, &trip));
    CHECK_EQUAL(trip.granted_pages, 0);
    rig_close(&rig);
}

TEST(out_of_grants, "When the mediator's own grant table is full, set-up says so and leaves nothing behind")
{
    static struct rig rig;
    const struct svq_device_config config = { .backend_domid = RIG_BACKEND, .num_queues = 4, .bounce_pages = 120000,
                                              .large_chains = 60000 };
    struct svq_device *dev;
    struct svq_queue_refs refs;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct svq_hv_counters before = rig_counters(rig.mediator);
    REQUIRE(svq_device_create(rig.guest, &config, &dev) == 0);
    int rc = 0;
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

TEST(own_mistakes, "What the control plane must not ask is answered with EINVAL")
{
    static struct rig rig;
    struct svq_guest *guest;
    struct svq_device *dev;
    struct svq_queue_refs refs;
    struct svq_queue_stats stats;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    const struct svq_guest_config guests[] = { { .domid = RIG_FRONTEND, .window_frames = 1 },
                                               { .domid = RIG_FRONTEND, .gfn_limit = RAM },
                                               { .domid = RIG_FRONTEND, .gfn_limit = 1ull << 33, .window_frames = 1 },
                                               { .domid = RIG_FRONTEND, .gfn_limit = RAM,
                                                 .window_frames = RAM / 512 - 1, .window_direct = 1 } };
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQUAL(svq_guest_open(rig.mediator, &guests[i], &guest), -EINVAL);
    const struct svq_device_config devices[] = { { .bounce_pages = 2, .large_chains = 1 },
                                                 { .num_queues = 1, .placement = 3, .bounce_pages = 2,
                                                   .large_chains = 1 },
                                                 { .num_queues = 1, .bounce_pages = 1, .large_chains = 1 },
                                                 { .num_queues = 1, .bounce_pages = 2 } };
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQUAL(svq_device_create(rig.guest, &devices[i], &dev), -EINVAL);
    struct svq_queue_config queue = rig_queue_config(&rig, 0);
    CHECK_EQUAL(svq_queue_setup(rig.dev, NULL, &queue, &refs), -EINVAL); /* set up already */
    CHECK_EQUAL(svq_queue_restart(rig.dev, &queue), -EINVAL);
    queue.index = 1;
    CHECK_EQUAL(svq_queue_setup(rig.dev, NULL, &queue, &refs), -EINVAL); /* no such queue */
    CHECK(svq_queue_drain(rig.dev, 1) == -EINVAL && svq_queue_in_flight(rig.dev, 1) == -EINVAL);
    CHECK(svq_queue_reset(rig.dev, 1) == -EINVAL && svq_queue_restart(rig.dev, &queue) == -EINVAL);
    CHECK(svq_queue_forward(rig.dev, 1, 1) == -EINVAL && svq_queue_complete(rig.dev, 1, 1) == -EINVAL);
    CHECK_EQUAL(svq_queue_read_stats(rig.dev, 1, &stats), -EINVAL);
    CHECK_EQUAL(svq_device_fault_count(rig.dev, 1), 0);
    CHECK_EQUAL(svq_device_fault_count(rig.dev, SVQ_E_LAST), 0);
    one_trip(&rig);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
