/* The life of generations and of the gateway, with stand-ins for both (fake_roles.c). */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server.h"

static struct server v;

static void turn_until(bool (*done)(void))
{
    while (!done())
        loop_turn(v.s.loop, 5 * NS_PER_MS);
}

static bool no_generation_but_active(void)
{
    struct pool *p = v.s.pools[0];
    return p->active && !p->pending && p->generations.next == &p->active->link &&
           p->generations.prev == &p->active->link;
}

static bool pool_is_waiting_to_retry(void)
{
    return v.s.pools[0]->retry.deadline_ns != 0 && list_empty(&v.s.pools[0]->generations);
}

TEST(listens_only_after_the_pool_was_granted)
{
    server_start(&v, NULL);
    server_await(&v, "pool 1 channel 3", 1); /* the roles write their lines at their own pace */
    server_await(&v, "gateway add 1 fds 4", 1);
    server_await(&v, "gateway activate 1", 1);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(engine_failure_at_first_start_ends_with_1)
{
    server_prepare(&v, NULL);
    server_put(&v, "behave", "fail");
    EXPECT_INT(supervisor_start(&v.s), 0);
    EXPECT_INT(server_finish(&v), 1);
}

TEST(pool_death_before_ready_at_first_start_ends_with_1)
{
    server_prepare(&v, NULL);
    server_put(&v, "behave", "die");
    EXPECT_INT(supervisor_start(&v.s), 0);
    EXPECT_INT(server_finish(&v), 1);
}

TEST(gateway_death_at_first_start_ends_with_1)
{
    server_prepare(&v, NULL);
    server_put(&v, "behave", "bad-gateway");
    EXPECT_INT(supervisor_start(&v.s), 0);
    EXPECT_INT(server_finish(&v), 1);
}

TEST(reload_activates_the_new_generation_then_drains_the_old)
{
    server_start(&v, NULL);
    server_signal(&v, SIGHUP);
    server_await(&v, "gateway activate 2", 1);
    server_await(&v, "pool 1 drain", 1);
    server_await(&v, "gateway remove 1", 1);
    turn_until(no_generation_but_active);
    EXPECT_INT(v.s.pools[0]->active->number, 2);
    EXPECT_INT(server_count(&v, "pool 1 stop"), 0);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(reload_that_fails_keeps_the_old_generation)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "fail");
    server_signal(&v, SIGHUP);
    server_await(&v, "pool 2 start", 1);
    turn_until(no_generation_but_active);
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    EXPECT_INT(server_count(&v, "gateway activate 2"), 0);
    EXPECT_INT(server_count(&v, "pool 1 drain"), 0);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(reloads_during_a_start_become_one_more_generation)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "slow");
    for (int i = 0; i < 5; i++)
        server_signal(&v, SIGHUP);
    server_await(&v, "pool 2 start", 1);
    server_put(&v, "behave", "ok");
    server_await(&v, "gateway activate 3", 1);
    turn_until(no_generation_but_active);
    EXPECT_INT(v.s.pools[0]->last_number, 3);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(old_generation_that_never_drains_is_stopped_after_drain_timeout)
{
    static const char *const extra[] = { "server.drain_timeout=50ms", NULL };

    server_start(&v, extra);
    server_put(&v, "hold", "");
    server_signal(&v, SIGHUP);
    server_await(&v, "gateway activate 2", 1);
    server_await(&v, "pool 1 stop", 1);
    server_remove(&v, "hold");
    turn_until(no_generation_but_active);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(dead_pool_is_replaced_and_the_gateway_told)
{
    server_start(&v, NULL);
    kill(server_pid(&v, "pool 1 start "), SIGKILL);
    server_await(&v, "gateway activate 2", 1);
    server_await(&v, "gateway remove 1", 1);
    EXPECT_INT(server_count(&v, "gateway remove 1"), 1);
    server_await(&v, "gateway start", 1);
    EXPECT_INT(server_count(&v, "gateway start"), 1);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(pool_that_dies_again_and_again_is_retried_slower)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "die");
    kill(server_pid(&v, "pool 1 start "), SIGKILL);
    server_await(&v, "pool 3 start", 1); /* 2 at once, 3 after 100 ms */
    turn_until(pool_is_waiting_to_retry);
    uint64_t third_ns = v.s.pools[0]->retry.deadline_ns - loop_now_ns(v.s.loop);
    EXPECT(third_ns >= 200 * NS_PER_MS);
    server_put(&v, "behave", "ok");
    server_await(&v, "gateway activate 4", 1);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(dead_gateway_is_replaced_with_fresh_channels)
{
    server_start(&v, NULL);
    kill(server_pid(&v, "gateway start "), SIGKILL);
    server_await(&v, "gateway start", 2);
    server_await(&v, "pool 1 channel 3", 2);
    server_await(&v, "gateway add 1", 2);
    server_await(&v, "gateway activate 1", 2);
    server_await(&v, "gateway listen", 2);
    server_await(&v, "gateway socket 0 thread 0", 2);
    EXPECT_INT(server_count(&v, "gateway socket 0 thread 0"), 2);
    EXPECT_INT(server_count(&v, "pool 2 start"), 0);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(gateway_death_during_a_reload_loses_neither_generation)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "slow");
    server_signal(&v, SIGHUP);
    server_await(&v, "pool 2 start", 1);
    kill(server_pid(&v, "gateway start "), SIGKILL);
    server_await(&v, "gateway activate 1", 2);
    server_put(&v, "behave", "ok");
    server_await(&v, "gateway activate 2", 1);
    turn_until(no_generation_but_active);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(pool_that_is_never_ready_is_given_up)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "slow");
    v.s.start_limit_ns = NS_PER_S; /* a busy machine starts it in that */
    server_signal(&v, SIGHUP);
    server_await(&v, "pool 2 start", 1);
    pid_t hung = server_pid(&v, "pool 2 start ");
    turn_until(no_generation_but_active);
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    EXPECT(!process_exists(hung));
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(pool_that_is_never_ready_at_first_start_ends_with_1)
{
    server_prepare(&v, NULL);
    server_put(&v, "behave", "slow");
    v.s.start_limit_ns = NS_PER_S; /* a busy machine starts it in that */
    EXPECT_INT(supervisor_start(&v.s), 0);
    EXPECT_INT(server_finish(&v), 1);
}

TEST(both_dead_at_once_both_come_back)
{
    server_start(&v, NULL);
    kill(server_pid(&v, "gateway start "), SIGKILL);
    kill(server_pid(&v, "pool 1 start "), SIGKILL);
    server_await(&v, "gateway activate 2", 1);
    server_await(&v, "gateway listen", 2);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(invalid_configuration_on_reload_changes_nothing)
{
    server_start(&v, NULL);
    v.s.cli.config_path = mem_printf("%s/sapid.toml", v.root);
    server_put(&v, "sapid.toml", "[server]\nlisten = 3\n");
    server_signal(&v, SIGHUP);
    EXPECT(no_generation_but_active());
    EXPECT_INT(v.s.pools[0]->last_number, 1);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(sigterm_drains_the_gateway_then_the_pool)
{
    server_start(&v, NULL);
    server_put(&v, "hold", "");
    server_signal(&v, SIGTERM);
    server_await(&v, "gateway drain", 1);
    EXPECT_INT(server_count(&v, "pool 1 drain"), 0);
    server_remove(&v, "hold");
    server_await(&v, "pool 1 drain", 1);
    EXPECT_INT(server_count(&v, "pool 1 stop"), 0);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(drain_timeout_ends_what_is_left)
{
    static const char *const extra[] = { "server.drain_timeout=50ms", NULL };

    server_start(&v, extra);
    server_put(&v, "hold", "");
    server_signal(&v, SIGTERM);
    server_await(&v, "pool 1 stop", 1);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(second_sigterm_ends_at_once)
{
    server_start(&v, NULL);
    server_put(&v, "hold", "");
    server_signal(&v, SIGTERM);
    server_await(&v, "gateway drain", 1);
    server_signal(&v, SIGTERM);
    server_await(&v, "pool 1 stop", 1);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(pool_that_hears_nothing_is_killed_on_sigint)
{
    server_prepare(&v, NULL);
    server_put(&v, "behave", "deaf");
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    pid_t pool = server_pid(&v, "pool 1 start ");
    server_signal(&v, SIGINT);
    EXPECT_INT(server_finish(&v), 0);
    EXPECT(!process_exists(pool));
}

TEST(each_gateway_thread_gets_a_listener_and_an_eventfd)
{
    static const char *const extra[] = { "server.gateway_threads=3", NULL };

    server_start(&v, extra);
    server_await(&v, "gateway socket 0 thread 2", 1);
    EXPECT_INT(server_count(&v, "gateway socket 0 thread 2"), 1);
    server_await(&v, "gateway add 1 fds 6", 1);
    EXPECT_INT(server_count(&v, "gateway add 1 fds 6"), 1);
    server_await(&v, "pool 1 channel 5", 1);
    EXPECT_INT(server_count(&v, "pool 1 channel 5"), 1);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(no_descriptor_is_left_after_reloads_and_deaths)
{
    server_start(&v, NULL);
    unsigned before = count_descriptors();
    for (unsigned i = 2; i < 6; i++) {
        char line[32];
        server_signal(&v, SIGHUP);
        snprintf(line, sizeof(line), "gateway activate %u", i);
        server_await(&v, line, 1);
        turn_until(no_generation_but_active);
    }
    kill(server_pid(&v, "gateway start "), SIGKILL);
    server_await(&v, "gateway activate 5", 2);
    server_await(&v, "gateway listen", 2);
    EXPECT_INT(count_descriptors(), before);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

/* --- what a reload or a rollback tells whoever asked for it ----------------------------------- */

static unsigned n_told;
static bool told_ok;
static char told[1024];

static void hear(void *ctx, bool ok, const char *sentence)
{
    CHECK(ctx == &v);
    n_told++;
    told_ok = ok;
    snprintf(told, sizeof(told), "%s", sentence);
}

static bool was_told(void)
{
    return n_told > 0;
}

static void reload(bool back)
{
    n_told = 0;
    if (back)
        supervisor_rollback(&v.s, hear, &v);
    else
        supervisor_reload(&v.s, hear, &v);
    turn_until(was_told);
}

TEST(rollback_without_a_reload_before_is_refused)
{
    server_start(&v, NULL);
    reload(true);
    EXPECT(!told_ok && strstr(told, "there was no reload") != NULL);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(rollback_to_a_release_that_drains_is_immediate)
{
    server_start(&v, NULL);
    server_put(&v, "hold", "");
    reload(false);
    EXPECT(told_ok && strstr(told, "pool www g2") != NULL);
    reload(true);
    EXPECT(told_ok && strstr(told, "pool www g1") != NULL);
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    server_await(&v, "gateway activate 1", 2);
    reload(true); /* and forward again */
    EXPECT_INT(v.s.pools[0]->active->number, 2);
    EXPECT_INT(v.s.pools[0]->last_number, 2);
    server_remove(&v, "hold");
    server_await(&v, "pool 1 drain", 1);
    turn_until(no_generation_but_active);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(rollback_to_a_release_that_has_gone_starts_it_again)
{
    char first[96], second[96];

    server_prepare(&v, NULL);
    snprintf(first, sizeof(first), "[php]\nenv = { RELEASE = \"1\" }\n");
    snprintf(second, sizeof(second), "[php]\nenv = { RELEASE = \"2\" }\n");
    v.s.cli.config_path = mem_printf("%s/sapid.toml", v.root);
    server_put(&v, "sapid.toml", first);
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    server_put(&v, "sapid.toml", second);
    reload(false);
    turn_until(no_generation_but_active);
    reload(true);
    EXPECT(told_ok);
    EXPECT_INT(v.s.pools[0]->active->number, 3);
    EXPECT_STR(v.s.plan->config->pools[0].env.v[0].value, STR("1"));
    turn_until(no_generation_but_active);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(every_asker_is_told_and_those_that_wait_share_one_reload)
{
    server_start(&v, NULL);
    n_told = 0;
    for (int i = 0; i < 4; i++)
        supervisor_reload(&v.s, hear, &v);
    supervisor_reload_forget(&v.s, NULL); /* nobody's */
    while (n_told < 4)
        loop_turn(v.s.loop, 5 * NS_PER_MS);
    EXPECT_INT(v.s.pools[0]->last_number, 3);
    turn_until(no_generation_but_active);
    supervisor_reload(&v.s, hear, &v);
    supervisor_reload_forget(&v.s, &v);
    server_await(&v, "gateway activate 4", 1);
    EXPECT_INT(n_told, 4);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

static bool one_gateway(void)
{
    return v.s.gateways.next->next == &v.s.gateways && no_generation_but_active();
}

TEST(change_of_the_server_starts_another_gateway)
{
    server_prepare(&v, NULL);
    v.s.cli.config_path = mem_printf("%s/sapid.toml", v.root);
    server_put(&v, "sapid.toml", "[server]\nbody_timeout = \"10s\"\n");
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    unsigned before = count_descriptors();
    char *urls = listeners_urls(&v.s.gateway->listeners);
    server_put(&v, "sapid.toml", "[server]\nbody_timeout = \"20s\"\n");
    reload(false);
    EXPECT(told_ok);
    server_await(&v, "gateway listen", 2);
    server_await(&v, "gateway leave", 1);
    turn_until(one_gateway);
    char *urls_now = listeners_urls(&v.s.gateway->listeners);
    EXPECT_STR(str_from(urls_now), str_from(urls));
    mem_free(urls_now);
    EXPECT_INT(count_descriptors(), before);
    kill((pid_t)v.s.gateway->role.pid, SIGKILL); /* its successor is like it */
    server_await(&v, "gateway listen", 3);
    EXPECT_INT(server_count(&v, "gateway start"), 3);
    mem_free(urls);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(gateway_that_does_not_start_fails_the_reload)
{
    server_prepare(&v, NULL);
    v.s.cli.config_path = mem_printf("%s/sapid.toml", v.root);
    server_put(&v, "sapid.toml", "[server]\nbody_timeout = \"10s\"\n");
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    unsigned before = count_descriptors();
    server_put(&v, "sapid.toml", "[server]\nbody_timeout = \"20s\"\n");
    server_put(&v, "behave", "bad-gateway");
    reload(false);
    EXPECT(!told_ok && strstr(told, "the gateway did not start: exit status 5") != NULL);
    turn_until(one_gateway);
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    EXPECT_INT(count_descriptors(), before);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(probe_decides_and_outlives_a_gateway)
{
    static const char *const extra[] = { "php.warmup=/warm", "php.probe=/probe", NULL };

    server_start(&v, extra);
    EXPECT_INT(server_count(&v, "gateway probe /warm"), 1);
    EXPECT_INT(server_count(&v, "gateway probe /probe"), 1);
    server_put(&v, "status", "500");
    reload(false);
    EXPECT(!told_ok &&
           strstr(told, "probe /probe: expected a status below 500, found 500") != NULL);
    turn_until(no_generation_but_active);
    server_put(&v, "status", "200");
    supervisor_reload(&v.s, hear, &v);
    kill(server_pid(&v, "gateway start "), SIGKILL);
    n_told = 0;
    turn_until(was_told);
    EXPECT(told_ok);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

static bool serves_in_second(void)
{
    return no_generation_but_active() && v.s.pools[0]->active->number == 2;
}

TEST(pool_of_fpm_is_rolled_out_like_any_other)
{
    static const char text[] = "[php]\nuse_fpm = true\nfpm_socket = \"127.0.0.1:1\"\n[server]\n";
    char longer[sizeof(text) + 32];

    server_prepare(&v, NULL);
    v.s.cli.config_path = mem_printf("%s/sapid.toml", v.root);
    server_put(&v, "sapid.toml", text);
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    unsigned before = count_descriptors();
    reload(false);
    EXPECT(told_ok && v.s.pools[0]->active->number == 2);
    snprintf(longer, sizeof(longer), "%sbody_timeout = \"20s\"\n", text);
    server_put(&v, "sapid.toml", longer);
    server_put(&v, "behave", "bad-gateway");
    reload(false);
    EXPECT(!told_ok && v.s.pools[0]->active->number == 2);
    turn_until(one_gateway);
    server_put(&v, "behave", "ok");
    reload(false);
    EXPECT(told_ok);
    turn_until(one_gateway);
    reload(true);
    EXPECT(told_ok);
    turn_until(one_gateway);
    EXPECT_INT(count_descriptors(), before);
    EXPECT_INT(server_count(&v, "pool "), 0);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(pool_death_during_a_reload_is_mended_and_the_reload_goes_on)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "slow");
    n_told = 0;
    supervisor_reload(&v.s, hear, &v);
    server_await(&v, "pool 2 start", 1);
    kill(server_pid(&v, "pool 1 start "), SIGKILL);
    server_await(&v, "pool 3 start", 1);
    server_put(&v, "behave", "ok");
    turn_until(was_told);
    EXPECT(told_ok);
    turn_until(serves_in_second);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(gateway_death_during_the_start_of_another_is_mended)
{
    server_prepare(&v, NULL);
    v.s.cli.config_path = mem_printf("%s/sapid.toml", v.root);
    server_put(&v, "sapid.toml", "[server]\nbody_timeout = \"10s\"\n");
    EXPECT_INT(supervisor_start(&v.s), 0);
    server_await(&v, "gateway listen", 1);
    pid_t first = server_pid(&v, "gateway start ");
    server_put(&v, "sapid.toml", "[server]\nbody_timeout = \"20s\"\n");
    server_put(&v, "behave", "slow");
    n_told = 0;
    supervisor_reload(&v.s, hear, &v);
    server_await(&v, "pool 2 start", 1);
    kill(first, SIGKILL);
    server_await(&v, "gateway listen", 2); /* the old configuration serves again */
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    server_put(&v, "behave", "ok");
    turn_until(was_told);
    EXPECT(told_ok);
    turn_until(one_gateway);
    EXPECT_INT(v.s.pools[0]->active->number, 2);
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(stop_during_a_reload_gives_it_up)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "slow");
    n_told = 0;
    supervisor_reload(&v.s, hear, &v);
    server_await(&v, "pool 2 start", 1);
    server_signal(&v, SIGTERM);
    EXPECT(n_told == 1 && !told_ok);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(backoff_starts_at_once_doubles_and_forgets)
{
    struct backoff b = { 0 };

    EXPECT_INT(backoff_next_ns(&b, 0), 0);
    EXPECT_INT(backoff_next_ns(&b, 0), 100 * NS_PER_MS);
    EXPECT_INT(backoff_next_ns(&b, 0), 200 * NS_PER_MS);
    for (int i = 0; i < 20; i++)
        EXPECT(backoff_next_ns(&b, 0) <= 5 * NS_PER_S);
    EXPECT_INT(backoff_next_ns(&b, 0), 5 * NS_PER_S);
    EXPECT_INT(backoff_next_ns(&b, 1 * NS_PER_S), 0);
}
