/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker thread: serves the queues that have work, polls a little, sleeps. An idle queue costs nothing: it is on the
 * active list only from an event until it has been quiet for the polling time.
 *
 * The worker holds its lock while it works and lets go of it to sleep, and whenever the control thread asks for it.
 */
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "suppress.h"

enum {
    PASS_BUDGET = 64,          /* chains per queue and pass: no queue starves the others */
    EVENTS_PER_LOOK = 64,
    LOOK_EVERY_ROUNDS = 16,    /* how often a busy worker looks for events of other queues */
    STORM_EVENTS = 32,         /* events in a row without work before a peer is held back */
    HOLD_BACK_NS = 10 * 1000 * 1000,
};

struct port_ref {
    struct svq_queue *q;
    int leg;
};

struct svq_worker {
    struct svq_hv *hv;
    struct svq_evtchn *ec;
    struct svq_worker_config config;
    pthread_t thread;
    pthread_mutex_t lock;
    int control_waiting; /* atomic: control threads that want the lock */
    int stop;            /* atomic */
    int control_fd, alert_fd;
    struct port_ref *ports; /* by local port */
    uint32_t port_count;
    struct svq_queue *active;
    uint32_t held_back;
    uint64_t poll_ns; /* adapts between 0 and poll_us_max */
    uint64_t slept_at_ns;
    struct svq_worker_stats stats;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void post(int fd)
{
    uint64_t one = 1;
    (void)!write(fd, &one, sizeof one);
}

/* --- the control thread's side ------------------------------------------------------------------------------ */

void svq_worker_lock(struct svq_worker *worker)
{
    __atomic_fetch_add(&worker->control_waiting, 1, __ATOMIC_ACQ_REL);
    pthread_mutex_lock(&worker->lock);
    __atomic_fetch_sub(&worker->control_waiting, 1, __ATOMIC_ACQ_REL);
}

void svq_worker_unlock(struct svq_worker *worker)
{
    pthread_mutex_unlock(&worker->lock);
    post(worker->control_fd); /* it may sleep and have something new to do */
}

static int remember_port(struct svq_worker *worker, uint32_t port, struct svq_queue *q, int leg)
{
    if (port >= worker->port_count) {
        struct port_ref *grown = realloc(worker->ports, (port + 64u) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        for (uint32_t i = worker->port_count; i < port + 64u; i++)
            grown[i] = (struct port_ref){ NULL, 0 };
        worker->ports = grown;
        worker->port_count = port + 64u;
    }
    worker->ports[port] = (struct port_ref){ q, leg };
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

int svq_worker_bind_queue(struct svq_worker *worker, struct svq_queue *q)
{
    svq_worker_lock(worker);
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
    svq_worker_unlock(worker);
    return rc < 0 ? rc : 0;
}

static void drop_active(struct svq_worker *worker, struct svq_queue *q)
{
    for (struct svq_queue **link = &worker->active; *link; link = &(*link)->next_active) {
        if (*link == q) {
            *link = q->next_active;
            break;
        }
    }
    q->active = false;
}

void svq_worker_unbind_queue(struct svq_worker *worker, struct svq_queue *q)
{
    svq_worker_lock(worker);
    if (q->active)
        drop_active(worker, q);
    forget_port(worker, q, SVQ_LEG_FRONTEND);
    forget_port(worker, q, SVQ_LEG_BACKEND);
    q->worker = NULL;
    svq_worker_unlock(worker);
}

void svq_worker_activate(struct svq_worker *worker, struct svq_queue *q)
{
    if (q->active)
        return;
    q->active = true;
    q->idle_since_ns = now_ns();
    q->next_active = worker->active;
    worker->active = q;
}

/* --- the worker's side ---------------------------------------------------------------------------------------- */

static void notify(struct svq_worker *worker, uint32_t port, uint64_t *counter)
{
    uint64_t start = now_ns();
    svq_evtchn_notify(worker->ec, port);
    svq_count(counter, 1);
    svq_count(&worker->stats.notifications, 1);
    svq_count(&worker->stats.notify_ns, now_ns() - start);
}

/* One pass over both directions. Chains moved, or a negative code once the device is broken. */
static int serve(struct svq_worker *worker, struct svq_queue *q)
{
    bool tell_driver, tell_backend;
    int completed = svq_complete_pass(q, PASS_BUDGET, &tell_driver);
    if (tell_driver) {
        uint16_t old = q->used_signalled;
        q->used_signalled = q->used_idx;
        if (svq_driver_wants_interrupt(q, old))
            notify(worker, q->leg[SVQ_LEG_FRONTEND].port, &q->stats.interrupts_sent);
    }
    if (completed < 0)
        return completed;
    int forwarded = svq_forward_pass(q, PASS_BUDGET, &tell_backend);
    if (tell_backend) {
        uint16_t old = q->shadow_avail_signalled;
        q->shadow_avail_signalled = q->shadow_avail_idx;
        if (svq_backend_wants_kick(q, old))
            notify(worker, q->leg[SVQ_LEG_BACKEND].port, &q->stats.kicks_sent);
    }
    if (forwarded < 0)
        return forwarded;
    q->leg[SVQ_LEG_FRONTEND].moved += (unsigned)forwarded;
    q->leg[SVQ_LEG_BACKEND].moved += (unsigned)completed;
    return forwarded + completed;
}

/*
 * Serves each active queue once. A queue that was quiet for the polling time asks for notifications and leaves the list,
 * unless something came in just then.
 */
static unsigned serve_active(struct svq_worker *worker)
{
    unsigned moved = 0;
    struct svq_queue **link = &worker->active;
    uint64_t now = 0;
    while (*link) {
        struct svq_queue *q = *link;
        int n = serve(worker, q);
        if (n > 0) {
            moved += (unsigned)n;
            q->idle_since_ns = 0;
        } else if (n < 0) {
            post(worker->alert_fd); /* its ports stay masked from the next event on: a broken device is silent */
        } else {
            now = now ? now : now_ns();
            q->idle_since_ns = q->idle_since_ns ? q->idle_since_ns : now;
        }
        if (n < 0 || !svq_queue_is_live(q) || (n == 0 && now - q->idle_since_ns >= worker->poll_ns && !svq_queue_arm(q))) {
            *link = q->next_active;
            q->active = false;
        } else {
            link = &q->next_active;
        }
    }
    return moved;
}

/* An event that brought no work since the one before it is spurious; too many in a row, and the peer has to wait. */
static void note_event(struct svq_worker *worker, struct svq_queue *q, int leg)
{
    struct svq_leg_events *events = &q->leg[leg];
    svq_count(leg == SVQ_LEG_FRONTEND ? &q->stats.kicks_received : &q->stats.answers_received, 1);
    if (events->moved) {
        events->spurious_row = 0;
        events->moved = 0;
    } else {
        events->spurious_row++;
        svq_count(&q->stats.spurious_events, 1);
    }
    if (svq_device_broken(q->dev))
        return;
    if (events->spurious_row > STORM_EVENTS) {
        events->unmask_at_ns = now_ns() + HOLD_BACK_NS;
        worker->held_back++;
        svq_count(&q->stats.throttled, 1);
    } else {
        svq_evtchn_unmask(worker->ec, events->port);
    }
}

static void look_for_events(struct svq_worker *worker)
{
    for (int i = 0; i < EVENTS_PER_LOOK; i++) {
        int port = svq_evtchn_pending(worker->ec);
        if (port < 0)
            return;
        struct port_ref *ref = (uint32_t)port < worker->port_count ? &worker->ports[port] : NULL;
        if (!ref || !ref->q)
            continue; /* its queue is gone; the port stays masked */
        note_event(worker, ref->q, ref->leg);
        if (svq_queue_is_live(ref->q) && !svq_device_broken(ref->q->dev)) {
            if (!ref->q->active)
                svq_queue_disarm(ref->q);
            svq_worker_activate(worker, ref->q);
        }
    }
}

/* Gives held-back peers their events again when their time is over. Returns the time of the next one, or 0. */
static uint64_t release_held_back(struct svq_worker *worker)
{
    uint64_t next = 0, now = now_ns();
    for (uint32_t i = 0; i < worker->port_count && worker->held_back; i++) {
        struct svq_leg_events *events = worker->ports[i].q ? &worker->ports[i].q->leg[worker->ports[i].leg] : NULL;
        if (!events || !events->unmask_at_ns)
            continue;
        if (events->unmask_at_ns <= now) {
            events->unmask_at_ns = 0;
            worker->held_back--;
            svq_evtchn_unmask(worker->ec, events->port);
        } else if (!next || events->unmask_at_ns < next) {
            next = events->unmask_at_ns;
        }
    }
    return next;
}

static void sleep_until_event(struct svq_worker *worker)
{
    uint64_t wake_at = worker->held_back ? release_held_back(worker) : 0, start = now_ns();
    struct timespec timeout = { 0, 0 };
    if (wake_at > start) {
        timeout.tv_sec = (time_t)((wake_at - start) / 1000000000u);
        timeout.tv_nsec = (long)((wake_at - start) % 1000000000u);
    }
    struct pollfd fds[2] = { { .fd = svq_evtchn_fd(worker->ec), .events = POLLIN },
                             { .fd = worker->control_fd, .events = POLLIN } };
    svq_count(&worker->stats.sleeps, 1);
    pthread_mutex_unlock(&worker->lock);
    int ready = ppoll(fds, 2, wake_at ? &timeout : NULL, NULL);
    pthread_mutex_lock(&worker->lock);
    if (ready > 0 && fds[1].revents) {
        uint64_t posts;
        (void)!read(worker->control_fd, &posts, sizeof posts);
    }
    if (ready > 0 && fds[0].revents) {
        /* A short sleep means that polling a little longer would have caught the event: poll more. Else less. */
        uint64_t max = (uint64_t)worker->config.poll_us_max * 1000, slept = now_ns() - start;
        svq_count(&worker->stats.wakeups, 1);
        worker->poll_ns = slept < max ? (worker->poll_ns * 2 + max / 8) : worker->poll_ns / 2;
        worker->poll_ns = worker->poll_ns > max ? max : worker->poll_ns;
    }
}

static void yield_to_control(struct svq_worker *worker)
{
    if (svq_likely(!__atomic_load_n(&worker->control_waiting, __ATOMIC_ACQUIRE)))
        return;
    pthread_mutex_unlock(&worker->lock);
    while (__atomic_load_n(&worker->control_waiting, __ATOMIC_ACQUIRE))
        sched_yield();
    pthread_mutex_lock(&worker->lock);
}

static void *run(void *arg)
{
    struct svq_worker *worker = arg;
    unsigned since_look = LOOK_EVERY_ROUNDS;
    pthread_mutex_lock(&worker->lock);
    while (!__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE)) {
        yield_to_control(worker);
        uint64_t start = now_ns();
        if (++since_look >= LOOK_EVERY_ROUNDS || !worker->active) {
            if (worker->held_back)
                release_held_back(worker);
            look_for_events(worker);
            since_look = 0;
        }
        unsigned moved = serve_active(worker);
        svq_count(&worker->stats.rounds, 1);
        svq_count(moved ? &worker->stats.busy_ns : &worker->stats.poll_ns, now_ns() - start);
        if (!worker->active)
            sleep_until_event(worker);
        else if (!moved)
            svq_spin_hint();
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

int svq_worker_start(struct svq_hv *hv, const struct svq_worker_config *config, struct svq_worker **out)
{
    struct svq_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return -ENOMEM;
    worker->hv = hv;
    worker->config = *config;
    worker->poll_ns = (uint64_t)config->poll_us_max * 1000;
    worker->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    worker->alert_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&worker->lock, NULL);
    int rc = worker->control_fd < 0 || worker->alert_fd < 0 ? -errno : svq_evtchn_open(hv, &worker->ec);
    if (rc == 0)
        rc = -pthread_create(&worker->thread, NULL, run, worker);
    if (rc < 0) {
        if (worker->ec)
            svq_evtchn_close(worker->ec);
        close(worker->control_fd);
        close(worker->alert_fd);
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
    post(worker->control_fd);
    pthread_join(worker->thread, NULL);
    svq_evtchn_close(worker->ec);
    close(worker->control_fd);
    close(worker->alert_fd);
    pthread_mutex_destroy(&worker->lock);
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
