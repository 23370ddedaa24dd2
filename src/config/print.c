/*
 * The key table for people: the reference page docs/configuration.md, and the effective
 * configuration that `sapid check` shows.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_int.h"

struct sink {
    config_put *put;
    void *ctx;
};

PRINTF_LIKE(2, 3) static void print(const struct sink *out, const char *fmt, ...)
{
    char *text;
    va_list ap;

    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    CHECK(n >= 0);
    out->put(out->ctx, text);
    free(text);
}

/* ---- the effective configuration
 * ------------------------------------------------------------------ */

/* A TOML basic string. */
static void print_string(const struct sink *out, struct str s)
{
    out->put(out->ctx, "\"");
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\')
            print(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            print(out, "\\u%04X", c);
        else
            print(out, "%c", c);
    }
    out->put(out->ctx, "\"");
}

static void print_strings(const struct sink *out, const struct config_strings *list)
{
    out->put(out->ctx, "[");
    for (uint32_t i = 0; i < list->n; i++) {
        out->put(out->ctx, i ? ", " : "");
        print_string(out, list->v[i]);
    }
    out->put(out->ctx, "]");
}

static void print_pairs(const struct sink *out, const struct config_pairs *pairs)
{
    out->put(out->ctx, pairs->n ? "{ " : "{");
    for (uint32_t i = 0; i < pairs->n; i++) {
        out->put(out->ctx, i ? ", " : "");
        print_string(out, pairs->v[i].key);
        out->put(out->ctx, " = ");
        print_string(out, pairs->v[i].value);
    }
    out->put(out->ctx, pairs->n ? " }" : "}");
}

static void print_listen(const struct sink *out, const struct config_server *server)
{
    out->put(out->ctx, "[");
    for (uint32_t i = 0; i < server->n_listen; i++) {
        out->put(out->ctx, i ? ", " : "");
        print_string(out, server->listen[i].text);
    }
    out->put(out->ctx, "]");
}

static void print_servers(const struct sink *out, const struct config_fastcgi *group)
{
    out->put(out->ctx, "[");
    for (uint32_t i = 0; i < group->n_servers; i++) {
        const struct config_fastcgi_server *s = &group->servers[i];
        out->put(out->ctx, i ? ", { address = " : "{ address = ");
        print_string(out, s->address.text);
        print(out, ", weight = %" PRIu32 ", connections = %" PRIu32 " }", s->weight,
              s->connections);
    }
    out->put(out->ctx, "]");
}

static void print_pool_size(const struct sink *out, const struct config_pool *p)
{
    char most[32] = "\"auto\"";

    if (p->worker_pool_size != CONFIG_AUTO)
        snprintf(most, sizeof(most), "%" PRId32, p->worker_pool_size);
    if (p->worker_min == CONFIG_AUTO)
        out->put(out->ctx, most);
    else
        print(out, "{ min = %" PRId32 ", max = %s, spare = %" PRId32 " }", p->worker_min, most,
              p->worker_spare);
}

static void print_value(const struct sink *out, const struct config *c,
                        const struct config_key *key, const void *field)
{
    char text[32];

    switch (key->kind) {
    case KIND_BOOLEAN: out->put(out->ctx, *(const bool *)field ? "true" : "false"); break;
    case KIND_COUNT32: print(out, "%" PRIu32, *(const uint32_t *)field); break;
    case KIND_COUNT64: print(out, "%" PRIu64, *(const uint64_t *)field); break;
    case KIND_AUTO:
        if (*(const int32_t *)field == CONFIG_AUTO)
            out->put(out->ctx, "\"auto\"");
        else
            print(out, "%" PRId32, *(const int32_t *)field);
        break;
    case KIND_SIZE:
        config_format_size(*(const uint64_t *)field, text, sizeof(text));
        print(out, "\"%s\"", text);
        break;
    case KIND_TIME:
        config_format_time(*(const uint64_t *)field, text, sizeof(text));
        print(out, "\"%s\"", text);
        break;
    case KIND_STRING:
    case KIND_PATH:
    case KIND_LOG_TARGET:
    case KIND_LEVEL: print_string(out, *(const struct str *)field); break;
    case KIND_FRONT_CONTROLLER:
        if (((const struct str *)field)->n)
            print_string(out, *(const struct str *)field);
        else
            out->put(out->ctx, "false");
        break;
    case KIND_FORMAT: print(out, "\"%s\"", key->choices[*(const int *)field]); break;
    case KIND_STRINGS:
    case KIND_PEERS: print_strings(out, field); break;
    case KIND_LISTEN: print_listen(out, &c->server); break;
    case KIND_PAIRS: print_pairs(out, field); break;
    case KIND_ADDRESS: print_string(out, ((const struct config_listen *)field)->text); break;
    case KIND_SERVERS: print_servers(out, &c->fastcgi); break;
    case KIND_POOL_SIZE:
        print_pool_size(out, (const void *)((const char *)field - key->offset));
        break;
    }
}

void config_print_value(config_put *put, void *ctx, const struct config *c,
                        const struct config_key *key, const void *field)
{
    const struct sink out = { put, ctx };

    print_value(&out, c, key, field);
}

/* Keys whose default is found at start have nothing that could be loaded again: those lines are
 * comments. */
static bool is_decided_at_start(const struct config_key *key, const struct config_origin *o)
{
    return key->fallback_text && o->kind == CONFIG_FROM_DEFAULT;
}

static const char *origin_text(const struct config *c, const struct config_origin *o, char *out,
                               size_t size)
{
    if (o->kind == CONFIG_FROM_FILE)
        snprintf(out, size, "%.*s:%u", STR_ARG(c->file), o->line);
    else
        snprintf(out, size, "%s", o->kind == CONFIG_FROM_DEFAULT ? "default" : "command line");
    return out;
}

static void append_text(void *ctx, const char *text)
{
    fputs(text, ctx);
}

/* "key = value", and the origin in a column of its own. */
static void print_effective_key(const struct sink *out, const struct config *c,
                                const struct config_key *key, const void *field,
                                const struct config_origin *o)
{
    enum { COLUMN = 44 };
    char *line = NULL, origin[512];
    size_t n = 0;
    FILE *memory = open_memstream(&line, &n);

    CHECK(memory);
    struct sink to_line = { append_text, memory };
    print(&to_line, "%s = ", key->name);
    print_value(&to_line, c, key, field);
    CHECK(fclose(memory) == 0);
    print(out, "%-*s  # %s\n", COLUMN, line, origin_text(c, o, origin, sizeof(origin)));
    free(line);
}

/* All keys of a section; of a pool those of [php]. */
static void print_section(const struct sink *out, const struct config *c, struct config_pool *pool,
                          const char *section)
{
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct config_key *key = &config_keys[i];
        const struct config_origin *o = key->part == PART_POOL ? &pool->origins[i] : &c->origins[i];
        if (strcmp(key->section, section) != 0)
            continue;
        if (is_decided_at_start(key, o))
            print(out, "# %s: %s\n", key->name, key->fallback_text);
        else
            print_effective_key(out, c, key, config_field((struct config *)c, pool, key), o);
    }
}

/* Nothing of it was written in the file. */
static bool is_empty(const struct config_key *key, const void *field)
{
    switch (key->kind) {
    case KIND_BOOLEAN: return !*(const bool *)field;
    case KIND_COUNT32: return *(const uint32_t *)field == 0;
    case KIND_SIZE:
    case KIND_TIME: return *(const uint64_t *)field == 0;
    case KIND_STRING: return ((const struct str *)field)->n == 0;
    case KIND_AUTO: return *(const int32_t *)field == CONFIG_AUTO;
    case KIND_STRINGS: return ((const struct config_strings *)field)->n == 0;
    default: return false;
    }
}

static void print_route(const struct sink *out, const struct config *c, struct config_route *r)
{
    static const char *const kinds[] = { "exact", "prefix", "suffix", "regex" };

    print(out, "\n[[route]] # %.*s:%" PRIu32 "\nmatch = { %s = ", STR_ARG(c->file), r->line,
          kinds[r->match]);
    print_string(out, r->pattern);
    out->put(out->ctx, " }\n");
    for (size_t i = 0; i < config_n_route_keys; i++) {
        const struct config_key *key = &config_route_keys[i];
        const void *field = (const char *)r + key->offset;
        bool backend = key->offset == offsetof(struct config_route, backend);
        if (is_empty(key, field) || (backend && r->backend == CONFIG_BACKEND_REDIRECT))
            continue;
        print(out, "%s = ", key->name);
        print_value(out, c, key, field);
        out->put(out->ctx, "\n");
    }
}

void config_print_effective(const struct config *c, config_put *put, void *ctx)
{
    struct sink out = { put, ctx };

    for (size_t s = 0; s < config_n_sections; s++) {
        print(&out, "%s[%s]\n", s ? "\n" : "", config_sections[s].name);
        print_section(&out, c, &c->pools[0], config_sections[s].name);
    }
    for (uint32_t i = 1; i < c->n_pools; i++) {
        if (c->pools[i].kind == CONFIG_POOL_LOOP)
            continue; /* what [worker] says */
        print(&out, "\n[%.*s]\n", STR_ARG(c->pools[i].table));
        print_section(&out, c, &c->pools[i], "php");
        if (!c->pools[i].worker_script.n)
            continue;
        print(&out, "\n[%.*s.worker]\n", STR_ARG(c->pools[i].table));
        print_section(&out, c, &c->pools[i], "worker");
    }
    for (uint32_t i = 0; i < c->n_routes; i++)
        print_route(&out, c, &c->routes[i]);
}

/* ---- the reference page
 * --------------------------------------------------------------------------- */

static const char *kind_text(const struct config_key *key)
{
    static const char *const text[] = {
        [KIND_BOOLEAN] = "true or false",
        [KIND_COUNT32] = "whole number",
        [KIND_COUNT64] = "whole number",
        [KIND_AUTO] = "`\"auto\"` or whole number",
        [KIND_SIZE] = "size",
        [KIND_TIME] = "time",
        [KIND_STRING] = "string",
        [KIND_PATH] = "path",
        [KIND_FRONT_CONTROLLER] = "path below `document_root`, or false",
        [KIND_LOG_TARGET] = "path or word",
        [KIND_LEVEL] = "word",
        [KIND_FORMAT] = "word",
        [KIND_STRINGS] = "list of strings",
        [KIND_PEERS] = "list of addresses",
        [KIND_LISTEN] = "string or list of strings",
        [KIND_PAIRS] = "table",
        [KIND_ADDRESS] = "address",
        [KIND_POOL_SIZE] = "`\"auto\"`, whole number or table",
        [KIND_SERVERS] = "list of addresses and tables",
    };
    CHECK((size_t)key->kind < ARRAY_LENGTH(text) && text[key->kind]);
    return text[key->kind];
}

static void print_range(const struct sink *out, const struct config_key *key)
{
    char low[32], high[32];

    if (key->max == 0)
        return;
    if (key->kind == KIND_SIZE) {
        config_format_size(key->min, low, sizeof(low));
        config_format_size(key->max, high, sizeof(high));
    } else if (key->kind == KIND_TIME) {
        config_format_time(key->min, low, sizeof(low));
        config_format_time(key->max, high, sizeof(high));
    } else {
        snprintf(low, sizeof(low), "%" PRIu64, key->min);
        snprintf(high, sizeof(high), "%" PRIu64, key->max);
    }
    print(out, ", %s to %s", low, high);
}

static void print_key(const struct sink *out, const struct config_key *key)
{
    print(out, "### %s.%s\n\n", key->section, key->name);
    print(out, "%s", kind_text(key));
    print_range(out, key);
    if (key->fallback_text)
        print(out, "; default: %s\n\n", key->fallback_text);
    else
        print(out, "; default: `%s`\n\n", key->fallback);
    print(out, "%s\n\n", key->text);
    print(out, "```toml\n%s = %s\n```\n\n", key->name, key->example);
}

void config_print_reference(config_put *put, void *ctx)
{
    struct sink out = { put, ctx };

    put(ctx,
        "<!-- Printed by `sapid check --reference` from the key table in src/config/keys.c. Do "
        "not edit. -->\n"
        "# Configuration reference\n"
        "\n"
        "sapid needs no configuration file. `--config FILE` reads one; it is [TOML "
        "1.0](https://toml.io/en/v1.0.0).\n"
        "What the command line says beats the file (see [command-line.md](command-line.md)).\n"
        "`sapid check --config FILE` reads a file without serving anything: it reports every "
        "error with file,\n"
        "line and column, or prints the effective value of every key and where it came from.\n"
        "\n"
        "- An unknown key is an error, and the message names the nearest known one.\n"
        "- A **size** is a number of bytes or a string such as `\"64M\"` (K, M, G and T count "
        "in 1024s).\n"
        "- A **time** is a string with its unit: `\"500ms\"`, `\"30s\"`, `\"2m\"`, `\"1h\"`, "
        "`\"1d\"`; or `0`.\n"
        "- A relative **path** in the file is relative to the file's folder, on the command "
        "line to the current one.\n"
        "- `sapid reload` (SIGHUP) reads the file again, and every key takes effect without a lost "
        "request: see [deploy.md](deploy.md).\n"
        "\n");
    for (size_t s = 0; s < config_n_sections; s++) {
        print(&out, "## [%s]\n\n%s\n\n", config_sections[s].name, config_sections[s].text);
        for (size_t i = 0; i < config_n_keys; i++)
            if (str_eq(str_from(config_keys[i].section), str_from(config_sections[s].name)))
                print_key(&out, &config_keys[i]);
    }
    put(ctx,
        "## [pool.NAME]\n\nA further pool beside that of `[php]`: a process tree of its own, with "
        "its own user, php.ini settings, document root, workers and opcache, for the routes that "
        "name it. It has the keys of `[php]`, and their defaults: nothing is taken over from "
        "`[php]`. `document_root` must be given. See [pools.md](pools.md).\n\n```toml\n"
        "[pool.admin]\ndocument_root = \"/srv/admin\"\nuser = \"admin\"\n```\n\n"
        "`[pool.NAME.worker]` has the keys of `[worker]`: worker mode for that pool.\n\n"
        "## [[route]]\n\nWhat becomes of requests by their path; see [routes.md](routes.md). One "
        "table for each route, with `match = { exact = \"/path\" }`, `{ prefix = \"/path/\" }`, "
        "`{ suffix = \".pdf\" }` or `{ regex = \"^/user/([0-9]+)$\" }` (PCRE2) on the decoded "
        "path.\n\n");
    for (size_t i = 0; i < config_n_route_keys; i++)
        print_key(&out, &config_route_keys[i]);
}
