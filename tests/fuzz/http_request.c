/* Request heads: any bytes in any pieces give one answer, and a good head keeps its promises. */
#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct http_request whole, pieces;

static int parse_in_steps(struct str in, size_t step, const struct http_limits *limits)
{
    struct http1_parser parser = { 0 };
    for (size_t n = 0;; n = n + step < in.n ? n + step : in.n) {
        int rc = http1_parse_request(&parser, str_take(in, n), limits, &pieces);
        if (rc != 0 || n == in.n)
            return rc;
    }
}

static void check_inside(struct str s, struct str in)
{
    CHECK(s.p != NULL && (s.n == 0 || (s.p >= in.p && s.p + s.n <= in.p + in.n)));
}

static void check_head(const struct http_request *r, struct str in,
                       const struct http_limits *limits)
{
    check_inside(r->method_text, in);
    check_inside(r->target, in);
    CHECK(http_is_token(r->method_text) && r->target.n > 0);
    CHECK(r->n_headers <= limits->headers_count && r->minor <= 1);
    CHECK(r->content_length <= (int64_t)limits->body_bytes);
    CHECK(!r->chunked || (r->content_length < 0 && r->minor == 1));
    CHECK(r->minor == 0 || r->host.n > 0);
    CHECK(r->form != HTTP_ORIGIN_FORM || r->path.p[0] == '/');
    for (uint32_t i = 0; i < r->n_headers; i++) {
        check_inside(r->headers[i].name, in);
        check_inside(r->headers[i].value, in);
        CHECK(http_is_token(r->headers[i].name) && http_is_field_value(r->headers[i].value));
        CHECK(str_find(r->headers[i].name, '_') < 0);
        CHECK(!str_eq_nocase(r->headers[i].name, STR("Proxy")));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct str in = { (const char *)data + 1, size - 1 };
    size_t step = (data[0] & 63) + 1u;
    struct http_limits limits = { 8192, 32768, 100, 1 << 20 };
    if (data[0] & 64)
        limits = (struct http_limits){ 40, 80, 4, 10 };
    struct http1_parser parser = { 0 };
    int rc = http1_parse_request(&parser, in, &limits, &whole);
    CHECKF(parse_in_steps(in, step, &limits) == rc, "step %zu", step);
    CHECK(rc <= (int)in.n);
    if (rc < 0)
        CHECK(http_error_status((enum http_error) - rc) >= 400);
    if (rc > 0) {
        check_head(&whole, in, &limits);
        check_head(&pieces, in, &limits);
        CHECK(whole.n_headers == pieces.n_headers && str_eq(whole.host, pieces.host));
        CHECK(str_eq(whole.path, pieces.path) && whole.keep_alive == pieces.keep_alive);
        CHECK(whole.content_length == pieces.content_length && whole.chunked == pieces.chunked);
    }
    return 0;
}
