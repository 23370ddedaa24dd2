/*
 * Making the image: which memory belongs to it, copying that into a sealed memfd, and mapping the
 * memfd over the memory it was copied from. Until that mapping begins everything can be refused and
 * nothing has changed; from the saved registers on, the work is done on the room's own stack and
 * without libc.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "snapshot/arena_int.h"

enum {
    SCRATCH_RANGES_MAX = 65536,
    SCRATCH_LARGE_PAGES = 64, /* longer runs stay anonymous memory, outside the image */
    HEAP_PAD_BYTES = 4 << 20, /* free heap that every job finds, so that the break rarely moves */
    SPAN_GAP_BYTES = 64 << 10,
};

struct making {
    const struct snapshot_plan *plan;
    struct snapshot_refusal *refusal;
};

/* --- what is scratch -------------------------------------------------------------------------- */

static void add_scratch(void *list, const void *addr, size_t bytes)
{
    struct snapshot_self *s = list;
    uintptr_t start = page_up((uintptr_t)addr), end = page_down((uintptr_t)addr + bytes);

    if (start < end && s->n_scratch_ranges < SCRATCH_RANGES_MAX)
        s->scratch[s->n_scratch_ranges++] = (struct range){ start, end };
}

/* The free top of the heap. malloc says how large it is; the size in its header must agree. */
static void add_heap_top(struct snapshot_self *s)
{
    uintptr_t end = (uintptr_t)sbrk(0);
    size_t bytes = mallinfo2().keepcost;

    if (bytes <= 2 * PAGE_BYTES || bytes > end || (end - bytes) % 16)
        return;
    const size_t *header = (const size_t *)(end - bytes);
    if ((header[1] & ~(size_t)7) == bytes)
        add_scratch(s, (const char *)header + 64, bytes - 64);
}

static int by_start(const void *a, const void *b)
{
    const struct range *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static void sort_scratch(struct snapshot_self *s)
{
    uint32_t n = 0;

    qsort(s->scratch, s->n_scratch_ranges, sizeof(s->scratch[0]), by_start);
    for (uint32_t i = 0; i < s->n_scratch_ranges; i++) {
        if (n && s->scratch[i].start <= s->scratch[n - 1].end) {
            if (s->scratch[i].end > s->scratch[n - 1].end)
                s->scratch[n - 1].end = s->scratch[i].end;
        } else {
            s->scratch[n++] = s->scratch[i];
        }
    }
    s->n_scratch_ranges = n;
}

/* --- what is a region ------------------------------------------------------------------------- */

static int push_region(uintptr_t start, uintptr_t end, int prot)
{
    struct snapshot_self *s = snapshot_self;
    struct region *last = s->n_regions ? &s->regions[s->n_regions - 1] : NULL;

    if (last && last->end == start && last->prot == prot) {
        last->end = end;
    } else {
        if (s->n_regions == REGIONS_MAX)
            return -E2BIG;
        s->regions[s->n_regions++] = (struct region){ start, end, s->n_pages, prot };
    }
    s->n_pages += (end - start) / PAGE_BYTES;
    return 0;
}

/* Long runs of scratch are no part of the image. */
static int push_without_scratch(uintptr_t start, uintptr_t end, int prot)
{
    const struct snapshot_self *s = snapshot_self;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < s->n_scratch_ranges && start < end; i++) {
        uintptr_t from = s->scratch[i].start, to = s->scratch[i].end;
        if (to <= start || from >= end || to - from < SCRATCH_LARGE_PAGES * PAGE_BYTES)
            continue;
        if (from > start)
            rc = push_region(start, from, prot);
        start = to;
    }
    return rc == 0 && start < end ? push_region(start, end, prot) : rc;
}

/* Of the arena only what is in use. */
static int push_used(uintptr_t start, uintptr_t end, int prot)
{
    const struct snapshot_self *s = snapshot_self;
    struct range used;
    int rc = 0;

    if (end <= s->arena.start || start >= s->arena.end)
        return push_without_scratch(start, end, prot);
    if (start < s->arena.start) {
        rc = push_without_scratch(start, s->arena.start, prot);
        start = s->arena.start;
    }
    for (uint32_t i = 0; rc == 0 && snapshot_arena_used(&used, 1, i); i++) {
        uintptr_t from = used.start > start ? used.start : start;
        uintptr_t to = used.end < end ? used.end : end;
        if (from < to)
            rc = push_without_scratch(from, to, prot);
    }
    if (rc == 0 && end > s->arena.end)
        rc = push_without_scratch(s->arena.end, end, prot);
    return rc;
}

static int push_unless_kept(uintptr_t start, uintptr_t end, int prot)
{
    const struct snapshot_self *s = snapshot_self;
    int rc = 0;

    while (rc == 0 && start < end) {
        uintptr_t stop = end, next = end;
        for (uint32_t i = 0; i < s->n_kept; i++) {
            const struct range *k = &s->kept[i];
            if (k->end <= start || k->start >= stop)
                continue;
            stop = k->start > start ? k->start : start;
            next = k->end;
        }
        if (stop > start)
            rc = push_used(start, stop, prot);
        start = next > stop ? next : stop;
    }
    return rc;
}

/* Guard pages have none. */
static bool has_pages(const struct map *m)
{
    struct dirty_runs d;

    pagemap_start(&d, m->start, m->end);
    return pagemap_next(&d);
}

static int collect_region(void *context, const struct map *m)
{
    struct snapshot_self *s = snapshot_self;

    (void)context;
    if (m->shared || m->start >> 63 || (m->start < s->stack_map.end && m->end >= s->stack_map.end))
        return 0;
    if (m->wiped) {
        if (s->n_wiped == WIPED_MAX)
            return -E2BIG;
        s->wiped[s->n_wiped++] = (struct range){ m->start, m->end };
        return 0;
    }
    bool arena = m->start < s->arena.end && m->end > s->arena.start;
    if (!(m->prot & PROT_WRITE) && !(arena && (m->prot & PROT_READ || has_pages(m))))
        return 0;
    return push_unless_kept(m->start, m->end, m->prot);
}

/* --- refusals --------------------------------------------------------------------------------- */

static int check_map(void *context, const struct map *m)
{
    const struct making *k = context;
    char text[320];

    if (m->start >> 63 || snapshot_is_kept(m->start, m->end))
        return 0;
    if (m->locked)
        return snapshot_refuse(k->refusal, SNAPSHOT_LOCKED, EBUSY,
                               "memory at %lx is locked (mlock): %s", (unsigned long)m->start,
                               m->name);
    if (m->hugetlb && m->prot & PROT_WRITE)
        return snapshot_refuse(k->refusal, SNAPSHOT_SHARED_MAP, EBUSY,
                               "memory at %lx is of huge pages (MAP_HUGETLB)",
                               (unsigned long)m->start);
    if (!m->shared || !(m->prot & PROT_WRITE))
        return 0;
    snprintf(text, sizeof(text), "a writable shared mapping of %zu bytes: %s", m->end - m->start,
             m->name[0] ? m->name : "anonymous");
    if (k->plan && k->plan->accept &&
        k->plan->accept(k->plan->context, SNAPSHOT_SHARED_MAP, -1, (const void *)m->start,
                        m->end - m->start, text))
        return 0;
    return snapshot_refuse(k->refusal, SNAPSHOT_SHARED_MAP, EBUSY, "%.250s", text);
}

static int collect_regions(const struct making *k)
{
    struct snapshot_self *s = snapshot_self;
    int rc = guards_to_protections();

    if (rc < 0)
        return snapshot_refuse(k->refusal, SNAPSHOT_SYSTEM, -rc, "looking for guard pages");
    rc = maps_read(true, check_map, (void *)k);
    if (rc < 0)
        return k->refusal->problem
                   ? rc
                   : snapshot_refuse(k->refusal, SNAPSHOT_SYSTEM, -rc, "/proc/self/smaps");

    if (k->plan && k->plan->scratch)
        k->plan->scratch(k->plan->context, add_scratch, s);
    add_heap_top(s);
    sort_scratch(s);
    rc = maps_read(true, collect_region, NULL);
    if (rc < 0)
        return snapshot_refuse(k->refusal, SNAPSHOT_TOO_LARGE, -rc,
                               "more than %d writable mappings", REGIONS_MAX);
    return 0;
}

/* --- pages ------------------------------------------------------------------------------------ */

static void mark(uintptr_t start, uintptr_t end, enum page_kind kind)
{
    struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        uintptr_t from = start > r->start ? start : r->start;
        uintptr_t to = end < r->end ? end : r->end;
        for (; from < to; from += PAGE_BYTES)
            s->pages[r->page + (from - r->start) / PAGE_BYTES].kind = kind & 3u;
    }
}

static void pin(uintptr_t at)
{
    struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        if (at < r->start || at >= r->end)
            continue;
        uint64_t page = r->page + (at - r->start) / PAGE_BYTES;
        if (s->pages[page].kind == PAGE_PINNED)
            return;
        s->pages[page].kind = PAGE_PINNED;
        s->hot[s->n_hot++] = (struct hot_page){ page_down(at), (uint32_t)page, 0 };
    }
}

static void build_spans(struct snapshot_self *s)
{
    s->n_spans = 0;
    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        struct range *last = s->n_spans ? &s->spans[s->n_spans - 1] : NULL;
        if (last && r->start - last->end <= SPAN_GAP_BYTES)
            last->end = r->end;
        else
            s->spans[s->n_spans++] = (struct range){ r->start, r->end };
    }
}

static int allocate(struct snapshot_self *s)
{
    s->regions = snapshot_keep_alloc(REGIONS_MAX * sizeof(s->regions[0]));
    s->spans = snapshot_keep_alloc(REGIONS_MAX * sizeof(s->spans[0]));
    s->scratch = snapshot_keep_alloc(SCRATCH_RANGES_MAX * sizeof(s->scratch[0]));
    s->vmas = snapshot_keep_alloc(VMAS_MAX * sizeof(s->vmas[0]));
    s->vmas_now = snapshot_keep_alloc(VMAS_MAX * sizeof(s->vmas[0]));
    s->hot_room = s->options.hot_max + HOLES_MAX;
    s->hot = snapshot_keep_alloc(s->hot_room * sizeof(s->hot[0]));
    return s->regions && s->spans && s->scratch && s->vmas && s->vmas_now && s->hot ? 0 : -ENOMEM;
}

static int describe_pages(const struct making *k)
{
    struct snapshot_self *s = snapshot_self;

    if (s->n_pages == 0 || s->n_pages >= UINT32_MAX / 2)
        return snapshot_refuse(k->refusal, SNAPSHOT_TOO_LARGE, EFBIG, "an image of %lu pages",
                               (unsigned long)s->n_pages);
    s->pages = snapshot_keep_alloc(s->n_pages * sizeof(s->pages[0]));
    s->stack_copy = snapshot_keep_alloc(s->stack_map.end - s->stack_map.start);
    if (!s->pages || !s->stack_copy)
        return snapshot_refuse(k->refusal, SNAPSHOT_TOO_LARGE, ENOMEM,
                               "no kept memory for an image of %lu pages",
                               (unsigned long)s->n_pages);
    for (uint32_t i = 0; i < s->n_scratch_ranges; i++)
        mark(s->scratch[i].start, s->scratch[i].end, PAGE_SCRATCH);
    s->n_hot = 0;
    for (uint32_t i = 0; i < s->n_holes; i++) {
        pin(s->holes[i].start);
        pin(s->holes[i].end - 1);
    }
    build_spans(s);
    long fd = memfd_create("sapid-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0)
        fd = s->fd.memory = fds_own((int)fd);
    else
        fd = -errno;
    if (fd >= 0)
        fd = raw2(SYS_ftruncate, fd, (long)(s->n_pages * PAGE_BYTES));
    return fd < 0 ? snapshot_refuse(k->refusal, SNAPSHOT_SYSTEM, (int)-fd, "memory of the image")
                  : 0;
}

/* --- no libc from here on --------------------------------------------------------------------- */

static int copy_pages(void)
{
    struct snapshot_self *s = snapshot_self;
    size_t bytes = s->n_pages * PAGE_BYTES;
    long view = raw_mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd.memory, 0);

    if (view < 0)
        return (int)view;
    s->n_scratch = 0;
    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        if (!(r->prot & PROT_READ))
            raw_mprotect(r->start, r->end - r->start, PROT_READ);
        for (uintptr_t at = r->start; at < r->end; at += PAGE_BYTES) {
            uint64_t page = r->page + (at - r->start) / PAGE_BYTES;
            if (s->pages[page].kind == PAGE_SCRATCH)
                s->n_scratch++;
            else if (!snapshot_is_zero((const void *)at, PAGE_BYTES))
                snapshot_copy((char *)view + page * PAGE_BYTES, (const void *)at, PAGE_BYTES);
        }
        if (!(r->prot & PROT_READ))
            raw_mprotect(r->start, r->end - r->start, r->prot);
    }
    raw_munmap((uintptr_t)view, bytes);
    long rc = raw3(SYS_fcntl, s->fd.memory, F_ADD_SEALS,
                   F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    if (rc < 0)
        return (int)rc;
    view = raw_mmap(0, bytes, PROT_READ, MAP_SHARED, s->fd.memory, 0);
    if (view < 0)
        return (int)view;
    s->view = (const char *)view;
    s->kept[s->n_kept++] = (struct range){ (uintptr_t)view, (uintptr_t)view + bytes };
    return 0;
}

static void copy_stack(void)
{
    struct snapshot_self *s = snapshot_self;

    s->stack = (struct range){ s->context.word[CONTEXT_SP], s->stack_map.end };
    snapshot_copy(s->stack_copy, (const void *)s->stack.start, s->stack.end - s->stack.start);
}

static int map_image(void)
{
    const struct snapshot_self *s = snapshot_self;

    for (uint32_t i = 0; i < s->n_regions; i++) {
        const struct region *r = &s->regions[i];
        long rc = raw_mmap(r->start, r->end - r->start, r->prot, MAP_PRIVATE | MAP_FIXED,
                           s->fd.memory, r->page * PAGE_BYTES);
        if (rc < 0)
            return (int)rc;
    }
    for (uint32_t i = 0; i < s->n_scratch_ranges; i++) {
        const struct range *r = &s->scratch[i];
        if (r->end - r->start >= SCRATCH_LARGE_PAGES * PAGE_BYTES)
            raw_madvise(r->start, r->end - r->start, MADV_DONTNEED);
    }
    return 0;
}

static long make_image(void *arg)
{
    const struct making *k = arg;
    int rc = copy_pages();

    if (rc < 0)
        return snapshot_refuse(k->refusal, SNAPSHOT_SYSTEM, -rc, "copying memory into the image");
    copy_stack();
    rc = map_image();
    if (rc < 0)
        return snapshot_refuse(k->refusal, SNAPSHOT_SYSTEM, -rc, "mapping the image");
    return 0;
}

/* --- the call --------------------------------------------------------------------------------- */

static void forget(struct snapshot_self *s, uintptr_t keep_next)
{
    if (s->view) {
        raw_munmap((uintptr_t)s->view, s->n_pages * PAGE_BYTES);
        s->n_kept--;
        s->view = NULL;
    }
    fds_forget();
    snapshot_arena_thaw();
    raw_madvise(keep_next, s->keep_next - keep_next, MADV_DONTNEED);
    s->keep_next = keep_next;
    s->n_regions = s->n_hot = s->n_wiped = s->n_scratch_ranges = 0;
    s->n_pages = s->n_scratch = 0;
    s->taking = false;
}

static int resumed(void)
{
    struct snapshot_self *s = snapshot_self;

    /* on the job's own stack again, where a signal that waited may run its handler */
    raw4(SYS_rt_sigprocmask, SIG_SETMASK, (long)&s->signal_mask, 0, 8);
    return SNAPSHOT_RESUMED;
}

static int frozen(struct snapshot_self *s)
{
    s->frozen = true;
    s->taking = false;
    s->scan_next = true;
    s->stats.image_bytes = (s->n_pages - s->n_scratch) * PAGE_BYTES;
    s->stats.regions = s->n_regions;
    s->stats.scratch_bytes = s->n_scratch * PAGE_BYTES;
    for (uint32_t i = 0; i < s->n_scratch_ranges; i++)
        if (s->scratch[i].end - s->scratch[i].start >= SCRATCH_LARGE_PAGES * PAGE_BYTES)
            s->stats.scratch_bytes += s->scratch[i].end - s->scratch[i].start;
    return SNAPSHOT_FROZEN;
}

/* We must run on the stack that snapshot_prepare() ran on: of others no live part is known. */
static int grow_stack(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    uintptr_t here = (uintptr_t)&s, room = s->stack_map.end - here;
    struct rlimit r;

    if (here >= s->stack_map.end || room > (size_t)1 << 30)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, ENOTSUP,
                               "called on another stack (a fiber, a coroutine, a signal's)");
    if (getrlimit(RLIMIT_STACK, &r) == 0 && r.rlim_cur / 2 > room + STACK_BYTES)
        *(volatile char *)(here - STACK_BYTES) = 0;
    return 0;
}

int snapshot_take(const struct snapshot_plan *plan, struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    struct making k = { plan, ret };

    memset(ret, 0, sizeof(*ret));
    ret->fd = -1;
    if (!s)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, ENOTSUP, "snapshot_prepare() was not called");
    CHECK(s->magic == SELF_MAGIC);
    if (s->frozen)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, EALREADY, "the process is frozen already");
    uintptr_t keep_next = s->keep_next;
    free(malloc(HEAP_PAD_BYTES));
    s->taking = true;
    int rc = allocate(s);
    if (rc < 0)
        snapshot_refuse(ret, SNAPSHOT_TOO_LARGE, -rc, "no kept memory for an image");
    if (rc == 0)
        rc = grow_stack(ret);
    if (rc == 0 && s->pid != (pid_t)raw1(SYS_getpid, 0))
        rc = fds_open_own();
    s->state_watched = !(plan && plan->raw_calls) && watch_bind() == 0;
    if (rc == 0)
        rc = kernel_state_record(ret);
    if (rc == 0)
        rc = fds_record(plan, ret);
    if (rc == 0)
        rc = collect_regions(&k);
    if (rc == 0)
        rc = describe_pages(&k);
    if (rc == 0)
        snapshot_arena_freeze();
    if (rc == 0 && snapshot_context_save(&s->context) != 0)
        return resumed();
    if (rc == 0)
        rc = (int)snapshot_call_on((void *)s->own_stack_top, make_image, &k);
    if (rc == 0)
        rc = maps_expect(ret);
    if (rc < 0) {
        forget(s, keep_next);
        return rc;
    }
    return frozen(s);
}
