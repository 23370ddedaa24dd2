/*
 * Images of a classic generation that is to take over: by a reload, because the one that serves
 * asks for another, or in an upgrade, where the program before tells which images it has. Scripts
 * that have an image get one of the new generation before it takes over, some at a time, and those
 * which are ready take over with it: in the turn in which the gateway hears of the one it hears of
 * the others, first. So nobody who asks for such a script finds it without an image.
 *
 * The new generation waits for its images as long as snapshot_wait says. What is not ready then is
 * finished behind the switch; what could not be made is refused as ever (image.c). None of it can
 * make the take-over fail. Where nothing serves there is nothing to wait for.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/image_int.h"

enum { AT_ONCE = 2 }; /* boots beside the traffic */

static uint32_t count(const struct images *images, int ahead)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < images->n_seats; i++) {
        const struct pool *p = images->seats[i];
        n += (int)p->seat->ahead == ahead &&
             (ahead != AHEAD_BEGUN || (p->next && !p->next->granted));
    }
    return n;
}

static void begin_one(struct pool *p, struct generation *of)
{
    uint32_t index = plan_pool_index(of->plan, str_from(p->name));
    struct image_order *order = image_order_for(p, of);

    p->seat->ahead = AHEAD_BEGUN;
    p->seat->ahead_order = order;
    log_notice("pool %s is to be the image of %s for generation %u of pool %s", p->name,
               order->script_name, of->number, of->pool->name);
    pool_prepare(p, of->plan, index, of->gateway, order);
}

/* As many as may be made at the same time. */
static void begin_some(struct pool *of)
{
    struct images *images = of->images;
    struct generation *g = of->next && of->next->number == images->ahead_of ? of->next
                                                                            : of->pending;

    CHECK(g && g->number == images->ahead_of);
    images->busy = true;
    for (uint32_t i = 0; i < images->n_seats && count(images, AHEAD_BEGUN) < AT_ONCE; i++)
        if (images->seats[i]->seat->ahead == AHEAD_DUE)
            begin_one(images->seats[i], g);
    images->busy = false;
}

void image_ahead_forget(struct image_seat *seat)
{
    seat->ahead = AHEAD_NO;
    image_order_unref(seat->ahead_order);
    seat->ahead_order = NULL;
    mem_free(seat->failure);
    seat->failure = NULL;
}

static void forget_all(struct images *images)
{
    for (uint32_t i = 0; i < images->n_seats; i++)
        image_ahead_forget(images->seats[i]->seat);
    images->ahead_of = 0;
}

/* --- before the switch ------------------------------------------------------------------------ */

static void on_limit(struct loop_timer *t)
{
    struct images *images = CONTAINER_OF(t, struct images, limit);
    struct pool *of = images->of;

    for (uint32_t i = 0; i < images->n_seats; i++) {
        const struct pool *p = images->seats[i];
        if (p->seat->ahead == AHEAD_DUE || (p->next && !p->next->granted))
            log_warn("pool %s: the image of %s is not ready within snapshot_wait: it follows, and "
                     "the script runs in classic mode until then",
                     p->name, p->seat->order->script_name);
    }
    images->late = true;
    pool_go_on(of);
}

void images_ahead_begin(struct generation *g)
{
    struct pool *of = g->pool;
    struct images *images = of->images;
    uint64_t wait_ms = image_config_of(g)->snapshot_wait_ms;
    uint64_t wait_ns = wait_ms * NS_PER_MS;

    if (!images || wait_ms == 0 || images->ahead_of == g->number ||
        (!of->active && of->sup->phase != SUPERVISOR_STARTING))
        return;
    if (images->ahead_of && g != of->next)
        return; /* a reload is under way, and will be the one that stays */
    if (images->ahead_of) {
        images_ahead_abandon(of, images->ahead_of);
        pool_go_on(of);
    }
    images->ahead_of = g->number;
    images->late = false;
    for (uint32_t i = 0; i < images->n_seats; i++) {
        const struct pool *p = images->seats[i];
        if (image_seat_is_taken(p) && image_seat_is_in_plan(p, g))
            p->seat->ahead = AHEAD_DUE;
    }
    begin_some(of);
    if (wait_ns > of->sup->start_limit_ns) /* somebody may wait for the start as a whole */
        wait_ns = of->sup->start_limit_ns;
    if (!images_ahead_settled(g))
        loop_timer_set(of->sup->loop, &images->limit, clock_monotonic_ns() + wait_ns, on_limit);
}

bool images_ahead_settled(const struct generation *g)
{
    const struct images *images = g->pool->images;
    bool nothing_serves = !g->pool->active && g->pool->sup->phase != SUPERVISOR_STARTING;

    return !images || images->ahead_of != g->number || images->late || nothing_serves ||
           count(images, AHEAD_DUE) + count(images, AHEAD_BEGUN) == 0;
}

void image_ahead_granted(struct pool *p)
{
    struct pool *of = p->seat->of;

    CHECK(of && of->images->ahead_of);
    begin_some(of);
    pool_go_on(of);
}

void image_ahead_failed(struct pool *p, const char *name, const char *why)
{
    struct pool *of = p->seat->of;

    if (!of || p->seat->ahead != AHEAD_BEGUN)
        return;
    log_error("%s: there is no image of %s, whose requests will run in classic mode: %s", name,
              p->seat->ahead_order->script_name, why);
    p->seat->ahead = AHEAD_FAILED;
    p->seat->failure = mem_strdup(why);
    if (of->images->busy)
        return;
    begin_some(of);
    pool_go_on(of);
}

void images_ahead_abandon(struct pool *of, uint32_t number)
{
    struct images *images = of->images;

    if (!images || images->ahead_of != number)
        return;
    loop_timer_cancel(of->sup->loop, &images->limit);
    forget_all(images);
    for (uint32_t i = 0; i < images->n_seats; i++)
        pool_abandon(images->seats[i]);
}

/* --- the switch ------------------------------------------------------------------------------- */

void images_ahead_switch(struct generation *g)
{
    struct images *images = g->pool->images;

    if (!images || images->ahead_of != g->number)
        return;
    loop_timer_cancel(g->pool->sup->loop, &images->limit);
    images->busy = true;
    for (uint32_t i = 0; i < images->n_seats; i++)
        if (images->seats[i]->next && images->seats[i]->next->granted)
            pool_switch(images->seats[i]);
    images->busy = false;
}

/* One of the generation that serves again, after a rollback; NULL: none. */
static struct generation *find_draining(const struct pool *p, const struct generation *of)
{
    LIST_FOR_EACH(it, &p->generations) {
        struct generation *g = LIST_ENTRY(it, struct generation, link);
        if (g->state == GENERATION_DRAINING && !g->ending && g->attached && g->granted &&
            g->gateway == of->gateway && g->order->of_generation == of->number)
            return g;
    }
    return NULL;
}

/* `ahead`: the seat was looked after before the switch. */
static void follow(struct pool *p, const struct generation *of, bool ahead)
{
    struct image_seat *seat = p->seat;
    bool had = image_seat_is_taken(p) && image_seat_is_in_plan(p, of);
    struct generation *back;

    seat->due = false;
    if (p->active && p->active->order->of_generation == of->number) {
        image_seat_give(seat, image_order_ref(p->active->order));
        return;
    }
    pool_vacate(p);
    if (ahead && seat->ahead == AHEAD_FAILED) {
        (void)image_refuse_order(seat->of, seat->ahead_order, seat->failure);
    } else if (ahead && p->next) {
        image_seat_give(seat, image_order_ref(p->next->order));
        pool_adopt(p);
    } else if ((back = find_draining(p, of))) {
        image_seat_give(seat, image_order_ref(back->order));
        pool_return(p, back);
    } else if (had) {
        image_seat_give(seat, image_order_for(p, of));
        seat->due = true;
    }
}

void images_follow(struct pool *of)
{
    struct images *images = of->images;

    CHECK(of->active);
    if (!images)
        return;
    bool ahead = images->ahead_of == of->active->number;
    image_forgive_all(images->refusals);
    images->told_full = false;
    images->busy = true;
    for (uint32_t i = 0; i < images->n_seats; i++)
        follow(images->seats[i], of->active, ahead);
    images->busy = false;
    if (ahead)
        forget_all(images);
    image_begin_due(of);
}

/* --- from one program to the next ------------------------------------------------------------- */

enum { HEIRS_MAX = 1024 };

struct image_heir {
    char *pool;
    struct image_order *order;
};

/* Nothing that would be more than a field of a line. */
static bool is_plain(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7F)
            return false;
    return true;
}

int images_write(const struct supervisor *s, struct buf *b, uint64_t *lines)
{
    int r = 0;

    for (uint32_t i = 0; i < s->n_pools; i++) {
        const struct images *images = s->pools[i]->images;
        for (uint32_t k = 0; images && k < images->n_seats && r >= 0; k++) {
            const struct generation *g = images->seats[k]->active;
            const struct image_order *o = g ? g->order : NULL;
            if (!o || !is_plain(o->script_name) || !is_plain(o->host) || !is_plain(o->address))
                continue;
            r = buf_printf(b, "image\t%s\t%s\t%s\t%d\t%u\t%s\n", s->pools[i]->name, o->script_name,
                           o->host, o->https, (unsigned)o->port, o->address);
            ++*lines;
        }
    }
    return r;
}

void images_read(struct supervisor *s, struct str pool, const struct control_image *image)
{
    struct control_image named = *image;

    if (s->n_heirs == HEIRS_MAX)
        return;
    named.script = STR("");
    s->heirs = mem_realloc(s->heirs, (s->n_heirs + 1) * sizeof(*s->heirs));
    s->heirs[s->n_heirs++] = (struct image_heir){ mem_strndup(pool), image_order_new(&named, 0) };
}

void images_unread(struct supervisor *s)
{
    for (uint32_t i = 0; i < s->n_heirs; i++) {
        mem_free(s->heirs[i].pool);
        image_order_unref(s->heirs[i].order);
    }
    mem_free(s->heirs);
    s->heirs = NULL;
    s->n_heirs = 0;
}

/* A seat for it, if the pool is there and has one. */
static void inherit(struct supervisor *s, const struct image_heir *heir)
{
    uint32_t index = plan_pool_index(s->plan, str_from(heir->pool));
    const struct config_pool *c = &s->plan->config->pools[index];
    struct str name = str_from(heir->order->script_name);

    if (index >= s->n_pools || c->kind != CONFIG_POOL_CLASSIC || c->use_fpm ||
        !image_is_host(str_from(heir->order->host)))
        return;
    const char *root = s->plan->pools[index].document_root;
    char *script = mem_printf("%s%s", strcmp(root, "/") == 0 ? "" : root, heir->order->script_name);
    for (uint32_t i = 0; i < c->max_images && image_is_beneath(str_from(script), name, root); i++) {
        struct pool *p = image_seat_of(s->pools[index], s->plan, index, i);
        if (p->seat->due)
            continue;
        image_seat_give(p->seat, image_order_ref(heir->order));
        p->seat->due = true;
        break;
    }
    mem_free(script);
}

void images_inherit(struct supervisor *s)
{
    for (uint32_t i = 0; i < s->n_heirs; i++)
        inherit(s, &s->heirs[i]);
    images_unread(s);
}
