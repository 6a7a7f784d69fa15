/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The differences between the kernels that we build for: 6.1 and newer. Nothing else here tests the version.
 *
 * Ring creation needs nothing: since 6.18 the DMA device of a ring is a `union virtio_map`, but vring_create_virtqueue
 * still exists and takes the parent of the virtio device, as before.
 */
#ifndef SVQ_COMPAT_H
#define SVQ_COMPAT_H

#include <linux/err.h>
#include <linux/kernel.h> /* hex2bin, before it had its own header */
#include <linux/slab.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
#include <linux/hex.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "virtio_xenbus needs Linux 6.1 or newer: resetting one queue is not in older virtio cores"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
/* 6.11 merged the parallel arrays of find_vqs into one array of these. */
struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
	bool ctx;
};
#endif

int svq_find_vqs(struct virtio_device *vdev, unsigned int nvqs, struct virtqueue *vqs[],
		 struct virtqueue_info infos[], struct irq_affinity *desc);

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
static inline int svq_find_vqs_op(struct virtio_device *vdev, unsigned int nvqs,
				  struct virtqueue *vqs[], vq_callback_t *callbacks[],
				  const char *const names[], const bool *ctx,
				  struct irq_affinity *desc)
{
	struct virtqueue_info *infos;
	unsigned int i;
	int err;

	infos = kcalloc(nvqs, sizeof(*infos), GFP_KERNEL);
	if (!infos)
		return -ENOMEM;
	for (i = 0; i < nvqs; i++) {
		infos[i].name = names[i];
		infos[i].callback = callbacks[i];
		infos[i].ctx = ctx ? ctx[i] : false;
	}
	err = svq_find_vqs(vdev, nvqs, vqs, infos, desc);
	kfree(infos);
	return err;
}
#else
static inline int svq_find_vqs_op(struct virtio_device *vdev, unsigned int nvqs,
				  struct virtqueue *vqs[], struct virtqueue_info infos[],
				  struct irq_affinity *desc)
{
	return svq_find_vqs(vdev, nvqs, vqs, infos, desc);
}
#endif

#endif
