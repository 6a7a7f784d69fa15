/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "drv_wait.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#include "barrier.h"

enum {
    SPIN_LOOKS = 32, /* looks at the rings between two looks at the clock */
    NS_PER_MS = 1000000,
};

static bool any_pending(const struct svq_drv *d)
{
    for (unsigned i = 0; i < d->config.queues; i++)
        if (d->queues[i].running && svq_drv_ring_pending(&d->queues[i].ring))
            return true;
    return false;
}

static bool spin(struct svq_drv *d, uint64_t start_ns)
{
    if (d->busy_wait.ns == 0)
        return any_pending(d);
    do {
        for (int i = 0; i < SPIN_LOOKS; i++) {
            if (any_pending(d)) {
                svq_busy_wait_won(&d->busy_wait, svq_now_ns() - start_ns);
                return true;
            }
            svq_spin_hint();
        }
    } while (svq_now_ns() - start_ns < d->busy_wait.ns);
    return false;
}

static bool arm_all(struct svq_drv *d)
{
    bool pending = false;
    for (unsigned i = 0; i < d->config.queues; i++)
        if (d->queues[i].running)
            pending |= svq_drv_ring_arm(&d->queues[i].ring);
    return pending;
}

static void disarm_all(struct svq_drv *d)
{
    for (unsigned i = 0; i < d->config.queues; i++)
        if (d->queues[i].running)
            svq_drv_ring_disarm(&d->queues[i].ring);
}

/* Takes pending ports. A peer that never stops notifying keeps us here for at most two rounds over all queues. */
static int take_ports(struct svq_drv *d)
{
    int taken = 0;
    for (unsigned i = 0; i < 2u * d->config.queues; i++) {
        int port = svq_evtchn_pending(d->ec);
        if (port == -EAGAIN)
            break;
        int rc = port < 0 ? port : svq_evtchn_unmask(d->ec, (uint32_t)port);
        if (rc < 0)
            return rc;
        taken++;
    }
    svq_count(&d->counters.interrupts, (uint64_t)taken);
    return taken;
}

int svq_drv_wait_interrupt(struct svq_drv *d, unsigned timeout_ms)
{
    struct pollfd pfd = { .fd = svq_evtchn_fd(d->ec), .events = POLLIN };
    uint64_t deadline_ns = svq_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    for (;;) {
        uint64_t now_ns = svq_now_ns();
        uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        struct timespec left = { .tv_sec = (time_t)(left_ns / 1000000000), .tv_nsec = (long)(left_ns % 1000000000) };
        int rc = ppoll(&pfd, 1, &left, NULL);
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc > 0)
            return take_ports(d);
        if (rc == 0)
            return 0;
    }
}

int svq_drv_wait(struct svq_drv *d, uint64_t deadline_ns)
{
    uint64_t start_ns = svq_now_ns();
    if (spin(d, start_ns)) {
        svq_count(&d->counters.spins_won, 1);
        return 0;
    }
    int rc = 0;
    if (!arm_all(d)) {
        uint64_t nap_ms = deadline_ns > start_ns ? (deadline_ns - start_ns) / NS_PER_MS + 1 : 1;
        svq_count(&d->counters.sleeps, 1);
        rc = svq_drv_wait_interrupt(d, nap_ms < SVQ_DRV_NAP_MS ? (unsigned)nap_ms : SVQ_DRV_NAP_MS);
    }
    disarm_all(d);
    svq_busy_wait_adapt(&d->busy_wait, svq_now_ns() - start_ns);
    return rc < 0 ? rc : 0;
}
