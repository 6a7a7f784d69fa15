/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hostile inputs: at least one for every code of enum svq_err. */
#ifndef SVQ_TEST_HOSTILE_H
#define SVQ_TEST_HOSTILE_H

#include "rig.h"

struct hostile {
    int code; /* the code that must refuse it */
    const char *what;
    const struct rig_config *config;
    void (*spoil)(struct svq_queue_config *config); /* for a ring to set up; or else: */
    void (*prepare)(struct rig *rig);               /* well-formed traffic before, or NULL */
    void (*attack)(struct rig *rig);                /* what the next forward or complete pass meets */
    int keeps_entries; /* the backend's access could not be ended, so entries of the window stay */
};

extern const struct hostile hostile_inputs[];
extern const unsigned hostile_count;

/* A well-formed ring, for `spoil`. */
struct svq_queue_config hostile_ring(void);

#endif
