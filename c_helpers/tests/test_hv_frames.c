/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Watching a guest's frames, in the embedded machine: who may watch, who waits for whom, and what a killed process
 * leaves. tests/xen/seam_frames.c does this on Xen. The program starts itself as the process that is killed.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "sim_fixture.h"

enum { LONG_MS = 20000, SHORT_MS = 30 };

/* The mediator's domain as dom0. */
static void start_in_dom0(struct fixture *f)
{
    fixture_start(f);
    REQUIRE(svq_sim_domain_set_privilege(f->machine, MEDIATOR, SVQ_SIM_PRIVILEGE_ALL) == 0);
}

static int is_readable(struct svq_frames *frames, int timeout_ms)
{
    struct pollfd pfd = { .fd = svq_frames_fd(frames), .events = POLLIN };
    return poll(&pfd, 1, timeout_ms) == 1;
}

/* A processor of the guest that takes a frame out of its address space. */
struct processor {
    struct svq_sim_machine *machine;
    pthread_t thread;
    int goes_on, answer;
};

static void *balloon(void *argument)
{
    struct processor *processor = argument;
    processor->answer = svq_sim_frames_changed(processor->machine, FRONTEND, LONG_MS);
    __atomic_store_n(&processor->goes_on, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void start_balloon(const struct fixture *f, struct processor *processor)
{
    *processor = (struct processor){ .machine = f->machine };
    REQUIRE(pthread_create(&processor->thread, NULL, balloon, processor) == 0);
}

static int waits(const struct processor *processor) { return !__atomic_load_n(&processor->goes_on, __ATOMIC_SEQ_CST); }

static void check_goes_on(const struct processor *processor)
{
    pthread_join(processor->thread, NULL);
    CHECK_EQUAL(processor->answer, 0);
}

TEST(acknowledged, "The watch reports a change, and the guest's processor waits until it is acknowledged")
{
    struct fixture f;
    start_in_dom0(&f);
    struct svq_frames *frames;
    REQUIRE(svq_frames_watch(f.mediator, FRONTEND, &frames) == 0);
    CHECK_EQUAL(svq_frames_changed(frames), 0);
    CHECK(!is_readable(frames, 0));
    struct processor processor;
    start_balloon(&f, &processor);
    CHECK(is_readable(frames, LONG_MS));
    CHECK_EQUAL(svq_frames_changed(frames), 1);
    CHECK_EQUAL(svq_frames_changed(frames), 1); /* until it is acknowledged */
    CHECK(waits(&processor));
    CHECK_EQUAL(svq_frames_ack(frames), 0);
    check_goes_on(&processor);
    CHECK_EQUAL(svq_frames_changed(frames), 0);
    CHECK(!is_readable(frames, 0));
    svq_frames_close(frames);
    fixture_stop(&f);
}

TEST(only_what_was_told, "A change after the last look is not acknowledged together with those before it")
{
    struct fixture f;
    struct processor first, second;
    start_in_dom0(&f);
    struct svq_frames *frames;
    REQUIRE(svq_frames_watch(f.mediator, FRONTEND, &frames) == 0);
    start_balloon(&f, &first);
    REQUIRE(is_readable(frames, LONG_MS));
    CHECK_EQUAL(svq_frames_changed(frames), 1);
    start_balloon(&f, &second);
    REQUIRE(is_readable(frames, LONG_MS)); /* once more: for the second */
    CHECK_EQUAL(svq_frames_ack(frames), 0);
    check_goes_on(&first);
    CHECK_EQUAL(svq_frames_changed(frames), 1);
    CHECK(waits(&second));
    CHECK_EQUAL(svq_frames_ack(frames), 0);
    check_goes_on(&second);
    svq_frames_close(frames);
    fixture_stop(&f);
}

TEST(nobody_waits_for_a_watch_that_is_closed,
     "Closing a watch, or the handle, lets the guest go on; after that it never waits")
{
    struct fixture f;
    start_in_dom0(&f);
    CHECK_EQUAL(svq_sim_frames_changed(f.machine, FRONTEND, 0), 0); /* nobody watches */
    struct svq_frames *frames;
    REQUIRE(svq_frames_watch(f.mediator, FRONTEND, &frames) == 0);
    struct processor processor;
    start_balloon(&f, &processor);
    REQUIRE(is_readable(frames, LONG_MS));
    svq_frames_close(frames);
    check_goes_on(&processor);
    CHECK_EQUAL(svq_sim_frames_changed(f.machine, FRONTEND, 0), 0);

    struct svq_hv *second = fixture_open(&f, MEDIATOR);
    REQUIRE(svq_frames_watch(second, FRONTEND, &frames) == 0);
    start_balloon(&f, &processor);
    REQUIRE(is_readable(frames, LONG_MS));
    svq_hv_close(second);
    check_goes_on(&processor);
    CHECK_EQUAL(svq_sim_frames_changed(f.machine, FRONTEND, 0), 0);
    fixture_stop(&f);
}

TEST(who_may_watch, "Only dom0 may watch, one process of it at a time, and only a living domain")
{
    struct fixture f;
    struct svq_frames *frames, *other;
    fixture_start(&f);
    CHECK_EQUAL(svq_frames_watch(f.mediator, FRONTEND, &frames), -ENOSYS); /* a mediator domain */
    REQUIRE(svq_sim_domain_set_privilege(f.machine, MEDIATOR, SVQ_SIM_PRIVILEGE_ALL) == 0);
    CHECK_EQUAL(svq_frames_watch(f.mediator, 77, &frames), -ESRCH);
    REQUIRE(svq_frames_watch(f.mediator, FRONTEND, &frames) == 0);
    struct svq_hv *second = fixture_open(&f, MEDIATOR);
    CHECK_EQUAL(svq_frames_watch(second, FRONTEND, &other), -EBUSY);
    svq_frames_close(frames);
    CHECK_EQUAL(svq_frames_watch(second, FRONTEND, &other), 0);
    CHECK_EQUAL(svq_sim_domain_destroy(f.machine, FRONTEND), 0);
    CHECK_EQUAL(svq_frames_changed(other), -ESRCH);
    svq_frames_close(other);
    svq_hv_close(second);
    fixture_stop(&f);
}

static int watch_until_killed(const char *socket)
{
    struct svq_hv *hv;
    REQUIRE(svq_hv_open_sim(socket, &hv) == 0);
    struct svq_frames *frames;
    REQUIRE(svq_frames_watch(hv, FRONTEND, &frames) == 0);
    REQUIRE(write(STDOUT_FILENO, "!", 1) == 1);
    for (;;)
        pause();
}

static pid_t start_watcher(const struct fixture *f)
{
    char socket[256], byte = 0;
    fixture_socket(f, MEDIATOR, socket);
    int pipes[2];
    REQUIRE(pipe(pipes) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        (void)dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        close(pipes[1]);
        execl("/proc/self/exe", "test_hv_frames", "--watch", socket, (char *)NULL);
        _exit(127);
    }
    close(pipes[1]);
    REQUIRE(read(pipes[0], &byte, 1) == 1 && byte == '!');
    close(pipes[0]);
    return pid;
}

TEST(killed, "If a watcher is killed, its guest waits until another process of that domain takes over and answers")
{
    struct fixture f;
    int status, rc;
    start_in_dom0(&f);
    pid_t pid = start_watcher(&f);
    struct svq_frames *frames;
    CHECK_EQUAL(svq_frames_watch(f.mediator, FRONTEND, &frames), -EBUSY);
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
    CHECK_EQUAL(svq_sim_frames_changed(f.machine, FRONTEND, SHORT_MS), -ETIMEDOUT);
    struct processor processor;
    start_balloon(&f, &processor);
    do /* the machine may not have noticed yet that the watcher is dead */
        rc = svq_frames_watch(f.mediator, FRONTEND, &frames);
    while (rc == -EBUSY && usleep(1000) == 0);
    REQUIRE(rc == 0);
    CHECK(is_readable(frames, LONG_MS));
    CHECK_EQUAL(svq_frames_changed(frames), 1);
    CHECK_EQUAL(svq_frames_ack(frames), 0);
    svq_frames_close(frames);
    check_goes_on(&processor);
    fixture_stop(&f);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--watch") == 0)
        return watch_until_killed(argv[2]);
    return svq_test_run(argc, argv);
}
