/* Arena: a chain of blocks, each bump-allocated. */
#include "base/arena.h"

#include "base/mem.h"

struct arena_block {
    struct arena_block *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
};

enum { FIRST_BLOCK_BYTES = 4096 - sizeof(struct arena_block) };

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

    if (need < bytes || (a->max_bytes && a->used_bytes + need > a->max_bytes))
        return NULL;
    if (!b || b->cap - b->used < need) {
        size_t cap = b ? b->cap * 2 : FIRST_BLOCK_BYTES;
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
