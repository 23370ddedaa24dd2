/* One pool's configuration as options of the engine module. */
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "php/php_int.h"
#include "version.h"

struct engine_setting *settings_pairs(const struct config_pairs *pairs)
{
    struct engine_setting *v = mem_zalloc((pairs->n + 1) * sizeof(*v));

    for (uint32_t i = 0; i < pairs->n; i++) {
        v[i].name = mem_strndup(pairs->v[i].key);
        v[i].value = mem_strndup(pairs->v[i].value);
    }
    return v;
}

/* "" in the configuration means none; not given means the default. */
static const char *choose(bool given, struct str value, const char *fallback)
{
    if (given)
        return value.n ? mem_strndup(value) : NULL;
    return *fallback ? fallback : NULL;
}

/* As PHP-FPM: USER and HOME of the pool's user, then what the configuration says. */
static void init_environment(struct settings *s, const struct config_pool *pool)
{
    const struct passwd *pw = getpwuid(geteuid());
    struct engine_setting *extra = settings_pairs(&pool->env);

    s->env = mem_zalloc((pool->env.n + 2) * sizeof(*s->env));
    if (pw) {
        s->env[s->n_env++] = (struct engine_setting){ "USER", mem_strdup(pw->pw_name) };
        s->env[s->n_env++] = (struct engine_setting){ "HOME", mem_strdup(pw->pw_dir) };
    }
    for (uint32_t i = 0; i < pool->env.n; i++)
        s->env[s->n_env++] = extra[i];
    mem_free(extra);
}

const char *settings_executable(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path));

    return n > 0 ? mem_strndup((struct str){ path, (size_t)n }) : "sapid";
}

void settings_init(struct settings *s, const struct config_pool *pool,
                   const struct php_probe *probe)
{
    *s = (struct settings){ 0 };
    s->options = (struct engine_options){
        .executable = settings_executable(),
        /* Applications that know nginx by this text (WordPress's permalinks, say) do here what they
         * do there, which is what this server answers like. */
        .software = "sapid/" SAPID_VERSION " (nginx-compatible)",
        .ini_path = choose(pool->ini_path_given, pool->ini_path, probe->ini_file),
        .ini_scan_dir = choose(pool->ini_scan_dir_given, pool->ini_scan_dir, probe->ini_scan_dir),
        .ini = settings_pairs(&pool->ini),
        .n_ini = pool->ini.n,
        .admin = settings_pairs(&pool->admin_ini),
        .n_admin = pool->admin_ini.n,
    };
    s->accel = settings_pairs(&pool->accel_locations);
    init_environment(s, pool);
}
