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
    UPSTREAM_MAGIC = 0x55505347,
    UPSTREAM_CONN_MAGIC = 0x55505354,
    READ_BYTES = 64 * 1024,
    STDIN_BYTES = 32 * 1024,
    HEAD_BYTES_MAX = 256 * 1024,
    PIECES_MAX = 32,
    ADDRESSES_MAX = 4,
    CONNECTS_MAX = 8,   /* of one request, before it is given up */
    FULL_PAUSE_MS = 10, /* a server whose backlog is full is asked again */
    WAIT_OUT_MS = 1000, /* a break this short is waited for; a longer one is answered 503 at once */
};

/* --- servers --------------------------------------------------------------------------------- */

struct address_of_server {
    struct sockaddr_storage storage;
    socklen_t bytes;
};

struct server {
    struct address_of_server addresses[ADDRESSES_MAX];
    uint32_t n_addresses, at; /* 0: the name was not found; `at` is tried next */
    char *text;
    uint32_t weight, limit; /* limit 0: none */
    int32_t current;        /* smooth weighted round robin */
    uint32_t occupied;      /* connections with a request, and those whose script may still run */
    struct list idle;       /* struct upstream_conn */
    uint32_t failures;      /* in a row */
    uint64_t out_until_ns;  /* 0: in service */
    uint64_t full_until_ns; /* its backlog was full */
    bool probing;           /* half open: one request is out to see */
};

struct upstream {
    uint32_t magic;
    struct list link; /* thread->upstreams */
    struct gateway_thread *thread;
    uint32_t refs;
    struct config_fastcgi config; /* its `servers` is not used: the servers' texts are ours */
    struct server *servers;
    struct list queue; /* struct exchange, by link */
    uint32_t n_queue;
    struct list busy;        /* struct upstream_conn: with a request, or abandoned */
    struct loop_timer retry; /* a server comes back: the queue goes on */
    bool due;                /* room may have come: look at the queue after this batch */
    struct upstream_counters count;
};

struct upstream_conn {
    uint32_t magic;
    enum { WITH_REQUEST, IDLE, ABANDONED } state;
    struct list link; /* server->idle or upstream->busy */
    struct loop_watch watch;
    struct loop_timer timer;
    struct upstream *upstream;
    struct server *server;
    struct exchange *exchange; /* WITH_REQUEST */
    bool connected, reused, may_read, may_write, hangup;
    bool probe;     /* connecting decides about the server */
    bool kept;      /* the server was asked to keep it open */
    bool sent;      /* some of the request */
    bool cut_short; /* the server did not take all of the request */
    bool any_bytes; /* of an answer */
    bool head_done; /* and passed on */
    struct buf out, in;
    struct buf cgi;   /* response head so far */
    uint64_t ends_ns; /* request_timeout; UINT64_MAX: none */
    uint64_t body_at, body_end;
    bool stdin_closed;
    struct fastcgi_reader reader;
};

/* What an exchange carries through retries: everything but the body, which the exchange has. */
struct upstream_request {
    struct buf params;
    struct upstream *upstream;
    struct upstream_conn *conn; /* NULL: queued */
    uint32_t connects, losses;
    uint64_t queue_timeout_ms, request_timeout_ms; /* of the pool; 0: none */
};

static void start(struct upstream *u, struct exchange *x);

static void resolve(struct server *s, const struct config_listen *address)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *found;
    char host[256], port[8];

    if (address->kind == CONFIG_LISTEN_UNIX) {
        struct sockaddr_un *un = (struct sockaddr_un *)&s->addresses[0].storage;
        CHECK(address->path.n < sizeof(un->sun_path));
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, address->path.p, address->path.n);
        s->addresses[0].bytes = sizeof(*un);
        s->n_addresses = 1;
        return;
    }
    snprintf(host, sizeof(host), "%.*s", STR_ARG(address->host));
    snprintf(port, sizeof(port), "%u", address->port);
    int r = getaddrinfo(host, port, &hints, &found);
    if (r != 0) {
        log_error("fastcgi server %s: %s", s->text, gai_strerror(r));
        return;
    }
    for (struct addrinfo *a = found; a && s->n_addresses < ADDRESSES_MAX; a = a->ai_next) {
        struct address_of_server *to = &s->addresses[s->n_addresses++];
        memcpy(&to->storage, a->ai_addr, a->ai_addrlen);
        to->bytes = a->ai_addrlen;
    }
    freeaddrinfo(found);
}

/* What one thread may have of `connections`: the shares of all threads are `connections` together.
 */
static uint32_t share(const struct gateway_thread *t, uint32_t connections)
{
    uint32_t threads = t->gateway->n_threads;
    uint32_t mine = connections / threads + (t->index < connections % threads);

    return connections && mine == 0 ? 1 : mine; /* the supervisor refuses fewer than threads */
}

static bool same_group(const struct upstream *u, const struct config_fastcgi *c)
{
    const struct config_fastcgi *mine = &u->config;

    if (mine->n_servers != c->n_servers || mine->balance != c->balance ||
        mine->keep_alive != c->keep_alive || mine->max_fails != c->max_fails ||
        mine->queue_size != c->queue_size || mine->connect_timeout_ms != c->connect_timeout_ms ||
        mine->response_timeout_ms != c->response_timeout_ms ||
        mine->idle_timeout_ms != c->idle_timeout_ms || mine->backoff_ms != c->backoff_ms ||
        mine->max_backoff_ms != c->max_backoff_ms)
        return false;
    for (uint32_t i = 0; i < c->n_servers; i++) {
        const struct config_fastcgi_server *s = &c->servers[i];
        if (!str_eq(str_from(u->servers[i].text), s->address.text) ||
            u->servers[i].weight != s->weight ||
            u->servers[i].limit != share(u->thread, s->connections))
            return false;
    }
    return true;
}

static struct upstream *make(struct gateway_thread *t, const struct config_fastcgi *config)
{
    struct upstream *u = mem_zalloc(sizeof(*u));

    CHECK(config->n_servers > 0);
    u->magic = UPSTREAM_MAGIC;
    u->thread = t;
    u->config = *config;
    u->config.servers = NULL;
    u->servers = mem_zalloc(config->n_servers * sizeof(u->servers[0]));
    list_init(&u->queue);
    list_init(&u->busy);
    for (uint32_t i = 0; i < config->n_servers; i++) {
        struct server *s = &u->servers[i];
        const struct config_fastcgi_server *c = &config->servers[i];
        list_init(&s->idle);
        s->weight = c->weight;
        s->limit = share(t, c->connections);
        s->text = mem_strndup(c->address.text);
        resolve(s, &c->address);
    }
    list_push_back(&t->upstreams, &u->link);
    return u;
}

struct upstream *upstream_get(struct gateway_thread *t, const struct config_fastcgi *config)
{
    struct upstream *u = NULL;

    LIST_FOR_EACH(it, &t->upstreams)
        if (same_group(LIST_ENTRY(it, struct upstream, link), config))
            u = LIST_ENTRY(it, struct upstream, link);
    if (!u)
        u = make(t, config);
    u->refs++;
    return u;
}

/* --- which server ---------------------------------------------------------------------------- */

static bool in_service(const struct server *s, uint64_t now)
{
    return s->out_until_ns == 0 || (!s->probing && now >= s->out_until_ns);
}

static bool can_take(const struct server *s, uint64_t now)
{
    return in_service(s, now) && now >= s->full_until_ns &&
           (s->limit == 0 || s->occupied < s->limit);
}

/* Fewest running requests in relation to the weight; among equals the one that gets its turn. */
static bool has_less(const struct server *a, const struct server *b)
{
    uint64_t left = (uint64_t)a->occupied * b->weight, right = (uint64_t)b->occupied * a->weight;

    return left != right ? left < right : a->current > b->current;
}

/* Smooth weighted round robin: each turn everybody gains its weight, and the chosen pays the sum.
 */
static struct server *pick(struct upstream *u, uint64_t now)
{
    struct server *best = NULL;
    int32_t sum = 0;

    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        struct server *s = &u->servers[i];
        if (!can_take(s, now))
            continue;
        s->current += (int32_t)s->weight;
        sum += (int32_t)s->weight;
        bool better = !best ||
                      (u->config.balance == CONFIG_BALANCE_LEAST ? has_less(s, best)
                                                                 : s->current > best->current);
        if (better)
            best = s;
    }
    if (best)
        best->current -= sum;
    return best;
}

/* Is there a server to wait for: a full one, one that is being probed, or one that comes back soon?
 */
static bool worth_waiting(const struct upstream *u, uint64_t now)
{
    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        const struct server *s = &u->servers[i];
        if (in_service(s, now) || s->probing || s->out_until_ns - now <= WAIT_OUT_MS * NS_PER_MS)
            return true;
    }
    return false;
}

static void due(struct upstream *u)
{
    u->due = true;
    u->thread->upstreams_due = true;
}

static void server_failed(struct upstream *u, struct server *s, const char *why)
{
    const struct config_fastcgi *c = &u->config;

    u->count.failed_connects++;
    if (s->n_addresses)
        s->at = (s->at + 1) % s->n_addresses;
    if (s->at != 0)
        return; /* a name with several addresses fails when all of them do */
    s->failures++;
    if (s->failures < c->max_fails && s->out_until_ns == 0)
        return;
    uint32_t over = s->failures < c->max_fails ? 0 : s->failures - c->max_fails;
    uint64_t pause_ms = c->backoff_ms << (over < 16 ? over : 16);
    if (pause_ms > c->max_backoff_ms)
        pause_ms = c->max_backoff_ms;
    if (s->out_until_ns == 0)
        u->count.ejected++;
    s->out_until_ns = loop_now_ns(u->thread->loop) + pause_ms * NS_PER_MS;
    log_warn("fastcgi server %s: %s; left out for %" PRIu64 " ms", s->text, why, pause_ms);
}

/* --- connections ----------------------------------------------------------------------------- */

static void conn_free(struct upstream_conn *c)
{
    struct upstream *u = c->upstream;

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    loop_timer_cancel(u->thread->loop, &c->timer);
    loop_watch_close(u->thread->loop, &c->watch);
    if (c->state != IDLE)
        c->server->occupied--;
    if (c->probe)
        c->server->probing = false;
    list_remove(&c->link);
    buf_fini(&c->out);
    buf_fini(&c->in);
    buf_fini(&c->cgi);
    c->magic = 0;
    mem_free(c);
    due(u);
}

static void on_timeout(struct loop_timer *timer);

static void await(struct upstream_conn *c, uint64_t timeout_ms)
{
    struct loop *loop = c->upstream->thread->loop;
    uint64_t at = loop_now_ns(loop) + timeout_ms * NS_PER_MS;

    if (c->state == WITH_REQUEST && c->connected && at > c->ends_ns)
        at = c->ends_ns;
    loop_timer_set(loop, &c->timer, at, on_timeout);
}

/* Its request needs it no longer, but its child may run on: it holds its place until the server
 * says something, which closing then ends, or closes. Without a limit there is no place to hold. */
static void abandon(struct upstream_conn *c)
{
    c->exchange = NULL;
    if (!c->connected || !c->server->limit || c->hangup || c->may_read || buf_length(&c->out) > 0 ||
        !c->stdin_closed) {
        conn_free(c);
        return;
    }
    c->state = ABANDONED;
    await(c, c->upstream->config.response_timeout_ms);
}

/* The exchange goes on without FastCGI. */
static void detach(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    x->upstream = NULL;
    buf_fini(&q->params);
    mem_free(q);
}

static void give_up(struct upstream *u, struct exchange *x, int status)
{
    u->count.refused++;
    detach(x);
    x->stalled = false;
    respond_status(x, status, status == 503 ? STR("Retry-After: 1\r\n") : STR_NONE);
}

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
    const char *server = c->server->text;
    bool again = status != 504 && may_retry(c);
    char id[REQUEST_ID_BYTES + 1];

    CHECK(c->state == WITH_REQUEST);
    exchange_request_id(x, id);
    x->upstream->conn = NULL;
    if (c->sent && !(c->reused && !c->any_bytes))
        x->upstream->losses++;
    if (c->connected)
        u->count.broken++;
    if (status == 504)
        abandon(c);
    else
        conn_free(c);
    if (again) {
        log_info("request %s: fastcgi server %s: %s; trying again", id, server, why);
        u->count.retried++;
        start(u, x);
        return;
    }
    log_error("request %s: fastcgi server %s: %s", id, server, why);
    detach(x);
    respond_lost(x, status);
}

static void on_timeout(struct loop_timer *timer)
{
    struct upstream_conn *c = CONTAINER_OF(timer, struct upstream_conn, timer);
    const struct config_fastcgi *config = &c->upstream->config;

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    if (c->state != WITH_REQUEST) {
        conn_free(c);
    } else if (loop_now_ns(c->upstream->thread->loop) >= c->ends_ns) {
        c->upstream->count.timeouts++;
        conn_failed(c, 504, "the request ran longer than request_timeout");
    } else if (c->exchange->stalled) {
        await(c, config->response_timeout_ms); /* our client is slow, not the server */
    } else if (!c->connected) {
        server_failed(c->upstream, c->server, "no connection within connect_timeout");
        conn_failed(c, 502, "no connection within connect_timeout");
    } else {
        c->upstream->count.timeouts++;
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
        await(c, c->upstream->config.response_timeout_ms);
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

/* STDOUT: first the head, then the body. 0, -EPROTO or -ENOMEM. The batch has room for two pieces
 * and lives no longer than `lines`. */
static int take_stdout(struct upstream_conn *c, struct batch *b, struct str data, struct buf *lines)
{
    size_t before = buf_length(&c->cgi);
    uint16_t status;

    if (c->head_done) {
        add_piece(b, CHANNEL_BODY, data);
        return 0;
    }
    /* Of a long body behind the head no more is kept than the limit of heads. */
    struct str looked_at = str_take(data, HEAD_BYTES_MAX - before);
    int r = buf_append(&c->cgi, looked_at.p, looked_at.n);
    if (r < 0)
        return r;
    size_t taken = cgi_head_end(buf_view(&c->cgi), before);
    if (taken == 0)
        return buf_length(&c->cgi) >= HEAD_BYTES_MAX ? -EPROTO : 0;
    r = cgi_parse_head(str_take(buf_view(&c->cgi), taken), lines, &status);
    if (r < 0)
        return r;
    c->head_done = true;
    add_piece(b, CHANNEL_HEAD, buf_view(lines))->status = status;
    struct str rest = str_skip(data, taken - before);
    if (rest.n)
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

    detach(x);
    c->exchange = NULL;
    if (!keep && c->kept) {
        conn_free(c);
    } else if (!keep) {
        abandon(c); /* its child is free when it has closed */
    } else {
        list_remove(&c->link);
        c->state = IDLE;
        c->server->occupied--;
        /* The one that was idle longest is used next: what its child does behind
         * fastcgi_finish_request(), of which nothing is heard, is most likely over. */
        list_push_back(&c->server->idle, &c->link);
        await(c, u->config.idle_timeout_ms);
        due(u);
    }
    conn_advance(x->conn);
}

/* Passes on what has come. True: the connection is still there and may be read from. */
static bool deliver(struct upstream_conn *c)
{
    struct buf lines;
    struct batch b;

    buf_init(&lines, 2 * HEAD_BYTES_MAX);
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
        await(c, c->upstream->config.response_timeout_ms);
        if (!deliver(c))
            return;
    }
}

static void go_on(struct upstream_conn *c)
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

static void connected(struct upstream_conn *c)
{
    struct server *s = c->server;

    if (s->out_until_ns)
        log_notice("fastcgi server %s is back", s->text);
    s->failures = 0;
    s->out_until_ns = 0;
    s->probing = c->probe = false;
    c->connected = true;
    if (c->upstream->n_queue)
        due(c->upstream); /* those that waited for it */
    await(c, c->upstream->config.response_timeout_ms);
}

/* Connecting has ended. False: it failed and the connection is gone. */
static bool finish_connect(struct upstream_conn *c, unsigned events)
{
    int error = 0;
    socklen_t n = sizeof(error);

    if (getsockopt(c->watch.fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
        error = errno;
    if (error) {
        server_failed(c->upstream, c->server, strerror(error));
        conn_failed(c, 502, strerror(error));
        return false;
    }
    if (events & LOOP_WRITE)
        connected(c);
    return true;
}

static void on_ready(struct loop_watch *w, unsigned events)
{
    struct upstream_conn *c = CONTAINER_OF(w, struct upstream_conn, watch);

    CHECK_MAGIC(c, UPSTREAM_CONN_MAGIC);
    if (c->state != WITH_REQUEST) {
        /* Idle: only its end is expected. Abandoned: closing tells a server that still writes. */
        if (events & (LOOP_READ | LOOP_HANGUP))
            conn_free(c);
        return;
    }
    c->hangup |= (events & LOOP_HANGUP) != 0;
    c->may_read |= (events & (LOOP_READ | LOOP_HANGUP)) != 0;
    c->may_write |= (events & LOOP_WRITE) != 0;
    if (!c->connected && (!finish_connect(c, events) || !c->connected))
        return;
    go_on(c);
}

/* --- requests -------------------------------------------------------------------------------- */

static int fill_out(struct upstream_conn *c, struct exchange *x)
{
    bool body = x->body_sink == BODY_MEMORY || x->body_sink == BODY_SPOOL;

    c->state = WITH_REQUEST;
    c->exchange = x;
    c->sent = c->cut_short = c->any_bytes = c->head_done = c->stdin_closed = false;
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

static int conn_open(struct upstream *u, struct server *s, struct upstream_conn **ret)
{
    const struct address_of_server *to = &s->addresses[s->at];
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
    buf_init(&c->cgi, HEAD_BYTES_MAX);
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

/* An idle connection that is still open: its end may be in this batch of events, not yet told. What
 * is sent into a closed one cannot be sent again unless its method is idempotent. */
static struct upstream_conn *take_idle(struct upstream *u, struct server *s)
{
    while (!list_empty(&s->idle)) {
        struct upstream_conn *c = LIST_ENTRY(s->idle.next, struct upstream_conn, link);
        char byte;
        if (recv(c->watch.fd, &byte, 1, MSG_PEEK) >= 0 ||
            (errno != EAGAIN && errno != EWOULDBLOCK)) {
            conn_free(c);
            continue;
        }
        list_remove(&c->link);
        c->reused = c->may_write = true;
        c->may_read = false;
        u->count.reused++;
        return c;
    }
    return NULL;
}

static void on_retry(struct loop_timer *timer)
{
    due(CONTAINER_OF(timer, struct upstream, retry));
}

/* When does a server come back, or have room in its backlog again? */
static void set_retry(struct upstream *u, uint64_t now)
{
    uint64_t soon = UINT64_MAX;

    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        const struct server *s = &u->servers[i];
        if (s->out_until_ns > now && s->out_until_ns < soon)
            soon = s->out_until_ns;
        if (s->full_until_ns > now && s->full_until_ns < soon)
            soon = s->full_until_ns;
    }
    if (soon != UINT64_MAX)
        loop_timer_set(u->thread->loop, &u->retry, soon, on_retry);
}

static void wait_in_queue(struct upstream *u, struct exchange *x, uint64_t now)
{
    if (u->n_queue >= u->config.queue_size) {
        u->thread->count.queue_full++;
        give_up(u, x, 503);
        return;
    }
    u->count.waited++;
    list_push_back(&u->queue, &x->link);
    u->n_queue++;
    conn_deadline(x->conn, x->upstream->queue_timeout_ms);
    set_retry(u, now);
}

/* A connection for the next request. NULL: none now. */
static struct upstream_conn *take_conn(struct upstream *u, struct exchange *x, uint64_t now)
{
    struct server *s;

    while (x->upstream->connects < CONNECTS_MAX && (s = pick(u, now)) != NULL) {
        struct upstream_conn *c = take_idle(u, s);
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
            s->full_until_ns = now + FULL_PAUSE_MS * NS_PER_MS; /* unix: the backlog is full */
        else
            server_failed(u, s, strerror(-r));
    }
    return NULL;
}

/* Sends the request to a server, or lets it wait for one. */
static void start(struct upstream *u, struct exchange *x)
{
    uint64_t now = loop_now_ns(u->thread->loop);
    struct upstream_conn *c = take_conn(u, x, now);

    if (!c && x->upstream->connects >= CONNECTS_MAX) {
        give_up(u, x, 502);
        return;
    }
    if (!c && !worth_waiting(u, now)) {
        give_up(u, x, x->upstream->connects ? 502 : 503);
        return;
    }
    if (!c) {
        wait_in_queue(u, x, now);
        return;
    }
    x->upstream->conn = c;
    c->server->occupied++;
    list_push_back(&u->busy, &c->link);
    int r = fill_out(c, x);
    if (r < 0) {
        log_error("a request to fastcgi server %s was not sent: %s", c->server->text, strerror(-r));
        conn_free(c);
        give_up(u, x, 503);
        return;
    }
    if (!c->connected) {
        await(c, u->config.connect_timeout_ms);
        return;
    }
    connected(c);
    go_on(c);
}

static void run_queue(struct upstream *u)
{
    uint32_t n = u->n_queue; /* those there now: one that has to wait again goes behind */
    uint64_t now = loop_now_ns(u->thread->loop);

    u->due = false;
    for (uint32_t i = 0; i < n && !list_empty(&u->queue); i++) {
        bool room = false;
        for (uint32_t k = 0; k < u->config.n_servers && !room; k++)
            room = can_take(&u->servers[k], now);
        if (!room && worth_waiting(u, now)) {
            set_retry(u, now);
            return;
        }
        struct exchange *x = LIST_ENTRY(u->queue.next, struct exchange, link);
        list_remove(&x->link);
        u->n_queue--;
        start(u, x);
    }
}

/* --- the gateway's side ---------------------------------------------------------------------- */

void upstream_push(struct upstream *u, struct exchange *x, const struct config_pool *pool,
                   const struct channel_request *r, const struct channel_pair *headers)
{
    struct upstream_request *q = mem_try_zalloc(sizeof(*q));

    CHECK_MAGIC(u, UPSTREAM_MAGIC);
    CHECK(!x->upstream && !x->backend && list_empty(&x->link));
    u->count.requests++;
    if (!q) {
        respond_status(x, 503, STR_NONE);
        return;
    }
    buf_init(&q->params, 0);
    q->upstream = u;
    q->queue_timeout_ms = pool->queue_timeout_ms;
    q->request_timeout_ms = pool->request_timeout_ms;
    x->upstream = q;
    if (upstream_params(&q->params, r, headers) < 0)
        give_up(u, x, 503);
    else if (u->n_queue)
        wait_in_queue(u, x, loop_now_ns(u->thread->loop)); /* behind those that came first */
    else
        start(u, x);
}

bool upstream_withdraw(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    if (!q || q->conn)
        return false;
    CHECK(!list_empty(&x->link));
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
    struct upstream_conn *c = q->conn;
    detach(x);
    abandon(c);
}

void upstream_resume(struct exchange *x)
{
    struct upstream_request *q = x->upstream;

    CHECK(!x->stalled && q && q->conn);
    struct upstream_conn *c = q->conn;
    await(c, c->upstream->config.response_timeout_ms);
    if (buf_length(&c->in) && !deliver(c))
        return;
    go_on(c);
}

static void upstream_free(struct upstream *u)
{
    CHECK(u->n_queue == 0);
    while (!list_empty(&u->busy))
        conn_free(LIST_ENTRY(u->busy.next, struct upstream_conn, link));
    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        while (!list_empty(&u->servers[i].idle))
            conn_free(LIST_ENTRY(u->servers[i].idle.next, struct upstream_conn, link));
        mem_free(u->servers[i].text);
    }
    loop_timer_cancel(u->thread->loop, &u->retry);
    list_remove(&u->link);
    mem_free(u->servers);
    u->magic = 0;
    mem_free(u);
}

static bool has_requests(const struct upstream *u)
{
    if (u->n_queue)
        return true;
    LIST_FOR_EACH(it, &u->busy)
        if (LIST_ENTRY(it, struct upstream_conn, link)->state == WITH_REQUEST)
            return true;
    return false;
}

void upstream_put(struct upstream *u)
{
    if (!u)
        return;
    CHECK_MAGIC(u, UPSTREAM_MAGIC);
    CHECK(u->refs > 0);
    if (--u->refs > 0)
        return;
    /* The children that its idle connections hold belong to its successor now. */
    for (uint32_t i = 0; i < u->config.n_servers; i++)
        while (!list_empty(&u->servers[i].idle))
            conn_free(LIST_ENTRY(u->servers[i].idle.next, struct upstream_conn, link));
    due(u);
}

void upstream_poll(struct gateway_thread *t)
{
    t->upstreams_due = false;
    LIST_FOR_EACH_SAFE(it, &t->upstreams) {
        struct upstream *u = LIST_ENTRY(it, struct upstream, link);
        if (u->due)
            run_queue(u);
        if (u->refs == 0 && !has_requests(u))
            upstream_free(u);
    }
}

void upstream_count(const struct gateway_thread *t, struct upstream_counters *sum)
{
    LIST_FOR_EACH(it, &t->upstreams) {
        const struct upstream_counters *c = &LIST_ENTRY(it, struct upstream, link)->count;
        sum->requests += c->requests;
        sum->connections += c->connections;
        sum->reused += c->reused;
        sum->retried += c->retried;
        sum->failed_connects += c->failed_connects;
        sum->broken += c->broken;
        sum->timeouts += c->timeouts;
        sum->ejected += c->ejected;
        sum->refused += c->refused;
        sum->waited += c->waited;
        sum->stderr_records += c->stderr_records;
    }
}
