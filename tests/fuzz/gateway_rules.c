/* [[route]]: any pattern on any path, and any template with what it matched. The input is a kind of
 * match, a pattern, a template, a query and a path, each but the last ended by a NUL. */
#include <stdlib.h>

#include "gateway/rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy of exactly its size, for the sanitizer to see its end; to be freed. */
static struct str take(struct str *rest)
{
    struct str part = str_cut(rest, '\0');
    char *copy = malloc(part.n + 1);

    CHECK(copy);
    if (part.n)
        memcpy(copy, part.p, part.n);
    copy = realloc(copy, part.n ? part.n : 1);
    return (struct str){ copy, part.n };
}

static void check_groups(const struct rule_groups *g, struct str path)
{
    for (int i = 0; i < RULES_GROUPS; i++)
        CHECK(g->v[i].n == 0 || (g->v[i].p >= path.p && g->v[i].p + g->v[i].n <= path.p + path.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str rest = { (const char *)data + 1, size ? size - 1 : 0 };
    struct rules *rules;
    struct rule_groups groups;
    char message[128], out[512];

    if (size == 0)
        return 0;
    struct str pattern = take(&rest), text = take(&rest), query = take(&rest), path = take(&rest);
    struct config_route routes[2] = {
        { .match = (enum config_match)(data[0] % 4), .pattern = pattern, .line = 1 },
        { .match = CONFIG_MATCH_REGEX, .pattern = STR("(.)(.)?"), .line = 2 },
    };
    struct config config = { .routes = routes, .n_routes = 2 };
    if (rules_new(&config, &rules, message, sizeof(message)) == 0) {
        const struct config_route *r = rules_match(rules, path, &groups);
        CHECK(r == NULL || r == &routes[0] || r == &routes[1]);
        check_groups(&groups, path);
        struct rule_variables v = { STR("http"), STR("h"), path, query, path, &groups };
        for (size_t room = 0; room <= sizeof(out); room += 1 + room) {
            int n = rules_expand(text, &v, out, room);
            CHECK(n < 0 || (size_t)n <= room);
        }
        rules_free(rules);
    }
    free((char *)pattern.p);
    free((char *)text.p);
    free((char *)query.p);
    free((char *)path.p);
    return 0;
}
