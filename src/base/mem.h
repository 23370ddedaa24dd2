/*
 * Allocation with a seam for fault tests. mem_try_* may return NULL (the caller has an answer to
 * that, such as closing a connection); mem_* abort with a message, for start-up and small control
 * objects.
 */
#ifndef SAPID_BASE_MEM_H
#define SAPID_BASE_MEM_H

#include <stddef.h>

#include "base/check.h"
#include "base/str.h"

MUST_USE void *mem_try_alloc(size_t bytes);
MUST_USE void *mem_try_zalloc(size_t bytes);
MUST_USE void *mem_try_realloc(void *p, size_t bytes);
void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_realloc(void *p, size_t bytes);
char *mem_strdup(const char *z);
/* NUL-terminated copy of a view. */
char *mem_strndup(struct str s);
/* printf into a fresh string. */
char *mem_printf(const char *fmt, ...) PRINTF_LIKE(1, 2);
void mem_free(void *p);

/* Fault tests: the Nth mem_try_* call from now on fails (0 = never). Per process. */
void mem_fail_nth(unsigned long n);

#endif
