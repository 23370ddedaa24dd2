/* What is sent for a static file: preconditions, ranges, codings. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "fixture.h"
#include "gateway/files_int.h"

enum { MTIME = 784111777 }; /* Sun, 06 Nov 1994 08:49:37 GMT */
#define MODIFIED "Sun, 06 Nov 1994 08:49:37 GMT"

static struct files *files;
static struct static_plan plan;
static char body[8192];
static size_t body_bytes;
static char etag[64];

/* Asks for `path` with these header lines; the answer is in plan, body and etag. */
static int ask_with(const char *method, const char *path, const char *lines)
{
    static const struct http_limits limits = { 8192, 32768, 100, 1000 };
    static struct http_request request;
    static char text[4096];
    struct http1_parser parser = { 0 };
    struct files_match match;
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n", method, path, lines);
    EXPECT_INT(http1_parse_request(&parser, (struct str){ text, (size_t)n }, &limits, &request), n);
    files_resolve(files, request.path, &match);
    EXPECT_INT(match.kind, FILES_STATIC);
    EXPECT_INT(static_plan_init(&plan, files, match.file, &request), 0);
    body_bytes = 0;
    for (uint32_t i = 0; i < plan.n_segments; i++) {
        const struct static_segment *s = &plan.segments[i];
        CHECK(s->length <= sizeof body - body_bytes);
        if (s->fd < 0) {
            EXPECT_INT(s->text.n, s->length);
            memcpy(body + body_bytes, s->text.p, s->length);
        } else {
            EXPECT_INT(pread(s->fd, body + body_bytes, s->length, (off_t)s->offset), s->length);
        }
        body_bytes += s->length;
    }
    if (plan.n_segments > 0)
        EXPECT_INT(body_bytes, plan.content_length);
    return plan.status;
}

/* Value of a line of the plan's head; p == NULL without. */
static struct str header(const char *name)
{
    struct str rest = buf_view(&plan.head), found = STR_NONE;
    while (rest.n > 0) {
        struct str line = str_cut(&rest, '\r');
        EXPECT(rest.n > 0 && rest.p[0] == '\n');
        rest = str_skip(rest, 1);
        struct str field = str_cut(&line, ':');
        if (str_eq_nocase(field, str_from(name))) {
            EXPECT(found.p == NULL); /* once */
            found = str_trim(line);
        }
    }
    return found;
}

static int ask(const char *lines)
{
    return ask_with("GET", "/a.txt", lines);
}

#define EXPECT_BODY(literal) EXPECT_STR(((struct str){ body, body_bytes }), STR(literal))
#define DONE static_plan_fini(&plan)
#define EXPECT_STATUS(lines, status)    \
    do {                                \
        EXPECT_INT(ask(lines), status); \
        DONE;                           \
    } while (0)

static void start(void)
{
    fixture_make();
    fixture_write("a.txt", STR("0123456789abcdefghij"));
    fixture_touch("a.txt", MTIME);
    fixture_write("empty.txt", STR(""));
    files = fixture_files();
    EXPECT_INT(ask(""), 200);
    struct str tag = header("ETag");
    memcpy(etag, tag.p, tag.n);
    DONE;
}

static const char *lines_with_etag(const char *format)
{
    static char lines[512];
    snprintf(lines, sizeof lines, format, etag);
    return lines;
}

TEST(whole_file)
{
    start();
    EXPECT_INT(ask(""), 200);
    EXPECT_BODY("0123456789abcdefghij");
    EXPECT_TEXT(header("Content-Type"), "text/plain; charset=utf-8");
    EXPECT_TEXT(header("Content-Length"), "20");
    EXPECT_TEXT(header("Last-Modified"), MODIFIED);
    EXPECT_TEXT(header("Accept-Ranges"), "bytes");
    EXPECT(header("ETag").n > 4 && header("ETag").p[0] == '"');
    EXPECT(header("Vary").p == NULL && header("Content-Encoding").p == NULL);
    DONE;
    EXPECT_INT(ask_with("HEAD", "/a.txt", ""), 200);
    EXPECT_INT(plan.n_segments, 0);
    EXPECT_TEXT(header("Content-Length"), "20");
    DONE;
    EXPECT_INT(ask_with("GET", "/empty.txt", ""), 200);
    EXPECT_INT(plan.n_segments, 0);
    EXPECT_TEXT(header("Content-Length"), "0");
    DONE;
    files_free(files);
}

TEST(only_get_and_head)
{
    start();
    static const char *const methods[] = { "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW" };
    for (size_t i = 0; i < ARRAY_LENGTH(methods); i++) {
        EXPECT_INT(ask_with(methods[i], "/a.txt", "If-None-Match: *\r\n"), 405);
        EXPECT_TEXT(header("Allow"), "GET, HEAD");
        EXPECT_TEXT(header("Content-Length"), "0");
        EXPECT_INT(plan.n_segments, 0);
        DONE;
    }
    files_free(files);
}

TEST(modified_since)
{
    start();
    EXPECT_INT(ask("If-Modified-Since: " MODIFIED "\r\n"), 304);
    EXPECT_INT(plan.n_segments, 0);
    EXPECT_TEXT(header("Last-Modified"), MODIFIED);
    EXPECT(header("ETag").n > 0 && header("Content-Length").p == NULL &&
           header("Content-Type").p == NULL);
    DONE;
    EXPECT_STATUS("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n", 200);
    EXPECT_STATUS("If-Modified-Since: Sun, 06 Nov 1994 08:49:38 GMT\r\n", 304);
    EXPECT_STATUS("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT\r\n", 304);
    EXPECT_STATUS("If-Modified-Since: yesterday\r\n", 200);
    EXPECT_STATUS("If-Modified-Since:\r\n", 200);
    EXPECT_STATUS("If-Unmodified-Since: " MODIFIED "\r\n", 200);
    EXPECT_STATUS("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n", 412);
    EXPECT_STATUS("If-Unmodified-Since: never\r\n", 200);
    EXPECT_INT(ask_with("HEAD", "/a.txt", "If-Modified-Since: " MODIFIED "\r\n"), 304);
    DONE;
    files_free(files);
}

TEST(entity_tag_conditions)
{
    start();
    EXPECT_STATUS(lines_with_etag("If-None-Match: %s\r\n"), 304);
    EXPECT_STATUS(lines_with_etag("If-None-Match: W/%s\r\n"), 304);
    EXPECT_STATUS(lines_with_etag("If-None-Match: \"x\", %s\r\n"), 304);
    EXPECT_STATUS(lines_with_etag("If-None-Match: \"x\"\r\nIf-None-Match: %s\r\n"), 304);
    EXPECT_STATUS("If-None-Match: *\r\n", 304);
    EXPECT_STATUS("If-None-Match: \"x\"\r\n", 200);
    EXPECT_STATUS("If-None-Match:\r\n", 200);
    EXPECT_STATUS(lines_with_etag("If-Match: %s\r\n"), 200);
    EXPECT_STATUS("If-Match: *\r\n", 200);
    EXPECT_STATUS(lines_with_etag("If-Match: W/%s\r\n"), 412); /* strong comparison */
    EXPECT_INT(ask("If-Match: \"x\"\r\n"), 412);
    EXPECT_TEXT(header("Content-Length"), "0");
    EXPECT_INT(plan.n_segments, 0);
    DONE;
    files_free(files);
}

/* RFC 9110 13.2.2: If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since, Range. */
TEST(order_of_conditions)
{
    start();
    EXPECT_STATUS(
        lines_with_etag("If-Match: %s\r\nIf-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n"),
        200);
    EXPECT_STATUS(lines_with_etag("If-Match: \"x\"\r\nIf-None-Match: %s\r\n"), 412);
    EXPECT_STATUS("If-None-Match: \"x\"\r\nIf-Modified-Since: " MODIFIED "\r\n", 200);
    EXPECT_STATUS(lines_with_etag("If-None-Match: %s\r\n"
                                  "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n"),
                  304);
    EXPECT_STATUS(lines_with_etag("If-None-Match: %s\r\nRange: bytes=0-1\r\n"), 304);
    EXPECT_STATUS("If-Match: \"x\"\r\nRange: bytes=0-1\r\n", 412);
    EXPECT_STATUS("Range: bytes=100-\r\nIf-None-Match: *\r\n", 304);
    files_free(files);
}

TEST(one_range)
{
    start();
    EXPECT_INT(ask("Range: bytes=2-5\r\n"), 206);
    EXPECT_BODY("2345");
    EXPECT_TEXT(header("Content-Range"), "bytes 2-5/20");
    EXPECT_TEXT(header("Content-Length"), "4");
    EXPECT_TEXT(header("Content-Type"), "text/plain; charset=utf-8");
    EXPECT_TEXT(header("Last-Modified"), MODIFIED);
    DONE;
    EXPECT_INT(ask("Range: bytes=-3\r\n"), 206);
    EXPECT_BODY("hij");
    DONE;
    EXPECT_INT(ask("Range: bytes=18-\r\n"), 206);
    EXPECT_BODY("ij");
    EXPECT_TEXT(header("Content-Range"), "bytes 18-19/20");
    DONE;
    EXPECT_INT(ask("Range: bytes=0-4,5-9\r\n"), 206); /* adjacent: one */
    EXPECT_TEXT(header("Content-Range"), "bytes 0-9/20");
    DONE;
    EXPECT_INT(ask("Range: bytes=20-\r\n"), 416);
    EXPECT_TEXT(header("Content-Range"), "bytes */20");
    EXPECT_TEXT(header("Content-Length"), "0");
    EXPECT_INT(plan.n_segments, 0);
    DONE;
    EXPECT_STATUS("Range: bytes=5-2\r\n", 200);
    EXPECT_STATUS("Range: lines=1-2\r\n", 200);
    EXPECT_STATUS("Range: bytes=0-1\r\nRange: bytes=2-3\r\n", 200);
    EXPECT_INT(ask_with("HEAD", "/a.txt", "Range: bytes=0-1\r\n"), 200);
    EXPECT_TEXT(header("Content-Length"), "20");
    DONE;
    files_free(files);
}

TEST(several_ranges)
{
    start();
    EXPECT_INT(ask("Range: bytes=0-1, 5-6,-2\r\n"), 206);
    struct str type = header("Content-Type");
    EXPECT(str_has_prefix(type, STR("multipart/byteranges; boundary=")));
    EXPECT(header("Content-Range").p == NULL);
    char want[1024], length[16];
    int b = (int)type.n - 31;
    const char *boundary = type.p + 31;
#define PART "\r\n--%.*s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes "
    int n = snprintf(want, sizeof want,
                     PART "0-1/20\r\n\r\n01" PART "5-6/20\r\n\r\n56" PART
                          "18-19/20\r\n\r\nij\r\n--%.*s--\r\n",
                     b, boundary, b, boundary, b, boundary, b, boundary);
    memmove(want, want + 2, (size_t)(n -= 2)); /* no line end before the first boundary */
    EXPECT_STR(((struct str){ body, body_bytes }), ((struct str){ want, (size_t)n }));
    snprintf(length, sizeof length, "%d", n);
    EXPECT_STR(header("Content-Length"), str_from(length));
    DONE;
    EXPECT_INT(ask("Range: bytes=0-0,100-200\r\n"), 206); /* one of two is there */
    EXPECT_TEXT(header("Content-Range"), "bytes 0-0/20");
    DONE;
    EXPECT_STATUS("Range: bytes=100-,200-\r\n", 416);
    files_free(files);
}

TEST(as_many_ranges_as_there_is_room_for)
{
    char lines[512] = "Range: bytes=0-0";
    start();
    fixture_write("long.txt", (struct str){ memset(body, 'x', 4096), 4096 });
    for (int i = 1; i < 32; i++)
        sprintf(lines + strlen(lines), ",%d-%d", 2 * i, 2 * i);
    strcat(lines, "\r\n");
    EXPECT_INT(ask_with("GET", "/long.txt", lines), 206);
    EXPECT_INT(plan.n_segments, 65);
    DONE;
    lines[strlen(lines) - 2] = '\0';
    strcat(lines, ",100-100\r\n");
    EXPECT_INT(ask_with("GET", "/long.txt", lines), 200);
    DONE;
    files_free(files);
}

TEST(if_range)
{
    start();
    EXPECT_STATUS(lines_with_etag("Range: bytes=0-1\r\nIf-Range: %s\r\n"), 206);
    EXPECT_STATUS(lines_with_etag("Range: bytes=0-1\r\nIf-Range: W/%s\r\n"), 200);
    EXPECT_STATUS("Range: bytes=0-1\r\nIf-Range: \"x\"\r\n", 200);
    EXPECT_STATUS("Range: bytes=0-1\r\nIf-Range: " MODIFIED "\r\n", 206);
    EXPECT_STATUS("Range: bytes=0-1\r\nIf-Range: Sun, 06 Nov 1994 08:49:38 GMT\r\n", 200);
    EXPECT_STATUS("Range: bytes=0-1\r\nIf-Range: soon\r\n", 200);
    EXPECT_STATUS("Range: bytes=0-1\r\nIf-Range:\r\n", 200);
    EXPECT_STATUS("Range: bytes=0-1\r\nIf-Range: *\r\n", 200);
    EXPECT_STATUS("Range: bytes=100-\r\nIf-Range: \"x\"\r\n", 200);
    files_free(files);
}

TEST(a_fresh_date_is_no_strong_validator)
{
    char date[HTTP_DATE_BYTES], lines[128];
    start();
    fixture_write("fresh.txt", STR("0123"));
    http_format_date(time(NULL), date);
    snprintf(lines, sizeof lines, "Range: bytes=0-1\r\nIf-Range: %s\r\n", date);
    EXPECT_INT(ask_with("GET", "/fresh.txt", lines), 200);
    DONE;
    fixture_touch("fresh.txt", time(NULL) + 86400);
    EXPECT_INT(ask_with("GET", "/fresh.txt", ""), 200);
    time_t modified;
    EXPECT_INT(http_parse_date(header("Last-Modified"), &modified), 0);
    EXPECT(modified <= time(NULL)); /* RFC 9110 8.8.2.1 */
    DONE;
    files_free(files);
}

static void make_neighbours(void)
{
    fixture_write("a.txt.gz", STR("GZIP"));
    fixture_write("a.txt.br", STR("BR"));
    fixture_write("a.txt.zst", STR("ZST"));
    fixture_touch("a.txt.gz", MTIME);
    fixture_touch("a.txt.br", MTIME + 1);
    fixture_touch("a.txt.zst", MTIME);
    files_free(files);
    files = fixture_files(); /* absence is believed for a second */
}

static void expect_coding(const char *accept, const char *coding)
{
    char lines[256];
    snprintf(lines, sizeof lines, "Accept-Encoding: %s\r\n", accept);
    EXPECT_INT(ask(lines), 200);
    EXPECT_STR(header("Content-Encoding"), str_from(coding));
    EXPECT_TEXT(header("Vary"), "Accept-Encoding");
    EXPECT_TEXT(header("Content-Type"), "text/plain; charset=utf-8");
    DONE;
}

TEST(ready_made_neighbours)
{
    start();
    make_neighbours();
    EXPECT_INT(ask("Accept-Encoding: gzip\r\n"), 200);
    EXPECT_BODY("GZIP");
    EXPECT_TEXT(header("Content-Length"), "4");
    EXPECT_TEXT(header("Content-Encoding"), "gzip");
    EXPECT(!str_eq(header("ETag"), str_from(etag)));
    DONE;
    expect_coding("gzip, deflate, br", "br");
    expect_coding("gzip, deflate, br, zstd", "br");
    expect_coding("zstd, gzip", "zstd");
    expect_coding("br;q=0.5, gzip;q=0.6", "gzip");
    expect_coding("br;q=0, gzip;q=0.1", "gzip");
    expect_coding("br;q=0", NULL);
    expect_coding("*", "br");
    expect_coding("*;q=0.5, br;q=0", "zstd");
    expect_coding("identity, gzip;q=0.5", NULL);
    expect_coding("identity;q=0.5, gzip", "gzip");
    expect_coding("deflate", NULL);
    expect_coding("", NULL);
    expect_coding("gzip\r\nAccept-Encoding: br", "br");
    EXPECT_INT(ask(""), 200);
    EXPECT_TEXT(header("Vary"), "Accept-Encoding"); /* of the plain one too */
    EXPECT_STR(header("ETag"), str_from(etag));
    DONE;
    files_free(files);
}

TEST(conditions_and_ranges_are_of_the_chosen_representation)
{
    start();
    make_neighbours();
    EXPECT_INT(ask("Accept-Encoding: gzip\r\nRange: bytes=1-2\r\n"), 206);
    EXPECT_BODY("ZI");
    EXPECT_TEXT(header("Content-Range"), "bytes 1-2/4");
    EXPECT_TEXT(header("Content-Encoding"), "gzip");
    DONE;
    EXPECT_STATUS(lines_with_etag("Accept-Encoding: gzip\r\nIf-None-Match: %s\r\n"), 200);
    EXPECT_STATUS(lines_with_etag("If-None-Match: %s\r\n"), 304);
    EXPECT_INT(ask(lines_with_etag("If-None-Match: %s\r\n")), 304);
    EXPECT_TEXT(header("Vary"), "Accept-Encoding");
    DONE;
    EXPECT_STATUS(lines_with_etag("Accept-Encoding: br\r\nRange: bytes=0-0\r\nIf-Range: %s\r\n"),
                  200);
    files_free(files);
}

TEST(stale_neighbours_are_not_sent)
{
    start();
    make_neighbours();
    fixture_touch("a.txt.gz", MTIME - 1);
    EXPECT_INT(ask("Accept-Encoding: gzip\r\n"), 200);
    EXPECT(header("Content-Encoding").p == NULL);
    EXPECT_BODY("0123456789abcdefghij");
    DONE;
    CHECK(unlinkat(fixture_fd, "a.txt.br", 0) == 0);
    EXPECT_INT(ask("Accept-Encoding: br\r\n"), 200);
    EXPECT(header("Content-Encoding").p == NULL);
    DONE;
    files_free(files);
}

/* Fails each allocation in turn: the answer is whole or an error, and nothing is lost. */
TEST(out_of_memory_at_every_place)
{
    static const struct http_header range = { STR("Range"), STR("bytes=0-0,5-6") };
    static struct http_request request = { .method = HTTP_GET, .n_headers = 1 };
    start();
    make_neighbours();
    fixture_write("run.php", STR(""));
    request.headers[0] = range;
    unsigned failures = 0;
    for (unsigned long nth = 1; nth < 20; nth++) {
        struct files_match match;
        mem_fail_nth(0);
        files_free(files);
        files = fixture_files();
        mem_fail_nth(nth);
        files_resolve(files, STR("/a.txt"), &match);
        if (match.kind == FILES_STATIC) {
            int rc = static_plan_init(&plan, files, match.file, &request);
            EXPECT(rc == 0 || rc == -ENOMEM);
            failures += rc != 0;
            if (rc == 0)
                DONE;
        } else {
            EXPECT_INT(match.kind, FILES_UNAVAILABLE);
            failures++;
        }
        mem_fail_nth(nth);
        files_resolve(files, STR("/run.php"), &match); /* cannot be remembered: still a script */
        EXPECT_INT(match.kind, FILES_SCRIPT);
    }
    mem_fail_nth(0);
    EXPECT(failures >= 4);
    files_free(files);
}
