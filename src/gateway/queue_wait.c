/*
 * How long a request waits for an idle worker: queue_timeout, then 503. A request whose client has
 * closed the connection is not run for nobody: under overload people press reload, and each time
 * leave a request behind. A client that only closed its sending half looks the same and may still
 * want its answer; it gets it when a worker takes the request within half a second. nginx gives it
 * no time at all.
 *
 * Worker mode has a second reason why nobody takes a request: all its scripts may be on their way
 * to their first frankenphp_handle_request() and hang there, with a database that does not answer,
 * say. A script that fails says so and its worker answers 500 itself (src/php/engine/loop.c); one
 * that hangs can do nothing. So while a request waits for a worker script, its timer looks every
 * few seconds whether anybody could take it, and answers 500 if not.
 */
#include <inttypes.h>

#include "gateway/gateway_int.h"

enum {
    LOOK_MS = 4000,    /* the pool process waits up to 5 s for a first boot, before this counts */
    HANGING_MS = 3000, /* without a sign of life, while requests are waiting */
    TELL_MS = 10000,   /* between two lines of the log */
    LEFT_MS = 500,     /* a client that only closed its half is answered within this, if at all */
};

static uint64_t limit_ms(const struct pool_link *link)
{
    return link->config->pools[link->pool].queue_timeout_ms;
}

static void arm(struct exchange *x)
{
    const struct pool_link *link = x->backend->pool;
    uint64_t left = limit_ms(link) - x->waited_ms;

    x->wait_step_ms = (uint32_t)(link->loop_script && left > LOOK_MS ? LOOK_MS : left);
    conn_deadline(x->conn, x->wait_step_ms);
}

void queue_wait_begin(struct exchange *x)
{
    x->waited_ms = 0;
    arm(x);
}

/* No worker runs a request, and none has begun or finished to wait for one for a while, although
 * one is queued: every script is on its way there. */
static bool nobody_boots(const struct pool_link *link)
{
    uint64_t now = clock_monotonic_ns();

    for (uint32_t w = 0; w < channel_geometry(link->channel)->workers; w++) {
        struct channel_worker_info info;
        channel_worker_look(link->channel, w, &info);
        if (info.state == CHANNEL_WORKER_BUSY)
            return false;
        if (info.state == CHANNEL_WORKER_IDLE && info.since_ns + HANGING_MS * NS_PER_MS > now)
            return false;
    }
    return true;
}

/* One thread does, and not for every request. */
static void tell(struct pool_link *link)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t told = atomic_load_explicit(&link->hang_told_ns, memory_order_relaxed);

    if ((told == 0 || now - told >= TELL_MS * NS_PER_MS) &&
        atomic_compare_exchange_strong_explicit(&link->hang_told_ns, &told, now,
                                                memory_order_relaxed, memory_order_relaxed))
        log_error("pool %.*s: requests are answered 500: no process of worker script %s has called "
                  "frankenphp_handle_request() yet; look at what it waits for before that (a "
                  "database, a lock, another server)",
                  STR_ARG(link->config->pools[link->pool].name), link->loop_script);
}

static void refuse(struct exchange *x, struct pool_link *link)
{
    tell(link);
    x->conn->thread->count.queue_timeouts++;
    if (link->config->dev)
        respond_explained(x, 500,
                          "The worker script has started, but has not called "
                          "frankenphp_handle_request() yet. It hangs, or its boot takes long: look "
                          "at what it waits for (a database, a lock, another server).");
    else
        respond_status(x, 500, STR("Retry-After: 5\r\n"));
    conn_advance(x->conn);
}

void queue_wait_client_left(struct exchange *x)
{
    if (x->client_left || !x->backend || !x->backend->pool->channel)
        return;
    x->client_left = true;
    x->wait_step_ms = LEFT_MS;
    conn_deadline(x->conn, LEFT_MS);
}

static void drop_left(struct exchange *x)
{
    struct conn *c = x->conn;

    if (!backend_withdraw(x)) { /* it runs: back to the time limit for taking its answer */
        conn_deadline(c, c->thread->gateway->config->server.send_timeout_ms);
        return;
    }
    c->thread->count.aborted++;
    conn_close(c);
}

bool queue_wait_goes_on(struct exchange *x)
{
    struct pool_link *link = x->backend ? x->backend->pool : NULL;
    uint32_t worker;

    if (link && link->channel && x->client_left && x->wait_step_ms == LEFT_MS) {
        x->wait_step_ms = 0; /* once */
        drop_left(x);
        return true;
    }

    if (!link || !link->loop_script ||
        channel_ticket_state(link->channel, x->ticket, &worker) != CHANNEL_QUEUED)
        return false;
    x->waited_ms += x->wait_step_ms;
    if (nobody_boots(link) && backend_withdraw(x)) {
        refuse(x, link);
        return true;
    }
    if (!x->backend || x->waited_ms >= limit_ms(link))
        return false;
    arm(x);
    return true;
}
