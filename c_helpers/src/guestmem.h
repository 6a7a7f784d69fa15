/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The frontend's memory as the mediator sees it: mapped lazily in chunks of 2 MiB; a frame that could not be mapped is
 * remembered as no RAM. Mapping all of it up front takes long and keeps pages from being ballooned out.
 *
 * Readers need no lock: a chunk's address is published once and stays until the guest is closed.
 */
#ifndef SVQ_GUESTMEM_H
#define SVQ_GUESTMEM_H

#include <pthread.h>

#include "barrier.h"
#include "check.h"
#include "layout.h"

enum {
    SVQ_CHUNK_PAGES_SHIFT = 9,
    SVQ_CHUNK_PAGES = 1 << SVQ_CHUNK_PAGES_SHIFT,
    SVQ_RING_RANGES_MAX = 3 * 64 * 16, /* parts of all rings of one guest */
};

struct svq_ring_range {
    uint64_t gfn;
    uint64_t pages;
};

struct svq_guestmem {
    struct svq_hv *hv;
    uint64_t gfn_limit;
    /* Three arrays over all frames below gfn_limit, in one mapping: address space only until touched. */
    uint64_t *plain;    /* a bit per frame: mapped RAM that may be granted. Nearly every question ends here */
    uint64_t *ram;      /* a bit per frame: mapped RAM, ring pages too */
    uint64_t *chunk_va; /* where each chunk is mapped; 0: not yet */
    size_t arrays_bytes;
    uint64_t chunk_count;
    uint16_t domid;
    uint32_t ring_range_count;
    struct svq_ring_range *ring_ranges;
    pthread_mutex_t lock; /* mapping a chunk, changing ring ranges */
};

int svq_guestmem_init(struct svq_guestmem *mem, struct svq_hv *hv, uint16_t domid, uint64_t gfn_limit);
void svq_guestmem_destroy(struct svq_guestmem *mem);

/*
 * Maps the chunk of gfn (which is below gfn_limit), or waits for the thread that is at it. Never fails: what cannot be
 * mapped is no RAM.
 */
void svq_guestmem_map_chunk(struct svq_guestmem *mem, uint64_t gfn);

static inline bool svq_frame_bit(const uint64_t *bits, uint64_t gfn)
{
    return (svq_acquire_u64(&bits[gfn / 64]) >> (gfn % 64)) & 1;
}

/* May this frame be granted? True at once for nearly all; else its chunk is mapped first, if it was not. */
static inline bool svq_guestmem_is_plain_frame(struct svq_guestmem *mem, uint64_t gfn)
{
    if (svq_likely(svq_frame_bit(mem->plain, gfn)))
        return true;
    svq_guestmem_map_chunk(mem, gfn);
    return svq_frame_bit(mem->plain, gfn);
}

/* Is every page of [gpa, gpa + len) RAM that may be granted? len > 0; the range must lie below gfn_limit. */
static inline bool svq_guestmem_is_plain(struct svq_guestmem *mem, uint64_t gpa, uint64_t len)
{
    uint64_t gfn = gpa >> SVQ_PAGE_SHIFT, last = (gpa + len - 1) >> SVQ_PAGE_SHIFT;
    while (svq_likely(svq_guestmem_is_plain_frame(mem, gfn)))
        if (gfn++ == last)
            return true;
    return false;
}

/* Is every page of it RAM, whether a ring lies there or not? */
bool svq_guestmem_is_ram(struct svq_guestmem *mem, uint64_t gpa, uint64_t len);

/* The part of [gpa, gpa + len) that is contiguous in our address space. Its chunk is mapped: it was asked about before. */
static inline uint8_t *svq_guestmem_span(struct svq_guestmem *mem, uint64_t gpa, size_t len, size_t *span_len)
{
    uint64_t chunk_bytes = (uint64_t)SVQ_CHUNK_PAGES << SVQ_PAGE_SHIFT, offset = gpa & (chunk_bytes - 1);
    uint64_t left = chunk_bytes - offset;
    *span_len = len < left ? len : (size_t)left;
    return (uint8_t *)(uintptr_t)svq_load_u64(&mem->chunk_va[gpa / chunk_bytes]) + offset;
}

/* memcpy, with the two lengths that every virtio-blk request has (header, status) spelt out. */
static inline void svq_copy(void *to, const void *from, size_t len)
{
    if (len == 16)
        __builtin_memcpy(to, from, 16);
    else if (len == 1)
        __builtin_memcpy(to, from, 1);
    else
        __builtin_memcpy(to, from, len);
}

/* Copies between the guest and us; the range has been checked with svq_guestmem_is_ram. */
static inline void svq_guestmem_read(struct svq_guestmem *mem, uint64_t gpa, void *to, size_t len)
{
    uint8_t *dst = to;
    for (size_t n; len; len -= n, gpa += n, dst += n) {
        const uint8_t *src = svq_guestmem_span(mem, gpa, len, &n);
        svq_copy(dst, src, n);
        svq_compiler_barrier();
    }
}

static inline void svq_guestmem_write(struct svq_guestmem *mem, uint64_t gpa, const void *from, size_t len)
{
    const uint8_t *src = from;
    for (size_t n; len; len -= n, gpa += n, src += n) {
        uint8_t *dst = svq_guestmem_span(mem, gpa, len, &n);
        svq_copy(dst, src, n);
    }
}

/* Pages that hold a ring are never granted to anyone; -ENOSPC when the guest has too many rings. */
int svq_guestmem_add_ring(struct svq_guestmem *mem, uint64_t gpa, uint64_t len);
void svq_guestmem_remove_ring(struct svq_guestmem *mem, uint64_t gpa, uint64_t len);

#endif
