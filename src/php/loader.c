/*
 * Finding and loading libphp and the engine module that fits it. The program is built without PHP;
 * which PHP it runs is decided here, once per process. Every refusal is one sentence that says what
 * to install.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/module.h"
#include "php/php_int.h"
#include "version.h"

/* The PHP versions an engine module can be built for. */
static const struct {
    const char *version;
    unsigned api; /* ZEND_MODULE_API_NO */
} known_apis[] = {
    { "8.2", 20220829 }, { "8.3", 20230831 }, { "8.4", 20240924 }, { "8.5", 20250925 }
};

enum { LIBRARY_BYTES_MAX = 256 << 20 };

static int refuse(char *message, size_t size, int error, const char *fmt, ...) PRINTF_LIKE(4, 5);
static int refuse(char *message, size_t size, int error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(message, size, fmt, ap);
    va_end(ap);
    return error;
}

/* --- libphp ----------------------------------------------------------------------------------- */

static const char *const library_patterns[] = {
    "/usr/lib/libphp8.*.so",    "/usr/lib/*-linux-gnu/libphp8.*.so",
    "/usr/lib64/libphp8.*.so",  "/usr/local/lib/libphp8.*.so",
    "/usr/lib/libphp.so",       "/usr/lib64/libphp.so",
    "/usr/local/lib/libphp.so", "/usr/local/lib/*-linux-gnu/libphp.so",
};

static bool module_path(unsigned api, char *ret, size_t size);

static unsigned api_of_name(const char *path)
{
    const char *at = strstr(path, "libphp8.");

    for (size_t i = 0; at && i < ARRAY_LENGTH(known_apis); i++)
        if (strncmp(at + 6, known_apis[i].version, 3) == 0)
            return known_apis[i].api;
    return 0;
}

/* The newest version for which an engine module is there; else the newest; else any libphp.so. */
static bool find_library(char *ret, size_t size)
{
    char module[PATH_MAX];
    unsigned best = 0;
    bool found = false;

    for (size_t i = 0; i < ARRAY_LENGTH(library_patterns); i++) {
        glob_t g;
        if (glob(library_patterns[i], 0, NULL, &g) != 0)
            continue;
        for (size_t k = 0; k < g.gl_pathc; k++) {
            unsigned api = api_of_name(g.gl_pathv[k]);
            unsigned rank = api ? api + (module_path(api, module, sizeof(module)) ? 100000000 : 0)
                                : 1;
            if (rank > best) {
                best = rank;
                found = true;
                snprintf(ret, size, "%s", g.gl_pathv[k]);
            }
        }
        globfree(&g);
    }
    return found;
}

/* The text after the first `mark` in the library's bytes, up to the next NUL. */
static struct str find_text(struct str bytes, struct str mark)
{
    const char *at = bytes.n ? memmem(bytes.p, bytes.n, mark.p, mark.n) : NULL;

    if (!at)
        return STR_NONE;
    struct str text = { at + mark.n, (size_t)(bytes.p + bytes.n - at) - mark.n };
    return str_take(text, strnlen(text.p, text.n));
}

/* Which PHP this is, from the bytes of the file: the build id that the engine compares with that of
 * its extensions ("API20220829,NTS", "...,TS", "...,debug"), and the version in the X-Powered-By
 * header. The engine's own functions know neither before it is started, and a foreign library is
 * not to be run. */
static bool read_version(struct str bytes, struct php_probe *p)
{
    struct str version = find_text(bytes, STR("X-Powered-By: PHP/"));
    struct str id;
    uint64_t api;

    /* zend_extension's id is alike, with a digit more ("API420220829,NTS"), so "API20" passes it
     * by. */
    id = find_text(bytes, STR("API20"));
    if (id.n < 9 || id.p[6] != ',')
        return false;
    if (!version.n || !str_to_u64(str_take(id, 6), 999999, &api))
        return false;
    p->api = 20000000u + (unsigned)api;
    snprintf(p->version, sizeof(p->version), "%.*s", STR_ARG(version));
    p->zts = memmem(id.p, id.n, ",TS", 3) != NULL;
    p->debug = memmem(id.p, id.n, "debug", 5) != NULL;
    return true;
}

static int check_library(const struct php_probe *p, char *message, size_t size)
{
    if (p->zts)
        return refuse(
            message, size, -ENOEXEC,
            "%s is a thread-safe (ZTS) PHP %s, but sapid runs one interpreter per process: "
            "install a non-thread-safe build, such as Debian's libphp8.2-embed",
            p->path, p->version);
    if (p->debug)
        return refuse(
            message, size, -ENOEXEC,
            "%s is a debug build of PHP %s, whose memory layout differs: install a release "
            "build, such as Debian's libphp8.2-embed",
            p->path, p->version);
    bool known = false;
    for (size_t i = 0; i < ARRAY_LENGTH(known_apis); i++)
        known |= known_apis[i].api == p->api;
    if (!known)
        return refuse(
            message, size, -ENOEXEC,
            "%s is PHP %s, but sapid runs PHP 8.2 to 8.5: install libphp8.2-embed or name "
            "another library with php.libphp_path",
            p->path, p->version);
    return 0;
}

static int identify_library(struct str path, struct php_probe *p, char *message, size_t size)
{
    memset(p, 0, sizeof(*p));
    if (path.n == 0 && !find_library(p->path, sizeof(p->path)))
        return refuse(
            message, size, -ENOENT,
            "no libphp found in /usr/lib: install libphp8.2-embed, or name the library with "
            "php.libphp_path");
    if (path.n)
        snprintf(p->path, sizeof(p->path), "%.*s", STR_ARG(path));
    if (path.n >= sizeof(p->path))
        return refuse(message, size, -ENAMETOOLONG, "php.libphp_path is longer than %zu bytes",
                      sizeof(p->path) - 1);
    int fd = open(p->path, O_RDONLY | O_CLOEXEC);
    char *bytes = NULL;
    size_t n = 0;
    int rc = fd < 0 ? -errno : fd_read_all(fd, LIBRARY_BYTES_MAX, &bytes, &n);
    fd_close(&fd);
    if (rc < 0)
        return refuse(
            message, size, rc,
            "php.libphp_path %s cannot be read (%s): install libphp8.2-embed, or correct the "
            "path",
            p->path, strerror(-rc));
    bool is_php = read_version((struct str){ bytes, n }, p);
    mem_free(bytes);
    if (!is_php)
        return refuse(message, size, -ENOEXEC,
                      "php.libphp_path %s is not libphp (no PHP build id in it): install "
                      "libphp8.2-embed and name its libphp8.2.so",
                      p->path);
    return check_library(p, message, size);
}

/* --- the engine module ------------------------------------------------------------------------ */

static bool module_path(unsigned api, char *ret, size_t size)
{
    char name[64];

    snprintf(name, sizeof(name), "sapid-php-%u.so", api);
    return module_find("php", name, ret, size);
}

static int find_module(struct php_probe *p, char *message, size_t size)
{
    if (module_path(p->api, p->module, sizeof(p->module)))
        return 0;
    p->module[0] = '\0';
    return refuse(
        message, size, -ENOENT,
        "PHP %s (API %u) needs the engine module sapid-php-%u.so beside the program or in "
        "../lib/sapid: build sapid with php%.3s-dev installed, or choose another PHP with "
        "php.libphp_path",
        p->version, p->api, p->api, p->version);
}

/* Extensions (the distribution's .so files) and the module find the engine's symbols globally. */
static int open_library(const struct php_probe *p, char *message, size_t size)
{
    void *lib = dlopen(p->path, RTLD_NOW | RTLD_GLOBAL);

    if (lib && dlsym(lib, "php_module_startup"))
        return 0;
    return refuse(
        message, size, -ENOEXEC,
        "php.libphp_path %s cannot be loaded (%s): expected the shared library of PHP's embed "
        "SAPI, as in Debian's libphp8.2-embed",
        p->path, lib ? "it exports no php_module_startup" : dlerror());
}

static int open_module(const struct php_probe *p, const struct engine_module **ret, char *message,
                       size_t size)
{
    void *lib = dlopen(p->module, RTLD_NOW | RTLD_LOCAL);

    if (!lib)
        return refuse(message, size, -ENOEXEC,
                      "engine module %s cannot be loaded (%s): build sapid again for this PHP",
                      p->module, dlerror());
    const struct engine_module *engine = dlsym(lib, ENGINE_SYMBOL);
    if (!engine || engine->abi != ENGINE_ABI || strcmp(engine->build, SAPID_VERSION) != 0)
        return refuse(
            message, size, -ENOEXEC,
            "engine module %s belongs to another build of sapid (expected %s): install both "
            "from the same package",
            p->module, SAPID_VERSION);
    if (engine->zend_api != p->api)
        return refuse(
            message, size, -ENOEXEC,
            "engine module %s was built for PHP API %u, but %s is PHP %s with API %u: build "
            "sapid again with the matching php-dev package",
            p->module, engine->zend_api, p->path, p->version, p->api);
    *ret = engine;
    return 0;
}

/* --- php.ini ---------------------------------------------------------------------------------- */

/* The files of an installed PHP-FPM (or php-cli) of that version: the ones people edit. Without it
 * the fields stay empty, and the library's own search applies. */
static bool choose_ini(struct php_probe *p, const char *sapi)
{
    char dir[64];
    struct stat st;

    snprintf(dir, sizeof(dir), "/etc/php/%.*s/%s", (int)strcspn(p->version + 2, ".") + 2,
             p->version, sapi);
    snprintf(p->ini_file, sizeof(p->ini_file), "%s/php.ini", dir);
    snprintf(p->ini_scan_dir, sizeof(p->ini_scan_dir), "%s/conf.d", dir);
    if (stat(p->ini_file, &st) < 0)
        p->ini_file[0] = p->ini_scan_dir[0] = '\0';
    else if (stat(p->ini_scan_dir, &st) < 0)
        p->ini_scan_dir[0] = '\0';
    return p->ini_file[0];
}

int php_probe(struct str path, struct php_probe *ret, char *message, size_t message_size)
{
    int rc = identify_library(path, ret, message, message_size);

    if (rc < 0)
        return rc;
    (void)choose_ini(ret, "fpm");
    return find_module(ret, message, message_size);
}

void library_prefer_cli_ini(struct php_probe *p)
{
    if (!choose_ini(p, "cli"))
        (void)choose_ini(p, "fpm");
}

int library_load(struct str path, struct php_library *ret, char *message, size_t message_size)
{
    int rc = php_probe(path, &ret->probe, message, message_size);

    if (rc < 0)
        return rc;
    rc = open_library(&ret->probe, message, message_size);
    if (rc < 0)
        return rc;
    return open_module(&ret->probe, &ret->engine, message, message_size);
}
