// SPDX-License-Identifier: GPL-2.0-or-later
/* The state machine of the frontend's side, as docs/protocol.md draws it, and waiting for the mediator. */
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/virtio_config.h>

#include "compat.h"
#include "virtio_xenbus.h"

/* A device that keeps failing is offered to its driver no more than this often, and after a pause. */
#define SVQ_FAILURES_MAX 32
#define SVQ_HOLD_OFF HZ
/* A connection that held for so long was a good one. */
#define SVQ_GOOD_CONNECTION (10 * HZ)
/* No wait is longer, whatever the module parameter says. */
#define SVQ_PEER_TIMEOUT_S_MAX 3600U
/* Waits look this often even if no watch fires: the watch thread may be the one that waits. */
#define SVQ_POLL_INTERVAL (HZ / 10)

/* Something happened that a wait may be waiting for. */
void svq_wake(struct svq_front *front)
{
	atomic_inc(&front->events);
	wake_up_all(&front->wait);
}

/* In the watch thread. */
void svq_note_event(struct svq_front *front)
{
	unsigned long flags;

	/* See svq_node_switch: here, and nowhere else, XenBus's copy of our state leaves Initialising. */
	spin_lock_irqsave(&front->shown_lock, flags);
	front->xendev->state = front->shown_state;
	spin_unlock_irqrestore(&front->shown_lock, flags);
	svq_wake(front);
	mod_delayed_work(front->workqueue, &front->state_work, 0);
}

void svq_queue_work(struct svq_front *front, struct work_struct *work)
{
	if (!front->dying)
		queue_work(front->workqueue, work);
}

static void svq_step_later(struct svq_front *front, unsigned long delay)
{
	if (!front->dying)
		mod_delayed_work(front->workqueue, &front->state_work, delay);
}

/* Whether a closed device is to be opened again, as far as we know without asking XenStore. */
bool svq_wants_open(const struct svq_front *front)
{
	return !front->removing && !front->lost && !front->refused && !front->disowned &&
	       front->failures < SVQ_FAILURES_MAX && system_state <= SYSTEM_RUNNING;
}

/* Starts closing, unless that has been done. Not orderly: it counts as a failure of the connection. */
void svq_begin_close(struct svq_front *front, bool orderly)
{
	if (front->phase == SVQ_CLOSED || front->phase == SVQ_CLOSING)
		return;
	if (!orderly) {
		if (front->phase == SVQ_CONNECTED &&
		    time_after(jiffies, front->connected_at + SVQ_GOOD_CONNECTION))
			front->failures = 0;
		if (++front->failures == SVQ_FAILURES_MAX)
			dev_err(&front->xendev->dev, "failed %u times: bind the driver anew to try again\n",
				SVQ_FAILURES_MAX);
		front->hold_until = jiffies + SVQ_HOLD_OFF;
	}
	front->phase = SVQ_CLOSING;
	svq_node_switch(front, XenbusStateClosing);
}

/* The device is gone or broken: fail its driver's requests, take it away from the driver, and close. */
void svq_lose(struct svq_front *front, const char *why)
{
	struct svq_vdev *dev = front->dev;

	svq_begin_close(front, false);
	if (!dev || front->lost)
		return;
	dev_err(&front->xendev->dev, "device lost: %s\n", why);
	front->lost = true;
	if (dev->live) {
		virtio_break_device(&dev->vdev);
		if (front->status & VIRTIO_CONFIG_S_DRIVER_OK) {
			WRITE_ONCE(front->status, front->status | VIRTIO_CONFIG_S_NEEDS_RESET); /* virtio 2.1.2 */
			virtio_config_changed(&dev->vdev);
		}
	}
	svq_queue_work(front, &front->abort_work);
	svq_queue_work(front, &front->device_work);
}

static void svq_take_offer(struct svq_front *front)
{
	struct svq_offer offer;
	unsigned long flags;
	int err;

	err = svq_node_read_offer(front, &offer);
	if (err == -EAGAIN || err == -ENOMEM) {
		svq_step_later(front, SVQ_HOLD_OFF);
		return;
	}
	if (err) {
		front->refused = true;
		svq_lose(front, "its offer was refused");
		return;
	}
	if (front->dev && front->dev->vdev.id.device != offer.device_type) {
		svq_lose(front, "the mediator offers another type of device now");
		return;
	}
	spin_lock_irqsave(&front->config_lock, flags);
	front->offer = offer;
	spin_unlock_irqrestore(&front->config_lock, flags);
	front->phase = SVQ_OFFERED;
	svq_queue_work(front, &front->device_work);
}

static void svq_reopen(struct svq_front *front)
{
	if (!svq_wants_open(front) ||
	    !svq_node_peer_flag(front, SVQ_NODE_VIRTIO_BACK_ONLINE, SVQ_DEFAULT_VIRTIO_BACK_ONLINE))
		return;
	if (time_before(jiffies, front->hold_until)) {
		svq_step_later(front, front->hold_until - jiffies + 1);
		return;
	}
	if (!svq_node_switch(front, XenbusStateInitialising))
		front->phase = SVQ_WAITING;
}

static void svq_connected(struct svq_front *front)
{
	front->phase = SVQ_CONNECTED;
	front->connected_at = jiffies;
	svq_node_switch(front, XenbusStateConnected);
	/* A kick before the mediator had bound its end went nowhere. */
	if (front->dev)
		svq_kick_all(front->dev);
}

/* What the mediator may tell while a device is there. */
static void svq_look_at_device(struct svq_front *front)
{
	u32 generation;

	if (!svq_node_peer_flag(front, SVQ_NODE_VIRTIO_BACK_ONLINE, SVQ_DEFAULT_VIRTIO_BACK_ONLINE)) {
		svq_lose(front, "it was detached");
		return;
	}
	if (front->phase == SVQ_CONNECTED &&
	    svq_node_peer_flag(front, SVQ_NODE_VIRTIO_BACK_NEEDS_RESET, SVQ_DEFAULT_VIRTIO_BACK_NEEDS_RESET)) {
		svq_lose(front, "the mediator says that it needs a reset");
		return;
	}
	if (!svq_node_read_generation(front, &generation) && generation != front->offer.generation)
		svq_config_refresh(front);
}

static void svq_step_once(struct svq_front *front, enum xenbus_state peer)
{
	bool peer_ends = peer == XenbusStateClosing || peer == XenbusStateClosed || peer == XenbusStateUnknown;

	switch (front->phase) {
	case SVQ_CLOSING:
		/* If the toolstack made the directories anew, the mediator need not pass through Closed again. */
		if (peer == XenbusStateClosed || peer == XenbusStateUnknown ||
		    (front->disowned && (peer == XenbusStateInitialising || peer == XenbusStateInitWait))) {
			front->phase = SVQ_CLOSED;
			front->rings_out = false;
			svq_node_switch(front, XenbusStateClosed);
		}
		break;
	case SVQ_CLOSED:
		if (peer == XenbusStateClosed)
			svq_reopen(front);
		else if (peer == XenbusStateUnknown && front->dev && !front->lost)
			svq_lose(front, "the mediator is gone");
		break;
	case SVQ_WAITING:
		/* Closed is what stands there after a reopen, until the mediator offers again. */
		if (peer == XenbusStateInitWait)
			svq_take_offer(front);
		else if (peer == XenbusStateClosing || peer == XenbusStateUnknown)
			svq_lose(front, "the mediator closed it");
		break;
	case SVQ_OFFERED:
		if (peer_ends || peer == XenbusStateInitialising)
			svq_lose(front, "the mediator took its offer back");
		break;
	case SVQ_READY:
		if (peer == XenbusStateConnected)
			svq_connected(front);
		else if (peer_ends || peer == XenbusStateInitialising)
			svq_lose(front, "the mediator closed it");
		break;
	case SVQ_CONNECTED:
		if (peer_ends)
			svq_lose(front, "the mediator closed it");
		else if (peer == XenbusStateInitialising || peer == XenbusStateInitWait)
			svq_lose(front, "the mediator started anew");
		break;
	}
}

/* Compares the mediator's state with ours and acts on it. Does not wait for the mediator or for a driver. */
void svq_step(struct svq_front *front)
{
	enum svq_phase before;
	unsigned int i;
	int peer;

	peer = svq_node_peer_state(front);
	if (peer < 0)
		return;
	/* One state of the mediator leads through each phase at most once. */
	for (i = 0; i <= SVQ_CLOSING; i++) {
		before = front->phase;
		svq_step_once(front, peer);
		if (front->phase == before)
			break;
	}
	if (front->phase >= SVQ_OFFERED && front->phase <= SVQ_CONNECTED)
		svq_look_at_device(front);
}

/* Nobody but us uses the rings. */
bool svq_is_stopped(struct svq_front *front, void *arg)
{
	return !front->rings_out;
}

/*
 * Waits until `done`, which is asked with `lock` held, but no longer than the timeout for the mediator. Returns
 * what `done` said last. Call without `lock`.
 */
bool svq_wait(struct svq_front *front, bool (*done)(struct svq_front *front, void *arg), void *arg)
{
	unsigned long deadline = jiffies + min(READ_ONCE(svq_peer_timeout_s), SVQ_PEER_TIMEOUT_S_MAX) * HZ;
	bool finished, expired;
	int seen;

	for (;;) {
		expired = time_after(jiffies, deadline);
		seen = atomic_read(&front->events);
		mutex_lock(&front->lock);
		svq_step(front);
		finished = done(front, arg);
		mutex_unlock(&front->lock);
		if (finished || expired)
			return finished;
		wait_event_timeout(front->wait, atomic_read(&front->events) != seen, SVQ_POLL_INTERVAL);
	}
}
