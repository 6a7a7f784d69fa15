/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests through the whole driver: placement, splitting, queues, refusals, stops. */
#include "drv_world.h"

enum { N = 200, SLOT = 16384 };

/* Request i has its own SLOT bytes of memory and 8 KiB of disk, at an odd place and of an odd shape. */
static struct svq_drv_req shaped(const struct world *w, unsigned i, uint32_t type, uint32_t flags)
{
    static const uint32_t lens[] = { 512, 4096, 8192, 1024, 6144 };
    static const uint32_t segments[] = { 0, 1, 3, 7 };
    unsigned slot = i % 64;
    return (struct svq_drv_req){ .sector = slot * 16,
                                 .type = type,
                                 .len = lens[slot % 5],
                                 .flags = flags,
                                 .segments = segments[slot % 4],
                                 .buf_gpa = world_gpa(w, (uint64_t)slot * 20480 % (SLOT * 60) + slot * 61 % 4096) };
}

static void write_and_read_back(bool scattered, uint32_t flags, uint64_t features, bool reverse)
{
    struct svq_drv_config config = world_config();
    config.queues = 2;
    config.pages = 640;
    struct world w;
    world_open(&w, &config, features, scattered);
    w.peer[0].reverse = w.peer[1].reverse = reverse;
    struct svq_drv_result results[64];
    struct svq_drv_req reqs[64];
    for (int pass = 0; pass < 2; pass++) {
        uint64_t bytes = 0;
        for (unsigned i = 0; i < 64; i++) {
            reqs[i] = shaped(&w, i, pass == 0 ? SVQ_DRV_OUT : SVQ_DRV_IN, flags);
            uint8_t *va = svq_drv_va(w.drv, reqs[i].buf_gpa, reqs[i].len);
            REQUIRE(va);
            for (uint32_t k = 0; k < reqs[i].len; k++)
                va[k] = pass == 0 ? (uint8_t)(i * 7 + k * 3 + k / 256) : 0;
            bytes += reqs[i].len;
            /* one at a time, so that buffers may overlap */
            CHECK_EQUAL(svq_drv_run(w.drv, &reqs[i], 1, 1, &results[i], &w.progress), 0);
            CHECK_EQUAL(results[i].error, 0);
            CHECK_EQUAL(results[i].status, SVQ_DRV_STATUS_OK);
            CHECK_EQUAL(results[i].used_len, pass == 0 ? 1 : reqs[i].len + 1);
            for (uint32_t k = 0; k < reqs[i].len; k++)
                if (va[k] != (uint8_t)(i * 7 + k * 3 + k / 256))
                    REQUIRE(!"data differs");
            CHECK(!memcmp(w.disk + reqs[i].sector * 512, va, reqs[i].len));
        }
        CHECK_EQUAL(w.progress.bytes_done, bytes);
        w.progress.bytes_done = 0;
    }
    CHECK_EQUAL(w.progress.requests_done, 128);
    CHECK_EQUAL(w.peer[0].chains, 64);
    CHECK_EQUAL(w.peer[1].chains, 64);
    bool indirect = flags & SVQ_DRV_REQ_INDIRECT && features >> VIRTIO_F_INDIRECT_DESC & 1;
    CHECK_EQUAL(w.peer[0].indirect_chains, indirect ? 64 : 0);
    world_close(&w);
}

TEST(direct_linear, "Direct chains carry data of any alignment to the disk and back")
{
    write_and_read_back(false, 0, WORLD_FEATURES, false);
}

TEST(direct_scattered, "So they do if guest frames are scattered, with segments split between them")
{
    write_and_read_back(true, 0, WORLD_FEATURES & ~(1ULL << VIRTIO_F_EVENT_IDX), true);
}

TEST(indirect_linear, "Indirect tables carry data of any alignment to the disk and back")
{
    write_and_read_back(false, SVQ_DRV_REQ_INDIRECT, WORLD_FEATURES, false);
}

TEST(indirect_scattered, "So they do from scattered frames")
{
    write_and_read_back(true, SVQ_DRV_REQ_INDIRECT, WORLD_FEATURES, true);
}

TEST(indirect_not_agreed, "A request that wants a table goes direct if tables were not negotiated")
{
    write_and_read_back(false, SVQ_DRV_REQ_INDIRECT, WORLD_FEATURES & ~(1ULL << VIRTIO_F_INDIRECT_DESC), false);
}

TEST(many_in_flight, "At most depth requests are in flight over all queues, and each ends with its own result")
{
    struct svq_drv_config config = world_config();
    config.queues = 4;
    config.queue_size = 16;
    config.poll_us = 50;
    struct world w;
    world_open(&w, &config, WORLD_FEATURES, false);
    for (unsigned q = 0; q < 4; q++)
        w.peer[q].reverse = true;
    struct svq_drv_req reqs[N];
    for (unsigned i = 0; i < N; i++) {
        memset(w.disk + i * 4096, (int)i, 512);
        reqs[i] = (struct svq_drv_req){ .type = SVQ_DRV_IN,
                                        .sector = i * 8,
                                        .len = 512,
                                        .segments = 2,
                                        .flags = i % 2 ? SVQ_DRV_REQ_INDIRECT : 0,
                                        .buf_gpa = world_gpa(&w, i * 512) };
    }
    struct svq_drv_result results[N];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, N, 12, results, &w.progress), 0);
    CHECK_EQUAL(w.burst_max, 3);
    for (unsigned i = 0; i < N; i++) {
        CHECK_EQUAL(results[i].error, 0);
        CHECK_EQUAL(*world_va(&w, i * 512, 512), i);
        CHECK(results[i].latency_ns > 0);
    }
    for (unsigned q = 0; q < 4; q++)
        CHECK_EQUAL(w.peer[q].chains, N / 4);
    CHECK_EQUAL(w.progress.requests_done, N);
    CHECK_EQUAL(w.progress.in_flight, 0);
    struct svq_drv_counters counters = world_counters(&w);
    CHECK_EQUAL(counters.completions, N);
    CHECK(counters.kicks >= N / 12 && counters.kicks <= N);
    world_close(&w);
}

TEST(ring_full, "With a depth beyond the ring's size, the ring fills, and requests go on as descriptors come back")
{
    struct svq_drv_config config = world_config();
    config.queue_size = 4;
    struct world w;
    world_open(&w, &config, WORLD_FEATURES, false);
    struct svq_drv_req reqs[N];
    for (unsigned i = 0; i < N; i++)
        reqs[i] = (struct svq_drv_req){ .type = SVQ_DRV_OUT, .len = 512, .buf_gpa = w.data };
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, N, 1000, NULL, NULL), 0);
    CHECK_EQUAL(w.peer[0].chains, N);
    CHECK_EQUAL(w.burst_max, 1); /* three descriptors each */
    world_close(&w);
}

TEST(other_types, "Flush has no data, and a type that the device does not know ends with its status")
{
    struct world w;
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    struct svq_drv_req reqs[3] = { { .type = SVQ_DRV_FLUSH },
                                   { .type = 77, .buf_gpa = w.data, .len = 16 },
                                   { .type = SVQ_DRV_IN, .sector = 1 << 20, .buf_gpa = w.data, .len = 512 } };
    struct svq_drv_result results[3];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 3, 1, results, &w.progress), 0);
    CHECK_EQUAL(results[0].status, SVQ_DRV_STATUS_OK);
    CHECK_EQUAL(results[1].status, SVQ_DRV_STATUS_UNSUPP);
    CHECK_EQUAL(results[2].status, SVQ_DRV_STATUS_IOERR);
    CHECK_EQUAL(w.progress.bytes_done, 0);
    CHECK_EQUAL(w.progress.requests_done, 3);
    world_close(&w);
}

TEST(refusals, "A request that cannot be sent is refused with the reason, and the others complete all the same")
{
    struct svq_drv_config config = world_config();
    config.max_segments = 6;
    struct world w;
    world_open(&w, &config, WORLD_FEATURES, false);
    uint64_t end = w.data + w.data_pages * SVQ_PAGE_SIZE;
    struct svq_drv_req reqs[8] = {
        { .type = SVQ_DRV_IN, .buf_gpa = end - 512, .len = 512 },
        { .type = SVQ_DRV_IN, .buf_gpa = end - 512, .len = 513 },
        { .type = SVQ_DRV_IN, .buf_gpa = 0, .len = 512 },
        { .type = SVQ_DRV_IN, .buf_gpa = w.data, .len = 3, .segments = 4 },
        { .type = SVQ_DRV_IN, .buf_gpa = w.data, .len = 512, .segments = 63 },
        { .type = SVQ_DRV_IN, .buf_gpa = w.data, .len = 512, .segments = 7, .flags = SVQ_DRV_REQ_INDIRECT },
        { .type = SVQ_DRV_IN, .buf_gpa = w.data, .len = 512, .segments = 6, .flags = SVQ_DRV_REQ_INDIRECT },
        { .type = SVQ_DRV_IN, .buf_gpa = w.data, .len = UINT32_MAX },
    };
    const int expected[8] = { 0, -EFAULT, -EFAULT, -EINVAL, -E2BIG, -E2BIG, 0, -EFAULT };
    struct svq_drv_result results[8];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 8, 4, results, &w.progress), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQUAL(results[i].error, expected[i]);
    CHECK_EQUAL(w.peer[0].chains, 2);
    CHECK_EQUAL(w.peer[0].segments_last, 8);
    CHECK_EQUAL(w.progress.requests_done, 8);
    world_close(&w);
}

static void stopped(uint32_t how, int expected, unsigned done)
{
    struct world w;
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    w.stop_after = 8;
    w.stop_how = how;
    struct svq_drv_req reqs[N];
    for (unsigned i = 0; i < N; i++)
        reqs[i] = (struct svq_drv_req){ .type = SVQ_DRV_OUT, .len = 512, .buf_gpa = w.data };
    struct svq_drv_result results[N];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, N, 4, results, &w.progress), expected);
    CHECK_EQUAL(w.progress.requests_done, done);
    for (unsigned i = 0; i < N; i++)
        CHECK_EQUAL(results[i].error, i < 8 ? 0 : -ECANCELED);
    world_close(&w);
}

TEST(stop, "If another thread asks for a stop, the run ends, and submits nothing more")
{
    stopped(SVQ_DRV_STOP_DRAIN, 0, 8);
    stopped(SVQ_DRV_STOP_NOW, -EINTR, 8);
}

TEST(raw, "Ring memory can be reached directly, kicks reach the device, and its interrupts are counted")
{
    struct world w;
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    struct svq_drv_queue_info info;
    REQUIRE(svq_drv_queue_info(w.drv, 0, &info) == 0);
    struct vring_desc *desc = svq_drv_va(w.drv, info.desc, vring_desc_bytes(info.size));
    struct vring_avail *avail = svq_drv_va(w.drv, info.avail, vring_avail_bytes(info.size));
    struct vring_used *used = svq_drv_va(w.drv, info.used, vring_used_bytes(info.size));
    REQUIRE(desc && avail && used);
    CHECK_EQUAL(svq_drv_wait_interrupt(w.drv, 0), 0);
    desc[0] = (struct vring_desc){ .addr = w.data, .len = 16, .flags = VRING_DESC_F_NEXT, .next = 1 };
    desc[1] = (struct vring_desc){ .addr = w.data + 16, .len = 1, .flags = VRING_DESC_F_WRITE };
    memset(svq_drv_va(w.drv, w.data, 32), 0, 32);
    avail->ring[0] = 0;
    avail->idx = 1;
    CHECK_EQUAL(svq_drv_kick(w.drv, 0), 0);
    CHECK_EQUAL(svq_drv_wait_interrupt(w.drv, 1000), 1);
    CHECK_EQUAL(used->idx, 1);
    CHECK_EQUAL(svq_drv_kick(w.drv, 1), -EINVAL);
    CHECK_EQUAL(svq_drv_queue_info(w.drv, 1, &info), -EINVAL);
    CHECK(!svq_drv_va(w.drv, 0, 1));
    CHECK_EQUAL(world_counters(&w).kicks, 1);
    CHECK_EQUAL(world_counters(&w).interrupts, 1);
    world_close(&w);
}

TEST(notifications, "A device that polls is not kicked, and a driver that waits is interrupted")
{
    struct svq_drv_config config = world_config();
    config.timeout_ms = 1;
    struct world w;
    world_open(&w, &config, WORLD_FEATURES & ~(1ULL << VIRTIO_F_EVENT_IDX), false);
    struct svq_drv_req req = { .type = SVQ_DRV_FLUSH };
    peer_disarm(&w.peer[0]);
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 1, 1, NULL, NULL), -ETIMEDOUT);
    CHECK_EQUAL(world_counters(&w).kicks, 0);
    CHECK_EQUAL(world_counters(&w).kicks_suppressed, 1);
    CHECK(world_counters(&w).sleeps > 0);
    CHECK_EQUAL(peer_serve(&w.peer[0]), 1);
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 0, 1, NULL, NULL), 0);
    CHECK_EQUAL(world_counters(&w).late_completions, 1);
    world_close(&w);
}

TEST(configurations,
     "A configuration out of range, too little memory or no port is an error that leaves nothing behind")
{
    struct svq_hv hv = { 0 };
    struct svq_drv *drv = NULL;
    struct svq_drv_config good = world_config();
    struct svq_drv_config bad[] = { good, good, good, good, good, good };
    bad[0].pages = 0;
    bad[1].queues = 0;
    bad[2].queues = SVQ_DRV_QUEUES_MAX + 1;
    bad[3].queue_size = 48;
    bad[4].queue_size = SVQ_DRV_QUEUE_SIZE_MAX * 2;
    bad[5].max_segments = SVQ_DRV_TABLE_ENTRIES_MAX - 1;
    for (int i = 0; i < 6; i++)
        CHECK_EQUAL(svq_drv_create(&hv, &bad[i], &drv), -EINVAL);
    struct svq_drv_config small = good;
    small.pages = 10;
    CHECK_EQUAL(svq_drv_create(&hv, &small, &drv), -ENOSPC);
    struct svq_drv_config large_ring = good;
    large_ring.queue_size = 1024; /* four pages of descriptors, where only pairs are contiguous */
    hv.layout.scattered = true;
    CHECK_EQUAL(svq_drv_create(&hv, &large_ring, &drv), -ENOSPC);
    hv.layout.evtchn_error = -ENOMEM;
    CHECK_EQUAL(svq_drv_create(&hv, &good, &drv), -ENOMEM);
    CHECK(!hv.va && !hv.ec && !drv);
    svq_drv_destroy(NULL);
}

TEST(features, "Features beyond the configuration, or without VERSION_1, do not start the driver")
{
    struct svq_drv_config config = world_config();
    config.features &= ~(1ULL << VIRTIO_F_INDIRECT_DESC);
    struct world w;
    world_open(&w, &config, config.features, false);
    CHECK_EQUAL(svq_drv_start(w.drv, WORLD_FEATURES), -EINVAL);
    CHECK_EQUAL(svq_drv_start(w.drv, 1ULL << VIRTIO_F_EVENT_IDX), -EINVAL);
    struct svq_drv_req req = { .type = SVQ_DRV_FLUSH };
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 1, 0, NULL, NULL), -EINVAL);
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 1, 1, NULL, NULL), 0);
    world_close(&w);
}

SVQ_TEST_MAIN()
