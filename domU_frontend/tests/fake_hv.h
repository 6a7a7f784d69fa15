/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Just enough of a hypervisor for the driver, in one thread: own pages whose guest frames are scattered as on xen,
 * or follow one another, and event channels whose notifications call the test's device at once.
 */
#ifndef SVQ_FAKE_HV_H
#define SVQ_FAKE_HV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"

enum { FAKE_FIRST_GFN = 0x1000 };

struct fake_layout {
    bool scattered;   /* frames in reverse, but pairs: pages 2k and 2k+1 follow one another */
    int evtchn_error; /* what alloc_unbound answers instead of a port */
    void (*on_notify)(void *opaque, uint32_t port);
    void *opaque;
};

/* Unlike a real handle, it may be kept on the stack. */
struct svq_hv {
    struct fake_layout layout;
    uint8_t *va;
    uint64_t *gfns;
    size_t pages;
    struct svq_evtchn *ec;
};

/* What the device sees of guest memory: a range that follows itself in guest physical memory, or NULL. */
void *fake_hv_va(void *hv, uint64_t gpa, uint64_t len);

/* The other end of the port is notified. */
void fake_hv_interrupt(struct svq_hv *hv, uint32_t port);

#endif
