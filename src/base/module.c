/* Modules of the program: see module.h. */
#include "base/module.h"

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"

static bool try_path(const char *dir, const char *sub, const char *name, char *ret, size_t size)
{
    char pattern[PATH_MAX];
    glob_t g;

    snprintf(pattern, sizeof(pattern), "%s/%s/%s", dir, sub, name);
    if (glob(pattern, 0, NULL, &g) != 0)
        return false;
    int n = snprintf(ret, size, "%s", g.gl_pathv[0]);
    globfree(&g);
    return n > 0 && (size_t)n < size;
}

bool module_find(const char *room, const char *name, char *ret, size_t size)
{
    /* The build tree (for unit tests two or three folders up), then installed. */
    static const char *const prefixes[] = { "src/", "../../../src/", "../../src/" };
    static const char *const installed[] = { ".", "../lib/sapid", "../lib/*/sapid" };
    const char *override = secure_getenv("SAPID_ENGINE_DIR");
    char self[PATH_MAX], sub[PATH_MAX];

    if (override)
        return try_path(override, ".", name, ret, size);
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0)
        return false;
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    CHECK(slash);
    *slash = '\0';
    for (size_t i = 0; i < ARRAY_LENGTH(prefixes); i++) {
        snprintf(sub, sizeof(sub), "%s%s", prefixes[i], room);
        if (try_path(self, sub, name, ret, size))
            return true;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(installed); i++)
        if (try_path(self, installed[i], name, ret, size))
            return true;
    return false;
}
