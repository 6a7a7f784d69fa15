/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The hypervisor's own copy on Xen: GNTTABOP_copy, by way of gntdev's IOCTL_GNTDEV_GRANT_COPY. */
#include <errno.h>

#include "xen_hv.h"

enum { SEGMENTS = 64 }; /* on the stack, for one call of the library */

/* Xen's public/grant_table.h, enum grant_status */
enum {
    GNTST_OKAY = 0,
    GNTST_GENERAL_ERROR = -1, /* above all: the entry grants us no such access (xen/common/grant_table.c) */
    GNTST_BAD_DOMAIN = -2,
    GNTST_BAD_GNTREF = -3,
    GNTST_PERMISSION_DENIED = -8,
    GNTST_BAD_PAGE = -9,
    GNTST_BAD_COPY_ARG = -10,
    GNTST_EAGAIN = -12,
    GNTST_NO_SPACE = -13,
};

static int errno_of(int16_t status)
{
    switch (status) {
    case GNTST_OKAY: return 0;
    case GNTST_GENERAL_ERROR:
    case GNTST_PERMISSION_DENIED: return -EACCES;
    case GNTST_BAD_DOMAIN: return -ESRCH;
    case GNTST_BAD_GNTREF: return -ENOENT;
    case GNTST_BAD_PAGE:
    case GNTST_BAD_COPY_ARG: return -EINVAL;
    case GNTST_EAGAIN: return -EAGAIN;
    case GNTST_NO_SPACE: return -ENOSPC;
    default: return -EIO;
    }
}

static struct xen_copy_segment segment_of(uint16_t domid, const struct svq_hv_copy *op)
{
    union xen_copy_end granted = { .foreign = { .ref = op->gref, .offset = op->offset, .domid = domid } };
    union xen_copy_end local = { .virt = op->local };
    return (struct xen_copy_segment){
        .source = op->to_grant ? local : granted,
        .dest = op->to_grant ? granted : local,
        .len = op->length,
        .flags = op->to_grant ? XEN_COPY_DEST_GREF : XEN_COPY_SOURCE_GREF,
    };
}

/*
 * One call of the library. If it fails, gntdev has stopped at some piece (no memory to be pinned, a signal), and does
 * not say which: we count them all as not copied.
 */
static int copy_some(const struct xen_hv *xen, void *gnttab, uint16_t domid, struct svq_hv_copy *ops, uint32_t count)
{
    struct xen_copy_segment segments[SEGMENTS];
    for (uint32_t i = 0; i < count; i++)
        segments[i] = segment_of(domid, &ops[i]);
    errno = 0;
    int failed = xen->libs->gnttab_grant_copy(gnttab, count, segments) != 0 ? xen_negative_errno() : 0;
    if (failed == -ENOTTY) /* gntdev does not know this call: an old kernel */
        return -ENOSYS;
    for (uint32_t i = 0; i < count; i++)
        ops[i].result = failed != 0 ? failed : errno_of(segments[i].status);
    return 0;
}

int xen_copy_grants(struct svq_hv *hv, uint16_t domid, struct svq_hv_copy *ops, size_t count)
{
    struct xen_hv *xen = xen_of(hv);
    if (!xen->libs->gnttab_grant_copy)
        return -ENOSYS;
    int rc = -EIO;
    void *gnttab = xen_gnttab(xen, &rc);
    if (!gnttab)
        return rc;
    rc = 0;
    for (size_t done = 0; done < count && rc == 0; done += SEGMENTS) {
        size_t some = count - done < SEGMENTS ? count - done : SEGMENTS;
        rc = copy_some(xen, gnttab, domid, &ops[done], (uint32_t)some);
    }
    return rc;
}
