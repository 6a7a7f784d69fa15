// SPDX-License-Identifier: GPL-2.0-or-later
/* The state machine of the frontend's side, as in docs/protocol.md, and waiting for the mediator. */
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/virtio_config.h>

#include "compat.h"
#include "virtio_xenbus.h"

static unsigned int svq_peer_timeout_s = 30;
module_param_named(peer_timeout_s, svq_peer_timeout_s, uint, 0644);
MODULE_PARM_DESC(peer_timeout_s, "How long a starting driver waits for the mediator to connect, in seconds");

/* A device that keeps failing is offered to its driver at most this often, each time after a pause. */
#define SVQ_FAILURES_MAX 32
#define SVQ_HOLD_OFF HZ
/* A connection that lasted this long was a good one. */
#define SVQ_GOOD_CONNECTION (10 * HZ)
/* No wait is longer, whatever the module parameter says. */
#define SVQ_PEER_TIMEOUT_S_MAX 3600U
/* Waits check this often even if no watch fires: while devices are suspended, the state work does not run. */
#define SVQ_POLL_INTERVAL (HZ / 2)

/* Something happened that somebody may be waiting for. */
void svq_wake(struct svq_front *front)
{
	atomic_inc(&front->events);
	wake_up_all(&front->wait);
}

void svq_queue_work(struct svq_front *front, struct work_struct *work)
{
	if (!front->dying)
		queue_work(front->workqueue, work);
}

void svq_step_later(struct svq_front *front, unsigned long delay)
{
	if (!front->dying)
		mod_delayed_work(front->workqueue, &front->state_work, delay);
}

/* Whether to open a closed device again, as far as we know without asking XenStore. */
bool svq_wants_open(const struct svq_front *front)
{
	return !front->removing && !front->lost && !front->refused && !front->disowned &&
	       front->failures < SVQ_FAILURES_MAX && !READ_ONCE(svq_halting) && system_state <= SYSTEM_RUNNING;
}

/* Starts closing, if we have not yet. Not `orderly`: it counts as a failure of the connection. */
void svq_begin_close(struct svq_front *front, bool orderly)
{
	if (front->phase == SVQ_CLOSED || front->phase == SVQ_CLOSING)
		return;
	if (!orderly) {
		if (front->phase == SVQ_CONNECTED &&
		    time_after(jiffies, front->connected_at + SVQ_GOOD_CONNECTION))
			front->failures = 0;
		if (++front->failures == SVQ_FAILURES_MAX)
			svq_err(front, "failed %u times: rebind the driver to try again\n", SVQ_FAILURES_MAX);
		front->hold_until = jiffies + SVQ_HOLD_OFF;
	}
	front->phase = SVQ_CLOSING;
	front->closing_at = jiffies;
	front->pause = 0;
	front->gone = false;
	svq_node_switch(front, XenbusStateClosing);
}

/*
 * The device is gone or broken: close, fail its driver's requests as soon as nobody can reach them, and then take it
 * away from the driver.
 */
void svq_lose(struct svq_front *front, const char *why)
{
	struct svq_vdev *dev = front->dev;

	svq_begin_close(front, false);
	if (!dev || front->lost)
		return;
	svq_err(front, "device lost: %s\n", why);
	front->lost = true;
	if (dev->live) {
		virtio_break_device(&dev->vdev);
		if (front->status & VIRTIO_CONFIG_S_DRIVER_OK) {
			WRITE_ONCE(front->status, front->status | VIRTIO_CONFIG_S_NEEDS_RESET); /* virtio 2.1.2 */
			virtio_config_changed(&dev->vdev);
		}
	}
	svq_queue_work(front, &front->end_work);
	svq_queue_work(front, &front->device_work);
}

static void svq_take_offer(struct svq_front *front)
{
	struct svq_offer offer;
	unsigned long flags;
	int err;

	if (!front->xendev)
		return;
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

/* The toolstack has recreated our directory: it is ours again, now that the old connection is completely over. */
static void svq_take_over(struct svq_front *front)
{
	if (front->dev) {
		svq_lose(front, "it was removed");
		return;
	}
	if (!front->xendev || front->removing || svq_node_own_state(front) != XenbusStateInitialising ||
	    !svq_node_same_otherend(front))
		return;
	front->disowned = false;
	front->refused = false;
	front->failures = 0;
	svq_adopt_state(front);
}

static void svq_connected(struct svq_front *front)
{
	front->phase = SVQ_CONNECTED;
	front->connected_at = jiffies;
	svq_node_switch(front, XenbusStateConnected);
	/* A kick before the mediator bound its end went nowhere. */
	if (front->dev)
		svq_kick_all(front->dev);
}

/* Handles what the mediator may tell us while a device exists. */
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

/*
 * Goes on with closing; returns whether it is complete. A mediator that is Closed takes up no rings once it sees our
 * Closing, so our node must say Closing before we believe its state.
 */
static bool svq_close(struct svq_front *front, enum xenbus_state peer)
{
	svq_node_check_own(front);
	if (!front->disowned && front->own_state != XenbusStateClosing) {
		svq_node_switch(front, XenbusStateClosing);
		svq_step_later(front, SVQ_HOLD_OFF);
		return false;
	}
	if (front->rings_out)
		svq_look_for_end(front, peer);
	if (front->rings_out)
		return false;
	/* If the toolstack recreated the directories, the mediator need not pass through Closed again. */
	if (peer != XenbusStateClosed && peer != XenbusStateUnknown &&
	    !(front->disowned && (peer == XenbusStateInitialising || peer == XenbusStateInitWait)))
		return false;
	svq_node_switch(front, XenbusStateClosed);
	return true;
}

static void svq_step_once(struct svq_front *front, enum xenbus_state peer)
{
	bool peer_ends = peer == XenbusStateClosing || peer == XenbusStateClosed || peer == XenbusStateUnknown;

	switch (front->phase) {
	case SVQ_CLOSING:
		if (svq_close(front, peer))
			front->phase = SVQ_CLOSED;
		break;
	case SVQ_CLOSED:
		if (front->disowned)
			svq_take_over(front);
		else if (peer == XenbusStateClosed)
			svq_reopen(front);
		else if (peer == XenbusStateUnknown && front->dev && !front->lost)
			svq_lose(front, "the mediator is gone");
		break;
	case SVQ_WAITING:
		/* After a reopen the mediator's node says Closed until it offers again. */
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
			svq_lose(front, "the mediator restarted");
		break;
	}
}

/* Compares the mediator's state with ours and acts on it. Does not wait for the mediator or for a driver. */
void svq_step(struct svq_front *front)
{
	enum svq_phase before;
	unsigned int i;
	int peer;

	/* One state of the mediator leads through each phase at most once. */
	for (i = 0; i <= SVQ_CLOSING; i++) {
		/* Read it each time: its value from before we wrote our state no longer counts, see svq_close. */
		peer = svq_node_peer_state(front);
		if (peer < 0) {
			svq_step_later(front, SVQ_HOLD_OFF);
			return;
		}
		before = front->phase;
		svq_step_once(front, peer);
		if (front->phase == before)
			break;
	}
	if (front->phase >= SVQ_OFFERED && front->phase <= SVQ_CONNECTED)
		svq_look_at_device(front);
}

/* How long a starting driver, or the unbinding of ours, waits for the mediator. */
unsigned long svq_peer_timeout(void)
{
	return min(READ_ONCE(svq_peer_timeout_s), SVQ_PEER_TIMEOUT_S_MAX) * HZ;
}

/*
 * Waits until `done` (called with `lock` held), but no longer than `timeout` (MAX_SCHEDULE_TIMEOUT: no limit), and not
 * during a shutdown. Returns the last result of `done`. Call without `lock`.
 */
bool svq_wait(struct svq_front *front, bool (*done)(struct svq_front *front, void *arg), void *arg,
	      unsigned long timeout)
{
	unsigned long deadline = jiffies + timeout;
	bool finished, expired;
	int seen;

	for (;;) {
		expired = READ_ONCE(svq_halting) || (timeout != MAX_SCHEDULE_TIMEOUT && time_after(jiffies, deadline));
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
