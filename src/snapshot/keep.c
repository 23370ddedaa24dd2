/*
 * What rollback leaves alone: kept memory, ranges and descriptors of the caller; and the beginning,
 * snapshot_prepare(). Kept memory is one reserved stretch of addresses, handed out from its start,
 * so that it is one mapping however often the caller asks.
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "snapshot/arena_int.h"

enum {
    HOT_MAX = 16384,
    HOT_PERIOD = 256,
    TOP_PAD_BYTES = 1 << 20,
    TRIM_BYTES = 1 << 30,
};
static const size_t ARENA_BYTES = (size_t)64 << 30;
static const size_t KEEP_BYTES = (size_t)4 << 30, KEEP_LEAST = (size_t)64 << 20;

struct snapshot_self *snapshot_self;

bool snapshot_is_prepared(void)
{
    return snapshot_self != NULL;
}

int snapshot_refuse(struct snapshot_refusal *ret, enum snapshot_problem problem, int error,
                    const char *fmt, ...)
{
    va_list ap;

    memset(ret, 0, sizeof(*ret));
    ret->problem = problem;
    ret->error = error;
    ret->fd = -1;
    va_start(ap, fmt);
    int n = vsnprintf(ret->text, sizeof(ret->text), fmt, ap);
    va_end(ap);
    if (problem == SNAPSHOT_SYSTEM && n >= 0 && (size_t)n < sizeof(ret->text))
        snprintf(ret->text + n, sizeof(ret->text) - (size_t)n, ": %s", strerror(error));
    return error > 0 ? -error : -EINVAL;
}

/* The program must stand before libc in the order of symbols, or mmap would not be ours. */
static bool is_interposed(void)
{
    return dlsym(RTLD_DEFAULT, "mmap") == (void *)mmap &&
           dlsym(RTLD_DEFAULT, "snapshot_prepare") == (void *)snapshot_prepare;
}

static uintptr_t reserve(size_t bytes, size_t least, size_t *ret_bytes)
{
    for (; bytes >= least; bytes /= 2) {
        long at = raw_mmap(0, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at > 0) {
            *ret_bytes = bytes;
            return (uintptr_t)at;
        }
    }
    return 0;
}

static void set_limits_of_malloc(void)
{
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
    mallopt(M_TOP_PAD, TOP_PAD_BYTES);
}

static void fill(struct snapshot_self *s, const struct snapshot_options *o, uintptr_t at,
                 size_t bytes)
{
    s->magic = SELF_MAGIC;
    s->options = o ? *o : (struct snapshot_options){ 0 };
    if (!s->options.hot_max)
        s->options.hot_max = HOT_MAX;
    s->pace = 1;
    s->paced = !s->options.hot_period;
    if (!s->options.hot_period)
        s->options.hot_period = HOT_PERIOD;
    s->keep_next = at + page_up(sizeof(*s));
    s->keep_end = at + bytes;
    s->kept[s->n_kept++] = (struct range){ at, at + bytes };
    s->fd = (struct own_fds){ -1, -1, -1, -1, -1, -1 };
    s->pid = getpid();
    s->timer_kept = -1;
}

int snapshot_prepare(const struct snapshot_options *o)
{
    size_t bytes;

    if (snapshot_self)
        return -EALREADY;
    if (SNAPSHOT_HAS_SANITIZER || sysconf(_SC_PAGESIZE) != PAGE_BYTES || !is_interposed())
        return -ENOTSUP;
    uintptr_t at = reserve(KEEP_BYTES, KEEP_LEAST, &bytes);
    if (!at)
        return -ENOMEM;
    struct snapshot_self *s = (struct snapshot_self *)at;
    fill(s, o, at, bytes);
    set_limits_of_malloc();
    (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    snapshot_self = s;
    char *stack = snapshot_keep_alloc(OWN_STACK_BYTES);
    s->own_stack_top = (uintptr_t)stack + OWN_STACK_BYTES;
    s->text_buffer = snapshot_keep_alloc(TEXT_BYTES);
    int rc = maps_find_stack(&s->stack_map);
    if (rc == 0)
        rc = snapshot_arena_init(s->options.arena_bytes ? s->options.arena_bytes : ARENA_BYTES);
    if (rc == 0)
        rc = thread_find_tid();
    if (rc == 0)
        rc = fds_open_own();
    if (rc < 0) {
        fds_forget();
        snapshot_self = NULL;
        if (s->arena.end)
            raw_munmap(s->arena.start, s->arena.end - s->arena.start);
        raw_munmap(at, bytes);
    }
    return rc < 0 ? rc : 0;
}

void *snapshot_keep_alloc(size_t bytes)
{
    struct snapshot_self *s = snapshot_self;

    CHECK(s && s->magic == SELF_MAGIC);
    bytes = page_up(bytes ? bytes : 1);
    if (bytes > s->keep_end - s->keep_next)
        return NULL;
    void *ret = (void *)s->keep_next;
    s->keep_next += bytes;
    return ret;
}

int snapshot_keep_range(const void *addr, size_t bytes)
{
    struct snapshot_self *s = snapshot_self;

    CHECK(s && s->magic == SELF_MAGIC);
    /* argv and the environment, where a process's title is written, share pages with frames */
    if ((uintptr_t)addr >= s->stack_map.start && (uintptr_t)addr < s->stack_map.end)
        return hole_add((uintptr_t)addr, bytes);
    /* the arena's map is part of the image: after a rollback it would be free memory */
    if (s->frozen && snapshot_arena_has((uintptr_t)addr, (uintptr_t)addr + bytes))
        return -EINVAL;
    if (s->n_kept == KEPT_MAX)
        return -ENOSPC;
    s->kept[s->n_kept++] =
        (struct range){ page_down((uintptr_t)addr), page_up((uintptr_t)addr + bytes) };
    return 0;
}

void snapshot_keep_range_end(const void *addr, size_t bytes)
{
    struct snapshot_self *s = snapshot_self;
    uintptr_t start = page_down((uintptr_t)addr), end = page_up((uintptr_t)addr + bytes);

    for (uint32_t i = 0; i < s->n_kept; i++) {
        if (s->kept[i].start == start && s->kept[i].end == end) {
            s->kept[i] = s->kept[--s->n_kept];
            return;
        }
    }
}

bool snapshot_is_kept(uintptr_t start, uintptr_t end)
{
    const struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_kept; i++)
        if (start >= s->kept[i].start && end <= s->kept[i].end)
            return true;
    return false;
}

uintptr_t snapshot_kept_border(uintptr_t start, uintptr_t end)
{
    const struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_kept; i++) {
        if (s->kept[i].start > start && s->kept[i].start < end)
            end = s->kept[i].start;
        if (s->kept[i].end > start && s->kept[i].end < end)
            end = s->kept[i].end;
    }
    return end;
}

void snapshot_keep_timer(int id)
{
    CHECK(snapshot_self && snapshot_self->magic == SELF_MAGIC && id >= -1);
    snapshot_self->timer_kept = id;
}

uint64_t snapshot_generation(void)
{
    return snapshot_self ? snapshot_self->generation : 0;
}

void snapshot_stats(struct snapshot_stats *ret)
{
    struct snapshot_self *s = snapshot_self;

    CHECK(s && s->magic == SELF_MAGIC);
    s->stats.hot_pages = s->n_hot;
    *ret = s->stats;
}
