/*
 * snapshot: image and rollback of a single-threaded process. Knows no PHP and no HTTP.
 *
 * After snapshot_take() the writable private memory of the process, its stack and its kernel state
 * (descriptors and offsets, working directory, umask, signal actions and mask, timers, break,
 * mappings) are an image: a sealed memfd, mapped MAP_PRIVATE over the regions it was made from, so
 * that processes forked from the frozen one share its clean pages. snapshot_rollback() puts all of
 * it back and goes on behind snapshot_take(), as longjmp() does, however deep the stack is.
 *
 *   switch (snapshot_take(&refusal)) {
 *   case SNAPSHOT_FROZEN:  the process that made the image: a zygote. snapshot_fork() here, and in
 *                          the child snapshot_rollback(), which goes on at SNAPSHOT_RESUMED.
 *   case SNAPSHOT_RESUMED: a forked process, behind every rollback: do one job, roll back.
 *   default:               refused (-errno): `refusal` says what stands in the way.
 *   }
 *
 * Memory of the caller that must survive a rollback (counters, connections, what is mapped from
 * other processes) is kept: snapshot_keep_alloc(), snapshot_keep_range(). The rooms of this house
 * that live through rollbacks keep their state there, and only there.
 *
 * There must be exactly one copy of this room in a process, in the program itself: it defines mmap,
 * munmap, mprotect, mremap, madvise, mlock, timer_create and getpid in libc's stead. Programs take
 * it whole (meson: snapshot_dep, export_dynamic); shared objects such as the engine module include
 * this header, do not link the library, and find the program's symbols when they are loaded.
 *
 * Algorithm, figures and pitfalls: docs/snapshot-internals.md; vocabulary:
 *   region   a writable private mapping that is part of the image
 *   hot      page that jobs dirty again and again: copied back by memcpy, without asking
 *   cold     page found dirty by a scan, which is made only when the process took faults: dropped
 *   scratch  page whose content nobody will read before writing it: neither copied nor restored
 *   arena    one reserved range from which all anonymous mappings of the process are made, whose
 *            allocation map is part of the image: rollback frees what a job mapped without a system
 *            call
 */
#ifndef SAPID_SNAPSHOT_SNAPSHOT_H
#define SAPID_SNAPSHOT_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/check.h"

/* Found by shared objects in the program; the rest of the room is hidden. */
#pragma GCC visibility push(default)

struct snapshot_options {
    bool verify;         /* compare every page with the image after every rollback: aborts if not */
    bool no_scan_ioctl;  /* as on Linux 6.1: /proc/self/pagemap instead of PAGEMAP_SCAN, no count of
                            descriptors */
    uint32_t hot_max;    /* pages; above it the coldest leave. 0: the default */
    uint32_t hot_period; /* rollbacks after which the hot set is found anew. 0: the default, 256, or
                            more where that takes less than 100 ms */
    size_t arena_bytes;  /* address space to reserve. 0: the default */
};

/* Makes this process, and what is forked from it, able to be frozen: malloc on the break only, the
 * arena behind mmap (interposed: the program exports the symbols), a stack of rollback's own. Call
 * it before threads and before what is to be imaged allocates. 0 or -errno. */
MUST_USE int snapshot_prepare(const struct snapshot_options *o);
bool snapshot_is_prepared(void);

/* Zeroed memory, whole pages, that rollback leaves alone; private to each process after a fork.
 * NULL: out of memory. */
void *snapshot_keep_alloc(size_t bytes);
/* The mappings in that range are the caller's own: never imaged, never unmapped by rollback. Also a
 * stretch of the main stack, byte by byte (argv, where the title is written). 0 or -errno: -EINVAL
 * for private anonymous memory mapped after the image, for which there is snapshot_keep_alloc(). */
MUST_USE int snapshot_keep_range(const void *addr, size_t bytes);
void snapshot_keep_range_end(const void *addr, size_t bytes);
/* A descriptor of the caller's own: no reason to refuse, never closed or moved by rollback. */
void snapshot_keep_fd(int fd);
void snapshot_keep_fd_end(int fd);
/* A timer of timer_create(2) of the caller's own, made after the image: the kernel's number. One at
 * a time; -1: none any more. */
void snapshot_keep_timer(int id);

/* Pages that need no copy: call it from the hook below, for whole pages. */
typedef void snapshot_scratch_add(void *list, const void *addr, size_t bytes);

enum snapshot_problem {
    SNAPSHOT_OK,
    SNAPSHOT_THREADS,    /* more than one thread */
    SNAPSHOT_CHILDREN,   /* child processes */
    SNAPSHOT_SOCKET,     /* fd: an open socket */
    SNAPSHOT_PIPE,       /* fd: pipe, eventfd, epoll, inotify, io_uring, timerfd, signalfd ... */
    SNAPSHOT_SHARED_MAP, /* text: a writable shared mapping of a file, or SysV memory */
    SNAPSHOT_TIMER,      /* a running itimer or POSIX timer */
    SNAPSHOT_LOCKED,     /* mlock, seccomp, uid or other credentials changed */
    SNAPSHOT_SYSTEM,     /* error: a system call failed; text says which */
    SNAPSHOT_TOO_LARGE,  /* the image, or what a job dirtied */
    SNAPSHOT_LOST_FD,  /* at rollback: a descriptor of the image was closed or replaced for good */
    SNAPSHOT_LOST_MAP, /* at rollback: memory of the image was unmapped or remapped */
};
struct snapshot_refusal {
    enum snapshot_problem problem;
    int error;      /* errno, or 0 */
    int fd;         /* -1: none */
    char text[256]; /* what, for people: "descriptor 7 is a socket (TCP 127.0.0.1:3306)" */
};

struct snapshot_plan {
    /* Tells scratch memory, right before the image is made; may be NULL. */
    void (*scratch)(void *context, snapshot_scratch_add *add, void *list);
    void *context;
    /* Asked for each descriptor or shared mapping that would be refused: true = the caller knows it
     * (opcache's memory, a severed socket). May be NULL. fd -1: a mapping. */
    bool (*accept)(void *context, enum snapshot_problem problem, int fd, const void *addr,
                   size_t bytes, const char *text);
    /* Jobs may make system calls past libc (a foreign function interface): every rollback asks for
     * all that the kernel keeps, which takes longer. */
    bool raw_calls;
};

enum { SNAPSHOT_FROZEN = 1, SNAPSHOT_RESUMED = 2 };
/* See above. Returns once with FROZEN, then any number of times with RESUMED, or -errno once with
 * `ret` written; nothing has changed then. */
MUST_USE int snapshot_take(const struct snapshot_plan *plan, struct snapshot_refusal *ret);

/* Puts everything back and goes on behind snapshot_take(). Returns only when that cannot be done
 * (-errno, `ret` written): the process must exit and be forked anew. Uses no libc between the first
 * byte restored and the return of snapshot_take(). */
MUST_USE int snapshot_rollback(struct snapshot_refusal *ret);

/* As snapshot_rollback(), and gives back to the kernel what this process has of its own for the
 * sake of speed: pages that jobs dirty again and again, free pages that they have written to. For a
 * process that has had no job for a while; the next job takes a fault for each page it writes to.
 */
MUST_USE int snapshot_rest(struct snapshot_refusal *ret);

/* Forks the frozen process; `sibling`: the child's parent is the caller's parent (CLONE_PARENT),
 * which reaps it. What glibc caches of the thread (its id, robust list, rseq) is made the child's
 * own. The child's pid, 0 in the child, -errno. */
MUST_USE pid_t snapshot_fork(bool sibling);

/* How many rollbacks this process has seen: what must be unique after each of them (seeds) mixes it
 * with the process id. */
uint64_t snapshot_generation(void);
/* Libraries that detect a fork by getpid() (OpenSSL's random generator): code of those whose file
 * name begins with this ("libcrypto.so") gets another answer after every rollback, never one that
 * can be a pid. Call it before snapshot_take(). How many libraries that were; -ENOSPC. */
MUST_USE int snapshot_detect_by_pid(const char *library);

/* In a forked process: from now on descriptor `fd` of the image is a duplicate of `with`, here
 * only. 0 or -errno. */
MUST_USE int snapshot_replace_fd(int fd, int with);

/* What it cost, exactly; counted by each process in kept memory. */
struct snapshot_stats {
    uint64_t image_bytes, regions; /* of the image */
    uint64_t scratch_bytes;
    uint64_t rollbacks, scans;         /* how many of them looked for cold pages */
    uint64_t rests;                    /* how many of them were snapshot_rest() */
    uint64_t hot_pages;                /* now */
    uint64_t hot_copied, cold_dropped; /* pages, in all */
    uint64_t last_hot, last_cold;      /* pages, in the last rollback */
    uint64_t last_ns, total_ns;        /* time of rollbacks, CLOCK_MONOTONIC */
    uint64_t slow_maps, slow_fds;      /* rollbacks that had to look at each mapping, descriptor */
    uint64_t slow_states;              /* that asked for signal actions, limits and timers */
    uint64_t arena_zeroed;             /* pages a job had mapped for itself */
    uint64_t fds_closed, fds_restored, maps_removed;
};
void snapshot_stats(struct snapshot_stats *ret);
/* Pages the present job has dirtied so far, by region; for reports, slow. `each` gets whole runs.
 */
int snapshot_dirty(void (*each)(void *context, const void *addr, size_t bytes), void *context);

#pragma GCC visibility pop

#endif
