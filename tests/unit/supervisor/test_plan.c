/* What is decided before a role is started: users, sizes, environment, the resolved root. */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervisor/supervisor_int.h"
#include "test.h"

static char said[4096];

static void remember(const char *line)
{
    snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s\n", line);
}

static void root_folder(char *dir, mode_t mode)
{
    EXPECT(mkdtemp(dir) != NULL);
    EXPECT_INT(chmod(dir, mode), 0);
}

/* --- sizes ----------------------------------------------------------------------------------- */

TEST(auto_workers_follow_cpus_and_memory)
{
    struct config_pool p = { .worker_pool_size = CONFIG_AUTO, .worker_min = CONFIG_AUTO };
    char why[160];

    struct machine m = { 2, UINT64_C(8) << 30 };
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 8);
    EXPECT(strstr(why, "2 CPUs") != NULL);
    m.cpus = 16;
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 64);
    m.cpus = 200;
    m.memory_bytes = UINT64_C(1) << 40;
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 256);
    m.memory_bytes = UINT64_C(512) << 20;
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 4);
    EXPECT(strstr(why, "512 MiB") != NULL);
    m.memory_bytes = 1 << 20;
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 1);
    p.worker_pool_size = 3;
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 3);
    EXPECT_INT(strlen(why), 0);
}

TEST(machine_is_at_least_one_cpu)
{
    struct machine m;

    machine_look(&m);
    EXPECT(m.cpus >= 1 && m.memory_bytes > 1 << 20);
}

TEST(a_number_that_changes_is_explained)
{
    struct config_pool p = { .worker_pool_size = 16, .worker_min = 2, .worker_spare = 3 };
    struct machine m = { .cpus = 2, .memory_bytes = UINT64_C(8) << 30 };
    char why[160];

    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 16);
    EXPECT_INT(strcmp(why, "at most; at least 2, 3 idle in advance"), 0);
    p.worker_pool_size = CONFIG_AUTO;
    EXPECT_INT(sizing_workers(&p, &m, why, sizeof(why)), 8);
    EXPECT_INT(strncmp(why, "at most; at least 2, 3 idle in advance; auto: 4 for each", 56), 0);
}

TEST(what_recycles_has_a_seat_for_a_successor)
{
    struct config c = { .server = { .max_header_size = 8192, .max_header_count = 64 } };
    struct config_pool p = { .queue_size = 8 };
    struct channel_geometry g;

    sizing_geometry(&c, &p, 4, 1, &g);
    EXPECT_INT(g.workers, 4);
    p.worker_max_age_ms = 1000;
    sizing_geometry(&c, &p, 4, 1, &g);
    EXPECT_INT(g.workers, 5);
    p = (struct config_pool){ .queue_size = 8, .worker_max_requests = 20 };
    sizing_geometry(&c, &p, 4, 1, &g);
    EXPECT_INT(g.workers, 4); /* its workers end by themselves */
}

TEST(geometry_holds_the_greatest_head_and_divides_by_threads)
{
    struct config c = { .server = { .max_header_size = 256 << 10, .max_header_count = 1000 } };
    struct config_pool p = { .queue_size = 1000 };
    struct channel_geometry g;
    int fd;

    sizing_geometry(&c, &p, 7, 3, &g);
    EXPECT(g.slot_bytes >= (256 << 10) + 1000 * 24 && g.slot_bytes % 64 == 0);
    EXPECT(g.slots >= 1007 && g.slots % 3 == 0);
    EXPECT_INT(channel_create(&g, &fd), 0);
    close(fd);
    p.queue_size = UINT32_MAX - 10;
    sizing_geometry(&c, &p, 7, 4, &g);
    EXPECT(g.slots <= CHANNEL_SLOTS_MAX && g.slots % 4 == 0);
}

/* --- users ----------------------------------------------------------------------------------- */

TEST(unknown_user_is_named_in_the_error)
{
    struct config_pool p = { .user = STR("no-such-user-here") };
    struct user u;
    char message[512];

    EXPECT_INT(user_choose_pool(&p, "/", &u, message, sizeof(message)), -EINVAL);
    EXPECT(strstr(message, "no-such-user-here") != NULL);
}

TEST(owner_of_the_root_runs_php_and_nobody_the_gateway)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX";
    struct config_pool p = { .user = STR_NONE };
    struct config_server s = { .user = STR_NONE };
    struct user pool, gateway;
    char message[512];
    const struct passwd *pw = getpwnam("www-data");

    root_folder(dir, 0755);
    EXPECT_INT(user_choose_pool(&p, dir, &pool, message, sizeof(message)), 0);
    EXPECT(!pool.change); /* root's folder, or started by an ordinary user */
    if (geteuid() == 0 && pw) {
        EXPECT_INT(chown(dir, pw->pw_uid, pw->pw_gid), 0);
        EXPECT_INT(user_choose_pool(&p, dir, &pool, message, sizeof(message)), 0);
        EXPECT(pool.change);
        EXPECT_STR(str_from(pool.name), STR("www-data"));
        EXPECT_INT(user_choose_gateway(&s, dir, &pool, &gateway, message, sizeof(message)), 0);
        EXPECT_STR(str_from(gateway.name), STR("nobody"));
        EXPECT_INT(chmod(dir, 0750), 0);
        EXPECT_INT(user_choose_gateway(&s, dir, &pool, &gateway, message, sizeof(message)), 0);
        EXPECT_STR(str_from(gateway.name), STR("www-data"));
    }
    EXPECT_INT(rmdir(dir), 0);
}

TEST(folder_that_refuses_is_named)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX", inner[64], refused[256];

    root_folder(dir, 0700);
    snprintf(inner, sizeof(inner), "%s/public", dir);
    EXPECT_INT(mkdir(inner, 0755), 0);
    struct user self = { .change = false };
    EXPECT_INT(user_can_read(&self, inner, refused, sizeof(refused)), 0);
    const struct passwd *nobody = getpwnam("nobody");
    if (geteuid() == 0 && nobody) {
        struct user u = { .change = true, .uid = nobody->pw_uid, .gid = nobody->pw_gid };
        EXPECT_INT(user_can_read(&u, inner, refused, sizeof(refused)), -EACCES);
        EXPECT_STR(str_from(refused), str_from(dir));
        EXPECT_INT(chmod(dir, 0755), 0);
        EXPECT_INT(user_can_read(&u, inner, refused, sizeof(refused)), 0);
    }
    EXPECT_INT(user_can_read(&self, "/no/such/folder", refused, sizeof(refused)), -ENOENT);
    EXPECT_INT(rmdir(inner), 0);
    EXPECT_INT(rmdir(dir), 0);
}

/* --- environment ----------------------------------------------------------------------------- */

static const char *value_in(char **env, const char *name)
{
    size_t n = strlen(name);

    for (char **it = env; *it; it++)
        if (strncmp(*it, name, n) == 0 && (*it)[n] == '=')
            return *it + n + 1;
    return NULL;
}

TEST(environment_is_cleared_as_fpm_does)
{
    struct config_pair pairs[] = { { STR("APP_ENV"), STR("prod") }, { STR("HOME"), STR("/else") } };
    struct config_pool p = { .clear_env = true, .env = { pairs, 2 } };
    struct user u = { .name = "someone", .home = "/home/someone" };

    setenv("SECRET_OF_THE_SHELL", "x", 1);
    setenv("PHP_INI_SCAN_DIR", "/etc/scan", 1);
    char **env = role_environment(&p, &u);
    EXPECT(value_in(env, "SECRET_OF_THE_SHELL") == NULL);
    EXPECT_STR(str_from(value_in(env, "PHP_INI_SCAN_DIR")), STR("/etc/scan"));
    EXPECT_STR(str_from(value_in(env, "USER")), STR("someone"));
    EXPECT_STR(str_from(value_in(env, "HOME")), STR("/else"));
    EXPECT_STR(str_from(value_in(env, "APP_ENV")), STR("prod"));
    role_environment_free(env);
    p.clear_env = false;
    setenv("NOTIFY_SOCKET", "/run/x", 1);
    env = role_environment(&p, &u);
    EXPECT(value_in(env, "NOTIFY_SOCKET") == NULL);
    EXPECT_STR(str_from(value_in(env, "SECRET_OF_THE_SHELL")), STR("x"));
    unsetenv("NOTIFY_SOCKET");
    role_environment_free(env);
    env = role_environment(NULL, &u); /* the gateway */
    EXPECT(value_in(env, "SECRET_OF_THE_SHELL") == NULL && value_in(env, "USER") == NULL);
    role_environment_free(env);
}

/* --- the plan itself ------------------------------------------------------------------------- */

TEST(root_is_resolved_anew_with_each_plan)
{
    char dir[] = "/tmp/sapid-unit-XXXXXX";
    char *overrides[] = { NULL, "php.worker_pool_size=1", NULL };
    struct config_cli o = { .overrides = overrides, .base_dir = dir };
    struct plan *one, *two;

    root_folder(dir, 0755);
    char *a = mem_printf("%s/a", dir), *b = mem_printf("%s/b", dir);
    char link_path[64];
    snprintf(link_path, sizeof(link_path), "%s/current", dir);
    EXPECT_INT(mkdir(a, 0755), 0);
    EXPECT_INT(mkdir(b, 0755), 0);
    EXPECT_INT(symlink("a", link_path), 0);
    overrides[0] = mem_printf("php.document_root=%s", link_path);
    EXPECT_INT(plan_new(&o, remember, &one), 0);
    EXPECT_INT(unlink(link_path), 0);
    EXPECT_INT(symlink("b", link_path), 0);
    EXPECT_INT(plan_new(&o, remember, &two), 0);
    EXPECT_STR(str_from(one->pools[0].document_root), str_from(a));
    EXPECT_STR(str_from(two->pools[0].document_root), str_from(b));
    EXPECT(plan_gateway_difference(one, two) == NULL);
    EXPECT(plan_pool_differs(one, two, 0));
    EXPECT(!plan_pool_differs(one, one, 0));
    plan_unref(one);
    plan_unref(two);
    EXPECT_INT(unlink(link_path), 0);
    EXPECT_INT(rmdir(a), 0);
    EXPECT_INT(rmdir(b), 0);
    EXPECT_INT(rmdir(dir), 0);
    mem_free(a);
    mem_free(b);
    mem_free(overrides[0]);
}

TEST(missing_root_is_said)
{
    char *overrides[] = { "php.document_root=/no/such/folder", NULL };
    struct config_cli o = { .overrides = overrides, .base_dir = "/" };
    struct plan *p;

    EXPECT_INT(plan_new(&o, remember, &p), -EINVAL);
    EXPECT(strstr(said, "/no/such/folder") != NULL);
    EXPECT(strstr(said, "--root") != NULL);
}

static struct plan *plan_of(const char *text, const char *name)
{
    char path[] = "/tmp/sapid-unit-XXXXXX";
    struct config_cli o = { .overrides = NULL, .base_dir = "/", .config_path = path };
    struct plan *p;
    int fd = mkstemp(path);

    EXPECT(fd >= 0);
    EXPECT_INT(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    EXPECT_INT(plan_new(&o, remember, &p), 0);
    EXPECT_INT(unlink(path), 0);
    EXPECT_STR(p->config->pools[p->config->n_pools - 1].name, str_from(name));
    return p;
}

TEST(what_differs_decides_what_starts_afresh)
{
    struct plan *a = plan_of("[server]\nlisten=\"1\"\n[php]\ndocument_root=\"/tmp\"\n"
                             "[pool.b]\ndocument_root=\"/tmp\"\n",
                             "b");
    struct plan *same = plan_of("# another way to write it\n[php]\ndocument_root=\"/tmp/\"\n"
                                "[pool.b]\ndocument_root=\"/tmp\"\n[server]\nlisten=[\"1\"]\n",
                                "b");
    struct plan *listen = plan_of("[server]\nlisten=\"2\"\n[php]\ndocument_root=\"/tmp\"\n"
                                  "[pool.b]\ndocument_root=\"/tmp\"\n",
                                  "b");
    struct plan *pool = plan_of("[server]\nlisten=\"1\"\n[php]\ndocument_root=\"/tmp\"\n"
                                "[pool.b]\ndocument_root=\"/tmp\"\nworker_pool_size=2\n",
                                "b");
    struct plan *names = plan_of("[server]\nlisten=\"1\"\n[php]\ndocument_root=\"/tmp\"\n"
                                 "[pool.c]\ndocument_root=\"/tmp\"\n",
                                 "c");
    struct plan *routes = plan_of("[server]\nlisten=\"1\"\n[php]\ndocument_root=\"/tmp\"\n"
                                  "[pool.b]\ndocument_root=\"/tmp\"\n[[route]]\n"
                                  "match={prefix=\"/b/\"}\npool=\"b\"\n",
                                  "b");

    EXPECT(plan_gateway_difference(a, same) == NULL);
    EXPECT(!plan_pool_differs(a, same, 0) && !plan_pool_differs(a, same, 1));
    EXPECT_STR(str_from(plan_gateway_difference(a, listen)), STR("server.listen"));
    EXPECT(plan_gateway_difference(a, pool) == NULL);
    EXPECT(!plan_pool_differs(a, pool, 0) && plan_pool_differs(a, pool, 1));
    EXPECT(plan_gateway_difference(a, names) != NULL);
    EXPECT(plan_gateway_difference(a, routes) == NULL);
    EXPECT(plan_pool_differs(a, routes, 0) && plan_pool_differs(a, routes, 1));
    struct plan *all[] = { a, same, listen, pool, names, routes };
    for (size_t i = 0; i < ARRAY_LENGTH(all); i++)
        plan_unref(all[i]);
}
