/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a worker shares out its rounds: worker.c itself, on made-up queues. The test says what a pass costs and moves, so
 * it knows exactly which queue is served when.
 */
#include "../src/engine/worker.c"

#include <errno.h>

#include "svq_test.h"

enum { QUEUES = 18, GUESTS = 3, ROUNDS_MAX = 64 };

struct fake {
    struct svq_queue q;
    uint32_t complete_cost, forward_cost; /* pages of each pass */
    int completes, forwards;              /* chains that each pass moves; negative: the device breaks */
    unsigned complete_passes, forward_passes, served_in[ROUNDS_MAX];
};

static struct fake queue[QUEUES];
static struct svq_guest guest[GUESTS];
static struct svq_device device[GUESTS];
static struct svq_worker worker;
static struct fake *order[4096];
static unsigned served;

/* --- what worker.c calls ------------------------------------------------------------------------------------------ */
static struct fake *fake_of(struct svq_queue *q) { return (struct fake *)(void *)q; /* its first member */ }

int svq_complete_pass(struct svq_queue *q, unsigned chains, bool *signal)
{
    struct fake *f = fake_of(q);
    (void)chains;
    *signal = false;
    f->complete_passes++;
    order[served++ % 4096] = f;
    q->cost += f->complete_cost;
    return f->completes;
}

int svq_forward_pass(struct svq_queue *q, unsigned chains, bool *signal)
{
    struct fake *f = fake_of(q);
    (void)chains;
    *signal = false;
    f->forward_passes++;
    q->cost += f->forward_cost;
    return f->forwards;
}

static int no_call(void) { abort(); }
int svq_evtchn_fd(struct svq_evtchn *ec)
{
    (void)ec;
    return no_call();
}
int svq_evtchn_notify(struct svq_evtchn *ec, uint32_t port)
{
    (void)ec, (void)port;
    return no_call();
}
int svq_evtchn_unmask(struct svq_evtchn *ec, uint32_t port)
{
    (void)ec, (void)port;
    return no_call();
}
int svq_evtchn_pending(struct svq_evtchn *ec)
{
    (void)ec;
    return -EAGAIN;
}

/* --- set-up ------------------------------------------------------------------------------------------------------- */
static void start(void)
{
    memset(queue, 0, sizeof queue);
    memset(&worker, 0, sizeof worker);
    served = 0;
    worker.busy_wait.ns = UINT64_MAX; /* no queue leaves for being quiet */
    worker.alert_fd = -1;
    for (int g = 0; g < GUESTS; g++) {
        guest[g].mem.domid = (uint16_t)(g + 1);
        device[g].guest = &guest[g];
    }
}

/* Queue `i` belongs to guest `g`, and each of its passes moves a chain at that cost. */
static void add(int i, int g, uint32_t complete_cost, uint32_t forward_cost)
{
    struct fake *f = &queue[i];
    f->q.guest = &guest[g];
    f->q.dev = &device[g];
    f->q.state = SVQ_QUEUE_RUNNING;
    f->complete_cost = complete_cost;
    f->forward_cost = forward_cost;
    f->completes = complete_cost != 0;
    f->forwards = forward_cost != 0;
    svq_worker_activate(&worker, &f->q);
}

/* Records each queue's passes in one round in served_in[round]. */
static void play(int rounds)
{
    for (int r = 0; r < rounds; r++) {
        unsigned before[QUEUES];
        for (int i = 0; i < QUEUES; i++)
            before[i] = queue[i].complete_passes;
        serve_active(&worker);
        for (int i = 0; i < QUEUES; i++)
            queue[i].served_in[r] = queue[i].complete_passes - before[i];
    }
}

static uint32_t passes_of(int first, int count)
{
    uint32_t sum = 0;
    for (int i = first; i < first + count; i++)
        sum += queue[i].complete_passes;
    return sum;
}

/* --- turns -------------------------------------------------------------------------------------------------------- */
TEST(many_queues, "A guest with 16 queues full of the costliest chains has as many turns as one with a single queue")
{
    start();
    for (int i = 0; i < 16; i++)
        add(i, 0, 0, TURN_PAGES);
    add(16, 1, 0, TURN_PAGES);
    play(ROUNDS_MAX);
    CHECK_EQUAL(passes_of(0, 16), ROUNDS_MAX);
    CHECK_EQUAL(passes_of(16, 1), ROUNDS_MAX);
    for (int i = 0; i < 16; i++) /* and its queues take turns among themselves */
        CHECK_EQUAL(queue[i].complete_passes, ROUNDS_MAX / 16);
}

TEST(neighbour, "Whatever one guest's queues cost, another one's queue is served in every round")
{
    const uint32_t costs[] = { 1, TURN_PAGES / 3, TURN_PAGES, 2 * TURN_PAGES, 40 * TURN_PAGES };
    for (unsigned c = 0; c < sizeof costs / sizeof *costs; c++) {
        start();
        for (int i = 0; i < 16; i++)
            add(i, 0, costs[c], costs[c]);
        add(16, 1, 0, 1);
        play(ROUNDS_MAX);
        for (int r = 0; r < ROUNDS_MAX; r++)
            CHECK_EQUAL(queue[16].served_in[r], 1);
    }
}

TEST(cheap_queues, "Queues that cost little are all served in one round, however many there are")
{
    start();
    for (int i = 0; i < 17; i++)
        add(i, 0, 0, 1);
    play(ROUNDS_MAX);
    CHECK_EQUAL(passes_of(0, 17), 17 * ROUNDS_MAX);
    CHECK(!worker.waiting);
}

TEST(overdraft, "What a chain costs beyond its guest's turn is taken from the turns after it: equal shares in the end")
{
    const unsigned cost = 2 * TURN_PAGES - 2; /* like the largest chains: nearly two turns */
    start();
    add(0, 0, 0, cost);
    add(1, 1, 0, TURN_PAGES);
    play(ROUNDS_MAX);
    CHECK_EQUAL(queue[1].complete_passes, ROUNDS_MAX);
    CHECK_EQUAL(queue[0].complete_passes, (ROUNDS_MAX * TURN_PAGES + cost) / cost);
    CHECK_EQUAL(queue[0].served_in[0], 1);
    CHECK_EQUAL(queue[0].served_in[1] + queue[0].served_in[2], 1);
}

TEST(debts_end, "A guest that was away owes nothing, and has saved up nothing")
{
    start();
    add(0, 0, 0, 40 * TURN_PAGES);
    add(1, 1, 0, 1);
    play(1);
    svq_worker_drop_active(&worker, &queue[0].q);
    play(41);
    queue[0].forward_cost = TURN_PAGES;
    svq_worker_activate(&worker, &queue[0].q);
    play(4);
    CHECK(queue[0].served_in[0] && queue[0].served_in[1] && queue[0].served_in[2] && queue[0].served_in[3]);
    CHECK_EQUAL(queue[0].complete_passes, 5);
}

TEST(left_over, "Queues that were left over come first in the next round, in their order, and nobody spins for them")
{
    start();
    for (int i = 2; i >= 0; i--)
        add(i, 0, 0, TURN_PAGES); /* each goes to the head of the list */
    play(3);
    CHECK(worker.waiting);
    for (int i = 0; i < 3; i++)
        CHECK(order[i] == &queue[i]);
}

TEST(one_direction, "Where completions alone took what a pass may cost, new chains wait for the next round")
{
    start();
    add(0, 0, SVQ_PASS_PAGES, 1);
    add(1, 1, SVQ_PASS_PAGES - 1, 1);
    play(1);
    CHECK_EQUAL(queue[0].forward_passes, 0);
    CHECK_EQUAL(queue[1].forward_passes, 1);
    queue[0].complete_cost = 0;
    play(2);
    CHECK(queue[0].forward_passes > 0);
}

TEST(gone, "A queue that breaks, or was stopped, leaves the list, and the others stay in their order")
{
    start();
    for (int i = 3; i >= 0; i--)
        add(i, i % 2, 0, 1);
    queue[1].forwards = SVQ_E_HEAD_RANGE;
    queue[2].q.state = SVQ_QUEUE_STOPPED;
    play(1);
    CHECK(!queue[1].q.active && !queue[2].q.active);
    served = 0;
    play(1);
    CHECK_EQUAL(served, 2);
    CHECK(order[0] == &queue[0] && order[1] == &queue[3]);
}

TEST(polling, "Work that a quiet queue shows counts as found by polling, and work that an event announced does not")
{
    start();
    worker.busy_wait.lost = 3;
    add(0, 0, 0, 1);
    play(2);
    CHECK_EQUAL(worker.busy_wait.lost, 3);
    queue[0].forwards = false;
    play(1);
    CHECK_EQUAL(worker.busy_wait.lost, 3);
    queue[0].forwards = true;
    play(1);
    CHECK_EQUAL(worker.busy_wait.lost, 0);
}

SVQ_TEST_MAIN()
