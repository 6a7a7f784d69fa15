/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the broker of the embedded machine. The broker's thread and callers of svq_sim.h use everything here with the
 * machine's lock held; clients see only sim_wire.h.
 */
#ifndef SVQ_SIM_BROKER_H
#define SVQ_SIM_BROKER_H

#include <pthread.h>
#include <stdbool.h>

#include "sim_wire.h"

enum {
    SIM_CONNECTIONS_MAX = 2048, /* connection ids are 1 .. this */
    SIM_FIRST_SHARED_GREF = 8,  /* the entries below are the toolstack's, as on Xen */
};

/* A page that svq_hv_share_pages gave out. */
struct sim_share {
    uint32_t gref;
    uint16_t connection; /* 0: free */
    uint16_t leaked;     /* the peer still had it mapped when it was taken back: never used again */
};

struct sim_port {
    uint16_t state; /* SIM_PORT_* */
    uint16_t remote_domid;
    uint16_t connection;
    uint32_t remote_port; /* when connected */
    int wait_fd;
    int notify_fd;
};

/* Stands for an ioreq server on Xen: it outlives the process that made it. */
struct sim_watch {
    bool made;
    uint16_t owner_domid;
    uint16_t connection; /* 0: its process has ended */
    int event_fd;
    uint64_t changes, acknowledged;
};

struct sim_domain {
    bool used, dead, was_connected, death_unreported, memory_dropped;
    uint16_t domid;
    int privilege;
    uint32_t slot;
    uint32_t connections;
    uint64_t incarnation;
    uint64_t ram_pages;
    uint32_t max_frames;
    int listener, memory_fd, table_fd, info_fd, active_fd;
    struct sim_info *info;
    uint64_t *table;
    struct sim_active *active;
    struct sim_share *shares; /* SIM_PRIVATE_PAGES */
    struct sim_port *ports;   /* SVQ_SIM_PORTS_MAX */
    struct sim_watch watch;   /* on its frames */
};

struct sim_connection {
    int fd;
    uint16_t id;
    bool gone; /* its other end is closed: the client does nothing more */
    bool greeted;
    struct sim_domain *domain;
    int page_fd;
    struct sim_connection_page *page;
    uint32_t *pins[SVQ_SIM_DOMAINS_MAX]; /* by slot of the granting domain */
    int pins_fd[SVQ_SIM_DOMAINS_MAX];
};

struct svq_sim_machine {
    pthread_mutex_t lock;
    pthread_t thread;
    int directory_fd, epoll_fd, wake_fd, event_fd;
    bool pretend_readonly;
    uint64_t next_incarnation;
    struct sim_domain domains[SVQ_SIM_DOMAINS_MAX];
    struct sim_connection *connections[SIM_CONNECTIONS_MAX];
};

/* What an answer carries besides its words. The sender keeps the descriptors. */
struct sim_reply {
    struct sim_answer answer;
    int fds[SIM_WIRE_FDS_MAX];
    int fd_count;
};

/* sim_memory.c: the broker's shared memory; where there is none, descriptors are -1 and addresses NULL. */
int sim_shared_memory(const char *name, uint64_t bytes, void **va);
void sim_unmap(void *va, uint64_t bytes);
void sim_close(int *fd);
int sim_domain_memory_create(struct sim_domain *domain);
void sim_domain_memory_free(struct sim_domain *domain);
/* Gives a dead domain's pages back to the host, even if clients still have them in one of their windows. */
void sim_domain_memory_drop(struct sim_domain *domain);
static inline uint64_t sim_grefs(const struct sim_domain *domain)
{
    return (uint64_t)domain->max_frames * SVQ_GRANTS_PER_FRAME;
}

/* sim_domain.c */
struct sim_domain *sim_domain_find(struct svq_sim_machine *machine, uint16_t domid);
bool sim_domain_held(struct svq_sim_machine *machine, const struct sim_domain *domain);
bool sim_may_control(const struct sim_domain *domain, const struct sim_domain *target);
void sim_domain_die(struct svq_sim_machine *machine, struct sim_domain *domain, bool report);
void sim_domain_free(struct svq_sim_machine *machine, struct sim_domain *domain);

/* sim_connection.c */
struct sim_connection *sim_connection_accept(struct svq_sim_machine *machine, struct sim_domain *domain);
int sim_connection_pins(struct sim_connection *connection, const struct sim_domain *granter);
void sim_connection_forget_pins(struct sim_connection *connection, const struct sim_domain *granter);
void sim_connection_release(struct svq_sim_machine *machine, struct sim_connection *connection);
/* Releases, closes and frees; when a domain's last connection ends, so does the domain. */
void sim_connection_end(struct svq_sim_machine *machine, struct sim_connection *connection);

/* sim_shares.c */
int sim_grow_table(struct sim_domain *domain, uint64_t frames);
int sim_share(struct sim_connection *connection, uint16_t peer_domid, uint64_t count, bool writable,
              struct sim_answer *answer);
int sim_unshare(struct sim_connection *connection, uint64_t gfn, uint64_t count);
void sim_unshare_all(struct sim_connection *connection);

/* sim_ports.c */
int sim_port_alloc(struct sim_connection *connection, uint16_t remote_domid, struct sim_reply *reply);
int sim_port_bind(struct svq_sim_machine *machine, struct sim_connection *connection, uint16_t remote_domid,
                  uint64_t untrusted_port, struct sim_reply *reply);
int sim_port_close(struct svq_sim_machine *machine, struct sim_connection *connection, uint64_t untrusted_port);
void sim_port_close_all(struct svq_sim_machine *machine, struct sim_connection *connection);

/* sim_watches.c */
int sim_watch_make(const struct sim_connection *connection, struct sim_domain *target, struct sim_reply *reply);
int sim_watch_changes(const struct sim_connection *connection, const struct sim_domain *target,
                      struct sim_answer *answer);
int sim_watch_ack(const struct sim_connection *connection, struct sim_domain *target, uint64_t untrusted_changes);
int sim_watch_close(const struct sim_connection *connection, struct sim_domain *target);
/* For a process that has ended: its watches stay, and wait for another process of its domain. */
void sim_watches_orphan(struct svq_sim_machine *machine, const struct sim_connection *connection);
void sim_watch_free(struct sim_domain *target);

/* sim_requests.c: answers one request. False: the client has said goodbye. */
bool sim_answer_request(struct svq_sim_machine *machine, struct sim_connection *connection,
                        const struct sim_request *untrusted_request, struct sim_reply *reply);

/* sim_broker.c */
void *sim_broker_run(void *machine);
int sim_broker_watch(struct svq_sim_machine *machine, int fd, uint64_t what);
static inline uint64_t sim_watch_domain(uint32_t slot) { return slot; }
static inline uint64_t sim_watch_connection(uint16_t id) { return 1ULL << 32 | id; }
static inline uint64_t sim_watch_wake(void) /* the broker's thread is to end */ { return 2ULL << 32; }

#endif
