/*
 * /healthz: green when the PHP of every pool has answered a request within health_window. Traffic
 * proves that by itself. Where there was none, one probe for each such pool goes the way of any
 * request: a connection to ourselves, the queue, a worker, whose engine starts and ends a request
 * without a script. So a pool whose workers are all stuck turns red although its processes live,
 * and an idle one stays green.
 *
 * A probe has no time limit of its own: one that waits in a wedged pool's queue is the proof, and
 * it ends as other requests do (queue_timeout). Checks wait for it for one window at most.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/admin.h"

struct probe {
    struct loop_watch watch; /* our end of the connection to ourselves */
    struct gateway *gateway;
    uint32_t pool;
};

static uint64_t window_ns(const struct gateway *g)
{
    return g->config->admin.health_window_ms * NS_PER_MS;
}

/* FastCGI servers are other people's processes, which no restart of this server would mend. */
static bool is_probed(const struct gateway *g, uint32_t pool)
{
    return !g->config->pools[pool].use_fpm;
}

static bool answered(const struct gateway *g, uint32_t pool, uint64_t now, uint64_t *ret_ago_ms)
{
    uint64_t at = atomic_load_explicit(&g->figures[pool].answered_ns, memory_order_relaxed);

    *ret_ago_ms = at && now > at ? (now - at) / NS_PER_MS : 0;
    return !is_probed(g, pool) || (at && now < at + window_ns(g));
}

static bool all_answered(const struct gateway *g)
{
    uint64_t now = clock_monotonic_ns(), ago;
    bool good = true;

    for (uint32_t i = 0; i < g->config->n_pools; i++)
        good = answered(g, i, now, &ago) && good;
    return good;
}

/* Takes `w`. */
static void answer(struct gateway *g, struct admin_wait *w)
{
    struct buf b;
    struct json j = { .out = &b };
    uint64_t now = clock_monotonic_ns(), ago;
    bool good = all_answered(g) && !g->draining;

    if (!w->x) {
        admin_wait_free(w);
        return;
    }
    buf_init(&b, 0);
    json_open(&j, NULL, '{');
    json_text(&j, "status", good ? STR("ok") : g->draining ? STR("stopping") : STR("failing"));
    json_number(&j, "window_ms", window_ns(g) / NS_PER_MS);
    json_open(&j, "pools", '[');
    for (uint32_t i = 0; i < g->config->n_pools; i++) {
        json_open(&j, NULL, '{');
        json_text(&j, "name", g->config->pools[i].name);
        json_bool(&j, "ok", answered(g, i, now, &ago));
        if (!is_probed(g, i))
            json_bool(&j, "judged", false);
        if (is_probed(g, i) &&
            atomic_load_explicit(&g->figures[i].answered_ns, memory_order_relaxed))
            json_number(&j, "answered_ms_ago", ago);
        json_close(&j, '}');
    }
    json_close(&j, ']');
    json_close(&j, '}');
    page_put(&b, "\n");
    respond_own(w->x, good ? 200 : 503, "application/json", STR("Cache-Control: no-store\r\n"),
                buf_view(&b));
    buf_fini(&b);
    admin_wait_free(w);
}

static void on_window(struct loop_timer *timer)
{
    struct admin_wait *w = CONTAINER_OF(timer, struct admin_wait, timer);

    answer(w->thread->gateway, w);
}

/* --- probes ----------------------------------------------------------------------------------- */

static void on_probe(struct loop_watch *watch, unsigned events)
{
    struct probe *p = CONTAINER_OF(watch, struct probe, watch);
    struct gateway *g = p->gateway;
    char text[512];

    (void)events;
    ssize_t n = recv(watch->fd, text, sizeof(text), 0);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    /* The end: the answer is complete, and the worker's word was noted when it came. */
    loop_watch_close(g->threads[0].loop, watch);
    g->probing[p->pool] = false;
    mem_free(p);
    LIST_FOR_EACH_SAFE(it, &g->checks) {
        struct admin_wait *w = LIST_ENTRY(it, struct admin_wait, link);
        if (all_answered(g))
            answer(g, w);
    }
}

static void start_probe(struct gateway *g, uint32_t pool)
{
    static const char head[] = "GET / HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n";
    int ends[2];

    if (g->probing[pool] ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return;
    struct probe *p = mem_zalloc(sizeof(*p));
    p->gateway = g;
    p->pool = pool;
    int r = loop_watch_add(g->threads[0].loop, &p->watch, ends[0], LOOP_READ, on_probe);
    struct conn *c = r == 0 ? conn_accept(&g->threads[0], ends[1], CONN_FROM_HEALTH) : NULL;
    if (!c) {
        if (r == 0)
            loop_watch_remove(g->threads[0].loop, &p->watch);
        else
            close(ends[1]);
        close(ends[0]);
        mem_free(p);
        return;
    }
    c->probe_pool = pool;
    g->probing[pool] = true;
    ssize_t sent = send(ends[0], head, sizeof(head) - 1, MSG_NOSIGNAL);
    CHECK(sent == (ssize_t)sizeof(head) - 1); /* a fresh socket has room for it */
}

void health_check(struct gateway *g, struct admin_wait *w)
{
    uint64_t now = clock_monotonic_ns(), ago;

    if (g->draining || all_answered(g)) {
        answer(g, w);
        return;
    }
    list_push_back(&g->checks, &w->link);
    loop_timer_set(w->thread->loop, &w->timer, now + window_ns(g), on_window);
    for (uint32_t i = 0; i < g->config->n_pools; i++)
        if (!answered(g, i, now, &ago))
            start_probe(g, i);
}
