/*
 * Unit-test runner. Every TEST runs in a process of its own with a timeout; a failed EXPECT prints
 * both sides, file and line, and ends that test. `PROGRAM NAME...` runs only tests whose name
 * contains a NAME; `PROGRAM --list` lists them. The last line is "N passed, N failed".
 */
#ifndef SAPID_TESTS_TEST_H
#define SAPID_TESTS_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/str.h"

struct test {
    const char *name;
    void (*run)(void);
    unsigned timeout_s;
    struct test *next;
};

void test_register(struct test *t);
void test_fail(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4) NORETURN;
void test_expect_int(const char *file, int line, const char *what, int64_t got, int64_t want);
void test_expect_str(const char *file, int line, const char *what, struct str got, struct str want);

/* A copy that ends exactly at a PROT_NONE page, so that reading one byte too far crashes the test.
 */
struct str test_guarded(struct str s);
/* The same, starting right behind a PROT_NONE page. */
struct str test_guarded_front(struct str s);

#define TEST_WITHIN(test_name, seconds)                                  \
    static void test_name(void);                                         \
    __attribute__((constructor)) static void register_##test_name(void)  \
    {                                                                    \
        static struct test t = { #test_name, test_name, seconds, NULL }; \
        test_register(&t);                                               \
    }                                                                    \
    static void test_name(void)
/* The time is for a hang: a busy machine must not use it up. */
#define TEST(test_name) TEST_WITHIN(test_name, 120)

#define EXPECT(cond)                                              \
    do {                                                          \
        if (!(cond))                                              \
            test_fail(__FILE__, __LINE__, "expected: %s", #cond); \
    } while (0)
#define EXPECT_INT(got, want) \
    test_expect_int(__FILE__, __LINE__, #got, (int64_t)(got), (int64_t)(want))
#define EXPECT_STR(got, want) test_expect_str(__FILE__, __LINE__, #got, (got), (want))
#define EXPECT_TEXT(got, literal) test_expect_str(__FILE__, __LINE__, #got, (got), STR(literal))

#endif
