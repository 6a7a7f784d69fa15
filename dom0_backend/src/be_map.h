/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory of requests. Window pages (the frontend's) are mapped for all requests that one pass takes up, with one call
 * per access mode, and unmapped before their request is returned: each request's by themselves, and with one call where
 * requests that end together lie side by side. Mediator pages come from the cache.
 */
#ifndef SVQ_BE_MAP_H
#define SVQ_BE_MAP_H

#include "be_cache.h"
#include "be_req.h"

struct svq_be_map {
    struct svq_hv *hv;
    struct svq_be_window window;
    struct svq_be_cache cache;
    struct svq_be_stats *stats;
    bool parts;                           /* requests may share a mapping: a part of it can be unmapped by itself */
    uint32_t grefs[SVQ_BE_REQ_PAGES_MAX]; /* scratch of one call */
};

int svq_be_map_init(struct svq_be_map *map, struct svq_hv *hv, const struct svq_be_config *config,
                    struct svq_be_stats *stats);
void svq_be_map_fini(struct svq_be_map *map);

/*
 * The first half of mapping what req->chain describes: all that may be refused for now, while the request can still be
 * put back. Takes hold of its mediator pages. -EAGAIN: try again when another request has ended. -EPROTO: a mediator
 * page is not granted as its descriptor says. After an error it holds nothing.
 */
int svq_be_map_begin(struct svq_be_map *map, struct svq_be_req *req);

/*
 * The second half, for requests of one queue together: maps their frontend pages, and sets req->in, req->out and
 * req->status_at of each. Frontend pages that cannot be mapped (or are too many) are the frontend's fault and only make
 * their request `unreachable`. See svq_be_map_stuck for what else may have gone wrong.
 */
void svq_be_map_window(struct svq_be_map *map, struct svq_be_req **reqs, uint32_t count);

/* True: an unmap was refused, and a page of the request may still be mapped. */
static inline bool svq_be_map_stuck(const struct svq_be_req *req)
{
    return req->mem.window[0].error || req->mem.window[1].error;
}

/* Nothing touches the pages of the request any more: they may be unmapped together with a neighbour's. */
void svq_be_map_done(struct svq_be_req *req);

/* Unmaps everything of the request. -errno: the hypervisor refused, and a page may still be mapped. */
int svq_be_unmap_request(struct svq_be_map *map, struct svq_be_req *req);

/* The reader of indirect tables (be_chain.h); context is the map. */
int svq_be_map_read_table(void *context, uint32_t gref, uint32_t offset, uint32_t count, struct vring_desc *table);

#endif
