/*
 * `sapid status`, `sapid reload`, `sapid upgrade` and `sapid stop`: requests to the admin socket of
 * a running server, and how to find that socket. The server makes the text; here it is only
 * printed.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "config/config.h"
#include "http/http.h"
#include "tools/tools.h"

enum {
    ANSWER_BYTES_MAX = 64 << 20,
    LOOK_TIMEOUT_S = 5, /* of a question that the gateway answers by itself */
    SERVERS_MAX = 64,
    EXIT_USAGE = 2,
};

struct options {
    const char *command;
    const char *config, *socket;
    bool json, full, isolation, rollback, no_wait, help;
};

static const char status_help[] =
    "sapid status [OPTIONS]: what a running server is doing\n"
    "\n"
    "  --full           every worker process and its request, too\n"
    "  --isolation      what requests load and leave behind, by route (pools with an image)\n"
    "  --json           for programs\n"
    "  --config FILE    the server that runs with this configuration file\n"
    "  --socket PATH    the server with this admin socket\n"
    "  --help           this text\n"
    "\n"
    "Without --config and --socket it is the only server of this user. More: docs/status.md\n";

static const char reload_help[] =
    "sapid reload [OPTIONS]: let a running server read its configuration again\n"
    "\n"
    "New generations of the pools start and take over; what runs is finished. When the\n"
    "configuration is not valid or a generation does not start, nothing changes and the exit\n"
    "status is 1.\n"
    "\n"
    "  --rollback       back to the release before the last reload\n"
    "  --config, --socket, --help: as for sapid status\n";

static const char upgrade_help[] =
    "sapid upgrade [OPTIONS]: let the program that is installed now take over\n"
    "\n"
    "It starts with the arguments of the running one, takes its sockets over and serves; the old\n"
    "one finishes its requests and ends. When the new one does not start, nothing changes and\n"
    "the exit status is 1.\n"
    "\n"
    "  --config, --socket, --help: as for sapid status\n";

static const char stop_help[] =
    "sapid stop [OPTIONS]: let a running server finish its requests and end\n"
    "\n"
    "  --no-wait        do not wait until it has ended\n"
    "  --config, --socket, --help: as for sapid status\n";

static int complain(const struct options *o, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int complain(const struct options *o, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "sapid %s: ", o->command);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return -1;
}

/* --- one request ------------------------------------------------------------------------------ */

/* Connected socket or -errno. `limit_s` 0: reads wait as long as it takes. */
static int dial(const char *path, unsigned limit_s)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct timeval limit = { .tv_sec = limit_s };

    if (strlen(path) >= sizeof(a.sun_path))
        return -ENAMETOOLONG;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if ((limit_s && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0) ||
        connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

/* The whole answer; its status, or -errno. */
static int ask(int fd, const char *method, const char *target, struct buf *answer)
{
    const struct http_limits limits = { .headers_bytes = 16384, .headers_count = 64 };
    struct http1_response_parser parser = { 0 };
    struct http_response head;
    char *text = mem_printf("%s %s HTTP/1.1\r\nHost: sapid\r\nConnection: close\r\n"
                            "Content-Length: 0\r\n\r\n",
                            method, target);
    size_t size = strlen(text);
    bool sent = send(fd, text, size, MSG_NOSIGNAL) == (ssize_t)size;

    mem_free(text);
    if (!sent)
        return -errno;
    for (;;) {
        int r = buf_reserve(answer, 16384);
        if (r < 0)
            return r;
        ssize_t n = recv(fd, buf_space(answer), buf_room(answer), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        buf_commit(answer, (size_t)n);
    }
    int used = http1_parse_response(&parser, buf_view(answer), &limits, &head);
    if (used <= 0)
        return -EPROTO;
    buf_consume(answer, (size_t)used);
    return head.status;
}

int admin_ask(const char *socket_path, const char *method, const char *target, struct buf *answer)
{
    int fd = dial(socket_path, 0);

    if (fd < 0)
        return fd;
    int rc = ask(fd, method, target, answer);
    close(fd);
    return rc;
}

/* --- which server ----------------------------------------------------------------------------- */

struct server {
    char *socket, *config;
};
struct servers {
    struct server v[SERVERS_MAX];
    size_t n;
};

static void servers_free(struct servers *s)
{
    for (size_t i = 0; i < s->n; i++) {
        mem_free(s->v[i].socket);
        mem_free(s->v[i].config);
    }
    s->n = 0;
}

/* The value of "config" in /server?json; names with escapes in them are not told apart. */
static char *find_config(struct str json)
{
    static const char key[] = "\"config\":\"";
    char *text = mem_strndup(json), *at = strstr(text, key), *value = NULL;

    if (at)
        value = mem_strndup(
            str_take(str_from(at + sizeof(key) - 1), strcspn(at + sizeof(key) - 1, "\"")));
    mem_free(text);
    return value;
}

/* Adds it when somebody listens there; false when there is no right to ask. */
static bool look_at(struct servers *s, const char *path)
{
    struct buf answer;
    int fd = dial(path, LOOK_TIMEOUT_S);

    if (fd < 0)
        return fd != -EACCES;
    buf_init(&answer, ANSWER_BYTES_MAX);
    if (ask(fd, "GET", "/server?json", &answer) == 200 && s->n < SERVERS_MAX)
        s->v[s->n++] = (struct server){ mem_strdup(path), find_config(buf_view(&answer)) };
    buf_fini(&answer);
    close(fd);
    return true;
}

/* Nobody but its owner and root may have put a socket there. */
static bool is_safe_folder(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (st.st_uid == geteuid() || st.st_uid == 0) &&
           (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/* Returns how many sockets belong to others. */
static unsigned find_servers(struct servers *s)
{
    char **folders = config_admin_folders();
    unsigned others = 0;

    for (char **it = folders; *it; it++) {
        DIR *d = is_safe_folder(*it) ? opendir(*it) : NULL;
        for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
            size_t n = strlen(e->d_name);
            if (n < 6 || strcmp(e->d_name + n - 5, ".sock") != 0)
                continue;
            char *path = mem_printf("%s/%s", *it, e->d_name);
            others += !look_at(s, path);
            mem_free(path);
        }
        if (d)
            closedir(d);
    }
    config_admin_folders_free(folders);
    return others;
}

static int choose(const struct options *o, const char *config, struct servers *s, char **ret)
{
    unsigned others = find_servers(s);
    const struct server *found = NULL;
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++) {
        if (config && (!s->v[i].config || strcmp(config, s->v[i].config) != 0))
            continue;
        found = &s->v[i];
        n++;
    }
    if (n == 1) {
        *ret = mem_strdup(found->socket);
        return 0;
    }
    if (n == 0 && others)
        return complain(o,
                        "%u running server%s, but only %s may ask: run this command as root or as "
                        "the user who started it",
                        others, others == 1 ? "" : "s", others == 1 ? "its user" : "their users");
    if (n == 0 && config)
        return complain(o, "no running server uses %s; `sapid serve --config %s` starts one",
                        config, config);
    if (n == 0)
        return complain(o,
                        "no running server was found; if one runs with another admin socket, name "
                        "it with --socket, or its file with --config");
    complain(o, "%zu servers are running; choose one with --socket:", n);
    for (size_t i = 0; i < s->n; i++)
        fprintf(stderr, "  --socket %s    (%s)\n", s->v[i].socket,
                s->v[i].config ? s->v[i].config : "?");
    return -1;
}

static void say(const char *line)
{
    fprintf(stderr, "sapid: %s\n", line);
}

/* What [admin] socket of the file says; NULL: "auto". -1 after a complaint. */
static int read_config(const struct options *o, const char *path, char **ret_socket)
{
    char *argv[] = { (char *)(uintptr_t) "serve", (char *)(uintptr_t) "--config",
                     (char *)(uintptr_t)path, NULL };
    struct config_source source = { 0 };
    struct config_cli cli;
    struct config *c = NULL;
    char *message = NULL;
    int r = config_cli_parse(3, argv, &cli, &message);

    *ret_socket = NULL;
    if (r < 0) {
        complain(o, "%s", message ? message : strerror(-r));
    } else if ((r = config_cli_load(&cli, say, &source, &c)) < 0) {
        complain(o, "%s cannot be read (see above)", path);
    } else if (str_eq(c->admin.socket, STR("off"))) {
        r = complain(o,
                     "%s says socket = \"off\" in [admin]: its server has no admin socket; send it "
                     "SIGHUP or SIGTERM instead",
                     path);
    } else if (!str_eq(c->admin.socket, STR("auto"))) {
        *ret_socket = mem_strndup(c->admin.socket);
    }
    config_free(c);
    config_source_fini(&source);
    mem_free(message);
    config_cli_fini(&cli);
    return r < 0 ? -1 : 0;
}

/* 0 and the path (mem_free), or -1 after a complaint. */
static int find_socket(const struct options *o, char **ret)
{
    struct servers servers = { .n = 0 };
    char *socket = NULL;

    if (o->socket) {
        *ret = mem_strdup(o->socket);
        return 0;
    }
    char *config = o->config ? realpath(o->config, NULL) : NULL;
    if (o->config && !config)
        return complain(o, "--config %s: %s", o->config, strerror(errno));
    int r = config ? read_config(o, config, &socket) : 0;
    if (r == 0 && socket)
        *ret = socket;
    else if (r == 0)
        r = choose(o, config, &servers, ret);
    servers_free(&servers);
    free(config);
    return r;
}

/* --- commands --------------------------------------------------------------------------------- */

/* 0: go on; else the exit status + 1. */
static int parse(struct options *o, int argc, char **argv, const char *help)
{
    for (int i = 1; i < argc; i++) {
        bool is_status = strcmp(o->command, "status") == 0;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return 1;
        }
        if (is_status && strcmp(argv[i], "--json") == 0) {
            o->json = true;
        } else if (is_status && strcmp(argv[i], "--full") == 0) {
            o->full = true;
        } else if (is_status && strcmp(argv[i], "--isolation") == 0) {
            o->isolation = true;
        } else if (strcmp(o->command, "reload") == 0 && strcmp(argv[i], "--rollback") == 0) {
            o->rollback = true;
        } else if (strcmp(o->command, "stop") == 0 && strcmp(argv[i], "--no-wait") == 0) {
            o->no_wait = true;
        } else if ((strcmp(argv[i], "--config") == 0 || strcmp(argv[i], "--socket") == 0) &&
                   i + 1 < argc) {
            *(argv[i][2] == 'c' ? &o->config : &o->socket) = argv[i + 1];
            i++;
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            o->config = argv[i] + 9;
        } else if (strncmp(argv[i], "--socket=", 9) == 0) {
            o->socket = argv[i] + 9;
        } else {
            complain(o, "unknown or incomplete option %s; `sapid %s --help` lists them", argv[i],
                     o->command);
            return EXIT_USAGE + 1;
        }
    }
    return 0;
}

/* The process that listens, so that its end can be waited for; -1. */
static int open_server(int fd)
{
    struct ucred cred;
    socklen_t n = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
        return -1;
    return (int)syscall(SYS_pidfd_open, cred.pid, 0);
}

/* Asks, prints the answer, returns the exit status. */
static int run(const struct options *o, const char *method, const char *target)
{
    struct buf answer;
    char *path = NULL;

    if (find_socket(o, &path) < 0)
        return 1;
    int fd = dial(path, 0), status = 1, server = -1;
    if (fd < 0) {
        complain(o, "cannot connect to the admin socket %s: %s%s", path, strerror(-fd),
                 fd == -ECONNREFUSED || fd == -ENOENT ? "; the server is not running"
                 : fd == -EACCES ? "; only the user who started the server, and root, may"
                                 : "");
        mem_free(path);
        return 1;
    }
    if (strcmp(o->command, "stop") == 0 && !o->no_wait)
        server = open_server(fd);
    buf_init(&answer, ANSWER_BYTES_MAX);
    int code = ask(fd, method, target, &answer);
    if (code < 0) {
        complain(o, "the server at %s did not answer: %s", path, strerror(-code));
    } else {
        struct str text = buf_view(&answer);
        status = code >= 200 && code < 300 ? 0 : 1;
        fwrite(text.p, 1, text.n, status ? stderr : stdout);
    }
    if (status == 0 && server >= 0) {
        struct pollfd wait = { server, POLLIN, 0 };
        while (poll(&wait, 1, -1) < 0 && errno == EINTR)
            continue;
    }
    buf_fini(&answer);
    fd_close(&server);
    close(fd);
    mem_free(path);
    return fflush(stdout) != 0 ? 1 : status;
}

int status_main(int argc, char **argv)
{
    struct options o = { .command = "status" };
    int r = parse(&o, argc, argv, status_help);

    if (r)
        return r - 1;
    char target[64];
    snprintf(target, sizeof(target), "/server?%s%s%s", o.json ? "json&" : "", o.full ? "full&" : "",
             o.isolation ? "isolation" : "");
    return run(&o, "GET", target);
}

int reload_main(int argc, char **argv)
{
    struct options o = { .command = "reload" };
    int r = parse(&o, argc, argv, reload_help);

    return r ? r - 1 : run(&o, "POST", o.rollback ? "/rollback" : "/reload");
}

int upgrade_main(int argc, char **argv)
{
    struct options o = { .command = "upgrade" };
    int r = parse(&o, argc, argv, upgrade_help);

    return r ? r - 1 : run(&o, "POST", "/upgrade");
}

int stop_main(int argc, char **argv)
{
    struct options o = { .command = "stop" };
    int r = parse(&o, argc, argv, stop_help);

    return r ? r - 1 : run(&o, "POST", "/stop");
}
