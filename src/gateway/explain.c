/*
 * `sapid check --explain URL`. Nothing here decides anything: a request head is made of the URL, a
 * thread without a loop and pools without processes are put around it, and route_find answers as it
 * would in a running gateway. What is left is to put the result into words.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gateway/bulkhead.h"
#include "gateway/files_int.h"
#include "gateway/gateway.h"
#include "gateway/gateway_int.h"
#include "gateway/rules.h"
#include "gateway/upstream.h"

struct stage {
    struct gateway gateway;
    struct gateway_thread thread;
    struct conn conn;
    struct exchange exchange;
    struct pool_link *links; /* by pool */
    FILE *out;
};

static const char *const match_names[] = { "exact", "prefix", "suffix", "regex" };
static const char *const backend_names[] = { "php", "static", "fastcgi", "deny", "redirect" };

/* --- the stage -------------------------------------------------------------------------------- */

static int add_pool(struct stage *s, uint32_t pool, const char *root)
{
    struct pool_link *link = &s->links[pool];
    const struct config_pool *p = &s->gateway.config->pools[pool];
    char message[512] = "out of memory";

    link->pool = pool;
    link->gateway = &s->gateway;
    link->config = s->gateway.config;
    link->document_root = mem_strdup(root);
    link->has_pages = true;
    link->root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (link->root_fd < 0) {
        fprintf(stderr, "document root %s: %s\n", root, strerror(errno));
        return -errno;
    }
    if (p->kind == CONFIG_POOL_LOOP)
        link->loop_name = config_script_name(p->worker_script, str_from(root));
    fallback_init(link);
    int r = rules_new(link->config, &link->rules, message, sizeof(message));
    if (r < 0)
        fprintf(stderr, "%s\n", message);
    if (r == 0)
        r = backend_add(&s->thread, link);
    if (r == 0)
        s->thread.active[pool] = backend_find(&s->thread, link);
    return r;
}

static int set_up(struct stage *s, const struct config *c, const char *const *roots)
{
    struct gateway_thread *t = &s->thread;
    struct str bad;

    s->gateway.config = (struct config *)c;
    s->gateway.threads = t;
    s->gateway.n_threads = 1;
    t->gateway = &s->gateway;
    bulkhead_init(t);
    list_init(&t->backends);
    list_init(&t->upstreams);
    for (uint32_t i = 0; i < c->n_pools; i++)
        list_init(&t->waiting[i]);
    s->conn.thread = t;
    s->exchange.magic = EXCHANGE_MAGIC;
    s->exchange.conn = &s->conn;
    s->links = mem_zalloc(c->n_pools * sizeof(*s->links));
    for (uint32_t i = 0; i < c->n_pools; i++)
        s->links[i].root_fd = -1;
    int r = loop_new(&t->loop);
    if (r == 0)
        r = trust_new(&c->server.trusted_proxies, &s->gateway.trust, &bad);
    for (uint32_t i = 0; i < c->n_pools && r == 0; i++)
        r = add_pool(s, i, roots[i]);
    return r;
}

static void clean_up(struct stage *s)
{
    for (uint32_t i = 0; i < s->gateway.config->n_pools; i++) {
        struct pool_link *link = &s->links[i];
        if (s->thread.active[i])
            backend_free(s->thread.active[i]);
        rules_free(link->rules);
        fallback_fini(link);
        mem_free(link->document_root);
        fd_close(&link->root_fd);
    }
    upstream_poll(&s->thread); /* frees what nobody refers to */
    trust_free(s->gateway.trust);
    loop_free(s->thread.loop);
    mem_free(s->links);
    mem_free(s);
}

/* --- the request ------------------------------------------------------------------------------ */

/* "https://host/path" or "/path" becomes a head. The scheme of a URL is what a trusted proxy would
 * say. */
static char *make_head(struct stage *s, struct str url)
{
    struct str host = STR("localhost"), rest = url;
    bool https = str_has_prefix(url, STR("https://"));

    if (https || str_has_prefix(url, STR("http://"))) {
        rest = str_skip(url, https ? 8 : 7);
        size_t n = strcspn(rest.p, "/?#");
        host = str_take(rest, n);
        rest = str_skip(rest, n);
    }
    rest = str_take(rest, strcspn(rest.p, "#"));
    s->conn.trusted = https;
    return mem_printf("GET %s%.*s HTTP/1.1\r\nHost: %.*s\r\n%s\r\n",
                      rest.n && rest.p[0] == '/' ? "" : "/", STR_ARG(rest), STR_ARG(host),
                      https ? "X-Forwarded-Proto: https\r\n" : "");
}

static int parse(struct stage *s, const char *head, const char *url)
{
    const struct config_server *c = &s->gateway.config->server;
    const struct http_limits limits = { .request_line_bytes = (uint32_t)c->max_request_line,
                                        .headers_bytes = (uint32_t)c->max_header_size + 8192,
                                        .headers_count = HTTP_HEADERS_MAX,
                                        .body_bytes = c->max_body_size };
    struct http1_parser parser = { 0 };
    int n = http1_parse_request(&parser, str_from(head), &limits, &s->thread.request);

    if (n > 0)
        return 0;
    fprintf(stderr, "--explain %s: no request can be made of it: %s\n", url,
            n < 0 ? http_error_text((enum http_error) - n) : "expected a path that begins with /");
    return -EINVAL;
}

/* --- in words --------------------------------------------------------------------------------- */

static void say_rule(const struct stage *s, const struct config_route *rule)
{
    const struct config *c = s->gateway.config;

    if (!rule) {
        fprintf(s->out, "route:  %s\n",
                c->n_routes ? "no [[route]] matches: the default rules decide"
                            : "there is no [[route]]: the default rules decide");
        return;
    }
    fprintf(s->out, "route:  %.*s:%u, %s \"%.*s\", backend %s", STR_ARG(c->file), rule->line,
            match_names[rule->match], STR_ARG(rule->pattern), backend_names[rule->backend]);
    for (uint32_t i = 0; i < rule->try.n; i++)
        fprintf(s->out, "%s\"%.*s\"", i ? ", " : ", try ", STR_ARG(rule->try.v[i]));
    fputs("\n", s->out);
}

static bool is_decided_without_files(const struct config_route *rule)
{
    return rule &&
           (rule->backend == CONFIG_BACKEND_DENY || rule->backend == CONFIG_BACKEND_REDIRECT);
}

static void say_pool(const struct stage *s)
{
    const struct config_pool *p = &s->gateway.config->pools[s->exchange.pool];

    fprintf(s->out, "pool:   %.*s, document root %s\n", STR_ARG(p->name),
            s->links[s->exchange.pool].document_root);
}

static void say_script(const struct stage *s, bool fastcgi)
{
    const struct gateway_thread *t = &s->thread;
    const struct files_match *m = &t->match;
    const struct pool_link *link = &s->links[s->exchange.pool];
    bool loop = s->gateway.config->pools[s->exchange.pool].kind == CONFIG_POOL_LOOP;
    const char *root = strcmp(link->document_root, "/") == 0 ? "" : link->document_root;

    if (loop)
        fprintf(s->out, "answer: the worker script %.*s, in its loop\n",
                STR_ARG(s->gateway.config->pools[s->exchange.pool].worker_script));
    else
        fprintf(s->out, "answer: PHP runs %s%.*s%s\n", root, STR_ARG(m->script_name),
                fastcgi ? " on a FastCGI server" : "");
    if (m->kind == FILES_FRONT && !loop)
        fprintf(s->out, "        the front controller, because there is no such file\n");
    if (m->path_info.n)
        fprintf(s->out, "        PATH_INFO \"%.*s\"\n", STR_ARG(m->path_info));
    if (t->query.p)
        fprintf(s->out, "        QUERY_STRING \"%.*s\"\n", STR_ARG(t->query));
}

static const char *why_status(const struct stage *s, const struct route *route)
{
    if (route->rule && route->rule->backend == CONFIG_BACKEND_DENY)
        return "the route says so";
    switch (route->status) {
    case 400: return "the path climbs above the root or holds what no path may";
    case 403: return "the file is there, but may not be read";
    case 404:
        return s->thread.match.kind == FILES_SCRIPT || s->thread.match.kind == FILES_FRONT
                   ? "a script would answer, but the route is for files only"
                   : "no such file, or one that is never shown (docs/which-file.md)";
    case 414: return "the path is too long";
    default: return http_status_reason(route->status);
    }
}

static void say_answer(struct stage *s, const struct route *route)
{
    const struct files_match *m = &s->thread.match;

    switch (route->verdict) {
    case VERDICT_STATUS:
        if (route->extra.n && str_has_prefix(route->extra, STR("Location: "))) {
            struct str rest = str_skip(route->extra, 10), target = str_cut(&rest, '\r');
            fprintf(s->out, "answer: %d, redirect to %.*s\n", route->status, STR_ARG(target));
        } else {
            fprintf(s->out, "answer: %d, because %s\n", route->status, why_status(s, route));
        }
        break;
    case VERDICT_STATIC:
        fprintf(s->out, "answer: the file %s%s\n        %.*s, %llu bytes\n",
                s->links[s->exchange.pool].document_root, m->file->path, STR_ARG(m->file->type),
                (unsigned long long)m->file->size);
        file_release(m->file);
        break;
    case VERDICT_REDIRECT:
        fprintf(s->out, "answer: 301, redirect to %.*s/ because it is a folder\n",
                STR_ARG(m->script_name));
        break;
    case VERDICT_PHP: say_script(s, false); break;
    case VERDICT_FASTCGI: say_script(s, true); break;
    case VERDICT_ADMIN:
        fputs("answer: a page about the server itself (docs/status.md)\n", s->out);
        break;
    }
}

static void say_limits(const struct stage *s, const struct config_route *rule)
{
    if (!rule)
        return;
    if (rule->fallback)
        fprintf(s->out, "after too many crashes on this route: PHP by FastCGI\n");
    if (rule->max_body_size)
        fprintf(s->out, "limits: max_body_size %llu bytes\n",
                (unsigned long long)rule->max_body_size);
    if (rule->request_timeout_ms)
        fprintf(s->out, "limits: request_timeout %llu ms\n",
                (unsigned long long)rule->request_timeout_ms);
}

int gateway_explain(const struct config *c, const char *const *document_roots, const char *url,
                    FILE *out)
{
    struct stage *s = mem_zalloc(sizeof(*s));
    char *head = NULL;

    s->out = out;
    int r = set_up(s, c, document_roots);
    if (r == 0) {
        head = make_head(s, str_from(url));
        r = parse(s, head, url);
    }
    if (r == 0) {
        struct route route = route_find(&s->exchange);
        fprintf(out, "GET %.*s\n", STR_ARG(s->thread.request.target));
        if (route.status != 400 && !str_eq(s->thread.request.path, str_from(s->thread.path)))
            fprintf(out, "path:   %s\n", s->thread.path);
        say_rule(s, route.rule);
        if (!is_decided_without_files(route.rule))
            say_pool(s);
        say_answer(s, &route);
        say_limits(s, route.rule);
    }
    clean_up(s);
    mem_free(head);
    return r == 0 ? 0 : 1;
}
