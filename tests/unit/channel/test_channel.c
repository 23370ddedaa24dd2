/*
 * channel: requests and responses through a real channel, gateway and workers in one process where that
 * is enough, in forked processes where sleeping, blocking or death matters. Rings of 64 bytes and two
 * slots are ordinary here, so that every boundary is hit.
 */
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "channel/channel.h"
#include "channel/channel_int.h"

struct bench {
    int fd, eventfds[CHANNEL_THREADS_MAX];
    struct channel *ch;
};

static struct bench bench_new(uint32_t workers, uint32_t threads, uint32_t slots, uint32_t ring_bytes)
{
    struct channel_geometry g = { workers, threads, slots, 2048, ring_bytes };
    struct bench b;

    EXPECT_INT(channel_create(&g, &b.fd), 0);
    EXPECT_INT(channel_map(b.fd, &b.ch), 0);
    for (uint32_t i = 0; i < threads; i++)
        b.eventfds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    channel_set_eventfds(b.ch, b.eventfds);
    return b;
}

static struct channel_worker *worker_new(struct bench *b, uint32_t index, uint32_t incarnation)
{
    struct channel_worker *w;
    channel_worker_grant(b->ch, index, incarnation);
    EXPECT_INT(channel_worker_attach(b->ch, index, incarnation, b->eventfds, &w), 0);
    return w;
}

static struct channel_request request(const char *target)
{
    return (struct channel_request){ .method = STR("GET"),
                                     .target = str_from(target),
                                     .protocol = STR("HTTP/1.1"),
                                     .script_name = STR("/index.php"),
                                     .script_filename = STR("/srv/index.php"),
                                     .request_id = STR("0123456789abcdef"),
                                     .content_length = -1 };
}

static struct channel_ticket push(struct bench *b, uint32_t thread, const char *target)
{
    struct channel_request r = request(target);
    struct channel_ticket t;
    EXPECT_INT(channel_push(b->ch, thread, &r, NULL, &t), 0);
    return t;
}

static int respond(struct channel_worker *w, enum channel_piece_type type, const char *text)
{
    struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };
    return channel_respond(w, type, type == CHANNEL_HEAD ? 200 : 0, &iov, text[0] ? 1 : 0);
}

TEST(request_arrives_as_it_was_sent)
{
    struct bench b = bench_new(1, 1, 2, 4096);
    struct channel_worker *w = worker_new(&b, 0, 7);
    struct channel_pair headers[] = { { STR("Accept"), STR("*/*") }, { STR("X-Empty"), STR("") } };
    struct channel_request r = request("/a?b=c"), got;
    struct channel_pair h;
    struct channel_ticket t;

    r.query = STR("b=c");
    r.path_info = STR("/p");
    r.host = STR("example.org:8080");
    r.remote_port = 4711;
    r.server_port = 8080;
    r.flags = CHANNEL_HTTPS;
    r.http_minor = 1;
    r.body_kind = CHANNEL_BODY_INLINE;
    r.body = STR("x=1");
    r.content_length = 3;
    r.received_ns = 12345;
    r.n_headers = 2;
    EXPECT_INT(channel_push(b.ch, 0, &r, headers, &t), 0);
    EXPECT_INT(channel_worker_next(w, 0, &got), 0);
    EXPECT_TEXT(got.method, "GET");
    EXPECT_TEXT(got.target, "/a?b=c");
    EXPECT_TEXT(got.protocol, "HTTP/1.1");
    EXPECT_TEXT(got.script_name, "/index.php");
    EXPECT_TEXT(got.script_filename, "/srv/index.php");
    EXPECT_TEXT(got.path_info, "/p");
    EXPECT_TEXT(got.query, "b=c");
    EXPECT_TEXT(got.host, "example.org:8080");
    EXPECT_TEXT(got.server_name, "");
    EXPECT_TEXT(got.request_id, "0123456789abcdef");
    EXPECT_TEXT(got.body, "x=1");
    EXPECT_INT(got.remote_port, 4711);
    EXPECT_INT(got.server_port, 8080);
    EXPECT_INT(got.flags, CHANNEL_HTTPS);
    EXPECT_INT(got.http_minor, 1);
    EXPECT_INT(got.content_length, 3);
    EXPECT_INT(got.received_ns, 12345);
    EXPECT_INT(got.n_headers, 2);
    EXPECT_INT(channel_request_header(w, 0, &h), 0);
    EXPECT_TEXT(h.name, "Accept");
    EXPECT_TEXT(h.value, "*/*");
    EXPECT_INT(channel_request_header(w, 1, &h), 0);
    EXPECT_TEXT(h.name, "X-Empty");
    EXPECT_TEXT(h.value, "");
    EXPECT_INT(channel_worker_ticket(w).slot, t.slot);
    EXPECT_INT(channel_worker_ticket(w).seq, t.seq);
}

TEST(response_round_trip)
{
    struct bench b = bench_new(2, 1, 4, 4096);
    struct channel_worker *w = worker_new(&b, 1, 0);
    struct channel_ticket t = push(&b, 0, "/");
    struct channel_request r;
    struct channel_piece p[8];
    uint32_t worker = 99;

    EXPECT_INT(channel_ticket_state(b.ch, t, &worker), CHANNEL_QUEUED);
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    EXPECT_INT(channel_ticket_state(b.ch, t, &worker), CHANNEL_RUNNING);
    EXPECT_INT(worker, 1);
    EXPECT_INT(respond(w, CHANNEL_HEAD, "A: b\r\n"), 0);
    EXPECT_INT(respond(w, CHANNEL_BODY, "hel"), 0);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1); /* nothing is visible before FLUSH, END or half a ring */
    EXPECT_INT(channel_peek(b.ch, 0, 1, p, 8), 0);
    EXPECT_INT(respond(w, CHANNEL_BODY, "lo"), 0);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    EXPECT_INT(channel_next_dirty(b.ch, 0), 1);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
    EXPECT_INT(channel_peek(b.ch, 0, 1, p, 8), 3);
    EXPECT_INT(p[0].type, CHANNEL_HEAD);
    EXPECT_INT(p[0].status, 200);
    EXPECT_INT(p[0].bytes, 6);
    EXPECT_INT(p[1].type, CHANNEL_BODY);
    EXPECT_STR(((struct str){ p[1].iov[0].iov_base, p[1].iov[0].iov_len }), STR("hello"));
    EXPECT_INT(p[2].type, CHANNEL_END);
    EXPECT_INT(p[2].ticket.slot, t.slot);
    channel_consume(b.ch, 0, 1, 3, 0);
    channel_release(b.ch, 0, t);
    EXPECT_INT(respond(w, CHANNEL_BODY, "late"), -ECANCELED);
    channel_worker_done(w);
    EXPECT_INT(channel_worker_next(w, 0, &r), -ETIMEDOUT);

    struct channel_counters c;
    channel_count(b.ch, &c);
    EXPECT_INT(c.pushed, 1);
    EXPECT_INT(c.claimed, 1);
    EXPECT_INT(c.done, 1);
    EXPECT_INT(c.queued + c.running + c.idle, 0);
}
