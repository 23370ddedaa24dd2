/*
 * The admin command `profile`: asks the active generation of every pool to sample its workers' PHP
 * stacks for a while (src/php/profile.c) and hands the gateway a memory file with what they wrote.
 * One profile at a time; a pool process that dies meanwhile only delays the answer.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum {
    PATIENCE_MS = 3000, /* for pool processes that do not answer */
    MS_DEFAULT = 3000,
    MS_MAX = 600000,
    RATE_DEFAULT = 1000,
    RATE_MAX = 10000,
};

struct profiling {
    struct supervisor *sup;
    pid_t gateway;
    uint32_t number; /* of its command */
    uint32_t waiting;
    int fd;
    struct loop_timer timer;
};

static void finish(struct profiling *f)
{
    admin_reply(f->sup, f->gateway, f->number, CONTROL_RESULT_DONE, "", f->fd);
    profile_fini(f->sup);
}

static void on_late(struct loop_timer *t)
{
    struct profiling *f = CONTAINER_OF(t, struct profiling, timer);

    log_warn("profile: %" PRIu32 " pools did not answer in time", f->waiting);
    finish(f);
}

void profile_done(struct generation *g, struct str outcome)
{
    struct profiling *f = g->pool->sup->profiling;

    if (!f || !g->profiled)
        return;
    g->profiled = false;
    log_notice("profile of %s: %.*s", g->role.name, STR_ARG(outcome));
    if (--f->waiting == 0)
        finish(f);
}

/* "seconds=3&rate=1000"; false: something else stands there. */
static bool read_query(struct str query, uint64_t *ret_ms, uint64_t *ret_rate)
{
    while (query.n) {
        struct str value = str_cut(&query, '&');
        struct str key = str_cut(&value, '=');
        if (str_eq(key, STR("ms")) && str_to_u64(value, MS_MAX, ret_ms) && *ret_ms > 0)
            continue;
        if (!str_eq(key, STR("rate")) || !str_to_u64(value, RATE_MAX, ret_rate) || *ret_rate == 0)
            return false;
    }
    return true;
}

static void ask_pools(struct profiling *f, uint64_t ms, uint64_t rate)
{
    struct control_message m;

    control_message_init(&m, CONTROL_PROFILE);
    m.requests = (uint32_t)ms;
    m.worker = (uint32_t)rate;
    LIST_FOR_EACH(it, &f->sup->all_pools) {
        struct generation *g = LIST_ENTRY(it, struct pool, link)->active;
        if (!g || !role_running(&g->role))
            continue;
        m.pool = g->index;
        m.generation = g->number;
        g->profiled = true;
        f->waiting++;
        role_send(&g->role, &m, &f->fd, 1);
    }
}

void profile_command(struct role *gateway, uint32_t number, struct str query)
{
    struct supervisor *s = gateway->sup;
    uint64_t ms = MS_DEFAULT, rate = RATE_DEFAULT;
    const char *refusal = NULL;

    if (!read_query(query, &ms, &rate))
        refusal = "expected profile?ms=1..600000&rate=1..10000";
    else if (s->profiling)
        refusal = "another profile is being taken; try again when it is done";
    int fd = refusal ? -1 : memfd_create("sapid-profile", MFD_CLOEXEC);
    if (fd < 0) {
        admin_reply(s, gateway->pid, number, CONTROL_RESULT_REFUSED,
                    refusal ? refusal : strerror(errno), -1);
        return;
    }
    s->profiling = mem_zalloc(sizeof(*s->profiling));
    *s->profiling =
        (struct profiling){ .sup = s, .gateway = gateway->pid, .number = number, .fd = fd };
    ask_pools(s->profiling, ms, rate);
    if (s->profiling->waiting == 0)
        finish(s->profiling);
    else
        loop_timer_set(s->loop, &s->profiling->timer,
                       clock_monotonic_ns() + (ms + PATIENCE_MS) * NS_PER_MS, on_late);
}

void profile_fini(struct supervisor *s)
{
    if (!s->profiling)
        return;
    loop_timer_cancel(s->loop, &s->profiling->timer);
    fd_close(&s->profiling->fd);
    mem_free(s->profiling);
    s->profiling = NULL;
}
