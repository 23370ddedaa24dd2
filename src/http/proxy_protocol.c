/*
 * PROXY protocol, versions 1 (text) and 2 (binary), after HAProxy's proxy-protocol.txt. Strict: a
 * connection that is to start with it and does not is closed, for guessing would let clients choose
 * their own address.
 */
#include <arpa/inet.h>
#include <netinet/in.h>

#include "http/http_int.h"

enum {
    V1_BYTES_MAX = 107, /* with CR LF */
    V2_HEADER_BYTES = 16,
    V2_BODY_BYTES_MAX = 4096, /* addresses and TLVs; what proxies send is far below */
};

static const char v2_signature[] = "\r\n\r\n\0\r\nQUIT\n";

static uint16_t read_u16(const char *p)
{
    return (uint16_t)((unsigned char)p[0] << 8 | (unsigned char)p[1]);
}

static void set_ipv4(struct sockaddr_storage *s, const void *address, uint16_t port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(port) };
    memcpy(&in.sin_addr, address, sizeof in.sin_addr);
    memset(s, 0, sizeof *s);
    memcpy(s, &in, sizeof in);
}

static void set_ipv6(struct sockaddr_storage *s, const void *address, uint16_t port)
{
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    memcpy(&in6.sin6_addr, address, sizeof in6.sin6_addr);
    memset(s, 0, sizeof *s);
    memcpy(s, &in6, sizeof in6);
}

/* Canonical decimal port: no leading zero. */
static bool read_port(struct str s, uint16_t *ret)
{
    uint64_t value;
    if (s.n == 0 || (s.n > 1 && s.p[0] == '0') || !str_to_u64(s, UINT16_MAX, &value))
        return false;
    *ret = (uint16_t)value;
    return true;
}

static bool read_address(struct str s, int family, struct in6_addr *ret)
{
    char text[INET6_ADDRSTRLEN];
    if (s.n == 0 || s.n >= sizeof text || memchr(s.p, 0, s.n) != NULL)
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    return inet_pton(family, text, ret) == 1;
}

/* "PROXY TCP4 source destination port port", without line end. */
static bool parse_v1_line(struct str line, struct sockaddr_storage *ret_source,
                          struct sockaddr_storage *ret_destination, bool *ret_local)
{
    struct in6_addr source, destination;
    uint16_t source_port, destination_port;
    line = str_skip(line, 6);
    struct str protocol = str_cut(&line, ' ');
    if (str_eq(protocol, STR("UNKNOWN"))) {
        *ret_local = true;
        return true;
    }
    bool v4 = str_eq(protocol, STR("TCP4"));
    if (!v4 && !str_eq(protocol, STR("TCP6")))
        return false;
    int family = v4 ? AF_INET : AF_INET6;
    if (!read_address(str_cut(&line, ' '), family, &source) ||
        !read_address(str_cut(&line, ' '), family, &destination) ||
        !read_port(str_cut(&line, ' '), &source_port) || !read_port(line, &destination_port))
        return false;
    (v4 ? set_ipv4 : set_ipv6)(ret_source, &source, source_port);
    (v4 ? set_ipv4 : set_ipv6)(ret_destination, &destination, destination_port);
    *ret_local = false;
    return true;
}

static int parse_v1(struct str in, struct sockaddr_storage *ret_source,
                    struct sockaddr_storage *ret_destination, bool *ret_local)
{
    struct str window = str_take(in, V1_BYTES_MAX);
    ptrdiff_t end = str_find(window, '\n');
    if (end < 0)
        return window.n == V1_BYTES_MAX ? -HTTP_BAD_PROXY_PROTOCOL : 0;
    if (end < 6 || in.p[end - 1] != '\r' ||
        !parse_v1_line(str_take(in, (size_t)end - 1), ret_source, ret_destination, ret_local))
        return -HTTP_BAD_PROXY_PROTOCOL;
    return (int)end + 1;
}

/* Type, length, value triples fill the rest exactly. */
static bool tlvs_are_whole(struct str s)
{
    while (s.n > 0) {
        if (s.n < 3 || read_u16(s.p + 1) > s.n - 3)
            return false;
        s = str_skip(s, 3u + read_u16(s.p + 1));
    }
    return true;
}

static int parse_v2(struct str in, struct sockaddr_storage *ret_source,
                    struct sockaddr_storage *ret_destination, bool *ret_local)
{
    if (in.n > 12 && (in.p[12] & 0xf0) != 0x20)
        return -HTTP_BAD_PROXY_PROTOCOL;
    if (in.n < V2_HEADER_BYTES)
        return 0;
    int command = in.p[12] & 0x0f, family = (unsigned char)in.p[13];
    size_t body_bytes = read_u16(in.p + 14), address_bytes = 0;
    if (command > 1 || body_bytes > V2_BODY_BYTES_MAX)
        return -HTTP_BAD_PROXY_PROTOCOL;
    if (in.n < V2_HEADER_BYTES + body_bytes)
        return 0;
    struct str body = { in.p + V2_HEADER_BYTES, body_bytes };
    int used = (int)(V2_HEADER_BYTES + body_bytes);
    if (command == 0) { /* LOCAL: the proxy's own health check; what follows is to be ignored */
        *ret_local = true;
        return used;
    }
    switch (family) {
    case 0x11: address_bytes = 12; break;  /* TCP over IPv4 */
    case 0x21: address_bytes = 36; break;  /* TCP over IPv6 */
    case 0x31: address_bytes = 216; break; /* unix stream: no address worth keeping */
    case 0x00: address_bytes = 0; break;   /* unspecified */
    default: return -HTTP_BAD_PROXY_PROTOCOL;
    }
    if (body.n < address_bytes || (family != 0 && !tlvs_are_whole(str_skip(body, address_bytes))))
        return -HTTP_BAD_PROXY_PROTOCOL;
    *ret_local = family == 0x31 || family == 0x00;
    if (family == 0x11) {
        set_ipv4(ret_source, body.p, read_u16(body.p + 8));
        set_ipv4(ret_destination, body.p + 4, read_u16(body.p + 10));
    } else if (family == 0x21) {
        set_ipv6(ret_source, body.p, read_u16(body.p + 32));
        set_ipv6(ret_destination, body.p + 16, read_u16(body.p + 34));
    }
    return used;
}

int http_parse_proxy_protocol(struct str in, struct sockaddr_storage *ret_source,
                              struct sockaddr_storage *ret_destination, bool *ret_local)
{
    struct str v1 = STR("PROXY "), v2 = { v2_signature, sizeof v2_signature - 1 };
    if (in.n == 0)
        return 0;
    struct str signature = in.p[0] == 'P' ? v1 : v2;
    size_t n = in.n < signature.n ? in.n : signature.n;
    if (memcmp(in.p, signature.p, n) != 0)
        return -HTTP_BAD_PROXY_PROTOCOL;
    if (in.n < signature.n)
        return 0;
    return (in.p[0] == 'P' ? parse_v1 : parse_v2)(in, ret_source, ret_destination, ret_local);
}
