/*
 * channel: requests and responses through a real channel, gateway and workers in one process where
 * that is enough, in forked processes where sleeping, blocking or death matters. Rings of 64 bytes
 * and two slots are ordinary here, so that every boundary is hit.
 */
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
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
#include "channel/control.h"

struct bench {
    int fd, eventfds[CHANNEL_THREADS_MAX];
    struct channel *ch;
};

/* Handles live as long as the test's process; kept reachable, so that a leak checker sees real
 * leaks. */
static void *kept[1024];
static size_t n_kept;
static void keep(void *handle)
{
    CHECK(n_kept < ARRAY_LENGTH(kept));
    kept[n_kept++] = handle;
}

static struct bench bench_new(uint32_t workers, uint32_t threads, uint32_t slots,
                              uint32_t ring_bytes)
{
    struct channel_geometry g = { workers, threads, slots, 2048, ring_bytes };
    struct bench b;

    EXPECT_INT(channel_create(&g, &b.fd), 0);
    EXPECT_INT(channel_map(b.fd, &b.ch), 0);
    for (uint32_t i = 0; i < threads; i++)
        b.eventfds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    channel_set_eventfds(b.ch, b.eventfds);
    keep(b.ch);
    return b;
}

static struct channel_worker *worker_new(struct bench *b, uint32_t index, uint32_t incarnation)
{
    struct channel_worker *w;
    channel_worker_grant(b->ch, index, incarnation);
    EXPECT_INT(channel_worker_attach(b->ch, index, incarnation, b->eventfds, &w), 0);
    keep(w);
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

TEST(a_running_request_can_be_looked_at)
{
    static char buffer[CHANNEL_LOOK_BYTES];
    static char query[CHANNEL_LOOK_TEXT + 500];
    struct bench b = bench_new(1, 1, 2, 4096);
    struct channel_worker *w = worker_new(&b, 0, 7);
    struct channel_request r = request("/a?b=c"), got;
    struct channel_ticket t, other;

    memset(query, 'q', sizeof(query));
    r.query = (struct str){ query, sizeof(query) };
    r.route = STR("prefix /a");
    r.limit_ms = 1500;
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &t), 0);
    EXPECT(!channel_request_look(b.ch, t, buffer, &got)); /* queued */
    EXPECT_INT(channel_worker_next(w, 0, &got), 0);
    EXPECT_INT(got.limit_ms, 1500);
    EXPECT(channel_request_look(b.ch, t, buffer, &got));
    EXPECT_TEXT(got.method, "GET");
    EXPECT_TEXT(got.target, "/a?b=c");
    EXPECT_TEXT(got.route, "prefix /a");
    EXPECT_INT(got.query.n, CHANNEL_LOOK_TEXT); /* cut */
    EXPECT_INT(channel_request_limit_ms(b.ch, t), 1500);
    EXPECT(got.target.p >= buffer && got.target.p < buffer + sizeof(buffer));
    other = (struct channel_ticket){ t.slot, t.seq + 1 };
    EXPECT(!channel_request_look(b.ch, other, buffer, &got));
    other = (struct channel_ticket){ UINT32_MAX, 0 };
    EXPECT(!channel_request_look(b.ch, other, buffer, &got));
    EXPECT_INT(channel_request_limit_ms(b.ch, other), 0);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    channel_worker_done(w);
    EXPECT(!channel_request_look(b.ch, t, buffer, &got)); /* done */
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
    EXPECT_INT(channel_next_dirty(b.ch, 0),
               -1); /* nothing is visible before FLUSH, END or half a ring */
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

/* --- geometry and mapping --------------------------------------------------------------------- */
TEST(geometry_is_checked)
{
    static const struct channel_geometry bad[] = {
        { 0, 1, 2, 2048, 64 },   { 1025, 1, 2, 2048, 64 },  { 1, 0, 2, 2048, 64 },
        { 1, 17, 17, 2048, 64 }, { 1, 2, 1, 2048, 64 },     { 1, 1, 65536, 2048, 64 },
        { 1, 1, 2, 2047, 64 },   { 1, 1, 2, 64, 64 },       { 1, 1, 2, 2048, 32 },
        { 1, 1, 2, 2048, 96 },   { 1, 1, 2, 1u << 31, 64 }, { 1, 1, 2, 2048, 1u << 31 },
    };
    int fd;

    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++)
        EXPECT_INT(channel_create(&bad[i], &fd), -EINVAL);
    struct bench b = bench_new(3, 2, 5, 64);
    EXPECT_INT(channel_geometry(b.ch)->slots, 4); /* two each */
    EXPECT_INT(channel_geometry(b.ch)->workers, 3);
}

TEST(map_refuses_what_is_no_channel)
{
    struct channel_geometry g = { 1, 1, 2, 2048, 64 };
    struct channel *ch;
    int good, fd = memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    char page[4096];

    EXPECT_INT(channel_create(&g, &good), 0);
    EXPECT_INT(pread(good, page, sizeof(page), 0), sizeof(page));
    /* The same bytes, but not sealed: it could be cut short. */
    struct channel_geometry read_back;
    memcpy(&read_back, page + offsetof(struct shared_head, geometry), sizeof(read_back));
    EXPECT_INT(read_back.slot_bytes, 2048);
    EXPECT_INT(pwrite(fd, page, sizeof(page), 0), sizeof(page));
    EXPECT_INT(channel_map(fd, &ch), -EPROTO);

    uint32_t abi = CHANNEL_ABI + 1;
    EXPECT_INT(pwrite(good, &abi, 4, offsetof(struct shared_head, abi)), 4);
    EXPECT_INT(channel_map(good, &ch), -EPROTO);
    abi = CHANNEL_ABI;
    EXPECT_INT(pwrite(good, &abi, 4, offsetof(struct shared_head, abi)), 4);
    g.slots = 4;
    EXPECT_INT(pwrite(good, &g, sizeof(g), offsetof(struct shared_head, geometry)), sizeof(g));
    EXPECT_INT(channel_map(good, &ch), -EPROTO);
}

/* --- queue ------------------------------------------------------------------------------------ */
static void answer(struct channel_worker *w)
{
    EXPECT_INT(respond(w, CHANNEL_HEAD, "A: b\r\n"), 0);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    channel_worker_done(w);
}

/* Takes one whole answer; the ring must be large enough to hold it. */
static void take_answer(struct bench *b, uint32_t thread, uint32_t worker, struct channel_ticket t)
{
    struct channel_piece p[4];

    EXPECT_INT(channel_peek(b->ch, thread, worker, p, 2), 2);
    EXPECT_INT(p[0].type, CHANNEL_HEAD);
    EXPECT_INT(p[1].type, CHANNEL_END);
    EXPECT_INT(p[1].ticket.slot, t.slot);
    EXPECT_INT(p[1].ticket.seq, t.seq);
    channel_consume(b->ch, thread, worker, 2, 0);
    channel_release(b->ch, thread, t);
}

TEST(a_request_too_large_is_refused_and_the_room_is_exact)
{
    struct bench b = bench_new(1, 1, 2, 64);
    struct channel_request r = request("/"), got;
    struct channel_pair headers[] = { { STR("A"), STR("b") } };
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_ticket t;
    char body[4096];

    memset(body, 'x', sizeof(body));
    r.n_headers = 1;
    size_t room = channel_inline_room(b.ch, &r, headers);
    EXPECT(room > 1000 && room < 2048);
    r.body_kind = CHANNEL_BODY_INLINE;
    r.body = (struct str){ body, room + 1 };
    EXPECT_INT(channel_push(b.ch, 0, &r, headers, &t), -E2BIG);
    r.body.n = room;
    EXPECT_INT(channel_push(b.ch, 0, &r, headers, &t), 0);
    EXPECT_INT(channel_worker_next(w, 0, &got), 0);
    EXPECT_STR(got.body, r.body);
    r.target = (struct str){ body, sizeof(body) };
    EXPECT_INT(channel_inline_room(b.ch, &r, headers), 0);
    EXPECT_INT(channel_push(b.ch, 0, &r, headers, &t), -E2BIG);
}

TEST(a_full_queue_says_so_and_the_hottest_slot_comes_first)
{
    struct bench b = bench_new(1, 1, 3, 4096);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request r = request("/full"), got;
    struct channel_ticket t[3], more;
    struct channel_counters c;

    for (int i = 0; i < 3; i++)
        t[i] = push(&b, 0, "/");
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &more), -EAGAIN);
    channel_count(b.ch, &c);
    EXPECT_INT(c.queue_full, 1);
    EXPECT_INT(c.queued, 3);
    for (int i = 0; i < 3; i++) {
        EXPECT_INT(channel_worker_next(w, 0, &got), 0);
        EXPECT_INT(channel_worker_ticket(w).slot, t[i].slot);
        answer(w);
        take_answer(&b, 0, 0, t[i]);
    }
    more = push(&b, 0, "/");
    EXPECT_INT(more.slot, t[2].slot);
    EXPECT_INT(more.seq, t[2].seq + 1);
}

TEST(released_before_done_is_not_reused_before_done)
{
    struct bench b = bench_new(1, 1, 1, 4096);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request r = request("/"), got;
    struct channel_ticket t = push(&b, 0, "/"), more;

    EXPECT_INT(channel_worker_next(w, 0, &got), 0);
    EXPECT_INT(respond(w, CHANNEL_HEAD, ""), 0);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    take_answer(&b, 0, 0, t);
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &more), -EAGAIN); /* the script may still read it */
    EXPECT_TEXT(got.target, "/");
    channel_worker_done(w);
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &more), 0);
    EXPECT_INT(more.slot, t.slot);
}

TEST(canceled_requests_are_skipped)
{
    struct bench b = bench_new(1, 1, 4, 4096);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request got;
    struct channel_ticket t0 = push(&b, 0, "/0"), t1 = push(&b, 0, "/1"), t2 = push(&b, 0, "/2");

    EXPECT(channel_cancel(b.ch, 0, t0));
    EXPECT(!channel_cancel(b.ch, 0, t0));
    EXPECT(channel_cancel(b.ch, 0, t1));
    EXPECT_INT(channel_ticket_state(b.ch, t1, NULL), CHANNEL_FREE);
    EXPECT_INT(channel_worker_next(w, 0, &got), 0);
    EXPECT_TEXT(got.target, "/2");
    EXPECT(!channel_cancel(b.ch, 0, t2));
    EXPECT_INT(channel_worker_ticket(w).seq, t2.seq);
    answer(w);
    take_answer(&b, 0, 0, t2);
    EXPECT_INT(channel_worker_next(w, 0, &got), -ETIMEDOUT);
}

/* An old request waits at the head while clients come and go behind it: their dead cells must not
 * fill the queue, and the order must stay. */
TEST(dead_cells_behind_a_waiting_request_do_not_fill_the_queue)
{
    struct bench b = bench_new(1, 1, 4, 4096);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request got;

    push(&b, 0, "/first");
    for (int i = 0; i < 100; i++)
        EXPECT(channel_cancel(b.ch, 0, push(&b, 0, "/gone")));
    push(&b, 0, "/second");
    for (int i = 0; i < 100; i++)
        EXPECT(channel_cancel(b.ch, 0, push(&b, 0, "/gone")));
    push(&b, 0, "/third");
    static const char *const order[] = { "/first", "/second", "/third" };
    for (int i = 0; i < 3; i++) {
        EXPECT_INT(channel_worker_next(w, 0, &got), 0);
        EXPECT_STR(got.target, str_from(order[i]));
        answer(w);
    }
    EXPECT_INT(channel_worker_next(w, 0, &got), -ETIMEDOUT);
}

TEST(threads_take_turns_and_get_only_their_own)
{
    struct bench b = bench_new(1, 2, 8, 4096);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request got;
    struct channel_ticket a[3], c[3];
    struct channel_piece p[4];
    char seen[7] = "";

    for (int i = 0; i < 3; i++)
        a[i] = push(&b, 0, "/a");
    for (int i = 0; i < 3; i++)
        c[i] = push(&b, 1, "/c");
    for (int i = 0; i < 6; i++) {
        EXPECT_INT(channel_worker_next(w, 0, &got), 0);
        EXPECT_INT(channel_worker_thread(w), got.target.p[1] == 'c');
        seen[i] = got.target.p[1];
        answer(w);
    }
    EXPECT_STR(str_from(seen), STR("acacac"));
    for (int i = 0; i < 3; i++) {
        take_answer(&b, 0, 0, a[i]);
        take_answer(&b, 1, 0, c[i]);
    }
    EXPECT_INT(channel_peek(b.ch, 0, 0, p, 4), 0);
}

/* Laps of a small queue: cells are reused thousands of times. */
TEST(many_laps)
{
    struct bench b = bench_new(1, 1, 2, 256);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request got;

    for (int i = 0; i < 700000; i++) { /* more than 0xffff laps of 8 cells */
        struct channel_ticket t = push(&b, 0, "/");
        EXPECT_INT(channel_worker_next(w, 0, &got), 0);
        EXPECT_INT(channel_worker_ticket(w).seq, t.seq);
        answer(w);
        take_answer(&b, 0, 0, t);
    }
}

/* --- sleep and wake-up ------------------------------------------------------------------------ */
static uint32_t idle_now(struct bench *b)
{
    struct channel_counters c;
    channel_count(b->ch, &c);
    return c.idle;
}

/* Waits until a process sleeps in the kernel: it has nothing more to do. */
static void wait_until_asleep(pid_t pid)
{
    char path[64], text[256];

    snprintf(path, sizeof(path), "/proc/%d/wchan", pid);
    for (;;) {
        FILE *f = fopen(path, "r");
        size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
        text[n] = '\0';
        if (f)
            fclose(f);
        if (strstr(text, "futex"))
            return;
        sched_yield();
    }
}

static int exit_status(pid_t pid)
{
    int status;

    EXPECT_INT(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* A child that goes with the test, whatever becomes of that. */
static pid_t fork_child(void)
{
    pid_t parent = getpid(), pid = fork();

    EXPECT(pid >= 0);
    if (pid == 0)
        control_die_with_parent(parent, SIGKILL);
    return pid;
}

/* A worker process that answers until it is told to end; its status is the errno of the end. */
static pid_t spawn(struct bench *b, uint32_t index, uint32_t incarnation)
{
    pid_t pid = fork_child();
    struct channel_worker *w;
    struct channel_request r;

    if (pid)
        return pid;
    int e = channel_worker_attach(b->ch, index, incarnation, b->eventfds, &w);
    while (e == 0 && (e = channel_worker_next(w, UINT64_MAX, &r)) == 0) {
        if (str_eq(r.target, STR("/crash")))
            raise(SIGKILL);
        answer(w);
    }
    _exit(-e);
}

/* Sleeps as the gateway does, until an answer of that ticket was taken. Returns the worker. */
static uint32_t await_answer(struct bench *b, struct channel_ticket t)
{
    for (;;) {
        int worker = channel_next_dirty(b->ch, 0);
        if (worker >= 0) {
            take_answer(b, 0, (uint32_t)worker, t);
            return (uint32_t)worker;
        }
        uint64_t most;
        if (channel_gateway_sleep(b->ch, 0, &most))
            continue;
        EXPECT_INT((int64_t)most, -1);
        struct pollfd pfd = { b->eventfds[0], POLLIN, 0 };
        uint64_t n;
        EXPECT_INT(poll(&pfd, 1, 60000), 1);
        EXPECT_INT(read(pfd.fd, &n, sizeof(n)), sizeof(n));
        channel_gateway_awake(b->ch, 0);
    }
}

TEST(sleeping_workers_are_woken_lowest_first)
{
    struct bench b = bench_new(3, 1, 8, 4096);
    pid_t pid[3];

    for (uint32_t i = 0; i < 3; i++) {
        pid[i] = spawn(&b, i, 1);
        channel_worker_grant(b.ch, i, 1);
    }
    for (int i = 0; i < 3; i++)
        wait_until_asleep(pid[i]);
    EXPECT_INT(idle_now(&b), 3);
    for (int round = 0; round < 100; round++) {
        struct channel_ticket t = push(&b, 0, "/");
        EXPECT_INT(channel_wake(b.ch, 0), 1);
        EXPECT_INT(channel_wake(b.ch, 0), 0);
        EXPECT_INT(await_answer(&b, t), 0);
        wait_until_asleep(pid[0]);
    }
    push(&b, 0, "/");
    push(&b, 0, "/");
    EXPECT_INT(channel_wake(b.ch, 0), 2);
    channel_close(b.ch);
    for (int i = 0; i < 3; i++)
        EXPECT_INT(exit_status(pid[i]), ESHUTDOWN);
}

TEST(close_wakes_everybody)
{
    struct bench b = bench_new(3, 1, 4, 64);
    uint64_t n;

    pid_t idle = spawn(&b, 0, 1), waiting = spawn(&b, 1, 1);
    channel_worker_grant(b.ch, 0, 1);
    wait_until_asleep(idle);
    wait_until_asleep(waiting); /* for its grant */
    push(&b, 0, "/");
    pid_t blocked = fork_child();
    if (blocked == 0) { /* on its full ring */
        struct channel_worker *w = worker_new(&b, 2, 1);
        struct channel_request r;
        char much[1000];
        memset(much, 'x', sizeof(much));
        EXPECT_INT(channel_worker_next(w, 0, &r), 0);
        struct iovec iov = { much, sizeof(much) };
        EXPECT_INT(channel_respond(w, CHANNEL_BODY, 0, &iov, 1), -ESHUTDOWN);
        EXPECT_INT(channel_respond(w, CHANNEL_END, 0, NULL, 0), -ESHUTDOWN);
        channel_worker_done(w);
        _exit(-channel_worker_next(w, UINT64_MAX, &r));
    }
    wait_until_asleep(blocked);
    channel_close(b.ch);
    EXPECT(channel_is_closed(b.ch));
    EXPECT_INT(exit_status(idle), ESHUTDOWN);
    EXPECT_INT(exit_status(waiting), ESHUTDOWN);
    EXPECT_INT(exit_status(blocked), ESHUTDOWN);
    EXPECT_INT(read(b.eventfds[0], &n, sizeof(n)), sizeof(n));
    struct channel_request r = request("/");
    struct channel_ticket t;
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &t), -ESHUTDOWN);
    uint64_t most;
    EXPECT(channel_gateway_sleep(b.ch, 0, &most));
    while (channel_next_dirty(b.ch, 0) >= 0)
        ;
    EXPECT(!channel_gateway_sleep(b.ch, 0, &most)); /* nothing new: the thread may sleep */
}

static struct channel_worker *draining;
static void on_term(int signo)
{
    if (signo == SIGTERM)
        channel_worker_drain(draining);
}

TEST(signals_and_drain_end_the_sleep)
{
    struct bench b = bench_new(1, 1, 4, 4096);
    int says[2];
    char c;

    EXPECT_INT(pipe(says), 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        struct sigaction sa = { .sa_handler = on_term };
        struct channel_request r;
        sigaction(SIGTERM, &sa, NULL);
        sigaction(SIGUSR1, &sa, NULL);
        draining = worker_new(&b, 0, 1);
        EXPECT_INT(channel_worker_next(draining, 1000, &r), -ETIMEDOUT);
        EXPECT_INT(write(says[1], "u", 1), 1);
        EXPECT_INT(channel_worker_next(draining, UINT64_MAX, &r), -EINTR);
        EXPECT_INT(write(says[1], "t", 1), 1);
        EXPECT_INT(channel_worker_next(draining, UINT64_MAX, &r), -ESHUTDOWN);
        /* What is queued is still served. */
        push(&b, 0, "/");
        EXPECT_INT(channel_worker_next(draining, UINT64_MAX, &r), 0);
        answer(draining);
        EXPECT_INT(channel_worker_next(draining, UINT64_MAX, &r), -ESHUTDOWN);
        channel_worker_detach(draining);
        _exit(0);
    }
    EXPECT_INT(read(says[0], &c, 1), 1);
    wait_until_asleep(pid);
    struct channel_worker_info info;
    channel_worker_look(b.ch, 0, &info);
    EXPECT_INT(info.pid, pid);
    EXPECT_INT(info.state, CHANNEL_WORKER_IDLE);
    EXPECT_INT(info.incarnation, 1);
    kill(pid, SIGUSR1);
    EXPECT_INT(read(says[0], &c, 1), 1);
    wait_until_asleep(pid);
    kill(pid, SIGTERM);
    EXPECT_INT(exit_status(pid), 0);
    EXPECT_INT(idle_now(&b), 0);
}

/* --- several gateway threads ------------------------------------------------------------------ */
enum { THREADS = 3, REQUESTS = 20000, INFLIGHT = 7 };

struct gateway_thread {
    struct bench *b;
    uint32_t index, answered;
    pthread_t id;
};

static void *gateway_thread_main(void *arg)
{
    struct gateway_thread *t = arg;
    struct channel *ch = t->b->ch;
    uint32_t pushed = 0;

    while (t->answered < REQUESTS) {
        struct channel_piece p[8];
        uint64_t most, drain;
        uint32_t before = t->answered;
        int worker, n;
        struct channel_request r = request("/");
        struct channel_ticket ticket;
        /* Slots whose END has come and whose worker is not done yet are not free. */
        while (pushed < REQUESTS && channel_push(ch, t->index, &r, NULL, &ticket) == 0)
            pushed++;
        channel_wake(ch, t->index);
        while ((worker = channel_next_dirty(ch, t->index)) >= 0) {
            while ((n = channel_peek(ch, t->index, (uint32_t)worker, p, 8)) > 0) {
                channel_consume(ch, t->index, (uint32_t)worker, n, 0);
                for (int i = 0; i < n; i++) {
                    EXPECT_INT(p[i].ticket.slot / (channel_geometry(ch)->slots / THREADS),
                               t->index);
                    if (p[i].type == CHANNEL_END) {
                        channel_release(ch, t->index, p[i].ticket);
                        t->answered++;
                    }
                }
            }
            EXPECT_INT(n, 0);
        }
        if (t->answered > before || pushed == t->answered ||
            channel_gateway_sleep(ch, t->index, &most))
            continue;
        struct pollfd pfd = { t->b->eventfds[t->index], POLLIN, 0 };
        EXPECT_INT(poll(&pfd, 1, 60000), 1);
        EXPECT_INT(read(pfd.fd, &drain, sizeof(drain)), sizeof(drain));
        channel_gateway_awake(ch, t->index);
    }
    return NULL;
}

TEST_WITHIN(several_gateway_threads_share_the_workers, 300)
{
    struct bench b = bench_new(2, THREADS, THREADS * INFLIGHT, 128);
    struct gateway_thread threads[THREADS];
    struct channel_counters c;
    pid_t pid[2];

    for (uint32_t i = 0; i < 2; i++) {
        pid[i] = spawn(&b, i, 1);
        channel_worker_grant(b.ch, i, 1);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        threads[i] = (struct gateway_thread){ .b = &b, .index = i };
        EXPECT_INT(pthread_create(&threads[i].id, NULL, gateway_thread_main, &threads[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        EXPECT_INT(pthread_join(threads[i].id, NULL), 0);
        EXPECT_INT(threads[i].answered, REQUESTS);
    }
    channel_count(b.ch, &c);
    EXPECT_INT(c.pushed, THREADS * REQUESTS);
    EXPECT_INT(c.claimed, THREADS * REQUESTS);
    EXPECT_INT(c.dropped_pieces, 0);
    channel_close(b.ch);
    for (int i = 0; i < 2; i++)
        EXPECT_INT(exit_status(pid[i]), ESHUTDOWN);
}

/* --- rings ------------------------------------------------------------------------------------ */
struct answer_text {
    char head[512], body[4096];
    size_t head_bytes, body_bytes;
    unsigned heads_open; /* HEAD parts whose last part has not come */
    bool ended;
};

/* Takes what is there, `step` payload bytes at a time (0: whole pieces). */
static void drink(struct bench *b, uint32_t worker, size_t step, struct answer_text *to)
{
    struct channel_piece p[3];
    int n;

    while (!to->ended && (n = channel_peek(b->ch, 0, worker, p, 3)) != 0) {
        EXPECT(n > 0);
        size_t take = step && p[0].bytes > step ? step : p[0].bytes;
        size_t first =
            take < p[0].bytes && p[0].n_iov == 2 && take > p[0].iov[0].iov_len
                ? p[0].iov[0].iov_len
                : (p[0].n_iov && take > p[0].iov[0].iov_len ? p[0].iov[0].iov_len : take);
        char *into = p[0].type == CHANNEL_HEAD ? to->head + to->head_bytes
                                               : to->body + to->body_bytes;
        if (take) {
            memcpy(into, p[0].iov[0].iov_base, first);
            memcpy(into + first, p[0].iov[1].iov_base, take - first);
        }
        *(p[0].type == CHANNEL_HEAD ? &to->head_bytes : &to->body_bytes) += take;
        if (p[0].type == CHANNEL_HEAD) {
            EXPECT_INT(p[0].status, 207);
            to->heads_open = p[0].flags & CHANNEL_PART;
        } else {
            EXPECT_INT(to->heads_open, 0);
        }
        to->ended = p[0].type == CHANNEL_END;
        if (take == p[0].bytes)
            channel_consume(b->ch, 0, worker, 1, 0);
        else
            channel_consume(b->ch, 0, worker, 0, take);
    }
}

static char pattern(size_t i)
{
    return (char)('!' + i * 7 % 89 + (i >> 8) % 3);
}

static void write_answer(struct channel_worker *w, size_t head_bytes, size_t body_bytes,
                         size_t chunk)
{
    char text[4096];

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = pattern(i);
    struct iovec head[2] = { { text, head_bytes / 2 },
                             { text + head_bytes / 2, head_bytes - head_bytes / 2 } };
    EXPECT_INT(channel_respond(w, CHANNEL_HEAD, 207, head, 2), 0);
    for (size_t at = 0; at < body_bytes; at += chunk) {
        struct iovec body = { text + at, body_bytes - at < chunk ? body_bytes - at : chunk };
        EXPECT_INT(channel_respond(w, CHANNEL_BODY, 0, &body, 1), 0);
        if (at % 3 == 0)
            EXPECT_INT(channel_respond(w, CHANNEL_FLUSH, 0, NULL, 0), 0);
    }
    EXPECT_INT(channel_respond(w, CHANNEL_END, 0, NULL, 0), 0);
    channel_worker_done(w);
}

/* All sizes around every boundary, through rings that hold two records. */
static void sweep(uint32_t ring_bytes, size_t step, size_t chunk)
{
    struct bench b = bench_new(1, 1, 2, ring_bytes);
    enum { SIZES = 150 };
    pid_t pid = fork_child();

    if (pid == 0) {
        struct channel_worker *w = worker_new(&b, 0, 1);
        struct channel_request r;
        for (size_t size = 0; size < SIZES; size++) {
            EXPECT_INT(channel_worker_next(w, UINT64_MAX, &r), 0);
            write_answer(w, size, size * 5 + size % 2, chunk);
        }
        channel_worker_detach(w);
        _exit(0);
    }
    for (size_t size = 0; size < SIZES; size++) {
        struct answer_text a = { 0 };
        struct channel_ticket t = push(&b, 0, "/");
        channel_wake(b.ch, 0);
        while (!a.ended) {
            uint64_t most;
            drink(&b, 0, step, &a);
            if (a.ended || channel_next_dirty(b.ch, 0) >= 0 ||
                channel_gateway_sleep(b.ch, 0, &most))
                continue;
            struct pollfd pfd = { b.eventfds[0], POLLIN, 0 };
            uint64_t n;
            EXPECT_INT(poll(&pfd, 1, 60000), 1);
            EXPECT_INT(read(pfd.fd, &n, sizeof(n)), sizeof(n));
            channel_gateway_awake(b.ch, 0);
        }
        channel_release(b.ch, 0, t);
        EXPECT_INT(a.head_bytes, size);
        EXPECT_INT(a.body_bytes, size * 5 + size % 2);
        for (size_t i = 0; i < a.head_bytes; i++)
            EXPECT_INT(a.head[i], pattern(i));
        for (size_t i = 0; i < a.body_bytes; i++)
            EXPECT_INT(a.body[i], pattern(i));
    }
    EXPECT_INT(exit_status(pid), 0);
}

TEST(every_size_through_a_ring_of_64_bytes)
{
    sweep(64, 0, 4096);
}
TEST(every_size_through_a_ring_of_64_bytes_byte_by_byte)
{
    sweep(64, 1, 11);
}
TEST(every_size_through_a_ring_of_128_bytes_in_odd_steps)
{
    sweep(128, 17, 5);
}
TEST(every_size_through_a_ring_of_1024_bytes)
{
    sweep(1024, 0, 7);
}

TEST(small_writes_make_one_piece)
{
    struct bench b = bench_new(1, 1, 2, 4096);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request r;
    struct channel_piece p[4];

    push(&b, 0, "/");
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    EXPECT_INT(respond(w, CHANNEL_HEAD, ""), 0);
    for (int i = 0; i < 500; i++)
        EXPECT_INT(respond(w, CHANNEL_BODY, "abc"), 0);
    EXPECT_INT(respond(w, CHANNEL_FLUSH, ""), 0);
    EXPECT_INT(respond(w, CHANNEL_BODY, "d"), 0);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    EXPECT_INT(channel_peek(b.ch, 0, 0, p, 4), 4);
    EXPECT_INT(p[1].bytes, 1500);
    EXPECT_INT(p[2].type, CHANNEL_FLUSH);
    EXPECT_INT(p[3].bytes, 1);
}

/* --- abort and early release ------------------------------------------------------------------ */
static void body_of(struct channel_worker *w, size_t n, int want)
{
    static char much[8192];
    struct iovec iov = { much, n };
    EXPECT_INT(channel_respond(w, CHANNEL_BODY, 0, &iov, 1), want);
}

TEST(abort_is_seen_between_and_inside_writes)
{
    struct bench b = bench_new(1, 1, 2, 128);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request r;
    struct channel_ticket t = push(&b, 0, "/");
    struct channel_piece p[16];
    int n, ends = 0;

    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    EXPECT(!channel_worker_aborted(w));
    channel_abort(b.ch, 0, t);
    EXPECT(channel_worker_aborted(w));
    body_of(w, 10, -ECANCELED);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    channel_worker_done(w);
    EXPECT_INT(channel_next_dirty(b.ch, 0), 0);
    while ((n = channel_peek(b.ch, 0, 0, p, 16)) > 0) {
        ends += p[n - 1].type == CHANNEL_END;
        channel_consume(b.ch, 0, 0, n, 0);
    }
    EXPECT_INT(ends, 1);
    channel_release(b.ch, 0, t);

    t = push(&b, 0, "/");
    pid_t pid = fork_child();
    if (pid == 0) {
        EXPECT_INT(channel_worker_next(w, 0, &r), 0);
        body_of(w, 8192, -ECANCELED); /* blocked, woken by the abort */
        body_of(w, 1, -ECANCELED);
        EXPECT_INT(respond(w, CHANNEL_END, ""), 0); /* blocked until the gateway takes the rest */
        channel_worker_done(w);
        _exit(0);
    }
    wait_until_asleep(pid);
    while (channel_next_dirty(b.ch, 0) >= 0)
        ; /* a slow client: the gateway looks, but takes nothing */
    EXPECT(channel_peek(b.ch, 0, 0, p, 16) > 0);
    channel_abort(b.ch, 0, t);
    ends = 0;
    while (!ends) {
        if (channel_next_dirty(b.ch, 0) < 0)
            continue;
        while ((n = channel_peek(b.ch, 0, 0, p, 16)) > 0) {
            ends += p[n - 1].type == CHANNEL_END;
            channel_consume(b.ch, 0, 0, n, 0);
        }
    }
    channel_release(b.ch, 0, t);
    EXPECT_INT(exit_status(pid), 0);
}

TEST(an_early_release_drops_what_comes)
{
    struct bench b = bench_new(1, 1, 1, 128);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request r;
    struct channel_ticket t = push(&b, 0, "/old"), next;
    struct channel_piece p[16];
    struct channel_counters c;

    pid_t pid = fork_child();
    if (pid == 0) {
        EXPECT_INT(channel_worker_next(w, 0, &r), 0);
        body_of(w, 1000, 0); /* nobody aborts: it is written to the end */
        EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
        channel_worker_done(w);
        EXPECT_INT(channel_worker_next(w, UINT64_MAX, &r), 0);
        EXPECT_TEXT(r.target, "/new");
        answer(w);
        _exit(0);
    }
    wait_until_asleep(pid);
    EXPECT(channel_peek(b.ch, 0, 0, p, 16) > 0);
    channel_release(b.ch, 0, t);
    EXPECT_INT(channel_peek(b.ch, 0, 0, p, 16), 0);
    r = request("/new");
    while (channel_push(b.ch, 0, &r, NULL, &next) == -EAGAIN)
        if (channel_next_dirty(b.ch, 0) >= 0)
            EXPECT_INT(channel_peek(b.ch, 0, 0, p, 16), 0);
    channel_wake(b.ch, 0);
    EXPECT_INT(exit_status(pid), 0);
    while (channel_peek(b.ch, 0, 0, p, 16) == 0)
        ;
    take_answer(&b, 0, 0, next);
    channel_count(b.ch, &c);
    EXPECT(c.dropped_pieces > 10);
}

/* --- death ------------------------------------------------------------------------------------ */
TEST(a_request_dies_with_its_worker_alone)
{
    struct bench b = bench_new(2, 1, 4, 4096);
    struct channel_ticket lost;

    pid_t pid = spawn(&b, 0, 1);
    channel_worker_grant(b.ch, 0, 1);
    wait_until_asleep(pid);
    struct channel_ticket good = push(&b, 0, "/"), bad = push(&b, 0, "/crash"),
                          waits = push(&b, 0, "/");
    channel_wake(b.ch, 0);
    EXPECT_INT(exit_status(pid), -SIGKILL);
    EXPECT_INT(channel_next_dirty(b.ch, 0), 0);
    take_answer(&b, 0, 0, good);
    EXPECT_INT(channel_ticket_state(b.ch, bad, NULL), CHANNEL_RUNNING);
    EXPECT(channel_worker_recover(b.ch, 0, 0, 1, &lost));
    EXPECT_INT(lost.slot, bad.slot);
    EXPECT_INT(lost.seq, bad.seq);
    EXPECT(!channel_worker_recover(b.ch, 0, 0, 1, &lost));
    EXPECT_INT(channel_ticket_state(b.ch, waits, NULL), CHANNEL_QUEUED);
    pid = spawn(&b, 0, 2);
    channel_worker_grant(b.ch, 0, 2);
    EXPECT_INT(await_answer(&b, waits), 0);
    wait_until_asleep(pid);
    struct channel_counters c;
    channel_count(b.ch, &c);
    EXPECT_INT(c.recovered, 1);
    EXPECT_INT(c.running, 0);
    channel_close(b.ch);
    EXPECT_INT(exit_status(pid), ESHUTDOWN);
}

TEST(an_answered_request_is_not_lost_with_its_worker)
{
    struct bench b = bench_new(1, 1, 1, 4096);
    struct channel_request r = request("/");
    struct channel_ticket t = push(&b, 0, "/"), lost;

    pid_t pid = fork_child();
    if (pid == 0) {
        struct channel_worker *w = worker_new(&b, 0, 1);
        EXPECT_INT(channel_worker_next(w, 0, &r), 0);
        EXPECT_INT(respond(w, CHANNEL_HEAD, ""), 0);
        EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
        raise(SIGKILL); /* after END, before done: as a script behind fastcgi_finish_request */
    }
    EXPECT_INT(exit_status(pid), -SIGKILL);
    take_answer(&b, 0, 0, t);
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &t), -EAGAIN);
    EXPECT(!channel_worker_recover(b.ch, 0, 0, 1, &lost));
    EXPECT_INT(channel_push(b.ch, 0, &r, NULL, &t), 0);
}

TEST(recovery_passes_a_claimed_wake_up_on)
{
    struct bench b = bench_new(2, 1, 4, 4096);
    struct channel_ticket lost;

    pid_t pid[2];
    for (uint32_t i = 0; i < 2; i++) {
        pid[i] = spawn(&b, i, 1);
        channel_worker_grant(b.ch, i, 1);
    }
    wait_until_asleep(pid[0]);
    wait_until_asleep(pid[1]);
    kill(pid[0], SIGSTOP);
    struct channel_ticket t = push(&b, 0, "/");
    EXPECT_INT(channel_wake(b.ch, 0), 1); /* the stopped one */
    kill(pid[0], SIGKILL);
    EXPECT_INT(exit_status(pid[0]), -SIGKILL);
    EXPECT_INT(channel_ticket_state(b.ch, t, NULL), CHANNEL_QUEUED);
    EXPECT(!channel_worker_recover(b.ch, 0, 0, 1, &lost));
    EXPECT_INT(await_answer(&b, t), 1);
    channel_close(b.ch);
    EXPECT_INT(exit_status(pid[1]), ESHUTDOWN);
}

/* --- deferred signals ------------------------------------------------------------------------- */
TEST(signals_are_deferred_only_with_a_backlog_and_never_kept)
{
    struct bench b = bench_new(1, 1, 16, 65536);
    struct channel_worker *w = worker_new(&b, 0, 1);
    struct channel_request r;
    struct channel_counters c;
    struct channel_ticket t;
    uint64_t most = 0;

    channel_defer(b.ch, 0, CHANNEL_DEFER_NS, 4);
    t = push(&b, 0, "/");
    EXPECT(!channel_gateway_sleep(b.ch, 0, &most));
    EXPECT_INT((int64_t)most, -1); /* one request: no bound, and answered at once */
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    answer(w);
    channel_count(b.ch, &c);
    EXPECT_INT(c.signals, 1);
    EXPECT_INT(channel_next_dirty(b.ch, 0), 0);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
    take_answer(&b, 0, 0, t);

    t = push(&b, 0, "/");
    for (int i = 1; i < 10; i++)
        push(&b, 0, "/");
    EXPECT(!channel_gateway_sleep(b.ch, 0, &most));
    EXPECT_INT(most, CHANNEL_DEFER_NS);
    for (int i = 0; i < 3; i++) {
        EXPECT_INT(channel_worker_next(w, 0, &r), 0);
        answer(w);
    }
    channel_count(b.ch, &c);
    EXPECT_INT(c.signals, 1);
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    answer(w); /* the fourth */
    channel_count(b.ch, &c);
    EXPECT_INT(c.signals, 2);

    EXPECT(channel_gateway_sleep(b.ch, 0, &most)); /* there is something to look at */
    EXPECT_INT(channel_next_dirty(b.ch, 0), 0);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
    take_answer(&b, 0, 0, t);
    EXPECT(!channel_gateway_sleep(b.ch, 0, &most));
    EXPECT_INT(most, CHANNEL_DEFER_NS);
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    answer(w); /* put off */
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    EXPECT_INT(respond(w, CHANNEL_HEAD, ""), 0);
    EXPECT_INT(respond(w, CHANNEL_FLUSH, ""), 0); /* asked for: not put off */
    channel_count(b.ch, &c);
    EXPECT_INT(c.signals, 3);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    channel_worker_done(w);

    /* Nothing was taken since: slow scripts, no reason to wake up all the time. */
    EXPECT_INT(channel_next_dirty(b.ch, 0), 0);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
    EXPECT(!channel_gateway_sleep(b.ch, 0, &most));
    EXPECT_INT((int64_t)most, -1);
}

TEST(one_pass_returns_a_worker_once)
{
    struct bench b = bench_new(130, 1, 8, 4096);
    static const uint32_t indices[] = { 0, 63, 64, 129 };
    struct channel_worker *w[4];
    struct channel_request r;
    uint64_t most;

    for (int i = 0; i < 4; i++)
        w[i] = worker_new(&b, indices[i], 1);
    for (int i = 0; i < 4; i++) {
        push(&b, 0, "/");
        EXPECT_INT(channel_worker_next(w[i], 0, &r), 0);
        EXPECT_INT(respond(w[i], CHANNEL_HEAD, ""), 0);
        EXPECT_INT(respond(w[i], CHANNEL_FLUSH, ""), 0);
    }
    for (int i = 0; i < 4; i++) {
        EXPECT_INT(channel_next_dirty(b.ch, 0), indices[i]);
        EXPECT_INT(respond(w[i], CHANNEL_FLUSH, ""), 0); /* it goes on meanwhile */
    }
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
    EXPECT(channel_gateway_sleep(b.ch, 0, &most));
    for (int i = 0; i < 4; i++)
        EXPECT_INT(channel_next_dirty(b.ch, 0), indices[i]);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
    EXPECT(!channel_gateway_sleep(b.ch, 0, &most));
    channel_gateway_awake(b.ch, 0);
    channel_mark(b.ch, 0, 64);
    EXPECT(channel_gateway_sleep(b.ch, 0, &most));
    EXPECT_INT(channel_next_dirty(b.ch, 0), 64);
    EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
}

/* --- not mine --------------------------------------------------------------------------------- */

TEST(a_request_is_passed_on_and_both_are_free_again)
{
    struct bench b = bench_new(1, 1, 1, 4096);
    struct channel_worker *w = worker_new(&b, 0, 0);
    struct channel_request r;
    struct channel_piece p[8];

    for (int i = 0; i < 3; i++) {
        struct channel_ticket t = push(&b, 0, "/");
        EXPECT_INT(channel_worker_next(w, 0, &r), 0);
        EXPECT_INT(respond(w, CHANNEL_PASS_ON, ""), 0);
        EXPECT_INT(respond(w, CHANNEL_END, ""), -ECANCELED);
        channel_worker_done(w);
        EXPECT_INT(channel_next_dirty(b.ch, 0), 0);
        EXPECT_INT(channel_next_dirty(b.ch, 0), -1);
        EXPECT_INT(channel_peek(b.ch, 0, 0, p, 8), 1);
        EXPECT_INT(p[0].type, CHANNEL_PASS_ON);
        EXPECT_INT(p[0].ticket.seq, t.seq);
        channel_consume(b.ch, 0, 0, 1, 0);
        channel_release(b.ch, 0, t);
    }
}

TEST(an_answer_that_has_begun_is_not_passed_on)
{
    struct bench b = bench_new(1, 1, 2, 4096);
    struct channel_worker *w = worker_new(&b, 0, 0);
    struct channel_request r;
    struct channel_piece p[8];

    (void)push(&b, 0, "/");
    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    EXPECT_INT(respond(w, CHANNEL_HEAD, "A: b\r\n"), 0);
    EXPECT_INT(respond(w, CHANNEL_PASS_ON, ""), 0); /* its own side does not look */
    EXPECT_INT(channel_peek(b.ch, 0, 0, p, 8), -EPROTO);
}

TEST(what_follows_a_passed_on_request_is_dropped)
{
    struct bench b = bench_new(1, 1, 2, 4096);
    struct channel_worker *w = worker_new(&b, 0, 0);
    struct channel_ticket t = push(&b, 0, "/");
    struct record more = { .type = CHANNEL_BODY, .slot = t.slot, .seq = t.seq };
    struct ring_control *rc = ring_at(b.ch, 0, 0);
    struct channel_request r;
    struct channel_piece p[8];

    EXPECT_INT(channel_worker_next(w, 0, &r), 0);
    EXPECT_INT(respond(w, CHANNEL_PASS_ON, ""), 0);
    memcpy(ring_bytes_at(b.ch, 0, 0) + atomic_load(&rc->tail), &more, sizeof(more));
    atomic_fetch_add(&rc->tail, sizeof(more));
    EXPECT_INT(channel_peek(b.ch, 0, 0, p, 8), 1);
    channel_consume(b.ch, 0, 0, 1, 0);
    channel_release(b.ch, 0, t);
    EXPECT_INT(channel_peek(b.ch, 0, 0, p, 8), 0);
}

/* --- hostile memory --------------------------------------------------------------------------- */
static uint64_t dice(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct abused {
    struct bench b;
    struct channel_worker *worker[2];
    bool busy[2];
    uint32_t n_headers[2];
    int writes_left[2]; /* so few that no write can block */
    struct channel_ticket out[6];
    uint64_t seed;
};

static void spoil(struct abused *a)
{
    uint64_t *words = (uint64_t *)a->b.ch->base;
    /* Half of the hits go to the words that steer, the rest anywhere. */
    uint64_t area = dice(&a->seed) % 2 ? a->b.ch->at.total : a->b.ch->at.slots + 1024;
    uint64_t *word = &words[dice(&a->seed) % (area / 8)];

    if ((char *)word == (char *)&a->b.ch->head->closed)
        return;
    *word = dice(&a->seed) % 3 ? *word ^ UINT64_C(1) << dice(&a->seed) % 64 : dice(&a->seed);
}

/* Every byte that a hostile peer hands over is read, into this. */
static volatile unsigned char seen;

static void abuse_gateway(struct abused *a, uint32_t thread, uint32_t worker)
{
    struct channel *ch = a->b.ch;
    struct channel_request r = request("/abc");
    struct channel_pair header = { STR("Name"), STR("value") };
    struct channel_piece p[CACHED_PIECES];
    struct channel_ticket t = a->out[dice(&a->seed) % 6];
    uint64_t most;
    int n;

    r.n_headers = 1;
    switch (dice(&a->seed) % 7) {
    case 0:
    case 1:
        if (channel_push(ch, thread, &r, &header, &t) == 0)
            a->out[t.slot] = t;
        channel_wake(ch, thread);
        break;
    case 2:
        n = channel_peek(ch, thread, worker, p, CACHED_PIECES);
        for (int i = 0; i < n; i++)
            for (int v = 0; v < p[i].n_iov; v++)
                for (size_t k = 0; k < p[i].iov[v].iov_len; k++)
                    seen ^= ((unsigned char *)p[i].iov[v].iov_base)[k];
        if (n > 0) {
            bool part = dice(&a->seed) % 2 && p[n - 1].bytes;
            channel_consume(ch, thread, worker, n - part, part ? p[n - 1].bytes / 2 : 0);
        }
        break;
    case 3:
        channel_abort(ch, t.slot / 3, t);
        channel_ticket_state(ch, t, NULL);
        channel_cancel(ch, t.slot / 3, t);
        break;
    case 4:
        channel_gateway_sleep(ch, thread, &most);
        channel_gateway_awake(ch, thread);
        for (int i = 0; i < 20 && channel_next_dirty(ch, thread) >= 0; i++)
            ;
        break;
    case 5: {
        struct channel_worker_info info;
        struct channel_counters c;
        channel_worker_look(ch, worker, &info);
        channel_count(ch, &c);
        break;
    }
    case 6:
        if (dice(&a->seed) % 8 == 0)
            channel_worker_recover(ch, thread, worker, 1, &t);
        break;
    }
}

static void abuse_worker(struct abused *a, uint32_t k)
{
    struct channel_worker *w = a->worker[k];
    struct channel_request r;
    struct channel_pair pair;

    if (!a->busy[k]) {
        int e = channel_worker_next(w, 0, &r);
        if (e == -ETIMEDOUT)
            return;
        a->busy[k] = true; /* -EPROTO too: the slot is held */
        a->n_headers[k] = e == 0 ? r.n_headers : 0;
        for (size_t i = 0; e == 0 && i < r.target.n; i++)
            seen ^= (unsigned char)r.target.p[i];
        return;
    }
    for (uint32_t i = 0; i < a->n_headers[k]; i++)
        if (channel_request_header(w, i, &pair) == 0)
            seen ^= pair.value.n ? (unsigned char)pair.value.p[pair.value.n - 1] : 0;
    if (a->writes_left[k] < 3)
        return;
    a->writes_left[k] -= 3;
    int e = respond(w, CHANNEL_HEAD, "A: b\r\n");
    EXPECT(e == 0 || e == -ECANCELED); /* the word that says "aborted" is as good as any */
    e = respond(w, CHANNEL_BODY, "body");
    EXPECT(e == 0 || e == -ECANCELED);
    EXPECT_INT(respond(w, CHANNEL_END, ""), 0);
    channel_worker_done(w);
    a->busy[k] = false;
}

static void abuse_observer(struct abused *a, uint32_t k)
{
    static char buffer[CHANNEL_LOOK_BYTES];
    struct channel_worker_info info;
    struct channel_request r;

    channel_worker_look(a->b.ch, k, &info);
    if (!channel_request_look(a->b.ch, info.ticket, buffer, &r))
        return;
    for (const struct str *s = &r.method; s <= &r.route; s++)
        EXPECT(s->n <= CHANNEL_LOOK_TEXT);
}

/* All that both sides do, while any word of the shared memory may become anything: results may be
 * wrong, but nothing crashes, hangs, or reads outside of the mapping. */
static void abuse(uint64_t seed, uint32_t ring_bytes)
{
    struct abused a = { .b = bench_new(2, 2, 6, ring_bytes), .seed = seed };

    for (uint32_t k = 0; k < 2; k++) {
        a.worker[k] = worker_new(&a.b, k, 1);
        a.writes_left[k] = (int)(ring_bytes / 48);
    }
    for (int i = 0; i < 3000; i++) {
        uint32_t k = dice(&a.seed) % 2;
        if (dice(&a.seed) % 8 == 0)
            spoil(&a);
        abuse_observer(&a, k);
        if (dice(&a.seed) % 2)
            abuse_worker(&a, k);
        else
            abuse_gateway(&a, dice(&a.seed) % 2, k);
    }
    channel_close(a.b.ch);
    channel_unmap(a.b.ch);
    close(a.b.fd);
    for (int t = 0; t < 2; t++)
        close(a.b.eventfds[t]);
}

TEST_WITHIN(hostile_words_do_no_harm, 300)
{
    for (uint64_t seed = 1; seed <= 300; seed++)
        abuse(seed * UINT64_C(0x9e3779b97f4a7c15), seed % 2 ? 4096 : 65536);
}
