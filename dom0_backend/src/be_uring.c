/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Steps that io_uring carries out. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "be_io_impl.h"

int svq_be_uring_open(struct svq_be_io *io, uint32_t entries)
{
    int rc = io_uring_queue_init(entries, &io->uring, IORING_SETUP_CLAMP);
    if (rc < 0)
        return rc;
    io->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = io->event_fd < 0 ? -errno : io_uring_register_eventfd(&io->uring, io->event_fd);
    if (rc < 0) {
        if (io->event_fd >= 0)
            close(io->event_fd);
        io->event_fd = -1;
        io_uring_queue_exit(&io->uring);
        return rc;
    }
    io->uring_on = true;
    return 0;
}

void svq_be_uring_close(struct svq_be_io *io)
{
    if (!io->uring_on)
        return;
    io_uring_queue_exit(&io->uring);
    close(io->event_fd);
    io->event_fd = -1;
    io->uring_on = false;
}

bool svq_be_uring_issue(struct svq_be_io *io, struct svq_be_op *op, const struct svq_be_step *step)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&io->uring);
    if (!sqe) { /* the kernel clamped the queue below what we asked for */
        io_uring_submit(&io->uring);
        sqe = io_uring_get_sqe(&io->uring);
    }
    if (!sqe)
        return false;
    switch (step->call) {
    case SVQ_BE_STEP_READV: io_uring_prep_readv(sqe, io->fd, step->iov, step->iovs, step->offset); break;
    case SVQ_BE_STEP_WRITEV: io_uring_prep_writev(sqe, io->fd, step->iov, step->iovs, step->offset); break;
    case SVQ_BE_STEP_SYNC: io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC); break;
    default: io_uring_prep_fallocate(sqe, io->fd, step->mode, (off_t)step->offset, (off_t)step->length); break;
    }
    io_uring_sqe_set_data(sqe, op);
    return true;
}

struct svq_be_op *svq_be_uring_peek(struct svq_be_io *io, int64_t *answer)
{
    struct io_uring_cqe *cqe;
    if (io_uring_peek_cqe(&io->uring, &cqe) < 0)
        return NULL;
    struct svq_be_op *op = io_uring_cqe_get_data(cqe);
    *answer = cqe->res;
    io_uring_cqe_seen(&io->uring, cqe);
    return op;
}
