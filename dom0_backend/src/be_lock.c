/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "be_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "be_error.h"

/* Permissions as QEMU numbers them; it has more, for operations that nobody does on a guest's raw image. */
enum { MAY_READ, MAY_WRITE, PERMISSIONS };

/* All locks are read locks. To find out whether anybody else has one, ask for a write lock. */
enum {
    USED_AT = 100,     /* + permission: somebody uses it */
    UNSHARED_AT = 200, /* + permission: nobody else may use it */
};

struct use {
    bool used[PERMISSIONS];
    bool unshared[PERMISSIONS];
};

static struct flock byte_lock(short type, int at)
{
    return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
}

static int busy(const char *path, int at, pid_t pid)
{
    const char *how = at == USED_AT + MAY_WRITE ? "is written to" : "is in use, and not shared,";
    char process[32] = "";
    if (pid > 0) /* locks of open files have no process; other programs' locks may */
        snprintf(process, sizeof process, " (process %d)", (int)pid);
    return svq_be_refuse(-EBUSY, "image %s: %s by somebody else%s", path, how, process);
}

static int take(int fd, const char *path, int at)
{
    struct flock lock = byte_lock(F_RDLCK, at);
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return busy(path, at, 0);
    return svq_be_refuse(-ENOLCK,
                         "image %s: its file system has no locks (%s), so we cannot keep a second writer out; "
                         "attach it as shareable if something else does",
                         path, strerror(errno));
}

/* Does anybody else have a lock on that byte? */
static int check(int fd, const char *path, int at)
{
    struct flock lock = byte_lock(F_WRLCK, at);
    if (fcntl(fd, F_OFD_GETLK, &lock))
        return svq_be_refuse(-ENOLCK, "image %s: its locks cannot be read: %s", path, strerror(errno));
    return lock.l_type == F_UNLCK ? 0 : busy(path, at, lock.l_pid);
}

/* Takes all locks first, then looks at those of others: if two do this at once, at least one sees the other. */
static int lock_file(int fd, const char *path, const struct use *use)
{
    int rc = 0;
    for (int i = 0; i < PERMISSIONS && rc == 0; i++) {
        if (use->used[i])
            rc = take(fd, path, USED_AT + i);
        if (rc == 0 && use->unshared[i])
            rc = take(fd, path, UNSHARED_AT + i);
    }
    for (int i = 0; i < PERMISSIONS && rc == 0; i++) {
        if (use->unshared[i])
            rc = check(fd, path, USED_AT + i);
        if (rc == 0 && use->used[i])
            rc = check(fd, path, UNSHARED_AT + i);
    }
    return rc;
}

/* The kernel's name of a block device; false: it has none. */
static bool node_name(dev_t device, char *name, size_t bytes)
{
    char path[64], line[128];
    bool found = false;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/uevent", major(device), minor(device));
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        found = strncmp(line, "DEVNAME=", 8) == 0;
    }
    if (file)
        fclose(file);
    snprintf(name, bytes, "/dev/%s", found ? line + 8 : "");
    return found;
}

/* Locks of two open files belong to two holders, even if both are the same file. */
static bool same_file(int fd, int other)
{
    struct stat st, other_st;
    return fstat(fd, &st) == 0 && fstat(other, &other_st) == 0 && st.st_dev == other_st.st_dev &&
           st.st_ino == other_st.st_ino;
}

/*
 * Opens a block device's standard node, or else the one that the operator named. -errno: already claimed, or another
 * failure.
 */
static int open_node(struct svq_be_image *image, const char *path, dev_t device, bool claim)
{
    int mode = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (claim ? O_EXCL : 0);
    char name[160];
    struct stat st;
    if (!node_name(device, name, sizeof name) || stat(name, &st) || !S_ISBLK(st.st_mode) || st.st_rdev != device)
        snprintf(name, sizeof name, "/proc/self/fd/%d", image->fd);
    image->node_fd = open(name, mode);
    if (image->node_fd >= 0)
        return 0;
    if (errno == EBUSY)
        return svq_be_refuse(-EBUSY,
                             "image %s: the block device is in use: mounted, part of a volume, or written to "
                             "by somebody else",
                             path);
    return svq_be_refuse(-errno, "image %s: %s cannot be opened: %s", path, name, strerror(errno));
}

int svq_be_lock_image(struct svq_be_image *image, const char *path, bool shareable)
{
    bool writes = !image->info.read_only;
    struct use use = { .used = { true, writes }, .unshared = { false, !shareable } };
    struct stat st;
    int rc = 0;
    if (fstat(image->fd, &st))
        return svq_be_refuse(-errno, "image %s: %s", path, strerror(errno));
    if (S_ISBLK(st.st_mode))
        rc = open_node(image, path, st.st_rdev, writes && !shareable);
    if (rc == 0 && image->node_fd >= 0)
        rc = lock_file(image->node_fd, path, &use);
    if (rc == 0 && (image->node_fd < 0 || !same_file(image->fd, image->node_fd)))
        rc = lock_file(image->fd, path, &use);
    return rc == -ENOLCK && shareable ? 0 : rc;
}
