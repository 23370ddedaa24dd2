/*
 * The mappings of the process: reading /proc/self/maps and smaps without libc, remembering what
 * they were when the image was made, and putting them right when a job changed them. That is the
 * slow way: rollback goes it only when the size of the process differs or an interposed call said
 * so.
 */
#include <errno.h>
#include <fcntl.h>

#include "snapshot/snapshot_int.h"

enum { SPLIT_MAX = 16 };

struct reader {
    int fd;
    char *text;
    size_t n, at;
    bool end;
};

/* The next line without its line break, or NULL at the end. Valid until the next call. */
static char *next_line(struct reader *r)
{
    for (;;) {
        for (size_t i = r->at; i < r->n; i++) {
            if (r->text[i] != '\n')
                continue;
            char *line = r->text + r->at;
            r->text[i] = '\0';
            r->at = i + 1;
            return line;
        }
        if (r->end)
            return NULL;
        for (size_t i = r->at; i < r->n; i++)
            r->text[i - r->at] = r->text[i];
        r->n -= r->at;
        r->at = 0;
        CHECK(r->n < TEXT_BYTES - 1); /* no line is that long */
        long got = raw3(SYS_read, r->fd, (long)(r->text + r->n), (long)(TEXT_BYTES - 1 - r->n));
        if (got == -EINTR)
            continue;
        if (got <= 0)
            r->end = true;
        else
            r->n += (size_t)got;
    }
}

static uint64_t number(const char **p, unsigned base)
{
    uint64_t ret = 0;

    for (;; (*p)++) {
        char c = **p;
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                                : 99;
        if (digit >= base)
            return ret;
        ret = ret * base + digit;
    }
}

/* "start-end rwxp offset major:minor inode   name" */
static bool parse_head(const char *p, struct map *m)
{
    *m = (struct map){ 0 };
    m->start = number(&p, 16);
    if (*p++ != '-')
        return false;
    m->end = number(&p, 16);
    if (*p++ != ' ')
        return false;
    m->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) |
              (p[2] == 'x' ? PROT_EXEC : 0);
    m->shared = p[3] == 's';
    p += 5;
    m->offset = number(&p, 16);
    p++;
    m->dev = number(&p, 16) << 32;
    p++;
    m->dev |= number(&p, 16);
    p++;
    m->inode = number(&p, 10);
    while (*p == ' ')
        p++;
    for (size_t i = 0; p[i] && i < sizeof(m->name) - 1; i++)
        m->name[i] = p[i];
    return m->end > m->start;
}

static bool has_flag(const char *flags, const char *flag)
{
    for (; flags[0] && flags[1]; flags++)
        if (flags[0] == flag[0] && flags[1] == flag[1] && (flags[2] == ' ' || flags[2] == '\0') &&
            flags[-1] == ' ')
            return true;
    return false;
}

static bool begins(const char *text, const char *with)
{
    for (; *with; text++, with++)
        if (*text != *with)
            return false;
    return true;
}

static void parse_flags(const char *line, struct map *m)
{
    line += sizeof("VmFlags:") - 1;
    m->wiped = has_flag(line + 1, "wf") || has_flag(line + 1, "dp");
    m->locked = has_flag(line + 1, "lo");
    m->hugetlb = has_flag(line + 1, "ht");
}

int maps_read(bool smaps, int (*each)(void *context, const struct map *m), void *context)
{
    const char *path = smaps ? "/proc/self/smaps" : "/proc/self/maps";
    long fd = raw4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
    struct reader r = { .fd = (int)fd, .text = snapshot_self->text_buffer };
    struct map m;
    bool open = false;
    int rc = 0;

    if (fd < 0)
        return (int)fd;
    for (const char *line; rc == 0 && (line = next_line(&r));) {
        if (line[0] >= 'A' && line[0] <= 'Z') {
            if (open && begins(line, "VmFlags:"))
                parse_flags(line, &m);
            continue;
        }
        if (open)
            rc = each(context, &m);
        open = rc == 0 && parse_head(line, &m);
    }
    if (rc == 0 && open)
        rc = each(context, &m);
    raw1(SYS_close, fd);
    return rc;
}

static int find_stack(void *context, const struct map *m)
{
    struct range *ret = context;
    uintptr_t here = (uintptr_t)&ret;

    if (m->start <= here && here < m->end)
        *ret = (struct range){ m->start, m->end };
    return 0;
}

int maps_find_stack(struct range *ret)
{
    *ret = (struct range){ 0, 0 };
    int rc = maps_read(false, find_stack, ret);
    return rc < 0 ? rc : ret->end ? 0 : -ENOENT;
}

/* --- what they were --------------------------------------------------------------------------- */

struct list {
    struct vma *vma;
    uint32_t n;
    uintptr_t stack; /* where it begins */
    uint32_t split;  /* mappings that the kernel did not join */
};

static bool same_kind(const struct vma *a, const struct vma *b)
{
    return a->prot == b->prot && a->shared == b->shared && a->dev == b->dev &&
           a->inode == b->inode && (a->inode == 0 || a->delta == b->delta);
}

static int collect(void *context, const struct map *m)
{
    struct list *l = context;
    const struct snapshot_self *s = snapshot_self;
    struct vma v = { m->start, m->end, m->start - m->offset, m->dev, m->inode, m->prot, m->shared };

    /* the main stack grows by itself; vsyscall lies in the kernel's half */
    if (m->start >> 63)
        return 0;
    if (m->start < s->stack_map.end && m->end >= s->stack_map.end) {
        l->stack = m->start;
        return 0;
    }
    if (l->n && l->vma[l->n - 1].end == v.start && same_kind(&l->vma[l->n - 1], &v)) {
        l->vma[l->n - 1].end = v.end;
        l->split++;
        return 0;
    }
    if (l->n == VMAS_MAX)
        return -E2BIG;
    l->vma[l->n++] = v;
    return 0;
}

int maps_expect(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    struct list l = { s->vmas, 0, 0, 0 };
    int rc = maps_read(false, collect, &l);

    if (rc < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc,
                               rc == -E2BIG ? "more than %d mappings" : "/proc/self/maps",
                               VMAS_MAX);
    s->n_vmas = l.n;
    s->n_split = l.split;
    s->stack_map.start = l.stack;
    s->maps_touched = false;
    rc = maps_size(&s->size);
    return rc < 0 ? snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/statm") : 0;
}

int maps_size(struct memory_size *ret)
{
    char text[256];
    const char *p = text;
    uint64_t field[7] = { 0 };
    long got = raw4(SYS_pread64, snapshot_self->fd.statm, (long)text, sizeof(text) - 1, 0);

    if (got <= 0)
        return got < 0 ? (int)got : -EIO;
    text[got] = '\0';
    for (size_t i = 0; i < ARRAY_LENGTH(field); i++, p++)
        field[i] = number(&p, 10);
    ret->total = field[0];
    ret->data = field[5];
    return 0;
}

/* --- putting them right ----------------------------------------------------------------------- */

const struct region *region_at(uintptr_t at)
{
    const struct snapshot_self *s = snapshot_self;
    uint32_t low = 0, high = s->n_regions;

    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (at >= s->regions[mid].end)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->n_regions && at >= s->regions[low].start ? &s->regions[low] : NULL;
}

/* Maps what belongs into [start, end), which lies in one vma of the image. */
static int remap(const struct vma *was, uintptr_t start, uintptr_t end)
{
    struct snapshot_self *s = snapshot_self;

    while (start < end) {
        const struct region *r = region_at(start);
        uintptr_t stop = end;
        long rc;
        if (r) {
            stop = r->end < end ? r->end : end;
            rc = raw_mmap(start, stop - start, was->prot, MAP_PRIVATE | MAP_FIXED, s->fd.memory,
                          r->page * PAGE_BYTES + (start - r->start));
        } else {
            rc = raw_mmap(start, stop - start, was->prot,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        }
        if (rc < 0)
            return (int)rc;
        start = stop;
    }
    return 0;
}

static bool can_remap(const struct vma *was, uintptr_t start)
{
    return !was->shared && (was->inode == 0 || region_at(start) != NULL);
}

struct repair {
    bool apply;
    struct snapshot_refusal *refusal;
};

static int lost(const struct repair *r, const struct vma *was, uintptr_t start, uintptr_t end)
{
    return snapshot_refuse(
        r->refusal, SNAPSHOT_LOST_MAP, EFAULT,
        "the job unmapped or replaced %lx-%lx of the image, which is a mapping of a file "
        "(inode %lu): the process must be forked anew",
        (unsigned long)start, (unsigned long)end, (unsigned long)was->inode);
}

/* One stretch in which neither list has a border. */
static int repair_piece(const struct repair *r, const struct vma *was, const struct vma *is,
                        uintptr_t start, uintptr_t end)
{
    long rc = 0;

    if (snapshot_is_kept(start, end))
        return 0;
    if (!was) {
        if (r->apply) {
            rc = raw_munmap(start, end - start);
            snapshot_self->stats.maps_removed++;
        }
    } else if (!is || is->shared != was->shared || is->inode != was->inode || is->dev != was->dev ||
               (was->inode && is->delta != was->delta)) {
        if (!can_remap(was, start))
            return lost(r, was, start, end);
        if (r->apply)
            rc = remap(was, start, end);
    } else if (is->prot != was->prot && r->apply) {
        rc = raw_mprotect(start, end - start, was->prot);
    }
    if (rc < 0)
        return snapshot_refuse(r->refusal, SNAPSHOT_SYSTEM, (int)-rc,
                               "mappings at %lx-%lx cannot be put back", (unsigned long)start,
                               (unsigned long)end);
    return 0;
}

/* Cuts [start, end) at the borders of kept ranges. */
static int repair_stretch(const struct repair *r, const struct vma *was, const struct vma *is,
                          uintptr_t start, uintptr_t end)
{
    while (start < end) {
        uintptr_t stop = snapshot_kept_border(start, end);
        int rc = repair_piece(r, was, is, start, stop);
        if (rc < 0)
            return rc;
        start = stop;
    }
    return 0;
}

static uintptr_t least(uintptr_t a, uintptr_t b)
{
    return a < b ? a : b;
}

/* Free arena memory that was split by protections and put right need not become one mapping again:
 * pieces that were written to apart stay apart. Map it anew before they are many. */
static int join_arena(void)
{
    const struct snapshot_self *s = snapshot_self;
    int rc = 0;

    for (uint32_t i = 0; i < s->n_vmas && rc == 0; i++) {
        const struct vma *v = &s->vmas[i];
        if (v->start >= s->arena.start && v->end <= s->arena.end && v->inode == 0 &&
            v->prot == (PROT_READ | PROT_WRITE) && !region_at(v->start))
            for (uintptr_t at = v->start, stop; at < v->end && rc == 0; at = stop) {
                stop = snapshot_kept_border(at, v->end);
                if (!snapshot_is_kept(at, stop))
                    rc = remap(v, at, stop);
            }
    }
    return rc;
}

int maps_restore(bool apply, struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    struct repair r = { apply, ret };
    struct list now = { s->vmas_now, 0, 0, 0 };
    int rc = maps_read(false, collect, &now);
    uint32_t i = 0, k = 0;
    uintptr_t at = 0;

    if (rc < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/maps");
    while (i < s->n_vmas || k < now.n) {
        const struct vma *was = i < s->n_vmas ? &s->vmas[i] : NULL;
        const struct vma *is = k < now.n ? &now.vma[k] : NULL;
        uintptr_t a = was ? (at > was->start ? at : was->start) : UINTPTR_MAX;
        uintptr_t b = is ? (at > is->start ? at : is->start) : UINTPTR_MAX;
        uintptr_t start = least(a, b);
        uintptr_t end = least(a > start ? a : was->end, b > start ? b : is->end);
        rc = repair_stretch(&r, a == start ? was : NULL, b == start ? is : NULL, start, end);
        if (rc < 0)
            return rc;
        at = end;
        if (was && was->end <= at)
            i++;
        if (is && is->end <= at)
            k++;
    }
    if (apply && now.split > s->n_split + SPLIT_MAX)
        rc = join_arena();
    /* a stack that grew is as large again as it was; nobody runs on it now */
    if (apply && now.stack < s->stack_map.start)
        raw_munmap(now.stack, s->stack_map.start - now.stack);
    return rc < 0 ? snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "the arena cannot be mapped anew")
                  : 0;
}
