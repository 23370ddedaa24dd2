/*
 * [[route]] rules, compiled: which one a path falls under, and the texts they make of a request.
 * See docs/routes.md. Immutable after rules_new, shared by all threads.
 */
#ifndef SAPID_GATEWAY_RULES_H
#define SAPID_GATEWAY_RULES_H

#include "base/check.h"
#include "base/str.h"
#include "config/config.h"

struct rules;

enum { RULES_GROUPS = 10 };
struct rule_groups {
    struct str v[RULES_GROUPS]; /* $0 to $9 of a regular expression; views into the path */
};

/* 0; -EINVAL with a sentence that names the line and the fault of a regular expression; -ENOMEM. */
MUST_USE int rules_new(const struct config *c, struct rules **ret, char *message, size_t size);
void rules_free(struct rules *r);
/* The first rule in order of precedence that matches the decoded path, NULL when none does. */
const struct config_route *rules_match(const struct rules *r, struct str path,
                                       struct rule_groups *ret);

/* What the variables of a template stand for. */
struct rule_variables {
    struct str scheme, host, uri, query, request_uri; /* query without its '?', p == NULL: none */
    const struct rule_groups *groups;
};
/* Puts the variables in. Returns the length; -ENAMETOOLONG above `size`. */
MUST_USE int rules_expand(struct str text, const struct rule_variables *v, char *out, size_t size);

#endif
