/*
 * The requests that the server makes to a new release before clients can: [php] warmup fills
 * opcache and whatever the application keeps in shared memory, [php] probe decides whether the
 * release is fit to serve. They go, one after the other, through the gateway, as a client's would,
 * so routes, static files and worker scripts are tried as well.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { ANSWER_LIMIT_MS = 30000 };

struct item {
    struct str path; /* in the plan */
    bool decides;
};

struct warmup {
    struct supervisor *sup;
    struct gateway_process *gateway;
    struct item *items;
    uint32_t n, at;
    uint32_t number; /* of the request that is out */
    struct loop_timer timer;
    void (*done)(void *ctx, const char *failure);
    void *ctx;
};

static void add_items(struct warmup *w, const struct config_strings *paths, bool decides)
{
    w->items = mem_realloc(w->items, (w->n + paths->n + 1) * sizeof(*w->items));
    for (uint32_t i = 0; i < paths->n; i++)
        w->items[w->n++] = (struct item){ paths->v[i], decides };
}

/* The pool of a worker script has the lists of the one it belongs to: its requests are the same
 * too.
 */
static bool is_wanted(const struct plan *plan, const bool *pool_is_new, uint32_t index)
{
    const struct config_pool *p = &plan->config->pools[index];

    return p->kind == CONFIG_POOL_CLASSIC &&
           (pool_is_new[index] || (p->loop && pool_is_new[p->loop]));
}

static void on_late(struct loop_timer *t);

static void ask_next(struct warmup *w)
{
    static uint32_t last_number;
    struct control_message m;

    if (w->at == w->n) {
        w->done(w->ctx, NULL);
        return;
    }
    w->number = ++last_number;
    control_message_init(&m, CONTROL_PROBE);
    m.generation = w->number;
    control_message_set_text(&m, w->items[w->at].path);
    loop_timer_set(w->sup->loop, &w->timer, clock_monotonic_ns() + ANSWER_LIMIT_MS * NS_PER_MS,
                   on_late);
    role_send(&w->gateway->role, &m, NULL, 0);
}

/* `found`: "503", "no answer within 30 s". */
static void answered(struct warmup *w, bool good, const char *found)
{
    const struct item *i = &w->items[w->at];

    if (!good && i->decides) {
        char *why = mem_printf("the new release is not fit to serve: probe %.*s: expected a status "
                               "below 500, found %s",
                               STR_ARG(i->path), found);
        w->done(w->ctx, why);
        mem_free(why);
        return;
    }
    if (!good)
        log_warn("warmup %.*s: expected a status below 500, found %s", STR_ARG(i->path), found);
    else
        log_info("%s %.*s: %s", i->decides ? "probe" : "warmup", STR_ARG(i->path), found);
    w->at++;
    ask_next(w);
}

static void on_late(struct loop_timer *t)
{
    char found[48];

    snprintf(found, sizeof(found), "no answer within %d s", ANSWER_LIMIT_MS / 1000);
    answered(CONTAINER_OF(t, struct warmup, timer), false, found);
}

void warmup_answered(struct warmup *w, const struct control_message *m)
{
    struct str text = control_message_text(m);
    char found[256];

    if (m->generation != w->number)
        return; /* one that was given up */
    loop_timer_cancel(w->sup->loop, &w->timer);
    if (m->status > 0)
        snprintf(found, sizeof(found), "%d", m->status);
    else
        snprintf(found, sizeof(found), "%.*s", STR_ARG(text));
    answered(w, m->status > 0 && m->status < 500, found);
}

struct warmup *warmup_start(struct gateway_process *g, const struct plan *plan,
                            const bool *pool_is_new, void (*done)(void *ctx, const char *failure),
                            void *ctx)
{
    struct warmup *w = mem_zalloc(sizeof(*w));

    for (int decides = 0; decides < 2; decides++)
        for (uint32_t i = 0; i < plan->config->n_pools; i++)
            if (is_wanted(plan, pool_is_new, i))
                add_items(w,
                          decides ? &plan->config->pools[i].probe : &plan->config->pools[i].warmup,
                          decides);
    if (w->n == 0) {
        mem_free(w->items);
        mem_free(w);
        return NULL;
    }
    w->sup = g->role.sup;
    w->gateway = g;
    w->done = done;
    w->ctx = ctx;
    ask_next(w);
    return w;
}

void warmup_free(struct warmup *w)
{
    if (!w)
        return;
    loop_timer_cancel(w->sup->loop, &w->timer);
    mem_free(w->items);
    mem_free(w);
}
