/*
 * One FastCGI server as a thread sees it: where it is, whose turn it is, and whether it is in
 * service. A breaker in three states: in service; left out until a time that doubles with each
 * failure; half open, when that time has come and one request is out to see. No sockets here.
 */
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/mem.h"
#include "gateway/upstream_int.h"

enum { WAIT_OUT_MS = 1000 }; /* a break this short is waited for; a longer one is answered 503 */

static void resolve(struct upstream_server *s, const struct config_listen *address)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *found;
    char host[256], port[8];

    if (address->kind == CONFIG_LISTEN_UNIX) {
        struct sockaddr_un *un = (struct sockaddr_un *)&s->addresses[0].storage;
        CHECK(address->path.n < sizeof(un->sun_path));
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, address->path.p, address->path.n);
        s->addresses[0].bytes = sizeof(*un);
        s->n_addresses = 1;
        return;
    }
    snprintf(host, sizeof(host), "%.*s", STR_ARG(address->host));
    snprintf(port, sizeof(port), "%u", address->port);
    int r = getaddrinfo(host, port, &hints, &found);
    if (r != 0) {
        log_error("fastcgi server %s: %s", s->text, gai_strerror(r));
        return;
    }
    for (struct addrinfo *a = found; a && s->n_addresses < UPSTREAM_ADDRESSES_MAX; a = a->ai_next) {
        struct upstream_address *to = &s->addresses[s->n_addresses++];
        memcpy(&to->storage, a->ai_addr, a->ai_addrlen);
        to->bytes = a->ai_addrlen;
    }
    freeaddrinfo(found);
}

void upstream_server_init(struct upstream_server *s, const struct config_fastcgi_server *c,
                          uint32_t limit)
{
    list_init(&s->idle);
    s->weight = c->weight;
    s->limit = limit;
    s->text = mem_strndup(c->address.text);
    resolve(s, &c->address);
}

void upstream_server_fini(struct upstream_server *s)
{
    CHECK(list_empty(&s->idle) && s->occupied == 0);
    mem_free(s->text);
}

/* --- which server ---------------------------------------------------------------------------- */

static bool in_service(const struct upstream_server *s, uint64_t now)
{
    return s->out_until_ns == 0 || (!s->probing && now >= s->out_until_ns);
}

bool upstream_server_can_take(const struct upstream_server *s, uint64_t now)
{
    return in_service(s, now) && now >= s->full_until_ns &&
           (s->limit == 0 || s->occupied < s->limit);
}

/* Fewest running requests in relation to the weight; among equals the one that gets its turn. */
static bool has_less(const struct upstream_server *a, const struct upstream_server *b)
{
    uint64_t left = (uint64_t)a->occupied * b->weight, right = (uint64_t)b->occupied * a->weight;

    return left != right ? left < right : a->current > b->current;
}

/* Smooth weighted round robin: each turn everybody gains its weight, and the chosen pays the sum.
 */
struct upstream_server *upstream_server_pick(struct upstream *u, uint64_t now)
{
    struct upstream_server *best = NULL;
    int32_t sum = 0;

    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        struct upstream_server *s = &u->servers[i];
        if (!upstream_server_can_take(s, now))
            continue;
        s->current += (int32_t)s->weight;
        sum += (int32_t)s->weight;
        bool better = !best ||
                      (u->config.balance == CONFIG_BALANCE_LEAST ? has_less(s, best)
                                                                 : s->current > best->current);
        if (better)
            best = s;
    }
    if (best)
        best->current -= sum;
    return best;
}

bool upstream_worth_waiting(const struct upstream *u, uint64_t now)
{
    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        const struct upstream_server *s = &u->servers[i];
        if (in_service(s, now) || s->probing || s->out_until_ns - now <= WAIT_OUT_MS * NS_PER_MS)
            return true;
    }
    return false;
}

uint64_t upstream_next_return(const struct upstream *u, uint64_t now)
{
    uint64_t soon = UINT64_MAX;

    for (uint32_t i = 0; i < u->config.n_servers; i++) {
        const struct upstream_server *s = &u->servers[i];
        if (s->out_until_ns > now && s->out_until_ns < soon)
            soon = s->out_until_ns;
        if (s->full_until_ns > now && s->full_until_ns < soon)
            soon = s->full_until_ns;
    }
    return soon;
}

/* --- the breaker ------------------------------------------------------------------------------ */

void upstream_server_failed(struct upstream *u, struct upstream_server *s, const char *why)
{
    const struct config_fastcgi *c = &u->config;

    s->count.failed_connects++;
    if (s->n_addresses)
        s->at = (s->at + 1) % s->n_addresses;
    if (s->at != 0)
        return; /* a name with several addresses fails when all of them do */
    s->failures++;
    if (s->failures < c->max_fails && s->out_until_ns == 0)
        return;
    uint32_t over = s->failures < c->max_fails ? 0 : s->failures - c->max_fails;
    uint64_t pause_ms = c->backoff_ms << (over < 16 ? over : 16);
    if (pause_ms > c->max_backoff_ms)
        pause_ms = c->max_backoff_ms;
    if (s->out_until_ns == 0)
        s->count.ejected++;
    s->out_until_ns = loop_now_ns(u->thread->loop) + pause_ms * NS_PER_MS;
    log_warn("fastcgi server %s: %s; left out for %" PRIu64 " ms", s->text, why, pause_ms);
}

void upstream_server_works(struct upstream_server *s)
{
    if (s->out_until_ns)
        log_notice("fastcgi server %s is back", s->text);
    s->failures = 0;
    s->out_until_ns = 0;
    s->probing = false;
}
