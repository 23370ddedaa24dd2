/*
 * A whole configuration: defaults from the key table, then the file, then the command line, each
 * value through config_set. Nothing stops at the first error; memory is the one exception.
 */
#include "config/config.h"

#include <errno.h>
#include <stdio.h>

#include "base/mem.h"
#include "config/config_int.h"

enum { CONFIG_BYTES_MAX = 64 * 1024 * 1024 };

/* ---- loader
 * --------------------------------------------------------------------------------------- */

void *loader_alloc(struct loader *l, size_t bytes)
{
    void *p = arena_zalloc(&l->c->arena, bytes);

    if (!p)
        l->out_of_memory = true;
    return p;
}

struct str loader_copy(struct loader *l, struct str s)
{
    struct str copy = arena_copy(&l->c->arena, s);

    if (!copy.p)
        l->out_of_memory = true;
    return copy;
}

/* Absolute, without ".", "//" and a '/' at the end. ".." stays: only the kernel knows what it
 * means. */
struct str loader_absolute(struct loader *l, struct str path)
{
    bool absolute = path.n && path.p[0] == '/';
    size_t room = (absolute ? 0 : l->base_dir.n + 1) + path.n + 2, n = 0;
    struct str parts[2] = { absolute ? STR("") : l->base_dir, path };
    char *out = loader_alloc(l, room);

    if (!out)
        return STR_NONE;
    for (int i = 0; i < 2; i++) {
        struct str rest = parts[i];
        while (rest.p && rest.n) {
            struct str segment = str_cut(&rest, '/');
            if (segment.n == 0 || str_eq(segment, STR(".")))
                continue;
            out[n++] = '/';
            memcpy(out + n, segment.p, segment.n);
            n += segment.n;
        }
    }
    if (n == 0)
        out[n++] = '/';
    CHECK(n < room);
    out[n] = '\0';
    return (struct str){ out, n };
}

void loader_complain(struct loader *l, const struct config_key *key, uint32_t line, uint32_t column,
                     const char *fmt, ...)
{
    struct arena *arena = &l->c->arena;
    va_list ap;

    va_start(ap, fmt);
    struct str text = arena_vprintf(arena, fmt, ap);
    va_end(ap);
    if (text.p && key) {
        struct str table = str_from(key->section);
        if (key->part == PART_POOL && l->pool->table.p && str_eq(table, STR("php")))
            table = l->pool->table;
        text = arena_printf(arena, "%.*s.%s: %.*s", STR_ARG(table), key->name, STR_ARG(text));
    }
    if (!text.p) {
        l->out_of_memory = true;
        return;
    }
    if (l->errors.n == l->errors_room) {
        uint32_t room = l->errors_room ? l->errors_room * 2 : 8;
        struct config_error *v = loader_alloc(l, room * sizeof(*v));
        if (!v)
            return;
        if (l->errors.n)
            memcpy(v, l->errors.v, l->errors.n * sizeof(*v));
        l->errors.v = v;
        l->errors_room = room;
    }
    l->errors.v[l->errors.n++] = (struct config_error){ line, column, text };
}

void config_set_from(struct loader *l, const struct config_key *key, const struct toml_value *v,
                     enum config_origin_kind origin)
{
    struct config_origin *all = key->part == PART_POOL ? l->pool->origins : l->c->origins;
    struct config_origin *o = &all[key - config_keys];

    *o = (struct config_origin){ origin, v->line, v->column };
    if (key->given_offset != NO_GIVEN_FIELD && origin != CONFIG_FROM_DEFAULT) {
        char *field = config_field(l->c, l->pool, key);
        *(bool *)(field - key->offset + key->given_offset) = true;
    }
    config_set(l, key, v);
}

/* ---- defaults
 * ------------------------------------------------------------------------------------- */

void config_set_defaults(struct loader *l)
{
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct config_key *key = &config_keys[i];
        struct toml_value *root;
        struct config_error error;
        if (key->part != PART_POOL && l->pool != &l->c->pools[0])
            continue;
        struct str line = arena_printf(&l->c->arena, "x = %s", key->fallback);

        if (!strcmp(key->fallback, "\"\"")) {
            *(struct str *)config_field(l->c, l->pool, key) = STR(""); /* of an address: its text */
            continue;
        }
        int rc = line.p ? toml_parse(&l->c->arena, line, &root, &error) : -ENOMEM;
        if (rc == -ENOMEM) {
            l->out_of_memory = true;
            return;
        }
        CHECKF(rc == 0, "default of %s.%s: %.*s", key->section, key->name, STR_ARG(error.message));
        config_set_from(l, key, toml_get(root, STR("x")), CONFIG_FROM_DEFAULT);
    }
}

/* ---- the file
 * ------------------------------------------------------------------------------------- */

void config_complain_unknown_key(struct loader *l, struct str table, struct str section,
                                 const struct toml_value *v)
{
    const struct config_key *near = config_key_nearest(section, v->key);

    if (!near)
        loader_complain(l, NULL, v->key_line, v->key_column, "unknown key %.*s.%.*s",
                        STR_ARG(table), STR_ARG(v->key));
    else if (str_eq(section, str_from(near->section)))
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "unknown key %.*s.%.*s; did you mean %s?", STR_ARG(table), STR_ARG(v->key),
                        near->name);
    else
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "unknown key %.*s.%.*s; did you mean %s in [%s]?", STR_ARG(table),
                        STR_ARG(v->key), near->name, near->section);
}

/* "[server], [php], ..., [pool.NAME] and [[route]]" */
static struct str known_tables(struct loader *l)
{
    struct str text = STR("");

    for (size_t i = 0; i < config_n_sections && text.p; i++)
        text = arena_printf(&l->c->arena, "%.*s[%s], ", STR_ARG(text), config_sections[i].name);
    text = arena_printf(&l->c->arena, "%.*s[pool.NAME] and [[route]]", STR_ARG(text));
    if (!text.p)
        l->out_of_memory = true;
    return text;
}

static void complain_unknown_top(struct loader *l, const struct toml_value *v)
{
    const struct config_section *section = config_section_nearest(v->key);
    const struct config_key *key = config_key_nearest(STR_NONE, v->key);
    bool table = v->type == TOML_TABLE || (v->type == TOML_ARRAY && v->origin == TOML_BY_HEADER);
    struct str tables = known_tables(l);

    if (table && section)
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "unknown table [%.*s]; did you mean [%s]?", STR_ARG(v->key), section->name);
    else if (table)
        loader_complain(l, NULL, v->key_line, v->key_column, "unknown table [%.*s]; known are %.*s",
                        STR_ARG(v->key), STR_ARG(tables));
    else if (key)
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "unknown key %.*s outside of any table; did you mean %s in [%s]?",
                        STR_ARG(v->key), key->name, key->section);
    else
        loader_complain(l, NULL, v->key_line, v->key_column,
                        "unknown key %.*s; every key belongs to a table: %.*s", STR_ARG(v->key),
                        STR_ARG(tables));
}

static void set_file(struct loader *l, const struct toml_value *root)
{
    for (const struct toml_value *table = root->first; table; table = table->next) {
        bool known = false;
        if (str_eq(table->key, STR("route"))) {
            config_set_routes(l, table);
            continue;
        }
        if (str_eq(table->key, STR("pool"))) {
            config_set_pools(l, table);
            continue;
        }
        for (size_t i = 0; i < config_n_sections; i++)
            known |= str_eq(table->key, str_from(config_sections[i].name));
        if (!known) {
            complain_unknown_top(l, table);
            continue;
        }
        if (table->type != TOML_TABLE) {
            loader_complain(l, NULL, table->line, table->column,
                            "%.*s: expected a table, [%.*s], found %s", STR_ARG(table->key),
                            STR_ARG(table->key), toml_type_name(table->type));
            continue;
        }
        for (const struct toml_value *v = table->first; v; v = v->next) {
            const struct config_key *key = config_key_find(table->key, v->key);
            if (key)
                config_set_from(l, key, v, CONFIG_FROM_FILE);
            else
                config_complain_unknown_key(l, table->key, table->key, v);
        }
    }
}

/* ---- the command line
 * ----------------------------------------------------------------------------- */

static bool is_list(const struct config_key *key)
{
    return key->kind == KIND_LISTEN || key->kind == KIND_STRINGS || key->kind == KIND_PEERS ||
           key->kind == KIND_SERVERS;
}

/* "php.ini.opcache.enable" -> the key php.ini and "opcache.enable". */
static const struct config_key *find_override(struct str name, struct str *ret_pair)
{
    struct str rest = name, section = str_cut(&rest, '.'), after = rest;
    struct str first = str_cut(&after, '.');
    const struct config_key *key = config_key_find(section, first);

    *ret_pair = after;
    if (key && (key->kind == KIND_PAIRS) != (after.n > 0))
        return NULL;
    return key;
}

/* Text of the command line as the TOML value that the key would have in a file. */
static struct toml_value *override_value(struct loader *l, const struct config_key *key,
                                         struct str text)
{
    struct toml_value *v = loader_alloc(l, sizeof(*v));
    uint64_t number;

    if (!v)
        return NULL;
    v->type = TOML_STRING;
    v->string = text;
    switch (key->kind) {
    case KIND_BOOLEAN:
    case KIND_FRONT_CONTROLLER:
        if (str_eq(text, STR("true")) || str_eq(text, STR("false"))) {
            v->type = TOML_BOOLEAN;
            v->boolean = text.p[0] == 't';
        }
        break;
    case KIND_COUNT32:
    case KIND_COUNT64:
    case KIND_AUTO:
    case KIND_POOL_SIZE:
    case KIND_SIZE:
    case KIND_TIME:
        if (str_to_u64(text, INT64_MAX, &number)) {
            v->type = TOML_INTEGER;
            v->integer = (int64_t)number;
        }
        break;
    default: break;
    }
    return v;
}

static void append(struct toml_value *parent, struct toml_value *child)
{
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
}

/* The array of all values given for a list key, or the one-entry table of a pair. */
static struct toml_value *override_collected(struct loader *l, const struct config_key *key,
                                             struct str pair, struct str text,
                                             struct toml_value **lists)
{
    struct toml_value *v = override_value(l, key, text);

    if (!v || (!is_list(key) && key->kind != KIND_PAIRS))
        return v;
    struct toml_value *whole = is_list(key) ? lists[key - config_keys] : NULL;
    if (!whole) {
        whole = loader_alloc(l, sizeof(*whole));
        if (!whole)
            return NULL;
        whole->type = is_list(key) ? TOML_ARRAY : TOML_TABLE;
    }
    if (is_list(key))
        lists[key - config_keys] = whole;
    v->key = pair;
    append(whole, v);
    return is_list(key) ? NULL : whole;
}

static void set_overrides(struct loader *l, const char *const *overrides)
{
    struct toml_value **lists = loader_alloc(l, config_n_keys * sizeof(struct toml_value *));

    if (!lists)
        return;
    for (; overrides && *overrides; overrides++) {
        struct str rest = loader_copy(l, str_from(*overrides)), pair;
        struct str name = str_cut(&rest, '=');
        const struct config_key *key = find_override(name, &pair);

        if (str_eq(name, STR("dev"))) {
            l->c->dev = str_eq(rest, STR("true"));
        } else if (!rest.p) {
            loader_complain(l, NULL, 0, 0, "expected key=value, found \"%s\"", *overrides);
        } else if (!key) {
            struct str after = name, section = str_cut(&after, '.');
            struct toml_value unknown = { .key = after };
            config_complain_unknown_key(l, section, section, &unknown);
        } else {
            struct toml_value *v = override_collected(l, key, pair, rest, lists);
            if (v)
                config_set_from(l, key, v, CONFIG_FROM_COMMAND_LINE);
        }
    }
    for (size_t i = 0; i < config_n_keys; i++)
        if (lists[i])
            config_set_from(l, &config_keys[i], lists[i], CONFIG_FROM_COMMAND_LINE);
}

/* ---- the whole
 * ------------------------------------------------------------------------------------ */

static int parse_file(struct loader *l, struct str text)
{
    struct toml_value *root;
    struct config_error error;
    int rc = toml_parse(&l->c->arena, text, &root, &error);

    if (rc == 0)
        set_file(l, root);
    else if (rc == -EINVAL)
        loader_complain(l, NULL, error.line, error.column, "%.*s", STR_ARG(error.message));
    return rc;
}

/* --dev: what a developer wants of PHP, unless a key or -d says otherwise. */
static void apply_dev(struct loader *l, struct config_pool *pool)
{
    static const char *const settings[][2] = {
        { "display_errors", "1" },
        { "display_startup_errors", "1" },
        { "error_reporting", "32767" }, /* E_ALL */
        { "html_errors", "1" },
        { "opcache.validate_timestamps", "1" },
        { "opcache.revalidate_freq", "0" },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(settings); i++) {
        bool given = false;
        for (uint32_t j = 0; j < pool->ini.n; j++)
            given |= str_eq(pool->ini.v[j].key, str_from(settings[i][0]));
        if (!given)
            config_pairs_put(l, &pool->ini, str_from(settings[i][0]), str_from(settings[i][1]));
    }
}

static uint32_t line_of(const struct config_pool *pool, const char *name)
{
    const struct config_key *key = config_key_find(STR("php"), str_from(name));

    CHECK(key);
    return pool->origins[key - config_keys].line;
}

/* The group of servers that the pool's PHP requests may go to. */
static void find_upstream(struct loader *l, struct config_pool *pool)
{
    struct config_fastcgi *group = loader_alloc(l, sizeof(*group));

    if (!group)
        return;
    *group = l->c->fastcgi;
    for (uint32_t i = 0; i < group->n_servers; i++)
        if (!group->servers[i].connections)
            group->servers[i].connections = group->connections;
    if (pool->fpm_socket.text.n) {
        struct config_fastcgi_server *server = loader_alloc(l, sizeof(*server));
        if (!server)
            return;
        *server = (struct config_fastcgi_server){ .address = pool->fpm_socket,
                                                  .weight = 1,
                                                  .connections = group->connections };
        group->servers = server;
        group->n_servers = 1;
    }
    pool->upstream = group->n_servers ? group : NULL;
    if ((pool->use_fpm || pool->fallback) && !pool->upstream) {
        const char *key = pool->use_fpm ? "use_fpm" : "fallback";
        loader_complain(l, NULL, line_of(pool, key), 1,
                        "%.*s.%s = true needs %.*s.fpm_socket = \"/run/php/php8.2-fpm.sock\" or "
                        "fastcgi.servers: where is PHP-FPM?",
                        STR_ARG(pool->table), key, STR_ARG(pool->table));
    }
}

/* What the server asks for itself. */
static void check_paths(struct loader *l, const struct config_pool *pool, const char *name,
                        const struct config_strings *list)
{
    for (uint32_t i = 0; i < list->n; i++) {
        struct str path = list->v[i];
        bool good = path.n && path.p[0] == '/' && path.n <= 2048;
        for (size_t at = 0; good && at < path.n; at++)
            good = path.p[at] > ' ' && path.p[at] != 0x7F;
        if (!good)
            loader_complain(l, NULL, line_of(pool, name), 1,
                            "%.*s.%s: expected a path such as \"/health\" (with / at its "
                            "beginning, %%-encoded, at most 2048 bytes), found \"%.*s\"",
                            STR_ARG(pool->table), name, STR_ARG(path));
    }
}

/* umask, chroot, chdir and what is a script. */
static void check_surroundings(struct loader *l, const struct config_pool *pool)
{
    struct str root = pool->chroot, inside = pool->document_root;
    bool octal = pool->umask.n <= 4;

    for (size_t i = 0; i < pool->umask.n; i++)
        octal = octal && pool->umask.p[i] >= '0' && pool->umask.p[i] <= '7';
    if (!octal)
        loader_complain(l, NULL, line_of(pool, "umask"), 1,
                        "%.*s.umask: expected up to four octal digits such as \"0027\", found "
                        "\"%.*s\"",
                        STR_ARG(pool->table), STR_ARG(pool->umask));
    if (pool->chdir.n && pool->chdir.p[0] != '/')
        loader_complain(l, NULL, line_of(pool, "chdir"), 1,
                        "%.*s.chdir: expected an absolute path, found \"%.*s\"",
                        STR_ARG(pool->table), STR_ARG(pool->chdir));
    if (root.n > 1 && pool->document_root_given &&
        !(str_has_prefix(inside, root) && (inside.n == root.n || inside.p[root.n] == '/')))
        loader_complain(l, NULL, line_of(pool, "chroot"), 1,
                        "%.*s.chroot: expected a folder above the document root %.*s, found "
                        "\"%.*s\"",
                        STR_ARG(pool->table), STR_ARG(inside), STR_ARG(root));
    for (uint32_t i = 0; i < pool->sendfile_roots.n; i++)
        if (pool->sendfile_roots.v[i].n == 0 || pool->sendfile_roots.v[i].p[0] != '/')
            loader_complain(l, NULL, line_of(pool, "sendfile_roots"), 1,
                            "%.*s.sendfile_roots: expected absolute paths, found \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(pool->sendfile_roots.v[i]));
    for (uint32_t i = 0; i < pool->accel_locations.n; i++) {
        const struct config_pair *one = &pool->accel_locations.v[i];
        if (one->key.p[0] != '/' || one->value.n == 0 || one->value.p[0] != '/')
            loader_complain(l, NULL, line_of(pool, "accel_locations"), 1,
                            "%.*s.accel_locations: expected a URL path and a folder such as "
                            "\"/protected/\" = \"/srv/files\", found \"%.*s\" = \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(one->key), STR_ARG(one->value));
    }
    for (uint32_t i = 0; i < pool->limit_extensions.n; i++) {
        struct str one = pool->limit_extensions.v[i];
        if (one.n < 2 || one.p[0] != '.' || str_find(one, '/') >= 0)
            loader_complain(l, NULL, line_of(pool, "limit_extensions"), 1,
                            "%.*s.limit_extensions: expected ends of file names such as \".php\", "
                            "found \"%.*s\"",
                            STR_ARG(pool->table), STR_ARG(one));
    }
}

/* What the gateway answers by itself must have a URL of its own. */
static void check_page(struct loader *l, const struct config_pool *pool, const char *name,
                       struct str path)
{
    uint32_t same = 0;

    if (path.n == 0)
        return;
    for (const struct config_pool *p = l->c->pools; p <= pool; p++)
        same += str_eq(p->status_path, path) + str_eq(p->ping_path, path);
    if (path.p[0] != '/')
        loader_complain(l, NULL, line_of(pool, name), 1,
                        "%.*s.%s: expected a path that begins with /, found \"%.*s\"",
                        STR_ARG(pool->table), name, STR_ARG(path));
    else if (same > 1)
        loader_complain(l, NULL, line_of(pool, name), 1,
                        "%.*s.%s: \"%.*s\" is the path of another status or ping page",
                        STR_ARG(pool->table), name, STR_ARG(path));
}

/* document_root is absolute in any case; without one it is where detection begins. */
static void finish(struct loader *l)
{
    struct config_pool *pool = &l->c->pools[0];

    if (!pool->document_root_given)
        pool->document_root = loader_absolute(l, l->base_dir);
    for (uint32_t i = 0; i < l->c->n_pools && !l->out_of_memory; i++) {
        if (l->c->dev)
            apply_dev(l, &l->c->pools[i]);
        find_upstream(l, &l->c->pools[i]);
        check_surroundings(l, &l->c->pools[i]);
        check_paths(l, &l->c->pools[i], "warmup", &l->c->pools[i].warmup);
        check_paths(l, &l->c->pools[i], "probe", &l->c->pools[i].probe);
        check_page(l, &l->c->pools[i], "status_path", l->c->pools[i].status_path);
        check_page(l, &l->c->pools[i], "ping_path", l->c->pools[i].ping_path);
    }
    config_add_loops(l);
    config_add_images(l);
}

int config_load(struct str file, struct str text, const char *const *overrides, struct str base_dir,
                struct config **ret, struct config_errors *ret_errors)
{
    struct loader l = { .c = mem_try_zalloc(sizeof(*l.c)), .base_dir = base_dir };

    *ret = l.c;
    *ret_errors = (struct config_errors){ 0 };
    if (!l.c)
        return -ENOMEM;
    arena_init(&l.c->arena, CONFIG_BYTES_MAX);
    l.c->file = loader_copy(&l, file);
    l.c->pools = loader_alloc(&l, sizeof(*l.c->pools));
    l.c->origins = loader_alloc(&l, config_n_keys * sizeof(*l.c->origins));
    if (l.out_of_memory)
        return -ENOMEM;
    l.c->n_pools = l.c->n_seats = 1;
    l.c->pools[0] =
        (struct config_pool){ .name = STR("www"), .table = STR("php"), .origins = l.c->origins };
    l.pool = &l.c->pools[0];
    config_set_defaults(&l);
    CHECKF(l.errors.n == 0, "default: %.*s", STR_ARG(l.errors.v[0].message));
    if (!l.out_of_memory && parse_file(&l, text) == -ENOMEM)
        l.out_of_memory = true;
    if (!l.out_of_memory)
        set_overrides(&l, overrides);
    if (!l.out_of_memory)
        finish(&l);
    if (!l.out_of_memory)
        config_check_routes(&l);
    if (l.out_of_memory)
        return -ENOMEM;
    *ret_errors = l.errors;
    return l.errors.n ? -EINVAL : 0;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    arena_reset(&c->arena);
    mem_free(c);
}

char *config_error_line(const struct config *c, const struct config_error *e)
{
    if (e->line == 0)
        return mem_printf("command line: %.*s", STR_ARG(e->message));
    return mem_printf("%.*s:%u:%u: %.*s", STR_ARG(c->file), e->line, e->column,
                      STR_ARG(e->message));
}
