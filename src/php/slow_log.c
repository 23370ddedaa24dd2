/*
 * The slow log, in PHP-FPM's format (fpm_php_trace.c) so that what reads that reads this: an empty
 * line, time, pool and process, script_filename, and the calls, innermost first, each with the
 * place it was called from. Lines that FPM has not stand after script_filename in the same form;
 * `position` is where PHP is now, which FPM's calls do not tell. Or as JSON, one object a line.
 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "php/pool_int.h"

static void put_key(struct buf *b, const char *key, struct str value)
{
    if (value.n == 0)
        return;
    (void)!buf_printf(b, "%s = ", key);
    record_put(b, value, false);
    (void)!buf_append(b, "\n", 1);
}

/* FPM writes where a function was called from: where the next frame of PHP code stands. The script
 * itself (TOP_CODE) is not called and ends the trace. */
static void put_calls(struct buf *b, const struct php_stack *s, uint32_t depth)
{
    char name[2 * PHP_STACK_NAME + 4];

    for (uint32_t i = 0; i < s->n_frames && i < depth; i++) {
        const struct php_frame *f = &s->frames[i];
        if (f->is_code && f->is_top && !f->function)
            return;
        unsigned caller = php_stack_user_frame(s, i + 1);
        php_frame_name(s, f, name, sizeof(name));
        (void)!buf_printf(b, "[0x%016" PRIx64 "] ", f->address);
        record_put(b, str_from(name), false);
        (void)!buf_printf(b, "() ");
        if (caller < s->n_frames)
            record_put(b, str_from(php_stack_text(s, s->frames[caller].file)), false);
        else
            (void)!buf_printf(b, "unknown");
        (void)!buf_printf(b, ":%" PRIu32 "\n", caller < s->n_frames ? s->frames[caller].line : 0);
    }
}

static void put_fpm(struct buf *b, const struct pool *p, const struct worker_look *l)
{
    time_t now = time(NULL);
    struct tm tm;
    char when[40];

    localtime_r(&now, &tm);
    strftime(when, sizeof(when), "[%d-%b-%Y %H:%M:%S]", &tm);
    (void)!buf_printf(b, "\n%s  [pool %.*s] pid %d\n", when, STR_ARG(p->conf->name), (int)l->pid);
    (void)!buf_printf(b, "script_filename = ");
    record_put(b, l->request.script_filename, false);
    (void)!buf_append(b, "\n", 1);
    put_key(b, "request_method", l->request.method);
    put_key(b, "request_uri", l->request.target);
    put_key(b, "host", l->request.host);
    put_key(b, "request_id", l->request.request_id);
    put_key(b, "route", l->request.route);
    (void)!buf_printf(b, "duration = %.3f s (cpu %.3f s, waiting %.3f s)\n",
                      (double)l->running_ns / 1e9, (double)l->cpu_ns / 1e9,
                      (double)(l->running_ns - l->cpu_ns) / 1e9);
    (void)!buf_printf(b, "memory = %" PRIu64 " KiB\n", l->rss_bytes / 1024);
    unsigned now_at = l->has_stack ? php_stack_user_frame(&l->stack, 0) : 0;
    if (l->has_stack && now_at < l->stack.n_frames) {
        (void)!buf_printf(b, "position = ");
        record_put(b, str_from(php_stack_text(&l->stack, l->stack.frames[now_at].file)), false);
        (void)!buf_printf(b, ":%" PRIu32 "\n", l->stack.frames[now_at].line);
    }
    if (l->has_stack)
        put_calls(b, &l->stack, p->conf->slow_log_depth);
    else
        (void)!buf_printf(b, "+++ dump failed\n"); /* FPM's words */
}

static void put_pair(struct buf *b, const char *key, struct str value)
{
    (void)!buf_printf(b, ",\"%s\":\"", key);
    record_put(b, value, true);
    (void)!buf_append(b, "\"", 1);
}

static void put_json(struct buf *b, const struct pool *p, const struct worker_look *l,
                     uint32_t times)
{
    (void)!buf_printf(b, "{\"time\":\"");
    record_put_time(b, clock_realtime_ns());
    (void)!buf_printf(b, "\",\"pool\":\"%.*s\",\"generation\":%" PRIu32 ",\"pid\":%d",
                      STR_ARG(p->conf->name), p->boot.generation, (int)l->pid);
    put_pair(b, "script", l->request.script_filename);
    put_pair(b, "method", l->request.method);
    put_pair(b, "uri", l->request.target);
    put_pair(b, "host", l->request.host);
    put_pair(b, "request_id", l->request.request_id);
    put_pair(b, "route", l->request.route);
    (void)!buf_printf(b,
                      ",\"duration_ms\":%" PRIu64 ",\"cpu_ms\":%" PRIu64 ",\"wait_ms\":%" PRIu64
                      ",\"rss_bytes\":%" PRIu64 ",\"times\":%" PRIu32 ",\"stack\":",
                      l->running_ns / NS_PER_MS, l->cpu_ns / NS_PER_MS,
                      (l->running_ns - l->cpu_ns) / NS_PER_MS, l->rss_bytes, times);
    if (l->has_stack)
        record_put_stack_json(b, &l->stack);
    else
        (void)!buf_printf(b, "null");
    (void)!buf_append(b, "}\n", 2);
}

void slow_log_write(struct pool *p, const struct worker_look *look, uint32_t times)
{
    struct buf text;

    if (!look->has_request)
        return; /* it has just ended */
    buf_init(&text, 256 << 10);
    if (p->config->log.slow_format == CONFIG_SLOW_JSON)
        put_json(&text, p, look, times);
    else
        put_fpm(&text, p, look);
    if (times == 1) {
        p->count.slow_requests++;
        channel_note_slow(p->channel, look->worker);
    }
    record_send(p, CONTROL_RECORD_SLOW, buf_view(&text));
    buf_fini(&text);
}
