/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From the driver's available ring to the shadow ring. */
#include "engine.h"

__attribute__((noinline, cold)) int svq_fault_set(struct svq_queue *q, int code, uint16_t head, uint16_t desc, uint64_t value, uint64_t limit)
{
    struct svq_device *dev = q->dev;
    __atomic_fetch_add(&dev->fault_counts[SVQ_ERR_BASE - code], 1, __ATOMIC_RELAXED);
    int well = 0;
    if (__atomic_compare_exchange_n(&dev->broken, &well, code, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        dev->fault.queue = q->index;
        dev->fault.head = head;
        dev->fault.desc = desc;
        dev->fault.in_indirect = desc != SVQ_NO_DESC && q->chain->in_indirect;
        dev->fault.value = value;
        dev->fault.limit = limit;
        __atomic_store_n(&dev->fault.code, code, __ATOMIC_RELEASE); /* last: who sees it sees the rest */
    }
    return code;
}

/* What cannot be had now and never will be, since nothing is in flight that could give it back, is over the limits. */
static int full_or_too_large(struct svq_queue *q)
{
    if (!SVQ_REJECTS(q->in_flight_count == 0, SVQ_E_CHAIN_LIMIT))
        return SVQ_FULL;
    return svq_fault_set(q, SVQ_E_CHAIN_LIMIT, q->chain->head, SVQ_NO_DESC, q->chain->count, SVQ_PARTS_MAX);
}

static int forward_chain(struct svq_queue *q)
{
    uint16_t untrusted_head = svq_load_u16(&q->avail->ring[q->next_avail & (svq_driver_size(q) - 1)]);
    if (SVQ_REJECTS(untrusted_head >= svq_driver_size(q), SVQ_E_HEAD_RANGE))
        return svq_fault_set(q, SVQ_E_HEAD_RANGE, untrusted_head, SVQ_NO_DESC, untrusted_head, svq_driver_size(q));
    uint16_t head = untrusted_head;
    if (SVQ_REJECTS(q->in_flight[head].live, SVQ_E_HEAD_BUSY))
        return svq_fault_set(q, SVQ_E_HEAD_BUSY, head, SVQ_NO_DESC, head, 0);

    struct svq_in_flight *entry = &q->in_flight[head];
    int rc = svq_chain_fetch(&q->source, head, q->chain);
    if (svq_likely(rc == 0))
        rc = svq_place_chain(q, entry);
    if (svq_unlikely(rc == SVQ_FULL))
        return full_or_too_large(q);
    if (svq_unlikely(rc < 0))
        return svq_fault_set(q, rc, head, q->chain->desc, q->chain->bad_value, q->chain->bad_limit);
    entry->live = 1;
    svq_store_u16(&q->shadow_avail->ring[q->shadow_avail_idx & q->mask], head);
    q->shadow_avail_idx++;
    q->next_avail++;
    q->in_flight_count++;
    return 0;
}

int svq_forward_pass(struct svq_queue *q, unsigned budget, bool *signal)
{
    *signal = false;
    if (q->state != SVQ_QUEUE_RUNNING || q->parked || svq_device_broken(q->dev))
        return svq_device_broken(q->dev);
    uint16_t untrusted_idx = svq_acquire_u16(&q->avail->idx);
    uint16_t ready = (uint16_t)(untrusted_idx - q->next_avail);
    if (ready == 0)
        return 0;
    uint16_t size = svq_driver_size(q);
    if (SVQ_REJECTS(ready > size, SVQ_E_AVAIL_IDX_JUMP))
        return svq_fault_set(q, SVQ_E_AVAIL_IDX_JUMP, SVQ_NO_DESC, SVQ_NO_DESC, ready, size);
    if (SVQ_REJECTS(ready + q->in_flight_count > size, SVQ_E_IN_FLIGHT_LIMIT))
        return svq_fault_set(q, SVQ_E_IN_FLIGHT_LIMIT, SVQ_NO_DESC, SVQ_NO_DESC, (uint64_t)ready + q->in_flight_count,
                             size);

    unsigned limit = ready < budget ? ready : budget, done = 0;
    while (done < limit) {
        int rc = forward_chain(q);
        if (svq_unlikely(rc == SVQ_FULL)) {
            q->parked = true;
            svq_count(&q->stats.parked, 1);
            break;
        }
        if (svq_unlikely(rc < 0))
            return rc;
        done++;
    }
    if (done) {
        svq_release_u16(&q->shadow_avail->idx, q->shadow_avail_idx);
        svq_count(&q->stats.chains, done);
        *signal = true;
        svq_publish_tally(q);
    }
    return (int)done;
}
