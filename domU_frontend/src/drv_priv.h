/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the pieces of the driver share. */
#ifndef SVQ_DRV_PRIV_H
#define SVQ_DRV_PRIV_H

#include "busy_wait.h"
#include "clock.h"
#include "drv_mem.h"
#include "drv_ring.h"
#include "svq_driver.h"

enum {
    SVQ_SLAB_BYTES = 64, /* one slot: see drv_blk.c */
    SVQ_SLABS_PER_PAGE = SVQ_PAGE_SIZE / SVQ_SLAB_BYTES,
};

/* The request that a head stands for. */
struct svq_drv_slot {
    uint64_t job; /* the svq_drv_run that it belongs to; 0: an earlier one gave up on it */
    size_t index; /* within that run */
    uint64_t submitted_ns;
    uint32_t data_len;
    uint32_t given;       /* 1: the ledger records it as given away */
    uint64_t data_offset; /* these three are for the ledger */
    uint64_t slab_page;
    bool device_writes;
    uint8_t image[SVQ_SLAB_BYTES]; /* what the slab slot must still hold at completion, except the status byte */
};

struct svq_drv_queue {
    struct svq_drv_ring ring;
    struct svq_drv_slot *slots; /* by head */
    size_t ring_pages[3];       /* first page of desc, avail, used */
    size_t *slab_pages;         /* SVQ_SLABS_PER_PAGE heads each */
    size_t *table_pages;        /* tables_per_page heads each */
    int port;
    bool running;
    bool dirty; /* chains were added since the last publish */
};

struct svq_drv {
    struct svq_hv *hv;
    struct svq_evtchn *ec;
    struct svq_drv_config config;
    struct svq_drv_mem mem;
    struct svq_drv_queue *queues;
    struct svq_drv_sg *sg; /* scratch for one chain */
    uint32_t sg_max;
    uint32_t table_entries; /* a power of two */
    bool indirect;          /* agreed */
    bool event_idx;
    uint64_t job;
    unsigned next_queue;            /* round robin */
    struct svq_busy_wait busy_wait; /* at most config.poll_us */
    struct svq_drv_counters counters;
};

static inline uint32_t svq_drv_tables_per_page(const struct svq_drv *d)
{
    return SVQ_PAGE_SIZE / (d->table_entries * (uint32_t)sizeof(struct vring_desc));
}

#endif
