/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hypervisor seam on real Xen: a mediator's whole use of it, in dom0 or in a mediator domain.
 * usage: seam_check OWN_DOMID FRONTEND_DOMID FRONTEND_MAX_FRAMES dom0|mediator OTHER_DOMID
 *
 * The frontend has never run, so we may write to its memory. OTHER_DOMID is a domain that we do not serve. Prints
 * "ok - ..." and "not ok - ..." lines, then "1..N".
 */
#include <errno.h>
#include <poll.h>

#include "seam_check.h"

enum {
    NO_SUCH_DOMID = 0x7000,
    EVENT_DEADLINE_MS = 10000,
};

static const uint64_t no_such_gfn = 0xfffffffULL;

static void foreign_memory(struct mediator *m)
{
    uint64_t gfns[PAGES + 1];
    int errs[PAGES + 1], bad = 0;
    void *memory = NULL, *again = NULL;
    for (int i = 0; i < PAGES; i++)
        gfns[i] = FIRST_GFN + (uint64_t)i;
    int rc = svq_hv_map_foreign(m->hv, m->frontend, gfns, PAGES, 1, errs, &memory);
    for (int i = 0; i < PAGES && rc == 0; i++)
        bad |= errs[i];
    if (!check(rc == 0 && bad == 0, rc != 0 ? rc : bad, "map_foreign maps the frontend's frames"))
        return;
    m->memory = memory;
    memset(memory, 0xa5, (size_t)PAGES * SVQ_PAGE_SIZE);

    gfns[PAGES] = no_such_gfn;
    rc = svq_hv_map_foreign(m->hv, m->frontend, gfns, PAGES + 1, 0, errs, &again);
    check(rc == 0 && errs[0] == 0, rc, "map_foreign maps RAM beside a frame that is not RAM");
    if (rc == 0) {
        check(errs[PAGES] == -EINVAL, errs[PAGES], "and sets -EINVAL for the frame that is not RAM");
        check(((uint8_t *)again)[SVQ_PAGE_SIZE] == 0xa5, 0, "two mappings of one frame show the same bytes");
        rc = svq_hv_unmap_foreign(m->hv, again, PAGES + 1);
        check(rc == 0, rc, "unmap_foreign");
    }
}

static void foreign_memory_of_others(struct mediator *m)
{
    uint64_t gfn = 1;
    int err = 0;
    void *memory = NULL;
    uint16_t other = m->in_dom0 ? NO_SUCH_DOMID : 0;
    int expected = m->in_dom0 ? -ESRCH : -EPERM;
    int rc = svq_hv_map_foreign(m->hv, other, &gfn, 1, 0, &err, &memory);
    check(rc == expected, rc,
          m->in_dom0 ? "map_foreign of a missing domain is -ESRCH"
                     : "map_foreign of dom0 by a mediator domain is -EPERM");
}

static void grant_table(struct mediator *m)
{
    uint32_t frames = 0;
    uint64_t used = 0;
    void *table = NULL, *token = NULL, *beyond = NULL, *beyond_token = NULL;
    int rc = svq_hv_grant_table_frames(m->hv, m->frontend, &frames);
    check(rc == 0 && frames == m->max_frames, rc != 0 ? rc : (int)frames,
          "grant_table_frames is the frontend's max_grant_frames");
    rc = svq_hv_map_grant_table(m->hv, m->frontend, m->max_frames, 1, &beyond, &beyond_token);
    check(rc == -EINVAL, rc, "map_grant_table above max_grant_frames is -EINVAL");
    rc = svq_hv_map_grant_table(m->hv, m->frontend, FIRST_FRAME, m->max_frames - FIRST_FRAME, &table, &token);
    if (!check(rc == 0, rc, "map_grant_table maps all frames above the guest's own"))
        return;
    m->table = table;
    for (size_t i = 0; i < (size_t)(m->max_frames - FIRST_FRAME) * SVQ_GRANTS_PER_FRAME; i++)
        used |= svq_load_u64(&m->table[i]);
    check(used == 0, 0, "the new frames' entries are all free");
}

/* We are the grantee ourselves: what counts is that the hypervisor accepts the entries that we wrote. */
static void grants(struct mediator *m)
{
    uint32_t grefs[PAGES];
    uint64_t expected = svq_grant_entry(GTF_PERMIT_ACCESS, m->own, FIRST_GFN);
    void *va = NULL;
    for (uint32_t i = 0; i < PAGES; i++) {
        grant(m, i, GTF_PERMIT_ACCESS);
        grefs[i] = window_gref(i);
    }
    int rc = svq_hv_map_grants(m->hv, m->frontend, grefs, PAGES, 1, &va);
    if (!check(rc == 0, rc, "map_grants maps entries that the mediator wrote, with no hypercall of its own"))
        return;
    ((uint8_t *)va)[(PAGES - 1) * SVQ_PAGE_SIZE + 7] = 0x5a;
    check(((uint8_t *)va)[0] == 0xa5 && m->memory[(PAGES - 1) * SVQ_PAGE_SIZE + 7] == 0x5a, 0,
          "a granted page and the frontend's page are one");
    check(flags_of(m, 0) == (GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING), (int)flags_of(m, 0),
          "while mapped, the entry says reading and writing");
    check(!svq_cas_u64(&m->table[0], &expected, 0), 0, "ending it with compare-and-swap fails while it is mapped");
    rc = svq_hv_unmap_grants(m->hv, va, PAGES);
    check(rc == 0 && flags_of(m, 0) == GTF_PERMIT_ACCESS, rc, "unmap_grants clears both bits");
    expected = svq_grant_entry(GTF_PERMIT_ACCESS, m->own, FIRST_GFN);
    check(svq_cas_u64(&m->table[0], &expected, 0), 0, "ending it succeeds once it is unmapped");
    rc = svq_hv_map_grants(m->hv, m->frontend, grefs, PAGES, 1, &va);
    check(rc == -EACCES, rc, "map_grants of an ended entry is -EACCES, and maps nothing of its run");
    check(flags_of(m, 1) == GTF_PERMIT_ACCESS, (int)flags_of(m, 1), "the rest of a refused run is not left mapped");

    grant(m, 0, GTF_PERMIT_ACCESS | GTF_READONLY);
    rc = svq_hv_map_grants(m->hv, m->frontend, grefs, 1, 1, &va);
    check(rc == -EACCES, rc, "map_grants of a read-only entry for writing is -EACCES");
    rc = svq_hv_map_grants(m->hv, m->frontend, grefs, 1, 0, &va);
    check(rc == 0 && (flags_of(m, 0) & GTF_WRITING) == 0, rc, "map_grants of a read-only entry for reading");
    if (rc == 0)
        svq_hv_unmap_grants(m->hv, va, 1);
    for (uint32_t i = 0; i < PAGES; i++)
        svq_release_u64(&m->table[i], 0);
}

static void shared_pages(struct mediator *m)
{
    uint32_t grefs[PAGES];
    uint8_t zero[SVQ_PAGE_SIZE] = { 0 };
    void *ours = NULL, *theirs = NULL;
    int rc = svq_hv_share_pages(m->hv, m->own, PAGES, 1, grefs, &ours);
    if (!check(rc == 0, rc, "share_pages grants pages of our own"))
        return;
    check(memcmp(ours, zero, sizeof zero) == 0, 0, "shared pages start as zeros");
    rc = svq_hv_map_grants(m->hv, m->own, grefs, PAGES, 1, &theirs);
    if (check(rc == 0, rc, "map_grants maps shared pages (loopback)")) {
        ((uint8_t *)ours)[5] = 1;
        ((uint8_t *)theirs)[SVQ_PAGE_SIZE] = 2;
        check(((uint8_t *)theirs)[5] == 1 && ((uint8_t *)ours)[SVQ_PAGE_SIZE] == 2, 0,
              "both sides see each other's bytes");
        rc = svq_hv_unmap_grants(m->hv, theirs, PAGES);
        check(rc == 0, rc, "unmap_grants of shared pages");
    }
    rc = svq_hv_unshare_pages(m->hv, ours, PAGES);
    check(rc == 0, rc, "unshare_pages");

    rc = svq_hv_share_pages(m->hv, m->own, 1, 0, grefs, &ours);
    check(rc == 0, rc, "share_pages grants read-only");
    if (rc == 0) {
        rc = svq_hv_map_grants(m->hv, m->own, grefs, 1, 1, &theirs);
        check(rc == -EACCES, rc, "map_grants of a page shared read-only for writing is -EACCES");
        svq_hv_unshare_pages(m->hv, ours, 1);
    }
}

static int next_event(struct svq_evtchn *ec)
{
    struct pollfd pfd = { .fd = svq_evtchn_fd(ec), .events = POLLIN };
    return poll(&pfd, 1, EVENT_DEADLINE_MS) == 1 ? svq_evtchn_pending(ec) : -ETIMEDOUT;
}

static void event_channels(struct mediator *m)
{
    struct svq_evtchn *near = NULL, *far = NULL;
    int rc = svq_evtchn_open(m->hv, &near);
    if (!check(rc == 0, rc, "evtchn_open"))
        return;
    rc = svq_evtchn_open(m->hv, &far);
    check(rc == 0, rc, "evtchn_open, a second set");
    int near_port = svq_evtchn_alloc_unbound(near, m->own);
    check(near_port > 0, near_port, "evtchn_alloc_unbound");
    int far_port = svq_evtchn_bind(far, m->own, (uint32_t)near_port);
    if (check(far_port > 0, far_port, "evtchn_bind joins the two ends")) {
        do /* binding may raise an event at either end: drain before counting */
            rc = svq_evtchn_pending(near);
        while (rc >= 0 && svq_evtchn_unmask(near, (uint32_t)rc) == 0);
        rc = svq_evtchn_notify(far, (uint32_t)far_port);
        check(rc == 0, rc, "evtchn_notify");
        rc = next_event(near);
        check(rc == near_port, rc, "the other end becomes readable and pending");
        rc = svq_evtchn_pending(near);
        check(rc == -EAGAIN, rc, "evtchn_pending is -EAGAIN when there is nothing more");
        svq_evtchn_notify(far, (uint32_t)far_port);
        rc = svq_evtchn_pending(near);
        check(rc == -EAGAIN, rc, "a masked port stays silent");
        rc = svq_evtchn_unmask(near, (uint32_t)near_port);
        check(rc == 0, rc, "evtchn_unmask");
        rc = next_event(near);
        check(rc == near_port, rc, "an event that came while it was masked is seen after unmasking");
        rc = svq_evtchn_unbind(far, (uint32_t)far_port);
        check(rc == 0, rc, "evtchn_unbind");
    }
    rc = svq_evtchn_bind(far, m->own, 4000);
    check(rc < 0, rc, "evtchn_bind to a missing port fails");
    svq_evtchn_close(far);
    svq_evtchn_close(near);
}

static void read_only_frames(struct mediator *m)
{
    int rc = svq_hv_set_readonly(m->hv, m->frontend, FIRST_GFN, 1);
    check(rc == 0, rc, "set_readonly makes a frame of the frontend read-only");
    rc = svq_hv_set_readonly(m->hv, m->frontend, FIRST_GFN, 0);
    check(rc == 0, rc, "and writable again");
}

static void own_pages(struct mediator *m)
{
    uint64_t gfns[PAGES] = { 0 };
    void *pages = NULL;
    int rc = svq_hv_own_pages(m->hv, 0, PAGES, gfns, &pages), distinct = 1;
    for (int i = 1; i < PAGES; i++)
        distinct &= gfns[i] != gfns[0];
    check(rc == 0 && gfns[0] != 0 && distinct, rc, "own_pages reports its pages' frame numbers");
    if (rc == 0) {
        rc = svq_hv_release_own_pages(m->hv, pages, PAGES);
        check(rc == 0, rc, "release_own_pages");
    }
}

static void nothing_left(struct mediator *m)
{
    int rc = !m->table ? 0 : svq_hv_unmap_grant_table(m->hv, m->table);
    check(rc == 0, rc, "unmap_grant_table");
    rc = !m->memory ? 0 : svq_hv_unmap_foreign(m->hv, m->memory, PAGES);
    check(rc == 0, rc, "unmap_foreign of the frontend's frames");
    struct svq_hv_counters c;
    svq_hv_read_counters(m->hv, &c);
    check(c.foreign_pages_live == 0 && c.grant_pages_live == 0 && c.grant_tables_live == 0 &&
              c.shared_pages_live == 0 && c.ports_live == 0,
          0, "the counters say that nothing is held any longer");
    check(c.foreign_maps > 0 && c.grant_maps > 0 && c.notifies > 0, 0, "and what was done");
}

int checks, failures;

int main(int argc, char **argv)
{
    struct mediator m = { 0 };
    if (argc != 6)
        return 2;
    m.own = (uint16_t)atoi(argv[1]);
    m.frontend = (uint16_t)atoi(argv[2]);
    m.max_frames = (uint32_t)atoi(argv[3]);
    m.in_dom0 = strcmp(argv[4], "dom0") == 0;
    m.other = (uint16_t)atoi(argv[5]);
    setbuf(stdout, NULL); /* show what was printed before a crash */
    int rc = svq_hv_open_xen(&m.hv);
    if (!check(rc == 0, rc, "open_xen"))
        return 1;
    check(svq_hv_domid(m.hv) == -ENOSYS, svq_hv_domid(m.hv), "domid is -ENOSYS until it is set");
    rc = svq_hv_set_domid(m.hv, m.own);
    check(rc == 0 && svq_hv_domid(m.hv) == m.own, rc, "set_domid");

    foreign_memory(&m);
    foreign_memory_of_others(&m);
    grant_table(&m);
    if (m.memory && m.table) {
        grants(&m);
        grant_rules(&m);
    }
    shared_pages(&m);
    event_channels(&m);
    read_only_frames(&m);
    narrow_handles(&m);
    own_pages(&m);
    nothing_left(&m);
    svq_hv_close(m.hv);
    printf("1..%d\n", checks);
    return failures != 0;
}
