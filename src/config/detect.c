/*
 * `sapid serve` without --root: which folder is the document root? First the applications that are
 * known by files nobody else has, then the folders that frameworks use, then a plain index file. A
 * folder that is made for it (public/) goes before an index.php beside the sources, since it
 * exposes less.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "config/config_int.h"

enum { PATH_BYTES = 4096, FILES_MAX = 3 };

/* All `files` exist below the folder: it is `what`, and `root` below it is the document root. */
static const struct rule {
    const char *what;
    const char *files[FILES_MAX + 1];
    const char *root; /* "" = the folder itself */
} rules[] = {
    { "a WordPress site", { "wp-includes/version.php", "index.php" }, "" },
    { "a WordPress site laid out by Bedrock", { "web/wp-config.php", "web/index.php" }, "web" },
    { "a Drupal site", { "web/core/lib/Drupal.php", "web/index.php" }, "web" },
    { "a Drupal site", { "core/lib/Drupal.php", "index.php" }, "" },
    { "a Laravel application", { "artisan", "public/index.php" }, "public" },
    { "a Symfony application", { "bin/console", "public/index.php" }, "public" },
    { "a DokuWiki", { "doku.php", "index.php" }, "" },
    { "a MediaWiki", { "load.php", "api.php", "index.php" }, "" },
    { "phpMyAdmin", { "libraries/classes/Config.php", "index.php" }, "" },
    { "phpMyAdmin", { "src/Config.php", "public/index.php" }, "public" },
    { "an application with a folder for its front controller", { "public/index.php" }, "public" },
    { "an application with a folder for its front controller", { "web/index.php" }, "web" },
    { "an application with a folder for its front controller", { "htdocs/index.php" }, "htdocs" },
    { "an application with a folder for its front controller",
      { "public_html/index.php" },
      "public_html" },
    { "a PHP application", { "index.php" }, "" },
    { "a static site", { "public/index.html" }, "public" },
    { "a static site", { "web/index.html" }, "web" },
    { "a static site", { "htdocs/index.html" }, "htdocs" },
    { "a static site", { "public_html/index.html" }, "public_html" },
    { "a static site", { "index.html" }, "" },
};

static bool is_file(const char *dir, const char *name)
{
    char path[PATH_BYTES];
    struct stat st;
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);

    return n > 0 && (size_t)n < sizeof(path) && stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static bool rule_matches(const struct rule *rule, const char *dir)
{
    for (size_t i = 0; i < FILES_MAX && rule->files[i]; i++)
        if (!is_file(dir, rule->files[i]))
            return false;
    return true;
}

static char *rule_sentence(const struct rule *rule, const char *dir, const char *root)
{
    char files[256] = "";

    for (size_t i = 0; i < FILES_MAX && rule->files[i]; i++) {
        size_t n = strlen(files);
        bool last = i + 1 == FILES_MAX || !rule->files[i + 1];
        snprintf(files + n, sizeof(files) - n, "%s%s",
                 i == 0 ? ""
                 : last ? " and "
                        : ", ",
                 rule->files[i]);
    }
    return mem_printf("%s is %s (it has %s): the document root is %s", dir, rule->what, files,
                      *rule->root ? root : "the folder itself");
}

int config_detect_root(const char *dir, struct config_detected *ret)
{
    *ret = (struct config_detected){ NULL, NULL };
    for (size_t i = 0; i < ARRAY_LENGTH(rules); i++) {
        if (!rule_matches(&rules[i], dir))
            continue;
        ret->root = *rules[i].root
                        ? mem_printf("%s%s%s", dir, strcmp(dir, "/") ? "/" : "", rules[i].root)
                        : mem_strdup(dir);
        ret->sentence = rule_sentence(&rules[i], dir, ret->root);
        return 0;
    }
    ret->sentence =
        mem_printf("found nothing to serve in %s: no index.php or index.html there or in public/, "
                   "web/, htdocs/, public_html/; name the document root with --root DIR",
                   dir);
    return -ENOENT;
}

void config_detected_fini(struct config_detected *d)
{
    mem_free(d->root);
    mem_free(d->sentence);
    *d = (struct config_detected){ NULL, NULL };
}

/* --- what .htaccess forbids ------------------------------------------------------------------- */

enum { DENIED_LEVELS = 2, DENIED_FOLDERS_MAX = 2000, HTACCESS_MAX = 64 * 1024 };

/* "Require all denied" or "Deny from all", not inside <Files> or the like, which concern some
 * files. */
bool config_htaccess_denies(struct str text)
{
    unsigned inside = 0;

    while (text.p) {
        struct str line = str_trim(str_cut(&text, '\n'));
        if (line.n && line.p[line.n - 1] == '\r')
            line = str_trim(str_take(line, line.n - 1));
        bool some = str_has_prefix(line, STR("<Files")) || str_has_prefix(line, STR("<Limit"));
        if (some)
            inside++;
        else if (inside &&
                 (str_has_prefix(line, STR("</Files")) || str_has_prefix(line, STR("</Limit"))))
            inside--;
        else if (!inside && (str_eq_nocase(line, STR("Require all denied")) ||
                             str_eq_nocase(line, STR("Deny from all"))))
            return true;
    }
    return false;
}

static bool folder_denied(int dir)
{
    char *text;
    size_t n;
    int fd = openat(dir, ".htaccess", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool read = fd >= 0 && fd_read_all(fd, HTACCESS_MAX, &text, &n) == 0;

    fd_close(&fd);
    if (!read)
        return false;
    bool denied = config_htaccess_denies((struct str){ text, n });
    mem_free(text);
    return denied;
}

/* Appends "path/" to the list. */
static void add_denied(char **list, const char *path)
{
    char *longer = *list ? mem_printf("%s, %s/", *list, path) : mem_printf("%s/", path);

    mem_free(*list);
    *list = longer;
}

/* `prefix` is the path of `dir` below the root, "" or "a/". Takes `dir`. */
static void find_denied(int dir, const char *prefix, int levels, unsigned *folders, char **list)
{
    struct dirent **entries;
    int n = scandirat(dir, ".", &entries, NULL, alphasort);

    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        bool folder = entries[i]->d_type == DT_DIR && name[0] != '.' &&
                      ++*folders < DENIED_FOLDERS_MAX;
        int sub = folder ? openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
        char *path = mem_printf("%s%s", prefix, name);
        char *below = mem_printf("%s/", path);
        if (sub >= 0 && folder_denied(sub)) {
            add_denied(list, path);
            fd_close(&sub);
        } else if (sub >= 0 && levels > 1) {
            find_denied(sub, below, levels - 1, folders, list);
        } else {
            fd_close(&sub);
        }
        mem_free(below);
        mem_free(path);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    close(dir);
}

char *config_denied_folders(const char *root)
{
    unsigned folders = 0;
    char *list = NULL;
    int dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir >= 0)
        find_denied(dir, "", DENIED_LEVELS, &folders, &list);
    return list;
}
