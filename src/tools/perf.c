/*
 * `sapid perf run|track|compare|profile`: the loop of baseline, profile, change, verify. This file:
 * the command. perf_int.h has the vocabulary and says who does what.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "tools/perf_int.h"
#include "tools/tools.h"

int perf_make_folder(const char *path, char **ret_message)
{
    char *partial = mem_strdup(path);
    int rc = 0;

    for (char *p = partial + 1; rc == 0; p++)
        if (*p == '/' || *p == '\0') {
            char end = *p;
            *p = '\0';
            if (mkdir(partial, 0777) < 0 && errno != EEXIST) {
                rc = -errno;
                *ret_message = mem_printf("%s: %s", partial, strerror(errno));
            }
            *p = end;
            if (!end)
                break;
        }
    mem_free(partial);
    return rc;
}

void perf_say_failure(int rc, const char *message)
{
    if (!message)
        message = rc == -EINTR ? "interrupted" : strerror(-rc);
    fprintf(stderr, "sapid: %s\n", message);
}

int perf_main(int argc, char **argv)
{
    static int (*const commands[])(struct perf_options *) = { [PERF_RUN] = perf_run_main,
                                                              [PERF_TRACK] = perf_track_main,
                                                              [PERF_COMPARE] = perf_compare_main,
                                                              [PERF_PROFILE] = perf_profile_main };
    struct perf_options o;
    char *message;
    int status = 2;

    if (perf_options_parse(argc - 1, argv + 1, &o, &message) < 0) {
        fprintf(stderr, "sapid: %s\n", message);
    } else if (o.help) {
        fputs(perf_help, stdout);
        status = 0;
    } else {
        status = 1;
        /* compare builds what it compares */
        if (!o.build || o.command == PERF_COMPARE ||
            perf_shell("the build", o.build, NULL, &message) == 0)
            status = commands[o.command](&o);
        else
            fprintf(stderr, "sapid: %s\n", message);
    }
    mem_free(message);
    perf_options_fini(&o);
    return status;
}
