/*
 * `sapid audit SCRIPT`: runs a script once, as the boot of an image would be run, and says what it
 * reads of the request, what it opens and fixes, and where it can be frozen. Nothing is served and
 * nothing is frozen; what the script does to files and databases it really does.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "php/audit_int.h"

static const char help[] =
    "sapid audit [OPTIONS] SCRIPT: what the start of a script reads of the request, what it opens\n"
    "and fixes, and where it can be frozen into an image\n"
    "\n"
    "Runs the script once, up to where it calls snapshot_state() or frankenphp_handle_request(),\n"
    "for a GET without cookies, in a process of its own. What it does to files and databases it\n"
    "really does.\n"
    "\n"
    "  --url URL        what is asked for; default: http://localhost and the script's own path\n"
    "  --at WHERE       where to freeze it: include:FILE, when that file has returned, or\n"
    "                   function:NAME (also Class::method), when that function has; default: the\n"
    "                   configuration's snapshot_at, else where the script says\n"
    "  --time-limit S   seconds after which it is ended; default 30\n"
    "  --json           the same as JSON\n"
    "  --config FILE, --root DIR, -d NAME=VALUE\n"
    "                   as for sapid serve\n"
    "  --help           this text\n"
    "\n"
    "Exit status: 0 it can be frozen there, 3 it cannot, 1 an error, 2 wrong usage.\n"
    "See docs/snapshot-audit.md\n";

enum { STATUS_ERROR = 1, STATUS_USAGE = 2, LIMIT_S = 30, LIMIT_MAX_S = 3600 };

struct audit_options {
    const char *script, *url, *at;
    php_become *become;
    uint32_t limit_ms;
    bool json;
    int n_rest; /* for config_cli_parse */
    char **rest;
};

/* --- the command line ------------------------------------------------------------------------- */

static bool take_value(struct audit_options *o, const char *name, const char *value)
{
    uint64_t seconds;

    if (strcmp(name, "--url") == 0) {
        o->url = value;
    } else if (strcmp(name, "--at") == 0) {
        o->at = value;
        if (!str_has_prefix(str_from(value), STR("include:")) &&
            !str_has_prefix(str_from(value), STR("function:"))) {
            fprintf(stderr,
                    "sapid audit: --at: expected include:FILE or function:NAME, found \"%s\"\n",
                    value);
            return false;
        }
    } else {
        if (!str_to_u64(str_from(value), LIMIT_MAX_S, &seconds) || seconds == 0) {
            fprintf(stderr,
                    "sapid audit: --time-limit: expected seconds from 1 to %d, found \"%s\"\n",
                    LIMIT_MAX_S, value);
            return false;
        }
        o->limit_ms = (uint32_t)seconds * 1000;
    }
    return true;
}

/* Those of serve that take a value of their own. */
static bool is_for_config(const char *name)
{
    static const char *const names[] = { "--config", "--root", "-d", "--user", "--group" };

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* `rest` has room for all of argv. */
static bool parse(struct audit_options *o, int argc, char **argv)
{
    o->rest[o->n_rest++] = argv[0];
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        bool takes = strcmp(a, "--url") == 0 || strcmp(a, "--at") == 0 ||
                     strcmp(a, "--time-limit") == 0;
        if (takes && i + 1 == argc) {
            fprintf(stderr, "sapid audit: %s needs a value; sapid audit --help\n", a);
            return false;
        }
        if (takes) {
            if (!take_value(o, a, argv[++i]))
                return false;
        } else if (strcmp(a, "--json") == 0) {
            o->json = true;
        } else if (a[0] == '-') {
            o->rest[o->n_rest++] = argv[i];
            if (is_for_config(a) && i + 1 < argc)
                o->rest[o->n_rest++] = argv[++i];
        } else if (o->script) {
            fprintf(stderr, "sapid audit: expected one script, found \"%s\" and \"%s\"\n",
                    o->script, a);
            return false;
        } else {
            o->script = a;
        }
    }
    return true;
}

/* --- which pool, which root ------------------------------------------------------------------- */

static bool is_beneath(struct str path, struct str root)
{
    while (root.n > 1 && root.p[root.n - 1] == '/')
        root.n--;
    return root.n && path.n > root.n && str_has_prefix(path, root) &&
           (path.p[root.n] == '/' || root.n == 1);
}

static const struct config_pool *choose_pool(const struct config *c, struct str script)
{
    for (uint32_t i = 0; i < c->n_pools; i++)
        if (c->pools[i].kind == CONFIG_POOL_CLASSIC &&
            is_beneath(script, c->pools[i].document_root))
            return &c->pools[i];
    return &c->pools[0];
}

static struct str real(struct str path)
{
    char in[PATH_MAX], out[PATH_MAX];

    snprintf(in, sizeof(in), "%.*s", STR_ARG(path));
    return str_from(mem_strdup(realpath(in, out) ? out : in));
}

/* "include:..." of the configuration, if the server would freeze that script by it. */
static const char *configured_at(const struct config_pool *pool, const char *script_name)
{
    for (uint32_t i = 0; i < pool->snapshot_scripts.n; i++)
        if (pool->snapshot_at.n && str_eq(pool->snapshot_scripts.v[i], str_from(script_name + 1)))
            return mem_strndup(pool->snapshot_at);
    return NULL;
}

/* An absolute one: "/path" is asked of localhost. */
static const char *choose_url(const struct audit_options *o, const struct config_pool *pool,
                              const char *script_name)
{
    const char *url = o->url                 ? o->url
                      : pool->snapshot_url.n ? mem_strndup(pool->snapshot_url)
                                             : script_name;

    return url[0] == '/' ? mem_printf("http://localhost%s", url) : url;
}

static void describe(const struct audit_options *o, const struct config_pool *pool,
                     const char *script, struct engine_audit *a)
{
    struct str path = str_from(script), root = real(pool->document_root);

    if (!is_beneath(path, root)) /* a file anywhere: its folder is as good as a root */
        root = str_take(path, (size_t)(strrchr(script, '/') - script));
    while (root.n > 0 && root.p[root.n - 1] == '/')
        root.n--;
    a->script = script;
    a->script_name = script + root.n;
    a->document_root = root.n ? mem_strndup(root) : "/";
    a->url = choose_url(o, pool, a->script_name);
    a->at = o->at ? o->at : configured_at(pool, a->script_name);
    a->limit_ms = o->limit_ms;
}

/* --- the run ---------------------------------------------------------------------------------- */

/* The engine in this process, as a server has it for that pool. 0, or -errno with a sentence. */
static int start_engine(const struct config_pool *pool, struct php_library *lib,
                        struct engine_audit *a, char *message, size_t size)
{
    struct settings settings;
    int rc = library_load(pool->libphp_path, lib, message, size);

    if (rc < 0)
        return rc;
    settings_init(&settings, pool, &lib->probe);
    settings.options.role = "audit";
    settings.options.log_least = LOG_WARN;
    a->env = settings.env;
    a->n_env = settings.n_env;
    return lib->engine->start(&settings.options, message, size);
}

static int audit(const struct audit_options *o, const struct config_pool *pool, const char *script)
{
    struct php_library lib;
    struct engine_audit a = { 0 };
    char message[2048];
    struct audit_log *log = mmap(NULL, sizeof(*log), PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (log == MAP_FAILED) {
        fprintf(stderr, "sapid audit: no memory: %s\n", strerror(errno));
        return STATUS_ERROR;
    }
    describe(o, pool, script, &a);
    int rc = o->become(pool, a.document_root, message, sizeof(message));
    if (rc == 0)
        rc = start_engine(pool, &lib, &a, message, sizeof(message));
    if (rc < 0) {
        fprintf(stderr, "sapid audit: %s\n", message);
        return STATUS_ERROR;
    }
    rc = lib.engine->audit(&a, log, message, sizeof(message));
    struct audit_report report = { .audit = &a,
                                   .log = log,
                                   .pool = pool,
                                   .php_version = lib.probe.version,
                                   .failure = rc < 0 ? message : NULL };
    int status = audit_print(&report, o->json);
    munmap(log, sizeof(*log));
    return status;
}

static void say_line(const char *line)
{
    fprintf(stderr, "sapid: %s\n", line);
}

static int load_and_audit(const struct audit_options *o)
{
    struct config_cli cli;
    struct config_source source = { 0 };
    struct config *c = NULL;
    char *message, script[PATH_MAX];
    int status = STATUS_ERROR;

    if (config_cli_parse(o->n_rest, o->rest, &cli, &message) < 0) {
        fprintf(stderr, "sapid: %s\n", message);
        mem_free(message);
        status = STATUS_USAGE;
    } else if (cli.help) {
        fputs(help, stdout);
        status = 0;
    } else if (!o->script) {
        fprintf(stderr, "sapid audit: expected a script, such as public/index.php; sapid audit "
                        "--help\n");
        status = STATUS_USAGE;
    } else if (!realpath(o->script, script)) {
        fprintf(stderr, "sapid audit: %s: %s\n", o->script, strerror(errno));
    } else {
        if (config_cli_load(&cli, say_line, &source, &c) == 0)
            status = audit(o, choose_pool(c, str_from(script)), script);
        config_free(c);
        config_source_fini(&source);
    }
    config_cli_fini(&cli);
    return status;
}

int php_audit_main(int argc, char **argv, php_become *become)
{
    struct audit_options o = { .limit_ms = LIMIT_S * 1000, .become = become };

    o.rest = mem_alloc(((size_t)argc + 1) * sizeof(*o.rest));
    int status = parse(&o, argc, argv) ? load_and_audit(&o) : STATUS_USAGE;
    mem_free(o.rest);
    return status;
}
