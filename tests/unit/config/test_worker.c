/* [worker]: the pool that it becomes. */
#include "base/mem.h"
#include "config/config.h"
#include "test.h"

static struct config *load(const char *text, const char *const *overrides)
{
    struct config_errors errors;
    struct config *c;

    EXPECT_INT(config_load(STR("sapid.toml"), test_guarded(str_from(text)), overrides,
                           STR("/srv/app"), &c, &errors),
               0);
    return c;
}

TEST(without_a_script_there_is_no_loop)
{
    struct config *c = load("[worker]\nnum = 3\n", NULL);

    EXPECT_INT(c->n_pools, 1);
    EXPECT_INT(c->pools[0].kind, CONFIG_POOL_CLASSIC);
    config_free(c);
}

TEST(the_loop_is_a_pool_behind_the_others)
{
    struct config *c = load("[php]\nuser = 'web'\nini = { memory_limit = '1G' }\n"
                            "[worker]\nscript = 'public/index.php'\nnum = 3\nmax_requests = 7\n",
                            NULL);
    const struct config_pool *loop = &c->pools[c->n_pools - 1];

    EXPECT_INT(c->n_pools, 2);
    EXPECT_INT(c->pools[0].kind, CONFIG_POOL_CLASSIC);
    EXPECT_INT(c->pools[0].worker_max_requests, 0);
    EXPECT_INT(loop->kind, CONFIG_POOL_LOOP);
    EXPECT_STR(loop->name, STR("www-worker"));
    EXPECT_STR(loop->worker_script, STR("/srv/app/public/index.php"));
    EXPECT_STR(loop->user, STR("web"));
    EXPECT_INT(loop->ini.n, 1);
    EXPECT_INT(loop->worker_pool_size, 3);
    EXPECT_INT(loop->worker_max_requests, 7);
    EXPECT(!loop->worker_watch);
    config_free(c);
}

TEST(workers_of_the_command_line_count_loops)
{
    static const char *const overrides[] = { "worker.script=/x/w.php", "php.worker_pool_size=9",
                                             NULL };
    struct config *c = load("[worker]\nnum = 3\n", overrides);

    EXPECT_INT(c->pools[1].worker_pool_size, 9);
    EXPECT_INT(c->pools[0].worker_pool_size, 4);
    config_free(c);
    c = load("[php]\nworker_pool_size = 12\n[worker]\nscript = '/x/w.php'\n", NULL);
    EXPECT_INT(c->pools[0].worker_pool_size, 12);
    EXPECT_INT(c->pools[1].worker_pool_size, CONFIG_AUTO);
    config_free(c);
}

TEST(development_watches_unless_told_otherwise)
{
    static const char *const dev[] = { "dev=true", NULL };
    struct config *c = load("[worker]\nscript = '/x/w.php'\n", dev);

    EXPECT(c->pools[1].worker_watch);
    config_free(c);
    c = load("[worker]\nscript = '/x/w.php'\nwatch = false\n", dev);
    EXPECT(!c->pools[1].worker_watch);
    config_free(c);
}

TEST(script_names)
{
    static const char *const cases[][3] = {
        { "/srv/app/public/index.php", "/srv/app/public", "/index.php" },
        { "/srv/app/public/index.php", "/srv/app/public/", "/index.php" },
        { "/srv/app/public/a/w.php", "/srv/app/public", "/a/w.php" },
        { "/srv/app/publication/w.php", "/srv/app/public", "/w.php" },
        { "/srv/app/bin/worker.php", "/srv/app/public", "/worker.php" },
        { "/w.php", "/", "/w.php" },
        { "/a/w.php", "/", "/a/w.php" },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        EXPECT_STR(config_script_name(str_from(cases[i][0]), str_from(cases[i][1])),
                   str_from(cases[i][2]));
}
