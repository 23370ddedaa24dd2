/*
 * Creation, mapping, closing and observation of a channel; the futex calls. The two sides are in
 * gateway_side.c and worker_side.c, the layout and what survives a crash in channel_int.h.
 */
#include "channel/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "channel/channel_int.h"

static uint64_t align_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

int channel_layout(const struct channel_geometry *g, struct layout *ret)
{
    struct layout at = { 0 };
    uint64_t end = sizeof(struct shared_head);

    if (g->workers < 1 || g->workers > CHANNEL_WORKERS_MAX || g->threads < 1 ||
        g->threads > CHANNEL_THREADS_MAX || g->slots < g->threads || g->slots > CHANNEL_SLOTS_MAX ||
        g->slots % g->threads)
        return -EINVAL;
    if (g->slot_bytes < sizeof(struct slot) || g->slot_bytes > SLOT_BYTES_MAX ||
        g->slot_bytes % LINE)
        return -EINVAL;
    if (g->ring_bytes < RING_BYTES_MIN || g->ring_bytes > RING_BYTES_MAX ||
        (g->ring_bytes & (g->ring_bytes - 1)))
        return -EINVAL;

    at.slots_per_thread = g->slots / g->threads;
    at.queue_shift = 3; /* one cache line of cells */
    while ((UINT32_C(1) << at.queue_shift) < 2 * at.slots_per_thread)
        at.queue_shift++;

    at.threads = end;
    end += g->threads * sizeof(struct thread_block);
    at.cells = end;
    end += (g->threads * sizeof(uint64_t)) << at.queue_shift;
    at.workers = end;
    end += g->workers * sizeof(struct worker_block);
    at.rings = end;
    end += (uint64_t)g->workers * g->threads * sizeof(struct ring_control);
    at.slots = end;
    end += (uint64_t)g->slots * g->slot_bytes;
    at.ring_bytes = align_up(end, 4096);
    end = at.ring_bytes + (uint64_t)g->workers * g->threads * g->ring_bytes;
    at.total = align_up(end, 4096);
    *ret = at;
    return 0;
}

int channel_create(const struct channel_geometry *wanted, int *ret_fd)
{
    struct channel_geometry g = *wanted;
    struct layout at;

    if (g.threads)
        g.slots -= g.slots % g.threads;
    int r = channel_layout(&g, &at);
    if (r < 0)
        return r;
    int fd = memfd_create("sapid-channel", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    struct shared_head head = {
        .magic = CHANNEL_MAGIC, .abi = CHANNEL_ABI, .geometry = g, .total_bytes = at.total
    };
    if (ftruncate(fd, (off_t)at.total) < 0 ||
        pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        r = errno ? -errno : -EIO;
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

/* The seals and the size come from the kernel, everything else from a head copied once. */
static int check_object(int fd, struct channel_geometry *ret_geometry, struct layout *ret_at)
{
    struct shared_head head;
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || fstat(fd, &st) < 0)
        return -errno;
    if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return -EPROTO; /* could be cut short under our feet: SIGBUS */
    ssize_t n = pread(fd, &head, sizeof(head), 0);
    if (n < 0)
        return -errno;
    if (n != (ssize_t)sizeof(head) || head.magic != CHANNEL_MAGIC || head.abi != CHANNEL_ABI)
        return -EPROTO;
    if (channel_layout(&head.geometry, ret_at) < 0 || head.total_bytes != ret_at->total ||
        (uint64_t)st.st_size != ret_at->total)
        return -EPROTO;
    *ret_geometry = head.geometry;
    return 0;
}

int channel_map_kept(int fd, void *(*keep)(size_t bytes), struct channel **ret)
{
    struct channel_geometry geometry;
    struct layout at = { 0 };
    int r = check_object(fd, &geometry, &at);

    if (r < 0)
        return r;
    struct channel *ch = keep ? keep(sizeof(*ch)) : mem_zalloc(sizeof(*ch));
    if (!ch)
        return -ENOMEM;
    char *base = mmap(NULL, at.total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        r = -errno;
        if (!keep)
            mem_free(ch);
        return r;
    }
    ch->magic = CHANNEL_HANDLE_MAGIC;
    ch->keep = keep;
    ch->geometry = geometry;
    ch->at = at;
    ch->base = base;
    ch->head = (struct shared_head *)base;
    for (unsigned i = 0; i < CHANNEL_THREADS_MAX; i++)
        ch->eventfds[i] = -1;
    *ret = ch;
    return 0;
}

int channel_map(int fd, struct channel **ret)
{
    return channel_map_kept(fd, NULL, ret);
}

struct iovec channel_mapping(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    return (struct iovec){ ch->base, ch->at.total };
}

void channel_unmap(struct channel *ch)
{
    if (!ch)
        return;
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    channel_gates_free(ch);
    munmap(ch->base, ch->at.total);
    ch->magic = 0;
    if (!ch->keep)
        mem_free(ch);
}

const struct channel_geometry *channel_geometry(const struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    return &ch->geometry;
}

void channel_set_eventfds(struct channel *ch, const int *eventfds)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    memcpy(ch->eventfds, eventfds, ch->geometry.threads * sizeof(int));
}

void channel_close(struct channel *ch)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    /* Before the words change: who sees its word changed finds the channel closed (acquire). */
    atomic_store_explicit(&ch->head->closed, 1, memory_order_seq_cst);
    for (uint32_t i = 0; i < ch->geometry.workers; i++)
        worker_wake(worker_at(ch, i));
    for (uint32_t i = 0; i < ch->geometry.threads; i++)
        if (ch->eventfds[i] >= 0)
            eventfd_signal(ch->eventfds[i]);
}

bool channel_is_closed(const struct channel *ch)
{
    return is_closed(ch);
}

/* --- observation ------------------------------------------------------------------------------ */
static uint64_t get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}
static uint32_t get32(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

void channel_worker_look(const struct channel *ch, uint32_t worker, struct channel_worker_info *ret)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    CHECK(worker < ch->geometry.workers);
    const struct worker_block *b = worker_at(ch, worker);
    uint64_t ticket = get(&b->ticket);
    uint32_t state = get32(&b->state);

    ret->incarnation = get32(&b->incarnation);
    ret->pid = get32(&b->pid);
    ret->state = state == CHANNEL_WORKER_BUSY || state == CHANNEL_WORKER_IDLE ? state
                                                                              : CHANNEL_WORKER_NONE;
    ret->ticket = (struct channel_ticket){ (uint32_t)(ticket >> 32), (uint32_t)ticket };
    ret->since_ns = get(&b->since_ns);
    ret->requests = get(&b->requests);
    ret->attached_ns = get(&b->attached_ns);
    ret->last_ns = get(&b->last_ns);
    ret->last_cpu_ns = get(&b->last_cpu_ns);
    ret->last_memory = get(&b->last_memory);
    ret->rollbacks = (struct channel_rollbacks){ get(&b->rollbacks), get(&b->rollback_ns),
                                                 get32(&b->rollback_pages),
                                                 get32(&b->image_pages) };
}

bool channel_request_look(const struct channel *ch, struct channel_ticket t,
                          char buffer[CHANNEL_LOOK_BYTES], struct channel_request *ret)
{
    struct slot head;
    struct str *texts = &ret->method;
    static_assert(TEXTS * CHANNEL_LOOK_TEXT <= CHANNEL_LOOK_BYTES, "each text has its place");

    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    if (t.slot >= ch->geometry.slots)
        return false;
    const struct slot *s = slot_at(ch, t.slot);
    memset(ret, 0, sizeof(*ret));
    /* Before and after: a slot is filled anew only after its state has changed. Acquire: partner is
     * the release in channel_push. */
    uint64_t before = atomic_load_explicit(&s->state, memory_order_acquire);
    if (state_of(before) != CHANNEL_RUNNING || state_seq(before) != t.seq)
        return false;
    memcpy((char *)&head + offsetof(struct slot, n_headers),
           (const char *)s + offsetof(struct slot, n_headers),
           sizeof(head) - offsetof(struct slot, n_headers));
    copied();
    for (unsigned i = 0; i < TEXTS; i++) {
        struct span span = head.text[i];
        char *to = buffer + (size_t)i * CHANNEL_LOOK_TEXT;
        if (span.offset > ch->geometry.slot_bytes ||
            span.bytes > ch->geometry.slot_bytes - span.offset)
            return false;
        texts[i] =
            (struct str){ to, span.bytes < CHANNEL_LOOK_TEXT ? span.bytes : CHANNEL_LOOK_TEXT };
        memcpy(to, (const char *)s + span.offset, texts[i].n);
    }
    ret->received_ns = head.received_ns;
    ret->limit_ms = head.limit_ms;
    ret->flags = head.flags;
    ret->content_length = head.content_length;
    ret->remote_port = head.remote_port;
    ret->server_port = head.server_port;
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&s->state, memory_order_relaxed) == before;
}

uint32_t channel_request_limit_ms(const struct channel *ch, struct channel_ticket t)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    return t.slot < ch->geometry.slots ? slot_at(ch, t.slot)->limit_ms : 0;
}

/* Sums are read while others write: differences may be off by those in flight, never negative. */
static uint32_t difference(uint64_t more, uint64_t less)
{
    return more > less ? (uint32_t)(more - less) : 0;
}

void channel_count(const struct channel *ch, struct channel_counters *ret)
{
    struct channel_counters c = { 0 };
    uint64_t lost = 0;

    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    for (uint32_t i = 0; i < ch->geometry.workers; i++) {
        const struct worker_block *b = worker_at(ch, i);
        c.done += get(&b->done);
        c.claimed += get(&b->claimed);
        c.signals += get32(&b->signals);
        c.ring_full += get32(&b->ring_full);
        c.slow += get(&b->slow);
        if (get(&b->memory_peak) > c.memory_peak)
            c.memory_peak = get(&b->memory_peak);
    }
    for (uint32_t i = 0; i < ch->geometry.threads; i++) {
        const struct thread_block *b = thread_at(ch, i);
        c.pushed += get(&b->pushed);
        c.canceled += get(&b->canceled);
        c.queue_full += get(&b->queue_full);
        c.wakes += get(&b->wakes);
        c.dropped_pieces += get(&b->dropped);
        c.recovered += get(&b->recovered);
        lost += get(&b->recovered_running);
    }
    for (unsigned i = 0; i < BITMAP_WORDS; i++)
        c.idle += (uint32_t)__builtin_popcountll(get(&ch->head->idle[i]));
    c.queued_max = get32(&ch->head->queued_max);
    c.running_max = get32(&ch->head->running_max);
    c.limit_reached = get32(&ch->head->limit_reached);
    c.queued = difference(c.pushed, c.claimed + c.canceled);
    c.running = difference(c.claimed, c.done + lost);
    *ret = c;
}

static void raise_to(_Atomic uint32_t *most, uint32_t n)
{
    uint32_t seen = atomic_load_explicit(most, memory_order_relaxed);

    while (n > seen && !atomic_compare_exchange_weak_explicit(most, &seen, n, memory_order_relaxed,
                                                              memory_order_relaxed))
        continue;
}

void channel_note_load(struct channel *ch, uint32_t requests, uint32_t workers)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    raise_to(&ch->head->running_max, requests < workers ? requests : workers);
    if (likely(requests <= workers))
        return;
    raise_to(&ch->head->queued_max, requests - workers);
    if (requests == workers + 1)
        atomic_fetch_add_explicit(&ch->head->limit_reached, 1, memory_order_relaxed);
}

void channel_note_slow(struct channel *ch, uint32_t worker)
{
    CHECK_MAGIC(ch, CHANNEL_HANDLE_MAGIC);
    CHECK(worker < ch->geometry.workers);
    count_up(&worker_at(ch, worker)->slow);
}

/* --- sleeping --------------------------------------------------------------------------------- */
int futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec ts = { .tv_sec = (time_t)(timeout_ns / NS_PER_S),
                           .tv_nsec = (long)(timeout_ns % NS_PER_S) };

    /* Not FUTEX_PRIVATE: the word is shared between processes. */
    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, timeout_ns == UINT64_MAX ? NULL : &ts, NULL,
                0) == 0)
        return 0;
    CHECKF(errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT, "futex wait: errno %d", errno);
    return -errno;
}

void worker_wake(struct worker_block *b)
{
    /* Release: partner is the acquire load before the worker sleeps. */
    atomic_fetch_add_explicit(&b->wake, 1, memory_order_release);
    STEP();
    syscall(SYS_futex, &b->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void eventfd_signal(int fd)
{
    uint64_t one = 1;
    int saved = errno;

    /* EAGAIN: the counter is full, the reader is woken anyway. EINTR cannot happen on a
     * non-blocking eventfd; other errors mean that the gateway is gone, which channel_close tells.
     */
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    errno = saved;
}
