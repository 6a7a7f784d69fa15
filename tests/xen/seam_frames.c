/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Watches the frames of a guest that balloons, from dom0, until SIGTERM.
 * usage: seam_frames serve|hold FRONTEND_DOMID STATUS_FILE
 *     serve  keeps a part of the guest mapped; when frames change it drops all of it, acknowledges, and maps it again
 *     hold   does not acknowledge
 * STATUS_FILE has "changes CHANGES out OUT": how often frames have changed, and how many of those frames are out.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "xen_hv.h"

enum {
    FIRST_GFN = 0x1000,
    FRAMES = 0xc000, /* 16 to 208 MiB of the guest's 256 */
    QUIET_MS = 300,
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static int fail(const char *what, int rc)
{
    printf("%s: %s (%s)\n", what, strerror(abs(rc)), svq_hv_why());
    return 1;
}

struct guest {
    struct svq_hv *hv;
    uint16_t domid;
    void *memory; /* NULL: not mapped */
    unsigned long changes, out;
};

static int map_memory(struct guest *guest)
{
    static uint64_t gfns[FRAMES];
    static int errs[FRAMES];
    for (size_t i = 0; i < FRAMES; i++)
        gfns[i] = FIRST_GFN + i;
    int rc = svq_hv_map_foreign(guest->hv, guest->domid, gfns, FRAMES, 0, errs, &guest->memory);
    guest->out = 0;
    for (size_t i = 0; i < FRAMES && rc == 0; i++)
        guest->out += errs[i] != 0;
    return rc;
}

static int drop_memory(struct guest *guest)
{
    int rc = !guest->memory ? 0 : svq_hv_unmap_foreign(guest->hv, guest->memory, FRAMES);
    guest->memory = NULL;
    return rc;
}

static void say(const struct guest *guest, const char *path)
{
    char new_path[256];
    (void)snprintf(new_path, sizeof new_path, "%s.new", path);
    FILE *file = fopen(new_path, "w");
    if (!file)
        return;
    (void)fprintf(file, "changes %lu out %lu\n", guest->changes, guest->out);
    (void)fclose(file);
    (void)rename(new_path, path);
}

static int serve(struct guest *guest, struct svq_frames *frames, int hold, const char *path)
{
    int rc = map_memory(guest);
    say(guest, path);
    while (rc == 0 && !stopped) {
        struct pollfd pfd = { .fd = svq_frames_fd(frames), .events = POLLIN };
        int ready = poll(&pfd, 1, QUIET_MS);
        if (ready < 0 && errno != EINTR)
            return -errno;
        rc = svq_frames_changed(frames);
        if (rc == 1) {
            guest->changes++;
            rc = drop_memory(guest);
            if (rc == 0 && !hold)
                rc = svq_frames_ack(frames);
        } else if (rc == 0 && ready == 0 && !guest->memory) {
            rc = map_memory(guest); /* the guest has finished for now */
        }
        if (guest->memory || hold)
            say(guest, path);
    }
    return rc < 0 ? rc : drop_memory(guest);
}

/* Xen public/hvm/dm_op.h: struct xen_dm_op, only the fields of these two operations. */
struct server_op {
    uint32_t op, pad;
    uint16_t first, second; /* to destroy: its id, 0; to create: no buffer, ... */
    uint16_t created_id, last;
};
enum { CREATE_IOREQ_SERVER = 1, DESTROY_IOREQ_SERVER = 6 };

/*
 * Watches beside a server of another device model in dom0, which we must not take over. That server goes away again, so
 * a watch that did take it over would hear nothing.
 */
static int watch(struct guest *guest, struct svq_frames **frames)
{
    struct xen_hv *xen = xen_of(guest->hv);
    struct server_op create = { .op = CREATE_IOREQ_SERVER }, destroy = { .op = DESTROY_IOREQ_SERVER };
    int rc, gone;
    struct xen_domain *domain = xen_domain_get(xen, guest->domid, &rc);
    if (!domain)
        return rc;
    rc = xen_domain_dm_op(xen, domain, &create, sizeof create);
    if (rc == 0) {
        rc = svq_frames_watch(guest->hv, guest->domid, frames);
        destroy.first = create.created_id;
        gone = xen_domain_dm_op(xen, domain, &destroy, sizeof destroy);
        rc = rc != 0 ? rc : gone;
    }
    xen_domain_put(xen, domain);
    return rc;
}

int main(int argc, char **argv)
{
    struct guest guest = { 0 };
    struct svq_frames *frames, *second;
    if (argc != 4)
        return 2;
    (void)signal(SIGTERM, stop);
    guest.domid = (uint16_t)atoi(argv[2]);
    int rc = svq_hv_open_xen(&guest.hv);
    if (rc != 0)
        return fail("open_xen", rc);
    rc = svq_frames_watch(guest.hv, guest.domid, &frames);
    if (rc != -ENOSYS)
        return fail("frames_watch of a domain that does not know that it is dom0", rc);
    (void)svq_hv_set_domid(guest.hv, 0);
    rc = watch(&guest, &frames);
    if (rc != 0)
        return fail("frames_watch", rc);
    rc = svq_frames_watch(guest.hv, guest.domid, &second);
    if (rc != -EBUSY)
        return fail("frames_watch of a guest that is watched", rc);
    rc = serve(&guest, frames, strcmp(argv[1], "hold") == 0, argv[3]);
    svq_frames_close(frames);
    svq_hv_close(guest.hv);
    return rc < 0 ? fail("serve", rc) : 0;
}
