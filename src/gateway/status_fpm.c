/*
 * A pool's status page in the words of PHP-FPM's (sapi/fpm/fpm/fpm_status.c of PHP 8.4): the same
 * fields in the same order under the same names in every format, so that what reads the one reads
 * the other. What the words mean here:
 *
 *   accepted conn         requests given to the pool's workers
 *   listen queue          requests that wait for a worker now, wherever in the server
 *   listen queue len      queue_size
 *   max children reached  how often a request found all workers busy
 *   start time            of the gateway, which counts
 *   memory peak           of the generations that are there; PHP-FPM has it since PHP 8.4
 *
 * A process is Idle or Running; what it says of its last request is its own word.
 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "gateway/admin.h"

/* --- figures ---------------------------------------------------------------------------------- */

void status_view_pool(struct gateway_thread *t, const struct stats *s, uint32_t pool,
                      struct pool_view *ret)
{
    struct gateway *g = t->gateway;
    struct pool_figures *f = &g->figures[pool];
    const struct backend *active = t->active[pool];
    const struct config_pool *c = active ? &active->pool->config->pools[pool]
                                         : &g->config->pools[pool];

    *ret = (struct pool_view){
        .name = c->name,
        .manager = c->worker_min == CONFIG_AUTO ? "static"
                   : c->worker_min == 0         ? "ondemand"
                                                : "dynamic",
        .start_s = g->started_realtime_ns / NS_PER_S,
        .accepted = atomic_load_explicit(&f->accepted, memory_order_relaxed),
        .limit_reached = atomic_load_explicit(&f->limit_reached, memory_order_relaxed),
        .crashes = atomic_load_explicit(&f->crashes, memory_order_relaxed),
        .queue = s->waiting[pool] +
                 atomic_load_explicit(&g->slow_lanes[pool].waiting, memory_order_relaxed),
        .queue_max = atomic_load_explicit(&f->queue_max, memory_order_relaxed),
        .queue_size = c->queue_size,
        .active_max = atomic_load_explicit(&f->active_max, memory_order_relaxed),
    };
    LIST_FOR_EACH(it, &t->backends) {
        const struct backend *b = LIST_ENTRY(it, struct backend, link);
        struct channel_worker_info info;
        struct channel_counters count;
        if (b->pool->pool != pool || !b->pool->channel)
            continue;
        channel_count(b->pool->channel, &count);
        ret->queue += count.queued;
        ret->slow += count.slow;
        if (count.memory_peak > ret->memory_peak)
            ret->memory_peak = count.memory_peak;
        for (uint32_t w = 0; w < channel_geometry(b->pool->channel)->workers; w++) {
            channel_worker_look(b->pool->channel, w, &info);
            ret->active += info.state == CHANNEL_WORKER_BUSY;
            ret->idle += info.state == CHANNEL_WORKER_IDLE;
        }
    }
    if (ret->active > ret->active_max) /* one that draining generations have, too */
        ret->active_max = ret->active;
}

static int base64_digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* The user of "Basic dXNlcjpwYXNz"; the password does not leave this function. */
static struct str basic_user(struct str authorization, char *out, size_t size)
{
    uint32_t bits = 0, n_bits = 0;
    size_t n = 0;

    if (authorization.n < 6 || !str_eq_nocase(str_take(authorization, 6), STR("basic ")))
        return STR_NONE;
    for (size_t i = 6; i < authorization.n && n < size; i++) {
        int digit = base64_digit(authorization.p[i]);
        if (digit < 0)
            break;
        bits = bits << 6 | (uint32_t)digit;
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        char c = (char)(bits >> n_bits & 0xff);
        if (c == ':')
            break;
        out[n++] = c;
    }
    return (struct str){ out, n };
}

static void view_process(const struct backend *b, uint64_t now,
                         const struct channel_worker_info *info, struct process_view *p)
{
    struct channel_peek *look = &p->look;

    p->pid = info->pid;
    p->generation = b->pool->generation;
    p->running = info->state == CHANNEL_WORKER_BUSY;
    p->start_s = info->attached_ns / NS_PER_S;
    p->requests = info->requests + p->running;
    p->duration_us = p->running ? (now > info->since_ns ? now - info->since_ns : 0) / 1000
                                : info->last_ns / 1000;
    p->memory = p->running ? 0 : info->last_memory;
    p->cpu_percent = p->running || info->last_ns == 0
                         ? 0
                         : 100.0 * (double)info->last_cpu_ns / (double)info->last_ns;
    p->rollbacks = info->rollbacks;
    p->method = p->target = p->script = p->user = STR_NONE;
    p->content_length = 0;
    p->request_id = STR_NONE;
    if (!channel_request_peek(b->pool->channel, info->ticket, look))
        return;
    p->request_id = look->request_id;
    p->method = look->method;
    p->target = look->target;
    p->script = look->script_filename;
    p->user = basic_user(look->authorization, p->user_text, sizeof(p->user_text));
    p->content_length = look->content_length > 0 ? look->content_length : 0;
}

void status_view_processes(struct gateway_thread *t, uint32_t pool,
                           void (*see)(void *ctx, const struct process_view *p), void *ctx)
{
    struct process_view p;
    uint64_t now = clock_monotonic_ns();

    LIST_FOR_EACH(it, &t->backends) {
        const struct backend *b = LIST_ENTRY(it, struct backend, link);
        struct channel_worker_info info;
        if (b->pool->pool != pool || !b->pool->channel)
            continue;
        for (uint32_t w = 0; w < channel_geometry(b->pool->channel)->workers; w++) {
            channel_worker_look(b->pool->channel, w, &info);
            if (info.state == CHANNEL_WORKER_NONE)
                continue;
            view_process(b, now, &info, &p);
            see(ctx, &p);
        }
    }
}

/* --- formats ---------------------------------------------------------------------------------- */

enum format { TEXT, JSON, HTML, XML, OPENMETRICS };

static const struct {
    const char *type;
    const char *before, *between, *after; /* the processes of ?full */
    const char *end;
} formats[] = {
    [TEXT] = { "text/plain", "", "", "", "" },
    [JSON] = { "application/json", ",\"processes\":[", ",", "]", "}" },
    [HTML] = { "text/html", NULL, "", "</table>", "</body></html>" },
    [XML] = { "text/xml", "<processes>\n", "", "</processes>\n", "</status>" },
    [OPENMETRICS] = { "application/openmetrics-text; version=1.0.0; charset=utf-8", "", "", "",
                      "# EOF\n" },
};

static enum format choose_format(struct str query)
{
    return admin_query(query, STR("html")).p          ? HTML
           : admin_query(query, STR("xml")).p         ? XML
           : admin_query(query, STR("json")).p        ? JSON
           : admin_query(query, STR("openmetrics")).p ? OPENMETRICS
                                                      : TEXT;
}

struct writer {
    struct buf *out;
    enum format format;
    bool first;   /* field of its object */
    bool process; /* fields are those of a process */
    uint32_t n_processes;
};

/* "accepted conn" as an XML element */
static void put_tag(struct writer *w, const char *open, const char *name)
{
    page_put(w->out, "%s", open);
    for (const char *p = name; *p; p++)
        page_put(w->out, "%c", *p == ' ' ? '-' : *p);
    page_put(w->out, ">");
}

static void put_value(struct writer *w, struct str value)
{
    if (w->format == JSON)
        page_put_json(w->out, value);
    else if (w->format == TEXT)
        page_put(w->out, "%.*s", STR_ARG(value));
    else
        page_put_html(w->out, value);
}

static void put_field(struct writer *w, const char *name, struct str value, bool is_number)
{
    char label[64];

    switch (w->format) {
    case TEXT:
        snprintf(label, sizeof(label),
                 "%s:", w->process && strcmp(name, "request uri") == 0 ? "request URI" : name);
        page_put(w->out, "%-21s ", label);
        put_value(w, value);
        page_put(w->out, "\n");
        break;
    case JSON:
        page_put(w->out, "%s\"%s\":%s", w->first ? "" : ",", name, is_number ? "" : "\"");
        put_value(w, value);
        page_put(w->out, is_number ? "" : "\"");
        break;
    case HTML:
        if (w->process)
            page_put(w->out, "<td>");
        else
            page_put(w->out, "<tr><th>%s</th><td>", name);
        put_value(w, value);
        page_put(w->out, w->process ? "</td>" : "</td></tr>\n");
        break;
    case XML:
        put_tag(w, "<", name);
        put_value(w, value);
        put_tag(w, "</", name);
        page_put(w->out, w->process ? "" : "\n");
        break;
    case OPENMETRICS: break;
    }
    w->first = false;
}

static void put_text(struct writer *w, const char *name, struct str value)
{
    put_field(w, name, value.n ? value : STR("-"), false);
}

static void put_number(struct writer *w, const char *name, uint64_t n)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, n);
    put_field(w, name, str_from(text), true);
}

/* Seconds since 1970 for machines, a date for people. */
static void put_time(struct writer *w, const char *name, uint64_t seconds)
{
    time_t at = (time_t)seconds;
    char text[64];
    struct tm tm;

    if (w->format == JSON || w->format == XML) {
        put_number(w, name, seconds);
        return;
    }
    localtime_r(&at, &tm);
    strftime(text, sizeof(text), "%d/%b/%Y:%H:%M:%S %z", &tm);
    put_field(w, name, str_from(text), false);
}

static uint64_t seconds_since(uint64_t start_s)
{
    uint64_t now = clock_realtime_ns() / NS_PER_S;

    return now > start_s ? now - start_s : 0;
}

static void put_pool(struct writer *w, const struct pool_view *v)
{
    put_text(w, "pool", v->name);
    put_text(w, "process manager", str_from(v->manager));
    put_time(w, "start time", v->start_s);
    put_number(w, "start since", seconds_since(v->start_s));
    put_number(w, "accepted conn", v->accepted);
    put_number(w, "listen queue", v->queue);
    put_number(w, "max listen queue", v->queue_max);
    put_number(w, "listen queue len", v->queue_size);
    put_number(w, "idle processes", v->idle);
    put_number(w, "active processes", v->active);
    put_number(w, "total processes", v->idle + v->active);
    put_number(w, "max active processes", v->active_max);
    put_number(w, "max children reached", v->limit_reached);
    put_number(w, "slow requests", v->slow);
    put_number(w, "memory peak", v->memory_peak);
}

static void put_process(void *ctx, const struct process_view *p)
{
    struct writer *w = ctx;
    char cpu[32];

    if (w->n_processes++)
        page_put(w->out, "%s", formats[w->format].between);
    page_put(w->out, "%s",
             w->format == TEXT   ? "\n************************\n"
             : w->format == JSON ? "{"
             : w->format == HTML ? "<tr>"
                                 : "<process>");
    w->first = w->process = true;
    put_number(w, "pid", p->pid);
    put_text(w, "state", p->running ? STR("Running") : STR("Idle"));
    put_time(w, "start time", p->start_s);
    put_number(w, "start since", seconds_since(p->start_s));
    put_number(w, "requests", p->requests);
    put_number(w, "request duration", p->duration_us);
    put_text(w, "request method", p->method);
    put_text(w, "request uri", p->target);
    put_number(w, "content length", (uint64_t)p->content_length);
    put_text(w, "user", p->user);
    put_text(w, "script", p->script);
    snprintf(cpu, sizeof(cpu), "%.2f", p->cpu_percent);
    put_field(w, "last request cpu", str_from(cpu), true);
    put_number(w, "last request memory", p->memory);
    page_put(w->out, "%s",
             w->format == JSON   ? "}"
             : w->format == HTML ? "</tr>\n"
             : w->format == XML  ? "</process>\n"
                                 : "");
}

static void put_html_head(struct writer *w)
{
    page_put(w->out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head><title>PHP-FPM Status Page</title>"
                     "</head>\n<body>\n<table>\n");
}

static void put_process_headings(struct writer *w)
{
    static const char *const names[] = { "pid",
                                         "state",
                                         "start time",
                                         "start since",
                                         "requests",
                                         "request duration",
                                         "request method",
                                         "request uri",
                                         "content length",
                                         "user",
                                         "script",
                                         "last request cpu",
                                         "last request memory" };

    page_put(w->out, "<table border=\"1\">\n<tr>");
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        page_put(w->out, "<th>%s</th>", names[i]);
    page_put(w->out, "</tr>\n");
}

/* Names and types as PHP-FPM has them. */
static void put_openmetrics(struct buf *out, const struct pool_view *v)
{
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        { "up", "gauge", "The pool's status could be read", 1 },
        { "start_since", "counter", "Seconds since the gateway started",
          seconds_since(v->start_s) },
        { "accepted_connections", "counter", "Requests given to workers", v->accepted },
        { "listen_queue", "gauge", "Requests that wait for a worker", v->queue },
        { "max_listen_queue", "counter", "The most that have waited at once", v->queue_max },
        { "listen_queue_length", "gauge", "How many may wait", v->queue_size },
        { "idle_processes", "gauge", "Workers without a request", v->idle },
        { "active_processes", "gauge", "Workers with a request", v->active },
        { "total_processes", "gauge", "Workers", v->idle + v->active },
        { "max_active_processes", "counter", "The most workers that were busy at once",
          v->active_max },
        { "max_children_reached", "counter", "How often a request found all workers busy",
          v->limit_reached },
        { "slow_requests", "counter", "Requests that ran longer than slow_log_after", v->slow },
        { "memory_peak", "gauge", "The most memory that a request took", v->memory_peak },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(rows); i++)
        page_put(out, "# HELP phpfpm_%s %s\n# TYPE phpfpm_%s %s\nphpfpm_%s %" PRIu64 "\n",
                 rows[i].name, rows[i].help, rows[i].name, rows[i].type, rows[i].name,
                 rows[i].value);
}

void status_fpm_page(struct gateway_thread *t, const struct stats *s, uint32_t pool,
                     struct str query, struct page *ret)
{
    struct writer w = { .out = &ret->out, .format = choose_format(query), .first = true };
    bool full = admin_query(query, STR("full")).p != NULL && w.format != OPENMETRICS;
    struct pool_view view;

    status_view_pool(t, s, pool, &view);
    ret->type = formats[w.format].type;
    if (w.format == OPENMETRICS)
        put_openmetrics(&ret->out, &view);
    else if (w.format == HTML)
        put_html_head(&w);
    else if (w.format != TEXT)
        page_put(w.out, "%s", w.format == JSON ? "{" : "<?xml version=\"1.0\" ?>\n<status>\n");
    put_pool(&w, &view);
    if (w.format == HTML)
        page_put(w.out, "</table>\n");
    if (full) {
        if (w.format == HTML)
            put_process_headings(&w);
        else
            page_put(w.out, "%s", formats[w.format].before);
        status_view_processes(t, pool, put_process, &w);
        page_put(w.out, "%s", formats[w.format].after);
    }
    page_put(w.out, "%s", formats[w.format].end);
}
