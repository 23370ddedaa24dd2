/*
 * files: from a URL path to a file of the document root, and from a file to a response plan. One
 * instance per gateway thread, with a small open-file cache. The text of a path never leads out of
 * the root; symbolic links that an administrator put there may. See files.c, static.c.
 */
#ifndef SAPID_GATEWAY_FILES_H
#define SAPID_GATEWAY_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/str.h"
#include "config/config.h"
#include "http/http.h"

struct files; /* cache and root of one pool in one thread */
struct file;  /* open regular file, reference-counted */

/* `root_fd`: O_PATH or O_DIRECTORY descriptor of the document root; it and `pool` outlive the
 * result. */
MUST_USE int files_new(const struct config_pool *pool, int root_fd, struct files **ret);
void files_free(struct files *f);

enum files_kind {
    FILES_NOT_FOUND, /* 404: nothing there, hidden, or a script that must not be shown */
    FILES_STATIC,    /* file */
    FILES_SCRIPT,    /* existing .php: script_name, path_info */
    FILES_FRONT, /* nothing there: the front controller takes it (script_name), path_info empty */
    FILES_REDIRECT,    /* folder asked for without its slash: 301 to the path + "/" */
    FILES_FORBIDDEN,   /* 403: there, but not readable for the gateway */
    FILES_UNAVAILABLE, /* 503: out of descriptors or memory */
};

enum { FILES_PATH_MAX = 4096 };
struct files_match {
    enum files_kind kind;
    struct file *file;      /* FILES_STATIC: a reference the caller gives back with file_release */
    struct str script_name; /* "/blog/index.php"; points into `path` or into `buffer` */
    struct str path_info;   /* "/more" or empty */
    char buffer[FILES_PATH_MAX];
};
/* `path`: normalised (http_normalize_path). Rules: DESIGN.md "Backends and routes". */
void files_resolve(struct files *f, struct str path, struct files_match *ret);
void file_release(struct file *file);
/* A descriptor that somebody else opened, as a file of no cache; `type` outlives the plan's making.
 * Takes `fd` when it succeeds. 0, -EINVAL for what is no regular file, -ENOMEM. */
MUST_USE int file_adopt(int fd, struct str type, struct file **ret);

/* What to send for a static file. `segments` are sent in order after the head. */
enum { STATIC_SEGMENTS_MAX = 66 };
struct static_segment {
    int fd; /* -1: bytes of `text` */
    uint64_t offset, length;
    struct str text; /* multipart part heads; points into plan->texts */
};
struct static_plan {
    int status; /* 200, 206, 304, 405, 412, 416 */
    struct buf
        head; /* header lines "Name: value\r\n": type, length, ETag, Last-Modified, Vary... */
    struct buf texts;
    uint64_t content_length;
    struct static_segment segments[STATIC_SEGMENTS_MAX];
    uint32_t n_segments;
    struct file *file; /* keeps the descriptor open until static_plan_fini */
};
/* Conditional requests, ranges, precompressed neighbours, HEAD (no segments), 405 with Allow for
 * other methods than GET and HEAD. Takes over the reference of `file`. */
MUST_USE int static_plan_init(struct static_plan *plan, struct files *f, struct file *file,
                              const struct http_request *r);
void static_plan_fini(struct static_plan *plan);

#endif
