/*
 * One client connection: a state machine over an edge-triggered socket. conn_advance goes on as far
 * as it can without blocking; readiness, timers, backends and the end of a batch all lead there.
 *
 * The input buffer holds the head of the current request at its front until the answer is complete
 * (requeueing and the access log read it again), then request body bytes or pipelined requests.
 * Idle connections own no buffer: a few hundred bytes of struct conn are all they cost.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/gateway_int.h"
#include "gateway/stats.h"
#include "gateway/upstream.h"

enum { BODY_READ_BYTES = 64 * 1024, REQUESTS_PER_TURN = 32 };

static void on_timer(struct loop_timer *timer);

void conn_deadline(struct conn *c, uint64_t timeout_ms)
{
    if (timeout_ms)
        loop_timer_set(c->thread->loop, &c->timer,
                       loop_now_ns(c->thread->loop) + timeout_ms * NS_PER_MS, on_timer);
    else
        loop_timer_cancel(c->thread->loop, &c->timer);
}

static void on_ready(struct loop_watch *w, unsigned events)
{
    struct conn *c = CONTAINER_OF(w, struct conn, watch);

    CHECK_MAGIC(c, CONN_MAGIC);
    if (events & LOOP_READ)
        c->may_read = true;
    if (events & LOOP_WRITE)
        c->may_write = true;
    if (events & LOOP_HANGUP)
        c->may_read = c->hangup = true;
    /* A plain wake for writing while a backend works is nothing to act upon. */
    if (c->state == CONN_WAIT && !(events & LOOP_HANGUP) && !c->exchange->stalled &&
        buf_length(&c->exchange->out.memory) == 0 && c->exchange->out.spool_fd < 0 &&
        !stream_is_on(c->exchange))
        return;
    conn_advance(c);
}

static void release_input(struct conn *c)
{
    struct gateway_thread *t = c->thread;

    if (!c->in.base || buf_length(&c->in))
        return;
    if (c->in.cap == IN_BUFFER_BYTES)
        thread_give_buffer(t, c->in.base);
    else
        mem_free(c->in.base);
    c->in.base = NULL;
    c->in.head = c->in.tail = c->in.cap = 0;
}

static bool take_input(struct conn *c)
{
    if (c->in.base)
        return true;
    c->in.base = thread_take_buffer(c->thread);
    if (!c->in.base)
        return false;
    c->in.head = c->in.tail = 0;
    c->in.cap = IN_BUFFER_BYTES;
    return true;
}

/* Reads once. 1: bytes came; 0: nothing now; -1: the connection is over (error, or end of stream
 * with nothing left to do for it). */
static int fill(struct conn *c, size_t want)
{
    if (!c->may_read)
        return 0;
    if (!take_input(c) || buf_reserve(&c->in, want) < 0)
        return -1;
    size_t room = buf_room(&c->in);
    ssize_t n = recv(c->watch.fd, buf_space(&c->in), room, 0);
    if (n > 0) {
        buf_commit(&c->in, (size_t)n);
        /* A short read emptied the socket and the next edge will tell, but an end of stream that
         * came with these bytes has told already. */
        if ((size_t)n < room && !c->hangup)
            c->may_read = false;
        return 1;
    }
    if (n == 0) {
        c->half_closed = true;
        c->may_read = false;
        return 0;
    }
    c->may_read = false;
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0
           : errno == EINTR                        ? (c->may_read = true, 0)
                                                   : -1;
}

static void on_timer(struct loop_timer *timer)
{
    struct conn *c = CONTAINER_OF(timer, struct conn, timer);
    struct gateway_thread *t = c->thread;

    CHECK_MAGIC(c, CONN_MAGIC);
    switch (c->state) {
    case CONN_HEAD:
        t->count.timeouts++;
        respond_error(c, 0);
        return;
    case CONN_BODY:
        t->count.timeouts++;
        c->exchange->keep_alive = false;
        c->state = CONN_WAIT;
        respond_status(c->exchange, 408, STR_NONE);
        conn_advance(c);
        return;
    case CONN_WAIT:
        /* In the queue too long: the request never ran. A running one has no deadline here, unless
         * its client does not take what it was sent. */
        if (queue_wait_goes_on(c->exchange))
            return;
        if (exchange_withdraw(c->exchange)) {
            t->count.queue_timeouts++;
            respond_status(c->exchange, 503, STR("Retry-After: 5\r\n"));
            conn_advance(c);
        } else if (c->exchange->stalled || buf_length(&c->exchange->out.memory) ||
                   c->exchange->out.spool_fd >= 0) {
            t->count.timeouts++;
            conn_close(c);
        }
        return;
    case CONN_PROXY:
    case CONN_IDLE:
    case CONN_SEND:
    case CONN_LINGER: conn_close(c); return;
    }
}

static void be_idle(struct conn *c)
{
    c->state = CONN_IDLE;
    c->parser = (struct http1_parser){ 0 };
    release_input(c);
    conn_deadline(c, c->thread->gateway->config->server.keepalive_timeout_ms);
}

void conn_linger(struct conn *c)
{
    c->state = CONN_LINGER;
    c->lingered = 0;
    shutdown(c->watch.fd, SHUT_WR);
    conn_deadline(c, LINGER_MS);
    thread_resume(c->thread, c); /* what has come already makes no new edge */
}

/* Discards what the client still sends, so that closing does not reset our last answer away
 * (RFC 9112 section 9.6). False: closed. */
static bool advance_linger(struct conn *c)
{
    c->in.head = c->in.tail = 0;
    for (;;) {
        int r = fill(c, 1);
        c->lingered += (uint32_t)buf_length(&c->in);
        c->in.head = c->in.tail = 0;
        if (r < 0 || c->half_closed || c->lingered > LINGER_BYTES_MAX) {
            conn_close(c);
            return false;
        }
        if (r == 0) {
            release_input(c);
            return true;
        }
    }
}

/* 1: taken, go on; 0: more input needed; -1: closed. */
static int advance_proxy(struct conn *c)
{
    struct sockaddr_storage source, destination;
    bool local = false;

    int r = http_parse_proxy_protocol(buf_view(&c->in), &source, &destination, &local);
    if (r < 0) {
        c->thread->count.bad_requests++;
        log_info("connection from %.*s closed: %s", c->peer.length, c->peer.text,
                 http_error_text((enum http_error) - r));
        conn_close(c);
        return -1;
    }
    if (r == 0)
        return 0;
    buf_consume(&c->in, (size_t)r);
    if (!local) {
        address_from_sockaddr(&c->peer, &source);
        address_from_sockaddr(&c->local, &destination);
        c->trusted =
            trust_has(c->thread->gateway->trust, (struct str){ c->peer.text, c->peer.length });
    }
    be_idle(c);
    return 1;
}

/* 1: an exchange began or the connection is in another state; 0: more input needed; -1: closed. */
static int advance_head(struct conn *c)
{
    struct gateway_thread *t = c->thread;
    const struct config_server *s = &t->gateway->config->server;
    const struct http_limits limits = {
        .request_line_bytes = (uint32_t)s->max_request_line,
        .headers_bytes = (uint32_t)s->max_header_size,
        .headers_count = s->max_header_count,
        .body_bytes = UINT64_MAX, /* the route decides */
    };

    if (buf_length(&c->in) == 0)
        return 0;
    int r = http1_parse_request(&c->parser, buf_view(&c->in), &limits, &t->request);
    if (r < 0) {
        t->count.bad_requests++;
        respond_error(c, (enum http_error) - r);
        return -1;
    }
    if (c->state == CONN_IDLE) {
        c->state = CONN_HEAD;
        c->head_started_ns = loop_now_ns(t->loop);
        if (r == 0)
            conn_deadline(c, s->header_timeout_ms);
    }
    if (r == 0)
        return 0;
    c->requests++;
    exchange_begin(c, (uint32_t)r);
    return 1;
}

/* True: the answer is out, go on. False: closed, or something else has to happen first. */
static bool advance_answer(struct conn *c)
{
    struct exchange *x = c->exchange;
    bool empty = respond_flush(x);

    if (x->failed && empty) {
        conn_close(c);
        return false;
    }
    if (x->complete && empty) {
        conn_exchange_done(c);
        return true;
    }
    if (x->stalled && empty && (x->backend || x->upstream)) {
        x->stalled = false;
        if (x->backend)
            backend_poll_worker(x->backend, x->stalled_worker);
        else
            upstream_resume(x);
    } else if (x->complete && c->state == CONN_WAIT) {
        c->state = CONN_SEND;
        conn_deadline(c, c->thread->gateway->config->server.send_timeout_ms);
    }
    return false;
}

/* A body on its way to a worker, while the answer may be on its way back. 0: more input needed; -1:
 * not now. */
static int advance_stream(struct conn *c)
{
    bool is_open = c->magic == CONN_MAGIC && c->state == CONN_WAIT;

    return is_open && stream_is_on(c->exchange) && stream_take(c->exchange) ? 0 : -1;
}

/* Anything further to do? Each step returns to the loop below until it cannot go on. */
static void advance(struct conn *c)
{
    unsigned begun = 0;

    for (;;) {
        int r = 0;
        switch (c->state) {
        case CONN_LINGER: advance_linger(c); return;
        case CONN_PROXY: r = advance_proxy(c); break;
        case CONN_IDLE:
        case CONN_HEAD:
            if (begun >= REQUESTS_PER_TURN) {
                thread_resume(c->thread, c);
                return;
            }
            r = advance_head(c);
            begun += r > 0;
            break;
        case CONN_BODY:
            exchange_read_body(c->exchange);
            if (c->state != CONN_BODY)
                r = 1;
            break;
        case CONN_WAIT:
        case CONN_SEND: r = advance_answer(c) ? 1 : advance_stream(c); break;
        }
        if (r < 0 || c->magic != CONN_MAGIC)
            return;
        if (r > 0)
            continue;
        bool is_body = c->state == CONN_BODY || c->state == CONN_WAIT;
        int got = fill(c, is_body ? BODY_READ_BYTES : 1024);
        if (got < 0 || (got == 0 && c->half_closed)) {
            c->thread->count.aborted += is_body;
            conn_close(c);
            return;
        }
        if (got == 0) {
            if (c->state == CONN_IDLE)
                release_input(c);
            else if (c->state == CONN_BODY)
                conn_deadline(c, c->thread->gateway->config->server.body_timeout_ms);
            else if (c->state == CONN_WAIT)
                stream_wait(c->exchange);
            return;
        }
    }
}

/* While a backend works, the only news that matters from the client is that it is gone for good: a
 * reset. A mere half-close still wants its answer. */
static bool client_is_gone(struct conn *c)
{
    int error = 0;
    socklen_t n = sizeof(error);

    if (c->state != CONN_WAIT || !c->hangup)
        return false;
    return getsockopt(c->watch.fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error != 0;
}

void conn_advance(struct conn *c)
{
    CHECK_MAGIC(c, CONN_MAGIC);
    if (c->busy) {
        thread_resume(c->thread, c);
        return;
    }
    c->busy = true;
    if (client_is_gone(c)) {
        c->thread->count.aborted++;
        conn_close(c);
        return;
    }
    advance(c);
    if (c->magic != CONN_MAGIC)
        return;
    c->busy = false;
    if (c->hangup && c->state == CONN_WAIT && c->exchange)
        queue_wait_client_left(c->exchange);
}

void conn_exchange_done(struct conn *c)
{
    struct exchange *x = c->exchange;
    /* An answer that began before the drain promised to keep the connection. */
    bool unread = !x->body_complete;
    bool keep = x->keep_alive && !unread &&
                (!c->thread->draining || c->thread->idle_limit.deadline_ns != 0);

    access_log_line(x);
    stats_record(x, true);
    buf_consume(&c->in, x->head_bytes);
    exchange_free(x);
    c->exchange = NULL;
    if (keep) {
        be_idle(c);
        return;
    }
    /* Nothing unread: a plain close sends our last bytes. */
    if (unread || buf_length(&c->in) || c->may_read)
        conn_linger(c);
    else
        conn_close(c);
}

/* What a script is told of a client that is the server itself. */
static void be_local(struct conn *c)
{
    static const char text[] = "127.0.0.1";

    c->peer = c->local = (struct address){ .port = 80, .length = sizeof(text) - 1 };
    memcpy(c->peer.text, text, sizeof(text));
    memcpy(c->local.text, text, sizeof(text));
}

/* Bytes that have come already are a request that must be answered: its answer says close. */
void conn_part(struct conn *c)
{
    char byte;

    CHECK(c->state == CONN_IDLE || c->state == CONN_PROXY);
    if (recv(c->watch.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
        c->may_read = true;
        thread_resume(c->thread, c);
    } else {
        conn_close(c);
    }
}

static bool admit(struct gateway_thread *t, int fd, enum conn_source source)
{
    const struct config_server *s = &t->gateway->config->server;
    uint32_t share = s->max_connections / t->gateway->n_threads;

    /* Who asks how the server is must get through, above all when it is full. */
    if (source > CONN_FROM_UNIX || t->n_conns < (share ? share : 1))
        return true;
    t->count.refused++;
    close(fd);
    return false;
}

struct conn *conn_accept(struct gateway_thread *t, int fd, enum conn_source source)
{
    const struct config_server *s = &t->gateway->config->server;
    struct sockaddr_storage ss;
    socklen_t n = sizeof(ss);

    if (!admit(t, fd, source))
        return NULL;
    struct conn *c = mem_try_zalloc(sizeof(*c));
    if (!c) {
        t->count.refused++;
        close(fd);
        return NULL;
    }
    c->magic = CONN_MAGIC;
    c->thread = t;
    c->source = source;
    c->is_unix = source == CONN_FROM_UNIX;
    c->is_probe = source == CONN_FROM_PROBE;
    c->may_write = true;
    list_init(&c->resume);
    buf_init(&c->in, s->max_request_line + s->max_header_size + 2 * BODY_READ_BYTES);
    if (source == CONN_FROM_PROBE)
        be_local(c);
    if (source == CONN_FROM_TCP) {
        int one = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (getpeername(fd, (struct sockaddr *)&ss, &n) == 0)
            address_from_sockaddr(&c->peer, &ss);
        n = sizeof(ss);
        if (getsockname(fd, (struct sockaddr *)&ss, &n) == 0)
            address_from_sockaddr(&c->local, &ss);
    }
    c->trusted = source <= CONN_FROM_UNIX &&
                 trust_has(t->gateway->trust, (struct str){ c->peer.text, c->peer.length });
    c->state = s->proxy_protocol && c->trusted ? CONN_PROXY : CONN_IDLE;
    int r = loop_watch_add(t->loop, &c->watch, fd, LOOP_READ | LOOP_WRITE | LOOP_EDGE, on_ready);
    if (r < 0) {
        t->count.refused++;
        close(fd);
        mem_free(c);
        return NULL;
    }
    list_push_back(&t->conns, &c->link);
    t->n_conns++;
    t->count.accepted += source <= CONN_FROM_UNIX;
    conn_deadline(c, s->header_timeout_ms);
    return c;
}

void conn_close(struct conn *c)
{
    struct gateway_thread *t = c->thread;

    CHECK_MAGIC(c, CONN_MAGIC);
    if (c->exchange) {
        /* The codes are nginx's: the client left before its answer began, or within its body. */
        if (c->exchange->status == 0)
            c->exchange->status = c->state == CONN_BODY ? 400 : 499;
        access_log_line(c->exchange);
        stats_record(c->exchange, false);
        exchange_free(c->exchange);
        c->exchange = NULL;
    }
    loop_timer_cancel(t->loop, &c->timer);
    int fd = c->watch.fd;
    loop_watch_remove(t->loop, &c->watch);
    close(fd);
    c->in.head = c->in.tail = 0;
    release_input(c);
    list_remove(&c->resume);
    list_remove(&c->link);
    t->n_conns--;
    c->magic = 0;
    list_push_back(&t->graveyard, &c->link);
    thread_conn_gone(t);
}
