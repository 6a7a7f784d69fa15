/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A part of a mapping of grants, unmapped by itself. The library cannot do that: it wants the whole mapping. What
 * follows is Linux's drivers/xen/gntdev.c, read at several versions:
 *
 *   - In a PV domain a notifier of the address space sees which addresses are unmapped, and ends the grants behind
 *     these in that moment. Before 6.1 it got offsets and reference counts wrong once a mapping had been split.
 *   - In HVM, PVH and Arm domains there is no such notifier: gntdev ends all grants of a mapping together, when the
 *     last of its pages is gone.
 *   - In both, gntdev remembers the mapping by its index until IOCTL_GNTDEV_UNMAP_GRANT_REF.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include "xen_hv.h"

/* Linux include/uapi/xen/gntdev.h */
struct gntdev_offset {
    uint64_t vaddr;
    uint64_t offset; /* the answer: the mapping's index */
    uint32_t count;  /* the answer: pages of the whole mapping */
    uint32_t pad;
};

struct gntdev_unmap {
    uint64_t index;
    uint32_t count;
    uint32_t pad;
};

#define GNTDEV_UNMAP_GRANT_REF _IOC(_IOC_NONE, 'G', 1, sizeof(struct gntdev_unmap))
#define GNTDEV_GET_OFFSET_FOR_VADDR _IOC(_IOC_NONE, 'G', 2, sizeof(struct gntdev_offset))

enum { LEAST_MAJOR = 6, LEAST_MINOR = 1 };

/* 5c13a4a0291b, "xen/gntdev: Accommodate VMA splitting". Some older stable kernels have it too; we do not guess. */
static int kernel_splits(void)
{
    struct utsname name;
    unsigned int major = 0, minor = 0;
    if (uname(&name) != 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
        return 0;
    return major > LEAST_MAJOR || (major == LEAST_MAJOR && minor >= LEAST_MINOR);
}

static int is_pv(void)
{
    char type[8] = "";
    FILE *file = fopen("/sys/hypervisor/guest_type", "re");
    if (!file)
        return 0;
    int pv = fgets(type, sizeof type, file) && strcmp(type, "PV\n") == 0;
    fclose(file);
    return pv;
}

int xen_can_unmap_part(struct svq_hv *hv)
{
    struct xen_hv *xen = xen_of(hv);
    int known = __atomic_load_n(&xen->parts, __ATOMIC_RELAXED);
    if (known == 0) { /* whoever asks at the same time finds the same */
        known = xen->libs->gnttab_fd && is_pv() && kernel_splits() ? 1 : -1;
        __atomic_store_n(&xen->parts, known, __ATOMIC_RELAXED);
    }
    return known > 0;
}

static int all_mapped(const struct xen_map *map, size_t first, size_t count)
{
    if (first > map->base.count || count > map->base.count - first)
        return 0;
    for (size_t i = first; i < first + count; i++) {
        if (map->bits[i / 64] >> (i % 64) & 1)
            return 0;
    }
    return 1;
}

static int learn_index(const struct xen_hv *xen, struct xen_map *map)
{
    struct gntdev_offset ask = { .vaddr = (uintptr_t)map->base.va };
    if (ioctl(xen->libs->gnttab_fd(xen->gnttab), GNTDEV_GET_OFFSET_FOR_VADDR, &ask) != 0)
        return -1;
    map->index = ask.offset;
    return 0;
}

/*
 * The addresses stay ours, with nothing behind them: a mapping that took them over would begin, or lie, where this one
 * still counts pages.
 */
static int cut(const struct xen_map *map, size_t first, size_t count)
{
    uint8_t *va = (uint8_t *)map->base.va + (first << SVQ_PAGE_SHIFT);
    void *reserved = mmap(va, count << SVQ_PAGE_SHIFT, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return reserved == MAP_FAILED ? -1 : 0;
}

int xen_end_parts(const struct xen_hv *xen, const struct xen_map *map)
{
    struct gntdev_unmap unmap = { .index = map->index, .count = (uint32_t)map->base.count };
    if (munmap(map->base.va, map->base.count << SVQ_PAGE_SHIFT) != 0)
        return -1;
    /* All grants have ended by now. If gntdev does not let go of its record of them, that goes with its descriptor. */
    (void)ioctl(xen->libs->gnttab_fd(xen->gnttab), GNTDEV_UNMAP_GRANT_REF, &unmap);
    return 0;
}

int xen_unmap_grants_part(struct svq_hv *hv, void *va, size_t first, size_t count)
{
    struct xen_hv *xen = xen_of(hv);
    struct xen_map *map = xen_map_take(xen, va, XEN_MAP_GRANTS, 0);
    if (!map)
        return -EINVAL;
    if (!all_mapped(map, first, count)) {
        xen_map_publish(xen, map, va);
        return -EINVAL;
    }
    if (map->gone + count == map->base.count) /* nothing of it is left to stay: no need to keep the addresses */
        return xen_map_undo(xen, map);
    int rc = (map->gone == 0 && learn_index(xen, map) != 0) || cut(map, first, count) != 0 ? xen_negative_errno() : 0;
    for (size_t i = first; rc == 0 && i < first + count; i++)
        map->bits[i / 64] |= 1ULL << (i % 64);
    map->gone += rc == 0 ? count : 0;
    xen_map_publish(xen, map, va);
    return rc;
}
