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
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    return error;
}

const char *svq_be_why(void)
{
    return why;
}

const char *svq_be_fault_text(int fault)
{
    static const char *const texts[] = {
        [SVQ_BE_FAULT_NONE] = "no fault",
        [SVQ_BE_FAULT_AVAIL_IDX] = "the available index moved by more than the ring holds",
        [SVQ_BE_FAULT_HEAD_RANGE] = "an available entry names a descriptor beyond the table",
        [SVQ_BE_FAULT_HEAD_LIVE] = "a head was made available again before it was used",
        [SVQ_BE_FAULT_NEXT_RANGE] = "a next field names a descriptor beyond its table",
        [SVQ_BE_FAULT_LOOP] = "a descriptor chain is longer than its table: it loops",
        [SVQ_BE_FAULT_INDIRECT_OFF] = "an indirect descriptor, but INDIRECT_DESC was not accepted",
        [SVQ_BE_FAULT_INDIRECT_NESTED] = "an indirect descriptor inside an indirect table",
        [SVQ_BE_FAULT_INDIRECT_NEXT] = "a descriptor with both INDIRECT and NEXT",
        [SVQ_BE_FAULT_INDIRECT_SIZE] = "an indirect table that is no 1 to 512 whole entries, aligned to 16",
        [SVQ_BE_FAULT_INDIRECT_MAP] = "a page of an indirect table is not granted to the backend",
        [SVQ_BE_FAULT_ORDER] = "a device-readable descriptor after a device-writable one",
        [SVQ_BE_FAULT_ADDRESS] = "a descriptor address is no grant address, or runs beyond the last one",
        [SVQ_BE_FAULT_WINDOW] = "a descriptor of the grant window goes beyond it, or a table lies inside it",
        [SVQ_BE_FAULT_TOO_LONG] = "a chain has more descriptors or bytes than virtio allows",
        [SVQ_BE_FAULT_POOL_MAP] = "a mediator page is not granted with the access that its descriptor needs",
        [SVQ_BE_FAULT_UNMAP] = "the hypervisor refused to unmap a request's pages",
        [SVQ_BE_FAULT_EVTCHN] = "event channel notifications cannot be sent or received any more",
    };

    if (fault < 0 || (size_t)fault >= sizeof(texts) / sizeof(texts[0]))
        return "unknown fault";
    return texts[fault];
}

const char *svq_be_engine_name(int engine)
{
    return engine == SVQ_BE_ENGINE_URING ? "io_uring" : "sync";
}
