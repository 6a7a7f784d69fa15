/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every request type of the block device, through shadow rings, with window and pool memory. */
#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "be_blk.h"
#include "be_test.h"
#include "rig.h"

enum { SECTORS = 2048 };

static struct rig rig;

static uint8_t simple(uint32_t type, uint64_t sector, uint32_t len, bool writable, uint8_t **data)
{
    struct buf bufs[3] = {
        rig_header(&rig, type, sector),
        rig_window(&rig, 0, len, writable),
        rig_pool(&rig, 5, 1, true),
    };
    if (!writable)
        memset(bufs[1].va, 0xa5, len);
    else
        memset(bufs[1].va, 0xee, len);
    bufs[2].va[0] = 0xff;
    *data = bufs[1].va;
    return rig_do(&rig, bufs, 3);
}

TEST(read_write, "Reads and writes move the right bytes; the next read sees a write")
{
    uint8_t *data, back[8192];
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 64);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 3, 8192, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(data, 3 * 512, 8192));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 10, 8192, false, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(pread(rig.image_fd, back, sizeof back, 10 * 512), (long)sizeof back);
    REQUIRE(rig_all(back, sizeof back, 0xa5));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 10, 8192, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_all(data, 8192, 0xa5));
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    REQUIRE_EQUAL(fake_map_calls(FRONTEND), RIG_COPY_PAGES ? 0 : 3);
    REQUIRE_EQUAL(rig_stats(&rig).reads, 2);
    REQUIRE_EQUAL(rig_stats(&rig).read_bytes, 16384);
    REQUIRE_EQUAL(rig_stats(&rig).io_engine, SVQ_BE_ENGINE_URING);
    rig_close(&rig);
}

TEST(direct_device, "With direct I/O, requests may use memory at odd addresses all the same")
{
    struct buf bufs[3], written[3];
    rig_open(&rig, "/tmp", SECTORS, SVQ_BE_DIRECT_IO);
    rig_start(&rig, 64);
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_IN, 8);
    bufs[1] = rig_window(&rig, 1001, 300 * 512, true);
    bufs[2] = rig_pool(&rig, 5, 1, true);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(bufs[1].va, 8 * 512, 300 * 512));
    written[0] = rig_header(&rig, VIRTIO_BLK_T_OUT, 1000);
    written[1] = bufs[1];
    written[1].writable = false;
    written[2] = bufs[2];
    REQUIRE_EQUAL(rig_do(&rig, written, 3), VIRTIO_BLK_S_OK);
    memset(bufs[1].va, 0, 300 * 512);
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_IN, 1000);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 3), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(bufs[1].va, 8 * 512, 300 * 512));
    REQUIRE_EQUAL(rig_stats(&rig).bounced_ios, 3);
    rig_close(&rig);
}

TEST(bounds, "Only whole sectors inside the image are transferred")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 64);
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 0, 511, true, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE(rig_all(data, 511, 0));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 0, 513, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, SECTORS - 1, 1024, true, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, SECTORS, 512, true, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 1ULL << 55, 512, false, &data), VIRTIO_BLK_S_IOERR); /* * 512 is 2^64 */
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, SECTORS - 1, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(rig_stats(&rig).io_errors, 6);
    REQUIRE_EQUAL(rig_stats(&rig).image_errors, 0);
    rig_close(&rig);
}

TEST(other_types, "Flush, identity and unknown types return what virtio says")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 64);
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_FLUSH, 0, 1, false, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_GET_ID, 0, 20, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(memcmp(data, "rig-serial\0\0\0\0\0\0\0\0\0", 20) == 0);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_GET_ID, 0, 30, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_all(data + 20, 10, 0));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_GET_ID, 0, 19, true, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(16, 0, 100, true, &data), VIRTIO_BLK_S_UNSUPP);
    REQUIRE(rig_all(data, 100, 0)); /* used.len says that they were written, so they must be */
    REQUIRE_EQUAL(simple(UINT32_MAX, 0, 100, false, &data), VIRTIO_BLK_S_UNSUPP);
    REQUIRE_EQUAL(rig_stats(&rig).unsupported, 2);
    REQUIRE_EQUAL(rig_stats(&rig).flushes, 1);
    rig_close(&rig);
}

static int syncs_to_fail;

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

/* As Linux does: reports a lost write once; the next call succeeds. */
int __wrap_fdatasync(int fd)
{
    if (syncs_to_fail == 0)
        return __real_fdatasync(fd);
    syncs_to_fail--;
    errno = EIO;
    return -1;
}

static void open_synchronous(uint64_t features_off)
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.force_sync = 1;
    rig.config.features &= ~features_off;
    rig_start(&rig, 64);
}

static void open_image_again(unsigned int flags)
{
    svq_be_destroy(rig.dev);
    svq_be_close_image(rig.image);
    REQUIRE_EQUAL(svq_be_open_image(rig.path, flags, &rig.image, &rig.info), 0);
    rig_start(&rig, 64);
    rig.q[0].used_seen = 0;
}

TEST(lost_write, "After a failed flush every later one fails, until the image is opened without SVQ_BE_FLUSH_FAILED")
{
    open_synchronous(0);
    struct pollfd told = (struct pollfd){ .fd = svq_be_error_fd(rig.dev), .events = POLLIN };
    REQUIRE_EQUAL(poll(&told, 1, 0), 0);
    syncs_to_fail = 1;
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_FLUSH, 0, 1, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(poll(&told, 1, 20000), 1);
    REQUIRE_EQUAL(svq_be_flush_failed(rig.image), 1);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_FLUSH, 0, 1, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 8, 512, false, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 8, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(rig_stats(&rig).failed_flushes, 2);
    open_image_again(SVQ_BE_FLUSH_FAILED);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_FLUSH, 0, 1, false, &data), VIRTIO_BLK_S_IOERR);
    open_image_again(0);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_FLUSH, 0, 1, false, &data), VIRTIO_BLK_S_OK);
    rig_close(&rig);
}

TEST(lost_write_together, "A flush in progress while another one fails does not succeed")
{
    open_synchronous(0);
    svq_be_hold(rig.dev, 1);
    struct buf bufs[2][2];
    for (int i = 0; i < 2; i++) {
        bufs[i][0] = rig_header(&rig, VIRTIO_BLK_T_FLUSH, 0);
        bufs[i][1] = rig_pool(&rig, 5, 1, true);
        rig_offer(&rig, 0, bufs[i], 2);
    }
    rig_kick(&rig, 0);
    while (rig_stats(&rig).held_requests < 2)
        svq_be_live_parts(rig.dev, NULL, 0);
    syncs_to_fail = 1;
    svq_be_hold(rig.dev, 0);
    for (int i = 0; i < 2; i++) {
        rig_wait(&rig, 0);
        REQUIRE_EQUAL(bufs[i][1].va[0], VIRTIO_BLK_S_IOERR);
    }
    rig_close(&rig);
}

TEST(lost_write_through, "Without FLUSH, no write succeeds once the flush after one has failed")
{
    open_synchronous(1ULL << VIRTIO_BLK_F_FLUSH);
    syncs_to_fail = 1;
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 8, 512, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 8, 512, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 8, 512, true, &data), VIRTIO_BLK_S_OK);
    rig_close(&rig);
}

TEST(framing, "Header, data and status may be split anywhere (virtio 2.7.4)")
{
    static const uint32_t cuts[] = { 1, 2, 3, 7, 15, 16, 17, 100, 511, 4096 };
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 64);
    uint32_t count;
    for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
        struct {
            uint32_t type, reserved;
            uint64_t sector;
            uint8_t data[512];
        } out = { .type = VIRTIO_BLK_T_OUT, .sector = 20 + c };
        uint8_t in[513];
        struct buf bufs[512], header = rig_header(&rig, VIRTIO_BLK_T_IN, 20 + c);
        uint32_t cut = cuts[c] < 2 ? 2 : cuts[c];

        count = 0;
        memset(out.data, (int)(c + 1), 512);
        for (uint32_t at = 0; at < 528; at += cut) { /* header and data in pieces, from window and pool */
            uint32_t len = 528 - at < cut ? 528 - at : cut;
            bool pool = count % 2;

            bufs[count] = pool ? rig_pool(&rig, at % 4096, len, false) : rig_window(&rig, 4090, len, false);
            memcpy(bufs[count++].va, (uint8_t *)&out + at, len);
        }
        bufs[count++] = rig_pool(&rig, 0, 1, true);
        REQUIRE_EQUAL(rig_do(&rig, bufs, count), VIRTIO_BLK_S_OK);

        count = 0;
        bufs[count++] = header;
        for (uint32_t at = 0; at < 513; at += cut) /* data and status in pieces */
            bufs[count++] = rig_window(&rig, at % 4096, 513 - at < cut ? 513 - at : cut, true);
        REQUIRE_EQUAL(rig_do(&rig, bufs, count), VIRTIO_BLK_S_OK);
        for (uint32_t i = 1, at = 0; i < count; at += bufs[i++].len)
            memcpy(in + at, bufs[i].va, bufs[i].len);
        REQUIRE(rig_all(in, 512, (uint8_t)(c + 1)) && in[512] == VIRTIO_BLK_S_OK);
    }
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    rig_close(&rig);
}

TEST(malformed, "Missing headers get IOERR; without a writable byte the length is 0")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 64);
    struct buf status = rig_pool(&rig, 0, 8, true);
    rig_offer_direct(&rig, 0, &status, 1); /* no header at all */
    rig_kick(&rig, 0);
    REQUIRE_EQUAL(rig_wait(&rig, 0).len, 8);
    REQUIRE_EQUAL(status.va[7], VIRTIO_BLK_S_IOERR);
    struct buf bufs[2];
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_FLUSH, 0);
    bufs[0].len = 15;
    bufs[1] = rig_pool(&rig, 0, 1, true);
    rig_offer_direct(&rig, 0, bufs, 2);
    rig_kick(&rig, 0);
    REQUIRE_EQUAL(rig_wait(&rig, 0).len, 1);
    REQUIRE_EQUAL(bufs[1].va[0], VIRTIO_BLK_S_IOERR);
    bufs[0].len = 16;
    rig_offer_direct(&rig, 0, bufs, 1); /* no room for a status */
    rig_kick(&rig, 0);
    REQUIRE_EQUAL(rig_wait(&rig, 0).len, 0);
    REQUIRE_EQUAL(rig_stats(&rig).no_status, 1);
    rig_close(&rig);
}

struct range {
    uint64_t sector;
    uint32_t count;
    uint32_t flags;
};

static uint8_t ranges(uint32_t type, const struct range *range, uint32_t bytes)
{
    struct buf bufs[3] = {
        rig_header(&rig, type, 0),
        rig_pool(&rig, 16, bytes, false),
        rig_pool(&rig, 5, 1, true),
    };
    memcpy(bufs[1].va, range, bytes);
    return rig_do(&rig, bufs, 3);
}

TEST(ranges_checked, "Discard and write zeroes check every range before they act on any")
{
    const struct range good[3] = { { 8, 16, 0 }, { 100, 0, 0 }, { 200, 8, 0 } };
    const struct range unmap[2] = { { 400, 64, 1 }, { 500, 4, 0 } };
    const struct range reserved = { 8, 8, 2 }, outside = { SECTORS - 1, 2, 0 }, wrap = { UINT64_MAX, 8, 0 };
    const struct range huge = { 0, SVQ_BE_RANGE_SECTORS_MAX + 1, 0 };
    struct range many[SVQ_BE_RANGES_MAX + 1] = { { 0 } };
    rig_open(&rig, "/tmp", SECTORS, 0);
    REQUIRE(rig.info.can_discard);
    rig_start(&rig, 64);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_WRITE_ZEROES, good, 48), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_WRITE_ZEROES, unmap, 32), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_DISCARD, good, 48), VIRTIO_BLK_S_OK);
    for (uint32_t type = VIRTIO_BLK_T_DISCARD; type <= VIRTIO_BLK_T_WRITE_ZEROES; type += 2) {
        REQUIRE_EQUAL(ranges(type, &reserved, 16), VIRTIO_BLK_S_UNSUPP);
        REQUIRE_EQUAL(ranges(type, &outside, 16), VIRTIO_BLK_S_IOERR);
        REQUIRE_EQUAL(ranges(type, &wrap, 16), VIRTIO_BLK_S_IOERR);
        REQUIRE_EQUAL(ranges(type, &huge, 16), VIRTIO_BLK_S_IOERR);
        REQUIRE_EQUAL(ranges(type, good, 17), VIRTIO_BLK_S_IOERR);
        REQUIRE_EQUAL(ranges(type, many, sizeof many), VIRTIO_BLK_S_IOERR);
        REQUIRE_EQUAL(ranges(type, many, sizeof many - 16), VIRTIO_BLK_S_OK); /* as many as advertised */
    }
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_DISCARD, unmap, 16), VIRTIO_BLK_S_UNSUPP);
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 8, 8192, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_all(data, 8192, 0));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 400, 64 * 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_all(data, 64 * 512, 0));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 464, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(data, 464 * 512, 512));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 7, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(data, 7 * 512, 512));
    rig_close(&rig);
}

TEST(discard_rounded, "A discard that is not aligned to the image's blocks discards the whole ones")
{
    static const struct {
        struct range asked;
        uint64_t offset, length; /* length 0: nothing is left of it */
    } cases[] = {
        { { 8, 16, 0 }, 4096, 8192 }, { { 7, 16, 0 }, 4096, 4096 }, { { 1, 22, 0 }, 4096, 4096 },
        { { 1, 7, 0 }, 0, 0 },        { { 9, 13, 0 }, 0, 0 },
    };
    static atomic_bool flush_failed;
    static struct svq_be_req req;
    struct svq_be_stats stats = { 0 };
    const struct svq_be_blk blk = { .capacity = 1 << 20,
                                    .align = 512,
                                    .block = 4096,
                                    .features = UINT64_MAX,
                                    .flush_failed = &flush_failed,
                                    .stats = &stats };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[32] = { VIRTIO_BLK_T_DISCARD };
        struct iovec iov = { bytes, sizeof bytes };
        memcpy(bytes + 16, &cases[i].asked, 16);
        svq_be_span_init(&req.out, &iov, 1);
        uint8_t status;
        req.status_at = &status;
        REQUIRE_EQUAL(svq_be_blk_begin(&blk, &req), cases[i].length > 0);
        if (cases[i].length > 0)
            REQUIRE(req.op.offset == cases[i].offset && req.op.left == cases[i].length);
        else
            REQUIRE_EQUAL(req.status, VIRTIO_BLK_S_OK);
    }
}

TEST(zero_fallback, "Write zeroes works for long ranges on a file system without ZERO_RANGE")
{
    const struct range range = { 1, 1500, 0 };
    rig_open(&rig, "/dev/shm", SECTORS, 0);
    rig_start(&rig, 64);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_OK);
    uint8_t back[1500 * 512 + 1024];
    REQUIRE_EQUAL(pread(rig.image_fd, back, sizeof back, 0), (long)sizeof back);
    REQUIRE(rig_holds_image(back, 0, 512) && rig_holds_image(back + 1501 * 512, 1501 * 512, 512));
    REQUIRE(rig_all(back + 512, 1500 * 512, 0));
    rig_close(&rig);
}

TEST(features, "Features that were not accepted are refused; without FLUSH, writes are write-through")
{
    const struct range range = { 8, 8, 0 };
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig.config.features &= ~(1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES);
    rig.config.features &= ~(1ULL << VIRTIO_BLK_F_FLUSH); /* then we flush after every write */
    rig_start(&rig, 64);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_DISCARD, &range, 16), VIRTIO_BLK_S_UNSUPP);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_UNSUPP);
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 8, 512, false, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 8, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_all(data, 512, 0xa5));
    rig_close(&rig);
}

TEST(read_only, "A read-only device returns IOERR for everything that would write")
{
    const struct range range = { 8, 8, 0 };
    rig_open(&rig, "/tmp", SECTORS, SVQ_BE_READ_ONLY);
    REQUIRE(rig.config.features >> VIRTIO_BLK_F_RO & 1);
    REQUIRE(!(rig.config.features >> VIRTIO_BLK_F_DISCARD & 1));
    rig_start(&rig, 64);
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_OUT, 8, 512, false, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_WRITE_ZEROES, &range, 16), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(ranges(VIRTIO_BLK_T_DISCARD, &range, 16), VIRTIO_BLK_S_IOERR);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_FLUSH, 0, 1, false, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 8, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE(rig_holds_image(data, 8 * 512, 512));
    rig_close(&rig);
}

TEST(truncated, "On a truncated image, single requests fail and leak nothing")
{
    rig_open(&rig, "/tmp", SECTORS, 0);
    rig_start(&rig, 64);
    REQUIRE_EQUAL(ftruncate(rig.image_fd, 100 * 512 + 300), 0);
    uint8_t *data;
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 99, 2048, true, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE(rig_holds_image(data, 99 * 512, 812));
    REQUIRE(rig_all(data + 812, 2048 - 812, 0));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 1000, 512, true, &data), VIRTIO_BLK_S_IOERR);
    REQUIRE(rig_all(data, 512, 0));
    REQUIRE_EQUAL(simple(VIRTIO_BLK_T_IN, 99, 512, true, &data), VIRTIO_BLK_S_OK);
    REQUIRE_EQUAL(rig_stats(&rig).image_errors, 2);
    REQUIRE_EQUAL(rig_stats(&rig).short_ios, 1);
    rig_close(&rig);
}

TEST(largest, "The largest request that the configuration space allows works, wherever its segments begin")
{
    uint32_t size_max, seg_max;
    rig_open(&rig, "/tmp", 16384, 0);
    rig_start(&rig, 256);
    uint8_t config[SVQ_BE_CONFIG_BYTES];
    uint64_t features;
    REQUIRE_EQUAL(svq_be_config_space(&rig.info, 1, 256, config, sizeof config, &features), 0);
    memcpy(&size_max, config + 8, 4);
    memcpy(&seg_max, config + 12, 4);
    if (!(features >> VIRTIO_BLK_F_SIZE_MAX & 1)) /* nothing forbids this request */
        size_max = (uint32_t)(rig.info.capacity / seg_max / 512 * 512);
    struct buf bufs[130];
    for (int write = 0; write <= 1; write++) {
        bufs[0] = rig_header(&rig, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0);
        for (uint32_t i = 1; i <= seg_max; i++)
            bufs[i] = rig_window(&rig, 3584, size_max, !write);
        bufs[seg_max + 1] = rig_pool(&rig, 7, 1, true);
        REQUIRE_EQUAL(rig_do(&rig, bufs, seg_max + 2), VIRTIO_BLK_S_OK);
        REQUIRE(write || rig_holds_image(bufs[seg_max].va, (uint64_t)(seg_max - 1) * size_max, size_max));
    }
    rig_close(&rig);
}

TEST(many_pieces, "A request with more pieces than a system call takes works")
{
    rig_open(&rig, "/tmp", 16384, 0);
    rig_start(&rig, 256);
    struct buf bufs[130];
    bufs[0] = rig_header(&rig, VIRTIO_BLK_T_IN, 0);
    for (uint32_t i = 1; i <= 126; i++)
        bufs[i] = rig_pool(&rig, 512, 16 * 4096 - 4096, true);
    bufs[127] = rig_window(&rig, 0, 512, true);
    bufs[128] = rig_pool(&rig, 7, 1, true);
    REQUIRE_EQUAL(rig_do(&rig, bufs, 129), VIRTIO_BLK_S_OK);
    for (uint32_t i = 1, at = 0; i <= 127; at += bufs[i++].len)
        REQUIRE(rig_holds_image(bufs[i].va, at, bufs[i].len));
    REQUIRE_EQUAL(fake_mapped(FRONTEND), 0);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
