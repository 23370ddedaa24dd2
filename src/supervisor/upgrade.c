/*
 * Another version of this program takes over (SIGUSR2), and how it finds what it takes over.
 *
 * The old side forks and executes the file it was started from, as its path leads now, with the
 * same arguments. The new program gets the listening sockets and one end of a control socket; it
 * starts a gateway and pools of its own, and both programs accept for a moment. When it says READY,
 * the old one tells the service manager of the new main process, stops accepting, answers what it
 * has, and ends. When it says FAILED, ends, or says nothing, the old one goes on as if nothing had
 * been.
 *
 * What is inherited stands in the environment, for nobody else:
 *   SAPID_UPGRADE     number of the control socket
 *   SAPID_LISTEN_FDS  a line for each socket: number, "own" or "foreign", as configured
 *   SAPID_STATE       number of a file: what images have learned, and which there are (names.c)
 *   LISTEN_FDS, LISTEN_PID: a service manager's sockets, from 3 on (sd_listen_fds(3))
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum {
    ARGUMENTS_BYTES_MAX = 4 << 20,
    SOCKETS_BYTES_MAX = 1 << 20,
    STATE_BYTES_MAX = 64 << 20,
    PATH_BYTES = 4096
};

/* The program that is to take over; one at a time. */
struct upgrade {
    struct role role;
    struct loop_timer limit; /* for READY; then the turn in which it is acted upon */
    bool ready;
    char *failure;
    reload_done *done;
    void *ctx;
};

/* --- which program ---------------------------------------------------------------------------- */

static bool is_this_program(const char *path)
{
    struct stat here, self;

    return stat(path, &here) == 0 && stat("/proc/self/exe", &self) == 0 &&
           here.st_dev == self.st_dev && here.st_ino == self.st_ino;
}

static char *find_in_path(const char *name)
{
    const char *path = getenv("PATH");
    struct str rest = str_from(path ? path : "");

    while (rest.n) {
        struct str folder = str_cut(&rest, ':');
        char *whole = mem_printf("%.*s/%s", STR_ARG(folder), name);
        if (folder.n && is_this_program(whole))
            return whole;
        mem_free(whole);
    }
    return NULL;
}

char *upgrade_program(const char *argv0)
{
    char here[PATH_BYTES], *path = NULL;

    if (argv0[0] == '/')
        path = mem_strdup(argv0);
    else if (strchr(argv0, '/') && getcwd(here, sizeof(here)))
        path = mem_printf("%s/%s", here, argv0);
    else
        path = find_in_path(argv0);
    if (path && is_this_program(path))
        return path;
    mem_free(path);
    ssize_t n = readlink("/proc/self/exe", here, sizeof(here) - 1);
    return n > 0 ? mem_strndup((struct str){ here, (size_t)n }) : mem_strdup("/proc/self/exe");
}

/* The arguments this program was started with, NULL-terminated; what they point to is `*ret_text`.
 */
static int read_arguments(char **ret_text, char ***ret)
{
    size_t n = 0, count = 0;
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -errno : fd_read_all(fd, ARGUMENTS_BYTES_MAX, ret_text, &n);

    fd_close(&fd);
    if (r < 0)
        return r;
    char **v = mem_alloc((n + 1) * sizeof(char *)); /* at most one of each byte */
    for (size_t at = 0; at < n; at += strlen(*ret_text + at) + 1)
        v[count++] = *ret_text + at;
    v[count] = NULL;
    *ret = v;
    return 0;
}

/* --- the old side ----------------------------------------------------------------------------- */

static void close_upgrade(struct supervisor *s, bool ok, const char *sentence)
{
    struct upgrade *u = s->upgrade;

    s->upgrade = NULL;
    loop_timer_cancel(s->loop, &u->limit);
    if (ok)
        log_notice("%s", sentence);
    else
        log_error("%s", sentence);
    if (u->done)
        u->done(u->ctx, ok, sentence);
    mem_free(u->failure);
    mem_free(u);
}

/* In the child: a file with what images have learned, for the new program. It does without if there
 * is none. */
static void pass_names_on(struct supervisor *s)
{
    char number[16];
    struct buf b;
    int fd = memfd_create("sapid-state", 0);

    buf_init(&b, SIZE_MAX);
    struct str text = fd >= 0 && names_write(s, true, &b) >= 0 ? buf_view(&b) : STR_NONE;
    while (text.n) {
        ssize_t n = write(fd, text.p, text.n);
        if (n < 0)
            return;
        text = str_skip(text, (size_t)n);
    }
    snprintf(number, sizeof(number), "%d", fd);
    if (fd >= 0)
        setenv("SAPID_STATE", number, 1);
}

/* In the child, which has this program's memory and descriptors still. */
static NORETURN void run_program(const struct role *r, int control)
{
    struct supervisor *s = r->sup;
    const struct listeners *l = &s->gateway->listeners;
    char *text, **arguments, number[16];
    struct buf sockets;

    buf_init(&sockets, SOCKETS_BYTES_MAX);
    setrlimit(RLIMIT_NOFILE, &s->nofile_before);
    if (close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        role_child_fail(control, "cannot close descriptors", errno);
    int e = 0;
    for (uint32_t i = 0; i < l->n && e >= 0; i++) {
        if (fcntl(l->v[i].fd, F_SETFD, 0) < 0)
            e = -errno;
        else
            e = buf_printf(&sockets, "%d %s %s\n", l->v[i].fd, l->v[i].foreign ? "foreign" : "own",
                           l->v[i].text);
    }
    if (e >= 0)
        e = buf_append(&sockets, "", 1);
    if (e >= 0)
        e = read_arguments(&text, &arguments);
    snprintf(number, sizeof(number), "%d", control);
    if (e < 0 || fcntl(control, F_SETFD, 0) < 0 || setenv("SAPID_UPGRADE", number, 1) < 0 ||
        setenv("SAPID_LISTEN_FDS", sockets.base + sockets.head, 1) < 0)
        role_child_fail(control, "cannot pass the sockets on", e < 0 ? -e : errno);
    pass_names_on(s);
    logs_give_back_stderr();
    unsetenv("WATCHDOG_PID");
    execv(s->program, arguments);
    role_child_fail(control, s->program, errno);
}

static void on_limit(struct loop_timer *t);

static void on_message(struct role *r, const struct control_message *m)
{
    struct upgrade *u = CONTAINER_OF(r, struct upgrade, role);

    if (m->type == CONTROL_FAILED) {
        if (!u->failure)
            u->failure = mem_strndup(control_message_text(m));
        return;
    }
    if (m->type != CONTROL_READY)
        return;
    u->ready = true; /* whoever calls us still needs the role */
    loop_timer_set(r->sup->loop, &u->limit, clock_monotonic_ns(), on_limit);
}

static void hand_over(struct upgrade *u)
{
    struct supervisor *s = u->role.sup;
    pid_t pid = u->role.pid;
    char sentence[128];

    snprintf(sentence, sizeof(sentence),
             "upgrade done: process %d serves now; this one finishes its requests", (int)pid);
    role_release(&u->role);
    close_upgrade(s, true, sentence);
    supervisor_hand_over(s, pid);
}

static void on_end(struct role *r, int wait_status)
{
    struct upgrade *u = CONTAINER_OF(r, struct upgrade, role);
    struct supervisor *s = r->sup;
    char how[96];

    role_describe_exit(wait_status, how, sizeof(how));
    char *sentence = mem_printf("upgrade failed: %s: %s; this program goes on", s->program,
                                u->failure ? u->failure : how);
    close_upgrade(s, false, sentence);
    mem_free(sentence);
    supervisor_role_ended(s);
}

static void on_limit(struct loop_timer *t)
{
    struct upgrade *u = CONTAINER_OF(t, struct upgrade, limit);

    if (u->ready) {
        hand_over(u);
        return;
    }
    mem_free(u->failure);
    u->failure = mem_printf("it did not serve within %" PRIu64 " seconds",
                            2 * u->role.sup->start_limit_ns / NS_PER_S);
    role_kill(&u->role);
}

static const char *why_not(const struct supervisor *s)
{
    if (s->phase != SUPERVISOR_SERVING)
        return "the server starts or stops";
    if (s->upgrade)
        return "another upgrade is under way";
    if (getpid() == 1)
        return "this is process 1, whose end would end the container: start a new container";
    return NULL;
}

void supervisor_upgrade(struct supervisor *s, reload_done *done, void *ctx)
{
    const struct role_spec spec = { .child = run_program };
    const char *refusal = why_not(s);

    if (!refusal && s->rollout && done)
        refusal = "a reload is under way; ask again when it is done";
    if (!refusal && s->rollout) {
        s->upgrade_after_rollout = true;
        log_notice("upgrade: waiting for the end of the reload");
        return;
    }
    if (refusal) {
        char *sentence = mem_printf("upgrade refused: %s", refusal);
        log_error("%s", sentence);
        if (done)
            done(ctx, false, sentence);
        mem_free(sentence);
        return;
    }
    log_notice("upgrade: starting %s", s->program);
    struct upgrade *u = mem_zalloc(sizeof(*u));
    u->done = done;
    u->ctx = ctx;
    s->upgrade = u;
    role_init(&u->role, s, "new program");
    u->role.on_message = on_message;
    u->role.on_exit = on_end;
    int r = role_start(&u->role, &spec);
    if (r < 0) {
        char *sentence = mem_printf("upgrade failed: cannot start a process: %s", strerror(-r));
        close_upgrade(s, false, sentence);
        mem_free(sentence);
        return;
    }
    loop_timer_set(s->loop, &u->limit, clock_monotonic_ns() + 2 * s->start_limit_ns, on_limit);
}

void upgrade_cancel(struct supervisor *s)
{
    s->upgrade_after_rollout = false;
    if (s->upgrade)
        role_kill(&s->upgrade->role);
}

/* --- the new side ----------------------------------------------------------------------------- */

static int old_program = -1; /* control socket to it, until it was told */
static int old_names = -1;

/* "7 own 127.0.0.1:8080" */
static int adopt_line(struct listeners *l, struct str line)
{
    struct str number = str_cut(&line, ' '), kind = str_cut(&line, ' ');
    uint64_t fd;

    if (!str_to_u64(number, INT32_MAX, &fd) || fd <= STDERR_FILENO)
        return -EINVAL;
    char *text = mem_strndup(line);
    int r = listeners_adopt(l, (int)fd, text, str_eq(kind, STR("foreign")));
    mem_free(text);
    return r;
}

static int adopt_all(struct listeners *l, struct str lines)
{
    int r = 0;

    while (lines.n && r == 0)
        r = adopt_line(l, str_cut(&lines, '\n'));
    return r;
}

static int adopt_activated(struct listeners *l)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    enum { FIRST = 3 };
    uint64_t who, n;
    int r = 0;

    if (!pid || !fds || !str_to_u64(str_from(pid), INT32_MAX, &who) || (pid_t)who != getpid() ||
        !str_to_u64(str_from(fds), CONTROL_LISTENERS_MAX, &n))
        return 0;
    for (int fd = FIRST; fd < FIRST + (int)n && r == 0; fd++)
        r = listeners_adopt(l, fd, "", true);
    return r;
}

int takeover_begin(struct listeners *given)
{
    const char *control = getenv("SAPID_UPGRADE"), *sockets = getenv("SAPID_LISTEN_FDS"),
               *names = getenv("SAPID_STATE");
    uint64_t fd;
    int r = 0;

    if (control && str_to_u64(str_from(control), INT32_MAX, &fd) && fd > STDERR_FILENO &&
        fcntl((int)fd, F_SETFD, FD_CLOEXEC) == 0)
        old_program = (int)fd;
    if (old_program >= 0 && names && str_to_u64(str_from(names), INT32_MAX, &fd) &&
        fd > STDERR_FILENO && fcntl((int)fd, F_SETFD, FD_CLOEXEC) == 0)
        old_names = (int)fd;
    if (old_program >= 0 && sockets)
        r = adopt_all(given, str_from(sockets));
    else
        r = adopt_activated(given);
    unsetenv("SAPID_UPGRADE");
    unsetenv("SAPID_LISTEN_FDS");
    unsetenv("SAPID_STATE");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return r;
}

bool takeover_names(struct supervisor *s)
{
    char *text = NULL;
    size_t n = 0;

    if (old_names < 0)
        return false;
    int r = lseek(old_names, 0, SEEK_SET) < 0 ? -errno
                                              : fd_read_all(old_names, STATE_BYTES_MAX, &text, &n);
    if (r == 0 && names_read(s, (struct str){ text, n }) < 0)
        r = -EPROTO;
    if (r < 0)
        log_warn("upgrade: what images have learned is forgotten: the program before has left it "
                 "in a form that this one does not know (%s)",
                 strerror(-r));
    fd_close(&old_names);
    mem_free(text);
    return true;
}

bool takeover_pending(void)
{
    return old_program >= 0;
}

static void tell_old(enum control_type type, const char *text)
{
    struct control_message m;

    if (old_program < 0)
        return;
    control_message_init(&m, type);
    control_message_set_text(&m, str_from(text));
    int r = control_send(old_program, &m, NULL, 0);
    if (r < 0 && type == CONTROL_READY)
        log_warn("the program before ended while this one started; taking over all the same");
}

void takeover_say(const char *line)
{
    tell_old(CONTROL_FAILED, line);
}

void takeover_done(struct supervisor *s)
{
    listeners_own(&s->gateway->listeners, NULL);
    tell_old(CONTROL_READY, "");
    fd_close(&old_program);
    listeners_close(&s->given);
}
