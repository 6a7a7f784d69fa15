/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A span: a list of memory pieces seen as one run of bytes, consumed from the front. No code above this sees how a
 * request is framed (virtio 2.7.4: assume nothing).
 */
#ifndef SVQ_BE_SPAN_H
#define SVQ_BE_SPAN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct svq_be_span {
    struct iovec *iov; /* changed in place as bytes are consumed */
    uint32_t count;
    uint64_t left; /* bytes in iov[0..count) */
};

void svq_be_span_init(struct svq_be_span *span, struct iovec *iov, uint32_t count);

/* Skips n bytes, at most all that are left. */
void svq_be_span_skip(struct svq_be_span *span, uint64_t n);

/* Copies up to n bytes out of (read) or into (write) the memory and skips them. Returns how many. */
size_t svq_be_span_read(struct svq_be_span *span, void *to, size_t n);
size_t svq_be_span_write(struct svq_be_span *span, const void *from, size_t n);

/* Fills all that is left with zeros and skips it. */
void svq_be_span_zero(struct svq_be_span *span);

/* Cuts the last byte off and returns where it is; NULL if the span is empty. */
uint8_t *svq_be_span_cut_last(struct svq_be_span *span);

#endif
