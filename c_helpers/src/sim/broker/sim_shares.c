/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages of its own that a domain shares: frames behind its RAM, entries of its own grant table. On Linux gntalloc does
 * this; here the broker does, since several processes may be one domain.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>

#include "barrier.h"
#include "grant.h"
#include "sim_broker.h"

int sim_grow_table(struct sim_domain *domain, uint64_t frames)
{
    if (frames > domain->max_frames)
        return -EINVAL;
    if (frames > svq_load_u32(&domain->info->grant_frames))
        svq_release_u32(&domain->info->grant_frames, (uint32_t)frames);
    return 0;
}

/* The first of `count` consecutive entries that are 0, so nobody has taken them. */
static int find_grefs(const struct sim_domain *domain, uint64_t count, uint32_t *first)
{
    uint64_t run = 0;
    for (uint64_t gref = SIM_FIRST_SHARED_GREF; gref < sim_grefs(domain); gref++) {
        run = svq_load_u64(&domain->table[gref]) == 0 ? run + 1 : 0;
        if (run == count) {
            *first = (uint32_t)(gref - count + 1);
            return 0;
        }
    }
    return -ENOSPC;
}

static int find_frames(const struct sim_domain *domain, uint64_t count, uint32_t *first)
{
    uint64_t run = 0;
    for (uint32_t frame = 0; frame < SIM_PRIVATE_PAGES; frame++) {
        run = domain->shares[frame].connection == 0 && !domain->shares[frame].leaked ? run + 1 : 0;
        if (run == count) {
            *first = (uint32_t)(frame - count + 1);
            return 0;
        }
    }
    return -ENOSPC;
}

int sim_share(struct sim_connection *connection, uint16_t peer_domid, uint64_t count, bool writable,
              struct sim_answer *answer)
{
    struct sim_domain *domain = connection->domain;
    uint32_t gref, frame;
    if (count == 0 || count > SIM_PRIVATE_PAGES)
        return -ENOSPC;
    int rc = find_grefs(domain, count, &gref);
    if (rc == 0)
        rc = find_frames(domain, count, &frame);
    if (rc != 0)
        return rc;
    (void)sim_grow_table(domain, (gref + count + SVQ_GRANTS_PER_FRAME - 1) / SVQ_GRANTS_PER_FRAME);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t *entry = &domain->table[gref + i];
        uint16_t flags = GTF_PERMIT_ACCESS | (writable ? 0 : GTF_READONLY);
        uint32_t gfn = (uint32_t)(domain->ram_pages + frame + i); /* RAM is at most 2^24 pages */
        domain->shares[frame + i] = (struct sim_share){ .gref = gref + (uint32_t)i, .connection = connection->id };
        svq_store_u64(entry, svq_grant_entry(0, peer_domid, gfn));
        svq_release_u64(entry, svq_grant_entry(flags, peer_domid, gfn)); /* valid only when complete */
    }
    answer->gref = gref;
    answer->gfn = domain->ram_pages + frame;
    return 0;
}

/* Takes an entry back unless it is mapped: one compare-and-swap checks the peer's two bits and writes our zero. */
static bool end_access(uint64_t *entry)
{
    uint64_t seen = svq_load_u64(entry);
    for (int tries = 0; tries < 16; tries++) {
        if ((seen & (GTF_READING | GTF_WRITING)) != 0)
            return false;
        if (svq_cas_u64(entry, &seen, 0))
            return true;
    }
    return false; /* it keeps changing, so it is in use */
}

static int end_share(struct sim_domain *domain, uint32_t frame)
{
    struct sim_share *share = &domain->shares[frame];
    off_t offset = (off_t)((domain->ram_pages + frame) << SVQ_PAGE_SHIFT);
    share->connection = 0;
    if (!end_access(&domain->table[share->gref])) {
        share->leaked = 1; /* the peer can still write there: never use the page or the entry again */
        return -EBUSY;
    }
    /* The next user gets zeros. */
    (void)fallocate(domain->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, SVQ_PAGE_SIZE);
    return 0;
}

int sim_unshare(struct sim_connection *connection, uint64_t gfn, uint64_t count)
{
    struct sim_domain *domain = connection->domain;
    uint64_t first = gfn - domain->ram_pages;
    int rc = 0;
    if (gfn < domain->ram_pages || first >= SIM_PRIVATE_PAGES || count > SIM_PRIVATE_PAGES - first)
        return -EINVAL;
    for (uint64_t i = 0; i < count; i++) {
        if (domain->shares[first + i].connection != connection->id)
            return -EINVAL;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (end_share(domain, (uint32_t)(first + i)) != 0)
            rc = -EBUSY;
    }
    return rc;
}

void sim_unshare_all(struct sim_connection *connection)
{
    for (uint32_t frame = 0; frame < SIM_PRIVATE_PAGES; frame++) {
        if (connection->domain->shares[frame].connection == connection->id)
            (void)end_share(connection->domain, frame);
    }
}
