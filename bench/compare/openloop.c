/*
 * openloop: sends GET requests at a constant rate, whatever the server does, over a pool of kept
 * connections, and reports latency counted from the moment each request was due. So a stalled
 * server shows in every request that had to wait for it (no coordinated omission). A share of the
 * requests, chosen by a seeded generator so that every run has the same order, goes to a second
 * path; both kinds are reported by themselves.
 *
 *     openloop PORT RATE SECONDS CONNECTIONS FAST_PATH SLOW_PATH SLOW_PERCENT
 *
 * One line of JSON: for "fast" and "slow" the number of requests, of errors and the latencies in
 * us. Answers need a Content-Length or be chunked; anything but a 200 is an error. The tool is
 * replaced by `sapid bench` when that exists.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 4096, BUFFER_BYTES = 65536, EVENTS_MAX = 256, DRAIN_SECONDS = 5 };

struct request {
    int64_t due_ns;
    int64_t latency_ns; /* 0 until answered, -1 after an error */
    bool slow;
};

struct connection {
    int fd; /* -1: closed */
    bool busy;
    uint32_t request; /* index, while busy */
    uint32_t used;
    char bytes[BUFFER_BYTES];
};

static struct connection *connections;
static struct request *requests;
static uint32_t n_connections, n_requests;
static uint32_t answered; /* or failed */
static int epoll_fd;
static struct sockaddr_in server;
static const char *paths[2]; /* fast, slow */

static void die(const char *what)
{
    fprintf(stderr, "openloop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void connect_one(struct connection *c)
{
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&server, sizeof server) != 0)
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
    c->busy = false;
    c->used = 0;
}

static void finish(struct connection *c, bool ok)
{
    struct request *r = &requests[c->request];
    r->latency_ns = ok ? now_ns() - r->due_ns : -1;
    answered++;
    c->busy = false;
    c->used = 0;
}

static void reopen(struct connection *c)
{
    close(c->fd);
    if (c->busy)
        finish(c, false);
    connect_one(c);
}

static void send_request(struct connection *c, uint32_t index)
{
    char head[1024];
    int n = snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                     paths[requests[index].slow]);
    c->busy = true;
    c->request = index;
    c->used = 0;
    if (n < 0 || (size_t)n >= sizeof head || send(c->fd, head, (size_t)n, MSG_NOSIGNAL) != n)
        reopen(c);
}

/* 1: the answer is whole and was a 200 that leaves the connection open; 0: more is needed; -1:
 * wrong. */
static int answer_state(struct connection *c)
{
    c->bytes[c->used] = '\0';
    char *end = strstr(c->bytes, "\r\n\r\n");
    if (end == NULL)
        return 0;
    if (strncmp(c->bytes, "HTTP/1.1 200", 12) != 0)
        return -1;
    size_t body_at = (size_t)(end + 4 - c->bytes);
    *end = '\0';
    char *length = strcasestr(c->bytes, "\r\nContent-Length:");
    bool chunked = strcasestr(c->bytes, "\r\nTransfer-Encoding: chunked") != NULL;
    *end = '\r';
    if (length != NULL)
        return c->used >= body_at + strtoul(length + 17, NULL, 10);
    if (!chunked)
        return -1;
    return c->used >= body_at + 5 && memcmp(c->bytes + c->used - 5, "0\r\n\r\n", 5) == 0;
}

static void on_readable(struct connection *c)
{
    ssize_t n = recv(c->fd, c->bytes + c->used, BUFFER_BYTES - 1 - c->used, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || !c->busy) {
        reopen(c);
        return;
    }
    c->used += (uint32_t)n;
    int state = answer_state(c);
    if (state > 0)
        finish(c, true);
    else if (state < 0 || c->used == BUFFER_BYTES - 1)
        reopen(c);
}

static struct connection *idle_connection(void)
{
    for (uint32_t i = 0; i < n_connections; i++)
        if (!connections[i].busy)
            return &connections[i];
    return NULL;
}

static void run(void)
{
    uint32_t next = 0;
    int64_t give_up_ns = requests[n_requests - 1].due_ns + DRAIN_SECONDS * (int64_t)1000000000;
    while (answered < n_requests) {
        int64_t now = now_ns();
        if (now >= give_up_ns)
            return;
        struct connection *idle = NULL;
        while (next < n_requests && requests[next].due_ns <= now &&
               (idle = idle_connection()) != NULL)
            send_request(idle, next++);
        bool held_up = next < n_requests && requests[next].due_ns <= now;
        int64_t wait_ns = (next < n_requests && !held_up ? requests[next].due_ns : give_up_ns) -
                          now;
        struct timespec timeout = { .tv_sec = wait_ns / 1000000000,
                                    .tv_nsec = wait_ns % 1000000000 };
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_pwait2(epoll_fd, events, EVENTS_MAX, &timeout, NULL);
        if (n < 0 && errno != EINTR)
            die("epoll_pwait2");
        for (int i = 0; i < n; i++)
            on_readable(events[i].data.ptr);
    }
}

static void plan(double rate, double seconds, uint32_t slow_percent)
{
    uint64_t random = 0x9E3779B97F4A7C15;
    int64_t start_ns = now_ns() + 10000000;
    n_requests = (uint32_t)(rate * seconds);
    requests = calloc(n_requests, sizeof *requests);
    if (requests == NULL || n_requests == 0)
        die("expected at least one request");
    for (uint32_t i = 0; i < n_requests; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        requests[i].due_ns = start_ns + (int64_t)((double)i * 1e9 / rate);
        requests[i].slow = random % 100 < slow_percent;
    }
}

static int compare_latency(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(const int64_t *sorted, uint32_t n, double share)
{
    if (n == 0)
        return 0;
    uint32_t rank = (uint32_t)((double)n * share);
    return (double)sorted[rank < n ? rank : n - 1] / 1000;
}

static void print_kind(const char *name, bool slow)
{
    int64_t *sorted = calloc(n_requests, sizeof *sorted);
    uint32_t n = 0, total = 0;
    if (sorted == NULL)
        die("calloc");
    for (uint32_t i = 0; i < n_requests; i++) {
        if (requests[i].slow != slow)
            continue;
        total++;
        if (requests[i].latency_ns > 0)
            sorted[n++] = requests[i].latency_ns;
    }
    qsort(sorted, n, sizeof *sorted, compare_latency);
    printf("\"%s\": {\"requests\": %u, \"errors\": %u, \"p50\": %.1f, \"p90\": %.1f, "
           "\"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}",
           name, total, total - n, percentile_us(sorted, n, 0.5), percentile_us(sorted, n, 0.9),
           percentile_us(sorted, n, 0.99), percentile_us(sorted, n, 0.999),
           percentile_us(sorted, n, 1));
    free(sorted);
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: openloop PORT RATE SECONDS CONNECTIONS FAST_PATH SLOW_PATH "
                        "SLOW_PERCENT\n");
        return 2;
    }
    server = (struct sockaddr_in){ .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(argv[1])),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    double rate = strtod(argv[2], NULL), seconds = strtod(argv[3], NULL);
    n_connections = (uint32_t)strtoul(argv[4], NULL, 10);
    paths[0] = argv[5];
    paths[1] = argv[6];
    if (n_connections < 1 || n_connections > CONNECTIONS_MAX || rate <= 0 || seconds <= 0) {
        fprintf(stderr, "openloop: expected 1 to %d connections and a positive rate and time\n",
                CONNECTIONS_MAX);
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); /* the default of 50 us would be part of every latency */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(n_connections, sizeof *connections);
    if (epoll_fd < 0 || connections == NULL)
        die("start");
    for (uint32_t i = 0; i < n_connections; i++)
        connect_one(&connections[i]);
    plan(rate, seconds, (uint32_t)strtoul(argv[7], NULL, 10));
    run();
    printf("{");
    print_kind("fast", false);
    printf(", ");
    print_kind("slow", true);
    printf("}\n");
    return 0;
}
