/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio over XenBus: a device of the class "virtio" becomes a virtio device, its queues stay in this guest's memory,
 * and each queue has an event channel. The module itself grants nothing: the mediator, a domain that this one trusts,
 * maps the rings as foreign memory (docs/protocol.md), and writes the grants of requests into entries that the module
 * reserves for it.
 *
 * What is given back. Once rings are published, requests, rings and reserved entries belong to the mediator, until
 * something proves that no backend can reach them (virtio_xenbus_held.c). `rings_out` says so. Neither a timeout nor a
 * vanished mediator is such a proof.
 *
 * Who runs where. The watch callbacks run in the kernel's only XenBus watch thread, so they just note that something
 * happened; removing a device there waits for nothing either. svq_step() compares the mediator's state with ours and
 * acts; the state work calls it, and so does any code that waits for the mediator. Registering a virtio device runs its
 * driver's probe, and unregistering waits for its requests: the device work does both, and holds no lock meanwhile. A
 * separate work ends the requests of a lost device, because the device work may be waiting for them.
 *
 * What outlives what. XenBus removes its device when the toolstack removes the directory, whatever is in flight. So the
 * virtio device is the child of a device of ours (`anchor`), and requests in flight stay with a front that no longer
 * has a XenBus device: an orphan, which keeps the module loaded, and which a new XenBus device of the same directory
 * takes over.
 */
#ifndef VIRTIO_XENBUS_H
#define VIRTIO_XENBUS_H

#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <xen/xenbus.h>

#include "svq_nodes.h"

/* How far the connection has got. */
enum svq_phase {
	SVQ_CLOSED,	/* XenBus Closed: no ring is in use */
	SVQ_WAITING,	/* Initialising: waits for the mediator's offer */
	SVQ_OFFERED,	/* Initialising: we have read the offer, a driver may set up its rings */
	SVQ_READY,	/* Initialised: the rings are in XenStore */
	SVQ_CONNECTED,	/* Connected */
	SVQ_CLOSING,	/* Closing: until what was published is proven out of reach */
};

/* Why a closing device does not get its buffers back yet, as last logged. */
enum svq_hindrance {
	SVQ_NOT_HINDERED,
	SVQ_MEDIATOR_LATE,
	SVQ_MEDIATOR_GONE,
	SVQ_PAGES_HELD,
};

/* What the mediator offers; checked when it is read. */
struct svq_offer {
	u64 features;
	u32 generation;
	u32 grant_refs_wanted;
	u32 close_timeout_ms;
	u16 device_type;
	u16 num_queues;
	u16 queue_size_max;
	u16 config_bytes;
	u8 config[SVQ_BYTES_MAX_VIRTIO_BACK_CONFIG];
};

struct svq_vdev;
struct svq_refs;

struct svq_queue {
	struct virtqueue *vq;
	struct svq_vdev *dev;
	unsigned int index;
	evtchn_port_t port;
	int irq;
	u32 resets;		/* how many ring resets we asked for */
	char name[32];

	/* Which requests are in flight, so that we can end them ourselves; see virtio_xenbus_abort.c. */
	spinlock_t track_lock;
	u16 avail_seen;
	u16 used_seen;
	bool missed_events;	/* `alive` is not valid until nothing is in flight */
	s8 *alive;		/* for each head: how often made available, minus how often used */

	/* Which requests have pages that the backend still holds; under the front's `lock`. */
	bool held_known;	/* false: any request may have some */
	u8 held[SVQ_BYTES_MAX_VIRTIO_BACK_QUEUE_HELD];
};

/* One virtio device. Each registration gets a new one; the driver core frees it. */
struct svq_vdev {
	struct virtio_device vdev;
	struct svq_front *front;
	bool live;		/* the virtio core has set `vdev` up */
	unsigned int num_queues;
	unsigned int kept_queues;	/* of a driver that is gone: somebody may still write to their rings */
	struct svq_queue *queues;
};

/* One directory of ours in XenStore. `lock` guards every member that does not say otherwise. */
struct svq_front {
	struct device anchor;		/* parent of the virtio device; its last reference frees us */
	struct list_head entry;		/* in svq_fronts, as is `orphan`: see virtio_xenbus_front.c */
	bool orphan;			/* has no XenBus device, but a reference to the module */
	struct xenbus_device *xendev;	/* NULL while XenBus has none; changes under shown_lock as well */
	const char *nodename;		/* of our directory */
	const char *record_path;	/* of dom0's record */
	struct workqueue_struct *workqueue;
	struct delayed_work state_work;
	struct work_struct end_work;
	struct work_struct device_work;
	struct work_struct free_work;

	/* Each watch event bumps this and wakes `wait`. No lock. */
	atomic_t events;
	wait_queue_head_t wait;
	struct xenbus_watch watch;
	struct xenbus_watch record_watch;

	struct mutex lock;
	char *otherend;			/* the mediator's directory; our copy, since XenBus frees its own on resume */
	enum svq_phase phase;
	enum xenbus_state own_state;	/* what our `state` node says */
	bool rings_out;			/* mediator and backend may reach what we published */
	bool removing;			/* our driver is being unbound */
	bool dying;			/* queue no more work */
	bool disowned;			/* the toolstack removed or reset our directory: it is no longer ours */
	bool refused;			/* the offer makes no sense to us */
	bool lost;			/* `dev` has no device behind it and must be unregistered */
	unsigned int failures;		/* consecutive connections that ended badly */
	unsigned long hold_until;	/* jiffies: no new connection before that */
	unsigned long connected_at;	/* jiffies */
	unsigned long closing_at;	/* jiffies */
	u8 status;			/* virtio 2.1 */
	struct svq_vdev *dev;
	struct svq_offer offer;		/* its `config` and `generation` are under config_lock as well */
	spinlock_t config_lock;

	/* This tells later whether `rings_out` is over; see virtio_xenbus_held.c. */
	u32 swept;			/* as in dom0's record when the rings were published */
	bool held_stale;		/* pages were already held when the rings were published */
	u32 held_pages;
	unsigned long pause;		/* jiffies until we look again without an event */
	bool gone;			/* at the last look the mediator was gone, since gone_at (jiffies) */
	unsigned long gone_at;
	enum svq_hindrance said;
	u32 said_pages;
	struct svq_vdev *kept;		/* the device with `kept_queues` */

	struct svq_refs *refs;		/* published with the rings; NULL: none */

	enum xenbus_state shown_state;	/* for XenBus's copy of our state; under shown_lock */
	spinlock_t shown_lock;
};

#define svq_say(level, front, format, ...) \
	printk(level "virtio_xenbus %s: " format, dev_name(&(front)->anchor), ##__VA_ARGS__)
#define svq_err(front, format, ...) svq_say(KERN_ERR, front, format, ##__VA_ARGS__)
#define svq_warn(front, format, ...) svq_say(KERN_WARNING, front, format, ##__VA_ARGS__)
#define svq_info(front, format, ...) svq_say(KERN_INFO, front, format, ##__VA_ARGS__)

static inline struct svq_vdev *svq_of(struct virtio_device *vdev)
{
	return container_of(vdev, struct svq_vdev, vdev);
}

/* virtio_xenbus_main.c */
extern bool svq_halting;
int svq_adopt_state(struct svq_front *front);

/* virtio_xenbus_front.c */
extern struct list_head svq_fronts;
extern struct mutex svq_fronts_lock;
int svq_fronts_init(void);
void svq_fronts_exit(void);
struct svq_front *svq_front_take(struct xenbus_device *xendev);
int svq_front_watch(struct svq_front *front);
void svq_front_unwatch(struct svq_front *front);
void svq_front_leave(struct svq_front *front);
void svq_front_check(struct svq_front *front);
bool svq_front_is_empty(struct svq_front *front, void *arg);
void svq_note_event(struct svq_front *front);

/* virtio_xenbus_device.c */
void svq_device_work(struct work_struct *work);

/* virtio_xenbus_state.c: all but svq_wait, svq_wake and svq_peer_timeout need `lock` held */
void svq_step(struct svq_front *front);
void svq_step_later(struct svq_front *front, unsigned long delay);
void svq_begin_close(struct svq_front *front, bool orderly);
void svq_lose(struct svq_front *front, const char *why);
bool svq_wants_open(const struct svq_front *front);
void svq_queue_work(struct svq_front *front, struct work_struct *work);
unsigned long svq_peer_timeout(void);
bool svq_wait(struct svq_front *front, bool (*done)(struct svq_front *front, void *arg), void *arg,
	      unsigned long timeout);
void svq_wake(struct svq_front *front);

/* virtio_xenbus_held.c: `lock` held, except for svq_end_work and svq_wait_ended */
void svq_all_ended(struct svq_front *front);
void svq_look_for_end(struct svq_front *front, enum xenbus_state peer);
void svq_end_work(struct work_struct *work);
bool svq_is_late(const struct svq_front *front);
bool svq_wait_ended(struct svq_vdev *dev);

/* virtio_xenbus_node.c: `lock` held */
int svq_node_peer_state(struct svq_front *front);
bool svq_node_peer_flag(struct svq_front *front, const char *name, bool absent);
int svq_node_read_offer(struct svq_front *front, struct svq_offer *out);
int svq_node_read_config(struct svq_front *front, struct svq_offer *out);
int svq_node_read_generation(struct svq_front *front, u32 *out);
u32 svq_node_read_reset_done(struct svq_front *front, unsigned int queue);
int svq_node_own_state(struct svq_front *front);
bool svq_node_same_otherend(struct svq_front *front);
int svq_node_read_held_pages(struct svq_front *front, struct xenbus_transaction xbt, u32 *out);
bool svq_node_read_held(struct svq_front *front, struct svq_queue *queue);
int svq_node_read_swept(struct svq_front *front, struct xenbus_transaction xbt, u32 *out);
int svq_read_state(struct xenbus_transaction xbt, const char *dir);

/* virtio_xenbus_own.c: `lock` held */
void svq_node_check_own(struct svq_front *front);
void svq_show_state(struct svq_front *front, enum xenbus_state state, bool ahead);
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
void svq_free_kept(struct svq_front *front);
void svq_synchronize_cbs(struct virtio_device *vdev);
int svq_disable_vq_and_reset(struct virtqueue *vq);
int svq_enable_vq_after_reset(struct virtqueue *vq);
void svq_kick_all(struct svq_vdev *dev);

/* virtio_xenbus_abort.c */
enum svq_ending {
	SVQ_END_ALL,		/* nobody can reach any of them */
	SVQ_END_RELEASED,	/* except those whose pages may be held */
	SVQ_END_PINNED,		/* all, and their pages are never reused */
};

#define SVQ_IN_FLIGHT_UNKNOWN UINT_MAX

int svq_track_init(struct svq_queue *queue);
void svq_track_restart(struct svq_queue *queue);
void svq_track_free(struct svq_queue *queue);
void svq_track(struct svq_queue *queue);
unsigned int svq_in_flight(struct svq_vdev *dev);
void svq_end_requests(struct svq_vdev *dev, enum svq_ending ending);

/* virtio_xenbus_refs.c: `lock` held for a front's */
struct svq_refs {
	struct list_head entry;
	domid_t mediator;
	grant_ref_t first;
	u32 count;
	unsigned int users;	/* fronts */
};

void svq_refs_get(struct svq_front *front);
void svq_refs_put(struct svq_front *front);
void svq_refs_exit(void);

#endif
