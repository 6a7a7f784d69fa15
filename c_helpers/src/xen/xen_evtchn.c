/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Event channels through libxenevtchn. One handle belongs to one thread, by the library's own rule. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "xen_hv.h"

struct xen_evtchn {
    struct svq_evtchn base;
    const struct xen_libs *libs;
    void *handle;
};

static struct xen_evtchn *evtchn_of(struct svq_evtchn *ec)
{
    return (struct xen_evtchn *)(void *)ec; /* its first member */
}

static int answer(int rc)
{
    if (rc >= 0)
        return rc;
    return errno > 0 ? -errno : -EIO;
}

int xen_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out)
{
    struct xen_evtchn *xec = calloc(1, sizeof *xec);
    if (!xec)
        return -ENOMEM;
    xec->libs = xen_of(hv)->libs;
    errno = 0;
    xec->handle = xec->libs->evtchn_open(xen_silent_logger(), 0);
    int err;
    if (!xec->handle) {
        err = errno != 0 ? errno : EIO;
        free(xec);
        return xen_node_failed(&xen_node_evtchn, err);
    }
    *out = &xec->base;
    return 0;
}

/* Closing the handle closes its ports. */
void xen_evtchn_close(struct svq_evtchn *ec)
{
    (void)evtchn_of(ec)->libs->evtchn_close(evtchn_of(ec)->handle);
    free(ec);
}

int xen_evtchn_fd(struct svq_evtchn *ec) { return answer(evtchn_of(ec)->libs->evtchn_fd(evtchn_of(ec)->handle)); }

int xen_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid)
{
    return answer(evtchn_of(ec)->libs->evtchn_bind_unbound_port(evtchn_of(ec)->handle, remote_domid));
}

int xen_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port)
{
    return answer(evtchn_of(ec)->libs->evtchn_bind_interdomain(evtchn_of(ec)->handle, remote_domid, remote_port));
}

int xen_evtchn_notify(struct svq_evtchn *ec, uint32_t port)
{
    return answer(evtchn_of(ec)->libs->evtchn_notify(evtchn_of(ec)->handle, port));
}

/* xenevtchn_pending blocks, even on a non-blocking descriptor (xenevtchn.h), so poll first. */
int xen_evtchn_pending(struct svq_evtchn *ec)
{
    struct xen_evtchn *xec = evtchn_of(ec);
    struct pollfd pfd = { .fd = xec->libs->evtchn_fd(xec->handle), .events = POLLIN };
    int ready = poll(&pfd, 1, 0);
    if (ready == 0 || (ready < 0 && errno == EINTR))
        return -EAGAIN;
    if (ready < 0)
        return -errno;
    if ((pfd.revents & POLLIN) == 0)
        return -EIO; /* the driver's ring overflowed: it can have at most one event for each port */
    return answer(xec->libs->evtchn_pending(xec->handle));
}

int xen_evtchn_unmask(struct svq_evtchn *ec, uint32_t port)
{
    return answer(evtchn_of(ec)->libs->evtchn_unmask(evtchn_of(ec)->handle, port));
}

int xen_evtchn_unbind(struct svq_evtchn *ec, uint32_t port)
{
    return answer(evtchn_of(ec)->libs->evtchn_unbind(evtchn_of(ec)->handle, port));
}
