/*
 * box: the black box of one worker, in memory that it shares with its pool process and nobody else.
 * The worker writes; the pool process reads, also after the worker's death, and believes nothing
 * (box_check). It holds the last requests of the worker, the processor time at the start of the
 * present one, and what the worker's own signal handler found when it crashed.
 */
#ifndef SAPID_PHP_BOX_H
#define SAPID_PHP_BOX_H

#include <stdatomic.h>
#include <stdint.h>

#include "php/stack.h"

enum {
    BOX_REQUESTS = 16,
    BOX_TARGET = 200,
    BOX_METHOD = 12,
    BOX_ID = 36,
    BOX_ADDRESSES = 64,
};

/* One of the last requests. */
struct box_request {
    uint64_t began_ns;    /* realtime */
    uint64_t duration_ns; /* 0: not ended */
    uint16_t status;
    char method[BOX_METHOD];
    char id[BOX_ID];
    char target[BOX_TARGET]; /* NUL-terminated, cut */
};

/* How far the handler got: a second crash inside it leaves what was found before. */
enum box_phase {
    BOX_NOTHING,
    BOX_SIGNAL, /* signal, address, registers */
    BOX_PHP,    /* and the PHP stack, as far as it could be read */
    BOX_C,      /* and the C backtrace */
};

struct box_crash {
    _Atomic uint32_t phase;
    int32_t signal;         /* 0: exit() was called by C code */
    int32_t code;           /* si_code */
    int32_t sender;         /* process that sent it, 0: the processor did */
    int32_t status;         /* of that exit() */
    uint32_t second_signal; /* of a crash inside the handler */
    uint32_t is_overflow;   /* of the C stack */
    uint64_t address;       /* that was touched */
    uint64_t instruction, stack_pointer;
    uint64_t time_ns; /* realtime */
    uint32_t n_addresses;
    uint64_t addresses[BOX_ADDRESSES]; /* innermost first */
    struct php_stack php;
};

struct box {
    _Atomic uint64_t begun;           /* requests; the present one is requests[(begun - 1) % n] */
    _Atomic uint64_t cpu_at_start_ns; /* of the process, when the present request began */
    uint32_t wants_cpu;               /* by the pool process: cpu_at_start_ns is wanted */
    struct box_request requests[BOX_REQUESTS];
    struct box_crash crash;
};
enum { BOX_SPAN = (sizeof(struct box) + 4095) / 4096 * 4096 }; /* each in pages of its own */

#endif
