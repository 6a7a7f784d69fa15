/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_span.h"

#include <string.h>

void svq_be_span_init(struct svq_be_span *span, struct iovec *iov, uint32_t count)
{
    span->iov = iov;
    span->count = count;
    span->left = 0;
    for (uint32_t i = 0; i < count; i++)
        span->left += iov[i].iov_len;
}

void svq_be_span_skip(struct svq_be_span *span, uint64_t n)
{
    while (n > 0 && span->count > 0) {
        size_t here = span->iov->iov_len;
        size_t take = n < here ? (size_t)n : here;
        span->iov->iov_base = (uint8_t *)span->iov->iov_base + take;
        span->iov->iov_len -= take;
        span->left -= take;
        n -= take;
        if (span->iov->iov_len == 0) {
            span->iov++;
            span->count--;
        }
    }
}

/* Exactly one of `to` and `from` is given; neither: zeros. */
static size_t move(struct svq_be_span *span, uint8_t *to, const uint8_t *from, size_t n)
{
    size_t done = 0;
    while (done < n && span->count > 0) {
        size_t take = span->iov->iov_len;
        if (take > n - done)
            take = n - done;
        if (take > 0 && to)
            memcpy(to + done, span->iov->iov_base, take);
        else if (take > 0 && from)
            memcpy(span->iov->iov_base, from + done, take);
        else if (take > 0)
            memset(span->iov->iov_base, 0, take);
        done += take;
        if (take == span->iov->iov_len) {
            span->left -= take;
            span->iov++;
            span->count--;
        } else {
            svq_be_span_skip(span, take);
        }
    }
    return done;
}

size_t svq_be_span_read(struct svq_be_span *span, void *to, size_t n) { return move(span, to, NULL, n); }

size_t svq_be_span_write(struct svq_be_span *span, const void *from, size_t n) { return move(span, NULL, from, n); }

void svq_be_span_zero(struct svq_be_span *span) { move(span, NULL, NULL, (size_t)span->left); }

uint8_t *svq_be_span_cut_last(struct svq_be_span *span)
{
    while (span->count > 0) {
        struct iovec *last = &span->iov[span->count - 1];
        if (last->iov_len > 0) {
            uint8_t *byte = (uint8_t *)last->iov_base + last->iov_len - 1;
            last->iov_len--;
            span->left--;
            if (last->iov_len == 0)
                span->count--;
            return byte;
        }
        span->count--;
    }
    return NULL;
}
