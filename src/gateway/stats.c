/*
 * Counting: see stats.h. Every thread has its own figures and adds them to a sum when it is asked,
 * so that counting takes no lock and no atomic operation, but for the few figures of a pool that
 * must be seen at once (what is in its channel, and the most there ever was).
 */
#include "gateway/stats.h"
#include "gateway/images.h"

#include <stdio.h>

#include "base/mem.h"

/* --- places ----------------------------------------------------------------------------------- */

static struct place *add_place(struct gateway *g, const char *name)
{
    for (uint32_t i = 0; i < g->n_places; i++)
        if (strcmp(g->places[i]->name, name) == 0)
            return g->places[i];
    if (g->n_places == PLACES_MAX)
        return NULL;
    struct place *p = mem_zalloc(sizeof(*p));
    p->index = p->gate.index = g->n_places;
    snprintf(p->name, sizeof(p->name), "%s", name);
    g->places[g->n_places] = p;
    /* Release: partner is the load in collect, which may run in another thread. */
    atomic_store_explicit(&g->n_places, g->n_places + 1, memory_order_release);
    return p;
}

void stats_init(struct gateway *g)
{
    char name[64];

    (void)add_place(g, "own");
    (void)add_place(g, "files");
    for (uint32_t i = 0; i < g->config->n_pools; i++) {
        snprintf(name, sizeof(name), "pool %.*s", STR_ARG(g->config->pools[i].name));
        (void)add_place(g, name);
    }
    g->started_realtime_ns = clock_realtime_ns();
    for (uint32_t i = 0; i < POOLS_MAX; i++)
        atomic_init(&g->figures[i].answered_ns, 0);
}

static void set_gate(struct gate *g, const struct config_route *r, const struct config_pool *pool)
{
    uint32_t room = r->max_waiting == CONFIG_AUTO ? pool->queue_size : (uint32_t)r->max_waiting;

    atomic_store_explicit(&g->queue_size, room, memory_order_relaxed);
    atomic_store_explicit(&g->limit, r->max_concurrency, memory_order_relaxed);
}

void stats_add_routes(struct pool_link *link)
{
    static const char *const kinds[] = { "exact", "prefix", "suffix", "regex" };
    const struct config *c = link->config;
    char name[96];

    link->places = mem_zalloc((c->n_routes + 1) * sizeof(link->places[0]));
    for (uint32_t i = 0; i < c->n_routes; i++) {
        const struct config_route *r = &c->routes[i];
        snprintf(name, sizeof(name), "route %s %.*s", kinds[r->match], STR_ARG(r->pattern));
        link->places[i] = add_place(link->gateway, name); /* NULL: one of too many */
        if (link->places[i])
            set_gate(&link->places[i]->gate, r, &c->pools[0]);
    }
}

void stats_place(struct exchange *x, const struct route *route)
{
    struct gateway *g = x->conn->thread->gateway;
    const struct backend *b = x->conn->thread->active[0];
    struct place *p = NULL;

    if (g->n_places == 0) /* check --explain */
        return;
    if (route->rule && b)
        p = b->pool->places[route->rule - b->pool->config->routes];
    if (!p && route->verdict == VERDICT_STATIC)
        p = g->places[PLACE_FILES];
    if (!p && (route->verdict == VERDICT_PHP || route->verdict == VERDICT_FASTCGI))
        p = g->places[PLACE_FIRST_POOL + x->pool];
    x->place = p ? p : g->places[PLACE_OWN];
}

/* --- requests --------------------------------------------------------------------------------- */

static struct place_stats *stats_of(struct gateway_thread *t, const struct place *p)
{
    struct place_stats *s = t->places[p->index];

    if (likely(s != NULL))
        return s;
    s = mem_zalloc(sizeof(*s));
    s->latency = mem_alloc(sizeof(*s->latency));
    hist_init(s->latency);
    t->places[p->index] = s;
    return s;
}

void stats_record(struct exchange *x, bool complete)
{
    uint64_t now = clock_monotonic_ns();

    if (!x->place)
        return;
    struct place_stats *s = stats_of(x->conn->thread, x->place);
    s->bytes_in += x->head_bytes + x->body_bytes;
    s->bytes_out += x->wire_bytes;
    if (!complete) {
        s->aborted++;
        return;
    }
    s->requests++;
    if (x->status >= 100 && x->status < 600)
        s->status[x->status / 100]++;
    hist_record(s->latency, now > x->started_ns ? now - x->started_ns : 0);
}

/* --- pools ------------------------------------------------------------------------------------ */

static void raise_to(_Atomic uint32_t *most, uint32_t n)
{
    uint32_t seen = atomic_load_explicit(most, memory_order_relaxed);

    while (n > seen && !atomic_compare_exchange_weak_explicit(most, &seen, n, memory_order_relaxed,
                                                              memory_order_relaxed))
        continue;
}

void stats_pushed(struct backend *b)
{
    struct pool_figures *f = &b->thread->gateway->figures[images_pool(b->pool)];
    uint32_t workers = b->pool->workers;
    uint32_t n = atomic_fetch_add_explicit(&b->pool->inflight, 1, memory_order_relaxed) + 1;

    atomic_fetch_add_explicit(&f->accepted, 1, memory_order_relaxed);
    channel_note_load(b->pool->channel, n, workers); /* for scripts: fpm_get_status() */
    raise_to(&f->active_max, n < workers ? n : workers);
    if (likely(n <= workers))
        return;
    raise_to(&f->queue_max, n - workers);
    if (n == workers + 1)
        atomic_fetch_add_explicit(&f->limit_reached, 1, memory_order_relaxed);
}

void stats_left(struct backend *b)
{
    atomic_fetch_sub_explicit(&b->pool->inflight, 1, memory_order_relaxed);
}

void stats_passed_on(struct backend *b)
{
    struct gateway *g = b->thread->gateway;

    /* it is given to workers once more */
    atomic_fetch_sub_explicit(&g->figures[images_pool(b->pool)].accepted, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&g->images[images_pool(b->pool)].passed_on, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&b->pool->image->passed_on, 1, memory_order_relaxed);
}

void stats_answered(struct backend *b)
{
    if (b->pool->image) {
        atomic_fetch_add_explicit(&b->thread->gateway->images[images_pool(b->pool)].served, 1,
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&b->pool->image->served, 1, memory_order_relaxed);
    }
    atomic_store_explicit(&b->thread->gateway->figures[b->pool->pool].answered_ns,
                          loop_now_ns(b->thread->loop), memory_order_relaxed);
}

/* --- sums ------------------------------------------------------------------------------------- */

static void add_counters(uint64_t *into, const uint64_t *from, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
        into[i] += from[i];
}

static void add_place_stats(struct place_stats **into, const struct place_stats *from)
{
    if (!*into) {
        *into = mem_zalloc(sizeof(**into));
        (*into)->latency = mem_alloc(sizeof(*from->latency));
        hist_init((*into)->latency);
    }
    (*into)->requests += from->requests;
    (*into)->aborted += from->aborted;
    (*into)->bytes_in += from->bytes_in;
    (*into)->bytes_out += from->bytes_out;
    for (size_t i = 0; i < ARRAY_LENGTH(from->status); i++)
        (*into)->status[i] += from->status[i];
    hist_merge((*into)->latency, from->latency);
}

static struct upstream_sum *sum_of(struct stats *s, const char *address)
{
    for (uint32_t i = 0; i < s->n_upstreams; i++)
        if (strcmp(s->upstreams[i].address, address) == 0)
            return &s->upstreams[i];
    if (s->n_upstreams == UPSTREAM_SUMS_MAX)
        return NULL;
    struct upstream_sum *sum = &s->upstreams[s->n_upstreams++];
    snprintf(sum->address, sizeof(sum->address), "%s", address);
    return sum;
}

static void add_upstream(void *ctx, const struct upstream_look *look)
{
    struct stats *s = ctx;

    add_counters(&s->upstream.requests, &look->count.requests, sizeof(look->count));
    s->upstream_queued += look->queued;
    for (uint32_t i = 0; i < look->n_servers; i++) {
        const struct upstream_server_look *server = &look->servers[i];
        struct upstream_sum *sum = sum_of(s, server->address);
        if (!sum)
            continue;
        add_counters(&sum->count.requests, &server->count.requests, sizeof(server->count));
        sum->active += server->active;
        sum->idle += server->idle;
        if (server->breaker == UPSTREAM_LEFT_OUT || sum->breaker == UPSTREAM_IN_SERVICE)
            sum->breaker = server->breaker;
    }
}

static void add_thread(struct stats *s, const struct gateway_thread *t)
{
    uint32_t n = atomic_load_explicit(&t->gateway->n_places, memory_order_acquire);

    add_counters(&s->count.accepted, &t->count.accepted, sizeof(s->count));
    s->connections += t->n_conns;
    for (uint32_t i = 0; i < POOLS_MAX; i++)
        s->waiting[i] += t->n_waiting[i];
    for (uint32_t i = 0; i < n; i++)
        if (t->places[i])
            add_place_stats(&s->places[i], t->places[i]);
    upstream_look(t, add_upstream, s);
}

struct round {
    struct command command;
    struct stats *stats;
};

static void finish(struct gateway_thread *t, struct command *c)
{
    struct stats *s = CONTAINER_OF(c, struct round, command)->stats;

    (void)t;
    mem_free(CONTAINER_OF(c, struct round, command));
    s->done(s->ctx, s);
}

static void visit(struct gateway_thread *t, struct command *c);

/* To the first thread behind `t` that is not the asker, else back to the asker. */
static void pass_on(struct gateway_thread *t, struct round *r)
{
    struct gateway *g = t->gateway;
    uint32_t next = t->index + 1;

    if (t == r->stats->asker)
        next = 0;
    if (next < g->n_threads && &g->threads[next] == r->stats->asker)
        next++;
    r->command.run = next < g->n_threads ? visit : finish;
    if (next < g->n_threads)
        thread_post(&g->threads[next], &r->command);
    else if (t == r->stats->asker)
        finish(t, &r->command);
    else
        thread_post(r->stats->asker, &r->command);
}

static void visit(struct gateway_thread *t, struct command *c)
{
    struct round *r = CONTAINER_OF(c, struct round, command);

    add_thread(r->stats, t);
    pass_on(t, r);
}

void stats_collect(struct gateway_thread *t, void (*done)(void *ctx, struct stats *s), void *ctx)
{
    struct round *r = mem_zalloc(sizeof(*r));

    r->stats = mem_zalloc(sizeof(*r->stats));
    r->stats->asker = t;
    r->stats->done = done;
    r->stats->ctx = ctx;
    visit(t, &r->command);
}

void stats_free(struct stats *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < PLACES_MAX; i++) {
        if (s->places[i])
            mem_free(s->places[i]->latency);
        mem_free(s->places[i]);
    }
    mem_free(s);
}
