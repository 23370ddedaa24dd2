/*
 * The proof (options.verify): after a rollback every page of the image is compared with it, free
 * arena memory with zero, the stack with its copy. A difference ends the process with its address.
 * No libc here either.
 */
#include "snapshot/arena_int.h"

static size_t put_text(char *to, size_t at, const char *text)
{
    while (*text)
        to[at++] = *text++;
    return at;
}

static size_t put_hex(char *to, size_t at, uint64_t value)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        to[at++] = "0123456789abcdef"[value >> shift & 15];
    return at;
}

static NORETURN void fail(const char *what, uintptr_t at, uint64_t page)
{
    const struct snapshot_self *s = snapshot_self;
    char text[256];
    size_t n = put_text(text, 0, "sapid: snapshot verify: ");

    n = put_text(text, n, what);
    n = put_text(text, n, " at ");
    n = put_hex(text, n, at);
    n = put_text(text, n, ", page ");
    n = put_hex(text, n, page);
    n = put_text(text, n, ", rollback ");
    n = put_hex(text, n, s->stats.rollbacks);
    n = put_text(text, n, "\n");
    raw3(SYS_write, 2, (long)text, (long)n);
    raw2(SYS_kill, raw1(SYS_getpid, 0), SIGABRT);
    for (;;)
        raw1(SYS_exit_group, 134);
}

/* The first byte that differs outside the holes; `at` + `bytes`: none. */
static uintptr_t difference(uintptr_t at, size_t bytes, const char *image)
{
    const struct snapshot_self *s = snapshot_self;

    for (uintptr_t i = at; i < at + bytes; i++) {
        bool hole = false;
        for (uint32_t k = 0; k < s->n_holes; k++)
            hole |= i >= s->holes[k].start && i < s->holes[k].end;
        if (!hole && *(const char *)i != image[i - at])
            return i;
    }
    return at + bytes;
}

static void check_zero(uintptr_t start, uintptr_t end, bool drop)
{
    struct dirty_runs d;

    (void)drop;
    pagemap_start(&d, start, end);
    while (pagemap_next(&d))
        for (uint32_t i = 0; i < d.n; i++)
            for (uintptr_t at = d.run[i].start; at < d.run[i].end; at += PAGE_BYTES)
                if (!snapshot_is_zero((const void *)at, PAGE_BYTES))
                    fail("free arena memory is not zero", at, 0);
}

static uintptr_t image_end_in_arena(const struct snapshot_self *s)
{
    uintptr_t end = s->arena.start;

    for (uint32_t i = 0; i < s->n_regions; i++)
        if (s->regions[i].end <= s->arena.end && s->regions[i].end > end)
            end = s->regions[i].end;
    return end;
}

void snapshot_verify(void)
{
    const struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        if (!(r->prot & PROT_READ))
            continue;
        for (uintptr_t at = r->start; at < r->end; at += PAGE_BYTES) {
            uint64_t page = r->page + (at - r->start) / PAGE_BYTES;
            const char *image = s->view + page * PAGE_BYTES;
            if (s->pages[page].kind == PAGE_SCRATCH ||
                snapshot_same((const void *)at, image, PAGE_BYTES))
                continue;
            uintptr_t first = difference(at, PAGE_BYTES, image);
            if (first < at + PAGE_BYTES)
                fail("a page differs from the image", first, page);
        }
    }
    size_t bytes = s->stack.end - s->stack.start;
    uintptr_t first = difference(s->stack.start, bytes, s->stack_copy);
    if (first < s->stack.end)
        fail("the stack differs from the image", first, 0);
    snapshot_each_gap(image_end_in_arena(s), s->arena_top, false, check_zero);
}
