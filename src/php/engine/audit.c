/*
 * The audit of a boot: a process of its own runs the entry script up to its freeze point, with
 * everything looked at that an image would fix, writes that to shared memory and is gone. So the
 * boot that is frozen runs without any of this.
 *
 * Code is compiled anew here, opcache being off, with an opcode handler of ours where code can read
 * a request (audit_reads.c) and a hook around internal functions (audit_calls.c); code that is
 * preloaded is given them afterwards (audit_preload.c).
 */
#include "php/engine/audit_int.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

enum { SAID_MAX = 2048 };

static struct {
    struct audit_log *log; /* NULL: this process is none that is audited */
    const struct audit_run *run;
    uint64_t began_ns;
    HashTable texts, seen;
    uint32_t copy_file[AUDIT_GLOBALS], copy_line[AUDIT_GLOBALS];
    char said[SAID_MAX];
    size_t n_said;
} audit;

bool audit_is_on(void)
{
    return audit.log != NULL;
}

/* --- the log ---------------------------------------------------------------------------------- */

static uint32_t put_text(struct str s)
{
    struct audit_log *log = audit.log;

    if (!s.p)
        return 0;
    zval *old = zend_hash_str_find(&audit.texts, s.p, s.n);
    if (old)
        return (uint32_t)Z_LVAL_P(old);
    if (AUDIT_TEXTS_MAX - log->texts_used <= s.n + 1)
        return 0;
    zval at;
    ZVAL_LONG(&at, log->texts_used);
    memcpy(log->texts + log->texts_used, s.p, s.n);
    log->texts[log->texts_used + s.n] = '\0';
    log->texts_used += (uint32_t)s.n + 1;
    zend_hash_str_add(&audit.texts, s.p, s.n, &at);
    return (uint32_t)Z_LVAL(at);
}

static uint32_t here(uint32_t *ret_line)
{
    const char *file = zend_get_executed_filename();

    *ret_line = zend_get_executed_lineno();
    return put_text(str_from(file ? file : "?"));
}

/* NULL: such a one is there already, or there is no room. */
static struct audit_event *add(enum audit_kind kind, unsigned global, struct str name,
                               struct str value, bool once)
{
    struct audit_log *log = audit.log;
    struct audit_event e = { .kind = (uint8_t)kind, .global = (uint8_t)global, .times = 1 };
    struct {
        uint32_t kind, global, name, value, file, line;
    } key = { 0 };

    if (value.n > AUDIT_VALUE_MAX) {
        value.n = AUDIT_VALUE_MAX;
        e.flags |= AUDIT_CUT;
    }
    e.name = put_text(name);
    e.value = put_text(value);
    e.value_n = (uint32_t)value.n;
    e.file = here(&e.line);
    e.at_ns = clock_monotonic_ns() - audit.began_ns;
    key.kind = kind;
    key.global = global;
    key.name = e.name;
    if (!once) {
        key.value = e.value;
        key.file = e.file;
        key.line = e.line;
    }
    zval *old = zend_hash_str_find(&audit.seen, (const char *)&key, sizeof(key));
    if (old) {
        log->events[Z_LVAL_P(old)].times++;
        return NULL;
    }
    if (log->n_events == AUDIT_EVENTS_MAX) {
        log->n_dropped++;
        return NULL;
    }
    zval index;
    ZVAL_LONG(&index, log->n_events);
    zend_hash_str_add(&audit.seen, (const char *)&key, sizeof(key), &index);
    log->events[log->n_events] = e;
    return &log->events[log->n_events++];
}

void audit_note(enum audit_kind kind, struct str name, struct str value)
{
    if (audit.log)
        (void)add(kind, 0, name, value, false);
}

/* --- reads of the request --------------------------------------------------------------------- */

static bool is_time(const zend_string *key)
{
    return zend_string_equals_literal(key, "REQUEST_TIME") ||
           zend_string_equals_literal(key, "REQUEST_TIME_FLOAT");
}

static void note_value(struct audit_event *e, const zval *value)
{
    smart_str text = { 0 };
    zend_string *plain;

    switch (value ? Z_TYPE_P(value) : IS_UNDEF) {
    case IS_UNDEF: return;
    case IS_ARRAY:
        e->flags |= AUDIT_IS_ARRAY;
        php_json_encode(&text, (zval *)(uintptr_t)value,
                        PHP_JSON_UNESCAPED_SLASHES | PHP_JSON_PARTIAL_OUTPUT_ON_ERROR);
        smart_str_0(&text);
        plain = text.s ? text.s : ZSTR_EMPTY_ALLOC();
        break;
    default: plain = zval_get_string((zval *)(uintptr_t)value);
    }
    struct str s = { ZSTR_VAL(plain), ZSTR_LEN(plain) };
    if (s.n > AUDIT_VALUE_MAX) {
        s.n = AUDIT_VALUE_MAX;
        e->flags |= AUDIT_CUT;
    }
    e->value = put_text(s);
    e->value_n = (uint32_t)s.n;
    zend_string_release(plain);
}

/* The value that guards compare is what the request brought, not what PHP made of it. */
static void note_server_value(struct audit_event *e, const zend_string *key, const zval *value)
{
    struct str name = { ZSTR_VAL(key), ZSTR_LEN(key) }, raw;

    if (!variables_may_differ(name)) { /* passwords are often there */
        e->flags |= AUDIT_NOT_GUARDED | (value ? AUDIT_HIDDEN : 0);
        return;
    }
    if (is_time(key)) {
        e->flags |= AUDIT_NOT_GUARDED;
        note_value(e, value);
        return;
    }
    if (str_eq(name, STR("REMOTE_PORT")))
        e->flags |= AUDIT_HOPELESS;
    if (!variables_look(name, &raw)) {
        if (value) /* made of the request by PHP itself: argv, PHP_AUTH_USER */
            note_value(e, value);
        return;
    }
    e->value = put_text(raw);
    e->value_n = (uint32_t)raw.n;
}

/* $_ENV has what requests bring only where variables_order says so. */
static bool env_is_of_request(void)
{
    const char *order = PG(variables_order);

    return order && strpbrk(order, "Ee");
}

void audit_note_read(enum audit_global global, zend_string *key, const zval *value)
{
    struct str name = key ? (struct str){ ZSTR_VAL(key), ZSTR_LEN(key) } : STR_NONE;

    if (!audit.log)
        return;
    struct audit_event *e = add(AUDIT_READ, global, name, STR_NONE, true);
    if (!e)
        return;
    if (key && (global == AUDIT_SERVER || global == AUDIT_ENV))
        note_server_value(e, key, value);
    else if (value)
        note_value(e, value);
    if (!key && (global == AUDIT_SERVER || global == AUDIT_HEADERS || global == AUDIT_ENV))
        e->flags |= AUDIT_HOPELESS;
    if (global == AUDIT_ENV && !env_is_of_request())
        e->flags = (uint8_t)((e->flags & ~AUDIT_HOPELESS) | AUDIT_NOT_GUARDED);
}

void audit_note_copy(enum audit_global global)
{
    audit.copy_file[global] = here(&audit.copy_line[global]);
}

void audit_note_alive(enum audit_global global)
{
    uint32_t n = audit.log->n_events;

    audit_note_read(global, NULL, NULL);
    if (audit.log->n_events == n)
        return;
    struct audit_event *e = &audit.log->events[n];
    e->flags |= AUDIT_COPY;
    if (audit.copy_line[global]) {
        e->file = audit.copy_file[global];
        e->line = audit.copy_line[global];
    }
}

/* --- the end ---------------------------------------------------------------------------------- */

static void note_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    char path[64], target[512];

    for (struct dirent *d = dir ? readdir(dir) : NULL; d; d = readdir(dir)) {
        int fd = atoi(d->d_name);
        struct stat st;
        if (d->d_name[0] == '.' || fd == dirfd(dir) || !refusal_is_new(fd) || fstat(fd, &st) < 0 ||
            S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISCHR(st.st_mode))
            continue;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, target, sizeof(target));
        audit_note(AUDIT_KEPT, STR("descriptor"), (struct str){ target, n > 0 ? (size_t)n : 0 });
    }
    if (dir)
        closedir(dir);
}

static void note_output(void)
{
    struct audit_log *log = audit.log;
    int levels = php_output_get_level();
    zval text;

    log->output_levels = levels > 0 ? (uint32_t)levels : 0;
    log->headers_sent = SG(headers_sent);
    log->session_active = session_is_active();
    log->session_left = session_is_left() ? put_text(str_from(session_cookie_name())) : 0;
    while (php_output_get_level() > 0) { /* this process ends now: nobody will miss the buffers */
        ZVAL_UNDEF(&text);
        if (php_output_get_contents(&text) == SUCCESS && Z_TYPE(text) == IS_STRING)
            log->output_bytes += (uint32_t)Z_STRLEN(text);
        int level = php_output_get_level();
        php_output_discard();
        if (php_output_get_level() >= level)
            break;
    }
}

static void read_configured(enum audit_global global, struct str key)
{
    if (!key.p) {
        audit_read_all(global);
        return;
    }
    zend_string *name = zend_string_init(key.p, key.n, 0);
    audit_read_key(global, name);
    zend_string_release(name);
}

NORETURN static void end(enum audit_state state)
{
    struct audit_log *log = audit.log;

    log->end_ns = clock_monotonic_ns() - audit.began_ns;
    log->end_file = here(&log->end_line);
    if (state == AUDIT_FROZEN) {
        guards_read_configured(audit.run->guards, audit.run->n_guards, read_configured);
        if (php_ini_has_per_host_config()) /* [HOST=...] of php.ini: settings of the boot's host */
            read_configured(AUDIT_SERVER, STR("SERVER_NAME"));
        note_descriptors();
        audit_reads_finish();
        note_output();
    }
    log->script_missing = request.script_missing;
    log->exit_status = EG(exit_status);
    log->said = put_text((struct str){ audit.said, audit.n_said });
    atomic_store_explicit(&log->state, state, memory_order_release);
    _exit(ENGINE_EXIT_OK);
}

void audit_done(void)
{
    CHECK(audit.log);
    end(AUDIT_FROZEN);
}

/* --- files and freeze points ------------------------------------------------------------------ */

static zend_op_array *(*compile_before)(zend_file_handle *, int);

/* Of a file that only declares: include does not run it, so it never returns. */
static bool does_nothing(const zend_op_array *code)
{
    return code->last == 1 && code->opcodes[0].opcode == ZEND_RETURN &&
           code->opcodes[0].op1_type == IS_CONST;
}

static zend_op_array *compile_noted(zend_file_handle *h, int type)
{
    zend_op_array *code = compile_before(h, type);

    if (code && code->filename)
        audit_note(AUDIT_FILE, (struct str){ ZSTR_VAL(code->filename), ZSTR_LEN(code->filename) },
                   STR_NONE);
    if (code && does_nothing(code) && EG(current_execute_data) && !h->primary_script)
        audit_returned((const zend_function *)code, false);
    return code;
}

/* "wp-includes/x.php" names every file that ends so. */
static bool is_file_named(const zend_string *file, struct str name)
{
    struct str path = { ZSTR_VAL(file), ZSTR_LEN(file) };

    if (name.n && name.p[0] == '/')
        return str_eq(path, name);
    return str_has_suffix(path, name) && (path.n == name.n || path.p[path.n - name.n - 1] == '/');
}

static zend_string *lower(struct str s)
{
    zend_string *text = zend_string_init(s.p, s.n, 0);
    zend_string *lowered = zend_string_tolower(text);

    zend_string_release(text);
    return lowered;
}

/* "boot", "App\\Kernel::boot" as that class has it now, by itself or from a parent; NULL: there is
 * no such function yet. */
static const zend_function *find_function(struct str name)
{
    HashTable *functions = EG(function_table);
    ptrdiff_t colon = str_find(name, ':');

    if (name.n && name.p[0] == '\\')
        return find_function(str_skip(name, 1));
    if (colon > 0 && (size_t)colon + 2 < name.n) {
        zend_string *class = lower(str_take(name, (size_t)colon));
        const zend_class_entry *ce = zend_hash_find_ptr(EG(class_table), class);
        zend_string_release(class);
        if (!ce)
            return NULL;
        functions = (HashTable *)(uintptr_t)&ce->function_table;
        name = str_skip(name, (size_t)colon + 2);
    }
    zend_string *key = lower(name);
    const zend_function *f = zend_hash_find_ptr(functions, key);
    zend_string_release(key);
    return f;
}

void audit_returned(const zend_function *f, bool is_main)
{
    struct str at = str_from(audit.run->at ? audit.run->at : "");
    const struct str include = STR("include:"), function = STR("function:");
    const zend_op_array *code = ZEND_USER_CODE(f->type) ? &f->op_array : NULL;

    if (code && !code->function_name) {
        if (code->type == ZEND_EVAL_CODE || !code->filename)
            return;
        (void)add(AUDIT_FILE_END, 0,
                  (struct str){ ZSTR_VAL(code->filename), ZSTR_LEN(code->filename) }, STR_NONE,
                  true);
        if (!is_main && str_has_prefix(at, include) &&
            is_file_named(code->filename, str_skip(at, include.n)))
            end(AUDIT_FROZEN);
    } else if (str_has_prefix(at, function)) {
        const zend_function *wanted = find_function(str_skip(at, function.n));
        if (wanted && (wanted == f || (code && ZEND_USER_CODE(wanted->type) &&
                                       wanted->op_array.opcodes == code->opcodes)))
            end(AUDIT_FROZEN);
    }
}

/* --- the process ------------------------------------------------------------------------------ */

static size_t hear_output(const char *text, size_t n)
{
    size_t room = sizeof(audit.said) - audit.n_said, take = n < room ? n : room;

    audit_note(AUDIT_OUTPUT, STR("output"), STR_NONE);
    audit.log->output_bytes += (uint32_t)n;
    memcpy(audit.said + audit.n_said, text, take);
    audit.n_said += take;
    return n;
}

static void hear_message(const char *message, int level)
{
    struct str text = str_from(message);

    (void)level;
    (void)hear_output(text.p, 0);
    size_t room = sizeof(audit.said) - audit.n_said;
    if (room > text.n + 1) {
        memcpy(audit.said + audit.n_said, text.p, text.n);
        audit.n_said += text.n;
        audit.said[audit.n_said++] = '\n';
    }
}

/* Only for this process, and from the next request on. */
static void switch_opcache_off(void)
{
    zend_ini_entry *e = zend_hash_str_find_ptr(EG(ini_directives), "opcache.enable", 14);
    zend_string *no = zend_string_init("0", 1, true);

    if (e && e->on_modify)
        e->on_modify(e, no, e->mh_arg1, e->mh_arg2, e->mh_arg3, ZEND_INI_STAGE_RUNTIME);
}

static void begin(struct audit_log *log, const struct audit_run *run)
{
    zend_auto_global *g;

    audit.log = log;
    audit.run = run;
    log->texts_used = 1;
    zend_hash_init(&audit.texts, 1024, NULL, NULL, true);
    zend_hash_init(&audit.seen, 1024, NULL, NULL, true);
    refusal_record();
    switch_opcache_off();
    /* $_SERVER is made when code that names it is compiled; preloaded code is not */
    ZEND_HASH_MAP_FOREACH_PTR(CG(auto_globals), g)
    {
        g->jit = 0;
    }
    ZEND_HASH_FOREACH_END();
    sapi_module.ub_write = hear_output;
    sapi_module.log_message = hear_message;
    compile_before = zend_compile_file;
    zend_compile_file = compile_noted;
    /* so that no internal function is an opcode of its own, out of sight of audit_calls.c */
    CG(compiler_options) |= ZEND_COMPILE_NO_BUILTINS;
    audit_reads_install();
    audit_calls_install();
    log->preloaded = audit_preload_install();
    audit_streams_install();
    audit.began_ns = clock_monotonic_ns();
}

/* A child that may take `limit_ms`. Its wait status, or -errno. */
static int wait_for(pid_t pid, uint32_t limit_ms)
{
    int status, fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = { fd, POLLIN, 0 };
    int rc = 0;

    if (fd < 0 || poll(&p, 1, (int)limit_ms) <= 0) {
        rc = -ETIMEDOUT;
        kill(pid, SIGKILL);
    }
    fd_close(&fd);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return rc < 0 ? rc : status;
}

int audit_fork(struct audit_log *log, const struct audit_run *run, char *text, size_t size)
{
    pid_t parent = getpid(), pid = fork();

    if (pid == 0) {
        control_die_with_parent(parent, SIGKILL);
        worker_be_audit();
        begin(log, run);
        (void)run->boot(run->context);
        end(AUDIT_ENDED);
    }
    int status = pid < 0 ? -errno : wait_for(pid, run->limit_ms);
    if (status == -ETIMEDOUT) {
        snprintf(text, size,
                 "the audit of the boot took more than %u s and was ended: a boot that is to be "
                 "frozen must come to an end by itself",
                 run->limit_ms / 1000);
        return status;
    }
    if (status < 0) {
        snprintf(text, size, "the audit of the boot could not be run: %s", strerror(-status));
        return status;
    }
    if (WIFSIGNALED(status)) {
        snprintf(text, size, "the audit of the boot was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
        return -EFAULT;
    }
    if (atomic_load_explicit(&log->state, memory_order_acquire) == AUDIT_RUNNING) {
        snprintf(text, size, "the audit of the boot ended by itself with exit status %d",
                 WEXITSTATUS(status));
        return -EPROTO;
    }
    return 0;
}

/* --- sapid audit ------------------------------------------------------------------------------ */

static bool boot_alone(void *context)
{
    const struct engine_audit *a = context;
    const struct pretended p = { .script = a->script,
                                 .script_name = a->script_name,
                                 .document_root = a->document_root,
                                 .url = str_from(a->url),
                                 .request_id = "audit" };

    request_pretend(&p);
    return script_run(a->script);
}

int audit_command(const struct engine_audit *a, struct audit_log *log, char *text, size_t size)
{
    const struct audit_run run = {
        .boot = boot_alone, .context = (void *)(uintptr_t)a, .at = a->at, .limit_ms = a->limit_ms
    };

    for (size_t i = 0; i < a->n_env; i++)
        setenv(a->env[i].name, a->env[i].value, 1);
    compat_signal_keep_ours();
    return audit_fork(log, &run, text, size);
}
