/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The device on the embedded machine: real grant entries, real flags, real event channels. */
#include <fcntl.h>

#include "be_blk.h"
#include "be_test.h"
#include "sim_fixture.h"
#include "svq_backend.h"

enum {
    SIZE = 16,
    SECTORS = 64,
    DATA_GFN = 40,
    DATA_PAGES = 2,
};

struct bench {
    struct fixture machine;
    char path[64];
    int fd;
    struct svq_be_image *image;
    struct svq_be_device *dev;
    struct svq_evtchn *evtchn;
    int port;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint8_t *pool[2]; /* the mediator's: [0] read-only to the backend, [1] writable */
    uint32_t desc_ref, avail_ref, used_ref, pool_ref[2];
};

static struct bench bench;

static void open_image(void)
{
    snprintf(bench.path, sizeof bench.path, "/tmp/svq-sim-XXXXXX");
    bench.fd = mkstemp(bench.path);
    uint8_t sector[512];
    for (int i = 0; i < SECTORS; i++) {
        memset(sector, i + 1, sizeof sector);
        REQUIRE_EQUAL(pwrite(bench.fd, sector, sizeof sector, i * 512), 512);
    }
    REQUIRE_EQUAL(svq_be_open_image(bench.path, 0, &bench.image, NULL), 0);
}

static void *share(int writable, uint32_t *ref)
{
    void *va = NULL;
    REQUIRE_EQUAL(svq_hv_share_pages(bench.machine.mediator, BACKEND, 1, writable, ref, &va), 0);
    return va;
}

static void start(void)
{
    struct svq_be_config config = {
        .features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ACCESS_PLATFORM | 1ULL << VIRTIO_BLK_F_FLUSH |
                    1ULL << VIRTIO_F_INDIRECT_DESC,
        .mediator_domid = MEDIATOR,
        .window_owner = FRONTEND,
        .window_first = WINDOW_GREF,
        .window_count = WINDOW_FRAMES * SVQ_GRANTS_PER_FRAME,
        .queues = 1,
    };
    fixture_start(&bench.machine);
    open_image();
    bench.desc = share(0, &bench.desc_ref);
    bench.avail = share(0, &bench.avail_ref);
    bench.used = share(1, &bench.used_ref);
    bench.pool[0] = share(0, &bench.pool_ref[0]);
    bench.pool[1] = share(1, &bench.pool_ref[1]);
    REQUIRE_EQUAL(svq_evtchn_open(bench.machine.mediator, &bench.evtchn), 0);
    bench.port = svq_evtchn_alloc_unbound(bench.evtchn, BACKEND);
    REQUIRE(bench.port > 0);
    REQUIRE_EQUAL(svq_be_create(bench.machine.backend, bench.image, &config, &bench.dev), 0);
    REQUIRE_EQUAL(svq_be_queue_attach(bench.dev, 0, SIZE, &bench.desc_ref, &bench.avail_ref, &bench.used_ref,
                                      (uint32_t)bench.port),
                  0);
    REQUIRE_EQUAL(svq_be_start(bench.dev), 0);
}

static void stop(void)
{
    svq_be_destroy(bench.dev);
    struct svq_hv_counters counters;
    svq_hv_read_counters(bench.machine.backend, &counters);
    REQUIRE_EQUAL(counters.grant_pages_live, 0);
    REQUIRE_EQUAL(counters.ports_live, 0);
    svq_be_close_image(bench.image);
    svq_evtchn_close(bench.evtchn);
    fixture_stop(&bench.machine);
    close(bench.fd);
    unlink(bench.path);
}

/* A transfer of two pages of the frontend, granted in the window's first entries; header and status bounced. */
static void offer(uint32_t type, uint64_t sector, uint16_t grant_flags)
{
    struct vring_desc *table = (struct vring_desc *)(void *)(bench.pool[0] + 1024);
    uint16_t data_flags = type == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0;
    for (uint32_t i = 0; i < DATA_PAGES; i++)
        fixture_grant(&bench.machine, i, BACKEND, DATA_GFN + i, grant_flags);
    memcpy(bench.pool[0], &(uint64_t){ type }, 8);
    memcpy(bench.pool[0] + 8, &sector, 8);
    bench.pool[1][0] = 0xff;
    table[0] = (struct vring_desc){ svq_grant_addr(bench.pool_ref[0], 0), 16, VRING_DESC_F_NEXT, 1 };
    table[1] = (struct vring_desc){ svq_window_addr(WINDOW_GREF, 0), DATA_PAGES * 4096, VRING_DESC_F_NEXT | data_flags,
                                    2 };
    table[2] = (struct vring_desc){ svq_grant_addr(bench.pool_ref[1], 0), 1, VRING_DESC_F_WRITE, 0 };
    bench.desc[3] = (struct vring_desc){ svq_grant_addr(bench.pool_ref[0], 1024), 48, VRING_DESC_F_INDIRECT, 0 };
    bench.avail->ring[bench.avail->idx % SIZE] = 3;
    svq_release_u16(&bench.avail->idx, (uint16_t)(bench.avail->idx + 1));
    REQUIRE_EQUAL(svq_evtchn_notify(bench.evtchn, (uint32_t)bench.port), 0);
}

static void wait_used(uint16_t idx)
{
    while (svq_acquire_u16(&bench.used->idx) != idx) {
        struct pollfd fd = { .fd = svq_evtchn_fd(bench.evtchn), .events = POLLIN };
        REQUIRE_EQUAL(poll(&fd, 1, 20000), 1);
        int port;
        while ((port = svq_evtchn_pending(bench.evtchn)) > 0)
            svq_evtchn_unmask(bench.evtchn, (uint32_t)port);
    }
}

static void require_flags(uint16_t flags)
{
    for (uint32_t i = 0; i < DATA_PAGES; i++)
        REQUIRE_EQUAL(fixture_flags(&bench.machine, i), flags);
}

/* Waits until the request is held, by asking the device's thread. */
static void wait_held(void)
{
    struct svq_be_part part = { 0 };
    do {
        svq_be_live_parts(bench.dev, &part, 1);
    } while (!part.held);
}

TEST(sim_lifetime, "The grant entries of a request are in use while it lives, and free once it is returned")
{
    start();
    uint8_t *data = bench.machine.ram + DATA_GFN * 4096;
    svq_be_hold(bench.dev, 1);
    offer(VIRTIO_BLK_T_IN, 3, 0);
    wait_held();
    require_flags(GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    svq_be_hold(bench.dev, 0);
    wait_used(1);
    require_flags(GTF_PERMIT_ACCESS);
    REQUIRE_EQUAL(bench.used->ring[0].id, 3);
    REQUIRE_EQUAL(bench.used->ring[0].len, DATA_PAGES * 4096 + 1);
    REQUIRE_EQUAL(bench.pool[1][0], VIRTIO_BLK_S_OK);
    REQUIRE(data[0] == 4 && data[511] == 4 && data[512] == 5 && data[8191] == 19);
    memset(data, 0x77, 8192);
    svq_be_hold(bench.dev, 1);
    offer(VIRTIO_BLK_T_OUT, 8, GTF_READONLY);
    wait_held();
    require_flags(GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
    svq_be_hold(bench.dev, 0);
    wait_used(2);
    require_flags(GTF_PERMIT_ACCESS | GTF_READONLY);
    REQUIRE_EQUAL(pread(bench.fd, data + 8192, 8192, 8 * 512), 8192);
    REQUIRE_EQUAL(memcmp(data, data + 8192, 8192), 0);
    stop();
}

TEST(sim_refused, "A read into a frontend page granted read-only fails; the device goes on")
{
    start();
    offer(VIRTIO_BLK_T_IN, 0, GTF_READONLY);
    wait_used(1);
    REQUIRE_EQUAL(bench.pool[1][0], VIRTIO_BLK_S_IOERR);
    require_flags(GTF_PERMIT_ACCESS | GTF_READONLY);
    offer(VIRTIO_BLK_T_IN, 0, 0);
    wait_used(2);
    REQUIRE_EQUAL(bench.pool[1][0], VIRTIO_BLK_S_OK);
    stop();
}

SVQ_TEST_MAIN()
