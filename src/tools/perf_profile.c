/*
 * Where the time goes: `sapid perf profile`. While the server is loaded, Linux perf samples the C
 * stacks of its processes, then the server itself the PHP stacks of its workers; what comes out of
 * either are collapsed stacks, a flame graph and a table.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kernel_file.h"
#include "base/mem.h"
#include "tools/perf_int.h"

enum { NOTABLE_PERCENT = 5, PARANOID_MAX = 2 };

/* Whether Linux perf can be used here; else what to do, as a message (mem_free). */
static char *why_no_perf(void)
{
    char text[16] = "";

    if (system("perf --version >/dev/null 2>&1") != 0)
        return mem_strdup("Linux perf is not installed: apt-get install linux-perf; PHP stacks "
                          "alone go without it: --stacks php");
    if (!kernel_file_read("/proc/sys/kernel/perf_event_paranoid", text, sizeof(text)))
        return mem_strdup("the kernel was built without perf events "
                          "(/proc/sys/kernel/perf_event_paranoid is missing)");
    long paranoid = strtol(text, NULL, 10);
    if (paranoid > PARANOID_MAX && geteuid() != 0)
        return mem_printf("kernel.perf_event_paranoid is %ld: only root may sample; as root: "
                          "sysctl kernel.perf_event_paranoid=%d",
                          paranoid, PARANOID_MAX);
    return NULL;
}

/* --- recording -------------------------------------------------------------------------------- */

/* Stacks are unwound from copies of the stack (DWARF): Debian's libphp has no frame pointers. */
static pid_t start_recording(const struct perf_options *o, pid_t server, const char *data)
{
    char frequency[32], seconds[32], *pids = perf_tree_list(server);
    pid_t pid;

    snprintf(frequency, sizeof(frequency), "%.0f", o->frequency);
    snprintf(seconds, sizeof(seconds), "%.3f", (double)o->duration_ns / (double)NS_PER_S);
    pid = fork();
    if (pid == 0) {
        int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(quiet, STDOUT_FILENO);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execlp("perf", "perf", "record", "-q", "-F", frequency, "--call-graph", "dwarf,16384", "-o",
               data, "-p", pids, "--", "sleep", seconds, (char *)NULL);
        _exit(127);
    }
    mem_free(pids);
    return pid;
}

static int read_recording(const char *data, struct perf_stacks *stacks, char **ret_message)
{
    char *command = mem_printf("perf script -i '%s' -F comm,ip,sym --no-inline 2>/dev/null", data);
    FILE *in = popen(command, "re");
    int rc = in ? perf_stacks_read_script(in, stacks) : -errno;

    if (in && pclose(in) != 0 && rc == 0)
        rc = -ECHILD;
    if (rc == 0 && stacks->n == 0)
        rc = -ENODATA;
    if (rc < 0)
        *ret_message =
            mem_printf("%s: perf script found no stacks in it (%s)", data, strerror(-rc));
    perf_stacks_settle(stacks);
    mem_free(command);
    return rc;
}

/* Loads the server while perf records. */
static int record(const struct perf_options *o, const struct perf_server *s, const char *data,
                  struct perf_row *row, char **ret_message)
{
    int status = 0;
    int rc = perf_slice(s, o->verdict_load, o->warmup_ns ? o->warmup_ns : NS_PER_S, 0, row);

    if (rc < 0)
        return rc;
    pid_t perf = start_recording(o, s->counted, data);
    rc = perf < 0 ? -errno : perf_slice(s, o->verdict_load, o->duration_ns + NS_PER_S / 2, 0, row);
    if (perf > 0)
        while (waitpid(perf, &status, 0) < 0 && errno == EINTR)
            continue;
    if (rc == 0 && status != 0) {
        *ret_message = mem_printf(
            "perf record failed (wait status %d); it says why above%s", status,
            geteuid() == 0 ? ""
                           : ". Only root, or who has CAP_PERFMON, may sample sapid's processes, "
                             "which give nothing away to others; --stacks php goes without");
        rc = -ECHILD;
    }
    return rc;
}

/* Collapsed stacks, flame graph and table of one kind. */
static int report(const struct perf_options *o, const struct perf_server *s, const char *kind,
                  const struct perf_stacks *stacks, double rps)
{
    char *collapsed = mem_printf("%s/%s.collapsed", o->output, kind);
    char *graph = mem_printf("%s/%s.svg", o->output, kind);
    int rc = perf_stacks_write(stacks, collapsed);

    if (rc == 0)
        rc = perf_flame_write(stacks, s->url, graph);
    if (rc == 0) {
        printf("%s: %s at %.0f requests/s, %llu samples; over %d %%:\n",
               strcmp(kind, "c") == 0 ? "C" : "PHP", s->url, rps, (unsigned long long)stacks->total,
               NOTABLE_PERCENT);
        perf_stacks_table(stacks, NOTABLE_PERCENT, stdout);
        printf("stacks: %s; flame graph: %s\n\n", collapsed, graph);
    }
    mem_free(collapsed);
    mem_free(graph);
    return rc;
}

static int profile_c(const struct perf_options *o, const struct perf_server *s, char **ret_message)
{
    struct perf_stacks stacks = { .n = 0 };
    struct perf_row row;
    char *data = mem_printf("%s/perf.data", o->output);
    int rc = record(o, s, data, &row, ret_message);

    if (rc == 0)
        rc = read_recording(data, &stacks, ret_message);
    if (rc == 0)
        rc = report(o, s, "c", &stacks, row.value[PERF_RPS]);
    perf_stacks_fini(&stacks);
    unlink(data);
    mem_free(data);
    return rc;
}

/* --- PHP -------------------------------------------------------------------------------------- */

struct php_job {
    const struct perf_options *o;
    pid_t server;
    struct perf_stacks stacks;
    char *message;
    int rc;
};

static void *sample_php(void *arg)
{
    struct php_job *job = arg;

    job->rc = perf_php_sample(job->server, job->o->duration_ns / NS_PER_MS, job->o->php_rate,
                              &job->stacks, &job->message);
    return NULL;
}

/* After the C stacks, not beside them: each profile is of the server alone. */
static int profile_php(const struct perf_options *o, const struct perf_server *s,
                       char **ret_message)
{
    struct php_job job = { .o = o, .server = s->counted };
    struct perf_row row;
    pthread_t thread;
    int rc = perf_slice(s, o->verdict_load, o->warmup_ns ? o->warmup_ns : NS_PER_S, 0, &row);

    if (rc < 0)
        return rc;
    rc = -pthread_create(&thread, NULL, sample_php, &job);
    if (rc < 0)
        return rc;
    rc = perf_slice(s, o->verdict_load, o->duration_ns + NS_PER_S / 2, 0, &row);
    pthread_join(thread, NULL);
    if (rc == 0) {
        rc = job.rc;
        *ret_message = job.message;
        job.message = NULL;
    }
    if (rc == 0)
        rc = report(o, s, "php", &job.stacks, row.value[PERF_RPS]);
    perf_stacks_fini(&job.stacks);
    mem_free(job.message);
    return rc;
}

int perf_profile_main(struct perf_options *o)
{
    struct perf_server server = { .pid = 0 };
    char *message = o->wants_c ? why_no_perf() : NULL;
    int rc = message ? -ENOTSUP : perf_make_folder(o->output, &message);

    if (rc == 0 && o->url && !o->pid) {
        message = mem_strdup("--url needs --pid here: which process is to be profiled");
        rc = -EINVAL;
    }
    if (rc == 0)
        rc = perf_server_start(o, o->program, &server, &message);
    if (rc == 0 && o->wants_c)
        rc = profile_c(o, &server, &message);
    if (rc == 0 && o->wants_php)
        rc = profile_php(o, &server, &message);
    perf_server_stop(&server);
    if (rc < 0)
        perf_say_failure(rc, message);
    mem_free(message);
    return rc < 0 ? 1 : 0;
}
