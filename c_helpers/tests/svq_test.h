/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tiny test harness: one program holds several tests, each with a sentence that says what it proves. Prints TAP
 * ("ok 1 - sentence"); the program fails if any check failed. An argument runs only the tests whose name holds it.
 *
 *     TEST(window_refuses_foreign_entry, "An entry that is not zero is never taken") { CHECK(...); }
 *     SVQ_TEST_MAIN()
 */
#ifndef SVQ_TEST_H
#define SVQ_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct svq_test {
    const char *name;
    const char *sentence;
    void (*run)(void);
    struct svq_test *next;
};

static struct svq_test *svq_tests_first, **svq_tests_last = &svq_tests_first;
static int svq_test_failures; /* of the running test; any of its threads may add to it */

static inline void svq_test_register(struct svq_test *test)
{
    *svq_tests_last = test;
    svq_tests_last = &test->next;
}

#define TEST(test_name, what_it_proves)                                                                                \
    static void test_name(void);                                                                                       \
    static struct svq_test test_name##_record = { #test_name, what_it_proves, test_name, NULL };                       \
    __attribute__((constructor)) static void test_name##_register(void) { svq_test_register(&test_name##_record); }    \
    static void test_name(void)

static inline int svq_test_check(int holds, const char *text, const char *file, int line)
{
    if (!holds) {
        __atomic_fetch_add(&svq_test_failures, 1, __ATOMIC_RELAXED);
        printf("# %s:%d: not so: %s\n", file, line, text);
        fflush(stdout);
    }
    return holds;
}

static inline int svq_test_check_equal(long long a, long long b, const char *text, const char *file, int line)
{
    if (a != b) {
        __atomic_fetch_add(&svq_test_failures, 1, __ATOMIC_RELAXED);
        printf("# %s:%d: not so: %s (%lld, %lld)\n", file, line, text, a, b);
        fflush(stdout);
    }
    return a == b;
}

/* Records a failure and goes on. Returns whether the condition holds. */
#define CHECK(condition) svq_test_check(!!(condition), #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(a, b) svq_test_check_equal((long long)(a), (long long)(b), #a " == " #b, __FILE__, __LINE__)
/* For set-up: if this fails, nothing that follows means anything. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!CHECK(condition))                                                                                         \
            exit(EXIT_FAILURE);                                                                                        \
    } while (0)

static inline int svq_test_run(int argc, char **argv)
{
    int number = 0, failed = 0;
    for (struct svq_test *test = svq_tests_first; test; test = test->next) {
        if (argc > 1 && !strstr(test->name, argv[1]))
            continue;
        svq_test_failures = 0;
        test->run();
        failed += svq_test_failures != 0;
        printf("%sok %d - %s\n", svq_test_failures ? "not " : "", ++number, test->sentence);
        fflush(stdout);
    }
    printf("1..%d\n", number);
    return failed != 0 || number == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

#define SVQ_TEST_MAIN()                                                                                                \
    int main(int argc, char **argv) { return svq_test_run(argc, argv); }

#endif
