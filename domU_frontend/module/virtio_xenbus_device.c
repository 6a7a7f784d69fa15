// SPDX-License-Identifier: GPL-2.0-or-later
/* The virtio device: makes it from an offer, gives it to a driver, and takes it away. */
#include <linux/pm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "compat.h"
#include "virtio_xenbus.h"

#define SVQ_VENDOR_XEN 0x5853 /* as for Xen's PCI devices; no driver asks */

static void svq_release(struct device *device)
{
	kfree(svq_of(dev_to_virtio(device)));
}

#ifdef CONFIG_PM_SLEEP
/*
 * The virtio bus leaves suspend to us. A frozen device has no request in flight and no ring with the mediator: its
 * driver would wait for that forever if a backend keeps something.
 */
static int svq_freeze(struct device *device)
{
	struct virtio_device *vdev = dev_to_virtio(device);
	struct svq_front *front = svq_of(vdev)->front;

	if (READ_ONCE(front->lost) && READ_ONCE(front->rings_out)) {
		svq_err(front, "cannot suspend: requests of the lost device may still be reachable\n");
		return -EBUSY;
	}
	return virtio_device_freeze(vdev);
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

/* Makes a virtio device from the offer, and lets the driver core find a driver for it. Without `lock`. */
static void svq_register(struct svq_front *front, struct svq_vdev *dev)
{
	int err;

	err = register_virtio_device(&dev->vdev);
	if (!err)
		return;
	svq_err(front, "cannot register a virtio device: %d\n", err);
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

	/* The other works find the device through `dev` until it is cleared. */
	get_device(&dev->vdev.dev);
	unregister_virtio_device(&dev->vdev);
	mutex_lock(&front->lock);
	front->dev = NULL;
	front->status = 0;
	front->lost = false;
	svq_step(front);
	mutex_unlock(&front->lock);
	put_device(&dev->vdev.dev);
	svq_wake(front);
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
	dev->vdev.dev.parent = &front->anchor; /* which is also the device for DMA mappings */
	dev->vdev.dev.type = &svq_device_type;
	dev->vdev.dev.release = svq_release;
	return dev;
}

/*
 * Whether to take the device from its driver now. For a lost device we wait until everything in flight may end: a
 * driver waits for its requests, and meanwhile holds the driver core's lock on the device, which would delay a
 * shutdown.
 */
static bool svq_is_to_go(const struct svq_front *front)
{
	if (!front->dev || READ_ONCE(svq_halting))
		return false;
	return front->lost ? !front->rings_out : front->removing;
}

/* Only this work registers and unregisters devices. */
void svq_device_work(struct work_struct *work)
{
	struct svq_front *front = container_of(work, struct svq_front, device_work);
	struct svq_vdev *fresh = NULL;
	bool go;

	mutex_lock(&front->lock);
	go = svq_is_to_go(front);
	if (!front->dev && front->phase == SVQ_OFFERED && !front->removing) {
		fresh = svq_new_device(front);
		front->dev = fresh;
		if (!fresh)
			svq_lose(front, "no memory"); /* and so we try again, after a pause */
	}
	mutex_unlock(&front->lock);

	if (fresh)
		svq_register(front, fresh);
	if (go)
		svq_unregister(front);
	svq_front_check(front);
}
