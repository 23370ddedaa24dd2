/*
 * request_timeout: the wall-clock limit of a running request, as PHP-FPM's
 * request_terminate_timeout. A worker beyond it is killed by its pool process and its request is
 * answered 504. A [[route]] may have a limit of its own, shorter or longer than its pool's.
 *
 * Nothing is paid per request: when a worker began is in the channel anyway, so a timer of the
 * first thread looks at all workers of a generation a few times within the limit. That finds
 * requests whose clients have gone and answers that are being streamed, too. A worker that ends by
 * itself just then may have its next request killed instead; the window is that of a signal.
 */
#include <string.h>

#include "gateway/gateway_int.h"

enum { LOOKS_PER_LIMIT = 8, LOOK_MS_MIN = 20, LOOK_MS_MAX = 1000 };

/* The route's limit when the request in that slot came by one that has its own, else the pool's. */
static uint64_t limit_ns(const struct pool_link *link, uint32_t slot)
{
    uint64_t ms = link->config->pools[link->pool].request_timeout_ms;

    if (slot < channel_geometry(link->channel)->slots) {
        uint32_t own = atomic_load_explicit(&link->limits_ms[slot], memory_order_relaxed);
        ms = own ? own : ms;
    }
    return ms * NS_PER_MS;
}

/* The shortest limit that a request of this generation may have; 0: none has one. */
static uint64_t shortest_ms(const struct pool_link *link)
{
    uint64_t shortest = link->config->pools[link->pool].request_timeout_ms;

    for (uint32_t i = 0; i < link->config->n_routes; i++) {
        uint64_t ms = link->config->routes[i].request_timeout_ms;
        if (ms && (shortest == 0 || ms < shortest))
            shortest = ms;
    }
    return shortest;
}

bool overdue_worker(const struct pool_link *link, uint32_t worker)
{
    struct channel_worker_info info;
    uint64_t now = clock_monotonic_ns();

    channel_worker_look(link->channel, worker, &info);
    uint64_t limit = limit_ns(link, info.ticket.slot);
    if (limit == 0)
        return false;
    /* since_ns is the worker's own word: one in the future is no reason for anything */
    return info.state == CHANNEL_WORKER_BUSY && now > info.since_ns && now - info.since_ns >= limit;
}

static void kill_overdue(struct pool_link *link, uint32_t worker)
{
    struct control_message m;

    control_message_init(&m, CONTROL_WORKER_KILL);
    m.pool = link->pool;
    m.generation = link->generation;
    m.worker = worker;
    m.incarnation = link->incarnations[worker];
    control_message_set_text(&m, STR("its request ran longer than request_timeout"));
    int r = control_send(link->socket.fd, &m, NULL, 0);
    if (r < 0)
        log_error("cannot ask for the end of worker %u: %s", worker, strerror(-r));
}

static void set_timer(struct pool_link *link);

static void on_look(struct loop_timer *timer)
{
    struct pool_link *link = CONTAINER_OF(timer, struct pool_link, overdue);
    uint32_t workers = channel_geometry(link->channel)->workers;

    if (link->dead || link->closing)
        return;
    for (uint32_t w = 0; w < workers; w++)
        if (link->recovering[w] == 0 && overdue_worker(link, w))
            kill_overdue(link, w);
    set_timer(link);
}

static void set_timer(struct pool_link *link)
{
    uint64_t ms = shortest_ms(link) / LOOKS_PER_LIMIT;

    ms = ms < LOOK_MS_MIN ? LOOK_MS_MIN : ms > LOOK_MS_MAX ? LOOK_MS_MAX : ms;
    loop_timer_set(link->gateway->threads[0].loop, &link->overdue,
                   clock_monotonic_ns() + ms * NS_PER_MS, on_look);
}

void overdue_watch(struct pool_link *link)
{
    if (shortest_ms(link) > 0)
        set_timer(link);
}

void overdue_forget(struct pool_link *link)
{
    loop_timer_cancel(link->gateway->threads[0].loop, &link->overdue);
}
