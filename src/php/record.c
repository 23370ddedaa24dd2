/*
 * Slow requests, crashes and looks as text. The pool process runs as the application's user, so it
 * does not write the files itself: it hands the text to the supervisor in parts, one datagram each.
 * What came from a client or a script is escaped: it cannot forge a line.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "php/pool_int.h"

void record_put(struct buf *b, struct str s, bool json)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x20 && c < 0x7f && c != '\\' && !(json && c == '"'))
            (void)!buf_append(b, &c, 1);
        else if (json)
            (void)!buf_printf(b, "\\u%04x", c);
        else
            (void)!buf_printf(b, "\\x%02x", c);
    }
}

void record_put_time(struct buf *b, uint64_t realtime_ns)
{
    time_t s = (time_t)(realtime_ns / NS_PER_S);
    struct tm tm;
    char text[32];

    gmtime_r(&s, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    (void)!buf_printf(b, "%s.%06uZ", text, (unsigned)(realtime_ns % NS_PER_S / 1000));
}

void record_put_stack_json(struct buf *b, const struct php_stack *s)
{
    char name[2 * PHP_STACK_NAME + 4];

    (void)!buf_append(b, "[", 1);
    for (uint32_t i = 0; i < s->n_frames; i++) {
        const struct php_frame *f = &s->frames[i];
        php_frame_name(s, f, name, sizeof(name));
        (void)!buf_printf(b, "%s{\"function\":\"", i ? "," : "");
        record_put(b, str_from(name), true);
        (void)!buf_append(b, "\"", 1);
        if (f->file) {
            (void)!buf_printf(b, ",\"file\":\"");
            record_put(b, str_from(php_stack_text(s, f->file)), true);
            (void)!buf_printf(b, "\",\"line\":%" PRIu32, f->line);
        }
        (void)!buf_append(b, "}", 1);
    }
    (void)!buf_append(b, "]", 1);
}

void record_send(struct pool *p, enum control_record kind, struct str text)
{
    struct control_message m;

    while (text.n) {
        control_message_init(&m, CONTROL_RECORD);
        m.pool = p->boot.pool;
        m.generation = p->boot.generation;
        m.pid = getpid();
        m.status = kind;
        control_message_set_text(&m, text);
        text = str_skip(text, m.text_bytes);
        m.requests = text.n > 0;
        int rc = control_send(p->supervisor, &m, NULL, 0);
        if (rc < 0) {
            p->count.records_lost++;
            log_warn("a record of %s is lost: the supervisor does not take it: %s",
                     kind == CONTROL_RECORD_SLOW ? "a slow request" : "a crash", strerror(-rc));
            return;
        }
    }
}
