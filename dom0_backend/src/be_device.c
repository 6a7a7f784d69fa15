/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
/* Creating, attaching, starting, stopping and destroying a device. */
#include "be_device.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "barrier.h"
#include "be_error.h"
#include "clock.h"

enum {
    DEFAULT_REQUESTS = 256,
    MOST_REQUESTS = 4096,
    DEFAULT_CACHE_PAGES = 16384,
    LEAST_CACHE_PAGES = 2 * SVQ_BE_REQ_PAGES_MAX, /* a single request must always fit */
    MOST_CACHE_PAGES = 1 << 20,
};

static int check_config(struct svq_be_config *config)
{
    const uint64_t needed = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ACCESS_PLATFORM;
    if (config->max_requests == 0)
        config->max_requests = DEFAULT_REQUESTS;
    if (config->cache_pages == 0)
        config->cache_pages = DEFAULT_CACHE_PAGES;
    if (config->queues == 0 || config->queues > SVQ_BE_QUEUES_MAX)
        return svq_be_refuse(-EINVAL, "queues is %u, must be 1 to %d", config->queues, SVQ_BE_QUEUES_MAX);
    if (config->max_requests > MOST_REQUESTS)
        return svq_be_refuse(-EINVAL, "max_requests is %u, must be at most %d", config->max_requests, MOST_REQUESTS);
    if (config->cache_pages < LEAST_CACHE_PAGES || config->cache_pages > MOST_CACHE_PAGES)
        return svq_be_refuse(-EINVAL, "cache_pages is %u, must be %d to %d", config->cache_pages, LEAST_CACHE_PAGES,
                             MOST_CACHE_PAGES);
    if (config->copy_pages < SVQ_BE_COPY_AUTO || config->copy_pages > SVQ_BE_COPY_PAGES_MAX)
        return svq_be_refuse(-EINVAL, "copy_pages is %d, must be 0 to %d, or %d", config->copy_pages,
                             SVQ_BE_COPY_PAGES_MAX, SVQ_BE_COPY_AUTO);
    if ((uint64_t)config->window_first + config->window_count > 1ULL << 32)
        return svq_be_refuse(-EINVAL, "a window cannot have %u grant references from %u on", config->window_count,
                             config->window_first);
    if ((config->features & needed) != needed)
        return svq_be_refuse(-EINVAL, "features %#llx lack VERSION_1 or ACCESS_PLATFORM",
                             (unsigned long long)config->features);
    return 0;
}

static int set_up_requests(struct svq_be_device *dev)
{
    svq_be_req_lists_init(dev);
    dev->queues = calloc(dev->config.queues, sizeof *dev->queues);
    dev->requests = calloc(dev->config.max_requests, sizeof *dev->requests);
    if (!dev->queues || !dev->requests)
        return svq_be_refuse(-ENOMEM, "out of memory for %u requests", dev->config.max_requests);
    for (uint32_t i = dev->config.max_requests; i > 0; i--) {
        dev->requests[i - 1].next = dev->free;
        dev->free = &dev->requests[i - 1];
    }
    return 0;
}

static void set_up_blk(struct svq_be_device *dev)
{
    const struct svq_be_image_info *info = &dev->image->info;
    dev->blk = (struct svq_be_blk){
        .capacity = info->capacity,
        .align = info->direct_io ? info->logical_block : SVQ_BE_SECTOR,
        .block = info->logical_block,
        .read_only = info->read_only,
        .features = dev->config.features,
        .flush_failed = &dev->image->flush_failed,
        .stats = &dev->stats,
    };
    memcpy(dev->blk.serial, dev->config.serial, strnlen(dev->config.serial, SVQ_BE_SERIAL_BYTES));
}

static int set_up_channels(struct svq_be_device *dev)
{
    dev->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dev->error_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (dev->control_fd < 0 || dev->error_fd < 0)
        return svq_be_refuse(-errno, "cannot create an event descriptor: %s", strerror(errno));
    int rc = svq_evtchn_open(dev->hv, &dev->evtchn);
    if (rc)
        return svq_be_refuse(rc, "event channels cannot be opened: %s", strerror(-rc));
    return 0;
}

static int set_up(struct svq_be_device *dev)
{
    struct svq_be_io_setup setup = {
        .fd = dev->image->fd,
        .is_block = dev->image->info.is_block,
        .direct = dev->image->info.direct_io,
        .align = dev->image->info.logical_block,
        .entries = dev->config.max_requests,
        .force_sync = dev->config.force_sync,
        .stats = &dev->stats,
    };
    int rc = set_up_requests(dev);
    if (rc == 0)
        rc = set_up_channels(dev);
    if (rc == 0 && svq_be_map_init(&dev->map, dev->hv, &dev->config, &dev->stats))
        rc = svq_be_refuse(-ENOMEM, "out of memory for a cache of %u pages", dev->config.cache_pages);
    if (rc == 0 && svq_be_io_create(&setup, &dev->io))
        rc = svq_be_refuse(-ENOMEM, "out of memory for the I/O engine");
    return rc;
}

int svq_be_create(struct svq_hv *hv, struct svq_be_image *image, const struct svq_be_config *config,
                  struct svq_be_device **out)
{
    struct svq_be_device *dev = calloc(1, sizeof *dev);
    if (!dev)
        return svq_be_refuse(-ENOMEM, "out of memory for a device");
    dev->hv = hv;
    dev->image = image;
    dev->config = *config;
    dev->busy_wait = svq_busy_wait_up_to(config->poll_us);
    dev->control_fd = -1;
    dev->error_fd = -1;
    pthread_mutex_init(&dev->lock, NULL);
    pthread_cond_init(&dev->answered, NULL);
    int rc = check_config(&dev->config);
    if (rc == 0)
        rc = set_up(dev);
    if (rc) {
        svq_be_destroy(dev);
        return rc;
    }
    set_up_blk(dev);
    *out = dev;
    return 0;
}

static int map_part(struct svq_be_device *dev, const char *part, const uint32_t *refs, uint32_t pages, int writable,
                    void **va)
{
    int rc = svq_hv_map_grants(dev->hv, dev->config.mediator_domid, refs, pages, writable, va);
    if (rc)
        return svq_be_refuse(rc, "%u pages from %s-ref-0 = %u on cannot be mapped from domain %u: %s", pages, part,
                             refs[0], dev->config.mediator_domid, strerror(-rc));
    return 0;
}

/* Decides what is copied, with a page of the mediator that is granted to us: the same for every device by then. */
static int choose_copy(struct svq_be_device *dev, uint32_t gref)
{
    uint32_t pages = dev->config.copy_pages > 0 ? (uint32_t)dev->config.copy_pages : 0;
    int rc = 0;
    if (dev->copy_chosen)
        return 0;
    if (dev->config.copy_pages == SVQ_BE_COPY_AUTO) {
        (void)svq_be_crossover_get(dev->hv, dev->config.mediator_domid, gref, &dev->crossover);
        pages = dev->crossover.pages; /* 0 if it cannot be measured */
    } else if (pages > 0) {
        rc = svq_be_crossover_try(dev->hv, dev->config.mediator_domid, gref);
    }
    if (rc)
        return svq_be_refuse(rc, "the hypervisor cannot copy granted pages here, which grant_copy demands: %s",
                             strerror(-rc));
    if (svq_be_copy_init(&dev->map.copy, dev->hv, dev->config.window_owner, pages, &dev->stats))
        return svq_be_refuse(-ENOMEM, "out of memory for copies of %u pages", pages);
    svq_store_u64(&dev->stats.copy_pages, pages);
    dev->copy_chosen = true;
    return 0;
}

static void detach(struct svq_be_device *dev, struct svq_be_queue *queue)
{
    if (queue->attached)
        svq_evtchn_unbind(dev->evtchn, queue->port);
    if (queue->desc_va)
        svq_hv_unmap_grants(dev->hv, queue->desc_va, queue->desc_pages);
    if (queue->avail_va)
        svq_hv_unmap_grants(dev->hv, queue->avail_va, queue->avail_pages);
    if (queue->used_va)
        svq_hv_unmap_grants(dev->hv, queue->used_va, queue->used_pages);
    memset(queue, 0, sizeof *queue);
}

int svq_be_queue_attach(struct svq_be_device *dev, uint16_t index, uint16_t size, const uint32_t *desc_refs,
                        const uint32_t *avail_refs, const uint32_t *used_refs, uint32_t remote_port)
{
    struct svq_be_queue *queue;
    if (index >= dev->config.queues)
        return svq_be_refuse(-EINVAL, "queue %u of a device with %u queues", index, dev->config.queues);
    queue = &dev->queues[index];
    if (dev->running || queue->attached)
        return svq_be_refuse(-EBUSY, "queue %u is already attached, or the device is running", index);
    int rc = svq_be_ring_pages(size, &queue->desc_pages, &queue->avail_pages, &queue->used_pages);
    if (rc == 0)
        rc = map_part(dev, "desc", desc_refs, queue->desc_pages, 0, &queue->desc_va);
    if (rc == 0)
        rc = map_part(dev, "avail", avail_refs, queue->avail_pages, 0, &queue->avail_va);
    if (rc == 0)
        rc = map_part(dev, "used", used_refs, queue->used_pages, 1, &queue->used_va);
    if (rc == 0)
        rc = choose_copy(dev, desc_refs[0]);
    if (rc == 0) {
        int port = svq_evtchn_bind(dev->evtchn, dev->config.mediator_domid, remote_port);
        queue->port = port < 0 ? 0 : (uint32_t)port;
        if (port < 0)
            rc = svq_be_refuse(port, "event channel %u of domain %u cannot be bound: %s", remote_port,
                               dev->config.mediator_domid, strerror(-port));
    }
    if (rc) {
        detach(dev, queue);
        return rc;
    }
    queue->attached = true;
    svq_be_ring_init(&queue->ring, queue->desc_va, queue->avail_va, queue->used_va, size, dev->config.features);
    return 0;
}

int svq_be_start(struct svq_be_device *dev)
{
    sigset_t all, before;
    if (dev->running)
        return svq_be_refuse(-EBUSY, "the device is running");
    dev->quit = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the control plane's threads handle signals */
    int rc = pthread_create(&dev->thread, NULL, svq_be_thread, dev);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return svq_be_refuse(-rc, "cannot start a thread for the device: %s", strerror(rc));
    pthread_setname_np(dev->thread, "svq-backend");
    dev->running = true;
    return 0;
}

static int quit(struct svq_be_device *dev, void *unused)
{
    (void)unused;
    dev->quit = true;
    dev->quit_ns = svq_now_ns();
    svq_be_drop_held(dev);
    return 0;
}

int svq_be_stop(struct svq_be_device *dev)
{
    if (!dev->running)
        return 0;
    svq_be_in_thread(dev, quit, NULL);
    pthread_join(dev->thread, NULL);
    dev->running = false;
    return 0;
}

void svq_be_destroy(struct svq_be_device *dev)
{
    if (!dev)
        return;
    svq_be_stop(dev);
    for (uint32_t i = 0; dev->queues && i < dev->config.queues; i++)
        detach(dev, &dev->queues[i]);
    svq_be_io_destroy(dev->io);
    svq_be_map_fini(&dev->map);
    if (dev->evtchn)
        svq_evtchn_close(dev->evtchn);
    if (dev->control_fd >= 0)
        close(dev->control_fd);
    if (dev->error_fd >= 0)
        close(dev->error_fd);
    pthread_cond_destroy(&dev->answered);
    pthread_mutex_destroy(&dev->lock);
    free(dev->queues);
    free(dev->requests);
    free(dev);
}
