/*
 * The pool process: starts the engine once, runs no request, forks workers and replaces them.
 *
 * Workers sit in seats 0..n-1, the worker indexes of the channel. Every fork gets a fresh
 * incarnation, so that the gateway never confuses a worker with the one that sat there before; the
 * gateway hears of a death only after the process was reaped, and grants the successor after it has
 * recovered the dead.
 *
 * A worker that dies after its first finished request is replaced at once: a crash costs its own
 * request only. One that dies before is a sign that every request of that seat will crash: the
 * first such death is forgiven, then the seat waits, twice as long each time.
 *
 * The gateway may die: the supervisor then sends a fresh channel, on which fresh workers are forked
 * while the old ones finish. The engine, and opcache's memory with it, stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "channel/control.h"
#include "php/pool_int.h"

enum {
    BACKOFF_FIRST_MS = 100,
    BACKOFF_MAX_MS = 10000,
    RENEW_MIN_MS = 10000,       /* between two wishes for a new generation */
    BOOT_FIRST_MS = 5000,       /* how long a server that starts waits for its worker script */
    BOOT_NEXT_MS = 60000,       /* and a reload, or an image, while others serve */
    GATEWAY_PATIENCE_MS = 5000, /* how long a full socket to the gateway may stay full */
    FDS_MAX = 2 + CHANNEL_THREADS_MAX,
};

/* --- messages --------------------------------------------------------------------------------- */

void pool_tell_supervisor(struct pool *p, enum control_type type, const char *text)
{
    struct control_message m;

    control_message_init(&m, type);
    m.pool = p->boot.pool;
    m.generation = p->boot.generation;
    m.pid = getpid();
    if (text)
        control_message_set_text(&m, str_from(text));
    int rc = control_send(p->supervisor, &m, NULL, 0);
    if (rc < 0)
        log_warn("cannot tell the supervisor (message %d): %s", (int)type, strerror(-rc));
}

static void lose_gateway(struct pool *p)
{
    if (!p->gateway_gone)
        log_notice("the gateway has gone; workers end, fresh ones start with the next gateway");
    p->gateway_gone = true;
    fd_close(&p->gateway);
    if (p->channel)
        channel_close(p->channel);
}

static void tell_gateway(struct pool *p, const struct control_message *m, int fd)
{
    struct pollfd wait = { p->gateway, POLLOUT, 0 };
    int rc;

    if (p->gateway < 0)
        return;
    do {
        rc = control_send(p->gateway, m, &fd, fd >= 0);
    } while (rc == -EINTR || (rc == -EAGAIN && poll(&wait, 1, GATEWAY_PATIENCE_MS) > 0));
    if (rc < 0) {
        if (rc != -EPIPE && rc != -ECONNRESET)
            log_warn("the gateway does not take messages: %s", strerror(-rc));
        lose_gateway(p);
    }
}

/* --- workers ---------------------------------------------------------------------------------- */

/* max_requests with a jitter of 10 %: workers forked together do not leave together. A worker
 * script never takes more than were asked for. */
uint64_t pool_draw_max_requests(const struct config_pool *conf)
{
    uint64_t n = conf->worker_max_requests, spread = n / 5, random = 0;

    if (n == 0 || spread == 0)
        return n;
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = clock_monotonic_ns();
    return n - (conf->kind == CONFIG_POOL_LOOP ? spread : spread / 2) + random % (spread + 1);
}

/* A script that reads php://stdin is at its end; the server's own input is not for it. */
static void redirect_stdin(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (fd > STDIN_FILENO && dup2(fd, STDIN_FILENO) == STDIN_FILENO)
        close(fd);
}

/* In the worker: the other workers' boxes are not its business. */
static void keep_own_box(struct pool *p, uint32_t index)
{
    char *boxes = (char *)p->seats[0].box;
    size_t before = index * BOX_SPAN, after = (p->n_seats - index - 1) * BOX_SPAN;

    if (boxes && before)
        munmap(boxes, before);
    if (boxes && after)
        munmap(boxes + before + BOX_SPAN, after);
}

void pool_leave(struct pool *p, int parent)
{
    control_die_with_parent(parent, SIGKILL);
    fd_close(&p->supervisor);
    fd_close(&p->gateway);
    fd_close(&p->signals);
    profile_leave(p);
    redirect_stdin();
}

struct engine_worker pool_worker(const struct pool *p, const char *role)
{
    return (struct engine_worker){
        .role = role,
        .log_least = p->settings.options.log_least,
        .sock = -1,
        .env = p->settings.env,
        .n_env = p->settings.n_env,
        .clear_env = p->conf->clear_env,
        .sendfile_roots = p->conf->sendfile_roots.v,
        .n_sendfile_roots = p->conf->sendfile_roots.n,
        .accel_locations = p->settings.accel,
        .n_accel_locations = p->conf->accel_locations.n,
        .pool = mem_strndup(p->conf->name), /* as long as the process */
        .manager = p->conf->worker_min == CONFIG_AUTO ? "static"
                   : p->conf->worker_min == 0         ? "ondemand"
                                                      : "dynamic",
        .queue_size = p->conf->queue_size,
        .chroot = p->conf->chroot,
        .loop = p->loop.script ? &p->loop : NULL,
    };
}

NORETURN static void run_worker(struct pool *p, uint32_t index, int sock, int memory_end,
                                int parent)
{
    char role[64];

    pool_leave(p, parent);
    if (memory_end >= 0)
        worker_memory_offer(memory_end);
    prctl(PR_SET_DUMPABLE, 0);
    keep_own_box(p, index);
    proctitle_set("sapid: worker %.*s", STR_ARG(p->conf->name));
    prctl(PR_SET_NAME, "sapid-worker");
    snprintf(role, sizeof(role), "%.*s g%u w%u", STR_ARG(p->conf->name), p->boot.generation, index);
    struct engine_worker w = pool_worker(p, role);
    w.channel = p->channel;
    w.index = index;
    w.incarnation = p->seats[index].incarnation;
    w.eventfds = p->eventfds;
    w.sock = sock;
    /* pool_size.c replaces it at that number, when its successor is ready */
    w.max_requests = p->seats[index].max_requests ? 2 * p->seats[index].max_requests
                                                  : pool_draw_max_requests(p->conf);
    w.box = p->seats[index].box;
    w.boot_failure = p->image ? images_boot_failure(p) : NULL;
    /* No exit handlers: they belong to the pool process. */
    _exit(surroundings_enter(p->conf) == 0 ? p->engine->worker_run(&w) : ENGINE_EXIT_UNHEALTHY);
}

/* What is known of the seat's last worker is gone. */
static void prepare_seat(struct pool *p, struct seat *seat)
{
    struct php_stack *sample = seat->watch.sample;

    seat->cause = CONTROL_CAUSE_ITS_OWN;
    seat->watch = (struct seat_watch){ .sample = sample };
    if (!seat->box)
        return;
    memset(seat->box, 0, sizeof(*seat->box));
    seat->box->wants_cpu = p->conf->slow_log_after_ms > 0;
}

void pool_kill_worker(struct pool *p, uint32_t worker, enum control_cause cause)
{
    struct seat *seat = &p->seats[worker];

    CHECK(worker < p->n_seats && seat->pid > 0);
    seat->cause = cause;
    kill(seat->pid, SIGKILL);
}

static void start_worker(struct pool *p, uint32_t index)
{
    struct seat *seat = &p->seats[index];
    struct control_message m;
    int ends[2], parent = getpid(), memory_end = -1;
    int rc = fd_seqpacket_pair(ends);

    CHECK(seat->pid == 0);
    seat->not_before_ns = clock_monotonic_ns() + BACKOFF_FIRST_MS * NS_PER_MS; /* if this fails */
    if (rc < 0) {
        log_error("worker %u: no socket pair: %s", index, strerror(-rc));
        return;
    }
    seat->incarnation = ++p->incarnations;
    seat->started_ns = clock_monotonic_ns();
    seat->max_requests = p->size.recycles && p->conf->kind == CONFIG_POOL_CLASSIC
                             ? pool_draw_max_requests(p->conf)
                             : 0;
    prepare_seat(p, seat);
    if (worker_memory_init(&seat->memory, &memory_end) < 0)
        log_warn("worker %u: no socket pair for its memory: there will be no PHP stacks of it",
                 index);
    bool frozen = p->image && !images_boot_failure(p);
    pid_t pid = frozen ? images_fork_worker(p, index, ends[1], memory_end) : fork();
    if (pid == 0) {
        close(ends[0]);
        run_worker(p, index, ends[1], memory_end, parent);
    }
    close(ends[1]);
    fd_close(&memory_end);
    if (pid < 0) {
        log_error("worker %u: fork: %s", index, strerror(frozen ? -pid : errno));
        close(ends[0]);
        worker_memory_fini(&seat->memory);
        return;
    }
    seat->pid = pid;
    seat->only_fails = p->image && !frozen;
    control_message_init(&m, CONTROL_WORKER_START);
    m.pool = p->boot.pool;
    m.generation = p->boot.generation;
    m.worker = index;
    m.incarnation = seat->incarnation;
    m.pid = pid;
    tell_gateway(p, &m, ends[0]);
    close(ends[0]);
}

static void start_missing(struct pool *p)
{
    uint64_t now = clock_monotonic_ns();

    if (p->draining || p->gateway_gone || !p->channel)
        return;
    uint32_t n = p->boots ? 1 : p->n_seats;
    if (p->image) {
        bool ready = images_ready(p);
        if (p->boots || (!ready && !images_boot_failure(p)))
            return;
        if (!ready)
            n = 1; /* it answers 500 until the script boots */
    }
    for (uint32_t i = 0; i < n; i++)
        if (p->seats[i].pid == 0 && p->seats[i].not_before_ns <= now) {
            if (!pool_size_wants(p))
                return;
            start_worker(p, i);
            if (p->image && n > 1 && !images_booted(p))
                return; /* the frozen process has died: there is another one soon */
        }
}

static int next_timeout_ms(const struct pool *p)
{
    uint64_t now = clock_monotonic_ns(), nearest = UINT64_MAX;

    if (p->channel)
        nearest = p->look_ns < lock_probe_next_ns(p) ? p->look_ns : lock_probe_next_ns(p);
    bool forks = !p->draining && !p->gateway_gone && p->channel;
    if (forks && p->boots && p->boot_until_ns < nearest)
        nearest = p->boot_until_ns;
    if (forks && p->image)
        nearest = MIN(nearest, images_wake_ns(p));
    for (uint32_t i = 0; i < p->n_seats && forks && !p->boots; i++)
        if (p->seats[i].pid == 0 && p->seats[i].not_before_ns > now &&
            p->seats[i].not_before_ns < nearest)
            nearest = p->seats[i].not_before_ns;
    if (forks)
        nearest = MIN(nearest, MIN(pool_size_next_ns(p), pool_report_next_ns(p)));
    if (nearest == UINT64_MAX)
        return -1;
    return nearest <= now ? 0 : (int)((nearest - now) / NS_PER_MS + 1);
}

/* It could not go back to its image after a request and has said why; another one is forked. */
static bool was_renewed(int status)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == ENGINE_EXIT_RENEW;
}

/* How long the seat stays empty. */
static uint64_t judge_death(struct seat *seat, uint32_t index, int status, uint64_t finished)
{
    if (finished > 0 || was_renewed(status) ||
        (WIFEXITED(status) && WEXITSTATUS(status) == ENGINE_EXIT_OK)) {
        seat->early_deaths = 0;
        return 0;
    }
    if (++seat->early_deaths == 1)
        return 0;
    unsigned doublings = seat->early_deaths - 2 < 7 ? seat->early_deaths - 2 : 7;
    uint64_t ms = (uint64_t)BACKOFF_FIRST_MS << doublings;
    if (ms > BACKOFF_MAX_MS)
        ms = BACKOFF_MAX_MS;
    log_error(
        "crash loop: worker %u died %u times in a row before it finished a request; the next one "
        "starts in %" PRIu64 " ms",
        index, seat->early_deaths, ms);
    return ms * NS_PER_MS;
}

static void worker_ended(struct pool *p, uint32_t index, int status, const struct rusage *usage)
{
    struct seat *seat = &p->seats[index];
    struct channel_worker_info info = { 0 };
    struct control_message m;

    channel_worker_look(p->channel, index, &info);
    if (info.incarnation != seat->incarnation) /* it never attached */
        info = (struct channel_worker_info){ 0 };
    if (status != 0 && !was_renewed(status)) /* before the gateway takes the slot back */
        crash_record(p, index, status, usage);
    if (status != 0)
        lock_probe_want(p);
    pool_report_death(p, seat, status);
    worker_memory_fini(&seat->memory);
    control_message_init(&m, CONTROL_WORKER_DEAD);
    m.pool = p->boot.pool;
    m.generation = p->boot.generation;
    m.worker = index;
    m.incarnation = seat->incarnation;
    m.pid = seat->pid;
    m.status = status;
    m.requests = (uint32_t)info.requests;
    m.ticket = info.ticket;
    m.cause = seat->cause;
    tell_gateway(p, &m, -1);
    if (was_renewed(status))
        control_message_set_text(&m, STR("replaced by a fresh one of its image, as it said above"));
    int rc = control_send(p->supervisor, &m, NULL, 0); /* for the log; it may be busy */
    if (rc < 0 && rc != -EAGAIN)
        log_warn("cannot tell the supervisor of a dead worker: %s", strerror(-rc));
    seat->pid = 0;
    seat->retiring = false;
    if (p->loop.booted)
        atomic_store_explicit(&p->loop.booted[index], 0, memory_order_relaxed);
    seat->not_before_ns = clock_monotonic_ns() + judge_death(seat, index, status, info.requests);
}

static void reap(struct pool *p)
{
    struct rusage usage;
    int status;
    pid_t pid;

    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        if (lock_probe_ended(p, pid, status) || (p->image && images_reaped(p, pid, status)))
            continue;
        for (uint32_t i = 0; i < p->n_seats; i++)
            if (p->seats[i].pid == pid) {
                worker_ended(p, i, status, &usage);
                break;
            }
        for (size_t i = 0; i < p->n_leavers; i++)
            if (p->leavers[i] == pid) {
                p->leavers[i] = p->leavers[--p->n_leavers];
                break;
            }
    }
}

static void signal_workers(struct pool *p, int signo)
{
    for (uint32_t i = 0; i < p->n_seats; i++)
        if (p->seats[i].pid)
            kill(p->seats[i].pid, signo);
    for (size_t i = 0; i < p->n_leavers; i++)
        kill(p->leavers[i], signo);
}

static bool workers_left(const struct pool *p)
{
    for (uint32_t i = 0; i < p->n_seats; i++)
        if (p->seats[i].pid)
            return true;
    return p->n_leavers > 0;
}

/* --- channel ---------------------------------------------------------------------------------- */

/* The black boxes of all seats in one shared mapping; without it crashes leave less. */
static void make_seats(struct pool *p, uint32_t n)
{
    p->n_seats = n;
    p->seats = mem_zalloc(n * sizeof(*p->seats));
    int fd = p->image ? images_share_boxes(p, n * BOX_SPAN) : -1;
    int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
    char *boxes = mmap(NULL, n * BOX_SPAN, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (boxes == MAP_FAILED)
        log_warn("no memory for black boxes (%s): crash records will have no stacks",
                 strerror(errno));
    for (uint32_t i = 0; i < n; i++) {
        p->seats[i].memory = WORKER_MEMORY_NONE;
        p->seats[i].box = boxes == MAP_FAILED ? NULL : (struct box *)(boxes + i * BOX_SPAN);
    }
}

static void free_seats(struct pool *p)
{
    for (uint32_t i = 0; i < p->n_seats; i++) {
        worker_memory_fini(&p->seats[i].memory);
        mem_free(p->seats[i].watch.sample);
    }
    if (p->n_seats && p->seats[0].box)
        munmap(p->seats[0].box, p->n_seats * BOX_SPAN);
    mem_free(p->seats);
}

/* The workers of the channel before finish what they run and see it closed. Nobody looks at them
 * any more: with a request_timeout they have that long from now. */
static void leave_channel(struct pool *p)
{
    if (!p->channel)
        return;
    channel_close(p->channel);
    p->leavers = mem_realloc(p->leavers, (p->n_leavers + p->n_seats) * sizeof(*p->leavers));
    for (uint32_t i = 0; i < p->n_seats; i++)
        if (p->seats[i].pid)
            p->leavers[p->n_leavers++] = p->seats[i].pid;
    deadline_leave(p);
    for (uint32_t i = 0; i < p->n_eventfds; i++)
        fd_close(&p->eventfds[i]);
    channel_unmap(p->channel);
    free_seats(p);
    p->channel = NULL;
    p->seats = NULL;
    p->n_seats = p->n_eventfds = 0;
    fd_close(&p->gateway);
}

/* One flag for each worker, which the workers of this channel see. */
static int share_booted(struct pool *p)
{
    void *flags = mmap(NULL, p->n_seats, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (flags == MAP_FAILED)
        return -errno;
    if (p->loop.booted) /* the workers of the channel before have their own mapping of it */
        munmap((void *)p->loop.booted, p->loop.n_workers);
    p->loop.booted = flags;
    p->loop.n_workers = p->n_seats;
    return 0;
}

/* fds: channel, socket to the gateway, one eventfd per gateway thread. Takes them all. */
static int adopt_channel(struct pool *p, int *fds, size_t n_fds)
{
    struct channel *ch = NULL;
    int rc = n_fds < 3 ? -EPROTO : channel_map(fds[0], &ch);

    leave_channel(p);
    if (rc == 0 && channel_geometry(ch)->threads != n_fds - 2) {
        channel_unmap(ch);
        rc = -EPROTO;
    }
    if (rc < 0) {
        for (size_t i = 0; i < n_fds; i++)
            fd_close(&fds[i]);
        return rc;
    }
    if (p->image)
        images_set_channel(p, fds, n_fds);
    fd_close(&fds[0]);
    p->channel = ch;
    p->gateway = fds[1];
    fcntl(p->gateway, F_SETFL, O_NONBLOCK); /* a stopped gateway must not stop us: tell_gateway */
    p->gateway_gone = false;
    p->n_eventfds = (uint32_t)(n_fds - 2);
    memcpy(p->eventfds, fds + 2, p->n_eventfds * sizeof(int));
    make_seats(p, channel_geometry(ch)->workers);
    pool_size_begin(p);
    p->look_ns = 0;
    return p->loop.script ? share_booted(p) : 0;
}

/* --- events ----------------------------------------------------------------------------------- */

void pool_stop_now(struct pool *p, int status)
{
    signal_workers(p, SIGKILL);
    if (p->image)
        images_end(p);
    if (p->channel)
        channel_close(p->channel);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) /* who sees us gone sees the workers gone */
        continue;
    _exit(status); /* the engine's shared memory is anonymous: the kernel frees it */
}

static void on_supervisor(struct pool *p)
{
    struct control_message m;
    int fds[FDS_MAX] = { -1 };
    size_t n_fds = 0;
    int rc = control_receive(p->supervisor, &m, fds, FDS_MAX, &n_fds);

    if (rc == -EINTR || rc == -EAGAIN)
        return;
    if (rc <= 0) {
        log_error("the supervisor has gone; ending");
        pool_stop_now(p, 1);
    }
    switch (m.type) {
    case CONTROL_CHANNEL:
        rc = adopt_channel(p, fds, n_fds);
        if (rc < 0)
            log_error("the supervisor's channel cannot be used: %s", strerror(-rc));
        p->replaces = m.status || pool_script_is(p); /* classic mode serves meanwhile */
        if (p->boots)
            p->boot_until_ns = clock_monotonic_ns() +
                               (p->replaces || pool_script_is(p) ? BOOT_NEXT_MS : BOOT_FIRST_MS) *
                                   NS_PER_MS;
        return;
    case CONTROL_DRAIN:
        p->draining = true;
        signal_workers(p, SIGQUIT);
        break;
    case CONTROL_STOP: pool_stop_now(p, 0);
    case CONTROL_LOOK:
        observe_answer(p, m.status == CONTROL_LOOK_STACKS   ? OBSERVE_STACK
                          : m.status == CONTROL_LOOK_FRAMES ? OBSERVE_FRAMES
                                                            : 0);
        break;
    case CONTROL_REPORT: pool_report_take(p, control_message_text(&m), fds, n_fds); break;
    case CONTROL_PROFILE: profile_begin(p, &m, &fds[0]); break;
    default: log_warn("message %u is not for a pool process", m.type);
    }
    for (size_t i = 0; i < n_fds; i++)
        fd_close(&fds[i]);
}

static void on_gateway(struct pool *p)
{
    struct control_message m;
    int fd = -1;
    size_t n_fds = 0;
    int rc = control_receive(p->gateway, &m, &fd, 1, &n_fds);

    if (rc == -EINTR || rc == -EAGAIN)
        return;
    fd_close(&fd);
    if (rc <= 0) {
        lose_gateway(p);
        return;
    }
    if (m.type == CONTROL_WORKERS_WANTED) {
        pool_size_asked(p);
        return;
    }
    if (m.type != CONTROL_WORKER_KILL) {
        log_warn("message %u of the gateway is not for a pool process", m.type);
        return;
    }
    for (uint32_t i = 0; i < p->n_seats; i++)
        if (i == m.worker && p->seats[i].pid && p->seats[i].incarnation == m.incarnation) {
            log_warn("worker %u [%d] is ended for the gateway: %.*s", i, (int)p->seats[i].pid,
                     STR_ARG(control_message_text(&m)));
            pool_kill_worker(p, i, CONTROL_CAUSE_GATEWAY);
        }
}

/* The first boot of the worker script is over, or takes too long. A generation that replaces
 * another gives up then, and the old one goes on; one that does not serves all the same: its
 * workers answer 500 and try again. In development the error is what people want to see. */
static void settle_boot(struct pool *p)
{
    char text[1024];

    if (!p->boots || !p->channel)
        return;
    bool booted = p->image ? images_booted(p)
                           : atomic_load_explicit(&p->loop.booted[0], memory_order_relaxed);
    p->boots = false;
    if (!booted && pool_script_is(p))
        pool_script_refuse(p, "it did not get to where it is to be frozen in time");
    if (booted || !p->replaces || p->config->dev) {
        pool_tell_supervisor(p, CONTROL_READY, p->ready_text);
        return;
    }
    snprintf(text, sizeof(text),
             "the worker script %s did not get to its first frankenphp_handle_request() (the lines "
             "above say why)",
             p->loop.script);
    pool_tell_supervisor(p, CONTROL_FAILED, text);
    pool_stop_now(p, 1);
}

static bool is_worker(const struct pool *p, uint32_t pid)
{
    for (uint32_t i = 0; i < p->n_seats; i++)
        if (p->seats[i].pid && (uint32_t)p->seats[i].pid == pid)
            return true;
    return false;
}

/* True, once in a while: it may ask for another generation. */
static bool may_renew(struct pool *p)
{
    uint64_t now = clock_monotonic_ns();

    if (p->draining || (p->renewed_ns && now - p->renewed_ns < RENEW_MIN_MS * NS_PER_MS))
        return false;
    p->renewed_ns = now;
    return true;
}

void pool_renew_memory(struct pool *p, const char *why)
{
    if (may_renew(p))
        pool_tell_supervisor(p, CONTROL_RESTART, why);
}

void pool_renew_image(struct pool *p, const char *what)
{
    if (may_renew(p))
        pool_tell_supervisor(p, CONTROL_IMAGE_OUTDATED, what);
}

static void on_signals(struct pool *p)
{
    struct signalfd_siginfo info;

    while (read(p->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGTERM)
            pool_stop_now(p, 0);
        if (info.ssi_signo == SIGQUIT) {
            p->draining = true;
            signal_workers(p, SIGQUIT);
        }
        if (info.ssi_signo == ENGINE_SIGNAL_RENEW && is_worker(p, info.ssi_pid)) {
            const char *harm = pool_report_harm(p);
            pool_renew_memory(
                p, harm ? harm
                        : "opcache is to be restarted (opcache_reset(), or its memory is full)");
        }
        if (info.ssi_signo == ENGINE_SIGNAL_BOOTED && is_worker(p, info.ssi_pid))
            settle_boot(p);
    }
    reap(p);
    if (p->boots && p->channel && p->seats[0].pid == 0 && p->seats[0].incarnation)
        settle_boot(p); /* it died on the way */
}

static void run(struct pool *p)
{
    while (!p->draining || workers_left(p)) {
        pool_size_look(p);
        pool_report_look(p);
        start_missing(p);
        struct pollfd fds[] = { { p->signals, POLLIN, 0 },
                                { p->supervisor, POLLIN, 0 },
                                { p->gateway, POLLIN, 0 },
                                { images_socket(p), POLLIN, 0 },
                                { profile_timer(p), POLLIN, 0 } };
        deadline_look(p);
        if (lock_probe_look(p)) {
            log_error("a worker died while it held a lock in shared memory (APCu's): nobody gets "
                      "it any more; this generation ends, queued requests go to the next one");
            pool_stop_now(p, ENGINE_EXIT_LOCK);
        }
        if (poll(fds, ARRAY_LENGTH(fds), next_timeout_ms(p)) < 0) {
            CHECKF(errno == EINTR, "poll: %s", strerror(errno));
            continue;
        }
        if (fds[0].revents)
            on_signals(p);
        if (fds[2].revents && p->gateway >= 0)
            on_gateway(p);
        if (fds[3].revents)
            images_event(p);
        if (fds[4].revents)
            profile_tick(p);
        if (fds[1].revents)
            on_supervisor(p);
        bool over = p->image && (images_booted(p) || images_boot_failure(p));
        if (p->boots && p->channel && (over || clock_monotonic_ns() >= p->boot_until_ns))
            settle_boot(p);
    }
    if (p->image)
        images_end(p);
    pool_tell_supervisor(p, CONTROL_DRAINED, NULL);
}

/* --- start ------------------------------------------------------------------------------------ */

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, ENGINE_SIGNAL_RENEW);
    sigaddset(&set, ENGINE_SIGNAL_BOOTED);
    sigaddset(&set, SIGINT); /* Ctrl-C: the supervisor decides */
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    CHECKF(fd >= 0, "signalfd: %s", strerror(errno));
    return fd;
}

static int load_config(struct pool *p, char *message, size_t size)
{
    struct config_errors errors;
    const char *const *overrides = (const char *const *)p->boot.overrides;
    int rc = config_load(str_from(p->boot.config_name),
                         (struct str){ p->boot.config_text, p->boot.config_text_bytes }, overrides,
                         str_from(p->boot.base_dir), &p->config, &errors);

    if (rc < 0) {
        snprintf(message, size, "the configuration cannot be read: %s",
                 errors.n ? config_error_line(p->config, &errors.v[0]) : strerror(-rc));
        return rc;
    }
    if (p->boot.pool >= p->config->n_seats) {
        snprintf(message, size, "pool %u is not in the configuration", p->boot.pool);
        return -EINVAL;
    }
    p->conf = &p->config->pools[p->boot.pool];
    return 0;
}

static void init_loop(struct pool *p)
{
    char *script = mem_strndup(p->conf->worker_script), *resolved = realpath(script, NULL);
    struct str root = str_from(p->boot.document_root);

    /* A script that is not there is no reason not to start: the workers say so and try again. */
    p->loop.script = resolved ? mem_strdup(resolved) : mem_strdup(script);
    p->loop.script_name = config_script_name(str_from(p->loop.script), root).p;
    p->loop.document_root = p->boot.document_root;
    p->loop.show_errors = p->config->dev;
    p->loop.report_leaks = p->conf->worker_report_leaks;
    free(resolved);
    mem_free(script);
}

/* For the supervisor's log: which PHP, and where its settings came from. */
static void describe_engine(const struct pool *p, const struct php_probe *probe, char *text,
                            size_t size)
{
    const char *ini, *scanned;
    unsigned files = 0;

    p->engine->ini_files(&ini, &scanned);
    for (const char *c = scanned; *c; c++)
        files += *c == ',';
    snprintf(text, size, "%s: PHP %s (%s); php.ini: %s, and %u more files%s%s",
             p->settings.options.role, probe->version, probe->path, *ini ? ini : "none found",
             *scanned ? files + 1 : 0, *scanned ? " in " : "",
             *scanned && p->settings.options.ini_scan_dir ? p->settings.options.ini_scan_dir : "");
}

/* `message`: what to tell the supervisor, good or bad. */
static int start_engine(struct pool *p, char *message, size_t size)
{
    static char role[64];
    struct php_library lib;
    enum log_level least = LOG_NOTICE;

    int rc = load_config(p, message, size);
    if (rc < 0)
        return rc;
    snprintf(role, sizeof(role), "%.*s g%u", STR_ARG(p->conf->name), p->boot.generation);
    (void)log_level_parse(p->config->log.level, &least);
    log_init(role, STDERR_FILENO, least);
    surroundings_warn(p->conf);
    if (config_pool_has_image(p->conf)) {
        rc = images_prepare(p);
        if (rc < 0) {
            snprintf(message, size, "%s not possible in this process: %s; %s",
                     pool_script_is(p) ? "images are" : "worker.isolation = \"rollback\" is",
                     strerror(-rc),
                     pool_script_is(p) ? "max_images = 0 asks for none" : "\"none\" is");
            return rc;
        }
    }
    rc = library_load(p->conf->libphp_path, &lib, message, size);
    if (rc < 0)
        return rc;
    settings_init(&p->settings, p->conf, &lib.probe);
    if (p->conf->kind == CONFIG_POOL_LOOP)
        init_loop(p);
    if (pool_script_is(p)) {
        rc = pool_script_init(p);
        if (rc < 0) {
            snprintf(message, size, "no memory for an image: %s", strerror(-rc));
            return rc;
        }
    }
    p->settings.options.role = role;
    p->settings.options.log_least = least;
    p->engine = lib.engine;
    rc = p->engine->start(&p->settings.options, message, size);
    if (rc == 0) {
        p->layout = p->engine->layout();
        p->probe.is_useful = p->engine->can_probe();
        p->oom_kills = oom_count();
        worker_memory_find_shared();
    }
    if (rc == 0)
        describe_engine(p, &lib.probe, message, size);
    return rc;
}

int pool_main(void)
{
    struct pool *p = mem_zalloc(sizeof(*p));
    char message[2048] = "";

    log_init("pool", STDERR_FILENO, LOG_NOTICE);
    p->supervisor = CONTROL_SUPERVISOR_FD;
    p->gateway = -1;
    fcntl(CONTROL_SUPERVISOR_FD, F_SETFD, FD_CLOEXEC);
    int rc = control_boot_unpack(CONTROL_BOOT_FD, &p->boot);
    close(CONTROL_BOOT_FD);
    if (rc < 0) {
        log_error(
            "`sapid @pool` is started by `sapid serve` only (no boot text on descriptor %d: %s)",
            CONTROL_BOOT_FD, strerror(-rc));
        return 2;
    }
    control_die_with_parent(p->boot.parent_pid, SIGKILL);
    proctitle_init();
    proctitle_set("sapid: pool");
    prctl(PR_SET_NAME, "sapid-pool");
    p->signals = open_signals();
    rc = start_engine(p, message, sizeof(message));
    prctl(PR_SET_DUMPABLE, 0); /* it holds the ways into its workers' memory */
    if (rc < 0) {
        pool_tell_supervisor(p, CONTROL_FAILED, message);
        return 1;
    }
    proctitle_set("sapid: pool %.*s g%u", STR_ARG(p->conf->name), p->boot.generation);
    p->boots = p->loop.script != NULL;
    if (p->boots)
        memcpy(p->ready_text, message, sizeof(p->ready_text));
    else
        pool_tell_supervisor(p, CONTROL_READY, message);
    run(p);
    return 0;
}
