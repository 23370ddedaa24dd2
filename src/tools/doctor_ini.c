/*
 * `sapid doctor`, php.ini: which files the engine reads, what they say, and how that differs from
 * what PHP-FPM of the same version reads. The files are parsed here and not by PHP, so that a
 * broken engine can be examined too; only what this report needs of the format is known.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "tools/doctor_int.h"

enum { INI_FILE_MAX = 1 << 20, PATH_BYTES = 512 };

/* --- reading ---------------------------------------------------------------------------------- */

static bool is_repeatable(const char *name)
{
    return strcmp(name, "extension") == 0 || strcmp(name, "zend_extension") == 0;
}

/* Takes `name` and `value`. */
static void ini_put(struct ini *ini, char *name, char *value, const char *file)
{
    for (size_t i = 0; i < ini->n && !is_repeatable(name); i++) {
        struct ini_value *v = &ini->values[i];
        if (strcmp(v->name, name) != 0)
            continue;
        mem_free(name);
        mem_free(v->value);
        mem_free(v->file);
        v->value = value;
        v->file = mem_strdup(file);
        return;
    }
    ini->values = mem_realloc(ini->values, (ini->n + 1) * sizeof(*ini->values));
    ini->values[ini->n++] = (struct ini_value){ name, value, mem_strdup(file) };
}

static struct str trim_all(struct str s)
{
    while (s.n && strchr(" \t\r\n", s.p[0]))
        s = str_skip(s, 1);
    while (s.n && strchr(" \t\r\n", s.p[s.n - 1]))
        s.n--;
    return s;
}

/* What PHP makes of the text behind '=': quotes and comments off, words for booleans as "1" and "".
 */
static char *plain_value(struct str s)
{
    static const char *const on[] = { "on", "yes", "true" };
    static const char *const off[] = { "off", "no", "false", "none", "null" };

    s = trim_all(s);
    if (s.n && (s.p[0] == '"' || s.p[0] == '\'')) {
        ptrdiff_t end = str_find(str_skip(s, 1), s.p[0]);
        return mem_strndup(end < 0 ? str_skip(s, 1) : (struct str){ s.p + 1, (size_t)end });
    }
    ptrdiff_t comment = str_find(s, ';');
    if (comment >= 0)
        s = trim_all(str_take(s, (size_t)comment));
    for (size_t i = 0; i < ARRAY_LENGTH(on); i++)
        if (str_eq_nocase(s, str_from(on[i])))
            return mem_strdup("1");
    for (size_t i = 0; i < ARRAY_LENGTH(off); i++)
        if (str_eq_nocase(s, str_from(off[i])))
            return mem_strdup("");
    return mem_strndup(s);
}

void ini_read_text(struct ini *ini, const char *file, struct str text)
{
    bool special = false; /* in [PATH=...] or [HOST=...], which are not for everybody */

    while (text.p) {
        struct str line = trim_all(str_cut(&text, '\n'));
        if (line.n == 0 || line.p[0] == ';')
            continue;
        if (line.p[0] == '[') {
            special = str_has_prefix(line, STR("[PATH=")) || str_has_prefix(line, STR("[HOST="));
            continue;
        }
        struct str value = line, name = trim_all(str_cut(&value, '='));
        if (!special && name.n && value.p)
            ini_put(ini, mem_strndup(name), plain_value(value), file);
    }
}

static void read_one(struct ini *ini, const char *path)
{
    char *text = NULL;
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : fd_read_all(fd, INI_FILE_MAX, &text, &n);

    fd_close(&fd);
    if (rc < 0) {
        if (rc != -ENOENT && !ini->unreadable)
            ini->unreadable = mem_printf("%s: %s", path, strerror(-rc));
        return;
    }
    ini->files = mem_realloc(ini->files, (ini->n_files + 1) * sizeof(*ini->files));
    ini->files[ini->n_files++] = mem_strdup(path);
    ini_read_text(ini, path, (struct str){ text, n });
    mem_free(text);
}

static int is_ini_file(const struct dirent *entry)
{
    return str_has_suffix(str_from(entry->d_name), STR(".ini"));
}

void ini_read(struct ini *ini, const char *file, const char *scan_dirs)
{
    struct str rest = str_from(scan_dirs);

    *ini = (struct ini){ 0 };
    if (*file)
        read_one(ini, file);
    while (rest.p && rest.n) {
        struct str dir = str_cut(&rest, ':');
        char *path = mem_strndup(dir);
        struct dirent **entries;
        int n = dir.n ? scandir(path, &entries, is_ini_file, alphasort) : -1;
        for (int i = 0; i < n; i++) {
            char *one = mem_printf("%s/%s", path, entries[i]->d_name);
            read_one(ini, one);
            mem_free(one);
            free(entries[i]);
        }
        if (n >= 0)
            free(entries);
        mem_free(path);
    }
}

const char *ini_get(const struct ini *ini, const char *name)
{
    for (size_t i = 0; i < ini->n; i++)
        if (strcmp(ini->values[i].name, name) == 0)
            return ini->values[i].value;
    return NULL;
}

void ini_fini(struct ini *ini)
{
    for (size_t i = 0; i < ini->n; i++) {
        mem_free(ini->values[i].name);
        mem_free(ini->values[i].value);
        mem_free(ini->values[i].file);
    }
    for (size_t i = 0; i < ini->n_files; i++)
        mem_free(ini->files[i]);
    mem_free(ini->values);
    mem_free(ini->files);
    mem_free(ini->unreadable);
    *ini = (struct ini){ 0 };
}

/* --- which files ------------------------------------------------------------------------------ */

/* "8.2" of "8.2.36" */
static void branch_of(const char *version, char out[16])
{
    const char *dot = strchr(version, '.');
    size_t n = dot ? (size_t)(dot - version) + 1 + strcspn(dot + 1, ".") : strlen(version);

    snprintf(out, 16, "%.*s", (int)(n < 15 ? n : 15), version);
}

struct sources {
    char file[PATH_BYTES], dirs[PATH_BYTES]; /* that sapid reads */
    const char *file_why, *dirs_why;
    char fpm_file[PATH_BYTES], fpm_dirs[PATH_BYTES];
    char branch[16];
};

static void find_sources(struct sources *s, const struct php_probe *probe,
                         const struct config_pool *pool)
{
    const char *environment = getenv("PHP_INI_SCAN_DIR");

    branch_of(probe->version, s->branch);
    snprintf(s->fpm_file, PATH_BYTES, "/etc/php/%s/fpm/php.ini", s->branch);
    snprintf(s->fpm_dirs, PATH_BYTES, "/etc/php/%s/fpm/conf.d", s->branch);
    if (pool->ini_path_given) {
        snprintf(s->file, PATH_BYTES, "%.*s", STR_ARG(pool->ini_path));
        s->file_why = "php.ini_path";
    } else if (probe->ini_file[0]) {
        snprintf(s->file, PATH_BYTES, "%s", probe->ini_file);
        s->file_why = "PHP-FPM's";
    } else {
        snprintf(s->file, PATH_BYTES, "/etc/php/%s/embed/php.ini", s->branch);
        s->file_why = "libphp's own, since PHP-FPM is not installed";
    }
    if (environment) {
        snprintf(s->dirs, PATH_BYTES, "%s", environment);
        s->dirs_why = "the environment variable PHP_INI_SCAN_DIR";
    } else if (pool->ini_scan_dir_given) {
        snprintf(s->dirs, PATH_BYTES, "%.*s", STR_ARG(pool->ini_scan_dir));
        s->dirs_why = "php.ini_scan_dir";
    } else if (probe->ini_scan_dir[0]) {
        snprintf(s->dirs, PATH_BYTES, "%s", probe->ini_scan_dir);
        s->dirs_why = "PHP-FPM's";
    } else {
        snprintf(s->dirs, PATH_BYTES, "/etc/php/%s/embed/conf.d", s->branch);
        s->dirs_why = "libphp's own, since PHP-FPM is not installed";
    }
}

static void say_files(struct report *r, const struct sources *s, const struct ini *ini)
{
    char line[88] = "";
    size_t of_dirs = 0;

    if (access(s->file, F_OK) == 0)
        report_say(r, OK, "reads %s (%s)", s->file, s->file_why);
    else
        report_say(r, strcmp(s->file_why, "php.ini_path") == 0 ? PROBLEM : WARNING,
                   "there is no %s (%s): PHP's built-in defaults apply", s->file, s->file_why);
    for (size_t i = 0; i < ini->n_files; i++)
        of_dirs += strcmp(ini->files[i], s->file) != 0;
    report_say(r, OK, "reads %zu file%s of %s (%s):", of_dirs, of_dirs == 1 ? "" : "s", s->dirs,
               s->dirs_why);
    for (size_t i = 0; i < ini->n_files; i++) {
        const char *slash = strrchr(ini->files[i], '/'), *name = slash ? slash + 1 : ini->files[i];
        if (strcmp(ini->files[i], s->file) == 0)
            continue;
        if (strlen(line) + strlen(name) + 2 > sizeof(line)) {
            report_more(r, "%s", line);
            line[0] = '\0';
        }
        size_t n = strlen(line);
        snprintf(line + n, sizeof(line) - n, "%s%s", n ? " " : "", name);
    }
    if (line[0])
        report_more(r, "%s", line);
    if (ini->unreadable) {
        report_say(r, PROBLEM, "cannot read %s", ini->unreadable);
        report_remedy(r, "chmod a+r, or run sapid doctor as the user that serves");
    }
}

/* --- against PHP-FPM -------------------------------------------------------------------------- */

static bool has_same(const struct ini *ini, const struct ini_value *v)
{
    for (size_t i = 0; i < ini->n; i++)
        if (strcmp(ini->values[i].name, v->name) == 0 &&
            strcmp(ini->values[i].value, v->value) == 0)
            return true;
    return false;
}

static void say_difference(struct report *r, const struct ini_value *v, const char *other,
                           const char *here, const char *there)
{
    if (is_repeatable(v->name))
        report_more(r, "%s = %s: only %s", v->name, v->value, here);
    else
        report_more(r, "%s = \"%s\" %s, %s%s%s %s", v->name, v->value, here, other ? "\"" : "",
                    other ? other : "not set", other ? "\"" : "", there);
}

static void compare_with_fpm(struct report *r, const struct sources *s, const struct ini *ini,
                             const char *what)
{
    struct ini fpm;
    size_t differences = 0;

    ini_read(&fpm, s->fpm_file, s->fpm_dirs);
    for (size_t i = 0; i < ini->n; i++)
        differences += !has_same(&fpm, &ini->values[i]);
    for (size_t i = 0; i < fpm.n; i++)
        differences += !has_same(ini, &fpm.values[i]) &&
                       (is_repeatable(fpm.values[i].name) || !ini_get(ini, fpm.values[i].name));
    if (fpm.n_files == 0)
        report_say(r, NOTE, "PHP-FPM %s is not installed here: nothing to compare with", s->branch);
    else if (differences == 0)
        report_say(r, OK, "%s the values are PHP-FPM's", what);
    else
        report_say(r, NOTE, "%s %zu value%s differ%s from PHP-FPM's:", what, differences,
                   differences == 1 ? "" : "s", differences == 1 ? "s" : "");
    for (size_t i = 0; fpm.n_files && i < ini->n; i++)
        if (!has_same(&fpm, &ini->values[i]))
            say_difference(r, &ini->values[i], ini_get(&fpm, ini->values[i].name), "here",
                           "in PHP-FPM's");
    for (size_t i = 0; i < fpm.n; i++)
        if (!has_same(ini, &fpm.values[i]) &&
            (is_repeatable(fpm.values[i].name) || !ini_get(ini, fpm.values[i].name)))
            say_difference(r, &fpm.values[i], NULL, "in PHP-FPM's", "here");
    ini_fini(&fpm);
}

/* libphp has a folder of its own compiled in, which hardly anybody edits: worth knowing how far it
 * is from what PHP-FPM was tuned to, even where it is not read. */
static void compare_embed(struct report *r, const struct sources *s)
{
    struct ini embed;
    char file[PATH_BYTES], dirs[PATH_BYTES];

    snprintf(file, sizeof(file), "/etc/php/%s/embed/php.ini", s->branch);
    snprintf(dirs, sizeof(dirs), "/etc/php/%s/embed/conf.d", s->branch);
    if (strcmp(file, s->file) == 0 && strcmp(dirs, s->dirs) == 0)
        return;
    ini_read(&embed, file, dirs);
    if (embed.n_files)
        compare_with_fpm(r, s, &embed, "in libphp's own folder (not read)");
    ini_fini(&embed);
}

/* Values in the pool files of PHP-FPM apply to its pools only; people forget that they set them
 * there. */
static void say_fpm_pool_values(struct report *r, const struct sources *s)
{
    char dir[PATH_BYTES + 32];
    struct dirent **entries;
    bool any = false;

    snprintf(dir, sizeof(dir), "/etc/php/%s/fpm/pool.d", s->branch);
    int n = scandir(dir, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        struct ini pool;
        char *path = mem_printf("%s/%s", dir, entries[i]->d_name);
        bool conf = str_has_suffix(str_from(path), STR(".conf"));
        ini_read(&pool, conf ? path : "", "");
        for (size_t j = 0; j < pool.n; j++) {
            const struct ini_value *v = &pool.values[j];
            if (strncmp(v->name, "php_", 4) != 0 && strncmp(v->name, "env[", 4) != 0)
                continue;
            if (!any)
                report_say(r, NOTE,
                           "PHP-FPM's pools set values that sapid does not read; set them in "
                           "[php] ini, admin_ini or env:");
            any = true;
            report_more(r, "%s = %s (%s)", v->name, v->value, path);
        }
        ini_fini(&pool);
        mem_free(path);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

/* --- opcache and extensions ------------------------------------------------------------------- */

/* The configuration's own value, else the files', else PHP's default. */
static const char *effective(const struct ini *ini, const struct config_pool *pool,
                             const char *name, const char *fallback)
{
    const struct config_pairs *lists[] = { &pool->admin_ini, &pool->ini };

    for (size_t l = 0; l < ARRAY_LENGTH(lists); l++)
        for (uint32_t i = 0; i < lists[l]->n; i++)
            if (str_eq(lists[l]->v[i].key, str_from(name)))
                return lists[l]->v[i].value.p;
    const char *value = ini_get(ini, name);
    return value ? value : fallback;
}

static bool is_on(const char *value)
{
    char *plain = plain_value(str_from(value));
    bool on = plain[0] != '\0' && strcmp(plain, "0") != 0;

    mem_free(plain);
    return on;
}

/* "opcache" of "/usr/lib/php/20220829/opcache.so" */
static struct str module_name(const char *value)
{
    const char *slash = strrchr(value, '/');
    struct str name = str_from(slash ? slash + 1 : value);

    if (str_has_suffix(name, STR(".so")))
        name.n -= 3;
    return name;
}

static bool is_loaded(const struct ini *ini, const char *module)
{
    for (size_t i = 0; i < ini->n; i++)
        if (is_repeatable(ini->values[i].name) &&
            str_eq(module_name(ini->values[i].value), str_from(module)))
            return true;
    return false;
}

/* Since PHP 8.5 there is no opcache.so. */
static bool has_opcache_built_in(const struct php_probe *probe)
{
    return probe->api >= 20250925;
}

static void doctor_opcache(struct report *r, const struct sources *s, const struct ini *ini,
                           const struct config_pool *pool, bool is_built_in)
{
    report_section(r, "opcache");
    if (is_built_in && is_loaded(ini, "opcache")) {
        report_say(r, WARNING,
                   "zend_extension = opcache is set, but PHP %s has opcache built in: every start "
                   "warns of it",
                   s->branch);
        report_remedy(r, "remove that line");
    } else if (!is_built_in && !is_loaded(ini, "opcache")) {
        report_say(r, PROBLEM, "opcache is not loaded: every request compiles every script again");
        report_remedy(r, "apt install php%s-opcache && phpenmod opcache", s->branch);
        return;
    }
    if (!is_on(effective(ini, pool, "opcache.enable", "1"))) {
        report_say(r, PROBLEM, "opcache.enable is off: every request compiles every script again");
        report_remedy(r, "set opcache.enable = 1 (in %s, or in [php] ini)", s->file);
        return;
    }
    report_say(r, OK, "on, %s MiB of shared memory, at most %s scripts, %s MiB of strings",
               effective(ini, pool, "opcache.memory_consumption", "128"),
               effective(ini, pool, "opcache.max_accelerated_files", "10000"),
               effective(ini, pool, "opcache.interned_strings_buffer", "8"));
    if (is_on(effective(ini, pool, "opcache.validate_timestamps", "1")))
        report_say(r, OK, "changed scripts are seen after %s s (opcache.revalidate_freq)",
                   effective(ini, pool, "opcache.revalidate_freq", "2"));
    else
        report_say(r, NOTE,
                   "changed scripts are not seen before a reload "
                   "(opcache.validate_timestamps is off): kill -HUP after each deploy");
    const char *jit = effective(ini, pool, "opcache.jit", "tracing");
    const char *jit_buffer = effective(ini, pool, "opcache.jit_buffer_size", "0");
    bool jit_on = atol(jit_buffer) > 0 && strcmp(jit, "") != 0 && strcmp(jit, "0") != 0 &&
                  strcmp(jit, "disable") != 0 && strcmp(jit, "off") != 0;
    report_say(r, OK, "JIT is %s (opcache.jit = \"%s\", jit_buffer_size = %s)",
               jit_on ? "on" : "off", jit, jit_buffer);
    if (is_on(effective(ini, pool, "opcache.file_cache_only", "0")))
        report_say(r, WARNING,
                   "opcache.file_cache_only is on: scripts are read from disk for each worker");
}

static void doctor_extensions(struct report *r, const struct sources *s, const struct ini *ini,
                              const struct config_pool *pool, const struct php_probe *probe)
{
    static const struct {
        const char *module, *why;
    } slow[] = {
        { "xdebug", "it slows every request down several times, even when nobody debugs" },
        { "pcov", "it is for measuring the coverage of tests, and slows every request down" },
    };
    char fallback[64];
    unsigned n = 0, missing = 0;

    snprintf(fallback, sizeof(fallback), "/usr/lib/php/%u", probe->api);
    const char *dir = effective(ini, pool, "extension_dir", fallback);
    report_section(r, "Extensions");
    for (size_t i = 0; i < ini->n; i++) {
        const struct ini_value *v = &ini->values[i];
        struct str name = module_name(v->value);
        if (!is_repeatable(v->name) ||
            (has_opcache_built_in(probe) && str_eq(name, STR("opcache"))))
            continue;
        char *path = v->value[0] == '/' ? mem_strdup(v->value)
                                        : mem_printf("%s/%.*s.so", dir, STR_ARG(name));
        n++;
        if (access(path, R_OK) < 0) {
            missing++;
            report_say(r, PROBLEM, "%s loads %s, but %s: %s", v->file, v->value, path,
                       strerror(errno));
            report_remedy(r, "apt install php%s-%.*s, or phpdismod -v %s %.*s", s->branch,
                          STR_ARG(name), s->branch, STR_ARG(name));
        }
        mem_free(path);
    }
    if (!missing)
        report_say(r, OK, "%u extension%s, all in %s", n, n == 1 ? "" : "s", dir);
    for (size_t i = 0; i < ARRAY_LENGTH(slow); i++) {
        if (!is_loaded(ini, slow[i].module))
            continue;
        report_say(r, WARNING, "%s is loaded: %s", slow[i].module, slow[i].why);
        report_remedy(r, "phpdismod -v %s -s fpm %s", s->branch, slow[i].module);
    }
}

void doctor_ini(struct report *r, const struct php_probe *probe, const struct config_pool *pool)
{
    struct sources s;
    struct ini ini;

    find_sources(&s, probe, pool);
    ini_read(&ini, s.file, s.dirs);
    report_section(r, "php.ini");
    say_files(r, &s, &ini);
    if (strcmp(s.file, s.fpm_file) != 0 || strcmp(s.dirs, s.fpm_dirs) != 0)
        compare_with_fpm(r, &s, &ini, "in the files read here");
    else
        report_say(r, OK, "these are the files of PHP-FPM %s: same values", s.branch);
    compare_embed(r, &s);
    say_fpm_pool_values(r, &s);
    for (uint32_t i = 0; i < pool->ini.n; i++)
        report_say(r, NOTE, "%.*s = \"%.*s\" by the configuration", STR_ARG(pool->ini.v[i].key),
                   STR_ARG(pool->ini.v[i].value));
    doctor_opcache(r, &s, &ini, pool, has_opcache_built_in(probe));
    doctor_extensions(r, &s, &ini, pool, probe);
    doctor_trial(r, pool, s.file, s.dirs);
    ini_fini(&ini);
}
