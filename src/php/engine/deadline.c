/*
 * request_timeout, the worker's part. The pool process watches the clock and sends a signal when
 * the request of this worker has reached its limit; the signal names the request, so that one that
 * has just ended does not cost the next one its life.
 *
 * The signal does what the end of max_execution_time does: the engine stops at its next look
 * (between two statements, in a loop, after a call), and PHP's own fatal error ends the script,
 * with shutdown functions, destructors and the output so far. It has no SA_RESTART, and is repeated
 * until the engine has looked, so that system calls in which the script waits are interrupted, also
 * when one begins between the signal and the look. What does not come back within
 * request_timeout_grace is killed.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>

enum { NOT_YET, WANTED, DONE };

static struct {
    volatile sig_atomic_t state;
    uint64_t ticket; /* of the present request; 0: none */
    uint64_t limit_ms;
    void (*next)(zend_execute_data *execute_data); /* pcntl's */
} deadline OF_REQUEST;

static uint64_t ticket_word(struct channel_ticket t)
{
    return (uint64_t)t.slot << 32 | t.seq;
}

static void on_deadline(int signo, siginfo_t *info, void *context)
{
    int saved = errno;

    (void)signo;
    (void)context;
    if (info->si_code == SI_QUEUE && deadline.ticket &&
        (uint64_t)(uintptr_t)info->si_value.sival_ptr == deadline.ticket &&
        deadline.state != DONE) {
        if (deadline.state == WANTED) /* the engine has not looked since: stuck in C */
            blackbox_note_place();
        deadline.state = WANTED;
        zend_atomic_bool_store_ex(&EG(vm_interrupt), true);
    }
    errno = saved;
}

/* As zend_timeout(). Monitoring knows PHP's text; what is added says which limit it was. */
static void interrupted(zend_execute_data *execute_data)
{
    if (deadline.state == WANTED && request.active) {
        deadline.state = DONE;
        if (zend_on_timeout)
            zend_on_timeout((int)(deadline.limit_ms / 1000));
        if (!request.head_sent && SG(sapi_headers).http_response_code == 200)
            SG(sapi_headers).http_response_code = 504;
        zend_error_noreturn(E_ERROR,
                            "Maximum execution time of %" PRIu64 ".%03u seconds exceeded "
                            "(request_timeout, wall-clock time)",
                            deadline.limit_ms / 1000, (unsigned)(deadline.limit_ms % 1000));
    }
    if (deadline.next)
        deadline.next(execute_data);
}

void deadline_install(void)
{
    deadline.next = zend_interrupt_function;
    zend_interrupt_function = interrupted;
}

void deadline_worker_start(void)
{
    struct sigaction action = { .sa_sigaction = on_deadline, .sa_flags = SA_SIGINFO | SA_ONSTACK };

    sigemptyset(&action.sa_mask);
    if (sigaction(ENGINE_SIGNAL_DEADLINE, &action, NULL) < 0)
        log_error("no handler for request_timeout (%s): requests beyond it are killed at once",
                  strerror(errno));
}

void deadline_request_start(void)
{
    deadline.state = NOT_YET;
    deadline.limit_ms = request.view.limit_ms;
    if (request.worker)
        deadline.ticket = ticket_word(channel_worker_ticket(request.worker));
}

bool deadline_has_passed(void)
{
    return deadline.state != NOT_YET;
}

void deadline_request_end(void)
{
    deadline.ticket = 0;
    deadline.state = NOT_YET;
}
