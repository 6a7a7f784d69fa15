/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mappings with an address range of their own, found again by their address. Not for the fast path. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "sim_client.h"

static uint32_t bucket_of(const void *va)
{
    return (uint32_t)((uintptr_t)va >> SVQ_PAGE_SHIFT) % SIM_AREA_BUCKETS;
}

/* Maps each run of consecutive frames with one call. */
static int map_runs(uint8_t *va, int fd, const uint64_t *frames, size_t count, int prot)
{
    size_t i = 0;

    while (i < count) {
        size_t run = 1;

        while (i + run < count && frames[i] != SIM_NO_FRAME && frames[i + run] == frames[i] + run)
            run++;
        if (frames[i] != SIM_NO_FRAME &&
            mmap(va + (i << SVQ_PAGE_SHIFT), run << SVQ_PAGE_SHIFT, prot, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
                 fd, (off_t)(frames[i] << SVQ_PAGE_SHIFT)) == MAP_FAILED)
            return -errno;
        i += run;
    }
    return 0;
}

int sim_area_create(uint32_t slot, enum sim_area_kind kind, int fd, const uint64_t *frames, size_t count,
                    int writable, struct sim_area **out)
{
    struct sim_area *area;
    int rc;

    area = calloc(1, sizeof(*area) + (kind == SIM_AREA_GRANTS ? count * sizeof(area->grefs[0]) : 0));
    if (area == NULL)
        return -ENOMEM;
    area->kind = kind;
    area->slot = slot;
    area->writable = writable;
    area->count = count;
    area->va = mmap(NULL, count << SVQ_PAGE_SHIFT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area->va == MAP_FAILED) {
        free(area);
        return -ENOMEM;
    }
    rc = map_runs(area->va, fd, frames, count, writable ? PROT_READ | PROT_WRITE : PROT_READ);
    if (rc != 0) {
        sim_area_free(area);
        return rc;
    }
    *out = area;
    return 0;
}

void sim_area_publish(struct sim_hv *sim, struct sim_area *area)
{
    struct sim_area **bucket = &sim->areas[bucket_of(area->va)];

    pthread_mutex_lock(&sim->areas_lock);
    area->next = *bucket;
    *bucket = area;
    pthread_mutex_unlock(&sim->areas_lock);
}

struct sim_area *sim_area_take(struct sim_hv *sim, const void *va, enum sim_area_kind kind, size_t count)
{
    struct sim_area **link, *found = NULL;

    pthread_mutex_lock(&sim->areas_lock);
    for (link = &sim->areas[bucket_of(va)]; *link != NULL; link = &(*link)->next) {
        struct sim_area *area = *link;

        if (area->va == va && area->kind == kind && (count == 0 || area->count == count)) {
            *link = area->next;
            found = area;
            break;
        }
    }
    pthread_mutex_unlock(&sim->areas_lock);
    return found;
}

void sim_area_unmap(const struct sim_area *area)
{
    (void)munmap(area->va, area->count << SVQ_PAGE_SHIFT);
}

void sim_area_free(struct sim_area *area)
{
    sim_area_unmap(area);
    free(area);
}

void sim_areas_free(struct sim_hv *sim)
{
    for (uint32_t i = 0; i < SIM_AREA_BUCKETS; i++) {
        while (sim->areas[i] != NULL) {
            struct sim_area *area = sim->areas[i];

            sim->areas[i] = area->next;
            sim_area_free(area);
        }
    }
}
