// SPDX-License-Identifier: GPL-2.0-or-later
/* Writes our own directory. */
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/virtio_config.h>

#include "compat.h"
#include "virtio_xenbus.h"

/* A transaction fails if somebody else wrote meanwhile; after this many times something is wrong with XenStore. */
#define SVQ_TRANSACTION_TRIES 32

/*
 * Our directory is ours as long as its `state` is what we wrote: the toolstack may have removed it, and a write would
 * bring it back; or recreated it with Initialising for a new connection, which we must not disturb.
 */
static bool svq_is_disowned(const struct svq_front *front, enum xenbus_state written)
{
	return written == XenbusStateUnknown ||
	       (written == XenbusStateInitialising && front->own_state != XenbusStateInitialising);
}

void svq_node_check_own(struct svq_front *front)
{
	int state = svq_node_own_state(front);

	if (state >= 0 && svq_is_disowned(front, state))
		front->disowned = true;
}

static int svq_check_own(struct svq_front *front, struct xenbus_transaction xbt)
{
	int state = svq_read_state(xbt, front->nodename);

	if (state < 0)
		return state;
	if (svq_is_disowned(front, state)) {
		front->disowned = true;
		return -ENOENT;
	}
	return 0;
}

/*
 * XenBus keeps a copy of our state. If the node says Initialising and the copy does not, newer kernels assume that the
 * toolstack recreated the device, and unbind it. They compare in the watch thread; so the copy has to say Initialising
 * before the node does, and may leave that state only in that thread: svq_note_event updates it.
 */
void svq_show_state(struct svq_front *front, enum xenbus_state state, bool ahead)
{
	unsigned long flags;

	spin_lock_irqsave(&front->shown_lock, flags);
	front->shown_state = state;
	if (front->xendev && (ahead || front->xendev->state != XenbusStateInitialising))
		front->xendev->state = state;
	spin_unlock_irqrestore(&front->shown_lock, flags);
}

/* Writes all that `fill` writes, and the state, or nothing. */
static int svq_commit(struct svq_front *front, enum xenbus_state state, struct svq_queue *queue,
		      int (*fill)(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue))
{
	struct xenbus_transaction xbt;
	unsigned int i;
	int err;

	for (i = 0; i < SVQ_TRANSACTION_TRIES && !front->disowned; i++) {
		err = xenbus_transaction_start(&xbt);
		if (err)
			return err;
		err = svq_check_own(front, xbt);
		if (!err && fill)
			err = fill(front, xbt, queue);
		if (!err && state != front->own_state)
			err = xenbus_printf(xbt, front->nodename, SVQ_NODE_VIRTIO_FRONT_STATE, "%d",
					    state);
		if (err) {
			xenbus_transaction_end(xbt, 1);
			return err;
		}
		err = xenbus_transaction_end(xbt, 0);
		if (!err)
			svq_show_state(front, state, false);
		if (!err)
			front->own_state = state;
		if (err != -EAGAIN)
			return err;
	}
	return front->disowned ? -ENOENT : -EAGAIN;
}

int svq_node_switch(struct svq_front *front, enum xenbus_state state)
{
	int err;

	if (state == XenbusStateInitialising && !front->disowned)
		svq_show_state(front, state, true);
	err = svq_commit(front, state, NULL, NULL);
	if (err && err != -ENOENT)
		svq_err(front, "cannot write state %d to XenStore: %d\n", state, err);
	return err;
}

static int svq_fill_status(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue)
{
	return xenbus_printf(xbt, front->nodename, SVQ_NODE_VIRTIO_FRONT_STATUS, "%u", front->status);
}

int svq_node_write_status(struct svq_front *front)
{
	return svq_commit(front, front->own_state, NULL, svq_fill_status);
}

static int svq_put(struct svq_front *front, struct xenbus_transaction xbt, const char *format, unsigned int index,
		   u64 value)
{
	char name[SVQ_NODE_NAME_SIZE];

	snprintf(name, sizeof(name), format, index);
	return xenbus_printf(xbt, front->nodename, name, "%llu", value);
}

/* The ring addresses are DMA addresses; svq_find_vqs has checked that they are guest physical ones. */
static int svq_fill_queue(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue)
{
	struct virtqueue *vq = queue->vq;
	unsigned int n = queue->index;
	int err;

	err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_SIZE, n, virtqueue_get_vring_size(vq));
	if (!err)
		err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_DESC, n, virtqueue_get_desc_addr(vq));
	if (!err)
		err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_AVAIL, n, virtqueue_get_avail_addr(vq));
	if (!err)
		err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_USED, n, virtqueue_get_used_addr(vq));
	if (!err)
		err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_EVENT_CHANNEL, n, queue->port);
	if (!err)
		err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_RESET, n, queue->resets);
	if (!err)
		err = svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_ENABLE, n, queue->resets);
	return err;
}

/* Where the mediator may write grants: the reserved entries, or none, whatever an earlier driver wrote there. */
static int svq_fill_refs(struct svq_front *front, struct xenbus_transaction xbt)
{
	const char *dir = front->nodename;
	int err;

	if (!front->refs) {
		err = xenbus_rm(xbt, dir, SVQ_NODE_VIRTIO_FRONT_GRANT_REFS_FIRST);
		if (!err || err == -ENOENT)
			err = xenbus_rm(xbt, dir, SVQ_NODE_VIRTIO_FRONT_GRANT_REFS_COUNT);
		return err == -ENOENT ? 0 : err;
	}
	err = xenbus_printf(xbt, dir, SVQ_NODE_VIRTIO_FRONT_GRANT_REFS_FIRST, "%u", front->refs->first);
	if (!err)
		err = xenbus_printf(xbt, dir, SVQ_NODE_VIRTIO_FRONT_GRANT_REFS_COUNT, "%u", front->refs->count);
	return err;
}

/*
 * What we read here, in the transaction that publishes the rings, is the state at that very moment: any later state of
 * the mediator other than InitWait, and any larger `swept`, came after the rings, so it is valid for them.
 */
static int svq_fill_rings(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue)
{
	const char *dir = front->nodename;
	struct svq_vdev *dev = front->dev;
	unsigned int i;
	u32 held_pages;
	int err;

	front->rings_out = false;
	if (svq_read_state(xbt, front->otherend) != XenbusStateInitWait)
		return -ESTALE;
	err = svq_node_read_swept(front, xbt, &front->swept);
	if (!err)
		err = svq_node_read_held_pages(front, xbt, &held_pages);
	if (err)
		return err;
	front->held_stale = held_pages;
	err = xenbus_printf(xbt, dir, SVQ_NODE_VIRTIO_FRONT_FEATURES_ACCEPTED, "%llu", dev->vdev.features);
	if (!err)
		err = xenbus_printf(xbt, dir, SVQ_NODE_VIRTIO_FRONT_NUM_QUEUES, "%u", dev->num_queues);
	if (!err)
		err = svq_fill_refs(front, xbt);
	for (i = 0; !err && i < dev->num_queues; i++)
		err = svq_fill_queue(front, xbt, &dev->queues[i]);
	if (!err)
		err = svq_fill_status(front, xbt, NULL);
	/* Even if the commit fails: it may have taken effect. */
	if (!err)
		front->rings_out = true;
	return err;
}

/* Publishes what the driver accepted and set up, and Initialised, in one transaction. */
int svq_node_write_rings(struct svq_front *front)
{
	return svq_commit(front, XenbusStateInitialised, NULL, svq_fill_rings);
}

static int svq_fill_reset(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue)
{
	return svq_put(front, xbt, SVQ_NODE_VIRTIO_FRONT_QUEUE_RESET, queue->index, queue->resets);
}

int svq_node_write_reset(struct svq_front *front, struct svq_queue *queue)
{
	return svq_commit(front, front->own_state, queue, svq_fill_reset);
}

int svq_node_write_enable(struct svq_front *front, struct svq_queue *queue)
{
	return svq_commit(front, front->own_state, queue, svq_fill_queue);
}
