/*
 * Inside the pool process: its state, shared by pool.c and the files beside it that each do one of
 * its jobs.
 */
#ifndef SAPID_PHP_POOL_INT_H
#define SAPID_PHP_POOL_INT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "channel/control.h"
#include "channel/report.h"
#include "php/php_int.h"
#include "php/stack.h"

/* The request that a worker runs now, as deadline.c follows it. */
struct seat_watch {
    struct channel_ticket ticket;
    uint64_t since_ns;    /* monotonic; 0: it runs none */
    uint64_t cpu_ns;      /* of the process when it began, or was seen first */
    uint64_t limit_ns;    /* request_timeout, 0: none */
    uint32_t slow_logged; /* times */
    uint64_t signalled_ns, signalled_last_ns;
    struct php_stack *sample; /* of a request that runs long or grows; NULL: never */
    uint64_t sampled_ns;      /* 0: not in this request */
    uint64_t rss_bytes, rss_first_bytes;
};

struct seat {
    pid_t pid; /* 0: empty */
    uint32_t incarnation;
    enum control_cause cause; /* why it was killed by us */
    struct worker_memory memory;
    struct box *box; /* its black box; NULL: no memory for it */
    struct seat_watch watch;
    unsigned early_deaths; /* in a row */
    uint64_t not_before_ns;
    uint64_t started_ns;
    uint64_t max_requests; /* at which pool_size.c replaces it; 0: never */
    bool retiring;         /* was told to finish */
    bool only_fails;       /* its worker answers 500 while there is no image */
};

/* pool_size.c */
struct pool_size {
    uint32_t min, max, spare, target;
    bool changes; /* min < max */
    bool asked;   /* the gateway wants more workers */
    bool has_workers, explained;
    uint64_t look_ns, excess_since_ns;
    bool recycles; /* there is a seat for successors */
    bool recycled; /* one is being replaced: */
    uint32_t recycled_seat, recycled_incarnation, successor_after, recycle_from;
    const char *recycle_why;
    uint64_t recycle_since_ns, recycle_look_ns;
};

struct pool {
    struct config *config;
    const struct config_pool *conf;
    struct control_boot boot;
    struct settings settings;
    const struct engine_module *engine;
    int supervisor, gateway, signals;
    struct channel *channel; /* NULL: none yet */
    int eventfds[CHANNEL_THREADS_MAX];
    uint32_t n_eventfds;
    struct seat *seats;
    uint32_t n_seats;
    pid_t *leavers; /* workers of channels before this one */
    size_t n_leavers;
    uint64_t leavers_until_ns; /* then they are killed; 0: never */
    uint32_t incarnations;
    bool draining, gateway_gone;
    uint64_t renewed_ns;     /* when a new generation was asked for last */
    struct engine_loop loop; /* of a pool that runs a worker script */
    bool boots;    /* its first worker runs the script for the first time; READY waits for that */
    bool replaces; /* another generation serves meanwhile */
    uint64_t boot_until_ns;
    char ready_text[2048];
    struct image *image;        /* NULL: workers are forked from this process */
    struct pool_script *script; /* of the image of an entry script, else NULL */
    const struct php_layout *layout;
    struct pool_size size;
    struct pool_report {
        struct report *shared; /* NULL: none was given */
        bool unlearned;        /* what was learned stood in the way of an image */
        bool forgiven;         /* of the one that failed last */
        uint64_t look_ns, requests, late, names, harm; /* when and as looked at last */
    } report;
    struct profile *profile; /* of profile.c; NULL: none is being taken */
    uint64_t look_ns;        /* when deadline.c looks at the workers again */
    struct pool_counters {
        uint64_t slow_requests, timeouts, timeout_kills, crashes, probes, dead_locks, records_lost;
    } count;
    struct route_crashes {
        char route[128];
        uint32_t crashes;
    } * crash_routes; /* since the start of the generation */
    uint32_t n_crash_routes;
    uint64_t oom_kills; /* that the cgroup has counted when looked at last */
    struct probe {
        bool is_useful;
        pid_t pid;   /* 0: none runs */
        bool wanted; /* a worker has died since the last one began */
        uint64_t began_ns, look_ns;
        uint64_t cpu_ns; /* at the last look */
    } probe;
};

/* --- observe.c: what is each worker doing now ------------------------------------------------- */
enum { OBSERVE_STACK = 1, OBSERVE_PSS = 2, OBSERVE_FRAMES = 4 };
struct worker_look {
    uint32_t worker, incarnation;
    pid_t pid; /* 0: the seat is empty, nothing else is set */
    bool is_busy, has_request, has_stack;
    uint64_t requests;   /* finished */
    uint64_t running_ns; /* the present request, or since the last one ended */
    uint64_t cpu_ns;     /* of the present request */
    uint64_t process_cpu_ns, rss_bytes, pss_bytes;
    struct channel_rollbacks rollbacks; /* n 0: none */
    struct channel_request request;     /* texts in `texts` */
    char texts[CHANNEL_LOOK_BYTES];
    struct php_stack stack;
};
void observe_worker(struct pool *p, uint32_t worker, unsigned what, struct worker_look *ret);
/* CPU time of a process, 0: it is gone. */
uint64_t observe_cpu_ns(pid_t pid);
uint64_t observe_rss_bytes(pid_t pid);
/* All workers and counters of the pool as one JSON object. */
void observe_json(struct pool *p, unsigned what, struct buf *out);
/* CONTROL_LOOK of the supervisor: answers with it. OBSERVE_FRAMES: only the stacks of busy workers,
 * "pid 4711" and a line for each frame: function, tabulator, file, tabulator, line. */
void observe_answer(struct pool *p, unsigned what);

/* --- profile.c: PHP stacks, thousands a second, for some seconds ------------------------------ */
/* CONTROL_PROFILE of the supervisor. Takes the descriptor when it begins. */
void profile_begin(struct pool *p, const struct control_message *m, int *fd);
/* What to poll for the next sample, -1: nothing. */
int profile_timer(const struct pool *p);
void profile_tick(struct pool *p);
/* In a new worker: gives back what it inherited. */
void profile_leave(struct pool *p);

/* --- record.c: texts about requests, and the way to the supervisor, which writes them --------- */
/* `json`: for a JSON string, else for a line of text. Control and non-ASCII bytes are escaped. */
void record_put(struct buf *b, struct str s, bool json);
/* "2026-11-22T03:04:05.123456Z" */
void record_put_time(struct buf *b, uint64_t realtime_ns);
/* A JSON list of the frames. */
void record_put_stack_json(struct buf *b, const struct php_stack *s);
void record_send(struct pool *p, enum control_record kind, struct str text);

/* --- slow_log.c ------------------------------------------------------------------------------- */
/* The request of that look is slow. */
void slow_log_write(struct pool *p, const struct worker_look *look, uint32_t times);

/* --- deadline.c: looks at running requests: slow log, request_timeout, samples ---------------- */
void deadline_look(struct pool *p);
/* The workers of the present channel will not be looked at any more. */
void deadline_leave(struct pool *p);

/* --- crash.c ---------------------------------------------------------------------------------- */
/* A worker has died, not by its own wish; its slot is still as it left it. */
struct rusage;
void crash_record(struct pool *p, uint32_t worker, int status, const struct rusage *usage);

/* --- oom.c: what the kernel says of memory that ran out --------------------------------------- */
/* Processes that it has killed for that in our control group, or all over where that is unknown. */
uint64_t oom_count(void);
/* The control group's memory.events and limits, for people. */
void oom_put(struct buf *b);

/* --- lock_probe.c: after a worker's sudden death, do the locks in shared memory still work? --- */
void lock_probe_want(struct pool *p);
/* Starts or judges one. True: a lock is held by a dead process; the generation must end. */
MUST_USE bool lock_probe_look(struct pool *p);
/* True when the dead child was the probe. */
bool lock_probe_ended(struct pool *p, pid_t pid, int status);
/* When lock_probe_look has something to do, UINT64_MAX: not before something happens. */
uint64_t lock_probe_next_ns(const struct pool *p);

/* --- pool_size.c: how many workers, and their replacement ------------------------------------- */
/* The pool got a channel. */
void pool_size_begin(struct pool *p);
/* Another worker is to be started. */
bool pool_size_wants(const struct pool *p);
void pool_size_look(struct pool *p);
void pool_size_asked(struct pool *p); /* WORKERS_WANTED */
/* When it has something to do, UINT64_MAX: not before something happens. */
uint64_t pool_size_next_ns(const struct pool *p);

/* --- pool.c ----------------------------------------------------------------------------------- */
void pool_tell_supervisor(struct pool *p, enum control_type type, const char *text);
/* Asks the supervisor for a new generation, with shared memory of its own; not too often. */
void pool_renew_memory(struct pool *p, const char *why);
/* Likewise, because a file that the image was made of is another one: "/app/a.php has changed". */
void pool_renew_image(struct pool *p, const char *what);
void pool_kill_worker(struct pool *p, uint32_t worker, enum control_cause cause);
/* Ends all workers and this process. */
NORETURN void pool_stop_now(struct pool *p, int status);
/* In a process forked to run PHP: dies with the pool process, lets go of what is the pool's. */
void pool_leave(struct pool *p, int parent);
/* max_requests with a jitter. */
uint64_t pool_draw_max_requests(const struct config_pool *conf);

/* --- pool_images.c: pools whose workers are forked from a frozen process ---------------------- */
/* Before libphp is loaded: makes this process able to be frozen. 0 or -errno. */
MUST_USE int images_prepare(struct pool *p);
/* Starts the process to be frozen when there is none and it is time. True: workers can be forked.
 */
bool images_ready(struct pool *p);
bool images_booted(const struct pool *p);
/* When to call that again; UINT64_MAX: an event will tell. */
uint64_t images_wake_ns(const struct pool *p);
/* Its socket, for poll (-1: none), and what to do when it is readable. */
int images_socket(const struct pool *p);
void images_event(struct pool *p);
/* The pool got a channel: `fds` as in CONTROL_CHANNEL, which stay the caller's; then a descriptor
 * of zeroed memory for its black boxes (borrowed), or -errno. */
void images_set_channel(struct pool *p, const int *fds, size_t n_fds);
int images_share_boxes(struct pool *p, size_t bytes);
/* Forks a worker from the frozen process; both descriptors are the worker's ends of sockets, of
 * which the second may be -1. Its pid or -errno. */
MUST_USE pid_t images_fork_worker(struct pool *p, uint32_t index, int sock, int memory_end);
/* While the script does not boot: what it printed, for a worker that answers 500. NULL: no need. */
const char *images_boot_failure(const struct pool *p);
/* True: that process was the one to be frozen. */
bool images_reaped(struct pool *p, pid_t pid, int status);
/* No worker will be forked any more. */
void images_end(struct pool *p);

/* --- pool_script.c: pools that are the image of an entry script ------------------------------- */
bool pool_script_is(const struct pool *p);
/* What it runs. 0 or -errno. */
MUST_USE int pool_script_init(struct pool *p);
/* In the process that is to be frozen. */
void pool_script_describe(const struct pool *p, struct engine_image *image);
/* The script cannot be frozen: the supervisor is told, this process ends. */
NORETURN void pool_script_refuse(struct pool *p, const char *why);
/* The same where nobody serves: workers of an image that is made once more go on meanwhile. */
void pool_script_failed(struct pool *p, struct str why);
/* The image is there: its files are watched from now on. */
void pool_script_frozen(struct pool *p);
uint64_t pool_script_wake_ns(const struct pool *p);
void pool_script_look(struct pool *p);

/* --- pool_report.c: what is learned and told of images ---------------------------------------- */
/* CONTROL_REPORT: its descriptors stay the caller's. */
void pool_report_take(struct pool *p, struct str why, int *fds, size_t n);
/* The next image holds what was learned. */
bool pool_report_learns(const struct pool *p);
/* An image was not made; true: maybe because of that, and it will be tried without. */
bool pool_report_forgives(struct pool *p);
/* A worker has ended, with that wait status. */
void pool_report_death(struct pool *p, const struct seat *seat, int status);
/* Why a worker asked for a new generation, when it was for what was learned; else NULL. */
const char *pool_report_harm(struct pool *p);
void pool_report_look(struct pool *p);
/* A window of observation. */
struct pool_report_window {
    uint64_t requests;  /* in it */
    uint64_t late;      /* of them: loaded something that no image was tried with */
    uint64_t names_new; /* first seen in it */
    uint64_t renewals;  /* generations that were started for that so far */
    uint64_t since_ns;  /* the last of them */
};
/* A new generation is worth while. */
bool pool_report_is_worth(const struct pool_report_window *w);
uint64_t pool_report_next_ns(const struct pool *p);

/* What every worker of the pool is told, whoever forks it; without its seat. */
struct engine_worker pool_worker(const struct pool *p, const char *role);

#endif
