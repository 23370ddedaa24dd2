/*
 * [worker] watch: a changed file of the application starts a new generation of the pool that runs
 * the worker script. The old one serves until the new one does, as with any reload.
 *
 * Watched are the files that make up an application (PHP, templates, configuration), below the
 * nearest folder around the script that has a composer.json, else below the document root. Folders
 * that an application writes to itself are left out, or each request would be a change; of vendor/
 * only what Composer writes when it has finished.
 *
 * Events are gathered until there was none for SETTLE_MS, but no longer than SETTLE_MAX_MS: an
 * editor writes a file in several steps, and git many files.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum {
    SETTLE_MS = 100,
    SETTLE_MAX_MS = 1000,
    FOLDERS_MAX = 16384, /* below the kernel's usual fs.inotify.max_user_watches */
    DEPTH_MAX = 32,
    WATCHED = IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR |
              IN_DONT_FOLLOW,
};

/* One for each pool whose worker script is watched. */
struct watcher {
    struct watcher *next;
    struct supervisor *sup;
    uint32_t pool; /* index */
    struct loop_watch watch;
    struct loop_timer settle;
    uint64_t first_ns; /* of the changes not yet acted on; 0: none */
    char changed[256]; /* the first of them, for the log */
    char **folders;    /* by watch descriptor, which the kernel counts up from 1 */
    uint32_t n_folders;
    bool full;
};

static bool is_in(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(name, *list) == 0)
            return true;
    return false;
}

static bool is_left_out(const char *folder, const char *name)
{
    static const char *const written[] = { "var",     "cache",        "storage", "tmp",
                                           "temp",    "log",          "logs",    "sessions",
                                           "uploads", "node_modules", NULL };
    const char *base = strrchr(folder, '/');

    if (name[0] == '.')
        return true; /* .git, .idea, and "." and ".." */
    if (base && strcmp(base, "/vendor") == 0)
        return strcmp(name, "composer") != 0;
    return is_in(name, written);
}

/* Editors' own files (.swp, ~, .tmp) have none of these ends. */
static bool is_source(const char *name)
{
    static const char *const ends[] = { "php", "phtml", "inc",  "twig", "latte", "tpl", "yaml",
                                        "yml", "ini",   "json", "xml",  "neon",  NULL };
    const char *dot = strrchr(name, '.');

    return strncmp(name, ".env", 4) == 0 || (dot && dot != name && is_in(dot + 1, ends));
}

/* Whether there are source files in it already: written before anybody watched. */
static bool add_folder(struct watcher *w, const char *path, int depth)
{
    bool has_source = false;
    int wd = inotify_add_watch(w->watch.fd, path, WATCHED);

    if (wd < 0) {
        if (errno == ENOSPC && !w->full)
            log_warn(
                "watch: the kernel allows no more watches (fs.inotify.max_user_watches): changes "
                "in %s and elsewhere are not seen",
                path);
        w->full |= errno == ENOSPC;
        return false;
    }
    if ((uint32_t)wd >= FOLDERS_MAX) {
        if (!w->full)
            log_warn("watch: more than %d folders: changes in %s and elsewhere are not seen",
                     FOLDERS_MAX, path);
        w->full = true;
        return false;
    }
    if ((uint32_t)wd >= w->n_folders) {
        uint32_t n = (uint32_t)wd + 64;
        w->folders = mem_realloc(w->folders, n * sizeof(*w->folders));
        memset(w->folders + w->n_folders, 0, (n - w->n_folders) * sizeof(*w->folders));
        w->n_folders = n;
    }
    mem_free(w->folders[wd]);
    w->folders[wd] = mem_strdup(path);
    DIR *dir = depth < DEPTH_MAX && !w->full ? opendir(path) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_type != DT_DIR) {
            has_source |= is_source(e->d_name);
        } else if (!is_left_out(path, e->d_name)) {
            char *below = mem_printf("%s/%s", path, e->d_name);
            has_source |= add_folder(w, below, depth + 1);
            mem_free(below);
        }
    }
    if (dir)
        closedir(dir);
    return has_source;
}

/* --- changes ---------------------------------------------------------------------------------- */

static void renew_loop(struct loop_timer *t)
{
    struct watcher *w = CONTAINER_OF(t, struct watcher, settle);
    struct supervisor *s = w->sup;

    w->first_ns = 0;
    if (s->phase != SUPERVISOR_SERVING)
        return;
    log_notice("%s has changed: the worker script starts afresh", w->changed);
    snprintf(s->pools[w->pool]->why, sizeof(s->pools[w->pool]->why), "a file has changed");
    pool_renew(s->pools[w->pool]);
}

static void note_change(struct watcher *w, const char *folder, const char *name)
{
    uint64_t now = clock_monotonic_ns(), until = now + SETTLE_MS * NS_PER_MS;

    if (w->first_ns == 0) {
        w->first_ns = now;
        snprintf(w->changed, sizeof(w->changed), "%s/%s", folder, name);
    }
    if (until > w->first_ns + SETTLE_MAX_MS * NS_PER_MS)
        until = w->first_ns + SETTLE_MAX_MS * NS_PER_MS;
    loop_timer_set(w->sup->loop, &w->settle, until, renew_loop);
}

static void on_event(struct watcher *w, const struct inotify_event *e)
{
    if (e->mask & IN_Q_OVERFLOW) {
        note_change(w, "...", "(more files than could be counted)");
        return;
    }
    if (e->wd < 0 || (uint32_t)e->wd >= w->n_folders || !w->folders[e->wd])
        return;
    const char *folder = w->folders[e->wd];
    if (e->mask & IN_IGNORED) { /* the folder is gone */
        mem_free(w->folders[e->wd]);
        w->folders[e->wd] = NULL;
        return;
    }
    if (e->len == 0)
        return;
    if (e->mask & IN_ISDIR) {
        if (is_left_out(folder, e->name))
            return;
        bool matters = !(e->mask & IN_CREATE); /* an empty folder does not */
        if (e->mask & (IN_CREATE | IN_MOVED_TO)) {
            char *path = mem_printf("%s/%s", folder, e->name);
            matters |= add_folder(w, path, 0);
            mem_free(path);
        }
        if (matters)
            note_change(w, w->folders[e->wd], e->name);
        return;
    }
    /* a file is created empty; its IN_CLOSE_WRITE follows, but for a link */
    if (is_source(e->name))
        note_change(w, folder, e->name);
}

static void on_ready(struct loop_watch *watch, unsigned events)
{
    struct watcher *w = CONTAINER_OF(watch, struct watcher, watch);
    _Alignas(struct inotify_event) char buffer[16384];
    ssize_t n;

    (void)events;
    while ((n = read(w->watch.fd, buffer, sizeof(buffer))) > 0)
        for (ssize_t at = 0; at < n;) {
            const struct inotify_event *e = (const struct inotify_event *)(buffer + at);
            on_event(w, e);
            at += (ssize_t)(sizeof(*e) + e->len);
        }
}

/* --- start and end ---------------------------------------------------------------------------- */

/* The project around the script. */
static char *find_project(const struct config_pool *pool, const char *document_root)
{
    char *script = mem_strndup(pool->worker_script), *folder = realpath(script, NULL);

    mem_free(script);
    for (char *slash; folder && (slash = strrchr(folder, '/')) && slash != folder;) {
        *slash = '\0';
        char *marker = mem_printf("%s/composer.json", folder);
        bool found = access(marker, F_OK) == 0;
        mem_free(marker);
        if (found) {
            char *project = mem_strdup(folder);
            free(folder);
            return project;
        }
    }
    free(folder);
    return mem_strdup(document_root);
}

static void watch_pool(struct supervisor *s, uint32_t pool)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);

    if (fd < 0) {
        log_warn("watch: inotify: %s; changes of files are not seen", strerror(errno));
        return;
    }
    struct watcher *w = mem_zalloc(sizeof(*w));
    w->sup = s;
    w->pool = pool;
    int r = loop_watch_add(s->loop, &w->watch, fd, LOOP_READ, on_ready);
    if (r < 0) {
        log_warn("watch: %s; changes of files are not seen", strerror(-r));
        close(fd);
        mem_free(w);
        return;
    }
    char *project = find_project(&s->plan->config->pools[pool], s->plan->pools[pool].document_root);
    (void)add_folder(w, project, 0);
    log_notice("watching %s: a change starts the worker script afresh", project);
    mem_free(project);
    w->next = s->watcher;
    s->watcher = w;
}

void watcher_start(struct supervisor *s)
{
    const struct config *c = s->plan->config;

    for (uint32_t i = 0; i < c->n_pools; i++)
        if (c->pools[i].kind == CONFIG_POOL_LOOP && c->pools[i].worker_watch)
            watch_pool(s, i);
}

void watcher_stop(struct supervisor *s)
{
    struct watcher *w;

    while ((w = s->watcher)) {
        s->watcher = w->next;
        loop_timer_cancel(s->loop, &w->settle);
        loop_watch_close(s->loop, &w->watch);
        for (uint32_t i = 0; i < w->n_folders; i++)
            mem_free(w->folders[i]);
        mem_free(w->folders);
        mem_free(w);
    }
}
