/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handles that reach other domains, one set for each. The kernel restricts a set to its domain
 * (IOCTL_PRIVCMD_RESTRICT, Linux 4.11) before we use it. Such a handle maps that domain's memory and grant table and
 * does device-model operations on it; for other domains, and for any other hypercall, the kernel returns EPERM. A
 * restriction cannot be undone (tried on Xen 4.17 with Linux 6.1, in dom0 and in a mediator domain).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "xen_hv.h"

enum { DOMID_FIRST_RESERVED = 0x7ff0 }; /* xen.h; the kernel reads one of the higher domids as "no restriction" */

/* The error for `err`, with which the kernel refused to restrict a handle. */
static int not_restricted(uint16_t domid, int err)
{
    /* The kernel already restricts us, to our target. */
    if (err == EINVAL)
        return svq_hv_fail(-EPERM, "this domain may not reach domain %u: its node `target` names another one", domid);
    return svq_hv_fail(err > 0 ? -err : -EIO, "%s cannot be restricted to domain %u", xen_node_privcmd.path, domid);
}

static int open_memory(const struct xen_hv *xen, struct xen_domain *domain)
{
    errno = 0;
    domain->foreignmemory = xen->libs->foreignmemory_open(xen_silent_logger(), 0);
    if (!domain->foreignmemory)
        return xen_node_failed(&xen_node_privcmd, errno != 0 ? errno : EIO);
    if (xen->libs->foreignmemory_restrict(domain->foreignmemory, domain->domid) == 0)
        return 0;
    int err = errno;
    (void)xen->libs->foreignmemory_close(domain->foreignmemory);
    return not_restricted(domain->domid, err);
}

static void close_domain(const struct xen_hv *xen, struct xen_domain *domain)
{
    (void)xen->libs->foreignmemory_close(domain->foreignmemory);
    if (domain->privcmd_fd >= 0)
        close(domain->privcmd_fd);
    free(domain);
}

/* A domain without users stays until another one is opened: a guest may map and unmap all the time. */
static void close_idle(struct xen_hv *xen)
{
    struct xen_domain **link = &xen->domains;
    while (*link) {
        struct xen_domain *domain = *link;
        if (domain->users != 0) {
            link = &domain->next;
            continue;
        }
        *link = domain->next;
        close_domain(xen, domain);
    }
}

static struct xen_domain *new_domain(struct xen_hv *xen, uint16_t domid, int *rc)
{
    struct xen_domain *domain = calloc(1, sizeof *domain);
    if (!domain) {
        *rc = -ENOMEM;
        return NULL;
    }
    close_idle(xen);
    domain->domid = domid;
    domain->privcmd_fd = -1;
    *rc = open_memory(xen, domain);
    if (*rc != 0) {
        free(domain);
        return NULL;
    }
    domain->next = xen->domains;
    xen->domains = domain;
    return domain;
}

struct xen_domain *xen_domain_get(struct xen_hv *xen, uint16_t domid, int *rc)
{
    if (domid >= DOMID_FIRST_RESERVED) {
        *rc = -ESRCH;
        return NULL;
    }
    pthread_mutex_lock(&xen->lock);
    struct xen_domain *domain;
    for (domain = xen->domains; domain && domain->domid != domid; domain = domain->next)
        ;
    if (!domain)
        domain = new_domain(xen, domid, rc);
    if (domain)
        domain->users++;
    pthread_mutex_unlock(&xen->lock);
    return domain;
}

void xen_domain_put(struct xen_hv *xen, struct xen_domain *domain)
{
    pthread_mutex_lock(&xen->lock);
    domain->users--;
    pthread_mutex_unlock(&xen->lock);
}

static int open_privcmd(uint16_t domid)
{
    int fd = open(xen_node_privcmd.path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return xen_node_failed(&xen_node_privcmd, errno);
    if (ioctl(fd, _IOC(_IOC_NONE, 'P', 6, sizeof domid), &domid) == 0) /* Linux include/uapi/xen/privcmd.h */
        return fd;
    int err = errno;
    close(fd);
    return not_restricted(domid, err);
}

int xen_domain_privcmd(struct xen_hv *xen, struct xen_domain *domain)
{
    pthread_mutex_lock(&xen->lock);
    if (domain->privcmd_fd < 0)
        domain->privcmd_fd = open_privcmd(domain->domid);
    int fd = domain->privcmd_fd;
    pthread_mutex_unlock(&xen->lock);
    return fd;
}

/*
 * Linux include/uapi/xen/privcmd.h. Not through libxendevicemodel: it probes with domid 0 when it opens, which a
 * privcmd restricted to another domain refuses.
 */
int xen_domain_dm_op(struct xen_hv *xen, struct xen_domain *domain, void *op, size_t bytes)
{
    struct {
        void *ptr;
        size_t size;
    } buf = { op, bytes };
    struct {
        uint16_t domid, count;
        const void *bufs;
    } arg = { domain->domid, 1, &buf };
    int fd = xen_domain_privcmd(xen, domain);

    if (fd < 0)
        return fd;
    return ioctl(fd, _IOC(_IOC_NONE, 'P', 5, sizeof arg), &arg) == 0 ? 0 : -errno;
}

void xen_domains_close(struct xen_hv *xen)
{
    while (xen->domains) {
        struct xen_domain *domain = xen->domains;
        xen->domains = domain->next;
        close_domain(xen, domain);
    }
}
