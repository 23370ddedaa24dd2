/*
 * Which pages are the process's own copies: the PAGEMAP_SCAN ioctl (Linux 6.7), or the words of
 * /proc/self/pagemap where the kernel lacks it. Both tell a page that was written to (anonymous, in
 * memory or swapped out) from one that still is the image's (a page of the file).
 */
#include <fcntl.h>
#include <linux/ioctl.h>

#include "snapshot/snapshot_int.h"

/* From include/uapi/linux/fs.h of Linux 6.7; Debian 12's headers are older. */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL _IOWR('f', 16, struct scan_arg)
#define SCAN_IS_FILE (UINT64_C(1) << 2)
#define SCAN_IS_PRESENT (UINT64_C(1) << 3)
#define SCAN_IS_SWAPPED (UINT64_C(1) << 4)

/* Bits of a word of /proc/self/pagemap: Documentation/admin-guide/mm/pagemap.rst. */
#define WORD_PRESENT (UINT64_C(1) << 63)
#define WORD_SWAPPED (UINT64_C(1) << 62)
#define WORD_FILE (UINT64_C(1) << 61)

enum { RUNS = ARRAY_LENGTH(((struct dirty_runs *)0)->run) };

static long scan(uintptr_t start, uintptr_t end, struct scan_region *vec, size_t n,
                 uintptr_t *ret_walked)
{
    struct scan_arg arg = {
        .size = sizeof(arg),
        .start = start,
        .end = end,
        .vec = (uintptr_t)vec,
        .vec_len = n,
        .category_inverted = SCAN_IS_FILE,
        .category_mask = SCAN_IS_FILE,
        .category_anyof_mask = SCAN_IS_PRESENT | SCAN_IS_SWAPPED,
        .return_mask = SCAN_IS_PRESENT,
    };
    long got = raw3(SYS_ioctl, snapshot_self->fd.pagemap, SCAN_IOCTL, (long)&arg);

    *ret_walked = arg.walk_end;
    return got;
}

int pagemap_open(void)
{
    struct snapshot_self *s = snapshot_self;
    struct scan_region one;
    uintptr_t walked;
    long fd = raw4(SYS_openat, AT_FDCWD, (long)"/proc/self/pagemap", O_RDONLY | O_CLOEXEC, 0);

    if (fd < 0)
        return (int)fd;
    s->fd.pagemap = (int)fd;
    s->has_scan_ioctl = !s->options.no_scan_ioctl &&
                        scan(s->arena.start, s->arena.start + PAGE_BYTES, &one, 1, &walked) >= 0;
    return (int)fd;
}

void pagemap_start(struct dirty_runs *d, uintptr_t start, uintptr_t end)
{
    d->next = start;
    d->end = end;
    d->n = 0;
}

static void add(struct dirty_runs *d, uintptr_t start, uintptr_t end)
{
    if (d->n && d->run[d->n - 1].end == start)
        d->run[d->n - 1].end = end;
    else
        d->run[d->n++] = (struct range){ start, end };
}

static void next_by_ioctl(struct dirty_runs *d)
{
    struct scan_region vec[RUNS];
    uintptr_t walked;
    long got = scan(d->next, d->end, vec, RUNS, &walked);

    CHECKF(got >= 0 && walked > d->next, "PAGEMAP_SCAN: %ld", got);
    for (long i = 0; i < got; i++)
        add(d, vec[i].start, vec[i].end);
    d->next = walked;
}

static void next_by_words(struct dirty_runs *d)
{
    uint64_t word[256];
    uint64_t n = (d->end - d->next) / PAGE_BYTES;

    if (n > ARRAY_LENGTH(word))
        n = ARRAY_LENGTH(word);
    long got = raw4(SYS_pread64, snapshot_self->fd.pagemap, (long)word, (long)(n * 8),
                    (long)(d->next / PAGE_BYTES * 8));
    CHECKF(got >= 8, "/proc/self/pagemap: %ld", got);
    for (uint64_t i = 0; i < (uint64_t)got / 8; i++) {
        if (d->n == RUNS) /* may be continued by this page, so stop before it */
            return;
        if ((word[i] & (WORD_PRESENT | WORD_SWAPPED)) && !(word[i] & WORD_FILE))
            add(d, d->next, d->next + PAGE_BYTES);
        d->next += PAGE_BYTES;
    }
}

bool pagemap_next(struct dirty_runs *d)
{
    d->n = 0;
    while (d->n == 0 && d->next < d->end) {
        if (snapshot_self->has_scan_ioctl)
            next_by_ioctl(d);
        else
            next_by_words(d);
    }
    return d->n > 0;
}
