/*
 * report: what the workers of a generation with images tell of them: the image, what a rollback
 * costs, what requests of each route dirtied, loaded late and left behind. A file of shared memory
 * that the supervisor makes for each such generation; its processes write (no locks: whoever dies
 * in the middle of an entry loses that entry), the gateway reads it for status pages and metrics
 * and trusts nothing in it, and the next generation reads in it what to load before its image.
 *
 * Only names, types and sizes stand here, never values. Tables are bounded; what finds no room is
 * counted.
 */
#ifndef SAPID_CHANNEL_REPORT_H
#define SAPID_CHANNEL_REPORT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"
#include "base/str.h"

enum {
    REPORT_NAMES = 4096,    /* loaded late */
    REPORT_ROUTES = 128,    /* the last one stands for all that found no room */
    REPORT_FINDINGS = 4096, /* left behind, by route */
    REPORT_REASONS = 64,
    REPORT_TEXT_BYTES = 232,
    REPORT_BUCKETS = 96, /* four for each power of two, of nanoseconds, from 256 on */
};

enum report_kind {
    REPORT_FREE,
    /* names */
    REPORT_CLASS, /* of any sort: interface, trait, enum */
    REPORT_FUNCTION,
    REPORT_FILE,
    REPORT_LIBRARY, /* shared object */
    REPORT_LOCALE,
    /* others */
    REPORT_ROUTE,
    REPORT_FINDING,
    REPORT_REFUSAL, /* why an image could not be made */
    REPORT_RESPAWN, /* why a worker was forked anew */
    REPORT_GUARD,   /* that did not hold for requests, which were passed on: "_GET.page" */
    REPORT_KINDS,
};

/* Of a name. */
enum {
    REPORT_TRIED = 1,     /* a generation has tried to load it before its image */
    REPORT_UNDER_WAY = 2, /* and has not come back from that (yet) */
    REPORT_BANNED = 4,    /* loading it did harm: never again */
    REPORT_FLAGS = 7,     /* all of them */
};

struct report_entry {
    _Atomic uint32_t state; /* 0 free, 1 being written, 2 there */
    uint16_t kind, bytes;
    _Atomic uint32_t flags;
    _Atomic uint32_t count; /* requests */
    uint32_t hash;
    uint32_t route; /* finding: index of its route */
    char text[REPORT_TEXT_BYTES];
};
static_assert(sizeof(struct report_entry) == 256, "layout");

struct report_route {
    _Atomic uint64_t requests, pages, pages_max, late_requests, late_names, compiled;
    _Atomic uint64_t sampled; /* requests whose state was compared with the image's */
    uint64_t spare;           /* pages are of the requests that were not sampled */
};

struct report_image {
    _Atomic uint32_t made;    /* times in this generation; 0: not yet */
    _Atomic uint32_t warmed;  /* warm-up requests */
    _Atomic uint32_t loaded;  /* names loaded for it that were learned */
    _Atomic uint32_t gone;    /* learned, but not there any more */
    _Atomic uint64_t made_ns; /* realtime */
    _Atomic uint64_t boot_ns; /* from the start of its process on */
    _Atomic uint64_t bytes, regions, scratch_bytes;
};

struct report_counters {
    _Atomic uint64_t rollbacks, rollback_ns, rollback_max_ns;
    _Atomic uint64_t pages, hot_pages;  /* put back; in the hot set, of the worker that told last */
    _Atomic uint64_t requests_late;     /* that loaded something after the image */
    _Atomic uint64_t requests_late_new; /* of them: something that no generation has tried yet */
    _Atomic uint64_t names_new;         /* noted for the first time */
    _Atomic uint64_t compiled;          /* scripts that requests compiled */
    _Atomic uint64_t sampled, findings;
    _Atomic uint64_t dropped_names, dropped_findings, dropped_routes;
    _Atomic uint64_t harm;       /* names found out to do harm in the image */
    _Atomic uint64_t renewals;   /* generations that were asked for because of late names */
    _Atomic uint64_t renewed_ns; /* monotonic: when the last one was; handed on */
};

struct report {
    uint32_t magic, bytes;
    struct report_entry why; /* the generation was started; kind REPORT_FREE: nobody said */
    struct report_image image;
    struct report_counters count;
    _Atomic uint64_t buckets[REPORT_BUCKETS]; /* of the time of rollbacks */
    struct report_entry reasons[REPORT_REASONS];
    struct report_entry route_names[REPORT_ROUTES];
    struct report_route routes[REPORT_ROUTES];
    struct report_entry names[REPORT_NAMES];
    struct report_entry findings[REPORT_FINDINGS];
};

/* A memfd of that size that cannot shrink. Descriptor or -errno. */
MUST_USE int report_create(void);
/* 0, -EPROTO: no such file, -errno. `write`: false in the gateway. */
MUST_USE int report_map(int fd, bool write, struct report **ret);
void report_unmap(struct report *r); /* NULL is fine */

/* --- writers: processes of the pool ----------------------------------------------------------- */

/* The entry of that kind, route (0: of no matter) and text in `table`, made if need be; its count
 * grows by one. `ret_new` (may be NULL): it was made. NULL: there is no room. */
struct report_entry *report_note(struct report_entry *table, uint32_t n, enum report_kind kind,
                                 uint32_t route, struct str text, bool *ret_new);
/* Sets an entry that only its owner writes. */
void report_set(struct report_entry *e, enum report_kind kind, struct str text);
/* Index of the route. */
uint32_t report_find_route(struct report *r, struct str name);
void report_reason(struct report *r, enum report_kind kind, struct str text);
struct report_cost {
    uint32_t route;
    bool compared; /* the request was one of isolation.c's: what it cost is not the application's */
    uint64_t ns, pages, hot_pages;
};
void report_rollback(struct report *r, const struct report_cost *cost);
/* What `from` has of names, and when the pool was renewed for their sake. */
void report_inherit(struct report *r, const struct report *from);

struct report_view;
/* Puts a name there, with its count and flags. Without effect where there is no room. */
void report_put_name(struct report *r, const struct report_view *v);

/* --- readers ---------------------------------------------------------------------------------- */

struct report_view {
    enum report_kind kind;
    uint32_t flags, count, route;
    struct str text; /* in `copy` */
    char copy[REPORT_TEXT_BYTES];
};
/* False: there is none. */
bool report_read(const struct report_entry *e, struct report_view *ret);
/* The reason of that kind that was given most often. False: there is none. */
bool report_find_most(const struct report *r, enum report_kind kind, struct report_view *ret);
/* Of all rollbacks so far; 0 when there were none. As exact as a bucket, some 20 %. */
uint64_t report_rollback_percentile_ns(const struct report *r, double percent);

static inline uint64_t report_get(const _Atomic uint64_t *n)
{
    return atomic_load_explicit(n, memory_order_relaxed);
}
static inline void report_add(_Atomic uint64_t *n, uint64_t more)
{
    atomic_fetch_add_explicit(n, more, memory_order_relaxed);
}

#endif
