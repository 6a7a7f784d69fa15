/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Notification suppression on both legs, with and without EVENT_IDX (virtio 2.7.7, 2.7.10). */
#ifndef SVQ_SUPPRESS_H
#define SVQ_SUPPRESS_H

#include "engine.h"

/* Must the driver be interrupted for the used entries between `old` and q->used_idx? */
static inline bool svq_driver_wants_interrupt(const struct svq_queue *q, uint16_t old)
{
    svq_full_fence(); /* used->idx must be visible before we read what the driver wants */
    if (q->frontend_event_idx)
        return vring_need_event(svq_load_u16(vring_used_event(q->avail, svq_driver_size(q))), q->used_idx, old);
    return !(svq_load_u16(&q->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

/* Must the backend be kicked for the available entries between `old` and q->shadow_avail_idx? */
static inline bool svq_backend_wants_kick(const struct svq_queue *q, uint16_t old)
{
    svq_full_fence(); /* avail->idx must be visible before we read what the backend wants */
    if (q->backend_event_idx)
        return vring_need_event(svq_load_u16(vring_avail_event(q->shadow_used, q->size)), q->shadow_avail_idx, old);
    return !(svq_load_u16(&q->shadow_used->flags) & VRING_USED_F_NO_NOTIFY);
}

/*
 * Asks both peers for a notification of the next entry. True: something came in meanwhile, so go on working. A parked
 * queue does not ask the driver: more chains would not help it.
 */
static inline bool svq_queue_arm(struct svq_queue *q)
{
    if (q->frontend_event_idx)
        svq_store_u16(vring_avail_event(q->used, svq_driver_size(q)), q->next_avail);
    else
        svq_store_u16(&q->used->flags, 0);
    if (q->backend_event_idx)
        svq_store_u16(vring_used_event(q->shadow_avail, q->size), q->shadow_used_seen);
    else
        svq_store_u16(&q->shadow_avail->flags, 0);
    svq_full_fence(); /* our wishes must be visible before our last look */
    bool chains = svq_load_u16(&q->avail->idx) != q->next_avail && !q->parked && q->state == SVQ_QUEUE_RUNNING;
    return chains || svq_load_u16(&q->shadow_used->idx) != q->shadow_used_seen;
}

/* While we poll, nobody needs to notify us. With EVENT_IDX it is enough to leave the event index behind. */
static inline void svq_queue_disarm(struct svq_queue *q)
{
    if (!q->frontend_event_idx)
        svq_store_u16(&q->used->flags, VRING_USED_F_NO_NOTIFY);
    if (!q->backend_event_idx)
        svq_store_u16(&q->shadow_avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
}

#endif
