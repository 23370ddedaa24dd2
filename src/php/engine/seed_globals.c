/*
 * What a frozen boot has added to $_SERVER and $_ENV. Both are each request's own; but libraries
 * keep settings there (dotenv), which in classic mode the boot of every request would add again.
 * Keys that the boot's own request did not have, or only because they are in the environment, are
 * added to those of each request. What the boot changed of a request's own values is not: it was
 * another request's.
 */
#include "php/engine/engine_int.h"

#include <stdlib.h>

static const char *const names[] = { "_SERVER", "_ENV" };

static zval added[ARRAY_LENGTH(names)]; /* arrays; undefined: nothing was */

static zval *find(const char *name)
{
    zval *v = zend_hash_str_find(&EG(symbol_table), name, strlen(name));

    if (v && Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    if (v)
        ZVAL_DEREF(v);
    return v && Z_TYPE_P(v) == IS_ARRAY ? v : NULL;
}

/* As it was before the script ran. */
static bool make_anew(const char *name)
{
    zend_auto_global *g = zend_hash_str_find_ptr(CG(auto_globals), name, strlen(name));

    if (!g || !g->auto_global_callback || (g->jit && g->armed))
        return false; /* no code has asked for it */
    g->armed = g->auto_global_callback(g->name);
    return true;
}

/* Not what the client says, but of the process: the boot's putenv() is among it. */
static bool is_environment(const zend_string *key)
{
    return strncmp(ZSTR_VAL(key), "HTTP_", 5) != 0 && getenv(ZSTR_VAL(key));
}

static bool belongs_to_boot(const HashTable *own, zend_string *key, zval *value)
{
    zval *its = zend_hash_find(own, key);

    return !its || (is_environment(key) && !zend_is_identical(value, its));
}

static void record_added(HashTable *before, const HashTable *own, zval *ret)
{
    zend_string *key;
    zval *value;

    ZEND_HASH_FOREACH_STR_KEY_VAL_IND(before, key, value)
    {
        ZVAL_DEREF(value);
        if (!key || !belongs_to_boot(own, key, value))
            continue;
        if (Z_ISUNDEF_P(ret))
            array_init(ret);
        Z_TRY_ADDREF_P(value);
        zend_hash_update(Z_ARRVAL_P(ret), key, value);
    }
    ZEND_HASH_FOREACH_END();
}

void globals_record(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        zval *now = find(names[i]), before;
        ZVAL_UNDEF(&added[i]);
        if (!now)
            continue;
        ZVAL_COPY(&before, now);
        zval *own = make_anew(names[i]) ? find(names[i]) : NULL;
        if (own)
            record_added(Z_ARRVAL(before), Z_ARRVAL_P(own), &added[i]);
        zval_ptr_dtor(&before);
    }
}

void globals_add(void)
{
    zend_string *key;
    zval *value;

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        zval *v = Z_ISUNDEF(added[i]) ? NULL : find(names[i]);
        if (!v)
            continue;
        SEPARATE_ARRAY(v); /* from what input filters see */
        ZEND_HASH_FOREACH_STR_KEY_VAL(Z_ARRVAL(added[i]), key, value)
        {
            if (zend_hash_exists(Z_ARRVAL_P(v), key) && !is_environment(key))
                continue;
            Z_TRY_ADDREF_P(value);
            zend_hash_update(Z_ARRVAL_P(v), key, value);
        }
        ZEND_HASH_FOREACH_END();
    }
}
