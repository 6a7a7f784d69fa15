/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver's side of its ledger. Without one (svq_drv_config.ledger) nothing here does anything. */
#ifndef SVQ_DRV_LEDGER_H
#define SVQ_DRV_LEDGER_H

#include "drv_priv.h"

/* Called at create: enters every page as the driver's own. */
void svq_drv_ledger_open(struct svq_drv *d);

/*
 * Gives away the request's data, and its slab slot at `slab`, with `slot`. Call it before the device can see the
 * request. What the device is to write gets a secret, which it must never see.
 */
void svq_drv_ledger_give(struct svq_drv *d, struct svq_drv_slot *slot, uint64_t slab, const struct svq_drv_req *req,
                         bool device_writes);

/* They are back. A second call does nothing. */
void svq_drv_ledger_back(struct svq_drv *d, struct svq_drv_slot *slot, int back);

#endif
