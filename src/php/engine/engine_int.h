/*
 * Inside the engine module. One process runs at most one request at a time, so the request is one
 * static object (`request`), and so is the worker.
 *
 * Texts of a request are NUL-terminated copies in `request.texts`, made once when the request is
 * taken: the slot in shared memory is not trusted to stay as it was, and PHP wants C strings.
 */
#ifndef SAPID_PHP_ENGINE_INT_H
#define SAPID_PHP_ENGINE_INT_H

#include "php/engine/compat.h"

#include "base/log.h"
#include "base/str.h"
#include "channel/channel.h"
#include "channel/control.h"
#include "channel/report.h"
#include "php/box.h"
#include "php/engine.h"
#include "snapshot/snapshot.h"

struct text_pair {
    struct str name, value; /* NUL-terminated */
};

struct body {
    enum channel_body kind;
    struct str rest; /* INLINE: not yet read; FILE, STREAM: read ahead, not yet taken */
    int fd;          /* -1: not asked for */
    bool ended;
    int64_t left; /* FILE and STREAM: bytes still expected, -1: until the end */
};

struct request {
    struct channel_worker *worker; /* NULL: no gateway (lifecycle) */
    struct str root; /* chroot of this process: what paths of the gateway begin with */
    uint64_t serial; /* counts requests of this process */
    bool active;     /* between take and finish */
    bool head_sent, ended;
    bool unbuffered;     /* X-Accel-Buffering: no */
    uint16_t status;     /* that was sent, 0: none yet */
    size_t memory_peak;  /* that PHP had from the system, of the last one finished */
    bool script_missing; /* the script could not be opened; open_errno says why */
    int open_errno;
    bool https;
    struct channel_request view; /* texts point into `texts` */
    struct text_pair *headers;
    uint32_t n_headers, headers_max;
    struct str content_type, authorization, cookie;
    struct body body;
    char *texts; /* grows between requests only */
    size_t texts_used, texts_max;
    struct str php_self;
};

extern struct request request;

/* What this worker process knows whatever becomes of its memory: kept memory where it is rolled
 * back after each request (rollback.c), an ordinary object elsewhere. */
struct live {
    struct channel_worker *channel; /* NULL: not attached yet */
    volatile sig_atomic_t drains;
    uint64_t served, max_requests; /* 0: no limit */
    uint64_t opcache_looked_ns;
    /* rollback only */
    uint32_t index, incarnation;
    int sock;
    struct box *box;
    pid_t pid;
    bool resumed;             /* rolled back at least once */
    bool rests;               /* had no request for a while, and has given its memory back */
    uint64_t first_ns;        /* what that took */
    uint64_t disconnected_ns; /* since when a database is missing; 0: none is */
    uint32_t disconnected;    /* which: a bit for each connection of rollback_sockets.c */
    uint32_t route;           /* of the request that ends with the next rollback: report.h */
    bool compared;            /* by isolation.c */
    char role[64];
};
extern struct live *live;

/* Of variables that every request writes to. They lie side by side, and not one here and one there
 * among large ones: in a worker that is rolled back each page of them is a copy and a comparison.
 */
#define OF_REQUEST __attribute__((section(".data.of_request")))

extern sapi_module_struct engine_sapi;
extern zend_module_entry engine_module_entry;
extern const char *engine_software;

/* request.c: taking a request, its texts and its body */
MUST_USE int request_take(struct channel_worker *w);
/* Makes a request of the server's own the present one: a GET of "/path?query" or
 * "https://host/path", without cookies and body, answered to nobody. The texts stay the caller's.
 */
struct pretended {
    const char *script, *script_name, *document_root;
    struct str url;
    const char *server_addr; /* NULL: 127.0.0.1, if the URL names a host */
    uint16_t server_port;    /* 0: that of the URL */
    const char *request_id;
};
void request_pretend(const struct pretended *p);
/* The response ends now, if it has not yet. Later output is dropped. */
void request_end(void);
void request_finish(void);
const struct text_pair *request_header(struct str name);
/* Both in one text of the request's. There is room to join every header's value once. */
struct str request_join(struct str a, struct str separator, struct str b);

/* sapi.c: an interim response (103 Early Hints) with the headers set so far. False: too late. */
bool response_inform(uint16_t status);

/* body.c */
void body_install(void); /* once, after module start */
void body_init(struct body *b, const struct channel_request *r, int64_t length);
void body_fini(struct body *b);
/* Before the answer ends and the script goes on: a body that waits in the gateway would go, too. */
void body_keep(struct body *b);
/* Up to `n` bytes; less only at the end of the body or when the client or the gateway has gone. */
size_t body_read(struct body *b, char *into, size_t n);
/* To the gateway, on the socket on which bodies are asked for. 0 or -errno. */
MUST_USE int body_send_control(struct control_message *m, int fd);
/* The socket to the gateway on which bodies are asked for. */
void body_set_socket(int sock, uint32_t index, uint32_t incarnation);

/* variables.c: the CGI variables of the request, as nginx's fastcgi_params and PHP-FPM give them */
void variables_register(zval *track_vars_array);
char *variables_getenv(const char *name, size_t name_len);
/* One of them, without making the list. False: this request does not have it. */
bool variables_look(struct str name, struct str *ret);
/* Requests may differ in it; else it comes from the environment of the process. */
bool variables_may_differ(struct str name);
/* Makes getenv() and $_ENV see the CGI variables too, as in FPM. */
void variables_install(void);

/* ini.c */
/* Which php.ini, which folder of extra files. Before startup. */
void ini_choose(sapi_module_struct *sapi, const struct engine_options *o);
/* The settings of the configuration in php.ini's language (mem_free). */
MUST_USE char *ini_render(const struct engine_options *o);
void ini_lock_admin(const struct engine_options *o);
/* .user.ini files and [PATH=], [HOST=] sections for this request's script. */
void ini_activate_user_config(void);

/* timeout.c: max_execution_time, max_input_time and hard_timeout without a timer per request */
void timeout_install(void);      /* once, after module start */
void timeout_worker_start(void); /* in each worker: arms the coarse CPU timer */
void timeout_worker_stop(void);
void timeout_request_start(void);
void timeout_script_start(void);
void timeout_request_end(void);

/* script.c: running one script with the trims */
void script_install(void); /* in MINIT: the quiet opener of the main script */
void script_after_startup(void);
/* Runs request startup, the script, and shutdown. False: the engine is in doubt, the process must
 * end. */
MUST_USE bool script_run(const char *path);
/* Tells PHP of the present request. */
void script_describe_request(const char *path);

/* deadline.c: request_timeout, told by a signal of the pool process */
void deadline_install(void); /* once, after module start */
void deadline_worker_start(void);
void deadline_request_start(void);
void deadline_request_end(void);
/* request_timeout has told: what waits for the client gives up. */
bool deadline_has_passed(void);

/* blackbox.c: what is left of a worker that dies (NULL: nothing) */
void blackbox_worker_start(struct box *b);
/* Behind a rollback: this process's box again, not that of the image. */
void blackbox_resume(struct box *b, pid_t pid);
void blackbox_request_begins(void);
void blackbox_request_ends(uint16_t status);
/* From a signal handler: where C is now, for the record of a worker that will be killed. */
void blackbox_note_place(void);

/* layout.c: where the engine keeps what php/stack.h reads */
const struct php_layout *layout_get(void);

/* probe.c: in a fork of its own: takes and gives back the locks in shared memory. Returns an
 * exit status: 0 when nobody holds them for good. */
int probe_run(void);
/* There are such locks. */
bool probe_is_useful(void);

/* Before channel_worker_done: what the request has cost, for status pages. */
void worker_note_cost(struct channel_worker *w);
/* worker.c, cli.c */
int worker_run(const struct engine_worker *w);
/* Log, environment, signals: what every process that runs PHP for the server begins with. */
void worker_begin(const struct engine_worker *w);
bool worker_is_copy(void); /* a script's pcntl_fork() made this process */
/* It was made by audit_fork() instead: no copy of a worker, and no worker. */
void worker_be_audit(void);
bool worker_drains(void);
/* Waits until the gateway lets this worker begin. 0, -ESHUTDOWN, -errno. */
MUST_USE int worker_attach(const struct engine_worker *w, struct channel_worker **ret);
int cli_run(const struct engine_options *o, int argc, char **argv);

/* loop.c: worker mode */
/* Runs the pool's worker script until the channel ends. Returns an engine_exit. */
int loop_run(const struct engine_worker *w);
bool loop_is_on(void);
/* The script runs and has not asked for a request yet: what it prints is for the error page. */
bool loop_boots(void);
/* The same for a signal handler: the process may end at any instruction, nobody's request is in it.
 */
bool loop_is_idle_in_boot(void);
void loop_keep_output(struct str text);
void loop_after_fork(void);
/* Runs the worker script once, for a process that is to be frozen, with a request of the server's
 * own for that URL; false: the engine is in doubt. */
MUST_USE bool loop_boot(const struct engine_worker *w, struct str url, const char *request_id);
/* The script, whose boot is over, is frozen in the middle. Returns in workers, again and again,
 * each time with a request for which the script goes on. */
void loop_freeze(void);
/* Why it ended before its first request; for people. */
void loop_describe_failure(char *text, size_t size);
/* What it printed. */
struct str loop_boot_output(void);
/* request_pretend() for the worker script. */
void loop_pretend_request(struct str url, const char *request_id);
/* The present request is answered and put away, in whatever state the script has left it. */
void loop_end_unwound(void);
/* Answers 500, with `said` in development, until the channel ends. Returns an engine_exit. */
int loop_answer_failures(const struct engine_worker *w);
PHP_FUNCTION(frankenphp_handle_request);
PHP_FUNCTION(frankenphp_request_parse_errors);

/* rollback.c: worker mode with isolation. One process boots the script and is frozen; forked from
 * it, workers go back to that state after each request. */
int rollback_run(const struct engine_worker *w, const struct engine_image *image);
bool rollback_is_on(void);
/* Of this worker, whose engine_worker was made before there was one; NULL: none yet. */
const struct channel *rollback_channel(void);
/* This process serves requests from an image: the end of one, however it comes, is a rollback. */
bool rollback_serves(void);
/* The script asks for a request. True: it gets one of the server's own, to warm it. False: the
 * present memory is the image's, wait for one at the channel. Does not return in a worker that has
 * served: its memory goes back, and the call that froze it returns. */
MUST_USE bool rollback_boundary(void);
/* The handler has returned: what the request registered for its end runs now, and prints. */
void rollback_after_handler(void);
/* The script has ended (exit, a fatal error) in a worker that serves. */
NORETURN void rollback_after_script(void);
NORETURN void rollback_leave(int status);
/* How long to wait for a request; when that is over: gives back the memory that the worker has of
 * its own, and begins as behind every rollback. */
uint64_t rollback_patience_ns(void);
NORETURN void rollback_rest(void);

/* The image is made here; returns in workers, behind each rollback. */
void rollback_freeze(void);
/* The image cannot be made: `reason` is told, and the process ends. */
NORETURN void rollback_refuse(const char *reason);
/* Of the process that is to be frozen, and its workers. */
const struct engine_image *rollback_image(void);
/* There are warm-up requests still to be made. */
bool rollback_wants_warmup(void);

/* seed.c: restore_state() and snapshot_state() */
void seed_install(void); /* in MINIT */
/* The script is being run to be frozen, and could be at any moment. */
bool seed_boots(void);
/* It is frozen here, `what` being a sentence's begin: "snapshot_state() was called". Returns in
 * workers, with a request for which the script goes on, or does not return there but where
 * restore_state() was called. */
void seed_freeze(const char *what);
/* A script of classic mode is frozen, or is to be, not a worker script. */
bool seed_is_on(void);
/* Runs it from the first line to the last, as in classic mode, to warm the process. */
MUST_USE bool seed_pass(const struct engine_worker *w, struct str url);
PHP_FUNCTION(restore_state);
PHP_FUNCTION(snapshot_boots);
PHP_FUNCTION(snapshot_state);

/* rollback_end.c: the end of a request without php_request_shutdown's teardown of memory */
void ending_record(void); /* what belongs to the image */
void ending_after_handler(void);
void ending_run(void (*answer)(void));

/* seed_globals.c: what the boot has added to $_SERVER and $_ENV */
void globals_record(void); /* while the boot's request is the present one */
void globals_add(void);    /* to a request's own */

/* freeze_point.c: snapshot_at */
/* "include:FILE", "function:NAME": the script is frozen there, if it comes there. */
void freeze_point_watch(const char *at);
/* Why the script did not come there, as far as it is known. */
const char *freeze_point_hint(void);
/* Nothing is looked for any more, and nothing is left of it. */
void freeze_point_end(void);

/* opened.c: where in PHP the descriptors of a boot were opened */
void opened_follow(void); /* from now on, in a process that is to be frozen */
void opened_end(void);
/* NULL: not known. The text is good until the next one is opened. */
const char *opened_at(int fd, uint32_t *ret_line);

/* rollback_refuse.c: what an image cannot hold, said so that people can change it */
void refusal_record(void); /* before the boot: what is there now is the server's own */
/* False: the state of PHP stands against an image; `text` says what and what to do. */
MUST_USE bool refusal_check(char *text, size_t size);
/* Jobs may make system calls past libc. */
bool refusal_has_raw_calls(void);
bool refusal_accept(void *context, enum snapshot_problem problem, int fd, const void *addr,
                    size_t bytes, const char *text);
void refusal_explain(const struct snapshot_refusal *r, char *text, size_t size);

/* Opened since refusal_record(). */
bool refusal_is_new(int fd);

/* locks.c: on files that the boot has opened. False: it holds one, says the sentence. */
MUST_USE bool locks_freeze(char *text, size_t size);
/* At the end of a request: those that it has left behind. */
void locks_release(void);

/* rollback_sockets.c: connections that are open at the freeze */
/* Severs or learns them, or leaves them to be refused. false: `text` says why the image cannot be.
 */
MUST_USE bool sockets_freeze(const struct engine_image *image, char *text, size_t size);
bool sockets_accept(int fd);
/* In a worker that was just forked: connections of its own. */
void sockets_connect(void);
/* Before a rollback: puts their sessions back. false: this worker has to be forked anew. */
MUST_USE bool sockets_reset(void);

/* rollback_memory.c: what of the memory need not be imaged */
void memory_gather(void); /* before the last round of warm-up requests */
void memory_tidy(void);
void memory_scratch(void *context, snapshot_scratch_add *add, void *list);

/* rollback_garbage.c: what exists now is never suspected of being garbage */
void garbage_exempt(void);

/* rollback_fresh.c: what must differ from request to request */
void fresh_record(void);
void fresh_make(void);

/* session.c: writes and forgets the session of a request, but keeps the application's handlers. May
 * bail out. */
void session_end(void);
/* From now on no request leaves a storage open that its handler did not close. */
void session_install(void);
/* One is open, or its handlers run. */
bool session_is_active(void);
/* There is a session id, or a cookie to be sent that says one: all requests of an image would have
 * that session. session_leave() forgets both. */
bool session_is_left(void);
void session_leave(void);
const char *session_cookie_name(void);

/* state.c: the state of PHP that outlives a request, as a list */
struct state;
struct state *state_new(bool values); /* whether numbers and settings are shown */
void state_list(struct state *s);
/* `was` NULL: new; `is` NULL: gone; both: changed. As shown: "array(3)", or "". */
typedef void state_told(void *context, const char *what, const char *was, const char *is);
void state_compare(const struct state *before, const struct state *after, state_told *tell,
                   void *context);

/* late.c: what requests load after the image, by name and route */
enum { LEARNED_LEAST = 2 }; /* requests that have to have loaded a name before it is learned */
void late_install(void);    /* in MINIT */
void late_begin(const struct engine_worker *w, const struct engine_image *image);
void late_record(void); /* the image ends here */
/* At the end of a request: notes what it has loaded. Its route, for report_rollback. */
uint32_t late_note(void);
/* NULL: none is kept. */
struct report *late_report(void);
/* The name of a REPORT_FILE, in `out` or `path`. */
struct str late_name_of(struct str path, char out[REPORT_TEXT_BYTES]);
/* The path of a REPORT_FILE; false: it is none. */
MUST_USE bool late_path_of(struct str name, char *out, size_t size);
/* "GET /products/ *" (without the space) */
struct str late_route_name(struct str method, struct str path, char *out, size_t size);

/* learned.c: loads before the image what requests have loaded late */
void learned_begin(const struct engine_image *image);
void learned_load(void);
/* The worker script has ended because of that; it can be booted again. */
bool learned_broke(void);
/* At the end of a request: whether it failed because of what the image holds. */
void learned_judge_error(void);

/* isolation.c: what requests leave behind, by route */
void isolation_record(const struct engine_worker *w); /* the image is made now */
/* At the end of a request: now and then compares its state with the image's. True: it did. */
bool isolation_sample(uint32_t route);

/* leaks.c: lists the state that outlives a request, before and after it, and logs what differs */
void leaks_before(void);
void leaks_after(void);

/* audit.c: a boot run once in a process of its own that sees what it reads and opens; php/audit.h
 */
struct audit_log;
struct audit_run {
    bool (*boot)(void *context); /* runs the script; false: the engine is in doubt */
    void *context;
    const char *at; /* "include:FILE", "function:NAME": freeze point; NULL: audit_done() says */
    const struct engine_setting *guards; /* snapshot_guards: "same" ones are read as well */
    size_t n_guards;
    uint32_t limit_ms;
};
/* 0: `log` (shared memory, zeroed) is complete. -errno with a sentence. */
MUST_USE int audit_fork(struct audit_log *log, const struct audit_run *run, char *text,
                        size_t size);
/* This process is an audit's. */
bool audit_is_on(void);
/* In it: the freeze point is reached. */
NORETURN void audit_done(void);
/* guards.c: which requests an image is for */
/* Runs an audit of the boot and makes its list of guards, in the process that is to be frozen. 0,
 * or
 * -errno with a sentence: the boot must not be frozen. */
MUST_USE int guards_make(const struct engine_image *image, bool (*boot)(void *context),
                         void *context, char *text, size_t size);
/* The present request, of which nothing was run yet, may have the image. */
bool guards_hold(void);
/* Every request of the image brings that key of `global` ("_GET"; NULL: all of it) as its boot's
 * request did: what the boot made of it is right for all of them. */
bool guards_cover(const char *global, const zend_string *key);
/* The configuration says "any" to it: nothing of what the boot has read there stays. */
bool guards_promise(const struct engine_image *image, const char *global, const char *key);

/* sapid audit */
int audit_command(const struct engine_audit *a, struct audit_log *log, char *text, size_t size);

/* opcache.c: a restart of opcache waits for us. Looks once a second, else false. */
bool opcache_wants_restart(uint64_t now_ns);
/* Before the image is made; then, in each worker, once its descriptors are its own: from now on it
 * is one of those that a restart waits for. */
bool opcache_is_entry(uintptr_t address);
void opcache_find_lock(void);
void opcache_hold(void);
/* A bailout may have left the lock under which opcache writes: the image does not know of it. */
void opcache_end_write(void);

/* sendfile.c: X-Sendfile and X-Accel-Redirect */
enum sendfile { SENDFILE_NONE, SENDFILE_HANDED, SENDFILE_REFUSED };
void sendfile_worker_start(const struct engine_worker *w);
bool sendfile_is_on(void);
/* HANDED: the gateway has the file; a head of type CHANNEL_FILE and the end must follow. REFUSED:
 * answer *ret_status instead. */
enum sendfile sendfile_take(sapi_headers_struct *headers, uint16_t *ret_status);

/* status.c: what the functions below tell of the pool */
void status_worker_start(const struct engine_worker *w);
PHP_FUNCTION(fpm_get_status);

/* apache.c: mod_php's notes and variables of one request */
void apache_request_ends(void);
char *apache_variable(struct str name); /* NULL: not set by apache_setenv() */
PHP_FUNCTION(apache_note);
PHP_FUNCTION(apache_setenv);
PHP_FUNCTION(apache_getenv);
PHP_FUNCTION(virtual);

/* functions.c */
extern const zend_function_entry engine_functions[];

#endif
