/*
 * String view: a pointer and a length that own nothing. Used for every piece of text that lives in
 * somebody else's buffer (a request in a read buffer, a value in a slot of shared memory).
 */
#ifndef SAPID_BASE_STR_H
#define SAPID_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *p;
    size_t n;
};

#define STR(literal) ((struct str){ "" literal, sizeof(literal) - 1 })
#define STR_NONE ((struct str){ NULL, 0 })
/* For printf("%.*s", STR_ARG(s)) */
#define STR_ARG(s) (int)(s).n, (s).p

static inline struct str str_from(const char *z)
{
    return (struct str){ z, z ? strlen(z) : 0 };
}

static inline bool str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline char ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* 0..15, or -1. */
static inline int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ASCII case only; independent of the locale. */
static inline bool str_eq_nocase(struct str a, struct str b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}

static inline bool str_has_prefix(struct str s, struct str prefix)
{
    return s.n >= prefix.n && (prefix.n == 0 || memcmp(s.p, prefix.p, prefix.n) == 0);
}

static inline bool str_has_suffix(struct str s, struct str suffix)
{
    return s.n >= suffix.n &&
           (suffix.n == 0 || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

static inline struct str str_skip(struct str s, size_t n)
{
    if (n > s.n)
        n = s.n;
    return (struct str){ n ? s.p + n : s.p, s.n - n }; /* nothing is added to a NULL */
}

static inline struct str str_take(struct str s, size_t n)
{
    return (struct str){ s.p, n < s.n ? n : s.n };
}

/* Offset of the first `c`, or -1. */
static inline ptrdiff_t str_find(struct str s, char c)
{
    const char *hit = s.n ? memchr(s.p, c, s.n) : NULL;
    return hit ? hit - s.p : -1;
}

/* Without spaces and tabs at both ends (RFC 9110 section 5.6.3, OWS). */
static inline struct str str_trim(struct str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* Cuts `*rest` at the first `c`: returns what stands before it and leaves what follows in `*rest`.
 * Without a `c` returns all and leaves an empty view with p == NULL. */
static inline struct str str_cut(struct str *rest, char c)
{
    ptrdiff_t at = str_find(*rest, c);
    struct str head = *rest;
    if (at < 0) {
        *rest = STR_NONE;
        return head;
    }
    head.n = (size_t)at;
    *rest = str_skip(*rest, (size_t)at + 1);
    return head;
}

/* "Accept-Language" -> "HTTP_ACCEPT_LANGUAGE" (RFC 3875 section 4.1.18), into `out`, which has room
 * for STR_HEADER_VARIABLE_MORE bytes more than the name. */
enum { STR_HEADER_VARIABLE_MORE = 5 };
struct str str_header_variable(struct str name, char *out);

/* FNV-1a, 32 bits: for tables and for choosing, not against those who choose the text. */
static inline uint32_t str_hash_more(uint32_t hash, struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        hash = (hash ^ (unsigned char)s.p[i]) * 16777619U;
    return hash;
}
static inline uint32_t str_hash(struct str s)
{
    return str_hash_more(2166136261U, s);
}

/* Decimal digits only, no sign, no space, not empty. Returns false on anything else or above `max`.
 */
bool str_to_u64(struct str s, uint64_t max, uint64_t *ret);

#endif
