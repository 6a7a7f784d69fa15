/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Xen's rules for grant entries; test_hv_grants.c checks the same rules on the embedded machine. We write the entries,
 * and are their grantee as well.
 */
#include <errno.h>
#include <string.h>

#include "grant_entry.h"
#include "seam_check.h"

enum { MARK = 93, OTHER_PAGE = 1 };

/* Xen's own copy between a page of ours and the page that entry 0 grants. */
static int copy(const struct mediator *m, uint8_t *page, int towards_grant)
{
    struct svq_hv_copy piece = { .local = page, .gref = window_gref(0), .length = 64, .to_grant = towards_grant };
    int rc = svq_hv_copy_grants(m->hv, m->frontend, &piece, 1);
    return rc ? rc : piece.result;
}

static int map_entry(const struct mediator *m, int writable, void **va)
{
    uint32_t gref = window_gref(0);
    return svq_hv_map_grants(m->hv, m->frontend, &gref, 1, writable, va);
}

static void unmap_entry(const struct mediator *m, void *va)
{
    if (va)
        check(svq_hv_unmap_grants(m->hv, va, 1) == 0, 0, "unmap");
}

static void write_entry(const struct mediator *m, uint64_t entry) { svq_release_u64(&m->table[0], entry); }

static uint64_t entry_of(const struct mediator *m) { return svq_acquire_u64(&m->table[0]); }

/* A batch that needs several hypercalls: each piece keeps to its bytes, and one that is refused stops no other. */
static void batch(const struct mediator *m)
{
    enum { PIECES = 40, BAD = 17, BEYOND = 33 };
    static uint8_t page[SVQ_PAGE_SIZE] __attribute__((aligned(4096)));
    struct svq_hv_copy pieces[PIECES];
    write_entry(m, svq_entry_granted(m->own, FIRST_GFN, false, MARK));
    memset(page, 0x22, sizeof page);
    for (uint32_t i = 0; i < PIECES; i++)
        pieces[i] = (struct svq_hv_copy){ .local = page + (size_t)i * 64 + 1,
                                          .gref = window_gref(0),
                                          .offset = 4095,
                                          .length = 1,
                                          .to_grant = i == BAD };
    pieces[BEYOND].gref = UINT32_MAX / 2;
    int rc = svq_hv_copy_grants(m->hv, m->frontend, pieces, PIECES);
    check(rc == 0, rc, "many pieces are copied with one call");
    for (int i = 0; i < PIECES; i++) {
        int expected = i == BAD ? -EACCES : i == BEYOND ? -ENOENT : 0;
        uint8_t byte = expected ? 0x22 : 0xa5;
        rc = pieces[i].result;
        if (rc != expected || page[i * 64] != 0x22 || page[i * 64 + 1] != byte || page[i * 64 + 2] != 0x22)
            check(0, rc,
                  i == BAD      ? "a piece into a read-only grant"
                  : i == BEYOND ? "one beyond the table"
                                : "a piece");
    }
    rc = svq_hv_copy_grants(m->hv, 0x7ef0, pieces, 1);
    check(rc == 0 && pieces[0].result == -ESRCH, pieces[0].result, "a copy from a domain that is not there");
    write_entry(m, 0);
}

static void one_mark(const struct mediator *m, uint64_t mark)
{
    static uint8_t page[SVQ_PAGE_SIZE] __attribute__((aligned(4096)));
    uint64_t granted = svq_entry_granted(m->own, FIRST_GFN, true, mark);
    void *reader = NULL, *writer = NULL;
    write_entry(m, granted);
    int rc = map_entry(m, 0, &reader);
    check(rc == 0 && entry_of(m) == (granted | GTF_READING), rc, "a map for reading keeps the mark");
    rc = map_entry(m, 1, &writer);
    check(rc == 0 && entry_of(m) == (granted | GTF_READING | GTF_WRITING), rc, "so does one for writing");
    unmap_entry(m, writer);
    check(entry_of(m) == (granted | GTF_READING), 0, "so does the writer's unmap");
    unmap_entry(m, reader);
    check(entry_of(m) == granted, 0, "and the reader's");
    rc = copy(m, page, 0);
    check(rc == 0 && entry_of(m) == granted, rc, "a copy out of the page keeps the mark");
    rc = copy(m, page, 1);
    check(rc == 0 && entry_of(m) == granted, rc, "and one into the page");
    write_entry(m, 0);
}

/* Bits 9 to 15, one by one and all together. */
static void marks(struct mediator *m)
{
    for (uint64_t mark = 1; mark < SVQ_MARK_MAX; mark *= 2)
        one_mark(m, mark);
    one_mark(m, SVQ_MARK_MAX);
}

/* What the mediator does to an entry that its grantee still has mapped, one bit at a time. */
static void without_its_type(struct mediator *m)
{
    static uint8_t page[SVQ_PAGE_SIZE] __attribute__((aligned(4096)));
    uint64_t granted = svq_entry_granted(m->own, FIRST_GFN, true, MARK), untyped = granted & ~(uint64_t)GTF_TYPE_MASK;
    uint64_t mapped = granted | GTF_READING;
    void *first = NULL, *reader = NULL, *writer = NULL, *va = NULL;
    write_entry(m, granted);
    int rc = map_entry(m, 0, &first);
    if (!check(rc == 0, rc, "an entry is mapped for reading"))
        return;
    check(svq_cas_u64(&m->table[0], &mapped, untyped | GTF_READING), 0, "its type can be cleared meanwhile");
    check(((uint8_t *)first)[0] == 0xa5, 0, "the mapping stays");
    rc = map_entry(m, 0, &reader);
    check(rc == 0, rc, "its grantee maps it again for reading, type or not");
    rc = copy(m, page, 0);
    check(rc == 0, rc, "and copies out of it");
    rc = map_entry(m, 1, &writer);
    check(rc == 0 && entry_of(m) == (untyped | GTF_READING | GTF_WRITING), rc, "and even maps it for writing");
    if (writer)
        ((uint8_t *)writer)[1] = 0x77;
    check(m->memory[1] == 0x77, 0, "which reaches the page");
    m->memory[1] = 0xa5;
    unmap_entry(m, writer);
    unmap_entry(m, reader);
    check(entry_of(m) == (untyped | GTF_READING), 0, "it counts as mapped until the last unmap");
    unmap_entry(m, first);
    check(entry_of(m) == untyped, 0, "then only the mark remains of its flags");
    rc = map_entry(m, 0, &va);
    check(rc == -EACCES, rc, "and nobody maps it from then on");
    rc = copy(m, page, 0);
    check(rc < 0, rc, "nor copies out of it");
    write_entry(m, 0);
}

static void held(struct mediator *m)
{
    uint64_t granted = svq_entry_granted(m->own, FIRST_GFN, true, MARK), kept = svq_entry_held(granted);
    void *first = NULL, *reader = NULL, *va = NULL;
    write_entry(m, granted);
    int rc = map_entry(m, 0, &first);
    check(rc == 0, rc, "an entry is mapped for reading");
    check(svq_entry_end(&m->table[0], granted) == SVQ_HELD, 0, "the engine's end finds that, and holds it");
    check(entry_of(m) == (kept | GTF_READING), 0, "without a type, with GTF_readonly, in one step");
    rc = map_entry(m, 1, &va);
    check(rc == -EACCES, rc, "a reader cannot become a writer");
    rc = map_entry(m, 0, &reader);
    check(rc == 0, rc, "but it maps it again for reading");
    unmap_entry(m, first);
    check(svq_entry_end(&m->table[0], granted) == SVQ_HELD, 0, "it stays held by that mapping");
    unmap_entry(m, reader);
    check(entry_of(m) == kept, 0, "after the last unmap the entry is as we wrote it");
    check(svq_entry_end(&m->table[0], granted) == SVQ_ENDED && entry_of(m) == 0, 0, "and ends");
}

static void held_for_writing(struct mediator *m)
{
    uint64_t granted = svq_entry_granted(m->own, FIRST_GFN, true, MARK);
    void *first = NULL, *writer = NULL, *reader = NULL, *va = NULL;
    write_entry(m, granted);
    int rc = map_entry(m, 1, &first);
    check(rc == 0, rc, "an entry is mapped for writing");
    check(svq_entry_end(&m->table[0], granted) == SVQ_HELD, 0, "and held");
    rc = map_entry(m, 1, &writer);
    check(rc == 0, rc, "a writer maps it for writing again, GTF_readonly or not");
    rc = map_entry(m, 0, &reader);
    check(rc == 0, rc, "and for reading");
    unmap_entry(m, first);
    unmap_entry(m, writer);
    rc = map_entry(m, 1, &va);
    check(rc == -EACCES, rc, "but not once its last mapping for writing is gone");
    unmap_entry(m, reader);
    check(svq_entry_end(&m->table[0], granted) == SVQ_ENDED, 0, "the last unmap frees it");
}

/* Why we never write another frame into a mapped entry, and never clear all of it. */
static void rewritten(struct mediator *m)
{
    uint64_t granted = svq_entry_granted(m->own, FIRST_GFN, true, MARK);
    void *first = NULL, *again = NULL, *third = NULL;
    m->memory[(size_t)OTHER_PAGE << SVQ_PAGE_SHIFT] = 0x11;
    write_entry(m, granted);
    int rc = map_entry(m, 0, &first);
    check(rc == 0, rc, "an entry is mapped for reading");
    write_entry(m, svq_entry_granted(m->own, FIRST_GFN + OTHER_PAGE, true, MARK) | GTF_READING);
    rc = map_entry(m, 1, &again);
    check(rc == 0 && ((uint8_t *)again)[0] == 0xa5, rc, "another frame in a mapped entry: a new map gets the old page");
    write_entry(m, 0);
    rc = map_entry(m, 1, &third);
    check(rc == 0 && ((uint8_t *)third)[0] == 0xa5, rc, "an entry that was cleared whole is mapped again");
    check(entry_of(m) == 0, 0, "without a bit that says so");
    unmap_entry(m, third);
    unmap_entry(m, again);
    unmap_entry(m, first);
    check(entry_of(m) == 0, 0, "what was cleared stays clear");
    m->memory[(size_t)OTHER_PAGE << SVQ_PAGE_SHIFT] = 0xa5;
}

static void other_bits(struct mediator *m)
{
    void *va = NULL;
    grant(m, 0, GTF_PERMIT_ACCESS | 1 << 8);
    int rc = map_entry(m, 0, &va);
    check(rc == -EACCES, rc, "an entry with GTF_sub_page is not mapped");
    grant(m, 0, GTF_PERMIT_ACCESS | 7 << 5);
    rc = map_entry(m, 1, &va);
    check(rc == 0, rc, "flag bits 5 to 7 do not matter");
    unmap_entry(m, va);
    write_entry(m, 0);
}

void grant_rules(struct mediator *m)
{
    marks(m);
    batch(m);
    without_its_type(m);
    held(m);
    held_for_writing(m);
    rewritten(m);
    other_bits(m);
}
