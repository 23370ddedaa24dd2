/*
 * Copying and comparing memory without libc, whose functions go through tables that are being
 * restored. Whole pages are the case that counts.
 */
#include "snapshot/snapshot_int.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { LINE = 64 }; /* of a processor's cache */

#if defined(__x86_64__)
void snapshot_copy(void *to, const void *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

void snapshot_zero(void *to, size_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}

/* A job changes a few lines of a page; the others are read and not written. Hot pages lie here and
 * there, so that no processor guesses the next one. */
bool snapshot_put_back(void *to, const void *image, const void *next, const void *next_image)
{
    bool changed = false;

    for (size_t at = 0; at < PAGE_BYTES; at += LINE) {
        __m128i *t = (__m128i *)((char *)to + at);
        const __m128i *f = (const __m128i *)((const char *)image + at);
        _mm_prefetch((const char *)next + at, _MM_HINT_NTA);
        _mm_prefetch((const char *)next_image + at, _MM_HINT_NTA);
        __m128i f0 = _mm_load_si128(f), f1 = _mm_load_si128(f + 1);
        __m128i f2 = _mm_load_si128(f + 2), f3 = _mm_load_si128(f + 3);
        __m128i same = _mm_and_si128(_mm_and_si128(_mm_cmpeq_epi8(f0, _mm_load_si128(t)),
                                                   _mm_cmpeq_epi8(f1, _mm_load_si128(t + 1))),
                                     _mm_and_si128(_mm_cmpeq_epi8(f2, _mm_load_si128(t + 2)),
                                                   _mm_cmpeq_epi8(f3, _mm_load_si128(t + 3))));
        if (unlikely(_mm_movemask_epi8(same) != 0xffff)) {
            _mm_store_si128(t, f0);
            _mm_store_si128(t + 1, f1);
            _mm_store_si128(t + 2, f2);
            _mm_store_si128(t + 3, f3);
            changed = true;
        }
    }
    return changed;
}
#else
bool snapshot_put_back(void *to, const void *image, const void *next, const void *next_image)
{
    bool changed = false;

    for (size_t at = 0; at < PAGE_BYTES; at += LINE) {
        __builtin_prefetch((const char *)next + at);
        __builtin_prefetch((const char *)next_image + at);
        if (unlikely(!snapshot_same((char *)to + at, (const char *)image + at, LINE))) {
            snapshot_copy((char *)to + at, (const char *)image + at, LINE);
            changed = true;
        }
    }
    return changed;
}

void snapshot_copy(void *to, const void *from, size_t bytes)
{
    volatile char *t = to;
    const char *f = from;

    for (; bytes >= 8 && (((uintptr_t)t | (uintptr_t)f) & 7) == 0; t += 8, f += 8, bytes -= 8)
        *(volatile uint64_t *)t = *(const uint64_t *)f;
    for (; bytes; bytes--)
        *t++ = *f++;
}

void snapshot_zero(void *to, size_t bytes)
{
    volatile char *t = to;

    for (; bytes >= 8 && ((uintptr_t)t & 7) == 0; t += 8, bytes -= 8)
        *(volatile uint64_t *)t = 0;
    for (; bytes; bytes--)
        *t++ = 0;
}
#endif

void snapshot_mend(void *to, const void *from, size_t bytes)
{
    char *t = to;
    const char *f = from;

    for (size_t n; bytes; t += n, f += n, bytes -= n) {
        n = LINE - (uintptr_t)t % LINE;
        n = n < bytes ? n : bytes;
        if (unlikely(!snapshot_same(t, f, n)))
            snapshot_copy(t, f, n);
    }
}

bool snapshot_same(const void *a, const void *b, size_t bytes)
{
    const char *x = a, *y = b;

    for (; bytes >= 64 && (((uintptr_t)x | (uintptr_t)y) & 7) == 0; x += 64, y += 64, bytes -= 64) {
        const uint64_t *p = (const uint64_t *)x, *q = (const uint64_t *)y;
        uint64_t differ = (p[0] ^ q[0]) | (p[1] ^ q[1]) | (p[2] ^ q[2]) | (p[3] ^ q[3]) |
                          (p[4] ^ q[4]) | (p[5] ^ q[5]) | (p[6] ^ q[6]) | (p[7] ^ q[7]);
        if (differ)
            return false;
    }
    for (; bytes; x++, y++, bytes--)
        if (*x != *y)
            return false;
    return true;
}

bool snapshot_is_zero(const void *a, size_t bytes)
{
    const char *x = a;

    for (; bytes >= 8 && ((uintptr_t)x & 7) == 0; x += 8, bytes -= 8)
        if (*(const uint64_t *)x)
            return false;
    for (; bytes; x++, bytes--)
        if (*x)
            return false;
    return true;
}
