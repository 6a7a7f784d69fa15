/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_io.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "barrier.h"
#include "be_io_impl.h"

void svq_be_op_list_init(struct svq_be_op_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

void svq_be_op_list_add(struct svq_be_op_list *list, struct svq_be_op *op)
{
    op->next = NULL;
    *list->tail = op;
    list->tail = &op->next;
}

struct svq_be_op *svq_be_op_list_take(struct svq_be_op_list *list)
{
    struct svq_be_op *op = list->head;
    if (op) {
        list->head = op->next;
        if (!list->head)
            list->tail = &list->head;
    }
    return op;
}

static uint8_t *pages(size_t bytes, int protection)
{
    void *va = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return va == MAP_FAILED ? NULL : va;
}

int svq_be_io_create(const struct svq_be_io_setup *setup, struct svq_be_io **out)
{
    struct svq_be_io *io = calloc(1, sizeof *io);
    if (!io)
        return -ENOMEM;
    io->fd = setup->fd;
    io->is_block = setup->is_block;
    io->direct = setup->direct;
    io->align = setup->align;
    io->stats = setup->stats;
    io->event_fd = -1;
    svq_be_op_list_init(&io->done);
    svq_be_op_list_init(&io->waiting);
    svq_be_op_list_init(&io->flushes);
    io->zeroes = pages(SVQ_BE_ZEROES_BYTES, PROT_READ);
    if (io->direct) {
        io->bounces = pages((size_t)SVQ_BE_BOUNCES * SVQ_BE_BOUNCE_BYTES, PROT_READ | PROT_WRITE);
        io->bounce_free = (1u << SVQ_BE_BOUNCES) - 1;
    }
    if (!io->zeroes || (io->direct && !io->bounces)) {
        svq_be_io_destroy(io);
        return -ENOMEM;
    }
    io->stats->direct_io = io->direct;
    if (!setup->force_sync)
        io->stats->io_engine_errno = svq_be_uring_open(io, setup->entries);
    io->stats->io_engine = io->uring_on ? SVQ_BE_ENGINE_URING : SVQ_BE_ENGINE_SYNC;
    *out = io;
    return 0;
}

void svq_be_io_destroy(struct svq_be_io *io)
{
    if (!io)
        return;
    svq_be_uring_close(io);
    if (io->zeroes)
        munmap(io->zeroes, SVQ_BE_ZEROES_BYTES);
    if (io->bounces)
        munmap(io->bounces, (size_t)SVQ_BE_BOUNCES * SVQ_BE_BOUNCE_BYTES);
    free(io);
}

/* Ends an operation; if it is a flush, also all its riders. */
static void finish(struct svq_be_io *io, struct svq_be_op *op)
{
    struct svq_be_op *rider = op->riders;
    if (op->kind == SVQ_BE_OP_FLUSH)
        io->flushing = false;
    svq_be_op_list_add(&io->done, op);
    while (rider) {
        struct svq_be_op *after = rider->next;
        rider->result = op->result;
        svq_be_op_list_add(&io->done, rider);
        rider = after;
    }
}

/*
 * Goes on with an operation until it is with the kernel, waits for a buffer, or has ended. This terminates: every turn
 * moves bytes, moves on to another way of zeroing, or uses up a retry.
 */
static void go_on(struct svq_be_io *io, struct svq_be_op *op)
{
    for (;;) {
        struct svq_be_step step;
        if (!svq_be_step_next(io, op, &step)) {
            svq_be_op_list_add(&io->waiting, op);
            return;
        }
        if (io->uring_on && step.call != SVQ_BE_STEP_TRIM) { /* io_uring has no such request before Linux 6.12 */
            if (svq_be_uring_issue(io, op, &step))
                return;
        }
        if (svq_be_step_done(io, op, svq_be_step_run(io, &step))) {
            finish(io, op);
            return;
        }
    }
}

static void wake_waiting(struct svq_be_io *io)
{
    /* Each turn takes a buffer, so this loop ends */
    while (io->bounce_free != 0 && io->waiting.head)
        go_on(io, svq_be_op_list_take(&io->waiting));
}

/* Starts the next flush, if none is in progress, for all that wait for one by now. */
static void wake_flushes(struct svq_be_io *io)
{
    struct svq_be_op *op = io->flushing ? NULL : svq_be_op_list_take(&io->flushes);
    if (!op)
        return;
    op->riders = io->flushes.head;
    svq_be_op_list_init(&io->flushes);
    io->flushing = true;
    go_on(io, op);
}

static bool memory_aligned(const struct svq_be_span *span, uint32_t align)
{
    uintptr_t bits = 0;
    for (uint32_t i = 0; i < span->count; i++)
        bits |= (uintptr_t)span->iov[i].iov_base | span->iov[i].iov_len;
    return bits % align == 0;
}

void svq_be_io_start(struct svq_be_io *io, struct svq_be_op *op)
{
    op->result = 0;
    op->bounce = -1;
    op->retries = 0;
    op->way = SVQ_BE_ZERO_PUNCH;
    op->riders = NULL;
    op->aligned = !io->direct || !op->span || memory_aligned(op->span, io->align);
    if (op->kind == SVQ_BE_OP_FLUSH)
        svq_be_op_list_add(&io->flushes, op);
    else
        go_on(io, op);
    wake_waiting(io);
    wake_flushes(io);
}

int svq_be_io_submit(struct svq_be_io *io)
{
    if (!io->uring_on || io_uring_sq_ready(&io->uring) == 0)
        return 0;
    int rc = io_uring_submit(&io->uring);
    if (rc < 0)
        return rc;
    return io_uring_sq_ready(&io->uring) ? -EAGAIN : 0;
}

struct svq_be_op *svq_be_io_reap(struct svq_be_io *io)
{
    struct svq_be_op *op;
    int64_t answer;
    while (!io->done.head && io->uring_on && (op = svq_be_uring_peek(io, &answer))) {
        if (svq_be_step_done(io, op, answer))
            finish(io, op);
        else
            go_on(io, op);
        wake_waiting(io);
        wake_flushes(io);
    }
    return svq_be_op_list_take(&io->done);
}

int svq_be_io_fd(const struct svq_be_io *io) { return io->event_fd; }

void svq_be_io_wakeups(struct svq_be_io *io, bool on)
{
    if (io->uring_on)
        io_uring_cq_eventfd_toggle(&io->uring, on);
}
