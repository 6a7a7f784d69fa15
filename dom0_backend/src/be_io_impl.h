/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the files of the I/O engine; no other file includes it. */
#ifndef SVQ_BE_IO_IMPL_H
#define SVQ_BE_IO_IMPL_H

#include <liburing.h>

#include "be_io.h"

enum {
    SVQ_BE_BOUNCES = 16,
    SVQ_BE_BOUNCE_BYTES = 128 * 1024,
    SVQ_BE_ZEROES_BYTES = 256 * 1024,
    SVQ_BE_STEP_IOVS = 1024, /* UIO_MAXIOV */
};

struct svq_be_op_list {
    struct svq_be_op *head;
    struct svq_be_op **tail;
};

struct svq_be_io {
    int fd;
    bool is_block;
    bool direct;
    uint32_t align;
    struct svq_be_stats *stats;
    struct svq_be_op_list done;
    struct svq_be_op_list waiting; /* operations that wait for an aligned buffer */
    struct svq_be_op_list flushes; /* flushes that wait for the current one to end */
    bool flushing;
    uint8_t *bounces;     /* SVQ_BE_BOUNCES of them; direct I/O only */
    uint32_t bounce_free; /* bit mask */
    uint8_t *zeroes;      /* a page-aligned run of zeros */
    bool no_punch;        /* learnt: the file system cannot do it */
    bool no_zero_range;
    bool uring_on;
    int event_fd;
    struct io_uring uring;
};

/* The system call that an operation's next step needs. */
struct svq_be_step {
    enum { SVQ_BE_STEP_READV, SVQ_BE_STEP_WRITEV, SVQ_BE_STEP_SYNC, SVQ_BE_STEP_FALLOCATE, SVQ_BE_STEP_TRIM } call;
    int mode; /* fallocate */
    const struct iovec *iov;
    uint32_t iovs;
    uint64_t offset;
    uint64_t length; /* fallocate, trim */
};

void svq_be_op_list_init(struct svq_be_op_list *list);
void svq_be_op_list_add(struct svq_be_op_list *list, struct svq_be_op *op);
struct svq_be_op *svq_be_op_list_take(struct svq_be_op_list *list);

/* be_step.c: the steps of an operation, independent of who carries them out. False: op waits for a buffer. */
bool svq_be_step_next(struct svq_be_io *io, struct svq_be_op *op, struct svq_be_step *step);
/* Processes the result of a step (bytes or -errno). True: the operation has ended, op->result. */
bool svq_be_step_done(struct svq_be_io *io, struct svq_be_op *op, int64_t answer);
int64_t svq_be_step_run(struct svq_be_io *io, const struct svq_be_step *step); /* in place */

/* be_uring.c */
int svq_be_uring_open(struct svq_be_io *io, uint32_t entries);
void svq_be_uring_close(struct svq_be_io *io);
bool svq_be_uring_issue(struct svq_be_io *io, struct svq_be_op *op, const struct svq_be_step *step);
struct svq_be_op *svq_be_uring_peek(struct svq_be_io *io, int64_t *answer);

#endif
