/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waiting for completions: spin a while, then sleep on the event channel. */
#ifndef SVQ_DRV_WAIT_H
#define SVQ_DRV_WAIT_H

#include "drv_priv.h"

enum {
    SVQ_DRV_NAP_MS = 50, /* the longest sleep between two looks at svq_drv_progress.stop */
};

/*
 * Waits until some running queue may have completions, or until SVQ_DRV_NAP_MS or the time `deadline_ns` has passed.
 * Returns 0, or -errno if the event channel itself failed.
 */
int svq_drv_wait(struct svq_drv *d, uint64_t deadline_ns);

#endif
