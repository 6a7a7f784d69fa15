// SPDX-License-Identifier: GPL-2.0-or-later
/* The XenBus driver: finding devices, registering them as virtio devices, and taking them away. */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/pm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#include "compat.h"
#include "virtio_xenbus.h"

#define SVQ_VENDOR_XEN 0x5853 /* as of Xen's PCI devices; no driver asks */

unsigned int svq_peer_timeout_s = 30;
module_param_named(peer_timeout_s, svq_peer_timeout_s, uint, 0644);
MODULE_PARM_DESC(peer_timeout_s,
		 "How long to wait for the mediator to connect, stop or reset a queue, in seconds");

static void svq_release(struct device *device)
{
	kfree(svq_of(dev_to_virtio(device)));
}

#ifdef CONFIG_PM_SLEEP
/* The virtio bus leaves suspend to us. A frozen device has no request in flight and no ring with the mediator. */
static int svq_freeze(struct device *device)
{
	return virtio_device_freeze(dev_to_virtio(device));
}

static int svq_restore(struct device *device)
{
	return virtio_device_restore(dev_to_virtio(device));
}
#endif

static const struct dev_pm_ops svq_pm_ops = {
	SET_SYSTEM_SLEEP_PM_OPS(svq_freeze, svq_restore)
};

static const struct device_type svq_device_type = {
	.name = "virtio_xenbus",
	.pm = &svq_pm_ops,
};

/* Makes a virtio device of the offer and lets the driver core find it a driver. Without `lock`. */
static void svq_register(struct svq_front *front, struct svq_vdev *dev)
{
	int err;

	err = register_virtio_device(&dev->vdev);
	if (!err)
		return;
	dev_err(&front->xendev->dev, "cannot register a virtio device: %d\n", err);
	mutex_lock(&front->lock);
	front->refused = true;
	front->lost = false;
	front->dev = NULL;
	svq_begin_close(front, true);
	mutex_unlock(&front->lock);
	put_device(&dev->vdev.dev);
}

/* Waits for the driver to let go. Without `lock`. */
static void svq_unregister(struct svq_front *front)
{
	struct svq_vdev *dev = front->dev;

	/* The other works find the device by `dev` until it is cleared. */
	get_device(&dev->vdev.dev);
	unregister_virtio_device(&dev->vdev);
	mutex_lock(&front->lock);
	front->dev = NULL;
	front->status = 0;
	front->lost = false;
	mutex_unlock(&front->lock);
	put_device(&dev->vdev.dev);
}

static struct svq_vdev *svq_new_device(struct svq_front *front)
{
	struct svq_vdev *dev;

	dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return NULL;
	dev->front = front;
	dev->vdev.id.device = front->offer.device_type;
	dev->vdev.id.vendor = SVQ_VENDOR_XEN;
	dev->vdev.config = &svq_config_ops;
	dev->vdev.dev.parent = &front->xendev->dev; /* which also is the device that DMA mappings are made for */
	dev->vdev.dev.type = &svq_device_type;
	dev->vdev.dev.release = svq_release;
	return dev;
}

/* The only one, besides svq_remove, who registers and unregisters. */
static void svq_device_work(struct work_struct *work)
{
	struct svq_front *front = container_of(work, struct svq_front, device_work);
	struct svq_vdev *fresh = NULL;
	bool gone;

	mutex_lock(&front->lock);
	gone = front->dev && front->lost && !front->removing;
	if (!front->dev && front->phase == SVQ_OFFERED && !front->removing) {
		fresh = svq_new_device(front);
		front->dev = fresh;
		if (!fresh)
			svq_lose(front, "no memory"); /* and so try again, after a pause */
	}
	mutex_unlock(&front->lock);

	if (fresh)
		svq_register(front, fresh);
	if (!gone)
		return;
	svq_unregister(front);
	mutex_lock(&front->lock);
	svq_step(front);
	mutex_unlock(&front->lock);
}

static void svq_abort_work(struct work_struct *work)
{
	struct svq_front *front = container_of(work, struct svq_front, abort_work);

	if (!svq_wait(front, svq_is_stopped, NULL))
		dev_crit(&front->xendev->dev, "no stop in %u s: failing its requests nevertheless\n",
			 svq_peer_timeout_s);
	mutex_lock(&front->lock);
	if (front->dev && front->lost)
		svq_abort_requests(front->dev);
	mutex_unlock(&front->lock);
}

static void svq_state_work(struct work_struct *work)
{
	struct svq_front *front = container_of(to_delayed_work(work), struct svq_front, state_work);

	mutex_lock(&front->lock);
	svq_step(front);
	mutex_unlock(&front->lock);
}

/* Everything in the mediator's directory, for what besides its state may change: see svq_look_at_device. */
static void svq_watch_fired(struct xenbus_watch *watch, const char *path, const char *token)
{
	svq_note_event(container_of(watch, struct svq_front, watch));
}

/* One event that still waits to be handled stands for all of them. */
static bool svq_watch_wanted(struct xenbus_watch *watch, const char *path, const char *token)
{
	return !watch->nr_pending;
}

static int svq_watch_start(struct svq_front *front)
{
	char *path;
	int err;

	path = kstrdup(front->xendev->otherend, GFP_KERNEL);
	if (!path)
		return -ENOMEM;
	err = xenbus_watch_path(front->xendev, path, &front->watch, svq_watch_wanted, svq_watch_fired);
	if (err)
		kfree(path);
	return err;
}

static void svq_watch_stop(struct svq_front *front)
{
	if (!front->watch.node)
		return;
	unregister_xenbus_watch(&front->watch);
	kfree(front->watch.node);
	front->watch.node = NULL;
}

/* In the watch thread. */
static void svq_otherend_changed(struct xenbus_device *xendev, enum xenbus_state state)
{
	svq_note_event(dev_get_drvdata(&xendev->dev));
}

static void svq_front_free(struct svq_front *front)
{
	destroy_workqueue(front->workqueue);
	mutex_destroy(&front->lock);
	kfree(front->otherend);
	kfree(front);
}

static struct svq_front *svq_front_new(struct xenbus_device *xendev)
{
	struct svq_front *front;

	front = kzalloc(sizeof(*front), GFP_KERNEL);
	if (!front)
		return NULL;
	front->otherend = kstrdup(xendev->otherend, GFP_KERNEL);
	/*
	 * Unbound: a work that waits for a driver must not hold up the others. Freezable: after a restore, none
	 * may look at the nodes of the mediator that was, before svq_resume. Not WQ_MEM_RECLAIM: a driver that is
	 * unbound flushes works of its own, which need not be that either.
	 */
	front->workqueue = alloc_workqueue("%s", WQ_UNBOUND | WQ_FREEZABLE, 0, dev_name(&xendev->dev));
	if (!front->otherend || !front->workqueue) {
		if (front->workqueue)
			destroy_workqueue(front->workqueue);
		kfree(front->otherend);
		kfree(front);
		return NULL;
	}
	front->xendev = xendev;
	INIT_DELAYED_WORK(&front->state_work, svq_state_work);
	INIT_WORK(&front->abort_work, svq_abort_work);
	INIT_WORK(&front->device_work, svq_device_work);
	atomic_set(&front->events, 0);
	init_waitqueue_head(&front->wait);
	mutex_init(&front->lock);
	spin_lock_init(&front->config_lock);
	spin_lock_init(&front->shown_lock);
	front->hold_until = jiffies;
	return front;
}

/* Our directory may still tell of a driver before us: then its connection has to be closed first. */
static int svq_adopt_state(struct svq_front *front)
{
	int state;

	state = svq_node_own_state(front);
	if (state < 0)
		return state;
	front->own_state = state;
	front->shown_state = state;
	front->xendev->state = state;
	switch (state) {
	case XenbusStateInitialising:
		front->phase = SVQ_WAITING;
		return 0;
	case XenbusStateClosed:
		front->phase = SVQ_CLOSED;
		return 0;
	case XenbusStateUnknown:
		return -ENODEV;
	default:
		front->phase = SVQ_CLOSING;
		return svq_node_switch(front, XenbusStateClosing);
	}
}

static int svq_probe(struct xenbus_device *xendev, const struct xenbus_device_id *id)
{
	struct svq_front *front;
	int err;

	/* XenBus sets no DMA mask; any guest page will do, so nothing ever bounces for its address. */
	err = dma_coerce_mask_and_coherent(&xendev->dev, DMA_BIT_MASK(64));
	if (err)
		return err;
	front = svq_front_new(xendev);
	if (!front)
		return -ENOMEM;
	err = svq_adopt_state(front);
	if (err)
		goto free;
	dev_set_drvdata(&xendev->dev, front);
	err = svq_watch_start(front);
	if (err)
		goto stop;
	return 0;

stop:
	front->dying = true;
	cancel_delayed_work_sync(&front->state_work);
	dev_set_drvdata(&xendev->dev, NULL);
free:
	svq_front_free(front);
	return err;
}

static void svq_remove(struct xenbus_device *xendev)
{
	struct svq_front *front = dev_get_drvdata(&xendev->dev);
	int state;

	mutex_lock(&front->lock);
	front->removing = true;
	/* If the directory is no longer ours, neither is the mediator's service. */
	state = svq_node_own_state(front);
	if (state == XenbusStateUnknown ||
	    (state == XenbusStateInitialising && front->own_state != XenbusStateInitialising)) {
		front->disowned = true;
		svq_lose(front, "it was removed");
	}
	mutex_unlock(&front->lock);
	svq_wake(front);

	/* The other two works go on: a driver that is being bound or unbound may need them to end its requests. */
	cancel_work_sync(&front->device_work);
	if (front->dev)
		svq_unregister(front);

	mutex_lock(&front->lock);
	front->dying = true;
	mutex_unlock(&front->lock);
	svq_watch_stop(front);
	cancel_delayed_work_sync(&front->state_work);
	cancel_work_sync(&front->abort_work);
	cancel_work_sync(&front->device_work);
	dev_set_drvdata(&xendev->dev, NULL);
	svq_front_free(front);
}

/*
 * After a restore, perhaps on another host: event channels are gone, and the mediator is another one. The device
 * was frozen before, so it has nothing in flight; when it is restored after us, its reset waits for the new
 * offer.
 */
static int svq_resume(struct xenbus_device *xendev)
{
	struct svq_front *front = dev_get_drvdata(&xendev->dev);
	char *otherend;
	int err;

	otherend = kstrdup(xendev->otherend, GFP_KERNEL);
	if (!otherend)
		return -ENOMEM;
	svq_watch_stop(front);
	mutex_lock(&front->lock);
	kfree(front->otherend);
	front->otherend = otherend;
	front->disowned = false;
	front->refused = false;
	front->failures = 0;
	if (front->rings_out) {
		front->rings_out = false;
		svq_lose(front, "its driver does not survive a restore");
	}
	err = svq_adopt_state(front);
	mutex_unlock(&front->lock);
	return err ? err : svq_watch_start(front);
}

static const struct xenbus_device_id svq_ids[] = {
	{ "virtio" },
	{ "" },
};

static struct xenbus_driver svq_driver = {
	.name = "virtio_xenbus",
	.ids = svq_ids,
	.not_essential = true, /* a boot does not wait minutes for a device that nobody drives */
	.probe = svq_probe,
	.remove = svq_remove,
	.resume = svq_resume,
	.otherend_changed = svq_otherend_changed,
};

static int __init svq_init(void)
{
	if (!xen_domain())
		return -ENODEV;
	if (xen_pv_domain()) {
		pr_err("virtio_xenbus: a PV guest has no guest physical addresses that the mediator could map\n");
		return -ENODEV;
	}
	return xenbus_register_frontend(&svq_driver);
}
module_init(svq_init);

static void __exit svq_exit(void)
{
	xenbus_unregister_driver(&svq_driver);
}
module_exit(svq_exit);

MODULE_DESCRIPTION("virtio over XenBus and event channels");
MODULE_AUTHOR("The ShadowVQ developers");
MODULE_LICENSE("GPL");
MODULE_ALIAS("xen:virtio");
