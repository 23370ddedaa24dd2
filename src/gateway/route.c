/*
 * Where a request goes, from its parsed head in the thread's scratch space: a status, a file, a
 * redirect or a pool. The rules without [[route]]: existing file -> static; existing *.php -> PHP;
 * missing *.php -> 404; anything else -> the front controller when there is one, else 404. A
 * [[route]] that matches the decoded path comes first (rules.h).
 *
 * With a worker script, and no route that says otherwise: existing file -> static; another existing
 * *.php asked for by its name -> PHP, in classic mode; anything else -> the worker script.
 */
#include "gateway/admin.h"
#include "gateway/rules.h"

#define ALLOWED STR("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n")

static struct route answer(int status, struct str extra)
{
    return (struct route){ .verdict = VERDICT_STATUS, .status = status, .extra = extra };
}

/* Requests whose answer does not depend on the path. */
static bool needs_no_path(const struct http_request *r, struct route *ret)
{
    if (r->form == HTTP_ASTERISK_FORM)
        *ret = answer(204, ALLOWED);
    else if (r->method == HTTP_CONNECT || r->method == HTTP_TRACE)
        *ret = answer(405, ALLOWED);
    else if (r->path.n > FILES_PATH_MAX)
        *ret = answer(414, STR_NONE);
    else
        return false;
    return true;
}

/* The document root decides. */
static struct route by_files(struct gateway_thread *t, struct backend *b, struct str path)
{
    struct route route = { .files = b->files };

    files_resolve(b->files, path, &t->match);
    switch (t->match.kind) {
    case FILES_STATIC: route.verdict = VERDICT_STATIC; break;
    case FILES_SCRIPT:
    case FILES_FRONT: route.verdict = VERDICT_PHP; break;
    case FILES_REDIRECT:
        route.verdict = VERDICT_REDIRECT;
        t->match.script_name = path;
        break;
    case FILES_FORBIDDEN: return answer(403, STR_NONE);
    case FILES_UNAVAILABLE: return answer(503, STR_NONE);
    case FILES_NOT_FOUND: return answer(404, STR_NONE);
    }
    return route;
}

/* --- [[route]] -------------------------------------------------------------------------------- */

static struct route redirect(struct gateway_thread *t, const struct config_route *rule,
                             const struct rule_variables *v)
{
    static const char name[] = "Location: ";
    char *out = t->rewritten;
    size_t room = sizeof(t->rewritten) - 2;

    memcpy(out, name, sizeof(name) - 1);
    int n = rules_expand(rule->redirect, v, out + sizeof(name) - 1, room - sizeof(name) + 1);
    if (n < 0)
        return answer(414, STR_NONE);
    /* Decoded bytes that a field value may not have end here; the rest is the administrator's text.
     */
    struct str line = { out, sizeof(name) - 1 + (size_t)n };
    if (!http_is_field_value(line))
        return answer(400, STR_NONE);
    memcpy(out + line.n, "\r\n", 2);
    return answer((int)rule->status, (struct str){ out, line.n + 2 });
}

/* "=404" */
static bool is_status(struct str text, int *ret)
{
    uint64_t n;

    if (text.n != 4 || text.p[0] != '=' || !str_to_u64(str_skip(text, 1), 599, &n) || n < 400)
        return false;
    *ret = (int)n;
    return true;
}

/* The first path of `try` that is there; the last one in any case, with a query of its own if it
 * has one. */
static struct route by_try(struct gateway_thread *t, struct backend *b,
                           const struct config_route *rule, const struct rule_variables *v)
{
    for (uint32_t i = 0; i < rule->try.n; i++) {
        bool last = i + 1 == rule->try.n;
        int status;
        if (last && is_status(rule->try.v[i], &status))
            return answer(status, STR_NONE);
        int n = rules_expand(rule->try.v[i], v, t->rewritten, FILES_PATH_MAX);
        if (n < 0)
            return answer(414, STR_NONE);
        struct str query = { t->rewritten, (size_t)n };
        struct str path = str_cut(&query, '?');
        if (path.n == 0 || path.p[0] != '/')
            return answer(404, STR_NONE);
        struct route route = by_files(t, b, path);
        bool found = route.verdict == VERDICT_STATIC ||
                     (route.verdict == VERDICT_PHP && t->match.kind == FILES_SCRIPT);
        if (last && query.p)
            t->query = query;
        if (found || last)
            return route;
    }
    return answer(404, STR_NONE);
}

static uint32_t pool_index(const struct config *c, struct str name)
{
    for (uint32_t i = 0; i < c->n_pools; i++)
        if (str_eq(c->pools[i].name, name))
            return i;
    return 0;
}

static struct route by_rule(struct exchange *x, const struct config *c,
                            const struct config_route *rule, const struct rule_groups *groups,
                            struct str path)
{
    struct gateway_thread *t = x->conn->thread;
    const struct http_request *r = &t->request;
    struct rule_variables v = {
        .host = r->host, .uri = path, .query = r->query, .request_uri = r->target, .groups = groups
    };

    v.scheme = exchange_is_https(x) ? STR("https") : STR("http");
    if (rule->backend == CONFIG_BACKEND_DENY)
        return answer((int)rule->status, STR_NONE);
    if (rule->backend == CONFIG_BACKEND_REDIRECT)
        return redirect(t, rule, &v);
    if (rule->pool.n)
        x->pool = pool_index(c, rule->pool);
    struct backend *b = backend_for(x->conn, x->pool);
    if (!b)
        return (struct route){ .verdict = VERDICT_PHP };
    struct route route = rule->try.n ? by_try(t, b, rule, &v) : by_files(t, b, path);
    if (rule->backend == CONFIG_BACKEND_STATIC && route.verdict == VERDICT_PHP)
        return answer(404, STR_NONE);
    return route;
}

/* --- worker mode ------------------------------------------------------------------------------ */

/* Whether what the files say is the worker script's. A folder's index is not asked for by name; in
 * the root it is the application's entry, for which the worker script stands, deeper down it is a
 * script of its own. */
static bool is_for_loop(const struct files_match *m, struct str path, struct str loop_name)
{
    if (m->kind == FILES_FRONT || m->kind == FILES_NOT_FOUND)
        return true;
    return m->kind == FILES_SCRIPT && (str_eq(path, STR("/")) || str_eq(m->script_name, loop_name));
}

static struct route by_loop(struct exchange *x, struct route route, uint32_t loop, struct str path)
{
    struct gateway_thread *t = x->conn->thread;
    struct backend *b = backend_for(x->conn, loop);
    struct str name = b ? b->pool->loop_name : STR_NONE;

    if (!is_for_loop(&t->match, path, name))
        return route;
    if (t->match.kind != FILES_SCRIPT || str_eq(path, STR("/")))
        t->match.path_info = STR_NONE;
    t->match.script_name = name;
    x->pool = loop; /* waits for the pool where none of it is up */
    return (struct route){ .verdict = VERDICT_PHP };
}

/* Do scripts of this route run on FastCGI servers, by its own word or by what crashed on it? */
static bool is_fastcgi(const struct exchange *x, const struct config_route *rule)
{
    return rule && (rule->backend == CONFIG_BACKEND_FASTCGI ||
                    (rule->fallback && fallback_route(backend_for(x->conn, 0)->pool, rule)));
}

/* The files of the pool decided. */
static bool follows_files(const struct exchange *x, const struct config_route *rule,
                          const struct route *found)
{
    if (!rule)
        return true;
    return rule->backend == CONFIG_BACKEND_PHP && !is_fastcgi(x, rule) &&
           (rule->try.n == 0 || found->verdict == VERDICT_PHP);
}

/* The server asks a pool whether it answers. */
static struct route by_probe(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;

    x->pool = x->conn->probe_pool;
    t->query = t->match.script_name = t->match.path_info = STR_NONE;
    return (struct route){ .verdict = VERDICT_PHP };
}

static struct route find_place(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;
    const struct http_request *r = &t->request;
    struct rule_groups groups;
    struct route route;

    if (needs_no_path(r, &route))
        return route;
    int n = http_normalize_path(r->path, t->path);
    if (n < 0)
        return answer(400, STR_NONE);
    if (x->conn->source == CONN_FROM_ADMIN)
        return admin_route(x, (struct str){ t->path, (size_t)n });
    if (x->conn->source == CONN_FROM_HEALTH)
        return by_probe(x);
    x->pool = 0;
    t->query = r->query;
    struct backend *b = backend_for(x->conn, x->pool);
    /* No generation is up: every request waits for one, files too, since they are its files. */
    if (!b)
        return (struct route){ .verdict = VERDICT_PHP };
    struct str path = { t->path, (size_t)n };
    if (unlikely(b->pool->has_pages) && admin_is_page(x, b->pool->config, path, &route))
        return route;
    const struct config_route *rule = rules_match(b->pool->rules, path, &groups);
    if (rule)
        route = by_rule(x, b->pool->config, rule, &groups, path);
    else
        route = by_files(t, b, path);
    b = backend_for(x->conn, x->pool); /* a route's: it may not be up */
    uint32_t loop = b ? b->pool->config->pools[x->pool].loop : 0;
    if (loop && follows_files(x, rule, &route))
        route = by_loop(x, route, loop, path);
    route.rule = rule;
    return route;
}

/* Does the pool's engine run the script, or a FastCGI server? */
static bool goes_to_fastcgi(const struct exchange *x, const struct backend *b,
                            const struct config_route *rule)
{
    if (!b || !b->upstream)
        return false;
    return b->pool->config->pools[b->pool->pool].use_fpm || is_fastcgi(x, rule) ||
           fallback_pool(b->pool);
}

struct route route_find(struct exchange *x)
{
    struct route route = find_place(x);

    if (route.verdict == VERDICT_PHP &&
        goes_to_fastcgi(x, backend_for(x->conn, x->pool), route.rule))
        route.verdict = VERDICT_FASTCGI;
    if (x->conn->source <= CONN_FROM_UNIX)
        stats_place(x, &route);
    return route;
}
