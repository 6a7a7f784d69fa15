/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The trace of a queue: what is out of the ordinary is in it, and so is every Nth chain, whoever reads meanwhile. */
#include <errno.h>

#include "barrier.h"
#include "rig_peers.h"
#include "svq_test.h"

enum { RAM = 4096, PAGE = SVQ_PAGE_SIZE, NO_HEAD = 0xffff };
#define DATA(n) rig_gpa(RIG_DATA_GFN + (n))

static struct svq_trace_entry trace[SVQ_TRACE_ENTRIES];

static int read_trace(const struct rig *rig) { return svq_queue_read_trace(rig->dev, 0, trace); }

static bool is(const struct svq_trace_entry *entry, int event, unsigned head, int code)
{
    return CHECK_EQUAL(entry->event, event) & CHECK_EQUAL(entry->head, head) & CHECK_EQUAL(entry->code, code);
}

static void there_and_back(struct rig *rig, uint16_t head, unsigned pages, uint32_t length)
{
    rig_blk(rig, head, 0, pages, SEG_WRITE);
    rig_offer(rig, head);
    CHECK_EQUAL(rig_forward(rig), 1);
    CHECK_EQUAL(rig_take(rig), head);
    rig_give(rig, head, length);
    CHECK_EQUAL(rig_complete(rig), 1);
}

TEST(nothing_to_tell, "A queue that does as it should leaves no trace, unless one is asked for")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    for (int i = 0; i < 5; i++)
        there_and_back(&rig, 8, 4, 1);
    CHECK_EQUAL(read_trace(&rig), 0);
    rig_close(&rig);
}

TEST(every_third, "Every third chain is in the trace, going and coming: its parts, where they went, and its bytes")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    CHECK_EQUAL(svq_queue_trace_every(rig.dev, 0, 3), 0);
    for (uint16_t i = 1; i <= 10; i++)
        there_and_back(&rig, (uint16_t)(i * 8), i, i * PAGE);
    CHECK_EQUAL(read_trace(&rig), 6);
    for (unsigned n = 0; n < 6; n++) {
        const struct svq_trace_entry *entry = &trace[n];
        unsigned nth = (n / 2 + 1) * 3;
        is(entry, n % 2 ? SVQ_TRACE_COMPLETED : SVQ_TRACE_FORWARDED, nth * 8, 0);
        CHECK_EQUAL(entry->number, n + 1);
        CHECK_EQUAL(entry->pages, nth);
        CHECK_EQUAL(entry->copied, 2); /* header and status */
        CHECK_EQUAL(entry->parts, entry->granted + 2);
        CHECK_EQUAL(entry->bytes, nth * PAGE + 17);
        CHECK_EQUAL(entry->used_length, n % 2 ? nth * PAGE : 0);
        CHECK(n == 0 || entry->time_ns >= trace[n - 1].time_ns);
    }
    CHECK_EQUAL(svq_queue_trace_every(rig.dev, 0, 0), 0);
    for (int i = 0; i < 6; i++)
        there_and_back(&rig, 8, 1, 1);
    CHECK_EQUAL(read_trace(&rig), 6);
    CHECK_EQUAL(svq_queue_trace_every(rig.dev, 1, 1), -EINVAL);
    CHECK_EQUAL(svq_queue_read_trace(rig.dev, 1, trace), -EINVAL);
    rig_close(&rig);
}

TEST(newest_stay, "A trace keeps the newest events, in their order and with their numbers")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    svq_queue_trace_every(rig.dev, 0, 1);
    for (unsigned i = 0; i < 100; i++)
        there_and_back(&rig, (uint16_t)(i % 16 * 4), 1, i);
    CHECK_EQUAL(read_trace(&rig), SVQ_TRACE_ENTRIES);
    for (unsigned n = 0; n < SVQ_TRACE_ENTRIES; n++)
        CHECK_EQUAL(trace[n].number, 200 - SVQ_TRACE_ENTRIES + 1 + n);
    CHECK_EQUAL(trace[SVQ_TRACE_ENTRIES - 1].used_length, 99);
    rig_close(&rig);
}

TEST(out_of_the_ordinary, "A chain that waits, one that is refused and one that is held are in the trace unasked")
{
    static struct rig rig;
    struct rig_shadow shadow;
    struct svq_queue_snapshot snapshot;
    uint8_t *va;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_COPY, .bounce_pages = 8 });
    const struct rig_seg segs[] = { { DATA(0), 3 * PAGE, SEG_READ } };
    for (uint16_t head = 0; head < 2; head++) {
        rig_chain(&rig, head, segs, 1);
        rig_offer(&rig, head);
    }
    CHECK_EQUAL(rig_forward(&rig), 1); /* four slots are for what the backend reads */
    CHECK_EQUAL(read_trace(&rig), 1);
    is(&trace[0], SVQ_TRACE_PARKED, 1, 0);
    CHECK_EQUAL(trace[0].pages, 3);
    CHECK_EQUAL(trace[0].bytes, 3 * PAGE);
    CHECK_EQUAL(svq_queue_read_snapshot(rig.dev, 0, &snapshot), 0);
    CHECK(snapshot.parked && snapshot.state == SVQ_QUEUE_RUNNING && snapshot.in_flight == 1 && snapshot.live[0] == 1);
    CHECK(snapshot.untrusted_avail_idx == 2 && snapshot.taken_idx == 1 && snapshot.completed_idx == 0);
    rig_give(&rig, 0, 0);
    CHECK_EQUAL(rig_complete(&rig), 1);
    rig_offer(&rig, 999);
    CHECK_EQUAL(rig_forward(&rig), SVQ_E_HEAD_RANGE); /* after the one that was parked */
    CHECK_EQUAL(read_trace(&rig), 2);
    is(&trace[1], SVQ_TRACE_REFUSED, 999, SVQ_E_HEAD_RANGE);
    rig_close(&rig);

    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_page(&rig, 4, 7, SEG_WRITE);
    rig_offer(&rig, 4);
    CHECK_EQUAL(rig_forward(&rig), 1);
    CHECK(rig_shadow_chain(&rig, 4, &shadow));
    REQUIRE(rig_part_map(&rig, &shadow.part[0], 1, &va) == 0);
    CHECK_EQUAL(svq_device_stop(rig.dev), 1);
    CHECK_EQUAL(svq_device_stop(rig.dev), 1); /* asked again it is no news */
    CHECK_EQUAL(read_trace(&rig), 1);
    is(&trace[0], SVQ_TRACE_HELD, 4, SVQ_E_GRANT_BUSY);
    CHECK_EQUAL(trace[0].pages, 1);
    rig_part_unmap(&rig, &shadow.part[0], va);
    rig_close(&rig);
}

/* --- while the queue's worker writes it ------------------------------------------------------------------------- */
enum { HEADS = 16 };

struct reader {
    struct rig *rig;
    int stop; /* atomic */
    uint64_t read, torn;
};

/* A chain with head h has h + 1 pages: an entry of which one half is another chain's is told by that. */
static void *read_all_the_time(void *arg)
{
    struct reader *reader = arg;
    struct svq_trace_entry found[SVQ_TRACE_ENTRIES];
    while (!__atomic_load_n(&reader->stop, __ATOMIC_ACQUIRE)) {
        int count = svq_queue_read_trace(reader->rig->dev, 0, found);
        for (int i = 0; i < count; i++) {
            bool in_order = i == 0 ||
                            (found[i].number > found[i - 1].number && found[i].time_ns >= found[i - 1].time_ns);
            bool whole = found[i].bytes == (found[i].head + 1u) * PAGE;
            reader->torn += !in_order || !whole;
            reader->read++;
        }
    }
    return NULL;
}

TEST(read_while_written,
     "Whoever reads a trace while requests flow gets whole entries in their order, and stops nobody")
{
    static struct rig rig;
    struct backend backend;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .with_worker = 1, .worker_config = { .cpu = -1 } });
    for (uint16_t h = 0; h < HEADS; h++)
        rig_desc(&rig, h, DATA(h * HEADS), (h + 1u) * PAGE, 0, 0);
    backend_start(&backend, &rig, 1);
    REQUIRE(svq_queue_trace_every(rig.dev, 0, 1) == 0);
    struct reader reader = { .rig = &rig };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, read_all_the_time, &reader) == 0);
    for (unsigned i = 0; i < 4000; i++) {
        uint16_t old = rig.q[0].avail_idx;
        driver_offer(&rig, 0, (uint16_t)(i % HEADS));
        driver_kick(&rig, 0, old);
        REQUIRE(driver_wait(&rig, 0));
        CHECK_EQUAL(driver_reap(&rig, 0), i % HEADS);
    }
    __atomic_store_n(&reader.stop, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    CHECK(reader.read > 0);
    CHECK_EQUAL(reader.torn, 0);
    backend_stop(&backend);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
