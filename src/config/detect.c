/*
 * `sapid serve` without --root: which folder is the document root? First the applications that are
 * known by files nobody else has, then the folders that frameworks use, then a plain index file. A
 * folder that is made for it (public/) goes before an index.php beside the sources, since it
 * exposes less.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "config/config.h"

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
