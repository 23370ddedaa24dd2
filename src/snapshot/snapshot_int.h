/*
 * Inside the snapshot room. All state is one struct in kept memory, which rollback leaves alone and
 * which each forked process has for itself; only the pointer to it and the arena's allocation map
 * are ordinary memory, part of the image.
 */
#ifndef SAPID_SNAPSHOT_SNAPSHOT_INT_H
#define SAPID_SNAPSHOT_SNAPSHOT_INT_H

#include <assert.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "snapshot/snapshot.h"
#include "snapshot/syscall_int.h"

enum {
    PAGE_BYTES = 4096,
    FDS_MAX = 4096,     /* descriptors above are neither imaged nor kept */
    FD_OWN_LEAST = 400, /* the room's own descriptors and spares begin here, out of the way */
    FD_SLOTS = 256,     /* descriptors an image may have */
    REGIONS_MAX = 8192,
    VMAS_MAX = 32768,
    KEPT_MAX = 128,
    HOLES_MAX = 16,
    WIPED_MAX = 16,
    GUARDS_MAX = 4096,
    SIGNALS = 64,
    OWN_STACK_BYTES = 256 << 10,
    STACK_BYTES = 1 << 20, /* below the image's stack: jobs find it mapped, so it rarely grows */
};

/* Sanitizers interpose the same functions and keep shadows of memory: the room is off there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SNAPSHOT_HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SNAPSHOT_HAS_SANITIZER 1
#endif
#endif
#ifndef SNAPSHOT_HAS_SANITIZER
#define SNAPSHOT_HAS_SANITIZER 0
#endif

#define SELF_MAGIC 0x736e617073686f74u

struct range {
    uintptr_t start, end;
};

struct region {
    uintptr_t start, end;
    uint64_t page; /* of the image: its first one */
    int prot;
};

/* What a page of the image is to rollback. */
enum page_kind {
    PAGE_COLD,
    PAGE_HOT,
    PAGE_PINNED, /* hot for ever: it has a hole */
    PAGE_SCRATCH,
};

/* Each worker has these for itself, so they are small. `dirtied`: low bits of the number of the
 * rollback that last found it dirty while cold; 0: none did. One that was found so long ago that
 * the numbers have come round is taken for one of now, and becomes hot a turn too early. */
struct page {
    uint16_t kind : 2, dirtied : 14;
};
enum { TURNS = 1 << 14 };

struct hot_page {
    uintptr_t at;
    uint32_t page;
    uint32_t changed; /* low bits of the number of the rollback that last found it changed */
};

struct context {
    uint64_t word[24];
};
#if defined(__x86_64__)
enum { CONTEXT_SP = 6 };
#else
enum { CONTEXT_SP = 12 };
#endif

/* One mapping, as /proc/self/maps and smaps tell it. */
struct map {
    uintptr_t start, end;
    uint64_t offset, dev, inode;
    int prot;
    bool shared;
    bool wiped, locked, hugetlb, sysv; /* smaps only: wf or dp; lo; ht */
    char name[192];
};

/* Neighbouring mappings of one kind are one of these. `delta`: start - offset of a file. */
struct vma {
    uintptr_t start, end;
    uint64_t delta, dev, inode;
    int prot;
    bool shared;
};

struct image_fd {
    int fd, spare;
    int fd_flags, status_flags;
    int64_t offset; /* -1: not seekable */
    uint64_t dev, inode;
};

/* The kernel's struct sigaction for rt_sigaction(2); glibc has its own. */
struct kernel_sigaction {
    uint64_t handler, flags;
#if defined(__x86_64__)
    uint64_t restorer;
#endif
    uint64_t mask;
};

struct own_fds {
    int memory; /* the image */
    /* of this process, opened again after a fork: files and folders of /proc/self */
    int pagemap, statm, fd_folder, task_folder;
    int folder; /* working directory of the image */
};

struct credentials {
    uint32_t uid[3], gid[3]; /* real, effective, saved */
    int priority, no_new_privileges;
    struct {
        uint64_t soft, hard;
    } limit[16]; /* RLIMIT_CPU .. RLIMIT_RTTIME */
};

struct memory_size {
    uint64_t total, data; /* pages, as in /proc/self/statm */
};

/* What rollbacks write to stands first, on one page: each worker has a copy of it. */
struct snapshot_self {
    uint64_t magic;
    struct snapshot_options options;
    bool frozen, taking;
    bool has_scan_ioctl, has_kcmp;
    pid_t pid; /* the process that `fd` belongs to; another: forked since */

    /* kept memory */
    uintptr_t keep_next, keep_end;
    uintptr_t own_stack_top;
    char *text_buffer; /* for reading /proc: TEXT_BYTES */

    /* thread */
    pid_t *tid;
    struct range holes[HOLES_MAX]; /* sorted; never copied over */
    uint32_t n_holes;

    /* image */
    struct context context;
    struct region *regions;
    uint32_t n_regions;
    const char *view; /* the image, read-only */
    uint64_t n_pages, n_scratch;
    struct page *pages; /* each */
    struct range stack; /* live part when the image was made */
    char *stack_copy;
    struct range stack_map; /* the whole mapping, then */
    struct range wiped[WIPED_MAX];
    uint32_t n_wiped;
    struct vma *vmas, *vmas_now;
    uint32_t n_vmas, n_split;
    struct range *spans; /* neighbouring regions, scanned in one call */
    uint32_t n_spans;
    struct range *scratch; /* while the image is made */
    uint32_t n_scratch_ranges;

    /* hot set */
    struct hot_page *hot;
    uint32_t n_hot, hot_room;
    bool scan_next; /* the next rollback looks for cold pages, whatever the faults say */
    bool rests;     /* it gives all memory back that it can */
    bool paced;     /* pages are forgotten by time, too: `pace` times as many rollbacks */
    uint32_t pace;
    uint64_t paced_ns;
    uint64_t faults;

    /* kernel state */
    struct own_fds fd;
    int64_t n_fds_open; /* expected; -1: the kernel does not count */
    uint64_t folder_dev, folder_inode;
    int umask;
    uint64_t signal_mask;
    stack_t signal_stack;
    uintptr_t brk;
    struct memory_size size;
    struct credentials credentials;
    int timer_kept;                     /* the caller's own; -1: none */
    bool timers_touched, locks_touched; /* an interposed call made a timer, locked memory */
    /* signal actions, limits, timers: may have changed; every change is noted there */
    bool state_touched, state_watched;
    bool maps_touched; /* an interposed call changed mappings beside the arena */

    /* arena */
    struct range arena;
    uintptr_t arena_top; /* nothing above it was ever given out */
    uint32_t n_job_maps, n_job_odd, n_unveiled;

    struct range detectors[8]; /* code that is answered another pid after each rollback */
    uint32_t n_detectors;
    uint64_t generation;

    struct snapshot_stats stats;

    struct range job_maps[64]; /* arena memory handed out since the image, merged */
    struct range job_odd[64];  /* of another protection than the arena's */
    struct range unveiled[16]; /* unreadable memory of the image that a job could write to */
    struct range kept[KEPT_MAX];
    uint32_t n_kept;
    struct kernel_sigaction actions[SIGNALS + 1];
    uint64_t fd_kept[FDS_MAX / 64];  /* of the caller */
    uint64_t fd_known[FDS_MAX / 64]; /* image, kept and own */
    uint32_t n_fds;
    struct image_fd fds[FD_SLOTS];
};
static_assert(offsetof(struct snapshot_self, job_maps) <= PAGE_BYTES, "on one page");

extern struct snapshot_self *snapshot_self __attribute__((visibility("hidden")));

enum { TEXT_BYTES = 64 << 10 };

static inline uintptr_t page_down(uintptr_t at)
{
    return at & ~(uintptr_t)(PAGE_BYTES - 1);
}

static inline uintptr_t page_up(uintptr_t at)
{
    return page_down(at + PAGE_BYTES - 1);
}

static inline bool bit_get(const uint64_t *bits, int i)
{
    return i >= 0 && i < FDS_MAX && (bits[i / 64] >> (i % 64) & 1);
}

static inline void bit_set(uint64_t *bits, int i, bool on)
{
    if (on)
        bits[i / 64] |= UINT64_C(1) << (i % 64);
    else
        bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

/* context.c. `save` returns 0, and 1 when resumed. */
int snapshot_context_save(struct context *c) __attribute__((returns_twice));
NORETURN void snapshot_context_resume(const struct context *c);
long snapshot_call_on(void *stack_top, long (*run)(void *), void *arg);

/* keep.c */
/* `ret` filled; returns -error. */
int snapshot_refuse(struct snapshot_refusal *ret, enum snapshot_problem problem, int error,
                    const char *fmt, ...) PRINTF_LIKE(4, 5);
bool snapshot_is_kept(uintptr_t start, uintptr_t end);
/* Where the first kept range begins or ends behind `start`, at most `end`. */
uintptr_t snapshot_kept_border(uintptr_t start, uintptr_t end);

/* maps.c */
int maps_read(bool smaps, int (*each)(void *context, const struct map *m), void *context);
/* Remembers the mappings as they are: what rollback compares with. */
int maps_expect(struct snapshot_refusal *ret);
/* Compares; `apply`: and puts right. 0, or -errno with the refusal written. */
int maps_restore(bool apply, struct snapshot_refusal *ret);
int maps_size(struct memory_size *ret);
const struct region *region_at(uintptr_t at);
/* Finds the stack we run on. 0 or -errno. */
int maps_find_stack(struct range *ret);

/* pagemap.c: runs of pages that are the process's own copies, in memory or swapped out. */
struct dirty_runs {
    uintptr_t next, end;
    uint32_t n;
    struct range run[64];
};
void pagemap_start(struct dirty_runs *d, uintptr_t start, uintptr_t end);
/* Fills `run`; false: nothing left. */
bool pagemap_next(struct dirty_runs *d);
int pagemap_open(void);

/* guard.c: guard pages that no table of mappings shows become pages without permissions. */
int guards_to_protections(void);

/* copy.c: without libc. */
void snapshot_copy(void *to, const void *from, size_t bytes);
void snapshot_zero(void *to, size_t bytes);
bool snapshot_same(const void *a, const void *b, size_t bytes);
/* As snapshot_copy(), but writes only the lines that differ: a page in which none does stays one
 * that processes share. */
void snapshot_mend(void *to, const void *from, size_t bytes);
/* Makes a page what the image says; `next` and its image are fetched into the caches meanwhile.
 * Whether anything differed. */
bool snapshot_put_back(void *to, const void *image, const void *next, const void *next_image);
bool snapshot_is_zero(const void *a, size_t bytes);

/* fds.c */
int fds_record(const struct snapshot_plan *plan, struct snapshot_refusal *ret);
void fds_forget(void);
/* In a forked process: files of the image are opened again, as an offset and a flock() belong to
 * the open file, which a fork shares. */
void fds_make_own(void);
int fds_restore(struct snapshot_refusal *ret);
/* Opens what belongs to the process, after a fork. */
int fds_open_own(void);
/* Moves it to the room's own numbers, close-on-exec. The new number or -errno. */
int fds_own(int fd);

/* kernel_state.c */
int kernel_state_record(struct snapshot_refusal *ret);
int kernel_state_restore(struct snapshot_refusal *ret);
uint64_t kernel_faults(void);

/* arena.c; the rest is in arena_int.h */
int snapshot_arena_init(size_t bytes);

/* fork.c */
int thread_find_tid(void);
/* Bytes that rollback never copies over. 0 or -ENOSPC. */
int hole_add(uintptr_t start, size_t bytes);

/* watch.c: from now on `state_touched` tells when kernel state has changed. 0, or -errno: it does
 * not. */
int watch_bind(void);

/* verify.c */
void snapshot_verify(void);

#endif
