/*
 * mod_php's functions beside the headers' (functions.c): notes and environment variables of one
 * request, and virtual(). Programs written for Apache use them to leave values for a later part of
 * the same request. Both tables live from a request's first use of them to its end, whatever the
 * mode of the pool, and in memory of the process, not of the script: a script's end frees that
 * before the request is over.
 *
 * Contract: ext's own sapi/apache2handler/php_functions.c and its stubs.
 */
#include "php/engine/engine_int.h"

static struct {
    HashTable notes, variables; /* name -> zend_string, both of the process */
    bool used;
} tables;

static void free_text(zval *v)
{
    zend_string_release_ex(Z_STR_P(v), 1);
}

static void begin_use(void)
{
    if (tables.used)
        return;
    zend_hash_init(&tables.notes, 8, NULL, free_text, 1);
    zend_hash_init(&tables.variables, 8, NULL, free_text, 1);
    tables.used = true;
}

void apache_request_ends(void)
{
    if (!tables.used)
        return;
    zend_hash_destroy(&tables.notes);
    zend_hash_destroy(&tables.variables);
    tables.used = false;
}

static void put(HashTable *table, const zend_string *name, const zend_string *value)
{
    zval v;

    ZVAL_STR(&v, zend_string_init(ZSTR_VAL(value), ZSTR_LEN(value), 1));
    zend_hash_str_update(table, ZSTR_VAL(name), ZSTR_LEN(name), &v);
}

char *apache_variable(struct str name)
{
    const zval *v = tables.used ? zend_hash_str_find(&tables.variables, name.p, name.n) : NULL;

    return v ? Z_STRVAL_P(v) : NULL;
}

/* What was noted before, or false; then the new value, if there is one. */
PHP_FUNCTION(apache_note)
{
    zend_string *name, *value = NULL;

    ZEND_PARSE_PARAMETERS_START(1, 2)
    Z_PARAM_STR(name)
    Z_PARAM_OPTIONAL
    Z_PARAM_STR_OR_NULL(value)
    ZEND_PARSE_PARAMETERS_END();
    begin_use();
    const zval *old = zend_hash_find(&tables.notes, name);
    if (old)
        RETVAL_STRINGL(Z_STRVAL_P(old), Z_STRLEN_P(old));
    else
        RETVAL_FALSE;
    if (value)
        put(&tables.notes, name, value);
}

PHP_FUNCTION(apache_setenv)
{
    zend_string *name, *value;
    bool walk_to_top = false;

    ZEND_PARSE_PARAMETERS_START(2, 3)
    Z_PARAM_STR(name)
    Z_PARAM_STR(value)
    Z_PARAM_OPTIONAL
    Z_PARAM_BOOL(walk_to_top)
    ZEND_PARSE_PARAMETERS_END();
    (void)walk_to_top; /* there are no sub-requests: every request is its own top */
    begin_use();
    put(&tables.variables, name, value);
    RETURN_TRUE;
}

PHP_FUNCTION(apache_getenv)
{
    zend_string *name;
    bool walk_to_top = false;

    ZEND_PARSE_PARAMETERS_START(1, 2)
    Z_PARAM_STR(name)
    Z_PARAM_OPTIONAL
    Z_PARAM_BOOL(walk_to_top)
    ZEND_PARSE_PARAMETERS_END();
    (void)walk_to_top;
    const char *value = variables_getenv(ZSTR_VAL(name), ZSTR_LEN(name));
    if (!value)
        RETURN_FALSE;
    RETURN_STRING(value);
}

PHP_FUNCTION(virtual)
{
    zend_string *uri;

    ZEND_PARSE_PARAMETERS_START(1, 1)
    Z_PARAM_STR(uri)
    ZEND_PARSE_PARAMETERS_END();
    php_error_docref(
        NULL, E_WARNING,
        "Unable to include '%s': sapid has no sub-requests; include the script, or ask for "
        "the URL with an HTTP client",
        ZSTR_VAL(uri));
    RETURN_FALSE;
}
