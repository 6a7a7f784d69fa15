/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker's thread: serves the queues that have work, polls a little, sleeps. An idle queue costs nothing: it is on
 * the active list only from an event until it has been quiet for the polling time.
 */
#include "worker.h"

#include <poll.h>

#include "clock.h"
#include "suppress.h"

enum {
    TURN_PAGES = SVQ_PASS_PAGES, /* what a guest's queues may cost in one round, so that no guest starves the others */
    DEBT_ROUNDS = 1 << 16,       /* after this many rounds a guest owes nothing: no pass costs that many turns */
    LOOK_NS = 10 * 1000,         /* how often a busy worker looks for events of other queues */
    EVENTS_PER_LOOK = 64,
    STORM_EVENTS = 32, /* events in a row without work before a peer is held back */
    HOLD_BACK_NS = 10 * 1000 * 1000,
};

void svq_worker_activate(struct svq_worker *worker, struct svq_queue *q)
{
    if (q->active)
        return;
    q->active = true;
    q->idle_since_ns = 0; /* an event has said that there is work */
    q->next_active = worker->active;
    worker->active = q;
}

void svq_worker_drop_active(struct svq_worker *worker, struct svq_queue *q)
{
    for (struct svq_queue **link = &worker->active; *link; link = &(*link)->next_active) {
        if (*link == q) {
            *link = q->next_active;
            break;
        }
    }
    q->active = false;
}

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
    struct svq_turn *turn = &worker->turns[q->guest->mem.domid % SVQ_TURNS];
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
    worker->turns[q->guest->mem.domid % SVQ_TURNS].left -= q->cost;
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
        if (q->idle_since_ns)
            svq_busy_wait_won(&worker->busy_wait, svq_now_ns() - q->idle_since_ns);
        q->idle_since_ns = 0;
    } else if (n < 0) {
        svq_worker_post(
            worker->alert_fd); /* its ports stay masked from the next event on, so a broken device is silent */
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
        struct svq_port_ref *ref = (uint32_t)port < worker->port_count ? &worker->ports[port] : NULL;
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
    struct svq_call *call = __atomic_load_n(&worker->call, __ATOMIC_ACQUIRE);
    if (svq_likely(!call))
        return;
    __atomic_store_n(&worker->call, NULL, __ATOMIC_RELAXED);
    call->answer = call->run(call->arg);
    __atomic_store_n(&call->done, 1, __ATOMIC_RELEASE); /* from now on the call may be gone */
    svq_worker_post(worker->done_fd);
}

void *svq_worker_run(void *arg)
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
