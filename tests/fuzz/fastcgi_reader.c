/* FastCGI answers: the events do not depend on the cuts, and no record gives more than it
 * announced. */
#include <stdlib.h>

#include "http/fastcgi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    int rc;
    bool ended;
    size_t used, n; /* n: bytes of `text`, STDOUT and STDERR marked apart */
    char *text;
    uint32_t app_status;
    uint8_t protocol_status;
};

static struct outcome run(struct str in, size_t step)
{
    struct outcome o = { .text = malloc(2 * in.n + 1) };
    struct fastcgi_reader reader = { 0 };

    CHECK(o.text);
    for (size_t have = 0;;) {
        struct str piece = str_skip(str_take(in, have), o.used);
        struct fastcgi_event e;
        size_t used;
        o.rc = fastcgi_read(&reader, piece, &e, &used);
        if (o.rc < 0)
            return o;
        CHECK(used <= piece.n && e.data.n <= used);
        CHECK(e.data.n == 0 || (e.data.p >= piece.p && e.data.p + e.data.n <= piece.p + used));
        o.used += used;
        for (size_t i = 0; i < e.data.n; i++) {
            o.text[o.n++] = e.type == FASTCGI_STDOUT ? 'o' : 'e';
            o.text[o.n++] = e.data.p[i];
        }
        if (e.type == FASTCGI_END) {
            o.ended = true;
            o.app_status = e.app_status;
            o.protocol_status = e.protocol_status;
            return o;
        }
        if (e.type != FASTCGI_MORE) {
            CHECK(e.data.n > 0);
            continue;
        }
        if (have == in.n)
            return o;
        have = have + step < in.n ? have + step : in.n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct str in = { (const char *)data + 1, size - 1 };
    struct outcome whole = run(in, in.n + 1), pieces = run(in, (size_t)data[0] + 1);

    CHECK(whole.rc == pieces.rc && whole.ended == pieces.ended);
    CHECK(whole.n == pieces.n && memcmp(whole.text, pieces.text, whole.n) == 0);
    if (whole.ended) {
        CHECK(whole.used == pieces.used);
        CHECK(whole.app_status == pieces.app_status);
        CHECK(whole.protocol_status == pieces.protocol_status);
    }
    free(whole.text);
    free(pieces.text);
    return 0;
}
