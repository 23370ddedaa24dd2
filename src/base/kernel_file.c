/* See kernel_file.h. The kernel gives such a file in pieces of its own choice: read to the end. */
#include "base/kernel_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool kernel_file_read(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;

    for (ssize_t got; fd >= 0 && n < size - 1; n += (size_t)got) {
        got = read(fd, text + n, size - 1 - n);
        if (got <= 0)
            break;
    }
    if (fd >= 0)
        close(fd);
    text[n] = '\0';
    return n > 0;
}

bool kernel_file_line(const char *path, char *text, size_t size)
{
    bool found = kernel_file_read(path, text, size);

    text[strcspn(text, "\n")] = '\0';
    return found;
}

uint64_t kernel_file_number(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}
