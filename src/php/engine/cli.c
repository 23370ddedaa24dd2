/* Being written. */
#include "php/engine/engine_int.h"

int cli_run(const struct engine_options *o, int argc, char **argv)
{
    (void)o;
    (void)argc;
    (void)argv;
    return 1;
}
