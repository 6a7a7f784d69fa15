/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "trace.h"

#include <string.h>

#include "clock.h"
#include "part.h"

void svq_trace_set_every(struct svq_trace *trace, uint32_t every) { trace->every = trace->left = every; }

void svq_trace_add(struct svq_trace *trace, const struct svq_trace_entry *entry)
{
    uint64_t from[SVQ_TRACE_WORDS], number = trace->last + 1, *to = trace->word[number % SVQ_TRACE_ENTRIES];
    memcpy(from, entry, sizeof from);
    svq_store_u64(&to[0], 0);
    for (unsigned i = 1; i < SVQ_TRACE_WORDS; i++)
        svq_release_u64(&to[i], from[i]); /* whoever sees one of them sees that the number is gone */
    svq_release_u64(&to[0], number);
    svq_release_u64(&trace->last, number);
}

/* False: it is being written, or has been written again since `number`. */
static bool read_entry(const uint64_t *from, uint64_t number, struct svq_trace_entry *out)
{
    uint64_t word[SVQ_TRACE_WORDS];
    for (unsigned i = 0; i < SVQ_TRACE_WORDS; i++)
        word[i] = svq_acquire_u64(&from[i]);
    memcpy(out, word, sizeof word);
    return word[0] == number && svq_load_u64(&from[0]) == number;
}

int svq_trace_read(const struct svq_trace *trace, struct svq_trace_entry out[SVQ_TRACE_ENTRIES])
{
    uint64_t last = svq_acquire_u64(&trace->last);
    int count = 0;
    for (uint64_t number = last < SVQ_TRACE_ENTRIES ? 1 : last - SVQ_TRACE_ENTRIES + 1; number <= last; number++)
        count += read_entry(trace->word[number % SVQ_TRACE_ENTRIES], number, &out[count]);
    return count;
}

static uint16_t narrow(uint64_t n) { return n < UINT16_MAX ? (uint16_t)n : UINT16_MAX; }

/* Where the parts of a placed chain went. */
static void sum_up(struct svq_queue *q, struct svq_in_flight *in_flight, struct svq_trace_entry *entry)
{
    const struct svq_part *parts = svq_in_flight_parts(q, in_flight);
    uint64_t granted = 0, pages = 0, bytes = 0, held = 0;
    for (uint32_t i = 0; i < in_flight->part_count; i++) {
        bool is_granted = parts[i].where == SVQ_GRANTED;
        granted += is_granted;
        pages += is_granted ? svq_pages_touched(parts[i].gpa, parts[i].len) : 0;
        held += is_granted ? parts[i].held + parts[i].lost : 0;
        bytes += parts[i].len;
    }
    entry->parts = in_flight->part_count;
    entry->granted = narrow(granted);
    entry->copied = narrow(in_flight->part_count - granted);
    entry->pages = narrow(entry->event == SVQ_TRACE_HELD ? held : pages);
    entry->bytes = (uint32_t)bytes;
}

__attribute__((noinline, cold)) void svq_trace_note(struct svq_queue *q, enum svq_trace_event event, uint16_t head,
                                                    int code, struct svq_in_flight *in_flight, uint32_t used_length)
{
    struct svq_trace_entry entry = {
        .time_ns = svq_now_ns(), .code = code, .event = (uint16_t)event, .head = head, .used_length = used_length
    };
    if (in_flight) {
        sum_up(q, in_flight, &entry);
    } else if (event == SVQ_TRACE_PARKED) {
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < q->chain->count; i++)
            bytes += q->chain->segments[i].len;
        entry.parts = q->chain->count;
        entry.pages = narrow(q->chain->pages);
        entry.bytes = (uint32_t)bytes;
    }
    svq_trace_add(&q->trace, &entry);
}
