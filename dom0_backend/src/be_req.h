/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One request between its avail and its used entry. Allocated at set-up, and reused. */
#ifndef SVQ_BE_REQ_H
#define SVQ_BE_REQ_H

#include "be_chain.h"
#include "be_io.h"
#include "be_span.h"

enum {
    SVQ_BE_REQ_PAGES_MAX = 2048, /* pages of one side of a request: 8 MiB */
    SVQ_BE_RANGES_MAX = 16,      /* discard / write zeroes segments in a request, as advertised */
};

enum svq_be_req_state {
    SVQ_BE_REQ_FREE,
    SVQ_BE_REQ_HELD,    /* parsed, waits for svq_be_hold(off) */
    SVQ_BE_REQ_RUNNING, /* with the I/O engine */
};

/* What of a request is mapped, or copied. */
struct svq_be_mem {
    void *window_va[2]; /* frontend pages: [0] device-readable, [1] device-writable */
    uint32_t window_pages[2];
    int slot[2];     /* where they are copied to or from; -1: they are mapped */
    uint32_t cached; /* mediator pages held in the cache */
    uint32_t cache_index[2 * SVQ_BE_REQ_PAGES_MAX];
};

struct svq_be_range {
    uint64_t offset; /* bytes */
    uint64_t length;
    bool may_unmap;
};

struct svq_be_req {
    struct svq_be_req *next; /* in the free list or the hold list */
    enum svq_be_req_state state;
    uint16_t queue;
    uint16_t head;
    uint8_t status;    /* VIRTIO_BLK_S_* */
    bool unreachable;  /* a frontend page could not be reached: return IOERR, and touch only the status byte */
    bool copy_failed;  /* a piece of it could not be copied; whoever ran the batch looks */
    bool ready;        /* no (more) I/O: only has to be completed */
    bool flushed;      /* write-through: the flush after the write has been done */
    uint32_t type;     /* VIRTIO_BLK_T_*, our copy */
    uint32_t data_len; /* bytes of IN and OUT */
    uint8_t *status_at;
    struct svq_be_span in;  /* device-writable bytes before the status byte, not yet written */
    struct svq_be_span out; /* device-readable bytes, not yet read */
    struct svq_be_op op;
    uint32_t ranges;
    uint32_t next_range;
    struct svq_be_range range[SVQ_BE_RANGES_MAX];
    struct svq_be_chain chain;
    struct svq_be_mem mem;
    struct iovec iov[2][SVQ_BE_REQ_PAGES_MAX]; /* by side, like window_va; each piece has at least a page of its own */
};

#endif
