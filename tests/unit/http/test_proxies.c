/* What proxies say: Forwarded, X-Forwarded-*, PROXY protocol. */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "feed.h"
#include "http/http.h"

/* 10.x and ::1 are our proxies. */
static bool trusted(void *ctx, struct str address)
{
    ++*(int *)ctx;
    return str_has_prefix(address, STR("10.")) || str_eq(address, STR("::1"));
}

static struct http_forwarded forwarded(const char *const *headers)
{
    static struct http_request r;
    struct http_forwarded f;
    int calls = 0;
    r.n_headers = 0;
    for (; headers[0]; headers += 2)
        r.headers[r.n_headers++] = (struct http_header){ test_guarded(str_from(headers[0])),
                                                         test_guarded(str_from(headers[1])) };
    http_parse_forwarded(&r, trusted, &calls, &f);
    return f;
}

#define FORWARDED(...) forwarded((const char *const[]){ __VA_ARGS__, NULL })
#define EXPECT_FORWARDED(f, a, p, h, n)       \
    do {                                      \
        struct http_forwarded got = (f);      \
        EXPECT_STR(got.address, str_from(a)); \
        EXPECT_STR(got.proto, str_from(p));   \
        EXPECT_STR(got.host, str_from(h));    \
        EXPECT_INT(got.port, n);              \
    } while (0)

TEST(x_forwarded_headers)
{
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "192.0.2.1"), "192.0.2.1", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "HTTPS",
                               "X-Forwarded-Host", "www.example:8443", "X-Forwarded-Port", "443"),
                     "192.0.2.1", "https", "www.example:8443", 443);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-Host", "www.example:8443"), NULL, NULL,
                     "www.example:8443", 8443);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "192.0.2.1:4711"), "192.0.2.1", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "2001:db8::1"), "2001:db8::1", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "[2001:db8::1]:80"), "2001:db8::1", NULL, NULL,
                     0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-Proto", "gopher", "X-Forwarded-Host", "a b",
                               "X-Forwarded-Port", "70000"),
                     NULL, NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", ""), NULL, NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Via", "x"), NULL, NULL, NULL, 0);
}

TEST(only_the_last_untrusted_hop_counts)
{
    /* What the client invented stands left and is never believed. */
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.1"), "192.0.2.1",
                     NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "6.6.6.6", "X-Forwarded-For", "192.0.2.1",
                               "X-Forwarded-For", "10.0.0.1,10.0.0.2"),
                     "192.0.2.1", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "10.6.6.6, 192.0.2.1"), "192.0.2.1", NULL, NULL,
                     0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "10.0.0.9, 10.0.0.1"), "10.0.0.9", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "192.0.2.1, unknown, 10.0.0.1"), NULL, NULL, NULL,
                     0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "192.0.2.1, <script>"), NULL, NULL, NULL, 0);
    /* One proto from our own proxy, two addresses. */
    EXPECT_FORWARDED(
        FORWARDED("X-Forwarded-For", "6.6.6.6, 192.0.2.1", "X-Forwarded-Proto", "https"),
        "192.0.2.1", "https", NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.1",
                               "X-Forwarded-Proto", "http, https, http"),
                     "192.0.2.1", "https", NULL, 0);
    EXPECT_FORWARDED(FORWARDED("X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "http, https"),
                     "192.0.2.1", "https", NULL, 0);
}

TEST(forwarded_header)
{
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=192.0.2.1;proto=https;host=a.example;by=10.0.0.1"),
                     "192.0.2.1", "https", "a.example", 0);
    EXPECT_FORWARDED(
        FORWARDED("Forwarded", "For=\"[2001:db8::1]:4711\" ; Proto=\"http\";host=\"a:81\""),
        "2001:db8::1", "http", "a:81", 81);
    EXPECT_FORWARDED(
        FORWARDED("Forwarded", "for=6.6.6.6;host=evil, for=192.0.2.1;host=a, for=10.0.0.1"),
        "192.0.2.1", NULL, "a", 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=6.6.6.6", "Forwarded", "for=192.0.2.1"),
                     "192.0.2.1", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=\"_hidden\";proto=https"), NULL, "https", NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=unknown"), NULL, NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=\"x,y;z\";proto=https, for=\"10.0.0.1\""), NULL,
                     "https", NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=192.0.2.1", "X-Forwarded-For", "6.6.6.6"),
                     "192.0.2.1", NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", "for=\"x", "Forwarded", "for=192.0.2.1"), "192.0.2.1",
                     NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", ",;=,=;,\"\",for"), NULL, NULL, NULL, 0);
    EXPECT_FORWARDED(FORWARDED("Forwarded", ""), NULL, NULL, NULL, 0);
}

static struct sockaddr_storage source, destination;
static bool local;

/* The answer, which must be the same however much of the input is there, once it is decided. */
static int proxy(struct str in)
{
    int whole = http_parse_proxy_protocol(feed(in), &source, &destination, &local);
    for (size_t n = 0; n < in.n; n++) {
        struct sockaddr_storage a, b;
        bool l;
        int rc = http_parse_proxy_protocol(feed(str_take(in, n)), &a, &b, &l);
        if (rc != 0 && rc != whole)
            test_fail(__FILE__, __LINE__, "%d after %zu bytes, %d whole: %.*s", rc, n, whole,
                      STR_ARG(in));
    }
    return whole;
}

static void expect_address(const struct sockaddr_storage *s, const char *want, int port)
{
    char text[INET6_ADDRSTRLEN];
    const struct sockaddr_in *in = (const void *)s;
    const struct sockaddr_in6 *in6 = (const void *)s;
    bool v4 = s->ss_family == AF_INET;
    inet_ntop(s->ss_family, v4 ? (const void *)&in->sin_addr : &in6->sin6_addr, text, sizeof text);
    EXPECT_STR(str_from(text), str_from(want));
    EXPECT_INT(ntohs(v4 ? in->sin_port : in6->sin6_port), port);
}

TEST(proxy_protocol_v1)
{
    struct str in = STR("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET /");
    EXPECT_INT(proxy(in), in.n - 5);
    EXPECT(!local);
    expect_address(&source, "192.0.2.1", 56324);
    expect_address(&destination, "198.51.100.2", 443);
    in = STR("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
    EXPECT_INT(proxy(in), in.n);
    expect_address(&source, "2001:db8::1", 1);
    expect_address(&destination, "::1", 65535);
    EXPECT_INT(proxy(STR("PROXY UNKNOWN\r\n")), 15);
    EXPECT(local);
    EXPECT_INT(proxy(STR("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n")), 35);
    EXPECT_INT(proxy(STR("PROXY TCP4 192.0.2.1")), 0);
    EXPECT_INT(proxy(STR("")), 0);
    static const struct str vectors[] = {
        STR("GET / HTTP/1.1\r\n"),
        STR("POST / HTTP/1.1\r\n"),
        STR("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        STR("PROXY\tTCP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n"),
        STR("PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n"),
        STR("PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n"),
        STR("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n"),
        STR("PROXY TCP4 ::1 ::1 1 2\r\n"),
        STR("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n"),
        STR("PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n"),
        STR("PROXY \r\n"),
        STR("PROXY TCP4\r\n"),
        STR("PROXY TCP4 1.1.1.1\0 2.2.2.2 1 2\r\n"),
        STR("PROXY UNKNOWNX\r\n"),
        STR("PROXY UNKNOWN 1111111111111111111111111111111111111111111111111111111111111111111111"
            "11111111111111111111111\r\n"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        if (proxy(vectors[i]) != -HTTP_BAD_PROXY_PROTOCOL)
            test_fail(__FILE__, __LINE__, "vector %zu: %.*s", i, STR_ARG(vectors[i]));
}

#define V2 "\r\n\r\n\0\r\nQUIT\n"
#define IPV4_PART "\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb"
#define IPV6_PART \
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\xff\xff"

TEST(proxy_protocol_v2)
{
    EXPECT_INT(proxy(STR(V2 "\x21\x11\0\x0c" IPV4_PART "GET /")), 28);
    EXPECT(!local);
    expect_address(&source, "192.0.2.1", 56324);
    expect_address(&destination, "198.51.100.2", 443);
    EXPECT_INT(proxy(STR(V2 "\x21\x21\0\x24" IPV6_PART)), 52);
    expect_address(&source, "2001:db8::1", 1);
    expect_address(&destination, "::1", 65535);
    EXPECT_INT(proxy(STR(V2 "\x21\x11\0\x13" IPV4_PART "\x01\0\x01x\x04\0\0")), 35); /* TLVs */
    EXPECT(!local);
    EXPECT_INT(proxy(STR(V2 "\x20\0\0\0")), 16);
    EXPECT(local);
    EXPECT_INT(proxy(STR(V2 "\x20\x11\0\x0c" IPV4_PART)), 28);
    EXPECT(local);
    EXPECT_INT(proxy(STR(V2 "\x21\0\0\x05"
                            "12345")),
               21); /* unspecified */
    EXPECT(local);
    static const struct str vectors[] = {
        STR(V2 "\x11\x11\0\x0c" IPV4_PART),
        STR(V2 "\x22\x11\0\x0c" IPV4_PART),
        STR(V2 "\x31\x11\0\x0c" IPV4_PART),
        STR(V2 "\x21\x12\0\x0c" IPV4_PART),
        STR(V2 "\x21\x41\0\x0c" IPV4_PART),
        STR(V2 "\x21\x11\0\x0b" IPV4_PART),
        STR(V2 "\x21\x21\0\x0c" IPV4_PART),
        STR(V2 "\x21\x11\0\x0d" IPV4_PART "\x01"),
        STR(V2 "\x21\x11\0\x0f" IPV4_PART "\x01\0\x01"),
        STR(V2 "\x21\x31\0\x0c" IPV4_PART),
        STR(V2 "\x21\x11\x10\x01" IPV4_PART),
        STR("\r\n\r\n\0\r\nQUIT\r"),
        STR("\r\n\r\nGET / HTTP"),
    };
    for (size_t i = 0; i < ARRAY_LENGTH(vectors); i++)
        if (proxy(vectors[i]) != -HTTP_BAD_PROXY_PROTOCOL)
            test_fail(__FILE__, __LINE__, "vector %zu: %d", i, proxy(vectors[i]));
}
