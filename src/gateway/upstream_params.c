/*
 * The parameters of a FastCGI request: what nginx's fastcgi_params says, plus PATH_INFO, so that
 * PHP-FPM and the engine (php/engine/variables.c) show scripts the same $_SERVER.
 */
#include <inttypes.h>
#include <stdio.h>

#include "gateway/upstream.h"
#include "http/fastcgi.h"
#include "version.h"

/* All values of that name from `at` on, as RFC 9110 5.3 allows and nginx does. */
static int join_values(struct buf *joined, const struct channel_pair *headers, uint32_t n,
                       uint32_t at)
{
    struct str key = headers[at].name;
    const char *between = str_eq_nocase(key, STR("Cookie")) ? "; " : ", ";
    int r = 0;

    for (uint32_t i = at; i < n && r == 0; i++) {
        if (!str_eq_nocase(headers[i].name, key))
            continue;
        if (i > at)
            r = buf_append(joined, between, 2);
        if (r == 0)
            r = buf_append(joined, headers[i].value.p, headers[i].value.n);
    }
    return r;
}

static bool is_among(const struct channel_pair *headers, uint32_t from, uint32_t to, struct str key)
{
    for (uint32_t i = from; i < to; i++)
        if (str_eq_nocase(headers[i].name, key))
            return true;
    return false;
}

/* Fields of one name become one parameter, where the first of them stands. */
static int put_header(struct buf *params, const struct channel_pair *headers, uint32_t n,
                      uint32_t at)
{
    char small[256];
    struct str key = headers[at].name, value = headers[at].value;
    struct buf joined, large;
    int r = 0;

    if (is_among(headers, 0, at, key))
        return 0; /* told already */
    buf_init(&joined, 0);
    buf_init(&large, 0);
    bool fits = key.n + STR_HEADER_VARIABLE_MORE <= sizeof(small);
    if (!fits)
        r = buf_reserve(&large, key.n + STR_HEADER_VARIABLE_MORE);
    if (r == 0 && is_among(headers, at + 1, n, key)) {
        r = join_values(&joined, headers, n, at);
        value = buf_view(&joined);
    }
    if (r == 0)
        r = fastcgi_put_param(params, str_header_variable(key, fits ? small : buf_space(&large)),
                              value);
    buf_fini(&large);
    buf_fini(&joined);
    return r;
}

int upstream_params(struct buf *params, const struct channel_request *r,
                    const struct channel_pair *headers, bool sends_files)
{
    char length[24] = "", remote_port[8], server_port[8];
    bool https = r->flags & CHANNEL_HTTPS;
    struct str content_type = STR_NONE;
    int e = 0;

    if (r->content_length >= 0)
        snprintf(length, sizeof(length), "%" PRId64, r->content_length);
    snprintf(remote_port, sizeof(remote_port), "%u", r->remote_port);
    snprintf(server_port, sizeof(server_port), "%u", r->server_port);
    for (uint32_t i = 0; i < r->n_headers; i++)
        if (str_eq_nocase(headers[i].name, STR("Content-Type")))
            content_type = headers[i].value;
    const struct channel_pair fixed[] = {
        { STR("QUERY_STRING"), r->query },
        { STR("REQUEST_METHOD"), r->method },
        { STR("CONTENT_TYPE"), content_type },
        { STR("CONTENT_LENGTH"), str_from(length) },
        { STR("SCRIPT_FILENAME"), r->script_filename },
        { STR("SCRIPT_NAME"), r->script_name },
        { STR("PATH_INFO"), r->path_info },
        { STR("REQUEST_URI"), r->target },
        { STR("DOCUMENT_URI"), r->script_name },
        { STR("DOCUMENT_ROOT"), r->document_root },
        { STR("SERVER_PROTOCOL"), r->protocol },
        { STR("REQUEST_SCHEME"), https ? STR("https") : STR("http") },
        { STR("GATEWAY_INTERFACE"), STR("CGI/1.1") },
        { STR("SERVER_SOFTWARE"), STR("sapid/" SAPID_VERSION " (nginx-compatible)") },
        { STR("REMOTE_ADDR"), r->remote_addr },
        { STR("REMOTE_PORT"), str_from(remote_port) },
        { STR("SERVER_ADDR"), r->server_addr },
        { STR("SERVER_PORT"), str_from(server_port) },
        { STR("SERVER_NAME"), r->server_name },
        { STR("REDIRECT_STATUS"), STR("200") },
        { STR("HTTP_HOST"), r->host },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(fixed) && e == 0; i++) {
        if (fixed[i].value.n == 0 &&
            (str_eq(fixed[i].name, STR("PATH_INFO")) || str_eq(fixed[i].name, STR("HTTP_HOST"))))
            continue;
        e = fastcgi_put_param(params, fixed[i].name, fixed[i].value);
    }
    if (https && e == 0)
        e = fastcgi_put_param(params, STR("HTTPS"), STR("on"));
    if (sends_files && e == 0)
        e = fastcgi_put_param(params, STR("HTTP_X_SENDFILE_TYPE"), STR("X-Sendfile"));
    for (uint32_t i = 0; i < r->n_headers && e == 0; i++)
        /* "Proxy" would become HTTP_PROXY, which HTTP clients obey (httpoxy). */
        if (!str_eq_nocase(headers[i].name, STR("Host")) &&
            !str_eq_nocase(headers[i].name, STR("Proxy")) &&
            !(sends_files && str_eq_nocase(headers[i].name, STR("X-Sendfile-Type"))))
            e = put_header(params, headers, r->n_headers, i);
    return e;
}
