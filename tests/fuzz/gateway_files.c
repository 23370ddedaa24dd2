/*
 * files_resolve on any path against a real tree: never a file outside the root, never a hidden one,
 * never PHP source as a static file; a script exists and is called *.php.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/files_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char root[PATH_MAX];
static int root_fd;
static struct files *files;
static struct str index_names[] = { STR("index.php"), STR("index.html") };
static struct config_pool pool = { .front_controller = STR("index.php"),
                                   .limit_extensions = { (struct str[]){ { ".php", 4 } }, 1 },
                                   .index = { index_names, 2 } };

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *ftw)
{
    (void)s, (void)kind, (void)ftw;
    return remove(path);
}

static void clean(void)
{
    files_free(files);
    nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void put(const char *path, const char *content)
{
    int fd = openat(root_fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CHECKF(fd >= 0 && write(fd, content, strlen(content)) >= 0, "%s: %d", path, errno);
    close(fd);
}

static void make_tree(void)
{
    static const char *const folders[] = { "a", "a/b", ".git", ".well-known", "x.php", "a/.h" };
    static const char *const plain[] = { "a.txt",     "a/b/c.css",   "a/index.html",
                                         "x.php.jpg", "x.php/y.txt", ".well-known/t",
                                         "u.jpg" };
    static const char *const source[] = { "index.php", "a/b/index.php", "s.php",  "S.PHP",
                                          "s.phtml",   "s.phar",        "s.php5", "s.php.",
                                          "s.php ",    "s.php~",        "s.inc",  "x.php/z.php",
                                          "s.Php.bak", ".s.php" };
    static const char *const hidden[] = { ".env", ".git/config", "a/.h/x", ".well-known/.x",
                                          "a/.b" };
    strcpy(root, "/tmp/sapid-fuzz-XXXXXX");
    CHECK(mkdtemp(root) != NULL);
    root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(root_fd >= 0);
    for (size_t i = 0; i < ARRAY_LENGTH(folders); i++)
        CHECK(mkdirat(root_fd, folders[i], 0755) == 0);
    for (size_t i = 0; i < ARRAY_LENGTH(plain); i++)
        put(plain[i], "plain");
    for (size_t i = 0; i < ARRAY_LENGTH(source); i++)
        put(source[i], "<?php");
    for (size_t i = 0; i < ARRAY_LENGTH(hidden); i++)
        put(hidden[i], "hidden");
    CHECK(symlinkat("s.php", root_fd, "l.txt") == 0 && symlinkat("a", root_fd, "l") == 0);
    CHECK(files_new(&pool, root_fd, &files) == 0);
    atexit(clean);
}

static void check_static(const struct file *file)
{
    char link[64], real[PATH_MAX], content[8] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file->fd);
    ssize_t n = readlink(link, real, sizeof real - 1);
    CHECK(n > 0);
    real[n] = '\0';
    size_t root_bytes = strlen(root);
    CHECKF(strncmp(real, root, root_bytes) == 0 && real[root_bytes] == '/', "%s", real);
    CHECK(pread(file->fd, content, 5, 0) == 5);
    CHECKF(strcmp(content, "plain") == 0, "%s", real);
}

static void check_script(const struct files_match *m, struct str path)
{
    char name[FILES_PATH_MAX];
    struct stat s;
    CHECK(m->script_name.n < sizeof name && str_has_suffix(m->script_name, STR(".php")));
    memcpy(name, m->script_name.p, m->script_name.n);
    name[m->script_name.n] = '\0';
    CHECK(name[0] == '/' && strstr(name, "/.") == NULL);
    CHECK(fstatat(root_fd, name + 1, &s, 0) == 0 && S_ISREG(s.st_mode));
    CHECK(m->path_info.n == 0 || str_has_suffix(path, m->path_info));
    CHECK(m->path_info.n == 0 || m->path_info.p[0] == '/');
}

static void resolve(struct str path)
{
    static struct files_match m;
    files_resolve(files, path, &m);
    if (m.kind == FILES_STATIC) {
        check_static(m.file);
        file_release(m.file);
    }
    if (m.kind == FILES_SCRIPT || m.kind == FILES_FRONT)
        check_script(&m, path);
    CHECK(m.kind != FILES_FORBIDDEN && m.kind != FILES_UNAVAILABLE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = { (const char *)data, size };
    if (files == NULL)
        make_tree();
    resolve(in); /* as nobody should call it */
    char *path = malloc(size + 1);
    int n = http_normalize_path(in, path);
    if (n >= 0)
        resolve((struct str){ path, (size_t)n });
    free(path);
    return 0;
}
