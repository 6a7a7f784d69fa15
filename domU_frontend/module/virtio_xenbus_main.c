// SPDX-License-Identifier: GPL-2.0-or-later
/* The XenBus driver: devices come and go, the domain is restored elsewhere, the system shuts down. */
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <xen/xen.h>
#include <xen/xenbus.h>

#include "virtio_xenbus.h"

/* How long drivers may take to let go of their devices during a shutdown. */
#define SVQ_HALT_GRACE (2 * HZ)
#define SVQ_HALT_POLL_MS 50

/* The system shuts down, and this domain with it: nothing waits any more. */
bool svq_halting;

/* XenBus has one thread for all watches of all devices. We know it as soon as one of our watches has fired. */
static struct task_struct *svq_watch_thread;

/* In the watch thread. */
static void svq_otherend_changed(struct xenbus_device *xendev, enum xenbus_state state)
{
	WRITE_ONCE(svq_watch_thread, current);
	svq_note_event(dev_get_drvdata(&xendev->dev));
}

/* Our directory may still show the state of an earlier driver: then we have to close its connection first. */
int svq_adopt_state(struct svq_front *front)
{
	int state;

	state = svq_node_own_state(front);
	if (state < 0)
		return state;
	front->own_state = state;
	svq_show_state(front, state, true);
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
		front->closing_at = jiffies;
		return svq_node_switch(front, XenbusStateClosing);
	}
}

/* Gives a front, new or orphaned, to its XenBus device. */
static int svq_bind(struct svq_front *front, struct xenbus_device *xendev)
{
	unsigned long flags;
	int err = 0;

	mutex_lock(&front->lock);
	spin_lock_irqsave(&front->shown_lock, flags);
	front->xendev = xendev;
	spin_unlock_irqrestore(&front->shown_lock, flags);
	if (svq_front_is_empty(front, NULL)) {
		front->disowned = false;
		err = svq_adopt_state(front);
	} else {
		/* An orphan goes on where it stands; a recreated directory has to wait until that is over. */
		svq_node_check_own(front);
		svq_show_state(front, front->disowned ? XenbusStateInitialising : front->own_state, true);
	}
	mutex_unlock(&front->lock);
	return err;
}

static int svq_probe(struct xenbus_device *xendev, const struct xenbus_device_id *id)
{
	struct svq_front *front;
	int err;

	front = svq_front_take(xendev);
	if (IS_ERR(front))
		return PTR_ERR(front);
	dev_set_drvdata(&xendev->dev, front);
	err = svq_bind(front, xendev);
	if (!err) {
		svq_front_unwatch(front);
		err = svq_front_watch(front);
	}
	if (err) {
		dev_set_drvdata(&xendev->dev, NULL);
		svq_front_leave(front);
	}
	return err;
}

/* For somebody who unbinds us by hand and holds a lock: stop waiting if the watch thread needs that lock. */
static bool svq_may_leave(struct svq_front *front, void *arg)
{
	svq_node_check_own(front);
	return svq_front_is_empty(front, NULL) || front->disowned;
}

/*
 * Takes the device away from its driver, and closes. What cannot end now goes on without a XenBus device: nobody waits
 * for that, least of all the watch thread, which serves all other devices too.
 */
static void svq_remove(struct xenbus_device *xendev)
{
	struct svq_front *front = dev_get_drvdata(&xendev->dev);
	bool may_wait = current != READ_ONCE(svq_watch_thread);

	mutex_lock(&front->lock);
	front->removing = true;
	/* If the directory is no longer ours, neither is the mediator's service. */
	svq_node_check_own(front);
	if (front->disowned)
		svq_lose(front, "it was removed");
	svq_queue_work(front, &front->device_work);
	mutex_unlock(&front->lock);
	svq_wake(front);

	/* The driver lets requests end normally. If they do not, the device is lost: they end with an error. */
	if (may_wait && !svq_wait(front, svq_may_leave, NULL, svq_peer_timeout())) {
		mutex_lock(&front->lock);
		svq_lose(front, "its driver was unbound, and its requests do not end");
		mutex_unlock(&front->lock);
		if (!svq_wait(front, svq_may_leave, NULL, svq_peer_timeout()))
			svq_warn(front, "unbound, but not all of it has ended: until it has, the module cannot be unloaded\n");
	}
	dev_set_drvdata(&xendev->dev, NULL);
	svq_front_leave(front);
}

/*
 * After a restore, perhaps on another host: event channels are gone, and there is another mediator. The device was
 * frozen before, so it has nothing in flight; it is restored after us, and its reset waits for the new offer. What a
 * backend had mapped was the old domain's memory.
 */
static int svq_resume(struct xenbus_device *xendev)
{
	struct svq_front *front = dev_get_drvdata(&xendev->dev);
	char *otherend;
	int err;

	otherend = kstrdup(xendev->otherend, GFP_KERNEL);
	if (!otherend)
		return -ENOMEM;
	svq_front_unwatch(front);
	mutex_lock(&front->lock);
	kfree(front->otherend);
	front->otherend = otherend;
	front->disowned = false;
	front->refused = false;
	front->failures = 0;
	if (front->rings_out) {
		svq_all_ended(front);
		svq_lose(front, "its driver does not survive a restore");
	}
	err = svq_adopt_state(front);
	mutex_unlock(&front->lock);
	return err ? err : svq_front_watch(front);
}

static const struct xenbus_device_id svq_ids[] = {
	{ "virtio" },
	{ "" },
};

static struct xenbus_driver svq_driver = {
	.name = "virtio_xenbus",
	.ids = svq_ids,
	.not_essential = true, /* do not delay a boot by minutes for a device without a driver */
	.probe = svq_probe,
	.remove = svq_remove,
	.resume = svq_resume,
	.otherend_changed = svq_otherend_changed,
};

/* Whether a driver's probe or removal holds the device; the driver core waits for that before it shuts down. */
static bool svq_is_busy(struct svq_front *front)
{
	bool busy;

	mutex_lock(&front->lock);
	busy = front->dev && front->dev->live && !device_trylock(&front->dev->vdev.dev);
	if (front->dev && front->dev->live && !busy)
		device_unlock(&front->dev->vdev.dev);
	mutex_unlock(&front->lock);
	return busy;
}

static bool svq_any_is_busy(void)
{
	struct svq_front *front;
	bool busy = false;

	mutex_lock(&svq_fronts_lock);
	list_for_each_entry(front, &svq_fronts, entry)
		busy = busy || svq_is_busy(front);
	mutex_unlock(&svq_fronts_lock);
	return busy;
}

/*
 * A driver that still waits for requests would stop the shutdown. We end them even if somebody can reach them: Xen ends
 * such access with this domain, and until then nobody reuses their pages.
 */
static void svq_release_busy(void)
{
	struct svq_front *front;

	mutex_lock(&svq_fronts_lock);
	list_for_each_entry(front, &svq_fronts, entry) {
		if (!svq_is_busy(front))
			continue;
		mutex_lock(&front->lock);
		svq_lose(front, "the system shuts down");
		if (front->dev)
			svq_end_requests(front->dev, SVQ_END_PINNED);
		mutex_unlock(&front->lock);
	}
	mutex_unlock(&svq_fronts_lock);
}

static int svq_going_down(struct notifier_block *block, unsigned long event, void *command)
{
	unsigned long deadline = jiffies + SVQ_HALT_GRACE;
	struct svq_front *front;

	/* The domain stays, and another kernel takes over its memory: buffers still need proof that they have ended. */
	if (event == SYS_RESTART && command && !strcmp(command, "kexec reboot"))
		return NOTIFY_DONE;
	WRITE_ONCE(svq_halting, true);
	mutex_lock(&svq_fronts_lock);
	list_for_each_entry(front, &svq_fronts, entry)
		svq_wake(front);
	mutex_unlock(&svq_fronts_lock);
	while (svq_any_is_busy()) {
		if (time_after(jiffies, deadline)) {
			svq_release_busy();
			break;
		}
		msleep(SVQ_HALT_POLL_MS);
	}
	return NOTIFY_DONE;
}

static struct notifier_block svq_reboot_notifier = {
	.notifier_call = svq_going_down,
};

static int __init svq_init(void)
{
	int err;

	if (!xen_domain())
		return -ENODEV;
	if (xen_pv_domain()) {
		pr_err("virtio_xenbus: a PV guest has no guest physical addresses that the mediator could map\n");
		return -ENODEV;
	}
	err = svq_fronts_init();
	if (err)
		return err;
	err = register_reboot_notifier(&svq_reboot_notifier);
	if (err)
		goto exit_fronts;
	err = xenbus_register_frontend(&svq_driver);
	if (err)
		goto unregister_notifier;
	return 0;

unregister_notifier:
	unregister_reboot_notifier(&svq_reboot_notifier);
exit_fronts:
	svq_fronts_exit();
	return err;
}
module_init(svq_init);

/* A device with something in flight has a reference to the module, so nothing is left. */
static void __exit svq_exit(void)
{
	xenbus_unregister_driver(&svq_driver);
	unregister_reboot_notifier(&svq_reboot_notifier);
	svq_fronts_exit();
	svq_refs_exit();
}
module_exit(svq_exit);

MODULE_DESCRIPTION("virtio over XenBus and event channels");
MODULE_AUTHOR("The ShadowVQ developers");
MODULE_LICENSE("GPL");
MODULE_ALIAS("xen:virtio");
