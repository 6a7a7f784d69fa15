// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * When what was given away is ours again. A misbehaving backend keeps pages of a request mapped, and a mediator that
 * vanishes leaves grants behind; a guest that reused such pages would share them with the backend. So a closing device
 * keeps its requests in flight, its rings and its grant references until one of these says that nobody can reach them
 * (docs/protocol.md, "When the frontend has its buffers back"):
 *
 * - the mediator, by its state Closed. The transaction that published the rings saw it in InitWait, so Closed came
 *   later; and only a mediator writes it. (Initialising, in a recreated directory, comes from the toolstack.)
 * - dom0, by `swept` in its record of the device, which has grown since that transaction: the device was detached,
 *   or its mediator was gone, and none of it is granted any more.
 * - for single requests, the mediator, by `queue-{n}/held`, while it is Closing with `held-pages` above 0.
 */
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "virtio_xenbus.h"

/* How often we look without an event. */
#define SVQ_PAUSE_MIN (HZ / 4)
#define SVQ_PAUSE_MAX (8 * HZ)
/* Between the removal of a detached device's last node and `swept` there is a gap that is not worth a message. */
#define SVQ_GONE_GRACE (2 * HZ)

static bool svq_is_proven(struct svq_front *front, enum xenbus_state peer)
{
	u32 swept;

	if (peer == XenbusStateClosed)
		return true;
	return !svq_node_read_swept(front, XBT_NIL, &swept) && (s32)(swept - front->swept) > 0; /* it may wrap */
}

/*
 * Reads which requests are held, if the mediator says that pages are. The order matters: the mediator writes the bits
 * before `held-pages` makes them count, and from then on only clears them.
 */
static bool svq_read_held(struct svq_front *front)
{
	struct svq_vdev *dev = front->dev;
	struct svq_queue *queue;
	bool any = false;
	unsigned int i;

	if (svq_node_read_held_pages(front, XBT_NIL, &front->held_pages) || !front->held_pages)
		return false;
	for (i = 0; dev && i < dev->num_queues; i++) {
		queue = &dev->queues[i];
		queue->held_known = !front->held_stale && svq_node_read_held(front, queue);
		if (!queue->held_known ||
		    memchr_inv(queue->held, 0, DIV_ROUND_UP(virtqueue_get_vring_size(queue->vq), BITS_PER_BYTE)))
			any = true;
	}
	/* The held pages belong to no request: then they may belong to any. */
	for (i = 0; dev && !any && i < dev->num_queues; i++)
		dev->queues[i].held_known = false;
	return true;
}

static bool svq_is_gone(struct svq_front *front, enum xenbus_state peer)
{
	if (peer == XenbusStateUnknown && !front->gone)
		front->gone_at = jiffies;
	front->gone = peer == XenbusStateUnknown;
	return front->gone && time_after(jiffies, front->gone_at + SVQ_GONE_GRACE);
}

bool svq_is_late(const struct svq_front *front)
{
	return time_after(jiffies, front->closing_at + msecs_to_jiffies(front->offer.close_timeout_ms));
}

/* Logs what the device waits for, once for each change. (The mediator writes the number of held pages last.) */
static void svq_say_hindrance(struct svq_front *front, enum svq_hindrance hindrance)
{
	unsigned int requests = front->dev ? svq_in_flight(front->dev) : 0;
	u32 pages = hindrance == SVQ_PAGES_HELD ? front->held_pages : 0;
	char count[32];

	if (hindrance == front->said && pages == front->said_pages)
		return;
	front->said = hindrance;
	front->said_pages = pages;
	if (requests == SVQ_IN_FLIGHT_UNKNOWN)
		strscpy(count, "all requests", sizeof(count));
	else
		snprintf(count, sizeof(count), "%u request%s", requests, requests == 1 ? "" : "s");
	switch (hindrance) {
	case SVQ_PAGES_HELD:
		svq_err(front, "the device's backend keeps %u page%s mapped that it must not use any more; until it lets go, or its domain is destroyed in dom0, %s of the driver cannot end\n",
			pages, pages == 1 ? "" : "s", count);
		break;
	case SVQ_MEDIATOR_GONE:
		svq_err(front, "the mediator is gone, and the device's backend may still reach what it granted; until dom0 has run `shadowvq ctl sweep`, %s of the driver cannot end\n",
			count);
		break;
	case SVQ_MEDIATOR_LATE:
		svq_warn(front, "the mediator has not closed the device within %u ms; until it has, %s of the driver cannot end\n",
			 front->offer.close_timeout_ms, count);
		break;
	case SVQ_NOT_HINDERED:
		break;
	}
}

/* Nobody can reach anything that was published. */
void svq_all_ended(struct svq_front *front)
{
	front->rings_out = false;
	svq_refs_put(front);
	svq_free_kept(front);
	if (front->said != SVQ_NOT_HINDERED)
		svq_info(front, "nothing of the device can be reached any more: all that was in flight ends now\n");
	front->said = SVQ_NOT_HINDERED;
	svq_queue_work(front, &front->end_work);
	svq_queue_work(front, &front->device_work);
	svq_wake(front);
}

/* For a closing device whose rings are out: checks what its mediator and dom0 say about them now. */
void svq_look_for_end(struct svq_front *front, enum xenbus_state peer)
{
	if (svq_is_proven(front, peer)) {
		svq_all_ended(front);
		return;
	}
	front->held_pages = 0;
	if (peer == XenbusStateClosing && svq_read_held(front))
		svq_queue_work(front, &front->end_work); /* which logs it once it knows how many are left */
	else if (svq_is_gone(front, peer))
		svq_say_hindrance(front, SVQ_MEDIATOR_GONE);
	else if (!front->gone && svq_is_late(front))
		svq_say_hindrance(front, SVQ_MEDIATOR_LATE);
	front->pause = clamp_t(unsigned long, 2 * front->pause, SVQ_PAUSE_MIN, SVQ_PAUSE_MAX);
	svq_step_later(front, front->pause);
}

/* Ends those requests of a lost device that may end. */
void svq_end_work(struct work_struct *work)
{
	struct svq_front *front = container_of(work, struct svq_front, end_work);

	mutex_lock(&front->lock);
	if (front->dev && front->lost) {
		if (!front->rings_out)
			svq_end_requests(front->dev, SVQ_END_ALL);
		else if (front->held_pages)
			svq_end_requests(front->dev, SVQ_END_RELEASED);
	}
	if (front->rings_out && front->held_pages)
		svq_say_hindrance(front, SVQ_PAGES_HELD);
	mutex_unlock(&front->lock);
	svq_front_check(front);
}

/* What a driver needs before it frees its buffers and rings; `arg` is its device. */
static bool svq_may_let_go(struct svq_front *front, void *arg)
{
	return !front->rings_out || (svq_is_late(front) && svq_in_flight(arg) == 0);
}

/*
 * For a driver that reuses its buffers when this returns. Waits as long as it takes: until nobody reaches them, or
 * until the mediator is late and no buffer is in flight, so that only rings are left, which we keep instead of freeing
 * them. Returns whether nobody reaches anything. During a shutdown it waits for nothing: what a backend still has
 * mapped ends with this domain. Call without `lock`.
 */
bool svq_wait_ended(struct svq_vdev *dev)
{
	struct svq_front *front = dev->front;

	svq_wait(front, svq_may_let_go, dev, MAX_SCHEDULE_TIMEOUT);
	return !READ_ONCE(front->rings_out);
}
