/*
 * Assertions. CHECK is always on: it prints what it knows in one line and aborts. DCHECK is for
 * debug builds. CHECK_MAGIC guards every `void *` cast of a long-lived struct.
 */
#ifndef SAPID_BASE_CHECK_H
#define SAPID_BASE_CHECK_H

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))
#define UNUSED __attribute__((unused))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

NORETURN void check_failed(const char *file, int line, const char *what);
/* As check_failed with a message of its own: CHECKF(x > 0, "slot %u", i). */
NORETURN void check_failedf(const char *file, int line, const char *what, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

#define CHECK(cond)                                  \
    do {                                             \
        if (unlikely(!(cond)))                       \
            check_failed(__FILE__, __LINE__, #cond); \
    } while (0)
#define CHECKF(cond, ...)                                          \
    do {                                                           \
        if (unlikely(!(cond)))                                     \
            check_failedf(__FILE__, __LINE__, #cond, __VA_ARGS__); \
    } while (0)
#ifdef NDEBUG
#define DCHECK(cond) ((void)sizeof(!(cond)))
#else
#define DCHECK(cond) CHECK(cond)
#endif
#define CHECK_MAGIC(obj, m) CHECK((obj) != NULL && (obj)->magic == (m))

#endif
