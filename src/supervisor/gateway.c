/*
 * The gateway process as the supervisor sees it. It is started at once, so that it is ready when
 * the pools are, but accepts nothing before LISTEN. When it dies its clients are gone; the
 * listeners are not, and the next gateway takes over their backlog within milliseconds.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

static void on_message(struct role *r, const struct control_message *m)
{
    struct gateway_process *g = CONTAINER_OF(r, struct gateway_process, role);
    struct supervisor *s = r->sup;

    switch (m->type) {
    case CONTROL_READY:
        g->ready = true;
        log_text(LOG_INFO, STR_NONE, control_message_text(m));
        gateway_maybe_listen(g);
        break;
    case CONTROL_FAILED:
        mem_free(g->failure);
        g->failure = mem_strndup(control_message_text(m));
        role_kill_in(r, 2 * NS_PER_S);
        break;
    case CONTROL_POOL_READY:
    case CONTROL_POOL_DRAINED:
    case CONTROL_FELL_BACK:
        if (m->pool < s->n_pools)
            pool_gateway_message(&s->pools[m->pool], m);
        break;
    case CONTROL_DRAINED: supervisor_drained(s); break;
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
    struct gateway_process *g = CONTAINER_OF(r, struct gateway_process, role);
    struct supervisor *s = r->sup;
    pid_t pid = r->pid;
    char how[96];

    r->pid = 0;
    g->ready = g->listening = false;
    role_describe_exit(wait_status, how, sizeof(how));
    char *why = mem_strdup(g->failure ? g->failure : how);
    mem_free(g->failure);
    g->failure = NULL;
    for (uint32_t i = 0; i < s->n_pools; i++)
        pool_gateway_gone(&s->pools[i]);
    if (s->phase == SUPERVISOR_STARTING)
        supervisor_start_failed(s, "the gateway", why);
    else if (s->phase == SUPERVISOR_SERVING)
        restart(g, pid, why);
    else
        supervisor_drained(s);
    mem_free(why);
    supervisor_role_ended(s);
}

void gateway_init(struct gateway_process *g, struct supervisor *s)
{
    memset(g, 0, sizeof(*g));
    role_init(&g->role, s, "gateway");
    g->role.on_message = on_message;
    g->role.on_exit = on_exit;
}

void gateway_fini(struct gateway_process *g)
{
    CHECK(!role_running(&g->role));
    loop_timer_cancel(g->role.sup->loop, &g->retry);
    mem_free(g->failure);
    g->failure = NULL;
}

static int spawn(struct gateway_process *g)
{
    struct supervisor *s = g->role.sup;
    int boot = plan_boot(s->plan, 0, 0);

    if (boot < 0)
        return boot;
    char **environment = role_environment(NULL, &s->plan->gateway_user);
    struct role_spec spec = { .verb = "@gateway",
                              .user = &s->plan->gateway_user,
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
    const struct listeners *l = &g->role.sup->listeners;
    struct control_message m;

    for (uint32_t i = 0; i < l->n; i++) {
        control_message_init(&m, CONTROL_LISTENER);
        m.status = (int32_t)l->v[i].index;
        m.worker = l->v[i].thread;
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
    if (r < 0 && s->phase == SUPERVISOR_STARTING) {
        supervisor_start_failed(s, "the gateway", strerror(-r));
        return;
    }
    if (r < 0) {
        uint64_t delay = backoff_next_ns(&g->backoff, 0) + 100 * NS_PER_MS;
        log_error("cannot start the gateway: %s; trying again", strerror(-r));
        loop_timer_set(s->loop, &g->retry, clock_monotonic_ns() + delay, on_retry);
        return;
    }
    send_listeners(g);
    for (uint32_t i = 0; i < s->n_pools; i++)
        pool_gateway_started(&s->pools[i]);
}

void gateway_maybe_listen(struct gateway_process *g)
{
    struct supervisor *s = g->role.sup;
    char message[256];

    if (!g->ready || g->listening || s->phase >= SUPERVISOR_DRAINING)
        return;
    for (uint32_t i = 0; i < s->n_pools; i++)
        if (!pool_serves(&s->pools[i]))
            return;
    if (listeners_listen(&s->listeners, message, sizeof(message)) < 0) {
        supervisor_start_failed(s, "listening", message);
        return;
    }
    g->listening = true;
    role_send_type(&g->role, CONTROL_LISTEN, 0, 0);
    supervisor_listening(s);
}
