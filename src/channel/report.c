/*
 * The shared memory of reports: bounded tables of texts with open addressing. An entry is claimed
 * by compare-and-swap, filled, and published; it is never taken back, so that nobody waits for
 * anybody. Two processes that note the same new text in the same moment make two entries, which
 * costs a place and nothing else.
 */
#include "channel/report.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

enum { ENTRY_FREE, ENTRY_CLAIMED, ENTRY_THERE };
enum { PROBES = 32, MAGIC = 0x52657074, BUCKET_FIRST_BITS = 8 };

/* --- the file --------------------------------------------------------------------------------- */

int report_create(void)
{
    int fd = memfd_create("sapid-report", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    const uint32_t head[2] = { MAGIC, sizeof(struct report) };
    if (ftruncate(fd, sizeof(struct report)) < 0 ||
        pwrite(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int report_map(int fd, bool write, struct report **ret)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size != (off_t)sizeof(struct report) || seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPROTO;
    void *at = mmap(NULL, sizeof(struct report), write ? PROT_READ | PROT_WRITE : PROT_READ,
                    MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    struct report *r = at;
    if (r->magic != MAGIC || r->bytes != sizeof(*r)) {
        munmap(at, sizeof(*r));
        return -EPROTO;
    }
    *ret = r;
    return 0;
}

void report_unmap(struct report *r)
{
    if (r)
        munmap(r, sizeof(*r));
}

/* --- writing ---------------------------------------------------------------------------------- */

static uint32_t hash_of(enum report_kind kind, uint32_t route, struct str text)
{
    const uint32_t about[] = { (uint32_t)kind, route };

    return str_hash_more(str_hash((struct str){ (const char *)about, sizeof(about) }), text);
}

static void fill(struct report_entry *e, enum report_kind kind, uint32_t route, uint32_t hash,
                 struct str text)
{
    e->kind = (uint16_t)kind;
    e->bytes = (uint16_t)text.n;
    e->hash = hash;
    e->route = route;
    atomic_store_explicit(&e->flags, 0, memory_order_relaxed);
    atomic_store_explicit(&e->count, 0, memory_order_relaxed);
    if (text.n)
        memcpy(e->text, text.p, text.n);
    /* Release: partners are the acquires in report_note and report_read. */
    atomic_store_explicit(&e->state, ENTRY_THERE, memory_order_release);
}

static bool is_it(const struct report_entry *e, enum report_kind kind, uint32_t route,
                  uint32_t hash, struct str text)
{
    return e->hash == hash && e->kind == kind && e->route == route && e->bytes == text.n &&
           (text.n == 0 || memcmp(e->text, text.p, text.n) == 0);
}

struct report_entry *report_note(struct report_entry *table, uint32_t n, enum report_kind kind,
                                 uint32_t route, struct str text, bool *ret_new)
{
    CHECK(n > 0 && kind > REPORT_FREE && kind < REPORT_KINDS);
    if (text.n > REPORT_TEXT_BYTES)
        return NULL;
    uint32_t hash = hash_of(kind, route, text);
    for (uint32_t i = 0; i < PROBES && i < n; i++) {
        struct report_entry *e = &table[(hash + i) % n];
        uint32_t state = atomic_load_explicit(&e->state, memory_order_acquire);
        bool made = false;
        if (state == ENTRY_FREE) {
            made = atomic_compare_exchange_strong_explicit(
                &e->state, &state, ENTRY_CLAIMED, memory_order_acquire, memory_order_acquire);
            if (made)
                fill(e, kind, route, hash, text);
        }
        if (!made && (state != ENTRY_THERE || !is_it(e, kind, route, hash, text)))
            continue;
        atomic_fetch_add_explicit(&e->count, 1, memory_order_relaxed);
        if (ret_new)
            *ret_new = made;
        return e;
    }
    return NULL;
}

void report_set(struct report_entry *e, enum report_kind kind, struct str text)
{
    text = str_take(text, REPORT_TEXT_BYTES);
    atomic_store_explicit(&e->state, ENTRY_CLAIMED, memory_order_relaxed);
    fill(e, kind, 0, hash_of(kind, 0, text), text);
}

uint32_t report_find_route(struct report *r, struct str name)
{
    enum { OTHERS = REPORT_ROUTES - 1 };
    bool made = false;
    struct report_entry *e =
        report_note(r->route_names, OTHERS, REPORT_ROUTE, 0, str_take(name, 200), &made);

    if (e)
        return (uint32_t)(e - r->route_names);
    report_add(&r->count.dropped_routes, 1);
    e = &r->route_names[OTHERS];
    if (atomic_load_explicit(&e->state, memory_order_relaxed) != ENTRY_THERE)
        report_set(e, REPORT_ROUTE, STR("(other routes)"));
    atomic_fetch_add_explicit(&e->count, 1, memory_order_relaxed);
    return OTHERS;
}

void report_reason(struct report *r, enum report_kind kind, struct str text)
{
    (void)!report_note(r->reasons, REPORT_REASONS, kind, 0, str_take(text, REPORT_TEXT_BYTES),
                       NULL);
}

static void raise(_Atomic uint64_t *most, uint64_t n)
{
    uint64_t now = atomic_load_explicit(most, memory_order_relaxed);

    while (n > now && !atomic_compare_exchange_weak_explicit(most, &now, n, memory_order_relaxed,
                                                             memory_order_relaxed))
        continue;
}

/* 4 buckets for each power of two: the two bits behind the first one. */
static uint32_t bucket_of(uint64_t ns)
{
    if (ns < 1u << BUCKET_FIRST_BITS)
        return 0;
    uint32_t bits = 63 - (uint32_t)__builtin_clzll(ns);
    uint32_t i = (bits - BUCKET_FIRST_BITS) * 4 + (uint32_t)(ns >> (bits - 2) & 3);
    return i < REPORT_BUCKETS ? i : REPORT_BUCKETS - 1;
}

static uint64_t bucket_end(uint32_t i)
{
    return (uint64_t)(5 + i % 4) << (BUCKET_FIRST_BITS - 2 + i / 4);
}

void report_rollback(struct report *r, const struct report_cost *cost)
{
    struct report_counters *c = &r->count;
    struct report_route *route = cost->route < REPORT_ROUTES ? &r->routes[cost->route] : NULL;

    report_add(&c->rollbacks, 1);
    if (route)
        report_add(&route->requests, 1);
    if (cost->compared)
        return;
    report_add(&c->rollback_ns, cost->ns);
    raise(&c->rollback_max_ns, cost->ns);
    report_add(&c->pages, cost->pages);
    atomic_store_explicit(&c->hot_pages, cost->hot_pages, memory_order_relaxed);
    report_add(&r->buckets[bucket_of(cost->ns)], 1);
    if (!route)
        return;
    report_add(&route->pages, cost->pages);
    raise(&route->pages_max, cost->pages);
}

void report_put_name(struct report *r, const struct report_view *v)
{
    struct report_entry *e = report_note(r->names, REPORT_NAMES, v->kind, 0, v->text, NULL);

    if (!e)
        return;
    atomic_store_explicit(&e->count, v->count, memory_order_relaxed);
    atomic_store_explicit(&e->flags, v->flags, memory_order_relaxed);
}

void report_inherit(struct report *r, const struct report *from)
{
    for (uint32_t i = 0; i < REPORT_NAMES; i++) {
        struct report_view v;
        if (report_read(&from->names[i], &v) && v.count != 0)
            report_put_name(r, &v);
    }
    atomic_store_explicit(&r->count.renewals, report_get(&from->count.renewals),
                          memory_order_relaxed);
    atomic_store_explicit(&r->count.renewed_ns, report_get(&from->count.renewed_ns),
                          memory_order_relaxed);
}

/* --- reading ---------------------------------------------------------------------------------- */

bool report_read(const struct report_entry *e, struct report_view *ret)
{
    if (atomic_load_explicit(&e->state, memory_order_acquire) != ENTRY_THERE)
        return false;
    uint16_t kind = *(const volatile uint16_t *)&e->kind;
    uint16_t bytes = *(const volatile uint16_t *)&e->bytes;
    if (kind == REPORT_FREE || kind >= REPORT_KINDS || bytes > REPORT_TEXT_BYTES)
        return false;
    memcpy(ret->copy, e->text, bytes);
    ret->text = (struct str){ ret->copy, bytes };
    ret->kind = kind;
    ret->flags = atomic_load_explicit(&e->flags, memory_order_relaxed);
    ret->count = atomic_load_explicit(&e->count, memory_order_relaxed);
    ret->route = *(const volatile uint32_t *)&e->route;
    return true;
}

bool report_find_most(const struct report *r, enum report_kind kind, struct report_view *ret)
{
    bool any = false;
    struct report_view v;

    for (uint32_t i = 0; i < REPORT_REASONS; i++) {
        if (!report_read(&r->reasons[i], &v) || v.kind != kind || (any && v.count <= ret->count))
            continue;
        *ret = v;
        ret->text.p = ret->copy;
        any = true;
    }
    return any;
}

uint64_t report_rollback_percentile_ns(const struct report *r, double percent)
{
    uint64_t all = 0, seen = 0, most = report_get(&r->count.rollback_max_ns);

    for (uint32_t i = 0; i < REPORT_BUCKETS; i++)
        all += report_get(&r->buckets[i]);
    for (uint32_t i = 0; i < REPORT_BUCKETS && all; i++) {
        seen += report_get(&r->buckets[i]);
        if ((double)seen >= (double)all * percent / 100)
            return bucket_end(i) < most ? bucket_end(i) : most;
    }
    return 0;
}
