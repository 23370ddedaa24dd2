/*
 * One request: where it goes, its body, its hand-over to a pool.
 *
 * Routing needs only the parsed head in the thread's scratch space. When the body has to be
 * awaited, or when the pool is restarting, the scratch is gone by then: the head, which stays at
 * the front of the connection's input buffer, is parsed and routed again. That costs a microsecond
 * in the rare case and keeps the common one free of copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gateway/admin.h"
#include "gateway/images.h"
#include "gateway/upstream.h"

enum { BODY_MEMORY_MAX = 16 * 1024 };

static struct exchange *take_exchange(struct gateway_thread *t)
{
    struct exchange *x = t->n_free_exchanges ? t->free_exchanges[--t->n_free_exchanges]
                                             : mem_try_alloc(sizeof(*x));
    if (!x)
        return NULL;
    memset(x, 0, sizeof(*x));
    x->magic = EXCHANGE_MAGIC;
    list_init(&x->link);
    list_init(&x->class_link);
    x->body_fd = x->file_fd = x->out.spool_fd = -1;
    x->declared = -1;
    buf_init(&x->body, 0);
    buf_init(&x->head_parts, 1024 * 1024);
    buf_init(&x->out.memory, 0);
    return x;
}

void exchange_free(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    backend_forget(x);
    admin_forget(x);
    bulkhead_forget(x);
    upstream_forget(x); /* before the list: its queue uses the same link */
    stream_end(x);      /* behind backend_forget: a worker knows of the abort when its pipe ends */
    if (!list_empty(&x->link)) {
        list_remove(&x->link);
        t->n_waiting[x->pool]--;
    }
    buf_fini(&x->body);
    buf_fini(&x->head_parts);
    buf_fini(&x->out.memory);
    fd_close(&x->file_fd);
    spool_forget(t->gateway, &x->body_fd, x->body_spooled);
    spool_forget(t->gateway, &x->out.spool_fd, x->out.spool_end);
    if (x->plan) {
        static_plan_fini(x->plan);
        mem_free(x->plan);
    }
    x->magic = 0;
    if (t->n_free_exchanges < ARRAY_LENGTH(t->free_exchanges))
        t->free_exchanges[t->n_free_exchanges++] = x;
    else
        mem_free(x);
}

void exchange_request_id(const struct exchange *x, char out[REQUEST_ID_BYTES + 1])
{
    static const char hex[] = "0123456789abcdef";
    uint64_t id = x->id;

    for (int i = REQUEST_ID_BYTES - 1; i >= 0; i--, id >>= 4)
        out[i] = hex[id & 15];
    out[REQUEST_ID_BYTES] = '\0';
}

void exchange_parse_again(struct exchange *x)
{
    struct conn *c = x->conn;
    const struct http_limits any = { .request_line_bytes = UINT32_MAX,
                                     .headers_bytes = UINT32_MAX,
                                     .headers_count = HTTP_HEADERS_MAX,
                                     .body_bytes = UINT64_MAX };
    struct http1_parser parser = { 0 };

    int r = http1_parse_request(&parser, str_take(buf_view(&c->in), x->head_bytes), &any,
                                &c->thread->request);
    CHECKF(r == (int)x->head_bytes, "a head that was parsed once is %d now", r);
}

static void push_upstream(struct exchange *x, struct backend *b);

static bool runs_script(const struct route *route)
{
    return route->verdict == VERDICT_PHP || route->verdict == VERDICT_FASTCGI;
}

/* Request complete; thread->request and thread->match belong to it. */
static void act(struct exchange *x, struct route route)
{
    struct gateway_thread *t = x->conn->thread;

    x->conn->state = CONN_WAIT;
    x->limit_ms = route.rule ? (uint32_t)route.rule->request_timeout_ms : 0;
    x->route_mark = route.rule ? fallback_mark(backend_for(x->conn, 0)->pool, route.rule) : 0;
    t->route = route.rule ? route.rule->name : STR_NONE;
    switch (route.verdict) {
    case VERDICT_STATUS: respond_status(x, route.status, route.extra); break;
    case VERDICT_STATIC: respond_static(x, route.files, t->match.file); break;
    case VERDICT_REDIRECT: respond_redirect(x, t->match.script_name); break;
    case VERDICT_PHP: exchange_dispatch(x); break;
    case VERDICT_FASTCGI:
        if (x->body_sink == BODY_STREAM) /* fell back while it waited, and the body is not here */
            respond_status(x, 503, STR("Retry-After: 1\r\n"));
        else if (bulkhead_enter(x, backend_for(x->conn, x->pool), false))
            push_upstream(x, backend_for(x->conn, x->pool));
        break;
    case VERDICT_ADMIN: admin_answer(x, &route); break;
    }
}

/* --- request body ----------------------------------------------------------------------------- */

/* The body cannot be kept: the rest of it is read, then this is said. */
static void drop_body(struct exchange *x)
{
    spool_forget(x->conn->thread->gateway, &x->body_fd, x->body_spooled);
    x->body_spooled = 0;
    buf_fini(&x->body);
    x->body_sink = BODY_DISCARD;
    x->early_status = 507;
}

static void spool_bytes(struct exchange *x, struct str data)
{
    struct gateway *g = x->conn->thread->gateway;

    if (spool_has_room(g, data.n) && spool_write(g, x->body_fd, x->body_spooled, data) == 0) {
        x->body_spooled += data.n;
        return;
    }
    log_error("no room for a request body of %" PRIu64
              " bytes and more: [server] max_spool_size or the disk of spool_dir is full",
              x->body_spooled);
    drop_body(x);
}

/* From memory to a file, with what is there already. */
static void open_spool(struct exchange *x)
{
    struct gateway *g = x->conn->thread->gateway;

    x->body_fd = spool_open(g);
    if (x->body_fd < 0) {
        log_error("cannot make a file in spool_dir %.*s for a request body: %s",
                  STR_ARG(g->config->server.spool_dir), strerror(-x->body_fd));
        drop_body(x);
        return;
    }
    x->body_sink = BODY_SPOOL;
    x->conn->thread->count.spooled_requests++;
    spool_bytes(x, buf_view(&x->body));
    buf_fini(&x->body);
}

static void keep_body_bytes(struct exchange *x, struct str data)
{
    if (x->body_sink == BODY_MEMORY && buf_length(&x->body) + data.n > BODY_MEMORY_MAX)
        open_spool(x);
    if (x->body_sink == BODY_SPOOL)
        spool_bytes(x, data);
    else if (x->body_sink == BODY_MEMORY && buf_append(&x->body, data.p, data.n) < 0)
        drop_body(x);
    x->body_bytes += data.n;
}

static void refuse_body(struct exchange *x, int status)
{
    x->keep_alive = false;
    x->conn->state = CONN_WAIT;
    respond_status(x, status, STR_NONE);
}

static void body_done(struct exchange *x)
{
    x->body_complete = true;
    if (x->early_status) {
        x->conn->state = CONN_WAIT;
        respond_status(x, x->early_status, STR_NONE);
        return;
    }
    exchange_parse_again(x);
    act(x, route_find(x));
}

void exchange_read_body(struct exchange *x)
{
    struct conn *c = x->conn;
    struct buf *in = &c->in;

    CHECK_MAGIC(x, EXCHANGE_MAGIC);
    struct str rest = str_skip(buf_view(in), x->head_bytes);
    size_t taken = 0, used;
    int r;
    do {
        struct str data = STR_NONE;
        r = http1_body_next(&x->body_decoder, str_skip(rest, taken), &data, &used);
        if (r < 0) {
            c->thread->count.bad_requests++;
            refuse_body(x, http_error_status((enum http_error) - r));
            return;
        }
        if (data.n && x->body_sink != BODY_DISCARD)
            keep_body_bytes(x, data);
        taken += used;
    } while (r == 0 && used > 0 && taken < rest.n);
    /* What was taken leaves the buffer, at once for all of it: chunks may be of one byte. The head
     * before it and what follows stay. */
    if (taken) {
        char *from = in->base + in->head + x->head_bytes;
        memmove(from, from + taken, rest.n - taken);
        in->tail -= taken;
    }
    if (r > 0)
        body_done(x);
}

/* The head announces a body: decide what becomes of it. False: nothing is left to do here. */
static bool begin_body(struct exchange *x, const struct route *route)
{
    struct conn *c = x->conn;
    struct gateway_thread *t = c->thread;
    const struct http_request *r = &t->request;
    const struct config_server *s = &t->gateway->config->server;

    if (route->verdict == VERDICT_STATIC)
        file_release(t->match.file);
    uint64_t most = route->rule && route->rule->max_body_size ? route->rule->max_body_size
                                                              : s->max_body_size;
    if (r->content_length > 0 && (uint64_t)r->content_length > most) {
        refuse_body(x, 413);
        return false;
    }
    x->wants_continue = r->expect_continue && r->minor >= 1;
    if (x->wants_continue && !runs_script(route)) {
        /* The final answer needs no body: say it instead of 100 (RFC 9110 section 10.1.1). */
        x->keep_alive = false;
        act(x, route_find(x));
        return false;
    }
    http1_body_init(&x->body_decoder, r, most);
    if (route->verdict == VERDICT_PHP && stream_is_wanted(x, route->rule) && stream_begin(x) == 0) {
        act(x, *route); /* 100 Continue comes when the script asks for the body */
        return false;
    }
    x->body_sink = runs_script(route) ? BODY_MEMORY : BODY_DISCARD;
    if (x->body_sink == BODY_MEMORY && r->content_length > BODY_MEMORY_MAX)
        open_spool(x);
    c->state = CONN_BODY;
    if (x->wants_continue && buf_length(&c->in) == x->head_bytes)
        respond_continue(c);
    conn_deadline(c, s->body_timeout_ms);
    return true;
}

static bool may_keep_alive(const struct conn *c)
{
    const struct config_server *s = &c->thread->gateway->config->server;

    return c->thread->request.keep_alive && !c->thread->draining &&
           (s->keepalive_requests == 0 || c->requests < s->keepalive_requests);
}

void exchange_begin(struct conn *c, uint32_t head_bytes)
{
    struct gateway_thread *t = c->thread;
    const struct http_request *r = &t->request;
    struct exchange *x = take_exchange(t);

    if (!x) {
        t->count.refused++;
        conn_close(c);
        return;
    }
    c->exchange = x;
    x->conn = c;
    x->head_bytes = head_bytes;
    x->started_ns = c->head_started_ns;
    x->received_ns = t->realtime_ns;
    x->id = t->gateway->id_prefix + (((uint64_t)t->index << 56) ^ ++t->spread_counter);
    x->method = r->method;
    x->minor = r->minor;
    x->keep_alive = may_keep_alive(c);
    t->count.requests += c->source <= CONN_FROM_UNIX;
    t->count.underscore_headers += r->underscore_dropped;

    struct route route = route_find(x);
    if (r->chunked || r->content_length > 0) {
        if (begin_body(x, &route))
            exchange_read_body(x);
        return;
    }
    x->body_complete = true;
    act(x, route);
}

/* --- to the pool ------------------------------------------------------------------------------ */

/* What the client's side of the connection was called, after trusted proxies had their say. */
struct identity {
    struct str remote, host, server_name;
    uint16_t remote_port, server_port;
    bool https;
};

static bool is_trusted(void *ctx, struct str address)
{
    return trust_has(ctx, address);
}

static struct str without_port(struct str host)
{
    if (host.n && host.p[0] == '[') {
        ptrdiff_t end = str_find(host, ']');
        return end < 0 ? host : str_take(host, (size_t)end + 1);
    }
    ptrdiff_t colon = str_find(host, ':');
    return colon < 0 ? host : str_take(host, (size_t)colon);
}

static void identify(const struct conn *c, struct identity *id)
{
    const struct http_request *r = &c->thread->request;

    *id = (struct identity){
        .remote = { c->peer.text, c->peer.length },
        .remote_port = c->peer.port,
        .host = r->host,
        .server_port = c->local.port,
    };
    if (c->trusted) {
        struct http_forwarded f;
        http_parse_forwarded(r, is_trusted, c->thread->gateway->trust, &f);
        if (f.address.n) {
            id->remote = f.address;
            id->remote_port = 0;
        }
        if (f.proto.n) {
            id->https = str_eq_nocase(f.proto, STR("https"));
            id->server_port = id->https ? 443 : 80;
        }
        if (f.host.n)
            id->host = f.host;
        if (f.port)
            id->server_port = f.port;
    }
    id->server_name = without_port(id->host);
    if (id->server_name.n == 0)
        id->server_name = (struct str){ c->local.text, c->local.length };
}

/* Path and query as the client sent them, in one piece. */
static struct str origin_form(struct gateway_thread *t, const struct http_request *r)
{
    if (!r->query.p)
        return r->path;
    if (r->path.p + r->path.n + 1 == r->query.p)
        return (struct str){ r->path.p, r->path.n + 1 + r->query.n };
    buf_consume(&t->target, buf_length(&t->target));
    if (buf_printf(&t->target, "%.*s?%.*s", STR_ARG(r->path), STR_ARG(r->query)) < 0)
        return r->path;
    return buf_view(&t->target);
}

bool exchange_is_https(const struct exchange *x)
{
    struct identity id;

    identify(x->conn, &id);
    return id.https;
}

void exchange_describe(const struct exchange *x, struct control_image *ret)
{
    struct identity id;

    identify(x->conn, &id);
    ret->host = id.host;
    ret->https = id.https;
    ret->port = id.server_port;
    ret->address = (struct str){ x->conn->local.text, x->conn->local.length };
}

struct str exchange_client_address(const struct exchange *x)
{
    struct identity id;

    identify(x->conn, &id);
    return id.remote;
}

static void describe(struct exchange *x, struct backend *b, struct channel_request *ret,
                     const char *script, size_t script_bytes, const char *request_id)
{
    struct conn *c = x->conn;
    const struct http_request *r = &c->thread->request;
    const struct files_match *m = &c->thread->match;
    struct identity id;

    identify(c, &id);
    *ret = (struct channel_request){
        .method = r->method_text,
        .target = origin_form(c->thread, r),
        .protocol = r->minor ? STR("HTTP/1.1") : STR("HTTP/1.0"),
        .script_name = m->script_name,
        .script_filename = { script, script_bytes },
        .path_info = m->path_info,
        .query = c->thread->query,
        .document_root = str_from(b->pool->document_root),
        .host = id.host,
        .server_name = id.server_name,
        .remote_addr = id.remote,
        .server_addr = { c->local.text, c->local.length },
        .request_id = { request_id, REQUEST_ID_BYTES },
        .route = c->thread->route,
        .limit_ms = x->limit_ms
                        ? x->limit_ms
                        : (uint32_t)b->pool->config->pools[b->pool->pool].request_timeout_ms,
        .remote_port = id.remote_port,
        .server_port = id.server_port,
        .flags =
            (uint16_t)((id.https ? CHANNEL_HTTPS : 0) | (x->keep_alive ? CHANNEL_KEEP_ALIVE : 0)),
        .http_minor = r->minor,
        .content_length = r->content_length,
        .received_ns = x->received_ns,
        .n_headers = r->n_headers,
    };
    /* struct http_header and struct channel_pair are alike; the channel must not know http/. */
    for (uint32_t i = 0; i < r->n_headers; i++)
        c->thread->pairs[i] = (struct channel_pair){ r->headers[i].name, r->headers[i].value };
    if (x->body_sink == BODY_MEMORY || x->body_sink == BODY_SPOOL)
        ret->content_length = (int64_t)x->body_bytes;
}

static void attach_body(struct exchange *x, struct backend *b, struct channel_request *request)
{
    if (x->body_sink == BODY_MEMORY) {
        if (buf_length(&x->body) <=
            channel_inline_room(b->pool->channel, request, x->conn->thread->pairs)) {
            request->body_kind = CHANNEL_BODY_INLINE;
            request->body = buf_view(&x->body);
            return;
        }
        open_spool(x);
    }
    if (x->body_sink == BODY_SPOOL)
        request->body_kind = CHANNEL_BODY_FILE;
    else if (x->body_sink == BODY_STREAM)
        request->body_kind = CHANNEL_BODY_STREAM;
}

static void wait_for_pool(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;
    const struct config_pool *pool = &t->gateway->config->pools[x->pool];

    if (t->n_waiting[x->pool] >= pool->queue_size) {
        t->count.queue_full++;
        respond_status(x, 503, STR("Retry-After: 1\r\n"));
        return;
    }
    t->n_waiting[x->pool]++;
    list_push_back(&t->waiting[x->pool], &x->link);
    conn_deadline(x->conn, pool->queue_timeout_ms);
}

/* SCRIPT_FILENAME, into `out`; 0 when it is too long. */
static size_t script_path(const struct backend *b, const struct files_match *m, char *out,
                          size_t size)
{
    struct str root =
        str_from(b->pool->loop_script ? b->pool->loop_script : b->pool->document_root);
    struct str name = b->pool->loop_script ? STR("") : m->script_name;

    /* The document root "/" must not give "//index.php". */
    if (root.n == 1)
        root.n = 0;
    if (root.n + name.n >= size)
        return 0;
    memcpy(out, root.p, root.n);
    if (name.n)
        memcpy(out + root.n, name.p, name.n);
    return root.n + name.n;
}

/* A request as backends want it; its texts are here and in the thread's scratch space. */
struct described {
    struct channel_request request;
    char script[2 * FILES_PATH_MAX];
    size_t script_bytes; /* 0: not found out yet */
    char request_id[REQUEST_ID_BYTES + 1];
};

/* False: answered already. */
static bool make_request(struct exchange *x, struct backend *b, struct described *d)
{
    struct gateway_thread *t = x->conn->thread;
    /* A probe names no script: the engine starts and ends a request, and that is all. */
    bool names_script = x->conn->source != CONN_FROM_HEALTH;

    if (names_script && d->script_bytes == 0)
        d->script_bytes = script_path(b, &t->match, d->script, sizeof(d->script));
    if (names_script && d->script_bytes == 0) {
        respond_status(x, 414, STR_NONE);
        return false;
    }
    exchange_request_id(x, d->request_id);
    describe(x, b, &d->request, d->script, d->script_bytes, d->request_id);
    if (b->pool->channel)
        attach_body(x, b, &d->request);
    if (x->body_sink != BODY_DISCARD)
        return true;
    respond_status(x, x->early_status ? x->early_status : 507, STR_NONE);
    return false;
}

static void push_upstream(struct exchange *x, struct backend *b)
{
    struct described d;

    d.script_bytes = 0;
    if (make_request(x, b, &d))
        upstream_push(b->upstream, x, &b->pool->config->pools[b->pool->pool], &d.request,
                      x->conn->thread->pairs);
}

/* The image of the script, which has the same path there, or the pool itself. */
static struct backend *choose(struct exchange *x, struct backend *b, struct described *d)
{
    const struct gateway_thread *t = x->conn->thread;

    if (likely(t->n_images[x->pool] == 0 &&
               b->pool->config->pools[b->pool->pool].snapshot_scripts.n == 0))
        return b;
    d->script_bytes = script_path(b, &t->match, d->script, sizeof(d->script));
    return d->script_bytes ? images_choose(x, b, (struct str){ d->script, d->script_bytes }) : b;
}

static void push(struct exchange *x, struct backend *b)
{
    struct gateway_thread *t = x->conn->thread;
    struct described d;

    d.script_bytes = 0;
    struct backend *to = choose(x, b, &d);
    if (!make_request(x, to, &d))
        return;
    int r = backend_push(to, x, &d.request);
    if (unlikely(r < 0 && to != b)) { /* it is full, or goes */
        x->no_image = true;
        push(x, b);
    } else if (r == -EAGAIN) {
        t->count.queue_full++;
        respond_status(x, 503, STR("Retry-After: 1\r\n"));
    } else if (r == -E2BIG) {
        respond_status(x, 431, STR_NONE);
    } else if (r < 0) { /* the pool process has just died */
        bulkhead_pass_on(x);
        wait_for_pool(x);
    } else {
        queue_wait_begin(x);
    }
}

void exchange_dispatch(struct exchange *x)
{
    struct backend *b = backend_for(x->conn, x->pool);

    if (!b)
        wait_for_pool(x);
    else if (bulkhead_enter(x, b, true))
        push(x, b);
}

void exchange_dispatch_again(struct exchange *x)
{
    exchange_parse_again(x);
    act(x, route_find(x));
}

bool exchange_withdraw(struct exchange *x)
{
    if (bulkhead_withdraw(x))
        return true;
    if (x->upstream)
        return upstream_withdraw(x);
    if (!list_empty(&x->link)) {
        list_remove(&x->link);
        x->conn->thread->n_waiting[x->pool]--;
        return true;
    }
    return backend_withdraw(x);
}
