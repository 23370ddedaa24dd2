/*
 * The error log: one line, one write(2), so that lines of several processes never mix. A line is
 *   2026-11-21T23:57:01.123456Z warn  gateway[4711] text
 * Line breaks and control bytes inside the text are written as \n, \xNN. Lines above 8 KiB are cut
 * and say so. Libraries (base, loop, http, tls, config, channel, snapshot) do not log: they return
 * errors.
 */
#ifndef SAPID_BASE_LOG_H
#define SAPID_BASE_LOG_H

#include "base/check.h"
#include "base/str.h"

enum log_level { LOG_ERR, LOG_WARN, LOG_NOTICE, LOG_INFO, LOG_DBG };

/* `role` stands in every line ("supervisor", "gateway", "www g1", "www g1 w3"); copied. Default
 * fd 2. */
void log_init(const char *role, int fd, enum log_level least);
/* Parses "error", "warn", "notice", "info", "debug". */
bool log_level_parse(struct str name, enum log_level *ret);
void log_write(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The text as it is, several lines possible: each becomes a line of its own with the prefix. */
void log_text(enum log_level level, struct str prefix, struct str text);

#define log_error(...) log_write(LOG_ERR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_notice(...) log_write(LOG_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DBG, __VA_ARGS__)

#endif
