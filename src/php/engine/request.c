/*
 * The request of this worker process: taken from the channel into the worker's own memory, ended
 * towards the gateway, finished. See engine_int.h for what is copied and why.
 */
#include "php/engine/engine_int.h"

#include <errno.h>

#include "base/clock.h"
#include "base/mem.h"

struct request request OF_REQUEST = { .body = { .fd = -1 } };

/* A NUL-terminated copy. `texts` was sized by reserve_texts, so that it cannot run out or move. */
static struct str keep(struct str s)
{
    char *p = request.texts + request.texts_used;

    CHECKF(request.texts_max - request.texts_used > s.n, "%zu bytes of %zu used, %zu asked for",
           request.texts_used, request.texts_max, s.n);
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    request.texts_used += s.n + 1;
    return (struct str){ p, s.n };
}

static int reserve_texts(size_t bytes, uint32_t headers)
{
    if (bytes > request.texts_max) {
        char *p = mem_try_realloc(request.texts, bytes);
        if (!p)
            return -ENOMEM;
        request.texts = p;
        request.texts_max = bytes;
    }
    if (headers > request.headers_max) {
        struct text_pair *p = mem_try_realloc(request.headers, headers * sizeof(*p));
        if (!p)
            return -ENOMEM;
        request.headers = p;
        request.headers_max = headers;
    }
    return 0;
}

/* Copies texts and headers. The slot's content is the gateway's: every length came checked from the
 * channel and is read once. */
static int copy_texts(struct channel_worker *w, struct channel_request *r)
{
    struct str *const fields[] = { &r->method,      &r->target,          &r->protocol,
                                   &r->script_name, &r->script_filename, &r->path_info,
                                   &r->query,       &r->document_root,   &r->host,
                                   &r->server_name, &r->remote_addr,     &r->server_addr,
                                   &r->request_id };
    size_t bytes = r->script_name.n + r->path_info.n + 1;
    struct channel_pair pair;

    for (size_t i = 0; i < ARRAY_LENGTH(fields); i++)
        bytes += fields[i]->n + 1;
    for (uint32_t i = 0; i < r->n_headers; i++) {
        int rc = channel_request_header(w, i, &pair);
        if (rc < 0)
            return rc;
        bytes += pair.name.n + pair.value.n + 4; /* two NULs, ", " when joined with another */
    }
    int rc = reserve_texts(bytes * 2, r->n_headers); /* twice: joined values are copied again */
    if (rc < 0)
        return rc;

    request.texts_used = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(fields); i++)
        *fields[i] = keep(*fields[i]);
    r->route = STR_NONE; /* for those who look at the slot */
    request.n_headers = 0;
    for (uint32_t i = 0; i < r->n_headers; i++) {
        rc = channel_request_header(w, i, &pair);
        if (rc < 0)
            return rc;
        if (request.texts_max - request.texts_used < pair.name.n + pair.value.n + 2)
            return -EPROTO; /* it grew between the two looks */
        request.headers[request.n_headers].name = keep(pair.name);
        request.headers[request.n_headers++].value = keep(pair.value);
    }
    return 0;
}

struct str request_join(struct str a, struct str separator, struct str b)
{
    char *p = request.texts + request.texts_used;
    bool is_last = a.p && a.p + a.n + 1 == p; /* then it grows: many joins take no more room */
    size_t more = separator.n + b.n + (is_last ? 0 : a.n + 1);

    if (request.texts_max - request.texts_used < more)
        return a;
    if (is_last)
        p -= a.n + 1;
    else
        memcpy(p, a.p, a.n);
    memcpy(p + a.n, separator.p, separator.n);
    memcpy(p + a.n + separator.n, b.p, b.n);
    request.texts_used += more;
    a = (struct str){ p, a.n + separator.n + b.n };
    p[a.n] = '\0';
    return a;
}

/* The three headers that PHP wants before the script runs. HTTP/2 clients split cookies. */
static void find_special_headers(void)
{
    request.content_type = request.authorization = request.cookie = STR_NONE;
    for (uint32_t i = 0; i < request.n_headers; i++) {
        const struct text_pair *h = &request.headers[i];
        if (h->name.n == 6 && str_eq_nocase(h->name, STR("Cookie")))
            request.cookie = request.cookie.n ? request_join(request.cookie, STR("; "), h->value)
                                              : h->value;
        else if (h->name.n == 12 && str_eq_nocase(h->name, STR("Content-Type")))
            request.content_type = h->value;
        else if (h->name.n == 13 && str_eq_nocase(h->name, STR("Authorization")))
            request.authorization = h->value;
    }
}

/* The gateway's paths as they are called inside the chroot. */
static void strip_root(struct str *path)
{
    struct str rest = str_skip(*path, request.root.n);

    if (request.root.n > 1 && str_has_prefix(*path, request.root) &&
        (rest.n == 0 || rest.p[0] == '/'))
        *path = rest.n ? rest : STR("/");
}

int request_take(struct channel_worker *w)
{
    CHECK(!request.active);
    request.worker = w;
    request.serial++;
    request.head_sent = request.ended = request.script_missing = request.unbuffered = false;
    request.status = 0;
    int rc = copy_texts(w, &request.view);
    if (rc < 0)
        return rc;
    strip_root(&request.view.script_filename);
    strip_root(&request.view.document_root);
    find_special_headers();
    request.php_self = request.view.path_info.n
                           ? request_join(request.view.script_name, STR(""), request.view.path_info)
                           : request.view.script_name;
    request.https = request.view.flags & CHANNEL_HTTPS;
    body_init(&request.body, &request.view, request.view.content_length);
    request.active = true;
    blackbox_request_begins();
    deadline_request_start();
    return 0;
}

/* "https://host/path?query" -> host, as text of its own; the path stays. */
static struct str cut_host(struct str *url, bool *ret_https)
{
    static char text[256];
    ptrdiff_t at = str_find(*url, ':');

    *ret_https = str_has_prefix(*url, STR("https://"));
    if (url->n == 0 || url->p[0] == '/' || at < 0)
        return STR_NONE;
    struct str rest = str_skip(*url, (size_t)at + 3);
    ptrdiff_t slash = str_find(rest, '/');
    struct str host = slash < 0 ? rest : str_take(rest, (size_t)slash);
    *url = slash < 0 ? STR("/") : str_skip(rest, (size_t)slash);
    snprintf(text, sizeof(text), "%.*s", STR_ARG(host));
    return str_from(text);
}

/* Its port, as the gateway says it of a request for that host, and the host without it. */
static struct str cut_port(struct str host, bool https, uint16_t *ret_port)
{
    size_t n = host.n;
    uint64_t port;

    *ret_port = https ? 443 : 80;
    while (n && host.p[n - 1] >= '0' && host.p[n - 1] <= '9')
        n--;
    if (n == 0 || host.p[n - 1] != ':' || !str_to_u64(str_skip(host, n), UINT16_MAX, &port))
        return host;
    *ret_port = (uint16_t)port;
    return str_take(host, n - 1);
}

void request_pretend(const struct pretended *p)
{
    struct channel_request *r = &request.view;
    bool https;
    struct str url = p->url, host = cut_host(&url, &https), query = url;
    uint16_t port;
    static char server_name[256]; /* NUL-terminated, as all texts of a request */
    snprintf(server_name, sizeof(server_name), "%.*s", STR_ARG(cut_port(host, https, &port)));

    CHECK(!request.active);
    (void)str_cut(&query, '?');
    *r = (struct channel_request){
        .method = STR("GET"),
        .target = url,
        .protocol = STR("HTTP/1.1"),
        .script_name = str_from(p->script_name),
        .script_filename = str_from(p->script),
        .query = query.p ? query : STR(""),
        .path_info = STR(""),
        .document_root = str_from(p->document_root),
        .host = host.n ? host : STR(""),
        .server_name = str_from(server_name),
        .remote_addr = host.n ? STR("127.0.0.1") : STR(""),
        .server_addr = p->server_addr ? str_from(p->server_addr)
                       : host.n       ? STR("127.0.0.1")
                                      : STR(""),
        .server_port = p->server_port ? p->server_port : port,
        .request_id = str_from(p->request_id),
        .content_length = -1,
        .body_kind = CHANNEL_BODY_NONE,
        .received_ns = clock_realtime_ns(),
    };
    request.worker = NULL;
    request.serial++;
    request.n_headers = 0;
    request.content_type = request.authorization = request.cookie = STR_NONE;
    request.head_sent = request.ended = request.script_missing = false;
    request.https = https;
    request.php_self = r->script_name;
    body_init(&request.body, r, -1);
    request.active = true;
}

void request_end(void)
{
    DCHECK(request.active);
    if (request.ended)
        return;
    request.ended = true;
    if (!request.worker)
        return;
    int rc = 0;
    if (!request.head_sent) { /* the engine failed before it could say anything */
        request.head_sent = true;
        request.status = 500;
        rc = channel_respond(request.worker, CHANNEL_HEAD, 500, NULL, 0);
    }
    if (rc == 0)
        rc = channel_respond(request.worker, CHANNEL_END, 0, NULL, 0);
    (void)rc; /* nobody is left to tell */
}

void request_finish(void)
{
    CHECK(request.active);
    deadline_request_end();
    request_end();
    body_fini(&request.body);
    apache_request_ends();
    request.active = false;
    blackbox_request_ends(request.status);
}

const struct text_pair *request_header(struct str name)
{
    for (uint32_t i = 0; i < request.n_headers; i++)
        if (str_eq_nocase(request.headers[i].name, name))
            return &request.headers[i];
    return NULL;
}
