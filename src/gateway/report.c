/*
 * What the workers of pools with images tell of them (channel/report.h), for status pages and
 * metrics. The memory is written by processes of the application's user: every text is copied and
 * checked before it is shown, every number is only a number.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "channel/report.h"
#include "gateway/admin.h"

enum { NAMES_SHOWN = 20 };

#define US(ns) ((double)(ns) / 1e3)
#define MIB(bytes) ((double)(bytes) / (1 << 20))

void report_take(struct pool_link *link, int fd)
{
    int r = link->report ? -EEXIST : report_map(fd, false, &link->report);

    if (r < 0)
        log_warn("the report of generation %u of pool %u cannot be read: %s", link->generation,
                 link->pool, strerror(-r));
}

/* --- tables ----------------------------------------------------------------------------------- */

static const char *kind_name(enum report_kind kind)
{
    static const char *const names[REPORT_KINDS] = {
        [REPORT_CLASS] = "class",     [REPORT_FUNCTION] = "function", [REPORT_FILE] = "file",
        [REPORT_LIBRARY] = "library", [REPORT_LOCALE] = "locale",
    };

    return names[kind] ? names[kind] : "";
}

static int by_count(const void *a, const void *b)
{
    const struct report_view *x = a, *y = b;

    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : (x->route > y->route) - (x->route < y->route);
}

/* All that is there, the most frequent first (mem_free). */
static struct report_view *read_table(const struct report_entry *table, uint32_t n, uint32_t *ret_n)
{
    struct report_view *all = mem_zalloc((n + 1) * sizeof(*all));

    *ret_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct report_view *v = &all[*ret_n];
        if (report_read(&table[i], v) && v->count > 0)
            ++*ret_n;
    }
    qsort(all, *ret_n, sizeof(*all), by_count);
    for (uint32_t i = 0; i < *ret_n; i++)
        all[i].text.p = all[i].copy;
    return all;
}

/* Of a finding: what stands behind its text. */
static const char *size_text(const struct report_view *v, char out[24])
{
    out[0] = '\0';
    if (v->flags)
        snprintf(out, 24, "(%" PRIu32 ")", v->flags - 1);
    return out;
}

struct name_counts {
    uint32_t n, untried, banned;
};

static struct name_counts count_names(const struct report *r)
{
    struct name_counts c = { 0 };
    struct report_view v;

    for (uint32_t i = 0; i < REPORT_NAMES; i++) {
        if (!report_read(&r->names[i], &v) || v.count == 0)
            continue;
        c.n++;
        c.untried += !(v.flags & REPORT_TRIED) && v.kind != REPORT_FUNCTION;
        c.banned += (v.flags & REPORT_BANNED) != 0;
    }
    return c;
}

static uint32_t load32(const _Atomic uint32_t *n)
{
    return atomic_load_explicit(n, memory_order_relaxed);
}

/* Requests whose cost was counted. */
static uint64_t left(uint64_t all, uint64_t compared)
{
    return all > compared ? all - compared : 0;
}

static double mean(uint64_t sum, uint64_t n)
{
    return n ? (double)sum / (double)n : 0;
}

/* --- JSON ------------------------------------------------------------------------------------- */

static void put_json_reasons(struct json *j, const struct report *r, const char *key,
                             enum report_kind kind)
{
    struct report_view v;

    json_open(j, key, '[');
    for (uint32_t i = 0; i < REPORT_REASONS; i++) {
        if (!report_read(&r->reasons[i], &v) || v.kind != kind)
            continue;
        json_open(j, NULL, '{');
        json_text(j, "why", v.text);
        json_number(j, "times", v.count);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void put_json_names(struct json *j, const struct report *r)
{
    uint32_t n;
    struct report_view *all = read_table(r->names, REPORT_NAMES, &n);

    json_open(j, "loaded_late", '[');
    for (uint32_t i = 0; i < n; i++) {
        json_open(j, NULL, '{');
        json_text(j, "kind", str_from(kind_name(all[i].kind)));
        json_text(j, "name", all[i].text);
        json_number(j, "requests", all[i].count);
        json_bool(j, "tried", all[i].flags & REPORT_TRIED);
        json_bool(j, "banned", all[i].flags & REPORT_BANNED);
        json_close(j, '}');
    }
    json_close(j, ']');
    mem_free(all);
}

static void put_json_findings(struct json *j, const struct report_view *found, uint32_t n,
                              uint32_t route)
{
    char size[24];

    json_open(j, "left_behind", '[');
    for (uint32_t i = 0; i < n; i++) {
        char text[REPORT_TEXT_BYTES + 32];
        if (found[i].route != route)
            continue;
        int length = snprintf(text, sizeof(text), "%.*s%s", STR_ARG(found[i].text),
                              size_text(&found[i], size));
        json_text(j, NULL, (struct str){ text, (size_t)length });
    }
    json_close(j, ']');
}

static void put_json_routes(struct json *j, const struct report *r, bool findings)
{
    struct report_view v;
    uint32_t n = 0;
    struct report_view *found = findings ? read_table(r->findings, REPORT_FINDINGS, &n) : NULL;

    json_open(j, "routes", '[');
    for (uint32_t i = 0; i < REPORT_ROUTES; i++) {
        const struct report_route *route = &r->routes[i];
        uint64_t requests = report_get(&route->requests);
        uint64_t compared = report_get(&route->sampled);
        if (!report_read(&r->route_names[i], &v))
            continue;
        json_open(j, NULL, '{');
        json_text(j, "route", v.text);
        json_number(j, "requests", requests);
        json_real(j, "pages_mean", mean(report_get(&route->pages), left(requests, compared)));
        json_number(j, "pages_max", report_get(&route->pages_max));
        json_number(j, "late_requests", report_get(&route->late_requests));
        json_number(j, "late_names", report_get(&route->late_names));
        json_number(j, "compiled", report_get(&route->compiled));
        json_number(j, "compared", compared);
        if (findings)
            put_json_findings(j, found, n, i);
        json_close(j, '}');
    }
    json_close(j, ']');
    mem_free(found);
}

static void put_json_counters(struct json *j, const struct report *r)
{
    const struct report_counters *c = &r->count;
    struct name_counts names = count_names(r);
    uint64_t all = report_get(&c->rollbacks), n = left(all, report_get(&c->sampled));

    json_number(j, "rollbacks", all);
    json_open(j, "rollback_us", '{');
    json_real(j, "mean", mean(report_get(&c->rollback_ns), n) / 1e3);
    json_real(j, "p50", US(report_rollback_percentile_ns(r, 50)));
    json_real(j, "p99", US(report_rollback_percentile_ns(r, 99)));
    json_real(j, "max", US(report_get(&c->rollback_max_ns)));
    json_close(j, '}');
    json_real(j, "pages_mean", mean(report_get(&c->pages), n));
    json_number(j, "hot_pages", report_get(&c->hot_pages));
    json_number(j, "late_requests", report_get(&c->requests_late));
    json_number(j, "late_requests_untried", report_get(&c->requests_late_new));
    json_number(j, "late_names", names.n);
    json_number(j, "late_names_untried", names.untried);
    json_number(j, "late_names_banned", names.banned);
    json_number(j, "compiled_scripts", report_get(&c->compiled));
    json_number(j, "renewals", report_get(&c->renewals));
    json_number(j, "compared_requests", report_get(&c->sampled));
    json_open(j, "dropped", '{');
    json_number(j, "names", report_get(&c->dropped_names));
    json_number(j, "routes", report_get(&c->dropped_routes));
    json_number(j, "findings", report_get(&c->dropped_findings));
    json_close(j, '}');
}

void report_put_json(struct json *j, const struct pool_link *link, bool isolation)
{
    const struct report *r = link->report;
    const struct report_image *i = &r->image;
    struct report_view v;

    json_open(j, "image", '{');
    json_number(j, "made", load32(&i->made));
    json_number(j, "made_at", report_get(&i->made_ns) / NS_PER_S);
    json_text(j, "why", report_read(&r->why, &v) ? v.text : STR(""));
    json_number(j, "boot_ms", report_get(&i->boot_ns) / NS_PER_MS);
    json_number(j, "bytes", report_get(&i->bytes));
    json_number(j, "regions", report_get(&i->regions));
    json_number(j, "free_bytes", report_get(&i->scratch_bytes));
    json_number(j, "warmup_requests", load32(&i->warmed));
    json_number(j, "learned", load32(&i->loaded));
    json_number(j, "learned_gone", load32(&i->gone));
    put_json_counters(j, r);
    put_json_reasons(j, r, "respawns", REPORT_RESPAWN);
    put_json_reasons(j, r, "refusals", REPORT_REFUSAL);
    if (link->image)
        put_json_reasons(j, r, "passed_on_by", REPORT_GUARD);
    put_json_routes(j, r, isolation);
    if (isolation)
        put_json_names(j, r);
    json_close(j, '}');
}

/* --- text ------------------------------------------------------------------------------------- */

void report_put_reasons(struct buf *out, const struct report *r, const char *head,
                        enum report_kind kind)
{
    struct report_view v;
    bool any = false;

    for (uint32_t i = 0; i < REPORT_REASONS; i++) {
        if (!report_read(&r->reasons[i], &v) || v.kind != kind)
            continue;
        page_put(out, "%s%" PRIu32 "x ", any ? "; " : head, v.count);
        page_put_plain(out, v.text);
        any = true;
    }
    if (any)
        page_put(out, "\n");
}

static void put_text_reasons(struct buf *out, const struct report *r, const char *indent,
                             const char *what, enum report_kind kind)
{
    char head[64];

    snprintf(head, sizeof(head), "%s%s", indent, what);
    report_put_reasons(out, r, head, kind);
}

static void put_text_image(struct buf *out, const struct pool_link *link, const char *indent)
{
    const struct report *r = link->report;
    const struct report_image *i = &r->image;
    uint64_t now = clock_realtime_ns(), made_ns = report_get(&i->made_ns);
    uint64_t age_s = now > made_ns ? (now - made_ns) / NS_PER_S : 0;
    uint32_t made = load32(&i->made);
    struct report_view v;
    struct str pool = link->config->pools[link->pool].name;

    page_put(out, "%s", indent);
    if (!link->image)
        page_put(out, "image (%.*s g%u): ", STR_ARG(pool), link->generation);
    if (made == 0) {
        page_put(out, "NONE YET\n");
        put_text_reasons(out, r, indent, "could not be made: ", REPORT_REFUSAL);
        return;
    }
    page_put(out,
             "%.1f MiB in %" PRIu64 " regions, made %" PRIu64 "h%02" PRIu64 "m%02" PRIu64
             "s ago in %.1f s with %" PRIu32 " warm-up requests and %" PRIu32
             " learned names; because ",
             MIB(report_get(&i->bytes)), report_get(&i->regions), age_s / 3600, age_s / 60 % 60,
             age_s % 60, (double)report_get(&i->boot_ns) / NS_PER_S, load32(&i->warmed),
             load32(&i->loaded));
    page_put_plain(out, report_read(&r->why, &v) ? v.text : STR("?"));
    if (made > 1)
        page_put(out, "; made %" PRIu32 " times", made);
    page_put(out, "\n");
}

static void put_text_numbers(struct buf *out, const struct report *r, const char *indent)
{
    const struct report_counters *c = &r->count;
    struct name_counts names = count_names(r);
    uint64_t all = report_get(&c->rollbacks), n = left(all, report_get(&c->sampled));

    if (all == 0)
        return;
    page_put(out, "%srollbacks: %" PRIu64, indent, all);
    if (n)
        page_put(out,
                 ", %.1f us on average, p99 %.0f, most %.0f; %.0f pages on average, %" PRIu64
                 " are hot",
                 mean(report_get(&c->rollback_ns), n) / 1e3,
                 US(report_rollback_percentile_ns(r, 99)), US(report_get(&c->rollback_max_ns)),
                 mean(report_get(&c->pages), n), report_get(&c->hot_pages));
    page_put(out, "\n");
    if (names.n)
        page_put(out,
                 "%sloaded late: something by %.1f %% of the requests, %" PRIu32
                 " names in all; %" PRIu32 " were never tried before an image%s\n",
                 indent, 100 * mean(report_get(&c->requests_late), all), names.n, names.untried,
                 names.untried ? ": the next generation does (sapid reload)" : "");
    put_text_reasons(out, r, indent, "workers forked anew: ", REPORT_RESPAWN);
    put_text_reasons(out, r, indent, "images refused: ", REPORT_REFUSAL);
}

static void put_text_routes(struct buf *out, const struct report *r)
{
    struct report_view v;

    page_put(out, "\n    %-40s %10s %7s %7s %7s %9s %9s\n", "route", "requests", "pages", "most",
             "late %", "names", "compiled");
    for (uint32_t i = 0; i < REPORT_ROUTES; i++) {
        const struct report_route *route = &r->routes[i];
        uint64_t n = report_get(&route->requests), late = report_get(&route->late_requests);
        if (!report_read(&r->route_names[i], &v))
            continue;
        page_put(out, "    ");
        page_put_plain(out, v.text);
        page_put(out, "%*s %10" PRIu64 " %7.0f %7" PRIu64 " %7.1f %9.1f %9" PRIu64 "\n",
                 v.text.n < 40 ? (int)(40 - v.text.n) : 0, "", n,
                 mean(report_get(&route->pages), left(n, report_get(&route->sampled))),
                 report_get(&route->pages_max), 100 * mean(late, n),
                 mean(report_get(&route->late_names), late), report_get(&route->compiled));
    }
}

static void put_text_findings(struct buf *out, const struct report *r)
{
    struct report_view name;
    uint32_t n;
    struct report_view *found = read_table(r->findings, REPORT_FINDINGS, &n);
    char size[24];

    page_put(out,
             "\n    left behind, and put right by rollback (%" PRIu64 " requests compared):%s\n",
             report_get(&r->count.sampled), n ? "" : " nothing");
    for (uint32_t route = 0; route < REPORT_ROUTES && n; route++) {
        bool any = false;
        for (uint32_t i = 0; i < n; i++) {
            if (found[i].route != route)
                continue;
            if (!any && report_read(&r->route_names[route], &name)) {
                page_put(out, "      ");
                page_put_plain(out, name.text);
                page_put(out, "\n");
            }
            any = true;
            page_put(out, "        ");
            page_put_plain(out, found[i].text);
            page_put(out, "%s\n", size_text(&found[i], size));
        }
    }
    mem_free(found);
}

static void put_text_names(struct buf *out, const struct report *r)
{
    uint32_t n;
    struct report_view *all = read_table(r->names, REPORT_NAMES, &n);

    page_put(out, "\n    loaded late, by name:%s\n", n ? "" : " nothing");
    for (uint32_t i = 0; i < n && i < NAMES_SHOWN; i++) {
        page_put(out, "      %8" PRIu32 " requests  %s ", all[i].count, kind_name(all[i].kind));
        page_put_plain(out, all[i].text);
        page_put(out, "%s\n",
                 all[i].flags & REPORT_BANNED  ? "  (cannot be loaded before the image)"
                 : all[i].flags & REPORT_TRIED ? "  (tried)"
                                               : "");
    }
    if (n > NAMES_SHOWN)
        page_put(out, "      and %" PRIu32 " more: --json has all\n", n - NAMES_SHOWN);
    mem_free(all);
}

void report_put_text(struct buf *out, const struct pool_link *link, bool isolation)
{
    const char *indent = link->image ? "        " : "    ";

    put_text_image(out, link, indent);
    put_text_numbers(out, link->report, indent);
    if (!isolation)
        return;
    put_text_routes(out, link->report);
    put_text_names(out, link->report);
    put_text_findings(out, link->report);
}

/* --- metrics ---------------------------------------------------------------------------------- */

static uint64_t image_value(const struct report *r, unsigned row)
{
    const uint64_t values[] = {
        report_get(&r->image.bytes),     report_get(&r->image.made_ns) / NS_PER_S,
        report_get(&r->count.hot_pages), report_get(&r->count.rollbacks),
        report_get(&r->count.pages),     report_get(&r->count.requests_late),
        report_get(&r->count.compiled),  report_get(&r->count.findings),
    };

    return values[row];
}

static uint64_t count_reasons(const struct report *r, enum report_kind kind)
{
    struct report_view v;
    uint64_t n = 0;

    for (uint32_t i = 0; i < REPORT_REASONS; i++)
        n += report_read(&r->reasons[i], &v) && v.kind == kind ? v.count : 0;
    return n;
}

static void put_label(struct buf *b, const char *name, const char *suffix, const struct backend *of)
{
    const struct pool_link *link = of->pool;

    page_put(b, "%s%s{pool=\"%.*s\",generation=\"%u\"} ", name, suffix,
             STR_ARG(link->config->pools[link->pool].name), link->generation);
}

static void put_rows(struct buf *b, struct gateway_thread *t)
{
    static const struct {
        const char *name, *type, *help;
    } rows[] = {
        { "sapid_image_bytes", "gauge", "Size of the image that workers are forked from" },
        { "sapid_image_made_timestamp_seconds", "gauge", "When it was made" },
        { "sapid_image_hot_pages", "gauge", "Pages that every rollback compares, in one worker" },
        { "sapid_rollbacks", "counter", "Requests after which a worker went back to its image" },
        { "sapid_rollback_pages", "counter", "Pages put back" },
        { "sapid_late_requests", "counter", "Requests that loaded something after the image" },
        { "sapid_compiled_scripts", "counter", "Scripts that requests compiled" },
        { "sapid_isolation_findings", "counter", "Kinds of state that requests have left behind" },
    };

    for (unsigned i = 0; i < ARRAY_LENGTH(rows); i++) {
        page_put(b, "# HELP %s %s\n# TYPE %s %s\n", rows[i].name, rows[i].help, rows[i].name,
                 rows[i].type);
        LIST_FOR_EACH(it, &t->backends) {
            const struct backend *of = LIST_ENTRY(it, struct backend, link);
            if (!of->pool->report)
                continue;
            put_label(b, rows[i].name, rows[i].type[0] == 'c' ? "_total" : "", of);
            page_put(b, "%" PRIu64 "\n", image_value(of->pool->report, i));
        }
    }
}

void report_put_metrics(struct buf *b, struct gateway_thread *t)
{
    static const struct {
        const char *name, *help;
        enum report_kind kind;
    } reasons[] = {
        { "sapid_image_refusals", "Images that could not be made", REPORT_REFUSAL },
        { "sapid_worker_respawns", "Workers that were forked anew", REPORT_RESPAWN },
    };
    bool any = false;

    LIST_FOR_EACH(it, &t->backends)
        any |= LIST_ENTRY(it, struct backend, link)->pool->report != NULL;
    if (!any)
        return;
    put_rows(b, t);
    page_put(b, "# HELP sapid_rollback_seconds Time of rollbacks\n"
                "# TYPE sapid_rollback_seconds summary\n");
    LIST_FOR_EACH(it, &t->backends) {
        const struct backend *of = LIST_ENTRY(it, struct backend, link);
        if (!of->pool->report)
            continue;
        put_label(b, "sapid_rollback_seconds", "_sum", of);
        page_put(b, "%.9f\n", (double)report_get(&of->pool->report->count.rollback_ns) / NS_PER_S);
        put_label(b, "sapid_rollback_seconds", "_count", of);
        page_put(b, "%" PRIu64 "\n", report_get(&of->pool->report->count.rollbacks));
    }
    for (unsigned i = 0; i < ARRAY_LENGTH(reasons); i++) {
        page_put(b, "# HELP %s %s\n# TYPE %s counter\n", reasons[i].name, reasons[i].help,
                 reasons[i].name);
        LIST_FOR_EACH(it, &t->backends) {
            const struct backend *of = LIST_ENTRY(it, struct backend, link);
            if (!of->pool->report)
                continue;
            put_label(b, reasons[i].name, "_total", of);
            page_put(b, "%" PRIu64 "\n", count_reasons(of->pool->report, reasons[i].kind));
        }
    }
}
