/*
 * Requests that the server makes to itself. For PROBE the first thread becomes a client of its own:
 * one end of a socket pair is accepted as a connection like any other, so parsing, routes, queue
 * and framing are those of real requests; the other end sends the request and reads the status. A
 * probe's connection sees the newest generation of each pool, also one that is not active yet:
 * backend_for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gateway/gateway_int.h"

enum { HEAD_BYTES = 4096, ANSWER_BYTES = 64 };

struct probe {
    struct loop_watch watch;
    struct loop *loop;
    uint32_t number;
    size_t n;
    char answer[ANSWER_BYTES]; /* the beginning is enough: the status line */
};

static void report(uint32_t number, int status, const char *text)
{
    struct control_message m;

    control_message_init(&m, CONTROL_PROBED);
    m.generation = number;
    m.status = status;
    control_message_set_text(&m, str_from(text));
    int r = control_send(CONTROL_SUPERVISOR_FD, &m, NULL, 0);
    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        log_error("cannot tell the supervisor of a probe: %s", strerror(-r));
}

/* "HTTP/1.1 200 " */
static int parse_status(const struct probe *p)
{
    enum { AT = 9, DIGITS = 3 };
    uint64_t status;
    struct str line = { p->answer, p->n };

    if (p->n < AT + DIGITS || !str_has_prefix(line, STR("HTTP/1.")) ||
        !str_to_u64(str_take(str_skip(line, AT), DIGITS), 999, &status))
        return 0;
    return (int)status;
}

static void on_answer(struct loop_watch *w, unsigned events)
{
    struct probe *p = CONTAINER_OF(w, struct probe, watch);
    char rest[4096];

    (void)events;
    for (;;) {
        ssize_t n = read(w->fd, rest, sizeof(rest));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0)
            break;
        size_t room = sizeof(p->answer) - p->n, take = (size_t)n < room ? (size_t)n : room;
        memcpy(p->answer + p->n, rest, take);
        p->n += take;
    }
    int status = parse_status(p);
    report(p->number, status, status ? "" : "the connection was closed without an answer");
    loop_watch_close(p->loop, w);
    mem_free(p);
}

static int send_request(int fd, struct str path)
{
    char head[HEAD_BYTES];
    int n = snprintf(head, sizeof(head),
                     "GET %.*s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: sapid-probe\r\n"
                     "Connection: close\r\n\r\n",
                     STR_ARG(path));

    if (n < 0 || (size_t)n >= sizeof(head))
        return -E2BIG;
    return send(fd, head, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -EAGAIN;
}

void probe_begin(struct gateway *g, const struct control_message *m)
{
    struct gateway_thread *t = &g->threads[0];
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        report(m->generation, 0, strerror(errno));
        return;
    }
    struct probe *p = mem_zalloc(sizeof(*p));
    p->loop = t->loop;
    p->number = m->generation;
    int r = send_request(ends[0], control_message_text(m));
    if (r == 0)
        r = loop_watch_add(t->loop, &p->watch, ends[0], LOOP_READ, on_answer);
    if (r < 0) {
        report(m->generation, 0, strerror(-r));
        close(ends[0]);
        close(ends[1]);
        mem_free(p);
        return;
    }
    conn_accept(t, ends[1], CONN_FROM_PROBE);
}

struct backend *backend_for(const struct conn *c, uint32_t pool)
{
    struct gateway_thread *t = c->thread;

    if (likely(!c->is_probe))
        return t->active[pool];
    for (struct list *it = t->backends.prev; it != &t->backends; it = it->prev) {
        struct backend *b = LIST_ENTRY(it, struct backend, link);
        if (b->pool->pool == pool && !b->draining && !b->pool->dead)
            return b;
    }
    return t->active[pool];
}
