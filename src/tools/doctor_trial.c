/*
 * `sapid doctor`, the trial: `sapid php` with the server's php.ini files in a process of its own,
 * since what the files say is one thing, and what PHP makes of them another: extensions that do not
 * load, shared memory that cannot be had, an engine that crashes.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "tools/doctor_int.h"

enum { TRIAL_SECONDS = 20, OUTPUT_MAX = 64 * 1024, ARGUMENTS_MAX = 128 };

/* Its one line of answer has this mark; everything else is what PHP itself complains of. */
static const char script[] =
    "$s = function_exists('opcache_get_status') ? @opcache_get_status(false) : false;"
    "printf(\"\\nsapid-doctor %d %d %d %d\\n\", count(get_loaded_extensions()), $s ? 1 : 0,"
    "       $s['jit']['on'] ?? 0, ($s['memory_usage']['free_memory'] ?? 0) >> 20);";

static void exec_trial(const struct config_pool *pool, const char *ini_file, const char *ini_dirs)
{
    const char *argv[ARGUMENTS_MAX];
    size_t n = 0;
    const struct config_pairs *lists[] = { &pool->ini, &pool->admin_ini };

    argv[n++] = "sapid";
    argv[n++] = "php";
    if (*ini_file && access(ini_file, R_OK) == 0) {
        argv[n++] = "-c";
        argv[n++] = ini_file;
    }
    for (size_t l = 0; l < ARRAY_LENGTH(lists); l++)
        for (uint32_t i = 0; i < lists[l]->n && n + 8 < ARGUMENTS_MAX; i++) {
            argv[n++] = "-d";
            argv[n++] =
                mem_printf("%.*s=%.*s", STR_ARG(lists[l]->v[i].key), STR_ARG(lists[l]->v[i].value));
        }
    static const char *const last[] = { "-d", "opcache.enable_cli=1", "-d",
                                        "display_startup_errors=1", "-r" };
    for (size_t i = 0; i < ARRAY_LENGTH(last); i++)
        argv[n++] = last[i];
    argv[n++] = script;
    argv[n] = NULL;
    CHECK(n < ARGUMENTS_MAX);
    setenv("PHP_INI_SCAN_DIR", ini_dirs, 1);
    alarm(TRIAL_SECONDS); /* survives the exec */
    execv("/proc/self/exe", (char *const *)argv);
    _exit(127);
}

/* Standard output and error of the trial, and its wait status. */
static int run_trial(const struct config_pool *pool, const char *ini_file, const char *ini_dirs,
                     struct buf *ret_output, int *ret_status)
{
    int out[2];

    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0) {
        int rc = -errno;
        close(out[0]);
        close(out[1]);
        return rc;
    }
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(out[1], STDERR_FILENO);
        exec_trial(pool, ini_file, ini_dirs);
    }
    close(out[1]);
    for (;;) {
        char block[4096];
        ssize_t n = read(out[0], block, sizeof(block));
        if (n <= 0 && !(n < 0 && errno == EINTR))
            break;
        if (n > 0 && buf_append(ret_output, block, (size_t)n) < 0)
            break; /* it says too much: the beginning is enough */
    }
    close(out[0]);
    while (waitpid(pid, ret_status, 0) < 0 && errno == EINTR)
        ;
    return 0;
}

/* Lines that PHP wrote beside the answer. Returns the answer's line, or nothing. */
static struct str say_complaints(struct report *r, struct str output)
{
    struct str answer = STR_NONE;

    while (output.p) {
        struct str line = str_trim(str_cut(&output, '\n'));
        if (str_has_prefix(line, STR("sapid-doctor ")))
            answer = line;
        else if (line.n)
            report_say(r, WARNING, "PHP says when it starts: %.*s", STR_ARG(line));
    }
    return answer;
}

void doctor_trial(struct report *r, const struct config_pool *pool, const char *ini_file,
                  const char *ini_dirs)
{
    struct buf output;
    int status = 0, extensions, opcache, jit, free_mib;

    report_section(r, "Trial");
    if (pool->libphp_path.n) {
        report_say(r, NOTE, "the engine was not started: php.libphp_path names one of your own");
        return;
    }
    buf_init(&output, OUTPUT_MAX);
    int rc = run_trial(pool, ini_file, ini_dirs, &output, &status);
    struct str answer = rc < 0 ? STR_NONE : say_complaints(r, buf_view(&output));
    char line[128];
    snprintf(line, sizeof(line), "%.*s", (int)answer.n, answer.n ? answer.p : "");
    if (rc < 0) {
        report_say(r, NOTE, "the engine could not be tried: %s", strerror(-rc));
    } else if (WIFSIGNALED(status)) {
        report_say(r, PROBLEM, "starting the engine ended with signal %d (%s)", WTERMSIG(status),
                   WTERMSIG(status) == SIGALRM ? "it took too long" : strsignal(WTERMSIG(status)));
        report_more(r, "leave extensions out until it starts: phpdismod -s fpm NAME");
    } else if (sscanf(line, "sapid-doctor %d %d %d %d", &extensions, &opcache, &jit, &free_mib) !=
               4) {
        report_say(r, PROBLEM, "the engine does not start (exit status %d)", WEXITSTATUS(status));
    } else {
        report_say(r, OK, "the engine starts, with %d extensions", extensions);
        if (opcache)
            report_say(r, OK, "opcache works, %d MiB free at the start, JIT %s", free_mib,
                       jit ? "on" : "off");
        else
            report_say(r, PROBLEM, "opcache does not start with the engine");
    }
    buf_fini(&output);
}
