// SPDX-License-Identifier: GPL-2.0-or-later
/* The virtio core's view of the device: features, configuration, status and reset. */
#include <linux/kernel.h>
#include <linux/string.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "compat.h"
#include "virtio_xenbus.h"

/*
 * Feature bits of the transport (virtio 6) that the protocol carries; the device's own bits pass as they are. It leaves
 * out packed rings and in-order use, among others: the mediator walks split rings and completes in any order.
 */
#define SVQ_TRANSPORT_FEATURES                                                                   \
	(BIT_ULL(VIRTIO_RING_F_INDIRECT_DESC) | BIT_ULL(VIRTIO_RING_F_EVENT_IDX) |               \
	 BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM) |                       \
	 BIT_ULL(VIRTIO_F_ORDER_PLATFORM) | BIT_ULL(VIRTIO_F_RING_RESET))
#define SVQ_TRANSPORT_BITS GENMASK_ULL(VIRTIO_TRANSPORT_F_END - 1, VIRTIO_TRANSPORT_F_START)

static u64 svq_offered_features(struct svq_front *front)
{
	return front->offer.features & (SVQ_TRANSPORT_FEATURES | ~SVQ_TRANSPORT_BITS);
}

static u64 svq_get_features(struct virtio_device *vdev)
{
	struct svq_front *front = svq_of(vdev)->front;
	u64 features;

	mutex_lock(&front->lock);
	features = svq_offered_features(front);
	mutex_unlock(&front->lock);
	return features;
}

static int svq_finalize_features(struct virtio_device *vdev)
{
	struct svq_front *front = svq_of(vdev)->front;
	bool ring_reset = __virtio_test_bit(vdev, VIRTIO_F_RING_RESET);
	u64 offered = svq_get_features(vdev);

	vring_transport_features(vdev);
	/* The ring code leaves this bit to the transport. */
	if (ring_reset)
		__virtio_set_bit(vdev, VIRTIO_F_RING_RESET);

	/* We cannot set these for the driver: its ring addresses would not be what the mediator expects. */
	if (!__virtio_test_bit(vdev, VIRTIO_F_VERSION_1) || !__virtio_test_bit(vdev, VIRTIO_F_ACCESS_PLATFORM)) {
		dev_err(&vdev->dev, "the driver must accept VERSION_1 and ACCESS_PLATFORM\n");
		return -EINVAL;
	}
	/* After a restore the driver has its old features, and the offer may come from another mediator. */
	if (vdev->features & ~offered) {
		dev_err(&vdev->dev, "features 0x%llx are no longer offered\n", vdev->features & ~offered);
		return -EINVAL;
	}
	return READ_ONCE(front->lost) ? -ENODEV : 0;
}

/* Bytes beyond the configuration space read as zeros. */
static void svq_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	struct svq_front *front = svq_of(vdev)->front;
	unsigned long flags;
	unsigned int n = 0;

	spin_lock_irqsave(&front->config_lock, flags);
	if (offset < front->offer.config_bytes) {
		n = min(len, front->offer.config_bytes - offset);
		memcpy(buf, front->offer.config + offset, n);
	}
	spin_unlock_irqrestore(&front->config_lock, flags);
	memset(buf + n, 0, len - n);
}

/* The protocol has no way for a driver to write the configuration space, so no field can be writable. */
static void svq_set(struct virtio_device *vdev, unsigned int offset, const void *buf, unsigned int len)
{
	dev_warn_once(&vdev->dev, "write to read-only configuration, offset %u: ignored\n", offset);
}

static u32 svq_generation(struct virtio_device *vdev)
{
	struct svq_front *front = svq_of(vdev)->front;
	unsigned long flags;
	u32 generation;

	spin_lock_irqsave(&front->config_lock, flags);
	generation = front->offer.generation;
	spin_unlock_irqrestore(&front->config_lock, flags);
	return generation;
}

/* The mediator has changed `config`. With `lock` held. */
void svq_config_refresh(struct svq_front *front)
{
	struct svq_offer fresh;
	unsigned long flags;
	int err;

	err = svq_node_read_config(front, &fresh);
	if (err == -EINVAL || err == -ERANGE || err == -ENOENT)
		svq_lose(front, "its configuration makes no sense");
	if (err)
		return; /* it is still changing, and the watch will fire again */
	spin_lock_irqsave(&front->config_lock, flags);
	memcpy(front->offer.config, fresh.config, sizeof(fresh.config));
	front->offer.config_bytes = fresh.config_bytes;
	front->offer.generation = fresh.generation;
	spin_unlock_irqrestore(&front->config_lock, flags);
	if (front->dev && front->dev->live)
		virtio_config_changed(&front->dev->vdev);
}

static u8 svq_get_status(struct virtio_device *vdev)
{
	return READ_ONCE(svq_of(vdev)->front->status);
}

static bool svq_is_connected(struct svq_front *front, void *arg)
{
	return front->phase == SVQ_CONNECTED || front->lost || front->removing;
}

/* Publishes the rings. With `lock` held. */
static int svq_publish(struct svq_vdev *dev)
{
	struct svq_front *front = dev->front;
	int err;

	if (front->phase != SVQ_OFFERED || front->lost || !dev->num_queues)
		return -ENODEV;
	svq_refs_get(front);
	err = svq_node_write_rings(front);
	if (!err)
		front->phase = SVQ_READY;
	else if (!front->rings_out)
		svq_refs_put(front);
	return err;
}

/*
 * With DRIVER_OK the rings go to the mediator. We wait until it has them: a driver may read the first sector in its
 * probe, and there is no other way to tell it that the device never connects.
 */
static void svq_driver_ok(struct svq_vdev *dev)
{
	struct svq_front *front = dev->front;
	int err;

	mutex_lock(&front->lock);
	err = svq_publish(dev);
	mutex_unlock(&front->lock);
	if (!err)
		svq_wait(front, svq_is_connected, NULL, svq_peer_timeout());

	mutex_lock(&front->lock);
	if (front->phase != SVQ_CONNECTED) {
		svq_lose(front, err ? "its rings could not be published" : "the mediator does not connect");
		/* The device may have been lost before its rings existed. */
		virtio_break_device(&dev->vdev);
	}
	mutex_unlock(&front->lock);
}

static void svq_set_status(struct virtio_device *vdev, u8 status)
{
	struct svq_vdev *dev = svq_of(vdev);
	struct svq_front *front = dev->front;
	bool driver_ok;

	mutex_lock(&front->lock);
	driver_ok = status & ~front->status & VIRTIO_CONFIG_S_DRIVER_OK;
	WRITE_ONCE(front->status, status);
	if (!driver_ok)
		svq_node_write_status(front);
	mutex_unlock(&front->lock);
	if (driver_ok)
		svq_driver_ok(dev);
}

/* A driver may begin again; or there is no device, and nothing is in use. */
static bool svq_is_settled(struct svq_front *front, void *arg)
{
	if (front->phase == SVQ_OFFERED)
		return true;
	return !front->rings_out && !svq_wants_open(front);
}

/*
 * The driver frees its buffers after this, and we cannot tell it not to. So this waits until nobody reaches them:
 * Closing, then a proof, however long that takes. Then it connects again, up to the mediator's next offer. If the
 * mediator makes none, the device is lost.
 */
static void svq_reset(struct virtio_device *vdev)
{
	struct svq_vdev *dev = svq_of(vdev);
	struct svq_front *front = dev->front;

	mutex_lock(&front->lock);
	dev->live = true;
	svq_step(front);
	if (front->rings_out)
		svq_begin_close(front, true);
	WRITE_ONCE(front->status, 0);
	svq_node_write_status(front);
	mutex_unlock(&front->lock);

	if (svq_wait_ended(dev) && svq_wait(front, svq_is_settled, NULL, svq_peer_timeout()))
		return;
	if (READ_ONCE(svq_halting))
		return;
	mutex_lock(&front->lock);
	svq_lose(front, "the mediator did not answer a reset");
	mutex_unlock(&front->lock);
}

static const char *svq_bus_name(struct virtio_device *vdev)
{
	return dev_name(&svq_of(vdev)->front->anchor);
}

const struct virtio_config_ops svq_config_ops = {
	.get = svq_get,
	.set = svq_set,
	.generation = svq_generation,
	.get_status = svq_get_status,
	.set_status = svq_set_status,
	.reset = svq_reset,
	.find_vqs = svq_find_vqs_op,
	.del_vqs = svq_del_vqs,
	.synchronize_cbs = svq_synchronize_cbs,
	.get_features = svq_get_features,
	.finalize_features = svq_finalize_features,
	.bus_name = svq_bus_name,
	.disable_vq_and_reset = svq_disable_vq_and_reset,
	.enable_vq_after_reset = svq_enable_vq_after_reset,
};
