/* Allocation on malloc(3), with the "Nth call fails" seam of the fault tests. */
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned long fail_countdown;

static bool fails_now(void)
{
    return unlikely(fail_countdown != 0) && --fail_countdown == 0;
}

void mem_fail_nth(unsigned long n)
{
    fail_countdown = n;
}

void *mem_try_alloc(size_t bytes)
{
    return fails_now() ? NULL : malloc(bytes ? bytes : 1);
}

void *mem_try_zalloc(size_t bytes)
{
    return fails_now() ? NULL : calloc(1, bytes ? bytes : 1);
}

void *mem_try_realloc(void *p, size_t bytes)
{
    return fails_now() ? NULL : realloc(p, bytes ? bytes : 1);
}

void *mem_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    CHECKF(p, "out of memory for %zu bytes", bytes);
    return p;
}

void *mem_zalloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    CHECKF(p, "out of memory for %zu bytes", bytes);
    return p;
}

void *mem_realloc(void *old, size_t bytes)
{
    void *p = realloc(old, bytes ? bytes : 1);
    CHECKF(p, "out of memory for %zu bytes", bytes);
    return p;
}

char *mem_strndup(struct str s)
{
    char *z = mem_alloc(s.n + 1);
    if (s.n)
        memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    return z;
}

char *mem_strdup(const char *z)
{
    return mem_strndup(str_from(z));
}

char *mem_printf(const char *fmt, ...)
{
    char *z = NULL;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&z, fmt, ap);
    va_end(ap);
    CHECKF(n >= 0, "out of memory");
    return z;
}

void mem_free(void *p)
{
    free(p);
}
