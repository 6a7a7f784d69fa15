/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lock and the flags of one grant entry, as grantees and broker use them. */
#include "sim_pins.h"

#include <errno.h>
#include <sched.h>

enum {
    LOCK_TRIES_MAX = 1 << 20,
    LOCK_TRIES_BEFORE_YIELD = 64,
};

int sim_active_lock(struct sim_active *active, uint16_t connection, uint64_t *unlocked)
{
    for (uint32_t tries = 0; tries < LOCK_TRIES_MAX; tries++) {
        uint64_t seen = svq_load_u64(&active->counts);
        if (sim_active_owner(seen) == 0 && svq_cas_u64(&active->counts, &seen, seen | connection)) {
            *unlocked = seen;
            return 0;
        }
        if (tries < LOCK_TRIES_BEFORE_YIELD)
            svq_spin_hint();
        else
            (void)sched_yield();
    }
    return -EBUSY;
}

void sim_active_unlock(struct sim_active *active, uint64_t counts) { svq_release_u64(&active->counts, counts); }

void sim_entry_drop_flags(uint64_t *entry, uint64_t counts)
{
    uint64_t drop = 0, seen = svq_load_u64(entry);
    if (sim_active_writers(counts) == 0)
        drop |= GTF_WRITING;
    if (sim_active_readers(counts) == 0 && sim_active_writers(counts) == 0)
        drop |= GTF_READING;
    /* The granter may keep changing its entry: each failure means that it did, so give up after this many. */
    for (int tries = 0; (seen & drop) != 0 && tries < 1 << 16; tries++) {
        if (svq_cas_u64(entry, &seen, seen & ~drop))
            return;
    }
}
