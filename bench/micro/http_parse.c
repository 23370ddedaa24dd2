/*
 * Micro benchmark of the request parser: nanoseconds per request head, best of several rounds (the
 * machine's neighbours only ever add time). Build and run: see bench/micro/meson.build.
 */
#include <stdio.h>

#include "base/clock.h"
#include "http/http.h"

static const struct http_limits limits = { 8192, 32768, 100, 64 << 20 };

static const struct {
    const char *name;
    struct str head;
} cases[] = {
    { "wrk", STR("GET /hello.php HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n") },
    { "browser, 8 headers",
      STR("GET /wp-admin/edit.php?post_type=page&orderby=date HTTP/1.1\r\n"
          "Host: www.example.org\r\n"
          "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0\r\n"
          "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
          "Accept-Language: en-US,en;q=0.5\r\n"
          "Accept-Encoding: gzip, deflate, br\r\n"
          "Connection: keep-alive\r\n"
          "Cookie: wordpress_test_cookie=WP+Cookie+check; wp-settings-1=mfold%3Do; "
          "wp-settings-time-1=1\r\n"
          "Upgrade-Insecure-Requests: 1\r\n\r\n") },
    { "chromium, 16 headers",
      STR("POST /index.php?rest_route=%2Fwp%2Fv2%2Fposts HTTP/1.1\r\n"
          "Host: www.example.org\r\nConnection: keep-alive\r\nContent-Length: 512\r\n"
          "sec-ch-ua: \"Chromium\";v=\"120\", \"Not(A:Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\n"
          "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
          "Chrome/120.0.0.0 Safari/537.36\r\n"
          "Content-Type: application/json\r\nX-WP-Nonce: 0123456789\r\n"
          "sec-ch-ua-platform: \"Linux\"\r\nAccept: */*\r\nOrigin: http://www.example.org\r\n"
          "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n"
          "Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\n\r\n") },
};

static double nanoseconds_per_call(struct str head)
{
    enum { CALLS = 200000, ROUNDS = 9 };
    static struct http_request request;
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = clock_monotonic_ns();
        for (int i = 0; i < CALLS; i++) {
            struct http1_parser parser = { 0 };
            CHECK(http1_parse_request(&parser, head, &limits, &request) == (int)head.n);
        }
        double ns = (double)(clock_monotonic_ns() - start) / CALLS;
        best = ns < best ? ns : best;
    }
    return best;
}

int main(void)
{
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++)
        printf("%-24s %5zu bytes %8.1f ns\n", cases[i].name, cases[i].head.n,
               nanoseconds_per_call(cases[i].head));
    return 0;
}
