/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A hypervisor inside one test program: enough of svq_hv.h for a backend, with records that tests can read. */
#ifndef SVQ_FAKE_HV_H
#define SVQ_FAKE_HV_H

#include <stdbool.h>
#include <stdint.h>

#include "svq_hv.h"

enum { FAKE_DOMAINS = 4, FAKE_GREFS = 16384, FAKE_FRAMES = 16384 };

void fake_reset(void); /* forgets all domains; nothing may be mapped */
struct svq_hv *fake_handle(void);

uint32_t fake_frames(uint32_t count); /* the first of `count` fresh zeroed frames */
uint8_t *fake_va(uint32_t frame);     /* as their owner sees it; consecutive frames are contiguous */

void fake_grant(uint16_t domid, uint32_t gref, uint32_t frame, bool writable);
void fake_end_grant(uint16_t domid, uint32_t gref);

uint32_t fake_mapped(uint16_t domid); /* pages of the domain that are mapped now */
uint32_t fake_map_calls(uint16_t domid);
void fake_refuse_unmap(uint16_t domid, bool refuse);

uint32_t fake_copy_calls(uint16_t domid);
uint32_t fake_copied(uint16_t domid); /* pieces, failed ones included */
void fake_refuse_copies(bool refuse); /* as a kernel that is too old */

#endif
