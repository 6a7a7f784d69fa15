/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver's own memory: pages that are contiguous in our address space, while their guest frames may be scattered
 * (xen) or consecutive too (sim).
 */
#ifndef SVQ_DRV_MEM_H
#define SVQ_DRV_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

struct svq_drv_gfn {
    uint64_t gfn;
    size_t page;
};

struct svq_drv_mem {
    struct svq_hv *hv;
    uint8_t *va;
    size_t pages;
    uint64_t *gfns;             /* by page */
    struct svq_drv_gfn *sorted; /* by gfn; NULL if the gfns are consecutive */
    bool *taken;                /* by page: rings, tables, slabs */
    size_t all_taken;           /* all pages below this one are taken */
};

int svq_drv_mem_open(struct svq_drv_mem *mem, struct svq_hv *hv, uint64_t first_gfn, size_t pages);
void svq_drv_mem_close(struct svq_drv_mem *mem);

/* Takes `count` pages that are contiguous in guest physical memory too. Returns the first page, or -ENOSPC. */
long svq_drv_mem_take(struct svq_drv_mem *mem, size_t count);

/* The largest run of pages that nobody has taken. */
void svq_drv_mem_largest(const struct svq_drv_mem *mem, size_t *first, size_t *count);

/* Byte offset of a guest physical address in our memory, if all `len` bytes from there are inside; else -EFAULT. */
int64_t svq_drv_mem_offset(const struct svq_drv_mem *mem, uint64_t gpa, size_t len);

/* Guest physical address of a byte offset, which must be inside. */
static inline uint64_t svq_drv_mem_gpa(const struct svq_drv_mem *mem, uint64_t offset)
{
    return mem->gfns[offset >> SVQ_PAGE_SHIFT] << SVQ_PAGE_SHIFT | (offset & (SVQ_PAGE_SIZE - 1));
}

/* How many of the `len` bytes from `offset` on are contiguous in guest physical memory. */
uint32_t svq_drv_mem_straight(const struct svq_drv_mem *mem, uint64_t offset, uint32_t len);

#endif
