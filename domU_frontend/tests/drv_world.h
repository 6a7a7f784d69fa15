/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A driver on the fake hypervisor with a device behind every queue, all in the test's own thread. */
#ifndef SVQ_DRV_WORLD_H
#define SVQ_DRV_WORLD_H

#include <errno.h>

#include "device_peer.h"
#include "fake_hv.h"
#include "vring.h"
#include "svq_driver.h"
#include "svq_test.h"

enum {
    WORLD_QUEUES_MAX = 4,
    WORLD_DISK_BYTES = 4 * 1024 * 1024,
    WORLD_PAGES = 512,
};

#define WORLD_FEATURES                                                                                                 \
    (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ACCESS_PLATFORM | 1ULL << VIRTIO_F_INDIRECT_DESC |                  \
     1ULL << VIRTIO_F_EVENT_IDX | 1ULL << VIRTIO_F_RING_RESET)

struct world {
    struct svq_hv hv;
    struct svq_drv *drv;
    struct device_peer peer[WORLD_QUEUES_MAX];
    struct svq_drv_progress progress;
    uint8_t *disk;
    size_t data_page, data_pages;
    uint64_t data;       /* guest physical address of data_page */
    unsigned burst_max;  /* the most chains that one kick brought */
    uint64_t stop_after; /* chains; then progress.stop becomes stop_how */
    uint32_t stop_how;
};

static inline void world_notified(void *opaque, uint32_t port)
{
    struct world *w = opaque;
    struct device_peer *p = &w->peer[port - 1];
    peer_disarm(p);
    do {
        unsigned burst = peer_serve(p);
        w->burst_max = burst > w->burst_max ? burst : w->burst_max;
    } while (peer_arm(p));
    if (w->stop_after && p->chains >= w->stop_after)
        w->progress.stop = w->stop_how;
    if (peer_wants_interrupt(p))
        fake_hv_interrupt(&w->hv, port);
}

static inline struct svq_drv_config world_config(void)
{
    return (struct svq_drv_config){ .first_gfn = 100,
                                    .pages = WORLD_PAGES,
                                    .features = WORLD_FEATURES,
                                    .timeout_ms = 5000,
                                    .mediator_domid = 1,
                                    .queues = 1,
                                    .queue_size = 64 };
}

/* The device starts again with queue `i` as it is published now. */
static inline void world_attach(struct world *w, unsigned i, uint64_t features)
{
    struct svq_drv_queue_info info;
    REQUIRE(svq_drv_queue_info(w->drv, i, &info) == 0);
    w->peer[i] = (struct device_peer){ .va = fake_hv_va,
                                       .opaque = &w->hv,
                                       .desc = info.desc,
                                       .avail = info.avail,
                                       .used = info.used,
                                       .size = info.size,
                                       .disk = w->disk,
                                       .event_idx = features >> VIRTIO_F_EVENT_IDX & 1,
                                       .indirect = features >> VIRTIO_F_INDIRECT_DESC & 1,
                                       .disk_bytes = WORLD_DISK_BYTES };
    peer_arm(&w->peer[i]);
}

static inline void world_open(struct world *w, const struct svq_drv_config *config, uint64_t features, bool scattered)
{
    *w = (struct world){ .hv.layout = { .scattered = scattered, .on_notify = world_notified, .opaque = w } };
    w->disk = calloc(1, WORLD_DISK_BYTES);
    REQUIRE(w->disk && svq_drv_create(&w->hv, config, &w->drv) == 0);
    REQUIRE(svq_drv_start(w->drv, features) == 0);
    for (unsigned i = 0; i < config->queues; i++)
        world_attach(w, i, features);
    svq_drv_data_pages(w->drv, &w->data_page, &w->data_pages);
    REQUIRE(svq_drv_page_gpa(w->drv, w->data_page, &w->data) == 0);
}

static inline void world_close(struct world *w)
{
    for (unsigned i = 0; i < WORLD_QUEUES_MAX; i++) {
        CHECK_EQUAL(w->peer[i].violations, 0);
        if (w->peer[i].violation)
            printf("# queue %u: %s\n", i, w->peer[i].violation);
    }
    svq_drv_destroy(w->drv);
    CHECK(!w->hv.va && !w->hv.ec);
    free(w->disk);
}

/* Guest physical address of a byte of the data pages. */
static inline uint64_t world_gpa(const struct world *w, uint64_t offset)
{
    uint64_t gpa = 0;
    REQUIRE(svq_drv_page_gpa(w->drv, w->data_page + offset / SVQ_PAGE_SIZE, &gpa) == 0);
    return gpa + offset % SVQ_PAGE_SIZE;
}

static inline uint8_t *world_va(const struct world *w, uint64_t offset, size_t len)
{
    return svq_drv_va(w->drv, world_gpa(w, offset), len);
}

static inline struct svq_drv_counters world_counters(const struct world *w)
{
    struct svq_drv_counters counters;
    svq_drv_read_counters(w->drv, &counters);
    return counters;
}

#endif
