/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages of ours that one backend sees, kept from one connection of a device to the next. A backend that keeps them
 * mapped costs us those that its device needs at once (rings and tables: once for each size that its frontend chooses),
 * and not as many again with each connection: what it has mapped cannot be freed (the kernel counts it against a limit
 * that all devices share), but it can be used again, for the same backend.
 *
 * For the control thread alone.
 */
#ifndef SVQ_ARENA_H
#define SVQ_ARENA_H

#include <stdint.h>

#include "svq.h"

/* Shares `pages` pages: refs[] and *va, full of zeros. May hand out some that were given back. */
int svq_arena_take(struct svq_arena *arena, uint32_t pages, int backend_may_write, uint32_t *refs, void **va);

/* Takes back what svq_arena_take has shared. NULL: nothing. */
void svq_arena_give(struct svq_arena *arena, void *va);

#endif
