/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker thread: serves the queues that have work, polls a little, sleeps. An idle queue costs nothing: it is on the
 * active list only from an event until it has been quiet for the polling time.
 *
 * What the control thread wants from a worker's queues, the worker does itself between two rounds. So there is no lock
 * that a preempted thread could hold for long.
 */
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "busy_wait.h"
#include "clock.h"
#include "suppress.h"

enum {
    TURNS = 256,                 /* guests that we tell apart when sharing out turns; a power of two */
    TURN_PAGES = SVQ_PASS_PAGES, /* what a guest's queues may cost in one round, so that no guest starves the others */
    DEBT_ROUNDS = 1 << 16,       /* after this many rounds a guest owes nothing: no pass costs that many turns */
    LOOK_NS = 10 * 1000,         /* how often a busy worker looks for events of other queues */
    EVENTS_PER_LOOK = 64,
    STORM_EVENTS = 32, /* events in a row without work before a peer is held back */
    HOLD_BACK_NS = 10 * 1000 * 1000,
};

struct port_ref {
    struct svq_queue *q;
    int leg;
};

/* What a guest's queues may still cost in a round. */
struct turn {
    uint64_t round;
    int64_t left;
};

struct call {
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
    struct call *call; /* atomic: what a caller wants run */
    int stop;          /* atomic */
    int control_fd, done_fd, alert_fd;
    struct port_ref *ports; /* by local port */
    uint32_t port_count;
    struct svq_queue *active;
    struct turn turns[TURNS]; /* by guest: its domid modulo their number */
    uint32_t held_back;
    uint64_t round;
    bool waiting;                   /* the last round left queues over */
    struct svq_busy_wait busy_wait; /* up to poll_us_max */
    uint64_t slept_at_ns;
    struct svq_worker_stats stats;
};

static void post(int fd)
{
    uint64_t one = 1;
    (void)!write(fd, &one, sizeof one);
}

/* --- the control thread's side ------------------------------------------------------------------------------ */

int svq_worker_call(struct svq_worker *worker, int (*run)(void *arg), void *arg)
{
    struct call call = { .run = run, .arg = arg };
    uint64_t posts;
    pthread_mutex_lock(&worker->callers);
    __atomic_store_n(&worker->call, &call, __ATOMIC_RELEASE);
    post(worker->control_fd); /* the worker may be asleep */
    while (!__atomic_load_n(&call.done, __ATOMIC_ACQUIRE))
        (void)!read(worker->done_fd, &posts, sizeof posts);
    pthread_mutex_unlock(&worker->callers);
    return call.answer;
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

static int unbind_queue(void *arg)
{
    const struct binding *binding = arg;
    if (binding->q->active)
        drop_active(binding->worker, binding->q);
    forget_port(binding->worker, binding->q, SVQ_LEG_FRONTEND);
    forget_port(binding->worker, binding->q, SVQ_LEG_BACKEND);
    binding->q->worker = NULL;
    return 0;
}

void svq_worker_unbind_queue(struct svq_worker *worker, struct svq_queue *q)
{
    svq_worker_call(worker, unbind_queue, &(struct binding){ worker, q });
}

void svq_worker_activate(struct svq_worker *worker, struct svq_queue *q)
{
    if (q->active)
        return;
    q->active = true;
    q->idle_since_ns = svq_now_ns();
    q->next_active = worker->active;
    worker->active = q;
}

/* --- the worker's side ---------------------------------------------------------------------------------------- */

static void notify(struct svq_worker *worker, uint32_t port, uint64_t *counter)
{
    uint64_t start = svq_now_ns();
    svq_count(counter, 1); /* count first: whoever wakes up finds it counted */
    svq_count(&worker->stats.notifications, 1);
    svq_evtchn_notify(worker->ec, port);
    svq_count(&worker->stats.notify_ns, svq_now_ns() - start);
}

/*
 * One pass over both directions, or over only the first if that used up the pass: then the other one goes first next
 * time. Returns the number of chains moved, or a negative code once the device is broken.
 */
static int serve(struct svq_worker *worker, struct svq_queue *q)
{
    bool tell_driver, tell_backend;
    int completed = svq_complete_pass(q, SVQ_PASS_CHAINS, &tell_driver);
    if (tell_driver) {
        uint16_t old = q->used_signalled;
        q->used_signalled = q->used_idx;
        if (svq_driver_wants_interrupt(q, old))
            notify(worker, q->leg[SVQ_LEG_FRONTEND].port, &q->stats.interrupts_sent);
    }
    if (completed < 0)
        return completed;
    int forwarded = 0;
    tell_backend = false;
    if (svq_likely(q->cost < SVQ_PASS_PAGES))
        forwarded = svq_forward_pass(q, SVQ_PASS_CHAINS, &tell_backend);
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

/* Has the queue's guest had its turn in this round? Includes what the guest took beyond its earlier turns. */
static bool had_its_turn(struct svq_worker *worker, const struct svq_queue *q)
{
    struct turn *turn = &worker->turns[q->guest->mem.domid % TURNS];
    if (turn->round != worker->round) {
        uint64_t rounds = worker->round - turn->round;
        turn->left += (int64_t)(rounds < DEBT_ROUNDS ? rounds : DEBT_ROUNDS) * TURN_PAGES;
        turn->left = turn->left < TURN_PAGES ? turn->left : TURN_PAGES;
        turn->round = worker->round;
    }
    return turn->left <= 0;
}

static void charge(struct svq_worker *worker, struct svq_queue *q)
{
    worker->turns[q->guest->mem.domid % TURNS].left -= q->cost;
    q->cost = 0;
}

/*
 * Serves one queue. False: it leaves the active list, because it is broken, stopped, or quiet and waiting for events.
 */
static bool serve_one(struct svq_worker *worker, struct svq_queue *q, unsigned *moved, uint64_t *now)
{
    int n = serve(worker, q);
    charge(worker, q);
    if (n > 0) {
        *moved += (unsigned)n;
        q->idle_since_ns = 0;
    } else if (n < 0) {
        post(worker->alert_fd); /* its ports stay masked from the next event on, so a broken device is silent */
        return false;
    } else {
        *now = *now ? *now : svq_now_ns();
        q->idle_since_ns = q->idle_since_ns ? q->idle_since_ns : *now;
    }
    if (!svq_queue_is_live(q))
        return false;
    /* quiet for the polling time: it asks for notifications, and leaves unless something came in just then */
    return n || *now - q->idle_since_ns < worker->busy_wait.ns || svq_queue_arm(q);
}

/*
 * Serves each active queue once, as far as its guest's turn allows. Queues that are left over come first in the next
 * round.
 */
static unsigned serve_active(struct svq_worker *worker)
{
    unsigned moved = 0;
    uint64_t now = 0;
    struct svq_queue **link = &worker->active, *served = NULL, **served_end = &served, *q;
    bool left_over = false;
    worker->round++;
    while ((q = *link)) {
        if (svq_unlikely(had_its_turn(worker, q))) {
            left_over = true;
            link = &q->next_active;
            continue;
        }
        *link = q->next_active;
        if (serve_one(worker, q, &moved, &now)) {
            *served_end = q;
            served_end = &q->next_active;
        } else {
            q->active = false;
        }
    }
    *served_end = NULL;
    *link = served; /* link is the end of what was left over */
    worker->waiting = left_over;
    return moved;
}

/* An event is spurious if no work arrived since the event before it; after too many in a row, the peer has to wait. */
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
        events->unmask_at_ns = svq_now_ns() + HOLD_BACK_NS;
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

/* Lets held-back peers send events again when their time is over. Returns when the next one's time is over, or 0. */
static uint64_t release_held_back(struct svq_worker *worker)
{
    uint64_t next = 0, now = svq_now_ns();
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
    uint64_t wake_at = worker->held_back ? release_held_back(worker) : 0, start = svq_now_ns();
    struct timespec timeout = { 0, 0 };
    if (wake_at > start) {
        timeout.tv_sec = (time_t)((wake_at - start) / 1000000000u);
        timeout.tv_nsec = (long)((wake_at - start) % 1000000000u);
    }
    struct pollfd fds[2] = { { .fd = svq_evtchn_fd(worker->ec), .events = POLLIN },
                             { .fd = worker->control_fd, .events = POLLIN } };
    svq_count(&worker->stats.sleeps, 1);
    int ready = ppoll(fds, 2, wake_at ? &timeout : NULL, NULL);
    if (ready > 0 && fds[1].revents) {
        uint64_t posts;
        (void)!read(worker->control_fd, &posts, sizeof posts);
    }
    if (ready > 0 && fds[0].revents) {
        svq_count(&worker->stats.wakeups, 1);
        svq_busy_wait_adapt(&worker->busy_wait, svq_now_ns() - start);
    }
}

static void answer_call(struct svq_worker *worker)
{
    struct call *call = __atomic_load_n(&worker->call, __ATOMIC_ACQUIRE);
    if (svq_likely(!call))
        return;
    __atomic_store_n(&worker->call, NULL, __ATOMIC_RELAXED);
    call->answer = call->run(call->arg);
    __atomic_store_n(&call->done, 1, __ATOMIC_RELEASE); /* from now on the call may be gone */
    post(worker->done_fd);
}

static void *run(void *arg)
{
    struct svq_worker *worker = arg;
    uint64_t looked_at = 0;
    while (!__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE)) {
        answer_call(worker);
        uint64_t start = svq_now_ns();
        if (start - looked_at >= LOOK_NS || !worker->active) {
            if (worker->held_back)
                release_held_back(worker);
            look_for_events(worker);
            looked_at = start;
        }
        unsigned moved = serve_active(worker);
        svq_count(&worker->stats.rounds, 1);
        svq_count(moved ? &worker->stats.busy_ns : &worker->stats.poll_ns, svq_now_ns() - start);
        if (!worker->active)
            sleep_until_event(worker);
        else if (!moved && !worker->waiting)
            svq_spin_hint();
    }
    return NULL;
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
        rc = -pthread_create(&worker->thread, NULL, run, worker);
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
    post(worker->control_fd);
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
