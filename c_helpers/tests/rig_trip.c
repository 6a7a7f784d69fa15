/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rig_trip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOLDS(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("# %s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                           \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

static uint8_t pattern(uint64_t i) { return (uint8_t)(i * 7 + (i >> 8) + 1); }

bool rig_trip_sum(const struct rig_shadow *shadow, struct rig_trip *trip)
{
    memset(trip, 0, sizeof *trip);
    trip->parts = shadow->count;
    trip->indirect = shadow->indirect;
    for (unsigned i = 0; i < shadow->count; i++) {
        const struct vring_desc *part = &shadow->part[i];
        uint32_t pages = (uint32_t)svq_pages_for((size_t)svq_grant_addr_offset(part->addr) + part->len);
        if (rig_in_window(part->addr)) {
            trip->granted_parts++;
            trip->granted_pages += pages;
            trip->granted_bytes += part->len;
        } else {
            HOLDS(pages == 1);
            trip->bounced_parts++;
            trip->bounced_bytes += part->len;
        }
    }
    return true;
}

/* Walks the parts of a chain and its segments side by side: each part lies within one segment. */
struct walk {
    const struct rig_seg *segs;
    unsigned count, seg;
    uint32_t offset; /* within the segment */
};

static bool step(struct walk *walk, const struct vring_desc *part, uint64_t *gpa)
{
    HOLDS(walk->seg < walk->count);
    const struct rig_seg *seg = &walk->segs[walk->seg];
    HOLDS(part->len <= seg->len - walk->offset);
    HOLDS((part->flags & VRING_DESC_F_WRITE) == seg->flags);
    *gpa = seg->gpa + walk->offset;
    walk->offset += part->len;
    if (walk->offset == seg->len) {
        walk->seg++;
        walk->offset = 0;
    }
    return true;
}

static bool part_matches(struct rig *rig, const struct vring_desc *part, uint64_t gpa)
{
    bool granted = rig_in_window(part->addr), writable = part->flags & VRING_DESC_F_WRITE;
    if (granted)
        HOLDS(svq_grant_addr_offset(part->addr) == (gpa & (SVQ_PAGE_SIZE - 1)));
    uint8_t *va;
    HOLDS((rig_part_map(rig, part, 1, &va) == 0) == writable);
    if (writable)
        rig_part_unmap(rig, part, va);
    HOLDS(rig_part_map(rig, part, 0, &va) == 0);
    bool same = memcmp(va, rig->ram + gpa, part->len) == 0;
    rig_part_unmap(rig, part, va);
    HOLDS(same || (writable && !granted));
    return true;
}

bool rig_trip_matches(struct rig *rig, const struct rig_shadow *shadow, const struct rig_seg *segs, unsigned count)
{
    struct walk walk = { segs, count, 0, 0 };
    for (unsigned i = 0; i < shadow->count; i++) {
        uint64_t gpa;
        if (!step(&walk, &shadow->part[i], &gpa) || !part_matches(rig, &shadow->part[i], gpa))
            return false;
    }
    HOLDS(walk.seg == count);
    return true;
}

/* The backend fills the writable parts; `expected` becomes what the driver's memory must be after the completion. */
static bool write_parts(struct rig *rig, const struct rig_shadow *shadow, const struct rig_seg *segs, unsigned count,
                        uint32_t used_len, uint8_t *expected)
{
    struct walk walk = { segs, count, 0, 0 };
    uint64_t written = 0;
    for (unsigned i = 0; i < shadow->count; i++) {
        const struct vring_desc *part = &shadow->part[i];
        uint64_t gpa;
        HOLDS(step(&walk, part, &gpa));
        if (!(part->flags & VRING_DESC_F_WRITE))
            continue;
        uint8_t *bytes = malloc(part->len);
        bool granted = rig_in_window(part->addr);
        for (uint32_t k = 0; k < part->len; k++, written++) {
            bytes[k] = pattern(written);
            if (granted || written < used_len)
                expected[gpa + k] = bytes[k];
        }
        int rc = rig_part_write(rig, part, bytes);
        free(bytes);
        HOLDS(rc == 0);
    }
    return true;
}

static bool memory_is(const struct rig *rig, const uint8_t *expected)
{
    size_t used = rig_gpa(RIG_RING_GFN + 7), used_end = used + 3 * SVQ_PAGE_SIZE, end = rig_gpa(rig->config.ram_pages);
    return memcmp(rig->ram, expected, used) == 0 &&
           memcmp(rig->ram + used_end, expected + used_end, end - used_end) == 0;
}

bool rig_trip(struct rig *rig, uint16_t head, const struct rig_seg *segs, unsigned count, uint32_t used_len,
              struct rig_trip *trip)
{
    rig_offer(rig, head);
    size_t bytes = rig_gpa(rig->config.ram_pages);
    uint8_t *expected = malloc(bytes);
    memcpy(expected, rig->ram, bytes);
    HOLDS(rig_forward(rig) == 1);
    HOLDS(rig_take(rig) == head && rig_take(rig) == -1);
    struct rig_shadow shadow;
    HOLDS(rig_shadow_chain(rig, head, &shadow));
    HOLDS(rig_trip_sum(&shadow, trip));
    HOLDS(svq_device_window_in_use(rig->dev) == trip->granted_pages);
    HOLDS(rig_trip_matches(rig, &shadow, segs, count));
    HOLDS(write_parts(rig, &shadow, segs, count, used_len, expected));
    rig_give(rig, head, used_len);
    HOLDS(rig_complete(rig) == 1);
    uint32_t len;
    HOLDS(rig_reap(rig, &len) == head && len == used_len && rig_reap(rig, NULL) == -1);
    HOLDS(memory_is(rig, expected));
    HOLDS(svq_device_window_in_use(rig->dev) == 0);
    free(expected);
    return true;
}
