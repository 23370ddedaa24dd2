/*
 * Generations of a pool. There is one way to get a pool process that serves, and the first start, a
 * reload, a pool's own wish and the death of a process all take it:
 *
 *   STARTING --READY from the pool--> READY --POOL_READY from the gateway--> ACTIVE
 *      |                                |                                      |
 *      '------ it dies: failed ---------'                a newer one is ACTIVE |
 *                                                                              v
 *                                                          gone <--exit-- DRAINING
 *
 * At most two are being started: `pending` replaces one that died or that wishes it, and is
 * activated as soon as the gateway has granted its first worker; `next` belongs to a rollout
 * (rollout.c), which activates it together with those of the other pools. The old generation serves
 * until then. A wish that comes while one is pending is remembered (`again`), so that a flood of
 * them cannot keep the pool from ever getting ready.
 *
 * A generation belongs to one gateway process, whose channels it has: when that gateway leaves, so
 * does it.
 *
 * A generation of a pool with use_fpm has no process: PHP-FPM is nobody's child here. It is READY
 * at once, has no channel, and is gone when the gateway has drained it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum {
    STOP_GRACE_MS = 1000,   /* between STOP and SIGKILL */
    FAILED_GRACE_MS = 2000, /* a pool that said FAILED ends by itself */
};

static void begin(struct pool *p);
static void ended(struct generation *g, const char *how);

struct pool *pool_new(struct supervisor *s, struct str name)
{
    struct pool *p = mem_zalloc(sizeof(*p));

    p->sup = s;
    snprintf(p->name, sizeof(p->name), "%.*s", STR_ARG(name));
    list_init(&p->generations);
    list_push_back(&s->all_pools, &p->link);
    return p;
}

void pool_free(struct pool *p)
{
    CHECK(list_empty(&p->generations));
    loop_timer_cancel(p->sup->loop, &p->retry);
    plan_unref(p->good);
    image_forget(p);
    list_remove(&p->link);
    mem_free(p);
}

bool pool_serves(const struct pool *p)
{
    /* A pool without a generation must not keep a restarted gateway from serving files and other
     * pools. */
    return p->active ? p->active->granted : p->sup->phase != SUPERVISOR_STARTING;
}

static bool stopping(const struct pool *p)
{
    return p->sup->phase >= SUPERVISOR_DRAINING;
}

static void free_generation(struct generation *g)
{
    loop_timer_cancel(g->pool->sup->loop, &g->timer);
    list_remove(&g->link);
    link_close(&g->ends);
    plan_unref(g->plan);
    image_order_unref(g->order);
    record_parts_fini(&g->records);
    fd_close(&g->report);
    mem_free(g->failure);
    g->magic = 0;
    mem_free(g);
}

static bool has_process(const struct generation *g)
{
    return !g->plan->config->pools[g->index].use_fpm;
}

static void kill_generation(struct generation *g)
{
    if (has_process(g))
        role_kill(&g->role);
    else
        ended(g, "it was given up");
}

/* --- the gateway's side of a generation ------------------------------------------------------ */

/* Tells the pool process about a fresh channel. The gateway's half stays in g->ends until then. */
static int renew_link(struct generation *g)
{
    struct control_message m;
    int fds[ROLE_FDS_MAX];

    link_close(&g->ends);
    int r = link_open(&g->ends, &g->plan->pools[g->index].geometry);
    if (r < 0)
        return r;
    fds[0] = g->ends.channel;
    fds[1] = g->ends.pool_end;
    memcpy(fds + 2, g->ends.eventfds, g->ends.threads * sizeof(int));
    control_message_init(&m, CONTROL_CHANNEL);
    m.pool = g->index;
    m.generation = g->number;
    m.status = g->pool->active && g->pool->active != g;
    role_send(&g->role, &m, fds, 2 + g->ends.threads);
    fd_close(&g->ends.pool_end); /* so that the pool's death closes the gateway's socket */
    return 0;
}

static void attach(struct generation *g)
{
    struct gateway_process *gw = g->gateway;
    struct control_message m;
    int fds[ROLE_FDS_MAX];

    if (!gw || !role_running(&gw->role) || g->attached)
        return; /* the next gateway gets it */
    CHECK(!has_process(g) || (g->ends.channel >= 0 && g->ends.gateway_end >= 0));
    int boot = plan_boot(g->plan, g->index, g->number, g->order);
    if (boot < 0) {
        log_error("%s: cannot describe it to the gateway: %s", g->role.name, strerror(-boot));
        kill_generation(g);
        return;
    }
    size_t n = 0;
    if (has_process(g)) {
        fds[n++] = g->ends.channel;
        fds[n++] = g->ends.gateway_end;
        memcpy(fds + n, g->ends.eventfds, g->ends.threads * sizeof(int));
        n += g->ends.threads;
    }
    fds[n++] = boot;
    control_message_init(&m, CONTROL_POOL_ADD);
    m.pool = g->index;
    m.generation = g->number;
    control_message_set_text(&m, str_from(g->plan->pools[g->index].document_root));
    role_send(&gw->role, &m, fds, n);
    fallback_tell(g);
    report_give(g);
    g->attached = true;
    fd_close(&boot);
    link_close(&g->ends);
}

static void detach(struct generation *g)
{
    if (g->attached)
        role_send_type(&g->gateway->role, CONTROL_POOL_REMOVE, g->index, g->number);
    g->attached = g->granted = false;
}

/* --- draining -------------------------------------------------------------------------------- */

static void stop_generation(struct generation *g)
{
    g->ending = true;
    if (!has_process(g)) {
        ended(g, "it was stopped");
        return;
    }
    role_send_type(&g->role, CONTROL_STOP, g->index, g->number);
    role_kill_in(&g->role, STOP_GRACE_MS * NS_PER_MS);
}

static void on_drain_limit(struct loop_timer *t)
{
    struct generation *g = CONTAINER_OF(t, struct generation, timer);

    CHECK_MAGIC(g, GENERATION_MAGIC);
    log_warn("%s[%d] still has requests after drain_timeout: ending them", g->role.name,
             (int)g->role.pid);
    stop_generation(g);
}

static void start_draining(struct generation *g)
{
    uint64_t limit_ns = g->plan->config->server.drain_timeout_ms * NS_PER_MS;

    CHECK(g != g->pool->active);
    g->state = GENERATION_DRAINING;
    if (!has_process(g))
        return; /* its requests cost nothing but their connections */
    loop_timer_set(g->pool->sup->loop, &g->timer, clock_monotonic_ns() + limit_ns, on_drain_limit);
}

/* No client waits for it any more; what still runs after fastcgi_finish_request() may finish. */
static void finish_draining(struct generation *g)
{
    if (g->ending)
        return;
    g->ending = true;
    if (has_process(g))
        role_send_type(&g->role, CONTROL_DRAIN, g->index, g->number);
    else
        ended(g, "it is drained");
}

/* --- READY, ACTIVE --------------------------------------------------------------------------- */

/* The pending one is settled. */
static void settle(struct pool *p)
{
    bool again = p->again;

    p->again = false;
    if (again && !stopping(p) && !p->pending)
        begin(p);
}

static void activate(struct generation *g)
{
    struct pool *p = g->pool;
    struct generation *old = p->active;

    CHECK(g != old && g->granted);
    images_ahead_switch(g);
    role_send_type(&g->gateway->role, CONTROL_POOL_ACTIVATE, g->index, g->number);
    loop_timer_cancel(p->sup->loop, &g->timer);
    g->state = GENERATION_ACTIVE;
    g->active_since_ns = clock_monotonic_ns();
    p->active = g;
    plan_unref(p->good);
    p->good = plan_ref(g->plan);
    names_keep(g);
    if (old) {
        log_notice("%s takes over from generation %u, which finishes its requests", g->role.name,
                   old->number);
        start_draining(old);
    } else if (p->sup->phase != SUPERVISOR_STARTING && !p->seat) {
        log_notice("%s serves", g->role.name);
    }
    if (p->seat)
        image_serves(g);
    else
        images_follow(p);
}

static void activate_pending(struct pool *p)
{
    struct generation *g = p->pending;

    p->pending = NULL;
    activate(g);
    gateway_maybe_listen(g->gateway);
    settle(p);
}

void pool_go_on(struct pool *p)
{
    if (p->pending && p->pending->granted && images_ahead_settled(p->pending))
        activate_pending(p);
    if (p->next)
        rollout_progress(p->sup);
}

/* The gateway can give it requests. */
static void on_granted(struct generation *g)
{
    struct pool *p = g->pool;

    g->granted = true;
    if (!g->granted_ns)
        g->granted_ns = clock_monotonic_ns();
    if (p->seat && g == p->next) {
        image_ahead_granted(p);
    } else if (g == p->pending || g == p->next) {
        images_ahead_begin(g);
        pool_go_on(p);
    } else if (g == p->active) { /* again, with a new gateway */
        role_send_type(&g->gateway->role, CONTROL_POOL_ACTIVATE, g->index, g->number);
        gateway_maybe_listen(g->gateway);
    }
}

static void on_engine_ready(struct generation *g, const struct control_message *m)
{
    if (g->state != GENERATION_STARTING)
        return;
    g->state = GENERATION_READY;
    log_text(LOG_NOTICE, STR_NONE, control_message_text(m));
    attach(g);
}

static void on_engine_failed(struct generation *g, const struct control_message *m)
{
    mem_free(g->failure);
    g->failure = mem_strndup(control_message_text(m));
    role_kill_in(&g->role, FAILED_GRACE_MS * NS_PER_MS);
}

static void log_worker_death(struct generation *g, const struct control_message *m)
{
    char how[96];

    if (m->status == 0) {
        log_debug("%s: worker %u [%d] ended after %u requests", g->role.name, m->worker, m->pid,
                  m->requests);
        return;
    }
    if (m->text_bytes) { /* by design */
        log_notice("%s: worker %u [%d] ended after %u requests: %.*s", g->role.name, m->worker,
                   m->pid, m->requests, STR_ARG(control_message_text(m)));
        return;
    }
    role_describe_exit(m->status, how, sizeof(how));
    log_warn("%s: worker %u [%d] ended after %u requests: %s", g->role.name, m->worker, m->pid,
             m->requests, how);
}

static void on_message(struct role *r, const struct control_message *m)
{
    struct generation *g = CONTAINER_OF(r, struct generation, role);

    CHECK_MAGIC(g, GENERATION_MAGIC);
    switch (m->type) {
    case CONTROL_READY: on_engine_ready(g, m); break;
    case CONTROL_IMAGE_REFUSED:
    case CONTROL_FAILED: on_engine_failed(g, m); break;
    case CONTROL_WORKER_DEAD: log_worker_death(g, m); break;
    case CONTROL_RECORD: record_receive(g, &g->records, m); break;
    case CONTROL_RESTART:
        if (g == g->pool->active && !stopping(g->pool)) {
            log_notice("%s asks for a new generation: %.*s", g->role.name,
                       STR_ARG(control_message_text(m)));
            snprintf(g->pool->why, sizeof(g->pool->why), "%.*s", STR_ARG(control_message_text(m)));
            pool_renew(g->pool);
        }
        break;
    case CONTROL_IMAGE_OUTDATED: image_outdated(g, control_message_text(m)); break;
    case CONTROL_DRAINED: /* its exit follows */ break;
    default: log_warn("%s sent message %u, which is not for the supervisor", r->name, m->type);
    }
}

/* --- death ----------------------------------------------------------------------------------- */

static void on_retry(struct loop_timer *t)
{
    struct pool *p = CONTAINER_OF(t, struct pool, retry);

    if (!p->pending && !p->active && !stopping(p))
        begin(p);
}

/* Nothing serves: the last plan that worked is started again, slower each time it fails. */
static void replace(struct pool *p, uint64_t lived_ns)
{
    uint64_t delay = backoff_next_ns(&p->backoff, lived_ns);

    if (delay == 0) {
        begin(p);
        return;
    }
    log_error("pool %s: trying again in %llu ms (failure %u in a row)", p->name,
              (unsigned long long)(delay / NS_PER_MS), p->backoff.failures);
    loop_timer_set(p->sup->loop, &p->retry, clock_monotonic_ns() + delay, on_retry);
}

static void on_start_failed(struct pool *p, const char *name, const char *why)
{
    if (stopping(p))
        return;
    if (p->seat) {
        p->again = false;
        image_failed(p, name, why);
        return;
    }
    if (p->active)
        log_error("%s did not start: %s; generation %u keeps serving", name, why,
                  p->active->number);
    else
        log_error("%s did not start: %s", name, why);
    settle(p);
    if (!p->active && !p->pending)
        replace(p, 0);
}

static void on_next_failed(struct pool *p, const char *name, const char *why)
{
    if (p->seat)
        image_ahead_failed(p, name, why);
    else
        rollout_lost(p->sup, p, name, why);
}

static void on_active_died(struct pool *p, const char *name, pid_t pid, const char *how,
                           uint64_t lived_ns)
{
    if (stopping(p))
        return;
    if (p->seat) {
        image_died(p, name, pid, how, lived_ns);
        return;
    }
    log_error("%s[%d] ended: %s; its running requests were answered 502, a new generation starts",
              name, (int)pid, how);
    pool_go_on(p); /* what is only waiting for its images */
    if (!p->active && !p->pending)
        replace(p, lived_ns);
}

/* Frees it. */
static void ended(struct generation *g, const char *how)
{
    struct pool *p = g->pool;
    struct supervisor *s = p->sup;
    pid_t pid = g->role.pid;
    bool was_active = g == p->active, was_pending = g == p->pending, was_next = g == p->next;
    uint64_t lived_ns = g->active_since_ns ? clock_monotonic_ns() - g->active_since_ns : 0;
    uint32_t number = g->number;
    char name[sizeof(g->role.name)];

    CHECK_MAGIC(g, GENERATION_MAGIC);
    g->role.pid = 0;
    snprintf(name, sizeof(name), "%s", g->role.name);
    char *why = mem_strdup(g->failure ? g->failure : how);
    detach(g);
    if (was_active)
        p->active = NULL;
    if (was_pending)
        p->pending = NULL;
    if (was_next)
        p->next = NULL;
    if (!was_active && !was_pending && !was_next)
        log_info("%s[%d] has ended: %s", name, (int)pid, how);
    free_generation(g);
    if (was_pending || was_next)
        images_ahead_abandon(p, number);
    if (was_pending)
        on_start_failed(p, name, why);
    else if (was_active)
        on_active_died(p, name, pid, how, lived_ns);
    else if (was_next)
        on_next_failed(p, name, why);
    mem_free(why);
    gateways_settle(s);
    supervisor_role_ended(s);
}

static void on_exit(struct role *r, int wait_status)
{
    char how[96];

    role_describe_exit(wait_status, how, sizeof(how));
    ended(CONTAINER_OF(r, struct generation, role), how);
}

/* --- start ----------------------------------------------------------------------------------- */

static void on_start_limit(struct loop_timer *t)
{
    struct generation *g = CONTAINER_OF(t, struct generation, timer);

    CHECK_MAGIC(g, GENERATION_MAGIC);
    mem_free(g->failure);
    g->failure = mem_printf("it was not ready within %llu seconds (it waited for %s)",
                            (unsigned long long)(g->pool->sup->start_limit_ns / NS_PER_S),
                            g->state == GENERATION_STARTING ? "the engine" : "the gateway");
    kill_generation(g);
}

static int spawn(struct generation *g)
{
    const struct user *user = &g->plan->pools[g->index].user;
    int boot = plan_boot(g->plan, g->index, g->number, g->order);

    if (boot < 0)
        return boot;
    char **environment = role_environment(&g->plan->config->pools[g->index], user);
    struct role_spec spec = { .verb = "@pool",
                              .user = user,
                              .environment = environment,
                              .boot_fd = boot,
                              .few_files = true };
    int r = role_start(&g->role, &spec);
    role_environment_free(environment);
    fd_close(&boot);
    return r;
}

static struct generation *new_generation(struct pool *p, struct plan *plan, uint32_t index,
                                         struct gateway_process *gateway, struct image_order *order)
{
    struct generation *g = mem_zalloc(sizeof(*g));
    char name[64];

    CHECK(plan && index < plan->config->n_seats);
    g->magic = GENERATION_MAGIC;
    g->pool = p;
    g->number = ++p->last_number;
    g->index = index;
    g->gateway = gateway;
    g->state = GENERATION_STARTING;
    g->plan = plan_ref(plan);
    g->order = image_order_ref(order);
    g->begun_ns = clock_monotonic_ns();
    link_init(&g->ends);
    g->report = -1;
    list_push_back(&p->generations, &g->link);
    snprintf(name, sizeof(name), "pool %s g%u", p->name, g->number);
    role_init(&g->role, p->sup, name);
    g->role.on_message = on_message;
    g->role.on_exit = on_exit;
    return g;
}

/* `g` is pending or next. False: there is no process, and it is freed. */
static bool launch(struct generation *g, char *why, size_t size)
{
    struct supervisor *s = g->pool->sup;

    loop_timer_set(s->loop, &g->timer, clock_monotonic_ns() + s->start_limit_ns, on_start_limit);
    if (!has_process(g)) {
        g->state = GENERATION_READY;
        attach(g);
        return true;
    }
    int r = spawn(g);
    if (r < 0) {
        snprintf(why, size, "%s", strerror(-r));
        free_generation(g);
        return false;
    }
    report_begin(g);
    r = renew_link(g);
    if (r < 0) {
        g->failure = mem_printf("cannot make a channel: %s", strerror(-r));
        role_kill(&g->role);
    }
    return true;
}

/* A generation like the last one that served. */
static void begin(struct pool *p)
{
    char why[128], name[64];

    CHECK(!p->pending && p->good && p->sup->gateway);
    uint32_t index = plan_pool_index(p->good, str_from(p->name));
    p->pending = new_generation(p, p->good, index, p->sup->gateway, image_order_of(p));
    snprintf(name, sizeof(name), "%s", p->pending->role.name);
    if (!launch(p->pending, why, sizeof(why))) {
        p->pending = NULL;
        on_start_failed(p, name, why);
    }
}

void pool_prepare(struct pool *p, struct plan *plan, uint32_t index, struct gateway_process *g,
                  struct image_order *order)
{
    char why[128], name[64];

    CHECK(!p->next);
    p->next = new_generation(p, plan, index, g, order);
    snprintf(name, sizeof(name), "%s", p->next->role.name);
    if (!launch(p->next, why, sizeof(why))) {
        p->next = NULL;
        on_next_failed(p, name, why);
    }
}

void pool_adopt(struct pool *p)
{
    CHECK(p->next && !p->pending);
    p->pending = p->next;
    p->next = NULL;
    if (p->pending->granted)
        activate_pending(p);
}

void pool_renew(struct pool *p)
{
    if (p->pending) {
        p->again = true;
        return;
    }
    loop_timer_cancel(p->sup->loop, &p->retry);
    if (p->good)
        begin(p);
}

/* --- as a part of a rollout ------------------------------------------------------------------ */

void pool_abandon(struct pool *p)
{
    struct generation *g = p->next;

    p->next = NULL; /* its end is nobody's failure */
    if (!g)
        return;
    images_ahead_abandon(p, g->number);
    stop_generation(g);
}

void pool_switch(struct pool *p)
{
    struct generation *g = p->next;

    CHECK(g && g->granted);
    p->next = NULL;
    p->again = false;
    loop_timer_cancel(p->sup->loop, &p->retry);
    pool_cancel_pending(p);
    p->backoff = (struct backoff){ 0 };
    activate(g);
}

/* No successor any more; the generation that was active, which is draining now, or NULL. */
static struct generation *end_active(struct pool *p)
{
    struct generation *g = p->active;

    p->again = false;
    loop_timer_cancel(p->sup->loop, &p->retry);
    pool_cancel_pending(p);
    p->active = NULL;
    if (g)
        start_draining(g);
    return g;
}

void pool_retire(struct pool *p)
{
    end_active(p);
    images_retire(p);
}

void pool_vacate(struct pool *p)
{
    struct generation *g = end_active(p);

    if (!g)
        return;
    if (g->attached)
        role_send_type(&g->gateway->role, CONTROL_POOL_LEAVE, g->index, g->number);
    else
        finish_draining(g); /* nobody sends it anything */
}

struct generation *pool_find_draining(const struct pool *p, const struct plan *plan)
{
    for (struct list *it = p->generations.prev; it != &p->generations; it = it->prev) {
        struct generation *g = LIST_ENTRY(it, struct generation, link);
        if (g->state == GENERATION_DRAINING && !g->ending && g->attached && g->granted &&
            g->gateway == p->sup->gateway && !plan_pool_differs(g->plan, plan, g->index))
            return g;
    }
    return NULL;
}

void pool_return(struct pool *p, struct generation *g)
{
    CHECK(g->state == GENERATION_DRAINING && !g->ending);
    p->again = false;
    loop_timer_cancel(p->sup->loop, &p->retry);
    pool_cancel_pending(p);
    activate(g);
}

/* --- what the gateway's life and messages mean for a pool ------------------------------------ */

void pool_gateway_gone(struct pool *p, struct gateway_process *gateway)
{
    LIST_FOR_EACH_SAFE(it, &p->generations) {
        struct generation *g = LIST_ENTRY(it, struct generation, link);
        if (g->gateway != gateway)
            continue;
        g->attached = g->granted = false;
        if (gateway != p->sup->gateway)
            g->gateway = NULL; /* there will be no next process of it */
        if (g->state == GENERATION_DRAINING)
            finish_draining(g); /* its clients are gone with the gateway */
    }
}

void pool_gateway_drained(struct pool *p, struct gateway_process *gateway)
{
    LIST_FOR_EACH_SAFE(it, &p->generations) {
        struct generation *g = LIST_ENTRY(it, struct generation, link);
        if (g->gateway == gateway && g->state == GENERATION_DRAINING)
            finish_draining(g);
    }
}

void pool_gateway_started(struct pool *p, struct gateway_process *gateway)
{
    LIST_FOR_EACH_SAFE(it, &p->generations) {
        struct generation *g = LIST_ENTRY(it, struct generation, link);
        if (g->gateway != gateway || g->state == GENERATION_DRAINING ||
            g->state == GENERATION_STARTING)
            continue;
        /* A link no gateway has seen is as good as new. */
        int r = g->ends.channel >= 0 || !has_process(g) ? 0 : renew_link(g);
        if (r < 0) {
            log_error("%s: cannot make a channel for the new gateway: %s", g->role.name,
                      strerror(-r));
            role_kill(&g->role);
            continue;
        }
        attach(g);
    }
}

bool pools_use_gateway(const struct supervisor *s, const struct gateway_process *gateway)
{
    LIST_FOR_EACH(pi, &s->all_pools) {
        const struct pool *p = LIST_ENTRY(pi, struct pool, link);
        LIST_FOR_EACH(it, &p->generations)
            if (LIST_ENTRY(it, struct generation, link)->gateway == gateway)
                return true;
    }
    return false;
}

/* A gateway counts pools as its plan does. */
static struct generation *find(const struct gateway_process *gateway,
                               const struct control_message *m)
{
    LIST_FOR_EACH(pi, &gateway->role.sup->all_pools) {
        struct pool *p = LIST_ENTRY(pi, struct pool, link);
        LIST_FOR_EACH(it, &p->generations) {
            struct generation *g = LIST_ENTRY(it, struct generation, link);
            if (g->gateway == gateway && g->index == m->pool && g->number == m->generation)
                return g;
        }
    }
    return NULL;
}

void pools_gateway_message(struct gateway_process *gateway, const struct control_message *m)
{
    struct generation *g = find(gateway, m);

    if (!g || !g->attached)
        return; /* it died while the message was under way */
    if (m->type == CONTROL_POOL_READY)
        on_granted(g);
    else if (m->type == CONTROL_FELL_BACK)
        fallback_note(g, m->worker);
    else if (m->type == CONTROL_IMAGE_WANTED)
        image_wanted(g, m);
    else if (m->type == CONTROL_IMAGE_USED && m->status >= 0)
        image_used(g, (uint64_t)m->status);
    else if (m->type == CONTROL_POOL_DRAINED && g->state == GENERATION_DRAINING)
        finish_draining(g);
}

/* --- end of the server ----------------------------------------------------------------------- */

void pool_cancel_pending(struct pool *p)
{
    struct generation *g = p->pending;

    loop_timer_cancel(p->sup->loop, &p->retry);
    p->pending = NULL; /* its end is nobody's failure */
    if (!g)
        return;
    images_ahead_abandon(p, g->number);
    stop_generation(g);
}

void pool_drain(struct pool *p)
{
    LIST_FOR_EACH_SAFE(it, &p->generations)
        finish_draining(LIST_ENTRY(it, struct generation, link));
}

void pool_stop(struct pool *p, uint64_t kill_after_ns)
{
    LIST_FOR_EACH_SAFE(it, &p->generations) {
        struct generation *g = LIST_ENTRY(it, struct generation, link);
        g->ending = true;
        if (!has_process(g)) {
            ended(g, "the server stops");
            continue;
        }
        role_send_type(&g->role, CONTROL_STOP, g->index, g->number);
        role_kill_in(&g->role, kill_after_ns);
    }
}
