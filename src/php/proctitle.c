/*
 * Process titles ("sapid: worker www 3"), as ps shows them: the kernel reads them from where argv
 * and the environment were at exec, so the environment is moved away and the place written over.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "php/php_int.h"

static char *title;
static size_t title_max;

void proctitle_init(void)
{
    char *begin = program_invocation_name, *end = begin + strlen(begin) + 1;
    size_t n = 0;
    FILE *f = fopen("/proc/self/cmdline", "re");

    CHECK(!title);
    if (f) { /* how long all arguments are together; they stand one after another */
        size_t bytes = 0;
        while (getc(f) != EOF)
            bytes++;
        fclose(f);
        end = begin + bytes;
    }
    for (char **e = environ; e && *e; e++, n++)
        if (*e == end)
            end = *e + strlen(*e) + 1;
    char **copy = mem_alloc((n + 1) * sizeof(*copy));
    for (size_t i = 0; i < n; i++)
        copy[i] = mem_strdup(environ[i]);
    copy[n] = NULL;
    environ = copy;
    title = begin;
    title_max = (size_t)(end - begin);
    program_invocation_name = mem_strdup("sapid");
}

void proctitle_set(const char *fmt, ...)
{
    va_list ap;

    if (title_max < 2)
        return;
    memset(title, 0, title_max);
    va_start(ap, fmt);
    vsnprintf(title, title_max - 1, fmt, ap);
    va_end(ap);
}
