/*
 * `sapid php`: the command line of php-cli on the same engine. A SAPI of its own ("cli", so that
 * scripts and opcache see what they expect), one script, one process; nothing of the server's
 * request is used.
 *
 * Options are read before the engine starts, because -c, -d and -n decide how it starts.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

/* What php-cli fixes above php.ini and below -d. */
static const char fixed_ini[] = "html_errors=0\nregister_argc_argv=1\nimplicit_flush=1\n"
                                "output_buffering=0\nmax_execution_time=0\nmax_input_time=-1\n";

static const char usage[] =
    "Usage: sapid php [options] [-f] FILE [--] [ARGS...]\n"
    "       sapid php [options] -r CODE [--] [ARGS...]\n"
    "       sapid php [options] [-] [--] [ARGS...]    the script comes from standard input\n"
    "\n"
    "  -c PATH      php.ini file, or the folder to look for it in\n"
    "  -n           read no php.ini\n"
    "  -d NAME[=VALUE]  set a php.ini setting\n"
    "  -f FILE      run FILE\n"
    "  -l           only check the syntax\n"
    "  -r CODE      run PHP code without <?php tags\n"
    "  -i, -m, -v   print phpinfo, the loaded modules, the version\n"
    "  --ini        say which php.ini files were read\n"
    "  -h           this help\n";

enum action { RUN, LINT, INFO, MODULES, VERSION, INI_FILES, HELP };

struct command {
    enum action action;
    const char *file, *code; /* neither: standard input */
    const char *ini_path;
    bool no_ini;
    struct buf ini; /* settings of -d */
    int n_args;     /* of the script, without its name */
    char **args;
};

static const char *self = ""; /* $argv[0] and the script's name in $_SERVER */

/* --- options ---------------------------------------------------------------------------------- */

static void define(struct command *c, const char *text)
{
    DCHECK(text);
    const char *value = strchr(text, '=');
    int rc;

    if (!value)
        rc = buf_printf(&c->ini, "%s=1\n", text);
    else if (isalnum((unsigned char)value[1]) || strchr("\"'", value[1])) /* '\0' too */
        rc = buf_printf(&c->ini, "%s\n", text);
    else
        rc = buf_printf(&c->ini, "%.*s=\"%s\"\n", (int)(value - text), text, value + 1);
    CHECK(rc == 0);
}

static bool set_action(struct command *c, enum action action)
{
    c->action = action;
    return true;
}

/* One option with its value (NULL when it takes none). False: not known. */
static bool take_option(struct command *c, char letter, const char *value)
{
    switch (letter) {
    case 'c': c->ini_path = value; return true;
    case 'd': define(c, value); return true;
    case 'f': c->file = value; return true;
    case 'r': c->code = value; return true;
    case 'n': c->no_ini = true; return true;
    case 'C': /* php-cli's own defaults, accepted as it does */
    case 'q': return true;
    case 'l': return set_action(c, LINT);
    case 'i': return set_action(c, INFO);
    case 'm': return set_action(c, MODULES);
    case 'v': return set_action(c, VERSION);
    case 'h': return set_action(c, HELP);
    default: return false;
    }
}

static bool take_long_option(struct command *c, const char *name)
{
    static const struct {
        const char *name;
        enum action action;
    } names[] = { { "help", HELP },
                  { "version", VERSION },
                  { "info", INFO },
                  { "modules", MODULES },
                  { "ini", INI_FILES } };

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (strcmp(name, names[i].name) == 0)
            return set_action(c, names[i].action);
    return false;
}

/* Options end at "--", "-", or the first word that is none: the file, unless -f or -r gave the
 * script. */
static bool parse(struct command *c, int argc, char **argv)
{
    int i = 1;
    bool ended = false;

    for (; i < argc && argv[i][0] == '-' && argv[i][1] && !ended; i++) {
        const char *o = argv[i];
        if (strcmp(o, "--") == 0) {
            ended = true;
        } else if (o[1] == '-') {
            if (!take_long_option(c, o + 2))
                goto unknown;
        } else if (strchr("cdfr", o[1])) {
            const char *value = o[2] ? o + 2 + (o[2] == '=') : argv[++i];
            if (i >= argc) {
                fprintf(stderr, "sapid php: option -%c needs a value\n", o[1]);
                return false;
            }
            take_option(c, o[1], value);
        } else {
            for (const char *letter = o + 1; *letter; letter++)
                if (!take_option(c, *letter, NULL))
                    goto unknown;
        }
    }
    if (i < argc && !ended && !c->file && !c->code) {
        c->file = strcmp(argv[i], "-") == 0 ? NULL : argv[i];
        i++;
        if (i < argc && strcmp(argv[i], "--") == 0 && !c->file)
            i++;
    }
    c->n_args = argc - i;
    c->args = argv + i;
    return true;
unknown:
    fprintf(stderr, "sapid php: unknown option %s\n%s", argv[i], usage);
    return false;
}

/* --- SAPI ------------------------------------------------------------------------------------- */

static size_t write_stdout(const char *text, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t rc = write(STDOUT_FILENO, text + done, n - done);
        if (rc < 0 && errno == EINTR)
            continue;
        if (rc < 0) {
            php_handle_aborted_connection(); /* may not return */
            return done;
        }
        done += (size_t)rc;
    }
    return n;
}

static void flush_nothing(void *server_context)
{
    (void)server_context; /* write_stdout does not buffer */
}

static int drop_header(sapi_header_struct *h, sapi_header_op_enum op, sapi_headers_struct *headers)
{
    (void)h;
    (void)op;
    (void)headers;
    return 0;
}

static int send_no_headers(sapi_headers_struct *headers)
{
    (void)headers;
    return SAPI_HEADER_SENT_SUCCESSFULLY;
}

static char *read_no_cookies(void)
{
    return NULL;
}

static void log_stderr(const char *message, int level)
{
    (void)level;
    fprintf(stderr, "%s\n", message);
}

static void register_variables(zval *array)
{
    static const char *const names[] = { "PHP_SELF", "SCRIPT_NAME", "SCRIPT_FILENAME",
                                         "PATH_TRANSLATED" };

    php_import_environment_variables(array);
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        char *value = (char *)self;
        size_t n = strlen(self);
        if (sapi_module.input_filter(PARSE_SERVER, names[i], &value, n, &n))
            php_register_variable(names[i], value, array);
    }
    char empty[] = "", *value = empty;
    size_t n = 0;
    if (sapi_module.input_filter(PARSE_SERVER, "DOCUMENT_ROOT", &value, n, &n))
        php_register_variable("DOCUMENT_ROOT", value, array);
}

static int start_module(sapi_module_struct *sapi)
{
    return php_module_startup(sapi, NULL);
}

static void put_default(HashTable *config)
{
    zval v;

    ZVAL_NEW_STR(&v, zend_string_init("1", 1, 1));
    zend_hash_str_update(config, "display_errors", sizeof("display_errors") - 1, &v);
}

static sapi_module_struct cli_sapi = {
    .name = (char *)"cli",
    .pretty_name = (char *)"Command Line Interface (sapid)",
    .startup = start_module,
    .shutdown = php_module_shutdown_wrapper,
    .ub_write = write_stdout,
    .flush = flush_nothing,
    .sapi_error = php_error,
    .header_handler = drop_header,
    .send_headers = send_no_headers,
    .read_cookies = read_no_cookies,
    .register_server_variables = register_variables,
    .log_message = log_stderr,
    .php_ini_ignore_cwd = 1,
    .ini_defaults = put_default,
    .phpinfo_as_text = 1,
};

/* --- what it prints --------------------------------------------------------------------------- */

static int by_name(Bucket *a, Bucket *b)
{
    return strcasecmp(ZSTR_VAL(a->key), ZSTR_VAL(b->key));
}

static void print_zend_extension(zend_extension *e)
{
    php_printf("%s\n", e->name);
}

static void print_modules(void)
{
    HashTable sorted;
    zend_module_entry *m;

    zend_hash_init(&sorted, 64, NULL, NULL, 1);
    zend_hash_copy(&sorted, &module_registry, NULL);
    zend_hash_sort(&sorted, by_name, 0);
    php_printf("[PHP Modules]\n");
    ZEND_HASH_FOREACH_PTR(&sorted, m)
    {
        php_printf("%s\n", m->name);
    }
    ZEND_HASH_FOREACH_END();
    zend_hash_destroy(&sorted);
    php_printf("\n[Zend Modules]\n");
    zend_llist_apply(&zend_extensions, (llist_apply_func_t)print_zend_extension);
    php_printf("\n");
}

static void print_ini_files(void)
{
    php_printf("Loaded Configuration File:     %s\n"
               "Additional .ini files parsed:  %s\n",
               php_ini_opened_path ? php_ini_opened_path : "(none)",
               php_ini_scanned_files ? php_ini_scanned_files : "(none)");
}

/* --- running ---------------------------------------------------------------------------------- */

static void define_stream(const char *name, const char *url, const char *mode)
{
    php_stream *s = php_stream_open_wrapper_ex(url, mode, 0, NULL, NULL);
    zend_constant c;

    if (!s)
        return;
    /* The descriptors outlive the streams: extensions may still write to stderr at the very end. */
    s->flags |= PHP_STREAM_FLAG_NO_RSCR_DTOR_CLOSE;
    php_stream_to_zval(s, &c.value);
    ZEND_CONSTANT_SET_FLAGS(&c, CONST_CS, 0);
    c.name = zend_string_init_interned(name, strlen(name), 0);
    zend_register_constant(&c);
}

static void define_streams(void)
{
    define_stream("STDIN", "php://stdin", "rb");
    define_stream("STDOUT", "php://stdout", "wb");
    define_stream("STDERR", "php://stderr", "wb");
}

static void run_file(const struct command *c, FILE *f)
{
    zend_file_handle file;

    zend_stream_init_fp(&file, f, self);
    file.primary_script = 1;
    if (c->action == LINT) {
        bool good = php_lint_script(&file) == SUCCESS;
        php_printf(good ? "No syntax errors detected in %s\n" : "Errors parsing %s\n", self);
        EG(exit_status) = good ? 0 : 255;
        if (!file.in_list)
            zend_destroy_file_handle(&file);
        return;
    }
    if (c->file)
        define_streams();
    php_execute_script(&file);
    if (!file.in_list)
        zend_destroy_file_handle(&file);
}

static void act(const struct command *c, FILE *f)
{
    CG(skip_shebang) = 1;
    EG(exit_status) = 0;
    PG(during_request_startup) = 0;
    zend_is_auto_global(ZSTR_KNOWN(ZEND_STR_AUTOGLOBAL_SERVER));
    switch (c->action) {
    case INFO: php_print_info(PHP_INFO_ALL & ~PHP_INFO_CREDITS); break;
    case MODULES: print_modules(); break;
    case VERSION:
        php_printf("PHP %s (cli) (NTS) on sapid\nCopyright (c) The PHP Group\n%s", PHP_VERSION,
                   get_zend_version());
        break;
    case INI_FILES: print_ini_files(); break;
    case RUN:
    case LINT:
        if (c->code) {
            define_streams();
            zend_eval_string_ex(c->code, NULL, "Command line code", 1);
        } else {
            run_file(c, f);
        }
        break;
    case HELP: break;
    }
}

static int run_request(struct command *c, FILE *f)
{
    char real[MAXPATHLEN];

    /* argv[0] is the script's name; the word before the arguments is free for it. */
    self = c->code ? "Standard input code" : c->file ? c->file : "Standard input code";
    char **argv = mem_alloc(((size_t)c->n_args + 2) * sizeof(*argv));
    argv[0] = (char *)self;
    memcpy(argv + 1, c->args, ((size_t)c->n_args + 1) * sizeof(*argv));
    SG(request_info).argc = c->n_args + 1;
    SG(request_info).argv = argv;
    SG(request_info).path_translated = c->file && realpath(c->file, real) ? real : (char *)self;
    SG(request_info).no_headers = 1;
    SG(headers_sent) = 1;
    zend_first_try
    {
        if (php_request_startup() == SUCCESS) {
            SG(headers_sent) = 1;
            SG(request_info).no_headers = 1;
            act(c, f);
        } else {
            EG(exit_status) = 1;
        }
    }
    zend_end_try();
    php_request_shutdown(NULL);
    SG(request_info).path_translated = NULL;
    int status = EG(exit_status);
    SG(request_info).argv = NULL;
    mem_free(argv);
    return status;
}

int cli_run(const struct engine_options *o, int argc, char **argv)
{
    struct command c = { .action = RUN };
    FILE *f = stdin;

    log_init("php", 2, o->log_least);
    buf_init(&c.ini, 0);
    CHECK(buf_append(&c.ini, fixed_ini, sizeof(fixed_ini) - 1) == 0);
    if (!parse(&c, argc, argv))
        return 1;
    if (c.action == HELP) {
        fputs(usage, stdout);
        return 0;
    }
    if (c.file && (c.action == RUN || c.action == LINT) && !(f = fopen(c.file, "rbe"))) {
        printf("Could not open input file: %s\n", c.file);
        return 1;
    }
    CHECK(buf_append(&c.ini, "", 1) == 0);
    signal(SIGPIPE, SIG_IGN);
    compat_signal_startup();
    sapi_startup(&cli_sapi);
    ini_choose(&cli_sapi, o);
    cli_sapi.ini_entries = (char *)buf_view(&c.ini).p;
    if (c.no_ini) {
        cli_sapi.php_ini_ignore = 1;
        cli_sapi.php_ini_path_override = NULL;
    }
    if (c.ini_path)
        cli_sapi.php_ini_path_override = (char *)c.ini_path;
    cli_sapi.executable_location = (char *)o->executable;
    if (cli_sapi.startup(&cli_sapi) == FAILURE) {
        fprintf(stderr, "sapid php: PHP %s did not start\n", PHP_VERSION);
        return 1;
    }
    SG(options) |= SAPI_OPTION_NO_CHDIR;
    int status = run_request(&c, f);
    php_module_shutdown();
    sapi_shutdown();
    cli_sapi.ini_entries = NULL;
    buf_fini(&c.ini);
    return status;
}
