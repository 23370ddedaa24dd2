/*
 * What the gateway counts of requests: per place (own answers, files, each pool, each [[route]])
 * and thread, and per pool what PHP-FPM's status page shows of a pool. Nothing here is on disk or
 * in shared memory: a gateway that dies begins at zero.
 */
#ifndef SAPID_GATEWAY_STATS_H
#define SAPID_GATEWAY_STATS_H

#include <stdatomic.h>

#include "base/hist.h"
#include "gateway/bulkhead.h"
#include "gateway/gateway_int.h"
#include "gateway/upstream.h"

enum { PLACE_OWN, PLACE_FILES, PLACE_FIRST_POOL };

/* Where requests are counted. Lives as long as the gateway; the same [[route]] of a later
 * generation is the same place. */
struct place {
    uint32_t index;
    char name[96];    /* "own", "files", "pool www", "route prefix /api/" */
    struct gate gate; /* of a route with max_concurrency */
};

/* Of one place and thread; of all threads after stats_collect. */
struct place_stats {
    uint64_t requests, aborted; /* aborted: without a whole answer, not in `requests` */
    uint64_t status[6];         /* by hundreds, [0] unused */
    uint64_t bytes_in, bytes_out;
    struct hist *latency; /* ns from the first byte of the head to the last of the answer */
};

/* Of one pool over all its generations; any thread. */
struct pool_figures {
    _Atomic uint64_t accepted;      /* requests given to its workers */
    _Atomic uint64_t limit_reached; /* times that a request had to wait with all workers busy */
    _Atomic uint32_t active_max, queue_max;
    _Atomic uint64_t answered_ns; /* monotonic: when PHP answered last */
    _Atomic uint64_t crashes;     /* workers that died of a signal of their own */
};

void stats_init(struct gateway *g);
/* Main thread: the places of a generation's [[route]] tables. */
void stats_add_routes(struct pool_link *link);
/* The request begins to be dealt with as `route` says. */
void stats_place(struct exchange *x, const struct route *route);
/* Its answer is complete, or will never be. */
void stats_record(struct exchange *x, bool complete);
/* The channel took a request, and has finished with one. */
void stats_pushed(struct backend *b);
void stats_left(struct backend *b);
/* An image did not take a request that it was given. */
void stats_passed_on(struct backend *b);
/* A worker of that generation answered. */
void stats_answered(struct backend *b);

/* --- all threads' figures --------------------------------------------------------------------- */

struct upstream_sum {
    char address[112];
    enum upstream_breaker breaker; /* the worst of any thread */
    uint32_t active, idle;
    struct upstream_server_counters count;
};
enum { UPSTREAM_SUMS_MAX = 64 };

struct stats {
    struct gateway_counters count;
    uint32_t connections;
    uint32_t waiting[POOLS_MAX]; /* for a generation of the pool, in gateway queues */
    struct place_stats *places[PLACES_MAX];
    struct upstream_counters upstream;
    uint32_t upstream_queued, n_upstreams;
    struct upstream_sum upstreams[UPSTREAM_SUMS_MAX];

    /* private */
    struct gateway_thread *asker;
    void (*done)(void *ctx, struct stats *s);
    void *ctx;
};
/* Goes round the threads, each of which adds its own, and calls `done` in the asking thread, maybe
 * before it returns. `done` frees it. */
void stats_collect(struct gateway_thread *t, void (*done)(void *ctx, struct stats *s), void *ctx);
void stats_free(struct stats *s);

#endif
