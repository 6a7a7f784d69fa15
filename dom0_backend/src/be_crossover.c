/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "be_crossover.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "barrier.h"
#include "be_copy.h"
#include "clock.h"

enum {
    ROUNDS = 16,
    BUDGET_NS = 15 * 1000 * 1000, /* no further round begins after this; one takes some 0.1 ms, emulated */
    PIECES = 16,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct svq_be_crossover found; /* under lock, like the next */
static bool is_found;

static int map_once(struct svq_hv *hv, uint16_t domid, uint32_t gref, uint64_t *ns)
{
    uint64_t start = svq_now_ns();
    void *va;
    int rc = svq_hv_map_grants(hv, domid, &gref, 1, 0, &va);
    if (rc)
        return rc;
    (void)svq_load_u64(va); /* as a request does: a page that was touched is flushed */
    rc = svq_hv_unmap_grants(hv, va, 1);
    *ns = svq_now_ns() - start;
    return rc;
}

static int copy_once(struct svq_hv *hv, uint16_t domid, uint32_t gref, uint8_t *to, uint32_t count, uint64_t *ns)
{
    struct svq_hv_copy pieces[PIECES];
    for (uint32_t i = 0; i < count; i++)
        pieces[i] = (struct svq_hv_copy){ .local = to + (size_t)i * SVQ_PAGE_SIZE,
                                          .gref = gref,
                                          .length = SVQ_PAGE_SIZE };
    uint64_t start = svq_now_ns();
    int rc = svq_hv_copy_grants(hv, domid, pieces, count);
    *ns = svq_now_ns() - start;
    return rc ? rc : pieces[0].result;
}

int svq_be_crossover_try(struct svq_hv *hv, uint16_t domid, uint32_t gref)
{
    uint8_t to[sizeof(uint64_t)];
    struct svq_hv_copy piece = { .local = to, .gref = gref, .length = sizeof to };
    int rc = svq_hv_copy_grants(hv, domid, &piece, 1);
    return rc ? rc : piece.result;
}

static void keep_least(uint64_t *least, uint64_t ns)
{
    if (ns < *least)
        *least = ns;
}

static int measure_round(struct svq_hv *hv, uint16_t domid, uint32_t gref, uint8_t *to, struct svq_be_crossover *least)
{
    uint64_t map_ns, copy_ns, copy_16_ns;
    int rc = map_once(hv, domid, gref, &map_ns);
    if (rc == 0)
        rc = copy_once(hv, domid, gref, to, 1, &copy_ns);
    if (rc == 0)
        rc = copy_once(hv, domid, gref, to, PIECES, &copy_16_ns);
    if (rc)
        return rc;
    keep_least(&least->map_ns, map_ns);
    keep_least(&least->copy_ns, copy_ns);
    keep_least(&least->copy_16_ns, copy_16_ns);
    return 0;
}

int svq_be_crossover_measure(struct svq_hv *hv, uint16_t domid, uint32_t gref, struct svq_be_crossover *out)
{
    const size_t bytes = (size_t)PIECES * SVQ_PAGE_SIZE;
    uint64_t start = svq_now_ns();
    void *to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    int rc = to == MAP_FAILED ? -ENOMEM : 0;
    *out = (struct svq_be_crossover){ .map_ns = UINT64_MAX, .copy_ns = UINT64_MAX, .copy_16_ns = UINT64_MAX };
    for (int i = 0; i < ROUNDS && rc == 0 && svq_now_ns() - start < BUDGET_NS; i++)
        rc = measure_round(hv, domid, gref, to, out);
    if (to != MAP_FAILED)
        munmap(to, bytes);
    if (rc)
        *out = (struct svq_be_crossover){ .error = rc };
    else
        out->pages = svq_be_crossover_pages(out->map_ns, out->copy_ns, out->copy_16_ns);
    return rc;
}

int svq_be_crossover_get(struct svq_hv *hv, uint16_t domid, uint32_t gref, struct svq_be_crossover *out)
{
    pthread_mutex_lock(&lock);
    int rc = is_found ? found.error : svq_be_crossover_measure(hv, domid, gref, &found);
    is_found = rc == 0 || rc == -ENOSYS; /* other failures are this mediator's, or pass */
    *out = found;
    pthread_mutex_unlock(&lock);
    return rc;
}

void svq_be_crossover_forget(void)
{
    pthread_mutex_lock(&lock);
    is_found = false;
    pthread_mutex_unlock(&lock);
}

/*
 * A copy costs its call and so much for each page. A mapping of more pages costs more than one of one page, so taking
 * the price of one leans towards mapping.
 */
uint32_t svq_be_crossover_pages(uint64_t map_ns, uint64_t copy_ns, uint64_t copy_16_ns)
{
    uint64_t more_ns = copy_16_ns > copy_ns ? (copy_16_ns - copy_ns) / (PIECES - 1) : 0;
    uint32_t pages = 0;
    while (pages < SVQ_BE_COPY_PAGES_MAX && copy_ns + pages * more_ns < map_ns)
        pages++;
    return pages;
}
