/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * After set-up a request allocates and maps nothing: counted at the entry to the C library. Built without sanitizers.
 */
#include <stddef.h>
#include <sys/mman.h>

#include "rig_peers.h"
#include "svq_test.h"

enum { RAM = 4096, WARM_UP = 1000, CHAINS = 100000, DEPTH = 16 };

static uint64_t calls; /* atomic */

/* The C library's own names for them; every allocation of this program comes through here. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *old);

static void note(void) { __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED); }

void *malloc(size_t size)
{
    note();
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    note();
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    note();
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    note();
    return __libc_memalign(align, size);
}

void free(void *old)
{
    note();
    __libc_free(old);
}

void *__real_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    note();
    return __real_mmap(at, len, protection, flags, fd, offset);
}

int __real_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len);
int __wrap_munmap(void *at, size_t len)
{
    note();
    return __real_munmap(at, len);
}

static uint64_t counted(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }

static void by_hand(struct rig *rig, unsigned chains)
{
    for (unsigned done = 0; done < chains; done += DEPTH) {
        for (uint16_t k = 0; k < DEPTH; k++) {
            rig_blk(rig, (uint16_t)(k * 3), (done + k) * 2 % 1024, 2, k % 2 ? SEG_READ : SEG_WRITE);
            rig_offer(rig, (uint16_t)(k * 3));
        }
        if (rig_forward(rig) != DEPTH)
            abort();
        for (int head; (head = rig_take(rig)) >= 0;)
            rig_give(rig, (uint32_t)head, 1);
        if (rig_complete(rig) != DEPTH)
            abort();
        while (rig_reap(rig, NULL) >= 0)
            ;
    }
}

TEST(by_hand_passes,
     "100,000 virtio-blk chains through the engine allocate, free and map nothing, in any placement and window")
{
    static struct rig rig;
    for (int variant = 0; variant < 6; variant++) {
        rig_open(&rig,
                 &(struct rig_config){ .ram_pages = RAM, .placement = variant % 3, .dynamic_window = variant / 3 });
        by_hand(&rig, WARM_UP);
        uint64_t before = counted(), hypercalls = rig_counters(rig.mediator).hypercalls;
        CHECK(before > 0); /* so we counted the set-up */
        by_hand(&rig, CHAINS);
        CHECK_EQUAL(counted() - before, 0);
        CHECK_EQUAL(rig_counters(rig.mediator).hypercalls - hypercalls, 0);
        rig_close(&rig);
    }
}

static void by_worker(struct rig *rig, unsigned chains)
{
    for (unsigned done = 0; done < chains; done += DEPTH) {
        uint16_t old = rig->q[0].avail_idx;
        for (uint16_t k = 0; k < DEPTH; k++) {
            rig_blk(rig, (uint16_t)(k * 3), (done + k) * 2 % 1024, 2, SEG_WRITE);
            driver_offer(rig, 0, (uint16_t)(k * 3));
        }
        driver_kick(rig, 0, old);
        for (unsigned back = 0; back < DEPTH;) {
            if (driver_reap(rig, 0) >= 0)
                back++;
            else if (!driver_wait(rig, 0))
                abort();
        }
    }
}

TEST(by_worker_thread, "A worker thread allocates and maps nothing either, even for events")
{
    static struct rig rig;
    rig_open(&rig, &(struct rig_config){
                       .ram_pages = RAM, .with_worker = 1, .worker_config = { .poll_us_max = 20, .cpu = -1 } });
    struct backend backend;
    backend_start(&backend, &rig, 1);
    by_worker(&rig, WARM_UP);
    uint64_t before = counted();
    by_worker(&rig, CHAINS / 4);
    CHECK_EQUAL(counted() - before, 0);
    backend_stop(&backend);
    rig_close(&rig);
}

SVQ_TEST_MAIN()
