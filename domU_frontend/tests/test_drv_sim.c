/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver on the embedded machine, with a device in another domain and another thread. */
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "barrier.h"
#include "device_peer.h"
#include "vring.h"
#include "svq_driver.h"
#include "svq_sim.h"
#include "svq_test.h"

enum {
    FRONTEND = 7,
    MEDIATOR = 1,
    RAM_PAGES = 2048,
    FIRST_GFN = 256,
    PAGES = 1500,
    QUEUES = 2,
    DISK_BYTES = 1 << 20,
    N = 5000,
};

struct machine {
    char directory[64];
    struct svq_sim_machine *sim;
    struct svq_hv *frontend, *mediator;
    struct svq_drv *drv;
    void *ram; /* as the mediator maps it */
    struct device_peer peer[QUEUES];
    uint8_t *disk;
    pthread_t thread;
    uint32_t stop; /* atomic */
    uint64_t wakeups;
};

static void *mapped(void *opaque, uint64_t gpa, uint64_t len)
{
    uint8_t *ram = opaque;
    uint64_t end = (uint64_t)RAM_PAGES * SVQ_PAGE_SIZE;
    return gpa < end && len <= end - gpa ? ram + gpa : NULL;
}

static struct svq_hv *open_domain(struct machine *m, uint16_t domid)
{
    struct svq_hv *hv = NULL;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/hv-dom%u.sock", m->directory, domid);
    REQUIRE(svq_hv_open_sim(path, &hv) == 0);
    return hv;
}

static void *map_frontend(struct machine *m)
{
    static uint64_t gfns[RAM_PAGES];
    static int errs[RAM_PAGES];
    void *va = NULL;
    for (unsigned i = 0; i < RAM_PAGES; i++)
        gfns[i] = i;
    REQUIRE(svq_hv_map_foreign(m->mediator, FRONTEND, gfns, RAM_PAGES, 1, errs, &va) == 0);
    return va;
}

/* The device: binds the ports in the thread that uses them, then serves kicks until it is stopped. */
static void *device_thread(void *opaque)
{
    struct machine *m = opaque;
    struct svq_evtchn *ec = NULL;
    REQUIRE(svq_evtchn_open(m->mediator, &ec) == 0);
    int port[QUEUES];
    for (unsigned i = 0; i < QUEUES; i++) {
        struct svq_drv_queue_info info;
        REQUIRE(svq_drv_queue_info(m->drv, i, &info) == 0);
        port[i] = svq_evtchn_bind(ec, FRONTEND, info.port);
        REQUIRE(port[i] > 0);
    }
    while (!svq_acquire_u32(&m->stop)) {
        bool more = false;
        for (unsigned i = 0; i < QUEUES; i++) {
            peer_disarm(&m->peer[i]);
            peer_serve(&m->peer[i]);
            more |= peer_arm(&m->peer[i]);
            if (peer_wants_interrupt(&m->peer[i]))
                REQUIRE(svq_evtchn_notify(ec, (uint32_t)port[i]) == 0);
        }
        struct pollfd pfd = { .fd = svq_evtchn_fd(ec), .events = POLLIN };
        if (more || poll(&pfd, 1, 10) <= 0)
            continue;
        m->wakeups++;
        for (int got = svq_evtchn_pending(ec); got > 0; got = svq_evtchn_pending(ec))
            REQUIRE(svq_evtchn_unmask(ec, (uint32_t)got) == 0);
    }
    svq_evtchn_close(ec);
    return NULL;
}

static void open_machine(struct machine *m, uint64_t features, uint32_t poll_us)
{
    struct svq_drv_config config = { .first_gfn = FIRST_GFN,
                                     .pages = PAGES,
                                     .features = features,
                                     .poll_us = poll_us,
                                     .mediator_domid = MEDIATOR,
                                     .queues = QUEUES,
                                     .queue_size = 128 };
    *m = (struct machine){ .directory = "/tmp/svq-drv-XXXXXX" };
    REQUIRE(mkdtemp(m->directory));
    REQUIRE(svq_sim_machine_start(m->directory, &m->sim) == 0);
    REQUIRE(svq_sim_domain_create(m->sim, FRONTEND, RAM_PAGES, 64, SVQ_SIM_PRIVILEGE_NONE) == 0);
    REQUIRE(svq_sim_domain_create(m->sim, MEDIATOR, 16, 64, FRONTEND) == 0);
    m->frontend = open_domain(m, FRONTEND);
    m->mediator = open_domain(m, MEDIATOR);
    REQUIRE(svq_drv_create(m->frontend, &config, &m->drv) == 0);
    REQUIRE(svq_drv_start(m->drv, features) == 0);
    m->ram = map_frontend(m);
    m->disk = calloc(1, DISK_BYTES);
    for (unsigned i = 0; i < QUEUES; i++) {
        struct svq_drv_queue_info info;
        REQUIRE(svq_drv_queue_info(m->drv, i, &info) == 0);
        m->peer[i] = (struct device_peer){ .va = mapped,
                                           .opaque = m->ram,
                                           .desc = info.desc,
                                           .avail = info.avail,
                                           .used = info.used,
                                           .size = info.size,
                                           .disk = m->disk,
                                           .disk_bytes = DISK_BYTES,
                                           .reverse = true,
                                           .event_idx = features >> VIRTIO_F_EVENT_IDX & 1,
                                           .indirect = features >> VIRTIO_F_INDIRECT_DESC & 1 };
    }
    REQUIRE(pthread_create(&m->thread, NULL, device_thread, m) == 0);
}

static void close_machine(struct machine *m)
{
    svq_release_u32(&m->stop, 1);
    pthread_join(m->thread, NULL);
    for (unsigned i = 0; i < QUEUES; i++)
        CHECK_EQUAL(m->peer[i].violations, 0);
    svq_drv_destroy(m->drv);
    struct svq_hv_counters counters;
    svq_hv_read_counters(m->frontend, &counters);
    CHECK_EQUAL(counters.ports_live, 0);
    CHECK_EQUAL(svq_hv_unmap_foreign(m->mediator, m->ram, RAM_PAGES), 0);
    svq_hv_close(m->frontend);
    svq_hv_close(m->mediator);
    svq_sim_machine_stop(m->sim);
    CHECK_EQUAL(rmdir(m->directory), 0);
    free(m->disk);
}

/* Fills a disk with data in a scrambled order, many requests in flight, then reads it all back into other memory. */
static void load(uint64_t extra_features, uint32_t poll_us, unsigned depth)
{
    static struct svq_drv_req reqs[N];
    static struct svq_drv_result results[N];
    struct machine m;
    struct svq_drv_progress progress = { 0 };
    size_t first = 0;
    size_t count = 0;
    uint64_t data = 0;
    open_machine(&m, 1ULL << VIRTIO_F_VERSION_1 | extra_features, poll_us);
    svq_drv_data_pages(m.drv, &first, &count);
    REQUIRE(count >= 512 && svq_drv_page_gpa(m.drv, first, &data) == 0);
    uint8_t *va = svq_drv_va(m.drv, data, 2 * DISK_BYTES);
    REQUIRE(va);
    for (unsigned k = 0; k < DISK_BYTES; k++)
        va[k] = (uint8_t)(k * 31 + k / 512);
    for (unsigned i = 0; i < N; i++) {
        unsigned sector = i * 37 % (DISK_BYTES / 512);
        bool read = i >= N / 2;
        reqs[i] = (struct svq_drv_req){ .type = read ? SVQ_DRV_IN : SVQ_DRV_OUT,
                                        .sector = sector,
                                        .len = 512,
                                        .buf_gpa = data + (read ? DISK_BYTES : 0) + sector * 512,
                                        .segments = i % 4,
                                        .flags = i % 3 ? SVQ_DRV_REQ_INDIRECT : 0 };
    }
    CHECK_EQUAL(svq_drv_run(m.drv, reqs, N / 2, depth, results, &progress), 0);
    CHECK(!memcmp(m.disk, va, DISK_BYTES));
    CHECK_EQUAL(svq_drv_run(m.drv, reqs + N / 2, N / 2, depth, results + N / 2, &progress), 0);
    CHECK(!memcmp(va + DISK_BYTES, va, DISK_BYTES));
    for (unsigned i = 0; i < N; i++)
        if (results[i].error || results[i].status != SVQ_DRV_STATUS_OK)
            REQUIRE(!"a request failed");
    CHECK_EQUAL(progress.requests_done, N);
    CHECK_EQUAL(progress.bytes_done, 512ULL * N);
    struct svq_drv_counters counters;
    svq_drv_read_counters(m.drv, &counters);
    CHECK_EQUAL(counters.completions, N);
    CHECK(counters.kicks + counters.kicks_lost + counters.kicks_suppressed <= N);
    CHECK_EQUAL(counters.canaries_broken, 0);
    printf("# depth %u poll %u us: kicks %llu (lost %llu, suppressed %llu), interrupts %llu\n", depth, poll_us,
           (unsigned long long)counters.kicks, (unsigned long long)counters.kicks_lost,
           (unsigned long long)counters.kicks_suppressed, (unsigned long long)counters.interrupts);
    close_machine(&m);
}

TEST(event_idx_sleeping, "With EVENT_IDX and no polling all data arrives and no notification is lost")
{
    load(1ULL << VIRTIO_F_EVENT_IDX | 1ULL << VIRTIO_F_INDIRECT_DESC, 0, 32);
    load(1ULL << VIRTIO_F_EVENT_IDX, 0, 1);
}

TEST(event_idx_polling, "With EVENT_IDX and polling all data arrives and no notification is lost")
{
    load(1ULL << VIRTIO_F_EVENT_IDX | 1ULL << VIRTIO_F_INDIRECT_DESC, 50, 200);
}

TEST(flags_sleeping, "Without EVENT_IDX all data arrives and no notification is lost")
{
    load(1ULL << VIRTIO_F_INDIRECT_DESC, 0, 32);
    load(0, 20, 7);
}

SVQ_TEST_MAIN()
