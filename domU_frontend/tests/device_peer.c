/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "device_peer.h"

#include <string.h>

#include "barrier.h"
#include "vring.h"

static void violated(struct device_peer *p, const char *what)
{
    if (p->violations++ == 0)
        p->violation = what;
}

static uint16_t *avail_word(struct device_peer *p, uint32_t index)
{
    return (uint16_t *)p->va(p->opaque, p->avail, vring_avail_bytes(p->size)) + index;
}

static uint16_t *used_word(struct device_peer *p, uint32_t index)
{
    return (uint16_t *)p->va(p->opaque, p->used, vring_used_bytes(p->size)) + index;
}

static struct vring_desc read_desc(const struct vring_desc *desc)
{
    return (struct vring_desc){ .addr = svq_load_u64(&desc->addr),
                                .len = svq_load_u32(&desc->len),
                                .flags = svq_load_u16(&desc->flags),
                                .next = svq_load_u16(&desc->next) };
}

static void take_segment(struct device_peer *p, struct peer_chain *chain, const struct vring_desc *desc)
{
    bool writable = desc->flags & VRING_DESC_F_WRITE;
    if (chain->n && chain->seg[chain->n - 1].writable && !writable)
        violated(p, "a readable segment after a writable one (2.7.4.2)");
    if (desc->len == 0)
        violated(p, "an empty segment");
    if (!p->va(p->opaque, desc->addr, desc->len))
        violated(p, "a segment that is not memory");
    if (chain->n == PEER_SEGMENTS_MAX)
        violated(p, "more segments than any queue size");
    else
        chain->seg[chain->n++] = (struct peer_segment){ .gpa = desc->addr, .len = desc->len, .writable = writable };
}

static void walk(struct device_peer *p, struct peer_chain *chain, const struct vring_desc *table, uint32_t entries,
                 uint32_t i, bool nested)
{
    for (uint32_t count = 0; count < entries; count++) {
        if (i >= entries) {
            violated(p, "next beyond the table");
            return;
        }
        struct vring_desc desc = read_desc(&table[i]);
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            chain->indirect = true;
            p->indirect_chains++;
            uint32_t inner = desc.len / 16;
            const void *inner_table = p->va(p->opaque, desc.addr, desc.len);
            if (nested || !p->indirect || desc.flags & VRING_DESC_F_NEXT || desc.len % 16 || !inner ||
                inner > p->size || !inner_table || count > 0)
                violated(p, "an indirect table in a wrong place or form (2.7.5.3.1)");
            else
                walk(p, chain, inner_table, inner, 0, true);
            return;
        }
        take_segment(p, chain, &desc);
        if (!(desc.flags & VRING_DESC_F_NEXT)) {
            if (nested && count + 1 != entries)
                violated(p, "a table longer than its chain");
            return;
        }
        i = desc.next;
    }
    violated(p, "a chain longer than its table");
}

bool peer_pop(struct device_peer *p, struct peer_chain *chain)
{
    uint16_t idx = svq_acquire_u16(avail_word(p, 1));
    if ((uint16_t)(idx - p->seen) > p->size)
        violated(p, "more available than the queue size");
    if (idx == p->seen)
        return false;
    chain->head = svq_load_u16(avail_word(p, 2 + p->seen % p->size));
    chain->n = 0;
    chain->indirect = false;
    p->seen++;
    p->chains++;
    walk(p, chain, p->va(p->opaque, p->desc, vring_desc_bytes(p->size)), p->size, chain->head, false);
    p->segments_last = chain->n;
    return true;
}

void peer_push(struct device_peer *p, uint32_t id, uint32_t len)
{
    struct vring_used_elem *elem = (void *)(used_word(p, 2) + 4 * (p->used_idx % p->size));
    svq_store_u32(&elem->id, id);
    svq_store_u32(&elem->len, len);
    svq_release_u16(used_word(p, 1), ++p->used_idx);
}

static uint32_t transfer(struct device_peer *p, const struct peer_chain *chain, uint64_t sector, bool write)
{
    uint64_t at = sector * PEER_SECTOR;
    uint32_t total = 0;
    for (uint32_t k = 1; k + 1 < chain->n; k++) {
        const struct peer_segment *seg = &chain->seg[k];
        if (seg->writable == write || at + seg->len > p->disk_bytes)
            return UINT32_MAX;
        uint8_t *va = p->va(p->opaque, seg->gpa, seg->len);
        memcpy(write ? p->disk + at : va, write ? va : p->disk + at, seg->len);
        at += seg->len;
        total += seg->len;
    }
    return total;
}

static uint32_t writable_bytes(const struct peer_chain *chain)
{
    uint32_t sum = 0;
    for (uint32_t k = 0; k < chain->n; k++)
        sum += chain->seg[k].writable ? chain->seg[k].len : 0;
    return sum;
}

/* The block device: returns the used length. */
static uint32_t execute(struct device_peer *p, const struct peer_chain *chain)
{
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header = { 0 };
    if (chain->n < 2 || chain->seg[0].len != 16 || chain->seg[0].writable || chain->seg[chain->n - 1].len != 1 ||
        !chain->seg[chain->n - 1].writable) {
        violated(p, "not header, data, status");
        return 0;
    }
    uint8_t *header_va = p->va(p->opaque, chain->seg[0].gpa, 16);
    uint8_t *status = p->va(p->opaque, chain->seg[chain->n - 1].gpa, 1);
    memcpy(&header, header_va, sizeof header);
    uint32_t moved = header.type <= 1 ? transfer(p, chain, header.sector, header.type == 1) : 0;
    if (p->lie == PEER_NO_STATUS)
        return 0;
    if (p->lie == PEER_SPILL)
        status[1] ^= 0xff;
    if (p->lie == PEER_HEADER)
        header_va[15] ^= 0xff;
    *status = (uint8_t)(header.type > 1 && header.type != 4 ? 2 : p->lie == PEER_FAILS || moved == UINT32_MAX);
    return *status ? 1 : header.type == 0 ? moved + 1 : 1;
}

static void answer(struct device_peer *p, const struct peer_chain *chain)
{
    uint32_t len = execute(p, chain);
    if (p->lie == PEER_SILENT)
        return;
    if (p->lie == PEER_LONG)
        len = writable_bytes(chain) + 1;
    peer_push(p, p->lie == PEER_BAD_ID ? chain->head + p->size : chain->head, len);
    if (p->lie == PEER_TWICE)
        peer_push(p, chain->head, len);
    if (p->lie == PEER_JUMP)
        svq_release_u16(used_word(p, 1), (uint16_t)(p->used_idx + 1000));
}

unsigned peer_serve(struct device_peer *p)
{
    static _Thread_local struct peer_chain held[2];
    unsigned count = 0;
    bool holding = false;
    /* `reverse` swaps neighbours: the first of two waits until the second is completed. */
    while (count < 0x10000 && peer_pop(p, &held[0])) {
        count++;
        if (p->reverse && !holding) {
            held[1] = held[0];
            holding = true;
            continue;
        }
        answer(p, &held[0]);
        if (holding)
            answer(p, &held[1]);
        holding = false;
    }
    if (holding)
        answer(p, &held[1]);
    return count;
}

bool peer_wants_interrupt(struct device_peer *p)
{
    uint16_t old = p->signalled;
    svq_full_fence();
    p->signalled = p->used_idx;
    if (old == p->used_idx)
        return false;
    if (p->event_idx) {
        uint16_t event = svq_load_u16(avail_word(p, 2 + p->size));
        return (uint16_t)(p->used_idx - event - 1) < (uint16_t)(p->used_idx - old);
    }
    return !(svq_load_u16(avail_word(p, 0)) & 1);
}

bool peer_arm(struct device_peer *p)
{
    if (p->event_idx)
        svq_store_u16(used_word(p, 2 + 4 * p->size), p->seen);
    else
        svq_store_u16(used_word(p, 0), 0);
    svq_full_fence();
    return svq_load_u16(avail_word(p, 1)) != p->seen;
}

void peer_disarm(struct device_peer *p)
{
    if (!p->event_idx)
        svq_store_u16(used_word(p, 0), 1);
}
