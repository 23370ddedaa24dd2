/* Configurations from the text of a sapid.toml that stands in /srv/app. */
#ifndef SAPID_TESTS_CONFIG_TEXT_H
#define SAPID_TESTS_CONFIG_TEXT_H

#include "config/config.h"
#include "test.h"

/* Must load. */
struct config *config_of(const char *text);
struct config *config_of_with(const char *text, const char *const *overrides);
/* May be wrong: as config_load(). */
MUST_USE int config_try(const char *text, const char *const *overrides, struct config **ret,
                        struct config_errors *ret_errors);

/* What people read of an error. */
void expect_line(const struct config *c, const struct config_error *e, const char *line);
/* The first that they read when they load such a file. */
void expect_complaint(const char *text, const char *line);

#endif
