/*
 * Arena: memory of one request or one configuration, freed all at once. Blocks come from
 * mem_try_alloc; the first block may be the caller's (a connection's own few hundred bytes).
 */
#ifndef SAPID_BASE_ARENA_H
#define SAPID_BASE_ARENA_H

#include <stdarg.h>

#include "base/check.h"
#include "base/str.h"

struct arena {
    struct arena_block *blocks;   /* newest first */
    size_t used_bytes, max_bytes; /* max_bytes 0: no limit */
};

void arena_init(struct arena *a, size_t max_bytes);
/* Frees everything; the arena can be used again. NULL-safe members. */
void arena_reset(struct arena *a);
/* 16-byte aligned, not cleared. NULL when out of memory or above the limit. */
MUST_USE void *arena_alloc(struct arena *a, size_t bytes);
MUST_USE void *arena_zalloc(struct arena *a, size_t bytes);
/* NUL-terminated copy; p == NULL when out of memory. */
struct str arena_copy(struct arena *a, struct str s);
/* Formatted text, NUL-terminated; p == NULL when out of memory. */
struct str arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
struct str arena_vprintf(struct arena *a, const char *fmt, va_list ap) PRINTF_LIKE(2, 0);

#endif
