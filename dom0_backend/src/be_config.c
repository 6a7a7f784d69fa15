/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the device says about itself: configuration space (virtio 5.2.4) and feature bits (5.2.3). */
#include <errno.h>
#include <string.h>

#include "be_blk.h"
#include "be_error.h"

/*
 * Segments in a data request. The mediator turns a segment into up to three parts (a fragment, whole pages, a
 * fragment), and a shadow table has 512 entries: 126 segments, header and status always fit.
 */
enum { SEG_MAX = 126 };

/* Offsets in struct virtio_blk_config. */
enum {
    CAPACITY = 0,
    SIZE_MAX_AT = 8,
    SEG_MAX_AT = 12,
    BLK_SIZE = 20,
    TOPOLOGY = 24,
    NUM_QUEUES = 34,
    MAX_DISCARD_SECTORS = 36,
    MAX_DISCARD_SEG = 40,
    DISCARD_SECTOR_ALIGNMENT = 44,
    MAX_WRITE_ZEROES_SECTORS = 48,
    MAX_WRITE_ZEROES_SEG = 52,
    WRITE_ZEROES_MAY_UNMAP = 56,
};

static void put(uint8_t *config, size_t at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        config[at + i] = (uint8_t)(value >> (8 * i));
}

static uint64_t bit(int feature) { return 1ULL << feature; }

static uint32_t log2_of(uint32_t ratio) { return ratio > 1 ? 31 - (uint32_t)__builtin_clz(ratio) : 0; }

/*
 * Chooses limits so that any request within both fits: a segment that begins inside a page touches one page more than
 * its size, and header and status may need a page each.
 */
static uint64_t put_limits(uint16_t queue_size_max, uint8_t *config)
{
    uint32_t segments = queue_size_max - 2 < SEG_MAX ? queue_size_max - 2 : SEG_MAX;
    uint32_t pages = (SVQ_BE_REQ_PAGES_MAX - 1) / segments - 1;
    put(config, SIZE_MAX_AT, (uint64_t)pages * SVQ_PAGE_SIZE, 4);
    put(config, SEG_MAX_AT, segments, 4);
    return bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX);
}

static uint64_t put_topology(const struct svq_be_image_info *info, uint8_t *config)
{
    uint32_t min_io = info->min_io / info->logical_block;
    if (info->physical_block < info->logical_block)
        return 0;
    put(config, TOPOLOGY, log2_of(info->physical_block / info->logical_block), 1);
    put(config, TOPOLOGY + 1, info->align_offset / info->logical_block, 1);
    put(config, TOPOLOGY + 2, min_io < UINT16_MAX ? min_io : UINT16_MAX, 2);
    put(config, TOPOLOGY + 4, info->opt_io / info->logical_block, 4);
    return bit(VIRTIO_BLK_F_TOPOLOGY);
}

static uint64_t put_discard(const struct svq_be_image_info *info, uint8_t *config)
{
    uint32_t align = info->discard_align > info->logical_block ? info->discard_align : info->logical_block;
    put(config, MAX_DISCARD_SECTORS, SVQ_BE_RANGE_SECTORS_MAX, 4);
    put(config, MAX_DISCARD_SEG, SVQ_BE_RANGES_MAX, 4);
    put(config, DISCARD_SECTOR_ALIGNMENT, align / SVQ_BE_SECTOR, 4);
    return bit(VIRTIO_BLK_F_DISCARD);
}

int svq_be_config_space(const struct svq_be_image_info *info, uint16_t queues, uint16_t queue_size_max, uint8_t *config,
                        size_t config_bytes, uint64_t *features)
{
    uint32_t desc_pages, avail_pages, used_pages;
    if (queues == 0 || queues > SVQ_BE_QUEUES_MAX || config_bytes < SVQ_BE_CONFIG_BYTES || queue_size_max < 4 ||
        svq_be_ring_pages(queue_size_max, &desc_pages, &avail_pages, &used_pages))
        return svq_be_refuse(-EINVAL, "%u queues of %u descriptors: must be 1 to %d queues of 4 to %d, a power of two",
                             queues, queue_size_max, SVQ_BE_QUEUES_MAX, SVQ_BE_QUEUE_SIZE_MAX);
    memset(config, 0, SVQ_BE_CONFIG_BYTES);
    *features = bit(VIRTIO_F_INDIRECT_DESC) | bit(VIRTIO_F_EVENT_IDX) | bit(VIRTIO_F_VERSION_1) |
                bit(VIRTIO_F_ACCESS_PLATFORM) | bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH);
    put(config, CAPACITY, info->capacity / SVQ_BE_SECTOR, 8);
    *features |= put_limits(queue_size_max, config);
    put(config, BLK_SIZE, info->logical_block, 4);
    *features |= put_topology(info, config);
    if (queues > 1) {
        put(config, NUM_QUEUES, queues, 2);
        *features |= bit(VIRTIO_BLK_F_MQ);
    }
    if (info->read_only) {
        *features |= bit(VIRTIO_BLK_F_RO);
        return 0;
    }
    if (info->can_discard)
        *features |= put_discard(info, config);
    put(config, MAX_WRITE_ZEROES_SECTORS, SVQ_BE_RANGE_SECTORS_MAX, 4);
    put(config, MAX_WRITE_ZEROES_SEG, SVQ_BE_RANGES_MAX, 4);
    put(config, WRITE_ZEROES_MAY_UNMAP, info->can_discard, 1);
    *features |= bit(VIRTIO_BLK_F_WRITE_ZEROES);
    return 0;
}

int svq_be_ring_pages(uint16_t size, uint32_t *desc_pages, uint32_t *avail_pages, uint32_t *used_pages)
{
    if (size == 0 || size > SVQ_BE_QUEUE_SIZE_MAX || (size & (size - 1)))
        return svq_be_refuse(-EINVAL, "the size of a ring must be a power of two, at most %d, and not %u",
                             SVQ_BE_QUEUE_SIZE_MAX, size);
    *desc_pages = (uint32_t)svq_pages_for(vring_desc_bytes(size));
    *avail_pages = (uint32_t)svq_pages_for(vring_avail_bytes(size));
    *used_pages = (uint32_t)svq_pages_for(vring_used_bytes(size));
    return 0;
}
