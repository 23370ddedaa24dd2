/* Response heads: the verdict does not depend on the cuts, and what is accepted makes sense. */
#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct http_limits limits = { .headers_bytes = 2000, .headers_count = 20 };

static int parse(struct str in, size_t step, struct http_response *ret)
{
    struct http1_response_parser p = { .line = 0 };
    int rc = 0;

    for (size_t have = 0; rc == 0 && have < in.n;) {
        have = have + step < in.n ? have + step : in.n;
        rc = http1_parse_response(&p, str_take(in, have), &limits, ret);
    }
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct str in = { (const char *)data + 1, size - 1 };
    struct http_response whole = { .status = 0 }, pieces = { .status = 0 };
    int rc = parse(in, in.n + 1, &whole);

    CHECK(rc == parse(in, (size_t)data[0] + 1, &pieces));
    CHECK(rc <= (int)in.n && rc <= (int)limits.headers_bytes);
    if (rc <= 0)
        return 0;
    CHECK(rc >= 16 && in.p[rc - 1] == '\n' && in.p[rc - 2] == '\r');
    CHECK(whole.status >= 100 && whole.status <= 999 && whole.minor <= 1);
    CHECK(!whole.chunked || (whole.content_length == -1 && whole.minor == 1));
    CHECK(whole.status == pieces.status && whole.content_length == pieces.content_length &&
          whole.chunked == pieces.chunked && whole.keep_alive == pieces.keep_alive);
    return 0;
}
