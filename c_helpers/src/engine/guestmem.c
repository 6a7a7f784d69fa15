/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guestmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int svq_guestmem_init(struct svq_guestmem *mem, struct svq_hv *hv, uint16_t domid, uint64_t gfn_limit, bool fixed)
{
    memset(mem, 0, sizeof *mem);
    mem->hv = hv;
    mem->domid = domid;
    mem->gfn_limit = gfn_limit;
    mem->fixed = fixed;
    mem->chunk_count = (gfn_limit + SVQ_CHUNK_PAGES - 1) >> SVQ_CHUNK_PAGES_SHIFT;
    mem->ring_ranges = calloc(SVQ_RING_RANGES_MAX, sizeof *mem->ring_ranges);
    if (!mem->ring_ranges)
        return -ENOMEM;
    size_t bits_bytes = (size_t)mem->chunk_count * (SVQ_CHUNK_PAGES / 8);
    mem->arrays_bytes = 2 * bits_bytes + (size_t)mem->chunk_count * sizeof *mem->chunk_va;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *arrays = mmap(NULL, mem->arrays_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
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

void svq_guestmem_destroy(struct svq_guestmem *mem)
{
    if (!mem->plain)
        return;
    for (uint64_t i = 0; mem->fixed && i < mem->chunk_count; i++) {
        void *va = (void *)(uintptr_t)mem->chunk_va[i];
        if (va)
            svq_hv_unmap_foreign(mem->hv, va, chunk_pages(mem, i << SVQ_CHUNK_PAGES_SHIFT));
    }
    for (uint32_t i = 0; i < mem->retired_count; i++)
        svq_hv_unmap_foreign(mem->hv, mem->retired[i].va, mem->retired[i].pages);
    munmap(mem->plain, mem->arrays_bytes);
    free(mem->ring_ranges);
    pthread_mutex_destroy(&mem->lock);
    memset(mem, 0, sizeof *mem);
}

/* Call it with the lock held; readers see the old word or the new one. */
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

/*
 * With the lock held: maps a chunk and publishes its address, then the bits of its frames. Does not remember a failure.
 */
static void map_chunk(struct svq_guestmem *mem, uint64_t first, uint64_t *chunk_va)
{
    uint64_t gfns[SVQ_CHUNK_PAGES];
    int errs[SVQ_CHUNK_PAGES] = { 0 };
    size_t pages = chunk_pages(mem, first);
    void *va, *before = (void *)(uintptr_t)*chunk_va;
    for (size_t i = 0; i < pages; i++)
        gfns[i] = first + i;
    if (svq_hv_map_foreign(mem->hv, mem->domid, gfns, pages, 1, errs, &va) < 0)
        return;
    if (before) {
        mem->retired[mem->retired_count].va = before;
        mem->retired[mem->retired_count++].pages = pages;
    }
    svq_release_u64(chunk_va, (uint64_t)(uintptr_t)va); /* before its bits: whoever sees a bit finds the address */
    for (size_t i = 0; i < pages; i++) {
        bool is_ram = errs[i] == 0; /* each status of a batch counts for itself: CVE-2021-26930 */
        set_frame_bit(mem->ram, first + i, is_ram);
        set_frame_bit(mem->plain, first + i, is_ram && !in_ring_range(mem, first + i));
    }
}

/* remap: every frame counts as RAM until somebody touches it. */
static void admit_chunk(struct svq_guestmem *mem, uint64_t first, uint64_t *chunk_va)
{
    static uint8_t nothing_mapped;
    svq_release_u64(chunk_va, (uint64_t)(uintptr_t)&nothing_mapped);
    for (size_t i = 0, pages = chunk_pages(mem, first); i < pages; i++) {
        set_frame_bit(mem->ram, first + i, true);
        set_frame_bit(mem->plain, first + i, !in_ring_range(mem, first + i));
    }
}

__attribute__((noinline, cold)) void svq_guestmem_map_chunk(struct svq_view *view, uint64_t gfn)
{
    struct svq_guestmem *mem = view->mem;
    uint64_t *chunk_va = &mem->chunk_va[gfn >> SVQ_CHUNK_PAGES_SHIFT];
    uint64_t first = gfn & ~(uint64_t)(SVQ_CHUNK_PAGES - 1);
    pthread_mutex_lock(&mem->lock);
    bool again = *chunk_va && !svq_frame_bit(mem->ram, gfn) && mem->retired_count < SVQ_CHUNK_RETRIES;
    if (!mem->fixed && !*chunk_va)
        admit_chunk(mem, first, chunk_va);
    else if (mem->fixed && (!*chunk_va || again)) {
        map_chunk(mem, first, chunk_va);
        view->maps++;
    }
    pthread_mutex_unlock(&mem->lock);
}

__attribute__((noinline)) void *svq_view_map(struct svq_view *view, uint64_t gfn)
{
    uint32_t i = gfn % SVQ_VIEW_SLOTS;
    if (view->slots[i].va && view->slots[i].gfn == gfn)
        return view->slots[i].va;
    if (view->slots[i].va) {
        svq_hv_unmap_foreign(view->mem->hv, view->slots[i].va, 1);
        view->slots[i].va = NULL;
        view->mapped--;
    }
    int err = 0;
    void *va;
    view->maps++;
    if (gfn >= view->mem->gfn_limit || svq_hv_map_foreign(view->mem->hv, view->mem->domid, &gfn, 1, 1, &err, &va) < 0)
        return NULL;
    if (err) {
        svq_hv_unmap_foreign(view->mem->hv, va, 1);
        return NULL;
    }
    view->slots[i].gfn = gfn;
    view->slots[i].va = va;
    view->mapped++;
    return va;
}

/* Maps the pages of [gpa, gpa + len), at most SVQ_VIEW_RUN of them, and clears those bytes. */
static bool clear_run(struct svq_view *view, uint64_t gpa, size_t len)
{
    uint64_t gfns[SVQ_VIEW_RUN];
    int errs[SVQ_VIEW_RUN] = { 0 };
    uint32_t pages = (uint32_t)svq_pages_touched(gpa, (uint32_t)len);
    void *va;
    bool all_ram = true;
    for (uint32_t i = 0; i < pages; i++)
        gfns[i] = (gpa >> SVQ_PAGE_SHIFT) + i;
    view->maps++;
    if (svq_hv_map_foreign(view->mem->hv, view->mem->domid, gfns, pages, 1, errs, &va) < 0)
        return false;
    for (uint32_t i = 0; i < pages; i++)
        all_ram = all_ram && errs[i] == 0;
    if (all_ram)
        memset((uint8_t *)va + (gpa & (SVQ_PAGE_SIZE - 1)), 0, len);
    svq_hv_unmap_foreign(view->mem->hv, va, pages);
    return all_ram;
}

bool svq_view_clear_remapped(struct svq_view *view, uint64_t gpa, size_t len)
{
    while (len) {
        size_t room = ((size_t)SVQ_VIEW_RUN << SVQ_PAGE_SHIFT) - (gpa & (SVQ_PAGE_SIZE - 1));
        size_t n = len < room ? len : room;
        if (!clear_run(view, gpa, n))
            return false;
        gpa += n;
        len -= n;
    }
    return true;
}

__attribute__((noinline)) void svq_view_unmap(struct svq_view *view)
{
    for (uint32_t i = 0; i < SVQ_VIEW_SLOTS && view->mapped; i++) {
        if (!view->slots[i].va)
            continue;
        svq_hv_unmap_foreign(view->mem->hv, view->slots[i].va, 1);
        view->slots[i].va = NULL;
        view->mapped--;
    }
}

__attribute__((noinline, cold)) bool svq_guestmem_is_ram(struct svq_view *view, uint64_t gpa, uint64_t len)
{
    uint64_t last = (gpa + len - 1) >> SVQ_PAGE_SHIFT;
    for (uint64_t gfn = gpa >> SVQ_PAGE_SHIFT; gfn <= last; gfn++)
        if (!svq_guestmem_is_plain_frame(view, gfn) && !svq_frame_bit(view->mem->ram, gfn))
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
