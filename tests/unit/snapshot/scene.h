/*
 * A synthetic program to freeze. `before` builds what is to be imaged; then, again and again,
 * `check` must find everything as `before` left it and `job` does something to it. Every scene runs
 * three times, each in a process of its own, with VERIFY on: by itself with PAGEMAP_SCAN, by itself
 * reading /proc/self/pagemap, and in two workers forked from the frozen process.
 */
#ifndef SAPID_TESTS_SNAPSHOT_SCENE_H
#define SAPID_TESTS_SNAPSHOT_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "snapshot/snapshot.h"
#include "test.h"

struct scene {
    void (*before)(void);
    void (*check)(unsigned turn); /* may be NULL */
    void (*job)(unsigned turn);
    void (*after)(const struct snapshot_stats *s); /* behind the last check; may be NULL */
    unsigned turns;                                /* 0: 30 */
    uint32_t hot_max, hot_period;
    void (*scratch)(void *context, snapshot_scratch_add *add, void *list);
};

void scene_run(const struct scene *s);
/* As scene_run; by itself and once only, with or without VERIFY. */
void scene_run_alone(const struct scene *s, bool verify);

/* Runs it in a process of its own: prepared, no timers, no descriptors but 0 to 2. */
void scene_apart(void (*run)(void));

/* Memory of the scene that rollback leaves alone: zeroed, 64 KiB. */
void *scene_kept(void);
/* In a process forked from the frozen one. */
bool scene_is_worker(void);
/* Rolls back from here, however deep. */
void scene_roll_back(void);
/* snapshot_take() must refuse with this problem, in a process that can go on. */
void scene_expect_refused(enum snapshot_problem problem);

uint32_t scene_random(uint64_t *state);
/* Of this process: mappings, open descriptors, resident KiB. */
unsigned scene_count_maps(void);
unsigned scene_count_fds(void);
unsigned long scene_resident_kib(void);

/* Can the kernel read that byte? Asks without touching it. */
bool scene_is_readable(const void *p);

#endif
