/* Response heads: every vector in every cut against unreadable memory, and how bodies end. */
#include <stdio.h>

#include "feed.h"
#include "http/http.h"

static const struct http_limits limits = { .headers_bytes = 400, .headers_count = 5 };

/* Feeds `in` in packets of `step` bytes until there is a verdict. */
static int parse(struct str in, size_t step, struct http_response *r)
{
    struct http1_response_parser p = { .line = 0 };
    int rc = 0;

    for (size_t have = 0; rc == 0 && have < in.n;) {
        have = have + step < in.n ? have + step : in.n;
        rc = http1_parse_response(&p, feed(str_take(in, have)), &limits, r);
    }
    return rc;
}

static void expect_verdict(struct str in, int want)
{
    for (size_t step = 1; step <= in.n + 1; step++) {
        struct http_response r;
        int rc = parse(in, step, &r);
        if (rc != want)
            test_fail(__FILE__, __LINE__, "step %zu: %d, expected %d, for:\n%.*s", step, rc, want,
                      STR_ARG(in));
    }
}

static void expect_head(struct str head, const struct http_response *want)
{
    struct http_response r;

    expect_verdict(head, (int)head.n);
    EXPECT_INT(parse(head, head.n, &r), head.n);
    EXPECT_INT(r.status, want->status);
    EXPECT_INT(r.minor, want->minor);
    EXPECT_INT(r.keep_alive, want->keep_alive);
    EXPECT_INT(r.chunked, want->chunked);
    EXPECT_INT(r.content_length, want->content_length);
}

TEST(valid_heads_in_every_cut)
{
    static const struct {
        const char *head;
        struct http_response want;
    } vectors[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", { 200, 1, true, false, 5 } },
        { "HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", { 200, 1, true, false, 0 } },
        { "HTTP/1.1 404 Not Found\r\nX: \r\n\r\n", { 404, 1, true, false, -1 } },
        { "HTTP/1.1 204 \r\n\r\n", { 204, 1, true, false, -1 } },
        { "HTTP/1.1 999\r\n\r\n", { 999, 1, true, false, -1 } },
        { "HTTP/1.1 200 \x80\xff\t!\r\n\r\n", { 200, 1, true, false, -1 } },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", { 200, 1, true, true, -1 } },
        { "HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", { 200, 1, false, false, -1 } },
        { "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", { 200, 0, false, false, 1 } },
        { "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", { 200, 0, true, false, -1 } },
        { "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
          { 200, 1, true, false, INT64_MAX } },
        { "HTTP/1.1 100 Continue\r\n\r\n", { 100, 1, true, false, -1 } },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        expect_head(str_from(vectors[i].head), &vectors[i].want);
}

TEST(invalid_heads_in_every_cut)
{
    static const struct {
        const char *head;
        enum http_error error;
    } vectors[] = {
        { "garbage", HTTP_BAD_VERSION },
        { "\r\nHTTP/1.1 200 OK\r\n\r\n", HTTP_BAD_VERSION },
        { "HTTP/2 200\r\n\r\n", HTTP_BAD_VERSION },
        { "HTTP/1.2 200 OK\r\n\r\n", HTTP_BAD_VERSION },
        { "HTTP/1.1\r\n\r\n", HTTP_BAD_VERSION },
        { "http/1.1 200 OK\r\n\r\n", HTTP_BAD_VERSION },
        { "HTTP/1.1  200 OK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 20 OK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 2000 OK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 099 OK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 2x0 OK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1\t200 OK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 200 O\x01K\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 200 O\rK\r\n\r\n", HTTP_BAD_STATUS_LINE },
        { "HTTP/1.1 200 OK\n\r\n", HTTP_BAD_LINE_END },
        { "HTTP/1.1 200 OK\r\nA: b\n\r\n", HTTP_BAD_LINE_END },
        { "HTTP/1.1 200 OK\r\nA: b\r\n\n", HTTP_BAD_LINE_END },
        { "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", HTTP_OBS_FOLD },
        { "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", HTTP_BAD_HEADER_NAME },
        { "HTTP/1.1 200 OK\r\n: empty\r\n\r\n", HTTP_BAD_HEADER_NAME },
        { "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", HTTP_BAD_HEADER_NAME },
        { "HTTP/1.1 200 OK\r\nA: b\x7f\r\n\r\n", HTTP_BAD_HEADER_VALUE },
        { "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", HTTP_BAD_CONTENT_LENGTH },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", HTTP_BAD_CONTENT_LENGTH },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
          HTTP_BAD_CONTENT_LENGTH },
        { "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
          HTTP_BAD_CONTENT_LENGTH },
        { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
          HTTP_BOTH_LENGTHS },
        { "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HTTP_BAD_TRANSFER_ENCODING },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
          HTTP_BAD_TRANSFER_ENCODING },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HTTP_CODING_UNSUPPORTED },
        { "HTTP/1.1 200 OK\r\nA:1\r\nB:2\r\nC:3\r\nD:4\r\nE:5\r\nF:6\r\n\r\n",
          HTTP_TOO_MANY_HEADERS },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        expect_verdict(str_from(vectors[i].head), -(int)vectors[i].error);
}

TEST(part_of_a_head_is_no_verdict)
{
    struct str head = STR("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    for (size_t n = 0; n < head.n; n++)
        expect_verdict(str_take(head, n), 0);
}

TEST(what_follows_a_head_is_left_alone)
{
    struct str in = STR("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\n\nHTTP");
    expect_verdict(in, 38);
}

TEST(a_head_longer_than_the_limit_is_an_error_in_every_cut)
{
    char text[1000];
    struct str start = STR("HTTP/1.1 200 OK\r\nA: ");

    memset(text, 'x', sizeof(text));
    memcpy(text, start.p, start.n);
    expect_verdict((struct str){ text, sizeof(text) }, -HTTP_HEADERS_TOO_LARGE);
    memcpy(text + 396, "\r\n\r\n", 4);
    expect_verdict((struct str){ text, sizeof(text) }, 400);
    memcpy(text + 396, "x\r\n\r\n", 5);
    expect_verdict((struct str){ text, sizeof(text) }, -HTTP_HEADERS_TOO_LARGE);
}

/* --- bodies ---------------------------------------------------------------------------------- */

TEST(where_a_body_ends)
{
    enum { NONE, LENGTH, CHUNKED, CLOSE };
    static const struct {
        struct http_response r;
        bool to_head;
        int want;
    } cases[] = {
        { { 200, 1, true, false, 5 }, false, LENGTH },
        { { 200, 1, true, false, 5 }, true, NONE },
        { { 200, 1, true, false, 0 }, false, NONE },
        { { 200, 1, true, true, -1 }, false, CHUNKED },
        { { 200, 1, true, true, -1 }, true, NONE },
        { { 200, 1, true, false, -1 }, false, CLOSE },
        { { 200, 1, true, false, -1 }, true, NONE },
        { { 204, 1, true, false, -1 }, false, NONE },
        { { 304, 1, true, false, 5 }, false, NONE },
        { { 101, 1, true, false, -1 }, false, NONE },
        { { 500, 0, false, false, -1 }, false, CLOSE },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct http1_body b;
        struct str run;
        size_t used;
        bool close = http1_body_init_response(&b, &cases[i].r, cases[i].to_head);
        EXPECT_INT(close, cases[i].want == CLOSE);
        struct str in = cases[i].want == CHUNKED ? STR("5\r\nhello\r\n0\r\n\r\n") : STR("hello");
        int rc = 0;
        for (size_t at = 0; rc == 0 && at < in.n; at += used) {
            rc = http1_body_next(&b, str_skip(in, at), &run, &used);
            EXPECT(rc >= 0);
        }
        EXPECT_INT(rc, cases[i].want != CLOSE);
        EXPECT_INT(b.total, cases[i].want == NONE ? 0 : 5);
    }
}
