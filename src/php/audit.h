/*
 * What an audit of a boot writes down, in memory that the audited process shares with the one that
 * forked it: engine/audit*.c write it, audit_print.c and engine/guards.c read it. No php.h here.
 *
 * Texts are offsets into `texts` (0: none), each NUL-terminated. Only the audited process writes
 * while it runs; it may die at any instruction, so readers look at `n_events` events and no more,
 * and `audit_text` checks every offset.
 */
#ifndef SAPID_PHP_AUDIT_H
#define SAPID_PHP_AUDIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"

enum { AUDIT_EVENTS_MAX = 16384, AUDIT_TEXTS_MAX = 4 << 20, AUDIT_VALUE_MAX = 4096 };

enum audit_kind {
    AUDIT_READ, /* of a request: `global`, name (0: all of it), value (0: absent) */
    AUDIT_FILE, /* `name` was included; `value` 0 */
    AUDIT_FILE_END,
    AUDIT_OPENED,  /* a file, for reading */
    AUDIT_WRITTEN, /* a file or folder was opened for writing, made, changed or deleted */
    AUDIT_CONNECTED,
    AUDIT_PROCESS,  /* a child process */
    AUDIT_CONSTANT, /* with a value that is computed */
    AUDIT_SETTING,  /* php.ini, locale, time zone */
    AUDIT_ENVIRONMENT,
    AUDIT_HANDLER,
    AUDIT_OUTPUT, /* something was printed */
    AUDIT_BUFFER, /* output buffering began */
    AUDIT_HEADER,
    AUDIT_SESSION,
    AUDIT_TIME,
    AUDIT_RANDOM,
    AUDIT_HOST, /* host name, process id */
    AUDIT_KEPT, /* at the freeze: a copy of `global`, or an open descriptor */
    AUDIT_KINDS
};

/* What a request brings, as PHP shows it. */
enum audit_global {
    AUDIT_SERVER,
    AUDIT_GET,
    AUDIT_POST,
    AUDIT_COOKIE,
    AUDIT_FILES,
    AUDIT_REQUEST,
    AUDIT_ENV,
    AUDIT_GLOBALS,               /* that are arrays of PHP; the others have one each: */
    AUDIT_INPUT = AUDIT_GLOBALS, /* php://input: the body as it came */
    AUDIT_HEADERS,               /* getallheaders() */
    AUDIT_GLOBALS_ALL
};

enum {
    AUDIT_NOT_GUARDED = 1, /* of a read: the same in all requests of the image, or time */
    AUDIT_IS_ARRAY = 2,    /* the value read is an array; `value` shows it */
    AUDIT_CUT = 4,         /* `value` is longer than is shown */
    AUDIT_HOPELESS = 8,    /* no two requests agree on it */
    AUDIT_HIDDEN = 16,     /* it has a value, which is not for a report */
    AUDIT_COPY = 32,       /* of a read of all: by a copy that is alive at the freeze */
};

struct audit_event {
    uint8_t kind, global, flags;
    uint32_t line;
    uint32_t name, value, file; /* texts; file and line: where the PHP code stands */
    uint32_t value_n;           /* bytes, of a value that has NULs */
    uint32_t times;
    uint64_t at_ns; /* since the script began */
};

enum audit_state {
    AUDIT_RUNNING,
    AUDIT_FROZEN, /* the freeze point was reached */
    AUDIT_ENDED,  /* the script ended before it */
};

struct audit_log {
    _Atomic uint32_t state;
    uint32_t n_events, n_dropped;
    uint32_t texts_used;
    uint32_t end_file, end_line; /* where the freeze point is */
    uint64_t end_ns;
    int exit_status;       /* of a script that ended */
    uint32_t output_bytes; /* printed and buffered */
    uint32_t output_levels;
    bool headers_sent, session_active, script_missing;
    uint32_t session_left; /* text: the cookie of a session that would be every visitor's */
    uint32_t said;         /* text: what was printed first, or the last error */
    uint32_t preloaded;    /* functions whose code is not seen */
    struct audit_event events[AUDIT_EVENTS_MAX];
    char texts[AUDIT_TEXTS_MAX];
};

/* "" for 0 and for what is no text. */
static inline const char *audit_text(const struct audit_log *log, uint32_t at)
{
    return at && at < AUDIT_TEXTS_MAX ? log->texts + at : "";
}

/* "$_SERVER", "php://input" ... */
static inline const char *audit_global_name(unsigned global)
{
    static const char *const names[] = { "_SERVER",  "_GET", "_POST",       "_COOKIE", "_FILES",
                                         "_REQUEST", "_ENV", "php://input", "headers" };

    CHECK(global < AUDIT_GLOBALS_ALL);
    return names[global];
}

#endif
