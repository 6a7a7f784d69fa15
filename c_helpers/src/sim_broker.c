/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The broker's thread: accepts handles, receives requests, sends answers, notices ends. And the machine around it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sim_broker.h"

enum { EVENTS_PER_TURN = 32 };

static const uint64_t watch_wake = 2ULL << 32;

int sim_broker_watch(struct svq_sim_machine *machine, int fd, uint64_t what)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.u64 = what };

    return epoll_ctl(machine->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static bool send_reply(int fd, struct sim_reply *reply)
{
    char control[CMSG_SPACE(sizeof(int) * SIM_WIRE_FDS_MAX)] __attribute__((aligned(8))) = { 0 };
    struct iovec iov = { .iov_base = &reply->answer, .iov_len = sizeof(reply->answer) };
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
    /* A client that does not read its answers is broken: it may not make the broker wait. */
    return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(reply->answer);
}

static void serve(struct svq_sim_machine *machine, struct sim_connection *connection)
{
    struct sim_request untrusted_request;
    struct sim_reply reply;
    ssize_t got = recv(connection->fd, &untrusted_request, sizeof(untrusted_request), MSG_DONTWAIT | MSG_TRUNC);
    bool stays = false;

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got == (ssize_t)sizeof(untrusted_request)) {
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
    } else if (machine->connections[index - 1] != NULL) {
        serve(machine, machine->connections[index - 1]);
    }
}

/*
 * An event may be stale, since one before it in the batch can end a connection: both paths then find nothing to
 * do.
 */
void *sim_broker_run(void *argument)
{
    struct svq_sim_machine *machine = argument;
    struct epoll_event events[EVENTS_PER_TURN];

    for (;;) { /* until woken to stop */
        int count = epoll_wait(machine->epoll_fd, events, EVENTS_PER_TURN, -1);

        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == watch_wake)
                return NULL;
            pthread_mutex_lock(&machine->lock);
            handle(machine, events[i].data.u64);
            pthread_mutex_unlock(&machine->lock);
        }
    }
}

static int start_thread(struct svq_sim_machine *machine)
{
    sigset_t all, old;
    int err;

    /* Signals are for the host's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&machine->thread, NULL, sim_broker_run, machine);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -err;
}

static void machine_free(struct svq_sim_machine *machine)
{
    sim_close(&machine->directory_fd);
    sim_close(&machine->epoll_fd);
    sim_close(&machine->wake_fd);
    sim_close(&machine->event_fd);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}

int svq_sim_machine_start(const char *directory, struct svq_sim_machine **out)
{
    struct svq_sim_machine *machine;
    int rc;

    if (directory == NULL || out == NULL)
        return -EINVAL;
    machine = calloc(1, sizeof(*machine));
    if (machine == NULL)
        return -ENOMEM;
    pthread_mutex_init(&machine->lock, NULL);
    machine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    machine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    machine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    machine->directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (machine->epoll_fd < 0 || machine->wake_fd < 0 || machine->event_fd < 0 || machine->directory_fd < 0)
        rc = -errno;
    else
        rc = sim_broker_watch(machine, machine->wake_fd, watch_wake);
    if (rc == 0)
        rc = start_thread(machine);
    if (rc != 0) {
        machine_free(machine);
        return rc;
    }
    *out = machine;
    return 0;
}

void svq_sim_machine_stop(struct svq_sim_machine *machine)
{
    if (machine == NULL)
        return;
    (void)eventfd_write(machine->wake_fd, 1);
    (void)pthread_join(machine->thread, NULL);
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        if (machine->domains[slot].used)
            sim_domain_die(machine, &machine->domains[slot], false);
    }
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        if (machine->domains[slot].used)
            sim_domain_free(machine, &machine->domains[slot]);
    }
    machine_free(machine);
}

int svq_sim_event_fd(struct svq_sim_machine *machine)
{
    return machine->event_fd;
}

/*
 * The descriptor is readable while a death is unreported, and once more if the host itself destroyed or recreated
 * that domain meanwhile: then there is nothing to report.
 */
int svq_sim_next_event(struct svq_sim_machine *machine, int *kind, uint16_t *domid)
{
    struct sim_domain *found = NULL;
    eventfd_t drained;
    int unreported = 0;

    if (kind == NULL || domid == NULL)
        return -EINVAL;
    pthread_mutex_lock(&machine->lock);
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        struct sim_domain *domain = &machine->domains[slot];

        if (!domain->used || !domain->death_unreported)
            continue;
        unreported++;
        if (found == NULL)
            found = domain;
    }
    if (found != NULL) {
        found->death_unreported = false;
        *kind = SVQ_SIM_EVENT_DIED;
        *domid = found->domid;
    }
    if (unreported <= 1)
        (void)eventfd_read(machine->event_fd, &drained);
    pthread_mutex_unlock(&machine->lock);
    return found != NULL;
}

int svq_sim_pretend_readonly(struct svq_sim_machine *machine, int enabled)
{
    pthread_mutex_lock(&machine->lock);
    machine->pretend_readonly = enabled != 0;
    pthread_mutex_unlock(&machine->lock);
    return 0;
}
