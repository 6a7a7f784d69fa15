/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hv_maps.h"

#include <stdint.h>
#include <string.h>

#include "svq_hv.h"

static struct svq_hv_map **bucket_of(struct svq_hv_maps *maps, const void *va)
{
    return &maps->buckets[((uintptr_t)va >> SVQ_PAGE_SHIFT) % SVQ_HV_MAP_BUCKETS];
}

void svq_hv_maps_init(struct svq_hv_maps *maps)
{
    memset(maps->buckets, 0, sizeof maps->buckets);
    pthread_mutex_init(&maps->lock, NULL);
}

void svq_hv_maps_destroy(struct svq_hv_maps *maps) { pthread_mutex_destroy(&maps->lock); }

void svq_hv_maps_add(struct svq_hv_maps *maps, struct svq_hv_map *map)
{
    struct svq_hv_map **bucket = bucket_of(maps, map->va);
    pthread_mutex_lock(&maps->lock);
    map->next = *bucket;
    *bucket = map;
    pthread_mutex_unlock(&maps->lock);
}

struct svq_hv_map *svq_hv_maps_take(struct svq_hv_maps *maps, const void *va, int kind, size_t count)
{
    struct svq_hv_map *found = NULL;
    pthread_mutex_lock(&maps->lock);
    for (struct svq_hv_map **link = bucket_of(maps, va); *link; link = &(*link)->next) {
        struct svq_hv_map *map = *link;
        if (map->va == va && map->kind == kind && (!count || map->count == count)) {
            *link = map->next;
            found = map;
            break;
        }
    }
    pthread_mutex_unlock(&maps->lock);
    return found;
}

struct svq_hv_map *svq_hv_maps_take_any(struct svq_hv_maps *maps)
{
    struct svq_hv_map *found = NULL;
    pthread_mutex_lock(&maps->lock);
    for (int i = 0; i < SVQ_HV_MAP_BUCKETS && !found; i++) {
        found = maps->buckets[i];
        if (found)
            maps->buckets[i] = found->next;
    }
    pthread_mutex_unlock(&maps->lock);
    return found;
}
