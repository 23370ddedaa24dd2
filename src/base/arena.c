/* Arena: a chain of blocks, each bump-allocated. */
#include "base/arena.h"

#include <stdio.h>

#include "base/mem.h"

struct arena_block {
    struct arena_block *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
};

enum {
    FIRST_BLOCK_BYTES = 4096 - sizeof(struct arena_block),
    LARGEST_STEP_BYTES = 65536, /* one large block must not make every later block large */
};

void arena_init(struct arena *a, size_t max_bytes)
{
    *a = (struct arena){ .max_bytes = max_bytes };
}

void arena_reset(struct arena *a)
{
    while (a->blocks) {
        struct arena_block *next = a->blocks->next;
        mem_free(a->blocks);
        a->blocks = next;
    }
    a->used_bytes = 0;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    struct arena_block *b = a->blocks;
    size_t need = (bytes + 15) & ~(size_t)15;

    if (need < bytes || need > SIZE_MAX / 4)
        return NULL;
    if (a->max_bytes && (a->used_bytes > a->max_bytes || need > a->max_bytes - a->used_bytes))
        return NULL;
    if (!b || b->cap - b->used < need) {
        size_t cap = b ? b->cap * 2 : FIRST_BLOCK_BYTES;
        if (cap > LARGEST_STEP_BYTES)
            cap = LARGEST_STEP_BYTES;
        if (cap < need)
            cap = need;
        b = mem_try_alloc(sizeof(*b) + cap);
        if (!b)
            return NULL;
        b->next = a->blocks;
        b->used = 0;
        b->cap = cap;
        a->blocks = b;
    }
    void *p = b->bytes + b->used;
    b->used += need;
    a->used_bytes += need;
    return p;
}

void *arena_zalloc(struct arena *a, size_t bytes)
{
    void *p = arena_alloc(a, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

struct str arena_copy(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (!p)
        return STR_NONE;
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return (struct str){ p, s.n };
}

struct str arena_vprintf(struct arena *a, const char *fmt, va_list ap)
{
    va_list again;

    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    CHECK(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    if (!p)
        return STR_NONE;
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    return (struct str){ p, (size_t)n };
}

struct str arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    struct str s = arena_vprintf(a, fmt, ap);
    va_end(ap);
    return s;
}
