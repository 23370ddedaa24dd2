/*
 * The command line of `sapid serve` and `sapid check`: every option is a key of the configuration
 * in shorter words, so both commands mean the same by it and the values are checked where the
 * file's are.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "config/config_int.h"

enum { CONFIG_TEXT_MAX = 1 << 20 };

enum option_kind {
    OPTION_KEY,
    OPTION_ROOT,
    OPTION_WORKER,
    OPTION_WATCH,
    OPTION_LISTEN,
    OPTION_INI,
    OPTION_CONFIG,
    OPTION_DEV,
    OPTION_REFERENCE,
    OPTION_EXPLAIN,
    OPTION_HELP
};

static const struct option {
    const char *name;
    enum option_kind kind;
    const char *key;   /* OPTION_KEY */
    const char *value; /* what follows it, for messages; NULL: nothing */
    bool check_only;
} options[] = {
    { "--config", OPTION_CONFIG, NULL, "a file, such as sapid.toml", false },
    { "--root", OPTION_ROOT, NULL, "a folder", false },
    { "--listen", OPTION_LISTEN, NULL, "an address, such as 127.0.0.1:8080 or unix:/run/sapid.sock",
      false },
    { "--workers", OPTION_KEY, "php.worker_pool_size", "a number, or auto", false },
    { "--worker", OPTION_WORKER, NULL, "a script, such as public/index.php", false },
    { "--watch", OPTION_WATCH, NULL, NULL, false },
    { "--user", OPTION_KEY, "php.user", "the name of a user", false },
    { "--group", OPTION_KEY, "php.group", "the name of a group", false },
    { "-d", OPTION_INI, NULL, "a php.ini setting, such as memory_limit=256M", false },
    { "--dev", OPTION_DEV, NULL, NULL, false },
    { "--reference", OPTION_REFERENCE, NULL, NULL, true },
    { "--explain", OPTION_EXPLAIN, NULL, "a URL, such as /index.php?a=1", true },
    { "--help", OPTION_HELP, NULL, NULL, false },
    { "-h", OPTION_HELP, NULL, NULL, false },
};

static const char serve_help[] =
    "sapid serve [OPTIONS]: serve an application in the foreground\n"
    "\n"
    "  --config FILE    read a configuration file (sapid check --config FILE explains it)\n"
    "  --root DIR       the document root; without it: public/, web/ or the current folder\n"
    "  --listen ADDR    where to listen: 127.0.0.1:8080 (the default), [::1]:80, *:80, 8080,\n"
    "                   unix:/run/sapid.sock; may be given several times\n"
    "  --workers N      PHP processes: how many requests run at the same time; default: auto\n"
    "  --worker FILE    worker mode: FILE boots once and handles requests in a loop; then\n"
    "                   --workers is how many such processes\n"
    "  --watch          start the worker script afresh when a file changes\n"
    "  --user NAME      user of the PHP processes when started as root; --group NAME likewise\n"
    "  -d NAME=VALUE    set a php.ini value, as php -d; may be given several times\n"
    "  --dev            development: errors in the browser, changed scripts are seen at once\n"
    "  --help           this text\n"
    "\n"
    "Options beat the file. SIGTERM lets running requests end and stops, SIGINT stops at once,\n"
    "SIGHUP reloads. More: man sapid, docs/command-line.md\n";

static const char check_help[] =
    "sapid check [OPTIONS]: read the configuration as `serve` would and say what it means\n"
    "\n"
    "Prints every key with its value and where it came from, or every error with its file,\n"
    "line and column. Exit status: 0 the configuration is valid, 1 it is not, 2 wrong usage.\n"
    "\n"
    "  --explain URL    say which route, pool and file a request for URL would take, and why\n"
    "  --reference      print the reference of all keys (Markdown) and do nothing else\n"
    "  --help           this text\n"
    "  --config, --root, --listen, --workers, --worker, --watch, --user, --group, -d, --dev: as\n"
    "                   for sapid serve\n";

const char *config_cli_help(const char *command)
{
    return strcmp(command, "check") == 0 ? check_help : serve_help;
}

struct cli_parser {
    struct config_cli *cli;
    const char *command;
    const char *cwd;
    size_t n_overrides;
    char *message;
};

PRINTF_LIKE(2, 3) static int fail(struct cli_parser *p, const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    p->message = mem_printf("%s: %s", p->command, text);
    free(text);
    return -EINVAL;
}

/* Takes `text`. */
static void add_override(struct cli_parser *p, char *text)
{
    p->cli->overrides = mem_realloc(p->cli->overrides, (p->n_overrides + 2) * sizeof(char *));
    p->cli->overrides[p->n_overrides++] = text;
    p->cli->overrides[p->n_overrides] = NULL;
}

/* Paths of the command line are relative to the current folder, whatever the file's folder is. */
static char *absolute(const struct cli_parser *p, const char *path)
{
    return *path == '/' || *path == '\0' ? mem_strdup(path) : mem_printf("%s/%s", p->cwd, path);
}

static bool is_for(const struct option *option, const char *command)
{
    return !option->check_only || strcmp(command, "check") == 0;
}

static int fail_unknown(struct cli_parser *p, const char *typed)
{
    struct str name = str_from(typed);
    const struct option *nearest = NULL;

    if (name.n == 0 || name.p[0] != '-')
        return fail(p, "expected an option, found \"%s\"; a folder to serve is named with --root",
                    typed);
    name = str_cut(&name, '=');
    unsigned best = config_distance_limit(name) + 1;
    for (size_t i = 0; i < ARRAY_LENGTH(options); i++) {
        unsigned distance = config_distance(name, str_from(options[i].name), best);
        if (distance < best && is_for(&options[i], p->command)) {
            best = distance;
            nearest = &options[i];
        }
    }
    if (nearest)
        return fail(p, "unknown option %.*s; did you mean %s?", STR_ARG(name), nearest->name);
    return fail(p, "unknown option %.*s; `sapid %s --help` lists them", STR_ARG(name), p->command);
}

static int set_config_path(struct cli_parser *p, const char *value)
{
    char *resolved;

    if (p->cli->config_path)
        return fail(p, "--config is given twice");
    resolved = realpath(value, NULL);
    if (!resolved)
        return fail(p, "--config %s: %s", value, strerror(errno));
    p->cli->config_path = mem_strdup(resolved);
    free(resolved);
    return 0;
}

static int apply(struct cli_parser *p, const struct option *option, const char *value)
{
    char *path;

    switch (option->kind) {
    case OPTION_CONFIG: return set_config_path(p, value);
    case OPTION_KEY: add_override(p, mem_printf("%s=%s", option->key, value)); break;
    case OPTION_ROOT:
        path = absolute(p, value);
        add_override(p, mem_printf("php.document_root=%s", path));
        mem_free(path);
        break;
    case OPTION_WORKER:
        path = absolute(p, value);
        add_override(p, mem_printf("worker.script=%s", path));
        mem_free(path);
        break;
    case OPTION_WATCH: add_override(p, mem_strdup("worker.watch=true")); break;
    case OPTION_LISTEN:
        if (strncmp(value, "unix:", 5) != 0) {
            add_override(p, mem_printf("server.listen=%s", value));
            break;
        }
        path = absolute(p, value + 5);
        add_override(p, mem_printf("server.listen=unix:%s", path));
        mem_free(path);
        break;
    case OPTION_INI:
        if (value[0] == '=' || value[0] == '\0')
            return fail(p, "-d %s: expected a php.ini setting, NAME=VALUE", value);
        /* php -d NAME means NAME=1 */
        add_override(p, mem_printf("php.ini.%s%s", value, strchr(value, '=') ? "" : "=1"));
        break;
    case OPTION_DEV:
        if (!p->cli->dev)
            add_override(p, mem_strdup("dev=true"));
        p->cli->dev = true;
        break;
    case OPTION_REFERENCE: p->cli->reference = true; break;
    case OPTION_EXPLAIN:
        if (p->cli->explain)
            return fail(p, "--explain is given twice");
        p->cli->explain = mem_strdup(value);
        break;
    case OPTION_HELP: p->cli->help = true; break;
    }
    return 0;
}

/* The option at argv[*at], with its value in the same argument ("--root=DIR", "-dNAME=VALUE") or
 * the next one; `*at` moves past what was used. */
static int parse_one(struct cli_parser *p, int argc, char **argv, int *at)
{
    const char *typed = argv[*at];

    for (size_t i = 0; i < ARRAY_LENGTH(options); i++) {
        const struct option *option = &options[i];
        size_t n = strlen(option->name);
        if (strncmp(typed, option->name, n) != 0 || !is_for(option, p->command))
            continue;
        if (typed[n] == '\0' && !option->value)
            return apply(p, option, NULL);
        if (typed[n] == '\0') {
            if (*at + 1 >= argc)
                return fail(p, "%s needs a value: %s", option->name, option->value);
            return apply(p, option, argv[++*at]);
        }
        if (option->kind == OPTION_INI)
            return apply(p, option, typed + n);
        if (typed[n] != '=')
            continue; /* a longer name that begins alike */
        if (!option->value)
            return fail(p, "%s takes no value", option->name);
        return apply(p, option, typed + n + 1);
    }
    return fail_unknown(p, typed);
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    CHECK(slash);
    return slash == path ? mem_strdup("/")
                         : mem_strndup((struct str){ path, (size_t)(slash - path) });
}

int config_cli_parse(int argc, char **argv, struct config_cli *ret, char **ret_message)
{
    char *cwd = getcwd(NULL, 0);
    struct cli_parser p = { .cli = ret, .command = argv[0], .cwd = cwd };
    int rc = 0;

    *ret = (struct config_cli){ .overrides = mem_zalloc(sizeof(char *)) };
    *ret_message = NULL;
    if (!cwd)
        rc = fail(&p, "the current folder: %s", strerror(errno));
    for (int i = 1; i < argc && rc == 0 && !ret->help; i++)
        rc = parse_one(&p, argc, argv, &i);
    if (rc == 0)
        ret->base_dir = ret->config_path ? folder_of(ret->config_path) : mem_strdup(cwd);
    free(cwd);
    *ret_message = p.message;
    return rc;
}

void config_cli_fini(struct config_cli *cli)
{
    for (char **it = cli->overrides; it && *it; it++)
        mem_free(*it);
    mem_free(cli->overrides);
    mem_free(cli->config_path);
    mem_free(cli->base_dir);
    mem_free(cli->explain);
    *cli = (struct config_cli){ 0 };
}

/* Text of the file, "" without one. 0, or -errno with one sentence in `*ret_message`. */
static int read_text(const struct config_cli *cli, char **ret_text, size_t *ret_bytes,
                     char **ret_message)
{
    *ret_text = NULL;
    *ret_bytes = 0;
    *ret_message = NULL;
    if (!cli->config_path) {
        *ret_text = mem_strdup("");
        return 0;
    }
    int fd = open(cli->config_path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : fd_read_all(fd, CONFIG_TEXT_MAX, ret_text, ret_bytes);
    fd_close(&fd);
    if (rc < 0)
        *ret_message = mem_printf("%s: cannot be read: %s", cli->config_path, strerror(-rc));
    return rc;
}

int config_cli_load(const struct config_cli *cli, void (*say)(const char *line),
                    struct config_source *ret_source, struct config **ret)
{
    struct config_errors errors = { NULL, 0 };
    struct config *c = NULL;
    char *message = NULL;

    *ret = NULL;
    *ret_source = (struct config_source){ 0 };
    ret_source->name = mem_strdup(cli->config_path ? cli->config_path : "(command line)");
    int r = read_text(cli, &ret_source->text, &ret_source->text_bytes, &message);
    if (r < 0) {
        say(message);
        mem_free(message);
        return r;
    }
    r = config_load(str_from(ret_source->name),
                    (struct str){ ret_source->text, ret_source->text_bytes },
                    (const char *const *)cli->overrides, str_from(cli->base_dir), &c, &errors);
    for (uint32_t i = 0; i < errors.n; i++) {
        char *line = config_error_line(c, &errors.v[i]);
        say(line);
        mem_free(line);
    }
    if (r < 0 && errors.n == 0)
        say(strerror(-r));
    if (r == 0)
        *ret = c;
    else
        config_free(c);
    return r;
}

void config_source_fini(struct config_source *s)
{
    mem_free(s->name);
    mem_free(s->text);
    *s = (struct config_source){ 0 };
}
