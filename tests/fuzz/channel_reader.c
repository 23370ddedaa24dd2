/*
 * channel_reader: both sides of a channel read shared memory into which the input writes what it
 * likes.
 *
 * The input is a program of bytes: an operation, then its arguments. Some operations are what
 * gateway and worker do, the others spoil words or write records a hostile worker might write.
 * Nothing may crash, hang, fail a CHECK, or read outside of the mapping.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "channel/channel.h"
#include "channel/channel_int.h"

enum { WORKERS = 2, THREADS = 2, SLOTS = 6, SLOT_BYTES = 1024, OPERATIONS_MAX = 300 };

struct input {
    const uint8_t *p;
    size_t n;
};

struct run {
    struct channel *ch;
    struct channel_worker *worker[WORKERS];
    bool busy[WORKERS];
    uint32_t n_headers[WORKERS];
    uint32_t writes_left[WORKERS]; /* so few that none can block: nobody would wake it */
    struct channel_ticket ticket[SLOTS];
    bool out[SLOTS];
};

static uint64_t take(struct input *in, size_t bytes)
{
    uint64_t v = 0;

    for (; bytes && in->n; bytes--, in->p++, in->n--)
        v = v << 8 | *in->p;
    return v;
}

static volatile size_t sink;

static void touch(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sink += ((const unsigned char *)p)[i];
}

static void spoil(struct run *r, struct input *in)
{
    uint64_t at = take(in, 3) % (r->ch->at.total / 8), how = take(in, 1);
    uint64_t *word = (uint64_t *)(void *)r->ch->base + at;

    if (how < 64)
        *word ^= UINT64_C(1) << how;
    else
        *word = take(in, how % 8 + 1);
    /* A closed channel is a quick end, found at once; the rest would hide behind it. */
    atomic_store(&r->ch->head->closed, 0);
}

/* A record where the gateway looks next, and a tail behind it. */
static void hostile_record(struct run *r, struct input *in)
{
    uint32_t worker = (uint32_t)take(in, 1) % WORKERS, thread = (uint32_t)take(in, 1) % THREADS;
    struct ring_control *rc = ring_at(r->ch, worker, thread);
    uint64_t tail = atomic_load(&rc->tail) / RECORD_ALIGN * RECORD_ALIGN;
    uint32_t slot = (uint32_t)take(in, 1), bytes = (uint32_t)take(in, 2);
    struct record rec = { .bytes = bytes,
                          .status = (uint16_t)take(in, 2),
                          .type = (uint8_t)take(in, 1),
                          .flags = (uint8_t)take(in, 1),
                          .slot = slot,
                          .seq = slot < SLOTS ? r->ticket[slot].seq : (uint32_t)take(in, 4) };

    memcpy(ring_bytes_at(r->ch, worker, thread) + (tail & (r->ch->geometry.ring_bytes - 1)), &rec,
           sizeof(rec));
    atomic_store(&rc->tail, tail + record_span(bytes));
    if (slot < SLOTS) /* it claims to run it */
        atomic_store(&slot_at(r->ch, slot)->state,
                     state_word(CHANNEL_RUNNING, worker, 1, r->ticket[slot].seq));
}

static void gateway_push(struct run *r, struct input *in)
{
    char text[64];
    struct channel_request q = { .method = STR("GET"), .content_length = -1, .n_headers = 1 };
    struct channel_pair header = { STR("Name"), { text, take(in, 1) % sizeof(text) } };
    struct channel_ticket t;
    uint32_t thread = (uint32_t)take(in, 1) % THREADS;

    memset(text, 'x', sizeof(text));
    q.target = header.value;
    if (channel_push(r->ch, thread, &q, &header, &t) == 0) {
        r->ticket[t.slot] = t;
        r->out[t.slot] = true;
    }
    channel_wake(r->ch, thread);
}

static void gateway_drink(struct run *r, struct input *in)
{
    uint32_t worker = (uint32_t)take(in, 1) % WORKERS, thread = (uint32_t)take(in, 1) % THREADS;
    struct channel_piece p[CACHED_PIECES];
    int n = channel_peek(r->ch, thread, worker, p, CACHED_PIECES);
    uint8_t part = (uint8_t)take(in, 1);

    for (int i = 0; i < n; i++) {
        size_t sum = 0;
        for (int v = 0; v < p[i].n_iov; v++) {
            touch(p[i].iov[v].iov_base, p[i].iov[v].iov_len);
            sum += p[i].iov[v].iov_len;
        }
        CHECK(sum == p[i].bytes);
        CHECK(p[i].ticket.slot < SLOTS && r->out[p[i].ticket.slot]);
    }
    if (n <= 0)
        return;
    int whole = part % (n + 1);
    channel_consume(r->ch, thread, worker, whole,
                    whole < n && part & 0x80 ? p[whole].bytes / 2 : 0);
    for (int i = 0; i < whole; i++) {
        struct channel_ticket t = p[i].ticket;
        if ((p[i].type == CHANNEL_END || p[i].type == CHANNEL_PASS_ON) && r->out[t.slot]) {
            channel_release(r->ch, thread, t);
            r->out[t.slot] = false;
        }
    }
}

static void gateway_leave(struct run *r, struct input *in)
{
    uint32_t slot = (uint32_t)take(in, 1) % SLOTS, thread = slot / (SLOTS / THREADS), worker;
    uint8_t how = (uint8_t)take(in, 1) % 4;
    struct channel_ticket t = r->ticket[slot];

    channel_ticket_state(r->ch, t, &worker);
    if (!r->out[slot])
        return;
    if (how == 0)
        channel_abort(r->ch, thread, t);
    if (how == 1 && channel_cancel(r->ch, thread, t))
        r->out[slot] = false;
    if (how == 2) {
        channel_release(r->ch, thread, t);
        r->out[slot] = false;
    }
}

static void gateway_sleep(struct run *r, struct input *in)
{
    uint32_t thread = (uint32_t)take(in, 1) % THREADS;
    struct channel_counters c;
    uint64_t most;

    channel_defer(r->ch, thread, take(in, 1), (uint32_t)take(in, 1));
    channel_gateway_sleep(r->ch, thread, &most);
    channel_gateway_awake(r->ch, thread);
    for (int i = 0; i < 2 * WORKERS && channel_next_dirty(r->ch, thread) >= 0; i++)
        ;
    channel_count(r->ch, &c);
}

static void gateway_recover(struct run *r, struct input *in)
{
    uint32_t worker = (uint32_t)take(in, 1) % WORKERS, thread = (uint32_t)take(in, 1) % THREADS;
    struct channel_worker_info info;
    struct channel_ticket t;

    channel_worker_look(r->ch, worker, &info);
    while (channel_worker_recover(r->ch, thread, worker, 1, &t)) {
        CHECK(t.slot < SLOTS && r->out[t.slot]);
        r->out[t.slot] = false;
    }
}

static void worker_take(struct run *r, struct input *in)
{
    uint32_t k = (uint32_t)take(in, 1) % WORKERS;
    struct channel_request q;
    struct channel_pair pair;

    if (r->busy[k])
        return;
    int e = channel_worker_next(r->worker[k], 0, &q);
    if (e == -ETIMEDOUT)
        return;
    CHECK(e == 0 || e == -EPROTO);
    r->busy[k] = true;
    if (e < 0)
        return;
    for (const struct str *s = &q.method; s <= &q.request_id; s++)
        touch(s->p, s->n);
    touch(q.body.p, q.body.n);
    for (uint32_t i = 0; i < q.n_headers; i++) {
        if (channel_request_header(r->worker[k], i, &pair) < 0)
            continue;
        touch(pair.name.p, pair.name.n);
        touch(pair.value.p, pair.value.n);
    }
}

static void worker_answer(struct run *r, struct input *in)
{
    uint32_t k = (uint32_t)take(in, 1) % WORKERS;
    static char text[32];
    struct iovec iov = { text, sizeof(text) };

    if (!r->busy[k] || r->writes_left[k] < 4)
        return;
    r->writes_left[k] -= 4;
    int e = channel_respond(r->worker[k], CHANNEL_HEAD, 200, &iov, 1);
    CHECK(e == 0 || e == -ECANCELED);
    e = channel_respond(r->worker[k], CHANNEL_BODY, 0, &iov, 1);
    CHECK(e == 0 || e == -ECANCELED);
    CHECK(channel_respond(r->worker[k], CHANNEL_END, 0, NULL, 0) == 0);
    channel_worker_done(r->worker[k]);
    r->busy[k] = false;
}

static void worker_pass_on(struct run *r, struct input *in)
{
    uint32_t k = (uint32_t)take(in, 1) % WORKERS;

    if (!r->busy[k] || r->writes_left[k] < 2)
        return;
    r->writes_left[k] -= 2;
    CHECK(channel_respond(r->worker[k], CHANNEL_PASS_ON, 0, NULL, 0) == 0);
    CHECK(channel_respond(r->worker[k], CHANNEL_END, 0, NULL, 0) == -ECANCELED);
    channel_worker_done(r->worker[k]);
    r->busy[k] = false;
}

static void (*const operations[])(struct run *, struct input *) = {
    spoil,         hostile_record,  gateway_push, gateway_drink, gateway_leave,
    gateway_sleep, gateway_recover, worker_take,  worker_answer, worker_pass_on,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, size };
    uint8_t ring_shift = (uint8_t)take(&in, 1);
    struct channel_geometry g = { WORKERS, THREADS, SLOTS, SLOT_BYTES, 512u << ring_shift % 4 };
    struct run r = { .ch = NULL };
    static int eventfds[THREADS] = { -1, -1 };
    int fd;

    if (eventfds[0] < 0)
        for (int i = 0; i < THREADS; i++)
            eventfds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(channel_create(&g, &fd) == 0);
    if (ring_shift & 0x80) { /* a head that is not what channel_create wrote */
        uint64_t word = take(&in, 8);
        CHECK(pwrite(fd, &word, sizeof(word), (off_t)(take(&in, 1) % 8 * 8)) == sizeof(word));
    }
    int e = channel_map(fd, &r.ch);
    close(fd);
    if (e < 0) {
        CHECK(ring_shift & 0x80);
        return 0;
    }
    if (memcmp(channel_geometry(r.ch), &g, sizeof(g)) != 0) {
        channel_unmap(r.ch); /* another geometry that fits the same pages: as good as any */
        return 0;
    }
    for (uint32_t k = 0; k < WORKERS; k++) {
        channel_worker_grant(r.ch, k, 1);
        CHECK(channel_worker_attach(r.ch, k, 1, eventfds, &r.worker[k]) == 0);
        r.writes_left[k] = r.ch->geometry.ring_bytes / 48;
    }
    for (int i = 0; i < OPERATIONS_MAX && in.n; i++)
        operations[take(&in, 1) % ARRAY_LENGTH(operations)](&r, &in);
    channel_close(r.ch);
    for (uint32_t k = 0; k < WORKERS; k++) {
        if (r.busy[k]) {
            CHECK(channel_respond(r.worker[k], CHANNEL_END, 0, NULL, 0) == -ESHUTDOWN);
            channel_worker_done(r.worker[k]);
        }
        channel_worker_detach(r.worker[k]);
    }
    channel_unmap(r.ch);
    return 0;
}
