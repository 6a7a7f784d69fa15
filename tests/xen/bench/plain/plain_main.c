/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * usage: svq_plain offer IMAGE
 *            prints features and configuration space of a disk, in hex
 *        svq_plain grant FRONTEND GRANTEE GFN:COUNT:GREF...
 *            in dom0: writes entries of FRONTEND's grant table that open these frames to GRANTEE
 *        svq_plain serve IMAGE FRONTEND FEATURES SIZE DESC AVAIL USED PORT GFN:COUNT:GREF...
 *            maps those frames, prints "ready", serves one ring until SIGTERM; SIGUSR1: prints its counters
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "barrier.h"
#include "grant.h"
#include "plain.h"
#include "svq_backend.h"

enum { QUEUE_SIZE = 256, POLL_US = 20 }; /* as the product's backend polls (blk.py) */

static int failed(const char *what, int rc)
{
    (void)fprintf(stderr, "svq_plain: %s: %s (%s; %s)\n", what, strerror(-rc), svq_be_why(), svq_hv_why());
    return 1;
}

static struct svq_plain_run run_from(const char *text)
{
    struct svq_plain_run run;
    if (sscanf(text, "%u:%u:%u", &run.gfn, &run.count, &run.gref) != 3) {
        (void)fprintf(stderr, "svq_plain: %s is not GFN:COUNT:GREF\n", text);
        exit(2);
    }
    return run;
}

static int offer(const char *path)
{
    struct svq_be_image *image = NULL;
    struct svq_be_image_info info;
    uint8_t config[SVQ_BE_CONFIG_BYTES];
    uint64_t features = 0;
    int rc = svq_be_open_image(path, SVQ_BE_DIRECT_IO | SVQ_BE_SHAREABLE, &image, &info);
    if (rc == 0)
        rc = svq_be_config_space(&info, 1, QUEUE_SIZE, config, sizeof config, &features);
    if (rc)
        return failed(path, rc);
    (void)printf("%llx ", (unsigned long long)features);
    for (size_t i = 0; i < sizeof config; i++)
        (void)printf("%02x", config[i]);
    (void)printf("\n");
    return 0;
}

static int grant_run(struct svq_hv *hv, uint16_t frontend, uint16_t grantee, const struct svq_plain_run *run)
{
    uint32_t first = run->gref / SVQ_GRANTS_PER_FRAME;
    uint32_t last = (run->gref + run->count - 1) / SVQ_GRANTS_PER_FRAME;
    void *va, *token;
    int rc = svq_hv_map_grant_table(hv, frontend, first, last - first + 1, &va, &token);
    if (rc)
        return rc;
    uint64_t *entries = (uint64_t *)va + run->gref % SVQ_GRANTS_PER_FRAME;
    for (uint32_t i = 0; i < run->count && rc == 0; i++) {
        uint64_t free_entry = 0;
        if (!svq_cas_u64(&entries[i], &free_entry, svq_grant_entry(GTF_PERMIT_ACCESS, grantee, run->gfn + i)))
            rc = -EBUSY;
    }
    svq_hv_unmap_grant_table(hv, token);
    return rc;
}

static int grant(struct svq_hv *hv, int count, char **args)
{
    uint16_t frontend = (uint16_t)atoi(args[0]), grantee = (uint16_t)atoi(args[1]);
    for (int i = 2; i < count; i++) {
        struct svq_plain_run run = run_from(args[i]);
        int rc = grant_run(hv, frontend, grantee, &run);
        if (rc)
            return failed(args[i], rc);
    }
    return 0;
}

/* Under the names that the report has for them. */
static void print_stats(struct svq_hv *hv, const struct svq_be_device *dev)
{
    struct svq_be_stats stats;
    struct svq_be_error error;
    struct svq_hv_counters asked;
    svq_be_read_stats(dev, &stats);
    svq_hv_read_counters(hv, &asked);
    (void)printf("{\"requests\": %llu, \"hypercalls\": %llu, \"maps\": %llu, \"flushing_unmaps\": %llu, "
                 "\"bytes_copied\": 0, \"notifications\": %llu, \"bounced_ios\": %llu, \"fault\": %d}\n",
                 (unsigned long long)(stats.reads + stats.writes), (unsigned long long)asked.hypercalls,
                 (unsigned long long)asked.grant_maps, (unsigned long long)asked.grant_unmaps,
                 (unsigned long long)(stats.kicks + stats.notifies), (unsigned long long)stats.bounced_ios,
                 svq_be_read_error(dev, &error) ? error.fault : 0);
    (void)fflush(stdout);
}

/* args: FEATURES SIZE DESC AVAIL USED PORT */
static int attach(struct svq_hv *hv, struct svq_be_image *image, uint16_t frontend, char **args,
                  struct svq_be_device **dev)
{
    uint16_t size = (uint16_t)atoi(args[1]);
    void *area[3];
    size_t bytes[3] = { (size_t)16 * size, 6 + (size_t)2 * size, 6 + (size_t)8 * size };
    const uint32_t refs[3] = { 0, 1, 2 };
    struct svq_be_config config = {
        .features = strtoull(args[0], NULL, 16),
        .mediator_domid = frontend,
        .window_owner = frontend,
        .queues = 1,
        .poll_us = POLL_US,
    };
    for (int i = 0; i < 3; i++) {
        area[i] = svq_plain_at(strtoull(args[2 + i], NULL, 0), bytes[i]);
        if (!area[i])
            return -EFAULT;
    }
    svq_plain_set_ring(area[0], area[1], area[2]);
    int rc = svq_be_create(hv, image, &config, dev);
    if (rc == 0)
        rc = svq_be_queue_attach(*dev, 0, size, &refs[0], &refs[1], &refs[2], (uint32_t)atoi(args[5]));
    return rc ? rc : svq_be_start(*dev);
}

static int serve(struct svq_hv *hv, int count, char **args)
{
    uint16_t frontend = (uint16_t)atoi(args[1]);
    struct svq_be_image *image = NULL;
    struct svq_be_device *dev = NULL;
    sigset_t signals;
    int signal_number, mapped = 0;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    for (int i = 8; i < count; i++) {
        struct svq_plain_run run = run_from(args[i]);
        int rc = svq_plain_map_run(hv, frontend, &run);
        if (rc < 0)
            return failed(args[i], rc);
        mapped += rc;
    }
    int rc = svq_be_open_image(args[0], SVQ_BE_DIRECT_IO | SVQ_BE_SHAREABLE, &image, NULL);
    if (rc == 0)
        rc = attach(hv, image, frontend, args + 2, &dev);
    if (rc)
        return failed("serve", rc);
    (void)printf("ready %d\n", mapped);
    (void)fflush(stdout);
    while (sigwait(&signals, &signal_number) == 0 && signal_number == SIGUSR1)
        print_stats(hv, dev);
    svq_be_destroy(dev);
    svq_be_close_image(image);
    return 0;
}

int main(int argc, char **argv)
{
    struct svq_hv *hv = NULL;
    const char *verb = argc > 1 ? argv[1] : "";
    if (argc == 3 && strcmp(verb, "offer") == 0)
        return offer(argv[2]);
    int rc = svq_hv_open_xen(&hv);
    if (rc)
        return failed("Xen", rc);
    if (argc > 4 && strcmp(verb, "grant") == 0)
        return grant(hv, argc - 2, argv + 2);
    if (argc > 10 && strcmp(verb, "serve") == 0)
        return serve(hv, argc - 2, argv + 2);
    (void)fprintf(stderr, "usage: see plain_main.c\n");
    return 2;
}
