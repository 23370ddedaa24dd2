/* Variables of queries and cookies: found within the text, compared as they are decoded. */
#include <string.h>

#include "php/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses the rules, the second the length of the key, which follows. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size - 2 < data[1])
        return 0;
    const char *text = (const char *)data + 2;
    struct str key = { text, data[1] };
    struct params p = { .text = { text + data[1], size - 2 - data[1] },
                        .separators = data[0] & 1   ? ";"
                                      : data[0] & 2 ? "&;"
                                                    : "&",
                        .cookies = data[0] & 1,
                        .max = data[0] >> 2 };
    char decoded[4096];

    struct param one = params_find(&p, key);
    if (one.kind != PARAM_ABSENT)
        CHECK(!params_is_empty(&p));
    if (one.kind != PARAM_TEXT || one.raw.n > sizeof(decoded))
        return 0;
    CHECK(one.raw.n == 0 || (one.raw.p > p.text.p && one.raw.p + one.raw.n <= p.text.p + p.text.n));
    struct str value = params_decode(&p, one.raw, decoded);
    CHECK(value.n <= one.raw.n);
    CHECK(params_value_is(&p, one.raw, value));
    if (value.n)
        CHECK(!params_value_is(&p, one.raw, str_take(value, value.n - 1)));
    return 0;
}
