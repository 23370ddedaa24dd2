/*
 * The listening sockets. They are bound once, before any role runs, stay open in the supervisor for
 * the life of the server, and every gateway process gets copies: so a gateway's death loses no
 * client that is still waiting in the backlog. TCP ports open only when the gateway accepts, so
 * that an open port means a server that answers; a unix socket listens from the start, because one
 * that does not looks stale.
 *
 * With several gateway threads each has a socket of its own (SO_REUSEPORT), so that the kernel
 * spreads the connections. SO_REUSEPORT would also let a second server of the same user bind the
 * port in silence, hence the probe without it first.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "supervisor/supervisor_int.h"

enum { BACKLOG = 4096 };

struct opening {
    struct listeners *out;
    uint32_t index, threads;
    const struct config_listen *listen;
    uint16_t port; /* what the kernel chose for port 0, for the further sockets of this entry */
    char *message;
    size_t message_size;
};

static struct listener *add_listener(struct listeners *l)
{
    CHECK(l->n < CONTROL_LISTENERS_MAX);
    l->v = mem_realloc(l->v, (l->n + 1) * sizeof(*l->v));
    struct listener *one = &l->v[l->n++];
    memset(one, 0, sizeof(*one));
    one->fd = -1;
    return one;
}

/* --- TCP ------------------------------------------------------------------------------------- */

static void set_port(struct sockaddr *a, uint16_t port)
{
    if (a->sa_family == AF_INET6)
        ((struct sockaddr_in6 *)(void *)a)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)(void *)a)->sin_port = htons(port);
}

static uint16_t get_port(int fd)
{
    struct sockaddr_in6 a = { 0 }; /* or sockaddr_in, which has its port at the same place */
    socklen_t n = sizeof(a);

    static_assert(offsetof(struct sockaddr_in6, sin6_port) ==
                      offsetof(struct sockaddr_in, sin_port),
                  "port of both families");
    if (getsockname(fd, (struct sockaddr *)&a, &n) < 0)
        return 0;
    return ntohs(a.sin6_port);
}

static void put_url(struct listener *l, const struct sockaddr *a, uint16_t port)
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (a->sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, host,
                  sizeof(host));
        snprintf(l->url, sizeof(l->url), "http://[%s]:%u", host, port);
    } else {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, host,
                  sizeof(host));
        snprintf(l->url, sizeof(l->url), "http://%s:%u", host, port);
    }
}

/* Bound socket or -errno. A port that somebody listens on is refused here already. */
static int open_tcp(const struct sockaddr *a, socklen_t n, bool reuse_port)
{
    int on = 1, e;
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0) ||
        (a->sa_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
        bind(fd, a, n) < 0) {
        e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

static int refuse(const struct opening *o, int error)
{
    const char *hint = "";

    if (error == -EADDRINUSE)
        hint = "; another program listens there: `ss -ltnp` shows which; stop it or choose another "
               "address with --listen";
    else if (error == -EACCES && o->listen->port < 1024)
        hint =
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE: choose one above, such as 8080";
    else if (error == -E2BIG)
        hint = "; addresses times gateway threads must be at most 256";
    else if (error == -EADDRNOTAVAIL)
        hint = "; no interface of this machine has that address: `ip address` lists them";
    snprintf(o->message, o->message_size, "cannot listen on %.*s: %s%s", STR_ARG(o->listen->text),
             strerror(-error), hint);
    return error;
}

/* One address, one socket per gateway thread. */
static int open_address(struct opening *o, struct sockaddr *a, socklen_t n)
{
    bool several = o->threads > 1;

    if (o->port)
        set_port(a, o->port);
    if (several) { /* see the head of this file */
        int probe = open_tcp(a, n, false);
        if (probe < 0)
            return probe;
        o->port = get_port(probe);
        set_port(a, o->port);
        close(probe);
    }
    if (o->out->n + o->threads > CONTROL_LISTENERS_MAX)
        return -E2BIG;
    for (uint32_t t = 0; t < o->threads; t++) {
        int fd = open_tcp(a, n, several);
        if (fd < 0)
            return fd;
        if (!o->port)
            o->port = get_port(fd);
        struct listener *l = add_listener(o->out);
        l->fd = fd;
        l->index = o->index;
        l->thread = t;
        put_url(l, a, get_port(fd));
    }
    return 0;
}

/* "*": all of IPv4, and all of IPv6 where the machine has it. */
static int open_any(struct opening *o)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(o->listen->port) };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(o->listen->port) };
    int r = open_address(o, (struct sockaddr *)&v4, sizeof(v4));

    if (r < 0)
        return refuse(o, r);
    r = open_address(o, (struct sockaddr *)&v6, sizeof(v6));
    if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL)
        return 0;
    return r < 0 ? refuse(o, r) : 0;
}

static int open_host(struct opening *o)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    char port[8];
    char *host = mem_strndup(o->listen->host);
    int r;

    snprintf(port, sizeof(port), "%u", o->listen->port);
    int e = getaddrinfo(host, port, &hints, &found);
    mem_free(host);
    if (e) {
        snprintf(o->message, o->message_size,
                 "cannot listen on %.*s: the host is not an address or a "
                 "name this machine knows (%s)",
                 STR_ARG(o->listen->text), gai_strerror(e));
        return -EINVAL;
    }
    uint32_t before = o->out->n;
    r = 0;
    for (struct addrinfo *a = found; a && r == 0; a = a->ai_next) {
        r = open_address(o, a->ai_addr, a->ai_addrlen);
        /* "localhost" names ::1 also where IPv6 is switched off */
        if ((r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) && (a->ai_next || o->out->n > before))
            r = 0;
    }
    freeaddrinfo(found);
    if (r == 0 && o->out->n == before)
        r = -EADDRNOTAVAIL;
    return r < 0 ? refuse(o, r) : 0;
}

/* --- unix ------------------------------------------------------------------------------------ */

/* A socket file without a listener is what a killed server left behind: it may go. */
static int remove_stale(const struct opening *o, const struct sockaddr_un *a)
{
    struct stat st;
    int r = 0;

    if (lstat(a->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(o->message, o->message_size,
                 "cannot listen on %.*s: the path exists and is not a socket; remove it or choose "
                 "another one",
                 STR_ARG(o->listen->text));
        return -EEXIST;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 || errno == EAGAIN) {
        snprintf(o->message, o->message_size,
                 "cannot listen on %.*s: another program listens there; stop it or choose another "
                 "path",
                 STR_ARG(o->listen->text));
        r = -EADDRINUSE;
    } else if (errno != ECONNREFUSED || unlink(a->sun_path) < 0) {
        r = -errno;
    }
    close(fd);
    return r;
}

static int open_unix(struct opening *o)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct stat st;
    int fd = -1, r;

    if (o->listen->path.n == 0 || o->listen->path.n >= sizeof(a.sun_path)) {
        snprintf(o->message, o->message_size,
                 "cannot listen on %.*s: a socket path has 1 to %zu bytes, this one %zu",
                 STR_ARG(o->listen->text), sizeof(a.sun_path) - 1, o->listen->path.n);
        return -EINVAL;
    }
    if (o->out->n + o->threads > CONTROL_LISTENERS_MAX)
        return refuse(o, -E2BIG);
    memcpy(a.sun_path, o->listen->path.p, o->listen->path.n);
    o->message[0] = '\0';
    r = remove_stale(o, &a);
    if (r < 0)
        return o->message[0] ? r : refuse(o, r);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
        r = -errno;
        fd_close(&fd);
        return refuse(o, r);
    }
    /* Anybody who can reach the path may connect, as with a TCP port; a folder's mode is the lock.
     */
    if (chmod(a.sun_path, 0666) < 0 || lstat(a.sun_path, &st) < 0 || listen(fd, BACKLOG) < 0) {
        r = -errno;
        close(fd);
        unlink(a.sun_path);
        return refuse(o, r);
    }
    for (uint32_t t = 0; t < o->threads; t++) {
        struct listener *l = add_listener(o->out);
        l->fd = t == 0 ? fd : dup(fd); /* threads share it: unix sockets cannot be spread */
        l->index = o->index;
        l->thread = t;
        snprintf(l->url, sizeof(l->url), "unix:%s", a.sun_path);
        if (t == 0) {
            l->path = mem_strdup(a.sun_path);
            l->dev = st.st_dev;
            l->ino = st.st_ino;
        } else if (l->fd < 0) {
            return refuse(o, -errno);
        }
    }
    return 0;
}

/* --------------------------------------------------------------------------------------------- */

int listeners_open(const struct config_server *s, uint32_t threads, struct listeners *ret,
                   char *message, size_t message_size)
{
    struct opening o = {
        .out = ret, .threads = threads, .message = message, .message_size = message_size
    };
    int r = 0;

    *ret = (struct listeners){ NULL, 0 };
    for (uint32_t i = 0; i < s->n_listen && r == 0; i++) {
        o.index = i;
        o.listen = &s->listen[i];
        o.port = 0;
        if (o.listen->kind == CONFIG_LISTEN_UNIX)
            r = open_unix(&o);
        else if (str_eq(o.listen->host, STR("*")) || o.listen->host.n == 0)
            r = open_any(&o);
        else
            r = open_host(&o);
    }
    if (r < 0)
        listeners_close(ret);
    return r;
}

int listeners_listen(struct listeners *l, char *message, size_t message_size)
{
    for (uint32_t i = 0; i < l->n; i++) {
        if (listen(l->v[i].fd, BACKLOG) < 0) {
            snprintf(message, message_size, "%s: %s%s", l->v[i].url, strerror(errno),
                     errno == EADDRINUSE ? "; another program began to listen there meanwhile"
                                         : "");
            return -errno;
        }
    }
    return 0;
}

void listeners_close(struct listeners *l)
{
    struct stat st;

    for (uint32_t i = 0; i < l->n; i++) {
        struct listener *one = &l->v[i];
        /* only if it is still our socket: a newer server may have taken the path over */
        if (one->path && lstat(one->path, &st) == 0 && st.st_dev == one->dev &&
            st.st_ino == one->ino)
            unlink(one->path);
        mem_free(one->path);
        fd_close(&one->fd);
    }
    mem_free(l->v);
    *l = (struct listeners){ NULL, 0 };
}

char *listeners_urls(const struct listeners *l)
{
    char *text = mem_strdup("");

    for (uint32_t i = 0; i < l->n; i++) {
        if (l->v[i].thread != 0)
            continue;
        char *longer = mem_printf("%s%s%s", text, text[0] ? ", " : "", l->v[i].url);
        mem_free(text);
        text = longer;
    }
    return text;
}
