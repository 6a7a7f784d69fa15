/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the virtio block device (virtio 5.2.6): what they say, whether it is allowed, which image operations
 * carry them out, and what they return. Works on mapped memory only.
 */
#ifndef SVQ_BE_BLK_H
#define SVQ_BE_BLK_H

#include <stdatomic.h>

#include "be_req.h"

enum {
    VIRTIO_BLK_T_IN = 0,
    VIRTIO_BLK_T_OUT = 1,
    VIRTIO_BLK_T_FLUSH = 4,
    VIRTIO_BLK_T_GET_ID = 8,
    VIRTIO_BLK_T_DISCARD = 11,
    VIRTIO_BLK_T_WRITE_ZEROES = 13,
    VIRTIO_BLK_S_OK = 0,
    VIRTIO_BLK_S_IOERR = 1,
    VIRTIO_BLK_S_UNSUPP = 2,
    SVQ_BE_SECTOR = 512,
    SVQ_BE_RANGE_SECTORS_MAX = 131072, /* 64 MiB in one discard or write zeroes segment */
};

struct svq_be_blk {
    uint64_t capacity; /* bytes */
    uint32_t align;    /* bytes that offsets and lengths must be multiples of; 512, more with direct I/O */
    uint32_t block;    /* bytes, the image's logical block: the least that can be discarded */
    bool read_only;
    uint64_t features;         /* accepted */
    atomic_bool *flush_failed; /* the image's; only this thread writes it */
    uint8_t serial[SVQ_BE_SERIAL_BYTES];
    struct svq_be_stats *stats;
};

/* Parses a mapped request. True: start req->op; false: ready to be finished. */
bool svq_be_blk_begin(const struct svq_be_blk *blk, struct svq_be_req *req);
/* req->op has ended. True: start req->op again; false: ready to be finished. */
bool svq_be_blk_next(const struct svq_be_blk *blk, struct svq_be_req *req);
/* Writes the remaining device-writable bytes, the status last. */
void svq_be_blk_fill(struct svq_be_req *req);
/* Does the same, and counts. Returns used.len. */
uint32_t svq_be_blk_finish(const struct svq_be_blk *blk, struct svq_be_req *req);

#endif
