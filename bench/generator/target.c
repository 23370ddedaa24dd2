/*
 * A server whose latencies are known: it answers each request a given time after it arrived, and
 * keeps a record of both moments. What a load generator reports is held against that record.
 *
 *     target FILE LATENCY_US [SLOW_US SLOW_PERCENT] [stall LENGTH_MS EVERY_MS]
 *
 * Listens on a free port of 127.0.0.1, which it prints. SIGTERM ends it: FILE gets one line
 * "ARRIVED SENT" a request, and "stall BEGIN END" for each stall that anybody met, in ns of
 * CLOCK_MONOTONIC. A stall holds back all answers until it ends, while requests are still taken
 * note of. It begins when the first request has come, and EVERY_MS later again.
 *
 * One thread. It sleeps until 150 us before an answer is due, since a wake-up may come that late,
 * and spins for the rest.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"

enum { EVENTS = 256, SPIN_NS = 150000, REQUEST_BYTES_MAX = 8192, RECORDS_FIRST = 1 << 16 };

struct conn {
    struct list link; /* in the queue of its latency, while it waits for an answer */
    int fd;
    uint64_t arrived_ns, due_ns;
    size_t n;
    char request[REQUEST_BYTES_MAX];
};

struct record {
    uint64_t arrived_ns, sent_ns;
};

/* Requests of one latency: the first that came is the first that is due. */
struct mode {
    uint64_t latency_ns;
    struct list waiting;
};

static struct target {
    int epoll_fd, listen_fd, signal_fd;
    struct mode modes[2];
    double slow_share;
    uint64_t stall_ns, every_ns; /* 0: none */
    uint64_t first_ns, random;
    struct record *records;
    size_t n, cap;
    bool over;
} t = { .random = UINT64_C(0x9e3779b97f4a7c15) };

static double next_random(void)
{
    t.random ^= t.random >> 12;
    t.random ^= t.random << 25;
    t.random ^= t.random >> 27;
    return (double)((t.random * UINT64_C(2685821657736338717)) >> 11) / 9007199254740992.0;
}

/* The end of the stall in which `at_ns` lies, or 0. The first begins half a period in. */
static uint64_t stalled_until(uint64_t at_ns)
{
    if (!t.stall_ns || at_ns < t.first_ns + t.every_ns / 2)
        return 0;
    uint64_t since = at_ns - t.first_ns - t.every_ns / 2;
    return since % t.every_ns < t.stall_ns ? at_ns - since % t.every_ns + t.stall_ns : 0;
}

static void watch(int fd, void *owner)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = owner };
    CHECKF(epoll_ctl(t.epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0, "epoll_ctl: errno %d", errno);
}

static void accept_all(void)
{
    int fd, on = 1;

    while ((fd = accept4(t.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = mem_zalloc(sizeof(*c));
        c->fd = fd;
        list_init(&c->link);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        watch(fd, c);
    }
}

static void drop(struct conn *c)
{
    list_remove(&c->link);
    close(c->fd);
    mem_free(c);
}

/* The request may have come in pieces; a body it does not have. */
static void take(struct conn *c)
{
    ssize_t n = recv(c->fd, c->request + c->n, sizeof(c->request) - c->n, 0);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 || c->due_ns) { /* gone, or it asks before it was answered */
        drop(c);
        return;
    }
    c->n += (size_t)n;
    if (!memmem(c->request, c->n, "\r\n\r\n", 4))
        return;
    c->n = 0;
    c->arrived_ns = clock_monotonic_ns();
    if (!t.first_ns)
        t.first_ns = c->arrived_ns;
    struct mode *m = &t.modes[next_random() < t.slow_share];
    c->due_ns = c->arrived_ns + m->latency_ns;
    list_push_back(&m->waiting, &c->link);
}

static void answer(struct conn *c)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    list_remove(&c->link);
    list_init(&c->link);
    c->due_ns = 0;
    if (t.n == t.cap) {
        t.cap = t.cap ? 2 * t.cap : RECORDS_FIRST;
        t.records = mem_realloc(t.records, t.cap * sizeof(t.records[0]));
    }
    if (send(c->fd, text, sizeof(text) - 1, MSG_NOSIGNAL) == (ssize_t)sizeof(text) - 1)
        t.records[t.n++] = (struct record){ c->arrived_ns, clock_monotonic_ns() };
    else
        drop(c);
}

/* Answers what is due; returns when there is more to answer. */
static uint64_t answer_due(void)
{
    uint64_t next = UINT64_MAX, now = clock_monotonic_ns(), held = stalled_until(now);

    for (size_t i = 0; i < ARRAY_LENGTH(t.modes); i++)
        while (!list_empty(&t.modes[i].waiting)) {
            struct conn *c = LIST_ENTRY(t.modes[i].waiting.next, struct conn, link);
            uint64_t due = c->due_ns > held ? c->due_ns : held;
            if (due > now) {
                next = due < next ? due : next;
                break;
            }
            answer(c);
        }
    return next;
}

static void wait_for_requests(uint64_t next)
{
    struct epoll_event events[EVENTS];
    uint64_t now = clock_monotonic_ns(), left = next > now + SPIN_NS ? next - now - SPIN_NS : 0;
    struct timespec limit = { (time_t)(left / NS_PER_S), (long)(left % NS_PER_S) };
    int n = epoll_pwait2(t.epoll_fd, events, EVENTS, next == UINT64_MAX ? NULL : &limit, NULL);

    for (int i = 0; i < n; i++) {
        void *owner = events[i].data.ptr;
        if (owner == &t.listen_fd)
            accept_all();
        else if (owner == &t.signal_fd)
            t.over = true;
        else
            take(owner);
    }
}

static void write_record(const char *path)
{
    FILE *out = fopen(path, "we");
    uint64_t stall = 0;

    CHECKF(out, "%s cannot be written: errno %d", path, errno);
    for (size_t i = 0; i < t.n; i++) {
        const struct record *r = &t.records[i];
        fprintf(out, "%llu %llu\n", (unsigned long long)r->arrived_ns,
                (unsigned long long)r->sent_ns);
        uint64_t end = stalled_until(r->arrived_ns);
        if (end && end != stall)
            fprintf(out, "stall %llu %llu\n", (unsigned long long)(end - t.stall_ns),
                    (unsigned long long)end);
        stall = end ? end : stall;
    }
    CHECKF(fclose(out) == 0, "%s cannot be written: errno %d", path, errno);
}

static void start(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(a);
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    prctl(PR_SET_TIMERSLACK, 1UL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    t.signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    t.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    t.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECKF(t.signal_fd >= 0 && t.epoll_fd >= 0 && t.listen_fd >= 0 &&
               bind(t.listen_fd, (struct sockaddr *)&a, bytes) == 0 &&
               listen(t.listen_fd, 4096) == 0 &&
               getsockname(t.listen_fd, (struct sockaddr *)&a, &bytes) == 0,
           "a socket of 127.0.0.1 to listen on: errno %d", errno);
    watch(t.signal_fd, &t.signal_fd);
    watch(t.listen_fd, &t.listen_fd);
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int at = 3;

    if (argc < 3 || argc > 8) {
        fprintf(stderr,
                "usage: %s FILE LATENCY_US [SLOW_US SLOW_PERCENT] "
                "[stall LENGTH_MS EVERY_MS]\n",
                argv[0]);
        return 2;
    }
    list_init(&t.modes[0].waiting);
    list_init(&t.modes[1].waiting);
    t.modes[0].latency_ns = strtoull(argv[2], NULL, 10) * 1000;
    if (at + 1 < argc && strcmp(argv[at], "stall") != 0) {
        t.modes[1].latency_ns = strtoull(argv[at], NULL, 10) * 1000;
        t.slow_share = strtod(argv[at + 1], NULL) / 100;
        at += 2;
    }
    if (at + 2 < argc) {
        t.stall_ns = strtoull(argv[at + 1], NULL, 10) * NS_PER_MS;
        t.every_ns = strtoull(argv[at + 2], NULL, 10) * NS_PER_MS;
    }
    start();
    while (!t.over)
        wait_for_requests(answer_due());
    write_record(argv[1]);
    return 0;
}
