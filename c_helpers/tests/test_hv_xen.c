/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Xen side of the hypervisor seam, on stand-ins for Xen's libraries: what we pass to them, and how we handle their
 * errors. And opening the real ones, which fails with a clear reason on a machine without Xen.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "svq_test.h"
#include "xen_hv.h"

/* --- the stand-ins: each records its call, and returns what the test wants ------------------------------ */
enum { MEMORIES = 3 };

/* A handle of libxenforeignmemory. */
struct fake_memory {
    int open;
    int domid; /* the domain to which it is restricted, or -1 */
};

static struct {
    int gnttab_opened, gntshr_opened, evtchn_opened; /* and not closed: 0 at the end of each test */
    struct fake_memory memories[MEMORIES];
    int restrict_errno;
    int live;        /* mappings not undone yet */
    int fail_errno;  /* the next call fails with this */
    int frame_error; /* what foreignmemory_map reports for odd frames */
    int all_frames_fail;
    int prot, writable, unmasked_port, pending_calls;
    uint32_t count;
    unsigned int type, id;
    int version_2;
    unsigned long frame;
    int event_pipe[2];
    uint32_t copied[4];  /* pieces of each call of grant_copy */
    int copies;          /* calls */
    int16_t copy_status; /* of a piece with an odd gref */
} fake;

static uint8_t memory[8 * SVQ_PAGE_SIZE] __attribute__((aligned(4096)));

static void *fails(void)
{
    errno = fake.fail_errno;
    fake.fail_errno = 0;
    return NULL;
}

static void *fake_open(int *opened)
{
    if (fake.fail_errno)
        return fails();
    (*opened)++;
    return opened;
}

static int fake_close(void *handle)
{
    (*(int *)handle)--;
    return 0;
}

static void *fake_gnttab_open(void *logger, unsigned int flags)
{
    CHECK(logger && flags == 0);
    return fake_open(&fake.gnttab_opened);
}

static void *fake_gntshr_open(void *logger, unsigned int flags)
{
    CHECK(logger && flags == 0);
    return fake_open(&fake.gntshr_opened);
}

static void *fake_fmem_open(void *logger, unsigned int flags)
{
    CHECK(logger && flags == 0);
    if (fake.fail_errno)
        return fails();
    for (int i = 0; i < MEMORIES; i++) {
        if (!fake.memories[i].open) {
            fake.memories[i] = (struct fake_memory){ .open = 1, .domid = -1 };
            return &fake.memories[i];
        }
    }
    CHECK(!"room for another handle");
    return NULL;
}

static int fake_fmem_close(void *handle)
{
    struct fake_memory *memory = handle;
    CHECK(memory->open);
    memory->open = 0;
    return 0;
}

static int fake_restrict(void *handle, uint16_t domid)
{
    struct fake_memory *memory = handle;
    CHECK_EQUAL(memory->domid, -1);
    if (fake.restrict_errno) {
        errno = fake.restrict_errno;
        return -1;
    }
    memory->domid = domid;
    return 0;
}

static int memories_open(void)
{
    int open = 0;
    for (int i = 0; i < MEMORIES; i++)
        open += fake.memories[i].open;
    return open;
}

/* Each handle is used only for the domain to which it was restricted. */
static void check_reach(const void *handle, uint32_t domid)
{
    const struct fake_memory *memory = handle;
    CHECK(memory->open);
    CHECK_EQUAL(memory->domid, domid);
}

static void *fake_evtchn_open(void *logger, unsigned int flags)
{
    CHECK(logger && flags == 0);
    return fake_open(&fake.evtchn_opened);
}

static void *mapped(uint32_t count)
{
    if (fake.fail_errno)
        return fails();
    fake.count = count;
    fake.live++;
    return memory;
}

static int unmapped(void *va, uint32_t count)
{
    CHECK(va == memory);
    CHECK_EQUAL(count, fake.count);
    if (fake.fail_errno) {
        (void)fails();
        return -1;
    }
    fake.live--;
    return 0;
}

static void *fake_map_grants(void *handle, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
    CHECK(handle == &fake.gnttab_opened && domid == 7 && refs[count - 1] == 100 + count - 1);
    fake.prot = prot;
    return mapped(count);
}

static int fake_unmap_grants(void *handle, void *va, uint32_t count)
{
    CHECK(handle == &fake.gnttab_opened);
    return unmapped(va, count);
}

/* The granted pages are those of `memory`, by gref. */
static void copy_piece(struct xen_copy_segment *piece)
{
    int from_grant = piece->flags == 1; /* GNTCOPY_source_gref; 2: GNTCOPY_dest_gref */
    CHECK(from_grant || piece->flags == 2);
    union xen_copy_end granted = from_grant ? piece->source : piece->dest;
    uint8_t *page = memory + (size_t)(granted.foreign.ref % 8) * SVQ_PAGE_SIZE + granted.foreign.offset;
    CHECK_EQUAL(granted.foreign.domid, 7);
    piece->status = granted.foreign.ref % 2 ? fake.copy_status : 0;
    if (piece->status == 0)
        memcpy(from_grant ? piece->dest.virt : page, from_grant ? page : piece->source.virt, piece->len);
}

static int fake_grant_copy(void *handle, uint32_t count, struct xen_copy_segment *pieces)
{
    CHECK(handle == &fake.gnttab_opened);
    fake.copied[fake.copies++ % 4] = count;
    if (fake.fail_errno) {
        (void)fails();
        return -1;
    }
    for (uint32_t i = 0; i < count; i++)
        copy_piece(&pieces[i]);
    return 0;
}

static void *fake_share(void *handle, uint32_t domid, int count, uint32_t *refs, int writable)
{
    CHECK(handle == &fake.gntshr_opened && domid == 9);
    for (int i = 0; i < count; i++)
        refs[i] = 50 + (uint32_t)i;
    fake.writable = writable;
    return mapped((uint32_t)count);
}

static int fake_unshare(void *handle, void *va, uint32_t count)
{
    CHECK(handle == &fake.gntshr_opened);
    return unmapped(va, count);
}

static void *fake_map_foreign(void *handle, uint32_t domid, int prot, size_t pages, const uint64_t *gfns, int *errs)
{
    check_reach(handle, domid);
    for (size_t i = 0; i < pages; i++)
        errs[i] = fake.all_frames_fail || gfns[i] % 2 != 0 ? fake.frame_error : 0;
    fake.prot = prot;
    return mapped((uint32_t)pages);
}

static int fake_unmap_foreign(void *handle, void *va, size_t pages)
{
    CHECK(((struct fake_memory *)handle)->open);
    return unmapped(va, (uint32_t)pages);
}

static void *fake_map_resource(void *handle, uint16_t domid, unsigned int type, unsigned int id, unsigned long frame,
                               unsigned long frames, void **va, int prot, int flags)
{
    check_reach(handle, domid);
    CHECK(!*va && flags == 0);
    if (id == 1 && !fake.version_2) { /* status frames */
        errno = EINVAL;
        return NULL;
    }
    fake.type = type;
    fake.id = id;
    fake.frame = frame;
    fake.prot = prot;
    if (!mapped((uint32_t)frames))
        return NULL;
    *va = memory;
    return &fake.frame;
}

static int fake_unmap_resource(void *handle, void *resource)
{
    CHECK(((struct fake_memory *)handle)->open && resource == &fake.frame);
    return unmapped(memory, fake.count);
}

static int fake_resource_size(void *handle, uint16_t domid, unsigned int type, unsigned int id, size_t *bytes)
{
    check_reach(handle, domid);
    CHECK(type == 1 && id == 0);
    *bytes = (size_t)64 * SVQ_PAGE_SIZE;
    return 0;
}

static int fake_evtchn_fd(void *handle)
{
    CHECK(handle == &fake.evtchn_opened);
    return fake.event_pipe[0];
}

static int fake_port(void *handle, uint32_t port)
{
    CHECK(handle == &fake.evtchn_opened);
    if (fake.fail_errno) {
        (void)fails();
        return -1;
    }
    fake.unmasked_port = (int)port;
    return 0;
}

static int fake_bind_unbound(void *handle, uint32_t domid)
{
    CHECK(handle == &fake.evtchn_opened && domid == 7);
    return 21;
}

static int fake_bind_interdomain(void *handle, uint32_t domid, uint32_t port)
{
    CHECK(handle == &fake.evtchn_opened && domid == 7 && port == 5);
    if (fake.fail_errno) {
        (void)fails();
        return -1;
    }
    return 22;
}

static int fake_pending(void *handle)
{
    CHECK(handle == &fake.evtchn_opened);
    fake.pending_calls++;
    char byte;
    CHECK(read(fake.event_pipe[0], &byte, 1) == 1); /* would block forever without a poll first */
    return 21;
}

static const struct xen_libs fake_libs = {
    .gnttab_open = fake_gnttab_open,
    .gnttab_close = fake_close,
    .gnttab_map_domain_grant_refs = fake_map_grants,
    .gnttab_unmap = fake_unmap_grants,
    .gnttab_grant_copy = fake_grant_copy,
    .gntshr_open = fake_gntshr_open,
    .gntshr_close = fake_close,
    .gntshr_share_pages = fake_share,
    .gntshr_unshare = fake_unshare,
    .foreignmemory_open = fake_fmem_open,
    .foreignmemory_close = fake_fmem_close,
    .foreignmemory_restrict = fake_restrict,
    .foreignmemory_map = fake_map_foreign,
    .foreignmemory_unmap = fake_unmap_foreign,
    .foreignmemory_map_resource = fake_map_resource,
    .foreignmemory_unmap_resource = fake_unmap_resource,
    .foreignmemory_resource_size = fake_resource_size,
    .evtchn_open = fake_evtchn_open,
    .evtchn_close = fake_close,
    .evtchn_fd = fake_evtchn_fd,
    .evtchn_notify = fake_port,
    .evtchn_bind_unbound_port = fake_bind_unbound,
    .evtchn_bind_interdomain = fake_bind_interdomain,
    .evtchn_unbind = fake_port,
    .evtchn_pending = fake_pending,
    .evtchn_unmask = fake_port,
};

static struct svq_hv *start(void)
{
    memset(&fake, 0, sizeof fake);
    struct svq_hv *hv;
    REQUIRE(svq_hv_open_xen_on(&fake_libs, &hv) == 0);
    return hv;
}

static void stop(struct svq_hv *hv)
{
    svq_hv_close(hv);
    CHECK_EQUAL(fake.live, 0);
    CHECK_EQUAL(fake.gnttab_opened + fake.gntshr_opened + memories_open() + fake.evtchn_opened, 0);
}

/* --- tests -------------------------------------------------------------------------------------------- */
TEST(no_xen, "Without Xen, opening names the library or the device node that is missing")
{
    struct svq_hv *hv;
    int rc = svq_hv_open_xen(&hv);
    if (rc == 0) { /* this is a Xen domain */
        svq_hv_close(hv);
        return;
    }
    CHECK(rc == -ENOSYS || rc == -EACCES);
    CHECK(strstr(svq_hv_why(), "libxen") != NULL || strstr(svq_hv_why(), "/dev/xen/evtchn") != NULL);
    printf("# %s\n", svq_hv_why());
}

TEST(missing_nodes, "A device node is opened when first needed; if it is missing, the reason names the kernel module")
{
    struct svq_hv *hv = start();
    uint64_t gfn = 0;
    uint32_t gref = 100;
    void *va, *token;
    CHECK_EQUAL(svq_hv_domid(hv), -ENOSYS);
    CHECK_EQUAL(svq_hv_set_domid(hv, 4), 0);
    CHECK_EQUAL(svq_hv_domid(hv), 4);
    fake.fail_errno = ENOENT;
    int err;
    CHECK_EQUAL(svq_hv_map_foreign(hv, 7, &gfn, 1, 1, &err, &va), -ENOENT);
    CHECK(strstr(svq_hv_why(), "/dev/xen/privcmd") != NULL && strstr(svq_hv_why(), "xen-privcmd") != NULL);
    fake.fail_errno = ENODEV;
    CHECK_EQUAL(svq_hv_map_grants(hv, 7, &gref, 1, 1, &va), -ENODEV);
    CHECK(strstr(svq_hv_why(), "/dev/xen/gntdev") != NULL && strstr(svq_hv_why(), "xen-gntdev") != NULL);
    fake.fail_errno = EACCES;
    CHECK_EQUAL(svq_hv_share_pages(hv, 9, 1, 1, &gref, &va), -EACCES);
    CHECK(strstr(svq_hv_why(), "/dev/xen/gntalloc") != NULL);
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 0, 1, &va, &token), 0); /* the node exists by now */
    CHECK_EQUAL(svq_hv_unmap_grant_table(hv, token), 0);
    stop(hv);
}

TEST(foreign_errors, "Errors of single frames stay with their frames, those of the whole domain fail the call")
{
    const uint64_t gfns[] = { 2, 3, 4, 5 };
    struct svq_hv *hv = start();
    int errs[4];
    void *va;
    for (int sign = -1; sign <= 1; sign += 2) { /* the kernel's convention, and the header's */
        fake.frame_error = sign * EINVAL;
        CHECK_EQUAL(svq_hv_map_foreign(hv, 7, gfns, 4, 0, errs, &va), 0);
        CHECK_EQUAL(fake.prot, PROT_READ);
        CHECK_EQUAL(errs[0], 0);
        CHECK_EQUAL(errs[1], -EINVAL);
        CHECK_EQUAL(errs[3], -EINVAL);
        CHECK_EQUAL(svq_hv_unmap_foreign(hv, va, 4), 0);
        fake.all_frames_fail = 1;
        CHECK_EQUAL(svq_hv_map_foreign(hv, 7, gfns, 4, 0, errs, &va), 0); /* only holes: that is not a refusal */
        CHECK_EQUAL(svq_hv_unmap_foreign(hv, va, 4), 0);
        fake.frame_error = sign * ESRCH;
        CHECK_EQUAL(svq_hv_map_foreign(hv, 7, gfns, 4, 1, errs, &va), -ESRCH);
        CHECK_EQUAL(fake.prot, PROT_READ | PROT_WRITE);
        fake.frame_error = sign * EPERM;
        CHECK_EQUAL(svq_hv_map_foreign(hv, 7, gfns, 4, 1, errs, &va), -EPERM);
        fake.all_frames_fail = 0;
    }
    fake.fail_errno = EPERM;
    CHECK_EQUAL(svq_hv_map_foreign(hv, 7, gfns, 4, 1, errs, &va), -EPERM);
    CHECK_EQUAL(fake.live, 0);
    stop(hv);
}

TEST(grant_table, "The grant table is mapped as the resource that Xen calls 1, writable, and its limit is in frames")
{
    struct svq_hv *hv = start();
    uint32_t frames = 0;
    void *va, *token;
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 32, 8, &va, &token), 0);
    CHECK(va == memory && fake.type == 1 && fake.id == 0 && fake.frame == 32 && fake.count == 8);
    CHECK_EQUAL(fake.prot, PROT_READ | PROT_WRITE);
    CHECK_EQUAL(svq_hv_grant_table_frames(hv, 7, &frames), 0);
    CHECK_EQUAL(frames, 64);
    CHECK_EQUAL(svq_hv_unmap_grant_table(hv, token), 0);
    CHECK_EQUAL(svq_hv_unmap_grant_table(hv, token), -EINVAL);
    fake.fail_errno = EINVAL;
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 64, 8, &va, &token), -EINVAL);
    stop(hv);
}

TEST(grant_table_version_2, "A grant table of version 2, whose entries are longer than ours, is refused as such")
{
    struct svq_hv *hv = start();
    void *va, *token;
    fake.version_2 = 1;
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 32, 8, &va, &token), -EPROTONOSUPPORT);
    stop(hv);
}

TEST(one_handle_a_domain,
     "Each domain's memory has a handle of its own, restricted to it before use; unused handles do not pile up")
{
    struct svq_hv *hv = start();
    const uint64_t gfn = 2;
    void *seven, *eight, *nine, *token;
    int err;
    CHECK_EQUAL(svq_hv_map_foreign(hv, 7, &gfn, 1, 1, &err, &seven), 0);
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 32, 1, &seven, &token), 0); /* the same handle */
    CHECK_EQUAL(memories_open(), 1);
    CHECK_EQUAL(svq_hv_map_foreign(hv, 8, &gfn, 1, 1, &err, &eight), 0);
    CHECK_EQUAL(memories_open(), 2);
    CHECK_EQUAL(svq_hv_unmap_foreign(hv, eight, 1), 0);
    CHECK_EQUAL(svq_hv_map_foreign(hv, 8, &gfn, 1, 1, &err, &eight), 0); /* as for a guest that balloons */
    CHECK_EQUAL(svq_hv_unmap_foreign(hv, eight, 1), 0);
    CHECK_EQUAL(memories_open(), 2);
    CHECK_EQUAL(svq_hv_map_foreign(hv, 9, &gfn, 1, 1, &err, &nine), 0); /* 7 is in use, 8 is not */
    CHECK_EQUAL(memories_open(), 2);
    CHECK_EQUAL(svq_hv_unmap_foreign(hv, nine, 1), 0);
    stop(hv);
}

TEST(not_restricted, "We use no handle that the kernel does not restrict, and no number that is not a domain's")
{
    struct svq_hv *hv = start();
    const uint64_t gfn = 2;
    void *va, *token;
    fake.restrict_errno = EINVAL; /* the kernel restricts us already, to our target */
    int err;
    CHECK_EQUAL(svq_hv_map_foreign(hv, 7, &gfn, 1, 1, &err, &va), -EPERM);
    CHECK(strstr(svq_hv_why(), "target") != NULL);
    fake.restrict_errno = ENOTTY;
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 32, 1, &va, &token), -ENOTTY);
    CHECK(strstr(svq_hv_why(), "domain 7") != NULL);
    uint32_t frames;
    CHECK_EQUAL(svq_hv_grant_table_frames(hv, 7, &frames), -ENOTTY);
    fake.restrict_errno = 0;
    CHECK_EQUAL(svq_hv_map_foreign(hv, 0x7ff4, &gfn, 1, 1, &err, &va), -ESRCH); /* privcmd's "no restriction" */
    CHECK_EQUAL(svq_hv_map_foreign(hv, 0x7ff0, &gfn, 1, 1, &err, &va), -ESRCH); /* DOMID_SELF */
    CHECK_EQUAL(memories_open(), 0);
    stop(hv);
}

TEST(frames_only_in_dom0, "Only dom0 can watch frames: a guest waits forever for a domain that was destroyed")
{
    struct svq_hv *hv = start();
    struct svq_frames *frames;
    CHECK_EQUAL(svq_frames_watch(hv, 7, &frames), -ENOSYS); /* we may be in any domain */
    CHECK_EQUAL(svq_hv_set_domid(hv, 4), 0);
    CHECK_EQUAL(svq_frames_watch(hv, 7, &frames), -ENOSYS);
    CHECK_EQUAL(svq_hv_set_domid(hv, 0), 0);
    CHECK(svq_frames_watch(hv, 7, &frames) != -ENOSYS); /* there is no privcmd here, so it fails later */
    stop(hv);
}

TEST(grants, "Refused grants read as in the embedded machine, and after a failed unmap the mapping is still recorded")
{
    const uint32_t grefs[] = { 100, 101, 102 };
    struct svq_hv *hv = start();
    void *va;
    CHECK_EQUAL(svq_hv_map_grants(hv, 7, grefs, 3, 1, &va), 0);
    CHECK_EQUAL(fake.prot, PROT_READ | PROT_WRITE);
    CHECK_EQUAL(svq_hv_unmap_grants(hv, va, 3), 0);
    fake.fail_errno = EINVAL; /* gntdev's error for everything */
    CHECK_EQUAL(svq_hv_map_grants(hv, 7, grefs, 3, 1, &va), -EACCES);
    fake.fail_errno = ENOMEM;
    CHECK_EQUAL(svq_hv_map_grants(hv, 7, grefs, 3, 1, &va), -ENOMEM);
    CHECK_EQUAL(svq_hv_map_grants(hv, 7, grefs, 3, 0, &va), 0);
    CHECK_EQUAL(fake.prot, PROT_READ);
    CHECK_EQUAL(svq_hv_unmap_grants(hv, va, 2), -EINVAL);
    fake.fail_errno = EBUSY;
    CHECK_EQUAL(svq_hv_unmap_grants(hv, va, 3), -EBUSY);
    struct svq_hv_counters counters;
    svq_hv_read_counters(hv, &counters);
    CHECK_EQUAL(counters.grant_pages_live, 3);
    CHECK_EQUAL(svq_hv_unmap_grants(hv, va, 3), 0);
    stop(hv);
}

TEST(copies, "A copy names the granted page at its own end; each piece has the result that a mapping would have")
{
    static const struct {
        int16_t status; /* GNTST_* */
        int result;
    } cases[] = { { -1, -EACCES },  { -2, -ESRCH },   { -3, -ENOENT },  { -8, -EACCES }, { -9, -EINVAL },
                  { -10, -EINVAL }, { -12, -EAGAIN }, { -13, -ENOSPC }, { -77, -EIO } };
    struct svq_hv *hv = start();
    uint8_t local[2][SVQ_PAGE_SIZE] = { "into the grant" };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct svq_hv_copy ops[] = {
            { .local = local[0], .gref = 2, .offset = 100, .length = 15, .to_grant = 1 },
            { .local = local[0], .gref = 3, .offset = 0, .length = 4096, .to_grant = 1 },
            { .local = local[1], .gref = 2, .offset = 100, .length = 3996 },
        };
        fake.copy_status = cases[i].status;
        CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 3), 0);
        CHECK(ops[0].result == 0 && ops[1].result == cases[i].result && ops[2].result == 0);
        CHECK(strcmp((char *)local[1], "into the grant") == 0);
    }
    struct svq_hv_counters counters;
    svq_hv_read_counters(hv, &counters);
    CHECK_EQUAL(counters.grant_copies, 9);
    CHECK_EQUAL(counters.hypercalls, 9);
    CHECK_EQUAL(counters.grant_bytes_copied, 9 * (15 + 3996));
    CHECK_EQUAL(counters.grant_maps, 0);
    stop(hv);
}

TEST(many_copies, "Many pieces are few calls of the library and of the hypervisor; a failed call fails its own pieces")
{
    enum { PIECES = 100 };
    struct svq_hv *hv = start();
    struct svq_hv_copy ops[PIECES];
    uint8_t byte;
    for (int i = 0; i < PIECES; i++)
        ops[i] = (struct svq_hv_copy){ .local = &byte, .gref = 2, .length = 1 };
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, PIECES), 0);
    CHECK_EQUAL(fake.copies, 2);
    CHECK_EQUAL(fake.copied[0] + fake.copied[1], PIECES);
    struct svq_hv_counters counters;
    svq_hv_read_counters(hv, &counters);
    CHECK_EQUAL(counters.hypercalls, 7); /* 16 pieces each */
    fake.fail_errno = EFAULT;
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, PIECES), 0);
    CHECK_EQUAL(ops[0].result, -EFAULT);
    CHECK_EQUAL(ops[fake.copied[2] - 1].result, -EFAULT);
    CHECK_EQUAL(ops[PIECES - 1].result, 0);
    stop(hv);
}

TEST(no_copies, "Where kernel or library cannot copy, the call and all pieces say so; bad pieces reach neither")
{
    struct svq_hv *hv = start();
    uint8_t byte;
    struct svq_hv_copy ops[2] = { { .local = &byte, .gref = 2, .length = 1 },
                                  { .local = &byte, .gref = 2, .length = 1 } };
    fake.fail_errno = ENOENT;
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 2), -ENOENT); /* no gntdev */
    CHECK(ops[0].result == -ENOENT && ops[1].result == -ENOENT);
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 2), 0);
    fake.fail_errno = ENOTTY;
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 2), -ENOSYS);
    CHECK(ops[0].result == -ENOSYS && ops[1].result == -ENOSYS);
    fake.copies = 0;
    ops[1].length = 0;
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 2), -EINVAL);
    ops[1].length = 97;
    ops[1].offset = 4000; /* beyond its page */
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 2), -EINVAL);
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 0), -EINVAL);
    ops[1].local = NULL;
    ops[1].offset = 0;
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 2), -EINVAL);
    CHECK_EQUAL(fake.copies, 0);
    stop(hv);
    memset(&fake, 0, sizeof fake);
    struct xen_libs old = fake_libs;
    old.gnttab_grant_copy = NULL;
    REQUIRE(svq_hv_open_xen_on(&old, &hv) == 0);
    CHECK_EQUAL(svq_hv_copy_grants(hv, 7, ops, 1), -ENOSYS);
    CHECK_EQUAL(ops[0].result, -ENOSYS);
    stop(hv);
}

TEST(close_undoes,
     "Closing undoes every mapping through the library that made it, before it closes that library's handle")
{
    struct svq_hv *hv = start();
    const uint64_t gfn = 2;
    uint32_t gref = 100, shared[2];
    void *va, *token;
    int err;
    CHECK_EQUAL(svq_hv_map_foreign(hv, 7, &gfn, 1, 1, &err, &va), 0);
    CHECK_EQUAL(svq_hv_map_grant_table(hv, 7, 32, 1, &va, &token), 0);
    CHECK_EQUAL(svq_hv_map_grants(hv, 7, &gref, 1, 1, &va), 0);
    CHECK_EQUAL(svq_hv_share_pages(hv, 9, 1, 0, shared, &va), 0);
    CHECK_EQUAL(fake.writable, 0);
    CHECK_EQUAL(shared[0], 50);
    struct svq_evtchn *ec;
    CHECK_EQUAL(svq_evtchn_open(hv, &ec), 0);
    CHECK_EQUAL(fake.live, 4);
    stop(hv);
}

TEST(own_pages, "Our own pages come zeroed, with their frame numbers, or the call says that we may not know these")
{
    struct svq_hv *hv = start();
    uint64_t gfns[4] = { 0 };
    void *va;
    int rc = svq_hv_own_pages(hv, 0, 4, gfns, &va);
    if (rc == 0) {
        CHECK(gfns[0] != 0 && gfns[0] != gfns[3]);
        CHECK_EQUAL(((uint8_t *)va)[4 * SVQ_PAGE_SIZE - 1], 0);
        CHECK_EQUAL(svq_hv_release_own_pages(hv, va, 3), -EINVAL);
        CHECK_EQUAL(svq_hv_release_own_pages(hv, va, 4), 0);
    } else {
        CHECK(rc == -EPERM || rc == -EAGAIN || rc == -ENOMEM); /* no CAP_SYS_ADMIN, or no room for locked memory */
    }
    stop(hv);
}

TEST(events, "Pending never blocks: the library is asked only when its descriptor is readable")
{
    struct svq_hv *hv = start();
    REQUIRE(pipe(fake.event_pipe) == 0);
    fake.fail_errno = ENOENT;
    struct svq_evtchn *ec;
    CHECK_EQUAL(svq_evtchn_open(hv, &ec), -ENOENT);
    CHECK(strstr(svq_hv_why(), "/dev/xen/evtchn") != NULL);
    REQUIRE(svq_evtchn_open(hv, &ec) == 0);
    CHECK_EQUAL(svq_evtchn_alloc_unbound(ec, 7), 21);
    fake.fail_errno = EINVAL;
    CHECK_EQUAL(svq_evtchn_bind(ec, 7, 5), -EINVAL);
    CHECK_EQUAL(svq_evtchn_bind(ec, 7, 5), 22);
    CHECK_EQUAL(svq_evtchn_pending(ec), -EAGAIN);
    CHECK_EQUAL(fake.pending_calls, 0);
    REQUIRE(write(fake.event_pipe[1], "e", 1) == 1);
    CHECK_EQUAL(svq_evtchn_pending(ec), 21);
    CHECK_EQUAL(svq_evtchn_pending(ec), -EAGAIN);
    CHECK_EQUAL(svq_evtchn_unmask(ec, 21), 0);
    CHECK_EQUAL(fake.unmasked_port, 21);
    fake.fail_errno = ENOTCONN;
    CHECK_EQUAL(svq_evtchn_notify(ec, 22), -ENOTCONN);
    svq_evtchn_close(ec);
    close(fake.event_pipe[0]);
    close(fake.event_pipe[1]);
    stop(hv);
}

SVQ_TEST_MAIN()
