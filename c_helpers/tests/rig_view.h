/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two sides of a rig do and see: well-formed chains of the driver, shadow chains as the backend reads them. */
#ifndef SVQ_TEST_RIG_VIEW_H
#define SVQ_TEST_RIG_VIEW_H

#include <stdbool.h>

#include "rig.h"

/* --- the driver's side --------------------------------------------------------------------------------------- */
enum { SEG_READ = 0, SEG_WRITE = VRING_DESC_F_WRITE };

/* Writes `count` descriptors from `head` on, linked in order; flags of each: SEG_READ or SEG_WRITE. */
struct rig_seg {
    uint64_t gpa;
    uint32_t len;
    uint16_t flags;
};
void rig_chain(struct rig *rig, uint16_t head, const struct rig_seg *segs, unsigned count);
/* The same in an indirect table at `table_gpa`, referred to by descriptor `head`. */
void rig_indirect(struct rig *rig, uint16_t head, uint64_t table_gpa, const struct rig_seg *segs, unsigned count);
/* One whole page, `n` pages after RIG_DATA_GFN, as a chain by itself. */
void rig_page(struct rig *rig, uint16_t head, unsigned n, uint16_t flags);
/* virtio-blk's usual chain: header (16 bytes), `pages` data pages, status (1 byte), from descriptor `head` on. */
void rig_blk(struct rig *rig, uint16_t head, unsigned n, unsigned pages, uint16_t data_flags);

/* The used entry that the driver finds next: its id, or -1 when there is none. *len may be NULL. */
int rig_reap(struct rig *rig, uint32_t *len);
void rig_fill(struct rig *rig, uint64_t gpa, uint8_t byte, size_t len);
bool rig_is_filled(const struct rig *rig, uint64_t gpa, uint8_t byte, size_t len);

/* --- the backend's side -------------------------------------------------------------------------------------- */
struct rig_shadow {
    unsigned count;
    bool indirect;
    struct vring_desc part[SVQ_PARTS_MAX];
};

/* The parts of the shadow chain `head`, with its shadow indirect table resolved. False: it is not well-formed. */
bool rig_shadow_chain(struct rig *rig, uint16_t head, struct rig_shadow *out);
bool rig_queue_shadow_chain(struct rig *rig, const struct rig_queue *q, uint16_t head, struct rig_shadow *out);
/* Does this address name a grant of the frontend's window (else: one of the mediator)? */
bool rig_in_window(uint64_t addr);
/* Copies between `bytes` and a shadow part, through grants. 0 or what svq_hv_map_grants returned. */
int rig_part_read(struct rig *rig, const struct vring_desc *part, void *bytes);
int rig_part_write(struct rig *rig, const struct vring_desc *part, const void *bytes);
/* Maps the pages of a part; *va is its first byte. Unmap with rig_part_unmap. */
int rig_part_map(struct rig *rig, const struct vring_desc *part, int writable, uint8_t **va);
void rig_part_unmap(struct rig *rig, const struct vring_desc *part, uint8_t *va);
/* Tries every gref of a domain: how many pages can the backend map? `seen`, if not NULL, is called with each. */
unsigned rig_scan_grants(struct rig *rig, int domid, uint32_t grefs, int writable,
                         void (*seen)(void *arg, uint32_t gref, const uint8_t *page), void *arg);

/* --- the machine's side -------------------------------------------------------------------------------------- */
/* The frontend's grant table from the window's first entry on, where the frontend itself could write. */
uint64_t *rig_window_entries(struct rig *rig);
uint32_t rig_window_in_use(struct rig *rig); /* how many of them are not 0 */
static inline uint32_t rig_window_first(void) { return RIG_WINDOW_FRAME * SVQ_GRANTS_PER_FRAME; }
struct svq_hv_counters rig_counters(const struct svq_hv *hv);
struct svq_queue_stats rig_stats(const struct rig *rig, uint16_t index);

#endif
