/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Our own domain's memory with its frame numbers, and a guest frame's type: no library has a suitable call for either.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xen_hv.h"

/* Linux, Documentation/admin-guide/mm/pagemap.rst */
static const uint64_t pagemap_present = 1ULL << 63;
static const uint64_t pagemap_pfn = (1ULL << 55) - 1;

/*
 * In a PVH or HVM guest the kernel's page frame number is the guest frame number. Frame numbers read as 0 without
 * CAP_SYS_ADMIN.
 */
static int read_gfns(const void *va, size_t count, uint64_t *gfns)
{
    size_t bytes = count * sizeof *gfns;
    int rc = 0, fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (pread(fd, gfns, bytes, (off_t)(((uintptr_t)va >> SVQ_PAGE_SHIFT) * sizeof *gfns)) != (ssize_t)bytes)
        rc = -EIO;
    close(fd);
    for (size_t i = 0; i < count && rc == 0; i++) {
        uint64_t entry = gfns[i];
        gfns[i] = entry & pagemap_pfn;
        if ((entry & pagemap_present) == 0)
            rc = -EIO;
        else if (gfns[i] == 0)
            rc = -EPERM;
    }
    return rc;
}

/*
 * Locked pages do not go to swap, but the kernel may still move them while it compacts memory: a domain that runs a
 * user-space driver must set vm.compact_unevictable_allowed to 0.
 */
int xen_own_pages(struct svq_hv *hv, uint64_t first_gfn, size_t count, uint64_t *gfns, void **va)
{
    struct xen_hv *xen = xen_of(hv);
    struct xen_map *map = xen_map_new(XEN_MAP_OWN, count);
    size_t bytes = count << SVQ_PAGE_SHIFT;
    (void)first_gfn; /* the kernel chooses */
    if (!map)
        return -ENOMEM;
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1,
                       0);
    int rc;
    if (pages == MAP_FAILED) {
        rc = -errno;
        free(map);
        return rc;
    }
    /* A child would make these pages copy-on-write, and our next write would then go to another frame. */
    rc = madvise(pages, bytes, MADV_DONTFORK) == 0 ? read_gfns(pages, count, gfns) : -errno;
    if (rc != 0) {
        (void)munmap(pages, bytes);
        free(map);
        return rc;
    }
    xen_map_publish(xen, map, pages);
    *va = pages;
    return 0;
}

int xen_release_own_pages(struct svq_hv *hv, void *va, size_t count)
{
    struct xen_map *map = xen_map_take(xen_of(hv), va, XEN_MAP_OWN, count);
    return map ? xen_map_undo(xen_of(hv), map) : -EINVAL;
}

/* --- a guest frame's type: Xen public/hvm/dm_op.h --------------------------------------------------------- */
enum {
    XEN_DMOP_SET_MEM_TYPE = 12,
    HVMMEM_RAM_RW = 0,
    HVMMEM_RAM_RO = 1,
};

struct dm_op_set_mem_type {
    uint32_t op;
    uint32_t pad;
    uint32_t nr;
    uint16_t mem_type;
    uint16_t pad2;
    uint64_t first_pfn;
};

int xen_set_readonly(struct svq_hv *hv, uint16_t domid, uint64_t gfn, int readonly)
{
    struct dm_op_set_mem_type op = {
        .op = XEN_DMOP_SET_MEM_TYPE,
        .nr = 1,
        .mem_type = readonly ? HVMMEM_RAM_RO : HVMMEM_RAM_RW,
        .first_pfn = gfn,
    };
    struct xen_hv *xen = xen_of(hv);
    int rc;
    struct xen_domain *domain = xen_domain_get(xen, domid, &rc);
    if (!domain)
        return rc;
    rc = xen_domain_dm_op(xen, domain, &op, sizeof op);
    xen_domain_put(xen, domain);
    return rc == -EOPNOTSUPP || rc == -ENOTTY ? -ENOSYS : rc; /* Arm has no such memory type */
}
