/*
 * upstream, inside: what its files share.
 *
 *   upstream.c          groups of servers, and the requests that go to them or wait for one
 *   upstream_server.c   one server: whose turn it is, and whether it is in service (the breaker)
 *   upstream_pool.c     its connections: opened, kept idle, given up, closed
 *   upstream_conn.c     one connection with a request: sent, answered, retried or lost
 *   upstream_params.c   the request as FastCGI parameters
 *   upstream_file.c     files that an answer asks for
 *
 * All of it belongs to one thread.
 */
#ifndef SAPID_GATEWAY_UPSTREAM_INT_H
#define SAPID_GATEWAY_UPSTREAM_INT_H

#include "gateway/upstream.h"
#include "http/fastcgi.h"

enum {
    UPSTREAM_MAGIC = 0x55505347,
    UPSTREAM_CONN_MAGIC = 0x55505354,
    UPSTREAM_HEAD_BYTES_MAX = 256 * 1024, /* of a CGI response head */
    UPSTREAM_ADDRESSES_MAX = 4,
    UPSTREAM_CONNECTS_MAX = 8, /* of one request, before it is given up */
};

/* --- upstream_server.c ------------------------------------------------------------------------ */

struct upstream_address {
    struct sockaddr_storage storage;
    socklen_t bytes;
};

struct upstream_server {
    struct upstream_address addresses[UPSTREAM_ADDRESSES_MAX];
    uint32_t n_addresses, at; /* 0: the name was not found; `at` is tried next */
    char *text;
    uint32_t weight, limit; /* limit 0: none */
    int32_t current;        /* smooth weighted round robin */
    uint32_t occupied;      /* connections with a request, and those whose script may still run */
    struct list idle;       /* struct upstream_conn */
    uint32_t n_idle;
    uint32_t failures;      /* in a row */
    uint64_t out_until_ns;  /* 0: in service */
    uint64_t full_until_ns; /* its backlog was full */
    bool probing;           /* half open: one request is out to see */
    struct upstream_server_counters count;
};

struct upstream {
    uint32_t magic;
    struct list link; /* thread->upstreams */
    struct gateway_thread *thread;
    uint32_t refs;
    struct config_fastcgi config; /* its `servers` is not used: the servers' texts are ours */
    struct upstream_server *servers;
    struct list queue; /* struct exchange, by link */
    uint32_t n_queue;
    struct list busy;        /* struct upstream_conn: with a request, or abandoned */
    struct loop_timer retry; /* a server comes back: the queue goes on */
    bool due;                /* room may have come: look at the queue after this batch */
    struct upstream_counters count;
};

/* `limit`: connections of this thread, 0 none. Looks the name up, which may block. */
void upstream_server_init(struct upstream_server *s, const struct config_fastcgi_server *c,
                          uint32_t limit);
void upstream_server_fini(struct upstream_server *s);
/* In service, or due to be probed; and not full. */
bool upstream_server_can_take(const struct upstream_server *s, uint64_t now);
/* Whose turn it is among those that can take a request; NULL: none can. */
struct upstream_server *upstream_server_pick(struct upstream *u, uint64_t now);
/* Is there a server to wait for: a full one, one that is being probed, or one that is back soon? */
bool upstream_worth_waiting(const struct upstream *u, uint64_t now);
/* When a server comes back, or has room in its backlog again; UINT64_MAX: none is awaited. */
uint64_t upstream_next_return(const struct upstream *u, uint64_t now);
/* No connection could be made. */
void upstream_server_failed(struct upstream *u, struct upstream_server *s, const char *why);
/* One was made. */
void upstream_server_works(struct upstream_server *s);

/* --- upstream_pool.c -------------------------------------------------------------------------- */

enum upstream_conn_state {
    UPSTREAM_RUNNING,   /* has a request, though it may be connecting yet */
    UPSTREAM_IDLE,      /* kept open */
    UPSTREAM_ABANDONED, /* its request is gone, its script may run on */
};

struct upstream_conn {
    uint32_t magic;
    enum upstream_conn_state state;
    struct list link; /* server->idle or upstream->busy */
    struct loop_watch watch;
    struct loop_timer timer;
    struct upstream *upstream;
    struct upstream_server *server;
    struct exchange *exchange; /* UPSTREAM_RUNNING */
    bool connected, reused, may_read, may_write, hangup;
    bool probe;     /* connecting decides about the server */
    bool kept;      /* the server was asked to keep it open */
    bool sent;      /* some of the request */
    bool cut_short; /* the server did not take all of the request */
    bool any_bytes; /* of an answer */
    bool head_done; /* and passed on */
    bool no_body;   /* a file is sent instead of what follows */
    struct buf out, in;
    struct buf cgi;   /* response head so far */
    uint64_t ends_ns; /* request_timeout; UINT64_MAX: none */
    uint64_t body_at, body_end;
    bool stdin_closed;
    struct fastcgi_reader reader;
};

/* A connection for the request, idle or new. NULL: none now; every failure on the way counted. */
struct upstream_conn *upstream_conn_take(struct upstream *u, struct exchange *x, uint64_t now);
/* Its answer is complete and it may serve another request. */
void upstream_conn_keep(struct upstream_conn *c);
/* Its request needs it no longer, but its child may run on: it holds its place until the server
 * says something, which closing then ends, or closes. Without a limit there is no place to hold. */
void upstream_conn_abandon(struct upstream_conn *c);
void upstream_conn_free(struct upstream_conn *c);
void upstream_free_idle(struct upstream_server *s);

/* --- upstream_conn.c -------------------------------------------------------------------------- */

/* The first records of the request into its buffer. 0 or -errno. */
MUST_USE int upstream_conn_begin(struct upstream_conn *c, struct exchange *x);
/* Sends and reads as far as it goes. May end the request, and the connection with it. */
void upstream_conn_go_on(struct upstream_conn *c);
/* Passes on what has come. True: the connection is still there and may be read from. */
bool upstream_conn_deliver(struct upstream_conn *c);
void upstream_conn_connected(struct upstream_conn *c);
void upstream_conn_on_ready(struct loop_watch *w, unsigned events);
/* From now on, at most so long until something happens. */
void upstream_conn_await(struct upstream_conn *c, uint64_t timeout_ms);

/* --- upstream_file.c -------------------------------------------------------------------------- */

struct upstream_files;
/* The sendfile_roots and accel_locations of the pool; NULL when it has none. 0 or -ENOMEM. */
MUST_USE int upstream_files_new(const struct config_pool *pool, struct upstream_files **ret);
void upstream_files_free(struct upstream_files *f);
/* A descriptor of the file that the head of an answer asks for instead of its body; -ENODATA: none;
 * else why it cannot be sent, -errno, which has been logged. */
MUST_USE int upstream_files_open(const struct upstream_files *f, const struct exchange *x,
                                 struct str lines);

/* --- upstream.c ------------------------------------------------------------------------------- */

/* What an exchange carries through retries: everything but the body, which the exchange has. */
struct upstream_request {
    struct buf params;
    struct upstream *upstream;
    struct upstream_conn *conn; /* NULL: queued */
    uint32_t connects, losses;
    uint64_t queue_timeout_ms, request_timeout_ms; /* of the pool; 0: none */
    struct upstream_files *files;                  /* NULL: X-Sendfile means nothing */
};

/* Sends the request to a server, or lets it wait for one. */
void upstream_start(struct upstream *u, struct exchange *x);
/* The exchange goes on without FastCGI. */
void upstream_detach(struct exchange *x);
/* Room may have come for what waits. */
void upstream_due(struct upstream *u);

#endif
