/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What one pass may do before others have their turn, whatever the frontend offers; and how often it may try in vain.
 */
#include "barrier.h"
#include "engine.h"
#include "rig_view.h"
#include "svq_test.h"

enum {
    RAM = 65536, /* 256 MiB: enough memory that was never touched */
    CHAINS = 64,
    PAGE = SVQ_PAGE_SIZE,
    LARGEST = 252, /* pages of the largest chains here */
    CHUNKS = 80,
    MAPS_MAX = 2, /* in one pass, of 2 MiB each */
};

/*
 * The budget is half of the largest chain, and a pass may exceed it by one such chain: `make bench-fairness` found that
 * small enough.
 */
_Static_assert(SVQ_PASS_PAGES <= SVQ_PARTS_MAX / 2, "the larger the budget, the longer everybody else waits");

/* --- a clock that stands still, or advances by a fixed step at each look --------------------------------------- */
static int64_t clock_step_ns = -1; /* -1: the real one */
static unsigned clock_reads;

int __real_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t);
int __wrap_clock_gettime(clockid_t id, struct timespec *t)
{
    static int64_t now;
    if (clock_step_ns < 0)
        return __real_clock_gettime(id, t);
    now += clock_step_ns;
    clock_reads++;
    t->tv_sec = now / 1000000000;
    t->tv_nsec = now % 1000000000;
    return 0;
}

/*
 * Chain `n`, of `pages` pages that no other chain has, starting `shift` bytes into the first: readable, then writable.
 */
static void offer(struct rig *rig, uint16_t n, uint32_t pages, uint32_t shift)
{
    struct rig_seg segs[SVQ_PARTS_MAX];
    uint64_t first = rig_gpa(RIG_DATA_GFN + n * (LARGEST + 4u));
    unsigned count = shift ? pages / 2 : pages; /* a shifted segment of a page touches two pages */
    for (unsigned i = 0; i < count; i++)
        segs[i] = (struct rig_seg){ first + i * (shift ? 2u : 1u) * PAGE + shift, PAGE,
                                    i < count / 2 ? SEG_READ : SEG_WRITE };
    rig_indirect(rig, n, rig_gpa(RIG_TABLE_GFN + n), segs, count);
    rig_offer(rig, n);
}

static void open_warm(struct rig *rig, const struct rig_config *config)
{
    rig_open(rig, config);
    for (uint64_t gfn = 0; gfn < config->ram_pages; gfn += SVQ_CHUNK_PAGES)
        svq_guestmem_map_chunk(&rig->dev->queues[0].view, gfn);
}

static void give_all(struct rig *rig)
{
    for (int head; (head = rig_take(rig)) >= 0;)
        rig_give(rig, (uint32_t)head, 1);
}

/* What one pass takes, in either direction, from a ring full of chains that touch `pages` pages each. */
static void one_pass(int placement, uint32_t pages, uint32_t shift)
{
    static struct rig rig;
    const uint32_t most = (SVQ_PASS_PAGES + pages - 1) / pages, expected = most < CHAINS ? most : CHAINS;
    open_warm(&rig, &(struct rig_config){
                        .ram_pages = RAM, .placement = placement, .bounce_pages = 4096, .large_chains = CHAINS });
    for (uint16_t n = 0; n < CHAINS; n++)
        offer(&rig, n, pages, shift);
    for (int round = 0; round < 2; round++)
        CHECK_EQUAL(svq_queue_forward(rig.dev, 0, CHAINS), expected * (round + 1) <= CHAINS ? expected : 0);
    give_all(&rig);
    CHECK_EQUAL(svq_queue_complete(rig.dev, 0, CHAINS), expected);
    CHECK(svq_queue_complete(rig.dev, 0, CHAINS) >= 0);
    CHECK_EQUAL(rig_fault(&rig), 0);
    rig_close(&rig);
}

TEST(pages_of_a_pass, "A pass ends with the chain that reaches the budget of pages, granted or copied, there and back")
{
    clock_step_ns = 0;
    for (int placement = SVQ_PLACE_EXACT; placement <= SVQ_PLACE_COPY; placement++)
        for (uint32_t pages = 2; pages <= LARGEST; pages *= 5) {
            one_pass(placement, pages, 0);
            one_pass(placement, pages, 8);
        }
    one_pass(SVQ_PLACE_EXACT, LARGEST, 8);
    clock_step_ns = -1;
}

/* How many chains of `pages` pages one pass takes while each look at the clock finds it `step_ns` later. */
static int passed(struct rig *rig, uint32_t pages, int64_t step_ns)
{
    for (uint16_t n = 0; n < CHAINS; n++)
        offer(rig, n, pages, 0);
    clock_step_ns = step_ns;
    clock_reads = 0;
    int done = svq_queue_forward(rig->dev, 0, CHAINS);
    clock_step_ns = -1;
    rig_forward(rig);
    give_all(rig);
    CHECK_EQUAL(rig_complete(rig), CHAINS);
    while (rig_reap(rig, NULL) >= 0)
        ;
    return done;
}

TEST(time_of_a_pass, "A pass also ends when its time is over, and reads the clock only now and then")
{
    static struct rig rig;
    open_warm(&rig, &(struct rig_config){ .ram_pages = RAM });
    CHECK_EQUAL(passed(&rig, 4, 0), SVQ_PASS_PAGES / 4);
    CHECK_EQUAL(clock_reads, SVQ_PASS_PAGES / SVQ_LOOK_PAGES);
    CHECK_EQUAL(passed(&rig, 4, SVQ_PASS_NS),
                2 * SVQ_LOOK_PAGES / 4); /* starts at the first look, over at the second */
    CHECK_EQUAL(passed(&rig, 4, SVQ_PASS_NS / 2), 3 * SVQ_LOOK_PAGES / 4);
    rig_close(&rig);
}

static uint64_t foreign_maps(const struct rig *rig) { return rig_counters(rig->mediator).foreign_maps; }

TEST(memory_of_a_pass, "For a chain all over untouched memory, a pass maps next to nothing and then waits")
{
    static struct rig rig;
    struct rig_seg segs[CHUNKS];
    for (unsigned i = 0; i < CHUNKS; i++)
        segs[i] = (struct rig_seg){ rig_gpa((i + 8u) * SVQ_CHUNK_PAGES) + 100, 16, SEG_READ };
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM });
    rig_indirect(&rig, 0, rig_gpa(RIG_TABLE_GFN), segs, CHUNKS);
    rig_offer(&rig, 0);
    int passes = 0;
    for (int n = 0; n == 0 && passes < 2 * CHUNKS; passes++) {
        uint64_t before = foreign_maps(&rig);
        n = svq_queue_forward(rig.dev, 0, CHAINS);
        CHECK(n >= 0 && foreign_maps(&rig) - before <= MAPS_MAX);
        CHECK(n > 0 || foreign_maps(&rig) > before); /* it makes progress */
    }
    CHECK(passes >= CHUNKS / MAPS_MAX);
    CHECK_EQUAL(rig_take(&rig), 0);
    rig_close(&rig);
}

TEST(cost_of_a_pass, "The cost of a pass includes mappings, and chains that could not be placed")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_COPY, .bounce_pages = 2 * LARGEST });
    struct svq_queue *q = &rig.dev->queues[0];
    offer(&rig, 0, LARGEST, 0);
    CHECK_EQUAL(svq_queue_forward(rig.dev, 0, 1), 0); /* maps the chunk of its table, and that of its data */
    CHECK_EQUAL(q->cost, LARGEST + 2 * SVQ_MAP_PAGES);
    offer(&rig, 1, LARGEST, 0);
    offer(&rig, 2, LARGEST, 0);
    CHECK_EQUAL(rig_forward(&rig), 2); /* all slots of both directions */
    CHECK(q->parked);
    q->parked = false;
    q->cost = 0;
    CHECK_EQUAL(svq_queue_forward(rig.dev, 0, 1), 0);
    CHECK_EQUAL(q->cost, LARGEST);
    rig_close(&rig);
}

/*
 * For a chain that lacks what `chains` others hold, which come back one by one: how often the engine tried to place it
 * before it went, and how many had come back by then.
 */
static unsigned tries_until_it_goes(struct rig *rig, uint16_t chains, unsigned *came_back)
{
    struct svq_queue *q = &rig->dev->queues[0];
    unsigned tries = 1;
    CHECK_EQUAL(rig_forward(rig), chains);
    CHECK(q->parked && q->lack.attempts == 1);
    for (*came_back = 0; q->in_flight_count && svq_load_u16(&rig->q[0].shadow_avail->idx) == chains;) {
        rig_give(rig, (uint32_t)rig_take(rig), 0);
        CHECK_EQUAL(svq_queue_complete(rig->dev, 0, CHAINS), 1);
        ++*came_back;
        bool tried = !q->parked;
        for (int pass = 0; pass < 3; pass++)
            CHECK(svq_queue_forward(rig->dev, 0, CHAINS) == 0 || (tried && pass == 0));
        tries += tried;
        CHECK(!q->lack.attempts || q->lack.attempts == tries);
    }
    return tries;
}

TEST(parked_for_slots, "A parked chain is not placed again until the slots that it lacks are free, and then once more")
{
    static struct rig rig;
    /* 32 slots in each direction; 32 chains have one each; the last one needs 20, and finds none */
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .placement = SVQ_PLACE_COPY, .bounce_pages = 64 });
    for (uint16_t n = 0; n < 32; n++) {
        rig_page(&rig, n, n, SEG_READ);
        rig_offer(&rig, n);
    }
    const struct rig_seg data = { rig_gpa(RIG_DATA_GFN + 100), 20 * PAGE, SEG_READ };
    rig_chain(&rig, 40, &data, 1);
    rig_offer(&rig, 40);
    unsigned came_back;
    CHECK_EQUAL(tries_until_it_goes(&rig, 32, &came_back), 3);
    CHECK(came_back >= 20); /* by the third try it can no longer lack anything */
    CHECK_EQUAL(rig_fault(&rig), 0);
    rig_close(&rig);
}

TEST(parked_for_a_block, "A parked chain is not placed again until a block for its parts is free")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){ .ram_pages = RAM, .large_chains = 2 });
    for (uint16_t n = 0; n < 3; n++)
        offer(&rig, n, 40, 0);
    unsigned came_back;
    CHECK_EQUAL(tries_until_it_goes(&rig, 2, &came_back), 2);
    CHECK_EQUAL(came_back, 1);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
