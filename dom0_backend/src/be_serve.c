/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of requests: taken from a ring, mapped or copied, parsed, carried out, copied or unmapped, returned. Runs in
 * the thread. What a pass takes is copied in with one call, and what ends in it is copied out with one call.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "barrier.h"
#include "be_device.h"
#include "clock.h"

enum {
    TAKE_MAX = 64,                     /* requests from one queue before the others get their turn */
    COPY_UNTIL_NS = 200 * 1000 * 1000, /* after svq_be_stop: svq_backend.h says why */
};

static void list_init(struct svq_be_req_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void list_add(struct svq_be_req_list *list, struct svq_be_req *req)
{
    req->next = NULL;
    *list->tail = req;
    list->tail = &req->next;
}

static struct svq_be_req *list_take(struct svq_be_req_list *list)
{
    struct svq_be_req *req = list->head;
    if (req) {
        list->head = req->next;
        if (!list->head)
            list->tail = &list->head;
    }
    return req;
}

void svq_be_req_lists_init(struct svq_be_device *dev)
{
    list_init(&dev->held);
    list_init(&dev->taken);
    list_init(&dev->leaving);
}

void svq_be_queue_fault(struct svq_be_device *dev, struct svq_be_queue *queue, int fault)
{
    int index = (int)(queue - dev->queues);
    queue->ring.fault = fault;
    pthread_mutex_lock(&dev->lock);
    if (dev->error.fault == SVQ_BE_FAULT_NONE) {
        dev->error.fault = fault;
        dev->error.queue = index;
        snprintf(dev->error.text, sizeof dev->error.text, "queue %d of domain %u stopped: %s", index,
                 dev->config.mediator_domid, svq_be_fault_text(fault));
    }
    pthread_mutex_unlock(&dev->lock);
    eventfd_write(dev->error_fd, 1);
}

static struct svq_be_req *take_free(struct svq_be_device *dev)
{
    struct svq_be_req *req = dev->free;
    dev->free = req->next;
    svq_store_u64(&dev->stats.live_requests, ++dev->live);
    return req;
}

static void give_free(struct svq_be_device *dev, struct svq_be_req *req)
{
    req->state = SVQ_BE_REQ_FREE;
    req->next = dev->free;
    dev->free = req;
    svq_store_u64(&dev->stats.live_requests, --dev->live);
}

/* Lifetime strict: nothing of the frontend is mapped by the time the used entry is visible. */
static void complete(struct svq_be_device *dev, struct svq_be_req *req)
{
    struct svq_be_queue *queue = &dev->queues[req->queue];
    uint32_t length = svq_be_blk_finish(&dev->blk, req);
    if (svq_be_unmap_request(&dev->map, req))
        svq_be_queue_fault(dev, queue, SVQ_BE_FAULT_UNMAP); /* not returned: its pages may still be mapped */
    else if (queue->ring.fault != SVQ_BE_FAULT_UNMAP)
        svq_be_ring_push(&queue->ring, req->head, length);
    give_free(dev, req);
    for (uint32_t i = 0; i < dev->config.queues; i++)
        dev->queues[i].blocked = false;
}

/* Drops a request without returning it. */
static void drop(struct svq_be_device *dev, struct svq_be_req *req)
{
    if (svq_be_unmap_request(&dev->map, req))
        svq_be_queue_fault(dev, &dev->queues[req->queue], SVQ_BE_FAULT_UNMAP);
    give_free(dev, req);
}

/* A request that needs no more I/O. */
static void end(struct svq_be_device *dev, struct svq_be_req *req)
{
    if (!svq_be_map_copies_out(req)) {
        complete(dev, req);
    } else if (dev->quit && svq_now_ns() - dev->quit_ns > COPY_UNTIL_NS) {
        drop(dev, req);
    } else {
        svq_be_blk_fill(req);
        svq_be_map_add_out(&dev->map, req);
        list_add(&dev->leaving, req);
    }
}

static void return_copied(struct svq_be_device *dev)
{
    struct svq_be_req *req;
    svq_be_map_copy_out(&dev->map, dev->leaving.head);
    while ((req = list_take(&dev->leaving)))
        complete(dev, req);
}

static void run(struct svq_be_device *dev, struct svq_be_req *req)
{
    if (req->ready) {
        end(dev, req);
        return;
    }
    req->state = SVQ_BE_REQ_RUNNING;
    dev->in_flight++;
    svq_be_io_start(dev->io, &req->op);
}

static void hold(struct svq_be_device *dev, struct svq_be_req *req)
{
    req->state = SVQ_BE_REQ_HELD;
    list_add(&dev->held, req);
    svq_count(&dev->stats.held_requests, 1);
}

static struct svq_be_req *take_held(struct svq_be_device *dev)
{
    struct svq_be_req *req = list_take(&dev->held);
    if (req)
        svq_store_u64(&dev->stats.held_requests, dev->stats.held_requests - 1);
    return req;
}

void svq_be_release_held(struct svq_be_device *dev)
{
    struct svq_be_req *req;
    while ((req = take_held(dev)))
        run(dev, req);
}

void svq_be_drop_held(struct svq_be_device *dev)
{
    struct svq_be_req *req;
    while ((req = take_held(dev)))
        drop(dev, req);
}

/* Reads the chain of a head that was just taken, and gets its memory. 0, or -errno and the request is not live. */
static int fetch(struct svq_be_device *dev, struct svq_be_queue *queue, struct svq_be_req *req, uint16_t head)
{
    struct svq_be_table_reader reader = { .read = svq_be_map_read_table, .context = &dev->map, .table = dev->table };
    req->queue = (uint16_t)(queue - dev->queues);
    req->head = head;
    int rc = svq_be_chain_walk(&queue->ring, head, &dev->map.window, &reader, &req->chain);
    if (rc)
        return rc;
    rc = svq_be_map_request(&dev->map, req);
    if (rc == -EPROTO || rc == -EIO)
        queue->ring.fault = rc == -EIO ? SVQ_BE_FAULT_UNMAP : SVQ_BE_FAULT_POOL_MAP;
    return rc;
}

/* Takes one request. 1: *out; 0: there is none, or no room for it now; -errno: the ring has a fault. */
static int take_one(struct svq_be_device *dev, struct svq_be_queue *queue, struct svq_be_req **out)
{
    uint16_t head;
    int rc = svq_be_ring_pop(&queue->ring, &head);
    if (rc <= 0)
        return rc;
    *out = take_free(dev);
    rc = fetch(dev, queue, *out, head);
    if (rc == 0)
        return 1;
    give_free(dev, *out);
    if (rc != -EAGAIN)
        return rc;
    svq_be_ring_unpop(&queue->ring, head);
    queue->blocked = true;
    return 0;
}

/* Takes what the queue offers. True: it took something. */
static bool take(struct svq_be_device *dev, struct svq_be_queue *queue)
{
    uint32_t taken = 0;
    while (taken < TAKE_MAX && dev->free && !queue->blocked && !queue->ring.fault) {
        struct svq_be_req *req = NULL;
        int rc = take_one(dev, queue, &req);
        if (rc < 0)
            svq_be_queue_fault(dev, queue, queue->ring.fault);
        if (rc <= 0)
            break;
        taken++;
        list_add(&dev->taken, req);
    }
    return taken > 0;
}

/* Begins with what this pass has taken. Nothing of a request is parsed before it has all been copied. */
static void begin_taken(struct svq_be_device *dev)
{
    struct svq_be_req *req;
    svq_be_map_copy_in(&dev->map);
    while ((req = list_take(&dev->taken))) {
        svq_be_map_check_in(&dev->map, req);
        svq_be_blk_begin(&dev->blk, req);
        if (dev->hold)
            hold(dev, req);
        else
            run(dev, req);
    }
}

/* True: start its next operation. Tells the control plane about the first flush that failed. */
static bool next(struct svq_be_device *dev, struct svq_be_req *req)
{
    bool known = svq_be_flush_failed(dev->image);
    bool more = svq_be_blk_next(&dev->blk, req);
    if (!known && svq_be_flush_failed(dev->image))
        eventfd_write(dev->error_fd, 1);
    return more;
}

static bool finish_io(struct svq_be_device *dev)
{
    struct svq_be_op *op;
    bool any = false;
    while ((op = svq_be_io_reap(dev->io))) {
        struct svq_be_req *req = (struct svq_be_req *)(void *)((char *)op - offsetof(struct svq_be_req, op));
        any = true;
        if (next(dev, req)) {
            svq_be_io_start(dev->io, &req->op);
        } else {
            dev->in_flight--;
            end(dev, req);
        }
    }
    return any;
}

static void publish(struct svq_be_device *dev, struct svq_be_queue *queue)
{
    if (queue->ring.fault == SVQ_BE_FAULT_UNMAP || !svq_be_ring_publish(&queue->ring))
        return;
    svq_count(&dev->stats.notifies, 1);
    if (svq_evtchn_notify(dev->evtchn, queue->port) && !queue->ring.fault)
        svq_be_queue_fault(dev, queue, SVQ_BE_FAULT_EVTCHN);
}

bool svq_be_serve(struct svq_be_device *dev)
{
    bool any = finish_io(dev);
    for (uint32_t i = 0; i < dev->config.queues && !dev->quit; i++) {
        if (dev->queues[i].attached)
            any |= take(dev, &dev->queues[i]);
    }
    begin_taken(dev);
    svq_be_io_submit(dev->io);
    any |= finish_io(dev);
    return_copied(dev);
    for (uint32_t i = 0; i < dev->config.queues; i++) {
        if (dev->queues[i].attached)
            publish(dev, &dev->queues[i]);
    }
    return any;
}

bool svq_be_serve_arm(struct svq_be_device *dev)
{
    bool work = false;
    svq_be_io_wakeups(dev->io, true);
    for (uint32_t i = 0; i < dev->config.queues; i++) {
        struct svq_be_queue *queue = &dev->queues[i];

        /* Work that we have no room for does not count: the engine wakes us when a request ends */
        if (queue->attached && svq_be_ring_arm(&queue->ring) && !queue->blocked && dev->free)
            work = true;
    }
    return work;
}

void svq_be_serve_quiet(struct svq_be_device *dev)
{
    svq_be_io_wakeups(dev->io, false);
    for (uint32_t i = 0; i < dev->config.queues; i++) {
        if (dev->queues[i].attached)
            svq_be_ring_quiet(&dev->queues[i].ring);
    }
}
