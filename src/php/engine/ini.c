/*
 * php.ini settings: what the configuration adds to the files (ini, admin_ini), and what requests
 * add by .user.ini files and [PATH=] and [HOST=] sections, which PHP leaves to its SAPI.
 */
#include "php/engine/engine_int.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"

/* The folder of extra files reaches the library through the environment only. A PHP_INI_SCAN_DIR
 * that the user set counts before ours. */
void ini_choose(sapi_module_struct *sapi, const struct engine_options *o)
{
    if (o->ini_path)
        sapi->php_ini_path_override = mem_strdup(o->ini_path);
    if (o->ini_scan_dir)
        setenv("PHP_INI_SCAN_DIR", o->ini_scan_dir, 0);
}

/* Values that the ini language must evaluate (E_ALL & ~E_NOTICE, On, 128M, 7.5) stay bare;
 * everything else is quoted, so that no character of a password or a path means something. */
static bool is_bare(const char *value)
{
    bool constants = strncmp(value, "E_", 2) == 0 || strncmp(value, "~E_", 3) == 0;

    for (const char *p = value; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("_.+-", *p) &&
            !(constants && strchr(" &|^~!()", *p)))
            return false;
    return *value != '\0';
}

static char *put_setting(char *at, const struct engine_setting *s)
{
    at = stpcpy(stpcpy(at, s->name), "=");
    if (is_bare(s->value))
        return stpcpy(stpcpy(at, s->value), "\n");
    *at++ = '"';
    for (const char *p = s->value; *p; p++) {
        if (*p == '"' || *p == '\\' || *p == '$')
            *at++ = '\\';
        *at++ = *p;
    }
    return stpcpy(at, "\"\n");
}

char *ini_render(const struct engine_options *o)
{
    size_t bytes = 1;

    for (size_t i = 0; i < o->n_ini; i++)
        bytes += strlen(o->ini[i].name) + 2 * strlen(o->ini[i].value) + 5;
    for (size_t i = 0; i < o->n_admin; i++)
        bytes += strlen(o->admin[i].name) + 2 * strlen(o->admin[i].value) + 5;
    char *text = mem_alloc(bytes), *at = text;
    *at = '\0';
    for (size_t i = 0; i < o->n_ini; i++)
        at = put_setting(at, &o->ini[i]);
    for (size_t i = 0; i < o->n_admin; i++) /* after ini: the last one counts */
        at = put_setting(at, &o->admin[i]);
    CHECK((size_t)(at - text) < bytes);
    return text;
}

void ini_lock_admin(const struct engine_options *o)
{
    for (size_t i = 0; i < o->n_admin; i++) {
        const char *name = o->admin[i].name;
        zend_ini_entry *e = zend_hash_str_find_ptr(EG(ini_directives), name, strlen(name));
        if (e)
            e->modifiable = ZEND_INI_SYSTEM;
        else
            log_warn("admin_ini %s: no loaded extension has a setting of this name", name);
    }
}

/* --- .user.ini -------------------------------------------------------------------------------- */

struct user_config {
    time_t expires;
    HashTable settings;
};

static HashTable user_configs; /* folder of the script -> struct user_config */
static bool user_configs_ready;

static void free_setting(zval *v)
{
    if (Z_TYPE_P(v) == IS_STRING)
        zend_string_release_ex(Z_STR_P(v), 1);
}

static void free_user_config(zval *v)
{
    struct user_config *c = Z_PTR_P(v);

    zend_hash_destroy(&c->settings);
    mem_free(c);
}

static struct user_config *find_user_config(const char *dir, size_t n)
{
    if (!user_configs_ready) {
        zend_hash_init(&user_configs, 8, NULL, free_user_config, 1);
        user_configs_ready = true;
    }
    struct user_config *c = zend_hash_str_find_ptr(&user_configs, dir, n);
    if (!c) {
        c = mem_zalloc(sizeof(*c));
        zend_hash_init(&c->settings, 8, NULL, free_setting, 1);
        zend_hash_str_add_new_ptr(&user_configs, dir, n, c);
    }
    return c;
}

/* Reads the files of all folders from the document root down to `dir` (which ends in '/'), or of
 * `dir` alone when it lies outside; deeper folders win. */
static void read_user_files(struct user_config *c, char *dir, size_t n, struct str root)
{
    zend_hash_clean(&c->settings);
    while (root.n > 1 && root.p[root.n - 1] == '/')
        root.n--;
    bool inside = n > root.n && strncmp(dir, root.p, root.n) == 0 && dir[root.n] == '/';
    if (!inside) {
        php_parse_user_ini_file(dir, PG(user_ini_filename), &c->settings);
        return;
    }
    for (char *slash = dir + root.n; slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        php_parse_user_ini_file(*dir ? dir : "/", PG(user_ini_filename), &c->settings);
        *slash = '/';
    }
}

static void activate_user_files(char *dir, size_t n)
{
    time_t now = (time_t)(request.view.received_ns / NS_PER_S);
    struct user_config *c = find_user_config(dir, n);

    if (now > c->expires) {
        read_user_files(c, dir, n, request.view.document_root);
        c->expires = now + PG(user_ini_cache_ttl);
    }
    if (zend_hash_num_elements(&c->settings))
        php_ini_activate_config(&c->settings, PHP_INI_PERDIR, PHP_INI_STAGE_HTACCESS);
}

void ini_activate_user_config(void)
{
    const char *path = SG(request_info).path_translated;
    const char *slash = path ? strrchr(path, '/') : NULL;
    char dir[MAXPATHLEN];

    if (!slash || (size_t)(slash - path) + 2 > sizeof(dir))
        return;
    size_t n = (size_t)(slash - path) + 1;
    memcpy(dir, path, n);
    dir[n] = '\0';
    if (php_ini_has_per_host_config() && request.view.server_name.n) {
        char host[256];
        size_t host_n = MIN(request.view.server_name.n, sizeof(host) - 1);
        for (size_t i = 0; i < host_n; i++)
            host[i] = ascii_lower(request.view.server_name.p[i]);
        host[host_n] = '\0';
        php_ini_activate_per_host_config(host, host_n);
    }
    if (php_ini_has_per_dir_config())
        php_ini_activate_per_dir_config(dir, n);
    if (PG(user_ini_filename) && *PG(user_ini_filename))
        activate_user_files(dir, n);
}
