/*
 * Who may speak for a client: [server] trusted_proxies, a list of addresses, CIDR blocks and "unix"
 * (peers on a unix socket, which have no address). IPv4 is kept as IPv4-mapped IPv6, so that there
 * is one compare.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#include "base/mem.h"
#include "gateway/gateway_int.h"

struct block {
    uint8_t bytes[16];
    uint32_t bits;
};

struct trust {
    bool unix_peers;
    uint32_t n;
    struct block blocks[];
};

static bool parse_address(struct str text, uint8_t out[16], bool *ret_v4)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    char z[ADDRESS_TEXT_MAX];

    if (text.n == 0 || text.n >= sizeof(z))
        return false;
    memcpy(z, text.p, text.n);
    z[text.n] = '\0';
    *ret_v4 = inet_pton(AF_INET, z, out + 12) == 1;
    if (*ret_v4) {
        memcpy(out, mapped, sizeof(mapped));
        return true;
    }
    return inet_pton(AF_INET6, z, out) == 1;
}

static bool parse_block(struct str text, struct block *ret)
{
    struct str address = str_cut(&text, '/');
    uint64_t bits;
    bool v4;

    if (!parse_address(address, ret->bytes, &v4))
        return false;
    ret->bits = 128;
    if (!text.p)
        return true;
    if (!str_to_u64(text, v4 ? 32 : 128, &bits))
        return false;
    ret->bits = (uint32_t)bits + (v4 ? 96 : 0);
    return true;
}

int trust_new(const struct config_strings *list, struct trust **ret, struct str *ret_bad)
{
    struct trust *t = mem_zalloc(sizeof(*t) + list->n * sizeof(t->blocks[0]));

    for (uint32_t i = 0; i < list->n; i++) {
        if (str_eq(list->v[i], STR("unix"))) {
            t->unix_peers = true;
        } else if (parse_block(list->v[i], &t->blocks[t->n])) {
            t->n++;
        } else {
            *ret_bad = list->v[i];
            mem_free(t);
            return -EINVAL;
        }
    }
    *ret = t;
    return 0;
}

void trust_free(struct trust *t)
{
    mem_free(t);
}

static bool in_block(const uint8_t a[16], const struct block *b)
{
    uint32_t whole = b->bits / 8, rest = b->bits % 8;

    if (memcmp(a, b->bytes, whole) != 0)
        return false;
    return rest == 0 || ((a[whole] ^ b->bytes[whole]) >> (8 - rest)) == 0;
}

bool trust_has(const struct trust *t, struct str text)
{
    uint8_t a[16];
    bool v4;

    if (text.n == 0)
        return t->unix_peers;
    if (t->n == 0 || !parse_address(text, a, &v4))
        return false;
    for (uint32_t i = 0; i < t->n; i++)
        if (in_block(a, &t->blocks[i]))
            return true;
    return false;
}

void address_from_sockaddr(struct address *a, const struct sockaddr_storage *ss)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)ss;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)ss;

    *a = (struct address){ 0 };
    if (ss->ss_family == AF_INET) {
        inet_ntop(AF_INET, &v4->sin_addr, a->text, sizeof(a->text));
        a->port = ntohs(v4->sin_port);
    } else if (ss->ss_family == AF_INET6) {
        /* Clients that came over IPv4 to a dual-stack listener are named as IPv4. */
        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
            inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], a->text, sizeof(a->text));
        else
            inet_ntop(AF_INET6, &v6->sin6_addr, a->text, sizeof(a->text));
        a->port = ntohs(v6->sin6_port);
    }
    a->length = (uint8_t)strlen(a->text);
}
