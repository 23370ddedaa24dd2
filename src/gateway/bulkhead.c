/*
 * Bulkheads: see bulkhead.h. Counts of gates are shared by the threads, queues and what is known of
 * classes belong to each. A gate that gets room while only other threads have something waiting
 * sends them word.
 *
 * A worker may be busy with a request longer than its client waits: the client left, or the script
 * goes on behind fastcgi_finish_request(). Such a request keeps its place in the gates until the
 * channel shows that its worker has done with it (struct held).
 */
#include "gateway/bulkhead.h"

#include <stdio.h>

#include "base/mem.h"
#include "gateway/stats.h"

enum {
    SLOW_MS = 100,      /* shorter ones hold nobody up */
    SLOW_FACTOR = 8,    /* times the mean of the rest, to be slow */
    FAST_FACTOR = 4,    /* and below this no longer */
    REST_REQUESTS = 10, /* of the rest, for it to count */
    FADE_MS = 1000,
    HELD_LOOK_MS = 20,
    WAYS = 4, /* places where a class may stand in the table */
};
#define FADE 0.98 /* each FADE_MS: half of it is gone after 35 seconds */

struct held {
    struct list link; /* thread->held */
    struct gate *gates[2];
    struct backend *backend;
    struct channel_ticket ticket;
};

void bulkhead_init(struct gateway_thread *t)
{
    for (size_t i = 0; i < ARRAY_LENGTH(t->gate_queues); i++)
        list_init(&t->gate_queues[i]);
    list_init(&t->held);
}

static const struct config_pool *pool_of(const struct backend *b)
{
    return &b->pool->config->pools[b->pool->pool];
}

/* --- gates ------------------------------------------------------------------------------------ */

static bool gate_take(struct gate *g, uint32_t limit)
{
    uint32_t n = atomic_load_explicit(&g->running, memory_order_relaxed);

    while (n < limit)
        if (atomic_compare_exchange_weak_explicit(&g->running, &n, n + 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            return true;
    return false;
}

static void on_word(struct gateway_thread *t, struct command *c)
{
    t->bulkheads_due = true;
    mem_free(c);
}

static void gate_give(struct gateway_thread *t, struct gate *g)
{
    struct gateway *gateway = t->gateway;

    atomic_fetch_sub_explicit(&g->running, 1, memory_order_relaxed);
    if (atomic_load_explicit(&g->waiting, memory_order_relaxed) == 0)
        return;
    t->bulkheads_due = true;
    if (!list_empty(&t->gate_queues[g->index]))
        return;
    for (uint32_t i = 0; i < gateway->n_threads; i++)
        if (&gateway->threads[i] != t)
            thread_tell(&gateway->threads[i], on_word, NULL, 0, 0);
}

static void give_all(struct gateway_thread *t, struct gate *gates[2])
{
    for (int i = 0; i < 2; i++) {
        if (gates[i])
            gate_give(t, gates[i]);
        gates[i] = NULL;
    }
}

/* --- classes ---------------------------------------------------------------------------------- */

/* Numbers in a path are objects of one kind. */
static bool is_number(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
    return s.n > 0;
}

static size_t name_class(const struct exchange *x, char out[LANE_NAME_BYTES])
{
    const struct gateway_thread *t = x->conn->thread;
    bool script = t->match.kind == FILES_SCRIPT;
    struct str rest = script ? t->match.script_name : str_from(t->path);
    size_t n = 0;

    if (x->place && x->place->gate.index >= PLACE_FIRST_POOL + t->gateway->config->n_pools)
        return (size_t)snprintf(out, LANE_NAME_BYTES, "%.*s", LANE_NAME_BYTES - 1, x->place->name);
    if (script) {
        struct str name = str_take(rest, LANE_NAME_BYTES - 1);
        memcpy(out, name.p, name.n);
        return name.n;
    }
    (void)str_cut(&rest, '/');
    for (int i = 0; i < 2 && rest.p; i++) {
        struct str segment = str_cut(&rest, '/');
        if (is_number(segment))
            segment = STR("*");
        segment = str_take(segment, LANE_NAME_BYTES / 2 - 2);
        out[n++] = '/';
        if (segment.n)
            memcpy(out + n, segment.p, segment.n);
        n += segment.n;
    }
    return n;
}

static void forget_class(struct lane *lane, struct lane_class *c)
{
    if (c->state != LANE_SLOW) {
        lane->weight -= c->weight;
        lane->time_ns -= c->time_ns;
    }
}

/* Its place, maybe that of one that has not been seen for longest; among too many that run, the one
 * for all the others. */
static struct lane_class *find_class(struct lane *lane, const char *name, size_t n, uint64_t now)
{
    uint32_t hash = str_hash((struct str){ name, n }) | 1; /* 0: an empty place */
    struct lane_class *oldest = NULL;

    for (uint32_t i = 0; i < WAYS; i++) {
        struct lane_class *c = &lane->classes[(hash / WAYS * WAYS + i) % LANE_CLASSES];
        if (c->hash == hash && strncmp(c->name, name, n) == 0 && c->name[n] == '\0') {
            c->used_ns = now;
            return c;
        }
        if (c->n_running == 0 && (!oldest || c->used_ns < oldest->used_ns))
            oldest = c;
    }
    if (!oldest)
        oldest = &lane->classes[LANE_CLASSES];
    if (oldest == &lane->classes[LANE_CLASSES] && oldest->hash)
        return oldest;
    forget_class(lane, oldest);
    *oldest = (struct lane_class){ .hash = hash, .used_ns = now };
    list_init(&oldest->running);
    if (oldest == &lane->classes[LANE_CLASSES])
        snprintf(oldest->name, sizeof(oldest->name), "(others)");
    else
        memcpy(oldest->name, name, n);
    return oldest;
}

static void fade(struct lane *lane, uint64_t now)
{
    if (now - lane->faded_ns < FADE_MS * NS_PER_MS)
        return;
    lane->faded_ns = now;
    lane->weight = lane->time_ns = 0; /* summed up afresh: no error grows */
    for (size_t i = 0; i < ARRAY_LENGTH(lane->classes); i++) {
        struct lane_class *c = &lane->classes[i];
        c->weight *= FADE;
        c->time_ns *= FADE;
        if (c->state == LANE_SLOW)
            continue;
        lane->weight += c->weight;
        lane->time_ns += c->time_ns;
    }
}

static double mean_of(const struct lane_class *c)
{
    return c->weight > 0 ? c->time_ns / c->weight : 0;
}

/* Mean of what is not slow and not `c`; false: there is not enough of it. */
static bool rest_of(const struct lane *lane, const struct lane_class *c, double *ret)
{
    bool counts = c->state != LANE_SLOW;
    double weight = lane->weight - (counts ? c->weight : 0);
    double time_ns = lane->time_ns - (counts ? c->time_ns : 0);

    if (weight < REST_REQUESTS)
        return false;
    *ret = time_ns > 0 ? time_ns / weight : 0;
    return true;
}

static void set_state(struct gateway_thread *t, struct lane *lane, struct lane_class *c,
                      enum lane_state state, struct gate *gate, double took_ns)
{
    double sign = state == LANE_SLOW ? -1 : c->state == LANE_SLOW ? 1 : 0;

    lane->weight += sign * c->weight;
    lane->time_ns += sign * c->time_ns;
    c->state = state;
    t->bulkheads_due = true;
    if (state != LANE_SLOW)
        return;
    /* What has begun counts from now on. */
    LIST_FOR_EACH(it, &c->running) {
        struct exchange *x = LIST_ENTRY(it, struct exchange, class_link);
        if (x->gates[1])
            continue;
        x->gates[1] = gate;
        atomic_fetch_add_explicit(&gate->running, 1, memory_order_relaxed);
    }
    log_info(
        "slow lane of pool %.*s: requests like %s take %.0f ms and more; they hold a share of the "
        "workers at most",
        STR_ARG(t->gateway->config->pools[gate->index - PLACES_MAX].name), c->name,
        took_ns / NS_PER_MS);
}

/* What a request of that class will probably take: as the finished ones did, or as long as the
 * oldest running one has taken already. */
static double expected_ns(const struct lane_class *c, uint64_t now)
{
    double mean = mean_of(c);

    if (list_empty(&c->running))
        return mean;
    const struct exchange *x = LIST_ENTRY(c->running.next, struct exchange, class_link);
    uint64_t age = now > x->pushed_ns ? now - x->pushed_ns : 0;
    return (double)age > mean ? (double)age : mean;
}

/* True: the class may have its lane's share at most. */
static bool judge(struct gateway_thread *t, struct lane *lane, struct lane_class *c,
                  struct gate *gate, uint64_t now)
{
    double rest, expected = expected_ns(c, now);

    if (!rest_of(lane, c, &rest))
        return false; /* nobody would suffer */
    if (c->state != LANE_SLOW && expected >= SLOW_MS * NS_PER_MS && expected >= SLOW_FACTOR * rest)
        set_state(t, lane, c, LANE_SLOW, gate, expected);
    else if (c->state == LANE_SLOW &&
             (expected < (double)(SLOW_MS * NS_PER_MS) / 2 || expected < FAST_FACTOR * rest))
        set_state(t, lane, c, LANE_FAST, gate, expected);
    return c->state != LANE_FAST;
}

static struct lane *lane_of(struct gateway_thread *t, uint32_t pool)
{
    if (!t->lanes[pool]) {
        t->lanes[pool] = mem_zalloc(sizeof(struct lane));
        for (size_t i = 0; i <= LANE_CLASSES; i++)
            list_init(&t->lanes[pool]->classes[i].running);
    }
    return t->lanes[pool];
}

/* --- enter ------------------------------------------------------------------------------------ */

/* How many workers the lane may hold; what is slow for sure leaves one for what is not known. */
static uint32_t lane_limit(const struct backend *b, enum lane_state state)
{
    uint32_t n = b->pool->workers * pool_of(b)->slow_lane_share / 100;

    if (state == LANE_SLOW && n > 1)
        n--;
    return n ? n : 1;
}

/* Takes what the request needs; NULL, or the gate that is full. */
static struct gate *take_gates(struct exchange *x, struct backend *b)
{
    struct gateway_thread *t = x->conn->thread;
    struct gate *route = x->place ? &x->place->gate : NULL, *lane = NULL;
    uint32_t limit = route ? atomic_load_explicit(&route->limit, memory_order_relaxed) : 0;
    uint64_t now = loop_now_ns(t->loop);

    if (limit && !gate_take(route, limit))
        return route;
    if (x->class &&
        judge(t, lane_of(t, x->pool), x->class, &t->gateway->slow_lanes[x->pool], now)) {
        lane = &t->gateway->slow_lanes[x->pool];
        atomic_store_explicit(&lane->limit, lane_limit(b, LANE_UNKNOWN), memory_order_relaxed);
        if (!gate_take(lane, lane_limit(b, x->class->state))) {
            if (limit)
                gate_give(t, route);
            return lane;
        }
    }
    x->gates[0] = limit ? route : NULL;
    x->gates[1] = lane;
    return NULL;
}

static bool uses_lane(const struct backend *b)
{
    return pool_of(b)->slow_lane && b->pool->workers >= 2 && b->pool->channel;
}

static void find_its_class(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;
    uint64_t now = loop_now_ns(t->loop);
    struct lane *lane = lane_of(t, x->pool);
    char name[LANE_NAME_BYTES];

    fade(lane, now);
    size_t n = name_class(x, name);
    x->class = find_class(lane, name, n, now);
}

static void begin(struct exchange *x)
{
    x->pushed_ns = loop_now_ns(x->conn->thread->loop);
    if (!x->class)
        return;
    x->class->n_running++;
    list_push_back(&x->class->running, &x->class_link);
}

static bool refuse(struct exchange *x, struct gate *g)
{
    atomic_fetch_add_explicit(&g->refused, 1, memory_order_relaxed);
    x->conn->thread->count.queue_full++;
    respond_status(x, 503, STR("Retry-After: 1\r\n"));
    return false;
}

bool bulkhead_enter(struct exchange *x, struct backend *b, bool engine)
{
    struct gateway_thread *t = x->conn->thread;
    const struct config_pool *pool = pool_of(b);

    if (x->conn->source > CONN_FROM_UNIX)
        return true; /* questions about health come first */
    if (x->admitted) {
        x->admitted = false; /* bulkhead_poll has taken its gates */
        begin(x);
        return true;
    }
    x->class = NULL;
    if (engine && uses_lane(b))
        find_its_class(x);
    else if (!x->place || !atomic_load_explicit(&x->place->gate.limit, memory_order_relaxed))
        return true;
    struct gate *full = take_gates(x, b);
    if (!full) {
        begin(x);
        return true;
    }
    uint32_t room = full->index < PLACES_MAX
                        ? atomic_load_explicit(&full->queue_size, memory_order_relaxed)
                        : pool->queue_size;
    if (atomic_load_explicit(&full->waiting, memory_order_relaxed) >= room)
        return refuse(x, full);
    atomic_fetch_add_explicit(&full->waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&full->waited, 1, memory_order_relaxed);
    x->waits_in = full;
    list_push_back(&t->gate_queues[full->index], &x->link);
    conn_deadline(x->conn, pool->queue_timeout_ms);
    return false;
}

bool bulkhead_withdraw(struct exchange *x)
{
    if (!x->waits_in)
        return false;
    list_remove(&x->link);
    atomic_fetch_sub_explicit(&x->waits_in->waiting, 1, memory_order_relaxed);
    x->waits_in = NULL;
    x->class = NULL;
    return true;
}

/* --- leave ------------------------------------------------------------------------------------ */

static bool is_held(const struct backend *b, struct channel_ticket ticket)
{
    struct channel_worker_info info;
    uint32_t worker;

    if (channel_ticket_state(b->pool->channel, ticket, &worker) != CHANNEL_RUNNING)
        return false;
    /* The slot of a worker that died keeps its word until it is used again. */
    channel_worker_look(b->pool->channel, worker, &info);
    return info.state == CHANNEL_WORKER_BUSY && info.ticket.slot == ticket.slot &&
           info.ticket.seq == ticket.seq;
}

static void look_at_held(struct gateway_thread *t)
{
    LIST_FOR_EACH_SAFE(it, &t->held) {
        struct held *h = LIST_ENTRY(it, struct held, link);
        if (is_held(h->backend, h->ticket))
            continue;
        list_remove(&h->link);
        give_all(t, h->gates);
        mem_free(h);
    }
}

static void on_look(struct loop_timer *timer)
{
    struct gateway_thread *t = CONTAINER_OF(timer, struct gateway_thread, held_look);

    look_at_held(t);
    if (!list_empty(&t->held))
        loop_timer_set(t->loop, timer, loop_now_ns(t->loop) + HELD_LOOK_MS * NS_PER_MS, on_look);
}

static void hold(struct exchange *x, struct backend *b, struct channel_ticket ticket)
{
    struct gateway_thread *t = b->thread;
    struct held *h = mem_zalloc(sizeof(*h));

    h->gates[0] = x->gates[0];
    h->gates[1] = x->gates[1];
    h->backend = b;
    h->ticket = ticket;
    x->gates[0] = x->gates[1] = NULL;
    if (list_empty(&t->held))
        loop_timer_set(t->loop, &t->held_look, loop_now_ns(t->loop) + HELD_LOOK_MS * NS_PER_MS,
                       on_look);
    list_push_back(&t->held, &h->link);
}

/* The time of a worker, not that of the queue before it. */
static void learn(struct exchange *x, struct backend *b, struct channel_ticket ticket)
{
    struct lane *lane = lane_of(b->thread, x->pool);
    struct lane_class *c = x->class;
    uint64_t now = clock_monotonic_ns(), claimed = channel_claimed_ns(b->pool->channel, ticket);

    /* the claim is a worker's word */
    double ns =
        (double)(now - (claimed >= x->pushed_ns && claimed <= now ? claimed : x->pushed_ns));
    c->weight += 1;
    c->time_ns += ns;
    if (c->state == LANE_SLOW)
        return;
    lane->weight += 1;
    lane->time_ns += ns;
    if (c->state == LANE_UNKNOWN && ns < SLOW_MS * NS_PER_MS) {
        c->state = LANE_FAST;
        b->thread->bulkheads_due = true;
    }
}

static void leave_class(struct exchange *x)
{
    if (!x->class || list_empty(&x->class_link))
        return;
    list_remove(&x->class_link);
    x->class->n_running--;
    x->class = NULL;
}

void bulkhead_pass_on(struct exchange *x)
{
    if (x->class && !list_empty(&x->class_link)) {
        list_remove(&x->class_link);
        x->class->n_running--;
    }
    x->admitted = x->conn->source <= CONN_FROM_UNIX;
}

void bulkhead_leave(struct exchange *x, struct backend *b, struct channel_ticket ticket, bool over)
{
    struct gateway_thread *t = b->thread;
    uint32_t worker;

    if (x->class && !list_empty(&x->class_link) &&
        channel_ticket_state(b->pool->channel, ticket, &worker) != CHANNEL_FREE)
        learn(x, b, ticket);
    leave_class(x);
    if ((x->gates[0] || x->gates[1]) && !over && is_held(b, ticket))
        hold(x, b, ticket);
    else
        give_all(t, x->gates);
}

void bulkhead_forget(struct exchange *x)
{
    (void)bulkhead_withdraw(x);
    leave_class(x);
    give_all(x->conn->thread, x->gates);
}

void bulkhead_drop(struct backend *b)
{
    LIST_FOR_EACH_SAFE(it, &b->thread->held) {
        struct held *h = LIST_ENTRY(it, struct held, link);
        if (h->backend != b)
            continue;
        list_remove(&h->link);
        give_all(b->thread, h->gates);
        mem_free(h);
    }
}

/* --- let in ----------------------------------------------------------------------------------- */

/* In order; of the slow lane all are looked at, since some may have turned out to be fast. */
static void let_in(struct gateway_thread *t, struct list *queue, bool is_lane)
{
    LIST_FOR_EACH_SAFE(it, queue) {
        struct exchange *x = LIST_ENTRY(it, struct exchange, link);
        struct backend *b = t->active[x->pool];
        struct lane_class *class = x->class;
        if (b && take_gates(x, b)) {
            if (!is_lane)
                return;
            continue;
        }
        (void)bulkhead_withdraw(x);
        x->class = class;
        x->admitted = b != NULL;
        exchange_dispatch_again(x);
    }
}

void bulkhead_poll(struct gateway_thread *t)
{
    uint32_t n = atomic_load_explicit(&t->gateway->n_places, memory_order_acquire);

    t->bulkheads_due = false;
    if (!list_empty(&t->held))
        look_at_held(t);
    for (uint32_t i = 0; i < n; i++)
        if (!list_empty(&t->gate_queues[i]))
            let_in(t, &t->gate_queues[i], false);
    for (uint32_t i = 0; i < t->gateway->config->n_pools; i++)
        if (!list_empty(&t->gate_queues[PLACES_MAX + i]))
            let_in(t, &t->gate_queues[PLACES_MAX + i], true);
}

void bulkhead_look(const struct gateway_thread *t, uint32_t pool,
                   void (*see)(void *ctx, const struct lane_class *c, double mean_ms), void *ctx)
{
    const struct lane *lane = t->lanes[pool];

    for (size_t i = 0; lane && i < ARRAY_LENGTH(lane->classes); i++)
        if (lane->classes[i].hash && lane->classes[i].state == LANE_SLOW)
            see(ctx, &lane->classes[i], mean_of(&lane->classes[i]) / NS_PER_MS);
}

void bulkhead_look_gates(const struct gateway *g,
                         void (*see)(void *ctx, const char *name, const struct gate *gate),
                         void *ctx)
{
    uint32_t n = atomic_load_explicit(&g->n_places, memory_order_acquire);
    char name[64];

    for (uint32_t i = 0; i < n; i++)
        if (atomic_load_explicit(&g->places[i]->gate.limit, memory_order_relaxed))
            see(ctx, g->places[i]->name, &g->places[i]->gate);
    for (uint32_t i = 0; i < g->config->n_pools; i++) {
        snprintf(name, sizeof(name), "slow lane of pool %.*s", STR_ARG(g->config->pools[i].name));
        if (atomic_load_explicit(&g->slow_lanes[i].limit, memory_order_relaxed))
            see(ctx, name, &g->slow_lanes[i]);
    }
}
