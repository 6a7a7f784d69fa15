/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening images, and what the device says about itself; refusals name what is wrong. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "be_test.h"
#include "rig.h"

static uint64_t get(const uint8_t *config, int at, int bytes)
{
    uint64_t value = 0;
    memcpy(&value, config + at, (size_t)bytes);
    return value;
}

static bool has(uint64_t features, int bit) { return features >> bit & 1; }

TEST(config_space, "Configuration space and feature bits are those of virtio 5.2")
{
    const struct svq_be_image_info info = { .capacity = 1 << 20,
                                            .logical_block = 512,
                                            .physical_block = 4096,
                                            .min_io = 4096,
                                            .opt_io = 65536,
                                            .discard_align = 4096,
                                            .can_discard = 1 };
    uint8_t config[64];
    memset(config, 0xff, sizeof config);
    uint64_t features;
    REQUIRE_EQUAL(svq_be_config_space(&info, 4, 256, config, sizeof config, &features), 0);
    REQUIRE_EQUAL(get(config, 0, 8), 2048);
    REQUIRE_EQUAL(get(config, 8, 4), 15 * 4096);
    REQUIRE_EQUAL(get(config, 12, 4), 126);
    REQUIRE_EQUAL(get(config, 20, 4), 512);
    REQUIRE_EQUAL(get(config, 24, 1), 3);
    REQUIRE_EQUAL(get(config, 26, 2), 8);
    REQUIRE_EQUAL(get(config, 28, 4), 128);
    REQUIRE_EQUAL(get(config, 34, 2), 4);
    REQUIRE_EQUAL(get(config, 36, 4), 131072);
    REQUIRE_EQUAL(get(config, 40, 4), 16);
    REQUIRE_EQUAL(get(config, 44, 4), 8);
    REQUIRE_EQUAL(get(config, 48, 4), 131072);
    REQUIRE_EQUAL(get(config, 52, 4), 16);
    REQUIRE_EQUAL(get(config, 56, 4), 1);
    REQUIRE_EQUAL(config[60], 0xff);
    REQUIRE(has(features, VIRTIO_BLK_F_MQ) && has(features, VIRTIO_BLK_F_TOPOLOGY));
    REQUIRE(has(features, VIRTIO_BLK_F_FLUSH));
    REQUIRE(has(features, VIRTIO_BLK_F_SIZE_MAX) && has(features, VIRTIO_BLK_F_SEG_MAX));
    REQUIRE(!has(features, VIRTIO_BLK_F_RO) && has(features, VIRTIO_F_VERSION_1));
}

TEST(config_less, "A small read-only device with one queue offers less, and bad shapes are refused")
{
    const struct svq_be_image_info info = { .capacity = 4096, .logical_block = 4096, .read_only = 1 };
    uint8_t config[SVQ_BE_CONFIG_BYTES];
    uint64_t features;
    REQUIRE_EQUAL(svq_be_config_space(&info, 1, 8, config, sizeof config, &features), 0);
    REQUIRE_EQUAL(get(config, 0, 8), 8);
    REQUIRE_EQUAL(get(config, 12, 4), 6);
    REQUIRE_EQUAL(get(config, 20, 4), 4096);
    REQUIRE_EQUAL(get(config, 34, 2), 0);
    REQUIRE(has(features, VIRTIO_BLK_F_RO));
    REQUIRE(!has(features, VIRTIO_BLK_F_MQ) && !has(features, VIRTIO_BLK_F_TOPOLOGY));
    REQUIRE(!has(features, VIRTIO_BLK_F_DISCARD) && !has(features, VIRTIO_BLK_F_WRITE_ZEROES));
    REQUIRE_EQUAL(svq_be_config_space(&info, 0, 8, config, sizeof config, &features), -EINVAL);
    REQUIRE_EQUAL(svq_be_config_space(&info, 65, 8, config, sizeof config, &features), -EINVAL);
    REQUIRE_EQUAL(svq_be_config_space(&info, 1, 7, config, sizeof config, &features), -EINVAL);
    REQUIRE_EQUAL(svq_be_config_space(&info, 1, 2048, config, sizeof config, &features), -EINVAL);
    REQUIRE_EQUAL(svq_be_config_space(&info, 1, 8, config, 59, &features), -EINVAL);
}

static void expect_refusal(const char *path, unsigned int flags, int error, const char *words)
{
    struct svq_be_image *image = NULL;
    REQUIRE_EQUAL(svq_be_open_image(path, flags, &image, NULL), error);
    REQUIRE(!image);
    REQUIRE(strstr(svq_be_why(), path) && strstr(svq_be_why(), words));
}

TEST(image_refused, "An image that cannot be served is refused in a sentence that names it")
{
    char directory[] = "/tmp/svq-images-XXXXXX", path[64];
    REQUIRE(mkdtemp(directory));
    expect_refusal(directory, SVQ_BE_READ_ONLY, -EINVAL, "neither a regular file nor a block device");
    expect_refusal(directory, 0, -EISDIR, "reading and writing");
    snprintf(path, sizeof path, "%s/none", directory);
    expect_refusal(path, 0, -ENOENT, "No such file");
    expect_refusal("/dev/null", 0, -EINVAL, "neither");
    snprintf(path, sizeof path, "%s/fifo", directory);
    REQUIRE_EQUAL(mkfifo(path, 0600), 0);
    expect_refusal(path, SVQ_BE_READ_ONLY, -EINVAL, "neither");
    unlink(path);
    snprintf(path, sizeof path, "%s/short", directory);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    REQUIRE_EQUAL(ftruncate(fd, 511), 0);
    expect_refusal(path, 0, -EINVAL, "smaller than one block");
    expect_refusal(path, 64, -EINVAL, "flags");
    close(fd);
    unlink(path);
    rmdir(directory);
}

TEST(image_geometry, "An image is served up to its last whole block, even when that has changed")
{
    char path[] = "/tmp/svq-image-XXXXXX";
    struct svq_be_image *image;
    int fd = mkstemp(path);
    REQUIRE_EQUAL(ftruncate(fd, 10 * 512 + 100), 0);
    struct svq_be_image_info info;
    REQUIRE_EQUAL(svq_be_open_image(path, 0, &image, &info), 0);
    REQUIRE_EQUAL(info.capacity, 10 * 512);
    REQUIRE_EQUAL(info.logical_block, 512);
    REQUIRE(!info.is_block && !info.read_only && !info.direct_io);
    REQUIRE_EQUAL(ftruncate(fd, 20 * 512 + 100), 0);
    REQUIRE_EQUAL(svq_be_measure_image(image, path, &info), 0);
    REQUIRE_EQUAL(info.capacity, 20 * 512);
    REQUIRE_EQUAL(ftruncate(fd, 100), 0);
    REQUIRE_EQUAL(svq_be_measure_image(image, path, &info), -EINVAL);
    REQUIRE_EQUAL(info.capacity, 20 * 512);
    svq_be_close_image(image);
    REQUIRE_EQUAL(ftruncate(fd, 1 << 20), 0);
    REQUIRE_EQUAL(svq_be_open_image(path, SVQ_BE_DIRECT_IO, &image, &info), 0);
    REQUIRE(info.direct_io && info.logical_block >= 512 && info.logical_block <= 4096);
    svq_be_close_image(image);
    close(fd);
    unlink(path);
}

static bool locked(int fd, int at)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
    REQUIRE_EQUAL(fcntl(fd, F_OFD_GETLK, &lock), 0);
    return lock.l_type != F_UNLCK;
}

TEST(locks_held, "An open image has read locks on QEMU's bytes, for what it uses and for what it does not share")
{
    static const struct {
        unsigned int flags;
        bool locked[4]; /* 100: reads, 101: writes, 200: no readers, 201: no writers */
    } cases[] = {
        { 0, { true, true, false, true } },
        { SVQ_BE_READ_ONLY, { true, false, false, true } },
        { SVQ_BE_SHAREABLE, { true, true, false, false } },
        { SVQ_BE_SHAREABLE | SVQ_BE_READ_ONLY, { true, false, false, false } },
    };
    char path[] = "/tmp/svq-image-XXXXXX";
    int fd = mkstemp(path);

    REQUIRE_EQUAL(ftruncate(fd, 4096), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct svq_be_image *image;
        REQUIRE_EQUAL(svq_be_open_image(path, cases[i].flags, &image, NULL), 0);
        for (int at = 0; at < 4; at++)
            CHECK_EQUAL(locked(fd, 100 + at / 2 * 100 + at % 2), cases[i].locked[at]);
        svq_be_close_image(image);
        CHECK(!locked(fd, 100) && !locked(fd, 101) && !locked(fd, 201));
    }
    close(fd);
    unlink(path);
}

TEST(locks_respected, "Somebody else's lock on any of those bytes refuses uses that conflict with it, and no others")
{
    enum { WRITER = 0, READER = SVQ_BE_READ_ONLY, SHARED = SVQ_BE_SHAREABLE, SHARED_READER = SHARED | READER };
    static const struct {
        int at;
        int refused[4]; /* WRITER, READER, SHARED, SHARED_READER */
    } cases[] = {
        { 100, { 0, 0, 0, 0 } },
        { 101, { -EBUSY, -EBUSY, 0, 0 } },
        { 200, { -EBUSY, -EBUSY, -EBUSY, -EBUSY } },
        { 201, { -EBUSY, 0, -EBUSY, 0 } },
        { 203, { 0, 0, 0, 0 } }, /* QEMU does not share resizing; we never do that */
    };
    static const unsigned int flags[] = { WRITER, READER, SHARED, SHARED_READER };
    char path[] = "/tmp/svq-image-XXXXXX";
    int fd = mkstemp(path);

    REQUIRE_EQUAL(ftruncate(fd, 4096), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = cases[i].at, .l_len = 1 };
        REQUIRE_EQUAL(fcntl(fd, F_OFD_SETLK, &lock), 0);
        for (int f = 0; f < 4; f++) {
            struct svq_be_image *image = NULL;
            CHECK_EQUAL(svq_be_open_image(path, flags[f], &image, NULL), cases[i].refused[f]);
            CHECK(image || (strstr(svq_be_why(), path) && strstr(svq_be_why(), "somebody else")));
            svq_be_close_image(image);
        }
        lock.l_type = F_UNLCK;
        REQUIRE_EQUAL(fcntl(fd, F_OFD_SETLK, &lock), 0);
    }
    close(fd);
    unlink(path);
}

/* A file system without locks. */
static void refuse_locks(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_OFD_SETLK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOLCK),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = 6, .filter = filter };
    REQUIRE_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    REQUIRE_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST(no_locks, "Where there are no locks, an image is refused unless it is declared shareable")
{
    char path[] = "/tmp/svq-image-XXXXXX";
    int fd = mkstemp(path), status;
    REQUIRE_EQUAL(ftruncate(fd, 4096), 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        struct svq_be_image *image = NULL;
        refuse_locks();
        expect_refusal(path, 0, -ENOLCK, "has no locks");
        expect_refusal(path, SVQ_BE_READ_ONLY, -ENOLCK, "attach it as shareable");
        REQUIRE_EQUAL(svq_be_open_image(path, SVQ_BE_SHAREABLE, &image, NULL), 0);
        svq_be_close_image(image);
        _exit(0);
    }
    REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fd);
    unlink(path);
}

TEST(device_refused, "Unsound configurations and rings are refused, and nothing stays mapped")
{
    static struct rig rig;
    struct svq_be_device *dev = NULL;
    uint32_t refs[4] = { 500, 501, 502, 503 };
    rig_open(&rig, "/tmp", 8, 0);
    struct svq_be_config good = rig.config;
    for (int i = 0; i < 5; i++) {
        static const char *const words[] = { "queues", "queues", "window", "features", "cache_pages" };
        rig.config = good;
        rig.config.queues = i == 0 ? 0 : i == 1 ? 65 : 1;
        rig.config.window_count = i == 2 ? UINT32_MAX : 1;
        rig.config.features = i == 3 ? 0 : good.features;
        rig.config.cache_pages = i == 4 ? 100 : 0;
        REQUIRE_EQUAL(svq_be_create(fake_handle(), rig.image, &rig.config, &dev), -EINVAL);
        REQUIRE(!dev && strstr(svq_be_why(), words[i]));
    }
    rig.config = good;
    rig_attach(&rig, 16);
    REQUIRE_EQUAL(svq_be_queue_attach(rig.dev, 0, 16, refs, refs, refs, 1), -EBUSY);
    REQUIRE_EQUAL(svq_be_queue_attach(rig.dev, 1, 16, refs, refs, refs, 1), -EINVAL);
    rig_close(&rig);

    rig_open(&rig, "/tmp", 8, 0);
    rig.config.queues = 2;
    REQUIRE_EQUAL(svq_be_create(fake_handle(), rig.image, &rig.config, &rig.dev), 0);
    REQUIRE_EQUAL(svq_be_queue_attach(rig.dev, 0, 16, refs, refs, refs, 1), -EACCES);
    REQUIRE(strstr(svq_be_why(), "desc-ref-0 = 500"));
    REQUIRE_EQUAL(svq_be_queue_attach(rig.dev, 0, 24, refs, refs, refs, 1), -EINVAL);
    for (int i = 0; i < 4; i++)
        fake_grant(MEDIATOR, refs[i], fake_frames(1), i != 0);
    REQUIRE_EQUAL(svq_be_queue_attach(rig.dev, 0, 16, &refs[0], &refs[1], &refs[0], 1), -EACCES);
    REQUIRE_EQUAL(svq_be_queue_attach(rig.dev, 0, 16, &refs[0], &refs[1], &refs[2], 99), -ENOENT);
    REQUIRE(strstr(svq_be_why(), "event channel 99"));
    REQUIRE_EQUAL(fake_mapped(MEDIATOR), 0);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
