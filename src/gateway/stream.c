/*
 * Request bodies that a worker reads while they come (request_buffering = false): through a pipe,
 * whose reading end the worker gets when it asks for the body. Nothing is kept here but what the
 * pipe did not take: while it is full the client's socket is not read, and TCP slows the client
 * down.
 *
 * Decoded bytes that wait for the pipe stand behind the head in the connection's input buffer
 * (stream_left of them), and what is not decoded yet behind those.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "gateway/gateway_int.h"

bool stream_is_wanted(const struct exchange *x, const struct config_route *rule)
{
    const struct conn *c = x->conn;
    const struct http_request *r = &c->thread->request;
    const struct backend *b = backend_for(c, x->pool);

    if (!b || !b->pool->channel) /* until a pool is up, bodies are kept as usual */
        return false;
    /* All there already and short: it travels inside the slot. */
    if (!r->chunked && (uint64_t)r->content_length <= buf_length(&c->in) - x->head_bytes)
        return false;
    return rule && rule->request_buffering_given
               ? !rule->request_buffering
               : !b->pool->config->pools[x->pool].request_buffering;
}

static struct exchange *exchange_of_watch(struct loop_watch *w)
{
    struct exchange *x = CONTAINER_OF(w, struct exchange, stream_watch);

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    return x;
}

static void on_room(struct loop_watch *w, unsigned events)
{
    (void)events;
    conn_advance(exchange_of_watch(w)->conn);
}

static void on_timer(struct loop_timer *timer)
{
    struct exchange *x = CONTAINER_OF(timer, struct exchange, stream_timer);

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    x->conn->thread->count.timeouts++;
    stream_break(x, 408);
}

int stream_begin(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    int r =
        fcntl(fds[1], F_SETFL, O_NONBLOCK) < 0
            ? -errno
            : loop_watch_add(t->loop, &x->stream_watch, fds[1], LOOP_WRITE | LOOP_EDGE, on_room);
    if (r < 0) {
        close(fds[0]);
        close(fds[1]);
        return r;
    }
    x->body_fd = fds[0];
    x->body_sink = BODY_STREAM;
    t->count.streamed_requests++;
    return 0;
}

static bool has_pipe(const struct exchange *x)
{
    return x->stream_watch.on_ready != NULL;
}

static void close_pipe(struct exchange *x)
{
    int fd = x->stream_watch.fd;

    if (!has_pipe(x))
        return;
    loop_watch_remove(x->conn->thread->loop, &x->stream_watch);
    x->stream_watch.on_ready = NULL;
    close(fd);
}

void stream_end(struct exchange *x)
{
    if (x->body_sink != BODY_STREAM)
        return;
    loop_timer_cancel(x->conn->thread->loop, &x->stream_timer);
    close_pipe(x);
}

void stream_break(struct exchange *x, int status)
{
    x->keep_alive = false;
    if (!exchange_withdraw(x))
        backend_forget(x); /* the worker hears of it before it sees the end of the pipe */
    stream_end(x);
    x->body_sink = BODY_NONE; /* body_complete stays false: the connection ends with this answer */
    respond_lost(x, status);
    thread_resume(x->conn->thread, x->conn);
}

void stream_handed_over(struct exchange *x)
{
    /* Ours is closed, so that a worker that ends, or closes its own, is noticed. */
    fd_close(&x->body_fd);
    if (!x->wants_continue || x->head_sent)
        return;
    x->wants_continue = false;
    if (x->body_decoder.total == 0)
        respond_continue(x->conn);
}

bool stream_is_on(const struct exchange *x)
{
    return x->body_sink == BODY_STREAM && !x->body_complete && !x->complete && !x->failed;
}

/* Takes the framing out of what has come; all at once, since chunks may be of one byte. 0 or
 * -(enum http_error). */
static int decode(struct exchange *x)
{
    struct buf *in = &x->conn->in;
    char *base = in->base + in->head + x->head_bytes;
    size_t n = buf_length(in) - x->head_bytes, at = x->stream_left, kept = at;

    while (at < n && !x->stream_ended) {
        struct str data = STR_NONE;
        size_t used;
        int r = http1_body_next(&x->body_decoder, (struct str){ base + at, n - at }, &data, &used);
        if (r < 0)
            return r;
        if (data.n)
            memmove(base + kept, data.p, data.n);
        kept += data.n;
        at += used;
        x->stream_ended = r > 0;
        if (r == 0 && used == 0)
            break;
    }
    memmove(base + kept, base + at, n - at);
    in->tail -= at - kept;
    x->stream_left = kept;
    return 0;
}

/* Into the pipe, as far as it takes it. A worker that has closed its end wants no more: the rest is
 * thrown away. */
static void pour(struct exchange *x)
{
    struct buf *in = &x->conn->in;
    char *base = in->base + in->head + x->head_bytes;
    size_t done = 0;

    while (done < x->stream_left) {
        ssize_t n = has_pipe(x) ? write(x->stream_watch.fd, base + done, x->stream_left - done)
                                : (ssize_t)(x->stream_left - done);
        if (n >= 0)
            done += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            close_pipe(x);
    }
    if (done == 0)
        return;
    memmove(base, base + done, buf_length(in) - x->head_bytes - done);
    in->tail -= done;
    x->stream_left -= done;
    x->body_bytes += done;
}

bool stream_take(struct exchange *x)
{
    struct conn *c = x->conn;

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    DCHECK(stream_is_on(x));
    int r = decode(x);
    if (r < 0) {
        c->thread->count.bad_requests++;
        stream_break(x, http_error_status((enum http_error) - r));
        return false;
    }
    pour(x);
    if (x->stream_left) { /* the worker's pace decides */
        loop_timer_cancel(c->thread->loop, &x->stream_timer);
        return false;
    }
    if (!x->stream_ended)
        return true;
    stream_end(x);
    x->body_complete = true;
    return false;
}

void stream_wait(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;

    loop_timer_set(t->loop, &x->stream_timer,
                   loop_now_ns(t->loop) + t->gateway->config->server.body_timeout_ms * NS_PER_MS,
                   on_timer);
}
