/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may map a grant entry or copy by it, and what that does to it: the embedded machine follows Xen's map_grant_ref
 * (xen/common/grant_table.c). tests/xen/seam_grants.c asks the same of Xen itself.
 */
#include "grant_entry.h"
#include "sim_fixture.h"

enum { FRAME = 20, OTHER_FRAME = 21, MARK = 93 };

/* A grantee that may hold several mappings of one entry, in the order in which it made them. */
struct grantee {
    struct svq_hv *hv;
    void *mapped[4];
    int count;
};

static int map_it(struct grantee *grantee, uint32_t gref, int writable)
{
    void *va = NULL;
    int rc = svq_hv_map_grants(grantee->hv, FRONTEND, &gref, 1, writable, &va);
    if (rc == 0)
        grantee->mapped[grantee->count++] = va;
    return rc;
}

static void unmap_newest(struct grantee *grantee)
{
    CHECK_EQUAL(svq_hv_unmap_grants(grantee->hv, grantee->mapped[--grantee->count], 1), 0);
}

static void unmap_all(struct grantee *grantee)
{
    while (grantee->count > 0)
        unmap_newest(grantee);
}

static uint64_t entry_of(const struct fixture *f) { return svq_acquire_u64(&f->entries[0]); }

TEST(grants_nest, "Several maps of one grant nest: reading and writing end with the last map of their kind")
{
    struct fixture f;
    void *ro = NULL, *rw[2], *other;
    fixture_start(&f);
    struct svq_hv *second = fixture_open(&f, BACKEND); /* another handle of the same domain */
    uint32_t gref = fixture_grant(&f, 0, BACKEND, 20, 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &rw[0]) == 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 1, &rw[1]) == 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &gref, 1, 0, &ro) == 0);
    REQUIRE(svq_hv_map_grants(second, FRONTEND, &gref, 1, 0, &other) == 0);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, rw[0], 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, rw[1], 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, ro, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING);
    svq_hv_close(second); /* which did not unmap */
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    fixture_stop(&f);
}

TEST(two_grefs_of_one_page, "Two grants of the same page are told apart when they are unmapped")
{
    struct fixture f;
    void *a, *b;
    fixture_start(&f);
    uint32_t first = fixture_grant(&f, 0, BACKEND, 20, 0);
    uint32_t second = fixture_grant(&f, 1, BACKEND, 20, 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &first, 1, 1, &a) == 0);
    REQUIRE(svq_hv_map_grants(f.backend, FRONTEND, &second, 1, 1, &b) == 0);
    CHECK(a != b);
    *(uint8_t *)a = 9;
    CHECK_EQUAL(*(uint8_t *)b, 9);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, a, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    CHECK_EQUAL(fixture_flags(&f, 1), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    CHECK_EQUAL(svq_hv_unmap_grants(f.backend, b, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 1), GTF_PERMIT_ACCESS);
    fixture_stop(&f);
}

TEST(without_its_type,
     "An entry that loses its type while it is mapped can be mapped again by its grantee, until the last unmap")
{
    struct fixture f;
    struct grantee backend = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    uint32_t gref;
    for (int writable_first = 0; writable_first < 2; writable_first++) {
        gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
        REQUIRE(map_it(&backend, gref, writable_first) == 0);
        __atomic_fetch_and(&f.entries[0], ~(uint64_t)GTF_TYPE_MASK, __ATOMIC_SEQ_CST);
        CHECK_EQUAL(map_it(&backend, gref, 0), 0);
        CHECK_EQUAL(map_it(&backend, gref, 1), 0);
        CHECK_EQUAL(fixture_flags(&f, 0), GTF_READING | GTF_WRITING);
        *(uint8_t *)backend.mapped[2] = (uint8_t)(7 + writable_first);
        CHECK_EQUAL(f.ram[FRAME * SVQ_PAGE_SIZE], 7 + writable_first);
        unmap_all(&backend);
        CHECK_EQUAL(fixture_flags(&f, 0), 0);
        CHECK_EQUAL(map_it(&backend, gref, 0), -EACCES);
        CHECK_EQUAL(map_it(&backend, gref, 1), -EACCES);
    }
    fixture_stop(&f);
}

TEST(raised, "A reader becomes a writer unless GTF_readonly is set by then, which does not stop a writer")
{
    struct fixture f;
    struct grantee backend = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    uint32_t gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
    REQUIRE(map_it(&backend, gref, 0) == 0);
    __atomic_fetch_or(&f.entries[0], GTF_READONLY, __ATOMIC_SEQ_CST);
    CHECK_EQUAL(map_it(&backend, gref, 1), -EACCES);
    CHECK_EQUAL(map_it(&backend, gref, 0), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
    __atomic_fetch_and(&f.entries[0], ~(uint64_t)GTF_READONLY, __ATOMIC_SEQ_CST);
    REQUIRE(map_it(&backend, gref, 1) == 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);

    __atomic_fetch_or(&f.entries[0], GTF_READONLY, __ATOMIC_SEQ_CST);
    CHECK_EQUAL(map_it(&backend, gref, 1), 0);
    unmap_newest(&backend);
    unmap_newest(&backend); /* the last writer: from here on, mapping for writing is a raise again */
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING);
    CHECK_EQUAL(map_it(&backend, gref, 1), -EACCES);
    unmap_all(&backend);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS | GTF_READONLY);
    fixture_stop(&f);
}

TEST(other_grantee,
     "While one domain has an entry mapped, no other can map it, even if the entry names the other one by now")
{
    struct fixture f;
    struct grantee backend = { 0 }, stranger = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    stranger.hv = fixture_open(&f, STRANGER);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
    REQUIRE(map_it(&backend, gref, 0) == 0);
    svq_store_u64(&f.entries[0], svq_grant_entry(GTF_PERMIT_ACCESS | GTF_READING, STRANGER, FRAME));
    CHECK_EQUAL(map_it(&stranger, gref, 0), -EACCES);
    CHECK_EQUAL(map_it(&stranger, gref, 1), -EACCES);
    CHECK_EQUAL(map_it(&backend, gref, 0), 0);
    unmap_all(&backend);
    CHECK_EQUAL(map_it(&backend, gref, 0), -EACCES);
    CHECK_EQUAL(map_it(&stranger, gref, 1), 0);
    unmap_all(&stranger);
    svq_hv_close(stranger.hv);
    fixture_stop(&f);
}

TEST(other_frame, "If another frame is written into a mapped entry, its grantee maps the old one until the last unmap")
{
    struct fixture f;
    struct grantee backend = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    f.ram[FRAME * SVQ_PAGE_SIZE] = 1;
    f.ram[OTHER_FRAME * SVQ_PAGE_SIZE] = 2;
    uint32_t gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
    REQUIRE(map_it(&backend, gref, 0) == 0);
    svq_store_u64(&f.entries[0], svq_grant_entry(GTF_PERMIT_ACCESS | GTF_READING, BACKEND, OTHER_FRAME));
    CHECK_EQUAL(map_it(&backend, gref, 0), 0);
    CHECK_EQUAL(map_it(&backend, gref, 1), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL(*(uint8_t *)backend.mapped[i], 1);
    unmap_all(&backend);
    CHECK_EQUAL(map_it(&backend, gref, 0), 0);
    CHECK_EQUAL(*(uint8_t *)backend.mapped[0], 2);
    unmap_all(&backend);
    fixture_stop(&f);
}

TEST(untouched, "Mapping again what is mapped neither reads nor writes the entry")
{
    struct fixture f;
    struct grantee backend = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    uint32_t gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
    REQUIRE(map_it(&backend, gref, 1) == 0);
    svq_store_u64(&f.entries[0], 0); /* a granter must not do this */
    CHECK_EQUAL(map_it(&backend, gref, 1), 0);
    CHECK_EQUAL(map_it(&backend, gref, 0), 0);
    CHECK_EQUAL(entry_of(&f), 0);
    unmap_all(&backend);
    CHECK_EQUAL(entry_of(&f), 0);
    fixture_stop(&f);
}

TEST(marks, "No map, unmap, refusal or death of a grantee reads or changes flag bits 9 to 15")
{
    struct fixture f;
    struct grantee backend = { 0 }, second = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    for (uint64_t mark = 1; mark <= SVQ_MARK_MAX; mark++) {
        uint64_t granted = svq_entry_granted(BACKEND, FRAME, true, mark);
        uint32_t gref = WINDOW_GREF;
        svq_store_u64(&f.entries[0], granted);
        CHECK_EQUAL(map_it(&backend, gref, 0), 0);
        CHECK_EQUAL(entry_of(&f), granted | GTF_READING);
        CHECK_EQUAL(map_it(&backend, gref, 1), 0);
        CHECK_EQUAL(entry_of(&f), granted | GTF_READING | GTF_WRITING);
        unmap_newest(&backend);
        CHECK_EQUAL(entry_of(&f), granted | GTF_READING);
        unmap_newest(&backend);
        CHECK_EQUAL(entry_of(&f), granted);
        granted = svq_entry_granted(STRANGER, FRAME, true, mark);
        svq_store_u64(&f.entries[0], granted);
        CHECK_EQUAL(map_it(&backend, gref, 0), -EACCES);
        CHECK_EQUAL(entry_of(&f), granted);
    }
    second.hv = fixture_open(&f, BACKEND);
    svq_store_u64(&f.entries[0], svq_entry_granted(BACKEND, FRAME, true, MARK));
    REQUIRE(map_it(&second, WINDOW_GREF, 1) == 0);
    svq_hv_close(second.hv); /* which did not unmap */
    CHECK_EQUAL(entry_of(&f), svq_entry_granted(BACKEND, FRAME, true, MARK));
    fixture_stop(&f);
}

TEST(kinds_of_entry, "Only an entry that permits access to a whole page is mapped; bits 5 to 7 do not matter")
{
    static const uint16_t refused[] = { 0, 2, 3, GTF_PERMIT_ACCESS | 1 << 8 /* GTF_sub_page */ };
    struct fixture f;
    struct grantee backend = { 0 };
    fixture_start(&f);
    backend.hv = f.backend;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        svq_store_u64(&f.entries[0], svq_grant_entry(refused[i], BACKEND, FRAME));
        CHECK_EQUAL(map_it(&backend, WINDOW_GREF, 0), -EACCES);
    }
    svq_store_u64(&f.entries[0], svq_grant_entry(GTF_PERMIT_ACCESS | 7 << 5, BACKEND, FRAME));
    CHECK_EQUAL(map_it(&backend, WINDOW_GREF, 1), 0);
    unmap_all(&backend);
    fixture_stop(&f);
}

/* Ends the entry as the engine does, and returns the outcome. */
static enum svq_end end_it(struct fixture *f, uint64_t granted) { return svq_entry_end(&f->entries[0], granted); }

TEST(held, "All handles of its grantee can still read a held entry, but not raise it; it is free after the last unmap")
{
    struct fixture f;
    struct grantee first = { 0 }, second = { 0 }, stranger = { 0 };
    const uint64_t granted = svq_entry_granted(BACKEND, FRAME, true, MARK);
    const uint64_t held = svq_entry_held(granted);
    fixture_start(&f);
    first.hv = f.backend;
    second.hv = fixture_open(&f, BACKEND);
    stranger.hv = fixture_open(&f, STRANGER);
    svq_store_u64(&f.entries[0], granted);
    REQUIRE(map_it(&first, WINDOW_GREF, 0) == 0);
    CHECK_EQUAL(end_it(&f, granted), SVQ_HELD);
    CHECK_EQUAL(entry_of(&f), held | GTF_READING);
    CHECK_EQUAL(map_it(&second, WINDOW_GREF, 0), 0);
    CHECK_EQUAL(map_it(&second, WINDOW_GREF, 1), -EACCES);
    CHECK_EQUAL(map_it(&stranger, WINDOW_GREF, 0), -EACCES);
    unmap_all(&first);
    CHECK_EQUAL(end_it(&f, granted), SVQ_HELD); /* the other handle still has it */
    CHECK_EQUAL(map_it(&first, WINDOW_GREF, 0), 0);
    svq_hv_close(second.hv);
    CHECK_EQUAL(end_it(&f, granted), SVQ_HELD);
    unmap_all(&first);
    CHECK_EQUAL(entry_of(&f), held);
    CHECK_EQUAL(map_it(&first, WINDOW_GREF, 0), -EACCES);
    CHECK_EQUAL(end_it(&f, granted), SVQ_ENDED);
    CHECK_EQUAL(entry_of(&f), 0);
    svq_hv_close(stranger.hv);
    fixture_stop(&f);
}

TEST(held_writable, "A grantee that has a held entry mapped writable keeps writing, and can map it writable again")
{
    struct fixture f;
    struct grantee backend = { 0 };
    const uint64_t granted = svq_entry_granted(BACKEND, FRAME, true, MARK);
    fixture_start(&f);
    backend.hv = f.backend;
    svq_store_u64(&f.entries[0], granted);
    REQUIRE(map_it(&backend, WINDOW_GREF, 1) == 0);
    CHECK_EQUAL(end_it(&f, granted), SVQ_HELD);
    CHECK_EQUAL(map_it(&backend, WINDOW_GREF, 1), 0);
    *(uint8_t *)backend.mapped[1] = 0x3c;
    CHECK_EQUAL(f.ram[FRAME * SVQ_PAGE_SIZE], 0x3c);
    CHECK_EQUAL(end_it(&f, granted), SVQ_HELD);
    unmap_all(&backend);
    CHECK_EQUAL(end_it(&f, granted), SVQ_ENDED);
    fixture_stop(&f);
}

/* One piece: the last `length` bytes of the page. */
static int copy_it(struct svq_hv *hv, uint32_t gref, void *local, uint16_t length, int to_grant)
{
    struct svq_hv_copy op = {
        .local = local,
        .gref = gref,
        .offset = (uint16_t)(SVQ_PAGE_SIZE - length),
        .length = length,
        .to_grant = to_grant,
    };
    CHECK_EQUAL(svq_hv_copy_grants(hv, FRONTEND, &op, 1), 0);
    return op.result;
}

TEST(copy, "A copy moves the described bytes and no others, both ways, and leaves neither mapping nor flag")
{
    struct fixture f;
    uint8_t local[SVQ_PAGE_SIZE + 1];
    fixture_start(&f);
    uint32_t gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
    uint8_t *page = f.ram + FRAME * SVQ_PAGE_SIZE;
    memset(page, 0x11, SVQ_PAGE_SIZE);
    memset(local, 0x22, sizeof local);
    CHECK_EQUAL(copy_it(f.backend, gref, local, 100, 1), 0);
    CHECK(page[3995] == 0x11 && page[3996] == 0x22 && page[4095] == 0x22 && page[4096] == 0);
    memset(page, 0x33, SVQ_PAGE_SIZE);
    CHECK_EQUAL(copy_it(f.backend, gref, local, 4096, 0), 0);
    CHECK(local[0] == 0x33 && local[4095] == 0x33 && local[4096] == 0x22);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_PERMIT_ACCESS);
    struct svq_hv_counters counters;
    svq_hv_read_counters(f.backend, &counters);
    CHECK_EQUAL(counters.grant_copies, 2);
    CHECK_EQUAL(counters.grant_bytes_copied, 4196);
    CHECK_EQUAL(counters.hypercalls, 2);
    CHECK_EQUAL(counters.grant_maps + counters.grant_pages_live, 0);
    fixture_stop(&f);
}

TEST(copy_rules,
     "The entry decides about a copy as about a mapping; one piece that is refused does not stop the others")
{
    enum { PIECES = 7 };
    struct fixture f;
    uint8_t local[PIECES];
    struct svq_hv_copy ops[PIECES];
    fixture_start(&f);
    const struct {
        uint32_t gref;
        int to_grant, result;
    } cases[PIECES] = {
        { fixture_grant(&f, 0, BACKEND, FRAME, 0), 1, 0 },
        { fixture_grant(&f, 1, BACKEND, FRAME, GTF_READONLY), 1, -EACCES },
        { fixture_grant(&f, 2, BACKEND, FRAME, GTF_READONLY), 0, 0 },
        { fixture_grant(&f, 3, STRANGER, FRAME, 0), 0, -EACCES },
        { fixture_grant(&f, 4, BACKEND, HOLE_GFN, 0), 0, -EINVAL },
        { fixture_grant(&f, 5, BACKEND, FRAME, 1 << 8), 0, -EACCES }, /* GTF_sub_page */
        { 1 << 20, 0, -ENOENT },
    };
    for (int i = 0; i < PIECES; i++) {
        local[i] = 1;
        ops[i] = (struct svq_hv_copy){
            .local = &local[i], .gref = cases[i].gref, .length = 1, .to_grant = cases[i].to_grant
        };
    }
    CHECK_EQUAL(svq_hv_copy_grants(f.backend, FRONTEND, ops, PIECES), 0);
    for (int i = 0; i < PIECES; i++)
        CHECK_EQUAL(ops[i].result, cases[i].result);
    CHECK_EQUAL(f.ram[FRAME * SVQ_PAGE_SIZE], 1);
    CHECK_EQUAL(svq_hv_copy_grants(f.backend, 77, ops, 2), -ESRCH);
    CHECK(ops[0].result == -ESRCH && ops[1].result == -ESRCH);
    fixture_stop(&f);
}

TEST(copy_beside_mapping,
     "While its grantee has an entry mapped, it may copy too, whatever the entry says; then no more")
{
    struct fixture f;
    struct grantee backend = { 0 };
    uint8_t local = 5;
    fixture_start(&f);
    backend.hv = f.backend;
    uint32_t gref = fixture_grant(&f, 0, BACKEND, FRAME, 0);
    REQUIRE(map_it(&backend, gref, 1) == 0);
    __atomic_fetch_and(&f.entries[0], ~(uint64_t)GTF_TYPE_MASK, __ATOMIC_SEQ_CST);
    CHECK_EQUAL(copy_it(f.backend, gref, &local, 1, 1), 0);
    CHECK_EQUAL(fixture_flags(&f, 0), GTF_READING | GTF_WRITING);
    unmap_all(&backend);
    CHECK_EQUAL(copy_it(f.backend, gref, &local, 1, 0), -EACCES);
    CHECK_EQUAL(copy_it(f.backend, gref, &local, 1, 1), -EACCES);
    CHECK_EQUAL(fixture_flags(&f, 0), 0);
    fixture_stop(&f);
}

SVQ_TEST_MAIN()
