/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The embedded machine behind the hypervisor seam: memory and grants, within one process. More about grants:
 * test_hv_grants.c.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "sim_fixture.h"

static struct svq_hv_counters counters_of(const struct svq_hv *hv)
{
    struct svq_hv_counters counters;
    svq_hv_read_counters(hv, &counters);
    return counters;
}

/* --- does touching an address fault? ------------------------------------------------------------------ */
static sigjmp_buf fault_jump;

static void on_fault(int signal) { siglongjmp(fault_jump, signal); }

static int faults(volatile uint8_t *address, int by_writing)
{
    struct sigaction action = { .sa_handler = on_fault }, old_segv, old_bus;
    volatile int faulted = 1;

    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    if (sigsetjmp(fault_jump, 1) == 0) {
        uint8_t value = *address;
        if (by_writing)
            *address = value;
        faulted = 0;
    }
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return faulted;
}

TEST(identity, "A handle is the domain to whose socket it was opened, and a path without a machine is reported as such")
{
    struct fixture f;
    fixture_start(&f);
    CHECK_EQUAL(svq_hv_domid(f.backend), BACKEND);
    CHECK(strcmp(svq_hv_name(f.backend), "sim") == 0);
    CHECK_EQUAL(svq_hv_set_domid(f.backend, 3), -EPERM);
    struct svq_hv *hv;
    CHECK_EQUAL(svq_hv_open_sim("/nonexistent/hv-dom1.sock", &hv), -ENOENT);
    CHECK(strstr(svq_hv_why(), "/nonexistent/hv-dom1.sock") != NULL);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, STRANGER), SVQ_SIM_CREATED);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, BACKEND), SVQ_SIM_RUNNING);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, 77), -ESRCH);
    CHECK_EQUAL(svq_sim_domain_create(f.machine, BACKEND, 1, 1, SVQ_SIM_PRIVILEGE_NONE), -EEXIST);
    fixture_stop(&f);
}

TEST(long_directories, "A machine's directory may have a name longer than a socket address")
{
    char directory[256], path[320];
    struct fixture f;
    struct svq_hv *hv = NULL;
    fixture_machine(&f);
    (void)snprintf(directory, sizeof directory, "%s/%0120d", f.directory, 0);
    REQUIRE(mkdir(directory, 0700) == 0);
    struct svq_sim_machine *machine;
    REQUIRE(svq_sim_machine_start(directory, &machine) == 0);
    CHECK_EQUAL(svq_sim_domain_create(machine, 3, 4, 1, SVQ_SIM_PRIVILEGE_NONE), 0);
    (void)snprintf(path, sizeof path, "%s/hv-dom3.sock", directory);
    CHECK_EQUAL(svq_hv_open_sim(path, &hv), 0);
    svq_hv_close(hv);
    svq_sim_machine_stop(machine);
    CHECK(rmdir(directory) == 0);
    fixture_stop(&f);
}

TEST(foreign_memory,
     "The mediator sees its target's memory in the order that it asked for; frames that are not RAM fail")
{
    const uint64_t gfns[] = { 10, 11, HOLE_GFN, 3, RAM_PAGES, UINT64_MAX, 12 };
    struct fixture f;
    fixture_start(&f);
    for (int gfn = 0; gfn < 16; gfn++)
        f.ram[gfn << SVQ_PAGE_SHIFT] = (uint8_t)gfn;
    int errs[7];
    void *va;
    REQUIRE(svq_hv_map_foreign(f.mediator, FRONTEND, gfns, 7, 1, errs, &va) == 0);
    for (int i = 0; i < 7; i++) {
        uint8_t *page = (uint8_t *)va + i * SVQ_PAGE_SIZE;
        int is_ram = i != 2 && i != 4 && i != 5;
        CHECK_EQUAL(errs[i], is_ram ? 0 : -EINVAL);
        CHECK_EQUAL(faults(page, 1), !is_ram);
        if (is_ram)
            CHECK_EQUAL(*page, gfns[i]);
    }
    ((uint8_t *)va)[5] = 0x5a;
    CHECK_EQUAL(f.ram[10 * SVQ_PAGE_SIZE + 5], 0x5a);
    CHECK_EQUAL(counters_of(f.mediator).foreign_pages_live, 7);
    CHECK_EQUAL(svq_hv_unmap_foreign(f.mediator, va, 6), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_foreign(f.mediator, va, 7), 0);
    CHECK_EQUAL(svq_hv_unmap_foreign(f.mediator, va, 7), -EINVAL);
    CHECK_EQUAL(counters_of(f.mediator).foreign_pages_live, 0);
    REQUIRE(svq_hv_map_foreign(f.mediator, FRONTEND, gfns, 2, 0, errs, &va) == 0);
    CHECK(!faults(va, 0));
    CHECK(faults(va, 1));
    CHECK_EQUAL(svq_hv_unmap_foreign(f.mediator, va, 2), 0);
    fixture_stop(&f);
}

TEST(privilege,
     "Without privilege over a domain, nobody maps its memory or its grant table, or learns the table's size")
{
    struct fixture f;
    const uint64_t gfn = 1;
    uint32_t frames = 0;
    void *va, *token;
    fixture_start(&f);
    int err;
    CHECK_EQUAL(svq_hv_map_foreign(f.backend, FRONTEND, &gfn, 1, 0, &err, &va), -EPERM);
    CHECK_EQUAL(svq_hv_map_foreign(f.frontend, MEDIATOR, &gfn, 1, 0, &err, &va), -EPERM);
    CHECK_EQUAL(svq_hv_map_foreign(f.mediator, BACKEND, &gfn, 1, 0, &err, &va), -EPERM);
    CHECK_EQUAL(svq_hv_map_foreign(f.mediator, 77, &gfn, 1, 0, &err, &va), -ESRCH);
    CHECK_EQUAL(svq_hv_map_grant_table(f.backend, FRONTEND, 0, 1, &va, &token), -EPERM);
    CHECK_EQUAL(svq_hv_grant_table_frames(f.backend, FRONTEND, &frames), -EPERM);
    CHECK_EQUAL(svq_hv_grant_table_frames(f.mediator, FRONTEND, &frames), 0);
    CHECK_EQUAL(frames, GRANT_FRAMES);
    CHECK_EQUAL(svq_hv_map_foreign(f.frontend, FRONTEND, &gfn, 1, 0, &err, &va), 0); /* itself: allowed */
    CHECK_EQUAL(svq_hv_unmap_foreign(f.frontend, va, 1), 0);
    REQUIRE(svq_sim_domain_set_privilege(f.machine, MEDIATOR, SVQ_SIM_PRIVILEGE_ALL) == 0);
    CHECK_EQUAL(svq_hv_map_foreign(f.mediator, BACKEND, &gfn, 1, 0, &err, &va), 0);
    CHECK_EQUAL(svq_hv_unmap_foreign(f.mediator, va, 1), 0);
    fixture_stop(&f);
}

TEST(table_grows, "A grant table grows on demand, to its limit and no further")
{
    struct fixture f;
    uint32_t gref = (GRANT_FRAMES - 1) * SVQ_GRANTS_PER_FRAME;
    void *va, *token;
    fixture_start(&f);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va), -ENOENT);
    CHECK_EQUAL(svq_hv_map_grant_table(f.mediator, FRONTEND, GRANT_FRAMES, 1, &va, &token), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grant_table(f.mediator, FRONTEND, 60, 5, &va, &token), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grant_table(f.mediator, FRONTEND, UINT32_MAX, 1, &va, &token), -EINVAL);
    REQUIRE(svq_hv_map_grant_table(f.mediator, FRONTEND, 0, GRANT_FRAMES, &va, &token) == 0);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va), -EACCES);
    gref = GRANT_FRAMES * SVQ_GRANTS_PER_FRAME;
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va), -ENOENT);
    CHECK_EQUAL(counters_of(f.mediator).grant_tables_live, 2);
    CHECK_EQUAL(svq_hv_unmap_grant_table(f.mediator, token), 0);
    CHECK_EQUAL(svq_hv_unmap_grant_table(f.mediator, token), -EINVAL);
    fixture_stop(&f);
}

TEST(grant_rules, "A grant opens one page to one domain, with the access that it names, for as long as it stands")
{
    struct fixture f;
    void *va = NULL;
    fixture_start(&f);
    struct svq_hv *stranger = fixture_open(&f, STRANGER);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    uint32_t readonly = fixture_grant(&f, 1, BACKEND, 21, GTF_READONLY);
    uint32_t hole = fixture_grant(&f, 2, BACKEND, HOLE_GFN, 0);
    uint32_t outside = fixture_grant(&f, 3, BACKEND, UINT32_MAX, 0);
    CHECK_EQUAL(svq_hv_map_grants(stranger, FRONTEND, &gref, 1, 0, &va), -EACCES);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &readonly, 1, 1, &va), -EACCES);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &hole, 1, 0, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &outside, 1, 0, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, 77, &gref, 1, 0, &va), -ESRCH);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);

    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &va) == 0);
    *(uint8_t *)va = 0x77;
    CHECK_EQUAL(f.ram[20 * SVQ_PAGE_SIZE], 0x77);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, 1), -EINVAL);

    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &readonly, 1, 0, &va) == 0);
    CHECK_EQUAL(fixture_flags(&f, 1), GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
    CHECK(!faults(va, 0));
    CHECK(faults(va, 1));
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, 1), 0);

    svq_store_u64(&f.entries[0], 0);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va), -EACCES);
    CHECK_EQUAL(counters_of(f.backend).grant_pages_live, 0);
    CHECK_EQUAL(counters_of(f.backend).grant_unmaps, 2);
    svq_hv_close(stranger);
    fixture_stop(&f);
}

TEST(batches,
     "Pages of one call are contiguous, even if their frames are scattered, and a bad one leaves nothing mapped")
{
    enum { PAGES = 300 };
    struct fixture f;
    uint32_t grefs[PAGES];
    void *va;

    fixture_start(&f);
    for (uint32_t i = 0; i < PAGES; i++) {
        f.ram[(size_t)i << SVQ_PAGE_SHIFT] = (uint8_t)i;
        grefs[i] = fixture_grant(&f, i, BACKEND, i, 0);
    }
    for (int scattered = 0; scattered < 2; scattered++) {
        REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, grefs, PAGES, 1, &va) == 0);
        for (uint32_t i = 0; i < PAGES; i++)
            CHECK_EQUAL(((uint8_t *)va)[(size_t)i << SVQ_PAGE_SHIFT], (uint8_t)(grefs[i] - WINDOW_GREF));
        CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, PAGES), 0);
        for (uint32_t i = 0; i < PAGES / 2; i++) { /* now in reverse order */
            uint32_t swapped = grefs[i];

            grefs[i] = grefs[PAGES - 1 - i];
            grefs[PAGES - 1 - i] = swapped;
        }
    }
    svq_store_u64(&f.entries[PAGES - 1], 0);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, grefs, PAGES, 1, &va), -EACCES);
    for (uint32_t i = 0; i < PAGES - 1; i++)
        CHECK_EQUAL(fixture_flags(&f, i), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(counters_of(f.backend).grant_pages_live, 0);
    CHECK_EQUAL(counters_of(f.backend).grant_pages_mapped, 2 * PAGES);
    fixture_stop(&f);
}

TEST(shared_pages, "Shared pages are zeroed, and the peer's until unshared; a page still mapped is never reused")
{
    struct fixture f;
    uint32_t grefs[4], again[4];
    void *ours, *theirs;
    fixture_start(&f);
    REQUIRE(svq_hv_share_pages(f.mediator, BACKEND, 4, 0, grefs, &ours) == 0);
    CHECK_EQUAL(grefs[0], 8);
    CHECK_EQUAL(grefs[3], 11);
    CHECK_EQUAL(((uint8_t *)ours)[100], 0);
    memset(ours, 0xee, 4 * SVQ_PAGE_SIZE);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, MEDIATOR, grefs, 4, 1, &theirs), -EACCES);
    CHECK_EQUAL(svq_hv_map_grants(f.frontend, MEDIATOR, grefs, 4, 0, &theirs), -EACCES);
    REQUIRE(svq_hv_map_grants(f.backend, MEDIATOR, grefs, 4, 0, &theirs) == 0);
    CHECK_EQUAL(memcmp(ours, theirs, 4 * SVQ_PAGE_SIZE), 0);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, theirs, 4), 0);
    CHECK_EQUAL(svq_hv_unshare_pages(f.mediator, ours, 4), 0);
    CHECK_EQUAL(svq_hv_unshare_pages(f.mediator, ours, 4), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, MEDIATOR, grefs, 1, 0, &theirs), -EACCES);

    REQUIRE(svq_hv_share_pages(f.mediator, BACKEND, 4, 1, grefs, &ours) == 0);
    CHECK_EQUAL(((uint8_t *)ours)[100], 0);
    REQUIRE(svq_hv_map_grants(f.backend, MEDIATOR, &grefs[1], 1, 1, &theirs) == 0);
    CHECK_EQUAL(svq_hv_unshare_pages(f.mediator, ours, 4), -EBUSY);
    REQUIRE(svq_hv_share_pages(f.mediator, BACKEND, 4, 1, again, &ours) == 0);
    CHECK(again[0] > grefs[1]);
    *(uint8_t *)theirs = 1;
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(((uint8_t *)ours)[i * SVQ_PAGE_SIZE], 0);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, theirs, 1), 0);
    CHECK_EQUAL(counters_of(f.mediator).shared_pages_live, 4);
    fixture_stop(&f);
}

TEST(table_full, "Sharing fails with ENOSPC when our grant table is full, and never takes an entry that is not zero")
{
    struct fixture f;
    struct svq_hv *stranger;
    static uint32_t grefs[SVQ_GRANTS_PER_FRAME];
    void *va, *table, *token;
    fixture_start(&f);
    stranger = fixture_open(&f, STRANGER); /* a table of one frame */
    CHECK_EQUAL(svq_hv_share_pages(stranger, BACKEND, SVQ_GRANTS_PER_FRAME - 7, 1, grefs, &va), -ENOSPC);
    REQUIRE(svq_hv_map_grant_table(stranger, STRANGER, 0, 1, &table, &token) == 0);
    svq_store_u64((uint64_t *)table + 9, svq_grant_entry(0, 0, 1));
    REQUIRE(svq_hv_share_pages(stranger, BACKEND, 2, 1, grefs, &va) == 0);
    CHECK_EQUAL(grefs[0], 10);
    fixture_stop(&f);
    svq_hv_close(stranger); /* after its machine has stopped: all calls fail, none hangs */
}

TEST(own_pages, "A domain's own pages are its RAM, at the frame numbers reported, without holes")
{
    struct fixture f;
    fixture_start(&f);
    uint64_t gfns[8];
    void *va;
    CHECK_EQUAL(svq_hv_own_pages(f.frontend, RAM_PAGES - 7, 8, gfns, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_own_pages(f.frontend, UINT64_MAX, 8, gfns, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_own_pages(f.frontend, HOLE_GFN - 7, 8, gfns, &va), -EINVAL);
    REQUIRE(svq_hv_own_pages(f.frontend, 40, 8, gfns, &va) == 0);
    CHECK_EQUAL(gfns[7], 47);
    CHECK(va == f.ram + 40 * SVQ_PAGE_SIZE);
    CHECK_EQUAL(svq_hv_release_own_pages(f.frontend, va, 8), 0);
    fixture_stop(&f);
}

TEST(readonly_frames,
     "The machine does not claim to make frames read-only unless told to pretend; then it refuses writable grants")
{
    struct fixture f;
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    CHECK_EQUAL(svq_hv_set_readonly(f.mediator, FRONTEND, 20, 1), -ENOSYS);
    REQUIRE(svq_sim_pretend_readonly(f.machine, 1) == 0);
    CHECK_EQUAL(svq_hv_set_readonly(f.backend, FRONTEND, 20, 1), -EPERM);
    CHECK_EQUAL(svq_hv_set_readonly(f.frontend, FRONTEND, 20, 1), -EPERM);
    CHECK_EQUAL(svq_hv_set_readonly(f.mediator, FRONTEND, HOLE_GFN, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_set_readonly(f.mediator, FRONTEND, 20, 1), 0);
    void *va;
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &va), -EACCES);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va) == 0);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, 1), 0);
    CHECK_EQUAL(svq_hv_set_readonly(f.mediator, FRONTEND, 20, 0), 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &va) == 0);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, 1), 0);
    fixture_stop(&f);
}

TEST(bad_arguments, "Calls without pages, or with too many, are refused before anything happens")
{
    struct fixture f;
    uint64_t gfn = 0;
    uint32_t gref = 0;
    fixture_start(&f);
    void *va;
    int err;
    CHECK_EQUAL(svq_hv_map_foreign(f.mediator, FRONTEND, &gfn, 0, 0, &err, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, SIZE_MAX, 0, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, NULL, 1, 0, &va), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, &f, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_unshare_pages(f.frontend, f.ram, 1), -EINVAL);
    fixture_stop(&f);
}

/* --- threads ------------------------------------------------------------------------------------------ */
enum { ROUNDS = 20000 };

struct mapper {
    struct fixture *f;
    struct svq_hv *hv;
    uint32_t gref;
    int writable;
};

static void *map_and_unmap(void *argument)
{
    const struct mapper *mapper = argument;
    for (int i = 0; i < ROUNDS; i++) {
        void *va = NULL;
        if (!CHECK_EQUAL(svq_hv_map_grants(mapper->hv, FRONTEND, &mapper->gref, 1, mapper->writable, &va), 0))
            break;
        CHECK((fixture_flags(mapper->f, 0) & GTF_READING) != 0);
        CHECK(!mapper->writable || (fixture_flags(mapper->f, 0) & GTF_WRITING) != 0);
        CHECK_EQUAL(svq_hv_unmap_grants(mapper->hv, va, 1), 0);
    }
    return NULL;
}

TEST(threads,
     "Threads that map and unmap one page, through one handle or two, always find it marked while they hold it")
{
    struct fixture f;
    fixture_start(&f);
    struct svq_hv *second = fixture_open(&f, BACKEND);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    struct mapper mappers[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        mappers[i] = (struct mapper){ &f, i == 2 ? second : f.backend, gref, i > 0 };
        REQUIRE(pthread_create(&threads[i], NULL, map_and_unmap, &mappers[i]) == 0);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(counters_of(f.backend).grant_pages_mapped, 2 * ROUNDS);
    CHECK_EQUAL(counters_of(f.backend).grant_pages_live, 0);
    svq_hv_close(second);
    fixture_stop(&f);
}

TEST(speed, "Mapping and unmapping one page makes no system call: the time is only reported")
{
    struct fixture f;
    struct timespec start, end;
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    void *va;
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &va) == 0);
    REQUIRE(svq_hv_unmap_grants(f.backend, va, 1) == 0);
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < ROUNDS; i++) {
        (void)svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &va);
        (void)svq_hv_unmap_grants(f.backend, va, 1);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("# %.0f ns for one map and unmap\n",
           ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / ROUNDS);
    CHECK_EQUAL(counters_of(f.backend).grant_maps, ROUNDS + 1);
    fixture_stop(&f);
}

SVQ_TEST_MAIN()
