/*
 * What proxies say of the client: Forwarded (RFC 7239) or the X-Forwarded family. Each proxy
 * appends on the right, so only what stands right of the last untrusted hop was written by somebody
 * we trust; whatever a client put in front of it is never looked at.
 */
#include <arpa/inet.h>

#include "http/http_int.h"

/* One element of a Forwarded list, or one position of the X-Forwarded lists. */
struct hop {
    struct str address, proto, host;
};

struct walk {
    bool (*trusted)(void *ctx, struct str);
    void *ctx;
    struct hop chosen;
    uint32_t at;    /* index of the chosen hop */
    uint32_t count; /* hops seen */
    bool chosen_untrusted;
};

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80" without port and brackets;
 * STR_NONE when it is not an address ("unknown", "_hidden"). */
static struct str address_of(struct str s)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr any;
    if (s.n > 0 && s.p[0] == '[') {
        ptrdiff_t end = str_find(s, ']');
        if (end < 0 || ((size_t)end + 1 < s.n && s.p[end + 1] != ':'))
            return STR_NONE;
        s = (struct str){ s.p + 1, (size_t)end - 1 };
    } else {
        ptrdiff_t colon = str_find(s, ':');
        if (colon >= 0 && str_find(str_skip(s, (size_t)colon + 1), ':') < 0)
            s = str_take(s, (size_t)colon);
    }
    if (s.n == 0 || s.n >= sizeof text || memchr(s.p, 0, s.n) != NULL)
        return STR_NONE;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    bool ok = inet_pton(AF_INET, text, &any) == 1 || inet_pton(AF_INET6, text, &any) == 1;
    return ok ? s : STR_NONE;
}

/* The last hop that is not trusted wins; when all are trusted, the first. */
static void see_hop(struct walk *w, const struct hop *hop)
{
    bool untrusted = hop->address.p == NULL || !w->trusted(w->ctx, hop->address);
    if (untrusted || w->count == 0) {
        w->chosen = *hop;
        w->at = w->count;
        w->chosen_untrusted = untrusted;
    }
    w->count++;
}

static struct str proto_of(struct str s)
{
    if (str_eq_nocase(s, STR("https")))
        return STR("https");
    return str_eq_nocase(s, STR("http")) ? STR("http") : STR_NONE;
}

static struct str host_of(struct str s)
{
    struct str host;
    uint16_t port;
    return http_parse_authority(s, &host, &port) ? s : STR_NONE;
}

/* Cuts at the first `c` outside quotes; a quote that never ends is an ordinary byte. */
static struct str cut_unquoted(struct str *rest, char c)
{
    for (size_t i = 0; i < rest->n; i++) {
        if (rest->p[i] == '"') {
            ptrdiff_t end = str_find(str_skip(*rest, i + 1), '"');
            if (end >= 0)
                i += (size_t)end + 1;
        } else if (rest->p[i] == c) {
            struct str head = str_take(*rest, i);
            *rest = str_skip(*rest, i + 1);
            return head;
        }
    }
    struct str all = *rest;
    *rest = STR_NONE;
    return all;
}

static struct str unquote(struct str s)
{
    if (s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"')
        return (struct str){ s.p + 1, s.n - 2 };
    return s;
}

static void parse_element(struct walk *w, struct str element)
{
    struct hop hop = { STR_NONE, STR_NONE, STR_NONE };
    while (element.p != NULL) {
        struct str value = cut_unquoted(&element, ';');
        struct str name = str_trim(str_cut(&value, '='));
        if (value.p == NULL)
            continue;
        value = unquote(str_trim(value));
        if (str_eq_nocase(name, STR("for")))
            hop.address = address_of(value);
        else if (str_eq_nocase(name, STR("proto")))
            hop.proto = proto_of(value);
        else if (str_eq_nocase(name, STR("host")))
            hop.host = host_of(value);
    }
    see_hop(w, &hop);
}

static void walk_forwarded(struct walk *w, const struct http_request *r)
{
    for (uint32_t i = 0; i < r->n_headers; i++) {
        if (!str_eq_nocase(r->headers[i].name, STR("Forwarded")))
            continue;
        struct str list = r->headers[i].value;
        while (list.p != NULL) {
            struct str element = str_trim(cut_unquoted(&list, ','));
            if (element.n > 0)
                parse_element(w, element);
        }
    }
}

static void walk_x_forwarded_for(struct walk *w, const struct http_request *r)
{
    for (uint32_t i = 0; i < r->n_headers; i++) {
        if (!str_eq_nocase(r->headers[i].name, STR("X-Forwarded-For")))
            continue;
        struct str list = r->headers[i].value;
        while (list.p != NULL) {
            struct hop hop = { .address = str_trim(str_cut(&list, ',')) };
            if (hop.address.n == 0)
                continue;
            hop.address = address_of(hop.address);
            see_hop(w, &hop);
        }
    }
}

/* The value of a companion list (proto, host, port) for the chosen hop: the one in its place when
 * both lists are of one length, else the last, which our own proxy wrote. */
static struct str companion(const struct walk *w, const struct http_request *r, struct str name)
{
    struct str same = STR_NONE, last = STR_NONE;
    uint32_t count = 0;
    for (uint32_t i = 0; i < r->n_headers; i++) {
        if (!str_eq_nocase(r->headers[i].name, name))
            continue;
        struct str list = r->headers[i].value;
        while (list.p != NULL) {
            last = str_trim(str_cut(&list, ','));
            if (count++ == w->at)
                same = last;
        }
    }
    return count == w->count ? same : last;
}

void http_parse_forwarded(const struct http_request *r, bool (*trusted)(void *ctx, struct str),
                          void *ctx, struct http_forwarded *ret)
{
    struct walk w = { .trusted = trusted, .ctx = ctx };
    struct str host, port_text = STR_NONE;
    uint16_t port = 0;
    CHECK(trusted != NULL);
    if (http_find_header(r, STR("Forwarded")).p != NULL) {
        walk_forwarded(&w, r);
    } else {
        walk_x_forwarded_for(&w, r);
        w.chosen.proto = proto_of(companion(&w, r, STR("X-Forwarded-Proto")));
        w.chosen.host = host_of(companion(&w, r, STR("X-Forwarded-Host")));
        port_text = companion(&w, r, STR("X-Forwarded-Port"));
    }
    if (w.chosen.host.p == NULL || !http_parse_authority(w.chosen.host, &host, &port))
        port = 0;
    uint64_t number;
    if (port_text.n > 0 && str_to_u64(port_text, UINT16_MAX, &number))
        port = (uint16_t)number;
    *ret = (struct http_forwarded){ w.chosen.address, w.chosen.proto, w.chosen.host, port };
}
