/*
 * Images of entry scripts: see docs/snapshot-images.md. A seat of a classic pool (config/images.c)
 * is a struct pool as any other, which has no generation until a script asks for an image; then
 * generation.c starts, activates and drains it as it does all pools. Here it is decided which
 * scripts get a seat, and what happens when one cannot be frozen. Nobody ever waits for an image:
 * until it serves, and after it has gone, requests run in classic mode.
 *
 * An image belongs to one generation of its classic pool. When another one takes over, scripts that
 * had an image get a new one of that generation, and the old ones drain: image_ahead.c.
 *
 * A script that cannot be frozen is not tried again for a while, which doubles, unless its file
 * changes or the classic pool gets another generation.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/beneath.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/image_int.h"

/* --- orders ----------------------------------------------------------------------------------- */

struct image_order *image_order_new(const struct control_image *image, uint32_t of_generation)
{
    struct image_order *o = mem_zalloc(sizeof(*o));

    o->refs = 1;
    o->script = mem_strndup(image->script);
    o->script_name = mem_strndup(image->script_name);
    o->host = mem_strndup(image->host);
    o->address = mem_strndup(image->address);
    o->https = image->https;
    o->port = image->port;
    o->of_generation = of_generation;
    return o;
}

struct image_order *image_order_ref(struct image_order *o)
{
    if (o)
        o->refs++;
    return o;
}

void image_order_unref(struct image_order *o)
{
    if (!o || --o->refs > 0)
        return;
    mem_free(o->script);
    mem_free(o->script_name);
    mem_free(o->host);
    mem_free(o->address);
    mem_free(o);
}

struct image_order *image_order_of(const struct pool *p)
{
    return p->seat ? p->seat->order : NULL;
}

void image_seat_give(struct image_seat *seat, struct image_order *take)
{
    image_order_unref(seat->order);
    seat->order = take;
}

/* --- which seat ------------------------------------------------------------------------------- */

/* It was not used for so long that its place is worth another one's boot. */
static bool may_go(const struct image_candidate *c, uint64_t now_ns)
{
    uint64_t keep_ns = IMAGE_KEEP_MS * NS_PER_MS;

    if (c->made_ns * IMAGE_KEEP_BOOTS > keep_ns)
        keep_ns = c->made_ns * IMAGE_KEEP_BOOTS;
    return c->state == IMAGE_SEAT_SERVES && now_ns >= c->used_ns + keep_ns;
}

int image_choose_seat(const struct image_candidate *seats, uint32_t n, uint64_t now_ns)
{
    int chosen = -1;

    for (uint32_t i = 0; i < n; i++) {
        if (seats[i].state == IMAGE_SEAT_FREE)
            return (int)i;
        if (may_go(&seats[i], now_ns) && (chosen < 0 || seats[i].used_ns < seats[chosen].used_ns))
            chosen = (int)i;
    }
    return chosen;
}

static struct image_candidate look_at_seat(const struct pool *p)
{
    struct image_candidate c = { IMAGE_SEAT_SERVES, p->seat->used_ns, p->seat->made_ns };

    if (p->pending || p->seat->due)
        c.state = IMAGE_SEAT_STARTS;
    else if (!p->active)
        c.state = IMAGE_SEAT_FREE;
    return c;
}

/* --- refusals --------------------------------------------------------------------------------- */

static struct image_refusal *find_refusal(struct image_refusal *list, struct str script)
{
    for (uint32_t i = 0; i < IMAGE_REFUSALS; i++)
        if (list[i].script && str_eq(str_from(list[i].script), script))
            return &list[i];
    return NULL;
}

static void forget_refusal(struct image_refusal *r)
{
    mem_free(r->script);
    mem_free(r->why);
    *r = (struct image_refusal){ 0 };
}

/* But for numbers, such as those of processes. */
static bool same_reason(const char *a, const char *b)
{
    while (*a && *b) {
        a += strspn(a, "0123456789");
        b += strspn(b, "0123456789");
        if (*a != *b)
            return false;
        a += *a != '\0';
        b += *b != '\0';
    }
    return *a == *b;
}

uint64_t image_refuse(struct image_refusal list[IMAGE_REFUSALS], const char *script,
                      uint64_t changed_ns, const char *why, uint64_t now_ns, bool *ret_new)
{
    struct image_refusal *r = find_refusal(list, str_from(script));

    if (!r) {
        r = &list[0]; /* a free one, or the one that is over first */
        for (uint32_t i = 1; i < IMAGE_REFUSALS && r->script; i++)
            if (!list[i].script || list[i].until_ns < r->until_ns)
                r = &list[i];
        forget_refusal(r);
        r->script = mem_strdup(script);
    }
    if (r->served_ns && now_ns - r->served_ns >= IMAGE_SETTLED_MS * NS_PER_MS) {
        r->pause_ms = 0;
        mem_free(r->why);
        r->why = NULL;
    }
    r->served_ns = 0;
    uint64_t pause_ms = r->pause_ms ? 2 * r->pause_ms : IMAGE_PAUSE_FIRST_MS;
    r->pause_ms = pause_ms < IMAGE_PAUSE_MAX_MS ? pause_ms : IMAGE_PAUSE_MAX_MS;
    r->until_ns = now_ns + r->pause_ms * NS_PER_MS;
    r->changed_ns = changed_ns;
    *ret_new = !r->why || !same_reason(r->why, why);
    mem_free(r->why);
    r->why = mem_strdup(why);
    return r->pause_ms;
}

bool image_is_refused(const struct image_refusal list[IMAGE_REFUSALS], struct str script,
                      uint64_t changed_ns, uint64_t now_ns)
{
    const struct image_refusal *r = find_refusal((struct image_refusal *)list, script);

    return r && now_ns < r->until_ns && changed_ns == r->changed_ns;
}

void image_relieve(struct image_refusal list[IMAGE_REFUSALS], struct str script, uint64_t now_ns)
{
    struct image_refusal *r = find_refusal(list, script);

    if (!r)
        return;
    r->until_ns = 0;
    r->served_ns = now_ns;
}

void image_forgive_all(struct image_refusal list[IMAGE_REFUSALS])
{
    for (uint32_t i = 0; i < IMAGE_REFUSALS; i++)
        forget_refusal(&list[i]);
}

static uint64_t file_changed_ns(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return 0;
    return (uint64_t)st.st_mtim.tv_sec * NS_PER_S + (uint64_t)st.st_mtim.tv_nsec;
}

/* --- making one ------------------------------------------------------------------------------- */

static bool stopping(const struct pool *p)
{
    return p->sup->phase >= SUPERVISOR_DRAINING;
}

static struct images *images_of(struct pool *of)
{
    if (!of->images) {
        of->images = mem_zalloc(sizeof(*of->images));
        of->images->of = of;
    }
    return of->images;
}

struct pool *image_seat_of(struct pool *of, const struct plan *plan, uint32_t index, uint32_t nth)
{
    const struct config_pool *pools = plan->config->pools;
    struct images *images = images_of(of);
    struct str name = pools[pools[index].first_image + nth].name;

    for (uint32_t i = 0; i < images->n_seats; i++)
        if (str_eq(str_from(images->seats[i]->name), name))
            return images->seats[i];
    struct pool *p = pool_new(of->sup, name);
    p->seat = mem_zalloc(sizeof(*p->seat));
    p->seat->of = of;
    images->seats = mem_realloc(images->seats, (images->n_seats + 1) * sizeof(*images->seats));
    images->seats[images->n_seats++] = p;
    return p;
}

static void begin(struct pool *p)
{
    struct generation *of = p->seat->of->active;

    p->seat->due = false;
    p->seat->used_ns = clock_monotonic_ns();
    plan_unref(p->good);
    p->good = plan_ref(of->plan);
    log_notice("pool %s is to be the image of %s for pool %s", p->name, p->seat->order->script_name,
               p->seat->of->name);
    pool_renew(p);
}

void image_begin_due(struct pool *of)
{
    struct images *images = of->images;
    struct pool *next = NULL;

    if (!images || images->busy || !of->active || stopping(of))
        return;
    for (uint32_t i = 0; i < images->n_seats; i++) {
        if (images->seats[i]->pending)
            return;
        if (images->seats[i]->seat->due && !next)
            next = images->seats[i];
    }
    if (next)
        begin(next);
}

bool image_is_beneath(struct str script, struct str script_name, const char *document_root)
{
    struct str root = str_from(document_root);

    if (root.n == 1)
        root.n = 0; /* "/" */
    if (script_name.n < 2 || script_name.p[0] != '/' || script.n != root.n + script_name.n ||
        !str_has_prefix(script, root) || !str_eq(str_skip(script, root.n), script_name))
        return false;
    return beneath_is_plain(str_skip(script_name, 1));
}

bool image_is_host(struct str host)
{
    for (size_t i = 0; i < host.n; i++)
        if (host.p[i] <= ' ' || (unsigned char)host.p[i] >= 0x7F || host.p[i] == '/')
            return false;
    return host.n <= 255;
}

/* The seat that has, or is getting, the image of that script; NULL: none. */
static struct pool *find_image(const struct pool *of, struct str script)
{
    const struct images *images = of->images;

    for (uint32_t i = 0; images && i < images->n_seats; i++) {
        struct pool *p = images->seats[i];
        if (image_seat_is_taken(p) && p->seat->order &&
            str_eq(str_from(p->seat->order->script), script) &&
            p->seat->order->of_generation == of->active->number)
            return p;
    }
    return NULL;
}

static bool is_refused(struct pool *of, struct str script)
{
    char *path = mem_strndup(script);
    uint64_t changed_ns = file_changed_ns(path);

    mem_free(path);
    return image_is_refused(images_of(of)->refusals, script, changed_ns, clock_monotonic_ns());
}

static void make(struct pool *p, const struct generation *g, const struct control_image *image)
{
    struct image_order *before = p->seat->order;

    if (!before || !str_eq(str_from(before->script), image->script))
        p->seat->n_short = 0;
    image_seat_give(p->seat, image_order_new(image, g->number));
    begin(p);
}

/* Most requests of the script are of another host than the one who asked first; that may have been
 * anybody. The present image serves until there is one for them. */
static void remake(struct pool *p, const struct generation *g, const struct control_image *image)
{
    const struct image_order *o = p->seat->order;
    struct str url = image_config_of(g)->snapshot_url;
    uint64_t now = clock_monotonic_ns();

    if (!p->active || p->pending || p->seat->due || (url.n && url.p[0] != '/') ||
        (str_eq(str_from(o->host), image->host) && o->https == image->https) ||
        now < p->active->active_since_ns + IMAGE_REMAKE_MS * NS_PER_MS ||
        is_refused(p->seat->of, image->script))
        return;
    log_notice("pool %s: most requests of %s are not for \"%s\", for which it was made: it is made "
               "again for \"%.*s\"",
               p->name, o->script_name, o->host, STR_ARG(image->host));
    make(p, g, image);
}

/* Once in the life of a generation. */
static void say_full(struct pool *of, struct str script_name, uint32_t max_images)
{
    if (of->images->told_full)
        return;
    of->images->told_full = true;
    log_notice(
        "pool %s: %.*s wants an image, but the %u that it may have are in use; it goes on in "
        "classic mode, unless one of them is not used for a while; see max_images",
        of->name, STR_ARG(script_name), max_images);
}

void image_wanted(struct generation *g, const struct control_message *m)
{
    struct pool *of = g->pool;
    const struct config_pool *c = image_config_of(g);
    struct image_candidate seats[CONFIG_IMAGES_MAX];
    struct control_image image;
    uint64_t now = clock_monotonic_ns();

    if (g != of->active || stopping(of) || c->kind != CONFIG_POOL_CLASSIC || c->max_images == 0 ||
        !control_image_unpack(m, &image))
        return;
    if (!image_is_beneath(image.script, image.script_name,
                          g->plan->pools[g->index].document_root) ||
        !image_is_host(image.host)) {
        log_warn("%s wants an image of %.*s (%.*s), which is no script of its document root",
                 g->role.name, STR_ARG(image.script), STR_ARG(image.script_name));
        return;
    }
    struct pool *has = find_image(of, image.script);
    if (has && m->status == CONTROL_IMAGE_UNFIT)
        remake(has, g, &image);
    if (has || is_refused(of, image.script))
        return;
    for (uint32_t i = 0; i < c->max_images; i++)
        seats[i] = look_at_seat(image_seat_of(of, g->plan, g->index, i));
    int nth = image_choose_seat(seats, c->max_images, now);
    if (nth < 0) {
        say_full(of, image.script_name, c->max_images);
        return;
    }
    struct pool *p = image_seat_of(of, g->plan, g->index, (uint32_t)nth);
    if (p->active)
        log_notice("pool %s: the image of %s was used least recently and makes room", p->name,
                   p->active->order->script_name);
    make(p, g, &image);
}

void image_used(struct generation *g, uint64_t ago_ms)
{
    uint64_t now = clock_monotonic_ns(),
             at = now > ago_ms * NS_PER_MS ? now - ago_ms * NS_PER_MS : 0;
    if (g->pool->seat && g == g->pool->active && at > g->pool->seat->used_ns)
        g->pool->seat->used_ns = at;
}

/* --- what becomes of it ----------------------------------------------------------------------- */

static void on_old(struct loop_timer *t)
{
    struct generation *g = CONTAINER_OF(t, struct generation, timer);

    CHECK_MAGIC(g, GENERATION_MAGIC);
    if (g != g->pool->active || stopping(g->pool))
        return;
    log_info("%s has reached snapshot_max_age: it is made anew", g->role.name);
    pool_renew(g->pool);
}

void image_serves(struct generation *g)
{
    struct pool *p = g->pool;
    uint64_t age_ms = image_config_of(g)->snapshot_max_age_ms;

    p->seat->used_ns = clock_monotonic_ns();
    p->seat->made_ns = g->granted_ns - g->begun_ns;
    if (p->seat->of)
        image_relieve(images_of(p->seat->of)->refusals, str_from(g->order->script),
                      p->seat->used_ns);
    if (age_ms)
        loop_timer_set(p->sup->loop, &g->timer, clock_monotonic_ns() + age_ms * NS_PER_MS, on_old);
    log_notice("%s is the image of %s%s", g->role.name, g->order->script_name,
               p->seat->of ? "" : ", which has gone");
    if (p->seat->of)
        image_begin_due(p->seat->of);
}

/* For its status pages. */
static void tell_gateway(const struct pool *of, const char *script_name, const char *why,
                         uint64_t pause_ms)
{
    struct gateway_process *gw = of->active ? of->active->gateway : NULL;
    struct control_message m;

    if (!gw || !role_running(&gw->role))
        return;
    char *text = mem_printf("%s: %s", script_name, why);
    control_message_init(&m, CONTROL_IMAGE_REFUSED);
    m.pool = of->active->index;
    m.generation = of->active->number;
    m.status = (int32_t)(pause_ms / 1000);
    control_message_set_text(&m, str_from(text));
    role_send(&gw->role, &m, NULL, 0);
    mem_free(text);
}

bool image_refuse_order(struct pool *of, const struct image_order *o, const char *why)
{
    bool is_new;

    uint64_t pause_ms = image_refuse(images_of(of)->refusals, o->script, file_changed_ns(o->script),
                                     why, clock_monotonic_ns(), &is_new);
    tell_gateway(of, o->script_name, why, pause_ms);
    log_info("%s is not frozen again before %llu s have passed, its file changes, or pool %s is "
             "reloaded",
             o->script_name, (unsigned long long)(pause_ms / 1000), of->name);
    return is_new;
}

void image_failed(struct pool *p, const char *name, const char *why)
{
    struct generation *g = p->active;

    if (!p->seat->of || !p->seat->of->active)
        return;
    if (image_refuse_order(p->seat->of, p->seat->order, why))
        log_error("%s: there is no image of %s, whose requests run in classic mode: %s", name,
                  p->seat->order->script_name, why);
    /* The one before was to be replaced because it is out of date, or makes no room after all. */
    if (g && strcmp(g->order->script, p->seat->order->script) == 0)
        pool_vacate(p);
    else if (g)
        image_seat_give(p->seat, image_order_ref(g->order));
    image_begin_due(p->seat->of);
}

/* One image more has ended. True: too many of them have, each after a short life. */
static bool is_restless(struct image_seat *seat, uint64_t lived_ns)
{
    seat->n_short = lived_ns < IMAGE_SETTLED_MS * NS_PER_MS ? seat->n_short + 1 : 0;
    return seat->n_short > IMAGE_SHORT_MAX;
}

void image_died(struct pool *p, const char *name, pid_t pid, const char *how, uint64_t lived_ns)
{
    log_error("%s[%d] ended: %s; its running requests were answered 502, others run in classic "
              "mode",
              name, (int)pid, how);
    if (!p->seat->of || !p->seat->of->active || p->pending)
        return;
    if (is_restless(p->seat, lived_ns)) {
        char *why =
            mem_printf("its process ended again and again after it had begun to serve: %s", how);
        (void)image_refuse_order(p->seat->of, p->seat->order, why);
        mem_free(why);
    }
    image_begin_due(p->seat->of);
}

void image_outdated(struct generation *g, struct str what)
{
    struct pool *p = g->pool;

    if (!p->seat || !p->seat->of || !p->seat->of->active || g != p->active || stopping(p))
        return;
    if (!is_restless(p->seat, clock_monotonic_ns() - g->active_since_ns)) {
        log_notice("%s is made anew: %.*s", g->role.name, STR_ARG(what));
        snprintf(p->why, sizeof(p->why), "%.*s", STR_ARG(what));
        pool_renew(p);
        return;
    }
    char *why = mem_printf("%.*s, as in the images before: each lived for less than %d s. What to "
                           "do: let requests and boots rewrite that file only when what it says "
                           "changes, or read it behind the freeze point",
                           STR_ARG(what), IMAGE_SETTLED_MS / 1000);
    if (image_refuse_order(p->seat->of, g->order, why))
        log_warn("%s: %s runs in classic mode for a while: %s", g->role.name, g->order->script_name,
                 why);
    mem_free(why);
    pool_vacate(p);
    image_begin_due(p->seat->of);
}

/* --- when the classic pool changes ------------------------------------------------------------ */

struct image_order *image_order_for(const struct pool *p, const struct generation *of)
{
    const struct image_order *o = p->seat->order;
    const char *root = of->plan->pools[of->index].document_root;
    char *script = mem_printf("%s%s", strcmp(root, "/") == 0 ? "" : root, o->script_name);

    struct control_image image = { str_from(script),  str_from(o->script_name),
                                   str_from(o->host), o->https,
                                   o->port,           str_from(o->address) };

    struct image_order *order = image_order_new(&image, of->number);
    mem_free(script);
    return order;
}

bool image_seat_is_in_plan(const struct pool *p, const struct generation *of)
{
    const struct config_pool *c = image_config_of(of);
    uint32_t index = plan_pool_index(of->plan, str_from(p->name));

    return c->max_images && index >= c->first_image && index < c->first_image + c->max_images;
}

void images_retire(struct pool *of)
{
    for (uint32_t i = 0; of->images && i < of->images->n_seats; i++) {
        of->images->seats[i]->seat->due = false;
        pool_vacate(of->images->seats[i]);
    }
}

const char *image_pool_of(const struct pool *p)
{
    return p->seat && p->seat->of ? p->seat->of->name : NULL;
}

bool image_keeps(const struct pool *p)
{
    if (p->seat)
        return p->seat->of != NULL;
    for (uint32_t i = 0; p->images && i < p->images->n_seats; i++)
        if (!list_empty(&p->images->seats[i]->generations))
            return true;
    return false;
}

void image_forget(struct pool *p)
{
    if (p->images) {
        for (uint32_t i = 0; i < p->images->n_seats; i++)
            p->images->seats[i]->seat->of = NULL;
        image_forgive_all(p->images->refusals);
        loop_timer_cancel(p->sup->loop, &p->images->limit);
        mem_free(p->images->seats);
        mem_free(p->images);
    }
    if (!p->seat)
        return;
    struct images *images = p->seat->of ? p->seat->of->images : NULL;
    for (uint32_t i = 0; images && i < images->n_seats; i++)
        if (images->seats[i] == p) {
            images->seats[i] = images->seats[--images->n_seats];
            break;
        }
    image_ahead_forget(p->seat);
    image_order_unref(p->seat->order);
    mem_free(p->seat);
}
