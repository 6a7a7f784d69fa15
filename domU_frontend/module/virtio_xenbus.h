/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio over XenBus: a device of the class "virtio" becomes a virtio device, its queues stay in this guest's
 * memory, and each queue has an event channel. The module grants nothing to anyone: the mediator, a domain that
 * this one trusts, reaches the rings by foreign mapping (docs/protocol.md).
 *
 * Who runs where. The watch callbacks run in the kernel's one XenBus watch thread, so they only note that
 * something happened. svq_step() compares the mediator's state with ours and acts; the state work calls it, and
 * so does whoever waits for the mediator, so that a wait goes on even when it is the watch thread itself that
 * waits (the device's directory vanished). Registering a virtio device runs its driver's probe, and
 * unregistering waits for its requests: both belong to the device work, which holds no lock meanwhile. Ending
 * the requests of a device that was lost has a work of its own, because those may be what the device work waits
 * for.
 */
#ifndef VIRTIO_XENBUS_H
#define VIRTIO_XENBUS_H

#include <linux/atomic.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <xen/xenbus.h>

#include "svq_nodes.h"

/* How far the connection has come. */
enum svq_phase {
	SVQ_CLOSED,	/* XenBus Closed: no ring is in use */
	SVQ_WAITING,	/* Initialising: for the mediator's offer */
	SVQ_OFFERED,	/* Initialising: the offer was read, a driver may set up its rings */
	SVQ_READY,	/* Initialised: the rings stand in XenStore */
	SVQ_CONNECTED,	/* Connected */
	SVQ_CLOSING,	/* Closing: until the mediator is Closed, it may still use the rings that it had */
};

/* What the mediator offers; checked when read. */
struct svq_offer {
	u64 features;
	u32 generation;
	u16 device_type;
	u16 num_queues;
	u16 queue_size_max;
	u16 config_bytes;
	u8 config[SVQ_BYTES_MAX_VIRTIO_BACK_CONFIG];
};

struct svq_vdev;

struct svq_queue {
	struct virtqueue *vq;
	struct svq_vdev *dev;
	unsigned int index;
	evtchn_port_t port;
	int irq;
	u32 resets;		/* how many ring resets were asked for */
	char name[32];

	/* Which requests are in flight, so that we can end them ourselves; see virtio_xenbus_abort.c. */
	spinlock_t track_lock;
	u16 avail_seen;
	u16 used_seen;
	bool blind;		/* we missed something: until nothing is in flight, `alive` says nothing */
	s8 *alive;		/* per head: how often made available, less how often used */
};

/* One virtio device. A new one is made for each registration; the driver core frees it. */
struct svq_vdev {
	struct virtio_device vdev;
	struct svq_front *front;
	bool live;		/* the virtio core has set `vdev` up */
	unsigned int num_queues;
	struct svq_queue *queues;
};

/* One XenBus device. `lock` guards all that does not say otherwise. */
struct svq_front {
	struct xenbus_device *xendev;
	struct workqueue_struct *workqueue;
	struct delayed_work state_work;
	struct work_struct abort_work;
	struct work_struct device_work;

	/* Bumped, and `wait` woken, by each watch event. No lock. */
	atomic_t events;
	wait_queue_head_t wait;
	struct xenbus_watch watch;

	struct mutex lock;
	char *otherend;			/* the mediator's directory; ours, as XenBus frees its own on resume */
	enum svq_phase phase;
	enum xenbus_state own_state;	/* what stands in our `state` node */
	bool rings_out;			/* the mediator may use the rings */
	bool removing;			/* our driver is being unbound */
	bool dying;			/* nothing may be queued any more */
	bool disowned;			/* the toolstack removed or reset our directory: it is no longer ours */
	bool refused;			/* the offer makes no sense to us */
	bool lost;			/* `dev` has no device behind it and is to be unregistered */
	unsigned int failures;		/* connections in a row that ended badly */
	unsigned long hold_until;	/* jiffies: no new connection before that */
	unsigned long connected_at;	/* jiffies */
	u8 status;			/* virtio 2.1 */
	struct svq_vdev *dev;
	struct svq_offer offer;		/* `config` and `generation` of it are under config_lock as well */
	spinlock_t config_lock;

	enum xenbus_state shown_state;	/* for XenBus's copy of our state; under shown_lock */
	spinlock_t shown_lock;
};

static inline struct svq_vdev *svq_of(struct virtio_device *vdev)
{
	return container_of(vdev, struct svq_vdev, vdev);
}

/* virtio_xenbus_main.c */
extern unsigned int svq_peer_timeout_s;

/* virtio_xenbus_state.c: all but svq_wait, svq_wake and svq_note_event want `lock` held */
void svq_step(struct svq_front *front);
void svq_begin_close(struct svq_front *front, bool orderly);
void svq_lose(struct svq_front *front, const char *why);
bool svq_wants_open(const struct svq_front *front);
void svq_queue_work(struct svq_front *front, struct work_struct *work);
bool svq_wait(struct svq_front *front, bool (*done)(struct svq_front *front, void *arg), void *arg);
bool svq_is_stopped(struct svq_front *front, void *arg);
void svq_wake(struct svq_front *front);
void svq_note_event(struct svq_front *front);

/* virtio_xenbus_node.c: `lock` held */
int svq_node_peer_state(struct svq_front *front);
bool svq_node_peer_flag(struct svq_front *front, const char *name, bool absent);
int svq_node_read_offer(struct svq_front *front, struct svq_offer *out);
int svq_node_read_config(struct svq_front *front, struct svq_offer *out);
int svq_node_read_generation(struct svq_front *front, u32 *out);
u32 svq_node_read_reset_done(struct svq_front *front, unsigned int queue);
int svq_node_own_state(struct svq_front *front);
int svq_node_switch(struct svq_front *front, enum xenbus_state state);
int svq_node_write_status(struct svq_front *front);
int svq_node_write_rings(struct svq_front *front);
int svq_node_write_reset(struct svq_front *front, struct svq_queue *queue);
int svq_node_write_enable(struct svq_front *front, struct svq_queue *queue);

/* virtio_xenbus_config.c */
extern const struct virtio_config_ops svq_config_ops;
void svq_config_refresh(struct svq_front *front);

/* virtio_xenbus_vq.c */
void svq_del_vqs(struct virtio_device *vdev);
void svq_synchronize_cbs(struct virtio_device *vdev);
int svq_disable_vq_and_reset(struct virtqueue *vq);
int svq_enable_vq_after_reset(struct virtqueue *vq);
void svq_kick_all(struct svq_vdev *dev);

/* virtio_xenbus_abort.c */
int svq_track_init(struct svq_queue *queue);
void svq_track_restart(struct svq_queue *queue);
void svq_track_free(struct svq_queue *queue);
void svq_track(struct svq_queue *queue);
void svq_abort_requests(struct svq_vdev *dev);

#endif
