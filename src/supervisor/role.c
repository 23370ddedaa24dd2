/*
 * One child process and its control socket. A role is started by fork, dropping to its user, and
 * executing this program afresh with descriptors 0 to 4 only, so that it inherits no memory, key,
 * listener or socket of anybody else. What a role said before it died is read before its exit is
 * handled: its last words are usually the reason.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

void role_init(struct role *r, struct supervisor *s, const char *name)
{
    memset(r, 0, sizeof(*r));
    r->sup = s;
    r->control = -1;
    r->watch.fd = -1;
    list_init(&r->link);
    snprintf(r->name, sizeof(r->name), "%s", name);
}

bool role_running(const struct role *r)
{
    return r->pid > 0;
}

/* --- the child, between fork and exec -------------------------------------------------------- */

/* The supervisor's own log is not the place: it waits for this message to know why the start
 * failed. */
NORETURN void role_child_fail(int control, const char *what, int error)
{
    struct control_message m;
    char text[256];

    snprintf(text, sizeof(text), "%s: %s", what, strerror(error));
    control_message_init(&m, CONTROL_FAILED);
    control_message_set_text(&m, str_from(text));
    int unused = control_send(control, &m, NULL, 0);
    (void)unused;
    _exit(1);
}

/* Descriptors 0 (nothing), 1, 2 (ours), 3 (control), 4 (boot); all others closed. */
static void child_descriptors(int control, int boot)
{
    int high_control = fcntl(control, F_DUPFD_CLOEXEC, 10);
    int high_boot = fcntl(boot, F_DUPFD_CLOEXEC, 10);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (high_control < 0 || high_boot < 0 || null < 0 || dup2(null, 0) < 0 ||
        dup2(high_control, CONTROL_SUPERVISOR_FD) < 0 || dup2(high_boot, CONTROL_BOOT_FD) < 0)
        role_child_fail(control, "cannot pass descriptors on", errno);
    if (close_range(CONTROL_BOOT_FD + 1, ~0U, 0) < 0)
        role_child_fail(CONTROL_SUPERVISOR_FD, "cannot close descriptors", errno);
}

static void child_signals(void)
{
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL); /* ignored dispositions would survive exec */
}

static NORETURN void child_run(const struct role *r, const struct role_spec *spec, int control)
{
    char *args[] = { "sapid", (char *)(uintptr_t)spec->verb, NULL };
    char what[128];

    child_signals();
    if (spec->child)
        spec->child(r, control);
    setsid(); /* ^C on a terminal is for the supervisor alone */
    child_descriptors(control, spec->boot_fd);
    if (spec->few_files)
        setrlimit(RLIMIT_NOFILE, &r->sup->nofile_before);
    if (spec->no_new_privs)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    int e = user_become(spec->user);
    if (e < 0) {
        snprintf(what, sizeof(what), "cannot become user %s (uid %u)", spec->user->name,
                 (unsigned)spec->user->uid);
        role_child_fail(CONTROL_SUPERVISOR_FD, what, -e);
    }
    execve("/proc/self/exe", args, spec->environment);
    role_child_fail(CONTROL_SUPERVISOR_FD, "cannot execute the program again", errno);
}

/* --- messages -------------------------------------------------------------------------------- */

/* Roles never send descriptors to the supervisor: those that come are closed unseen. Returns false
 * at the end of the stream or of what is there. */
static bool receive_one(struct role *r)
{
    struct control_message m;
    size_t n_fds = 0;
    int n = control_receive(r->control, &m, NULL, 0, &n_fds);

    if (n == 1) {
        r->on_message(r, &m);
        return true;
    }
    /* A role that died with our messages unread: the kernel says so once, before its last words. */
    if (n == -ECONNRESET)
        return true;
    if (n == -EAGAIN)
        return false;
    if (n < 0) {
        log_error("%s[%d] sent something that is no control message (%s): ending it", r->name,
                  (int)r->pid, strerror(-n));
        role_kill(r);
    }
    loop_watch_remove(r->sup->loop, &r->watch);
    fd_close(&r->control);
    return false;
}

static void on_control_ready(struct loop_watch *w, unsigned events)
{
    struct role *r = CONTAINER_OF(w, struct role, watch);

    (void)events;
    for (int budget = 64; budget > 0 && r->control >= 0 && receive_one(r); budget--)
        continue;
    /* A role that closed its socket but lives on cannot be led any more. */
    if (r->control < 0 && role_running(r))
        role_kill_in(r, 1 * NS_PER_S);
}

void role_send(struct role *r, const struct control_message *m, const int *fds, size_t n_fds)
{
    if (r->control < 0)
        return;
    int e = control_send(r->control, m, fds, n_fds);
    if (e == 0 || e == -EPIPE || e == -ECONNRESET) /* dying: SIGCHLD will tell */
        return;
    log_error("%s[%d] cannot take message %u (%s): ending it", r->name, (int)r->pid, m->type,
              strerror(-e));
    role_kill(r);
}

void role_send_type(struct role *r, enum control_type type, uint32_t pool, uint32_t generation)
{
    struct control_message m;

    control_message_init(&m, type);
    m.pool = pool;
    m.generation = generation;
    role_send(r, &m, NULL, 0);
}

/* --- start and end --------------------------------------------------------------------------- */

int role_start(struct role *r, const struct role_spec *spec)
{
    int pair[2], e;

    CHECK(!role_running(r) && r->control < 0);
    e = fd_seqpacket_pair(pair);
    if (e < 0)
        return e;
    if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0) {
        e = -errno;
        goto fail;
    }
    pid_t pid = fork();
    if (pid == 0)
        child_run(r, spec, pair[1]);
    if (pid < 0) {
        e = -errno;
        goto fail;
    }
    close(pair[1]);
    r->pid = pid;
    r->control = pair[0];
    list_push_back(&r->sup->roles, &r->link);
    e = loop_watch_add(r->sup->loop, &r->watch, r->control, LOOP_READ, on_control_ready);
    CHECKF(e == 0, "watching the control socket of %s: %s", r->name, strerror(-e));
    return 0;
fail:
    close(pair[0]);
    close(pair[1]);
    return e;
}

void role_kill(struct role *r)
{
    if (role_running(r))
        kill(r->pid, SIGKILL);
}

static void on_kill_timer(struct loop_timer *t)
{
    struct role *r = CONTAINER_OF(t, struct role, kill_timer);

    log_warn("%s[%d] did not end in time: killing it", r->name, (int)r->pid);
    role_kill(r);
}

void role_kill_in(struct role *r, uint64_t delay_ns)
{
    uint64_t deadline = clock_monotonic_ns() + delay_ns;

    if (role_running(r) && (!r->kill_timer.deadline_ns || deadline < r->kill_timer.deadline_ns))
        loop_timer_set(r->sup->loop, &r->kill_timer, deadline, on_kill_timer);
}

void role_end(struct role *r, uint64_t kill_after_ns)
{
    if (r->control >= 0) {
        loop_watch_remove(r->sup->loop, &r->watch);
        fd_close(&r->control);
    }
    role_kill_in(r, kill_after_ns);
}

void role_release(struct role *r)
{
    role_end(r, 0);
    loop_timer_cancel(r->sup->loop, &r->kill_timer);
    list_remove(&r->link);
    r->pid = 0;
}

static void ended(struct role *r, int wait_status)
{
    while (r->control >= 0 && receive_one(r))
        continue;
    if (r->control >= 0) {
        loop_watch_remove(r->sup->loop, &r->watch);
        fd_close(&r->control);
    }
    loop_timer_cancel(r->sup->loop, &r->kill_timer);
    list_remove(&r->link);
    r->on_exit(r, wait_status); /* may free r; still knows its pid */
}

void roles_reap(struct supervisor *s)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        LIST_FOR_EACH_SAFE(it, &s->roles) {
            struct role *r = LIST_ENTRY(it, struct role, link);
            if (r->pid == pid) {
                ended(r, status);
                break;
            }
        }
        /* Others are orphans that came to us as process 1 of a container: collecting them is all.
         */
    }
}

void role_describe_exit(int wait_status, char *ret, size_t size)
{
    if (WIFSIGNALED(wait_status)) {
        const char *name = sigabbrev_np(WTERMSIG(wait_status));
        snprintf(ret, size, "killed by signal %d (SIG%s)%s", WTERMSIG(wait_status),
                 name ? name : "?", WCOREDUMP(wait_status) ? ", core dumped" : "");
    } else {
        snprintf(ret, size, "exit status %d", WEXITSTATUS(wait_status));
    }
}

uint64_t backoff_next_ns(struct backoff *b, uint64_t lived_ns)
{
    if (lived_ns >= 1 * NS_PER_S)
        b->failures = 0;
    unsigned n = b->failures++;
    if (n == 0)
        return 0;
    uint64_t ms = n >= 7 ? 5000 : UINT64_C(100) << (n - 1);
    return (ms > 5000 ? 5000 : ms) * NS_PER_MS;
}

/* --- environment ----------------------------------------------------------------------------- */

/* What the loader, the engine's start and the sanitizers read: needed by the process itself,
 * whatever clear_env says about the scripts. */
static const char *const start_names[] = {
    "LD_LIBRARY_PATH=", "LD_PRELOAD=",    "PHP_INI_SCAN_DIR=", "PHPRC=",
    "ASAN_OPTIONS=",    "UBSAN_OPTIONS=", "LSAN_OPTIONS=",     "GLIBC_TUNABLES=",
};

/* Between the service manager and this process; no script speaks for it, whatever clear_env says.
 */
static const char *const own_names[] = { "NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=" };

static bool is_one_of(const char *entry, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(entry, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static bool is_passed_on(const char *entry, bool all)
{
    if (is_one_of(entry, own_names, ARRAY_LENGTH(own_names)))
        return false;
    return all || is_one_of(entry, start_names, ARRAY_LENGTH(start_names));
}

struct environment {
    char **v;
    size_t n;
};

/* Takes the string over; a later one of the same name replaces the earlier. */
static void put_entry(struct environment *e, char *entry)
{
    size_t name = strcspn(entry, "=") + 1;

    for (size_t i = 0; i < e->n; i++) {
        if (strncmp(e->v[i], entry, name) == 0) {
            mem_free(e->v[i]);
            e->v[i] = entry;
            return;
        }
    }
    e->v = mem_realloc(e->v, (e->n + 2) * sizeof(*e->v));
    e->v[e->n++] = entry;
    e->v[e->n] = NULL;
}

char **role_environment(const struct config_pool *p, const struct user *u)
{
    struct environment e = { mem_zalloc(sizeof(char *)), 0 };
    bool all = p && !p->clear_env;

    for (char **it = environ; it && *it; it++)
        if (is_passed_on(*it, all))
            put_entry(&e, mem_strdup(*it));
    if (!p)
        return e.v;
    /* as PHP-FPM does, also with clear_env */
    if (u->name[0])
        put_entry(&e, mem_printf("USER=%s", u->name));
    if (u->home[0])
        put_entry(&e, mem_printf("HOME=%s", u->home));
    for (uint32_t i = 0; i < p->env.n; i++)
        put_entry(&e,
                  mem_printf("%.*s=%.*s", STR_ARG(p->env.v[i].key), STR_ARG(p->env.v[i].value)));
    return e.v;
}

void role_environment_free(char **env)
{
    for (char **it = env; it && *it; it++)
        mem_free(*it);
    mem_free(env);
}
