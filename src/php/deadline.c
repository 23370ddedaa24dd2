/*
 * The clock of running requests: slow_log_after, request_timeout and its grace, and samples of what
 * runs long, for the record if it is killed by somebody else.
 *
 * Nothing is paid per request: since when a worker is busy stands in the channel anyway. One look
 * finds the next time at which something is due; a request that begins after it cannot be due
 * earlier than the shortest limit, so the look after that comes in time for it too. Every request
 * of the pool is seen here, also one whose client has gone and one whose answer is being streamed.
 *
 * request_timeout takes three steps: the worker gets a signal, which makes the engine raise its
 * error (engine/deadline.c); the signal is repeated, to get it out of one system call after the
 * other; after the grace it is killed, and the gateway answers 504.
 */
#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "php/pool_int.h"

enum {
    LOOK_MS_IDLE = 1000, /* at least so often, when no worker was busy the last time */
    LOOK_MS_BUSY = 250,
    LOOK_MS_MIN = 10,
    REPEAT_MS = 50,        /* between two signals */
    SAMPLE_AFTER_MS = 200, /* younger requests are not sampled */
    SAMPLE_EVERY_MS = 500,
};

/* No later than the shortest limit that a request may have. */
static uint64_t period_ns(const struct pool *p, bool is_busy)
{
    uint64_t ms = is_busy ? LOOK_MS_BUSY : LOOK_MS_IDLE,
             limits[2] = { p->conf->request_timeout_ms, p->conf->slow_log_after_ms };

    for (size_t i = 0; i < ARRAY_LENGTH(limits); i++)
        if (limits[i] && limits[i] < ms)
            ms = limits[i];
    for (uint32_t i = 0; i < p->config->n_routes; i++) {
        uint64_t own = p->config->routes[i].request_timeout_ms;
        if (own && own < ms)
            ms = own;
    }
    return (ms < LOOK_MS_MIN ? LOOK_MS_MIN : ms) * NS_PER_MS;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void begin_watch(struct pool *p, struct seat *seat, const struct channel_worker_info *info,
                        uint64_t now)
{
    struct seat_watch *w = &seat->watch;
    struct php_stack *keep = w->sample;

    *w = (struct seat_watch){ .ticket = info->ticket, .sample = keep };
    /* The worker's own word: one in the future would keep it running for ever. */
    w->since_ns = info->since_ns < now ? info->since_ns : now;
    w->cpu_ns = observe_cpu_ns(seat->pid);
    w->limit_ns = channel_request_limit_ms(p->channel, info->ticket) * NS_PER_MS;
    w->rss_first_bytes = w->rss_bytes = 0;
}

/* --- slow log --------------------------------------------------------------------------------- */

static uint64_t look_slow(struct pool *p, uint32_t index, struct worker_look *look, uint64_t now)
{
    struct seat_watch *w = &p->seats[index].watch;
    uint64_t after = p->conf->slow_log_after_ms * NS_PER_MS;

    if (after == 0 || (w->slow_logged && !p->conf->slow_log_repeat))
        return UINT64_MAX;
    uint64_t due = w->since_ns + after * (w->slow_logged + 1);
    if (now < due)
        return due;
    observe_worker(p, index, OBSERVE_STACK, look);
    w->slow_logged = (uint32_t)((now - w->since_ns) / after); /* those it missed are not made up */
    slow_log_write(p, look, w->slow_logged);
    return p->conf->slow_log_repeat ? w->since_ns + after * (w->slow_logged + 1) : UINT64_MAX;
}

/* --- request_timeout -------------------------------------------------------------------------- */

static void interrupt(struct seat *seat)
{
    const struct seat_watch *w = &seat->watch;
    union sigval value = { .sival_ptr = (void *)(uintptr_t)((uint64_t)w->ticket.slot << 32 |
                                                            w->ticket.seq) };

    sigqueue(seat->pid, ENGINE_SIGNAL_DEADLINE, value);
}

static void announce(struct pool *p, uint32_t index, struct worker_look *look)
{
    char name[256] = "?", place[512] = "";

    observe_worker(p, index, OBSERVE_STACK, look);
    if (!look->has_request)
        return;
    if (look->has_stack && look->stack.n_frames) {
        unsigned at = php_stack_user_frame(&look->stack, 0);
        php_frame_name(&look->stack, &look->stack.frames[0], name, sizeof(name));
        if (at < look->stack.n_frames)
            snprintf(place, sizeof(place), " in %s, %s:%u", name,
                     php_stack_text(&look->stack, look->stack.frames[at].file),
                     look->stack.frames[at].line);
    }
    log_warn("request %.*s (%.*s %.*s) has reached request_timeout after %.1f s (cpu %.1f s)%s: "
             "interrupting worker %u [%d]",
             STR_ARG(look->request.request_id), STR_ARG(look->request.method),
             STR_ARG(look->request.target), (double)look->running_ns / 1e9,
             (double)look->cpu_ns / 1e9, place, index, (int)look->pid);
}

static uint64_t look_limit(struct pool *p, uint32_t index, struct worker_look *look, uint64_t now)
{
    struct seat *seat = &p->seats[index];
    struct seat_watch *w = &seat->watch;
    uint64_t grace = p->conf->request_timeout_grace_ms * NS_PER_MS;

    if (w->limit_ns == 0)
        return UINT64_MAX;
    if (now < w->since_ns + w->limit_ns)
        return w->since_ns + w->limit_ns;
    if (w->signalled_ns && now >= w->signalled_ns + grace) {
        p->count.timeout_kills++;
        pool_kill_worker(p, index, CONTROL_CAUSE_TIMEOUT);
        return UINT64_MAX;
    }
    if (!w->signalled_ns) {
        interrupt(seat); /* before anything that takes time */
        w->signalled_ns = w->signalled_last_ns = now;
        p->count.timeouts++;
        announce(p, index, look);
    } else if (now >= w->signalled_last_ns + REPEAT_MS * NS_PER_MS) {
        interrupt(seat);
        w->signalled_last_ns = now;
    }
    return sooner(w->signalled_ns + grace, w->signalled_last_ns + REPEAT_MS * NS_PER_MS);
}

/* --- samples ---------------------------------------------------------------------------------- */

/* Who is killed for its memory leaves no stack: it cannot be asked any more. So the stack of what
 * runs long is kept, as it was at most half a second ago. */
static uint64_t look_sample(struct pool *p, struct seat *seat, uint64_t now)
{
    struct seat_watch *w = &seat->watch;
    uint64_t due = w->sampled_ns ? w->sampled_ns + SAMPLE_EVERY_MS * NS_PER_MS
                                 : w->since_ns + SAMPLE_AFTER_MS * NS_PER_MS;

    if (now < due)
        return due;
    if (!w->sample)
        w->sample = mem_alloc(sizeof(*w->sample));
    w->rss_bytes = observe_rss_bytes(seat->pid);
    if (!w->rss_first_bytes)
        w->rss_first_bytes = w->rss_bytes;
    if (p->layout && worker_memory_stack(&seat->memory, p->layout, PHP_STACK_FRAMES, w->sample))
        w->sampled_ns = now;
    return now + SAMPLE_EVERY_MS * NS_PER_MS;
}

/* The longest limit that a request may have, 0: some have none. */
static uint64_t longest_ms(const struct pool *p)
{
    uint64_t ms = p->conf->request_timeout_ms;

    for (uint32_t i = 0; ms && i < p->config->n_routes; i++)
        if (p->config->routes[i].request_timeout_ms > ms)
            ms = p->config->routes[i].request_timeout_ms;
    return ms;
}

void deadline_leave(struct pool *p)
{
    uint64_t ms = longest_ms(p);

    p->leavers_until_ns =
        ms ? clock_monotonic_ns() + (ms + p->conf->request_timeout_grace_ms) * NS_PER_MS : 0;
}

/* Their channel is gone, and with it what they run and since when. */
static void end_leavers(struct pool *p, uint64_t now)
{
    if (!p->leavers_until_ns || now < p->leavers_until_ns)
        return;
    p->leavers_until_ns = 0;
    for (size_t i = 0; i < p->n_leavers; i++) {
        log_warn("worker [%d], whose gateway has gone, still runs a request after request_timeout: "
                 "killing it",
                 (int)p->leavers[i]);
        kill(p->leavers[i], SIGKILL);
        lock_probe_want(p);
    }
}

void deadline_look(struct pool *p)
{
    static struct worker_look look;
    uint64_t now = clock_monotonic_ns();

    if (!p->channel || now < p->look_ns)
        return;
    end_leavers(p, now);
    uint64_t next = UINT64_MAX;
    bool is_busy = false;
    for (uint32_t i = 0; i < p->n_seats; i++) {
        struct seat *seat = &p->seats[i];
        struct channel_worker_info info;
        if (!seat->pid || seat->cause != CONTROL_CAUSE_ITS_OWN)
            continue;
        channel_worker_look(p->channel, i, &info);
        if (info.state != CHANNEL_WORKER_BUSY || info.incarnation != seat->incarnation) {
            seat->watch.since_ns = 0;
            continue;
        }
        is_busy = true;
        if (!seat->watch.since_ns || info.ticket.slot != seat->watch.ticket.slot ||
            info.ticket.seq != seat->watch.ticket.seq)
            begin_watch(p, seat, &info, now);
        next = sooner(next, look_limit(p, i, &look, now));
        next = sooner(next, look_slow(p, i, &look, now));
        next = sooner(next, look_sample(p, seat, now));
    }
    p->look_ns = sooner(next, now + period_ns(p, is_busy));
}
