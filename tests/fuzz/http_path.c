/* Paths: what comes out is absolute, without empty and dot segments, and stays so when it goes in
 * again. */
#include <stdlib.h>

#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_normal(struct str path)
{
    CHECK(path.n > 0 && path.p[0] == '/' && memchr(path.p, '\0', path.n) == NULL);
    struct str rest = str_skip(path, 1);
    while (rest.p != NULL) {
        struct str segment = str_cut(&rest, '/');
        CHECK(segment.n > 0 || rest.p == NULL); /* empty only behind the last slash */
        CHECK(!str_eq(segment, STR(".")) && !str_eq(segment, STR("..")));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *out = malloc(size + 1), *again = malloc(size + 1);
    int n = http_normalize_path((struct str){ (const char *)data, size }, out);
    if (n >= 0) {
        struct str path = { out, (size_t)n };
        CHECK(path.n <= size && out[n] == '\0');
        check_normal(path);
        if (str_find(path, '%') < 0) {
            CHECK(http_normalize_path(path, again) == n);
            CHECK(memcmp(out, again, path.n) == 0);
        }
    }
    free(out);
    free(again);
    return 0;
}
