/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
/*
 * An image operation as a series of system calls; the results of earlier calls decide the next one. Independent of who
 * makes the calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "barrier.h"
#include "be_io_impl.h"

enum { RETRIES_MAX = 64 }; /* of EINTR and EAGAIN without progress */

static uint8_t *bounce_at(struct svq_be_io *io, int index) { return io->bounces + (size_t)index * SVQ_BE_BOUNCE_BYTES; }

static uint32_t min_u64(uint64_t a, uint32_t b) { return a < b ? (uint32_t)a : b; }

static bool take_bounce(struct svq_be_io *io, struct svq_be_op *op)
{
    if (op->bounce >= 0)
        return true;
    if (io->bounce_free == 0) {
        svq_count(&io->stats->bounce_waits, 1);
        return false;
    }
    op->bounce = __builtin_ctz(io->bounce_free);
    io->bounce_free &= io->bounce_free - 1;
    svq_count(&io->stats->bounced_ios, 1);
    return true;
}

/* A transfer through the aligned buffer. A write's bytes are copied now, but consumed only when they are written. */
static bool bounce_step(struct svq_be_io *io, struct svq_be_op *op, struct svq_be_step *step)
{
    if (!take_bounce(io, op))
        return false;
    op->issued = min_u64(op->left, SVQ_BE_BOUNCE_BYTES);
    op->one = (struct iovec){ .iov_base = bounce_at(io, op->bounce), .iov_len = op->issued };
    if (op->kind == SVQ_BE_OP_WRITE) {
        size_t done = 0;
        for (uint32_t i = 0; i < op->span->count && done < op->issued; i++) {
            size_t take = min_u64(op->span->iov[i].iov_len, (uint32_t)(op->issued - done));
            memcpy((uint8_t *)op->one.iov_base + done, op->span->iov[i].iov_base, take);
            done += take;
        }
    }
    step->iov = &op->one;
    step->iovs = 1;
    return true;
}

static bool transfer_step(struct svq_be_io *io, struct svq_be_op *op, struct svq_be_step *step)
{
    step->call = op->kind == SVQ_BE_OP_READ ? SVQ_BE_STEP_READV : SVQ_BE_STEP_WRITEV;
    step->offset = op->offset;
    if (io->direct && !op->aligned)
        return bounce_step(io, op, step);
    step->iov = op->span->iov;
    step->iovs = op->span->count < SVQ_BE_STEP_IOVS ? op->span->count : SVQ_BE_STEP_IOVS;
    op->issued = 0;
    for (uint32_t i = 0; i < step->iovs; i++)
        op->issued += (uint32_t)step->iov[i].iov_len;
    return true;
}

static void zero_step(struct svq_be_io *io, struct svq_be_op *op, struct svq_be_step *step)
{
    if (op->way == SVQ_BE_ZERO_PUNCH && (!op->may_unmap || io->no_punch))
        op->way = SVQ_BE_ZERO_RANGE;
    if (op->way == SVQ_BE_ZERO_RANGE && io->no_zero_range)
        op->way = SVQ_BE_ZERO_WRITE;
    step->offset = op->offset;
    step->length = op->left;
    step->call = SVQ_BE_STEP_FALLOCATE;
    if (op->way == SVQ_BE_ZERO_PUNCH) {
        step->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    } else if (op->way == SVQ_BE_ZERO_RANGE) {
        step->mode = FALLOC_FL_ZERO_RANGE;
    } else {
        op->issued = min_u64(op->left, SVQ_BE_ZEROES_BYTES);
        op->one = (struct iovec){ .iov_base = io->zeroes, .iov_len = op->issued };
        step->call = SVQ_BE_STEP_WRITEV;
        step->iov = &op->one;
        step->iovs = 1;
    }
}

bool svq_be_step_next(struct svq_be_io *io, struct svq_be_op *op, struct svq_be_step *step)
{
    memset(step, 0, sizeof *step);
    switch (op->kind) {
    case SVQ_BE_OP_READ:
    case SVQ_BE_OP_WRITE: return transfer_step(io, op, step);
    case SVQ_BE_OP_FLUSH: step->call = SVQ_BE_STEP_SYNC; return true;
    case SVQ_BE_OP_DISCARD:
        step->call = io->is_block ? SVQ_BE_STEP_TRIM : SVQ_BE_STEP_FALLOCATE;
        step->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        step->offset = op->offset;
        step->length = op->left;
        return true;
    default: zero_step(io, op, step); return true;
    }
}

static bool end(struct svq_be_io *io, struct svq_be_op *op, int result)
{
    op->result = result;
    if (op->bounce >= 0) {
        io->bounce_free |= 1u << op->bounce;
        op->bounce = -1;
    }
    return true;
}

static bool not_supported(int64_t answer) { return answer == -EOPNOTSUPP || answer == -ENOSYS || answer == -ENODEV; }

static bool transfer_done(struct svq_be_io *io, struct svq_be_op *op, uint32_t moved)
{
    /* Past the end of a truncated image, reads return 0, or a length from which direct I/O cannot continue. */
    if (moved == 0 || moved > op->issued || (io->direct && moved % io->align))
        return end(io, op, -EIO);
    if (op->kind == SVQ_BE_OP_READ && op->bounce >= 0)
        svq_be_span_write(op->span, bounce_at(io, op->bounce), moved);
    else if (op->kind != SVQ_BE_OP_ZERO)
        svq_be_span_skip(op->span, moved);
    op->offset += moved;
    op->left -= moved;
    op->retries = 0;
    if (op->left == 0)
        return end(io, op, 0);
    if (moved < op->issued)
        svq_count(&io->stats->short_ios, 1);
    return false;
}

/* If the image does not support a way of zeroing, tries the next one, and remembers that. */
static bool zero_done(struct svq_be_io *io, struct svq_be_op *op, int64_t answer)
{
    if (answer == 0)
        return end(io, op, 0);
    if (answer != -EINVAL && !not_supported(answer))
        return end(io, op, (int)answer);
    /* -EINVAL: concerns only this range, which cuts across the blocks of a block device */
    if (answer != -EINVAL && op->way == SVQ_BE_ZERO_PUNCH)
        io->no_punch = true;
    else if (answer != -EINVAL)
        io->no_zero_range = true;
    op->way++;
    return false;
}

bool svq_be_step_done(struct svq_be_io *io, struct svq_be_op *op, int64_t answer)
{
    bool again = answer == -EINTR || answer == -EAGAIN;
    if (again && op->kind != SVQ_BE_OP_FLUSH && op->retries++ < RETRIES_MAX)
        return false; /* never repeat a flush: it may have reported its lost write the first time */
    switch (op->kind) {
    case SVQ_BE_OP_FLUSH: return end(io, op, (int)answer);
    case SVQ_BE_OP_DISCARD: /* 5.2.6.2: "MAY deallocate": where we cannot, doing nothing is correct */
        return end(io, op, not_supported(answer) ? 0 : (int)answer);
    case SVQ_BE_OP_ZERO:
        if (op->way != SVQ_BE_ZERO_WRITE)
            return zero_done(io, op, answer);
        break;
    default: break;
    }
    return answer < 0 ? end(io, op, (int)answer) : transfer_done(io, op, (uint32_t)answer);
}

static int64_t or_errno(int64_t answer) { return answer < 0 ? -errno : answer; }

int64_t svq_be_step_run(struct svq_be_io *io, const struct svq_be_step *step)
{
    uint64_t range[2] = { step->offset, step->length };
    switch (step->call) {
    case SVQ_BE_STEP_READV: return or_errno(preadv(io->fd, step->iov, (int)step->iovs, (off_t)step->offset));
    case SVQ_BE_STEP_WRITEV: return or_errno(pwritev(io->fd, step->iov, (int)step->iovs, (off_t)step->offset));
    case SVQ_BE_STEP_SYNC: return or_errno(fdatasync(io->fd));
    case SVQ_BE_STEP_TRIM: return or_errno(ioctl(io->fd, BLKDISCARD, range));
    default: return or_errno(fallocate(io->fd, step->mode, (off_t)step->offset, (off_t)step->length));
    }
}
