/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sentences for the operator, one for each thread, for svq_be_why(). */
#ifndef SVQ_BE_ERROR_H
#define SVQ_BE_ERROR_H

/* Keeps the sentence and returns `error` (a -errno), so that a refusal is one statement. */
int svq_be_refuse(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
