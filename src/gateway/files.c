/*
 * Which file a path means. Three things are kept out here once and for all: what lies outside the
 * root, what is hidden, and the source of PHP scripts.
 *
 * Outside: the path is normalised (no "..", no ".", no empty segment, no NUL), so its text cannot
 * leave the root. Symbolic links can: files are opened with RESOLVE_BENEATH first, and when the
 * kernel says that a link leaves the root (EXDEV), again without it. That is deliberate: real
 * document roots have such links (Debian's wordpress package has its configuration and uploads
 * behind them, release tools link shared folders), nginx and Apache follow them by default, and
 * whoever may create a link in the root may as well put a PHP script there. /proc's magic links are
 * never followed.
 *
 * Freshness: nothing about a static file is ever believed without a statx of this very request.
 * That a script is there is believed for a second: opcache itself looks only every other second,
 * and it leaves the hot path without a system call.
 *
 * A struct files belongs to one thread; nothing here is locked.
 */
#include "gateway/files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "gateway/files_int.h"

enum {
    FILES_MAGIC = 0x66696c73,
    OPEN_FILES_MAX = 512,
    BUCKETS = 1024,
    SCRIPTS = 256,
};
#define BELIEVED_NS NS_PER_S
#define IDLE_NS (60 * NS_PER_S)

/* A script that was there a moment ago. */
struct script {
    char *path;
    uint32_t path_bytes;
    uint64_t checked_ns;
};

struct files {
    uint32_t magic;
    int root_fd;
    uint64_t now_ns; /* when the request at hand was resolved */
    const struct config_pool *pool;
    struct file *buckets[BUCKETS];
    struct list recent; /* most recently used first */
    uint32_t n_open;
    struct script scripts[SCRIPTS]; /* direct-mapped by hash: one remembered path each */
    uint64_t random[2];
    uint64_t boundaries;
};

int files_new(const struct config_pool *pool, int root_fd, struct files **ret)
{
    struct files *f = mem_try_zalloc(sizeof *f);
    if (f == NULL)
        return -ENOMEM;
    f->magic = FILES_MAGIC;
    f->root_fd = root_fd;
    f->pool = pool;
    list_init(&f->recent);
    if (getrandom(f->random, sizeof f->random, GRND_NONBLOCK) != (ssize_t)sizeof f->random)
        f->random[0] = clock_realtime_ns() ^ (uint64_t)getpid() << 32; /* early in the boot */
    *ret = f;
    return 0;
}

/* --- open files --------------------------------------------------------------------------- */

void file_release(struct file *file)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    CHECK(file->refs > 0);
    if (--file->refs > 0)
        return;
    CHECK(file->cache == NULL);
    fd_close(&file->fd);
    file->magic = 0;
    mem_free(file);
}

static void forget(struct file *file)
{
    struct files *f = file->cache;
    struct file **at = &f->buckets[file->hash % BUCKETS];
    while (*at != file)
        at = &(*at)->next;
    *at = file->next;
    list_remove(&file->recent);
    file->cache = NULL;
    f->n_open--;
    file_release(file);
}

static struct file *least_recent(struct files *f)
{
    return list_empty(&f->recent) ? NULL : LIST_ENTRY(f->recent.prev, struct file, recent);
}

void files_free(struct files *f)
{
    if (f == NULL)
        return;
    CHECK_MAGIC(f, FILES_MAGIC);
    for (struct file *file; (file = least_recent(f)) != NULL;)
        forget(file);
    CHECK(f->n_open == 0);
    for (size_t i = 0; i < SCRIPTS; i++)
        mem_free(f->scripts[i].path);
    f->magic = 0;
    mem_free(f);
}

static struct file *find(struct files *f, struct str path, uint32_t hash)
{
    for (struct file *file = f->buckets[hash % BUCKETS]; file; file = file->next)
        if (file->hash == hash && str_eq((struct str){ file->path, file->path_bytes }, path))
            return file;
    return NULL;
}

static int look(const struct files *f, const char *path, struct statx *ret)
{
    /* An empty relative path is the root itself. */
    const char *relative = path[1] ? path + 1 : ".";
    DCHECK(path[0] == '/');
    if (statx(f->root_fd, relative, AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS, ret) < 0)
        return -errno;
    return 0;
}

static bool unchanged(const struct file *file, const struct statx *s)
{
    return file->ino == s->stx_ino && file->size == s->stx_size &&
           file->mtime_s == s->stx_mtime.tv_sec && file->mtime_ns == s->stx_mtime.tv_nsec &&
           file->ctime_s == s->stx_ctime.tv_sec && file->ctime_ns == s->stx_ctime.tv_nsec &&
           file->dev == ((uint64_t)s->stx_dev_major << 32 | s->stx_dev_minor);
}

/* Descriptor or -errno. */
static int open_beneath(const struct files *f, const char *path)
{
    const char *relative = path[1] ? path + 1 : ".";
    struct open_how how = {
        /* A FIFO must not block the gateway, a terminal must not become its own. */
        .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, f->root_fd, relative, &how, sizeof how);
    if (fd < 0 && errno == EXDEV) {
        how.resolve =
            RESOLVE_NO_MAGICLINKS; /* a link that leaves the root: see the head of the file */
        fd = syscall(SYS_openat2, f->root_fd, relative, &how, sizeof how);
    }
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* seccomp filters older than the call */
        fd = openat(f->root_fd, relative, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd < 0 ? -errno : (int)fd;
}

/* --- names that are never shown ----------------------------------------------------------- */

static bool in_list(struct str s, const char *const *list)
{
    for (; *list; list++)
        if (str_eq_nocase(s, str_from(*list)))
            return true;
    return false;
}

static ptrdiff_t last_dot(struct str name)
{
    ptrdiff_t at = (ptrdiff_t)name.n - 1;
    while (at >= 0 && name.p[at] != '.')
        at--;
    return at;
}

/* Would a web server set up for PHP run this name, or an editor leave PHP source under it? "a.PHP",
 * "a.phtml", "a.php5", "a.php. ", "a.php~", "a.php.bak"; not "a.php.jpg". Case and trailing dots do
 * not count because there are file systems for which they do not. */
static bool is_php_source(struct str name)
{
    static const char *const extensions[] = { "php", "phtml", "pht", "phar", "phps", "inc", NULL };
    static const char *const wrappers[] = { "bak", "old", "orig", "save", "swp", "swo", "tmp",
                                            "rej", "gz",  "br",   "zst",  "bz2", "xz",  NULL };
    for (;;) {
        while (name.n > 0 && ((unsigned char)name.p[name.n - 1] <= ' ' ||
                              strchr(".~#", name.p[name.n - 1]) != NULL))
            name.n--;
        ptrdiff_t dot = last_dot(name);
        if (dot < 0)
            return false;
        struct str extension = str_skip(name, (size_t)dot + 1);
        if (in_list(extension, extensions))
            return true;
        if (extension.n > 3 && str_eq_nocase(str_take(extension, 3), STR("php"))) {
            struct str version = str_skip(extension, 3);
            uint64_t number;
            return str_to_u64(version, UINT64_MAX, &number);
        }
        if (!in_list(extension, wrappers))
            return false;
        name.n = (size_t)dot;
    }
}

static struct str base_name(struct str path)
{
    size_t at = path.n;
    while (at > 0 && path.p[at - 1] != '/')
        at--;
    return str_skip(path, at);
}

/* The name behind all symbolic links: a link "readme.txt" to a script would show its source. */
static bool really_is_php_source(int fd)
{
    char link[32], target[FILES_PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, target, sizeof target);
    return n > 0 && is_php_source(base_name((struct str){ target, (size_t)n }));
}

/* --- the open-file cache ------------------------------------------------------------------ */

static void remember(struct files *f, struct file *file)
{
    while (f->n_open >= OPEN_FILES_MAX)
        forget(least_recent(f));
    file->cache = f;
    file->next = f->buckets[file->hash % BUCKETS];
    f->buckets[file->hash % BUCKETS] = file;
    list_push_front(&f->recent, &file->recent);
    f->n_open++;
}

/* Takes over `fd`. */
static int make_file(struct files *f, struct str path, uint32_t hash, int fd, struct file **ret)
{
    struct statx s;
    int rc = 0;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &s) < 0)
        rc = -errno;
    else if (S_ISDIR(s.stx_mode))
        rc = -EISDIR;
    else if (!S_ISREG(s.stx_mode) || really_is_php_source(fd))
        rc = -ENOENT;
    if (rc < 0) {
        close(fd);
        return rc;
    }
    struct file *file = mem_try_zalloc(sizeof *file + path.n + 1);
    if (file == NULL) {
        close(fd);
        return -ENOMEM;
    }
    file->magic = FILE_MAGIC;
    file->refs = 2; /* the cache's and the caller's */
    file->fd = fd;
    file->size = s.stx_size;
    file->ino = s.stx_ino;
    file->dev = (uint64_t)s.stx_dev_major << 32 | s.stx_dev_minor;
    file->mtime_s = s.stx_mtime.tv_sec;
    file->mtime_ns = s.stx_mtime.tv_nsec;
    file->ctime_s = s.stx_ctime.tv_sec;
    file->ctime_ns = s.stx_ctime.tv_nsec;
    file->used_ns = f->now_ns;
    file->hash = hash;
    file->path_bytes = (uint32_t)path.n;
    memcpy(file->path, path.p, path.n);
    file->type = mime_type(path);
    http_format_date(file->mtime_s, file->last_modified);
    list_init(&file->recent);
    remember(f, file);
    *ret = file;
    return 0;
}

int file_adopt(int fd, struct str type, struct file **ret)
{
    struct stat st;
    struct file *file = mem_try_zalloc(sizeof *file + 1);

    if (file == NULL)
        return -ENOMEM;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        mem_free(file);
        return -EINVAL;
    }
    file->magic = FILE_MAGIC;
    file->refs = 1;
    file->fd = fd;
    file->size = (uint64_t)st.st_size;
    file->mtime_s = st.st_mtim.tv_sec;
    file->mtime_ns = (uint32_t)st.st_mtim.tv_nsec;
    file->type = type;
    http_format_date(file->mtime_s, file->last_modified);
    list_init(&file->recent);
    *ret = file;
    return 0;
}

/* Why a file could not be opened, as the few answers there are. */
static int open_error(const struct files *f, const char *path, int error)
{
    struct statx s;
    switch (error) {
    case -EACCES: /* a folder may be searched, but not read: it still has an address */
        return look(f, path, &s) == 0 && S_ISDIR(s.stx_mode) ? -EISDIR : -EACCES;
    case -EPERM: return -EACCES;
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM: return error;
    default: return -ENOENT;
    }
}

int files_open(struct files *f, struct str path, struct file **ret)
{
    char z[FILES_PATH_MAX];
    struct statx s;
    CHECK(path.n > 1 && path.p[0] == '/' && path.p[1] != '/');
    if (path.n >= sizeof z || is_php_source(base_name(path)))
        return -ENOENT;
    memcpy(z, path.p, path.n);
    z[path.n] = '\0';
    uint32_t hash = str_hash(path);
    struct file *file = find(f, path, hash);
    if (file != NULL) {
        if (look(f, z, &s) == 0 && unchanged(file, &s)) {
            list_remove(&file->recent);
            list_push_front(&f->recent, &file->recent);
            file->used_ns = f->now_ns;
            file->refs++;
            *ret = file;
            return 0;
        }
        forget(file);
    }
    int fd = open_beneath(f, z);
    if ((fd == -EMFILE || fd == -ENFILE) && f->n_open > 0) {
        while (f->n_open > 0) /* descriptors for work before descriptors for speed */
            forget(least_recent(f));
        fd = open_beneath(f, z);
    }
    return fd < 0 ? open_error(f, z, fd) : make_file(f, path, hash, fd, ret);
}

/* --- neighbours --------------------------------------------------------------------------- */

static bool neighbour_path(const struct file *file, enum coding coding, char out[FILES_PATH_MAX],
                           struct str *ret)
{
    static const char suffixes[CODINGS][5] = { ".br", ".zst", ".gz" };
    size_t n = strlen(suffixes[coding]);
    if (file->path_bytes + n >= FILES_PATH_MAX)
        return false;
    memcpy(out, file->path, file->path_bytes);
    memcpy(out + file->path_bytes, suffixes[coding], n + 1);
    *ret = (struct str){ out, file->path_bytes + n };
    return true;
}

uint8_t files_neighbours(struct files *f, struct file *file)
{
    char path[FILES_PATH_MAX];
    struct str name;
    struct statx s;
    CHECK_MAGIC(file, FILE_MAGIC);
    if (file->path_bytes == 0) /* adopted: nobody knows what stands beside it */
        return 0;
    if (file->neighbours_at_ns != 0 && f->now_ns - file->neighbours_at_ns < BELIEVED_NS)
        return file->neighbours;
    file->neighbours_at_ns = f->now_ns;
    file->neighbours = 0;
    for (int c = 0; c < CODINGS; c++)
        if (neighbour_path(file, (enum coding)c, path, &name) && look(f, path, &s) == 0 &&
            S_ISREG(s.stx_mode))
            file->neighbours |= (uint8_t)(1u << c);
    return file->neighbours;
}

struct file *files_open_neighbour(struct files *f, struct file *file, enum coding coding)
{
    char path[FILES_PATH_MAX];
    struct str name;
    struct file *neighbour;
    CHECK(coding < CODINGS);
    if (!neighbour_path(file, coding, path, &name) || files_open(f, name, &neighbour) < 0)
        return NULL;
    /* One that was left behind by an earlier version of the file is worse than none. */
    if (neighbour->mtime_s < file->mtime_s) {
        file_release(neighbour);
        return NULL;
    }
    return neighbour;
}

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

void files_boundary(struct files *f, char out[33])
{
    f->boundaries++;
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)mix(f->random[0] + f->boundaries),
             (unsigned long long)mix(f->random[1] ^ f->boundaries));
}

/* --- scripts ------------------------------------------------------------------------------ */

/* The place where this path is or would be remembered. */
static struct script *script_slot(struct files *f, struct str path)
{
    return &f->scripts[str_hash(path) % SCRIPTS];
}

static bool believed(const struct files *f, const struct script *s, struct str path)
{
    return s->path != NULL && f->now_ns - s->checked_ns < BELIEVED_NS &&
           str_eq((struct str){ s->path, s->path_bytes }, path);
}

/* 0: a regular file is there; -ENOENT, -EACCES. */
static int find_script(struct files *f, struct str path)
{
    struct script *slot = script_slot(f, path);
    char z[FILES_PATH_MAX];
    struct statx s;
    if (believed(f, slot, path))
        return 0;
    if (path.n >= sizeof z)
        return -ENOENT;
    memcpy(z, path.p, path.n);
    z[path.n] = '\0';
    int rc = look(f, z, &s);
    if (rc < 0)
        return rc == -EACCES ? rc : -ENOENT;
    if (!S_ISREG(s.stx_mode))
        return -ENOENT;
    char *copy = mem_try_realloc(slot->path, path.n + 1);
    if (copy != NULL) { /* else: not remembered, which costs a statx next time */
        memcpy(copy, z, path.n + 1);
        *slot = (struct script){ copy, (uint32_t)path.n, f->now_ns };
    }
    return 0;
}

static bool is_script_name(const struct files *f, struct str name)
{
    const struct config_strings *ends = &f->pool->limit_extensions;

    for (uint32_t i = 0; i < ends->n; i++)
        if (name.n > ends->v[i].n && str_has_suffix(name, ends->v[i]))
            return true;
    return false;
}

/* Dot files and dot folders; RFC 8615 has one exception, in the root. */
static bool is_hidden(struct str name, bool first)
{
    return name.n > 0 && name.p[0] == '.' && !(first && str_eq(name, STR(".well-known")));
}

/* Walks the segments. True when the matter is decided: something hidden on the way, or a script, of
 * which the rest is the path info. */
static bool walk_segments(struct files *f, struct str path, struct files_match *ret)
{
    for (size_t start = 1; start < path.n;) {
        struct str rest = str_skip(path, start);
        ptrdiff_t slash = str_find(rest, '/');
        struct str name = slash < 0 ? rest : str_take(rest, (size_t)slash);
        if (name.n == 0 ||
            is_hidden(name, start == 1)) /* "//" is not normalised: never from http/ */
            return true;
        size_t end = start + name.n;
        if (is_script_name(f, name)) {
            int rc = find_script(f, str_take(path, end));
            if (rc == -EACCES)
                ret->kind = FILES_FORBIDDEN;
            if (rc == 0) {
                ret->kind = FILES_SCRIPT;
                ret->script_name = str_take(path, end);
                ret->path_info = str_skip(path, end);
            }
            if (rc != -ENOENT)
                return true;
        }
        start = end + 1;
    }
    return false;
}

/* --- resolve ------------------------------------------------------------------------------ */

/* `folder` + `name` in the match's buffer; false when too long. */
static bool join(struct files_match *ret, struct str folder, struct str name, struct str *ret_path)
{
    if (folder.n + name.n >= sizeof ret->buffer)
        return false;
    memcpy(ret->buffer, folder.p, folder.n);
    memcpy(ret->buffer + folder.n, name.p, name.n);
    ret->buffer[folder.n + name.n] = '\0';
    *ret_path = (struct str){ ret->buffer, folder.n + name.n };
    return true;
}

static void take_script(struct files_match *ret, enum files_kind kind, struct str script)
{
    ret->kind = kind;
    ret->script_name = script;
    ret->path_info = STR("");
}

/* "/missing.php/info": path info of a script that is not there is no page of the front controller
 * either. */
static bool is_below_script_name(const struct files *f, struct str path)
{
    while (path.n > 0)
        if (is_script_name(f, str_cut(&path, '/')) && path.p != NULL)
            return true;
    return false;
}

static void take_front_controller(struct files *f, struct str asked, struct files_match *ret)
{
    struct str front = f->pool->front_controller, script;
    while (front.n > 0 && front.p[0] == '/')
        front = str_skip(front, 1);
    if (front.n > 0 && is_script_name(f, front) && !is_below_script_name(f, asked) &&
        join(ret, STR("/"), front, &script) && find_script(f, script) == 0)
        take_script(ret, FILES_FRONT, script);
}

/* What is neither missing nor there: the answer to an error of files_open. */
static enum files_kind kind_of_error(int rc)
{
    switch (rc) {
    case -EISDIR: return FILES_REDIRECT;
    case -EACCES: return FILES_FORBIDDEN;
    case -ENOENT: return FILES_NOT_FOUND;
    default: return FILES_UNAVAILABLE;
    }
}

static void resolve_file(struct files *f, struct str path, struct files_match *ret)
{
    if (is_php_source(base_name(path)))
        return; /* a missing script, or source that is not run: 404, and no front controller */
    int rc = files_open(f, path, &ret->file);
    ret->kind = rc == 0 ? FILES_STATIC : kind_of_error(rc);
    if (rc == -ENOENT)
        take_front_controller(f, path, ret);
}

/* True when the index file `name` answers for the folder. */
static bool try_index(struct files *f, struct str folder, struct str name, struct files_match *ret)
{
    struct str path;
    if (name.n == 0 || !join(ret, folder, name, &path))
        return false;
    if (is_script_name(f, name)) {
        if (find_script(f, path) < 0)
            return false;
        take_script(ret, FILES_SCRIPT, path);
        return true;
    }
    int rc = files_open(f, path, &ret->file);
    if (rc == -ENOENT || rc == -EISDIR)
        return false;
    ret->kind = rc == 0 ? FILES_STATIC : kind_of_error(rc);
    return true;
}

static void resolve_folder(struct files *f, struct str path, struct files_match *ret)
{
    const struct config_strings *index = &f->pool->index;
    struct str first;
    struct statx s;
    /* The usual case, index.php first and known, needs no system call. */
    if (index->n > 0 && is_script_name(f, index->v[0]) && join(ret, path, index->v[0], &first) &&
        believed(f, script_slot(f, first), first)) {
        take_script(ret, FILES_SCRIPT, first);
        return;
    }
    /* One look at the folder spares one for each index file: most such paths are of the front
     * controller. */
    memcpy(ret->buffer, path.p, path.n);
    ret->buffer[path.n] = '\0';
    int rc = look(f, ret->buffer, &s);
    if (rc == -EACCES) {
        ret->kind = FILES_FORBIDDEN;
        return;
    }
    for (uint32_t i = 0; rc == 0 && i < index->n; i++)
        if (try_index(f, path, index->v[i], ret))
            return;
    take_front_controller(f, path, ret);
}

/* Files nobody asked for in a minute need no descriptor: two a call keep pace with what comes in.
 */
static void close_idle(struct files *f)
{
    for (int i = 0; i < 2 && f->n_open > 0; i++) {
        struct file *file = least_recent(f);
        if (f->now_ns - file->used_ns < IDLE_NS)
            return;
        forget(file);
    }
}

void files_resolve(struct files *f, struct str path, struct files_match *ret)
{
    CHECK_MAGIC(f, FILES_MAGIC);
    f->now_ns = clock_monotonic_ns();
    ret->kind = FILES_NOT_FOUND;
    ret->file = NULL;
    ret->script_name = ret->path_info = STR_NONE;
    close_idle(f);
    if (path.n == 0 || path.p[0] != '/' || path.n >= FILES_PATH_MAX ||
        memchr(path.p, '\0', path.n) != NULL)
        return;
    if (walk_segments(f, path, ret))
        return;
    if (path.p[path.n - 1] == '/')
        resolve_folder(f, path, ret);
    else
        resolve_file(f, path, ret);
}
