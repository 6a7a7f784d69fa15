/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Parts of a mapping on the Xen side of the seam, on a stand-in for gntdev: what we ask of it, and which addresses we
 * keep. tests/xen/seam_grants.c does the same with the real one.
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "svq_test.h"
#include "xen_hv.h"

enum { GRANTER = 7, PAGES = 70, GNTDEV = 77, INDEX = 0x5000, OPEN = 1 };

static struct {
    int opened, live, whole_unmaps;
    uint8_t *va; /* of the mapping */
    int asked, forgotten;
    int fail_ioctl; /* the next one fails with it */
} fake;

static void *fake_open(void *logger, unsigned int flags)
{
    CHECK(logger && flags == 0);
    fake.opened = OPEN;
    return &fake;
}

static int fake_close(void *handle)
{
    CHECK(handle == &fake);
    fake.opened = 0;
    return 0;
}

static void *fake_map(void *handle, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
    CHECK(handle == &fake && domid == GRANTER && refs[0] == 0);
    fake.va = mmap(NULL, (size_t)count * SVQ_PAGE_SIZE, prot, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(fake.va != MAP_FAILED);
    fake.live++;
    return fake.va;
}

static int fake_unmap(void *handle, void *va, uint32_t count)
{
    CHECK(handle == &fake && va == fake.va);
    CHECK_EQUAL(munmap(va, (size_t)count * SVQ_PAGE_SIZE), 0);
    fake.live--;
    fake.whole_unmaps++;
    return 0;
}

static int fake_fd(void *handle)
{
    CHECK(handle == &fake);
    return GNTDEV;
}

/* gntdev's two requests that a part takes; Linux include/uapi/xen/gntdev.h. */
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    va_start(args, request);
    uint64_t *words = va_arg(args, uint64_t *);
    va_end(args);
    if (fd != GNTDEV)
        return __real_ioctl(fd, request, words);
    if (fake.fail_ioctl) {
        errno = fake.fail_ioctl;
        fake.fail_ioctl = 0;
        return -1;
    }
    if (request == _IOC(_IOC_NONE, 'G', 2, 24)) { /* vaddr; offset, count */
        CHECK_EQUAL(words[0], (uintptr_t)fake.va);
        words[1] = INDEX;
        words[2] = PAGES;
        fake.asked++;
    } else {
        CHECK_EQUAL(request, _IOC(_IOC_NONE, 'G', 1, 16)); /* index, count */
        CHECK_EQUAL(words[0], INDEX);
        CHECK_EQUAL(words[1], PAGES);
        fake.live--;
        fake.forgotten++;
    }
    return 0;
}

static struct xen_libs libs = {
    .gnttab_open = fake_open,
    .gnttab_close = fake_close,
    .gnttab_map_domain_grant_refs = fake_map,
    .gnttab_unmap = fake_unmap,
    .gnttab_fd = fake_fd,
};

static struct svq_hv *start(void)
{
    memset(&fake, 0, sizeof fake);
    struct svq_hv *hv;
    REQUIRE(svq_hv_open_xen_on(&libs, &hv) == 0);
    ((struct xen_hv *)(void *)hv)->parts = 1; /* as in a PV domain */
    return hv;
}

static uint8_t *map(struct svq_hv *hv)
{
    static uint32_t grefs[PAGES];
    void *va = NULL;
    REQUIRE(svq_hv_map_grants(hv, GRANTER, grefs, PAGES, 1, &va) == 0);
    return va;
}

static void stop(struct svq_hv *hv)
{
    svq_hv_close(hv);
    CHECK_EQUAL(fake.live, 0);
    CHECK_EQUAL(fake.opened, 0);
}

/* Is there memory that can be written, without touching it? */
static int is_there(const uint8_t *va)
{
    int pipe_fds[2];
    REQUIRE(pipe(pipe_fds) == 0);
    int there = write(pipe_fds[1], va, 1) == 1; /* EFAULT if not */
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return there;
}

TEST(part_by_part, "gntdev is asked once for a mapping's name, and told once that it is over, with the last part")
{
    struct svq_hv *hv = start();
    uint8_t *va = map(hv);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 0, 1), 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 60, 10), 0);
    CHECK(!is_there(va) && is_there(va + SVQ_PAGE_SIZE) && !is_there(va + (size_t)(PAGES - 1) * SVQ_PAGE_SIZE));
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 63, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 59, 2), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 69, 2), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants(hv, va, PAGES), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 2, 58), 0);
    CHECK(is_there(va + SVQ_PAGE_SIZE) && fake.forgotten == 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 1, 1), 0);
    CHECK(fake.asked == 1 && fake.forgotten == 1 && fake.whole_unmaps == 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 1, 1), -EINVAL);
    struct svq_hv_counters counters;
    svq_hv_read_counters(hv, &counters);
    CHECK_EQUAL(counters.grant_pages_live, 0);
    CHECK_EQUAL(counters.grant_unmaps, 4);
    stop(hv);
}

TEST(whole, "A mapping that ends in one piece is the library's to end, part or not")
{
    struct svq_hv *hv = start();
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, map(hv), 0, PAGES), 0);
    CHECK_EQUAL(svq_hv_unmap_grants(hv, map(hv), PAGES), 0);
    CHECK(fake.asked == 0 && fake.forgotten == 0 && fake.whole_unmaps == 2);
    stop(hv);
}

TEST(kept_addresses, "The addresses of a mapping are given to no other while a part of it is left")
{
    struct svq_hv *hv = start();
    uint8_t *va = map(hv);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 0, PAGES - 1), 0);
    for (int i = 0; i < PAGES; i++) {
        uint8_t *other = mmap(NULL, SVQ_PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(other < va || other >= va + (size_t)PAGES * SVQ_PAGE_SIZE); /* and stays: the next is elsewhere */
    }
    stop(hv); /* ends the rest */
    CHECK(fake.forgotten == 1 && fake.whole_unmaps == 0);
}

TEST(refused, "If gntdev does not say how it calls a mapping nothing of it is unmapped, and it can be tried again")
{
    struct svq_hv *hv = start();
    uint8_t *va = map(hv);
    fake.fail_ioctl = EINVAL;
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 3, 1), -EINVAL);
    CHECK(is_there(va + (size_t)3 * SVQ_PAGE_SIZE));
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 3, 1), 0);
    CHECK(!is_there(va + (size_t)3 * SVQ_PAGE_SIZE));
    stop(hv);
}

TEST(no_parts, "With a library that does not show its descriptor there are no parts, and a mapping ends as a whole")
{
    struct svq_hv *hv = start();
    uint8_t *va = map(hv);
    ((struct xen_hv *)(void *)hv)->parts = 0; /* it is to find out by itself */
    libs.gnttab_fd = NULL;
    CHECK_EQUAL(svq_hv_can_unmap_part(hv), 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(hv, va, 0, 1), -ENOSYS);
    CHECK_EQUAL(svq_hv_unmap_grants(hv, va, PAGES), 0);
    stop(hv);
    libs.gnttab_fd = fake_fd;
}

SVQ_TEST_MAIN()
