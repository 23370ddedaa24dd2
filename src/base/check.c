/* A failed CHECK: one whole line on stderr with a single write(2), then abort(3). */
#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void say(const char *line, int n, size_t size)
{
    size_t len = n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
    ssize_t unused = write(STDERR_FILENO, line, len);
    (void)unused;
}

void check_failed(const char *file, int line, const char *what)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "sapid[%d]: CHECK failed at %s:%d: %s\n", (int)getpid(),
                     file, line, what);
    say(text, n, sizeof(text));
    abort();
}

void check_failedf(const char *file, int line, const char *what, const char *fmt, ...)
{
    char detail[512], text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    int n = snprintf(text, sizeof(text), "sapid[%d]: CHECK failed at %s:%d: %s: %s\n",
                     (int)getpid(), file, line, what, detail);
    say(text, n, sizeof(text));
    abort();
}
