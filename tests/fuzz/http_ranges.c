/* Ranges, entity tags, codings and dates, which share their shape: a short field of a request. */
#include <errno.h>

#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ranges(struct str value, uint64_t representation_bytes)
{
    struct http_range ranges[16];
    int n = http_parse_ranges(value, representation_bytes, ranges, 16);
    CHECK(n == -ERANGE || (n >= 0 && n <= 16));
    for (int i = 0; i < n; i++) {
        CHECK(ranges[i].first <= ranges[i].last && ranges[i].last < representation_bytes);
        for (int j = 0; j < i; j++)
            CHECK(ranges[i].last + 1 < ranges[j].first || ranges[j].last + 1 < ranges[i].first);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct str value = { (const char *)data + 1, size - 1 };
    check_ranges(value, data[0]);
    check_ranges(value, UINT64_MAX);
    bool strong = http_etag_matches(value, STR("\"a\""), true);
    CHECK(!strong || http_etag_matches(value, STR("\"a\""), false));
    int quality = http_accepts_coding(value, STR("gzip"));
    CHECK(quality >= -1 && quality <= 1000);
    time_t date, again;
    char text[HTTP_DATE_BYTES];
    if (http_parse_date(value, &date) == 0) {
        http_format_date(date, text);
        CHECK(http_parse_date((struct str){ text, HTTP_DATE_BYTES - 1 }, &again) == 0);
        CHECK(again == date);
    }
    return 0;
}
