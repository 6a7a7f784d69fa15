/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All ordering of ring memory lives here. Code touches a word that another domain can write only through these
 * functions, once, into a local: so the compiler can neither reload nor tear it (XSA-155).
 *
 * Names follow the C11 model. svq_load_*: relaxed; svq_acquire_*: what the peer wrote before its release is visible
 * after it; svq_release_*: what we wrote before is visible to whoever acquires it; svq_full_fence: a store before it is
 * ordered with a load after it (needed once per suppression handshake, virtio 2.7.7.1 and 2.7.10.1).
 */
#ifndef SVQ_BARRIER_H
#define SVQ_BARRIER_H

#include <stdbool.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "virtio 1.x rings are little-endian; this code has only been written for little-endian machines"
#endif

#define SVQ_DEFINE_SHARED_ACCESS(bits)                                                                                 \
    static inline uint##bits##_t svq_load_u##bits(const uint##bits##_t *p)                                             \
    {                                                                                                                  \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                   \
    }                                                                                                                  \
    static inline void svq_store_u##bits(uint##bits##_t *p, uint##bits##_t v)                                          \
    {                                                                                                                  \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t svq_acquire_u##bits(const uint##bits##_t *p)                                          \
    {                                                                                                                  \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                                                   \
    }                                                                                                                  \
    static inline void svq_release_u##bits(uint##bits##_t *p, uint##bits##_t v)                                        \
    {                                                                                                                  \
        __atomic_store_n(p, v, __ATOMIC_RELEASE);                                                                      \
    }                                                                                                                  \
    /* Replaces *p by `desired` if it still equals *expected; else *expected becomes *p. */                            \
    static inline bool svq_cas_u##bits(uint##bits##_t *p, uint##bits##_t *expected, uint##bits##_t desired)            \
    {                                                                                                                  \
        return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);           \
    }

SVQ_DEFINE_SHARED_ACCESS(16)
SVQ_DEFINE_SHARED_ACCESS(32)
SVQ_DEFINE_SHARED_ACCESS(64)

static inline void svq_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* After a bulk copy out of shared memory: the compiler must not read the source again (XSA-155). */
static inline void svq_compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }

/* A hint that we spin on another core's word. */
static inline void svq_spin_hint(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* A counter with one writing thread and readers elsewhere: as cheap as a plain one, with no torn or invented values. */
static inline void svq_count(uint64_t *counter, uint64_t n) { svq_store_u64(counter, svq_load_u64(counter) + n); }

#endif
