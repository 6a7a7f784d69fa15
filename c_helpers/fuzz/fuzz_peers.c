/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The peers on either side of a lane, and passes of the engine between them as its worker makes them. Each of the three
 * sleeps at times, after it has asked to be woken (with or without EVENT_IDX), and is woken by whoever then has work
 * for it.
 */
#include <string.h>

#include "barrier.h"
#include "fuzz.h"
#include "suppress.h"

/* --- the driver ------------------------------------------------------------------------------------------------- */

/* Would a driver that follows virtio 2.7.10 kick for its newest chain? */
static bool driver_would_kick(const struct fuzz_lane *lane)
{
    const struct rig_queue *q = lane->q;
    if (!lane->device->config.frontend_event_idx)
        return !(svq_load_u16(&q->used->flags) & VRING_USED_F_NO_NOTIFY);
    return vring_need_event(svq_load_u16(vring_avail_event(q->used, lane->driver_size)), q->avail_idx,
                            (uint16_t)(q->avail_idx - 1));
}

void fuzz_offer(struct fuzz_lane *lane, uint16_t head)
{
    struct rig_queue *q = lane->q;
    if (!q->avail)
        return;
    svq_store_u16(&q->avail->ring[q->avail_idx & (lane->driver_size - 1)], head);
    svq_release_u16(&q->avail->idx, ++q->avail_idx);
    if (lane->engine_sleeps && !lane->wild && fuzz_runs(lane) && fuzz_queue(lane)->state == SVQ_QUEUE_RUNNING)
        FUZZ_MUST(driver_would_kick(lane) || fuzz_queue(lane)->parked);
    lane->engine_sleeps = false;
}

static void driver_sleeps(struct fuzz_lane *lane)
{
    struct rig_queue *q = lane->q;
    if (lane->device->config.frontend_event_idx)
        svq_store_u16(vring_used_event(q->avail, lane->driver_size), q->used_seen);
    else
        svq_store_u16(&q->avail->flags, 0);
    lane->driver_sleeps = svq_load_u16(&q->used->idx) == q->used_seen;
}

/* --- the backend ------------------------------------------------------------------------------------------------ */

static bool backend_would_notify(const struct fuzz_lane *lane)
{
    const struct rig_queue *q = lane->q;
    if (!lane->device->config.backend_event_idx)
        return !(svq_load_u16(&q->shadow_avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    return vring_need_event(svq_load_u16(&q->shadow_avail->ring[FUZZ_SIZE]), q->shadow_used_idx,
                            (uint16_t)(q->shadow_used_idx - 1));
}

void fuzz_give(struct fuzz_lane *lane, uint32_t id, uint32_t len)
{
    struct rig_queue *q = lane->q;
    if (lane->device->life == FUZZ_CLOSED)
        return;
    struct vring_used_elem *elem = &q->shadow_used->ring[q->shadow_used_idx & (FUZZ_SIZE - 1)];
    svq_store_u32(&elem->id, id);
    svq_store_u32(&elem->len, len);
    svq_release_u16(&q->shadow_used->idx, ++q->shadow_used_idx);
    if (lane->engine_sleeps && !lane->wild)
        FUZZ_MUST(backend_would_notify(lane));
    lane->engine_sleeps = false;
}

static void backend_sleeps(struct fuzz_lane *lane)
{
    struct rig_queue *q = lane->q;
    if (lane->device->config.backend_event_idx)
        svq_store_u16(vring_avail_event(q->shadow_used, FUZZ_SIZE), q->shadow_avail_seen);
    else
        svq_store_u16(&q->shadow_used->flags, 0);
    lane->backend_sleeps = svq_load_u16(&q->shadow_avail->idx) == q->shadow_avail_seen;
}

/* Writes the first `bytes` that the chain lets it write. (Some of that may not be RAM, but never in the data area.) */
static void write_chain(struct fuzz *f, const struct fuzz_chain *chain, const struct rig_shadow *shadow, uint8_t seed,
                        uint32_t bytes)
{
    static uint8_t content[FUZZ_BOUNCE_PAGES * SVQ_PAGE_SIZE];
    uint32_t done = 0;
    for (unsigned i = 0; i < shadow->count && done < bytes; i++) {
        struct vring_desc part = shadow->part[i];
        if (!(part.flags & VRING_DESC_F_WRITE))
            continue;
        part.len = part.len < bytes - done ? part.len : bytes - done;
        for (uint32_t k = 0; k < part.len; k++)
            content[k] = (uint8_t)(seed + 7 * (done + k) + 1);
        int rc = rig_part_write(f->rig, &part, content);
        FUZZ_MUST(rc == 0 || f->tampered || !chain->alone);
        done += part.len;
    }
}

/* An answer like an honest backend's, except that it may claim to have written more than it did. */
void fuzz_answer(struct fuzz *f, struct fuzz_lane *lane, uint16_t len, uint16_t written, uint8_t seed)
{
    struct rig_queue *q = lane->q;
    if (!fuzz_runs(lane) || svq_acquire_u16(&q->shadow_avail->idx) == q->shadow_avail_seen)
        return;
    uint16_t head = svq_load_u16(&q->shadow_avail->ring[q->shadow_avail_seen++ & (FUZZ_SIZE - 1)]);
    struct fuzz_chain *chain = &lane->chain[head];
    lane->backend_sleeps = false;
    if (!chain->alive || svq_device_broken(lane->device->dev))
        return; /* it has already answered that one, with a lie */
    chain->len = len % (uint32_t)(chain->what.bytes[1] + 1);
    chain->written = written % (chain->len + 1);
    chain->seed = seed;
    chain->answered = true;
    struct rig_shadow shadow;
    FUZZ_MUST(rig_queue_shadow_chain(f->rig, q, head, &shadow));
    write_chain(f, chain, &shadow, seed, chain->written);
    fuzz_give(lane, head, chain->len);
}

/* Fills the slots that no chain uses, where it may write. */
void fuzz_scribble(struct fuzz *f, struct fuzz_lane *lane, uint8_t byte)
{
    if (!fuzz_runs(lane))
        return;
    for (int pool = SVQ_SMALL_WRITABLE; pool < SVQ_POOLS; pool += SVQ_PAGE_WRITABLE - SVQ_SMALL_WRITABLE) {
        const struct svq_slots *slots = &fuzz_queue(lane)->bounce.pool[pool];
        for (uint32_t i = 0; i < slots->free_count; i += 2) {
            uint8_t content[SVQ_SMALL_BYTES];
            struct vring_desc part = { .addr = svq_slots_addr(slots, slots->free[i]), .len = sizeof content };
            memset(content, byte, sizeof content);
            FUZZ_MUST(rig_part_write(f->rig, &part, content) == 0);
        }
    }
    lane->scribbled = true;
}

/* --- the engine ------------------------------------------------------------------------------------------------- */

void fuzz_forward(struct fuzz *f, struct fuzz_lane *lane, unsigned chains)
{
    if (lane->device->life == FUZZ_CLOSED)
        return;
    struct svq_queue *q = fuzz_queue(lane);
    bool signal;
    int done = svq_forward_pass(q, chains, &signal);
    lane->engine_sleeps = false;
    fuzz_check_new_chains(f, lane);
    if (done <= 0)
        fuzz_check_slots(lane); /* what could not be placed has been taken back */
    if (!signal)
        return;
    FUZZ_MUST(done > 0);
    uint16_t old = q->shadow_avail_signalled;
    q->shadow_avail_signalled = q->shadow_avail_idx;
    bool kick = svq_backend_wants_kick(q, old);
    FUZZ_MUST(kick || !lane->backend_sleeps || lane->wild);
    lane->backend_sleeps = lane->backend_sleeps && !kick;
}

void fuzz_complete(struct fuzz *f, struct fuzz_lane *lane)
{
    if (lane->device->life == FUZZ_CLOSED)
        return;
    struct svq_queue *q = fuzz_queue(lane);
    bool signal;
    svq_complete_pass(q, FUZZ_SIZE, &signal);
    lane->engine_sleeps = false;
    if (signal) {
        uint16_t old = q->used_signalled;
        q->used_signalled = q->used_idx;
        bool interrupt = svq_driver_wants_interrupt(q, old);
        FUZZ_MUST(interrupt || !lane->driver_sleeps || lane->wild);
        lane->driver_sleeps = lane->driver_sleeps && !interrupt;
    }
    fuzz_check_completions(f, lane);
    fuzz_check_slots(lane);
}

void fuzz_sleep(struct fuzz_lane *lane, unsigned who)
{
    if (!fuzz_runs(lane) || !svq_queue_is_live(fuzz_queue(lane)))
        return;
    if (who % 3 == 0)
        driver_sleeps(lane);
    else if (who % 3 == 1)
        backend_sleeps(lane);
    else if (!svq_device_broken(lane->device->dev))
        lane->engine_sleeps = !svq_queue_arm(fuzz_queue(lane));
}
