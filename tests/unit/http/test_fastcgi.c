/* FastCGI: what is written, read back by hand; what is read, in every cut against unreadable
 * memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "feed.h"
#include "http/fastcgi.h"

/* --- requests -------------------------------------------------------------------------------- */

static unsigned byte_at(struct str s, size_t i)
{
    CHECK(i < s.n);
    return (unsigned char)s.p[i];
}

/* Content of the record at the front of `*rest`, which must be of this type. */
static struct str take_record(struct str *rest, unsigned type)
{
    EXPECT_INT(byte_at(*rest, 0), 1);
    EXPECT_INT(byte_at(*rest, 1), type);
    EXPECT_INT(byte_at(*rest, 2) << 8 | byte_at(*rest, 3), 1);
    size_t n = byte_at(*rest, 4) << 8 | byte_at(*rest, 5), padding = byte_at(*rest, 6);
    CHECK(rest->n >= FASTCGI_HEADER_BYTES + n + padding);
    struct str content = str_take(str_skip(*rest, FASTCGI_HEADER_BYTES), n);
    *rest = str_skip(*rest, FASTCGI_HEADER_BYTES + n + padding);
    return content;
}

TEST(begin_request_says_responder_and_keep)
{
    struct buf out;

    for (int keep = 0; keep < 2; keep++) {
        buf_init(&out, 0);
        EXPECT_INT(fastcgi_put_begin(&out, keep), 0);
        struct str rest = buf_view(&out);
        struct str body = take_record(&rest, 1);
        EXPECT_INT(body.n, 8);
        EXPECT_INT(byte_at(body, 0) << 8 | byte_at(body, 1), 1);
        EXPECT_INT(byte_at(body, 2), keep);
        EXPECT_INT(rest.n, 0);
        buf_fini(&out);
    }
}

static size_t take_length(struct str *rest)
{
    size_t n = byte_at(*rest, 0);

    if (n < 128) {
        *rest = str_skip(*rest, 1);
        return n;
    }
    n = (n & 127) << 24 | byte_at(*rest, 1) << 16 | byte_at(*rest, 2) << 8 | byte_at(*rest, 3);
    *rest = str_skip(*rest, 4);
    return n;
}

TEST(parameters_of_every_length_come_back)
{
    static const size_t lengths[] = { 0, 1, 127, 128, 129, 255, 256, 65535, 65536, 200000 };
    struct buf params;
    char *text = malloc(200000);

    CHECK(text);
    memset(text, 'x', 200000);
    for (size_t i = 0; i < ARRAY_LENGTH(lengths); i++)
        for (size_t j = 0; j < ARRAY_LENGTH(lengths); j++) {
            struct str name = { text, lengths[i] }, value = { text, lengths[j] };
            buf_init(&params, 0);
            EXPECT_INT(fastcgi_put_param(&params, name, value), 0);
            struct str rest = buf_view(&params);
            size_t n = take_length(&rest);
            EXPECT_INT(n, name.n);
            EXPECT_INT(take_length(&rest), value.n);
            EXPECT_INT(rest.n, name.n + value.n);
            buf_fini(&params);
        }
    free(text);
}

/* Writes pairs with values of these lengths; every record must end where a pair ends, unless a pair
 * alone is too long for one. */
static void expect_records(const size_t *values, size_t n, size_t want_records)
{
    struct buf params, out;
    char *text = calloc(1, 4 * FASTCGI_RECORD_MAX);
    size_t records = 0, total = 0, size;

    CHECK(text);
    buf_init(&params, 0);
    buf_init(&out, 0);
    for (size_t i = 0; i < n; i++)
        EXPECT_INT(fastcgi_put_param(&params, STR("N"), (struct str){ text, values[i] }), 0);
    EXPECT_INT(fastcgi_put_params(&out, buf_view(&params)), 0);
    struct str rest = buf_view(&out);
    do {
        struct str content = take_record(&rest, 4);
        size = content.n;
        total += size;
        records += size > 0;
        while (content.n && values[0] <= FASTCGI_RECORD_MAX - 6) {
            size_t pair = take_length(&content);
            pair += take_length(&content);
            EXPECT(pair <= content.n);
            content = str_skip(content, pair);
        }
    } while (size);
    EXPECT_INT(total, buf_length(&params));
    EXPECT_INT(records, want_records);
    EXPECT_INT(rest.n, 0);
    buf_fini(&params);
    buf_fini(&out);
    free(text);
}

TEST(a_pair_of_parameters_lies_in_one_record)
{
    enum { FULL = FASTCGI_RECORD_MAX - 6 }; /* "N" and two lengths before it */

    expect_records(NULL, 0, 0);
    expect_records((size_t[]){ 0 }, 1, 1);
    expect_records((size_t[]){ FULL }, 1, 1);
    expect_records((size_t[]){ FULL, 0 }, 2, 2);
    expect_records((size_t[]){ 0, FULL }, 2, 2);
    expect_records((size_t[]){ 30000, 30000, 30000 }, 3, 2);
    expect_records((size_t[]){ 60000, 60000, 60000 }, 3, 3);
    expect_records((size_t[]){ FULL + 1 }, 1, 2);
    expect_records((size_t[]){ 3 * FASTCGI_RECORD_MAX, 5 }, 2, 5);
}

TEST(stdin_header_has_the_length)
{
    char header[FASTCGI_HEADER_BYTES];

    fastcgi_stdin_header(header, 0x1234);
    EXPECT_STR(((struct str){ header, sizeof(header) }), STR("\1\5\0\1\x12\x34\0\0"));
}

/* --- responses ------------------------------------------------------------------------------- */

struct outcome {
    int rc;
    bool ended;
    size_t used;
    uint32_t app_status;
    uint8_t protocol_status;
    char out[512], err[512];
    size_t n_out, n_err;
};

/* Feeds `in` in packets of `step` bytes until the end, an error or its exhaustion. */
static struct outcome read_all(struct str in, size_t step)
{
    struct outcome o = { 0 };
    struct fastcgi_reader reader = { 0 };

    for (size_t have = 0;;) {
        struct str piece = feed(str_skip(str_take(in, have), o.used));
        struct fastcgi_event e;
        size_t used;
        o.rc = fastcgi_read(&reader, piece, &e, &used);
        if (o.rc < 0)
            return o;
        EXPECT(used <= piece.n && e.data.n <= used);
        o.used += used;
        if (e.type == FASTCGI_STDOUT) {
            memcpy(o.out + o.n_out, e.data.p, e.data.n);
            o.n_out += e.data.n;
        } else if (e.type == FASTCGI_STDERR) {
            memcpy(o.err + o.n_err, e.data.p, e.data.n);
            o.n_err += e.data.n;
        } else if (e.type == FASTCGI_END) {
            o.ended = true;
            o.app_status = e.app_status;
            o.protocol_status = e.protocol_status;
            return o;
        } else if (have == in.n) {
            return o;
        } else {
            have = have + step < in.n ? have + step : in.n;
        }
    }
}

static const struct str answer =
    STR("\1\6\0\1\0\5\3\0hello...\1\7\0\1\0\4\0\0oops\1\6\0\1\0\1\7\0!1234567\1\6\0\1\0\0\0\0"
        "\1\3\0\1\0\x08\0\0\1\2\3\4\0\0\0\0");

TEST(an_answer_in_every_cut)
{
    for (size_t step = 1; step <= answer.n; step++) {
        struct outcome o = read_all(answer, step);
        EXPECT_INT(o.rc, 0);
        EXPECT(o.ended);
        EXPECT_INT(o.used, answer.n);
        EXPECT_STR(((struct str){ o.out, o.n_out }), STR("hello!"));
        EXPECT_STR(((struct str){ o.err, o.n_err }), STR("oops"));
        EXPECT_INT(o.app_status, 0x01020304);
        EXPECT_INT(o.protocol_status, 0);
    }
}

TEST(a_truncated_answer_never_ends)
{
    for (size_t n = 0; n < answer.n; n++) {
        struct outcome o = read_all(str_take(answer, n), 7);
        EXPECT_INT(o.rc, 0);
        EXPECT(!o.ended);
    }
}

TEST(what_is_behind_the_end_is_left)
{
    char text[256];
    struct fastcgi_reader reader = { 0 };
    struct fastcgi_event e;
    size_t used, at = 0;

    memcpy(text, answer.p, answer.n);
    memcpy(text + answer.n, "next", 4);
    struct str in = test_guarded((struct str){ text, answer.n + 4 });
    do {
        EXPECT_INT(fastcgi_read(&reader, str_skip(in, at), &e, &used), 0);
        at += used;
    } while (e.type != FASTCGI_END);
    EXPECT_INT(at, answer.n);
}

TEST(what_is_not_fastcgi_is_refused)
{
    static const struct str bad[] = {
        STR("HTTP/1.1 200 OK\r\n"),                           /* another protocol */
        STR("\2\6\0\1\0\0\0\0"),                              /* another version */
        STR("\1\6\0\2\0\0\0\0"),                              /* another request */
        STR("\1\6\1\1\0\0\0\0"),     STR("\1\5\0\1\0\0\0\0"), /* what only we send */
        STR("\1\4\0\1\0\0\0\0"),     STR("\1\1\0\1\0\x08\0\0"),
        STR("\1\x0b\0\0\0\x08\0\0"), /* management records, never asked for */
        STR("\1\3\0\1\0\7\0\0"),     /* an end of another size */
        STR("\1\3\0\1\0\x09\0\0"),   STR("\1\3\0\1\0\0\0\0"),
    };

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        for (size_t step = 1; step <= bad[i].n; step++)
            EXPECT_INT(read_all(bad[i], step).rc, -EPROTO);
}

TEST(an_overloaded_server_says_so)
{
    struct outcome o = read_all(STR("\1\3\0\1\0\x08\0\0\0\0\0\0\2\0\0\0"), 16);

    EXPECT(o.ended);
    EXPECT_INT(o.protocol_status, 2);
}

/* --- heads ----------------------------------------------------------------------------------- */

/* The end of the head is found in every cut, and no sooner. */
static void expect_end(struct str in, size_t end)
{
    for (size_t step = 1; step <= in.n; step++) {
        size_t looked = 0, found = 0;
        while (looked < in.n && !found) {
            size_t have = looked + step < in.n ? looked + step : in.n;
            found = cgi_head_end(test_guarded(str_take(in, have)), looked);
            looked = have;
        }
        if (found != end)
            test_fail(__FILE__, __LINE__, "step %zu: %zu, expected %zu, for:\n%.*s", step, found,
                      end, STR_ARG(in));
    }
}

TEST(the_end_of_a_head_is_found_in_every_cut)
{
    expect_end(STR("A: b\r\n\r\nbody"), 8);
    expect_end(STR("A: b\n\nbody"), 6);
    expect_end(STR("A: b\r\n\nbody"), 7);
    expect_end(STR("A: b\n\r\nbody"), 7);
    expect_end(STR("\r\nA: b\r\n\r\n"), 2);
    expect_end(STR("\nbody\n\n"), 1);
    expect_end(STR("A: b\r\nC: d\r\n"), 0);
    expect_end(STR("A: b\r\r\n\r\r\nbody"), 0);
    expect_end(STR("A: b\r\n\r"), 0);
    expect_end(STR("\r\r\nx"), 0);
}

static void expect_head(struct str head, int status, struct str want)
{
    struct buf lines;
    uint16_t got = 0;

    buf_init(&lines, 0);
    EXPECT_INT(cgi_parse_head(test_guarded(head), &lines, &got), 0);
    EXPECT_INT(got, status);
    EXPECT_STR(buf_view(&lines), want);
    buf_fini(&lines);
}

TEST(heads_give_status_and_lines)
{
    expect_head(STR("\r\n"), 200, STR(""));
    expect_head(STR("\n"), 200, STR(""));
    expect_head(STR("A: b\r\nC:d  \r\n\r\n"), 200, STR("A: b\r\nC: d\r\n"));
    expect_head(STR("A: b\nC:\td\n\n"), 200, STR("A: b\r\nC: d\r\n"));
    expect_head(STR("A: b\r\nStatus: 404 Not Found\r\n\r\n"), 404, STR("A: b\r\n"));
    expect_head(STR("status:404\r\n\r\n"), 404, STR(""));
    expect_head(STR("A: b\r\nSTATUS: 404 Gone fishing\r\n\r\n"), 404,
                STR(":reason: Gone fishing\r\nA: b\r\n"));
    expect_head(STR("Location: /x\r\n\r\n"), 302, STR("Location: /x\r\n"));
    expect_head(STR("Status: 201 Created\r\nlocation: /x\r\n\r\n"), 201, STR("location: /x\r\n"));
    expect_head(STR("Empty:\r\n\r\n"), 200, STR("Empty: \r\n"));
}

TEST(what_is_no_head_is_refused)
{
    static const struct str bad[] = {
        STR("no colon\r\n\r\n"),    STR(": no name\r\n\r\n"),
        STR("a b: c\r\n\r\n"),      STR("A: b\r\n folded\r\n\r\n"),
        STR("Status: abc\r\n\r\n"), STR("Status: 2000\r\n\r\n"),
        STR("Status: 20\r\n\r\n"),  STR("Status:\r\n\r\n"),
        STR("Status: 099\r\n\r\n"), STR("<html>\n\n"),
        STR("Status: 103\r\n\r\n"), STR("A\tb: c\r\n\r\n"),
        STR("A\177: c\r\n\r\n"),
    };

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct buf lines;
        uint16_t status;
        buf_init(&lines, 0);
        int r = cgi_parse_head(test_guarded(bad[i]), &lines, &status);
        if (r != -EPROTO)
            test_fail(__FILE__, __LINE__, "%d for:\n%.*s", r, STR_ARG(bad[i]));
        buf_fini(&lines);
    }
}
