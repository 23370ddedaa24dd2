/*
 * The end of a server. With drain: the gateway stops accepting, answers what it has and says
 * DRAINED; then the pools finish what runs behind fastcgi_finish_request(); drain_timeout bounds
 * all of it. Without: everything is told to end and killed a second later. The gateway goes last,
 * so that no pool takes its end for a crash to recover from. Nobody is left when the supervisor
 * returns.
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { KILL_AFTER_MS = 1000, HAND_OVER_LATE_MS = 500 };

static void end_now(struct supervisor *s)
{
    s->phase = SUPERVISOR_ENDING;
    loop_timer_cancel(s->loop, &s->stop_timer);
    rollout_cancel(s);
    upgrade_cancel(s);
    LIST_FOR_EACH(it, &s->gateways)
        loop_timer_cancel(s->loop, &LIST_ENTRY(it, struct gateway_process, link)->retry);
    LIST_FOR_EACH_SAFE(it, &s->all_pools) {
        struct pool *p = LIST_ENTRY(it, struct pool, link);
        pool_cancel_pending(p);
        pool_stop(p, KILL_AFTER_MS * NS_PER_MS);
    }
    supervisor_role_ended(s);
}

void supervisor_start_failed(struct supervisor *s, const char *why)
{
    if (s->exit_status != 0)
        return; /* the first reason is the one that matters */
    s->exit_status = 1;
    char *line = mem_printf("cannot start %s", why);
    say_line(line);
    mem_free(line);
    end_now(s);
}

static void on_drain_limit(struct loop_timer *t)
{
    struct supervisor *s = CONTAINER_OF(t, struct supervisor, stop_timer);

    CHECK_MAGIC(s, SUPERVISOR_MAGIC);
    log_warn("not everything was finished within drain_timeout: ending the rest");
    end_now(s);
}

void supervisor_stop(struct supervisor *s, bool drain)
{
    notify_send("STOPPING=1");
    if (!drain || s->phase != SUPERVISOR_SERVING) {
        if (s->phase != SUPERVISOR_ENDING || !drain)
            log_notice("stopping at once");
        end_now(s);
        return;
    }
    uint64_t limit_ms = s->plan->config->server.drain_timeout_ms;
    log_notice("stopping: running requests have up to %llu ms to finish",
               (unsigned long long)limit_ms);
    s->phase = SUPERVISOR_DRAINING;
    loop_timer_set(s->loop, &s->stop_timer, clock_monotonic_ns() + limit_ms * NS_PER_MS,
                   on_drain_limit);
    rollout_cancel(s);
    LIST_FOR_EACH_SAFE(it, &s->all_pools)
        pool_cancel_pending(LIST_ENTRY(it, struct pool, link));
    upgrade_cancel(s);
    gateway_drain(s->gateway, 0);
    listeners_close(&s->gateway->listeners); /* the gateway closes them too: nobody waits in vain */
    supervisor_drained(s);
}

void supervisor_hand_over(struct supervisor *s, pid_t pid)
{
    uint64_t limit_ms = s->plan->config->server.drain_timeout_ms;
    char state[64];

    snprintf(state, sizeof(state), "MAINPID=%d", (int)pid);
    notify_send(state);
    watchdog_stop(s);
    watcher_stop(s);
    s->phase = SUPERVISOR_DRAINING;
    s->handed_over = true;
    listeners_disown(&s->gateway->listeners);
    admin_close(&s->admin); /* its path leads to the other program now */
    loop_timer_set(s->loop, &s->stop_timer,
                   clock_monotonic_ns() + (limit_ms + HAND_OVER_LATE_MS) * NS_PER_MS,
                   on_drain_limit);
    LIST_FOR_EACH_SAFE(it, &s->all_pools)
        pool_cancel_pending(LIST_ENTRY(it, struct pool, link));
    gateway_drain(s->gateway, gateway_idle_ms(s->gateway));
    supervisor_drained(s);
}

void supervisor_drained(struct supervisor *s)
{
    if (s->phase != SUPERVISOR_DRAINING || !gateways_drained(s))
        return;
    s->phase = SUPERVISOR_ENDING;
    LIST_FOR_EACH_SAFE(it, &s->all_pools)
        pool_drain(LIST_ENTRY(it, struct pool, link));
    supervisor_role_ended(s);
}

static bool is_gateway(const struct supervisor *s, const struct role *r)
{
    LIST_FOR_EACH(it, &s->gateways)
        if (&LIST_ENTRY(it, struct gateway_process, link)->role == r)
            return true;
    return false;
}

void supervisor_role_ended(struct supervisor *s)
{
    if (s->phase >= SUPERVISOR_DRAINING && list_empty(&s->roles)) {
        loop_stop(s->loop);
        return;
    }
    if (s->phase != SUPERVISOR_ENDING)
        return;
    LIST_FOR_EACH(it, &s->roles)
        if (!is_gateway(s, LIST_ENTRY(it, struct role, link)))
            return;
    LIST_FOR_EACH_SAFE(it, &s->roles)
        role_end(LIST_ENTRY(it, struct role, link), KILL_AFTER_MS * NS_PER_MS);
}
