/* Configuration files and command lines: what they become, and what people read when they are
 * wrong. */
#include <errno.h>
#include <stdio.h>

#include "base/mem.h"
#include "text.h"

static struct config *c;
static struct config_errors errors;

static int load(const char *text, const char *const *overrides)
{
    return config_try(text, overrides, &c, &errors);
}

static void load_ok(const char *text, const char *const *overrides)
{
    c = config_of_with(text, overrides);
}

/* The file has this one error. */
static void expect_error(const char *text, const char *message)
{
    EXPECT_INT(load(text, NULL), -EINVAL);
    EXPECT(errors.n >= 1);
    expect_line(c, &errors.v[0], message);
    EXPECT_INT(errors.n, 1);
    config_free(c);
}

static void expect_override_error(const char *override, const char *message)
{
    const char *overrides[] = { override, NULL };

    EXPECT_INT(load("", overrides), -EINVAL);
    EXPECT_INT(errors.n, 1);
    expect_line(c, &errors.v[0], message);
    config_free(c);
}

TEST(no_file_gives_the_defaults)
{
    load_ok("", NULL);
    EXPECT_INT(c->server.n_listen, 1);
    EXPECT_TEXT(c->server.listen[0].host, "127.0.0.1");
    EXPECT_INT(c->server.listen[0].port, 8080);
    EXPECT_INT(c->server.gateway_threads, CONFIG_AUTO);
    EXPECT_INT(c->server.max_connections, 65536);
    EXPECT_INT(c->server.header_timeout_ms, 30000);
    EXPECT_INT(c->server.body_timeout_ms, 60000);
    EXPECT_INT(c->server.send_timeout_ms, 60000);
    EXPECT_INT(c->server.keepalive_timeout_ms, 75000);
    EXPECT_INT(c->server.keepalive_requests, 0);
    EXPECT_INT(c->server.max_body_size, 64 << 20);
    EXPECT_INT(c->server.max_header_size, 32 << 10);
    EXPECT_INT(c->server.max_header_count, 100);
    EXPECT_INT(c->server.max_request_line, 8 << 10);
    EXPECT_TEXT(c->server.spool_dir, "/var/tmp");
    EXPECT_INT(c->server.max_spool_size, INT64_C(4) << 30);
    EXPECT_INT(c->server.trusted_proxies.n, 0);
    EXPECT_INT(c->server.drain_timeout_ms, 5000);
    EXPECT(c->server.server_tokens && !c->server.proxy_protocol);
    EXPECT_INT(c->n_pools, 1);
    EXPECT_TEXT(c->pools[0].name, "www");
    EXPECT_TEXT(c->pools[0].document_root, "/srv/app");
    EXPECT(!c->pools[0].document_root_given);
    EXPECT_INT(c->pools[0].worker_pool_size, CONFIG_AUTO);
    EXPECT_INT(c->pools[0].queue_size, 1024);
    EXPECT_INT(c->pools[0].queue_timeout_ms, 30000);
    EXPECT(c->pools[0].clear_env);
    EXPECT_TEXT(c->pools[0].front_controller, "index.php");
    EXPECT_INT(c->pools[0].index.n, 2);
    EXPECT_TEXT(c->pools[0].index.v[1], "index.html");
    EXPECT_TEXT(c->log.access, "off");
    EXPECT(!c->log.access_given);
    EXPECT_INT(c->log.format, CONFIG_LOG_COMBINED);
    EXPECT_TEXT(c->log.error, "stderr");
    EXPECT_TEXT(c->log.level, "notice");
    EXPECT(c->server.user.p != NULL && c->server.user.n == 0);
    config_free(c);
}

TEST(a_file_sets_every_kind_of_key)
{
    load_ok("[server]\n"
            "listen = ['*:80', '[::1]:8443', 'localhost:0', 'unix:run/s.sock', ':81', '82']\n"
            "gateway_threads = 2\n"
            "header_timeout = '500ms'\n"
            "keepalive_timeout = 0\n"
            "max_body_size = '2G'\n"
            "max_header_size = 65536\n"
            "trusted_proxies = ['10.0.0.0/8', '::1', 'unix']\n"
            "proxy_protocol = true\n"
            "[php]\n"
            "document_root = './web//x/'\n"
            "worker_pool_size = 7\n"
            "user = 'www-data'\n"
            "ini = { memory_limit = '256M', 'opcache.enable' = true }\n"
            "front_controller = false\n"
            "libphp_path = '/usr/lib/libphp8.2.so'\n"
            "[php.admin_ini]\n"
            "opcache.jit = 'off'\n"
            "opcache.max_accelerated_files = 4000\n"
            "[php.env]\n"
            "APP_ENV = 'prod'\n"
            "[log]\n"
            "access = 'access.log'\n"
            "format = 'json'\n"
            "level = 'debug'\n",
            NULL);
    const struct config_listen *a = c->server.listen;
    EXPECT_INT(c->server.n_listen, 6);
    EXPECT_TEXT(a[0].host, "*");
    EXPECT_TEXT(a[1].host, "::1");
    EXPECT_INT(a[1].port, 8443);
    EXPECT_TEXT(a[1].text, "[::1]:8443");
    EXPECT_TEXT(a[2].host, "localhost");
    EXPECT_INT(a[2].port, 0);
    EXPECT_INT(a[3].kind, CONFIG_LISTEN_UNIX);
    EXPECT_TEXT(a[3].path, "/srv/app/run/s.sock");
    EXPECT_TEXT(a[4].host, "*");
    EXPECT_INT(a[4].port, 81);
    EXPECT_TEXT(a[5].host, "127.0.0.1");
    EXPECT_INT(a[5].port, 82);
    EXPECT_INT(c->server.gateway_threads, 2);
    EXPECT_INT(c->server.header_timeout_ms, 500);
    EXPECT_INT(c->server.keepalive_timeout_ms, 0);
    EXPECT_INT(c->server.max_body_size, INT64_C(2) << 30);
    EXPECT_INT(c->server.max_header_size, 65536);
    EXPECT_INT(c->server.trusted_proxies.n, 3);
    EXPECT(c->server.proxy_protocol);
    const struct config_pool *pool = &c->pools[0];
    EXPECT_TEXT(pool->document_root, "/srv/app/web/x");
    EXPECT(pool->document_root_given);
    EXPECT_INT(pool->worker_pool_size, 7);
    EXPECT_INT(pool->ini.n, 2);
    EXPECT_TEXT(pool->ini.v[1].key, "opcache.enable");
    EXPECT_TEXT(pool->ini.v[1].value, "1");
    EXPECT_INT(pool->admin_ini.n, 2);
    EXPECT_TEXT(pool->admin_ini.v[0].key, "opcache.jit");
    EXPECT_TEXT(pool->admin_ini.v[1].value, "4000");
    EXPECT_INT(pool->env.n, 1);
    EXPECT(pool->front_controller.n == 0 && pool->front_controller_given);
    EXPECT_TEXT(c->log.access, "/srv/app/access.log");
    EXPECT(c->log.access_given);
    EXPECT_INT(c->log.format, CONFIG_LOG_JSON);
    EXPECT_TEXT(c->log.level, "debug");
    config_free(c);
}

TEST(the_command_line_beats_the_file)
{
    const char *overrides[] = { "server.listen=127.0.0.1:0", "server.listen=unix:/tmp/x",
                                "php.worker_pool_size=3",    "php.ini.memory_limit=1G",
                                "php.ini.opcache.enable=0",  "php.document_root=/x",
                                "server.max_body_size=100",  "server.header_timeout=2s",
                                "log.access=stdout",         "server.proxy_protocol=true",
                                "php.ini.date.timezone=a=b", NULL };

    load_ok("[server]\n"
            "listen = ['*:80']\n"
            "[php]\n"
            "worker_pool_size = 'auto'\n"
            "ini = { memory_limit = '1M', x = 1 }\n",
            overrides);
    EXPECT_INT(c->server.n_listen, 2);
    EXPECT_INT(c->server.listen[0].port, 0);
    EXPECT_TEXT(c->server.listen[1].path, "/tmp/x");
    EXPECT_INT(c->pools[0].worker_pool_size, 3);
    EXPECT_INT(c->pools[0].ini.n, 4);
    EXPECT_TEXT(c->pools[0].ini.v[0].value, "1G");
    EXPECT_TEXT(c->pools[0].ini.v[2].key, "opcache.enable");
    EXPECT_TEXT(c->pools[0].ini.v[3].value, "a=b");
    EXPECT_TEXT(c->pools[0].document_root, "/x");
    EXPECT(c->pools[0].document_root_given);
    EXPECT_INT(c->server.max_body_size, 100);
    EXPECT_INT(c->server.header_timeout_ms, 2000);
    EXPECT_TEXT(c->log.access, "stdout");
    EXPECT(c->server.proxy_protocol);
    config_free(c);
}

TEST(errors_say_place_key_expected_and_found)
{
    expect_error(
        "[server]\nmax_body_size = '64Q'\n",
        "sapid.toml:2:17: server.max_body_size: expected a size such as \"64M\" or a number of "
        "bytes, found \"64Q\"");
    expect_error(
        "[server]\nheader_timeout = 30\n",
        "sapid.toml:2:18: server.header_timeout: expected a time with its unit such as \"30s\", "
        "\"500ms\" or \"2m\", found 30");
    expect_error(
        "[server]\nmax_header_count = 1000\n",
        "sapid.toml:2:20: server.max_header_count: expected a whole number from 1 to 256, found "
        "1000");
    expect_error(
        "[server]\n  listen = ['127.0.0.1:80', 'a b:80']\n",
        "sapid.toml:2:29: server.listen: expected \"address:port\", \"[IPv6]:port\", "
        "\"name:port\", \"*:port\", \"port\" or \"unix:/path\" with a port from 0 to 65535, "
        "found \"a b:80\"");
    expect_error("[log]\nformat = 'xml'\n",
                 "sapid.toml:2:10: log.format: expected \"combined\" or \"json\", "
                 "found \"xml\"");
    expect_error("[php]\nclear_env = 1\n",
                 "sapid.toml:2:13: php.clear_env: expected true or false, found 1");
    expect_error("[php]\nini = { a = [1] }\n",
                 "sapid.toml:2:13: php.ini: a: expected a string, a number, true or "
                 "false, found an array");
    expect_error(
        "[php\n",
        "sapid.toml:1:5: expected '.' or ']' after a part of the header, found the end of the "
        "line");
    expect_error("[php]\nuser = www-data\n",
                 "sapid.toml:2:8: expected a value, found www-data (a string needs "
                 "quotes)");
}

TEST(unknown_keys_name_the_nearest_known_one)
{
    expect_error("[server]\nlisen = []\n",
                 "sapid.toml:2:1: unknown key server.lisen; did you mean listen?");
    expect_error(
        "[server]\nlibphp_path = 'x'\n",
        "sapid.toml:2:1: unknown key server.libphp_path; did you mean libphp_path in [php]?");
    expect_error("[php]\nqwertyuiop = 1\n", "sapid.toml:2:1: unknown key php.qwertyuiop");
    expect_error("[sevrer]\n", "sapid.toml:1:2: unknown table [sevrer]; did you mean [server]?");
    expect_error("[vhost]\n",
                 "sapid.toml:1:2: unknown table [vhost]; known are [server], [php], [worker], "
                 "[fastcgi], [log], [admin], [pool.NAME] and [[route]]");
    expect_error("[[route]]\nmatch = { prefix = '/a' }\nbackedn = 'deny'\n",
                 "sapid.toml:3:1: unknown key route.backedn; did you mean backend?");
    expect_error("listen = ['8080']\n",
                 "sapid.toml:1:1: unknown key listen outside of any table; did you mean listen in "
                 "[server]?");
    expect_override_error("php.worker_pool_siz=2",
                          "command line: unknown key php.worker_pool_siz; did you mean "
                          "worker_pool_size?");
}

TEST(keys_of_later_features_are_not_accepted)
{
    static const char *const files[] = {
        "[metrics]\n",
        "[tls]\n",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(files); i++) {
        EXPECT_INT(load(files[i], NULL), -EINVAL);
        EXPECT_INT(errors.n, 1);
        config_free(c);
    }
}

TEST(pool_sizes_may_change)
{
    EXPECT_INT(load("[php]\nworker_pool_size = { min = 2, max = 16, spare = 3 }\n", NULL), 0);
    EXPECT_INT(c->pools[0].worker_pool_size, 16);
    EXPECT_INT(c->pools[0].worker_min, 2);
    EXPECT_INT(c->pools[0].worker_spare, 3);
    config_free(c);
    EXPECT_INT(load("[php]\nworker_pool_size = { min = 0, max = 'auto' }\n", NULL), 0);
    EXPECT_INT(c->pools[0].worker_pool_size, CONFIG_AUTO);
    EXPECT_INT(c->pools[0].worker_min, 0);
    config_free(c);
    EXPECT_INT(load("[php]\nworker_pool_size = 5\n", NULL), 0);
    EXPECT_INT(c->pools[0].worker_min, CONFIG_AUTO);
    config_free(c);
    expect_error(
        "[php]\nworker_pool_size = { min = 9, max = 4 }\n",
        "sapid.toml:2:20: php.worker_pool_size: expected min and spare of at most max (4), "
        "found min = 9, spare = 0");
    expect_error("[php]\nworker_pool_size = { least = 9 }\n",
                 "sapid.toml:2:22: php.worker_pool_size: unknown key least; known are min, max and "
                 "spare");
}

TEST(pages_about_the_server_have_paths_of_their_own)
{
    expect_error("[php]\nstatus_path = 'status'\n",
                 "sapid.toml:2:1: php.status_path: expected a path that begins with /, found "
                 "\"status\"");
    expect_error(
        "[php]\nstatus_path = '/s'\n[pool.b]\ndocument_root = '/'\nping_path = '/s'\n",
        "sapid.toml:5:1: pool.b.ping_path: \"/s\" is the path of another status or ping page");
    expect_error("[php]\nstatus_allow = ['localhost']\n",
                 "sapid.toml:2:17: php.status_allow: expected an address, a network such as "
                 "\"10.0.0.0/8\", or \"unix\", found \"localhost\"");
    EXPECT_INT(load("[php]\nstatus_path = '/s'\nping_path = '/p'\n[worker]\nscript = '/w.php'\n"
                    "[admin]\nsocket = 'x.sock'\n",
                    NULL),
               0);
    EXPECT_TEXT(c->admin.socket, "/srv/app/x.sock");
    /* the pages show the pool that has the requests */
    EXPECT_TEXT(c->pools[0].status_path, "");
    EXPECT_TEXT(c->pools[1].status_path, "/s");
    config_free(c);
}

TEST(routes_are_read_in_the_order_of_the_file)
{
    EXPECT_INT(load("[[route]]\nmatch = { exact = '/x' }\nbackend = 'deny'\n"
                    "[[route]]\nmatch = { regex = '^/u/(.*)$' }\ntry = ['$uri', '=404']\n"
                    "priority = 7\nmax_body_size = '1M'\n"
                    "[[route]]\nmatch = { prefix = '/old/' }\nredirect = '/new$uri'\n",
                    NULL),
               0);
    EXPECT_INT(c->n_routes, 3);
    EXPECT_INT(c->routes[0].match, CONFIG_MATCH_EXACT);
    EXPECT_INT(c->routes[0].backend, CONFIG_BACKEND_DENY);
    EXPECT_INT(c->routes[0].status, 403);
    EXPECT_TEXT(c->routes[1].pattern, "^/u/(.*)$");
    EXPECT_INT(c->routes[1].try.n, 2);
    EXPECT_INT(c->routes[1].priority, 7);
    EXPECT_INT(c->routes[1].max_body_size, 1 << 20);
    EXPECT_INT(c->routes[2].backend, CONFIG_BACKEND_REDIRECT);
    EXPECT_INT(c->routes[2].status, 302);
    config_free(c);
}

TEST(a_route_that_says_too_little_or_too_much_is_an_error)
{
    expect_error("[[route]]\nbackend = 'deny'\n",
                 "sapid.toml:1:3: route: expected match = { exact, prefix, suffix or regex = "
                 "\"...\" }");
    expect_error("[[route]]\nmatch = { prefix = 'a' }\n",
                 "sapid.toml:2:20: route.match.prefix: expected a path that begins with /, found "
                 "\"a\"");
    expect_error("[[route]]\nmatch = { prefix = '/a' }\nbackend = 'fastcgi'\n",
                 "sapid.toml:1:3: route.backend: \"fastcgi\" needs servers in [fastcgi], or "
                 "php.fpm_socket");
    expect_error("[[route]]\nmatch = { prefix = '/a' }\npool = 'b'\n",
                 "sapid.toml:1:3: route.pool: there is no pool \"b\"; it would be [pool.b]");
    expect_error("[[route]]\nmatch = { regex = '^/(a' }\nbackend = 'deny'\n",
                 "sapid.toml:2:19: route.match.regex: \"^/(a\": missing closing parenthesis at "
                 "character 5");
    expect_error("[[route]]\nmatch = { prefix = '/a' }\nbackend = 'deny'\nredirect = '/b'\n",
                 "sapid.toml:1:3: route: either backend or redirect, not both");
    expect_error("[[route]]\nmatch = { prefix = '/a' }\nstatus = 404\n",
                 "sapid.toml:1:3: route.status: only deny and redirect have a status of their own");
}

TEST(pools_have_the_keys_and_defaults_of_php_but_not_its_values)
{
    load_ok("[pool.b]\ndocument_root = 'b'\nuser = 'games'\nini = { memory_limit = '1M' }\n"
            "[php]\nuser = 'www-data'\nqueue_size = 7\nenv = { SECRET = 'x' }\nini = { a = '1' }\n"
            "[pool.a]\ndocument_root = '/a'\nfpm_socket = '/run/a.sock'\nuse_fpm = true\n"
            "[worker]\nscript = '/w.php'\n"
            "[[route]]\nmatch = { prefix = '/a' }\npool = 'a'\nbackend = 'fastcgi'\n",
            NULL);
    EXPECT_INT(c->n_pools, 4);
    EXPECT_TEXT(c->pools[0].name, "www");
    EXPECT_TEXT(c->pools[0].user, "www-data");
    EXPECT_INT(c->pools[0].queue_size, 7);
    EXPECT_TEXT(c->pools[1].name, "b");
    EXPECT_TEXT(c->pools[1].table, "pool.b");
    EXPECT_TEXT(c->pools[1].document_root, "/srv/app/b");
    EXPECT_TEXT(c->pools[1].user, "games");
    EXPECT_INT(c->pools[1].queue_size, 1024);
    EXPECT_INT(c->pools[1].env.n, 0);
    EXPECT_INT(c->pools[1].ini.n, 1);
    EXPECT_TEXT(c->pools[1].front_controller, "index.php");
    EXPECT_INT(c->pools[1].worker_script.n, 0);
    EXPECT(c->pools[1].upstream == NULL);
    EXPECT_TEXT(c->pools[2].name, "a");
    EXPECT_INT(c->pools[2].upstream->n_servers, 1);
    EXPECT_TEXT(c->pools[3].name, "www-worker");
    config_free(c);
}

TEST(what_is_wrong_in_a_pool_is_said_with_its_name)
{
    expect_error("[pool.a]\n", "sapid.toml:1:7: pool.a.document_root is missing: it is looked for "
                               "only for [php]");
    expect_error("[pool.a]\ndocument_root = '/a'\nqueue_size = 'x'\n",
                 "sapid.toml:3:14: pool.a.queue_size: expected a whole number, found \"x\"");
    expect_error("[pool.a]\ndocument_root = '/a'\nusr = 'x'\n",
                 "sapid.toml:3:1: unknown key pool.a.usr; did you mean user?");
    expect_error("[pool.a]\ndocument_root = '/a'\nuse_fpm = true\n",
                 "sapid.toml:3:1: pool.a.use_fpm = true needs pool.a.fpm_socket = "
                 "\"/run/php/php8.2-fpm.sock\" or fastcgi.servers: where is PHP-FPM?");
    expect_error("[pool.www]\ndocument_root = '/a'\n",
                 "sapid.toml:1:7: [pool.www]: the name belongs to [php]; choose another one");
    expect_error("[pool.\"A b\"]\ndocument_root = '/a'\n",
                 "sapid.toml:1:7: [pool.A b]: expected a name of 1 to 24 letters a to z, digits, - "
                 "and _");
    expect_error("pool = 1\n", "sapid.toml:1:8: pool: expected tables, [pool.NAME] each, found an "
                               "integer");
    expect_error("[pool]\na = 1\n", "sapid.toml:2:5: pool.a: expected a table, found an integer");
}

TEST(there_is_a_limit_of_pools)
{
    char text[4096];
    size_t n = 0;

    for (int i = 0; i < CONFIG_POOLS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "[pool.p%d]\ndocument_root = '/a'\n", i);
    EXPECT_INT(load(text, NULL), -EINVAL);
    EXPECT_INT(errors.n, 1);
    config_free(c);
}

TEST(fastcgi_servers_are_addresses_or_tables)
{
    EXPECT_INT(load("[php]\nuse_fpm = true\n[fastcgi]\nconnections = 9\n"
                    "balance = 'least-connections'\n"
                    "servers = ['unix:/run/a.sock', '/run/b.sock', 'localhost:9000',"
                    " { address = '[::1]:9001', weight = 3, connections = 5 }]\n",
                    NULL),
               0);
    const struct config_fastcgi *group = c->pools[0].upstream;
    EXPECT_INT(group->n_servers, 4);
    EXPECT_TEXT(group->servers[0].address.path, "/run/a.sock");
    EXPECT_TEXT(group->servers[1].address.path, "/run/b.sock");
    EXPECT_TEXT(group->servers[2].address.host, "localhost");
    EXPECT_INT(group->servers[2].weight, 1);
    EXPECT_INT(group->servers[2].connections, 9);
    EXPECT_INT(group->servers[3].address.port, 9001);
    EXPECT_INT(group->servers[3].weight, 3);
    EXPECT_INT(group->servers[3].connections, 5);
    EXPECT_INT(group->balance, CONFIG_BALANCE_LEAST);
    config_free(c);
}

TEST(fpm_socket_is_a_server_with_the_limits_of_fastcgi)
{
    const char *overrides[] = { "php.use_fpm=true", "php.fpm_socket=/run/x.sock", NULL };

    EXPECT_INT(load("[fastcgi]\nservers = ['127.0.0.1:1']\nconnections = 3\n", overrides), 0);
    EXPECT(c->pools[0].use_fpm);
    EXPECT_INT(c->pools[0].upstream->n_servers, 1);
    EXPECT_TEXT(c->pools[0].upstream->servers[0].address.path, "/run/x.sock");
    EXPECT_INT(c->pools[0].upstream->servers[0].connections, 3);
    config_free(c);
    EXPECT_INT(load("", NULL), 0);
    EXPECT(!c->pools[0].use_fpm && !c->pools[0].upstream);
    config_free(c);
}

TEST(fastcgi_mistakes_are_named)
{
    expect_error("[php]\nuse_fpm = true\n",
                 "sapid.toml:2:1: php.use_fpm = true needs php.fpm_socket = "
                 "\"/run/php/php8.2-fpm.sock\" or fastcgi.servers: where is PHP-FPM?");
    expect_error("[fastcgi]\nservers = ['*:9000']\n",
                 "sapid.toml:2:12: fastcgi.servers: expected the host and port of a server to "
                 "connect to, found \"*:9000\"");
    expect_error("[fastcgi]\nservers = [{ weight = 2 }]\n",
                 "sapid.toml:2:12: fastcgi.servers: a server needs an address");
    expect_error("[fastcgi]\nservers = [{ address = '/a', weigth = 2 }]\n",
                 "sapid.toml:2:30: fastcgi.servers: unknown key weigth; known are address, weight "
                 "and connections");
    expect_error("[fastcgi]\nservers = ['/a', 'unix:/a']\n",
                 "sapid.toml:2:18: fastcgi.servers: \"unix:/a\" is listed twice");
    expect_error(
        "[fastcgi]\nservers = [{ address = '/a', weight = 0 }]\n",
        "sapid.toml:2:39: fastcgi.servers: expected a whole number from 1 to 1000, found 0");
}

TEST(all_errors_of_a_file_are_collected_in_order)
{
    const char *overrides[] = { "log.level=loud", NULL };

    EXPECT_INT(load("[server]\nlisten = 3\nx = 1\n[php]\nqueue_size = 0\n", overrides), -EINVAL);
    EXPECT_INT(errors.n, 4);
    EXPECT_INT(errors.v[0].line, 2);
    EXPECT_INT(errors.v[1].line, 3);
    EXPECT_INT(errors.v[2].line, 5);
    EXPECT_INT(errors.v[3].line, 0);
    expect_line(c, &errors.v[3],
                "command line: log.level: expected \"error\", \"warn\", \"notice\", "
                "\"info\" or \"debug\", found \"loud\"");
    config_free(c);
}

TEST(columns_count_characters_not_bytes)
{
    expect_error(
        "[php]\nini = { \"\xC3\xA4\xC3\xB6\" = 1, b = [] }\n",
        "sapid.toml:2:23: php.ini: b: expected a string, a number, true or false, found an array");
}

TEST(listen_addresses_that_are_wrong)
{
    static const char *const wrong[] = { "",
                                         ":",
                                         "x",
                                         "1.2.3:80",
                                         "1.2.3.4",
                                         "1.2.3.4:",
                                         "1.2.3.4:65536",
                                         "::1:80",
                                         "[::1]",
                                         "[::1",
                                         "[::1]80",
                                         "[1.2.3.4]:80",
                                         "[]:80",
                                         "host:http",
                                         "-a:80",
                                         "a/b:80",
                                         "unix:",
                                         "http://localhost:80",
                                         "80 ",
                                         " 80",
                                         "+80",
                                         "1.2.3.4:-1" };

    for (size_t i = 0; i < ARRAY_LENGTH(wrong); i++) {
        char *text = mem_printf("[server]\nlisten = ['%s']\n", wrong[i]);
        if (load(text, NULL) != -EINVAL || errors.n != 1)
            test_fail(__FILE__, __LINE__, "listen = '%s' was accepted", wrong[i]);
        config_free(c);
        mem_free(text);
    }
    expect_error("[server]\nlisten = ['80', '127.0.0.1:80']\n",
                 "sapid.toml:2:17: server.listen: \"127.0.0.1:80\" is listed twice");
    expect_error("[server]\nlisten = []\n",
                 "sapid.toml:2:10: server.listen: expected 1 to 64 addresses, found 0");
}

/* Every allocation that can fail, fails once: -ENOMEM each time, nothing leaks or crashes. */
TEST(running_out_of_memory_is_reported)
{
    const char *overrides[] = { "server.listen=1", "php.ini.a=b", NULL };
    const char *text = "[server]\nlisten = ['2']\n[php]\nini.x.y = 1\nnope = 2\n";
    int rc = -ENOMEM;

    for (unsigned long n = 1; rc == -ENOMEM; n++) {
        EXPECT(n < 1000);
        mem_fail_nth(n);
        rc = config_load(STR("f"), str_from(text), overrides, STR("/"), &c, &errors);
        mem_fail_nth(0);
        config_free(c);
    }
    EXPECT_INT(rc, -EINVAL);
}
