/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of one entry that we write in a frontend's grant table: free, granted, held, free again. Each step is one
 * compare-and-swap of all 64 bits, since three others may write the same word meanwhile: the hypervisor (the two bits
 * that say that it is mapped), the frontend (anything; only its own memory is at stake), and another mediator (entries
 * that are 0).
 *
 *   free      0
 *   granted   GTF_permit_access, perhaps GTF_readonly, the device's mark, grantee and frame
 *   held      ended, but the grantee has it mapped: no type, GTF_readonly, the rest as it was. Nothing that we write
 *             can take the page from the grantee, who may even map it again, until its last mapping is gone (tried on
 *             Xen 4.17). After that, nobody can map an entry without a type. GTF_readonly keeps a grantee that reads
 *             from writing.
 *
 * The mark, 1 to 127, tells the successor of a mediator that died which device's entry it is. Xen ignores and preserves
 * flag bits 9 to 15 (tried on Xen 4.17), and no guest's kernel sets them.
 */
#ifndef SVQ_GRANT_ENTRY_H
#define SVQ_GRANT_ENTRY_H

#include "barrier.h"
#include "check.h"
#include "grant.h"

enum {
    SVQ_MARK_SHIFT = 9,
    SVQ_MARK_MAX = 127,
    SVQ_ENTRY_TRIES = 64, /* a grantee can map and unmap while we try, but we do not try forever */
};

enum svq_end {
    SVQ_ENDED,
    SVQ_HELD,     /* its grantee has it mapped: try again when it may have let go */
    SVQ_FOUGHT,   /* the same, but it still has its type: its grantee keeps mapping and unmapping it */
    SVQ_TAMPERED, /* not what we wrote: the frontend overwrote it, at its own risk */
};

#define SVQ_ENTRY_MAPPED ((uint64_t)(GTF_READING | GTF_WRITING))

/* The entry that grants a frame to `domid`, for the device with that mark. */
static inline uint64_t svq_entry_granted(uint64_t domid, uint64_t frame, bool writable, uint64_t mark)
{
    uint64_t flags = GTF_PERMIT_ACCESS | (writable ? 0u : (uint64_t)GTF_READONLY) | mark << SVQ_MARK_SHIFT;
    return flags | domid << 16 | frame << 32;
}

/* What an entry becomes if it is ended while it is mapped; the hypervisor's two bits stay as in `entry`. */
static inline uint64_t svq_entry_held(uint64_t entry) { return (entry & ~(uint64_t)GTF_TYPE_MASK) | GTF_READONLY; }

static inline uint32_t svq_entry_mark(uint64_t entry) { return (uint32_t)(entry >> SVQ_MARK_SHIFT) & SVQ_MARK_MAX; }

/*
 * Grants. False: the entry is not free, so it is somebody else's, and stays as it is. `alone`: only the calling thread
 * takes entries here, so a look and a store will do; only the frontend itself could come between, and would harm only
 * itself.
 */
static inline bool svq_entry_take(uint64_t *entry, uint64_t granted, bool alone)
{
    uint64_t expected = 0;
    if (svq_unlikely(!alone))
        return svq_cas_u64(entry, &expected, granted);
    if (svq_unlikely(svq_load_u64(entry) != 0))
        return false;
    svq_release_u64(entry, granted);
    return true;
}

/*
 * One step of ending: `seen` is the present entry. True: *outcome is the result; false: the entry changed, and *seen is
 * its new value.
 */
static inline bool svq_entry_try_end(uint64_t *entry, uint64_t *seen, enum svq_end *outcome)
{
    uint64_t mapped = *seen & SVQ_ENTRY_MAPPED, next = mapped ? svq_entry_held(*seen) : 0;
    *outcome = mapped ? SVQ_HELD : SVQ_ENDED;
    return next == *seen || svq_cas_u64(entry, seen, next);
}

/* Ends the entry, last read as `seen`, while it equals one of these two apart from the hypervisor's bits. */
static inline enum svq_end svq_entry_end_of(uint64_t *entry, uint64_t seen, uint64_t one, uint64_t other)
{
    enum svq_end outcome;
    for (int tries = 0; tries < SVQ_ENTRY_TRIES; tries++) {
        uint64_t ours = seen & ~SVQ_ENTRY_MAPPED;
        if (ours != one && ours != other)
            return SVQ_TAMPERED;
        if (svq_entry_try_end(entry, &seen, &outcome))
            return outcome;
    }
    return SVQ_FOUGHT;
}

/* Ends what `granted` granted. */
static inline enum svq_end svq_entry_end(uint64_t *entry, uint64_t granted)
{
    uint64_t seen = granted;
    if (svq_likely(svq_cas_u64(entry, &seen, 0)))
        return SVQ_ENDED;
    return svq_entry_end_of(entry, seen, granted, svq_entry_held(granted));
}

/*
 * Tries again to end an entry that has been held since. What looks like a grant is a later one of the same page, not
 * ours.
 */
static inline enum svq_end svq_entry_end_held(uint64_t *entry, uint64_t granted)
{
    uint64_t held = svq_entry_held(granted);
    return svq_entry_end_of(entry, svq_load_u64(entry), held, held);
}

/* The marks of a set of devices. */
struct svq_marks {
    uint64_t bits[2];
};

static inline bool svq_marks_have(const struct svq_marks *marks, uint32_t mark)
{
    return marks->bits[mark / 64] >> (mark % 64) & 1;
}

/*
 * Ends whatever an entry with one of these marks grants. SVQ_TAMPERED: the entry has none of them, and stays as it is.
 */
static inline enum svq_end svq_entry_sweep(uint64_t *entry, const struct svq_marks *marks)
{
    uint64_t seen = svq_load_u64(entry);
    enum svq_end outcome;
    for (int tries = 0; tries < SVQ_ENTRY_TRIES; tries++) {
        if (!svq_entry_mark(seen) || !svq_marks_have(marks, svq_entry_mark(seen)))
            return SVQ_TAMPERED;
        if (svq_entry_try_end(entry, &seen, &outcome))
            return outcome;
    }
    return SVQ_FOUGHT;
}

#endif
