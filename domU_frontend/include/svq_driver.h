/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtio-blk driver in user space: what a well-behaved virtio 1.x driver in the frontend domain does, on top of the
 * hypervisor seam. It owns pages of its domain, lays out split rings in them, opens event channels to the mediator and
 * does I/O. XenStore is the caller's job: it publishes what the getters return.
 *
 * Order of use: create; publish addresses and ports; start, once the features are agreed; run, any number of times;
 * destroy. After create, callers can also reach every page and port directly (svq_drv_va, svq_drv_kick): the hostile
 * driver builds on that.
 *
 * cffi parses this header with the preprocessor lines removed: plain declarations only. Every int result is 0 (or
 * another value where a comment says so) or -errno. A struct svq_drv serves one caller at a time; while svq_drv_run
 * runs, another thread may use only the words of struct svq_drv_progress, and svq_drv_read_counters.
 */
#ifndef SVQ_DRIVER_H
#define SVQ_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "svq_hv.h"
#include "svq_ledger.h"

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

struct svq_drv;

enum {
    SVQ_DRV_QUEUES_MAX = 64,
    SVQ_DRV_QUEUE_SIZE_MAX = 1024,
    SVQ_DRV_TABLE_ENTRIES_MAX = 256, /* an indirect table fits one page */
    SVQ_DRV_DATA_MAX = 1 << 30,      /* bytes of one request */
    SVQ_DRV_TIMEOUT_MS = 30000,      /* if the configuration says 0 */
    SVQ_DRV_SLAB_SEED = 0x51ab,      /* seed of the tags around headers and status bytes */
};

/* Request types (virtio 5.2.6). The driver sends any other number as it is. */
enum {
    SVQ_DRV_IN = 0,
    SVQ_DRV_OUT = 1,
    SVQ_DRV_FLUSH = 4,
    SVQ_DRV_GET_ID = 8,
    SVQ_DRV_GET_LIFETIME = 10,
    SVQ_DRV_DISCARD = 11,
    SVQ_DRV_WRITE_ZEROES = 13,
    SVQ_DRV_SECURE_ERASE = 14,
};

/* Status bytes (virtio 5.2.6). The driver puts SVQ_DRV_STATUS_NONE there first. */
enum {
    SVQ_DRV_STATUS_OK = 0,
    SVQ_DRV_STATUS_IOERR = 1,
    SVQ_DRV_STATUS_UNSUPP = 2,
    SVQ_DRV_STATUS_NONE = 255,
};

/* Flags of a request. */
enum {
    SVQ_DRV_REQ_INDIRECT = 1, /* use an indirect table if VIRTIO_F_INDIRECT_DESC is negotiated; else direct */
};

/* Values of svq_drv_progress.stop. */
enum {
    SVQ_DRV_STOP_DRAIN = 1, /* submit no more, wait for what is in flight */
    SVQ_DRV_STOP_NOW = 2,   /* return at once, and leave what is in flight to the device */
};

struct svq_drv_config {
    uint64_t first_gfn;        /* where the driver's memory begins (sim); xen ignores it */
    uint64_t pages;            /* of the driver's memory: rings, tables, slabs, and the rest for data */
    uint64_t features;         /* the most feature bits that svq_drv_start accepts */
    uint32_t poll_us;          /* spin at most this long for completions before sleeping; 0: always sleep */
    uint32_t timeout_ms;       /* svq_drv_run gives up if nothing completes for this long; 0: SVQ_DRV_TIMEOUT_MS */
    uint32_t max_segments;     /* data segments that an indirect table has room for; 0: 62; at most 254 */
    struct svq_ledger *ledger; /* or NULL; svq_ledger_bytes(pages) long, zeroed; must outlive the driver */
    uint16_t mediator_domid;
    uint16_t queues;
    uint16_t queue_size; /* a power of two */
};

/* What the caller publishes in XenStore about one queue: guest physical addresses, and the local unbound port. */
struct svq_drv_queue_info {
    uint64_t desc;
    uint64_t avail;
    uint64_t used;
    uint32_t port;
    uint32_t size;
};

/*
 * One request. Header (16 bytes) and status (1 byte) lie in a slot of a page that many requests share, like in Linux's
 * slabs, with canary bytes around them. The data is the `len` bytes from guest physical address `buf_gpa` on, in the
 * driver's own memory, at any alignment; where pages are contiguous here but not in guest physical memory, the segment
 * is split. IN, GET_ID and GET_LIFETIME let the device write the data, all others let it read.
 */
struct svq_drv_req {
    uint64_t sector;
    uint64_t buf_gpa;
    uint32_t type;
    uint32_t len;      /* bytes, 0 for none */
    uint32_t flags;    /* SVQ_DRV_REQ_* */
    uint32_t segments; /* split the data evenly into this many (0: one), by whole pages or sectors where possible */
};

struct svq_drv_result {
    uint64_t latency_ns; /* from submission to completion */
    int32_t error;       /* 0: completed. See svq_drv_run */
    uint32_t used_len;   /* as the device reported, at most the writable bytes */
    uint32_t status;     /* SVQ_DRV_STATUS_* as the device wrote it; SVQ_DRV_STATUS_NONE if it did not */
    uint32_t queue;
};

/* What another thread may read while svq_drv_run runs; it may write `stop`. The caller zeroes it. */
struct svq_drv_progress {
    uint64_t requests_done;
    uint64_t bytes_done; /* data of requests that ended with SVQ_DRV_STATUS_OK */
    uint32_t in_flight;
    uint32_t stop; /* SVQ_DRV_STOP_* */
};

struct svq_drv_counters {
    uint64_t kicks;            /* notifications sent to the device */
    uint64_t kicks_suppressed; /* the device had asked not to be kicked */
    uint64_t kicks_lost;       /* nobody was at the other end (only sim reports it); the run goes on */
    uint64_t interrupts;       /* event channel notifications received */
    uint64_t completions;
    uint64_t late_completions; /* completions of requests that an earlier run left behind */
    uint64_t canaries_broken;  /* requests for which the device wrote to or around the header, or around the status */
    uint64_t sleeps;           /* waits that slept on the event channel */
    uint64_t spins_won;        /* waits that ended while spinning */
};

/*
 * Takes the pages, lays out everything, opens a port to the mediator for each queue. -EINVAL: a number out of range.
 * -ENOSPC: too few pages, or none that are contiguous for an area of a ring.
 */
int svq_drv_create(struct svq_hv *hv, const struct svq_drv_config *config, struct svq_drv **out);
void svq_drv_destroy(struct svq_drv *d);

/*
 * Empties all rings and sets the features in force; may be called again after a reset of the device. -EINVAL: a bit
 * beyond config.features, or VIRTIO_F_VERSION_1 missing.
 */
int svq_drv_start(struct svq_drv *d, uint64_t features);

int svq_drv_queue_info(const struct svq_drv *d, unsigned queue, struct svq_drv_queue_info *out);
void svq_drv_read_counters(const struct svq_drv *d, struct svq_drv_counters *out);

/*
 * Does the `n` requests, keeping at most `depth` in flight over all queues, round robin. results (n of them) and
 * progress may be NULL. Returns 0 when all have ended, whatever their status, or the run was stopped and all in flight
 * drained. Otherwise what is still in flight belongs to the device: do not reuse its memory before its late completion,
 * a queue reset or svq_drv_start.
 *
 * -ETIMEDOUT: nothing completed for timeout_ms. -EINTR: stopped with SVQ_DRV_STOP_NOW. -ENOTCONN: not started, or
 * no queue runs. -EINVAL: depth is 0. The device lied, and that queue is broken until a queue reset or
 * svq_drv_start: -EPROTO used.idx moved beyond what is in flight, -ERANGE used id beyond the ring, -EALREADY used
 * id not in flight, -EMSGSIZE used len beyond the writable bytes.
 *
 * results[i].error: 0; -ECANCELED never submitted; -EINPROGRESS still the device's; -EFAULT refused, not all data is in
 * the driver's memory; -EINVAL refused, fewer bytes than segments; -E2BIG refused, a longer chain than ring or table
 * allows; -EBADMSG completed, but the canary bytes or the header were overwritten.
 */
int svq_drv_run(struct svq_drv *d, const struct svq_drv_req *reqs, size_t n, unsigned depth,
                struct svq_drv_result *results, struct svq_drv_progress *progress);

/*
 * Reset of one queue (VIRTIO_F_RING_RESET, virtio 2.6.1). prepare: the driver stops using the queue; returns how many
 * requests it leaves behind. The caller then has the device reset it. rearm: empties the ring memory for `size`
 * descriptors (0: as before; at most the size at creation) and uses the queue again, at the same addresses.
 */
int svq_drv_queue_reset_prepare(struct svq_drv *d, unsigned queue);
int svq_drv_queue_rearm(struct svq_drv *d, unsigned queue, unsigned size);

/*
 * While the device is Closing with held pages: everything that is not in `held` (a bit for each head) has ended. Only
 * for the ledger: such a device completes nothing more, and the caller has to stop svq_drv_run.
 */
int svq_drv_not_held(struct svq_drv *d, unsigned queue, const uint8_t *held, size_t held_bytes);

/* All of the driver's memory is its own again (enum svq_back). Only for the ledger, too. */
void svq_drv_take_back(struct svq_drv *d, int back);

/* --- the driver's memory: pages 0 .. config.pages - 1, contiguous in our address space ------------ */

/* The largest run of pages that remains for data. */
void svq_drv_data_pages(const struct svq_drv *d, size_t *first_page, size_t *count);

/* Guest physical address of a page. -EINVAL beyond the last. */
int svq_drv_page_gpa(const struct svq_drv *d, size_t page, uint64_t *gpa);

/* Where `len` bytes from a guest physical address on lie in our memory; NULL if not all of them are the driver's. */
void *svq_drv_va(const struct svq_drv *d, uint64_t gpa, size_t len);

/* --- raw ------------------------------------------------------------------------------------------------- */

/*
 * Notifies the device about a queue, whether or not it asked for that. -ENOTCONN: nobody is at the other end (sim
 * only).
 */
int svq_drv_kick(struct svq_drv *d, unsigned queue);

/* Waits for an interrupt. Returns how many came (for different queues), or 0 after timeout_ms without one. */
int svq_drv_wait_interrupt(struct svq_drv *d, unsigned timeout_ms);

/* --- tags: memory that says where it comes from ------------------------------------------------------------- */

/* Fills pages: each 16 bytes name their own guest frame, their offset in it, and the seed (0 .. 65535). */
int svq_drv_fill_tags(struct svq_drv *d, size_t first_page, size_t count, unsigned seed);

/*
 * What the driver does with memory that it has back, according to its ledger: fills the pages that are its own with
 * tags, and returns how many there are. Later calls, as long as nothing else has come back, return how many of those
 * pages somebody has changed.
 */
int64_t svq_drv_use_own(struct svq_drv *d, size_t first_page, size_t count, unsigned seed);
int64_t svq_drv_own_changed(const struct svq_drv *d, size_t first_page, size_t count, unsigned seed);

/* How many requests are given away, according to the ledger. */
unsigned svq_drv_given(const struct svq_drv *d);

/* Are these 16 bytes a tag? Its seed (then *gfn and *offset are where it was written), or -ENOENT. */
int svq_tag_at(const void *bytes, uint64_t *gfn, uint32_t *offset);

/* Looks for a tag at every byte of `len` bytes from *at on. Its seed, with *at where it is, or -ENOENT. */
int svq_tag_find(const void *bytes, size_t len, size_t *at, uint64_t *gfn, uint32_t *offset);

#pragma GCC visibility pop

#endif
