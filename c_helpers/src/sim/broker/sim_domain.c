/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of the embedded machine's domains: created, running, dead, held by others (zombie), forgotten. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "barrier.h"
#include "sim_broker.h"

struct sim_domain *sim_domain_find(struct svq_sim_machine *machine, uint16_t domid)
{
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        if (machine->domains[slot].used && machine->domains[slot].domid == domid)
            return &machine->domains[slot];
    }
    return NULL;
}

/* Does any living domain say that it holds something of this one? Dead domains have no connections. */
bool sim_domain_held(struct svq_sim_machine *machine, const struct sim_domain *domain)
{
    svq_full_fence(); /* `dead` is stored: a client that has not seen it yet has counted already (sim_peer.c) */
    for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
        const struct sim_connection *connection = machine->connections[i];
        if (connection && connection->domain != domain && svq_acquire_u64(&connection->page->held[domain->slot]))
            return true;
    }
    return false;
}

bool sim_may_control(const struct sim_domain *domain, const struct sim_domain *target)
{
    return domain == target || domain->privilege == SVQ_SIM_PRIVILEGE_ALL || domain->privilege == target->domid;
}

static void socket_name(uint16_t domid, char name[SIM_SOCKET_NAME_BYTES])
{
    (void)snprintf(name, SIM_SOCKET_NAME_BYTES, SIM_SOCKET_NAME, domid);
}

/* A socket address holds 107 characters, and a directory's name may be longer: reach it through its descriptor. */
static struct sockaddr_un socket_address(int directory_fd, const char *name)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    (void)snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", directory_fd, name);
    return address;
}

static int seqpacket_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

/* A machine that was killed leaves its sockets behind, but nobody listens there. */
static bool nobody_listens(const struct sockaddr_un *address)
{
    int fd = seqpacket_socket();
    if (fd < 0)
        return false;
    bool refused = connect(fd, (const struct sockaddr *)(const void *)address, sizeof *address) != 0 &&
                   errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int listen_at(int directory_fd, uint16_t domid)
{
    int err = 0, fd = seqpacket_socket();
    if (fd < 0)
        return fd;
    char name[SIM_SOCKET_NAME_BYTES];
    socket_name(domid, name);
    struct sockaddr_un address = socket_address(directory_fd, name);
    if (bind(fd, (struct sockaddr *)(void *)&address, sizeof address) != 0)
        err = errno;
    if (err == EADDRINUSE && nobody_listens(&address)) {
        (void)unlinkat(directory_fd, name, 0);
        err = bind(fd, (struct sockaddr *)(void *)&address, sizeof address) == 0 ? 0 : errno;
    }
    if (err == 0 && listen(fd, 64) != 0)
        err = errno;
    if (err == 0)
        return fd;
    close(fd);
    return -err;
}

static void end_connections(struct svq_sim_machine *machine, struct sim_domain *domain)
{
    for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
        if (machine->connections[i] && machine->connections[i]->domain == domain)
            sim_connection_end(machine, machine->connections[i]);
    }
}

void sim_domain_die(struct svq_sim_machine *machine, struct sim_domain *domain, bool report)
{
    if (domain->dead)
        return;
    domain->dead = true;
    svq_store_u32(&domain->info->dead, 1);
    end_connections(machine, domain);
    sim_watch_free(domain);
    if (!sim_domain_held(machine, domain))
        sim_domain_memory_drop(domain);
    if (report) {
        domain->death_unreported = true;
        (void)eventfd_write(machine->event_fd, 1);
    }
}

void sim_domain_free(struct svq_sim_machine *machine, struct sim_domain *domain)
{
    sim_domain_die(machine, domain, false);
    end_connections(machine, domain); /* dead domains have some too, until their clients say hello and learn of it */
    for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
        if (machine->connections[i])
            sim_connection_forget_pins(machine->connections[i], domain);
    }
    char name[SIM_SOCKET_NAME_BYTES];
    socket_name(domain->domid, name);
    (void)unlinkat(machine->directory_fd, name, 0);
    sim_close(&domain->listener);
    sim_domain_memory_drop(domain); /* a client may still have it mapped in a window that it no longer uses */
    sim_domain_memory_free(domain);
    domain->used = false;
}

static int domain_init(struct svq_sim_machine *machine, struct sim_domain *domain)
{
    int rc = sim_domain_memory_create(domain);
    if (rc != 0)
        return rc;
    svq_store_u32(&domain->info->grant_frames, 1);
    domain->incarnation = ++machine->next_incarnation;
    domain->listener = listen_at(machine->directory_fd, domain->domid);
    rc = domain->listener < 0 ? domain->listener
                              : sim_broker_watch(machine, domain->listener, sim_watch_domain(domain->slot));
    if (rc != 0) {
        sim_close(&domain->listener);
        sim_domain_memory_free(domain);
        return rc;
    }
    domain->used = true;
    return 0;
}

/* A slot for a new domain: that of its dead predecessor, a free one, or that of a dead domain that nobody holds. */
static int pick_slot(struct svq_sim_machine *machine, uint16_t domid, struct sim_domain **out)
{
    struct sim_domain *domain = sim_domain_find(machine, domid);
    if (domain) {
        if (!domain->dead || sim_domain_held(machine, domain))
            return -EEXIST;
        sim_domain_free(machine, domain);
        *out = domain;
        return 0;
    }
    for (int take_dead = 0; take_dead < 2; take_dead++) {
        for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
            domain = &machine->domains[slot];
            if (take_dead && domain->dead && !sim_domain_held(machine, domain))
                sim_domain_free(machine, domain);
            if (!domain->used) {
                *out = domain;
                return 0;
            }
        }
    }
    return -ENOSPC;
}

int svq_sim_domain_create(struct svq_sim_machine *machine, uint16_t domid, uint64_t ram_pages,
                          uint32_t max_grant_frames, int privilege)
{
    if (ram_pages > SVQ_SIM_RAM_PAGES_MAX || max_grant_frames == 0 || max_grant_frames > SVQ_SIM_GRANT_FRAMES_MAX ||
        privilege < SVQ_SIM_PRIVILEGE_ALL || privilege > UINT16_MAX)
        return -EINVAL;
    pthread_mutex_lock(&machine->lock);
    struct sim_domain *domain;
    int rc = pick_slot(machine, domid, &domain);
    if (rc == 0) {
        memset(domain, 0, sizeof *domain);
        domain->slot = (uint32_t)(domain - machine->domains);
        domain->domid = domid;
        domain->ram_pages = ram_pages;
        domain->max_frames = max_grant_frames;
        domain->privilege = privilege;
        rc = domain_init(machine, domain);
    }
    pthread_mutex_unlock(&machine->lock);
    return rc;
}

int svq_sim_domain_set_privilege(struct svq_sim_machine *machine, uint16_t domid, int privilege)
{
    if (privilege < SVQ_SIM_PRIVILEGE_ALL || privilege > UINT16_MAX)
        return -EINVAL;
    pthread_mutex_lock(&machine->lock);
    struct sim_domain *domain = sim_domain_find(machine, domid);
    if (domain)
        domain->privilege = privilege;
    pthread_mutex_unlock(&machine->lock);
    return domain ? 0 : -ESRCH;
}

int svq_sim_domain_hole(struct svq_sim_machine *machine, uint16_t domid, uint64_t first_gfn, uint64_t count)
{
    int rc = 0;
    pthread_mutex_lock(&machine->lock);
    struct sim_domain *domain = sim_domain_find(machine, domid);
    if (!domain)
        rc = -ESRCH;
    else if (first_gfn > domain->ram_pages || count > domain->ram_pages - first_gfn)
        rc = -EINVAL;
    else
        for (uint64_t gfn = first_gfn; gfn < first_gfn + count; gfn++)
            svq_store_u16(&domain->info->frame_flags[gfn], SIM_FRAME_HOLE);
    pthread_mutex_unlock(&machine->lock);
    return rc;
}

int svq_sim_domain_destroy(struct svq_sim_machine *machine, uint16_t domid)
{
    pthread_mutex_lock(&machine->lock);
    struct sim_domain *domain = sim_domain_find(machine, domid);
    if (domain) {
        sim_domain_die(machine, domain, false);
        domain->death_unreported = false;
    }
    pthread_mutex_unlock(&machine->lock);
    return domain ? 0 : -ESRCH;
}

int svq_sim_domain_state(struct svq_sim_machine *machine, uint16_t domid)
{
    int state = -ESRCH;
    pthread_mutex_lock(&machine->lock);
    struct sim_domain *domain = sim_domain_find(machine, domid);
    if (domain && domain->dead)
        state = sim_domain_held(machine, domain) ? SVQ_SIM_ZOMBIE : SVQ_SIM_DEAD;
    else if (domain)
        state = domain->was_connected ? SVQ_SIM_RUNNING : SVQ_SIM_CREATED;
    pthread_mutex_unlock(&machine->lock);
    return state;
}

static int duplicate(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

int svq_sim_domain_fds(struct svq_sim_machine *machine, uint16_t domid, int *memory_fd, int *table_fd)
{
    int rc = -ESRCH;
    pthread_mutex_lock(&machine->lock);
    const struct sim_domain *domain = sim_domain_find(machine, domid);
    if (domain && !domain->dead) {
        *memory_fd = duplicate(domain->memory_fd);
        *table_fd = duplicate(domain->table_fd);
        rc = *memory_fd < 0 ? *memory_fd : *table_fd < 0 ? *table_fd : 0;
        if (rc != 0) {
            sim_close(memory_fd);
            sim_close(table_fd);
        }
    }
    pthread_mutex_unlock(&machine->lock);
    return rc;
}

int svq_sim_zombies(struct svq_sim_machine *machine, uint16_t *domids, int max)
{
    int found = 0;
    pthread_mutex_lock(&machine->lock);
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        struct sim_domain *domain = &machine->domains[slot];
        if (!domain->used || !domain->dead)
            continue;
        if (!sim_domain_held(machine, domain)) {
            sim_domain_memory_drop(domain);
            continue;
        }
        if (found < max)
            domids[found] = domain->domid;
        found++;
    }
    pthread_mutex_unlock(&machine->lock);
    return found;
}
