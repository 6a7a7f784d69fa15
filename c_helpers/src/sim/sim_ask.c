/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One request to the broker and its answer, with the descriptors that come with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sim_client.h"

static int receive_answer(int socket, struct sim_answer *answer, int fds[SIM_WIRE_FDS_MAX])
{
    char control[CMSG_SPACE(sizeof(int) * SIM_WIRE_FDS_MAX)] __attribute__((aligned(8)));
    struct iovec iov = { .iov_base = answer, .iov_len = sizeof *answer };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    ssize_t got;
    do {
        got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof *answer)
        return -ENOTCONN;
    struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
    return (msg.msg_flags & MSG_CTRUNC) != 0 ? -EMFILE : 0;
}

void sim_close_fds(int fds[SIM_WIRE_FDS_MAX])
{
    for (int i = 0; i < SIM_WIRE_FDS_MAX; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

int sim_ask(struct sim_hv *sim, const struct sim_request *request, struct sim_answer *answer, int fds[SIM_WIRE_FDS_MAX])
{
    for (int i = 0; i < SIM_WIRE_FDS_MAX; i++)
        fds[i] = -1;
    pthread_mutex_lock(&sim->request_lock);
    int rc;
    if (send(sim->socket, request, sizeof *request, MSG_NOSIGNAL) != (ssize_t)sizeof *request)
        rc = -ENOTCONN;
    else
        rc = receive_answer(sim->socket, answer, fds);
    pthread_mutex_unlock(&sim->request_lock);
    if (rc == 0)
        rc = answer->status;
    if (rc != 0)
        sim_close_fds(fds);
    return rc;
}

int sim_call(struct sim_hv *sim, uint32_t op, uint16_t domid, uint64_t arg0, uint64_t arg1)
{
    struct sim_request request = { .op = op, .domid = domid, .args = { arg0, arg1 } };
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    return sim_ask(sim, &request, &answer, fds);
}
