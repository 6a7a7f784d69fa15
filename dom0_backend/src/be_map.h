/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory of requests. Window pages (the frontend's) are mapped for one request, with one call for each access mode, and
 * unmapped before it returns; or they are copied, where a request has few of them. Mediator pages come from the cache.
 */
#ifndef SVQ_BE_MAP_H
#define SVQ_BE_MAP_H

#include "be_cache.h"
#include "be_copy.h"
#include "be_req.h"

struct svq_be_map {
    struct svq_hv *hv;
    struct svq_be_window window;
    struct svq_be_cache cache;
    struct svq_be_copy copy;
    bool map_all; /* copy nothing for now */
    struct svq_be_stats *stats;
    uint32_t grefs[SVQ_BE_REQ_PAGES_MAX]; /* scratch of one call */
};

int svq_be_map_init(struct svq_be_map *map, struct svq_hv *hv, const struct svq_be_config *config,
                    struct svq_be_stats *stats);
void svq_be_map_fini(struct svq_be_map *map);

/*
 * Maps what req->chain describes and sets req->in, req->out and req->status_at. Frontend pages that cannot be mapped
 * (or are too many) are the frontend's fault, and only make the request `unreachable`. -EAGAIN: try again when another
 * request has ended. -EPROTO: a mediator page is not granted as its descriptor says. -EIO: unmapping failed.
 *
 * What is copied is there after svq_be_map_copy_in.
 */
int svq_be_map_request(struct svq_be_map *map, struct svq_be_req *req);

/* Copies in, with one call, what requests were mapped for since the last time. Then ask each: */
void svq_be_map_copy_in(struct svq_be_map *map);
/* Makes a request `unreachable` if it has not all been copied. */
void svq_be_map_check_in(struct svq_be_map *map, struct svq_be_req *req);

static inline bool svq_be_map_copies_out(const struct svq_be_req *req) { return req->mem.slot[1] >= 0; }
/* Copies out what such a request has to return, its status included, when svq_be_map_copy_out is called. */
void svq_be_map_add_out(struct svq_be_map *map, struct svq_be_req *req);
/*
 * Copies out, with one call, what was added since the last time, which are all requests of `list`, linked by `next`.
 * One that could not be copied becomes unreachable: IOERR.
 */
void svq_be_map_copy_out(struct svq_be_map *map, struct svq_be_req *list);

/* Unmaps everything of the request. -errno: the hypervisor refused, and a page may still be mapped. */
int svq_be_unmap_request(struct svq_be_map *map, struct svq_be_req *req);

/* The reader of indirect tables (be_chain.h); context is the map. */
int svq_be_map_read_table(void *context, uint32_t gref, uint32_t offset, uint32_t count, struct vring_desc *table);

#endif
