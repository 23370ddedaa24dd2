/*
 * The worker's side of a channel: claiming requests, sleeping, writing responses.
 *
 * One process, one thread, one request at a time. It may be killed between any two instructions;
 * what it owns is then found by its index and incarnation in the slot's state word. Slots are
 * written by the gateway and checked all the same: one memory error there must not become one in
 * every worker.
 */
#include <errno.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "channel/channel.h"
#include "channel/channel_int.h"

enum { NO_SLOT = 0xffffffffu };
#define WORKER_MAGIC 0x57524b52u
/* Requests this short on average make waiting for the next ones cheaper than a wake-up each. */
#define DEFER_REQUEST_NS (50 * NS_PER_US)

struct ring_writer {
    uint64_t tail;       /* written up to here */
    uint64_t published;  /* visible up to here */
    uint64_t head_seen;  /* the gateway had consumed up to here */
    uint64_t last;       /* start of the last record */
    uint32_t last_bytes; /* its payload, 0: cannot grow */
};

struct channel_worker {
    uint32_t magic;
    uint32_t index, incarnation;
    struct channel *ch;
    struct worker_block *block;
    _Atomic uint32_t draining; /* set by signal handlers */
    int eventfds[CHANNEL_THREADS_MAX];

    uint32_t slot, seq, thread; /* slot NO_SLOT: no request */
    uint32_t n_headers;
    struct span *headers; /* in the slot; entries are copied one by one */
    int dropping;         /* -ECANCELED or -ESHUTDOWN: nothing more of this response is written */
    bool ended;
    uint32_t first_thread; /* whose queue is looked at first */

    uint64_t claimed_ns;
    uint64_t average_ns; /* of the time between claims without sleep */
    uint32_t deferred, deferred_threads;
    struct ring_writer rings[CHANNEL_THREADS_MAX];
};

/* --- attach ----------------------------------------------------------------------------------- */
static int wait_for_grant(struct channel *ch, struct worker_block *b, uint32_t incarnation)
{
    for (;;) {
        uint32_t wake = atomic_load_explicit(&b->wake, memory_order_acquire);
        if (is_closed(ch))
            return -ESHUTDOWN;
        /* Acquire: partner is the release in channel_worker_grant. */
        if (atomic_load_explicit(&b->grant, memory_order_acquire) == (uint64_t)incarnation + 1)
            return 0;
        if (futex_wait(&b->wake, wake, UINT64_MAX) == -EINTR)
            return -EINTR;
    }
}

static void show_state(struct channel_worker *w, unsigned state)
{
    atomic_store_explicit(&w->block->state, state, memory_order_relaxed);
}

int channel_worker_attach(struct channel *ch, uint32_t index, uint32_t incarnation,
                          const int *eventfds, struct channel_worker **ret)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    CHECK(index < ch->geometry.workers);
    struct worker_block *b = worker_at(ch, index);
    int r = wait_for_grant(ch, b, incarnation);

    if (r < 0)
        return r;
    struct channel_worker *w = ch->keep ? ch->keep(sizeof(*w)) : mem_zalloc(sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->magic = WORKER_MAGIC;
    w->index = index;
    w->incarnation = incarnation;
    w->ch = ch;
    w->block = b;
    w->slot = NO_SLOT;
    w->first_thread = index % ch->geometry.threads;
    memcpy(w->eventfds, eventfds, ch->geometry.threads * sizeof(int));
    /* Rings were reset to position 0 before the grant, as w->rings are. */
    atomic_store_explicit(&b->incarnation, incarnation, memory_order_relaxed);
    atomic_store_explicit(&b->pid, (uint32_t)getpid(), memory_order_relaxed);
    atomic_store_explicit(&b->requests, 0, memory_order_relaxed);
    atomic_store_explicit(&b->attached_ns, clock_realtime_ns(), memory_order_relaxed);
    atomic_store_explicit(&b->last_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&b->last_cpu_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&b->rollbacks, 0, memory_order_relaxed);
    atomic_store_explicit(&b->rollback_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&b->last_memory, 0, memory_order_relaxed);
    atomic_store_explicit(&b->since_ns, clock_monotonic_ns(), memory_order_relaxed);
    show_state(w, CHANNEL_WORKER_IDLE);
    *ret = w;
    return 0;
}

/* --- signals to the gateway ------------------------------------------------------------------- */
static void signal_thread(struct channel_worker *w, uint32_t thread)
{
    /* The one who takes the flag down writes; a thread is not written to twice for one sleep. */
    if (atomic_exchange_explicit(&thread_at(w->ch, thread)->sleeping, AWAKE,
                                 memory_order_acq_rel) == AWAKE)
        return;
    STEP();
    eventfd_signal(w->eventfds[thread]);
    count_up32(&w->block->signals);
}

static void signal_deferred(struct channel_worker *w)
{
    for (; w->deferred_threads; w->deferred_threads &= w->deferred_threads - 1)
        signal_thread(w, (uint32_t)__builtin_ctz(w->deferred_threads));
    w->deferred = 0;
}

/* Is there a ticket, dead or alive, at the head of the thread's queue? */
static bool queue_filled(const struct channel *ch, uint32_t thread)
{
    uint64_t h = atomic_load_explicit(&thread_at(ch, thread)->queue_head, memory_order_acquire);
    uint64_t mask = (UINT64_C(1) << ch->at.queue_shift) - 1;
    return cell_filled(atomic_load_explicit(&cells_at(ch, thread)[h & mask], memory_order_acquire),
                       h, ch->at.queue_shift);
}

static bool may_defer(const struct channel_worker *w, const struct thread_block *b)
{
    return w->average_ns < DEFER_REQUEST_NS &&
           w->deferred + 1 < atomic_load_explicit(&b->defer_responses, memory_order_relaxed) &&
           queue_filled(w->ch, w->thread);
}

/* Makes what was written visible and sees to it that the gateway looks at it. `end`: of a response.
 */
static void publish(struct channel_worker *w, struct ring_writer *ring, bool end)
{
    struct thread_block *b = thread_at(w->ch, w->thread);

    ring->last_bytes = 0;
    if (ring->published == ring->tail)
        return;
    /* Release: partner is the acquire load in ring_parse. */
    atomic_store_explicit(&ring_at(w->ch, w->index, w->thread)->tail, ring->tail,
                          memory_order_release);
    ring->published = ring->tail;
    STEP();
    /* (sleep): partner is channel_gateway_sleep. */
    atomic_fetch_or_explicit(&b->dirty[w->index / 64], UINT64_C(1) << w->index % 64,
                             memory_order_seq_cst);
    STEP();
    uint32_t sleeping = atomic_load_explicit(&b->sleeping, memory_order_seq_cst);
    if (sleeping == AWAKE)
        return;
    if (sleeping == ASLEEP_BOUNDED && end && may_defer(w, b)) {
        w->deferred++;
        w->deferred_threads |= UINT32_C(1) << w->thread;
        return;
    }
    signal_thread(w, w->thread);
    w->deferred = 0;
    w->deferred_threads &= ~(UINT32_C(1) << w->thread);
}

/* --- requests --------------------------------------------------------------------------------- */
static bool text_at(const struct channel_worker *w, const struct slot *s, struct span span,
                    struct str *ret)
{
    if (span.offset > w->ch->geometry.slot_bytes ||
        span.bytes > w->ch->geometry.slot_bytes - span.offset)
        return false;
    *ret = (struct str){ (const char *)s + span.offset, span.bytes };
    return true;
}

/* The head is copied once; the copy is what is checked and used. */
static int request_read(struct channel_worker *w, struct channel_request *ret)
{
    struct slot *shared = slot_at(w->ch, w->slot), s;
    struct str *texts = &ret->method;

    memcpy((char *)&s + offsetof(struct slot, n_headers),
           (char *)shared + offsetof(struct slot, n_headers),
           sizeof(s) - offsetof(struct slot, n_headers));
    copied();
    for (unsigned i = 0; i < TEXTS; i++)
        if (!text_at(w, shared, s.text[i], &texts[i]))
            return -EPROTO;
    if (!text_at(w, shared, s.body, &ret->body) || s.body_kind > CHANNEL_BODY_STREAM ||
        s.content_length < -1 ||
        s.n_headers > (w->ch->geometry.slot_bytes - sizeof(s)) / (2 * sizeof(struct span)))
        return -EPROTO;
    ret->remote_port = s.remote_port;
    ret->server_port = s.server_port;
    ret->flags = s.flags;
    ret->http_minor = s.http_minor;
    ret->body_kind = s.body_kind;
    ret->content_length = s.content_length;
    ret->received_ns = s.received_ns;
    ret->limit_ms = s.limit_ms;
    ret->claimed_ns = w->claimed_ns;
    ret->n_headers = s.n_headers;
    w->n_headers = s.n_headers;
    w->headers = (struct span *)(shared + 1);
    return 0;
}

int channel_request_header(const struct channel_worker *w, uint32_t i, struct channel_pair *ret)
{
    struct span spans[2];
    struct channel_pair pair;

    CHECK_MAGIC(w, WORKER_MAGIC);
    CHECK(w->slot != NO_SLOT && i < w->n_headers);
    const struct slot *s = slot_at(w->ch, w->slot);
    memcpy(spans, w->headers + 2 * (size_t)i, sizeof(spans));
    copied();
    if (!text_at(w, s, spans[0], &pair.name) || !text_at(w, s, spans[1], &pair.value))
        return -EPROTO;
    *ret = pair;
    return 0;
}

/* Takes the oldest live ticket of a thread's queue. */
static bool claim_from(struct channel_worker *w, uint32_t thread)
{
    struct channel *ch = w->ch;
    struct thread_block *b = thread_at(ch, thread);
    _Atomic uint64_t *cells = cells_at(ch, thread);
    unsigned shift = ch->at.queue_shift;
    uint64_t mask = (UINT64_C(1) << shift) - 1;

    /* The bound is against a hostile queue; an honest one has no more than mask + 1 tickets. */
    for (uint64_t tries = 0; tries <= 2 * mask; tries++) {
        uint64_t h = atomic_load_explicit(&b->queue_head, memory_order_acquire);
        /* Acquire: partner is the release in channel_push; the slot's state behind it is seen. */
        uint64_t cell = atomic_load_explicit(&cells[h & mask], memory_order_acquire);
        if (!cell_filled(cell, h, shift))
            return false;
        uint32_t slot = cell_slot(cell), seq = cell_seq(cell);
        uint64_t queued = state_word(CHANNEL_QUEUED, 0, 0, seq);
        STEP();
        /* The claim. Acquire: partner is the release of the state in channel_push. */
        bool mine = slot < ch->at.slots_per_thread * ch->geometry.threads &&
                    atomic_load_explicit(&slot_at(ch, slot)->state, memory_order_relaxed) ==
                        queued &&
                    atomic_compare_exchange_strong_explicit(
                        &slot_at(ch, slot)->state, &queued,
                        state_word(CHANNEL_RUNNING, w->index, w->incarnation, seq),
                        memory_order_acq_rel, memory_order_relaxed);
        STEP();
        /* Mine or not, the ticket is dead now: move on, or find that somebody did. */
        atomic_compare_exchange_strong_explicit(&b->queue_head, &h, h + 1, memory_order_acq_rel,
                                                memory_order_relaxed);
        STEP();
        if (mine) {
            w->slot = slot;
            w->seq = seq;
            w->thread = slot / ch->at.slots_per_thread;
            return true;
        }
    }
    return false;
}

static bool claim(struct channel_worker *w)
{
    uint32_t threads = w->ch->geometry.threads;

    for (uint32_t i = 0; i < threads; i++) {
        uint32_t thread = w->first_thread + i < threads ? w->first_thread + i
                                                        : w->first_thread + i - threads;
        if (!claim_from(w, thread))
            continue;
        /* The next look starts behind it, so that no thread's queue starves another's. */
        w->first_thread = thread + 1 < threads ? thread + 1 : 0;
        return true;
    }
    return false;
}

static int begin_request(struct channel_worker *w, struct channel_request *ret)
{
    struct worker_block *b = w->block;
    uint64_t now = clock_monotonic_ns();

    if (w->claimed_ns)
        w->average_ns += (uint64_t)((int64_t)(now - w->claimed_ns - w->average_ns) / 8);
    w->claimed_ns = now;
    w->dropping = 0;
    w->ended = false;
    atomic_store_explicit(&b->ticket, (uint64_t)w->slot << 32 | w->seq, memory_order_relaxed);
    atomic_store_explicit(&b->since_ns, now, memory_order_relaxed);
    atomic_store_explicit(&slot_at(w->ch, w->slot)->claimed_ns, now, memory_order_relaxed);
    show_state(w, CHANNEL_WORKER_BUSY);
    count_up(&b->claimed);
    return request_read(w, ret);
}

/* Sleeps until something may have changed. 0, -EINTR, -ETIMEDOUT. */
static int wait_for_work(struct channel_worker *w, uint64_t timeout_ns)
{
    struct channel *ch = w->ch;
    _Atomic uint64_t *idle = &ch->head->idle[w->index / 64];
    uint64_t bit = UINT64_C(1) << w->index % 64;
    /* Acquire: partner is worker_wake; what it was changed for is seen below. */
    uint32_t wake = atomic_load_explicit(&w->block->wake, memory_order_acquire);
    bool ready = is_closed(ch) || atomic_load_explicit(&w->draining, memory_order_relaxed);
    int r = 0;

    w->claimed_ns = 0;
    STEP();
    atomic_fetch_or_explicit(idle, bit, memory_order_acq_rel);
    STEP();
    /* (idle): partner is the fence in channel_wake. */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint32_t t = 0; t < ch->geometry.threads && !ready; t++)
        ready = queue_filled(ch, t);
    if (!ready)
        r = timeout_ns ? futex_wait(&w->block->wake, wake, timeout_ns) : -ETIMEDOUT;
    STEP();
    /* A gateway that has claimed the bit counts on us: look at the queue before giving up. */
    if (!(atomic_fetch_and_explicit(idle, ~bit, memory_order_acq_rel) & bit) || r == -EAGAIN)
        return 0;
    return r;
}

int channel_worker_next(struct channel_worker *w, uint64_t timeout_ns, struct channel_request *ret)
{
    uint64_t deadline = 0;

    CHECK_MAGIC(w, WORKER_MAGIC);
    CHECK(w->slot == NO_SLOT);
    for (;;) {
        /* Before the look at the queue: draining ends with a look that finds nothing. */
        bool draining = atomic_load_explicit(&w->draining, memory_order_relaxed);
        if (is_closed(w->ch))
            return -ESHUTDOWN;
        if (likely(claim(w)))
            return begin_request(w, ret);
        signal_deferred(w);
        if (draining)
            return -ESHUTDOWN;
        uint64_t left = UINT64_MAX;
        if (timeout_ns != UINT64_MAX) {
            uint64_t now = clock_monotonic_ns();
            if (!deadline)
                deadline = now + timeout_ns;
            left = deadline > now ? deadline - now : 0;
        }
        int r = wait_for_work(w, left);
        if (r < 0 && !atomic_load_explicit(&w->draining, memory_order_relaxed))
            return r;
    }
}

struct channel_ticket channel_worker_ticket(const struct channel_worker *w)
{
    CHECK_MAGIC(w, WORKER_MAGIC);
    return (struct channel_ticket){ w->slot, w->seq };
}

uint32_t channel_worker_thread(const struct channel_worker *w)
{
    CHECK_MAGIC(w, WORKER_MAGIC);
    return w->thread;
}

bool channel_worker_aborted(const struct channel_worker *w)
{
    return w->slot != NO_SLOT &&
           atomic_load_explicit(&slot_at(w->ch, w->slot)->aborted, memory_order_relaxed) == w->seq;
}

uint64_t channel_worker_started_ns(const struct channel_worker *w)
{
    CHECK_MAGIC(w, WORKER_MAGIC);
    return w->claimed_ns;
}

void channel_worker_note(struct channel_worker *w, uint64_t cpu_ns, uint64_t memory_bytes)
{
    CHECK_MAGIC(w, WORKER_MAGIC);
    atomic_store_explicit(&w->block->last_cpu_ns, cpu_ns, memory_order_relaxed);
    atomic_store_explicit(&w->block->last_memory, memory_bytes, memory_order_relaxed);
    if (memory_bytes > atomic_load_explicit(&w->block->memory_peak, memory_order_relaxed))
        atomic_store_explicit(&w->block->memory_peak, memory_bytes, memory_order_relaxed);
}

void channel_worker_note_rollbacks(struct channel_worker *w, const struct channel_rollbacks *r)
{
    CHECK_MAGIC(w, WORKER_MAGIC);
    atomic_store_explicit(&w->block->rollbacks, r->n, memory_order_relaxed);
    atomic_store_explicit(&w->block->rollback_ns, r->ns, memory_order_relaxed);
    atomic_store_explicit(&w->block->rollback_pages, r->pages_last, memory_order_relaxed);
    atomic_store_explicit(&w->block->image_pages, r->pages_of_image, memory_order_relaxed);
}

void channel_worker_done(struct channel_worker *w)
{
    CHECK_MAGIC(w, WORKER_MAGIC);
    CHECK(w->slot != NO_SLOT);
    CHECKF(w->ended || w->dropping == -ESHUTDOWN,
           "CHANNEL_END must come before the end of the request");
    struct worker_block *b = w->block;
    /* Release: partner is worker_has_finished; we read the slot no more. */
    atomic_store_explicit(&slot_at(w->ch, w->slot)->state,
                          state_word(CHANNEL_DONE, w->index, w->incarnation, w->seq),
                          memory_order_release);
    STEP();
    w->slot = NO_SLOT;
    uint64_t now = clock_monotonic_ns();
    atomic_store_explicit(&b->last_ns,
                          now - atomic_load_explicit(&b->since_ns, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&b->since_ns, now, memory_order_relaxed);
    count_up(&b->requests);
    count_up(&b->done);
    show_state(w, CHANNEL_WORKER_IDLE);
}

void channel_worker_drain(struct channel_worker *w)
{
    /* In a signal handler: only lock-free atomics. The changed word ends a futex_wait that has not
     * begun. */
    atomic_store_explicit(&w->draining, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->block->wake, 1, memory_order_release);
}

void channel_worker_detach(struct channel_worker *w)
{
    if (!w)
        return;
    CHECK_MAGIC(w, WORKER_MAGIC);
    CHECK(w->slot == NO_SLOT);
    signal_deferred(w);
    show_state(w, CHANNEL_WORKER_NONE);
    w->magic = 0;
    if (!w->ch->keep)
        mem_free(w);
}

/* --- responses -------------------------------------------------------------------------------- */
static uint32_t ring_room(const struct channel_worker *w, const struct ring_writer *ring)
{
    uint64_t used = ring->tail - ring->head_seen;
    uint32_t size = w->ch->geometry.ring_bytes;
    return used < size ? size - (uint32_t)used : 0;
}

static void see_head(struct channel_worker *w, struct ring_writer *ring)
{
    /* Acquire: partner is the release in ring_release; the gateway reads those bytes no more. */
    uint64_t head =
        atomic_load_explicit(&ring_at(w->ch, w->index, w->thread)->head, memory_order_acquire);
    /* Nonsense is not believed: it would have us write over what was not read. */
    if (head - ring->head_seen <= ring->tail - ring->head_seen && head % RECORD_ALIGN == 0)
        ring->head_seen = head;
}

/* Until `need` bytes (at most half the ring) are free. 0, -ECANCELED (unless `end`), -ESHUTDOWN. */
static int wait_for_space(struct channel_worker *w, struct ring_writer *ring, uint32_t need,
                          bool end)
{
    struct ring_control *rc = ring_at(w->ch, w->index, w->thread);
    bool counted = false;

    DCHECK(need <= w->ch->geometry.ring_bytes / 2);
    for (;;) {
        see_head(w, ring);
        if (ring_room(w, ring) >= need)
            return 0;
        publish(w, ring, false);
        signal_deferred(w);
        if (!counted)
            count_up32(&w->block->ring_full);
        counted = true;
        uint32_t wake = atomic_load_explicit(&w->block->wake, memory_order_acquire);
        atomic_store_explicit(&rc->waiting, 1, memory_order_relaxed);
        STEP();
        /* (space) and (abort): partners are the fences in ring_release and channel_abort. */
        atomic_thread_fence(memory_order_seq_cst);
        see_head(w, ring);
        int r = is_closed(w->ch) ? -ESHUTDOWN : !end && channel_worker_aborted(w) ? -ECANCELED : 0;
        if (r == 0 && ring_room(w, ring) < need)
            futex_wait(&w->block->wake, wake, UINT64_MAX);
        atomic_store_explicit(&rc->waiting, 0, memory_order_relaxed);
        if (r < 0)
            return r;
    }
}

/* Bytes of an iovec array, taken from the front. */
struct source {
    const struct iovec *iov;
    size_t offset; /* in iov[0] */
    size_t left;   /* in all */
};

static void ring_put(struct channel_worker *w, uint64_t position, struct source *from, uint32_t n)
{
    char *ring = ring_bytes_at(w->ch, w->index, w->thread);
    uint32_t size = w->ch->geometry.ring_bytes;

    from->left -= n;
    while (n) {
        uint32_t at = (uint32_t)position & (size - 1);
        size_t run = from->iov->iov_len - from->offset;
        if (run == 0) {
            from->iov++;
            from->offset = 0;
            continue;
        }
        if (run > n)
            run = n;
        if (run > size - at)
            run = size - at;
        memcpy(ring + at, (const char *)from->iov->iov_base + from->offset, run);
        from->offset += run;
        position += run;
        n -= (uint32_t)run;
    }
}

static void record_write(struct channel_worker *w, struct ring_writer *ring,
                         enum channel_piece_type type, uint16_t status, struct source *from,
                         uint32_t n)
{
    struct record rec = { .bytes = n,
                          .status = status,
                          .type = (uint8_t)type,
                          .flags = (type == CHANNEL_HEAD || type == CHANNEL_INFORM ||
                                    type == CHANNEL_FILE) &&
                                           from->left > n
                                       ? CHANNEL_PART
                                       : 0,
                          .slot = w->slot,
                          .seq = w->seq };
    char *bytes = ring_bytes_at(w->ch, w->index, w->thread);

    memcpy(bytes + (ring->tail & (w->ch->geometry.ring_bytes - 1)), &rec, sizeof(rec));
    ring_put(w, ring->tail + sizeof(rec), from, n);
    ring->last = ring->tail;
    ring->last_bytes = type == CHANNEL_BODY ? n : 0;
    ring->tail += record_span(n);
    STEP();
}

/* A body record nobody has seen yet takes more, so that many small writes make one piece. */
static void record_grow(struct channel_worker *w, struct ring_writer *ring, struct source *from)
{
    uint32_t most = w->ch->geometry.ring_bytes / 2 - (uint32_t)sizeof(struct record);

    if (!ring->last_bytes || ring->last_bytes >= most)
        return;
    uint32_t room = ring_room(w, ring) + record_span(ring->last_bytes) -
                    (uint32_t)sizeof(struct record);
    if (most > room)
        most = room;
    if (most <= ring->last_bytes)
        return;
    uint32_t n = from->left < most - ring->last_bytes ? (uint32_t)from->left
                                                      : most - ring->last_bytes;
    ring_put(w, ring->last + sizeof(struct record) + ring->last_bytes, from, n);
    ring->last_bytes += n;
    ring->tail = ring->last + record_span(ring->last_bytes);
    char *bytes = ring_bytes_at(w->ch, w->index, w->thread);
    memcpy(bytes + (ring->last & (w->ch->geometry.ring_bytes - 1)), &ring->last_bytes,
           sizeof(uint32_t));
    STEP();
}
static_assert(offsetof(struct record, bytes) == 0, "record_grow writes the length alone");

/* Nothing follows it. */
static bool is_last(enum channel_piece_type type)
{
    return type == CHANNEL_END || type == CHANNEL_PASS_ON;
}

static int write_piece(struct channel_worker *w, struct ring_writer *ring,
                       enum channel_piece_type type, uint16_t status, struct source *from)
{
    uint32_t half = w->ch->geometry.ring_bytes / 2;

    if (type == CHANNEL_BODY) {
        if (from->left == 0)
            return 0;
        record_grow(w, ring, from);
        if (ring->tail - ring->published >= half)
            publish(w, ring, false);
        if (from->left == 0)
            return 0;
    }
    do {
        uint32_t n = half - (uint32_t)sizeof(struct record);
        if (from->left < n)
            n = (uint32_t)from->left;
        if (ring_room(w, ring) < record_span(n)) {
            int r = wait_for_space(w, ring, record_span(n), is_last(type));
            if (r < 0)
                return r;
        }
        record_write(w, ring, type, status, from, n);
        if (ring->tail - ring->published >= half)
            publish(w, ring, false);
    } while (from->left);
    return 0;
}

int channel_respond(struct channel_worker *w, enum channel_piece_type type, uint16_t status,
                    const struct iovec *iov, int n_iov)
{
    struct source from = { iov, 0, 0 };

    CHECK_MAGIC(w, WORKER_MAGIC);
    CHECK(w->slot != NO_SLOT);
    CHECK(type >= CHANNEL_HEAD && type <= CHANNEL_PASS_ON);
    struct ring_writer *ring = &w->rings[w->thread];
    for (int i = 0; i < n_iov; i++)
        from.left += iov[i].iov_len;
    CHECK(from.left == 0 || (!is_last(type) && type != CHANNEL_FLUSH));

    if (w->ended)
        return -ECANCELED;
    if (!w->dropping && is_closed(w->ch))
        w->dropping = -ESHUTDOWN;
    if (!w->dropping && channel_worker_aborted(w))
        w->dropping = -ECANCELED;
    if (w->dropping == -ESHUTDOWN || (w->dropping && !is_last(type)))
        return w->dropping;
    int r = write_piece(w, ring, type, status, &from);
    if (r < 0)
        return w->dropping = r;
    if (is_last(type)) {
        w->ended = true;
        publish(w, ring, true);
    } else if (type == CHANNEL_FLUSH) {
        publish(w, ring, false);
    }
    return 0;
}
