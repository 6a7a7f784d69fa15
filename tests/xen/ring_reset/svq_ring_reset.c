// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A disk's driver for tests, in place of virtio_blk, which never resets a ring: it repeatedly reads the first page of
 * the disk, then resizes the queue (which is how drivers reset a ring) with a request in it; each read has to give the
 * same bytes. Its probe fails unless all of that went well; /sys/module/svq_ring_reset/parameters says how far it got.
 */
#include <linux/completion.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>

#define ROUNDS 10
#define BYTES 4096
#define ANSWER_MS 20000

static unsigned int resets, recycled;
module_param(resets, uint, 0444);
MODULE_PARM_DESC(resets, "rings that were reset");
module_param(recycled, uint, 0444);
MODULE_PARM_DESC(recycled, "requests that a reset gave back");

struct request {
	struct virtio_blk_outhdr header;
	struct completion done;
	u8 status;
	u8 data[BYTES];
};

static void completed(struct virtqueue *vq)
{
	struct request *request;
	unsigned int length;

	while ((request = virtqueue_get_buf(vq, &length)))
		complete(&request->done);
}

static void given_back(struct virtqueue *vq, void *buf)
{
	recycled++;
}

static int submit(struct virtqueue *vq, struct request *request)
{
	struct scatterlist header, data, status, *all[] = { &header, &data, &status };
	int err;

	memset(request, 0xff, sizeof(*request));
	init_completion(&request->done);
	request->header.type = cpu_to_virtio32(vq->vdev, VIRTIO_BLK_T_IN);
	request->header.ioprio = 0;
	request->header.sector = 0;
	sg_init_one(&header, &request->header, sizeof(request->header));
	sg_init_one(&data, request->data, BYTES);
	sg_init_one(&status, &request->status, 1);
	err = virtqueue_add_sgs(vq, all, 1, 2, request, GFP_KERNEL);
	if (!err)
		virtqueue_kick(vq);
	return err;
}

static int read_page(struct virtqueue *vq, struct request *request)
{
	int err = submit(vq, request);

	if (err)
		return err;
	if (!wait_for_completion_timeout(&request->done, msecs_to_jiffies(ANSWER_MS)))
		return -ETIMEDOUT;
	return request->status == VIRTIO_BLK_S_OK ? 0 : -EIO;
}

static int reset_and_read(struct virtqueue *vq, struct request *first, struct request *again)
{
	unsigned int large = virtqueue_get_vring_size(vq);
	int err = read_page(vq, first);

	for (resets = 0; !err && resets < ROUNDS; resets++) {
		err = submit(vq, again);
		if (!err)
			err = virtqueue_resize(vq, resets % 2 ? large : large / 2, given_back);
		if (!err)
			err = read_page(vq, again);
		if (!err && memcmp(first->data, again->data, BYTES))
			err = -EILSEQ;
	}
	return err;
}

static int ring_reset_probe(struct virtio_device *vdev)
{
	struct request *first = kmalloc(sizeof(*first), GFP_KERNEL), *again = kmalloc(sizeof(*again), GFP_KERNEL);
	struct virtqueue *vq;
	int err = first && again ? 0 : -ENOMEM;

	if (!err && !virtio_has_feature(vdev, VIRTIO_F_RING_RESET))
		err = -EOPNOTSUPP;
	if (!err) {
		vq = virtio_find_single_vq(vdev, completed, "requests");
		err = PTR_ERR_OR_ZERO(vq);
	}
	if (!err) {
		virtio_device_ready(vdev);
		err = reset_and_read(vq, first, again);
		virtio_reset_device(vdev);
		vdev->config->del_vqs(vdev);
	}
	kfree(first);
	kfree(again);
	return err;
}

static void ring_reset_remove(struct virtio_device *vdev)
{
}

static const struct virtio_device_id ids[] = { { VIRTIO_ID_BLOCK, VIRTIO_DEV_ANY_ID }, { 0 } };

static struct virtio_driver ring_reset = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.id_table = ids,
	.probe = ring_reset_probe,
	.remove = ring_reset_remove,
};
module_virtio_driver(ring_reset);
MODULE_DESCRIPTION("Test of ring resets");
MODULE_LICENSE("GPL");
