/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Deaths in the embedded machine: domains that are processes of their own and are killed. The program starts itself as
 * the child, `--child ROLE SOCKET`, which does its part, writes one byte to its standard output, and waits to be
 * killed.
 */
#include <signal.h>
#include <sys/wait.h>

#include "sim_fixture.h"

/* --- the child ---------------------------------------------------------------------------------------- */
static void child_maps_grants(struct svq_hv *hv)
{
    uint32_t grefs[2] = { WINDOW_GREF, WINDOW_GREF + 1 };
    void *va;
    REQUIRE(svq_hv_map_grants(hv, FRONTEND, grefs, 2, 1, &va) == 0);
    REQUIRE(svq_hv_map_grants(hv, FRONTEND, grefs, 1, 0, &va) == 0);
}

static void child_shares(struct svq_hv *hv)
{
    uint32_t grefs[3];
    void *va;
    REQUIRE(svq_hv_share_pages(hv, MEDIATOR, 3, 1, grefs, &va) == 0);
    REQUIRE(grefs[0] == 8);
}

/* Maps and unmaps forever: it is killed at an arbitrary point. */
static void child_hammers(struct svq_hv *hv)
{
    uint32_t gref = WINDOW_GREF;
    void *va;
    for (;;) {
        if (svq_hv_map_grants(hv, FRONTEND, &gref, 1, 1, &va) == 0)
            (void)svq_hv_unmap_grants(hv, va, 1);
    }
}

static int child(const char *role, const char *socket)
{
    struct svq_hv *hv;
    REQUIRE(svq_hv_open_sim(socket, &hv) == 0);
    if (strcmp(role, "maps-grants") == 0)
        child_maps_grants(hv);
    if (strcmp(role, "shares") == 0)
        child_shares(hv);
    REQUIRE(write(STDOUT_FILENO, "!", 1) == 1);
    if (strcmp(role, "hammers") == 0)
        child_hammers(hv);
    for (;;)
        pause();
}

/* --- the parent --------------------------------------------------------------------------------------- */
static pid_t start_child(const struct fixture *f, const char *role, uint16_t domid)
{
    char socket[256], byte;
    fixture_socket(f, domid, socket);
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        (void)dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        execl("/proc/self/exe", "test_hv_domains", "--child", role, socket, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    REQUIRE(read(pipes[0], &byte, 1) == 1 && byte == '!'); /* otherwise it ended, and closed the pipe */
    close(pipes[0]);
    return pid;
}

static void kill_child(pid_t pid)
{
    CHECK(kill(pid, SIGKILL) == 0);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
}

static int zombies(const struct fixture *f)
{
    uint16_t domids[4];
    return svq_sim_zombies(f->machine, domids, 4);
}

TEST(killed_grantee,
     "A grantee that is killed leaves nothing mapped, its death is reported, and its domid can come back")
{
    struct fixture f;
    fixture_start(&f);
    svq_hv_close(f.backend);
    CHECK_EQUAL(fixture_next_death(&f), BACKEND);
    CHECK_EQUAL(svq_sim_domain_create(f.machine, BACKEND, 16, 1, SVQ_SIM_PRIVILEGE_NONE), 0);
    (void)fixture_grant(&f, 0, BACKEND, 20, 0);
    (void)fixture_grant(&f, 1, BACKEND, 400, 0);
    pid_t pid = start_child(&f, "maps-grants", BACKEND);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, BACKEND), SVQ_SIM_RUNNING);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    CHECK_EQUAL(fixture_flags(&f, 1), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    kill_child(pid);
    CHECK_EQUAL(fixture_next_death(&f), BACKEND);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(fixture_flags(&f, 1), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, BACKEND), SVQ_SIM_DEAD);
    char path[256];
    fixture_socket(&f, BACKEND, path);
    struct svq_hv *hv;
    CHECK_EQUAL(svq_hv_open_sim(path, &hv), -EACCES);
    CHECK(strstr(svq_hv_why(), "dead") != NULL);
    CHECK_EQUAL(svq_sim_domain_create(f.machine, BACKEND, 16, 1, SVQ_SIM_PRIVILEGE_NONE), 0);
    f.backend = fixture_open(&f, BACKEND);
    fixture_stop(&f);
}

TEST(one_of_two, "A domain of two processes outlives one of them, and the other's mapping stays marked")
{
    struct fixture f;
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    (void)fixture_grant(&f, 1, BACKEND, 21, 0);
    void *va;
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va) == 0);
    pid_t pid = start_child(&f, "maps-grants", BACKEND);
    kill_child(pid);
    for (int tries = 0; tries < 2000 && fixture_flags(&f, 1) != GTF_PERMIT_ACCESS; tries++)
        (void)poll(NULL, 0, 10); /* nothing reports the end of one handle of many */
    CHECK_EQUAL(fixture_flags(&f, 1), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, BACKEND), SVQ_SIM_RUNNING);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    fixture_stop(&f);
}

TEST(killed_anywhere,
     "Wherever between map and unmap a grantee is killed, the entry is free afterwards and can be mapped")
{
    struct fixture f;
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, STRANGER, 20, 0);
    void *va;
    for (int i = 0; i < 30; i++) {
        pid_t pid = start_child(&f, "hammers", STRANGER);
        struct svq_hv *other = fixture_open(&f, STRANGER); /* while it hammers */
        for (int j = 0; j < 200; j++) {
            CHECK_EQUAL(svq_hv_map_grants(other, FRONTEND, &gref, 1, 1, &va), 0);
            CHECK_EQUAL(svq_hv_unmap_grants(other, va, 1), 0);
        }
        kill_child(pid);
        for (int j = 0; j < 200; j++) { /* waits for the broker to free the lock that the child may have held */
            CHECK_EQUAL(svq_hv_map_grants(other, FRONTEND, &gref, 1, 1, &va), 0);
            CHECK_EQUAL(svq_hv_unmap_grants(other, va, 1), 0);
        }
        svq_hv_close(other);
        CHECK_EQUAL(fixture_next_death(&f), STRANGER);
        CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
        REQUIRE(svq_sim_domain_create(f.machine, STRANGER, 16, 1, SVQ_SIM_PRIVILEGE_NONE) == 0);
    }
    fixture_stop(&f);
}

TEST(zombie_by_foreign_map,
     "A dead domain is a zombie while its memory or its table is mapped, and gone when it is not")
{
    struct fixture f;
    const uint64_t gfn = 3;
    uint16_t domid = 0;
    void *va, *again;
    fixture_start(&f);
    int err;
    REQUIRE(svq_hv_map_foreign(f.mediator, FRONTEND, &gfn, 1, 1, &err, &va) == 0);
    f.ram[3 * SVQ_PAGE_SIZE] = 0x33;
    svq_hv_close(f.frontend);
    CHECK_EQUAL(fixture_next_death(&f), FRONTEND);
    CHECK_EQUAL(svq_sim_zombies(f.machine, &domid, 1), 1);
    CHECK_EQUAL(domid, FRONTEND);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, FRONTEND), SVQ_SIM_ZOMBIE);
    CHECK_EQUAL(*(uint8_t *)va, 0x33); /* mappings stay, as on Xen */
    CHECK_EQUAL(svq_hv_map_foreign(f.mediator, FRONTEND, &gfn, 1, 1, &err, &again), -ESRCH);
    CHECK_EQUAL(svq_sim_domain_create(f.machine, FRONTEND, 8, 1, SVQ_SIM_PRIVILEGE_NONE), -EEXIST);
    CHECK_EQUAL(svq_hv_unmap_foreign(f.mediator, va, 1), 0);
    CHECK_EQUAL(zombies(&f), 1); /* its table is still mapped */
    CHECK_EQUAL(svq_hv_unmap_grant_table(f.mediator, f.entries_token), 0);
    CHECK_EQUAL(zombies(&f), 0);
    CHECK_EQUAL(svq_sim_domain_state(f.machine, FRONTEND), SVQ_SIM_DEAD);

    /* A new domain with the same number and other memory: the handle must not confuse it with the dead one. */
    REQUIRE(svq_sim_domain_create(f.machine, FRONTEND, 8, 1, SVQ_SIM_PRIVILEGE_NONE) == 0);
    f.frontend = fixture_open(&f, FRONTEND);
    REQUIRE(svq_hv_map_foreign(f.mediator, FRONTEND, &gfn, 1, 1, &err, &va) == 0);
    CHECK_EQUAL(err, 0);
    CHECK_EQUAL(*(uint8_t *)va, 0);
    fixture_stop(&f);
}

TEST(zombie_by_grant, "A dead granter is a zombie while a grantee maps one of its pages, even a grantee that is killed")
{
    struct fixture f;
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, STRANGER, 20, 0);
    (void)fixture_grant(&f, 1, STRANGER, 21, 0);
    pid_t pid = start_child(&f, "maps-grants", STRANGER);
    void *va;
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va), -EACCES);
    CHECK_EQUAL(svq_hv_unmap_grant_table(f.mediator, f.entries_token), 0);
    CHECK_EQUAL(svq_sim_domain_destroy(f.machine, FRONTEND), 0);
    CHECK_EQUAL(zombies(&f), 1);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &va), -ESRCH);
    kill_child(pid);
    CHECK_EQUAL(fixture_next_death(&f), STRANGER);
    CHECK_EQUAL(zombies(&f), 0);
    fixture_stop(&f);
}

TEST(killed_sharer, "What a killed process shared is taken back, except pages that are still mapped")
{
    struct fixture f;
    uint32_t grefs[3] = { 8, 9, 10 }, again[3];
    void *va, *table, *token;
    fixture_start(&f);
    struct svq_hv *second = fixture_open(&f, STRANGER); /* keeps the domain alive */
    pid_t pid = start_child(&f, "shares", STRANGER);
    REQUIRE(svq_hv_map_grants(f.mediator, STRANGER, &grefs[1], 1, 1, &va) == 0);
    kill_child(pid);
    REQUIRE(svq_hv_map_grant_table(second, STRANGER, 0, 1, &table, &token) == 0);
    for (int tries = 0; tries < 2000 && svq_acquire_u64((uint64_t *)table + 8) != 0; tries++)
        (void)poll(NULL, 0, 10); /* as above */
    CHECK_EQUAL(svq_acquire_u64((uint64_t *)table + 8), 0);
    CHECK(svq_acquire_u64((uint64_t *)table + 9) != 0);
    CHECK_EQUAL(svq_acquire_u64((uint64_t *)table + 10), 0);
    CHECK_EQUAL(svq_hv_unmap_grants(f.mediator, va, 1), 0);
    REQUIRE(svq_hv_share_pages(second, MEDIATOR, 3, 1, again, &va) == 0);
    CHECK_EQUAL(again[0], 10);
    svq_hv_close(second);
    fixture_stop(&f);
}

TEST(destroyed_while_running, "The handles of a destroyed domain fail instead of hanging, and no event reports it")
{
    struct fixture f;
    void *mapped, *va;
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &mapped) == 0);
    CHECK_EQUAL(svq_sim_domain_destroy(f.machine, BACKEND), 0);
    uint16_t domid;
    int kind;
    CHECK_EQUAL(svq_sim_next_event(f.machine, &kind, &domid), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &va), -ENOTCONN);
    uint32_t shared;
    CHECK_EQUAL(svq_hv_share_pages(f.backend, FRONTEND, 1, 1, &shared, &va), -ENOTCONN);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, mapped, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(svq_sim_domain_destroy(f.machine, 77), -ESRCH);
    fixture_stop(&f);
}

TEST(killed_machine, "A new machine takes over the sockets that a killed one left behind")
{
    struct fixture f;
    pid_t pid;
    fixture_machine(&f);
    svq_sim_machine_stop(f.machine);
    pid = fork(); /* no threads and no handles now */
    REQUIRE(pid >= 0);
    if (pid == 0) {
        REQUIRE(svq_sim_machine_start(f.directory, &f.machine) == 0);
        REQUIRE(svq_sim_domain_create(f.machine, 5, 1, 1, SVQ_SIM_PRIVILEGE_NONE) == 0);
        (void)kill(getpid(), SIGKILL);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    REQUIRE(svq_sim_machine_start(f.directory, &f.machine) == 0);
    CHECK_EQUAL(svq_sim_domain_create(f.machine, 5, 1, 1, SVQ_SIM_PRIVILEGE_NONE), 0);
    struct svq_sim_machine *second;
    REQUIRE(svq_sim_machine_start(f.directory, &second) == 0);
    CHECK_EQUAL(svq_sim_domain_create(second, 5, 1, 1, SVQ_SIM_PRIVILEGE_NONE), -EADDRINUSE); /* that one lives */
    svq_sim_machine_stop(second);
    fixture_stop(&f);
}

TEST(many_lives, "Slots of dead domains are reused: over time, more domains may live than a machine holds at once")
{
    struct fixture f;
    fixture_start(&f);
    for (uint16_t domid = 100; domid < 100 + 2 * SVQ_SIM_DOMAINS_MAX; domid++) {
        if (!CHECK_EQUAL(svq_sim_domain_create(f.machine, domid, 16, 1, SVQ_SIM_PRIVILEGE_NONE), 0))
            break;
        if (domid % 32 == 0)
            svq_hv_close(fixture_open(&f, domid));
        CHECK_EQUAL(svq_sim_domain_destroy(f.machine, domid), 0);
    }
    CHECK_EQUAL(zombies(&f), 0);
    fixture_stop(&f);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child(argv[2], argv[3]);
    return svq_test_run(argc, argv);
}
