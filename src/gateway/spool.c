/*
 * Spool: unlinked files in spool_dir for bodies that do not fit in memory. Nothing has a name, so
 * nothing is left behind however the server ends. All of them together are bounded by
 * max_spool_size, which callers ask for (spool_has_room) before a batch of writes: several threads
 * that ask at once may go beyond it by a batch each.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "gateway/gateway_int.h"

int spool_open(struct gateway *g)
{
    char dir[4096];

    snprintf(dir, sizeof(dir), "%.*s", STR_ARG(g->config->server.spool_dir));
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
        return -errno;
    /* File systems without O_TMPFILE (overlayfs of old kernels, some network ones). */
    char path[4096 + 32];
    snprintf(path, sizeof(path), "%s/sapid-spool-XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return -errno;
    unlink(path);
    return fd;
}

bool spool_has_room(struct gateway *g, uint64_t bytes)
{
    return atomic_load_explicit(&g->spooled_bytes, memory_order_relaxed) + bytes <=
           g->config->server.max_spool_size;
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
