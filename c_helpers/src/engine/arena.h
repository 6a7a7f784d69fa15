/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages of ours that one backend sees, kept from one connection of a device to the next. Pages that a backend keeps
 * mapped cannot be freed, and the kernel counts them against a limit that all devices share; but we can use them again
 * for the same backend. So such a backend costs us what its device needs at once (rings and tables: once for each size
 * that its frontend chooses), not as much again with each connection.
 *
 * For the control thread alone.
 */
#ifndef SVQ_ARENA_H
#define SVQ_ARENA_H

#include <stdint.h>

#include "svq.h"

/* Shares `pages` pages, all zeros: sets refs[] and *va. May reuse pages that were given back. */
int svq_arena_take(struct svq_arena *arena, uint32_t pages, int backend_may_write, uint32_t *refs, void **va);

/* Takes back what svq_arena_take shared. NULL: does nothing. */
void svq_arena_give(struct svq_arena *arena, void *va);

#endif
