/*
 * Memory for tests: a window before a PROT_NONE page that is refilled for every prefix of an input,
 * and bytes that nobody frees.
 */
#ifndef SAPID_TESTS_HTTP_FEED_H
#define SAPID_TESTS_HTTP_FEED_H

#include "test.h"

enum { FEED_BYTES = 1 << 18 };

/* The bytes, ending at the unreadable page; valid until the next call. */
static inline struct str feed(struct str s)
{
    static char *base;
    CHECK(s.n <= FEED_BYTES);
    if (base == NULL) {
        static char zero[FEED_BYTES];
        base = (char *)test_guarded((struct str){ zero, FEED_BYTES }).p;
    }
    char *p = base + FEED_BYTES - s.n;
    if (p > base)
        p[-1] = 'Z';
    if (s.n)
        memcpy(p, s.p, s.n);
    return (struct str){ p, s.n };
}

/* Bytes that live until the test's process ends. */
static inline char *scratch(size_t n)
{
    static char pool[1 << 20];
    static size_t used;
    CHECK(n <= sizeof pool - used);
    used += n;
    return pool + used - n;
}

#endif
