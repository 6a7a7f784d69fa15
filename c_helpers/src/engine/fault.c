/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keeps what a peer did wrong for the operator, and breaks the peer's device. */
#include "engine.h"

__attribute__((noinline, cold)) int svq_fault_set(struct svq_queue *q, int code, uint16_t head, uint16_t desc,
                                                  uint64_t value, uint64_t limit)
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
        __atomic_store_n(&dev->fault.code, code, __ATOMIC_RELEASE); /* last: whoever sees it sees the rest */
    }
    svq_trace_note(q, SVQ_TRACE_REFUSED, head, code, NULL, 0);
    return code;
}
