/*
 * The report of a generation with images (channel/report.h): a file of shared memory that its
 * processes write and the gateway reads. This side only makes it and hands it around: to the pool
 * process, to each gateway, and that of the generation that serves to the next one, which loads
 * before its image what requests had to load late. What stands in it was written by processes of
 * the application's user, so nothing here looks inside, and a pool that runs as another user begins
 * with an empty one.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "channel/report.h"
#include "supervisor/supervisor_int.h"

static const struct config_pool *settings_of(const struct generation *g)
{
    return &g->plan->config->pools[g->index];
}

static const char *why(const struct generation *g)
{
    const struct pool *p = g->pool;

    if (p->why[0])
        return p->why;
    if (p->sup->phase == SUPERVISOR_STARTING)
        return "the server started";
    if (g->order)
        return p->active || g == p->next ? "a new generation of its pool"
                                         : "its script asked for it";
    return g == p->next ? "a reload" : "the generation before it ended";
}

void report_begin(struct generation *g)
{
    struct pool *p = g->pool;
    struct control_message m;
    int before = names_of(g);

    if (!config_pool_has_image(settings_of(g)))
        return;
    g->report = report_create();
    if (g->report < 0) {
        log_warn("%s: no memory for its report (%s): `sapid status` will say less of it, and it "
                 "learns nothing",
                 g->role.name, strerror(-g->report));
        return;
    }
    control_message_init(&m, CONTROL_REPORT);
    m.pool = g->index;
    m.generation = g->number;
    control_message_set_text(&m, str_from(why(g)));
    role_send(&g->role, &m, (int[2]){ g->report, before }, before >= 0 ? 2 : 1);
    p->why[0] = '\0';
}

void report_give(const struct generation *g)
{
    struct control_message m;

    if (g->report < 0)
        return;
    control_message_init(&m, CONTROL_REPORT);
    m.pool = g->index;
    m.generation = g->number;
    role_send(&g->gateway->role, &m, &g->report, 1);
}
