/*
 * Objects and arrays of the image are no suspects of the garbage collector.
 *
 * When the engine gives up one of several references to an object or array, it enters it in the
 * collector's list, in case it was the last but for a cycle, and notes the entry's number in its
 * head. Of what a boot has made, that dirties a page here and a page there in every request (30 of
 * 170 for the shortest page of the Symfony application), to find out each time that a container is
 * still in use. GC_NOT_COLLECTABLE keeps it from being entered. The collector still walks through
 * such things from others, and they are freed as ever when nobody refers to them; only a cycle made
 * of nothing but the image's own things is not found, and the rollback undoes that it was dropped.
 */
#include "php/engine/engine_int.h"

enum { DEPTH_MAX = 64 }; /* arrays in arrays; what lies deeper may be entered */

static void exempt_value(zval *v, unsigned depth);

static void exempt_table(HashTable *ht, unsigned depth)
{
    zval *v;

    if (GC_FLAGS(ht) & (GC_NOT_COLLECTABLE | GC_IMMUTABLE))
        return;
    GC_ADD_FLAGS(ht, GC_NOT_COLLECTABLE);
    if (depth == DEPTH_MAX)
        return;
    ZEND_HASH_FOREACH_VAL(ht, v)
    {
        exempt_value(v, depth + 1);
    }
    ZEND_HASH_FOREACH_END();
}

/* Objects are found in the store. */
static void exempt_value(zval *v, unsigned depth)
{
    if (Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    ZVAL_DEREF(v);
    if (Z_TYPE_P(v) == IS_ARRAY && Z_REFCOUNTED_P(v))
        exempt_table(Z_ARRVAL_P(v), depth);
}

static void exempt_object(zend_object *o)
{
    zval *values = NULL;
    int n = 0;

    GC_ADD_FLAGS(o, GC_NOT_COLLECTABLE);
    HashTable *ht = o->handlers->get_gc(o, &values, &n);
    for (int i = 0; i < n; i++)
        exempt_value(&values[i], 0);
    if (ht)
        exempt_table(ht, 0);
}

static void exempt_statics(zend_class_entry *ce)
{
    zval *values = ce->type == ZEND_USER_CLASS ? ZEND_MAP_PTR_GET(ce->static_members_table) : NULL;

    for (int i = 0; values && i < ce->default_static_members_count; i++)
        exempt_value(&values[i], 0);
}

void garbage_exempt(void)
{
    zend_class_entry *ce;
    zval *v;

    for (uint32_t i = 1; i < EG(objects_store).top; i++) {
        zend_object *o = EG(objects_store).object_buckets[i];
        if (IS_OBJ_VALID(o) && !(OBJ_FLAGS(o) & IS_OBJ_FREE_CALLED))
            exempt_object(o);
    }
    ZEND_HASH_FOREACH_VAL(&EG(symbol_table), v)
    {
        exempt_value(v, 0);
    }
    ZEND_HASH_FOREACH_END();
    ZEND_HASH_FOREACH_PTR(EG(class_table), ce)
    {
        exempt_statics(ce);
    }
    ZEND_HASH_FOREACH_END();
}
