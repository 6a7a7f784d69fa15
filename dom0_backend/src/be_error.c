/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_error.h"

#include <stdarg.h>
#include <stdio.h>

#include "svq_backend.h"

static _Thread_local char why[SVQ_BE_TEXT_BYTES] = "no failure yet";

int svq_be_refuse(int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return error;
}

const char *svq_be_why(void) { return why; }

const char *svq_be_engine_name(int engine) { return engine == SVQ_BE_ENGINE_URING ? "io_uring" : "sync"; }
