/*
 * upstream: FastCGI servers (php-fpm) as a backend. One instance per group and gateway thread.
 *
 * A server that serves N requests at once (pm.max_children) gets at most N connections, whether
 * they are kept open or not: php-fpm gives a child to a connection, not to a request, so one
 * connection too many waits behind an idle one. Requests beyond that wait here, in order.
 *
 * Failure is passive: connecting failed, the connection broke, nonsense came. A failed server is
 * left out for a while that doubles with each failure; then one request probes it (half open) and
 * closes or renews the break. A request is tried again elsewhere when nothing of it was sent, or
 * when its method is idempotent (RFC 9110 section 9.2.2) and nothing of an answer came.
 */
#ifndef SAPID_GATEWAY_UPSTREAM_H
#define SAPID_GATEWAY_UPSTREAM_H

#include "gateway/gateway_int.h"

struct upstream;
struct upstream_conn;

MUST_USE int upstream_new(struct gateway_thread *t, const struct config_fastcgi *config,
                          struct upstream **ret);
/* No request may be in it. Closes idle connections. */
void upstream_free(struct upstream *u);
/* Takes the request over: answers it in any case, 502, 503 and 504 included. `headers` as in r. */
void upstream_push(struct upstream *u, struct exchange *x, const struct channel_request *r,
                   const struct channel_pair *headers);
/* The client is gone, or the exchange ends: its connection is closed, since the server may still
 * write. */
void upstream_forget(struct exchange *x);
/* Still waiting for a connection: out of the queue. False: it was sent. */
bool upstream_withdraw(struct exchange *x);
/* The client took what waited: read on. */
void upstream_resume(struct exchange *x);

struct upstream_counters {
    uint64_t requests, connections, reused, retried, failed_connects, broken, timeouts, ejected,
        refused, stderr_lines;
};
void upstream_count(const struct upstream *u, struct upstream_counters *ret);

#endif
