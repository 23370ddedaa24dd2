/*
 * Growing byte buffer with a limit. Bytes are appended at the end and consumed from the front; the
 * memory is moved together only when room at the end runs out.
 */
#ifndef SAPID_BASE_BUF_H
#define SAPID_BASE_BUF_H

#include "base/check.h"
#include "base/str.h"

struct buf {
    char *base;
    size_t head, tail; /* live bytes are base[head, tail) */
    size_t cap;
    size_t max; /* 0: no limit */
};

void buf_init(struct buf *b, size_t max);
void buf_fini(struct buf *b);

static inline struct str buf_view(const struct buf *b)
{
    return (struct str){ b->base ? b->base + b->head : NULL, b->tail - b->head };
}
static inline size_t buf_length(const struct buf *b)
{
    return b->tail - b->head;
}
/* Makes room for at least `bytes` more after the tail. -ENOBUFS above the limit, -ENOMEM. */
MUST_USE int buf_reserve(struct buf *b, size_t bytes);
static inline char *buf_space(struct buf *b)
{
    return b->base ? b->base + b->tail : NULL;
}
static inline size_t buf_room(const struct buf *b)
{
    return b->cap - b->tail;
}
static inline void buf_commit(struct buf *b, size_t bytes)
{
    DCHECK(bytes <= buf_room(b));
    b->tail += bytes;
}
void buf_consume(struct buf *b, size_t bytes);
MUST_USE int buf_append(struct buf *b, const void *p, size_t n);
MUST_USE int buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Gives the memory back when empty (idle connections hold none). */
void buf_release(struct buf *b);

#endif
