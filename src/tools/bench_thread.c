/*
 * One thread of the load generator: decides which request starts when, and keeps the account.
 *
 * The open loop has no queue: the schedule is a number, the next intended start, that moves on when
 * a request starts. While all connections are busy it stays behind the clock, and what starts then
 * is charged from when it should have started. What could not start within the time limit has timed
 * out without being sent.
 */
#include <math.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "tools/bench_int.h"

enum {
    TICK_NS = 50000000,
    REST_NS = 10000000, /* after a failed connect, lest a dead server makes us spin */
    NOTABLE_WAIT_NS = 1000000,
    NOTABLE_RUN_NS = 200000000, /* what a shorter run needs of a processor is its beginning */
};

/* xorshift64*: which of the URLs, and the gaps of a Poisson process. */
static double next_random(struct bench_thread *t)
{
    t->random ^= t->random >> 12;
    t->random ^= t->random << 25;
    t->random ^= t->random >> 27;
    return (double)((t->random * UINT64_C(2685821657736338717)) >> 11) / 9007199254740992.0;
}

static const struct bench_target *choose_target(struct bench_thread *t)
{
    const struct bench_options *o = t->options;
    size_t i = 0;

    if (o->n_targets == 1)
        return o->targets;
    for (double at = next_random(t); i + 1 < o->n_targets && at >= o->targets[i].share; i++)
        at -= o->targets[i].share;
    return &o->targets[i];
}

/* --- the schedule ----------------------------------------------------------------------------- */

static bool is_open_loop(const struct bench_thread *t)
{
    return t->options->rps > 0;
}

/* Whether there is another request to start, now or later. */
static bool has_more(const struct bench_thread *t)
{
    uint64_t intended = is_open_loop(t) ? t->next_ns : t->now_ns;
    return !t->stopped && t->left > 0 && intended < t->end_ns;
}

static void advance_schedule(struct bench_thread *t)
{
    t->next_exact += t->options->poisson ? t->gap_ns * -log(1 - next_random(t)) : t->gap_ns;
    t->next_ns = t->begin_ns + (uint64_t)t->next_exact;
}

static void note_outcome(struct bench_thread *t, enum bench_error outcome, uint64_t intended_ns)
{
    struct bench_result *r = t->result;
    uint64_t latency = t->now_ns - intended_ns;

    r->outcomes[outcome]++;
    if (outcome == BENCH_OK) {
        hist_record(&r->latency, latency);
        atomic_store_explicit(&t->seen_ok, r->latency.count, memory_order_relaxed);
    } else {
        atomic_store_explicit(&t->seen_errors, ++t->errors, memory_order_relaxed);
    }
    bench_timeline_note(&r->timeline, t->now_ns - t->window_ns, outcome, latency);
}

static void start_next(struct bench_thread *t, uint64_t intended_ns)
{
    struct bench_conn *c = LIST_ENTRY(t->free_conns.next, struct bench_conn, link);

    list_remove(&c->link);
    t->left -= intended_ns >= t->window_ns;
    t->in_flight++;
    bench_conn_start(c, choose_target(t), intended_ns);
}

static void pump_closed(struct bench_thread *t)
{
    while (!list_empty(&t->free_conns) && has_more(t))
        start_next(t, t->now_ns);
}

/* What to blame for a late start: the connections, or this program and its machine. */
static void note_start(struct bench_thread *t)
{
    uint64_t late = t->now_ns - t->next_ns;

    if (t->next_ns < t->window_ns)
        return;
    if (t->next_ns < t->starved_ns)
        t->result->waited += late > NOTABLE_WAIT_NS;
    else
        hist_record(&t->result->lag, late);
}

static void pump_open(struct bench_thread *t)
{
    /* Nobody would wait for these any more. */
    while (has_more(t) && t->next_ns + t->options->timeout_ns <= t->now_ns) {
        if (t->next_ns >= t->window_ns) {
            note_outcome(t, BENCH_TIMEOUT, t->next_ns);
            bench_result_blame(t->result, BENCH_TIMEOUT, "no connection was free", 1);
            t->left--;
        }
        advance_schedule(t);
    }
    while (has_more(t) && t->next_ns <= t->now_ns && !list_empty(&t->free_conns)) {
        uint64_t intended = t->next_ns;
        note_start(t);
        advance_schedule(t);
        start_next(t, intended);
    }
}

static void on_due(struct loop_timer *timer)
{
    struct bench_thread *t = CONTAINER_OF(timer, struct bench_thread, due);

    t->now_ns = clock_monotonic_ns();
    bench_thread_pump(t);
}

void bench_thread_pump(struct bench_thread *t)
{
    if (is_open_loop(t))
        pump_open(t);
    else
        pump_closed(t);
    if (!has_more(t) && t->in_flight == 0)
        loop_stop(t->loop);
    else if (is_open_loop(t) && has_more(t) && !list_empty(&t->free_conns))
        loop_timer_set(t->loop, &t->due, t->next_ns, on_due);
}

void bench_thread_done(struct bench_thread *t, struct bench_conn *c, enum bench_error outcome)
{
    CHECK(t->in_flight > 0 && list_empty(&c->link));
    t->now_ns = t->done_ns = clock_monotonic_ns();
    t->in_flight--;
    c->state = BENCH_FREE;
    if (outcome == BENCH_OK || outcome == BENCH_STATUS || outcome == BENCH_BODY)
        t->answered_ns = t->now_ns;
    if (c->intended_ns >= t->window_ns)
        note_outcome(t, outcome, c->intended_ns);
    /* Also one that began before the window: it stands for those that end after it. */
    if (outcome == BENCH_OK && t->now_ns >= t->window_ns && t->now_ns <= t->end_ns)
        t->result->ok_in_time++;
    if (outcome == BENCH_CONNECT && !is_open_loop(t))
        bench_conn_rest(c, t->now_ns + REST_NS);
    else
        bench_thread_rested(t, c);
}

void bench_thread_rested(struct bench_thread *t, struct bench_conn *c)
{
    if (c->state == BENCH_RESTING)
        t->now_ns = clock_monotonic_ns();
    c->state = BENCH_FREE;
    if (list_empty(&t->free_conns))
        t->starved_ns = t->now_ns;
    list_push_back(&t->free_conns, &c->link);
}

/* --- begin and end ---------------------------------------------------------------------------- */

/* How much CPU time this thread had, and how long it was kept waiting for some, to the end of the
 * window: afterwards it only waits for stragglers. */
static void note_cpu(struct bench_thread *t, uint64_t now_ns)
{
    FILE *in = fopen("/proc/thread-self/schedstat", "re");
    unsigned long long cpu = 0, waited = 0;

    if (!in || fscanf(in, "%llu %llu", &cpu, &waited) != 2) {
        struct timespec ts; /* a kernel without it says no more than this */
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        cpu = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
        waited = 0;
    }
    if (in)
        fclose(in);
    t->cpu_ns = cpu;
    t->waited_ns = waited;
    t->cpu_until_ns = now_ns;
}

/* A closed loop over a number of requests would last for ever against a server that is gone. */
static bool is_hopeless(const struct bench_thread *t)
{
    uint64_t patience = 2 * t->options->timeout_ns;
    return !is_open_loop(t) && t->options->duration_ns == 0 &&
           t->now_ns > t->answered_ns + patience;
}

static void on_tick(struct loop_timer *timer)
{
    struct bench_thread *t = CONTAINER_OF(timer, struct bench_thread, tick);

    t->now_ns = clock_monotonic_ns();
    if (t->now_ns >= t->end_ns && !t->cpu_until_ns)
        note_cpu(t, t->now_ns);
    if (atomic_load_explicit(t->stop, memory_order_relaxed)) {
        t->stopped = t->result->interrupted = true;
    } else if (is_hopeless(t)) {
        t->stopped = t->result->gave_up = true;
    }
    if (t->stopped) {
        loop_stop(t->loop);
        return;
    }
    loop_timer_set(t->loop, &t->tick, t->now_ns + TICK_NS, on_tick);
    bench_thread_pump(t);
}

/* The share of `total` that falls to thread `index`. */
static uint64_t share_of(uint64_t total, uint32_t threads, uint32_t index)
{
    return total / threads + (index < total % threads);
}

int bench_thread_init(struct bench_thread *t, const struct bench_options *o, uint32_t index,
                      uint64_t begin_ns, const _Atomic bool *stop)
{
    memset(t, 0, sizeof(*t));
    t->options = o;
    t->stop = stop;
    t->begin_ns = begin_ns;
    t->window_ns = begin_ns + o->warmup_ns;
    t->end_ns = o->duration_ns ? t->window_ns + o->duration_ns : UINT64_MAX;
    t->left = o->requests ? share_of(o->requests, o->threads, index) : UINT64_MAX;
    t->random = (begin_ns ^ (index + 1) * UINT64_C(0x9e3779b97f4a7c15)) | 1;
    if (o->rps > 0) {
        /* The threads take turns: together they keep equal gaps. */
        t->gap_ns = (double)NS_PER_S / o->rps * o->threads;
        t->next_exact = (double)NS_PER_S / o->rps * index;
        t->next_ns = begin_ns + (uint64_t)t->next_exact;
    }
    t->result = mem_zalloc(sizeof(*t->result));
    bench_result_init(t->result);
    t->scratch = mem_alloc(BENCH_READ_BYTES);
    list_init(&t->free_conns);
    t->n_conns = (uint32_t)share_of(o->connections, o->threads, index);
    t->conns = mem_zalloc(t->n_conns * sizeof(t->conns[0]));
    for (uint32_t i = 0; i < t->n_conns; i++) {
        bench_conn_init(&t->conns[i], t);
        list_push_back(&t->free_conns, &t->conns[i].link);
    }
    return loop_new(&t->loop);
}

void bench_thread_run(struct bench_thread *t)
{
    /* The kernel may delay a sleeper by 50 us to save power; the schedule is finer than that. */
    prctl(PR_SET_TIMERSLACK, 1UL);
    t->now_ns = t->answered_ns = t->done_ns = clock_monotonic_ns();
    loop_timer_set(t->loop, &t->tick, t->now_ns + TICK_NS, on_tick);
    loop_timer_set(t->loop, &t->due, is_open_loop(t) ? t->next_ns : t->begin_ns, on_due);
    loop_run(t->loop);

    uint64_t now = clock_monotonic_ns();
    if (!t->cpu_until_ns)
        note_cpu(t, now);
    uint64_t until = t->stopped ? now : t->left == 0 ? t->done_ns : t->end_ns;
    if (until > t->end_ns)
        until = t->end_ns;
    t->result->elapsed_ns = until > t->window_ns ? until - t->window_ns : 0;
    t->result->last_ns = t->done_ns > t->window_ns ? t->done_ns - t->window_ns : 0;
    uint64_t worked = t->cpu_until_ns - t->begin_ns;
    if (worked < NOTABLE_RUN_NS)
        return;
    t->result->busiest = (double)t->cpu_ns / (double)worked;
    t->result->kept_waiting = (double)t->waited_ns / (double)worked;
}

void bench_thread_fini(struct bench_thread *t)
{
    for (uint32_t i = 0; i < t->n_conns; i++) {
        loop_timer_cancel(t->loop, &t->conns[i].timer);
        bench_conn_close(&t->conns[i]);
    }
    loop_free(t->loop);
    mem_free(t->conns);
    if (t->sessions)
        t->options->tls->sessions_free(t->sessions);
    mem_free(t->scratch);
    mem_free(t->result);
}
