/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Devices that lie, spill, or fall silent; queue resets; tags that show where memory came from. */
#include "drv_world.h"

static struct svq_drv_req flush(void) { return (struct svq_drv_req){ .type = SVQ_DRV_FLUSH }; }

static void lies(enum peer_lie lie, int expected)
{
    struct world w;
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    struct svq_drv_req reqs[4];
    for (int i = 0; i < 4; i++)
        reqs[i] = (struct svq_drv_req){ .type = SVQ_DRV_IN, .len = 512, .buf_gpa = w.data };
    w.peer[0].lie = lie;
    struct svq_drv_result results[4];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 4, 2, results, &w.progress), expected);
    CHECK_EQUAL(results[3].error, -ECANCELED);
    w.peer[0].lie = PEER_HONEST;
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 1, 1, results, &w.progress), expected);
    CHECK(svq_drv_queue_reset_prepare(w.drv, 0) > 0);
    CHECK_EQUAL(svq_drv_queue_rearm(w.drv, 0, 0), 0);
    world_attach(&w, 0, WORLD_FEATURES);
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 4, 2, results, &w.progress), 0);
    CHECK_EQUAL(results[3].error, 0);
    world_close(&w);
}

TEST(lying_device, "Each lie of a device ends this run and all later ones, until the queue is reset")
{
    lies(PEER_BAD_ID, -ERANGE);
    lies(PEER_LONG, -EMSGSIZE);
    lies(PEER_JUMP, -EPROTO);
}

TEST(double_completion, "A chain that is completed twice while another is in flight ends the run")
{
    struct world w;
    struct svq_drv_req reqs[2] = { flush(), flush() };
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    w.peer[0].lie = PEER_SILENT;
    struct svq_drv_progress second = { 0 };
    w.stop_after = 2;
    w.stop_how = SVQ_DRV_STOP_NOW;
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 2, 2, NULL, &w.progress), -EINTR);
    CHECK_EQUAL(w.progress.in_flight, 2);
    peer_push(&w.peer[0], 0, 1);
    peer_push(&w.peer[0], 0, 1);
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 1, 1, NULL, &second), -EALREADY);
    world_close(&w);
}

static void spills(enum peer_lie lie)
{
    struct world w;
    struct svq_drv_req reqs[2] = { flush(), flush() };
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    w.peer[0].lie = lie;
    struct svq_drv_result results[2];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 1, 1, results, NULL), 0);
    CHECK_EQUAL(results[0].error, -EBADMSG);
    CHECK_EQUAL(results[0].status, SVQ_DRV_STATUS_OK);
    w.peer[0].lie = PEER_HONEST;
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 2, 1, results, NULL), 0);
    CHECK_EQUAL(results[0].error, 0);
    CHECK_EQUAL(results[1].error, 0);
    CHECK_EQUAL(world_counters(&w).canaries_broken, 1);
    world_close(&w);
}

TEST(canaries, "A write beside the status byte or into the header is reported, once")
{
    spills(PEER_SPILL);
    spills(PEER_HEADER);
}

TEST(status_not_written, "A completion without a status byte, and a failed one, are told apart from success")
{
    struct world w;
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, false);
    struct svq_drv_req req = { .type = SVQ_DRV_OUT, .len = 512, .buf_gpa = w.data };
    w.peer[0].lie = PEER_NO_STATUS;
    struct svq_drv_result result;
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 1, 1, &result, &w.progress), 0);
    CHECK_EQUAL(result.status, SVQ_DRV_STATUS_NONE);
    CHECK_EQUAL(result.used_len, 0);
    w.peer[0].lie = PEER_FAILS;
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 1, 1, &result, &w.progress), 0);
    CHECK_EQUAL(result.status, SVQ_DRV_STATUS_IOERR);
    CHECK_EQUAL(w.progress.bytes_done, 0);
    world_close(&w);
}

TEST(silent_device, "If a device never answers, the run ends in time, and late answers harm no later run")
{
    struct svq_drv_req reqs[4] = { flush(), flush(), flush(), flush() };
    struct svq_drv_config config = world_config();
    config.timeout_ms = 5;
    struct world w;
    world_open(&w, &config, WORLD_FEATURES, false);
    w.peer[0].lie = PEER_SILENT;
    struct svq_drv_result results[4];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 4, 3, results, &w.progress), -ETIMEDOUT);
    CHECK_EQUAL(w.progress.in_flight, 3);
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(results[i].error, i < 3 ? -EINPROGRESS : -ECANCELED);
    w.peer[0].lie = PEER_HONEST;
    struct svq_drv_queue_info info;
    REQUIRE(svq_drv_queue_info(w.drv, 0, &info) == 0);
    struct vring_avail *avail = svq_drv_va(w.drv, info.avail, vring_avail_bytes(info.size));
    for (int i = 2; i >= 0; i--)
        peer_push(&w.peer[0], avail->ring[i], 1);
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 1, 1, results, &w.progress), 0);
    CHECK_EQUAL(results[0].error, 0);
    CHECK_EQUAL(results[1].error, -EINPROGRESS);
    CHECK_EQUAL(world_counters(&w).late_completions, 3);
    CHECK_EQUAL(w.progress.requests_done, 1);
    world_close(&w);
}

TEST(queue_reset, "A queue in reset is left alone, the others go on, and it comes back with another size")
{
    struct svq_drv_config config = world_config();
    config.queues = 2;
    struct svq_drv_req reqs[8];
    for (int i = 0; i < 8; i++)
        reqs[i] = flush();
    struct world w;
    world_open(&w, &config, WORLD_FEATURES, false);
    CHECK_EQUAL(svq_drv_queue_rearm(w.drv, 0, 0), -EBUSY);
    CHECK_EQUAL(svq_drv_queue_reset_prepare(w.drv, 0), 0);
    struct svq_drv_result results[8];
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 8, 4, results, NULL), 0);
    CHECK_EQUAL(w.peer[0].chains, 0);
    CHECK_EQUAL(w.peer[1].chains, 8);
    CHECK_EQUAL(svq_drv_queue_reset_prepare(w.drv, 1), 0);
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 8, 4, results, NULL), -ENOTCONN);
    CHECK_EQUAL(svq_drv_queue_rearm(w.drv, 0, 48), -EINVAL);
    CHECK_EQUAL(svq_drv_queue_rearm(w.drv, 0, 128), -EINVAL);
    CHECK_EQUAL(svq_drv_queue_rearm(w.drv, 2, 8), -EINVAL);
    CHECK_EQUAL(svq_drv_queue_reset_prepare(w.drv, 2), -EINVAL);
    CHECK_EQUAL(svq_drv_queue_rearm(w.drv, 0, 8), 0);
    struct svq_drv_queue_info info;
    REQUIRE(svq_drv_queue_info(w.drv, 0, &info) == 0);
    CHECK_EQUAL(info.size, 8);
    world_attach(&w, 0, WORLD_FEATURES);
    CHECK_EQUAL(svq_drv_run(w.drv, reqs, 8, 4, results, NULL), 0);
    CHECK_EQUAL(w.peer[0].chains, 8);
    CHECK_EQUAL(w.peer[1].chains, 8);
    world_close(&w);
}

TEST(tags, "Tagged memory names its frame and offset wherever it turns up, and other bytes are not tags")
{
    struct world w;
    uint64_t gfn = 0;
    uint32_t offset = 0;
    struct svq_drv_config config = world_config();
    world_open(&w, &config, WORLD_FEATURES, true);
    CHECK_EQUAL(svq_drv_fill_tags(w.drv, w.data_page, 3, 0xbeef), 0);
    uint64_t page2 = world_gpa(&w, 2 * SVQ_PAGE_SIZE);
    const uint8_t *page = svq_drv_va(w.drv, page2, SVQ_PAGE_SIZE);
    for (uint32_t at = 0; at < SVQ_PAGE_SIZE; at += 16) {
        CHECK_EQUAL(svq_tag_at(page + at, &gfn, &offset), 0xbeef);
        CHECK_EQUAL(gfn, page2 / SVQ_PAGE_SIZE);
        CHECK_EQUAL(offset, at);
    }
    CHECK_EQUAL(svq_tag_at(page + 1, &gfn, &offset), -ENOENT);
    uint8_t leak[4096];
    memset(leak, 0x53, sizeof leak); /* the first byte of a tag, again and again */
    memcpy(leak + 1001, page + 160, 16);
    size_t at = 0;
    CHECK_EQUAL(svq_tag_find(leak, sizeof leak, &at, &gfn, &offset), 0xbeef);
    CHECK_EQUAL(at, 1001);
    CHECK_EQUAL(offset, 160);
    at++;
    CHECK_EQUAL(svq_tag_find(leak, sizeof leak, &at, &gfn, &offset), -ENOENT);
    leak[1001 + 12] ^= 1;
    at = 0;
    CHECK_EQUAL(svq_tag_find(leak, sizeof leak, &at, &gfn, &offset), -ENOENT);
    CHECK_EQUAL(svq_tag_find(leak, 15, &at, &gfn, &offset), -ENOENT);
    CHECK_EQUAL(svq_drv_fill_tags(w.drv, WORLD_PAGES - 1, 2, 0), -EINVAL);
    CHECK_EQUAL(svq_drv_fill_tags(w.drv, 0, 1, 0x10000), -EINVAL);
    world_close(&w);
}

TEST(slab_tags, "The bytes around header and status are tags, so that a leaked slab page can be recognised")
{
    uint64_t gfn = 0;
    uint32_t offset = 0;
    struct svq_drv_req req = flush();
    struct svq_drv_config config = world_config();
    config.timeout_ms = 1;
    struct world w;
    world_open(&w, &config, WORLD_FEATURES & ~(1ULL << VIRTIO_F_EVENT_IDX), false);
    peer_disarm(&w.peer[0]);
    CHECK_EQUAL(svq_drv_run(w.drv, &req, 1, 1, NULL, NULL), -ETIMEDOUT);
    struct peer_chain chain;
    REQUIRE(peer_pop(&w.peer[0], &chain) && chain.n == 2);
    CHECK_EQUAL(chain.seg[0].gpa / 4096, chain.seg[1].gpa / 4096);
    const uint8_t *page = svq_drv_va(w.drv, chain.seg[0].gpa & ~4095ULL, 4096);
    uint32_t header = chain.seg[0].gpa % 4096;
    CHECK_EQUAL(svq_tag_at(page + header - 16, &gfn, &offset), SVQ_DRV_SLAB_SEED);
    CHECK_EQUAL(gfn, chain.seg[0].gpa / 4096);
    CHECK_EQUAL(offset, header - 16);
    CHECK_EQUAL(svq_tag_at(page + 4080, &gfn, &offset), SVQ_DRV_SLAB_SEED);
    world_close(&w);
}

SVQ_TEST_MAIN()
