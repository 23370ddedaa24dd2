/*
 * The worker's side of its black box (php/box.h): it notes each request, and when the process
 * crashes, its signal handler notes where PHP and C were.
 *
 * The handler runs on a stack of its own, so that a stack overflow can be told; it allocates
 * nothing and takes no lock. What it reads may be what the crash has destroyed: a second crash, in
 * the handler, goes on with its next step, and a third one ends the process. Then the signal is
 * raised again with its default action, so that the wait status tells it.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/clock.h"
#include "php/box.h"

enum {
    HANDLER_STACK = 128 << 10,
    OVERFLOW_REACH = 64 << 10, /* a big frame steps over this much of the guard */
};

static const int crash_signals[] = { SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGSYS, SIGTRAP };

static struct {
    struct box *box; /* NULL: none */
    pid_t pid;       /* a script's pcntl_fork() has no box */
    bool in_request;
    volatile sig_atomic_t in_handler;
    sigjmp_buf next_step;
    uint64_t stack_top; /* highest address of the process's stack */
} here OF_REQUEST;

/* --- requests --------------------------------------------------------------------------------- */

static void put_text(char *to, size_t size, struct str s)
{
    size_t n = s.n < size - 1 ? s.n : size - 1;

    if (n)
        memcpy(to, s.p, n);
    to[n] = '\0';
}

void blackbox_request_begins(void)
{
    struct box *b = here.box;

    if (!b)
        return;
    uint64_t n = atomic_load_explicit(&b->begun, memory_order_relaxed);
    struct box_request *r = &b->requests[n % BOX_REQUESTS];
    here.in_request = true;
    if (b->wants_cpu)
        atomic_store_explicit(&b->cpu_at_start_ns, clock_cpu_ns(), memory_order_relaxed);
    r->began_ns = request.view.received_ns;
    r->duration_ns = 0;
    r->status = 0;
    put_text(r->method, sizeof(r->method), request.view.method);
    put_text(r->id, sizeof(r->id), request.view.request_id);
    put_text(r->target, sizeof(r->target), request.view.target);
    /* Release: partner is the acquire in box readers; the entry is whole when it counts. */
    atomic_store_explicit(&b->begun, n + 1, memory_order_release);
}

void blackbox_request_ends(uint16_t status)
{
    struct box *b = here.box;

    if (!b || !here.in_request) /* the boot of a worker script is none */
        return;
    here.in_request = false;
    uint64_t n = atomic_load_explicit(&b->begun, memory_order_relaxed);
    struct box_request *r = &b->requests[(n - 1) % BOX_REQUESTS];
    r->status = status;
    r->duration_ns = clock_monotonic_ns() - request.view.claimed_ns;
}

/* --- the handler ------------------------------------------------------------------------------ */

static bool read_own(void *ctx, uint64_t address, void *into, size_t n)
{
    (void)ctx;
    memcpy(into, (const void *)(uintptr_t)address, n); /* if it is not there: the next step */
    return true;
}

static void note_signal(struct box_crash *c, int signo, const siginfo_t *info,
                        const ucontext_t *context)
{
    struct rlimit limit;

    c->signal = signo;
    c->code = info->si_code;
    bool is_sent = info->si_code <= 0; /* by kill() or raise(), not by the processor */
    c->sender = is_sent ? info->si_pid : 0;
    if (!is_sent && (signo == SIGSEGV || signo == SIGBUS || signo == SIGFPE || signo == SIGILL))
        c->address = (uint64_t)(uintptr_t)info->si_addr;
#if defined(__x86_64__)
    c->instruction = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
    c->stack_pointer = (uint64_t)context->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    c->instruction = context->uc_mcontext.pc;
    c->stack_pointer = context->uc_mcontext.sp;
#endif
    c->time_ns = clock_realtime_ns();
    /* Touched next to the stack pointer, and that near the end of what the stack may grow to. */
    uint64_t gap = c->address > c->stack_pointer ? c->address - c->stack_pointer
                                                 : c->stack_pointer - c->address;
    c->is_overflow = signo == SIGSEGV && gap <= OVERFLOW_REACH &&
                     getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
                     here.stack_top > c->stack_pointer &&
                     here.stack_top - c->stack_pointer + 8 * OVERFLOW_REACH >= limit.rlim_cur;
    atomic_store_explicit(&c->phase, BOX_SIGNAL, memory_order_release);
}

static void note_stacks(struct box_crash *c)
{
    struct stack_memory own = { read_own, NULL };

    if (sigsetjmp(here.next_step, 1) == 0) {
        c->php.n_frames = 0;
        php_stack_read(layout_get(), &own, PHP_STACK_FRAMES, &c->php);
    }
    atomic_store_explicit(&c->phase, BOX_PHP, memory_order_release);
    here.in_handler = 2;
    if (sigsetjmp(here.next_step, 1) == 0) {
        int n = backtrace((void **)c->addresses, BOX_ADDRESSES);
        c->n_addresses = n > 0 ? (uint32_t)n : 0;
    }
    atomic_store_explicit(&c->phase, BOX_C, memory_order_release);
}

static NORETURN void die_by(int signo)
{
    struct sigaction plain = { .sa_handler = SIG_DFL };
    sigset_t only;

    sigaction(signo, &plain, NULL);
    sigemptyset(&only);
    sigaddset(&only, signo);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signo);
    _exit(128 + signo);
}

static void on_crash(int signo, siginfo_t *info, void *context)
{
    struct box *b = here.box;

    if (!b || getpid() != here.pid)
        die_by(signo);
    if (here.in_handler) { /* the crash of the crash handler */
        b->crash.second_signal = (uint32_t)signo;
        if (here.in_handler > 2 || info->si_code <= 0)
            die_by(b->crash.signal);
        siglongjmp(here.next_step, 1);
    }
    here.in_handler = 1;
    note_signal(&b->crash, signo, info, context);
    note_stacks(&b->crash);
    here.in_handler = 3;
    die_by(signo);
}

void blackbox_note_place(void)
{
    struct box *b = here.box;

    if (!b || getpid() != here.pid || here.in_handler)
        return;
    int n = backtrace((void **)b->crash.addresses, BOX_ADDRESSES);
    b->crash.n_addresses = n > 0 ? (uint32_t)n : 0;
}

/* exit() in C code, as the memory manager does when its heap is damaged. The server itself leaves
 * by _exit(). */
static void on_exit_call(int status, void *arg)
{
    struct box *b = here.box;

    (void)arg;
    if (!b || getpid() != here.pid || here.in_handler)
        return;
    here.in_handler = 1;
    b->crash.signal = 0;
    b->crash.status = status;
    b->crash.time_ns = clock_realtime_ns();
    note_stacks(&b->crash);
    _exit(status ? status : ENGINE_EXIT_UNHEALTHY);
}

/* --- start ------------------------------------------------------------------------------------ */

static bool use_own_stack(void)
{
    long page = sysconf(_SC_PAGESIZE);
    size_t size = HANDLER_STACK + (size_t)page;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return false;
    mprotect(memory, (size_t)page, PROT_NONE);
    stack_t stack = { .ss_sp = memory + page, .ss_size = HANDLER_STACK };
    return sigaltstack(&stack, NULL) == 0;
}

static void find_stack_top(void)
{
    pthread_attr_t attr;
    void *low;
    size_t size;

    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    if (pthread_attr_getstack(&attr, &low, &size) == 0)
        here.stack_top = (uint64_t)(uintptr_t)low + size;
    pthread_attr_destroy(&attr);
}

void blackbox_resume(struct box *b, pid_t pid)
{
    here.box = b;
    here.pid = pid;
}

void blackbox_worker_start(struct box *b)
{
    struct sigaction action = { .sa_sigaction = on_crash,
                                .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    void *one[1];

    if (!b && !rollback_is_on()) /* workers forked from a frozen process have one later */
        return;
    here.box = b;
    here.pid = getpid();
    find_stack_top();
    (void)backtrace(one, 1); /* loads the unwinder now, not in the handler */
    (void)layout_get();
    sigemptyset(&action.sa_mask);
    bool ready = use_own_stack();
    for (size_t i = 0; ready && i < ARRAY_LENGTH(crash_signals); i++)
        ready = sigaction(crash_signals[i], &action, NULL) == 0;
    if (!ready)
        log_warn("no crash handler (%s): crashes leave no stack", strerror(errno));
    on_exit(on_exit_call, NULL);
}
