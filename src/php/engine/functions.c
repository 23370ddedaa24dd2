/* PHP functions and the module of the engine. See functions.stub.php for their documentation. */
#include "php/engine/engine_int.h"

#include "version.h"

static PHP_FUNCTION(fastcgi_finish_request)
{
    ZEND_PARSE_PARAMETERS_NONE();
    if (request.ended)
        RETURN_FALSE;
    php_output_end_all();
    php_header();
    body_keep(&request.body);
    request_end();
    RETURN_TRUE;
}

static PHP_FUNCTION(headers_send)
{
    zend_long status = 200;

    ZEND_PARSE_PARAMETERS_START(0, 1)
    Z_PARAM_OPTIONAL
    Z_PARAM_LONG(status)
    ZEND_PARSE_PARAMETERS_END();
    if (status < 100 || status > 599) {
        zend_argument_value_error(1, "must be between 100 and 599");
        RETURN_THROWS();
    }
    if (status < 200)
        RETURN_LONG(response_inform((uint16_t)status) ? SAPI_HEADER_SENT_SUCCESSFULLY
                                                      : SAPI_HEADER_SEND_FAILED);
    SG(sapi_headers).http_response_code = (int)status;
    RETURN_LONG(sapi_send_headers());
}

/* The levels are those of Go's log/slog, which FrankenPHP shows to PHP. */
enum { LEVEL_DEBUG = -4, LEVEL_INFO = 0, LEVEL_WARN = 4, LEVEL_ERROR = 8 };

static PHP_FUNCTION(frankenphp_log)
{
    zend_string *message;
    zend_long level = LEVEL_INFO;
    zval *context = NULL;
    smart_str line = { 0 };

    ZEND_PARSE_PARAMETERS_START(1, 3)
    Z_PARAM_STR(message)
    Z_PARAM_OPTIONAL
    Z_PARAM_LONG(level)
    Z_PARAM_ARRAY(context)
    ZEND_PARSE_PARAMETERS_END();
    smart_str_append(&line, message);
    if (context && zend_hash_num_elements(Z_ARRVAL_P(context))) {
        smart_str_appendc(&line, ' ');
        php_json_encode(&line, context,
                        PHP_JSON_UNESCAPED_SLASHES | PHP_JSON_UNESCAPED_UNICODE |
                            PHP_JSON_PARTIAL_OUTPUT_ON_ERROR);
    }
    smart_str_0(&line);
    if (line.s)
        log_text(level >= LEVEL_ERROR  ? LOG_ERR
                 : level >= LEVEL_WARN ? LOG_WARN
                 : level >= LEVEL_INFO ? LOG_INFO
                                       : LOG_DEBUG,
                 STR_NONE, (struct str){ ZSTR_VAL(line.s), ZSTR_LEN(line.s) });
    smart_str_free(&line);
    RETVAL_NULL();
}

/* "x-FORWARDED-for" -> "X-Forwarded-For": what FPM makes of HTTP_X_FORWARDED_FOR. */
static zend_string *canonical_name(struct str name)
{
    zend_string *s = zend_string_alloc(name.n, 0);
    bool first = true;

    for (size_t i = 0; i < name.n; i++) {
        char c = ascii_lower(name.p[i]);
        ZSTR_VAL(s)[i] = first && c >= 'a' && c <= 'z' ? (char)(c - 0x20) : c;
        first = c == '-';
    }
    ZSTR_VAL(s)[name.n] = '\0';
    return s;
}

static void put_header(HashTable *into, struct str name, struct str value)
{
    zend_string *key = canonical_name(name);
    zval *old = zend_hash_find(into, key);
    const char *between = str_eq_nocase(name, STR("Cookie")) ? "; " : ", "; /* as in HTTP_COOKIE */
    zval v;

    if (old)
        ZVAL_STR(&v, zend_string_concat3(Z_STRVAL_P(old), Z_STRLEN_P(old), between, 2, value.p,
                                         value.n));
    else
        ZVAL_STRINGL(&v, value.p, value.n);
    zend_symtable_update(into, key, &v);
    zend_string_release(key);
}

static PHP_FUNCTION(apache_request_headers)
{
    ZEND_PARSE_PARAMETERS_NONE();
    array_init(return_value);
    if (!request.active)
        return;
    if (request.view.host.n)
        put_header(Z_ARRVAL_P(return_value), STR("Host"), request.view.host);
    for (uint32_t i = 0; i < request.n_headers; i++)
        if (!str_eq_nocase(request.headers[i].name, STR("Host")))
            put_header(Z_ARRVAL_P(return_value), request.headers[i].name, request.headers[i].value);
}

static PHP_FUNCTION(apache_response_headers)
{
    zend_llist_position at;

    ZEND_PARSE_PARAMETERS_NONE();
    array_init(return_value);
    for (sapi_header_struct *h = zend_llist_get_first_ex(&SG(sapi_headers).headers, &at); h;
         h = zend_llist_get_next_ex(&SG(sapi_headers).headers, &at)) {
        struct str value = { h->header, h->header_len };
        struct str name = str_cut(&value, ':');
        value = str_trim(value);
        if (name.n && value.p)
            add_assoc_stringl_ex(return_value, name.p, name.n, (char *)value.p, value.n);
    }
}

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_returns_bool, 0, 0, _IS_BOOL, 0)
ZEND_END_ARG_INFO()
ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_returns_array, 0, 0, IS_ARRAY, 0)
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_MASK_EX(arginfo_note, 0, 1, MAY_BE_STRING | MAY_BE_FALSE)
ZEND_ARG_TYPE_INFO(0, note_name, IS_STRING, 0)
ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, note_value, IS_STRING, 1, "null")
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_setenv, 0, 2, _IS_BOOL, 0)
ZEND_ARG_TYPE_INFO(0, variable, IS_STRING, 0)
ZEND_ARG_TYPE_INFO(0, value, IS_STRING, 0)
ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, walk_to_top, _IS_BOOL, 0, "false")
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_MASK_EX(arginfo_getenv, 0, 1, MAY_BE_STRING | MAY_BE_FALSE)
ZEND_ARG_TYPE_INFO(0, variable, IS_STRING, 0)
ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, walk_to_top, _IS_BOOL, 0, "false")
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_virtual, 0, 1, _IS_BOOL, 0)
ZEND_ARG_TYPE_INFO(0, uri, IS_STRING, 0)
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_handle_request, 0, 1, _IS_BOOL, 0)
ZEND_ARG_TYPE_INFO(0, callback, IS_CALLABLE, 0)
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_snapshot_state, 0, 0, IS_VOID, 0)
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_log, 0, 1, IS_VOID, 0)
ZEND_ARG_TYPE_INFO(0, message, IS_STRING, 0)
ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, level, IS_LONG, 0, "0")
ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, context, IS_ARRAY, 0, "[]")
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(arginfo_headers_send, 0, 0, IS_LONG, 0)
ZEND_ARG_TYPE_INFO_WITH_DEFAULT_VALUE(0, status, IS_LONG, 0, "200")
ZEND_END_ARG_INFO()

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_MASK_EX(arginfo_status, 0, 0, MAY_BE_ARRAY | MAY_BE_FALSE)
ZEND_END_ARG_INFO()

// clang-format off
const zend_function_entry engine_functions[] = {
    ZEND_FE(fastcgi_finish_request, arginfo_returns_bool)
    ZEND_FALIAS(frankenphp_finish_request, fastcgi_finish_request, arginfo_returns_bool)
    ZEND_FE(fpm_get_status, arginfo_status)
    ZEND_FE(headers_send, arginfo_headers_send)
    ZEND_FE(apache_request_headers, arginfo_returns_array)
    ZEND_FALIAS(getallheaders, apache_request_headers, arginfo_returns_array)
    ZEND_FALIAS(frankenphp_request_headers, apache_request_headers, arginfo_returns_array)
    ZEND_FE(apache_response_headers, arginfo_returns_array)
    ZEND_FALIAS(frankenphp_response_headers, apache_response_headers, arginfo_returns_array)
    ZEND_FE(apache_note, arginfo_note)
    ZEND_FE(apache_setenv, arginfo_setenv)
    ZEND_FE(apache_getenv, arginfo_getenv)
    ZEND_FE(virtual, arginfo_virtual)
    ZEND_FE(frankenphp_log, arginfo_log)
    ZEND_FALIAS(sapid_log, frankenphp_log, arginfo_log)
    ZEND_FALIAS(sapid_finish_request, fastcgi_finish_request, arginfo_returns_bool)
    ZEND_FALIAS(sapid_headers_send, headers_send, arginfo_headers_send)
    ZEND_FALIAS(sapid_request_headers, apache_request_headers, arginfo_returns_array)
    ZEND_FALIAS(sapid_response_headers, apache_response_headers, arginfo_returns_array)
    ZEND_FE(frankenphp_handle_request, arginfo_handle_request)
    ZEND_FALIAS(sapid_handle_request, frankenphp_handle_request, arginfo_handle_request)
    ZEND_FE(frankenphp_request_parse_errors, arginfo_returns_array)
    ZEND_FE(restore_state, arginfo_returns_bool)
    ZEND_FALIAS(sapid_restore_state, restore_state, arginfo_returns_bool)
    ZEND_FE(snapshot_boots, arginfo_returns_bool)
    ZEND_FALIAS(sapid_snapshot_boots, snapshot_boots, arginfo_returns_bool)
    ZEND_FE(snapshot_state, arginfo_snapshot_state)
    ZEND_FALIAS(sapid_snapshot_state, snapshot_state, arginfo_snapshot_state)
    ZEND_FE_END
};
// clang-format on

/* Applications look at these settings of PHP-FPM; here they only say what is true here. */
PHP_INI_BEGIN()
PHP_INI_ENTRY("cgi.fix_pathinfo", "1", PHP_INI_SYSTEM, NULL)
PHP_INI_ENTRY("fastcgi.logging", "1", PHP_INI_SYSTEM, NULL)
PHP_INI_END()

static PHP_MINIT_FUNCTION(sapid)
{
    (void)type;
    REGISTER_INI_ENTRIES();
    seed_install();
    REGISTER_LONG_CONSTANT("FRANKENPHP_LOG_LEVEL_DEBUG", LEVEL_DEBUG, CONST_PERSISTENT);
    REGISTER_LONG_CONSTANT("FRANKENPHP_LOG_LEVEL_INFO", LEVEL_INFO, CONST_PERSISTENT);
    REGISTER_LONG_CONSTANT("FRANKENPHP_LOG_LEVEL_WARN", LEVEL_WARN, CONST_PERSISTENT);
    REGISTER_LONG_CONSTANT("FRANKENPHP_LOG_LEVEL_ERROR", LEVEL_ERROR, CONST_PERSISTENT);
    script_install();
    late_install();
    variables_install();
    return SUCCESS;
}

static PHP_MSHUTDOWN_FUNCTION(sapid)
{
    (void)type;
    UNREGISTER_INI_ENTRIES();
    return SUCCESS;
}

/* After all RSHUTDOWNs, before the SAPI's own end: what is left of the body is not wanted. Without
 * this sapi_deactivate would fetch and read all of it. */
static ZEND_MODULE_POST_ZEND_DEACTIVATE_D(sapid)
{
    if (request.active)
        body_fini(&request.body);
    return SUCCESS;
}

static PHP_MINFO_FUNCTION(sapid)
{
    (void)zend_module;
    php_info_print_table_start();
    php_info_print_table_row(2, "sapid", SAPID_VERSION);
    php_info_print_table_row(2, "Mode", loop_is_on() && !seed_is_on() ? "worker" : "classic");
    php_info_print_table_end();
}

// clang-format off
zend_module_entry engine_module_entry = {
    STANDARD_MODULE_HEADER,
    "sapid",
    engine_functions,
    PHP_MINIT(sapid),
    PHP_MSHUTDOWN(sapid),
    NULL,
    NULL,
    PHP_MINFO(sapid),
    SAPID_VERSION,
    NO_MODULE_GLOBALS,
    ZEND_MODULE_POST_ZEND_DEACTIVATE_N(sapid),
    STANDARD_MODULE_PROPERTIES_EX
};
// clang-format on
