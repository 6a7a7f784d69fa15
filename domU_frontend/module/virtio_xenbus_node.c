// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reads the mediator's nodes and dom0's record. We trust the mediator with our rings, but not with our stability: we
 * check each value against the bounds of the protocol before we use it.
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

/* `config` may change between reading it and reading its generation, but not forever. */
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
 * 0, -ENOENT if there is no such node, -EINVAL or -ERANGE if it holds no such number, or another error if it cannot be
 * read.
 */
static int svq_read_number_in(struct xenbus_transaction xbt, const char *dir, const char *name, u64 max, u64 *out)
{
	char *untrusted_text;
	int err;

	untrusted_text = xenbus_read(xbt, dir, name, NULL);
	if (IS_ERR(untrusted_text))
		return PTR_ERR(untrusted_text);
	err = svq_parse_number(untrusted_text, max, out);
	kfree(untrusted_text);
	return err;
}

static int svq_read_number(const char *dir, const char *name, u64 max, u64 *out)
{
	return svq_read_number_in(XBT_NIL, dir, name, max, out);
}

/* The same for an optional node; if it does not exist, `out` stays as it is. */
static int svq_read_optional(struct xenbus_transaction xbt, const char *dir, const char *name, u64 max, u64 *out)
{
	int err = svq_read_number_in(xbt, dir, name, max, out);

	return err == -ENOENT ? 0 : err;
}

/* An enum xenbus_state, Unknown if its owner is gone, or -errno if it cannot be read now. */
int svq_read_state(struct xenbus_transaction xbt, const char *dir)
{
	u64 state = XenbusStateUnknown;
	int err;

	err = svq_read_number_in(xbt, dir, SVQ_NODE_VIRTIO_BACK_STATE, XenbusStateReconfigured, &state);
	switch (err) {
	case 0:
		return state;
	case -ENOENT: /* removed with its directory or its domain */
	case -EACCES: /* the directory was recreated for another domain */
	case -EINVAL:
	case -ERANGE:
		return XenbusStateUnknown;
	default:
		return err;
	}
}

int svq_node_peer_state(struct svq_front *front)
{
	return svq_read_state(XBT_NIL, front->otherend);
}

int svq_node_own_state(struct svq_front *front)
{
	return svq_read_state(XBT_NIL, front->nodename);
}

/* Whether our directory, perhaps recreated, still names the same mediator's directory. */
bool svq_node_same_otherend(struct svq_front *front)
{
	char *path = xenbus_read(XBT_NIL, front->nodename, SVQ_NODE_VIRTIO_FRONT_BACKEND, NULL);
	bool same;

	if (IS_ERR(path))
		return false;
	same = !strcmp(path, front->otherend);
	kfree(path);
	return same;
}

/* `out` is 0 if there is no such node. */
int svq_node_read_held_pages(struct svq_front *front, struct xenbus_transaction xbt, u32 *out)
{
	u64 pages = SVQ_DEFAULT_VIRTIO_BACK_HELD_PAGES;
	int err;

	err = svq_read_optional(xbt, front->otherend, SVQ_NODE_VIRTIO_BACK_HELD_PAGES, U32_MAX, &pages);
	*out = pages;
	return err;
}

/* Reads which requests of a queue are held; false if the mediator says nothing valid. */
bool svq_node_read_held(struct svq_front *front, struct svq_queue *queue)
{
	char name[SVQ_NODE_NAME_SIZE];
	char *untrusted_text;
	unsigned int length;
	bool read = false;

	snprintf(name, sizeof(name), SVQ_NODE_VIRTIO_BACK_QUEUE_HELD, queue->index);
	untrusted_text = xenbus_read(XBT_NIL, front->otherend, name, &length);
	if (IS_ERR(untrusted_text))
		return false;
	memset(queue->held, 0xff, sizeof(queue->held)); /* heads beyond the end may be held */
	if (length && length % 2 == 0 && length <= 2 * sizeof(queue->held))
		read = !hex2bin(queue->held, untrusted_text, length / 2);
	kfree(untrusted_text);
	return read;
}

/* The count in dom0's record of the device: how often dom0 has stated that nothing of it is granted any more. */
int svq_node_read_swept(struct svq_front *front, struct xenbus_transaction xbt, u32 *out)
{
	u64 swept = SVQ_DEFAULT_VIRTIO_RECORD_SWEPT;
	int err;

	err = svq_read_optional(xbt, front->record_path, SVQ_NODE_VIRTIO_RECORD_SWEPT, U32_MAX, &swept);
	*out = swept;
	return err;
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

/* The mediator writes `config` before its generation, so a value read between two equal generations belongs to them. */
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

static int svq_read_offered_option(struct svq_front *front, const char *name, u64 min, u64 max, u64 standard, u64 *out)
{
	if (xenbus_exists(XBT_NIL, front->otherend, name))
		return svq_read_offered(front, name, min, max, out);
	*out = standard;
	return 0;
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
		xenbus_dev_error(front->xendev, -EINVAL, "queue-size-max %u of the mediator is not a power of two",
				 offer->queue_size_max);
		return -EINVAL;
	}
	return 0;
}

/* Reads everything that the mediator must have written by InitWait. Reports an error if it fails. */
int svq_node_read_offer(struct svq_front *front, struct svq_offer *out)
{
	u64 version, device_type, features, num_queues, queue_size_max, refs_wanted, close_timeout_ms;
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
	if (!err)
		err = svq_read_offered_option(front, SVQ_NODE_VIRTIO_BACK_GRANT_REFS_WANTED, 0, U32_MAX,
					      SVQ_DEFAULT_VIRTIO_BACK_GRANT_REFS_WANTED, &refs_wanted);
	if (!err)
		err = svq_read_offered_option(front, SVQ_NODE_VIRTIO_BACK_CLOSE_TIMEOUT_MS,
					      SVQ_MIN_VIRTIO_BACK_CLOSE_TIMEOUT_MS,
					      SVQ_MAX_VIRTIO_BACK_CLOSE_TIMEOUT_MS,
					      SVQ_DEFAULT_VIRTIO_BACK_CLOSE_TIMEOUT_MS, &close_timeout_ms);
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
	out->grant_refs_wanted = refs_wanted;
	out->close_timeout_ms = close_timeout_ms;
	return svq_check_offer(front, out);
}
