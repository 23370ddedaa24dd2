/*
 * One connection with its request: connecting, sending, receiving; and what becomes of the request
 * when the connection is lost. Whatever the server sends, or does not, costs this request and no
 * other: a lie about a length, an end at any byte, an answer before the request was taken.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/upstream_int.h"

enum { READ_BYTES = 64 * 1024, STDIN_BYTES = 32 * 1024, PIECES_MAX = 32 };

static void on_timeout(struct loop_timer *timer);

void upstream_conn_await(struct upstream_conn *c, uint64_t timeout_ms)
{
    struct loop *loop = c->upstream->thread->loop;
    uint64_t at = loop_now_ns(loop) + timeout_ms * NS_PER_MS;

    if (c->state == UPSTREAM_RUNNING && c->connected && at > c->ends_ns)
        at = c->ends_ns;
    loop_timer_set(loop, &c->timer, at, on_timeout);
}

/* --- loss ------------------------------------------------------------------------------------- */

static bool idempotent(enum http_method m)
{
    return m == HTTP_GET || m == HTTP_HEAD || m == HTTP_PUT || m == HTTP_DELETE ||
           m == HTTP_OPTIONS;
}

/* May the request of this broken connection go to a server once more? */
static bool may_retry(const struct upstream_conn *c)
{
    const struct exchange *x = c->exchange;
    const struct upstream_request *q = x->upstream;
    bool stale = c->reused && !c->any_bytes; /* closed while it was idle: nobody's fault */
    uint32_t most = c->upstream->config.n_servers > 1 ? 2 : 1;

    if (c->head_done)
        return false;
    if (!c->sent)
        return true; /* CONNECTS_MAX bounds it */
    return idempotent(x->method) && (stale || q->losses < most);
}

/* This connection is lost with its request, which goes elsewhere if it may, else is answered. */
static void conn_failed(struct upstream_conn *c, int status, const char *why)
{
    struct upstream *u = c->upstream;
    struct exchange *x = c->exchange;
    struct upstream_server *s = c->server;
    bool again = status != 504 && may_retry(c);
    char id[REQUEST_ID_BYTES + 1];

    CHECK(c->state == UPSTREAM_RUNNING);
    exchange_request_id(x, id);
    x->upstream->conn = NULL;
    if (c->sent && !(c->reused && !c->any_bytes))
        x->upstream->losses++;
    if (c->connected)
        s->count.broken++;
    if (status == 504)
        upstream_conn_abandon(c);
    else
        upstream_conn_free(c);
    if (again) {
        log_info("request %s: fastcgi server %s: %s; trying again", id, s->text, why);
        s->count.retried++;
        upstream_start(u, x);
        return;
    }
    log_error("request %s: fastcgi server %s: %s", id, s->text, why);
    upstream_detach(x);
    respond_lost(x, status);
}

static void on_timeout(struct loop_timer *timer)
{
    struct upstream_conn *c = CONTAINER_OF(timer, struct upstream_conn, timer);
    const struct config_fastcgi *config = &c->upstream->config;

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    if (c->state != UPSTREAM_RUNNING) {
        upstream_conn_free(c);
    } else if (loop_now_ns(c->upstream->thread->loop) >= c->ends_ns) {
        c->server->count.timeouts++;
        conn_failed(c, 504, "the request ran longer than request_timeout");
    } else if (c->exchange->stalled) {
        /* our client is slow, not the server */
        upstream_conn_await(c, config->response_timeout_ms);
    } else if (!c->connected) {
        upstream_server_failed(c->upstream, c->server, "no connection within connect_timeout");
        conn_failed(c, 502, "no connection within connect_timeout");
    } else {
        c->server->count.timeouts++;
        conn_failed(c, 504, "nothing came within response_timeout");
    }
}

/* --- sending --------------------------------------------------------------------------------- */

/* The next STDIN record into `out`; the one that ends the stream goes with the last bytes. */
static int refill(struct upstream_conn *c)
{
    const struct exchange *x = c->exchange;
    char header[FASTCGI_HEADER_BYTES];
    uint64_t left = c->body_end - c->body_at;
    uint32_t n = left < STDIN_BYTES ? (uint32_t)left : STDIN_BYTES;
    int r = buf_reserve(&c->out, n + 2 * sizeof(header));

    if (r < 0)
        return r;
    fastcgi_stdin_header(header, n);
    memcpy(buf_space(&c->out), header, sizeof(header));
    buf_commit(&c->out, sizeof(header));
    if (n > 0 && x->body_sink == BODY_SPOOL) {
        ssize_t got = pread(x->body_fd, buf_space(&c->out), n, (off_t)c->body_at);
        if (got != (ssize_t)n)
            return got < 0 ? -errno : -EIO;
    } else if (n > 0) {
        memcpy(buf_space(&c->out), buf_view(&x->body).p + c->body_at, n);
    }
    buf_commit(&c->out, n);
    c->body_at += n;
    if (n > 0 && c->body_at == c->body_end) {
        fastcgi_stdin_header(header, 0);
        memcpy(buf_space(&c->out), header, sizeof(header));
        buf_commit(&c->out, sizeof(header));
    }
    c->stdin_closed = c->body_at == c->body_end;
    return 0;
}

/* 0 or -errno. */
static int send_request(struct upstream_conn *c)
{
    while (c->may_write) {
        if (buf_length(&c->out) == 0) {
            if (c->stdin_closed)
                return 0;
            int r = refill(c);
            if (r < 0)
                return r;
        }
        struct str v = buf_view(&c->out);
        ssize_t n = send(c->watch.fd, v.p, v.n, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->may_write = false;
            return 0;
        }
        if (n < 0)
            return -errno;
        c->sent = true;
        if ((size_t)n < v.n)
            c->may_write = false;
        buf_consume(&c->out, (size_t)n);
        upstream_conn_await(c, c->upstream->config.response_timeout_ms);
    }
    return 0;
}

/* --- receiving ------------------------------------------------------------------------------- */

struct batch {
    struct channel_piece pieces[PIECES_MAX];
    int n;
    bool ended;
};

static struct channel_piece *add_piece(struct batch *b, enum channel_piece_type type,
                                       struct str data)
{
    struct channel_piece *p = &b->pieces[b->n++];

    CHECK(b->n <= PIECES_MAX);
    *p = (struct channel_piece){ .type = type, .n_iov = data.n ? 1 : 0, .bytes = data.n };
    p->iov[0] = (struct iovec){ (void *)(uintptr_t)data.p, data.n };
    return p;
}

/* The head; or a file that it asks for, or that the file cannot be sent. */
static void add_head(struct upstream_conn *c, struct batch *b, struct str lines, uint16_t status)
{
    struct exchange *x = c->exchange;
    const struct upstream_files *files = x->upstream->files;
    int fd = files ? upstream_files_open(files, x, lines) : -ENODATA;

    if (fd == -ENODATA) {
        add_piece(b, CHANNEL_HEAD, lines)->status = status;
        return;
    }
    c->no_body = true;
    if (fd >= 0) {
        x->file_fd = fd;
        add_piece(b, CHANNEL_FILE, lines)->status = status;
        return;
    }
    bool is_missing = fd == -ENOENT || fd == -EISDIR || fd == -ENOTDIR || fd == -ENAMETOOLONG;
    add_piece(b, CHANNEL_HEAD, STR("Content-Type: text/plain; charset=UTF-8\r\n"))->status =
        fd == -EACCES ? 403
        : is_missing  ? 404
                      : 500;
    add_piece(b, CHANNEL_BODY, fd == -EACCES ? STR("Access denied.\n") : STR("File not found.\n"));
}

/* STDOUT: first the head, then the body. 0, -EPROTO or -ENOMEM. The batch has room for two pieces
 * and lives no longer than `lines`. */
static int take_stdout(struct upstream_conn *c, struct batch *b, struct str data, struct buf *lines)
{
    size_t before = buf_length(&c->cgi);
    uint16_t status;

    if (c->head_done) {
        if (!c->no_body)
            add_piece(b, CHANNEL_BODY, data);
        return 0;
    }
    /* Of a long body behind the head no more is kept than the limit of heads. */
    struct str looked_at = str_take(data, UPSTREAM_HEAD_BYTES_MAX - before);
    int r = buf_append(&c->cgi, looked_at.p, looked_at.n);
    if (r < 0)
        return r;
    size_t taken = cgi_head_end(buf_view(&c->cgi), before);
    if (taken == 0)
        return buf_length(&c->cgi) >= UPSTREAM_HEAD_BYTES_MAX ? -EPROTO : 0;
    r = cgi_parse_head(str_take(buf_view(&c->cgi), taken), lines, &status);
    if (r < 0)
        return r;
    c->head_done = true;
    add_head(c, b, buf_view(lines), status);
    struct str rest = str_skip(data, taken - before);
    if (rest.n && !c->no_body)
        add_piece(b, CHANNEL_BODY, rest);
    buf_fini(&c->cgi);
    return 0;
}

static void log_stderr(struct upstream_conn *c, struct str data)
{
    char id[REQUEST_ID_BYTES + 1], prefix[64];

    exchange_request_id(c->exchange, id);
    snprintf(prefix, sizeof(prefix), "request %s: fastcgi: ", id);
    log_text(LOG_NOTICE, str_from(prefix), data);
    c->upstream->count.stderr_records++;
}

/* What is in `in` becomes one batch of pieces. Returns the bytes taken or -EPROTO, -ENOMEM. */
static ssize_t read_events(struct upstream_conn *c, struct batch *b, struct buf *lines)
{
    struct str in = buf_view(&c->in);
    size_t at = 0;

    b->n = 0;
    b->ended = false;
    while (b->n + 2 <= PIECES_MAX && !b->ended) {
        struct fastcgi_event e;
        size_t used;
        int r = fastcgi_read(&c->reader, str_skip(in, at), &e, &used);
        if (r < 0)
            return r;
        at += used;
        if (e.type == FASTCGI_MORE)
            break;
        if (e.type == FASTCGI_STDERR) {
            log_stderr(c, e.data);
        } else if (e.type == FASTCGI_STDOUT) {
            if ((r = take_stdout(c, b, e.data, lines)) < 0)
                return r;
        } else {
            if (e.protocol_status != 0 || !c->head_done)
                return -EPROTO;
            b->ended = true;
            add_piece(b, CHANNEL_END, STR_NONE);
        }
    }
    return (ssize_t)at;
}

/* The answer is complete: the connection is free for another request, or goes. */
static void conn_end_request(struct upstream_conn *c)
{
    struct upstream *u = c->upstream;
    struct exchange *x = c->exchange;
    bool keep = c->kept && u->refs > 0 && !c->hangup && !c->cut_short && c->stdin_closed &&
                buf_length(&c->out) == 0 && buf_length(&c->in) == 0 && c->reader.padding_left == 0;

    upstream_detach(x);
    c->exchange = NULL;
    if (!keep && c->kept) {
        upstream_conn_free(c);
    } else if (!keep) {
        upstream_conn_abandon(c); /* its child is free when it has closed */
    } else {
        upstream_conn_keep(c);
    }
    conn_advance(x->conn);
}

bool upstream_conn_deliver(struct upstream_conn *c)
{
    struct buf lines;
    struct batch b;

    buf_init(&lines, 2 * UPSTREAM_HEAD_BYTES_MAX);
    while (buf_length(&c->in)) {
        ssize_t taken = read_events(c, &b, &lines);
        if (taken < 0) {
            buf_fini(&lines);
            conn_failed(c, 502,
                        taken == -ENOMEM ? "out of memory"
                                         : "its answer is not FastCGI or has no CGI head");
            return false;
        }
        if (b.n)
            respond_pieces_now(c->exchange, b.pieces, b.n);
        buf_consume(&c->in, (size_t)taken);
        if (b.ended) {
            buf_fini(&lines);
            conn_end_request(c);
            return false;
        }
        if (!respond_has_room(c->exchange)) {
            c->exchange->stalled = true;
            break;
        }
        if (taken == 0)
            break;
    }
    buf_fini(&lines);
    return !c->exchange->stalled;
}

static void receive(struct upstream_conn *c)
{
    while (c->may_read) {
        if (buf_reserve(&c->in, READ_BYTES) < 0) {
            conn_failed(c, 502, "out of memory");
            return;
        }
        size_t room = buf_room(&c->in);
        ssize_t n = recv(c->watch.fd, buf_space(&c->in), room, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->may_read = false;
            return;
        }
        if (n <= 0) {
            conn_failed(c, 502,
                        n == 0 ? "it closed the connection before the end of its answer"
                               : strerror(errno));
            return;
        }
        /* A short read emptied the socket; the next edge tells of more, but an end that came with
         * these bytes has told already. */
        if ((size_t)n < room && !c->hangup)
            c->may_read = false;
        c->any_bytes = true;
        buf_commit(&c->in, (size_t)n);
        upstream_conn_await(c, c->upstream->config.response_timeout_ms);
        if (!upstream_conn_deliver(c))
            return;
    }
}

void upstream_conn_go_on(struct upstream_conn *c)
{
    int r = send_request(c);

    if (r == -EPIPE || r == -ECONNRESET) {
        /* A server may answer and close without reading all: what it said comes first, and is
         * there although no event may have told of it yet. */
        c->cut_short = c->stdin_closed = c->may_read = true;
        c->may_write = false;
        c->out.head = c->out.tail = 0;
    } else if (r < 0) {
        conn_failed(c, 502, strerror(-r));
        return;
    }
    if (!c->exchange->stalled)
        receive(c);
}

void upstream_conn_connected(struct upstream_conn *c)
{
    upstream_server_works(c->server);
    c->probe = false;
    c->connected = true;
    if (c->upstream->n_queue)
        upstream_due(c->upstream); /* those that waited for it */
    upstream_conn_await(c, c->upstream->config.response_timeout_ms);
}

/* --- events ----------------------------------------------------------------------------------- */

/* Connecting has ended. False: it failed and the connection is gone. */
static bool finish_connect(struct upstream_conn *c, unsigned events)
{
    int error = 0;
    socklen_t n = sizeof(error);

    if (getsockopt(c->watch.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
        error = errno;
    if (error) {
        upstream_server_failed(c->upstream, c->server, strerror(error));
        conn_failed(c, 502, strerror(error));
        return false;
    }
    if (events & LOOP_WRITE)
        upstream_conn_connected(c);
    return true;
}

void upstream_conn_on_ready(struct loop_watch *w, unsigned events)
{
    struct upstream_conn *c = CONTAINER_OF(w, struct upstream_conn, watch);

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    if (c->state != UPSTREAM_RUNNING) {
        /* Idle: only its end is expected. Abandoned: closing tells a server that still writes. */
        if (events & (LOOP_READ | LOOP_HANGUP))
            upstream_conn_free(c);
        return;
    }
    c->hangup |= (events & LOOP_HANGUP) != 0;
    c->may_read |= (events & (LOOP_READ | LOOP_HANGUP)) != 0;
    c->may_write |= (events & LOOP_WRITE) != 0;
    if (!c->connected && (!finish_connect(c, events) || !c->connected))
        return;
    upstream_conn_go_on(c);
}

int upstream_conn_begin(struct upstream_conn *c, struct exchange *x)
{
    bool body = x->body_sink == BODY_MEMORY || x->body_sink == BODY_SPOOL;

    c->state = UPSTREAM_RUNNING;
    c->exchange = x;
    c->sent = c->cut_short = c->any_bytes = c->head_done = c->stdin_closed = c->no_body = false;
    c->reader = (struct fastcgi_reader){ 0 };
    c->cgi.head = c->cgi.tail = 0;
    c->ends_ns = UINT64_MAX;
    uint64_t limit_ms = x->limit_ms ? x->limit_ms : x->upstream->request_timeout_ms;
    if (limit_ms)
        c->ends_ns = loop_now_ns(c->upstream->thread->loop) + limit_ms * NS_PER_MS;
    c->body_at = 0;
    c->body_end = body ? x->body_bytes : 0;
    c->kept = c->upstream->config.keep_alive && c->server->limit;
    int r = fastcgi_put_begin(&c->out, c->kept);
    if (r == 0)
        r = fastcgi_put_params(&c->out, buf_view(&x->upstream->params));
    return r < 0 ? r : refill(c);
}
