/*
 * [[route]]: a list of tables, each one route. The keys of a route are a table of their own, of
 * which the reference page prints a section; what the values mean is decided in
 * src/gateway/route.c.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stddef.h>
#include <stdio.h>

#include "config/config_int.h"

static const char *const backends[] = { "php", "static", "fastcgi", "deny", NULL };

#define ROUTE(field)                                                     \
    .part = PART_RECORD, .offset = offsetof(struct config_route, field), \
    .given_offset = NO_GIVEN_FIELD

const struct config_key config_route_keys[] = {
    { "route", "backend", KIND_FORMAT, ROUTE(backend), .choices = backends, .fallback = "\"php\"",
      .example = "\"deny\"",
      .text =
          "`\"php\"`: the usual rules, files, scripts and the front controller of the pool. "
          "`\"static\"`: files only, never PHP. `\"fastcgi\"`: as `\"php\"`, but scripts run on "
          "the servers of `[fastcgi]`. `\"deny\"`: answered with `status`." },
    { "route", "priority", KIND_COUNT32, ROUTE(priority), .max = 1000000, .fallback = "0",
      .example = "10",
      .text = "Higher first. Among equals: exact, then the longest prefix, then the longest "
              "suffix, then regular expressions in the order of the file." },
    { "route", "pool", KIND_STRING, ROUTE(pool), .fallback = "\"\"",
      .fallback_text = "the pool of `[php]`, named `www`", .example = "\"admin\"",
      .text = "Which pool's document root and workers." },
    { "route", "try", KIND_STRINGS, ROUTE(try), .fallback = "[]",
      .example = "[\"$uri\", \"$uri/\", \"/app.php\"]",
      .text =
          "Paths to look for instead of the request's, as nginx's try_files: the first that "
          "is there is taken, the last one in any case. `\"=404\"` as the last one answers that "
          "status. Variables: `$uri`, and `$1` to `$9` of a regular expression." },
    { "route", "redirect", KIND_STRING, ROUTE(redirect), .fallback = "\"\"",
      .example = "\"https://$host$request_uri\"",
      .text =
          "Answer with a redirect to this URL instead. Variables: `$scheme`, `$host`, `$uri`, "
          "`$query` (with its `?`), `$request_uri`, and `$1` to `$9` of a regular expression." },
    { "route", "status", KIND_COUNT32, ROUTE(status), .min = 300, .max = 499, .fallback = "0",
      .fallback_text = "403 of `deny`, 302 of `redirect`", .example = "301",
      .text = "Status of `deny` (400 to 499) or `redirect` (301, 302, 303, 307, 308)." },
    { "route", "max_concurrency", KIND_COUNT32, ROUTE(max_concurrency), .max = 65535,
      .fallback = "0", .fallback_text = "no limit of its own", .example = "4",
      .text = "How many PHP requests of this route may run at the same time; further ones wait in "
              "the gateway, where they hold no worker. See [overload.md](overload.md)." },
    { "route", "max_waiting", KIND_AUTO, ROUTE(max_waiting), .max = 65535, .fallback = "\"auto\"",
      .fallback_text = "the `queue_size` of `[php]`", .example = "0",
      .text =
          "How many may wait because of `max_concurrency`, each up to `queue_timeout`; one more "
          "is answered 503 at once. 0: none waits." },
    { "route", "max_body_size", KIND_SIZE, ROUTE(max_body_size), .min = 1, .max = UINT64_C(1) << 40,
      .fallback = "0", .fallback_text = "the server's", .example = "\"1G\"",
      .text = "Largest request body on this route." },
    { "route", "request_timeout", KIND_TIME, ROUTE(request_timeout_ms), .max = 86400000,
      .fallback = "0", .fallback_text = "the pool's", .example = "\"10m\"",
      .text = "How long a PHP request of this route may run, instead of the `request_timeout` of "
              "its pool; shorter or longer. Then its worker is killed and it is answered 504." },
    { "route", "request_buffering", KIND_BOOLEAN, .part = PART_RECORD,
      .offset = offsetof(struct config_route, request_buffering),
      .given_offset = (int32_t)offsetof(struct config_route, request_buffering_given),
      .fallback = "true", .fallback_text = "the pool's", .example = "false",
      .text = "`false`: PHP starts on the head of a request and reads its body as it comes. See "
              "[streaming](streaming.md)." },
    { "route", "fallback", KIND_BOOLEAN, ROUTE(fallback), .fallback = "false", .example = "true",
      .text = "When workers crash again and again while they run requests of this route, its PHP "
              "requests go to the pool's `fpm_socket` or the servers of `[fastcgi]` until the next "
              "reload. The error log says so. For a whole pool: `php.fallback`." },
    { "route", "fallback_crashes", KIND_COUNT32, ROUTE(fallback_crashes), .min = 1, .max = 64,
      .fallback = "0", .fallback_text = "the pool's", .example = "3",
      .text = "How many crashes within `fallback_window` are enough." },
    { "route", "fallback_window", KIND_TIME, ROUTE(fallback_window_ms), .min = 1, .max = 86400000,
      .fallback = "0", .fallback_text = "the pool's", .example = "\"10m\"",
      .text = "The time in which crashes are counted." },
};
const size_t config_n_route_keys = ARRAY_LENGTH(config_route_keys);

static const struct config_key *find_key(struct str name)
{
    for (size_t i = 0; i < config_n_route_keys; i++)
        if (str_eq(name, str_from(config_route_keys[i].name)))
            return &config_route_keys[i];
    return NULL;
}

static void complain_unknown(struct loader *l, const struct toml_value *v)
{
    const char *near = NULL;
    unsigned best = config_distance_limit(v->key) + 1;

    for (size_t i = 0; i < config_n_route_keys; i++) {
        unsigned d = config_distance(v->key, str_from(config_route_keys[i].name), best);
        if (d < best) {
            best = d;
            near = config_route_keys[i].name;
        }
    }
    loader_complain(l, NULL, v->key_line, v->key_column, "unknown key route.%.*s%s%s%s",
                    STR_ARG(v->key), near ? "; did you mean " : "", near ? near : "",
                    near ? "?" : "");
}

/* The gateway compiles it again; here it is for the error message. */
static void check_regex(struct loader *l, const struct toml_value *v)
{
    PCRE2_UCHAR text[200];
    PCRE2_SIZE at;
    int error;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)v->string.p, v->string.n, 0, &error, &at, NULL);

    if (!code) {
        pcre2_get_error_message(error, text, sizeof(text));
        loader_complain(l, NULL, v->line, v->column,
                        "route.match.regex: \"%.*s\": %s at character %zu", STR_ARG(v->string),
                        (const char *)text, (size_t)at + 1);
    }
    pcre2_code_free(code);
}

/* match = { prefix = "/uploads/" } */
static const char *const match_kinds[] = { "exact", "prefix", "suffix", "regex" };

static void set_match(struct loader *l, struct config_route *r, const struct toml_value *v)
{
    const struct toml_value *m = v->type == TOML_TABLE ? v->first : NULL;

    if (!m || m->next || m->type != TOML_STRING) {
        loader_complain(l, NULL, v->line, v->column,
                        "route.match: expected a table with one of exact, prefix, suffix or regex, "
                        "such as { prefix = \"/uploads/\" }");
        return;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(match_kinds); i++) {
        if (!str_eq(m->key, str_from(match_kinds[i])))
            continue;
        r->match = (enum config_match)i;
        r->pattern = loader_copy(l, m->string);
        if (r->pattern.n == 0)
            loader_complain(l, NULL, m->line, m->column,
                            "route.match.%s: expected a path or pattern, found \"\"",
                            match_kinds[i]);
        else if (i < 2 && r->pattern.p[0] != '/')
            loader_complain(l, NULL, m->line, m->column,
                            "route.match.%s: expected a path that begins with /, found \"%.*s\"",
                            match_kinds[i], STR_ARG(r->pattern));
        else if (r->match == CONFIG_MATCH_REGEX)
            check_regex(l, m);
        return;
    }
    loader_complain(l, NULL, m->key_line, m->key_column,
                    "route.match: expected exact, prefix, suffix or regex, found %.*s",
                    STR_ARG(m->key));
}

static bool is_redirect_status(uint32_t status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

static void check_fallback(struct loader *l, const struct config_route *r,
                           const struct config_pool *pool, const struct toml_value *table)
{
    const struct toml_value *at = toml_get(table, STR("fallback"));

    if (!r->fallback)
        return;
    CHECK(at);
    if (r->backend != CONFIG_BACKEND_PHP)
        loader_complain(l, NULL, at->line, at->column,
                        "route.fallback: only a route with backend \"php\" can fall back");
    else if (!pool->upstream)
        loader_complain(l, NULL, at->line, at->column,
                        "route.fallback: needs servers in [fastcgi], or %.*s.fpm_socket: where is "
                        "PHP-FPM?",
                        STR_ARG(pool->table));
}

static void check_route(struct loader *l, struct config_route *r, const struct config_pool *pool,
                        const struct toml_value *table)
{
    uint32_t line = table->line, column = table->column;

    if (r->pattern.n == 0 && !toml_get(table, STR("match")))
        loader_complain(l, NULL, line, column,
                        "route: expected match = { exact, prefix, suffix or "
                        "regex = \"...\" }");
    if (r->fallback && r->redirect.n)
        loader_complain(l, NULL, line, column,
                        "route.fallback: only a route with backend \"php\" can fall back");
    if (r->redirect.n) {
        if (toml_get(table, STR("backend")))
            loader_complain(l, NULL, line, column, "route: either backend or redirect, not both");
        r->backend = CONFIG_BACKEND_REDIRECT;
        if (r->status == 0)
            r->status = 302;
        if (!is_redirect_status(r->status))
            loader_complain(l, NULL, line, column,
                            "route.status: expected 301, 302, 303, 307 or "
                            "308 for a redirect, found %u",
                            r->status);
        return;
    }
    if (r->backend == CONFIG_BACKEND_DENY) {
        if (r->status == 0)
            r->status = 403;
        if (r->status < 400)
            loader_complain(l, NULL, line, column,
                            "route.status: expected 400 to 499 for deny, "
                            "found %u",
                            r->status);
    } else if (r->status) {
        loader_complain(l, NULL, line, column,
                        "route.status: only deny and redirect have a status of their own");
    }
    if (r->backend == CONFIG_BACKEND_FASTCGI && !pool->upstream)
        loader_complain(l, NULL, line, column,
                        "route.backend: \"fastcgi\" needs servers in [fastcgi], or %.*s.fpm_socket",
                        STR_ARG(pool->table));
    check_fallback(l, r, pool, table);
}

static void set_key(struct loader *l, struct config_route *r, const struct config_key *key,
                    const struct toml_value *v)
{
    if (key->given_offset != NO_GIVEN_FIELD)
        *(bool *)((char *)r + key->given_offset) = true;
    config_set(l, key, v);
}

static void set_route(struct loader *l, struct config_route *r, const struct toml_value *table)
{
    r->line = table->line;
    r->max_waiting = CONFIG_AUTO;
    r->pool = r->redirect = r->pattern = STR("");
    for (const struct toml_value *v = table->first; v; v = v->next) {
        const struct config_key *key = find_key(v->key);
        l->record = r;
        if (str_eq(v->key, STR("match")))
            set_match(l, r, v);
        else if (key)
            set_key(l, r, key, v);
        else
            complain_unknown(l, v);
        l->record = NULL;
    }
}

void config_set_routes(struct loader *l, const struct toml_value *list)
{
    uint32_t n = 0;

    if (list->type != TOML_ARRAY) {
        loader_complain(l, NULL, list->line, list->column,
                        "route: expected a list of tables, [[route]] each");
        return;
    }
    for (const struct toml_value *t = list->first; t; t = t->next)
        n++;
    l->c->routes = loader_alloc(l, n * sizeof(*l->c->routes));
    if (!l->c->routes)
        return;
    for (const struct toml_value *t = list->first; t; t = t->next) {
        if (t->type != TOML_TABLE) {
            loader_complain(l, NULL, t->line, t->column, "route: expected a table");
            continue;
        }
        set_route(l, &l->c->routes[l->c->n_routes++], t);
    }
    l->route_tables = list;
}

/* The pool of that name, the first one for ""; NULL: there is none. */
static const struct config_pool *find_pool(const struct loader *l, struct str name)
{
    if (name.n == 0)
        return &l->c->pools[0];
    for (uint32_t i = 0; i < l->c->n_pools; i++)
        if (str_eq(name, l->c->pools[i].name))
            return &l->c->pools[i];
    return NULL;
}

/* For the slow log and crash records. */
static void name_route(struct loader *l, struct config_route *r)
{
    char text[256];
    int n = snprintf(text, sizeof(text), "%s %.*s", match_kinds[r->match], STR_ARG(r->pattern));

    r->name =
        loader_copy(l, (struct str){ text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1 });
}

/* When all of the file is known: what a route refers to must be there. */
void config_check_routes(struct loader *l)
{
    const struct toml_value *t = l->route_tables ? l->route_tables->first : NULL;

    for (uint32_t i = 0; t && i < l->c->n_routes; t = t->next) {
        if (t->type != TOML_TABLE)
            continue;
        struct config_route *r = &l->c->routes[i++];
        const struct config_pool *pool = find_pool(l, r->pool);
        if (!pool)
            loader_complain(l, NULL, t->line, t->column,
                            "route.pool: there is no pool \"%.*s\"; it would be [pool.%.*s]",
                            STR_ARG(r->pool), STR_ARG(r->pool));
        check_route(l, r, pool ? pool : &l->c->pools[0], t);
        name_route(l, r);
    }
}
