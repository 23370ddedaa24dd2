/*
 * The report of a pool whose workers come from an image (channel/report.h), as its pool process
 * sees it: takes over what the generation before had learned, notes why workers were replaced, and
 * with `learn = "auto"` asks for a new generation when that would spare many requests to load
 * something late.
 *
 * When: in a whole window nothing was seen for the first time, so what there is to learn is known;
 * the pool was not idle; and a good share of the requests has loaded something late that no
 * generation has tried to load before its image. What has been tried does not count again, so one
 * generation is enough; whatever else may happen, each time the pause before the next one doubles.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/param.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "php/pool_int.h"

enum {
    WINDOW_MS = 60000,
    BUSY_REQUESTS = 100, /* in a window */
    LATE_PERCENT = 5,
    PAUSE_FIRST_MS = 600000,
    PAUSE_DOUBLINGS = 7,
};

void pool_report_take(struct pool *p, struct str why, int *fds, size_t n)
{
    struct pool_report *o = &p->report;
    struct report *before = NULL;
    int rc = n > 0 && !o->shared ? report_map(fds[0], true, &o->shared) : -EPROTO;

    if (rc < 0) {
        log_warn("the report cannot be used (%s): `sapid status` will say less of this pool",
                 strerror(-rc));
        return;
    }
    report_set(&o->shared->why, REPORT_REFUSAL, why);
    if (n > 1 && p->conf->worker_learn != CONFIG_LEARN_OFF &&
        report_map(fds[1], false, &before) == 0) {
        report_inherit(o->shared, before);
        report_unmap(before);
    }
}

bool pool_report_learns(const struct pool *p)
{
    return p->report.shared && p->conf->worker_learn != CONFIG_LEARN_OFF && !p->report.unlearned;
}

bool pool_report_forgives(struct pool *p)
{
    struct report *r = p->report.shared;
    bool any = p->report.forgiven;

    if (any || !pool_report_learns(p))
        return any;
    for (uint32_t i = 0; i < REPORT_NAMES; i++) {
        if (!(atomic_load_explicit(&r->names[i].flags, memory_order_relaxed) & REPORT_TRIED))
            continue;
        any = true;
        atomic_fetch_or_explicit(&r->names[i].flags, REPORT_BANNED, memory_order_relaxed);
    }
    if (!any)
        return false;
    p->report.unlearned = p->report.forgiven = true;
    log_warn("the image could not be made with what was learned from requests; it is made without, "
             "and those names are not loaded again");
    return true;
}

void pool_report_death(struct pool *p, const struct seat *seat, int status)
{
    static const char *const causes[] = { [CONTROL_CAUSE_TIMEOUT] = "request_timeout",
                                          [CONTROL_CAUSE_GATEWAY] = "ended for the gateway",
                                          [CONTROL_CAUSE_LOCK] =
                                              "it waited for a lock of a dead worker" };
    char text[64];

    if (!p->report.shared || p->draining || seat->only_fails ||
        (WIFEXITED(status) && WEXITSTATUS(status) == ENGINE_EXIT_RENEW)) /* it has said itself */
        return;
    if (seat->cause != CONTROL_CAUSE_ITS_OWN && seat->cause < ARRAY_LENGTH(causes))
        snprintf(text, sizeof(text), "%s", causes[seat->cause]);
    else if (WIFSIGNALED(status))
        snprintf(text, sizeof(text), "signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        snprintf(text, sizeof(text), "exit status %d", WEXITSTATUS(status));
    else
        snprintf(text, sizeof(text), "max_requests, or it was told to finish");
    report_reason(p->report.shared, REPORT_RESPAWN, str_from(text));
}

const char *pool_report_harm(struct pool *p)
{
    struct pool_report *o = &p->report;
    uint64_t now = o->shared ? report_get(&o->shared->count.harm) : 0;

    if (now == o->harm)
        return NULL;
    o->harm = now;
    return "a class in the image is declared again by the application; it is left out";
}

/* --- renewal ---------------------------------------------------------------------------------- */

bool pool_report_is_worth(const struct pool_report_window *w)
{
    uint64_t pause_ns = w->renewals == 0 ? 0
                                         : (PAUSE_FIRST_MS * NS_PER_MS)
                                               << MIN(w->renewals - 1, (uint64_t)PAUSE_DOUBLINGS);

    return w->names_new == 0 && w->requests >= BUSY_REQUESTS &&
           w->late * 100 >= w->requests * LATE_PERCENT && w->since_ns >= pause_ns;
}

static void judge_window(struct pool *p, uint64_t now)
{
    struct pool_report *o = &p->report;
    struct report_counters *c = &o->shared->count;
    const struct pool_report_window w = {
        .requests = report_get(&c->rollbacks) - o->requests,
        .late = report_get(&c->requests_late_new) - o->late,
        .names_new = report_get(&c->names_new) - o->names,
        .renewals = report_get(&c->renewals),
        .since_ns = now - report_get(&c->renewed_ns),
    };
    char text[160];

    if (!pool_report_is_worth(&w))
        return;
    atomic_store_explicit(&c->renewed_ns, now, memory_order_relaxed);
    report_add(&c->renewals, 1);
    snprintf(text, sizeof(text),
             "%" PRIu64 " of %" PRIu64 " requests loaded classes or files that the image can hold",
             w.late, w.requests);
    pool_renew_memory(p, text);
}

uint64_t pool_report_next_ns(const struct pool *p)
{
    return p->report.shared && p->conf->worker_learn == CONFIG_LEARN_AUTO && !p->draining
               ? p->report.look_ns
               : UINT64_MAX;
}

void pool_report_look(struct pool *p)
{
    struct pool_report *o = &p->report;
    uint64_t now = clock_monotonic_ns();

    if (pool_report_next_ns(p) > now)
        return;
    if (o->look_ns)
        judge_window(p, now);
    o->look_ns = now + WINDOW_MS * NS_PER_MS;
    o->requests = report_get(&o->shared->count.rollbacks);
    o->late = report_get(&o->shared->count.requests_late_new);
    o->names = report_get(&o->shared->count.names_new);
}
