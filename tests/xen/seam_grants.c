/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Xen's rules for grant entries; test_hv_grants.c checks the same rules on the embedded machine. We write the entries,
 * and are their grantee as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "grant_entry.h"
#include "seam_check.h"

enum { MARK = 93, OTHER_PAGE = 1 };

/* Linux include/uapi/xen/gntdev.h */
struct copy_segment {
    union {
        void *virt;
        struct {
            uint32_t ref;
            uint16_t offset;
            uint16_t domid;
        } foreign;
    } source, dest;
    uint16_t len, flags;
    int16_t status;
};
struct copy_request {
    unsigned int count;
    struct copy_segment *segments;
};
enum { COPY_SOURCE_GREF = 1, COPY_DEST_GREF = 2 };

/* Xen's own copy between a page of ours and the page that entry 0 grants: 0, or the hypervisor's status, or -errno. */
static int copy(const struct mediator *m, uint8_t *page, int towards_grant)
{
    struct copy_segment segment = { .len = 64, .flags = towards_grant ? COPY_DEST_GREF : COPY_SOURCE_GREF };
    struct copy_request request = { 1, &segment };
    int fd = open("/dev/xen/gntdev", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (towards_grant) {
        segment.source.virt = page;
        segment.dest.foreign.ref = window_gref(0);
        segment.dest.foreign.domid = m->frontend;
    } else {
        segment.source.foreign.ref = window_gref(0);
        segment.source.foreign.domid = m->frontend;
        segment.dest.virt = page;
    }
    int rc = ioctl(fd, _IOC(_IOC_NONE, 'G', 8, sizeof request), &request) != 0 ? -errno : segment.status;
    close(fd);
    return rc;
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
    without_its_type(m);
    held(m);
    held_for_writing(m);
    rewritten(m);
    other_bits(m);
}
