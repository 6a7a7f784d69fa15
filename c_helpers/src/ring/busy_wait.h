/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long a thread looks for work before it sleeps. The time grows if looking a little longer would have caught the
 * event that ended a short sleep, and shrinks if it would not have. (The idea of KVM's halt polling.)
 *
 * Where the domain that has the work shares its processor with us, looking keeps it from working: each look is in vain,
 * and the event comes soon after we sleep. A thread that meets this LOST_MAX times in a row does not look for a while.
 */
#ifndef SVQ_BUSY_WAIT_H
#define SVQ_BUSY_WAIT_H

#include <stdbool.h>
#include <stdint.h>

struct svq_busy_wait {
    uint64_t ns;     /* at present; 0: sleep at once */
    uint64_t max_ns; /* 0: always sleep at once */
    uint32_t lost;   /* how often in a row looking for max_ns found nothing, and a short sleep did */
    uint32_t rest;   /* sleeps until we try looking again; 0: we look */
    uint32_t rests;  /* the next rest's length is REST_MIN shifted left by this */
};

enum {
    SVQ_BUSY_WAIT_STEPS = 8, /* the first step up from 0 is max_ns divided by this; less than that is 0 */
    SVQ_BUSY_WAIT_LOST_MAX = 8,
    SVQ_BUSY_WAIT_REST_MIN = 64,
    SVQ_BUSY_WAIT_RESTS_MAX = 6, /* the longest rest is 4096 sleeps */
};

static inline struct svq_busy_wait svq_busy_wait_up_to(uint32_t max_us)
{
    uint64_t max_ns = (uint64_t)max_us * 1000;
    return (struct svq_busy_wait){ .ns = max_ns, .max_ns = max_ns };
}

/* Call it when work was found after looking for that long. Longer than we look: another domain had our processor. */
static inline void svq_busy_wait_won(struct svq_busy_wait *wait, uint64_t looked_ns)
{
    if (looked_ns <= wait->ns)
        wait->lost = wait->rests = 0;
}

/* The sleep was short. True: looking is in vain here. */
static inline bool svq_busy_wait_lost(struct svq_busy_wait *wait)
{
    if (wait->ns < wait->max_ns || ++wait->lost < SVQ_BUSY_WAIT_LOST_MAX)
        return false;
    wait->ns = wait->lost = 0;
    wait->rest = SVQ_BUSY_WAIT_REST_MIN << wait->rests;
    if (wait->rests < SVQ_BUSY_WAIT_RESTS_MAX)
        wait->rests++;
    return true;
}

/* Call it after each sleep that an event ended. */
static inline void svq_busy_wait_adapt(struct svq_busy_wait *wait, uint64_t slept_ns)
{
    if (wait->max_ns == 0)
        return;
    if (wait->rest) {
        if (--wait->rest == 0)
            wait->ns = wait->max_ns;
        return;
    }
    if (slept_ns < wait->max_ns && svq_busy_wait_lost(wait))
        return;
    uint64_t step = wait->max_ns / SVQ_BUSY_WAIT_STEPS;
    wait->ns = slept_ns < wait->max_ns ? wait->ns * 2 + step : wait->ns / 2;
    if (wait->ns > wait->max_ns)
        wait->ns = wait->max_ns;
    else if (wait->ns < step)
        wait->ns = 0;
}

#endif
