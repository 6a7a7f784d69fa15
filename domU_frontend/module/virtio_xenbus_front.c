// SPDX-License-Identifier: GPL-2.0-or-later
/* The front of a directory of ours: made with its XenBus device, freed when nothing of it is in flight any more. */
#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/module.h>
#include <linux/pm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "virtio_xenbus.h"

/* All fronts, at most one for a directory. Its lock is taken before a front's `lock`, and never held while waiting. */
LIST_HEAD(svq_fronts);
DEFINE_MUTEX(svq_fronts_lock);

static struct device *svq_root;			/* /sys/devices/virtio_xenbus, above the anchors */
static struct workqueue_struct *svq_reaper;	/* frees orphans, since their own works cannot */

/* In the watch thread. */
void svq_note_event(struct svq_front *front)
{
	unsigned long flags;

	/* See svq_show_state: only here does XenBus's copy of our state leave Initialising. */
	spin_lock_irqsave(&front->shown_lock, flags);
	if (front->xendev)
		front->xendev->state = front->shown_state;
	spin_unlock_irqrestore(&front->shown_lock, flags);
	svq_wake(front);
	mod_delayed_work(front->workqueue, &front->state_work, 0);
}

/* Watches everything in the mediator's directory, since more than its state may change: see svq_look_at_device. */
static void svq_watch_fired(struct xenbus_watch *watch, const char *path, const char *token)
{
	svq_note_event(container_of(watch, struct svq_front, watch));
}

static void svq_record_watch_fired(struct xenbus_watch *watch, const char *path, const char *token)
{
	svq_note_event(container_of(watch, struct svq_front, record_watch));
}

/* One unhandled event stands for all of them. */
static bool svq_watch_wanted(struct xenbus_watch *watch, const char *path, const char *token)
{
	return !watch->nr_pending;
}

static int svq_watch_start(struct xenbus_watch *watch, const char *path,
			   void (*fired)(struct xenbus_watch *watch, const char *path, const char *token))
{
	int err;

	watch->node = kstrdup(path, GFP_KERNEL);
	if (!watch->node)
		return -ENOMEM;
	watch->will_handle = svq_watch_wanted;
	watch->callback = fired;
	err = register_xenbus_watch(watch);
	if (err) {
		kfree(watch->node);
		watch->node = NULL;
	}
	return err;
}

static void svq_watch_stop(struct xenbus_watch *watch)
{
	if (!watch->node)
		return;
	unregister_xenbus_watch(watch);
	kfree(watch->node);
	watch->node = NULL;
}

int svq_front_watch(struct svq_front *front)
{
	int err;

	err = svq_watch_start(&front->watch, front->otherend, svq_watch_fired);
	if (!err)
		err = svq_watch_start(&front->record_watch, front->record_path, svq_record_watch_fired);
	return err;
}

void svq_front_unwatch(struct svq_front *front)
{
	svq_watch_stop(&front->watch);
	svq_watch_stop(&front->record_watch);
}

static void svq_state_work(struct work_struct *work)
{
	struct svq_front *front = container_of(to_delayed_work(work), struct svq_front, state_work);

	mutex_lock(&front->lock);
	svq_step(front);
	mutex_unlock(&front->lock);
	svq_front_check(front);
}

static void svq_anchor_release(struct device *anchor)
{
	struct svq_front *front = container_of(anchor, struct svq_front, anchor);

	if (front->workqueue)
		destroy_workqueue(front->workqueue);
	mutex_destroy(&front->lock);
	kfree(front->otherend);
	kfree(front->record_path);
	kfree(front->nodename);
	kfree(front);
}

#ifdef CONFIG_PM_SLEEP
/* This is another domain now, and nobody can reach the old one's memory here. A XenBus device has svq_resume. */
static int svq_anchor_restore(struct device *anchor)
{
	struct svq_front *front = container_of(anchor, struct svq_front, anchor);

	mutex_lock(&front->lock);
	if (!front->xendev && front->rings_out)
		svq_all_ended(front);
	mutex_unlock(&front->lock);
	return 0;
}

static const struct dev_pm_ops svq_anchor_pm_ops = {
	.restore = svq_anchor_restore,
};
#endif

static const struct device_type svq_anchor_type = {
	.name = "virtio_xenbus_anchor",
#ifdef CONFIG_PM_SLEEP
	.pm = &svq_anchor_pm_ops,
#endif
};

/* Stops everything and frees the front, which is in no list, has no device and no rings out. */
static void svq_front_free(struct svq_front *front)
{
	svq_front_unwatch(front);
	cancel_delayed_work_sync(&front->state_work);
	cancel_work_sync(&front->end_work);
	cancel_work_sync(&front->device_work);
	put_device(&front->anchor);
}

static void svq_free_work(struct work_struct *work)
{
	svq_front_free(container_of(work, struct svq_front, free_work));
	module_put(THIS_MODULE); /* svq_fronts_exit waits until this has returned */
}

static int svq_front_fill(struct svq_front *front, struct xenbus_device *xendev)
{
	int err;

	front->nodename = kstrdup(xendev->nodename, GFP_KERNEL);
	front->record_path = kasprintf(GFP_KERNEL, "shadowvq/%s", kbasename(xendev->nodename));
	front->otherend = kstrdup(xendev->otherend, GFP_KERNEL);
	/*
	 * Unbound: a work that waits for a driver must not delay the others. Freezable: after a restore, no work may
	 * read the old mediator's nodes before svq_resume. Not WQ_MEM_RECLAIM: a driver that is unbound flushes works
	 * of its own, which need not be that either.
	 */
	front->workqueue = alloc_workqueue("%s", WQ_UNBOUND | WQ_FREEZABLE, 0, dev_name(&xendev->dev));
	if (!front->nodename || !front->record_path || !front->otherend || !front->workqueue)
		return -ENOMEM;
	/* No bus sets a DMA mask; any guest page will do, so no address ever needs a bounce buffer. */
	err = dma_coerce_mask_and_coherent(&front->anchor, DMA_BIT_MASK(64));
	if (!err)
		err = dev_set_name(&front->anchor, "%s", dev_name(&xendev->dev));
	return err ? err : device_add(&front->anchor);
}

static struct svq_front *svq_front_new(struct xenbus_device *xendev)
{
	struct svq_front *front;
	int err;

	front = kzalloc(sizeof(*front), GFP_KERNEL);
	if (!front)
		return ERR_PTR(-ENOMEM);
	INIT_LIST_HEAD(&front->entry);
	INIT_DELAYED_WORK(&front->state_work, svq_state_work);
	INIT_WORK(&front->end_work, svq_end_work);
	INIT_WORK(&front->device_work, svq_device_work);
	INIT_WORK(&front->free_work, svq_free_work);
	atomic_set(&front->events, 0);
	init_waitqueue_head(&front->wait);
	mutex_init(&front->lock);
	spin_lock_init(&front->config_lock);
	spin_lock_init(&front->shown_lock);
	front->hold_until = jiffies;
	front->anchor.parent = svq_root;
	front->anchor.type = &svq_anchor_type;
	front->anchor.release = svq_anchor_release;
	device_initialize(&front->anchor);
	err = svq_front_fill(front, xendev);
	if (err) {
		put_device(&front->anchor);
		return ERR_PTR(err);
	}
	list_add(&front->entry, &svq_fronts);
	return front;
}

/* An orphan gets a XenBus device again, which keeps the module loaded from now on; perhaps with another mediator. */
static int svq_front_adopt(struct svq_front *front, struct xenbus_device *xendev)
{
	char *otherend = kstrdup(xendev->otherend, GFP_KERNEL);

	if (!otherend)
		return -ENOMEM;
	mutex_lock(&front->lock);
	kfree(front->otherend);
	front->otherend = otherend;
	front->removing = false;
	mutex_unlock(&front->lock);
	front->orphan = false;
	module_put(THIS_MODULE);
	return 0;
}

/* The front for a XenBus device that is being probed: an orphan that an earlier device left, or a new one. */
struct svq_front *svq_front_take(struct xenbus_device *xendev)
{
	struct svq_front *front;
	int err;

	mutex_lock(&svq_fronts_lock);
	list_for_each_entry(front, &svq_fronts, entry) {
		if (strcmp(front->nodename, xendev->nodename))
			continue;
		err = front->orphan ? svq_front_adopt(front, xendev) : -EBUSY;
		goto unlock;
	}
	front = svq_front_new(xendev);
	err = PTR_ERR_OR_ZERO(front);
unlock:
	mutex_unlock(&svq_fronts_lock);
	return err ? ERR_PTR(err) : front;
}

bool svq_front_is_empty(struct svq_front *front, void *arg)
{
	return !front->dev && !front->rings_out;
}

/* With svq_fronts_lock held, and without the front's: takes it off the list if it is empty. */
static bool svq_front_retire(struct svq_front *front)
{
	bool empty;

	mutex_lock(&front->lock);
	empty = !front->xendev && svq_front_is_empty(front, NULL);
	if (empty)
		front->dying = true;
	mutex_unlock(&front->lock);
	if (empty) {
		list_del_init(&front->entry);
		device_del(&front->anchor);
	}
	return empty;
}

/* Its XenBus device goes away: an empty front goes too, and any other front stays until it is empty. */
void svq_front_leave(struct svq_front *front)
{
	unsigned long flags;
	bool empty;

	mutex_lock(&svq_fronts_lock);
	mutex_lock(&front->lock);
	spin_lock_irqsave(&front->shown_lock, flags);
	/*
	 * XenBus writes Closed now unless it believes that the node already says so; prevent that while it is not true.
	 */
	if (front->xendev && !svq_front_is_empty(front, NULL))
		front->xendev->state = XenbusStateClosed;
	front->xendev = NULL;
	spin_unlock_irqrestore(&front->shown_lock, flags);
	mutex_unlock(&front->lock);
	empty = svq_front_retire(front);
	front->orphan = !empty;
	if (!empty)
		__module_get(THIS_MODULE);
	mutex_unlock(&svq_fronts_lock);
	if (empty)
		svq_front_free(front);
}

/* Each work of a front ends with this: an orphan that has become empty is freed. */
void svq_front_check(struct svq_front *front)
{
	bool empty = false;

	mutex_lock(&svq_fronts_lock);
	if (front->orphan)
		empty = svq_front_retire(front);
	if (empty) {
		front->orphan = false;
		queue_work(svq_reaper, &front->free_work);
	}
	mutex_unlock(&svq_fronts_lock);
}

int svq_fronts_init(void)
{
	svq_root = root_device_register("virtio_xenbus");
	if (IS_ERR(svq_root))
		return PTR_ERR(svq_root);
	svq_reaper = alloc_workqueue("virtio_xenbus", WQ_UNBOUND, 0);
	if (!svq_reaper) {
		root_device_unregister(svq_root);
		return -ENOMEM;
	}
	return 0;
}

void svq_fronts_exit(void)
{
	destroy_workqueue(svq_reaper);
	root_device_unregister(svq_root);
}
