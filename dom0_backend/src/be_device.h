/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A device with its queues, requests and thread; shared by the files that implement its life. */
#ifndef SVQ_BE_DEVICE_H
#define SVQ_BE_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "be_blk.h"
#include "be_crossover.h"
#include "be_image.h"
#include "be_map.h"
#include "busy_wait.h"

struct svq_be_queue {
    bool attached;
    bool blocked; /* had no room to map a request: nothing to do before another request ends */
    uint32_t port;
    struct svq_be_ring ring;
    void *desc_va, *avail_va, *used_va;
    uint32_t desc_pages, avail_pages, used_pages;
};

/* Requests in order, linked by `next`. */
struct svq_be_req_list {
    struct svq_be_req *head;
    struct svq_be_req **tail;
};

/* A function that the control plane wants run between two rounds of the thread. */
struct svq_be_call {
    int (*function)(struct svq_be_device *dev, void *argument);
    void *argument;
    int answer;
    bool done;
};

struct svq_be_device {
    struct svq_hv *hv;
    struct svq_evtchn *evtchn; /* belongs to the thread while it runs, else to its creator */
    struct svq_be_image *image;
    struct svq_be_config config;
    struct svq_be_blk blk;
    struct svq_be_map map;
    struct svq_be_crossover crossover; /* fixed, like map.copy.pages, since the first queue was attached */
    bool copy_chosen;
    struct svq_be_io *io;
    struct svq_be_queue *queues;
    struct svq_be_stats stats;                 /* only the thread writes them */
    struct vring_desc table[SVQ_BE_TABLE_MAX]; /* scratch: the indirect table being walked */

    struct svq_be_req *requests;
    struct svq_be_req *free;
    struct svq_be_req_list held;
    struct svq_be_req_list taken;   /* in this pass, and not parsed yet */
    struct svq_be_req_list leaving; /* ended in this pass, and not copied out yet */
    uint32_t live;
    uint32_t in_flight; /* with the I/O engine */
    bool hold;

    pthread_t thread;
    bool running;       /* as the control plane sees it */
    bool quit;          /* only for the thread */
    uint64_t quit_ns;   /* since when */
    bool evtchn_failed; /* the event channels' descriptor has failed: no more kicks will come */
    struct svq_busy_wait busy_wait;

    pthread_mutex_t lock;
    pthread_cond_t answered;
    struct svq_be_call *call; /* under lock */
    _Atomic bool call_pending;
    int control_fd;

    int error_fd;
    struct svq_be_error error; /* under lock */
};

/* be_serve.c: one round of work, and the life of a request */
void svq_be_req_lists_init(struct svq_be_device *dev);
bool svq_be_serve(struct svq_be_device *dev);        /* true: it did something */
bool svq_be_serve_arm(struct svq_be_device *dev);    /* asks all peers to wake us; true: there is already work */
void svq_be_serve_quiet(struct svq_be_device *dev);  /* we poll, so peers need not kick */
void svq_be_release_held(struct svq_be_device *dev); /* lets held requests go on */
void svq_be_drop_held(struct svq_be_device *dev);    /* drops them without returning them */
void svq_be_queue_fault(struct svq_be_device *dev, struct svq_be_queue *queue, int fault);

/* be_thread.c */
void *svq_be_thread(void *device);
/* be_control.c: runs `function` between two rounds of the thread, or in the caller if there is none. */
int svq_be_in_thread(struct svq_be_device *dev, int (*function)(struct svq_be_device *, void *), void *argument);
void svq_be_answer_call(struct svq_be_device *dev);

#endif
