/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The floor: see relay.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay.h"

enum { DESC_PAGES = 4, AVAIL_PAGES = 1, USED_PAGES = 3 };

static void must(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "floor: %s: %s\n", what, strerror(-rc));
    abort();
}

static void map_guest_side(struct floor_relay *r, struct rig *rig)
{
    struct svq_queue_config config = rig_queue_config(rig, 0);
    uint64_t first = config.desc_gpa >> SVQ_PAGE_SHIFT, gfns[RIG_TABLE_GFN];
    size_t pages = (config.used_gpa >> SVQ_PAGE_SHIFT) + USED_PAGES - first;
    for (size_t i = 0; i < pages; i++)
        gfns[i] = first + i;
    int errs[RIG_TABLE_GFN];
    int rc = svq_hv_map_foreign(rig->mediator, RIG_FRONTEND, gfns, pages, 1, errs, &r->rings_map);
    must(rc, "the guest's rings");
    uint8_t *base = r->rings_map;
    r->desc = (void *)base;
    r->avail = (void *)(base + (config.avail_gpa - config.desc_gpa));
    r->used = (void *)(base + (config.used_gpa - config.desc_gpa));
    r->mapped_pages = pages;
    void *entries;
    uint32_t first_gref = rig_window(rig).first_gref, count = rig_window(rig).count;
    must(svq_hv_map_grant_table(rig->mediator, RIG_FRONTEND, first_gref / SVQ_GRANTS_PER_FRAME,
                                count / SVQ_GRANTS_PER_FRAME, &entries, &r->grants_token),
         "the grant table");
    r->grants = entries;
    r->grant_count = count;
}

static void *share(struct rig *rig, size_t pages, int writable, const void **backend)
{
    uint32_t grefs[DESC_PAGES];
    void *va, *theirs;
    must(svq_hv_share_pages(rig->mediator, RIG_BACKEND, pages, writable, grefs, &va), "shadow ring");
    must(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, grefs, pages, writable, &theirs), "shadow ring, backend");
    *backend = theirs;
    return va;
}

void floor_open(struct floor_relay *r, struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    memset(r, 0, sizeof *r);
    r->kept = *q;
    r->mask = (uint16_t)(rig->config.queue_size - 1);
    map_guest_side(r, rig);
    r->shadow_desc = share(rig, DESC_PAGES, 0, (const void **)&q->shadow_desc);
    r->shadow_avail = share(rig, AVAIL_PAGES, 0, (const void **)&q->shadow_avail);
    const void *used;
    r->shadow_used = share(rig, USED_PAGES, 1, &used);
    q->shadow_used = (void *)(uintptr_t)used;
}

void floor_close(struct floor_relay *r, struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    svq_hv_unmap_grants(rig->backend, (void *)(uintptr_t)q->shadow_desc, DESC_PAGES);
    svq_hv_unmap_grants(rig->backend, (void *)(uintptr_t)q->shadow_avail, AVAIL_PAGES);
    svq_hv_unmap_grants(rig->backend, q->shadow_used, USED_PAGES);
    svq_hv_unshare_pages(rig->mediator, r->shadow_desc, DESC_PAGES);
    svq_hv_unshare_pages(rig->mediator, r->shadow_avail, AVAIL_PAGES);
    svq_hv_unshare_pages(rig->mediator, r->shadow_used, USED_PAGES);
    for (uint32_t i = 0; i < r->grant_count; i++)
        svq_store_u64(&r->grants[i], 0); /* the floor never takes a grant back */
    svq_hv_unmap_grant_table(rig->mediator, r->grants_token);
    svq_hv_unmap_foreign(rig->mediator, r->rings_map, r->mapped_pages);
    *q = r->kept;
}

void floor_forward(struct floor_relay *r, unsigned batch)
{
    uint16_t ready = (uint16_t)(svq_acquire_u16(&r->avail->idx) - r->next_avail);
    unsigned n = ready < batch ? ready : batch;
    for (unsigned i = 0; i < n; i++) {
        uint16_t head = svq_load_u16(&r->avail->ring[r->next_avail++ & r->mask]);
        const uint64_t *from = (const uint64_t *)&r->desc[head];
        uint64_t *to = (uint64_t *)&r->shadow_desc[head];
        uint64_t addr = svq_load_u64(&from[0]);
        svq_store_u64(&to[0], addr);
        svq_store_u64(&to[1], svq_load_u64(&from[1]));
        uint64_t gfn = addr >> SVQ_PAGE_SHIFT;
        svq_store_u64(&r->grants[gfn], svq_grant_entry(GTF_PERMIT_ACCESS, 1, (uint32_t)gfn));
        svq_store_u16(&r->shadow_avail->ring[r->shadow_avail_idx++ & r->mask], head);
    }
    svq_release_u16(&r->shadow_avail->idx, r->shadow_avail_idx);
}

void floor_complete(struct floor_relay *r, unsigned batch)
{
    uint16_t ready = (uint16_t)(svq_acquire_u16(&r->shadow_used->idx) - r->shadow_used_seen);
    unsigned n = ready < batch ? ready : batch;
    for (unsigned i = 0; i < n; i++) {
        const struct vring_used_elem *from = &r->shadow_used->ring[r->shadow_used_seen++ & r->mask];
        struct vring_used_elem *to = &r->used->ring[r->used_idx++ & r->mask];
        svq_store_u32(&to->id, svq_load_u32(&from->id));
        svq_store_u32(&to->len, svq_load_u32(&from->len));
    }
    svq_release_u16(&r->used->idx, r->used_idx);
}
