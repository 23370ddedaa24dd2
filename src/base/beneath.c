/* See beneath.h. The folder is opened first, so that the look and the opening are one step. */
#include "base/beneath.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

/* What is left of `path` below `root`; p == NULL when it is not below it. */
static struct str below(struct str path, struct str root)
{
    while (root.n && root.p[root.n - 1] == '/')
        root.n--;
    struct str rest = str_skip(path, root.n);
    if (!str_has_prefix(path, root) || rest.n < 2 || rest.p[0] != '/')
        return STR_NONE;
    while (rest.n && rest.p[0] == '/')
        rest = str_skip(rest, 1);
    return rest.n ? rest : STR_NONE;
}

static int open_in(const char *root, struct str rest)
{
    char name[PATH_MAX];
    struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
                            .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
    struct stat st;

    if (rest.n >= sizeof(name) || memchr(rest.p, '\0', rest.n))
        return -ENAMETOOLONG;
    memcpy(name, rest.p, rest.n);
    name[rest.n] = '\0';
    int folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return -errno;
    int fd = (int)syscall(SYS_openat2, folder, name, &how, sizeof(how));
    int rc = fd < 0 ? errno == EXDEV || errno == ELOOP ? -EACCES : -errno : fd;
    close(folder);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        rc = -EISDIR;
        fd_close(&fd);
    }
    return rc;
}

int beneath_open(const struct str *roots, size_t n, struct str path)
{
    char written[PATH_MAX], resolved[PATH_MAX];
    int rc = -EACCES;

    for (size_t i = 0; i < n && rc < 0; i++) {
        if (roots[i].n == 0 || roots[i].n >= sizeof(written))
            continue;
        memcpy(written, roots[i].p, roots[i].n);
        written[roots[i].n] = '\0';
        struct str rest = below(path, roots[i]);
        if (!rest.p && realpath(written, resolved))
            rest = below(path, str_from(resolved));
        if (rest.p)
            rc = open_in(written, rest);
    }
    return rc;
}

bool beneath_is_plain(struct str path)
{
    do {
        struct str segment = str_cut(&path, '/');
        if (segment.n == 0 || str_eq(segment, STR(".")) || str_eq(segment, STR("..")))
            return false;
    } while (path.p);
    return true;
}

struct str beneath_from_url(struct str folder, struct str rest, char *out, size_t size)
{
    size_t n = folder.n + 1;

    rest = str_cut(&rest, '?');
    if (n + rest.n >= size)
        return STR_NONE;
    memcpy(out, folder.p, folder.n);
    out[folder.n] = '/';
    for (size_t i = 0; i < rest.n; i++) {
        bool escaped = rest.p[i] == '%' && i + 2 < rest.n && hex_value(rest.p[i + 1]) >= 0 &&
                       hex_value(rest.p[i + 2]) >= 0;
        out[n++] = escaped ? (char)(hex_value(rest.p[i + 1]) << 4 | hex_value(rest.p[i + 2]))
                           : rest.p[i];
        i += escaped ? 2 : 0;
    }
    out[n] = '\0';
    return (struct str){ out, n };
}
