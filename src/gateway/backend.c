/*
 * One pool generation as one thread sees it: requests into the channel, answers out of the workers'
 * rings, and what happens to both when a worker or the whole pool process dies.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gateway/gateway_int.h"
#include "gateway/images.h"
#include "gateway/stats.h"
#include "gateway/upstream.h"

/* A worker that streams to a fast client must not keep the thread from the other connections. */
enum { PIECES_PER_LOOK = 64, LOOKS_PER_TURN = 16 };

static void on_news(struct loop_watch *w, unsigned events)
{
    /* Edge-triggered and never read: waking is all it is for. The rings are read after the batch.
     */
    (void)w;
    (void)events;
}

struct backend *backend_find(struct gateway_thread *t, const struct pool_link *link)
{
    LIST_FOR_EACH(it, &t->backends) {
        struct backend *b = LIST_ENTRY(it, struct backend, link);
        if (b->pool == link)
            return b;
    }
    return NULL;
}

int backend_add(struct gateway_thread *t, struct pool_link *link)
{
    struct backend *b = mem_zalloc(sizeof(*b));
    const struct config_pool *pool = &link->config->pools[link->pool];

    b->magic = BACKEND_MAGIC;
    b->pool = link;
    b->thread = t;
    b->news.fd = -1;
    int r = files_new(pool, link->root_fd, &b->files);
    if (link->channel) {
        b->inflight = mem_zalloc(channel_geometry(link->channel)->slots * sizeof(b->inflight[0]));
        if (r == 0)
            r = loop_watch_add(t->loop, &b->news, link->eventfds[t->index], LOOP_READ | LOOP_EDGE,
                               on_news);
    }
    if (r < 0) {
        files_free(b->files);
        mem_free(b->inflight);
        mem_free(b);
        return r;
    }
    if (pool->upstream)
        b->upstream = upstream_get(t, pool->upstream);
    if (link->channel)
        channel_defer(link->channel, t->index, CHANNEL_DEFER_NS, CHANNEL_DEFER_RESPONSES);
    list_push_back(&t->backends, &b->link);
    return 0;
}

void backend_free(struct backend *b)
{
    struct gateway_thread *t = b->thread;

    CHECK_MAGIC(b, BACKEND_MAGIC);
    CHECKF(b->n_inflight == 0, "%u requests", b->n_inflight);
    if (t->active[b->pool->pool] == b)
        t->active[b->pool->pool] = NULL;
    images_count(t, b->pool);
    list_remove(&b->link);
    loop_watch_remove(t->loop, &b->news);
    bulkhead_drop(b);
    upstream_put(b->upstream);
    files_free(b->files);
    mem_free(b->inflight);
    b->magic = 0;
    mem_free(b);
}

void backend_report_drained(struct backend *b)
{
    if (!b->draining || b->drain_reported || b->n_inflight)
        return;
    b->drain_reported = true;
    thread_tell(&b->thread->gateway->threads[0], gateway_on_link_idle, b->pool, 0, b->drains);
}

static void forget_ticket(struct backend *b, struct channel_ticket ticket)
{
    if (b->inflight[ticket.slot])
        b->inflight[ticket.slot]->backend = NULL;
    b->inflight[ticket.slot] = NULL;
    stats_left(b);
    DCHECK(b->n_inflight > 0);
    b->n_inflight--;
    if (unlikely(b->draining))
        backend_report_drained(b);
}

/* `over`: no worker is busy with it any more. */
static void leave_channel(struct backend *b, struct channel_ticket ticket, bool over)
{
    if (b->inflight[ticket.slot])
        bulkhead_leave(b->inflight[ticket.slot], b, ticket, over);
    forget_ticket(b, ticket);
}

int backend_push(struct backend *b, struct exchange *x, const struct channel_request *r)
{
    CHECK_MAGIC(b, BACKEND_MAGIC);
    int result = channel_push(b->pool->channel, b->thread->index, r, b->thread->pairs, &x->ticket);
    if (result < 0)
        return result;
    b->inflight[x->ticket.slot] = x;
    atomic_store_explicit(&b->pool->marks[x->ticket.slot], x->route_mark, memory_order_relaxed);
    b->n_inflight++;
    b->pushed++;
    stats_pushed(b);
    x->backend = b;
    return 0;
}

/* Not for every batch: the pool process looks at the queue itself while it has workers. */
static void ask_for_workers(struct pool_link *link, uint64_t now)
{
    enum { ASK_MS = 10 };
    struct control_message m;
    uint64_t asked = atomic_load_explicit(&link->asked_ns, memory_order_relaxed);

    if (now - asked < ASK_MS * NS_PER_MS ||
        !atomic_compare_exchange_strong_explicit(&link->asked_ns, &asked, now, memory_order_relaxed,
                                                 memory_order_relaxed))
        return;
    control_message_init(&m, CONTROL_WORKERS_WANTED);
    m.pool = link->pool;
    m.generation = link->generation;
    int r = control_send(link->socket_fd, &m, NULL, 0);
    if (r < 0 && r != -EAGAIN && r != -EPIPE && r != -ECONNRESET)
        log_error("cannot ask for workers: %s", strerror(-r));
}

void backend_wake(struct backend *b)
{
    uint32_t pushed = b->pushed;

    b->pushed = 0;
    if (channel_wake(b->pool->channel, b->thread->index) < pushed && b->pool->grows)
        ask_for_workers(b->pool, loop_now_ns(b->thread->loop));
}

bool backend_withdraw(struct exchange *x)
{
    struct backend *b = x->backend;

    if (!b || !channel_cancel(b->pool->channel, b->thread->index, x->ticket))
        return false;
    leave_channel(b, x->ticket, true);
    return true;
}

void backend_forget(struct exchange *x)
{
    struct backend *b = x->backend;

    if (!b || backend_withdraw(x))
        return;
    /* A worker has it: it is told, and what it still writes is dropped. What it wrote for the next
     * request may stand behind what this client did not take. */
    struct channel_ticket ticket = x->ticket;
    if (x->stalled)
        channel_mark(b->pool->channel, b->thread->index, x->stalled_worker);
    channel_abort(b->pool->channel, b->thread->index, ticket);
    leave_channel(b, ticket, false);
    channel_release(b->pool->channel, b->thread->index, ticket);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void kill_worker(struct gateway_thread *t, struct command *c)
{
    struct control_message m;

    control_message_init(&m, CONTROL_WORKER_KILL);
    m.worker = c->worker;
    m.incarnation = c->incarnation;
    if (!c->pool->dead && control_send(c->pool->socket.fd, &m, NULL, 0) < 0)
        log_error("cannot ask for the end of worker %u", c->worker);
    (void)t;
    mem_free(c);
}

static bool same_ticket(struct channel_ticket a, struct channel_ticket b)
{
    return a.slot == b.slot && a.seq == b.seq;
}

static bool is_end(const struct channel_piece *p)
{
    return p->type == CHANNEL_END || p->type == CHANNEL_PASS_ON;
}

/* The worker is done with this answer, so that what is left of it in the ring is all there will be:
 * that much goes beyond the limits of a slow client, or it would stand in the way of the answers
 * that the worker gives to others. */
static bool worker_has_left(const struct backend *b, const struct exchange *x,
                            const struct channel_piece *p, int n)
{
    uint32_t worker;

    return is_end(&p[n - 1]) ||
           channel_ticket_state(b->pool->channel, x->ticket, &worker) == CHANNEL_DONE;
}

/* Nothing of the request was used up, so that another worker can run it. */
static bool is_whole(const struct exchange *x)
{
    return !x->head_sent && (x->body_sink != BODY_STREAM || x->body_fd >= 0);
}

/* The image's worker does not want it: it runs in classic mode, with the gates that it holds. */
static void pass_on(struct backend *b, struct exchange *x)
{
    struct gateway_thread *t = b->thread;
    struct channel_ticket ticket = x->ticket;

    bulkhead_pass_on(x);
    stats_passed_on(b);
    forget_ticket(b, ticket);
    channel_release(b->pool->channel, t->index, ticket);
    fd_close(&x->file_fd);
    x->stalled = x->awaits_file = false;
    x->no_image = true;
    images_passed_on(x, b->pool);
    exchange_dispatch_again(x);
}

/* The pieces of one request. Returns how many were taken. */
static int take_group(struct backend *b, uint32_t worker, const struct channel_piece *p, int n)
{
    struct gateway_thread *t = b->thread;
    struct channel_ticket ticket = p[0].ticket;
    struct exchange *x = b->inflight[ticket.slot];

    /* The channel delivers only pieces of tickets that are out, and each of those has its exchange.
     */
    CHECK(x && x->ticket.seq == ticket.seq);
    if (unlikely(p[0].type == CHANNEL_PASS_ON) && b->pool->image && is_whole(x)) {
        channel_consume(b->pool->channel, t->index, worker, 1, 0);
        pass_on(b, x);
        return 1;
    }
    int taken = respond_pieces(x, p, n);
    if (taken == 0 && !x->awaits_file && worker_has_left(b, x, p, n)) {
        x->stalled = false;
        respond_pieces_now(x, p, n);
        taken = n;
    }
    if (x->stalled)
        x->stalled_worker = worker;
    bool ended = taken > 0 && is_end(&p[taken - 1]);
    channel_consume(b->pool->channel, t->index, worker, taken, 0);
    if (!ended)
        return taken;
    if (x->status < 500)
        stats_answered(b);
    leave_channel(b, ticket, false);
    channel_release(b->pool->channel, t->index, ticket);
    conn_advance(x->conn);
    return taken;
}

void backend_poll_worker(struct backend *b, uint32_t worker)
{
    struct channel_piece pieces[PIECES_PER_LOOK];
    struct gateway_thread *t = b->thread;
    struct channel_worker_info info;

    CHECK_MAGIC(b, BACKEND_MAGIC);
    for (int looks = 0;; looks++) {
        if (looks == LOOKS_PER_TURN && !t->take_all) {
            channel_mark(b->pool->channel, t->index, worker);
            return;
        }
        int n = channel_peek(b->pool->channel, t->index, worker, pieces, PIECES_PER_LOOK);
        if (n < 0) {
            log_error("worker %u of pool %.*s wrote nonsense into its ring; it is ended", worker,
                      STR_ARG(b->pool->config->pools[b->pool->pool].name));
            /* Its successor begins only after this thread has recovered it: this is the culprit. */
            channel_worker_look(b->pool->channel, worker, &info);
            thread_tell(&t->gateway->threads[0], kill_worker, b->pool, worker, info.incarnation);
            return;
        }
        if (n == 0)
            return;
        for (int at = 0; at < n;) {
            int end = at + 1;
            while (end < n && same_ticket(pieces[end].ticket, pieces[at].ticket))
                end++;
            int taken = take_group(b, worker, pieces + at, end - at);
            if (taken == 0)
                return; /* stalled: the client's pace decides when we come back */
            at += taken;
        }
    }
}

void backend_poll(struct backend *b)
{
    int worker;

    if (!b->pool->channel)
        return;
    while ((worker = channel_next_dirty(b->pool->channel, b->thread->index)) >= 0)
        backend_poll_worker(b, (uint32_t)worker);
}

/* --- death ------------------------------------------------------------------------------------ */

static void take_rest(struct backend *b, uint32_t worker)
{
    b->thread->take_all = true;
    backend_poll_worker(b, worker);
    b->thread->take_all = false;
}

void backend_worker_dead(struct backend *b, uint32_t worker, uint32_t incarnation)
{
    struct gateway_thread *t = b->thread;
    struct channel_ticket ticket;
    int status = b->pool->causes[worker] == CONTROL_CAUSE_TIMEOUT ? 504 : 502;

    take_rest(b, worker);
    while (channel_worker_recover(b->pool->channel, t->index, worker, incarnation, &ticket)) {
        struct exchange *x = b->inflight[ticket.slot];
        t->count.lost_workers++;
        leave_channel(b, ticket, true);
        if (x) {
            char id[REQUEST_ID_BYTES + 1];
            exchange_request_id(x, id);
            if (status == 504)
                log_error("request %s ran longer than request_timeout: worker %u was ended", id,
                          worker);
            else
                log_error("request %s was lost with worker %u", id, worker);
            respond_lost(x, status);
        }
    }
    thread_tell(&t->gateway->threads[0], gateway_on_recovered, b->pool, worker, incarnation);
}

void backend_abandon(struct backend *b)
{
    struct gateway_thread *t = b->thread;
    struct channel *ch = b->pool->channel;
    const struct channel_geometry *g = ch ? channel_geometry(ch) : NULL;

    if (t->active[b->pool->pool] == b)
        t->active[b->pool->pool] = NULL;
    b->awaits_pool = 0;
    images_count(t, b->pool);
    for (uint32_t w = 0; g && w < g->workers; w++)
        take_rest(b, w);
    for (uint32_t slot = 0; g && slot < g->slots; slot++) {
        struct exchange *x = b->inflight[slot];
        if (!x)
            continue;
        if (backend_withdraw(x)) {
            exchange_dispatch_again(x); /* never ran: the next generation takes it */
            continue;
        }
        leave_channel(b, x->ticket, true);
        t->count.lost_workers++;
        respond_lost(x, 502);
    }
    backend_report_drained(b);
}

void backend_take_waiting(struct backend *b)
{
    struct gateway_thread *t = b->thread;
    uint32_t pool = b->pool->pool;

    /* Only those there now: they come back when the new generation is gone already. */
    for (uint32_t n = t->n_waiting[pool]; n > 0 && t->active[pool] == b; n--) {
        struct exchange *x = LIST_ENTRY(t->waiting[pool].next, struct exchange, link);
        list_remove(&x->link);
        t->n_waiting[pool]--;
        exchange_dispatch_again(x);
    }
}

/* --- spooled bodies --------------------------------------------------------------------------- */

void backend_take_file(struct backend *b, struct channel_ticket ticket, uint32_t worker, int fd)
{
    struct exchange *x =
        ticket.slot < channel_geometry(b->pool->channel)->slots ? b->inflight[ticket.slot] : NULL;
    uint32_t owner = worker;

    /* DONE: the worker was faster than its message; the end stands in the ring yet. */
    enum channel_state state = channel_ticket_state(b->pool->channel, ticket, &owner);
    bool good = x && x->ticket.seq == ticket.seq && !x->head_sent && x->file_fd < 0 &&
                (state == CHANNEL_RUNNING || state == CHANNEL_DONE) && owner == worker;
    if (!good) {
        fd_close(&fd); /* its client has gone, or a worker that lies */
        return;
    }
    x->file_fd = fd;
    x->awaits_file = false;
    if (x->stalled) /* its head came first */
        conn_advance(x->conn);
}

void backend_send_body(struct backend *b, struct channel_ticket ticket, uint32_t worker)
{
    struct exchange *x =
        ticket.slot < channel_geometry(b->pool->channel)->slots ? b->inflight[ticket.slot] : NULL;
    struct control_message m;
    uint32_t owner;

    control_message_init(&m, CONTROL_BODY);
    m.ticket = ticket;
    bool good = x && x->ticket.seq == ticket.seq && x->body_fd >= 0 &&
                channel_ticket_state(b->pool->channel, ticket, &owner) == CHANNEL_RUNNING &&
                owner == worker &&
                (x->body_sink == BODY_STREAM || lseek(x->body_fd, 0, SEEK_SET) == 0);
    int socket = b->pool->worker_sockets[worker];
    if (socket < 0)
        return;
    int r = control_send(socket, &m, good ? &x->body_fd : NULL, good ? 1 : 0);
    if (r < 0)
        log_warn("cannot hand a request body to worker %u: errno %d", worker, -r);
    else if (good && x->body_sink == BODY_STREAM)
        stream_handed_over(x);
}
