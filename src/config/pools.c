/*
 * [pool.NAME]: further pools beside that of [php]. A table has the keys of [php], and its pool has
 * the defaults of those keys, not the values of [php]: what one application is told must not reach
 * another by being forgotten. [pool.NAME.worker] has those of [worker].
 */
#include <errno.h>

#include "config/config_int.h"

enum { NAME_MAX_BYTES = 24 };

/* It stands in log lines and process titles. */
static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-' && c != '_')
            return false;
    }
    return s.n > 0 && s.n <= NAME_MAX_BYTES;
}

static bool check_name(struct loader *l, const struct toml_value *v)
{
    if (!is_name(v->key))
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "[pool.%.*s]: expected a name of 1 to %d letters a to z, digits, - and _",
                        STR_ARG(v->key), NAME_MAX_BYTES);
    else if (str_eq(v->key, STR("www")) || str_eq(v->key, STR("www-worker")))
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "[pool.%.*s]: the name belongs to [php]; choose another one",
                        STR_ARG(v->key));
    else if (v->type != TOML_TABLE)
        loader_complain(l, NULL, v->line, v->column, "pool.%.*s: expected a table, found %s",
                        STR_ARG(v->key), toml_type_name(v->type));
    else
        return true;
    return false;
}

static void set_key(struct loader *l, struct str table, struct str section,
                    const struct toml_value *v)
{
    const struct config_key *key = config_key_find(section, v->key);

    if (key)
        config_set_from(l, key, v, CONFIG_FROM_FILE);
    else
        config_complain_unknown_key(l, table, section, v);
}

static void set_worker(struct loader *l, const struct toml_value *table)
{
    struct str name = arena_printf(&l->c->arena, "%.*s.worker", STR_ARG(l->pool->table));

    if (!name.p)
        l->out_of_memory = true;
    else if (table->type != TOML_TABLE)
        loader_complain(l, NULL, table->line, table->column,
                        "%.*s: expected a table, [%.*s], found %s", STR_ARG(name), STR_ARG(name),
                        toml_type_name(table->type));
    else
        for (const struct toml_value *v = table->first; v; v = v->next)
            set_key(l, name, STR("worker"), v);
}

static void set_pool(struct loader *l, struct config_pool *pool, const struct toml_value *table)
{
    pool->name = loader_copy(l, table->key);
    pool->table = arena_printf(&l->c->arena, "pool.%.*s", STR_ARG(table->key));
    pool->origins = loader_alloc(l, config_n_keys * sizeof(*pool->origins));
    if (!pool->table.p)
        l->out_of_memory = true;
    if (l->out_of_memory)
        return;
    l->pool = pool;
    config_set_defaults(l);
    for (const struct toml_value *v = table->first; v; v = v->next)
        if (str_eq(v->key, STR("worker")))
            set_worker(l, v);
        else
            set_key(l, pool->table, STR("php"), v);
    if (!pool->document_root_given)
        loader_complain(l, NULL, table->line, table->column,
                        "%.*s.document_root is missing: it is looked for only for [php]",
                        STR_ARG(pool->table));
    l->pool = &l->c->pools[0];
}

bool config_pool_recycles(const struct config_pool *p)
{
    enum { FEW_REQUESTS = 100 }; /* then its worker ends by itself, at that number */

    return p->worker_max_age_ms || p->worker_max_memory ||
           (p->kind == CONFIG_POOL_CLASSIC && p->worker_max_requests >= FEW_REQUESTS);
}

bool config_pool_has_image(const struct config_pool *p)
{
    return p->kind == CONFIG_POOL_IMAGE ||
           (p->kind == CONFIG_POOL_LOOP && p->worker_isolation == CONFIG_ISOLATION_ROLLBACK);
}

void config_set_pools(struct loader *l, const struct toml_value *tables)
{
    struct config *c = l->c;
    uint32_t n = 0;

    if (tables->type != TOML_TABLE) {
        loader_complain(l, NULL, tables->line, tables->column,
                        "pool: expected tables, [pool.NAME] each, found %s",
                        toml_type_name(tables->type));
        return;
    }
    for (const struct toml_value *v = tables->first; v; v = v->next)
        n++;
    if (n >= CONFIG_POOLS_MAX) {
        loader_complain(l, NULL, tables->line, tables->column,
                        "[pool.NAME]: expected at most %d pools beside [php], found %u",
                        CONFIG_POOLS_MAX - 1, n);
        return;
    }
    struct config_pool *pools = loader_alloc(l, (n + 1) * sizeof(*pools));
    if (!pools)
        return;
    pools[0] = c->pools[0];
    c->pools = pools;
    l->pool = &pools[0];
    for (const struct toml_value *v = tables->first; v && !l->out_of_memory; v = v->next)
        if (check_name(l, v))
            set_pool(l, &pools[c->n_pools++], v);
}
