/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An embedded machine in a directory of its own, for tests of the hypervisor seam. */
#ifndef SVQ_SIM_FIXTURE_H
#define SVQ_SIM_FIXTURE_H

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "barrier.h"
#include "grant.h"
#include "svq_hv.h"
#include "svq_sim.h"
#include "svq_test.h"

enum {
    MEDIATOR = 1,
    FRONTEND = 7,
    BACKEND = 9,
    STRANGER = 11,
    RAM_PAGES = 1024,
    GRANT_FRAMES = 64,
    HOLE_GFN = 500,
    HOLE_PAGES = 4,
};

struct fixture {
    char directory[128];
    struct svq_sim_machine *machine;
    struct svq_hv *mediator, *frontend, *backend;
    uint64_t *entries; /* the frontend's grant table, from frame 32 on, as the mediator maps it */
    void *entries_token;
    uint8_t *ram; /* the frontend's own view of its first pages, up to the hole */
};

enum { WINDOW_FRAME = 32, WINDOW_GREF = WINDOW_FRAME * SVQ_GRANTS_PER_FRAME, WINDOW_FRAMES = 2 };

static inline void fixture_socket(const struct fixture *f, uint16_t domid, char path[256])
{
    (void)snprintf(path, 256, "%s/hv-dom%u.sock", f->directory, domid);
}

static inline struct svq_hv *fixture_open(const struct fixture *f, uint16_t domid)
{
    struct svq_hv *hv = NULL;
    char path[256];
    fixture_socket(f, domid, path);
    REQUIRE(svq_hv_open_sim(path, &hv) == 0);
    return hv;
}

static inline void fixture_machine(struct fixture *f)
{
    const char *tmp = getenv("TMPDIR");
    memset(f, 0, sizeof *f);
    (void)snprintf(f->directory, sizeof f->directory, "%s/svq-test-XXXXXX", tmp ? tmp : "/tmp");
    REQUIRE(mkdtemp(f->directory) != NULL);
    REQUIRE(svq_sim_machine_start(f->directory, &f->machine) == 0);
    REQUIRE(svq_sim_domain_create(f->machine, MEDIATOR, 16, GRANT_FRAMES, FRONTEND) == 0);
    REQUIRE(svq_sim_domain_create(f->machine, FRONTEND, RAM_PAGES, GRANT_FRAMES, SVQ_SIM_PRIVILEGE_NONE) == 0);
    REQUIRE(svq_sim_domain_create(f->machine, BACKEND, 16, GRANT_FRAMES, SVQ_SIM_PRIVILEGE_NONE) == 0);
    REQUIRE(svq_sim_domain_create(f->machine, STRANGER, 16, 1, SVQ_SIM_PRIVILEGE_NONE) == 0);
    REQUIRE(svq_sim_domain_hole(f->machine, FRONTEND, HOLE_GFN, HOLE_PAGES) == 0);
}

static inline void fixture_start(struct fixture *f)
{
    fixture_machine(f);
    f->mediator = fixture_open(f, MEDIATOR);
    f->frontend = fixture_open(f, FRONTEND);
    f->backend = fixture_open(f, BACKEND);
    void *va;
    REQUIRE(svq_hv_map_grant_table(f->mediator, FRONTEND, WINDOW_FRAME, WINDOW_FRAMES, &va, &f->entries_token) == 0);
    f->entries = va;
    uint64_t gfns[HOLE_GFN];
    REQUIRE(svq_hv_own_pages(f->frontend, 0, HOLE_GFN, gfns, &va) == 0);
    f->ram = va;
}

static inline void fixture_stop(struct fixture *f)
{
    svq_hv_close(f->backend);
    svq_hv_close(f->frontend);
    svq_hv_close(f->mediator);
    svq_sim_machine_stop(f->machine);
    CHECK(rmdir(f->directory) == 0); /* the machine must have removed its sockets */
}

/* Grants frame `gfn` of the frontend by entry `index` of the window. Returns the gref. */
static inline uint32_t fixture_grant(struct fixture *f, uint32_t index, uint16_t to, uint32_t gfn, uint16_t flags)
{
    svq_store_u64(&f->entries[index], svq_grant_entry(0, to, gfn));
    svq_release_u64(&f->entries[index], svq_grant_entry(GTF_PERMIT_ACCESS | flags, to, gfn));
    return WINDOW_GREF + index;
}

static inline uint16_t fixture_flags(const struct fixture *f, uint32_t index)
{
    return (uint16_t)svq_acquire_u64(&f->entries[index]);
}

/* Waits for the machine to report a death; returns the domid, or -1 if none came in time. */
static inline int fixture_next_death(const struct fixture *f)
{
    struct pollfd pfd = { .fd = svq_sim_event_fd(f->machine), .events = POLLIN };
    int kind = 0;
    uint16_t domid = 0;
    if (poll(&pfd, 1, 20000) != 1 || svq_sim_next_event(f->machine, &kind, &domid) != 1)
        return -1;
    return kind == SVQ_SIM_EVENT_DIED ? domid : -1;
}

#endif
