/* [php] max_images and snapshot_*: what they may be, and the seats they become. */
#include "text.h"

TEST(seats_stand_behind_the_pools_and_are_not_counted)
{
    struct config *c =
        config_of("[php]\nuser = 'web'\nworker_pool_size = 6\nworker_max_requests = 9\n"
                  "status_path = '/s'\nsnapshot_sockets = 'sever'\n"
                  "snapshot_warmup = ['/a']\nwarmup = ['/b']\n"
                  "[worker]\nscript = 'w.php'\n"
                  "[pool.a]\ndocument_root = '/a'\nmax_images = 0\n"
                  "[pool.b]\ndocument_root = '/b'\nmax_images = 2\n"
                  "worker_pool_size = { min = 2, max = 3 }\n");
    const struct config_pool *seat = &c->pools[4];

    EXPECT_INT(c->n_pools, 4); /* www, a, b, www-worker */
    EXPECT_INT(c->n_seats, 10);
    EXPECT_INT(c->pools[0].first_image, 4);
    EXPECT_INT(c->pools[1].max_images, 0);
    EXPECT_INT(c->pools[2].first_image, 8);
    EXPECT_INT(seat->kind, CONFIG_POOL_IMAGE);
    EXPECT_INT(seat->image_of, 0);
    EXPECT_STR(seat->name, STR("www-image1"));
    EXPECT_STR(c->pools[7].name, STR("www-image4"));
    EXPECT_STR(seat->user, STR("web"));
    EXPECT_INT(seat->worker_pool_size, 6);
    EXPECT_INT(seat->worker_min, 1);
    EXPECT_INT(seat->worker_max_requests, 0);
    EXPECT_INT(seat->worker_script.n, 0);
    EXPECT_INT(seat->worker_isolation, CONFIG_ISOLATION_ROLLBACK);
    EXPECT_INT(seat->worker_sockets, CONFIG_SOCKETS_SEVER);
    EXPECT_INT(c->pools[0].worker_sockets, CONFIG_SOCKETS_REFUSE);
    EXPECT_INT(seat->worker_warmup.n, 1);
    EXPECT_STR(seat->worker_warmup.v[0], STR("/a"));
    EXPECT_INT(seat->warmup.n + seat->status_path.n + seat->loop, 0);
    EXPECT_INT(c->pools[9].image_of, 2);
    EXPECT_INT(c->pools[9].worker_min, 2);
    config_free(c);
}

TEST(php_fpm_has_no_images)
{
    struct config *c = config_of("[php]\nuse_fpm = true\nfpm_socket = '/run/fpm.sock'\n");

    EXPECT_INT(c->n_seats, 1);
    config_free(c);
}

TEST(a_seat_takes_no_pools_name)
{
    struct config *c = config_of("[pool.www-image1]\ndocument_root = '/a'\nmax_images = 0\n");

    EXPECT_INT(c->n_pools, 2);
    EXPECT_STR(c->pools[2].name, STR("www-image2"));
    EXPECT_INT(c->n_seats, 6);
    config_free(c);
}

TEST(there_is_an_end_to_seats)
{
    expect_complaint("[php]\nmax_images = 33\n",
                     "sapid.toml:2:14: php.max_images: expected a whole number from 0 to 32, found "
                     "33");
}

TEST(a_freeze_point_is_of_the_front_controller_unless_scripts_are_named)
{
    struct config *c = config_of("[php]\nsnapshot_at = 'include:lib/boot.php'\n");

    EXPECT_INT(c->pools[0].snapshot_scripts.n, 1);
    EXPECT_STR(c->pools[0].snapshot_scripts.v[0], STR("index.php"));
    EXPECT_STR(c->pools[1].snapshot_at, STR("include:lib/boot.php"));
    config_free(c);
    c = config_of("[php]\nsnapshot_at = 'function:App\\Kernel::boot'\n"
                  "snapshot_scripts = ['a/b.php', 'c.php']\n");
    EXPECT_INT(c->pools[0].snapshot_scripts.n, 2);
    config_free(c);
    c = config_of(
        "[php]\nsnapshot_guards = { '_SERVER.REQUEST_URI' = 'set', '_COOKIE.*' = 'absent' }\n"
        "snapshot_url = 'https://example.org/a?b'\nsnapshot_rerun = ['wp_fix_server_vars']\n");
    EXPECT_INT(c->pools[0].snapshot_scripts.n, 0);
    EXPECT_INT(c->pools[0].snapshot_guards.n, 2);
    config_free(c);
}

TEST(what_is_wrong_is_said)
{
    expect_complaint("[php]\nsnapshot_at = 'file:x'\n",
                     "sapid.toml:2:1: php.snapshot_at: expected \"include:FILE\" or "
                     "\"function:NAME\" (also \"function:Class::method\"), found \"file:x\"");
    expect_complaint("[php]\nsnapshot_at = 'function:a b'\n",
                     "sapid.toml:2:1: php.snapshot_at: expected \"include:FILE\" or "
                     "\"function:NAME\" (also \"function:Class::method\"), found "
                     "\"function:a b\"");
    expect_complaint("[php]\nsnapshot_at = 'include:a'\nfront_controller = false\n",
                     "sapid.toml:2:1: php.snapshot_at: of which script? There is no front "
                     "controller; name it in php.snapshot_scripts");
    expect_complaint("[pool.a]\ndocument_root = '/a'\nsnapshot_scripts = ['../x.php']\n",
                     "sapid.toml:3:1: pool.a.snapshot_scripts: expected paths below document_root "
                     "such as \"index.php\", found \"../x.php\"");
    expect_complaint("[php]\nsnapshot_url = 'example.org'\n",
                     "sapid.toml:2:1: php.snapshot_url: expected a path such as \"/\" or a URL "
                     "such as \"https://www.example.com/\" (%-encoded, at most 2048 bytes), found "
                     "\"example.org\"");
    expect_complaint("[php]\nsnapshot_warmup = ['http://x/']\n",
                     "sapid.toml:2:1: php.snapshot_warmup: expected a path such as \"/shop/\" "
                     "(with / at its beginning, %-encoded, at most 2048 bytes), found "
                     "\"http://x/\"");
    expect_complaint("[php]\nsnapshot_guards = { HOST = 'same' }\n",
                     "sapid.toml:2:1: php.snapshot_guards: expected what of a request, such as "
                     "\"_SERVER.HTTP_HOST\", \"_COOKIE.name\" or \"_COOKIE.*\", found \"HOST\"");
    expect_complaint("[php]\nsnapshot_guards = { '_GET.a' = 'maybe' }\n",
                     "sapid.toml:2:1: php.snapshot_guards: _GET.a: expected \"same\", \"any\", "
                     "\"set\", \"absent\" or \"regex:...\", found \"maybe\"");
    expect_complaint("[php]\nsnapshot_rerun = ['a()']\n",
                     "sapid.toml:2:1: php.snapshot_rerun: expected names of functions, found "
                     "\"a()\"");
}
