/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rig.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "barrier.h"
#include "be_test.h"

enum { PATIENCE_MS = 20000 };

uint8_t rig_byte(uint64_t offset) { return (uint8_t)(offset * 7 + offset / 512 * 13 + 1); }

static void fill_image(struct rig *rig, uint64_t sectors)
{
    uint8_t block[512];
    for (uint64_t s = 0; s < sectors; s++) {
        for (int i = 0; i < 512; i++)
            block[i] = rig_byte(s * 512 + (uint64_t)i);
        REQUIRE_EQUAL(pwrite(rig->image_fd, block, 512, (off_t)(s * 512)), 512);
    }
}

bool rig_holds_image(const uint8_t *va, uint64_t offset, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++) {
        if (va[i] != rig_byte(offset + i))
            return false;
    }
    return true;
}

bool rig_all(const uint8_t *va, uint32_t len, uint8_t value)
{
    for (uint32_t i = 0; i < len; i++) {
        if (va[i] != value)
            return false;
    }
    return true;
}

void rig_open(struct rig *rig, const char *directory, uint64_t sectors, unsigned int flags)
{
    memset(rig, 0, sizeof *rig);
    fake_reset();
    snprintf(rig->path, sizeof rig->path, "%s/svq-image-XXXXXX", directory);
    rig->image_fd = mkstemp(rig->path);
    REQUIRE(rig->image_fd >= 0);
    fill_image(rig, sectors);
    if (svq_be_open_image(rig->path, flags, &rig->image, &rig->info)) {
        fprintf(stderr, "%s\n", svq_be_why());
        exit(1);
    }
    REQUIRE_EQUAL(rig->info.capacity, sectors * 512);
    rig->config = (struct svq_be_config){
        .mediator_domid = MEDIATOR,
        .window_owner = FRONTEND,
        .window_first = WINDOW_FIRST,
        .window_count = WINDOW_COUNT,
        .queues = 1,
        .poll_us = 20,
        .copy_pages = RIG_COPY_PAGES,
        .serial = "rig-serial",
    };
    uint8_t config[SVQ_BE_CONFIG_BYTES];
    REQUIRE_EQUAL(svq_be_config_space(&rig->info, 1, 256, config, sizeof config, &rig->config.features), 0);
    rig->next_pool = 1;
    rig->next_window = WINDOW_FIRST;
    REQUIRE_EQUAL(svq_evtchn_open(fake_handle(), &rig->evtchn), 0);
}

static void *share(struct rig *rig, uint32_t pages, bool writable, uint32_t *refs)
{
    uint32_t frame = fake_frames(pages);
    for (uint32_t i = 0; i < pages; i++) {
        refs[i] = rig->next_pool++;
        fake_grant(MEDIATOR, refs[i], frame + i, writable);
    }
    return fake_va(frame);
}

void rig_attach(struct rig *rig, uint16_t size)
{
    uint32_t desc_pages, avail_pages, used_pages;
    if (svq_be_create(fake_handle(), rig->image, &rig->config, &rig->dev)) {
        fprintf(stderr, "%s\n", svq_be_why());
        exit(1);
    }
    REQUIRE_EQUAL(svq_be_ring_pages(size, &desc_pages, &avail_pages, &used_pages), 0);
    for (uint16_t i = 0; i < rig->config.queues; i++) {
        struct rig_queue *q = &rig->q[i];
        q->size = size;
        q->desc = share(rig, desc_pages, false, q->desc_refs);
        q->avail = share(rig, avail_pages, false, q->avail_refs);
        q->used = share(rig, used_pages, true, q->used_refs);
        q->port = svq_evtchn_alloc_unbound(rig->evtchn, 0);
        REQUIRE(q->port > 0);
        REQUIRE_EQUAL(
            svq_be_queue_attach(rig->dev, i, size, q->desc_refs, q->avail_refs, q->used_refs, (uint32_t)q->port), 0);
    }
}

void rig_start(struct rig *rig, uint16_t size)
{
    rig_attach(rig, size);
    REQUIRE_EQUAL(svq_be_start(rig->dev), 0);
}

void rig_close(struct rig *rig)
{
    svq_be_destroy(rig->dev);
    svq_be_close_image(rig->image);
    svq_evtchn_close(rig->evtchn);
    REQUIRE_EQUAL(fake_mapped(MEDIATOR), 0);
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    close(rig->image_fd);
    unlink(rig->path);
}

static struct buf memory(uint16_t domid, uint32_t *next, uint32_t offset, uint32_t len, bool writable)
{
    uint32_t pages = (offset + len + SVQ_PAGE_SIZE - 1) / SVQ_PAGE_SIZE;
    uint32_t frame = fake_frames(pages);
    struct buf buf = {
        .va = fake_va(frame) + offset, .gref = *next, .offset = offset, .len = len, .writable = writable
    };
    for (uint32_t i = 0; i < pages; i++)
        fake_grant(domid, (*next)++, frame + i, writable);
    return buf;
}

struct buf rig_pool(struct rig *rig, uint32_t offset, uint32_t len, bool writable)
{
    return memory(MEDIATOR, &rig->next_pool, offset, len, writable);
}

struct buf rig_window(struct rig *rig, uint32_t offset, uint32_t len, bool writable)
{
    return memory(FRONTEND, &rig->next_window, offset, len, writable);
}

struct buf rig_header(struct rig *rig, uint32_t type, uint64_t sector)
{
    struct buf buf = rig_pool(rig, 64, 16, false);
    memcpy(buf.va, &type, 4);
    memcpy(buf.va + 8, &sector, 8);
    return buf;
}

struct vring_desc rig_desc(const struct buf *buf)
{
    return (struct vring_desc){
        .addr = buf->gref >= WINDOW_FIRST ? svq_window_addr(buf->gref, buf->offset)
                                          : svq_grant_addr(buf->gref, buf->offset),
        .len = buf->len,
        .flags = buf->writable ? VRING_DESC_F_WRITE : 0,
    };
}

void rig_avail(struct rig *rig, uint32_t queue, uint16_t head)
{
    struct rig_queue *q = &rig->q[queue];
    q->avail->ring[q->avail->idx & (q->size - 1)] = head;
    svq_release_u16(&q->avail->idx, (uint16_t)(q->avail->idx + 1));
}

uint16_t rig_offer(struct rig *rig, uint32_t queue, const struct buf *bufs, uint32_t count)
{
    struct rig_queue *q = &rig->q[queue];
    uint16_t head = (uint16_t)(q->next_head++ & (q->size - 1));
    struct buf table = rig_pool(rig, 32, count * 16, false);
    for (uint32_t i = 0; i < count; i++) {
        struct vring_desc desc = rig_desc(&bufs[i]);
        if (i + 1 < count) {
            desc.flags |= VRING_DESC_F_NEXT;
            desc.next = (uint16_t)(i + 1);
        }
        memcpy(table.va + (size_t)i * 16, &desc, 16);
    }
    q->desc[head] = rig_desc(&table);
    q->desc[head].flags = VRING_DESC_F_INDIRECT;
    rig_avail(rig, queue, head);
    return head;
}

uint16_t rig_offer_direct(struct rig *rig, uint32_t queue, const struct buf *bufs, uint32_t count)
{
    struct rig_queue *q = &rig->q[queue];
    uint16_t head = (uint16_t)(q->next_head & (q->size - 1));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = q->next_head++ & (q->size - 1);
        q->desc[at] = rig_desc(&bufs[i]);
        if (i + 1 < count) {
            q->desc[at].flags |= VRING_DESC_F_NEXT;
            q->desc[at].next = (uint16_t)(q->next_head & (q->size - 1));
        }
    }
    rig_avail(rig, queue, head);
    return head;
}

void rig_kick(struct rig *rig, uint32_t queue)
{
    REQUIRE_EQUAL(svq_evtchn_notify(rig->evtchn, (uint32_t)rig->q[queue].port), 0);
}

static bool wants_events(const struct rig *rig) { return rig->config.features >> VIRTIO_F_EVENT_IDX & 1; }

struct vring_used_elem rig_wait(struct rig *rig, uint32_t queue)
{
    struct rig_queue *q = &rig->q[queue];
    for (;;) {
        struct pollfd fd = { .fd = svq_evtchn_fd(rig->evtchn), .events = POLLIN };
        if (wants_events(rig))
            svq_store_u16(vring_used_event(q->avail, q->size), q->used_seen);
        svq_full_fence();
        if (svq_acquire_u16(&q->used->idx) != q->used_seen)
            return q->used->ring[q->used_seen++ & (q->size - 1)];
        REQUIRE_EQUAL(poll(&fd, 1, PATIENCE_MS), 1); /* a lost notification fails here */
        int port;
        while ((port = svq_evtchn_pending(rig->evtchn)) > 0)
            svq_evtchn_unmask(rig->evtchn, (uint32_t)port);
    }
}

uint8_t rig_do(struct rig *rig, const struct buf *bufs, uint32_t count)
{
    uint16_t head = rig_offer(rig, 0, bufs, count);
    uint32_t writable = 0;
    rig_kick(rig, 0);
    struct vring_used_elem used = rig_wait(rig, 0);
    REQUIRE_EQUAL(used.id, head);
    for (uint32_t i = 0; i < count; i++)
        writable += bufs[i].writable ? bufs[i].len : 0;
    REQUIRE_EQUAL(used.len, writable);
    return bufs[count - 1].va[bufs[count - 1].len - 1];
}

struct svq_be_stats rig_stats(struct rig *rig)
{
    struct svq_be_stats stats;
    svq_be_read_stats(rig->dev, &stats);
    return stats;
}
