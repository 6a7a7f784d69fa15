/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who else may use an image while we do: locks on single bytes of it, the same as QEMU's (block/file-posix.c), so that
 * QEMU and we keep each other out. They belong to the open file, whatever path leads to it, until it is closed.
 */
#ifndef SVQ_BE_LOCK_H
#define SVQ_BE_LOCK_H

#include <stdbool.h>

#include "be_image.h"

/*
 * Takes the locks of an open image. -EBUSY: somebody else's locks conflict with them. For a block device this also
 * locks the node in /dev (image->node_fd), since each node is a file of its own; and a writer claims the device itself,
 * as a mount does.
 */
int svq_be_lock_image(struct svq_be_image *image, const char *path, bool shareable);

#endif
