/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The embedded machine: domains that are processes, guest RAM that is a memfd, grant tables in shared memory with
 * the real entry layout, event channels that are eventfds. A broker thread of the calling process plays the
 * hypervisor.
 *
 * It is for trying the product, for tests and for timing, and it is no security boundary between its domains: the
 * library of the grantee enforces grants (a process that maps the granted memfd without it could reach all of that
 * domain's memory), and the guest's own writes to its own memory cannot be stopped. Only what the broker itself
 * decides is beyond a client's reach: who may map foreign memory and grant tables, event channel ports, deaths.
 *
 * Each domain is reached at <directory>/hv-dom<domid>.sock (svq_hv_open_sim): that socket is its identity, so the
 * directory's permissions are the machine's. Several processes and handles may be one domain. A domain dies when
 * it is destroyed, or when the last of its handles closes or its process ends.
 *
 * cffi parses this header with the preprocessor lines removed: plain declarations only. Every int answer is 0 (or
 * a count, or a value where said) or -errno. All functions may be called from any thread.
 */
#ifndef SVQ_SIM_H
#define SVQ_SIM_H

#include <stdint.h>

/* The libraries export what their headers declare, and nothing else. */
#pragma GCC visibility push(default)

struct svq_sim_machine;

enum {
    SVQ_SIM_DOMAINS_MAX = 512,        /* living and zombie domains of one machine */
    SVQ_SIM_RAM_PAGES_MAX = 16777216, /* 64 GiB; the memory is sparse */
    SVQ_SIM_GRANT_FRAMES_MAX = 8192,
    SVQ_SIM_PORTS_MAX = 4096, /* event channel ports of one domain; port 0 is never used */
};

/* What a domain may do to others: none, all (dom0), or, as a value >= 0, the domid of the one domain it serves. */
enum {
    SVQ_SIM_PRIVILEGE_NONE = -1,
    SVQ_SIM_PRIVILEGE_ALL = -2,
};

/* Answers of svq_sim_domain_state. */
enum {
    SVQ_SIM_CREATED = 0, /* no handle was opened yet */
    SVQ_SIM_RUNNING = 1,
    SVQ_SIM_DEAD = 2,   /* nobody holds anything of it */
    SVQ_SIM_ZOMBIE = 3, /* dead, but a living domain still holds pages, grants or tables of it */
};

enum {
    SVQ_SIM_EVENT_DIED = 1, /* the last handle of a domain was closed, or its last process ended */
};

/* `directory` must exist. -EADDRINUSE: a machine with that domain's socket lives there already (from create). */
int svq_sim_machine_start(const char *directory, struct svq_sim_machine **out);

/* Ends all domains, removes their sockets, frees the machine. */
void svq_sim_machine_stop(struct svq_sim_machine *machine);

/*
 * A new domain, with `ram_pages` of RAM (frames 0 .. ram_pages - 1) and a grant table of one frame that may grow
 * to `max_grant_frames`. `privilege`: see above. -EEXIST: that domid lives, or is a zombie.
 */
int svq_sim_domain_create(struct svq_sim_machine *machine, uint16_t domid, uint64_t ram_pages,
                          uint32_t max_grant_frames, int privilege);

/* Changes the privilege (for instance to a target that was created later). */
int svq_sim_domain_set_privilege(struct svq_sim_machine *machine, uint16_t domid, int privilege);

/* Declares frames of the domain's address space not to be RAM. */
int svq_sim_domain_hole(struct svq_sim_machine *machine, uint16_t domid, uint64_t first_gfn, uint64_t count);

/* Ends a domain: its handles fail from now on. No event is reported, for the caller knows. */
int svq_sim_domain_destroy(struct svq_sim_machine *machine, uint16_t domid);

/* SVQ_SIM_CREATED .. SVQ_SIM_ZOMBIE, or -ESRCH. */
int svq_sim_domain_state(struct svq_sim_machine *machine, uint16_t domid);

/*
 * A living domain's memory (its RAM first) and its grant table (all frames that it may ever have), for whoever owns the
 * machine to look at and not to write. The descriptors are the caller's; they hold nothing of the domain. -ESRCH: there
 * is none.
 */
int svq_sim_domain_fds(struct svq_sim_machine *machine, uint16_t domid, int *memory_fd, int *table_fd);

/* Writes the domids of at most `max` zombies; answers how many there are in all. */
int svq_sim_zombies(struct svq_sim_machine *machine, uint16_t *domids, int max);

/* Readable (poll) while an event waits. It belongs to the machine. */
int svq_sim_event_fd(struct svq_sim_machine *machine);

/* 1: *kind and *domid are an event; 0: there is none. */
int svq_sim_next_event(struct svq_sim_machine *machine, int *kind, uint16_t *domid);

/*
 * svq_hv_set_readonly answers -ENOSYS in this machine, for nothing here stops a guest's writes to its own memory.
 * To exercise and time the code above it, it may be told to pretend: then the frame is recorded as read-only, and
 * only grant maps heed that.
 */
int svq_sim_pretend_readonly(struct svq_sim_machine *machine, int enabled);

/*
 * What Xen does when a processor of the domain has taken frames out of its address space, for instance with
 * svq_sim_domain_hole: tells whoever watches them (svq_frames_watch), and waits for that to be acknowledged. 0: it was,
 * or nobody watches. -ETIMEDOUT: not within `timeout_ms`; it stays to be acknowledged.
 */
int svq_sim_frames_changed(struct svq_sim_machine *machine, uint16_t domid, uint32_t timeout_ms);

#pragma GCC visibility pop

#endif
