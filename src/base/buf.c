/* Growing byte buffer: see buf.h. */
#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){ .max = max };
}

void buf_fini(struct buf *b)
{
    mem_free(b->base);
    b->base = NULL;
    b->head = b->tail = b->cap = 0;
}

int buf_reserve(struct buf *b, size_t bytes)
{
    size_t live = b->tail - b->head;

    if (b->cap - b->tail >= bytes)
        return 0;
    if (b->max && (live > b->max || bytes > b->max - live))
        return -ENOBUFS;
    if (bytes > SIZE_MAX / 4)
        return -ENOMEM;
    if (b->cap - live >= bytes && b->head >= live) {
        if (live)
            memcpy(b->base, b->base + b->head, live);
        b->head = 0;
        b->tail = live;
        return 0;
    }
    size_t cap = b->cap ? b->cap : 256;
    while (cap < live + bytes)
        cap *= 2;
    if (b->max && cap > b->max)
        cap = b->max;
    char *fresh = mem_try_alloc(cap);
    if (!fresh)
        return -ENOMEM;
    if (live)
        memcpy(fresh, b->base + b->head, live);
    mem_free(b->base);
    b->base = fresh;
    b->head = 0;
    b->tail = live;
    b->cap = cap;
    return 0;
}

void buf_consume(struct buf *b, size_t bytes)
{
    DCHECK(bytes <= b->tail - b->head);
    b->head += bytes;
    if (b->head == b->tail)
        b->head = b->tail = 0;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
    int r = buf_reserve(b, n);
    if (r < 0)
        return r;
    if (n)
        memcpy(b->base + b->tail, p, n);
    b->tail += n;
    return 0;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    for (;;) {
        size_t room = b->cap - b->tail;
        va_start(ap, fmt);
        int n = vsnprintf(room ? b->base + b->tail : NULL, room, fmt, ap);
        va_end(ap);
        if (n < 0)
            return -EINVAL;
        if ((size_t)n < room) {
            b->tail += (size_t)n;
            return 0;
        }
        int r = buf_reserve(b, (size_t)n + 1);
        if (r < 0)
            return r;
    }
}

void buf_release(struct buf *b)
{
    if (b->head == b->tail)
        buf_fini(b);
}
