/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The embedded machine as its host sees it: start, stop, and reports of domains that died. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "sim_broker.h"

static int start_thread(struct svq_sim_machine *machine)
{
    sigset_t all, old;

    /* Signals are for the host's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&machine->thread, NULL, sim_broker_run, machine);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -err;
}

static void machine_free(struct svq_sim_machine *machine)
{
    sim_close(&machine->directory_fd);
    sim_close(&machine->epoll_fd);
    sim_close(&machine->wake_fd);
    sim_close(&machine->event_fd);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}

int svq_sim_machine_start(const char *directory, struct svq_sim_machine **out)
{
    if (!directory || !out)
        return -EINVAL;
    struct svq_sim_machine *machine = calloc(1, sizeof *machine);
    if (!machine)
        return -ENOMEM;
    pthread_mutex_init(&machine->lock, NULL);
    machine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    machine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    machine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    machine->directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int rc;
    if (machine->epoll_fd < 0 || machine->wake_fd < 0 || machine->event_fd < 0 || machine->directory_fd < 0)
        rc = -errno;
    else
        rc = sim_broker_watch(machine, machine->wake_fd, sim_watch_wake());
    if (rc == 0)
        rc = start_thread(machine);
    if (rc != 0) {
        machine_free(machine);
        return rc;
    }
    *out = machine;
    return 0;
}

void svq_sim_machine_stop(struct svq_sim_machine *machine)
{
    if (!machine)
        return;
    (void)eventfd_write(machine->wake_fd, 1);
    (void)pthread_join(machine->thread, NULL);
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        if (machine->domains[slot].used)
            sim_domain_die(machine, &machine->domains[slot], false);
    }
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        if (machine->domains[slot].used)
            sim_domain_free(machine, &machine->domains[slot]);
    }
    machine_free(machine);
}

int svq_sim_event_fd(struct svq_sim_machine *machine) { return machine->event_fd; }

/*
 * The descriptor is readable while a death is unreported. If the host itself has since destroyed or recreated that
 * domain, it is readable once more with nothing to report.
 */
int svq_sim_next_event(struct svq_sim_machine *machine, int *kind, uint16_t *domid)
{
    struct sim_domain *found = NULL;
    int unreported = 0;
    if (!kind || !domid)
        return -EINVAL;
    pthread_mutex_lock(&machine->lock);
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        struct sim_domain *domain = &machine->domains[slot];
        if (!domain->used || !domain->death_unreported)
            continue;
        unreported++;
        if (!found)
            found = domain;
    }
    if (found) {
        found->death_unreported = false;
        *kind = SVQ_SIM_EVENT_DIED;
        *domid = found->domid;
    }
    eventfd_t drained;
    if (unreported <= 1)
        (void)eventfd_read(machine->event_fd, &drained);
    pthread_mutex_unlock(&machine->lock);
    return found != NULL;
}

int svq_sim_pretend_readonly(struct svq_sim_machine *machine, int enabled)
{
    pthread_mutex_lock(&machine->lock);
    machine->pretend_readonly = enabled != 0;
    pthread_mutex_unlock(&machine->lock);
    return 0;
}
