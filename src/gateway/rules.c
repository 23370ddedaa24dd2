/* Compiled [[route]] rules: see rules.h. Regular expressions by PCRE2, with bounds on backtracking.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "gateway/rules.h"

#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

enum { MATCH_LIMIT = 100000, DEPTH_LIMIT = 1000 };

struct rule {
    const struct config_route *route;
    uint32_t order; /* in the file */
    pcre2_code *code;
};

struct rules {
    struct rule *v; /* in order of precedence */
    uint32_t n;
    pcre2_match_context *limits;
};

/* Higher priority; then exact, prefix, suffix, regex; then the longer pattern; then the file's
 * order. */
static int compare(const void *pa, const void *pb)
{
    const struct rule *a = pa, *b = pb;
    const struct config_route *ra = a->route, *rb = b->route;

    if (ra->priority != rb->priority)
        return ra->priority > rb->priority ? -1 : 1;
    if (ra->match != rb->match)
        return ra->match < rb->match ? -1 : 1;
    if (ra->match != CONFIG_MATCH_REGEX && ra->pattern.n != rb->pattern.n)
        return ra->pattern.n > rb->pattern.n ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static int compile(struct rule *r, char *message, size_t size)
{
    struct str p = r->route->pattern;
    PCRE2_UCHAR text[200];
    PCRE2_SIZE at;
    int error;

    r->code = pcre2_compile((PCRE2_SPTR)p.p, p.n, 0, &error, &at, NULL);
    if (!r->code) {
        pcre2_get_error_message(error, text, sizeof(text));
        snprintf(message, size, "route in line %u: regex \"%.*s\": %s at character %zu",
                 r->route->line, STR_ARG(p), (const char *)text, (size_t)at + 1);
        return -EINVAL;
    }
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it, it is interpreted */
    return 0;
}

int rules_new(const struct config *c, struct rules **ret, char *message, size_t size)
{
    struct rules *r = mem_zalloc(sizeof(*r));

    r->v = mem_zalloc(c->n_routes * sizeof(r->v[0]));
    r->limits = pcre2_match_context_create(NULL);
    if (!r->limits) {
        rules_free(r);
        return -ENOMEM;
    }
    pcre2_set_match_limit(r->limits, MATCH_LIMIT);
    pcre2_set_depth_limit(r->limits, DEPTH_LIMIT);
    for (; r->n < c->n_routes; r->n++) {
        struct rule *rule = &r->v[r->n];
        *rule = (struct rule){ .route = &c->routes[r->n], .order = r->n };
        if (rule->route->match != CONFIG_MATCH_REGEX)
            continue;
        int e = compile(rule, message, size);
        if (e < 0) {
            rules_free(r);
            return e;
        }
    }
    if (r->n)
        qsort(r->v, r->n, sizeof(r->v[0]), compare);
    *ret = r;
    return 0;
}

void rules_free(struct rules *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; i < r->n; i++)
        pcre2_code_free(r->v[i].code);
    pcre2_match_context_free(r->limits);
    mem_free(r->v);
    mem_free(r);
}

/* A fault of the expression (its limits) counts as no match: the next rule decides. */
static bool match_regex(const struct rules *r, const struct rule *rule, struct str path,
                        struct rule_groups *ret)
{
    pcre2_match_data *data = pcre2_match_data_create(RULES_GROUPS, NULL);

    if (!data)
        return false;
    int n = pcre2_match(rule->code, (PCRE2_SPTR)path.p, path.n, 0, 0, data, r->limits);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(data);
    if (n == 0)
        n = RULES_GROUPS; /* it has more groups than there are variables */
    for (int i = 0; i < n && i < RULES_GROUPS; i++)
        if (at[2 * i] != PCRE2_UNSET && at[2 * i + 1] >= at[2 * i])
            ret->v[i] = (struct str){ path.p + at[2 * i], at[2 * i + 1] - at[2 * i] };
    pcre2_match_data_free(data);
    return n > 0;
}

const struct config_route *rules_match(const struct rules *r, struct str path,
                                       struct rule_groups *ret)
{
    memset(ret, 0, sizeof(*ret));
    for (uint32_t i = 0; i < r->n; i++) {
        const struct rule *rule = &r->v[i];
        struct str p = rule->route->pattern;
        bool hit = false;
        switch (rule->route->match) {
        case CONFIG_MATCH_EXACT: hit = str_eq(path, p); break;
        case CONFIG_MATCH_PREFIX: hit = str_has_prefix(path, p); break;
        case CONFIG_MATCH_SUFFIX: hit = str_has_suffix(path, p); break;
        case CONFIG_MATCH_REGEX: hit = match_regex(r, rule, path, ret); break;
        }
        if (hit)
            return rule->route;
    }
    return NULL;
}

/* --- templates -------------------------------------------------------------------------------- */

/* The variable at the start of `rest` (behind its '$'); false: there is none of that name. */
static bool variable(struct str *rest, const struct rule_variables *v, struct str out[2])
{
    const struct {
        struct str name;
        struct str value;
    } names[] = { { STR("request_uri"), v->request_uri },
                  { STR("scheme"), v->scheme },
                  { STR("host"), v->host },
                  { STR("uri"), v->uri } };

    out[0] = out[1] = STR_NONE;
    if (rest->n && rest->p[0] >= '0' && rest->p[0] <= '9') {
        out[0] = v->groups ? v->groups->v[rest->p[0] - '0'] : STR_NONE;
        *rest = str_skip(*rest, 1);
        return true;
    }
    if (str_has_prefix(*rest, STR("query"))) {
        if (v->query.p) {
            out[0] = STR("?");
            out[1] = v->query;
        }
        *rest = str_skip(*rest, 5);
        return true;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        if (!str_has_prefix(*rest, names[i].name))
            continue;
        out[0] = names[i].value;
        *rest = str_skip(*rest, names[i].name.n);
        return true;
    }
    return false;
}

int rules_expand(struct str text, const struct rule_variables *v, char *out, size_t size)
{
    size_t at = 0;

    while (text.n) {
        struct str parts[2] = { { text.p, 1 }, STR_NONE };
        struct str rest = str_skip(text, 1);
        if (text.p[0] != '$' || !variable(&rest, v, parts))
            parts[0] = (struct str){ text.p, 1 };
        for (int i = 0; i < 2; i++) {
            if (parts[i].n > size - at)
                return -ENAMETOOLONG;
            if (parts[i].n)
                memcpy(out + at, parts[i].p, parts[i].n);
            at += parts[i].n;
        }
        text = rest;
    }
    return (int)at;
}
