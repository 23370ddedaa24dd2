/*
 * admin: what the gateway answers about itself, without a worker: the requests of the admin socket,
 * and the status_path and ping_path of pools. See docs/status.md.
 */
#ifndef SAPID_GATEWAY_ADMIN_H
#define SAPID_GATEWAY_ADMIN_H

#include "channel/report.h"
#include "gateway/gateway_int.h"
#include "gateway/stats.h"

enum admin_page {
    ADMIN_INDEX,
    ADMIN_PING,
    ADMIN_POOL,    /* as PHP-FPM's status page, of one pool */
    ADMIN_SERVER,  /* everything, for people or as JSON */
    ADMIN_METRICS, /* everything, OpenMetrics */
    ADMIN_HEALTH,
    ADMIN_COMMAND,
};

/* A request that waits for the other threads, the supervisor or a probe. Its client may go
 * meanwhile: `x` is NULL then. */
struct admin_wait {
    struct list link;
    struct exchange *x;
    enum admin_page page;
    uint32_t pool;
    struct str query; /* in `text` */
    char text[256];
    uint32_t number; /* of a command, for its result */
    struct gateway_thread *thread;
    struct loop_timer timer; /* of a health check; how long it waits for `stacks` */
    char *stacks;            /* PHP stacks of busy workers, as the supervisor gave them; or NULL */
};

/* Where a request of the admin socket goes: a status or VERDICT_ADMIN. */
struct route admin_route(struct exchange *x, struct str path);
/* Whether `path` is a pool's status_path or ping_path; then where it goes. */
bool admin_is_page(struct exchange *x, const struct config *c, struct str path, struct route *ret);
/* VERDICT_ADMIN: answers, now or later. The head is in thread->request. */
void admin_answer(struct exchange *x, const struct route *route);
/* The exchange ends. */
void admin_forget(struct exchange *x);
/* Main thread: the socket's listener has come, the supervisor has answered. */
void admin_listen(struct gateway *g, int fd);
/* `fd`: a file with the answer, -1: the message's text is it. Stays the caller's. */
void admin_result(struct gateway *g, const struct control_message *m, int fd);
void admin_stop_listening(struct gateway *g);
void admin_wait_free(struct admin_wait *w);

/* "full" in "json&full", "pool=www" -> "www" (p == NULL: not there). */
struct str admin_query(struct str query, struct str name);

/* health.c, main thread: answers 200 or 503 when it is known; takes `w`. */
void health_check(struct gateway *g, struct admin_wait *w);

/* --- pages: appended to `out` ----------------------------------------------------------------- */

struct page {
    const char *type; /* media type */
    struct buf out;
};
/* status_fpm.c */
void status_fpm_page(struct gateway_thread *t, const struct stats *s, uint32_t pool,
                     struct str query, struct page *ret);
/* The figures of PHP-FPM's page, for the pages of the whole server too. */
struct pool_view {
    struct str name;
    const char *manager; /* "static", "dynamic", "ondemand" */
    uint64_t start_s, accepted, limit_reached, slow, crashes, memory_peak;
    uint32_t queue, queue_max, queue_size, idle, active, active_max;
};
void status_view_pool(struct gateway_thread *t, const struct stats *s, uint32_t pool,
                      struct pool_view *ret);
/* One process of a pool. */
struct process_view {
    uint32_t pid, generation;
    bool running;
    uint64_t start_s, requests, duration_us, memory;
    double cpu_percent;
    struct channel_rollbacks rollbacks;                  /* n 0: none */
    struct str method, target, script, user, request_id; /* views into what follows */
    int64_t content_length;
    struct channel_peek look;
    char user_text[128];
};
/* A frame of its stack; false: that was all. `rest`: from stacks_of. */
struct stack_frame {
    struct str function, file; /* file empty: of PHP itself */
    uint64_t line;
};
struct str stacks_of(const char *stacks, uint32_t pid);
bool stack_next(struct str *rest, struct stack_frame *ret);
/* Calls `see` for each process of the pool; valid during the call. */
void status_view_processes(struct gateway_thread *t, uint32_t pool,
                           void (*see)(void *ctx, const struct process_view *p), void *ctx);
/* status_server.c */
void status_server_page(struct admin_wait *w, const struct stats *s, struct page *ret);
/* metrics.c */
void metrics_page(struct gateway_thread *t, const struct stats *s, struct page *ret);

/* --- text (page.c) ---------------------------------------------------------------------------- */
/* Memory that runs out cuts the page short. */
void page_put(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The text as the inside of a JSON string, of HTML or XML, of an OpenMetrics label. */
void page_put_json(struct buf *b, struct str s);
void page_put_html(struct buf *b, struct str s);
/* Only printable ASCII: it goes to a terminal. */
void page_put_plain(struct buf *b, struct str s);

/* JSON with its commas. */
struct json {
    struct buf *out;
    bool first; /* nothing stands in the present object or list yet */
};
void json_open(struct json *j, const char *key,
               char bracket); /* key NULL: in a list, or the whole */
void json_close(struct json *j, char bracket);
void json_number(struct json *j, const char *key, uint64_t n);
void json_real(struct json *j, const char *key, double n);
void json_bool(struct json *j, const char *key, bool b);
void json_text(struct json *j, const char *key, struct str s);

/* --- report.c: the image of a generation that has a report; first thread ---------------------- */
void report_take(struct pool_link *link, int fd); /* stays the caller's */
void report_put_json(struct json *j, const struct pool_link *link, bool isolation);
void report_put_text(struct buf *out, const struct pool_link *link, bool isolation);
void report_put_metrics(struct buf *b, struct gateway_thread *t);
/* A line: "HEAD2x this; 1x that". Nothing where there is none. */
void report_put_reasons(struct buf *out, const struct report *r, const char *head,
                        enum report_kind kind);

/* --- status_images.c: of one classic pool */
void images_put_json(struct json *j, const struct gateway_thread *t, uint32_t pool, bool isolation);
void images_put_text(struct buf *out, const struct gateway_thread *t, uint32_t pool,
                     bool isolation);

#endif
