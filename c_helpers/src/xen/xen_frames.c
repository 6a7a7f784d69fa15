/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes of a guest's frames, reported to an ioreq server of ours (Xen public/hvm/dm_op.h, ioreq.h). When a processor
 * of the guest takes a frame out of its address space, Xen puts a request to invalidate into that processor's slot of
 * every enabled server, and keeps the processor from running until each has answered. No other request comes, since our
 * server serves no address: the range that it registers is its name. By that name the next process tells a dead
 * process's server from those of other device models in dom0.
 *
 * Order matters (tried on Xen 4.17): map the page before enabling the server, since Xen writes there from then on; bind
 * the ports after it, since Xen reveals them only then. At the end, disable the server, then answer the requests that
 * came before, and only then destroy it, since a processor whose request goes unanswered never runs again.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "xen_hv.h"

enum {
    DMOP_CREATE_IOREQ_SERVER = 1,
    DMOP_GET_IOREQ_SERVER_INFO = 2,
    DMOP_MAP_IO_RANGE_TO_IOREQ_SERVER = 3,
    DMOP_UNMAP_IO_RANGE_FROM_IOREQ_SERVER = 4,
    DMOP_SET_IOREQ_SERVER_STATE = 5,
    DMOP_DESTROY_IOREQ_SERVER = 6,
    DMOP_NO_GFNS = 1,
    DMOP_IO_RANGE_PCI = 2,
    XENMEM_RESOURCE_IOREQ_SERVER = 0,
    XENMEM_RESOURCE_IOREQ_SERVER_FRAME_IOREQ = 1,
    SERVERS_MAX = 8,       /* of one guest: MAX_NR_IOREQ_SERVERS */
    OUR_NAME = 0x53565100, /* "SVQ": a PCI function of segment 0x5356, which no guest has */
    DRAIN_EVENTS_MAX = 1024,
};

struct dm_op {
    uint32_t op, pad;
    union {
        struct {
            uint8_t bufioreq, pad[3];
            uint16_t id;
        } create;
        struct {
            uint16_t id, flags;
            uint32_t bufioreq_port;
            uint64_t ioreq_gfn, bufioreq_gfn;
        } info;
        struct {
            uint16_t id, pad;
            uint32_t type;
            uint64_t start, end;
        } range;
        struct {
            uint16_t id;
            uint8_t enabled, pad;
        } state;
        struct {
            uint16_t id, pad;
        } destroy;
    };
};

struct ioreq {
    uint64_t addr;
    uint64_t data;
    uint32_t count, size;
    uint32_t vp_eport;
    uint32_t word; /* bits 16-19: state; 21: a read; 24-31: type */
};

_Static_assert(sizeof(struct ioreq) == 32, "ioreq.h");

enum {
    STATE_READY = 1,
    STATE_INPROCESS = 2,
    STATE_ANSWERED = 3,
    TYPE_INVALIDATE = 8,
    SLOTS = SVQ_PAGE_SIZE / sizeof(struct ioreq), /* one for each processor of the guest */
};

static inline uint32_t state_of(uint32_t word) { return word >> 16 & 0xf; }
static inline int is_read(uint32_t word) { return word >> 21 & 1; }
static inline uint32_t type_of(uint32_t word) { return word >> 24; }
static inline uint32_t answered(uint32_t word) { return (word & ~(0xfu << 16)) | STATE_ANSWERED << 16; }

struct xen_frames {
    struct svq_frames base;
    struct xen_domain *domain;
    uint16_t server;
    void *resource;
    struct ioreq *slots;
    struct svq_evtchn *events;
    uint32_t ports[SLOTS]; /* our end; 0: no such processor */
    uint64_t told[SLOTS / 64];
};

static struct xen_frames *frames_of(struct svq_frames *frames)
{
    return (struct xen_frames *)(void *)frames; /* its first member */
}

static int dm_op(const struct xen_frames *xf, struct dm_op *op)
{
    return xen_domain_dm_op(xen_of(xf->base.hv), xf->domain, op, sizeof *op);
}

static int name_op(const struct xen_frames *xf, uint32_t what, uint16_t id)
{
    struct dm_op op = { .op = what,
                        .range = { .id = id, .type = DMOP_IO_RANGE_PCI, .start = OUR_NAME, .end = OUR_NAME } };
    return dm_op(xf, &op);
}

static int set_enabled(const struct xen_frames *xf, int enabled)
{
    struct dm_op op = { .op = DMOP_SET_IOREQ_SERVER_STATE, .state = { .id = xf->server, .enabled = enabled != 0 } };
    return dm_op(xf, &op);
}

static void destroy(const struct xen_frames *xf)
{
    struct dm_op op = { .op = DMOP_DESTROY_IOREQ_SERVER, .destroy = { .id = xf->server } };
    (void)dm_op(xf, &op);
}

/* Is that server of dom0's our own? Then Xen refuses to register our name there a second time. */
static int is_ours(const struct xen_frames *xf, uint16_t id)
{
    struct dm_op op = { .op = DMOP_GET_IOREQ_SERVER_INFO, .info = { .id = id, .flags = DMOP_NO_GFNS } };
    if (dm_op(xf, &op) != 0)
        return 0; /* there is none, or it is another domain's */
    int rc = name_op(xf, DMOP_MAP_IO_RANGE_TO_IOREQ_SERVER, id);
    if (rc == 0)
        (void)name_op(xf, DMOP_UNMAP_IO_RANGE_FROM_IOREQ_SERVER, id);
    return rc == -EEXIST;
}

static int create(struct xen_frames *xf)
{
    struct dm_op op = { .op = DMOP_CREATE_IOREQ_SERVER };
    int rc = dm_op(xf, &op);
    if (rc != 0)
        return rc;
    xf->server = op.create.id;
    rc = name_op(xf, DMOP_MAP_IO_RANGE_TO_IOREQ_SERVER, xf->server);
    if (rc != 0)
        destroy(xf);
    return rc;
}

static int find_or_create(struct xen_frames *xf)
{
    for (uint16_t id = 0; id < SERVERS_MAX; id++) {
        if (is_ours(xf, id)) {
            xf->server = id;
            return 0;
        }
    }
    return create(xf);
}

static int map_page(struct xen_frames *xf)
{
    void *mapped = NULL;
    xf->resource = xen_of(xf->base.hv)
                       ->libs->foreignmemory_map_resource(
                           xf->domain->foreignmemory, xf->domain->domid, XENMEM_RESOURCE_IOREQ_SERVER, xf->server,
                           XENMEM_RESOURCE_IOREQ_SERVER_FRAME_IOREQ, 1, &mapped, PROT_READ | PROT_WRITE, 0);
    if (!xf->resource)
        return xen_negative_errno();
    xf->slots = mapped;
    return 0;
}

/* Xen refuses a port that somebody has bound: that process is alive. */
static int bind_ports(struct xen_frames *xf)
{
    int rc = svq_evtchn_open(xf->base.hv, &xf->events);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < SLOTS; i++) {
        uint32_t port = svq_load_u32(&xf->slots[i].vp_eport);
        if (port == 0)
            continue;
        rc = svq_evtchn_bind(xf->events, xf->domain->domid, port);
        if (rc < 0)
            return rc == -EINVAL ? -EBUSY : rc;
        xf->ports[i] = (uint32_t)rc;
    }
    return 0;
}

static int answer(const struct xen_frames *xf, size_t i)
{
    struct ioreq *slot = &xf->slots[i];
    svq_release_u32(&slot->word, answered(svq_load_u32(&slot->word)));
    return svq_evtchn_notify(xf->events, xf->ports[i]);
}

/* Is a request waiting? A dead process may have left it in either state. */
static int is_waiting(uint32_t word) { return state_of(word) == STATE_READY || state_of(word) == STATE_INPROCESS; }

/* Answers all waiting requests that it can. False: some processor still waits. */
static int answer_all(const struct xen_frames *xf)
{
    int all = 1;
    for (size_t i = 0; i < SLOTS; i++) {
        if (!is_waiting(svq_acquire_u32(&xf->slots[i].word)))
            continue;
        if (xf->ports[i] == 0 || answer(xf, i) != 0)
            all = 0;
    }
    return all;
}

/* Releases what this process has. The server stays, for another process. */
static void let_go(struct xen_frames *xf)
{
    struct xen_hv *xen = xen_of(xf->base.hv);
    svq_evtchn_close(xf->events);
    if (xf->resource)
        (void)xen->libs->foreignmemory_unmap_resource(xf->domain->foreignmemory, xf->resource);
    xen_domain_put(xen, xf->domain);
    free(xf);
}

void xen_frames_close(struct svq_frames *frames)
{
    struct xen_frames *xf = frames_of(frames);
    int rc = set_enabled(xf, 0); /* no request from here on */
    if (answer_all(xf) && rc == 0)
        destroy(xf);
    let_go(xf);
}

static int set_up(struct xen_frames *xf)
{
    int rc = find_or_create(xf);
    if (rc == 0)
        rc = map_page(xf);
    if (rc == 0)
        rc = set_enabled(xf, 1);
    return rc != 0 ? rc : bind_ports(xf);
}

int xen_frames_watch(struct svq_hv *hv, uint16_t domid, struct svq_frames **out)
{
    struct xen_hv *xen = xen_of(hv);
    if (svq_hv_domid(hv) != 0)
        return -ENOSYS;
    struct xen_frames *xf = calloc(1, sizeof *xf);
    if (!xf)
        return -ENOMEM;
    xf->base.hv = hv;
    int rc;
    xf->domain = xen_domain_get(xen, domid, &rc);
    if (!xf->domain) {
        free(xf);
        return rc;
    }
    rc = set_up(xf);
    if (rc == 0)
        *out = &xf->base;
    else if (rc == -EBUSY || !xf->slots)
        let_go(xf); /* without its page we can answer nothing: the next try finds the server by its name */
    else
        xen_frames_close(&xf->base);
    return rc;
}

int xen_frames_fd(struct svq_frames *frames) { return svq_evtchn_fd(frames_of(frames)->events); }

static int drain(const struct xen_frames *xf)
{
    for (int n = 0; n < DRAIN_EVENTS_MAX; n++) {
        int port = svq_evtchn_pending(xf->events);
        if (port < 0)
            return port == -EAGAIN ? 0 : port;
        (void)svq_evtchn_unmask(xf->events, (uint32_t)port);
    }
    return 0; /* the descriptor stays readable */
}

int xen_frames_changed(struct svq_frames *frames)
{
    struct xen_frames *xf = frames_of(frames);
    uint64_t any = 0;
    int rc = drain(xf);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < SLOTS; i++) {
        uint32_t word = svq_acquire_u32(&xf->slots[i].word);
        if (xf->ports[i] == 0 || !is_waiting(word))
            continue;
        if (type_of(word) == TYPE_INVALIDATE) {
            xf->told[i / 64] |= 1ULL << (i % 64);
        } else { /* none of our addresses: what nobody serves reads as all ones */
            if (is_read(word))
                svq_store_u64(&xf->slots[i].data, UINT64_MAX);
            (void)answer(xf, i);
        }
    }
    for (size_t i = 0; i < SLOTS / 64; i++)
        any |= xf->told[i];
    return any != 0;
}

int xen_frames_ack(struct svq_frames *frames)
{
    struct xen_frames *xf = frames_of(frames);
    int rc = 0;
    for (size_t i = 0; i < SLOTS; i++) {
        if ((xf->told[i / 64] >> (i % 64) & 1) == 0)
            continue;
        xf->told[i / 64] &= ~(1ULL << (i % 64));
        if (answer(xf, i) != 0)
            rc = -EIO;
    }
    return rc;
}
