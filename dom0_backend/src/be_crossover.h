/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Up to which size the hypervisor's own copy is cheaper than a mapping: that depends on the machine (the price of a
 * flush, of a hypercall, of a byte), so it is measured there.
 */
#ifndef SVQ_BE_CROSSOVER_H
#define SVQ_BE_CROSSOVER_H

#include "svq_backend.h"
#include "svq_hv.h"

/*
 * Measures on one page that `domid` grants us, in at most some 20 ms. 0, or -errno: the page cannot be mapped, or not
 * be copied (-ENOSYS: this host has no grant copy).
 */
int svq_be_crossover_measure(struct svq_hv *hv, uint16_t domid, uint32_t gref, struct svq_be_crossover *out);

/* The same, measured once for the process; later calls return what the first one found. */
int svq_be_crossover_get(struct svq_hv *hv, uint16_t domid, uint32_t gref, struct svq_be_crossover *out);
/* Tries a single copy of that page. 0 or -errno. */
int svq_be_crossover_try(struct svq_hv *hv, uint16_t domid, uint32_t gref);
/* Has it measured again. For tests. */
void svq_be_crossover_forget(void);

/* What follows from three times: the pages (0 to SVQ_BE_COPY_PAGES_MAX) that are copied in less than `map_ns`. */
uint32_t svq_be_crossover_pages(uint64_t map_ns, uint64_t copy_ns, uint64_t copy_16_ns);

#endif
