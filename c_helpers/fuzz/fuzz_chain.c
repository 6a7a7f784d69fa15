/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the input is a small program of what both peers write into memory, passes of the engine, the life
 * of the devices, and what the backend maps. The whole process has one machine, and one guest for each kind of memory
 * access; each input gets devices of its own.
 *
 * Byte 0: bits 0-1 placement of the first device, 2 dynamic window, 3 indirect negotiated, 4 copy threshold, 5 clear,
 * 6 EVENT_IDX of the driver, 7 of the backend. Byte 1: bits 0-1 placement of the second device, 2 its window is the
 * other kind, 3 it is another mediator's, 4 the guest balloons, 5 the window is guarded. Then steps, see `step`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "barrier.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS_MAX = 256, DYNAMIC_GREFS = 40 };

struct input {
    const uint8_t *at, *end;
};

static uint8_t u8(struct input *in) { return in->at < in->end ? *in->at++ : 0; }
static uint16_t u16(struct input *in) { return (uint16_t)(u8(in) | u8(in) << 8); }
static uint32_t u32(struct input *in) { return u16(in) | (uint32_t)u16(in) << 16; }

static uint64_t address(struct input *in)
{
    uint8_t kind = u8(in);
    uint64_t offset = u16(in);
    switch (kind & 7) {
    case 0: return rig_gpa(RIG_RING_GFN) + offset % (3 * SVQ_PAGE_SIZE);   /* a ring page */
    case 1: return rig_gpa(FUZZ_HOLE) - 16 + offset % 32;                  /* into the hole */
    case 2: return rig_gpa(FUZZ_RAM) - 16 + offset % 32;                   /* across the end */
    case 3: return (uint64_t)0 - offset;                                   /* about to wrap */
    case 4: return rig_gpa(RIG_TABLE_GFN) + offset % (2 * SVQ_PAGE_SIZE);  /* the indirect tables */
    case 5: return rig_gpa(FUZZ_DATA_GFN + (kind >> 3) % 8);               /* a whole page */
    default: return rig_gpa(FUZZ_DATA_GFN) + offset % (8 * SVQ_PAGE_SIZE); /* data */
    }
}

static uint32_t length(struct input *in)
{
    uint8_t kind = u8(in);
    /* clang-format off */
    static const uint32_t edges[] = {
        0, 1, 15, 16, 63, 64, 65, 512, SVQ_PAGE_SIZE - 1, SVQ_PAGE_SIZE, SVQ_PAGE_SIZE + 1,
        2 * SVQ_PAGE_SIZE - 1, 2 * SVQ_PAGE_SIZE + 1, 7 * SVQ_PAGE_SIZE, UINT32_MAX, 0x80000000u,
    };
    /* clang-format on */
    switch (kind & 3) {
    case 0: return edges[(kind >> 2) & 15];
    case 1: return ((kind >> 2) + 1u) % 10 * 16; /* an indirect table */
    case 2: return ((kind >> 2) & 7) * SVQ_PAGE_SIZE;
    default: return u16(in) & 0x7fff;
    }
}

static struct vring_desc descriptor(struct input *in)
{
    struct vring_desc desc = { .addr = address(in), .len = length(in), .flags = u8(in) & 15 };
    uint8_t next = u8(in);
    desc.next = next < 240 ? next % (FUZZ_SIZE + 1) : (uint16_t)(next << 8);
    return desc;
}

/* --- the steps -------------------------------------------------------------------------------------------------- */
static void write_table_entry(struct fuzz *f, struct input *in)
{
    uint8_t where = u8(in);
    struct vring_desc desc = descriptor(in);
    memcpy(f->rig->ram + rig_gpa(RIG_TABLE_GFN + where % FUZZ_TABLES) + (where >> 1) % 10 * 16u, &desc, sizeof desc);
}

/* New contents, while all memory is the driver's. */
static void fill(struct fuzz *f, uint8_t seed)
{
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        for (unsigned head = 0; head < FUZZ_SIZE; head++)
            if (f->lane[l].chain[head].alive)
                return;
    for (uint32_t i = 0; i < FUZZ_DATA_PAGES * SVQ_PAGE_SIZE; i += sizeof(uint32_t)) {
        uint32_t word = (i + seed) * 2654435761u | 1;
        memcpy(f->rig->ram + rig_gpa(FUZZ_DATA_GFN) + i, &word, sizeof word);
    }
}

static void tamper(struct fuzz *f, struct input *in)
{
    uint32_t i = (f->device[0].config.window.direct ? FUZZ_DATA_GFN : 0u) + u8(in) % 16;
    uint64_t entry = svq_grant_entry(u8(in), u8(in) % 16, FUZZ_DATA_GFN + u8(in) % 16);
    f->tampered = true;
    svq_store_u64(&f->entries[i], entry);
}

static struct fuzz_lane *select_lane(struct fuzz *f, unsigned which)
{
    struct fuzz_lane *lane = &f->lane[which % FUZZ_LANES];
    if (lane->device->life == FUZZ_CLOSED && !lane->q->desc)
        fuzz_open(f, lane->device); /* the second device, when it is first needed */
    return lane;
}

static void write_index(struct fuzz_lane *lane, uint16_t *index, uint16_t value)
{
    lane->wild = true;
    svq_release_u16(index, value);
}

static void write_driver(struct fuzz *f, struct fuzz_lane *lane, uint8_t what, struct input *in)
{
    unsigned n = what >> 5;
    switch (what & 31) {
    case 2: write_table_entry(f, in); break;
    case 3:
    case 4: fuzz_offer(lane, (uint16_t)n); break;
    case 5: fuzz_offer(lane, u8(in) % 16); break; /* heads 8 to 15 do not exist */
    case 6: write_index(lane, &lane->q->avail->idx, u16(in)); break;
    case 7: fill(f, u8(in)); break;
    default: lane->q->desc[n] = descriptor(in); break;
    }
}

static void write_backend(struct fuzz *f, struct fuzz_lane *lane, uint8_t what, struct input *in)
{
    unsigned n = what >> 5;
    switch (what & 31) {
    case 12:
        lane->wild = true; /* it may have lied about a chain that it has already answered, or has not seen */
        fuzz_give(lane, n < FUZZ_SIZE - 1 ? n : u32(in), u32(in) >> (what >> 3));
        break;
    case 13:
        if (lane->device->life != FUZZ_CLOSED)
            write_index(lane, &lane->q->shadow_used->idx, u16(in));
        break;
    case 17: fuzz_hold(f, u8(in), n & 1); break;
    case 18: fuzz_hold_again(f, n >> 1, n & 1); break;
    case 19: fuzz_let_go(f, n); break;
    case 20: fuzz_scribble(f, lane, u8(in)); break;
    default: {
        uint16_t len = u16(in);
        fuzz_answer(f, lane, len, n & 1 ? len : u16(in), u8(in));
        break;
    }
    }
}

static void step(struct fuzz *f, struct fuzz_lane **lane, struct input *in)
{
    uint8_t what = u8(in);
    unsigned n = what >> 5;
    switch (what & 31) {
    case 0 ... 7: write_driver(f, *lane, what, in); break;
    case 8 ... 9: fuzz_forward(f, *lane, n ? n : FUZZ_SIZE); break;
    case 10 ... 13: write_backend(f, *lane, what, in); break;
    case 14 ... 15: fuzz_complete(f, *lane); break;
    case 16: *lane = select_lane(f, n); break;
    case 17 ... 20: write_backend(f, *lane, what, in); break;
    case 21: fuzz_reset(f, *lane, n & 1 ? FUZZ_SIZE / 2 : FUZZ_SIZE); break;
    case 22 ... 23: fuzz_stop(f, (*lane)->device); break;
    case 24: fuzz_close(f, (*lane)->device); break;
    case 25: fuzz_crash(f, (*lane)->device); break;
    case 26 ... 27: fuzz_sweep(f, (*lane)->device); break;
    case 28 ... 29: fuzz_sleep(*lane, n); break;
    default: tamper(f, in); break;
    }
    fuzz_check_books(f);
}

/* --- one set of devices for each input ------------------------------------------------------------------------ */
static struct rig rigs[2];
static struct svq_guest *others[2];
static uint64_t *entries[2];

static void close_rigs(void)
{
    for (int i = 0; i < 2; i++)
        if (rigs[i].machine) {
            svq_guest_close(others[i]);
            rig_close(&rigs[i]);
        }
}

static void open_rig(int balloons)
{
    struct rig *rig = &rigs[balloons];
    rig_open(rig, &(struct rig_config){ .ram_pages = FUZZ_RAM,
                                        .queue_size = FUZZ_SIZE,
                                        .memory = balloons ? SVQ_MEMORY_REMAP : SVQ_MEMORY_FIXED,
                                        .hole_gfn = FUZZ_HOLE,
                                        .hole_pages = FUZZ_RAM - FUZZ_HOLE });
    FUZZ_MUST(rig_close_device(rig) == 0);
    struct svq_guest_config guest = rig_guest_config(rig);
    FUZZ_MUST(svq_guest_open(rig->mediator, &guest, &others[balloons]) == 0);
    entries[balloons] = rig_window_entries(rig);
}

static struct svq_window_config window_of(const struct fuzz *f, bool dynamic, bool guarded)
{
    return (struct svq_window_config){ .first_gref = rig_window_first(),
                                       .guarded = guarded,
                                       .direct = !dynamic,
                                       .count = dynamic ? DYNAMIC_GREFS : rig_window(f->rig).count };
}

static void set_up(struct fuzz *f, uint8_t first, uint8_t second)
{
    bool dynamic = first & 4;
    for (unsigned d = 0; d < FUZZ_DEVICES; d++) {
        f->device[d].guest = d && second & 8 ? f->other_guest : f->rig->guest;
        f->device[d].config = (struct svq_device_config){ .backend_domid = RIG_BACKEND,
                                                          .num_queues = d ? 1 : 2,
                                                          .mark = (uint8_t)(FUZZ_MARK + d),
                                                          .window = window_of(f, d && second & 4 ? !dynamic : dynamic,
                                                                              second & 32),
                                                          .clear = !!(first & 32),
                                                          .placement = ((d ? second : first) & 3) % 3,
                                                          .copy_threshold = first & 16 ? 2 * SVQ_PAGE_SIZE : 0,
                                                          .bounce_pages = FUZZ_BOUNCE_PAGES,
                                                          .large_chains = 1,
                                                          .frontend_indirect = !!(first & 8),
                                                          .frontend_event_idx = !!(first & 64),
                                                          .backend_event_idx = !!(first & 128) };
    }
    for (uint16_t l = 0; l < FUZZ_LANES; l++)
        f->lane[l] = (struct fuzz_lane){ .device = &f->device[l / 2], .index = l % 2, .ring = l, .q = &f->rig->q[l] };
    for (unsigned l = 0; l < FUZZ_LANES; l++)
        memset(f->lane[l].q, 0, sizeof *f->lane[l].q);
    memset(f->rig->ram + rig_gpa(RIG_TABLE_GFN), 0, FUZZ_TABLES * SVQ_PAGE_SIZE);
}

void fuzz_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, condition);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz f;
    struct input in = { data, data + size };
    uint8_t first = u8(&in), second = u8(&in);
    int balloons = second >> 4 & 1;
    if (!rigs[0].machine && !rigs[1].machine)
        atexit(close_rigs);
    if (!rigs[balloons].machine)
        open_rig(balloons);
    memset(&f, 0, sizeof f);
    f.rig = &rigs[balloons];
    f.other_guest = others[balloons];
    f.entries = entries[balloons];
    set_up(&f, first, second);
    struct fuzz_lane *lane = select_lane(&f, 0);
    for (int steps = 0; in.at < in.end && steps < STEPS_MAX; steps++)
        step(&f, &lane, &in);
    fuzz_end(&f);
    return 0;
}
