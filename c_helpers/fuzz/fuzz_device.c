/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How devices come and go: opened, reset, stopped and stopped again, closed; a mediator that dies, and the sweep after
 * that.
 */
#include <errno.h>
#include <string.h>

#include "barrier.h"
#include "fuzz.h"

static void map_shadow(struct fuzz *f, struct rig_queue *q)
{
    void *va;
    FUZZ_MUST(svq_hv_map_grants(f->rig->backend, RIG_MEDIATOR, q->refs.desc_refs, q->refs.desc_pages, 0, &va) == 0);
    q->shadow_desc = va;
    FUZZ_MUST(svq_hv_map_grants(f->rig->backend, RIG_MEDIATOR, q->refs.avail_refs, q->refs.avail_pages, 0, &va) == 0);
    q->shadow_avail = va;
    FUZZ_MUST(svq_hv_map_grants(f->rig->backend, RIG_MEDIATOR, q->refs.used_refs, q->refs.used_pages, 1, &va) == 0);
    q->shadow_used = va;
}

static void unmap_shadow(struct fuzz *f, struct rig_queue *q)
{
    svq_hv_unmap_grants(f->rig->backend, (void *)(uintptr_t)q->shadow_desc, q->refs.desc_pages);
    svq_hv_unmap_grants(f->rig->backend, (void *)(uintptr_t)q->shadow_avail, q->refs.avail_pages);
    svq_hv_unmap_grants(f->rig->backend, q->shadow_used, q->refs.used_pages);
}

/* Empties the driver's rings; returns where they are. */
static struct svq_queue_config clear_rings(struct fuzz *f, struct fuzz_lane *lane, uint16_t size)
{
    struct svq_queue_config config = rig_queue_config(f->rig, lane->ring);
    struct rig_queue *q = lane->q;
    config.index = lane->index;
    config.size = size;
    q->desc = (void *)(f->rig->ram + config.desc_gpa);
    q->avail = (void *)(f->rig->ram + config.avail_gpa);
    q->used = (void *)(f->rig->ram + config.used_gpa);
    memset(q->desc, 0, vring_desc_bytes(FUZZ_SIZE));
    memset(q->avail, 0, SVQ_PAGE_SIZE);
    memset(q->used, 0, SVQ_PAGE_SIZE);
    q->avail_idx = q->used_seen = 0;
    lane->driver_size = size;
    lane->driver_sleeps = lane->engine_sleeps = false;
    return config;
}

static void open_lane(struct fuzz *f, struct fuzz_lane *lane)
{
    struct svq_queue_config config = clear_rings(f, lane, FUZZ_SIZE);
    struct rig_queue *q = lane->q;
    FUZZ_MUST(svq_queue_setup(lane->device->dev, NULL, &config, &q->refs) == 0);
    map_shadow(f, q);
    q->shadow_avail_seen = q->shadow_used_idx = 0;
    lane->checked = 0;
    lane->wild = lane->scribbled = lane->backend_sleeps = false;
    memset(lane->chain, 0, sizeof lane->chain);
}

void fuzz_open(struct fuzz *f, struct fuzz_device *device)
{
    FUZZ_MUST(svq_device_create(device->guest, &device->config, &device->dev) == 0);
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        if (f->lane[l].device == device)
            open_lane(f, &f->lane[l]);
    FUZZ_MUST(svq_device_start(device->dev) == 0);
    device->life = FUZZ_RUNNING;
    device->ended = false;
}

void fuzz_reset(struct fuzz *f, struct fuzz_lane *lane, uint16_t size)
{
    if (!fuzz_runs(lane))
        return;
    svq_queue_drain(lane->device->dev, lane->index);
    if (svq_queue_reset(lane->device->dev, lane->index) < 0)
        return;
    for (unsigned head = 0; head < FUZZ_SIZE; head++)
        FUZZ_MUST(!lane->chain[head].alive); /* else the driver would get back what the backend has */
    struct svq_queue_config config = clear_rings(f, lane, size);
    lane->wild = false;
    svq_queue_restart(lane->device->dev, &config);
}

/*
 * The driver's device is Closing: the driver has back all chains that are not in the bitmaps, which show exactly the
 * chains with a held page.
 */
static void check_held(struct fuzz *f, struct fuzz_device *device, unsigned held)
{
    FUZZ_MUST(f->tampered || held == fuzz_held_pages(f, device));
    for (unsigned l = 0; l < FUZZ_LANES; l++) {
        struct fuzz_lane *lane = &f->lane[l];
        if (lane->device != device)
            continue;
        uint8_t bits;
        FUZZ_MUST(svq_queue_held(device->dev, lane->index, &bits, 1) == 1);
        for (unsigned head = 0; head < FUZZ_SIZE; head++) {
            struct fuzz_chain *chain = &lane->chain[head];
            bool is_held = bits >> head & 1;
            FUZZ_MUST(f->tampered || is_held == (chain->alive && fuzz_is_held(f, lane, chain)));
            chain->alive = chain->alive && is_held;
        }
        fuzz_check_slots(lane);
    }
}

void fuzz_stop(struct fuzz *f, struct fuzz_device *device)
{
    if (device->life == FUZZ_CLOSED)
        return;
    int held = svq_device_stop(device->dev);
    FUZZ_MUST(held >= 0);
    device->life = FUZZ_STOPPED;
    device->ended = true;
    check_held(f, device, (unsigned)held);
    FUZZ_MUST(f->tampered || svq_device_window_in_use(device->dev) == (unsigned)held);
}

static void unmap_shadows(struct fuzz *f, const struct fuzz_device *device)
{
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        if (f->lane[l].device == device)
            unmap_shadow(f, f->lane[l].q);
}

/* Leaves whatever is still held to a sweep; until then the driver does not get those chains back. */
void fuzz_close(struct fuzz *f, struct fuzz_device *device)
{
    if (device->life == FUZZ_CLOSED)
        return;
    fuzz_stop(f, device);
    unmap_shadows(f, device);
    int held = svq_device_close(device->dev);
    FUZZ_MUST(f->tampered || (unsigned)held == fuzz_held_pages(f, device));
    device->life = FUZZ_CLOSED;
    device->left = held != 0;
    device->dev = NULL;
}

/*
 * The mediator dies and leaves nothing but its entries. (They are written back after a close; the machine itself knows
 * what is mapped.)
 */
void fuzz_crash(struct fuzz *f, struct fuzz_device *device)
{
    static uint64_t before[FUZZ_RAM];
    uint32_t count = rig_window(f->rig).count;
    if (device->life == FUZZ_CLOSED)
        return;
    for (uint32_t i = 0; i < count; i++)
        before[i] = svq_load_u64(&f->entries[i]);
    unmap_shadows(f, device);
    svq_device_close(device->dev);
    device->life = FUZZ_CLOSED;
    device->left = true;
    device->dev = NULL;
    for (uint32_t i = 0; i < count; i++)
        svq_store_u64(&f->entries[i], before[i]);
}

void fuzz_sweep(struct fuzz *f, struct fuzz_device *device)
{
    if (device->life != FUZZ_CLOSED)
        return;
    struct svq_sweep_result swept;
    FUZZ_MUST(svq_sweep(f->rig->mediator, RIG_FRONTEND, &device->config.mark, 1, &swept) == 0);
    device->ended = true;
    FUZZ_MUST(f->tampered || swept.held == fuzz_held_pages(f, device));
    FUZZ_MUST(f->tampered || !swept.held || swept.holder == RIG_BACKEND);
    for (unsigned l = 0; l < FUZZ_LANES && !swept.held; l++)
        if (f->lane[l].device == device)
            memset(f->lane[l].chain, 0, sizeof f->lane[l].chain); /* Closed: everything is the driver's again */
    if (!swept.held && !f->tampered)
        fuzz_open(f, device);
}

/* Once the backend has let go of everything, nothing is left. */
void fuzz_end(struct fuzz *f)
{
    uint32_t count = rig_window(f->rig).count;
    for (unsigned i = 0; i < FUZZ_HOLDS; i++)
        fuzz_let_go(f, i);
    for (unsigned d = 0; d < FUZZ_DEVICES; d++) {
        struct fuzz_device *device = &f->device[d];
        struct svq_sweep_result swept;
        if (device->life != FUZZ_CLOSED) {
            fuzz_close(f, device);
        } else if (device->left) {
            FUZZ_MUST(svq_sweep(f->rig->mediator, RIG_FRONTEND, &device->config.mark, 1, &swept) == 0 && !swept.held);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        FUZZ_MUST(f->tampered || svq_load_u64(&f->entries[i]) == 0);
        svq_store_u64(&f->entries[i], 0);
    }
}
