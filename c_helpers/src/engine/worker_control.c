/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A worker, as the control thread sees it: starting and stopping it, and what it does with its queues on request. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "worker.h"

int svq_worker_call(struct svq_worker *worker, int (*run)(void *arg), void *arg)
{
    struct svq_call call = { .run = run, .arg = arg };
    uint64_t posts;
    pthread_mutex_lock(&worker->callers);
    __atomic_store_n(&worker->call, &call, __ATOMIC_RELEASE);
    svq_worker_post(worker->control_fd); /* the worker may be asleep */
    while (!__atomic_load_n(&call.done, __ATOMIC_ACQUIRE))
        (void)!read(worker->done_fd, &posts, sizeof posts);
    pthread_mutex_unlock(&worker->callers);
    return call.answer;
}

static int remember_port(struct svq_worker *worker, uint32_t port, struct svq_queue *q, int leg)
{
    if (port >= worker->port_count) {
        struct svq_port_ref *grown = realloc(worker->ports, (port + 64u) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        for (uint32_t i = worker->port_count; i < port + 64u; i++)
            grown[i] = (struct svq_port_ref){ NULL, 0 };
        worker->ports = grown;
        worker->port_count = port + 64u;
    }
    worker->ports[port] = (struct svq_port_ref){ q, leg };
    q->leg[leg] = (struct svq_leg_events){ .port = port };
    return 0;
}

static void forget_port(struct svq_worker *worker, struct svq_queue *q, int leg)
{
    uint32_t port = q->leg[leg].port;
    if (!port)
        return;
    if (q->leg[leg].unmask_at_ns)
        worker->held_back--;
    worker->ports[port].q = NULL;
    svq_evtchn_unbind(worker->ec, port);
    q->leg[leg] = (struct svq_leg_events){ 0 };
}

struct binding {
    struct svq_worker *worker;
    struct svq_queue *q;
};

static int bind_queue(void *arg)
{
    const struct binding *binding = arg;
    struct svq_worker *worker = binding->worker;
    struct svq_queue *q = binding->q;
    int rc = svq_evtchn_bind(worker->ec, q->guest->mem.domid, q->config.frontend_port);
    if (rc >= 0)
        rc = remember_port(worker, (uint32_t)rc, q, SVQ_LEG_FRONTEND);
    if (rc >= 0)
        rc = svq_evtchn_alloc_unbound(worker->ec, q->dev->config.backend_domid);
    if (rc >= 0) {
        q->refs.backend_port = (uint32_t)rc;
        rc = remember_port(worker, (uint32_t)rc, q, SVQ_LEG_BACKEND);
    }
    if (rc >= 0) {
        q->worker = worker;
    } else {
        forget_port(worker, q, SVQ_LEG_FRONTEND);
        forget_port(worker, q, SVQ_LEG_BACKEND);
    }
    return rc < 0 ? rc : 0;
}

int svq_worker_bind_queue(struct svq_worker *worker, struct svq_queue *q)
{
    return svq_worker_call(worker, bind_queue, &(struct binding){ worker, q });
}

static int unbind_queue(void *arg)
{
    const struct binding *binding = arg;
    if (binding->q->active)
        svq_worker_drop_active(binding->worker, binding->q);
    forget_port(binding->worker, binding->q, SVQ_LEG_FRONTEND);
    forget_port(binding->worker, binding->q, SVQ_LEG_BACKEND);
    binding->q->worker = NULL;
    return 0;
}

void svq_worker_unbind_queue(struct svq_worker *worker, struct svq_queue *q)
{
    svq_worker_call(worker, unbind_queue, &(struct binding){ worker, q });
}

static void close_fds(const struct svq_worker *worker)
{
    close(worker->control_fd);
    close(worker->done_fd);
    close(worker->alert_fd);
}

int svq_worker_start(struct svq_hv *hv, const struct svq_worker_config *config, struct svq_worker **out)
{
    struct svq_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return -ENOMEM;
    worker->hv = hv;
    worker->config = *config;
    worker->busy_wait = svq_busy_wait_up_to(config->poll_us_max);
    worker->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->alert_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->done_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&worker->callers, NULL);
    bool opened = worker->control_fd >= 0 && worker->alert_fd >= 0 && worker->done_fd >= 0;
    int rc = opened ? svq_evtchn_open(hv, &worker->ec) : -errno;
    if (rc == 0)
        rc = -pthread_create(&worker->thread, NULL, svq_worker_run, worker);
    if (rc < 0) {
        if (worker->ec)
            svq_evtchn_close(worker->ec);
        close_fds(worker);
        free(worker);
        return rc;
    }
    if (config->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)config->cpu, &set);
        pthread_setaffinity_np(worker->thread, sizeof set, &set);
    }
    *out = worker;
    return 0;
}

void svq_worker_stop(struct svq_worker *worker)
{
    __atomic_store_n(&worker->stop, 1, __ATOMIC_RELEASE);
    svq_worker_post(worker->control_fd);
    pthread_join(worker->thread, NULL);
    svq_evtchn_close(worker->ec);
    close_fds(worker);
    pthread_mutex_destroy(&worker->callers);
    free(worker->ports);
    free(worker);
}

void svq_worker_read_stats(const struct svq_worker *worker, struct svq_worker_stats *out)
{
    const uint64_t *from = (const uint64_t *)&worker->stats;
    uint64_t *to = (uint64_t *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = svq_load_u64(&from[i]);
}

int svq_worker_alert_fd(const struct svq_worker *worker) { return worker->alert_fd; }
