/*
 * Answers: framing and sending. The gateway owns the framing of every answer: whatever a backend
 * says of Content-Length is checked, Transfer-Encoding and Connection are never taken from it.
 *
 * Bytes go straight from where they are (a worker's ring, a file) to the socket. What the client
 * does not take at once goes to the exchange's output queue: memory up to OUT_MEMORY_MAX, then an
 * unlinked file up to max_spool_size, and only then does the worker have to wait ("stalled").
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/gateway_int.h"

enum {
    IOV_MAX_PIECES = 48,
    CHUNK_LINE_BYTES = 20,
    SENDFILE_BYTES = 1024 * 1024,
    JOINED_BYTES = 2048,
};

/* --- output queue ----------------------------------------------------------------------------- */

/* The client is gone: nothing of this answer will be sent any more. */
static void cut(struct exchange *x)
{
    struct conn *c = x->conn;

    if (!x->failed)
        c->thread->count.aborted++;
    x->failed = true;
    x->keep_alive = false;
    buf_fini(&x->out.memory);
    spool_forget(c->thread->gateway, &x->out.spool_fd, x->out.spool_end);
    x->out.spool_at = x->out.spool_end = 0;
    thread_resume(c->thread, c);
}

static bool out_empty(const struct exchange *x)
{
    return buf_length(&x->out.memory) == 0 && x->out.spool_fd < 0 && !x->plan;
}

/* Room for another batch of pieces? */
bool respond_has_room(struct exchange *x)
{
    struct gateway *g = x->conn->thread->gateway;

    if (x->conn->thread->take_all)
        return true;
    /* Once there is a file, all goes there: its room counts, however little is left in memory. */
    if (x->out.spool_fd < 0 && buf_length(&x->out.memory) < OUT_MEMORY_MAX)
        return true;
    if (!spool_has_room(g, 2 * OUT_MEMORY_MAX))
        return false;
    if (x->out.spool_fd >= 0)
        return true;
    x->out.spool_fd = spool_open(g);
    if (x->out.spool_fd < 0)
        return false;
    x->out.spool_at = x->out.spool_end = 0;
    x->conn->thread->count.spooled_answers++;
    return true;
}

static void out_append(struct exchange *x, struct str bytes)
{
    struct gateway *g = x->conn->thread->gateway;

    if (x->failed)
        return;
    if (x->out.spool_fd >= 0 && spool_write(g, x->out.spool_fd, x->out.spool_end, bytes) == 0) {
        x->out.spool_end += bytes.n;
        return;
    }
    /* A file that took earlier bytes must take these too, or their order is lost. */
    if (x->out.spool_end > x->out.spool_at || buf_append(&x->out.memory, bytes.p, bytes.n) < 0) {
        log_error("an answer was cut short: no memory or spool space for a slow client");
        cut(x);
    }
}

/* Bytes sent, or -1 after a fatal error. Short answers are put together first: copying some hundred
 * bytes costs less than the kernel's handling of a vector (0.1 us a request here). */
static ssize_t send_now(struct exchange *x, const struct iovec *iov, int n, int flags)
{
    struct conn *c = x->conn;
    char joined[JOINED_BYTES];
    size_t total = 0;

    if (!c->may_write)
        return 0;
    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    struct iovec one = iov[0];
    if (n > 1 && total <= sizeof(joined)) {
        one = (struct iovec){ joined, 0 };
        for (int i = 0; i < n; i++) {
            memcpy(joined + one.iov_len, iov[i].iov_base, iov[i].iov_len);
            one.iov_len += iov[i].iov_len;
        }
        n = 1;
    }
    struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n };
    for (;;) {
        ssize_t sent = n == 1 ? send(c->watch.fd, one.iov_base, one.iov_len, MSG_NOSIGNAL | flags)
                              : sendmsg(c->watch.fd, &msg, MSG_NOSIGNAL | flags);
        if (sent >= 0) {
            x->wire_bytes += (uint64_t)sent;
            return sent;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            c->may_write = false;
            return 0;
        }
        cut(x);
        return -1;
    }
}

/* Sends what can be sent now and queues the rest. */
static void send_or_queue(struct exchange *x, struct iovec *iov, int n)
{
    size_t sent = 0, total = 0;

    for (int i = 0; i < n; i++)
        total += iov[i].iov_len;
    if (x->failed || total == 0)
        return;
    if (out_empty(x)) {
        ssize_t r = send_now(x, iov, n, 0);
        if (r < 0)
            return;
        sent = (size_t)r;
        if (sent == total)
            return;
        x->conn->may_write = false; /* a short write filled the socket; the next edge will tell */
    }
    for (int i = 0; i < n; i++) {
        if (sent >= iov[i].iov_len) {
            sent -= iov[i].iov_len;
            continue;
        }
        out_append(x, (struct str){ (char *)iov[i].iov_base + sent, iov[i].iov_len - sent });
        sent = 0;
    }
    conn_deadline(x->conn, x->conn->thread->gateway->config->server.send_timeout_ms);
}

static bool flush_memory(struct exchange *x)
{
    while (buf_length(&x->out.memory)) {
        struct str v = buf_view(&x->out.memory);
        struct iovec iov = { (void *)(uintptr_t)v.p, v.n };
        ssize_t n = send_now(x, &iov, 1, x->plan ? MSG_MORE : 0);
        if (n <= 0)
            return false;
        buf_consume(&x->out.memory, (size_t)n);
        if ((size_t)n < v.n)
            x->conn->may_write = false;
    }
    return true;
}

/* Sends [*at, end) of a file. True when all is sent. `truncated` is set when the file is shorter.
 */
static bool send_file(struct exchange *x, int fd, uint64_t *at, uint64_t end, bool *truncated)
{
    struct conn *c = x->conn;

    while (*at < end) {
        off_t offset = (off_t)*at;
        uint64_t want = end - *at < SENDFILE_BYTES ? end - *at : SENDFILE_BYTES;
        if (!c->may_write)
            return false;
        ssize_t n = sendfile(c->watch.fd, fd, &offset, want);
        if (n > 0) {
            *at += (uint64_t)n;
            x->wire_bytes += (uint64_t)n;
            continue;
        }
        if (n == 0) {
            *truncated = true;
            return false;
        }
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            c->may_write = false;
            return false;
        }
        cut(x);
        return false;
    }
    return true;
}

static bool flush_spool(struct exchange *x)
{
    bool truncated = false;

    if (x->out.spool_fd < 0)
        return true;
    if (!send_file(x, x->out.spool_fd, &x->out.spool_at, x->out.spool_end, &truncated)) {
        if (truncated)
            cut(x);
        return false;
    }
    spool_forget(x->conn->thread->gateway, &x->out.spool_fd, x->out.spool_end);
    x->out.spool_at = x->out.spool_end = 0;
    return true;
}

static bool flush_plan(struct exchange *x)
{
    while (x->plan && x->plan_segment < x->plan->n_segments) {
        struct static_segment *s = &x->plan->segments[x->plan_segment];
        bool truncated = false;
        if (s->fd < 0) {
            struct iovec iov = { (void *)(uintptr_t)s->text.p, s->text.n };
            ssize_t n = send_now(x, &iov, 1, MSG_MORE);
            if (n <= 0)
                return false;
            s->text = str_skip(s->text, (size_t)n);
            if (s->text.n)
                continue;
        } else {
            uint64_t at = s->offset;
            bool done = send_file(x, s->fd, &at, s->offset + s->length, &truncated);
            if (x->failed)
                return true;
            s->length -= at - s->offset;
            s->offset = at;
            if (truncated) { /* the file shrank under us: the promised length cannot be kept */
                cut(x);
                return true;
            }
            if (!done)
                return false;
        }
        x->plan_segment++;
    }
    if (x->plan) {
        static_plan_fini(x->plan);
        mem_free(x->plan);
        x->plan = NULL;
    }
    return true;
}

bool respond_flush(struct exchange *x)
{
    uint64_t before = x->wire_bytes;

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    bool empty = x->failed || (flush_memory(x) && flush_spool(x) && flush_plan(x));
    if (!empty && x->wire_bytes != before)
        conn_deadline(x->conn, x->conn->thread->gateway->config->server.send_timeout_ms);
    return empty || x->failed;
}

/* --- heads of our own ------------------------------------------------------------------------- */

static bool status_has_body(int status)
{
    return status >= 200 && status != 204 && status != 304;
}

/* Number of bytes of a static head that may be lost: none; out of memory cuts the connection. */
static inline void put(struct gateway_thread *t, const char *p, size_t n)
{
    int r = buf_room(&t->head) >= n ? 0 : buf_reserve(&t->head, n);
    CHECKF(r == 0, "out of memory for an answer's head");
    memcpy(buf_space(&t->head), p, n);
    buf_commit(&t->head, n);
}

static void put_str(struct gateway_thread *t, struct str s)
{
    if (s.n) /* an absent text has no address to copy from */
        put(t, s.p, s.n);
}

static void put_status_line(struct gateway_thread *t, int status, struct str reason)
{
    char line[16];

    if (status == 200 && reason.n == 0) {
        put_str(t, STR("HTTP/1.1 200 OK\r\n"));
        return;
    }
    if (reason.n == 0)
        reason = str_from(http_status_reason(status));
    int n = snprintf(line, sizeof(line), "HTTP/1.1 %03d ", status);
    put(t, line, (size_t)n);
    put_str(t, reason);
    put_str(t, STR("\r\n"));
}

static void put_date(struct gateway_thread *t)
{
    put_str(t, STR("Date: "));
    put(t, thread_date(t), HTTP_DATE_BYTES - 1);
    put_str(t, STR("\r\n"));
}

static void put_server(struct gateway_thread *t)
{
    if (t->gateway->config->server.server_tokens)
        put_str(t, STR("Server: sapid\r\n"));
}

static void put_length(struct gateway_thread *t, uint64_t n)
{
    char line[48] = "Content-Length: ";
    char digits[20];
    size_t at = 16, k = 0;

    do
        digits[k++] = (char)('0' + n % 10);
    while (n /= 10);
    while (k)
        line[at++] = digits[--k];
    line[at++] = '\r';
    line[at++] = '\n';
    put(t, line, at);
}

static void put_connection(struct exchange *x)
{
    if (!x->keep_alive)
        put_str(x->conn->thread, STR("Connection: close\r\n"));
    else if (x->minor == 0)
        put_str(x->conn->thread, STR("Connection: keep-alive\r\n"));
}

static void send_head(struct exchange *x, struct str body)
{
    struct gateway_thread *t = x->conn->thread;
    struct str head = buf_view(&t->head);
    struct iovec iov[2] = { { (void *)(uintptr_t)head.p, head.n },
                            { (void *)(uintptr_t)body.p, body.n } };

    x->head_sent = true;
    x->wire_heads += head.n;
    send_or_queue(x, iov, body.n ? 2 : 1);
    t->head.head = t->head.tail = 0;
}

static size_t error_page(char *page, size_t size, int status, const char *sentence,
                         const struct exchange *x)
{
    char id[REQUEST_ID_BYTES + 1] = "";

    if (x && status >= 500)
        exchange_request_id(x, id);
    int n =
        snprintf(page, size,
                 "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>%d %s</title>\n"
                 "<h1>%d %s</h1>\n%s%s%s%s%s%s</html>\n",
                 status, http_status_reason(status), status, http_status_reason(status),
                 *sentence ? "<p>" : "", sentence, *sentence ? "</p>\n" : "",
                 id[0] ? "<p>Request " : "", id, id[0] ? "</p>\n" : "");
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void put_own_head(struct exchange *x, int status, const char *type, struct str extra,
                         size_t body_bytes)
{
    struct gateway_thread *t = x->conn->thread;

    t->head.head = t->head.tail = 0;
    put_status_line(t, status, STR_NONE);
    put_server(t);
    put_date(t);
    if (status_has_body(status)) {
        put_str(t, STR("Content-Type: "));
        put_str(t, str_from(type));
        put_str(t, STR("\r\n"));
        put_length(t, body_bytes);
    }
    put_str(t, extra);
    put_connection(x);
    put_str(t, STR("\r\n"));
}

void respond_own(struct exchange *x, int status, const char *type, struct str extra,
                 struct str body)
{
    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    DCHECK(!x->head_sent);
    x->status = status;
    put_own_head(x, status, type, extra, body.n);
    send_head(x, x->method == HTTP_HEAD ? str_take(body, 0) : body);
    x->complete = true;
    if (x->conn->busy)
        return; /* conn_advance looks at it as soon as this returns */
    thread_resume(x->conn->thread, x->conn);
}

static void respond_page(struct exchange *x, int status, struct str extra, const char *sentence)
{
    char page[1024];
    size_t n = status_has_body(status) ? error_page(page, sizeof(page), status, sentence, x) : 0;

    respond_own(x, status, "text/html; charset=utf-8", extra, (struct str){ page, n });
}

void respond_status(struct exchange *x, int status, struct str extra)
{
    respond_page(x, status, extra, "");
}

void respond_explained(struct exchange *x, int status, const char *sentence)
{
    respond_page(x, status, STR("Retry-After: 5\r\n"), sentence);
}

void respond_redirect(struct exchange *x, struct str path)
{
    struct gateway_thread *t = x->conn->thread;
    const struct http_request *r = &t->request;
    static const char hex[] = "0123456789ABCDEF";
    char location[3 * FILES_PATH_MAX + 16];
    size_t at = 0;

    memcpy(location, "Location: ", 10);
    at = 10;
    for (size_t i = 0; i < path.n && at + 8 < sizeof(location); i++) {
        unsigned char ch = (unsigned char)path.p[i];
        bool plain = (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') ||
                     (ch >= '0' && ch <= '9') || strchr("-._~!$&'()*+,;=:@/", ch);
        if (plain && ch) {
            location[at++] = (char)ch;
        } else {
            location[at++] = '%';
            location[at++] = hex[ch >> 4];
            location[at++] = hex[ch & 15];
        }
    }
    if (path.n == 0 || path.p[path.n - 1] != '/')
        location[at++] = '/';
    if (r->query.p && at + r->query.n + 4 < sizeof(location)) {
        location[at++] = '?';
        memcpy(location + at, r->query.p, r->query.n);
        at += r->query.n;
    }
    location[at++] = '\r';
    location[at++] = '\n';
    respond_status(x, 301, (struct str){ location, at });
}

/* Answers what could not be parsed and closes. No exchange exists; error 0 means a head that did
 * not come in time (408). */
void respond_error(struct conn *c, enum http_error e)
{
    struct gateway_thread *t = c->thread;
    int status = e ? http_error_status(e) : 408;
    struct exchange x = {
        .magic = EXCHANGE_MAGIC, .conn = c, .minor = 1, .file_fd = -1, .out.spool_fd = -1
    };
    char page[1024];

    if (status == 0) {
        conn_close(c);
        return;
    }
    int n =
        snprintf(page, sizeof(page),
                 "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>%d %s</title>\n"
                 "<h1>%d %s</h1>\n<p>%s</p>\n</html>\n",
                 status, http_status_reason(status), status, http_status_reason(status),
                 e ? http_error_text(e) : "The request head did not arrive in time.");
    CHECK(n > 0 && (size_t)n < sizeof(page));
    put_own_head(&x, status, "text/html; charset=utf-8", STR_NONE, (size_t)n);
    struct str head = buf_view(&t->head);
    struct iovec iov[2] = { { (void *)(uintptr_t)head.p, head.n }, { page, (size_t)n } };
    /* A fresh answer on a connection with nothing queued: the socket takes it or the client is
     * hopeless. */
    (void)send_now(&x, iov, 2, 0);
    t->head.head = t->head.tail = 0;
    access_log_unread(c, status, (size_t)n);
    log_info("%.*s: %d, %s", c->peer.length, c->peer.text, status,
             e ? http_error_text(e) : "request head timed out");
    conn_linger(c);
}

void respond_continue(struct conn *c)
{
    struct iovec iov = { (void *)(uintptr_t) "HTTP/1.1 100 Continue\r\n\r\n", 25 };

    c->exchange->wire_heads += iov.iov_len;
    send_or_queue(c->exchange, &iov, 1);
}

/* --- static files ----------------------------------------------------------------------------- */

/* t->head has the head up to what the plan says; that and the rest follow. */
static void send_plan(struct exchange *x, struct static_plan *plan)
{
    struct gateway_thread *t = x->conn->thread;

    x->status = plan->status;
    put_str(t, buf_view(&plan->head));
    put_connection(x);
    put_str(t, STR("\r\n"));
    struct str head = buf_view(&t->head);
    struct iovec iov = { (void *)(uintptr_t)head.p, head.n };
    x->head_sent = x->complete = true;
    x->wire_heads += head.n;
    if (plan->n_segments == 0) {
        send_or_queue(x, &iov, 1);
        static_plan_fini(plan);
    } else {
        ssize_t n = send_now(x, &iov, 1, MSG_MORE);
        if (n >= 0 && (size_t)n < head.n)
            out_append(x, str_skip(head, (size_t)n));
        x->plan = mem_alloc(sizeof(*plan));
        *x->plan = *plan;
        x->plan_segment = 0;
        conn_deadline(x->conn, t->gateway->config->server.send_timeout_ms);
    }
    t->head.head = t->head.tail = 0;
    if (!x->conn->busy)
        thread_resume(t, x->conn);
}

void respond_static(struct exchange *x, struct files *f, struct file *file)
{
    struct gateway_thread *t = x->conn->thread;
    struct static_plan *plan = &t->plan;

    int r = static_plan_init(plan, f, file, &t->request);
    if (r < 0) {
        respond_status(x, 500, STR_NONE);
        return;
    }
    t->head.head = t->head.tail = 0;
    put_status_line(t, plan->status, STR_NONE);
    put_server(t);
    put_date(t);
    send_plan(x, plan);
}

/* --- answers of PHP --------------------------------------------------------------------------- */

struct php_head {
    bool has_date, has_server;
    bool was_read;              /* before: what is wrong with it was said */
    bool of_file;               /* what the file itself says better is left out */
    struct str type;            /* of_file: its Content-Type */
    size_t type_at, type_bytes; /* else: the line in the head */
};

static bool name_is(struct str name, const char *lower, size_t n)
{
    return name.n == n && str_eq_nocase(name, (struct str){ lower, n });
}

/* Lines between a script and the server in front of it, which clients do not see. */
static bool is_accel(struct str name)
{
    return name.n > 8 && str_eq_nocase(str_take(name, 8), STR("X-Accel-"));
}

/* The answer is a file: its validators, length and ranges come from the file, as behind nginx. */
static bool file_says(struct php_head *h, struct str name, struct str value)
{
    static const struct str names[] = {
        { "etag", 4 },           { "last-modified", 13 },  { "accept-ranges", 13 },
        { "content-range", 13 }, { "content-length", 14 }, { "x-sendfile", 10 }
    };

    if (name_is(name, "content-type", 12)) {
        h->type = value;
        return true;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (str_eq_nocase(name, names[i]))
            return true;
    return false;
}

/* One header line of the worker. True: pass it on. */
static bool take_header(struct exchange *x, struct php_head *h, struct str name, struct str value)
{
    uint64_t length;

    switch (name.n) {
    case 4:
        if (name_is(name, "date", 4))
            h->has_date = true;
        return true;
    case 6:
        if (name_is(name, "server", 6))
            h->has_server = true;
        return true;
    case 7: return !name_is(name, "trailer", 7) && !name_is(name, "upgrade", 7);
    case 10:
        if (name_is(name, "connection", 10)) {
            if (str_eq_nocase(value, STR("close")))
                x->keep_alive = false;
            return false;
        }
        return !name_is(name, "keep-alive", 10);
    case 12: return value.n || !name_is(name, "content-type", 12); /* no type says nothing */
    case 14:
        if (name_is(name, "content-length", 14)) {
            if (str_to_u64(value, INT64_MAX, &length))
                x->declared = (int64_t)length;
            return false;
        }
        return true;
    case 17: return !name_is(name, "transfer-encoding", 17);
    default: return true;
    }
}

/* Of the script's head, this line does not reach the client. */
static void tell_dropped(const struct exchange *x, const struct php_head *h, struct str line)
{
    char id[REQUEST_ID_BYTES + 1];

    if (h->was_read)
        return;
    exchange_request_id(x, id);
    x->conn->thread->count.dropped_fields++;
    log_warn("request %s: \"%.*s\" in the answer's head is left out: expected a name of letters, "
             "digits and !#$%%&'*+-.^_`|~, a colon, and a value without control characters",
             id, (int)(line.n < 200 ? line.n : 200), line.p);
}

/* The last Content-Type is the answer's, as behind nginx: before this one any other goes. */
static void note_type(struct buf *head, struct php_head *h, size_t bytes)
{
    char *at = head->base + head->head + h->type_at;

    if (h->type_bytes)
        memmove(at, at + h->type_bytes, buf_length(head) - h->type_at - h->type_bytes);
    head->tail -= h->type_bytes;
    h->type_at = buf_length(head);
    h->type_bytes = bytes;
}

/* Copies the worker's header lines to t->head, without what is ours. Lines that are not "Name:
 * value" with a token and a clean value are dropped: the worker is not trusted to keep the framing
 * intact. */
static void put_php_headers(struct exchange *x, struct php_head *h, struct str lines)
{
    struct gateway_thread *t = x->conn->thread;

    while (lines.n) {
        struct str line = str_cut(&lines, '\n');
        if (line.n && line.p[line.n - 1] == '\r')
            line.n--;
        struct str value = line;
        struct str name = str_cut(&value, ':');
        value = str_trim(value);
        if (!value.p || !http_is_token(name) || !http_is_field_value(value)) {
            if (line.n)
                tell_dropped(x, h, line);
            continue;
        }
        if (name_is(name, "content-type", 12) && !h->of_file)
            note_type(&t->head, h, value.n ? name.n + STR(": \r\n").n + value.n : 0);
        if (is_accel(name) || (h->of_file && file_says(h, name, value)) ||
            !take_header(x, h, name, value))
            continue;
        put_str(t, name);
        put_str(t, STR(": "));
        put_str(t, value);
        put_str(t, STR("\r\n"));
    }
}

/* The header lines of a head, copied out of the ring before anything is concluded from them. Parts
 * of a long one were kept in head_parts. */
static struct str head_lines(struct exchange *x, const struct channel_piece *p)
{
    struct buf *b = buf_length(&x->head_parts) ? &x->head_parts : &x->conn->thread->lines;

    if (b != &x->head_parts)
        b->head = b->tail = 0;
    for (int i = 0; i < p->n_iov; i++)
        if (buf_append(b, p->iov[i].iov_base, p->iov[i].iov_len) < 0)
            cut(x);
    return buf_view(b);
}

static void keep_head_part(struct exchange *x, const struct channel_piece *p)
{
    for (int i = 0; i < p->n_iov; i++)
        if (buf_append(&x->head_parts, p->iov[i].iov_base, p->iov[i].iov_len) < 0)
            cut(x);
}

/* How the end of the body is marked. `known`: its length if the whole answer is at hand, else -1.
 */
static void put_framing(struct exchange *x, int64_t known)
{
    struct gateway_thread *t = x->conn->thread;

    x->body_allowed = status_has_body(x->status) && x->method != HTTP_HEAD;
    if (!status_has_body(x->status)) {
        x->declared = -1;
        return;
    }
    if (x->declared >= 0) {
        /* Also when the body turns out shorter or longer: the script's word is kept, as by FPM
         * behind nginx, and never depends on how much of the answer happened to come in one batch.
         */
        put_length(t, (uint64_t)x->declared);
    } else if (known >= 0 && x->body_allowed) {
        x->declared = known;
        put_length(t, (uint64_t)known);
    } else if (x->method == HTTP_HEAD) {
        return;
    } else if (x->minor >= 1) {
        x->chunked = true;
        put_str(t, STR("Transfer-Encoding: chunked\r\n"));
    } else {
        x->keep_alive = false;
    }
}

/* Body bytes up to END among the pieces behind the head, -1 when END is not there yet. */
static int64_t whole_body(const struct channel_piece *p, int n)
{
    int64_t total = 0;

    for (int i = 0; i < n; i++) {
        if (p[i].type == CHANNEL_END)
            return total;
        if (p[i].type == CHANNEL_BODY)
            total += (int64_t)p[i].bytes;
    }
    return -1;
}

/* A reason phrase of the script's own comes first in the block, as a line no header can look like.
 */
static struct str take_reason(struct str *lines)
{
    if (!str_has_prefix(*lines, STR(":reason: ")))
        return STR_NONE;
    struct str reason = str_skip(str_cut(lines, '\n'), 9);
    if (reason.n && reason.p[reason.n - 1] == '\r')
        reason.n--;
    return http_is_field_value(reason) ? reason : STR_NONE;
}

static void build_php_head(struct exchange *x, const struct channel_piece *p, int behind)
{
    struct gateway_thread *t = x->conn->thread;
    struct php_head h = { 0 };
    struct str lines = head_lines(x, p);
    struct str reason = take_reason(&lines);

    t->head.head = t->head.tail = 0;
    x->status = p->status;
    if (p->status < 200 || p->status > 999) { /* no final status (RFC 9110 section 15) */
        x->status = 502;
        reason = STR_NONE;
    }
    put_status_line(t, x->status, reason);
    put_php_headers(x, &h, lines);
    if (!h.has_server)
        put_server(t);
    if (!h.has_date)
        put_date(t);
    int64_t known = whole_body(p + 1, behind);
    put_framing(x, known);
    /* The script is done, or the client still waits to be asked, and the body is not here: it will
     * not be read any more. */
    if (stream_is_on(x) && (known >= 0 || x->wants_continue))
        x->keep_alive = false;
    put_connection(x);
    put_str(t, STR("\r\n"));
    x->head_sent = true;
    x->wire_heads += buf_length(&t->head);
}

/* The body is a file that the worker opened, or the gateway for PHP-FPM: as a static one, with the
 * script's header lines. */
static void respond_handed_file(struct exchange *x, const struct channel_piece *p)
{
    struct gateway_thread *t = x->conn->thread;
    struct static_plan *plan = &t->plan;
    struct backend *b = x->backend ? x->backend : t->active[x->pool];
    struct php_head h = { .of_file = true, .type = STR("application/octet-stream") };
    struct str lines = head_lines(x, p);
    struct file *file;

    (void)take_reason(&lines);
    t->head.head = t->head.tail = 0;
    put_php_headers(x, &h, lines); /* finds the type */
    h.was_read = true;
    t->head.head = t->head.tail = 0;
    exchange_parse_again(x);
    if (t->request.method != HTTP_HEAD)
        t->request.method = HTTP_GET; /* a POST is answered by a file too */
    int r = b ? file_adopt(x->file_fd, h.type, &file) : -ENOENT;
    if (r == 0) {
        x->file_fd = -1;
        r = static_plan_init(plan, b->files, file, &t->request);
    }
    if (r < 0) {
        respond_status(x, 502, STR_NONE);
        return;
    }
    put_status_line(t, plan->status, STR_NONE);
    put_php_headers(x, &h, lines);
    if (!h.has_server)
        put_server(t);
    if (!h.has_date)
        put_date(t);
    send_plan(x, plan);
    x->body_allowed = false; /* nothing of the ring is */
}

/* What is gathered for one sendmsg. */
struct gather {
    struct iovec iov[2 * IOV_MAX_PIECES + 8];
    int n;
    char lines[IOV_MAX_PIECES][CHUNK_LINE_BYTES];
    int n_lines;
};

static void gather_bytes(struct gather *g, const void *p, size_t n)
{
    if (n)
        g->iov[g->n++] = (struct iovec){ (void *)(uintptr_t)p, n };
}

static void gather_body(struct exchange *x, struct gather *g, const struct channel_piece *p)
{
    uint64_t left = UINT64_MAX, bytes = p->bytes;

    if (!x->body_allowed) {
        x->body_sent += bytes;
        return;
    }
    /* Never more than was promised: the surplus would be read as the next answer. */
    if (x->declared >= 0)
        left = (uint64_t)x->declared - x->body_sent;
    if (bytes > left)
        bytes = left;
    if (bytes == 0)
        return;
    if (x->chunked) {
        char *line = g->lines[g->n_lines++];
        int n = snprintf(line, CHUNK_LINE_BYTES, "%" PRIx64 "\r\n", bytes);
        gather_bytes(g, line, (size_t)n);
    }
    x->body_sent += bytes;
    for (int i = 0; i < p->n_iov && bytes; i++) {
        size_t n = p->iov[i].iov_len < bytes ? p->iov[i].iov_len : (size_t)bytes;
        gather_bytes(g, p->iov[i].iov_base, n);
        bytes -= n;
    }
    if (x->chunked)
        gather_bytes(g, "\r\n", 2);
}

static void gather_end(struct exchange *x, struct gather *g)
{
    x->complete = true;
    if (!x->head_sent) {
        /* A worker that ends without a head broke the contract. */
        respond_status(x, 502, STR_NONE);
        return;
    }
    if (x->chunked)
        gather_bytes(g, "0\r\n\r\n", 5);
    if (x->body_allowed && x->declared >= 0 && x->body_sent < (uint64_t)x->declared)
        x->keep_alive = false; /* promised more than it gave: only closing tells the client */
    if (!x->chunked && x->body_allowed && x->declared < 0)
        x->keep_alive = false;
}

static void send_inform(struct exchange *x, const struct channel_piece *p)
{
    struct gateway_thread *t = x->conn->thread;
    struct php_head h = { 0 };
    struct str lines = head_lines(x, p);
    struct str reason = take_reason(&lines);
    int64_t declared = x->declared;
    bool keep_alive = x->keep_alive;

    /* Never to a 1.0 client (RFC 9110 section 15.2); 101 would end HTTP on this connection, and
     * other numbers are no interim answer. */
    if (x->minor == 0 || x->head_sent || p->status < 100 || p->status > 199 || p->status == 101) {
        buf_fini(&x->head_parts);
        return;
    }
    t->head.head = t->head.tail = 0;
    put_status_line(t, p->status, reason);
    put_php_headers(x, &h, lines);
    put_str(t, STR("\r\n"));
    x->declared = declared;
    x->keep_alive = keep_alive;
    buf_fini(&x->head_parts);
    struct str head = buf_view(&t->head);
    struct iovec iov = { (void *)(uintptr_t)head.p, head.n };
    x->wire_heads += head.n;
    send_or_queue(x, &iov, 1);
    t->head.head = t->head.tail = 0;
}

int respond_pieces(struct exchange *x, const struct channel_piece *pieces, int n)
{
    struct gateway_thread *t = x->conn->thread;
    struct gather g;
    int taken = 0;

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    if (x->failed) {
        x->complete = n > 0 &&
                      (pieces[n - 1].type == CHANNEL_END || pieces[n - 1].type == CHANNEL_PASS_ON);
        return n;
    }
    if (!respond_has_room(x)) {
        x->stalled = true;
        return 0;
    }
    g.n = g.n_lines = 0;
    for (; taken < n && g.n_lines < IOV_MAX_PIECES && g.n < 2 * IOV_MAX_PIECES; taken++) {
        const struct channel_piece *p = &pieces[taken];
        switch (p->type) {
        case CHANNEL_INFORM:
        case CHANNEL_HEAD:
            if (p->flags & CHANNEL_PART) {
                keep_head_part(x, p);
                break;
            }
            if (p->type == CHANNEL_INFORM) {
                send_inform(x, p);
            } else if (!x->head_sent) {
                build_php_head(x, p, n - taken - 1);
                struct str head = buf_view(&t->head);
                gather_bytes(&g, head.p, head.n);
            }
            break;
        case CHANNEL_BODY:
            if (x->head_sent) {
                gather_body(x, &g, p);
                if (!x->chunked)
                    g.n_lines++; /* bounds the pieces of one send in every framing */
            }
            break;
        case CHANNEL_FILE:
            if (p->flags & CHANNEL_PART) {
                keep_head_part(x, p);
            } else if (!x->head_sent && x->file_fd < 0 && !t->take_all) {
                x->stalled = x->awaits_file = true; /* until backend_take_file */
                goto out;
            } else if (!x->head_sent && x->file_fd < 0) {
                respond_status(x, 502, STR_NONE);
            } else if (!x->head_sent) {
                respond_handed_file(x, p);
            }
            break;
        case CHANNEL_PASS_ON: /* of a worker that may not: backend.c */
        case CHANNEL_END: gather_end(x, &g); break;
        case CHANNEL_FLUSH: break;
        }
    }
out:
    send_or_queue(x, g.iov, g.n);
    if (x->complete)
        buf_fini(&x->head_parts);
    t->head.head = t->head.tail = 0;
    return taken;
}

void respond_pieces_now(struct exchange *x, const struct channel_piece *pieces, int n)
{
    struct gateway_thread *t = x->conn->thread;

    t->take_all = true;
    for (int at = 0; at < n;)
        at += respond_pieces(x, pieces + at, n - at);
    t->take_all = false;
}

void respond_lost(struct exchange *x, int status)
{
    if (x->complete)
        return;
    if (!x->head_sent) {
        x->stalled = false;
        respond_status(x, status, STR_NONE);
        return;
    }
    /* Without its last chunk or its promised length, closing shows the client that it was cut. */
    x->complete = true;
    x->keep_alive = false;
    thread_resume(x->conn->thread, x->conn);
}
