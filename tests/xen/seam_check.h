/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the seam's checks on real Xen share. */
#ifndef SVQ_SEAM_CHECK_H
#define SVQ_SEAM_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "barrier.h"
#include "grant.h"
#include "svq_hv.h"

enum {
    FIRST_FRAME = 64, /* above what a guest's kernel uses */
    PAGES = 4,
    FIRST_GFN = 0x8000, /* 128 MiB: RAM of every frontend that we make */
};

struct mediator {
    struct svq_hv *hv;
    uint16_t own, frontend, other;
    uint32_t max_frames;
    int in_dom0;
    uint8_t *memory; /* PAGES of the frontend, from FIRST_GFN on */
    uint64_t *table; /* its grant table, from FIRST_FRAME on */
};

extern int checks, failures;

static inline int check(int good, int rc, const char *what)
{
    checks++;
    failures += !good;
    if (good)
        printf("ok - %s\n", what);
    else
        printf("not ok - %s (returned %d: %s; %s)\n", what, rc, strerror(abs(rc)), svq_hv_why());
    return good;
}

static inline uint32_t window_gref(uint32_t index) { return (uint32_t)FIRST_FRAME * SVQ_GRANTS_PER_FRAME + index; }

/* Entry `index` of the window: page `index` of what we mapped, to ourselves as the grantee. */
static inline void grant(const struct mediator *m, uint32_t index, uint16_t flags)
{
    svq_release_u64(&m->table[index], svq_grant_entry(flags, m->own, FIRST_GFN + index));
}

static inline uint64_t flags_of(const struct mediator *m, uint32_t index)
{
    return svq_acquire_u64(&m->table[index]) & 0xffff;
}

/* seam_grants.c */
void grant_rules(struct mediator *m);

/* seam_narrow.c */
void narrow_handles(struct mediator *m);

#endif
