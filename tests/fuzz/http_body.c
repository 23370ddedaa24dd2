/* Bodies: what is delivered does not depend on the cuts, and never exceeds what was announced. */
#include <stdlib.h>

#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    int rc;
    size_t n, used;
    char *bytes;
};

static struct outcome run(const struct http_request *r, struct str in, size_t step, uint64_t max)
{
    struct outcome o = { .bytes = malloc(in.n + 1) };
    struct http1_body body;
    http1_body_init(&body, r, max);
    for (size_t have = 0;;) {
        struct str data, piece = str_skip(str_take(in, have), o.used);
        size_t used;
        o.rc = http1_body_next(&body, piece, &data, &used);
        if (o.rc < 0)
            return o;
        CHECK(used <= piece.n && data.n <= used);
        if (data.n)
            memcpy(o.bytes + o.n, data.p, data.n);
        o.n += data.n;
        o.used += used;
        CHECK(body.total == o.n && body.total <= max);
        if (o.rc == 1 || (used == piece.n && have == in.n))
            return o;
        CHECK(used == piece.n || used > 0);
        if (used == piece.n)
            have = have + step < in.n ? have + step : in.n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct str in = { (const char *)data + 2, size - 2 };
    struct http_request r = { .chunked = data[0] & 1,
                              .content_length = data[0] & 1 ? -1 : data[1] };
    uint64_t max = data[0] & 2 ? 300 : 1 << 20;
    struct outcome whole = run(&r, in, in.n + 1, max);
    struct outcome pieces = run(&r, in, (size_t)(data[0] >> 2) + 1, max);
    CHECK(whole.rc == pieces.rc);
    if (whole.rc >= 0) {
        CHECK(whole.n == pieces.n && whole.used == pieces.used);
        CHECK(memcmp(whole.bytes, pieces.bytes, whole.n) == 0);
        CHECK(r.chunked || whole.n <= (size_t)r.content_length);
    }
    free(whole.bytes);
    free(pieces.bytes);
    return 0;
}
