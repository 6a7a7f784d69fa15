/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a handle has mapped, found again by address, so that each mapping is undone the way it was made: when the handle
 * closes, at the latest. Not for the fast path.
 */
#ifndef SVQ_HV_MAPS_H
#define SVQ_HV_MAPS_H

#include <pthread.h>
#include <stddef.h>

/* The first member of an implementation's own record of a mapping. */
struct svq_hv_map {
    struct svq_hv_map *next;
    int kind; /* the implementation's own: how to undo the mapping */
    void *va;
    size_t count; /* pages */
};

enum { SVQ_HV_MAP_BUCKETS = 256 };

struct svq_hv_maps {
    pthread_mutex_t lock;
    struct svq_hv_map *buckets[SVQ_HV_MAP_BUCKETS]; /* by address */
};

void svq_hv_maps_init(struct svq_hv_maps *maps);
/* The list must be empty. */
void svq_hv_maps_destroy(struct svq_hv_maps *maps);

/* Adds a mapping, which can be found from now on. */
void svq_hv_maps_add(struct svq_hv_maps *maps, struct svq_hv_map *map);
/* Takes the mapping that starts at `va` off the list, if it has that kind and size (0: any size); else NULL. */
struct svq_hv_map *svq_hv_maps_take(struct svq_hv_maps *maps, const void *va, int kind, size_t count);
/* Takes any mapping off the list; NULL: there is none. */
struct svq_hv_map *svq_hv_maps_take_any(struct svq_hv_maps *maps);

#endif
