/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Just enough of a hypervisor for the driver, in one thread: own pages whose guest frames are scattered as on xen, or
 * consecutive, and event channels whose notifications call the test's device at once.
 */
#ifndef SVQ_FAKE_HV_H
#define SVQ_FAKE_HV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

enum { FAKE_FIRST_GFN = 0x1000 };

struct fake_layout {
    bool scattered;   /* pairs of frames in reverse order: pages 2k and 2k+1 are contiguous */
    int evtchn_error; /* what alloc_unbound returns instead of a port */
    void (*on_notify)(void *opaque, uint32_t port);
    void *opaque;
};

/* Unlike a real handle, this may be on the stack. */
struct svq_hv {
    struct fake_layout layout;
    uint8_t *va;
    uint64_t *gfns;
    size_t pages;
    struct svq_evtchn *ec;
};

/* What the device sees of guest memory: a range that is contiguous in guest physical memory, or NULL. */
void *fake_hv_va(void *hv, uint64_t gpa, uint64_t len);

/* Notifies the port, as its other end would. */
void fake_hv_interrupt(struct svq_hv *hv, uint32_t port);

#endif
