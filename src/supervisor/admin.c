/*
 * The admin socket's listener, and the commands that come by it.
 *
 * The socket is bound here, once, for the user of this process alone, and given to every gateway,
 * which speaks HTTP on it (src/gateway/admin.c) and answers whatever it knows by itself; commands
 * it sends on as CONTROL_COMMAND. A server without an admin socket works as well: what goes wrong
 * here is a warning.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { BACKLOG = 64 };

/* --- the socket ------------------------------------------------------------------------------ */

/* Ours or root's, and nobody else may put things there. */
static bool is_safe_folder(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
           (st.st_uid == geteuid() || st.st_uid == 0) && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0 &&
           access(path, W_OK) == 0;
}

/* The first folder for "auto" that is there or can be made; NULL. */
static char *choose_folder(void)
{
    char **folders = config_admin_folders(), *found = NULL;

    for (char **it = folders; *it && !found; it++) {
        if (mkdir(*it, geteuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST)
            continue;
        if (is_safe_folder(*it))
            found = mem_strdup(*it);
    }
    config_admin_folders_free(folders);
    return found;
}

/* A socket file that nobody listens on is what a killed server left behind. */
static bool remove_stale(const struct sockaddr_un *a)
{
    struct stat st;

    if (lstat(a->sun_path, &st) < 0)
        return errno == ENOENT;
    int fd = S_ISSOCK(st.st_mode) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 &&
                 errno == ECONNREFUSED && unlink(a->sun_path) == 0;
    fd_close(&fd);
    return stale;
}

/* Sockets of servers that were killed. */
static void sweep(const char *folder)
{
    DIR *d = opendir(folder);

    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        size_t n = strlen(e->d_name);
        if (n > 5 && strcmp(e->d_name + n - 5, ".sock") == 0 &&
            snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", folder, e->d_name) <
                (int)sizeof(a.sun_path))
            (void)remove_stale(&a);
    }
    if (d)
        closedir(d);
}

static int bind_private(const struct sockaddr_un *a)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    mode_t before = umask(S_IRWXG | S_IRWXO | S_IXUSR);
    int r = bind(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? -errno : 0;
    umask(before);
    if (r == 0 && listen(fd, BACKLOG) < 0) {
        r = -errno;
        unlink(a->sun_path);
    }
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

static void warn_without(const char *path, const char *why)
{
    log_warn(
        "no admin socket: cannot listen on %s: %s; `sapid status`, `sapid reload` and `sapid "
        "stop` will not find this server; name another path with socket in [admin], or \"off\"",
        path, why);
}

/* In the place of a socket that somebody listens on, in one step: who connects meets one or the
 * other. */
static int bind_over(const struct sockaddr_un *a)
{
    struct sockaddr_un beside = { .sun_family = AF_UNIX };

    if (snprintf(beside.sun_path, sizeof(beside.sun_path), "%s~", a->sun_path) >=
        (int)sizeof(beside.sun_path))
        return -ENAMETOOLONG;
    int fd = remove_stale(&beside) ? bind_private(&beside) : -EADDRINUSE;
    if (fd < 0 || rename(beside.sun_path, a->sun_path) == 0)
        return fd;
    int r = -errno;
    unlink(beside.sun_path);
    close(fd);
    return r;
}

void admin_open(struct admin *a, const struct config_admin *c, bool over)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct stat st;

    *a = (struct admin){ .fd = -1 };
    if (str_eq(c->socket, STR("off")))
        return;
    char *folder = str_eq(c->socket, STR("auto")) ? choose_folder() : NULL;
    char *path = folder ? mem_printf("%s/%d.sock", folder, (int)getpid()) : mem_strndup(c->socket);
    if (folder)
        sweep(folder);
    mem_free(folder);
    if (strcmp(path, "auto") == 0) {
        warn_without("a socket in /run/sapid, $XDG_RUNTIME_DIR/sapid or /tmp",
                     "none of the folders is there and writable for this user only");
    } else if (strlen(path) >= sizeof(address.sun_path)) {
        warn_without(path, "the path of a socket has at most 107 bytes");
    } else {
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
        a->fd = remove_stale(&address) ? bind_private(&address)
                : over                 ? bind_over(&address)
                                       : -EADDRINUSE;
        if (a->fd < 0)
            warn_without(path, strerror(-a->fd));
        else if (lstat(path, &st) == 0)
            *a = (struct admin){ a->fd, mem_strdup(path), st.st_dev, st.st_ino };
    }
    mem_free(path);
}

void admin_close(struct admin *a)
{
    struct stat st;

    /* only if it is still ours */
    if (a->path && lstat(a->path, &st) == 0 && st.st_dev == a->dev && st.st_ino == a->ino)
        unlink(a->path);
    mem_free(a->path);
    if (a->fd > 0)
        close(a->fd);
    *a = (struct admin){ .fd = -1 };
}

void admin_renew(struct admin *a, const struct config_admin *before, const struct config_admin *now)
{
    if (str_eq(before->socket, now->socket))
        return;
    admin_close(a);
    admin_open(a, now, false);
}

void admin_give(const struct admin *a, struct role *gateway)
{
    struct control_message m;

    if (a->fd <= 0)
        return;
    control_message_init(&m, CONTROL_LISTENER);
    m.status = CONTROL_ADMIN_LISTENER;
    control_message_set_text(&m, str_from(a->path ? a->path : ""));
    role_send(gateway, &m, &a->fd, 1);
}

/* --- commands -------------------------------------------------------------------------------- */

/* Who waits for the answer: the gateway may be another one by then. */
struct asker {
    struct supervisor *sup;
    pid_t gateway;
    uint32_t number;
};

void admin_reply(struct supervisor *s, pid_t gateway, uint32_t number, enum control_result result,
                 const char *text, int fd)
{
    struct control_message m;

    control_message_init(&m, CONTROL_RESULT);
    m.worker = number;
    m.status = result;
    control_message_set_text(&m, str_from(text));
    LIST_FOR_EACH(it, &s->gateways) {
        struct gateway_process *g = LIST_ENTRY(it, struct gateway_process, link);
        if (g->role.pid == gateway)
            role_send(&g->role, &m, fd < 0 ? NULL : &fd, fd >= 0);
    }
}

static void answer(const struct asker *a, enum control_result result, const char *text)
{
    admin_reply(a->sup, a->gateway, a->number, result, text, -1);
}

/* Of a reload, a rollback and an upgrade alike. */
static void on_reloaded(void *ctx, bool ok, const char *sentence)
{
    struct asker *a = ctx;

    answer(a, ok ? CONTROL_RESULT_DONE : CONTROL_RESULT_FAILED, sentence);
    mem_free(a);
}

void admin_command(struct role *gateway, const struct control_message *m)
{
    struct supervisor *s = gateway->sup;
    struct str name = control_message_text(m);
    struct asker a = { s, gateway->pid, m->worker };
    char text[256];

    if (str_eq(name, STR("stacks")) && s->phase < SUPERVISOR_DRAINING) { /* a question */
        stacks_command(gateway, m->worker);
        return;
    }
    log_notice("admin socket: %.*s", STR_ARG(name));
    if (str_eq(name, STR("reload")) || str_eq(name, STR("rollback")) ||
        str_eq(name, STR("upgrade"))) {
        struct asker *waiting = mem_alloc(sizeof(*waiting));
        *waiting = a;
        if (str_eq(name, STR("reload")))
            supervisor_reload(s, on_reloaded, waiting);
        else if (str_eq(name, STR("rollback")))
            supervisor_rollback(s, on_reloaded, waiting);
        else
            supervisor_upgrade(s, on_reloaded, waiting);
    } else if (s->phase >= SUPERVISOR_DRAINING) {
        answer(&a, CONTROL_RESULT_REFUSED, "the server is stopping");
    } else if (str_has_prefix(name, STR("profile?"))) {
        profile_command(gateway, m->worker, str_skip(name, 8));
    } else if (str_eq(name, STR("reopen-logs"))) {
        logs_reopen(s);
        answer(&a, CONTROL_RESULT_DONE, "log files were reopened");
    } else if (str_eq(name, STR("stop"))) {
        snprintf(text, sizeof(text), "stopping: running requests have up to %llu ms to finish",
                 (unsigned long long)s->plan->config->server.drain_timeout_ms);
        answer(&a, CONTROL_RESULT_DONE, text); /* before the gateway hears DRAIN */
        supervisor_stop(s, true);
    } else {
        answer(&a, CONTROL_RESULT_UNKNOWN, "there is no such command");
    }
}
