/* What is printed from the key table: the reference page and the effective configuration. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "config/config_int.h"
#include "test.h"

static void put(void *ctx, const char *text)
{
    EXPECT_INT(buf_append(ctx, text, strlen(text)), 0);
}

TEST(the_committed_reference_page_is_up_to_date)
{
    struct buf page;
    char *text;
    size_t n;
    int fd = open(CONFIG_PAGE, O_RDONLY | O_CLOEXEC);

    buf_init(&page, 0);
    config_print_reference(put, &page);
    EXPECT(fd >= 0);
    EXPECT_INT(fd_read_all(fd, 1 << 20, &text, &n), 0);
    close(fd);
    if (!str_eq(buf_view(&page), (struct str){ text, n }))
        test_fail(__FILE__, __LINE__,
                  CONFIG_PAGE " is out of date: "
                              "build/sapid check --reference > docs/configuration.md");
    mem_free(text);
    buf_fini(&page);
}

TEST(every_example_of_the_reference_is_accepted)
{
    struct buf file;
    struct config *c;
    struct config_errors errors;

    buf_init(&file, 0);
    for (size_t s = 0; s < config_n_sections; s++) {
        EXPECT_INT(buf_printf(&file, "[%s]\n", config_sections[s].name), 0);
        for (size_t i = 0; i < config_n_keys; i++)
            if (strcmp(config_keys[i].section, config_sections[s].name) == 0)
                EXPECT_INT(
                    buf_printf(&file, "%s = %s\n", config_keys[i].name, config_keys[i].example), 0);
    }
    int rc = config_load(STR("examples"), buf_view(&file), NULL, STR("/"), &c, &errors);
    if (errors.n)
        test_fail(__FILE__, __LINE__, "%s", config_error_line(c, &errors.v[0]));
    EXPECT_INT(rc, 0);
    config_free(c);
    buf_fini(&file);
}

static struct str effective(struct buf *out, const char *text, const char *const *overrides)
{
    struct config *c;
    struct config_errors errors;

    EXPECT_INT(config_load(STR("f.toml"), str_from(text), overrides, STR("/srv"), &c, &errors), 0);
    buf_init(out, 0);
    config_print_effective(c, put, out);
    config_free(c);
    EXPECT_INT(buf_append(out, "", 1), 0);
    return (struct str){ buf_view(out).p, buf_length(out) - 1 };
}

/* A line begins with this setting and ends with this origin. */
static void expect_line(struct str text, const char *setting, const char *origin)
{
    while (text.n) {
        struct str line = str_cut(&text, '\n');
        if (str_has_prefix(line, str_from(setting)) && str_has_suffix(line, str_from(origin)))
            return;
    }
    test_fail(__FILE__, __LINE__, "no line \"%s ... %s\"", setting, origin);
}

TEST(the_effective_configuration_says_where_values_came_from)
{
    const char *overrides[] = { "php.worker_pool_size=4", NULL };
    struct buf out;
    struct str text = effective(&out, "[server]\n\nmax_body_size = 1048576\n", overrides);

    expect_line(text, "max_body_size = \"1M\" ", " # f.toml:3");
    expect_line(text, "worker_pool_size = 4 ", " # command line");
    expect_line(text, "header_timeout = \"30s\" ", " # default");
    expect_line(text, "# libphp_path: the newest installed libphp", "");
    buf_fini(&out);
}

/* Loading what was printed gives the same again. */
TEST(the_effective_configuration_can_be_loaded_again)
{
    const char *overrides[] = { "server.listen=127.0.0.1:81",
                                "log.access=off",
                                "php.user=q\"uo\\te\n",
                                "php.ini.a.b=\xC3\xA4 \x7F",
                                "server.header_timeout=1500ms",
                                "php.front_controller=false",
                                NULL };
    struct buf first, second;
    struct str a = effective(
        &first, "[server]\ntrusted_proxies = ['::/0']\n[log]\nformat = 'json'\n", overrides);
    struct str b = effective(&second, a.p, NULL);

    /* The origins differ: compare without them. */
    while (a.n && b.n) {
        struct str x = str_cut(&a, '\n'), y = str_cut(&b, '\n');
        const char *xc = x.n ? memmem(x.p, x.n, "  # ", 4) : NULL,
                   *yc = y.n ? memmem(y.p, y.n, "  # ", 4) : NULL;
        EXPECT_STR(xc ? str_take(x, (size_t)(xc - x.p)) : x,
                   yc ? str_take(y, (size_t)(yc - y.p)) : y);
    }
    EXPECT_INT(a.n, b.n);
    buf_fini(&first);
    buf_fini(&second);
}
