/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every check, from both sides: with it, the hostile input breaks the device with exactly that code and nothing reaches
 * the other side; without it (SVQ_MUTATION, one check at a time), the outcome differs, so the check is needed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostile.h"
#include "rig_view.h"
#include "svq_test.h"

enum { CHILD_SECONDS = 60 };

/* What the child saw, in memory shared with the parent. */
struct outcome {
    char directory[64];
    int finished;
    int code;         /* latched by the device */
    int answer;       /* returned by the first call that met the hostile input */
    uint64_t counted; /* faults with the expected code */
    uint64_t others;  /* faults with any other code */
    int latched;      /* later calls are refused as well */
    int reached;      /* something reached the other side */
};

#ifdef SVQ_MUTATION
extern int svq_omitted_check;
static void omit(int code) { svq_omitted_check = code; }
#else
static void omit(int code) { (void)code; }
#endif

static void read_faults(const struct svq_device *dev, int code, struct outcome *out)
{
    struct svq_fault fault;
    svq_device_fault(dev, &fault);
    out->code = fault.code;
    for (int c = SVQ_ERR_BASE - 1; c > SVQ_E_LAST; c--)
        *(c == code ? &out->counted : &out->others) += svq_device_fault_count(dev, c);
}

/* A second device, whose only queue is set up where the frontend wants. */
static void run_setup(const struct hostile *h, struct rig *rig, struct outcome *out)
{
    const struct svq_device_config config = rig_other_device(rig, RIG_MARK + 1);
    struct svq_device *dev;
    struct svq_queue_config queue = hostile_ring();
    struct svq_hv_counters before = rig_counters(rig->mediator);
    if (svq_device_create(rig->guest, &config, &dev) < 0)
        abort();
    h->spoil(&queue);
    struct svq_queue_refs refs;
    out->answer = svq_queue_setup(dev, NULL, &queue, &refs);
    struct svq_hv_counters after = rig_counters(rig->mediator);
    out->reached = before.shared_pages_live != after.shared_pages_live ||
                   before.foreign_pages_live != after.foreign_pages_live;
    read_faults(dev, h->code, out);
    out->latched = out->answer < 0 && svq_queue_forward(dev, 0, 1) != 1;
    if (svq_device_close(dev) != 0)
        out->latched = 0;
}

static uint32_t published(const struct rig *rig)
{
    return (uint32_t)(rig->q[0].shadow_avail->idx << 16 | rig->q[0].used->idx);
}

/* Passes in each direction, as many as it takes to meet the input with a budget of one chain. */
static int run_passes(struct rig *rig)
{
    int rc = 0;
    for (int i = 0; i < 4 && rc >= 0; i++) {
        rc = svq_queue_forward(rig->dev, 0, 1);
        rc = rc < 0 ? rc : svq_queue_complete(rig->dev, 0, 1);
    }
    return rc;
}

static void run_traffic(const struct hostile *h, struct rig *rig, struct outcome *out)
{
    if (h->prepare)
        h->prepare(rig);
    uint32_t before = published(rig), entries = rig_window_in_use(rig);
    h->attack(rig);
    out->answer = run_passes(rig);
    read_faults(rig->dev, h->code, out);
    uint16_t spare = (uint16_t)(rig->config.queue_size - 1);
    rig_page(rig, spare, 900, SEG_READ);
    rig_offer(rig, spare);
    out->latched = rig_forward(rig) == out->code && rig_complete(rig) == out->code && rig_fault(rig) == out->code;
    out->reached = published(rig) != before || (!h->keeps_entries && rig_window_in_use(rig) != entries);
}

static void child(const struct hostile *h, int omitted, struct outcome *out)
{
    static struct rig rig;
    alarm(CHILD_SECONDS);
    rig_open(&rig, h->config);
    memcpy(out->directory, rig.directory, sizeof out->directory);
    omit(omitted);
    if (h->spoil)
        run_setup(h, &rig, out);
    else
        run_traffic(h, &rig, out);
    out->finished = 1;
    if (!omitted && !h->spoil)
        rig_close(&rig); /* while the sanitizers watch */
}

static void remove_directory(const char *directory)
{
    static const int domids[] = { RIG_MEDIATOR, RIG_FRONTEND, RIG_BACKEND };
    char path[128];
    for (unsigned i = 0; directory[0] && i < sizeof domids / sizeof domids[0]; i++) {
        snprintf(path, sizeof path, "%s/hv-dom%d.sock", directory, domids[i]);
        unlink(path);
    }
    if (directory[0])
        rmdir(directory);
}

/* Runs one input in a process of its own. Returns its wait status. */
static int run(const struct hostile *h, int omitted, struct outcome *out)
{
    int status = 0;
    memset(out, 0, sizeof *out);
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        if (omitted && !freopen("/dev/null", "w", stderr)) /* the sanitizers' reports are what we hope for */
            _exit(2);
        child(h, omitted, out);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    remove_directory(out->directory);
    return status;
}

static struct outcome *shared_outcome(void)
{
    void *va = mmap(NULL, sizeof(struct outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(va != MAP_FAILED);
    return va;
}

static int refused_as_it_should(const struct hostile *h, int status, const struct outcome *out)
{
    return status == 0 && out->finished && out->code == h->code && out->answer == h->code && out->counted == 1 &&
           out->others == 0 && out->latched && !out->reached;
}

TEST(every_code_has_a_scenario, "There is a hostile input for every code that a check can return")
{
    for (int code = SVQ_ERR_BASE - 1; code > SVQ_E_LAST; code--) {
        int found = 0, known = strcmp(svq_err_name(code), "SVQ_E_UNKNOWN") != 0;
        for (unsigned i = 0; i < hostile_count; i++)
            found |= hostile_inputs[i].code == code;
        CHECK_EQUAL(found, known);
        if (known) {
            CHECK(strlen(svq_err_text(code)) > 0);
            CHECK(strlen(svq_err_source(code)) > 0);
        }
    }
}

TEST(hostile_input_is_refused, "Each hostile input breaks its device with its code, once, and reaches nobody")
{
    struct outcome *out = shared_outcome();
    for (unsigned i = 0; i < hostile_count; i++) {
        const struct hostile *h = &hostile_inputs[i];
        int status = run(h, 0, out);
        if (!CHECK(refused_as_it_should(h, status, out)))
            printf("# %s (%s): status %d, code %d, returned %d, counted %d, others %d, latched %d, reached %d\n",
                   h->what, svq_err_name(h->code), status, out->code, out->answer, (int)out->counted, (int)out->others,
                   out->latched, out->reached);
    }
    munmap(out, sizeof *out);
}

#ifdef SVQ_MUTATION
static const char *kind(const struct hostile *h, int status, const struct outcome *out, char text[96])
{
    if (WIFSIGNALED(status))
        snprintf(text, 96, "killed by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        snprintf(text, 96, "stopped by a sanitizer");
    else if (out->code != h->code && out->code)
        snprintf(text, 96, "%s%s", svq_err_name(out->code),
                 out->reached ? ", but only after something got through" : "");
    else
        snprintf(text, 96, "accepted");
    return text;
}

TEST(every_check_is_needed, "Without its check, no hostile input meets the same end: each check is needed")
{
    struct outcome *out = shared_outcome();
    char text[96];
    for (unsigned i = 0; i < hostile_count; i++) {
        const struct hostile *h = &hostile_inputs[i];
        int status = run(h, h->code, out);
        CHECK(!refused_as_it_should(h, status, out));
        CHECK(!(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM));
        printf("# without %s, %s: %s\n", svq_err_name(h->code), h->what, kind(h, status, out, text));
    }
    munmap(out, sizeof *out);
}
#endif

SVQ_TEST_MAIN()
