/*
 * What image.c and image_ahead.c share: the seats of a classic pool and what they hold.
 */
#ifndef SAPID_SUPERVISOR_IMAGE_INT_H
#define SAPID_SUPERVISOR_IMAGE_INT_H

#include "supervisor/supervisor_int.h"

/* Of a classic pool. */
struct images {
    struct pool *of;
    struct pool **seats; /* as far as they were needed */
    uint32_t n_seats;
    struct image_refusal refusals[IMAGE_REFUSALS];
    bool told_full;
    /* image_ahead.c */
    uint32_t ahead_of; /* generation that is to take over, with images; 0: none */
    struct loop_timer limit;
    bool late, busy; /* late: it waits no longer; busy: its images are being started or switched */
};

/* Of a seat. */
struct image_seat {
    struct pool *of;           /* NULL: it has gone */
    struct image_order *order; /* NULL: nothing */
    bool due;                  /* to be begun when no other one of the pool is being made */
    uint64_t used_ns, made_ns;
    unsigned n_short; /* images of that script in a row which were short-lived */
    /* For images->ahead_of. */
    enum { AHEAD_NO, AHEAD_DUE, AHEAD_BEGUN, AHEAD_FAILED } ahead;
    struct image_order *ahead_order; /* of what was begun */
    char *failure;                   /* why */
};

static inline const struct config_pool *image_config_of(const struct generation *g)
{
    return &g->plan->config->pools[g->index];
}

/* A script has the seat, or is getting it. */
static inline bool image_seat_is_taken(const struct pool *p)
{
    return p->active || p->pending || p->seat->due;
}

/* The configuration of that classic generation has the seat. */
bool image_seat_is_in_plan(const struct pool *p, const struct generation *of);
/* What the seat holds, in the files of that generation; counted. */
struct image_order *image_order_for(const struct pool *p, const struct generation *of);
void image_seat_give(struct image_seat *seat, struct image_order *take);
/* Notes that it cannot be frozen, why, and when it may be tried again. True: that is a new reason,
 * which people should hear of. */
bool image_refuse_order(struct pool *of, const struct image_order *o, const char *why);
/* The pool of that seat of pool `of`, number `index` in the plan; the first one to use it makes it.
 */
struct pool *image_seat_of(struct pool *of, const struct plan *plan, uint32_t index, uint32_t nth);
bool image_is_host(struct str host);
struct image_order *image_order_new(const struct control_image *image, uint32_t of_generation);
/* Begins the next one that a change of generations has left to be made. */
void image_begin_due(struct pool *of);
/* Of a seat that is being freed. */
void image_ahead_forget(struct image_seat *seat);

#endif
