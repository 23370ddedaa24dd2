/*
 * Database connections that are open when a worker script is frozen: worker.snapshot_sockets.
 *
 *   refuse  they stand against it, by name (rollback_refuse.c)
 *   sever   a dead socket takes the place of each. Clients that notice reconnect in every request
 *   reset   each worker has a connection of its own on the same descriptor, opened when it is
 *           forked by the same class with the same arguments, and put back to the session of the
 *           boot after every request that used it (src/php/db). What the client remembers of the
 *           connection is memory and goes back with it. A connection that cannot be put back ends
 *           its worker, whose successor opens another
 *
 * Which descriptor belongs to which object no extension tells. So every object that can be asked
 * for its arguments connects once more before the freeze: the new connection leads to the same peer
 * as one of the image's, and db_learn() must then find that peer to speak the object's protocol.
 * What no object or no protocol is found for is severed, and said.
 */
#include "php/engine/engine_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "ext/pdo/php_pdo_driver.h"
#include "php/db/db.h"

enum { FDS_MAX = 1024, LINKS_MAX = 16, RETRY_MS = 1000 };
static_assert(LINKS_MAX <= 32, "a bit each in struct live");

/* How an object connects. Ordinary memory, part of the image. */
struct recipe {
    enum db_protocol protocol;
    zend_class_entry *ce;
    char *dsn, *user, *password; /* PDO */
    char *host;                  /* Redis */
    zend_long port;
    zval auth;
};

/* A connection of the image. */
struct link {
    int fd;
    bool known; /* recipe and session are there: it is reset */
    struct recipe recipe;
    struct db_session session;
    char text[128]; /* for people */
};

static struct {
    struct link links[LINKS_MAX];
    uint32_t n;
    bool severed[FDS_MAX]; /* accepted by refusal_accept() */
} sockets;

/* Of this worker's own connections when they were put back last. Kept memory. */
static struct db_carried *carried;

/* --- descriptors ------------------------------------------------------------------------------ */

union address {
    struct sockaddr any;
    struct sockaddr_un un;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

static bool peer_of(int fd, union address *ret, socklen_t *ret_bytes)
{
    int type = 0;
    socklen_t n = sizeof(type);

    memset(ret, 0, sizeof(*ret));
    *ret_bytes = sizeof(*ret);
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM &&
           getpeername(fd, &ret->any, ret_bytes) == 0;
}

static bool same_peer(int a, int b)
{
    union address x, y;
    socklen_t nx, ny;

    return peer_of(a, &x, &nx) && peer_of(b, &y, &ny) && nx == ny && memcmp(&x, &y, nx) == 0;
}

/* Connected stream sockets that were opened since refusal_record(). */
static size_t list_connected(int *fds, size_t max)
{
    union address peer;
    socklen_t bytes;
    size_t n = 0;

    for (int fd = 3; fd < FDS_MAX && n < max; fd++)
        if (peer_of(fd, &peer, &bytes) && refusal_is_new(fd))
            fds[n++] = fd;
    return n;
}

/* --- connecting ------------------------------------------------------------------------------- */

/* Calls `name` of an object with up to five arguments; false: an exception, or no such method. */
static bool call(zend_object *o, const char *name, zval *ret, uint32_t n, zval *arguments)
{
    zval function, object;

    ZVAL_OBJ(&object, o);
    ZVAL_STRING(&function, name);
    int rc = call_user_function(NULL, &object, &function, ret, n, arguments);
    zval_ptr_dtor(&function);
    if (EG(exception)) {
        zend_clear_exception();
        return false;
    }
    return rc == SUCCESS;
}

static bool connect_pdo(const struct recipe *r, zval *object)
{
    zval arguments[3], ignored;

    if (object_init_ex(object, r->ce) != SUCCESS)
        return false;
    ZVAL_STRING(&arguments[0], r->dsn);
    if (r->user)
        ZVAL_STRING(&arguments[1], r->user);
    else
        ZVAL_NULL(&arguments[1]);
    if (r->password)
        ZVAL_STRING(&arguments[2], r->password);
    else
        ZVAL_NULL(&arguments[2]);
    ZVAL_UNDEF(&ignored);
    bool ok = call(Z_OBJ_P(object), "__construct", &ignored, 3, arguments);
    for (size_t i = 0; i < 3; i++)
        zval_ptr_dtor(&arguments[i]);
    zval_ptr_dtor(&ignored);
    return ok;
}

static bool connect_redis(const struct recipe *r, zval *object)
{
    zval arguments[2], answer;

    if (object_init_ex(object, r->ce) != SUCCESS)
        return false;
    ZVAL_UNDEF(&answer);
    bool ok = call(Z_OBJ_P(object), "__construct", &answer, 0, NULL);
    zval_ptr_dtor(&answer);
    ZVAL_STRING(&arguments[0], r->host);
    ZVAL_LONG(&arguments[1], r->port);
    ZVAL_FALSE(&answer);
    ok = ok && call(Z_OBJ_P(object), "connect", &answer, 2, arguments) && Z_TYPE(answer) == IS_TRUE;
    zval_ptr_dtor(&arguments[0]);
    if (ok && Z_TYPE(r->auth) != IS_NULL && Z_TYPE(r->auth) != IS_FALSE) {
        zval auth;
        ZVAL_COPY(&auth, &r->auth);
        ok = call(Z_OBJ_P(object), "auth", &answer, 1, &auth) && Z_TYPE(answer) == IS_TRUE;
        zval_ptr_dtor(&auth);
    }
    return ok;
}

/* A connection made as the object made its own; the descriptor is a duplicate of ours, so that the
 * object can be dropped without saying good-bye to the server. -1: could not connect. */
static int connect_again(const struct recipe *r)
{
    bool open[FDS_MAX];
    union address peer;
    socklen_t bytes;
    zval object;
    volatile int found = -1;
    volatile bool ok = false; /* a bailout may come */

    for (int fd = 3; fd < FDS_MAX; fd++)
        open[fd] = peer_of(fd, &peer, &bytes);
    ZVAL_UNDEF(&object);
    zend_try
    {
        ok = r->protocol == DB_REDIS ? connect_redis(r, &object) : connect_pdo(r, &object);
    }
    zend_end_try();
    for (int fd = 3; ok && fd < FDS_MAX && found < 0; fd++)
        if (!open[fd] && peer_of(fd, &peer, &bytes))
            found = fd;
    if (found < 0) {
        zval_ptr_dtor(&object);
        return -1;
    }
    int ours = fcntl(found, F_DUPFD_CLOEXEC, 3);
    /* What the object sends from now on, QUIT, goes nowhere. */
    if (ours < 0 || db_sever(found) < 0) {
        close(ours);
        ours = -1;
    }
    zval_ptr_dtor(&object);
    return ours;
}

/* --- objects ---------------------------------------------------------------------------------- */

static bool is_a(const zend_class_entry *ce, const char *name)
{
    for (; ce; ce = ce->parent)
        if (zend_string_equals_cstr(ce->name, name, strlen(name)))
            return true;
    return false;
}

/* The class of the extension itself: one of the application may want other arguments. */
static zend_class_entry *internal_class(zend_class_entry *ce)
{
    while (ce->type == ZEND_USER_CLASS && ce->parent)
        ce = ce->parent;
    return ce;
}

static bool pdo_recipe(zend_object *o, struct recipe *ret)
{
    const pdo_dbh_t *dbh = php_pdo_dbh_fetch_inner(o);

    if (!dbh || !dbh->driver || dbh->is_closed || dbh->is_persistent || !dbh->data_source)
        return false;
    if (strcmp(dbh->driver->driver_name, "mysql") == 0)
        ret->protocol = DB_MYSQL;
    else if (strcmp(dbh->driver->driver_name, "pgsql") == 0)
        ret->protocol = DB_PGSQL;
    else
        return false;
    ret->dsn = mem_printf("%s:%s", dbh->driver->driver_name, dbh->data_source);
    ret->user = dbh->username ? mem_strdup(dbh->username) : NULL;
    ret->password = dbh->password ? mem_strdup(dbh->password) : NULL;
    return true;
}

static bool redis_recipe(zend_object *o, struct recipe *ret)
{
    zval host, port;

    ZVAL_UNDEF(&host);
    ZVAL_UNDEF(&port);
    ZVAL_NULL(&ret->auth);
    bool ok = call(o, "getHost", &host, 0, NULL) && Z_TYPE(host) == IS_STRING &&
              call(o, "getPort", &port, 0, NULL) && Z_TYPE(port) == IS_LONG &&
              call(o, "getAuth", &ret->auth, 0, NULL);
    if (ok) {
        ret->protocol = DB_REDIS;
        ret->host = mem_strdup(Z_STRVAL(host));
        ret->port = Z_LVAL(port);
    }
    zval_ptr_dtor(&host);
    return ok;
}

static bool make_recipe(zend_object *o, struct recipe *ret)
{
    *ret = (struct recipe){ .ce = internal_class(o->ce) };
    if (is_a(o->ce, "PDO"))
        return pdo_recipe(o, ret);
    return is_a(o->ce, "Redis") && redis_recipe(o, ret);
}

/* --- at the freeze ---------------------------------------------------------------------------- */

static void describe(struct link *l)
{
    union address peer;
    socklen_t bytes;

    if (!peer_of(l->fd, &peer, &bytes))
        snprintf(l->text, sizeof(l->text), "descriptor %d", l->fd);
    else if (peer.any.sa_family == AF_INET || peer.any.sa_family == AF_INET6)
        snprintf(l->text, sizeof(l->text), "the connection to port %u",
                 ntohs(peer.any.sa_family == AF_INET ? peer.in.sin_port : peer.in6.sin6_port));
    else
        snprintf(l->text, sizeof(l->text), "the connection to %.100s",
                 bytes > sizeof(sa_family_t) ? peer.un.sun_path : "an unnamed socket");
}

/* Finds the link that a recipe belongs to, by connecting, and learns its session. */
static void try_recipe(const struct recipe *r)
{
    char why[DB_WHY_BYTES];
    int probe = connect_again(r);

    if (probe < 0) {
        log_warn("snapshot_sockets: a connection of class %s could not be made a second time",
                 ZSTR_VAL(r->ce->name));
        return;
    }
    for (uint32_t i = 0; i < sockets.n; i++) {
        struct link *l = &sockets.links[i];
        if (l->known || !same_peer(l->fd, probe))
            continue;
        int rc = db_learn(l->fd, r->protocol, &l->session, why);
        if (rc == 0) {
            l->known = true;
            l->recipe = *r;
            log_info("snapshot_sockets: %s (%s) is reset after every request", l->text,
                     db_protocol_name(r->protocol));
            break;
        }
        log_warn("snapshot_sockets: %s (%s) cannot be reset: %s", l->text,
                 db_protocol_name(r->protocol), why);
        (void)!db_sever(l->fd);
    }
    close(probe);
}

static void learn(void)
{
    uint32_t objects = EG(objects_store).top; /* not those made here */
    struct recipe r;

    for (uint32_t i = 1; i < objects; i++) {
        zend_object *o = EG(objects_store).object_buckets[i];
        if (IS_OBJ_VALID(o) && make_recipe(o, &r))
            try_recipe(&r);
    }
}

bool sockets_freeze(const struct engine_image *image, char *text, size_t size)
{
    int fds[LINKS_MAX + 1];
    size_t n;

    if (image->sockets == ENGINE_SOCKETS_REFUSE || !(n = list_connected(fds, ARRAY_LENGTH(fds))))
        return true;
    if (n > LINKS_MAX) {
        snprintf(text, size, "the worker script has more than %d connections open", LINKS_MAX);
        return false;
    }
    carried = snapshot_keep_alloc(LINKS_MAX * sizeof(*carried));
    if (!carried) {
        snprintf(text, size, "no kept memory for %zu connections", n);
        return false;
    }
    for (sockets.n = 0; sockets.n < n; sockets.n++) {
        sockets.links[sockets.n] = (struct link){ .fd = fds[sockets.n] };
        describe(&sockets.links[sockets.n]);
    }
    if (image->sockets == ENGINE_SOCKETS_RESET)
        learn();
    for (uint32_t i = 0; i < sockets.n; i++) {
        struct link *l = &sockets.links[i];
        int rc = l->known ? 0 : db_sever(l->fd);
        if (rc < 0) {
            snprintf(text, size, "%s cannot be severed: %s", l->text, strerror(-rc));
            return false;
        }
        if (!l->known)
            log_notice("snapshot_sockets: %s is severed; its client connects again in every "
                       "request, or fails",
                       l->text);
        sockets.severed[l->fd] = true;
    }
    return true;
}

bool sockets_accept(int fd)
{
    return fd >= 0 && fd < FDS_MAX && sockets.severed[fd];
}

/* --- in a worker ------------------------------------------------------------------------------ */

static int dead_socket(void)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    close(pair[1]);
    return pair[0];
}

void sockets_connect(void)
{
    char why[DB_WHY_BYTES] = "it cannot connect";

    for (uint32_t i = 0; i < sockets.n; i++) {
        const struct link *l = &sockets.links[i];
        if (!l->known)
            continue;
        int fd = connect_again(&l->recipe);
        bool usable = fd >= 0 && db_reset(fd, &l->session, why) == 0;
        if (!usable) {
            log_warn("snapshot_sockets: this worker goes without %s: %s", l->text, why);
            live->disconnected_ns = clock_monotonic_ns();
            live->disconnected |= UINT32_C(1) << i;
            if (fd >= 0)
                close(fd);
            fd = dead_socket();
        }
        /* Never the frozen process's own connection, which all workers would share. */
        if (fd < 0 || snapshot_replace_fd(l->fd, fd) < 0) {
            log_error("%s cannot be replaced by one of this worker: %s", l->text, strerror(errno));
            _exit(ENGINE_EXIT_UNHEALTHY);
        }
        close(fd);
        carried[i] = db_carried(l->fd);
    }
}

/* A reset costs an exchange with the database; what the request has not used needs none. */
static int put_back(const struct link *l, struct db_carried *before, char *why)
{
    struct db_carried now = db_carried(l->fd);

    /* A rollback would open it again from its spare, with whatever session it was left in. */
    if (!now.socket || now.socket != before->socket) {
        snprintf(why, DB_WHY_BYTES, "the request closed it");
        return -EPIPE;
    }
    if (db_is_untouched(before, &now))
        return 0;
    int rc = db_reset(l->fd, &l->session, why);
    *before = db_carried(l->fd);
    return rc;
}

bool sockets_reset(void)
{
    char why[DB_WHY_BYTES];

    for (uint32_t i = 0; i < sockets.n; i++) {
        const struct link *l = &sockets.links[i];
        if (!l->known || (live->disconnected & UINT32_C(1) << i) ||
            put_back(l, &carried[i], why) == 0)
            continue;
        log_info("snapshot_sockets: %s cannot be put back and is opened anew: %s", l->text, why);
        return false;
    }
    return !live->disconnected ||
           clock_monotonic_ns() - live->disconnected_ns < RETRY_MS * NS_PER_MS;
}
