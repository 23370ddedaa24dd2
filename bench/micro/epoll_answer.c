/*
 * epoll_answer: the least a server can do. One process, one epoll loop, a constant answer of the
 * size that hello.php gives, no parsing beyond counting request ends ("\r\n\r\n", so pipelining is
 * answered too). Its CPU time per request, measured with the same wrk, is the floor that
 * bench/compare adds to PHP's own life cycle to judge how much the gateway and the channel cost.
 *
 *     epoll_answer PORT      listens on 127.0.0.1:PORT until it is ended by a signal
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, REQUEST_BYTES_MAX = 8192, PIPELINED_MAX = 64, FDS_MAX = 65536 };

static const char answer[] = "HTTP/1.1 200 OK\r\n"
                             "Server: sapid\r\n"
                             "Date: Sun, 22 Nov 2026 00:00:00 GMT\r\n"
                             "Content-Type: text/html; charset=UTF-8\r\n"
                             "Content-Length: 14\r\n"
                             "\r\n"
                             "Hello, world!\n";

static const char end_of_head[] = "\r\n\r\n";
static uint8_t matched[FDS_MAX]; /* bytes of end_of_head seen so far, per descriptor */

static void die(const char *what)
{
    fprintf(stderr, "epoll_answer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_on(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0)
        die("socket");
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("bind");
    if (listen(fd, 4096) != 0)
        die("listen");
    return fd;
}

static void accept_all(int epoll, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
        if (fd >= FDS_MAX) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        matched[fd] = 0;
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
            die("epoll_ctl");
    }
}

/* How many request heads end within these bytes. */
static unsigned count_requests(int fd, const char *bytes, size_t n)
{
    unsigned requests = 0;
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == end_of_head[matched[fd]])
            matched[fd]++;
        else
            matched[fd] = bytes[i] == '\r';
        if (matched[fd] == 4) {
            matched[fd] = 0;
            requests++;
        }
    }
    return requests;
}

static void answer_connection(int fd)
{
    static char answers[PIPELINED_MAX * (sizeof answer - 1)];
    char bytes[REQUEST_BYTES_MAX];
    ssize_t n = read(fd, bytes, sizeof bytes);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            close(fd);
        return;
    }
    unsigned requests = count_requests(fd, bytes, (size_t)n);
    if (requests > PIPELINED_MAX) {
        close(fd);
        return;
    }
    for (unsigned i = 0; i < requests; i++)
        memcpy(answers + i * (sizeof answer - 1), answer, sizeof answer - 1);
    size_t size = requests * (sizeof answer - 1);
    if (size > 0 && write(fd, answers, size) != (ssize_t)size)
        close(fd); /* a reader this slow is not what is measured */
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS_MAX];
    long port = argc == 2 ? strtol(argv[1], NULL, 10) : 0;
    if (port < 1 || port > 65535) {
        fprintf(stderr, "usage: epoll_answer PORT (1 to 65535)\n");
        return 2;
    }
    int listener = listen_on((uint16_t)port);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN, .data.fd = listener };
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
        die("epoll");
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS_MAX, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener)
                accept_all(epoll, listener);
            else
                answer_connection(events[i].data.fd);
        }
    }
}
