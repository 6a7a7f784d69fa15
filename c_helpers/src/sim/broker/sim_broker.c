/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The broker's thread: accepts handles, receives requests, sends answers, notices when a connection ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sim_broker.h"

enum { EVENTS_PER_TURN = 32 };

int sim_broker_watch(struct svq_sim_machine *machine, int fd, uint64_t what)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.u64 = what };
    return epoll_ctl(machine->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static bool send_reply(int fd, struct sim_reply *reply)
{
    char control[CMSG_SPACE(sizeof(int) * SIM_WIRE_FDS_MAX)] __attribute__((aligned(8))) = { 0 };
    struct iovec iov = { .iov_base = &reply->answer, .iov_len = sizeof reply->answer };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (reply->fd_count > 0) {
        struct cmsghdr *header = (struct cmsghdr *)(void *)control;
        size_t bytes = sizeof(int) * (size_t)reply->fd_count;
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(header), reply->fds, bytes);
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(bytes);
    }
    /* A client that does not read its answers is broken: it must not make the broker wait. */
    return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof reply->answer;
}

static void serve(struct svq_sim_machine *machine, struct sim_connection *connection)
{
    struct sim_request untrusted_request;
    ssize_t got = recv(connection->fd, &untrusted_request, sizeof untrusted_request, MSG_DONTWAIT | MSG_TRUNC);
    bool stays = false;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    struct sim_reply reply;
    if (got == (ssize_t)sizeof untrusted_request) {
        stays = sim_answer_request(machine, connection, &untrusted_request, &reply);
        if (!send_reply(connection->fd, &reply))
            stays = false;
    } else {
        connection->gone = got <= 0;
    }
    if (!stays)
        sim_connection_end(machine, connection);
}

static void handle(struct svq_sim_machine *machine, uint64_t what)
{
    uint32_t index = (uint32_t)what;
    if (what >> 32 == 0) {
        struct sim_domain *domain = &machine->domains[index];
        if (domain->used && domain->listener >= 0)
            (void)sim_connection_accept(machine, domain);
    } else if (machine->connections[index - 1]) {
        serve(machine, machine->connections[index - 1]);
    }
}

/* An event may be stale, since an earlier one in the batch can end a connection: then both paths find nothing to do. */
void *sim_broker_run(void *argument)
{
    struct svq_sim_machine *machine = argument;
    struct epoll_event events[EVENTS_PER_TURN];
    for (;;) { /* until woken to stop */
        int count = epoll_wait(machine->epoll_fd, events, EVENTS_PER_TURN, -1);

        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == sim_watch_wake())
                return NULL;
            pthread_mutex_lock(&machine->lock);
            handle(machine, events[i].data.u64);
            pthread_mutex_unlock(&machine->lock);
        }
    }
}
