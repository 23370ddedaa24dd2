/*
 * Falling back to PHP-FPM: workers that crash again and again move the PHP requests of their pool,
 * or of the [[route]] by which the requests came that they ran, to the pool's FastCGI servers.
 *
 * A crash is counted for the pool, where it asks for that, and for the route of the request that
 * was running. A route's state belongs to the generation whose [[route]] decides, that of the first
 * pool; a slot names its request's route together with that generation, so that a crash of the old
 * configuration's route is not put on the new one's account. The supervisor keeps what fell back,
 * with the configuration it fell back under, and tells it to the next generation of that
 * configuration and to the next gateway: only a reload goes back to the engine.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/mem.h"
#include "gateway/gateway_int.h"

enum { CRASHES_MAX = 64 }; /* of fallback_crashes */

/* Of the pool (the first), or of one route. */
struct fallback {
    _Atomic bool on;
    uint64_t at_ns[CRASHES_MAX]; /* when the last crashes were: a ring; first thread */
    uint32_t n;
};

static const struct config_pool *pool_of(const struct pool_link *link)
{
    return &link->config->pools[link->pool];
}

void fallback_init(struct pool_link *link)
{
    link->fallbacks = mem_zalloc((link->config->n_routes + 1) * sizeof(*link->fallbacks));
}

void fallback_fini(struct pool_link *link)
{
    mem_free(link->fallbacks);
}

bool fallback_pool(const struct pool_link *link)
{
    return atomic_load_explicit(&link->fallbacks[0].on, memory_order_relaxed);
}

/* Index of a route of that configuration. */
static uint32_t index_of(const struct pool_link *link, const struct config_route *rule)
{
    CHECK(rule >= link->config->routes && rule < link->config->routes + link->config->n_routes);
    return (uint32_t)(rule - link->config->routes);
}

bool fallback_route(const struct pool_link *link, const struct config_route *rule)
{
    return rule->fallback && atomic_load_explicit(&link->fallbacks[1 + index_of(link, rule)].on,
                                                  memory_order_relaxed);
}

uint64_t fallback_mark(const struct pool_link *link, const struct config_route *rule)
{
    if (!rule || !rule->fallback)
        return 0;
    return (uint64_t)link->generation << 32 | (index_of(link, rule) + 1);
}

/* --- crashes ---------------------------------------------------------------------------------- */

/* A death that speaks against the engine or an extension. SIGKILL and SIGTERM come from outside or
 * from ourselves; status 0 is a worker that has done its share, 124 PHP's hard_timeout. */
static bool is_crash(int wait_status)
{
    enum { HARD_TIMEOUT = 124 };
    static const int signals[] = { SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGSYS, SIGTRAP };

    if (WIFEXITED(wait_status))
        return WEXITSTATUS(wait_status) != 0 && WEXITSTATUS(wait_status) != HARD_TIMEOUT;
    for (size_t i = 0; WIFSIGNALED(wait_status) && i < ARRAY_LENGTH(signals); i++)
        if (WTERMSIG(wait_status) == signals[i])
            return true;
    return false;
}

/* "pool www", "route in line 12 (prefix "/legacy/")" */
static void describe(const struct pool_link *link, uint32_t which, char *out, size_t size)
{
    static const char *const kinds[] = { "exact", "prefix", "suffix", "regex" };

    if (which == 0) {
        snprintf(out, size, "pool %.*s", STR_ARG(pool_of(link)->name));
        return;
    }
    const struct config_route *r = &link->config->routes[which - 1];
    snprintf(out, size, "route %.*s:%u (%s \"%.*s\")", STR_ARG(link->config->file), r->line,
             kinds[r->match], STR_ARG(r->pattern));
}

static const struct config_fastcgi *servers_of(const struct pool_link *link, uint32_t which)
{
    const struct config *c = link->config;
    const struct config_pool *pool = pool_of(link);

    for (uint32_t i = 0; which > 0 && i < c->n_pools; i++)
        if (str_eq(c->pools[i].name, c->routes[which - 1].pool))
            pool = &c->pools[i];
    CHECK(pool->upstream);
    return pool->upstream;
}

static void tell_supervisor(const struct pool_link *link, uint32_t which)
{
    struct control_message m;

    control_message_init(&m, CONTROL_FELL_BACK);
    m.pool = link->pool;
    m.generation = link->generation;
    m.worker = which;
    int r = control_send(CONTROL_SUPERVISOR_FD, &m, NULL, 0);
    if (r < 0)
        log_error("cannot tell the supervisor of a fallback: %s", strerror(-r));
}

static void count(struct pool_link *link, uint32_t which, uint32_t most, uint64_t window_ms)
{
    struct fallback *f = &link->fallbacks[which];
    uint64_t now = clock_monotonic_ns();
    char what[512];

    CHECK(most >= 1 && most <= CRASHES_MAX);
    if (atomic_load_explicit(&f->on, memory_order_relaxed))
        return;
    f->at_ns[f->n++ % most] = now;
    uint64_t took_ns = now - f->at_ns[f->n % most]; /* since the oldest one of the ring */
    if (f->n < most || took_ns > window_ms * NS_PER_MS)
        return;
    atomic_store_explicit(&f->on, true, memory_order_relaxed);
    const struct config_fastcgi *to = servers_of(link, which);
    describe(link, which, what, sizeof(what));
    log_error("%s: %u workers crashed within %" PRIu64 " ms: %s GO TO PHP-FPM NOW (%.*s%s) until "
              "the next reload; see the crashes above",
              what, most, took_ns / NS_PER_MS, which ? "ITS PHP REQUESTS" : "PHP REQUESTS",
              STR_ARG(to->servers[0].address.text), to->n_servers > 1 ? ", ..." : "");
    tell_supervisor(link, which);
}

/* The first pool's generation under whose [[route]] the worker's request came; NULL: by none that
 * may fall back, or by one of a configuration that is gone. */
static struct pool_link *find_route(const struct pool_link *link, uint32_t worker, uint32_t *ret)
{
    const struct backend *b = link->gateway->threads[0].active[0];
    struct channel_worker_info info;

    channel_worker_look(link->channel, worker, &info);
    if (!b || info.state != CHANNEL_WORKER_BUSY ||
        info.ticket.slot >= channel_geometry(link->channel)->slots)
        return NULL;
    uint64_t mark = atomic_load_explicit(&link->marks[info.ticket.slot], memory_order_relaxed);
    *ret = (uint32_t)mark;
    return mark && mark >> 32 == b->pool->generation ? b->pool : NULL;
}

void fallback_on_death(struct pool_link *link, uint32_t worker, int wait_status)
{
    const struct config_pool *pool = pool_of(link);
    uint32_t which;

    if (!is_crash(wait_status))
        return;
    if (pool->fallback)
        count(link, 0, pool->fallback_crashes, pool->fallback_window_ms);
    struct pool_link *decides = find_route(link, worker, &which);
    if (!decides)
        return;
    const struct config_route *r = &decides->config->routes[which - 1];
    count(decides, which, r->fallback_crashes ? r->fallback_crashes : pool->fallback_crashes,
          r->fallback_window_ms ? r->fallback_window_ms : pool->fallback_window_ms);
}

/* --- from one generation to the next ---------------------------------------------------------- */

void fallback_remember(struct pool_link *link, uint32_t which)
{
    char what[512];

    if (which > link->config->n_routes)
        return;
    atomic_store_explicit(&link->fallbacks[which].on, true, memory_order_relaxed);
    describe(link, which, what, sizeof(what));
    log_warn("%s: PHP requests still go to PHP-FPM, because workers crashed; a reload tries the "
             "engine again",
             what);
}

void fallback_say_end(const struct pool_link *link, const struct pool_link *old)
{
    char what[512];
    bool still = false;

    for (uint32_t i = 0; i <= link->config->n_routes; i++)
        still |= atomic_load_explicit(&link->fallbacks[i].on, memory_order_relaxed);
    for (uint32_t i = 0; !still && i <= old->config->n_routes; i++) {
        if (!atomic_load_explicit(&old->fallbacks[i].on, memory_order_relaxed))
            continue;
        describe(old, i, what, sizeof(what));
        log_notice("%s: the fallback to PHP-FPM has ended, as the configuration was read again",
                   what);
    }
}
