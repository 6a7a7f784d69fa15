/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
/* The thread of a device: serve, busy-wait a little, sleep. */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "barrier.h"
#include "be_device.h"
#include "clock.h"

enum {
    SPINS_PER_LOOK = 32, /* hints between two rounds of a busy wait */
    RETRY_MS = 1,        /* if the kernel did not take all submissions */
};

static bool call_pending(struct svq_be_device *dev)
{
    return atomic_load_explicit(&dev->call_pending, memory_order_acquire);
}

/* True: there is work again. */
static bool busy_wait(struct svq_be_device *dev)
{
    if (dev->busy_wait.ns == 0)
        return false;
    uint64_t start = svq_now_ns();
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++)
            svq_spin_hint();
        if (call_pending(dev))
            return true;
        if (svq_be_serve(dev)) {
            svq_busy_wait_won(&dev->busy_wait, svq_now_ns() - start);
            return true;
        }
    } while (svq_now_ns() - start < dev->busy_wait.ns);
    return false;
}

static void take_kicks(struct svq_be_device *dev)
{
    /* A port is masked from pending to unmask, so each appears here once */
    for (uint32_t i = 0; i < dev->config.queues; i++) {
        int port = svq_evtchn_pending(dev->evtchn);
        if (port < 0)
            return;
        svq_evtchn_unmask(dev->evtchn, (uint32_t)port);
        svq_count(&dev->stats.kicks, 1);
    }
}

/* The descriptor itself has failed and would wake us forever: no more kicks will come. */
static void lose_event_channels(struct svq_be_device *dev)
{
    dev->evtchn_failed = true;
    for (uint32_t i = 0; i < dev->config.queues; i++) {
        if (dev->queues[i].attached && !dev->queues[i].ring.fault)
            svq_be_queue_fault(dev, &dev->queues[i], SVQ_BE_FAULT_EVTCHN);
    }
}

static void sleep_until_woken(struct svq_be_device *dev)
{
    struct pollfd fds[3] = {
        { .fd = dev->control_fd, .events = POLLIN },
        { .fd = svq_evtchn_fd(dev->evtchn), .events = POLLIN },
        { .fd = svq_be_io_fd(dev->io), .events = POLLIN },
    };
    int timeout = svq_be_io_submit(dev->io) ? RETRY_MS : -1;
    uint64_t start = svq_now_ns();
    svq_count(&dev->stats.sleeps, 1);
    if (dev->evtchn_failed)
        fds[1].fd = -1;
    if (poll(fds, 3, timeout) <= 0)
        return;
    svq_busy_wait_adapt(&dev->busy_wait, svq_now_ns() - start);
    eventfd_t ignored;
    if (fds[0].revents)
        eventfd_read(dev->control_fd, &ignored);
    if (fds[1].revents & POLLIN)
        take_kicks(dev);
    else if (fds[1].revents)
        lose_event_channels(dev);
    if (fds[2].revents)
        eventfd_read(fds[2].fd, &ignored);
}

void *svq_be_thread(void *device)
{
    struct svq_be_device *dev = device;
    svq_be_serve_quiet(dev);
    for (;;) {
        if (call_pending(dev))
            svq_be_answer_call(dev);
        if (svq_be_serve(dev) || busy_wait(dev))
            continue;
        if (dev->quit && dev->in_flight == 0)
            break;
        /* Once armed, any new work makes a descriptor readable; one more round sees what came before */
        if (!svq_be_serve_arm(dev) && !svq_be_serve(dev) && !call_pending(dev))
            sleep_until_woken(dev);
        svq_be_serve_quiet(dev);
    }
    svq_be_serve_arm(dev);
    return NULL;
}
