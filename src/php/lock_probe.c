/*
 * A worker that is killed while it holds a lock in shared memory holds it for ever, and every
 * worker that asks for it hangs: APCu's locks are such. So after each sudden death a probe, a fork
 * of this process, takes and gives back those locks. When it sleeps in one for half a second
 * without using the processor, and no living worker can be the holder, the lock is dead, and so is
 * this generation's shared memory: the process ends, the supervisor starts a new generation, and
 * the requests that are queued here move there.
 *
 * A living worker may hold the lock that long: apcu_entry() runs PHP code under it. Then the probe
 * is asked again later.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/kernel_file.h"
#include "php/pool_int.h"

enum {
    PROBE_MS = 500,  /* how long it may take */
    LOOK_MS = 100,   /* between two looks at it */
    PAUSE_MS = 200,  /* after one that ended well, before the next */
    RETRY_MS = 1000, /* when a living worker holds the lock */
};

void lock_probe_want(struct pool *p)
{
    if (p->probe.is_useful && !p->draining)
        p->probe.wanted = true;
}

uint64_t lock_probe_next_ns(const struct pool *p)
{
    return p->probe.pid || p->probe.wanted ? p->probe.look_ns : UINT64_MAX;
}

static void start(struct pool *p)
{
    int parent = getpid();

    p->probe.wanted = false;
    p->count.probes++;
    p->probe.began_ns = clock_monotonic_ns();
    p->probe.look_ns = p->probe.began_ns + LOOK_MS * NS_PER_MS;
    p->probe.cpu_ns = 0;
    pid_t pid = fork();
    if (pid == 0) {
        control_die_with_parent(parent, SIGKILL);
        fd_close(&p->supervisor);
        fd_close(&p->gateway);
        fd_close(&p->signals);
        proctitle_set("sapid: lock probe %.*s", STR_ARG(p->conf->name));
        _exit(p->engine->probe());
    }
    if (pid < 0)
        log_warn("cannot look whether a dead worker held a lock: fork: %s", strerror(errno));
    p->probe.pid = pid < 0 ? 0 : pid;
}

bool lock_probe_ended(struct pool *p, pid_t pid, int status)
{
    if (pid != p->probe.pid)
        return false;
    uint64_t earliest = clock_monotonic_ns() + PAUSE_MS * NS_PER_MS;
    if (status != 0 && status != SIGKILL) /* that was us */
        log_warn("the probe of the locks in shared memory ended with status 0x%x", status);
    p->probe.pid = 0;
    if (p->probe.look_ns < earliest)
        p->probe.look_ns = earliest;
    return true;
}

/* State letter of a process: S sleeps; one that only waits for a processor is R. */
static char state_of(pid_t pid)
{
    char path[64], text[512];

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    kernel_file_read(path, text, sizeof(text));
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : '?';
}

/* Some worker runs PHP code below apcu_entry(): the lock is its, and it lives. */
static bool is_held_by_the_living(struct pool *p)
{
    static struct php_stack s;

    for (uint32_t i = 0; i < p->n_seats; i++) {
        if (!p->seats[i].pid || !p->layout ||
            !worker_memory_stack(&p->seats[i].memory, p->layout, PHP_STACK_FRAMES, &s))
            continue;
        for (uint32_t k = 1; k < s.n_frames; k++)
            if (strcmp(php_stack_text(&s, s.frames[k].function), "apcu_entry") == 0)
                return true;
    }
    return false;
}

bool lock_probe_look(struct pool *p)
{
    uint64_t now = clock_monotonic_ns();

    if ((!p->probe.pid && !p->probe.wanted) || now < p->probe.look_ns)
        return false;
    if (!p->probe.pid) {
        start(p);
        return false;
    }
    p->probe.look_ns = now + LOOK_MS * NS_PER_MS;
    uint64_t cpu = observe_cpu_ns(p->probe.pid);
    bool stands = cpu == p->probe.cpu_ns && state_of(p->probe.pid) == 'S';
    p->probe.cpu_ns = cpu;
    if (!stands || now - p->probe.began_ns < PROBE_MS * NS_PER_MS)
        return false;
    kill(p->probe.pid, SIGKILL);
    if (is_held_by_the_living(p)) {
        p->probe.wanted = true;
        p->probe.look_ns = now + RETRY_MS * NS_PER_MS;
        return false;
    }
    p->count.dead_locks++;
    return true;
}
