/*
 * upstream: FastCGI servers (php-fpm) as a backend. One object for a group of servers and a gateway
 * thread; generations with the same group share it, so that a reload does not double the
 * connections.
 *
 * A server that serves N requests at once (pm.max_children) gets at most N connections from all
 * threads together, whether they are kept open or not: php-fpm gives a child to a connection, not
 * to a request, so one connection too many waits behind an idle one. Requests beyond that wait
 * here, in order. When a client goes away or a time limit passes while the script runs, its child
 * goes on for a while: the connection keeps its place in the count until the server says something.
 *
 * Failure is passive and means that no connection could be made. A failed server is left out for a
 * while that doubles with each failure; then one request probes it (half open) and ends or renews
 * the break. A broken or nonsensical answer is its request's fault, not the server's: one script
 * that crashes must not take the server from the others.
 *
 * A request is tried again when nothing of it was sent, or when its method is idempotent (RFC 9110
 * section 9.2.2) and nothing of an answer's body or head was passed on.
 */
#ifndef SAPID_GATEWAY_UPSTREAM_H
#define SAPID_GATEWAY_UPSTREAM_H

#include "gateway/gateway_int.h"

struct upstream;

/* A reference to the thread's object for that group; `config` is copied. */
struct upstream *upstream_get(struct gateway_thread *t, const struct config_fastcgi *config);
/* Without references it finishes its requests and goes. NULL is fine. */
void upstream_put(struct upstream *u);
/* `pool` gives queue_timeout and request_timeout. Takes the request over: answers it in any case,
 * 502, 503 and 504 included. Never at once: the exchange is still there when this returns. */
void upstream_push(struct upstream *u, struct exchange *x, const struct config_pool *pool,
                   const struct channel_request *r, const struct channel_pair *headers);
/* The client is gone, or the exchange ends. */
void upstream_forget(struct exchange *x);
/* Still waiting for a connection: out of the queue. False: it was sent. */
bool upstream_withdraw(struct exchange *x);
/* The client took what waited: read on. */
void upstream_resume(struct exchange *x);
/* After a batch of events: waiting requests to connections that have become free. */
void upstream_poll(struct gateway_thread *t);

/* upstream_params.c: the request as FastCGI parameters, appended to `params`. `sends_files`:
 * scripts are told so. 0 or -errno. */
MUST_USE int upstream_params(struct buf *params, const struct channel_request *r,
                             const struct channel_pair *headers, bool sends_files);

/* --- what status pages show ------------------------------------------------------------------- */

/* Of one group of servers and a thread, since it was made. */
struct upstream_counters {
    uint64_t requests;       /* taken over */
    uint64_t waited;         /* of them, for a connection */
    uint64_t queue_full;     /* answered 503 at once: queue_size */
    uint64_t refused;        /* answered 502 or 503: no server took them, or queue_full */
    uint64_t stderr_records; /* to the error log */
};
/* Of one server and a thread. */
struct upstream_server_counters {
    uint64_t requests;        /* sent to it, those tried again included */
    uint64_t connections;     /* opened */
    uint64_t reused;          /* requests on a kept connection */
    uint64_t failed_connects; /* what the breaker looks at */
    uint64_t broken;          /* connections lost with a request, nonsensical answers included */
    uint64_t timeouts;        /* response_timeout, request_timeout */
    uint64_t retried;         /* requests that went elsewhere, or here once more, after a loss */
    uint64_t ejected;         /* left out */
};
enum upstream_breaker { UPSTREAM_IN_SERVICE, UPSTREAM_LEFT_OUT, UPSTREAM_HALF_OPEN };
struct upstream_server_look {
    const char *address; /* as configured; valid during the call */
    enum upstream_breaker breaker;
    uint64_t out_for_ms;    /* UPSTREAM_LEFT_OUT: until it is probed; 0: by the next request */
    uint32_t failures;      /* to connect, in a row */
    uint32_t weight, limit; /* limit: connections of this thread, 0 none */
    uint32_t active;        /* connections with a request, or whose script may still run */
    uint32_t idle;          /* kept open */
    struct upstream_server_counters count;
};
struct upstream_look {
    uint32_t queued; /* requests that wait for a connection */
    uint32_t queue_size;
    bool going; /* no generation uses it any more: it finishes its requests */
    uint32_t n_servers;
    const struct upstream_server_look *servers; /* valid during the call */
    struct upstream_counters count;
};
/* In the thread that owns them: calls `see` with each group of servers. A server belongs to as many
 * groups as there are different [fastcgi] settings in use, two of them for a while after a reload
 * that changed something; figures of one address may be added up over groups and threads, the
 * breaker is each thread's own. */
void upstream_look(const struct gateway_thread *t,
                   void (*see)(void *ctx, const struct upstream_look *look), void *ctx);

#endif
