/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inside the embedded machine's side of the hypervisor seam: one handle of one domain, a client of the broker. */
#ifndef SVQ_SIM_CLIENT_H
#define SVQ_SIM_CLIENT_H

#include "hv_impl.h"
#include "hv_maps.h"
#include "sim_wire.h"

enum {
    SIM_READ_ONLY = 0, /* the two windows on a domain's memory */
    SIM_WRITABLE = 1,
};

/*
 * A domain whose grants we map. Both windows map all of its memory for as long as the handle is open, so mapping a
 * grant costs no system call. slots[w][gfn] says which gref maps a page of window w now, and how many times.
 */
struct sim_peer {
    uint32_t ready; /* 1: the rest is valid, and stays so while we hold anything of this domain */
    uint16_t domid;
    uint64_t incarnation;
    uint64_t ram_pages, pages;
    uint32_t max_frames;
    int memory_fd, table_fd;
    uint64_t window_bytes; /* 0: no windows */
    uint64_t window[2];    /* addresses */
    uint64_t *slots[2];
    uint64_t *table;
    struct sim_active *active;
    uint32_t *pins;
    const struct sim_info *info;
};

enum sim_area_kind { SIM_AREA_FOREIGN, SIM_AREA_TABLE, SIM_AREA_GRANTS };

/* A separate mapping, for what the windows cannot provide: foreign maps, tables, grants of scattered frames. */
struct sim_area {
    struct svq_hv_map base; /* of an enum sim_area_kind */
    uint32_t slot;
    int writable;
    uint32_t grefs[]; /* of SIM_AREA_GRANTS */
};

struct sim_hv {
    struct svq_hv base;
    int socket;
    uint16_t connection;
    uint32_t own_slot;
    pthread_mutex_t request_lock;
    struct sim_connection_page *page;
    pthread_mutex_t peers_lock;
    uint32_t peers_end;              /* slots from this one on were never used */
    uint16_t slot_of_domid[1 << 16]; /* slot + 1; 0: unknown */
    struct sim_peer peers[SVQ_SIM_DOMAINS_MAX];
    struct svq_hv_maps areas; /* of struct sim_area */
};

static inline struct sim_hv *sim_of(struct svq_hv *hv) { return (struct sim_hv *)(void *)hv; /* its first member */ }

static inline struct sim_peer *sim_own(struct sim_hv *sim) { return &sim->peers[sim->own_slot]; }

/* sim_ask.c: asks the broker. fds become -1 where the answer has none. -ENOTCONN: the machine or our domain is gone. */
int sim_ask(struct sim_hv *sim, const struct sim_request *request, struct sim_answer *answer,
            int fds[SIM_WIRE_FDS_MAX]);
/* The same, for answers that are only a status. */
int sim_call(struct sim_hv *sim, uint32_t op, uint16_t domid, uint64_t arg0, uint64_t arg1);
void sim_close_fds(int fds[SIM_WIRE_FDS_MAX]);

/*
 * sim_peer.c: finds a living domain, and counts `holds` more of its pages as held; sim_peer_put subtracts them again.
 */
int sim_peer_get(struct sim_hv *sim, uint16_t domid, uint64_t holds, struct sim_peer **out);
void sim_peer_put(struct sim_hv *sim, uint32_t slot, uint64_t holds);
/* The peer that has `va` in one of its windows. */
struct sim_peer *sim_peer_at(struct sim_hv *sim, const void *va, int *window, uint64_t *gfn);
void sim_peers_free(struct sim_hv *sim);
static inline uint32_t sim_peer_slot(const struct sim_hv *sim, const struct sim_peer *peer)
{
    return (uint32_t)(peer - sim->peers);
}
static inline uint8_t *sim_peer_va(const struct sim_peer *peer, int window, uint64_t gfn)
{
    return (uint8_t *)(uintptr_t)(peer->window[window] + (gfn << SVQ_PAGE_SHIFT));
}
static inline int sim_peer_is_hole(const struct sim_peer *peer, uint64_t gfn)
{
    return gfn < peer->ram_pages && (svq_load_u16(&peer->info->frame_flags[gfn]) & SIM_FRAME_HOLE) != 0;
}

/* sim_areas.c: maps `count` frames one after another; frames of SIM_NO_FRAME stay without access. */
#define SIM_NO_FRAME UINT64_MAX
int sim_area_create(uint32_t slot, enum sim_area_kind kind, int fd, const uint64_t *frames, size_t count, int writable,
                    struct sim_area **out);
void sim_area_publish(struct sim_hv *sim, struct sim_area *area);
/* Takes the area that starts at `va` off the list, if it has that kind and size (0: any size). */
struct sim_area *sim_area_take(struct sim_hv *sim, const void *va, enum sim_area_kind kind, size_t count);
void sim_area_unmap(const struct sim_area *area);
void sim_area_free(struct sim_area *area);
void sim_areas_free(struct sim_hv *sim);

/* sim_grants.c */
int sim_map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va);
int sim_unmap_grants(struct svq_hv *hv, void *va, size_t count);
int sim_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count);

/* sim_frames.c */
int sim_frames_watch(struct svq_hv *hv, uint16_t domid, struct svq_frames **out);
int sim_frames_fd(struct svq_frames *frames);
int sim_frames_changed(struct svq_frames *frames);
int sim_frames_ack(struct svq_frames *frames);
void sim_frames_close(struct svq_frames *frames);

/* sim_evtchn.c */
int sim_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out);
void sim_evtchn_close(struct svq_evtchn *ec);
int sim_evtchn_fd(struct svq_evtchn *ec);
int sim_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid);
int sim_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port);
int sim_evtchn_notify(struct svq_evtchn *ec, uint32_t port);
int sim_evtchn_pending(struct svq_evtchn *ec);
int sim_evtchn_unmask(struct svq_evtchn *ec, uint32_t port);
int sim_evtchn_unbind(struct svq_evtchn *ec, uint32_t port);

#endif
