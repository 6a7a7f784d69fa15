/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The backend's data plane: the device side of shadow rings (leg 2) and a virtio-blk device (virtio 5.2) on a raw image
 * file or a block device.
 *
 * Order of calls: open_image, config_space (to offer), create (once the mediator has accepted features), queue_attach
 * for each queue, start; then stop, destroy, close_image. One thread for each device serves all its queues; a request
 * needs no call below. Calls about one device may come from any thread, one at a time.
 *
 * Python reads this header too: cffi parses it with the preprocessor lines removed, so it holds plain declarations
 * only. Every int result is 0 (or a count) or -errno; then svq_be_why() says more.
 */
#ifndef SVQ_BACKEND_H
#define SVQ_BACKEND_H

#include <stddef.h>
#include <stdint.h>

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

enum {
    SVQ_BE_QUEUES_MAX = 64,
    SVQ_BE_QUEUE_SIZE_MAX = 1024,
    SVQ_BE_TABLE_MAX = 512,   /* descriptors in a shadow indirect table */
    SVQ_BE_CONFIG_BYTES = 60, /* struct virtio_blk_config up to write zeroes */
    SVQ_BE_SERIAL_BYTES = 20, /* virtio 5.2.6: no NUL if all 20 are used */
    SVQ_BE_TEXT_BYTES = 512,
    SVQ_BE_COPY_PAGES_MAX = 16, /* the largest that is copied in place of being mapped */
    SVQ_BE_COPY_AUTO = -1,
};

/* virtio 5.2.3: feature bits of the block device */
enum {
    VIRTIO_BLK_F_SIZE_MAX = 1,
    VIRTIO_BLK_F_SEG_MAX = 2,
    VIRTIO_BLK_F_RO = 5,
    VIRTIO_BLK_F_BLK_SIZE = 6,
    VIRTIO_BLK_F_FLUSH = 9,
    VIRTIO_BLK_F_TOPOLOGY = 10,
    VIRTIO_BLK_F_MQ = 12,
    VIRTIO_BLK_F_DISCARD = 13,
    VIRTIO_BLK_F_WRITE_ZEROES = 14,
};

enum {
    SVQ_BE_ENGINE_SYNC = 0, /* preadv and pwritev in the device's thread */
    SVQ_BE_ENGINE_URING = 1,
};

/* Why a queue stopped: what was wrong in its ring. */
enum svq_be_fault {
    SVQ_BE_FAULT_NONE = 0,
    SVQ_BE_FAULT_AVAIL_IDX = 1,       /* avail idx moved by more than the ring's size */
    SVQ_BE_FAULT_HEAD_RANGE = 2,      /* an avail entry names no descriptor */
    SVQ_BE_FAULT_HEAD_LIVE = 3,       /* a head offered again before it was used */
    SVQ_BE_FAULT_NEXT_RANGE = 4,      /* next names no descriptor of its table */
    SVQ_BE_FAULT_LOOP = 5,            /* more descriptors than the table has */
    SVQ_BE_FAULT_INDIRECT_OFF = 6,    /* INDIRECT was not negotiated */
    SVQ_BE_FAULT_INDIRECT_NESTED = 7, /* INDIRECT inside an indirect table */
    SVQ_BE_FAULT_INDIRECT_NEXT = 8,   /* INDIRECT and NEXT together */
    SVQ_BE_FAULT_INDIRECT_SIZE = 9,   /* table is empty, too long, not a multiple of 16 bytes, or not aligned to 16 */
    SVQ_BE_FAULT_INDIRECT_MAP = 10,   /* a page of the table is not granted */
    SVQ_BE_FAULT_ORDER = 11,          /* device-readable after device-writable */
    SVQ_BE_FAULT_ADDRESS = 12,        /* not a grant address, or beyond the last gref */
    SVQ_BE_FAULT_WINDOW = 13,         /* marked as grefs of the window, but not all inside it */
    SVQ_BE_FAULT_TOO_LONG = 14,       /* more descriptors or bytes than a chain may have */
    SVQ_BE_FAULT_POOL_MAP = 15,       /* a mediator page is not granted with that access */
    SVQ_BE_FAULT_UNMAP = 16,          /* the hypervisor refused to unmap: the request cannot be returned */
    SVQ_BE_FAULT_EVTCHN = 17,         /* notifications cannot be sent or received */
};

/* flags of svq_be_open_image */
enum {
    SVQ_BE_READ_ONLY = 1,
    SVQ_BE_DIRECT_IO = 2,
    SVQ_BE_FLUSH_FAILED = 4, /* svq_be_flush_failed returned 1 before it was closed: flushes still fail */
    SVQ_BE_SHAREABLE = 8,    /* others may write to it at the same time */
};

struct svq_hv;
struct svq_be_image;
struct svq_be_device;

struct svq_be_image_info {
    uint64_t capacity;       /* bytes, a multiple of logical_block */
    uint32_t logical_block;  /* bytes; with direct I/O, requests must be aligned to it */
    uint32_t physical_block; /* bytes, 0: not known */
    uint32_t min_io;         /* bytes, 0: not known */
    uint32_t opt_io;         /* bytes, 0: not known */
    uint32_t align_offset;   /* bytes to the first aligned physical block */
    uint32_t discard_align;  /* bytes; meaningful with can_discard */
    uint8_t is_block;
    uint8_t read_only;
    uint8_t direct_io;
    uint8_t can_discard; /* space can be given back */
};

struct svq_be_config {
    uint64_t features;       /* accepted feature bits, as a mask */
    uint16_t mediator_domid; /* owner of the rings and of every gref outside the window */
    uint16_t window_owner;   /* the frontend domain */
    uint32_t window_first;
    uint32_t window_count;
    uint16_t queues;       /* queues in use, 1 to SVQ_BE_QUEUES_MAX */
    uint32_t max_requests; /* the most requests in progress at once, over all queues; 0: 256 */
    uint32_t cache_pages;  /* mediator pages kept mapped; 0: 16384; at least 4096 */
    uint32_t poll_us;      /* longest busy wait before sleeping, microseconds; 0: none */
    uint8_t force_sync;    /* 1: do not use io_uring */
    /*
     * Where a request's buffers of one direction have at most so many frontend pages, the hypervisor copies them, and
     * maps none: 0 to SVQ_BE_COPY_PAGES_MAX, or SVQ_BE_COPY_AUTO: what svq_be_crossover says, 0 if it cannot copy.
     */
    int32_t copy_pages;
    char serial[24]; /* NUL-terminated, at most SVQ_BE_SERIAL_BYTES used */
};

/* Counters since create; the last fields are present states. They count only completed requests. */
struct svq_be_stats {
    uint64_t reads, writes, flushes, get_ids, discards, write_zeroes, unsupported;
    uint64_t read_bytes, write_bytes; /* of requests that succeeded */
    uint64_t io_errors;               /* requests that returned IOERR */
    uint64_t image_errors;            /* of io_errors: the image failed (EIO, ENOSPC, end of file) */
    uint64_t failed_flushes;          /* of io_errors: flushes, from the first that failed on */
    uint64_t no_status;               /* requests returned with length 0, as they had no status byte to write */
    uint64_t map_calls;               /* map_grants calls for frontend pages */
    uint64_t map_pages;               /* pages that those calls mapped */
    uint64_t map_failures;            /* requests that failed because a frontend page was not to be mapped or copied */
    uint64_t copied_sides;            /* directions of requests that were copied in place of being mapped */
    uint64_t copy_calls;              /* copy_grants calls for those */
    uint64_t copy_misses;             /* directions that were mapped because too many were being copied */
    uint64_t cache_misses, cache_evictions;
    uint64_t kicks;          /* event channel notifications received */
    uint64_t notifies;       /* sent */
    uint64_t sleeps;         /* how often the thread went to sleep */
    uint64_t short_ios;      /* reads and writes continued after a short transfer */
    uint64_t bounced_ios;    /* direct I/O that went through an aligned copy */
    uint64_t bounce_waits;   /* how often one of those had to wait for a buffer */
    uint64_t cache_pages;    /* mediator pages mapped now */
    uint64_t live_requests;  /* requests between avail and used now */
    uint64_t held_requests;  /* of live_requests: held by svq_be_hold */
    uint64_t copy_pages;     /* pages up to which is copied; 0: never */
    int32_t io_engine;       /* SVQ_BE_ENGINE_* */
    int32_t io_engine_errno; /* why io_uring is not in use, -errno; 0: it is, or force_sync */
    int32_t direct_io;
};

/*
 * What a page costs here, mapped and copied, in nanoseconds: the least of several tries, measured once for the process,
 * with the first queue that is attached to a device with SVQ_BE_COPY_AUTO.
 */
struct svq_be_crossover {
    uint64_t map_ns;     /* mapping a page, and unmapping it */
    uint64_t copy_ns;    /* copying a page */
    uint64_t copy_16_ns; /* copying 16 pages, with one call */
    uint32_t pages;      /* the most pages that cost less to copy than one page to map; 0: none */
    int32_t error;       /* -errno: why it could not be measured; -ENOSYS: this host has no grant copy */
};

struct svq_be_error {
    int32_t fault; /* SVQ_BE_FAULT_*, 0: no queue has stopped */
    int32_t queue;
    char text[512]; /* one sentence */
};

/* One buffer of a live request. */
struct svq_be_part {
    uint32_t gref;   /* the first gref; the part's others follow it */
    uint32_t offset; /* in the first page */
    uint32_t length; /* bytes */
    uint16_t owner;  /* domid whose gref it is */
    uint16_t queue;
    uint16_t head;
    uint8_t writable; /* by the device */
    uint8_t held;
};

/* Why the last call in this thread that failed did so, as a sentence for the operator. Never NULL. */
const char *svq_be_why(void);
/* The name of an enum svq_be_fault, and a sentence about it. Never NULL. */
const char *svq_be_fault_name(int fault);
const char *svq_be_fault_text(int fault);
const char *svq_be_engine_name(int engine); /* "io_uring" or "sync" */

/*
 * Opens a raw image file or a block device, and locks it as QEMU does. `info` may be NULL. -EBUSY: somebody else's use
 * conflicts with ours.
 */
int svq_be_open_image(const char *path, unsigned int flags, struct svq_be_image **out, struct svq_be_image_info *info);
void svq_be_close_image(struct svq_be_image *image);

/*
 * 1: a flush of this image has failed. Linux reports a lost write only once, so a later flush that succeeds proves
 * nothing: from then on every flush ends in IOERR.
 */
int svq_be_flush_failed(const struct svq_be_image *image);

/*
 * Checks how large the image is now; only info->capacity can change. On an error everything stays as it was. `path`:
 * for error messages.
 */
int svq_be_measure_image(struct svq_be_image *image, const char *path, struct svq_be_image_info *info);

/*
 * Writes SVQ_BE_CONFIG_BYTES of configuration space (virtio 5.2.4) to `config`, and the offered feature bits, including
 * ring features, to *features.
 */
int svq_be_config_space(const struct svq_be_image_info *info, uint16_t queues, uint16_t queue_size_max, uint8_t *config,
                        size_t config_bytes, uint64_t *features);

/* Pages of each area of a ring of `size`. -EINVAL: not a power of two, or above SVQ_BE_QUEUE_SIZE_MAX. */
int svq_be_ring_pages(uint16_t size, uint32_t *desc_pages, uint32_t *avail_pages, uint32_t *used_pages);

/* The caller keeps `image` and `hv`, which must outlive the device. -EINVAL: svq_be_why() names the field. */
int svq_be_create(struct svq_hv *hv, struct svq_be_image *image, const struct svq_be_config *config,
                  struct svq_be_device **out);

/*
 * Maps the ring of queue `index` (svq_be_ring_pages says how many references; all are the mediator's) and binds its
 * event channel. Serving begins after the last entry that used idx says was returned: 0 in a fresh ring. -EBUSY: the
 * device is running, or the queue is already attached. -ENOSYS: copy_pages says so, but this host has no grant copy.
 */
int svq_be_queue_attach(struct svq_be_device *dev, uint16_t index, uint16_t size, const uint32_t *desc_refs,
                        const uint32_t *avail_refs, const uint32_t *used_refs, uint32_t remote_port);

int svq_be_start(struct svq_be_device *dev);

/*
 * Takes no more requests, waits for those in flight and returns them, drops held ones without returning them, and ends
 * the thread. Afterwards nothing of the frontend is mapped. Harmless if not running. What is to be copied to the
 * frontend, but ends 0.2 s later or more, is dropped too: nothing of it is mapped, so the mediator may have ended its
 * grants by then, and may have given the same references to another request.
 */
int svq_be_stop(struct svq_be_device *dev);
void svq_be_destroy(struct svq_be_device *dev); /* stops; unmaps rings and cached pages; closes ports */

/* Sets the size that svq_be_measure_image found: requests are checked against it from now on. */
void svq_be_set_capacity(struct svq_be_device *dev, uint64_t bytes);

void svq_be_read_stats(const struct svq_be_device *dev, struct svq_be_stats *out);

/* After the first queue has been attached. All 0: the device's copy_pages is not SVQ_BE_COPY_AUTO. */
void svq_be_read_crossover(const struct svq_be_device *dev, struct svq_be_crossover *out);

/* An eventfd that becomes readable when a queue stops with a fault, or a flush fails; the device owns it. */
int svq_be_error_fd(const struct svq_be_device *dev);
/* The first fault. 1: there is one; 0: none. */
int svq_be_read_error(const struct svq_be_device *dev, struct svq_be_error *out);

/*
 * While on, requests are taken, mapped (none is copied, whatever its size) and parsed, but neither executed nor
 * returned; turning it off lets them go on in order. The change is in effect when the call returns.
 */
int svq_be_hold(struct svq_be_device *dev, int on);
/* Writes up to `max` parts of live requests; returns how many there are in all (maybe more). */
int svq_be_live_parts(struct svq_be_device *dev, struct svq_be_part *parts, size_t max);

#pragma GCC visibility pop

#endif
