/* Bodies: every vector in every cut, with what is delivered and how much is taken. */
#include <stdio.h>

#include "feed.h"
#include "http/http.h"

enum { COMPLETE = 1, INCOMPLETE = 0 };

struct result {
    int rc;
    size_t used, n;
    char data[4096];
};

/* Feeds `in` in packets of `step` bytes; what was not used is offered again with the next packet.
 */
static void run(struct result *r, const struct http_request *q, struct str in, size_t step,
                uint64_t max)
{
    struct http1_body body;
    http1_body_init(&body, q, max);
    r->used = r->n = 0;
    for (size_t have = 0;;) {
        size_t used;
        struct str data, piece = feed(str_skip(str_take(in, have), r->used));
        r->rc = http1_body_next(&body, piece, &data, &used);
        if (r->rc < 0)
            return;
        EXPECT(used <= piece.n && data.n <= used);
        EXPECT(data.n == 0 || (data.p >= piece.p && data.p + data.n <= piece.p + used));
        CHECK(r->n + data.n <= sizeof r->data);
        if (data.n)
            memcpy(r->data + r->n, data.p, data.n);
        r->n += data.n;
        r->used += used;
        EXPECT_INT(body.total, r->n);
        if (r->rc == COMPLETE || (used == piece.n && have == in.n))
            return;
        if (used == piece.n)
            have = have + step < in.n ? have + step : in.n;
    }
}

static void expect_body(const struct http_request *q, struct str in, int rc, struct str data,
                        size_t used)
{
    static struct result r;
    for (size_t step = 1; step <= in.n + 1; step++) {
        run(&r, q, in, step, 1000);
        if (r.rc != rc)
            test_fail(__FILE__, __LINE__, "step %zu: %d, expected %d, for:\n%.*s", step, r.rc, rc,
                      STR_ARG(in));
        if (rc < 0)
            continue;
        EXPECT_STR(((struct str){ r.data, r.n }), data);
        EXPECT_INT(r.used, used);
    }
}

static const struct http_request chunked = { .chunked = true, .content_length = -1 };

static void good(struct str in, struct str data)
{
    expect_body(&chunked, in, COMPLETE, data, in.n);
}

static void partial(struct str in, struct str data)
{
    expect_body(&chunked, in, INCOMPLETE, data, in.n);
}

static void bad(enum http_error e, struct str in)
{
    expect_body(&chunked, in, -(int)e, STR_NONE, 0);
}

TEST(counted_body)
{
    struct http_request q = { .content_length = 5 };
    expect_body(&q, STR("hello"), COMPLETE, STR("hello"), 5);
    expect_body(&q, STR("helloGET / HTTP"), COMPLETE, STR("hello"), 5);
    expect_body(&q, STR("hell"), INCOMPLETE, STR("hell"), 4);
    q.content_length = 0;
    expect_body(&q, STR("GET"), COMPLETE, STR(""), 0);
    q.content_length = -1;
    expect_body(&q, STR("GET"), COMPLETE, STR(""), 0);
}

TEST(chunked_body)
{
    good(STR("0\r\n\r\n"), STR(""));
    good(STR("5\r\nhello\r\n0\r\n\r\n"), STR("hello"));
    good(STR("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), STR("abc"));
    good(STR("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"), STR("01234567890123456789"));
    good(STR("0000000000000005\r\nhello\r\n000\r\n\r\n"), STR("hello"));
    good(STR("2\r\n\r\n\r\n0\r\n\r\n"), STR("\r\n"));
    good(STR("5;a\r\nhello\r\n0;b\r\n\r\n"), STR("hello"));
    good(STR("5;a=b;c=\"d;\\\" e\"\r\nhello\r\n0\r\n\r\n"), STR("hello"));
    good(STR("5; a=b\r\nhello\r\n0\r\n\r\n"), STR("hello"));
    good(STR("0\r\nX: y\r\n\r\n"), STR(""));
    good(STR("0\r\nX:\r\nDigest: \t abc \r\nContent-Length: 7\r\n\r\n"), STR(""));
    expect_body(&chunked, STR("1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n"), COMPLETE, STR("a"), 11);
    partial(STR(""), STR(""));
    partial(STR("5"), STR(""));
    partial(STR("5\r"), STR(""));
    partial(STR("5\r\nhel"), STR("hel"));
    partial(STR("5\r\nhello"), STR("hello"));
    partial(STR("5\r\nhello\r"), STR("hello"));
    partial(STR("5\r\nhello\r\n"), STR("hello"));
    partial(STR("5\r\nhello\r\n0\r\n"), STR("hello"));
    partial(STR("5\r\nhello\r\n0\r\n\r"), STR("hello"));
    partial(STR("0\r\nX: y\r\n"), STR(""));
}

TEST(malformed_chunk_sizes)
{
    static const struct str vectors[] = {
        STR("\r\n"),
        STR("\n"),
        STR("g\r\n"),
        STR("-1\r\n"),
        STR("+1\r\n"),
        STR(" 1\r\na\r\n"),
        STR("1 \r\na\r\n"),
        STR("1\t\r\na\r\n"),
        STR("0x1\r\na\r\n"),
        STR("1_0\r\n"),
        STR("1.0\r\n"),
        STR("\0"),
        STR("1\0\r\n"),
        STR("\"1\"\r\n"),
        STR(";\r\n"),
        STR(";a=b\r\n"),
        STR("1,\r\n"),
        STR("h\r\n"),
        STR("\xef\xbc\x91\r\n"),
        STR("1h\r\n"),
        STR("0 0\r\n"),
        STR("1\na\r\n0\r\n\r\n"),
        STR("1\r\ra\r\n"),
        STR("1\ra\r\n"),
        STR("\r1\r\n"),
        STR("1\r\nab\r\n0\r\n\r\n"),
        STR("1\r\na0\r\n\r\n"),
        STR("1\r\na\n0\r\n\r\n"),
        STR("1\r\na\r0\r\n\r\n"),
        STR("1\r\na\r\r\n0\r\n"),
        STR("1\r\na \r\n0\r\n"),
        STR("1\r\na\r\n\r\n0\r\n"),
        STR("2\r\na\r\n0\r\n\r\n"),
        STR("1\r\na\0\n0\r\n"),
        STR("10000000000000000\r\n"),
        STR("00000000000000001\r\na\r\n"),
        STR("fffffffffffffffff\r\n"),
        STR("100000000000000005\r\nhello\r\n"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        bad(HTTP_BAD_CHUNK, vectors[i]);
}

TEST(malformed_chunk_extensions)
{
    static const struct str vectors[] = {
        STR("1;\r\n"),        STR("1;;a\r\n"),       STR("1;=\r\n"),
        STR("1;=b\r\n"),      STR("1;a=\r\n"),       STR("1;a=b=c\r\n"),
        STR("1;a b\r\n"),     STR("1;a =b\r\n"),     STR("1;a= b\r\n"),
        STR("1 ;a\r\n"),      STR("1;a\n"),          STR("1;a\rb\r\n"),
        STR("1;a\nb\r\n"),    STR("1;a=\"b\r\n"),    STR("1;a=\"b\nc\"\r\n"),
        STR("1;a=\"b\\\r\n"), STR("1;a=\"b\"c\r\n"), STR("1;a=\"\0\"\r\n"),
        STR("1;\0\r\n"),      STR("1;a=\x01\r\n"),   STR("1;a=\x7f\r\n"),
        STR("1;\xff\r\n"),    STR("1;a=(b)\r\n"),    STR("1;a,b\r\n"),
        STR("1; \r\n"),       STR("1;a \r\n"),       STR("0;\n\r\n"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        bad(HTTP_BAD_CHUNK, vectors[i]);
}

TEST(malformed_trailers)
{
    static const struct str vectors[] = {
        STR("0\r\n\n"),
        STR("0\r\n\r\r\n"),
        STR("0\r\n\rX"),
        STR("0\r\nX: y\n\r\n"),
        STR("0\r\nX: y\r\r\n"),
        STR("0\r\n X: y\r\n"),
        STR("0\r\nX: y\r\n z\r\n\r\n"),
        STR("0\r\nX : y\r\n\r\n"),
        STR("0\r\n: y\r\n\r\n"),
        STR("0\r\nX\r\n\r\n"),
        STR("0\r\nX\n\r\n"),
        STR("0\r\nX: \0\r\n"),
        STR("0\r\nX: \x7f\r\n"),
        STR("0\r\n\0\r\n"),
        STR("0\r\nX\0: y\r\n"),
        STR("0\r\nGET / HTTP/1.1\r\n"),
        STR("0\r\nX: y\rZ: a\r\n"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        bad(HTTP_BAD_TRAILER, vectors[i]);
}

static struct str fill(const char *head, size_t times, const char *tail)
{
    size_t n = strlen(head);
    char *p = scratch(n + times + strlen(tail) + 1);
    memcpy(p, head, n);
    memset(p + n, 'x', times);
    strcpy(p + n + times, tail);
    return (struct str){ p, n + times + strlen(tail) };
}

static int outcome(struct str in, uint64_t max)
{
    static struct result whole, bytes;
    run(&whole, &chunked, in, in.n, max);
    run(&bytes, &chunked, in, 1, max);
    EXPECT_INT(bytes.rc, whole.rc);
    return whole.rc;
}

TEST(bodies_are_bounded)
{
    EXPECT_INT(outcome(STR("3e8\r\n"), 1000), INCOMPLETE);
    EXPECT_INT(outcome(STR("3e9\r\n"), 1000), -HTTP_BODY_TOO_LARGE);
    EXPECT_INT(outcome(STR("5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"), 10), COMPLETE);
    EXPECT_INT(outcome(STR("5\r\nhello\r\n6\r\nworld!\r\n0\r\n\r\n"), 10), -HTTP_BODY_TOO_LARGE);
    EXPECT_INT(outcome(STR("5\r\nhello\r\nfffffffffffffffe\r\n"), 10), -HTTP_BODY_TOO_LARGE);
    EXPECT_INT(outcome(STR("5\r\nhello\r\nfffffffffffffffb\r\n"), UINT64_MAX),
               -HTTP_BODY_TOO_LARGE);
    EXPECT_INT(outcome(STR("ffffffffffffffff\r\n"), UINT64_MAX), INCOMPLETE);
    EXPECT_INT(outcome(STR("1\r\na\r\n0\r\n\r\n"), 0), -HTTP_BODY_TOO_LARGE);
    EXPECT_INT(outcome(STR("0\r\n\r\n"), 0), COMPLETE);
    EXPECT_INT(outcome(fill("0;", 500, "\r\n\r\n"), 10), COMPLETE);
    EXPECT_INT(outcome(fill("0;", 600, "\r\n\r\n"), 10), -HTTP_BAD_CHUNK);
    EXPECT_INT(outcome(fill("0;", 600, ""), 10), -HTTP_BAD_CHUNK);
    EXPECT_INT(outcome(fill("0\r\nX: ", 8000, "\r\n\r\n"), 10), COMPLETE);
    EXPECT_INT(outcome(fill("0\r\nX: ", 8200, "\r\n\r\n"), 10), -HTTP_BAD_TRAILER);
}
