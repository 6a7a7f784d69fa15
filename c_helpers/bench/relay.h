/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver's and the device's halves of the benchmarks, and the floor: a relay that copies the available index,
 * one 16-byte descriptor and the available entry from ring to ring, stores an 8-byte grant entry and passes the used
 * entry back, in the right order and without a single check.
 */
#ifndef SVQ_BENCH_RELAY_H
#define SVQ_BENCH_RELAY_H

#include "barrier.h"
#include "rig.h"

enum { BENCH_BATCH = 32, BENCH_WORKING_SET = 1024 };

struct floor_relay {
    const struct vring_desc *desc;
    const struct vring_avail *avail;
    struct vring_used *used;
    struct vring_desc *shadow_desc;
    struct vring_avail *shadow_avail;
    struct vring_used *shadow_used;
    uint64_t *grants;
    uint16_t mask, next_avail, shadow_avail_idx, shadow_used_seen, used_idx;
    void *rings_map, *grants_token;
    size_t mapped_pages;
    uint32_t grant_count;
    struct rig_queue kept; /* the rig's own view of its shadow ring, until floor_close */
};

/*
 * The relay takes the engine's place in a rig. It gets the guest's rings, the shadow ring and the grant table through
 * the same calls as the engine, so each is the same kind of memory, with a mapping of its own for each side.
 */
void floor_open(struct floor_relay *r, struct rig *rig);
void floor_close(struct floor_relay *r, struct rig *rig);
void floor_forward(struct floor_relay *r, unsigned batch);
void floor_complete(struct floor_relay *r, unsigned batch);

/* Offers `count` chains of `segments` writable pages each. */
void bench_offer_pages(struct rig *rig, unsigned count, unsigned segments);
/* Header 16 bytes, data 4096, status 1: as Linux's virtio-blk arranges them. */
void bench_offer_blk(struct rig *rig, unsigned count);
unsigned bench_echo(struct rig *rig, uint32_t len); /* the device: takes all available chains and returns them */
unsigned bench_reap(struct rig *rig);               /* the driver: consumes used entries */

#endif
