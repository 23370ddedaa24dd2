/* String views. Every input ends at a PROT_NONE page, so that a look past the end ends the test. */
#include "base/str.h"

#include "test.h"

static struct str guarded(const char *z)
{
    return test_guarded(str_from(z));
}

TEST(str_from_null_is_empty)
{
    EXPECT_INT(str_from(NULL).n, 0);
    EXPECT(str_eq(str_from(NULL), STR("")));
}

TEST(str_compares)
{
    EXPECT(str_eq(guarded("Host"), guarded("Host")));
    EXPECT(!str_eq(guarded("Host"), guarded("host")));
    EXPECT(!str_eq(guarded("Host"), guarded("Hos")));
    EXPECT(str_eq_nocase(guarded("Host"), guarded("hOST")));
    EXPECT(!str_eq_nocase(guarded("Host"), guarded("Hos_")));
    EXPECT(str_eq(STR_NONE, STR_NONE));
}

TEST(str_nocase_knows_ascii_letters_only)
{
    EXPECT(!str_eq_nocase(guarded("@[`{"), guarded("`{@[")));
    EXPECT(!str_eq_nocase(guarded("\xc4"), guarded("\xe4")));
    EXPECT(!str_eq_nocase(guarded("K"), guarded("\xe2\x84\xaa")));
}

TEST(str_prefix_and_suffix)
{
    EXPECT(str_has_prefix(guarded("/wp-admin/"), STR("/wp-")));
    EXPECT(!str_has_prefix(guarded("/w"), STR("/wp-")));
    EXPECT(str_has_suffix(guarded("index.php"), STR(".php")));
    EXPECT(!str_has_suffix(guarded("php"), STR(".php")));
    EXPECT(str_has_prefix(guarded("a"), STR("")) && str_has_suffix(guarded("a"), STR("")));
    EXPECT(str_has_prefix(STR_NONE, STR_NONE) && str_has_suffix(STR_NONE, STR_NONE));
}

TEST(str_skip_and_take_stop_at_the_end)
{
    EXPECT_TEXT(str_skip(guarded("abc"), 1), "bc");
    EXPECT_TEXT(str_skip(guarded("abc"), 3), "");
    EXPECT_TEXT(str_skip(guarded("abc"), SIZE_MAX), "");
    EXPECT_TEXT(str_take(guarded("abc"), 2), "ab");
    EXPECT_TEXT(str_take(guarded("abc"), SIZE_MAX), "abc");
}

TEST(str_find_first)
{
    EXPECT_INT(str_find(guarded("a:b:c"), ':'), 1);
    EXPECT_INT(str_find(guarded("abc"), ':'), -1);
    EXPECT_INT(str_find(STR_NONE, ':'), -1);
}

TEST(str_trim_cuts_spaces_and_tabs_only)
{
    EXPECT_TEXT(str_trim(guarded(" \t a b\t ")), "a b");
    EXPECT_TEXT(str_trim(guarded(" \t ")), "");
    EXPECT_TEXT(str_trim(guarded("\r\na\v")), "\r\na\v");
}

TEST(str_cut_walks_a_list)
{
    struct str rest = guarded("a,,b");
    EXPECT_TEXT(str_cut(&rest, ','), "a");
    EXPECT_TEXT(str_cut(&rest, ','), "");
    EXPECT(rest.p != NULL);
    EXPECT_TEXT(str_cut(&rest, ','), "b");
    EXPECT(rest.p == NULL && rest.n == 0);
}

TEST(str_cut_at_the_last_byte_leaves_an_empty_rest_that_is_not_none)
{
    struct str rest = guarded("a,");
    EXPECT_TEXT(str_cut(&rest, ','), "a");
    EXPECT(rest.p != NULL && rest.n == 0);
    EXPECT_TEXT(str_cut(&rest, ','), "");
    EXPECT(rest.p == NULL);
}

TEST(str_to_u64_takes_digits_only)
{
    static const char *const bad[] = {
        "",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "1e3",
        "1.0",
        "/",
        ":",
        "\xb9", /* no digits */
        "18446744073709551616",
        "99999999999999999999999",
    };
    uint64_t v = 42;

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        EXPECT(!str_to_u64(guarded(bad[i]), UINT64_MAX, &v));
    EXPECT_INT(v, 42);
    EXPECT(str_to_u64(guarded("18446744073709551615"), UINT64_MAX, &v) && v == UINT64_MAX);
    EXPECT(str_to_u64(guarded("000"), UINT64_MAX, &v) && v == 0);
}

TEST(str_to_u64_keeps_the_limit)
{
    uint64_t v;
    EXPECT(str_to_u64(guarded("255"), 255, &v) && v == 255);
    EXPECT(!str_to_u64(guarded("256"), 255, &v));
    EXPECT(!str_to_u64(guarded("1"), 0, &v));
}

TEST(str_header_variable_of_a_field_name)
{
    char out[40];

    EXPECT_TEXT(str_header_variable(test_guarded(STR("Accept-Language")), out),
                "HTTP_ACCEPT_LANGUAGE");
    EXPECT_TEXT(str_header_variable(test_guarded(STR("x.y_9-`{z")), out), "HTTP_X.Y_9_`{Z");
    EXPECT_TEXT(str_header_variable(STR(""), out), "HTTP_");
}

/* From the reference implementation's test suite. */
TEST(hashes_are_those_of_fnv_1a)
{
    EXPECT_INT(str_hash(STR_NONE), 0x811c9dc5);
    EXPECT_INT(str_hash(STR("a")), 0xe40c292c);
    EXPECT_INT(str_hash(STR("foobar")), 0xbf9cf968);
    EXPECT_INT(str_hash_more(str_hash(STR("foo")), STR("bar")), 0xbf9cf968);
}
