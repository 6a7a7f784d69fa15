/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "drv_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "barrier.h"

int svq_drv_ring_alloc(struct svq_drv_ring *r, uint32_t size_max)
{
    r->next = calloc(size_max, sizeof *r->next);
    r->chains = calloc(size_max, sizeof *r->chains);
    if (r->next && r->chains)
        return 0;
    svq_drv_ring_free(r);
    return -ENOMEM;
}

void svq_drv_ring_free(struct svq_drv_ring *r)
{
    free(r->next);
    free(r->chains);
    r->next = NULL;
    r->chains = NULL;
}

void svq_drv_ring_reset(struct svq_drv_ring *r, uint32_t size, bool event_idx)
{
    memset(r->desc, 0, vring_desc_bytes(size));
    memset(r->avail, 0, vring_avail_bytes(size));
    memset(r->used, 0, vring_used_bytes(size));
    r->size = size;
    r->event_idx = event_idx;
    r->error = 0;
    for (uint32_t i = 0; i < size; i++) {
        r->next[i] = (uint16_t)(i + 1);
        r->chains[i] = (struct svq_drv_chain){ 0 };
    }
    r->free_head = 0;
    r->free_count = (uint16_t)size;
    r->live = 0;
    r->avail_idx = 0;
    r->used_seen = 0;
    r->kick_checked = 0;
}

static void write_desc(struct vring_desc *desc, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    svq_store_u64(&desc->addr, addr);
    svq_store_u32(&desc->len, len);
    svq_store_u16(&desc->flags, flags);
    svq_store_u16(&desc->next, next);
}

static uint16_t sg_flags(uint32_t k, uint32_t n_out, uint32_t n)
{
    return (uint16_t)((k >= n_out ? VRING_DESC_F_WRITE : 0) | (k + 1 < n ? VRING_DESC_F_NEXT : 0));
}

/* Returns the last descriptor. The free list links them, so a chain is a prefix of it. */
static uint16_t write_direct(struct svq_drv_ring *r, const struct svq_drv_sg *sg, uint32_t n_out, uint32_t n)
{
    uint16_t i = r->free_head;
    uint16_t last = i;
    for (uint32_t k = 0; k < n; k++) {
        uint16_t next = k + 1 < n ? r->next[i] : 0;
        write_desc(&r->desc[i], sg[k].addr, sg[k].len, sg_flags(k, n_out, n), next);
        last = i;
        i = r->next[i];
    }
    return last;
}

static uint16_t write_indirect(struct svq_drv_ring *r, const struct svq_drv_sg *sg, uint32_t n_out, uint32_t n,
                               const struct svq_drv_table *table)
{
    for (uint32_t k = 0; k < n; k++)
        write_desc(&table->entries[k], sg[k].addr, sg[k].len, sg_flags(k, n_out, n), (uint16_t)(k + 1 < n ? k + 1 : 0));
    /* 2.7.5.3.1: never together with VRING_DESC_F_NEXT */
    write_desc(&r->desc[r->free_head], table->gpa, n * (uint32_t)sizeof(struct vring_desc), VRING_DESC_F_INDIRECT, 0);
    return r->free_head;
}

int svq_drv_ring_add(struct svq_drv_ring *r, const struct svq_drv_sg *sg, uint32_t n_out, uint32_t n_in,
                     const struct svq_drv_table *table)
{
    uint32_t n = n_out + n_in;
    if (n == 0)
        return -EINVAL;
    /* 2.7.5.2, 2.7.5.3.1: no chain, indirect or not, is longer than the queue size */
    if (n > r->size || (table && n > table->size))
        return -E2BIG;
    uint32_t descs = table ? 1 : n;
    if (descs > r->free_count)
        return -ENOSPC;

    uint32_t writable = 0; /* our callers keep chains below 2^32 bytes (2.7.5.2) */
    for (uint32_t k = n_out; k < n; k++)
        writable += sg[k].len;
    uint16_t head = r->free_head;
    uint16_t last = table ? write_indirect(r, sg, n_out, n, table) : write_direct(r, sg, n_out, n);
    r->chains[head] = (struct svq_drv_chain){ .descs = (uint16_t)descs, .last = last, .writable = writable };
    r->free_head = r->next[last];
    r->free_count = (uint16_t)(r->free_count - descs);
    r->live++;
    svq_store_u16(&r->avail->ring[r->avail_idx & (r->size - 1)], head);
    r->avail_idx++;
    return head;
}

bool svq_drv_ring_publish(struct svq_drv_ring *r)
{
    uint16_t old = r->kick_checked;
    if (r->avail_idx == old)
        return false;
    r->kick_checked = r->avail_idx;
    svq_release_u16(&r->avail->idx, r->avail_idx); /* 2.7.13: descriptors and ring entries before idx */
    svq_full_fence();                              /* 2.7.13.4.1: idx before we read what the device wants */
    if (r->event_idx)
        return vring_need_event(svq_load_u16(vring_avail_event(r->used, r->size)), r->avail_idx, old);
    return !(svq_load_u16(&r->used->flags) & VRING_USED_F_NO_NOTIFY);
}

/* Returns the descriptors of a chain to the free list. */
static void release_chain(struct svq_drv_ring *r, uint16_t head)
{
    struct svq_drv_chain *chain = &r->chains[head];
    r->next[chain->last] = r->free_head;
    r->free_head = head;
    r->free_count = (uint16_t)(r->free_count + chain->descs);
    r->live--;
    chain->descs = 0;
}

static int lied(struct svq_drv_ring *r, int error)
{
    r->error = error;
    return error;
}

int svq_drv_ring_get(struct svq_drv_ring *r, uint16_t *head, uint32_t *len)
{
    if (r->error)
        return r->error;
    uint16_t untrusted_idx = svq_acquire_u16(&r->used->idx);
    uint16_t untrusted_new = (uint16_t)(untrusted_idx - r->used_seen);
    if (untrusted_new == 0)
        return 0;
    if (untrusted_new > r->live) /* 2.7.8: each chain is used once, so at most those in flight can be new */
        return lied(r, -EPROTO);

    const struct vring_used_elem *elem = &r->used->ring[r->used_seen & (r->size - 1)];
    uint32_t untrusted_id = svq_load_u32(&elem->id);
    uint32_t untrusted_len = svq_load_u32(&elem->len);
    if (untrusted_id >= r->size) /* 2.7.8: id is the index of a head */
        return lied(r, -ERANGE);
    if (r->chains[untrusted_id].descs == 0) /* a second completion, or the middle of a chain */
        return lied(r, -EALREADY);
    if (untrusted_len > r->chains[untrusted_id].writable) /* 2.7.8.2: bytes written to the writable segments */
        return lied(r, -EMSGSIZE);

    *head = (uint16_t)untrusted_id;
    *len = untrusted_len;
    r->used_seen++;
    release_chain(r, *head);
    return 1;
}

bool svq_drv_ring_pending(const struct svq_drv_ring *r)
{
    return r->error || svq_load_u16(&r->used->idx) != r->used_seen;
}

bool svq_drv_ring_arm(struct svq_drv_ring *r)
{
    if (r->event_idx) /* 2.7.7.1: then flags stay 0 */
        svq_store_u16(vring_used_event(r->avail, r->size), r->used_seen);
    else
        svq_store_u16(&r->avail->flags, 0);
    svq_full_fence(); /* 2.7.14: our wish before our last look */
    return svq_drv_ring_pending(r);
}

void svq_drv_ring_disarm(struct svq_drv_ring *r)
{
    /* With EVENT_IDX the event index stays behind, and used.idx does not cross it until 2^16 entries later. */
    if (!r->event_idx)
        svq_store_u16(&r->avail->flags, VRING_AVAIL_F_NO_INTERRUPT);
}
