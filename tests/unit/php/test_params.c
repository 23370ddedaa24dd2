/* params.c: one variable of a query or a Cookie header, by PHP's rules. */
#include "php/params.h"
#include "test.h"

static struct param find_query(const char *query, const char *key)
{
    const struct params p = { .text = str_from(query), .separators = "&", .max = 1000 };

    return params_find(&p, str_from(key));
}

static struct param find_cookie(const char *header, const char *key)
{
    const struct params p = {
        .text = str_from(header), .separators = ";", .cookies = true, .max = 1000
    };

    return params_find(&p, str_from(key));
}

TEST(names_of_a_query_are_php_s)
{
    static const struct {
        const char *query, *key;
        enum param_kind kind;
        const char *raw;
    } cases[] = {
        { "", "a", PARAM_ABSENT, "" },          { "a=1", "a", PARAM_TEXT, "1" },
        { "a", "a", PARAM_TEXT, "" },           { "aa=1&b=2", "a", PARAM_ABSENT, "" },
        { "a=1&b=2", "b", PARAM_TEXT, "2" },    { "a=1&a=2", "a", PARAM_TEXT, "2" },
        { "&&a=1&", "a", PARAM_TEXT, "1" },     { "%61=1", "a", PARAM_TEXT, "1" },
        { "a%3D=1", "a=", PARAM_TEXT, "1" },    { "a.b=1", "a_b", PARAM_TEXT, "1" },
        { "a+b=1", "a_b", PARAM_TEXT, "1" },    { "+%20a=1", "a", PARAM_TEXT, "1" },
        { "a%00b=1", "a", PARAM_TEXT, "1" },    { "=1", "", PARAM_ABSENT, "" },
        { "a=1=2", "a", PARAM_TEXT, "1=2" },    { "a[]=1", "a", PARAM_OTHER, "" },
        { "a%5Bx%5D=1", "a", PARAM_OTHER, "" }, { "a=1&a[x]=2", "a", PARAM_OTHER, "" },
        { "a[b=1", "a_b", PARAM_OTHER, "" },    { "a[b=1", "a", PARAM_OTHER, "" },
        { "[a]=1", "a", PARAM_ABSENT, "" },     { "A=1", "a", PARAM_ABSENT, "" },
        { "5=x", "5", PARAM_TEXT, "x" },        { "a%2=1", "a%2", PARAM_TEXT, "1" },
    };

    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct param p = find_query(cases[i].query, cases[i].key);
        EXPECT_INT(p.kind, cases[i].kind);
        if (p.kind == PARAM_TEXT)
            EXPECT_STR(p.raw, str_from(cases[i].raw));
    }
}

TEST(cookies_have_rules_of_their_own)
{
    EXPECT_INT(find_cookie("a=1; b=2", "b").kind, PARAM_TEXT);
    EXPECT_STR(find_cookie("a=1; a=2", "a").raw, STR("1"));
    EXPECT_STR(find_cookie("a=1;\t b=%20x", "b").raw, STR("%20x"));
    EXPECT_INT(find_cookie("%61=1", "a").kind, PARAM_ABSENT);
    EXPECT_INT(find_cookie("%61=1", "%61").kind, PARAM_TEXT);
    EXPECT_INT(find_cookie("a b=1", "a_b").kind, PARAM_TEXT);
    EXPECT_INT(find_cookie("=1; ; c", "c").kind, PARAM_TEXT);
    EXPECT_INT(find_cookie("a[x]=1", "a").kind, PARAM_OTHER);
}

TEST(values_are_compared_decoded)
{
    const struct params query = { .separators = "&", .max = 10 };
    const struct params cookies = { .separators = ";", .cookies = true, .max = 10 };

    EXPECT(params_value_is(&query, STR("a+b%21"), STR("a b!")));
    EXPECT(params_value_is(&cookies, STR("a+b%21"), STR("a+b!")));
    EXPECT(params_value_is(&query, STR(""), STR("")));
    EXPECT(params_value_is(&query, STR("100%"), STR("100%")));
    EXPECT(!params_value_is(&query, STR("ab"), STR("a")));
    EXPECT(!params_value_is(&query, STR("a"), STR("ab")));
    EXPECT(!params_value_is(&query, STR("a%00"), STR("a")));
}

TEST(no_more_variables_than_php_takes)
{
    const struct params p = { .text = STR("a=1&b=2&c=3"), .separators = "&", .max = 2 };

    EXPECT_INT(params_find(&p, STR("b")).kind, PARAM_TEXT);
    EXPECT_INT(params_find(&p, STR("c")).kind, PARAM_ABSENT);
}

TEST(nothing_is_read_behind_the_end)
{
    static const char text[] = "ab%4&c%=%";

    for (size_t n = 0; n < sizeof(text); n++) {
        struct params p = { .separators = "&", .max = 10 };
        p.text = test_guarded((struct str){ text, n });
        (void)params_find(&p, STR("c"));
        (void)params_is_empty(&p);
        (void)params_value_is(&p, p.text, STR("ab%4&c%"));
    }
}

TEST(empty_is_what_makes_no_variable)
{
    struct params query = { .separators = "&", .max = 10 };
    struct params cookies = { .separators = ";", .cookies = true, .max = 10 };

    query.text = STR("&&");
    cookies.text = STR(" ; ");
    EXPECT(params_is_empty(&query));
    EXPECT(params_is_empty(&cookies));
    query.text = STR("\t"); /* a name */
    cookies.text = STR("; a");
    EXPECT(!params_is_empty(&query));
    EXPECT(!params_is_empty(&cookies));
}
