/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
/* Opens an image and finds out its geometry. */
#include "be_image.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "be_blk.h"
#include "be_error.h"
#include "be_lock.h"

/* A number from the block layer's queue directory; for a partition, from its disk, one directory up. */
static uint64_t queue_limit(dev_t device, const char *name)
{
    uint64_t value = 0;
    char path[128];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/queue/%s", major(device), minor(device), name);
    FILE *file = fopen(path, "re");
    if (!file) {
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/../queue/%s", major(device), minor(device), name);
        file = fopen(path, "re");
    }
    if (!file)
        return 0;
    if (fscanf(file, "%" SCNu64, &value) != 1)
        value = 0;
    fclose(file);
    return value;
}

static int block_geometry(int fd, const struct stat *st, const char *path, struct svq_be_image_info *info)
{
    unsigned int physical = 0, min_io = 0, opt_io = 0;
    int logical = 0, offset = 0, write_protected = 0;
    if (ioctl(fd, BLKGETSIZE64, &info->capacity) || ioctl(fd, BLKSSZGET, &logical) || logical < SVQ_BE_SECTOR)
        return svq_be_refuse(-EIO, "image %s: the size of this block device cannot be read: %s", path, strerror(errno));
    if (!info->read_only && ioctl(fd, BLKROGET, &write_protected) == 0 && write_protected)
        return svq_be_refuse(-EROFS, "image %s: the block device is write-protected; attach it with mode r", path);
    info->is_block = 1;
    info->logical_block = (uint32_t)logical;
    if (ioctl(fd, BLKPBSZGET, &physical) == 0 && ioctl(fd, BLKIOMIN, &min_io) == 0 &&
        ioctl(fd, BLKIOOPT, &opt_io) == 0 && ioctl(fd, BLKALIGNOFF, &offset) == 0) {
        info->physical_block = physical;
        info->min_io = min_io;
        info->opt_io = opt_io;
        info->align_offset = offset > 0 ? (uint32_t)offset : 0;
    }
    info->can_discard = !info->read_only && queue_limit(st->st_rdev, "discard_max_bytes") > 0;
    info->discard_align = (uint32_t)queue_limit(st->st_rdev, "discard_granularity");
    return 0;
}

/* The smallest block that direct I/O on this file accepts: there is no portable way to ask, so try. */
static int direct_block(int fd, const char *path, uint32_t *block)
{
    void *buffer = NULL;
    int rc = 0;
    if (posix_memalign(&buffer, SVQ_PAGE_SIZE, SVQ_PAGE_SIZE))
        return svq_be_refuse(-ENOMEM, "image %s: out of memory", path);
    for (*block = SVQ_BE_SECTOR; *block <= SVQ_PAGE_SIZE; *block *= 2) {
        if (pread(fd, buffer, *block, *block) >= 0)
            break;
        if (errno != EINVAL) {
            rc = svq_be_refuse(-errno, "image %s: cannot be read: %s", path, strerror(errno));
            break;
        }
    }
    if (rc == 0 && *block > SVQ_PAGE_SIZE)
        rc = svq_be_refuse(-EINVAL, "image %s: its file system accepts no direct I/O in 4096-byte blocks", path);
    free(buffer);
    return rc;
}

static int file_geometry(int fd, const struct stat *st, const char *path, struct svq_be_image_info *info)
{
    info->logical_block = SVQ_BE_SECTOR;
    int rc;
    if (info->direct_io) {
        rc = direct_block(fd, path, &info->logical_block);
        if (rc)
            return rc;
    }
    info->capacity = (uint64_t)st->st_size;
    info->discard_align = (uint32_t)st->st_blksize;
    /* Punching a hole beyond the end changes nothing, but tells whether the file system can discard */
    info->can_discard = !info->read_only &&
                        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, st->st_size, SVQ_PAGE_SIZE) == 0;
    return 0;
}

static int look_at(int fd, const char *path, struct svq_be_image_info *info)
{
    struct stat st;
    if (fstat(fd, &st))
        return svq_be_refuse(-errno, "image %s: %s", path, strerror(errno));
    int rc;
    if (S_ISBLK(st.st_mode))
        rc = block_geometry(fd, &st, path, info);
    else if (S_ISREG(st.st_mode))
        rc = file_geometry(fd, &st, path, info);
    else
        rc = svq_be_refuse(-EINVAL, "image %s: is neither a regular file nor a block device", path);
    if (rc)
        return rc;
    info->capacity -= info->capacity % info->logical_block;
    if (info->capacity == 0)
        return svq_be_refuse(-EINVAL, "image %s: is smaller than one block of %" PRIu32 " bytes", path,
                             info->logical_block);
    if (info->capacity > INT64_MAX)
        return svq_be_refuse(-EFBIG, "image %s: is larger than 2^63 bytes", path);
    return 0;
}

/* O_NONBLOCK, so that a FIFO cannot hang us; then off again, or io_uring would return EAGAIN instead of waiting. */
static int open_quickly(const char *path, unsigned int flags)
{
    int mode = (flags & SVQ_BE_READ_ONLY ? O_RDONLY : O_RDWR) | (flags & SVQ_BE_DIRECT_IO ? O_DIRECT : 0);
    int fd = open(path, mode | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int error = errno;
    if (fd >= 0) {
        if (fcntl(fd, F_SETFL, mode & O_DIRECT) == 0)
            return fd;
        error = errno;
        close(fd);
    }
    if (error == EINVAL && flags & SVQ_BE_DIRECT_IO)
        return svq_be_refuse(-error, "image %s: its file system has no direct I/O", path);
    return svq_be_refuse(-error, "image %s: cannot be opened for %s: %s", path,
                         flags & SVQ_BE_READ_ONLY ? "reading" : "reading and writing", strerror(error));
}

int svq_be_open_image(const char *path, unsigned int flags, struct svq_be_image **out, struct svq_be_image_info *info)
{
    struct svq_be_image *image;
    if (flags & ~(unsigned int)(SVQ_BE_READ_ONLY | SVQ_BE_DIRECT_IO | SVQ_BE_FLUSH_FAILED | SVQ_BE_SHAREABLE))
        return svq_be_refuse(-EINVAL, "image %s: unknown open flags %#x", path, flags);
    image = calloc(1, sizeof *image);
    if (!image)
        return svq_be_refuse(-ENOMEM, "image %s: out of memory", path);
    image->info.read_only = !!(flags & SVQ_BE_READ_ONLY);
    image->info.direct_io = !!(flags & SVQ_BE_DIRECT_IO);
    atomic_init(&image->flush_failed, flags & SVQ_BE_FLUSH_FAILED);
    image->node_fd = -1;
    image->fd = open_quickly(path, flags);
    int rc = image->fd < 0 ? image->fd : look_at(image->fd, path, &image->info);
    if (rc == 0)
        rc = svq_be_lock_image(image, path, flags & SVQ_BE_SHAREABLE);
    if (rc) {
        svq_be_close_image(image);
        return rc;
    }
    if (info)
        *info = image->info;
    *out = image;
    return 0;
}

int svq_be_measure_image(struct svq_be_image *image, const char *path, struct svq_be_image_info *info)
{
    struct svq_be_image_info now = image->info;
    int rc = look_at(image->fd, path, &now);
    if (rc == 0) {
        image->info.capacity = now.capacity - now.capacity % image->info.logical_block;
        *info = image->info;
    }
    return rc;
}

int svq_be_flush_failed(const struct svq_be_image *image)
{
    return atomic_load_explicit(&image->flush_failed, memory_order_relaxed);
}

void svq_be_close_image(struct svq_be_image *image)
{
    if (!image)
        return;
    if (image->node_fd >= 0)
        close(image->node_fd);
    if (image->fd >= 0)
        close(image->fd);
    free(image);
}
