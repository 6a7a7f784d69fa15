// SPDX-License-Identifier: GPL-2.0-or-later
/* The queues: rings in this guest's memory, and an event channel to the mediator for each. */
#include <linux/cache.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <xen/events.h>

#include "compat.h"
#include "virtio_xenbus.h"

static bool svq_notify(struct virtqueue *vq)
{
	struct svq_queue *queue = vq->priv;

	notify_remote_via_evtchn(queue->port);
	return true;
}

void svq_kick_all(struct svq_vdev *dev)
{
	unsigned int i;

	for (i = 0; i < dev->num_queues; i++)
		notify_remote_via_evtchn(dev->queues[i].port);
}

/* The EOI comes late and reports events without work, which slows down a mediator that storms (XSA-332). */
static irqreturn_t svq_interrupt(int irq, void *opaque)
{
	struct svq_queue *queue = opaque;
	irqreturn_t served = IRQ_NONE;

	/* The ring of a queue that is being reset may be replaced at any moment. */
	if (!READ_ONCE(queue->vq->reset)) {
		svq_track(queue);
		served = vring_interrupt(irq, queue->vq);
		svq_track(queue);
	}
	xen_irq_lateeoi(irq, served == IRQ_HANDLED ? 0 : XEN_EOI_FLAG_SPURIOUS);
	return IRQ_HANDLED;
}

static int svq_connect_irq(struct svq_queue *queue)
{
	struct xenbus_device *xendev = queue->dev->front->xendev;
	int err;

	if (!xendev)
		return -ENODEV;
	err = xenbus_alloc_evtchn(xendev, &queue->port);
	if (err)
		return err;
	snprintf(queue->name, sizeof(queue->name), "%s-q%u", dev_name(&xendev->dev), queue->index);
	err = bind_evtchn_to_irqhandler_lateeoi(queue->port, svq_interrupt, 0, queue->name, queue);
	if (err < 0) {
		xenbus_free_evtchn(xendev, queue->port);
		return err;
	}
	queue->irq = err;
	return 0;
}

/*
 * We publish DMA addresses, and the mediator reads them as guest physical ones. That is right if the DMA API maps one
 * to one, as in PVH and HVM guests; not if it uses an IOMMU, or if the kernel was built to turn virtio's addresses into
 * grants (CONFIG_XEN_VIRTIO_FORCE_GRANT). A bounce buffer (swiotlb=force) would be fine, since it is guest memory too.
 */
static bool svq_maps_one_to_one(struct virtqueue *vq)
{
	void *desc = virtqueue_get_vring(vq)->desc;
	phys_addr_t phys;

	if (is_vmalloc_addr(desc))
		phys = page_to_phys(vmalloc_to_page(desc)) + offset_in_page(desc);
	else
		phys = virt_to_phys(desc);
	return virtqueue_get_desc_addr(vq) == phys;
}

static void svq_stop_queue(struct svq_queue *queue)
{
	unbind_from_irqhandler(queue->irq, queue);
	svq_track_free(queue);
}

static int svq_new_queue(struct svq_vdev *dev, struct svq_queue *queue, const struct virtqueue_info *info)
{
	struct svq_front *front = dev->front;
	int err;

	queue->dev = dev;
	queue->index = dev->num_queues;
	queue->vq = vring_create_virtqueue(queue->index, front->offer.queue_size_max, SMP_CACHE_BYTES, &dev->vdev,
					   true, true, info->ctx, svq_notify, info->callback, info->name);
	if (!queue->vq)
		return -ENOMEM;
	queue->vq->priv = queue;
	queue->vq->num_max = front->offer.queue_size_max;

	err = -EOPNOTSUPP;
	if (!svq_maps_one_to_one(queue->vq)) {
		svq_err(front, "this kernel's DMA addresses are not guest physical addresses\n");
		goto delete_vq;
	}
	err = svq_track_init(queue);
	if (err)
		goto delete_vq;
	err = svq_connect_irq(queue);
	if (err)
		goto free_track;
	/* Continue the mediator's count, in case it remembers the resets of an earlier connection. */
	if (__virtio_test_bit(&dev->vdev, VIRTIO_F_RING_RESET))
		queue->resets = svq_node_read_reset_done(front, queue->index);
	return 0;

free_track:
	svq_track_free(queue);
delete_vq:
	vring_del_virtqueue(queue->vq);
	return err;
}

static void svq_free_rings(struct svq_vdev *dev, unsigned int count)
{
	while (count)
		vring_del_virtqueue(dev->queues[--count].vq);
	kfree(dev->queues);
	dev->queues = NULL;
}

/* Keeps rings that somebody may still write to: better leak them for a while than let others use that memory. */
static void svq_keep_rings(struct svq_vdev *dev, unsigned int count)
{
	struct svq_front *front = dev->front;

	svq_err(front, "the rings of %u queue%s may still be in use: they are kept until that is over\n", count,
		count == 1 ? "" : "s");
	get_device(&dev->vdev.dev);
	dev->kept_queues = count;
	front->kept = dev;
}

/* With `lock` held. */
static void svq_del_queues(struct svq_vdev *dev)
{
	unsigned int i, count = dev->num_queues;

	for (i = 0; i < count; i++)
		svq_stop_queue(&dev->queues[i]);
	dev->num_queues = 0;
	if (count && dev->front->rings_out)
		svq_keep_rings(dev, count);
	else
		svq_free_rings(dev, count);
}

/* With `lock` held, once nobody can reach them. */
void svq_free_kept(struct svq_front *front)
{
	struct svq_vdev *dev = front->kept;

	if (!dev)
		return;
	front->kept = NULL;
	svq_free_rings(dev, dev->kept_queues);
	put_device(&dev->vdev.dev);
}

void svq_del_vqs(struct virtio_device *vdev)
{
	struct svq_vdev *dev = svq_of(vdev);
	struct svq_front *front = dev->front;

	mutex_lock(&front->lock);
	/* A probe that fails after DRIVER_OK comes here without a reset. */
	if (front->phase == SVQ_READY || front->phase == SVQ_CONNECTED)
		svq_begin_close(front, true);
	mutex_unlock(&front->lock);
	svq_wait_ended(dev);

	mutex_lock(&front->lock);
	svq_del_queues(dev);
	mutex_unlock(&front->lock);
}

/* Queues without a name do not count: the others are numbered from 0 on. */
int svq_find_vqs(struct virtio_device *vdev, unsigned int nvqs, struct virtqueue *vqs[],
		 struct virtqueue_info infos[], struct irq_affinity *desc)
{
	struct svq_vdev *dev = svq_of(vdev);
	struct svq_front *front = dev->front;
	unsigned int i;
	int err = 0;

	mutex_lock(&front->lock);
	if (front->phase != SVQ_OFFERED || front->lost || dev->queues)
		err = -ENODEV;
	else if (!nvqs)
		err = -EINVAL;
	if (err)
		goto unlock;
	dev->queues = kcalloc(nvqs, sizeof(*dev->queues), GFP_KERNEL);
	if (!dev->queues)
		err = -ENOMEM;
	for (i = 0; !err && i < nvqs; i++) {
		vqs[i] = NULL;
		if (!infos[i].name)
			continue;
		if (dev->num_queues == front->offer.num_queues) {
			svq_err(front, "the driver wants more than the %u queues offered\n", front->offer.num_queues);
			err = -ENOENT;
			break;
		}
		err = svq_new_queue(dev, &dev->queues[dev->num_queues], &infos[i]);
		if (!err)
			vqs[i] = dev->queues[dev->num_queues++].vq;
	}
	if (err)
		svq_del_queues(dev);
unlock:
	mutex_unlock(&front->lock);
	return err;
}

void svq_synchronize_cbs(struct virtio_device *vdev)
{
	struct svq_vdev *dev = svq_of(vdev);
	struct svq_front *front = dev->front;
	unsigned int i;

	mutex_lock(&front->lock);
	for (i = 0; i < dev->num_queues; i++)
		synchronize_irq(dev->queues[i].irq);
	mutex_unlock(&front->lock);
}

static bool svq_reset_is_done(struct svq_front *front, void *arg)
{
	struct svq_queue *queue = arg;

	return front->phase != SVQ_CONNECTED || svq_node_read_reset_done(front, queue->index) == queue->resets;
}

/*
 * Waits for the mediator to carry out a reset. A timeout is an error, and proves nothing: the driver gets nothing back.
 */
static int svq_await_reset(struct svq_front *front, struct svq_queue *queue)
{
	unsigned int close_timeout_ms = front->offer.close_timeout_ms;

	if (svq_wait(front, svq_reset_is_done, queue, msecs_to_jiffies(close_timeout_ms)))
		return 0;
	svq_warn(front, "queue %u: the mediator has not reset it within %u ms\n", queue->index, close_timeout_ms);
	return svq_wait(front, svq_reset_is_done, queue, svq_peer_timeout()) ? 0 : -ETIMEDOUT;
}

/* virtio 2.6.1: the queue's requests end, and the mediator lets go of its ring. */
int svq_disable_vq_and_reset(struct virtqueue *vq)
{
	struct svq_queue *queue = vq->priv;
	struct svq_front *front = queue->dev->front;
	int err = -ENODEV;

	if (!__virtio_test_bit(vq->vdev, VIRTIO_F_RING_RESET))
		return -ENOENT;
	mutex_lock(&front->lock);
	if (front->phase == SVQ_CONNECTED) {
		queue->resets++;
		err = svq_node_write_reset(front, queue);
	}
	mutex_unlock(&front->lock);
	if (!err)
		err = svq_await_reset(front, queue);

	mutex_lock(&front->lock);
	if (err)
		svq_lose(front, "a queue could not be reset");
	else if (front->phase != SVQ_CONNECTED)
		err = -ENODEV;
	mutex_unlock(&front->lock);
	if (err)
		return err;
#ifdef CONFIG_VIRTIO_HARDEN_NOTIFICATION
	__virtqueue_break(vq);
#endif
	WRITE_ONCE(vq->reset, true);
	synchronize_irq(queue->irq);
	return 0;
}

int svq_enable_vq_after_reset(struct virtqueue *vq)
{
	struct svq_queue *queue = vq->priv;
	struct svq_front *front = queue->dev->front;
	int err = -ENODEV;

	if (!vq->reset)
		return -EBUSY;
	mutex_lock(&front->lock);
	if (front->phase == SVQ_CONNECTED && svq_maps_one_to_one(vq)) {
		svq_track_restart(queue);
		WRITE_ONCE(vq->reset, false);
#ifdef CONFIG_VIRTIO_HARDEN_NOTIFICATION
		__virtqueue_unbreak(vq);
#endif
		err = svq_node_write_enable(front, queue);
	}
	if (err) {
		WRITE_ONCE(vq->reset, true);
		svq_lose(front, "a queue could not be enabled again");
	}
	mutex_unlock(&front->lock);
	if (!err)
		svq_notify(vq);
	return err;
}
