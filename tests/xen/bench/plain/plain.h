/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The baseline "plain": a virtio-blk device that has all of its driver's memory mapped, and nobody in between. For the
 * benchmark alone: it is INSECURE, as virtio without a mediator is, and no service installs it.
 *
 * It is the product's backend (dom0_backend/src) with three files replaced: descriptors hold the guest's own addresses
 * (plain_chain.c in place of be_chain.c), pages are looked up in place of mapped (plain_map.c, be_map.c and
 * be_cache.c), and rings lie where the guest says (plain_device.c around be_device.c). All else is the same code.
 *
 * The memory is mapped once, by grants that dom0 wrote. Mapped as foreign memory it would cost the same for each
 * request, but in a PV domain Linux does not let such a mapping do direct I/O.
 */
#ifndef SVQ_PLAIN_H
#define SVQ_PLAIN_H

#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

/* A run of the guest's frames, and the first of the consecutive references that grant them. */
struct svq_plain_run {
    uint32_t gfn;
    uint32_t count;
    uint32_t gref;
};

/* Maps what can be mapped of a run, writable: a frame that is not RAM is left out. The pages mapped, or -errno. */
int svq_plain_map_run(struct svq_hv *hv, uint16_t domid, const struct svq_plain_run *run);
/* Where [addr, addr + length) of the guest lies; NULL: not all of it is mapped, or not in one piece. */
void *svq_plain_at(uint64_t addr, size_t length);
/* Where the page of an address lies, NULL if it is not mapped. */
uint8_t *svq_plain_page(uint64_t addr);

/* Where the three areas of the next ring to be attached are: what its references 0, 1 and 2 stand for. */
void svq_plain_set_ring(void *desc, void *avail, void *used);

#endif
