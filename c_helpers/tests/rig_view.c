/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rig_view.h"

#include <stdlib.h>
#include <string.h>

#include "barrier.h"

/* --- the driver's side --------------------------------------------------------------------------------------- */

static void write_table(struct vring_desc *table, uint16_t first, const struct rig_seg *segs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint16_t at = (uint16_t)(first + i);
        bool more = i + 1 < count;
        table[at] = (struct vring_desc){ segs[i].gpa, segs[i].len,
                                         (uint16_t)(segs[i].flags | (more ? VRING_DESC_F_NEXT : 0)),
                                         (uint16_t)(more ? at + 1 : 0) };
    }
}

void rig_chain(struct rig *rig, uint16_t head, const struct rig_seg *segs, unsigned count)
{
    write_table(rig->q[0].desc, head, segs, count);
}

void rig_indirect(struct rig *rig, uint16_t head, uint64_t table_gpa, const struct rig_seg *segs, unsigned count)
{
    struct vring_desc *table = calloc(count, sizeof *table);
    if (!table)
        abort();
    write_table(table, 0, segs, count);
    memcpy(rig->ram + table_gpa, table, count * sizeof *table);
    free(table);
    rig_desc(rig, head, table_gpa, count * (uint32_t)sizeof *table, VRING_DESC_F_INDIRECT, 0);
}

void rig_page(struct rig *rig, uint16_t head, unsigned n, uint16_t flags)
{
    rig_desc(rig, head, rig_gpa(RIG_DATA_GFN + n), SVQ_PAGE_SIZE, flags, 0);
}

void rig_blk(struct rig *rig, uint16_t head, unsigned n, unsigned pages, uint16_t data_flags)
{
    uint64_t request = rig_gpa(RIG_HEADER_GFN) + head * 192u;
    const struct rig_seg segs[] = { { request, 16, SEG_READ },
                                    { rig_gpa(RIG_DATA_GFN + n), pages * SVQ_PAGE_SIZE, data_flags },
                                    { request + 16, 1, SEG_WRITE } };
    rig_chain(rig, head, segs, 3);
}

int rig_reap(struct rig *rig, uint32_t *len)
{
    struct rig_queue *q = &rig->q[0];
    if (svq_acquire_u16(&q->used->idx) == q->used_seen)
        return -1;
    const struct vring_used_elem *elem = &q->used->ring[q->used_seen++ & (rig->driver_size - 1)];
    if (len)
        *len = svq_load_u32(&elem->len);
    return (int)svq_load_u32(&elem->id);
}

void rig_fill(struct rig *rig, uint64_t gpa, uint8_t byte, size_t len) { memset(rig->ram + gpa, byte, len); }

bool rig_is_filled(const struct rig *rig, uint64_t gpa, uint8_t byte, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (rig->ram[gpa + i] != byte)
            return false;
    return true;
}

/* --- the backend's side -------------------------------------------------------------------------------------- */

bool rig_in_window(uint64_t addr) { return addr & SVQ_WINDOW_ADDR_FLAG; }

static uint32_t pages_of_part(const struct vring_desc *part)
{
    return (uint32_t)svq_pages_for((size_t)svq_grant_addr_offset(part->addr) + part->len);
}

int rig_part_map(struct rig *rig, const struct vring_desc *part, int writable, uint8_t **va)
{
    uint32_t gref = svq_grant_addr_gref(part->addr), pages = pages_of_part(part);
    uint32_t *grefs = calloc(pages + 1, sizeof *grefs);
    void *first = NULL;
    if (!grefs)
        abort();
    for (uint32_t i = 0; i < pages; i++)
        grefs[i] = gref + i;
    int rc = svq_hv_map_grants(rig->backend, rig_in_window(part->addr) ? RIG_FRONTEND : RIG_MEDIATOR, grefs, pages,
                               writable, &first);
    free(grefs);
    *va = rc < 0 ? NULL : (uint8_t *)first + svq_grant_addr_offset(part->addr);
    return rc;
}

void rig_part_unmap(struct rig *rig, const struct vring_desc *part, uint8_t *va)
{
    svq_hv_unmap_grants(rig->backend, va - svq_grant_addr_offset(part->addr), pages_of_part(part));
}

int rig_part_read(struct rig *rig, const struct vring_desc *part, void *bytes)
{
    uint8_t *va;
    int rc = rig_part_map(rig, part, 0, &va);
    if (rc < 0)
        return rc;
    memcpy(bytes, va, part->len);
    rig_part_unmap(rig, part, va);
    return 0;
}

int rig_part_write(struct rig *rig, const struct vring_desc *part, const void *bytes)
{
    uint8_t *va;
    int rc = rig_part_map(rig, part, 1, &va);
    if (rc < 0)
        return rc;
    memcpy(va, bytes, part->len);
    rig_part_unmap(rig, part, va);
    return 0;
}

bool rig_shadow_chain(struct rig *rig, uint16_t head, struct rig_shadow *out)
{
    return rig_queue_shadow_chain(rig, &rig->q[0], head, out);
}

bool rig_queue_shadow_chain(struct rig *rig, const struct rig_queue *q, uint16_t head, struct rig_shadow *out)
{
    struct vring_desc first = q->shadow_desc[head];
    out->indirect = first.flags & VRING_DESC_F_INDIRECT;
    out->count = 1;
    out->part[0] = first;
    if (!out->indirect)
        return first.addr & SVQ_GRANT_ADDR_FLAG && !(first.flags & VRING_DESC_F_NEXT);
    if (first.len % sizeof first || first.len == 0 || first.len > sizeof out->part || first.flags & VRING_DESC_F_NEXT)
        return false;
    out->count = (unsigned)(first.len / sizeof first);
    if (rig_part_read(rig, &first, out->part) < 0)
        return false;
    for (unsigned i = 0; i < out->count; i++) {
        const struct vring_desc *part = &out->part[i];
        bool more = i + 1 < out->count;
        if (!(part->addr & SVQ_GRANT_ADDR_FLAG) || !!(part->flags & VRING_DESC_F_NEXT) != more ||
            part->next != (more ? i + 1 : 0) || part->flags & VRING_DESC_F_INDIRECT || part->len == 0)
            return false;
    }
    return true;
}

unsigned rig_scan_grants(struct rig *rig, int domid, uint32_t grefs, int writable,
                         void (*seen)(void *arg, uint32_t gref, const uint8_t *page), void *arg)
{
    unsigned found = 0;
    for (uint32_t gref = 0; gref < grefs; gref++) {
        void *va;
        if (svq_hv_map_grants(rig->backend, (uint16_t)domid, &gref, 1, writable, &va) < 0)
            continue;
        found++;
        if (seen)
            seen(arg, gref, va);
        svq_hv_unmap_grants(rig->backend, va, 1);
    }
    return found;
}

/* --- the machine's side -------------------------------------------------------------------------------------- */

uint64_t *rig_window_entries(struct rig *rig)
{
    void *va = NULL, *token;
    uint32_t frames = (rig_window(rig).count + SVQ_GRANTS_PER_FRAME - 1) / SVQ_GRANTS_PER_FRAME;
    if (svq_hv_map_grant_table(rig->mediator, RIG_FRONTEND, RIG_WINDOW_FRAME, frames, &va, &token) < 0)
        abort();
    return va; /* until the mediator's handle is closed */
}

uint32_t rig_window_in_use(struct rig *rig)
{
    uint32_t n = 0, count = rig_window(rig).count;
    void *va, *token;
    if (svq_hv_map_grant_table(rig->mediator, RIG_FRONTEND, RIG_WINDOW_FRAME,
                               (count + SVQ_GRANTS_PER_FRAME - 1) / SVQ_GRANTS_PER_FRAME, &va, &token) < 0)
        abort();
    for (uint32_t i = 0; i < count; i++)
        n += svq_load_u64((uint64_t *)va + i) != 0;
    svq_hv_unmap_grant_table(rig->mediator, token);
    return n;
}

struct svq_hv_counters rig_counters(const struct svq_hv *hv)
{
    struct svq_hv_counters counters;
    svq_hv_read_counters(hv, &counters);
    return counters;
}

struct svq_queue_stats rig_stats(const struct rig *rig, uint16_t index)
{
    struct svq_queue_stats stats;
    if (svq_queue_read_stats(rig->dev, index, &stats) < 0)
        abort();
    return stats;
}
