/*
 * Slow log and crash records. A pool process, which runs as the application's user, sends them as
 * text in parts (CONTROL_RECORD); this side owns the files, so that the application can neither
 * read nor change them. What comes is bytes to be written and nothing else; its length is limited.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { RECORD_BYTES_MAX = 16 << 20 }; /* a look at a thousand workers with their stacks */

static struct {
    int slow_fd;     /* -1: not opened */
    unsigned serial; /* of crash files within a microsecond */
} files = { .slow_fd = -1 };

/* --- slow log --------------------------------------------------------------------------------- */

int records_open(const struct config_log *l)
{
    if (str_eq(l->slow, STR("stderr"))) {
        fd_close(&files.slow_fd);
        return 0;
    }
    char *path = mem_strndup(l->slow);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    int r = fd < 0 ? -errno : 0;
    mem_free(path);
    if (r < 0)
        return r;
    fd_close(&files.slow_fd);
    files.slow_fd = fd;
    return 0;
}

void records_close(void)
{
    fd_close(&files.slow_fd);
}

/* A full disk must not stop the server: -errno, and what could be written stays. */
static int write_all(int fd, struct str text)
{
    while (text.n) {
        ssize_t n = write(fd, text.p, text.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        text = str_skip(text, (size_t)n);
    }
    return 0;
}

/* --- crash files ------------------------------------------------------------------------------ */

static bool is_record(const char *name)
{
    return str_has_prefix(str_from(name), STR("crash-")) &&
           str_has_suffix(str_from(name), STR(".txt"));
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Their names begin with the time: the first ones are the oldest. */
static void remove_oldest(int dir, uint32_t keep)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    char **names = NULL;
    size_t n = 0;

    for (struct dirent *e; d && (e = readdir(d));) {
        if (!is_record(e->d_name))
            continue;
        names = mem_realloc(names, (n + 1) * sizeof(*names));
        names[n++] = mem_strdup(e->d_name);
    }
    if (d)
        closedir(d);
    else
        fd_close(&copy);
    if (n)
        qsort(names, n, sizeof(*names), by_name);
    for (size_t i = 0; i < n; i++) {
        if (n - i > keep)
            unlinkat(dir, names[i], 0);
        mem_free(names[i]);
    }
    mem_free(names);
}

static int open_folder(struct str target)
{
    char *path = mem_strndup(target);

    if (mkdir(path, 0750) < 0 && errno != EEXIST) {
        int r = -errno;
        mem_free(path);
        return r;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -errno : fd;
    mem_free(path);
    return r;
}

/* Whoever watches the folder finds whole records only: a file gets its name when it is written. */
static int write_file(int dir, const char *name, struct str text)
{
    char beside[140];

    snprintf(beside, sizeof(beside), ".%s", name);
    int fd = openat(dir, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0)
        return -errno;
    int r = write_all(fd, text);
    fd_close(&fd);
    if (r == 0 && renameat(dir, beside, dir, name) < 0)
        r = -errno;
    if (r < 0)
        unlinkat(dir, beside, 0);
    return r;
}

static void write_crash(const struct config_log *l, const char *pool, struct str text)
{
    uint64_t now = clock_realtime_ns();
    time_t s = (time_t)(now / NS_PER_S);
    char when[32], name[128];
    struct tm tm;

    if (l->crash_dir.n == 0) {
        log_text(LOG_WARN, STR("crash: "), text);
        return;
    }
    gmtime_r(&s, &tm);
    strftime(when, sizeof(when), "%Y%m%dT%H%M%S", &tm);
    snprintf(name, sizeof(name), "crash-%s.%06u-%u-%s.txt", when, (unsigned)(now % NS_PER_S / 1000),
             files.serial++ % 1000, pool);
    int dir = open_folder(l->crash_dir);
    int r = dir < 0 ? dir : write_file(dir, name, text);
    if (r < 0) {
        log_error("cannot write a crash record into %.*s: %s; here it is", STR_ARG(l->crash_dir),
                  strerror(-r));
        log_text(LOG_WARN, STR("crash: "), text);
    } else {
        log_notice("crash record: %.*s/%s", STR_ARG(l->crash_dir), name);
        remove_oldest(dir, l->crash_files);
    }
    fd_close(&dir);
}

/* --- messages --------------------------------------------------------------------------------- */

void record_parts_fini(struct record_parts *parts)
{
    for (size_t i = 0; i < ARRAY_LENGTH(parts->text); i++)
        buf_fini(&parts->text[i]);
}

void record_receive(struct generation *g, struct record_parts *parts,
                    const struct control_message *m)
{
    const struct config_log *l = &g->pool->sup->plan->config->log;
    uint32_t kind = (uint32_t)m->status;

    if (kind >= ARRAY_LENGTH(parts->text)) {
        log_warn("%s sent a record of kind %" PRIu32 ", which is none", g->role.name, kind);
        return;
    }
    struct buf *b = &parts->text[kind];
    struct str part = control_message_text(m);
    if (buf_length(b) + part.n <= RECORD_BYTES_MAX)
        (void)!buf_append(b, part.p, part.n);
    if (m->requests)
        return; /* more follows */
    if (kind == CONTROL_RECORD_SLOW)
        write_all(files.slow_fd >= 0 ? files.slow_fd : STDERR_FILENO, buf_view(b));
    else if (kind == CONTROL_RECORD_CRASH)
        write_crash(l, g->pool->name, buf_view(b));
    else if (kind == CONTROL_RECORD_PROFILE)
        profile_done(g, buf_view(b));
    else if (g->on_look)
        g->on_look(g, buf_view(b));
    buf_consume(b, buf_length(b));
    buf_release(b);
}
