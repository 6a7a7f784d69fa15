/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The two sides of a rig with a worker as running programs: they notify each other, and sleep in between. */
#ifndef SVQ_TEST_RIG_PEERS_H
#define SVQ_TEST_RIG_PEERS_H

#include <pthread.h>

#include "rig_view.h"

enum { PEER_PATIENCE_MS = 60000 }; /* long enough to call it a hang on any machine */

/* A second device on the same guest, with queues at rig->q[first] and up, served by `worker`. */
struct svq_device *rig_add_device(struct rig *rig, struct svq_worker *worker, uint16_t first, uint16_t queues);

/* The driver's side, for the thread that owns rig->frontend_ec. */
void driver_offer(struct rig *rig, uint16_t queue, uint16_t head); /* not kicked yet */
void driver_kick(struct rig *rig, uint16_t queue, uint16_t old);   /* if wanted, for what was offered since `old` */
int driver_reap(struct rig *rig, uint16_t queue);                  /* a head, or -1 */
/* Sleeps until the queue has a used entry. False: nothing came: a notification was lost. */
bool driver_wait(struct rig *rig, uint16_t queue);
/* Sends a thousand notifications without work. */
void driver_storm(struct rig *rig, uint16_t queue);

/* The backend: a thread that returns every chain of queues 0 .. queues - 1, sleeping in between. */
struct backend {
    struct rig *rig;
    uint16_t queues;
    int stop_fd;
    pthread_t thread;
    uint64_t answered; /* atomic */
};
void backend_start(struct backend *backend, struct rig *rig, uint16_t queues);
void backend_stop(struct backend *backend);

#endif
