/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Xen's user-space libraries, opened at run time: libxengnttab, libxenforeignmemory and libxenevtchn, all of ABI
 * version 1, which Xen keeps stable. Prototypes as in tools/include/{xengnttab,xenforeignmemory,xenevtchn}.h of
 * Xen 4.17, with void * for their opaque handles, so that building needs no Xen headers.
 */
#ifndef SVQ_XEN_LIBS_H
#define SVQ_XEN_LIBS_H

#include "hv_impl.h"

/* xen_pfn_t and off_t-sized words are 64 bits wide on x86_64 and on Arm64; this code is for those only. */
_Static_assert(sizeof(long) == 8, "64-bit only");

/* A piece of xengnttab_grant_copy: one of source and dest is memory of our own, the other a granted page. */
union xen_copy_end {
    void *virt;
    struct {
        uint32_t ref;
        uint16_t offset;
        uint16_t domid;
    } foreign;
};

struct xen_copy_segment {
    union xen_copy_end source, dest;
    uint16_t len;
    uint16_t flags; /* which of the two is granted: enum xen_copy_flags */
    int16_t status; /* GNTST_* of Xen's public/grant_table.h */
};

_Static_assert(sizeof(struct xen_copy_segment) == 24, "as in xengnttab.h, and in Linux's uapi/xen/gntdev.h");

enum xen_copy_flags { XEN_COPY_SOURCE_GREF = 1, XEN_COPY_DEST_GREF = 2 }; /* GNTCOPY_* of public/grant_table.h */

/* All of these return NULL or -1 and set errno when they fail. */
struct xen_libs {
    /* grants of others */
    void *(*gnttab_open)(void *logger, unsigned int flags);
    int (*gnttab_close)(void *gnttab);
    void *(*gnttab_map_domain_grant_refs)(void *gnttab, uint32_t count, uint32_t domid, uint32_t *refs, int prot);
    int (*gnttab_unmap)(void *gnttab, void *start, uint32_t count);
    int (*gnttab_grant_copy)(void *gnttab, uint32_t count,
                             struct xen_copy_segment *segments); /* since 4.8; NULL where missing */
    /* grants to others */
    void *(*gntshr_open)(void *logger, unsigned int flags);
    int (*gntshr_close)(void *gntshr);
    void *(*gntshr_share_pages)(void *gntshr, uint32_t domid, int count, uint32_t *refs, int writable);
    int (*gntshr_unshare)(void *gntshr, void *start, uint32_t count);
    /* foreign memory and grant tables */
    void *(*foreignmemory_open)(void *logger, unsigned int flags);
    int (*foreignmemory_close)(void *fmem);
    int (*foreignmemory_restrict)(void *fmem, uint16_t domid);
    void *(*foreignmemory_map)(void *fmem, uint32_t domid, int prot, size_t pages, const uint64_t *gfns, int *errs);
    int (*foreignmemory_unmap)(void *fmem, void *va, size_t pages);
    void *(*foreignmemory_map_resource)(void *fmem, uint16_t domid, unsigned int type, unsigned int id,
                                        unsigned long frame, unsigned long frames, void **va, int prot, int flags);
    int (*foreignmemory_unmap_resource)(void *fmem, void *resource);
    int (*foreignmemory_resource_size)(void *fmem, uint16_t domid, unsigned int type, unsigned int id,
                                       size_t *bytes); /* since 4.16; NULL where missing */
    /* event channels */
    void *(*evtchn_open)(void *logger, unsigned int flags);
    int (*evtchn_close)(void *evtchn);
    int (*evtchn_fd)(void *evtchn);
    int (*evtchn_notify)(void *evtchn, uint32_t port);
    int (*evtchn_bind_unbound_port)(void *evtchn, uint32_t domid);
    int (*evtchn_bind_interdomain)(void *evtchn, uint32_t domid, uint32_t remote_port);
    int (*evtchn_unbind)(void *evtchn, uint32_t port);
    int (*evtchn_pending)(void *evtchn);
    int (*evtchn_unmask)(void *evtchn, uint32_t port);
};

/* Loads them once for the process. -ENOSYS: one is missing (svq_hv_why names it). */
int xen_libs_load(const struct xen_libs **out);

/* A logger that says nothing: without one, the libraries print to stderr. */
void *xen_silent_logger(void);

/* A device node that a library opens, and what provides it. */
struct xen_node {
    const char *path;
    const char *module;
};

extern const struct xen_node xen_node_privcmd, xen_node_gntdev, xen_node_gntalloc, xen_node_evtchn;

/* Makes svq_hv_why explain why opening a node failed with `err` (an errno). Returns -err. */
int xen_node_failed(const struct xen_node *node, int err);

#endif
