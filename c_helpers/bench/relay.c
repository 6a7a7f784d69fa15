/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "relay.h"

/* A working set of fixed size, spread over all of the guest's memory. */
static uint64_t data_gpa(const struct rig *rig, unsigned i)
{
    uint64_t step = (rig->config.ram_pages - RIG_DATA_GFN) / BENCH_WORKING_SET;
    return rig_gpa(RIG_DATA_GFN + (i % BENCH_WORKING_SET) * step);
}

static void publish(struct rig_queue *q, uint16_t mask, uint16_t head)
{
    svq_store_u16(&q->avail->ring[q->avail_idx++ & mask], head);
}

void bench_offer_pages(struct rig *rig, unsigned count, unsigned segments)
{
    struct rig_queue *q = &rig->q[0];
    uint16_t mask = (uint16_t)(rig->config.queue_size - 1);
    static unsigned page;
    for (unsigned c = 0; c < count; c++) {
        uint16_t head = (uint16_t)(c * segments);
        for (unsigned s = 0; s < segments; s++) {
            uint16_t i = (uint16_t)(head + s);
            uint16_t more = s + 1 < segments ? VRING_DESC_F_NEXT : 0;
            q->desc[i] = (struct vring_desc){ data_gpa(rig, page++), SVQ_PAGE_SIZE,
                                              (uint16_t)(VRING_DESC_F_WRITE | more), (uint16_t)(i + 1) };
        }
        publish(q, mask, head);
    }
    svq_release_u16(&q->avail->idx, q->avail_idx);
}

void bench_offer_blk(struct rig *rig, unsigned count)
{
    struct rig_queue *q = &rig->q[0];
    uint16_t mask = (uint16_t)(rig->config.queue_size - 1);
    static unsigned page;
    for (unsigned c = 0; c < count; c++) {
        uint16_t head = (uint16_t)(c * 3);
        uint64_t request = rig_gpa(RIG_HEADER_GFN) + c * 192; /* header and status in one slab object */
        q->desc[head] = (struct vring_desc){ request, 16, VRING_DESC_F_NEXT, (uint16_t)(head + 1) };
        q->desc[head + 1] = (struct vring_desc){ data_gpa(rig, page++), SVQ_PAGE_SIZE,
                                                 VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, (uint16_t)(head + 2) };
        q->desc[head + 2] = (struct vring_desc){ request + 16, 1, VRING_DESC_F_WRITE, 0 };
        publish(q, mask, head);
    }
    svq_release_u16(&q->avail->idx, q->avail_idx);
}

unsigned bench_echo(struct rig *rig, uint32_t len)
{
    struct rig_queue *q = &rig->q[0];
    uint16_t mask = (uint16_t)(rig->config.queue_size - 1), avail = svq_acquire_u16(&q->shadow_avail->idx);
    unsigned n = 0;
    for (; q->shadow_avail_seen != avail; n++) {
        struct vring_used_elem *elem = &q->shadow_used->ring[q->shadow_used_idx++ & mask];
        svq_store_u32(&elem->id, svq_load_u16(&q->shadow_avail->ring[q->shadow_avail_seen++ & mask]));
        svq_store_u32(&elem->len, len);
    }
    if (n)
        svq_release_u16(&q->shadow_used->idx, q->shadow_used_idx);
    return n;
}

unsigned bench_reap(struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    uint16_t used = svq_acquire_u16(&q->used->idx);
    unsigned n = (uint16_t)(used - q->used_seen);
    q->used_seen = used;
    return n;
}
