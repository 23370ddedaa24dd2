/*
 * The arena: one reserved range from which the anonymous mappings of a prepared process are made.
 * It is one mapping of the kernel, readable and writable from the start, so mmap and munmap of a
 * job change nothing that rollback would have to put back: the allocation map (`extents`) is
 * ordinary memory, part of the image, and what a job wrote into free arena memory is zeroed again.
 *
 * Invariant: free arena memory that is not of the image is anonymous, readable, writable and zero.
 * Memory of the image that a job frees is not given out again before the rollback.
 */
#include <errno.h>
#include <string.h>

#include "snapshot/arena_int.h"

enum {
    EXTENTS_MAX = 8192,
    LARGE_BYTES = 2 << 20, /* aligned to this: Zend's chunks fit at the first try */
    USED_BY_IMAGE = 1,     /* in use when the image was made */
    FREED_BY_JOB = 2,      /* of the image, and free for the rest of the job */
    FOREIGN = 4,           /* the kernel mapped something of its own there */
    NORMAL_PROT = PROT_READ | PROT_WRITE,
};

struct extent {
    uint32_t page, n; /* from the arena's start */
    uint8_t prot, flags;
};

/* Part of the image. */
static struct extent extents[EXTENTS_MAX];
static uint32_t n_extents;

int snapshot_arena_init(size_t bytes)
{
    struct snapshot_self *s = snapshot_self;
    size_t least = bytes < ((size_t)1 << 30) ? bytes : (size_t)1 << 30;

    for (bytes = (bytes + LARGE_BYTES - 1) / LARGE_BYTES * LARGE_BYTES; bytes >= least;
         bytes /= 2) {
        long at = raw_mmap(0, bytes + LARGE_BYTES, NORMAL_PROT,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at < 0)
            continue;
        s->arena.start = ((uintptr_t)at + LARGE_BYTES - 1) / LARGE_BYTES * LARGE_BYTES;
        s->arena.end = s->arena.start + bytes;
        if (s->arena.start > (uintptr_t)at)
            raw_munmap((uintptr_t)at, s->arena.start - (uintptr_t)at);
        uintptr_t end = (uintptr_t)at + bytes + LARGE_BYTES;
        if (end > s->arena.end)
            raw_munmap(s->arena.end, end - s->arena.end);
        n_extents = 0;
        return 0;
    }
    return -ENOMEM;
}

bool snapshot_arena_has(uintptr_t start, uintptr_t end)
{
    const struct snapshot_self *s = snapshot_self;

    return s && start >= s->arena.start && end <= s->arena.end && start < end;
}

static uint32_t page_of(uintptr_t at)
{
    return (uint32_t)((at - snapshot_self->arena.start) / PAGE_BYTES);
}

static uintptr_t address_of(uint32_t page)
{
    return snapshot_self->arena.start + (uintptr_t)page * PAGE_BYTES;
}

/* The first extent that ends behind `page`. */
static uint32_t find(uint32_t page)
{
    uint32_t low = 0, high = n_extents;

    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (extents[mid].page + extents[mid].n <= page)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void insert(uint32_t i, struct extent e)
{
    CHECK(n_extents < EXTENTS_MAX);
    memmove(&extents[i + 1], &extents[i], (n_extents - i) * sizeof(extents[0]));
    extents[i] = e;
    n_extents++;
}

static void erase(uint32_t i)
{
    n_extents--;
    memmove(&extents[i], &extents[i + 1], (n_extents - i) * sizeof(extents[0]));
}

static bool joins(const struct extent *a, const struct extent *b)
{
    return a->page + a->n == b->page && a->prot == b->prot && a->flags == b->flags;
}

static void join_neighbours(uint32_t i)
{
    if (i + 1 < n_extents && joins(&extents[i], &extents[i + 1])) {
        extents[i].n += extents[i + 1].n;
        erase(i + 1);
    }
    if (i > 0 && joins(&extents[i - 1], &extents[i])) {
        extents[i - 1].n += extents[i].n;
        erase(i);
    }
}

/* Makes `page` a border between extents. */
static void split(uint32_t page)
{
    uint32_t i = find(page);

    if (i == n_extents || extents[i].page >= page)
        return;
    struct extent tail = extents[i];
    tail.n -= page - tail.page;
    tail.page = page;
    extents[i].n = page - extents[i].page;
    insert(i + 1, tail);
}

static bool is_free(uint32_t page, uint32_t n)
{
    uint32_t i = find(page);

    return i == n_extents || extents[i].page >= page + n;
}

/* First fit. UINT32_MAX: none. */
static uint32_t find_free(uint32_t n)
{
    uint32_t align = n >= LARGE_BYTES / PAGE_BYTES ? LARGE_BYTES / PAGE_BYTES : 1;
    uint32_t total = page_of(snapshot_self->arena.end), at = 0;

    for (uint32_t i = 0; i <= n_extents; i++) {
        uint32_t end = i < n_extents ? extents[i].page : total;
        if (at < end && end - at >= n)
            return at;
        if (i < n_extents)
            at = (extents[i].page + extents[i].n + align - 1) / align * align;
    }
    return UINT32_MAX;
}

/* Adds to a list of ranges; ranges that touch become one, and when it is full the last takes all.
 */
static void note(struct range *list, uint32_t *n, uint32_t max, uintptr_t start, uintptr_t end)
{
    struct range *last;

    for (uint32_t i = 0; i < *n; i++) {
        struct range *r = &list[i];
        if (start <= r->end && end >= r->start) {
            r->start = start < r->start ? start : r->start;
            r->end = end > r->end ? end : r->end;
            return;
        }
    }
    if (*n < max) {
        list[(*n)++] = (struct range){ start, end };
        return;
    }
    last = &list[*n - 1];
    last->start = start < last->start ? start : last->start;
    last->end = end > last->end ? end : last->end;
}

/* Remembers what the job was given, for snapshot_arena_rollback. */
static void note_job_map(uintptr_t start, uintptr_t end)
{
    struct snapshot_self *s = snapshot_self;

    if (s->frozen)
        note(s->job_maps, &s->n_job_maps, ARRAY_LENGTH(s->job_maps), start, end);
}

/* A stretch whose protection differs from the arena's. */
static void note_odd(uintptr_t start, uintptr_t end)
{
    struct snapshot_self *s = snapshot_self;

    if (!s->frozen)
        return;
    if (s->n_job_odd < ARRAY_LENGTH(s->job_odd))
        s->job_odd[s->n_job_odd++] = (struct range){ start, end };
    else
        s->maps_touched = true;
}

static void *claim(uint32_t page, uint32_t n, int prot)
{
    uintptr_t start = address_of(page), end = start + (uintptr_t)n * PAGE_BYTES;

    if (prot != NORMAL_PROT) {
        if (raw_mprotect(start, end - start, prot) < 0)
            return NULL;
        note_odd(start, end);
    }
    if (end > snapshot_self->arena_top)
        snapshot_self->arena_top = end;
    uint32_t i = find(page);
    insert(i, (struct extent){ page, n, (uint8_t)prot, 0 });
    join_neighbours(i);
    note_job_map(start, end);
    return (void *)start;
}

void *snapshot_arena_map(void *hint, size_t bytes, int prot)
{
    uintptr_t at = (uintptr_t)hint;
    uint64_t n = (bytes + PAGE_BYTES - 1) / PAGE_BYTES;

    if (n == 0 || n >= UINT32_MAX || n_extents + 4 > EXTENTS_MAX)
        return NULL;
    if (hint && at % PAGE_BYTES == 0 && snapshot_arena_has(at, at + n * PAGE_BYTES) &&
        is_free(page_of(at), (uint32_t)n))
        return claim(page_of(at), (uint32_t)n, prot);
    uint32_t page = find_free((uint32_t)n);
    return page == UINT32_MAX ? NULL : claim(page, (uint32_t)n, prot);
}

/* The memory of one extent becomes free: zero and of the arena's protection again. */
static int release(const struct extent *e)
{
    uintptr_t at = address_of(e->page);
    size_t bytes = (size_t)e->n * PAGE_BYTES;
    long rc;

    if (e->flags & FOREIGN) {
        rc = raw_mmap(at, bytes, NORMAL_PROT,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        return rc < 0 ? (int)rc : 0;
    }
    rc = raw_madvise(at, bytes, MADV_DONTNEED);
    if (rc == 0 && e->prot != NORMAL_PROT)
        rc = raw_mprotect(at, bytes, NORMAL_PROT);
    return (int)rc;
}

int snapshot_arena_unmap(uintptr_t start, uintptr_t end)
{
    uint32_t first = page_of(start), stop = page_of(end);

    if (n_extents + 4 > EXTENTS_MAX)
        return -ENOMEM;
    split(first);
    split(stop);
    for (uint32_t i = find(first); i < n_extents && extents[i].page < stop;) {
        if (extents[i].flags & USED_BY_IMAGE) {
            extents[i].flags |= FREED_BY_JOB;
            i++;
            continue;
        }
        int rc = release(&extents[i]);
        if (rc < 0)
            return rc;
        erase(i);
    }
    return 0;
}

void *snapshot_arena_map_fixed(uintptr_t start, size_t bytes, int prot)
{
    uintptr_t end = start + page_up(bytes);
    uint32_t first = page_of(start), stop = page_of(end);

    if (n_extents + 6 > EXTENTS_MAX || snapshot_arena_unmap(start, end) < 0)
        return NULL;
    for (uint32_t at = first; at < stop;) {
        uint32_t i = find(at);
        if (i == n_extents || extents[i].page >= stop)
            return claim(at, stop - at, prot) ? (void *)start : NULL;
        if (extents[i].page > at) {
            if (!claim(at, extents[i].page - at, prot))
                return NULL;
            at = extents[find(at)].page + extents[find(at)].n;
            continue;
        }
        /* of the image: the job has it again, zeroed */
        uintptr_t part = address_of(at);
        size_t part_bytes = (size_t)extents[i].n * PAGE_BYTES;
        if (raw_mprotect(part, part_bytes, NORMAL_PROT) < 0)
            return NULL;
        memset((void *)part, 0, part_bytes);
        if (prot != NORMAL_PROT && raw_mprotect(part, part_bytes, prot) < 0)
            return NULL;
        if (prot != extents[i].prot)
            snapshot_self->maps_touched = true;
        extents[i].prot = (uint8_t)prot;
        extents[i].flags &= (uint8_t)~FREED_BY_JOB;
        at += extents[i].n;
    }
    return (void *)start;
}

/* What was unreadable when the image was made had nothing in it, or is a region. */
static void note_image_protected(const struct extent *e)
{
    struct snapshot_self *s = snapshot_self;

    s->maps_touched = true;
    if (e->prot == PROT_NONE)
        note(s->unveiled, &s->n_unveiled, ARRAY_LENGTH(s->unveiled), address_of(e->page),
             address_of(e->page + e->n));
}

int snapshot_arena_protect(uintptr_t start, uintptr_t end, int prot)
{
    uint32_t first = page_of(start), stop = page_of(end);
    long rc = raw_mprotect(start, end - start, prot);

    if (rc < 0 || n_extents + 4 > EXTENTS_MAX)
        return rc < 0 ? (int)rc : -ENOMEM;
    split(first);
    split(stop);
    for (uint32_t i = find(first); i < n_extents && extents[i].page < stop; i++) {
        if (snapshot_self->frozen && (extents[i].flags & USED_BY_IMAGE))
            note_image_protected(&extents[i]);
        extents[i].prot = (uint8_t)prot;
    }
    note_odd(start, end);
    return 0;
}

void *snapshot_arena_remap(uintptr_t start, size_t old_bytes, size_t new_bytes, bool may_move)
{
    uintptr_t old_end = start + page_up(old_bytes);
    size_t wanted = page_up(new_bytes);

    if (wanted <= old_end - start) {
        if (wanted < old_end - start && snapshot_arena_unmap(start + wanted, old_end) < 0)
            return NULL;
        return (void *)start;
    }
    uint32_t i = find(page_of(start));
    if (i == n_extents || extents[i].page > page_of(start))
        return NULL;
    int prot = extents[i].prot;
    size_t more = wanted - (old_end - start);
    if (snapshot_arena_has(old_end, old_end + more) &&
        is_free(page_of(old_end), (uint32_t)(more / PAGE_BYTES)) && n_extents + 4 <= EXTENTS_MAX)
        return claim(page_of(old_end), (uint32_t)(more / PAGE_BYTES), prot) ? (void *)start : NULL;
    if (!may_move)
        return NULL;
    void *to = snapshot_arena_map(NULL, wanted, NORMAL_PROT);
    if (!to)
        return NULL;
    memcpy(to, (void *)start, old_end - start);
    if (prot != NORMAL_PROT &&
        snapshot_arena_protect((uintptr_t)to, (uintptr_t)to + wanted, prot) < 0)
        return NULL;
    return snapshot_arena_unmap(start, old_end) < 0 ? NULL : to;
}

int snapshot_arena_foreign(uintptr_t start, uintptr_t end)
{
    uint32_t first = page_of(start), stop = page_of(end);
    int rc = snapshot_arena_unmap(start, end);

    snapshot_self->maps_touched = true;
    if (rc < 0 || !is_free(first, stop - first))
        return rc; /* of the image: rollback will see that it was replaced */
    insert(find(first), (struct extent){ first, stop - first, NORMAL_PROT, FOREIGN });
    return 0;
}

uint32_t snapshot_arena_used(struct range *ret, uint32_t max, uint32_t from)
{
    uint32_t n = 0;

    for (uint32_t i = from; i < n_extents && n < max; i++)
        ret[n++] = (struct range){ address_of(extents[i].page),
                                   address_of(extents[i].page + extents[i].n) };
    return n;
}

void snapshot_arena_freeze(void)
{
    for (uint32_t i = 0; i < n_extents; i++)
        extents[i].flags |= USED_BY_IMAGE;
    snapshot_self->n_job_maps = snapshot_self->n_job_odd = snapshot_self->n_unveiled = 0;
}

void snapshot_arena_thaw(void)
{
    for (uint32_t i = 0; i < n_extents; i++)
        extents[i].flags = 0;
}
