/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mapping and copying grants. This library, in the grantee's own process, checks the entry and sets its flags, as the
 * hypervisor does on Xen: it simulates the rule, and is no boundary against a hostile process.
 *
 * Fast path, no system call: consecutive frames come from the window that maps all of the granter's memory. Order: an
 * entry is pinned before its page is handed out, and unpinned after the page is given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "grant.h"
#include "sim_client.h"
#include "sim_pins.h"

enum {
    ENTRY_TRIES_MAX = 16,  /* how often a granter may change an entry under us */
    FRAMES_ON_STACK = 256, /* calls of up to this many pages allocate nothing */
    GTF_SUB_PAGE = 1 << 8, /* Xen's grant_table.h: may be copied from and to, not mapped */
};

static uint16_t own_domid(const struct sim_hv *sim) { return (uint16_t)sim->base.domid; }

/* May we map an entry that nobody has mapped? Returns 0, or an error of svq_hv_map_grants. */
static int check_entry(const struct sim_hv *sim, const struct sim_peer *peer, uint64_t entry, int writable)
{
    uint64_t gfn = entry >> 32;
    if ((entry & (GTF_TYPE_MASK | GTF_SUB_PAGE)) != GTF_PERMIT_ACCESS || (uint16_t)(entry >> 16) != own_domid(sim))
        return -EACCES;
    if (gfn >= peer->pages || sim_peer_is_hole(peer, gfn))
        return -EINVAL;
    if (writable && gfn < peer->ram_pages && (svq_load_u16(&peer->info->frame_flags[gfn]) & SIM_FRAME_READONLY) != 0)
        return -EACCES;
    return 0;
}

/*
 * Checks an entry and sets its flags in one compare-and-swap, so that the grant is valid at the moment when we say so.
 */
static int take_entry(const struct sim_hv *sim, const struct sim_peer *peer, uint32_t gref, int writable, int is_mapped,
                      uint64_t *taken)
{
    uint64_t flags = GTF_READING | (writable ? GTF_WRITING : 0);
    *taken = svq_acquire_u64(&peer->table[gref]);
    for (int tries = 0; tries < ENTRY_TRIES_MAX; tries++) {
        int rc = is_mapped ? 0 : check_entry(sim, peer, *taken, writable);
        if (rc == 0 && writable && (*taken & GTF_READONLY) != 0)
            rc = -EACCES;
        if (rc != 0)
            return rc;
        if ((*taken & flags) == flags || svq_cas_u64(&peer->table[gref], taken, *taken | flags))
            return 0;
    }
    return -EACCES;
}

/*
 * The rules of Xen's map_grant_ref (xen/common/grant_table.c), tried on Xen 4.17 as well. The entry decides who maps it
 * first. From then until the last mapping is gone, only its state at that time counts: that domain and nobody else may
 * map that frame again, whatever the entry says by now, even if it is 0. Only the first writable mapping looks at it
 * again, and only at GTF_readonly.
 */
static int pin_entry(const struct sim_hv *sim, const struct sim_peer *peer, uint32_t gref, int writable,
                     uint64_t counts)
{
    int is_mapped = sim_active_readers(counts) != 0 || sim_active_writers(counts) != 0;
    struct sim_active *active = &peer->active[gref];
    if (is_mapped && (uint16_t)(svq_load_u64(&active->mapped) >> 16) != own_domid(sim))
        return -EACCES;
    if (is_mapped && (!writable || sim_active_writers(counts) != 0))
        return 0;
    uint64_t taken;
    int rc = take_entry(sim, peer, gref, writable, is_mapped, &taken);
    if (rc == 0 && !is_mapped)
        svq_store_u64(&active->mapped, taken & ~(uint64_t)UINT16_MAX);
    return rc;
}

static int pin(struct sim_hv *sim, struct sim_peer *peer, uint32_t gref, int writable, uint64_t *gfn)
{
    if (gref >= (uint64_t)svq_acquire_u32(&peer->info->grant_frames) * SVQ_GRANTS_PER_FRAME)
        return -ENOENT;
    struct sim_active *active = &peer->active[gref];
    uint32_t *pins = &peer->pins[gref];
    /*
     * Reading the word first makes its page exist; the broker looks there if we are killed with the lock
     * (sim_connection.c).
     */
    (void)svq_load_u32(pins);
    uint64_t counts;
    int rc = sim_active_lock(active, sim->connection, &counts);
    if (rc != 0)
        return rc;
    svq_full_fence(); /* the lock, then `revoked`: sim_connection_release uses the reverse order */
    uint32_t now = svq_load_u32(pins);
    if (svq_load_u32(&sim->page->revoked))
        rc = -ENOTCONN;
    else if ((writable ? now >> 16 : now & SIM_PIN_COUNT_MAX) == SIM_PIN_COUNT_MAX)
        rc = -ENOSPC;
    else
        rc = pin_entry(sim, peer, gref, writable, counts);
    if (rc == 0) {
        *gfn = svq_load_u64(&active->mapped) >> 32;
        svq_store_u32(pins, now + (writable ? SIM_PIN_WRITE : SIM_PIN_READ));
        counts += writable ? sim_active_counts(0, 1) : sim_active_counts(1, 0);
    }
    sim_active_unlock(active, counts);
    return rc;
}

static void unpin(struct sim_hv *sim, struct sim_peer *peer, uint32_t gref, int writable)
{
    struct sim_active *active = &peer->active[gref];
    uint32_t *pins = &peer->pins[gref];
    uint64_t counts;
    if (sim_active_lock(active, sim->connection, &counts) != 0)
        return; /* the lock's holder hangs: the entry stays marked, and its granter cannot reuse it */
    svq_full_fence();
    if (!svq_load_u32(&sim->page->revoked)) { /* else the broker has already taken our pins away */
        svq_store_u32(pins, svq_load_u32(pins) - (writable ? SIM_PIN_WRITE : SIM_PIN_READ));
        counts -= writable ? sim_active_counts(0, 1) : sim_active_counts(1, 0);
        sim_entry_drop_flags(&peer->table[gref], counts);
    }
    sim_active_unlock(active, counts);
}

/* --- pages handed out from a window: gref in the low half, how many times in the high half ------------ */
static int window_page_take(struct sim_peer *peer, int window, uint64_t gfn, uint32_t gref)
{
    uint64_t *slot = &peer->slots[window][gfn];
    uint64_t seen = svq_load_u64(slot);
    for (int tries = 0; tries < 1 << 20; tries++) { /* a lost race means that another thread made progress */
        uint64_t times = seen >> 32;

        if (times != 0 && (uint32_t)seen != gref)
            return -EEXIST; /* two grefs of one page: unmapping must tell them apart, so not at this address */
        if (svq_cas_u64(slot, &seen, (times + 1) << 32 | gref))
            return 0;
    }
    return -EEXIST;
}

static int window_page_put(struct sim_peer *peer, int window, uint64_t gfn, uint32_t *gref)
{
    uint64_t *slot = &peer->slots[window][gfn];
    uint64_t seen = svq_load_u64(slot);
    for (int tries = 0; tries < 1 << 20; tries++) {
        if (seen >> 32 == 0)
            return -EINVAL;
        *gref = (uint32_t)seen;
        if (svq_cas_u64(slot, &seen, seen - (1ULL << 32)))
            return 0;
    }
    return -EBUSY;
}

static int take_window(struct sim_peer *peer, int window, const uint64_t *gfns, const uint32_t *grefs, size_t count)
{
    size_t taken;
    for (taken = 0; taken < count; taken++) {
        if (gfns[taken] != gfns[0] + taken || window_page_take(peer, window, gfns[taken], grefs[taken]) != 0)
            break;
    }
    if (taken == count)
        return 0;
    uint32_t gref;
    while (taken-- > 0)
        (void)window_page_put(peer, window, gfns[taken], &gref);
    return -EEXIST;
}

static int map_area(struct sim_hv *sim, struct sim_peer *peer, const uint64_t *gfns, const uint32_t *grefs,
                    size_t count, int writable, void **va)
{
    struct sim_area *area;
    int rc = sim_area_create(sim_peer_slot(sim, peer), SIM_AREA_GRANTS, peer->memory_fd, gfns, count, writable, &area);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        area->grefs[i] = grefs[i];
    *va = area->base.va;
    sim_area_publish(sim, area);
    return 0;
}

static int pin_and_place(struct sim_hv *sim, struct sim_peer *peer, const uint32_t *grefs, size_t count, int writable,
                         uint64_t *gfns, void **va)
{
    size_t pinned;
    int rc = 0;
    for (pinned = 0; pinned < count; pinned++) {
        rc = pin(sim, peer, grefs[pinned], writable, &gfns[pinned]);
        if (rc != 0)
            break;
    }
    if (rc == 0 && take_window(peer, writable, gfns, grefs, count) == 0) {
        *va = sim_peer_va(peer, writable, gfns[0]);
        return 0;
    }
    if (rc == 0)
        rc = map_area(sim, peer, gfns, grefs, count, writable, va);
    if (rc != 0) {
        while (pinned-- > 0)
            unpin(sim, peer, grefs[pinned], writable);
    }
    return rc;
}

int sim_map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va)
{
    struct sim_hv *sim = sim_of(hv);
    uint64_t on_stack[FRAMES_ON_STACK], *gfns = on_stack;
    writable = writable ? SIM_WRITABLE : SIM_READ_ONLY;
    if (count > FRAMES_ON_STACK) {
        gfns = malloc(count * sizeof *gfns);
        if (!gfns)
            return -ENOMEM;
    }
    struct sim_peer *peer;
    int rc = sim_peer_get(sim, domid, count, &peer);
    if (rc == 0) {
        rc = pin_and_place(sim, peer, grefs, count, writable, gfns, va);
        if (rc != 0)
            sim_peer_put(sim, sim_peer_slot(sim, peer), count);
    }
    if (gfns != on_stack)
        free(gfns);
    return rc;
}

static int unmap_area(struct sim_hv *sim, void *va, size_t count)
{
    struct sim_area *area = sim_area_take(sim, va, SIM_AREA_GRANTS, count);
    if (!area)
        return -EINVAL;
    uint32_t slot = area->slot;
    sim_area_unmap(area); /* before the flags say so */
    for (size_t i = 0; i < count; i++)
        unpin(sim, &sim->peers[slot], area->grefs[i], area->writable);
    free(area);
    sim_peer_put(sim, slot, count);
    return 0;
}

int sim_unmap_grants(struct svq_hv *hv, void *va, size_t count)
{
    struct sim_hv *sim = sim_of(hv);
    uint64_t gfn;
    int window, rc = 0;
    struct sim_peer *peer = sim_peer_at(sim, va, &window, &gfn);
    if (!peer)
        return unmap_area(sim, va, count);
    if (((uintptr_t)va & (SVQ_PAGE_SIZE - 1)) != 0 || count > peer->pages - gfn)
        return -EINVAL;
    size_t done;
    uint32_t gref;
    for (done = 0; done < count; done++) {
        rc = window_page_put(peer, window, gfn + done, &gref);
        if (rc != 0)
            break;
        unpin(sim, peer, gref, window);
    }
    sim_peer_put(sim, sim_peer_slot(sim, peer), done);
    return rc;
}

/*
 * As on Xen, a copy takes the entry for as long as it lasts, under the rules of a mapping: GTF_sub_page, which Xen lets
 * be copied, is for entries of version 2, so we refuse it here as well.
 */
static int copy_one(struct sim_hv *sim, struct sim_peer *peer, const struct svq_hv_copy *op)
{
    int window = op->to_grant ? SIM_WRITABLE : SIM_READ_ONLY;
    uint64_t gfn;
    int rc = pin(sim, peer, op->gref, window, &gfn);
    if (rc != 0)
        return rc;
    uint8_t *granted = sim_peer_va(peer, window, gfn) + op->offset;
    if (op->to_grant)
        memcpy(granted, op->local, op->length);
    else
        memcpy(op->local, granted, op->length);
    unpin(sim, peer, op->gref, window);
    return 0;
}

int sim_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count)
{
    struct sim_hv *sim = sim_of(hv);
    struct sim_peer *peer;
    int rc = sim_peer_get(sim, domid, 1, &peer); /* one page at a time */
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        ops[i].result = copy_one(sim, peer, &ops[i]);
    sim_peer_put(sim, sim_peer_slot(sim, peer), 1);
    return 0;
}
