/*
 * The admin command `stacks`: where the PHP of each busy worker is now. Asks every generation's
 * pool process to look (src/php/observe.c) and hands the gateway a memory file with what they
 * wrote, for the page of `sapid status --full`. Questions that come while one is under way get the
 * same answer; a pool process that does not answer in time is left out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { PATIENCE_MS = 1000, ASKERS_MAX = 16, BYTES_MAX = 32 << 20 };

struct stacks {
    struct supervisor *sup;
    struct {
        pid_t gateway;
        uint32_t number; /* of its command */
    } asker[ASKERS_MAX];
    uint32_t n_askers, waiting;
    struct buf text;
    struct loop_timer timer;
};

static void finish(struct stacks *t)
{
    struct supervisor *s = t->sup;
    int fd = fd_sealed_memory("sapid-stacks", buf_view(&t->text));

    for (uint32_t i = 0; i < t->n_askers; i++)
        admin_reply(s, t->asker[i].gateway, t->asker[i].number,
                    fd < 0 ? CONTROL_RESULT_FAILED : CONTROL_RESULT_DONE,
                    fd < 0 ? strerror(-fd) : "", fd);
    fd_close(&fd);
    stacks_fini(s);
}

static void on_late(struct loop_timer *timer)
{
    struct stacks *t = CONTAINER_OF(timer, struct stacks, timer);

    log_warn("stacks: %" PRIu32 " pool processes did not answer in time", t->waiting);
    finish(t);
}

static void on_look(struct generation *g, struct str text)
{
    struct stacks *t = g->pool->sup->stacks;

    g->on_look = NULL;
    if (!t)
        return;
    (void)!buf_append(&t->text, text.p, text.n);
    if (--t->waiting == 0)
        finish(t);
}

static void ask_pools(struct stacks *t)
{
    struct control_message m;

    control_message_init(&m, CONTROL_LOOK);
    m.status = CONTROL_LOOK_FRAMES;
    LIST_FOR_EACH(pi, &t->sup->all_pools) {
        struct pool *p = LIST_ENTRY(pi, struct pool, link);
        LIST_FOR_EACH(it, &p->generations) {
            struct generation *g = LIST_ENTRY(it, struct generation, link);
            if (!g->attached || !role_running(&g->role))
                continue;
            m.pool = g->index;
            m.generation = g->number;
            g->on_look = on_look;
            t->waiting++;
            role_send(&g->role, &m, NULL, 0);
        }
    }
}

void stacks_command(struct role *gateway, uint32_t number)
{
    struct supervisor *s = gateway->sup;
    struct stacks *t = s->stacks;
    bool first = t == NULL;

    if (first) {
        s->stacks = t = mem_zalloc(sizeof(*t));
        t->sup = s;
        buf_init(&t->text, BYTES_MAX);
    }
    if (t->n_askers == ASKERS_MAX) {
        admin_reply(s, gateway->pid, number, CONTROL_RESULT_REFUSED, "too many ask for stacks", -1);
        return;
    }
    t->asker[t->n_askers].gateway = gateway->pid;
    t->asker[t->n_askers++].number = number;
    if (!first)
        return;
    ask_pools(t);
    if (t->waiting == 0)
        finish(t);
    else
        loop_timer_set(s->loop, &t->timer, clock_monotonic_ns() + PATIENCE_MS * NS_PER_MS, on_late);
}

void stacks_fini(struct supervisor *s)
{
    if (!s->stacks)
        return;
    loop_timer_cancel(s->loop, &s->stacks->timer);
    buf_fini(&s->stacks->text);
    mem_free(s->stacks);
    s->stacks = NULL;
}
