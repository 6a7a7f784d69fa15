/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "window.h"

#include <errno.h>
#include <string.h>

/* Frames that a sweep maps at once. */
enum { SWEEP_FRAMES = 1024 };

/* Maps the frames in which the entries lie, and the frame before them if it is the guard. */
int svq_window_init(struct svq_window *window, struct svq_hv *hv, uint16_t domid,
                    const struct svq_window_config *config)
{
    memset(window, 0, sizeof *window);
    window->hv = hv;
    window->config = *config;
    window->first_gref = config->first_gref;
    window->count = config->count;
    window->direct = config->direct;
    window->alone = !config->guarded; /* another mediator may have taken the same upper part of the table */
    if (config->count == 0)
        return 0;
    if (config->first_gref > UINT32_MAX - config->count)
        return -EINVAL;
    uint32_t guard = config->guarded && config->first_gref >= SVQ_GRANTS_PER_FRAME ? SVQ_GRANTS_PER_FRAME : 0;
    uint32_t first = config->first_gref - guard, frame = first / SVQ_GRANTS_PER_FRAME;
    uint32_t last_frame = (config->first_gref + config->count - 1) / SVQ_GRANTS_PER_FRAME;
    void *va;
    int rc = svq_hv_map_grant_table(hv, domid, frame, last_frame - frame + 1, &va, &window->mapping);
    if (rc < 0)
        return rc;
    uint64_t *entries = va;
    window->entries = entries + (config->first_gref - frame * SVQ_GRANTS_PER_FRAME);
    window->guard = guard ? window->entries - guard : NULL;
    window->guard_count = guard;
    return 0;
}

void svq_window_destroy(struct svq_window *window)
{
    if (window->mapping)
        svq_hv_unmap_grant_table(window->hv, window->mapping);
    memset(window, 0, sizeof *window);
}

uint32_t svq_window_in_use(const struct svq_window *window, uint32_t mark)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < window->count; i++)
        n += svq_entry_mark(svq_load_u64(&window->entries[i])) == mark;
    return n;
}

__attribute__((noinline, cold)) void svq_window_look(struct svq_window *window)
{
    for (uint32_t i = 0; i < window->guard_count; i++)
        if (svq_load_u64(&window->guard[i]))
            __atomic_store_n(&window->lost, 1, __ATOMIC_RELAXED);
}

bool svq_window_find(const struct svq_window *window, uint32_t *cursor, uint64_t *taken, uint32_t *gref)
{
    uint32_t i = *cursor < window->count ? *cursor : 0, busy = 0, tries = window->count;
    tries = tries < SVQ_WINDOW_TRIES ? tries : SVQ_WINDOW_TRIES;
    while (busy < tries && svq_load_u64(&window->entries[i]) != 0) {
        busy++;
        i = i + 1 < window->count ? i + 1 : 0;
    }
    if (busy)
        svq_count(taken, busy);
    *cursor = i;
    *gref = window->first_gref + i;
    return busy < tries;
}

static void sweep_entries(uint64_t *entries, uint32_t count, const struct svq_marks *marks,
                          struct svq_sweep_result *out)
{
    for (uint32_t i = 0; i < count; i++) {
        if (svq_likely(svq_load_u64(&entries[i]) == 0))
            continue;
        enum svq_end outcome = svq_entry_sweep(&entries[i], marks);
        out->freed += outcome == SVQ_ENDED;
        if (outcome == SVQ_HELD || outcome == SVQ_FOUGHT) {
            out->held++;
            out->holder = (uint16_t)(svq_load_u64(&entries[i]) >> 16);
        }
    }
}

int svq_sweep(struct svq_hv *hv, uint16_t domid, const uint8_t *marks, size_t count, struct svq_sweep_result *out)
{
    struct svq_marks set = { { 0, 0 } };
    uint32_t frames;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        if (marks[i] == 0 || marks[i] > SVQ_MARK_MAX)
            return -EINVAL;
        set.bits[marks[i] / 64] |= 1ULL << (marks[i] % 64);
    }
    int rc = svq_hv_grant_table_frames(hv, domid, &frames);
    for (uint32_t first = 0; rc == 0 && first < frames; first += SWEEP_FRAMES) {
        uint32_t n = frames - first < SWEEP_FRAMES ? frames - first : SWEEP_FRAMES;
        void *va, *mapping;
        rc = svq_hv_map_grant_table(hv, domid, first, n, &va, &mapping);
        if (rc == 0) {
            sweep_entries(va, n * SVQ_GRANTS_PER_FRAME, &set, out);
            svq_hv_unmap_grant_table(hv, mapping);
        }
    }
    return rc;
}
