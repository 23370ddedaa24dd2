/*
 * Images of entry scripts on the status pages, pool by pool: which scripts have one, what it costs
 * and which requests it leaves to classic mode; which scripts have none, and why.
 */
#include <inttypes.h>

#include "base/mem.h"
#include "channel/report.h"
#include "gateway/admin.h"
#include "gateway/images.h"

enum { HELP_REQUESTS = 10, HELP_PERCENT = 10 }; /* passed on, when there is something to say */

static uint64_t served_of(const struct pool_link *link)
{
    return atomic_load_explicit(&link->image->served, memory_order_relaxed);
}

static uint64_t passed_on_of(const struct pool_link *link)
{
    return atomic_load_explicit(&link->image->passed_on, memory_order_relaxed);
}

/* --- JSON ------------------------------------------------------------------------------------- */

struct images_page {
    struct json *json;
    bool isolation, shows_report;
};

static void put_json_image(void *ctx, const struct pool_link *link)
{
    const struct images_page *page = ctx;
    struct json *j = page->json;

    json_open(j, NULL, '{');
    json_text(j, "script", str_from(link->image->script_name));
    json_text(j, "pool", link->config->pools[link->pool].name);
    json_number(j, "generation", link->generation);
    json_number(j, "served", served_of(link));
    json_number(j, "passed_on", passed_on_of(link));
    if (page->shows_report && link->report)
        report_put_json(j, link, page->isolation);
    json_close(j, '}');
}

static void put_json_refusals(struct json *j, const struct image_figures *f)
{
    const struct image_refused *last = &f->refusals[f->last_refusal];

    if (last->script[0]) {
        char *text = mem_printf("%s: %s", last->script, last->why);
        json_number(j, "refused_at", last->at_ns / NS_PER_S);
        json_text(j, "last_refusal", str_from(text));
        mem_free(text);
    }
    json_open(j, "refusals", '[');
    for (uint32_t i = 0; i < IMAGES_REFUSED_SHOWN; i++) {
        const struct image_refused *r = &f->refusals[i];
        if (!r->script[0])
            continue;
        json_open(j, NULL, '{');
        json_text(j, "script", str_from(r->script));
        json_text(j, "why", str_from(r->why));
        json_number(j, "times", r->times);
        json_number(j, "at", r->at_ns / NS_PER_S);
        json_number(j, "not_before", r->until_ns / NS_PER_S);
        json_close(j, '}');
    }
    json_close(j, ']');
}

void images_put_json(struct json *j, const struct gateway_thread *t, uint32_t pool, bool isolation)
{
    struct images_page page = { j, isolation, t->index == 0 };
    const struct image_figures *f = &t->gateway->images[pool];

    json_open(j, "images", '{');
    json_open(j, "active", '[');
    images_look(t, pool, put_json_image, &page);
    json_close(j, ']');
    json_number(j, "served", atomic_load_explicit(&f->served, memory_order_relaxed));
    json_number(j, "passed_on", atomic_load_explicit(&f->passed_on, memory_order_relaxed));
    json_number(j, "refused", atomic_load_explicit(&f->refused, memory_order_relaxed));
    if (t->index == 0 && f->refusals) /* whose they are */
        put_json_refusals(j, f);
    json_close(j, '}');
}

/* --- text ------------------------------------------------------------------------------------- */

static void put_help(struct buf *out, const struct pool_link *link)
{
    uint64_t served = served_of(link), passed_on = passed_on_of(link);
    struct report_view v;

    if (passed_on < HELP_REQUESTS || passed_on * 100 < (served + passed_on) * HELP_PERCENT ||
        !report_find_most(link->report, REPORT_GUARD, &v) || str_find(v.text, '.') < 0)
        return;
    page_put(out, "        what may help: freeze before the boot reads ");
    page_put_plain(out, v.text);
    page_put(out, " (`sapid audit` says where); or, if nothing that it makes of it stays, "
                  "snapshot_guards = { \"");
    page_put_plain(out, v.text);
    page_put(out, "\" = \"any\" }\n");
}

static void put_text_image(struct buf *out, const struct gateway_thread *t,
                           const struct pool_link *link, bool isolation)
{
    bool serves = t->active[link->pool] && t->active[link->pool]->pool == link;

    page_put(out, "    image of ");
    page_put_plain(out, str_from(link->image->script_name));
    page_put(out,
             " (%.*s g%u)%s: %" PRIu64 " requests, %" PRIu64 " more passed on to classic mode\n",
             STR_ARG(link->config->pools[link->pool].name), link->generation,
             serves ? "" : ", which does not serve yet or finishes its requests", served_of(link),
             passed_on_of(link));
    if (!link->report)
        return;
    report_put_reasons(out, link->report,
                       "        passed on, because not as in the boot's request: ", REPORT_GUARD);
    put_help(out, link);
    report_put_text(out, link, isolation);
}

static void put_text_refused(struct buf *out, const struct image_refused *r)
{
    uint64_t now = clock_realtime_ns(), ago = now > r->at_ns ? now - r->at_ns : 0;

    page_put(out, "    no image of ");
    page_put_plain(out, str_from(r->script));
    page_put(out, ", which runs in classic mode: ");
    page_put_plain(out, str_from(r->why));
    page_put(out, "\n        refused %" PRIu32 " times, last %" PRIu64 " s ago; tried again ",
             r->times, ago / NS_PER_S);
    if (r->until_ns > now)
        page_put(out, "%" PRIu64 " s from now, if its file changes, or after `sapid reload`",
                 (r->until_ns - now) / NS_PER_S + 1);
    else
        page_put(out, "with its next request");
    page_put(out, "\n");
}

void images_put_text(struct buf *out, const struct gateway_thread *t, uint32_t pool, bool isolation)
{
    const struct image_figures *f = &t->gateway->images[pool];

    LIST_FOR_EACH(it, &t->backends) {
        const struct backend *b = LIST_ENTRY(it, struct backend, link);
        if (t->index != 0 || images_pool(b->pool) != pool)
            continue;
        if (b->pool->image)
            put_text_image(out, t, b->pool, isolation);
        else if (b->pool->report)
            report_put_text(out, b->pool, isolation);
    }
    for (uint32_t i = 0; t->index == 0 && f->refusals && i < IMAGES_REFUSED_SHOWN; i++)
        if (f->refusals[i].script[0])
            put_text_refused(out, &f->refusals[i]);
}
