/*
 * /server: the whole server on one page, as text for people (`sapid status`) or as JSON.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "gateway/admin.h"
#include "gateway/images.h"

#define MS(ns) ((double)(ns) / NS_PER_MS)

/* What the page has beyond the ordinary. */
struct detail {
    bool full;          /* each process */
    bool isolation;     /* of images: routes, what is loaded late and left behind */
    const char *stacks; /* of processes; NULL: unknown */
};

/* A process on one of the two pages. */
struct process_page {
    struct json *json;
    struct buf *text;
    const char *stacks;
};

/* --- stacks ----------------------------------------------------------------------------------- */

struct str stacks_of(const char *stacks, uint32_t pid)
{
    char head[32];
    int n = snprintf(head, sizeof(head), "\npid %" PRIu32 "\n", pid);
    const char *at = stacks ? strstr(stacks, head) : NULL;

    if (!at)
        return STR_NONE;
    return str_from(at + n);
}

bool stack_next(struct str *rest, struct stack_frame *ret)
{
    struct str line = rest->n ? str_cut(rest, '\n') : STR_NONE;

    if (str_find(line, '\t') < 0) /* the next process */
        return false;
    ret->function = str_cut(&line, '\t');
    ret->file = str_cut(&line, '\t');
    ret->line = 0;
    (void)str_to_u64(line, UINT32_MAX, &ret->line);
    return true;
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void put_json_stack(struct json *j, const char *stacks, uint32_t pid)
{
    struct str rest = stacks_of(stacks, pid);
    struct stack_frame f;

    if (!rest.n)
        return;
    json_open(j, "stack", '[');
    while (stack_next(&rest, &f)) {
        json_open(j, NULL, '{');
        json_text(j, "function", f.function);
        if (f.file.n)
            json_text(j, "file", f.file);
        if (f.file.n)
            json_number(j, "line", f.line);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void put_json_process(void *ctx, const struct process_view *p)
{
    const struct process_page *page = ctx;
    struct json *j = page->json;

    json_open(j, NULL, '{');
    json_number(j, "pid", p->pid);
    json_number(j, "generation", p->generation);
    json_text(j, "state", p->running ? STR("running") : STR("idle"));
    json_number(j, "started", p->start_s);
    json_number(j, "requests", p->requests);
    json_number(j, "duration_us", p->duration_us);
    json_text(j, "method", p->method);
    json_text(j, "uri", p->target);
    json_text(j, "script", p->script);
    json_text(j, "user", p->user);
    json_number(j, "content_length", (uint64_t)p->content_length);
    json_text(j, "request_id", p->request_id);
    json_real(j, "last_cpu_percent", p->cpu_percent);
    json_number(j, "last_memory", p->memory);
    if (p->rollbacks.n) {
        json_number(j, "rollbacks", p->rollbacks.n);
        json_real(j, "rollback_us", (double)p->rollbacks.ns / 1e3 / (double)p->rollbacks.n);
        json_number(j, "rollback_pages", p->rollbacks.pages_last);
        json_number(j, "image_kib", p->rollbacks.pages_of_image * UINT64_C(4));
    }
    put_json_stack(j, page->stacks, p->pid);
    json_close(j, '}');
}

static void put_json_channel(struct json *j, const struct backend *b, bool isolation)
{
    struct channel_counters c;

    json_open(j, NULL, '{');
    json_number(j, "generation", b->pool->generation);
    json_bool(j, "active", !b->draining);
    if (b->pool->channel) {
        channel_count(b->pool->channel, &c);
        json_number(j, "seats", channel_geometry(b->pool->channel)->workers);
        json_number(j, "queued", c.queued);
        json_number(j, "running", c.running);
        json_number(j, "pushed", c.pushed);
        json_number(j, "canceled", c.canceled);
        json_number(j, "done", c.done);
        json_number(j, "queue_full", c.queue_full);
        json_number(j, "recovered", c.recovered);
        json_number(j, "wakes", c.wakes);
        json_number(j, "signals", c.signals);
        json_number(j, "ring_full", c.ring_full);
        json_number(j, "dropped_pieces", c.dropped_pieces);
    }
    if (b->thread->index == 0 && b->pool->report)
        report_put_json(j, b->pool, isolation);
    json_close(j, '}');
}

static void put_json_slow(void *ctx, const struct lane_class *c, double mean_ms)
{
    struct json *j = ctx;

    json_open(j, NULL, '{');
    json_text(j, "requests", str_from(c->name));
    json_real(j, "mean_ms", mean_ms);
    json_number(j, "running", c->n_running);
    json_close(j, '}');
}

static void put_json_gate(void *ctx, const char *name, const struct gate *g)
{
    struct json *j = ctx;

    json_open(j, NULL, '{');
    json_text(j, "gate", str_from(name));
    json_number(j, "limit", atomic_load_explicit(&g->limit, memory_order_relaxed));
    json_number(j, "running", atomic_load_explicit(&g->running, memory_order_relaxed));
    json_number(j, "waiting", atomic_load_explicit(&g->waiting, memory_order_relaxed));
    json_number(j, "waited", atomic_load_explicit(&g->waited, memory_order_relaxed));
    json_number(j, "refused", atomic_load_explicit(&g->refused, memory_order_relaxed));
    json_close(j, '}');
}

static void put_json_pool(struct json *j, struct gateway_thread *t, const struct stats *s,
                          uint32_t pool, struct detail detail)
{
    struct pool_view v;

    status_view_pool(t, s, pool, &v);
    json_open(j, NULL, '{');
    json_text(j, "name", v.name);
    json_text(j, "process_manager", str_from(v.manager));
    json_number(j, "accepted", v.accepted);
    json_number(j, "queue", v.queue);
    json_number(j, "queue_max", v.queue_max);
    json_number(j, "queue_size", v.queue_size);
    json_number(j, "idle", v.idle);
    json_number(j, "active", v.active);
    json_number(j, "active_max", v.active_max);
    json_number(j, "limit_reached", v.limit_reached);
    json_number(j, "slow_requests", v.slow);
    json_number(j, "crashes", v.crashes);
    json_open(j, "slow", '[');
    bulkhead_look(t, pool, put_json_slow, j);
    json_close(j, ']');
    json_open(j, "generations", '[');
    LIST_FOR_EACH(it, &t->backends) {
        const struct backend *b = LIST_ENTRY(it, struct backend, link);
        if (b->pool->pool == pool)
            put_json_channel(j, b, detail.isolation);
    }
    json_close(j, ']');
    images_put_json(j, t, pool, detail.isolation);
    if (detail.full) {
        json_open(j, "processes", '[');
        status_view_processes(t, pool, put_json_process,
                              &(struct process_page){ .json = j, .stacks = detail.stacks });
        json_close(j, ']');
    }
    json_close(j, '}');
}

static void put_json_place(struct json *j, const struct place *place, const struct place_stats *p)
{
    static const char *const classes[] = { NULL, "1xx", "2xx", "3xx", "4xx", "5xx" };

    json_open(j, NULL, '{');
    json_text(j, "place", str_from(place->name));
    json_number(j, "requests", p->requests);
    json_number(j, "aborted", p->aborted);
    json_open(j, "status", '{');
    for (size_t i = 1; i < ARRAY_LENGTH(classes); i++)
        json_number(j, classes[i], p->status[i]);
    json_close(j, '}');
    json_number(j, "bytes_in", p->bytes_in);
    json_number(j, "bytes_out", p->bytes_out);
    json_open(j, "latency_ms", '{');
    json_real(j, "mean", hist_mean(p->latency) / NS_PER_MS);
    json_real(j, "p50", MS(hist_percentile(p->latency, 50)));
    json_real(j, "p90", MS(hist_percentile(p->latency, 90)));
    json_real(j, "p99", MS(hist_percentile(p->latency, 99)));
    json_real(j, "p999", MS(hist_percentile(p->latency, 99.9)));
    json_real(j, "max", MS(p->latency->max));
    json_close(j, '}');
    json_close(j, '}');
}

static void put_json_counters(struct json *j, const struct stats *s)
{
    const struct gateway_counters *c = &s->count;

    json_number(j, "connections", s->connections);
    json_number(j, "accepted_connections", c->accepted);
    json_number(j, "requests", c->requests);
    json_number(j, "bad_requests", c->bad_requests);
    json_number(j, "client_timeouts", c->timeouts);
    json_number(j, "client_aborts", c->aborted);
    json_number(j, "spooled_requests", c->spooled_requests);
    json_number(j, "streamed_requests", c->streamed_requests);
    json_number(j, "spooled_answers", c->spooled_answers);
    json_open(j, "dropped", '{');
    json_number(j, "refused_connections", c->refused);
    json_number(j, "queue_full", c->queue_full);
    json_number(j, "queue_timeouts", c->queue_timeouts);
    json_number(j, "lost_workers", c->lost_workers);
    json_number(j, "access_log_bytes", c->log_bytes_lost);
    json_number(j, "underscore_headers", c->underscore_headers);
    json_number(j, "dropped_answer_fields", c->dropped_fields);
    json_close(j, '}');
}

static void put_json_upstream(struct json *j, const struct upstream_sum *u)
{
    static const char *const states[] = { [UPSTREAM_IN_SERVICE] = "in service",
                                          [UPSTREAM_LEFT_OUT] = "left out",
                                          [UPSTREAM_HALF_OPEN] = "half open" };

    json_open(j, NULL, '{');
    json_text(j, "server", str_from(u->address));
    json_text(j, "state", str_from(states[u->breaker]));
    json_number(j, "active", u->active);
    json_number(j, "idle", u->idle);
    json_number(j, "requests", u->count.requests);
    json_number(j, "connections", u->count.connections);
    json_number(j, "reused", u->count.reused);
    json_number(j, "failed_connects", u->count.failed_connects);
    json_number(j, "broken", u->count.broken);
    json_number(j, "timeouts", u->count.timeouts);
    json_number(j, "retried", u->count.retried);
    json_number(j, "ejected", u->count.ejected);
    json_close(j, '}');
}

static void put_json(struct gateway_thread *t, const struct stats *s, struct detail detail,
                     struct buf *out)
{
    const struct gateway *g = t->gateway;
    struct json j = { .out = out };
    uint32_t n = atomic_load_explicit(&g->n_places, memory_order_acquire);

    json_open(&j, NULL, '{');
    json_number(&j, "pid", (uint64_t)getppid());
    json_number(&j, "gateway_pid", (uint64_t)getpid());
    json_text(&j, "config", str_from(g->boot.config_name ? g->boot.config_name : ""));
    json_number(&j, "started", g->started_realtime_ns / NS_PER_S);
    json_bool(&j, "draining", g->draining);
    put_json_counters(&j, s);
    json_open(&j, "pools", '[');
    for (uint32_t i = 0; i < g->config->n_pools; i++)
        put_json_pool(&j, t, s, i, detail);
    json_close(&j, ']');
    json_open(&j, "places", '[');
    for (uint32_t i = 0; i < n; i++)
        if (s->places[i])
            put_json_place(&j, g->places[i], s->places[i]);
    json_close(&j, ']');
    json_open(&j, "bulkheads", '[');
    bulkhead_look_gates(g, put_json_gate, &j);
    json_close(&j, ']');
    json_open(&j, "fastcgi", '[');
    for (uint32_t i = 0; i < s->n_upstreams; i++)
        put_json_upstream(&j, &s->upstreams[i]);
    json_close(&j, ']');
    json_close(&j, '}');
    page_put(out, "\n");
}

/* --- text ------------------------------------------------------------------------------------- */

/* What clients sent goes to a terminal: only printable ASCII. */
static void put_text_stack(struct buf *out, const char *stacks, uint32_t pid)
{
    struct str rest = stacks_of(stacks, pid);
    struct stack_frame f;

    for (unsigned i = 0; stack_next(&rest, &f); i++) {
        page_put(out, "          #%-2u ", i);
        page_put_plain(out, f.function);
        page_put(out, "  ");
        page_put_plain(out, f.file.n ? f.file : STR("(PHP itself)"));
        if (f.line > 0)
            page_put(out, ":%" PRIu64, f.line);
        page_put(out, "\n");
    }
}

static void put_text_process(void *ctx, const struct process_view *p)
{
    const struct process_page *page = ctx;
    struct buf *out = page->text;

    page_put(out, "  %7u g%-3u %-7s %8" PRIu64 " requests %10.1f ms %7.1f MiB  ", p->pid,
             p->generation, p->running ? "running" : "idle", p->requests,
             (double)p->duration_us / 1000, (double)p->memory / (1 << 20));
    page_put_plain(out, p->method);
    page_put(out, " ");
    page_put_plain(out, p->target);
    page_put(out, "\n");
    put_text_stack(out, page->stacks, p->pid);
}

static void put_text_slow(void *ctx, const struct lane_class *c, double mean_ms)
{
    struct buf *out = ctx;

    page_put(out, "    slow: ");
    page_put_plain(out, str_from(c->name));
    page_put(out, " (%.0f ms on average)\n", mean_ms);
}

static void put_text_gate(void *ctx, const char *name, const struct gate *g)
{
    struct buf *out = ctx;

    page_put(out,
             "bulkhead, %s: %u of at most %u running, %u waiting; %" PRIu64 " have waited, %" PRIu64
             " were refused\n",
             name, atomic_load_explicit(&g->running, memory_order_relaxed),
             atomic_load_explicit(&g->limit, memory_order_relaxed),
             atomic_load_explicit(&g->waiting, memory_order_relaxed),
             atomic_load_explicit(&g->waited, memory_order_relaxed),
             atomic_load_explicit(&g->refused, memory_order_relaxed));
}

static void put_text_pools(struct gateway_thread *t, const struct stats *s, struct detail detail,
                           struct buf *out)
{
    struct pool_view v;

    for (uint32_t i = 0; i < t->gateway->config->n_pools; i++) {
        const struct backend *b = t->active[i];
        status_view_pool(t, s, i, &v);
        page_put(out, "\npool %.*s", STR_ARG(v.name));
        if (b)
            page_put(out, " (generation %u, %s)", b->pool->generation, v.manager);
        else
            page_put(out, " (NO GENERATION SERVES)");
        page_put(out,
                 ": %u running, %u idle, %u waiting of %u; most: %u running, %u waiting; "
                 "%" PRIu64 " requests, %" PRIu64 " found all workers busy, %" PRIu64
                 " slow, %" PRIu64 " crashes\n",
                 v.active, v.idle, v.queue, v.queue_size, v.active_max, v.queue_max, v.accepted,
                 v.limit_reached, v.slow, v.crashes);
        bulkhead_look(t, i, put_text_slow, out);
        images_put_text(out, t, i, detail.isolation);
        if (detail.full)
            status_view_processes(t, i, put_text_process,
                                  &(struct process_page){ .text = out, .stacks = detail.stacks });
    }
}

static void put_text_places(const struct gateway *g, const struct stats *s, struct buf *out)
{
    uint32_t n = atomic_load_explicit(&g->n_places, memory_order_acquire);

    page_put(out, "\n%-32s %10s %8s %8s %8s %9s %9s %9s\n", "", "requests", "4xx", "5xx", "aborted",
             "p50 ms", "p99 ms", "max ms");
    for (uint32_t i = 0; i < n; i++) {
        const struct place_stats *p = s->places[i];
        if (!p)
            continue;
        page_put(out,
                 "%-32s %10" PRIu64 " %8" PRIu64 " %8" PRIu64 " %8" PRIu64 " %9.2f %9.2f %9.2f\n",
                 g->places[i]->name, p->requests, p->status[4], p->status[5], p->aborted,
                 MS(hist_percentile(p->latency, 50)), MS(hist_percentile(p->latency, 99)),
                 MS(p->latency->max));
    }
}

static void put_text(struct gateway_thread *t, const struct stats *s, struct detail detail,
                     struct buf *out)
{
    const struct gateway *g = t->gateway;
    const struct gateway_counters *c = &s->count;
    uint64_t up = (clock_realtime_ns() - g->started_realtime_ns) / NS_PER_S;

    page_put(out,
             "sapid[%d], %s; the gateway[%d] has been up for %" PRIu64 "d %02" PRIu64 ":%02" PRIu64
             ":%02" PRIu64 "%s\n",
             (int)getppid(), g->boot.config_name ? g->boot.config_name : "", (int)getpid(),
             up / 86400, up / 3600 % 24, up / 60 % 60, up % 60, g->draining ? ", STOPPING" : "");
    page_put(out, "%u connections, %" PRIu64 " since the start, %" PRIu64 " requests\n",
             s->connections, c->accepted, c->requests);
    page_put(out,
             "dropped: %" PRIu64 " queue full, %" PRIu64 " waited too long, %" PRIu64
             " lost with a worker, %" PRIu64 " connections refused, %" PRIu64
             " bytes of access log\n",
             c->queue_full, c->queue_timeouts, c->lost_workers, c->refused, c->log_bytes_lost);
    put_text_pools(t, s, detail, out);
    put_text_places(g, s, out);
    page_put(out, "\n");
    bulkhead_look_gates(g, put_text_gate, out);
    for (uint32_t i = 0; i < s->n_upstreams; i++) {
        const struct upstream_sum *u = &s->upstreams[i];
        page_put(out,
                 "%sFastCGI %s: %s, %u running, %" PRIu64 " requests, %" PRIu64
                 " failed connects, %" PRIu64 " broken, %" PRIu64 " timeouts\n",
                 i ? "" : "\n", u->address,
                 u->breaker == UPSTREAM_IN_SERVICE ? "in service" : "LEFT OUT", u->active,
                 u->count.requests, u->count.failed_connects, u->count.broken, u->count.timeouts);
    }
}

void status_server_page(struct admin_wait *w, const struct stats *s, struct page *ret)
{
    struct detail detail = { .full = admin_query(w->query, STR("full")).p != NULL,
                             .isolation = admin_query(w->query, STR("isolation")).p != NULL,
                             .stacks = w->stacks };

    if (admin_query(w->query, STR("json")).p) {
        ret->type = "application/json";
        put_json(w->thread, s, detail, &ret->out);
    } else {
        put_text(w->thread, s, detail, &ret->out);
    }
}
