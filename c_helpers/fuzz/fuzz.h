/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two devices of one guest under fuzzing, the first with two queues, and what must hold for them after every step. The
 * main rule: an entry of the guest's grant table opens a page to somebody only while a chain that the driver has given
 * away describes that page with that access. The fuzzer keeps its own account of those chains, and of what the backend
 * keeps mapped.
 */
#ifndef SVQ_FUZZ_H
#define SVQ_FUZZ_H

#include "engine.h"
#include "rig_view.h"

enum {
    FUZZ_SIZE = 8, /* descriptors */
    FUZZ_RAM = 1024,
    FUZZ_HOLE = FUZZ_RAM - 4, /* the frames from here on are not RAM */
    FUZZ_DATA_GFN = 508,      /* across the border between two chunks */
    FUZZ_DATA_PAGES = 16,
    FUZZ_TABLES = 2,
    FUZZ_BOUNCE_PAGES = 16,
    FUZZ_DEVICES = 2,
    FUZZ_LANES = 3,
    FUZZ_HOLDS = 6,
    FUZZ_MARK = 40, /* the first device's mark */
};

struct fuzz_described {
    unsigned count;
    uint64_t bytes[2]; /* readable, writable */
    struct vring_desc seg[FUZZ_SIZE];
};

/* A chain that the driver has given away, found by its head. */
struct fuzz_chain {
    bool alive;
    bool alone; /* it shares no byte with another chain, and its segments share none with each other */
    struct fuzz_described what;
    unsigned granted; /* pages */
    struct {
        uint32_t gref;
        uint64_t entry;
    } grant[FUZZ_BOUNCE_PAGES];
    unsigned copied; /* bytes of writable parts that are copied back */
    struct {
        uint64_t at;
        uint32_t len;
    } copy[FUZZ_BOUNCE_PAGES];
    bool answered;    /* by a backend that did what it said, except for: */
    uint8_t seed;     /* seed of the bytes that it wrote */
    uint32_t written; /* how many it wrote, ... */
    uint32_t len;     /* ... and how many it claims */
};

enum fuzz_life { FUZZ_CLOSED, FUZZ_RUNNING, FUZZ_STOPPED };

struct fuzz_device {
    struct svq_device *dev;
    struct svq_guest *guest; /* the second device may belong to another mediator */
    struct svq_device_config config;
    enum fuzz_life life; /* FUZZ_CLOSED also when its mediator has died */
    bool left;           /* it is closed, but entries of it are still in the table */
    bool ended;          /* all its grants have been ended since it was opened: what is left is held */
};

/* A queue and both its peers. */
struct fuzz_lane {
    struct fuzz_device *device;
    uint16_t index; /* of the queue in its device */
    uint16_t ring;  /* number of the ring in the rig */
    struct rig_queue *q;
    uint16_t driver_size;
    uint16_t checked; /* shadow avail index up to which we have checked chains */
    struct fuzz_chain chain[FUZZ_SIZE];
    bool wild;      /* a peer has written a bad index, or the guest uses its rings as buffers */
    bool scribbled; /* the backend has written to slots that are not in use */
    bool driver_sleeps, backend_sleeps, engine_sleeps;
};

struct fuzz_hold {
    void *va; /* NULL: none */
    uint32_t gref;
    bool writable;
    struct fuzz_lane *lane;
};

struct fuzz {
    struct rig *rig; /* its machine and guest; each input gets new devices */
    struct svq_guest *other_guest;
    uint64_t *entries; /* the window's */
    struct fuzz_device device[FUZZ_DEVICES];
    struct fuzz_lane lane[FUZZ_LANES];
    struct fuzz_hold hold[FUZZ_HOLDS];
    bool tampered; /* the frontend has written to the window, so its entries no longer count */
};

#define FUZZ_MUST(condition)                                                                                           \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fuzz_failed(__FILE__, __LINE__, #condition);                                                               \
    } while (0)
_Noreturn void fuzz_failed(const char *file, int line, const char *condition);

static inline struct svq_queue *fuzz_queue(const struct fuzz_lane *lane)
{
    return &lane->device->dev->queues[lane->index];
}

/* The two forms of an entry that a mediator writes, defined here independently; mapped or not. */
static const uint64_t FUZZ_MAPPED = GTF_READING | GTF_WRITING;
static inline uint64_t fuzz_granted(uint64_t gfn, bool writable, uint64_t mark)
{
    return gfn << 32 | (uint64_t)RIG_BACKEND << 16 | mark << 9 | (writable ? 0 : GTF_READONLY) | GTF_PERMIT_ACCESS;
}
static inline uint64_t fuzz_ended(uint64_t granted) { return (granted | GTF_READONLY) & ~3ULL; }

static inline bool fuzz_runs(const struct fuzz_lane *lane) { return lane->device->life == FUZZ_RUNNING; }

/* fuzz_device.c: the life of a device. Chains that the driver has back after a call are no longer alive. */
void fuzz_open(struct fuzz *f, struct fuzz_device *device);
void fuzz_reset(struct fuzz *f, struct fuzz_lane *lane, uint16_t size);
void fuzz_stop(struct fuzz *f, struct fuzz_device *device);
void fuzz_close(struct fuzz *f, struct fuzz_device *device);
void fuzz_crash(struct fuzz *f, struct fuzz_device *device);
void fuzz_sweep(struct fuzz *f, struct fuzz_device *device); /* and opens it again once nothing is held */
void fuzz_end(struct fuzz *f);

/* fuzz_hold.c: what the backend keeps mapped. */
void fuzz_hold(struct fuzz *f, uint8_t which, bool writable);
void fuzz_hold_again(struct fuzz *f, unsigned which, bool writable);
void fuzz_let_go(struct fuzz *f, unsigned which);
unsigned fuzz_held_pages(const struct fuzz *f, const struct fuzz_device *device);
bool fuzz_is_held(const struct fuzz *f, const struct fuzz_lane *lane, const struct fuzz_chain *chain);

/* fuzz_peers.c: the driver's and the backend's side of a lane, and passes of the engine between them. */
void fuzz_offer(struct fuzz_lane *lane, uint16_t head);
void fuzz_forward(struct fuzz *f, struct fuzz_lane *lane, unsigned chains);
void fuzz_answer(struct fuzz *f, struct fuzz_lane *lane, uint16_t len, uint16_t written, uint8_t seed);
void fuzz_give(struct fuzz_lane *lane, uint32_t id, uint32_t len);
void fuzz_complete(struct fuzz *f, struct fuzz_lane *lane);
void fuzz_sleep(struct fuzz_lane *lane, unsigned who);
void fuzz_scribble(struct fuzz *f, struct fuzz_lane *lane, uint8_t byte);

/*
 * fuzz_check.c. After a forward pass: every new shadow chain covers exactly what its descriptors describe, and no other
 * byte.
 */
void fuzz_check_new_chains(struct fuzz *f, struct fuzz_lane *lane);
/* After a complete pass: the driver gets back what the backend had, each chain once, with a possible length. */
void fuzz_check_completions(struct fuzz *f, struct fuzz_lane *lane);
/* fuzz_books.c. After any step: the table, chains and statistics agree. */
void fuzz_check_books(struct fuzz *f);
/* After a pass that may have ended chains: between chains, slots hold nothing of either side. */
void fuzz_check_slots(const struct fuzz_lane *lane);

#endif
