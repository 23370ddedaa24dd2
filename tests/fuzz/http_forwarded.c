/* Forwarded and X-Forwarded-*: the input is a header section; answers point into it and are clean.
 */
#include <arpa/inet.h>

#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool trusted(void *ctx, struct str address)
{
    (void)ctx;
    CHECK(address.n > 0 && address.n < INET6_ADDRSTRLEN);
    return address.p[0] == '1';
}

static void check_address(struct str s)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    CHECK(s.n > 0 && s.n < sizeof text);
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    CHECK(inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct http_request r;
    struct http_forwarded f;
    struct str rest = { (const char *)data, size };
    r.n_headers = 0;
    while (rest.p != NULL && r.n_headers < 16) {
        struct str value = str_cut(&rest, '\n');
        struct str name = str_cut(&value, ':');
        if (value.p != NULL)
            r.headers[r.n_headers++] = (struct http_header){ name, str_trim(value) };
    }
    http_parse_forwarded(&r, trusted, NULL, &f);
    if (f.address.p)
        check_address(f.address);
    CHECK(f.proto.p == NULL || str_eq(f.proto, STR("http")) || str_eq(f.proto, STR("https")));
    CHECK(f.host.p == NULL || (f.host.n > 0 && http_is_field_value(f.host)));
    CHECK(f.host.p == NULL || (str_find(f.host, ' ') < 0 && str_find(f.host, '@') < 0));
    return 0;
}
