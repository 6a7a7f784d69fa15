/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The domains that a handle knows: their memory, mapped once, and how much we hold of each. The held counts lie in a
 * page that the broker reads: a dead domain is a zombie while somebody holds something of it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim_client.h"

enum { RETIRE_TRIES_MAX = 1 << 20 };

static uint64_t held_add(struct sim_hv *sim, uint32_t slot, uint64_t n)
{
    return __atomic_add_fetch(&sim->page->held[slot], n, __ATOMIC_SEQ_CST);
}

void sim_peer_put(struct sim_hv *sim, uint32_t slot, uint64_t holds) { (void)held_add(sim, slot, -holds); }

static void *map(int fd, uint64_t bytes, int prot)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *va = mmap(NULL, bytes, prot, flags | MAP_NORESERVE, fd, 0);
    if (va == MAP_FAILED)
        return NULL;
    (void)madvise(va, bytes, MADV_DONTDUMP);
    return va;
}

static void unmap(const void *va, uint64_t bytes)
{
    if (va)
        (void)munmap((void *)(uintptr_t)va, bytes);
}

static uint64_t peer_grefs(const struct sim_peer *peer) { return (uint64_t)peer->max_frames * SVQ_GRANTS_PER_FRAME; }

static void peer_free(struct sim_peer *peer)
{
    uint64_t bytes = peer->pages << SVQ_PAGE_SHIFT;
    svq_store_u64(&peer->window_bytes, 0);
    for (int window = 0; window < 2; window++) {
        unmap((void *)(uintptr_t)peer->window[window], bytes);
        unmap(peer->slots[window], peer->pages * sizeof(uint64_t));
        peer->slots[window] = NULL;
        svq_store_u64(&peer->window[window], 0);
    }
    unmap(peer->table, peer_grefs(peer) * sizeof(uint64_t));
    unmap(peer->active, peer_grefs(peer) * sizeof *peer->active);
    unmap(peer->pins, peer_grefs(peer) * sizeof(uint32_t));
    unmap(peer->info, sim_info_bytes(peer->ram_pages));
    peer->table = NULL;
    peer->active = NULL;
    peer->pins = NULL;
    peer->info = NULL;
    if (peer->memory_fd >= 0)
        close(peer->memory_fd);
    if (peer->table_fd >= 0)
        close(peer->table_fd);
    peer->memory_fd = peer->table_fd = -1;
}

static int peer_map(struct sim_peer *peer, const struct sim_answer *answer, const int fds[SIM_WIRE_FDS_MAX])
{
    peer->domid = answer->domid;
    peer->incarnation = answer->incarnation;
    peer->ram_pages = answer->ram_pages;
    peer->pages = answer->ram_pages + SIM_PRIVATE_PAGES;
    peer->max_frames = answer->max_frames;
    peer->memory_fd = fds[0];
    peer->table_fd = fds[1];
    uint64_t bytes = peer->pages << SVQ_PAGE_SHIFT;
    uint64_t slots_bytes = peer->pages * sizeof(uint64_t);
    peer->table = map(fds[1], peer_grefs(peer) * sizeof(uint64_t), PROT_READ | PROT_WRITE);
    peer->info = map(fds[2], sim_info_bytes(peer->ram_pages), PROT_READ);
    peer->active = map(fds[3], peer_grefs(peer) * sizeof *peer->active, PROT_READ | PROT_WRITE);
    peer->pins = map(fds[4], peer_grefs(peer) * sizeof(uint32_t), PROT_READ | PROT_WRITE);
    for (int window = 0; window < 2; window++) {
        int prot = window == SIM_WRITABLE ? PROT_READ | PROT_WRITE : PROT_READ;
        svq_store_u64(&peer->window[window], (uint64_t)(uintptr_t)map(fds[0], bytes, prot));
        peer->slots[window] = map(-1, slots_bytes, PROT_READ | PROT_WRITE);
        if (peer->window[window] == 0 || !peer->slots[window])
            return -ENOMEM;
    }
    if (!peer->table || !peer->info || !peer->active || !peer->pins)
        return -ENOMEM;
    svq_release_u64(&peer->window_bytes, bytes);
    return 0;
}

/* Makes room for a new domain in a slot. Other threads may be looking: they count first, and then read `ready`. */
static int peer_retire(struct sim_hv *sim, struct sim_peer *peer)
{
    __atomic_store_n(&peer->ready, 0, __ATOMIC_SEQ_CST);
    for (int tries = 0; tries < RETIRE_TRIES_MAX; tries++) {
        if (held_add(sim, sim_peer_slot(sim, peer), 0) == 0) {
            peer_free(peer);
            return 0;
        }
        (void)sched_yield();
    }
    return -EBUSY;
}

static int peer_install(struct sim_hv *sim, const struct sim_answer *answer, const int fds[SIM_WIRE_FDS_MAX])
{
    struct sim_peer *peer = &sim->peers[answer->slot];
    if (peer->ready && peer->incarnation == answer->incarnation) { /* another thread was faster */
        close(fds[0]);
        close(fds[1]);
        return 0;
    }
    int rc = peer->ready ? peer_retire(sim, peer) : 0;
    if (rc != 0) {
        close(fds[0]);
        close(fds[1]);
        return rc;
    }
    rc = peer_map(peer, answer, fds);
    if (rc != 0) {
        peer_free(peer);
        return rc;
    }
    if (answer->slot >= svq_load_u32(&sim->peers_end))
        svq_release_u32(&sim->peers_end, answer->slot + 1);
    __atomic_store_n(&peer->ready, 1, __ATOMIC_SEQ_CST);
    svq_release_u16(&sim->slot_of_domid[peer->domid], (uint16_t)(answer->slot + 1));
    return 0;
}

static int peer_learn(struct sim_hv *sim, uint16_t domid)
{
    struct sim_request request = { .op = SIM_OP_PEER, .domid = domid };
    pthread_mutex_lock(&sim->peers_lock);
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int rc = sim_ask(sim, &request, &answer, fds);
    if (rc == 0) {
        answer.domid = domid;
        rc = peer_install(sim, &answer, fds);
        for (int i = 2; i < SIM_WIRE_FDS_MAX; i++)
            close(fds[i]);
    }
    pthread_mutex_unlock(&sim->peers_lock);
    return rc;
}

/* Counting first and looking second keeps the broker's and peer_retire's view exact. */
static struct sim_peer *peer_known(struct sim_hv *sim, uint16_t domid, uint64_t holds)
{
    uint16_t known = svq_acquire_u16(&sim->slot_of_domid[domid]);
    if (known == 0)
        return NULL;
    struct sim_peer *peer = &sim->peers[known - 1];
    (void)held_add(sim, known - 1, holds);
    if (__atomic_load_n(&peer->ready, __ATOMIC_SEQ_CST) && peer->domid == domid &&
        __atomic_load_n(&peer->info->dead, __ATOMIC_SEQ_CST) == 0)
        return peer;
    sim_peer_put(sim, known - 1, holds);
    return NULL;
}

int sim_peer_get(struct sim_hv *sim, uint16_t domid, uint64_t holds, struct sim_peer **out)
{
    for (int tries = 0; tries < 3; tries++) {
        *out = peer_known(sim, domid, holds);
        if (*out)
            return 0;
        int rc = peer_learn(sim, domid);
        if (rc != 0)
            return rc;
    }
    return -ESRCH; /* it keeps dying */
}

struct sim_peer *sim_peer_at(struct sim_hv *sim, const void *va, int *window, uint64_t *gfn)
{
    uint32_t end = svq_acquire_u32(&sim->peers_end);
    for (uint32_t slot = 0; slot < end; slot++) {
        struct sim_peer *peer = &sim->peers[slot];
        uint64_t bytes = svq_acquire_u64(&peer->window_bytes);
        for (int w = 0; w < 2; w++) {
            uint64_t offset = (uint64_t)(uintptr_t)va - svq_load_u64(&peer->window[w]);

            /* The caller holds a page there, so the peer that really has it cannot be retired now. */
            if (offset < bytes && svq_acquire_u64(&peer->window_bytes) == bytes) {
                *window = w;
                *gfn = offset >> SVQ_PAGE_SHIFT;
                return peer;
            }
        }
    }
    return NULL;
}

void sim_peers_free(struct sim_hv *sim)
{
    for (uint32_t slot = 0; slot < sim->peers_end; slot++) {
        if (sim->peers[slot].ready)
            peer_free(&sim->peers[slot]);
    }
}
