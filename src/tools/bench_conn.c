/*
 * One connection of the load generator: connects, sends a request, reads and checks the answer.
 * What the server does wrong ends the request as an error of some kind and costs the connection;
 * nothing it sends can end the run.
 *
 * A whole answer usually arrives with one read, into a buffer that all connections of the thread
 * share; only a head that came in pieces is kept.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "base/clock.h"
#include "tools/bench_int.h"

static const struct http_limits limits = { .headers_bytes = 64 << 10, .headers_count = 256 };

void bench_conn_init(struct bench_conn *c, struct bench_thread *t)
{
    memset(c, 0, sizeof(*c));
    c->thread = t;
    c->watch.fd = -1;
    list_init(&c->link);
    buf_init(&c->held, 0);
}

void bench_conn_close(struct bench_conn *c)
{
    if (c->tls)
        bench_tls_drop(c);
    if (c->open)
        loop_watch_close(c->thread->loop, &c->watch);
    c->open = false;
    buf_fini(&c->held);
}

/* Before anything is closed: `why` may be of the connection. */
static void blame(struct bench_conn *c, enum bench_error outcome, const char *why)
{
    if (c->intended_ns >= c->thread->window_ns)
        bench_result_blame(c->thread->result, outcome, why, 1);
}

static void fail(struct bench_conn *c, enum bench_error outcome, const char *why)
{
    blame(c, outcome, why);
    bench_conn_close(c);
    bench_thread_done(c->thread, c, outcome);
}

static bool is_sent(const struct bench_conn *c)
{
    return c->sent == buf_length(&c->target->bytes);
}

/* --- the answer ------------------------------------------------------------------------------- */

static void check_run(struct bench_conn *c, struct str run)
{
    const struct bench_options *o = c->thread->options;

    if (o->expect_digest)
        sha256_update(&c->sha256, run);
    if (!o->expect_text)
        return;
    for (size_t i = 0; i < run.n && c->text_at < o->text_bytes; i++) {
        while (c->text_at && o->expect_text[c->text_at] != run.p[i])
            c->text_at = o->text_borders[c->text_at - 1];
        c->text_at += o->expect_text[c->text_at] == run.p[i];
    }
}

static enum bench_error judge(struct bench_conn *c)
{
    const struct bench_options *o = c->thread->options;
    uint16_t status = c->response.status;

    if (o->expect_status ? status != o->expect_status : status >= 400)
        return BENCH_STATUS;
    const char *wrong = NULL;
    char length[64];
    if (o->expect_bytes >= 0 && c->body.total != (uint64_t)o->expect_bytes) {
        snprintf(length, sizeof(length), "a body of %llu bytes", (unsigned long long)c->body.total);
        wrong = length;
    } else if (o->expect_text && c->text_at < o->text_bytes) {
        wrong = "the text is not in the body";
    }
    if (o->expect_digest) {
        uint8_t digest[SHA256_BYTES];
        sha256_final(&c->sha256, digest);
        if (!wrong && memcmp(digest, o->digest, sizeof(digest)) != 0)
            wrong = "another SHA-256 of the body";
    }
    if (wrong)
        blame(c, BENCH_BODY, wrong);
    return wrong ? BENCH_BODY : BENCH_OK;
}

/* The answer is complete; the connection stays if both sides want that. */
static void finish(struct bench_conn *c, bool surplus)
{
    bool keep = c->response.keep_alive && !c->thread->options->no_keepalive && !c->to_the_end &&
                is_sent(c) && c->response.status != 101;
    /* Bytes behind an answer that nobody asked for: the next answer would be misread. */
    enum bench_error outcome = surplus ? BENCH_READ : judge(c);

    if (surplus)
        blame(c, BENCH_READ, "more bytes than the answer announced");
    if (c->intended_ns >= c->thread->window_ns)
        c->thread->result->statuses[c->response.status]++;
    if (!keep || surplus)
        bench_conn_close(c);
    bench_thread_done(c->thread, c, outcome);
}

static void start_body(struct bench_conn *c)
{
    c->to_the_end = http1_body_init_response(&c->body, &c->response, c->target->to_head);
    c->state = BENCH_IN_BODY;
}

/* Takes body bytes. */
static void feed_body(struct bench_conn *c, struct str in)
{
    for (;;) {
        struct str run;
        size_t used;
        int rc = http1_body_next(&c->body, in, &run, &used);
        if (rc < 0) {
            fail(c, BENCH_READ, "the body is not valid HTTP");
            return;
        }
        if (run.n)
            check_run(c, run);
        in = str_skip(in, used);
        if (rc == 1) {
            finish(c, in.n > 0);
            return;
        }
        if (in.n == 0)
            return;
    }
}

/* Parses a head at the start of `in`. Bytes taken; 0: more are needed, or the request is over. */
static size_t take_head(struct bench_conn *c, struct str in)
{
    size_t taken = 0;

    for (;;) {
        struct str rest = str_skip(in, taken);
        int rc = http1_parse_response(&c->parser, rest, &limits, &c->response);
        if (rc < 0) {
            fail(c, BENCH_READ, http_error_text((enum http_error) - rc));
            return 0;
        }
        if (rc == 0)
            break;
        taken += (size_t)rc;
        c->parser = (struct http1_response_parser){ .line = 0 };
        if (c->response.status >= 200 || c->response.status == 101) {
            start_body(c);
            return taken;
        }
    }
    /* The rest of this head is still to come; interim answers before it are forgotten. */
    struct str rest = str_skip(in, taken);
    if (c->held.base == NULL) {
        if (buf_append(&c->held, rest.p, rest.n) < 0)
            fail(c, BENCH_READ, "out of memory");
    } else {
        buf_consume(&c->held, taken);
    }
    return 0;
}

static void take_bytes(struct bench_conn *c, struct str in)
{
    if (c->state == BENCH_HEAD && c->held.base != NULL) {
        if (buf_append(&c->held, in.p, in.n) < 0) {
            fail(c, BENCH_READ, "out of memory");
            return;
        }
        struct buf held = c->held;
        size_t taken = take_head(c, buf_view(&c->held));
        if (taken == 0)
            return;
        buf_init(&c->held, 0); /* moved out of the way of bench_conn_close */
        buf_consume(&held, taken);
        feed_body(c, buf_view(&held));
        buf_fini(&held);
        return;
    }
    if (c->state == BENCH_HEAD) {
        size_t taken = take_head(c, in);
        if (taken == 0)
            return;
        in = str_skip(in, taken);
    }
    feed_body(c, in);
}

static void on_end_of_stream(struct bench_conn *c)
{
    if (c->state == BENCH_FREE)
        bench_conn_close(c); /* kept too long for the server's taste */
    else if (c->state == BENCH_IN_BODY && c->to_the_end)
        finish(c, false);
    else if (c->state == BENCH_IN_BODY || c->held.base)
        fail(c, BENCH_READ, "closed before the answer was whole");
    else
        fail(c, BENCH_READ, "closed without an answer");
}

/* What a negative result of the connection meant. */
static const char *trouble(const struct bench_conn *c, ssize_t error)
{
    return c->tls ? c->thread->options->tls->trouble(c->tls) : strerror((int)-error);
}

static ssize_t receive(struct bench_conn *c)
{
    struct bench_thread *t = c->thread;

    if (c->tls)
        return t->options->tls->recv(c->tls, t->scratch, BENCH_READ_BYTES);
    ssize_t n = recv(c->watch.fd, t->scratch, BENCH_READ_BYTES, 0);
    return n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
}

/* False: there is nothing to read now. */
static bool read_answer(struct bench_conn *c)
{
    struct bench_thread *t = c->thread;
    ssize_t n = receive(c);

    if (n == -EAGAIN)
        return false;
    if (n == 0) {
        on_end_of_stream(c);
    } else if (n < 0) {
        if (c->state == BENCH_FREE)
            bench_conn_close(c);
        else
            fail(c, BENCH_READ, trouble(c, n));
    } else if (c->state == BENCH_FREE) {
        bench_conn_close(c); /* an answer to no question */
    } else {
        if (c->intended_ns >= t->window_ns)
            t->result->bytes += (uint64_t)n;
        take_bytes(c, (struct str){ t->scratch, (size_t)n });
    }
    return true;
}

/* --- the request ------------------------------------------------------------------------------ */

/* Waits for what is needed next. */
static void watch(struct bench_conn *c)
{
    const struct tls_module *tls = c->thread->options->tls;
    /* TLS may have to write before it can read, and to read before it can write. */
    bool to_write = c->tls ? tls->wants_write(c->tls) : !is_sent(c);
    unsigned want = to_write ? LOOP_READ | LOOP_WRITE : LOOP_READ;
    if (c->watch.events != want && loop_watch_change(c->thread->loop, &c->watch, want) < 0)
        fail(c, BENCH_WRITE, "the socket cannot be waited for");
}

static void send_request(struct bench_conn *c)
{
    struct str rest = str_skip(buf_view(&c->target->bytes), c->sent);
    ssize_t n;

    do { /* once, but that TLS takes one record at a time */
        if (c->tls) {
            n = c->thread->options->tls->send(c->tls, rest.p, rest.n);
        } else {
            n = send(c->watch.fd, rest.p, rest.n, MSG_NOSIGNAL);
            n = n >= 0 ? n : errno == EINTR ? -EAGAIN : -errno;
        }
        if (n < 0 && n != -EAGAIN) {
            fail(c, BENCH_WRITE, trouble(c, n));
            return;
        }
        rest = str_skip(rest, n > 0 ? (size_t)n : 0);
        c->sent += n > 0 ? (size_t)n : 0;
    } while (c->tls && n > 0 && rest.n);
    watch(c);
}

static void shake(struct bench_conn *c)
{
    int rc = bench_tls_shake(c);

    if (rc == 0) {
        c->state = BENCH_HEAD;
        send_request(c);
    } else if (rc == -EAGAIN) {
        watch(c);
    } else {
        char why[BENCH_CAUSE_BYTES];
        snprintf(why, sizeof(why), "TLS: %s", c->tls ? trouble(c, rc) : "out of memory");
        fail(c, BENCH_CONNECT, why);
    }
}

/* The connection stands. */
static void begin(struct bench_conn *c)
{
    if (c->thread->options->https) {
        c->state = BENCH_SHAKING;
        shake(c);
    } else {
        c->state = BENCH_HEAD;
        send_request(c);
    }
}

static void on_connected(struct bench_conn *c)
{
    int error = 0;
    socklen_t n = sizeof(error);

    if (getsockopt(c->watch.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 || error)
        fail(c, BENCH_CONNECT, strerror(error));
    else
        begin(c);
}

/* Over TLS a readable socket may be what a write waits for, and the reverse; and what was read
 * ahead makes no socket readable. */
static void on_ready_tls(struct bench_conn *c)
{
    const struct tls_module *tls = c->thread->options->tls;

    if (c->state == BENCH_SHAKING) {
        shake(c);
        if (!c->tls || c->state == BENCH_SHAKING || !tls->has_bytes(c->tls))
            return;
    }
    while (read_answer(c) && c->tls && tls->has_bytes(c->tls))
        ;
    if (c->tls && c->state >= BENCH_HEAD && !is_sent(c))
        send_request(c);
    else if (c->tls)
        watch(c);
}

static void on_ready(struct loop_watch *w, unsigned events)
{
    struct bench_conn *c = CONTAINER_OF(w, struct bench_conn, watch);

    if (c->state == BENCH_CONNECTING) {
        if (events & (LOOP_WRITE | LOOP_HANGUP))
            on_connected(c);
    } else if (c->tls) {
        on_ready_tls(c);
    } else if (events & (LOOP_READ | LOOP_HANGUP)) {
        read_answer(c); /* first: a server may refuse a body before it has all of it */
    } else if (c->state != BENCH_FREE) {
        send_request(c);
    }
    bench_thread_pump(c->thread);
}

static void open_connection(struct bench_conn *c);

/* What had not come when the time was over. */
static const char *waited_for(const struct bench_conn *c)
{
    if (c->state == BENCH_CONNECTING)
        return "not connected";
    if (c->state == BENCH_SHAKING)
        return "the TLS handshake did not end";
    if (!is_sent(c))
        return "the request was not taken";
    return c->state == BENCH_IN_BODY || c->held.base ? "the answer did not end" : "no answer";
}

static void on_timer(struct loop_timer *timer)
{
    struct bench_conn *c = CONTAINER_OF(timer, struct bench_conn, timer);

    if (c->state == BENCH_RESTING)
        bench_thread_rested(c->thread, c);
    else if (c->state == BENCH_CONNECTING && !c->open && clock_monotonic_ns() < c->limit_ns)
        open_connection(c);
    else if (c->state != BENCH_FREE) /* a free one's timer was left alone, which is cheaper */
        fail(c, BENCH_TIMEOUT, waited_for(c));
    bench_thread_pump(c->thread);
}

void bench_conn_rest(struct bench_conn *c, uint64_t until_ns)
{
    DCHECK(!c->open);
    c->state = BENCH_RESTING;
    loop_timer_set(c->thread->loop, &c->timer, until_ns, on_timer);
}

static void open_connection(struct bench_conn *c)
{
    const struct bench_options *o = c->thread->options;
    int on = 1, fd = socket(o->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        fail(c, BENCH_CONNECT, strerror(errno));
        return;
    }
    if (!o->unix_path)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    int rc = connect(fd, (const struct sockaddr *)&o->address, o->address_bytes);
    bool waiting = rc < 0 && errno == EINPROGRESS;
    if (rc < 0 && errno == EAGAIN && o->unix_path) {
        /* The backlog is full: where TCP would send its SYN again, a unix socket says come back. */
        close(fd);
        loop_timer_set(c->thread->loop, &c->timer, clock_monotonic_ns() + NS_PER_MS, on_timer);
        return;
    }
    int error = rc < 0 && !waiting
                    ? -errno
                    : loop_watch_add(c->thread->loop, &c->watch, fd,
                                     LOOP_READ | (waiting ? LOOP_WRITE : 0), on_ready);
    if (error < 0) {
        close(fd);
        fail(c, BENCH_CONNECT, strerror(-error));
        return;
    }
    c->open = true;
    if (!waiting)
        begin(c);
}

void bench_conn_start(struct bench_conn *c, const struct bench_target *target, uint64_t intended_ns)
{
    struct bench_thread *t = c->thread;

    DCHECK(c->state == BENCH_FREE);
    c->target = target;
    c->intended_ns = intended_ns;
    c->sent = 0;
    c->to_the_end = false;
    c->text_at = 0;
    c->parser = (struct http1_response_parser){ .line = 0 };
    if (t->options->expect_digest)
        sha256_init(&c->sha256);
    /* From now, not from the intended start: under overload all connections would be busy with
     * requests that have no time left, and none would be answered. */
    c->limit_ns = t->now_ns + t->options->timeout_ns;
    loop_timer_set(t->loop, &c->timer, c->limit_ns, on_timer);
    if (c->open) {
        c->state = BENCH_HEAD;
        send_request(c);
    } else {
        c->state = BENCH_CONNECTING;
        open_connection(c);
    }
}
