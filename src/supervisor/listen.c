/*
 * The listening sockets. They are bound once, before any role runs, stay open in the supervisor as
 * long as the configuration names them, and every gateway process gets copies: so a gateway's death
 * loses no client that is still waiting in the backlog. A reload, a new program and a service
 * manager's sockets go the same way: what is open already is used again (`given`), the rest is
 * opened. TCP ports open only when the gateway accepts, so
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
#include <fcntl.h>
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
    const struct listeners *given;
    bool *used; /* of `given` */
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

/* A listener of the entry that is being opened. */
static struct listener *add_own(const struct opening *o, uint32_t thread, int fd)
{
    struct listener *l = add_listener(o->out);

    l->fd = fd;
    l->index = o->index;
    l->thread = thread;
    l->text = mem_strndup(o->listen->text);
    return l;
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

static bool same_host(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET)
        return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
    const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;
    return memcmp(&x->sin6_addr, &y->sin6_addr, sizeof(x->sin6_addr)) == 0 &&
           x->sin6_scope_id == y->sin6_scope_id;
}

/* For port 0 only the entry that was written so: the kernel's choice stays. */
static bool fits(const struct opening *o, const struct listener *l, const struct sockaddr *a)
{
    struct sockaddr_in6 bound = { 0 };
    socklen_t n = sizeof(bound);

    if (getsockname(l->fd, (struct sockaddr *)&bound, &n) < 0 ||
        !same_host((const struct sockaddr *)&bound, a))
        return false;
    if (o->listen->port == 0)
        return str_eq(str_from(l->text), o->listen->text);
    return ntohs(bound.sin6_port) == o->listen->port;
}

/* Adds copies of all open sockets of this address. A socket that a thread less than before would
 * leave over must not close, because its backlog would be lost: another thread gets it too. True:
 * there were some. */
static bool use_given(struct opening *o, const struct sockaddr *a)
{
    uint32_t found = 0, first = o->out->n;

    for (uint32_t i = 0; o->given && i < o->given->n; i++) {
        const struct listener *old = &o->given->v[i];
        if (o->used[i] || old->path || !fits(o, old, a) || o->out->n == CONTROL_LISTENERS_MAX)
            continue;
        o->used[i] = true;
        struct listener *l = add_own(o, found++ % o->threads, fcntl(old->fd, F_DUPFD_CLOEXEC, 3));
        snprintf(l->url, sizeof(l->url), "%s", old->url);
        l->foreign = old->foreign;
    }
    for (uint32_t t = found; found && t < o->threads && o->out->n < CONTROL_LISTENERS_MAX; t++) {
        int fd = fcntl(o->out->v[first + t % found].fd, F_DUPFD_CLOEXEC, 3);
        struct listener *l = add_own(o, t, fd);
        snprintf(l->url, sizeof(l->url), "%s", o->out->v[first].url);
    }
    return found > 0;
}

/* One address, one socket per gateway thread. */
static int open_address(struct opening *o, struct sockaddr *a, socklen_t n)
{
    bool several = o->threads > 1;

    if (use_given(o, a))
        return 0;
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
        put_url(add_own(o, t, fd), a, get_port(fd));
    }
    return 0;
}

/* A service manager's one socket for all of IPv6 and IPv4. */
static bool has_dual_stack(const struct opening *o)
{
    struct sockaddr_in6 any = { .sin6_family = AF_INET6 };

    for (uint32_t i = 0; o->given && i < o->given->n; i++) {
        int only = 1;
        socklen_t n = sizeof(only);
        if (!o->given->v[i].path && fits(o, &o->given->v[i], (struct sockaddr *)&any) &&
            getsockopt(o->given->v[i].fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &n) == 0 && !only)
            return true;
    }
    return false;
}

/* "*": all of IPv4, and all of IPv6 where the machine has it. */
static int open_any(struct opening *o)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(o->listen->port) };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(o->listen->port) };

    if (has_dual_stack(o) && use_given(o, (struct sockaddr *)&v6))
        return 0;
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

/* Threads share a unix socket: these cannot be spread. Takes `fd`. */
static int share_unix(struct opening *o, int fd, const char *path, const struct stat *st)
{
    int r = fd < 0 ? -errno : 0;

    for (uint32_t t = 0; t < o->threads && r == 0; t++) {
        struct listener *l = add_own(o, t, t == 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 3));
        snprintf(l->url, sizeof(l->url), "unix:%s", path);
        if (l->fd < 0)
            r = -errno;
        if (t > 0)
            continue;
        l->path = mem_strdup(path);
        l->dev = st->st_dev;
        l->ino = st->st_ino;
    }
    return r;
}

/* 1: used; 0: it is not there; or -errno. */
static int use_given_unix(struct opening *o, const char *path)
{
    struct stat st = { 0 };

    for (uint32_t i = 0; o->given && i < o->given->n; i++) {
        const struct listener *old = &o->given->v[i];
        if (!old->path || strcmp(old->path, path) != 0)
            continue;
        o->used[i] = true;
        uint32_t at = o->out->n;
        st.st_dev = old->dev;
        st.st_ino = old->ino;
        int r = share_unix(o, fcntl(old->fd, F_DUPFD_CLOEXEC, 3), path, &st);
        if (r < 0)
            return r;
        o->out->v[at].borrowed = true;
        o->out->v[at].foreign = old->foreign;
        return 1;
    }
    return 0;
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
    r = use_given_unix(o, a.sun_path);
    if (r != 0)
        return r > 0 ? 0 : refuse(o, r);
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
    r = share_unix(o, fd, a.sun_path, &st);
    return r < 0 ? refuse(o, r) : 0;
}

/* --------------------------------------------------------------------------------------------- */

int listeners_open(const struct config_server *s, uint32_t threads, const struct listeners *given,
                   struct listeners *ret, char *message, size_t message_size)
{
    struct opening o = { .out = ret,
                         .threads = threads,
                         .given = given,
                         .used = mem_zalloc(given && given->n ? given->n : 1),
                         .message = message,
                         .message_size = message_size };
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
    mem_free(o.used);
    for (uint32_t i = 0; i < ret->n && r == 0; i++)
        if (ret->v[i].fd < 0) {
            r = -EMFILE;
            snprintf(message, message_size, "cannot copy listening sockets: %s", strerror(EMFILE));
        }
    if (r < 0)
        listeners_close(ret);
    return r;
}

int listeners_adopt(struct listeners *l, int fd, const char *text, bool foreign)
{
    struct sockaddr_storage a = { 0 };
    socklen_t n = sizeof(a), on_bytes = sizeof(int);
    int listening = 0;
    struct stat st = { 0 };

    if (getsockname(fd, (struct sockaddr *)&a, &n) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &listening, &on_bytes) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    if (listening != SOCK_STREAM || l->n == CONTROL_LISTENERS_MAX)
        return -EPROTOTYPE;
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a;
    if (a.ss_family != AF_UNIX && a.ss_family != AF_INET && a.ss_family != AF_INET6)
        return -EAFNOSUPPORT;
    if (a.ss_family == AF_UNIX && (un->sun_path[0] != '/' || lstat(un->sun_path, &st) < 0))
        return -EADDRNOTAVAIL;
    struct listener *one = add_listener(l);
    one->fd = fd;
    one->borrowed = true;
    one->foreign = foreign;
    one->text = mem_strdup(text);
    if (a.ss_family == AF_UNIX) {
        one->path = mem_strdup(un->sun_path);
        one->dev = st.st_dev;
        one->ino = st.st_ino;
        snprintf(one->url, sizeof(one->url), "unix:%.*s", (int)sizeof(un->sun_path), un->sun_path);
    } else {
        put_url(one, (struct sockaddr *)&a, get_port(fd));
    }
    return 0;
}

void listeners_own(struct listeners *l, struct listeners *before)
{
    for (uint32_t i = 0; i < l->n; i++) {
        struct listener *one = &l->v[i];
        if (!one->path)
            continue;
        for (uint32_t j = 0; before && j < before->n; j++)
            if (before->v[j].path && strcmp(before->v[j].path, one->path) == 0)
                before->v[j].borrowed = true;
        one->borrowed = one->foreign;
    }
}

void listeners_disown(struct listeners *l)
{
    for (uint32_t i = 0; i < l->n; i++)
        l->v[i].borrowed = true;
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
        if (one->path && !one->borrowed && lstat(one->path, &st) == 0 && st.st_dev == one->dev &&
            st.st_ino == one->ino)
            unlink(one->path);
        mem_free(one->path);
        mem_free(one->text);
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
