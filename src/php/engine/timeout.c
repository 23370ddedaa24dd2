/*
 * max_execution_time, max_input_time and hard_timeout, with their meaning (CPU time of the process,
 * PHP's own error) but without PHP's three setitimer calls per request.
 *
 * One POSIX timer per worker ticks every TICK_MS of CPU time; an idle worker gets no ticks. A tick
 * only counts, and when the request's count is full, does what the engine's own timer signal does.
 * The error comes up to one tick late, never early.
 *
 * The engine is kept from arming its timer by two facts: EG(timeout_seconds) is 0 outside of an
 * expired request, and both ini settings are handled here (on_modify), so set_time_limit() and
 * ini_set() reach us.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 100, TICKS_PER_S = 1000 / TICK_MS };

static struct {
    zend_long execution_s; /* max_execution_time now */
    zend_long input_s;     /* max_input_time now; -1: max_execution_time counts */
    zend_long running_s;   /* what the current phase is limited to, 0: not */
    volatile sig_atomic_t counting;
    volatile unsigned long ticks, limit; /* limit 0: none */
} clock_ OF_REQUEST;

static int timer = -1; /* the kernel's number; of this process: a forked one has none */

static void count_towards(zend_long seconds)
{
    clock_.counting = 0;
    clock_.running_s = seconds;
    clock_.ticks = 0;
    clock_.limit = seconds > 0 && seconds < 1000000000 ? (unsigned long)seconds * TICKS_PER_S + 1
                                                       : 0;
    clock_.counting = 1;
}

/* The script did not come back to the interpreter within hard_timeout (stuck in a C function): PHP
 * ends the process, and so do we. Only async-signal-safe calls. */
static void die_hard(void)
{
    static const char before[] = "request ";
    static const char after[] =
        ": PHP Fatal error:  Maximum execution time exceeded, and hard_timeout too; "
        "worker terminated\n";
    struct iovec line[] = { { (char *)before, sizeof(before) - 1 },
                            { (char *)request.view.request_id.p, request.view.request_id.n },
                            { (char *)after, sizeof(after) - 1 } };
    ssize_t n = writev(STDERR_FILENO, line, ARRAY_LENGTH(line));

    (void)n;
    _exit(ENGINE_EXIT_TIMEOUT);
}

static void on_tick(int signo)
{
    (void)signo;
    if (!clock_.counting || clock_.limit == 0 || ++clock_.ticks < clock_.limit)
        return;
    if (zend_atomic_bool_load_ex(&EG(timed_out)))
        die_hard();
    EG(timeout_seconds) = clock_.running_s; /* the error message reads it */
    if (zend_on_timeout)
        zend_on_timeout((int)clock_.running_s); /* connection_status() reads what it notes */
    zend_atomic_bool_store_ex(&EG(timed_out), true);
    zend_atomic_bool_store_ex(&EG(vm_interrupt), true);
    clock_.ticks = 0;
    clock_.limit = EG(hard_timeout) > 0 ? (unsigned long)EG(hard_timeout) * TICKS_PER_S : 0;
}

static ZEND_INI_MH(on_execution_time)
{
    (void)entry;
    (void)mh_arg1;
    (void)mh_arg2;
    (void)mh_arg3;
    clock_.execution_s = ZEND_STRTOL(ZSTR_VAL(new_value), NULL, 10);
    if (stage != PHP_INI_STAGE_DEACTIVATE && stage != PHP_INI_STAGE_STARTUP && clock_.counting)
        count_towards(clock_.execution_s);
    return SUCCESS;
}

static ZEND_INI_MH(on_input_time)
{
    (void)entry;
    (void)mh_arg1;
    (void)mh_arg2;
    (void)mh_arg3;
    (void)stage;
    clock_.input_s = ZEND_STRTOL(ZSTR_VAL(new_value), NULL, 10);
    return SUCCESS;
}

static zend_long take_over(const char *name, ZEND_INI_MH((*handler)))
{
    zend_ini_entry *e = zend_hash_str_find_ptr(EG(ini_directives), name, strlen(name));

    CHECKF(e, "the engine has no ini setting %s", name);
    e->on_modify = handler;
    return e->value ? ZEND_STRTOL(ZSTR_VAL(e->value), NULL, 10) : 0;
}

void timeout_install(void)
{
    clock_.execution_s = take_over("max_execution_time", on_execution_time);
    clock_.input_s = take_over("max_input_time", on_input_time);
    EG(timeout_seconds) = 0;
    PG(max_input_time) = -1;
}

void timeout_worker_start(void)
{
    struct sigaction sa = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1 };
    struct itimerspec every = { .it_interval = { 0, TICK_MS * 1000000L },
                                .it_value = { 0, TICK_MS * 1000000L } };

    sigfillset(&sa.sa_mask);
    /* The bare system calls: libc's timer_create() keeps memory of it, which a rollback undoes. */
    if (sigaction(SIGRTMIN + 1, &sa, NULL) < 0 ||
        syscall(SYS_timer_create, CLOCK_PROCESS_CPUTIME_ID, &event, &timer) < 0 ||
        syscall(SYS_timer_settime, timer, 0, &every, NULL) < 0)
        log_error("no timer for max_execution_time (%s): scripts run without that limit",
                  strerror(errno));
    else if (snapshot_is_prepared())
        snapshot_keep_timer(timer);
}

void timeout_worker_stop(void)
{
    syscall(SYS_timer_delete, timer);
}

void timeout_request_start(void)
{
    EG(timeout_seconds) = 0;
    PG(max_input_time) = -1;
    count_towards(clock_.input_s == -1 ? clock_.execution_s : clock_.input_s);
}

void timeout_script_start(void)
{
    if (clock_.input_s != -1 || clock_.running_s != clock_.execution_s)
        count_towards(clock_.execution_s);
}

void timeout_request_end(void)
{
    clock_.counting = 0;
    EG(timeout_seconds) = 0;
    zend_atomic_bool_store_ex(&EG(timed_out), false);
}
