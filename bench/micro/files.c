/*
 * Micro benchmark of path resolution and static plans: nanoseconds per request, best of several
 * rounds, on a tree of its own in /tmp. Build and run: see bench/micro/meson.build.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "gateway/files.h"

enum { CALLS = 50000, ROUNDS = 7 };

static struct files *files;
static struct files_match match;
static struct http_request request = { .method = HTTP_GET };

static void put(int root, const char *path)
{
    int fd = openat(root, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECKF(fd >= 0 && write(fd, "bytes", 5) == 5, "%s: %d", path, errno);
    close(fd);
}

static void resolve(struct str path)
{
    files_resolve(files, path, &match);
    if (match.file)
        file_release(match.file);
}

static void resolve_and_plan(struct str path)
{
    static struct static_plan plan;
    files_resolve(files, path, &match);
    CHECK(match.kind == FILES_STATIC);
    CHECK(static_plan_init(&plan, files, match.file, &request) == 0 && plan.status == 200);
    static_plan_fini(&plan);
}

static void measure(const char *name, void (*call)(struct str), struct str path)
{
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = clock_monotonic_ns();
        for (int i = 0; i < CALLS; i++)
            call(path);
        double ns = (double)(clock_monotonic_ns() - start) / CALLS;
        best = ns < best ? ns : best;
    }
    printf("%-44s %8.1f ns\n", name, best);
}

int main(void)
{
    static struct str index_names[] = { STR("index.php"), STR("index.html") };
    struct str script = STR(".php");
    struct config_pool pool = { .front_controller = STR("index.php"),
                                .limit_extensions = { &script, 1 },
                                .index = { index_names, 2 } };
    char root[] = "/tmp/sapid-bench-XXXXXX";
    static const char *const paths[] = { "index.php", "a/b/c.css" };
    CHECK(mkdtemp(root) != NULL);
    int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0 && mkdirat(fd, "a", 0755) == 0 && mkdirat(fd, "a/b", 0755) == 0);
    for (size_t i = 0; i < ARRAY_LENGTH(paths); i++)
        put(fd, paths[i]);
    CHECK(files_new(&pool, fd, &files) == 0);
    measure("script /index.php", resolve, STR("/index.php"));
    measure("script with path info", resolve, STR("/index.php/2024/05/hello-world"));
    measure("folder / (index.php)", resolve, STR("/"));
    measure("front controller /2024/05/hello-world", resolve, STR("/2024/05/hello-world"));
    measure("front controller /2024/05/hello-world/", resolve, STR("/2024/05/hello-world/"));
    measure("static file", resolve, STR("/a/b/c.css"));
    measure("static file with its plan", resolve_and_plan, STR("/a/b/c.css"));
    files_free(files);
    for (size_t i = 0; i < ARRAY_LENGTH(paths); i++)
        unlinkat(fd, paths[i], 0);
    unlinkat(fd, "a/b", AT_REMOVEDIR);
    unlinkat(fd, "a", AT_REMOVEDIR);
    close(fd);
    rmdir(root);
    return 0;
}
