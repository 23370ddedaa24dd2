/*
 * /metrics: the whole server in OpenMetrics text. Families of the pools have PHP-FPM's names with a
 * label `pool`, as gauges, because several of FPM's counters go down; everything else begins with
 * sapid_.
 */
#include <inttypes.h>

#include "gateway/admin.h"
#include "gateway/images.h"

static void family(struct buf *b, const char *name, const char *type, const char *help)
{
    page_put(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct buf *b, const char *name, const char *type, const char *help, uint64_t n)
{
    bool counter = type[0] == 'c';

    family(b, name, type, help);
    page_put(b, "%s%s %" PRIu64 "\n", name, counter ? "_total" : "", n);
}

/* --- the gateway ------------------------------------------------------------------------------ */

static void put_gateway(struct buf *b, const struct gateway *g, const struct stats *s)
{
    const struct gateway_counters *c = &s->count;

    family(b, "sapid_start_time_seconds", "gauge", "When the gateway started");
    page_put(b, "sapid_start_time_seconds %.3f\n", (double)g->started_realtime_ns / NS_PER_S);
    single(b, "sapid_connections", "gauge", "Open client connections", s->connections);
    single(b, "sapid_accepted_connections", "counter", "Client connections accepted", c->accepted);
    single(b, "sapid_refused_connections", "counter",
           "Client connections closed for want of room (max_connections, memory)", c->refused);
    single(b, "sapid_bad_requests", "counter", "Requests that were no valid HTTP", c->bad_requests);
    single(b, "sapid_client_timeouts", "counter", "Clients that were too slow", c->timeouts);
    single(b, "sapid_client_aborts", "counter", "Clients that left before their answer",
           c->aborted);
    single(b, "sapid_queue_full", "counter", "Requests answered 503 because a queue was full",
           c->queue_full);
    single(b, "sapid_queue_timeouts", "counter",
           "Requests answered 503 because they waited for queue_timeout", c->queue_timeouts);
    single(b, "sapid_lost_workers", "counter", "Requests whose worker died", c->lost_workers);
    single(b, "sapid_spooled_requests", "counter", "Request bodies written to spool_dir",
           c->spooled_requests);
    single(b, "sapid_streamed_requests", "counter", "Request bodies read by PHP as they came",
           c->streamed_requests);
    single(b, "sapid_spooled_answers", "counter", "Answers written to spool_dir for slow clients",
           c->spooled_answers);
    single(b, "sapid_access_log_lost_bytes", "counter", "Access log that could not be written",
           c->log_bytes_lost);
    single(b, "sapid_dropped_headers", "counter",
           "Request header fields dropped because their name holds _ or .", c->underscore_headers);
    single(b, "sapid_dropped_answer_fields", "counter",
           "Header fields of answers left out because HTTP does not allow their name or value",
           c->dropped_fields);
}

/* --- places ----------------------------------------------------------------------------------- */

static void put_label(struct buf *b, const struct gateway *g, uint32_t place)
{
    page_put(b, "{place=\"");
    page_put_json(b, str_from(g->places[place]->name));
    page_put(b, "\"");
}

/* One counter of each place: the uint64_t at that offset. */
static void put_places(struct buf *b, const struct gateway *g, const struct stats *s, uint32_t n,
                       const char *name, const char *help, size_t offset)
{
    family(b, name, "counter", help);
    for (uint32_t i = 0; i < n; i++) {
        if (!s->places[i])
            continue;
        page_put(b, "%s_total", name);
        put_label(b, g, i);
        page_put(b, "} %" PRIu64 "\n", *(const uint64_t *)((const char *)s->places[i] + offset));
    }
}

static void put_requests(struct buf *b, const struct gateway *g, const struct stats *s, uint32_t n)
{
    family(b, "sapid_requests", "counter", "Requests answered, by place and status");
    for (uint32_t i = 0; i < n; i++)
        for (unsigned k = 1; s->places[i] && k < ARRAY_LENGTH(s->places[i]->status); k++) {
            page_put(b, "sapid_requests_total");
            put_label(b, g, i);
            page_put(b, ",status=\"%uxx\"} %" PRIu64 "\n", k, s->places[i]->status[k]);
        }
    put_places(b, g, s, n, "sapid_aborted_requests", "Requests without a complete answer",
               offsetof(struct place_stats, aborted));
    put_places(b, g, s, n, "sapid_received_bytes", "Request heads and bodies",
               offsetof(struct place_stats, bytes_in));
    put_places(b, g, s, n, "sapid_sent_bytes", "Answers, heads and bodies",
               offsetof(struct place_stats, bytes_out));
}

static void put_latency(struct buf *b, const struct gateway *g, const struct stats *s, uint32_t n)
{
    static const char *const bounds[] = { "0.001", "0.005", "0.01", "0.025", "0.05", "0.1",
                                          "0.25",  "0.5",   "1.0",  "2.5",   "5.0",  "10.0" };
    static const uint64_t bounds_ms[] = {
        1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000
    };

    family(b, "sapid_request_duration_seconds", "histogram",
           "From the first byte of a request to the last of its answer");
    for (uint32_t i = 0; i < n; i++) {
        const struct hist *h = s->places[i] ? s->places[i]->latency : NULL;
        for (size_t k = 0; h && k <= ARRAY_LENGTH(bounds); k++) {
            bool last = k == ARRAY_LENGTH(bounds);
            page_put(b, "sapid_request_duration_seconds_bucket");
            put_label(b, g, i);
            page_put(b, ",le=\"%s\"} %" PRIu64 "\n", last ? "+Inf" : bounds[k],
                     last ? h->count : hist_count_to(h, bounds_ms[k] * NS_PER_MS));
        }
        if (!h)
            continue;
        page_put(b, "sapid_request_duration_seconds_sum");
        put_label(b, g, i);
        page_put(b, "} %.6f\n", h->sum / NS_PER_S);
        page_put(b, "sapid_request_duration_seconds_count");
        put_label(b, g, i);
        page_put(b, "} %" PRIu64 "\n", h->count);
    }
}

/* --- bulkheads -------------------------------------------------------------------------------- */

struct gate_row {
    struct buf *out;
    const char *name;
    size_t offset;
    bool is_counter;
};

static void put_gate(void *ctx, const char *name, const struct gate *g)
{
    const struct gate_row *row = ctx;
    const void *field = (const char *)g + row->offset;

    page_put(row->out, "%s%s{gate=\"", row->name, row->is_counter ? "_total" : "");
    page_put_json(row->out, str_from(name));
    page_put(row->out, "\"} %" PRIu64 "\n",
             row->is_counter
                 ? atomic_load_explicit((const _Atomic uint64_t *)field, memory_order_relaxed)
                 : atomic_load_explicit((const _Atomic uint32_t *)field, memory_order_relaxed));
}

static void put_gates(struct buf *b, const struct gateway *g)
{
    static const struct {
        const char *name, *type, *help;
        size_t offset;
    } rows[] = {
        { "sapid_bulkhead_limit", "gauge", "Requests that may run", offsetof(struct gate, limit) },
        { "sapid_bulkhead_running", "gauge", "Requests that run", offsetof(struct gate, running) },
        { "sapid_bulkhead_waiting", "gauge", "Requests that wait", offsetof(struct gate, waiting) },
        { "sapid_bulkhead_waited", "counter", "Requests that had to wait",
          offsetof(struct gate, waited) },
        { "sapid_bulkhead_refused", "counter", "Requests answered 503 at once",
          offsetof(struct gate, refused) },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++) {
        struct gate_row row = { b, rows[i].name, rows[i].offset, rows[i].type[0] == 'c' };
        family(b, rows[i].name, rows[i].type, rows[i].help);
        bulkhead_look_gates(g, put_gate, &row);
    }
}

/* --- pools ------------------------------------------------------------------------------------ */

enum { PHPFPM_ROWS = 12 };

static uint64_t phpfpm_value(const struct pool_view *v, unsigned row)
{
    const uint64_t values[PHPFPM_ROWS] = { 1,
                                           clock_realtime_ns() / NS_PER_S - v->start_s,
                                           v->accepted,
                                           v->queue,
                                           v->queue_max,
                                           v->queue_size,
                                           v->idle,
                                           v->active,
                                           v->idle + v->active,
                                           v->active_max,
                                           v->limit_reached,
                                           v->slow };
    return values[row];
}

static void put_pools(struct buf *b, struct gateway_thread *t, const struct stats *s)
{
    static const char *const names[PHPFPM_ROWS][2] = {
        { "up", "The pool's status could be read" },
        { "start_since", "Seconds since the gateway started" },
        { "accepted_connections", "Requests given to workers" },
        { "listen_queue", "Requests that wait for a worker" },
        { "max_listen_queue", "The most that have waited at once" },
        { "listen_queue_length", "How many may wait" },
        { "idle_processes", "Workers without a request" },
        { "active_processes", "Workers with a request" },
        { "total_processes", "Workers" },
        { "max_active_processes", "The most workers that were busy at once" },
        { "max_children_reached", "How often a request found all workers busy" },
        { "slow_requests", "Requests that ran longer than slow_log_after" },
    };
    struct pool_view v;

    for (unsigned row = 0; row < PHPFPM_ROWS; row++) {
        page_put(b, "# HELP phpfpm_%s %s\n# TYPE phpfpm_%s gauge\n", names[row][0], names[row][1],
                 names[row][0]);
        for (uint32_t i = 0; i < t->gateway->config->n_pools; i++) {
            status_view_pool(t, s, i, &v);
            page_put(b, "phpfpm_%s{pool=\"%.*s\"} %" PRIu64 "\n", names[row][0], STR_ARG(v.name),
                     phpfpm_value(&v, row));
        }
    }
}

static void put_crashes(struct buf *b, struct gateway_thread *t, const struct stats *s)
{
    struct pool_view v;

    family(b, "sapid_worker_crashes", "counter", "Workers that died of a signal of their own");
    for (uint32_t i = 0; i < t->gateway->config->n_pools; i++) {
        status_view_pool(t, s, i, &v);
        page_put(b, "sapid_worker_crashes_total{pool=\"%.*s\"} %" PRIu64 "\n", STR_ARG(v.name),
                 v.crashes);
    }
}

static void count_one(void *ctx, const struct pool_link *image)
{
    (void)image;
    ++*(uint64_t *)ctx;
}

enum image_row { IMAGES_ACTIVE, IMAGES_SERVED, IMAGES_PASSED_ON, IMAGES_REFUSED, IMAGES_ROWS };

static uint64_t image_value(const struct gateway_thread *t, uint32_t pool, enum image_row row)
{
    const struct image_figures *f = &t->gateway->images[pool];
    uint64_t n = 0;

    switch (row) {
    case IMAGES_SERVED: return atomic_load_explicit(&f->served, memory_order_relaxed);
    case IMAGES_PASSED_ON: return atomic_load_explicit(&f->passed_on, memory_order_relaxed);
    case IMAGES_REFUSED: return atomic_load_explicit(&f->refused, memory_order_relaxed);
    default: images_look(t, pool, count_one, &n); return n;
    }
}

static void put_images(struct buf *b, const struct gateway_thread *t)
{
    static const char *const rows[][3] = {
        { "sapid_script_images", "gauge", "Entry scripts that are served from an image" },
        { "sapid_script_image_requests", "counter", "Requests answered from an image" },
        { "sapid_script_image_passed_on", "counter",
          "Requests that an image left to classic mode" },
        { "sapid_script_image_refusals", "counter", "Times that a script could not be frozen" },
    };

    for (unsigned row = 0; row < IMAGES_ROWS; row++) {
        family(b, rows[row][0], rows[row][1], rows[row][2]);
        for (uint32_t i = 0; i < t->gateway->config->n_pools; i++)
            page_put(b, "%s%s{pool=\"%.*s\"} %" PRIu64 "\n", rows[row][0],
                     row == IMAGES_ACTIVE ? "" : "_total",
                     STR_ARG(t->gateway->config->pools[i].name), image_value(t, i, row));
    }
}

/* --- FastCGI servers -------------------------------------------------------------------------- */

static void put_server_row(struct buf *b, const struct stats *s, const char *name, const char *type,
                           const char *help, size_t offset)
{
    family(b, name, type, help);
    for (uint32_t i = 0; i < s->n_upstreams; i++) {
        const char *count = (const char *)&s->upstreams[i].count + offset;
        page_put(b, "%s_total{server=\"", name);
        page_put_json(b, str_from(s->upstreams[i].address));
        page_put(b, "\"} %" PRIu64 "\n", *(const uint64_t *)(const void *)count);
    }
}

static void put_upstreams(struct buf *b, const struct stats *s)
{
#define ROW(name, field, help)                                   \
    put_server_row(b, s, "sapid_fastcgi_" name, "counter", help, \
                   offsetof(struct upstream_server_counters, field))
    if (s->n_upstreams == 0)
        return;
    ROW("requests", requests, "Requests sent to the server, repeated ones included");
    ROW("connections", connections, "Connections opened");
    ROW("failed_connects", failed_connects, "Connections that could not be made");
    ROW("broken", broken, "Connections lost with a request");
    ROW("timeouts", timeouts, "Requests beyond a time limit");
    ROW("retried", retried, "Requests tried again");
    ROW("ejected", ejected, "How often the server was left out");
#undef ROW
    single(b, "sapid_fastcgi_queue", "gauge", "Requests that wait for a connection",
           s->upstream_queued);
    single(b, "sapid_fastcgi_queue_full", "counter", "Requests answered 503 at once",
           s->upstream.queue_full);
}

void metrics_page(struct gateway_thread *t, const struct stats *s, struct page *ret)
{
    uint32_t n = atomic_load_explicit(&t->gateway->n_places, memory_order_acquire);

    ret->type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    put_gateway(&ret->out, t->gateway, s);
    put_requests(&ret->out, t->gateway, s, n);
    put_latency(&ret->out, t->gateway, s, n);
    put_pools(&ret->out, t, s);
    put_crashes(&ret->out, t, s);
    if (t->index == 0)
        report_put_metrics(&ret->out, t);
    put_images(&ret->out, t);
    put_gates(&ret->out, t->gateway);
    put_upstreams(&ret->out, s);
    page_put(&ret->out, "# EOF\n");
}
