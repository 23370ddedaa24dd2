/* Paths, dates, ranges, entity tags, codings, tokens. */
#include <errno.h>

#include "feed.h"
#include "http/http.h"

static struct str normalize(struct str path, int *ret_rc)
{
    char *out = scratch(path.n + 1);
    struct str room = test_guarded((struct str){ out, path.n + 1 });
    *ret_rc = http_normalize_path(test_guarded(path), (char *)room.p);
    EXPECT(*ret_rc < 0 || room.p[*ret_rc] == '\0');
    return (struct str){ room.p, *ret_rc < 0 ? 0 : (size_t)*ret_rc };
}

TEST(paths_are_normalized)
{
    static const struct {
        struct str in, out;
    } vectors[] = {
        { STR("/"), STR("/") },
        { STR("//"), STR("/") },
        { STR("///a"), STR("/a") },
        { STR("/a//b///c//"), STR("/a/b/c/") },
        { STR("/."), STR("/") },
        { STR("/./"), STR("/") },
        { STR("/a/."), STR("/a/") },
        { STR("/a/./b"), STR("/a/b") },
        { STR("/a/.."), STR("/") },
        { STR("/a/../"), STR("/") },
        { STR("/a/b/.."), STR("/a/") },
        { STR("/a/b/../c"), STR("/a/c") },
        { STR("/a//b/../c"), STR("/a/c") },
        { STR("/a/b/../../c"), STR("/c") },
        { STR("/a/..//b"), STR("/b") },
        { STR("/a/%2e%2E/b"), STR("/b") },
        { STR("/a%2f..%2fb"), STR("/b") },
        { STR("/a%2F%2Fb"), STR("/a/b") },
        { STR("/a/%2e"), STR("/a/") },
        { STR("/..."), STR("/...") },
        { STR("/a/.../b"), STR("/a/.../b") },
        { STR("/..a"), STR("/..a") },
        { STR("/a.."), STR("/a..") },
        { STR("/.a"), STR("/.a") },
        { STR("/a./b"), STR("/a./b") },
        { STR("/%20%7E%c3%A4"), STR("/ ~\xc3\xa4") },
        { STR("/%252e%252e/x"), STR("/%2e%2e/x") },
        { STR("/a%252fb"), STR("/a%2fb") },
        { STR("/a\\..\\b"), STR("/a\\..\\b") },
        { STR("/a+b"), STR("/a+b") },
        { STR("/a%0ab"), STR("/a\nb") },
        { STR("/%25"), STR("/%") },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++) {
        int rc;
        EXPECT_STR(normalize(vectors[i].in, &rc), vectors[i].out);
        /* Once clean, always clean: unless it holds percent signs, a second pass changes nothing.
         */
        if (str_find(vectors[i].out, '%') < 0)
            EXPECT_STR(normalize(vectors[i].out, &rc), vectors[i].out);
    }
}

TEST(bad_paths_are_refused)
{
    static const struct str vectors[] = {
        STR(""),
        STR("a"),
        STR("*"),
        STR("%2fa"),
        STR("/.."),
        STR("/../"),
        STR("/../etc/passwd"),
        STR("/a/../.."),
        STR("/a/../../b"),
        STR("/./.."),
        STR("//.."),
        STR("/%2e%2e"),
        STR("/.%2e/x"),
        STR("/%2e./x"),
        STR("/..%2fx"),
        STR("/a/..%2f..%2fx"),
        STR("/%2e%2e%2fx"),
        STR("/%00"),
        STR("/a%00.php"),
        STR("/a\0b"),
        STR("/%"),
        STR("/%2"),
        STR("/%g0"),
        STR("/%0g"),
        STR("/%zz"),
        STR("/a%"),
        STR("/% 1"),
        STR("/%u002e"),
        STR("/%-1"),
        STR("/%%35"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++) {
        int rc;
        normalize(vectors[i], &rc);
        if (rc != -EINVAL)
            test_fail(__FILE__, __LINE__, "vector %zu \"%.*s\": %d", i, STR_ARG(vectors[i]), rc);
    }
}

static void expect_date(struct str s, time_t want)
{
    time_t got = -1;
    EXPECT_INT(http_parse_date(test_guarded(s), &got), 0);
    EXPECT_INT(got, want);
}

TEST(dates)
{
    char out[HTTP_DATE_BYTES];
    http_format_date(784111777, out);
    EXPECT_STR(str_from(out), STR("Sun, 06 Nov 1994 08:49:37 GMT"));
    http_format_date(0, out);
    EXPECT_STR(str_from(out), STR("Thu, 01 Jan 1970 00:00:00 GMT"));
    http_format_date(-1, out);
    EXPECT_STR(str_from(out), STR("Wed, 31 Dec 1969 23:59:59 GMT"));
    http_format_date(951782400, out);
    EXPECT_STR(str_from(out), STR("Tue, 29 Feb 2000 00:00:00 GMT"));
    http_format_date((time_t)1 << 60, out);
    EXPECT_STR(str_from(out), STR("Fri, 31 Dec 9999 23:59:59 GMT"));
    expect_date(STR("Sun, 06 Nov 1994 08:49:37 GMT"), 784111777);
    expect_date(STR("Sunday, 06-Nov-94 08:49:37 GMT"), 784111777);
    expect_date(STR("Sun Nov  6 08:49:37 1994"), 784111777);
    expect_date(STR("Wed Nov 16 08:49:37 1994"), 784975777);
    expect_date(STR("Tue, 29 Feb 2000 00:00:00 GMT"), 951782400);
    expect_date(STR("Sat, 31 Dec 2016 23:59:60 GMT"), 1483228800);
    static const struct str vectors[] = {
        STR(""),
        STR("0"),
        STR("now"),
        STR("Sun, 06 Nov 1994 08:49:37 UTC"),
        STR("Sun, 06 Nov 1994 08:49:37"),
        STR("Sun, 32 Nov 1994 08:49:37 GMT"),
        STR("Sun, 00 Nov 1994 08:49:37 GMT"),
        STR("Sun, 29 Feb 1900 08:49:37 GMT"),
        STR("Sun, 06 Foo 1994 08:49:37 GMT"),
        STR("Xxx, 06 Nov 1994 08:49:37 GMT"),
        STR("Sun, 06 Nov 1994 24:49:37 GMT"),
        STR("Sun, 06 Nov 1994 08:60:37 GMT"),
        STR("Sun, 06 Nov 1994 08:49:61 GMT"),
        STR("Sun, 06 Nov -994 08:49:37 GMT"),
        STR("Sun, 06 Nov 1994 08-49-37 GMT"),
        STR("Sun,  6 Nov 1994 08:49:37 GMT"),
        STR("Sun, 06 Nov 1994 08:49:37 GMT "),
        STR("Sunday, 06-Nov-9x 08:49:37 GMT"),
        STR("Sunday, 06-Nov-1994 08:49:37 GMT"),
        STR("Sun Nov  6 08:49:37 199x"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++) {
        time_t got;
        EXPECT_INT(http_parse_date(test_guarded(vectors[i]), &got), -EINVAL);
    }
}

/* The calendar arithmetic against the C library's, over four centuries. */
TEST(dates_agree_with_the_c_library)
{
    for (int64_t t = -6000000000; t < 16000000000; t += 86400 * 13 + 4711) {
        char ours[HTTP_DATE_BYTES], theirs[64];
        struct tm tm;
        time_t back, when = t;
        http_format_date(when, ours);
        strftime(theirs, sizeof theirs, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&when, &tm));
        EXPECT_STR(str_from(ours), str_from(theirs));
        EXPECT_INT(http_parse_date(str_from(ours), &back), 0);
        EXPECT_INT(back, when);
    }
}

enum { RANGES = 8 };
static struct http_range ranges[RANGES];

static int parse_ranges(struct str s, uint64_t size)
{
    memset(ranges, 0xee, sizeof ranges);
    return http_parse_ranges(test_guarded(s), size, ranges, RANGES);
}

#define EXPECT_RANGE(i, a, b)             \
    do {                                  \
        EXPECT_INT(ranges[i].first, (a)); \
        EXPECT_INT(ranges[i].last, (b));  \
    } while (0)

TEST(single_ranges)
{
    EXPECT_INT(parse_ranges(STR("bytes=0-0"), 100), 1);
    EXPECT_RANGE(0, 0, 0);
    EXPECT_INT(parse_ranges(STR("Bytes=10-"), 100), 1);
    EXPECT_RANGE(0, 10, 99);
    EXPECT_INT(parse_ranges(STR("bytes=-10"), 100), 1);
    EXPECT_RANGE(0, 90, 99);
    EXPECT_INT(parse_ranges(STR("bytes=-1000"), 100), 1);
    EXPECT_RANGE(0, 0, 99);
    EXPECT_INT(parse_ranges(STR("bytes=50-1000"), 100), 1);
    EXPECT_RANGE(0, 50, 99);
    EXPECT_INT(parse_ranges(STR("bytes=0-99999999999999999999999999"), 100), 1);
    EXPECT_RANGE(0, 0, 99);
    EXPECT_INT(parse_ranges(STR("bytes=100-"), 100), -ERANGE);
    EXPECT_INT(parse_ranges(STR("bytes=99999999999999999999999999-"), 100), -ERANGE);
    EXPECT_INT(parse_ranges(STR("bytes=-0"), 100), -ERANGE);
    EXPECT_INT(parse_ranges(STR("bytes=0-"), 0), -ERANGE);
    EXPECT_INT(parse_ranges(STR("bytes=-5"), 0), -ERANGE);
    EXPECT_INT(parse_ranges(STR("bytes=0-"), UINT64_MAX), 1);
    EXPECT_RANGE(0, 0, UINT64_MAX - 1);
}

TEST(several_ranges)
{
    EXPECT_INT(parse_ranges(STR("bytes=0-0,-1"), 100), 2);
    EXPECT_RANGE(0, 0, 0);
    EXPECT_RANGE(1, 99, 99);
    EXPECT_INT(parse_ranges(STR("bytes=50-59, 10-19"), 100), 2); /* as asked */
    EXPECT_RANGE(0, 50, 59);
    EXPECT_RANGE(1, 10, 19);
    EXPECT_INT(parse_ranges(STR("bytes= , 1-2,,\t200-300 ,"), 100), 1);
    EXPECT_RANGE(0, 1, 2);
    EXPECT_INT(parse_ranges(STR("bytes=0-9,10-19"), 100), 1); /* adjacent */
    EXPECT_RANGE(0, 0, 19);
    EXPECT_INT(parse_ranges(STR("bytes=0-9,20-29,40-49,5-44"), 100), 1);
    EXPECT_RANGE(0, 0, 49);
    EXPECT_INT(parse_ranges(STR("bytes=60-69,0-9,20-29,5-24"), 100), 2);
    EXPECT_RANGE(0, 60, 69);
    EXPECT_RANGE(1, 0, 29);
    EXPECT_INT(parse_ranges(STR("bytes=0-1,3-4,6-7,9-10,12-13,15-16,18-19,21-22"), 100), 8);
    EXPECT_INT(parse_ranges(STR("bytes=0-1,3-4,6-7,9-10,12-13,15-16,18-19,21-22,24-25"), 100), 0);
    EXPECT_INT(parse_ranges(STR("bytes=0-,0-,0-,0-,0-,0-,0-,0-,0-"), 100), 0);
}

TEST(ranges_not_understood_are_ignored)
{
    static const struct str vectors[] = {
        STR(""),
        STR("bytes"),
        STR("bytes="),
        STR("bytes=,"),
        STR("lines=0-1"),
        STR("bytes 0-1"),
        STR("bytes=5-2"),
        STR("bytes=-"),
        STR("bytes=a-b"),
        STR("bytes=0"),
        STR("bytes=0-1-2"),
        STR("bytes=+1-2"),
        STR("bytes=0 - 1"),
        STR("bytes=--1"),
        STR("bytes=0-1;2-3"),
        STR("bytes=0x0-1"),
        STR("bytes=0-1,x"),
        STR("bytes =0-1"),
        STR("=0-1"),
        STR("bytes==0-1"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        if (parse_ranges(vectors[i], 100) != 0)
            test_fail(__FILE__, __LINE__, "\"%.*s\"", STR_ARG(vectors[i]));
}

TEST(entity_tags)
{
    EXPECT(http_etag_matches(STR("\"a\""), STR("\"a\""), true));
    EXPECT(http_etag_matches(STR("*"), STR("\"a\""), true));
    EXPECT(http_etag_matches(STR(" * "), STR("W/\"a\""), true));
    EXPECT(http_etag_matches(STR("\"x\", \"a\""), STR("\"a\""), true));
    EXPECT(http_etag_matches(STR("\"x,\" , W/\"y\",\"a\""), STR("\"a\""), true));
    EXPECT(!http_etag_matches(STR("W/\"a\""), STR("\"a\""), true));
    EXPECT(http_etag_matches(STR("W/\"a\""), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR("\"a\""), STR("W/\"a\""), true));
    EXPECT(http_etag_matches(STR("\"a\""), STR("W/\"a\""), false));
    EXPECT(!http_etag_matches(STR("\"A\""), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR("a"), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR("w/\"a\""), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR("\"b,\"a\"\""), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR(""), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR("\"a"), STR("\"a\""), false));
    EXPECT(!http_etag_matches(STR_NONE, STR("\"a\""), false));
}

TEST(content_codings)
{
    EXPECT_INT(http_accepts_coding(STR("gzip"), STR("gzip")), 1000);
    EXPECT_INT(http_accepts_coding(STR("deflate, GZIP;q=0.5"), STR("gzip")), 500);
    EXPECT_INT(http_accepts_coding(STR("gzip;q=0"), STR("gzip")), 0);
    EXPECT_INT(http_accepts_coding(STR("gzip;q=0.000, *"), STR("gzip")), 0);
    EXPECT_INT(http_accepts_coding(STR("*"), STR("br")), 1000);
    EXPECT_INT(http_accepts_coding(STR("*;q=0.1, br ; q=0.25"), STR("br")), 250);
    EXPECT_INT(http_accepts_coding(STR("gzip, deflate"), STR("br")), -1);
    EXPECT_INT(http_accepts_coding(STR(""), STR("br")), -1);
    EXPECT_INT(http_accepts_coding(STR_NONE, STR("br")), -1);
    EXPECT_INT(http_accepts_coding(STR("x-gzip"), STR("gzip")), 1000);
    EXPECT_INT(http_accepts_coding(STR("gzipx"), STR("gzip")), -1);
    EXPECT_INT(http_accepts_coding(STR("br;q=1.000"), STR("br")), 1000);
    EXPECT_INT(http_accepts_coding(STR("br;q=1.001"), STR("br")), 0);
    EXPECT_INT(http_accepts_coding(STR("br;q=2"), STR("br")), 0);
    EXPECT_INT(http_accepts_coding(STR("br;q="), STR("br")), 0);
    EXPECT_INT(http_accepts_coding(STR("br;q=x"), STR("br")), 0);
    EXPECT_INT(http_accepts_coding(STR("br;q=0.1234"), STR("br")), 0);
    EXPECT_INT(http_accepts_coding(STR("br;level=1;Q=0.3"), STR("br")), 300);
}

TEST(tokens_and_field_values)
{
    EXPECT(http_is_token(STR("a-b!#$%&'*+.^_`|~9")));
    EXPECT(!http_is_token(STR("")));
    EXPECT(!http_is_token(STR("a b")));
    EXPECT(!http_is_token(STR("a:")));
    EXPECT(http_is_field_value(STR("")));
    EXPECT(http_is_field_value(STR_NONE));
    EXPECT(http_is_field_value(STR("a\tb \xff")));
    EXPECT(!http_is_field_value(STR("a\r\nb")));
    EXPECT(!http_is_field_value(STR("a\0b")));
    EXPECT(!http_is_field_value(STR("0123456789abcdef0\n")));
}
