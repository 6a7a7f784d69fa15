/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "barrier.h"

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        int rc_ = (call);                                                                                              \
        if (rc_ < 0) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(-rc_));                             \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint64_t ring_gfn(uint16_t index) { return RIG_RING_GFN + (uint64_t)index * 12; }

struct svq_queue_config rig_queue_config(const struct rig *rig, uint16_t index)
{
    uint64_t gfn = ring_gfn(index);
    return (struct svq_queue_config){ .index = index,
                                      .size = rig->config.queue_size,
                                      .desc_gpa = rig_gpa(gfn),
                                      .avail_gpa = rig_gpa(gfn + 5),
                                      .used_gpa = rig_gpa(gfn + 7),
                                      .frontend_port = (uint32_t)rig->q[index].frontend_port };
}

static struct svq_hv *open_domain(struct rig *rig, int domid)
{
    char path[128];
    struct svq_hv *hv = NULL;
    snprintf(path, sizeof path, "%s/hv-dom%d.sock", rig->directory, domid);
    MUST(svq_hv_open_sim(path, &hv));
    return hv;
}

static void set_defaults(struct rig_config *c)
{
    c->ram_pages = c->ram_pages ? c->ram_pages : 16384;
    c->queue_size = c->queue_size ? c->queue_size : 256;
    c->window_grefs = c->window_grefs ? c->window_grefs : 32 * SVQ_GRANTS_PER_FRAME;
    c->bounce_pages = c->bounce_pages ? c->bounce_pages : 512;
    c->large_chains = c->large_chains ? c->large_chains : 16;
    c->queues = c->queues ? c->queues : 1;
}

static void open_domains(struct rig *rig)
{
    uint32_t frames = (uint32_t)(rig->config.ram_pages / SVQ_GRANTS_PER_FRAME) + 1;
    strcpy(rig->directory, "/tmp/svq-rig-XXXXXX");
    if (!mkdtemp(rig->directory))
        abort();
    MUST(svq_sim_machine_start(rig->directory, &rig->machine));
    MUST(svq_sim_domain_create(rig->machine, RIG_MEDIATOR, 64, 512, SVQ_SIM_PRIVILEGE_ALL));
    MUST(svq_sim_domain_create(rig->machine, RIG_FRONTEND, rig->config.ram_pages, 32 + frames + 32,
                               SVQ_SIM_PRIVILEGE_NONE));
    MUST(svq_sim_domain_create(rig->machine, RIG_BACKEND, 64, 64, SVQ_SIM_PRIVILEGE_NONE));
    if (rig->config.hole_pages)
        MUST(svq_sim_domain_hole(rig->machine, RIG_FRONTEND, rig->config.hole_gfn, rig->config.hole_pages));
    rig->frontend = open_domain(rig, RIG_FRONTEND);
    rig->mediator = open_domain(rig, RIG_MEDIATOR);
    rig->backend = open_domain(rig, RIG_BACKEND);
    MUST(svq_evtchn_open(rig->frontend, &rig->frontend_ec));
    MUST(svq_evtchn_open(rig->backend, &rig->backend_ec));
}

static uint64_t pages_below_hole(const struct rig_config *c) { return c->hole_pages ? c->hole_gfn : c->ram_pages; }

struct svq_guest_config rig_guest_config(const struct rig *rig)
{
    return (struct svq_guest_config){ .domid = RIG_FRONTEND,
                                      .gfn_limit = rig->config.ram_pages,
                                      .memory = rig->config.memory };
}

struct svq_window_config rig_window(const struct rig *rig)
{
    const struct rig_config *c = &rig->config;
    return (struct svq_window_config){ .first_gref = RIG_WINDOW_FRAME * SVQ_GRANTS_PER_FRAME,
                                       .count = c->dynamic_window ? c->window_grefs : (uint32_t)c->ram_pages,
                                       .direct = !c->dynamic_window,
                                       .guarded = c->guarded_window };
}

struct svq_device_config rig_other_device(const struct rig *rig, uint8_t mark)
{
    return (struct svq_device_config){ .backend_domid = RIG_BACKEND,
                                       .num_queues = 1,
                                       .mark = mark,
                                       .window = rig_window(rig),
                                       .bounce_pages = 16,
                                       .large_chains = 1 };
}

static void open_guest(struct rig *rig)
{
    const struct rig_config *c = &rig->config;
    uint64_t *gfns = calloc(c->ram_pages, sizeof *gfns);
    MUST(svq_hv_own_pages(rig->frontend, 0, pages_below_hole(c), gfns, (void **)&rig->ram));
    free(gfns);
    struct svq_guest_config guest = rig_guest_config(rig);
    MUST(svq_guest_open(rig->mediator, &guest, &rig->guest));
    struct svq_device_config dev = { .backend_domid = RIG_BACKEND,
                                     .num_queues = c->queues,
                                     .placement = c->placement,
                                     .mark = RIG_MARK,
                                     .window = rig_window(rig),
                                     .clear = c->clear,
                                     .copy_threshold = c->copy_threshold,
                                     .bounce_pages = c->bounce_pages,
                                     .large_chains = c->large_chains,
                                     .frontend_event_idx = !c->no_event_idx,
                                     .backend_event_idx = !c->no_event_idx,
                                     .frontend_indirect = !c->no_indirect };
    MUST(svq_device_create(rig->guest, &dev, &rig->dev));
}

int rig_connect(struct rig *rig, uint16_t index)
{
    struct rig_queue *q = &rig->q[index];
    uint8_t *base = rig->ram + rig_gpa(ring_gfn(index));
    q->desc = (void *)base;
    q->avail = (void *)(base + 5 * SVQ_PAGE_SIZE);
    q->used = (void *)(base + 7 * SVQ_PAGE_SIZE);
    if (rig->worker) {
        q->frontend_port = svq_evtchn_alloc_unbound(rig->frontend_ec, RIG_MEDIATOR);
        MUST(q->frontend_port);
    }
    struct svq_queue_config config = rig_queue_config(rig, index);
    int rc = svq_queue_setup(rig->dev, rig->worker, &config, &q->refs);
    q->avail_idx = q->used_seen = q->shadow_avail_seen = q->shadow_used_idx = 0;
    if (index == 0)
        rig->setup_rc = rc;
    if (rc < 0)
        return rc;
    void *va;
    MUST(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, q->refs.desc_refs, q->refs.desc_pages, 0, &va));
    q->shadow_desc = va;
    MUST(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, q->refs.avail_refs, q->refs.avail_pages, 0, &va));
    q->shadow_avail = va;
    MUST(svq_hv_map_grants(rig->backend, RIG_MEDIATOR, q->refs.used_refs, q->refs.used_pages, 1, &va));
    q->shadow_used = va;
    if (rig->worker) {
        q->backend_port = svq_evtchn_bind(rig->backend_ec, RIG_MEDIATOR, q->refs.backend_port);
        MUST(q->backend_port);
    }
    return 0;
}

void rig_open(struct rig *rig, const struct rig_config *config)
{
    memset(rig, 0, sizeof *rig);
    rig->config = *config;
    set_defaults(&rig->config);
    rig->driver_size = rig->config.queue_size;
    open_domains(rig);
    open_guest(rig);
    if (rig->config.with_worker)
        MUST(svq_worker_start(rig->mediator, &rig->config.worker_config, &rig->worker));
    for (uint16_t i = 0; i < rig->config.queues; i++)
        rig_connect(rig, i);
    if (rig->setup_rc == 0)
        MUST(svq_device_start(rig->dev));
}

void rig_disconnect_backend(struct rig *rig)
{
    for (uint16_t i = 0; i < rig->config.queues; i++) {
        struct rig_queue *q = &rig->q[i];
        if (!q->shadow_desc)
            continue;
        svq_hv_unmap_grants(rig->backend, (void *)(uintptr_t)q->shadow_desc, q->refs.desc_pages);
        svq_hv_unmap_grants(rig->backend, (void *)(uintptr_t)q->shadow_avail, q->refs.avail_pages);
        svq_hv_unmap_grants(rig->backend, q->shadow_used, q->refs.used_pages);
        q->shadow_desc = NULL;
    }
}

int rig_close_device(struct rig *rig)
{
    rig_disconnect_backend(rig);
    int left = svq_device_close(rig->dev);
    rig->dev = NULL;
    return left;
}

void rig_close(struct rig *rig)
{
    if (rig->dev)
        rig_close_device(rig);
    if (rig->worker)
        svq_worker_stop(rig->worker);
    if (rig->guest)
        svq_guest_close(rig->guest);
    svq_evtchn_close(rig->frontend_ec);
    svq_evtchn_close(rig->backend_ec);
    svq_hv_release_own_pages(rig->frontend, rig->ram, pages_below_hole(&rig->config));
    svq_hv_close(rig->frontend);
    svq_hv_close(rig->backend);
    svq_hv_close(rig->mediator);
    svq_sim_machine_stop(rig->machine);
    rmdir(rig->directory);
}

void rig_desc(struct rig *rig, uint16_t i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    rig->q[0].desc[i] = (struct vring_desc){ addr, len, flags, next };
}

void rig_offer(struct rig *rig, uint16_t head)
{
    struct rig_queue *q = &rig->q[0];
    svq_store_u16(&q->avail->ring[q->avail_idx & (rig->driver_size - 1)], head);
    svq_release_u16(&q->avail->idx, ++q->avail_idx);
}

int rig_take(struct rig *rig)
{
    struct rig_queue *q = &rig->q[0];
    if (svq_acquire_u16(&q->shadow_avail->idx) == q->shadow_avail_seen)
        return -1;
    return svq_load_u16(&q->shadow_avail->ring[q->shadow_avail_seen++ & (rig->config.queue_size - 1)]);
}

void rig_give(struct rig *rig, uint32_t id, uint32_t len)
{
    struct rig_queue *q = &rig->q[0];
    struct vring_used_elem *elem = &q->shadow_used->ring[q->shadow_used_idx & (rig->config.queue_size - 1)];
    svq_store_u32(&elem->id, id);
    svq_store_u32(&elem->len, len);
    svq_release_u16(&q->shadow_used->idx, ++q->shadow_used_idx);
}

/* Makes passes until one moves and maps nothing: each has a budget. */
static int passes(struct rig *rig, int (*pass)(struct svq_device *dev, uint16_t index, unsigned chains))
{
    struct svq_hv_counters before, after;
    int sum = 0, n;
    svq_hv_read_counters(rig->mediator, &after);
    do {
        before = after;
        n = pass(rig->dev, 0, rig->config.queue_size);
        sum += n;
        svq_hv_read_counters(rig->mediator, &after);
    } while (n > 0 || (n == 0 && after.foreign_maps != before.foreign_maps));
    return n < 0 ? n : sum;
}

int rig_forward(struct rig *rig) { return passes(rig, svq_queue_forward); }
int rig_complete(struct rig *rig) { return passes(rig, svq_queue_complete); }

int rig_fault(struct rig *rig)
{
    struct svq_fault fault;
    svq_device_fault(rig->dev, &fault);
    return fault.code;
}
