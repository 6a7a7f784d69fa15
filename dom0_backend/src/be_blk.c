/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_blk.h"

#include <errno.h>
#include <string.h>

#include "barrier.h"

struct virtio_blk_outhdr {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

struct virtio_blk_discard_write_zeroes {
    uint64_t sector;
    uint32_t num_sectors;
    uint32_t flags; /* bit 0: unmap, the rest reserved */
};

_Static_assert(sizeof(struct virtio_blk_outhdr) == 16, "virtio 5.2.6");
_Static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == 16, "virtio 5.2.6");

enum { FLAG_UNMAP = 1 };

static bool accepted(const struct svq_be_blk *blk, int feature) { return blk->features >> feature & 1; }

static bool answer(struct svq_be_req *req, uint8_t status)
{
    req->status = status;
    req->ready = true;
    return false;
}

/* Do these bytes lie in the image? The driver chooses the sector, up to 2^64 - 1: no product may wrap. */
static bool in_image(const struct svq_be_blk *blk, uint64_t untrusted_sector, uint64_t length)
{
    return untrusted_sector <= blk->capacity / SVQ_BE_SECTOR &&
           length <= blk->capacity - untrusted_sector * SVQ_BE_SECTOR;
}

static bool begin_transfer(const struct svq_be_blk *blk, struct svq_be_req *req, uint64_t untrusted_sector)
{
    bool write = req->type == VIRTIO_BLK_T_OUT;
    struct svq_be_span *span = write ? &req->out : &req->in;
    uint64_t length = span->left;

    /* 5.2.6.1: whole sectors; blk_size tells the driver what direct I/O needs */
    if (length % blk->align || !in_image(blk, untrusted_sector, length) ||
        untrusted_sector * SVQ_BE_SECTOR % blk->align)
        return answer(req, VIRTIO_BLK_S_IOERR);
    req->data_len = (uint32_t)length;
    if (length == 0)
        return answer(req, VIRTIO_BLK_S_OK);
    req->op.kind = write ? SVQ_BE_OP_WRITE : SVQ_BE_OP_READ;
    req->op.span = span;
    req->op.offset = untrusted_sector * SVQ_BE_SECTOR;
    req->op.left = length;
    return true;
}

static bool flush_failed(const struct svq_be_blk *blk)
{
    return atomic_load_explicit(blk->flush_failed, memory_order_relaxed);
}

static bool begin_flush(const struct svq_be_blk *blk, struct svq_be_req *req)
{
    if (flush_failed(blk)) {
        svq_count(&blk->stats->failed_flushes, 1);
        return answer(req, VIRTIO_BLK_S_IOERR);
    }
    req->op.kind = SVQ_BE_OP_FLUSH;
    req->op.span = NULL;
    return true;
}

/* Sets up the operation for the next range that is not empty. False: there is none. */
static bool next_range(struct svq_be_req *req)
{
    while (req->next_range < req->ranges) {
        const struct svq_be_range *range = &req->range[req->next_range++];
        if (range->length == 0)
            continue;
        req->op.span = NULL;
        req->op.offset = range->offset;
        req->op.left = range->length;
        req->op.may_unmap = range->may_unmap;
        return true;
    }
    return false;
}

/* Cuts a discard down to the whole blocks of its range; a discard may do less than it was asked (5.2.6.2). */
static void round_inwards(struct svq_be_range *range, uint32_t block)
{
    uint64_t end = (range->offset + range->length) / block * block;
    range->offset = (range->offset + block - 1) / block * block;
    range->length = end > range->offset ? end - range->offset : 0;
}

/* Checks one discard or write zeroes segment. Returns VIRTIO_BLK_S_*. */
static uint8_t check_range(const struct svq_be_blk *blk, struct svq_be_req *req,
                           const struct virtio_blk_discard_write_zeroes *untrusted, struct svq_be_range *range)
{
    bool zeroes = req->type == VIRTIO_BLK_T_WRITE_ZEROES;
    uint64_t length = (uint64_t)untrusted->num_sectors * SVQ_BE_SECTOR;

    /* 5.2.6.2: UNSUPP for unknown flags, and for unmap in a discard */
    if (untrusted->flags & ~(zeroes ? FLAG_UNMAP : 0u))
        return VIRTIO_BLK_S_UNSUPP;
    if (untrusted->num_sectors > SVQ_BE_RANGE_SECTORS_MAX || !in_image(blk, untrusted->sector, length))
        return VIRTIO_BLK_S_IOERR;
    range->offset = untrusted->sector * SVQ_BE_SECTOR;
    range->length = length;
    /* We may have to write the zeros, and then direct I/O needs whole blocks */
    if (zeroes && (range->offset % blk->align || length % blk->align))
        return VIRTIO_BLK_S_IOERR;
    if (!zeroes)
        round_inwards(range, blk->block);
    return VIRTIO_BLK_S_OK;
}

static bool begin_ranges(const struct svq_be_blk *blk, struct svq_be_req *req)
{
    struct virtio_blk_discard_write_zeroes untrusted[SVQ_BE_RANGES_MAX];
    if (req->out.left == 0 || req->out.left % sizeof untrusted[0] || req->out.left > sizeof untrusted)
        return answer(req, VIRTIO_BLK_S_IOERR);
    req->ranges = (uint32_t)(req->out.left / sizeof untrusted[0]);
    svq_be_span_read(&req->out, untrusted, sizeof untrusted);
    for (uint32_t i = 0; i < req->ranges; i++) {
        uint8_t status = check_range(blk, req, &untrusted[i], &req->range[i]);
        if (status != VIRTIO_BLK_S_OK)
            return answer(req, status);
        req->range[i].may_unmap = untrusted[i].flags & FLAG_UNMAP;
    }
    req->op.kind = req->type == VIRTIO_BLK_T_DISCARD ? SVQ_BE_OP_DISCARD : SVQ_BE_OP_ZERO;
    return next_range(req) ? true : answer(req, VIRTIO_BLK_S_OK);
}

static bool begin_id(const struct svq_be_blk *blk, struct svq_be_req *req)
{
    /* 5.2.6.1: data MUST be 20 bytes; a longer buffer is filled with zeros */
    if (req->in.left < SVQ_BE_SERIAL_BYTES)
        return answer(req, VIRTIO_BLK_S_IOERR);
    svq_be_span_write(&req->in, blk->serial, SVQ_BE_SERIAL_BYTES);
    return answer(req, VIRTIO_BLK_S_OK);
}

bool svq_be_blk_begin(const struct svq_be_blk *blk, struct svq_be_req *req)
{
    req->type = UINT32_MAX;
    req->ready = false;
    req->flushed = false;
    req->data_len = 0;
    req->ranges = 0;
    req->next_range = 0;
    struct virtio_blk_outhdr untrusted;
    if (req->unreachable || !req->status_at ||
        svq_be_span_read(&req->out, &untrusted, sizeof untrusted) != sizeof untrusted)
        return answer(req, VIRTIO_BLK_S_IOERR);
    req->type = untrusted.type;
    switch (untrusted.type) {
    case VIRTIO_BLK_T_IN: return begin_transfer(blk, req, untrusted.sector);
    case VIRTIO_BLK_T_FLUSH: return begin_flush(blk, req);
    case VIRTIO_BLK_T_GET_ID: return begin_id(blk, req);
    case VIRTIO_BLK_T_OUT:
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES: break;
    default: return answer(req, VIRTIO_BLK_S_UNSUPP);
    }
    if (blk->read_only) /* 5.2.6.2: IOERR, and write nothing */
        return answer(req, VIRTIO_BLK_S_IOERR);
    if (untrusted.type == VIRTIO_BLK_T_OUT)
        return begin_transfer(blk, req, untrusted.sector);
    if (!accepted(blk, untrusted.type == VIRTIO_BLK_T_DISCARD ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES))
        return answer(req, VIRTIO_BLK_S_UNSUPP);
    return begin_ranges(blk, req);
}

bool svq_be_blk_next(const struct svq_be_blk *blk, struct svq_be_req *req)
{
    bool wrote = req->type == VIRTIO_BLK_T_OUT || req->type == VIRTIO_BLK_T_WRITE_ZEROES;
    if (req->op.kind == SVQ_BE_OP_FLUSH && req->op.result < 0)
        atomic_store_explicit(blk->flush_failed, true, memory_order_relaxed);
    /* A flush that began before we knew of another one's failure may succeed, since that error was already reported */
    if (req->op.kind == SVQ_BE_OP_FLUSH && flush_failed(blk)) {
        svq_count(&blk->stats->failed_flushes, 1);
        req->op.result = req->op.result < 0 ? req->op.result : -EIO;
    }
    if (req->op.result < 0) {
        svq_count(&blk->stats->image_errors, 1);
        return answer(req, VIRTIO_BLK_S_IOERR);
    }
    if (next_range(req))
        return true;
    /* 5.2.6.2: a driver that did not accept FLUSH relies on writes being stable once they are completed */
    if (wrote && !req->flushed && !accepted(blk, VIRTIO_BLK_F_FLUSH)) {
        req->flushed = true;
        return begin_flush(blk, req);
    }
    return answer(req, VIRTIO_BLK_S_OK);
}

static void count(const struct svq_be_blk *blk, const struct svq_be_req *req)
{
    struct svq_be_stats *stats = blk->stats;
    if (req->status == VIRTIO_BLK_S_IOERR)
        svq_count(&stats->io_errors, 1);
    else if (req->status == VIRTIO_BLK_S_UNSUPP)
        svq_count(&stats->unsupported, 1);
    if (req->status == VIRTIO_BLK_S_OK && req->type == VIRTIO_BLK_T_IN)
        svq_count(&stats->read_bytes, req->data_len);
    if (req->status == VIRTIO_BLK_S_OK && req->type == VIRTIO_BLK_T_OUT)
        svq_count(&stats->write_bytes, req->data_len);
    if (req->type == VIRTIO_BLK_T_IN)
        svq_count(&stats->reads, 1);
    else if (req->type == VIRTIO_BLK_T_OUT)
        svq_count(&stats->writes, 1);
    else if (req->type == VIRTIO_BLK_T_FLUSH)
        svq_count(&stats->flushes, 1);
    else if (req->type == VIRTIO_BLK_T_GET_ID)
        svq_count(&stats->get_ids, 1);
    else if (req->type == VIRTIO_BLK_T_DISCARD)
        svq_count(&stats->discards, 1);
    else if (req->type == VIRTIO_BLK_T_WRITE_ZEROES)
        svq_count(&stats->write_zeroes, 1);
}

/*
 * used.len counts from the front (2.7.8.2) and the status is the last byte. To count it, we must have written all bytes
 * before it, so bytes that the request left untouched become zeros. Only a request whose pages could not be mapped
 * cannot do that; its length covers the status all the same, or a mediator that copies would drop the error.
 */
void svq_be_blk_fill(struct svq_be_req *req)
{
    if (!req->status_at)
        return;
    svq_be_span_zero(&req->in);
    *req->status_at = req->status;
}

uint32_t svq_be_blk_finish(const struct svq_be_blk *blk, struct svq_be_req *req)
{
    count(blk, req);
    if (!req->status_at) {
        svq_count(&blk->stats->no_status, 1);
        return 0;
    }
    svq_be_blk_fill(req);
    return (uint32_t)req->chain.writable_bytes;
}
