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
    ANSWER_BYTES_MAX = 256 << 20,
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

    if (access(name, X_OK) == 0 && realpath(name, path)) {
        *ret_program = mem_strdup(path);
        return 0;
    }
    if (!could_be_commit(name) || strchr(name, '/') == name) {
        *ret_message =
            mem_printf("expected a program or a commit, found %s: %s", name, strerror(errno));
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

static int connect_to(const struct bench_options *b)
{
    const struct timeval limit = { .tv_sec = 10 };
    int fd = socket(b->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(fd, (const struct sockaddr *)&b->address, b->address_bytes) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* The body of a whole answer: its length and digest. 0 or -EPROTO. */
static int digest_answer(struct str all, struct answer *ret)
{
    static const struct http_limits limits = { .headers_bytes = 1 << 20,
                                               .headers_count = HTTP_HEADERS_MAX };
    struct http1_response_parser parser = { .scanned = 0 };
    struct http_response r;
    struct http1_body body;
    struct sha256 sum;
    struct str piece;
    uint8_t digest[SHA256_BYTES];
    size_t used;
    int rc = http1_parse_response(&parser, all, &limits, &r);

    if (rc <= 0)
        return -EPROTO;
    struct str rest = str_skip(all, (size_t)rc);
    bool to_the_end = http1_body_init_response(&body, &r, false);
    *ret = (struct answer){ .status = r.status };
    sha256_init(&sum);
    do {
        rc = http1_body_next(&body, rest, &piece, &used);
        if (rc < 0)
            return -EPROTO;
        sha256_update(&sum, piece);
        ret->bytes += piece.n;
        rest = str_skip(rest, used);
    } while (rc == 0 && used > 0);
    if (rc == 0 && !to_the_end)
        return -EPROTO;
    sha256_final(&sum, digest);
    for (size_t i = 0; i < SHA256_BYTES; i++)
        snprintf(ret->digest + 2 * i, 3, "%02x", digest[i]);
    return 0;
}

/* One GET on a connection of its own. 0 or -errno. */
static int ask(const char *url, struct answer *ret)
{
    char *argv[] = { "bench", (char *)url, "--no-keepalive", NULL }, *message = NULL;
    struct bench_options b;
    struct buf all;
    int rc = bench_options_parse(ARRAY_LENGTH(argv) - 1, argv, &b, &message);
    int fd = rc < 0 ? rc : connect_to(&b);

    mem_free(message);
    rc = fd < 0 ? fd : 0;
    buf_init(&all, ANSWER_BYTES_MAX);
    for (struct str left = fd < 0 ? STR_NONE : buf_view(&b.targets[0].bytes); left.n && rc == 0;) {
        ssize_t n = send(fd, left.p, left.n, MSG_NOSIGNAL);
        rc = n < 0 ? -errno : 0;
        left = str_skip(left, n < 0 ? 0 : (size_t)n);
    }
    for (ssize_t n = 1; rc == 0 && n > 0;) {
        rc = buf_reserve(&all, 64 << 10);
        n = rc < 0 ? 0 : recv(fd, buf_space(&all), buf_room(&all), 0);
        if (n < 0)
            rc = -errno;
        else
            buf_commit(&all, (size_t)n);
    }
    if (rc == 0)
        rc = digest_answer(buf_view(&all), ret);
    fd_close(&fd);
    buf_fini(&all);
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
        rc = ask(s->url, &first);
        if (rc == 0)
            break;
        if (!s->pid && rc == -ECONNREFUSED)
            break; /* not ours to wait for */
        nanosleep(&(struct timespec){ 0, LOOK_MS * (long)NS_PER_MS }, NULL);
    }
    if (rc < 0 || first.status != 200) {
        char what[128];
        if (rc < 0)
            snprintf(what, sizeof(what), "gives no answer: %s", strerror(-rc));
        else
            snprintf(what, sizeof(what), "answers %d; expected 200", first.status);
        *ret_message = s->pid ? failure(s, what) : mem_printf("%s %s", s->url, what);
        return rc < 0 ? rc : -EPROTO;
    }
    /* A page that is the same twice is compared from now on, byte for byte. */
    if (ask(s->url, &second) == 0 && strcmp(first.digest, second.digest) == 0)
        s->digest = mem_strdup(first.digest);
    s->status_text =
        mem_printf("200, %zu bytes%s", first.bytes,
                   s->digest ? "" : ", different each time: only the status is checked");
    return 0;
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
    *s = (struct perf_server){ .program = mem_strdup(program),
                               .url = mem_printf("http://%s%s", listen, o->path),
                               .log_path = mem_strdup(log_path) };
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
    int rc = 0;

    memset(s, 0, sizeof(*s));
    if (o->url) {
        s->url = mem_strdup(o->url);
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
