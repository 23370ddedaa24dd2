/*
 * What the kernel keeps for a process and a job can change: working directory, umask, signal
 * actions, mask and stack, timers, the break, mappings, children, threads. Recorded when the image
 * is made, put back by every rollback before memory is, as long as it still can be refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot/arena_int.h"

enum { SIGSET_BYTES = 8 };

uint64_t kernel_faults(void)
{
    struct rusage u;

    /* RUSAGE_SELF: threads that ended count, too */
    raw2(SYS_getrusage, RUSAGE_SELF, (long)&u);
    return (uint64_t)u.ru_minflt + (uint64_t)u.ru_majflt;
}

static int thread_count(void)
{
    struct stat st;

    return raw4(SYS_newfstatat, AT_FDCWD, (long)"/proc/self/task", (long)&st, 0) < 0
               ? -1
               : (int)st.st_nlink - 2;
}

/* --- recording -------------------------------------------------------------------------------- */

static int record_timers(struct snapshot_refusal *ret)
{
    static const char *const name[] = { "ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF" };
    struct itimerval t;
    char text[64];

    for (int i = 0; i < 3; i++)
        if (raw2(SYS_getitimer, i, (long)&t) == 0 &&
            (t.it_value.tv_sec || t.it_value.tv_usec || t.it_interval.tv_sec))
            return snapshot_refuse(ret, SNAPSHOT_TIMER, EBUSY, "a timer is running: %s", name[i]);
    long fd = raw4(SYS_openat, AT_FDCWD, (long)"/proc/self/timers", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0; /* this kernel does not tell */
    long n = raw3(SYS_read, fd, (long)text, sizeof(text) - 1);
    raw1(SYS_close, fd);
    if (n > 0)
        return snapshot_refuse(ret, SNAPSHOT_TIMER, EBUSY, "a POSIX timer exists (timer_create)");
    return 0;
}

static int record_folder(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    struct stat st;
    int fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, errno, "the working directory");
    s->fd.folder = fds_own(fd);
    if (s->fd.folder < 0 || fstat(s->fd.folder, &st) < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, EMFILE, "the working directory");
    s->folder_dev = st.st_dev;
    s->folder_inode = st.st_ino;
    return 0;
}

static bool has_children(void)
{
    return raw5(SYS_waitid, P_ALL, 0, 0, WEXITED | WNOHANG | WNOWAIT | __WALL, 0) != -ECHILD;
}

int kernel_state_record(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    int threads = thread_count();
    int rc;

    if (threads != 1)
        return snapshot_refuse(ret, SNAPSHOT_THREADS, EBUSY,
                               "the process has %d threads, an image has one", threads);
    if (has_children())
        return snapshot_refuse(ret, SNAPSHOT_CHILDREN, EBUSY, "the process has children");
    rc = record_timers(ret);
    if (rc == 0)
        rc = record_folder(ret);
    if (rc < 0)
        return rc;
    s->umask = (int)raw1(SYS_umask, 077);
    raw1(SYS_umask, s->umask);
    for (int i = 1; i <= SIGNALS; i++)
        raw4(SYS_rt_sigaction, i, 0, (long)&s->actions[i], SIGSET_BYTES);
    raw4(SYS_rt_sigprocmask, SIG_BLOCK, 0, (long)&s->signal_mask, SIGSET_BYTES);
    raw2(SYS_sigaltstack, 0, (long)&s->signal_stack);
    s->brk = (uintptr_t)raw1(SYS_brk, 0);
    s->threads_checked = s->threads_started;
    return 0;
}

/* --- putting back: no libc -------------------------------------------------------------------- */

static bool same_action(const struct kernel_sigaction *a, const struct kernel_sigaction *b)
{
    return a->handler == b->handler && a->flags == b->flags && a->mask == b->mask;
}

static void restore_signals(void)
{
    struct snapshot_self *s = snapshot_self;
    struct kernel_sigaction now;

    for (int i = 1; i <= SIGNALS; i++) {
        if (raw4(SYS_rt_sigaction, i, 0, (long)&now, SIGSET_BYTES) == 0 &&
            !same_action(&now, &s->actions[i]))
            raw4(SYS_rt_sigaction, i, (long)&s->actions[i], 0, SIGSET_BYTES);
    }
    raw2(SYS_sigaltstack, (long)&s->signal_stack, 0);
}

static void restore_timers(void)
{
    struct itimerval t, none = { { 0, 0 }, { 0, 0 } };

    for (int i = 0; i < 3; i++)
        if (raw2(SYS_getitimer, i, (long)&t) == 0 && (t.it_value.tv_sec || t.it_value.tv_usec))
            raw3(SYS_setitimer, i, (long)&none, 0);
}

/* Children that ended are nobody's any more; running ones go on, as under PHP-FPM. */
static void reap_children(void)
{
    while (raw4(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
        ;
}

/* A thread that was joined may still be on its way out: its exit wakes the joiner early. */
static int check_threads(struct snapshot_refusal *ret)
{
    int n = 0;

    for (int turn = 0; turn < 2000; turn++) {
        n = thread_count();
        if (n <= 1)
            return 0;
        if (turn < 100) {
            raw1(SYS_sched_yield, 0);
        } else {
            struct timespec t = { 0, 10000 };
            raw2(SYS_nanosleep, (long)&t, 0);
        }
    }
    return snapshot_refuse(ret, SNAPSHOT_THREADS, EBUSY, "the job left %d threads running", n - 1);
}

static int restore_maps(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    struct memory_size now;
    int rc;

    snapshot_arena_restore_protection();
    if ((uintptr_t)raw1(SYS_brk, 0) != s->brk)
        raw1(SYS_brk, (long)s->brk);
    rc = maps_size(&now);
    if (rc < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/statm");
    bool threads = s->threads_checked != s->threads_started;
    bool same = now.total == s->size.total && now.data == s->size.data && !s->maps_touched;
    if (same && !threads && !s->options.verify)
        return 0;
    rc = check_threads(ret);
    if (rc < 0)
        return rc;
    s->stats.slow_maps += !same || threads;
    rc = maps_restore(false, ret);
    if (rc == 0)
        rc = maps_restore(true, ret);
    if (rc < 0)
        return rc;
    if ((uintptr_t)raw1(SYS_brk, 0) != s->brk)
        return snapshot_refuse(ret, SNAPSHOT_LOST_MAP, ENOMEM, "the break cannot be put back");
    s->threads_checked = s->threads_started;
    s->maps_touched = false;
    rc = maps_size(&s->size);
    return rc < 0 ? snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/statm") : 0;
}

int kernel_state_restore(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    int rc = fds_restore(ret);

    if (rc == 0)
        rc = restore_maps(ret);
    if (rc < 0)
        return rc;
    long moved = raw1(SYS_fchdir, s->fd.folder);
    if (moved < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, (int)-moved, "back to the working directory");
    raw1(SYS_umask, s->umask);
    restore_signals();
    restore_timers();
    reap_children();
    return 0;
}
