/*
 * The connections to FastCGI servers: opened when a request needs one, kept idle where the server
 * allows it, held while a script may still run behind a request that is gone. Each of them is in
 * the count of its server, against `limit`: with a request or abandoned in `occupied`, else idle.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/upstream_int.h"

enum { PAUSE_MS = 10 }; /* a server whose backlog is full is asked again */

void upstream_conn_free(struct upstream_conn *c)
{
    struct upstream *u = c->upstream;

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    loop_timer_cancel(u->thread->loop, &c->timer);
    loop_watch_close(u->thread->loop, &c->watch);
    if (c->state == UPSTREAM_IDLE)
        c->server->n_idle--;
    else
        c->server->occupied--;
    if (c->probe)
        c->server->probing = false;
    list_remove(&c->link);
    buf_fini(&c->out);
    buf_fini(&c->in);
    buf_fini(&c->cgi);
    c->magic = 0;
    mem_free(c);
    upstream_due(u);
}

static int conn_open(struct upstream *u, struct upstream_server *s, struct upstream_conn **ret)
{
    const struct upstream_address *to = &s->addresses[s->at];
    int one = 1;

    if (s->n_addresses == 0)
        return -EHOSTUNREACH;
    int fd = socket(to->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (to->storage.ss_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    int r = connect(fd, (const struct sockaddr *)&to->storage, to->bytes) < 0 ? -errno : 0;
    if (r < 0 && r != -EINPROGRESS) {
        close(fd);
        return r;
    }
    struct upstream_conn *c = mem_try_zalloc(sizeof(*c));
    if (!c) {
        close(fd);
        return -ENOMEM;
    }
    c->magic = UPSTREAM_CONN_MAGIC;
    c->upstream = u;
    c->server = s;
    c->connected = c->may_write = r == 0;
    buf_init(&c->out, 0);
    buf_init(&c->in, 0);
    buf_init(&c->cgi, UPSTREAM_HEAD_BYTES_MAX);
    list_init(&c->link);
    r = loop_watch_add(u->thread->loop, &c->watch, fd, LOOP_READ | LOOP_WRITE | LOOP_EDGE,
                       upstream_conn_on_ready);
    if (r < 0) {
        close(fd);
        mem_free(c);
        return r;
    }
    s->count.connections++;
    *ret = c;
    return 0;
}

/* An idle connection that is still open: its end may be in this batch of events, not yet told. What
 * is sent into a closed one cannot be sent again unless its method is idempotent. */
static struct upstream_conn *take_idle(struct upstream_server *s)
{
    while (!list_empty(&s->idle)) {
        struct upstream_conn *c = LIST_ENTRY(s->idle.next, struct upstream_conn, link);
        char byte;
        if (recv(c->watch.fd, &byte, 1, MSG_PEEK) >= 0 ||
            (errno != EAGAIN && errno != EWOULDBLOCK)) {
            upstream_conn_free(c);
            continue;
        }
        list_remove(&c->link);
        s->n_idle--;
        c->reused = c->may_write = true;
        c->may_read = false;
        s->count.reused++;
        return c;
    }
    return NULL;
}

/* Nothing that speaks against the server. */
static bool is_our_fault(int r)
{
    return r == -ENOMEM || r == -ENOBUFS || r == -EMFILE || r == -ENFILE || r == -EADDRNOTAVAIL;
}

static void postpone(struct upstream_server *s, uint64_t now, int r)
{
    s->full_until_ns = now + PAUSE_MS * NS_PER_MS;
    log_error("cannot make a connection to fastcgi server %s: %s", s->text, strerror(-r));
}

struct upstream_conn *upstream_conn_take(struct upstream *u, struct exchange *x, uint64_t now)
{
    struct upstream_server *s;

    while (x->upstream->connects < UPSTREAM_CONNECTS_MAX &&
           (s = upstream_server_pick(u, now)) != NULL) {
        struct upstream_conn *c = take_idle(s);
        int r = 0;
        if (!c) {
            x->upstream->connects++;
            r = conn_open(u, s, &c);
        }
        if (r == 0) {
            c->probe = s->probing = s->out_until_ns != 0;
            return c;
        }
        if (r == -EAGAIN)
            s->full_until_ns = now + PAUSE_MS * NS_PER_MS; /* unix: the backlog is full */
        else if (is_our_fault(r))
            postpone(s, now, r);
        else
            upstream_server_failed(u, s, strerror(-r));
    }
    return NULL;
}

void upstream_conn_abandon(struct upstream_conn *c)
{
    c->exchange = NULL;
    if (!c->connected || !c->server->limit || c->hangup || c->may_read || buf_length(&c->out) > 0 ||
        !c->stdin_closed) {
        upstream_conn_free(c);
        return;
    }
    c->state = UPSTREAM_ABANDONED;
    upstream_conn_await(c, c->upstream->config.response_timeout_ms);
}

void upstream_conn_keep(struct upstream_conn *c)
{
    struct upstream *u = c->upstream;

    CHECK(c->state == UPSTREAM_RUNNING && !c->exchange);
    list_remove(&c->link);
    c->state = UPSTREAM_IDLE;
    c->server->occupied--;
    c->server->n_idle++;
    /* The one that was idle longest is used next: what its child does behind
     * fastcgi_finish_request(), of which nothing is heard, is most likely over. */
    list_push_back(&c->server->idle, &c->link);
    upstream_conn_await(c, u->config.idle_timeout_ms);
    upstream_due(u);
}

void upstream_free_idle(struct upstream_server *s)
{
    while (!list_empty(&s->idle))
        upstream_conn_free(LIST_ENTRY(s->idle.next, struct upstream_conn, link));
}
