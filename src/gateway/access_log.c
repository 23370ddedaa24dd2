/*
 * Access log: the combined format or JSON lines. Lines of a batch are gathered and written with one
 * write(2) to a descriptor opened with O_APPEND, so lines of several threads never mix.
 *
 * Everything a client wrote is escaped: in both formats quotes, backslashes and bytes outside
 * printable ASCII become \xNN (combined) or \u00NN (JSON), so a request cannot forge a line. The
 * address is the client's, also behind a trusted proxy; bytes are those of the body in the combined
 * format, as nginx and Apache count, and all of the answer's in JSON.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "gateway/gateway_int.h"

enum { FIELD_MAX = 2048 };

static void put_escaped(struct buf *b, struct str s, bool json)
{
    static const char hex[] = "0123456789abcdef";

    if (buf_reserve(b, 6 * (s.n < FIELD_MAX ? s.n : FIELD_MAX) + 8) < 0)
        return;
    char *p = buf_space(b);
    size_t n = 0;
    for (size_t i = 0; i < s.n && i < FIELD_MAX; i++) {
        unsigned char ch = (unsigned char)s.p[i];
        if (ch >= 0x20 && ch < 0x7f && ch != '"' && ch != '\\') {
            p[n++] = (char)ch;
            continue;
        }
        p[n++] = '\\';
        if (json) {
            p[n++] = 'u';
            p[n++] = '0';
            p[n++] = '0';
        } else {
            p[n++] = 'x';
        }
        p[n++] = hex[ch >> 4];
        p[n++] = hex[ch & 15];
    }
    buf_commit(b, n);
}

static void put_text(struct buf *b, const char *text)
{
    (void)!buf_append(b, text, strlen(text));
}

static void put_field(struct buf *b, struct str s)
{
    if (s.n)
        put_escaped(b, s, false);
    else
        put_text(b, "-");
}

static void put_combined(struct gateway_thread *t, struct exchange *x, const struct tm *tm)
{
    const struct http_request *r = &t->request;
    struct buf *b = &t->log;
    struct str client = exchange_client_address(x);
    char when[40];

    if (client.n == 0)
        client = STR("unix:");
    strftime(when, sizeof(when), "%d/%b/%Y:%H:%M:%S +0000", tm);
    (void)!buf_printf(b, "%.*s - - [%s] \"", STR_ARG(client), when);
    put_escaped(b, r->method_text, false);
    put_text(b, " ");
    put_escaped(b, r->target, false);
    (void)!buf_printf(b, " HTTP/1.%u\" %d %" PRIu64 " \"", x->minor, x->status,
                      x->wire_bytes > x->wire_heads ? x->wire_bytes - x->wire_heads : 0);
    put_field(b, http_find_header(r, STR("referer")));
    put_text(b, "\" \"");
    put_field(b, http_find_header(r, STR("user-agent")));
    put_text(b, "\"\n");
}

static void put_json(struct gateway_thread *t, struct exchange *x, const struct tm *tm)
{
    const struct http_request *r = &t->request;
    struct buf *b = &t->log;
    struct str client = exchange_client_address(x);
    char when[40], id[REQUEST_ID_BYTES + 1];

    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", tm);
    exchange_request_id(x, id);
    (void)!buf_printf(
        b, "{\"time\":\"%s.%06uZ\",\"request_id\":\"%s\",\"remote_addr\":\"%.*s\",\"method\":\"",
        when, (unsigned)(x->received_ns % NS_PER_S / 1000), id, STR_ARG(client));
    put_escaped(b, r->method_text, true);
    put_text(b, "\",\"uri\":\"");
    put_escaped(b, r->target, true);
    put_text(b, "\",\"host\":\"");
    put_escaped(b, r->host, true);
    (void)!buf_printf(b,
                      "\",\"protocol\":\"HTTP/1.%u\",\"status\":%d,\"bytes\":%" PRIu64
                      ",\"duration_us\":%" PRIu64 ",\"referer\":\"",
                      x->minor, x->status, x->wire_bytes,
                      (loop_now_ns(t->loop) - x->started_ns) / 1000);
    put_escaped(b, http_find_header(r, STR("referer")), true);
    put_text(b, "\",\"user_agent\":\"");
    put_escaped(b, http_find_header(r, STR("user-agent")), true);
    put_text(b, "\"}\n");
}

void access_log_line(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;
    const struct config_log *log = &t->gateway->config->log;
    time_t s = (time_t)(x->received_ns / NS_PER_S);
    struct tm tm;

    if (t->gateway->access_fd < 0 || x->conn->source > CONN_FROM_UNIX)
        return;
    exchange_parse_again(x);
    gmtime_r(&s, &tm);
    if (log->format == CONFIG_LOG_JSON)
        put_json(t, x, &tm);
    else
        put_combined(t, x, &tm);
}

/* As nginx: the first line as far as it came, "-" if nothing did. */
void access_log_unread(struct conn *c, int status, size_t body_bytes)
{
    struct gateway_thread *t = c->thread;
    const struct config_log *log = &t->gateway->config->log;
    struct str client = { c->peer.text, c->peer.length }, line = buf_view(&c->in);
    struct buf *b = &t->log;
    time_t s = (time_t)(t->realtime_ns / NS_PER_S);
    struct tm tm;
    char when[40];

    if (t->gateway->access_fd < 0)
        return;
    while (line.n && (line.p[0] == '\r' || line.p[0] == '\n'))
        line = str_skip(line, 1);
    line = str_cut(&line, '\n');
    if (line.n && line.p[line.n - 1] == '\r')
        line.n--;
    if (client.n == 0)
        client = STR("unix:");
    gmtime_r(&s, &tm);
    if (log->format == CONFIG_LOG_JSON) {
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
        (void)!buf_printf(b, "{\"time\":\"%s.%06uZ\",\"remote_addr\":\"%.*s\",\"request_line\":\"",
                          when, (unsigned)(t->realtime_ns % NS_PER_S / 1000), STR_ARG(client));
        put_escaped(b, line, true);
        (void)!buf_printf(b, "\",\"status\":%d,\"bytes\":%zu}\n", status, body_bytes);
        return;
    }
    strftime(when, sizeof(when), "%d/%b/%Y:%H:%M:%S +0000", &tm);
    (void)!buf_printf(b, "%.*s - - [%s] \"", STR_ARG(client), when);
    put_field(b, line);
    (void)!buf_printf(b, "\" %d %zu \"-\" \"-\"\n", status, body_bytes);
}

void access_log_flush(struct gateway_thread *t)
{
    while (buf_length(&t->log)) {
        struct str v = buf_view(&t->log);
        ssize_t n = write(t->gateway->access_fd, v.p, v.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            t->count.log_bytes_lost += v.n;
            n = (ssize_t)v.n; /* a full disk must not stop the server; the loss is counted */
        }
        buf_consume(&t->log, (size_t)n);
    }
}
