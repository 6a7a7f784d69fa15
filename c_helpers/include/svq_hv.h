/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hypervisor seam: everything that ShadowVQ asks of the machine below it.
 *
 * Two implementations stand behind it: `sim` (hv_sim.c, the embedded machine) and `xen` (hv_xen.c, the real libraries
 * through dlopen). Everything above this header is the same code in both.
 *
 * Python reads this header too: cffi parses it with the preprocessor lines removed, so it holds plain declarations only
 * (constants are enums, nothing is inline).
 *
 * Conventions: every int result is 0 (or a count) or -errno. Threads may share handles, except a struct svq_evtchn or
 * svq_frames, which belongs to one thread (as xenevtchn demands). Nothing here prints.
 */
#ifndef SVQ_HV_H
#define SVQ_HV_H

#include <stddef.h>
#include <stdint.h>

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

enum {
    SVQ_PAGE_SHIFT = 12,
    SVQ_PAGE_SIZE = 4096,
    SVQ_GRANTS_PER_FRAME = 512, /* version 1 entries, 8 bytes each */
};

struct svq_hv;     /* one domain's view of the hypervisor */
struct svq_evtchn; /* one thread's set of event channel ports */
struct svq_frames; /* one thread's watch on the frames of a guest */

/* What one handle has asked of the hypervisor so far, and what it still holds ("live"). */
struct svq_hv_counters {
    uint64_t hypercalls;         /* calls that cross into the hypervisor (sim: calls that would on Xen) */
    uint64_t foreign_maps;       /* calls of map_foreign */
    uint64_t foreign_pages_live; /* pages now mapped as foreign memory, including those with an error */
    uint64_t grant_maps;         /* calls of map_grants */
    uint64_t grant_unmaps;       /* calls of unmap_grants: each is a flushing unmap */
    uint64_t grant_pages_mapped; /* pages mapped by grant so far */
    uint64_t grant_pages_live;   /* pages mapped by grant now */
    uint64_t grant_copies;       /* calls of copy_grants */
    uint64_t grant_bytes_copied; /* by those calls */
    uint64_t grant_tables_live;  /* grant tables of other domains mapped now */
    uint64_t shared_pages_live;  /* own pages granted to others now */
    uint64_t notifies;           /* event channel notifications sent */
    uint64_t ports_live;         /* event channel ports open now */
};

/*
 * Opens the embedded machine as the domain that `socket_path` belongs to (each domain has a socket of its own, which is
 * its identity). -ENOENT: there is no machine. -EACCES: the domain is dead.
 */
int svq_hv_open_sim(const char *socket_path, struct svq_hv **out);

/* Opens the real libraries with dlopen. -ENOSYS: not on Xen, or a library is missing (svq_hv_why says which). */
int svq_hv_open_xen(struct svq_hv **out);

/*
 * Why the last open in this thread failed, as a sentence for the operator. Never NULL. xen: also why a device node
 * could not be opened when it was first needed.
 */
const char *svq_hv_why(void);

/* Releases all that the handle still holds, including its event channels, then the handle. */
void svq_hv_close(struct svq_hv *hv);

const char *svq_hv_name(const struct svq_hv *hv); /* "sim" or "xen" */
int svq_hv_domid(const struct svq_hv *hv);        /* own domid; xen: -ENOSYS until svq_hv_set_domid */
/* xen: the libraries do not know our own domid; whoever read it from XenStore sets it. sim: -EPERM for another one. */
int svq_hv_set_domid(struct svq_hv *hv, uint16_t domid);
void svq_hv_read_counters(const struct svq_hv *hv, struct svq_hv_counters *out);

/*
 * Maps `count` guest frames of domain `domid`, in that order and contiguously in our address space. errs[i] becomes 0
 * or -errno for each frame (a frame that is not RAM: -EINVAL). Touching a page with an error faults, so the caller must
 * check errs. Returns 0 if the caller may map that domain at all, -EPERM if not (then no page is mapped), -ESRCH if
 * there is no such domain.
 */
int svq_hv_map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable, int *errs,
                       void **va);
int svq_hv_unmap_foreign(struct svq_hv *hv, void *va, size_t count);

/*
 * Maps frames [first_frame, first_frame + frames) of the grant table (version 1) of `domid`, writable. Frames beyond
 * the table's present size make it grow, up to the domain's max_grant_frames; -EINVAL beyond that. -EPROTONOSUPPORT:
 * the table has version 2. *token names the mapping for unmap.
 */
int svq_hv_map_grant_table(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                           void **token);
int svq_hv_unmap_grant_table(struct svq_hv *hv, void *token);

/*
 * The most frames that the grant table of `domid` may grow to (its max_grant_frames). xen: also tries to map the table,
 * and fails as svq_hv_map_grant_table would.
 */
int svq_hv_grant_table_frames(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames);

/*
 * Allocates `count` zeroed pages of our own, contiguous in our address space, and grants each to `peer_domid`:
 * read-only or writable. grefs[i] belong to our own domid. -ENOSPC: our grant table is full.
 */
int svq_hv_share_pages(struct svq_hv *hv, uint16_t peer_domid, size_t count, int peer_may_write, uint32_t *grefs,
                       void **va);
int svq_hv_unshare_pages(struct svq_hv *hv, void *va, size_t count);

/*
 * Maps `count` grants of `domid`, contiguously in our address space. All or nothing: -EACCES if an entry does not grant
 * us that access, -EINVAL if its frame is not RAM, -ENOENT if the gref is beyond the table. While mapped, the entry's
 * flags carry GTF_reading (and GTF_writing when mapped writable).
 *
 * While a domain has an entry mapped, that domain and no other may map the page of its first mapping again, whatever
 * the entry says by then. One exception: a domain that has no writable mapping yet cannot get one while GTF_readonly is
 * set.
 */
int svq_hv_map_grants(struct svq_hv *hv, uint16_t domid, const uint32_t *grefs, size_t count, int writable, void **va);
int svq_hv_unmap_grants(struct svq_hv *hv, void *va, size_t count);

/* A piece of a granted page that the hypervisor copies, to or from memory of our own. */
struct svq_hv_copy {
    void *local; /* ordinary memory of this process, not itself mapped by grant */
    uint32_t gref;
    uint16_t offset;  /* in the granted page, which the piece does not leave */
    uint16_t length;  /* bytes, at least 1 */
    int32_t to_grant; /* 1: into the granted page; 0: out of it */
    int32_t result;   /* set by the call: 0 or -errno, as of map_grants */
};

/*
 * Copies pieces of pages that `domid` has granted to us, without mapping any: only while a piece is being copied do the
 * entry's flags carry GTF_reading (and GTF_writing for to_grant). Each piece has a result of its own, and a piece that
 * fails keeps none of the others from being copied. Returns 0 if the call was made; -ENOSYS: the library or the kernel
 * has no such call. Then and after any other error, every result is that error.
 */
int svq_hv_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count);

/*
 * Pages of our own domain's memory whose guest frame numbers we know: a user-space driver builds its rings and buffers
 * from them. sim: frames of the domain's memory from `first_gfn` on (gfns[i] = first_gfn + i). xen: locked anonymous
 * memory; first_gfn is ignored.
 */
int svq_hv_own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va);
int svq_hv_release_own_pages(struct svq_hv *hv, void *va, size_t count);

/* Makes a guest frame of `domid` read-only to its owner (or writable again). -ENOSYS: the machine cannot do that. */
int svq_hv_set_readonly(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly);

/*
 * --- frames that become other pages ---------------------------------------------------------------------------
 * A mapping of a guest's frame keeps showing the old page after the guest has ballooned it out and in again. With a
 * watch the hypervisor reports such changes, and the guest's processor that makes one *waits* until we acknowledge it.
 * So:
 *
 *     watch; map as you like; whenever svq_frames_changed returns 1: drop every mapping of that guest, then
 *     svq_frames_ack; drop every mapping; close
 *
 * The hypervisor reports only frames that go (tried on Xen 4.17), not those that come back: a frame that could not be
 * mapped may be there now.
 *
 * So the watcher must be neither slow nor absent: when its process dies, the guest waits at its next balloon operation
 * until another process of the same domain watches. That process takes over what the dead one left, including its
 * unanswered changes. If the watching *domain* is destroyed, nobody can take over and the guest waits forever, so this
 * is for dom0 alone: -ENOSYS elsewhere. -EBUSY: another living process watches that guest.
 */
int svq_frames_watch(struct svq_hv *hv, uint16_t domid, struct svq_frames **out);
int svq_frames_fd(struct svq_frames *frames);      /* readable when svq_frames_changed may return 1 */
int svq_frames_changed(struct svq_frames *frames); /* 1: frames have changed since the last acknowledgement; else 0 */
int svq_frames_ack(struct svq_frames *frames);     /* acknowledges what svq_frames_changed has reported */
void svq_frames_close(struct svq_frames *frames);  /* acknowledges everything and ends the watch */

/* --- event channels -------------------------------------------------------------------------------------- */
int svq_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out);
void svq_evtchn_close(struct svq_evtchn *ec); /* closes its ports too */
int svq_evtchn_fd(struct svq_evtchn *ec);     /* readable (poll, epoll) while an unmasked port is pending */
int svq_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid); /* a local port, or -errno */
/* A local port, or -errno. As on Xen, it starts out pending: the other end may have notified already. */
int svq_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port);
int svq_evtchn_notify(struct svq_evtchn *ec, uint32_t port);
int svq_evtchn_pending(struct svq_evtchn *ec); /* returns a pending port and masks it; -EAGAIN if there is none */
int svq_evtchn_unmask(struct svq_evtchn *ec, uint32_t port);
int svq_evtchn_unbind(struct svq_evtchn *ec, uint32_t port);

#pragma GCC visibility pop

#endif
