/* [worker]: the pool that it becomes. */
#include "text.h"

TEST(without_a_script_there_is_no_loop)
{
    struct config *c = config_of("[worker]\nnum = 3\n");

    EXPECT_INT(c->n_pools, 1);
    EXPECT_INT(c->pools[0].kind, CONFIG_POOL_CLASSIC);
    config_free(c);
}

TEST(the_loop_is_a_pool_behind_the_others)
{
    struct config *c =
        config_of("[php]\nuser = 'web'\nini = { memory_limit = '1G' }\n"
                  "[worker]\nscript = 'public/index.php'\nnum = 3\nmax_requests = 7\n");
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
    struct config *c = config_of_with("[worker]\nnum = 3\n", overrides);

    EXPECT_INT(c->pools[1].worker_pool_size, 9);
    EXPECT_INT(c->pools[0].worker_pool_size, 4);
    config_free(c);
    c = config_of("[php]\nworker_pool_size = 12\n[worker]\nscript = '/x/w.php'\n");
    EXPECT_INT(c->pools[0].worker_pool_size, 12);
    EXPECT_INT(c->pools[1].worker_pool_size, CONFIG_AUTO);
    config_free(c);
}

TEST(development_watches_unless_told_otherwise)
{
    static const char *const dev[] = { "dev=true", NULL };
    struct config *c = config_of_with("[worker]\nscript = '/x/w.php'\n", dev);

    EXPECT(c->pools[1].worker_watch);
    config_free(c);
    c = config_of_with("[worker]\nscript = '/x/w.php'\nwatch = false\n", dev);
    EXPECT(!c->pools[1].worker_watch);
    config_free(c);
}

TEST(each_pool_may_have_a_worker_script)
{
    struct config *c = config_of("[php]\nworker_pool_size = 9\n[worker]\nscript = '/w/a.php'\n"
                                 "[pool.api]\ndocument_root = '/srv/api'\nuser = 'api'\n"
                                 "[pool.api.worker]\nscript = 'api/worker.php'\nnum = 5\n"
                                 "max_requests = 8\nwatch = true\nreport_leaks = true\n"
                                 "[pool.plain]\ndocument_root = '/srv/plain'\n");
    const struct config_pool *api = &c->pools[1], *loop = &c->pools[api->loop];

    EXPECT_INT(c->n_pools, 5);
    EXPECT_STR(c->pools[c->pools[0].loop].name, STR("www-worker"));
    EXPECT_STR(loop->name, STR("api-worker"));
    EXPECT_INT(loop->loop_of, 1);
    EXPECT_INT(loop->loop, 0);
    EXPECT_STR(loop->worker_script, STR("/srv/app/api/worker.php"));
    EXPECT_STR(loop->document_root, STR("/srv/api"));
    EXPECT_STR(loop->user, STR("api"));
    EXPECT_INT(loop->worker_pool_size, 5);
    EXPECT_INT(loop->worker_max_requests, 8);
    EXPECT(loop->worker_watch && loop->worker_report_leaks);
    EXPECT_INT(api->worker_pool_size, 4);
    EXPECT(!c->pools[c->pools[0].loop].worker_watch);
    EXPECT_INT(c->pools[2].loop, 0);
    config_free(c);
}

TEST(what_is_wrong_in_a_pools_worker_is_said_with_its_name)
{
    expect_complaint("[pool.a]\ndocument_root = '/a'\n[pool.a.worker]\nscrip = '/w.php'\n",
                     "sapid.toml:4:1: unknown key pool.a.worker.scrip; did you mean script?");
    expect_complaint("[pool.a]\ndocument_root = '/a'\nworker = '/w.php'\n",
                     "sapid.toml:3:10: pool.a.worker: expected a table, [pool.a.worker], found a "
                     "string");
    expect_complaint(
        "[pool.a]\ndocument_root = '/a'\n[pool.a.worker]\nscript = '/w.php'\n"
        "[pool.a-worker]\ndocument_root = '/b'\n",
        "sapid.toml:4:1: the worker script of pool a runs in a pool named a-worker, and "
        "there is a [pool.a-worker] already; give that one another name");
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
