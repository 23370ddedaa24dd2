/*
 * bulkhead: how many workers a part of the application may hold, so that the rest goes on. See
 * docs/overload.md.
 *
 * A gate is a count with a limit: one for each [[route]] with max_concurrency, and one for each
 * pool, the slow lane. A request that needs a gate and finds it full waits here, in the gateway,
 * not in the channel: what stands in the channel is taken by whichever worker is free next.
 *
 * The slow lane: requests are put into classes (the [[route]], else the script, else the first two
 * segments of the path), and each thread learns how long a class takes. A class far above the rest
 * of its pool is slow; slow classes together, and classes nothing is known of yet, hold a share of
 * the workers at most. Where there is no rest that could suffer, nothing is limited.
 */
#ifndef SAPID_GATEWAY_BULKHEAD_H
#define SAPID_GATEWAY_BULKHEAD_H

#include <stdatomic.h>

#include "gateway/gateway_int.h"

struct gate {
    uint32_t index;         /* of the queue of each thread */
    _Atomic uint32_t limit; /* 0: none */
    _Atomic uint32_t queue_size;
    _Atomic uint32_t running, waiting; /* of all threads */
    _Atomic uint64_t waited, refused;
};

enum { LANE_CLASSES = 256, LANE_NAME_BYTES = 64 };

enum lane_state { LANE_UNKNOWN, LANE_FAST, LANE_SLOW };

/* What a thread knows of requests of one kind. */
struct lane_class {
    char name[LANE_NAME_BYTES];
    uint32_t hash;
    enum lane_state state;
    double weight, time_ns; /* finished requests and their times, fading */
    uint64_t used_ns;       /* when the last one came */
    struct list running;    /* struct exchange, oldest first */
    uint32_t n_running;
};

/* Of one pool and thread; the last class takes what finds no place. */
struct lane {
    struct lane_class classes[LANE_CLASSES + 1];
    double weight, time_ns; /* of all classes that are not slow */
    uint64_t faded_ns;
};

void bulkhead_init(struct gateway_thread *t);
/* Before a request is given to the workers of `b`, or to its FastCGI servers. False: it waits, or
 * was answered 503. The head is in thread->request, its path and script in the scratch space. */
bool bulkhead_enter(struct exchange *x, struct backend *b, bool engine);
/* It is no longer with the channel. `over`: surely; else the worker may still be busy with it. */
void bulkhead_leave(struct exchange *x, struct backend *b, struct channel_ticket ticket, bool over);
/* It is for other workers than those it was let in for, and keeps what it holds: bulkhead_enter
 * lets it in once more. */
void bulkhead_pass_on(struct exchange *x);
/* The exchange ends, wherever it is. */
void bulkhead_forget(struct exchange *x);
/* Out of a gate's queue. False: it waits in none. */
bool bulkhead_withdraw(struct exchange *x);
/* After a batch: lets in what has room now. */
void bulkhead_poll(struct gateway_thread *t);
/* The generation goes. */
void bulkhead_drop(struct backend *b);

/* --- for status pages ------------------------------------------------------------------------- */
/* Calls `see` with each class of the pool that is slow for this thread. */
void bulkhead_look(const struct gateway_thread *t, uint32_t pool,
                   void (*see)(void *ctx, const struct lane_class *c, double mean_ms), void *ctx);

/* Calls `see` with each gate that has a limit. */
void bulkhead_look_gates(const struct gateway *g,
                         void (*see)(void *ctx, const char *name, const struct gate *gate),
                         void *ctx);

#endif
