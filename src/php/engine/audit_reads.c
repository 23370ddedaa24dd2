/*
 * What PHP code reads of a request. Its superglobals are arrays, and whatever way code comes by one
 * ($_SERVER, $GLOBALS['_SERVER'], a reference, a parameter, a copy in a property) it has that same
 * array in its hands, until somebody changes a copy. So opcodes that look into an array compare it
 * with those of the superglobals, and what code has merely passed on is no read; a copy that still
 * exists at the freeze is one of everything.
 *
 * An array that code writes to while others hold it is replaced by a duplicate; the old one is then
 * remembered here, with a reference so that no other array can take its address.
 */
#include "php/engine/audit_int.h"

#include <stdlib.h>

enum { OLD_MAX = 256 };

static struct {
    zend_string *names[AUDIT_GLOBALS];
    HashTable written[AUDIT_GLOBALS]; /* keys that the boot itself has set or unset */
    bool replaced[AUDIT_GLOBALS];     /* the boot has assigned another array, */
    bool whole[AUDIT_GLOBALS];        /* which may be made of the first: all of it was read */
    struct {
        HashTable *array;
        enum audit_global global;
    } old[OLD_MAX];
    uint32_t n_old;
    user_opcode_handler_t before[256]; /* of other extensions */
} reads;

/* --- which array is that ---------------------------------------------------------------------- */

static const int tracked[AUDIT_GLOBALS] = {
    [AUDIT_SERVER] = TRACK_VARS_SERVER, [AUDIT_GET] = TRACK_VARS_GET,
    [AUDIT_POST] = TRACK_VARS_POST,     [AUDIT_COOKIE] = TRACK_VARS_COOKIE,
    [AUDIT_FILES] = TRACK_VARS_FILES,   [AUDIT_REQUEST] = -1,
    [AUDIT_ENV] = TRACK_VARS_ENV,
};

/* Where the superglobal's value is; NULL: it is not made yet. */
static zval *variable(enum audit_global g)
{
    zval *v = zend_hash_find_known_hash(&EG(symbol_table), reads.names[g]);

    if (v && Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    if (v)
        ZVAL_DEREF(v);
    return v;
}

/* What the request brought, whatever has become of the superglobal. */
static HashTable *original(enum audit_global g)
{
    zval *v = g >= AUDIT_GLOBALS || tracked[g] < 0 ? NULL : &PG(http_globals)[tracked[g]];

    return v && Z_TYPE_P(v) == IS_ARRAY ? Z_ARR_P(v) : NULL;
}

static bool is_current(enum audit_global g, const HashTable *array)
{
    const zval *v = variable(g);

    return v && Z_TYPE_P(v) == IS_ARRAY && Z_ARR_P(v) == array;
}

/* Its present array is nothing that the request brought. */
static bool is_own(enum audit_global g)
{
    return reads.replaced[g] && !reads.whole[g];
}

enum audit_global audit_global_of(const HashTable *array)
{
    if (array == &zend_empty_array) /* shared by all that are empty */
        return AUDIT_GLOBALS;
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++)
        if (array == original(g) || (!is_own(g) && is_current(g, array)))
            return g;
    for (uint32_t i = 0; i < reads.n_old; i++)
        if (array == reads.old[i].array)
            return reads.old[i].global;
    return AUDIT_GLOBALS;
}

static enum audit_global global_of(const zval *v)
{
    return v && Z_TYPE_P(v) == IS_ARRAY ? audit_global_of(Z_ARR_P(v)) : AUDIT_GLOBALS;
}

/* That value is the superglobal itself, or a reference to it, and no copy. */
static bool is_variable(enum audit_global g, const zval *v)
{
    return v && v == variable(g);
}

/* --- reads and writes ------------------------------------------------------------------------- */

/* As the engine makes keys of operands. NULL: such a key cannot be (an array, say). */
static zend_string *key_of(const zval *v)
{
    switch (Z_TYPE_P(v)) {
    case IS_STRING: return zend_string_copy(Z_STR_P(v));
    case IS_UNDEF:
    case IS_NULL: return ZSTR_EMPTY_ALLOC();
    case IS_FALSE: return zend_long_to_str(0);
    case IS_TRUE: return zend_long_to_str(1);
    case IS_LONG: return zend_long_to_str(Z_LVAL_P(v));
    case IS_DOUBLE: return zend_long_to_str(zend_dval_to_lval(Z_DVAL_P(v)));
    default: return NULL;
    }
}

static void read_key_of(enum audit_global g, HashTable *array, zend_string *key)
{
    if (is_current(g, array) && (is_own(g) || zend_hash_exists(&reads.written[g], key)))
        return;
    HashTable *from = original(g) ? original(g) : array;
    audit_note_read(g, key, zend_symtable_find(from, key));
}

void audit_read_key(enum audit_global g, zend_string *key)
{
    const zval *v = g < AUDIT_GLOBALS ? variable(g) : NULL;
    HashTable *array = original(g);

    if (!array && v && Z_TYPE_P(v) == IS_ARRAY)
        array = Z_ARR_P(v);
    audit_note_read(g, key, array ? zend_symtable_find(array, key) : NULL);
}

void audit_read_all(enum audit_global g)
{
    zval whole;
    HashTable *array = original(g);

    if (g < AUDIT_GLOBALS)
        reads.whole[g] = true;
    if (array)
        ZVAL_ARR(&whole, array);
    /* what all of $_SERVER was is not for a list, and is never the same */
    audit_note_read(g, NULL, array && g != AUDIT_SERVER && g != AUDIT_ENV ? &whole : NULL);
}

/* Before that array is written to. */
static void remember(enum audit_global g, HashTable *array)
{
    if (GC_REFCOUNT(array) == 1 || (GC_FLAGS(array) & GC_IMMUTABLE) || array == original(g))
        return;
    for (uint32_t i = 0; i < reads.n_old; i++)
        if (reads.old[i].array == array)
            return;
    if (reads.n_old == OLD_MAX) {
        audit_read_all(g); /* too many to tell: the worst is assumed */
        return;
    }
    GC_ADDREF(array);
    reads.old[reads.n_old].array = array;
    reads.old[reads.n_old++].global = g;
}

/* What the boot sets or takes away hides what a request brought: only those that bring the same see
 * no difference. */
static void hide_key(enum audit_global g, zend_string *key)
{
    if (!is_own(g) && !zend_hash_exists(&reads.written[g], key) &&
        ((g != AUDIT_SERVER && g != AUDIT_ENV) ||
         variables_may_differ((struct str){ ZSTR_VAL(key), ZSTR_LEN(key) })))
        audit_read_key(g, key);
}

static void hide_all(enum audit_global g)
{
    HashTable *array = original(g);
    zval whole;

    if (array)
        ZVAL_ARR(&whole, array);
    if (g != AUDIT_ENV && !is_own(g))
        audit_note_read(g, NULL, array && g != AUDIT_SERVER ? &whole : NULL);
}

static void write_key(enum audit_global g, zval *container, const zval *key)
{
    zend_string *name = key ? key_of(key) : NULL;

    remember(g, Z_ARR_P(container));
    if (!is_variable(g, container)) {
        audit_read_all(g); /* a copy with a change holds all the rest */
    } else if (!key && g != AUDIT_SERVER) {
        hide_all(g); /* $_GET[] = 1: which key that is, is up to all the others */
    } else if (name) {
        zval yes;
        hide_key(g, name);
        ZVAL_TRUE(&yes);
        zend_hash_update(&reads.written[g], name, &yes);
    }
    if (name)
        zend_string_release(name);
}

static void read_key(enum audit_global g, const zval *container, const zval *key)
{
    zend_string *name = key ? key_of(key) : NULL;

    if (!name)
        return;
    read_key_of(g, Z_ARR_P(container), name);
    zend_string_release(name);
}

static void read_value(const zval *v, unsigned depth, bool into_objects)
{
    enum { DEPTH_MAX = 4 };
    zval *inner;

    ZVAL_DEREF(v);
    enum audit_global g = global_of(v);
    if (g != AUDIT_GLOBALS) {
        audit_read_all(g);
        return;
    }
    HashTable *inside = Z_TYPE_P(v) == IS_ARRAY                    ? Z_ARR_P(v)
                        : into_objects && Z_TYPE_P(v) == IS_OBJECT ? Z_OBJPROP_P(v)
                                                                   : NULL;
    if (!inside || depth == DEPTH_MAX)
        return;
    ZEND_HASH_FOREACH_VAL_IND(inside, inner)
    {
        read_value(inner, depth + 1, into_objects);
    }
    ZEND_HASH_FOREACH_END();
}

void audit_read_value(const zval *v, bool into_objects)
{
    read_value(v, 0, into_objects);
}

/* --- opcodes ---------------------------------------------------------------------------------- */

static zval *operand(zend_execute_data *execute_data, const zend_op *opline, zend_uchar type,
                     znode_op node)
{
    zval *v;

    if (type == IS_UNUSED)
        return NULL;
    v = type == IS_CONST ? RT_CONSTANT(opline, node) : ZEND_CALL_VAR(execute_data, node.var);
    if (Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    ZVAL_DEREF(v);
    return v;
}

#define OP1() operand(execute_data, EX(opline), EX(opline)->op1_type, EX(opline)->op1)
#define OP2() operand(execute_data, EX(opline), EX(opline)->op2_type, EX(opline)->op2)

static int go_on(zend_execute_data *execute_data)
{
    user_opcode_handler_t before = reads.before[EX(opline)->opcode];

    return before ? before(execute_data) : ZEND_USER_OPCODE_DISPATCH;
}

static int on_read_key(zend_execute_data *execute_data)
{
    const zval *array = OP1();
    enum audit_global g = global_of(array);

    if (g != AUDIT_GLOBALS)
        read_key(g, array, OP2());
    return go_on(execute_data);
}

/* isset() of something deeper, ??=, references, $_GET['a']['b'] = 1: it is read and may change. */
static int on_change_key(zend_execute_data *execute_data)
{
    zval *array = OP1();
    enum audit_global g = global_of(array);

    if (g != AUDIT_GLOBALS) {
        read_key(g, array, OP2());
        write_key(g, array, OP2());
    }
    return go_on(execute_data);
}

static int on_write_key(zend_execute_data *execute_data)
{
    zval *array = OP1();
    enum audit_global g = global_of(array);

    if (g != AUDIT_GLOBALS)
        write_key(g, array, OP2());
    return go_on(execute_data);
}

static int on_read_all(zend_execute_data *execute_data)
{
    enum audit_global g = global_of(OP1());

    if (g != AUDIT_GLOBALS)
        audit_read_all(g);
    return go_on(execute_data);
}

static int on_both(zend_execute_data *execute_data)
{
    enum audit_global g = global_of(OP2());

    if (g != AUDIT_GLOBALS)
        audit_read_all(g);
    return on_read_all(execute_data);
}

static bool is_identity(zend_uchar opcode)
{
    return opcode == ZEND_IS_IDENTICAL || opcode == ZEND_IS_NOT_IDENTICAL ||
           opcode == ZEND_CASE_STRICT;
}

/* Two arrays, and what is in them; what two objects hold, unless they need be the same; an array
 * and something else: whether it is empty. */
static int on_compare(zend_execute_data *execute_data)
{
    const zval *a = OP1(), *b = OP2();
    bool strict = is_identity(EX(opline)->opcode);

    if (!a || !b || (strict && Z_TYPE_P(a) != Z_TYPE_P(b)))
        return go_on(execute_data);
    if (Z_TYPE_P(a) == Z_TYPE_P(b) && (Z_TYPE_P(a) == IS_ARRAY || !strict)) {
        audit_read_value(a, !strict);
        audit_read_value(b, !strict);
        return go_on(execute_data);
    }
    return on_both(execute_data);
}

/* Is it empty? $_SERVER never is. */
static void read_truth(const zval *v)
{
    enum audit_global g = global_of(v);

    if (g != AUDIT_GLOBALS && g != AUDIT_SERVER)
        audit_read_all(g);
}

static int on_truth(zend_execute_data *execute_data)
{
    read_truth(OP1());
    return go_on(execute_data);
}

static int on_xor(zend_execute_data *execute_data)
{
    read_truth(OP2());
    return on_truth(execute_data);
}

static int on_cast(zend_execute_data *execute_data)
{
    unsigned type = EX(opline)->extended_value;

    if (type == IS_ARRAY)
        return go_on(execute_data);
    return type == _IS_BOOL ? on_truth(execute_data) : on_read_all(execute_data);
}

/* --- what stands in a key or a property: a copy of a superglobal, perhaps --------------------- */

static zval *plain(zval *v)
{
    if (v && Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    if (v)
        ZVAL_DEREF(v);
    return v;
}

/* $array[$key] */
static zval *element(zend_execute_data *execute_data)
{
    const zval *array = OP1(), *key = OP2();

    if (!array || !key || Z_TYPE_P(array) != IS_ARRAY)
        return NULL;
    if (Z_TYPE_P(key) == IS_LONG)
        return plain(zend_hash_index_find(Z_ARR_P(array), (zend_ulong)Z_LVAL_P(key)));
    return Z_TYPE_P(key) == IS_STRING ? plain(zend_symtable_find(Z_ARR_P(array), Z_STR_P(key)))
                                      : NULL;
}

/* $object->name, without the object's own methods for that. */
static zval *property(zend_execute_data *execute_data)
{
    const zend_op *opline = EX(opline);
    const zval *of = opline->op1_type == IS_UNUSED ? &EX(This) : OP1(), *name = OP2();

    if (!of || Z_TYPE_P(of) != IS_OBJECT || !name || Z_TYPE_P(name) != IS_STRING)
        return NULL;
    zend_object *o = Z_OBJ_P(of);
    const zend_property_info *p = zend_hash_find_ptr(&o->ce->properties_info, Z_STR_P(name));
    if (p && !(p->flags & ZEND_ACC_STATIC) && (int)p->offset > 0)
        return plain(OBJ_PROP(o, p->offset));
    return o->properties ? plain(zend_hash_find(o->properties, Z_STR_P(name))) : NULL;
}

static zval *static_members(const zend_class_entry *ce)
{
    return ZEND_MAP_PTR(ce->static_members_table) ? CE_STATIC_MEMBERS(ce) : NULL;
}

/* A::$name */
static zval *static_property(zend_execute_data *execute_data)
{
    const zend_op *opline = EX(opline);
    const zval *name = OP1();
    zend_class_entry *ce = EX(func)->common.scope;

    if (opline->op2_type == IS_CONST) /* behind it, in lower case */
        ce = zend_hash_find_ptr(EG(class_table), Z_STR_P(RT_CONSTANT(opline, opline->op2) + 1));
    else if (opline->op2_type != IS_UNUSED)
        ce = Z_CE_P(EX_VAR(opline->op2.var));
    else if ((opline->op2.num & ZEND_FETCH_CLASS_MASK) == ZEND_FETCH_CLASS_STATIC)
        ce = zend_get_called_scope(execute_data);
    else if ((opline->op2.num & ZEND_FETCH_CLASS_MASK) == ZEND_FETCH_CLASS_PARENT)
        ce = ce ? ce->parent : NULL;
    while (ce && !static_members(ce)) /* nobody has asked this class yet: the parent's are its */
        ce = ce->parent;
    if (!ce || !name || Z_TYPE_P(name) != IS_STRING)
        return NULL;
    const zend_property_info *p = zend_hash_find_ptr(&ce->properties_info, Z_STR_P(name));
    zval *values = static_members(ce);
    return p && (p->flags & ZEND_ACC_STATIC) && values ? plain(values + p->offset) : NULL;
}

static int on_isset_key(zend_execute_data *execute_data)
{
    if (EX(opline)->extended_value & ZEND_ISEMPTY)
        read_truth(element(execute_data));
    return on_read_key(execute_data);
}

static int on_isset_property(zend_execute_data *execute_data)
{
    if (EX(opline)->extended_value & ZEND_ISEMPTY)
        read_truth(property(execute_data));
    return go_on(execute_data);
}

static int on_isset_static(zend_execute_data *execute_data)
{
    if (EX(opline)->extended_value & ZEND_ISEMPTY)
        read_truth(static_property(execute_data));
    return go_on(execute_data);
}

static int on_isset_local(zend_execute_data *execute_data)
{
    return EX(opline)->extended_value & ZEND_ISEMPTY ? on_truth(execute_data) : go_on(execute_data);
}

/* `$this->data += $_GET`, and `+=` where a copy of one stands already: both are read. */
static void read_operands(zend_execute_data *execute_data, const zval *into)
{
    const zend_op *data = EX(opline) + 1;
    enum audit_global g = global_of(into);

    if (g != AUDIT_GLOBALS)
        audit_read_all(g);
    g = global_of(operand(execute_data, data, data->op1_type, data->op1));
    if (g != AUDIT_GLOBALS)
        audit_read_all(g);
}

static int on_assign_op_key(zend_execute_data *execute_data)
{
    read_operands(execute_data, element(execute_data));
    return on_change_key(execute_data);
}

static int on_assign_op_property(zend_execute_data *execute_data)
{
    read_operands(execute_data, property(execute_data));
    return go_on(execute_data);
}

static int on_assign_op_static(zend_execute_data *execute_data)
{
    read_operands(execute_data, static_property(execute_data));
    return go_on(execute_data);
}

/* --- variables -------------------------------------------------------------------------------- */

/* empty($_POST), and isset($GLOBALS['_POST']), which is no read. */
static int on_isset_variable(zend_execute_data *execute_data)
{
    const zend_op *opline = EX(opline);
    const zval *name = OP1();

    if (!(opline->extended_value & ZEND_ISEMPTY) || !name || Z_TYPE_P(name) != IS_STRING)
        return go_on(execute_data);
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++)
        if (g != AUDIT_SERVER && !is_own(g) && zend_string_equals(reads.names[g], Z_STR_P(name)) &&
            variable(g))
            audit_read_all(g);
    return go_on(execute_data);
}

static int on_unset_variable(zend_execute_data *execute_data)
{
    const zval *name = OP1();

    for (unsigned g = 0; name && Z_TYPE_P(name) == IS_STRING && g < AUDIT_GLOBALS; g++)
        if (zend_string_equals(reads.names[g], Z_STR_P(name)))
            hide_all(g);
    return go_on(execute_data);
}

/* `$_SERVER += $defaults` looks at the keys of $defaults only. */
static void add_defaults(enum audit_global g, zval *array, HashTable *defaults)
{
    zend_ulong index;
    zend_string *name;

    ZEND_HASH_FOREACH_KEY(defaults, index, name)
    {
        zval key;
        if (name)
            ZVAL_STR(&key, name);
        else
            ZVAL_LONG(&key, (zend_long)index);
        read_key(g, array, &key);
        if (!zend_hash_exists(Z_ARR_P(array), name ? name : ZSTR_EMPTY_ALLOC()))
            write_key(g, array, &key);
    }
    ZEND_HASH_FOREACH_END();
    remember(g, Z_ARR_P(array));
}

static int on_assign_op(zend_execute_data *execute_data)
{
    zval *into = OP1(), *from = OP2();
    enum audit_global g = global_of(into), other = global_of(from);

    if (g != AUDIT_GLOBALS && EX(opline)->extended_value == ZEND_ADD && is_variable(g, into) &&
        from && Z_TYPE_P(from) == IS_ARRAY)
        add_defaults(g, into, Z_ARR_P(from));
    else if (g != AUDIT_GLOBALS)
        audit_read_all(g);
    if (other != AUDIT_GLOBALS && zend_hash_num_elements(Z_ARR_P(from)))
        audit_read_all(other);
    return go_on(execute_data);
}

/* $_GET = []: what is in it now the boot has put there. $_SERVER = array_merge(..., $_SERVER), as
 * in WordPress: it is still the request's. */
static int on_assign(zend_execute_data *execute_data)
{
    const zval *into = OP1(), *value = OP2();

    if (Z_TYPE_P(into) != IS_ARRAY)
        return go_on(execute_data);
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++)
        if (is_variable(g, into) && global_of(value) != g) {
            remember(g, Z_ARR_P(into));
            /* $_REQUEST = array_merge($_GET, $_POST): those have been read */
            if (g != AUDIT_REQUEST || !reads.whole[AUDIT_GET])
                hide_all(g);
            reads.replaced[g] = true;
            zend_hash_clean(&reads.written[g]);
        }
    return go_on(execute_data);
}

/* The $_SERVER of $_SERVER['HTTP_HOST']. */
static bool is_for_key(const zend_op *next)
{
    switch (next->opcode) {
    case ZEND_FETCH_DIM_R:
    case ZEND_FETCH_DIM_IS:
    case ZEND_FETCH_DIM_W:
    case ZEND_FETCH_DIM_RW:
    case ZEND_FETCH_DIM_UNSET:
    case ZEND_FETCH_DIM_FUNC_ARG:
    case ZEND_ISSET_ISEMPTY_DIM_OBJ:
    case ZEND_ASSIGN_DIM:
    case ZEND_ASSIGN_DIM_OP:
    case ZEND_UNSET_DIM: return true;
    default: return false;
    }
}

/* Where all of a superglobal is taken to be put somewhere: for the sentence about a copy. */
static int on_fetch(zend_execute_data *execute_data)
{
    const zval *name = OP1();

    if (!name || Z_TYPE_P(name) != IS_STRING || is_for_key(EX(opline) + 1))
        return go_on(execute_data);
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++)
        if (zend_string_equals(reads.names[g], Z_STR_P(name)))
            audit_note_copy(g);
    return go_on(execute_data);
}

static int on_return(zend_execute_data *execute_data)
{
    audit_returned(EX(func), !EX(prev_execute_data));
    return go_on(execute_data);
}

/* Of array_key_exists($key, $array) the second operand is the array. */
static int on_key_exists(zend_execute_data *execute_data)
{
    const zval *array = OP2(), *key = OP1();
    enum audit_global g = global_of(array);

    if (g != AUDIT_GLOBALS && key)
        read_key(g, array, key);
    return go_on(execute_data);
}

#ifdef ZEND_FRAMELESS_ICALL_1
/* What the function does with them is not asked. */
static int on_frameless(zend_execute_data *execute_data)
{
    const zend_op *third = EX(opline) + 1;
    const zval *v[] = { OP1(), EX(opline)->opcode == ZEND_FRAMELESS_ICALL_1 ? NULL : OP2(),
                        EX(opline)->opcode != ZEND_FRAMELESS_ICALL_3
                            ? NULL
                            : operand(execute_data, third, third->op1_type, third->op1) };

    for (size_t i = 0; i < ARRAY_LENGTH(v); i++)
        if (v[i])
            audit_read_value(v[i], false);
    return go_on(execute_data);
}
#endif

static int on_echo(zend_execute_data *execute_data)
{
    const zval *text = OP1();

    if (text && !(Z_TYPE_P(text) == IS_STRING && Z_STRLEN_P(text) == 0) &&
        Z_TYPE_P(text) != IS_NULL)
        audit_note(AUDIT_OUTPUT, STR("output"), STR_NONE);
    return go_on(execute_data);
}

static const struct {
    zend_uchar opcode;
    int (*handler)(zend_execute_data *);
} handlers[] = {
    { ZEND_FETCH_DIM_R, on_read_key },
    { ZEND_FETCH_DIM_IS, on_read_key },
    { ZEND_FETCH_DIM_FUNC_ARG, on_read_key },
    { ZEND_FETCH_LIST_R, on_read_key },
    { ZEND_ISSET_ISEMPTY_DIM_OBJ, on_isset_key },
    { ZEND_FETCH_DIM_W, on_change_key },
    { ZEND_FETCH_DIM_RW, on_change_key },
    { ZEND_FETCH_DIM_UNSET, on_change_key },
    { ZEND_FETCH_LIST_W, on_change_key },
    { ZEND_ASSIGN_DIM_OP, on_assign_op_key },
    { ZEND_ASSIGN_OBJ_OP, on_assign_op_property },
    { ZEND_ASSIGN_STATIC_PROP_OP, on_assign_op_static },
    { ZEND_ASSIGN_DIM, on_write_key },
    { ZEND_UNSET_DIM, on_write_key },
    { ZEND_FE_RESET_R, on_read_all },
    { ZEND_FE_RESET_RW, on_read_all },
    { ZEND_SEND_UNPACK, on_read_all },
    { ZEND_SEND_ARRAY, on_read_all },
    { ZEND_ADD_ARRAY_UNPACK, on_read_all },
    { ZEND_YIELD_FROM, on_read_all },
    { ZEND_CAST, on_cast },
    { ZEND_ADD, on_both },
    { ZEND_IS_EQUAL, on_compare },
    { ZEND_IS_NOT_EQUAL, on_compare },
    { ZEND_IS_IDENTICAL, on_compare },
    { ZEND_IS_NOT_IDENTICAL, on_compare },
    { ZEND_IS_SMALLER, on_compare },
    { ZEND_IS_SMALLER_OR_EQUAL, on_compare },
    { ZEND_SPACESHIP, on_compare },
    { ZEND_CASE, on_compare },
    { ZEND_CASE_STRICT, on_compare },
    { ZEND_BOOL, on_truth },
    { ZEND_BOOL_NOT, on_truth },
    { ZEND_BOOL_XOR, on_xor },
    { ZEND_JMPZ, on_truth },
    { ZEND_JMPNZ, on_truth },
    { ZEND_JMPZ_EX, on_truth },
    { ZEND_JMPNZ_EX, on_truth },
    { ZEND_JMP_SET, on_truth },
    { ZEND_ISSET_ISEMPTY_VAR, on_isset_variable },
    { ZEND_ISSET_ISEMPTY_CV, on_isset_local },
    { ZEND_ISSET_ISEMPTY_PROP_OBJ, on_isset_property },
    { ZEND_ISSET_ISEMPTY_STATIC_PROP, on_isset_static },
    { ZEND_UNSET_VAR, on_unset_variable },
    { ZEND_ASSIGN_OP, on_assign_op },
    { ZEND_ASSIGN, on_assign },
    { ZEND_ASSIGN_REF, on_assign },
    { ZEND_FETCH_R, on_fetch },
    { ZEND_FETCH_IS, on_fetch },
    { ZEND_FETCH_W, on_fetch },
    { ZEND_FETCH_FUNC_ARG, on_fetch },
    { ZEND_RETURN, on_return },
    { ZEND_RETURN_BY_REF, on_return },
    { ZEND_ECHO, on_echo },
    /* functions that preloaded code has as opcodes of their own */
    { ZEND_COUNT, on_read_all },
    { ZEND_ARRAY_KEY_EXISTS, on_key_exists },
#ifdef ZEND_FRAMELESS_ICALL_1
    { ZEND_FRAMELESS_ICALL_1, on_frameless },
    { ZEND_FRAMELESS_ICALL_2, on_frameless },
    { ZEND_FRAMELESS_ICALL_3, on_frameless },
#endif
};

void audit_reads_install(void)
{
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++) {
        const char *name = audit_global_name(g);
        reads.names[g] = zend_string_init_interned(name, strlen(name), true);
        zend_string_hash_val(reads.names[g]);
        zend_hash_init(&reads.written[g], 8, NULL, NULL, true);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(handlers); i++) {
        zend_uchar opcode = handlers[i].opcode;
        reads.before[opcode] = zend_get_user_opcode_handler(opcode);
        zend_set_user_opcode_handler(opcode, handlers[i].handler);
    }
}

/* --- copies that stay ------------------------------------------------------------------------- */

/* Who holds that array, beside the engine, the superglobal and `ours`? */
static bool is_held(enum audit_global g, const HashTable *array, uint32_t ours)
{
    uint32_t known = ours + (array == original(g)) + is_current(g, array);

    if (!array || (GC_FLAGS(array) & GC_IMMUTABLE))
        return false;
    return GC_REFCOUNT(array) > known;
}

/* Code holds a reference to the superglobal: through it would be read what is the image's. */
static bool is_referenced(enum audit_global g)
{
    const zval *v = zend_hash_find_known_hash(&EG(symbol_table), reads.names[g]);

    if (v && Z_TYPE_P(v) == IS_INDIRECT)
        v = Z_INDIRECT_P(v);
    return v && Z_ISREF_P(v) && Z_REFCOUNT_P(v) > 1;
}

void audit_reads_finish(void)
{
    gc_collect_cycles();
    for (unsigned g = 0; g < AUDIT_GLOBALS; g++) {
        const zval *now = variable(g);
        bool is_array = now && Z_TYPE_P(now) == IS_ARRAY;
        if (is_held(g, original(g), 0) || is_referenced(g) ||
            (is_array && !is_own(g) && is_held(g, Z_ARR_P(now), 0)))
            audit_note_alive(g);
    }
    for (uint32_t i = 0; i < reads.n_old; i++)
        if (is_held(reads.old[i].global, reads.old[i].array, 1))
            audit_note_alive(reads.old[i].global);
}
