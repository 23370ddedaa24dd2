/*
 * `sapid bench`, between its files: what is asked for (bench_options.c), one connection
 * (bench_conn.c), its TLS (bench_tls.c), one thread with its schedule (bench_thread.c), what came
 * out (bench_result.c) and its report for the browser (bench_html.c).
 *
 * Vocabulary. A request is due at its intended start: in an open loop at a time of the schedule,
 * in a closed loop when its connection is free. Latency counts from there to the last byte of the
 * answer, so a server that stalls is charged for all who would have come meanwhile (no coordinated
 * omission). The window is the time that counts: it begins after the warm-up. A request belongs to
 * it by its intended start.
 */
#ifndef SAPID_TOOLS_BENCH_INT_H
#define SAPID_TOOLS_BENCH_INT_H

#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/hist.h"
#include "base/list.h"
#include "base/sha256.h"
#include "http/http.h"
#include "loop/loop.h"
#include "tls/tls.h"

/* --- what is asked for ------------------------------------------------------------------------ */

enum bench_format { BENCH_TEXT, BENCH_KEY_VALUE, BENCH_JSON };

/* One request, ready to be sent. */
struct bench_target {
    char *url, *method;
    struct buf bytes; /* head and body */
    bool to_head;     /* HEAD: no body is answered */
    double share;     /* of all requests; they add up to 1 */
};

struct bench_options {
    struct bench_target *targets;
    size_t n_targets;
    struct sockaddr_storage address; /* of all of them */
    socklen_t address_bytes;
    char *authority; /* as in the URLs */
    char *unix_path; /* NULL: TCP */

    bool https;                   /* all of them */
    bool insecure;                /* any certificate will do */
    char *ca_path;                /* NULL: the system's */
    const struct tls_module *tls; /* with https */
    struct tls_client *tls_client;

    double rps;   /* 0: closed loop */
    bool poisson; /* exponential gaps instead of equal ones */
    uint32_t threads, connections;
    uint64_t duration_ns, warmup_ns, timeout_ns; /* duration 0: until `requests` are done */
    uint64_t requests;                           /* 0: until the duration is over */
    bool no_keepalive;

    uint16_t expect_status; /* 0: anything below 400 */
    int64_t expect_bytes;   /* -1: any */
    bool expect_digest;
    uint8_t digest[SHA256_BYTES];
    char *expect_text; /* NULL: any */
    size_t text_bytes;
    uint32_t *text_borders; /* failure function of Knuth, Morris and Pratt */

    enum bench_format format;
    char *html_path;
    bool help;
};

/* 0, or -EINVAL with a message (mem_free). */
MUST_USE int bench_options_parse(int argc, char **argv, struct bench_options *o,
                                 char **ret_message);
void bench_options_fini(struct bench_options *o);
/* For https: loads TLS, and whom to trust. 0, or -EINVAL with a message. */
MUST_USE int bench_tls_open(struct bench_options *o, char **ret_message);
void bench_tls_close(struct bench_options *o);
/* Host of an authority, "[::1]:443" or "example.org": without brackets, and its port, if any. */
struct str bench_split_authority(struct str authority, struct str *ret_port);
extern const char bench_help[];
/* An option of bench or perf: its name, and what its value must be; NULL: it takes none. */
struct bench_option {
    const char *name, *expects;
};
/* The option at argv[*at], "--name value" or "--name=value"; *at moves on to a value of its own.
 * Returns its index in `table`, or -EINVAL with a message. */
MUST_USE int bench_option_take(int argc, char **argv, int *at, const struct bench_option *table,
                               size_t n_table, const char *command, const char **ret_value,
                               char **ret_message);
/* Its value is not what was expected: the message. */
char *bench_option_wrong(const struct bench_option *option, const char *value);
/* "text", "kv" or "json". */
bool bench_parse_format(const char *text, enum bench_format *ret);
/* A number above 0 and up to `max`, in decimal; nothing else may stand there. */
bool bench_parse_number(const char *text, double max, double *ret);
/* "1.5s", "500ms", "2m", "1h"; a bare number is seconds. */
bool bench_parse_time(const char *text, uint64_t *ret_ns);

/* --- what came out ---------------------------------------------------------------------------- */

enum bench_error {
    BENCH_OK,
    BENCH_CONNECT, /* no connection, or TLS did not come about */
    BENCH_READ,    /* reset, closed too early, or not HTTP */
    BENCH_WRITE,
    BENCH_STATUS,
    BENCH_TIMEOUT,
    BENCH_BODY,
    BENCH_OUTCOMES,
};

enum { BENCH_SLICES = 256, BENCH_SLICE_NS = 100000000 };

/* One stretch of time, for the plots. */
struct bench_slice {
    uint64_t done, errors;
    uint64_t latency_ns, max_ns; /* sum and maximum of the correct answers */
};

/* Fixed memory for any length of run: when the slices are used up, neighbours are joined. */
struct bench_timeline {
    uint64_t slice_ns;
    struct bench_slice slices[BENCH_SLICES];
};

enum { BENCH_CAUSES = 12, BENCH_CAUSE_BYTES = 120 };

/* What an error looked like from here, beyond its kind. */
struct bench_cause {
    enum bench_error kind;
    uint64_t n;
    char text[BENCH_CAUSE_BYTES];
};

/* Of one thread, then of all. Only the window is in here, but for the TLS handshakes. */
struct bench_result {
    struct hist latency;               /* ns, of correct answers */
    uint64_t outcomes[BENCH_OUTCOMES]; /* requests */
    uint64_t statuses[1000];           /* of complete answers, right or wrong */
    uint64_t bytes;                    /* received */
    uint64_t ok_in_time;               /* correct answers that came within the window */
    uint64_t waited;                   /* open loop: no connection was free when it was due */
    struct hist lag;                   /* ns a thread was late although a connection was free */
    uint64_t elapsed_ns;               /* the window */
    uint64_t last_ns;                  /* of it, or behind it: when the last request ended */
    double busiest, kept_waiting;      /* of the thread that wanted most CPU, 0..1: had, lacked */
    bool gave_up;                      /* nothing answered for too long */
    bool interrupted;
    struct bench_timeline timeline;
    struct bench_cause causes[BENCH_CAUSES]; /* the last is for all that found no room */
    size_t n_causes;
    uint64_t handshakes, resumed; /* TLS */
    char tls[64];                 /* version and cipher; "": none came about */
};

/* Runs the load and adds up what all threads measured. SIGINT and SIGTERM, which stay blocked, end
 * it early (ret->interrupted). 0 or -errno. */
MUST_USE int bench_load(const struct bench_options *o, struct bench_result *ret);

void bench_timeline_note(struct bench_timeline *t, uint64_t at_ns, enum bench_error outcome,
                         uint64_t latency_ns);
/* Counts `n` errors of this kind under what they looked like. */
void bench_result_blame(struct bench_result *r, enum bench_error kind, const char *text,
                        uint64_t n);
void bench_result_init(struct bench_result *r);
void bench_result_merge(struct bench_result *into, struct bench_result *from);
uint64_t bench_result_total(const struct bench_result *r);
uint64_t bench_result_errors(const struct bench_result *r);
/* Percent of the requests that were answered correctly. */
double bench_result_success(const struct bench_result *r);
double bench_result_rps(const struct bench_result *r);
/* Half of the answers are so close to the fastest that equal steps up to p99.9 would not part them.
 */
bool bench_result_is_skewed(const struct bench_result *r);
const char *bench_error_name(enum bench_error e);
void bench_result_print(const struct bench_options *o, const struct bench_result *r, FILE *out);
/* 0 or -errno. */
MUST_USE int bench_html_write(const struct bench_options *o, const struct bench_result *r,
                              const char *path);

enum { BENCH_PERCENTILES = 7 };
extern const struct bench_percentile {
    const char *name;
    double percent;
} bench_percentiles[BENCH_PERCENTILES];

/* Advice on how far the figures can be trusted. Writes at most `max` messages (mem_free), returns
 * how many. */
enum { BENCH_WARNINGS_MAX = 9 };
size_t bench_result_warn(const struct bench_options *o, const struct bench_result *r,
                         char *ret[BENCH_WARNINGS_MAX]);

/* --- one thread ------------------------------------------------------------------------------- */

enum { BENCH_READ_BYTES = 64 << 10 };

struct bench_thread {
    const struct bench_options *options;
    struct loop *loop;
    struct loop_timer due, tick;
    struct bench_conn *conns;
    uint32_t n_conns, in_flight;
    struct list free_conns;
    uint64_t begin_ns, window_ns, end_ns; /* begin of the warm-up, window, its end or UINT64_MAX */
    uint64_t now_ns;                      /* of the event in progress */
    uint64_t next_ns;                     /* open loop: the next intended start */
    double gap_ns, next_exact;            /* mean gap; next_ns - begin_ns without rounding */
    uint64_t starved_ns;                  /* until then no connection was free */
    uint64_t left;                        /* requests yet to start in the window */
    uint64_t random;
    uint64_t cpu_ns, waited_ns, cpu_until_ns; /* in the time until then; 0: not looked yet */
    uint64_t answered_ns, done_ns; /* of the last answer, right or wrong; of the last request */
    uint64_t errors;
    _Atomic uint64_t seen_ok, seen_errors; /* relaxed; for the progress line */
    const _Atomic bool *stop;              /* relaxed; looked at every tick */
    bool stopped;
    struct bench_result *result;
    struct tls_sessions *sessions; /* to shorten handshakes */
    char *scratch;                 /* BENCH_READ_BYTES */
};

/* 0 or -errno. Thread `index` of options->threads; called before the threads run. */
MUST_USE int bench_thread_init(struct bench_thread *t, const struct bench_options *o,
                               uint32_t index, uint64_t begin_ns, const _Atomic bool *stop);
/* Runs the schedule of one thread to its end; the result is complete then. */
void bench_thread_run(struct bench_thread *t);
void bench_thread_fini(struct bench_thread *t);

/* --- one connection --------------------------------------------------------------------------- */

enum bench_state {
    BENCH_FREE,
    BENCH_RESTING,
    BENCH_CONNECTING,
    BENCH_SHAKING, /* the TLS handshake */
    BENCH_HEAD,
    BENCH_IN_BODY,
};

struct bench_conn {
    struct loop_watch watch;
    struct loop_timer timer; /* time limit of a request, or when to try to connect again */
    struct bench_thread *thread;
    struct list link; /* in free_conns */
    const struct bench_target *target;
    uint64_t intended_ns, limit_ns;
    enum bench_state state;
    bool open, to_the_end;
    struct tls_conn *tls; /* NULL: plain */
    size_t sent;
    struct buf held; /* a head that came in pieces */
    struct http1_response_parser parser;
    struct http_response response;
    struct http1_body body;
    struct sha256 sha256;
    size_t text_at; /* bytes of expect_text that match here; all of them: found */
};

void bench_conn_init(struct bench_conn *c, struct bench_thread *t);
/* The request goes out, on a fresh connection if there is none. Ends in bench_thread_done. */
void bench_conn_start(struct bench_conn *c, const struct bench_target *target,
                      uint64_t intended_ns);
void bench_conn_close(struct bench_conn *c);
/* Closed and out of use until then; bench_thread_rested follows. */
void bench_conn_rest(struct bench_conn *c, uint64_t until_ns);

/* TLS of a connected one. Starts or goes on with the handshake: 0 done, -EAGAIN, or an error. */
MUST_USE int bench_tls_shake(struct bench_conn *c);
void bench_tls_drop(struct bench_conn *c);

/* The request is over, the connection free again. Starts nothing: the caller ends with a pump. */
void bench_thread_done(struct bench_thread *t, struct bench_conn *c, enum bench_error outcome);
void bench_thread_rested(struct bench_thread *t, struct bench_conn *c);
/* Starts what is due on the connections that are free. */
void bench_thread_pump(struct bench_thread *t);

#endif
