/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The project's harness, and a macro for comparisons that the rest of a test depends on. */
#ifndef SVQ_BE_TEST_H
#define SVQ_BE_TEST_H

#include <stdbool.h>
#include <stdint.h>

#include "svq_test.h"

#define REQUIRE_EQUAL(a, b)                                                                                            \
    do {                                                                                                               \
        if (!CHECK_EQUAL(a, b))                                                                                        \
            exit(EXIT_FAILURE);                                                                                        \
    } while (0)

#endif
