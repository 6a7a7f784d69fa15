/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A slab slot of 64 bytes: a tag (0-15), the header (16-31), the status byte (32), 15 canary bytes (33-47), a tag
 * (48-63). So the page of a header and a status also holds those of others, and bytes that nobody may access.
 */
#include "drv_blk.h"

#include <errno.h>
#include <string.h>

#include "drv_ledger.h"
#include "drv_tag.h"

enum {
    SLAB_HEADER = 16,
    SLAB_STATUS = 32,
    SLAB_TAG2 = 48,
    SLAB_CANARY = 0xc5,
    SECTOR_BYTES = 512,
};

struct blk_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

_Static_assert(sizeof(struct blk_header) == 16, "virtio 5.2.6");

static uint64_t slab_offset(const struct svq_drv_queue *q, uint16_t head)
{
    return (uint64_t)q->slab_pages[head / SVQ_SLABS_PER_PAGE] * SVQ_PAGE_SIZE +
           (uint64_t)(head % SVQ_SLABS_PER_PAGE) * SVQ_SLAB_BYTES;
}

static uint64_t table_offset(const struct svq_drv *d, const struct svq_drv_queue *q, uint16_t head)
{
    uint32_t per_page = svq_drv_tables_per_page(d);
    return (uint64_t)q->table_pages[head / per_page] * SVQ_PAGE_SIZE +
           (uint64_t)(head % per_page) * d->table_entries * sizeof(struct vring_desc);
}

static bool device_writes(uint32_t type)
{
    return type == SVQ_DRV_IN || type == SVQ_DRV_GET_ID || type == SVQ_DRV_GET_LIFETIME;
}

static int push(struct svq_drv *d, uint32_t *n, uint64_t addr, uint32_t len)
{
    if (*n == d->sg_max)
        return -E2BIG;
    d->sg[(*n)++] = (struct svq_drv_sg){ .addr = addr, .len = len };
    return 0;
}

/* One requested segment, split wherever guest physical memory is not contiguous. */
static int push_straight(struct svq_drv *d, uint32_t *n, uint64_t offset, uint32_t len)
{
    while (len > 0) {
        uint32_t part = svq_drv_mem_straight(&d->mem, offset, len);
        int rc = push(d, n, svq_drv_mem_gpa(&d->mem, offset), part);
        if (rc)
            return rc;
        offset += part;
        len -= part;
    }
    return 0;
}

/* The largest unit (page, sector or byte) that divides `len` and gives each segment at least one. */
static uint32_t largest_unit(uint32_t len, uint32_t segments)
{
    if (len % SVQ_PAGE_SIZE == 0 && len / SVQ_PAGE_SIZE >= segments)
        return SVQ_PAGE_SIZE;
    return len % SECTOR_BYTES == 0 && len / SECTOR_BYTES >= segments ? SECTOR_BYTES : 1;
}

static int push_data(struct svq_drv *d, uint32_t *n, const struct svq_drv_req *req)
{
    if (req->len == 0)
        return 0;
    int64_t start = svq_drv_mem_offset(&d->mem, req->buf_gpa, req->len);
    if (start < 0)
        return (int)start;
    if (req->len > SVQ_DRV_DATA_MAX) /* 2.7.5.2: a chain is at most 2^32 bytes */
        return -E2BIG;
    uint32_t segments = req->segments ? req->segments : 1;
    if (segments > req->len)
        return -EINVAL;
    if (segments > d->sg_max)
        return -E2BIG;
    uint32_t unit = largest_unit(req->len, segments);
    uint32_t units = req->len / unit;
    uint64_t offset = (uint64_t)start;
    for (uint32_t k = 0; k < segments; k++) {
        uint32_t len = (units / segments + (k < units % segments)) * unit;
        int rc = push_straight(d, n, offset, len);
        if (rc)
            return rc;
        offset += len;
    }
    return 0;
}

/* Puts header, data and status of the request into d->sg as segments, and counts the readable and the writable ones. */
static int build(struct svq_drv *d, uint64_t slab, const struct svq_drv_req *req, uint32_t *n_out, uint32_t *n_in)
{
    uint32_t n = 0;
    int rc = push(d, &n, svq_drv_mem_gpa(&d->mem, slab + SLAB_HEADER), sizeof(struct blk_header));
    if (!rc)
        rc = push_data(d, &n, req);
    if (rc)
        return rc;
    *n_out = device_writes(req->type) ? 1 : n;
    rc = push(d, &n, svq_drv_mem_gpa(&d->mem, slab + SLAB_STATUS), 1);
    *n_in = n - *n_out;
    return rc;
}

static void write_slab(const struct svq_drv *d, struct svq_drv_slot *slot, uint64_t slab, const struct svq_drv_req *req)
{
    const struct blk_header header = { .type = req->type, .sector = req->sector };
    uint64_t gfn = d->mem.gfns[slab >> SVQ_PAGE_SHIFT];
    uint32_t in_page = slab & (SVQ_PAGE_SIZE - 1);
    uint8_t *image = slot->image;
    svq_tag_write(image, gfn, in_page, SVQ_DRV_SLAB_SEED);
    memcpy(image + SLAB_HEADER, &header, sizeof header);
    memset(image + SLAB_STATUS, SLAB_CANARY, SLAB_TAG2 - SLAB_STATUS);
    image[SLAB_STATUS] = SVQ_DRV_STATUS_NONE;
    svq_tag_write(image + SLAB_TAG2, gfn, in_page + SLAB_TAG2, SVQ_DRV_SLAB_SEED);
    memcpy(d->mem.va + slab, image, SVQ_SLAB_BYTES);
}

int svq_drv_blk_add(struct svq_drv *d, struct svq_drv_queue *q, const struct svq_drv_req *req)
{
    if (q->ring.free_count == 0)
        return -ENOSPC;
    uint16_t head = svq_drv_ring_next_head(&q->ring); /* free, and so are its slot and table */
    uint64_t slab = slab_offset(q, head);
    uint32_t n_out = 0;
    uint32_t n_in = 0;
    int rc = build(d, slab, req, &n_out, &n_in);
    if (rc)
        return rc;

    struct svq_drv_table table = { 0 };
    bool indirect = d->indirect && req->flags & SVQ_DRV_REQ_INDIRECT;
    if (indirect) {
        uint64_t offset = table_offset(d, q, head);
        table.entries = (void *)(d->mem.va + offset);
        table.gpa = svq_drv_mem_gpa(&d->mem, offset);
        table.size = d->table_entries;
    }
    svq_drv_ledger_give(d, &q->slots[head], slab, req, device_writes(req->type));
    rc = svq_drv_ring_add(&q->ring, d->sg, n_out, n_in, indirect ? &table : NULL);
    if (rc < 0) {
        svq_drv_ledger_back(d, &q->slots[head], SVQ_BACK_ALWAYS);
        return rc;
    }
    write_slab(d, &q->slots[head], slab, req); /* the device sees this only once the ring is published */
    q->dirty = true;
    return head;
}

int svq_drv_blk_finish(const struct svq_drv *d, const struct svq_drv_queue *q, uint16_t head, uint32_t *status)
{
    uint8_t untrusted_slab[SVQ_SLAB_BYTES];
    const struct svq_drv_slot *slot = &q->slots[head];
    memcpy(untrusted_slab, d->mem.va + slab_offset(q, head), SVQ_SLAB_BYTES);
    *status = untrusted_slab[SLAB_STATUS];
    untrusted_slab[SLAB_STATUS] = slot->image[SLAB_STATUS];
    return memcmp(untrusted_slab, slot->image, SVQ_SLAB_BYTES) ? -EBADMSG : 0;
}
