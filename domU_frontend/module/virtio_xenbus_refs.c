// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The runs of grant references that mediators write to. The kernel hands out entries of the grant table without looking
 * at them, so we have to reserve what a mediator will use. Each mediator's domain has one run for all its devices; we
 * keep a run that no device uses for the next one.
 */
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <xen/grant_table.h>

#include "virtio_xenbus.h"

/* The smallest run that we try: one frame of the table. */
#define SVQ_REFS_LEAST 512U
#define SVQ_REFS_PER_FRAME (XEN_PAGE_SIZE / sizeof(struct grant_entry_v1))

static LIST_HEAD(svq_refs_runs);
static DEFINE_MUTEX(svq_refs_lock); /* held for an allocation, never while waiting for anybody */

static void svq_refs_free(struct svq_refs *run)
{
	gnttab_free_grant_reference_seq(run->first, run->count);
	list_del(&run->entry);
	kfree(run);
}

static void svq_refs_free_unused(void)
{
	struct svq_refs *run, *next;

	list_for_each_entry_safe(run, next, &svq_refs_runs, entry)
		if (!run->users)
			svq_refs_free(run);
}

/* Reserves `wanted` references, or half, and so on, until that many are free. */
static struct svq_refs *svq_refs_reserve(domid_t mediator, u32 wanted)
{
	/*
	 * The allocator counts in 32 bits and does not check: a mediator that asks for all of them must not break it.
	 */
	u64 most = (u64)gnttab_max_grant_frames() * SVQ_REFS_PER_FRAME;
	struct svq_refs *run;

	run = kzalloc(sizeof(*run), GFP_KERNEL);
	if (!run)
		return NULL;
	run->mediator = mediator;
	run->count = max_t(u64, min_t(u64, wanted, most), SVQ_MIN_VIRTIO_FRONT_GRANT_REFS_COUNT);
	while (gnttab_alloc_grant_reference_seq(run->count, &run->first)) {
		if (run->count <= SVQ_REFS_LEAST) {
			kfree(run);
			return NULL;
		}
		run->count = max(run->count / 2, SVQ_REFS_LEAST);
	}
	list_add(&run->entry, &svq_refs_runs);
	return run;
}

/* A run in use keeps its size, whatever the next device wants. */
static struct svq_refs *svq_refs_find(domid_t mediator, u32 wanted)
{
	struct svq_refs *run;

	list_for_each_entry(run, &svq_refs_runs, entry)
		if (run->mediator == mediator && (run->users || run->count >= wanted))
			return run;
	svq_refs_free_unused();
	return svq_refs_reserve(mediator, wanted);
}

/* Call it before rings are published; the front keeps the run until svq_refs_put. */
void svq_refs_get(struct svq_front *front)
{
	u32 wanted = front->offer.grant_refs_wanted;

	if (!wanted || !front->xendev)
		return;
	mutex_lock(&svq_refs_lock);
	front->refs = svq_refs_find(front->xendev->otherend_id, wanted);
	if (front->refs)
		front->refs->users++;
	else
		pr_warn_once("virtio_xenbus: this guest has no %u consecutive free grant references: its mediators have to do without\n",
			     min(wanted, SVQ_REFS_LEAST));
	mutex_unlock(&svq_refs_lock);
}

/* Call it when nothing is granted for this front's device any more. */
void svq_refs_put(struct svq_front *front)
{
	if (!front->refs)
		return;
	mutex_lock(&svq_refs_lock);
	front->refs->users--;
	front->refs = NULL;
	mutex_unlock(&svq_refs_lock);
}

/* A front that uses a run keeps the module loaded, so no run is in use. */
void svq_refs_exit(void)
{
	svq_refs_free_unused();
}
