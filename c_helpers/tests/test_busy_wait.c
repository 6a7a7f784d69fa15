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

SVQ_TEST_MAIN()
