/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "drv_queue.h"

#include <errno.h>
#include <stdlib.h>

#include "drv_ledger.h"

/* Takes pages that need not be contiguous: enough for `size` heads, `per_page` of them on each page. */
static int take_pages(struct svq_drv *d, uint32_t size, uint32_t per_page, size_t **out)
{
    size_t count = (size + per_page - 1) / per_page;
    *out = calloc(count, sizeof **out);
    if (!*out)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        long page = svq_drv_mem_take(&d->mem, 1);
        if (page < 0)
            return (int)page;
        (*out)[i] = (size_t)page;
    }
    return 0;
}

/* Each area gets pages of its own, contiguous in guest physical memory (2.7). */
static int take_ring(struct svq_drv *d, struct svq_drv_queue *q, uint32_t size)
{
    const size_t bytes[3] = { vring_desc_bytes(size), vring_avail_bytes(size), vring_used_bytes(size) };
    for (int part = 0; part < 3; part++) {
        long page = svq_drv_mem_take(&d->mem, svq_pages_for(bytes[part]));
        if (page < 0)
            return (int)page;
        q->ring_pages[part] = (size_t)page;
    }
    q->ring.desc = (void *)(d->mem.va + q->ring_pages[0] * SVQ_PAGE_SIZE);
    q->ring.avail = (void *)(d->mem.va + q->ring_pages[1] * SVQ_PAGE_SIZE);
    q->ring.used = (void *)(d->mem.va + q->ring_pages[2] * SVQ_PAGE_SIZE);
    return svq_drv_ring_alloc(&q->ring, size);
}

int svq_drv_queue_open(struct svq_drv *d, struct svq_drv_queue *q)
{
    uint32_t size = d->config.queue_size;
    q->slots = calloc(size, sizeof *q->slots);
    int rc = q->slots ? take_ring(d, q, size) : -ENOMEM;
    if (!rc)
        rc = take_pages(d, size, SVQ_SLABS_PER_PAGE, &q->slab_pages);
    if (!rc && d->config.features >> VIRTIO_F_INDIRECT_DESC & 1)
        rc = take_pages(d, size, svq_drv_tables_per_page(d), &q->table_pages);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < (size + SVQ_SLABS_PER_PAGE - 1) / SVQ_SLABS_PER_PAGE; i++)
        svq_drv_fill_tags(d, q->slab_pages[i], 1, SVQ_DRV_SLAB_SEED);
    svq_drv_ring_reset(&q->ring, size, false);
    q->port = svq_evtchn_alloc_unbound(d->ec, d->config.mediator_domid);
    return q->port < 0 ? q->port : 0;
}

void svq_drv_queue_close(struct svq_drv_queue *q)
{
    svq_drv_ring_free(&q->ring);
    free(q->slots);
    free(q->slab_pages);
    free(q->table_pages);
}

void svq_drv_queue_start(struct svq_drv *d, struct svq_drv_queue *q, uint32_t size)
{
    svq_drv_ring_reset(&q->ring, size, d->event_idx);
    for (uint32_t i = 0; i < size; i++)
        q->slots[i].job = 0;
    q->dirty = false;
    q->running = true;
}

int svq_drv_queue_reset_prepare(struct svq_drv *d, unsigned queue)
{
    if (queue >= d->config.queues)
        return -EINVAL;
    d->queues[queue].running = false; /* the device owns the ring until it says that the reset is done (2.6.1.2) */
    return d->queues[queue].ring.live;
}

int svq_drv_queue_rearm(struct svq_drv *d, unsigned queue, unsigned size)
{
    if (queue >= d->config.queues)
        return -EINVAL;
    struct svq_drv_queue *q = &d->queues[queue];
    if (q->running)
        return -EBUSY;
    if (size == 0)
        size = q->ring.size;
    if (size > d->config.queue_size || (size & (size - 1)))
        return -EINVAL;
    for (uint32_t head = 0; head < q->ring.size; head++)
        svq_drv_ledger_back(d, &q->slots[head], SVQ_BACK_RESET);
    svq_drv_queue_start(d, q, size);
    return 0;
}
