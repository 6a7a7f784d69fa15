/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Event channels of the embedded machine. A port is made with both of its eventfds, the one that its owner waits on and
 * the one that wakes the other end, so a port's owner needs no message when the other end binds.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "barrier.h"
#include "sim_broker.h"

static void set_state(struct sim_domain *domain, uint32_t port, uint16_t state)
{
    domain->ports[port].state = state;
    svq_release_u32(&domain->info->port_state[port], state); /* svq_evtchn_notify reads this */
}

static int free_port(const struct sim_domain *domain)
{
    for (uint32_t port = 1; port < SVQ_SIM_PORTS_MAX; port++) {
        if (domain->ports[port].state == SIM_PORT_CLOSED)
            return (int)port;
    }
    return -ENOSPC;
}

static void answer_port(struct sim_reply *reply, uint32_t port, const struct sim_port *record)
{
    reply->answer.port = port;
    reply->fds[0] = record->wait_fd;
    reply->fds[1] = record->notify_fd;
    reply->fd_count = 2;
}

/* One of its descriptors could not be had, errno says why: neither is kept. */
static int not_opened(struct sim_port *record)
{
    int err = errno;
    sim_close(&record->wait_fd);
    sim_close(&record->notify_fd);
    return -err;
}

int sim_port_alloc(struct sim_connection *connection, uint16_t remote_domid, struct sim_reply *reply)
{
    struct sim_domain *domain = connection->domain;
    int port = free_port(domain);
    struct sim_port record = { .remote_domid = remote_domid, .connection = connection->id };
    if (port < 0)
        return port;
    record.wait_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    record.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (record.wait_fd < 0 || record.notify_fd < 0)
        return not_opened(&record);
    domain->ports[port] = record;
    set_state(domain, (uint32_t)port, SIM_PORT_UNBOUND);
    answer_port(reply, (uint32_t)port, &record);
    return 0;
}

int sim_port_bind(struct svq_sim_machine *machine, struct sim_connection *connection, uint16_t remote_domid,
                  uint64_t untrusted_port, struct sim_reply *reply)
{
    struct sim_domain *domain = connection->domain, *remote = sim_domain_find(machine, remote_domid);
    struct sim_port record = { .remote_domid = remote_domid, .connection = connection->id };
    int port = free_port(domain);
    if (!remote || remote->dead)
        return -ESRCH;
    if (untrusted_port == 0 || untrusted_port >= SVQ_SIM_PORTS_MAX)
        return -EINVAL;
    uint32_t remote_port = (uint32_t)untrusted_port;
    struct sim_port *theirs = &remote->ports[remote_port];
    if (theirs->state != SIM_PORT_UNBOUND)
        return -EINVAL;
    if (theirs->remote_domid != domain->domid)
        return -EPERM;
    if (port < 0)
        return port;
    record.remote_port = remote_port;
    record.wait_fd = fcntl(theirs->notify_fd, F_DUPFD_CLOEXEC, 0);
    record.notify_fd = fcntl(theirs->wait_fd, F_DUPFD_CLOEXEC, 0);
    if (record.wait_fd < 0 || record.notify_fd < 0)
        return not_opened(&record);
    domain->ports[port] = record;
    theirs->remote_port = (uint32_t)port;
    set_state(domain, (uint32_t)port, SIM_PORT_CONNECTED);
    set_state(remote, remote_port, SIM_PORT_CONNECTED);
    /* As on Xen, the new port starts pending: the other end may have notified before anybody was there. */
    (void)eventfd_write(record.wait_fd, 1);
    answer_port(reply, (uint32_t)port, &record);
    return 0;
}

static void close_port(struct svq_sim_machine *machine, struct sim_domain *domain, uint32_t port)
{
    struct sim_port *record = &domain->ports[port];
    if (record->state == SIM_PORT_CONNECTED) {
        struct sim_domain *remote = sim_domain_find(machine, record->remote_domid);

        /* The other end becomes unbound, open to the same domain again. */
        if (remote && !remote->dead)
            set_state(remote, record->remote_port, SIM_PORT_UNBOUND);
    }
    sim_close(&record->wait_fd);
    sim_close(&record->notify_fd);
    set_state(domain, port, SIM_PORT_CLOSED);
}

int sim_port_close(struct svq_sim_machine *machine, struct sim_connection *connection, uint64_t untrusted_port)
{
    struct sim_domain *domain = connection->domain;
    if (untrusted_port == 0 || untrusted_port >= SVQ_SIM_PORTS_MAX ||
        domain->ports[untrusted_port].state == SIM_PORT_CLOSED ||
        domain->ports[untrusted_port].connection != connection->id)
        return -EINVAL;
    close_port(machine, domain, (uint32_t)untrusted_port);
    return 0;
}

void sim_port_close_all(struct svq_sim_machine *machine, struct sim_connection *connection)
{
    struct sim_domain *domain = connection->domain;
    for (uint32_t port = 1; port < SVQ_SIM_PORTS_MAX; port++) {
        if (domain->ports[port].state != SIM_PORT_CLOSED && domain->ports[port].connection == connection->id)
            close_port(machine, domain, port);
    }
}
