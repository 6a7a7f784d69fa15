/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "part.h"

/* Ends page `i`, for the first time or again. After a fight its entry may look as it did at first. */
static enum svq_end end_page(struct svq_queue *q, const struct svq_part *part, uint32_t i)
{
    if (!part->held || part->fought)
        return svq_end_page(q, part, i);
    return svq_entry_end_held(svq_window_entry(q->window, part->ref + i), svq_part_grant(q, part, i));
}

__attribute__((noinline)) unsigned svq_end_grants(struct svq_queue *q, struct svq_part *part, int *code)
{
    unsigned held = 0, ended = 0, fought = 0, expected = part->held ? part->held : part->pages;
    for (uint32_t i = 0; i < part->pages; i++) {
        enum svq_end outcome = end_page(q, part, i);
        ended += outcome == SVQ_ENDED;
        held += outcome == SVQ_HELD;
        fought += outcome == SVQ_FOUGHT;
    }
    part->fought = fought != 0;
    held += fought;
    /* Only our own compare-and-swap removes an entry: where one is missing, the frontend wrote there. */
    unsigned tampered = expected > held + ended ? expected - held - ended : 0;
    if (svq_unlikely(tampered && q->window->config.guarded))
        part->lost = (part->lost + tampered) & 0x7fff;
    q->tally.grants_ended += expected > held ? expected - held : 0;
    if (!part->held)
        svq_count(&q->stats.held, held);
    if (svq_unlikely(held || tampered))
        *code = held ? SVQ_E_GRANT_BUSY : SVQ_E_GRANT_TAMPERED;
    part->held = (uint16_t)held;
    part->pages = held ? part->pages : 0;
    return held + part->lost;
}

unsigned svq_unplace_chain(struct svq_queue *q, struct svq_in_flight *entry, int *code)
{
    struct svq_part *parts = svq_in_flight_parts(q, entry);
    unsigned held = 0;
    for (uint32_t i = 0; i < entry->part_count; i++) {
        struct svq_part *part = &parts[i];
        if (part->where == SVQ_GRANTED) {
            held += svq_end_grants(q, part, code);
        } else {
            svq_part_give_slot(q, part);
            part->where = SVQ_GRANTED; /* nothing is left of it */
            part->pages = part->held = part->lost = part->fought = 0;
        }
    }
    if (svq_likely(!held))
        svq_give_block(q, entry);
    return held;
}

bool svq_lack_is_met(const struct svq_queue *q)
{
    bool block = q->lack.parts == 0;
    for (int c = 0; c < SVQ_BLOCK_CLASSES; c++)
        block = block || (q->lack.parts <= q->blocks[c].parts_per_block && q->blocks[c].tables.free_count);
    return block && q->bounce.pool[SVQ_PAGE_READABLE].free_count >= q->lack.slots[0] &&
           q->bounce.pool[SVQ_PAGE_WRITABLE].free_count >= q->lack.slots[1];
}
