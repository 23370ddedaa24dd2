/*
 * Locks on files that the boot has opened. In classic mode a file is closed at the end of its
 * request, and whatever lock the request has taken on it is gone; here it stays open, and a lock
 * that a request leaves behind (SQLite's, with a transaction; flock() without an end) would shut
 * all other workers out for as long as this one is idle. So they are given up with the request.
 *
 * A lock that the boot holds itself cannot be in an image: it would belong to the frozen process,
 * which never ends, and to none of its workers.
 *
 * Only descriptors that the boot has opened: opcache keeps a lock of its own.
 */
#include "php/engine/engine_int.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MAX = 256, FD_MAX = 1024 };

static struct {
    int fds[FILES_MAX];
    uint32_t n;
} files;

static bool is_locked(int fd)
{
    char path[64], line[256];
    bool locked = false;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    FILE *info = fopen(path, "re");
    while (info && !locked && fgets(line, sizeof(line), info))
        locked = strncmp(line, "lock:", 5) == 0;
    if (info)
        fclose(info);
    return locked;
}

static void explain(int fd, char *text, size_t size)
{
    char path[64], target[512], opened[512] = "";
    uint32_t line;
    const char *file = opened_at(fd, &line);

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, target, sizeof(target));
    if (file)
        snprintf(opened, sizeof(opened), ", opened at %s:%u", file, line);
    snprintf(
        text, size,
        "the boot holds a lock on %.*s (descriptor %d%s): flock(), or a transaction of SQLite. "
        "What to do: release it before the freeze",
        n > 0 ? (int)n : 1, n > 0 ? target : "?", fd, opened);
}

bool locks_freeze(char *text, size_t size)
{
    struct stat st;

    files.n = 0;
    for (int fd = 3; fd < FD_MAX; fd++) {
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !refusal_is_new(fd))
            continue;
        if (is_locked(fd)) {
            explain(fd, text, size);
            return false;
        }
        if (files.n < FILES_MAX)
            files.fds[files.n++] = fd;
    }
    return true;
}

void locks_release(void)
{
    struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

    for (uint32_t i = 0; i < files.n; i++) {
        (void)fcntl(files.fds[i], F_SETLK, &all); /* by whichever of the two ways */
        (void)flock(files.fds[i], LOCK_UN);
    }
}
