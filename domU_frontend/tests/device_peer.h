/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device's side of a split ring, and a block device in memory behind it: a peer for the driver's tests. It shares
 * no code with the driver, counts what a driver must not do, and lies on demand.
 */
#ifndef SVQ_DEVICE_PEER_H
#define SVQ_DEVICE_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PEER_SEGMENTS_MAX = 1024,
    PEER_SECTOR = 512,
};

enum peer_lie {
    PEER_HONEST,
    PEER_SILENT,    /* takes requests, never completes them */
    PEER_BAD_ID,    /* used id beyond the ring */
    PEER_TWICE,     /* completes each chain twice */
    PEER_LONG,      /* used len beyond the writable bytes */
    PEER_JUMP,      /* used.idx far ahead */
    PEER_SPILL,     /* writes the byte after the status */
    PEER_HEADER,    /* writes into the header */
    PEER_FAILS,     /* status 1, honestly */
    PEER_NO_STATUS, /* used len 0, status untouched */
};

struct peer_segment {
    uint64_t gpa;
    uint32_t len;
    bool writable;
};

struct peer_chain {
    uint16_t head;
    uint32_t n;
    bool indirect;
    struct peer_segment seg[PEER_SEGMENTS_MAX];
};

struct device_peer {
    /* Where a byte range of guest physical memory lies; NULL if not all of it is contiguous memory. */
    void *(*va)(void *opaque, uint64_t gpa, uint64_t len);
    void *opaque;
    uint64_t desc, avail, used;
    uint32_t size;
    bool event_idx;
    bool indirect;
    enum peer_lie lie;
    uint8_t *disk;
    uint64_t disk_bytes;
    bool reverse; /* complete in reverse order of submission, as far as known */
    uint16_t seen;
    uint16_t used_idx;
    uint16_t signalled;
    /* what was seen */
    uint64_t violations; /* of the specification, by the driver; `violation` has the first one */
    const char *violation;
    uint64_t indirect_chains;
    uint64_t chains;
    uint32_t segments_last; /* of the last chain */
};

/* The next chain: true if there was one. */
bool peer_pop(struct device_peer *p, struct peer_chain *chain);
/* Returns a chain: writes the entry and moves used.idx. */
void peer_push(struct device_peer *p, uint32_t id, uint32_t len);
/* Serves all that is available. Returns how many chains it took. */
unsigned peer_serve(struct device_peer *p);
/* Since the last call: does the driver want to be interrupted? */
bool peer_wants_interrupt(struct device_peer *p);
/* Asks for kicks. True: there already is one. */
bool peer_arm(struct device_peer *p);
/* Asks for no kicks. */
void peer_disarm(struct device_peer *p);

#endif
