/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One shadow queue under fuzzing, and what must hold of it after every step. */
#ifndef SVQ_FUZZ_H
#define SVQ_FUZZ_H

#include "engine.h"
#include "rig_view.h"

enum {
    FUZZ_SIZE = 8, /* descriptors */
    FUZZ_RAM = 1024,
    FUZZ_HOLE = FUZZ_RAM - 4, /* from there on no RAM */
    FUZZ_DATA_GFN = 508,      /* over the border of two chunks */
    FUZZ_TABLES = 2,
};

struct fuzz {
    struct rig *rig; /* its machine and guest; the device is made anew for each input */
    struct svq_device_config config;
    bool tampered;   /* the window was written by the frontend: its entries count no more */
    uint16_t checked; /* shadow avail index up to which chains have been looked at */
    uint64_t owed[FUZZ_SIZE]; /* by head: 1 + the writable bytes of a chain at the backend; 0: none is */
    uint8_t *held;   /* a page that the backend maps, and how */
    struct vring_desc held_part;
};

#define FUZZ_MUST(condition)                                                                                       \
    do {                                                                                                           \
        if (!(condition))                                                                                          \
            __builtin_trap();                                                                                      \
    } while (0)

/* After a forward pass: every new shadow chain covers what its descriptors describe, and no byte besides. */
void fuzz_check_new_chains(struct fuzz *f);
/* After a complete pass: the driver gets back what the backend has, each chain once, with a length that it can have. */
void fuzz_check_completions(struct fuzz *f);
/* After any step: grants, chains and statistics agree. */
void fuzz_check_books(struct fuzz *f);

#endif
