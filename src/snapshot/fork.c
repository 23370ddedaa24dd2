/*
 * Forking a frozen process. glibc's fork() would do, but cannot make a sibling (CLONE_PARENT); the
 * bare system call leaves what glibc caches of the thread: its id, which the kernel writes for us
 * (CLONE_CHILD_SETTID), and the robust list, registered again here. The rseq area is inherited.
 * Rollback never copies over the id and the rseq area: they are holes in the image.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <unistd.h>

#include "snapshot/snapshot_int.h"

/* Is this glibc's idea of the thread id? A recursive mutex remembers its owner by it. */
static bool is_tid(pid_t *candidate)
{
    pthread_mutex_t m = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    const pid_t real = *candidate, mark = 0x2aaaaaa5;

    *candidate = mark;
    pthread_mutex_lock(&m);
    bool ret = m.__data.__owner == mark;
    pthread_mutex_unlock(&m);
    *candidate = real;
    return ret;
}

int hole_add(uintptr_t start, size_t bytes)
{
    struct snapshot_self *s = snapshot_self;
    uint32_t i = s->n_holes;

    if (i == HOLES_MAX)
        return -ENOSPC;
    s->n_holes++;
    for (; i > 0 && s->holes[i - 1].start > start; i--)
        s->holes[i] = s->holes[i - 1];
    s->holes[i] = (struct range){ start, start + bytes };
    return 0;
}

/* The kernel knows it (it clears it when the thread ends); else it stands in the first words of the
 * thread's descriptor. */
static pid_t *find_tid(void)
{
    const pid_t tid = (pid_t)raw1(SYS_gettid, 0);
    pid_t *told = NULL;
    pid_t *words = (pid_t *)pthread_self();

    if (prctl(PR_GET_TID_ADDRESS, &told) == 0 && told && *told == tid && is_tid(told))
        return told;
    for (size_t i = 0; i < 2048 / sizeof(pid_t); i++)
        if (words[i] == tid && is_tid(&words[i]))
            return &words[i];
    return NULL;
}

int thread_find_tid(void)
{
    struct snapshot_self *s = snapshot_self;

    s->tid = find_tid();
    if (!s->tid)
        return -ENOTSUP;
    int rc = hole_add((uintptr_t)s->tid, sizeof(pid_t));
    if (rc == 0 && __rseq_size) {
        /* the kernel's area is 32 bytes at least, even where glibc says how much of it is used */
        size_t bytes = __rseq_size < 32 ? 32 : __rseq_size;
        rc = hole_add((uintptr_t)__builtin_thread_pointer() + (uintptr_t)__rseq_offset, bytes);
    }
    return rc;
}

pid_t snapshot_fork(bool sibling)
{
    struct snapshot_self *s = snapshot_self;
    void *robust = NULL;
    size_t robust_bytes = 0;
    unsigned long flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;

    CHECK(s && s->magic == SELF_MAGIC);
    raw3(SYS_get_robust_list, 0, (long)&robust, (long)&robust_bytes);
    if (sibling)
        flags |= CLONE_PARENT;
#if defined(__x86_64__)
    long pid = raw5(SYS_clone, (long)flags, 0, 0, (long)s->tid, 0);
#else
    long pid = raw5(SYS_clone, (long)flags, 0, 0, 0, (long)s->tid);
#endif
    if (pid == 0 && robust)
        raw2(SYS_set_robust_list, (long)robust, (long)robust_bytes);
    return (pid_t)pid;
}
