/*
 * What a frozen boot has made of the superglobals. Each request has its own; but libraries keep
 * settings in $_SERVER and $_ENV (dotenv), front controllers put a route into $_GET, and some take
 * away what a client must not say. In classic mode the boot of every request would do so again.
 *
 * Where the guards say that all requests of the image bring what the boot's request did, for a key
 * or for all of a superglobal, they get what the boot made of it. Besides, keys that the boot's
 * request did not have, or only because they are in the environment, are added to $_SERVER and
 * $_ENV, and those of the environment taken away that it has taken away. Any other change is not
 * made: the value was another request's.
 */
#include "php/engine/engine_int.h"

#include <stdlib.h>

static const char *const names[] = { "_SERVER", "_ENV",   "_GET",    "_POST",
                                     "_COOKIE", "_FILES", "_REQUEST" };

enum { TAKING_ADDITIONS = 2 }; /* $_SERVER and $_ENV */

static struct {
    zval set;   /* keys and values; undefined: none */
    zval unset; /* keys; undefined: none */
    zval whole; /* instead of the request's own */
    bool is_whole;
} made[ARRAY_LENGTH(names)];

static zval *find(const char *name)
{
    zval *v = zend_hash_str_find(&EG(symbol_table), name, strlen(name));

    if (v && Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    if (v)
        ZVAL_DEREF(v);
    return v && !Z_ISUNDEF_P(v) ? v : NULL;
}

static zval *find_array(const char *name)
{
    zval *v = find(name);

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

/* Keys of arrays that look like numbers are numbers: then `key` is NULL. */
static zval *find_key(const HashTable *in, zend_string *key, zend_ulong number)
{
    return key ? zend_hash_find(in, key) : zend_hash_index_find(in, number);
}

static void put_key(zval *into, zend_string *key, zend_ulong number, zval *value)
{
    if (Z_ISUNDEF_P(into))
        array_init(into);
    Z_TRY_ADDREF_P(value);
    if (key)
        zend_hash_update(Z_ARRVAL_P(into), key, value);
    else
        zend_hash_index_update(Z_ARRVAL_P(into), number, value);
}

static bool is_covered(size_t i, zend_string *key, zend_ulong number)
{
    if (key)
        return guards_cover(names[i], key);
    zend_string *text = zend_long_to_str((zend_long)number);
    bool covered = guards_cover(names[i], text);

    zend_string_release(text);
    return covered;
}

static bool belongs_to_boot(size_t i, zval *its, zend_string *key, zend_ulong number, zval *value)
{
    if (its && zend_is_identical(value, its))
        return false;
    return is_covered(i, key, number) ||
           (i < TAKING_ADDITIONS && (!its || (key && is_environment(key))));
}

static void record_set(size_t i, HashTable *before, const HashTable *own)
{
    zend_ulong number;
    zend_string *key;
    zval *value;

    ZEND_HASH_FOREACH_KEY_VAL_IND(before, number, key, value)
    {
        ZVAL_DEREF(value);
        if (belongs_to_boot(i, find_key(own, key, number), key, number, value))
            put_key(&made[i].set, key, number, value);
    }
    ZEND_HASH_FOREACH_END();
}

/* Not only what the guards know of: of the process's own environment the boot may have hidden a
 * secret, or added to it by putenv(), which superglobals made before do not show. */
static bool may_unset(size_t i, zend_string *key, zend_ulong number)
{
    return is_covered(i, key, number) ||
           (key && i < TAKING_ADDITIONS &&
            !variables_may_differ((struct str){ ZSTR_VAL(key), ZSTR_LEN(key) }));
}

static void record_unset(size_t i, const HashTable *before, HashTable *own)
{
    zend_ulong number;
    zend_string *key;
    zval nothing;

    ZVAL_NULL(&nothing);
    ZEND_HASH_FOREACH_KEY(own, number, key)
    {
        if (!find_key(before, key, number) && may_unset(i, key, number))
            put_key(&made[i].unset, key, number, &nothing);
    }
    ZEND_HASH_FOREACH_END();
}

static void record(size_t i)
{
    zval *now = find(names[i]), before, *own;

    ZVAL_UNDEF(&before);
    if (now)
        ZVAL_COPY(&before, now);
    own = make_anew(names[i]) ? find_array(names[i]) : NULL;
    if (own && guards_cover(names[i], NULL)) {
        if (!now || !zend_is_identical(&before, own))
            made[i].is_whole = true;
        ZVAL_COPY(&made[i].whole, &before);
    } else if (own && Z_TYPE(before) == IS_ARRAY) {
        record_set(i, Z_ARRVAL(before), Z_ARRVAL_P(own));
        record_unset(i, Z_ARRVAL(before), Z_ARRVAL_P(own));
    }
    zval_ptr_dtor(&before);
}

void globals_record(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        ZVAL_UNDEF(&made[i].set);
        ZVAL_UNDEF(&made[i].unset);
        ZVAL_UNDEF(&made[i].whole);
        record(i);
    }
}

static void put_whole(size_t i)
{
    zval *v = find(names[i]);

    if (Z_ISUNDEF(made[i].whole)) {
        zend_hash_str_del(&EG(symbol_table), names[i], strlen(names[i]));
    } else if (v) {
        zval_ptr_dtor(v);
        ZVAL_COPY(v, &made[i].whole);
    }
}

static void set_keys(size_t i, HashTable *into)
{
    zend_ulong number;
    zend_string *key;
    zval *value;

    ZEND_HASH_FOREACH_KEY_VAL(Z_ARRVAL(made[i].set), number, key, value)
    {
        if (find_key(into, key, number) && !(key && is_environment(key)) &&
            !is_covered(i, key, number))
            continue;
        Z_TRY_ADDREF_P(value);
        if (key)
            zend_hash_update(into, key, value);
        else
            zend_hash_index_update(into, number, value);
    }
    ZEND_HASH_FOREACH_END();
}

static void unset_keys(size_t i, HashTable *into)
{
    zend_ulong number;
    zend_string *key;

    ZEND_HASH_FOREACH_KEY(Z_ARRVAL(made[i].unset), number, key)
    {
        if (key)
            zend_hash_del(into, key);
        else
            zend_hash_index_del(into, number);
    }
    ZEND_HASH_FOREACH_END();
}

void globals_add(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        if (made[i].is_whole) {
            put_whole(i);
            continue;
        }
        zval *v = Z_ISUNDEF(made[i].set) && Z_ISUNDEF(made[i].unset) ? NULL : find_array(names[i]);
        if (!v)
            continue;
        SEPARATE_ARRAY(v); /* from what input filters see */
        if (!Z_ISUNDEF(made[i].set))
            set_keys(i, Z_ARRVAL_P(v));
        if (!Z_ISUNDEF(made[i].unset))
            unset_keys(i, Z_ARRVAL_P(v));
    }
}
