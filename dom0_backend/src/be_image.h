/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SVQ_BE_IMAGE_H
#define SVQ_BE_IMAGE_H

#include <stdatomic.h>

#include "svq_backend.h"

/* An open image; private to the backend, opaque in the public header. */
struct svq_be_image {
    int fd;
    int node_fd;              /* a block device, opened again for its locks; -1: none */
    atomic_bool flush_failed; /* set by a device's thread, and never cleared */
    struct svq_be_image_info info;
};

#endif
