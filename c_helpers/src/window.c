/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SWEEP_TRIES = 64 };

int svq_window_init(struct svq_window *window, struct svq_hv *hv, uint16_t domid, uint32_t first_frame,
                    uint32_t frames, bool direct)
{
    memset(window, 0, sizeof *window);
    void *va;
    int rc = svq_hv_map_grant_table(hv, domid, first_frame, frames, &va, &window->mapping);
    if (rc < 0)
        return rc;
    window->hv = hv;
    window->entries = va;
    window->first_gref = first_frame * SVQ_GRANTS_PER_FRAME;
    window->count = frames * SVQ_GRANTS_PER_FRAME;
    window->direct = direct;
    window->exclusive = true;
    window->range_words = window->count / 64;
    window->range_free = calloc((window->range_words + 63) / 64, sizeof *window->range_free);
    if (!window->range_free) {
        svq_window_destroy(window);
        return -ENOMEM;
    }
    for (uint32_t w = 0; w < window->range_words; w++)
        window->range_free[w / 64] |= 1ULL << (w % 64);
    return 0;
}

void svq_window_destroy(struct svq_window *window)
{
    if (window->entries)
        svq_hv_unmap_grant_table(window->hv, window->mapping);
    free(window->range_free);
    memset(window, 0, sizeof *window);
}

uint32_t svq_window_in_use(const struct svq_window *window)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < window->count; i++)
        n += svq_load_u64(&window->entries[i]) != 0;
    return n;
}

/* Whether a mediator may have written the entry: a whole-page grant, or one whose type svq_window_sweep has cleared. */
static bool left_by_mediator(const struct svq_window *window, uint32_t index, uint64_t entry)
{
    const uint16_t flags = (uint16_t)entry, ours = GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING | GTF_WRITING;
    return entry && !(flags & ~ours) && (!window->direct || entry >> 32 == index);
}

/* SVQ_REVOKE_TAMPERED: it is not a mediator's. The grantee can map and unmap under our hands, hence the tries. */
static enum svq_revoke sweep_entry(struct svq_window *window, uint32_t index)
{
    uint64_t entry = svq_load_u64(&window->entries[index]);
    for (int tries = 0; tries < SWEEP_TRIES; tries++) {
        if (!left_by_mediator(window, index, entry))
            return SVQ_REVOKE_TAMPERED;
        uint64_t left = entry & (GTF_READING | GTF_WRITING) ? entry & ~(uint64_t)GTF_TYPE_MASK : 0;
        if (svq_cas_u64(&window->entries[index], &entry, left))
            return left ? SVQ_REVOKE_BUSY : SVQ_REVOKED;
    }
    return SVQ_REVOKE_BUSY;
}

uint32_t svq_window_sweep(struct svq_window *window, uint32_t *mapped)
{
    uint32_t revoked = 0;
    *mapped = 0;
    for (uint32_t i = 0; i < window->count; i++) {
        enum svq_revoke outcome = sweep_entry(window, i);
        revoked += outcome == SVQ_REVOKED;
        *mapped += outcome == SVQ_REVOKE_BUSY;
    }
    return revoked;
}

static bool word_free(const struct svq_window *window, uint32_t w)
{
    return (window->range_free[w / 64] >> (w % 64)) & 1;
}

int svq_window_reserve(struct svq_window *window, uint32_t grefs, struct svq_window_range *range)
{
    uint32_t words = (grefs + 63) / 64, run = 0;
    for (uint32_t w = 0; w < window->range_words; w++) {
        run = word_free(window, w) ? run + 1 : 0;
        if (run < words)
            continue;
        range->used = calloc(words, sizeof *range->used);
        if (!range->used)
            return -ENOMEM;
        range->first_word = w + 1 - words;
        range->words = words;
        range->hint = 0;
        for (uint32_t i = range->first_word; i <= w; i++)
            window->range_free[i / 64] &= ~(1ULL << (i % 64));
        return 0;
    }
    return -ENOSPC;
}

void svq_window_unreserve(struct svq_window *window, struct svq_window_range *range)
{
    /* Entries in quarantine are not 0, so whoever gets this range next passes them over. */
    for (uint32_t i = range->first_word; range->used && i < range->first_word + range->words; i++)
        window->range_free[i / 64] |= 1ULL << (i % 64);
    free(range->used);
    memset(range, 0, sizeof *range);
}

__attribute__((noinline)) struct svq_grant_run svq_window_take_run(struct svq_window *window, struct svq_window_range *range, uint16_t domid,
                                         uint64_t gfn, uint32_t pages, bool backend_may_write, uint64_t *taken)
{
    struct svq_grant_run run = { 0, 0 };
    uint32_t w = range->hint;
    for (uint32_t searched = 0; searched <= range->words && run.pages < pages; searched++) {
        for (uint64_t free_bits = ~range->used[w]; free_bits && run.pages < pages; free_bits &= free_bits - 1) {
            uint32_t i = (uint32_t)__builtin_ctzll(free_bits);
            uint32_t gref = window->first_gref + (range->first_word + w) * 64 + i;
            if (run.pages && gref != run.gref + run.pages)
                return run;
            range->used[w] |= 1ULL << i;
            range->hint = w;
            if (!svq_window_take(window, gref, domid, gfn + run.pages, backend_may_write)) {
                svq_count(taken, 1); /* not ours: its bit stays set, so that we meet it once only */
                if (run.pages)
                    return run;
                continue;
            }
            if (!run.pages)
                run.gref = gref;
            run.pages++;
        }
        if (run.pages < pages)
            w = w + 1 < range->words ? w + 1 : 0;
    }
    return run;
}
