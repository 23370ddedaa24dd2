/*
 * What the server and the machine did between two moments, from /proc. CPU time of the server is
 * that of a process tree: what its living tasks ran, to the nanosecond where the kernel has
 * schedstat, and what children that ended left to their parents, in clock ticks.
 */
#include <dirent.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/kernel_file.h"
#include "base/mem.h"
#include "tools/perf_int.h"

enum { PROC_BYTES = 16 << 10, TREE_MAX = 8192 };

static uint64_t tick_ns(void)
{
    return NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* --- the process tree ------------------------------------------------------------------------- */

bool perf_parse_process(const char *text, pid_t pid, struct perf_process *ret)
{
    unsigned long long user, system, gone_user, gone_system;
    const char *rest = strrchr(text, ')'); /* the name may hold spaces and parentheses */
    int parent;

    if (!rest || sscanf(rest + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu",
                        &parent, &user, &system, &gone_user, &gone_system) != 5)
        return false;
    *ret = (struct perf_process){ pid, parent, user + system, gone_user + gone_system, false };
    return true;
}

static bool read_process(pid_t pid, struct perf_process *ret)
{
    char path[64], text[PROC_BYTES];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    return kernel_file_read(path, text, sizeof(text)) && perf_parse_process(text, pid, ret);
}

static size_t read_processes(struct perf_process **ret)
{
    struct perf_process *all = mem_alloc(TREE_MAX * sizeof(*all));
    DIR *dir = opendir("/proc");
    size_t n = 0;

    for (struct dirent *e; dir && n < TREE_MAX && (e = readdir(dir));)
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
            n += read_process((pid_t)strtol(e->d_name, NULL, 10), &all[n]);
    if (dir)
        closedir(dir);
    *ret = all;
    return n;
}

/* Parents have been started before their children, but pids wrap around: until nothing changes. */
void perf_mark_tree(struct perf_process *all, size_t n, pid_t root)
{
    bool changed = true;

    while (changed) {
        changed = false;
        for (size_t i = 0; i < n; i++) {
            if (all[i].in_tree)
                continue;
            bool in = all[i].pid == root;
            for (size_t k = 0; k < n && !in; k++)
                in = all[k].in_tree && all[k].pid == all[i].parent;
            all[i].in_tree = in;
            changed |= in;
        }
    }
}

/* `root` and what is beneath it, in memory to be freed. */
static size_t read_tree(pid_t root, struct perf_process **ret)
{
    size_t n = read_processes(ret), kept = 0;

    perf_mark_tree(*ret, n, root);
    for (size_t i = 0; i < n; i++)
        if ((*ret)[i].in_tree)
            (*ret)[kept++] = (*ret)[i];
    return kept;
}

char *perf_tree_list(pid_t root)
{
    struct perf_process *all;
    char *list = mem_strdup("");

    for (size_t n = read_tree(root, &all), i = 0; i < n; i++) {
        char *longer = mem_printf("%s%s%d", list, i ? "," : "", (int)all[i].pid);
        mem_free(list);
        list = longer;
    }
    mem_free(all);
    return list;
}

/* --- one process ------------------------------------------------------------------------------ */

/* Adds up CPU time and context switches of the tasks. False: the kernel has no schedstat. */
static bool add_tasks(pid_t pid, struct perf_sample *s)
{
    char path[300], text[PROC_BYTES];
    bool exact = false;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", (int)pid, e->d_name);
        if (kernel_file_read(path, text, sizeof(text))) {
            s->server_cpu_ns += strtoull(text, NULL, 10);
            exact = true;
        }
        snprintf(path, sizeof(path), "/proc/%d/task/%s/status", (int)pid, e->d_name);
        if (kernel_file_read(path, text, sizeof(text)))
            s->server_switches += kernel_file_number(text, "\nvoluntary_ctxt_switches:") +
                                  kernel_file_number(text, "\nnonvoluntary_ctxt_switches:");
    }
    if (dir)
        closedir(dir);
    return exact;
}

static void add_process(const struct perf_process *p, struct perf_sample *s)
{
    if (!add_tasks(p->pid, s))
        s->server_cpu_ns += p->own_ticks * tick_ns();
    s->server_cpu_ns += p->children_ticks * tick_ns();
}

/* --- the machine ------------------------------------------------------------------------------ */

void perf_parse_machine(const char *text, struct perf_sample *s)
{
    unsigned long long user, nice, system, idle, iowait, irq, softirq, steal;
    unsigned cpu;

    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        /* "cpu 1 2 ..." is the sum of all; sscanf would take its first figure for a number. */
        if (strncmp(line, "cpu", 3) != 0 || line[3] < '0' || line[3] > '9' ||
            sscanf(line, "cpu%u %llu %llu %llu %llu %llu %llu %llu %llu", &cpu, &user, &nice,
                   &system, &idle, &iowait, &irq, &softirq, &steal) != 9 ||
            cpu >= PERF_CPUS_MAX)
            continue;
        s->busy_ns[cpu] = (user + nice + system + irq + softirq + steal) * tick_ns();
        s->iowait_ns += iowait * tick_ns();
        if (cpu >= s->cpus)
            s->cpus = cpu + 1;
    }
}

void perf_sample_take(pid_t server, struct perf_sample *ret)
{
    struct perf_process *all;
    char text[PROC_BYTES];

    memset(ret, 0, sizeof(*ret));
    if (server > 0) {
        for (size_t n = read_tree(server, &all), i = 0; i < n; i++)
            add_process(&all[i], ret);
        mem_free(all);
    }
    if (kernel_file_read("/proc/stat", text, sizeof(text)))
        perf_parse_machine(text, ret);
    ret->client_cpu_ns = clock_cpu_ns();
    ret->at_ns = clock_monotonic_ns();
}

void perf_sample_pss(pid_t server, struct perf_sample *s)
{
    char path[64], text[PROC_BYTES];
    struct perf_process *all;

    if (server <= 0)
        return;
    for (size_t n = read_tree(server, &all), i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)all[i].pid);
        if (kernel_file_read(path, text, sizeof(text)))
            s->server_pss_bytes += kernel_file_number(text, "\nPss:") << 10;
    }
    mem_free(all);
}
