/* See fixture.h. */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

char fixture_root[64];
int fixture_fd = -1;
static struct str index_names[] = { STR("index.php"), STR("index.html") };
struct config_pool fixture_pool = {
    .name = STR("www"),
    .front_controller = STR("index.php"),
    .limit_extensions = { (struct str[]){ { ".php", 4 } }, 1 },
    .index = { index_names, ARRAY_LENGTH(index_names) },
};
static pid_t owner;

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *ftw)
{
    (void)s, (void)kind, (void)ftw;
    return remove(path);
}

static void remove_root(void)
{
    if (getpid() == owner)
        nftw(fixture_root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void fixture_make(void)
{
    strcpy(fixture_root, "/tmp/sapid-test-XXXXXX");
    CHECK(mkdtemp(fixture_root) != NULL);
    CHECK(chmod(fixture_root, 0755) == 0);
    owner = getpid();
    atexit(remove_root);
    fixture_fd = open(fixture_root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(fixture_fd >= 0);
}

static void make_folders(const char *path)
{
    char part[512];
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        CHECK(mkdirat(fixture_fd, part, 0755) == 0 || errno == EEXIST);
    }
}

void fixture_write(const char *path, struct str content)
{
    make_folders(path);
    int fd = openat(fixture_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECKF(fd >= 0, "%s: %d", path, errno);
    CHECK(content.n == 0 || write(fd, content.p, content.n) == (ssize_t)content.n);
    close(fd);
}

void fixture_link(const char *target, const char *path)
{
    make_folders(path);
    CHECK(symlinkat(target, fixture_fd, path) == 0);
}

void fixture_touch(const char *path, int64_t mtime_s)
{
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = mtime_s } };
    CHECK(utimensat(fixture_fd, path, times, 0) == 0);
}

struct files *fixture_files(void)
{
    struct files *f;
    CHECK(files_new(&fixture_pool, fixture_fd, &f) == 0);
    return f;
}
