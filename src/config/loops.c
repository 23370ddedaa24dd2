/*
 * [worker] and [pool.NAME.worker]: a pool with a worker script becomes two. The script runs in a
 * pool of its own, appended behind those of the file; the one that was written keeps the other
 * scripts and the files. Both know each other's index.
 */
#include "config/config_int.h"

/* Scripts beside the worker script are few. */
enum { OTHER_WORKERS = 4 };

static const struct config_origin *origin_of(const struct config_pool *pool, struct str section,
                                             struct str name)
{
    const struct config_key *key = config_key_find(section, name);

    CHECK(key);
    return &pool->origins[key - config_keys];
}

/* `--workers` beside a worker script counts its processes. */
static void size_both(struct config_pool *pool, struct config_pool *loop)
{
    enum config_origin_kind origin = origin_of(pool, STR("php"), STR("worker_pool_size"))->kind;

    loop->worker_pool_size = origin == CONFIG_FROM_COMMAND_LINE ? pool->worker_pool_size
                                                                : pool->worker_num;
    loop->worker_min = CONFIG_AUTO;
    if (origin != CONFIG_FROM_FILE)
        pool->worker_pool_size = OTHER_WORKERS;
}

static void add_loop(struct loader *l, uint32_t index)
{
    struct config *c = l->c;
    struct config_pool *pool = &c->pools[index], *loop = &c->pools[c->n_pools];

    *loop = *pool;
    loop->kind = CONFIG_POOL_LOOP;
    loop->loop_of = index;
    loop->name = arena_printf(&c->arena, "%.*s-worker", STR_ARG(pool->name));
    if (!loop->name.p) {
        l->out_of_memory = true;
        return;
    }
    for (uint32_t i = 0; i < c->n_pools; i++)
        if (str_eq(c->pools[i].name, loop->name))
            loader_complain(l, NULL, origin_of(pool, STR("worker"), STR("script"))->line, 1,
                            "the worker script of pool %.*s runs in a pool named %.*s, and there "
                            "is a [pool.%.*s] already; give that one another name",
                            STR_ARG(pool->name), STR_ARG(loop->name), STR_ARG(loop->name));
    size_both(pool, loop);
    loop->worker_max_requests = pool->worker_loop_max_requests;
    pool->status_path = pool->ping_path = STR(""); /* pages show the pool that has the requests */
    loop->max_images = 0;
    loop->snapshot_scripts = (struct config_strings){ 0 };
    loop->snapshot_at = STR("");
    loop->use_fpm = loop->fallback = false; /* PHP-FPM knows no loop */
    if (!loop->worker_watch_given)
        loop->worker_watch = c->dev;
    pool->loop = c->n_pools++;
}

void config_add_loops(struct loader *l)
{
    struct config *c = l->c;
    uint32_t n = c->n_pools;
    struct config_pool *pools = loader_alloc(l, 2 * n * sizeof(*pools));

    if (!pools)
        return;
    memcpy(pools, c->pools, n * sizeof(*pools));
    c->pools = pools;
    for (uint32_t i = 0; i < n && !l->out_of_memory; i++)
        if (pools[i].worker_script.n && !pools[i].use_fpm)
            add_loop(l, i);
}

struct str config_script_name(struct str script, struct str document_root)
{
    while (document_root.n && document_root.p[document_root.n - 1] == '/')
        document_root.n--;
    CHECK(script.n && script.p[0] == '/');
    if (script.n > document_root.n && str_has_prefix(script, document_root) &&
        script.p[document_root.n] == '/')
        return str_skip(script, document_root.n);
    while (str_find(str_skip(script, 1), '/') >= 0)
        script = str_skip(script, (size_t)str_find(str_skip(script, 1), '/') + 1);
    return script;
}
