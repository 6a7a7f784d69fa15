/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The embedded machine: domains that are processes, guest RAM that is a memfd, grant tables in shared memory with
 * the real entry layout, event channels that are eventfds. A broker thread of the calling process plays the
 * hypervisor.
 *
 * It is for trying the product, for tests and for timing. It is no security boundary between its domains: the grantee's
 * library enforces grants (a process that maps the granted memfd without it could reach all of that domain's memory),
 * and nothing can stop a guest's writes to its own memory. Only the broker's own decisions are out of a client's reach:
 * who may map foreign memory and grant tables, event channel ports, deaths.
 *
 * Each domain is reached at <directory>/hv-dom<domid>.sock (svq_hv_open_sim): that socket is its identity, so the
 * directory's permissions are the machine's. Several processes and handles may be one domain. A domain dies when
 * it is destroyed, or when the last of its handles closes or its process ends.
 *
 * cffi parses this header with the preprocessor lines removed: plain declarations only. Every int result is 0 (or a
 * count, or another value where a comment says so) or -errno. Any thread may call all functions.
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

/* What a domain may do to others: none, all (dom0), or a value >= 0: the domid of the one domain that it serves. */
enum {
    SVQ_SIM_PRIVILEGE_NONE = -1,
    SVQ_SIM_PRIVILEGE_ALL = -2,
};

/* Results of svq_sim_domain_state. */
enum {
    SVQ_SIM_CREATED = 0, /* nobody has opened a handle yet */
    SVQ_SIM_RUNNING = 1,
    SVQ_SIM_DEAD = 2,   /* nobody holds anything of it */
    SVQ_SIM_ZOMBIE = 3, /* dead, but a living domain still holds pages, grants or tables of it */
};

enum {
    SVQ_SIM_EVENT_DIED = 1, /* the last handle of a domain was closed, or its last process ended */
};

/* `directory` must exist. If another machine has a domain's socket there, svq_sim_domain_create fails: -EADDRINUSE. */
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

/* Ends a domain: its handles fail from now on. This reports no event, since the caller knows. */
int svq_sim_domain_destroy(struct svq_sim_machine *machine, uint16_t domid);

/* SVQ_SIM_CREATED .. SVQ_SIM_ZOMBIE, or -ESRCH. */
int svq_sim_domain_state(struct svq_sim_machine *machine, uint16_t domid);

/*
 * A living domain's memory (its RAM first) and its grant table (all frames that it may ever have). For the
 * machine's owner to read, not to write. The caller owns the descriptors; they hold nothing of the domain. -ESRCH:
 * there is no such domain.
 */
int svq_sim_domain_fds(struct svq_sim_machine *machine, uint16_t domid, int *memory_fd, int *table_fd);

/* Writes the domids of at most `max` zombies; returns how many there are in all. */
int svq_sim_zombies(struct svq_sim_machine *machine, uint16_t *domids, int max);

/* Readable (poll) while an event waits. It belongs to the machine. */
int svq_sim_event_fd(struct svq_sim_machine *machine);

/* 1: *kind and *domid describe an event; 0: there is none. */
int svq_sim_next_event(struct svq_sim_machine *machine, int *kind, uint16_t *domid);

/*
 * svq_hv_set_readonly returns -ENOSYS in this machine, since nothing here stops a guest's writes to its own memory. To
 * exercise and time the code above it, the machine can pretend: then it records the frame as read-only, and only grant
 * maps heed that.
 */
int svq_sim_pretend_readonly(struct svq_sim_machine *machine, int enabled);

/*
 * Does what Xen does when a processor of the domain has taken frames out of its address space, for instance with
 * svq_sim_domain_hole: tells whoever watches them (svq_frames_watch), and waits for the acknowledgement. 0:
 * acknowledged, or nobody watches. -ETIMEDOUT: not within `timeout_ms`; the change still has to be acknowledged.
 */
int svq_sim_frames_changed(struct svq_sim_machine *machine, uint16_t domid, uint32_t timeout_ms);

#pragma GCC visibility pop

#endif
