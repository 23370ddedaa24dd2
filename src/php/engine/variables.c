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
} vars OF_REQUEST;

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

/* --- the variables that are no headers -------------------------------------------------------- */

/* Each says its value, or false: this request does not have it. */

static bool content_length(struct str *ret)
{
    static char text[24] OF_REQUEST;
    int64_t n = request.view.content_length;

    *ret = n >= 0 ? number(text, sizeof(text), (uint64_t)n) : STR("");
    return true;
}

static bool path_info(struct str *ret)
{
    *ret = request.view.path_info;
    return ret->n > 0;
}

static bool scheme(struct str *ret)
{
    *ret = request.https ? STR("https") : STR("http");
    return true;
}

static bool https(struct str *ret)
{
    *ret = STR("on");
    return request.https;
}

static bool gateway_interface(struct str *ret)
{
    *ret = STR("CGI/1.1");
    return true;
}

static bool software(struct str *ret)
{
    *ret = str_from(engine_software);
    return true;
}

static bool remote_port(struct str *ret)
{
    static char text[8] OF_REQUEST;

    *ret = number(text, sizeof(text), request.view.remote_port);
    return true;
}

static bool remote_user(struct str *ret)
{
    *ret = basic_user();
    return ret->n > 0;
}

static bool server_port(struct str *ret)
{
    static char text[8] OF_REQUEST;

    *ret = number(text, sizeof(text), request.view.server_port);
    return true;
}

static bool redirect_status(struct str *ret)
{
    *ret = STR("200");
    return true;
}

static bool role(struct str *ret)
{
    *ret = STR("RESPONDER");
    return true;
}

/* In worker mode also what FrankenPHP always has and nginx with PHP-FPM has not. */

static bool is_loop(void)
{
    return loop_is_on() && !seed_is_on();
}

static bool remote_host(struct str *ret)
{
    *ret = request.view.remote_addr;
    return is_loop();
}

static bool empty_in_loop(struct str *ret)
{
    *ret = STR("");
    return is_loop();
}

static bool path_translated(struct str *ret)
{
    static char text[8192];
    struct str root = request.view.document_root, info = request.view.path_info;

    if (root.n && root.p[root.n - 1] == '/')
        root.n--;
    if (!is_loop() || info.n == 0 || root.n + info.n >= sizeof(text))
        return false;
    int n = snprintf(text, sizeof(text), "%.*s%.*s", STR_ARG(root), STR_ARG(info));
    *ret = (struct str){ text, (size_t)n };
    return true;
}

/* As under FrankenPHP: the script's own $_SERVER has it, a request's has not. */
static bool frankenphp_worker(struct str *ret)
{
    *ret = STR("1");
    return loop_boots() && !seed_is_on();
}

#define OF_VIEW(field) .at = offsetof(struct request, view.field)
static const struct variable {
    struct str name;
    bool (*get)(struct str *ret); /* NULL: the text at `at` in the request */
    size_t at;
} variables[] = {
    { STR("QUERY_STRING"), OF_VIEW(query) },
    { STR("REQUEST_METHOD"), OF_VIEW(method) },
    { STR("CONTENT_TYPE"), .at = offsetof(struct request, content_type) },
    { STR("CONTENT_LENGTH"), .get = content_length },
    { STR("SCRIPT_FILENAME"), OF_VIEW(script_filename) },
    { STR("SCRIPT_NAME"), OF_VIEW(script_name) },
    { STR("PATH_INFO"), .get = path_info },
    { STR("REQUEST_URI"), OF_VIEW(target) },
    { STR("DOCUMENT_URI"), OF_VIEW(script_name) }, /* as after nginx's try_files */
    { STR("DOCUMENT_ROOT"), OF_VIEW(document_root) },
    { STR("SERVER_PROTOCOL"), OF_VIEW(protocol) },
    { STR("REQUEST_SCHEME"), .get = scheme },
    { STR("HTTPS"), .get = https },
    { STR("GATEWAY_INTERFACE"), .get = gateway_interface },
    { STR("SERVER_SOFTWARE"), .get = software },
    { STR("REMOTE_ADDR"), OF_VIEW(remote_addr) },
    { STR("REMOTE_PORT"), .get = remote_port },
    { STR("REMOTE_USER"), .get = remote_user },
    { STR("SERVER_ADDR"), OF_VIEW(server_addr) },
    { STR("SERVER_PORT"), .get = server_port },
    { STR("SERVER_NAME"), OF_VIEW(server_name) },
    { STR("REDIRECT_STATUS"), .get = redirect_status },
    { STR("FCGI_ROLE"), .get = role },
    { STR("REMOTE_HOST"), .get = remote_host },
    { STR("REMOTE_IDENT"), .get = empty_in_loop },
    { STR("AUTH_TYPE"), .get = empty_in_loop },
    { STR("PATH_TRANSLATED"), .get = path_translated },
    { STR("FRANKENPHP_WORKER"), .get = frankenphp_worker },
};

static bool get(const struct variable *v, struct str *ret)
{
    if (v->get)
        return v->get(ret);
    memcpy(ret, (const char *)&request + v->at, sizeof(*ret));
    return true;
}

static void add_request(void)
{
    struct str value;

    for (size_t i = 0; i < ARRAY_LENGTH(variables); i++)
        if (get(&variables[i], &value))
            add(variables[i].name, value);
}

/* --- headers ---------------------------------------------------------------------------------- */

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

/* "Proxy" would become HTTP_PROXY, which HTTP clients obey (httpoxy). */
static bool is_left_out(struct str header)
{
    return str_eq_nocase(header, STR("Host")) || str_eq_nocase(header, STR("Proxy")) ||
           (sendfile_is_on() && str_eq_nocase(header, STR("X-Sendfile-Type")));
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
        if (is_left_out(h->name))
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
    add_request();
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

static bool look_at_header(struct str name, struct str *ret)
{
    if (str_eq(name, STR("HTTP_HOST"))) {
        *ret = request.view.host;
        return ret->n > 0;
    }
    if (str_eq(name, STR("HTTP_X_SENDFILE_TYPE")) && sendfile_is_on()) {
        *ret = STR("X-Sendfile");
        return true;
    }
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] >= 'a' && name.p[i] <= 'z')
            return false;
    for (uint32_t i = 0; i < request.n_headers; i++) {
        const struct text_pair *h = &request.headers[i];
        if (!is_variable(h->name, name) || is_left_out(h->name))
            continue;
        *ret = all_values(i, name);
        return true;
    }
    return false;
}

bool variables_look(struct str name, struct str *ret)
{
    if (!request.active)
        return false;
    if (str_has_prefix(name, STR("HTTP_")))
        return look_at_header(name, ret);
    if (str_eq(name, STR("PHP_SELF"))) {
        *ret = request.php_self;
        return true;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(variables); i++)
        if (str_eq(variables[i].name, name)) {
            if (!get(&variables[i], ret))
                return false;
            if (!ret->p)
                *ret = STR("");
            return true;
        }
    return false;
}

/* What PHP itself adds to $_SERVER. */
static const struct str php_variables[] = { STR("PHP_SELF"),     STR("PHP_AUTH_USER"),
                                            STR("PHP_AUTH_PW"),  STR("PHP_AUTH_DIGEST"),
                                            STR("REQUEST_TIME"), STR("REQUEST_TIME_FLOAT"),
                                            STR("argv"),         STR("argc") };

bool variables_may_differ(struct str name)
{
    if (str_has_prefix(name, STR("HTTP_")))
        return true;
    for (size_t i = 0; i < ARRAY_LENGTH(php_variables); i++)
        if (str_eq(php_variables[i], name))
            return true;
    for (size_t i = 0; i < ARRAY_LENGTH(variables); i++)
        if (str_eq(variables[i].name, name))
            return true;
    return false;
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
