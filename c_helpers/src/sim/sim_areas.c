/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mappings with an address range of their own. Not for the fast path. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "sim_client.h"

/* Maps each run of consecutive frames with one call. */
static int map_runs(uint8_t *va, int fd, const uint64_t *frames, size_t count, int prot)
{
    size_t i = 0;
    while (i < count) {
        size_t run = 1;
        while (i + run < count && frames[i] != SIM_NO_FRAME && frames[i + run] == frames[i] + run)
            run++;
        if (frames[i] != SIM_NO_FRAME &&
            mmap(va + (i << SVQ_PAGE_SHIFT), run << SVQ_PAGE_SHIFT, prot, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
                 (off_t)(frames[i] << SVQ_PAGE_SHIFT)) == MAP_FAILED)
            return -errno;
        i += run;
    }
    return 0;
}

int sim_area_create(uint32_t slot, enum sim_area_kind kind, int fd, const uint64_t *frames, size_t count, int writable,
                    struct sim_area **out)
{
    struct sim_area *area;
    area = calloc(1, sizeof *area + (kind == SIM_AREA_GRANTS ? count * sizeof area->grefs[0] : 0));
    if (!area)
        return -ENOMEM;
    area->base.kind = kind;
    area->slot = slot;
    area->writable = writable;
    area->base.count = count;
    area->base.va = mmap(NULL, count << SVQ_PAGE_SHIFT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area->base.va == MAP_FAILED) {
        free(area);
        return -ENOMEM;
    }
    int rc = map_runs(area->base.va, fd, frames, count, writable ? PROT_READ | PROT_WRITE : PROT_READ);
    if (rc != 0) {
        sim_area_free(area);
        return rc;
    }
    *out = area;
    return 0;
}

void sim_area_publish(struct sim_hv *sim, struct sim_area *area) { svq_hv_maps_add(&sim->areas, &area->base); }

struct sim_area *sim_area_take(struct sim_hv *sim, const void *va, enum sim_area_kind kind, size_t count)
{
    return (struct sim_area *)(void *)svq_hv_maps_take(&sim->areas, va, kind, count); /* its first member */
}

void sim_area_unmap(const struct sim_area *area) { (void)munmap(area->base.va, area->base.count << SVQ_PAGE_SHIFT); }

void sim_area_free(struct sim_area *area)
{
    sim_area_unmap(area);
    free(area);
}

void sim_areas_free(struct sim_hv *sim)
{
    for (struct sim_area *area; (area = (struct sim_area *)(void *)svq_hv_maps_take_any(&sim->areas));)
        sim_area_free(area);
}
