/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver's memory with frames in order and scattered. */
#include <errno.h>

#include "drv_mem.h"
#include "fake_hv.h"
#include "svq_test.h"

enum { PAGES = 16 };

static void open_mem(struct svq_drv_mem *mem, struct svq_hv *hv, bool scattered)
{
    *hv = (struct svq_hv){ .layout.scattered = scattered };
    REQUIRE(svq_drv_mem_open(mem, hv, 100, PAGES) == 0);
}

TEST(translation, "Every address of our pages is found, in order or scattered, and every other one is refused")
{
    struct svq_drv_mem mem;
    struct svq_hv hv;
    for (int scattered = 0; scattered < 2; scattered++) {
        open_mem(&mem, &hv, scattered);
        CHECK_EQUAL(mem.sorted != NULL, scattered);
        for (uint64_t offset = 7; offset < PAGES * 4096; offset += 4096) {
            uint64_t gpa = svq_drv_mem_gpa(&mem, offset);
            CHECK_EQUAL(gpa % 4096, 7);
            CHECK_EQUAL(svq_drv_mem_offset(&mem, gpa, PAGES * 4096 - offset), offset);
            CHECK_EQUAL(svq_drv_mem_offset(&mem, gpa, PAGES * 4096 - offset + 1), -EFAULT);
            CHECK_EQUAL(svq_drv_mem_offset(&mem, gpa, SIZE_MAX), -EFAULT);
        }
        CHECK_EQUAL(svq_drv_mem_offset(&mem, 99 * 4096 + 4095, 1), -EFAULT);
        CHECK_EQUAL(svq_drv_mem_offset(&mem, UINT64_MAX, 1), -EFAULT);
        CHECK_EQUAL(svq_drv_mem_offset(&mem, (100 + PAGES) * 4096ULL, 1), -EFAULT);
        svq_drv_mem_close(&mem);
    }
}

TEST(straight_runs, "A range goes on exactly as far as its frames are consecutive")
{
    struct svq_drv_mem mem;
    struct svq_hv hv;
    open_mem(&mem, &hv, false);
    CHECK_EQUAL(svq_drv_mem_straight(&mem, 5, 50000), 50000);
    svq_drv_mem_close(&mem);
    open_mem(&mem, &hv, true);
    CHECK_EQUAL(svq_drv_mem_straight(&mem, 0, 50000), 8192);
    CHECK_EQUAL(svq_drv_mem_straight(&mem, 100, 8092), 8092);
    CHECK_EQUAL(svq_drv_mem_straight(&mem, 4096 + 100, 50000), 3996);
    CHECK_EQUAL(svq_drv_mem_straight(&mem, 8191, 50000), 1);
    CHECK_EQUAL(svq_drv_mem_straight(&mem, 15 * 4096, 4096), 4096);
    svq_drv_mem_close(&mem);
}

TEST(taking, "Pages are taken where enough frames are consecutive, once each, until none are left")
{
    struct svq_drv_mem mem;
    struct svq_hv hv;
    open_mem(&mem, &hv, true);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 1), 0);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 2), 2);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 3), -ENOSPC);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 1), 1);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 1), 4);
    size_t first;
    size_t count;
    svq_drv_mem_largest(&mem, &first, &count);
    CHECK_EQUAL(first, 5);
    CHECK_EQUAL(count, 11);
    for (int i = 0; i < 5; i++)
        CHECK(svq_drv_mem_take(&mem, 2) == 6 + 2 * i);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 2), -ENOSPC);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 1), 5);
    CHECK_EQUAL(svq_drv_mem_take(&mem, 1), -ENOSPC);
    svq_drv_mem_largest(&mem, &first, &count);
    CHECK_EQUAL(count, 0);
    svq_drv_mem_close(&mem);
}

SVQ_TEST_MAIN()
