/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rig_peers.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "barrier.h"

static void must(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-rc));
        abort();
    }
}

struct svq_device *rig_add_device(struct rig *rig, struct svq_worker *worker, uint16_t first, uint16_t queues)
{
    struct svq_device_config config = rig_other_device(rig, (uint8_t)(RIG_MARK + first));
    config.num_queues = queues;
    config.bounce_pages = 64;
    config.large_chains = 4;
    config.frontend_event_idx = config.backend_event_idx = 1;
    struct svq_device *dev;
    must(svq_device_create(rig->guest, &config, &dev), "device_create");
    for (uint16_t i = 0; i < queues; i++) {
        struct rig_queue *q = &rig->q[first + i];
        q->frontend_port = svq_evtchn_alloc_unbound(rig->frontend_ec, RIG_MEDIATOR);
        must(q->frontend_port, "alloc_unbound");
        struct svq_queue_config queue = rig_queue_config(rig, (uint16_t)(first + i));
        queue.index = i;
        q->desc = (void *)(rig->ram + queue.desc_gpa);
        q->avail = (void *)(rig->ram + queue.avail_gpa);
        q->used = (void *)(rig->ram + queue.used_gpa);
        must(svq_queue_setup(dev, worker, &queue, &q->refs), "queue_setup");
        void *va[3];
        must(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, q->refs.desc_refs, q->refs.desc_pages, 0, &va[0]), "desc");
        must(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, q->refs.avail_refs, q->refs.avail_pages, 0, &va[1]),
             "avail");
        must(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, q->refs.used_refs, q->refs.used_pages, 1, &va[2]), "used");
        q->shadow_desc = va[0];
        q->shadow_avail = va[1];
        q->shadow_used = va[2];
        q->backend_port = svq_evtchn_bind(rig->backend_ec, RIG_MEDIATOR, q->refs.backend_port);
        must(q->backend_port, "bind");
    }
    must(svq_device_start(dev), "device_start");
    return dev;
}

static uint16_t mask(const struct rig *rig) { return (uint16_t)(rig->config.queue_size - 1); }

/* Sleeps until one of the ports or `stop_fd` (-1: none) is ready. 0: nothing came. */
static int sleep_on(struct svq_evtchn *ec, int stop_fd)
{
    struct pollfd fds[2] = { { .fd = svq_evtchn_fd(ec), .events = POLLIN }, { .fd = stop_fd, .events = POLLIN } };
    int ready = poll(fds, stop_fd < 0 ? 1 : 2, PEER_PATIENCE_MS);
    for (int port; (port = svq_evtchn_pending(ec)) >= 0;)
        svq_evtchn_unmask(ec, (uint32_t)port);
    return ready;
}

/* --- the driver ------------------------------------------------------------------------------------------------ */

void driver_offer(struct rig *rig, uint16_t queue, uint16_t head)
{
    struct rig_queue *q = &rig->q[queue];
    svq_store_u16(&q->avail->ring[q->avail_idx & mask(rig)], head);
    svq_release_u16(&q->avail->idx, ++q->avail_idx);
}

void driver_kick(struct rig *rig, uint16_t queue, uint16_t old)
{
    struct rig_queue *q = &rig->q[queue];
    svq_full_fence();
    uint16_t *event = vring_avail_event(q->used, rig->config.queue_size);
    bool wanted = rig->config.no_event_idx ? !(svq_load_u16(&q->used->flags) & VRING_USED_F_NO_NOTIFY)
                                           : vring_need_event(svq_load_u16(event), q->avail_idx, old);
    if (wanted)
        svq_evtchn_notify(rig->frontend_ec, (uint32_t)q->frontend_port);
}

int driver_reap(struct rig *rig, uint16_t queue)
{
    struct rig_queue *q = &rig->q[queue];
    if (svq_acquire_u16(&q->used->idx) == q->used_seen)
        return -1;
    return (int)svq_load_u32(&q->used->ring[q->used_seen++ & mask(rig)].id);
}

bool driver_wait(struct rig *rig, uint16_t queue)
{
    struct rig_queue *q = &rig->q[queue];
    for (;;) {
        if (rig->config.no_event_idx)
            svq_store_u16(&q->avail->flags, 0);
        else
            svq_store_u16(vring_used_event(q->avail, rig->config.queue_size), q->used_seen);
        svq_full_fence();
        if (svq_acquire_u16(&q->used->idx) != q->used_seen)
            break;
        if (!sleep_on(rig->frontend_ec, -1))
            return false;
    }
    if (rig->config.no_event_idx)
        svq_store_u16(&q->avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
    return true;
}

void driver_storm(struct rig *rig, uint16_t queue)
{
    for (int i = 0; i < 1000; i++)
        svq_evtchn_notify(rig->frontend_ec, (uint32_t)rig->q[queue].frontend_port);
}

/* --- the backend ----------------------------------------------------------------------------------------------- */

static unsigned answer_queue(struct backend *backend, uint16_t queue)
{
    struct rig *rig = backend->rig;
    struct rig_queue *q = &rig->q[queue];
    uint16_t avail = svq_acquire_u16(&q->shadow_avail->idx), old = q->shadow_used_idx;
    unsigned n = 0;
    for (; q->shadow_avail_seen != avail; n++) {
        struct vring_used_elem *elem = &q->shadow_used->ring[q->shadow_used_idx++ & mask(rig)];
        svq_store_u32(&elem->id, svq_load_u16(&q->shadow_avail->ring[q->shadow_avail_seen++ & mask(rig)]));
        svq_store_u32(&elem->len, 0);
    }
    if (!n)
        return 0;
    svq_release_u16(&q->shadow_used->idx, q->shadow_used_idx);
    __atomic_fetch_add(&backend->answered, n, __ATOMIC_RELAXED);
    svq_full_fence();
    uint16_t *event = vring_used_event((void *)(uintptr_t)q->shadow_avail, rig->config.queue_size);
    bool wanted = rig->config.no_event_idx ? !(svq_load_u16(&q->shadow_avail->flags) & VRING_AVAIL_F_NO_INTERRUPT)
                                           : vring_need_event(svq_load_u16(event), q->shadow_used_idx, old);
    if (wanted)
        svq_evtchn_notify(rig->backend_ec, (uint32_t)q->backend_port);
    return n;
}

/* Asks for a kick. True: something arrived meanwhile. */
static bool arm_queue(struct rig *rig, uint16_t queue)
{
    struct rig_queue *q = &rig->q[queue];
    if (rig->config.no_event_idx)
        svq_store_u16(&q->shadow_used->flags, 0);
    else
        svq_store_u16(vring_avail_event(q->shadow_used, rig->config.queue_size), q->shadow_avail_seen);
    svq_full_fence();
    return svq_load_u16(&q->shadow_avail->idx) != q->shadow_avail_seen;
}

static void *serve(void *arg)
{
    struct backend *backend = arg;
    uint64_t stop;
    while (read(backend->stop_fd, &stop, sizeof stop) < 0) {
        unsigned moved = 0;
        for (uint16_t i = 0; i < backend->queues; i++)
            moved += answer_queue(backend, i);
        for (uint16_t i = 0; i < backend->queues && !moved; i++)
            moved += arm_queue(backend->rig, i);
        if (!moved)
            sleep_on(backend->rig->backend_ec, backend->stop_fd);
    }
    return NULL;
}

void backend_start(struct backend *backend, struct rig *rig, uint16_t queues)
{
    *backend = (struct backend){ .rig = rig, .queues = queues, .stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
    if (backend->stop_fd < 0 || pthread_create(&backend->thread, NULL, serve, backend) != 0)
        abort();
}

void backend_stop(struct backend *backend)
{
    uint64_t one = 1;
    if (write(backend->stop_fd, &one, sizeof one) != sizeof one)
        abort();
    pthread_join(backend->thread, NULL);
    close(backend->stop_fd);
}
