/*
 * System calls without libc: between the first byte restored and the return of snapshot_take()
 * errno, malloc and the tables of the dynamic linker are in motion. Every raw call returns the
 * kernel's answer: a value, or -errno.
 */
#ifndef SAPID_SNAPSHOT_SYSCALL_INT_H
#define SAPID_SNAPSHOT_SYSCALL_INT_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
static inline long raw_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
static inline long raw_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;

    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "snapshot knows x86-64 and aarch64: write raw_call and context.c for this one"
#endif

static inline long raw1(long number, long a)
{
    return raw_call(number, a, 0, 0, 0, 0, 0);
}

static inline long raw2(long number, long a, long b)
{
    return raw_call(number, a, b, 0, 0, 0, 0);
}

static inline long raw3(long number, long a, long b, long c)
{
    return raw_call(number, a, b, c, 0, 0, 0);
}

static inline long raw4(long number, long a, long b, long c, long d)
{
    return raw_call(number, a, b, c, d, 0, 0);
}

static inline long raw5(long number, long a, long b, long c, long d, long e)
{
    return raw_call(number, a, b, c, d, e, 0);
}

static inline long raw_mmap(uintptr_t at, size_t bytes, int prot, int flags, int fd,
                            uint64_t offset)
{
    return raw_call(SYS_mmap, (long)at, (long)bytes, prot, flags, fd, (long)offset);
}

static inline long raw_madvise(uintptr_t at, size_t bytes, int advice)
{
    return raw3(SYS_madvise, (long)at, (long)bytes, advice);
}

static inline long raw_mprotect(uintptr_t at, size_t bytes, int prot)
{
    return raw3(SYS_mprotect, (long)at, (long)bytes, prot);
}

static inline long raw_munmap(uintptr_t at, size_t bytes)
{
    return raw2(SYS_munmap, (long)at, (long)bytes);
}

/* For functions in libc's stead: what libc would return. */
static inline int libc_answer(long rc)
{
    if (rc < 0) {
        errno = (int)-rc;
        return -1;
    }
    return (int)rc;
}

#endif
