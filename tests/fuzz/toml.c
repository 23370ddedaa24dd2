/* The TOML parser on any bytes: no crash, and every tree it gives keeps its promises. */
#include <errno.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tree(const struct toml_value *v)
{
    CHECK(v->line > 0 && v->column > 0);
    if (v->type != TOML_ARRAY && v->type != TOML_TABLE) {
        CHECK(!v->first && !v->last);
        CHECK(v->type != TOML_STRING || v->string.p[v->string.n] == '\0');
        return;
    }
    CHECK(!v->last || !v->last->next);
    for (const struct toml_value *it = v->first; it; it = it->next) {
        if (v->type == TOML_TABLE) {
            CHECK(it->key.p && it->key.p[it->key.n] == '\0' && it->key_line > 0);
            CHECK(toml_get(v, it->key) == it); /* unique */
        }
        CHECK(it->next || it == v->last);
        check_tree(it);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct toml_value *root = NULL;
    struct config_error error;

    arena_init(&arena, 64 << 20);
    int rc = toml_parse(&arena, (struct str){ (const char *)data, size }, &root, &error);
    CHECK(rc == 0 || rc == -EINVAL || rc == -ENOMEM);
    if (rc == 0)
        check_tree(root);
    if (rc == -EINVAL)
        CHECK(error.line > 0 && error.column > 0 && error.message.n > 0);
    arena_reset(&arena);
    return 0;
}
