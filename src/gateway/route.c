/*
 * Where a request goes, from its parsed head in the thread's scratch space: a status, a file, a redirect
 * or a pool. The rules without [[route]]: existing file -> static; existing *.php -> PHP; missing *.php ->
 * 404; anything else -> the front controller when there is one, else 404.
 */
#include "gateway/gateway_int.h"

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

struct route route_find(struct exchange *x)
{
    struct gateway_thread *t = x->conn->thread;
    const struct http_request *r = &t->request;
    struct route route;

    if (needs_no_path(r, &route))
        return route;
    int n = http_normalize_path(r->path, t->path);
    if (n < 0)
        return answer(400, STR_NONE);
    x->pool = 0;
    struct backend *b = t->active[x->pool];
    /* No generation is up: every request waits for one, files too, since they are its files. */
    if (!b)
        return (struct route){ .verdict = VERDICT_PHP };
    return by_files(t, b, (struct str){ t->path, (size_t)n });
}
