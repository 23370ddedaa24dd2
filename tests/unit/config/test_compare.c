/* What a reload sees as a difference, and the paths it asks for. */
#include <errno.h>
#include <stdio.h>

#include "text.h"

static const char *difference(const char *a, const char *b, enum config_scope scope)
{
    struct config *x = config_of(a), *y = config_of(b);
    const char *name = config_difference(x, 0, y, 0, scope);

    config_free(x);
    config_free(y);
    return name;
}

static bool routes_differ(const char *a, const char *b)
{
    struct config *x = config_of(a), *y = config_of(b);
    bool differ = config_routes_differ(x, y);

    config_free(x);
    config_free(y);
    return differ;
}

TEST(a_value_written_in_another_way_is_no_difference)
{
    const char *a =
        "[server]\nheader_timeout = '60s'\nlisten = '127.0.0.1:80'\n[php]\nindex = ['x']\n";
    const char *b =
        "[php]\nindex = ['x'] # so\n[server]\nlisten = ['127.0.0.1:80']\nheader_timeout = '1m'\n";

    EXPECT(difference(a, b, CONFIG_SCOPE_GATEWAY) == NULL);
    EXPECT(difference(a, b, CONFIG_SCOPE_ROUTING) == NULL);
    EXPECT(difference(a, b, CONFIG_SCOPE_POOL) == NULL);
    EXPECT(difference("", "[server]\nbody_timeout = '60s'\n", CONFIG_SCOPE_GATEWAY) == NULL);
}

TEST(a_difference_is_named_in_its_scope_only)
{
    const char *server = "[server]\nlisten = '127.0.0.1:81'\n", *log = "[log]\nlevel = 'debug'\n";
    const char *php = "[php]\nenv = { A = '1' }\n", *fpm = "[fastcgi]\nservers = ['/run/x']\n";

    EXPECT_STR(str_from(difference("", server, CONFIG_SCOPE_GATEWAY)), STR("server.listen"));
    EXPECT_STR(str_from(difference("", log, CONFIG_SCOPE_GATEWAY)), STR("log.level"));
    EXPECT_STR(str_from(difference("", php, CONFIG_SCOPE_POOL)), STR("php.env"));
    EXPECT_STR(str_from(difference("", fpm, CONFIG_SCOPE_ROUTING)), STR("fastcgi.servers"));
    EXPECT(difference("", server, CONFIG_SCOPE_POOL) == NULL);
    EXPECT(difference("", php, CONFIG_SCOPE_GATEWAY) == NULL);
    EXPECT(difference("", fpm, CONFIG_SCOPE_POOL) == NULL);
}

TEST(routes_are_compared_by_what_they_do_and_not_by_their_line)
{
    const char *one = "[[route]]\nmatch = { prefix = '/a/' }\nbackend = 'deny'\n";
    const char *moved = "\n\n[[route]]\nbackend = 'deny'\nmatch = { prefix = '/a/' }\n";

    EXPECT(!routes_differ(one, moved));
    EXPECT(routes_differ(one, ""));
    EXPECT(routes_differ(one, "[[route]]\nmatch = { exact = '/a/' }\nbackend = 'deny'\n"));
    EXPECT(routes_differ(one, "[[route]]\nmatch = { prefix = '/b/' }\nbackend = 'deny'\n"));
    EXPECT(routes_differ(
        one, "[[route]]\nmatch = { prefix = '/a/' }\nbackend = 'deny'\nstatus = 404\n"));
}

TEST(whether_anybody_set_the_address_is_known)
{
    struct config *c = config_of("");

    EXPECT(config_listen_is_default(c));
    config_free(c);
    c = config_of("[server]\nlisten = '127.0.0.1:8080'\n"); /* also to the default's own value */
    EXPECT(!config_listen_is_default(c));
    config_free(c);
}

TEST(probes_are_paths)
{
    static const char *const wrong[] = { "health", "/a b", "/a\\nb", "http://x/" };
    struct config_errors errors;
    struct config *c = config_of("[php]\nwarmup = ['/', '/x?y=%20']\nprobe = ['/up']\n");

    EXPECT_INT(c->pools[0].warmup.n, 2);
    EXPECT_STR(c->pools[0].probe.v[0], STR("/up"));
    config_free(c);
    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        char text[64];
        snprintf(text, sizeof(text), "[php]\nprobe = [\"%s\"]\n", wrong[i]);
        EXPECT_INT(config_load(STR("f"), str_from(text), NULL, STR("/"), &c, &errors), -EINVAL);
        EXPECT_INT(errors.v[0].line, 2);
        EXPECT(strstr(errors.v[0].message.p, "expected a path such as") != NULL);
        config_free(c);
    }
}
