/*
 * Event loop on epoll. A turn is: before_wait, one epoll_wait, after_wait, the fetched events, the
 * timers that are due, after_batch. Nothing else is a system call while watches stay as they are.
 *
 * Events come before timers, so that a process which was stopped for a while does not time out a
 * connection whose bytes have arrived meanwhile. Each fetched event is tied to its watch in both
 * directions for the time of the batch (`pending` and epoll's data pointer), which makes removal
 * during dispatch a single store.
 *
 * Timers are a 4-ary heap whose keys lie in the array itself. The key is when to look at a timer,
 * its deadline_ns when to fire it: moving a deadline later, which every request does to its
 * connection's timer, is one store; the timer is looked at once too early and sinks to its place
 * then.
 */
#include "loop/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"

enum {
    LOOP_MAGIC = 0x10095a91,
    EVENTS_MAX = 256, /* a batch; epoll serves the rest next turn, in fair order */
    HEAP_ARITY = 4,
    HEAP_FIRST = 64,
};

struct heap_entry {
    uint64_t key_ns; /* timer->armed_ns, here so that sifting touches no timer that stays */
    struct loop_timer *timer;
};

struct loop {
    unsigned magic;
    int epoll_fd;
    bool stopping, in_turn;
    bool no_pwait2; /* a kernel before 5.11, or a container's seccomp filter without it */
    uint64_t now_ns;
    struct loop_hooks hooks;

    struct heap_entry *heap;
    uint32_t heap_n, heap_cap;

    struct loop_watch signal_watch;
    void (*on_signal)(void *ctx, int signo);
    void *signal_ctx;

    struct epoll_event fetched[EVENTS_MAX];
};

int loop_new(struct loop **ret)
{
    struct loop *loop = mem_try_zalloc(sizeof(*loop));

    if (!loop)
        return -ENOMEM;
    loop->magic = LOOP_MAGIC;
    loop->signal_watch.fd = -1;
    loop->now_ns = clock_monotonic_ns();
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        int e = errno;
        mem_free(loop);
        return -e;
    }
    *ret = loop;
    return 0;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(!loop->in_turn);
    for (uint32_t i = 0; i < loop->heap_n; i++)
        loop->heap[i].timer->slot = 0;
    fd_close(&loop->signal_watch.fd);
    fd_close(&loop->epoll_fd);
    mem_free(loop->heap);
    loop->magic = 0;
    mem_free(loop);
}

void loop_set_hooks(struct loop *loop, const struct loop_hooks *hooks)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    loop->hooks = hooks ? *hooks : (struct loop_hooks){ 0 };
}

/* A hang-up of one direction is asked for only together with reading or edge-triggered: it is a
 * level that never falls, and would spin a loop whose owner has stopped reading for a while. */
static uint32_t epoll_mask(unsigned events)
{
    uint32_t mask = 0;

    if (events & LOOP_READ)
        mask |= EPOLLIN | EPOLLRDHUP;
    if (events & LOOP_WRITE)
        mask |= EPOLLOUT;
    if (events & LOOP_EDGE)
        mask |= EPOLLET | EPOLLRDHUP;
    return mask;
}

/* What to report of `mask` to an owner who asked for `asked`. An error counts as readable and as
 * writable, since the next read or write is what tells its errno. */
static unsigned reported(uint32_t mask, unsigned asked)
{
    unsigned events = 0;

    if (mask & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        events |= LOOP_READ;
    if (mask & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        events |= LOOP_WRITE;
    events &= asked;
    if (mask & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        events |= LOOP_HANGUP;
    return events;
}

static bool is_linked(const struct loop_watch *w)
{
    return w->fd >= 0 && w->on_ready;
}

/* Unties a watch from its fetched event, so that dispatch passes it over. */
static void drop_pending(struct loop *loop, struct loop_watch *w)
{
    if (!w->pending)
        return;
    DCHECK(w->pending <= EVENTS_MAX && loop->fetched[w->pending - 1].data.ptr == w);
    loop->fetched[w->pending - 1].data.ptr = NULL;
    w->pending = 0;
}

int loop_watch_add(struct loop *loop, struct loop_watch *w, int fd, unsigned events,
                   void (*on_ready)(struct loop_watch *, unsigned))
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(fd >= 0 && on_ready);
    *w = (struct loop_watch){ .on_ready = on_ready, .fd = fd, .events = events };
    struct epoll_event ev = { .events = epoll_mask(events), .data.ptr = w };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        int e = errno;
        w->fd = -1;
        return -e;
    }
    return 0;
}

int loop_watch_change(struct loop *loop, struct loop_watch *w, unsigned events)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(is_linked(w));
    if (w->events == events)
        return 0;
    struct epoll_event ev = { .events = epoll_mask(events), .data.ptr = w };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) < 0)
        return -errno;
    w->events = events;
    return 0;
}

void loop_watch_remove(struct loop *loop, struct loop_watch *w)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    if (is_linked(w)) {
        int r = epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
        DCHECK(r == 0); /* else it was closed first, and the number may be somebody else's by now */
        (void)r;
        drop_pending(loop, w);
    }
    w->fd = -1;
}

void loop_watch_close(struct loop *loop, struct loop_watch *w)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    if (is_linked(w)) {
        drop_pending(loop, w);
        close(w->fd);
    }
    w->fd = -1;
}

static void put_entry(struct loop *loop, uint32_t at, struct heap_entry e)
{
    loop->heap[at] = e;
    e.timer->slot = at + 1;
}

static void sift_up(struct loop *loop, uint32_t at, struct heap_entry e)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / HEAP_ARITY;
        if (loop->heap[parent].key_ns <= e.key_ns)
            break;
        put_entry(loop, at, loop->heap[parent]);
        at = parent;
    }
    put_entry(loop, at, e);
}

static void sift_down(struct loop *loop, uint32_t at, struct heap_entry e)
{
    for (;;) {
        uint32_t first = at * HEAP_ARITY + 1;
        if (first >= loop->heap_n)
            break;
        uint32_t end = first + HEAP_ARITY < loop->heap_n ? first + HEAP_ARITY : loop->heap_n;
        uint32_t least = first;
        for (uint32_t i = first + 1; i < end; i++)
            if (loop->heap[i].key_ns < loop->heap[least].key_ns)
                least = i;
        if (e.key_ns <= loop->heap[least].key_ns)
            break;
        put_entry(loop, at, loop->heap[least]);
        at = least;
    }
    put_entry(loop, at, e);
}

static void heap_remove(struct loop *loop, struct loop_timer *t)
{
    uint32_t at = t->slot - 1;

    DCHECK(at < loop->heap_n && loop->heap[at].timer == t);
    t->slot = 0;
    struct heap_entry last = loop->heap[--loop->heap_n];
    if (last.timer == t)
        return;
    if (at > 0 && last.key_ns < loop->heap[(at - 1) / HEAP_ARITY].key_ns)
        sift_up(loop, at, last);
    else
        sift_down(loop, at, last);
}

void loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t deadline_ns,
                    void (*on_expire)(struct loop_timer *))
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(deadline_ns != 0 && on_expire);
    t->on_expire = on_expire;
    t->deadline_ns = deadline_ns;
    if (t->slot && deadline_ns >= t->armed_ns)
        return;
    /* Not before the next turn: a timer that sets itself to "now" must not hold up the batch. */
    t->armed_ns = deadline_ns > loop->now_ns ? deadline_ns : loop->now_ns + 1;
    struct heap_entry e = { t->armed_ns, t };
    if (t->slot) {
        sift_up(loop, t->slot - 1, e);
        return;
    }
    if (loop->heap_n == loop->heap_cap) {
        loop->heap_cap = loop->heap_cap ? loop->heap_cap * 2 : HEAP_FIRST;
        loop->heap = mem_realloc(loop->heap, loop->heap_cap * sizeof(*loop->heap));
    }
    sift_up(loop, loop->heap_n++, e);
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *t)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    if (t->slot)
        heap_remove(loop, t);
    t->deadline_ns = 0;
}

static void run_timers(struct loop *loop)
{
    while (loop->heap_n && loop->heap[0].key_ns <= loop->now_ns) {
        struct loop_timer *t = loop->heap[0].timer;
        if (t->deadline_ns > loop->now_ns) {
            t->armed_ns = t->deadline_ns;
            sift_down(loop, 0, (struct heap_entry){ t->armed_ns, t });
            continue;
        }
        heap_remove(loop, t);
        t->deadline_ns = 0;
        t->on_expire(t);
    }
}

static void read_signals(struct loop_watch *w, unsigned events UNUSED)
{
    struct loop *loop = CONTAINER_OF(w, struct loop, signal_watch);
    struct signalfd_siginfo infos[16];
    ssize_t n;

    while ((n = read(w->fd, infos, sizeof(infos))) > 0)
        for (size_t i = 0; i < (size_t)n / sizeof(infos[0]); i++)
            loop->on_signal(loop->signal_ctx, (int)infos[i].ssi_signo);
    CHECK(n < 0 && (errno == EAGAIN || errno == EINTR));
}

int loop_signals(struct loop *loop, const int *signals, void (*on_signal)(void *ctx, int signo),
                 void *ctx)
{
    sigset_t set;

    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(loop->signal_watch.fd < 0 && on_signal);
    sigemptyset(&set);
    for (; *signals; signals++)
        if (sigaddset(&set, *signals) < 0)
            return -errno;
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    int r = -pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (r == 0)
        r = loop_watch_add(loop, &loop->signal_watch, fd, LOOP_READ, read_signals);
    if (r < 0) {
        close(fd);
        return r;
    }
    loop->on_signal = on_signal;
    loop->signal_ctx = ctx;
    return 0;
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

/* Rounded up, so that a timer is never looked at a moment before its time, only to wait again. */
static int timeout_ms(uint64_t ns)
{
    uint64_t ms = ns / NS_PER_MS + (ns % NS_PER_MS != 0);
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

static int wait_for_events(struct loop *loop, uint64_t timeout_ns)
{
    int n;

    if (timeout_ns == UINT64_MAX || timeout_ns == 0) {
        n = epoll_wait(loop->epoll_fd, loop->fetched, EVENTS_MAX, timeout_ns == 0 ? 0 : -1);
    } else {
        struct timespec ts = { (time_t)(timeout_ns / NS_PER_S), (long)(timeout_ns % NS_PER_S) };
        errno = ENOSYS;
        n = loop->no_pwait2 ? -1
                            : epoll_pwait2(loop->epoll_fd, loop->fetched, EVENTS_MAX, &ts, NULL);
        if (n < 0 && (errno == ENOSYS || errno == EPERM)) {
            loop->no_pwait2 = true;
            n = epoll_wait(loop->epoll_fd, loop->fetched, EVENTS_MAX, timeout_ms(timeout_ns));
        }
    }
    CHECKF(n >= 0 || errno == EINTR, "epoll_wait: errno %d", errno);
    return n < 0 ? 0 : n;
}

/* How long this turn may sleep. The clock is read again: the last batch may have taken its time. */
static uint64_t sleep_ns(struct loop *loop, uint64_t limit_ns)
{
    if (loop->stopping || limit_ns == 0)
        return 0;
    if (loop->heap_n) {
        uint64_t now = clock_monotonic_ns(), key = loop->heap[0].key_ns;
        uint64_t until = key > now ? key - now : 0;
        if (until < limit_ns)
            limit_ns = until;
    }
    return limit_ns;
}

static void dispatch(struct loop *loop, int n)
{
    /* All are tied before the first callback runs, which may remove any of them. */
    for (int i = 0; i < n; i++)
        ((struct loop_watch *)loop->fetched[i].data.ptr)->pending = (uint32_t)i + 1;
    for (int i = 0; i < n; i++) {
        struct loop_watch *w = loop->fetched[i].data.ptr;
        if (!w)
            continue;
        w->pending = 0;
        unsigned events = reported(loop->fetched[i].events, w->events);
        if (events)
            w->on_ready(w, events);
    }
}

void loop_turn(struct loop *loop, uint64_t timeout_ns)
{
    const struct loop_hooks *h = &loop->hooks;

    CHECK_MAGIC(loop, LOOP_MAGIC);
    CHECK(!loop->in_turn);
    loop->in_turn = true;
    timeout_ns = sleep_ns(loop, timeout_ns);
    if (h->before_wait) {
        uint64_t wanted = h->before_wait(h->ctx);
        if (wanted < timeout_ns)
            timeout_ns = wanted;
    }
    int n = wait_for_events(loop, timeout_ns);
    loop->now_ns = clock_monotonic_ns();
    if (h->after_wait)
        h->after_wait(h->ctx);
    dispatch(loop, n);
    run_timers(loop);
    if (h->after_batch)
        h->after_batch(h->ctx);
    loop->in_turn = false;
}

void loop_run(struct loop *loop)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    while (!loop->stopping)
        loop_turn(loop, UINT64_MAX);
    loop->stopping = false;
}

void loop_stop(struct loop *loop)
{
    CHECK_MAGIC(loop, LOOP_MAGIC);
    loop->stopping = true;
}
