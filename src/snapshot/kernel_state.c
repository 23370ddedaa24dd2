/*
 * What the kernel keeps for a process and a job can change: working directory, umask, signal
 * actions, mask and stack, timers, limits, the break, mappings, children, threads. Recorded when
 * the image is made, put back by every rollback before memory is, as long as it still can be
 * refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "snapshot/arena_int.h"

enum {
    SIGSET_BYTES = 8,
    THREAD_TURNS = 2000,
    CHILD_TURNS = 300,
    QUICK_TURNS = 100,
    ASK_EVERY = 64,
};

uint64_t kernel_faults(void)
{
    struct rusage u;

    /* RUSAGE_SELF: threads that ended count, too */
    raw2(SYS_getrusage, RUSAGE_SELF, (long)&u);
    return (uint64_t)u.ru_minflt + (uint64_t)u.ru_majflt;
}

/* The kernel counts threads in the links of /proc/self/task. -1: the descriptor is lost. */
static int thread_count(void)
{
    struct stat st;

    return raw2(SYS_fstat, snapshot_self->fd.task_folder, (long)&st) < 0 || !S_ISDIR(st.st_mode)
               ? -1
               : (int)st.st_nlink - 2;
}

static void read_user(struct credentials *ret)
{
    uint32_t *u = ret->uid, *g = ret->gid;

    raw3(SYS_getresuid, (long)&u[0], (long)&u[1], (long)&u[2]);
    raw3(SYS_getresgid, (long)&g[0], (long)&g[1], (long)&g[2]);
}

static void read_limits(struct credentials *ret)
{
    ret->priority = (int)raw2(SYS_getpriority, PRIO_PROCESS, 0);
    ret->no_new_privileges = (int)raw5(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    for (int i = 0; i < (int)ARRAY_LENGTH(ret->limit); i++)
        raw4(SYS_prlimit64, 0, i, 0, (long)&ret->limit[i]);
}

/* What /proc/self/timers says of POSIX timers. Bytes, or -errno: this kernel does not tell. */
static long read_timers(char *text, size_t size)
{
    long fd = raw4(SYS_openat, AT_FDCWD, (long)"/proc/self/timers", O_RDONLY | O_CLOEXEC, 0);

    if (fd < 0)
        return fd;
    long n = raw3(SYS_read, fd, (long)text, (long)size);
    raw1(SYS_close, fd);
    return n;
}

static bool is_running(const struct itimerval *t)
{
    return t->it_value.tv_sec || t->it_value.tv_usec;
}

/* --- recording -------------------------------------------------------------------------------- */

static int record_timers(struct snapshot_refusal *ret)
{
    static const char *const name[] = { "ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF" };
    struct itimerval t = { { 0, 0 }, { 0, 0 } };
    char text[64];

    for (int i = 0; i < 3; i++)
        if (raw2(SYS_getitimer, i, (long)&t) == 0 && is_running(&t))
            return snapshot_refuse(ret, SNAPSHOT_TIMER, EBUSY, "a timer is running: %s", name[i]);
    if (read_timers(text, sizeof(text)) > 0)
        return snapshot_refuse(ret, SNAPSHOT_TIMER, EBUSY, "a POSIX timer exists (timer_create)");
    return 0;
}

static int record_folder(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    struct stat st = { 0 };
    long fd = raw4(SYS_openat, AT_FDCWD, (long)".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);

    if (fd >= 0)
        fd = s->fd.folder = fds_own((int)fd);
    if (fd >= 0)
        fd = raw2(SYS_fstat, fd, (long)&st);
    if (fd < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, (int)-fd, "the working directory");
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
    read_user(&s->credentials);
    read_limits(&s->credentials);
    s->state_touched = s->locks_touched = false;
    return 0;
}

/* --- putting back ----------------------------------------------------------------------------- */

static bool same_action(const struct kernel_sigaction *a, const struct kernel_sigaction *b)
{
    return a->handler == b->handler && a->flags == b->flags && a->mask == b->mask;
}

/* These and the following put something back; true: there was something. */
static bool restore_signals(void)
{
    struct snapshot_self *s = snapshot_self;
    struct kernel_sigaction now;
    bool found = false;

    for (int i = 1; i <= SIGNALS; i++) {
        if (raw4(SYS_rt_sigaction, i, 0, (long)&now, SIGSET_BYTES) == 0 &&
            !same_action(&now, &s->actions[i])) {
            raw4(SYS_rt_sigaction, i, (long)&s->actions[i], 0, SIGSET_BYTES);
            found = true;
        }
    }
    return found;
}

static bool stop_timers(void)
{
    struct itimerval t = { { 0, 0 }, { 0, 0 } }, none = { { 0, 0 }, { 0, 0 } };
    bool found = false;

    for (int i = 0; i < 3; i++) {
        if (raw2(SYS_getitimer, i, (long)&t) == 0 && is_running(&t)) {
            raw3(SYS_setitimer, i, (long)&none, 0);
            found = true;
        }
    }
    return found;
}

/* The first timer that is not the caller's own in what the kernel says, or -1: each begins with a
 * line "ID: 3". */
static long timer_of_job(const char *text, long n)
{
    for (long i = 0; i + 4 < n; i++) {
        long id = 0;
        if ((i && text[i - 1] != '\n') || text[i] != 'I' || text[i + 1] != 'D')
            continue;
        for (i += 4; i < n && text[i] >= '0' && text[i] <= '9'; i++)
            id = id * 10 + text[i] - '0';
        if (id != snapshot_self->timer_kept)
            return id;
    }
    return -1;
}

/* Timers of timer_create(): the image has none. */
static int delete_timers(struct snapshot_refusal *ret)
{
    char *text = snapshot_self->text_buffer;
    long n, id;
    int found = 0;

    while ((n = read_timers(text, TEXT_BYTES - 1)) > 0 && (id = timer_of_job(text, n)) >= 0) {
        long rc = raw1(SYS_timer_delete, id);
        if (rc < 0)
            return snapshot_refuse(ret, SNAPSHOT_TIMER, (int)-rc, "timer %ld of the job", id);
        found = 1;
    }
    if (n < 0 && snapshot_self->timers_touched)
        return snapshot_refuse(ret, SNAPSHOT_TIMER, (int)-n,
                               "the job made a timer, and this kernel has no /proc/self/timers");
    snapshot_self->timers_touched = false;
    return found;
}

/* Another user is for ever. */
static int check_user(struct snapshot_refusal *ret)
{
    const struct credentials *was = &snapshot_self->credentials;
    struct credentials now;

    read_user(&now);
    for (int i = 0; i < 3; i++)
        if (now.uid[i] != was->uid[i] || now.gid[i] != was->gid[i])
            return snapshot_refuse(ret, SNAPSHOT_LOCKED, EPERM,
                                   "the job changed its user or group (uid %u, euid %u)",
                                   now.uid[0], now.uid[1]);
    return 0;
}

/* Priority and limits go back as far as the kernel lets them. */
static int restore_limits(struct snapshot_refusal *ret)
{
    const struct credentials *was = &snapshot_self->credentials;
    struct credentials now;
    int found = 0;
    long rc = 0;

    read_limits(&now);
    if (now.no_new_privileges != was->no_new_privileges)
        return snapshot_refuse(ret, SNAPSHOT_LOCKED, EPERM, "the job set PR_SET_NO_NEW_PRIVS");
    if (now.priority != was->priority) { /* the kernel answers 20 - nice */
        rc = raw3(SYS_setpriority, PRIO_PROCESS, 0, 20 - was->priority);
        found = 1;
    }
    for (int i = 0; rc == 0 && i < (int)ARRAY_LENGTH(was->limit); i++) {
        if (now.limit[i].soft != was->limit[i].soft || now.limit[i].hard != was->limit[i].hard) {
            rc = raw4(SYS_prlimit64, 0, i, (long)&was->limit[i], 0);
            found = 1;
        }
    }
    return rc == 0 ? found
                   : snapshot_refuse(ret, SNAPSHOT_LOCKED, (int)-rc,
                                     "priority or limits that the job lowered");
}

/* What watch.c watches: see there why that will do. */
static int restore_watched(bool mapped, struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    bool announced = s->state_touched || mapped || s->options.verify;
    int found, rc;

    if (s->state_watched && !announced && s->stats.rollbacks % ASK_EVERY)
        return 0;
    s->stats.slow_states++;
    found = rc = restore_limits(ret);
    if (rc >= 0)
        found |= rc = delete_timers(ret);
    if (rc < 0)
        return rc;
    found |= restore_signals();
    found |= stop_timers();
    if (found && !announced)
        s->state_watched = false;
    s->state_touched = false;
    return 0;
}

static void wait_a_moment(int turn)
{
    struct timespec pause = { 0, 10000 };

    if (turn < QUICK_TURNS)
        raw1(SYS_sched_yield, 0);
    else
        raw2(SYS_nanosleep, (long)&pause, 0);
}

/* Children that ended are nobody's any more. One that runs goes on, but not as a child of this
 * process: the next job must not meet it in wait(). */
static int reap_children(struct snapshot_refusal *ret)
{
    for (int turn = 0; turn < CHILD_TURNS; turn++) {
        long rc;
        do {
            rc = raw4(SYS_wait4, -1, 0, WNOHANG, 0);
        } while (rc > 0);
        if (rc < 0)
            return 0;
        wait_a_moment(turn);
    }
    return snapshot_refuse(ret, SNAPSHOT_CHILDREN, EBUSY, "the job left a child process running");
}

/* A thread that was joined may still be on its way out: its exit wakes the joiner early. */
static int check_threads(struct snapshot_refusal *ret)
{
    int n = 0;

    for (int turn = 0; turn < THREAD_TURNS; turn++) {
        n = thread_count();
        if (n == 1)
            return 0;
        if (n < 0)
            return snapshot_refuse(ret, SNAPSHOT_LOST_FD, EBADF,
                                   "the job closed descriptors of the snapshot itself");
        wait_a_moment(turn);
    }
    return snapshot_refuse(ret, SNAPSHOT_THREADS, EBUSY, "the job left %d threads running", n - 1);
}

/* 1: mappings had come or gone. */
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
    bool same = now.total == s->size.total && now.data == s->size.data && !s->maps_touched;
    if (same && !s->options.verify)
        return 0;
    s->stats.slow_maps += !same;
    rc = maps_restore(false, ret);
    if (rc == 0)
        rc = maps_restore(true, ret);
    if (rc < 0)
        return rc;
    if ((uintptr_t)raw1(SYS_brk, 0) != s->brk)
        return snapshot_refuse(ret, SNAPSHOT_LOST_MAP, ENOMEM, "the break cannot be put back");
    s->maps_touched = false;
    /* what reading them took, 100 KiB of each worker's own memory for once in a while */
    raw_madvise((uintptr_t)s->text_buffer, TEXT_BYTES, MADV_DONTNEED);
    raw_madvise((uintptr_t)s->vmas_now, VMAS_MAX * sizeof(s->vmas_now[0]), MADV_DONTNEED);
    rc = maps_size(&s->size);
    return rc < 0 ? snapshot_refuse(ret, SNAPSHOT_SYSTEM, -rc, "/proc/self/statm") : !same;
}

int kernel_state_restore(struct snapshot_refusal *ret)
{
    struct snapshot_self *s = snapshot_self;
    int rc = check_threads(ret);

    if (rc == 0)
        rc = reap_children(ret);
    if (rc == 0)
        rc = fds_restore(ret);
    if (rc == 0)
        rc = check_user(ret);
    if (rc == 0 && s->locks_touched)
        raw1(SYS_munlockall, 0);
    if (rc == 0)
        rc = restore_maps(ret);
    if (rc >= 0)
        rc = restore_watched(rc > 0, ret);
    if (rc < 0)
        return rc;
    s->locks_touched = false;
    long moved = raw1(SYS_fchdir, s->fd.folder);
    if (moved < 0)
        return snapshot_refuse(ret, SNAPSHOT_SYSTEM, (int)-moved, "back to the working directory");
    raw1(SYS_umask, s->umask);
    raw2(SYS_sigaltstack, (long)&s->signal_stack, 0);
    return 0;
}
