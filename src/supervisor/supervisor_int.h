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
 *   image.c       pools that freeze an entry script: which scripts have one, and which make room
 *   image_ahead.c images of a generation that is to take over
 *   gateway.c     the gateway process, its restart and its retirement
 *   rollout.c     start, reload and rollback: a set of processes that begins to serve as one
 *   warmup.c      the requests the server makes to it before that
 *   admin.c       the admin socket and its commands
 *   logs.c        error log and access log files, their rotation
 *   stop.c        draining and ending everything
 *   upgrade.c     another program takes the sockets over; taking them over
 *   watch.c       changed files restart worker scripts
 *   look.c        one pool looked at, for sapid doctor
 *   watchdog.c    the service manager's watchdog
 *   fallback.c    what went to PHP-FPM stays there until a reload
 *   names.c       what images have learned: from generation to generation, and over a stop
 *   notify.c      sd_notify
 */
#ifndef SAPID_SUPERVISOR_INT_H
#define SAPID_SUPERVISOR_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/buf.h"
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
    bool change;  /* false: the role runs as the supervisor does */
    bool chroots; /* the role keeps CAP_SYS_CHROOT: its workers are to be chrooted */
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
    struct config_source source;
    char *base_dir;   /* of relative paths in the text */
    char **overrides; /* of the command line, and the number of threads in place of "auto" */
    struct config *config;
    struct pool_plan *pools; /* config->n_seats */
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
/* Sealed boot memfd for a role; `order` of an image, else NULL. Descriptor or -errno. */
struct image_order;
MUST_USE int plan_boot(const struct plan *p, uint32_t pool, uint32_t generation,
                       const struct image_order *order);
/* What of the gateway's own settings differs ("server.listen"), so that another gateway is needed
 * for `b`; NULL: nothing. */
const char *plan_gateway_difference(const struct plan *a, const struct plan *b);
/* Whether pool `index` of `b`, which `a` has in the same place, is another one than there. */
bool plan_pool_differs(const struct plan *a, const struct plan *b, uint32_t index);
/* Index of the pool or seat of that name, or config->n_seats. */
uint32_t plan_pool_index(const struct plan *p, struct str name);

/* The root of a pool as it is now, into `ret`: detected if nobody named it, symbolic links
 * resolved. 0, or -EINVAL with `message`. */
MUST_USE int plan_resolve_root(const struct config_pool *c, struct pool_plan *ret, char *message,
                               size_t size);
/* May that user read the root? 0, or -errno with `message`, where `who` is the one who cannot. */
MUST_USE int plan_check_readable(const struct user *u, const char *who, const char *root,
                                 char *message, size_t size);

/* --- listen.c -------------------------------------------------------------------------------- */
struct listener {
    int fd;
    uint32_t index;  /* in config->server.listen */
    uint32_t thread; /* gateway thread it is for */
    char url[128];   /* "http://127.0.0.1:8080", "unix:/run/app.sock" */
    char *text;      /* as written in the configuration that opened it */
    char *path;      /* unix: to unlink at the end; NULL when another entry of this path owns it */
    dev_t dev;
    ino_t ino;
    bool borrowed; /* somebody else unlinks it: another gateway or program, which has it too */
    bool foreign;  /* and always will: a service manager opened it */
};
struct listeners {
    struct listener *v;
    uint32_t n;
};
/* Binds everything, one socket per address and thread; what `given` (NULL: nothing) has already is
 * used instead, as a copy, so that no connection in its backlog is lost. 0 or -errno and `message`;
 * then nothing stays. */
MUST_USE int listeners_open(const struct config_server *s, uint32_t threads,
                            const struct listeners *given, struct listeners *ret, char *message,
                            size_t message_size);
/* Entry for a listening socket that somebody else opened; takes `fd`. 0, or -errno if it is none.
 */
MUST_USE int listeners_adopt(struct listeners *l, int fd, const char *text, bool foreign);
/* From now on `l` unlinks the unix sockets, and `before` (NULL: another program) does not. */
void listeners_own(struct listeners *l, struct listeners *before);
/* Another program does. */
void listeners_disown(struct listeners *l);
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
    char name[64]; /* "gateway", "pool www g3" */
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
    /* Instead of all this: what the child does; its descriptors are ours. */
    NORETURN void (*child)(const struct role *r, int control);
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
/* In a child: says why it cannot go on, and ends. */
NORETURN void role_child_fail(int control, const char *what, int error);
/* Lets the process go its own way. */
void role_release(struct role *r);
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

/* --- records.c ------------------------------------------------------------------------------- */
/* What a pool process has sent of a record so far, by kind (control_record). */
struct record_parts {
    struct buf text[4]; /* by enum control_record */
};
void record_parts_fini(struct record_parts *parts);
/* CONTROL_RECORD: writes it where it belongs once it is complete. */
struct generation;
void record_receive(struct generation *g, struct record_parts *parts,
                    const struct control_message *m);
/* Opens (again) the slow log if it is a file. 0 or -errno. */
MUST_USE int records_open(const struct config_log *l);
void records_close(void);

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
    uint32_t index; /* of its pool in its plan, and so for its gateway */
    enum generation_state state;
    struct gateway_process *gateway; /* that sends it requests, for all its life */
    bool attached;                   /* that gateway knows it */
    bool granted;                    /* that gateway granted its first worker */
    bool ending;                     /* was told to drain or stop */
    bool profiled;                   /* samples stacks for profile.c */
    struct plan *plan;
    struct image_order *order; /* of an image, else NULL */
    uint64_t begun_ns, granted_ns;
    struct link ends;
    int report;              /* see channel/report.h; -1: there is none */
    struct loop_timer timer; /* start limit, later drain limit; an image's age */
    uint64_t active_since_ns;
    char *failure; /* what it said before it died */
    struct record_parts records;
    /* The answer to CONTROL_LOOK; NULL: nobody asked. */
    void (*on_look)(struct generation *g, struct str text);
};

struct pool {
    struct supervisor *sup;
    struct list link; /* supervisor's all_pools */
    char name[48];
    struct list generations;
    struct generation *active;  /* NULL while a dead one is being replaced */
    struct generation *pending; /* STARTING or READY: replaces a dead or worn-out active one */
    struct generation *next;    /* STARTING or READY: of the rollout under way */
    struct plan *good;          /* of the last generation that became active */
    char why[160];              /* the next generation is started; "": as one can see */
    bool again;                 /* renew once more when the pending one is settled */
    uint32_t last_number;
    struct backoff backoff;
    struct loop_timer retry;
    struct images *images;   /* of a classic pool whose scripts asked for one; else NULL */
    struct image_seat *seat; /* NULL: it is no image */
};

struct pool *pool_new(struct supervisor *s, struct str name);
void pool_free(struct pool *p);
/* Another generation of what serves, or after the one that is starting. */
void pool_renew(struct pool *p);
/* A new process of that gateway runs: gives every live generation a fresh channel to it. */
void pool_gateway_started(struct pool *p, struct gateway_process *g);
void pool_gateway_gone(struct pool *p, struct gateway_process *g);
/* No client of that gateway waits for anything. */
void pool_gateway_drained(struct pool *p, struct gateway_process *g);
/* Some process of a generation still has channels to it. */
bool pools_use_gateway(const struct supervisor *s, const struct gateway_process *g);
void pools_gateway_message(struct gateway_process *g, const struct control_message *m);
/* True when the gateway may accept for this pool. */
bool pool_serves(const struct pool *p);
/* --- for rollout.c: */
/* Starts `next`, with `order` if it is an image; its failure may be told before this returns. */
void pool_prepare(struct pool *p, struct plan *plan, uint32_t index, struct gateway_process *g,
                  struct image_order *order);
/* What has waited for its images may take over. */
void pool_go_on(struct pool *p);
/* `next`, which is granted, takes over. */
void pool_switch(struct pool *p);
/* `next` takes over as soon as it can, without the others. */
void pool_adopt(struct pool *p);
/* Gives `next` up. */
void pool_abandon(struct pool *p);
/* The pool is not in the new plan. */
void pool_retire(struct pool *p);
/* It takes no requests any more: what starts is given up, what serves drains. The pool stays. */
void pool_vacate(struct pool *p);
/* The generation of that plan that still drains and could serve again; NULL: there is none. */
struct generation *pool_find_draining(const struct pool *p, const struct plan *plan);
/* It serves again, and the active one drains. */
void pool_return(struct pool *p, struct generation *g);
/* End of the server. */
void pool_cancel_pending(struct pool *p);
void pool_drain(struct pool *p);
void pool_stop(struct pool *p, uint64_t kill_after_ns);

/* --- image.c ---------------------------------------------------------------------------------- */
/* A seat of a classic pool is a pool without generations until a script asks for an image. What a
 * generation of it freezes, counted; it belongs to one generation of the classic pool. */
struct image_order {
    unsigned refs;
    char *script, *script_name, *host, *address;
    bool https;
    uint16_t port;
    uint32_t of_generation;
};
struct image_order *image_order_ref(struct image_order *o); /* NULL is fine; so below */
void image_order_unref(struct image_order *o);
/* What generations of the pool are to freeze now; NULL: it is no image. */
struct image_order *image_order_of(const struct pool *p);
/* A worker of that classic generation wants its script frozen. */
void image_wanted(struct generation *of, const struct control_message *m);
/* The gateway: the image had its last request that long ago. */
void image_used(struct generation *g, uint64_t ago_ms);
/* A classic generation serves from now on: its images are made anew, those of the one before
 * drain. */
void images_follow(struct pool *of);
/* The classic pool is no longer in the configuration. */
void images_retire(struct pool *of);
/* What became of an image's generation: it serves; it could not be made; it died while it served.
 */
void image_serves(struct generation *g);
void image_failed(struct pool *p, const char *name, const char *why);
void image_died(struct pool *p, const char *name, pid_t pid, const char *how, uint64_t lived_ns);
/* A file that it was made of is another one: "/srv/app/config.php has changed". */
void image_outdated(struct generation *g, struct str what);
/* The pool is being freed. */
void image_forget(struct pool *p);
/* Name of the pool whose script it freezes; NULL: that has gone. */
const char *image_pool_of(const struct pool *p);
/* A seat whose pool is there, or a pool with a seat that still drains. */
bool image_keeps(const struct pool *p);

/* --- image_ahead.c ---------------------------------------------------------------------------- */
/* That classic generation is able to serve: scripts that have an image get one of it, before it
 * takes over. */
void images_ahead_begin(struct generation *of);
/* It need not wait for them (any longer). */
bool images_ahead_settled(const struct generation *of);
/* It takes over in this turn: so do those of its images that are ready. */
void images_ahead_switch(struct generation *of);
/* That generation of the pool will not take over. */
void images_ahead_abandon(struct pool *of, uint32_t number);
/* The images that serve, a line for each, which is counted; see names.c. */
MUST_USE int images_write(const struct supervisor *s, struct buf *b, uint64_t *lines);
/* One that the program before had, and none of them after all. */
void images_read(struct supervisor *s, struct str pool, const struct control_image *image);
void images_unread(struct supervisor *s);
/* The first generations are about to start: they get these images. */
void images_inherit(struct supervisor *s);
/* What became of one: it is able to serve; it could not be made. */
void image_ahead_granted(struct pool *p);
void image_ahead_failed(struct pool *p, const char *name, const char *why);

/* --- choice, by itself for the tests --- */
enum {
    IMAGE_KEEP_MS = 5000,         /* an image that was used this lately does not make room */
    IMAGE_KEEP_BOOTS = 20,        /* nor one used within so many times what it took to make it */
    IMAGE_REMAKE_MS = 10000,      /* at least that long it serves the host that it was made for */
    IMAGE_SETTLED_MS = 30000,     /* one that ends earlier is short-lived */
    IMAGE_SHORT_MAX = 3,          /* so many of those in a row are made again at once */
    IMAGE_PAUSE_FIRST_MS = 10000, /* after a refusal; doubles */
    IMAGE_PAUSE_MAX_MS = 600000,
    IMAGE_REFUSALS = 32, /* scripts of a pool that are remembered */
};
struct image_candidate {
    enum { IMAGE_SEAT_FREE, IMAGE_SEAT_STARTS, IMAGE_SEAT_SERVES } state;
    uint64_t used_ns; /* its last request, or its start */
    uint64_t made_ns; /* how long it took to make it */
};
/* Which seat an image gets: a free one, else that of the least recently used. -1: all are in use.
 */
int image_choose_seat(const struct image_candidate *seats, uint32_t n, uint64_t now_ns);

struct image_refusal {
    char *script; /* NULL: free */
    char *why;
    uint64_t until_ns, pause_ms, changed_ns; /* the file's mtime then */
    uint64_t served_ns;                      /* since when it has an image after all; 0: none */
};
/* Remembers it; how long the script has to wait, in ms. True in `ret_new` when that reason was not
 * told yet. */
uint64_t image_refuse(struct image_refusal list[IMAGE_REFUSALS], const char *script,
                      uint64_t changed_ns, const char *why, uint64_t now_ns, bool *ret_new);
/* It has to wait yet. */
bool image_is_refused(const struct image_refusal list[IMAGE_REFUSALS], struct str script,
                      uint64_t changed_ns, uint64_t now_ns);
/* It has an image now: what was, is forgotten if that one stays. */
void image_relieve(struct image_refusal list[IMAGE_REFUSALS], struct str script, uint64_t now_ns);
void image_forgive_all(struct image_refusal list[IMAGE_REFUSALS]);
/* Is that a script beneath the root, under that name? */
bool image_is_beneath(struct str script, struct str script_name, const char *document_root);

/* --- report.c -------------------------------------------------------------------------------- */
/* Its process was started: gives it its report, and what the one before has learned. */
void report_begin(struct generation *g);
/* To the gateway that knows it now. */
void report_give(const struct generation *g);

/* --- names.c ---------------------------------------------------------------------------------- */
/* It serves: what its images learn is kept for the next one. */
void names_keep(const struct generation *g);
/* The report of the one before, borrowed; -1: there was none, or of another user. */
int names_of(const struct generation *g);
/* As text, with the `images` that serve, for another program. 0 or -errno. */
MUST_USE int names_write(struct supervisor *s, bool images, struct buf *b);
/* 0, or minus the number of the line that is wrong; then nothing is kept. */
MUST_USE int names_read(struct supervisor *s, struct str text);
/* From and to the file in state_dir, if there is one; both say what is wrong with it. */
void names_load(struct supervisor *s);
void names_save(struct supervisor *s);
void names_forget(struct supervisor *s);

/* --- fallback.c ------------------------------------------------------------------------------ */
/* The gateway says that `which` went to PHP-FPM. */
void fallback_note(struct generation *g, uint32_t which);
/* The gateway was given the generation: what went to PHP-FPM under its plan stays there. */
void fallback_tell(const struct generation *g);

/* --- gateway.c ------------------------------------------------------------------------------- */
/* There is one that accepts, and beside it perhaps one of a rollout that starts and some that
 * finish their connections. Each has a plan and listeners of its own; a restart keeps both. */
struct gateway_process {
    unsigned magic;
    struct role role;
    struct list link; /* supervisor's gateways */
    struct plan *plan;
    struct listeners listeners;
    bool ready, listening;
    bool leaving; /* another one has taken over: it finishes its connections and ends */
    bool drained;
    uint64_t started_ns;
    struct backoff backoff;
    struct loop_timer retry;
    struct loop_timer drain_limit;
    char *failure;
};
/* Takes the listeners over. */
struct gateway_process *gateway_new(struct supervisor *s, struct plan *plan,
                                    struct listeners *listeners);
/* Not running. */
void gateway_free(struct gateway_process *g);
void gateway_start(struct gateway_process *g);
/* Sends LISTEN once the gateway and every pool are able to serve. */
void gateway_maybe_listen(struct gateway_process *g);
/* Begins to accept, now. 0, or -errno and `message`. */
MUST_USE int gateway_listen(struct gateway_process *g, char *message, size_t message_size);
/* Its listeners are another one's now: it answers what it has, closes and ends. True: it tells
 * rollout_left when it does not accept any more. False: it is freed. */
bool gateway_leave(struct gateway_process *g);
/* Leaving ones that are drained and have no generation any more may end. */
void gateways_settle(struct supervisor *s);
/* Stops accepting. `idle_ms`: how long idle connections may stay, because another program goes on;
 * 0: the server stops. */
void gateway_drain(struct gateway_process *g, uint64_t idle_ms);
/* Of drain_timeout, what idle connections get. */
uint64_t gateway_idle_ms(const struct gateway_process *g);
/* Every gateway has answered all it had. */
bool gateways_drained(const struct supervisor *s);

/* --- admin.c --------------------------------------------------------------------------------- */
struct admin {
    int fd;     /* <= 0: there is no admin socket */
    char *path; /* to unlink at the end */
    dev_t dev;
    ino_t ino;
};
/* Warns where it cannot. `over`: takes the place of the socket of the program before. */
void admin_open(struct admin *a, const struct config_admin *c, bool over);
/* After a reload: opens another one where the configuration names another. */
void admin_renew(struct admin *a, const struct config_admin *before,
                 const struct config_admin *now);
void admin_close(struct admin *a);
/* To a gateway that begins to accept. */
void admin_give(const struct admin *a, struct role *gateway);
/* CONTROL_COMMAND of a gateway: does it and answers CONTROL_RESULT. */
void admin_command(struct role *gateway, const struct control_message *m);
/* To that gateway, if it still runs. `fd`: a file with the answer; -1: `text` is all. */
void admin_reply(struct supervisor *s, pid_t gateway, uint32_t number, enum control_result result,
                 const char *text, int fd);

/* --- profile.c -------------------------------------------------------------------------------- */
/* The admin command `profile?ms=..&rate=..`; its answer are collapsed PHP stacks. */
void profile_command(struct role *gateway, uint32_t number, struct str query);
void profile_done(struct generation *g, struct str outcome);
void profile_fini(struct supervisor *s);

/* --- stacks.c --------------------------------------------------------------------------------- */
/* The admin command `stacks`: the PHP stacks of all busy workers. */
void stacks_command(struct role *gateway, uint32_t number);
void stacks_fini(struct supervisor *s);

/* --- logs.c ---------------------------------------------------------------------------------- */
/* One line for the person who starts the server: on stderr, and in the log when that is a file. */
void say_line(const char *line);
/* From here on descriptor 2 is the error log. 0, or -errno after it said why. */
MUST_USE int logs_open(struct supervisor *s);
/* SIGUSR1: after a rotation. */
void logs_reopen(struct supervisor *s);
/* What `plan` says of the error log holds from now on, for what is started next too. 0, or -errno
 * after it said why; then nothing has changed. `ret_moved`: workers that run write to another file.
 */
/* Tells the gateways to open the access log afresh and, with `error_too`, to write to our error
 * log.
 */
void gateways_reopen_logs(struct supervisor *s, bool error_too);
MUST_USE int logs_switch(struct supervisor *s, const struct plan *plan, bool *ret_moved);
/* In a child: descriptor 2 is what it was at the start. */
void logs_give_back_stderr(void);
void logs_close(void);

/* --- serve.c, stop.c ------------------------------------------------------------------------- */
enum supervisor_phase {
    SUPERVISOR_STARTING, /* any failure is the end, exit status 1 */
    SUPERVISOR_SERVING,  /* failures are mended */
    SUPERVISOR_DRAINING, /* the gateway finishes its connections */
    SUPERVISOR_ENDING,   /* the pools end */
};

/* Told when a reload or a rollback is over: one sentence of what came of it. */
typedef void reload_done(void *ctx, bool ok, const char *sentence);

struct rollout;

struct supervisor {
    unsigned magic;
    enum supervisor_phase phase;
    int exit_status;
    struct loop *loop;
    struct config_cli cli;
    struct plan *plan;               /* the last one that came to serve */
    struct plan *previous;           /* the one before: where a rollback goes; NULL: none */
    struct gateway_process *gateway; /* the one that accepts; NULL before the first start's end */
    struct list gateways;            /* all of them */
    struct listeners given;          /* sockets that were open before this program: see upgrade.c */
    struct pool **pools;             /* by index in plan->config->pools */
    struct admin admin;
    uint32_t n_pools;
    struct list all_pools;   /* and those that a reload took away and that still drain */
    struct list roles;       /* running processes */
    struct rollout *rollout; /* under way; NULL: none */
    struct rollout *queued;  /* asked for meanwhile, not begun */
    struct list names;       /* see names.c */
    uint32_t n_names;
    struct image_heir *heirs; /* images of the program before; see image_ahead.c */
    uint32_t n_heirs;
    struct watcher *watcher;     /* first of a list; NULL: no files are watched */
    char *program;               /* path that an upgrade executes */
    struct upgrade *upgrade;     /* under way; NULL: none */
    struct profiling *profiling; /* likewise */
    struct stacks *stacks;       /* likewise */
    bool upgrade_after_rollout;
    bool handed_over; /* to another program */
    struct loop_timer watchdog;
    bool watchdog_waits; /* for the gateway's PONG */
    struct rlimit nofile_before;
    bool on_terminal;
    uint64_t start_limit_ns; /* for a pool process to be ready; tests shorten it */
    struct loop_timer stop_timer;
};

enum {
    SUPERVISOR_MAGIC = 0x53757076,
    GENERATION_MAGIC = 0x47656e72,
    GATEWAY_PROCESS_MAGIC = 0x47617465
};

void supervisor_init(struct supervisor *s);
/* Loads, binds, starts the roles. 0, or -errno after it said why. */
MUST_USE int supervisor_start(struct supervisor *s);
/* Runs until everything has ended; returns the exit status. */
int supervisor_run(struct supervisor *s);
void supervisor_fini(struct supervisor *s);
/* What `serve` and `check` were asked, argv[0] being which. 0: go on; 1: for help, which was
 * printed;
 * -EINVAL after it said what is wrong. config_cli_fini in any case. */
MUST_USE int command_line_read(int argc, char **argv, struct config_cli *ret);
/* The first start did not succeed: says why, ends everything, exit status 1. */
void supervisor_start_failed(struct supervisor *s, const char *why);
/* The gateway accepts connections from now on. */
void supervisor_listening(struct supervisor *s);
/* `drain`: lets running requests finish first, within drain_timeout. */
void supervisor_stop(struct supervisor *s, bool drain);
/* Another program, process `pid`, serves: finish what runs and end. */
void supervisor_hand_over(struct supervisor *s, pid_t pid);
/* A gateway has no client left. */
void supervisor_drained(struct supervisor *s);
/* A role has ended; when it was the last one of a stopping server, the loop ends. */
void supervisor_role_ended(struct supervisor *s);

/* --- rollout.c ------------------------------------------------------------------------------- */
/* The first start. 0, or -errno after it said why. */
MUST_USE int rollout_first(struct supervisor *s);
/* Reads the configuration again; what has changed, or everything when nothing has, starts afresh
 * beside what serves, is warmed and probed, and takes over as one. A failure changes nothing.
 * During another one it waits for its end. `done` may be NULL; it may be called before this
 * returns. */
void supervisor_reload(struct supervisor *s, reload_done *done, void *ctx);
/* Back to the release before the last reload: at once where that one still drains, else by starting
 * it again. Once more leads forward again. */
void supervisor_rollback(struct supervisor *s, reload_done *done, void *ctx);
/* Whoever asked with this `ctx` is no longer there. */
void supervisor_reload_forget(struct supervisor *s, void *ctx);
/* The server stops. */
void rollout_cancel(struct supervisor *s);
void rollout_free(struct rollout *r); /* NULL is fine */
/* What happens to its parts. `why`: of a part that will not serve; `p`: its pool, if it is one's.
 */
void rollout_progress(struct supervisor *s);
void rollout_lost(struct supervisor *s, const struct pool *p, const char *name, const char *why);
void rollout_gateway_gone(struct supervisor *s, struct gateway_process *g);
void rollout_gateway_lost(struct supervisor *s, struct gateway_process *g, const char *why);
/* It does not accept any more. */
void rollout_left(struct supervisor *s, struct gateway_process *g);
void rollout_probed(struct supervisor *s, const struct control_message *m);

/* --- warmup.c -------------------------------------------------------------------------------- */
struct warmup;
/* Makes the requests of [php] warmup and probe, one after the other, through `g` to the newest
 * generations; `done` is called once, never before this returns: NULL, or why a probe failed. */
struct warmup *warmup_start(struct gateway_process *g, const struct plan *plan,
                            const bool *pool_is_new, void (*done)(void *ctx, const char *failure),
                            void *ctx);
void warmup_free(struct warmup *w); /* NULL is fine */
/* The gateway's PROBED. */
void warmup_answered(struct warmup *w, const struct control_message *m);

/* --- upgrade.c ------------------------------------------------------------------------------- */
/* SIGUSR2. `done` may be NULL. */
void supervisor_upgrade(struct supervisor *s, reload_done *done, void *ctx);
/* The server stops. */
void upgrade_cancel(struct supervisor *s);
/* Absolute path of the file this program was started from, with the links as they were followed, so
 * that it leads to the next version when that is there. mem_free. */
char *upgrade_program(const char *argv0);
/* Sockets that were open when this program began, from the program before or a service manager. 0
 * or -errno. */
MUST_USE int takeover_begin(struct listeners *given);
/* A program before waits for us to serve. */
bool takeover_pending(void);
/* Reads what the images of the program before have learned. False: there is no such program. */
bool takeover_names(struct supervisor *s);
/* What goes wrong is said to it too. */
void takeover_say(const char *line);
void takeover_done(struct supervisor *s);

/* --- watchdog.c ------------------------------------------------------------------------------ */
void watchdog_start(struct supervisor *s);
void watchdog_stop(struct supervisor *s);
/* The gateway answered: all its threads are alive. */
void watchdog_ponged(struct supervisor *s);

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
