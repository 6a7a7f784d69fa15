/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two grantees of one entry, in two domains.
 * usage: seam_grantee hold OWN_DOMID FRONTEND_DOMID FOLDER
 *            grants a page of the frontend to ourselves, maps it, makes the entry name dom0 as its grantee, and
 *            creates FOLDER/held; lets go once FOLDER/let-go exists
 *        seam_grantee map FRONTEND_DOMID
 *            status 0: we can map that entry; 1: -EACCES
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "grant_entry.h"
#include "seam_check.h"

enum { LET_GO_S = 60, MARK = 93, REFUSED = 1, FAILED = 2 };

static int file_in(const char *folder, const char *name, int flags)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, flags | O_RDONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return 0;
    close(fd);
    return 1;
}

static int hold(struct svq_hv *hv, uint16_t own, uint16_t frontend, const char *folder)
{
    uint64_t mine = svq_entry_granted(own, FIRST_GFN, true, MARK), mapped = mine | GTF_READING;
    uint32_t gref = window_gref(0);
    void *table = NULL, *token = NULL, *va = NULL;
    if (svq_hv_map_grant_table(hv, frontend, FIRST_FRAME, 1, &table, &token) != 0)
        return FAILED;
    svq_release_u64(table, mine);
    if (svq_hv_map_grants(hv, frontend, &gref, 1, 0, &va) != 0)
        return FAILED;
    if (!svq_cas_u64(table, &mapped, svq_entry_granted(0, FIRST_GFN, true, MARK) | GTF_READING))
        return FAILED;
    if (!file_in(folder, "held", O_CREAT))
        return FAILED;
    for (int second = 0; second < LET_GO_S && !file_in(folder, "let-go", 0); second++)
        sleep(1);
    return svq_hv_unmap_grants(hv, va, 1) == 0 ? 0 : FAILED;
}

static int map_once(struct svq_hv *hv, uint16_t frontend)
{
    uint32_t gref = window_gref(0);
    void *va = NULL;
    int rc = svq_hv_map_grants(hv, frontend, &gref, 1, 0, &va);
    if (rc == 0)
        return svq_hv_unmap_grants(hv, va, 1) == 0 ? 0 : FAILED;
    return rc == -EACCES ? REFUSED : FAILED;
}

int main(int argc, char **argv)
{
    struct svq_hv *hv;
    int status = FAILED;
    if (svq_hv_open_xen(&hv) != 0)
        return FAILED;
    if (argc == 5 && strcmp(argv[1], "hold") == 0)
        status = hold(hv, (uint16_t)atoi(argv[2]), (uint16_t)atoi(argv[3]), argv[4]);
    else if (argc == 3 && strcmp(argv[1], "map") == 0)
        status = map_once(hv, (uint16_t)atoi(argv[2]));
    svq_hv_close(hv);
    return status;
}
