/*
 * snapshot_at: a script is frozen where its configuration says, without a change to it: when a file
 * has been included, or a function has returned.
 *
 * Only the process that is to be frozen looks for that place, and only until it is there; what the
 * image holds afterwards is the engine as it was.
 *
 * include:FILE. The hook of zend_compile_file() runs the file itself, as include would, freezes,
 * and gives include a piece of code that only returns what the file returned.
 *
 * function:NAME. As soon as the function is declared, its instructions are replaced by a copy in
 * which an unused opcode stands wherever it returns. That one freezes and goes on at the original's
 * instruction. (Code that the JIT has compiled enters the original, where another opcode leads to
 * the copy.) Calls, arguments, by reference or not, and return values are what they always are;
 * neither the rest of the script nor the JIT notice. The function may stand in opcache's shared
 * memory, where no other process must see the change: a pool process has only one process that
 * boots, before any worker, and one whose image is lost is replaced as a whole (pool_script.c).
 */
#include "php/engine/engine_int.h"

#include "base/mem.h"

#include "zend_vm.h"

enum {
    /* of no PHP: they count up from 0, and 8.5 has 210 */
    OP_RETURN = 250,
    OP_ENTER = 251,
    ENTRIES_MAX = 64,
};

static struct {
    const char *at; /* NULL: nothing is looked for (any more) */
    struct str file;
    struct str class, function; /* in lower case; class empty: a function */
    char *parent;               /* class, when it turned out to inherit the method */
    zend_op_array *(*compile)(zend_file_handle *, int);
    zend_class_entry *(*autoload)(zend_string *, zend_string *);
    uint32_t classes_seen;
    bool runs; /* the file that is looked for */
    /* the function that is looked for, once it is there */
    zend_op_array *found;
    zend_op *copy, *original;
    void *reserved[ZEND_MAX_RESERVED_RESOURCES];
    struct {
        const void *handler;
        uint8_t opcode;
    } entries[ENTRIES_MAX]; /* of the original */
    uint32_t n_entries;
    zend_internal_function *internal;
    zif_handler handler;
} point;

static void reached(void)
{
    char what[512];

    snprintf(what, sizeof(what), "snapshot_at (\"%s\") was reached", point.at);
    seed_freeze(what);
}

/* --- functions -------------------------------------------------------------------------------- */

static size_t code_bytes(const zend_op_array *a)
{
    return ZEND_MM_ALIGNED_SIZE_EX(sizeof(zend_op) * a->last, 16);
}

/* Constants are found by their distance from the instruction. */
static void move_constant(const zend_op_array *a, znode_op *node, const zend_op *from,
                          const zend_op *to, zval *literals)
{
    zval *was = RT_CONSTANT(from, *node);

    node->constant = (uint32_t)((char *)(literals + (was - a->literals)) - (const char *)to);
}

/* The same instructions elsewhere, with ours where it returns. */
static zend_op *copy_code(const zend_op_array *a)
{
    char *block = mem_zalloc(code_bytes(a) + sizeof(zval) * (size_t)a->last_literal);
    zend_op *copy = (zend_op *)block;
    zval *literals = (zval *)(block + code_bytes(a));

    memcpy(copy, a->opcodes, sizeof(zend_op) * a->last);
    memcpy(literals, a->literals, sizeof(zval) * (size_t)a->last_literal);
    for (uint32_t i = 0; i < a->last; i++) {
        if (copy[i].op1_type == IS_CONST)
            move_constant(a, &copy[i].op1, a->opcodes + i, copy + i, literals);
        if (copy[i].op2_type == IS_CONST)
            move_constant(a, &copy[i].op2, a->opcodes + i, copy + i, literals);
        if (copy[i].opcode == ZEND_RETURN || copy[i].opcode == ZEND_RETURN_BY_REF)
            copy[i].opcode = OP_RETURN;
        zend_vm_set_opcode_handler(copy + i);
    }
    return copy;
}

/* Where calls enter: arguments that need no check are skipped. */
static void change_entries(zend_op_array *a)
{
    zend_op ours = { .opcode = OP_ENTER };

    zend_vm_set_opcode_handler(&ours);
    point.n_entries = MIN(MIN(a->num_args + 1, a->last), (uint32_t)ENTRIES_MAX);
    for (uint32_t i = 0; i < point.n_entries; i++) {
        zend_op *op = point.original + i;
        point.entries[i].handler = op->handler;
        point.entries[i].opcode = op->opcode;
        op->handler = ours.handler;
        op->opcode = OP_ENTER;
    }
}

static int on_enter(zend_execute_data *frame)
{
    ptrdiff_t i = frame->opline - point.original;

    CHECK(point.found && i >= 0 && i < (ptrdiff_t)point.n_entries);
    frame->opline = point.copy + i;
    return ZEND_USER_OPCODE_CONTINUE;
}

static void take_function_back(void)
{
    if (point.found) {
        for (uint32_t i = 0; i < point.n_entries; i++) {
            point.original[i].handler = point.entries[i].handler;
            point.original[i].opcode = point.entries[i].opcode;
        }
        point.found->opcodes = point.original;
        memcpy(point.found->reserved, point.reserved, sizeof(point.reserved));
        point.found = NULL;
    }
    if (point.internal) {
        point.internal->handler = point.handler;
        point.internal = NULL;
    }
}

static int on_return(zend_execute_data *frame)
{
    ptrdiff_t i = frame->opline - point.copy;

    CHECK(i >= 0 && point.original);
    if (frame->func->op_array.opcodes == point.copy) /* not beneath a call that froze */
        reached();
    frame->opline = point.original + i;
    if (EG(exception))
        zend_rethrow_exception(frame);
    return ZEND_USER_OPCODE_CONTINUE;
}

/* Of a function of PHP itself. */
static ZEND_NAMED_FUNCTION(call_then_freeze)
{
    point.handler(INTERNAL_FUNCTION_PARAM_PASSTHRU);
    if (point.internal && !EG(exception))
        reached();
}

static void watch_function(zend_function *f)
{
    char text[512];

    if (f->type == ZEND_INTERNAL_FUNCTION) {
        point.internal = &f->internal_function;
        point.handler = f->internal_function.handler;
        f->internal_function.handler = call_then_freeze;
        return;
    }
    zend_op_array *a = &f->op_array;
    if (a->fn_flags & (ZEND_ACC_GENERATOR | ZEND_ACC_ABSTRACT)) {
        snprintf(text, sizeof(text),
                 "the script cannot be frozen: snapshot_at (\"%s\") names %s (%s:%u); name a "
                 "function that runs and returns",
                 point.at, a->fn_flags & ZEND_ACC_GENERATOR ? "a generator" : "an abstract method",
                 ZSTR_VAL(a->filename), a->line_start);
        rollback_refuse(text);
    }
    if (INI_BOOL("opcache.protect_memory"))
        rollback_refuse("the script cannot be frozen: snapshot_at with a function does not work "
                        "with opcache.protect_memory=1, which is for debugging");
    point.found = a;
    point.original = a->opcodes;
    point.copy = copy_code(a);
    memcpy(point.reserved, a->reserved, sizeof(point.reserved));
    memset(a->reserved, 0, sizeof(point.reserved)); /* the JIT's notes on each instruction */
    a->opcodes = point.copy;
    change_entries(a);
}

static zend_function *find_in_table(const HashTable *table, struct str name)
{
    return zend_hash_str_find_ptr(table, name.p, name.n);
}

/* The class, as far as it is known: the method may be its parent's. */
static zend_function *find_in_class(const zend_class_entry *ce)
{
    zend_function *f = find_in_table(&ce->function_table, point.function);

    if (f || !ce->parent_name || (ce->ce_flags & ZEND_ACC_LINKED))
        return f;
    mem_free(point.parent);
    point.parent =
        mem_strndup((struct str){ ZSTR_VAL(ce->parent_name), ZSTR_LEN(ce->parent_name) });
    for (char *c = point.parent; *c; c++)
        *c = ascii_lower(*c);
    point.class = str_from(point.parent);
    point.classes_seen = 0; /* it may be there already */
    return NULL;
}

/* Classes that are not linked yet stand in the table under other names. */
static zend_function *find_method(void)
{
    zend_class_entry *ce = zend_hash_str_find_ptr(CG(class_table), point.class.p, point.class.n);
    zend_function *f = ce ? find_in_class(ce) : NULL;

    for (; !f && point.classes_seen < CG(class_table)->nNumUsed; point.classes_seen++) {
        const Bucket *b = CG(class_table)->arData + point.classes_seen;
        ce = Z_TYPE(b->val) == IS_PTR ? Z_PTR(b->val) : NULL;
        if (ce &&
            str_eq_nocase((struct str){ ZSTR_VAL(ce->name), ZSTR_LEN(ce->name) }, point.class))
            f = find_in_class(ce);
    }
    return f;
}

/* Functions that the code of a file declares when it comes to them, under an `if`. */
static zend_function *find_conditional(const zend_op_array *a)
{
    for (uint32_t i = 0; i < a->num_dynamic_func_defs; i++) {
        zend_op_array *f = a->dynamic_func_defs[i];
        if (f->function_name && !(f->fn_flags & ZEND_ACC_CLOSURE) &&
            str_eq_nocase((struct str){ ZSTR_VAL(f->function_name), ZSTR_LEN(f->function_name) },
                          point.function))
            return (zend_function *)f;
    }
    return NULL;
}

static void look_for_function(const zend_op_array *compiled)
{
    zend_function *f;

    if (!point.at || point.file.n || point.found || point.internal)
        return;
    if (point.class.n)
        f = find_method();
    else
        f = find_in_table(CG(function_table), point.function);
    if (!f && !point.class.n && compiled)
        f = find_conditional(compiled);
    if (f)
        watch_function(f);
}

static zend_class_entry *autoload(zend_string *name, zend_string *lc_name)
{
    zend_class_entry *ce = point.autoload(name, lc_name);

    look_for_function(NULL);
    return ce;
}

/* --- files ------------------------------------------------------------------------------------ */

/* "wp-includes/x.php" names every file that ends so. */
static bool is_looked_for(const zend_string *path)
{
    struct str is = { ZSTR_VAL(path), ZSTR_LEN(path) }, name = point.file;

    if (name.n && name.p[0] == '/')
        return str_eq(is, name);
    return name.n && str_has_suffix(is, name) && (is.n == name.n || is.p[is.n - name.n - 1] == '/');
}

/* "return X;", which takes over `value`. */
static zend_op_array *code_that_returns(zval *value)
{
    zend_string *source = zend_string_init("return 1;", 9, 0);
    zend_op_array *a =
        zend_compile_string(source, "snapshot_at", ZEND_COMPILE_POSITION_AFTER_OPEN_TAG);

    zend_string_release(source);
    CHECKF(a && a->opcodes[0].opcode == ZEND_RETURN && a->opcodes[0].op1_type == IS_CONST,
           "return 1; is compiled to something else");
    ZVAL_COPY_VALUE(RT_CONSTANT(a->opcodes, a->opcodes[0].op1), value);
    return a;
}

/* As ZEND_INCLUDE_OR_EVAL does. */
static zend_op_array *include_and_freeze(zend_op_array *file)
{
    zval result;

    zend_hash_add_empty_element(&EG(included_files), file->filename);
    file->scope = zend_get_executed_scope();
    ZVAL_UNDEF(&result);
    point.runs = true;
    zend_execute(file, &result);
    point.runs = false;
    zend_destroy_static_vars(file);
    destroy_op_array(file);
    efree_size(file, sizeof(*file));
    if (EG(exception)) { /* it may be included again */
        zend_rethrow_exception(EG(current_execute_data));
        return NULL;
    }
    reached();
    if (Z_ISUNDEF(result))
        ZVAL_NULL(&result);
    if (Z_ISREF(result))
        zend_unwrap_reference(&result);
    return code_that_returns(&result);
}

static zend_op_array *compile(zend_file_handle *h, int type)
{
    zend_op_array *a = point.compile(h, type);

    if (!a || !point.at || point.runs)
        return a;
    look_for_function(a);
    if (!a->filename || h->primary_script || !EG(current_execute_data) ||
        !is_looked_for(a->filename))
        return a;
    return include_and_freeze(a);
}

/* --- from the beginning to the freeze --------------------------------------------------------- */

static struct str lower(struct str s)
{
    char *copy = mem_strndup(s);

    for (char *c = copy; *c; c++)
        *c = ascii_lower(*c);
    return str_from(copy);
}

void freeze_point_watch(const char *at)
{
    struct str name = str_from(at);

    point.at = at;
    if (str_has_prefix(name, STR("include:"))) {
        point.file = str_skip(name, strlen("include:"));
    } else {
        point.function = lower(str_skip(name, strlen("function:")));
        if (point.function.n && point.function.p[0] == '\\')
            point.function = str_skip(point.function, 1);
        ptrdiff_t colon = str_find(point.function, ':');
        if (colon > 0) {
            point.class = str_take(point.function, (size_t)colon);
            point.function = str_skip(point.function, (size_t)colon + 2);
        }
        CHECK(zend_set_user_opcode_handler(OP_RETURN, on_return) == SUCCESS);
        CHECK(zend_set_user_opcode_handler(OP_ENTER, on_enter) == SUCCESS);
    }
    point.compile = zend_compile_file;
    zend_compile_file = compile;
    point.autoload = zend_autoload;
    zend_autoload = autoload;
    look_for_function(NULL);
}

const char *freeze_point_hint(void)
{
    if (!point.at)
        return "";
    if (point.found)
        return ": that function did not return (calls of one that only returns a constant are "
               "compiled away)";
    return point.internal ? ": that function did not return"
           : point.file.n ? ": that file was not included"
                          : ": there is no such function";
}

void freeze_point_end(void)
{
    if (!point.at)
        return;
    take_function_back();
    if (zend_compile_file == compile)
        zend_compile_file = point.compile;
    if (zend_autoload == autoload)
        zend_autoload = point.autoload;
    point.at = NULL;
}
