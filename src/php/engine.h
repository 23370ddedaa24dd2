/*
 * engine: what the program and the engine module say to each other. The module is a shared object
 * built once per PHP API (sapid-php-20220829.so); the program loads libphp first (RTLD_GLOBAL),
 * then the module, and takes its one exported symbol, `sapid_engine`. Nothing else crosses: the
 * module links its own copies of base and channel, the program never sees php.h. Only the snapshot
 * room exists once in a process: the module finds its functions in the program.
 *
 * ENGINE_ABI changes with any change of this file or of channel.h; the build stamp refuses a module
 * of another build of sapid.
 */
#ifndef SAPID_PHP_ENGINE_H
#define SAPID_PHP_ENGINE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "base/log.h"
#include "base/str.h"
#include "channel/channel.h"
#include "php/box.h"

enum { ENGINE_ABI = 7 };
struct audit_log;

struct engine_setting {
    const char *name, *value;
};

struct engine_options {
    const char *role; /* for log lines: "www g1" */
    enum log_level log_least;
    const char *executable;           /* PHP_BINARY */
    const char *software;             /* SERVER_SOFTWARE */
    const char *ini_path;             /* php.ini or its folder; NULL: the library's own search */
    const char *ini_scan_dir;         /* NULL: the library's own */
    const struct engine_setting *ini; /* as php -d */
    size_t n_ini;
    const struct engine_setting *admin; /* as FPM's php_admin_value: ini_set cannot change them */
    size_t n_admin;
};

/* Worker mode: the script of a pool and what its workers know of each other. */
struct engine_loop {
    const char *script; /* absolute */
    const char *script_name;
    const char *document_root;
    bool show_errors; /* what a failed boot printed goes to the browser */
    bool report_leaks;
    _Atomic unsigned char *booted; /* by worker, shared memory: its script waits for requests */
    uint32_t n_workers;
};

/* One worker process, as the pool process made it. */
struct engine_worker {
    const char *role; /* for log lines: "www g1 w3" */
    enum log_level log_least;
    struct channel *channel;
    uint32_t index, incarnation;
    const int *eventfds;              /* one per gateway thread */
    int sock;                         /* to the gateway: request bodies by descriptor */
    uint64_t max_requests;            /* 0: no limit; jitter is applied already */
    const struct engine_setting *env; /* replaces or extends the environment */
    size_t n_env;
    bool clear_env;
    const struct str *sendfile_roots; /* folders whose files X-Sendfile may name */
    size_t n_sendfile_roots;
    const struct engine_setting *accel_locations; /* URL prefix = folder, of X-Accel-Redirect */
    size_t n_accel_locations;
    const char *pool, *manager; /* for fpm_get_status(): its name; "static", "dynamic" ... */
    uint32_t queue_size;
    struct str chroot; /* the root folder; paths of requests begin with it. Empty: none */
    const struct engine_loop *loop; /* NULL: classic mode */
    struct box *box;                /* NULL: none is kept */
    /* What the worker script printed when its image could not be made ("": nothing): this worker
     * only answers 500. NULL: an ordinary worker. */
    const char *boot_failure;
};

/* Files that an image was made of, in memory shared with the pool process. */
struct engine_files {
    uint32_t every_s; /* how often to look at them; 0: never */
    uint32_t bytes, dropped;
    char text[]; /* absolute paths, each ended by NUL */
};
enum { ENGINE_FILES_BYTES = 1 << 20 };

/* Isolation by rollback: the process that boots the worker script, makes the warm-up requests, is
 * frozen, and from then on forks the workers of its pool. See engine/rollback.c. */
struct engine_image {
    int pool;                   /* socket to the pool process, see control.h */
    bool entry;                 /* the script is one of classic mode, not a worker script */
    const char *at;             /* snapshot_at; NULL: where it calls snapshot_state() */
    struct engine_files *files; /* what the boot included; NULL: nobody asks */
    const char *url;            /* of the boot's own request; NULL: the script's, without a host */
    const char *server_addr;    /* the boot's SERVER_ADDR; NULL: 127.0.0.1 */
    uint16_t server_port;       /* and SERVER_PORT; 0: what the URL says */
    const char *const *warmup;  /* paths or URLs */
    size_t n_warmup;
    const char *const *rerun; /* functions that are called first in each request */
    size_t n_rerun;
    const struct engine_setting *guards; /* snapshot_guards: "_SERVER.HTTP_HOST" = "any" */
    size_t n_guards;
    enum { ENGINE_SOCKETS_REFUSE, ENGINE_SOCKETS_SEVER, ENGINE_SOCKETS_RESET } sockets;
    char *said; /* shared with the pool process: what a boot that failed had printed */
    size_t said_bytes;
    struct report *report;   /* what its workers tell of it, see channel/report.h; NULL: nothing */
    bool learn;              /* what stands there is loaded before the image */
    bool declares;           /* also files that only declare: a worker script copes with that */
    void (*on_frozen)(void); /* in the frozen process, when the image is made */
    void (*offer_memory)(int end); /* in a worker, see php/stack.h */
};

/* `sapid audit`: what to run once. */
struct engine_audit {
    const char *script, *script_name, *document_root;
    const char *url; /* "http://host/path?query" */
    const char *at;  /* "include:FILE", "function:NAME"; NULL: where the script says */
    const struct engine_setting *env;
    size_t n_env;
    uint32_t limit_ms;
};

/* A worker sends these to the pool process. RENEW: a new generation is needed. BOOTED: the worker
 * script has asked for its first request (see engine_loop.booted), or ended before. */
#define ENGINE_SIGNAL_RENEW SIGUSR2
#define ENGINE_SIGNAL_BOOTED SIGUSR1

/* The pool process to a worker: its request has reached request_timeout. Sent by sigqueue with the
 * request's ticket, slot << 32 | seq. */
#define ENGINE_SIGNAL_DEADLINE (SIGRTMIN + 2)

enum engine_exit {                     /* exit status of a worker process */
                   ENGINE_EXIT_OK = 0, /* drained, channel closed, or max_requests reached */
                   ENGINE_EXIT_UNHEALTHY = 70, /* the engine is in doubt after a failed start or
                                                  shutdown of a request */
                   ENGINE_EXIT_LOCK =
                       72, /* of the pool process: shared memory is locked by a dead worker */
                   ENGINE_EXIT_CHANNEL = 71,  /* the channel could not be used */
                   ENGINE_EXIT_RENEW = 73,    /* could not be rolled back: fork it anew */
                   ENGINE_EXIT_BOOT = 74,     /* of a process that was to be frozen */
                   ENGINE_EXIT_TIMEOUT = 124, /* hard_timeout: PHP's own value */
};

struct engine_module {
    uint32_t abi;            /* ENGINE_ABI */
    uint32_t zend_api;       /* ZEND_MODULE_API_NO it was built for */
    const char *build;       /* SAPID_VERSION */
    const char *php_version; /* of the headers */

    /* Once per process: php_module_startup (opcache's memory, preload). 0, or -errno with a
     * sentence. */
    int (*start)(const struct engine_options *o, char *message, size_t message_size);
    /* Which files php.ini settings came from: path, and a comma and newline separated list; "" if
     * none. */
    void (*ini_files)(const char **ret_path, const char **ret_scanned);
    /* In a forked worker: serves requests until the channel ends. Returns an engine_exit. */
    int (*worker_run)(const struct engine_worker *w);
    /* For reading the PHP stack of a worker from outside; valid once it has started. */
    const struct php_layout *(*layout)(void);
    /* There are locks in shared memory that a killed worker may leave locked. After the start. */
    bool (*can_probe)(void);
    /* In a fork of the process that started: takes those locks and gives them back. Returns an exit
     * status, 0 if it could; does not return while somebody holds them. */
    int (*probe)(void);
    /* Whether this return address lies in a function by which opcache is entered; since PHP 8.5 it
     * is a part of libphp, and no library's name tells. After the start. */
    bool (*is_opcache)(uintptr_t address);
    /* In a process forked to be frozen. `w` has no channel and no seat. Does not return but with an
     * engine_exit. */
    int (*image_run)(const struct engine_worker *w, const struct engine_image *image);
    /* In the process that started: runs the script in a fork, see php/audit.h. `log` is zeroed
     * shared memory. 0, or -errno with a sentence. */
    int (*audit)(const struct engine_audit *a, struct audit_log *log, char *message,
                 size_t message_size);
    /* php_module_shutdown, in the process that started. */
    void (*stop)(void);
    /* `sapid php`: starts the engine by itself. Returns the exit status. */
    int (*cli)(const struct engine_options *o, int argc, char **argv);
    /* bench/lifecycle: runs the script `n` times without any transport, output discarded. ns CPU
     * per run. */
    int (*lifecycle)(const char *script, unsigned long n, double *ret_ns);
};

#define ENGINE_SYMBOL "sapid_engine"

#endif
