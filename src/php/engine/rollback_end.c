/*
 * The end of a request in a worker that is rolled back: everything of php_request_shutdown() that
 * the world outside of this process's memory can notice, in its order, and nothing of what only
 * frees memory, which goes back as a whole.
 *
 * Objects that the image holds are told apart from those of the request by their handles: handles
 * of the image are not used again (fresh_record). Nothing is written to objects of the image but
 * what their own destructors write, so that their pages stay clean.
 */
#include "php/engine/engine_int.h"

#include "base/mem.h"

/* Where the image ends. Ordinary memory: as in the image, for every request. */
static struct {
    uint32_t objects;       /* first handle of a request */
    uint32_t *destructible; /* handles of the image's objects with a destructor */
    uint32_t n_destructible;
    zend_long resources;  /* first number of a request's resource */
    uint32_t persistent;  /* buckets of the persistent list */
    HashTable *functions; /* shutdown functions that the boot registered */
} border;

/* --- what belongs to the image ---------------------------------------------------------------- */

static bool has_destructor(const zend_object *o)
{
    return o->handlers->dtor_obj != zend_objects_destroy_object || o->ce->destructor;
}

static zend_object *object_at(uint32_t handle)
{
    zend_object *o = EG(objects_store).object_buckets[handle];

    return IS_OBJ_VALID(o) ? o : NULL;
}

/* Destructors of the image's objects run at the end of every request, and at none of the boot: the
 * table for what they look up is made now, or each request would make it, here and there. */
static void prepare_destructor(const zend_object *o)
{
    zend_function *f = o->ce->destructor;

    if (f && f->type == ZEND_USER_FUNCTION && !RUN_TIME_CACHE(&f->op_array))
        zend_init_func_run_time_cache(&f->op_array);
}

static void list_destructible(void)
{
    uint32_t n = 0;

    for (uint32_t i = 1; i < border.objects; i++) {
        zend_object *o = object_at(i);
        n += o && has_destructor(o) && !(OBJ_FLAGS(o) & IS_OBJ_DESTRUCTOR_CALLED);
    }
    border.destructible = mem_zalloc((n + 1) * sizeof(uint32_t));
    for (uint32_t i = 1; i < border.objects; i++) {
        zend_object *o = object_at(i);
        if (!o || !has_destructor(o) || (OBJ_FLAGS(o) & IS_OBJ_DESTRUCTOR_CALLED))
            continue;
        border.destructible[border.n_destructible++] = i;
        prepare_destructor(o);
    }
}

void ending_record(void)
{
    border.objects = EG(objects_store).top;
    border.resources = EG(regular_list).nNextFreeElement;
    border.persistent = EG(persistent_list).nNumUsed;
    border.n_destructible = 0;
    list_destructible();
    border.functions = BG(user_shutdown_function_names);
    BG(user_shutdown_function_names) = NULL;
}

/* --- shutdown functions ----------------------------------------------------------------------- */

/* They run outside of any PHP frame, as at a script's end: an uncaught exception of theirs is
 * reported and ends them. */
void ending_after_handler(void)
{
    zend_execute_data *frame = EG(current_execute_data);

    if (!BG(user_shutdown_function_names))
        return;
    CG(unclean_shutdown) = 0;
    EG(current_execute_data) = NULL;
    php_call_shutdown_functions();
    if (CG(unclean_shutdown)) { /* exit() or a fatal error: none of the others is called */
        BG(user_shutdown_function_names) = border.functions = NULL;
        zend_bailout();
    }
    php_free_shutdown_functions();
    EG(current_execute_data) = frame;
}

/* The boot's come first, as if the request had registered them all. */
static void call_shutdown_functions(void)
{
    HashTable *late = BG(user_shutdown_function_names);
    void *entry;

    if (border.functions) {
        BG(user_shutdown_function_names) = border.functions;
        if (late) {
            ZEND_HASH_FOREACH_PTR(late, entry)
            {
                zend_hash_next_index_insert_ptr(border.functions, entry);
            }
            ZEND_HASH_FOREACH_END();
        }
    }
    php_call_shutdown_functions();
}

/* --- destructors ------------------------------------------------------------------------------ */

static void destroy(zend_object *o)
{
    if (!o || (OBJ_FLAGS(o) & IS_OBJ_DESTRUCTOR_CALLED))
        return;
    GC_ADD_FLAGS(o, IS_OBJ_DESTRUCTOR_CALLED);
    if (!has_destructor(o))
        return;
    GC_ADDREF(o);
    o->handlers->dtor_obj(o);
    GC_DELREF(o);
}

/* As the engine: an object that only a global variable holds ends now, the last one first. One of
 * the image is not freed for that. True: there may be more. */
static bool destroy_globals(void)
{
    HashTable *globals = &EG(symbol_table);
    bool any = false;

    for (uint32_t i = globals->nNumUsed; i-- > 0;) {
        Bucket *b = globals->arData + i;
        bool indirect = Z_TYPE(b->val) == IS_INDIRECT;
        zval *v = indirect ? Z_INDIRECT(b->val) : &b->val;
        if (Z_TYPE_P(v) != IS_OBJECT || Z_REFCOUNT_P(v) != 1)
            continue;
        if (Z_OBJ_HANDLE_P(v) < border.objects) {
            if (has_destructor(Z_OBJ_P(v)))
                destroy(Z_OBJ_P(v));
            continue;
        }
        any = true;
        if (!indirect) {
            zend_hash_del_bucket(globals, b);
            continue;
        }
        zval object;
        ZVAL_COPY_VALUE(&object, v);
        ZVAL_UNDEF(v);
        zval_ptr_dtor(&object);
    }
    return any;
}

static void call_destructors(void)
{
    while (destroy_globals())
        continue;
    EG(flags) |= EG_FLAGS_OBJECT_STORE_NO_REUSE;
    zend_fiber_switch_block();
    for (uint32_t i = 0; i < border.n_destructible; i++)
        destroy(object_at(border.destructible[i]));
    for (uint32_t i = border.objects; i < EG(objects_store).top; i++) /* it may grow */
        destroy(object_at(i));
    zend_fiber_switch_unblock();
}

static void destroy_objects(void)
{
    zend_try
    {
        call_destructors();
    }
    zend_catch
    {
        zend_objects_store_mark_destructed(&EG(objects_store));
    }
    zend_end_try();
}

/* --- handles to the world outside ------------------------------------------------------------- */

/* Modules whose objects are nothing but memory. What others hold (a connection, a file, a buffer to
 * be written) ends with the object, as at the end of any script. */
static const char *const memory_modules[] = {
    "core",   "date",     "dom",       "filter", "gmp",       "hash",       "intl",      "json",
    "libxml", "mbstring", "openssl",   "pcre",   "random",    "reflection", "simplexml", "sodium",
    "spl",    "standard", "tokenizer", "xml",    "xmlreader", "xsl",        "zlib",      "sapid",
};

static bool is_memory_module(const zend_module_entry *m)
{
    for (size_t i = 0; i < ARRAY_LENGTH(memory_modules); i++)
        if (strcasecmp(m->name, memory_modules[i]) == 0)
            return true;
    return false;
}

static bool holds_outside(const zend_object *o)
{
    const zend_class_entry *ce = o->ce;

    if (o->handlers->free_obj == zend_object_std_dtor)
        return false;
    while (ce && ce->type == ZEND_USER_CLASS)
        ce = ce->parent;
    return ce && ce->info.internal.module && !is_memory_module(ce->info.internal.module);
}

static void free_objects(void)
{
    for (uint32_t i = EG(objects_store).top; i > border.objects; i--) {
        zend_object *o = object_at(i - 1);
        if (!o || (OBJ_FLAGS(o) & IS_OBJ_FREE_CALLED) || !holds_outside(o))
            continue;
        GC_ADD_FLAGS(o, IS_OBJ_FREE_CALLED);
        GC_ADDREF(o);
        o->handlers->free_obj(o);
    }
}

static void close_resources(void)
{
    HashTable *list = &EG(regular_list);

    for (uint32_t i = list->nNumUsed; i-- > 0;) {
        zval *v = ZEND_HASH_ELEMENT(list, i); /* closing one may add others: looked up each time */
        zend_resource *r = Z_TYPE_P(v) == IS_UNDEF ? NULL : Z_PTR_P(v);
        if (r && r->handle < border.resources)
            break;
        if (r && r->type >= 0)
            zend_list_close(r);
    }
}

/* A connection that a request opened for good would be in no later request's memory. */
static void close_persistent(void)
{
    HashTable *list = &EG(persistent_list);

    for (uint32_t i = list->nNumUsed; i > border.persistent; i--) {
        Bucket *b = list->arData + i - 1;
        if (Z_TYPE(b->val) != IS_UNDEF)
            zend_hash_del_bucket(list, b);
    }
}

/* --- all of it -------------------------------------------------------------------------------- */

static void guarded(void (*step)(void))
{
    zend_try
    {
        step();
    }
    zend_end_try();
}

static void end_output(void)
{
    php_output_end_all();
}

static void end_output_layer(void)
{
    php_output_deactivate();
}

/* `answer`: the request is not answered yet; called when its last byte may leave. */
void ending_run(void (*answer)(void))
{
#ifdef ZEND_HAS_OOM /* Debian's: no function is called any more while this stands */
    EG(delayed_oom).state = ZEND_OOM_STATE_NONE;
#endif
    EG(flags) |= EG_FLAGS_IN_SHUTDOWN;
    EG(current_execute_data) = NULL; /* the frames are dead, or will be */
    zend_llist_clean(&PG(tick_functions));
    guarded(call_shutdown_functions);
    destroy_objects();
    guarded(end_output);
    timeout_request_end();
    guarded(session_end);
    guarded(end_output_layer);
    EG(flags) |= EG_FLAGS_IN_RESOURCE_SHUTDOWN;
    guarded(close_resources);
    guarded(free_objects);
    guarded(close_persistent);
    locks_release();
    if (answer)
        guarded(answer);
    CHECK(!request.active);
}
