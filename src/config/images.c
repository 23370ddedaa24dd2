/*
 * Snapshots by script: the keys of [php] and [pool.NAME] about them, and the seats of images. A
 * pool with max_images = N gets N further pools of kind CONFIG_POOL_IMAGE, behind all others, which
 * share what is copied here and have no process until the supervisor gives them a script. They are
 * not counted by n_pools, so that nobody sees them who does not look for them.
 */
#include <stdio.h>

#include "base/beneath.h"
#include "config/config_int.h"

/* --- the keys --------------------------------------------------------------------------------- */

static uint32_t line_of(const struct config_pool *pool, const char *name)
{
    const struct config_key *key = config_key_find(STR("php"), str_from(name));

    CHECK(key);
    return pool->origins[key - config_keys].line;
}

static bool is_name_start(char c)
{
    return ascii_lower(c) != c || (c >= 'a' && c <= 'z') || c == '_' || (unsigned char)c >= 0x80;
}

/* A PHP name, with namespaces; `method`: also Class::method. */
static bool is_function(struct str s, bool method)
{
    bool starts = true, in_method = false;

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (is_name_start(c) || (!starts && c >= '0' && c <= '9')) {
            starts = false;
        } else if (c == '\\' && !in_method && (!starts || i == 0)) {
            starts = true;
        } else if (method && !in_method && !starts && c == ':' && i + 1 < s.n &&
                   s.p[i + 1] == ':') {
            in_method = starts = true;
            i++;
        } else {
            return false;
        }
    }
    return s.n > 0 && !starts;
}

static void check_at(struct loader *l, const struct config_pool *pool)
{
    struct str at = pool->snapshot_at;
    bool file = str_has_prefix(at, STR("include:")) && at.n > 8;
    bool function = str_has_prefix(at, STR("function:")) && is_function(str_skip(at, 9), true);

    if (at.n && !file && !function)
        loader_complain(l, NULL, line_of(pool, "snapshot_at"), 1,
                        "%.*s.snapshot_at: expected \"include:FILE\" or \"function:NAME\" (also "
                        "\"function:Class::method\"), found \"%.*s\"",
                        STR_ARG(pool->table), STR_ARG(at));
    else if (at.n && pool->snapshot_scripts.n == 0)
        loader_complain(l, NULL, line_of(pool, "snapshot_at"), 1,
                        "%.*s.snapshot_at: of which script? There is no front controller; name it "
                        "in %.*s.snapshot_scripts",
                        STR_ARG(pool->table), STR_ARG(pool->table));
}

/* A path below the document root, without "." and "..". */
static bool is_script(struct str s)
{
    return s.n <= 1024 && beneath_is_plain(s);
}

static void check_scripts(struct loader *l, struct config_pool *pool)
{
    struct config_strings *scripts = &pool->snapshot_scripts;

    if (pool->snapshot_at.n && scripts->n == 0 && pool->front_controller.n) {
        scripts->v = loader_alloc(l, sizeof(*scripts->v));
        if (!scripts->v)
            return;
        scripts->v[0] = pool->front_controller;
        scripts->n = 1;
    }
    for (uint32_t i = 0; i < scripts->n; i++)
        if (!is_script(scripts->v[i]))
            loader_complain(l, NULL, line_of(pool, "snapshot_scripts"), 1,
                            "%.*s.snapshot_scripts: expected paths below document_root such as "
                            "\"index.php\", found \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(scripts->v[i]));
}

/* "/path?query", and where `host` may stand before it, "https://host/path". */
static bool is_url(struct str s, bool host)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] == 0x7F)
            return false;
    if (s.n > 2048)
        return false;
    if (host && (str_has_prefix(s, STR("http://")) || str_has_prefix(s, STR("https://")))) {
        s = str_skip(s, s.p[4] == 's' ? 8 : 7);
        return s.n > 0 && s.p[0] != '/' && s.p[0] != '?';
    }
    return s.n > 0 && s.p[0] == '/';
}

static void check_urls(struct loader *l, const struct config_pool *pool)
{
    if (pool->snapshot_url.n && !is_url(pool->snapshot_url, true))
        loader_complain(l, NULL, line_of(pool, "snapshot_url"), 1,
                        "%.*s.snapshot_url: expected a path such as \"/\" or a URL such as "
                        "\"https://www.example.com/\" (%%-encoded, at most 2048 bytes), found "
                        "\"%.*s\"",
                        STR_ARG(pool->table), STR_ARG(pool->snapshot_url));
    for (uint32_t i = 0; i < pool->snapshot_warmup.n; i++)
        if (!is_url(pool->snapshot_warmup.v[i], false))
            loader_complain(l, NULL, line_of(pool, "snapshot_warmup"), 1,
                            "%.*s.snapshot_warmup: expected a path such as \"/shop/\" (with / at "
                            "its beginning, %%-encoded, at most 2048 bytes), found \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(pool->snapshot_warmup.v[i]));
}

static bool is_superglobal(struct str key)
{
    static const struct str names[] = { { "_SERVER", 7 }, { "_GET", 4 },     { "_POST", 5 },
                                        { "_COOKIE", 7 }, { "_REQUEST", 8 }, { "_ENV", 4 },
                                        { "_FILES", 6 } };
    struct str name = str_cut(&key, '.');

    for (size_t i = 0; i < ARRAY_LENGTH(names); i++)
        if (str_eq(name, names[i]))
            return key.n > 0;
    return false;
}

static bool is_predicate(struct str value)
{
    static const struct str words[] = {
        { "same", 4 }, { "any", 3 }, { "set", 3 }, { "absent", 6 }
    };

    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (str_eq(value, words[i]))
            return true;
    return str_has_prefix(value, STR("regex:")) && value.n > 6;
}

static void check_guards(struct loader *l, const struct config_pool *pool)
{
    for (uint32_t i = 0; i < pool->snapshot_guards.n; i++) {
        const struct config_pair *g = &pool->snapshot_guards.v[i];
        if (!is_superglobal(g->key))
            loader_complain(l, NULL, line_of(pool, "snapshot_guards"), 1,
                            "%.*s.snapshot_guards: expected what of a request, such as "
                            "\"_SERVER.HTTP_HOST\", \"_COOKIE.name\" or \"_COOKIE.*\", found "
                            "\"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(g->key));
        else if (!is_predicate(g->value))
            loader_complain(l, NULL, line_of(pool, "snapshot_guards"), 1,
                            "%.*s.snapshot_guards: %.*s: expected \"same\", \"any\", \"set\", "
                            "\"absent\" or \"regex:...\", found \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(g->key), STR_ARG(g->value));
    }
}

static void check_keys(struct loader *l, struct config_pool *pool)
{
    check_scripts(l, pool);
    check_at(l, pool);
    check_urls(l, pool);
    check_guards(l, pool);
    for (uint32_t i = 0; i < pool->snapshot_rerun.n; i++)
        if (!is_function(pool->snapshot_rerun.v[i], true))
            loader_complain(l, NULL, line_of(pool, "snapshot_rerun"), 1,
                            "%.*s.snapshot_rerun: expected names of functions, found \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(pool->snapshot_rerun.v[i]));
}

/* --- the seats -------------------------------------------------------------------------------- */

static bool has_images(const struct config_pool *pool)
{
    return pool->kind == CONFIG_POOL_CLASSIC && !pool->use_fpm && pool->max_images > 0;
}

/* A name that no pool of the file has: it stands in log lines. */
static struct str name_seat(struct loader *l, const struct config_pool *pool, uint32_t *number)
{
    struct config *c = l->c;

    for (;;) {
        struct str name = arena_printf(&c->arena, "%.*s-image%u", STR_ARG(pool->name), ++*number);
        bool taken = false;
        if (!name.p) {
            l->out_of_memory = true;
            return STR_NONE;
        }
        for (uint32_t i = 0; i < c->n_pools; i++)
            taken |= str_eq(c->pools[i].name, name);
        if (!taken)
            return name;
    }
}

static void add_seat(struct loader *l, uint32_t index, uint32_t *number)
{
    struct config *c = l->c;
    const struct config_pool *pool = &c->pools[index];
    struct config_pool *seat = &c->pools[c->n_seats++];

    *seat = *pool;
    seat->kind = CONFIG_POOL_IMAGE;
    seat->image_of = index;
    seat->name = name_seat(l, pool, number);
    seat->loop = seat->max_images = seat->first_image = 0;
    seat->worker_script = STR("");
    seat->worker_isolation = CONFIG_ISOLATION_ROLLBACK;
    seat->worker_warmup = pool->snapshot_warmup;
    seat->worker_sockets = pool->snapshot_sockets;
    seat->warmup = seat->probe = (struct config_strings){ 0 };
    seat->status_path = seat->ping_path = STR(""); /* pages show the pool that has the requests */
    seat->fallback = false;
    /* its workers go back to what they were after each request */
    seat->worker_max_requests = seat->worker_max_age_ms = seat->worker_max_memory = 0;
    if (seat->worker_min == CONFIG_AUTO) { /* forking one takes less than a millisecond */
        seat->worker_min = 1;
        seat->worker_spare = 0;
    }
}

void config_add_images(struct loader *l)
{
    struct config *c = l->c;
    uint32_t n = 0;

    c->n_seats = c->n_pools;
    for (uint32_t i = 0; i < c->n_pools && !l->out_of_memory; i++) {
        if (c->pools[i].kind == CONFIG_POOL_CLASSIC)
            check_keys(l, &c->pools[i]);
        n += has_images(&c->pools[i]) ? c->pools[i].max_images : 0;
    }
    if (n > CONFIG_ALL_IMAGES_MAX)
        loader_complain(l, NULL, line_of(&c->pools[0], "max_images"), 1,
                        "max_images: expected at most %d images in all pools together, found %u",
                        CONFIG_ALL_IMAGES_MAX, n);
    if (n == 0 || n > CONFIG_ALL_IMAGES_MAX || l->out_of_memory)
        return;
    struct config_pool *pools = loader_alloc(l, (c->n_pools + n) * sizeof(*pools));
    if (!pools)
        return;
    memcpy(pools, c->pools, c->n_pools * sizeof(*pools));
    c->pools = pools;
    for (uint32_t i = 0; i < c->n_pools && !l->out_of_memory; i++) {
        uint32_t number = 0;
        if (!has_images(&pools[i]))
            continue;
        pools[i].first_image = c->n_seats;
        for (uint32_t k = 0; k < pools[i].max_images; k++)
            add_seat(l, i, &number);
    }
}
