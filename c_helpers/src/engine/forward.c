/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From the driver's available ring to the shadow ring. */
#include "budget.h"
#include "engine.h"

/*
 * For a chain that was not forwarded. If it lacks something and nothing is in flight that could give it back, it never
 * will be there: the chain is over the limits.
 */
static __attribute__((noinline, cold)) int not_forwarded(struct svq_queue *q, int rc)
{
    if (rc == SVQ_AGAIN)
        return rc;
    if (rc != SVQ_FULL)
        return svq_fault_set(q, rc, q->chain->head, q->chain->desc, q->chain->bad_value, q->chain->bad_limit);
    if (q->lack.attempts++ == 0)
        svq_trace_note(q, SVQ_TRACE_PARKED, q->chain->head, 0, NULL, 0);
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
    if (svq_unlikely(rc < 0))
        return not_forwarded(q, rc);
    if (svq_unlikely(q->lack.attempts))
        q->lack = (struct svq_lack){ 0 };
    entry->live = 1;
    entry->pages = (uint16_t)q->chain->pages;
    if (svq_trace_is_due(&q->trace)) {
        entry->traced = 1;
        svq_trace_note(q, SVQ_TRACE_FORWARDED, head, 0, entry, 0);
    }
    svq_store_u16(&q->shadow_avail->ring[q->shadow_avail_idx & q->mask], head);
    q->shadow_avail_idx++;
    q->next_avail++;
    q->in_flight_count++;
    return 0;
}

int svq_forward_pass(struct svq_queue *q, unsigned chains, bool *signal)
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

    if (svq_unlikely(q->window->guard && q->passes++ % SVQ_LOOK_PASSES == 0))
        svq_window_look(q->window);
    struct svq_budget budget = svq_budget_for(ready < chains ? ready : chains);
    unsigned done = 0;
    int rc;
    q->view.maps = 0;
    do {
        rc = forward_chain(q);
        done += rc == 0;
    } while (rc == 0 && svq_budget_spend(&budget, q->chain->pages) && svq_may_map(&q->view));
    q->cost += svq_pass_cost(q, &budget) + (rc ? q->chain->pages : 0); /* including a chain that we could not place */
    svq_view_end(&q->view);
    if (svq_unlikely(rc == SVQ_FULL)) {
        q->parked = true;
        svq_count(&q->stats.parked, 1);
    } else if (svq_unlikely(rc < 0 && rc != SVQ_AGAIN)) {
        return rc;
    }
    if (done) {
        svq_release_u16(&q->shadow_avail->idx, q->shadow_avail_idx);
        svq_count(&q->stats.chains, done);
        *signal = true;
        svq_publish_tally(q);
    }
    return (int)done;
}
