/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two devices of one guest under fuzzing, the first with two queues, and what must hold of them after every step. The
 * rule above all: an entry of the guest's grant table lets anybody at a page only while a chain that the driver has
 * given away describes the page so. The fuzzer keeps its own account of those chains, and of what the backend keeps
 * mapped.
 */
#ifndef SVQ_FUZZ_H
#define SVQ_FUZZ_H

#include "engine.h"
#include "rig_view.h"

enum {
    FUZZ_SIZE = 8, /* descriptors */
    FUZZ_RAM = 1024,
    FUZZ_HOLE = FUZZ_RAM - 4, /* from there on no RAM */
    FUZZ_DATA_GFN = 508,      /* over the border of two chunks */
    FUZZ_DATA_PAGES = 16,
    FUZZ_TABLES = 2,
    FUZZ_BOUNCE_PAGES = 16,
    FUZZ_DEVICES = 2,
    FUZZ_LANES = 3,
    FUZZ_HOLDS = 6,
    FUZZ_MARK = 40, /* of the first device */
};

struct fuzz_described {
    unsigned count;
    uint64_t bytes[2]; /* readable, writable */
    struct vring_desc seg[FUZZ_SIZE];
};

/* A chain that the driver has given away, by its head. */
struct fuzz_chain {
    bool alive;
    bool alone; /* its contents are its own: no other chain has any of its bytes, nor two of its segments */
    struct fuzz_described what;
    unsigned granted; /* pages */
    struct {
        uint32_t gref;
        uint64_t entry;
    } grant[FUZZ_BOUNCE_PAGES];
    unsigned copied; /* writable parts that are copied back: bytes of the chain's writable ones */
    struct {
        uint64_t at;
        uint32_t len;
    } copy[FUZZ_BOUNCE_PAGES];
    bool answered;    /* by a backend that did as it said, but for: */
    uint8_t seed;     /* of the bytes that it wrote, ... */
    uint32_t written; /* ... so many ... */
    uint32_t len;     /* ... of those that it claims */
};

enum fuzz_life { FUZZ_CLOSED, FUZZ_RUNNING, FUZZ_STOPPED };

struct fuzz_device {
    struct svq_device *dev;
    struct svq_guest *guest; /* the second device may be another mediator's */
    struct svq_device_config config;
    enum fuzz_life life; /* FUZZ_CLOSED, too, when its mediator died */
    bool left;           /* entries of it are in the table though it is closed */
    bool ended;          /* somebody has ended all its grants since it was opened: what is left is held */
};

/* A queue and both its peers. */
struct fuzz_lane {
    struct fuzz_device *device;
    uint16_t index; /* of the queue in its device */
    uint16_t ring;  /* in the rig */
    struct rig_queue *q;
    uint16_t driver_size;
    uint16_t checked; /* shadow avail index up to which chains have been looked at */
    struct fuzz_chain chain[FUZZ_SIZE];
    bool wild;      /* a peer has written an index that is none, or the guest has its rings as buffers */
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
    struct rig *rig; /* its machine and guest; devices are made anew for each input */
    struct svq_guest *other_guest;
    uint64_t *entries; /* the window's */
    struct fuzz_device device[FUZZ_DEVICES];
    struct fuzz_lane lane[FUZZ_LANES];
    struct fuzz_hold hold[FUZZ_HOLDS];
    bool tampered; /* the frontend has written to the window: its entries count no more */
};

#define FUZZ_MUST(condition)                                                                                           \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

static inline struct svq_queue *fuzz_queue(const struct fuzz_lane *lane)
{
    return &lane->device->dev->queues[lane->index];
}

/* The two forms of an entry that a mediator writes, in words of the fuzzer's own; mapped or not. */
static const uint64_t FUZZ_MAPPED = GTF_READING | GTF_WRITING;
static inline uint64_t fuzz_granted(uint64_t gfn, bool writable, uint64_t mark)
{
    return gfn << 32 | (uint64_t)RIG_BACKEND << 16 | mark << 9 | (writable ? 0 : GTF_READONLY) | GTF_PERMIT_ACCESS;
}
static inline uint64_t fuzz_ended(uint64_t granted) { return (granted | GTF_READONLY) & ~3ULL; }

static inline bool fuzz_runs(const struct fuzz_lane *lane) { return lane->device->life == FUZZ_RUNNING; }

/* fuzz_device.c: lives. What a device's driver has back after each of them is no more alive. */
void fuzz_open(struct fuzz *f, struct fuzz_device *device);
void fuzz_reset(struct fuzz *f, struct fuzz_lane *lane, uint16_t size);
void fuzz_stop(struct fuzz *f, struct fuzz_device *device);
void fuzz_close(struct fuzz *f, struct fuzz_device *device);
void fuzz_crash(struct fuzz *f, struct fuzz_device *device);
void fuzz_sweep(struct fuzz *f, struct fuzz_device *device); /* and opens it anew once nothing is held */
void fuzz_end(struct fuzz *f);

/* fuzz_hold.c: what the backend keeps. */
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
 * fuzz_check.c. After a forward pass: every new shadow chain covers what its descriptors describe, and no byte besides.
 */
void fuzz_check_new_chains(struct fuzz *f, struct fuzz_lane *lane);
/* After a complete pass: the driver gets back what the backend has, each chain once, with a length that it can have. */
void fuzz_check_completions(struct fuzz *f, struct fuzz_lane *lane);
/* fuzz_books.c. After any step: the table, chains and statistics agree. */
void fuzz_check_books(struct fuzz *f);
/* After a pass that may have ended chains: slots hold nothing between chains, of either side. */
void fuzz_check_slots(const struct fuzz_lane *lane);

#endif
