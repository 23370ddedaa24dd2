/* PROXY protocol: once decided, more bytes change nothing; addresses are set exactly when not
 * local. */
#include "http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str in = { (const char *)data, size };
    struct sockaddr_storage source = { .ss_family = AF_UNSPEC }, destination = source;
    bool local = false;
    int rc = http_parse_proxy_protocol(in, &source, &destination, &local);
    CHECK(rc == 0 || rc == -HTTP_BAD_PROXY_PROTOCOL || (rc > 0 && (size_t)rc <= size));
    if (rc > 0) {
        CHECK((source.ss_family == AF_INET || source.ss_family == AF_INET6) == !local);
        CHECK(source.ss_family == destination.ss_family);
    }
    for (size_t n = 0; n < size && n < 300; n++) {
        int early = http_parse_proxy_protocol(str_take(in, n), &source, &destination, &local);
        CHECK(early == 0 || early == rc);
    }
    return 0;
}
