/*
 * Copying and comparing memory without libc, whose functions go through tables that are being
 * restored. Whole pages are the case that counts.
 */
#include "snapshot/snapshot_int.h"

#if defined(__x86_64__)
void snapshot_copy(void *to, const void *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

void snapshot_zero(void *to, size_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(0) : "memory");
}
#else
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
