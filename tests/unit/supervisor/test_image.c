/* Images of entry scripts: which seat one gets, how long a script that cannot be frozen waits, and
 * what becomes of images when their pool changes (with the stand-ins of fake_roles.c). */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server.h"

#define S(n) ((n)*NS_PER_S)

/* --- choice ----------------------------------------------------------------------------------- */

TEST(a_free_seat_comes_first)
{
    const struct image_candidate seats[] = { { IMAGE_SEAT_SERVES, S(1), 0 },
                                             { IMAGE_SEAT_FREE, 0, 0 },
                                             { IMAGE_SEAT_FREE, 0, 0 } };
    EXPECT_INT(image_choose_seat(seats, 3, S(100)), 1);
}

TEST(then_that_of_the_least_recently_used)
{
    const struct image_candidate seats[] = { { IMAGE_SEAT_SERVES, S(30), 0 },
                                             { IMAGE_SEAT_SERVES, S(20), 0 },
                                             { IMAGE_SEAT_STARTS, S(10), 0 } };
    EXPECT_INT(image_choose_seat(seats, 3, S(100)), 1);
}

TEST(none_of_those_that_were_used_a_moment_ago)
{
    const struct image_candidate seats[] = { { IMAGE_SEAT_SERVES, S(98), 0 },
                                             { IMAGE_SEAT_SERVES, S(100), 0 },
                                             { IMAGE_SEAT_STARTS, S(1), 0 } };
    EXPECT_INT(image_choose_seat(seats, 3, S(100)), -1);
    EXPECT_INT(image_choose_seat(seats, 3, S(98) + IMAGE_KEEP_MS * NS_PER_MS), 0);
    EXPECT_INT(image_choose_seat(seats, 0, S(100)), -1);
    EXPECT_INT(image_choose_seat(seats, 3, S(1)), -1); /* the clock has just begun */
}

TEST(what_was_dear_to_make_stays_longer)
{
    struct image_candidate seat = { IMAGE_SEAT_SERVES, S(100), S(2) };

    EXPECT_INT(image_choose_seat(&seat, 1, S(139)), -1);
    EXPECT_INT(image_choose_seat(&seat, 1, S(140)), 0);
}

/* --- refusals --------------------------------------------------------------------------------- */

TEST(a_refused_script_waits_twice_as_long_each_time)
{
    struct image_refusal list[IMAGE_REFUSALS] = { 0 };
    uint64_t now = S(5), pause_ms = IMAGE_PAUSE_FIRST_MS;
    bool is_new;

    for (int i = 0; i < 9; i++) {
        EXPECT_INT(image_refuse(list, "/a.php", 7, "why", now, &is_new), pause_ms);
        EXPECT_INT(is_new, i == 0);
        EXPECT(image_is_refused(list, STR("/a.php"), 7, now + pause_ms * NS_PER_MS - 1));
        EXPECT(!image_is_refused(list, STR("/a.php"), 7, now + pause_ms * NS_PER_MS));
        now += pause_ms * NS_PER_MS;
        pause_ms = pause_ms * 2 < IMAGE_PAUSE_MAX_MS ? pause_ms * 2 : IMAGE_PAUSE_MAX_MS;
    }
    EXPECT_INT(pause_ms, IMAGE_PAUSE_MAX_MS);
    EXPECT(!image_is_refused(list, STR("/b.php"), 7, now));
    image_forgive_all(list);
}

TEST(a_changed_file_ends_the_wait)
{
    struct image_refusal list[IMAGE_REFUSALS] = { 0 };
    bool is_new;

    (void)image_refuse(list, "/a.php", 7, "why", S(1), &is_new);
    EXPECT(image_is_refused(list, STR("/a.php"), 7, S(2)));
    EXPECT(!image_is_refused(list, STR("/a.php"), 8, S(2)));
    image_forgive_all(list);
    EXPECT(!image_is_refused(list, STR("/a.php"), 7, S(2)));
}

TEST(an_image_that_stays_ends_the_doubling)
{
    struct image_refusal list[IMAGE_REFUSALS] = { 0 };
    const uint64_t settled = IMAGE_SETTLED_MS * NS_PER_MS;
    bool is_new;

    (void)image_refuse(list, "/a.php", 7, "why", S(1), &is_new);
    image_relieve(list, STR("/a.php"), S(20));
    EXPECT(!image_is_refused(list, STR("/a.php"), 7, S(20)));
    EXPECT_INT(image_refuse(list, "/a.php", 7, "why", S(20) + settled - 1, &is_new),
               2 * IMAGE_PAUSE_FIRST_MS);
    EXPECT(!is_new);
    image_relieve(list, STR("/a.php"), S(100));
    EXPECT_INT(image_refuse(list, "/a.php", 7, "why", S(100) + settled, &is_new),
               IMAGE_PAUSE_FIRST_MS);
    EXPECT(is_new);
    image_relieve(list, STR("/b.php"), S(100));
    image_forgive_all(list);
}

TEST(another_reason_is_news_and_another_number_is_none)
{
    struct image_refusal list[IMAGE_REFUSALS] = { 0 };
    bool is_new;

    (void)image_refuse(list, "/a.php", 7, "boot [123] ended", S(1), &is_new);
    EXPECT(is_new);
    (void)image_refuse(list, "/a.php", 7, "boot [45678] ended", S(1), &is_new);
    EXPECT(!is_new);
    (void)image_refuse(list, "/a.php", 7, "boot [123] ended badly", S(1), &is_new);
    EXPECT(is_new);
    image_forgive_all(list);
}

TEST(of_too_many_refused_scripts_the_first_to_be_over_is_forgotten)
{
    struct image_refusal list[IMAGE_REFUSALS] = { 0 };
    char name[32];
    bool is_new;

    for (unsigned i = 0; i <= IMAGE_REFUSALS; i++) {
        snprintf(name, sizeof(name), "/%u.php", i);
        (void)image_refuse(list, name, 0, "why", S(i), &is_new);
    }
    EXPECT(!image_is_refused(list, STR("/0.php"), 0, S(1)));
    EXPECT(image_is_refused(list, STR("/1.php"), 0, S(1)));
    EXPECT(image_is_refused(list, str_from(name), 0, S(1)));
    image_forgive_all(list);
}

TEST(only_scripts_beneath_the_document_root)
{
    EXPECT(image_is_beneath(STR("/srv/www/a/b.php"), STR("/a/b.php"), "/srv/www"));
    EXPECT(image_is_beneath(STR("/b.php"), STR("/b.php"), "/"));
    EXPECT(!image_is_beneath(STR("/srv/www/a.php"), STR("/b.php"), "/srv/www"));
    EXPECT(!image_is_beneath(STR("/srv/wwwx/a.php"), STR("x/a.php"), "/srv/www"));
    EXPECT(!image_is_beneath(STR("/srv/www/../a.php"), STR("/../a.php"), "/srv/www"));
    EXPECT(!image_is_beneath(STR("/srv/www//a.php"), STR("//a.php"), "/srv/www"));
    EXPECT(!image_is_beneath(STR("/srv/www"), STR(""), "/srv/www"));
    EXPECT(!image_is_beneath(STR("/etc/passwd"), STR("/passwd"), "/srv/www"));
}

/* --- in a server ------------------------------------------------------------------------------ */

static struct server v;

static void turn_until(bool (*done)(void))
{
    while (!done())
        loop_turn(v.s.loop, 5 * NS_PER_MS);
}

static struct pool *find_pool(const char *name)
{
    LIST_FOR_EACH(it, &v.s.all_pools) {
        struct pool *p = LIST_ENTRY(it, struct pool, link);
        if (str_eq(str_from(p->name), str_from(name)))
            return p;
    }
    return NULL;
}

static void want_of(const char *name, const char *host)
{
    struct control_message m;
    char script[256];

    snprintf(script, sizeof(script), "%s%s", v.root, name);
    struct control_image image = { str_from(script), str_from(name), str_from(host), true, 443,
                                   STR("127.0.0.1") };
    control_message_init(&m, CONTROL_IMAGE_WANTED);
    EXPECT(control_image_pack(&m, &image));
    image_wanted(v.s.pools[0]->active, &m);
}

static void want(const char *name)
{
    want_of(name, "example.org");
}

static bool first_serves(void)
{
    struct pool *p = find_pool("www-image1");
    return p && p->active;
}

static bool first_is_gone(void)
{
    struct pool *p = find_pool("www-image1");
    return !p || list_empty(&p->generations);
}

static bool generation_2_serves(void)
{
    return v.s.pools[0]->active && v.s.pools[0]->active->number == 2;
}

static void finish(void)
{
    server_signal(&v, SIGTERM);
    EXPECT_INT(server_finish(&v), 0);
}

TEST(an_image_is_made_once_and_beside_its_pool)
{
    server_start(&v, NULL);
    EXPECT(find_pool("www-image1") == NULL);
    want("/index.php");
    want("/index.php");
    turn_until(first_serves);
    want("/index.php");
    EXPECT_INT(server_count(&v, "image /index.php of 1 start"), 1);
    EXPECT(find_pool("www-image2")->active == NULL && find_pool("www-image2")->pending == NULL);
    EXPECT_INT(v.s.n_pools, 1);
    want("/other.php");
    server_await(&v, "image /other.php of 1 start", 1);
    EXPECT(find_pool("www-image2")->pending || find_pool("www-image2")->active);
    finish();
}

TEST(what_is_no_script_of_the_pool_gets_none)
{
    server_start(&v, NULL);
    want("/../etc/passwd");
    want("index.php");
    want_of("/index.php", "a b");
    EXPECT(find_pool("www-image1") == NULL || !find_pool("www-image1")->pending);
    finish();
}

static uint32_t image_of(const char *name)
{
    const struct pool *p = find_pool(name);

    return p && p->active ? p->active->order->of_generation : 0;
}

/* With the first pool's generation 2. */
static bool both_serve(void)
{
    return image_of("www-image1") == 2 && image_of("www-image2") == 2;
}

static bool second_serves(void)
{
    return image_of("www-image2") != 0;
}

TEST(a_reload_takes_its_images_along)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    server_signal(&v, SIGHUP);
    server_await(&v, "gateway activate 2 of 0", 1);
    EXPECT_INT(server_count(&v, "image /index.php of 2 start"), 1);
    EXPECT_INT(server_count(&v, "gateway activate 2 of 1"), 1); /* said before */
    EXPECT(generation_2_serves());
    EXPECT_INT(image_of("www-image1"), 2);
    server_await(&v, "image /index.php of 1 drain", 1);
    EXPECT_INT(server_count(&v, "gateway leave-pool"), 0);
    finish();
}

TEST(one_after_the_other_when_a_reload_waits_for_none)
{
    static const char *const none[] = { "php.snapshot_wait=0", NULL };

    server_start(&v, none);
    want("/a.php");
    want("/b.php");
    turn_until(second_serves);
    turn_until(first_serves);
    server_signal(&v, SIGHUP);
    turn_until(generation_2_serves);
    EXPECT_INT(server_count(&v, "image /b.php of 2 start"), 0);
    turn_until(both_serve);
    finish();
}

TEST(a_slow_image_does_not_hold_the_switch)
{
    static const char *const little[] = { "php.snapshot_wait=20ms", NULL };

    server_start(&v, little);
    want("/a.php");
    want("/b.php");
    turn_until(second_serves);
    turn_until(first_serves);
    server_put(&v, "behave", "image-slow");
    server_signal(&v, SIGHUP);
    turn_until(generation_2_serves);
    EXPECT(!first_serves() && !second_serves()); /* those of generation 1 are of no use */
    EXPECT(find_pool("www-image1")->pending && !find_pool("www-image1")->next);
    server_put(&v, "behave", "ok");
    turn_until(both_serve);
    EXPECT_INT(server_count(&v, "image /a.php of 2 start"), 1);
    EXPECT_INT(server_count(&v, "image /b.php of 2 start"), 1);
    finish();
}

TEST(an_image_that_cannot_be_made_does_not_hold_the_switch)
{
    static const char *const long_[] = { "php.snapshot_wait=1d", NULL };

    server_start(&v, long_);
    want("/index.php");
    turn_until(first_serves);
    server_put(&v, "behave", "image-refuse");
    server_signal(&v, SIGHUP);
    turn_until(generation_2_serves);
    server_await(&v, "gateway refused /index.php: it has a thread", 1);
    EXPECT(!find_pool("www-image1")->active && !find_pool("www-image1")->pending);
    want("/index.php"); /* not again at once */
    EXPECT_INT(server_count(&v, "image /index.php of 2 start"), 1);
    finish();
}

static bool rollout_over(void)
{
    return !v.s.rollout;
}

TEST(a_reload_that_fails_gives_its_images_up)
{
    static const char *const probe[] = { "php.probe=/probe", NULL };

    server_start(&v, probe);
    want("/index.php");
    turn_until(first_serves);
    server_put(&v, "status", "500");
    server_signal(&v, SIGHUP);
    server_await(&v, "image /index.php of 2 start", 1);
    turn_until(rollout_over);
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    EXPECT_INT(image_of("www-image1"), 1);
    EXPECT(!find_pool("www-image1")->next && !find_pool("www-image1")->pending);
    server_put(&v, "status", "200");
    server_signal(&v, SIGHUP);
    turn_until(rollout_over);
    EXPECT_INT(v.s.pools[0]->active->number, 3);
    EXPECT_INT(image_of("www-image1"), 3);
    finish();
}

static void lose_the_active_one_while_images_are_waited_for(void)
{
    server_await(&v, "image /index.php of 2 start", 1);
    kill(v.s.pools[0]->active->role.pid, SIGKILL);
    turn_until(generation_2_serves);
    EXPECT_INT(server_count(&v, "pool 3 start"), 0);
    EXPECT_INT(image_of("www-image1"), 0);
    server_put(&v, "behave", "ok");
    turn_until(first_serves);
    EXPECT_INT(image_of("www-image1"), 2);
    finish();
}

TEST(the_pool_dies_while_a_reload_waits_for_images)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    server_put(&v, "behave", "image-slow");
    server_signal(&v, SIGHUP);
    lose_the_active_one_while_images_are_waited_for();
}

TEST(the_pool_dies_while_its_next_generation_waits_for_images)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    server_put(&v, "behave", "image-slow");
    pool_renew(v.s.pools[0]);
    lose_the_active_one_while_images_are_waited_for();
}

TEST(a_stop_while_images_are_waited_for)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    server_put(&v, "behave", "image-slow");
    server_signal(&v, SIGHUP);
    server_await(&v, "image /index.php of 2 start", 1);
    finish();
}

TEST(a_rollback_at_once_brings_the_images_back)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    server_put(&v, "hold", "");
    server_signal(&v, SIGHUP);
    turn_until(generation_2_serves);
    EXPECT_INT(image_of("www-image1"), 2);
    supervisor_rollback(&v.s, NULL, NULL);
    EXPECT_INT(v.s.pools[0]->active->number, 1);
    EXPECT_INT(image_of("www-image1"), 1);
    EXPECT_INT(server_count(&v, "image /index.php of 1 start"), 1);
    server_remove(&v, "hold");
    server_await(&v, "image /index.php of 2 drain", 1);
    finish();
}

TEST(a_wish_for_another_generation_takes_images_along)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    pool_renew(v.s.pools[0]);
    turn_until(generation_2_serves);
    EXPECT_INT(image_of("www-image1"), 2);
    finish();
}

TEST(a_reload_while_one_starts)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "slow");
    want("/index.php");
    server_await(&v, "image /index.php of 1 start", 1);
    server_put(&v, "behave", "ok");
    server_signal(&v, SIGHUP);
    turn_until(generation_2_serves);
    server_await(&v, "image /index.php of 2 start", 1);
    turn_until(first_serves);
    EXPECT_INT(find_pool("www-image1")->active->order->of_generation, 2);
    finish();
}

TEST(a_refused_script_is_not_asked_for_again_until_its_file_changes)
{
    struct timespec times[2] = { { 1000, 0 }, { 1000, 0 } };
    char script[256];

    server_start(&v, NULL);
    server_put(&v, "index.php", "");
    server_put(&v, "behave", "refuse");
    want("/index.php");
    server_await(&v, "gateway refused /index.php: it has a thread", 1);
    turn_until(first_is_gone);
    want("/index.php");
    EXPECT_INT(server_count(&v, "image /index.php of 1 start"), 1);
    server_put(&v, "behave", "ok");
    snprintf(script, sizeof(script), "%s/index.php", v.root);
    EXPECT_INT(utimensat(AT_FDCWD, script, times, 0), 0);
    want("/index.php");
    turn_until(first_serves);
    finish();
}

TEST(another_generation_forgives)
{
    server_start(&v, NULL);
    server_put(&v, "behave", "die");
    want("/index.php");
    server_await(&v, "gateway refused /index.php", 1);
    turn_until(first_is_gone);
    server_put(&v, "behave", "ok");
    server_signal(&v, SIGHUP);
    turn_until(generation_2_serves);
    EXPECT_INT(server_count(&v, "image /index.php of 2 start"), 0); /* nobody asked yet */
    want("/index.php");
    turn_until(first_serves);
    finish();
}

TEST(a_dead_image_waits_to_be_asked_for)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    kill(find_pool("www-image1")->active->role.pid, SIGKILL);
    turn_until(first_is_gone);
    EXPECT(v.s.pools[0]->active && v.s.pools[0]->active->number == 1);
    EXPECT_INT(server_count(&v, "image /index.php of 1 start"), 1);
    want("/index.php");
    turn_until(first_serves);
    EXPECT_INT(server_count(&v, "image /index.php of 1 start"), 2);
    finish();
}

TEST(after_some_deaths_in_a_row_it_has_to_wait)
{
    server_start(&v, NULL);
    for (int i = 0; i <= IMAGE_SHORT_MAX; i++) {
        want("/index.php");
        turn_until(first_serves);
        kill(find_pool("www-image1")->active->role.pid, SIGKILL);
        turn_until(first_is_gone);
    }
    want("/index.php");
    EXPECT(find_pool("www-image1")->pending == NULL);
    server_await(&v, "gateway refused /index.php: its process ended again and again", 1);
    want("/other.php"); /* in the same seat */
    turn_until(first_serves);
    kill(find_pool("www-image1")->active->role.pid, SIGKILL);
    turn_until(first_is_gone);
    want("/other.php");
    turn_until(first_serves);
    finish();
}

static uint32_t number_of_first;

static bool next_serves(void)
{
    const struct pool *p = find_pool("www-image1");

    return p->active && p->active->number == number_of_first;
}

TEST(files_that_change_all_the_time_do_not_make_images_all_the_time)
{
    server_start(&v, NULL);
    want("/index.php");
    number_of_first = 1;
    turn_until(first_serves);
    for (int i = 0; i < IMAGE_SHORT_MAX; i++) {
        image_outdated(find_pool("www-image1")->active, STR("/cache.php has changed"));
        number_of_first++;
        turn_until(next_serves);
    }
    image_outdated(find_pool("www-image1")->active, STR("/cache.php has changed"));
    server_await(&v, "gateway refused /index.php: /cache.php has changed", 1);
    turn_until(first_is_gone);
    want("/index.php");
    EXPECT(find_pool("www-image1")->pending == NULL);
    finish();
}

TEST(the_death_of_the_pool_renews_its_images)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    kill(v.s.pools[0]->active->role.pid, SIGKILL);
    turn_until(generation_2_serves);
    server_await(&v, "image /index.php of 2 start", 1);
    turn_until(first_serves);
    finish();
}

TEST(the_next_gateway_is_given_the_image)
{
    server_start(&v, NULL);
    want("/index.php");
    turn_until(first_serves);
    unsigned adds = server_count(&v, "gateway add 1");
    kill(v.s.gateway->role.pid, SIGKILL);
    server_await(&v, "gateway add 1", adds + 2); /* the pool's and the image's */
    EXPECT_INT(server_count(&v, "image /index.php of 1 start"), 1);
    finish();
}

TEST(with_a_single_seat_the_one_in_use_stays)
{
    static const char *const one[] = { "php.max_images=1", NULL };

    server_start(&v, one);
    want("/a.php");
    turn_until(first_serves);
    want("/b.php");
    EXPECT_INT(server_count(&v, "image /b.php"), 0);
    EXPECT(find_pool("www-image1")->pending == NULL);
    finish();
}

TEST(no_images_without_seats)
{
    static const char *const none[] = { "php.max_images=0", NULL };

    server_start(&v, none);
    want("/a.php");
    EXPECT(find_pool("www-image1") == NULL);
    finish();
}
