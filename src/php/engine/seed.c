/*
 * restore_state() and snapshot_state(): a script says itself where it can be frozen.
 *
 *   if (!restore_state()) { boot(); snapshot_state(); }
 *   handle();
 *
 * In a process that is to be frozen, the script runs for a request of the server's own until
 * snapshot_state(); there the memory becomes the image (rollback.c). In its workers that call
 * returns with a request of somebody; when the script has ended, the memory goes back and it
 * returns again. Where restore_state() was called before, the script goes on behind that call,
 * whose value is now true, instead: its frame runs on in a new call of the engine's executor, and
 * what lies between the two on the stack is dead. The rollback discards it.
 *
 * In other processes both do next to nothing: the script runs from its first line to its last. In a
 * classic worker the gateway is told that this script would like to have an image.
 */
#include "php/engine/engine_int.h"

#include <dlfcn.h>
#include <errno.h>

#include "base/clock.h"
#include "base/mem.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "zend_generators.h"
#pragma GCC diagnostic pop

enum {
    EXCERPT_BYTES = 80, /* of what a boot printed */
    WISHES_MAX = 32,    /* scripts of which is remembered when they asked last */
};

static zend_class_entry *exception_class; /* Sapid\SnapshotException */

/* The frame that has called restore_state(): where requests go on. */
static struct {
    bool called;
    zend_execute_data *frame; /* NULL: no PHP function called it */
    const zend_op *opline;    /* the call */
    const zend_function *func;
    uint64_t callers; /* sum_callers() */
    bool from_jit;    /* compiled code called it */
    bool is_argument; /* it stood among the arguments of another call */
    uint32_t line;
    const char *file;
} restore;

static bool freezes_from_jit; /* compiled code called snapshot_state() */
static bool passes;           /* a warm-up request: the script runs as in classic mode */
static bool found;            /* the script has called snapshot_state() */

/* --- places where a script cannot be frozen --------------------------------------------------- */

static bool is_destructor(const zend_function *f)
{
    return f->common.scope && f->common.scope->destructor == f;
}

static bool in_destructor(void)
{
    for (const zend_execute_data *x = EG(current_execute_data); x; x = x->prev_execute_data)
        if (x->func && is_destructor(x->func))
            return true;
    return false;
}

/* What stands against this place, whatever the process; NULL: nothing. */
static const char *wrong_place(void)
{
    if (EG(active_fiber))
        return "inside a Fiber; call it outside";
    if (EG(flags) & EG_FLAGS_IN_SHUTDOWN)
        return "when the script has ended (in a shutdown function or a destructor); call it while "
               "the script runs";
    if (in_destructor())
        return "inside a destructor; call it in ordinary code";
    if (php_output_get_active_handler() && (php_output_get_status() & PHP_OUTPUT_LOCKED))
        return "inside an output callback; call it outside";
    if (session_is_active())
        return "while a session is active, which belongs to one visitor: call it before "
               "session_start() (and switch session.auto_start off)";
    return NULL;
}

/* --- the way back to restore_state() ---------------------------------------------------------- */

/* Frames are used again at the same address, for the same function too: what a frame will return to
 * tells whether it is still that call. */
static uint64_t sum_callers(const zend_execute_data *frame)
{
    uint64_t sum = (uintptr_t)frame->func->op_array.opcodes;

    for (const zend_execute_data *x = frame->prev_execute_data; x; x = x->prev_execute_data) {
        sum = (sum ^ (uintptr_t)x) * UINT64_C(0x9E3779B97F4A7C15);
        if (x->func && ZEND_USER_CODE(x->func->type))
            sum = (sum ^ (uintptr_t)x->opline) * UINT64_C(0x9E3779B97F4A7C15);
    }
    return sum;
}

/* Code that the JIT has compiled keeps variables of functions in registers across calls of internal
 * functions; the interpreter has all of them in the frame. */
static bool is_jit_code(const void *return_address)
{
    Dl_info caller, interpreter;

    return !dladdr(return_address, &caller) ||
           !dladdr((const void *)(uintptr_t)execute_ex, &interpreter) ||
           caller.dli_fbase != interpreter.dli_fbase;
}

static void note_restore(zend_execute_data *frame, const void *return_address)
{
    restore.called = true;
    restore.frame = NULL;
    restore.file = zend_get_executed_filename();
    restore.line = zend_get_executed_lineno();
    if (!frame || !frame->func || !ZEND_USER_CODE(frame->func->type))
        return;
    restore.frame = frame;
    restore.func = frame->func;
    restore.opline = frame->opline;
    restore.callers = sum_callers(frame);
    restore.from_jit = is_jit_code(return_address);
    restore.is_argument = frame->call != NULL;
}

/* Values that an expression or a loop of the frame holds at that instruction. */
static bool is_live(const zend_live_range *r, uint32_t op)
{
    return op >= r->start && op < r->end;
}

/* What is live at the one instruction must be live at the other: a foreach that has begun between
 * the two calls would be gone, one around restore_state() would have lost its array. */
static bool same_live_values(const zend_op_array *a, uint32_t then, uint32_t now)
{
    for (int i = 0; i < a->last_live_range; i++)
        if (is_live(&a->live_range[i], then) != is_live(&a->live_range[i], now))
            return false;
    return true;
}

static bool is_defined(const zend_op *from, const zend_op *to, uint32_t var)
{
    for (; from < to; from++)
        if ((from->result_type & (IS_TMP_VAR | IS_VAR)) && from->result.var == var)
            return true;
    return false;
}

static bool is_listed(const zend_op_array *a, uint32_t op, uint32_t var)
{
    for (int i = 0; i < a->last_live_range; i++)
        if (is_live(&a->live_range[i], op) &&
            (a->live_range[i].var & ~(uint32_t)ZEND_LIVE_MASK) == var)
            return true;
    return false;
}

/* Numbers and truth values need no freeing, and the engine lists none of them: an expression around
 * the call is half evaluated if a value is used behind it that was made before it. */
static bool is_half_evaluated(const zend_op_array *a, const zend_op *call)
{
    uint32_t op = (uint32_t)(call - a->opcodes);

    for (const zend_op *o = call + 1; o < a->opcodes + a->last; o++) {
        if ((o->op1_type & (IS_TMP_VAR | IS_VAR)) && !is_defined(call, o, o->op1.var) &&
            !is_listed(a, op, o->op1.var))
            return true;
        if ((o->op2_type & (IS_TMP_VAR | IS_VAR)) && !is_defined(call, o, o->op2.var) &&
            !is_listed(a, op, o->op2.var))
            return true;
    }
    return false;
}

static bool is_frame_alive(void)
{
    for (zend_execute_data *x = EG(current_execute_data); x; x = x->prev_execute_data)
        if (x == restore.frame)
            return x->func == restore.func && ZEND_USER_CODE(x->func->type) &&
                   sum_callers(x) == restore.callers;
    return false;
}

/* auto_prepend_file and auto_append_file run beside the script, not in it. */
static bool is_extra_file(const char *name, const zend_op_array *a)
{
    zend_string *given, *path;
    bool same;

    if (!name || !*name || !a->filename)
        return false;
    given = zend_string_init(name, strlen(name), 0);
    path = zend_resolve_path(given);
    same = zend_string_equals(path ? path : given, a->filename);
    zend_string_release(given);
    if (path)
        zend_string_release(path);
    return same;
}

/* The frame and those that it returns to run in one call of the executor, down to the script
 * itself: nothing of C stands between them that would be missed. */
static const char *why_unreachable(void)
{
    const zend_execute_data *x = restore.frame;

    for (; x; x = x->prev_execute_data) {
        uint32_t info = ZEND_CALL_INFO(x);
        if (info & ZEND_CALL_GENERATOR)
            return "inside a generator; call it outside";
        if (!x->func || !ZEND_USER_CODE(x->func->type))
            return "in a function that PHP itself has called (a callback, an autoloader, a "
                   "method such as __get); call it in code that the script runs directly";
        if (info & ZEND_CALL_TOP)
            break;
    }
    if (!x || x->prev_execute_data)
        return "in a function that PHP itself has called (a callback, an autoloader, a method such "
               "as __get); call it in code that the script runs directly";
    if (is_extra_file(PG(auto_prepend_file), &x->func->op_array) ||
        is_extra_file(PG(auto_append_file), &x->func->op_array))
        return "in auto_prepend_file or auto_append_file; call it in the script";
    return NULL;
}

/* False: requests cannot go on behind restore_state(); `text` says why. */
static bool check_restore(char *text, size_t size)
{
    const char *why;

    if (!restore.called)
        return true;
    if (!restore.frame)
        why = "by a function of PHP (call_user_func ...); call it directly";
    else if (!is_frame_alive())
        why = "in a function that has returned since; call it, and snapshot_state(), where that "
              "function is called, or beneath it";
    else if (restore.is_argument || restore.frame->call)
        why = "as part of the arguments of another call; call it in a statement of its own: "
              "if (!restore_state()) ...";
    else if (is_half_evaluated(&restore.func->op_array, restore.opline) ||
             !same_live_values(&restore.func->op_array,
                               (uint32_t)(restore.opline - restore.func->op_array.opcodes),
                               (uint32_t)(restore.frame->opline - restore.func->op_array.opcodes)))
        why = "with other loops or half-evaluated expressions around it than snapshot_state() "
              "(foreach, switch, @, a string that is put together); call both at the same level";
    else if ((restore.from_jit || freezes_from_jit) && restore.func->op_array.function_name)
        why = "in a function that the JIT has compiled, whose variables are in registers; call it "
              "at the top level of a file, or set opcache.jit=tracing";
    else
        why = why_unreachable();
    if (!why)
        return true;
    snprintf(text, size, "restore_state() was called at %s:%u %s", restore.file, restore.line, why);
    return false;
}

/* The variables of an included file are those of the code that included it: the engine moves them
 * from the one's frame to the other's and back at its end, which does not come here. */
static void give_variables_back(void)
{
    zend_execute_data *x = EG(current_execute_data);

    if (!(ZEND_CALL_INFO(restore.frame) & ZEND_CALL_HAS_SYMBOL_TABLE))
        return;
    for (bool given = false;; x = x->prev_execute_data) {
        bool shares = x->func && ZEND_USER_CODE(x->func->type) &&
                      (ZEND_CALL_INFO(x) & ZEND_CALL_HAS_SYMBOL_TABLE) &&
                      x->symbol_table == restore.frame->symbol_table;
        if (shares && given && x->func->op_array.last_var)
            zend_attach_symbol_table(x);
        if (x == restore.frame)
            return;
        if (shares && x->func->op_array.last_var)
            zend_detach_symbol_table(x);
        given |= shares;
    }
}

/* As zend_execute_scripts() behind the main script. */
static void end_main_script(void)
{
    zend_file_handle append;

    zend_exception_restore();
    if (EG(exception)) {
        if (Z_TYPE(EG(user_exception_handler)) != IS_UNDEF)
            zend_user_exception_handler();
        if (EG(exception) && zend_exception_error(EG(exception), E_ERROR) != SUCCESS)
            return;
    }
    if (!PG(auto_append_file) || !*PG(auto_append_file))
        return;
    zend_stream_init_filename(&append, PG(auto_append_file));
    zend_execute_scripts(ZEND_REQUIRE, NULL, 1, &append);
}

/* Goes on behind restore_state(), to the end of the request. */
NORETURN static void jump(void)
{
    zend_execute_data *frame = restore.frame;

    give_variables_back();
    if (restore.opline->result_type != IS_UNUSED)
        ZVAL_TRUE(ZEND_CALL_VAR(frame, restore.opline->result.var));
    frame->opline = restore.opline + 1;
    EG(current_execute_data) = frame;
    if (EG(exception))
        zend_rethrow_exception(frame);
    zend_execute_ex(frame);
    end_main_script();
    rollback_after_script();
}

/* --- the freeze ------------------------------------------------------------------------------- */

static void excerpt(char *text, size_t size, const char *p, size_t n)
{
    size_t at = 0;

    for (size_t i = 0; i < n && i < EXCERPT_BYTES && at + 2 < size; i++)
        text[at++] = p[i] >= ' ' && p[i] < 0x7f ? p[i] : '.';
    text[at] = '\0';
}

/* False: the boot has said something to its client, who is nobody. */
static bool check_output(char *text, size_t size)
{
    char shown[EXCERPT_BYTES + 8];
    struct str said = loop_boot_output();

    if (said.n) {
        excerpt(shown, sizeof(shown), said.p, said.n);
        snprintf(text, size, "the boot has printed \"%s\" (%zu bytes); print after the freeze",
                 shown, said.n);
        return false;
    }
    if (SG(headers_sent)) {
        const char *file = php_output_get_start_filename();
        snprintf(text, size,
                 "the boot has sent its headers (at %s:%d); header() is kept and sent "
                 "with each answer, flush() and headers_send() are not possible before "
                 "the freeze",
                 file ? file : "?", php_output_get_start_lineno());
        return false;
    }
    php_output_handler **level = zend_stack_base(&OG(handlers));
    for (int i = 0; i < zend_stack_count(&OG(handlers)); i++) {
        if (!level[i]->buffer.used)
            continue;
        excerpt(shown, sizeof(shown), level[i]->buffer.data, level[i]->buffer.used);
        snprintf(text, size,
                 "the boot has printed \"%s\" (%zu bytes, in output buffer %d: %s); print after "
                 "the freeze",
                 shown, level[i]->buffer.used, i + 1, ZSTR_VAL(level[i]->name));
        return false;
    }
    return true;
}

/* False: the boot has begun a session and closed it. Its id would be every visitor's, who would
 * share one session: unless somebody promises that nothing of it stays. */
static bool check_session(const struct engine_image *image, char *text, size_t size)
{
    const char *cookie = session_cookie_name();

    if (!session_is_left())
        return true;
    if (!image->entry || guards_promise(image, "_COOKIE", cookie)) {
        session_leave();
        return true;
    }
    snprintf(text, size,
             "the boot has begun a session, or set its id, and all visitors would share it; call "
             "session_start() behind the freeze, or, if nothing of that session is needed there, "
             "snapshot_guards = { \"_COOKIE.%s\" = \"any\" }",
             cookie);
    return false;
}

/* What is for one visitor is no mistake that a server could know of. */
static void tell_cookies(void)
{
    zend_llist_position at;

    for (const sapi_header_struct *h = zend_llist_get_first_ex(&SG(sapi_headers).headers, &at); h;
         h = zend_llist_get_next_ex(&SG(sapi_headers).headers, &at)) {
        struct str field = { h->header, h->header_len };
        if (!str_eq_nocase(str_cut(&field, ':'), STR("Set-Cookie")))
            continue;
        struct str name = str_trim(str_cut(&field, '='));
        log_notice("the boot sets the cookie %.*s, whose value is now the same in all answers; set "
                   "it behind the freeze if it is meant for one visitor",
                   STR_ARG(name));
    }
}

static bool check_rerun(const struct engine_image *image, char *text, size_t size)
{
    for (size_t i = 0; i < image->n_rerun; i++) {
        zval name;
        ZVAL_STRING(&name, image->rerun[i]);
        bool known = zend_is_callable(&name, 0, NULL);
        zval_ptr_dtor(&name);
        if (known)
            continue;
        snprintf(text, size,
                 "snapshot_rerun names the function %s(), which the boot has not declared",
                 image->rerun[i]);
        return false;
    }
    return true;
}

static void rerun(const struct engine_image *image)
{
    for (size_t i = 0; i < image->n_rerun && !EG(exception); i++) {
        zval name, result;
        ZVAL_STRING(&name, image->rerun[i]);
        ZVAL_UNDEF(&result);
        (void)call_user_function(NULL, NULL, &name, &result, 0, NULL);
        zval_ptr_dtor(&result);
        zval_ptr_dtor(&name);
    }
}

static void refuse(const char *why)
{
    char text[2048];
    const char *file = zend_get_executed_filename();

    snprintf(text, sizeof(text), "the script cannot be frozen at %s:%u: %s", file ? file : "?",
             zend_get_executed_lineno(), why);
    rollback_refuse(text);
}

/* As often as opcache looks whether a file has changed. */
static uint32_t look_every_s(void)
{
    zend_long freq = INI_INT("opcache.revalidate_freq");

    if (!INI_BOOL("opcache.enable"))
        return 1;
    if (!INI_BOOL("opcache.validate_timestamps"))
        return 0;
    return freq < 1 ? 1 : (uint32_t)MIN(freq, 3600);
}

static void list_file(struct engine_files *files, const char *path, size_t n)
{
    if (n + 1 > ENGINE_FILES_BYTES - sizeof(*files) - files->bytes) {
        files->dropped++;
        return;
    }
    memcpy(files->text + files->bytes, path, n);
    files->text[files->bytes + n] = '\0';
    files->bytes += (uint32_t)n + 1;
}

/* Where the script's settings can come from: there or not. */
static void list_user_ini(struct engine_files *files)
{
    char path[MAXPATHLEN];
    struct str script = request.view.script_filename;

    if (!PG(user_ini_filename) || !*PG(user_ini_filename))
        return;
    for (size_t n = script.n; n-- > request.view.document_root.n;) {
        if (script.p[n] != '/')
            continue;
        int bytes =
            snprintf(path, sizeof(path), "%.*s/%s", (int)n, script.p, PG(user_ini_filename));
        if (bytes > 0 && (size_t)bytes < sizeof(path))
            list_file(files, path, (size_t)bytes);
    }
}

/* Does the path lead through a link? "/./", of include_path, does not. */
static bool is_linked(const realpath_cache_bucket *b)
{
    struct str path = { b->path, b->path_len }, real = { b->realpath, b->realpath_len };

    while (path.n) {
        if (str_has_prefix(path, STR("/./"))) {
            path = str_skip(path, 2);
            continue;
        }
        if (real.n == 0 || path.p[0] != real.p[0])
            return true;
        path = str_skip(path, 1);
        real = str_skip(real, 1);
    }
    return real.n > 0;
}

/* Symbolic links on the way to what the boot has looked at: a release may be changed by such a one.
 * All paths of the boot are in this cache, which is as old as the image. */
static void list_links(struct engine_files *files)
{
    realpath_cache_bucket **buckets = realpath_cache_get_buckets();

    list_file(files, request.view.script_filename.p, request.view.script_filename.n);
    for (zend_long i = 0; i < realpath_cache_max_buckets(); i++)
        for (const realpath_cache_bucket *b = buckets[i]; b; b = b->next)
            if (is_linked(b))
                list_file(files, b->path, b->path_len);
}

/* A file that a request includes is looked at by opcache if that was not done for
 * opcache.revalidate_freq seconds, counted from the beginning of the request. Which for opcache is
 * the boot's, and so would never come: let it look each time. */
static void validate_late_files(void)
{
    zend_ini_entry *e = zend_hash_str_find_ptr(EG(ini_directives), "opcache.revalidate_freq", 23);
    zend_string *always = zend_string_init("0", 1, true);

    if (e && e->on_modify) /* what scripts see of it stays */
        e->on_modify(e, always, e->mh_arg1, e->mh_arg2, e->mh_arg3, ZEND_INI_STAGE_RUNTIME);
}

static void list_files(struct engine_files *files)
{
    zend_string *path;

    files->bytes = files->dropped = 0;
    files->every_s = look_every_s();
    list_user_ini(files);
    ZEND_HASH_FOREACH_STR_KEY(&EG(included_files), path)
    {
        if (path && ZSTR_VAL(path)[0] == '/') /* else phar://, and what is no file */
            list_file(files, ZSTR_VAL(path), ZSTR_LEN(path));
    }
    ZEND_HASH_FOREACH_END();
    list_links(files);
}

void seed_freeze(const char *what)
{
    const struct engine_image *image = rollback_image();
    const char *why = wrong_place();
    char text[1024];

    CHECK(seed_boots());
    if (audit_is_on())
        audit_done();
    if (why) {
        snprintf(text, sizeof(text), "%s %s", what, why);
        refuse(text);
    }
    gc_collect_cycles(); /* destructors of garbage may print */
    if (!check_output(text, sizeof(text)) || !check_restore(text, sizeof(text)) ||
        !check_session(image, text, sizeof(text)) || !check_rerun(image, text, sizeof(text)))
        refuse(text);
    tell_cookies();
    if (image->files)
        list_files(image->files);
    if (image->entry)
        validate_late_files();
    freeze_point_end();
    loop_freeze();
    rerun(image);
    if (restore.called)
        jump();
}

bool seed_boots(void)
{
    return rollback_is_on() && !rollback_serves() && loop_is_idle_in_boot() && !passes &&
           !worker_is_copy();
}

/* --- warm-up ---------------------------------------------------------------------------------- */

bool seed_is_on(void)
{
    return found || (rollback_is_on() && rollback_image()->entry);
}

/* The script, from its first line to its last, for a request that nobody waits for. */
bool seed_pass(const struct engine_worker *w, struct str url)
{
    passes = true;
    bool healthy = loop_boot(w, url, "warm-up");
    passes = false;
    return healthy;
}

/* --- asking for an image ---------------------------------------------------------------------- */

/* At most once a second for each script. */
static bool may_ask(struct str script)
{
    static struct wish {
        uint32_t hash;
        uint64_t ns;
    } wishes[WISHES_MAX];
    uint32_t hash = str_hash(script);
    struct wish *w = &wishes[hash % WISHES_MAX];
    uint64_t now = request.view.received_ns;

    if (w->hash == hash && now - w->ns < NS_PER_S)
        return false;
    *w = (struct wish){ hash, now };
    return true;
}

static void ask(void)
{
    const struct channel_request *r = &request.view;

    char path[MAXPATHLEN];
    struct control_image image = { .script_name = r->script_name,
                                   .host = r->host,
                                   .https = request.https,
                                   .port = r->server_port,
                                   .address = r->server_addr };
    struct control_message m;

    if (!request.active || !request.worker || worker_is_copy() || !may_ask(r->script_filename))
        return;
    int n = snprintf(path, sizeof(path), "%.*s%.*s", (int)(request.root.n > 1 ? request.root.n : 0),
                     request.root.p, STR_ARG(r->script_filename));
    image.script = (struct str){ path, (size_t)n };
    control_message_init(&m, CONTROL_IMAGE_WANTED);
    if (n < 0 || (size_t)n >= sizeof(path) || !control_image_pack(&m, &image))
        return; /* names that no image is made for */
    int rc = body_send_control(&m, -1);
    if (rc < 0 && rc != -EAGAIN)
        log_info("cannot ask for an image: %s", strerror(-rc));
}

/* --- the functions ---------------------------------------------------------------------------- */

PHP_FUNCTION(restore_state)
{
    ZEND_PARSE_PARAMETERS_NONE();
    if (rollback_serves() && !worker_is_copy())
        RETURN_TRUE;
    if (seed_boots())
        note_restore(EX(prev_execute_data), __builtin_return_address(0));
    RETURN_FALSE;
}

PHP_FUNCTION(snapshot_boots)
{
    ZEND_PARSE_PARAMETERS_NONE();
    RETURN_BOOL(seed_boots() || audit_is_on());
}

PHP_FUNCTION(snapshot_state)
{
    const char *why;

    (void)return_value;
    ZEND_PARSE_PARAMETERS_NONE();
    found = true;
    if (rollback_serves() || worker_is_copy())
        return;
    if (!seed_boots()) {
        why = wrong_place();
        if (why)
            zend_throw_exception_ex(exception_class, 0, "snapshot_state() was called %s", why);
        else if (!loop_is_on())
            ask();
        return;
    }
    if (rollback_wants_warmup()) { /* only now is it known that the script has no loop */
        zend_throw_unwind_exit();
        return;
    }
    freezes_from_jit = is_jit_code(__builtin_return_address(0));
    seed_freeze("snapshot_state() was called");
}

void seed_install(void)
{
    zend_class_entry ce;

    INIT_NS_CLASS_ENTRY(ce, "Sapid", "SnapshotException", NULL);
    exception_class = zend_register_internal_class_ex(&ce, spl_ce_RuntimeException);
}
