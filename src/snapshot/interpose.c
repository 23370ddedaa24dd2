/*
 * Functions of libc that the program defines in its stead (plain symbol interposition: the program
 * comes first in the search order). Without snapshot_prepare() they are the bare system calls. Not
 * in builds with a sanitizer, which interposes the same names.
 */
#undef _FILE_OFFSET_BITS /* it would rename mmap to mmap64; both are defined here */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "snapshot/arena_int.h"

#if !SNAPSHOT_HAS_SANITIZER
#pragma GCC visibility push(default)

enum {
    PID_BITS = 22, /* the kernel's PID_MAX_LIMIT */
    /* what the arena does not have: huge pages, addresses below 4 GiB, stacks that grow */
    ODD_FLAGS = MAP_HUGETLB | MAP_32BIT | MAP_GROWSDOWN,
};

static void *answer_address(long rc)
{
    if (rc < 0 && rc > -4096) {
        errno = (int)-rc;
        return MAP_FAILED;
    }
    return (void *)rc;
}

static bool is_whole_pages(const void *addr, size_t bytes)
{
    return (uintptr_t)addr % PAGE_BYTES == 0 && bytes && bytes <= (size_t)1 << 46;
}

static void *prepared_mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
    bool plain = (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE &&
                 !(flags & ODD_FLAGS) && is_whole_pages(addr, bytes);
    uintptr_t start = (uintptr_t)addr, end = start + page_up(bytes);
    void *ret = NULL;

    if (plain && !fixed) {
        ret = snapshot_arena_map(addr, bytes, prot);
    } else if (fixed && snapshot_arena_has(start, end)) {
        if (flags & MAP_FIXED_NOREPLACE && !(flags & MAP_FIXED))
            return answer_address(-EEXIST);
        if (plain && (ret = snapshot_arena_map_fixed(start, bytes, prot)) == NULL)
            return answer_address(-ENOMEM);
        if (!plain && snapshot_arena_foreign(start, end) < 0)
            return answer_address(-ENOMEM);
    } else if (fixed) {
        snapshot_self->maps_touched = true;
    }
    if (ret && flags & MAP_LOCKED)
        snapshot_self->maps_touched = true;
    return ret ? ret : answer_address(raw_mmap(start, bytes, prot, flags, fd, (uint64_t)offset));
}

void *mmap(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    if (unlikely(snapshot_self != NULL))
        return prepared_mmap(addr, bytes, prot, flags, fd, offset);
    return answer_address(raw_mmap((uintptr_t)addr, bytes, prot, flags, fd, (uint64_t)offset));
}

void *mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));

int munmap(void *addr, size_t bytes)
{
    uintptr_t start = (uintptr_t)addr, end = start + page_up(bytes);

    if (unlikely(snapshot_self != NULL) && is_whole_pages(addr, bytes)) {
        if (snapshot_arena_has(start, end))
            return libc_answer(snapshot_arena_unmap(start, end));
        snapshot_self->maps_touched = true;
    }
    return libc_answer(raw_munmap(start, bytes));
}

int mprotect(void *addr, size_t bytes, int prot)
{
    uintptr_t start = (uintptr_t)addr, end = start + page_up(bytes);

    if (unlikely(snapshot_self != NULL) && is_whole_pages(addr, bytes)) {
        if (snapshot_arena_has(start, end))
            return libc_answer(snapshot_arena_protect(start, end, prot));
        snapshot_self->maps_touched = true;
    }
    return libc_answer(raw_mprotect(start, bytes, prot));
}

void *mremap(void *addr, size_t old_bytes, size_t new_bytes, int flags, ...)
{
    uintptr_t start = (uintptr_t)addr, end = start + page_up(old_bytes);
    void *to = NULL;

    if (flags & MREMAP_FIXED) {
        va_list ap;
        va_start(ap, flags);
        to = va_arg(ap, void *);
        va_end(ap);
    }
    if (unlikely(snapshot_self != NULL) && is_whole_pages(addr, new_bytes)) {
        if (snapshot_arena_has(start, end)) {
            void *ret = flags & ~MREMAP_MAYMOVE ? NULL
                                                : snapshot_arena_remap(start, old_bytes, new_bytes,
                                                                       flags & MREMAP_MAYMOVE);
            return ret ? ret : answer_address(-ENOMEM);
        }
        snapshot_self->maps_touched = true;
    }
    return answer_address(
        raw5(SYS_mremap, (long)start, (long)old_bytes, (long)new_bytes, flags, (long)to));
}

/* Memory that was anonymous before it was frozen is now a file's: dropping it would bring back the
 * image instead of zeros. */
static long drop_for_job(uintptr_t start, uintptr_t end)
{
    long rc = 0;

    for (uintptr_t stop; rc == 0 && start < end; start = stop) {
        const struct region *r = region_at(start);
        stop = r && r->end < end ? r->end : end;
        if (r) {
            if (r->prot & PROT_WRITE)
                snapshot_zero((void *)start, stop - start);
            continue;
        }
        for (stop = start + PAGE_BYTES; stop < end && !region_at(stop);)
            stop += PAGE_BYTES;
        rc = raw_madvise(start, stop - start, MADV_DONTNEED);
    }
    return rc;
}

int madvise(void *addr, size_t bytes, int advice)
{
    uintptr_t start = (uintptr_t)addr, end = start + page_up(bytes);

    if (unlikely(snapshot_self != NULL) && snapshot_self->frozen && advice == MADV_DONTNEED &&
        is_whole_pages(addr, bytes))
        return libc_answer(drop_for_job(start, end));
    return libc_answer(raw_madvise(start, bytes, advice));
}

static void note_lock(void)
{
    if (unlikely(snapshot_self != NULL))
        snapshot_self->locks_touched = true;
}

int mlock(const void *addr, size_t bytes)
{
    note_lock();
    return libc_answer(raw2(SYS_mlock, (long)addr, (long)bytes));
}

int mlock2(const void *addr, size_t bytes, unsigned flags)
{
    note_lock();
    return libc_answer(raw3(SYS_mlock2, (long)addr, (long)bytes, (long)flags));
}

int mlockall(int flags)
{
    note_lock();
    return libc_answer(raw1(SYS_mlockall, flags));
}

/* glibc's getpid is the system call, too. For what detects forks by it (libcrypto's random
 * generator) a rollback is one. */
pid_t getpid(void)
{
    const struct snapshot_self *s = snapshot_self;
    pid_t pid = (pid_t)raw1(SYS_getpid, 0);

    if (unlikely(s != NULL && s->generation)) { /* never a pid, so never what the image saw */
        uintptr_t caller = (uintptr_t)__builtin_return_address(0);
        for (uint32_t i = 0; i < s->n_detectors; i++)
            if (caller >= s->detectors[i].start && caller < s->detectors[i].end)
                return pid ^ (pid_t)((1 + s->generation % 511) << PID_BITS);
    }
    return pid;
}

#endif
