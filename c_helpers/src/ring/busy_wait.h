/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long a thread looks for work before it sleeps. The time grows if looking a little longer would have caught the
 * event that ended a short sleep, and shrinks if it would not have. (The idea of KVM's halt polling.)
 */
#ifndef SVQ_BUSY_WAIT_H
#define SVQ_BUSY_WAIT_H

#include <stdint.h>

struct svq_busy_wait {
    uint64_t ns;     /* at present; 0: sleep at once */
    uint64_t max_ns; /* 0: always sleep at once */
};

enum { SVQ_BUSY_WAIT_STEPS = 8 }; /* the first step up from 0 is max_ns divided by this; less than that is 0 */

static inline struct svq_busy_wait svq_busy_wait_up_to(uint32_t max_us)
{
    uint64_t max_ns = (uint64_t)max_us * 1000;
    return (struct svq_busy_wait){ .ns = max_ns, .max_ns = max_ns };
}

/* Call it after each sleep that an event ended. */
static inline void svq_busy_wait_adapt(struct svq_busy_wait *wait, uint64_t slept_ns)
{
    uint64_t step = wait->max_ns / SVQ_BUSY_WAIT_STEPS;
    wait->ns = slept_ns < wait->max_ns ? wait->ns * 2 + step : wait->ns / 2;
    if (wait->ns > wait->max_ns)
        wait->ns = wait->max_ns;
    else if (wait->ns < step)
        wait->ns = 0;
}

#endif
