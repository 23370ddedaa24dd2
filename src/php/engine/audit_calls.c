/*
 * What the boot asks of internal functions: every call of one passes the hook here, by whatever way
 * it is made. A table says which functions are of interest and why; any function that gets one of
 * the request's arrays is taken to read all of it, but those that are known to only pass it on.
 */
#include "php/engine/audit_int.h"

#include <stdlib.h>

struct call {
    zend_execute_data *frame;
    struct str name;   /* "fopen", "PDO::__construct" */
    const char *shown; /* the table's own */
    uint32_t n_args;
};

static zval *argument(const struct call *c, uint32_t i)
{
    if (i >= c->n_args)
        return NULL;
    zval *v = ZEND_CALL_ARG(c->frame, i + 1);
    ZVAL_DEREF(v);
    return v;
}

static struct str string_argument(const struct call *c, uint32_t i)
{
    const zval *v = argument(c, i);

    return v && Z_TYPE_P(v) == IS_STRING ? (struct str){ Z_STRVAL_P(v), Z_STRLEN_P(v) } : STR_NONE;
}

/* For people: what was given. */
static void note_with_value(enum audit_kind kind, struct str name, const zval *value)
{
    smart_str text = { 0 };

    if (!value || Z_TYPE_P(value) == IS_UNDEF) {
        audit_note(kind, name, STR_NONE);
        return;
    }
    if (Z_TYPE_P(value) == IS_OBJECT)
        smart_str_append_printf(&text, "object %s", ZSTR_VAL(Z_OBJCE_P(value)->name));
    else if (Z_TYPE_P(value) == IS_RESOURCE)
        smart_str_appends(&text, "resource");
    else
        php_json_encode(&text, (zval *)(uintptr_t)value,
                        PHP_JSON_UNESCAPED_SLASHES | PHP_JSON_UNESCAPED_UNICODE |
                            PHP_JSON_PARTIAL_OUTPUT_ON_ERROR);
    smart_str_0(&text);
    if (text.s)
        audit_note(kind, name, (struct str){ ZSTR_VAL(text.s), ZSTR_LEN(text.s) });
    smart_str_free(&text);
}

/* --- what becomes of a call of a function in the table ---------------------------------------- */

static void on_freeze(const struct call *c, enum audit_kind kind)
{
    (void)c;
    (void)kind;
    audit_done();
}

/* The name of the function, and what it was given first where that says more. */
static void on_named(const struct call *c, enum audit_kind kind)
{
    audit_note(kind, str_from(c->shown), string_argument(c, 0));
}

static void on_bare(const struct call *c, enum audit_kind kind)
{
    audit_note(kind, str_from(c->shown), STR_NONE);
}

static void on_callable(const struct call *c, enum audit_kind kind)
{
    note_with_value(kind, str_from(c->shown), argument(c, 0));
}

/* name = value */
static void on_pair(const struct call *c, enum audit_kind kind)
{
    struct str name = string_argument(c, 0);

    note_with_value(kind, name.p ? name : str_from(c->shown), argument(c, 1));
}

/* putenv("NAME=value"): the value may be a secret. */
static void on_putenv(const struct call *c, enum audit_kind kind)
{
    struct str setting = string_argument(c, 0);

    audit_note(kind, str_from(c->shown), str_cut(&setting, '='));
}

/* Only with an argument does it change anything. */
static void on_change(const struct call *c, enum audit_kind kind)
{
    if (c->n_args)
        note_with_value(kind, str_from(c->shown), argument(c, 0));
}

/* Without one it tells of this moment. */
static void on_now(const struct call *c, enum audit_kind kind)
{
    uint32_t at = str_eq(c->name, STR("date")) || str_eq(c->name, STR("gmdate")) ||
                          str_eq(c->name, STR("idate"))
                      ? 1
                      : 0;

    if (c->n_args <= at)
        audit_note(kind, str_from(c->shown), STR_NONE);
}

/* "now", "+1 day": not a date in full. */
static void on_date(const struct call *c, enum audit_kind kind)
{
    struct str text = string_argument(c, 0);
    bool is_full = text.n >= 10 && text.p[0] >= '0' && text.p[0] <= '9';

    if (!is_full && !(text.n && text.p[0] == '@'))
        audit_note(kind, str_from(c->shown), text);
}

/* By its name. Reports are shown around. */
static bool is_secret(struct str name)
{
    static const char *const words[] = { "pass", "secret", "key", "token", "salt", "dsn", "auth" };

    for (size_t i = 0; i < name.n; i++)
        for (size_t w = 0; w < ARRAY_LENGTH(words); w++)
            if (str_eq_nocase(str_take(str_skip(name, i), strlen(words[w])), str_from(words[w])))
                return true;
    return false;
}

/* define("X", 1) is the same in every boot. */
static void on_define(const struct call *c, enum audit_kind kind)
{
    const zend_execute_data *caller = c->frame->prev_execute_data;
    struct str name = string_argument(c, 0);

    if (caller && caller->func && ZEND_USER_CODE(caller->func->type)) {
        const zend_op *send = caller->opline - 1;
        if (c->n_args == 2 && send >= caller->func->op_array.opcodes &&
            (send->opcode == ZEND_SEND_VAL || send->opcode == ZEND_SEND_VAL_EX) &&
            send->op1_type == IS_CONST)
            return;
    }
    if (is_secret(name))
        audit_note(kind, name, STR("(not shown)"));
    else
        note_with_value(kind, name, argument(c, 1));
}

static void on_getenv(const struct call *c, enum audit_kind kind)
{
    const zval *local = argument(c, 1), *name = argument(c, 0);

    (void)kind;
    if (local && Z_TYPE_P(local) == IS_TRUE && str_eq(c->name, STR("getenv")))
        return;
    if (!name || Z_TYPE_P(name) == IS_NULL)
        audit_read_all(AUDIT_SERVER);
    else if (Z_TYPE_P(name) == IS_STRING)
        audit_read_key(AUDIT_SERVER, Z_STR_P(name));
}

static void on_headers_read(const struct call *c, enum audit_kind kind)
{
    (void)c;
    (void)kind;
    audit_read_all(AUDIT_HEADERS);
}

static void on_body_read(const struct call *c, enum audit_kind kind)
{
    (void)c;
    (void)kind;
    audit_read_all(AUDIT_INPUT);
}

/* INPUT_POST, INPUT_GET, ... of ext/filter */
static enum audit_global input_global(const zval *v)
{
    static const enum audit_global globals[] = { AUDIT_POST,    AUDIT_GET, AUDIT_COOKIE,
                                                 AUDIT_GLOBALS, AUDIT_ENV, AUDIT_SERVER };

    if (!v || Z_TYPE_P(v) != IS_LONG || Z_LVAL_P(v) < 0 ||
        Z_LVAL_P(v) >= (zend_long)ARRAY_LENGTH(globals))
        return AUDIT_GLOBALS;
    return globals[Z_LVAL_P(v)];
}

static void on_filter(const struct call *c, enum audit_kind kind)
{
    enum audit_global g = input_global(argument(c, 0));
    const zval *name = argument(c, 1);

    (void)kind;
    if (g != AUDIT_GLOBALS && name && Z_TYPE_P(name) == IS_STRING)
        audit_read_key(g, Z_STR_P(name));
}

static void on_filter_array(const struct call *c, enum audit_kind kind)
{
    enum audit_global g = input_global(argument(c, 0));
    const zval *definition = argument(c, 1);
    zend_string *key;

    (void)kind;
    if (g == AUDIT_GLOBALS)
        return;
    if (!definition || Z_TYPE_P(definition) != IS_ARRAY) {
        audit_read_all(g);
        return;
    }
    ZEND_HASH_FOREACH_STR_KEY(Z_ARRVAL_P(definition), key)
    {
        if (key)
            audit_read_key(g, key);
    }
    ZEND_HASH_FOREACH_END();
}

static void read_server(const char *name)
{
    zend_string *key = zend_string_init(name, strlen(name), 0);

    audit_read_key(AUDIT_SERVER, key);
    zend_string_release(key);
}

/* It shows all that the request says, unless it is asked for other parts. */
static void on_phpinfo(const struct call *c, enum audit_kind kind)
{
    const zval *parts = argument(c, 0);

    (void)kind;
    if (!parts || Z_TYPE_P(parts) != IS_LONG || (Z_LVAL_P(parts) & PHP_INFO_VARIABLES))
        audit_read_all(AUDIT_SERVER);
}

static void on_browser(const struct call *c, enum audit_kind kind)
{
    const zval *agent = argument(c, 0);

    (void)kind;
    if (!agent || Z_TYPE_P(agent) == IS_NULL)
        read_server("HTTP_USER_AGENT");
}

static void on_buffer(const struct call *c, enum audit_kind kind)
{
    if (str_eq_nocase(string_argument(c, 0), STR("ob_gzhandler")))
        read_server("HTTP_ACCEPT_ENCODING");
    note_with_value(kind, str_from(c->shown), argument(c, 0));
}

static void on_session(const struct call *c, enum audit_kind kind)
{
    const char *name = session_cookie_name();
    zend_string *key = zend_string_init(name, strlen(name), 0);

    audit_read_key(AUDIT_COOKIE, key);
    zend_string_release(key);
    on_bare(c, kind);
}

/* array_key_exists($key, $_SERVER) */
static void on_key_exists(const struct call *c, enum audit_kind kind)
{
    const zval *key = argument(c, 0), *array = argument(c, 1);

    (void)kind;
    if (!key || !array || Z_TYPE_P(array) != IS_ARRAY)
        return;
    enum audit_global g = audit_global_of(Z_ARR_P(array));
    if (g == AUDIT_GLOBALS)
        return;
    zend_string *name = zval_get_string((zval *)(uintptr_t)key);
    audit_read_key(g, name);
    zend_string_release(name);
}

/* Its arguments are not looked into: they are passed on, or only their type is of interest. */
static void on_passed(const struct call *c, enum audit_kind kind)
{
    (void)c;
    (void)kind;
}

/* The first argument grows; what is added is passed on. */
static void on_pushed(const struct call *c, enum audit_kind kind)
{
    const zval *into = argument(c, 0);
    enum audit_global g = into && Z_TYPE_P(into) == IS_ARRAY ? audit_global_of(Z_ARR_P(into))
                                                             : AUDIT_GLOBALS;

    (void)kind;
    if (g != AUDIT_GLOBALS)
        audit_read_all(g);
}

static const struct known {
    const char *name; /* in lower case */
    enum audit_kind kind;
    void (*note)(const struct call *c, enum audit_kind kind);
} known[] = {
    { "frankenphp_handle_request", 0, on_freeze },
    { "sapid_handle_request", 0, on_freeze },
    { "snapshot_state", 0, on_freeze },
    { "sapid_snapshot_state", 0, on_freeze },

    { "getenv", 0, on_getenv },
    { "apache_getenv", 0, on_getenv },
    { "getallheaders", 0, on_headers_read },
    { "apache_request_headers", 0, on_headers_read },
    { "sapid_request_headers", 0, on_headers_read },
    { "frankenphp_request_headers", 0, on_headers_read },
    { "request_parse_body", 0, on_body_read },
    { "soapserver::handle", 0, on_body_read },
    { "filter_input", 0, on_filter },
    { "filter_has_var", 0, on_filter },
    { "filter_input_array", 0, on_filter_array },
    { "get_browser", 0, on_browser },
    { "phpinfo", 0, on_phpinfo },
    { "array_key_exists", 0, on_key_exists },
    { "key_exists", 0, on_key_exists },

    { "is_array", 0, on_passed },
    { "is_string", 0, on_passed },
    { "is_object", 0, on_passed },
    { "is_null", 0, on_passed },
    { "is_int", 0, on_passed },
    { "is_integer", 0, on_passed },
    { "is_long", 0, on_passed },
    { "is_bool", 0, on_passed },
    { "is_float", 0, on_passed },
    { "is_double", 0, on_passed },
    { "is_numeric", 0, on_passed },
    { "is_scalar", 0, on_passed },
    { "is_iterable", 0, on_passed },
    { "is_countable", 0, on_passed },
    { "is_callable", 0, on_passed },
    { "is_resource", 0, on_passed },
    { "gettype", 0, on_passed },
    { "get_debug_type", 0, on_passed },
    { "func_get_args", 0, on_passed },
    { "call_user_func", 0, on_passed },
    { "call_user_func_array", 0, on_passed },
    { "closure::call", 0, on_passed },
    { "closure::__invoke", 0, on_passed },
    { "reflectionclass::newinstance", 0, on_passed },
    { "reflectionclass::newinstanceargs", 0, on_passed },
    { "reflectionfunction::invoke", 0, on_passed },
    { "reflectionfunction::invokeargs", 0, on_passed },
    { "reflectionmethod::invoke", 0, on_passed },
    { "reflectionmethod::invokeargs", 0, on_passed },
    { "array_push", 0, on_pushed },
    { "array_unshift", 0, on_pushed },

    { "mysqli_connect", AUDIT_CONNECTED, on_named },
    { "mysqli_real_connect", AUDIT_CONNECTED, on_bare },
    { "mysqli::__construct", AUDIT_CONNECTED, on_named },
    { "mysqli::real_connect", AUDIT_CONNECTED, on_named },
    { "pdo::__construct", AUDIT_CONNECTED, on_named },
    { "pg_connect", AUDIT_CONNECTED, on_named },
    { "pg_pconnect", AUDIT_CONNECTED, on_named },
    { "sqlite3::__construct", AUDIT_CONNECTED, on_named },
    { "sqlite3::open", AUDIT_CONNECTED, on_named },
    { "redis::connect", AUDIT_CONNECTED, on_named },
    { "redis::pconnect", AUDIT_CONNECTED, on_named },
    { "redis::open", AUDIT_CONNECTED, on_named },
    { "rediscluster::__construct", AUDIT_CONNECTED, on_bare },
    { "memcached::addserver", AUDIT_CONNECTED, on_named },
    { "memcached::addservers", AUDIT_CONNECTED, on_bare },
    { "ldap_connect", AUDIT_CONNECTED, on_named },
    { "ftp_connect", AUDIT_CONNECTED, on_named },
    { "imap_open", AUDIT_CONNECTED, on_named },
    { "odbc_connect", AUDIT_CONNECTED, on_named },
    { "oci_connect", AUDIT_CONNECTED, on_named },
    { "sqlsrv_connect", AUDIT_CONNECTED, on_named },
    { "dba_open", AUDIT_CONNECTED, on_named },
    { "curl_init", AUDIT_CONNECTED, on_named },
    { "curl_multi_init", AUDIT_CONNECTED, on_bare },
    { "curl_exec", AUDIT_CONNECTED, on_bare },
    { "socket_create", AUDIT_CONNECTED, on_bare },
    { "socket_create_listen", AUDIT_CONNECTED, on_bare },
    { "socket_create_pair", AUDIT_CONNECTED, on_bare },
    { "stream_socket_pair", AUDIT_CONNECTED, on_bare },
    { "soapclient::__construct", AUDIT_CONNECTED, on_named },
    { "dns_get_record", AUDIT_CONNECTED, on_named },
    { "gethostbyname", AUDIT_CONNECTED, on_named },
    { "shm_attach", AUDIT_CONNECTED, on_bare },
    { "shmop_open", AUDIT_CONNECTED, on_bare },
    { "sem_get", AUDIT_CONNECTED, on_bare },
    { "msg_get_queue", AUDIT_CONNECTED, on_bare },

    { "pcntl_fork", AUDIT_PROCESS, on_bare },
    { "proc_open", AUDIT_PROCESS, on_named },
    { "popen", AUDIT_PROCESS, on_named },
    { "exec", AUDIT_PROCESS, on_named },
    { "shell_exec", AUDIT_PROCESS, on_named },
    { "system", AUDIT_PROCESS, on_named },
    { "passthru", AUDIT_PROCESS, on_named },
    { "mail", AUDIT_PROCESS, on_named },
    { "mb_send_mail", AUDIT_PROCESS, on_named },

    { "apcu_store", AUDIT_WRITTEN, on_named },
    { "apcu_add", AUDIT_WRITTEN, on_named },
    { "apcu_entry", AUDIT_WRITTEN, on_named },
    { "apcu_inc", AUDIT_WRITTEN, on_named },
    { "apcu_delete", AUDIT_WRITTEN, on_named },
    { "shm_put_var", AUDIT_WRITTEN, on_bare },

    { "define", AUDIT_CONSTANT, on_define },

    { "ini_set", AUDIT_SETTING, on_pair },
    { "ini_alter", AUDIT_SETTING, on_pair },
    { "ini_restore", AUDIT_SETTING, on_named },
    { "error_reporting", AUDIT_SETTING, on_change },
    { "set_time_limit", AUDIT_SETTING, on_change },
    { "set_include_path", AUDIT_SETTING, on_change },
    { "date_default_timezone_set", AUDIT_SETTING, on_change },
    { "mb_internal_encoding", AUDIT_SETTING, on_change },
    { "mb_http_output", AUDIT_SETTING, on_change },
    { "mb_language", AUDIT_SETTING, on_change },
    { "iconv_set_encoding", AUDIT_SETTING, on_pair },
    { "setlocale", AUDIT_SETTING, on_bare },
    { "locale_set_default", AUDIT_SETTING, on_change },
    { "ignore_user_abort", AUDIT_SETTING, on_change },
    { "libxml_use_internal_errors", AUDIT_SETTING, on_change },
    { "chdir", AUDIT_SETTING, on_change },
    { "umask", AUDIT_SETTING, on_change },
    { "session_name", AUDIT_SETTING, on_change },
    { "session_save_path", AUDIT_SETTING, on_change },
    { "session_set_cookie_params", AUDIT_SETTING, on_bare },
    { "putenv", AUDIT_ENVIRONMENT, on_putenv },
    { "apache_setenv", AUDIT_ENVIRONMENT, on_named },

    { "set_error_handler", AUDIT_HANDLER, on_callable },
    { "set_exception_handler", AUDIT_HANDLER, on_callable },
    { "register_shutdown_function", AUDIT_HANDLER, on_callable },
    { "spl_autoload_register", AUDIT_HANDLER, on_callable },
    { "session_set_save_handler", AUDIT_HANDLER, on_callable },
    { "register_tick_function", AUDIT_HANDLER, on_callable },
    { "stream_wrapper_register", AUDIT_HANDLER, on_named },
    { "stream_filter_register", AUDIT_HANDLER, on_named },
    { "pcntl_signal", AUDIT_HANDLER, on_bare },
    { "pcntl_alarm", AUDIT_HANDLER, on_bare },
    { "header_register_callback", AUDIT_HANDLER, on_callable },

    { "ob_start", AUDIT_BUFFER, on_buffer },
    { "output_add_rewrite_var", AUDIT_BUFFER, on_named },
    { "header", AUDIT_HEADER, on_named },
    { "header_remove", AUDIT_HEADER, on_named },
    { "setcookie", AUDIT_HEADER, on_named },
    { "setrawcookie", AUDIT_HEADER, on_named },
    { "http_response_code", AUDIT_HEADER, on_change },
    { "session_start", AUDIT_SESSION, on_session },
    { "session_id", AUDIT_SESSION, on_change },

    { "time", AUDIT_TIME, on_now },
    { "microtime", AUDIT_TIME, on_bare },
    { "hrtime", AUDIT_TIME, on_bare },
    { "gettimeofday", AUDIT_TIME, on_bare },
    { "date", AUDIT_TIME, on_now },
    { "gmdate", AUDIT_TIME, on_now },
    { "idate", AUDIT_TIME, on_now },
    { "getdate", AUDIT_TIME, on_now },
    { "localtime", AUDIT_TIME, on_now },
    { "mktime", AUDIT_TIME, on_bare },
    { "gmmktime", AUDIT_TIME, on_bare },
    { "strtotime", AUDIT_TIME, on_date },
    { "date_create", AUDIT_TIME, on_date },
    { "date_create_immutable", AUDIT_TIME, on_date },
    { "datetime::__construct", AUDIT_TIME, on_date },
    { "datetimeimmutable::__construct", AUDIT_TIME, on_date },
    { "getrusage", AUDIT_TIME, on_bare },
    { "sys_getloadavg", AUDIT_TIME, on_bare },

    { "rand", AUDIT_RANDOM, on_bare },
    { "mt_rand", AUDIT_RANDOM, on_bare },
    { "srand", AUDIT_RANDOM, on_bare },
    { "mt_srand", AUDIT_RANDOM, on_bare },
    { "lcg_value", AUDIT_RANDOM, on_bare },
    { "random_int", AUDIT_RANDOM, on_bare },
    { "random_bytes", AUDIT_RANDOM, on_bare },
    { "uniqid", AUDIT_RANDOM, on_bare },
    { "shuffle", AUDIT_RANDOM, on_bare },
    { "array_rand", AUDIT_RANDOM, on_bare },
    { "str_shuffle", AUDIT_RANDOM, on_bare },
    { "openssl_random_pseudo_bytes", AUDIT_RANDOM, on_bare },
    { "openssl_pkey_new", AUDIT_RANDOM, on_bare },
    { "password_hash", AUDIT_RANDOM, on_bare },
    { "session_create_id", AUDIT_RANDOM, on_bare },
    { "random\\randomizer::__construct", AUDIT_RANDOM, on_bare },
    { "sodium_crypto_secretbox_keygen", AUDIT_RANDOM, on_bare },
    { "sodium_crypto_box_keypair", AUDIT_RANDOM, on_bare },

    { "gethostname", AUDIT_HOST, on_bare },
    { "getmypid", AUDIT_HOST, on_bare },
    { "posix_getpid", AUDIT_HOST, on_bare },
};

/* Write out what objects hold, too. */
static const char *const into_objects[] = {
    "serialize",  "json_encode",        "var_dump",     "var_export",
    "print_r",    "igbinary_serialize", "msgpack_pack", "debug_zval_refcount",
    "apcu_store", "apcu_add",           "shm_put_var",  "http_build_query"
};

/* --- the hook --------------------------------------------------------------------------------- */

static HashTable table;
static void (*execute_before)(zend_execute_data *, zval *);

/* "pdo::__construct" */
static size_t write_name(const zend_function *f, char *into, size_t size)
{
    const zend_class_entry *ce = f->common.scope;
    int n =
        ce ? snprintf(into, size, "%s::%s", ZSTR_VAL(ce->name), ZSTR_VAL(f->common.function_name))
           : snprintf(into, size, "%s", ZSTR_VAL(f->common.function_name));

    size_t length = n < 0 ? 0 : MIN((size_t)n, size - 1);
    for (size_t i = 0; i < length; i++)
        into[i] = ascii_lower(into[i]);
    return length;
}

static bool looks_into_objects(struct str name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(into_objects); i++)
        if (str_eq(name, str_from(into_objects[i])))
            return true;
    return false;
}

/* A function that is not in the table looks into all that it gets. */
static void note_arguments(const struct call *c)
{
    bool deep = looks_into_objects(c->name);

    for (uint32_t i = 0; i < c->n_args; i++) {
        const zval *v = argument(c, i);
        if (Z_TYPE_P(v) == IS_ARRAY || (deep && Z_TYPE_P(v) == IS_OBJECT))
            audit_read_value(v, deep);
    }
}

static void note_call(zend_execute_data *frame)
{
    const zend_function *f = frame->func;
    char name[256];
    struct call c = { .frame = frame, .n_args = ZEND_CALL_NUM_ARGS(frame) };

    if (!f->common.function_name)
        return;
    c.name = (struct str){ name, write_name(f, name, sizeof(name)) };
    const struct known *k = zend_hash_str_find_ptr(&table, c.name.p, c.name.n);
    if (k) {
        c.shown = k->name;
        k->note(&c, k->kind);
    }
    if (!k || k->kind != AUDIT_READ)
        note_arguments(&c);
}

static void execute_noted(zend_execute_data *frame, zval *return_value)
{
    const zend_function *f = frame->func;

    note_call(frame);
    if (execute_before)
        execute_before(frame, return_value);
    else
        frame->func->internal_function.handler(frame, return_value);
    if (!EG(exception))
        audit_returned(f, false);
}

void audit_calls_install(void)
{
    zend_hash_init(&table, ARRAY_LENGTH(known), NULL, NULL, true);
    for (size_t i = 0; i < ARRAY_LENGTH(known); i++)
        zend_hash_str_add_ptr(&table, known[i].name, strlen(known[i].name),
                              (void *)(uintptr_t)&known[i]);
    execute_before = zend_execute_internal;
    zend_execute_internal = execute_noted;
}
