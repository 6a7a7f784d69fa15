/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The name of each fault, and what it says to the operator. */
#include "svq_backend.h"

#define FAULT(code, what) [code] = { #code, what }

static const struct fault_info {
    const char *name, *text;
} infos[] = {
    FAULT(SVQ_BE_FAULT_NONE, "no fault"),
    FAULT(SVQ_BE_FAULT_AVAIL_IDX, "the available index moved by more than the ring holds"),
    FAULT(SVQ_BE_FAULT_HEAD_RANGE, "an available entry names a descriptor beyond the table"),
    FAULT(SVQ_BE_FAULT_HEAD_LIVE, "a head was made available again before it was used"),
    FAULT(SVQ_BE_FAULT_NEXT_RANGE, "a next field names a descriptor beyond its table"),
    FAULT(SVQ_BE_FAULT_LOOP, "a descriptor chain is longer than its table: it loops"),
    FAULT(SVQ_BE_FAULT_INDIRECT_OFF, "an indirect descriptor, but INDIRECT_DESC was not accepted"),
    FAULT(SVQ_BE_FAULT_INDIRECT_NESTED, "an indirect descriptor inside an indirect table"),
    FAULT(SVQ_BE_FAULT_INDIRECT_NEXT, "a descriptor with both INDIRECT and NEXT"),
    FAULT(SVQ_BE_FAULT_INDIRECT_SIZE, "an indirect table that is not 1 to 512 whole entries, aligned to 16"),
    FAULT(SVQ_BE_FAULT_INDIRECT_MAP, "a page of an indirect table is not granted to the backend"),
    FAULT(SVQ_BE_FAULT_ORDER, "a device-readable descriptor after a device-writable one"),
    FAULT(SVQ_BE_FAULT_ADDRESS, "a descriptor address is not a grant address, or runs beyond the last one"),
    FAULT(SVQ_BE_FAULT_WINDOW, "a descriptor of the grant window goes beyond it, or a table lies inside it"),
    FAULT(SVQ_BE_FAULT_TOO_LONG, "a chain has more descriptors or bytes than virtio allows"),
    FAULT(SVQ_BE_FAULT_POOL_MAP, "a mediator page is not granted with the access that its descriptor needs"),
    FAULT(SVQ_BE_FAULT_UNMAP, "the hypervisor refused to unmap a request's pages"),
    FAULT(SVQ_BE_FAULT_EVTCHN, "event channel notifications can no longer be sent or received"),
};

static const struct fault_info *info(int fault)
{
    static const struct fault_info unknown = { "SVQ_BE_FAULT_UNKNOWN", "unknown fault" };
    if (fault < 0 || (size_t)fault >= sizeof infos / sizeof infos[0])
        return &unknown;
    return &infos[fault];
}

const char *svq_be_fault_name(int fault) { return info(fault)->name; }
const char *svq_be_fault_text(int fault) { return info(fault)->text; }
