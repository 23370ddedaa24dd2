/*
 * The server under test: built, started on a free port with its log in a file, asked until it
 * answers, stopped with all of its processes. A candidate named as a commit is checked out into a
 * work tree of git and built there once.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "tools/perf_int.h"

enum {
    START_MS = 30000, /* engine start, with opcache and preloading */
    LOOK_MS = 20,
    STOP_MS = 10000,
    LOG_SHOWN = 2000, /* bytes of the end of a failed server's log */
    PORT_TRIES = 5,   /* another process may take a port between our look and our start */
    HEAD_BYTES_MAX = 1 << 20,
};

/* --- commands --------------------------------------------------------------------------------- */

int perf_shell(const char *what, const char *command, const char *folder, char **ret_message)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        dup2(STDERR_FILENO, STDOUT_FILENO);
        if (folder && chdir(folder) < 0)
            _exit(126);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (pid < 0) {
        *ret_message = mem_printf("%s: fork: %s", what, strerror(errno));
        return -ECHILD;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    *ret_message = mem_printf("%s failed: `%s` %s %d", what, command,
                              WIFEXITED(status) ? "exited with status" : "was ended by signal",
                              WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return -ECHILD;
}

/* A commit is named by letters that no shell takes for anything else. */
static bool could_be_commit(const char *name)
{
    return name[0] != '-' &&
           name[strspn(name,
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/~^")] ==
               '\0';
}

int perf_candidate(const struct perf_options *o, const char *name, const char *folder,
                   char **ret_program, char **ret_message)
{
    char path[PATH_MAX];

    struct stat st;
    if (access(name, X_OK) == 0 && stat(name, &st) == 0 && S_ISREG(st.st_mode) &&
        realpath(name, path)) {
        *ret_program = mem_strdup(path);
        return 0;
    }
    if (!could_be_commit(name) || strchr(name, '/') == name) {
        *ret_message = mem_printf("expected a program or a commit, found %s: %s", name,
                                  access(name, X_OK) == 0 ? "no regular file" : strerror(errno));
        return -ENOENT;
    }
    char *tree = mem_printf("%s/builds/%s", folder, name);
    char *program = mem_printf("%s/build/sapid", tree);
    char *command = mem_printf("git rev-parse --verify --quiet '%s^{commit}' >/dev/null && "
                               "mkdir -p '%s/builds' && git worktree prune && "
                               "git worktree add --force --detach '%s' '%s'",
                               name, folder, tree, name);
    int rc = 0;
    if (access(program, X_OK) < 0) {
        if (access(tree, F_OK) < 0)
            rc = perf_shell("checking out the commit", command, NULL, ret_message);
        if (rc == 0)
            rc = perf_shell("building the commit", o->build ? o->build : "./run --build", tree,
                            ret_message);
    }
    if (rc == 0 && !realpath(program, path)) {
        *ret_message = mem_printf("%s was built, but there is no %s", name, program);
        rc = -ENOENT;
    }
    if (rc == 0)
        *ret_program = mem_strdup(path);
    mem_free(tree);
    mem_free(program);
    mem_free(command);
    return rc;
}

/* --- one request ------------------------------------------------------------------------------ */

struct answer {
    int status;
    size_t bytes;
    char digest[2 * SHA256_BYTES + 1];
};

static int connect_to(const struct bench_options *b, uint64_t until_ns)
{
    uint64_t now = clock_monotonic_ns(), left_us = until_ns > now ? (until_ns - now) / 1000 + 1 : 1;
    const struct timeval limit = { (time_t)(left_us / 1000000), (suseconds_t)(left_us % 1000000) };
    int fd = socket(b->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(fd, (const struct sockaddr *)&b->address, b->address_bytes) < 0) {
        int rc = errno == EINPROGRESS ? -ETIMEDOUT : -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* An answer that is on its way. */
struct reading {
    struct buf head; /* until it is whole */
    struct http1_response_parser parser;
    struct http_response response;
    struct http1_body body;
    struct sha256 sum;
    size_t bytes;
    bool in_body, to_the_end;
};

/* 1: the answer is whole; 0: there is more to come; -EPROTO. */
static int read_body(struct reading *g, struct str in)
{
    struct str piece;
    size_t used;

    for (;;) {
        int rc = http1_body_next(&g->body, in, &piece, &used);
        if (rc < 0)
            return -EPROTO;
        sha256_update(&g->sum, piece);
        g->bytes += piece.n;
        in = str_skip(in, used);
        if (rc == 1 || in.n == 0)
            return rc;
    }
}

/* The same, with what has come since. */
static int read_more(struct reading *g)
{
    static const struct http_limits limits = { .headers_bytes = HEAD_BYTES_MAX,
                                               .headers_count = HTTP_HEADERS_MAX };

    while (!g->in_body) {
        int n = http1_parse_response(&g->parser, buf_view(&g->head), &limits, &g->response);
        if (n <= 0)
            return n < 0 ? -EPROTO : 0;
        buf_consume(&g->head, (size_t)n);
        g->parser = (struct http1_response_parser){ .line = 0 };
        g->in_body = g->response.status >= 200; /* else another head follows */
        if (g->in_body)
            g->to_the_end = http1_body_init_response(&g->body, &g->response, false);
    }
    int rc = read_body(g, buf_view(&g->head));
    buf_consume(&g->head, buf_length(&g->head));
    return rc;
}

/* Sends a request and reads its answer. 0 or -errno; -ETIMEDOUT also when it goes on and on. */
static int exchange(int fd, struct str request, uint64_t until_ns, struct reading *g)
{
    int rc = 0;

    for (struct str left = request; left.n && rc == 0;) {
        ssize_t n = send(fd, left.p, left.n, MSG_NOSIGNAL);
        rc = n < 0 ? -errno : 0;
        left = str_skip(left, n < 0 ? 0 : (size_t)n);
    }
    while (rc == 0) {
        rc = buf_reserve(&g->head, 64 << 10);
        ssize_t n = rc < 0 ? 0 : recv(fd, buf_space(&g->head), buf_room(&g->head), 0);
        if (n < 0)
            rc = -errno;
        if (n > 0) {
            buf_commit(&g->head, (size_t)n);
            rc = read_more(g);
        } else if (rc == 0) {
            rc = g->in_body && g->to_the_end ? 1 : -EPROTO;
        }
        if (rc == 0 && clock_monotonic_ns() > until_ns)
            rc = -ETIMEDOUT;
    }
    return rc == -EAGAIN ? -ETIMEDOUT : rc < 0 ? rc : 0;
}

/* One GET on a connection of its own. 0 or -errno. */
static int ask(const struct perf_server *s, struct answer *ret)
{
    char *argv[] = { "bench", s->url, "--no-keepalive", NULL }, *message = NULL;
    uint64_t until_ns = clock_monotonic_ns() + s->timeout_ns;
    struct reading *g = mem_zalloc(sizeof(*g));
    uint8_t digest[SHA256_BYTES];
    struct bench_options b;
    int rc = bench_options_parse(ARRAY_LENGTH(argv) - 1, argv, &b, &message);
    int fd = rc < 0 ? rc : connect_to(&b, until_ns);

    mem_free(message);
    buf_init(&g->head, 2 * HEAD_BYTES_MAX);
    sha256_init(&g->sum);
    rc = fd < 0 ? fd : exchange(fd, buf_view(&b.targets[0].bytes), until_ns, g);
    if (rc == 0) {
        *ret = (struct answer){ .status = g->response.status, .bytes = g->bytes };
        sha256_final(&g->sum, digest);
        for (size_t i = 0; i < SHA256_BYTES; i++)
            snprintf(ret->digest + 2 * i, 3, "%02x", digest[i]);
    }
    fd_close(&fd);
    buf_fini(&g->head);
    mem_free(g);
    bench_options_fini(&b);
    return rc;
}

/* --- start and stop --------------------------------------------------------------------------- */

/* A port nobody listens on now. */
static int free_port(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port = 0;

    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, bytes) == 0 &&
        getsockname(fd, (struct sockaddr *)&a, &bytes) == 0)
        port = ntohs(a.sin_port);
    fd_close(&fd);
    return port;
}

NORETURN static void exec_server(const struct perf_options *o, const struct perf_server *s,
                                 const char *listen, int log)
{
    char **argv = mem_zalloc((o->n_serve_args + 9) * sizeof(*argv));
    size_t n = 0;
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (CPU_COUNT(&s->cpus) > 0)
        sched_setaffinity(0, sizeof(s->cpus), &s->cpus); /* not more than a wish */
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    argv[n++] = s->program;
    argv[n++] = "serve";
    argv[n++] = "--listen";
    argv[n++] = (char *)listen;
    if (o->root) {
        argv[n++] = "--root";
        argv[n++] = o->root;
    }
    if (o->config) {
        argv[n++] = "--config";
        argv[n++] = o->config;
    }
    for (size_t i = 0; i < o->n_serve_args; i++)
        argv[n++] = o->serve_args[i];
    execv(s->program, argv);
    dprintf(STDERR_FILENO, "%s: %s\n", s->program, strerror(errno));
    _exit(127);
}

/* The end of what the server said, for the message of a failed start. */
static char *log_end(const struct perf_server *s)
{
    int fd = open(s->log_path, O_RDONLY | O_CLOEXEC);
    char *text = NULL;
    size_t n = 0;

    if (fd < 0 || fd_read_all(fd, 1 << 20, &text, &n) < 0)
        text = mem_strdup("(no log)");
    fd_close(&fd);
    if (n > LOG_SHOWN)
        memmove(text, text + n - LOG_SHOWN, LOG_SHOWN + 1);
    return text;
}

static char *failure(const struct perf_server *s, const char *what)
{
    char *log = log_end(s);
    char *text = mem_printf("%s: %s %s; its log ends:\n%s", s->program, s->url, what, log);

    mem_free(log);
    return text;
}

/* Until the server gives a right answer. */
static int await(struct perf_server *s, char **ret_message)
{
    uint64_t until = clock_monotonic_ns() + START_MS * NS_PER_MS;
    struct answer first = { .status = 0 }, second;
    int rc = -ETIMEDOUT, status;

    while (clock_monotonic_ns() < until) {
        if (s->pid && waitpid(s->pid, &status, WNOHANG) == s->pid) {
            s->pid = 0;
            *ret_message = failure(s, "was never answered: the server ended");
            return -ECHILD;
        }
        rc = ask(s, &first);
        if (rc == 0 || rc == -ETIMEDOUT || rc == -EPROTO)
            break; /* it is there, and this is how it answers */
        if (!s->pid && rc == -ECONNREFUSED)
            break; /* not ours to wait for */
        nanosleep(&(struct timespec){ 0, LOOK_MS * (long)NS_PER_MS }, NULL);
    }
    if (rc < 0 || first.status != 200) {
        char what[128];
        if (rc == -ETIMEDOUT)
            snprintf(what, sizeof(what), "gives no whole answer within %.3g s (--timeout)",
                     (double)s->timeout_ns / (double)NS_PER_S);
        else if (rc == -EPROTO)
            snprintf(what, sizeof(what), "answers something that is not HTTP");
        else if (rc < 0)
            snprintf(what, sizeof(what), "gives no answer: %s", strerror(-rc));
        else
            snprintf(what, sizeof(what), "answers %d; expected 200", first.status);
        *ret_message = s->pid ? failure(s, what) : mem_printf("%s %s", s->url, what);
        return rc < 0 ? rc : -EPROTO;
    }
    /* A page that is the same twice is compared from now on, byte for byte. */
    if (ask(s, &second) == 0 && strcmp(first.digest, second.digest) == 0)
        s->digest = mem_strdup(first.digest);
    s->status_text =
        mem_printf("200, %zu bytes%s", first.bytes,
                   s->digest ? "" : ", different each time: only the status is checked");
    return 0;
}

/* Whether somebody listens there already, who would be measured in place of our server. */
static bool is_taken(const char *url)
{
    char *argv[] = { "bench", (char *)(uintptr_t)url, NULL }, *message = NULL;
    struct bench_options b;
    int rc = bench_options_parse(2, argv, &b, &message);
    int fd = rc < 0 ? rc : connect_to(&b, clock_monotonic_ns() + NS_PER_S);
    bool taken = fd >= 0;

    fd_close(&fd);
    mem_free(message);
    bench_options_fini(&b);
    return taken;
}

/* One try of our own server, on a port of `listen`. */
static int start_once(const struct perf_options *o, const char *program, const char *listen,
                      struct perf_server *s, char **ret_message)
{
    char log_path[] = "/tmp/sapid-perf-XXXXXX";
    int log = mkostemp(log_path, O_CLOEXEC | O_APPEND);

    if (log < 0) {
        *ret_message = mem_printf("%s: %s", log_path, strerror(errno));
        return -errno;
    }
    *s = (struct perf_server){ .cpus = s->cpus,
                               .program = mem_strdup(program),
                               .url = mem_printf("http://%s%s", listen, o->path),
                               .log_path = mem_strdup(log_path),
                               .timeout_ns = o->timeout_ns };
    if (is_taken(s->url)) {
        close(log);
        *ret_message =
            mem_printf("%s: the address is in use, something answers there already", listen);
        return -EADDRINUSE;
    }
    s->pid = fork();
    if (s->pid == 0)
        exec_server(o, s, listen, log);
    close(log);
    if (s->pid < 0) {
        s->pid = 0;
        *ret_message = mem_printf("fork: %s", strerror(errno));
        return -EAGAIN;
    }
    s->counted = s->pid;
    return await(s, ret_message);
}

int perf_server_start(const struct perf_options *o, const char *program, struct perf_server *s,
                      char **ret_message)
{
    char listen[64];
    cpu_set_t cpus = s->cpus;
    int rc = 0;

    memset(s, 0, sizeof(*s));
    s->cpus = cpus;
    if (o->url) {
        s->url = mem_strdup(o->url);
        s->timeout_ns = o->timeout_ns;
        s->counted = o->pid;
        return await(s, ret_message);
    }
    for (int try = 0; try < PORT_TRIES; try++) {
        snprintf(listen, sizeof(listen), "127.0.0.1:%d", free_port());
        rc = start_once(o, program, o->listen ? o->listen : listen, s, ret_message);
        bool taken = rc < 0 && !o->listen && *ret_message && strstr(*ret_message, "in use");
        if (!taken)
            break;
        perf_server_stop(s);
        s->cpus = cpus;
        if (try + 1 < PORT_TRIES) {
            mem_free(*ret_message);
            *ret_message = NULL;
        }
    }
    if (rc == 0)
        fprintf(stderr, "%s: %s: %s\n", program, s->url, s->status_text);
    return rc;
}

void perf_server_stop(struct perf_server *s)
{
    uint64_t until = clock_monotonic_ns() + STOP_MS * NS_PER_MS;

    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        while (waitpid(s->pid, NULL, WNOHANG) == 0) {
            if (clock_monotonic_ns() > until)
                kill(s->pid, SIGKILL); /* its processes follow it: PR_SET_PDEATHSIG */
            nanosleep(&(struct timespec){ 0, LOOK_MS * (long)NS_PER_MS }, NULL);
        }
    }
    if (s->log_path)
        unlink(s->log_path);
    mem_free(s->program);
    mem_free(s->url);
    mem_free(s->log_path);
    mem_free(s->digest);
    mem_free(s->status_text);
    memset(s, 0, sizeof(*s));
}
