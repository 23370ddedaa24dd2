/*
 * The service manager's watchdog (WatchdogSec=): twice in each period all threads of the gateway
 * are asked for a sign of life, and only when it came, and a pool has a process with workers, is
 * the manager told. So a gateway that hangs ends in a restart by systemd, as a supervisor that
 * hangs does; a process that dies is mended here long before.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "supervisor/supervisor_int.h"

static uint64_t period_ns(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t us, who;

    if (!usec || !str_to_u64(str_from(usec), UINT32_MAX, &us) || us == 0)
        return 0;
    if (pid && (!str_to_u64(str_from(pid), INT32_MAX, &who) || (pid_t)who != getpid()))
        return 0; /* another process's */
    return us * NS_PER_US;
}

static bool pools_are_alive(const struct supervisor *s)
{
    for (uint32_t i = 0; i < s->n_pools; i++)
        if (s->pools[i]->active && s->pools[i]->active->granted)
            return true;
    return false;
}

static void on_turn(struct loop_timer *t)
{
    struct supervisor *s = CONTAINER_OF(t, struct supervisor, watchdog);

    if (s->watchdog_waits)
        log_warn("the gateway gives no sign of life; the service manager's watchdog is not told");
    s->watchdog_waits = true;
    role_send_type(&s->gateway->role, CONTROL_PING, 0, 0);
    loop_timer_set(s->loop, &s->watchdog, clock_monotonic_ns() + period_ns() / 2, on_turn);
}

void watchdog_start(struct supervisor *s)
{
    if (period_ns())
        on_turn(&s->watchdog);
}

void watchdog_stop(struct supervisor *s)
{
    loop_timer_cancel(s->loop, &s->watchdog);
}

void watchdog_ponged(struct supervisor *s)
{
    s->watchdog_waits = false;
    if (pools_are_alive(s))
        notify_send("WATCHDOG=1");
}
