/* `sapid php FILE [ARGS]`: finds the engine, then leaves everything to it (engine/cli.c). */
#include <stdio.h>
#include <string.h>

#include "php/php_int.h"

int php_cli_main(int argc, char **argv)
{
    struct php_library lib;
    char message[1024];

    if (library_load(STR_NONE, &lib, message, sizeof(message)) < 0) {
        fprintf(stderr, "sapid php: %s\n", message);
        return 1;
    }
    struct engine_options options = { .role = "php", .log_least = LOG_WARN, .software = "sapid" };
    return lib.engine->cli(&options, argc, argv);
}
