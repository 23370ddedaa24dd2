/*
 * Before the image is made: loads what requests of the generations before have loaded late
 * (late.c). Classes through the application's own autoloader. Of the files that are left, those of
 * a worker script that do nothing but declare (as compiled templates and containers are) are
 * included; the others are only compiled into opcache, in a process of its own, because opcache
 * declares what it compiles. Code with effects never runs for this but in a class's file that the
 * autoloader chose, and why classes and declarations may stand there at once: docs/adr/0012.
 *
 * Whatever an attempt does (a fatal error, exit(), a crash), its name is marked before it and the
 * mark is taken away after it: a name that still has it is never tried again.
 */
#include "php/engine/engine_int.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

enum { BREAKS_MAX = 8, COMPILE_S = 30, PASSES_MAX = 6, FILE_BYTES_MAX = 1 << 20 };

static struct {
    bool wanted, declares; /* declares: files may be included */
    uint32_t loaded, gone, failed, compiled, progress;
    const struct report_entry *trying; /* NULL: nothing */
    unsigned breaks;
    uint64_t began_ns;
    uint8_t *has_failed; /* by name, in this boot */
} learned;

void learned_begin(const struct engine_image *image)
{
    learned.wanted = image->learn && image->report;
    learned.declares = image->declares;
}

/* --- classes ---------------------------------------------------------------------------------- */

enum outcome { LOADED, GONE, FAILED, LATER, SPOILT };

/* Under other keys stand declarations that have not been run. */
static bool is_declaration(const Bucket *b)
{
    return Z_TYPE(b->val) == IS_PTR && b->key && ZSTR_VAL(b->key)[0] != '\0';
}

static bool declares_something(const zend_string *file, uint32_t since)
{
    const HashTable *classes = EG(class_table), *functions = EG(function_table);

    for (uint32_t i = classes->nNumUsed; i-- > since;) {
        const Bucket *b = classes->arData + i;
        const zend_class_entry *ce = is_declaration(b) ? Z_PTR(b->val) : NULL;
        if (ce && ce->type == ZEND_USER_CLASS &&
            (!file || zend_string_equals(ce->info.user.filename, file)))
            return true;
    }
    for (uint32_t i = functions->nNumUsed; file && i-- > 0;) {
        const Bucket *b = functions->arData + i;
        const zend_function *f = is_declaration(b) ? Z_PTR(b->val) : NULL;
        if (f && f->type == ZEND_USER_FUNCTION && zend_string_equals(f->op_array.filename, file))
            return true;
    }
    return false;
}

/* Where code began to run that may not come to its end. */
struct attempt {
    uint32_t classes, files;
};

static struct attempt attempt_begin(void)
{
    return (struct attempt){ EG(class_table)->nNumUsed, EG(included_files).nNumUsed };
}

/* Files whose code did not come to its declarations have to be included again by a request, which
 * may do so with require_once. */
static void forget_files(const struct attempt *a)
{
    HashTable *files = &EG(included_files);

    for (uint32_t i = files->nNumUsed; i-- > a->files;) {
        Bucket *b = files->arData + i;
        if (Z_TYPE(b->val) != IS_UNDEF && b->key && !declares_something(b->key, a->classes))
            zend_hash_del_bucket(files, b);
    }
}

/* What was thrown, if anything, ends here. SPOILT: classes of a file are there (PHP declares them
 * before it runs the code) that did not come to its end, and no request would run the rest. */
static enum outcome attempt_end(const struct attempt *a, struct str name, enum outcome outcome)
{
    zend_object *e = EG(exception);
    zend_string *file = NULL;
    zval room;

    if (outcome != LOADED)
        forget_files(a);
    if (!e)
        return outcome;
    forget_files(a);
    bool leaves = zend_is_unwind_exit(e) || zend_is_graceful_exit(e);
    if (!leaves) {
        zend_class_entry *base = instanceof_function(e->ce, zend_ce_exception) ? zend_ce_exception
                                                                               : zend_ce_error;
        zval *v = zend_read_property_ex(base, e, ZSTR_KNOWN(ZEND_STR_FILE), true, &room);
        file = Z_TYPE_P(v) == IS_STRING ? Z_STR_P(v) : NULL;
    }
    outcome = declares_something(file, a->classes) ? SPOILT : FAILED;
    log_info("learned: %.*s: %s", STR_ARG(name),
             leaves ? "its file calls exit()" : ZSTR_VAL(e->ce->name));
    zend_clear_exception();
    return outcome;
}

static enum outcome load_class(struct str name)
{
    struct attempt a = attempt_begin();
    zend_string *s = zend_string_init(name.p, name.n, false);
    zend_class_entry *ce = zend_lookup_class(s);

    zend_string_release(s);
    return attempt_end(&a, name, ce ? LOADED : GONE);
}

/* --- files ------------------------------------------------------------------------------------ */

static bool is_declared(zend_string *space, const zend_ast *ast)
{
    const zend_ast_decl *d = (const zend_ast_decl *)ast;
    zend_string *full = space ? zend_string_concat3(ZSTR_VAL(space), ZSTR_LEN(space), "\\", 1,
                                                    ZSTR_VAL(d->name), ZSTR_LEN(d->name))
                              : zend_string_copy(d->name);
    zend_string *key = zend_string_tolower(full);
    bool there =
        zend_hash_exists(ast->kind == ZEND_AST_CLASS ? EG(class_table) : EG(function_table), key);

    zend_string_release(key);
    zend_string_release(full);
    return there;
}

/* Only declarations, none of them there already. `space`: the namespace, NULL: none. */
static bool only_declares(const zend_ast *ast, zend_string **space, uint32_t *n)
{
    const zend_ast_list *list = (const zend_ast_list *)ast;

    for (uint32_t i = 0; i < list->children; i++) {
        const zend_ast *one = list->child[i];
        if (!one)
            continue;
        switch (one->kind) {
        case ZEND_AST_USE:
        case ZEND_AST_GROUP_USE: break;
        case ZEND_AST_DECLARE:
            if (one->child[1])
                return false;
            break;
        case ZEND_AST_NAMESPACE:
            *space = one->child[0] ? zend_ast_get_str(one->child[0]) : NULL;
            if (one->child[1] && !only_declares(one->child[1], space, n))
                return false;
            break;
        case ZEND_AST_STMT_LIST:
            if (!only_declares(one, space, n))
                return false;
            break;
        case ZEND_AST_CLASS:
        case ZEND_AST_FUNC_DECL:
            if (is_declared(*space, one))
                return false;
            ++*n;
            break;
        default: return false;
        }
    }
    return true;
}

static zend_string *read_file(const char *path)
{
    zend_string *text = NULL;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < FILE_BYTES_MAX) {
        text = zend_string_alloc((size_t)st.st_size, false);
        ssize_t n = pread(fd, ZSTR_VAL(text), (size_t)st.st_size, 0);
        ZSTR_LEN(text) = n > 0 ? (size_t)n : 0;
        ZSTR_VAL(text)[ZSTR_LEN(text)] = '\0';
    }
    if (fd >= 0)
        close(fd);
    return text;
}

static bool is_harmless(zend_string *path)
{
    zend_string *text = read_file(ZSTR_VAL(path)), *space = NULL;
    zend_arena *arena = NULL;
    uint32_t n = 0;

    if (!text)
        return false;
    zend_ast *ast = zend_compile_string_to_ast(text, &arena, path);
    bool harmless = ast && !EG(exception) && ast->kind == ZEND_AST_STMT_LIST &&
                    only_declares(ast, &space, &n) && n > 0;
    if (ast) {
        zend_ast_destroy(ast);
        zend_arena_destroy(arena);
    }
    zend_string_release(text);
    return harmless;
}

/* As include_once does. */
static void include_file(zend_string *path)
{
    zend_file_handle handle;
    zend_op_array *code = NULL;
    zval result;

    zend_stream_init_filename_ex(&handle, path);
    if (zend_stream_open(&handle) == SUCCESS) {
        if (!handle.opened_path)
            handle.opened_path = zend_string_copy(path);
        if (zend_hash_add_empty_element(&EG(included_files), handle.opened_path))
            code = zend_compile_file(&handle, ZEND_REQUIRE);
    }
    zend_destroy_file_handle(&handle);
    if (!code)
        return;
    ZVAL_UNDEF(&result);
    zend_execute(code, &result);
    destroy_op_array(code);
    efree_size(code, sizeof(*code));
    zval_ptr_dtor(&result);
}

static enum outcome load_file(struct str name)
{
    char text[4096];
    enum outcome outcome = LATER;

    if (!late_path_of(name, text, sizeof(text)) || access(text, R_OK) != 0)
        return GONE;
    zend_string *path = zend_string_init(text, strlen(text), false);
    if (zend_hash_exists(&EG(included_files), path)) {
        outcome = LOADED; /* with a class */
    } else if (learned.declares) {
        struct attempt a = attempt_begin();
        if (is_harmless(path)) {
            include_file(path);
            outcome = LOADED;
        }
        outcome = attempt_end(&a, name, outcome);
    }
    zend_string_release(path);
    return outcome;
}

/* --- everything else -------------------------------------------------------------------------- */

/* Others than these, of libc itself, run code of their own when they are loaded. */
static enum outcome load_library(struct str name)
{
    char path[REPORT_TEXT_BYTES + 1];

    snprintf(path, sizeof(path), "%.*s", STR_ARG(name));
    if (access(path, R_OK) != 0)
        return GONE;
    if (!strstr(path, "/gconv/") && !strstr(path, "/libnss_"))
        return FAILED;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL) ? LOADED : FAILED;
}

/* "de_DE.UTF-8", or one for each category: "LC_CTYPE=de_DE.UTF-8;LC_NUMERIC=C;...". What the C
 * library has read of it stays as long as somebody has it. */
static enum outcome load_locale(struct str name)
{
    char text[REPORT_TEXT_BYTES + 1];
    bool any = false;

    while (name.p && name.n) {
        struct str part = str_cut(&name, ';');
        ptrdiff_t equals = str_find(part, '=');
        snprintf(text, sizeof(text), "%.*s", STR_ARG(str_skip(part, (size_t)(equals + 1))));
        any |= newlocale(LC_ALL_MASK, text, (locale_t)0) != (locale_t)0;
    }
    return any ? LOADED : GONE;
}

static enum outcome load(const struct report_view *v)
{
    switch (v->kind) {
    case REPORT_CLASS: return load_class(v->text);
    case REPORT_FILE: return load_file(v->text);
    case REPORT_LIBRARY: return load_library(v->text);
    case REPORT_LOCALE: return load_locale(v->text);
    default: return LATER;
    }
}

/* --- scripts that are only compiled ----------------------------------------------------------- */

static void compile(zend_function *f, struct str name)
{
    char path[4096];
    zval argument, result;

    if (!late_path_of(name, path, sizeof(path)))
        return;
    ZVAL_STRING(&argument, path);
    ZVAL_UNDEF(&result);
    if (!zend_hash_exists(&EG(included_files), Z_STR(argument)))
        zend_call_known_function(f, NULL, NULL, &result, 1, &argument, NULL);
    zend_clear_exception();
    zval_ptr_dtor(&result);
    zval_ptr_dtor(&argument);
}

/* In a process that ends: opcache's memory is shared, what it declared here is not. */
NORETURN static void compile_all(const struct report *r, zend_function *f)
{
    struct report_view v;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(COMPILE_S);
    EG(error_reporting) = 0;
    for (uint32_t i = 0; i < REPORT_NAMES; i++)
        if (report_read(&r->names[i], &v) && v.kind == REPORT_FILE && v.count >= LEARNED_LEAST &&
            !(v.flags & (REPORT_BANNED | REPORT_UNDER_WAY)))
            compile(f, v.text);
    _exit(0);
}

static void compile_the_rest(const struct report *r)
{
    zend_function *f = zend_hash_str_find_ptr(EG(function_table), "opcache_compile_file",
                                              sizeof("opcache_compile_file") - 1);
    int status;

    if (!f || !learned.compiled)
        return;
    pid_t pid = fork();
    if (pid == 0)
        compile_all(r, f);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
}

/* --- all of it -------------------------------------------------------------------------------- */

static void try_one(struct report_entry *e, const struct report_view *v)
{
    uint8_t *failed = &learned.has_failed[e - late_report()->names];

    atomic_fetch_or_explicit(&e->flags, REPORT_TRIED | REPORT_UNDER_WAY, memory_order_relaxed);
    learned.trying = e;
    enum outcome outcome = load(v);
    if (outcome == SPOILT)
        zend_bailout(); /* all that was declared goes with the script: it is booted again */
    learned.trying = NULL;
    atomic_fetch_and_explicit(&e->flags, ~(uint32_t)REPORT_UNDER_WAY, memory_order_relaxed);
    *failed = outcome == FAILED;
    learned.failed += outcome == FAILED;
    learned.compiled += outcome == LATER && v->kind == REPORT_FILE;
    learned.progress += outcome == LOADED;
    if (v->kind == REPORT_CLASS) /* judge_classes tells whether it is gone */
        return;
    learned.loaded += outcome == LOADED;
    learned.gone += outcome == GONE;
    if (outcome == GONE) /* learned anew when a request loads it again */
        atomic_store_explicit(&e->count, 0, memory_order_relaxed);
}

/* True: it has to be left alone. */
static bool is_marked(struct report_entry *e, const struct report_view *v)
{
    if (v->flags & REPORT_UNDER_WAY) {
        log_warn("learned: %.*s cannot be loaded before the image, and is not tried any more; the "
                 "script was booted again without it",
                 STR_ARG(v->text));
        atomic_fetch_or_explicit(&e->flags, REPORT_BANNED, memory_order_relaxed);
        atomic_fetch_and_explicit(&e->flags, ~(uint32_t)REPORT_UNDER_WAY, memory_order_relaxed);
        return true;
    }
    return v->flags & REPORT_BANNED;
}

static void try_all(struct report *r, enum report_kind first, enum report_kind last)
{
    struct report_view v;

    for (uint32_t i = 0; i < REPORT_NAMES; i++) {
        struct report_entry *e = &r->names[i];
        if (report_read(e, &v) && v.kind >= first && v.kind <= last && !is_marked(e, &v) &&
            v.count >= LEARNED_LEAST)
            try_one(e, &v);
    }
}

/* Some come with a file that no autoloader knows. */
static void judge_classes(struct report *r)
{
    struct report_view v;

    for (uint32_t i = 0; i < REPORT_NAMES; i++) {
        if (!report_read(&r->names[i], &v) || v.kind != REPORT_CLASS || v.count < LEARNED_LEAST ||
            v.flags & REPORT_BANNED)
            continue;
        zend_string *s = zend_string_init(v.text.p, v.text.n, false);
        bool there = zend_lookup_class_ex(s, NULL, ZEND_FETCH_CLASS_NO_AUTOLOAD) != NULL;
        zend_string_release(s);
        learned.loaded += there;
        learned.gone += !there;
        if (!there) /* learned anew when a request loads it again */
            atomic_store_explicit(&r->names[i].count, 0, memory_order_relaxed);
    }
}

/* Declarations may need each other: what failed is tried again as long as others did not. */
static void load_declarations(struct report *r)
{
    uint32_t before = 0;

    for (int pass = 0; pass < PASSES_MAX; pass++) {
        learned.loaded = learned.failed = learned.compiled = learned.progress = 0;
        try_all(r, REPORT_CLASS, REPORT_CLASS);
        try_all(r, REPORT_FILE, REPORT_FILE);
        if (!learned.failed || learned.progress == before)
            return;
        before = learned.progress;
    }
}

static void ban_failures(struct report *r)
{
    for (uint32_t i = 0; i < REPORT_NAMES; i++)
        if (learned.has_failed[i])
            atomic_fetch_or_explicit(&r->names[i].flags, REPORT_BANNED, memory_order_relaxed);
}

void learned_load(void)
{
    struct report *r = late_report();

    if (!learned.wanted)
        return;
    if (learned.breaks > BREAKS_MAX) {
        log_warn("learned: too many of the names cannot be loaded before the image: it is made "
                 "without any");
        return;
    }
    learned.gone = 0;
    learned.began_ns = clock_monotonic_ns();
    learned.has_failed = mem_zalloc(REPORT_NAMES);
    load_declarations(r);
    try_all(r, REPORT_LIBRARY, REPORT_LOCALE);
    ban_failures(r);
    mem_free(learned.has_failed);
    judge_classes(r);
    compile_the_rest(r);
    atomic_store_explicit(&r->image.loaded, learned.loaded, memory_order_relaxed);
    atomic_store_explicit(&r->image.gone, learned.gone, memory_order_relaxed);
    if (learned.loaded + learned.compiled + learned.gone + learned.failed)
        log_notice("learned from requests: %" PRIu32 " classes and files loaded, %" PRIu32
                   " scripts compiled, %" PRIu32 " gone, %" PRIu32 " that cannot be loaded "
                   "(%" PRIu64 " ms)",
                   learned.loaded, learned.compiled, learned.gone, learned.failed,
                   (clock_monotonic_ns() - learned.began_ns) / NS_PER_MS);
}

bool learned_broke(void)
{
    if (!learned.trying)
        return false;
    learned.trying = NULL;
    learned.breaks++;
    return true;
}

/* --- harm seen later -------------------------------------------------------------------------- */

/* The class that the request could not declare, when that was its last error; else none. */
static struct str undeclared(void)
{
    static const struct {
        struct str begin, end;
    } texts[] = {
        { STR("Cannot declare "), STR(", because the name is already in use") }, /* to 8.3 */
        { STR("Cannot redeclare "), STR(" (previously declared in ") },          /* since 8.4 */
    };
    zend_string *message = PG(last_error_message);

    for (size_t i = 0; message && i < ARRAY_LENGTH(texts); i++) {
        struct str said = { ZSTR_VAL(message), ZSTR_LEN(message) };
        if (!str_has_prefix(said, texts[i].begin))
            continue;
        said = str_skip(said, texts[i].begin.n);
        (void)str_cut(&said, ' '); /* "class", "interface" */
        const char *end = memmem(said.p, said.n, texts[i].end.p, texts[i].end.n);
        if (end)
            return str_take(said, (size_t)(end - said.p));
    }
    return STR_NONE;
}

static bool ban(struct report *r, enum report_kind kind, struct str name)
{
    struct report_view v;

    for (uint32_t i = 0; i < REPORT_NAMES; i++) {
        struct report_entry *e = &r->names[i];
        if (report_read(e, &v) && v.kind == kind && str_eq_nocase(v.text, name) &&
            v.flags & REPORT_TRIED && !(v.flags & REPORT_BANNED)) {
            atomic_fetch_or_explicit(&e->flags, REPORT_BANNED, memory_order_relaxed);
            return true;
        }
    }
    return false;
}

/* A script that declares a class without asking whether it is there: fatal once the image has it.
 */
void learned_judge_error(void)
{
    struct report *r = late_report();
    char text[REPORT_TEXT_BYTES];

    if (likely(!r || !PG(last_error_message)))
        return;
    struct str name = undeclared();
    if (!name.n)
        return;
    zend_string *s = zend_string_init(name.p, name.n, false);
    zend_class_entry *ce = zend_lookup_class_ex(s, NULL, ZEND_FETCH_CLASS_NO_AUTOLOAD);
    bool banned = ban(r, REPORT_CLASS, name);
    if (ce && ce->type == ZEND_USER_CLASS) {
        zend_string *file = ce->info.user.filename;
        banned |=
            ban(r, REPORT_FILE, late_name_of((struct str){ ZSTR_VAL(file), ZSTR_LEN(file) }, text));
    }
    if (!banned)
        return;
    log_warn("learned: %.*s is declared again by the application, so it must not be part of the "
             "image: a new generation is made without it",
             STR_ARG(name));
    report_add(&r->count.harm, 1);
    kill(getppid(), ENGINE_SIGNAL_RENEW);
}
