/*
 * $_SERVER and getenv(), with the names and values that nginx's fastcgi_params and PHP-FPM give.
 * The list is made once a request, and only when a script asks for it (auto_globals_jit).
 *
 * Values pass through sapi_module.input_filter as in FPM, so that ext/filter's INPUT_SERVER works.
 */
#include "php/engine/engine_int.h"

#include <stdlib.h>

#include "base/mem.h"

static struct {
    struct text_pair *v;
    size_t n, max;
    char *names; /* "HTTP_..." */
    size_t names_used, names_max;
    uint64_t serial; /* of the request it was made for */
} vars;

static void add(struct str name, struct str value)
{
    CHECK(vars.n < vars.max);
    vars.v[vars.n++] = (struct text_pair){ name, value.p ? value : STR("") };
}

static struct str number(char *into, size_t size, uint64_t value)
{
    int n = snprintf(into, size, "%llu", (unsigned long long)value);

    return (struct str){ into, (size_t)n };
}

/* The user name of "Authorization: Basic ...", as PHP decoded it. */
static struct str basic_user(void)
{
    return str_from(SG(request_info).auth_user);
}

/* In worker mode also what FrankenPHP always has and nginx with PHP-FPM has not. */
static void add_of_frankenphp(const struct channel_request *r)
{
    static char translated[8192];
    struct str root = r->document_root;

    add(STR("REMOTE_HOST"), r->remote_addr);
    add(STR("REMOTE_IDENT"), STR(""));
    add(STR("AUTH_TYPE"), STR(""));
    if (root.n && root.p[root.n - 1] == '/')
        root.n--;
    if (r->path_info.n == 0 || root.n + r->path_info.n >= sizeof(translated))
        return;
    int n =
        snprintf(translated, sizeof(translated), "%.*s%.*s", STR_ARG(root), STR_ARG(r->path_info));
    add(STR("PATH_TRANSLATED"), (struct str){ translated, (size_t)n });
}

static void add_request(const struct channel_request *r)
{
    static char length[24], remote_port[8], server_port[8];

    add(STR("QUERY_STRING"), r->query);
    add(STR("REQUEST_METHOD"), r->method);
    add(STR("CONTENT_TYPE"), request.content_type);
    add(STR("CONTENT_LENGTH"), r->content_length >= 0
                                   ? number(length, sizeof(length), (uint64_t)r->content_length)
                                   : STR(""));
    add(STR("SCRIPT_FILENAME"), r->script_filename);
    add(STR("SCRIPT_NAME"), r->script_name);
    if (r->path_info.n)
        add(STR("PATH_INFO"), r->path_info);
    add(STR("REQUEST_URI"), r->target);
    add(STR("DOCUMENT_URI"), r->script_name); /* as after nginx's try_files */
    add(STR("DOCUMENT_ROOT"), r->document_root);
    add(STR("SERVER_PROTOCOL"), r->protocol);
    add(STR("REQUEST_SCHEME"), request.https ? STR("https") : STR("http"));
    if (request.https)
        add(STR("HTTPS"), STR("on"));
    add(STR("GATEWAY_INTERFACE"), STR("CGI/1.1"));
    add(STR("SERVER_SOFTWARE"), str_from(engine_software));
    add(STR("REMOTE_ADDR"), r->remote_addr);
    add(STR("REMOTE_PORT"), number(remote_port, sizeof(remote_port), r->remote_port));
    if (basic_user().n)
        add(STR("REMOTE_USER"), basic_user());
    add(STR("SERVER_ADDR"), r->server_addr);
    add(STR("SERVER_PORT"), number(server_port, sizeof(server_port), r->server_port));
    add(STR("SERVER_NAME"), r->server_name);
    add(STR("REDIRECT_STATUS"), STR("200"));
    add(STR("FCGI_ROLE"), STR("RESPONDER"));
    if (loop_is_on() && !seed_is_on())
        add_of_frankenphp(r);
    if (loop_boots()) /* as under FrankenPHP: the script's own $_SERVER has it, a request's has not
                       */
        add(STR("FRANKENPHP_WORKER"), STR("1"));
}

/* NUL-terminated, in vars.names. */
static struct str header_variable(struct str name)
{
    char *p = vars.names + vars.names_used;

    CHECK(vars.names_max - vars.names_used >= name.n + STR_HEADER_VARIABLE_MORE + 1);
    struct str variable = str_header_variable(name, p);
    p[variable.n] = '\0';
    vars.names_used += variable.n + 1;
    return variable;
}

static bool is_variable(struct str header, struct str variable)
{
    if (header.n + 5 != variable.n)
        return false;
    for (size_t i = 0; i < header.n; i++) {
        char c = header.p[i] == '-' ? '_' : header.p[i];
        if (ascii_lower(c) != ascii_lower(variable.p[5 + i]))
            return false;
    }
    return true;
}

static bool is_listed(size_t first, struct str name)
{
    for (size_t i = first; i < vars.n; i++)
        if (str_eq(vars.v[i].name, name))
            return true;
    return false;
}

/* Of a header that may come again after its first time: one value, joined as nginx does. */
static struct str all_values(uint32_t first, struct str name)
{
    struct str all = request.headers[first].value;

    if (str_eq(name, STR("HTTP_COOKIE")))
        return request.cookie;
    for (uint32_t i = first + 1; i < request.n_headers; i++)
        if (is_variable(request.headers[i].name, name))
            all = request_join(all, STR(", "), request.headers[i].value);
    return all;
}

static void add_headers(void)
{
    size_t first = vars.n;

    if (request.view.host.n)
        add(STR("HTTP_HOST"), request.view.host);
    if (sendfile_is_on()) /* what a front server says that can do it; not the client */
        add(STR("HTTP_X_SENDFILE_TYPE"), STR("X-Sendfile"));
    for (uint32_t i = 0; i < request.n_headers; i++) {
        const struct text_pair *h = &request.headers[i];
        /* "Proxy" would become HTTP_PROXY, which HTTP clients obey (httpoxy). */
        if (str_eq_nocase(h->name, STR("Host")) || str_eq_nocase(h->name, STR("Proxy")) ||
            (sendfile_is_on() && str_eq_nocase(h->name, STR("X-Sendfile-Type"))))
            continue;
        struct str name = header_variable(h->name);
        if (!is_listed(first, name))
            add(name, all_values(i, name));
    }
}

static bool reserve(void)
{
    enum { FIXED = 40 };
    size_t n = request.n_headers + FIXED, bytes = 0;

    for (uint32_t i = 0; i < request.n_headers; i++)
        bytes += request.headers[i].name.n + STR_HEADER_VARIABLE_MORE + 1;
    if (n > vars.max) {
        struct text_pair *p = mem_try_realloc(vars.v, n * sizeof(*p));
        if (!p)
            return false;
        vars.v = p;
        vars.max = n;
    }
    if (bytes > vars.names_max) {
        char *p = mem_try_realloc(vars.names, bytes * 2);
        if (!p)
            return false;
        vars.names = p;
        vars.names_max = bytes * 2;
    }
    return true;
}

static void make_list(void)
{
    if (!request.active || vars.serial == request.serial)
        return;
    vars.n = vars.names_used = 0;
    vars.serial = request.serial;
    if (!reserve()) {
        log_error("request %.*s: out of memory for $_SERVER", STR_ARG(request.view.request_id));
        return;
    }
    add_request(&request.view);
    add_headers();
}

static void put(zval *array, int filter, struct str name, struct str value)
{
    char *p = (char *)value.p;
    size_t n = value.n;

    if (sapi_module.input_filter(filter, name.p, &p, n, &n))
        php_register_variable_safe(name.p, p, n, array);
}

void variables_register(zval *array)
{
    php_import_environment_variables(array);
    if (request.active)
        put(array, PARSE_SERVER, STR("PHP_SELF"), request.php_self);
}

char *variables_getenv(const char *name, size_t name_len)
{
    if (!request.active)
        return NULL; /* the caller looks into the environment next */
    char *set = apache_variable((struct str){ name, name_len });
    if (set)
        return set;
    make_list();
    for (size_t i = 0; i < vars.n; i++)
        if (str_eq(vars.v[i].name, (struct str){ name, name_len }))
            return (char *)vars.v[i].value.p;
    return NULL;
}

static void (*import_process_environment)(zval *array);

/* For $_SERVER and $_ENV. */
static void import_environment(zval *array)
{
    int filter = Z_TYPE(PG(http_globals)[TRACK_VARS_ENV]) == IS_ARRAY &&
                         Z_ARR_P(array) == Z_ARR(PG(http_globals)[TRACK_VARS_ENV])
                     ? PARSE_ENV
                     : PARSE_SERVER;

    import_process_environment(array);
    make_list();
    for (size_t i = 0; request.active && i < vars.n; i++)
        put(array, filter, vars.v[i].name, vars.v[i].value);
}

/* For getenv() without a name: unfiltered. */
static void load_environment(zval *array)
{
    import_process_environment(array);
    make_list();
    for (size_t i = 0; request.active && i < vars.n; i++)
        php_register_variable_safe(vars.v[i].name.p, vars.v[i].value.p, vars.v[i].value.n, array);
}

void variables_install(void)
{
    import_process_environment = php_import_environment_variables;
    php_import_environment_variables = import_environment;
    php_load_environment_variables = load_environment;
}
