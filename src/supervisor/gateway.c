/*
 * Gateway processes as the supervisor sees them. One is started at once, so that it is ready when
 * the pools are, but accepts nothing before LISTEN. When it dies its clients are gone; the
 * listeners are not, and the next process takes over their backlog within milliseconds.
 *
 * A reload that changes what the gateway was started with starts another one beside it, with
 * generations of its own. Both accept for a moment; then the old one leaves: it answers what it
 * has, tells its clients to come again on another connection, and ends, its generations with it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { LEAVE_KILL_MS = 1000, LEAVE_LATE_MS = 500, LEAVE_IDLE_PERCENT = 60 };

static struct gateway_process *of_role(struct role *r)
{
    struct gateway_process *g = CONTAINER_OF(r, struct gateway_process, role);

    CHECK_MAGIC(g, GATEWAY_PROCESS_MAGIC);
    return g;
}

static void tell_pools(struct gateway_process *g,
                       void (*tell)(struct pool *, struct gateway_process *))
{
    LIST_FOR_EACH_SAFE(it, &g->role.sup->all_pools)
        tell(LIST_ENTRY(it, struct pool, link), g);
}

static void on_drained(struct gateway_process *g)
{
    g->drained = true;
    if (g->leaving) {
        loop_timer_cancel(g->role.sup->loop, &g->drain_limit);
        tell_pools(g, pool_gateway_drained);
        gateways_settle(g->role.sup);
    }
    supervisor_drained(g->role.sup);
}

/* Not before its pools have ended: a worker may still write behind fastcgi_finish_request(). */
void gateways_settle(struct supervisor *s)
{
    LIST_FOR_EACH_SAFE(it, &s->gateways) {
        struct gateway_process *g = LIST_ENTRY(it, struct gateway_process, link);
        if (g->leaving && g->drained && !pools_use_gateway(s, g))
            role_end(&g->role, LEAVE_KILL_MS * NS_PER_MS);
    }
}

static void on_message(struct role *r, const struct control_message *m)
{
    struct gateway_process *g = of_role(r);
    struct supervisor *s = r->sup;

    switch (m->type) {
    case CONTROL_READY:
        g->ready = true;
        log_text(LOG_INFO, STR_NONE, control_message_text(m));
        gateway_maybe_listen(g);
        rollout_progress(s);
        break;
    case CONTROL_FAILED:
        mem_free(g->failure);
        g->failure = mem_strndup(control_message_text(m));
        role_kill_in(r, 2 * NS_PER_S);
        break;
    case CONTROL_POOL_READY:
    case CONTROL_POOL_DRAINED:
    case CONTROL_IMAGE_WANTED:
    case CONTROL_IMAGE_USED:
    case CONTROL_FELL_BACK: pools_gateway_message(g, m); break;
    case CONTROL_PING:
        if (g == s->gateway)
            watchdog_ponged(s);
        else if (g->leaving)
            rollout_left(s, g);
        break;
    case CONTROL_PROBED: rollout_probed(s, m); break;
    case CONTROL_DRAINED: on_drained(g); break;
    case CONTROL_COMMAND: admin_command(r, m); break;
    default: log_warn("the gateway sent message %u, which is not for the supervisor", m->type);
    }
}

static void on_retry(struct loop_timer *t)
{
    gateway_start(CONTAINER_OF(t, struct gateway_process, retry));
}

static void restart(struct gateway_process *g, pid_t pid, const char *why)
{
    struct supervisor *s = g->role.sup;
    uint64_t delay = backoff_next_ns(&g->backoff, clock_monotonic_ns() - g->started_ns);

    log_error("gateway[%d] ended: %s; its clients are disconnected, a new one starts%s", (int)pid,
              why, delay ? " after a pause, because it dies again and again" : "");
    if (delay == 0)
        gateway_start(g);
    else
        loop_timer_set(s->loop, &g->retry, clock_monotonic_ns() + delay, on_retry);
}

static void on_exit(struct role *r, int wait_status)
{
    struct gateway_process *g = of_role(r);
    struct supervisor *s = r->sup;
    pid_t pid = r->pid;
    char how[96];

    r->pid = 0;
    g->ready = g->listening = false;
    role_describe_exit(wait_status, how, sizeof(how));
    char *why = mem_strdup(g->failure ? g->failure : how);
    mem_free(g->failure);
    g->failure = NULL;
    tell_pools(g, pool_gateway_gone);
    if (g->leaving) {
        if (!g->drained)
            log_warn("gateway[%d], which was leaving, ended: %s", (int)pid, why);
        rollout_left(s, g);
        gateway_free(g);
        supervisor_drained(s);
    } else if (g != s->gateway) { /* of a rollout, which may be given up already */
        rollout_gateway_lost(s, g, why);
        gateway_free(g);
        supervisor_drained(s);
    } else if (s->phase == SUPERVISOR_SERVING) {
        rollout_gateway_gone(s, g);
        restart(g, pid, why);
    } else {
        g->drained = true;
        supervisor_drained(s);
    }
    mem_free(why);
    supervisor_role_ended(s);
}

struct gateway_process *gateway_new(struct supervisor *s, struct plan *plan,
                                    struct listeners *listeners)
{
    struct gateway_process *g = mem_zalloc(sizeof(*g));

    g->magic = GATEWAY_PROCESS_MAGIC;
    role_init(&g->role, s, "gateway");
    g->role.on_message = on_message;
    g->role.on_exit = on_exit;
    g->plan = plan_ref(plan);
    g->listeners = *listeners;
    *listeners = (struct listeners){ NULL, 0 };
    list_push_back(&s->gateways, &g->link);
    return g;
}

void gateway_free(struct gateway_process *g)
{
    struct supervisor *s = g->role.sup;

    CHECK_MAGIC(g, GATEWAY_PROCESS_MAGIC);
    CHECK(!role_running(&g->role));
    loop_timer_cancel(s->loop, &g->retry);
    loop_timer_cancel(s->loop, &g->drain_limit);
    listeners_close(&g->listeners);
    plan_unref(g->plan);
    mem_free(g->failure);
    list_remove(&g->link);
    if (s->gateway == g)
        s->gateway = NULL;
    g->magic = 0;
    mem_free(g);
}

static int spawn(struct gateway_process *g)
{
    int boot = plan_boot(g->plan, 0, 0, NULL);

    if (boot < 0)
        return boot;
    char **environment = role_environment(NULL, &g->plan->gateway_user);
    struct role_spec spec = { .verb = "@gateway",
                              .user = &g->plan->gateway_user,
                              .environment = environment,
                              .boot_fd = boot,
                              .no_new_privs = true };
    int r = role_start(&g->role, &spec);
    role_environment_free(environment);
    fd_close(&boot);
    return r;
}

static void send_listeners(struct gateway_process *g)
{
    const struct listeners *l = &g->listeners;
    struct control_message m;

    for (uint32_t i = 0; i < l->n; i++) {
        control_message_init(&m, CONTROL_LISTENER);
        m.status = (int32_t)l->v[i].index;
        m.worker = l->v[i].thread;
        m.generation = l->v[i].foreign;
        control_message_set_text(&m, str_from(l->v[i].url));
        role_send(&g->role, &m, &l->v[i].fd, 1);
    }
}

void gateway_start(struct gateway_process *g)
{
    struct supervisor *s = g->role.sup;

    if (s->phase >= SUPERVISOR_DRAINING)
        return;
    CHECK(!role_running(&g->role));
    g->started_ns = clock_monotonic_ns();
    int r = spawn(g);
    if (r < 0 && g != s->gateway) {
        rollout_lost(s, NULL, "the gateway", strerror(-r));
        return;
    }
    if (r < 0) {
        uint64_t delay = backoff_next_ns(&g->backoff, 0) + 100 * NS_PER_MS;
        log_error("cannot start the gateway: %s; trying again", strerror(-r));
        loop_timer_set(s->loop, &g->retry, clock_monotonic_ns() + delay, on_retry);
        return;
    }
    send_listeners(g);
    tell_pools(g, pool_gateway_started);
}

int gateway_listen(struct gateway_process *g, char *message, size_t message_size)
{
    int r = listeners_listen(&g->listeners, message, message_size);

    if (r < 0)
        return r;
    g->listening = true;
    role_send_type(&g->role, CONTROL_LISTEN, 0, 0);
    admin_give(&g->role.sup->admin, &g->role);
    return 0;
}

void gateway_maybe_listen(struct gateway_process *g)
{
    struct supervisor *s = g->role.sup;
    char message[256];

    if (g != s->gateway || !g->ready || g->listening || s->phase >= SUPERVISOR_DRAINING)
        return;
    for (uint32_t i = 0; i < s->n_pools; i++)
        if (!pool_serves(s->pools[i]))
            return;
    if (gateway_listen(g, message, sizeof(message)) < 0)
        log_error("listening: %s", message);
    else
        supervisor_listening(s);
}

/* --- the end of one --------------------------------------------------------------------------- */

static void on_drain_limit(struct loop_timer *t)
{
    struct gateway_process *g = CONTAINER_OF(t, struct gateway_process, drain_limit);

    CHECK_MAGIC(g, GATEWAY_PROCESS_MAGIC);
    log_warn("gateway[%d] still has clients after drain_timeout: ending it", (int)g->role.pid);
    g->drained = true;
    role_kill(&g->role);
}

uint64_t gateway_idle_ms(const struct gateway_process *g)
{
    uint64_t ms = g->plan->config->server.drain_timeout_ms * LEAVE_IDLE_PERCENT / 100;

    return ms ? ms : 1;
}

void gateway_drain(struct gateway_process *g, uint64_t idle_ms)
{
    struct control_message m;

    loop_timer_cancel(g->role.sup->loop, &g->retry);
    if (!role_running(&g->role)) {
        g->drained = true;
        return;
    }
    control_message_init(&m, CONTROL_DRAIN);
    m.status = (int32_t)idle_ms;
    role_send(&g->role, &m, NULL, 0);
}

bool gateway_leave(struct gateway_process *g)
{
    struct supervisor *s = g->role.sup;
    uint64_t limit_ms = g->plan->config->server.drain_timeout_ms;

    CHECK(!g->leaving);
    g->leaving = true;
    listeners_close(&g->listeners);
    loop_timer_cancel(s->loop, &g->retry);
    if (!role_running(&g->role)) {
        tell_pools(g, pool_gateway_gone);
        gateway_free(g);
        return false;
    }
    gateway_drain(g, gateway_idle_ms(g));
    /* its generations have been ended by then, and their requests answered 502 */
    loop_timer_set(s->loop, &g->drain_limit,
                   clock_monotonic_ns() + (limit_ms + LEAVE_LATE_MS) * NS_PER_MS, on_drain_limit);
    role_send_type(&g->role, CONTROL_PING, 0, 0); /* comes back when no thread accepts */
    return true;
}

bool gateways_drained(const struct supervisor *s)
{
    LIST_FOR_EACH(it, &s->gateways)
        if (!LIST_ENTRY(it, struct gateway_process, link)->drained)
            return false;
    return true;
}
