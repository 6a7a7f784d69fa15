/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keeping the ledger. The states change by compare-and-swap: the thread that runs requests gives and takes, while
 * another one may learn that everything is back. A page is given before its request is published, and is back only
 * after the request was seen to end. So whoever finds it granted with an acquiring load must find it given in a later
 * load.
 */
#include "drv_ledger.h"

#include <errno.h>
#include <string.h>

#include "barrier.h"
#include "drv_tag.h"
#include "ledger_state.h"

static struct svq_ledger *ledger_of(const struct svq_drv *d) { return d->config.ledger; }

void svq_drv_ledger_open(struct svq_drv *d)
{
    struct svq_ledger *ledger = ledger_of(d);
    if (!ledger)
        return;
    for (size_t i = 0; i < d->mem.pages; i++)
        ledger->page[i] = (struct svq_ledger_page){ .gfn = d->mem.gfns[i] };
    svq_release_u64(&ledger->pages, d->mem.pages);
}

/* Adds to or subtracts from one of the counts; returns the new state. */
static uint64_t change(struct svq_ledger_page *page, enum ledger_count count, bool more, int back)
{
    uint64_t seen = svq_load_u64(&page->state);
    uint64_t next;
    do
        next = ledger_changed(seen, count, more, back);
    while (!svq_cas_u64(&page->state, &seen, next));
    return next;
}

/* Changes every page of the driver's memory that the request uses, according to how it uses it. */
static void change_pages(struct svq_drv *d, const struct svq_drv_slot *slot, bool more, int back)
{
    uint64_t end = slot->data_offset + slot->data_len;
    for (uint64_t at = slot->data_offset; at < end;) {
        uint64_t page = at >> SVQ_PAGE_SHIFT;
        uint64_t page_end = (page + 1) << SVQ_PAGE_SHIFT;
        bool whole = at == page << SVQ_PAGE_SHIFT && page_end <= end;
        enum ledger_count count = !whole ? LEDGER_PART : slot->device_writes ? LEDGER_WRITE : LEDGER_READ;
        uint64_t state = change(&ledger_of(d)->page[page], count, more, back);
        if (more && count == LEDGER_WRITE)
            svq_tag_write(d->mem.va + at, d->mem.gfns[page], 0, ledger_secret(state));
        at = page_end;
    }
    change(&ledger_of(d)->page[slot->slab_page], LEDGER_PART, more, back);
}

void svq_drv_ledger_give(struct svq_drv *d, struct svq_drv_slot *slot, uint64_t slab, const struct svq_drv_req *req,
                         bool device_writes)
{
    if (!ledger_of(d))
        return;
    slot->data_offset = req->len ? (uint64_t)svq_drv_mem_offset(&d->mem, req->buf_gpa, req->len) : 0;
    slot->data_len = req->len;
    slot->slab_page = slab >> SVQ_PAGE_SHIFT;
    slot->device_writes = device_writes;
    change_pages(d, slot, true, 0);
    svq_release_u32(&slot->given, 1);
}

void svq_drv_ledger_back(struct svq_drv *d, struct svq_drv_slot *slot, int back)
{
    uint32_t given = 1;
    if (ledger_of(d) && svq_cas_u32(&slot->given, &given, 0))
        change_pages(d, slot, false, back);
}

void svq_drv_take_back(struct svq_drv *d, int back)
{
    if (!ledger_of(d))
        return;
    for (unsigned i = 0; i < d->config.queues; i++)
        for (uint32_t head = 0; head < d->config.queue_size; head++)
            svq_store_u32(&d->queues[i].slots[head].given, 0);
    svq_ledger_take_back(ledger_of(d), back);
}

static bool is_own(const struct svq_drv *d, size_t page)
{
    return !ledger_given(svq_acquire_u64(&ledger_of(d)->page[page].state));
}

static bool pages_sane(const struct svq_drv *d, size_t first_page, size_t count, unsigned seed)
{
    return ledger_of(d) && seed <= UINT16_MAX && first_page <= d->mem.pages && count <= d->mem.pages - first_page;
}

int64_t svq_drv_use_own(struct svq_drv *d, size_t first_page, size_t count, unsigned seed)
{
    int64_t used = 0;
    if (!pages_sane(d, first_page, count, seed))
        return -EINVAL;
    for (size_t page = first_page; page < first_page + count; page++)
        if (is_own(d, page)) {
            svq_drv_fill_tags(d, page, 1, seed);
            used++;
        }
    return used;
}

static bool holds_tags(const struct svq_drv *d, size_t page, unsigned seed)
{
    uint8_t tag[SVQ_TAG_BYTES];
    for (uint32_t offset = 0; offset < SVQ_PAGE_SIZE; offset += SVQ_TAG_BYTES) {
        svq_tag_write(tag, d->mem.gfns[page], offset, (uint16_t)seed);
        if (memcmp(tag, d->mem.va + page * SVQ_PAGE_SIZE + offset, sizeof tag) != 0)
            return false;
    }
    return true;
}

int64_t svq_drv_own_changed(const struct svq_drv *d, size_t first_page, size_t count, unsigned seed)
{
    int64_t changed = 0;
    if (!pages_sane(d, first_page, count, seed))
        return -EINVAL;
    for (size_t page = first_page; page < first_page + count; page++)
        changed += is_own(d, page) && !holds_tags(d, page, seed);
    return changed;
}

unsigned svq_drv_given(const struct svq_drv *d)
{
    unsigned given = 0;
    for (unsigned i = 0; i < d->config.queues; i++)
        for (uint32_t head = 0; head < d->config.queue_size; head++)
            given += svq_load_u32(&d->queues[i].slots[head].given);
    return given;
}
