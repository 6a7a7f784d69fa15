/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "drv_mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_gfn(const void *a, const void *b)
{
    const struct svq_drv_gfn *x = a;
    const struct svq_drv_gfn *y = b;
    return (x->gfn > y->gfn) - (x->gfn < y->gfn);
}

/* Only scattered frames need the sorted copy. */
static int index_frames(struct svq_drv_mem *mem)
{
    bool linear = true;
    for (size_t i = 1; i < mem->pages && linear; i++)
        linear = mem->gfns[i] == mem->gfns[0] + i;
    if (linear)
        return 0;
    mem->sorted = calloc(mem->pages, sizeof *mem->sorted);
    if (!mem->sorted)
        return -ENOMEM;
    for (size_t i = 0; i < mem->pages; i++)
        mem->sorted[i] = (struct svq_drv_gfn){ .gfn = mem->gfns[i], .page = i };
    qsort(mem->sorted, mem->pages, sizeof *mem->sorted, by_gfn);
    return 0;
}

int svq_drv_mem_open(struct svq_drv_mem *mem, struct svq_hv *hv, uint64_t first_gfn, size_t pages)
{
    void *va = NULL;
    *mem = (struct svq_drv_mem){ .hv = hv, .pages = pages };
    mem->gfns = calloc(pages, sizeof *mem->gfns);
    mem->taken = calloc(pages, sizeof *mem->taken);
    int rc = mem->gfns && mem->taken ? svq_hv_own_pages(hv, first_gfn, pages, mem->gfns, &va) : -ENOMEM;
    if (!rc) {
        mem->va = va;
        rc = index_frames(mem);
    }
    if (rc)
        svq_drv_mem_close(mem);
    return rc;
}

void svq_drv_mem_close(struct svq_drv_mem *mem)
{
    if (mem->va)
        svq_hv_release_own_pages(mem->hv, mem->va, mem->pages);
    free(mem->gfns);
    free(mem->sorted);
    free(mem->taken);
    *mem = (struct svq_drv_mem){ 0 };
}

long svq_drv_mem_take(struct svq_drv_mem *mem, size_t count)
{
    size_t run = 0;
    while (mem->all_taken < mem->pages && mem->taken[mem->all_taken])
        mem->all_taken++;
    for (size_t i = mem->all_taken; i < mem->pages; i++) {
        bool joins = run > 0 && mem->gfns[i] == mem->gfns[i - 1] + 1;
        run = mem->taken[i] ? 0 : (joins ? run + 1 : 1);
        if (run == count) {
            size_t first = i + 1 - count;
            memset(mem->taken + first, true, count);
            return (long)first;
        }
    }
    return -ENOSPC;
}

void svq_drv_mem_largest(const struct svq_drv_mem *mem, size_t *first, size_t *count)
{
    size_t run = 0;
    *first = 0;
    *count = 0;
    for (size_t i = 0; i < mem->pages; i++) {
        run = mem->taken[i] ? 0 : run + 1;
        if (run > *count) {
            *count = run;
            *first = i + 1 - run;
        }
    }
}

int64_t svq_drv_mem_offset(const struct svq_drv_mem *mem, uint64_t gpa, size_t len)
{
    uint64_t gfn = gpa >> SVQ_PAGE_SHIFT;
    size_t page;
    if (mem->sorted) {
        struct svq_drv_gfn key = { .gfn = gfn };
        const struct svq_drv_gfn *found = bsearch(&key, mem->sorted, mem->pages, sizeof key, by_gfn);
        if (!found)
            return -EFAULT;
        page = found->page;
    } else {
        if (gfn < mem->gfns[0] || gfn - mem->gfns[0] >= mem->pages)
            return -EFAULT;
        page = gfn - mem->gfns[0];
    }
    size_t offset = page * SVQ_PAGE_SIZE + (gpa & (SVQ_PAGE_SIZE - 1));
    return len <= mem->pages * SVQ_PAGE_SIZE - offset ? (int64_t)offset : -EFAULT;
}

uint32_t svq_drv_mem_straight(const struct svq_drv_mem *mem, uint64_t offset, uint32_t len)
{
    if (!mem->sorted)
        return len;
    size_t page = offset >> SVQ_PAGE_SHIFT;
    uint64_t straight = SVQ_PAGE_SIZE - (offset & (SVQ_PAGE_SIZE - 1));
    while (straight < len && mem->gfns[page + 1] == mem->gfns[page] + 1) {
        straight += SVQ_PAGE_SIZE;
        page++;
    }
    return straight < len ? (uint32_t)straight : len;
}
