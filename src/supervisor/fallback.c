/*
 * What has fallen back to PHP-FPM, beyond the life of a gateway and of a pool's process. The
 * gateway counts crashes and decides; here it is kept with the plan it happened under, and told to
 * every generation of that plan that a gateway is given. A reload makes another plan, in which
 * nothing has fallen back.
 */
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

void fallback_note(struct generation *g, uint32_t which)
{
    struct plan *plan = g->plan;
    const struct plan_fallback found = { g->index, which };

    CHECK_MAGIC(g, GENERATION_MAGIC);
    if (which > plan->config->n_routes)
        return;
    for (uint32_t i = 0; i < plan->n_fallbacks; i++)
        if (plan->fallbacks[i].pool == found.pool && plan->fallbacks[i].which == which)
            return;
    struct plan_fallback *all = mem_alloc((plan->n_fallbacks + 1) * sizeof(*all));
    if (plan->n_fallbacks)
        memcpy(all, plan->fallbacks, plan->n_fallbacks * sizeof(*all));
    all[plan->n_fallbacks++] = found;
    mem_free(plan->fallbacks);
    plan->fallbacks = all;
}

void fallback_tell(const struct generation *g)
{
    const struct plan *plan = g->plan;
    struct control_message m;

    for (uint32_t i = 0; i < plan->n_fallbacks; i++) {
        if (plan->fallbacks[i].pool != g->index)
            continue;
        control_message_init(&m, CONTROL_FELL_BACK);
        m.pool = g->index;
        m.generation = g->number;
        m.worker = plan->fallbacks[i].which;
        role_send(&g->gateway->role, &m, NULL, 0);
    }
}
