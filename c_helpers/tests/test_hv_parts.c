/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A mapping of several grants that ends part by part, on the embedded machine. tests/xen/seam_grants.c asks the same of
 * Xen, test_xen_parts.c what the seam asks of Linux for it.
 */
#include "sim_fixture.h"

enum { FRAME = 20, PART_PAGES = 8 };

__attribute__((constructor)) static void as_in_a_pv_domain(void) { setenv("SVQ_SIM_PARTS", "1", 1); }

/* Maps entries 0 to PART_PAGES - 1: frames that are consecutive (step 1) or not, which the machine maps differently. */
static uint8_t *map_parts(struct fixture *f, uint32_t step)
{
    uint32_t grefs[PART_PAGES];
    void *va = NULL;
    for (uint32_t i = 0; i < PART_PAGES; i++) {
        grefs[i] = fixture_grant(f, i, BACKEND, FRAME + i * step, 0);
        f->ram[(FRAME + i * step) * SVQ_PAGE_SIZE] = (uint8_t)(i + 1);
    }
    REQUIRE(svq_hv_map_grants(f->backend, FRONTEND, grefs, PART_PAGES, 1, &va) == 0);
    return va;
}

/* Entry by entry: those in the mask are mapped and show their page, the others are not. */
static void check_mapped(const struct fixture *f, const uint8_t *va, uint32_t mask)
{
    for (uint32_t i = 0; i < PART_PAGES; i++) {
        int mapped = mask >> i & 1;
        CHECK_EQUAL(fixture_flags(f, i), GTF_PERMIT_ACCESS | (mapped ? GTF_READING | GTF_WRITING : 0));
        if (mapped)
            CHECK_EQUAL(va[i * SVQ_PAGE_SIZE], i + 1);
    }
    struct svq_hv_counters counters;
    svq_hv_read_counters(f->backend, &counters);
    CHECK_EQUAL(counters.grant_pages_live, __builtin_popcount(mask));
}

TEST(parts, "Parts of a mapping end by themselves, in any order; their entries are free while the others stay mapped")
{
    for (uint32_t step = 1; step <= 2; step++) {
        struct fixture f;
        fixture_start(&f);
        REQUIRE(svq_hv_can_unmap_part(f.backend) == 1);
        uint8_t *va = map_parts(&f, step);
        check_mapped(&f, va, 0xff);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 3, 2), 0);
        check_mapped(&f, va, 0xe7);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 0, 1), 0); /* the address by which it is known stays so */
        check_mapped(&f, va, 0xe6);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 7, 1), 0);
        check_mapped(&f, va, 0x66);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 1, 2), 0);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 5, 2), 0);
        check_mapped(&f, va, 0);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 5, 1), -EINVAL);
        struct svq_hv_counters counters;
        svq_hv_read_counters(f.backend, &counters);
        CHECK_EQUAL(counters.grant_maps, 1);
        CHECK_EQUAL(counters.grant_unmaps, 5);
        fixture_stop(&f);
    }
}

TEST(part_of_all, "A part that is the whole ends a mapping as unmap_grants does")
{
    for (uint32_t step = 1; step <= 2; step++) {
        struct fixture f;
        fixture_start(&f);
        uint8_t *va = map_parts(&f, step);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 0, PART_PAGES), 0);
        check_mapped(&f, va, 0);
        CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, PART_PAGES), -EINVAL);
        fixture_stop(&f);
    }
}

TEST(part_refused, "What is not mapped any more, or never was, is not unmapped as a part")
{
    struct fixture f;
    fixture_start(&f);
    uint8_t *va = map_parts(&f, 2);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 2, 2), 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 1, 2), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 3, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 7, 2), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 9, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, SIZE_MAX, 2), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 0, 0), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va + SVQ_PAGE_SIZE, 0, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, NULL, 0, 1), -EINVAL);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, PART_PAGES), -EINVAL); /* not all of it is */
    check_mapped(&f, va, 0xf3);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 4, 4), 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 0, 2), 0);
    check_mapped(&f, va, 0);
    fixture_stop(&f);
}

TEST(part_addresses, "No other mapping gets an address of a mapping of which a part is left")
{
    struct fixture f;
    void *others[PART_PAGES];
    fixture_start(&f);
    uint8_t *va = map_parts(&f, 2);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 0, PART_PAGES - 1), 0);
    for (uint32_t i = 0; i < PART_PAGES; i++) {
        uint32_t grefs[2] = { WINDOW_GREF, WINDOW_GREF + 2 };
        REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, grefs, 2, 1, &others[i]) == 0);
        uintptr_t offset = (uintptr_t)others[i] - (uintptr_t)va;
        CHECK(offset >= (uintptr_t)PART_PAGES * SVQ_PAGE_SIZE && -offset >= 2 * (uintptr_t)SVQ_PAGE_SIZE);
    }
    CHECK_EQUAL(va[(PART_PAGES - 1) * SVQ_PAGE_SIZE], PART_PAGES);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, PART_PAGES - 1, 1), 0);
    for (uint32_t i = 0; i < PART_PAGES; i++)
        CHECK_EQUAL(svq_hv_unmap_grants(f.backend, others[i], 2), 0);
    check_mapped(&f, va, 0);
    fixture_stop(&f);
}

TEST(parts_left, "Closing a handle ends what is left of a mapping, whose entries are free then")
{
    for (uint32_t step = 1; step <= 2; step++) {
        struct fixture f;
        struct svq_hv *first;
        fixture_start(&f);
        uint8_t *va = map_parts(&f, step);
        CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 2, 3), 0);
        first = f.backend;
        f.backend = fixture_open(&f, BACKEND);
        svq_hv_close(first);
        check_mapped(&f, NULL, 0);
        fixture_stop(&f);
    }
}

TEST(no_parts, "A machine that was not asked for parts has none, and says so")
{
    struct fixture f;
    unsetenv("SVQ_SIM_PARTS");
    fixture_start(&f);
    uint8_t *va = map_parts(&f, 2);
    CHECK_EQUAL(svq_hv_can_unmap_part(f.backend), 0);
    CHECK_EQUAL(svq_hv_unmap_grants_part(f.backend, va, 0, 1), -ENOSYS);
    check_mapped(&f, va, 0xff);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, va, PART_PAGES), 0);
    fixture_stop(&f);
}

SVQ_TEST_MAIN()
