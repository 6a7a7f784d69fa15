/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a check of a peer's word is written: `if (SVQ_REJECTS(bad, SVQ_E_...)) return svq_fault_set(...)`.
 *
 * The mutation build can leave out one check at a time, so that the tests can show that each of them is needed.
 */
#ifndef SVQ_CHECK_H
#define SVQ_CHECK_H

#define svq_likely(x) __builtin_expect(!!(x), 1)
#define svq_unlikely(x) __builtin_expect(!!(x), 0)

#ifdef SVQ_MUTATION
extern int svq_omitted_check;
#define SVQ_REJECTS(bad, code) ((bad) && svq_omitted_check != (code))
#else
#define SVQ_REJECTS(bad, code) svq_unlikely(bad)
#endif

#endif
