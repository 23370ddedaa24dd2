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

/* upstream_params.c: the request as FastCGI parameters, appended to `params`. 0 or -errno. */
MUST_USE int upstream_params(struct buf *params, const struct channel_request *r,
                             const struct channel_pair *headers);

struct upstream_counters {
    uint64_t requests, connections, reused, retried, failed_connects, broken, timeouts, ejected,
        refused, waited, stderr_records;
};
/* Adds those of all groups of the thread. */
void upstream_count(const struct gateway_thread *t, struct upstream_counters *sum);

#endif
