/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The handles that reach one domain's memory can reach nothing else. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "seam_check.h"
#include "xen_hv.h"

/* Linux include/uapi/xen/privcmd.h, Xen public/xen.h */
struct hypercall {
    uint64_t op;
    uint64_t arg[5];
};
enum { HYPERVISOR_XEN_VERSION = 17, XENMEM_RESOURCE_GRANT_TABLE = 1 };

static void other_domain(struct mediator *m, struct xen_domain *domain)
{
    const struct xen_libs *libs = xen_of(m->hv)->libs;
    uint64_t gfn = FIRST_GFN;
    void *mapped = NULL;
    int err = 0;
    void *memory = libs->foreignmemory_map(domain->foreignmemory, m->other, PROT_READ, 1, &gfn, &err);
    check(!memory && errno == EPERM, -errno, "the frontend's handle does not map another domain's memory");
    void *table = libs->foreignmemory_map_resource(domain->foreignmemory, m->other, XENMEM_RESOURCE_GRANT_TABLE, 0, 0,
                                                   1, &mapped, PROT_READ, 0);
    check(!table && errno == EPERM, -errno, "nor its grant table");
}

/* Every descriptor of privcmd in this process refuses a hypercall that privcmd would let anybody make. */
static void no_hypercalls(void)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    int found = 0, open_ones = 0;

    while (folder && (entry = readdir(folder)) != NULL) {
        struct hypercall call = { .op = HYPERVISOR_XEN_VERSION };
        char target[64] = "";
        if (readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1) < 0 ||
            strcmp(target, xen_node_privcmd.path) != 0)
            continue;
        found++;
        open_ones += ioctl(atoi(entry->d_name), _IOC(_IOC_NONE, 'P', 0, sizeof call), &call) >= 0 || errno != EPERM;
    }
    if (folder)
        closedir(folder);
    check(found >= 2 && open_ones == 0, found, "no descriptor of privcmd in the process makes a hypercall");
}

void narrow_handles(struct mediator *m)
{
    struct xen_hv *xen = xen_of(m->hv);
    int rc = -EIO;
    struct xen_domain *domain = xen_domain_get(xen, m->frontend, &rc);
    if (!check(domain != NULL, rc, "the frontend has a handle of its own"))
        return;
    int fd = xen_domain_privcmd(xen, domain);
    check(fd >= 0, fd, "and one for what the library cannot do");
    other_domain(m, domain);
    no_hypercalls();
    xen_domain_put(xen, domain);
}
