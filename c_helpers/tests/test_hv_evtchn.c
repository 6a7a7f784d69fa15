/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Event channels of the embedded machine. */
#include <pthread.h>

#include "sim_fixture.h"

struct channel {
    struct svq_evtchn *front, *back;
    int front_port, back_port;
};

static int readable(struct svq_evtchn *ec, int timeout_ms)
{
    struct pollfd pfd = { .fd = svq_evtchn_fd(ec), .events = POLLIN };
    return poll(&pfd, 1, timeout_ms) == 1;
}

/* Takes the event that a fresh binding starts with. */
static void connect_channel(struct fixture *f, struct channel *channel)
{
    REQUIRE(svq_evtchn_open(f->frontend, &channel->front) == 0);
    REQUIRE(svq_evtchn_open(f->backend, &channel->back) == 0);
    channel->front_port = svq_evtchn_alloc_unbound(channel->front, BACKEND);
    REQUIRE(channel->front_port > 0);
    channel->back_port = svq_evtchn_bind(channel->back, FRONTEND, (uint32_t)channel->front_port);
    REQUIRE(channel->back_port > 0);
    REQUIRE(svq_evtchn_pending(channel->back) == channel->back_port);
    REQUIRE(svq_evtchn_unmask(channel->back, (uint32_t)channel->back_port) == 0);
}

TEST(fresh_binding, "A port starts pending at the side that bound it, as on Xen, and quiet at the side that offered it")
{
    struct fixture f;
    fixture_start(&f);
    struct channel channel;
    connect_channel(&f, &channel);
    CHECK_EQUAL(svq_evtchn_pending(channel.front), -EAGAIN);
    CHECK_EQUAL(svq_evtchn_pending(channel.back), -EAGAIN);
    CHECK(!readable(channel.front, 0));
    fixture_stop(&f);
}

TEST(masking, "A pending port is masked until it is unmasked, and then all that came meanwhile is one event")
{
    struct fixture f;
    fixture_start(&f);
    struct channel channel;
    connect_channel(&f, &channel);
    CHECK_EQUAL(svq_evtchn_notify(channel.back, (uint32_t)channel.back_port), 0);
    CHECK(readable(channel.front, 0));
    CHECK_EQUAL(svq_evtchn_pending(channel.front), channel.front_port);
    CHECK_EQUAL(svq_evtchn_pending(channel.front), -EAGAIN);
    CHECK_EQUAL(svq_evtchn_notify(channel.back, (uint32_t)channel.back_port), 0);
    CHECK_EQUAL(svq_evtchn_notify(channel.back, (uint32_t)channel.back_port), 0);
    CHECK(!readable(channel.front, 0));
    CHECK_EQUAL(svq_evtchn_pending(channel.front), -EAGAIN);
    CHECK_EQUAL(svq_evtchn_unmask(channel.front, (uint32_t)channel.front_port), 0);
    CHECK(readable(channel.front, 0));
    CHECK_EQUAL(svq_evtchn_pending(channel.front), channel.front_port);
    CHECK_EQUAL(svq_evtchn_unmask(channel.front, (uint32_t)channel.front_port), 0);
    CHECK_EQUAL(svq_evtchn_pending(channel.front), -EAGAIN);
    fixture_stop(&f);
}

TEST(refused_bindings, "A port is bound only by the domain it was offered to, only once, and only if it exists")
{
    struct fixture f;
    fixture_start(&f);
    struct channel channel;
    connect_channel(&f, &channel);
    struct svq_hv *stranger = fixture_open(&f, STRANGER);
    struct svq_evtchn *ec;
    REQUIRE(svq_evtchn_open(stranger, &ec) == 0);
    int unbound = svq_evtchn_alloc_unbound(channel.front, BACKEND);
    REQUIRE(unbound > 0);
    CHECK_EQUAL(svq_evtchn_bind(ec, FRONTEND, (uint32_t)unbound), -EPERM);
    CHECK_EQUAL(svq_evtchn_bind(ec, FRONTEND, (uint32_t)channel.front_port), -EINVAL);
    CHECK_EQUAL(svq_evtchn_bind(channel.back, FRONTEND, (uint32_t)channel.front_port), -EINVAL);
    CHECK_EQUAL(svq_evtchn_bind(ec, FRONTEND, 0), -EINVAL);
    CHECK_EQUAL(svq_evtchn_bind(ec, FRONTEND, 999), -EINVAL);
    CHECK_EQUAL(svq_evtchn_bind(ec, FRONTEND, UINT32_MAX), -EINVAL);
    CHECK_EQUAL(svq_evtchn_bind(ec, 77, 1), -ESRCH);
    CHECK_EQUAL(svq_evtchn_notify(ec, (uint32_t)channel.front_port), -EINVAL); /* not a port of this handle */
    CHECK_EQUAL(svq_evtchn_unmask(ec, UINT32_MAX), -EINVAL);
    CHECK_EQUAL(svq_evtchn_unbind(ec, 5), -EINVAL);
    svq_hv_close(stranger);
    fixture_stop(&f);
}

TEST(peer_gone, "Notifying a port without a peer returns an error and harms nothing, and the peer may bind again")
{
    struct fixture f;
    fixture_start(&f);
    struct channel channel;
    connect_channel(&f, &channel);
    int again = svq_evtchn_alloc_unbound(channel.front, BACKEND);
    CHECK_EQUAL(svq_evtchn_notify(channel.front, (uint32_t)again), -ENOTCONN);
    CHECK_EQUAL(svq_evtchn_unbind(channel.back, (uint32_t)channel.back_port), 0);
    CHECK_EQUAL(svq_evtchn_notify(channel.front, (uint32_t)channel.front_port), -ENOTCONN);
    CHECK_EQUAL(svq_evtchn_notify(channel.back, (uint32_t)channel.back_port), -EINVAL);
    again = svq_evtchn_bind(channel.back, FRONTEND, (uint32_t)channel.front_port);
    CHECK(again > 0);
    CHECK_EQUAL(svq_evtchn_notify(channel.front, (uint32_t)channel.front_port), 0);
    CHECK_EQUAL(svq_evtchn_pending(channel.back), again);
    svq_evtchn_close(channel.back);
    CHECK_EQUAL(svq_evtchn_notify(channel.front, (uint32_t)channel.front_port), -ENOTCONN);
    struct svq_hv_counters counters;
    svq_hv_read_counters(f.backend, &counters);
    CHECK_EQUAL(counters.ports_live, 0);
    svq_hv_read_counters(f.frontend, &counters);
    CHECK_EQUAL(counters.ports_live, 2);
    CHECK_EQUAL(counters.notifies, 4);
    CHECK_EQUAL(svq_sim_domain_destroy(f.machine, FRONTEND), 0);
    CHECK_EQUAL(svq_evtchn_notify(channel.front, (uint32_t)channel.front_port), -ENOTCONN);
    CHECK(svq_evtchn_alloc_unbound(channel.front, BACKEND) == -ENOTCONN);
    fixture_stop(&f);
}

TEST(ports_are_reused, "The number of a closed port is used again")
{
    struct fixture f;
    fixture_start(&f);
    struct svq_evtchn *ec;
    REQUIRE(svq_evtchn_open(f.backend, &ec) == 0);
    for (int port = 1; port <= 50; port++)
        CHECK_EQUAL(svq_evtchn_alloc_unbound(ec, FRONTEND), port);
    CHECK_EQUAL(svq_evtchn_unbind(ec, 20), 0);
    CHECK_EQUAL(svq_evtchn_alloc_unbound(ec, FRONTEND), 20);
    fixture_stop(&f);
}

/* --- two threads -------------------------------------------------------------------------------------- */
enum { ROUND_TRIPS = 10000 };

struct end {
    struct svq_evtchn *ec;
    uint32_t port;
    int starts;
};

static void *play(void *argument)
{
    const struct end *end = argument;
    for (int i = 0; i < ROUND_TRIPS; i++) {
        if (end->starts)
            CHECK_EQUAL(svq_evtchn_notify(end->ec, end->port), 0);
        if (!CHECK(readable(end->ec, 20000)))
            return NULL;
        CHECK_EQUAL(svq_evtchn_pending(end->ec), (int)end->port);
        CHECK_EQUAL(svq_evtchn_unmask(end->ec, end->port), 0);
        if (!end->starts)
            CHECK_EQUAL(svq_evtchn_notify(end->ec, end->port), 0);
    }
    return NULL;
}

TEST(ping_pong, "Ten thousand events each way between two threads: none is lost and none is doubled")
{
    struct fixture f;
    fixture_start(&f);
    struct channel channel;
    connect_channel(&f, &channel);
    struct end ends[2];
    ends[0] = (struct end){ channel.front, (uint32_t)channel.front_port, 1 };
    ends[1] = (struct end){ channel.back, (uint32_t)channel.back_port, 0 };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        REQUIRE(pthread_create(&threads[i], NULL, play, &ends[i]) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQUAL(svq_evtchn_pending(channel.front), -EAGAIN);
    CHECK_EQUAL(svq_evtchn_pending(channel.back), -EAGAIN);
    fixture_stop(&f);
}

SVQ_TEST_MAIN()
