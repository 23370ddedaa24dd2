/* Which FastCGI server gets a request: turns, weights, limits, and who is left out. */
#include "play.h"

static struct upstream_server servers[3];
static struct upstream group = { .servers = servers, .config = { .n_servers = 3 } };

static void weights(uint32_t a, uint32_t b, uint32_t c)
{
    servers[0].weight = a;
    servers[1].weight = b;
    servers[2].weight = c;
}

/* The next picks, as letters; a picked server gets its request where `occupy`. */
static struct str picks(char *out, size_t n, bool occupy)
{
    for (size_t i = 0; i < n; i++) {
        struct upstream_server *s = upstream_server_pick(&group, 1);
        out[i] = s ? (char)('a' + (s - servers)) : '-';
        if (s && occupy)
            s->occupied++;
    }
    return (struct str){ out, n };
}

TEST(turns_follow_the_weights_and_are_spread)
{
    char out[14];

    weights(5, 1, 1);
    EXPECT_TEXT(picks(out, 14, false), "aabacaaaabacaa");
    weights(1, 1, 1);
}

TEST(full_and_left_out_servers_are_passed_over)
{
    char out[6];

    weights(1, 1, 1);
    servers[0].limit = servers[0].occupied = 2;
    servers[1].out_until_ns = 100;
    EXPECT_TEXT(picks(out, 3, false), "ccc");
    servers[2].full_until_ns = 50;
    EXPECT(!upstream_server_pick(&group, 1));
    EXPECT_INT(upstream_next_return(&group, 1), 50);
    EXPECT(upstream_server_pick(&group, 50) == &servers[2]);
    servers[2].limit = servers[2].occupied = 1;
    EXPECT(upstream_server_pick(&group, 100) == &servers[1]); /* its time has come: to be probed */
    servers[1].probing = true;
    EXPECT(!upstream_server_pick(&group, 100));
}

TEST(fewest_requests_in_relation_to_the_weight)
{
    char out[8];

    group.config.balance = CONFIG_BALANCE_LEAST;
    weights(2, 1, 1);
    EXPECT_TEXT(picks(out, 8, true), "abcaabca");
    EXPECT_INT(servers[0].occupied, 4);
}

TEST(long_breaks_are_not_waited_for)
{
    uint64_t now = 1000 * NS_PER_S;

    weights(1, 1, 1);
    for (int i = 0; i < 3; i++)
        servers[i].out_until_ns = now + 60 * NS_PER_S;
    EXPECT(!upstream_worth_waiting(&group, now));
    servers[2].probing = true;
    EXPECT(upstream_worth_waiting(&group, now));
    servers[2].probing = false;
    servers[1].out_until_ns = now + NS_PER_S;
    EXPECT(upstream_worth_waiting(&group, now));
    EXPECT_INT(upstream_next_return(&group, now), now + NS_PER_S);
}
