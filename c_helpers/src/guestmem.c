/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guestmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int svq_guestmem_init(struct svq_guestmem *mem, struct svq_hv *hv, uint16_t domid, uint64_t gfn_limit)
{
    memset(mem, 0, sizeof *mem);
    mem->hv = hv;
    mem->domid = domid;
    mem->gfn_limit = gfn_limit;
    mem->chunk_count = (gfn_limit + SVQ_CHUNK_PAGES - 1) >> SVQ_CHUNK_PAGES_SHIFT;
    mem->ring_ranges = calloc(SVQ_RING_RANGES_MAX, sizeof *mem->ring_ranges);
    if (!mem->ring_ranges)
        return -ENOMEM;
    size_t bits_bytes = (size_t)mem->chunk_count * (SVQ_CHUNK_PAGES / 8);
    mem->arrays_bytes = 2 * bits_bytes + (size_t)mem->chunk_count * sizeof *mem->chunk_va;
    void *arrays = mmap(NULL, mem->arrays_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arrays == MAP_FAILED) {
        free(mem->ring_ranges);
        return -ENOMEM;
    }
    mem->plain = arrays;
    mem->ram = (void *)((uint8_t *)arrays + bits_bytes);
    mem->chunk_va = (void *)((uint8_t *)arrays + 2 * bits_bytes);
    pthread_mutex_init(&mem->lock, NULL);
    return 0;
}

static size_t chunk_pages(const struct svq_guestmem *mem, uint64_t first_gfn)
{
    uint64_t left = mem->gfn_limit - first_gfn;
    return left < SVQ_CHUNK_PAGES ? (size_t)left : SVQ_CHUNK_PAGES;
}

/* The address of a chunk of which nothing could be mapped: all its pages are no RAM, so it is never used. */
static uint8_t nothing_mapped;

void svq_guestmem_destroy(struct svq_guestmem *mem)
{
    if (!mem->plain)
        return;
    for (uint64_t i = 0; i < mem->chunk_count; i++) {
        void *va = (void *)(uintptr_t)mem->chunk_va[i];
        if (va && va != &nothing_mapped)
            svq_hv_unmap_foreign(mem->hv, va, chunk_pages(mem, i << SVQ_CHUNK_PAGES_SHIFT));
    }
    munmap(mem->plain, mem->arrays_bytes);
    free(mem->ring_ranges);
    pthread_mutex_destroy(&mem->lock);
    memset(mem, 0, sizeof *mem);
}

/* Called with the lock held; readers see the old word or the new one. */
static void set_frame_bit(uint64_t *bits, uint64_t gfn, bool on)
{
    uint64_t word = svq_load_u64(&bits[gfn / 64]), bit = 1ULL << (gfn % 64);
    svq_release_u64(&bits[gfn / 64], on ? word | bit : word & ~bit);
}

static bool in_ring_range(const struct svq_guestmem *mem, uint64_t gfn)
{
    for (uint32_t r = 0; r < mem->ring_range_count; r++)
        if (gfn - mem->ring_ranges[r].gfn < mem->ring_ranges[r].pages)
            return true;
    return false;
}

__attribute__((noinline, cold)) void svq_guestmem_map_chunk(struct svq_guestmem *mem, uint64_t gfn)
{
    uint64_t *chunk_va = &mem->chunk_va[gfn >> SVQ_CHUNK_PAGES_SHIFT];
    uint64_t first = gfn & ~(uint64_t)(SVQ_CHUNK_PAGES - 1), gfns[SVQ_CHUNK_PAGES];
    int errs[SVQ_CHUNK_PAGES] = { 0 };
    void *va = NULL;

    pthread_mutex_lock(&mem->lock);
    if (!*chunk_va) {
        size_t pages = chunk_pages(mem, first);
        for (size_t i = 0; i < pages; i++)
            gfns[i] = first + i;
        int rc = svq_hv_map_foreign(mem->hv, mem->domid, gfns, pages, 1, errs, &va);
        if (rc < 0)
            va = &nothing_mapped;
        svq_release_u64(chunk_va, (uint64_t)(uintptr_t)va); /* before its bits: who sees a bit finds the address */
        for (size_t i = 0; i < pages; i++) {
            bool is_ram = rc == 0 && errs[i] == 0; /* each status of a batch counts for itself: CVE-2021-26930 */
            set_frame_bit(mem->ram, first + i, is_ram);
            set_frame_bit(mem->plain, first + i, is_ram && !in_ring_range(mem, first + i));
        }
    }
    pthread_mutex_unlock(&mem->lock);
}

__attribute__((noinline, cold)) bool svq_guestmem_is_ram(struct svq_guestmem *mem, uint64_t gpa, uint64_t len)
{
    uint64_t last = (gpa + len - 1) >> SVQ_PAGE_SHIFT;
    for (uint64_t gfn = gpa >> SVQ_PAGE_SHIFT; gfn <= last; gfn++)
        if (!svq_guestmem_is_plain_frame(mem, gfn) && !svq_frame_bit(mem->ram, gfn))
            return false;
    return true;
}

static void refresh_plain(struct svq_guestmem *mem, uint64_t gfn, uint64_t pages)
{
    for (uint64_t g = gfn; g < gfn + pages; g++)
        set_frame_bit(mem->plain, g, svq_frame_bit(mem->ram, g) && !in_ring_range(mem, g));
}

static struct svq_ring_range pages_of(uint64_t gpa, uint64_t len)
{
    uint64_t gfn = gpa >> SVQ_PAGE_SHIFT;
    return (struct svq_ring_range){ gfn, ((gpa + len - 1) >> SVQ_PAGE_SHIFT) - gfn + 1 };
}

int svq_guestmem_add_ring(struct svq_guestmem *mem, uint64_t gpa, uint64_t len)
{
    int rc = -ENOSPC;
    struct svq_ring_range range = pages_of(gpa, len);
    pthread_mutex_lock(&mem->lock);
    if (mem->ring_range_count < SVQ_RING_RANGES_MAX) {
        mem->ring_ranges[mem->ring_range_count++] = range;
        refresh_plain(mem, range.gfn, range.pages);
        rc = 0;
    }
    pthread_mutex_unlock(&mem->lock);
    return rc;
}

void svq_guestmem_remove_ring(struct svq_guestmem *mem, uint64_t gpa, uint64_t len)
{
    struct svq_ring_range range = pages_of(gpa, len);
    pthread_mutex_lock(&mem->lock);
    for (uint32_t r = 0; r < mem->ring_range_count; r++) {
        if (mem->ring_ranges[r].gfn == range.gfn && mem->ring_ranges[r].pages == range.pages) {
            mem->ring_ranges[r] = mem->ring_ranges[--mem->ring_range_count];
            refresh_plain(mem, range.gfn, range.pages);
            break;
        }
    }
    pthread_mutex_unlock(&mem->lock);
}
