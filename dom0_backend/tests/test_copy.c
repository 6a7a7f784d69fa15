/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that the hypervisor copies in place of their being mapped, and from which size on none is. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "barrier.h"
#include "be_blk.h"
#include "be_copy.h"
#include "be_crossover.h"
#include "be_io_impl.h"
#include "be_test.h"
#include "rig.h"

enum { SECTORS = 2048, SIZE = 256 };

static struct rig rig;

static void start(int32_t copy_pages)
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.copy_pages = copy_pages;
    rig_start(&rig, SIZE);
}

/* Header and status are the mediator's. */
static void data_request(uint32_t type, uint64_t sector, uint32_t offset, uint32_t len, struct buf bufs[3])
{
    bufs[0] = rig_header(&rig, type, sector);
    bufs[1] = rig_window(&rig, offset, len, type == VIRTIO_BLK_T_IN);
    bufs[2] = rig_pool(&rig, 9, 1, true);
    memset(bufs[1].va, 0xa5, len);
    bufs[2].va[0] = 0xff;
}

static void wait_all(uint32_t count)
{
    while (count-- > 0)
        rig_wait(&rig, 0);
}

TEST(by_size, "A side of a request is copied up to the configured pages, and mapped from there on")
{
    struct buf bufs[3];
    start(2);
    for (uint32_t i = 0; i < 4; i++) {
        static const struct {
            uint32_t type, offset, len, maps, copies;
        } cases[] = {
            { VIRTIO_BLK_T_IN, 0, 8192, 0, 1 },    /* copied out */
            { VIRTIO_BLK_T_OUT, 0, 8192, 0, 1 },   /* copied in */
            { VIRTIO_BLK_T_IN, 512, 8192, 1, 0 },  /* three pages */
            { VIRTIO_BLK_T_OUT, 512, 8192, 1, 0 }, /* likewise */
        };
        uint32_t maps = fake_map_calls(FRONTEND), copies = fake_copy_calls(FRONTEND);
        data_request(cases[i].type, 4, cases[i].offset, cases[i].len, bufs);
        REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
        REQUIRE_EQUAL(fake_map_calls(FRONTEND) - maps, cases[i].maps);
        REQUIRE_EQUAL(fake_copy_calls(FRONTEND) - copies, cases[i].copies);
        if (i == 0) /* later ones read what was written */
            REQUIRE(rig_holds_image(bufs[1].va, 4 * 512, 8192));
    }
    REQUIRE(rig_all(bufs[1].va, 8192, 0xa5));
    REQUIRE_EQUAL(rig_stats(&rig).copied_sides, 2);
    REQUIRE_EQUAL(rig_stats(&rig).copy_calls, 2);
    REQUIRE_EQUAL(rig_stats(&rig).copy_pages, 2);
    rig_close(&rig);
}

TEST(one_call, "What a pass takes is copied in with one call, and what ends in it is copied out with one")
{
    enum { MANY = 40 };
    static struct buf bufs[MANY][3];
    for (int write = 0; write <= 1; write++) {
        rig_open(&rig, "/tmp", SECTORS, 0);
        rig.config.copy_pages = 1;
        rig.config.force_sync = 1; /* each ends in the pass that takes it */
        rig_attach(&rig, SIZE);
        for (uint32_t i = 0; i < MANY; i++) {
            data_request(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, i * 8, 0, 4096, bufs[i]);
            rig_offer(&rig, 0, bufs[i], 3);
        }
        REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
        wait_all(MANY);
        REQUIRE_EQUAL(fake_copied(FRONTEND), MANY);
        REQUIRE_EQUAL(fake_copy_calls(FRONTEND), 1);
        REQUIRE_EQUAL(fake_map_calls(FRONTEND), 0);
        for (uint32_t i = 0; i < MANY; i++) {
            REQUIRE_EQUAL(bufs[i][2].va[0], VIRTIO_BLK_S_OK);
            REQUIRE(write || rig_holds_image(bufs[i][1].va, i * 4096, 4096));
        }
        rig_close(&rig);
    }
}

TEST(bad_grefs, "Of many requests in one call, those whose page is not granted so fail, and no others")
{
    enum { MANY = 32 };
    static struct buf bufs[MANY][3];
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.copy_pages = 4;
    rig.config.force_sync = 1;
    rig_attach(&rig, SIZE);
    for (uint32_t i = 0; i < MANY; i++) {
        data_request(i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, i * 16, 0, 8192, bufs[i]);
        if (i % 8 < 2) /* the second page is not granted */
            fake_end_grant(FRONTEND, bufs[i][1].gref + 1);
        if (i % 8 == 2) { /* it is, but for reading only */
            uint32_t frame = (uint32_t)((bufs[i][1].va - fake_va(0)) / SVQ_PAGE_SIZE) + 1;
            fake_grant(FRONTEND, bufs[i][1].gref + 1, frame, false);
        }
        rig_offer(&rig, 0, bufs[i], 3);
    }
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    wait_all(MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        bool bad = i % 8 < 3;
        uint8_t byte;
        REQUIRE_EQUAL(bufs[i][2].va[0], bad ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
        REQUIRE_EQUAL(pread(rig.image_fd, &byte, 1, (off_t)i * 8192), 1);
        REQUIRE_EQUAL(byte, i % 2 && !bad ? 0xa5 : rig_byte((uint64_t)i * 8192)); /* a failed write wrote nothing */
        if (i % 2 == 0)
            REQUIRE(bad ? rig_all(bufs[i][1].va + 4096, 4096, 0xa5)
                        : rig_holds_image(bufs[i][1].va, (uint64_t)i * 8192, 8192));
    }
    REQUIRE_EQUAL(rig_stats(&rig).map_failures, MANY / 8 * 3);
    REQUIRE_EQUAL(rig_stats(&rig).io_errors, MANY / 8 * 3);
    REQUIRE_EQUAL(rig_stats(&rig).reads + rig_stats(&rig).writes, MANY - MANY / 8); /* not copied in: not parsed */
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 0);
    rig_close(&rig);
}

TEST(status_in_window, "With placement page the status is copied too, and says so where the data could not be")
{
    struct buf bufs[3];
    start(16);
    for (int what = 0; what < 4; what++) {
        bufs[0] = rig_window(&rig, 100, 16, false);
        memset(bufs[0].va, 0, 16);
        bufs[0].va[8] = 7; /* sector */
        bufs[1] = rig_window(&rig, 0, 4096, true);
        bufs[2] = rig_window(&rig, 4000, 1, true);
        memset(bufs[2].va - 10, 0xee, 21);
        uint32_t calls = fake_copy_calls(FRONTEND);
        if (what == 1)
            fake_end_grant(FRONTEND, bufs[1].gref);
        if (what == 2)
            fake_end_grant(FRONTEND, bufs[0].gref);
        if (what == 3)
            fake_end_grant(FRONTEND, bufs[2].gref);
        uint16_t head = rig_offer(&rig, 0, bufs, 3);
        rig_kick(&rig, 0);
        struct vring_used_elem used = rig_wait(&rig, 0);
        REQUIRE_EQUAL(used.id, head);
        REQUIRE_EQUAL(used.len, what == 3 ? 0 : 4097); /* its status cannot be reported */
        REQUIRE_EQUAL(fake_copy_calls(FRONTEND) - calls, what == 1 || what == 3 ? 3 : 2);
        if (what == 0)
            REQUIRE(rig_holds_image(bufs[1].va, 7 * 512, 4096));
        if (what < 3)
            REQUIRE_EQUAL(bufs[2].va[0], what == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
        REQUIRE(rig_all(bufs[2].va - 10, 10, 0xee) &&
                rig_all(bufs[2].va + 1, 10, 0xee)); /* its neighbours on the page */
    }
    REQUIRE_EQUAL(rig_stats(&rig).no_status, 1);
    REQUIRE_EQUAL(rig_stats(&rig).map_failures, 3);
    REQUIRE_EQUAL(rig_stats(&rig).read_bytes, 4096); /* only of what has arrived */
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 0);
    rig_close(&rig);
}

TEST(no_stale_bytes,
     "What a request leaves unwritten arrives as zeros, never as bytes of an earlier request in its slot")
{
    struct buf bufs[3];
    start(2);
    for (int i = 0; i < SVQ_BE_COPY_SLOTS; i++) { /* a secret, in any slot, at any offset */
        data_request(i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 1, 0, 8192, bufs);
        REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
    }
    for (int i = 0; i < 4; i++) {
        static const struct {
            uint32_t type;
            uint64_t sector;
            uint8_t status;
        } cases[] = {
            { VIRTIO_BLK_T_IN, SECTORS, VIRTIO_BLK_S_IOERR },     /* beyond the image */
            { VIRTIO_BLK_T_IN, SECTORS - 7, VIRTIO_BLK_S_IOERR }, /* its last sector is */
            { 77, 0, VIRTIO_BLK_S_UNSUPP },
            { VIRTIO_BLK_T_GET_ID, 0, VIRTIO_BLK_S_OK },
        };
        data_request(VIRTIO_BLK_T_IN, cases[i].sector, 256, 4096, bufs);
        memcpy(bufs[0].va, &cases[i].type, 4);
        memset(bufs[1].va - 256, 0x5a, 8192);
        REQUIRE_EQUAL(rig_do(&rig, bufs, 3), cases[i].status);
        uint32_t id = cases[i].type == VIRTIO_BLK_T_GET_ID ? 20 : 0;
        REQUIRE(id == 0 || memcmp(bufs[1].va, "rig-serial", 11) == 0);
        REQUIRE(rig_all(bufs[1].va + id, 4096 - id, 0));
        REQUIRE(rig_all(bufs[1].va - 256, 256, 0x5a) && rig_all(bufs[1].va + 4096, 8192 - 4096 - 256, 0x5a));
    }
    REQUIRE_EQUAL(ftruncate(rig.image_fd, SECTORS / 2 * 512), 0); /* the image fails in the middle of a read */
    data_request(VIRTIO_BLK_T_IN, SECTORS / 2 - 8, 0, 8192, bufs);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_IOERR);
    REQUIRE(rig_holds_image(bufs[1].va, (SECTORS / 2 - 8) * 512, 4096) || rig_all(bufs[1].va, 4096, 0));
    REQUIRE(rig_all(bufs[1].va + 4096, 4096, 0));
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 0);
    rig_close(&rig);
}

TEST(pool_empty, "When all slots are in use, further requests are mapped, and go on")
{
    enum { MANY = SVQ_BE_COPY_SLOTS + 40 };
    static struct buf bufs[MANY][3];
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.copy_pages = 1;
    rig.config.queues = 2;
    rig.config.force_sync = 1;
    rig_attach(&rig, SIZE);
    for (uint32_t i = 0; i < MANY; i++) {
        data_request(VIRTIO_BLK_T_IN, i, 0, 4096, bufs[i]);
        rig_offer(&rig, i % 2, bufs[i], 3);
    }
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    for (uint32_t i = 0; i < MANY; i++)
        rig_wait(&rig, i % 2);
    for (uint32_t i = 0; i < MANY; i++) {
        REQUIRE_EQUAL(bufs[i][2].va[0], VIRTIO_BLK_S_OK);
        REQUIRE(rig_holds_image(bufs[i][1].va, i * 512, 4096));
    }
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 40);
    REQUIRE_EQUAL(rig_stats(&rig).copied_sides, SVQ_BE_COPY_SLOTS);
    REQUIRE_EQUAL(rig_stats(&rig).copy_misses, 40);
    data_request(VIRTIO_BLK_T_IN, 0, 0, 4096, bufs[0]); /* and the slots have come back */
    REQUIRE_EQUAL(rig_do(&rig, bufs[0], 3), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 40);
    rig_close(&rig);
}

TEST(held_are_mapped, "While requests are held they are mapped, whatever their size; afterwards they are copied again")
{
    struct buf bufs[3];
    start(16);
    REQUIRE_EQUAL(svq_be_hold(rig.dev, 1), 0);
    data_request(VIRTIO_BLK_T_IN, 5, 0, 4096, bufs);
    rig_offer(&rig, 0, bufs, 3);
    rig_kick(&rig, 0);
    while (rig_stats(&rig).held_requests < 1)
        usleep(100);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 1);
    REQUIRE_EQUAL(fake_copy_calls(FRONTEND), 0);
    REQUIRE_EQUAL(svq_be_hold(rig.dev, 0), 0);
    wait_all(1);
    REQUIRE_EQUAL(bufs[2].va[0], VIRTIO_BLK_S_OK);
    data_request(VIRTIO_BLK_T_IN, 5, 0, 4096, bufs);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(fake_copy_calls(FRONTEND), 1);
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 1);
    rig_close(&rig);
}

TEST(nothing_afterwards, "Once its used entry is visible, nothing of a request is copied any more")
{
    struct buf bufs[3];
    start(16);
    for (int i = 0; i < 300; i++) {
        data_request(i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 1, 0, 4096, bufs);
        REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
        uint32_t copied = fake_copied(FRONTEND);
        memset(bufs[1].va, 0x77, 4096);
        fake_end_grant(FRONTEND, bufs[1].gref);                /* as the mediator does by then */
        REQUIRE_EQUAL(svq_be_live_parts(rig.dev, NULL, 0), 0); /* at least one round */
        REQUIRE_EQUAL(fake_copied(FRONTEND), copied);
        REQUIRE(rig_all(bufs[1].va, 4096, 0x77));
    }
    REQUIRE_EQUAL(rig_stats(&rig).map_failures, 0);
    rig_close(&rig);
}

/* While the storage is slow, no operation ends. */
static atomic_bool slow;

struct svq_be_op *__real_svq_be_uring_peek(struct svq_be_io *io, int64_t *answer);
struct svq_be_op *__wrap_svq_be_uring_peek(struct svq_be_io *io, int64_t *answer);

struct svq_be_op *__wrap_svq_be_uring_peek(struct svq_be_io *io, int64_t *answer)
{
    return slow ? NULL : __real_svq_be_uring_peek(io, answer);
}

static void *stop_it(void *unused)
{
    (void)unused;
    REQUIRE_EQUAL(svq_be_stop(rig.dev), 0);
    return NULL;
}

/* A read whose operation ends so long after stop. Returns whether it was returned. */
static bool stop_with_a_read(uint32_t us)
{
    struct buf bufs[3];
    pthread_t stopping;
    slow = true;
    data_request(VIRTIO_BLK_T_IN, 1, 0, 4096, bufs);
    rig_offer(&rig, 0, bufs, 3);
    rig_kick(&rig, 0);
    while (rig_stats(&rig).live_requests == 0)
        usleep(100);
    REQUIRE_EQUAL(pthread_create(&stopping, NULL, stop_it, NULL), 0);
    usleep(us);
    slow = false;
    rig_kick(&rig, 0);
    pthread_join(stopping, NULL);
    bool returned = svq_load_u16(&rig.q[0].used->idx) == 1;
    REQUIRE_EQUAL(fake_copied(FRONTEND), returned ? 1 : 0);
    REQUIRE(returned ? rig_holds_image(bufs[1].va, 512, 4096) : rig_all(bufs[1].va, 4096, 0xa5));
    REQUIRE_EQUAL(rig_stats(&rig).live_requests, 0);
    return returned;
}

TEST(stop_late,
     "What ends soon after stop is copied out and returned; what ends late is neither, as it may be no more ours")
{
    start(16);
    bool uring = rig_stats(&rig).io_engine == SVQ_BE_ENGINE_URING;
    rig_close(&rig);
    if (!uring) /* this kernel ends every operation at once */
        return;
    start(16);
    REQUIRE(!stop_with_a_read(300000));
    rig_close(&rig);
    bool returned = false;
    for (int tries = 0; tries < 10 && !returned; tries++) { /* on a busy machine, soon may be late */
        start(16);
        returned = stop_with_a_read(1000);
        rig_close(&rig);
    }
    REQUIRE(returned);
}

TEST(cannot_copy, "A size that is demanded where nothing can be copied is refused with a sentence; auto maps")
{
    for (int i = 0; i < 2; i++) {
        rig_open(&rig, "/tmp", SECTORS, 0);
        svq_be_crossover_forget();
        fake_refuse_copies(true);
        rig.config.copy_pages = i == 0 ? 4 : SVQ_BE_COPY_AUTO;
        REQUIRE_EQUAL(svq_be_create(fake_handle(), rig.image, &rig.config, &rig.dev), 0);
        struct buf ring = rig_pool(&rig, 0, 3 * SVQ_PAGE_SIZE, true);
        int port = svq_evtchn_alloc_unbound(rig.evtchn, 0);
        uint32_t refs[3] = { ring.gref, ring.gref + 1, ring.gref + 2 };
        int rc = svq_be_queue_attach(rig.dev, 0, 16, &refs[0], &refs[1], &refs[2], (uint32_t)port);
        struct svq_be_crossover crossover;
        svq_be_read_crossover(rig.dev, &crossover);
        REQUIRE_EQUAL(rc, i == 0 ? -ENOSYS : 0);
        REQUIRE(i == 1 || strstr(svq_be_why(), "grant_copy"));
        REQUIRE_EQUAL(crossover.error, i == 0 ? 0 : -ENOSYS);
        REQUIRE_EQUAL(rig_stats(&rig).copy_pages, 0);
        rig_close(&rig);
    }
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.copy_pages = SVQ_BE_COPY_PAGES_MAX + 1;
    REQUIRE_EQUAL(svq_be_create(fake_handle(), rig.image, &rig.config, &rig.dev), -EINVAL);
    rig.config.copy_pages = 0;
    rig_start(&rig, 16);
    rig_close(&rig);
}

TEST(arithmetic, "The crossover is the most pages that cost less to copy than one page to map")
{
    REQUIRE_EQUAL(svq_be_crossover_pages(1000, 1000, 2500), 0); /* one page already costs as much */
    REQUIRE_EQUAL(svq_be_crossover_pages(1001, 1000, 2500), 1);
    REQUIRE_EQUAL(svq_be_crossover_pages(1301, 1000, 2500), 4); /* 1000, 1100, 1200, 1300 */
    REQUIRE_EQUAL(svq_be_crossover_pages(1300, 1000, 2500), 3);
    REQUIRE_EQUAL(svq_be_crossover_pages(100000, 1000, 2500), 16);
    REQUIRE_EQUAL(svq_be_crossover_pages(1000, 900, 800), 16); /* noise: more pages seem to cost less */
    REQUIRE_EQUAL(svq_be_crossover_pages(0, 0, 0), 0);
}

TEST(measured_once, "The crossover is measured with the first queue, in bounded time, and then known to the process")
{
    struct svq_be_crossover first, second;
    svq_be_crossover_forget();
    start(SVQ_BE_COPY_AUTO);
    svq_be_read_crossover(rig.dev, &first);
    uint32_t calls = fake_copy_calls(MEDIATOR);
    REQUIRE(calls >= 2 && calls <= 64);
    REQUIRE(first.map_ns > 0 && first.copy_ns > 0 && first.copy_16_ns > 0);
    REQUIRE_EQUAL(first.pages, svq_be_crossover_pages(first.map_ns, first.copy_ns, first.copy_16_ns));
    REQUIRE_EQUAL(rig_stats(&rig).copy_pages, first.pages);
    REQUIRE_EQUAL(fake_copy_calls(FRONTEND), 0);
    rig_close(&rig);
    start(SVQ_BE_COPY_AUTO);
    svq_be_read_crossover(rig.dev, &second);
    REQUIRE_EQUAL(fake_copy_calls(MEDIATOR), 0);
    REQUIRE_EQUAL(memcmp(&first, &second, sizeof first), 0);
    struct buf bufs[3];
    data_request(VIRTIO_BLK_T_IN, 3, 0, 4096, bufs);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(bufs[1].va, 3 * 512, 4096));
    rig_close(&rig);
}

SVQ_TEST_MAIN()
