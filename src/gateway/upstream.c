/* Groups of FastCGI servers, and the requests that go to them: see upstream.h. */
#include "gateway/upstream.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/mem.h"
#include "gateway/upstream_int.h"

/* --- groups ----------------------------------------------------------------------------------- */

/* What one thread may have of `connections`: the shares of all threads are `connections` together.
 */
static uint32_t share(const struct gateway_thread *t, uint32_t connections)
{
    uint32_t threads = t->gateway->n_threads;
    uint32_t mine = connections / threads + (t->index < connections % threads);

    return connections && mine == 0 ? 1 : mine; /* the supervisor refuses fewer than threads */
}

static bool same_group(const struct upstream *u, const struct config_fastcgi *c)
{
    const struct config_fastcgi *mine = &u->config;

    if (mine->n_servers != c->n_servers || mine->balance != c->balance ||
        mine->keep_alive != c->keep_alive || mine->max_fails != c->max_fails ||
        mine->queue_size != c->queue_size || mine->connect_timeout_ms != c->connect_timeout_ms ||
        mine->response_timeout_ms != c->response_timeout_ms ||
        mine->idle_timeout_ms != c->idle_timeout_ms || mine->backoff_ms != c->backoff_ms ||
        mine->max_backoff_ms != c->max_backoff_ms)
        return false;
    for (uint32_t i = 0; i < c->n_servers; i++) {
        const struct config_fastcgi_server *s = &c->servers[i];
        if (!str_eq(str_from(u->servers[i].text), s->address.text) ||
            u->servers[i].weight != s->weight ||
            u->servers[i].limit != share(u->thread, s->connections))
            return false;
    }
    return true;
}

static struct upstream *make(struct gateway_thread *t, const struct config_fastcgi *config)
{
    struct upstream *u = mem_zalloc(sizeof(*u));

    CHECK(config->n_servers > 0);
    u->magic = UPSTREAM_MAGIC;
    u->thread = t;
    u->config = *config;
    u->config.servers = NULL;
    u->servers = mem_zalloc(config->n_servers * sizeof(u->servers[0]));
    list_init(&u->queue);
    list_init(&u->busy);
    for (uint32_t i = 0; i < config->n_servers; i++) {
        struct upstream_server *s = &u->servers[i];
        const struct config_fastcgi_server *c = &config->servers[i];
        upstream_server_init(s, c, share(t, c->connections));
    }
    list_push_back(&t->upstreams, &u->link);
    return u;
}

struct upstream *upstream_get(struct gateway_thread *t, const struct config_fastcgi *config)
{
    struct upstream *u = NULL;

    LIST_FOR_EACH(it, &t->upstreams)
        if (same_group(LIST_ENTRY(it, struct upstream, link), config))
            u = LIST_ENTRY(it, struct upstream, link);
    if (!u)
        u = make(t, config);
    u->refs++;
    return u;
}

void upstream_due(struct upstream *u)
{
    u->due = true;
    u->thread->upstreams_due = true;
}

/* The exchange goes on without FastCGI. */
void upstream_detach(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    x->upstream = NULL;
    buf_fini(&q->params);
    upstream_files_free(q->files);
    mem_free(q);
}

static void give_up(struct upstream *u, struct exchange *x, int status)
{
    u->count.refused++;
    upstream_detach(x);
    x->stalled = false;
    respond_status(x, status, status == 503 ? STR("Retry-After: 1\r\n") : STR_NONE);
}

/* --- requests -------------------------------------------------------------------------------- */

static void on_retry(struct loop_timer *timer)
{
    upstream_due(CONTAINER_OF(timer, struct upstream, retry));
}

/* When does a server come back, or have room in its backlog again? */
static void set_retry(struct upstream *u, uint64_t now)
{
    uint64_t soon = upstream_next_return(u, now);

    if (soon != UINT64_MAX)
        loop_timer_set(u->thread->loop, &u->retry, soon, on_retry);
}

static void wait_in_queue(struct upstream *u, struct exchange *x, uint64_t now)
{
    if (u->n_queue >= u->config.queue_size) {
        u->thread->count.queue_full++;
        u->count.queue_full++;
        give_up(u, x, 503);
        return;
    }
    u->count.waited++;
    list_push_back(&u->queue, &x->link);
    u->n_queue++;
    conn_deadline(x->conn, x->upstream->queue_timeout_ms);
    set_retry(u, now);
}

/* Sends the request to a server, or lets it wait for one. */
void upstream_start(struct upstream *u, struct exchange *x)
{
    uint64_t now = loop_now_ns(u->thread->loop);
    struct upstream_conn *c = upstream_conn_take(u, x, now);

    if (!c && x->upstream->connects >= UPSTREAM_CONNECTS_MAX) {
        give_up(u, x, 502);
        return;
    }
    if (!c && !upstream_worth_waiting(u, now)) {
        give_up(u, x, x->upstream->connects ? 502 : 503);
        return;
    }
    if (!c) {
        wait_in_queue(u, x, now);
        return;
    }
    x->upstream->conn = c;
    c->server->occupied++;
    c->server->count.requests++;
    list_push_back(&u->busy, &c->link);
    int r = upstream_conn_begin(c, x);
    if (r < 0) {
        log_error("a request to fastcgi server %s was not sent: %s", c->server->text, strerror(-r));
        upstream_conn_free(c);
        give_up(u, x, 503);
        return;
    }
    if (!c->connected) {
        upstream_conn_await(c, u->config.connect_timeout_ms);
        return;
    }
    upstream_conn_connected(c);
    upstream_conn_go_on(c);
}

static void run_queue(struct upstream *u)
{
    uint32_t n = u->n_queue; /* those there now: one that has to wait again goes behind */
    uint64_t now = loop_now_ns(u->thread->loop);

    u->due = false;
    for (uint32_t i = 0; i < n && !list_empty(&u->queue); i++) {
        bool room = false;
        for (uint32_t k = 0; k < u->config.n_servers && !room; k++)
            room = upstream_server_can_take(&u->servers[k], now);
        if (!room && upstream_worth_waiting(u, now)) {
            set_retry(u, now);
            return;
        }
        struct exchange *x = LIST_ENTRY(u->queue.next, struct exchange, link);
        list_remove(&x->link);
        u->n_queue--;
        upstream_start(u, x);
    }
}

/* --- the gateway's side ---------------------------------------------------------------------- */

void upstream_push(struct upstream *u, struct exchange *x, const struct config_pool *pool,
                   const struct channel_request *r, const struct channel_pair *headers)
{
    struct upstream_request *q = mem_try_zalloc(sizeof(*q));

    CHECK_MAGIC(u, UPSTREAM_MAGIC);
    CHECK(!x->upstream && !x->backend && list_empty(&x->link));
    u->count.requests++;
    if (!q) {
        respond_status(x, 503, STR_NONE);
        return;
    }
    buf_init(&q->params, 0);
    q->upstream = u;
    q->queue_timeout_ms = pool->queue_timeout_ms;
    q->request_timeout_ms = pool->request_timeout_ms;
    x->upstream = q;
    if (upstream_files_new(pool, &q->files) < 0 ||
        upstream_params(&q->params, r, headers, q->files != NULL) < 0)
        give_up(u, x, 503);
    else if (u->n_queue)
        wait_in_queue(u, x, loop_now_ns(u->thread->loop)); /* behind those that came first */
    else
        upstream_start(u, x);
}

bool upstream_withdraw(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    if (!q || q->conn)
        return false;
    CHECK(!list_empty(&x->link));
    list_remove(&x->link);
    q->upstream->n_queue--;
    upstream_detach(x);
    return true;
}

void upstream_forget(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    if (!q || upstream_withdraw(x))
        return;
    struct upstream_conn *c = q->conn;
    upstream_detach(x);
    upstream_conn_abandon(c);
}

void upstream_resume(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    CHECK(!x->stalled && q && q->conn);
    struct upstream_conn *c = q->conn;
    upstream_conn_await(c, c->upstream->config.response_timeout_ms);
    if (buf_length(&c->in) && !upstream_conn_deliver(c))
        return;
    upstream_conn_go_on(c);
}

static void upstream_free(struct upstream *u)
{
    CHECK(u->n_queue == 0);
    while (!list_empty(&u->busy))
        upstream_conn_free(LIST_ENTRY(u->busy.next, struct upstream_conn, link));
    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        upstream_free_idle(&u->servers[i]);
        upstream_server_fini(&u->servers[i]);
    }
    loop_timer_cancel(u->thread->loop, &u->retry);
    list_remove(&u->link);
    mem_free(u->servers);
    u->magic = 0;
    mem_free(u);
}

static bool has_requests(const struct upstream *u)
{
    if (u->n_queue)
        return true;
    LIST_FOR_EACH(it, &u->busy)
        if (LIST_ENTRY(it, struct upstream_conn, link)->state == UPSTREAM_RUNNING)
            return true;
    return false;
}

void upstream_put(struct upstream *u)
{
    if (!u)
        return;
    CHECK_MAGIC(u, UPSTREAM_MAGIC);
    CHECK(u->refs > 0);
    if (--u->refs > 0)
        return;
    /* The children that its idle connections hold belong to its successor now. */
    for (uint32_t i = 0; i < u->config.n_servers; i++)
        upstream_free_idle(&u->servers[i]);
    upstream_due(u);
}

void upstream_poll(struct gateway_thread *t)
{
    t->upstreams_due = false;
    LIST_FOR_EACH_SAFE(it, &t->upstreams) {
        struct upstream *u = LIST_ENTRY(it, struct upstream, link);
        if (u->due)
            run_queue(u);
        if (u->refs == 0 && !has_requests(u))
            upstream_free(u);
    }
}

/* --- what status pages show ------------------------------------------------------------------- */

static void look_at_server(const struct upstream_server *s, uint64_t now,
                           struct upstream_server_look *ret)
{
    bool out = s->out_until_ns != 0;

    *ret = (struct upstream_server_look){
        .address = s->text,
        .breaker = !out         ? UPSTREAM_IN_SERVICE
                   : s->probing ? UPSTREAM_HALF_OPEN
                                : UPSTREAM_LEFT_OUT,
        .out_for_ms = out && s->out_until_ns > now ? (s->out_until_ns - now) / NS_PER_MS : 0,
        .failures = s->failures,
        .weight = s->weight,
        .limit = s->limit,
        .active = s->occupied,
        .idle = s->n_idle,
        .count = s->count,
    };
}

void upstream_look(const struct gateway_thread *t,
                   void (*see)(void *ctx, const struct upstream_look *look), void *ctx)
{
    uint64_t now = loop_now_ns(t->loop);

    LIST_FOR_EACH(it, &t->upstreams) {
        const struct upstream *u = LIST_ENTRY(it, struct upstream, link);
        uint32_t n = u->config.n_servers;
        struct upstream_server_look *servers = mem_zalloc(n * sizeof(*servers));
        for (uint32_t i = 0; i < n; i++)
            look_at_server(&u->servers[i], now, &servers[i]);
        const struct upstream_look look = { .queued = u->n_queue,
                                            .queue_size = u->config.queue_size,
                                            .going = u->refs == 0,
                                            .n_servers = n,
                                            .servers = servers,
                                            .count = u->count };
        see(ctx, &look);
        mem_free(servers);
    }
}
