/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One queue's memory and its life: set up, start, reset. */
#ifndef SVQ_DRV_QUEUE_H
#define SVQ_DRV_QUEUE_H

#include "drv_priv.h"

/* Takes pages for ring, slabs and tables, and a port. If it fails, svq_drv_queue_close frees what it took so far. */
int svq_drv_queue_open(struct svq_drv *d, struct svq_drv_queue *q);
void svq_drv_queue_close(struct svq_drv_queue *q);

/* Empties the ring and forgets all requests. */
void svq_drv_queue_start(struct svq_drv *d, struct svq_drv_queue *q, uint32_t size);

#endif
