/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Image I/O: operations on an open image, carried out by io_uring, or in place (preadv, pwritev, ...) where the kernel
 * refuses io_uring. Continues short transfers, copies through aligned buffers where direct I/O needs it, and falls back
 * from fallocate to writing zeros. Belongs to one thread.
 *
 * The kernel has one flush at a time, which answers for all that were started before it. Linux reports a lost write
 * only once: of two flushes at a time either might succeed, and we might see the successful one first.
 */
#ifndef SVQ_BE_IO_H
#define SVQ_BE_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "be_span.h"
#include "svq_backend.h"

enum svq_be_op_kind {
    SVQ_BE_OP_READ,
    SVQ_BE_OP_WRITE,
    SVQ_BE_OP_FLUSH,
    SVQ_BE_OP_DISCARD,
    SVQ_BE_OP_ZERO,
};

/* The way of writing zeros that we are trying (SVQ_BE_OP_ZERO). */
enum svq_be_zero_way {
    SVQ_BE_ZERO_PUNCH, /* gives the space back; only if may_unmap */
    SVQ_BE_ZERO_RANGE,
    SVQ_BE_ZERO_WRITE,
};

struct svq_be_op {
    /* the caller sets these */
    enum svq_be_op_kind kind;
    bool may_unmap;
    struct svq_be_span *span; /* READ, WRITE: memory; consumed as bytes are moved */
    uint64_t offset;          /* bytes in the image */
    uint64_t left;            /* bytes to do, at most span->left for READ and WRITE */
    /* the engine sets these */
    int result; /* 0 or -errno */
    enum svq_be_zero_way way;
    bool aligned;    /* memory fits direct I/O as it is */
    int bounce;      /* index of its aligned buffer, -1: none */
    uint32_t issued; /* bytes requested in the current step */
    uint32_t retries;
    struct iovec one; /* the aligned buffer, or zeros */
    struct svq_be_op *next;
    struct svq_be_op *riders; /* FLUSH: the other flushes that share its result */
};

struct svq_be_io_setup {
    int fd;
    bool is_block;
    bool direct;
    uint32_t align;   /* bytes; with direct I/O memory, offsets and lengths are multiples of it */
    uint32_t entries; /* operations in progress at a time */
    bool force_sync;
    struct svq_be_stats *stats;
};

struct svq_be_io;

int svq_be_io_create(const struct svq_be_io_setup *setup, struct svq_be_io **out);
void svq_be_io_destroy(struct svq_be_io *io); /* nothing may be in progress */

void svq_be_io_start(struct svq_be_io *io, struct svq_be_op *op);
/* Hands started operations to the kernel. -errno: not all of them; call again. */
int svq_be_io_submit(struct svq_be_io *io);
/* The next operation that has ended, or NULL. */
struct svq_be_op *svq_be_io_reap(struct svq_be_io *io);

/* Readable when an operation has ended, while wake-ups are on. -1: the engine ends every operation at once. */
int svq_be_io_fd(const struct svq_be_io *io);
/* Off: we poll. Reap once more after turning them on. */
void svq_be_io_wakeups(struct svq_be_io *io, bool on);

#endif
