/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a handle on Xen has mapped, so that the library that made a mapping also undoes it: on close, at the latest. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "xen_hv.h"

struct xen_map *xen_map_new(enum xen_map_kind kind, size_t count)
{
    struct xen_map *map = calloc(1, sizeof *map);
    if (map) {
        map->base.kind = kind;
        map->base.count = count;
    }
    return map;
}

void xen_map_publish(struct xen_hv *xen, struct xen_map *map, void *va)
{
    map->base.va = va;
    svq_hv_maps_add(&xen->maps, &map->base);
}

struct xen_map *xen_map_take(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count)
{
    return (struct xen_map *)(void *)svq_hv_maps_take(&xen->maps, va, kind, count); /* its first member */
}

static int undo(const struct xen_hv *xen, const struct xen_map *map)
{
    switch (map->base.kind) {
    case XEN_MAP_FOREIGN:
        return xen->libs->foreignmemory_unmap(map->domain->foreignmemory, map->base.va, map->base.count);
    case XEN_MAP_TABLE: return xen->libs->foreignmemory_unmap_resource(map->domain->foreignmemory, map->resource);
    case XEN_MAP_GRANTS: return xen->libs->gnttab_unmap(xen->gnttab, map->base.va, (uint32_t)map->base.count);
    case XEN_MAP_SHARED: return xen->libs->gntshr_unshare(xen->gntshr, map->base.va, (uint32_t)map->base.count);
    default: /* XEN_MAP_OWN */ return munmap(map->base.va, map->base.count << SVQ_PAGE_SHIFT);
    }
}

static void forget(struct xen_hv *xen, struct xen_map *map)
{
    if (map->domain)
        xen_domain_put(xen, map->domain);
    free(map);
}

int xen_map_undo(struct xen_hv *xen, struct xen_map *map)
{
    int err = undo(xen, map) == 0 ? 0 : errno;
    if (err != 0)
        xen_map_publish(xen, map, map->base.va);
    else
        forget(xen, map);
    return -err;
}

int xen_unmap(struct xen_hv *xen, const void *va, enum xen_map_kind kind, size_t count)
{
    struct xen_map *map = xen_map_take(xen, va, kind, count);
    return map ? xen_map_undo(xen, map) : -EINVAL;
}

void xen_maps_undo_all(struct xen_hv *xen)
{
    for (struct xen_map *map; (map = (struct xen_map *)(void *)svq_hv_maps_take_any(&xen->maps));) {
        (void)undo(xen, map);
        forget(xen, map);
    }
}
