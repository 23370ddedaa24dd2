/*
 * `sapid doctor`, PHP-FPM: is every FastCGI server there that a pool sends requests to, and is a
 * child of it free to answer? It is asked for its limits (FCGI_GET_VALUES), which runs no script.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "tools/doctor_int.h"

enum { PATIENCE_MS = 2000, GET_VALUES = 9, GET_VALUES_RESULT = 10 };

static bool wait_for(int fd, short events)
{
    struct pollfd p = { .fd = fd, .events = events };

    return poll(&p, 1, PATIENCE_MS) == 1;
}

/* Descriptor or -errno. */
static int connect_to(const struct sockaddr *to, socklen_t bytes)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
    socklen_t n = sizeof(error);

    if (fd < 0)
        return -errno;
    if (connect(fd, to, bytes) == 0)
        return fd;
    error = errno;
    if (error == EINPROGRESS) {
        error = ETIMEDOUT;
        if (wait_for(fd, POLLOUT) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
            error = errno;
    }
    if (error == 0)
        return fd;
    close(fd);
    return -error;
}

static int connect_to_server(const struct config_listen *address)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *found;
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    char host[256], port[8];
    int fd = -EHOSTUNREACH;

    if (address->kind == CONFIG_LISTEN_UNIX) {
        CHECK(address->path.n < sizeof(un.sun_path));
        memcpy(un.sun_path, address->path.p, address->path.n);
        return connect_to((const struct sockaddr *)&un, sizeof(un));
    }
    snprintf(host, sizeof(host), "%.*s", STR_ARG(address->host));
    snprintf(port, sizeof(port), "%u", address->port);
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return -EHOSTUNREACH;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next)
        fd = connect_to(a->ai_addr, a->ai_addrlen);
    freeaddrinfo(found);
    return fd;
}

/* 1: it answers; 0: it does not; -EPROTO: what it says is not FastCGI. */
static int ask(int fd)
{
    static const char question[] = "\1\11\0\0\0\20\0\0\16\0FCGI_MAX_CONNS";
    unsigned char header[8];

    if (send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL) != sizeof(question) - 1 ||
        !wait_for(fd, POLLIN))
        return 0;
    ssize_t n = recv(fd, header, sizeof(header), 0);
    if (n <= 0)
        return 0;
    return n == sizeof(header) && header[0] == 1 && header[1] == GET_VALUES_RESULT ? 1 : -EPROTO;
}

/* True: it answers. */
static bool look_at_server(struct report *r, const struct config_listen *address,
                           enum severity without)
{
    int fd = connect_to_server(address);

    if (fd < 0) {
        report_say(r, without, "FastCGI server %.*s: %s", STR_ARG(address->text), strerror(-fd));
        if (fd == -ENOENT || fd == -ECONNREFUSED)
            report_remedy(r, "start it: systemctl start 'php*-fpm'; where it listens stands in its "
                             "pool file: grep -r ^listen /etc/php/*/fpm/pool.d");
        else if (fd == -EACCES)
            report_remedy(r, "server.user, or listen.owner, listen.group and listen.mode of the "
                             "PHP-FPM pool");
        return false;
    }
    int answer = ask(fd);
    close(fd);
    if (answer == 1)
        report_say(r, OK, "FastCGI server %.*s answers", STR_ARG(address->text));
    else if (answer == 0)
        report_say(r, WARNING,
                   "FastCGI server %.*s takes connections, but no child of it answered within %d "
                   "s: all of them are busy",
                   STR_ARG(address->text), PATIENCE_MS / 1000);
    else
        report_say(r, without, "what answers at %.*s does not speak FastCGI",
                   STR_ARG(address->text));
    return answer >= 0;
}

static bool route_needs(const struct config *c, const struct config_pool *pool)
{
    for (uint32_t i = 0; i < c->n_routes; i++) {
        const struct config_route *route = &c->routes[i];
        bool mine = route->pool.n ? str_eq(route->pool, pool->name) : pool == &c->pools[0];
        if (mine && route->backend == CONFIG_BACKEND_FASTCGI)
            return true;
    }
    return false;
}

void doctor_fpm(struct report *r, const struct config *c, const struct config_pool *pool)
{
    const struct config_fastcgi *group = pool->upstream;
    uint32_t answering = 0;

    if (!group)
        return;
    bool needed = pool->use_fpm || route_needs(c, pool);
    enum severity without = needed && group->n_servers == 1 ? PROBLEM : WARNING;
    for (uint32_t i = 0; i < group->n_servers; i++)
        answering += look_at_server(r, &group->servers[i].address, without);
    if (needed && group->n_servers > 1 && answering == 0)
        report_say(r, PROBLEM, "none of the %u FastCGI servers can be used", group->n_servers);
    for (uint32_t i = 0; i < group->n_servers; i++) {
        if (group->servers[i].connections)
            continue;
        report_say(r, NOTE,
                   "fastcgi.connections is not set: requests wait in PHP-FPM's backlog, not in "
                   "sapid's queue; set it to pm.max_children");
        break;
    }
}
