/*
 * What is the same for every protocol: one exchange with a deadline, the number that has to come
 * back, and the dead socket.
 */
#include "php/db/db.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "php/db/db_int.h"

enum {
    TIMEOUT_MS = 500,     /* of a whole exchange; what takes longer is closed */
    ANSWER_MAX = 4 << 20, /* all session variables are 40 KB */
    STEP = 16 << 10,
};

const char *db_protocol_name(enum db_protocol p)
{
    switch (p) {
    case DB_MYSQL: return "MySQL";
    case DB_PGSQL: return "PostgreSQL";
    case DB_REDIS: return "Redis";
    case DB_UNKNOWN: break;
    }
    return "unknown protocol";
}

/* --- one exchange ----------------------------------------------------------------------------- */

void db_wire_init(struct db_wire *w, int fd, char *why)
{
    *w = (struct db_wire){ .fd = fd, .why = why };
    buf_init(&w->in, ANSWER_MAX);
    buf_init(&w->out, ANSWER_MAX);
    w->deadline_ns = clock_monotonic_ns() + TIMEOUT_MS * NS_PER_MS;
    why[0] = '\0';
}

void db_wire_fini(struct db_wire *w)
{
    buf_fini(&w->in);
    buf_fini(&w->out);
}

int db_fail(struct db_wire *w, int error, const char *fmt, ...)
{
    va_list ap;

    CHECK(error < 0);
    if (w->why[0])
        return error;
    va_start(ap, fmt);
    vsnprintf(w->why, DB_WHY_BYTES, fmt, ap);
    va_end(ap);
    for (char *c = w->why; *c; c++) /* it goes to a log, and may quote the peer */
        if (*c < ' ' || *c > '~')
            *c = '?';
    return error;
}

static int wait_for(struct db_wire *w, short events)
{
    struct pollfd p = { .fd = w->fd, .events = events };

    for (;;) {
        uint64_t now = clock_monotonic_ns();
        if (now >= w->deadline_ns)
            return db_fail(w, -ETIMEDOUT, "no answer within %d ms", TIMEOUT_MS);
        int rc = poll(&p, 1, (int)((w->deadline_ns - now) / NS_PER_MS) + 1);
        if (rc > 0)
            return 0;
        if (rc < 0 && errno != EINTR)
            return db_fail(w, -errno, "poll: %s", strerror(errno));
    }
}

int db_flush(struct db_wire *w)
{
    while (buf_length(&w->out)) {
        struct str left = buf_view(&w->out);
        ssize_t n = send(w->fd, left.p, left.n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            buf_consume(&w->out, (size_t)n);
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return db_fail(w, -errno, "cannot write: %s", strerror(errno));
        int rc = errno == EINTR ? 0 : wait_for(w, POLLOUT);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int db_want(struct db_wire *w, size_t n)
{
    while (buf_length(&w->in) < n) {
        int rc = buf_reserve(&w->in, STEP);
        if (rc < 0)
            return db_fail(w, rc, "an answer of more than %d MB", ANSWER_MAX >> 20);
        ssize_t got = recv(w->fd, buf_space(&w->in), buf_room(&w->in), MSG_DONTWAIT);
        if (got > 0) {
            buf_commit(&w->in, (size_t)got);
            continue;
        }
        if (got == 0)
            return db_fail(w, -EPIPE, "the server closed the connection");
        if (errno != EAGAIN && errno != EINTR)
            return db_fail(w, -errno, "cannot read: %s", strerror(errno));
        rc = errno == EINTR ? 0 : wait_for(w, POLLIN);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int db_end(struct db_wire *w)
{
    int rc = buf_length(&w->in) ? -EBUSY : db_idle(w->fd);

    return rc < 0 ? db_fail(w, -EPROTO, "more answers than questions") : 0;
}

int db_row_identity(const struct db_row *row, struct buf *ret)
{
    int rc = 0;

    for (size_t i = 1; i < row->n && rc == 0; i++)
        rc = row->field[i].p ? buf_printf(ret, "%zu:%.*s;", row->field[i].n, STR_ARG(row->field[i]))
                             : buf_append(ret, "-;", 2);
    return rc;
}

struct answer {
    struct str nonce;
    struct buf identity;
    bool ours;
};

static int note_answer(void *context, const struct db_row *row)
{
    struct answer *a = context;

    a->ours = row->n > 0 && str_eq(row->field[0], a->nonce);
    return db_row_identity(row, &a->identity);
}

int db_check_identity(struct db_wire *w, const struct db_session *s, struct str nonce,
                      db_read_rows *read_rows)
{
    struct answer a = { .nonce = nonce };

    buf_init(&a.identity, 0);
    int rc = read_rows(w, note_answer, &a);
    if (rc == 0 && !a.ours)
        rc = db_fail(w, -EPROTO, "an answer to another question");
    if (rc == 0 && !str_eq(buf_view(&a.identity), buf_view(&s->identity)))
        rc = db_fail(w, -EPROTO, "user, role or database is another one: %.*s",
                     STR_ARG(str_take(buf_view(&a.identity), 160)));
    buf_fini(&a.identity);
    return rc;
}

/* --- the session ------------------------------------------------------------------------------ */

int db_exchange(struct db_wire *w, const struct db_session *s)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char random[DB_NONCE_BYTES / 2];
    char nonce[DB_NONCE_BYTES];
    struct str request = buf_view(&s->request);

    CHECK(s->nonce_at + DB_NONCE_BYTES <= request.n);
    /* Not security: a number that no other answer on this connection contains. */
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return db_fail(w, -EIO, "no random number: %s", strerror(errno));
    for (size_t i = 0; i < sizeof(random); i++) {
        nonce[2 * i] = digits[random[i] >> 4];
        nonce[2 * i + 1] = digits[random[i] & 15];
    }
    int rc = buf_append(&w->out, request.p, request.n);
    if (rc < 0)
        return db_fail(w, rc, "no memory");
    memcpy(w->out.base + w->out.head + s->nonce_at, nonce, sizeof(nonce));
    rc = db_flush(w);
    if (rc < 0)
        return rc;
    struct str number = { nonce, sizeof(nonce) };
    switch (s->protocol) {
    case DB_MYSQL: rc = mysql_answers(w, s, number); break;
    case DB_PGSQL: rc = pgsql_answers(w, s, number); break;
    case DB_REDIS: rc = redis_answers(w, s, number); break;
    case DB_UNKNOWN: return db_fail(w, -EPROTO, "a session that was not learned");
    }
    return rc < 0 ? rc : db_end(w);
}

int db_learn(int fd, enum db_protocol p, struct db_session *ret, char *why)
{
    struct db_session s = { .protocol = p };
    struct db_wire w;
    int rc = db_idle(fd);

    db_wire_init(&w, fd, why);
    buf_init(&s.request, 0);
    buf_init(&s.identity, 0);
    if (rc < 0)
        rc = db_fail(&w, rc, rc == -EBUSY ? "an answer waits to be read" : "it is closed");
    else if (p == DB_MYSQL)
        rc = mysql_learn(&w, &s);
    else if (p == DB_PGSQL)
        rc = pgsql_learn(&w, &s);
    else if (p == DB_REDIS)
        rc = redis_learn(&w, &s);
    else
        rc = db_fail(&w, -EPROTO, "not a database that can be reset");
    db_wire_fini(&w);
    if (rc == 0)
        *ret = s;
    else
        db_session_fini(&s);
    return rc;
}

int db_reset(int fd, const struct db_session *s, char *why)
{
    struct db_wire w;
    int rc = db_idle(fd);

    db_wire_init(&w, fd, why);
    if (rc < 0)
        rc = db_fail(&w, rc,
                     rc == -EBUSY ? "the request did not read an answer to its end"
                                  : "it is closed");
    else
        rc = db_exchange(&w, s);
    db_wire_fini(&w);
    return rc;
}

void db_session_fini(struct db_session *s)
{
    buf_fini(&s->request);
    buf_fini(&s->identity);
    s->protocol = DB_UNKNOWN;
}

int db_idle(int fd)
{
    char c;
    ssize_t n;

    do {
        n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n > 0)
        return -EBUSY;
    return n < 0 && errno == EAGAIN ? 0 : -EPIPE;
}

struct db_carried db_carried(int fd)
{
    struct db_carried ret = { 0 };
    struct tcp_info tcp;
    socklen_t n = sizeof(tcp), n_socket = sizeof(ret.socket);
    enum { ESTABLISHED = 1 }; /* TCP_ESTABLISHED of a header that does not go with this one */

    /* counters since Linux 4.19 */
    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &ret.socket, &n_socket) < 0 ||
        getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &n) < 0 ||
        n < offsetof(struct tcp_info, tcpi_bytes_sent) + sizeof(tcp.tcpi_bytes_sent) ||
        tcp.tcpi_state != ESTABLISHED)
        return ret;
    ret.counted = true;
    ret.sent = tcp.tcpi_bytes_sent;
    ret.received = tcp.tcpi_bytes_received;
    return ret;
}

bool db_is_untouched(const struct db_carried *before, const struct db_carried *now)
{
    return before->counted && now->counted && before->socket == now->socket &&
           before->sent == now->sent && before->received == now->received;
}

int db_sever(int fd)
{
    int pair[2], rc = 0;

    /* A pair and not an unconnected socket: it reads as closed, which every client knows. */
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    int flags = fcntl(fd, F_GETFL);
    close(pair[1]);
    if (flags < 0 || fcntl(pair[0], F_SETFL, flags & O_NONBLOCK) < 0 ||
        dup3(pair[0], fd, O_CLOEXEC) < 0)
        rc = -errno;
    close(pair[0]);
    return rc;
}
