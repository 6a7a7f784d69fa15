/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Watches on domains' frames: what Xen's ioreq servers do for us, including how they can go wrong. */
#include <errno.h>
#include <sys/eventfd.h>
#include <time.h>

#include "sim_broker.h"

static const struct timespec look_again = { .tv_nsec = 1000000 };

static bool is_owner(const struct sim_connection *connection, const struct sim_domain *target)
{
    return target->watch.made && target->watch.connection == connection->id;
}

static bool has_unanswered(const struct sim_watch *watch) { return watch->acknowledged != watch->changes; }

int sim_watch_make(const struct sim_connection *connection, struct sim_domain *target, struct sim_reply *reply)
{
    struct sim_watch *watch = &target->watch;
    if (connection->domain->privilege != SVQ_SIM_PRIVILEGE_ALL) /* not dom0 */
        return -ENOSYS;
    if (watch->made && watch->owner_domid != connection->domain->domid)
        return -EPERM;
    if (watch->made && watch->connection != 0)
        return -EBUSY;
    if (!watch->made) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
            return -errno;
        watch->made = true;
        watch->event_fd = fd;
    }
    watch->owner_domid = connection->domain->domid;
    watch->connection = connection->id;
    if (has_unanswered(watch))
        (void)eventfd_write(watch->event_fd, 1);
    reply->fds[0] = watch->event_fd;
    reply->fd_count = 1;
    return 0;
}

int sim_watch_changes(const struct sim_connection *connection, const struct sim_domain *target,
                      struct sim_answer *answer)
{
    if (!is_owner(connection, target))
        return -EINVAL;
    answer->changes = target->watch.changes;
    answer->acknowledged = target->watch.acknowledged;
    return 0;
}

int sim_watch_ack(const struct sim_connection *connection, struct sim_domain *target, uint64_t untrusted_changes)
{
    if (!is_owner(connection, target) || untrusted_changes > target->watch.changes)
        return -EINVAL;
    if (untrusted_changes > target->watch.acknowledged)
        target->watch.acknowledged = untrusted_changes;
    return 0;
}

void sim_watch_free(struct sim_domain *target)
{
    if (target->watch.made)
        sim_close(&target->watch.event_fd);
    target->watch.made = false;
    target->watch.acknowledged = target->watch.changes;
}

int sim_watch_close(const struct sim_connection *connection, struct sim_domain *target)
{
    if (!is_owner(connection, target))
        return -EINVAL;
    sim_watch_free(target);
    return 0;
}

void sim_watches_orphan(struct svq_sim_machine *machine, const struct sim_connection *connection)
{
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        if (is_owner(connection, &machine->domains[slot]))
            machine->domains[slot].watch.connection = 0;
    }
}

static uint64_t announce(struct sim_watch *watch)
{
    (void)eventfd_write(watch->event_fd, 1);
    return ++watch->changes;
}

/* Waits without the lock: only the processor that made the change waits. */
int svq_sim_frames_changed(struct svq_sim_machine *machine, uint16_t domid, uint32_t timeout_ms)
{
    uint64_t change = 0;
    for (uint32_t waited_ms = 0;; waited_ms++) {
        pthread_mutex_lock(&machine->lock);
        struct sim_domain *domain = sim_domain_find(machine, domid);
        bool done = !domain || domain->dead || !domain->watch.made;
        if (!done && change == 0)
            change = announce(&domain->watch);
        done = done || domain->watch.acknowledged >= change;
        pthread_mutex_unlock(&machine->lock);
        if (!domain)
            return -ESRCH;
        if (done)
            return 0;
        if (waited_ms == timeout_ms)
            return -ETIMEDOUT;
        (void)nanosleep(&look_again, NULL);
    }
}
