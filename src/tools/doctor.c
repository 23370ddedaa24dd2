/*
 * `sapid doctor`: looks at what a server on this machine would depend on, says what is wrong and
 * the command that mends it. It changes nothing and starts nothing. This file: the report and the
 * engine.
 */
#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "tools/doctor_int.h"
#include "tools/tools.h"
#include "version.h"

/* --- the report ------------------------------------------------------------------------------- */

void report_section(struct report *r, const char *title)
{
    (void)r;
    printf("\n%s\n", title);
}

void report_say(struct report *r, enum severity severity, const char *fmt, ...)
{
    static const char *const words[] = {
        [OK] = "ok     ", [NOTE] = "note   ", [WARNING] = "warning", [PROBLEM] = "PROBLEM"
    };
    va_list ap;

    r->warnings += severity == WARNING;
    r->problems += severity == PROBLEM;
    printf("  %s  ", words[severity]);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

void report_more(struct report *r, const char *fmt, ...)
{
    va_list ap;

    (void)r;
    printf("           ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

void report_remedy(struct report *r, const char *fmt, ...)
{
    va_list ap;

    (void)r;
    printf("           mend it: ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

/* --- the engine ------------------------------------------------------------------------------- */

/* Whether the dynamic linker accepts the library, tried in a child: its constructors are foreign
 * code. */
static bool library_loads(const char *path, char *message, size_t size)
{
    int out[2], status;

    message[0] = '\0';
    if (pipe(out) < 0)
        return true;
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        close(out[0]);
        close(out[1]);
        return true;
    }
    if (pid == 0) {
        const char *error = dlopen(path, RTLD_NOW | RTLD_GLOBAL) ? NULL : dlerror();
        if (error && write(out[1], error, strlen(error)) < 0)
            _exit(2);
        _exit(error ? 1 : 0);
    }
    close(out[1]);
    ssize_t n = read(out[0], message, size - 1);
    message[n > 0 ? n : 0] = '\0';
    close(out[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status))
        snprintf(message, size, "loading it ended with signal %d", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Other PHP versions of the system, so that nobody wonders which one is served. */
static void list_other_libraries(struct report *r, const char *chosen)
{
    static const char *const patterns[] = { "/usr/lib/libphp[0-9].[0-9]*.so",
                                            "/usr/lib/*/libphp[0-9].[0-9]*.so",
                                            "/usr/local/lib/libphp*.so" };
    char *real = realpath(chosen, NULL);

    for (size_t i = 0; i < ARRAY_LENGTH(patterns); i++) {
        glob_t found;
        if (glob(patterns[i], 0, NULL, &found) != 0)
            continue;
        for (size_t j = 0; j < found.gl_pathc; j++) {
            char *other = realpath(found.gl_pathv[j], NULL);
            if (other && real && strcmp(other, real) != 0)
                report_say(r, NOTE, "another libphp is installed: %s (php.libphp_path chooses it)",
                           found.gl_pathv[j]);
            free(other);
        }
        globfree(&found);
    }
    free(real);
}

static void doctor_engine(struct report *r, const struct config_pool *pool, struct php_probe *probe)
{
    char message[1024], why[512];

    report_section(r, "PHP engine");
    memset(probe, 0, sizeof(*probe));
    int rc = php_probe(pool->libphp_path, probe, message, sizeof(message));
    if (probe->version[0])
        report_say(r, rc < 0 ? NOTE : OK, "libphp %s, API %u, %s%s: %s", probe->version, probe->api,
                   probe->zts ? "ZTS" : "NTS", probe->debug ? ", debug build" : "", probe->path);
    if (rc < 0) {
        report_say(r, PROBLEM, "%s", message);
        if (!probe->version[0] && pool->libphp_path.n == 0)
            report_remedy(r, "apt install libphp8.2-embed");
        return;
    }
    report_say(r, OK, "engine module for this API: %s", probe->module);
    if (library_loads(probe->path, why, sizeof(why)))
        report_say(r, OK, "the library loads");
    else
        report_say(r, PROBLEM, "the library does not load: %s", why);
    list_other_libraries(r, probe->path);
}

/* --- the command ------------------------------------------------------------------------------ */

static const char help[] =
    "sapid doctor [--config FILE] [-d NAME=VALUE]...: look for what would keep a server from "
    "working\n"
    "\n"
    "Looks at each pool's folder, user and PHP-FPM, at libphp, the php.ini files it reads and how\n"
    "they differ from PHP-FPM's, opcache, the limits of this machine and account. Says what is "
    "wrong\n"
    "and the command that mends it.\n"
    "Exit status: 0 no problem found, 1 a problem, 2 wrong usage. Takes the options of sapid "
    "serve.\n";

static void say_look(void *ctx, bool good, bool named, const char *line)
{
    report_say(ctx, good ? OK : named ? PROBLEM : NOTE, "%s", line);
}

/* The same library was looked at for a pool before. */
static bool is_repeated(const struct config *c, uint32_t pool)
{
    for (uint32_t i = 0; i < pool; i++)
        if (!c->pools[i].use_fpm && c->pools[i].kind == CONFIG_POOL_CLASSIC &&
            str_eq(c->pools[i].libphp_path, c->pools[pool].libphp_path))
            return true;
    return false;
}

static void examine_pool(struct report *r, const struct config *c, uint32_t i, doctor_look *look)
{
    const struct config_pool *pool = &c->pools[i];
    struct php_probe probe;
    char title[64], message[1024];

    if (pool->kind == CONFIG_POOL_LOOP)
        return; /* [worker] of a pool that is looked at itself */
    snprintf(title, sizeof(title), "Pool %.*s ([%.*s])%s", STR_ARG(pool->name),
             STR_ARG(pool->table), pool->use_fpm ? ", PHP by FastCGI" : "");
    report_section(r, title);
    look(c, i, say_look, r);
    doctor_fpm(r, c, pool);
    if (pool->use_fpm)
        return;
    memset(&probe, 0, sizeof(probe));
    if (!is_repeated(c, i))
        doctor_engine(r, pool, &probe);
    else if (php_probe(pool->libphp_path, &probe, message, sizeof(message)) == 0)
        report_say(r, OK, "libphp %s, as above", probe.version);
    if (probe.version[0])
        doctor_ini(r, &probe, pool);
}

static int examine(const struct config *c, doctor_look *look)
{
    struct report r = { 0, 0 };

    printf("sapid " SAPID_VERSION " doctor\n");
    for (uint32_t i = 0; i < c->n_pools; i++)
        examine_pool(&r, c, i, look);
    doctor_system(&r, c);
    if (r.problems)
        printf("\n%u problem%s, %u warning%s\n", r.problems, r.problems == 1 ? "" : "s", r.warnings,
               r.warnings == 1 ? "" : "s");
    else
        printf("\nNo problem found, %u warning%s\n", r.warnings, r.warnings == 1 ? "" : "s");
    return r.problems ? 1 : 0;
}

static void say_line(const char *line)
{
    fprintf(stderr, "sapid: %s\n", line);
}

static int load_and_examine(const struct config_cli *cli, doctor_look *look)
{
    struct config_source source;
    struct config *c;

    int rc = config_cli_load(cli, say_line, &source, &c);
    int status = rc == 0 ? examine(c, look) : 1;
    config_free(c);
    config_source_fini(&source);
    return status;
}

int doctor_main(int argc, char **argv, doctor_look *look)
{
    struct config_cli cli;
    char *message;
    int status = 0;

    if (config_cli_parse(argc, argv, &cli, &message) < 0) {
        fprintf(stderr, "sapid: %s\n", message);
        mem_free(message);
        status = 2;
    } else if (cli.help) {
        fputs(help, stdout);
    } else {
        status = load_and_examine(&cli, look);
    }
    config_cli_fini(&cli);
    return status;
}
