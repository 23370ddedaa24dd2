/*
 * Event loop of one thread: readiness, timers, signals, child exits. epoll stays inside this room.
 *
 * Watches and timers are embedded in the caller's structs and owned by the caller; the loop only
 * links them. A callback may remove or free any watch or timer, its own too: events already fetched
 * for a removed watch are not delivered.
 */
#ifndef SAPID_LOOP_LOOP_H
#define SAPID_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/check.h"

struct loop;

enum {
    LOOP_READ = 1,   /* readable, or the peer closed */
    LOOP_WRITE = 2,  /* writable */
    LOOP_HANGUP = 4, /* reported only: EPOLLRDHUP, EPOLLHUP or EPOLLERR */
    LOOP_EDGE = 8,   /* asked only: edge-triggered; read and write until short or EAGAIN */
};

struct loop_watch {
    void (*on_ready)(struct loop_watch *w, unsigned events);
    int fd; /* -1 when not in a loop */
    unsigned events;
    uint32_t pending; /* private: index of a fetched event, for removal during dispatch */
};

struct loop_timer {
    void (*on_expire)(struct loop_timer *t);
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: not set */
    uint64_t armed_ns;    /* private: position in the heap; moving a deadline later costs nothing */
    uint32_t slot;        /* private: heap index + 1, 0 when not in the heap */
};

/* Called once each in every turn, in this order; any may be NULL. */
struct loop_hooks {
    /* Just before the thread would block. Returns the longest sleep wanted in ns (UINT64_MAX: no
     * limit; 0: do not block). Here the gateway declares itself asleep to the channels. */
    uint64_t (*before_wait)(void *ctx);
    /* Just after waking, before any callback. */
    void (*after_wait)(void *ctx);
    /* After all callbacks of a batch: here the gateway wakes workers once per batch. */
    void (*after_batch)(void *ctx);
    void *ctx;
};

/* 0 or -errno. */
MUST_USE int loop_new(struct loop **ret);
/* Not from a callback. Takes NULL. Timers that are still set are let go. */
void loop_free(struct loop *loop);
void loop_set_hooks(struct loop *loop, const struct loop_hooks *hooks);

/* 0 or -errno. `w` need not be initialised, and must not be in a loop. A hang-up is reported
 * whenever LOOP_READ or LOOP_EDGE is asked for; a full one (both directions, or an error) always,
 * and again every turn without LOOP_EDGE until the watch is removed. An event is reported with what
 * was asked for last. */
MUST_USE int loop_watch_add(struct loop *loop, struct loop_watch *w, int fd, unsigned events,
                            void (*on_ready)(struct loop_watch *, unsigned));
MUST_USE int loop_watch_change(struct loop *loop, struct loop_watch *w, unsigned events);
/* Idempotent; does not close the descriptor. Close it afterwards, never before. A zeroed watch
 * counts as removed. */
void loop_watch_remove(struct loop *loop, struct loop_watch *w);
/* Removes the watch and closes its descriptor, with one system call fewer. Only for a descriptor
 * that has no duplicate in this or another process: a duplicate would keep it in the epoll set. */
void loop_watch_close(struct loop *loop, struct loop_watch *w);

/* Sets or moves a timer; `t` is zeroed before its first use. Fires once, at or after `deadline_ns`;
 * set by its own callback, never again in the same turn. deadline_ns is 0 when on_expire runs. Not
 * 0; no limit is UINT64_MAX. */
void loop_timer_set(struct loop *loop, struct loop_timer *t, uint64_t deadline_ns,
                    void (*on_expire)(struct loop_timer *));
/* Idempotent. Needed before the timer's memory is freed. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *t);

/* Signals are blocked for the thread and delivered through one signalfd. `signals` ends with 0.
 * A child exit is SIGCHLD: the callback calls waitpid itself. */
MUST_USE int loop_signals(struct loop *loop, const int *signals,
                          void (*on_signal)(void *ctx, int signo), void *ctx);

/* Time at the start of this batch, CLOCK_MONOTONIC. */
uint64_t loop_now_ns(const struct loop *loop);
/* Runs until loop_stop; the batch in which that was called is finished first. */
void loop_run(struct loop *loop);
/* One turn: waits at most `timeout_ns` (UINT64_MAX: for ever), dispatches. For tests. */
void loop_turn(struct loop *loop, uint64_t timeout_ns);
void loop_stop(struct loop *loop);

#endif
