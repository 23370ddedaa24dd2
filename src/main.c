/*
 * sapid: picks the command or role named by argv[1]. Everything else is in the rooms; see
 * ARCHITECTURE.md for the reading order.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "gateway/gateway.h"
#include "php/php.h"
#include "supervisor/supervisor.h"
#include "tools/tools.h"
#include "version.h"

static int help_main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("sapid " SAPID_VERSION ": PHP application server\n"
         "\n"
         "  sapid serve [--config FILE] [--root DIR] [--listen ADDR]... [--workers N] [--dev]\n"
         "                       serve an application in the foreground (default 127.0.0.1:8080)\n"
         "  sapid check [--config FILE]\n"
         "                       read the configuration, say what it means or what is wrong;\n"
         "                       --explain URL: which file answers a URL, and why\n"
         "  sapid php FILE [ARGS]  run a script as php-cli would, on the engine of the server\n"
         "  sapid audit SCRIPT   what its start reads, opens and fixes, where it can be frozen\n"
         "  sapid doctor         find libphp, php.ini files, limits; say what is wrong and how to "
         "mend it\n"
         "  sapid status         what a running server is doing; --full, --json\n"
         "  sapid reload         let it read its configuration again; --rollback\n"
         "  sapid upgrade        let the program that is installed now take over\n"
         "  sapid stop           let it finish its requests and end\n"
         "  sapid bench URL      load a server and measure how it answers\n"
         "  sapid perf COMMAND   run, track, compare or profile: tell change from noise\n"
         "  sapid --version      print the version\n"
         "\n"
         "Without a file, `serve` finds the document root by itself: public/, web/ or the folder "
         "it is in.\n"
         "Manual: man sapid; configuration reference: docs/configuration.md");
    return 0;
}

static int version_main(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    puts("sapid " SAPID_VERSION);
    return 0;
}

static int check_command(int argc, char **argv)
{
    return check_main(argc, argv, gateway_explain);
}

static int doctor_command(int argc, char **argv)
{
    return doctor_main(argc, argv, supervisor_look_at_pool);
}

static int audit_command(int argc, char **argv)
{
    return php_audit_main(argc, argv, supervisor_become_pool_user);
}

static int gateway_role(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return gateway_main();
}

static int pool_role(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    return pool_main();
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} commands[] = {
    { "serve", serve_main },
    { "check", check_command },
    { "php", php_cli_main },
    { "audit", audit_command },
    { "doctor", doctor_command },
    { "bench", bench_main },
    { "perf", perf_main },
    { "status", status_main },
    { "reload", reload_main },
    { "upgrade", upgrade_main },
    { "stop", stop_main },
    { "help", help_main },
    { "--help", help_main },
    { "-h", help_main },
    { "--version", version_main },
    { "-V", version_main },
    /* not for people: */
    { "@gateway", gateway_role },
    { "@pool", pool_role },
    { "@lifecycle", php_lifecycle_main },
};

int main(int argc, char **argv)
{
    if (argc < 2) {
        help_main(argc, argv);
        return 2;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "sapid: unknown command '%s'; `sapid --help` lists them\n", argv[1]);
    return 2;
}
