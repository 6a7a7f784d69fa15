/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who maps a grant, kept where all grantees and the broker see it: the lock and the counts behind GTF_reading and
 * GTF_writing. The counts for each connection let the broker undo what a killed process left.
 */
#ifndef SVQ_SIM_PINS_H
#define SVQ_SIM_PINS_H

#include "barrier.h"
#include "grant.h"
#include "sim_wire.h"

static inline uint16_t sim_active_owner(uint64_t counts) { return (uint16_t)counts; }
static inline uint32_t sim_active_readers(uint64_t counts)
{
    return (uint32_t)(counts >> SIM_ACTIVE_READ_SHIFT) & SIM_ACTIVE_COUNT_MAX;
}
static inline uint32_t sim_active_writers(uint64_t counts)
{
    return (uint32_t)(counts >> SIM_ACTIVE_WRITE_SHIFT) & SIM_ACTIVE_COUNT_MAX;
}
static inline uint64_t sim_active_counts(uint64_t readers, uint64_t writers)
{
    return readers << SIM_ACTIVE_READ_SHIFT | writers << SIM_ACTIVE_WRITE_SHIFT;
}

/* Waits for the lock of one gref. *unlocked: its counts. -EBUSY: its owner did not let go in a long time. */
int sim_active_lock(struct sim_active *active, uint16_t connection, uint64_t *unlocked);

/* Stores new counts and lets go of the lock. */
void sim_active_unlock(struct sim_active *active, uint64_t counts);

/* Clears GTF_reading and GTF_writing where the counts no longer require them. */
void sim_entry_drop_flags(uint64_t *entry, uint64_t counts);

#endif
