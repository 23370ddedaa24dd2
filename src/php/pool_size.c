/*
 * How many workers the pool has, and which of them are replaced.
 *
 * The channel has a seat for every worker there may ever be. A pool of fixed size fills them all.
 * One that changes (min, max, spare) starts workers when requests wait and nobody is idle: the
 * gateway says so (WORKERS_WANTED), and while there are workers this process looks by itself. When
 * more than `spare` have been idle for worker_idle_timeout, the one that has been idle for longest
 * ends, one after the other, down to `min`.
 *
 * A worker that is too old, too large, or has had its number of requests is replaced: its successor
 * starts first, in a seat kept for that, and when that takes requests the old one is told to
 * finish. One at a time, so that a pool is never short of workers because of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/param.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kernel_file.h"
#include "php/pool_int.h"

enum {
    LOOK_MS = 100,       /* of a pool whose size changes, while it has workers */
    RECYCLE_MS = 500,    /* between two looks for workers to replace */
    START_MOST = 8,      /* workers at one look */
    END_MS = 100,        /* between two that end because they are not needed */
    EXPLAIN_MS = 1000,   /* after the start of the first worker: what one costs */
    READY_LIMIT_S = 120, /* for a successor */
};

/* --- what is there ---------------------------------------------------------------------------- */

struct census {
    uint32_t live;     /* not told to end; a seat that waits after a crash counts */
    uint32_t starting; /* not yet at the channel */
    uint32_t idle, busy;
};

static bool is_attached(const struct pool *p, uint32_t i, struct channel_worker_info *info)
{
    channel_worker_look(p->channel, i, info);
    return info->incarnation == p->seats[i].incarnation && info->state != CHANNEL_WORKER_NONE &&
           info->pid == (uint32_t)p->seats[i].pid;
}

static void count(const struct pool *p, uint64_t now, struct census *ret)
{
    struct channel_worker_info info;

    *ret = (struct census){ 0 };
    for (uint32_t i = 0; i < p->n_seats; i++) {
        const struct seat *s = &p->seats[i];
        if (s->pid == 0) {
            ret->live += s->not_before_ns > now;
            continue;
        }
        if (s->retiring)
            continue;
        ret->live++;
        if (!is_attached(p, i, &info))
            ret->starting++;
        else if (info.state == CHANNEL_WORKER_BUSY)
            ret->busy++;
        else
            ret->idle++;
    }
}

static void retire(struct pool *p, uint32_t i, const char *why)
{
    log_debug("worker %u [%d] is told to finish: %s", i, (int)p->seats[i].pid, why);
    p->seats[i].retiring = true;
    kill(p->seats[i].pid, SIGQUIT);
}

/* --- a number that changes -------------------------------------------------------------------- */

static void grow(struct pool *p, const struct census *c, uint32_t queued)
{
    struct pool_size *z = &p->size;
    uint32_t coming = c->idle + c->starting;
    uint32_t wanted = queued > coming ? queued - coming : 0;

    if (coming < z->spare + wanted && z->spare > coming)
        wanted = wanted > z->spare - coming ? wanted : z->spare - coming;
    if (wanted > START_MOST)
        wanted = START_MOST;
    uint32_t target = c->live + wanted;
    if (target < z->min)
        target = z->min;
    if (wanted && target > z->target)
        z->target = target < z->max ? target : z->max;
}

/* The one that has been idle for longest; the gateway wakes low numbers first, so among equals the
 * highest. */
static void end_idle(struct pool *p)
{
    struct channel_worker_info info;
    uint32_t oldest = p->n_seats;
    uint64_t since = UINT64_MAX;

    for (uint32_t i = 0; i < p->n_seats; i++) {
        if (p->seats[i].pid == 0 || p->seats[i].retiring || !is_attached(p, i, &info) ||
            info.state != CHANNEL_WORKER_IDLE || info.since_ns > since)
            continue;
        oldest = i;
        since = info.since_ns;
    }
    if (oldest < p->n_seats)
        retire(p, oldest, "it is not needed");
}

static void shrink(struct pool *p, const struct census *c, uint32_t queued, uint64_t now)
{
    struct pool_size *z = &p->size;

    if (queued || c->starting || c->idle <= z->spare || c->live <= z->min) {
        z->excess_since_ns = 0;
        return;
    }
    if (z->excess_since_ns == 0)
        z->excess_since_ns = now;
    if (now - z->excess_since_ns < p->conf->worker_idle_timeout_ms * NS_PER_MS)
        return;
    z->target = c->live - 1;
    end_idle(p);
    /* the next one soon */
    z->excess_since_ns = now - p->conf->worker_idle_timeout_ms * NS_PER_MS + END_MS * NS_PER_MS;
}

/* --- replacing -------------------------------------------------------------------------------- */

/* Resident pages that are not shared with a file or other memory; pages still shared with the
 * process it was forked from count. */
static uint64_t own_bytes(pid_t pid)
{
    char path[32], text[128];
    unsigned long resident, shared;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    if (!kernel_file_read(path, text, sizeof(text)) ||
        sscanf(text, "%*u %lu %lu", &resident, &shared) != 2 || shared > resident)
        return 0;
    return (uint64_t)(resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static const char *why_replace(const struct pool *p, uint32_t i,
                               const struct channel_worker_info *info, uint64_t now)
{
    const struct config_pool *c = p->conf;
    const struct seat *s = &p->seats[i];

    if (c->worker_max_age_ms && now - s->started_ns >= c->worker_max_age_ms * NS_PER_MS)
        return "worker_max_age";
    if (s->max_requests && info->requests >= s->max_requests)
        return "worker_max_requests";
    if (c->worker_max_memory && own_bytes(s->pid) >= c->worker_max_memory)
        return "worker_max_memory";
    return NULL;
}

/* A successor starts beside the first worker that is due. */
static void begin_recycle(struct pool *p, uint64_t now)
{
    struct channel_worker_info info;
    struct pool_size *z = &p->size;

    for (uint32_t k = 0; k < p->n_seats; k++) {
        uint32_t i = (z->recycle_from + k) % p->n_seats;
        if (p->seats[i].pid == 0 || p->seats[i].retiring || !is_attached(p, i, &info))
            continue;
        const char *why = why_replace(p, i, &info, now);
        if (!why)
            continue;
        z->recycled = true;
        z->recycled_seat = i;
        z->recycled_incarnation = p->seats[i].incarnation;
        z->successor_after = p->incarnations;
        z->recycle_why = why;
        z->recycle_since_ns = now;
        z->recycle_from = i + 1;
        return;
    }
}

/* The old one ends when the new one is at the channel. */
static void go_on_recycling(struct pool *p, uint64_t now)
{
    struct pool_size *z = &p->size;
    const struct seat *old = &p->seats[z->recycled_seat];
    struct channel_worker_info info;

    if (old->pid == 0 || old->incarnation != z->recycled_incarnation) {
        z->recycled = false; /* it has ended by itself */
        return;
    }
    for (uint32_t i = 0; i < p->n_seats; i++)
        if (p->seats[i].pid && p->seats[i].incarnation > z->successor_after &&
            is_attached(p, i, &info)) {
            retire(p, z->recycled_seat, z->recycle_why);
            z->recycled = false;
            return;
        }
    if (now - z->recycle_since_ns > READY_LIMIT_S * NS_PER_S)
        z->recycle_since_ns = now; /* a script that does not boot: the old one goes on */
}

static void recycle(struct pool *p, uint64_t now)
{
    struct pool_size *z = &p->size;

    if (!z->recycles || p->n_seats <= z->max)
        return;
    if (z->recycled)
        go_on_recycling(p, now);
    else if (now >= z->recycle_look_ns)
        begin_recycle(p, now);
    if (!z->recycled && now >= z->recycle_look_ns)
        z->recycle_look_ns = now + RECYCLE_MS * NS_PER_MS;
}

/* --- for pool.c ------------------------------------------------------------------------------- */

void pool_size_begin(struct pool *p)
{
    struct pool_size *z = &p->size;
    uint32_t seats = p->n_seats;

    *z = (struct pool_size){ .recycles = config_pool_recycles(p->conf) && seats > 1 };
    z->max = z->recycles ? seats - 1 : seats;
    z->changes = p->conf->worker_min != CONFIG_AUTO;
    z->min = z->changes ? MIN((uint32_t)p->conf->worker_min, z->max) : z->max;
    z->spare = z->changes ? (uint32_t)p->conf->worker_spare : 0;
    /* One at least: it shows that the generation works. */
    z->target = MIN(MAX(MAX(z->min, z->spare), 1u), z->max);
}

bool pool_size_wants(const struct pool *p)
{
    struct census c;

    count(p, clock_monotonic_ns(), &c);
    return c.live < p->size.target + p->size.recycled;
}

/* What one costs, once, when the first have settled. */
static void explain(struct pool *p, uint64_t now)
{
    struct channel_worker_info info;
    struct pool_size *z = &p->size;

    if (z->explained || p->n_seats == 0 || p->seats[0].pid == 0 || !is_attached(p, 0, &info) ||
        now - p->seats[0].started_ns < EXPLAIN_MS * NS_PER_MS)
        return;
    z->explained = true;
    uint64_t pss = worker_memory_pss(&p->seats[0].memory);
    log_info("a worker has %" PRIu64
             " KiB of memory (its share of what is shared included), of which "
             "%" PRIu64 " KiB are its own or come from the process it was forked from",
             pss >> 10, own_bytes(p->seats[0].pid) >> 10);
}

void pool_size_look(struct pool *p)
{
    struct pool_size *z = &p->size;
    struct channel_counters counters;
    struct census c;
    uint64_t now = clock_monotonic_ns();

    if (!p->channel || p->draining || p->gateway_gone || p->boots)
        return;
    explain(p, now);
    recycle(p, now);
    if (!z->changes || (now < z->look_ns && !z->asked))
        return;
    z->asked = false;
    count(p, now, &c);
    channel_count(p->channel, &counters);
    grow(p, &c, counters.queued);
    shrink(p, &c, counters.queued, now);
    z->look_ns = now + LOOK_MS * NS_PER_MS;
    z->has_workers = c.live > 0;
}

void pool_size_asked(struct pool *p)
{
    p->size.asked = true;
}

uint64_t pool_size_next_ns(const struct pool *p)
{
    const struct pool_size *z = &p->size;
    uint64_t nearest = UINT64_MAX;

    if (p->boots)
        return nearest;
    if (z->changes && z->has_workers)
        nearest = z->look_ns;
    if (z->recycles && z->recycled)
        nearest = MIN(nearest, clock_monotonic_ns() + LOOK_MS / 4 * NS_PER_MS);
    else if (z->recycles)
        nearest = MIN(nearest, z->recycle_look_ns);
    if (!z->explained && p->n_seats && p->seats[0].pid)
        nearest = MIN(nearest, p->seats[0].started_ns + EXPLAIN_MS * NS_PER_MS);
    return nearest;
}
