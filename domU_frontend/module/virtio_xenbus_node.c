// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reading the mediator's nodes and writing ours. The mediator is trusted with our rings, not with our stability:
 * each value is checked against the bounds of the protocol before anything believes it.
 */
#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/virtio_config.h>

#include "compat.h"
#include "virtio_xenbus.h"

/* A transaction fails when someone else wrote meanwhile; after so many times something is wrong with XenStore. */
#define SVQ_TRANSACTION_TRIES 32
/* `config` may change between reading it and reading its generation, but not for ever. */
#define SVQ_CONFIG_TRIES 4
#define SVQ_DIGITS_MAX 20

/* Decimal digits, no sign, no blanks, no leading zeros: stricter than kstrtou64. */
static int svq_parse_number(const char *untrusted_text, u64 max, u64 *out)
{
	size_t length = strnlen(untrusted_text, SVQ_DIGITS_MAX + 1);
	size_t i;
	u64 value;

	if (!length || length > SVQ_DIGITS_MAX || (length > 1 && untrusted_text[0] == '0'))
		return -EINVAL;
	for (i = 0; i < length; i++)
		if (!isdigit(untrusted_text[i]))
			return -EINVAL;
	if (kstrtou64(untrusted_text, 10, &value) || value > max)
		return -ERANGE;
	*out = value;
	return 0;
}

/*
 * 0, -ENOENT when there is no such node, -EINVAL or -ERANGE when it holds no such number, else why it cannot be
 * told.
 */
static int svq_read_number(const char *dir, const char *name, u64 max, u64 *out)
{
	char *untrusted_text;
	int err;

	untrusted_text = xenbus_read(XBT_NIL, dir, name, NULL);
	if (IS_ERR(untrusted_text))
		return PTR_ERR(untrusted_text);
	err = svq_parse_number(untrusted_text, max, out);
	kfree(untrusted_text);
	return err;
}

static int svq_read_state(const char *dir)
{
	u64 state = XenbusStateUnknown;
	int err;

	err = svq_read_number(dir, SVQ_NODE_VIRTIO_BACK_STATE, XenbusStateReconfigured, &state);
	switch (err) {
	case 0:
		return state;
	case -ENOENT: /* removed with its directory, or its domain */
	case -EACCES: /* the directory was made anew, for someone else */
	case -EINVAL:
	case -ERANGE:
		return XenbusStateUnknown;
	default:
		return err;
	}
}

/* An enum xenbus_state, Unknown when the mediator is gone, or -errno when that cannot be told now. */
int svq_node_peer_state(struct svq_front *front)
{
	return svq_read_state(front->otherend);
}

int svq_node_own_state(struct svq_front *front)
{
	return svq_read_state(front->xendev->nodename);
}

/* A node that is 0 or 1. */
bool svq_node_peer_flag(struct svq_front *front, const char *name, bool absent)
{
	u64 value;

	return svq_read_number(front->otherend, name, 1, &value) ? absent : value;
}

u32 svq_node_read_reset_done(struct svq_front *front, unsigned int queue)
{
	char name[SVQ_NODE_NAME_SIZE];
	u64 value;

	snprintf(name, sizeof(name), SVQ_NODE_VIRTIO_BACK_QUEUE_RESET_DONE, queue);
	if (svq_read_number(front->otherend, name, U32_MAX, &value))
		return SVQ_DEFAULT_VIRTIO_BACK_QUEUE_RESET_DONE;
	return value;
}

int svq_node_read_generation(struct svq_front *front, u32 *out)
{
	u64 value;
	int err;

	err = svq_read_number(front->otherend, SVQ_NODE_VIRTIO_BACK_CONFIG_GENERATION, U32_MAX, &value);
	if (!err)
		*out = value;
	return err;
}

static int svq_read_config_bytes(struct svq_front *front, struct svq_offer *out)
{
	char *untrusted_text;
	unsigned int length;
	int err = -EINVAL;

	untrusted_text = xenbus_read(XBT_NIL, front->otherend, SVQ_NODE_VIRTIO_BACK_CONFIG, &length);
	if (IS_ERR(untrusted_text))
		return PTR_ERR(untrusted_text);
	if (length && length % 2 == 0 && length <= 2 * sizeof(out->config)) {
		memset(out->config, 0, sizeof(out->config));
		err = hex2bin(out->config, untrusted_text, length / 2);
		out->config_bytes = length / 2;
	}
	kfree(untrusted_text);
	return err ? -EINVAL : 0;
}

/* `config` is written before its generation: what lies between two equal generations belongs to them. */
int svq_node_read_config(struct svq_front *front, struct svq_offer *out)
{
	unsigned int i;
	u32 before;
	int err;

	for (i = 0; i < SVQ_CONFIG_TRIES; i++) {
		err = svq_node_read_generation(front, &before);
		if (!err)
			err = svq_read_config_bytes(front, out);
		if (!err)
			err = svq_node_read_generation(front, &out->generation);
		if (err || before == out->generation)
			return err;
	}
	return -EAGAIN;
}

static int svq_read_offered(struct svq_front *front, const char *name, u64 min, u64 max, u64 *out)
{
	int err;

	err = svq_read_number(front->otherend, name, max, out);
	if (!err && *out < min)
		err = -ERANGE;
	if (err)
		xenbus_dev_error(front->xendev, err, "%s of the mediator: expected a number from %llu to %llu",
				 name, min, max);
	return err;
}

static int svq_check_offer(struct svq_front *front, const struct svq_offer *offer)
{
	const u64 required = BIT_ULL(VIRTIO_F_VERSION_1) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM);

	if ((offer->features & required) != required) {
		xenbus_dev_error(front->xendev, -EINVAL,
				 "features 0x%llx of the mediator lack VERSION_1 or ACCESS_PLATFORM",
				 offer->features);
		return -EINVAL;
	}
	if (!is_power_of_2(offer->queue_size_max)) {
		xenbus_dev_error(front->xendev, -EINVAL, "queue-size-max %u of the mediator is no power of two",
				 offer->queue_size_max);
		return -EINVAL;
	}
	return 0;
}

/* Everything that the mediator must have written by InitWait. An error was reported when this fails. */
int svq_node_read_offer(struct svq_front *front, struct svq_offer *out)
{
	u64 version, device_type, features, num_queues, queue_size_max;
	int err;

	err = svq_read_offered(front, SVQ_NODE_VIRTIO_BACK_VERSION, SVQ_PROTOCOL_VERSION, SVQ_PROTOCOL_VERSION,
			       &version);
	if (!err)
		err = svq_read_offered(front, SVQ_NODE_VIRTIO_BACK_DEVICE_TYPE, SVQ_MIN_VIRTIO_BACK_DEVICE_TYPE,
				       SVQ_MAX_VIRTIO_BACK_DEVICE_TYPE, &device_type);
	if (!err)
		err = svq_read_offered(front, SVQ_NODE_VIRTIO_BACK_FEATURES, 0, U64_MAX, &features);
	if (!err)
		err = svq_read_offered(front, SVQ_NODE_VIRTIO_BACK_NUM_QUEUES, SVQ_MIN_VIRTIO_BACK_NUM_QUEUES,
				       SVQ_MAX_VIRTIO_BACK_NUM_QUEUES, &num_queues);
	if (!err)
		err = svq_read_offered(front, SVQ_NODE_VIRTIO_BACK_QUEUE_SIZE_MAX,
				       SVQ_MIN_VIRTIO_BACK_QUEUE_SIZE_MAX,
				       SVQ_MAX_VIRTIO_BACK_QUEUE_SIZE_MAX, &queue_size_max);
	if (err)
		return err;
	err = svq_node_read_config(front, out);
	if (err) {
		xenbus_dev_error(front->xendev, err,
				 "config of the mediator: expected 1 to %u bytes in hex, and a generation",
				 SVQ_BYTES_MAX_VIRTIO_BACK_CONFIG);
		return err;
	}
	out->device_type = device_type;
	out->features = features;
	out->num_queues = num_queues;
	out->queue_size_max = queue_size_max;
	return svq_check_offer(front, out);
}

/*
 * Our directory is ours as long as its `state` is what we wrote: the toolstack may have removed it, and writing
 * would bring it back to life; or have made it anew for a new connection, with Initialising, which is not ours
 * to spoil.
 */
static int svq_check_own(struct svq_front *front, struct xenbus_transaction xbt)
{
	int state, err;

	err = xenbus_scanf(xbt, front->xendev->nodename, SVQ_NODE_VIRTIO_FRONT_STATE, "%d", &state);
	if (err < 0 && err != -ENOENT)
		return err;
	if (err != 1 || (state == XenbusStateInitialising && front->own_state != XenbusStateInitialising)) {
		front->disowned = true;
		return -ENOENT;
	}
	return 0;
}

/*
 * XenBus keeps a copy of our state. Newer kernels take a device whose node says Initialising while the copy does
 * not for one that the toolstack made anew, and unbind it. They compare in the watch thread; so the copy has to
 * say Initialising before the node does, and to leave that in no other thread: svq_note_event brings it up to
 * date.
 */
static void svq_show_state(struct svq_front *front, enum xenbus_state state, bool ahead)
{
	unsigned long flags;

	spin_lock_irqsave(&front->shown_lock, flags);
	front->shown_state = state;
	if (ahead || front->xendev->state != XenbusStateInitialising)
		front->xendev->state = state;
	spin_unlock_irqrestore(&front->shown_lock, flags);
}

/* All that `fill` writes, and the state, or nothing. */
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
			err = xenbus_printf(xbt, front->xendev->nodename, SVQ_NODE_VIRTIO_FRONT_STATE, "%d",
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
		dev_err(&front->xendev->dev, "cannot write state %d to XenStore: %d\n", state, err);
	return err;
}

static int svq_fill_status(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue)
{
	return xenbus_printf(xbt, front->xendev->nodename, SVQ_NODE_VIRTIO_FRONT_STATUS, "%u", front->status);
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
	return xenbus_printf(xbt, front->xendev->nodename, name, "%llu", value);
}

/* The ring addresses are DMA addresses, which svq_find_vqs has found to be guest physical ones. */
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

static int svq_fill_rings(struct svq_front *front, struct xenbus_transaction xbt, struct svq_queue *queue)
{
	const char *dir = front->xendev->nodename;
	struct svq_vdev *dev = front->dev;
	unsigned int i;
	int err;

	err = xenbus_printf(xbt, dir, SVQ_NODE_VIRTIO_FRONT_FEATURES_ACCEPTED, "%llu", dev->vdev.features);
	if (!err)
		err = xenbus_printf(xbt, dir, SVQ_NODE_VIRTIO_FRONT_NUM_QUEUES, "%u", dev->num_queues);
	for (i = 0; !err && i < dev->num_queues; i++)
		err = svq_fill_queue(front, xbt, &dev->queues[i]);
	return err ? err : svq_fill_status(front, xbt, NULL);
}

/* Publishes what the driver accepted and set up, and says Initialised, in one. */
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
