/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plays the mediator (domain 1, rings and pool) and the frontend (domain 2, window) to one backend device. */
#ifndef SVQ_BE_RIG_H
#define SVQ_BE_RIG_H

#include "fake_hv.h"
#include "grant.h"
#include "vring.h"
#include "svq_backend.h"

#ifndef RIG_COPY_PAGES /* CMakeLists.txt builds some tests twice */
#define RIG_COPY_PAGES 0
#endif

enum {
    MEDIATOR = 1,
    FRONTEND = 2,
    WINDOW_FIRST = 8192,
    WINDOW_COUNT = 8192,
    RIG_QUEUES = 4,
};

/* A buffer of a request: where we see its bytes, and how its descriptor describes it. */
struct buf {
    uint8_t *va;
    uint32_t gref;
    uint32_t offset;
    uint32_t len;
    bool writable;
};

struct rig_queue {
    uint32_t size;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint32_t desc_refs[4], avail_refs[1], used_refs[3];
    int port;
    uint16_t used_seen;
    uint32_t next_head;
};

struct rig {
    char path[64];
    int image_fd; /* ours, to read the image */
    struct svq_be_image *image;
    struct svq_be_image_info info;
    struct svq_be_config config;
    struct svq_be_device *dev;
    struct svq_evtchn *evtchn;
    struct rig_queue q[RIG_QUEUES];
    uint32_t next_pool, next_window; /* grefs */
};

/* An image of `sectors`, each byte a function of its offset, in `directory`; a device over it, not yet created. */
void rig_open(struct rig *rig, const char *directory, uint64_t sectors, unsigned int flags);
/* Creates the device with rig->config, attaches queues of `size`. */
void rig_attach(struct rig *rig, uint16_t size);
void rig_start(struct rig *rig, uint16_t size); /* attach and start */
void rig_close(struct rig *rig);                /* and checks that nothing stays mapped */
uint8_t rig_byte(uint64_t offset);              /* the image's original contents */
/* Does memory hold them, from `offset` on? Is every byte of it `value`? */
bool rig_holds_image(const uint8_t *va, uint64_t offset, uint32_t len);
bool rig_all(const uint8_t *va, uint32_t len, uint8_t value);

struct buf rig_pool(struct rig *rig, uint32_t offset, uint32_t len, bool writable);   /* mediator memory */
struct buf rig_window(struct rig *rig, uint32_t offset, uint32_t len, bool writable); /* frontend memory */
struct buf rig_header(struct rig *rig, uint32_t type, uint64_t sector);
struct vring_desc rig_desc(const struct buf *buf);

/* Offers a chain, behind a shadow indirect table if it has several descriptors; returns its head. */
uint16_t rig_offer(struct rig *rig, uint32_t queue, const struct buf *bufs, uint32_t count);
uint16_t rig_offer_direct(struct rig *rig, uint32_t queue, const struct buf *bufs, uint32_t count);
void rig_avail(struct rig *rig, uint32_t queue, uint16_t head);
void rig_kick(struct rig *rig, uint32_t queue);
/* Waits for the next used entry. */
struct vring_used_elem rig_wait(struct rig *rig, uint32_t queue);
/* Offers, kicks, waits; the device must return the number of writable bytes. Returns the status. */
uint8_t rig_do(struct rig *rig, const struct buf *bufs, uint32_t count);
struct svq_be_stats rig_stats(struct rig *rig);

#endif
