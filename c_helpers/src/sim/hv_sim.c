/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The embedded machine behind the hypervisor seam: a handle, and all of its operations that ask the broker. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sim_client.h"

/* --- operations --------------------------------------------------------------------------------------- */
static int set_domid(struct svq_hv *hv, uint16_t domid) { return hv->domid == domid ? 0 : -EPERM; }

static int map_foreign(struct svq_hv *hv, uint16_t domid, const uint64_t *gfns, size_t count, int writable, int *errs,
                       void **va)
{
    struct sim_hv *sim = sim_of(hv);
    struct sim_peer *peer;
    int rc = sim_call(sim, SIM_OP_AUTHORISE, domid, 0, 0);
    if (rc == 0)
        rc = sim_peer_get(sim, domid, count, &peer);
    if (rc != 0)
        return rc;
    uint64_t *frames = malloc(count * sizeof *frames);
    for (size_t i = 0; frames && i < count; i++) {
        int is_ram = gfns[i] < peer->ram_pages && !sim_peer_is_hole(peer, gfns[i]);
        frames[i] = is_ram ? gfns[i] : SIM_NO_FRAME;
        errs[i] = is_ram ? 0 : -EINVAL;
    }
    struct sim_area *area;
    rc = !frames ? -ENOMEM
                 : sim_area_create(sim_peer_slot(sim, peer), SIM_AREA_FOREIGN, peer->memory_fd, frames, count, writable,
                                   &area);
    free(frames);
    if (rc != 0) {
        sim_peer_put(sim, sim_peer_slot(sim, peer), count);
        return rc;
    }
    *va = area->base.va;
    sim_area_publish(sim, area);
    return 0;
}

static int unmap_area(struct sim_hv *sim, void *va, enum sim_area_kind kind, size_t count)
{
    struct sim_area *area = sim_area_take(sim, va, kind, count);
    if (!area)
        return -EINVAL;
    uint32_t slot = area->slot;
    count = area->base.count;
    sim_area_free(area);
    sim_peer_put(sim, slot, count);
    return 0;
}

static int unmap_foreign(struct svq_hv *hv, void *va, size_t count)
{
    return unmap_area(sim_of(hv), va, SIM_AREA_FOREIGN, count);
}

static int map_grant_table(struct svq_hv *hv, uint16_t domid, uint32_t first_frame, uint32_t frames, void **va,
                           void **token)
{
    struct sim_hv *sim = sim_of(hv);
    struct sim_peer *peer;
    int rc = sim_call(sim, SIM_OP_GROW_TABLE, domid, (uint64_t)first_frame + frames, 0);
    if (rc == 0)
        rc = sim_peer_get(sim, domid, frames, &peer);
    if (rc != 0)
        return rc;
    uint64_t *numbers = malloc(frames * sizeof *numbers);
    for (uint32_t i = 0; numbers && i < frames; i++)
        numbers[i] = (uint64_t)first_frame + i;
    struct sim_area *area;
    rc = !numbers
             ? -ENOMEM
             : sim_area_create(sim_peer_slot(sim, peer), SIM_AREA_TABLE, peer->table_fd, numbers, frames, 1, &area);
    free(numbers);
    if (rc != 0) {
        sim_peer_put(sim, sim_peer_slot(sim, peer), frames);
        return rc;
    }
    *va = *token = area->base.va;
    sim_area_publish(sim, area);
    return 0;
}

static int unmap_grant_table(struct svq_hv *hv, void *token)
{
    return unmap_area(sim_of(hv), token, SIM_AREA_TABLE, 0);
}

static int grant_table_frames(struct svq_hv *hv, uint16_t domid, uint32_t *max_frames)
{
    struct sim_hv *sim = sim_of(hv);
    struct sim_peer *peer;
    int rc = sim_call(sim, SIM_OP_AUTHORISE, domid, 0, 0);
    if (rc == 0)
        rc = sim_peer_get(sim, domid, 1, &peer);
    if (rc != 0)
        return rc;
    *max_frames = peer->max_frames;
    sim_peer_put(sim, sim_peer_slot(sim, peer), 1);
    return 0;
}

static int share_pages(struct svq_hv *hv, uint16_t peer_domid, size_t count, int peer_may_write, uint32_t *grefs,
                       void **va)
{
    struct sim_hv *sim = sim_of(hv);
    struct sim_request request = { .op = SIM_OP_SHARE, .domid = peer_domid, .args = { count, peer_may_write != 0 } };
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int rc = sim_ask(sim, &request, &answer, fds);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < count; i++)
        grefs[i] = answer.gref + (uint32_t)i;
    *va = sim_peer_va(sim_own(sim), SIM_WRITABLE, answer.gfn);
    return 0;
}

static int unshare_pages(struct svq_hv *hv, void *va, size_t count)
{
    struct sim_hv *sim = sim_of(hv);
    int window;
    uint64_t gfn;
    if (sim_peer_at(sim, va, &window, &gfn) != sim_own(sim) || window != SIM_WRITABLE)
        return -EINVAL;
    return sim_call(sim, SIM_OP_UNSHARE, 0, gfn, count);
}

static int own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va)
{
    struct sim_peer *own = sim_own(sim_of(hv));
    if (first_gfn > own->ram_pages || count > own->ram_pages - first_gfn)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        if (sim_peer_is_hole(own, first_gfn + i))
            return -EINVAL;
        gfns[i] = first_gfn + i;
    }
    *va = sim_peer_va(own, SIM_WRITABLE, first_gfn);
    return 0;
}

static int release_own_pages(struct svq_hv *hv, void *va, size_t count)
{
    struct sim_hv *sim = sim_of(hv);
    int window;
    uint64_t gfn;
    if (sim_peer_at(sim, va, &window, &gfn) != sim_own(sim) || gfn >= sim_own(sim)->ram_pages ||
        count > sim_own(sim)->ram_pages - gfn)
        return -EINVAL;
    return 0; /* they belong to the domain for its whole life */
}

static int set_readonly(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly)
{
    return sim_call(sim_of(hv), SIM_OP_SET_READONLY, domid, gfn, readonly != 0);
}

static void sim_free(struct sim_hv *sim)
{
    if (sim->socket >= 0)
        close(sim->socket);
    sim_areas_free(sim);
    sim_peers_free(sim);
    if (sim->page)
        (void)munmap(sim->page, sizeof *sim->page);
    pthread_mutex_destroy(&sim->request_lock);
    pthread_mutex_destroy(&sim->peers_lock);
    svq_hv_maps_destroy(&sim->areas);
    free(sim);
}

/* The broker undoes whatever is left, as if we had been killed; but here we wait for it. */
static void sim_close_handle(struct svq_hv *hv)
{
    struct sim_hv *sim = sim_of(hv);
    (void)sim_call(sim, SIM_OP_BYE, 0, 0, 0);
    sim_free(sim);
}

static const struct svq_hv_ops sim_ops = {
    .name = "sim",
    .close = sim_close_handle,
    .set_domid = set_domid,
    .map_foreign = map_foreign,
    .unmap_foreign = unmap_foreign,
    .map_grant_table = map_grant_table,
    .unmap_grant_table = unmap_grant_table,
    .grant_table_frames = grant_table_frames,
    .share_pages = share_pages,
    .unshare_pages = unshare_pages,
    .map_grants = sim_map_grants,
    .unmap_grants = sim_unmap_grants,
    .copy_grants = sim_copy_grants,
    .own_pages = own_pages,
    .release_own_pages = release_own_pages,
    .set_readonly = set_readonly,
    .frames_watch = sim_frames_watch,
    .frames_fd = sim_frames_fd,
    .frames_changed = sim_frames_changed,
    .frames_ack = sim_frames_ack,
    .frames_close = sim_frames_close,
    .evtchn_open = sim_evtchn_open,
    .evtchn_close = sim_evtchn_close,
    .evtchn_fd = sim_evtchn_fd,
    .evtchn_alloc_unbound = sim_evtchn_alloc_unbound,
    .evtchn_bind = sim_evtchn_bind,
    .evtchn_notify = sim_evtchn_notify,
    .evtchn_pending = sim_evtchn_pending,
    .evtchn_unmask = sim_evtchn_unmask,
    .evtchn_unbind = sim_evtchn_unbind,
};

/* --- opening ------------------------------------------------------------------------------------------ */
/* A socket address holds 107 characters: a longer path is reached through a descriptor of its directory. */
static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *slash = strrchr(path, '/');
    int err = 0, directory = -1, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (strlen(path) < sizeof address.sun_path) {
        strcpy(address.sun_path, path);
    } else if (!slash || strlen(slash) > SIM_SOCKET_NAME_BYTES) {
        err = ENAMETOOLONG;
    } else {
        char *name = strndup(path, (size_t)(slash - path) + 1);
        directory = !name ? -1 : open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        err = directory < 0 ? errno : 0;
        (void)snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d%s", directory, slash);
        free(name);
    }
    if (err == 0 && connect(fd, (struct sockaddr *)(void *)&address, sizeof address) != 0)
        err = errno;
    if (directory >= 0)
        close(directory);
    if (err == 0)
        return fd;
    close(fd);
    return -err;
}

static int greet(struct sim_hv *sim)
{
    struct sim_request request = { .op = SIM_OP_HELLO, .args = { SIM_WIRE_VERSION } };
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int rc = sim_ask(sim, &request, &answer, fds);
    if (rc != 0)
        return rc;
    void *page = mmap(NULL, sizeof *sim->page, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    sim_close_fds(fds);
    if (page == MAP_FAILED)
        return -ENOMEM;
    sim->page = page;
    sim->connection = answer.connection;
    svq_hv_init(&sim->base, &sim_ops, answer.domid);
    struct sim_peer *own;
    rc = sim_peer_get(sim, answer.domid, 1, &own);
    if (rc == 0)
        sim->own_slot = sim_peer_slot(sim, own);
    return rc;
}

int svq_hv_open_sim(const char *socket_path, struct svq_hv **out)
{
    if (!socket_path || !out)
        return svq_hv_fail(-EINVAL, "no socket path given");
    struct sim_hv *sim = calloc(1, sizeof *sim);
    if (!sim)
        return svq_hv_fail(-ENOMEM, "out of memory");
    pthread_mutex_init(&sim->request_lock, NULL);
    pthread_mutex_init(&sim->peers_lock, NULL);
    svq_hv_maps_init(&sim->areas);
    sim->socket = connect_to(socket_path);
    int rc = sim->socket < 0 ? sim->socket : greet(sim);
    if (rc == 0) {
        *out = &sim->base;
        return 0;
    }
    sim_free(sim);
    if (rc == -ENOENT || rc == -ECONNREFUSED || rc == -ENOTDIR)
        return svq_hv_fail(-ENOENT, "there is no embedded machine at %s", socket_path);
    if (rc == -EACCES)
        return svq_hv_fail(-EACCES, "the domain behind %s is dead, or its socket is not ours to open", socket_path);
    return svq_hv_fail(rc, "cannot open the embedded machine at %s: %s", socket_path, strerror(-rc));
}
