/* pool_report: when a new generation is worth while for what requests load late. */
#include "test.h"

#include "base/clock.h"
#include "php/pool_int.h"

static const struct pool_report_window good = { .requests = 100, .late = 5, .since_ns = 1 };

TEST(settled_busy_and_late_is_worth_a_generation)
{
    EXPECT(pool_report_is_worth(&good));
}

TEST(not_while_new_names_come)
{
    struct pool_report_window w = good;

    w.names_new = 1;
    EXPECT(!pool_report_is_worth(&w));
}

TEST(not_for_an_idle_pool)
{
    struct pool_report_window w = { .requests = 99, .late = 99 };

    EXPECT(!pool_report_is_worth(&w));
    w = (struct pool_report_window){ 0 };
    EXPECT(!pool_report_is_worth(&w));
}

TEST(not_for_few_requests)
{
    struct pool_report_window w = good;

    w.late = 4;
    EXPECT(!pool_report_is_worth(&w));
}

TEST(each_one_doubles_the_pause)
{
    struct pool_report_window w = good;
    uint64_t pause_ns = 600 * NS_PER_S;

    for (w.renewals = 1; w.renewals < 30; w.renewals++) {
        w.since_ns = pause_ns - 1;
        EXPECT(!pool_report_is_worth(&w));
        w.since_ns = pause_ns;
        EXPECT(pool_report_is_worth(&w));
        if (w.renewals < 8) /* 10 minutes to 21 hours */
            pause_ns *= 2;
    }
}
