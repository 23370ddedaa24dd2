/*
 * `sapid doctor`, the machine: what kernel, limits and memory allow, and where that is less than
 * the configuration asks for.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/kernel_file.h"
#include "base/mem.h"
#include "tools/doctor_int.h"

enum { FILES_BESIDE_CONNECTIONS = 256 };

/* --- kernel ----------------------------------------------------------------------------------- */

static bool has_openat2(void)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH };
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof(how));
    bool there = fd >= 0 || errno != ENOSYS;

    fd_close(&fd);
    return there;
}

/* With arguments it must refuse: only whether the kernel knows the call matters. */
static bool has_epoll_pwait2(void)
{
    return syscall(SYS_epoll_pwait2, -1, NULL, 0, NULL, NULL, (size_t)0) == 0 || errno != ENOSYS;
}

static bool has_memfd(void)
{
    int fd = memfd_create("sapid-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool there = fd >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0;

    fd_close(&fd);
    return there;
}

/* struct pm_scan_arg of Linux 6.7, which Debian 12's headers do not have. */
static bool has_pagemap_scan(void)
{
    struct {
        uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
            category_mask, category_anyof_mask, return_mask;
    } arg = { .size = sizeof(arg) };
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool there = fd >= 0 &&
                 (ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, sizeof(arg)), &arg) == 0 ||
                  errno != ENOTTY);

    fd_close(&fd);
    return there;
}

static void doctor_kernel(struct report *r)
{
    struct utsname name;
    char line[128];

    report_section(r, "Kernel");
    CHECK(uname(&name) == 0);
    int major = atoi(name.release), minor = 0;
    const char *dot = strchr(name.release, '.');
    if (dot)
        minor = atoi(dot + 1);
    bool old = major < 6 || (major == 6 && minor < 1);
    report_say(r, old ? WARNING : OK, "Linux %s on %s%s", name.release, name.machine,
               old ? "; tested from 6.1 on" : "");
    static const struct {
        const char *call;
        bool (*has)(void);
        enum severity without;
        const char *purpose;
    } calls[] = {
        { "openat2", has_openat2, PROBLEM, "files below the document root are opened with it" },
        { "memfd_create with seals", has_memfd, PROBLEM, "requests reach PHP through such memory" },
        { "epoll_pwait2", has_epoll_pwait2, NOTE, "only timers get coarser without it" },
        { "PAGEMAP_SCAN", has_pagemap_scan, NOTE,
          "only needed for rollback to be cheap; Linux 6.7" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(calls); i++) {
        if (calls[i].has())
            report_say(r, OK, "%s", calls[i].call);
        else
            report_say(r, calls[i].without,
                       "no %s (too old a kernel, or a container forbids it): %s", calls[i].call,
                       calls[i].purpose);
    }
    kernel_file_line("/proc/sys/kernel/perf_event_paranoid", line, sizeof(line));
    if (line[0] && atoi(line) > 2)
        report_say(r, NOTE, "kernel.perf_event_paranoid is %s: no profiles without root", line);
    kernel_file_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line));
    if (strstr(line, "[always]")) {
        report_say(r, WARNING, "transparent huge pages are always on: workers share less memory");
        report_remedy(r, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    } else if (line[0]) {
        report_say(r, OK, "transparent huge pages: %s", line);
    }
    kernel_file_line("/proc/sys/vm/overcommit_memory", line, sizeof(line));
    if (strcmp(line, "2") == 0)
        report_say(r, WARNING, "vm.overcommit_memory is 2: forking large workers may fail");
}

/* --- limits ----------------------------------------------------------------------------------- */

static void doctor_files(struct report *r, const struct config *c)
{
    struct rlimit limit;
    uint64_t wanted = (uint64_t)c->server.max_connections + FILES_BESIDE_CONNECTIONS;

    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_max >= wanted || geteuid() == 0) {
        report_say(r, OK,
                   "open files: %" PRIu64 " (hard limit %" PRIu64 "%s), enough for %u connections",
                   (uint64_t)limit.rlim_cur, (uint64_t)limit.rlim_max,
                   limit.rlim_max >= wanted ? "" : ", raised by root", c->server.max_connections);
        return;
    }
    report_say(r, limit.rlim_max < 1024 ? PROBLEM : WARNING,
               "open files: the hard limit %" PRIu64 " allows about %" PRIu64
               " connections, not the "
               "configured %u",
               (uint64_t)limit.rlim_max,
               limit.rlim_max > FILES_BESIDE_CONNECTIONS
                   ? (uint64_t)limit.rlim_max - FILES_BESIDE_CONNECTIONS
                   : 0,
               c->server.max_connections);
    report_remedy(r,
                  "LimitNOFILE=%" PRIu64 " in the systemd unit, or a nofile line in "
                  "/etc/security/limits.conf, or server.max_connections",
                  wanted);
}

static void doctor_backlog(struct report *r)
{
    char line[64];

    kernel_file_line("/proc/sys/net/core/somaxconn", line, sizeof(line));
    if (line[0] && atoi(line) < 1024) {
        report_say(r, WARNING, "net.core.somaxconn is %s: bursts of new connections are refused",
                   line);
        report_remedy(r, "sysctl -w net.core.somaxconn=4096");
    }
}

/* The least value of `file` in the process's cgroup and those above it; UINT64_MAX when none is
 * set. */
static uint64_t cgroup_least(const char *file)
{
    char line[512], path[1024], value[64];
    uint64_t least = UINT64_MAX, number;

    kernel_file_line("/proc/self/cgroup", line, sizeof(line));
    if (strncmp(line, "0::/", 4) != 0)
        return UINT64_MAX;
    for (;;) {
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/%s", line + 3, file);
        kernel_file_line(path, value, sizeof(value));
        if (str_to_u64(str_from(value), UINT64_MAX, &number) && number < least)
            least = number;
        char *slash = strrchr(line + 3, '/');
        if (!slash || line[3] == '\0')
            return least;
        *slash = '\0';
    }
}

static uint64_t memory_total(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);

    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

static void doctor_machine(struct report *r)
{
    cpu_set_t set;
    char cpu_max[64];
    int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    uint64_t total = memory_total() >> 20, limit = cgroup_least("memory.max");

    kernel_file_line("/sys/fs/cgroup/cpu.max", cpu_max, sizeof(cpu_max));
    report_say(r, OK, "%d CPU%s%s%s", cpus, cpus == 1 ? "" : "s",
               cpu_max[0] && strncmp(cpu_max, "max", 3) != 0 ? ", cgroup quota " : "",
               cpu_max[0] && strncmp(cpu_max, "max", 3) != 0 ? cpu_max : "");
    if (limit >> 20 < total)
        report_say(r, limit >> 20 < 256 ? WARNING : OK,
                   "memory: %" PRIu64 " MiB, of which the cgroup allows %" PRIu64 " MiB", total,
                   limit >> 20);
    else
        report_say(r, OK, "memory: %" PRIu64 " MiB, no cgroup limit", total);
}

/* --- what the configuration asks for ---------------------------------------------------------- */

static void doctor_spool(struct report *r, const struct config *c)
{
    const char *dir = c->server.spool_dir.p;
    struct statfs fs;
    struct statvfs space;
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        report_say(r, PROBLEM, "server.spool_dir %s: no unnamed file can be made there: %s", dir,
                   strerror(errno));
        report_remedy(r, "name a folder on ext4, xfs or btrfs that the gateway's user may write");
        return;
    }
    fd_close(&fd);
    enum { TMPFS = 0x01021994 };
    if (statfs(dir, &fs) == 0 && fs.f_type == TMPFS)
        report_say(r, WARNING, "server.spool_dir %s is in memory (tmpfs): uploads fill the RAM",
                   dir);
    else
        report_say(r, OK, "spool folder %s", dir);
    if (statvfs(dir, &space) == 0) {
        uint64_t room = (uint64_t)space.f_bavail * space.f_frsize;
        if (room < c->server.max_spool_size)
            report_say(r, WARNING,
                       "%s has %" PRIu64 " MiB left, less than server.max_spool_size (%" PRIu64
                       " MiB)",
                       dir, room >> 20, c->server.max_spool_size >> 20);
    }
}

static void doctor_address(struct report *r, const struct config_listen *l)
{
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(l->port) };
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(l->port) };
    bool any = str_eq(l->host, STR("*"));
    bool is_v4 = !any && inet_pton(AF_INET, l->host.p, &v4.sin_addr) == 1;

    if (l->kind != CONFIG_LISTEN_TCP || l->port == 0)
        return;
    if (!is_v4 && !any && inet_pton(AF_INET6, l->host.p, &v6.sin6_addr) != 1)
        return; /* a name: what it means is looked up at start */
    int one = 1, fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    int rc = is_v4 ? bind(fd, (struct sockaddr *)&v4, sizeof(v4))
                   : bind(fd, (struct sockaddr *)&v6, sizeof(v6));
    if (rc == 0) {
        report_say(r, OK, "%.*s is free", STR_ARG(l->text));
    } else if (errno == EADDRINUSE) {
        report_say(r, NOTE, "%.*s is in use, by a running sapid or another program",
                   STR_ARG(l->text));
        report_more(r, "see: ss -ltnp 'sport = :%u'", l->port);
    } else {
        report_say(r, PROBLEM, "%.*s: %s", STR_ARG(l->text), strerror(errno));
        if (errno == EACCES)
            report_remedy(r, "start as root, or: setcap cap_net_bind_service=+ep /path/to/sapid");
    }
    fd_close(&fd);
}

void doctor_system(struct report *r, const struct config *c)
{
    doctor_kernel(r);
    report_section(r, "Limits");
    doctor_machine(r);
    doctor_files(r, c);
    doctor_backlog(r);
    doctor_spool(r, c);
    report_section(r, "Addresses");
    for (uint32_t i = 0; i < c->server.n_listen; i++)
        doctor_address(r, &c->server.listen[i]);
}
