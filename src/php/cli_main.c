/* Commands that run PHP in their own process: find the engine, leave the rest to it. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "php/php_int.h"

/* As in the files of that library; points into `lib`. */
static struct engine_options options_of(const struct php_library *lib, const char *role)
{
    const struct php_probe *probe = &lib->probe;

    return (struct engine_options){
        .role = role,
        .log_least = LOG_WARN,
        .software = "sapid",
        .executable = settings_executable(),
        .ini_path = *probe->ini_file ? probe->ini_file : NULL,
        .ini_scan_dir = *probe->ini_scan_dir ? probe->ini_scan_dir : NULL,
    };
}

int php_cli_main(int argc, char **argv)
{
    struct php_library lib;
    char message[1024];

    if (library_load(STR_NONE, &lib, message, sizeof(message)) < 0) {
        fprintf(stderr, "sapid php: %s\n", message);
        return 1;
    }
    library_prefer_cli_ini(&lib.probe);
    struct engine_options options = options_of(&lib, "php");
    return lib.engine->cli(&options, argc, argv);
}

int php_lifecycle_main(int argc, char **argv)
{
    struct php_library lib;
    char message[1024], script[PATH_MAX];
    double ns;

    if (argc < 2 || !realpath(argv[1], script)) {
        fprintf(stderr, "usage: sapid @lifecycle FILE [N [PHP_INI SCAN_DIR]]\n");
        return 2;
    }
    unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 20000;
    if (library_load(STR_NONE, &lib, message, sizeof(message)) < 0) {
        fprintf(stderr, "sapid @lifecycle: %s\n", message);
        return 1;
    }
    struct engine_options options = options_of(&lib, "lifecycle");
    if (argc > 4) { /* the comparison's own, as the measured servers have them */
        options.ini_path = argv[3];
        options.ini_scan_dir = argv[4];
    }
    if (lib.engine->start(&options, message, sizeof(message)) < 0 ||
        lib.engine->lifecycle(script, n ? n : 1, &ns) < 0) {
        fprintf(stderr, "sapid @lifecycle: %s\n", message);
        return 1;
    }
    printf("%.3f us of CPU per life cycle (%lu of them)\n", ns / 1000, n);
    lib.engine->stop();
    return 0;
}
