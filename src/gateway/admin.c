/*
 * Requests that the gateway answers about itself. What needs the figures of all threads waits for
 * them, a command waits for the supervisor, a health check maybe for a probe; the connection may be
 * gone when the answer comes (struct admin_wait).
 */
#include "gateway/admin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

#define NO_CACHE                                 \
    "Expires: Thu, 01 Jan 1970 00:00:00 GMT\r\n" \
    "Cache-Control: no-cache, no-store, must-revalidate, max-age=0\r\n"

enum { ANSWER_BYTES_MAX = 64 << 20 };

static const struct {
    const char *path;
    enum admin_page page;
    bool changes; /* POST */
    const char *text;
} pages[] = {
    { "/", ADMIN_INDEX, false, "this list" },
    { "/ping", ADMIN_PING, false, "pong: the gateway is alive" },
    { "/healthz", ADMIN_HEALTH, false, "200 when PHP answers, else 503" },
    { "/status", ADMIN_POOL, false,
      "a pool as on PHP-FPM's status page: ?pool=NAME ?full ?json ?html ?xml ?openmetrics" },
    { "/server", ADMIN_SERVER, false, "the whole server: ?json ?full ?isolation" },
    { "/metrics", ADMIN_METRICS, false, "the whole server, OpenMetrics" },
    { "/reload", ADMIN_COMMAND, true, "read the configuration again, start new generations" },
    { "/rollback", ADMIN_COMMAND, true, "back to the release before the last reload" },
    { "/upgrade", ADMIN_COMMAND, true, "let the program that is installed now take over" },
    { "/reopen-logs", ADMIN_COMMAND, true, "after a rotation of log files" },
    { "/profile", ADMIN_COMMAND, true,
      "PHP stacks of all workers, collapsed: ?ms=3000 for so long, ?rate=1000 a second" },
    { "/stop", ADMIN_COMMAND, true, "finish running requests and end" },
};

/* --- where a request goes --------------------------------------------------------------------- */

struct str admin_query(struct str query, struct str name)
{
    while (query.p && query.n) {
        struct str value = str_cut(&query, '&');
        struct str key = str_cut(&value, '=');
        if (str_eq(key, name))
            return value.p ? value : STR("");
    }
    return STR_NONE;
}

static struct route status(int code, struct str extra)
{
    return (struct route){ .verdict = VERDICT_STATUS, .status = code, .extra = extra };
}

struct route admin_route(struct exchange *x, struct str path)
{
    const struct http_request *r = &x->conn->thread->request;

    for (size_t i = 0; i < ARRAY_LENGTH(pages); i++) {
        if (!str_eq(path, str_from(pages[i].path)))
            continue;
        if (pages[i].changes && r->method != HTTP_POST)
            return status(405, STR("Allow: POST\r\n"));
        if (!pages[i].changes && r->method != HTTP_GET && r->method != HTTP_HEAD)
            return status(405, STR("Allow: GET, HEAD\r\n"));
        return (struct route){ .verdict = VERDICT_ADMIN, .page = pages[i].page };
    }
    return status(404, STR_NONE);
}

static bool is_allowed(struct exchange *x, const struct config_pool *pool)
{
    struct trust *allow;
    struct str bad;

    if (trust_new(&pool->status_allow, &allow, &bad) < 0)
        return false;
    bool good = trust_has(allow, exchange_client_address(x));
    trust_free(allow);
    return good;
}

bool admin_is_page(struct exchange *x, const struct config *c, struct str path, struct route *ret)
{
    for (uint32_t i = 0; i < c->n_pools; i++) {
        const struct config_pool *pool = &c->pools[i];
        bool ping = pool->ping_path.n && str_eq(path, pool->ping_path);
        if (!ping && !(pool->status_path.n && str_eq(path, pool->status_path)))
            continue;
        *ret = is_allowed(x, pool) ? (struct route){ .verdict = VERDICT_ADMIN,
                                                     .page = ping ? ADMIN_PING : ADMIN_POOL,
                                                     .page_pool = i }
                                   : status(403, STR_NONE);
        return true;
    }
    return false;
}

/* --- answers ---------------------------------------------------------------------------------- */

static void answer_text(struct exchange *x, int code, struct str text)
{
    respond_own(x, code, "text/plain; charset=utf-8", STR(NO_CACHE), text);
}

static void answer_index(struct exchange *x)
{
    struct buf b;

    buf_init(&b, 0);
    for (size_t i = 0; i < ARRAY_LENGTH(pages); i++)
        page_put(&b, "%-4s %-13s %s\n", pages[i].changes ? "POST" : "GET", pages[i].path,
                 pages[i].text);
    answer_text(x, 200, buf_view(&b));
    buf_fini(&b);
}

static struct admin_wait *wait_new(struct exchange *x, const struct route *route)
{
    struct gateway_thread *t = x->conn->thread;
    struct admin_wait *w = mem_zalloc(sizeof(*w));
    struct str query = str_take(t->request.query, sizeof(w->text));

    list_init(&w->link);
    w->x = x;
    w->thread = t;
    w->page = route->page;
    w->pool = route->page_pool;
    if (query.n)
        memcpy(w->text, query.p, query.n);
    w->query = (struct str){ w->text, query.n };
    x->wait = w;
    return w;
}

void admin_wait_free(struct admin_wait *w)
{
    list_remove(&w->link);
    loop_timer_cancel(w->thread->loop, &w->timer);
    if (w->x)
        w->x->wait = NULL;
    mem_free(w->stacks);
    mem_free(w);
}

void admin_forget(struct exchange *x)
{
    if (x->wait)
        x->wait->x = NULL;
    x->wait = NULL;
}

static void answer_page(void *ctx, struct stats *s)
{
    struct admin_wait *w = ctx;
    struct page page = { .type = "text/plain; charset=utf-8" };

    if (w->x) {
        buf_init(&page.out, 0);
        if (w->page == ADMIN_POOL)
            status_fpm_page(w->thread, s, w->pool, w->query, &page);
        else if (w->page == ADMIN_METRICS)
            metrics_page(w->thread, s, &page);
        else
            status_server_page(w, s, &page);
        respond_own(w->x, 200, page.type, STR(NO_CACHE), buf_view(&page.out));
        buf_fini(&page.out);
    }
    stats_free(s);
    admin_wait_free(w);
}

/* `pool=NAME` of the admin socket; false: there is none of that name. */
static bool choose_pool(struct admin_wait *w)
{
    const struct config *c = w->thread->gateway->config;
    struct str name = admin_query(w->query, STR("pool"));

    if (!name.p)
        return true;
    for (uint32_t i = 0; i < c->n_pools; i++)
        if (str_eq(c->pools[i].name, name)) {
            w->pool = i;
            return true;
        }
    return false;
}

static bool ask_supervisor(struct gateway *g, struct admin_wait *w, const char *text)
{
    struct control_message m;

    control_message_init(&m, CONTROL_COMMAND);
    m.worker = w->number = ++g->last_command;
    control_message_set_text(&m, str_from(text));
    list_push_back(&g->commands, &w->link);
    return control_send(CONTROL_SUPERVISOR_FD, &m, NULL, 0) == 0;
}

/* The page is made with what there is. */
static void go_on(struct admin_wait *w)
{
    list_remove(&w->link);
    list_init(&w->link);
    loop_timer_cancel(w->thread->loop, &w->timer);
    stats_collect(w->thread, answer_page, w);
}

static void on_no_stacks(struct loop_timer *timer)
{
    go_on(CONTAINER_OF(timer, struct admin_wait, timer));
}

/* Of the page of the server: what the pool processes see of their workers. */
static void ask_for_stacks(struct gateway *g, struct admin_wait *w)
{
    enum { PATIENCE_MS = 2000 };

    if (!ask_supervisor(g, w, "stacks")) {
        go_on(w);
        return;
    }
    loop_timer_set(w->thread->loop, &w->timer, clock_monotonic_ns() + PATIENCE_MS * NS_PER_MS,
                   on_no_stacks);
}

/* "reload"; the one command with settings is sent as "profile?ms=100". */
static void send_command(struct gateway *g, struct admin_wait *w)
{
    const char *name = w->thread->path + 1;
    bool has_query = strcmp(name, "profile") == 0;
    char *text = has_query ? mem_printf("%s?%.*s", name, STR_ARG(w->query)) : mem_strdup(name);

    bool sent = ask_supervisor(g, w, text);
    mem_free(text);
    if (sent)
        return;
    answer_text(w->x, 503, STR("the supervisor does not take commands\n"));
    admin_wait_free(w);
}

void admin_answer(struct exchange *x, const struct route *route)
{
    struct gateway_thread *t = x->conn->thread;
    struct gateway *g = t->gateway;

    switch (route->page) {
    case ADMIN_INDEX: answer_index(x); return;
    case ADMIN_PING: answer_text(x, 200, STR("pong")); return;
    case ADMIN_HEALTH: health_check(g, wait_new(x, route)); return;
    case ADMIN_COMMAND: send_command(g, wait_new(x, route)); return;
    case ADMIN_POOL:
    case ADMIN_SERVER:
    case ADMIN_METRICS: break;
    }
    struct admin_wait *w = wait_new(x, route);
    if (x->conn->source == CONN_FROM_ADMIN && !choose_pool(w)) {
        answer_text(x, 404, STR("there is no pool of that name\n"));
        admin_wait_free(w);
        return;
    }
    if (route->page == ADMIN_SERVER && t->index == 0 && admin_query(w->query, STR("full")).p)
        ask_for_stacks(g, w);
    else
        stats_collect(t, answer_page, w);
}

/* --- main thread ------------------------------------------------------------------------------ */

/* From its begin: whoever wrote it left the offset at the end. */
static void read_answer(int fd, struct buf *b)
{
    ssize_t n = 1;

    while (n > 0 && buf_reserve(b, 64 << 10) == 0) {
        n = pread(fd, buf_space(b), buf_room(b), (off_t)buf_length(b));
        buf_commit(b, n > 0 ? (size_t)n : 0);
    }
}

static void take_stacks(struct admin_wait *w, int fd)
{
    struct buf b;

    if (fd >= 0) {
        buf_init(&b, ANSWER_BYTES_MAX);
        read_answer(fd, &b);
        w->stacks = mem_strndup(buf_view(&b));
        buf_fini(&b);
    }
    go_on(w);
}

void admin_result(struct gateway *g, const struct control_message *m, int fd)
{
    static const int codes[] = { [CONTROL_RESULT_DONE] = 200,
                                 [CONTROL_RESULT_REFUSED] = 409,
                                 [CONTROL_RESULT_FAILED] = 500,
                                 [CONTROL_RESULT_UNKNOWN] = 404 };
    struct buf b;

    if (m->status < 0 || (size_t)m->status >= ARRAY_LENGTH(codes))
        return;
    LIST_FOR_EACH_SAFE(it, &g->commands) {
        struct admin_wait *w = LIST_ENTRY(it, struct admin_wait, link);
        if (w->number != m->worker)
            continue;
        if (w->page == ADMIN_SERVER) {
            take_stacks(w, fd);
            return;
        }
        if (w->x) {
            buf_init(&b, ANSWER_BYTES_MAX);
            if (fd >= 0)
                read_answer(fd, &b);
            else
                page_put(&b, "%.*s\n", STR_ARG(control_message_text(m)));
            answer_text(w->x, codes[m->status], buf_view(&b));
            buf_fini(&b);
        }
        admin_wait_free(w);
        return;
    }
}

static void on_acceptable(struct loop_watch *w, unsigned events)
{
    struct gateway *g = CONTAINER_OF(w, struct gateway, admin);

    (void)events;
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        (void)conn_accept(&g->threads[0], fd, CONN_FROM_ADMIN);
}

void admin_listen(struct gateway *g, int fd)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (own < 0 || loop_watch_add(g->threads[0].loop, &g->admin, own, LOOP_READ, on_acceptable) < 0)
        log_warn("cannot watch the admin socket: %s", strerror(errno));
}

void admin_stop_listening(struct gateway *g)
{
    int fd = g->admin.fd;

    if (fd <= 0)
        return;
    loop_watch_remove(g->threads[0].loop, &g->admin);
    close(fd);
}
