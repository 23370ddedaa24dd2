/*
 * Configuration: sapid.toml (TOML 1.0) and the command line become one typed struct, through one
 * table (config_keys in keys.c), from which the reference page docs/configuration.md is printed
 * too.
 *
 * Errors name file, line, column, key and what was expected; an unknown key names the nearest known
 * one. All errors of a file are collected, not only the first. Nothing here logs or exits.
 *
 * Every role parses the same text again (it arrives in the boot memfd), so a struct config never
 * crosses a process boundary. It is immutable after config_load and owns an arena.
 */
#ifndef SAPID_CONFIG_CONFIG_H
#define SAPID_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/check.h"
#include "base/str.h"

struct config_strings {
    struct str *v;
    uint32_t n;
};
struct config_pair {
    struct str key, value;
};
struct config_pairs {
    struct config_pair *v;
    uint32_t n;
};

enum { CONFIG_AUTO = -1 };

struct config_listen {
    struct str text; /* as written */
    enum { CONFIG_LISTEN_TCP, CONFIG_LISTEN_UNIX } kind;
    struct str host; /* "127.0.0.1", "::", "*" ; without brackets */
    uint16_t port;   /* 0: the kernel chooses; the start message says which */
    struct str path; /* unix */
};

struct config_server {
    struct config_listen *listen; /* listen = ["127.0.0.1:8080"] */
    uint32_t n_listen;
    int32_t gateway_threads;       /* "auto" (CONFIG_AUTO): 1 up to 4 cores, then cores / 4 */
    uint32_t max_connections;      /* 65536, lowered to what RLIMIT_NOFILE allows */
    uint64_t header_timeout_ms;    /* 30 s: whole request head */
    uint64_t body_timeout_ms;      /* 60 s: between two reads of a body */
    uint64_t send_timeout_ms;      /* 60 s: between two successful writes to a client */
    uint64_t keepalive_timeout_ms; /* 75 s idle between requests */
    uint64_t keepalive_requests;   /* 0 = no limit */
    uint64_t max_body_size;        /* 64M */
    uint64_t max_header_size;      /* 32K whole header section */
    uint32_t max_header_count;     /* 100 */
    uint64_t max_request_line;     /* 8K */
    struct str spool_dir;          /* /var/tmp */
    struct str state_dir;          /* "": what the service manager gives, or none */
    uint64_t max_spool_size;       /* 4G: all spooled request and response bytes together */
    struct config_strings trusted_proxies; /* addresses, CIDR, "unix" */
    bool proxy_protocol;       /* every connection of a trusted proxy starts with PROXY */
    uint64_t drain_timeout_ms; /* 5 s */
    struct str user, group;    /* of the gateway when started as root; "" = chosen */
    bool server_tokens;        /* Server: sapid; default true, without version */
};

/* [[route]]: what becomes of the requests whose path matches. See docs/routes.md. */
enum config_match {
    CONFIG_MATCH_EXACT,
    CONFIG_MATCH_PREFIX,
    CONFIG_MATCH_SUFFIX,
    CONFIG_MATCH_REGEX
};
enum config_backend {
    CONFIG_BACKEND_PHP,     /* files, scripts and front controller of the pool: the default rules */
    CONFIG_BACKEND_STATIC,  /* files only */
    CONFIG_BACKEND_FASTCGI, /* as PHP, but scripts run in [fastcgi] */
    CONFIG_BACKEND_DENY,
    CONFIG_BACKEND_REDIRECT,
};
struct config_route {
    enum config_match match;
    struct str pattern;
    struct str name;   /* for logs: "prefix /admin/" */
    uint32_t priority; /* higher first; 0 */
    enum config_backend backend;
    struct str pool;             /* name; "" is the first pool */
    struct config_strings try;   /* "$uri", "$uri/", "/index.php", "=404"; empty: no rewriting */
    struct str redirect;         /* target with variables */
    uint32_t status;             /* of deny (403) or redirect (302) */
    uint64_t max_body_size;      /* 0: the server's */
    uint64_t request_timeout_ms; /* 0: the pool's */
    bool request_buffering, request_buffering_given; /* not given: the pool's */
    bool fallback;               /* after crashes of its requests, as the pool's */
    uint32_t fallback_crashes;   /* 0: the pool's */
    uint64_t fallback_window_ms; /* 0: the pool's */
    uint32_t max_concurrency;    /* 0: no limit of its own */
    int32_t max_waiting;         /* CONFIG_AUTO: queue_size */
    uint32_t line;               /* in the file, for check --explain */
};

/* [fastcgi]: php-fpm or any FastCGI responder, one group of servers. */
struct config_fastcgi_server {
    struct config_listen address; /* never "*" or port 0 */
    uint32_t weight;              /* 1 */
    uint32_t connections; /* how many requests it serves at once (pm.max_children); 0: unknown, then
                             there is no limit and no connection is kept open */
};
struct config_fastcgi {
    struct config_fastcgi_server *servers;
    uint32_t n_servers;   /* 0: there is none */
    uint32_t connections; /* of servers that do not say it themselves */
    enum { CONFIG_BALANCE_TURN, CONFIG_BALANCE_LEAST } balance;
    bool keep_alive;
    uint32_t max_fails, queue_size;
    uint64_t connect_timeout_ms, response_timeout_ms, idle_timeout_ms, backoff_ms, max_backoff_ms;
};

struct config_origin;

/* One pool: [php] is the pool "www" (index 0), [pool.NAME] follow in the order of the file. Each
 * has the defaults of the keys, not the values of [php]. */
enum {
    CONFIG_POOLS_MAX = 32,
    CONFIG_ALL_POOLS_MAX = 2 * CONFIG_POOLS_MAX, /* with those of worker scripts */
    CONFIG_IMAGES_MAX = 32,                      /* of one pool */
    CONFIG_ALL_IMAGES_MAX = 256,                 /* of all pools */
    CONFIG_SEATS_MAX = CONFIG_ALL_POOLS_MAX + CONFIG_ALL_IMAGES_MAX,
};
struct config_pool {
    struct str name;
    struct str table;              /* for messages: "php", "pool.admin" */
    struct config_origin *origins; /* by index in the key table */
    struct str libphp_path;        /* "" = found: libphp.so of the newest installed version */
    struct str document_root;      /* absolute after config_load (relative to the file or cwd) */
    bool document_root_given;      /* no detection then */
    int32_t worker_pool_size;      /* CONFIG_AUTO; of a changing number the most */
    int32_t worker_min;            /* CONFIG_AUTO: the number does not change */
    int32_t worker_spare;          /* idle ones, beyond worker_min */
    uint64_t worker_idle_timeout_ms;
    uint64_t worker_max_age_ms, worker_max_memory; /* 0 = never */
    uint64_t worker_max_requests;                  /* 0 = never */
    struct config_pairs ini, admin_ini;
    struct str ini_path, ini_scan_dir; /* "" = PHP-FPM's of that version, else embed's */
    bool ini_path_given, ini_scan_dir_given;
    uint64_t request_timeout_ms;       /* 0 = none */
    uint64_t request_timeout_grace_ms; /* 500 ms, between the interrupt and SIGKILL */
    uint64_t slow_log_after_ms;        /* 0 = off */
    bool slow_log_repeat;
    uint32_t slow_log_depth;   /* 20 */
    bool request_buffering;    /* PHP starts when the body is complete; default true */
    uint64_t queue_timeout_ms; /* 30 s */
    uint32_t queue_size;       /* 1024 */
    struct str user, group;
    struct config_pairs env;
    bool clear_env;                         /* default true, as FPM */
    struct str umask;                       /* octal; "" = as the server was started with */
    struct str chdir, chroot;               /* absolute; "" = none. chdir counts inside chroot */
    struct config_strings sendfile_roots;   /* absolute folders */
    struct config_pairs accel_locations;    /* "/protected/" = "/srv/files" */
    struct config_strings limit_extensions; /* of scripts: [".php"] */
    struct str front_controller;            /* "index.php"; "" = none (front_controller = false) */
    bool front_controller_given;
    struct config_strings index; /* ["index.php", "index.html"] */
    /* Paths a new generation is asked for before it serves; of `probe` the answers count. */
    struct config_strings warmup, probe;
    /* PHP by FastCGI: no engine and no process of our own. */
    bool use_fpm;
    struct config_listen fpm_socket; /* text "" = the servers of [fastcgi] */
    bool fallback;                   /* after crashes, until the next generation */
    uint32_t fallback_crashes;
    uint64_t fallback_window_ms;
    /* Servers that can take the pool's PHP requests: fpm_socket with the limits of [fastcgi], else
     * [fastcgi]; NULL: there are none. After config_load. */
    const struct config_fastcgi *upstream;
    /* A loop runs `worker_script`, which boots once and then takes one request after another. It is
     * a pool of its own, appended by config_load for each pool with a worker script; what it shares
     * with that one is copied. */
    enum { CONFIG_POOL_CLASSIC, CONFIG_POOL_LOOP, CONFIG_POOL_IMAGE } kind;
    uint32_t loop;    /* classic: index of the pool that runs its worker script, 0: it has none */
    uint32_t loop_of; /* loop: index of the classic one */
    /* Seats for images of entry scripts (docs/snapshot-images.md): pools that have no process until
     * the supervisor gives them a script. They stand behind the others, see config.n_seats. */
    uint32_t max_images;
    uint32_t first_image; /* classic: index of the first one, if max_images */
    uint32_t image_of;    /* image: index of the classic one */
    /* "include:FILE", "function:NAME"; "" = where the script calls snapshot_state() */
    struct str snapshot_at;
    struct config_strings snapshot_scripts; /* SCRIPT_NAMEs without the first '/' */
    struct str snapshot_url; /* path and query, or a whole URL; "" = that of the script */
    struct config_pairs snapshot_guards;
    struct config_strings snapshot_rerun;  /* functions */
    uint64_t snapshot_max_age_ms;          /* 0 = never */
    uint64_t snapshot_wait_ms;             /* of a reload, for images */
    struct config_strings snapshot_warmup; /* paths or URLs; an image's worker_warmup */
    enum config_sockets {
        CONFIG_SOCKETS_REFUSE,
        CONFIG_SOCKETS_SEVER,
        CONFIG_SOCKETS_RESET
    } snapshot_sockets; /* an image's worker_sockets */
    /* [worker], [pool.NAME.worker] */
    struct str worker_script;          /* absolute; "" = none */
    int32_t worker_num;                /* CONFIG_AUTO */
    uint64_t worker_loop_max_requests; /* 0 = never */
    bool worker_watch;
    bool worker_watch_given;
    bool worker_report_leaks;
    bool slow_lane;
    uint32_t slow_lane_share;          /* percent of the workers */
    struct str status_path, ping_path; /* "" = none */
    struct config_strings status_allow;
    enum { CONFIG_ISOLATION_NONE, CONFIG_ISOLATION_ROLLBACK } worker_isolation;
    struct config_strings worker_warmup; /* paths; ["/"] */
    bool worker_snapshot_verify, worker_snapshot_pagemap;
    enum { CONFIG_LEARN_OFF, CONFIG_LEARN_RELOAD, CONFIG_LEARN_AUTO } worker_learn;
    enum config_sockets worker_sockets;
};

struct config_log {
    /* Path, "stdout", "stderr", "off"; default: "stdout" on a terminal, else off. */
    struct str access;
    bool access_given;
    enum { CONFIG_LOG_COMBINED, CONFIG_LOG_JSON } format;
    struct str error; /* path or "stderr" */
    struct str slow;  /* path or "stderr" */
    enum { CONFIG_SLOW_FPM, CONFIG_SLOW_JSON } slow_format;
    struct str crash_dir; /* "" = none */
    uint32_t crash_files;
    struct str level; /* "notice" */
};

/* Workers of the pool are replaced while they still serve: there is a seat for the successor. */
bool config_pool_recycles(const struct config_pool *p);

/* Its workers are forked from a frozen process and rolled back. */
bool config_pool_has_image(const struct config_pool *p);

/* [admin]: see docs/status.md. */
struct config_admin {
    struct str socket; /* absolute path, "auto" or "off" */
    uint64_t health_window_ms;
};

/* Folders for admin sockets named "auto", for this user, in order of preference; NULL-terminated,
 * config_admin_folders_free. The first two are for root and services, so that `sapid status` finds
 * those too. */
char **config_admin_folders(void);
void config_admin_folders_free(char **folders);

/* SCRIPT_NAME of a worker script, a part of `script`: its path below the document root, or its bare
 * name when it lies elsewhere. Both absolute. */
struct str config_script_name(struct str script, struct str document_root);

/* Where a key's value came from. */
enum config_origin_kind { CONFIG_FROM_DEFAULT, CONFIG_FROM_FILE, CONFIG_FROM_COMMAND_LINE };
struct config_origin {
    enum config_origin_kind kind;
    uint32_t line, column;
};

struct config {
    struct str file; /* name for messages */
    struct config_server server;
    struct config_pool *pools;
    uint32_t n_pools; /* at least 1: those that people know of */
    uint32_t n_seats; /* n_pools, and the images' seats behind them, to which only those look who
                         deal with images */
    struct config_fastcgi fastcgi;
    struct config_log log;
    struct config_admin admin;
    struct config_route *routes; /* in the order of the file */
    uint32_t n_routes;
    bool dev;                      /* --dev: the override "dev=true" */
    struct config_origin *origins; /* by index in the key table */
    struct arena arena;
};

struct config_error {
    uint32_t line, column; /* 1-based; 0: from the command line */
    struct str message;    /* what was expected and found, key included */
};
struct config_errors {
    struct config_error *v;
    uint32_t n;
};

/* `text` may be empty (no file). `overrides`: "server.listen=127.0.0.1:0", NULL-terminated, parsed
 * by the key's type; a list key given several times collects. `base_dir` makes relative paths
 * absolute. 0, or -EINVAL with `*ret_errors` (in the config's arena: call config_free either way),
 * -ENOMEM. */
MUST_USE int config_load(struct str file, struct str text, const char *const *overrides,
                         struct str base_dir, struct config **ret,
                         struct config_errors *ret_errors);
void config_free(struct config *c);
/* "sapid.toml:3:9: server.listen: expected ..., found ..." into a fresh string (mem_free). */
char *config_error_line(const struct config *c, const struct config_error *e);
typedef void config_put(void *ctx, const char *text);
/* The reference page, Markdown, to stdout-like sink. */
void config_print_reference(config_put *put, void *ctx);
/* Every key with its value and where it came from, as TOML that could be loaded again. */
void config_print_effective(const struct config *c, config_put *put, void *ctx);

/* Keys by what must start afresh when they change. */
enum config_scope {
    CONFIG_SCOPE_GATEWAY, /* [server], [log] */
    CONFIG_SCOPE_ROUTING, /* [fastcgi]; beside it the routes */
    CONFIG_SCOPE_POOL,    /* [php], [worker], [pool.NAME]: of the two pools */
};
/* First key of the scope with another value, "server.listen", valid until the next call; NULL: all
 * are the same. */
const char *config_difference(const struct config *a, uint32_t pool_a, const struct config *b,
                              uint32_t pool_b, enum config_scope scope);
/* Nobody set server.listen. */
bool config_listen_is_default(const struct config *c);
bool config_routes_differ(const struct config *a, const struct config *b);

/* --- the command line that `serve` and `check` share
 * ---------------------------------------------- */
struct config_cli {
    bool help;         /* --help: print config_cli_help and do nothing */
    bool reference;    /* check --reference */
    bool dev;          /* --dev; stands in `overrides` too, for the roles */
    char *config_path; /* absolute, NULL: no file */
    char *base_dir; /* of relative paths in the file: its folder; without a file the current one */
    char **overrides; /* for config_load, NULL-terminated; relative paths are made absolute */
    char *explain;    /* check --explain URL; NULL without */
};
/* argv[0] is the command's name, "serve" or "check". 0, or -EINVAL with one sentence of what is
 * wrong in `*ret_message` (mem_free). config_cli_fini in either case. */
MUST_USE int config_cli_parse(int argc, char **argv, struct config_cli *ret, char **ret_message);
void config_cli_fini(struct config_cli *cli);
const char *config_cli_help(const char *command);

/* A file as it was read, for those who load it again. */
struct config_source {
    char *name; /* the file, or "(command line)" */
    char *text;
    size_t text_bytes;
};
/* Reads the file and loads it. 0, or -errno after `say` was called with each line of what is wrong.
 * `ret_source` is filled as far as it went (config_source_fini); `*ret` NULL on failure. */
MUST_USE int config_cli_load(const struct config_cli *cli, void (*say)(const char *line),
                             struct config_source *ret_source, struct config **ret);
void config_source_fini(struct config_source *s);

/* --- the document root when nobody named one
 * ------------------------------------------------------ */
struct config_detected {
    char *root;     /* absolute; NULL when nothing was found */
    char *sentence; /* what was chosen and why, or what was looked for in vain */
};
/* Looks at `dir` and the usual folders below it. 0, or -ENOENT: nothing there looks like something
 * to serve, and guessing on would expose files nobody meant to. */
MUST_USE int config_detect_root(const char *dir, struct config_detected *ret);
void config_detected_fini(struct config_detected *d);
/* Folders, up to two levels below the root, that a .htaccess file forbids to everybody: "conf/,
 * data/". Nothing here reads .htaccess, so people must be told. NULL when there are none; mem_free.
 */
char *config_denied_folders(const char *root);

/* --- TOML by itself (used by config_load, the tests and toml-test)
 * --------------------------------- */
enum toml_type {
    TOML_STRING,
    TOML_INTEGER,
    TOML_FLOAT,
    TOML_BOOLEAN,
    TOML_DATETIME,
    TOML_DATETIME_LOCAL,
    TOML_DATE_LOCAL,
    TOML_TIME_LOCAL,
    TOML_ARRAY,
    TOML_TABLE
};
struct toml_value {
    enum toml_type type;
    uint32_t line, column; /* of the value */
    struct str key;        /* in a table */
    uint32_t key_line, key_column;
    struct str string; /* STRING; date-times as written, normalised */
    int64_t integer;
    double number;
    bool boolean;
    struct toml_value *first, *last; /* ARRAY, TABLE: children in order */
    struct toml_value *next;
    /* How a table or array came to be: the parser's own, decides what may add to it. */
    enum { TOML_IMPLICIT, TOML_BY_HEADER, TOML_BY_DOTTED_KEY, TOML_INLINE } origin;
};
/* Root table in `arena`, strings and keys NUL-terminated; or -EINVAL with the place and message of
 * the first syntax error. */
MUST_USE int toml_parse(struct arena *arena, struct str text, struct toml_value **ret,
                        struct config_error *ret_error);
const struct toml_value *toml_get(const struct toml_value *table, struct str key);
/* "a string", "an array" ... for messages. */
const char *toml_type_name(enum toml_type type);

#endif
