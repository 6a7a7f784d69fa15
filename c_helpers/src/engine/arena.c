/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "arena.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vring.h"

/* Pages that one call shared. */
struct block {
    struct block *next;
    void *va;
    uint32_t pages;
    bool writable, used;
    uint32_t refs[];
};

struct svq_arena {
    struct svq_hv *hv;
    uint16_t backend_domid;
    struct block *blocks;
};

int svq_arena_open(struct svq_hv *hv, uint16_t backend_domid, struct svq_arena **out)
{
    struct svq_arena *arena = calloc(1, sizeof *arena);
    if (!arena)
        return -ENOMEM;
    arena->hv = hv;
    arena->backend_domid = backend_domid;
    *out = arena;
    return 0;
}

void svq_arena_close(struct svq_arena *arena)
{
    while (arena && arena->blocks) {
        struct block *block = arena->blocks;
        arena->blocks = block->next;
        svq_hv_unshare_pages(arena->hv, block->va, block->pages); /* the kernel frees mapped pages when it can */
        free(block);
    }
    free(arena);
}

/*
 * A free block of exactly that size. Not a larger one: the next connection, which wants the larger one, would have to
 * share another. So for each size of its rings a device has at most what it needs at once; the same goes for its large
 * pools, which have one size each.
 */
static struct block *find(const struct svq_arena *arena, uint32_t pages, bool writable)
{
    struct block *block = arena->blocks;
    while (block && (block->used || block->writable != writable || block->pages != pages))
        block = block->next;
    return block;
}

static int add(struct svq_arena *arena, uint32_t pages, bool writable, struct block **out)
{
    struct block *block = calloc(1, sizeof *block + pages * sizeof *block->refs);
    if (!block)
        return -ENOMEM;
    int rc = svq_hv_share_pages(arena->hv, arena->backend_domid, pages, writable, block->refs, &block->va);
    if (rc < 0) {
        free(block);
        return rc;
    }
    block->pages = pages;
    block->writable = writable;
    block->next = arena->blocks;
    *out = arena->blocks = block;
    return 0;
}

int svq_arena_take(struct svq_arena *arena, uint32_t pages, int backend_may_write, uint32_t *refs, void **va)
{
    struct block *block = find(arena, pages, backend_may_write);
    int rc = block ? 0 : add(arena, pages, backend_may_write, &block);
    if (rc < 0)
        return rc;
    block->used = true;
    memset(block->va, 0, (size_t)pages << SVQ_PAGE_SHIFT); /* the backend may have written here since svq_arena_give */
    memcpy(refs, block->refs, pages * sizeof *refs);
    *va = block->va;
    return 0;
}

void svq_arena_give(struct svq_arena *arena, void *va)
{
    for (struct block *block = arena->blocks; va && block; block = block->next) {
        if (block->va != va)
            continue;
        memset(va, 0, (size_t)block->pages << SVQ_PAGE_SHIFT); /* leave nothing of the frontend's in sight */
        block->used = false;
        return;
    }
}
