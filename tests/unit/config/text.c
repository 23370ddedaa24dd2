/* Configurations from a text. */
#include "text.h"

#include <errno.h>

#include "base/mem.h"

int config_try(const char *text, const char *const *overrides, struct config **ret,
               struct config_errors *ret_errors)
{
    return config_load(STR("sapid.toml"), test_guarded(str_from(text)), overrides, STR("/srv/app"),
                       ret, ret_errors);
}

struct config *config_of_with(const char *text, const char *const *overrides)
{
    struct config_errors errors;
    struct config *c;
    int rc = config_try(text, overrides, &c, &errors);

    if (rc < 0 && errors.n)
        test_fail(__FILE__, __LINE__, "%s", config_error_line(c, &errors.v[0]));
    EXPECT_INT(rc, 0);
    return c;
}

struct config *config_of(const char *text)
{
    return config_of_with(text, NULL);
}

void expect_line(const struct config *c, const struct config_error *e, const char *line)
{
    char *found = config_error_line(c, e);

    EXPECT_STR(str_from(found), str_from(line));
    mem_free(found);
}

void expect_complaint(const char *text, const char *line)
{
    struct config_errors errors;
    struct config *c;

    EXPECT_INT(config_try(text, NULL, &c, &errors), -EINVAL);
    EXPECT(errors.n > 0);
    expect_line(c, &errors.v[0], line);
    config_free(c);
}
