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

enum { KILL_AFTER_MS = 1000 };

static void end_now(struct supervisor *s)
{
    s->phase = SUPERVISOR_ENDING;
    loop_timer_cancel(s->loop, &s->stop_timer);
    loop_timer_cancel(s->loop, &s->gateway.retry);
    for (uint32_t i = 0; i < s->n_pools; i++) {
        pool_cancel_pending(&s->pools[i]);
        pool_stop(&s->pools[i], KILL_AFTER_MS * NS_PER_MS);
    }
    supervisor_role_ended(s);
}

void supervisor_start_failed(struct supervisor *s, const char *what, const char *why)
{
    if (s->exit_status != 0)
        return; /* the first reason is the one that matters */
    s->exit_status = 1;
    char *line = mem_printf("cannot start %s: %s", what, why);
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
    loop_timer_cancel(s->loop, &s->gateway.retry);
    for (uint32_t i = 0; i < s->n_pools; i++)
        pool_cancel_pending(&s->pools[i]);
    if (role_running(&s->gateway.role))
        role_send_type(&s->gateway.role, CONTROL_DRAIN, 0, 0);
    else
        supervisor_drained(s);
}

void supervisor_drained(struct supervisor *s)
{
    if (s->phase != SUPERVISOR_DRAINING)
        return;
    s->phase = SUPERVISOR_ENDING;
    for (uint32_t i = 0; i < s->n_pools; i++)
        pool_drain(&s->pools[i]);
    supervisor_role_ended(s);
}

static bool only_gateway_left(const struct supervisor *s)
{
    return role_running(&s->gateway.role) && s->roles.next == &s->gateway.role.link &&
           s->roles.prev == &s->gateway.role.link;
}

void supervisor_role_ended(struct supervisor *s)
{
    if (s->phase >= SUPERVISOR_DRAINING && list_empty(&s->roles))
        loop_stop(s->loop);
    else if (s->phase == SUPERVISOR_ENDING && only_gateway_left(s))
        role_end(&s->gateway.role, KILL_AFTER_MS * NS_PER_MS);
}
