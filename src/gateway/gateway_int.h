/*
 * gateway, inside: the structures its files share.
 *
 *   gateway.c   process: boot, control messages, generations, threads
 *   thread.c    one event-loop thread: mailbox, hooks around the poll, idle connections
 *   conn.c      one client connection: accept, read, parse, time limits, close
 *   exchange.c  one request and its answer: routing, request body, access log
 *   respond.c   framing and sending: answers of our own, static files, the bounded output queue
 *   backend.c   one pool generation as a thread sees it: channel in, ring out, recovery
 *   upstream*.c FastCGI servers: connections, balancing, retries (upstream_int.h)
 *   images.c    requests of entry scripts that have an image
 *   bulkhead.c  limits of routes, and the slow lane
 *   stats.c     what is counted of requests, by thread
 *   admin.c     the admin socket, status_path, ping_path; page.c, status_*.c, metrics.c: the pages
 *   health.c    /healthz and its probes
 *   fallback.c  to PHP-FPM, after too many crashes
 *   probe.c     requests that the server makes to itself
 *   stream.c    request bodies that a worker reads while they come
 *   spool.c     unlinked files for what does not fit in memory
 *   trust.c     which peers may speak for a client
 *   access_log.c, files.c, static.c, mime.c
 *
 * Everything a connection needs belongs to one thread; between threads there are only mailbox
 * commands and the read-only configuration.
 */
#ifndef SAPID_GATEWAY_GATEWAY_INT_H
#define SAPID_GATEWAY_GATEWAY_INT_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "channel/channel.h"
#include "channel/control.h"
#include "config/config.h"
#include "gateway/files.h"
#include "http/http.h"
#include "loop/loop.h"

enum {
    CONN_MAGIC = 0x434f4e4e,
    EXCHANGE_MAGIC = 0x45584348,
    BACKEND_MAGIC = 0x4241434b,
    POOLS_MAX = CONFIG_SEATS_MAX, /* with those of images */
    PLACES_MAX = 256,             /* where requests are counted: stats.h */
    LISTENERS_MAX = CONTROL_LISTENERS_MAX,
    IN_BUFFER_BYTES = 8192, /* first input buffer of an active connection, pooled per thread */
    OUT_MEMORY_MAX = 256 *
                     1024, /* answer bytes in memory for a slow client before the spool file */
    LINGER_BYTES_MAX = 64 * 1024 *
                       1024, /* an upload refused half-way: its client must see the 413 */
    LINGER_MS = 5000,
    REQUEST_ID_BYTES = 16,
};

/* --- one client address ----------------------------------------------------------------------- */
enum { ADDRESS_TEXT_MAX = 46 }; /* INET6_ADDRSTRLEN */
struct address {
    uint16_t port;
    uint8_t length;
    char text[ADDRESS_TEXT_MAX]; /* "" for a unix socket */
};
void address_from_sockaddr(struct address *a, const struct sockaddr_storage *ss);

/* --- trust.c ---------------------------------------------------------------------------------- */
struct trust;
/* From [server] trusted_proxies; 0, -EINVAL with the offending text in *ret_bad. */
MUST_USE int trust_new(const struct config_strings *list, struct trust **ret, struct str *ret_bad);
void trust_free(struct trust *t);
/* `text` is an address without port; "" stands for a unix-socket peer. */
bool trust_has(const struct trust *t, struct str text);

/* --- the process ------------------------------------------------------------------------------ */
struct listener {
    int fd;
    uint32_t index; /* in config->server.listen */
    bool is_unix;
    char unlink_path[108]; /* unix socket to remove when the whole server was killed; "" none */
};

struct place;
struct place_stats;
struct pool_figures;
struct gate;
struct lane;
struct lane_class;
struct admin_wait;
struct link_image;
struct image_figures;
struct gateway {
    struct config *config;
    struct trust *trust;
    struct control_boot boot;
    struct gateway_thread *threads;
    uint32_t n_threads;
    struct listener listeners[LISTENERS_MAX];
    uint32_t n_listeners;
    struct loop_watch control;
    struct list links; /* struct pool_link: live generations, main thread only */
    bool listening, draining;
    uint32_t drain_idle_ms; /* that idle connections may stay while it drains */
    uint32_t drained_threads, deaf_threads;
    _Atomic uint64_t spooled_bytes; /* of all threads, against spool_limit */
    uint64_t spool_limit;           /* max_spool_size, or less where the disk has less */
    int access_fd;                  /* -1: off */
    uint64_t id_prefix;             /* request ids: prefix of this process, then a counter */

    struct place *places[PLACES_MAX]; /* stats.h; written by the main thread */
    _Atomic uint32_t n_places;
    struct pool_figures *figures; /* by pool */
    struct gate *slow_lanes;      /* by pool: bulkhead.h */
    struct image_figures *images; /* by pool: images.h */
    uint64_t started_realtime_ns;
    struct loop_watch admin; /* the admin socket; this and what follows: main thread */
    struct list commands;    /* struct admin_wait: for the supervisor's result */
    struct list checks;      /* struct admin_wait: for a probe */
    uint32_t last_command;
    bool probing[POOLS_MAX];
};

/* --- one pool generation ---------------------------------------------------------------------- */
/* Shared by all threads; the main thread (thread 0) owns the sockets. */
struct pool_link {
    struct list link;
    uint32_t pool, generation;
    struct config *config;     /* of this generation; owned when it is not the gateway's own */
    struct rules *rules;       /* [[route]] of `config` */
    struct place **places;     /* by route */
    bool has_pages;            /* a pool has a status_path or ping_path */
    uint32_t workers;          /* that may run at once; 0: no process */
    bool grows;                /* its number of workers changes */
    _Atomic uint64_t asked_ns; /* when more workers were asked for last */
    _Atomic uint32_t inflight;
    char *document_root;
    int root_fd;
    char *loop_script; /* a pool in worker mode: its script, and the SCRIPT_NAME of its requests */
    struct str loop_name;
    struct link_image *image; /* images.h; NULL: it is none */
    _Atomic uint64_t *asked;  /* by snapshot_scripts: when its image was asked for */
    struct asked *asked_by_workers;
    struct report *report;   /* of a pool with an image; NULL: none. First thread only */
    struct channel *channel; /* NULL: no process, its PHP requests go to FastCGI servers */
    int *eventfds;
    int *worker_sockets;     /* by worker index, -1 none */
    _Atomic uint64_t *marks; /* by slot: fallback_mark of its request */
    uint32_t *causes;        /* of the last death of each worker: a control_cause */
    uint32_t *incarnations;  /* announced by WORKER_START */
    uint32_t *recovering;    /* threads that have yet to recover this worker's predecessor */
    bool *announced;         /* a successor waits for that recovery */
    struct worker_watch *watches;
    struct loop_watch socket; /* to the pool process */
    int socket_fd;
    struct control_boot boot; /* where `config` came from, when it is its own */
    struct gateway *gateway;
    bool ready, active, dead, closing;
    struct fallback *fallbacks;    /* of the pool, then of each of config->routes */
    _Atomic uint64_t hang_told_ns; /* queue_wait.c */
    uint32_t idle_threads;    /* threads without a request of this generation while it drains */
    uint32_t drains;          /* how often it became the old one; news of an earlier time is void */
    uint32_t removed_threads; /* threads that have let go of it */
};

/* --- fallback.c ------------------------------------------------------------------------------- */
void fallback_init(struct pool_link *link);
void fallback_fini(struct pool_link *link);
/* Do the pool's PHP requests go to its FastCGI servers? Any thread. */
bool fallback_pool(const struct pool_link *link);
/* Do those of this route? `link` is the first pool's generation, whose [[route]] it is. */
bool fallback_route(const struct pool_link *link, const struct config_route *rule);
/* What a slot remembers of the route of its request; 0: nothing (rule NULL, or without fallback).
 */
uint64_t fallback_mark(const struct pool_link *link, const struct config_route *rule);
/* First thread: a worker ended, and what it ran is not yet recovered. */
void fallback_on_death(struct pool_link *link, uint32_t worker, int wait_status);
/* The supervisor says that it fell back in an earlier generation: 0 the pool, else 1 + route. */
void fallback_remember(struct pool_link *link, uint32_t which);
/* `link` takes over: says so when what `old` had fallen back from is over. */
void fallback_say_end(const struct pool_link *link, const struct pool_link *old);

/* The same generation in one thread. */
struct backend {
    uint32_t magic;
    struct list link; /* thread->backends */
    struct pool_link *pool;
    struct gateway_thread *thread;
    struct loop_watch news; /* the thread's eventfd of this channel */
    struct files *files;
    struct upstream *upstream;  /* FastCGI servers for its PHP requests; NULL: there are none */
    struct exchange **inflight; /* by slot */
    uint32_t pushed;            /* since the last wake */
    uint32_t n_inflight;        /* requests given to the channel and not yet released */
    bool draining, drain_reported;
    uint32_t drains;      /* as in the link, when it began to drain */
    uint32_t awaits_pool; /* of an image that takes over when its pool does; 0: it does not */
};

/* --- one request and its answer --------------------------------------------------------------- */
enum exchange_body { BODY_NONE, BODY_MEMORY, BODY_SPOOL, BODY_STREAM, BODY_DISCARD };

struct out_queue {
    struct buf memory; /* first to send */
    int spool_fd;      /* then this file; -1 none */
    uint64_t spool_at, spool_end;
};

struct exchange {
    uint32_t magic;
    struct conn *conn;
    struct list link;                  /* thread->waiting[pool]: no generation active yet */
    struct backend *backend;           /* while in a channel */
    struct place *place;               /* where it is counted; NULL: nowhere */
    struct gate *waits_in;             /* bulkhead.h: in whose queue `link` is */
    struct gate *gates[2];             /* of its route and of the slow lane: held */
    struct lane_class *class;          /* NULL: none */
    struct list class_link;            /* class->running */
    uint64_t pushed_ns;                /* when it was let through the gates */
    bool admitted;                     /* its gates were taken before */
    bool no_image;                     /* its script's image did not take it */
    struct admin_wait *wait;           /* a page about the server that is not ready */
    struct upstream_request *upstream; /* while with a FastCGI server, or waiting for one */
    struct channel_ticket ticket;
    uint32_t pool; /* index, for requeueing */

    /* request */
    uint32_t head_bytes;  /* head at the start of conn->in, kept until the answer is complete */
    uint64_t started_ns;  /* monotonic, first byte of the head */
    uint64_t received_ns; /* realtime, for REQUEST_TIME_FLOAT */
    uint64_t id;
    enum http_method method;
    uint8_t minor;
    bool keep_alive;
    bool wants_continue;
    enum exchange_body body_sink;
    struct http1_body body_decoder;
    bool body_complete;
    struct buf body; /* BODY_MEMORY */
    int body_fd;     /* BODY_SPOOL; BODY_STREAM: the worker's end of the pipe, until it asks */
    int file_fd;     /* handed over by the worker: body of a CHANNEL_FILE answer; -1 none */
    uint64_t body_bytes;
    uint64_t body_spooled;          /* of them in body_fd */
    struct loop_watch stream_watch; /* our end of the pipe; without on_ready: there is none */
    struct loop_timer stream_timer; /* body_timeout, while the client is waited for */
    size_t stream_left;             /* decoded bytes behind the head in conn->in, for the pipe */
    bool stream_ended;              /* they are the last ones */
    int early_status;               /* answer to give once the body was discarded */
    uint32_t limit_ms;              /* request_timeout of its route, 0: the pool's */
    uint64_t waited_ms;             /* in the queue, up to the timer's last look */
    uint32_t wait_step_ms;          /* until its next one */
    bool client_left;               /* its client sends no more: it leaves the queue soon */
    uint64_t route_mark;            /* fallback_mark of its route */

    /* answer */
    int status;
    bool head_sent;
    bool body_allowed; /* not HEAD, 1xx, 204, 304 */
    bool chunked;
    bool complete;    /* all of it is in `out` or sent */
    bool failed;      /* cannot be completed: close when `out` is sent */
    bool stalled;     /* ring data waits for room in `out`, or for a file */
    bool awaits_file; /* its descriptor comes on another way than its head (CONTROL_FILE) */
    uint32_t stalled_worker;
    int64_t declared;      /* Content-Length given by PHP, -1 none */
    uint64_t body_sent;    /* body bytes taken from the backend */
    uint64_t wire_bytes;   /* everything written to the client */
    uint64_t wire_heads;   /* of them heads, interim ones included */
    struct buf head_parts; /* HEAD that came in parts */
    struct out_queue out;
    struct static_plan *plan; /* static answer not yet sent */
    uint32_t plan_segment;
};

/* --- one connection --------------------------------------------------------------------------- */
enum conn_state {
    CONN_PROXY,  /* a PROXY header is expected first */
    CONN_IDLE,   /* between requests */
    CONN_HEAD,   /* part of a head has come */
    CONN_BODY,   /* request body is coming */
    CONN_WAIT,   /* a backend works on the answer */
    CONN_SEND,   /* answer complete, output waits for the client */
    CONN_LINGER, /* our side is shut; reading what the client still sends */
};

enum conn_source {
    CONN_FROM_TCP,
    CONN_FROM_UNIX, /* those behind it are no clients */
    CONN_FROM_PROBE,
    CONN_FROM_ADMIN,  /* the admin socket */
    CONN_FROM_HEALTH, /* health.c */
};

struct conn {
    uint32_t magic;
    enum conn_state state;
    enum conn_source source;
    uint32_t probe_pool; /* CONN_FROM_HEALTH */
    struct loop_watch watch;
    struct loop_timer timer;
    struct list link; /* thread->conns */
    struct gateway_thread *thread;
    struct exchange *exchange;
    struct buf in;
    struct http1_parser parser;
    uint32_t requests;
    uint32_t lingered;
    bool may_read; /* edge-triggered: bytes may wait in the socket */
    bool may_write;
    bool hangup;      /* the end of the client's stream is in the socket, or an error */
    bool half_closed; /* the client will send no more: read to the end */
    bool is_unix;
    bool is_probe; /* probe.c */
    bool trusted;
    bool busy;          /* conn_advance is on the stack */
    struct list resume; /* in thread->resume, or alone */
    uint64_t head_started_ns;
    struct address peer;
    struct address local;
};

/* --- one thread ------------------------------------------------------------------------------- */
struct gateway_counters {
    uint64_t accepted, refused, requests, underscore_headers, bad_requests, timeouts, aborted,
        queue_full, queue_timeouts, lost_workers, spooled_requests, streamed_requests,
        spooled_answers, log_bytes_lost, dropped_fields;
};

struct gateway_thread {
    uint32_t index;
    struct gateway *gateway;
    struct loop *loop;
    pthread_t tid;
    struct list conns;
    uint32_t n_conns;
    struct list backends;              /* struct backend */
    struct backend *active[POOLS_MAX]; /* takes new requests */
    struct list waiting[POOLS_MAX];    /* struct exchange: no active backend */
    uint32_t n_waiting[POOLS_MAX];
    uint32_t n_images[POOLS_MAX]; /* by classic pool: seats with an active backend */
    struct list upstreams;        /* struct upstream */
    bool upstreams_due;           /* one of them may have room for what waits */
    struct list resume;           /* connections with a pipelined request to look at */
    struct list graveyard; /* closed in this batch; freed at its end, callers may still look */
    struct thread_listener {
        struct loop_watch watch;
        struct gateway_thread *thread;
        const struct listener *listener;
    } listeners[LISTENERS_MAX]; /* by index in gateway->listeners */
    bool accept_paused, draining, drain_reported;
    bool take_all; /* a dead worker's ring is read to its end, whatever the client's pace */
    uint64_t spread_counter; /* request ids */

    struct loop_timer idle_limit;   /* while draining: idle connections close */
    struct loop_timer accept_retry; /* after running out of descriptors */
    struct loop_watch mailbox;
    int mailbox_fd;
    pthread_mutex_t mailbox_lock;
    struct command *commands, **commands_end;

    /* scratch, valid only within one call */
    struct http_request request;
    struct channel_pair pairs[HTTP_HEADERS_MAX];
    struct static_plan plan;
    struct files_match match;
    char path[FILES_PATH_MAX + 1];
    char rewritten[2 * FILES_PATH_MAX]; /* what a [[route]] made of it */
    struct str route;                   /* what decided, for logs */
    struct str query;                   /* for the script: the request's, or what `try` made */
    struct buf target; /* of "http://host?query", whose "/" stands nowhere in the request */

    char *free_in[256]; /* input buffers for reuse */
    uint32_t n_free_in;
    struct exchange *free_exchanges[256];
    uint32_t n_free_exchanges;
    uint64_t realtime_ns; /* at the start of this batch */
    time_t date_at;
    char date[HTTP_DATE_BYTES];
    struct buf head;  /* answer head under construction */
    struct buf lines; /* header lines of a worker, copied out of its ring */
    struct buf log;   /* access-log lines of this batch */
    struct gateway_counters count;
    struct place_stats *places[PLACES_MAX]; /* NULL: nothing yet */

    /* bulkhead.c */
    struct list gate_queues[PLACES_MAX + POOLS_MAX]; /* struct exchange, by gate */
    struct lane *lanes[POOLS_MAX];                   /* NULL: nothing yet */
    struct list held;                                /* struct held */
    struct loop_timer held_look;
    bool bulkheads_due; /* one of them may have room for what waits */
};

/* Work for another thread (or this one), run between batches there. */
struct command {
    void (*run)(struct gateway_thread *t, struct command *c); /* frees c */
    struct command *next;
    struct pool_link *pool;
    uint32_t worker, incarnation;
    struct channel_ticket ticket;
    int fd;                          /* of a worker's FILE; closed by `run` */
    struct control_message *message; /* of images.c; freed by `run` */
};

/* thread.c */
MUST_USE int thread_init(struct gateway_thread *t, struct gateway *g, uint32_t index);
void thread_post(struct gateway_thread *t, struct command *c);
/* The same with a fresh command. `pool` may be NULL. */
void thread_tell(struct gateway_thread *t, void (*run)(struct gateway_thread *, struct command *),
                 struct pool_link *pool, uint32_t worker, uint32_t incarnation);
void thread_listen(struct gateway_thread *t);
void thread_stop_listening(struct gateway_thread *t);
void thread_drain(struct gateway_thread *t);
/* After a connection closed: resume accepting, report the end of draining. */
void thread_conn_gone(struct gateway_thread *t);
const char *thread_date(struct gateway_thread *t);
/* The connection has input or a free pipeline: look at it after this batch. */
void thread_resume(struct gateway_thread *t, struct conn *c);
char *thread_take_buffer(struct gateway_thread *t);
void thread_give_buffer(struct gateway_thread *t, char *p);

/* gateway.c, run in thread 0 */
void gateway_on_thread_drained(struct gateway_thread *main_thread, struct command *c);
void gateway_on_link_idle(struct gateway_thread *main_thread, struct command *c);
void gateway_on_removed(struct gateway_thread *main_thread, struct command *c);
void gateway_on_recovered(struct gateway_thread *main_thread, struct command *c);

/* conn.c */
/* Takes the descriptor. NULL: closed for want of room. */
struct conn *conn_accept(struct gateway_thread *t, int fd, enum conn_source source);
/* The gateway has no further use for an idle connection: closes it, unless a request is on the way.
 */
void conn_part(struct conn *c);
/* Goes on as far as it can without blocking: parse, route, read bodies, send. */
void conn_advance(struct conn *c);
void conn_close(struct conn *c);
/* Shuts our side and discards what still comes for a while. */
void conn_linger(struct conn *c);
/* The exchange's answer is complete and sent: next request, linger or close. */
void conn_exchange_done(struct conn *c);
void conn_deadline(struct conn *c, uint64_t timeout_ms);

/* exchange.c */
/* A head was parsed into thread->request: routes it. Takes over. */
void exchange_begin(struct conn *c, uint32_t head_bytes);
/* More body bytes are in conn->in. */
void exchange_read_body(struct exchange *x);
/* Request complete: hand it to the pool's active generation, or let it wait for one. */
void exchange_dispatch(struct exchange *x);
/* The same with the head parsed and routed again. */
void exchange_dispatch_again(struct exchange *x);
/* Puts the head into thread->request once more. */
void exchange_parse_again(struct exchange *x);
/* Does the client speak https, as far as we may believe it? */
bool exchange_is_https(const struct exchange *x);
/* What the boot of an image is told of the request that asked for it, likewise. */
void exchange_describe(const struct exchange *x, struct control_image *ret);
/* As far as we may believe it; empty for a peer on a unix socket. The head is in thread->request.
 */
struct str exchange_client_address(const struct exchange *x);
/* Out of queue or waiting list without running; false: it runs. */
bool exchange_withdraw(struct exchange *x);
void exchange_free(struct exchange *x);
void exchange_request_id(const struct exchange *x, char out[REQUEST_ID_BYTES + 1]);

/* route.c */
enum verdict {
    VERDICT_STATUS,
    VERDICT_STATIC,
    VERDICT_REDIRECT,
    VERDICT_PHP,     /* the pool's engine */
    VERDICT_FASTCGI, /* the pool's FastCGI servers */
    VERDICT_ADMIN,   /* about the server itself: admin.h */
};
struct route {
    enum verdict verdict;
    int status;
    struct str extra;                /* header lines of a status answer */
    struct files *files;             /* VERDICT_STATIC */
    const struct config_route *rule; /* the [[route]] that decided; NULL: the default rules */
    uint32_t page, page_pool;        /* VERDICT_ADMIN: enum admin_page, and of which pool */
};
/* With thread->request set; sets x->pool. VERDICT_STATIC holds a file reference in thread->match,
 * VERDICT_PHP and VERDICT_FASTCGI have the script there. */
struct route route_find(struct exchange *x);

/* respond.c */
/* Complete answer of our own with a short HTML body. `extra`: header lines or STR_NONE. */
void respond_status(struct exchange *x, int status, struct str extra);
/* The same with a sentence for the developer; Retry-After: 5. */
void respond_explained(struct exchange *x, int status, const char *sentence);
/* The same with a body of the given media type. */
void respond_own(struct exchange *x, int status, const char *type, struct str extra,
                 struct str body);
/* For a request that could not be parsed: answers and closes. */
void respond_error(struct conn *c, enum http_error e);
void respond_redirect(struct exchange *x, struct str path);
void respond_static(struct exchange *x, struct files *f, struct file *file);
/* Pieces of a PHP answer; returns how many were taken. Fewer than n with x->stalled: the client is
 * slow. */
int respond_pieces(struct exchange *x, const struct channel_piece *pieces, int n);
/* The same whatever the client's pace: all n are taken. */
void respond_pieces_now(struct exchange *x, const struct channel_piece *pieces, int n);
/* False: the client is slow and memory and spool are full. */
bool respond_has_room(struct exchange *x);
/* Backend died: 502 if nothing was sent, else the connection is cut. */
void respond_lost(struct exchange *x, int status);
/* Sends what waits. True when `out` and plan are empty. */
bool respond_flush(struct exchange *x);
void respond_continue(struct conn *c);

/* backend.c */
MUST_USE int backend_add(struct gateway_thread *t, struct pool_link *link);
void backend_free(struct backend *b);
/* 0, -EAGAIN queue full, -E2BIG. The head is in thread->request. */
MUST_USE int backend_push(struct backend *b, struct exchange *x, const struct channel_request *r);
/* Reads every ring that has news. */
void backend_poll(struct backend *b);
void backend_poll_worker(struct backend *b, uint32_t worker);
void backend_worker_dead(struct backend *b, uint32_t worker, uint32_t incarnation);
/* The pool process is gone: running requests are lost, queued ones go back to waiting. */
void backend_abandon(struct backend *b);
/* A worker handed over a file for the answer of that ticket. Takes `fd`. */
void backend_take_file(struct backend *b, struct channel_ticket ticket, uint32_t worker, int fd);
void backend_send_body(struct backend *b, struct channel_ticket ticket, uint32_t worker);
/* Takes a queued request back; false when a worker has it. */
bool backend_withdraw(struct exchange *x);
/* The exchange leaves its backend early (client gone): withdrawn or aborted. */
void backend_forget(struct exchange *x);
/* Once per batch: wakes workers, or asks the pool process for more. */
void backend_wake(struct backend *b);
void backend_report_drained(struct backend *b);
struct backend *backend_find(struct gateway_thread *t, const struct pool_link *link);
/* Waiting requests of a pool go to its newly active generation. */
void backend_take_waiting(struct backend *b);

/* queue_wait.c: the timer of a request that waits for an idle worker. */
void queue_wait_begin(struct exchange *x);
/* On the timer. True: it waits on, or was answered. False: its time is up, or it waits no more. */
bool queue_wait_goes_on(struct exchange *x);
/* The client has closed its side, which may be a half-close. A request that is still queued a
 * moment later never runs. */
void queue_wait_client_left(struct exchange *x);

/* probe.c */
/* PROBE: asks for the path and tells the supervisor what came. First thread. */
void probe_begin(struct gateway *g, const struct control_message *m);
/* The generation that takes requests of this connection for the pool; NULL: none is up. */
struct backend *backend_for(const struct conn *c, uint32_t pool);

/* stream.c: BODY_STREAM */
/* Does the worker get this body as it comes? The head is in thread->request, x->pool is known. */
bool stream_is_wanted(const struct exchange *x, const struct config_route *rule);
/* 0 or -errno: no pipe. The decoder is set up by the caller. */
MUST_USE int stream_begin(struct exchange *x);
/* Body bytes are yet to come, and somebody may want them. */
bool stream_is_on(const struct exchange *x);
/* What stands in conn->in goes to the worker, as far as it takes it. True: read more. */
bool stream_take(struct exchange *x);
/* The socket is empty: body_timeout begins. */
void stream_wait(struct exchange *x);
/* The worker has its end of the pipe. */
void stream_handed_over(struct exchange *x);
/* The rest of the body will not come: the script sees its end, the client gets that status if
 * nothing was sent yet. */
void stream_break(struct exchange *x, int status);
/* Lets go of pipe and timer. */
void stream_end(struct exchange *x);

/* spool.c */
/* How much may be spooled; warns of a spool_dir in memory. */
void spool_start(struct gateway *g);
/* Unlinked file in spool_dir: descriptor or -errno. */
MUST_USE int spool_open(struct gateway *g);
/* Within max_spool_size? */
bool spool_has_room(struct gateway *g, uint64_t bytes);
/* All of them at that offset, or nothing counts as written. */
MUST_USE int spool_write(struct gateway *g, int fd, uint64_t at, struct str bytes);
/* Closes it; `bytes` were written to it. */
void spool_forget(struct gateway *g, int *fd, uint64_t bytes);

/* access_log.c */
void access_log_line(struct exchange *x);
/* What stands in c->in could not be read as a request, or did not come in time. */
void access_log_unread(struct conn *c, int status, size_t body_bytes);
void access_log_flush(struct gateway_thread *t);

#endif
