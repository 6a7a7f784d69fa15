/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tags: 16 bytes that name the guest frame and the offset at which they were written. */
#ifndef SVQ_DRV_TAG_H
#define SVQ_DRV_TAG_H

#include <stdint.h>

enum { SVQ_TAG_BYTES = 16 };

void svq_tag_write(void *bytes, uint64_t gfn, uint32_t offset, uint16_t seed);

#endif
