/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One chain there and back, with every byte compared with what the descriptors say. */
#ifndef SVQ_TEST_RIG_TRIP_H
#define SVQ_TEST_RIG_TRIP_H

#include "rig_view.h"

/* How a chain was placed, judged by where its parts lie. */
struct rig_trip {
    unsigned parts, granted_parts, granted_pages, bounced_parts;
    uint64_t granted_bytes, bounced_bytes;
    bool indirect;
};

/* Sums up the shadow chain. False: not well-formed. */
bool rig_trip_sum(const struct rig_shadow *shadow, struct rig_trip *trip);

/*
 * Do the parts of the shadow chain cover `segs` byte by byte, in order, with their access, and show the driver's bytes?
 * Can the backend write no readable part?
 */
bool rig_trip_matches(struct rig *rig, const struct rig_shadow *shadow, const struct rig_seg *segs, unsigned count);

/*
 * The whole trip: offers chain `head` (whose descriptors the caller has written), forwards, compares, lets the backend
 * fill all writable parts and return the chain with length `used_len`, completes, and compares the driver's memory with
 * what it must be: granted bytes as written, bounced bytes only below used_len, everything else untouched. Then nothing
 * is granted.
 */
bool rig_trip(struct rig *rig, uint16_t head, const struct rig_seg *segs, unsigned count, uint32_t used_len,
              struct rig_trip *trip);

#endif
