/*
 * The event loop: what is delivered, in what order, and above all what is not: events of a watch
 * that was removed or freed by an earlier callback of the same batch.
 */
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "test.h"

static struct loop *loop;

/* One end of a socket pair in the loop, the other end in the test's hand. */
struct end {
    struct loop_watch watch;
    int ours, peer;
    unsigned calls, events;
    void (*then)(struct end *e);
    struct end *other;
};

static void on_ready(struct loop_watch *w, unsigned events)
{
    struct end *e = CONTAINER_OF(w, struct end, watch);
    e->calls++;
    e->events = events;
    if (e->then)
        e->then(e);
}

static struct end *end_new(unsigned events)
{
    static struct end pool[512];
    static unsigned used;
    int pair[2];

    CHECK(used < ARRAY_LENGTH(pool));
    struct end *e = &pool[used++];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    e->ours = pair[0];
    e->peer = pair[1];
    EXPECT_INT(loop_watch_add(loop, &e->watch, e->ours, events, on_ready), 0);
    return e;
}

static void poke(const struct end *e)
{
    CHECK(write(e->peer, "x", 1) == 1);
}

static void loop_begin(void)
{
    CHECK(loop_new(&loop) == 0);
}

TEST(reports_readable_and_writable)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    loop_turn(loop, 0);
    EXPECT_INT(e->calls, 0);
    poke(e);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->calls, 1);
    EXPECT_INT(e->events, LOOP_READ);
    EXPECT_INT(loop_watch_change(loop, &e->watch, LOOP_READ | LOOP_WRITE), 0);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->events, LOOP_READ | LOOP_WRITE);
    EXPECT_INT(loop_watch_change(loop, &e->watch, LOOP_WRITE), 0);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->events, LOOP_WRITE);
}

TEST(edge_triggered_reports_once_per_arrival)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ | LOOP_EDGE);
    poke(e);
    loop_turn(loop, UINT64_MAX);
    loop_turn(loop, 0);
    EXPECT_INT(e->calls, 1);
    poke(e);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->calls, 2);
}

TEST(peer_close_is_readable_and_hangup)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    close(e->peer);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->events, LOOP_READ | LOOP_HANGUP);
}

TEST(half_close_is_readable_and_hangup)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    CHECK(shutdown(e->peer, SHUT_WR) == 0);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->events, LOOP_READ | LOOP_HANGUP);
}

TEST(half_close_does_not_spin_a_watch_that_asks_for_nothing)
{
    loop_begin();
    struct end *e = end_new(0);
    CHECK(shutdown(e->peer, SHUT_WR) == 0);
    loop_turn(loop, 0);
    EXPECT_INT(e->calls, 0);
}

TEST(full_close_reaches_a_watch_that_asks_for_nothing)
{
    loop_begin();
    struct end *e = end_new(0);
    close(e->peer);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->events, LOOP_HANGUP);
}

TEST(add_of_a_bad_descriptor_is_an_error_and_leaves_no_watch)
{
    struct loop_watch w;
    loop_begin();
    EXPECT_INT(loop_watch_add(loop, &w, 1000000, LOOP_READ, on_ready), -EBADF);
    EXPECT_INT(w.fd, -1);
    loop_watch_remove(loop, &w);
}

TEST(remove_is_idempotent_and_takes_a_zeroed_watch)
{
    struct loop_watch zeroed = { 0 };
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    loop_watch_remove(loop, &zeroed);
    loop_watch_close(loop, &zeroed);
    EXPECT_INT(zeroed.fd, -1);
    loop_watch_remove(loop, &e->watch);
    loop_watch_remove(loop, &e->watch);
    poke(e);
    loop_turn(loop, 0);
    EXPECT_INT(e->calls, 0);
    EXPECT_INT(write(e->ours, "x", 1), 1); /* the descriptor is open still */
}

TEST(close_removes_and_closes)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    int fd = e->ours;
    poke(e);
    loop_watch_close(loop, &e->watch);
    EXPECT_INT(e->watch.fd, -1);
    EXPECT_INT(fcntl(fd, F_GETFD), -1);
    loop_turn(loop, 0);
    EXPECT_INT(e->calls, 0);
}

static void remove_other(struct end *e)
{
    loop_watch_remove(loop, &e->other->watch);
    close(e->other->ours);
    memset(e->other, 0xa5, sizeof(*e->other)); /* as a freed and reused block */
}

TEST(event_fetched_for_a_removed_watch_is_not_delivered)
{
    loop_begin();
    struct end *a = end_new(LOOP_READ), *b = end_new(LOOP_READ);
    a->other = b, b->other = a;
    a->then = b->then = remove_other;
    poke(a);
    poke(b);
    loop_turn(loop, UINT64_MAX);
    /* Whichever came first has overwritten the other, and was not called twice. */
    struct end *first = a->calls == 1 ? a : b;
    EXPECT_INT(first->calls, 1);
    EXPECT_INT(first->other->calls, 0xa5a5a5a5u);
    loop_turn(loop, 0);
    EXPECT_INT(first->calls, 2);
}

static void add_other_again(struct end *e)
{
    loop_watch_remove(loop, &e->other->watch);
    EXPECT_INT(loop_watch_add(loop, &e->other->watch, e->other->ours, LOOP_READ, on_ready), 0);
    e->then = NULL;
    e->other->then = NULL;
}

TEST(event_of_a_watch_removed_and_added_again_comes_in_the_next_turn)
{
    loop_begin();
    struct end *a = end_new(LOOP_READ), *b = end_new(LOOP_READ);
    a->other = b, b->other = a;
    a->then = b->then = add_other_again;
    poke(a);
    poke(b);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(a->calls + b->calls, 1);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(a->calls + b->calls, 3);
}

static void stop_reading_other(struct end *e)
{
    EXPECT_INT(loop_watch_change(loop, &e->other->watch, 0), 0);
    e->then = e->other->then = NULL;
}

TEST(event_no_longer_asked_for_is_not_delivered)
{
    loop_begin();
    struct end *a = end_new(LOOP_READ), *b = end_new(LOOP_READ);
    a->other = b, b->other = a;
    a->then = b->then = stop_reading_other;
    poke(a);
    poke(b);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(a->calls + b->calls, 1);
}

static void free_self(struct end *e)
{
    loop_watch_close(loop, &e->watch);
    close(e->peer);
    memset(e, 0xa5, sizeof(*e)); /* as a freed and reused block */
}

TEST(callback_may_free_its_own_watch)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    e->then = free_self;
    poke(e);
    loop_turn(loop, UINT64_MAX);
    loop_turn(loop, 0);
}

/* More ready descriptors than one epoll_wait fetches: all are served, each watch removes another.
 */
TEST(removal_in_large_batches_delivers_each_live_event_once)
{
    enum { N = 400 };
    static struct end *ends[N];

    loop_begin();
    for (int i = 0; i < N; i++) {
        ends[i] = end_new(LOOP_READ | LOOP_EDGE);
        poke(ends[i]);
    }
    for (int i = 0; i < N; i += 2)
        loop_watch_remove(loop, &ends[i]->watch);
    for (int turn = 0; turn < 8; turn++)
        loop_turn(loop, 0);
    for (int i = 0; i < N; i++)
        EXPECT_INT(ends[i]->calls, i % 2);
}

/* Timers. Deadlines lie in the past or far ahead, so that no test depends on the machine's speed.
 */
struct tick {
    struct loop_timer timer;
    unsigned fired;
    unsigned order;
    struct tick *cancels;
};

static unsigned ticks;

static void on_tick(struct loop_timer *t)
{
    struct tick *k = CONTAINER_OF(t, struct tick, timer);
    k->fired++;
    k->order = ++ticks;
    EXPECT_INT(t->deadline_ns, 0);
    if (k->cancels)
        loop_timer_cancel(loop, &k->cancels->timer);
}

TEST(timer_fires_once_and_not_early)
{
    struct tick k = { 0 };
    loop_begin();
    uint64_t deadline = clock_monotonic_ns() + 3 * NS_PER_MS;
    loop_timer_set(loop, &k.timer, deadline, on_tick);
    while (!k.fired)
        loop_turn(loop, UINT64_MAX);
    EXPECT(loop_now_ns(loop) >= deadline);
    loop_turn(loop, 0);
    EXPECT_INT(k.fired, 1);
}

TEST(timers_fire_in_order_of_their_deadlines)
{
    enum { N = 500 };
    static struct tick k[N];
    loop_begin();
    uint64_t past = loop_now_ns(loop) + 1; /* past as soon as the turn has waited */
    for (unsigned i = 0; i < N; i++)
        loop_timer_set(loop, &k[i].timer, past + (i * 7919u) % N, on_tick);
    while (ticks < N)
        loop_turn(loop, NS_PER_MS);
    for (unsigned i = 0; i < N; i++)
        EXPECT_INT(k[i].order, (i * 7919u) % N + 1);
}

TEST(timer_moved_later_fires_at_its_last_deadline)
{
    struct tick k = { 0 }, far = { 0 };
    loop_begin();
    uint64_t soon = loop_now_ns(loop) + 1;
    loop_timer_set(loop, &k.timer, soon, on_tick);
    loop_timer_set(loop, &k.timer, soon + 3600 * NS_PER_S, on_tick);
    loop_timer_set(loop, &far.timer, soon + 7200 * NS_PER_S, on_tick);
    loop_turn(loop, NS_PER_MS);
    EXPECT_INT(k.fired, 0);
    EXPECT_INT(k.timer.armed_ns, soon + 3600 * NS_PER_S); /* it sank to its place */
    loop_timer_set(loop, &k.timer, soon + 1, on_tick);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(k.fired, 1);
    EXPECT_INT(far.fired, 0);
}

TEST(cancelled_timer_does_not_fire)
{
    struct tick k = { 0 };
    loop_begin();
    loop_timer_cancel(loop, &k.timer);
    loop_timer_set(loop, &k.timer, 1, on_tick);
    loop_timer_cancel(loop, &k.timer);
    loop_timer_cancel(loop, &k.timer);
    loop_turn(loop, 0);
    EXPECT_INT(k.fired, 0);
    EXPECT_INT(k.timer.slot, 0);
}

TEST(timer_may_cancel_another_that_is_due)
{
    struct tick a = { 0 }, b = { 0 };
    loop_begin();
    a.cancels = &b;
    b.cancels = &a;
    loop_timer_set(loop, &a.timer, 1, on_tick);
    loop_timer_set(loop, &b.timer, 1, on_tick);
    loop_turn(loop, 0);
    EXPECT_INT(a.fired + b.fired, 1);
}

static void set_again(struct loop_timer *t)
{
    ticks++;
    loop_timer_set(loop, t, 1, set_again);
}

TEST(timer_set_to_now_by_itself_does_not_hold_up_the_batch)
{
    struct loop_timer t = { 0 };
    loop_begin();
    loop_timer_set(loop, &t, 1, set_again);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(ticks, 1);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(ticks, 2);
}

/* The heap against a plain array: random sets, moves and cancels; nothing is lost or fires early.
 */
TEST(heap_agrees_with_a_model)
{
    enum { N = 200, STEPS = 20000 };
    static struct tick k[N];
    static uint64_t want[N];
    uint64_t far = clock_monotonic_ns() + 3600 * NS_PER_S;
    uint32_t seed = 1;

    loop_begin();
    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t i = (seed >> 8) % N;
        if (seed >> 30 == 0) {
            loop_timer_cancel(loop, &k[i].timer);
            want[i] = 0;
        } else {
            want[i] = far + (seed >> 10) % 100000;
            loop_timer_set(loop, &k[i].timer, want[i], on_tick);
        }
    }
    loop_turn(loop, 0);
    EXPECT_INT(ticks, 0);
    for (int i = 0; i < N; i++) {
        EXPECT_INT(k[i].timer.deadline_ns, want[i]);
        EXPECT_INT(k[i].timer.slot != 0, want[i] != 0);
        if (want[i])
            loop_timer_set(loop, &k[i].timer, want[i] - far + 1, on_tick);
    }
    loop_turn(loop, 0);
    for (int i = 0; i < N; i++) {
        EXPECT_INT(k[i].fired, want[i] != 0);
        EXPECT_INT(k[i].timer.slot, 0);
    }
}

static void late_event(struct end *e)
{
    e->events = ++ticks;
}

TEST(events_come_before_timers)
{
    struct tick k = { 0 };
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    e->then = late_event;
    poke(e);
    loop_timer_set(loop, &k.timer, 1, on_tick);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(e->events, 1);
    EXPECT_INT(k.order, 2);
}

/* From here on epoll_pwait2 is refused, as an old kernel or a container's filter does. */
static void refuse_pwait2(uint32_t answer)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { ARRAY_LENGTH(code), code };

    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
}

static void timer_without_pwait2(uint32_t answer)
{
    struct tick k = { 0 };

    refuse_pwait2(answer);
    loop_begin();
    uint64_t deadline = clock_monotonic_ns() + 2 * NS_PER_MS + 1;
    loop_timer_set(loop, &k.timer, deadline, on_tick);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(k.fired, 1); /* rounded up: one turn was enough */
    EXPECT(loop_now_ns(loop) >= deadline);
}

TEST(timers_work_on_a_kernel_without_epoll_pwait2)
{
    timer_without_pwait2(ENOSYS);
}

TEST(timers_work_where_a_filter_forbids_epoll_pwait2)
{
    timer_without_pwait2(EPERM);
}

/* Hooks. */
static char trace[64];
static uint64_t hook_sleep = UINT64_MAX;

static void note(char c)
{
    size_t n = strlen(trace);
    CHECK(n + 1 < sizeof(trace));
    trace[n] = c;
}
static uint64_t note_before(void *ctx)
{
    EXPECT(ctx == trace);
    note('b');
    return hook_sleep;
}
static void note_after(void *ctx UNUSED)
{
    note('a');
}
static void note_batch(void *ctx UNUSED)
{
    note('B');
}
static void note_event(struct end *e UNUSED)
{
    note('e');
}
static void note_timer(struct loop_timer *t UNUSED)
{
    note('t');
}

static const struct loop_hooks noting = { note_before, note_after, note_batch, trace };

TEST(hooks_run_once_a_turn_in_order)
{
    struct loop_timer t = { 0 };
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    e->then = note_event;
    loop_set_hooks(loop, &noting);
    loop_turn(loop, 0);
    poke(e);
    loop_timer_set(loop, &t, 1, note_timer);
    loop_turn(loop, UINT64_MAX);
    EXPECT_TEXT(str_from(trace), "baBbaetB");
    e->then = NULL;
    loop_set_hooks(loop, NULL);
    loop_turn(loop, 0);
    EXPECT_TEXT(str_from(trace), "baBbaetB");
}

TEST(before_wait_limits_the_sleep)
{
    loop_begin();
    loop_set_hooks(loop, &noting);
    hook_sleep = 0;
    loop_turn(loop, UINT64_MAX); /* would block for ever */
    hook_sleep = NS_PER_MS;
    uint64_t start = clock_monotonic_ns();
    loop_turn(loop, UINT64_MAX);
    EXPECT(loop_now_ns(loop) - start >= NS_PER_MS);
}

static void stop_loop(struct end *e UNUSED)
{
    note('s');
    loop_stop(loop);
}

TEST(stop_finishes_the_batch_and_the_loop_runs_again)
{
    loop_begin();
    struct end *e = end_new(LOOP_READ);
    e->then = stop_loop;
    poke(e);
    loop_set_hooks(loop, &noting);
    loop_run(loop);
    loop_run(loop);
    EXPECT_TEXT(str_from(trace), "basBbasB");
}

/* Signals. */
static unsigned seen[65];

static void on_signal(void *ctx, int signo)
{
    EXPECT(ctx == seen);
    seen[signo]++;
}

TEST(signals_are_delivered_by_the_loop)
{
    loop_begin();
    EXPECT_INT(loop_signals(loop, (const int[]){ SIGTERM, SIGHUP, 0 }, on_signal, seen), 0);
    raise(SIGTERM);
    raise(SIGHUP);
    EXPECT_INT(seen[SIGTERM], 0);
    loop_turn(loop, UINT64_MAX);
    EXPECT_INT(seen[SIGTERM], 1);
    EXPECT_INT(seen[SIGHUP], 1);
    loop_turn(loop, 0);
    EXPECT_INT(seen[SIGTERM], 1);
}

TEST(child_exit_is_a_signal)
{
    int status;
    loop_begin();
    EXPECT_INT(loop_signals(loop, (const int[]){ SIGCHLD, 0 }, on_signal, seen), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    while (!seen[SIGCHLD])
        loop_turn(loop, UINT64_MAX);
    EXPECT_INT(waitpid(pid, &status, WNOHANG), pid);
    EXPECT_INT(WEXITSTATUS(status), 7);
}

TEST(bad_signal_number_is_an_error)
{
    loop_begin();
    EXPECT_INT(loop_signals(loop, (const int[]){ 1000, 0 }, on_signal, seen), -EINVAL);
}

/* Faults. */
TEST(out_of_memory_is_an_error)
{
    struct loop *none = NULL;
    mem_fail_nth(1);
    EXPECT_INT(loop_new(&none), -ENOMEM);
    EXPECT(none == NULL);
}

TEST(free_closes_every_descriptor_of_its_own)
{
    struct tick k = { 0 };
    int before = dup(0);
    close(before);
    loop_begin();
    EXPECT_INT(loop_signals(loop, (const int[]){ SIGUSR1, 0 }, on_signal, seen), 0);
    loop_timer_set(loop, &k.timer, UINT64_MAX, on_tick);
    loop_free(loop);
    loop_free(NULL);
    EXPECT_INT(k.timer.slot, 0);
    EXPECT_INT(dup(0), before);
}
