/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ledger: what the driver enters, and what an audit of a grant table finds with it. */
#include <pthread.h>

#include "barrier.h"
#include "drv_world.h"
#include "grant.h"
#include "drv_tag.h"
#include "ledger_state.h"

#define NO_EVENT_IDX (WORLD_FEATURES & ~(1ULL << VIRTIO_F_EVENT_IDX))
enum { PAGE = SVQ_PAGE_SIZE, BACKEND = 9, ENTRIES = 1024, AUDITS = 100000 };

static struct svq_ledger *new_ledger(size_t pages)
{
    struct svq_ledger *ledger = calloc(1, svq_ledger_bytes(pages));
    REQUIRE(ledger);
    return ledger;
}

/* --- what the driver enters --------------------------------------------------------------------------------- */

struct ledger_world {
    struct world w;
    struct svq_ledger *ledger;
};

static void open_world(struct ledger_world *l, bool scattered)
{
    struct svq_drv_config config = world_config();
    config.timeout_ms = 1;
    config.ledger = l->ledger = new_ledger(config.pages);
    world_open(&l->w, &config, NO_EVENT_IDX, scattered);
    peer_disarm(&l->w.peer[0]); /* requests stay in flight until the test serves the device by hand */
}

static void close_world(struct ledger_world *l)
{
    world_close(&l->w);
    free(l->ledger);
}

static uint64_t state(const struct ledger_world *l, size_t data_page)
{
    return l->ledger->page[l->w.data_page + data_page].state;
}

static bool has(uint64_t state, unsigned read, unsigned write, unsigned part)
{
    return ledger_has(state, LEDGER_READ) == read && ledger_has(state, LEDGER_WRITE) == write &&
           ledger_has(state, LEDGER_PART) == part;
}

static int back(uint64_t state) { return (int)(state >> LEDGER_BACK_SHIFT & 15); }

/* Leaves a request in flight: `len` bytes from byte `offset` of the data pages on. */
static void leave(struct ledger_world *l, uint32_t type, uint64_t offset, uint32_t len)
{
    struct svq_drv_req req = { .type = type, .buf_gpa = world_gpa(&l->w, offset), .len = len, .segments = 1 };
    CHECK_EQUAL(svq_drv_run(l->w.drv, &req, 1, 1, NULL, NULL), -ETIMEDOUT);
}

TEST(given_and_back, "A page is given away as its request uses it, for reading, for writing or in part, and is back "
                     "with the used entry; "
                     "so is the page of header and status")
{
    for (int scattered = 0; scattered < 2; scattered++) {
        struct ledger_world l;
        open_world(&l, scattered);
        CHECK_EQUAL(l.ledger->pages, WORLD_PAGES);
        uint64_t gpa = 0;
        for (size_t i = 0; i < WORLD_PAGES; i++)
            REQUIRE(svq_drv_page_gpa(l.w.drv, i, &gpa) == 0 && l.ledger->page[i].gfn == gpa / PAGE);
        leave(&l, SVQ_DRV_IN, 0, 2 * PAGE);
        leave(&l, SVQ_DRV_OUT, 2 * PAGE - 512, PAGE + 1024);
        CHECK(has(state(&l, 0), 0, 1, 0) && has(state(&l, 1), 0, 1, 1));
        CHECK(has(state(&l, 2), 1, 0, 0) && has(state(&l, 3), 0, 0, 1) && has(state(&l, 4), 0, 0, 0));
        unsigned parts = 0;
        for (size_t i = 0; i < l.w.data_page; i++)
            parts += (unsigned)ledger_has(l.ledger->page[i].state, LEDGER_PART);
        CHECK_EQUAL(parts, 2);
        CHECK_EQUAL(peer_serve(&l.w.peer[0]), 2);
        CHECK_EQUAL(svq_drv_run(l.w.drv, NULL, 0, 1, NULL, NULL), 0);
        for (size_t i = 0; i < WORLD_PAGES; i++)
            CHECK(!ledger_given(l.ledger->page[i].state));
        CHECK_EQUAL(back(state(&l, 1)), SVQ_BACK_USED);
        CHECK_EQUAL(back(state(&l, 9)), SVQ_BACK_OFFERED);
        close_world(&l);
    }
}

TEST(back_in_other_ways,
     "A request in flight is back with a reset of its queue, a new offer, Closed, or when it is not "
     "among those held; and "
     "not twice")
{
    struct ledger_world l;
    const uint8_t first_held = 1, none = 0;
    open_world(&l, false);
    leave(&l, SVQ_DRV_IN, 0, PAGE);
    svq_drv_queue_reset_prepare(l.w.drv, 0);
    CHECK(has(state(&l, 0), 0, 1, 0));
    CHECK_EQUAL(svq_drv_queue_rearm(l.w.drv, 0, 0), 0);
    CHECK(has(state(&l, 0), 0, 0, 0) && back(state(&l, 0)) == SVQ_BACK_RESET);
    world_attach(&l.w, 0, NO_EVENT_IDX);
    peer_disarm(&l.w.peer[0]);
    leave(&l, SVQ_DRV_IN, 0, PAGE);
    leave(&l, SVQ_DRV_OUT, PAGE, PAGE);
    CHECK_EQUAL(svq_drv_not_held(l.w.drv, 0, &first_held, 1), 0);
    CHECK(has(state(&l, 0), 0, 1, 0) && has(state(&l, 1), 0, 0, 0) && back(state(&l, 1)) == SVQ_BACK_NOT_HELD);
    CHECK_EQUAL(svq_drv_not_held(l.w.drv, 0, &none, 1), 0);
    CHECK_EQUAL(svq_drv_not_held(l.w.drv, 0, &none, 0), 0);
    CHECK(has(state(&l, 0), 0, 0, 0) && has(state(&l, 1), 0, 0, 0));
    CHECK_EQUAL(svq_drv_not_held(l.w.drv, 1, &none, 1), -EINVAL);
    leave(&l, SVQ_DRV_IN, 0, PAGE);
    CHECK_EQUAL(svq_drv_given(l.w.drv), 1);
    svq_drv_take_back(l.w.drv, SVQ_BACK_CLOSED);
    CHECK_EQUAL(svq_drv_given(l.w.drv), 0);
    CHECK(has(state(&l, 0), 0, 0, 0) && back(state(&l, 0)) == SVQ_BACK_CLOSED);
    CHECK_EQUAL(svq_drv_start(l.w.drv, WORLD_FEATURES), 0);
    CHECK(has(state(&l, 0), 0, 0, 0) && back(state(&l, 0)) == SVQ_BACK_OFFERED);
    close_world(&l);
}

TEST(refused, "A refused request gives nothing away, nor does one more than the ring holds")
{
    struct ledger_world l;
    open_world(&l, false);
    struct svq_drv_req reqs[30] = { { .type = SVQ_DRV_IN, .buf_gpa = l.w.data, .len = 2 * PAGE, .segments = 63 } };
    for (unsigned i = 1; i < 30; i++)
        reqs[i] = (struct svq_drv_req){
            .type = SVQ_DRV_IN, .buf_gpa = l.w.data + i * PAGE, .len = PAGE, .segments = 1
        };
    CHECK_EQUAL(svq_drv_run(l.w.drv, reqs, 30, 30, NULL, NULL), -ETIMEDOUT); /* 64 descriptors, three each */
    CHECK(has(state(&l, 0), 0, 0, 0) && has(state(&l, 21), 0, 1, 0) && has(state(&l, 22), 0, 0, 0));
    close_world(&l);
}

TEST(secrets, "What the device is to write gets a new secret each time that it is given away")
{
    struct ledger_world l;
    uint64_t gfn = 0;
    uint32_t offset = 0;
    open_world(&l, false);
    int seeds[2];
    for (int i = 0; i < 2; i++) {
        leave(&l, SVQ_DRV_IN, 0, PAGE);
        seeds[i] = svq_tag_at(world_va(&l.w, 0, PAGE), &gfn, &offset);
        CHECK(seeds[i] == ledger_secret(state(&l, 0)) && gfn == l.w.data / PAGE && offset == 0);
        CHECK_EQUAL(peer_serve(&l.w.peer[0]), 1);
        CHECK_EQUAL(svq_drv_run(l.w.drv, NULL, 0, 1, NULL, NULL), 0);
    }
    CHECK(seeds[0] != seeds[1]);
    close_world(&l);
}

TEST(use, "The driver reuses only memory that is its own, and notices if somebody has changed some of it")
{
    struct ledger_world l;
    open_world(&l, false);
    leave(&l, SVQ_DRV_IN, PAGE, PAGE);
    leave(&l, SVQ_DRV_OUT, 3 * PAGE + 512, 512);
    size_t first = l.w.data_page;
    CHECK_EQUAL(svq_drv_use_own(l.w.drv, first, 10, 77), 8);
    CHECK_EQUAL(svq_drv_own_changed(l.w.drv, first, 10, 77), 0);
    uint64_t gfn = 0;
    uint32_t offset = 0;
    CHECK_EQUAL(svq_tag_at(world_va(&l.w, 2 * PAGE + 16, 16), &gfn, &offset), 77);
    CHECK(gfn == l.w.data / PAGE + 2 && offset == 16);
    CHECK(svq_tag_at(world_va(&l.w, PAGE + 16, 16), &gfn, &offset) < 0);
    world_va(&l.w, 3 * PAGE, 1)[0] ^= 1; /* not the driver's own */
    world_va(&l.w, 4 * PAGE, PAGE)[PAGE - 1] ^= 1;
    CHECK_EQUAL(svq_drv_own_changed(l.w.drv, first, 10, 77), 1);
    CHECK_EQUAL(svq_drv_use_own(l.w.drv, WORLD_PAGES, 1, 77), -EINVAL);
    CHECK_EQUAL(svq_drv_own_changed(l.w.drv, 0, WORLD_PAGES + 1, 77), -EINVAL);
    close_world(&l);
}

TEST(full, "A full count stays full until everything is taken back: what seems given away may be the driver's, never "
           "the reverse")
{
    uint64_t s = 0;
    for (uint64_t i = 0; i < LEDGER_COUNT_MAX + 3; i++)
        s = ledger_changed(s, LEDGER_READ, true, 0);
    for (uint64_t i = 0; i < LEDGER_COUNT_MAX + 3; i++)
        s = ledger_changed(s, LEDGER_READ, false, SVQ_BACK_USED);
    CHECK(has(s, LEDGER_COUNT_MAX, 0, 0));
    s = ledger_changed(0, LEDGER_WRITE, false, SVQ_BACK_USED);
    CHECK(has(s, 0, 0, 0) && s >> LEDGER_CHANGES_SHIFT == 1);
}

/* --- what an audit finds ------------------------------------------------------------------------------------ */

struct auditing {
    uint64_t table[ENTRIES];
    struct svq_ledger *ledgers[2];
    struct svq_audit audit;
    struct svq_breach breaches[4];
    size_t open;
};

/* Two drivers: pages 100 to 109, and 105 to 114. */
static void open_audit(struct auditing *a)
{
    memset(a, 0, sizeof *a);
    for (int i = 0; i < 2; i++) {
        a->ledgers[i] = new_ledger(10);
        for (uint64_t page = 0; page < 10; page++)
            a->ledgers[i]->page[page].gfn = 100 + 5 * (uint64_t)i + page;
        a->ledgers[i]->pages = 10;
    }
    a->audit = (struct svq_audit){
        .table = a->table, .entries = ENTRIES, .ledgers = a->ledgers, .ledgers_count = 2, .exact = 1
    };
}

static void close_audit(struct auditing *a)
{
    free(a->ledgers[0]);
    free(a->ledgers[1]);
}

static void give(struct auditing *a, int ledger, uint64_t gfn, enum ledger_count count)
{
    struct svq_ledger_page *page = &a->ledgers[ledger]->page[gfn - a->ledgers[ledger]->page[0].gfn];
    page->state = ledger_changed(page->state, count, true, 0);
}

static int kind(struct auditing *a, uint16_t flags, uint64_t gfn)
{
    a->table[77] = svq_grant_entry(flags, BACKEND, (uint32_t)gfn);
    size_t n = svq_ledger_audit(&a->audit, a->breaches, 4, &a->open);
    CHECK_EQUAL(a->open, flags & (GTF_TYPE_MASK | GTF_READING | GTF_WRITING) && !(a->ledgers[1]->by_hand % 2));
    if (n)
        CHECK(n == 1 && a->breaches[0].gref == 77 && a->breaches[0].entry == a->table[77]);
    a->table[77] = 0;
    return n ? a->breaches[0].kind : 0;
}

TEST(breaches, "An entry is a breach if it opens more of its page than the driver has given away")
{
    struct auditing a;
    const uint16_t read = GTF_PERMIT_ACCESS | GTF_READONLY, write = GTF_PERMIT_ACCESS, marks = 77 << 9;
    const uint16_t held_read = GTF_READONLY | GTF_READING, held_write = held_read | GTF_WRITING;
    open_audit(&a);
    CHECK_EQUAL(kind(&a, write, 101), SVQ_BREACH_NOT_GIVEN);
    CHECK_EQUAL(kind(&a, read | marks, 101), SVQ_BREACH_NOT_GIVEN);
    CHECK_EQUAL(kind(&a, held_read | marks, 101), SVQ_BREACH_NOT_GIVEN);
    CHECK_EQUAL(kind(&a, held_write, 101), SVQ_BREACH_NOT_GIVEN);
    CHECK_EQUAL(kind(&a, GTF_READONLY | marks, 101), 0); /* ended, and nobody has it mapped */
    CHECK_EQUAL(kind(&a, write, 99), SVQ_BREACH_NOBODYS);
    give(&a, 0, 102, LEDGER_READ);
    CHECK_EQUAL(kind(&a, read, 102), 0);
    CHECK_EQUAL(kind(&a, held_read, 102), 0);
    CHECK_EQUAL(kind(&a, write, 102), SVQ_BREACH_NOT_SO);
    CHECK_EQUAL(kind(&a, held_write, 102), SVQ_BREACH_NOT_SO);
    give(&a, 0, 103, LEDGER_WRITE);
    CHECK_EQUAL(kind(&a, write, 103), 0);
    CHECK_EQUAL(kind(&a, held_write, 103), 0);
    CHECK_EQUAL(kind(&a, held_read, 103), 0);
    CHECK_EQUAL(kind(&a, read, 103), SVQ_BREACH_NOT_GIVEN); /* a read-only grant needs a request for reading */
    give(&a, 0, 104, LEDGER_PART);
    CHECK_EQUAL(kind(&a, read, 104), SVQ_BREACH_NOT_GIVEN);
    a.audit.exact = 0;
    CHECK_EQUAL(kind(&a, write, 104), 0);
    CHECK_EQUAL(kind(&a, write, 101), SVQ_BREACH_NOT_GIVEN);
    close_audit(&a);
}

TEST(several_drivers,
     "One of two drivers may give away a page that both have; for a guest with rings by hand nothing is said")
{
    struct auditing a;
    open_audit(&a);
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 107), SVQ_BREACH_NOT_GIVEN);
    give(&a, 1, 107, LEDGER_WRITE);
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 107), 0);
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 114), SVQ_BREACH_NOT_GIVEN);
    CHECK_EQUAL(a.breaches[0].ledger, 1);
    for (int i = 0; i < 2; i++) {
        svq_ledger_by_hand(a.ledgers[1]);
        CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 101), 0);
    }
    svq_ledger_take_back(a.ledgers[1], SVQ_BACK_CLOSED);
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 101), SVQ_BREACH_NOT_GIVEN);
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 107), SVQ_BREACH_NOT_GIVEN);
    a.table[1] = a.table[2] = a.table[3] = a.table[4] = a.table[5] = svq_grant_entry(GTF_PERMIT_ACCESS, BACKEND, 101);
    CHECK_EQUAL(svq_ledger_audit(&a.audit, a.breaches, 4, &a.open), 5);
    close_audit(&a);
}

TEST(old_content, "A page given for writing must not show its secret; the audit looks only where that is promised")
{
    static uint8_t memory[128 * PAGE];
    struct auditing a;
    open_audit(&a);
    give(&a, 0, 103, LEDGER_WRITE);
    svq_tag_write(memory + 103 * PAGE, 103, 0, ledger_secret(a.ledgers[0]->page[3].state));
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 103), 0);
    a.audit.memory = memory;
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 103), SVQ_BREACH_OLD_CONTENT);
    svq_tag_write(memory + 103 * PAGE, 103, 0,
                  (uint16_t)(ledger_secret(a.ledgers[0]->page[3].state) + 1)); /* from the disk */
    CHECK_EQUAL(kind(&a, GTF_PERMIT_ACCESS, 103), 0);
    close_audit(&a);
}

/* A driver and a mediator that follow the rule, again and again: given away, granted, ended, back. */
static int done;

static void *keep_the_rule(void *arg)
{
    struct auditing *a = arg;
    uint64_t *page = &a->ledgers[0]->page[2].state;
    for (int i = 0; !__atomic_load_n(&done, __ATOMIC_RELAXED); i++) {
        svq_release_u64(page, ledger_changed(svq_load_u64(page), LEDGER_WRITE, true, 0));
        svq_release_u64(&a->table[i % 2], svq_grant_entry(GTF_PERMIT_ACCESS, BACKEND, 102));
        svq_release_u64(&a->table[i % 2], 0);
        svq_release_u64(page, ledger_changed(svq_load_u64(page), LEDGER_WRITE, false, SVQ_BACK_USED));
    }
    return NULL;
}

TEST(no_race, "An audit of a driver and a mediator that follow the rule finds nothing, however their steps interleave")
{
    struct auditing a;
    struct svq_ledger *ledgers[SVQ_LEDGERS_MAX]; /* enough that an audit takes some time between looks */
    open_audit(&a);
    for (int i = 0; i < SVQ_LEDGERS_MAX; i++)
        ledgers[i] = a.ledgers[i != 0];
    a.audit.ledgers = ledgers;
    a.audit.ledgers_count = SVQ_LEDGERS_MAX;
    a.audit.entries = 2;
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, keep_the_rule, &a) == 0);
    for (int i = 0; i < AUDITS; i++)
        if (!CHECK_EQUAL(svq_ledger_audit(&a.audit, a.breaches, 4, &a.open), 0))
            break;
    __atomic_store_n(&done, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    close_audit(&a);
}

SVQ_TEST_MAIN()
