/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A watch on a domain's frames in the embedded machine, the client's side. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "sim_client.h"

struct sim_frames {
    struct svq_frames base;
    uint16_t domid;
    int event_fd;
    uint64_t told; /* changes */
};

static struct sim_frames *frames_of(struct svq_frames *frames)
{
    return (struct sim_frames *)(void *)frames; /* its first member */
}

int sim_frames_watch(struct svq_hv *hv, uint16_t domid, struct svq_frames **out)
{
    struct sim_request request = { .op = SIM_OP_FRAMES_WATCH, .domid = domid };
    struct sim_frames *sf = calloc(1, sizeof *sf);
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int rc = !sf ? -ENOMEM : sim_ask(sim_of(hv), &request, &answer, fds);
    if (rc != 0) {
        free(sf);
        return rc;
    }
    sf->domid = domid;
    sf->event_fd = fds[0];
    *out = &sf->base;
    return 0;
}

int sim_frames_fd(struct svq_frames *frames) { return frames_of(frames)->event_fd; }

int sim_frames_changed(struct svq_frames *frames)
{
    struct sim_frames *sf = frames_of(frames);
    struct sim_request request = { .op = SIM_OP_FRAMES_CHANGES, .domid = sf->domid };
    eventfd_t drained;
    (void)eventfd_read(sf->event_fd, &drained); /* before we look: a later change makes it readable again */
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int rc = sim_ask(sim_of(frames->hv), &request, &answer, fds);
    if (rc != 0)
        return rc;
    sf->told = answer.changes;
    return answer.acknowledged != answer.changes;
}

int sim_frames_ack(struct svq_frames *frames)
{
    struct sim_frames *sf = frames_of(frames);
    return sim_call(sim_of(frames->hv), SIM_OP_FRAMES_ACK, sf->domid, sf->told, 0);
}

void sim_frames_close(struct svq_frames *frames)
{
    struct sim_frames *sf = frames_of(frames);
    (void)sim_call(sim_of(frames->hv), SIM_OP_FRAMES_CLOSE, sf->domid, 0, 0);
    close(sf->event_fd);
    free(sf);
}
