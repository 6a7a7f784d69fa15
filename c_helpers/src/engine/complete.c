/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the backend's used ring to the driver's. Order matters: we check what the backend says against our own record,
 * then end its access, then copy bounced bytes back; only then does the driver see the completion (XSA-396).
 */
#include "budget.h"
#include "part.h"

static __attribute__((noinline, cold)) int access_kept(struct svq_queue *q, uint16_t head, uint64_t gpa, unsigned held,
                                                       int code)
{
    if (SVQ_REJECTS(code == SVQ_E_GRANT_BUSY, SVQ_E_GRANT_BUSY) ||
        SVQ_REJECTS(code == SVQ_E_GRANT_TAMPERED, SVQ_E_GRANT_TAMPERED))
        return svq_fault_set(q, code, head, SVQ_NO_DESC, gpa, held);
    return 0;
}

/* Ends the backend's access to every part. Returns the first failure, but ends the rest all the same. */
static inline int end_access(struct svq_queue *q, uint16_t head, struct svq_part *parts, uint32_t count)
{
    int failed = 0;
    for (uint32_t i = 0; i < count; i++) {
        int code = 0;
        if (parts[i].where != SVQ_GRANTED)
            continue;
        if (parts[i].pages == 1 && svq_likely(svq_end_page(q, &parts[i], 0) == SVQ_ENDED)) {
            parts[i].pages = 0;
            q->tally.grants_ended++;
            continue;
        }
        unsigned held = svq_end_grants(q, &parts[i], &code);
        if (svq_unlikely(code)) {
            int rc = access_kept(q, head, parts[i].gpa, held, code);
            failed = failed ? failed : rc;
        }
    }
    return failed;
}

/* The first `len` writable bytes of the chain came from the device; copies back those that were bounced. */
static void copy_back(struct svq_queue *q, const struct svq_part *parts, uint32_t count, uint32_t len)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct svq_part *part = &parts[i];
        uint32_t n = 0;
        if (part->writable) {
            n = part->len < len ? part->len : len;
            len -= n;
        }
        if (part->where == SVQ_GRANTED)
            continue;
        if (n) /* a page that we cannot write is gone: the guest's own loss */
            svq_view_write(&q->view, part->gpa, svq_part_va(q, part), n);
        svq_part_give_slot(q, part);
    }
}

/* *pages: what that cost. */
static int complete_chain(struct svq_queue *q, uint32_t *pages)
{
    struct vring_used_elem *elem = &q->shadow_used->ring[q->shadow_used_seen & q->mask];
    uint32_t untrusted_id = svq_load_u32(&elem->id), untrusted_len = svq_load_u32(&elem->len);
    *pages = 0;
    if (SVQ_REJECTS(untrusted_id >= q->size, SVQ_E_USED_ID_RANGE))
        return svq_fault_set(q, SVQ_E_USED_ID_RANGE, SVQ_NO_DESC, SVQ_NO_DESC, untrusted_id, q->size);
    uint16_t head = (uint16_t)untrusted_id;
    struct svq_in_flight *entry = &q->in_flight[head];
    if (SVQ_REJECTS(!entry->live, SVQ_E_USED_ID_NOT_LIVE))
        return svq_fault_set(q, SVQ_E_USED_ID_NOT_LIVE, head, SVQ_NO_DESC, head, 0);
    if (SVQ_REJECTS(untrusted_len > entry->writable_bytes, SVQ_E_USED_LENGTH))
        return svq_fault_set(q, SVQ_E_USED_LENGTH, head, SVQ_NO_DESC, untrusted_len, entry->writable_bytes);
    uint32_t len = untrusted_len;
    *pages = entry->pages;

    struct svq_part *parts = svq_in_flight_parts(q, entry);
    int rc = end_access(q, head, parts, entry->part_count);
    if (svq_unlikely(rc < 0))
        return rc;
    if (svq_unlikely(entry->traced)) {
        entry->traced = 0;
        svq_trace_note(q, SVQ_TRACE_COMPLETED, head, 0, entry, len);
    }
    if (entry->copied)
        copy_back(q, parts, entry->part_count, len);
    svq_give_block(q, entry);
    entry->live = 0;

    struct vring_used_elem *out = &q->used->ring[q->used_idx & (svq_driver_size(q) - 1)];
    svq_store_u32(&out->id, head);
    svq_store_u32(&out->len, len);
    q->used_idx++;
    q->shadow_used_seen++;
    q->in_flight_count--;
    return 0;
}

int svq_complete_pass(struct svq_queue *q, unsigned chains, bool *signal)
{
    *signal = false;
    if (!svq_queue_is_live(q) || svq_device_broken(q->dev))
        return svq_device_broken(q->dev);
    uint16_t untrusted_idx = svq_acquire_u16(&q->shadow_used->idx);
    uint16_t ready = (uint16_t)(untrusted_idx - q->shadow_used_seen);
    if (ready == 0)
        return 0;
    if (SVQ_REJECTS(ready > q->in_flight_count, SVQ_E_USED_IDX_JUMP))
        return svq_fault_set(q, SVQ_E_USED_IDX_JUMP, SVQ_NO_DESC, SVQ_NO_DESC, ready, q->in_flight_count);

    struct svq_budget budget = svq_budget_for(ready < chains ? ready : chains);
    unsigned done = 0;
    uint32_t pages;
    int rc;
    q->view.maps = 0;
    do {
        rc = complete_chain(q, &pages);
        done += rc == 0;
    } while (rc == 0 && svq_budget_spend(&budget, pages) && svq_may_map(&q->view));
    q->cost += svq_pass_cost(q, &budget);
    if (done) {
        /* completions before a fault are good and belong to the driver */
        svq_release_u16(&q->used->idx, q->used_idx);
        svq_count(&q->stats.completions, done);
        q->parked = q->parked && !svq_lack_is_met(q);
        *signal = true;
    }
    svq_view_end(&q->view);
    svq_publish_tally(q);
    return rc < 0 ? rc : (int)done;
}
