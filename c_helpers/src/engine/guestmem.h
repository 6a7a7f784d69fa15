/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frontend's memory as the mediator sees it. Two ways (enum svq_memory):
 *
 * fixed  Mapped lazily in chunks of 2 MiB. Mapping all of it up front takes long and keeps the guest from ballooning
 *        pages out. Readers need no lock: once published, a chunk's address stays mapped until the guest is closed.
 * remap  A frame that the guest balloons out and in again is another page, and a mapping keeps showing the old one
 *        (tried on Xen 4.17). But no page can be ballooned while it belongs to a request, so a mapping made during a
 *        pass is right until the end of that pass: each queue's view keeps its mappings that long.
 */
#ifndef SVQ_GUESTMEM_H
#define SVQ_GUESTMEM_H

#include <pthread.h>

#include "barrier.h"
#include "check.h"
#include "vring.h"

enum {
    SVQ_CHUNK_PAGES_SHIFT = 9,
    SVQ_CHUNK_PAGES = 1 << SVQ_CHUNK_PAGES_SHIFT,
    SVQ_RING_RANGES_MAX = 3 * 64 * 16, /* areas of all rings of one guest */
    SVQ_VIEW_SLOTS = 64,               /* remap: pages that a queue keeps mapped during a pass */
    SVQ_VIEW_RUN = 64,                 /* remap: pages mapped by one call to be cleared */
    SVQ_CHUNK_RETRIES = 64, /* fixed: how often we map a guest's chunks again, for frames that were not RAM */
};

struct svq_ring_range {
    uint64_t gfn;
    uint64_t pages;
};

struct svq_guestmem {
    struct svq_hv *hv;
    uint64_t gfn_limit;
    bool fixed;
    /* Three arrays over all frames below gfn_limit, in one mapping: only address space until touched. */
    uint64_t *plain;    /* a bit per frame: mapped RAM that may be granted. This settles nearly every question */
    uint64_t *ram;      /* a bit per frame: mapped RAM, including ring pages */
    uint64_t *chunk_va; /* where each chunk is mapped; 0: not yet */
    size_t arrays_bytes;
    uint64_t chunk_count;
    uint16_t domid;
    uint32_t ring_range_count;
    struct svq_ring_range *ring_ranges;
    struct {
        void *va;
        size_t pages;
    } retired[SVQ_CHUNK_RETRIES]; /* replaced mappings, where somebody may still be reading */
    uint32_t retired_count;
    pthread_mutex_t lock; /* to map a chunk or change ring ranges */
};

/* One queue's access to the guest's memory. svq_view_end, at the end of each pass, lets go of what `remap` mapped. */
struct svq_view {
    struct svq_guestmem *mem;
    struct {
        uint64_t gfn;
        void *va;
    } slots[SVQ_VIEW_SLOTS]; /* by gfn modulo their number */
    uint32_t mapped;         /* slots in use */
    uint32_t maps;           /* calls that mapped something since a caller last set it to 0 */
};

int svq_guestmem_init(struct svq_guestmem *mem, struct svq_hv *hv, uint16_t domid, uint64_t gfn_limit, bool fixed);
void svq_guestmem_destroy(struct svq_guestmem *mem);

/*
 * Makes the bits of gfn's chunk true (gfn is below gfn_limit). fixed: maps the chunk, or waits for the thread that is
 * mapping it, or maps it again if gfn was not RAM before. Never fails: what cannot be mapped is not RAM for now.
 */
struct svq_view;
void svq_guestmem_map_chunk(struct svq_view *view, uint64_t gfn);

static inline bool svq_frame_bit(const uint64_t *bits, uint64_t gfn)
{
    return (svq_acquire_u64(&bits[gfn / 64]) >> (gfn % 64)) & 1;
}

/* May this frame be granted? Nearly always one load; otherwise maps its chunk first, if necessary. */
static inline bool svq_guestmem_is_plain_frame(struct svq_view *view, uint64_t gfn)
{
    if (svq_likely(svq_frame_bit(view->mem->plain, gfn)))
        return true;
    svq_guestmem_map_chunk(view, gfn);
    return svq_frame_bit(view->mem->plain, gfn);
}

/* Is every page of [gpa, gpa + len) RAM that may be granted? len > 0; the range must lie below gfn_limit. */
static inline bool svq_guestmem_is_plain(struct svq_view *view, uint64_t gpa, uint64_t len)
{
    uint64_t gfn = gpa >> SVQ_PAGE_SHIFT, last = (gpa + len - 1) >> SVQ_PAGE_SHIFT;
    while (svq_likely(svq_guestmem_is_plain_frame(view, gfn)))
        if (gfn++ == last)
            return true;
    return false;
}

/* Is every page of the range RAM, whether or not a ring lies there? */
bool svq_guestmem_is_ram(struct svq_view *view, uint64_t gpa, uint64_t len);

/* remap: the address of the page of gfn, which this maps if necessary. NULL: not RAM. */
void *svq_view_map(struct svq_view *view, uint64_t gfn);
void svq_view_unmap(struct svq_view *view);

/* Call it at the end of a pass. */
static inline void svq_view_end(struct svq_view *view)
{
    if (svq_unlikely(view->mapped))
        svq_view_unmap(view);
}

/*
 * The part of [gpa, gpa + len) that is contiguous in our address space, valid until the next call. The caller has
 * checked the range with svq_guestmem_is_ram. NULL: it is not RAM after all.
 */
static inline uint8_t *svq_view_span(struct svq_view *view, uint64_t gpa, size_t len, size_t *span_len)
{
    struct svq_guestmem *mem = view->mem;
    uint64_t unit = mem->fixed ? (uint64_t)SVQ_CHUNK_PAGES << SVQ_PAGE_SHIFT : SVQ_PAGE_SIZE;
    uint64_t offset = gpa & (unit - 1), left = unit - offset;
    *span_len = len < left ? len : (size_t)left;
    if (svq_likely(mem->fixed))
        return (uint8_t *)(uintptr_t)svq_load_u64(&mem->chunk_va[gpa / unit]) + offset;
    uint8_t *page = svq_view_map(view, gpa >> SVQ_PAGE_SHIFT);
    return page ? page + offset : NULL;
}

/* memcpy, with the two lengths that every virtio-blk request has (header, status) as constants. */
static inline void svq_copy(void *to, const void *from, size_t len)
{
    if (len == 16)
        __builtin_memcpy(to, from, 16);
    else if (len == 1)
        __builtin_memcpy(to, from, 1);
    else
        __builtin_memcpy(to, from, len);
}

/*
 * Copies between the guest and us; the caller has checked the range with svq_guestmem_is_ram. False: it is not RAM
 * after all.
 */
static inline bool svq_view_read(struct svq_view *view, uint64_t gpa, void *to, size_t len)
{
    uint8_t *dst = to;
    for (size_t n; len; len -= n, gpa += n, dst += n) {
        const uint8_t *src = svq_view_span(view, gpa, len, &n);
        if (svq_unlikely(!src))
            return false;
        svq_copy(dst, src, n);
        svq_compiler_barrier();
    }
    return true;
}

static inline bool svq_view_write(struct svq_view *view, uint64_t gpa, const void *from, size_t len)
{
    const uint8_t *src = from;
    for (size_t n; len; len -= n, gpa += n, src += n) {
        uint8_t *dst = svq_view_span(view, gpa, len, &n);
        if (svq_unlikely(!dst))
            return false;
        svq_copy(dst, src, n);
    }
    return true;
}

/* Writes zeros. False: not all of it is RAM. */
bool svq_view_clear_remapped(struct svq_view *view, uint64_t gpa, size_t len);
static inline bool svq_view_clear(struct svq_view *view, uint64_t gpa, size_t len)
{
    if (svq_unlikely(!view->mem->fixed))
        return svq_view_clear_remapped(view, gpa, len);
    for (size_t n; len; len -= n, gpa += n) {
        uint8_t *to = svq_view_span(view, gpa, len, &n);
        __builtin_memset(to, 0, n);
    }
    return true;
}

/* Pages that hold a ring are never granted to anyone. -ENOSPC: the guest has too many rings. */
int svq_guestmem_add_ring(struct svq_guestmem *mem, uint64_t gpa, uint64_t len);
void svq_guestmem_remove_ring(struct svq_guestmem *mem, uint64_t gpa, uint64_t len);

#endif
