/*
 * Log files. The error log is the supervisor's descriptor 2, which every role inherits: so a libc's
 * or sanitizer's last words land in it too. The gateway opens the access log itself, as its own
 * user; where the server was started as root, the file is made here first and given to that user.
 *
 * After a rotation (SIGUSR1) the supervisor and the gateway switch to the new file at once. Workers
 * hold the old one, so the pools get a new generation when the error log is a file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

static int first_stderr = -1; /* where the person who starts the server looks, once 2 is a file */

void say_line(const char *line)
{
    dprintf(STDERR_FILENO, "sapid: %s\n", line);
    if (first_stderr >= 0)
        dprintf(first_stderr, "sapid: %s\n", line);
    takeover_say(line);
}

static bool is_file(struct str target)
{
    return target.n && !str_eq(target, STR("off")) && !str_eq(target, STR("stderr")) &&
           !str_eq(target, STR("stdout"));
}

static int open_error_log(const struct config_log *l)
{
    char *path = mem_strndup(l->error);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    int r = fd < 0 ? -errno : 0;

    if (r == 0 && dup2(fd, STDERR_FILENO) < 0)
        r = -errno;
    fd_close(&fd);
    mem_free(path);
    return r;
}

/* Only a file that is not there yet: what an administrator made is left as it is. */
static void make_access_log(const struct plan *p)
{
    struct str target = p->config->log.access;

    if (!is_file(target) || !p->gateway_user.change)
        return;
    char *path = mem_strndup(target);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd >= 0 && fchown(fd, p->gateway_user.uid, p->gateway_user.gid) < 0)
        log_warn("cannot give the access log %s to the gateway's user: %s", path, strerror(errno));
    fd_close(&fd);
    mem_free(path);
}

static void use_level(const struct config_log *l)
{
    enum log_level level = LOG_NOTICE;

    (void)log_level_parse(l->level, &level); /* config has checked it */
    log_init("sapid", STDERR_FILENO, level);
}

int logs_open(struct supervisor *s)
{
    const struct config_log *l = &s->plan->config->log;

    make_access_log(s->plan);
    if (is_file(l->error)) {
        first_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        int r = open_error_log(l);
        if (r < 0) {
            char *line =
                mem_printf("cannot open the error log %.*s: %s", STR_ARG(l->error), strerror(-r));
            say_line(line);
            mem_free(line);
            return r;
        }
        dprintf(first_stderr, "sapid: the log is written to %.*s\n", STR_ARG(l->error));
    }
    use_level(l);
    int r = records_open(l);
    if (r < 0) {
        char *line =
            mem_printf("cannot open the slow log %.*s: %s", STR_ARG(l->slow), strerror(-r));
        say_line(line);
        mem_free(line);
    }
    return r;
}

static bool same_file(const struct stat *before)
{
    struct stat now;

    return fstat(STDERR_FILENO, &now) == 0 && now.st_dev == before->st_dev &&
           now.st_ino == before->st_ino;
}

static void reopen_slow_log(const struct config_log *l)
{
    int r = records_open(l);

    if (r < 0)
        log_error("cannot open the slow log %.*s: %s; going on with the file of before",
                  STR_ARG(l->slow), strerror(-r));
}

int logs_switch(struct supervisor *s, const struct plan *plan, bool *ret_moved)
{
    const struct config_log *l = &plan->config->log;
    struct stat before = { 0 };
    int r = 0;

    (void)s;
    if (fstat(STDERR_FILENO, &before) < 0)
        return -errno;
    if (is_file(l->error)) {
        if (first_stderr < 0)
            first_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
        r = open_error_log(l);
    } else if (first_stderr >= 0) {
        r = dup2(first_stderr, STDERR_FILENO) < 0 ? -errno : 0;
        fd_close(&first_stderr);
    }
    if (r < 0) {
        log_error("cannot open the error log %.*s: %s", STR_ARG(l->error), strerror(-r));
        return r;
    }
    make_access_log(plan);
    reopen_slow_log(l);
    use_level(l);
    *ret_moved = !same_file(&before);
    return 0;
}

void logs_give_back_stderr(void)
{
    if (first_stderr >= 0)
        dup2(first_stderr, STDERR_FILENO);
}

void logs_close(void)
{
    fd_close(&first_stderr);
    records_close();
}

void gateways_reopen_logs(struct supervisor *s, bool error_too)
{
    struct control_message m;
    int error_log = STDERR_FILENO;

    control_message_init(&m, CONTROL_REOPEN_LOGS);
    LIST_FOR_EACH_SAFE(it, &s->gateways)
        role_send(&LIST_ENTRY(it, struct gateway_process, link)->role, &m, &error_log, error_too);
}

void logs_reopen(struct supervisor *s)
{
    const struct config_log *l = &s->plan->config->log;
    bool rotated = is_file(l->error);

    int r = rotated ? open_error_log(l) : 0;
    if (r < 0)
        log_error("cannot reopen the error log %.*s: %s; going on with the old file",
                  STR_ARG(l->error), strerror(-r));
    log_notice("reopening log files");
    reopen_slow_log(l);
    make_access_log(s->plan);
    gateways_reopen_logs(s, rotated && r == 0);
    if (rotated && r == 0 && s->phase == SUPERVISOR_SERVING)
        for (uint32_t i = 0; i < s->n_pools; i++)
            pool_renew(s->pools[i]);
}
