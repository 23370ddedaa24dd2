/*
 * Only for runs under valgrind, as LD_PRELOAD: sapid executes itself as /proc/self/exe, which there
 * would be valgrind. This execve takes the name behind it, which valgrind's readlink knows.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int execve(const char *path, char *const argv[],
                                                  char *const envp[])
{
    char self[PATH_MAX];

    if (strcmp(path, "/proc/self/exe") == 0) {
        ssize_t n = readlink(path, self, sizeof(self) - 1);
        if (n < 0)
            return -1;
        self[n] = '\0';
        path = self;
    }
    return (int)syscall(SYS_execve, path, argv, envp);
}
