/*
 * What the files of the supervisor share. The whole room is one thread around one loop; nothing
 * here is seen by another process except through control messages.
 *
 *   serve.c       command line to running server; signals; the start message
 *   plan.c        a configuration as accepted: typed form, users, sizes; immutable, counted
 *   sizing.c      how many workers, how large a channel, descriptor limits
 *   users.c       who runs what when started as root
 *   fastcgi.c     what must be right before FastCGI servers are used
 *   listen.c      the listening sockets, bound once, given to every gateway
 *   role.c        one child process and its control socket: start, send, receive, end
 *   link.c        one channel between one pool process and one gateway
 *   generation.c  pool processes: STARTING -> READY -> ACTIVE -> DRAINING -> gone
 *   gateway.c     the gateway process and its restart
 *   logs.c        error log and access log files, their rotation
 *   stop.c        draining and ending everything
 *   watch.c       changed files restart worker scripts
 *   fallback.c    what went to PHP-FPM stays there until a reload
 *   notify.c      sd_notify
 */
#ifndef SAPID_SUPERVISOR_INT_H
#define SAPID_SUPERVISOR_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/check.h"
#include "base/list.h"
#include "base/str.h"
#include "channel/channel.h"
#include "channel/control.h"
#include "config/config.h"
#include "loop/loop.h"

struct supervisor;

/* --- users.c --------------------------------------------------------------------------------- */
struct user {
    bool change; /* false: the role runs as the supervisor does */
    uid_t uid;
    gid_t gid;
    char name[64]; /* "" when the uid has no entry in the password database */
    char home[256];
    char why[256]; /* half a sentence for the start message: "owner of /srv/app" */
};
/* Who runs PHP for this document root. 0, or -EINVAL with `message` that says what to do. */
MUST_USE int user_choose_pool(const struct config_pool *p, const char *document_root,
                              struct user *ret, char *message, size_t message_size);
MUST_USE int user_choose_gateway(const struct config_server *s, const char *document_root,
                                 const struct user *pool, struct user *ret, char *message,
                                 size_t message_size);
/* 0 when `u` may list and search `dir`, else -errno and the first part of the path that refuses.
 * Forks, because only the kernel knows what ACLs, groups and security modules say. */
MUST_USE int user_can_read(const struct user *u, const char *dir, char *ret_refused, size_t size);
/* In a child: gives up uid, gid and groups for good. 0 or -errno. */
MUST_USE int user_become(const struct user *u);

/* --- fastcgi.c ------------------------------------------------------------------------------- */
/* Makes the gateway the owner of a socket it could not connect to otherwise, when no user was
 * named. 0, or -EINVAL with `message` that says what to do. */
MUST_USE int fastcgi_check(const struct config *c, uint32_t threads, struct user *gateway,
                           char *message, size_t message_size);

/* --- sizing.c -------------------------------------------------------------------------------- */
struct machine {
    unsigned cpus;         /* this process may use: affinity and cgroup quota */
    uint64_t memory_bytes; /* RAM or the cgroup's limit, whichever is less */
};
void machine_look(struct machine *ret);
/* Number of workers; `why` explains an "auto" in words. */
uint32_t sizing_workers(const struct config_pool *p, const struct machine *m, char *why,
                        size_t size);
uint32_t sizing_threads(const struct config_server *s, const struct machine *m);
void sizing_geometry(const struct config *c, const struct config_pool *p, uint32_t workers,
                     uint32_t threads, struct channel_geometry *ret);
/* Raises the soft limit as far as `wanted` and the hard limit allow (as root the hard limit too);
 * `ret_before` is what children that do not want many descriptors get back. */
void sizing_raise_nofile(uint64_t wanted, struct rlimit *ret_before);

/* --- plan.c ---------------------------------------------------------------------------------- */
struct pool_plan {
    char *document_root; /* symlinks resolved when the plan was made: a deploy moves the link */
    char *detected;      /* how it was found, NULL when it was named */
    struct user user;
    uint32_t workers;
    char workers_why[160];
    struct channel_geometry geometry;
};

/* Everything decided before a role is started. A generation keeps the plan it was started with, so
 * that a replacement for a dead process is what the dead one was, whatever the file says then. */
struct plan {
    unsigned refs;
    char *name; /* file, or "(command line)" */
    char *text;
    size_t text_bytes;
    char *base_dir;   /* of relative paths in the text */
    char **overrides; /* of the command line, and the number of threads in place of "auto" */
    struct config *config;
    struct pool_plan *pools; /* config->n_pools */
    struct user gateway_user;
    uint32_t threads;
    struct plan_fallback {
        uint32_t pool, which; /* 0: the pool, else 1 + index of the [[route]] */
    } * fallbacks;            /* to PHP-FPM, while this plan is in force: fallback.c */
    uint32_t n_fallbacks;
};
/* Reads the file afresh. 0, or -EINVAL after `say` was called with each line of what is wrong. */
MUST_USE int plan_new(const struct config_cli *cli, void (*say)(const char *line),
                      struct plan **ret);
struct plan *plan_ref(struct plan *p);
void plan_unref(struct plan *p); /* NULL is fine */
/* Sealed boot memfd for a role. Descriptor or -errno. */
MUST_USE int plan_boot(const struct plan *p, uint32_t pool, uint32_t generation);
/* The same pools in the same places. */
bool plan_same_pools(const struct plan *a, const struct plan *b);
/* First [server] or [log] key that differs and needs a restart of the server; NULL: none. */
const char *plan_server_difference(const struct plan *a, const struct plan *b);

/* --- listen.c -------------------------------------------------------------------------------- */
struct listener {
    int fd;
    uint32_t index;  /* in config->server.listen */
    uint32_t thread; /* gateway thread it is for */
    char url[128];   /* "http://127.0.0.1:8080", "unix:/run/app.sock" */
    char *path;      /* unix: to unlink at the end; NULL when another entry of this path owns it */
    dev_t dev;
    ino_t ino;
};
struct listeners {
    struct listener *v;
    uint32_t n;
};
/* Binds everything, one socket per address and thread. 0 or -errno and `message`; then nothing
 * stays. */
MUST_USE int listeners_open(const struct config_server *s, uint32_t threads, struct listeners *ret,
                            char *message, size_t message_size);
/* Opens the ports. Again with the next gateway, which changes nothing. */
MUST_USE int listeners_listen(struct listeners *l, char *message, size_t message_size);
/* Closes, and removes the unix sockets that are still ours. */
void listeners_close(struct listeners *l);
/* "http://127.0.0.1:8080, unix:/run/app.sock" */
char *listeners_urls(const struct listeners *l);

/* --- role.c ---------------------------------------------------------------------------------- */
enum { ROLE_FDS_MAX = CHANNEL_THREADS_MAX + 3 };

struct role {
    struct supervisor *sup;
    struct list link; /* supervisor's list of running roles */
    pid_t pid;        /* 0: not running */
    int control;      /* our end, -1 after the peer closed it */
    struct loop_watch watch;
    struct loop_timer kill_timer;
    char name[48]; /* "gateway", "pool www g3" */
    void (*on_message)(struct role *r, const struct control_message *m);
    void (*on_exit)(struct role *r, int wait_status);
};

struct role_spec {
    const char *verb; /* "@gateway" */
    const struct user *user;
    char **environment;
    int boot_fd;    /* borrowed */
    bool few_files; /* gets the descriptor limit the supervisor was started with */
    bool no_new_privs;
};

void role_init(struct role *r, struct supervisor *s, const char *name);
MUST_USE int role_start(struct role *r, const struct role_spec *spec);
bool role_running(const struct role *r);
/* A role that does not read its socket, or cannot take a message, is ended: its exit is then
 * handled as any other. */
void role_send(struct role *r, const struct control_message *m, const int *fds, size_t n_fds);
void role_send_type(struct role *r, enum control_type type, uint32_t pool, uint32_t generation);
void role_kill(struct role *r);
/* Kills unless it ended by itself before. */
void role_kill_in(struct role *r, uint64_t delay_ns);
/* Closes its control socket, which tells it to go, and kills it if it does not. */
void role_end(struct role *r, uint64_t kill_after_ns);
/* SIGCHLD: collects all dead children. */
void roles_reap(struct supervisor *s);
/* "killed by signal 11 (SIGSEGV)", "exit status 3" */
void role_describe_exit(int wait_status, char *ret, size_t size);
/* NAME=VALUE strings for a role, NULL-terminated, one allocation list: role_environment_free. */
char **role_environment(const struct config_pool *p, const struct user *u);
void role_environment_free(char **env);

/* Crash loops: the first restart is immediate, then 100 ms, doubling up to 5 s. A process that
 * served for a second is no part of a loop: being away costs more than starting again. */
struct backoff {
    unsigned failures;
};
uint64_t backoff_next_ns(struct backoff *b, uint64_t lived_ns);

/* --- link.c ---------------------------------------------------------------------------------- */
/* Both ends of one channel until they have been given away. */
struct link {
    int channel;
    int pool_end, gateway_end; /* seqpacket pair between pool process and gateway */
    int eventfds[CHANNEL_THREADS_MAX];
    uint32_t threads;
};
void link_init(struct link *l);
MUST_USE int link_open(struct link *l, const struct channel_geometry *g);
void link_close(struct link *l);

/* --- generation.c ---------------------------------------------------------------------------- */
enum generation_state {
    GENERATION_STARTING, /* process started, engine not yet up */
    GENERATION_READY,  /* engine up; the gateway does not know it yet or has not granted a worker */
    GENERATION_ACTIVE, /* takes the pool's requests */
    GENERATION_DRAINING, /* finishes what it has */
};

struct generation {
    unsigned magic;
    struct role role;
    struct pool *pool;
    struct list link; /* pool->generations */
    uint32_t number;
    enum generation_state state;
    bool attached; /* the present gateway knows it */
    bool granted;  /* the present gateway granted its first worker */
    bool ending;   /* was told to drain or stop */
    struct plan *plan;
    struct link ends;
    struct loop_timer timer; /* start limit, later drain limit */
    uint64_t active_since_ns;
    char *failure; /* what it said before it died */
};

struct pool {
    struct supervisor *sup;
    uint32_t index;
    char name[32];
    struct list generations;
    struct generation *active;  /* NULL while a dead one is being replaced */
    struct generation *pending; /* STARTING or READY */
    struct plan *good;          /* of the last generation that became active */
    struct plan *wanted;        /* to be started once the pending one is settled */
    uint32_t last_number;
    struct backoff backoff;
    struct loop_timer retry;
};

void pool_init(struct pool *p, struct supervisor *s, uint32_t index, struct str name);
void pool_fini(struct pool *p);
/* Starts a generation of `plan`, or remembers it while another one is starting. */
void pool_renew(struct pool *p, struct plan *plan);
/* A new gateway process runs: gives every live generation a fresh channel to it. */
void pool_gateway_started(struct pool *p);
void pool_gateway_gone(struct pool *p);
void pool_gateway_message(struct pool *p, const struct control_message *m);
/* True when the gateway may accept for this pool. */
bool pool_serves(const struct pool *p);
/* End of the server. */
void pool_cancel_pending(struct pool *p);
void pool_drain(struct pool *p);
void pool_stop(struct pool *p, uint64_t kill_after_ns);

/* --- fallback.c ------------------------------------------------------------------------------ */
/* The gateway says that `which` went to PHP-FPM. */
void fallback_note(struct generation *g, uint32_t which);
/* The gateway was given the generation: what went to PHP-FPM under its plan stays there. */
void fallback_tell(const struct generation *g);

/* --- gateway.c ------------------------------------------------------------------------------- */
struct gateway_process {
    struct role role;
    bool ready, listening;
    uint64_t started_ns;
    struct backoff backoff;
    struct loop_timer retry;
    char *failure;
};
void gateway_init(struct gateway_process *g, struct supervisor *s);
void gateway_fini(struct gateway_process *g);
void gateway_start(struct gateway_process *g);
/* Sends LISTEN once the gateway and every pool are able to serve. */
void gateway_maybe_listen(struct gateway_process *g);

/* --- logs.c ---------------------------------------------------------------------------------- */
/* One line for the person who starts the server: on stderr, and in the log when that is a file. */
void say_line(const char *line);
/* From here on descriptor 2 is the error log. 0, or -errno after it said why. */
MUST_USE int logs_open(struct supervisor *s);
void logs_reopen(struct supervisor *s);
void logs_close(void);

/* --- serve.c, stop.c ------------------------------------------------------------------------- */
enum supervisor_phase {
    SUPERVISOR_STARTING, /* any failure is the end, exit status 1 */
    SUPERVISOR_SERVING,  /* failures are mended */
    SUPERVISOR_DRAINING, /* the gateway finishes its connections */
    SUPERVISOR_ENDING,   /* the pools end */
};

struct supervisor {
    unsigned magic;
    enum supervisor_phase phase;
    int exit_status;
    struct loop *loop;
    struct config_cli cli;
    struct plan *plan; /* of the gateway: the last accepted one */
    struct listeners listeners;
    struct gateway_process gateway;
    struct pool *pools;
    uint32_t n_pools;
    struct list roles;
    struct watcher *watcher; /* NULL: no files are watched */
    struct rlimit nofile_before;
    bool on_terminal;
    bool reloading;          /* the service manager was told so */
    uint64_t start_limit_ns; /* for a pool process to be ready; tests shorten it */
    struct loop_timer stop_timer;
};

enum { SUPERVISOR_MAGIC = 0x53757076, GENERATION_MAGIC = 0x47656e72 };

void supervisor_init(struct supervisor *s);
/* Loads, binds, starts the roles. 0, or -errno after it said why. */
MUST_USE int supervisor_start(struct supervisor *s);
/* Runs until everything has ended; returns the exit status. */
int supervisor_run(struct supervisor *s);
void supervisor_fini(struct supervisor *s);
/* The first start did not succeed: says why, ends everything, exit status 1. */
void supervisor_start_failed(struct supervisor *s, const char *what, const char *why);
/* A pool's new generation serves, or will not. */
void supervisor_reload_settled(struct supervisor *s);
/* The gateway accepts connections from now on. */
void supervisor_listening(struct supervisor *s);
void supervisor_reload(struct supervisor *s);
/* `drain`: lets running requests finish first, within drain_timeout. */
void supervisor_stop(struct supervisor *s, bool drain);
/* The gateway has no client left. */
void supervisor_drained(struct supervisor *s);
/* A role has ended; when it was the last one of a stopping server, the loop ends. */
void supervisor_role_ended(struct supervisor *s);

/* --- watch.c --------------------------------------------------------------------------------- */
/* Where [worker] watch asks for it: from now on a changed file renews the worker script's pool. */
void watcher_start(struct supervisor *s);
void watcher_stop(struct supervisor *s);

/* --- notify.c -------------------------------------------------------------------------------- */
/* One sd_notify(3) datagram to $NOTIFY_SOCKET, silently nothing without it. */
void notify_send(const char *state);
/* RELOADING=1 with the time that Type=notify-reload wants; READY=1 follows. */
void notify_reloading(void);

#endif
