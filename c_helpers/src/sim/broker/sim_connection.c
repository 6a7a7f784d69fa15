/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One client handle as the broker sees it. When it ends, however that happens, everything that it did is undone. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sim_broker.h"
#include "sim_pins.h"

enum { STEAL_AFTER_YIELDS = 1 << 16 };

static uint64_t pins_bytes(const struct sim_domain *granter) { return sim_grefs(granter) * sizeof(uint32_t); }

static struct sim_connection *connection_create(struct sim_domain *domain, uint16_t id)
{
    struct sim_connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return NULL;
    connection->domain = domain;
    connection->id = id;
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++)
        connection->pins_fd[slot] = -1;
    void *page;
    connection->page_fd = sim_shared_memory("svq-connection", sizeof(struct sim_connection_page), &page);
    if (connection->page_fd < 0) {
        free(connection);
        return NULL;
    }
    connection->page = page;
    return connection;
}

static void connection_free(struct sim_connection *connection)
{
    sim_unmap(connection->page, sizeof *connection->page);
    sim_close(&connection->page_fd);
    /* The host may have forked: closing alone would not tell the client. */
    (void)shutdown(connection->fd, SHUT_RDWR);
    sim_close(&connection->fd);
    free(connection);
}

struct sim_connection *sim_connection_accept(struct svq_sim_machine *machine, struct sim_domain *domain)
{
    uint32_t i = 0;
    int fd = accept4(domain->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return NULL;
    while (i < SIM_CONNECTIONS_MAX && machine->connections[i])
        i++;
    struct sim_connection *connection = i < SIM_CONNECTIONS_MAX ? connection_create(domain, (uint16_t)(i + 1)) : NULL;
    if (!connection) {
        close(fd);
        return NULL;
    }
    connection->fd = fd;
    if (sim_broker_watch(machine, fd, sim_watch_connection(connection->id)) != 0) {
        connection_free(connection);
        return NULL;
    }
    machine->connections[i] = connection;
    return connection;
}

int sim_connection_pins(struct sim_connection *connection, const struct sim_domain *granter)
{
    uint32_t slot = granter->slot;
    void *va;
    if (connection->pins_fd[slot] < 0) {
        int fd = sim_shared_memory("svq-pins", pins_bytes(granter), &va);
        if (fd < 0)
            return fd;
        connection->pins_fd[slot] = fd;
        connection->pins[slot] = va;
    }
    return connection->pins_fd[slot];
}

void sim_connection_forget_pins(struct sim_connection *connection, const struct sim_domain *granter)
{
    sim_unmap(connection->pins[granter->slot], pins_bytes(granter));
    connection->pins[granter->slot] = NULL;
    sim_close(&connection->pins_fd[granter->slot]);
}

/* Can the lock's owner no longer let go of it? A killed process has closed its sockets. */
static bool owner_is_gone(struct svq_sim_machine *machine, uint16_t owner)
{
    const struct sim_connection *connection = NULL;
    struct pollfd pfd = { .events = POLLRDHUP };
    if (owner <= SIM_CONNECTIONS_MAX)
        connection = machine->connections[owner - 1];
    if (!connection || connection->gone)
        return true;
    pfd.fd = connection->fd;
    return poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

static void lock_or_steal(struct svq_sim_machine *machine, struct sim_active *active, uint16_t id)
{
    for (uint32_t tries = 0; tries < STEAL_AFTER_YIELDS; tries++) {
        uint64_t seen = svq_load_u64(&active->counts);
        uint16_t owner = sim_active_owner(seen);
        if (owner == 0 ? svq_cas_u64(&active->counts, &seen, seen | id) : owner_is_gone(machine, owner))
            return;
        (void)sched_yield();
    }
}

/* Counts again who maps one gref, without this connection, and sets the entry's flags accordingly. */
static void drop_pins_of(struct svq_sim_machine *machine, struct sim_connection *connection, struct sim_domain *granter,
                         uint64_t gref)
{
    uint64_t readers = 0, writers = 0;
    lock_or_steal(machine, &granter->active[gref], connection->id);
    svq_store_u32(&connection->pins[granter->slot][gref], 0);
    for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
        const struct sim_connection *other = machine->connections[i];
        if (!other || !other->pins[granter->slot])
            continue;
        uint32_t pins = svq_load_u32(&other->pins[granter->slot][gref]);
        readers += pins & SIM_PIN_COUNT_MAX;
        writers += pins / SIM_PIN_WRITE;
    }
    uint64_t counts = sim_active_counts(readers, writers);
    sim_entry_drop_flags(&granter->table[gref], counts);
    sim_active_unlock(&granter->active[gref], counts);
}

static void drop_pins_in(struct svq_sim_machine *machine, struct sim_connection *connection, struct sim_domain *granter,
                         uint64_t first, uint64_t end)
{
    for (uint64_t gref = first; gref < end; gref++) {
        /* The client may have been killed between taking the lock and counting. */
        if (svq_load_u32(&connection->pins[granter->slot][gref]) != 0 ||
            sim_active_owner(svq_load_u64(&granter->active[gref].counts)) == connection->id)
            drop_pins_of(machine, connection, granter, gref);
    }
}

/* The arrays are sparse and may be large: look only where a client ever touched its pins. */
static void drop_all_pins(struct svq_sim_machine *machine, struct sim_connection *connection)
{
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++) {
        struct sim_domain *granter = &machine->domains[slot];
        off_t end = 0, start;
        int fd = connection->pins_fd[slot];
        if (fd < 0)
            continue;
        while ((start = lseek(fd, end, SEEK_DATA)) >= 0 && (end = lseek(fd, start, SEEK_HOLE)) > start)
            drop_pins_in(machine, connection, granter, (uint64_t)start / sizeof(uint32_t),
                         (uint64_t)end / sizeof(uint32_t));
        sim_connection_forget_pins(connection, granter);
    }
}

void sim_connection_release(struct svq_sim_machine *machine, struct sim_connection *connection)
{
    svq_store_u32(&connection->page->revoked, 1);
    svq_full_fence(); /* a client that takes a lock after we looked at it sees `revoked` (sim_grants.c) */
    drop_all_pins(machine, connection);
    sim_port_close_all(machine, connection);
    sim_watches_orphan(machine, connection);
    sim_unshare_all(connection);
    for (uint32_t slot = 0; slot < SVQ_SIM_DOMAINS_MAX; slot++)
        svq_store_u64(&connection->page->held[slot], 0);
}

void sim_connection_end(struct svq_sim_machine *machine, struct sim_connection *connection)
{
    struct sim_domain *domain = connection->domain;
    sim_connection_release(machine, connection);
    machine->connections[connection->id - 1] = NULL;
    if (connection->greeted)
        domain->connections--;
    connection_free(connection);
    if (domain->was_connected && domain->connections == 0)
        sim_domain_die(machine, domain, true);
}
