/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver as a whole: create, start, destroy, and what it tells about itself. */
#include <errno.h>
#include <stdlib.h>

#include "barrier.h"
#include "drv_ledger.h"
#include "drv_queue.h"

enum {
    DEFAULT_SEGMENTS = 62,
    PAGES_MAX = 1 << 24, /* 64 GiB: byte offsets and lengths cannot overflow */
};

static bool config_sane(const struct svq_drv_config *c)
{
    return c->pages > 0 && c->pages <= PAGES_MAX && c->queues > 0 && c->queues <= SVQ_DRV_QUEUES_MAX &&
           c->queue_size > 0 && c->queue_size <= SVQ_DRV_QUEUE_SIZE_MAX && !(c->queue_size & (c->queue_size - 1)) &&
           c->max_segments <= SVQ_DRV_TABLE_ENTRIES_MAX - 2;
}

/* Room for header, status and the segments, rounded up so that no table crosses a page border. */
static uint32_t table_entries(const struct svq_drv_config *c)
{
    uint32_t wanted = (c->max_segments ? c->max_segments : DEFAULT_SEGMENTS) + 2;
    uint32_t entries = 1;
    while (entries < wanted)
        entries *= 2;
    return entries;
}

static int open_all(struct svq_drv *d)
{
    int rc = svq_drv_mem_open(&d->mem, d->hv, d->config.first_gfn, d->config.pages);
    if (!rc) {
        svq_drv_ledger_open(d);
        rc = svq_evtchn_open(d->hv, &d->ec);
    }
    for (unsigned i = 0; !rc && i < d->config.queues; i++)
        rc = svq_drv_queue_open(d, &d->queues[i]);
    return rc;
}

int svq_drv_create(struct svq_hv *hv, const struct svq_drv_config *config, struct svq_drv **out)
{
    if (!config_sane(config))
        return -EINVAL;
    struct svq_drv *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->hv = hv;
    d->config = *config;
    if (d->config.timeout_ms == 0)
        d->config.timeout_ms = SVQ_DRV_TIMEOUT_MS;
    d->table_entries = table_entries(config);
    d->sg_max = config->queue_size; /* virtio 2.7.5.2: no chain may be longer, indirect or not */
    d->busy_wait = svq_busy_wait_up_to(config->poll_us);
    d->queues = calloc(config->queues, sizeof *d->queues);
    d->sg = calloc(d->sg_max, sizeof *d->sg);
    int rc = d->queues && d->sg ? open_all(d) : -ENOMEM;
    if (rc) {
        svq_drv_destroy(d);
        return rc;
    }
    *out = d;
    return 0;
}

void svq_drv_destroy(struct svq_drv *d)
{
    if (!d)
        return;
    for (unsigned i = 0; d->queues && i < d->config.queues; i++)
        svq_drv_queue_close(&d->queues[i]);
    if (d->ec)
        svq_evtchn_close(d->ec);
    svq_drv_mem_close(&d->mem);
    free(d->queues);
    free(d->sg);
    free(d);
}

int svq_drv_start(struct svq_drv *d, uint64_t features)
{
    if (features & ~d->config.features || !(features >> VIRTIO_F_VERSION_1 & 1))
        return -EINVAL;
    svq_drv_take_back(d, SVQ_BACK_OFFERED); /* the caller has seen a new offer */
    d->indirect = features >> VIRTIO_F_INDIRECT_DESC & 1;
    d->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
    for (unsigned i = 0; i < d->config.queues; i++)
        svq_drv_queue_start(d, &d->queues[i], d->config.queue_size);
    return 0;
}

int svq_drv_queue_info(const struct svq_drv *d, unsigned queue, struct svq_drv_queue_info *out)
{
    if (queue >= d->config.queues)
        return -EINVAL;
    const struct svq_drv_queue *q = &d->queues[queue];
    out->desc = svq_drv_mem_gpa(&d->mem, q->ring_pages[0] * SVQ_PAGE_SIZE);
    out->avail = svq_drv_mem_gpa(&d->mem, q->ring_pages[1] * SVQ_PAGE_SIZE);
    out->used = svq_drv_mem_gpa(&d->mem, q->ring_pages[2] * SVQ_PAGE_SIZE);
    out->port = (uint32_t)q->port;
    out->size = q->ring.size;
    return 0;
}

void svq_drv_read_counters(const struct svq_drv *d, struct svq_drv_counters *out)
{
    const struct svq_drv_counters *c = &d->counters;
    out->kicks = svq_load_u64(&c->kicks);
    out->kicks_suppressed = svq_load_u64(&c->kicks_suppressed);
    out->kicks_lost = svq_load_u64(&c->kicks_lost);
    out->interrupts = svq_load_u64(&c->interrupts);
    out->completions = svq_load_u64(&c->completions);
    out->late_completions = svq_load_u64(&c->late_completions);
    out->canaries_broken = svq_load_u64(&c->canaries_broken);
    out->sleeps = svq_load_u64(&c->sleeps);
    out->spins_won = svq_load_u64(&c->spins_won);
}

void svq_drv_data_pages(const struct svq_drv *d, size_t *first_page, size_t *count)
{
    svq_drv_mem_largest(&d->mem, first_page, count);
}

int svq_drv_page_gpa(const struct svq_drv *d, size_t page, uint64_t *gpa)
{
    if (page >= d->mem.pages)
        return -EINVAL;
    *gpa = d->mem.gfns[page] << SVQ_PAGE_SHIFT;
    return 0;
}

void *svq_drv_va(const struct svq_drv *d, uint64_t gpa, size_t len)
{
    int64_t offset = svq_drv_mem_offset(&d->mem, gpa, len);
    return offset < 0 ? NULL : d->mem.va + offset;
}

int svq_drv_not_held(struct svq_drv *d, unsigned queue, const uint8_t *held, size_t held_bytes)
{
    if (queue >= d->config.queues)
        return -EINVAL;
    for (size_t head = 0; head < d->queues[queue].ring.size; head++)
        if (head / 8 >= held_bytes || !(held[head / 8] >> head % 8 & 1))
            svq_drv_ledger_back(d, &d->queues[queue].slots[head], SVQ_BACK_NOT_HELD);
    return 0;
}

int svq_drv_kick(struct svq_drv *d, unsigned queue)
{
    if (queue >= d->config.queues)
        return -EINVAL;
    int rc = svq_evtchn_notify(d->ec, (uint32_t)d->queues[queue].port);
    if (rc == 0)
        svq_count(&d->counters.kicks, 1);
    return rc;
}
