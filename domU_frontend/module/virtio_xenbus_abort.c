// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Ends the requests of a device that is gone. When virtio_blk is unbound it waits for every request, and only the
 * device ends requests: without one, the unbinding, and anybody waiting for the disk, would hang forever. So once the
 * mediator has let go of the rings, we complete requests in its place: each request that nobody can reach any more
 * fails with an I/O error.
 *
 * Only the ring code knows which requests are in flight, so we keep our own count: what the driver made available and
 * what came back used, as seen at each interrupt. The driver takes back used buffers only in its interrupt handler, so
 * the ring hardly ever turns over between two looks. If it does (or if the queue is polled, without interrupts), we
 * notice, and start counting again when we next see the queue empty.
 */
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <asm/barrier.h>

#include "virtio_xenbus.h"

/* Each round admits the requests that were just on their way into a ring; with a busy disk that may take a while. */
#define SVQ_ABORT_ROUNDS 256

int svq_track_init(struct svq_queue *queue)
{
	spin_lock_init(&queue->track_lock);
	if (queue->dev->vdev.id.device != VIRTIO_ID_BLOCK)
		return 0;
	queue->alive = kcalloc(queue->vq->num_max, sizeof(*queue->alive), GFP_KERNEL);
	return queue->alive ? 0 : -ENOMEM;
}

void svq_track_restart(struct svq_queue *queue)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->track_lock, flags);
	queue->avail_seen = 0;
	queue->used_seen = 0;
	queue->missed_events = false;
	if (queue->alive)
		memset(queue->alive, 0, queue->vq->num_max * sizeof(*queue->alive));
	spin_unlock_irqrestore(&queue->track_lock, flags);
}

void svq_track_free(struct svq_queue *queue)
{
	kfree(queue->alive);
	queue->alive = NULL;
}

/* With track_lock held. */
static void svq_track_locked(struct svq_queue *queue)
{
	struct virtio_device *vdev = &queue->dev->vdev;
	const struct vring *vring = virtqueue_get_vring(queue->vq);
	u16 mask = vring->num - 1;
	u16 used, avail;
	u32 id;

	/* Used before available: whatever is used was available before. */
	used = virtio16_to_cpu(vdev, READ_ONCE(vring->used->idx));
	virt_rmb(); /* `used` before `avail`, see above */
	avail = virtio16_to_cpu(vdev, READ_ONCE(vring->avail->idx));
	virt_rmb(); /* the entries after their indices */
	if ((u16)(used - queue->used_seen) > vring->num || (u16)(avail - queue->avail_seen) > vring->num)
		queue->missed_events = true;
	if (queue->missed_events) {
		/* Nothing is in flight: that is certain, whatever we missed. */
		if (avail == used) {
			memset(queue->alive, 0, queue->vq->num_max * sizeof(*queue->alive));
			queue->missed_events = false;
		}
		queue->avail_seen = avail;
		queue->used_seen = used;
		return;
	}
	for (; queue->avail_seen != avail; queue->avail_seen++) {
		id = virtio16_to_cpu(vdev, READ_ONCE(vring->avail->ring[queue->avail_seen & mask]));
		if (id < vring->num)
			queue->alive[id]++;
	}
	for (; queue->used_seen != used; queue->used_seen++) {
		id = virtio32_to_cpu(vdev, READ_ONCE(vring->used->ring[queue->used_seen & mask].id));
		if (id < vring->num)
			queue->alive[id]--;
	}
}

/* Called in the interrupt, before and after the driver looks at the ring. */
void svq_track(struct svq_queue *queue)
{
	unsigned long flags;

	if (!queue->alive)
		return;
	spin_lock_irqsave(&queue->track_lock, flags);
	svq_track_locked(queue);
	spin_unlock_irqrestore(&queue->track_lock, flags);
}

/* DMA addresses are guest physical ones here; see svq_maps_one_to_one. */
static void *svq_dma_to_virt(u64 addr, u64 bytes)
{
	u64 last = addr + bytes - 1;

	if (!bytes || last < addr || !pfn_valid(addr >> PAGE_SHIFT) || !pfn_valid(last >> PAGE_SHIFT))
		return NULL;
	return phys_to_virt(addr);
}

/* Keeps these pages from reuse after their owner frees them. */
static void svq_pin_pages(u64 addr, u64 bytes)
{
	u64 pfn = addr >> PAGE_SHIFT;

	if (!svq_dma_to_virt(addr, bytes))
		return;
	for (; pfn <= (addr + bytes - 1) >> PAGE_SHIFT; pfn++)
		if (pfn_valid(pfn))
			get_page(pfn_to_page(pfn));
}

/*
 * Walks a block request, and pins its pages if `pin`. Its status is the last byte that the device may write (virtio
 * 5.2.6).
 */
static u8 *svq_find_status(struct virtio_device *vdev, const struct vring *vring, u16 head, bool pin)
{
	const struct vring_desc *table = vring->desc;
	const struct vring_desc *last = NULL;
	u32 entries = vring->num;
	u32 i = head, left;
	u16 flags;
	u8 *bytes;

	if (virtio16_to_cpu(vdev, table[i].flags) & VRING_DESC_F_INDIRECT) {
		entries = virtio32_to_cpu(vdev, table[i].len) / sizeof(*table);
		table = svq_dma_to_virt(virtio64_to_cpu(vdev, table[i].addr), entries * sizeof(*table));
		i = 0;
	}
	for (left = entries; table && left && i < entries; left--) {
		flags = virtio16_to_cpu(vdev, table[i].flags);
		if (flags & VRING_DESC_F_WRITE)
			last = &table[i];
		if (pin)
			svq_pin_pages(virtio64_to_cpu(vdev, table[i].addr), virtio32_to_cpu(vdev, table[i].len));
		if (!(flags & VRING_DESC_F_NEXT))
			break;
		i = virtio16_to_cpu(vdev, table[i].next);
	}
	if (!last)
		return NULL;
	entries = virtio32_to_cpu(vdev, last->len);
	bytes = svq_dma_to_virt(virtio64_to_cpu(vdev, last->addr), entries);
	return bytes ? bytes + entries - 1 : NULL;
}

/* Completes one request as the device would. */
static void svq_fail_request(struct svq_queue *queue, const struct vring *vring, u16 head, bool pin)
{
	struct virtio_device *vdev = &queue->dev->vdev;
	u16 used = virtio16_to_cpu(vdev, vring->used->idx);
	struct vring_used_elem *element = &vring->used->ring[used & (vring->num - 1)];
	u8 *status = svq_find_status(vdev, vring, head, pin);

	if (!status) {
		queue->missed_events = true;
		return;
	}
	*status = VIRTIO_BLK_S_IOERR;
	element->id = cpu_to_virtio32(vdev, head);
	element->len = cpu_to_virtio32(vdev, 1);
	virt_wmb(); /* the driver sees the index only after the entry and the status */
	WRITE_ONCE(vring->used->idx, cpu_to_virtio16(vdev, used + 1));
	queue->alive[head] = 0;
	queue->used_seen = used + 1;
}

static bool svq_may_be_held(const struct svq_queue *queue, u32 head)
{
	return !queue->held_known || queue->held[head / BITS_PER_BYTE] & BIT(head % BITS_PER_BYTE);
}

static unsigned int svq_fail_requests(struct svq_queue *queue, enum svq_ending ending)
{
	const struct vring *vring = virtqueue_get_vring(queue->vq);
	unsigned int failed = 0;
	unsigned long flags;
	u32 id;

	spin_lock_irqsave(&queue->track_lock, flags);
	svq_track_locked(queue);
	for (id = 0; id < vring->num && !queue->missed_events; id++) {
		if (queue->alive[id] <= 0 || (ending == SVQ_END_RELEASED && svq_may_be_held(queue, id)))
			continue;
		svq_fail_request(queue, vring, id, ending == SVQ_END_PINNED);
		failed++;
	}
	spin_unlock_irqrestore(&queue->track_lock, flags);
	return failed;
}

/* Lets the driver take back used buffers, which it does only if the ring is not broken. */
static void svq_let_driver_look(struct svq_queue *queue)
{
	unsigned long flags;

	local_irq_save(flags);
	__virtqueue_unbreak(queue->vq);
	vring_interrupt(queue->irq, queue->vq);
	__virtqueue_break(queue->vq);
	local_irq_restore(flags);
}

/* How many requests the driver has given away, or SVQ_IN_FLIGHT_UNKNOWN. With the front's `lock` held. */
unsigned int svq_in_flight(struct svq_vdev *dev)
{
	struct svq_queue *queue;
	unsigned int i, id, count = 0;
	unsigned long flags;
	bool missed_events;

	for (i = 0; i < dev->num_queues; i++) {
		queue = &dev->queues[i];
		if (!queue->alive)
			return SVQ_IN_FLIGHT_UNKNOWN;
		if (READ_ONCE(queue->vq->reset)) /* a completed reset has given them back */
			continue;
		spin_lock_irqsave(&queue->track_lock, flags);
		svq_track_locked(queue);
		missed_events = queue->missed_events;
		for (id = 0; id < queue->vq->num_max; id++)
			count += queue->alive[id] > 0;
		spin_unlock_irqrestore(&queue->track_lock, flags);
		if (missed_events)
			return SVQ_IN_FLIGHT_UNKNOWN;
	}
	return count;
}

/* With the front's `lock` held, once the device is broken and the mediator leaves the rings alone. */
void svq_end_requests(struct svq_vdev *dev, enum svq_ending ending)
{
	unsigned int round, i, failed = 1;

	/* In the first round the driver also gets what the mediator completed before it stopped. */
	for (round = 0; failed && round < SVQ_ABORT_ROUNDS; round++) {
		/* The driver adds to a ring with interrupts off; this waits until it is done. */
		synchronize_rcu();
		for (failed = 0, i = 0; i < dev->num_queues; i++) {
			if (!dev->queues[i].alive || READ_ONCE(dev->queues[i].vq->reset))
				continue;
			failed += svq_fail_requests(&dev->queues[i], ending);
			svq_let_driver_look(&dev->queues[i]);
		}
	}
	for (i = 0; i < dev->num_queues && ending != SVQ_END_RELEASED; i++)
		if (failed || dev->queues[i].missed_events)
			svq_err(dev->front, "queue %u: cannot end all requests in flight\n", i);
}
