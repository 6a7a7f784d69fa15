/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a handle on Xen has mapped, so that each mapping is undone by the library that made it, at the latest on
 * close.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "xen_hv.h"

static uint32_t bucket_of(const void *va)
{
    return (uint32_t)((uintptr_t)va >> SVQ_PAGE_SHIFT) % XEN_MAP_BUCKETS;
}

struct xen_map *xen_map_new(enum xen_map_kind kind, size_t count)
{
    struct xen_map *map = calloc(1, sizeof(*map));

    if (map != NULL) {
        map->kind = kind;
        map->count = count;
    }
    return map;
}

void xen_map_publish(struct xen_hv *xen, struct xen_map *map, void *va)
{
    struct xen_map **bucket = &xen->maps[bucket_of(va)];

    map->va = va;
    pthread_mutex_lock(&xen->lock);
    map->next = *bucket;
    *bucket = map;
    pthread_mutex_unlock(&xen->lock);
}

struct xen_map *xen_map_take(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count)
{
    struct xen_map **link, *found = NULL;

    pthread_mutex_lock(&xen->lock);
    for (link = &xen->maps[bucket_of(va)]; *link != NULL; link = &(*link)->next) {
        struct xen_map *map = *link;

        if (map->va == va && map->kind == kind && (count == 0 || map->count == count)) {
            *link = map->next;
            found = map;
            break;
        }
    }
    pthread_mutex_unlock(&xen->lock);
    return found;
}

static int undo(const struct xen_hv *xen, const struct xen_map *map)
{
    switch (map->kind) {
    case XEN_MAP_FOREIGN:
        return xen->libs->foreignmemory_unmap(xen->foreignmemory, map->va, map->count);
    case XEN_MAP_TABLE:
        return xen->libs->foreignmemory_unmap_resource(xen->foreignmemory, map->resource);
    case XEN_MAP_GRANTS:
        return xen->libs->gnttab_unmap(xen->gnttab, map->va, (uint32_t)map->count);
    case XEN_MAP_SHARED:
        return xen->libs->gntshr_unshare(xen->gntshr, map->va, (uint32_t)map->count);
    default: /* XEN_MAP_OWN */
        return munmap(map->va, map->count << SVQ_PAGE_SHIFT);
    }
}

int xen_map_undo(struct xen_hv *xen, struct xen_map *map)
{
    int err = undo(xen, map) == 0 ? 0 : errno;

    if (err != 0)
        xen_map_publish(xen, map, map->va);
    else
        free(map);
    return -err;
}

void xen_maps_undo_all(struct xen_hv *xen)
{
    for (uint32_t i = 0; i < XEN_MAP_BUCKETS; i++) {
        while (xen->maps[i] != NULL) {
            struct xen_map *map = xen->maps[i];

            xen->maps[i] = map->next;
            (void)undo(xen, map);
            free(map);
        }
    }
}
