/* Request heads: the vector table in every cut, what a good head parses to, limits, combinations.
 */
#include <stdio.h>

#include "feed.h"
#include "http/http.h"

enum { OK = 1, MORE = 0 };

static const struct http_limits limits = {
    .request_line_bytes = 8192, .headers_bytes = 32768, .headers_count = 100, .body_bytes = 1000000
};
static struct http_request request;

static int parse_whole(struct str in, const struct http_limits *l)
{
    struct http1_parser parser = { 0 };
    return http1_parse_request(&parser, feed(in), l, &request);
}

/* The same head in pieces: first `cut` bytes, then `step` more each time. */
static int parse_pieces(struct str in, size_t cut, size_t step, const struct http_limits *l)
{
    struct http1_parser parser = { 0 };
    for (size_t n = cut;; n = n + step < in.n ? n + step : in.n) {
        int rc = http1_parse_request(&parser, feed(str_take(in, n)), l, &request);
        if (rc != 0 || n == in.n)
            return rc;
    }
}

static void expect_in_all_cuts(struct str in, int want, const struct http_limits *l)
{
    int got = parse_whole(in, l);
    if (got != want)
        test_fail(__FILE__, __LINE__, "whole: %d, expected %d, for:\n%.*s", got, want, STR_ARG(in));
    for (size_t cut = 0; cut <= in.n; cut++) {
        got = parse_pieces(in, cut, in.n, l);
        if (got != want)
            test_fail(__FILE__, __LINE__, "cut at %zu: %d, expected %d, for:\n%.*s", cut, got, want,
                      STR_ARG(in));
    }
    for (size_t step = 1; step <= 3; step++) {
        got = parse_pieces(in, 0, step, l);
        if (got != want)
            test_fail(__FILE__, __LINE__, "in steps of %zu: %d, expected %d, for:\n%.*s", step, got,
                      want, STR_ARG(in));
    }
}

TEST(vectors_in_every_cut)
{
#define V(answer, bytes) { VALUE_##answer, STR(bytes) },
#define VALUE_OK OK
#define VALUE_MORE MORE
#define VALUE(e) VALUE_##e = -HTTP_##e
    enum {
        VALUE(BAD_REQUEST_LINE),
        VALUE(BAD_METHOD),
        VALUE(BAD_TARGET),
        VALUE(BAD_VERSION),
        VALUE(BAD_LINE_END),
        VALUE(BAD_HEADER_NAME),
        VALUE(BAD_HEADER_VALUE),
        VALUE(OBS_FOLD),
        VALUE(BAD_HOST),
        VALUE(BAD_CONTENT_LENGTH),
        VALUE(BAD_TRANSFER_ENCODING),
        VALUE(BOTH_LENGTHS),
        VALUE(BODY_TOO_LARGE),
        VALUE(CODING_UNSUPPORTED),
        VALUE(VERSION_UNSUPPORTED),
        VALUE(EXPECTATION_FAILED),
    };
    static const struct {
        int want;
        struct str in;
    } vectors[] = {
#include "request_vectors.h"
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++) {
        struct str in = vectors[i].in;
        int want = vectors[i].want == OK ? (int)in.n : vectors[i].want;
        expect_in_all_cuts(in, want, &limits);
        if (want == MORE)
            continue;
        char *more = scratch(in.n + 64);
        memcpy(more, in.p, in.n);
        memcpy(more + in.n, "GET /next HTTP/1.1\r\nHost: n\r\n\r\n", 32);
        EXPECT_INT(parse_whole((struct str){ more, in.n + 31 }, &limits), want);
    }
    printf("  %zu vectors\n", ARRAY_LENGTH(vectors));
}

/* Every byte in every place: only the documented ones pass. */
TEST(each_byte_in_each_place)
{
    for (int c = 0; c < 256; c++) {
        char head[128];
        bool token = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                     (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);
        bool target = c > 0x20 && c < 0x7f && c != '#';
        bool value = c == '\t' || (c >= 0x20 && c != 0x7f);
        static const char *const forms[] = {
            "GE%cT / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a%cb HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /0123456789abcdef%c0123456789abcdef HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX%cY: z\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y%cz\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789abcdef%c0123456789abcdef\r\n\r\n",
        };
        const bool good[] = { token, target, target, token || c == ':', value, value };
        for (size_t i = 0; i < ARRAY_LENGTH(forms); i++) {
            int n = snprintf(head, sizeof head, forms[i], c);
            int rc = parse_whole((struct str){ head, (size_t)n }, &limits);
            if (i == 0 && c == ' ') /* "GE T / HTTP/1.1" */
                EXPECT(rc < 0);
            else if ((rc == n) != good[i])
                test_fail(__FILE__, __LINE__, "byte %#x in form %zu: %d", c, i, rc);
        }
    }
}

TEST(browser_request_is_parsed)
{
    struct str in = STR("GET /wp-admin/edit.php?post_type=page HTTP/1.1\r\n"
                        "Host: www.example.org:8080\r\n"
                        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0)\r\n"
                        "Accept:text/html,*/*;q=0.8  \r\n"
                        "X_Secret: no\r\nProxy: http://evil/\r\nX.Forwarded.For: 6.6.6.6\r\n"
                        "Cookie: a=b; c=d\r\n\r\nrest");
    for (size_t step = 1; step < 80; step += 13) {
        EXPECT_INT(parse_pieces(in, 0, step, &limits), in.n - 4);
        EXPECT_INT(request.method, HTTP_GET);
        EXPECT_INT(request.form, HTTP_ORIGIN_FORM);
        EXPECT_INT(request.minor, 1);
        EXPECT(request.keep_alive && !request.chunked && !request.upgrade);
        EXPECT_INT(request.content_length, -1);
        EXPECT_TEXT(request.method_text, "GET");
        EXPECT_TEXT(request.target, "/wp-admin/edit.php?post_type=page");
        EXPECT_TEXT(request.path, "/wp-admin/edit.php");
        EXPECT_TEXT(request.query, "post_type=page");
        EXPECT_TEXT(request.host, "www.example.org:8080");
        EXPECT_INT(request.n_headers, 4);
        EXPECT_INT(request.underscore_dropped, 2);
        EXPECT_TEXT(request.headers[3].name, "Cookie");
        EXPECT_TEXT(request.headers[3].value, "a=b; c=d");
        EXPECT_TEXT(http_find_header(&request, STR("aCCEPT")), "text/html,*/*;q=0.8");
        EXPECT(http_find_header(&request, STR("Proxy")).p == NULL);
    }
}

static void parse_ok(struct str in)
{
    EXPECT_INT(parse_whole(in, &limits), in.n);
}

TEST(target_forms)
{
    parse_ok(STR("GET http://b.example:81/p?q=1 HTTP/1.1\r\nHost: a\r\n\r\n"));
    EXPECT_INT(request.form, HTTP_ABSOLUTE_FORM);
    EXPECT_TEXT(request.host, "b.example:81");
    EXPECT_TEXT(request.headers[0].value, "b.example:81");
    EXPECT_TEXT(request.path, "/p");
    EXPECT_TEXT(request.query, "q=1");
    parse_ok(STR("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n"));
    EXPECT_TEXT(request.path, "/");
    EXPECT_TEXT(request.query, "q");
    parse_ok(STR("GET http://b HTTP/1.0\r\n\r\n"));
    EXPECT_TEXT(request.path, "/");
    EXPECT_TEXT(request.host, "b");
    EXPECT(request.query.p == NULL);
    parse_ok(STR("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"));
    EXPECT_INT(request.form, HTTP_ASTERISK_FORM);
    EXPECT_TEXT(request.path, "*");
    parse_ok(STR("CONNECT c:443 HTTP/1.1\r\nHost: a\r\n\r\n"));
    EXPECT_INT(request.form, HTTP_AUTHORITY_FORM);
    EXPECT_TEXT(request.host, "c:443");
    EXPECT_INT(request.path.n, 0);
    parse_ok(STR("GET /? HTTP/1.0\r\n\r\n"));
    EXPECT(request.query.p != NULL && request.query.n == 0 && request.host.p == NULL);
}

TEST(methods)
{
    static const char *const names[] = { "GET",     "HEAD",  "POST",    "PUT",   "DELETE",
                                         "OPTIONS", "PATCH", "CONNECT", "TRACE", "BREW" };
    for (int m = HTTP_GET; m <= HTTP_OTHER; m++) {
        char head[64];
        int n = snprintf(head, sizeof head, "%s %s HTTP/1.0\r\n\r\n", names[m],
                         m == HTTP_CONNECT ? "a:1" : "/");
        parse_ok((struct str){ head, (size_t)n });
        EXPECT_INT(request.method, m);
    }
}

TEST(connection_options)
{
    parse_ok(STR("GET / HTTP/1.0\r\n\r\n"));
    EXPECT(!request.keep_alive);
    parse_ok(STR("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    EXPECT(request.keep_alive);
    parse_ok(STR("GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"));
    EXPECT(!request.keep_alive);
    parse_ok(STR("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n"));
    EXPECT(!request.keep_alive);
    parse_ok(STR("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"));
    EXPECT(request.keep_alive && request.upgrade);
    parse_ok(STR("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n"));
    EXPECT(!request.upgrade);
}

TEST(lengths_and_expect)
{
    parse_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"));
    EXPECT_INT(request.content_length, 1000000);
    EXPECT(!request.expect_continue);
    parse_ok(
        STR("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"));
    EXPECT(request.expect_continue);
    parse_ok(STR("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"));
    EXPECT(!request.expect_continue); /* nothing to wait for */
    parse_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                 "Expect: 100-continue\r\n\r\n"));
    EXPECT(request.chunked && request.expect_continue && request.content_length == -1);
}

static struct str repeat(const char *head, char c, size_t times, const char *tail)
{
    char *p = scratch(strlen(head) + times + strlen(tail) + 1);
    size_t n = strlen(head);
    memcpy(p, head, n);
    memset(p + n, c, times);
    memcpy(p + n + times, tail, strlen(tail) + 1);
    return (struct str){ p, n + times + strlen(tail) };
}

TEST(request_line_limit)
{
    struct http_limits l = limits;
    l.request_line_bytes = 40; /* "GET / HTTP/1.1" is 14 */
    const char *tail = " HTTP/1.1\r\nHost: a\r\n\r\n";
    struct str fits = repeat("GET /", 'x', 26, tail), long_by_one = repeat("GET /", 'x', 27, tail);
    expect_in_all_cuts(fits, (int)fits.n, &l);
    expect_in_all_cuts(long_by_one, -HTTP_LINE_TOO_LONG, &l);
    expect_in_all_cuts(repeat("GET /", 'x', 500, tail), -HTTP_LINE_TOO_LONG, &l);
    expect_in_all_cuts(repeat("\r\n", 'X', 500, " "), -HTTP_LINE_TOO_LONG, &l);
    expect_in_all_cuts(repeat("GET /\x01", 'x', 500, tail), -HTTP_BAD_TARGET, &l);
}

TEST(header_section_limit)
{
    struct http_limits l = limits;
    l.headers_bytes = 64; /* "Host: a" "X: " with line ends and the empty one: 9 + 5 + 2 */
    const char *head = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    struct str fits = repeat(head, 'x', 48, "\r\n\r\n"), above = repeat(head, 'x', 49, "\r\n\r\n");
    expect_in_all_cuts(fits, (int)fits.n, &l);
    expect_in_all_cuts(above, -HTTP_HEADERS_TOO_LARGE, &l);
    expect_in_all_cuts(repeat(head, 'x', 200, ""), -HTTP_HEADERS_TOO_LARGE, &l);
    expect_in_all_cuts(repeat("GET / HTTP/1.1\r\n", 'x', 200, ": y"), -HTTP_HEADERS_TOO_LARGE, &l);
    l.headers_bytes = 1;
    expect_in_all_cuts(STR("GET / HTTP/1.0\r\n\r\n"), -HTTP_HEADERS_TOO_LARGE, &l);
}

static struct str many_headers(int count, const char *name)
{
    char *p = scratch(64 + (size_t)count * 8);
    int n = sprintf(p, "GET / HTTP/1.0\r\n");
    for (int i = 0; i < count; i++)
        n += sprintf(p + n, "%s: 1\r\n", name);
    n += sprintf(p + n, "\r\n");
    return (struct str){ p, (size_t)n };
}

TEST(header_count_limit)
{
    struct http_limits l = limits;
    l.headers_count = 7;
    struct str seven = many_headers(7, "X"), eight = many_headers(8, "X");
    expect_in_all_cuts(seven, (int)seven.n, &l);
    expect_in_all_cuts(eight, -HTTP_TOO_MANY_HEADERS, &l);
    expect_in_all_cuts(many_headers(8, "X_"), -HTTP_TOO_MANY_HEADERS, &l); /* dropped ones count */
    l.headers_count = 10000;
    struct str most = many_headers(HTTP_HEADERS_MAX, "X");
    EXPECT_INT(parse_whole(most, &l), most.n);
    EXPECT_INT(request.n_headers, HTTP_HEADERS_MAX);
    EXPECT_INT(parse_whole(many_headers(HTTP_HEADERS_MAX + 1, "X"), &l), -HTTP_TOO_MANY_HEADERS);
    EXPECT_INT(parse_pieces(most, 1, 1, &l), most.n);
}

/* 32 KiB of one header byte by byte: must not cost the square of it (the test's time limit is the
 * judge). */
TEST_WITHIN(slow_sender_is_cheap, 60)
{
    struct http_limits l = limits;
    l.headers_bytes = 200000;
    struct str in = repeat("GET / HTTP/1.1\r\nHost: a\r\nX: ", 'x', 150000, "\r\n\r\n");
    struct http1_parser parser = { 0 };
    struct str guarded = test_guarded(in);
    int rc = 0;
    for (size_t n = 0; n <= in.n && rc == 0; n++)
        rc = http1_parse_request(&parser, str_take(guarded, n), &l, &request);
    EXPECT_INT(rc, in.n);
}

TEST(pipelined_requests_are_taken_one_by_one)
{
    struct str in = feed(STR("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
                             "\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n"));
    for (char i = '1'; i <= '3'; i++) {
        struct http1_parser parser = { 0 };
        int rc = http1_parse_request(&parser, in, &limits, &request);
        EXPECT(rc > 0);
        EXPECT_INT(request.path.p[1], i);
        in = str_skip(in, (size_t)rc);
    }
    EXPECT_INT(in.n, 0);
}

TEST(failed_head_still_names_its_target)
{
    EXPECT_INT(parse_whole(STR("POST /log-me HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"), &limits),
               -HTTP_BAD_HEADER_NAME);
    EXPECT_TEXT(request.method_text, "POST");
    EXPECT_TEXT(request.target, "/log-me");
    EXPECT_INT(request.n_headers, 0);
    EXPECT_INT(parse_whole(STR("G@T / HTTP/1.1\r\n"), &limits), -HTTP_BAD_METHOD);
    EXPECT_INT(request.target.n, 0);
}

TEST(every_error_has_status_and_text)
{
    for (int e = HTTP_BAD_REQUEST_LINE; e <= HTTP_BAD_PROXY_PROTOCOL; e++) {
        EXPECT(http_error_status(e) >= 400 && http_error_status(e) < 600);
        EXPECT(http_status_reason(http_error_status(e))[0] != '\0');
        EXPECT(strstr(http_error_text(e), "expected") != NULL);
    }
    EXPECT_INT(http_error_status(HTTP_LINE_TOO_LONG), 414);
    EXPECT_INT(http_error_status(HTTP_HEADERS_TOO_LARGE), 431);
    EXPECT_INT(http_error_status(HTTP_TOO_MANY_HEADERS), 431);
    EXPECT_INT(http_error_status(HTTP_BODY_TOO_LARGE), 413);
    EXPECT_INT(http_error_status(HTTP_CODING_UNSUPPORTED), 501);
    EXPECT_INT(http_error_status(HTTP_VERSION_UNSUPPORTED), 505);
    EXPECT_INT(http_error_status(HTTP_EXPECTATION_FAILED), 417);
    EXPECT(http_status_reason(299)[0] == '\0');
}
