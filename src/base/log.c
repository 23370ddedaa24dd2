/* The error log: see log.h. No allocation, so it can speak of running out of memory. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { LINE_MAX_BYTES = 8192 };

static char log_role[64] = "sapid";
static int log_fd = STDERR_FILENO;
static enum log_level log_least = LOG_NOTICE;
static const char *const level_names[] = { "error", "warn", "notice", "info", "debug" };

void log_init(const char *role, int fd, enum log_level least)
{
    snprintf(log_role, sizeof(log_role), "%s", role);
    log_fd = fd;
    log_least = least;
}

bool log_level_parse(struct str name, enum log_level *ret)
{
    for (size_t i = 0; i < ARRAY_LENGTH(level_names); i++) {
        if (str_eq(name, str_from(level_names[i]))) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static size_t put_head(char *line, size_t size, enum log_level level)
{
    uint64_t now = clock_realtime_ns();
    time_t s = (time_t)(now / NS_PER_S);
    struct tm tm;

    gmtime_r(&s, &tm);
    int n = snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%06uZ %-6s %s[%d] ",
                     tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                     (unsigned)(now % NS_PER_S / 1000), level_names[level], log_role,
                     (int)getpid());
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

/* Appends text with control bytes made visible; returns the new length. */
static size_t put_escaped(char *line, size_t at, size_t size, struct str text)
{
    static const char hex[] = "0123456789abcdef";
    static const char cut[] = "... (cut)";

    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (at + 4 + sizeof(cut) >= size) {
            if (at + sizeof(cut) > size) /* a prefix took all the room, and has said so */
                return at;
            memcpy(line + at, cut, sizeof(cut) - 1);
            return at + sizeof(cut) - 1;
        }
        if (c == '\n') {
            line[at++] = '\\';
            line[at++] = 'n';
        } else if (c < 0x20 && c != '\t') {
            line[at++] = '\\';
            line[at++] = 'x';
            line[at++] = hex[c >> 4];
            line[at++] = hex[c & 15];
        } else {
            line[at++] = (char)c;
        }
    }
    return at;
}

static void put_line(enum log_level level, struct str prefix, struct str text)
{
    char line[LINE_MAX_BYTES];
    int saved = errno;
    size_t at = put_head(line, sizeof(line), level);

    at = put_escaped(line, at, sizeof(line) - 1, prefix);
    at = put_escaped(line, at, sizeof(line) - 1, text);
    line[at++] = '\n';
    ssize_t unused = write(log_fd, line, at);
    (void)unused;
    errno = saved;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    char text[LINE_MAX_BYTES];
    va_list ap;

    if (level > log_least)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    put_line(level, STR_NONE,
             (struct str){ text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1 });
}

void log_text(enum log_level level, struct str prefix, struct str text)
{
    if (level > log_least)
        return;
    while (text.n) {
        struct str line = str_cut(&text, '\n');
        if (line.n && line.p[line.n - 1] == '\r')
            line.n--;
        if (line.n)
            put_line(level, prefix, line);
    }
}
