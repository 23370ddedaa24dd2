/*
 * One variable of a query string or a Cookie header, found by PHP's own rules
 * (php_register_variable in main/php_variables.c) without making $_GET or $_COOKIE. No php.h here.
 */
#ifndef SAPID_PHP_PARAMS_H
#define SAPID_PHP_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"
#include "base/str.h"

enum param_kind {
    PARAM_ABSENT,
    PARAM_TEXT,
    PARAM_OTHER, /* an array, or a name that only PHP could make sense of */
};

struct param {
    enum param_kind kind;
    struct str raw; /* of TEXT: as it stands there, encoded */
};

struct params {
    struct str text;
    const char *separators; /* arg_separator.input; ";" */
    bool cookies;           /* the rules of $_COOKIE: the first one counts; else the last */
    uint32_t max;           /* max_input_vars */
};

/* The variable that PHP would call `key`. */
struct param params_find(const struct params *p, struct str key);
/* There is nothing in it that could become a variable. */
bool params_is_empty(const struct params *p);
/* Is that what `raw` decodes to? */
bool params_value_is(const struct params *p, struct str raw, struct str value);
/* Decodes into `out` (at least raw.n bytes). */
struct str params_decode(const struct params *p, struct str raw, char *out);

#endif
