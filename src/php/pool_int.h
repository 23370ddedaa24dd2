/*
 * Inside the pool process: its state, shared by pool.c and the files beside it that each do one of
 * its jobs.
 */
#ifndef SAPID_PHP_POOL_INT_H
#define SAPID_PHP_POOL_INT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "channel/control.h"
#include "php/php_int.h"

struct seat {
    pid_t pid; /* 0: empty */
    uint32_t incarnation;
    unsigned early_deaths; /* in a row */
    uint64_t not_before_ns;
};

struct pool {
    struct config *config;
    const struct config_pool *conf;
    struct control_boot boot;
    struct settings settings;
    const struct engine_module *engine;
    int supervisor, gateway, signals;
    struct channel *channel; /* NULL: none yet */
    int eventfds[CHANNEL_THREADS_MAX];
    uint32_t n_eventfds;
    struct seat *seats;
    uint32_t n_seats;
    pid_t *leavers; /* workers of channels before this one */
    size_t n_leavers;
    uint32_t incarnations;
    bool draining, gateway_gone;
    uint64_t renewed_ns;     /* when a new generation was asked for last */
    struct engine_loop loop; /* of a pool that runs a worker script */
    bool boots;    /* its first worker runs the script for the first time; READY waits for that */
    bool replaces; /* another generation serves meanwhile */
    uint64_t boot_until_ns;
    char ready_text[2048];
};

#endif
