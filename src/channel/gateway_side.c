/*
 * The gateway's side of a channel: slots, queue, wake-ups, reading of response rings, recovery.
 *
 * What the gateway decides by stands in its own memory (struct gate): which slots are free, the
 * sequence number of each, how far each ring was read, the headers of the pieces it has looked at.
 * What workers wrote is copied once, checked and at worst dropped; it never indexes memory
 * unchecked.
 */
#include <errno.h>

#include "base/mem.h"
#include "channel/channel.h"
#include "channel/channel_int.h"

enum use {
    USE_FREE,
    USE_ACTIVE,  /* pushed, not released */
    USE_PENDING, /* released, but a worker has not finished with it */
};

struct slot_use {
    uint32_t seq;
    uint16_t worker; /* whose pieces we take, once the first came; NO_WORKER before */
    uint8_t use;
    bool begun;    /* a piece of it was read from the ring */
    bool ended;    /* its END or PASS_ON was: nothing may follow */
    bool finished; /* and consumed */
    bool orphaned; /* its worker is dead: nobody will mark it DONE */
};
enum { NO_WORKER = 0xffff };

/* A record whose header was read; it is not read again. */
struct piece {
    uint64_t at;    /* ring position of the payload left */
    uint32_t bytes; /* payload left */
    uint32_t span;  /* ring bytes released with it, dropped records behind it included */
    uint32_t slot, seq;
    uint16_t status;
    uint8_t type, flags;
};

struct reader {
    uint64_t head;   /* released up to here; the shared head follows */
    uint64_t parsed; /* records up to here are in `piece` or dropped */
    uint32_t n;
    bool broken;
    struct piece piece[CACHED_PIECES];
};

struct gate {
    uint32_t thread, first_slot;
    uint64_t tail, head_seen; /* of the queue */
    uint32_t unwoken;         /* pushed since the last channel_wake */
    uint32_t n_free, n_pending;
    uint64_t defer_ns;
    bool answered; /* a response ended since the last sleep was declared */
    bool saw_close;
    uint64_t marks; /* of word next_word - 1: taken, not yet returned by channel_next_dirty */
    uint32_t next_word;
    uint64_t marked[BITMAP_WORDS]; /* marks the thread set itself */
    struct reader **readers;       /* by worker, made when first needed */
    struct slot_use *uses;         /* by slot - first_slot */
    uint32_t *free, *pending;      /* stacks of slot - first_slot: the hottest on top */
};

static struct gate *gate_new(struct channel *ch, uint32_t thread)
{
    uint32_t n = ch->at.slots_per_thread;
    struct gate *g = mem_zalloc(sizeof(*g));

    g->thread = thread;
    g->first_slot = thread * n;
    g->readers = mem_zalloc(ch->geometry.workers * sizeof(*g->readers));
    g->uses = mem_zalloc(n * sizeof(*g->uses));
    g->free = mem_alloc(n * sizeof(*g->free));
    g->pending = mem_alloc(n * sizeof(*g->pending));
    for (uint32_t i = 0; i < n; i++)
        g->free[i] = n - 1 - i;
    g->n_free = n;
    ch->gates[thread] = g;
    return g;
}

static inline struct gate *gate_of(struct channel *ch, uint32_t thread)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    CHECK(thread < ch->geometry.threads);
    struct gate *g = ch->gates[thread];
    return likely(g != NULL) ? g : gate_new(ch, thread);
}

static struct reader *reader_of(struct channel *ch, struct gate *g, uint32_t worker)
{
    CHECK(worker < ch->geometry.workers);
    if (unlikely(!g->readers[worker]))
        g->readers[worker] = mem_zalloc(sizeof(struct reader));
    return g->readers[worker];
}

void channel_gates_free(struct channel *ch)
{
    for (uint32_t t = 0; t < ch->geometry.threads; t++) {
        struct gate *g = ch->gates[t];
        if (!g)
            continue;
        for (uint32_t w = 0; w < ch->geometry.workers; w++)
            mem_free(g->readers[w]);
        mem_free(g->readers);
        mem_free(g->uses);
        mem_free(g->free);
        mem_free(g->pending);
        mem_free(g);
        ch->gates[t] = NULL;
    }
}

/* The slot's entry if the ticket is one this thread has out, else NULL. */
static struct slot_use *use_of(struct channel *ch, struct gate *g, struct channel_ticket t)
{
    uint32_t i = t.slot - g->first_slot; /* wraps below first_slot */

    if (i >= ch->at.slots_per_thread || g->uses[i].use != USE_ACTIVE || g->uses[i].seq != t.seq)
        return NULL;
    return &g->uses[i];
}

/* --- slots ------------------------------------------------------------------------------------ */
static bool worker_has_finished(const struct channel *ch, const struct gate *g, uint32_t i)
{
    const struct slot_use *u = &g->uses[i];
    if (u->orphaned)
        return true;
    /* Acquire: partner is the release store in channel_worker_done; we write the slot next. */
    uint64_t s = atomic_load_explicit(&slot_at(ch, g->first_slot + i)->state, memory_order_acquire);
    return state_of(s) == CHANNEL_DONE && state_seq(s) == u->seq;
}

static void slot_free(struct gate *g, uint32_t i)
{
    g->uses[i].use = USE_FREE;
    g->free[g->n_free++] = i;
}

static void collect_pending(const struct channel *ch, struct gate *g)
{
    uint32_t kept = 0;

    for (uint32_t k = 0; k < g->n_pending; k++) {
        if (worker_has_finished(ch, g, g->pending[k]))
            slot_free(g, g->pending[k]);
        else
            g->pending[kept++] = g->pending[k];
    }
    g->n_pending = kept;
}

/* The slot used last comes first: its lines are still in a cache. */
static bool slot_take(const struct channel *ch, struct gate *g, uint32_t *ret)
{
    if (g->n_pending && worker_has_finished(ch, g, g->pending[g->n_pending - 1])) {
        *ret = g->pending[--g->n_pending];
        return true;
    }
    if (!g->n_free)
        collect_pending(ch, g);
    if (!g->n_free)
        return false;
    *ret = g->free[--g->n_free];
    return true;
}

/* --- requests --------------------------------------------------------------------------------- */
static_assert(offsetof(struct channel_request, route) == (TEXTS - 1) * sizeof(struct str),
              "the texts are the first members of channel_request");

static size_t request_bytes(const struct channel_request *r, const struct channel_pair *headers)
{
    const struct str *texts = &r->method;
    size_t n = sizeof(struct slot) + (size_t)r->n_headers * 2 * sizeof(struct span);

    for (unsigned i = 0; i < TEXTS; i++)
        n += texts[i].n;
    for (uint32_t i = 0; i < r->n_headers; i++)
        n += headers[i].name.n + headers[i].value.n;
    return n;
}

size_t channel_inline_room(const struct channel *ch, const struct channel_request *r,
                           const struct channel_pair *headers)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    size_t n = request_bytes(r, headers);
    return n < ch->geometry.slot_bytes ? ch->geometry.slot_bytes - n : 0;
}

static inline uint32_t put_text(char *slot, uint32_t at, struct str text, struct span *ret)
{
    if (text.n)
        memcpy(slot + at, text.p, text.n);
    *ret = (struct span){ at, (uint32_t)text.n };
    return at + (uint32_t)text.n;
}

static void slot_fill(struct slot *s, const struct channel_request *r,
                      const struct channel_pair *headers)
{
    const struct str *texts = &r->method;
    struct span *pairs = (struct span *)(s + 1);
    char *base = (char *)s;
    uint32_t at = (uint32_t)(sizeof(*s) + r->n_headers * 2 * sizeof(struct span));

    s->n_headers = r->n_headers;
    s->content_length = r->content_length;
    s->received_ns = r->received_ns;
    atomic_store_explicit(&s->claimed_ns, 0, memory_order_relaxed);
    s->remote_port = r->remote_port;
    s->server_port = r->server_port;
    s->flags = r->flags;
    s->http_minor = r->http_minor;
    s->body_kind = (uint8_t)r->body_kind;
    s->limit_ms = r->limit_ms;
    for (unsigned i = 0; i < TEXTS; i++)
        at = put_text(base, at, texts[i], &s->text[i]);
    for (uint32_t i = 0; i < r->n_headers; i++) {
        at = put_text(base, at, headers[i].name, pairs++);
        at = put_text(base, at, headers[i].value, pairs++);
    }
    put_text(base, at, r->body_kind == CHANNEL_BODY_INLINE ? r->body : STR_NONE, &s->body);
}

/* The queue is full of tickets, some of them taken back: turns it round once, keeping those that
 * are still queued, in order. Only as many remain as there are slots, half the queue at most, so
 * this is paid for by the pushes since the last time. A ticket is out of the queue for a moment; a
 * worker that misses it sleeps, and the channel_wake that follows every push wakes it. */
static int queue_pack(struct channel *ch, struct gate *g)
{
    struct thread_block *b = thread_at(ch, g->thread);
    _Atomic uint64_t *cells = cells_at(ch, g->thread);
    unsigned shift = ch->at.queue_shift;
    uint64_t mask = (UINT64_C(1) << shift) - 1, end = g->tail;

    /* The bound is against a hostile head; an honest one only moves on. */
    for (uint64_t tries = 0; tries <= 4 * mask; tries++) {
        uint64_t h = atomic_load_explicit(&b->queue_head, memory_order_acquire);
        if (g->tail - h > mask + 1)
            return -EPROTO;
        g->head_seen = h;
        if (h - end <= mask + 1) /* round; workers may have gone on into the second turn */
            break;
        uint64_t cell = atomic_load_explicit(&cells[h & mask], memory_order_relaxed);
        struct channel_ticket t = { cell_slot(cell), cell_seq(cell) };
        /* Failing means that a worker moved it on. */
        if (!atomic_compare_exchange_strong_explicit(&b->queue_head, &h, h + 1,
                                                     memory_order_acq_rel, memory_order_relaxed))
            continue;
        if (!use_of(ch, g, t) || channel_ticket_state(ch, t, NULL) != CHANNEL_QUEUED)
            continue;
        atomic_store_explicit(&cells[g->tail & mask], cell_word(g->tail, shift, t.slot, t.seq),
                              memory_order_release);
        g->tail++;
        g->unwoken++;
    }
    return g->tail - g->head_seen > mask ? -EPROTO : 0;
}

static int queue_make_room(struct channel *ch, struct gate *g)
{
    uint64_t size = UINT64_C(1) << ch->at.queue_shift;

    if (likely(g->tail - g->head_seen < size))
        return 0;
    /* Acquire: partner is the worker's move of the head; it has read the cell we write next. */
    g->head_seen =
        atomic_load_explicit(&thread_at(ch, g->thread)->queue_head, memory_order_acquire);
    if (g->tail - g->head_seen > size) {
        g->head_seen = g->tail - size;
        return -EPROTO;
    }
    return g->tail - g->head_seen < size ? 0 : queue_pack(ch, g);
}

int channel_push(struct channel *ch, uint32_t thread, const struct channel_request *r,
                 const struct channel_pair *headers, struct channel_ticket *ret)
{
    struct gate *g = gate_of(ch, thread);
    struct thread_block *b = thread_at(ch, thread);
    size_t need = request_bytes(r, headers) + (r->body_kind == CHANNEL_BODY_INLINE ? r->body.n : 0);
    uint32_t i;

    if (unlikely(is_closed(ch)))
        return -ESHUTDOWN;
    if (need > ch->geometry.slot_bytes)
        return -E2BIG;
    int e = queue_make_room(ch, g);
    if (unlikely(e < 0))
        return e;
    if (unlikely(!slot_take(ch, g, &i))) {
        count_up(&b->queue_full);
        return -EAGAIN;
    }

    struct slot_use *u = &g->uses[i];
    uint32_t seq = u->seq + 1 ? u->seq + 1 : 1;
    struct channel_ticket t = { g->first_slot + i, seq };
    struct slot *s = slot_at(ch, t.slot);
    *u = (struct slot_use){ .seq = seq, .worker = NO_WORKER, .use = USE_ACTIVE };
    slot_fill(s, r, headers);
    /* Release: partner is the claiming compare-and-swap. */
    atomic_store_explicit(&s->state, state_word(CHANNEL_QUEUED, 0, 0, seq), memory_order_release);
    STEP();
    /* Release: partner is the worker's load of the cell; it then sees the state above. */
    uint64_t mask = (UINT64_C(1) << ch->at.queue_shift) - 1;
    atomic_store_explicit(&cells_at(ch, thread)[g->tail & mask],
                          cell_word(g->tail, ch->at.queue_shift, t.slot, seq),
                          memory_order_release);
    STEP();
    g->tail++;
    g->unwoken++;
    count_up(&b->pushed);
    *ret = t;
    return 0;
}

/* Claims up to `n` idle workers, lowest first, and wakes them. */
static unsigned wake_idle(struct channel *ch, uint32_t n)
{
    unsigned woken = 0, words = (ch->geometry.workers + 63) / 64;

    for (unsigned i = 0; i < words && woken < n; i++) {
        uint64_t idle = atomic_load_explicit(&ch->head->idle[i], memory_order_relaxed);
        uint64_t want = 0;
        for (unsigned k = woken; k < n && idle; k++) {
            want |= idle & -idle;
            idle &= idle - 1;
        }
        if (!want)
            continue;
        uint64_t got = want &
                       atomic_fetch_and_explicit(&ch->head->idle[i], ~want, memory_order_acq_rel);
        STEP();
        for (; got; got &= got - 1) {
            uint32_t worker = i * 64 + (uint32_t)__builtin_ctzll(got);
            if (worker >= ch->geometry.workers)
                break; /* a hostile bit */
            worker_wake(worker_at(ch, worker));
            woken++;
        }
    }
    return woken;
}

unsigned channel_wake(struct channel *ch, uint32_t thread)
{
    struct gate *g = gate_of(ch, thread);
    uint32_t n = g->unwoken;

    if (!n)
        return 0;
    g->unwoken = 0;
    /* (idle): cells were written, now the idle bits. Partner: the fence in wait_for_work. */
    atomic_thread_fence(memory_order_seq_cst);
    unsigned woken = wake_idle(ch, n);
    if (woken) {
        struct thread_block *b = thread_at(ch, thread);
        atomic_store_explicit(&b->wakes,
                              atomic_load_explicit(&b->wakes, memory_order_relaxed) + woken,
                              memory_order_relaxed);
    }
    return woken;
}

bool channel_cancel(struct channel *ch, uint32_t thread, struct channel_ticket t)
{
    struct gate *g = gate_of(ch, thread);
    const struct slot_use *u = use_of(ch, g, t);

    if (!u || u->worker != NO_WORKER)
        return false;
    uint64_t queued = state_word(CHANNEL_QUEUED, 0, 0, t.seq);
    /* The cell stays in the queue: whoever finds it at the head skips it. */
    if (!atomic_compare_exchange_strong_explicit(&slot_at(ch, t.slot)->state, &queued,
                                                 state_word(CHANNEL_FREE, 0, 0, t.seq),
                                                 memory_order_acq_rel, memory_order_relaxed))
        return false;
    slot_free(g, t.slot - g->first_slot);
    count_up(&thread_at(ch, thread)->canceled);
    return true;
}

enum channel_state channel_ticket_state(const struct channel *ch, struct channel_ticket t,
                                        uint32_t *ret_worker)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    if (t.slot >= ch->geometry.slots)
        return CHANNEL_STALE;
    uint64_t s = atomic_load_explicit(&slot_at(ch, t.slot)->state, memory_order_acquire);
    if (state_seq(s) != t.seq || state_of(s) >= CHANNEL_STALE ||
        (state_of(s) == CHANNEL_RUNNING && state_worker(s) >= ch->geometry.workers))
        return CHANNEL_STALE;
    if (state_of(s) == CHANNEL_RUNNING && ret_worker)
        *ret_worker = state_worker(s);
    return state_of(s);
}

void channel_abort(struct channel *ch, uint32_t thread, struct channel_ticket t)
{
    struct gate *g = gate_of(ch, thread);
    uint32_t worker;

    if (!use_of(ch, g, t))
        return;
    atomic_store_explicit(&slot_at(ch, t.slot)->aborted, t.seq, memory_order_release);
    if (channel_ticket_state(ch, t, &worker) != CHANNEL_RUNNING)
        return;
    /* What a slow client left in the ring is to be looked at again: it need not be kept for it. */
    channel_mark(ch, thread, worker);
    /* (abort): partner is the fence in wait_for_space. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ring_at(ch, worker, thread)->waiting, memory_order_relaxed))
        worker_wake(worker_at(ch, worker));
}

/* --- the gateway's sleep ---------------------------------------------------------------------- */
void channel_defer(struct channel *ch, uint32_t thread, uint64_t bound_ns, uint32_t responses)
{
    struct gate *g = gate_of(ch, thread);

    g->defer_ns = responses ? bound_ns : 0;
    atomic_store_explicit(&thread_at(ch, thread)->defer_responses, bound_ns ? responses : 0,
                          memory_order_relaxed);
}

static bool any_dirty(const struct channel *ch, const struct gate *g, struct thread_block *b)
{
    uint64_t any = g->marks;

    for (unsigned i = 0; i < (ch->geometry.workers + 63) / 64; i++)
        any |= g->marked[i] | atomic_load_explicit(&b->dirty[i], memory_order_seq_cst);
    return any != 0;
}

/* Requests pushed and not released. */
static uint32_t in_flight(const struct channel *ch, const struct gate *g)
{
    return ch->at.slots_per_thread - g->n_free - g->n_pending;
}

bool channel_gateway_sleep(struct channel *ch, uint32_t thread, uint64_t *ret_max_sleep_ns)
{
    struct gate *g = gate_of(ch, thread);
    struct thread_block *b = thread_at(ch, thread);
    enum sleep_mode mode = ASLEEP;

    /* Signals may be put off only while there is a backlog: more queued than the workers that were
     * just woken will take at once. A single request in flight is always answered at once. And only
     * while answers come: else a backlog behind slow scripts would wake us 5,000 times a second. */
    if (g->defer_ns && g->answered && in_flight(ch, g) > ch->geometry.workers) {
        uint64_t queued = g->tail - atomic_load_explicit(&b->queue_head, memory_order_relaxed);
        if (queued > ch->geometry.workers)
            mode = ASLEEP_BOUNDED;
    }
    g->answered = false;
    /* (sleep): partner is the dirty bit in publish; both sides are sequentially consistent. */
    atomic_store_explicit(&b->sleeping, mode, memory_order_seq_cst);
    STEP();
    bool closed_now = is_closed(ch) && !g->saw_close;
    if (any_dirty(ch, g, b) || closed_now) {
        g->saw_close |= closed_now;
        atomic_store_explicit(&b->sleeping, AWAKE, memory_order_relaxed);
        return true;
    }
    *ret_max_sleep_ns = mode == ASLEEP_BOUNDED ? g->defer_ns : UINT64_MAX;
    return false;
}

void channel_gateway_awake(struct channel *ch, uint32_t thread)
{
    CHECK(thread < ch->geometry.threads);
    struct thread_block *b = thread_at(ch, thread);

    if (atomic_load_explicit(&b->sleeping, memory_order_relaxed) != AWAKE)
        atomic_store_explicit(&b->sleeping, AWAKE, memory_order_relaxed);
}

/* --- responses -------------------------------------------------------------------------------- */
void channel_mark(struct channel *ch, uint32_t thread, uint32_t worker)
{
    struct gate *g = gate_of(ch, thread);

    CHECK(worker < ch->geometry.workers);
    g->marked[worker / 64] |= UINT64_C(1) << worker % 64;
}

/* Takes the marks of a word: each word once a pass, so that workers who write all the time do not
 * keep the thread from its other work. */
static uint64_t take_marks(struct gate *g, struct thread_block *b, unsigned word)
{
    uint64_t marks = g->marked[word];

    g->marked[word] = 0;
    if (atomic_load_explicit(&b->dirty[word], memory_order_relaxed))
        /* Acquire: partner is the release of the bit in publish; the tail behind it is seen. */
        marks |= atomic_exchange_explicit(&b->dirty[word], 0, memory_order_acquire);
    return marks;
}

int channel_next_dirty(struct channel *ch, uint32_t thread)
{
    struct gate *g = gate_of(ch, thread);
    struct thread_block *b = thread_at(ch, thread);

    for (;;) {
        while (g->marks) {
            uint32_t worker = (g->next_word - 1) * 64 + (uint32_t)__builtin_ctzll(g->marks);
            g->marks &= g->marks - 1;
            if (worker < ch->geometry.workers)
                return (int)worker;
        }
        if (g->next_word == (ch->geometry.workers + 63) / 64) {
            g->next_word = 0;
            return -1;
        }
        g->marks = take_marks(g, b, g->next_word++);
    }
}

/* Is the record's ticket one this thread has running with that worker? Remembers the answer. */
static bool piece_is_ours(struct channel *ch, struct gate *g, uint32_t worker,
                          struct channel_ticket t)
{
    struct slot_use *u = use_of(ch, g, t);

    if (!u || u->ended)
        return false;
    if (u->worker == NO_WORKER) {
        uint64_t s = atomic_load_explicit(&slot_at(ch, t.slot)->state, memory_order_acquire);
        if ((state_of(s) != CHANNEL_RUNNING && state_of(s) != CHANNEL_DONE) ||
            state_seq(s) != t.seq || state_worker(s) != worker)
            return false;
        u->worker = (uint16_t)worker;
    }
    return u->worker == worker;
}

static void ring_release(struct channel *ch, uint32_t thread, uint32_t worker, struct reader *rd)
{
    struct ring_control *rc = ring_at(ch, worker, thread);

    /* Release: partner is the worker's acquire load of the head; we have read the bytes. */
    atomic_store_explicit(&rc->head, rd->head, memory_order_release);
    STEP();
    /* (space): partner is the fence in wait_for_space. */
    atomic_thread_fence(memory_order_seq_cst);
    if (likely(!atomic_load_explicit(&rc->waiting, memory_order_relaxed)))
        return;
    /* It waits for half the ring at most, and had published all it wrote. */
    uint64_t used = atomic_load_explicit(&rc->tail, memory_order_relaxed) - rd->head;
    if (used > ch->geometry.ring_bytes / 2 && used <= ch->geometry.ring_bytes)
        return;
    atomic_store_explicit(&rc->waiting, 0, memory_order_relaxed);
    count_up(&thread_at(ch, thread)->ring_wakes);
    worker_wake(worker_at(ch, worker));
}

static struct record record_read(struct channel *ch, uint32_t thread, uint32_t worker, uint64_t at)
{
    struct record rec;
    char *p = ring_bytes_at(ch, worker, thread) + (at & (ch->geometry.ring_bytes - 1));

    memcpy(&rec, p, sizeof(rec));
    copied();
    return rec;
}

/* Reads headers of published records until the cache is full. */
static int ring_parse(struct channel *ch, struct gate *g, uint32_t worker, struct reader *rd)
{
    /* Acquire: partner is the release of the tail in publish. */
    uint64_t tail =
        atomic_load_explicit(&ring_at(ch, worker, g->thread)->tail, memory_order_acquire);
    uint64_t released = rd->head;

    if (tail - rd->head > ch->geometry.ring_bytes || tail % RECORD_ALIGN ||
        tail - rd->head < rd->parsed - rd->head)
        return -EPROTO;
    while (rd->parsed != tail && rd->n < CACHED_PIECES) {
        struct record rec = record_read(ch, g->thread, worker, rd->parsed);
        if (rec.type < CHANNEL_HEAD || rec.type > CHANNEL_PASS_ON ||
            rec.bytes > ch->geometry.ring_bytes - sizeof(rec) ||
            record_span(rec.bytes) > tail - rd->parsed)
            return -EPROTO;
        uint32_t span = record_span(rec.bytes);
        struct channel_ticket t = { rec.slot, rec.seq };
        if (likely(piece_is_ours(ch, g, worker, t))) {
            rd->piece[rd->n++] = (struct piece){ .at = rd->parsed + sizeof(rec),
                                                 .bytes = rec.bytes,
                                                 .span = span,
                                                 .slot = rec.slot,
                                                 .seq = rec.seq,
                                                 .status = rec.status,
                                                 .type = rec.type,
                                                 .flags = rec.flags };
            struct slot_use *u = use_of(ch, g, t);
            /* What was answered in part cannot be another worker's any more. */
            if (rec.type == CHANNEL_PASS_ON && u->begun)
                return -EPROTO;
            u->begun = true;
            u->ended = rec.type == CHANNEL_END || rec.type == CHANNEL_PASS_ON;
        } else {
            count_up(&thread_at(ch, g->thread)->dropped);
            if (rd->n)
                rd->piece[rd->n - 1].span += span;
            else
                rd->head += span;
        }
        rd->parsed += span;
    }
    if (unlikely(rd->head != released))
        ring_release(ch, g->thread, worker, rd);
    return 0;
}

static void piece_show(struct channel *ch, uint32_t thread, uint32_t worker, const struct piece *p,
                       struct channel_piece *ret)
{
    char *ring = ring_bytes_at(ch, worker, thread);
    uint32_t at = (uint32_t)p->at & (ch->geometry.ring_bytes - 1);
    uint32_t first = ch->geometry.ring_bytes - at;

    if (first > p->bytes)
        first = p->bytes;
    ret->type = p->type;
    ret->status = p->status;
    ret->flags = p->flags;
    ret->ticket = (struct channel_ticket){ p->slot, p->seq };
    ret->iov[0] = (struct iovec){ ring + at, first };
    ret->iov[1] = (struct iovec){ ring, p->bytes - first };
    ret->n_iov = p->bytes == 0 ? 0 : p->bytes == first ? 1 : 2;
    ret->bytes = p->bytes;
}

int channel_peek(struct channel *ch, uint32_t thread, uint32_t worker, struct channel_piece *ret,
                 int max)
{
    struct gate *g = gate_of(ch, thread);
    struct reader *rd = reader_of(ch, g, worker);

    if (rd->broken)
        return -EPROTO;
    if (ring_parse(ch, g, worker, rd) < 0) {
        rd->broken = true;
        return -EPROTO;
    }
    int n = max < (int)rd->n ? max : (int)rd->n;
    for (int i = 0; i < n; i++)
        piece_show(ch, thread, worker, &rd->piece[i], &ret[i]);
    return n;
}

void channel_consume(struct channel *ch, uint32_t thread, uint32_t worker, int pieces, size_t bytes)
{
    struct gate *g = gate_of(ch, thread);
    struct reader *rd = reader_of(ch, g, worker);

    CHECKF(pieces >= 0 && (uint32_t)pieces + (bytes > 0) <= rd->n, "%d of %u pieces", pieces,
           rd->n);
    for (int i = 0; i < pieces; i++) {
        struct piece *p = &rd->piece[i];
        rd->head += p->span;
        struct slot_use *u = use_of(ch, g, (struct channel_ticket){ p->slot, p->seq });
        if ((p->type == CHANNEL_END || p->type == CHANNEL_PASS_ON) && u)
            u->finished = g->answered = true;
    }
    rd->n -= (uint32_t)pieces;
    if (rd->n && pieces)
        memmove(rd->piece, rd->piece + pieces, rd->n * sizeof(rd->piece[0]));
    if (bytes) {
        struct piece *p = &rd->piece[0];
        CHECKF(bytes <= p->bytes, "%zu of %u bytes", bytes, p->bytes);
        p->at += bytes;
        p->bytes -= (uint32_t)bytes;
        /* Give back what is whole, so that a long piece to a slow client frees room as it goes. */
        uint32_t whole = (uint32_t)(p->at - rd->head) / RECORD_ALIGN * RECORD_ALIGN;
        rd->head += whole;
        p->span -= whole;
    }
    if (pieces || bytes)
        ring_release(ch, thread, worker, rd);
}

/* Pieces of a ticket nobody waits for any more leave the cache. */
static void reader_purge(struct reader *rd, uint32_t slot, uint32_t seq)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < rd->n; i++) {
        struct piece *p = &rd->piece[i];
        if (p->slot != slot || p->seq != seq)
            rd->piece[kept++] = *p;
        else if (kept)
            rd->piece[kept - 1].span += p->span;
        else
            rd->head += p->span;
    }
    rd->n = kept;
}

void channel_release(struct channel *ch, uint32_t thread, struct channel_ticket t)
{
    struct gate *g = gate_of(ch, thread);
    struct slot_use *u = use_of(ch, g, t);
    uint32_t i = t.slot - g->first_slot;

    CHECKF(u, "ticket %u/%u is not out", t.slot, t.seq);
    if (unlikely(u->worker == NO_WORKER) && channel_cancel(ch, thread, t))
        return;
    uint32_t worker = u->worker;
    u->use = USE_PENDING;
    /* A worker blocked on the full ring goes on; what it still writes is dropped when it is parsed.
     */
    if (worker != NO_WORKER) {
        struct reader *rd = reader_of(ch, g, worker);
        uint64_t head = rd->head;
        reader_purge(rd, t.slot, t.seq);
        if (rd->head != head)
            ring_release(ch, thread, worker, rd);
        if (!u->ended && !rd->broken && ring_parse(ch, g, worker, rd) < 0)
            rd->broken = true;
    }
    if (u->orphaned)
        slot_free(g, i);
    else
        g->pending[g->n_pending++] = i;
}

/* --- death of a worker ------------------------------------------------------------------------ */
static void ring_reset(struct channel *ch, struct gate *g, uint32_t worker)
{
    struct ring_control *rc = ring_at(ch, worker, g->thread);
    struct reader *rd = reader_of(ch, g, worker);

    *rd = (struct reader){ 0 };
    /* Nobody writes here: the worker is dead and its successor waits for the grant (release). */
    atomic_store_explicit(&rc->head, 0, memory_order_relaxed);
    atomic_store_explicit(&rc->waiting, 0, memory_order_relaxed);
    atomic_store_explicit(&rc->tail, 0, memory_order_relaxed);
}

/* Whose pieces came is known here; of a request without pieces the slot tells. */
static bool slot_died_with(const struct channel *ch, const struct gate *g, uint32_t i,
                           uint32_t worker, uint32_t incarnation)
{
    const struct slot_use *u = &g->uses[i];

    if (u->worker != NO_WORKER)
        return u->worker == worker;
    uint64_t s = atomic_load_explicit(&slot_at(ch, g->first_slot + i)->state, memory_order_acquire);
    return (state_of(s) == CHANNEL_RUNNING || state_of(s) == CHANNEL_DONE) &&
           state_worker(s) == worker && state_incarnation(s) == (incarnation & 0xffff) &&
           state_seq(s) == u->seq;
}

/* Is something queued by this thread? */
static bool queue_has_work(const struct channel *ch, const struct gate *g)
{
    uint64_t h = atomic_load_explicit(&thread_at(ch, g->thread)->queue_head, memory_order_acquire);
    return h != g->tail;
}

bool channel_worker_recover(struct channel *ch, uint32_t thread, uint32_t worker,
                            uint32_t incarnation, struct channel_ticket *ret)
{
    struct gate *g = gate_of(ch, thread);
    struct thread_block *b = thread_at(ch, thread);
    bool lost = false;

    CHECK(worker < ch->geometry.workers);
    atomic_fetch_and_explicit(&ch->head->idle[worker / 64], ~(UINT64_C(1) << worker % 64),
                              memory_order_acq_rel);
    ring_reset(ch, g, worker);
    /* What it said of itself last is over; its successor waits for the grant. */
    atomic_store_explicit(&worker_at(ch, worker)->state, CHANNEL_WORKER_NONE, memory_order_relaxed);
    for (uint32_t i = 0; i < ch->at.slots_per_thread; i++) {
        struct slot_use *u = &g->uses[i];
        if (u->use == USE_FREE || u->orphaned || !slot_died_with(ch, g, i, worker, incarnation))
            continue;
        uint64_t s =
            atomic_load_explicit(&slot_at(ch, g->first_slot + i)->state, memory_order_relaxed);
        if (state_of(s) == CHANNEL_RUNNING)
            count_up(&b->recovered_running);
        u->orphaned = true;
        if (u->use == USE_ACTIVE && !u->finished) {
            *ret = (struct channel_ticket){ g->first_slot + i, u->seq };
            lost = true;
            slot_free(g, i);
            count_up(&b->recovered);
            break;
        }
    }
    collect_pending(ch, g);
    /* It may have been claimed for a wake-up it did not live to follow. */
    if (queue_has_work(ch, g)) {
        atomic_thread_fence(memory_order_seq_cst); /* (idle) */
        wake_idle(ch, 1);
    }
    return lost;
}

void channel_worker_grant(struct channel *ch, uint32_t worker, uint32_t incarnation)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    CHECK(worker < ch->geometry.workers);
    struct worker_block *b = worker_at(ch, worker);

    /* Release: partner is the load in channel_worker_attach; rings and slots were recovered before.
     */
    atomic_store_explicit(&b->grant, (uint64_t)incarnation + 1, memory_order_release);
    worker_wake(b);
}
