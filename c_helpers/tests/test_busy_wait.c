/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How long the mediator's, the backend's and the driver's threads look for work before they sleep. */
#include "busy_wait.h"
#include "svq_test.h"

enum { MAX_US = 80, MAX_NS = MAX_US * 1000 };

TEST(grows, "Short sleeps lengthen the polling time, up to the configured maximum")
{
    struct svq_busy_wait wait = { .ns = 0, .max_ns = MAX_NS };
    uint64_t before = 0;
    for (int i = 0; i < 10; i++, before = wait.ns) {
        svq_busy_wait_adapt(&wait, MAX_NS - 1);
        CHECK(wait.ns > before || wait.ns == MAX_NS);
        CHECK(wait.ns <= MAX_NS);
    }
    CHECK_EQUAL(wait.ns, MAX_NS);
}

TEST(shrinks, "Long sleeps shorten the polling time, and soon to nothing")
{
    struct svq_busy_wait wait = svq_busy_wait_up_to(MAX_US);
    CHECK_EQUAL(wait.ns, MAX_NS);
    svq_busy_wait_adapt(&wait, MAX_NS);
    CHECK_EQUAL(wait.ns, MAX_NS / 2);
    for (int i = 0; i < 4; i++)
        svq_busy_wait_adapt(&wait, MAX_NS);
    CHECK_EQUAL(wait.ns, 0);
}

TEST(none, "With a maximum of 0 nobody polls, however short the sleep")
{
    struct svq_busy_wait wait = svq_busy_wait_up_to(0);
    svq_busy_wait_adapt(&wait, 0);
    CHECK_EQUAL(wait.ns, 0);
}

/* Looks for the full time in vain, and sleeps shortly after that. */
static unsigned lose_until_rest(struct svq_busy_wait *wait)
{
    unsigned times = 0;
    for (; wait->ns && times < 1000; times++)
        svq_busy_wait_adapt(wait, 1);
    return times;
}

static unsigned rest(struct svq_busy_wait *wait)
{
    unsigned sleeps = 0;
    for (; !wait->ns && sleeps < 100000; sleeps++)
        svq_busy_wait_adapt(wait, 1);
    return sleeps;
}

TEST(in_vain, "Who looks in vain, time after time, and is woken as soon as it sleeps, stops looking for a while")
{
    struct svq_busy_wait wait = svq_busy_wait_up_to(MAX_US);
    CHECK_EQUAL(lose_until_rest(&wait), SVQ_BUSY_WAIT_LOST_MAX);
    CHECK_EQUAL(rest(&wait), SVQ_BUSY_WAIT_REST_MIN);
    CHECK_EQUAL(wait.ns, MAX_NS);
    for (unsigned length = 2 * SVQ_BUSY_WAIT_REST_MIN; length <= 4096; length *= 2) {
        CHECK_EQUAL(lose_until_rest(&wait), SVQ_BUSY_WAIT_LOST_MAX);
        CHECK_EQUAL(rest(&wait), length);
    }
    CHECK_EQUAL(lose_until_rest(&wait), SVQ_BUSY_WAIT_LOST_MAX);
    CHECK_EQUAL(rest(&wait), 4096); /* and no longer than that */
}

TEST(won, "Who finds work by looking goes on looking, and the next rest is a short one")
{
    struct svq_busy_wait wait = svq_busy_wait_up_to(MAX_US);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(lose_until_rest(&wait), SVQ_BUSY_WAIT_LOST_MAX);
        CHECK(rest(&wait) > 0);
    }
    for (int i = 0; i < 10 * SVQ_BUSY_WAIT_LOST_MAX; i++) {
        svq_busy_wait_adapt(&wait, 1);
        svq_busy_wait_won(&wait, MAX_NS);
        CHECK_EQUAL(wait.ns, MAX_NS);
    }
    CHECK_EQUAL(lose_until_rest(&wait), SVQ_BUSY_WAIT_LOST_MAX);
    CHECK_EQUAL(rest(&wait), SVQ_BUSY_WAIT_REST_MIN);
}

TEST(not_by_looking, "Work that is there when we have our processor back was not found by looking")
{
    struct svq_busy_wait wait = svq_busy_wait_up_to(MAX_US);
    for (int i = 0; i < SVQ_BUSY_WAIT_LOST_MAX; i++) {
        CHECK_EQUAL(wait.ns, MAX_NS);
        svq_busy_wait_adapt(&wait, 1);
        svq_busy_wait_won(&wait, 30 * MAX_NS);
    }
    CHECK_EQUAL(wait.ns, 0);
}

SVQ_TEST_MAIN()
