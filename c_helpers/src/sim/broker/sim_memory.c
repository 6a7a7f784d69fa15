/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The shared memory of the embedded machine: memfds, sparse, and sealed so that no client can truncate them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim_broker.h"

int sim_shared_memory(const char *name, uint64_t bytes, void **va)
{
    int err, fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
        goto fail;
    if (va) {
        *va = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (*va == MAP_FAILED) {
            *va = NULL;
            goto fail;
        }
        (void)madvise(*va, bytes, MADV_DONTDUMP);
    }
    return fd;

fail:
    err = errno;
    close(fd);
    return -err;
}

void sim_unmap(void *va, uint64_t bytes)
{
    if (va)
        (void)munmap(va, bytes);
}

void sim_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static int create_all(struct sim_domain *domain)
{
    domain->memory_fd = sim_shared_memory("svq-ram", (domain->ram_pages + SIM_PRIVATE_PAGES) << SVQ_PAGE_SHIFT, NULL);
    if (domain->memory_fd < 0)
        return domain->memory_fd;
    void *va;
    domain->table_fd = sim_shared_memory("svq-grants", sim_grefs(domain) * sizeof(uint64_t), &va);
    if (domain->table_fd < 0)
        return domain->table_fd;
    domain->table = va;
    domain->active_fd = sim_shared_memory("svq-active", sim_grefs(domain) * sizeof *domain->active, &va);
    if (domain->active_fd < 0)
        return domain->active_fd;
    domain->active = va;
    domain->info_fd = sim_shared_memory("svq-info", sim_info_bytes(domain->ram_pages), &va);
    if (domain->info_fd < 0)
        return domain->info_fd;
    domain->info = va;
    /* From now on nobody can map it writable: only the mapping that we already have is writable. */
    return fcntl(domain->info_fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0 ? 0 : -errno;
}

static void *anonymous(uint64_t bytes)
{
    void *va = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return va == MAP_FAILED ? NULL : va;
}

int sim_domain_memory_create(struct sim_domain *domain)
{
    domain->memory_fd = domain->table_fd = domain->info_fd = domain->active_fd = -1;
    domain->info = NULL;
    domain->table = NULL;
    domain->active = NULL;
    domain->shares = anonymous(SIM_PRIVATE_PAGES * sizeof *domain->shares);
    domain->ports = anonymous(SVQ_SIM_PORTS_MAX * sizeof *domain->ports);
    int rc = !domain->shares || !domain->ports ? -ENOMEM : create_all(domain);
    if (rc != 0)
        sim_domain_memory_free(domain);
    return rc;
}

void sim_domain_memory_free(struct sim_domain *domain)
{
    sim_unmap(domain->info, sim_info_bytes(domain->ram_pages));
    sim_unmap(domain->table, sim_grefs(domain) * sizeof(uint64_t));
    sim_unmap(domain->active, sim_grefs(domain) * sizeof *domain->active);
    sim_unmap(domain->shares, SIM_PRIVATE_PAGES * sizeof *domain->shares);
    sim_unmap(domain->ports, SVQ_SIM_PORTS_MAX * sizeof *domain->ports);
    sim_close(&domain->memory_fd);
    sim_close(&domain->table_fd);
    sim_close(&domain->info_fd);
    sim_close(&domain->active_fd);
}

void sim_domain_memory_drop(struct sim_domain *domain)
{
    if (domain->memory_dropped)
        return;
    domain->memory_dropped = true;
    (void)fallocate(domain->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    (off_t)((domain->ram_pages + SIM_PRIVATE_PAGES) << SVQ_PAGE_SHIFT));
}
