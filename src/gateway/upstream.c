/* FastCGI servers as a backend: see upstream.h. */
#include "gateway/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "http/fastcgi.h"

enum {
    UPSTREAM_CONN_MAGIC = 0x55505354,
    READ_BYTES = 64 * 1024,
    STDIN_BYTES = 32 * 1024,
    HEAD_BYTES_MAX = 256 * 1024,
    PIECES_MAX = 32,
    TRIES_MAX = 8,
};

/* --- servers ---------------------------------------------------------------------------------- */

struct server {
    struct sockaddr_storage address;
    socklen_t address_bytes;
    struct str text;
    uint32_t weight, limit; /* limit 0: none */
    int32_t current;        /* smooth weighted round robin */
    uint32_t active;        /* connections with a request */
    struct list idle;       /* struct upstream_conn */
    uint32_t n_idle;
    uint32_t failures;     /* in a row */
    uint64_t out_until_ns; /* 0: in service */
    bool probing;          /* half open: one request is out to see */
};

struct upstream {
    struct gateway_thread *thread;
    const struct config_fastcgi *config;
    struct server *servers;
    uint32_t n_servers;
    struct list queue; /* struct exchange, by link */
    uint32_t n_queue;
    struct list active;      /* struct upstream_conn */
    struct loop_timer retry; /* a server comes back, the queue goes on */
    struct upstream_counters count;
};

struct upstream_conn {
    uint32_t magic;
    struct list link; /* server->idle or upstream->active */
    struct loop_watch watch;
    struct loop_timer timer;
    struct upstream *upstream;
    struct server *server;
    struct exchange *exchange; /* NULL: idle */
    bool connected, reused, may_read, may_write, head_done, any_bytes, sent_bytes, reading;
    struct buf out, in, cgi; /* cgi: response head so far */
    uint64_t body_at, body_end;
    bool stdin_closed;
    struct fastcgi_reader reader;
};

/* What an exchange carries through retries: everything but the body, which the exchange has. */
struct upstream_request {
    struct buf params;
    struct upstream *upstream;
    struct upstream_conn *conn; /* NULL: queued */
    uint32_t tries;
};

static void start(struct upstream *u, struct exchange *x);
static void run_queue(struct upstream *u);

static int resolve(struct server *s, const struct config_listen *address)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
    char host[256], port[8];

    if (address->kind == CONFIG_LISTEN_UNIX) {
        struct sockaddr_un *un = (struct sockaddr_un *)&s->address;
        if (address->path.n >= sizeof(un->sun_path))
            return -ENAMETOOLONG;
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, address->path.p, address->path.n);
        s->address_bytes = sizeof(*un);
        return 0;
    }
    snprintf(host, sizeof(host), "%.*s", STR_ARG(address->host));
    snprintf(port, sizeof(port), "%u", address->port);
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -EHOSTUNREACH;
    memcpy(&s->address, found->ai_addr, found->ai_addrlen);
    s->address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

int upstream_new(struct gateway_thread *t, const struct config_fastcgi *config,
                 struct upstream **ret)
{
    struct upstream *u = mem_zalloc(sizeof(*u));
    int r = 0;

    CHECK(config->n_servers > 0);
    u->thread = t;
    u->config = config;
    u->n_servers = config->n_servers;
    u->servers = mem_zalloc(config->n_servers * sizeof(u->servers[0]));
    list_init(&u->queue);
    list_init(&u->active);
    for (uint32_t i = 0; i < u->n_servers; i++) {
        struct server *s = &u->servers[i];
        const struct config_fastcgi_server *c = &config->servers[i];
        list_init(&s->idle);
        s->weight = c->weight ? c->weight : 1;
        /* The limit holds for all threads together. */
        s->limit = c->connections
                       ? (c->connections + t->gateway->n_threads - 1) / t->gateway->n_threads
                       : 0;
        s->text = c->address.text;
        if ((r = resolve(s, &c->address)) < 0)
            break;
    }
    if (r < 0) {
        upstream_free(u);
        return r;
    }
    *ret = u;
    return 0;
}

static bool in_service(const struct server *s, uint64_t now)
{
    return s->out_until_ns == 0 || (!s->probing && now >= s->out_until_ns);
}

static bool has_room(const struct server *s)
{
    return s->limit == 0 || s->active < s->limit;
}

/* Fewest connections in relation to the weight; ties in turn. */
static struct server *pick_least(struct upstream *u, uint64_t now)
{
    struct server *best = NULL;

    for (uint32_t i = 0; i < u->n_servers; i++) {
        struct server *s = &u->servers[i];
        if (!in_service(s, now) || !has_room(s))
            continue;
        if (!best || (uint64_t)s->active * best->weight < (uint64_t)best->active * s->weight)
            best = s;
    }
    return best;
}

/* Smooth weighted round robin: each turn everybody gains its weight, the richest pays the sum. */
static struct server *pick_in_turn(struct upstream *u, uint64_t now)
{
    struct server *best = NULL;
    int32_t sum = 0;

    for (uint32_t i = 0; i < u->n_servers; i++) {
        struct server *s = &u->servers[i];
        if (!in_service(s, now) || !has_room(s))
            continue;
        s->current += (int32_t)s->weight;
        sum += (int32_t)s->weight;
        if (!best || s->current > best->current)
            best = s;
    }
    if (best)
        best->current -= sum;
    return best;
}

static bool any_in_service(const struct upstream *u, uint64_t now)
{
    for (uint32_t i = 0; i < u->n_servers; i++)
        if (in_service(&u->servers[i], now))
            return true;
    return false;
}

static void server_failed(struct upstream *u, struct server *s, const char *why)
{
    const struct config_fastcgi *c = u->config;

    s->failures++;
    s->probing = false;
    if (s->failures < c->max_fails && s->out_until_ns == 0)
        return;
    uint32_t over = s->failures - (s->failures < c->max_fails ? s->failures : c->max_fails);
    uint64_t pause_ms = c->backoff_ms << (over < 16 ? over : 16);
    if (pause_ms > c->max_backoff_ms)
        pause_ms = c->max_backoff_ms;
    if (s->out_until_ns == 0)
        u->count.ejected++;
    s->out_until_ns = loop_now_ns(u->thread->loop) + pause_ms * NS_PER_MS;
    log_warn("fastcgi server %.*s: %s; left out for %" PRIu64 " ms", STR_ARG(s->text), why,
             pause_ms);
}

static void server_succeeded(struct server *s)
{
    if (s->out_until_ns)
        log_notice("fastcgi server %.*s is back", STR_ARG(s->text));
    s->failures = 0;
    s->out_until_ns = 0;
    s->probing = false;
}

/* --- connections ------------------------------------------------------------------------------ */

static void conn_free(struct upstream_conn *c)
{
    struct gateway_thread *t = c->upstream->thread;

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    loop_timer_cancel(t->loop, &c->timer);
    if (c->watch.fd >= 0) {
        int fd = c->watch.fd;
        loop_watch_remove(t->loop, &c->watch);
        close(fd);
    }
    if (c->exchange)
        c->server->active--;
    else
        c->server->n_idle--;
    list_remove(&c->link);
    buf_fini(&c->out);
    buf_fini(&c->in);
    buf_fini(&c->cgi);
    c->magic = 0;
    mem_free(c);
}

static bool idempotent(enum http_method m)
{
    return m == HTTP_GET || m == HTTP_HEAD || m == HTTP_PUT || m == HTTP_DELETE ||
           m == HTTP_OPTIONS;
}

static void detach(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    x->upstream = NULL;
    buf_fini(&q->params);
    mem_free(q);
}

/* This connection is lost with its request. The request goes elsewhere if it may, else it is
 * answered. */
static void conn_failed(struct upstream_conn *c, int status, const char *why, bool server_fault)
{
    struct upstream *u = c->upstream;
    struct exchange *x = c->exchange;
    struct server *s = c->server;
    bool answered = c->head_done;
    bool stale = c->reused && !c->any_bytes;
    bool again = !answered && !c->any_bytes && x->upstream->tries < TRIES_MAX && status != 504 &&
                 (!c->sent_bytes || idempotent(x->method));
    char id[REQUEST_ID_BYTES + 1];

    exchange_request_id(x, id);
    x->upstream->conn = NULL;
    conn_free(c);
    /* A kept connection that the server closed meanwhile says nothing about the server. */
    if (server_fault && !stale)
        server_failed(u, s, why);
    if (again) {
        u->count.retried++;
        start(u, x);
    } else {
        log_error("request %s: fastcgi server %.*s: %s", id, STR_ARG(s->text), why);
        detach(x);
        respond_lost(x, status);
    }
    run_queue(u);
}

static void on_timeout(struct loop_timer *timer)
{
    struct upstream_conn *c = CONTAINER_OF(timer, struct upstream_conn, timer);

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    if (!c->exchange) {
        conn_free(c);
        return;
    }
    /* Waiting for our client, not for the server. */
    if (c->exchange->stalled) {
        loop_timer_set(c->upstream->thread->loop, timer,
                       loop_now_ns(c->upstream->thread->loop) +
                           c->upstream->config->response_timeout_ms * NS_PER_MS,
                       on_timeout);
        return;
    }
    c->upstream->count.timeouts++;
    conn_failed(c, c->connected ? 504 : 502,
                c->connected ? "no answer within response_timeout"
                             : "no connection within connect_timeout",
                !c->connected);
}

static void await(struct upstream_conn *c, uint64_t timeout_ms)
{
    struct loop *loop = c->upstream->thread->loop;
    loop_timer_set(loop, &c->timer, loop_now_ns(loop) + timeout_ms * NS_PER_MS, on_timeout);
}

/* --- sending ---------------------------------------------------------------------------------- */

/* The next STDIN record into `out`. */
static int refill(struct upstream_conn *c)
{
    const struct exchange *x = c->exchange;
    char header[FASTCGI_HEADER_BYTES];
    uint64_t left = c->body_end - c->body_at;
    uint32_t n = left < STDIN_BYTES ? (uint32_t)left : STDIN_BYTES;

    fastcgi_stdin_header(header, n);
    c->stdin_closed = n == 0;
    int r = buf_append(&c->out, header, sizeof(header));
    if (r < 0 || n == 0)
        return r;
    if ((r = buf_reserve(&c->out, n)) < 0)
        return r;
    if (x->body_sink == BODY_SPOOL) {
        ssize_t got = pread(x->body_fd, buf_space(&c->out), n, (off_t)c->body_at);
        if (got != (ssize_t)n)
            return got < 0 ? -errno : -EIO;
    } else {
        memcpy(buf_space(&c->out), buf_view(&x->body).p + c->body_at, n);
    }
    buf_commit(&c->out, n);
    c->body_at += n;
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
            /* The end of the stream goes with the last bytes. */
            if (!c->stdin_closed && c->body_at == c->body_end && (r = refill(c)) < 0)
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
        c->sent_bytes = true;
        if ((size_t)n < v.n)
            c->may_write = false;
        buf_consume(&c->out, (size_t)n);
    }
    return 0;
}

/* --- receiving -------------------------------------------------------------------------------- */

struct batch {
    struct channel_piece pieces[PIECES_MAX];
    int n;
    bool ended;
    uint16_t status;
};

static void add_piece(struct batch *b, enum channel_piece_type type, struct str data)
{
    struct channel_piece *p = &b->pieces[b->n++];

    *p = (struct channel_piece){ .type = type, .n_iov = data.n ? 1 : 0, .bytes = data.n };
    p->iov[0] = (struct iovec){ (void *)(uintptr_t)data.p, data.n };
}

/* STDOUT: first the head, then the body. 0, or -EPROTO. `lines` lives until the batch is answered.
 */
static int take_stdout(struct upstream_conn *c, struct batch *b, struct str data, struct buf *lines)
{
    if (c->head_done) {
        add_piece(b, CHANNEL_BODY, data);
        return 0;
    }
    size_t before = buf_length(&c->cgi);
    if (before + data.n > HEAD_BYTES_MAX + READ_BYTES || buf_append(&c->cgi, data.p, data.n) < 0)
        return -EPROTO;
    uint16_t status;
    int taken = cgi_parse_head(buf_view(&c->cgi), lines, &status);
    if (taken < 0)
        return taken;
    if (taken == 0)
        return buf_length(&c->cgi) > HEAD_BYTES_MAX ? -EPROTO : 0;
    c->head_done = true;
    add_piece(b, CHANNEL_HEAD, buf_view(lines));
    b->pieces[b->n - 1].status = status;
    /* The rest of this record is body; it lies in `data`, behind what was taken before it. */
    struct str rest = str_skip(data, (size_t)taken - before);
    if (rest.n)
        add_piece(b, CHANNEL_BODY, rest);
    return 0;
}

static void log_stderr(struct upstream_conn *c, struct str data)
{
    char id[REQUEST_ID_BYTES + 1], prefix[96];

    exchange_request_id(c->exchange, id);
    snprintf(prefix, sizeof(prefix), "request %s: fastcgi stderr: ", id);
    log_text(LOG_ERR, str_from(prefix), data);
    c->upstream->count.stderr_lines++;
}

/* What is in `in` becomes one batch of pieces. Returns the bytes taken or -EPROTO. */
static ssize_t read_events(struct upstream_conn *c, struct batch *b, struct buf *lines)
{
    struct str in = buf_view(&c->in);
    size_t at = 0;

    b->n = 0;
    b->ended = false;
    while (b->n + 3 < PIECES_MAX && !b->ended) {
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

static void conn_end_request(struct upstream_conn *c)
{
    struct upstream *u = c->upstream;
    struct server *s = c->server;
    struct exchange *x = c->exchange;
    bool keep = u->config->keep_alive && s->limit && c->stdin_closed && buf_length(&c->out) == 0 &&
                buf_length(&c->in) == 0;

    server_succeeded(s);
    detach(x);
    if (!keep) {
        conn_free(c);
    } else {
        list_remove(&c->link);
        c->exchange = NULL;
        s->active--;
        s->n_idle++;
        list_push_front(&s->idle, &c->link);
        buf_release(&c->in);
        buf_release(&c->out);
        await(c, u->config->idle_timeout_ms);
    }
    run_queue(u);
    conn_advance(x->conn);
}

/* True: the connection is still there. */
static bool deliver(struct upstream_conn *c)
{
    struct buf lines;
    struct batch b;
    bool alive = true;

    buf_init(&lines, HEAD_BYTES_MAX + READ_BYTES);
    while (buf_length(&c->in) && !c->exchange->stalled) {
        ssize_t taken = read_events(c, &b, &lines);
        if (taken < 0) {
            conn_failed(c, 502, "its answer is not FastCGI or has no CGI head", true);
            alive = false;
            break;
        }
        if (taken == 0 && b.n == 0)
            break;
        respond_pieces_now(c->exchange, b.pieces, b.n);
        buf_consume(&c->in, (size_t)taken);
        if (b.ended) {
            conn_end_request(c);
            alive = false;
            break;
        }
        /* Enough for a slow client: stop reading until it has taken some. */
        if (!respond_has_room(c->exchange))
            c->exchange->stalled = true;
    }
    buf_fini(&lines);
    return alive;
}

/* An idle connection has news: only its end is expected. */
static void on_idle_news(struct upstream_conn *c)
{
    conn_free(c);
}

static void receive(struct upstream_conn *c)
{
    struct upstream *u = c->upstream;

    while (c->may_read && !c->exchange->stalled) {
        if (buf_reserve(&c->in, READ_BYTES) < 0) {
            conn_failed(c, 502, "out of memory", false);
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
                               : strerror(errno),
                        true);
            return;
        }
        c->any_bytes = true;
        buf_commit(&c->in, (size_t)n);
        await(c, u->config->response_timeout_ms);
        if (!deliver(c))
            return;
    }
}

static void advance(struct upstream_conn *c)
{
    int r = send_request(c);

    /* A server may answer and close before it has read all: look at the answer first. */
    if (r < 0 && !c->may_read) {
        conn_failed(c, 502, strerror(-r), true);
        return;
    }
    if (r < 0) {
        c->may_write = false;
        c->stdin_closed = true;
        c->out.head = c->out.tail = 0;
    }
    receive(c);
}

static void on_ready(struct loop_watch *w, unsigned events)
{
    struct upstream_conn *c = CONTAINER_OF(w, struct upstream_conn, watch);
    int error = 0;
    socklen_t n = sizeof(error);

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    if (!c->exchange) {
        if (events & (LOOP_READ | LOOP_HANGUP))
            on_idle_news(c);
        return;
    }
    if (!c->connected) {
        if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
            error = errno;
        if (error) {
            c->upstream->count.failed_connects++;
            conn_failed(c, 502, strerror(error), true);
            return;
        }
        if (!(events & LOOP_WRITE))
            return;
        c->connected = true;
        await(c, c->upstream->config->response_timeout_ms);
    }
    c->may_read |= (events & (LOOP_READ | LOOP_HANGUP)) != 0;
    c->may_write |= (events & LOOP_WRITE) != 0;
    advance(c);
}

/* --- requests --------------------------------------------------------------------------------- */

static int fill_out(struct upstream_conn *c, struct exchange *x)
{
    const struct upstream *u = c->upstream;

    c->exchange = x;
    c->head_done = c->any_bytes = c->sent_bytes = c->stdin_closed = false;
    c->reader = (struct fastcgi_reader){ 0 };
    c->cgi.head = c->cgi.tail = 0;
    c->body_at = 0;
    c->body_end = x->body_sink == BODY_MEMORY || x->body_sink == BODY_SPOOL ? x->body_bytes : 0;
    int r = fastcgi_put_begin(&c->out, u->config->keep_alive && c->server->limit);
    if (r == 0)
        r = fastcgi_put_params(&c->out, buf_view(&x->upstream->params));
    if (r == 0)
        r = refill(c);
    if (r == 0 && !c->stdin_closed && c->body_at == c->body_end)
        r = refill(c);
    return r;
}

static int conn_open(struct upstream *u, struct server *s, struct upstream_conn **ret)
{
    int fd = socket(s->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;

    if (fd < 0)
        return -errno;
    if (s->address.ss_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    int r = connect(fd, (struct sockaddr *)&s->address, s->address_bytes) < 0 ? -errno : 0;
    if (r < 0 && r != -EINPROGRESS) {
        close(fd);
        return r;
    }
    struct upstream_conn *c = mem_zalloc(sizeof(*c));
    c->magic = UPSTREAM_CONN_MAGIC;
    c->upstream = u;
    c->server = s;
    c->connected = c->may_write = r == 0;
    buf_init(&c->out, 0);
    buf_init(&c->in, 0);
    buf_init(&c->cgi, 0);
    list_init(&c->link);
    r = loop_watch_add(u->thread->loop, &c->watch, fd, LOOP_READ | LOOP_WRITE | LOOP_EDGE,
                       on_ready);
    if (r < 0) {
        close(fd);
        mem_free(c);
        return r;
    }
    u->count.connections++;
    *ret = c;
    return 0;
}

static struct upstream_conn *take_idle(struct upstream *u, struct server *s)
{
    if (list_empty(&s->idle))
        return NULL;
    struct upstream_conn *c = LIST_ENTRY(s->idle.next, struct upstream_conn, link);
    list_remove(&c->link);
    s->n_idle--;
    c->reused = true;
    c->may_read = false;
    u->count.reused++;
    return c;
}

static void on_retry(struct loop_timer *timer)
{
    run_queue(CONTAINER_OF(timer, struct upstream, retry));
}

static void wait_in_queue(struct upstream *u, struct exchange *x)
{
    uint64_t soon = UINT64_MAX;

    list_push_back(&u->queue, &x->link);
    u->n_queue++;
    for (uint32_t i = 0; i < u->n_servers; i++)
        if (u->servers[i].out_until_ns && u->servers[i].out_until_ns < soon)
            soon = u->servers[i].out_until_ns;
    if (soon != UINT64_MAX)
        loop_timer_set(u->thread->loop, &u->retry, soon + NS_PER_MS, on_retry);
}

static void give_up(struct upstream *u, struct exchange *x, int status)
{
    u->count.refused++;
    detach(x);
    respond_status(x, status, STR("Retry-After: 1\r\n"));
}

/* Sends the request to a server, or lets it wait for one. */
static void start(struct upstream *u, struct exchange *x)
{
    uint64_t now = loop_now_ns(u->thread->loop);
    struct upstream_conn *c = NULL;

    while (x->upstream->tries < TRIES_MAX) {
        struct server *s = u->config->balance == CONFIG_BALANCE_LEAST ? pick_least(u, now)
                                                                      : pick_in_turn(u, now);
        if (!s && !any_in_service(u, now)) {
            give_up(u, x, 503);
            return;
        }
        if (!s) {
            if (u->n_queue >= u->config->queue_size)
                give_up(u, x, 503);
            else
                wait_in_queue(u, x);
            return;
        }
        x->upstream->tries++;
        s->probing = s->out_until_ns != 0;
        c = take_idle(u, s);
        int r = c ? 0 : conn_open(u, s, &c);
        if (r == 0)
            break;
        u->count.failed_connects++;
        server_failed(u, s, strerror(-r));
        c = NULL;
    }
    if (!c) {
        give_up(u, x, 502);
        return;
    }
    x->upstream->conn = c;
    c->server->active++;
    list_push_back(&u->active, &c->link);
    int r = fill_out(c, x);
    if (r < 0) {
        conn_failed(c, 502, strerror(-r), false);
        return;
    }
    await(c, c->connected ? u->config->response_timeout_ms : u->config->connect_timeout_ms);
    if (c->connected) {
        c->may_write = true;
        advance(c);
    }
}

static void run_queue(struct upstream *u)
{
    uint64_t now = loop_now_ns(u->thread->loop);

    while (!list_empty(&u->queue)) {
        bool room = false;
        for (uint32_t i = 0; i < u->n_servers && !room; i++)
            room = in_service(&u->servers[i], now) && has_room(&u->servers[i]);
        if (!room && any_in_service(u, now))
            return;
        struct exchange *x = LIST_ENTRY(u->queue.next, struct exchange, link);
        list_remove(&x->link);
        u->n_queue--;
        start(u, x);
    }
}

/* "Accept-Language" -> "HTTP_ACCEPT_LANGUAGE", into `out` of name.n + 5 bytes. */
static struct str header_variable(struct str name, char *out)
{
    memcpy(out, "HTTP_", 5);
    for (size_t i = 0; i < name.n; i++) {
        char ch = name.p[i];
        out[5 + i] = ch >= 'a' && ch <= 'z' ? (char)(ch - 0x20) : ch == '-' ? '_' : ch;
    }
    return (struct str){ out, name.n + 5 };
}

/* Fields of one name become one parameter, as RFC 9110 5.3 allows and nginx does. */
static int put_header(struct buf *params, const struct channel_pair *headers, uint32_t n,
                      uint32_t at)
{
    char name[512];
    struct str key = headers[at].name;
    bool cookie = str_eq_nocase(key, STR("Cookie"));
    struct buf joined;
    int r = 0;

    if (key.n + 5 > sizeof(name))
        return 0;
    for (uint32_t i = 0; i < at; i++)
        if (str_eq_nocase(headers[i].name, key))
            return 0; /* told already */
    buf_init(&joined, 0);
    for (uint32_t i = at; i < n && r == 0; i++) {
        if (!str_eq_nocase(headers[i].name, key))
            continue;
        if (i > at)
            r = buf_append(&joined, cookie ? "; " : ", ", 2);
        if (r == 0)
            r = buf_append(&joined, headers[i].value.p, headers[i].value.n);
    }
    if (r == 0)
        r = fastcgi_put_param(params, header_variable(key, name), buf_view(&joined));
    buf_fini(&joined);
    return r;
}

static int put_params(struct buf *params, const struct channel_request *r,
                      const struct channel_pair *headers)
{
    char length[24] = "", remote_port[8], server_port[8];
    bool https = r->flags & CHANNEL_HTTPS;
    struct str content_type = STR_NONE;
    int e = 0;

    if (r->content_length >= 0)
        snprintf(length, sizeof(length), "%" PRId64, r->content_length);
    snprintf(remote_port, sizeof(remote_port), "%u", r->remote_port);
    snprintf(server_port, sizeof(server_port), "%u", r->server_port);
    for (uint32_t i = 0; i < r->n_headers; i++)
        if (str_eq_nocase(headers[i].name, STR("Content-Type")))
            content_type = headers[i].value;
    const struct channel_pair fixed[] = {
        { STR("QUERY_STRING"), r->query },
        { STR("REQUEST_METHOD"), r->method },
        { STR("CONTENT_TYPE"), content_type },
        { STR("CONTENT_LENGTH"), str_from(length) },
        { STR("SCRIPT_FILENAME"), r->script_filename },
        { STR("SCRIPT_NAME"), r->script_name },
        { STR("PATH_INFO"), r->path_info },
        { STR("REQUEST_URI"), r->target },
        { STR("DOCUMENT_URI"), r->script_name },
        { STR("DOCUMENT_ROOT"), r->document_root },
        { STR("SERVER_PROTOCOL"), r->protocol },
        { STR("REQUEST_SCHEME"), https ? STR("https") : STR("http") },
        { STR("GATEWAY_INTERFACE"), STR("CGI/1.1") },
        { STR("SERVER_SOFTWARE"), STR("sapid") },
        { STR("REMOTE_ADDR"), r->remote_addr },
        { STR("REMOTE_PORT"), str_from(remote_port) },
        { STR("SERVER_ADDR"), r->server_addr },
        { STR("SERVER_PORT"), str_from(server_port) },
        { STR("SERVER_NAME"), r->server_name },
        { STR("REDIRECT_STATUS"), STR("200") },
        { STR("HTTP_HOST"), r->host },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(fixed) && e == 0; i++) {
        if (fixed[i].value.n == 0 &&
            (str_eq(fixed[i].name, STR("PATH_INFO")) || str_eq(fixed[i].name, STR("HTTP_HOST"))))
            continue;
        e = fastcgi_put_param(params, fixed[i].name, fixed[i].value);
    }
    if (https && e == 0)
        e = fastcgi_put_param(params, STR("HTTPS"), STR("on"));
    for (uint32_t i = 0; i < r->n_headers && e == 0; i++)
        if (!str_eq_nocase(headers[i].name, STR("Host")))
            e = put_header(params, headers, r->n_headers, i);
    return e;
}

void upstream_push(struct upstream *u, struct exchange *x, const struct channel_request *r,
                   const struct channel_pair *headers)
{
    struct upstream_request *q = mem_try_zalloc(sizeof(*q));

    CHECK(!x->upstream);
    if (!q) {
        respond_status(x, 503, STR_NONE);
        return;
    }
    buf_init(&q->params, 0);
    q->upstream = u;
    x->upstream = q;
    u->count.requests++;
    if (put_params(&q->params, r, headers) < 0) {
        give_up(u, x, 503);
        return;
    }
    start(u, x);
}

bool upstream_withdraw(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    if (!q || q->conn)
        return false;
    list_remove(&x->link);
    q->upstream->n_queue--;
    detach(x);
    return true;
}

void upstream_forget(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    if (!q || upstream_withdraw(x))
        return;
    struct upstream *u = q->upstream;
    struct upstream_conn *c = q->conn;
    c->server->probing = false;
    conn_free(c);
    detach(x);
    run_queue(u);
}

void upstream_resume(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    if (!q || !q->conn)
        return;
    struct upstream_conn *c = q->conn;
    await(c, c->upstream->config->response_timeout_ms);
    if (buf_length(&c->in) && !deliver(c))
        return;
    receive(c);
}

void upstream_free(struct upstream *u)
{
    if (!u)
        return;
    CHECK(list_empty(&u->queue));
    for (uint32_t i = 0; i < u->n_servers; i++)
        while (!list_empty(&u->servers[i].idle))
            conn_free(LIST_ENTRY(u->servers[i].idle.next, struct upstream_conn, link));
    loop_timer_cancel(u->thread->loop, &u->retry);
    mem_free(u->servers);
    mem_free(u);
}

void upstream_count(const struct upstream *u, struct upstream_counters *ret)
{
    *ret = u->count;
}
