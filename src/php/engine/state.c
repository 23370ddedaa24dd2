/*
 * The state of PHP that lives on between requests, as a list of name -> fingerprint: globals,
 * static variables and properties, constants, classes, functions, settings, handlers, environment,
 * numbers of objects and resources, memory. Two lists are compared by leaks.c (worker mode, before
 * and after a request) and isolation.c (the image, and a request that ends).
 *
 * Fingerprints look a few levels into arrays and objects, so a cache that grows deep inside an
 * object is noticed by the growth of its parts, by the number of objects, or by the memory. Garbage
 * is collected first: cycles that only wait for the collector are not left behind.
 *
 * The lists live outside of PHP's memory, or the tool would find itself.
 */
#include "php/engine/engine_int.h"

#include <inttypes.h>
#include <locale.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum {
    DEPTH_MAX = 3,
    ELEMENTS_MAX = 64,      /* of one array, for its fingerprint */
    MEMORY_NOTED = 4 << 10, /* less is the noise of superglobals */
};
/* Fingerprint of a constant expression: PHP replaces it by its value when it is first used. */
#define NOT_EVALUATED UINT64_MAX

struct item {
    uint64_t print;
    char shown[40]; /* "array(3)" */
};

struct state {
    HashTable items; /* name -> struct item, both outside of PHP's memory */
    size_t memory_bytes;
    bool values; /* shows numbers and settings, not only their types */
};

static void free_item(zval *v)
{
    mem_free(Z_PTR_P(v));
}

/* --- fingerprints ----------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    return (h ^ v) * UINT64_C(0x9E3779B97F4A7C15) + (h >> 29);
}

static uint64_t print_of(zval *v, int depth);

static uint64_t print_of_table(HashTable *t, int depth)
{
    uint64_t h = zend_hash_num_elements(t);
    uint32_t n = 0;
    zend_string *key;
    zend_ulong index;
    zval *v;

    if (depth >= DEPTH_MAX)
        return h;
    ZEND_HASH_FOREACH_KEY_VAL_IND(t, index, key, v)
    {
        if (n++ >= ELEMENTS_MAX)
            break;
        h = mix(h, key ? zend_string_hash_val(key) : index);
        h = mix(h, print_of(v, depth + 1));
    }
    ZEND_HASH_FOREACH_END();
    return h;
}

static uint64_t print_of(zval *v, int depth)
{
    uint64_t type;

    ZVAL_DEREF(v);
    type = Z_TYPE_P(v);
    switch (type) {
    case IS_LONG: return mix(type, (uint64_t)Z_LVAL_P(v));
    case IS_DOUBLE: return mix(type, (uint64_t)Z_LVAL_P(v)); /* its bits */
    case IS_STRING: return mix(type, zend_string_hash_val(Z_STR_P(v)));
    case IS_ARRAY: return mix(type, print_of_table(Z_ARRVAL_P(v), depth));
    case IS_RESOURCE: return mix(type, (uint64_t)Z_RES_HANDLE_P(v));
    case IS_OBJECT: {
        uint64_t h = mix(type, Z_OBJ_HANDLE_P(v));
        zend_object *o = Z_OBJ_P(v);
        /* only plain properties: get_properties would make a table that was not there */
        for (int i = 0; depth < DEPTH_MAX && i < o->ce->default_properties_count; i++)
            h = mix(h, print_of(OBJ_PROP_NUM(o, i), depth + 1));
        return h;
    }
    default: return type;
    }
}

static void show(const struct state *s, zval *v, char *out, size_t size)
{
    ZVAL_DEREF(v);
    switch (Z_TYPE_P(v)) {
    case IS_UNDEF: snprintf(out, size, "unset"); return;
    case IS_LONG:
        if (s->values)
            snprintf(out, size, ZEND_LONG_FMT, Z_LVAL_P(v));
        else
            snprintf(out, size, "int");
        return;
    case IS_STRING: snprintf(out, size, "string(%zu)", Z_STRLEN_P(v)); return;
    case IS_ARRAY: snprintf(out, size, "array(%u)", zend_hash_num_elements(Z_ARRVAL_P(v))); return;
    case IS_OBJECT: snprintf(out, size, "%.32s", ZSTR_VAL(Z_OBJCE_P(v)->name)); return;
    default: snprintf(out, size, "%s", zend_zval_type_name(v));
    }
}

/* --- the list --------------------------------------------------------------------------------- */

static struct item *add(struct state *s, const char *fmt, ...)
{
    struct item *item = mem_zalloc(sizeof(*item));
    char name[256];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(name, sizeof(name), fmt, ap);
    va_end(ap);
    size_t length = n < (int)sizeof(name) ? (size_t)n : sizeof(name) - 1;
    if (!zend_hash_str_update_ptr(&s->items, name, length, item))
        mem_free(item);
    return item;
}

static void add_value(struct state *s, const char *name, zval *v)
{
    struct item *item = add(s, "%s", name);

    item->print = Z_TYPE_P(v) == IS_CONSTANT_AST ? NOT_EVALUATED : print_of(v, 0);
    show(s, v, item->shown, sizeof(item->shown));
}

static void add_globals(struct state *s)
{
    zend_string *key;
    zval *v;

    ZEND_HASH_FOREACH_STR_KEY_VAL_IND(&EG(symbol_table), key, v)
    {
        char name[200];
        if (!key || zend_hash_exists(CG(auto_globals), key))
            continue;
        snprintf(name, sizeof(name), "global $%s", ZSTR_VAL(key));
        add_value(s, name, v);
    }
    ZEND_HASH_FOREACH_END();
}

static void add_static_variables(struct state *s, zend_function *f)
{
    zend_op_array *code = &f->op_array;
    HashTable *variables;
    zend_string *key;
    zval *v;

    if (f->type != ZEND_USER_FUNCTION || !code->static_variables)
        return;
    variables = ZEND_MAP_PTR_GET(code->static_variables_ptr);
    if (!variables) /* never called: as compiled */
        variables = code->static_variables;
    ZEND_HASH_FOREACH_STR_KEY_VAL(variables, key, v)
    {
        char name[240];
        zend_class_entry *scope = code->scope;
        if (!key)
            continue;
        snprintf(name, sizeof(name), "static variable $%s of %s%s%s()", ZSTR_VAL(key),
                 scope ? ZSTR_VAL(scope->name) : "", scope ? "::" : "",
                 code->function_name ? ZSTR_VAL(code->function_name) : "");
        add_value(s, name, v);
    }
    ZEND_HASH_FOREACH_END();
}

static void add_class(struct state *s, zend_class_entry *ce)
{
    zend_property_info *p;
    zend_function *f;
    zend_string *key;

    add(s, "class %s", ZSTR_VAL(ce->name));
    ZEND_HASH_FOREACH_STR_KEY_PTR(&ce->properties_info, key, p)
    {
        char name[240];
        if (!(p->flags & ZEND_ACC_STATIC) || p->ce != ce)
            continue;
        snprintf(name, sizeof(name), "static %s::$%s", ZSTR_VAL(ce->name), ZSTR_VAL(key));
        /* never used: as compiled */
        zval *members = CE_STATIC_MEMBERS(ce);
        add_value(s, name, (members ? members : ce->default_static_members_table) + p->offset);
    }
    ZEND_HASH_FOREACH_END();
    ZEND_HASH_FOREACH_PTR(&ce->function_table, f)
    {
        if (f->common.scope == ce)
            add_static_variables(s, f);
    }
    ZEND_HASH_FOREACH_END();
}

static void add_code(struct state *s)
{
    zend_class_entry *ce;
    zend_constant *c;
    zend_function *f;

    ZEND_HASH_FOREACH_PTR(EG(class_table), ce)
    {
        if (ce->type == ZEND_USER_CLASS)
            add_class(s, ce);
    }
    ZEND_HASH_FOREACH_END();
    ZEND_HASH_FOREACH_PTR(EG(function_table), f)
    {
        if (f->type != ZEND_USER_FUNCTION)
            continue;
        add(s, "function %s()", ZSTR_VAL(f->common.function_name));
        add_static_variables(s, f);
    }
    ZEND_HASH_FOREACH_END();
    ZEND_HASH_FOREACH_PTR(EG(zend_constants), c)
    {
        if (ZEND_CONSTANT_MODULE_NUMBER(c) == PHP_USER_CONSTANT)
            add(s, "constant %s", ZSTR_VAL(c->name));
    }
    ZEND_HASH_FOREACH_END();
}

static void add_count(struct state *s, const char *name, zend_long n)
{
    zval v;

    ZVAL_LONG(&v, n);
    add_value(s, name, &v);
}

static void add_settings(struct state *s)
{
    zend_ini_entry *e;

    if (EG(modified_ini_directives)) {
        ZEND_HASH_FOREACH_PTR(EG(modified_ini_directives), e)
        {
            struct item *item = add(s, "ini %s", ZSTR_VAL(e->name));
            item->print = e->value ? zend_string_hash_val(e->value) : 0;
            if (s->values)
                snprintf(item->shown, sizeof(item->shown), "\"%.32s\"",
                         e->value ? ZSTR_VAL(e->value) : "");
            else
                snprintf(item->shown, sizeof(item->shown), "changed");
        }
        ZEND_HASH_FOREACH_END();
    }
    add_value(s, "error handler", &EG(user_error_handler));
    add_value(s, "exception handler", &EG(user_exception_handler));
    add_count(s, "depth of error handlers", zend_stack_count(&EG(user_error_handlers)));
    add_count(s, "depth of exception handlers", zend_stack_count(&EG(user_exception_handlers)));
    if (BG(user_shutdown_function_names))
        add_count(s, "shutdown functions",
                  zend_hash_num_elements(BG(user_shutdown_function_names)));
}

/* How many objects of each class and resources of each type there are. */
static void add_things(struct state *s)
{
    zend_resource *r;

    for (uint32_t i = 1; i < EG(objects_store).top; i++) {
        zend_object *o = EG(objects_store).object_buckets[i];
        char name[240];
        if (!IS_OBJ_VALID(o) || (OBJ_FLAGS(o) & IS_OBJ_FREE_CALLED))
            continue;
        snprintf(name, sizeof(name), "objects of %s", ZSTR_VAL(o->ce->name));
        struct item *item = zend_hash_str_find_ptr(&s->items, name, strlen(name));
        if (!item)
            item = add(s, "%s", name);
        item->print++;
        snprintf(item->shown, sizeof(item->shown), "%" PRIu64, item->print);
    }
    ZEND_HASH_FOREACH_PTR(&EG(regular_list), r)
    {
        const char *type = zend_rsrc_list_get_rsrc_type(r);
        char name[80];
        snprintf(name, sizeof(name), "resources of type %s", type ? type : "unknown");
        struct item *item = zend_hash_str_find_ptr(&s->items, name, strlen(name));
        if (!item)
            item = add(s, "%s", name);
        item->print++;
        snprintf(item->shown, sizeof(item->shown), "%" PRIu64, item->print);
    }
    ZEND_HASH_FOREACH_END();
}

/* Of the process, not of PHP. */
static void add_surroundings(struct state *s)
{
    char folder[PATH_MAX];
    const char *locale = setlocale(LC_ALL, NULL);
    mode_t mask = umask(0);

    umask(mask);
    add(s, "umask")->print = mask;
    add(s, "working directory")->print =
        getcwd(folder, sizeof(folder)) ? zend_inline_hash_func(folder, strlen(folder)) : 0;
    if (locale)
        add(s, "locale")->print = zend_inline_hash_func(locale, strlen(locale));
    for (char **e = environ; e && *e; e++) {
        const char *equals = strchr(*e, '=');
        int n = equals ? (int)(equals - *e) : 0;
        if (n)
            add(s, "environment %.*s", n, *e)->print = zend_inline_hash_func(*e, strlen(*e));
    }
}

struct state *state_new(bool values)
{
    struct state *s = mem_zalloc(sizeof(*s));

    zend_hash_init(&s->items, 1024, NULL, free_item, 1);
    s->values = values;
    return s;
}

void state_list(struct state *s)
{
    zend_gc_collect_cycles();
    zend_hash_clean(&s->items);
    add_globals(s);
    add_code(s);
    add_settings(s);
    add_things(s);
    add_surroundings(s);
    s->memory_bytes = zend_memory_usage(false);
}

/* --- the comparison --------------------------------------------------------------------------- */

static void compare_new(const struct state *before, const struct state *after, state_told *tell,
                        void *context)
{
    zend_string *name;
    struct item *now, *old;

    ZEND_HASH_FOREACH_STR_KEY_PTR((HashTable *)&after->items, name, now)
    {
        old = zend_hash_find_ptr(&before->items, name);
        if (!old && strncmp(ZSTR_VAL(name), "static ", 7) == 0)
            continue; /* its class or function is new, and told */
        if (!old)
            tell(context, ZSTR_VAL(name), NULL, now->shown);
        else if (old->print != now->print && old->print != NOT_EVALUATED)
            tell(context, ZSTR_VAL(name), old->shown, now->shown);
    }
    ZEND_HASH_FOREACH_END();
}

void state_compare(const struct state *before, const struct state *after, state_told *tell,
                   void *context)
{
    zend_string *name;
    struct item *old;
    char text[40];

    if (after->memory_bytes > before->memory_bytes + MEMORY_NOTED) {
        snprintf(text, sizeof(text), "+%zu KiB",
                 (after->memory_bytes - before->memory_bytes) >> 10);
        tell(context, "memory", NULL, text);
    }
    compare_new(before, after, tell, context);
    ZEND_HASH_FOREACH_STR_KEY_PTR((HashTable *)&before->items, name, old)
    {
        bool counted = strncmp(ZSTR_VAL(name), "objects", 7) == 0 ||
                       strncmp(ZSTR_VAL(name), "resources", 9) == 0;
        if (!counted && !zend_hash_exists(&after->items, name))
            tell(context, ZSTR_VAL(name), old->shown, NULL);
    }
    ZEND_HASH_FOREACH_END();
}
