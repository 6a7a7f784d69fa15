/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients may ask of the broker, which client may ask it, and the answers. Every word of a request is untrusted.
 */
#include <errno.h>
#include <string.h>

#include "barrier.h"
#include "sim_broker.h"

static int hello(struct sim_connection *connection, uint64_t version, struct sim_reply *reply)
{
    struct sim_domain *domain = connection->domain;
    if (version != SIM_WIRE_VERSION)
        return -EPROTO;
    if (domain->dead)
        return -EACCES;
    if (!connection->greeted)
        domain->connections++;
    connection->greeted = true;
    domain->was_connected = true;
    reply->answer.domid = domain->domid;
    reply->answer.connection = connection->id;
    reply->fds[0] = connection->page_fd;
    reply->fd_count = 1;
    return 0;
}

/*
 * Whatever a client needs to map a domain's grants. Any domain gets it for any domain: the grantee's library checks the
 * entries (sim_grants.c). Here the machine is a simulation and not a boundary.
 */
static int peer(struct sim_connection *connection, struct sim_domain *target, struct sim_reply *reply)
{
    int pins_fd = sim_connection_pins(connection, target);
    if (pins_fd < 0)
        return pins_fd;
    reply->answer.slot = target->slot;
    reply->answer.incarnation = target->incarnation;
    reply->answer.ram_pages = target->ram_pages;
    reply->answer.max_frames = target->max_frames;
    reply->fds[0] = target->memory_fd;
    reply->fds[1] = target->table_fd;
    reply->fds[2] = target->info_fd;
    reply->fds[3] = target->active_fd;
    reply->fds[4] = pins_fd;
    reply->fd_count = 5;
    return 0;
}

/* As on Xen, a domain cannot do this to itself. */
static int set_readonly(const struct svq_sim_machine *machine, const struct sim_connection *connection,
                        struct sim_domain *target, uint64_t untrusted_gfn, bool readonly)
{
    if (!machine->pretend_readonly)
        return -ENOSYS;
    if (target == connection->domain || !sim_may_control(connection->domain, target))
        return -EPERM;
    if (untrusted_gfn >= target->ram_pages)
        return -EINVAL;
    uint16_t *flags = &target->info->frame_flags[untrusted_gfn];
    if ((svq_load_u16(flags) & SIM_FRAME_HOLE) != 0)
        return -EINVAL;
    svq_store_u16(flags, readonly ? SIM_FRAME_READONLY : 0);
    return 0;
}

static int about_a_domain(struct svq_sim_machine *machine, struct sim_connection *connection,
                          const struct sim_request *request, struct sim_reply *reply)
{
    struct sim_domain *target = sim_domain_find(machine, request->domid);
    if (!target || target->dead)
        return -ESRCH;
    switch (request->op) {
    case SIM_OP_PEER: return peer(connection, target, reply);
    case SIM_OP_AUTHORISE: return sim_may_control(connection->domain, target) ? 0 : -EPERM;
    case SIM_OP_GROW_TABLE:
        return sim_may_control(connection->domain, target) ? sim_grow_table(target, request->args[0]) : -EPERM;
    case SIM_OP_FRAMES_WATCH: return sim_watch_make(connection, target, reply);
    case SIM_OP_FRAMES_CHANGES: return sim_watch_changes(connection, target, &reply->answer);
    case SIM_OP_FRAMES_ACK: return sim_watch_ack(connection, target, request->args[0]);
    case SIM_OP_FRAMES_CLOSE: return sim_watch_close(connection, target);
    default: /* SIM_OP_SET_READONLY */
        return set_readonly(machine, connection, target, request->args[0], request->args[1] != 0);
    }
}

static int answer_status(struct svq_sim_machine *machine, struct sim_connection *connection,
                         const struct sim_request *request, struct sim_reply *reply)
{
    if (request->op == SIM_OP_HELLO)
        return hello(connection, request->args[0], reply);
    if (!connection->greeted)
        return -EPROTO;
    switch (request->op) {
    case SIM_OP_PEER:
    case SIM_OP_AUTHORISE:
    case SIM_OP_GROW_TABLE:
    case SIM_OP_SET_READONLY:
    case SIM_OP_FRAMES_WATCH:
    case SIM_OP_FRAMES_CHANGES:
    case SIM_OP_FRAMES_ACK:
    case SIM_OP_FRAMES_CLOSE: return about_a_domain(machine, connection, request, reply);
    case SIM_OP_SHARE: /* as on Xen, a domain may grant to one that does not exist (yet) */
        return sim_share(connection, request->domid, request->args[0], request->args[1] != 0, &reply->answer);
    case SIM_OP_UNSHARE: return sim_unshare(connection, request->args[0], request->args[1]);
    case SIM_OP_PORT_ALLOC: return sim_port_alloc(connection, request->domid, reply);
    case SIM_OP_PORT_BIND: return sim_port_bind(machine, connection, request->domid, request->args[0], reply);
    case SIM_OP_PORT_CLOSE: return sim_port_close(machine, connection, request->args[0]);
    default: return -EPROTO;
    }
}

bool sim_answer_request(struct svq_sim_machine *machine, struct sim_connection *connection,
                        const struct sim_request *untrusted_request, struct sim_reply *reply)
{
    memset(reply, 0, sizeof *reply);
    if (untrusted_request->op == SIM_OP_BYE) {
        sim_connection_release(machine, connection);
        return false;
    }
    reply->answer.status = answer_status(machine, connection, untrusted_request, reply);
    if (reply->answer.status != 0)
        reply->fd_count = 0;
    return true;
}
