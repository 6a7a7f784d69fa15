/* SPDX-License-Identifier: GPL-2.0-or-later */
/* With a worker thread: throughput at depth 128 on two cores, and wake-ups at depth 1, where everybody sleeps. */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "bench.h"
#include "relay.h"

enum { DEPTH = 128, DEPTH_1_REQUESTS = 4000 };
enum { WINDOW_NS = 500000, LONGEST_NS = 1500000000 };
enum { WARM_WINDOWS = 50, WINDOWS_WANTED = 400, WINDOWS_MIN = 20, WINDOWS_MAX = 3000 };

/* The `index`th processor that we may use; -1: there are too few. */
static int allowed_cpu(int index)
{
    static cpu_set_t allowed; /* as it was before we pinned anything */
    if (CPU_COUNT(&allowed) == 0)
        sched_getaffinity(0, sizeof allowed, &allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &allowed) && index-- == 0)
            return cpu;
    return -1;
}

/* Pins this thread and returns its previous set of processors. */
static cpu_set_t pin(int cpu)
{
    cpu_set_t set, before;
    pthread_getaffinity_np(pthread_self(), sizeof before, &before);
    if (cpu >= 0) {
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    return before;
}

/* Both neighbours notify when asked to, as the standard demands: the worker may have gone to sleep. */
static void kick_if_wanted(struct rig *rig, uint16_t old)
{
    struct rig_queue *q = &rig->q[0];
    svq_full_fence();
    if (vring_need_event(svq_load_u16(vring_avail_event(q->used, rig->config.queue_size)), q->avail_idx, old))
        svq_evtchn_notify(rig->frontend_ec, (uint32_t)q->frontend_port);
}

static void answer_if_wanted(struct rig *rig, uint16_t old)
{
    struct rig_queue *q = &rig->q[0];
    struct vring_avail *avail = (struct vring_avail *)(uintptr_t)q->shadow_avail;
    svq_full_fence();
    if (vring_need_event(svq_load_u16(vring_used_event(avail, rig->config.queue_size)), q->shadow_used_idx, old))
        svq_evtchn_notify(rig->backend_ec, (uint32_t)q->backend_port);
}

/*
 * The device of the throughput run: reads what it gets as a real device must (the descriptor, its shadow indirect table
 * with the header), through memory that the mediator granted to it.
 */
struct table_cache {
    const struct vring_desc *va[1 << 12];
};

static const struct vring_desc *table_at(struct rig *rig, struct table_cache *cache, uint64_t addr)
{
    uint32_t gref = svq_grant_addr_gref(addr);
    if (gref >= 1 << 12)
        abort();
    if (!cache->va[gref]) {
        void *va;
        if (svq_hv_map_grants(rig->backend, RIG_MEDIATOR, &gref, 1, 0, &va) < 0)
            abort();
        cache->va[gref] = va;
    }
    return (const void *)((const uint8_t *)cache->va[gref] + svq_grant_addr_offset(addr));
}

static unsigned serve_blk(struct rig *rig, struct table_cache *cache, uint64_t *sum)
{
    struct rig_queue *q = &rig->q[0];
    uint16_t mask = (uint16_t)(rig->config.queue_size - 1), avail = svq_acquire_u16(&q->shadow_avail->idx);
    uint16_t old = q->shadow_used_idx;
    unsigned n = 0;
    for (; q->shadow_avail_seen != avail; n++) {
        uint16_t head = svq_load_u16(&q->shadow_avail->ring[q->shadow_avail_seen++ & mask]);
        struct vring_desc desc = q->shadow_desc[head];
        const struct vring_desc *table = table_at(rig, cache, desc.addr);
        for (unsigned i = 0; i < desc.len / sizeof *table; i++)
            *sum += table[i].addr + table[i].len;
        struct vring_used_elem *elem = &q->shadow_used->ring[q->shadow_used_idx++ & mask];
        svq_store_u32(&elem->id, head);
        svq_store_u32(&elem->len, SVQ_PAGE_SIZE + 1);
    }
    if (n) {
        svq_release_u16(&q->shadow_used->idx, q->shadow_used_idx);
        answer_if_wanted(rig, old);
    }
    return n;
}

/* The driver of the throughput run: offers each returned chain again; the descriptors stay the same. */
static unsigned reoffer(struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    uint16_t mask = (uint16_t)(rig->config.queue_size - 1), used = svq_acquire_u16(&q->used->idx);
    uint16_t old = q->avail_idx;
    unsigned n = 0;
    for (; q->used_seen != used; n++) {
        uint16_t head = (uint16_t)svq_load_u32(&q->used->ring[q->used_seen++ & mask].id);
        svq_store_u16(&q->avail->ring[q->avail_idx++ & mask], head);
    }
    if (n) {
        svq_release_u16(&q->avail->idx, q->avail_idx);
        kick_if_wanted(rig, old);
    }
    return n;
}

struct flow {
    double typical;     /* chains/s over the windows in which both threads ran all the time */
    double mean;        /* over all windows, whoever had the processors */
    double undisturbed; /* share of the windows that `typical` uses; 0: too few, so `typical` is the mean */
};

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The other threads of this process: the worker, and the machine's broker, which has nothing to do. */
struct others {
    clockid_t clock[8];
    unsigned count;
};

static struct others find_others(void)
{
    struct others others = { .count = 0 };
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *e; tasks && (e = readdir(tasks));) {
        long tid = strtol(e->d_name, NULL, 10);
        if (tid > 0 && tid != gettid() && others.count < sizeof others.clock / sizeof *others.clock)
            others.clock[others.count++] = (clockid_t)(~(unsigned long)tid << 3 | 6); /* pthread_getcpuclockid's */
    }
    if (tasks)
        closedir(tasks);
    return others;
}

/* Not the process's clock, which counts threads on other processors only at their next tick. */
static uint64_t others_ns(const struct others *others)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < others->count; i++)
        sum += cpu_ns(others->clock[i]);
    return sum;
}

static uint64_t worker_sleeps(const struct rig *rig)
{
    struct svq_worker_stats stats;
    svq_worker_read_stats(rig->worker, &stats);
    return stats.sleeps;
}

struct window {
    uint64_t done, ns;
    bool ours;
};

/*
 * Both threads spin, so each uses as much processor time as passes, unless somebody else had its processor: such a
 * window says nothing about the engine. A window in which the worker went to sleep while we ran does count.
 */
static struct window run_window(struct rig *rig, const struct others *others, struct table_cache *cache, uint64_t *sum)
{
    struct window w = { 0 };
    uint64_t sleeps = worker_sleeps(rig), worker = others_ns(others), me = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t start = svq_now_ns(), now = start;
    for (unsigned turn = 1; turn % 64 || (now = svq_now_ns()) - start < WINDOW_NS; turn++) {
        serve_blk(rig, cache, sum);
        w.done += reoffer(rig);
    }
    w.ns = now - start;
    me = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - me;
    worker = others_ns(others) - worker;
    uint64_t most = w.ns - w.ns / 32;
    w.ours = me >= most && (worker >= most || worker_sleeps(rig) != sleeps);
    if (rig_fault(rig))
        abort();
    return w;
}

static struct flow measure_flow(struct rig *rig, struct table_cache *cache, uint64_t *sum)
{
    struct others others = find_others();
    struct window all = { 0 }, ours = { 0 };
    unsigned n = 0, good = 0;
    for (unsigned i = 0; i < WARM_WINDOWS; i++)
        run_window(rig, &others, cache, sum);
    for (; n < WINDOWS_MAX && all.ns < LONGEST_NS && good < WINDOWS_WANTED; n++) {
        struct window w = run_window(rig, &others, cache, sum);
        all.done += w.done;
        all.ns += w.ns;
        if (!w.ours)
            continue;
        ours.done += w.done;
        ours.ns += w.ns;
        good++;
    }
    double mean = (double)all.done / (double)all.ns * 1e9;
    if (good < WINDOWS_MIN)
        return (struct flow){ mean, mean, 0 };
    return (struct flow){ (double)ours.done / (double)ours.ns * 1e9, mean, (double)good / n };
}

/* The worker on one processor, driver and device on another. */
static struct flow throughput(unsigned idle_queues)
{
    static struct rig rig;
    static struct table_cache cache;
    uint64_t sum = 0;
    cache = (struct table_cache){ { 0 } };
    rig_open(&rig, &(struct rig_config){ .queue_size = 512,
                                         .queues = (uint16_t)(1 + idle_queues),
                                         .with_worker = 1,
                                         .bounce_pages = 64,
                                         .large_chains = 1,
                                         .worker_config = { .poll_us_max = 10000, .cpu = allowed_cpu(0) } });
    cpu_set_t before = pin(allowed_cpu(1));
    bench_offer_blk(&rig, DEPTH);
    svq_evtchn_notify(rig.frontend_ec, (uint32_t)rig.q[0].frontend_port);
    struct flow flow = measure_flow(&rig, &cache, &sum);
    for (uint32_t gref = 0; gref < 1 << 12; gref++)
        if (cache.va[gref])
            svq_hv_unmap_grants(rig.backend, (void *)(uintptr_t)cache.va[gref], 1);
    rig_close(&rig);
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    if (sum == 1)
        abort(); /* keeps the device's reads alive */
    return flow;
}

void bench_two_cores(unsigned rounds)
{
    for (unsigned r = 0; r < rounds; r++) {
        for (unsigned idle = 0; idle <= 48; idle += 16) {
            struct flow flow = throughput(idle);
            bench_sample("chains_per_second_by_idle_queues", idle, flow.typical);
            if (idle)
                continue;
            bench_sample("chains_per_second_depth128", r, flow.typical);
            bench_sample("chains_per_second_depth128_mean", r, flow.mean);
            bench_sample("chains_per_second_undisturbed_share", r, flow.undisturbed);
        }
        bench_round_done(r);
    }
}

/* --- depth 1, everybody sleeps ---------------------------------------------------------------------------- */

static void wait_event(struct svq_evtchn *ec)
{
    struct pollfd fd = { .fd = svq_evtchn_fd(ec), .events = POLLIN };
    poll(&fd, 1, 1000);
    int port = svq_evtchn_pending(ec);
    if (port > 0)
        svq_evtchn_unmask(ec, (uint32_t)port);
}

static void *sleeping_device(void *arg)
{
    struct rig *rig = arg;
    struct rig_queue *q = &rig->q[0];
    for (unsigned served = 0; served < DEPTH_1_REQUESTS;) {
        uint16_t old = q->shadow_used_idx;
        unsigned n = bench_echo(rig, SVQ_PAGE_SIZE + 1);
        served += n;
        if (n) {
            answer_if_wanted(rig, old);
            continue;
        }
        svq_store_u16(vring_avail_event(q->shadow_used, 256), q->shadow_avail_seen);
        svq_full_fence();
        if (svq_load_u16(&q->shadow_avail->idx) == q->shadow_avail_seen)
            wait_event(rig->backend_ec);
    }
    return NULL;
}

static void sleeping_driver(struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    for (unsigned i = 0; i < DEPTH_1_REQUESTS; i++) {
        uint16_t old = q->avail_idx;
        bench_offer_blk(rig, 1);
        kick_if_wanted(rig, old);
        for (;;) {
            if (bench_reap(rig))
                break;
            svq_store_u16(vring_used_event(q->avail, 256), q->used_seen);
            svq_full_fence();
            if (svq_load_u16(&q->used->idx) == q->used_seen)
                wait_event(rig->frontend_ec);
        }
    }
}

void bench_sleeping(unsigned rounds)
{
    static struct rig rig;
    for (unsigned r = 0; r < rounds; r++) {
        rig_open(&rig, &(struct rig_config){ .with_worker = 1, .worker_config = { .poll_us_max = 0, .cpu = -1 } });
        uint64_t start = svq_now_ns();
        pthread_t device;
        pthread_create(&device, NULL, sleeping_device, &rig);
        sleeping_driver(&rig);
        pthread_join(device, NULL);
        uint64_t elapsed = svq_now_ns() - start;
        struct svq_queue_stats stats;
        svq_queue_read_stats(rig.dev, 0, &stats);
        struct svq_worker_stats worker;
        svq_worker_read_stats(rig.worker, &worker);
        bench_sample("depth1_kicks_per_request", r, (double)stats.kicks_sent / DEPTH_1_REQUESTS);
        bench_sample("depth1_interrupts_per_request", r, (double)stats.interrupts_sent / DEPTH_1_REQUESTS);
        bench_sample("depth1_worker_wakeups_per_request", r, (double)worker.wakeups / DEPTH_1_REQUESTS);
        bench_sample("depth1_notify_time_share", r, (double)worker.notify_ns / (double)elapsed);
        bench_sample("depth1_round_trip_us", r, (double)elapsed / DEPTH_1_REQUESTS / 1000);
        bench_round_done(r);
        rig_close(&rig);
    }
}
