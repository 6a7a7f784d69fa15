/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker, as its two sides see it: its own thread (worker.c), and the control thread (worker_control.c).
 *
 * What the control thread wants from a worker's queues, the worker does itself between two rounds. So there is no lock
 * that a preempted thread could hold for long.
 */
#ifndef SVQ_WORKER_H
#define SVQ_WORKER_H

#include <pthread.h>
#include <unistd.h>

#include "busy_wait.h"
#include "engine.h"

enum { SVQ_TURNS = 256 }; /* guests that we tell apart when sharing out turns; a power of two */

struct svq_port_ref {
    struct svq_queue *q;
    int leg;
};

/* What a guest's queues may still cost in a round. */
struct svq_turn {
    uint64_t round;
    int64_t left;
};

struct svq_call {
    int (*run)(void *arg);
    void *arg;
    int answer;
    int done; /* atomic */
};

struct svq_worker {
    struct svq_hv *hv;
    struct svq_evtchn *ec; /* only the worker's thread uses it */
    struct svq_worker_config config;
    pthread_t thread;
    pthread_mutex_t callers;
    struct svq_call *call; /* atomic: what a caller wants run */
    int stop;              /* atomic */
    int control_fd, done_fd, alert_fd;
    struct svq_port_ref *ports; /* by local port */
    uint32_t port_count;
    struct svq_queue *active;
    struct svq_turn turns[SVQ_TURNS]; /* by guest: its domid modulo their number */
    uint32_t held_back;
    uint64_t round;
    bool waiting;                   /* the last round left queues over */
    struct svq_busy_wait busy_wait; /* up to poll_us_max */
    struct svq_worker_stats stats;
};

static inline void svq_worker_post(int fd)
{
    uint64_t one = 1;
    (void)!write(fd, &one, sizeof one);
}

/* worker.c: the thread, and what only it may call: takes a queue off the active list. */
void *svq_worker_run(void *worker);
void svq_worker_drop_active(struct svq_worker *worker, struct svq_queue *q);

#endif
