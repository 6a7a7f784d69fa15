/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "drv_tag.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "drv_priv.h"

/*
 * magic:32, offset:16, seed:16, gfn:40, check:24. The check makes a false match in unrelated memory practically
 * impossible: 56 bits must match by chance.
 */
enum {
    TAG_MAGIC = 0x54715653, /* "SVqT" */
    TAG_GFN_BITS = 40,
};

struct tag {
    uint32_t magic;
    uint16_t offset;
    uint16_t seed;
    uint64_t gfn_and_check;
};

_Static_assert(sizeof(struct tag) == SVQ_TAG_BYTES, "a tag is 16 bytes");

static uint64_t tag_check(uint64_t gfn, uint32_t offset, uint16_t seed)
{
    uint64_t x = (gfn << 32 ^ (uint64_t)seed << 16 ^ offset) + 0x9e3779b97f4a7c15ULL;
    x = (x ^ x >> 30 ^ gfn >> 32) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x >> TAG_GFN_BITS;
}

void svq_tag_write(void *bytes, uint64_t gfn, uint32_t offset, uint16_t seed)
{
    struct tag tag = { .magic = TAG_MAGIC, .offset = (uint16_t)offset, .seed = seed };
    tag.gfn_and_check = gfn | tag_check(gfn, offset, seed) << TAG_GFN_BITS;
    memcpy(bytes, &tag, sizeof tag);
}

int svq_tag_at(const void *bytes, uint64_t *gfn, uint32_t *offset)
{
    struct tag tag;
    memcpy(&tag, bytes, sizeof tag);
    if (tag.magic != TAG_MAGIC || tag.offset >= SVQ_PAGE_SIZE || tag.offset % SVQ_TAG_BYTES)
        return -ENOENT;
    uint64_t tag_gfn = tag.gfn_and_check & ((1ULL << TAG_GFN_BITS) - 1);
    if (tag.gfn_and_check >> TAG_GFN_BITS != tag_check(tag_gfn, tag.offset, tag.seed))
        return -ENOENT;
    *gfn = tag_gfn;
    *offset = tag.offset;
    return tag.seed;
}

int svq_tag_find(const void *bytes, size_t len, size_t *at, uint64_t *gfn, uint32_t *offset)
{
    const uint8_t *p = bytes;
    const uint8_t first = TAG_MAGIC & 0xff;
    size_t i = *at;
    while (len >= SVQ_TAG_BYTES && i <= len - SVQ_TAG_BYTES) {
        const uint8_t *hit = memchr(p + i, first, len - SVQ_TAG_BYTES - i + 1);
        if (!hit)
            break;
        i = (size_t)(hit - p);
        int seed = svq_tag_at(hit, gfn, offset);
        if (seed >= 0) {
            *at = i;
            return seed;
        }
        i++;
    }
    return -ENOENT;
}

int svq_drv_fill_tags(struct svq_drv *d, size_t first_page, size_t count, unsigned seed)
{
    if (seed > UINT16_MAX || first_page > d->mem.pages || count > d->mem.pages - first_page)
        return -EINVAL;
    for (size_t page = first_page; page < first_page + count; page++)
        for (uint32_t offset = 0; offset < SVQ_PAGE_SIZE; offset += SVQ_TAG_BYTES)
            svq_tag_write(d->mem.va + page * SVQ_PAGE_SIZE + offset, d->mem.gfns[page], offset, (uint16_t)seed);
    return 0;
}
