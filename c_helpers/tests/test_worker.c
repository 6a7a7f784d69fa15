/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Workers: nothing is lost while everybody sleeps, shares, resets, closes, storms or breaks. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "barrier.h"
#include "engine.h"
#include "rig_peers.h"
#include "svq_test.h"

enum { RAM = 4096, DEPTH = 16 };

static bool in_time(struct timespec *since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!since->tv_sec)
        *since = now;
    return (now.tv_sec - since->tv_sec) * 1000 < PEER_PATIENCE_MS;
}

/* Waits until `condition` holds, each time for another thread of this program. */
#define AWAIT(condition)                                                                                               \
    do {                                                                                                               \
        struct timespec since_ = { 0, 0 };                                                                             \
        while (!(condition) && in_time(&since_))                                                                       \
            sched_yield();                                                                                             \
        REQUIRE(condition);                                                                                            \
    } while (0)

/* One page per head; all queues' heads name the same pages, so that two workers want the same window entries. */
static void fill_ring(struct rig *rig, uint16_t queue)
{
    for (uint16_t i = 0; i < DEPTH; i++)
        rig->q[queue].desc[i] = (struct vring_desc){ rig_gpa(RIG_DATA_GFN + i), SVQ_PAGE_SIZE, 0, 0 };
}

static void ping_pong(struct rig *rig, uint16_t queue, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        uint16_t old = rig->q[queue].avail_idx;
        driver_offer(rig, queue, (uint16_t)(i % DEPTH));
        driver_kick(rig, queue, old);
        REQUIRE(driver_wait(rig, queue));
        CHECK_EQUAL(driver_reap(rig, queue), i % DEPTH);
    }
}

static void bursts(struct rig *rig, uint16_t queue, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        uint16_t old = rig->q[queue].avail_idx;
        for (uint16_t k = 0; k < DEPTH; k++)
            driver_offer(rig, queue, k);
        driver_kick(rig, queue, old);
        for (uint16_t k = 0; k < DEPTH; k++) {
            REQUIRE(driver_wait(rig, queue));
            CHECK_EQUAL(driver_reap(rig, queue), k);
        }
    }
}

TEST(nobody_oversleeps, "With all three asleep between requests none is lost, with EVENT_IDX or flags, polling or not")
{
    static struct rig rig;
    struct backend backend;
    for (int variant = 0; variant < 4; variant++) {
        rig_open(&rig, &(struct rig_config){ .ram_pages = RAM,
                                             .with_worker = 1,
                                             .no_event_idx = variant & 1,
                                             .worker_config = { .poll_us_max = variant & 2 ? 50 : 0, .cpu = -1 } });
        fill_ring(&rig, 0);
        backend_start(&backend, &rig, 1);
        ping_pong(&rig, 0, 500);
        bursts(&rig, 0, 100);
        backend_stop(&backend);
        struct svq_queue_stats stats = rig_stats(&rig, 0);
        CHECK_EQUAL(stats.completions, 500 + 100 * DEPTH);
        CHECK(stats.kicks_sent <= stats.chains && stats.interrupts_sent <= stats.completions);
        CHECK(stats.kicks_received <= stats.chains && stats.kicks_received > 0);
        CHECK_EQUAL(stats.throttled, 0);
        CHECK_EQUAL(rig_window_in_use(&rig), 0);
        struct svq_worker_stats worker;
        svq_worker_read_stats(rig.worker, &worker);
        CHECK(worker.rounds > 0 && worker.sleeps >= worker.wakeups);
        CHECK_EQUAL(worker.notifications, stats.kicks_sent + stats.interrupts_sent);
        rig_close(&rig);
    }
}

/* --- two workers, one guest ------------------------------------------------------------------------------------- */
struct reader {
    struct rig *rig;
    struct svq_device *dev[2];
    int stop; /* atomic */
    uint64_t reads;
};

static void *read_stats(void *arg)
{
    struct reader *reader = arg;
    uint64_t chains[2] = { 0, 0 };
    while (!__atomic_load_n(&reader->stop, __ATOMIC_ACQUIRE)) {
        for (int d = 0; d < 2; d++) {
            struct svq_queue_stats stats;
            svq_queue_read_stats(reader->dev[d], 0, &stats);
            struct svq_fault fault;
            svq_device_fault(reader->dev[d], &fault);
            struct svq_worker_stats worker;
            svq_worker_read_stats(reader->rig->worker, &worker);
            rig_window_in_use(reader->rig);
            if (stats.chains < chains[d] || svq_device_fault_count(reader->dev[d], SVQ_E_HEAD_BUSY) || fault.code)
                abort();
            chains[d] = stats.chains;
        }
        reader->reads++;
        sched_yield();
    }
    return NULL;
}

TEST(two_workers,
     "Two workers on one direct window, wanting the same pages, with statistics read meanwhile: all complete")
{
    static struct rig rig;
    enum { QUEUES = 3, ROUNDS = 60 };
    struct backend backend;
    struct svq_worker *second;
    pthread_t thread;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM,
                                         .with_worker = 1,
                                         .queues = QUEUES,
                                         .worker_config = { .poll_us_max = 20, .cpu = -1 } });
    REQUIRE(svq_worker_start(rig.mediator, &rig.config.worker_config, &second) == 0);
    struct svq_device *other = rig_add_device(&rig, second, QUEUES, QUEUES);
    struct reader reader = { .rig = &rig, .dev = { rig.dev, other } };
    for (uint16_t q = 0; q < 2 * QUEUES; q++)
        fill_ring(&rig, q);
    REQUIRE(pthread_create(&thread, NULL, read_stats, &reader) == 0);
    backend_start(&backend, &rig, 2 * QUEUES);
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (uint16_t q = 0; q < 2 * QUEUES; q++) {
            uint16_t old = rig.q[q].avail_idx;
            for (uint16_t k = 0; k < DEPTH; k++)
                driver_offer(&rig, q, k);
            driver_kick(&rig, q, old);
        }
        for (uint16_t q = 0; q < 2 * QUEUES; q++) {
            for (uint16_t k = 0; k < DEPTH; k++) {
                REQUIRE(driver_wait(&rig, q));
                CHECK_EQUAL(driver_reap(&rig, q), k);
            }
        }
    }
    backend_stop(&backend);
    __atomic_store_n(&reader.stop, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    CHECK(reader.reads > 0);
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    for (uint16_t q = 0; q < QUEUES; q++) {
        CHECK_EQUAL(rig_stats(&rig, q).completions, ROUNDS * DEPTH);
        struct svq_queue_stats stats;
        CHECK_EQUAL(svq_queue_read_stats(other, q, &stats), 0);
        CHECK(stats.completions == ROUNDS * DEPTH && stats.grants == stats.grants_ended);
    }
    rig.config.queues = 2 * QUEUES; /* the backend lets go of all rings */
    rig_disconnect_backend(&rig);
    CHECK_EQUAL(svq_device_close(other), 0);
    svq_worker_stop(second);
    rig_close(&rig);
}

TEST(worker_of_before, "Once its devices are closed, a worker may stop, and the guest can go on with another one")
{
    static struct rig rig;
    const struct svq_worker_config config = { .poll_us_max = 0, .cpu = -1 };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .queues = 1, .with_worker = 1, .worker_config = config });
    rig_close_device(&rig);
    struct backend backend;
    struct svq_worker *worker[2];
    for (int i = 0; i < 2; i++) {
        REQUIRE(svq_worker_start(rig.mediator, &config, &worker[i]) == 0);
        rig.q[0].avail_idx = rig.q[0].used_seen = rig.q[0].shadow_avail_seen = rig.q[0].shadow_used_idx = 0;
        memset(rig.q[0].avail, 0, SVQ_PAGE_SIZE);
        memset(rig.q[0].used, 0, SVQ_PAGE_SIZE);
        struct svq_device *dev = rig_add_device(&rig, worker[i], 0, 1);
        fill_ring(&rig, 0);
        backend_start(&backend, &rig, 1);
        ping_pong(&rig, 0, 20);
        backend_stop(&backend);
        rig_disconnect_backend(&rig);
        CHECK_EQUAL(svq_device_close(dev), 0);
        svq_worker_stop(worker[i]);
    }
    rig_close(&rig);
}

/* --- the control thread against a busy worker -------------------------------------------------------------------- */
static void offer_all(struct rig *rig, uint16_t queue)
{
    uint16_t old = rig->q[queue].avail_idx;
    for (uint16_t k = 0; k < DEPTH; k++)
        driver_offer(rig, queue, k);
    driver_kick(rig, queue, old);
}

TEST(resets_under_traffic, "A queue is repeatedly drained, reset and started while its neighbour carries traffic")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM,
                                         .with_worker = 1,
                                         .queues = 2,
                                         .worker_config = { .poll_us_max = 1000, .cpu = -1 } });
    fill_ring(&rig, 0);
    struct backend backend;
    backend_start(&backend, &rig, 2);
    for (int i = 0; i < 40; i++) {
        struct rig_queue *q = &rig.q[1];
        fill_ring(&rig, 1);
        offer_all(&rig, 1);
        offer_all(&rig, 0);
        CHECK(svq_queue_drain(rig.dev, 1) >= 0);
        AWAIT(svq_queue_in_flight(rig.dev, 1) == 0);
        CHECK_EQUAL(svq_queue_reset(rig.dev, 1), 0);
        for (uint16_t k = 0; k < DEPTH; k++) {
            REQUIRE(driver_wait(&rig, 0));
            CHECK_EQUAL(driver_reap(&rig, 0), k);
        }
        memset(q->avail, 0, SVQ_PAGE_SIZE);
        memset(q->used, 0, SVQ_PAGE_SIZE);
        q->avail_idx = q->used_seen = 0;
        struct svq_queue_config config = rig_queue_config(&rig, 1);
        CHECK_EQUAL(svq_queue_restart(rig.dev, &config), 0);
    }
    fill_ring(&rig, 1);
    ping_pong(&rig, 1, 20);
    backend_stop(&backend);
    CHECK_EQUAL(rig_fault(&rig), 0);
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    rig_close(&rig);
}

TEST(close_under_traffic,
     "A device is closed in the middle of its traffic: none of its grants is left, its neighbour goes on")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){
                       .ram_pages = RAM, .with_worker = 1, .worker_config = { .poll_us_max = 100, .cpu = -1 } });
    fill_ring(&rig, 0);
    struct svq_device *other = rig_add_device(&rig, rig.worker, 1, 1);
    fill_ring(&rig, 1);
    struct backend backend;
    backend_start(&backend, &rig, 2);
    for (int i = 0; i < 20; i++) {
        offer_all(&rig, 1);
        bursts(&rig, 0, 1);
        for (uint16_t k = 0; k < DEPTH && i < 19; k++) {
            REQUIRE(driver_wait(&rig, 1));
            driver_reap(&rig, 1);
        }
    }
    CHECK(svq_device_close(other) >= 0); /* the backend still maps its rings */
    CHECK_EQUAL(rig_window_in_use(&rig), 0);
    bursts(&rig, 0, 20);
    backend_stop(&backend);
    rig.config.queues = 2;
    rig_close(&rig);
}

/* --- peers that misbehave ----------------------------------------------------------------------------------------- */
static uint64_t throttled(struct rig *rig, uint16_t queue) { return rig_stats(rig, queue).throttled; }

/* Offers returned chains again. */
static unsigned keep_busy(struct rig *rig, uint16_t queue)
{
    unsigned moved = 0;
    for (int back; (back = driver_reap(rig, queue)) >= 0; moved++) {
        uint16_t old = rig->q[queue].avail_idx;
        driver_offer(rig, queue, (uint16_t)back);
        driver_kick(rig, queue, old);
    }
    return moved;
}

TEST(event_storm, "A storm of events is held back (XSA-391); others are served meanwhile, its own requests afterwards")
{
    static struct rig rig;
    struct timespec since = { 0, 0 };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM,
                                         .with_worker = 1,
                                         .queues = 2,
                                         .worker_config = { .poll_us_max = 1000, .cpu = -1 } });
    fill_ring(&rig, 0);
    fill_ring(&rig, 1);
    struct backend backend;
    backend_start(&backend, &rig, 2);
    while (throttled(&rig, 0) < 3 && in_time(&since))
        driver_storm(&rig, 0);
    REQUIRE(throttled(&rig, 0) >= 3);
    bursts(&rig, 1, 50);
    CHECK_EQUAL(rig_stats(&rig, 1).throttled, 0);
    /* now with a worker that never sleeps, since the neighbour is always busy */
    offer_all(&rig, 1);
    uint64_t before = throttled(&rig, 0);
    while (throttled(&rig, 0) == before && in_time(&since))
        driver_storm(&rig, 0);
    since.tv_sec = 0;
    for (uint64_t moved = 0; moved < 5000 && in_time(&since);)
        moved += keep_busy(&rig, 1);
    uint16_t old = rig.q[0].avail_idx;
    driver_offer(&rig, 0, 5);
    driver_kick(&rig, 0, old);
    int head = -1;
    for (since.tv_sec = 0; head < 0 && in_time(&since); head = driver_reap(&rig, 0))
        keep_busy(&rig, 1);
    CHECK_EQUAL(head, 5);
    backend_stop(&backend);
    CHECK_EQUAL(rig_fault(&rig), 0);
    rig_close(&rig);
}

TEST(broken_device, "A device that breaks makes the alert readable and is silent; the other one of its worker goes on")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){
                       .ram_pages = RAM, .with_worker = 1, .worker_config = { .poll_us_max = 50, .cpu = -1 } });
    struct svq_device *other = rig_add_device(&rig, rig.worker, 1, 1);
    fill_ring(&rig, 0);
    fill_ring(&rig, 1);
    struct backend backend;
    backend_start(&backend, &rig, 2);
    bursts(&rig, 0, 2);
    struct pollfd alert = { .fd = svq_worker_alert_fd(rig.worker), .events = POLLIN };
    CHECK_EQUAL(poll(&alert, 1, 0), 0);
    uint16_t old = rig.q[0].avail_idx;
    driver_offer(&rig, 0, 0x4000);
    driver_kick(&rig, 0, old);
    CHECK_EQUAL(poll(&alert, 1, PEER_PATIENCE_MS), 1);
    uint64_t posts;
    CHECK_EQUAL(read(alert.fd, &posts, sizeof posts), sizeof posts);
    CHECK_EQUAL(rig_fault(&rig), SVQ_E_HEAD_RANGE);
    driver_storm(&rig, 0); /* its port stays masked, so this wakes nobody */
    bursts(&rig, 1, 50);
    struct svq_fault fault;
    svq_device_fault(other, &fault);
    CHECK_EQUAL(fault.code, 0);
    CHECK_EQUAL(driver_reap(&rig, 0), -1);
    backend_stop(&backend);
    rig.config.queues = 2;
    rig_disconnect_backend(&rig);
    CHECK_EQUAL(svq_device_close(other), 0);
    rig_close(&rig);
}

TEST(overlapping_windows, "Two devices whose windows have entries in common, one direct and one dynamic, never take an "
                          "entry as if they were alone")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    struct svq_device_config config = rig_other_device(&rig, RIG_MARK + 1);
    struct svq_device *other, *apart;
    CHECK(rig.dev->window->alone);
    config.window = (struct svq_window_config){ .first_gref = rig_window(&rig).first_gref + 8, .count = 64 };
    REQUIRE(svq_device_create(rig.guest, &config, &other) == 0);
    CHECK(!rig.dev->window->alone && !other->window->alone);
    config.mark++;
    config.window.first_gref = rig_window(&rig).first_gref + rig_window(&rig).count;
    REQUIRE(svq_device_create(rig.guest, &config, &apart) == 0);
    CHECK(apart->window->alone);
    CHECK(svq_device_close(other) == 0 && svq_device_close(apart) == 0);
    rig_close(&rig);
}

/* --- what the control thread has the worker do ---------------------------------------------------------------- */
enum { CALLERS = 4, CALLS = 500 };

struct errand {
    struct rig *rig;
    pthread_t done_by; /* the thread that ran the last one */
    unsigned count;    /* no lock, no atomic: only one thread runs these calls */
};

static int run_errand(void *arg)
{
    struct errand *errand = arg;
    errand->done_by = pthread_self();
    return (int)++errand->count;
}

static void *send_errands(void *arg)
{
    struct errand *errand = arg;
    for (int i = 0; i < CALLS; i++)
        if (svq_worker_call(errand->rig->worker, run_errand, errand) <= i)
            return NULL;
    return errand;
}

TEST(errands, "The worker's thread runs what control threads want, one after another, whether it has traffic or sleeps")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){
                       .ram_pages = RAM, .with_worker = 1, .worker_config = { .poll_us_max = 50, .cpu = -1 } });
    struct errand errand = { .rig = &rig };
    fill_ring(&rig, 0);
    struct backend backend;
    backend_start(&backend, &rig, 1);
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        REQUIRE(pthread_create(&callers[i], NULL, send_errands, &errand) == 0);
    bursts(&rig, 0, 100);
    for (int i = 0; i < CALLERS; i++) {
        void *sent;
        pthread_join(callers[i], &sent);
        CHECK(sent == &errand);
    }
    CHECK_EQUAL(svq_worker_call(rig.worker, run_errand, &errand), CALLERS * CALLS + 1);
    CHECK(!pthread_equal(errand.done_by, pthread_self()));
    bursts(&rig, 0, 2);
    backend_stop(&backend);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
