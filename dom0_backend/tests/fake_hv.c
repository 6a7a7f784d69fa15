/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake_hv.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "be_test.h"

enum { MAPPINGS = 16384, PORTS = 256 };

struct grant {
    bool valid, writable;
    uint32_t frame;
    uint32_t maps;
};

struct mapping {
    void *va;
    uint16_t domid;
    uint32_t count;
    uint32_t *grefs;
};

struct port {
    struct svq_evtchn *owner; /* NULL: closed */
    uint32_t remote;          /* 0: not bound */
    bool pending, masked;
};

struct svq_hv {
    int unused;
};

struct svq_evtchn {
    int fd;
};

static struct {
    pthread_mutex_t lock;
    int memfd;
    uint8_t *base;
    uint32_t next_frame;
    struct grant grants[FAKE_DOMAINS][FAKE_GREFS];
    uint32_t mapped[FAKE_DOMAINS], calls[FAKE_DOMAINS];
    bool refuse_unmap[FAKE_DOMAINS];
    uint32_t copy_calls[FAKE_DOMAINS], copied[FAKE_DOMAINS];
    bool refuse_copies;
    struct mapping mappings[MAPPINGS];
    struct port ports[PORTS];
    struct svq_hv handle;
} world = { .lock = PTHREAD_MUTEX_INITIALIZER, .memfd = -1 };

void fake_reset(void)
{
    if (world.memfd < 0) {
        world.memfd = memfd_create("frames", MFD_CLOEXEC);
        REQUIRE(ftruncate(world.memfd, (off_t)FAKE_FRAMES * SVQ_PAGE_SIZE) == 0);
        world.base = mmap(NULL, (size_t)FAKE_FRAMES * SVQ_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, world.memfd,
                          0);
        REQUIRE(world.base != MAP_FAILED);
    }
    for (int i = 0; i < FAKE_DOMAINS; i++)
        REQUIRE_EQUAL(world.mapped[i], 0);
    memset(world.base, 0, (size_t)world.next_frame * SVQ_PAGE_SIZE);
    world.next_frame = 0;
    memset(world.grants, 0, sizeof world.grants);
    memset(world.calls, 0, sizeof world.calls);
    memset(world.refuse_unmap, 0, sizeof world.refuse_unmap);
    memset(world.copy_calls, 0, sizeof world.copy_calls);
    memset(world.copied, 0, sizeof world.copied);
    world.refuse_copies = false;
    memset(world.ports, 0, sizeof world.ports);
}

struct svq_hv *fake_handle(void) { return &world.handle; }

uint32_t fake_frames(uint32_t count)
{
    uint32_t first = world.next_frame;
    REQUIRE(first + count <= FAKE_FRAMES);
    world.next_frame += count;
    return first;
}

uint8_t *fake_va(uint32_t frame) { return world.base + (size_t)frame * SVQ_PAGE_SIZE; }

void fake_grant(uint16_t domid, uint32_t gref, uint32_t frame, bool writable)
{
    pthread_mutex_lock(&world.lock);
    world.grants[domid][gref] = (struct grant){ .valid = true, .writable = writable, .frame = frame };
    pthread_mutex_unlock(&world.lock);
}

void fake_end_grant(uint16_t domid, uint32_t gref)
{
    pthread_mutex_lock(&world.lock);
    REQUIRE_EQUAL(world.grants[domid][gref].maps, 0);
    world.grants[domid][gref].valid = false;
    pthread_mutex_unlock(&world.lock);
}

static uint32_t read_locked(const uint32_t *count)
{
    pthread_mutex_lock(&world.lock);
    uint32_t now = *count;
    pthread_mutex_unlock(&world.lock);
    return now;
}

uint32_t fake_mapped(uint16_t domid) { return read_locked(&world.mapped[domid]); }

uint32_t fake_map_calls(uint16_t domid) { return read_locked(&world.calls[domid]); }

void fake_refuse_unmap(uint16_t domid, bool refuse)
{
    pthread_mutex_lock(&world.lock);
    world.refuse_unmap[domid] = refuse;
    pthread_mutex_unlock(&world.lock);
}

uint32_t fake_copy_calls(uint16_t domid) { return read_locked(&world.copy_calls[domid]); }

uint32_t fake_copied(uint16_t domid) { return read_locked(&world.copied[domid]); }

void fake_refuse_copies(bool refuse)
{
    pthread_mutex_lock(&world.lock);
    world.refuse_copies = refuse;
    pthread_mutex_unlock(&world.lock);
}

static int check_grants(uint16_t domid, const uint32_t *grefs, size_t count, int writable)
{
    for (size_t i = 0; i < count; i++) {
        if (domid >= FAKE_DOMAINS || grefs[i] >= FAKE_GREFS)
            return -ENOENT;
        if (!world.grants[domid][grefs[i]].valid || (writable && !world.grants[domid][grefs[i]].writable))
            return -EACCES;
    }
    return 0;
}

static int map_locked(uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va)
{
    int protection = PROT_READ | (writable ? PROT_WRITE : 0);
    struct mapping *mapping = world.mappings;
    int rc = check_grants(domid, grefs, count, writable);
    if (rc)
        return rc;
    while (mapping->va)
        REQUIRE(++mapping < world.mappings + MAPPINGS);
    mapping->va = mmap(NULL, count * SVQ_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapping->va != MAP_FAILED);
    mapping->domid = domid;
    mapping->count = (uint32_t)count;
    mapping->grefs = malloc(count * sizeof *grefs);
    memcpy(mapping->grefs, grefs, count * sizeof *grefs);
    for (size_t i = 0; i < count; i++) {
        struct grant *grant = &world.grants[domid][grefs[i]];
        REQUIRE(mmap((uint8_t *)mapping->va + i * SVQ_PAGE_SIZE, SVQ_PAGE_SIZE, protection, MAP_SHARED | MAP_FIXED,
                     world.memfd, (off_t)grant->frame * SVQ_PAGE_SIZE) != MAP_FAILED);
        grant->maps++;
    }
    world.mapped[domid] += (uint32_t)count;
    *va = mapping->va;
    return 0;
}

int svq_hv_map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va)
{
    (void)hv;
    pthread_mutex_lock(&world.lock);
    if (domid < FAKE_DOMAINS)
        world.calls[domid]++;
    int rc = map_locked(domid, grefs, count, writable, va);
    pthread_mutex_unlock(&world.lock);
    return rc;
}

int svq_hv_unmap_grants(struct svq_hv *hv, void *va, size_t count)
{
    struct mapping *mapping = world.mappings;
    int rc = 0;
    (void)hv;
    pthread_mutex_lock(&world.lock);
    while (mapping->va != va)
        REQUIRE(++mapping < world.mappings + MAPPINGS);
    REQUIRE_EQUAL(mapping->count, count);
    if (world.refuse_unmap[mapping->domid])
        rc = -EINVAL;
    for (uint32_t i = 0; i < mapping->count; i++)
        world.grants[mapping->domid][mapping->grefs[i]].maps--;
    world.mapped[mapping->domid] -= mapping->count;
    munmap(va, count * SVQ_PAGE_SIZE);
    free(mapping->grefs);
    mapping->va = NULL;
    pthread_mutex_unlock(&world.lock);
    return rc;
}

static void copy_locked(uint16_t domid, struct svq_hv_copy *op)
{
    op->result = check_grants(domid, &op->gref, 1, op->to_grant);
    if (op->result)
        return;
    REQUIRE(op->length > 0 && op->offset + op->length <= SVQ_PAGE_SIZE);
    uint8_t *granted = fake_va(world.grants[domid][op->gref].frame) + op->offset;
    if (op->to_grant)
        memcpy(granted, op->local, op->length);
    else
        memcpy(op->local, granted, op->length);
}

int svq_hv_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count)
{
    (void)hv;
    pthread_mutex_lock(&world.lock);
    int rc = world.refuse_copies ? -ENOSYS : 0;
    world.copy_calls[domid]++;
    world.copied[domid] += (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        ops[i].result = rc;
        if (rc == 0)
            copy_locked(domid, &ops[i]);
    }
    pthread_mutex_unlock(&world.lock);
    return rc;
}

int svq_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out)
{
    (void)hv;
    *out = malloc(sizeof **out);
    (*out)->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return 0;
}

void svq_evtchn_close(struct svq_evtchn *ec)
{
    pthread_mutex_lock(&world.lock);
    for (int i = 0; i < PORTS; i++) {
        if (world.ports[i].owner == ec) {
            world.ports[world.ports[i].remote].remote = 0;
            memset(&world.ports[i], 0, sizeof world.ports[i]);
        }
    }
    pthread_mutex_unlock(&world.lock);
    close(ec->fd);
    free(ec);
}

int svq_evtchn_fd(struct svq_evtchn *ec) { return ec->fd; }

static int new_port(struct svq_evtchn *ec, uint32_t remote)
{
    for (uint32_t i = 1; i < PORTS; i++) {
        if (!world.ports[i].owner) {
            world.ports[i] = (struct port){ .owner = ec, .remote = remote };
            return (int)i;
        }
    }
    return -ENOSPC;
}

int svq_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid)
{
    (void)remote_domid;
    pthread_mutex_lock(&world.lock);
    int port = new_port(ec, 0);
    pthread_mutex_unlock(&world.lock);
    return port;
}

int svq_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port)
{
    int port = -ENOENT;
    (void)remote_domid;
    pthread_mutex_lock(&world.lock);
    if (remote_port > 0 && remote_port < PORTS && world.ports[remote_port].owner && !world.ports[remote_port].remote) {
        port = new_port(ec, remote_port);
        world.ports[remote_port].remote = (uint32_t)port;
    }
    pthread_mutex_unlock(&world.lock);
    return port;
}

int svq_evtchn_notify(struct svq_evtchn *ec, uint32_t port)
{
    int rc = -ENOENT;
    pthread_mutex_lock(&world.lock);
    if (world.ports[port].owner == ec) {
        struct port *remote = &world.ports[world.ports[port].remote];
        rc = 0;
        if (remote->owner && !remote->pending) {
            remote->pending = true;
            eventfd_write(remote->owner->fd, 1);
        }
    }
    pthread_mutex_unlock(&world.lock);
    return rc;
}

int svq_evtchn_pending(struct svq_evtchn *ec)
{
    int port = -EAGAIN;
    pthread_mutex_lock(&world.lock);
    for (int i = 1; i < PORTS && port < 0; i++) {
        if (world.ports[i].owner == ec && world.ports[i].pending && !world.ports[i].masked)
            port = i;
    }
    eventfd_t ignored;
    if (port > 0) {
        world.ports[port].pending = false;
        world.ports[port].masked = true;
    } else {
        eventfd_read(ec->fd, &ignored);
    }
    pthread_mutex_unlock(&world.lock);
    return port;
}

int svq_evtchn_unmask(struct svq_evtchn *ec, uint32_t port)
{
    pthread_mutex_lock(&world.lock);
    world.ports[port].masked = false;
    if (world.ports[port].pending)
        eventfd_write(ec->fd, 1);
    pthread_mutex_unlock(&world.lock);
    return 0;
}

int svq_evtchn_unbind(struct svq_evtchn *ec, uint32_t port)
{
    (void)ec;
    pthread_mutex_lock(&world.lock);
    world.ports[world.ports[port].remote].remote = 0;
    memset(&world.ports[port], 0, sizeof world.ports[port]);
    pthread_mutex_unlock(&world.lock);
    return 0;
}
