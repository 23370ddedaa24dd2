/*
 * One gateway thread: its loop, its connections and its side of every pool generation. The hooks
 * around the poll are where batching happens: after all sockets of a batch were served, workers are
 * woken once, then every ring with news is read; before blocking, the thread declares itself asleep
 * to the channels.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "gateway/bulkhead.h"
#include "gateway/gateway_int.h"
#include "gateway/upstream.h"

enum { ACCEPTS_PER_TURN = 64, ACCEPT_RETRY_MS = 200 };

char *thread_take_buffer(struct gateway_thread *t)
{
    return t->n_free_in ? t->free_in[--t->n_free_in] : mem_try_alloc(IN_BUFFER_BYTES);
}

void thread_give_buffer(struct gateway_thread *t, char *p)
{
    if (t->n_free_in < ARRAY_LENGTH(t->free_in))
        t->free_in[t->n_free_in++] = p;
    else
        mem_free(p);
}

const char *thread_date(struct gateway_thread *t)
{
    time_t now = (time_t)(t->realtime_ns / NS_PER_S);

    if (now != t->date_at) {
        t->date_at = now;
        http_format_date(now, t->date);
    }
    return t->date;
}

void thread_resume(struct gateway_thread *t, struct conn *c)
{
    if (list_empty(&c->resume))
        list_push_back(&t->resume, &c->resume);
}

static void resume_connections(struct gateway_thread *t)
{
    struct list batch;

    if (list_empty(&t->resume))
        return;
    /* Only those there now: one that wants another turn comes after the others' next batch. */
    batch = t->resume;
    batch.next->prev = batch.prev->next = &batch;
    list_init(&t->resume);
    while (!list_empty(&batch)) {
        struct conn *c = LIST_ENTRY(batch.next, struct conn, resume);
        list_remove(&c->resume);
        conn_advance(c);
    }
}

static void bury(struct gateway_thread *t)
{
    while (!list_empty(&t->graveyard)) {
        struct conn *c = LIST_ENTRY(t->graveyard.next, struct conn, link);
        list_remove(&c->link);
        mem_free(c);
    }
}

static void wake_workers(struct gateway_thread *t)
{
    LIST_FOR_EACH(it, &t->backends) {
        struct backend *b = LIST_ENTRY(it, struct backend, link);
        if (b->pool->channel)
            backend_wake(b);
    }
}

static void after_batch(void *ctx)
{
    struct gateway_thread *t = ctx;

    wake_workers(t);
    LIST_FOR_EACH_SAFE(it, &t->backends)
        backend_poll(LIST_ENTRY(it, struct backend, link));
    if (t->upstreams_due)
        upstream_poll(t);
    if (t->bulkheads_due)
        bulkhead_poll(t);
    resume_connections(t);
    wake_workers(t);
    if (buf_length(&t->log))
        access_log_flush(t);
    bury(t);
}

static uint64_t before_wait(void *ctx)
{
    struct gateway_thread *t = ctx;
    uint64_t sleep_ns = UINT64_MAX;

    if (!list_empty(&t->resume) || t->upstreams_due || t->bulkheads_due)
        return 0;
    LIST_FOR_EACH(it, &t->backends) {
        struct backend *b = LIST_ENTRY(it, struct backend, link);
        uint64_t most = UINT64_MAX;
        if (!b->pool->channel)
            continue;
        if (channel_gateway_sleep(b->pool->channel, t->index, &most))
            return 0;
        if (most < sleep_ns)
            sleep_ns = most;
    }
    return sleep_ns;
}

static void after_wait(void *ctx)
{
    struct gateway_thread *t = ctx;

    t->realtime_ns = clock_realtime_ns();
    LIST_FOR_EACH(it, &t->backends) {
        struct backend *b = LIST_ENTRY(it, struct backend, link);
        if (b->pool->channel)
            channel_gateway_awake(b->pool->channel, t->index);
    }
}

static void on_mail(struct loop_watch *w, unsigned events)
{
    struct gateway_thread *t = CONTAINER_OF(w, struct gateway_thread, mailbox);
    uint64_t count;

    (void)events;
    ssize_t unused = read(w->fd, &count, sizeof(count));
    (void)unused;
    pthread_mutex_lock(&t->mailbox_lock);
    struct command *c = t->commands;
    t->commands = NULL;
    t->commands_end = &t->commands;
    pthread_mutex_unlock(&t->mailbox_lock);
    while (c) {
        struct command *next = c->next;
        c->run(t, c);
        c = next;
    }
}

void thread_post(struct gateway_thread *t, struct command *c)
{
    const uint64_t one = 1;

    c->next = NULL;
    pthread_mutex_lock(&t->mailbox_lock);
    *t->commands_end = c;
    t->commands_end = &c->next;
    pthread_mutex_unlock(&t->mailbox_lock);
    ssize_t unused = write(t->mailbox_fd, &one, sizeof(one));
    (void)unused;
}

void thread_tell(struct gateway_thread *t, void (*run)(struct gateway_thread *, struct command *),
                 struct pool_link *pool, uint32_t worker, uint32_t incarnation)
{
    struct command *c = mem_zalloc(sizeof(*c));

    c->run = run;
    c->pool = pool;
    c->worker = worker;
    c->incarnation = incarnation;
    thread_post(t, c);
}

/* Descriptors may have come free in another thread or process, which nobody tells us. */
static void on_accept_retry(struct loop_timer *timer)
{
    struct gateway_thread *t = CONTAINER_OF(timer, struct gateway_thread, accept_retry);

    if (t->accept_paused && !t->draining)
        thread_listen(t);
}

static void on_acceptable(struct loop_watch *w, unsigned events)
{
    struct thread_listener *tl = CONTAINER_OF(w, struct thread_listener, watch);
    struct gateway_thread *t = tl->thread;

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            (void)conn_accept(t, fd, tl->listener->is_unix ? CONN_FROM_UNIX : CONN_FROM_TCP);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warn("cannot accept connections (errno %d): %u are open; waiting until one closes; "
                     "raise LimitNOFILE or lower [server] max_connections",
                     errno, t->n_conns);
            thread_stop_listening(t);
            t->accept_paused = true;
            loop_timer_set(t->loop, &t->accept_retry,
                           loop_now_ns(t->loop) + ACCEPT_RETRY_MS * NS_PER_MS, on_accept_retry);
        }
        return;
    }
}

void thread_listen(struct gateway_thread *t)
{
    struct gateway *g = t->gateway;

    t->accept_paused = false;
    for (uint32_t i = 0, nth = 0; i < g->n_listeners; i++) {
        const struct listener *l = &g->listeners[i];
        if (i && l->index != g->listeners[i - 1].index)
            nth = 0;
        /* One socket a thread (SO_REUSEPORT) where there are several; else all threads share it. */
        bool alone = (i == 0 || g->listeners[i - 1].index != l->index) &&
                     (i + 1 == g->n_listeners || g->listeners[i + 1].index != l->index);
        if (!alone && nth++ % g->n_threads != t->index)
            continue;
        if (t->listeners[i].watch.fd >= 0)
            continue;
        t->listeners[i].thread = t;
        t->listeners[i].listener = l;
        int r = loop_watch_add(t->loop, &t->listeners[i].watch, l->fd, LOOP_READ, on_acceptable);
        CHECKF(r == 0, "watching a listener failed: %d", r);
    }
}

void thread_stop_listening(struct gateway_thread *t)
{
    for (uint32_t i = 0; i < t->gateway->n_listeners; i++)
        loop_watch_remove(t->loop, &t->listeners[i].watch);
}

void thread_conn_gone(struct gateway_thread *t)
{
    if (t->accept_paused && !t->draining)
        thread_listen(t);
    if (t->draining && t->n_conns == 0 && !t->drain_reported) {
        t->drain_reported = true;
        thread_tell(&t->gateway->threads[0], gateway_on_thread_drained, NULL, 0, 0);
    }
}

static void close_idle(struct gateway_thread *t)
{
    LIST_FOR_EACH_SAFE(it, &t->conns) {
        struct conn *c = LIST_ENTRY(it, struct conn, link);
        if (c->state == CONN_IDLE || c->state == CONN_PROXY)
            conn_part(c);
    }
    thread_conn_gone(t);
}

static void on_idle_limit(struct loop_timer *timer)
{
    close_idle(CONTAINER_OF(timer, struct gateway_thread, idle_limit));
}

/* Every answer whose head is not out yet says "Connection: close". Closing is the only way to tell
 * an idle client, and its next request may be on the way: where another gateway serves from now on,
 * there is time to let it come and answer it. */
void thread_drain(struct gateway_thread *t)
{
    uint32_t idle_ms = t->gateway->drain_idle_ms;

    /* whoever is in the backlog of a socket that closes now was promised an answer */
    for (uint32_t i = 0; i < t->gateway->n_listeners; i++)
        if (t->listeners[i].watch.fd >= 0 && t->listeners[i].thread)
            on_acceptable(&t->listeners[i].watch, LOOP_READ);
    t->draining = true;
    thread_stop_listening(t);
    LIST_FOR_EACH(it, &t->conns) {
        struct conn *c = LIST_ENTRY(it, struct conn, link);
        if (c->exchange && !c->exchange->head_sent)
            c->exchange->keep_alive = false;
    }
    if (idle_ms)
        loop_timer_set(t->loop, &t->idle_limit, loop_now_ns(t->loop) + idle_ms * NS_PER_MS,
                       on_idle_limit);
    else
        close_idle(t);
    thread_conn_gone(t);
}

int thread_init(struct gateway_thread *t, struct gateway *g, uint32_t index)
{
    const struct loop_hooks hooks = {
        .before_wait = before_wait, .after_wait = after_wait, .after_batch = after_batch, .ctx = t
    };

    t->index = index;
    t->gateway = g;
    list_init(&t->conns);
    list_init(&t->backends);
    list_init(&t->upstreams);
    list_init(&t->resume);
    list_init(&t->graveyard);
    for (int i = 0; i < POOLS_MAX; i++)
        list_init(&t->waiting[i]);
    for (int i = 0; i < LISTENERS_MAX; i++)
        t->listeners[i].watch.fd = -1;
    bulkhead_init(t);
    buf_init(&t->log, 0);
    buf_init(&t->head, 0);
    buf_init(&t->lines, 0);
    t->commands_end = &t->commands;
    pthread_mutex_init(&t->mailbox_lock, NULL);
    int r = loop_new(&t->loop);
    if (r < 0)
        return r;
    loop_set_hooks(t->loop, &hooks);
    t->mailbox_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->mailbox_fd < 0)
        return -errno;
    return loop_watch_add(t->loop, &t->mailbox, t->mailbox_fd, LOOP_READ, on_mail);
}
