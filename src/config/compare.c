/*
 * What differs between two configurations, key by key, as a reload wants to know it. Values are
 * compared by what they read as in TOML, so a key written in another way is no difference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_int.h"

static void append_text(void *ctx, const char *text)
{
    fputs(text, ctx);
}

static char *value_text(const struct config *c, const struct config_key *key, const void *field)
{
    char *text = NULL;
    size_t n = 0;
    FILE *memory = open_memstream(&text, &n);

    CHECK(memory);
    config_print_value(append_text, memory, c, key, field);
    CHECK(fclose(memory) == 0);
    return text;
}

static bool same_value(const struct config *a, const void *x, const struct config *b, const void *y,
                       const struct config_key *key)
{
    char *one = value_text(a, key, x), *other = value_text(b, key, y);
    bool same = strcmp(one, other) == 0;

    free(one);
    free(other);
    return same;
}

const char *config_difference(const struct config *a, uint32_t pool_a, const struct config *b,
                              uint32_t pool_b, enum config_scope scope)
{
    static char name[64];

    for (size_t i = 0; i < config_n_keys; i++) {
        const struct config_key *key = &config_keys[i];
        enum config_scope part = key->part == PART_POOL      ? CONFIG_SCOPE_POOL
                                 : key->part == PART_FASTCGI ? CONFIG_SCOPE_ROUTING
                                                             : CONFIG_SCOPE_GATEWAY;
        if (part != scope)
            continue;
        const void *x = config_field((struct config *)a, &a->pools[pool_a], key);
        const void *y = config_field((struct config *)b, &b->pools[pool_b], key);
        if (same_value(a, x, b, y, key))
            continue;
        snprintf(name, sizeof(name), "%s.%s", key->section, key->name);
        return name;
    }
    return NULL;
}

/* A route that says what the default is may still not mean its pool's. */
static bool is_given(const struct config_route *r, const struct config_key *key)
{
    return key->given_offset != NO_GIVEN_FIELD &&
           *(const bool *)((const char *)r + key->given_offset);
}

bool config_routes_differ(const struct config *a, const struct config *b)
{
    if (a->n_routes != b->n_routes)
        return true;
    for (uint32_t r = 0; r < a->n_routes; r++) {
        const struct config_route *x = &a->routes[r], *y = &b->routes[r];
        if (x->match != y->match || !str_eq(x->pattern, y->pattern))
            return true;
        for (size_t i = 0; i < config_n_route_keys; i++) {
            const struct config_key *key = &config_route_keys[i];
            if (is_given(x, key) != is_given(y, key))
                return true;
            if (!same_value(a, (const char *)x + key->offset, b, (const char *)y + key->offset,
                            key))
                return true;
        }
    }
    return false;
}

bool config_listen_is_default(const struct config *c)
{
    const struct config_key *key = config_key_find(STR("server"), STR("listen"));

    CHECK(key);
    return c->origins[key - config_keys].kind == CONFIG_FROM_DEFAULT;
}
