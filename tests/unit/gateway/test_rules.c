/* [[route]]: precedence, groups, bounds on matching, templates. */
#include "gateway/rules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "test.h"

static struct config *config;
static struct rules *rules;

static void load(const char *text)
{
    struct config_errors errors;
    char message[256] = "";

    int r = config_load(STR("t.toml"), str_from(text), NULL, STR("/"), &config, &errors);
    if (r < 0 && errors.n)
        test_fail(__FILE__, __LINE__, "%s", config_error_line(config, &errors.v[0]));
    EXPECT_INT(r, 0);
    EXPECT_INT(rules_new(config, &rules, message, sizeof(message)), 0);
}

static void done(void)
{
    rules_free(rules);
    config_free(config);
}

/* Line of the route that takes the path, 0: none. */
static uint32_t line_for(const char *path)
{
    struct rule_groups groups;
    const struct config_route *r = rules_match(rules, test_guarded(str_from(path)), &groups);

    return r ? r->line : 0;
}

TEST(no_routes_match_nothing)
{
    load("");
    EXPECT_INT(line_for("/"), 0);
    done();
}

TEST(exact_before_prefix_before_suffix_before_regex)
{
    load("[[route]]\nmatch = { regex = '^/a' }\nbackend = 'deny'\n"    /* 1 */
         "[[route]]\nmatch = { suffix = '.php' }\nbackend = 'deny'\n"  /* 4 */
         "[[route]]\nmatch = { prefix = '/a' }\nbackend = 'deny'\n"    /* 7 */
         "[[route]]\nmatch = { exact = '/a.php' }\nbackend = 'deny'\n" /* 10 */
         "[[route]]\nmatch = { regex = '^/b' }\nbackend = 'deny'\n");  /* 13 */
    EXPECT_INT(line_for("/a.php"), 10);
    EXPECT_INT(line_for("/ab.php"), 7);
    EXPECT_INT(line_for("/x.php"), 4);
    EXPECT_INT(line_for("/bx"), 13);
    EXPECT_INT(line_for("/x"), 0);
    EXPECT_INT(line_for("/A"), 0);
    done();
}

TEST(longest_prefix_and_suffix_win_whatever_their_order)
{
    load("[[route]]\nmatch = { prefix = '/a/' }\nbackend = 'deny'\n"       /* 1 */
         "[[route]]\nmatch = { prefix = '/a/b/' }\nbackend = 'deny'\n"     /* 4 */
         "[[route]]\nmatch = { suffix = '.gz' }\nbackend = 'deny'\n"       /* 7 */
         "[[route]]\nmatch = { suffix = '.tar.gz' }\nbackend = 'deny'\n"   /* 10 */
         "[[route]]\nmatch = { prefix = '/a/b/' }\nbackend = 'static'\n"); /* 13: equal, too late */
    EXPECT_INT(line_for("/a/x"), 1);
    EXPECT_INT(line_for("/a/b/x"), 4);
    EXPECT_INT(line_for("/x.gz"), 7);
    EXPECT_INT(line_for("/x.tar.gz"), 10);
    EXPECT_INT(line_for("/a"), 0);
    done();
}

TEST(regexes_are_tried_in_the_order_of_the_file)
{
    load("[[route]]\nmatch = { regex = '^/x' }\nbackend = 'deny'\n"
         "[[route]]\nmatch = { regex = '^/xyz$' }\nbackend = 'deny'\n");
    EXPECT_INT(line_for("/xyz"), 1);
    done();
}

TEST(priority_beats_everything)
{
    load("[[route]]\nmatch = { exact = '/a' }\nbackend = 'deny'\n"
         "[[route]]\nmatch = { regex = 'a' }\nbackend = 'deny'\npriority = 1\n"
         "[[route]]\nmatch = { suffix = 'a' }\nbackend = 'deny'\npriority = 2\n");
    EXPECT_INT(line_for("/a"), 8);
    EXPECT_INT(line_for("/ab"), 4);
    done();
}

TEST(groups_are_parts_of_the_path)
{
    struct rule_groups g;
    struct str path = test_guarded(STR("/u/12/x"));

    load("[[route]]\nmatch = { regex = '^/u/([0-9]+)(/z)?/(.*)$' }\nbackend = 'deny'\n"
         "[[route]]\nmatch = { prefix = '/p' }\nbackend = 'deny'\n");
    EXPECT(rules_match(rules, path, &g) != NULL);
    EXPECT_STR(g.v[0], path);
    EXPECT_TEXT(g.v[1], "12");
    EXPECT_INT(g.v[2].n, 0);
    EXPECT_TEXT(g.v[3], "x");
    EXPECT_INT(g.v[4].n, 0);
    EXPECT(rules_match(rules, STR("/p"), &g) != NULL);
    EXPECT_INT(g.v[0].n, 0);
    done();
}

TEST(more_groups_than_variables_are_no_harm)
{
    struct rule_groups g;

    load("[[route]]\nmatch = { regex = '^/(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)(.)$' }\n"
         "backend = 'deny'\n");
    EXPECT(rules_match(rules, test_guarded(STR("/abcdefghijkl")), &g) != NULL);
    EXPECT_TEXT(g.v[9], "i");
    done();
}

TEST(a_group_that_a_failed_regex_set_is_not_seen_by_the_next_rule)
{
    struct rule_groups g;

    load("[[route]]\nmatch = { regex = '^/(a)b' }\nbackend = 'deny'\n"
         "[[route]]\nmatch = { regex = '^/' }\nbackend = 'deny'\n");
    EXPECT_INT(rules_match(rules, STR("/ac"), &g)->line, 4);
    EXPECT_INT(g.v[1].n, 0);
    done();
}

TEST_WITHIN(catastrophic_backtracking_ends_and_counts_as_no_match, 300)
{
    char path[4000];

    load("[[route]]\nmatch = { regex = '^/(a+)+$' }\nbackend = 'deny'\n"
         "[[route]]\nmatch = { regex = '!$' }\nbackend = 'static'\n");
    memset(path, 'a', sizeof(path));
    path[0] = '/';
    path[sizeof(path) - 2] = '!';
    path[sizeof(path) - 1] = '\0';
    EXPECT_INT(line_for(path), 4);
    EXPECT_INT(line_for("/aaa"), 1);
    done();
}

TEST(paths_with_any_bytes_are_matched_as_bytes)
{
    load("[[route]]\nmatch = { regex = '^/..$' }\nbackend = 'deny'\n");
    EXPECT_INT(line_for("/\xc3\xa4"), 1);
    EXPECT_INT(line_for("/\xff\xfe"), 1);
    done();
}

/* Texts below the TOML level: config_load refuses such a regex itself. */
TEST(rules_name_the_line_of_a_wrong_regex)
{
    struct config_route route = { .match = CONFIG_MATCH_REGEX, .pattern = STR("a(b"), .line = 7 };
    struct config c = { .routes = &route, .n_routes = 1 };
    struct rules *r = NULL;
    char message[256];

    EXPECT_INT(rules_new(&c, &r, message, sizeof(message)), -EINVAL);
    EXPECT_STR(str_from(message), STR("route in line 7: regex \"a(b\": missing closing "
                                      "parenthesis at character 4"));
    EXPECT(r == NULL);
}

/* --- templates -------------------------------------------------------------------------------- */

static struct str expand(const char *text, const struct rule_variables *v)
{
    static char out[256];
    int n = rules_expand(test_guarded(str_from(text)), v, out, sizeof(out));

    EXPECT(n >= 0);
    return (struct str){ out, (size_t)n };
}

TEST(templates)
{
    struct rule_groups g = { .v = { STR("/u/1"), STR("1") } };
    struct rule_variables v = { STR("https"), STR("h.example:8"), STR("/a b"),
                                STR("x=1"),   STR("/a%20b?x=1"),  &g };

    EXPECT_TEXT(expand("", &v), "");
    EXPECT_TEXT(expand("/plain", &v), "/plain");
    EXPECT_TEXT(expand("$scheme://$host$request_uri", &v), "https://h.example:8/a%20b?x=1");
    EXPECT_TEXT(expand("$uri$query", &v), "/a b?x=1");
    EXPECT_TEXT(expand("$0|$1|$2|$9", &v), "/u/1|1||");
    EXPECT_TEXT(expand("$10", &v), "10"); /* one digit */
    EXPECT_TEXT(expand("a$", &v), "a$");
    EXPECT_TEXT(expand("$$uri", &v), "$/a b");
    EXPECT_TEXT(expand("$unknown", &v), "$unknown");
    EXPECT_TEXT(expand("$urix", &v), "/a bx");
}

TEST(an_absent_query_adds_no_question_mark_and_an_empty_one_does)
{
    struct rule_variables v = { .uri = STR("/a") };

    EXPECT_TEXT(expand("$uri$query", &v), "/a");
    EXPECT_TEXT(expand("$1", &v), ""); /* no groups at all */
    v.query = STR("");
    EXPECT_TEXT(expand("$uri$query", &v), "/a?");
}

TEST(a_text_that_does_not_fit_is_refused_at_any_size)
{
    struct rule_variables v = { .uri = STR("/abc"), .query = STR("q") };
    char out[16];

    for (size_t size = 0; size < 6; size++)
        EXPECT_INT(rules_expand(STR("$uri$query"), &v, out, size), -ENAMETOOLONG);
    EXPECT_INT(rules_expand(STR("$uri$query"), &v, out, 6), 6);
}
