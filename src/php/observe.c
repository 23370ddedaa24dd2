/*
 * What is each worker doing now: its state, its request, its processor time and memory, its PHP
 * stack. Seen from outside; the worker is not stopped and does not notice. Slow log, crash records,
 * `sapid status` and profilers all look through here.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kernel_file.h"
#include "base/mem.h"
#include "php/pool_int.h"

uint64_t observe_cpu_ns(pid_t pid)
{
    struct timespec t;
    clockid_t id;

    if (clock_getcpuclockid(pid, &id) != 0 || clock_gettime(id, &t) < 0)
        return 0;
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t observe_rss_bytes(pid_t pid)
{
    char path[64], text[128];
    unsigned long pages = 0;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    if (!kernel_file_read(path, text, sizeof(text)) || sscanf(text, "%*u %lu", &pages) != 1)
        return 0;
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The worker noted it when the request began, if it was told to; else the time it was first seen
 * counts. Its own word is believed as far as it is possible. */
static uint64_t cpu_at_start(const struct seat *seat, uint64_t now_ns)
{
    uint64_t noted =
        seat->box ? atomic_load_explicit(&seat->box->cpu_at_start_ns, memory_order_relaxed) : 0;

    if (noted && noted <= now_ns)
        return noted;
    return seat->watch.cpu_ns <= now_ns ? seat->watch.cpu_ns : now_ns;
}

void observe_worker(struct pool *p, uint32_t worker, unsigned what, struct worker_look *ret)
{
    struct seat *seat = &p->seats[worker];
    struct channel_worker_info info;
    uint64_t now = clock_monotonic_ns();

    memset(ret, 0, offsetof(struct worker_look, texts));
    ret->worker = worker;
    ret->incarnation = seat->incarnation;
    ret->pid = seat->pid;
    if (!seat->pid)
        return;
    ret->process_cpu_ns = observe_cpu_ns(seat->pid);
    ret->rss_bytes = observe_rss_bytes(seat->pid);
    if (what & OBSERVE_PSS)
        ret->pss_bytes = worker_memory_pss(&seat->memory);
    channel_worker_look(p->channel, worker, &info);
    if (info.incarnation == seat->incarnation) {
        ret->requests = info.requests;
        ret->rollbacks = info.rollbacks;
        ret->running_ns = now > info.since_ns ? now - info.since_ns : 0;
        ret->is_busy = info.state == CHANNEL_WORKER_BUSY;
    }
    if (ret->is_busy) {
        ret->has_request = channel_request_look(p->channel, info.ticket, ret->texts, &ret->request);
        ret->cpu_ns = ret->process_cpu_ns - cpu_at_start(seat, ret->process_cpu_ns);
        if (ret->cpu_ns > ret->running_ns)
            ret->cpu_ns = ret->running_ns; /* clocks of two processors */
    }
    if ((what & OBSERVE_STACK) && p->layout)
        ret->has_stack =
            worker_memory_stack(&seat->memory, p->layout, PHP_STACK_FRAMES, &ret->stack);
}

static void put_field(struct buf *b, const char *name, struct str value)
{
    (void)!buf_printf(b, ",\"%s\":\"", name);
    record_put(b, value, true);
    (void)!buf_append(b, "\"", 1);
}

static void put_worker(struct buf *b, const struct worker_look *l)
{
    (void)!buf_printf(b, "{\"worker\":%" PRIu32 ",\"pid\":%d,\"state\":\"%s\"", l->worker,
                      (int)l->pid,
                      !l->pid      ? "empty"
                      : l->is_busy ? "busy"
                                   : "idle");
    if (l->pid)
        (void)!buf_printf(b,
                          ",\"requests\":%" PRIu64 ",\"since_ms\":%" PRIu64 ",\"cpu_ms\":%" PRIu64
                          ",\"rss_bytes\":%" PRIu64,
                          l->requests, l->running_ns / NS_PER_MS, l->process_cpu_ns / NS_PER_MS,
                          l->rss_bytes);
    if (l->rollbacks.n)
        (void)!buf_printf(b,
                          ",\"rollbacks\":{\"n\":%" PRIu64
                          ",\"mean_us\":%.1f,\"last_pages\":%" PRIu32 ",\"image_kib\":%" PRIu32 "}",
                          l->rollbacks.n, (double)l->rollbacks.ns / 1e3 / (double)l->rollbacks.n,
                          l->rollbacks.pages_last, l->rollbacks.pages_of_image * 4);
    if (l->pss_bytes)
        (void)!buf_printf(b, ",\"pss_bytes\":%" PRIu64, l->pss_bytes);
    if (l->has_request) {
        (void)!buf_printf(b, ",\"request\":{\"cpu_ms\":%" PRIu64 ",\"wait_ms\":%" PRIu64,
                          l->cpu_ns / NS_PER_MS, (l->running_ns - l->cpu_ns) / NS_PER_MS);
        put_field(b, "id", l->request.request_id);
        put_field(b, "method", l->request.method);
        put_field(b, "uri", l->request.target);
        put_field(b, "host", l->request.host);
        put_field(b, "client", l->request.remote_addr);
        put_field(b, "script", l->request.script_filename);
        put_field(b, "route", l->request.route);
        (void)!buf_append(b, "}", 1);
    }
    if (l->has_stack) {
        (void)!buf_printf(b, ",\"stack\":");
        record_put_stack_json(b, &l->stack);
    }
    (void)!buf_append(b, "}", 1);
}

void observe_json(struct pool *p, unsigned what, struct buf *out)
{
    struct worker_look *look = mem_alloc(sizeof(*look));
    const struct pool_counters *c = &p->count;

    (void)!buf_printf(out, "{\"pool\":\"%.*s\",\"generation\":%" PRIu32 ",\"pid\":%d",
                      STR_ARG(p->conf->name), p->boot.generation, (int)getpid());
    (void)!buf_printf(out,
                      ",\"slow_requests\":%" PRIu64 ",\"timeouts\":%" PRIu64
                      ",\"timeout_kills\":%" PRIu64 ",\"crashes\":%" PRIu64
                      ",\"lock_probes\":%" PRIu64 ",\"dead_locks\":%" PRIu64
                      ",\"records_lost\":%" PRIu64 ",\"workers\":[",
                      c->slow_requests, c->timeouts, c->timeout_kills, c->crashes, c->probes,
                      c->dead_locks, c->records_lost);
    for (uint32_t i = 0; i < p->n_seats && p->channel; i++) {
        observe_worker(p, i, what, look);
        if (i)
            (void)!buf_append(out, ",", 1);
        put_worker(out, look);
    }
    (void)!buf_printf(out, "],\"crashes_by_route\":{");
    for (uint32_t i = 0; i < p->n_crash_routes; i++) {
        (void)!buf_printf(out, "%s\"", i ? "," : "");
        record_put(out, str_from(p->crash_routes[i].route), true);
        (void)!buf_printf(out, "\":%" PRIu32, p->crash_routes[i].crashes);
    }
    (void)!buf_printf(out, "}}\n");
    mem_free(look);
}

static void put_frames(struct buf *out, const struct php_stack *s)
{
    char name[2 * PHP_STACK_NAME + 4];

    for (uint32_t i = 0; i < s->n_frames; i++) {
        const struct php_frame *f = &s->frames[i];
        php_frame_name(s, f, name, sizeof(name));
        record_put(out, str_from(name), false);
        (void)!buf_append(out, "\t", 1);
        record_put(out, str_from(f->file ? php_stack_text(s, f->file) : ""), false);
        (void)!buf_printf(out, "\t%" PRIu32 "\n", f->file ? f->line : 0);
    }
}

static void observe_frames(struct pool *p, struct buf *out)
{
    struct worker_look *look = mem_alloc(sizeof(*look));

    (void)!buf_printf(out, "pool %.*s\n", STR_ARG(p->conf->name));
    for (uint32_t i = 0; i < p->n_seats && p->channel; i++) {
        observe_worker(p, i, OBSERVE_STACK, look);
        if (!look->is_busy || !look->has_stack)
            continue;
        (void)!buf_printf(out, "pid %d\n", (int)look->pid);
        put_frames(out, &look->stack);
    }
    mem_free(look);
}

void observe_answer(struct pool *p, unsigned what)
{
    struct buf text;

    buf_init(&text, 8 << 20);
    if (what & OBSERVE_FRAMES)
        observe_frames(p, &text);
    else
        observe_json(p, what, &text);
    record_send(p, CONTROL_RECORD_LOOK, buf_view(&text));
    buf_fini(&text);
}
