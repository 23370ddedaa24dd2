/*
 * Rollouts: a set of processes that begins to serve as one. The first start, a reload and a
 * rollback are the same thing:
 *
 *   1. The plan: a reload reads the configuration again, a rollback takes the plan before. One that
 *      is not valid ends here and has touched nothing.
 *   2. What differs decides what starts beside what serves: a generation of each changed pool; of
 *      all pools when nothing differs (the files may have) or when routes do; and another gateway
 *      too when [server], [log] or the list of pools differ, because a channel belongs to one
 *      gateway and is shaped for it.
 *   3. All of them must get ready, then answer the requests of [php] warmup and probe, which the
 * new gateway, or the one that serves, makes to the newest generations. Meanwhile images of entry
 * scripts are made of them (image_ahead.c).
 *   4. All take over in one turn of the loop. The old ones finish what they have.
 *
 * Any failure before step 4 gives the new ones up and changes nothing. There is one rollout at a
 * time and at most one that waits; whoever asks meanwhile shares the one that waits. The death of a
 * serving process is mended independently of it (generation.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum rollout_kind { ROLLOUT_FIRST, ROLLOUT_RELOAD, ROLLOUT_ROLLBACK };

enum { WAITERS_MAX = 64, FILES_BESIDE_CONNECTIONS = 4096, SENTENCE_BYTES = 2048 };

struct waiter {
    reload_done *done;
    void *ctx;
};

struct rollout {
    enum rollout_kind kind;
    struct waiter waiters[WAITERS_MAX];
    uint32_t n_waiters;
    struct plan *plan;
    struct pool **pools; /* by index in the plan */
    bool *is_new;        /* whose `next` belongs to it */
    bool whole;          /* it has a gateway of its own, and all pools are new */
    struct gateway_process *gateway;
    bool beginning; /* failures are noted, and acted upon when everything has been started */
    char *failure;
    struct warmup *warmup;
    bool warm;
    bool log_moved; /* workers that run write to another file */
    uint64_t began_ns;
    /* Switched, but the old gateway may still accept: over when it does not. NULL: not so far. */
    struct gateway_process *leaving;
    char *sentence; /* that is told then */
};

static const char *const kind_names[] = { "start", "reload", "rollback" };

static void begin(struct supervisor *s, struct rollout *r);

/* --- whom it is for --------------------------------------------------------------------------- */

static struct rollout *rollout_new(enum rollout_kind kind)
{
    struct rollout *r = mem_zalloc(sizeof(*r));

    r->kind = kind;
    return r;
}

void rollout_free(struct rollout *r)
{
    if (!r)
        return;
    warmup_free(r->warmup);
    plan_unref(r->plan);
    mem_free(r->pools);
    mem_free(r->is_new);
    mem_free(r->failure);
    mem_free(r->sentence);
    mem_free(r);
}

static void tell(const struct rollout *r, bool ok, const char *sentence)
{
    for (uint32_t i = 0; i < r->n_waiters; i++)
        if (r->waiters[i].done)
            r->waiters[i].done(r->waiters[i].ctx, ok, sentence);
}

/* It is over. Frees it; the next one may begin. */
PRINTF_LIKE(4, 5)
static void finish(struct supervisor *s, struct rollout *r, bool ok, const char *fmt, ...)
{
    char sentence[SENTENCE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(sentence, sizeof(sentence), fmt, ap);
    va_end(ap);
    if (s->rollout == r)
        s->rollout = NULL;
    if (r->kind != ROLLOUT_FIRST && ok)
        log_notice("%s", sentence);
    else if (r->kind != ROLLOUT_FIRST)
        log_error("%s", sentence);
    if (r->kind != ROLLOUT_FIRST && ok)
        names_save(s);
    if (r->kind != ROLLOUT_FIRST && s->phase == SUPERVISOR_SERVING)
        notify_send("READY=1");
    tell(r, ok, sentence);
    rollout_free(r);
    struct rollout *next = s->queued;
    s->queued = NULL;
    if (next) {
        begin(s, next);
    } else if (s->upgrade_after_rollout) {
        s->upgrade_after_rollout = false;
        supervisor_upgrade(s, NULL, NULL);
    }
}

static void ask(struct supervisor *s, enum rollout_kind kind, reload_done *done, void *ctx)
{
    struct rollout *r = s->queued;

    if (s->phase >= SUPERVISOR_DRAINING) {
        log_warn("a %s was asked for while the server is stopping: ignored", kind_names[kind]);
        if (done)
            done(ctx, false, "refused: the server is stopping");
        return;
    }
    if (s->upgrade) {
        log_error("%s refused: an upgrade is under way", kind_names[kind]);
        if (done)
            done(ctx, false, "refused: an upgrade is under way");
        return;
    }
    if (r && (r->kind != kind || r->n_waiters == WAITERS_MAX)) {
        s->queued = NULL;
        tell(r, false, "refused: something else was asked for before it could begin");
        rollout_free(r);
        r = NULL;
    }
    if (!r)
        r = rollout_new(kind);
    if (done)
        r->waiters[r->n_waiters++] = (struct waiter){ done, ctx };
    if (s->rollout)
        s->queued = r;
    else
        begin(s, r);
}

void supervisor_reload(struct supervisor *s, reload_done *done, void *ctx)
{
    ask(s, ROLLOUT_RELOAD, done, ctx);
}

void supervisor_rollback(struct supervisor *s, reload_done *done, void *ctx)
{
    ask(s, ROLLOUT_ROLLBACK, done, ctx);
}

static void forget(struct rollout *r, const void *ctx)
{
    for (uint32_t i = 0; r && i < r->n_waiters; i++)
        if (r->waiters[i].ctx == ctx)
            r->waiters[i].done = NULL;
}

void supervisor_reload_forget(struct supervisor *s, void *ctx)
{
    forget(s->rollout, ctx);
    forget(s->queued, ctx);
}

/* --- the end without success ------------------------------------------------------------------ */

static void give_up(struct supervisor *s, struct rollout *r)
{
    struct gateway_process *g = r->whole ? r->gateway : NULL;

    s->rollout = NULL; /* what ends from here on is no news */
    for (uint32_t i = 0; r->pools && i < r->plan->config->n_pools; i++)
        if (r->is_new[i])
            pool_abandon(r->pools[i]);
    if (g && role_running(&g->role)) {
        g->drained = true;
        role_end(&g->role, 1 * NS_PER_S);
    } else if (g) {
        gateway_free(g);
    }
}

static void fail(struct supervisor *s, struct rollout *r, const char *why)
{
    bool moved;

    give_up(s, r);
    if (r->kind == ROLLOUT_FIRST) {
        supervisor_start_failed(s, why);
        rollout_free(r);
        return;
    }
    if (logs_switch(s, s->plan, &moved) < 0)
        log_warn("the error log stays what the refused configuration says");
    finish(s, r, false, "%s failed: %s", kind_names[r->kind], why);
}

void rollout_lost(struct supervisor *s, const struct pool *p, const char *name, const char *why)
{
    struct rollout *r = s->rollout;
    char keeps[64] = "everything goes on as it was", sentence[SENTENCE_BYTES];

    if (!r || r->leaving)
        return;
    if (p && p->active)
        snprintf(keeps, sizeof(keeps), "generation %u keeps serving", p->active->number);
    if (r->kind == ROLLOUT_FIRST)
        snprintf(sentence, sizeof(sentence), "%s: %s", name, why);
    else
        snprintf(sentence, sizeof(sentence), "%s did not start: %s; %s", name, why, keeps);
    if (!r->beginning)
        fail(s, r, sentence);
    else if (!r->failure)
        r->failure = mem_strdup(sentence);
}

void rollout_gateway_gone(struct supervisor *s, struct gateway_process *g)
{
    struct rollout *r = s->rollout;

    if (!r || r->gateway != g || r->leaving)
        return;
    /* Of the one that serves: the next process gets to know the generations, and is asked again. */
    warmup_free(r->warmup);
    r->warmup = NULL;
    r->warm = false;
}

void rollout_gateway_lost(struct supervisor *s, struct gateway_process *g, const char *why)
{
    if (!s->rollout || s->rollout->gateway != g || s->rollout->leaving)
        return;
    s->rollout->gateway = NULL; /* its own exit frees it */
    rollout_lost(s, NULL, "the gateway", why);
}

void rollout_cancel(struct supervisor *s)
{
    struct rollout *r = s->rollout, *next = s->queued;

    s->queued = NULL;
    if (next)
        tell(next, false, "refused: the server is stopping");
    rollout_free(next);
    if (!r)
        return;
    if (r->leaving) {
        s->rollout = NULL;
        tell(r, true, r->sentence);
        rollout_free(r);
        return;
    }
    give_up(s, r);
    tell(r, false, "given up: the server is stopping");
    rollout_free(r);
}

/* --- the switch ------------------------------------------------------------------------------- */

/* "pool www g3, pool admin g2" */
static void name_generations(const struct rollout *r, char *text, size_t size)
{
    size_t n = 0;

    text[0] = '\0';
    for (uint32_t i = 0; i < r->plan->config->n_pools && n < size; i++)
        if (r->is_new[i] && r->pools[i]->active)
            n += (size_t)snprintf(text + n, size - n, "%s%s (document root %s)", n ? ", " : "",
                                  r->pools[i]->active->role.name, r->plan->pools[i].document_root);
}

static bool in_plan(const struct rollout *r, const struct pool *p)
{
    for (uint32_t i = 0; i < r->plan->config->n_pools; i++)
        if (r->pools[i] == p)
            return true;
    return false;
}

/* What the configuration is now. */
static void take_plan(struct supervisor *s, struct rollout *r)
{
    struct gateway_process *old = s->gateway;

    if (r->kind != ROLLOUT_FIRST) {
        plan_unref(s->previous);
        s->previous = s->plan;
        s->plan = plan_ref(r->plan);
    }
    if (r->whole) {
        listeners_own(&r->gateway->listeners, old ? &old->listeners : NULL);
        s->gateway = r->gateway;
    } else {
        plan_unref(old->plan);
        old->plan = plan_ref(r->plan);
    }
}

static void take_pools(struct supervisor *s, struct rollout *r)
{
    mem_free(s->pools);
    s->pools = r->pools;
    s->n_pools = r->plan->config->n_pools;
    LIST_FOR_EACH_SAFE(it, &s->all_pools) {
        struct pool *p = LIST_ENTRY(it, struct pool, link);
        if (!in_plan(r, p) && !p->seat) /* a seat goes with its pool */
            pool_retire(p);
    }
}

static void commit(struct supervisor *s, struct rollout *r)
{
    struct gateway_process *old = s->gateway;
    char message[256], names[1024];

    if (r->whole && listeners_listen(&r->gateway->listeners, message, sizeof(message)) < 0) {
        fail(s, r, message);
        return;
    }
    take_plan(s, r);
    for (uint32_t i = 0; i < r->plan->config->n_pools; i++)
        if (r->is_new[i])
            pool_switch(r->pools[i]);
    take_pools(s, r);
    if (r->kind != ROLLOUT_FIRST)
        admin_renew(&s->admin, &s->previous->config->admin, &s->plan->config->admin);
    if (r->whole && gateway_listen(r->gateway, message, sizeof(message)) < 0)
        log_error("listening: %s", message);
    if (!r->whole)
        gateways_reopen_logs(s, r->log_moved);
    name_generations(r, names, sizeof(names));
    r->pools = NULL; /* the supervisor's now */
    if (r->kind == ROLLOUT_FIRST) {
        supervisor_listening(s);
        finish(s, r, true, "started");
        return;
    }
    watcher_stop(s);
    watcher_start(s);
    r->sentence = mem_printf("%s done in %llu ms: %s serve%s", kind_names[r->kind],
                             (unsigned long long)((clock_monotonic_ns() - r->began_ns) / NS_PER_MS),
                             names, strchr(names, ',') ? "" : "s");
    if (r->whole && gateway_leave(old))
        r->leaving = old;
    else
        finish(s, r, true, "%s", r->sentence);
}

void rollout_left(struct supervisor *s, struct gateway_process *g)
{
    struct rollout *r = s->rollout;

    if (r && r->leaving == g)
        finish(s, r, true, "%s", r->sentence);
}

static void on_warm(void *ctx, const char *failure)
{
    struct supervisor *s = ctx;
    struct rollout *r = s->rollout;

    CHECK(r && r->warmup);
    char *why = failure ? mem_strdup(failure) : NULL;
    warmup_free(r->warmup);
    r->warmup = NULL;
    r->warm = true;
    bool serves_already = r->kind != ROLLOUT_FIRST || takeover_pending();
    if (why && !serves_already)
        log_error("%s; there is nothing else to serve, so the server starts all the same", why);
    if (why && serves_already) {
        char *sentence = r->kind == ROLLOUT_FIRST
                             ? mem_printf("to serve: %s", why) /* the program before goes on */
                             : mem_printf("%s; everything goes on as it was", why);
        fail(s, r, sentence);
        mem_free(sentence);
    } else {
        rollout_progress(s);
    }
    mem_free(why);
}

void rollout_progress(struct supervisor *s)
{
    struct rollout *r = s->rollout;

    if (!r || r->beginning || r->warmup || r->leaving || !r->gateway || !r->gateway->ready)
        return;
    for (uint32_t i = 0; i < r->plan->config->n_pools; i++)
        if (r->is_new[i] && !(r->pools[i]->next && r->pools[i]->next->granted))
            return;
    if (!r->warm)
        r->warmup = warmup_start(r->gateway, r->plan, r->is_new, on_warm, s);
    if (r->warmup)
        return;
    for (uint32_t i = 0; i < r->plan->config->n_pools; i++)
        if (r->is_new[i] && !images_ahead_settled(r->pools[i]->next))
            return;
    commit(s, r);
}

void rollout_probed(struct supervisor *s, const struct control_message *m)
{
    if (s->rollout && s->rollout->warmup)
        warmup_answered(s->rollout->warmup, m);
}

/* --- the beginning ---------------------------------------------------------------------------- */

static char *complaint; /* the first line of what is wrong with a configuration */

static void complain(const char *line)
{
    log_error("%s", line);
    if (!complaint)
        complaint = mem_strdup(line);
}

/* 0, or -EINVAL after it finished the rollout. */
static int read_plan(struct supervisor *s, struct rollout *r)
{
    if (plan_new(&s->cli, complain, &r->plan) == 0)
        return 0;
    char *why = complaint ? complaint : mem_strdup("the log says more");
    complaint = NULL;
    finish(s, r, false,
           "reload refused: the configuration is not valid: %s; everything goes on as it was", why);
    mem_free(why);
    return -EINVAL;
}

static int find_previous(struct supervisor *s, struct rollout *r)
{
    const struct plan *p = s->previous;

    if (!p) {
        finish(s, r, false, "rollback refused: there was no reload since the start of the server");
        return -EINVAL;
    }
    for (uint32_t i = 0; i < p->config->n_pools; i++)
        if (access(p->pools[i].document_root, R_OK | X_OK) < 0) {
            finish(s, r, false, "rollback refused: document root %s of the previous release: %s",
                   p->pools[i].document_root, strerror(errno));
            return -EINVAL;
        }
    r->plan = plan_ref(s->previous);
    return 0;
}

static struct pool *find_pool(struct supervisor *s, struct str name)
{
    LIST_FOR_EACH(it, &s->all_pools) {
        struct pool *p = LIST_ENTRY(it, struct pool, link);
        if (str_eq(str_from(p->name), name) && !p->seat)
            return p;
    }
    return pool_new(s, name);
}

/* Pools that a reload before took away and that have drained since. */
static void sweep(struct supervisor *s)
{
    LIST_FOR_EACH_SAFE(it, &s->all_pools) {
        struct pool *p = LIST_ENTRY(it, struct pool, link);
        bool present = image_keeps(p);
        for (uint32_t i = 0; i < s->n_pools; i++)
            present |= s->pools[i] == p;
        if (!present && list_empty(&p->generations))
            pool_free(p);
    }
}

/* Which pools start afresh, and whether the gateway does. */
static void decide(struct supervisor *s, struct rollout *r)
{
    uint32_t n = r->plan->config->n_pools, n_new = 0;
    const char *difference = s->gateway ? plan_gateway_difference(s->plan, r->plan) : NULL;

    r->whole = !s->gateway || difference;
    if (difference)
        log_notice("%s: %s is different, so another gateway starts too", kind_names[r->kind],
                   difference);
    r->pools = mem_zalloc(n * sizeof(struct pool *));
    r->is_new = mem_zalloc(n * sizeof(bool));
    for (uint32_t i = 0; i < n; i++) {
        r->pools[i] = find_pool(s, r->plan->config->pools[i].name);
        r->is_new[i] = r->whole || r->log_moved || plan_pool_differs(s->plan, r->plan, i) ||
                       !r->pools[i]->active || r->pools[i]->good->n_fallbacks > 0;
        n_new += r->is_new[i];
    }
    for (uint32_t i = 0; i < n && n_new == 0; i++)
        r->is_new[i] = true;
}

/* The previous release has not gone yet: back to it at once. */
static bool return_at_once(struct supervisor *s, struct rollout *r)
{
    char names[1024];

    if (r->kind != ROLLOUT_ROLLBACK || r->whole)
        return false;
    for (uint32_t i = 0; i < r->plan->config->n_pools; i++)
        if (r->is_new[i] && !pool_find_draining(r->pools[i], r->plan))
            return false;
    take_plan(s, r);
    for (uint32_t i = 0; i < r->plan->config->n_pools; i++)
        if (r->is_new[i])
            pool_return(r->pools[i], pool_find_draining(r->pools[i], r->plan));
    name_generations(r, names, sizeof(names));
    finish(s, r, true, "rollback done: %s, which had not ended yet", names);
    return true;
}

static void start_all(struct supervisor *s, struct rollout *r)
{
    s->rollout = r;
    r->beginning = true;
    if (r->whole)
        gateway_start(r->gateway);
    for (uint32_t i = 0; i < r->plan->config->n_pools && !r->failure; i++)
        if (r->is_new[i])
            pool_prepare(r->pools[i], r->plan, i, r->gateway, NULL);
    r->beginning = false;
    if (r->failure) {
        char *why = r->failure;
        r->failure = NULL;
        fail(s, r, why);
        mem_free(why);
    } else {
        rollout_progress(s);
    }
}

static void begin(struct supervisor *s, struct rollout *r)
{
    const struct config_server *server;
    struct listeners listeners = { NULL, 0 };
    char message[1024];

    r->began_ns = clock_monotonic_ns();
    notify_reloading(); /* READY=1 follows in any case: the service manager waits for it */
    if ((r->kind == ROLLOUT_RELOAD ? read_plan(s, r) : find_previous(s, r)) < 0)
        return;
    server = &r->plan->config->server;
    sweep(s);
    if (logs_switch(s, r->plan, &r->log_moved) < 0) {
        finish(s, r, false, "%s refused: the error log %.*s cannot be opened", kind_names[r->kind],
               STR_ARG(r->plan->config->log.error));
        return;
    }
    decide(s, r);
    if (r->whole && listeners_open(server, r->plan->threads, &s->gateway->listeners, &listeners,
                                   message, sizeof(message)) < 0) {
        r->whole = false;
        memset(r->is_new, 0, r->plan->config->n_pools);
        fail(s, r, message);
        return;
    }
    if (return_at_once(s, r))
        return;
    log_notice("%s: starting a new generation of each pool%s", kind_names[r->kind],
               r->whole ? "" : " that has changed");
    if (r->whole) {
        struct rlimit before;
        sizing_raise_nofile(server->max_connections + FILES_BESIDE_CONNECTIONS, &before);
        r->gateway = gateway_new(s, r->plan, &listeners);
    } else {
        r->gateway = s->gateway;
    }
    start_all(s, r);
}

int rollout_first(struct supervisor *s)
{
    struct rollout *r = rollout_new(ROLLOUT_FIRST);
    struct listeners listeners = { NULL, 0 };
    char message[8192];
    int e = listeners_open(&s->plan->config->server, s->plan->threads, &s->given, &listeners,
                           message, sizeof(message));

    if (e < 0) {
        say_line(message);
        rollout_free(r);
        return e;
    }
    sizing_raise_nofile(s->plan->config->server.max_connections + FILES_BESIDE_CONNECTIONS,
                        &s->nofile_before);
    r->plan = plan_ref(s->plan);
    decide(s, r);
    s->n_pools = s->plan->config->n_pools;
    s->pools = mem_zalloc(s->n_pools * sizeof(struct pool *));
    memcpy(s->pools, r->pools, s->n_pools * sizeof(struct pool *));
    r->gateway = gateway_new(s, r->plan, &listeners);
    images_inherit(s);
    start_all(s, r);
    return 0;
}
