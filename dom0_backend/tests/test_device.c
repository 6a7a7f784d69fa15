/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The device as a whole: lifetimes of mappings, hold, several queues, stopping, faults. */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "barrier.h"
#include "be_blk.h"
#include "be_test.h"
#include "rig.h"

enum { SECTORS = 2048 };

static struct rig rig;

static uint16_t offer_read(uint32_t queue, uint64_t sector, struct buf bufs[3])
{
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_IN, sector);
    bufs[1] = rig_window(&rig, 0, 4096, true);
    bufs[2] = rig_pool(&rig, 9, 1, true);
    bufs[2].va[0] = 0xff;
    return rig_offer(&rig, queue, bufs, 3);
}

/* Waits until the backend holds `count` requests; the hold makes that state stable. */
static void wait_held(uint64_t count)
{
    struct svq_be_part part;
    do {
        svq_be_live_parts(rig.dev, &part, 1); /* runs between two rounds */
    } while (rig_stats(&rig).held_requests < count);
}

TEST(hold, "Held requests are mapped, listed and not returned; once released, they go on")
{
    struct buf bufs[3], second[3];
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    struct svq_be_part parts[8];
    REQUIRE_EQUAL(svq_be_live_parts(rig.dev, parts, 8), 0);
    REQUIRE_EQUAL(svq_be_hold(rig.dev, 1), 0);
    uint16_t head = offer_read(0, 5, bufs);
    rig_kick(&rig, 0);
    wait_held(1);
    REQUIRE_EQUAL(svq_be_live_parts(rig.dev, NULL, 0), 3);
    REQUIRE_EQUAL(svq_be_live_parts(rig.dev, parts, 8), 3);
    REQUIRE(parts[0].gref == bufs[0].gref && parts[0].offset == 64 && parts[0].length == 16 && !parts[0].writable);
    REQUIRE(parts[1].gref == bufs[1].gref && parts[1].owner == FRONTEND && parts[1].writable && parts[1].held);
    REQUIRE(parts[2].owner == MEDIATOR && parts[2].head == head);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 1);
    REQUIRE_EQUAL(svq_load_u16(&rig.q[0].used->idx), 0);
    offer_read(0, 6, second);
    rig_kick(&rig, 0);
    wait_held(2);
    REQUIRE_EQUAL(svq_be_hold(rig.dev, 0), 0);
    rig_wait(&rig, 0);
    rig_wait(&rig, 0);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    REQUIRE_EQUAL(bufs[2].va[0], 0);
    REQUIRE_EQUAL(bufs[1].va[0], rig_byte(5 * 512));
    REQUIRE_EQUAL(svq_be_live_parts(rig.dev, parts, 8), 0);
    REQUIRE_EQUAL(rig_stats(&rig).live_requests, 0);
    rig_close(&rig);
}

TEST(strict_lifetime,
     "Once a completion is visible, nothing of its request is mapped; one map call for each access mode")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    for (int i = 0; i < 200; i++) {
        struct buf bufs[5] = {
            rig_window(&rig, 4080, 16, false), rig_window(&rig, 100, 512, false),
            rig_window(&rig, 0, 5000, true), /* more than the status: zeroed */
            rig_pool(&rig, 0, 10, true),       rig_window(&rig, 3, 1, true),
        };
        uint32_t calls = fake_map_calls(FRONTEND);
        bufs[0].va[0] = VIRTIO_BLK_T_OUT;
        REQUIRE_EQUAL(rig_do(&rig, bufs, 5), VIRTIO_BLK_S_OK);
        REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
        REQUIRE_EQUAL(fake_map_calls(FRONTEND) - calls, 2);
    }
    rig_close(&rig);
}

TEST(pool_mapped_once, "Mediator pages are mapped only at first use")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    struct buf bufs[3];
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_IN, 0);
    bufs[1] = rig_pool(&rig, 0, 8192, true);
    bufs[2] = rig_pool(&rig, 0, 1, true);
    rig_offer_direct(&rig, 0, bufs, 3);
    rig_kick(&rig, 0);
    rig_wait(&rig, 0);
    uint32_t calls = fake_map_calls(MEDIATOR);
    for (int i = 0; i < 100; i++) {
        rig_offer_direct(&rig, 0, bufs, 3);
        rig_kick(&rig, 0);
        rig_wait(&rig, 0);
    }
    REQUIRE_EQUAL(fake_map_calls(MEDIATOR), calls);
    REQUIRE_EQUAL(rig_stats(&rig).cache_pages, 4);
    rig_close(&rig);
}

TEST(pool_page_both_ways, "A mediator page may be described as readable and as writable")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    struct buf status = rig_pool(&rig, 100, 1, true);
    struct buf header = status;
    header.offset = 0;
    header.len = 16;
    header.va = status.va - 100;
    header.writable = false;
    header.va[0] = VIRTIO_BLK_T_FLUSH;
    for (int i = 0; i < 3; i++)
        REQUIRE_EQUAL(rig_do(&rig, (struct buf[]){ header, status }, 2), VIRTIO_BLK_S_OK);
    rig_close(&rig);
}

TEST(cache_bounded, "The cache stays within its bound by unmapping unused pages")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.cache_pages = 4096;
    rig_start(&rig, 16);
    for (int i = 0; i < 1500; i++) { /* 3 fresh pool pages each: header, table, status */
        struct buf bufs[2] = { rig_header(&rig, VIRTIO_BLK_T_FLUSH, 0), rig_pool(&rig, 0, 1, true) };

        REQUIRE_EQUAL(rig_do(&rig, bufs, 2), VIRTIO_BLK_S_OK);
    }
    struct svq_be_stats stats = rig_stats(&rig);
    REQUIRE_EQUAL(stats.cache_pages, 4096);
    REQUIRE_EQUAL(stats.cache_evictions, 4500 - 4096);
    rig_close(&rig);
}

TEST(cache_full, "A request without room in the cache waits in its ring until others have ended")
{
    rig_open(&rig, "/tmp", 16384, 0);
    rig.config.cache_pages = 4096;
    rig_start(&rig, 16);
    svq_be_hold(rig.dev, 1);
    struct buf bufs[3][3];
    for (int i = 0; i < 3; i++) {
        bufs[i][0] = rig_header(&rig, VIRTIO_BLK_T_IN, 8);
        bufs[i][1] = rig_pool(&rig, 0, 1800 * 4096, true);
        bufs[i][2] = rig_pool(&rig, 0, 1, true);
        rig_offer(&rig, 0, bufs[i], 3);
    }
    rig_kick(&rig, 0);
    wait_held(2);
    REQUIRE_EQUAL(svq_be_live_parts(rig.dev, NULL, 0), 6);
    REQUIRE_EQUAL(rig_stats(&rig).cache_pages, 4096);
    svq_be_hold(rig.dev, 0);
    for (int i = 0; i < 3; i++) {
        REQUIRE_EQUAL(rig_wait(&rig, 0).len, 1800 * 4096 + 1);
        REQUIRE_EQUAL(bufs[i][2].va[0], VIRTIO_BLK_S_OK);
        REQUIRE_EQUAL(bufs[i][1].va[1800 * 4096 - 1], rig_byte(8 * 512 + 1800 * 4096 - 1));
    }
    rig_close(&rig);
}

static void run_queues(uint64_t features_off, uint32_t poll_us)
{
    static struct buf bufs[RIG_QUEUES][16][3];
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.queues = RIG_QUEUES;
    rig.config.features &= ~features_off;
    rig.config.poll_us = poll_us;
    rig.config.max_requests = 24; /* fewer than are offered: the rest waits in the rings */
    rig_start(&rig, 16);
    for (int round = 0; round < 10; round++) {
        for (uint32_t q = 0; q < RIG_QUEUES; q++) {
            for (uint32_t i = 0; i < 16; i++)
                offer_read(q, (uint64_t)(round + 1) * (q + 1) * (i + 1), bufs[q][i]);
            rig_kick(&rig, q);
        }
        for (uint32_t q = 0; q < RIG_QUEUES; q++) {
            for (uint32_t i = 0; i < 16; i++)
                REQUIRE_EQUAL(rig_wait(&rig, q).len, 4097);
            for (uint32_t i = 0; i < 16; i++) {
                uint64_t at = (uint64_t)(round + 1) * (q + 1) * (i + 1) * 512;
                REQUIRE_EQUAL(bufs[q][i][2].va[0], VIRTIO_BLK_S_OK);
                REQUIRE(bufs[q][i][1].va[0] == rig_byte(at) && bufs[q][i][1].va[4095] == rig_byte(at + 4095));
            }
        }
    }
    REQUIRE_EQUAL(rig_stats(&rig).reads, 10 * RIG_QUEUES * 16);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    rig_close(&rig);
}

TEST(queues, "Four queues with more requests than the device has room for all get served") { run_queues(0, 20); }

TEST(queues_plain, "The same without EVENT_IDX and without busy waiting") { run_queues(1ULL << VIRTIO_F_EVENT_IDX, 0); }

TEST(stop_in_flight, "Stopping returns what is in flight; starting again goes on from there")
{
    static struct buf bufs[64][3];
    for (int sync = 0; sync <= 1; sync++) {
        rig_open(&rig, "/tmp", SECTORS, 0);
        rig.config.force_sync = (uint8_t)sync;
        rig_start(&rig, 64);
        for (uint32_t i = 0; i < 64; i++)
            offer_read(0, i, bufs[i]);
        rig_kick(&rig, 0);
        rig_wait(&rig, 0);
        REQUIRE_EQUAL(svq_be_stop(rig.dev), 0);
        REQUIRE_EQUAL(svq_be_stop(rig.dev), 0);
        REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
        REQUIRE_EQUAL(rig_stats(&rig).live_requests, 0);
        REQUIRE_EQUAL(rig_stats(&rig).reads, svq_load_u16(&rig.q[0].used->idx));
        REQUIRE_EQUAL(svq_be_start(rig.dev), 0);
        REQUIRE_EQUAL(svq_be_start(rig.dev), -EBUSY);
        for (uint32_t i = 1; i < 64; i++)
            rig_wait(&rig, 0);
        rig_close(&rig);
    }
}

TEST(stop_held, "Stopping unmaps held requests and does not return them")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    svq_be_hold(rig.dev, 1);
    struct buf bufs[3];
    offer_read(0, 1, bufs);
    rig_kick(&rig, 0);
    wait_held(1);
    REQUIRE_EQUAL(svq_be_stop(rig.dev), 0);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    REQUIRE_EQUAL(svq_load_u16(&rig.q[0].used->idx), 0);
    REQUIRE_EQUAL(bufs[2].va[0], 0xff);
    rig_close(&rig);
}

static void expect_fault(int fault, int queue)
{
    struct pollfd fd = { .fd = svq_be_error_fd(rig.dev), .events = POLLIN };
    REQUIRE_EQUAL(poll(&fd, 1, 20000), 1);
    struct svq_be_error error;
    REQUIRE_EQUAL(svq_be_read_error(rig.dev, &error), 1);
    REQUIRE_EQUAL(error.fault, fault);
    REQUIRE_EQUAL(error.queue, queue);
    REQUIRE(strstr(error.text, svq_be_fault_text(fault)));
}

TEST(fault_names, "Each fault has a name and a sentence of its own, and so does an unknown number")
{
    for (int fault = SVQ_BE_FAULT_NONE; fault <= SVQ_BE_FAULT_EVTCHN + 1; fault++) {
        REQUIRE(!strncmp(svq_be_fault_name(fault), "SVQ_BE_FAULT_", 13));
        REQUIRE(svq_be_fault_text(fault)[0]);
        for (int other = SVQ_BE_FAULT_NONE; other < fault; other++)
            REQUIRE(strcmp(svq_be_fault_name(fault), svq_be_fault_name(other)));
    }
    REQUIRE(!strcmp(svq_be_fault_name(SVQ_BE_FAULT_ADDRESS), "SVQ_BE_FAULT_ADDRESS"));
    REQUIRE(!strcmp(svq_be_fault_name(-1), svq_be_fault_name(SVQ_BE_FAULT_EVTCHN + 1)));
}

TEST(fault_isolated, "A broken ring stops its own queue, with the reason, and no other")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.queues = 2;
    rig_start(&rig, 16);
    struct svq_be_error error;
    REQUIRE_EQUAL(svq_be_read_error(rig.dev, &error), 0);
    rig_avail(&rig, 1, 77);
    rig_kick(&rig, 1);
    expect_fault(SVQ_BE_FAULT_HEAD_RANGE, 1);
    struct buf bufs[3];
    offer_read(0, 1, bufs);
    rig_kick(&rig, 0);
    rig_wait(&rig, 0);
    REQUIRE_EQUAL(bufs[2].va[0], VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(svq_load_u16(&rig.q[1].used->idx), 0);
    rig_close(&rig);
}

TEST(pool_not_granted, "A mediator page without the described grant stops the queue")
{
    for (int i = 0; i < 3; i++) {
        static const int faults[] = { SVQ_BE_FAULT_POOL_MAP, SVQ_BE_FAULT_POOL_MAP, SVQ_BE_FAULT_INDIRECT_MAP };
        rig_open(&rig, "/tmp", SECTORS, 0);
        rig_start(&rig, 16);
        struct buf bufs[2];
        bufs[0] = rig_header(&rig, VIRTIO_BLK_T_FLUSH, 0);
        bufs[1] = rig_pool(&rig, 0, 1, i != 1); /* 1: granted read-only, but described as writable */
        bufs[1].writable = true;
        if (i == 0)
            fake_end_grant(MEDIATOR, bufs[0].gref);
        rig_offer(&rig, 0, bufs, 2);
        if (i == 2)
            fake_end_grant(MEDIATOR, rig.next_pool - 1);
        rig_kick(&rig, 0);
        expect_fault(faults[i], 0);
        rig_close(&rig);
    }
}

TEST(window_not_granted, "A frontend page without a grant costs its request IOERR; the queue goes on")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    struct buf bufs[3];
    for (int i = 0; i < 2; i++) {
        offer_read(0, 1, bufs);
        if (i == 1) { /* the status is in the window too */
            rig.q[0].next_head--;
            rig.q[0].avail->idx--;
            bufs[2] = rig_window(&rig, 4095, 1, true);
            rig_offer(&rig, 0, bufs, 3);
        }
        fake_end_grant(FRONTEND, bufs[1].gref);
        rig_kick(&rig, 0);
        rig_wait(&rig, 0);
        REQUIRE_EQUAL(bufs[2].va[0], VIRTIO_BLK_S_IOERR);
        REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    }
    offer_read(0, 1, bufs);
    fake_end_grant(FRONTEND, bufs[1].gref);
    rig_kick(&rig, 0);
    rig_wait(&rig, 0);
    REQUIRE_EQUAL(rig_stats(&rig).map_failures, 3);
    bufs[0] = rig_window(&rig, 0, 1, false);
    bufs[0].writable = true; /* the only byte cannot be written */
    fake_grant(FRONTEND, bufs[0].gref, 0, false);
    rig_offer_direct(&rig, 0, bufs, 1);
    rig_kick(&rig, 0);
    REQUIRE_EQUAL(rig_wait(&rig, 0).len, 0);
    offer_read(0, 1, bufs);
    rig_kick(&rig, 0);
    rig_wait(&rig, 0);
    REQUIRE_EQUAL(bufs[2].va[0], VIRTIO_BLK_S_OK);
    rig_close(&rig);
}

TEST(too_many_pages, "A request with too many pages gets IOERR and is not mapped")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    struct buf bufs[3];
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_IN, 0);
    bufs[1] = rig_window(&rig, 0, 2048 * 4096, true);
    bufs[2] = rig_pool(&rig, 0, 1, true);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), 0);
    rig_close(&rig);
}

TEST(unmap_refused, "A request whose pages may still be mapped is never returned")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    fake_refuse_unmap(FRONTEND, true);
    struct buf bufs[3];
    offer_read(0, 1, bufs);
    rig_kick(&rig, 0);
    expect_fault(SVQ_BE_FAULT_UNMAP, 0);
    REQUIRE_EQUAL(svq_be_stop(rig.dev), 0);
    REQUIRE_EQUAL(svq_load_u16(&rig.q[0].used->idx), 0);
    rig_close(&rig);
}

TEST(random_device, "Random descriptors, tables and indices neither crash a device nor leave pages mapped")
{
    srandom(2);
    for (int round = 0; round < 60; round++) {
        struct rig_queue *q = &rig.q[0];
        rig_open(&rig, "/tmp", 64, 0);
        rig.config.copy_pages = round % 3 == 0 ? SVQ_BE_COPY_PAGES_MAX : 0;
        rig_start(&rig, 16);
        struct buf pages[4];
        for (int i = 0; i < 4; i++)
            pages[i] = i % 2 ? rig_pool(&rig, 0, 8192, i / 2) : rig_window(&rig, 0, 8192, i / 2);
        for (int i = 0; i < 8192; i += 16) {
            struct buf part = pages[random() % 4];
            part.offset = (uint32_t)random() % 5000;
            part.len = (uint32_t)random() % 3200;
            struct vring_desc desc = rig_desc(&part);
            desc.flags = (uint16_t)((desc.flags & VRING_DESC_F_WRITE) | (random() % 3 ? VRING_DESC_F_NEXT : 0));
            desc.next = (uint16_t)(random() % 18);
            memcpy(pages[1].va + i, &desc, 16);
            if (random() % 2)
                desc = (struct vring_desc){ svq_grant_addr(pages[1].gref, 16 * (uint32_t)(random() % 200)), 16 * 18,
                                            VRING_DESC_F_INDIRECT, 0 };
            if (i < 16 * 16)
                q->desc[i / 16] = desc;
        }
        for (uint16_t i = 0; i < 16; i++)
            rig_avail(&rig, 0, i);
        if (round % 8 == 0)
            q->avail->idx = (uint16_t)random();
        rig_kick(&rig, 0);
        REQUIRE_EQUAL(svq_be_hold(rig.dev, 0), 0); /* at least one round */
        rig_close(&rig);
    }
}

TEST(idle_kicks, "Kicks without work are harmless")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 16);
    for (int i = 0; i < 1000; i++)
        rig_kick(&rig, 0);
    struct buf bufs[3];
    offer_read(0, 1, bufs);
    rig_kick(&rig, 0);
    rig_wait(&rig, 0);
    REQUIRE_EQUAL(bufs[2].va[0], VIRTIO_BLK_S_OK);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
