/*
 * `sapid check`: what `sapid serve` with the same options would do, without doing it. The
 * configuration goes to stdout as TOML that could be loaded again, with the origin of each value;
 * what was decided from it on this machine follows as comments. What is wrong goes to stderr.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervisor/supervisor.h"
#include "supervisor/supervisor_int.h"

static void put_stdout(void *ctx, const char *text)
{
    (void)ctx;
    fputs(text, stdout);
}

static void print_user(const char *what, const struct user *u)
{
    if (u->name[0])
        printf("# %s: user %s (uid %u)", what, u->name, (unsigned)u->uid);
    else
        printf("# %s: uid %u", what, (unsigned)u->uid);
    printf("%s%s%s\n", u->why[0] ? ", " : "", u->why, u->uid == 0 ? "; better not as root" : "");
}

static void print_root(const struct config_pool *pool, const char *resolved)
{
    if (str_eq(pool->document_root, str_from(resolved)))
        printf("# document root: %s, as given\n", resolved);
    else
        printf("# document root: %.*s, as given, which is now %s\n", STR_ARG(pool->document_root),
               resolved);
}

static void print_denied(const char *root)
{
    char *denied = config_denied_folders(root);

    if (denied)
        printf(
            "# WARNING: .htaccess files forbid %s but nothing reads them here: move these folders "
            "out of the document root\n",
            denied);
    mem_free(denied);
}

static void print_decisions(const struct plan *p)
{
    const struct config_server *server = &p->config->server;

    printf("\n# Decided from this on this machine:\n");
    for (uint32_t i = 0; i < p->config->n_pools; i++) {
        const struct pool_plan *pool = &p->pools[i];
        if (p->config->n_pools > 1)
            printf("#\n# pool %.*s:\n", STR_ARG(p->config->pools[i].name));
        if (pool->detected)
            printf("# document root: %s\n", pool->detected);
        else
            print_root(&p->config->pools[i], pool->document_root);
        print_denied(pool->document_root);
        if (p->config->pools[i].use_fpm) {
            printf("# PHP: by FastCGI, no processes of its own\n");
            continue;
        }
        printf("# PHP workers: %u%s%s%s\n", pool->workers, pool->workers_why[0] ? " (" : "",
               pool->workers_why, pool->workers_why[0] ? ")" : "");
        print_user("PHP", &pool->user);
    }
    if (p->config->n_pools > 1)
        printf("#\n");
    print_user("gateway", &p->gateway_user);
    printf("# gateway threads: %u%s\n", p->threads,
           server->gateway_threads == CONFIG_AUTO ? " (auto)" : "");
}

static unsigned check_file(struct str table, const char *key, struct str path, int mode)
{
    if (path.n == 0 || access(path.p, mode) == 0)
        return 0;
    char *line =
        mem_printf("%.*s.%s: %.*s: %s", STR_ARG(table), key, STR_ARG(path), strerror(errno));
    say_line(line);
    mem_free(line);
    return 1;
}

/* Files that a role would look for only after the start. Returns how many are missing. */
static unsigned check_files(const struct config *c)
{
    unsigned missing = check_file(STR("server"), "spool_dir", c->server.spool_dir, X_OK);

    missing += check_file(STR("server"), "state_dir", c->server.state_dir, X_OK);
    for (uint32_t i = 0; i < c->n_pools; i++) {
        const struct config_pool *pool = &c->pools[i];
        if (pool->use_fpm || pool->kind == CONFIG_POOL_LOOP)
            continue;
        missing += check_file(pool->table, "libphp_path", pool->libphp_path, R_OK);
        missing += check_file(pool->table, "ini_path", pool->ini_path, R_OK);
    }
    return missing;
}

static int explain_url(const struct plan *p, const char *url, check_explain *explain)
{
    const char *roots[CONFIG_ALL_POOLS_MAX];

    CHECK(p->config->n_pools <= ARRAY_LENGTH(roots));
    for (uint32_t i = 0; i < p->config->n_pools; i++)
        roots[i] = p->pools[i].document_root;
    return explain(p->config, roots, url, stdout);
}

static int check(const struct config_cli *cli, check_explain *explain)
{
    struct plan *plan;

    if (plan_new(cli, say_line, &plan) < 0)
        return 1;
    int status = check_files(plan->config) ? 1 : 0;
    if (status == 0 && cli->explain) {
        status = explain_url(plan, cli->explain, explain);
    } else if (status == 0) {
        if (cli->config_path)
            printf("# %s is valid. What it means, with the defaults and the command line:\n\n",
                   cli->config_path);
        else
            printf("# No configuration file. The defaults and the command line mean:\n\n");
        config_print_effective(plan->config, put_stdout, NULL);
        print_decisions(plan);
    }
    plan_unref(plan);
    return status;
}

int check_main(int argc, char **argv, check_explain *explain)
{
    struct config_cli cli;
    int status = 0;

    int r = command_line_read(argc, argv, &cli);
    if (r < 0)
        status = 2;
    else if (r == 0 && cli.reference)
        config_print_reference(put_stdout, NULL);
    else if (r == 0)
        status = check(&cli, explain);
    config_cli_fini(&cli);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        say_line("check: standard output cannot be written");
        status = 1;
    }
    return status;
}
