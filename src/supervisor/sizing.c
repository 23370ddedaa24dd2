/*
 * How many of what. The numbers a person did not choose are derived from what this process may use
 * of the machine (affinity, cgroup v2 limits, RAM), and the start message says how.
 *
 * "auto" workers: 4 per CPU, at least 8, at most 256, and never more than fit half of the memory at
 * 64 MiB each. A PHP worker waits for databases and other servers most of the time; an idle one
 * costs a page table and a few private pages, because the gateway wakes the hottest worker first
 * and the others sleep.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/kernel_file.h"
#include "supervisor/supervisor_int.h"

enum {
    WORKERS_PER_CPU = 4,
    WORKERS_MIN = 8,
    WORKERS_MAX = 256,
    WORKER_MIB = 64, /* planning figure: what a large application's worker may come to hold */
    INLINE_BODY_BYTES = 16 << 10,
    SLOT_BYTES_MIN = 64 << 10,
    RING_BYTES = 256 << 10,
};

/* cgroup v1: the controller's own group, and its limit. */
static bool read_v1(const char *controller, const char *file, char *ret, size_t size)
{
    char line[512], path[1200];
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        char *names = strchr(line, ':'), *dir = names ? strchr(names + 1, ':') : NULL;
        if (!dir)
            continue;
        *dir++ = '\0';
        dir[strcspn(dir, "\n")] = '\0';
        size_t n = strlen(controller);
        for (char *one = names + 1; one && !found;
             one = strchr(one, ',') ? strchr(one, ',') + 1 : NULL)
            found = strncmp(one, controller, n) == 0 && (one[n] == ',' || one[n] == '\0');
        if (!found)
            continue;
        /* in a container the group is the root of what is mounted */
        snprintf(path, sizeof(path), "/sys/fs/cgroup/%s%s/%s", names + 1, dir, file);
        if (!kernel_file_line(path, ret, size)) {
            snprintf(path, sizeof(path), "/sys/fs/cgroup/%s/%s", names + 1, file);
            found = kernel_file_line(path, ret, size);
        }
    }
    if (f)
        fclose(f);
    return found;
}

static void apply_v1(struct machine *m)
{
    char text[64], period[64];

    if (read_v1("memory", "memory.limit_in_bytes", text, sizeof(text))) {
        uint64_t limit = strtoull(text, NULL, 10);
        if (limit > 0 && limit < m->memory_bytes)
            m->memory_bytes = limit;
    }
    if (!read_v1("cpu", "cpu.cfs_quota_us", text, sizeof(text)) ||
        !read_v1("cpu", "cpu.cfs_period_us", period, sizeof(period)))
        return;
    long long quota = strtoll(text, NULL, 10), each = strtoll(period, NULL, 10);
    if (quota > 0 && each > 0 && (unsigned)((quota + each - 1) / each) < m->cpus)
        m->cpus = (unsigned)((quota + each - 1) / each);
}

/* The unified cgroup of this process, "/system.slice/sapid.service". */
static bool own_cgroup(char *ret, size_t size)
{
    char line[512];
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;

    if (!f)
        return false;
    while (!found && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) == 0)
            found = snprintf(ret, size, "%s", line + 3) < (int)size;
    }
    fclose(f);
    return found;
}

static void apply_memory_limit(const char *dir, struct machine *m)
{
    char path[640], text[64];

    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", dir);
    if (!kernel_file_line(path, text, sizeof(text)) || strcmp(text, "max") == 0)
        return;
    uint64_t limit = strtoull(text, NULL, 10);
    if (limit > 0 && limit < m->memory_bytes)
        m->memory_bytes = limit;
}

static void apply_cpu_limit(const char *dir, struct machine *m)
{
    char path[640], text[64];
    unsigned long long quota, period;

    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", dir);
    if (!kernel_file_line(path, text, sizeof(text)) ||
        sscanf(text, "%llu %llu", &quota, &period) != 2 || period == 0)
        return;
    unsigned cpus = (unsigned)((quota + period - 1) / period);
    if (cpus >= 1 && cpus < m->cpus)
        m->cpus = cpus;
}

void machine_look(struct machine *ret)
{
    cpu_set_t set;
    char dir[512];
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    ret->cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    ret->memory_bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
    apply_v1(ret);
    if (!own_cgroup(dir, sizeof(dir)))
        return;
    for (;;) { /* a limit on any ancestor binds */
        apply_memory_limit(dir, ret);
        apply_cpu_limit(dir, ret);
        char *slash = strrchr(dir, '/');
        if (!slash || dir[0] == '\0')
            break;
        *slash = '\0';
    }
    CHECK(ret->cpus >= 1);
}

static uint32_t choose_workers(const struct config_pool *p, const struct machine *m, char *why,
                               size_t size)
{
    why[0] = '\0';
    if (p->worker_pool_size != CONFIG_AUTO)
        return (uint32_t)p->worker_pool_size;
    uint64_t by_cpu = (uint64_t)m->cpus * WORKERS_PER_CPU;
    uint64_t by_memory = m->memory_bytes / 2 / ((uint64_t)WORKER_MIB << 20);
    uint64_t n = by_cpu < WORKERS_MIN ? WORKERS_MIN : by_cpu > WORKERS_MAX ? WORKERS_MAX : by_cpu;

    if (by_memory < 1)
        by_memory = 1;
    if (n <= by_memory) {
        snprintf(why, size, "auto: %d for each of %u CPU%s, at least %d", WORKERS_PER_CPU, m->cpus,
                 m->cpus == 1 ? "" : "s", WORKERS_MIN);
        return (uint32_t)n;
    }
    snprintf(why, size, "auto: half of %llu MiB of memory at %d MiB each",
             (unsigned long long)(m->memory_bytes >> 20), WORKER_MIB);
    return (uint32_t)by_memory;
}

uint32_t sizing_workers(const struct config_pool *p, const struct machine *m, char *why,
                        size_t size)
{
    uint32_t n = choose_workers(p, m, why, size);

    if (p->worker_min != CONFIG_AUTO) {
        char most[128];
        snprintf(most, sizeof(most), "%s%s", why[0] ? "; " : "", why);
        snprintf(why, size, "at most; at least %u, %u idle in advance%s",
                 (uint32_t)p->worker_min < n ? (uint32_t)p->worker_min : n,
                 (uint32_t)p->worker_spare, most);
    }
    return n;
}

uint32_t sizing_threads(const struct config_server *s, const struct machine *m)
{
    int64_t n = s->gateway_threads;
    if (n == CONFIG_AUTO)
        n = m->cpus <= 4 ? 1 : m->cpus / 4;
    return n > CHANNEL_THREADS_MAX ? CHANNEL_THREADS_MAX : n < 1 ? 1 : (uint32_t)n;
}

void sizing_geometry(const struct config *c, const struct config_pool *p, uint32_t workers,
                     uint32_t threads, struct channel_geometry *ret)
{
    /* A head of the greatest permitted size must fit beside a usual form post: the texts, two
     * paths, and 24 bytes of table for each header. */
    uint64_t slot = c->server.max_header_size + INLINE_BODY_BYTES + 3 * 4096 +
                    24 * (uint64_t)c->server.max_header_count;
    uint64_t slots = (uint64_t)p->queue_size + workers;

    if (slot < SLOT_BYTES_MIN)
        slot = SLOT_BYTES_MIN;
    /* a seat for a successor */
    uint32_t seats = workers + (workers < CHANNEL_WORKERS_MAX && config_pool_recycles(p));
    slots = (slots + threads - 1) / threads * threads;
    if (slots > CHANNEL_SLOTS_MAX)
        slots = CHANNEL_SLOTS_MAX / threads * threads;
    *ret = (struct channel_geometry){
        .workers = seats,
        .threads = threads,
        .slots = (uint32_t)slots,
        .slot_bytes = (uint32_t)((slot + 63) / 64 * 64),
        .ring_bytes = RING_BYTES,
    };
}

/* What the kernel allows any process at most. */
static uint64_t kernel_nofile_max(void)
{
    char text[32];
    return kernel_file_line("/proc/sys/fs/nr_open", text, sizeof(text)) ? strtoull(text, NULL, 10)
                                                                        : 1 << 20;
}

void sizing_raise_nofile(uint64_t wanted, struct rlimit *ret_before)
{
    struct rlimit now;

    if (getrlimit(RLIMIT_NOFILE, &now) < 0) {
        *ret_before = (struct rlimit){ 1024, 1024 };
        return;
    }
    *ret_before = now;
    uint64_t top = kernel_nofile_max();
    if (wanted > top)
        wanted = top;
    if (now.rlim_cur >= wanted)
        return;
    now.rlim_cur = wanted;
    if (now.rlim_max < wanted)
        now.rlim_max = wanted;
    if (setrlimit(RLIMIT_NOFILE, &now) == 0)
        return;
    now.rlim_max = ret_before->rlim_max; /* not root: as far as the hard limit goes */
    now.rlim_cur = now.rlim_max < wanted ? now.rlim_max : wanted;
    int unused =
        setrlimit(RLIMIT_NOFILE, &now); /* the gateway lowers max_connections to what it got */
    (void)unused;
}
