/*
 * channel: the contract between the gateway and the workers of one pool generation, in one shared
 * memory object (memfd). It is all they share.
 *
 *   gateway thread --- request slots + queue ---> any idle worker       (late binding)
 *   worker --- its response ring for that thread ---> gateway thread
 *
 * A channel belongs to one gateway process and one pool generation. When the gateway dies, the pool
 * process closes the channel (channel_close): workers blocked in it return -ESHUTDOWN, and fresh
 * workers are forked on a fresh channel, the engine and its opcache kept. When a worker dies, the
 * gateway recovers its slot (channel_worker_recover) once the pool process has reaped it.
 *
 * Rules: offsets, never pointers; what the other side wrote is hostile: lengths are copied once,
 * checked, then used. No lock. A slot's owner (worker index + incarnation) is written by the
 * claiming compare-and-swap itself, so that death between two steps stalls nothing. Sizes can be
 * shrunk in tests to a few bytes so that every boundary is hit. Every memory order names its
 * partner.
 *
 * Model: src/channel/model/channel.pml (spin).
 */
#ifndef SAPID_CHANNEL_CHANNEL_H
#define SAPID_CHANNEL_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/check.h"
#include "base/str.h"

enum {
    CHANNEL_ABI = 4,
    CHANNEL_WORKERS_MAX = 1024,
    CHANNEL_THREADS_MAX = 16,
    CHANNEL_SLOTS_MAX = 65535
};

struct channel_geometry {
    uint32_t workers;    /* rings and worker blocks */
    uint32_t threads;    /* gateway threads */
    uint32_t slots;      /* requests queued or running at once, over all threads; rounded down to a
                            multiple of them */
    uint32_t slot_bytes; /* request head + inline body; multiple of 64 */
    uint32_t ring_bytes; /* of each (worker, thread) response ring; power of two; tests: from 64 */
};

struct channel; /* process-local handle */
struct channel_rollbacks;

/* --- creation: supervisor --------------------------------------------------------------------- */
/* A formatted memfd sealed against resizing. 0 or -errno (-EINVAL geometry). */
MUST_USE int channel_create(const struct channel_geometry *g, int *ret_fd);

/* --- both sides ------------------------------------------------------------------------------- */
/* Maps and checks size, ABI version and layout. Does not keep the descriptor. */
MUST_USE int channel_map(int fd, struct channel **ret);
/* The same for a process whose heap is put back to an earlier state again and again: the handle,
 * and that of a worker attached to it, come from `keep` (zeroed memory, NULL: out of memory), which
 * must be left alone by that. They are never freed. */
MUST_USE int channel_map_kept(int fd, void *(*keep)(size_t bytes), struct channel **ret);
/* What is mapped: address and size, for such a process. */
struct iovec channel_mapping(const struct channel *ch);
void channel_unmap(struct channel *ch);
const struct channel_geometry *channel_geometry(const struct channel *ch);
/* Lets channel_close wake the gateway: its threads' eventfds, one a thread; borrowed, copied.
 * Optional. */
void channel_set_eventfds(struct channel *ch, const int *eventfds);
/* Marks the channel dead and wakes every sleeper: idle workers, workers blocked on a full ring or
 * waiting for their grant, gateway threads whose eventfds are known. Called by the pool process or
 * the gateway. */
void channel_close(struct channel *ch);
bool channel_is_closed(const struct channel *ch);

/* --- requests --------------------------------------------------------------------------------- */
enum channel_body {
    CHANNEL_BODY_NONE,
    CHANNEL_BODY_INLINE, /* in the slot */
    CHANNEL_BODY_FILE,   /* spooled: ask for the descriptor on the worker's socket */
    CHANNEL_BODY_STREAM, /* a pipe or socket that carries it as it comes: ask likewise */
};

/* channel_request.flags */
enum { CHANNEL_HTTPS = 1, CHANNEL_KEEP_ALIVE = 2 };

/* A request as both sides see it in their own memory; the views point into the slot. Texts are raw
 * bytes without NUL termination; an absent text has n == 0. */
struct channel_request {
    struct str method;          /* "GET" */
    struct str target;          /* REQUEST_URI: as sent, origin form */
    struct str protocol;        /* "HTTP/1.1" */
    struct str script_name;     /* decoded, starts with '/' */
    struct str script_filename; /* absolute path */
    struct str path_info;       /* decoded, or empty */
    struct str query;           /* raw, without '?' */
    struct str document_root;
    struct str host;        /* authority as the client named it: HTTP_HOST */
    struct str server_name; /* host without port */
    struct str remote_addr; /* client's address as text; "" for a unix socket */
    struct str server_addr;
    struct str request_id; /* for logs, at most 32 bytes */
    struct str route; /* for logs: the [[route]] that sent it here, "prefix /admin/"; or empty */
    uint16_t remote_port, server_port;
    uint16_t flags;
    uint8_t http_minor;
    enum channel_body body_kind;
    uint32_t limit_ms;      /* how long it may run (wall clock), 0: no limit */
    int64_t content_length; /* -1: none */
    struct str body;        /* CHANNEL_BODY_INLINE */
    uint64_t claimed_ns;    /* worker's side: CLOCK_MONOTONIC when it took the request */
    uint64_t received_ns;   /* CLOCK_REALTIME at the first byte of the head: REQUEST_TIME_FLOAT */
    uint32_t n_headers;
    /* headers: channel_request_header(view, i, &name, &value) on the worker's side */
};

struct channel_pair {
    struct str name, value;
};

/* --- gateway side: one `thread` index per gateway thread, all calls from that thread ------- */
struct channel_ticket {
    uint32_t slot, seq;
};

/* Copies the request into a free slot of the thread and queues it. Workers are woken only by
 * channel_wake. -EAGAIN: no free slot (queue full: counted); -E2BIG: does not fit a slot;
 * -ESHUTDOWN; -EPROTO: a worker spoilt the queue (close the channel). An inline body must fit:
 * channel_inline_room tells what is left beside this request. */
MUST_USE int channel_push(struct channel *ch, uint32_t thread, const struct channel_request *r,
                          const struct channel_pair *headers, struct channel_ticket *ret);
size_t channel_inline_room(const struct channel *ch, const struct channel_request *r,
                           const struct channel_pair *headers);
/* Once per batch: wakes min(queued, idle) workers, hottest first. Returns how many were woken. */
unsigned channel_wake(struct channel *ch, uint32_t thread);
/* Takes a queued request back. True: it never ran and the slot is free. False: a worker has it. */
bool channel_cancel(struct channel *ch, uint32_t thread, struct channel_ticket t);
/* Tells the worker that runs it that the client has gone (it may go on, as ignore_user_abort says),
 * and marks its ring: what a slow client left there is to be consumed now, or the ticket released.
 */
void channel_abort(struct channel *ch, uint32_t thread, struct channel_ticket t);
enum channel_state { CHANNEL_FREE, CHANNEL_QUEUED, CHANNEL_RUNNING, CHANNEL_DONE, CHANNEL_STALE };
/* Where a request is now; for RUNNING also the worker. STALE: seq does not match. */
enum channel_state channel_ticket_state(const struct channel *ch, struct channel_ticket t,
                                        uint32_t *ret_worker);

/* Sleep protocol of a gateway thread around its poll: */
/* Deferred signals: while answers come and more requests are queued than there are workers, a
 * worker whose recent requests were short may hold back its signal for up to `responses` responses;
 * the thread then sleeps no longer than `bound_ns`. Either 0: off (the default; CHANNEL_DEFER_* are
 * what the figures were made with). */
enum { CHANNEL_DEFER_NS = 200000, CHANNEL_DEFER_RESPONSES = 16 };
void channel_defer(struct channel *ch, uint32_t thread, uint64_t bound_ns, uint32_t responses);
/* True: something is ready, or the channel was closed (said once), do not block. False: asleep is
 * declared, block, and a worker will write the thread's eventfd. `ret_max_sleep_ns` (written on
 * false) bounds the sleep, UINT64_MAX: not at all. The eventfd counts up only: watch it
 * edge-triggered and never read it. */
bool channel_gateway_sleep(struct channel *ch, uint32_t thread, uint64_t *ret_max_sleep_ns);
void channel_gateway_awake(struct channel *ch, uint32_t thread);

/* Response pieces, read in place. */
enum channel_piece_type {
    CHANNEL_HEAD = 1, /* final head: status, flags, header lines "Name: value\r\n"... */
    CHANNEL_INFORM,   /* 1xx head (103), same form */
    CHANNEL_BODY,     /* body bytes */
    CHANNEL_FLUSH,    /* the script asked that what came so far reaches the client now; no bytes */
    CHANNEL_END,  /* response complete; no bytes. The slot is still the worker's until it is done */
    CHANNEL_FILE, /* final head of an answer whose body is a file: its descriptor was sent on the
                     worker's socket before (CONTROL_FILE). In parts like HEAD; END follows */
    CHANNEL_PASS_ON, /* in place of an answer: this worker is the wrong one for the request, which
                        nothing has read yet; no bytes. First and last piece: END does not follow */
};
/* Piece flags: a HEAD that did not fit comes in parts, all but the last PART. */
enum { CHANNEL_PART = 1 };

struct channel_piece {
    enum channel_piece_type type;
    uint16_t status; /* HEAD, INFORM */
    uint16_t flags;
    struct channel_ticket ticket;
    struct iovec iov[2]; /* payload not yet consumed, in at most two runs (ring wrap) */
    int n_iov;
    size_t bytes;
};

/* Next worker whose ring may have news for this thread; -1 after one pass over all of them (what
 * was marked meanwhile comes in the next pass, and channel_gateway_sleep knows of it). Clears the
 * mark: what was published before is not marked again, so go on with peek and consume until peek
 * returns 0 or the client is slow (and come back by yourself when it is not). */
int channel_next_dirty(struct channel *ch, uint32_t thread);
/* Lets the next pass return that worker again: to leave a long response for now. */
void channel_mark(struct channel *ch, uint32_t thread, uint32_t worker);
/* Looks at up to `max` published pieces of that ring without consuming. Returns how many; -EPROTO
 * when the worker wrote nonsense (kill it: the pool process does on request). Only pieces of
 * tickets this thread has RUNNING with that worker are delivered; others are dropped and counted.
 * Payload bytes stay shared with the worker: copy what is parsed (heads) before parsing it. */
int channel_peek(struct channel *ch, uint32_t thread, uint32_t worker, struct channel_piece *ret,
                 int max);
/* Consumes the first `pieces` whole pieces, then `bytes` of the payload of the following one. */
void channel_consume(struct channel *ch, uint32_t thread, uint32_t worker, int pieces,
                     size_t bytes);
/* The thread is done with the ticket: after CHANNEL_END or PASS_ON was consumed, or at any time
 * (client gone, time limit): pieces that still come are dropped, and those peeked but not consumed
 * are gone. Takes a queued request back. The slot returns to the thread as soon as its worker has
 * finished with it or was recovered. */
void channel_release(struct channel *ch, uint32_t thread, struct channel_ticket t);

/* The pool process said: worker `index` of `incarnation` is dead (reaped). For every thread, in
 * that thread: take what its ring still holds by peek/consume first, then this. Returns true and
 * the ticket when this thread's request died with it (answer 502; the slot is free again, do not
 * release it). Resets the ring; wakes another
 * worker in case the dead one had been claimed for a wake-up. Call it until it returns false:
 * honest workers leave one ticket at most, a corrupted one may seem to hold more. When all threads
 * have called it, the next incarnation may start. */
bool channel_worker_recover(struct channel *ch, uint32_t thread, uint32_t worker,
                            uint32_t incarnation, struct channel_ticket *ret);
/* Lets a worker that was announced by the pool process begin. After recovery of the one before. */
void channel_worker_grant(struct channel *ch, uint32_t worker, uint32_t incarnation);

/* --- worker side ------------------------------------------------------------------------------ */
struct channel_worker; /* one per worker process, single-threaded */

/* `eventfds[thread]` wake the gateway's threads; copied, stay open. Blocks until granted.
 * -ESHUTDOWN when closed, -EINTR after a signal. */
MUST_USE int channel_worker_attach(struct channel *ch, uint32_t index, uint32_t incarnation,
                                   const int *eventfds, struct channel_worker **ret);
/* Claims the next request; sleeps while there is none. 0; -ESHUTDOWN: channel closed or drained
 * (channel_worker_drain and queue seen empty); -EINTR after a signal while asleep (install handlers
 * without SA_RESTART; only channel_worker_drain is free of the race between a look at a flag and
 * falling asleep);
 * -ETIMEDOUT; UINT64_MAX: no limit; -EPROTO: the slot holds nonsense (exit, so that it is answered
 * 502). */
MUST_USE int channel_worker_next(struct channel_worker *w, uint64_t timeout_ns,
                                 struct channel_request *ret);
MUST_USE int channel_request_header(const struct channel_worker *w, uint32_t i,
                                    struct channel_pair *ret);
struct channel_ticket channel_worker_ticket(const struct channel_worker *w);
/* The gateway thread whose request it is: whose end of the socket to ask for a body. */
uint32_t channel_worker_thread(const struct channel_worker *w);
/* Writes a piece, in parts where the ring is small (a head's parts but the last have CHANNEL_PART);
 * blocks while the ring is full. Bytes become visible to the gateway at FLUSH, END, or when half
 * the ring is filled; body pieces not yet visible grow by what follows. -ESHUTDOWN: the gateway is
 * gone; -ECANCELED: client gone, also while blocked. Both: what follows of this response is
 * dropped, each call returning the same, but END and PASS_ON, which are always written and return 0
 * or -ESHUTDOWN. After those: -ECANCELED. Signals do not interrupt it. */
MUST_USE int channel_respond(struct channel_worker *w, enum channel_piece_type type,
                             uint16_t status, const struct iovec *iov, int n_iov);
/* True once the client has gone (channel_abort). One relaxed load. */
bool channel_worker_aborted(const struct channel_worker *w);
/* CLOCK_MONOTONIC when the present request was claimed. */
uint64_t channel_worker_started_ns(const struct channel_worker *w);
/* What the request that is about to be done has cost, for status pages. */
void channel_worker_note(struct channel_worker *w, uint64_t cpu_ns, uint64_t memory_bytes);
/* A worker whose memory goes back after each request: what that has cost so far. */
void channel_worker_note_rollbacks(struct channel_worker *w, const struct channel_rollbacks *r);
/* After CHANNEL_END (or CHANNEL_PASS_ON) and the end of the request's work: the worker is free for
 * the next one. */
void channel_worker_done(struct channel_worker *w);
/* From a signal handler or between requests: finish and let channel_worker_next return -ESHUTDOWN.
 */
void channel_worker_drain(struct channel_worker *w);
/* Before the process exits by its own will, with no request running: signals what was put off,
 * frees. */
void channel_worker_detach(struct channel_worker *w);

/* --- observation: any process that maps the channel ------------------------------------------- */
struct channel_worker_info {
    uint32_t incarnation, pid;
    enum { CHANNEL_WORKER_NONE, CHANNEL_WORKER_IDLE, CHANNEL_WORKER_BUSY } state;
    struct channel_ticket ticket;
    uint64_t since_ns; /* CLOCK_MONOTONIC of the last change of state (request start) */
    uint64_t requests; /* finished by this incarnation */
    /* CLOCK_REALTIME of its start; of its last finished request: how long it took, processor time
     * (0 where it was not measured), the most memory PHP had asked for. All its own word. */
    uint64_t attached_ns, last_ns, last_cpu_ns, last_memory;
    struct channel_rollbacks {
        uint64_t n, ns;          /* in all, of this incarnation. 0: the pool has none */
        uint32_t pages_last;     /* that the last one put back */
        uint32_t pages_of_image; /* of 4 KiB */
    } rollbacks;
};
void channel_worker_look(const struct channel *ch, uint32_t worker,
                         struct channel_worker_info *ret);

/* The request of a ticket, copied out of its slot while it may be changing: `buffer` takes the
 * texts, each cut to CHANNEL_LOOK_TEXT bytes, and `ret` points into it; headers and body are left
 * out. False: the ticket is not (or no longer) RUNNING. */
enum { CHANNEL_LOOK_TEXT = 1024, CHANNEL_LOOK_BYTES = 16 * CHANNEL_LOOK_TEXT };
bool channel_request_look(const struct channel *ch, struct channel_ticket t,
                          char buffer[CHANNEL_LOOK_BYTES], struct channel_request *ret);
/* Its limit_ms; 0 as well when the ticket names no slot. */
uint32_t channel_request_limit_ms(const struct channel *ch, struct channel_ticket t);

/* What a request in a slot says of itself. */
enum { CHANNEL_PEEK_BYTES = 4096 };
struct channel_peek {
    struct str method, target, script_filename, remote_addr, request_id;
    struct str authorization; /* of the header of that name */
    int64_t content_length;
    uint64_t received_ns;
    char text[CHANNEL_PEEK_BYTES]; /* where the views point; long texts are cut */
};
/* Copies what the slot says of the request of that ticket, also when it is done. False: it is
 * another one's by now. */
bool channel_request_peek(const struct channel *ch, struct channel_ticket t,
                          struct channel_peek *ret);
/* CLOCK_MONOTONIC when a worker claimed the request, by its own word; 0: none did. */
uint64_t channel_claimed_ns(const struct channel *ch, struct channel_ticket t);

struct channel_counters {
    uint64_t pushed, claimed, done, canceled, queue_full, wakes, signals, ring_full, dropped_pieces,
        recovered, slow;
    uint64_t memory_peak;           /* the most that one request took, by the workers' words */
    uint32_t queued, running, idle; /* now */
    /* Since the channel was made: the most at once, and how often a request found all busy. */
    uint32_t queued_max, running_max, limit_reached;
};
void channel_count(const struct channel *ch, struct channel_counters *ret);
/* The gateway has given it `requests` that are not yet done, to so many workers. Any thread. */
void channel_note_load(struct channel *ch, uint32_t requests, uint32_t workers);
/* The pool process found a request of that worker slow. */
void channel_note_slow(struct channel *ch, uint32_t worker);

#endif
