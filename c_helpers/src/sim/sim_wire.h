/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between the embedded machine's broker and its clients: the messages on a domain's socket (SOCK_SEQPACKET, one answer
 * for each request, file descriptors by SCM_RIGHTS), and the layouts of the memory that both map.
 */
#ifndef SVQ_SIM_WIRE_H
#define SVQ_SIM_WIRE_H

#include "svq_hv.h"
#include "svq_sim.h"

enum {
    SIM_WIRE_VERSION = 1,
    SIM_WIRE_FDS_MAX = 5,
    SIM_PRIVATE_PAGES = 1 << 18, /* frames behind the RAM from which svq_hv_share_pages takes its pages */
    SIM_SOCKET_NAME_BYTES = 32,
};

#define SIM_SOCKET_NAME "hv-dom%u.sock"

enum sim_op {
    SIM_OP_HELLO = 1,      /* args[0]: version. answer: own domid, slot, connection id. fds: connection page */
    SIM_OP_PEER,           /* domid. answer: struct sim_answer.peer. fds: memory, table, info, active, pins */
    SIM_OP_AUTHORISE,      /* domid: may we map its memory and its grant table? */
    SIM_OP_GROW_TABLE,     /* domid, args[0]: frames that its grant table must have */
    SIM_OP_SHARE,          /* domid: to whom, args[0]: pages, args[1]: peer may write. answer: gref, gfn */
    SIM_OP_UNSHARE,        /* args[0]: first gfn, args[1]: pages */
    SIM_OP_SET_READONLY,   /* domid, args[0]: gfn, args[1]: read-only */
    SIM_OP_PORT_ALLOC,     /* domid: the remote one. answer: port. fds: to wait on, to notify by */
    SIM_OP_PORT_BIND,      /* domid: the remote one, args[0]: its port. answer: port. fds: as above */
    SIM_OP_PORT_CLOSE,     /* args[0]: port */
    SIM_OP_FRAMES_WATCH,   /* domid: whose frames. fds: readable when they have changed */
    SIM_OP_FRAMES_CHANGES, /* domid. answer: how many changes there were, and how many were acknowledged */
    SIM_OP_FRAMES_ACK,     /* domid, args[0]: changes */
    SIM_OP_FRAMES_CLOSE,   /* domid */
    SIM_OP_BYE,            /* releases all that the connection holds, then ends it */
};

struct sim_request {
    uint32_t op;
    uint16_t domid;
    uint16_t reserved;
    uint64_t args[2];
};

struct sim_answer {
    int32_t status; /* 0 or -errno */
    uint16_t domid;
    uint16_t connection;
    uint32_t slot;       /* of the domain, < SVQ_SIM_DOMAINS_MAX */
    uint32_t max_frames; /* of its grant table */
    uint32_t port;
    uint32_t gref;
    uint64_t gfn;
    uint64_t ram_pages;
    uint64_t changes, acknowledged;
    uint64_t incarnation; /* tells successive domains of one slot apart */
};

/* --- shared memory ------------------------------------------------------------------------------------ */
enum {
    SIM_FRAME_HOLE = 1,     /* not RAM */
    SIM_FRAME_READONLY = 2, /* svq_hv_set_readonly */
};

enum {
    SIM_PORT_CLOSED = 0,
    SIM_PORT_UNBOUND = 1, /* or its other end was closed */
    SIM_PORT_CONNECTED = 2,
};

/* What all clients may read about a domain; only the broker writes (the memfd is sealed against others). */
struct sim_info {
    uint32_t dead;
    uint32_t grant_frames; /* present size of the grant table */
    uint32_t port_state[SVQ_SIM_PORTS_MAX];
    uint16_t frame_flags[]; /* of RAM frames */
};

/* One connection's words. `held` is the client's: how many pages and tables it holds of the domain in each slot. */
struct sim_connection_page {
    uint32_t revoked; /* the broker sets this before it takes everything away */
    uint32_t reserved;
    uint64_t held[SVQ_SIM_DOMAINS_MAX];
};

/*
 * Memory beside a domain's table, for each of its grefs:
 * active: how all connections together map it, and a lock; only the lock's holder changes it.
 * pins:   u32, one such array for each connection: how often that connection maps it.
 */
struct sim_active {
    uint64_t counts; /* the lock's owner (a connection id) in bits 0-15, then two counts */
    uint64_t mapped; /* while a count is not 0: the entry's domid and frame at its first mapping */
};

enum {
    SIM_PIN_READ = 1,        /* pins: read-only maps in the low half */
    SIM_PIN_WRITE = 1 << 16, /* pins: writable maps in the high half */
    SIM_PIN_COUNT_MAX = 0xffff,
    SIM_ACTIVE_READ_SHIFT = 16,
    SIM_ACTIVE_WRITE_SHIFT = 40,
    SIM_ACTIVE_COUNT_MAX = 0xffffff,
};

static inline uint64_t sim_info_bytes(uint64_t ram_pages)
{
    return (sizeof(struct sim_info) + ram_pages * sizeof(uint16_t) + SVQ_PAGE_SIZE - 1) &
           ~(uint64_t)(SVQ_PAGE_SIZE - 1);
}

#endif
