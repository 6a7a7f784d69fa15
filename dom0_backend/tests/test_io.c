/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The I/O engine: direct I/O through aligned copies, engines, short transfers, images that fail. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "be_io_impl.h"
#include "be_test.h"

enum { IMAGE = 4 << 20, OPS = 64 };

static struct svq_be_stats stats;
static struct svq_be_io *io;
static int fd;
static uint8_t *memory; /* page-aligned */

static uint8_t byte_at(uint64_t offset) { return (uint8_t)(offset * 31 + offset / 4096); }

static void open_engine(const char *directory, int flags, uint32_t align, bool force_sync)
{
    struct svq_be_io_setup setup = {
        .direct = flags & O_DIRECT, .align = align, .entries = OPS, .force_sync = force_sync, .stats = &stats
    };
    char path[64];
    snprintf(path, sizeof path, "%s/svq-io-XXXXXX", directory);
    fd = mkstemp(path);
    REQUIRE(fd >= 0);
    close(fd);
    fd = open(path, O_RDWR | flags);
    REQUIRE(fd >= 0);
    unlink(path);
    memset(&stats, 0, sizeof stats);
    REQUIRE_EQUAL(posix_memalign((void **)&memory, 4096, IMAGE), 0);
    for (uint32_t i = 0; i < IMAGE; i++)
        memory[i] = byte_at(i);
    REQUIRE_EQUAL(pwrite(fd, memory, IMAGE, 0), IMAGE);
    setup.fd = fd;
    REQUIRE_EQUAL(svq_be_io_create(&setup, &io), 0);
}

static void close_engine(void)
{
    svq_be_io_destroy(io);
    close(fd);
    free(memory);
}

/* Waits on the engine's descriptor until one operation has ended. */
static struct svq_be_op *wait_op(void)
{
    for (;;) {
        struct svq_be_op *op = svq_be_io_reap(io);
        struct pollfd poll_fd = { .fd = svq_be_io_fd(io), .events = POLLIN };
        if (op)
            return op;
        REQUIRE_EQUAL(svq_be_io_submit(io), 0);
        REQUIRE_EQUAL(poll(&poll_fd, 1, 20000), 1);
        uint64_t count;
        REQUIRE_EQUAL(read(poll_fd.fd, &count, 8), 8);
    }
}

static int transfer(enum svq_be_op_kind kind, uint64_t offset, struct iovec *iov, uint32_t count)
{
    struct svq_be_span span;
    struct svq_be_op op = { .kind = kind, .span = &span, .offset = offset };
    svq_be_span_init(&span, iov, count);
    op.left = span.left;
    svq_be_io_start(io, &op);
    REQUIRE(wait_op() == &op);
    REQUIRE(op.result || (op.left == 0 && span.left == 0));
    return op.result;
}

static void check_bytes(const uint8_t *at, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++)
        REQUIRE_EQUAL(at[i], byte_at(offset + i));
}

static void odd_memory_round_trip(void)
{
    static uint8_t odd[512 * 1024 + 100];
    struct iovec iov[3] = { { odd + 1, 300 }, { odd + 1000, 200 * 1024 + 1 }, { odd + 300 * 1024 + 3, 723 } };
    size_t total = iov[0].iov_len + iov[1].iov_len + iov[2].iov_len, at = 0;
    REQUIRE_EQUAL(total % 512, 0);
    REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 4096, (struct iovec[]){ iov[0], iov[1], iov[2] }, 3), 0);
    for (int i = 0; i < 3; i++) {
        check_bytes(iov[i].iov_base, 4096 + at, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    REQUIRE_EQUAL(transfer(SVQ_BE_OP_WRITE, 2 << 20, (struct iovec[]){ iov[0], iov[1], iov[2] }, 3), 0);
    REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 2 << 20, (struct iovec[]){ { memory, total } }, 1), 0);
    check_bytes(memory, 4096, total);
}

TEST(direct_io, "Direct I/O copies unaligned memory, and only that, in both engines")
{
    for (int sync = 0; sync <= 1; sync++) {
        open_engine("/tmp", O_DIRECT, 512, sync);
        odd_memory_round_trip();
        REQUIRE_EQUAL(stats.bounced_ios, 2);
        REQUIRE_EQUAL(stats.direct_io, 1);
        REQUIRE_EQUAL(stats.io_engine, sync ? SVQ_BE_ENGINE_SYNC : SVQ_BE_ENGINE_URING);
        close_engine();
    }
}

TEST(buffered_io, "Buffered I/O uses any memory as it is")
{
    open_engine("/tmp", 0, 512, false);
    odd_memory_round_trip();
    REQUIRE_EQUAL(stats.bounced_ios, 0);
    close_engine();
}

TEST(bounce_wait, "With more unaligned operations than aligned buffers, some wait, and all end")
{
    static struct svq_be_op ops[OPS];
    static struct svq_be_span spans[OPS];
    static struct iovec iovs[OPS];
    static uint8_t odd[OPS][4096 + 8];
    open_engine("/tmp", O_DIRECT, 512, false);
    for (uint64_t i = 0; i < OPS; i++) {
        iovs[i] = (struct iovec){ odd[i] + 1, 4096 };
        svq_be_span_init(&spans[i], &iovs[i], 1);
        ops[i] = (struct svq_be_op){ .kind = SVQ_BE_OP_READ, .span = &spans[i], .offset = i * 8192, .left = 4096 };
        svq_be_io_start(io, &ops[i]);
    }
    for (int i = 0; i < OPS; i++)
        REQUIRE_EQUAL(wait_op()->result, 0);
    for (uint64_t i = 0; i < OPS; i++)
        check_bytes(odd[i] + 1, i * 8192, 4096);
    REQUIRE(stats.bounce_waits >= OPS - 16);
    REQUIRE(!svq_be_io_reap(io));
    close_engine();
}

/* The file-size limit makes the kernel write what fits, then refuse: a short write, then EFBIG. */
static int limited_write(void *unused)
{
    struct rlimit limit = { .rlim_cur = IMAGE, .rlim_max = IMAGE };
    (void)unused;
    signal(SIGXFSZ, SIG_IGN);
    for (int sync = 0; sync <= 1; sync++) {
        open_engine("/tmp", 0, 512, sync);
        REQUIRE_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_WRITE, IMAGE - 4096, (struct iovec[]){ { memory, 8192 } }, 1), -EFBIG);
        REQUIRE_EQUAL(stats.short_ios, 1);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, IMAGE - 4096, (struct iovec[]){ { memory + 8192, 4096 } }, 1), 0);
        check_bytes(memory + 8192, 0, 4096);
        close_engine();
    }
    return 0;
}

/* A kernel policy that forbids io_uring. */
static int refused(void *error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t) * (int *)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = 4, .filter = filter };
    REQUIRE_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    REQUIRE_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    open_engine("/tmp", 0, 512, false);
    REQUIRE_EQUAL(stats.io_engine, SVQ_BE_ENGINE_SYNC);
    REQUIRE_EQUAL(stats.io_engine_errno, -*(int *)error);
    REQUIRE_EQUAL(svq_be_io_fd(io), -1);
    odd_memory_round_trip();
    close_engine();
    return 0;
}

static void in_child(int (*function)(void *), void *argument)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(function(argument));
    int status;
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(short_write, "A short write is continued, and the failure of its rest is reported")
{
    in_child(limited_write, NULL);
}

TEST(no_uring, "Where io_uring is forbidden, the engine makes calls in place, and the stats say why")
{
    int errors[] = { EPERM, ENOSYS };
    in_child(refused, &errors[0]);
    in_child(refused, &errors[1]);
}

TEST(past_the_end, "Reading past the end of a truncated image is an error, never a wait")
{
    for (int direct = 0; direct <= 1; direct++) {
        open_engine("/tmp", direct ? O_DIRECT : 0, 512, false);
        REQUIRE_EQUAL(ftruncate(fd, 10000), 0);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 8192, (struct iovec[]){ { memory, 4096 } }, 1), -EIO);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 8192, (struct iovec[]){ { memory + 1, 4096 } }, 1), -EIO);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 16384, (struct iovec[]){ { memory, 4096 } }, 1), -EIO);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 4096, (struct iovec[]){ { memory, 4096 } }, 1), 0);
        close_engine();
    }
}

static int simple_op(enum svq_be_op_kind kind, uint64_t offset, uint64_t length, bool may_unmap)
{
    struct svq_be_op op = { .kind = kind, .offset = offset, .left = length, .may_unmap = may_unmap };
    svq_be_io_start(io, &op);
    REQUIRE(wait_op() == &op);
    return op.result;
}

static int flushes_under_way, most_under_way, flushes_issued;
static const int64_t *flush_answers; /* results that we give the next flushes; NULL: the kernel's own */

bool __real_svq_be_uring_issue(struct svq_be_io *engine, struct svq_be_op *op, const struct svq_be_step *step);
struct svq_be_op *__real_svq_be_uring_peek(struct svq_be_io *engine, int64_t *answer);
bool __wrap_svq_be_uring_issue(struct svq_be_io *engine, struct svq_be_op *op, const struct svq_be_step *step);
struct svq_be_op *__wrap_svq_be_uring_peek(struct svq_be_io *engine, int64_t *answer);

bool __wrap_svq_be_uring_issue(struct svq_be_io *engine, struct svq_be_op *op, const struct svq_be_step *step)
{
    flushes_issued += op->kind == SVQ_BE_OP_FLUSH;
    flushes_under_way += op->kind == SVQ_BE_OP_FLUSH;
    if (flushes_under_way > most_under_way)
        most_under_way = flushes_under_way;
    return __real_svq_be_uring_issue(engine, op, step);
}

struct svq_be_op *__wrap_svq_be_uring_peek(struct svq_be_io *engine, int64_t *answer)
{
    struct svq_be_op *op = __real_svq_be_uring_peek(engine, answer);
    if (op && op->kind == SVQ_BE_OP_FLUSH) {
        flushes_under_way--;
        if (flush_answers)
            *answer = *flush_answers++;
    }
    return op;
}

TEST(flushes_together, "The kernel has one flush at a time, and all that waited for it get its result")
{
    const int64_t answers[] = { -EAGAIN, -EIO }; /* not repeated: what it had to report may be lost */
    open_engine("/tmp", 0, 512, false);
    flushes_issued = most_under_way = 0;
    flush_answers = answers;
    struct svq_be_op ops[4];
    for (int i = 0; i < 4; i++) {
        ops[i] = (struct svq_be_op){ .kind = SVQ_BE_OP_FLUSH };
        svq_be_io_start(io, &ops[i]);
    }
    for (int i = 0; i < 4; i++) {
        REQUIRE(wait_op() == &ops[i]);
        REQUIRE_EQUAL(ops[i].result, answers[i > 0]);
    }
    REQUIRE_EQUAL(flushes_issued, 2);
    REQUIRE_EQUAL(most_under_way, 1);
    flush_answers = NULL;
    close_engine();
}

TEST(zeroes, "Zeros are written in whichever way the file system supports")
{
    static const char *const directories[] = { "/tmp", "/dev/shm" };
    for (int i = 0; i < 8; i++) {
        bool may_unmap = i & 1, sync = i & 2;
        open_engine(directories[i / 4], 0, 512, sync);
        REQUIRE_EQUAL(simple_op(SVQ_BE_OP_ZERO, 1024, 1 << 20, may_unmap), 0);
        REQUIRE_EQUAL(simple_op(SVQ_BE_OP_ZERO, 2 << 20, 512, may_unmap), 0); /* in the way learnt before */
        REQUIRE_EQUAL(simple_op(SVQ_BE_OP_DISCARD, 3 << 20, 4096, false), 0);
        REQUIRE_EQUAL(simple_op(SVQ_BE_OP_FLUSH, 0, 0, false), 0);
        REQUIRE_EQUAL(transfer(SVQ_BE_OP_READ, 0, (struct iovec[]){ { memory, IMAGE } }, 1), 0);
        check_bytes(memory, 0, 1024);
        for (uint32_t at = 1024; at < 1024 + (1 << 20); at++)
            REQUIRE_EQUAL(memory[at], 0);
        check_bytes(memory + 1024 + (1 << 20), 1024 + (1 << 20), (1 << 20) - 1024);
        close_engine();
    }
}

SVQ_TEST_MAIN()
