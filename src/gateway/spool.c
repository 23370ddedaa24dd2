/*
 * Spool: unlinked files in spool_dir for bodies that do not fit in memory. Nothing has a name, so
 * nothing is left behind however the server ends. All of them together are bounded by
 * max_spool_size, which callers ask for (spool_has_room) before a batch of writes: several threads
 * that ask at once may go beyond it by a batch each.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "gateway/gateway_int.h"

enum { FOLDER_BYTES = 4096, TMPFS_MAGIC = 0x01021994, RAMFS_MAGIC = 0x858458f6 };

static void folder(const struct gateway *g, char out[FOLDER_BYTES])
{
    snprintf(out, FOLDER_BYTES, "%.*s", STR_ARG(g->config->server.spool_dir));
}

static void warn_of_memory(const char *dir)
{
    struct statfs fs;

    if (statfs(dir, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
        log_warn(
            "[server] spool_dir %s is kept in memory (tmpfs): large uploads and answers to slow "
            "clients will take memory; name a folder on a disk, such as /var/tmp",
            dir);
}

void spool_start(struct gateway *g)
{
    char dir[FOLDER_BYTES];
    struct statvfs fs;

    folder(g, dir);
    warn_of_memory(dir);
    g->spool_limit = g->config->server.max_spool_size;
    if (statvfs(dir, &fs) < 0)
        return; /* spool_open will say it */
    uint64_t half = (uint64_t)fs.f_bavail * fs.f_frsize / 2;
    if (half >= g->spool_limit)
        return;
    log_notice("[server] max_spool_size: %" PRIu64
               " MiB is more than half of what is free in spool_dir "
               "%s; at most %" PRIu64 " MiB are used",
               g->spool_limit >> 20, dir, half >> 20);
    g->spool_limit = half;
}

int spool_open(struct gateway *g)
{
    char dir[FOLDER_BYTES];

    folder(g, dir);
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        return -errno;
    /* File systems without O_TMPFILE (overlayfs of old kernels, some network ones). */
    char path[FOLDER_BYTES + 32];
    snprintf(path, sizeof(path), "%s/sapid-spool-XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    unlink(path);
    return fd;
}

bool spool_has_room(struct gateway *g, uint64_t bytes)
{
    return atomic_load_explicit(&g->spooled_bytes, memory_order_relaxed) + bytes <= g->spool_limit;
}

int spool_write(struct gateway *g, int fd, uint64_t at, struct str bytes)
{
    size_t done = 0;

    while (done < bytes.n) {
        ssize_t n = pwrite(fd, bytes.p + done, bytes.n - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    atomic_fetch_add_explicit(&g->spooled_bytes, bytes.n, memory_order_relaxed);
    return 0;
}

void spool_forget(struct gateway *g, int *fd, uint64_t bytes)
{
    if (*fd < 0)
        return;
    atomic_fetch_sub_explicit(&g->spooled_bytes, bytes, memory_order_relaxed);
    fd_close(fd);
}
