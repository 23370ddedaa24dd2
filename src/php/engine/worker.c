/*
 * A worker process: forked by the pool process after the engine has started, takes one request
 * after another from the channel until that ends, the limit of requests is reached or the engine is
 * in doubt.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

static struct live own OF_REQUEST;
struct live *live = &own;
static bool is_copy OF_REQUEST; /* made by a script's pcntl_fork() */

/* For signals that go to a terminal's whole process group, where the supervisor decides. Not
 * ignored: programs that a script runs would ignore them, too, whoever sends them. */
static void on_others_business(int signo)
{
    (void)signo;
}

static void leave_to_the_supervisor(int signo)
{
    struct sigaction sa = { .sa_handler = on_others_business, .sa_flags = SA_RESTART };

    sigaction(signo, &sa, NULL);
}

static void take_as_any_process(int signo)
{
    struct sigaction sa;

    if (sigaction(signo, NULL, &sa) == 0 && sa.sa_handler == on_others_business)
        signal(signo, SIG_DFL);
}

static sigset_t mask_of_parent;

/* What is sent to a child before it is one must wait until then. */
static void before_fork(void)
{
    sigset_t held;

    sigemptyset(&held);
    sigaddset(&held, SIGINT);
    sigaddset(&held, SIGHUP);
    sigprocmask(SIG_BLOCK, &held, &mask_of_parent);
}

static void after_fork(void)
{
    sigprocmask(SIG_SETMASK, &mask_of_parent, NULL);
}

/* libphp-embed has pcntl. A copy of a worker must never speak in the worker's name: it loses the
 * channel, runs the script to its end without output, and exits. */
static void in_child(void)
{
    is_copy = true;
    live = &own;
    own.channel = NULL;
    request.worker = NULL;
    take_as_any_process(SIGINT);
    take_as_any_process(SIGHUP);
    after_fork();
    loop_after_fork();
}

bool worker_is_copy(void)
{
    return is_copy;
}

void worker_be_audit(void)
{
    is_copy = false;
}

bool worker_drains(void)
{
    return live->drains;
}

static void on_drain(int signo)
{
    (void)signo;
    live->drains = 1;
    if (!live->channel ||
        loop_is_idle_in_boot()) /* not yet granted, or no request here: nothing to finish */
        _exit(ENGINE_EXIT_OK);
    channel_worker_drain(live->channel);
}

/* The pool process says "finish" by SIGQUIT, as FPM's master does. SIGTERM ends at once. */
static void take_signals(void)
{
    struct sigaction drain = { .sa_handler = on_drain, .sa_flags = SA_RESTART },
                     plain = { .sa_handler = SIG_DFL };
    struct sigaction ignore = { .sa_handler = SIG_IGN };
    sigset_t none;

    sigfillset(&drain.sa_mask);
    sigaction(SIGQUIT, &drain, NULL);
    sigaction(SIGTERM, &plain, NULL);
    leave_to_the_supervisor(SIGINT);
    leave_to_the_supervisor(SIGHUP);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGCHLD, &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void set_environment(const struct engine_worker *w)
{
    if (w->clear_env)
        clearenv();
    for (size_t i = 0; i < w->n_env; i++)
        setenv(w->env[i].name, w->env[i].value, 1);
    tzset();
}

void worker_note_cost(struct channel_worker *w)
{
    enum { MEASURED_NS = 1000000 };
    static uint64_t base_ns; /* processor time at the end of the request before, 0: not known */
    uint64_t cpu_ns = 0;
    struct timespec ts;

    /* The processor's clock is a system call: only requests of a millisecond and more pay for it,
     * and those that follow such a one have their beginning measured, too. */
    if (clock_monotonic_ns() - channel_worker_started_ns(w) < MEASURED_NS) {
        base_ns = 0;
    } else if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) == 0) {
        uint64_t now = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
        cpu_ns = base_ns ? now - base_ns : 0;
        base_ns = now;
    }
    channel_worker_note(w, cpu_ns, request.memory_peak);
}

/* False: this process must not take another request. */
static bool serve_one(struct channel_worker *w)
{
    int rc = request_take(w);
    bool healthy = true;

    if (rc == 0) {
        healthy = script_run(request.view.script_filename.p);
        if (unlikely(is_copy))
            _exit(EG(exit_status));
        request_finish();
    } else {
        log_error("a request could not be read from the channel: %s", strerror(-rc));
        if (channel_respond(w, CHANNEL_HEAD, 500, NULL, 0) < 0 ||
            channel_respond(w, CHANNEL_END, 0, NULL, 0) < 0)
            log_info("its client had gone already");
    }
    worker_note_cost(w);
    channel_worker_done(w);
    return healthy;
}

int worker_attach(const struct engine_worker *w, struct channel_worker **ret)
{
    int rc;

    do {
        rc = channel_worker_attach(w->channel, w->index, w->incarnation, w->eventfds,
                                   &live->channel);
    } while (rc == -EINTR);
    if (rc < 0 && rc != -ESHUTDOWN)
        log_error("cannot attach to the channel: %s", strerror(-rc));
    *ret = live->channel;
    return rc;
}

void worker_begin(const struct engine_worker *w)
{
    log_init(w->role, 2, w->log_least);
    request.root = w->chroot;
    sendfile_worker_start(w);
    status_worker_start(w);
    set_environment(w);
    compat_child_init();
    take_signals();
    compat_signal_startup(); /* our handlers are what a script's pcntl_signal() gives way to at its
                                end */
    compat_signal_keep_ours();
    CHECK(pthread_atfork(before_fork, after_fork, in_child) == 0);
    timeout_worker_start();
    deadline_worker_start();
    blackbox_worker_start(w->box);
}

int worker_run(const struct engine_worker *w)
{
    struct channel_request *view = &request.view;
    struct channel_worker *worker = NULL;
    uint64_t served = 0;

    worker_begin(w);
    live->max_requests = w->max_requests;
    body_set_socket(w->sock, w->index, w->incarnation);
    if (w->loop) {
        int status = w->boot_failure ? loop_answer_failures(w) : loop_run(w);
        if (live->channel)
            channel_worker_detach(live->channel);
        return status;
    }
    int rc = worker_attach(w, &worker);
    if (rc < 0)
        return rc == -ESHUTDOWN ? ENGINE_EXIT_OK : ENGINE_EXIT_CHANNEL;
    while (w->max_requests == 0 || served < w->max_requests) {
        rc = channel_worker_next(worker, UINT64_MAX, view);
        if (rc == -EINTR || rc == -ETIMEDOUT)
            continue;
        if (rc == -ESHUTDOWN)
            return ENGINE_EXIT_OK;
        if (rc < 0) {
            log_error("cannot take a request: %s", strerror(-rc));
            return ENGINE_EXIT_CHANNEL;
        }
        if (!serve_one(worker))
            return ENGINE_EXIT_UNHEALTHY;
        served++;
    }
    return ENGINE_EXIT_OK;
}
