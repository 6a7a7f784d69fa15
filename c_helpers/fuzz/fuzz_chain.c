/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the input is a small program, of what both peers write into memory and of passes of the engine. One
 * machine and one guest per kind of window for the whole process; each input gets a device of its own.
 *
 * First byte: bits 0-1 placement, 2 dynamic window, 3 indirect negotiated, 4 copy threshold. Then steps, see `step`.
 */
#include <stdlib.h>
#include <string.h>

#include "barrier.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS_MAX = 256 };

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
    case 0: return rig_gpa(RIG_RING_GFN) + offset % (3 * SVQ_PAGE_SIZE);       /* a ring page */
    case 1: return rig_gpa(FUZZ_HOLE) - 16 + offset % 32;                      /* into the hole */
    case 2: return rig_gpa(FUZZ_RAM) - 16 + offset % 32;                       /* over the end */
    case 3: return (uint64_t)0 - offset;                                       /* about to wrap */
    case 4: return rig_gpa(RIG_TABLE_GFN) + offset % (2 * SVQ_PAGE_SIZE);      /* the indirect tables */
    case 5: return rig_gpa(FUZZ_DATA_GFN + (kind >> 3) % 8);                   /* a whole page */
    default: return rig_gpa(FUZZ_DATA_GFN) + offset % (8 * SVQ_PAGE_SIZE);     /* data */
    }
}

static uint32_t length(struct input *in)
{
    uint8_t kind = u8(in);
    static const uint32_t edges[] = { 0, 1, 16, 64, 65, SVQ_PAGE_SIZE, UINT32_MAX, 0x80000000u };
    switch (kind & 3) {
    case 0: return edges[(kind >> 2) & 7];
    case 1: return ((kind >> 2) + 1u) % 10 * 16;        /* an indirect table */
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

/* --- one device per input --------------------------------------------------------------------------------------- */
static void open_rig(struct rig *rig, int dynamic)
{
    rig_open(rig, &(struct rig_config){ .ram_pages = FUZZ_RAM, .queue_size = FUZZ_SIZE, .dynamic_window = dynamic,
                                        .hole_gfn = FUZZ_HOLE, .hole_pages = FUZZ_RAM - FUZZ_HOLE });
    FUZZ_MUST(rig_close_device(rig) == 0);
}

static void open_device(struct fuzz *f)
{
    struct rig_queue *q = &f->rig->q[0];
    struct svq_queue_config queue = rig_queue_config(f->rig, 0);
    memset(f->rig->ram + queue.desc_gpa, 0, vring_desc_bytes(FUZZ_SIZE));
    memset(q->avail, 0, vring_avail_bytes(FUZZ_SIZE));
    memset(q->used, 0, vring_used_bytes(FUZZ_SIZE));
    memset(f->rig->ram + rig_gpa(RIG_TABLE_GFN), 0, 2 * SVQ_PAGE_SIZE);
    FUZZ_MUST(svq_device_create(f->rig->guest, &f->config, &f->rig->dev) == 0);
    FUZZ_MUST(rig_connect(f->rig, 0) == 0);
    FUZZ_MUST(svq_device_start(f->rig->dev) == 0);
}

static void let_go(struct fuzz *f)
{
    if (f->held)
        rig_part_unmap(f->rig, &f->held_part, f->held);
    f->held = NULL;
}

static void close_device(struct fuzz *f)
{
    let_go(f);
    int left = rig_close_device(f->rig);
    FUZZ_MUST(f->tampered || left == 0);
    FUZZ_MUST(f->tampered || svq_guest_window_in_use(f->rig->guest) == 0);
    for (uint32_t i = 0; f->tampered && i < svq_guest_window_count(f->rig->guest); i++)
        svq_store_u64(&f->rig->guest->window.entries[i], 0);
}

/* --- the steps -------------------------------------------------------------------------------------------------- */
static void write_table_entry(struct fuzz *f, struct input *in)
{
    uint8_t where = u8(in);
    struct vring_desc desc = descriptor(in);
    memcpy(f->rig->ram + rig_gpa(RIG_TABLE_GFN + where % FUZZ_TABLES) + (where >> 1) % 10 * 16u, &desc, sizeof desc);
}

static void hold_a_page(struct fuzz *f, uint8_t which)
{
    struct rig_shadow shadow;
    if (f->held || !f->rig->dev->queues[0].in_flight[which % FUZZ_SIZE].live ||
        !rig_shadow_chain(f->rig, which % FUZZ_SIZE, &shadow))
        return;
    f->held_part = shadow.part[which / FUZZ_SIZE % shadow.count];
    if (rig_part_map(f->rig, &f->held_part, f->held_part.flags & VRING_DESC_F_WRITE, &f->held) < 0)
        f->held = NULL;
}

static void tamper(struct fuzz *f, struct input *in)
{
    struct svq_window *window = &f->rig->guest->window;
    uint32_t i = (window->direct ? FUZZ_DATA_GFN : 0u) + u8(in) % 16;
    uint64_t entry = svq_grant_entry(u8(in), u8(in) % 16, FUZZ_DATA_GFN + u8(in) % 16);
    f->tampered = true;
    svq_store_u64(&window->entries[i], entry);
}

static void reset_queue(struct fuzz *f)
{
    struct rig_queue *q = &f->rig->q[0];
    struct svq_queue_config queue = rig_queue_config(f->rig, 0);
    svq_queue_drain(f->rig->dev, 0);
    if (svq_queue_reset(f->rig->dev, 0) < 0)
        return;
    memset(q->avail, 0, vring_avail_bytes(FUZZ_SIZE));
    memset(q->used, 0, vring_used_bytes(FUZZ_SIZE));
    q->avail_idx = q->used_seen = 0;
    svq_queue_restart(f->rig->dev, &queue);
}

static void step(struct fuzz *f, struct input *in)
{
    struct rig_queue *q = &f->rig->q[0];
    uint8_t what = u8(in);
    switch (what & 15) {
    case 0:
    case 1: q->desc[(what >> 4) % FUZZ_SIZE] = descriptor(in); break;
    case 2: write_table_entry(f, in); break;
    case 3:
    case 4: rig_offer(f->rig, (uint16_t)(what >> 4)); break; /* heads 8 to 15 do not exist */
    case 5: svq_release_u16(&q->avail->idx, u16(in)); break;
    case 6:
    case 7:
        svq_queue_forward(f->rig->dev, 0, (what >> 4) ? (unsigned)(what >> 4) : FUZZ_SIZE);
        fuzz_check_new_chains(f);
        break;
    case 8:
    case 9: {
        int head = rig_take(f->rig);
        if (head >= 0) /* an honest answer, but for its length */
            rig_give(f->rig, (uint32_t)head, u16(in) % (f->rig->dev->queues[0].in_flight[head].writable_bytes + 1));
        break;
    }
    case 10: rig_give(f->rig, what >> 4 < FUZZ_SIZE ? what >> 4 : u32(in), u32(in) >> (what >> 4)); break;
    case 11: svq_release_u16(&q->shadow_used->idx, u16(in)); break;
    case 12:
    case 13:
        svq_queue_complete(f->rig->dev, 0, FUZZ_SIZE);
        fuzz_check_completions(f);
        break;
    case 14: what & 16 ? let_go(f) : hold_a_page(f, u8(in)); break;
    default: what & 16 ? tamper(f, in) : reset_queue(f); break;
    }
    fuzz_check_books(f);
}

static struct rig rigs[2];

static void close_rigs(void)
{
    for (int i = 0; i < 2; i++)
        if (rigs[i].machine)
            rig_close(&rigs[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, data + size };
    uint8_t kind = u8(&in);
    int dynamic = kind >> 2 & 1;
    if (!rigs[0].machine && !rigs[1].machine)
        atexit(close_rigs);
    if (!rigs[dynamic].machine)
        open_rig(&rigs[dynamic], dynamic);
    struct fuzz f = { .rig = &rigs[dynamic],
                      .config = { .backend_domid = RIG_BACKEND, .num_queues = 1, .placement = (kind & 3) % 3,
                                  .copy_threshold = kind & 16 ? 2 * SVQ_PAGE_SIZE : 0, .bounce_pages = 16,
                                  .large_chains = 1, .window_grefs = 64, .frontend_indirect = kind & 8 } };
    open_device(&f);
    for (int steps = 0; in.at < in.end && steps < STEPS_MAX; steps++)
        step(&f, &in);
    close_device(&f);
    return 0;
}
