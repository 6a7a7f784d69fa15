/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What names a granted page: the version 1 grant entry (Xen public headers, grant_table.h) and the grant address of
 * Linux's grant-dma-ops. Constants and offsets, no policy.
 */
#ifndef SVQ_GRANT_H
#define SVQ_GRANT_H

#include <stdint.h>

#include "svq_hv.h"

/* --- version 1 grant entries: flags:16, domid:16, frame:32 --------------------------------------------------- */
enum {
    GTF_INVALID = 0,
    GTF_PERMIT_ACCESS = 1,
    GTF_TYPE_MASK = 3,
    GTF_READONLY = 1 << 2,
    GTF_READING = 1 << 3, /* set by the hypervisor while the grantee has it mapped */
    GTF_WRITING = 1 << 4, /* set by the hypervisor while the grantee has it mapped writable */
};

static inline uint64_t svq_grant_entry(uint16_t flags, uint16_t domid, uint32_t frame)
{
    return (uint64_t)flags | (uint64_t)domid << 16 | (uint64_t)frame << 32;
}

/*
 * --- addresses in shadow descriptors ---------------------------------------------------------------------------
 * 1<<63 | gref<<12 | offset, as in Linux's drivers/xen/grant-dma-ops.c. Bit 62 says whose grant it is: set, the window
 * owner's (the frontend); clear, the mediator's. Both count their grefs from 0, so the number alone does not tell.
 */
#define SVQ_GRANT_ADDR_FLAG (1ULL << 63)
#define SVQ_WINDOW_ADDR_FLAG (1ULL << 62)

static inline uint64_t svq_grant_addr(uint32_t gref, uint32_t offset)
{
    return SVQ_GRANT_ADDR_FLAG | (uint64_t)gref << SVQ_PAGE_SHIFT | offset;
}
static inline uint64_t svq_window_addr(uint32_t gref, uint32_t offset)
{
    return svq_grant_addr(gref, offset) | SVQ_WINDOW_ADDR_FLAG;
}
static inline uint32_t svq_grant_addr_gref(uint64_t addr) { return (uint32_t)(addr >> SVQ_PAGE_SHIFT); }
static inline uint32_t svq_grant_addr_offset(uint64_t addr) { return (uint32_t)(addr & (SVQ_PAGE_SIZE - 1)); }

#endif
