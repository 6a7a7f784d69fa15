/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Virtio-blk requests as chains: header, data segments, status (virtio 5.2.6). */
#ifndef SVQ_DRV_BLK_H
#define SVQ_DRV_BLK_H

#include "drv_priv.h"

/*
 * Adds the request to the ring of `q`. Returns the head, or -ENOSPC (not now), or why it is refused (see svq_drv_run).
 */
int svq_drv_blk_add(struct svq_drv *d, struct svq_drv_queue *q, const struct svq_drv_req *req);

/* Sets *status to a completed request's status byte. 0, or -EBADMSG: the slot around it was overwritten. */
int svq_drv_blk_finish(const struct svq_drv *d, const struct svq_drv_queue *q, uint16_t head, uint32_t *status);

#endif
