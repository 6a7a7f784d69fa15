/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SVQ_FETCH_H
#define SVQ_FETCH_H

#include "barrier.h"
#include "vring.h"

/*
 * The one fetch of a descriptor that a peer may write: two 8-byte loads, each done once. Callers inspect only the copy.
 */
static inline struct vring_desc svq_fetch_desc(const struct vring_desc *shared)
{
    const uint64_t *words = (const uint64_t *)(const void *)shared;
    uint64_t tail = svq_load_u64(&words[1]);
    return (struct vring_desc){
        .addr = svq_load_u64(&words[0]),
        .len = (uint32_t)tail,
        .flags = (uint16_t)(tail >> 32),
        .next = (uint16_t)(tail >> 48),
    };
}

#endif
