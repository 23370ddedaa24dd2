/*
 * channel, inside: the layout of the shared memory and what both sides need of it.
 *
 * One object: head | thread blocks | queue cells | worker blocks | ring controls | slots | ring
 * bytes. Every area starts on a cache line; words written by different sides never share one,
 * except where a request touches both anyway (a slot's state stands beside its request).
 *
 * Queue. Each gateway thread has a queue of its own: a ring of 64-bit cells {lap, slot, seq}. Only
 * that thread appends, so its tail is private memory; a cell's lap number tells a worker whether it
 * is filled. Workers share `head`. A request is claimed by one compare-and-swap on the *slot's*
 * state word, QUEUED(seq) -> RUNNING(worker, incarnation, seq); `head` only says where to look.
 * Whoever finds at the head a ticket that is not QUEUED any more (claimed, or taken back by
 * channel_cancel) moves the head on. Hence a worker dead between claim and move stalls nothing, and
 * a ticket that stands in two cells, or is read from a cell of an older lap, is still answered
 * once.
 *
 * Response ring. One single-producer single-consumer ring of records for each (worker, thread),
 * with free-running 64-bit positions. Records are 16-byte aligned, at most half a ring, so a header
 * never wraps and a blocked worker can go on once half the ring is free. Both sides keep their own
 * position and a copy of the other's; the gateway copies a record's header once, when it parses it.
 *
 * What survives a crash: everything the other side needs. A dead worker leaves a slot that says so,
 * an idle bit, a ring; channel_worker_recover takes them back. A dead gateway leaves a channel that
 * is closed and thrown away.
 *
 * Memory orders. Four pairs of "write mine, then look at yours" must not both miss; each side has a
 * sequentially consistent operation or fence between its write and its look:
 *   (idle)    worker: idle bit, look at cells     | gateway: cells, look at idle bits
 *   (sleep)   worker: dirty bit, look at sleeping | gateway: sleeping, look at dirty bits
 *   (space)   worker: waiting, look at head       | gateway: head, look at waiting
 *   (abort)   worker: waiting, look at aborted    | gateway: aborted, look at waiting
 * Everything else is release on publishing, acquire on reading, named at the place.
 */
#ifndef SAPID_CHANNEL_CHANNEL_INT_H
#define SAPID_CHANNEL_CHANNEL_INT_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>

#include "channel/channel.h"

/* Test seam: programs that define CHANNEL_STEPS count the steps between which a process may die. */
#ifdef CHANNEL_STEPS
void channel_step(int line);
#define STEP() channel_step(__LINE__)
#else
#define STEP() ((void)0)
#endif

enum {
    LINE = 64,
    BITMAP_WORDS = CHANNEL_WORKERS_MAX / 64,
    RECORD_ALIGN = 16,
    SLOT_BYTES_MAX = 64 << 20,
    RING_BYTES_MIN = 64,
    RING_BYTES_MAX = 64 << 20,
    TEXTS = 14, /* views of channel_request before the body, in the order of the struct */
    CACHED_PIECES = 16,
};

#define CHANNEL_MAGIC UINT64_C(0x6c656e6e61686373) /* "schannel" */

struct shared_head {
    alignas(LINE) uint64_t magic;
    uint32_t abi;
    struct channel_geometry geometry;
    uint64_t total_bytes;
    alignas(LINE) _Atomic uint32_t closed;
    _Atomic uint32_t queued_max, running_max, limit_reached; /* gateway; seldom written */
    alignas(LINE) _Atomic uint64_t idle[BITMAP_WORDS];       /* workers set, gateway claims */
};
static_assert(sizeof(struct channel_geometry) == 20, "geometry is part of the ABI");
static_assert(offsetof(struct shared_head, total_bytes) == 32, "head layout");
static_assert(offsetof(struct shared_head, closed) == LINE, "head layout");
static_assert(offsetof(struct shared_head, idle) == 2 * LINE, "head layout");
static_assert(sizeof(struct shared_head) == 4 * LINE, "head layout");

enum sleep_mode {
    AWAKE,
    ASLEEP,
    ASLEEP_BOUNDED /* wakes by itself soon: signals may be deferred */
};

struct thread_block {
    /* Written by workers when they publish; words 0 to 6 share the line with `sleeping`, so that up
     * to 448 workers touch one line. */
    alignas(LINE) _Atomic uint32_t sleeping;
    uint32_t pad;
    _Atomic uint64_t dirty[BITMAP_WORDS];
    alignas(LINE) _Atomic uint64_t queue_head; /* workers, and the thread when it packs the queue */
    alignas(LINE) _Atomic uint32_t defer_responses; /* written by the thread from here on */
    uint32_t pad2;
    _Atomic uint64_t pushed, canceled, queue_full, wakes, ring_wakes, dropped, recovered,
        recovered_running;
};
static_assert(offsetof(struct thread_block, dirty) == 8, "thread block layout");
static_assert(offsetof(struct thread_block, queue_head) == 3 * LINE, "thread block layout");
static_assert(offsetof(struct thread_block, defer_responses) == 4 * LINE, "thread block layout");
static_assert(sizeof(struct thread_block) == 6 * LINE, "thread block layout");

struct worker_block {
    /* Written by the gateway. `wake` is the only word a worker ever sleeps on. */
    alignas(LINE) _Atomic uint32_t wake;
    uint32_t pad;
    _Atomic uint64_t grant; /* incarnation + 1; 0: nobody yet */
    /* Written by the worker, seldom: the most that last_memory was, of all incarnations. */
    _Atomic uint64_t memory_peak;
    /* Written by the worker. */
    alignas(LINE) _Atomic uint32_t incarnation;
    _Atomic uint32_t pid;
    _Atomic uint32_t state;
    uint32_t pad2;
    _Atomic uint64_t ticket; /* slot << 32 | seq */
    _Atomic uint64_t since_ns;
    _Atomic uint64_t requests;      /* of this incarnation */
    _Atomic uint64_t claimed, done; /* of all */
    _Atomic uint32_t signals, ring_full;
    /* Written by the worker at the end of a request, for status pages. */
    alignas(LINE) _Atomic uint64_t attached_ns;
    _Atomic uint64_t last_ns, last_cpu_ns, last_memory;
    _Atomic uint64_t rollbacks, rollback_ns;
    _Atomic uint32_t rollback_pages, image_pages;
    _Atomic uint64_t slow; /* of all incarnations; written by the pool process */
};
static_assert(offsetof(struct worker_block, incarnation) == LINE, "worker block layout");
static_assert(offsetof(struct worker_block, attached_ns) == 2 * LINE, "worker block layout");
static_assert(sizeof(struct worker_block) == 3 * LINE, "worker block layout");

struct ring_control {
    alignas(LINE) _Atomic uint64_t tail; /* worker: published up to here */
    _Atomic uint32_t waiting;            /* worker sets before it sleeps on a full ring */
    alignas(LINE) _Atomic uint64_t head; /* gateway: consumed up to here */
};
static_assert(offsetof(struct ring_control, head) == LINE, "ring layout");
static_assert(sizeof(struct ring_control) == 2 * LINE, "ring layout");

/* Header of a record in a ring; its payload follows and may wrap. */
struct record {
    uint32_t bytes; /* of payload */
    uint16_t status;
    uint8_t type, flags;
    uint32_t slot, seq;
};
static_assert(sizeof(struct record) == RECORD_ALIGN, "a header never wraps");

struct span {
    uint32_t offset, bytes; /* from the start of the slot */
};

struct slot {
    _Atomic uint64_t state;   /* state_word */
    _Atomic uint32_t aborted; /* seq of the request whose client has gone */
    uint32_t n_headers;       /* pairs of spans behind this struct: name, value */
    int64_t content_length;
    uint64_t received_ns;
    _Atomic uint64_t claimed_ns; /* by the worker that claims it */
    uint16_t remote_port, server_port, flags;
    uint8_t http_minor, body_kind;
    uint32_t limit_ms, pad;
    struct span text[TEXTS], body;
};
static_assert(offsetof(struct slot, content_length) == 16, "slot layout");
static_assert(offsetof(struct slot, text) == 56, "slot layout");
static_assert(sizeof(struct slot) == 176, "slot layout");

/* --- words ------------------------------------------------------------------------------------ */
/* Slot state: state 4 | worker 12 | incarnation 16 | seq 32. Sixteen bits of incarnation are enough
 * to tell a dead worker from its successor: recovery stands between the two. */
static inline uint64_t state_word(enum channel_state state, uint32_t worker, uint32_t incarnation,
                                  uint32_t seq)
{
    return (uint64_t)state << 60 | (uint64_t)(worker & 0xfff) << 48 |
           (uint64_t)(incarnation & 0xffff) << 32 | seq;
}
static inline unsigned state_of(uint64_t word)
{
    return (unsigned)(word >> 60);
}
static inline uint32_t state_worker(uint64_t word)
{
    return (uint32_t)(word >> 48) & 0xfff;
}
static inline uint32_t state_incarnation(uint64_t word)
{
    return (uint32_t)(word >> 32) & 0xffff;
}
static inline uint32_t state_seq(uint64_t word)
{
    return (uint32_t)word;
}

/* Queue cell: lap 16 | slot 16 | seq 32. Laps count from 1, so that a fresh cell (0) is never
 * filled; a lap number that comes round again after 65,535 laps can only lead to a claim, which is
 * always safe. */
static inline uint64_t cell_word(uint64_t position, unsigned shift, uint32_t slot, uint32_t seq)
{
    uint64_t lap = (position >> shift) % 0xffff + 1;
    return lap << 48 | (uint64_t)slot << 32 | seq;
}
static inline bool cell_filled(uint64_t cell, uint64_t position, unsigned shift)
{
    return cell >> 48 == (position >> shift) % 0xffff + 1;
}
static inline uint32_t cell_slot(uint64_t cell)
{
    return (uint32_t)(cell >> 32) & 0xffff;
}
static inline uint32_t cell_seq(uint64_t cell)
{
    return (uint32_t)cell;
}

/* --- handle ----------------------------------------------------------------------------------- */
/* Where the areas are; computed from the geometry by both sides, never read from the memory. */
struct layout {
    uint32_t slots_per_thread;
    unsigned queue_shift; /* cells of one queue: 1 << shift, at least twice its slots */
    uint64_t threads, cells, workers, rings, slots, ring_bytes, total;
};

struct gate; /* a gateway thread's private state: gateway.c */

struct channel {
    uint32_t magic;
    struct channel_geometry geometry;
    struct layout at;
    char *base;
    struct shared_head *head;
    int eventfds[CHANNEL_THREADS_MAX]; /* -1: unknown here */
    struct gate *gates[CHANNEL_THREADS_MAX];
    void *(*keep)(size_t bytes); /* NULL: handles are on the heap */
};
#define CHANNEL_HANDLE_MAGIC 0x43484e4cu

int channel_layout(const struct channel_geometry *g, struct layout *ret);
void channel_gates_free(struct channel *ch);

static inline struct thread_block *thread_at(const struct channel *ch, uint32_t thread)
{
    DCHECK(thread < ch->geometry.threads);
    return (struct thread_block *)(ch->base + ch->at.threads) + thread;
}
static inline _Atomic uint64_t *cells_at(const struct channel *ch, uint32_t thread)
{
    return (_Atomic uint64_t *)(ch->base + ch->at.cells) + ((uint64_t)thread << ch->at.queue_shift);
}
static inline struct worker_block *worker_at(const struct channel *ch, uint32_t worker)
{
    DCHECK(worker < ch->geometry.workers);
    return (struct worker_block *)(ch->base + ch->at.workers) + worker;
}
static inline struct ring_control *ring_at(const struct channel *ch, uint32_t worker,
                                           uint32_t thread)
{
    return (struct ring_control *)(ch->base + ch->at.rings) +
           ((uint64_t)worker * ch->geometry.threads + thread);
}
static inline char *ring_bytes_at(const struct channel *ch, uint32_t worker, uint32_t thread)
{
    return ch->base + ch->at.ring_bytes +
           ((uint64_t)worker * ch->geometry.threads + thread) * ch->geometry.ring_bytes;
}
static inline struct slot *slot_at(const struct channel *ch, uint32_t slot)
{
    DCHECK(slot < ch->geometry.slots);
    return (struct slot *)(ch->base + ch->at.slots + (uint64_t)slot * ch->geometry.slot_bytes);
}
static inline bool is_closed(const struct channel *ch)
{
    return atomic_load_explicit(&ch->head->closed, memory_order_acquire) != 0;
}
/* Ring bytes a record takes. */
static inline uint32_t record_span(uint32_t payload_bytes)
{
    return (uint32_t)sizeof(struct record) +
           (payload_bytes + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}
/* A counter with one writer. */
static inline void count_up(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}
static inline void count_up32(_Atomic uint32_t *counter)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}
/* What was copied from shared memory is not read from there again by the compiler's choice. */
static inline void copied(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

/* --- sleeping: shared futexes ----------------------------------------------------------------- */
/* 0, -EAGAIN (the word had changed), -EINTR, -ETIMEDOUT. UINT64_MAX: for ever. */
int futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);
/* Changes the worker's word and wakes it. */
void worker_wake(struct worker_block *b);
/* Writes a thread's eventfd. */
void eventfd_signal(int fd);

#endif
