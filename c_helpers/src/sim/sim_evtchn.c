/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Event channels of the embedded machine, the client's side. Each port waits on an eventfd, armed one-shot in an epoll:
 * a port that was reported stays masked until it is armed again.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sim_client.h"

struct sim_evtchn {
    struct svq_evtchn base;
    int epoll_fd;
    struct {
        int wait_fd; /* -1: not ours */
        int notify_fd;
    } ports[SVQ_SIM_PORTS_MAX];
};

static struct sim_evtchn *evtchn_of(struct svq_evtchn *ec)
{
    return (struct sim_evtchn *)(void *)ec; /* its first member */
}

static int is_ours(const struct sim_evtchn *sec, uint32_t port)
{
    return port < SVQ_SIM_PORTS_MAX && sec->ports[port].wait_fd >= 0;
}

int sim_evtchn_open(struct svq_hv *hv, struct svq_evtchn **out)
{
    struct sim_evtchn *sec = calloc(1, sizeof *sec);
    (void)hv;
    if (!sec)
        return -ENOMEM;
    sec->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (sec->epoll_fd < 0) {
        int err = errno;
        free(sec);
        return -err;
    }
    for (uint32_t port = 0; port < SVQ_SIM_PORTS_MAX; port++)
        sec->ports[port].wait_fd = sec->ports[port].notify_fd = -1;
    *out = &sec->base;
    return 0;
}

static void close_port(struct sim_evtchn *sec, uint32_t port)
{
    (void)sim_call(sim_of(sec->base.hv), SIM_OP_PORT_CLOSE, 0, port, 0);
    (void)epoll_ctl(sec->epoll_fd, EPOLL_CTL_DEL, sec->ports[port].wait_fd, NULL);
    close(sec->ports[port].wait_fd);
    close(sec->ports[port].notify_fd);
    sec->ports[port].wait_fd = sec->ports[port].notify_fd = -1;
}

void sim_evtchn_close(struct svq_evtchn *ec)
{
    struct sim_evtchn *sec = evtchn_of(ec);
    for (uint32_t port = 1; port < SVQ_SIM_PORTS_MAX; port++) {
        if (is_ours(sec, port))
            close_port(sec, port);
    }
    close(sec->epoll_fd);
    free(sec);
}

int sim_evtchn_fd(struct svq_evtchn *ec) { return evtchn_of(ec)->epoll_fd; }

static int new_port(struct sim_evtchn *sec, uint32_t op, uint16_t remote_domid, uint32_t remote_port)
{
    struct sim_hv *sim = sim_of(sec->base.hv);
    struct sim_request request = { .op = op, .domid = remote_domid, .args = { remote_port } };
    struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT };
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int rc = sim_ask(sim, &request, &answer, fds);
    if (rc != 0)
        return rc;
    event.data.u32 = answer.port;
    sec->ports[answer.port].wait_fd = fds[0];
    sec->ports[answer.port].notify_fd = fds[1];
    if (epoll_ctl(sec->epoll_fd, EPOLL_CTL_ADD, fds[0], &event) != 0) {
        rc = -errno;
        close_port(sec, answer.port);
        return rc;
    }
    return (int)answer.port;
}

int sim_evtchn_alloc_unbound(struct svq_evtchn *ec, uint16_t remote_domid)
{
    return new_port(evtchn_of(ec), SIM_OP_PORT_ALLOC, remote_domid, 0);
}

int sim_evtchn_bind(struct svq_evtchn *ec, uint16_t remote_domid, uint32_t remote_port)
{
    return new_port(evtchn_of(ec), SIM_OP_PORT_BIND, remote_domid, remote_port);
}

int sim_evtchn_notify(struct svq_evtchn *ec, uint32_t port)
{
    struct sim_evtchn *sec = evtchn_of(ec);
    const struct sim_info *info = sim_own(sim_of(ec->hv))->info;
    if (!is_ours(sec, port))
        return -EINVAL;
    if (svq_acquire_u32(&info->port_state[port]) != SIM_PORT_CONNECTED)
        return -ENOTCONN; /* nobody there (any more) */
    /* This fails only if 2^64 - 2 notifications are unread, and then the port is pending anyway. */
    (void)eventfd_write(sec->ports[port].notify_fd, 1);
    return 0;
}

int sim_evtchn_pending(struct svq_evtchn *ec)
{
    struct sim_evtchn *sec = evtchn_of(ec);
    struct epoll_event event;
    int found = epoll_wait(sec->epoll_fd, &event, 1, 0);
    if (found < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    if (found == 0)
        return -EAGAIN;
    eventfd_t count;
    /* Cleared now, while masked: a later notification makes the port pending again when it is unmasked. */
    (void)eventfd_read(sec->ports[event.data.u32].wait_fd, &count);
    return (int)event.data.u32;
}

int sim_evtchn_unmask(struct svq_evtchn *ec, uint32_t port)
{
    struct sim_evtchn *sec = evtchn_of(ec);
    struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u32 = port };
    if (!is_ours(sec, port))
        return -EINVAL;
    return epoll_ctl(sec->epoll_fd, EPOLL_CTL_MOD, sec->ports[port].wait_fd, &event) == 0 ? 0 : -errno;
}

int sim_evtchn_unbind(struct svq_evtchn *ec, uint32_t port)
{
    struct sim_evtchn *sec = evtchn_of(ec);
    if (!is_ours(sec, port))
        return -EINVAL;
    close_port(sec, port);
    return 0;
}
