/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake_hv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct svq_evtchn {
    struct svq_hv *hv;
    int fd;
    uint32_t ports;
    uint64_t pending;
};

int svq_hv_own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va)
{
    if (hv->va)
        return -EBUSY;
    hv->va = aligned_alloc(SVQ_PAGE_SIZE, count * SVQ_PAGE_SIZE);
    if (!hv->va)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        gfns[i] = hv->layout.scattered ? FAKE_FIRST_GFN + (count - (i & ~1UL)) * 2 + (i & 1) : first_gfn + i;
    hv->gfns = gfns;
    hv->pages = count;
    *va = hv->va;
    return 0;
}

int svq_hv_release_own_pages(struct svq_hv *hv, void *va, size_t count)
{
    if (va != hv->va || count != hv->pages)
        return -EINVAL;
    free(hv->va);
    hv->va = NULL;
    return 0;
}

static uint8_t *page_of(const struct svq_hv *hv, uint64_t gfn)
{
    for (size_t i = 0; i < hv->pages; i++)
        if (hv->gfns[i] == gfn)
            return hv->va + i * SVQ_PAGE_SIZE;
    return NULL;
}

void *fake_hv_va(void *opaque, uint64_t gpa, uint64_t len)
{
    const struct svq_hv *hv = opaque;
    uint8_t *first = page_of(hv, gpa / SVQ_PAGE_SIZE);
    for (uint64_t done = SVQ_PAGE_SIZE - gpa % SVQ_PAGE_SIZE; first && done < len; done += SVQ_PAGE_SIZE)
        if (page_of(hv, (gpa + done) / SVQ_PAGE_SIZE) != first + gpa % SVQ_PAGE_SIZE + done)
            first = NULL;
    return first ? first + gpa % SVQ_PAGE_SIZE : NULL;
}

int svq_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out)
{
    struct svq_evtchn *ec = calloc(1, sizeof *ec);
    if (!ec)
        return -ENOMEM;
    ec->hv = hv;
    ec->fd = eventfd(0, EFD_NONBLOCK);
    hv->ec = ec;
    *out = ec;
    return 0;
}

void svq_evtchn_close(struct svq_evtchn *ec)
{
    ec->hv->ec = NULL;
    close(ec->fd);
    free(ec);
}

int svq_evtchn_fd(struct svq_evtchn *ec) { return ec->fd; }

int svq_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid)
{
    (void)remote_domid;
    return ec->hv->layout.evtchn_error ? ec->hv->layout.evtchn_error : (int)++ec->ports;
}

int svq_evtchn_notify(struct svq_evtchn *ec, uint32_t port)
{
    if (port == 0 || port > ec->ports)
        return -EINVAL;
    ec->hv->layout.on_notify(ec->hv->layout.opaque, port);
    return 0;
}

int svq_evtchn_pending(struct svq_evtchn *ec)
{
    for (uint32_t port = 1; port <= ec->ports; port++) {
        if (ec->pending >> port & 1) {
            ec->pending &= ~(1ULL << port);
            return (int)port;
        }
    }
    eventfd_t value;
    eventfd_read(ec->fd, &value);
    return -EAGAIN;
}

int svq_evtchn_unmask(struct svq_evtchn *ec, uint32_t port) { return port == 0 || port > ec->ports ? -EINVAL : 0; }

void fake_hv_interrupt(struct svq_hv *hv, uint32_t port)
{
    hv->ec->pending |= 1ULL << port;
    eventfd_write(hv->ec->fd, 1);
}
