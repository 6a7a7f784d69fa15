/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SVQ_BE_IMAGE_H
#define SVQ_BE_IMAGE_H

#include "svq_backend.h"

/* An open image; private to the backend, opaque in the public header. */
struct svq_be_image {
    int fd;
    struct svq_be_image_info info;
};

#endif
