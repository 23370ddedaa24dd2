/*
 * Images of entry scripts, as the gateway knows them: see images.h.
 *
 * A thread looks for an image only where its classic pool has one in service, so requests of all
 * others pay for one comparison. Whether a script gets an image is the supervisor's to decide; it
 * is asked at most once a second for each script, and told when each image was used last.
 */
#include "gateway/images.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#include "base/mem.h"
#include "channel/report.h"

enum { ASK_MS = 1000, ASKED_SCRIPTS = 16, JUDGED_REQUESTS = 32 };

/* When the supervisor was asked for what workers want, by a hash of the script: so many questions a
 * second at most, whatever they say. */
struct asked {
    uint64_t at_ns;
};

static const struct config_pool *pool_of(const struct pool_link *link)
{
    return &link->config->pools[link->pool];
}

/* --- generations ------------------------------------------------------------------------------ */

void images_open_link(struct pool_link *link)
{
    const struct config_pool *pool = pool_of(link);

    if (pool->kind == CONFIG_POOL_IMAGE && link->boot.image_script) {
        link->image = mem_zalloc(sizeof(*link->image));
        link->image->script = mem_strdup(link->boot.image_script);
        link->image->script_name = mem_strdup(link->boot.image_script_name);
        link->image->of_pool = pool->image_of;
        link->image->of_generation = link->boot.image_of_generation;
        atomic_init(&link->image->used_ns, clock_monotonic_ns());
    }
    link->asked = mem_zalloc((pool->snapshot_scripts.n + 1) * sizeof(link->asked[0]));
    link->asked_by_workers = mem_zalloc(ASKED_SCRIPTS * sizeof(*link->asked_by_workers));
}

void images_close_link(struct pool_link *link)
{
    if (link->image) {
        mem_free(link->image->script);
        mem_free(link->image->script_name);
    }
    mem_free(link->image);
    mem_free(link->asked);
    mem_free(link->asked_by_workers);
}

void images_count(struct gateway_thread *t, const struct pool_link *link)
{
    uint32_t n = 0;

    if (!link->image)
        return;
    for (uint32_t i = 0; i < POOLS_MAX; i++)
        n += t->active[i] && t->active[i]->pool->image &&
             t->active[i]->pool->image->of_pool == link->image->of_pool;
    t->n_images[link->image->of_pool] = n;
}

bool images_is_early(const struct gateway_thread *t, const struct pool_link *link)
{
    const struct backend *of = link->image ? t->active[link->image->of_pool] : NULL;

    return link->image && (!of || of->pool->generation != link->image->of_generation);
}

void images_look(const struct gateway_thread *t, uint32_t pool,
                 void (*see)(void *ctx, const struct pool_link *image), void *ctx)
{
    for (uint32_t i = 0; t->n_images[pool] && i < POOLS_MAX; i++)
        if (t->active[i] && t->active[i]->pool->image && t->active[i]->pool->image->of_pool == pool)
            see(ctx, t->active[i]->pool);
}

/* --- requests --------------------------------------------------------------------------------- */

static struct backend *find(const struct gateway_thread *t, const struct backend *b,
                            struct str script)
{
    const struct config_pool *pool = pool_of(b->pool);
    uint32_t end = pool->first_image + pool->max_images;

    for (uint32_t i = pool->first_image; i < end; i++) {
        struct backend *image = t->active[i];
        if (image && image->pool->image && image->pool->image->of_pool == b->pool->pool &&
            image->pool->image->of_generation == b->pool->generation &&
            str_eq(str_from(image->pool->image->script), script))
            return image;
    }
    return NULL;
}

static void send_to_supervisor(const struct control_message *m)
{
    int r = control_send(CONTROL_SUPERVISOR_FD, m, NULL, 0);

    if (r < 0 && r != -EAGAIN && r != -EPIPE && r != -ECONNRESET)
        log_error("cannot ask the supervisor for an image: %s", strerror(-r));
}

/* The head is in thread->request. */
static void post(struct exchange *x, struct pool_link *link, struct str script, struct str name,
                 int status)
{
    struct gateway_thread *t = x->conn->thread;
    struct control_image image = { .script = script, .script_name = name };
    struct control_message m;

    exchange_describe(x, &image);
    control_message_init(&m, CONTROL_IMAGE_WANTED);
    m.status = status;
    if (!control_image_pack(&m, &image))
        return;
    struct command *c = mem_zalloc(sizeof(*c));
    c->run = images_on_asked;
    c->pool = link;
    c->message = mem_alloc(sizeof(m));
    memcpy(c->message, &m, offsetof(struct control_message, text) + m.text_bytes);
    thread_post(&t->gateway->threads[0], c);
}

/* Once a second, in one thread. */
static bool may_ask(_Atomic uint64_t *at_ns, uint64_t now)
{
    uint64_t asked = atomic_load_explicit(at_ns, memory_order_relaxed);

    return (!asked || now - asked >= ASK_MS * NS_PER_MS) &&
           atomic_compare_exchange_strong_explicit(at_ns, &asked, now, memory_order_relaxed,
                                                   memory_order_relaxed);
}

/* An image that passes on most of what it gets was made for a host that hardly anybody asks for:
 * whoever came first has named it. */
void images_passed_on(struct exchange *x, struct pool_link *link)
{
    struct link_image *i = link->image;
    const struct backend *b = backend_for(x->conn, i->of_pool);
    uint64_t passed_on = atomic_load_explicit(&i->passed_on, memory_order_relaxed);
    uint64_t served = atomic_load_explicit(&i->served, memory_order_relaxed);
    uint64_t judged = atomic_load_explicit(&i->judged_passed_on, memory_order_relaxed);

    if (passed_on - judged < JUDGED_REQUESTS ||
        !atomic_compare_exchange_strong_explicit(&i->judged_passed_on, &judged, passed_on,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    uint64_t since = served -
                     atomic_exchange_explicit(&i->judged_served, served, memory_order_relaxed);
    if (since >= JUDGED_REQUESTS / 4 || !b || b->pool->generation != i->of_generation ||
        !may_ask(&i->unfit_ns, loop_now_ns(x->conn->thread->loop)))
        return;
    exchange_parse_again(x);
    post(x, b->pool, str_from(i->script), str_from(i->script_name), CONTROL_IMAGE_UNFIT);
}

/* Is it one of snapshot_scripts? */
static bool is_named(const struct config_pool *pool, struct str name, uint32_t *ret)
{
    name = str_skip(name, 1);
    for (uint32_t i = 0; i < pool->snapshot_scripts.n; i++)
        if (str_eq(pool->snapshot_scripts.v[i], name)) {
            *ret = i;
            return true;
        }
    return false;
}

struct backend *images_choose(struct exchange *x, struct backend *b, struct str script)
{
    struct gateway_thread *t = x->conn->thread;
    const struct config_pool *pool = pool_of(b->pool);
    uint32_t index;

    if (x->no_image || !b->pool->channel || x->conn->source > CONN_FROM_UNIX)
        return b;
    if (t->n_images[b->pool->pool]) {
        struct backend *image = find(t, b, script);
        if (image) {
            atomic_store_explicit(&image->pool->image->used_ns, loop_now_ns(t->loop),
                                  memory_order_relaxed);
            return image;
        }
    }
    if (unlikely(pool->snapshot_scripts.n) && pool->max_images &&
        is_named(pool, t->match.script_name, &index) &&
        may_ask(&b->pool->asked[index], loop_now_ns(t->loop)))
        post(x, b->pool, script, t->match.script_name, 0);
    return b;
}

/* --- asking the supervisor; main thread ------------------------------------------------------- */

static bool has_image(const struct gateway *g, const struct pool_link *link, struct str script)
{
    LIST_FOR_EACH(it, &g->links) {
        const struct pool_link *l = LIST_ENTRY(it, struct pool_link, link);
        if (l->image && !l->dead && !l->closing && l->image->of_pool == link->pool &&
            l->image->of_generation == link->generation &&
            str_eq(str_from(l->image->script), script))
            return true;
    }
    return false;
}

/* Why most requests of an image are passed on, once. */
static void say_unfit(const struct pool_link *of, struct str script)
{
    LIST_FOR_EACH(it, &of->gateway->links) {
        const struct pool_link *l = LIST_ENTRY(it, struct pool_link, link);
        struct report_view v;
        if (!l->image || !l->active || l->image->told_unfit || !l->report ||
            l->image->of_pool != of->pool || !str_eq(str_from(l->image->script), script) ||
            !report_find_most(l->report, REPORT_GUARD, &v))
            continue;
        l->image->told_unfit = true;
        log_notice("%.*s g%u: most requests of %s run in classic mode, because they are not like "
                   "the image's boot in %.*s; sapid status says what may help",
                   STR_ARG(pool_of(l)->name), l->generation, l->image->script_name,
                   STR_ARG(v.text));
    }
}

static bool asked_lately(struct pool_link *link, struct str script)
{
    struct asked *a = &link->asked_by_workers[str_hash(script) % ASKED_SCRIPTS];
    uint64_t now = clock_monotonic_ns();

    if (a->at_ns && now - a->at_ns < ASK_MS * NS_PER_MS)
        return true;
    a->at_ns = now;
    return false;
}

static void tell_use(void *ctx, const struct pool_link *image)
{
    uint64_t now = *(const uint64_t *)ctx;
    uint64_t used = atomic_load_explicit(&image->image->used_ns, memory_order_relaxed);
    struct control_message m;

    control_message_init(&m, CONTROL_IMAGE_USED);
    m.pool = image->pool;
    m.generation = image->generation;
    uint64_t ms = used < now ? (now - used) / NS_PER_MS : 0;
    m.status = ms < INT32_MAX ? (int32_t)ms : INT32_MAX;
    send_to_supervisor(&m);
}

/* Whether it may have one is the supervisor's question. */
static void pass_wish(struct pool_link *link, struct control_message *m,
                      const struct control_image *image)
{
    uint64_t now = clock_monotonic_ns();

    bool has = has_image(link->gateway, link, image->script);

    if (link->image || !link->active || link->dead || has != (m->status == CONTROL_IMAGE_UNFIT))
        return;
    if (m->status == CONTROL_IMAGE_UNFIT)
        say_unfit(link, image->script);
    images_look(&link->gateway->threads[0], link->pool, tell_use, &now);
    m->pool = link->pool;
    m->generation = link->generation;
    send_to_supervisor(m);
}

void images_wanted(struct pool_link *link, const struct control_message *m)
{
    struct control_message wish;
    struct control_image image;

    control_message_init(&wish, CONTROL_IMAGE_WANTED);
    control_message_set_text(&wish, control_message_text(m));
    if (control_image_unpack(&wish, &image) && !asked_lately(link, image.script))
        pass_wish(link, &wish, &image);
}

void images_on_asked(struct gateway_thread *t, struct command *c)
{
    struct control_image image;

    (void)t;
    if (control_image_unpack(c->message, &image))
        pass_wish(c->pool, c->message, &image);
    mem_free(c->message);
    mem_free(c);
}

/* The one of that script, a free one, or the oldest. */
static struct image_refused *refused_entry(struct image_figures *f, struct str script)
{
    struct image_refused *found = NULL;

    if (!f->refusals)
        f->refusals = mem_zalloc(IMAGES_REFUSED_SHOWN * sizeof(*f->refusals));
    for (uint32_t i = 0; i < IMAGES_REFUSED_SHOWN; i++) {
        struct image_refused *r = &f->refusals[i];
        if (str_eq(str_from(r->script), script))
            return r;
        if (!found || r->at_ns < found->at_ns)
            found = r;
    }
    memset(found, 0, sizeof(*found));
    snprintf(found->script, sizeof(found->script), "%.*s", STR_ARG(script));
    return found;
}

void images_refused(struct gateway *g, const struct control_message *m)
{
    struct image_figures *f = m->pool < POOLS_MAX ? &g->images[m->pool] : NULL;
    struct str why = control_message_text(m), script = str_cut(&why, ':');

    if (!f)
        return;
    struct image_refused *r = refused_entry(f, str_take(script, sizeof(r->script) - 1));
    r->times++;
    r->at_ns = clock_realtime_ns();
    r->until_ns = r->at_ns + (m->status > 0 ? (uint64_t)m->status * NS_PER_S : 0);
    snprintf(r->why, sizeof(r->why), "%.*s", STR_ARG(str_trim(why)));
    f->last_refusal = (uint32_t)(r - f->refusals);
    atomic_fetch_add_explicit(&f->refused, 1, memory_order_relaxed);
}

void images_forgive(struct gateway *g, const struct pool_link *link)
{
    struct image_figures *f = &g->images[images_pool(link)];

    for (uint32_t i = 0; f->refusals && i < IMAGES_REFUSED_SHOWN; i++)
        if (!link->image || strcmp(f->refusals[i].script, link->image->script_name) == 0)
            memset(&f->refusals[i], 0, sizeof(f->refusals[i]));
}
