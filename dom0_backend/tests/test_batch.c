/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that are taken up together share a mapping, and end by themselves: how many calls that takes. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "be_blk.h"
#include "be_slice.h"
#include "be_test.h"
#include "rig.h"

enum { SECTORS = 1024, LARGE_SECTORS = 8192, MOST = 64 };

static struct rig rig;
static struct buf bufs[MOST][3];

/* --- an image as slow as a test wants: operations end when, and in the order in which, it says ------------ */
static struct {
    pthread_mutex_t lock;
    bool on;
    struct svq_be_op *ops[MOST], *ended[MOST]; /* in the order of their start; to be reaped */
    uint32_t started, to_reap, reaped;
} slow = { .lock = PTHREAD_MUTEX_INITIALIZER };

void __real_svq_be_io_start(struct svq_be_io *io, struct svq_be_op *op);
struct svq_be_op *__real_svq_be_io_reap(struct svq_be_io *io);

void __wrap_svq_be_io_start(struct svq_be_io *io, struct svq_be_op *op)
{
    pthread_mutex_lock(&slow.lock);
    bool taken = slow.on;
    if (taken)
        slow.ops[slow.started++] = op;
    pthread_mutex_unlock(&slow.lock);
    if (!taken)
        __real_svq_be_io_start(io, op);
}

struct svq_be_op *__wrap_svq_be_io_reap(struct svq_be_io *io)
{
    struct svq_be_op *op = NULL;
    pthread_mutex_lock(&slow.lock);
    if (slow.reaped < slow.to_reap)
        op = slow.ended[slow.reaped++];
    pthread_mutex_unlock(&slow.lock);
    if (op)
        op->result = 0;
    return op ? op : __real_svq_be_io_reap(io);
}

/* Lets some operations end at once, in this order, and waits until their requests are returned. */
static void end_ops(const uint32_t *which, uint32_t count)
{
    pthread_mutex_lock(&slow.lock);
    for (uint32_t i = 0; i < count; i++)
        slow.ended[slow.to_reap++] = slow.ops[which[i]];
    pthread_mutex_unlock(&slow.lock);
    rig_kick(&rig, 0);
    for (uint32_t i = 0; i < count; i++)
        REQUIRE_EQUAL(rig_wait(&rig, 0).id, which[i]);
}

static void wait_started(uint32_t count)
{
    for (uint32_t started = 0; started < count; usleep(100)) {
        pthread_mutex_lock(&slow.lock);
        started = slow.started;
        pthread_mutex_unlock(&slow.lock);
    }
}

static void be_slow(void)
{
    slow.on = true;
    slow.started = slow.to_reap = slow.reaped = 0;
}

/* --- a pass: what is offered before the device starts, so that it takes all of it at once ----------------- */
static void attach(uint16_t queues, uint64_t sectors)
{
    slow.on = false;
    rig_open(&rig, "/tmp", sectors, 0);
    rig.config.force_sync = 1; /* operations end in the round in which they began */
    rig.config.queues = queues;
    rig_attach(&rig, MOST);
}

static void offer(uint32_t i, uint32_t type, uint32_t bytes)
{
    bufs[i][0] = rig_header(&rig, type, 8 * i);
    bufs[i][1] = rig_window(&rig, 0, bytes, type == VIRTIO_BLK_T_IN);
    bufs[i][2] = rig_pool(&rig, 9, 1, true);
    bufs[i][2].va[0] = 0xff;
    rig_offer(&rig, 0, bufs[i], 3);
}

static void start_and_wait(uint32_t count)
{
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    for (uint32_t i = 0; i < count; i++)
        rig_wait(&rig, 0); /* one that failed has no operation to wait for, and comes first */
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
}

static void expect_calls(uint32_t maps, uint32_t unmaps)
{
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), maps);
    REQUIRE_EQUAL(fake_unmap_calls(FRONTEND), unmaps);
    REQUIRE_EQUAL(rig_stats(&rig).map_calls, maps);
    REQUIRE_EQUAL(rig_stats(&rig).unmap_calls, unmaps);
}

static void expect_read(uint32_t i, uint32_t bytes)
{
    REQUIRE_EQUAL(bufs[i][2].va[0], VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(bufs[i][1].va[0], rig_byte(8 * i * 512));
    REQUIRE_EQUAL(bufs[i][1].va[bytes - 1], rig_byte(8 * i * 512 + bytes - 1));
}

TEST(one_call_each, "A pass of 32 reads of a page is mapped with one call and unmapped with one")
{
    attach(1, SECTORS);
    for (uint32_t i = 0; i < 32; i++)
        offer(i, VIRTIO_BLK_T_IN, 4096);
    start_and_wait(32);
    expect_calls(1, 1);
    REQUIRE_EQUAL(rig_stats(&rig).map_pages, 32);
    for (uint32_t i = 0; i < 32; i++)
        expect_read(i, 4096);
    rig_close(&rig);
}

TEST(alone, "A request that comes alone is mapped with one call and unmapped with one, and waits for no other")
{
    attach(1, SECTORS);
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    for (uint32_t i = 0; i < 16; i++) {
        offer(i, VIRTIO_BLK_T_IN, 8192);
        rig_kick(&rig, 0);
        rig_wait(&rig, 0);
        expect_calls(i + 1, i + 1);
        expect_read(i, 8192);
    }
    rig_close(&rig);
}

TEST(both_modes, "Reads and writes of one pass are mapped with one call per access mode, and unmapped likewise")
{
    attach(1, SECTORS);
    for (uint32_t i = 0; i < 16; i++) {
        offer(i, i % 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 4096 * (1 + i % 2));
        if (i % 3 == 0)
            memset(bufs[i][1].va, (int)i + 1, bufs[i][1].len);
    }
    start_and_wait(16);
    expect_calls(2, 2);
    for (uint32_t i = 0; i < 16; i++) {
        uint8_t back[2] = { 0 };
        REQUIRE_EQUAL(bufs[i][2].va[0], VIRTIO_BLK_S_OK);
        REQUIRE_EQUAL(pread(rig.image_fd, back, 1, 8 * i * 512), 1);
        REQUIRE_EQUAL(i % 3 ? bufs[i][1].va[0] : i + 1, back[0]);
    }
    rig_close(&rig);
}

TEST(out_of_order, "What ends is unmapped before its used entry, while the pages of its neighbours stay")
{
    attach(1, SECTORS);
    be_slow();
    for (uint32_t i = 0; i < 7; i++)
        offer(i, VIRTIO_BLK_T_IN, 4096);
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    wait_started(7);
    expect_calls(1, 0);
    end_ops((uint32_t[]){ 2 }, 1);
    for (uint32_t i = 0; i < 7; i++)
        REQUIRE_EQUAL(fake_entry_mapped(FRONTEND, bufs[i][1].gref), i != 2);
    expect_calls(1, 1);
    end_ops((uint32_t[]){ 4, 3 }, 2); /* side by side: one call, though they ended the other way round */
    expect_calls(1, 2);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 4);
    end_ops((uint32_t[]){ 6, 0 }, 2); /* two runs */
    expect_calls(1, 4);
    REQUIRE(fake_entry_mapped(FRONTEND, bufs[1][1].gref) && fake_entry_mapped(FRONTEND, bufs[5][1].gref));
    end_ops((uint32_t[]){ 5, 1 }, 2);
    expect_calls(1, 6);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    rig_close(&rig);
}

TEST(slow_one, "A slow request keeps nothing of those that come after it")
{
    attach(1, SECTORS);
    be_slow();
    offer(0, VIRTIO_BLK_T_IN, 4096);
    offer(1, VIRTIO_BLK_T_IN, 4096);
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    wait_started(2);
    slow.on = false; /* for the next ones */
    end_ops((uint32_t[]){ 1 }, 1);
    for (uint32_t i = 2; i < 40; i++) {
        offer(i, VIRTIO_BLK_T_IN, 4096);
        rig_kick(&rig, 0);
        rig_wait(&rig, 0);
        REQUIRE_EQUAL(fake_mapped(FRONTEND), 1);
        expect_read(i, 4096);
    }
    end_ops((uint32_t[]){ 0 }, 1);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    rig_close(&rig);
}

TEST(one_bad, "One page without a grant costs its own request IOERR, and the others of its pass nothing")
{
    static const uint32_t bads[] = { 0, 3, 7 };
    for (uint32_t round = 0; round < sizeof bads / sizeof bads[0]; round++) {
        uint32_t bad = bads[round];
        attach(1, SECTORS);
        for (uint32_t i = 0; i < 8; i++)
            offer(i, VIRTIO_BLK_T_IN, 4096);
        fake_revoke(FRONTEND, bufs[bad][1].gref);
        start_and_wait(8);
        for (uint32_t i = 0; i < 8; i++) {
            if (i == bad)
                REQUIRE_EQUAL(bufs[i][2].va[0], VIRTIO_BLK_S_IOERR);
            else
                expect_read(i, 4096);
        }
        REQUIRE_EQUAL(rig_stats(&rig).map_failures, 1);
        expect_calls(1 + 8, 7); /* all, then each by itself */
        rig_close(&rig);
    }
}

TEST(bad_writable, "A request of which only one access mode is refused lets go of the other before it is returned")
{
    attach(1, SECTORS);
    for (uint32_t i = 0; i < 3; i++) { /* header and data in the window: both access modes */
        bufs[i][0] = rig_window(&rig, 0, 16, false);
        bufs[i][1] = rig_window(&rig, 0, 4096, true);
        bufs[i][2] = rig_window(&rig, 7, 1, true);
        bufs[i][2].va[0] = 0xff;
        rig_offer(&rig, 0, bufs[i], 3);
    }
    fake_revoke(FRONTEND, bufs[1][1].gref);
    start_and_wait(3);
    REQUIRE_EQUAL(bufs[0][2].va[0], VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(bufs[1][2].va[0], VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(bufs[2][2].va[0], VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 1 + 1 + 3 + 1); /* readable, writable, one by one, the status */
    REQUIRE_EQUAL(rig_stats(&rig).map_failures, 1);
    rig_close(&rig);
}

TEST(large_pass, "A pass with more pages than one call maps is mapped with as few calls as they fit in")
{
    attach(1, LARGE_SECTORS);
    for (uint32_t i = 0; i < 3; i++)
        offer(i, VIRTIO_BLK_T_IN, 1000 * 4096);
    start_and_wait(3);
    expect_calls(2, 2);
    for (uint32_t i = 0; i < 3; i++)
        expect_read(i, 1000 * 4096);
    rig_close(&rig);
}

TEST(too_large_beside_others, "A request beyond the bound on pages fails alone, whatever it is taken up with")
{
    attach(1, SECTORS);
    offer(0, VIRTIO_BLK_T_IN, 4096);
    offer(1, VIRTIO_BLK_T_IN, 2048 * 4096);
    offer(2, VIRTIO_BLK_T_IN, 4096);
    start_and_wait(3);
    expect_calls(1, 1);
    expect_read(0, 4096);
    REQUIRE_EQUAL(bufs[1][2].va[0], VIRTIO_BLK_S_IOERR);
    expect_read(2, 4096);
    rig_close(&rig);
}

TEST(no_parts, "Where a mapping ends as a whole only, each request has mappings of its own")
{
    attach(1, SECTORS);
    svq_be_destroy(rig.dev); /* it asks when it is created */
    fake_no_parts(true);
    rig_attach(&rig, MOST);
    for (uint32_t i = 0; i < 8; i++)
        offer(i, VIRTIO_BLK_T_IN, 8192);
    start_and_wait(8);
    expect_calls(8, 8);
    for (uint32_t i = 0; i < 8; i++)
        expect_read(i, 8192);
    rig_close(&rig);
}

TEST(refused, "If the unmap of a run is refused none of its requests is returned, and other queues go on")
{
    attach(2, SECTORS);
    for (uint32_t i = 0; i < 4; i++)
        offer(i, VIRTIO_BLK_T_IN, 4096);
    fake_refuse_unmap(FRONTEND, true);
    REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
    struct pollfd fd = { .fd = svq_be_error_fd(rig.dev), .events = POLLIN };
    REQUIRE_EQUAL(poll(&fd, 1, 20000), 1);
    struct svq_be_error error;
    REQUIRE_EQUAL(svq_be_read_error(rig.dev, &error), 1);
    REQUIRE(error.fault == SVQ_BE_FAULT_UNMAP && error.queue == 0);
    struct buf other[2] = { rig_header(&rig, VIRTIO_BLK_T_FLUSH, 0), rig_pool(&rig, 9, 1, true) };
    rig_offer(&rig, 1, other, 2);
    rig_kick(&rig, 1);
    rig_wait(&rig, 1);
    REQUIRE_EQUAL(svq_be_stop(rig.dev), 0);
    REQUIRE_EQUAL(rig_stats(&rig).live_requests, 0);
    REQUIRE_EQUAL(rig.q[0].used->idx, 0);
    rig_close(&rig);
}

/* --- slices by themselves -------------------------------------------------------------------------------- */
enum { SLICES = 6 };

static struct svq_be_slice slices[SLICES];

/* Slices of 1, 2, 3, ... pages of one mapping. */
static void place_slices(void)
{
    uint32_t grefs[SLICES * (SLICES + 1) / 2], pages = 0;
    void *va = NULL;
    fake_reset();
    for (uint32_t i = 0; i < SLICES * (SLICES + 1) / 2; i++) {
        grefs[i] = 100 + i;
        fake_grant(FRONTEND, grefs[i], fake_frames(1), true);
    }
    REQUIRE_EQUAL(svq_hv_map_grants(fake_handle(), FRONTEND, grefs, SLICES * (SLICES + 1) / 2, 1, &va), 0);
    for (uint32_t i = 0; i < SLICES; i++) {
        slices[i] = (struct svq_be_slice){ .pages = i + 1 };
        svq_be_slice_place(&slices[i], i ? &slices[i - 1] : NULL, va, SLICES * (SLICES + 1) / 2);
        REQUIRE(svq_be_slice_va(&slices[i]) == (uint8_t *)va + (size_t)pages * SVQ_PAGE_SIZE);
        pages += i + 1;
    }
}

/* Ends slices that are done together, and answers how many calls that took. */
static uint32_t end_slices(const uint32_t *which, uint32_t count, int error)
{
    uint64_t calls = 0;
    for (uint32_t i = 0; i < count; i++)
        slices[which[i]].done = true;
    for (uint32_t i = 0; i < count; i++) {
        REQUIRE_EQUAL(svq_be_slice_end(fake_handle(), &slices[which[i]], &calls), error);
        REQUIRE_EQUAL(slices[which[i]].pages, 0);
    }
    return (uint32_t)calls;
}

TEST(merged, "Slices that are done and lie side by side end with one call, from whichever of them it starts")
{
    place_slices();
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 3, 0, 1, 2, 5, 4 }, SLICES, 0), 1);
    REQUIRE_EQUAL(fake_unmap_calls(FRONTEND), 1);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);

    place_slices();
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 2, 1, 4 }, 3, 0), 2);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 1 + 4 + 6);
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 0, 3 }, 2, 0), 2); /* what lay between them has gone: two calls */
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 6);
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 5 }, 1, 0), 1);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
}

TEST(merged_error, "Every slice of a run whose unmap was refused says so, and no other does")
{
    place_slices();
    fake_refuse_unmap(FRONTEND, true);
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 1, 2 }, 2, -EINVAL), 1);
    fake_refuse_unmap(FRONTEND, false);
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 0 }, 1, 0), 1);
    REQUIRE_EQUAL(end_slices((uint32_t[]){ 3, 4, 5 }, 3, 0), 1);
    uint64_t calls = 0;
    REQUIRE_EQUAL(svq_be_slice_end(fake_handle(), &slices[1], &calls), -EINVAL);
    REQUIRE_EQUAL(calls, 0);
}

SVQ_TEST_MAIN()
