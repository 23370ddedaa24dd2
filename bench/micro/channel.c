/*
 * channel: what the shared memory between gateway and workers costs by itself, without HTTP and
 * PHP.
 *
 *     channel code             one process plays both sides in turn: instructions and memory only
 *     channel turn             gateway and one worker on the same CPU, one request at a time: two
 * switches channel load [options]   gateway and workers as processes, requests in flight all the
 * time
 *         --workers N (2)  --inflight N (64)  --work-us N (5)  --seconds N (2)  --defer
 * NS,RESPONSES (0,0)
 *         --io-us N (4)    work of the gateway for each answer
 *
 * Prints ns a request; for load also CPU time of all processes, wake-ups and signals a request.
 * Build: ninja -C BUILD tests/unit/channel/bench_channel
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "channel/channel.h"

enum { SLOT_BYTES = 16384, RING_BYTES = 65536, SLOTS = 256, PIECES = 16 };

struct options {
    uint32_t workers, inflight, work_us, io_us, seconds, defer_responses;
    uint64_t defer_ns;
};

static const char head_text[] =
    "X-Powered-By: PHP/8.2.36\r\nContent-type: text/html; charset=UTF-8\r\n";
static const char body_text[] = "Hello, world!\n";

/* What wrk or a small browser sends, as the gateway's parser hands it on: views into one buffer. */
static const char raw[] =
    "Host: 127.0.0.1:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    "Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\n"
    "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef\r\nPragma: no-cache\r\n";

static struct channel_request request;
static struct channel_pair headers[16];

static void request_init(void)
{
    struct str rest = { raw, sizeof(raw) - 1 };

    request = (struct channel_request){ .method = STR("GET"),
                                        .target = STR("/hello.php?x=1"),
                                        .protocol = STR("HTTP/1.1"),
                                        .script_name = STR("/hello.php"),
                                        .script_filename = STR("/srv/www/site/public/hello.php"),
                                        .query = STR("x=1"),
                                        .document_root = STR("/srv/www/site/public"),
                                        .host = STR("127.0.0.1:8080"),
                                        .server_name = STR("127.0.0.1"),
                                        .remote_addr = STR("127.0.0.1"),
                                        .server_addr = STR("127.0.0.1"),
                                        .request_id = STR("0123456789abcdef"),
                                        .http_minor = 1,
                                        .content_length = -1 };
    while (rest.n) {
        struct str line = str_cut(&rest, '\n');
        line.n--;
        struct str name = str_cut(&line, ':');
        headers[request.n_headers++] = (struct channel_pair){ name, str_trim(line) };
    }
}

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void spend_us(uint32_t us)
{
    if (!us)
        return;
    uint64_t until = clock_monotonic_ns() + us * NS_PER_US;
    while (clock_monotonic_ns() < until)
        ;
}

static void answer(struct channel_worker *w, const struct channel_request *r)
{
    struct iovec head = { (void *)(uintptr_t)head_text, sizeof(head_text) - 1 };
    struct iovec body = { (void *)(uintptr_t)body_text, sizeof(body_text) - 1 };
    struct channel_pair pair;

    for (uint32_t i = 0; i < r->n_headers; i++)
        CHECK(channel_request_header(w, i, &pair) == 0);
    CHECK(channel_respond(w, CHANNEL_HEAD, 200, &head, 1) == 0);
    CHECK(channel_respond(w, CHANNEL_BODY, 0, &body, 1) == 0);
    CHECK(channel_respond(w, CHANNEL_END, 0, NULL, 0) == 0);
    channel_worker_done(w);
}

/* Takes every answer that is there; returns how many ended. */
static uint32_t take_answers(struct channel *ch, uint32_t io_us)
{
    struct channel_piece pieces[PIECES];
    uint32_t ended = 0;
    int worker, n;

    while ((worker = channel_next_dirty(ch, 0)) >= 0) {
        while ((n = channel_peek(ch, 0, (uint32_t)worker, pieces, PIECES)) > 0) {
            channel_consume(ch, 0, (uint32_t)worker, n, 0);
            for (int i = 0; i < n; i++) {
                if (pieces[i].type != CHANNEL_END)
                    continue;
                channel_release(ch, 0, pieces[i].ticket);
                ended++;
                spend_us(io_us);
            }
        }
        CHECK(n == 0);
    }
    return ended;
}

static struct channel *channel_new(uint32_t workers)
{
    struct channel_geometry g = { workers, 1, SLOTS, SLOT_BYTES, RING_BYTES };
    struct channel *ch;
    int fd;

    CHECK(channel_create(&g, &fd) == 0);
    CHECK(channel_map(fd, &ch) == 0);
    close(fd);
    return ch;
}

static void bench_code(void)
{
    enum { ROUNDS = 2000000 };
    struct channel *ch = channel_new(1);
    struct channel_request r;
    struct channel_ticket t;
    struct channel_worker *w;
    int efd = eventfd(0, EFD_NONBLOCK);

    channel_worker_grant(ch, 0, 1);
    CHECK(channel_worker_attach(ch, 0, 1, &efd, &w) == 0);
    uint64_t start = clock_cpu_ns();
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(channel_push(ch, 0, &request, headers, &t) == 0);
        channel_wake(ch, 0);
        CHECK(channel_worker_next(w, 0, &r) == 0);
        answer(w, &r);
        CHECK(take_answers(ch, 0) == 1);
    }
    printf("code: %.0f ns a request\n", (double)(clock_cpu_ns() - start) / ROUNDS);
}

static void worker_main(struct channel *ch, uint32_t index, int efd, uint32_t work_us)
{
    struct channel_request r;
    struct channel_worker *w;

    CHECK(channel_worker_attach(ch, index, 1, &efd, &w) == 0);
    while (channel_worker_next(w, UINT64_MAX, &r) == 0) {
        spend_us(work_us);
        answer(w, &r);
    }
    channel_worker_detach(w);
}

static void gateway_main(struct channel *ch, int efd, const struct options *o,
                         uint64_t *ret_requests)
{
    uint64_t end = clock_monotonic_ns() + o->seconds * NS_PER_S, requests = 0, asleep = 0;
    struct pollfd pfd = { efd, POLLIN, 0 };
    uint32_t inflight = 0;
    struct channel_ticket t;

    channel_defer(ch, 0, o->defer_ns, o->defer_responses);
    for (;;) {
        bool more = clock_monotonic_ns() < end;
        if (!more && !inflight)
            break;
        while (more && inflight < o->inflight && channel_push(ch, 0, &request, headers, &t) == 0)
            inflight++;
        channel_wake(ch, 0);
        uint32_t n = take_answers(ch, o->io_us);
        inflight -= n;
        requests += n;
        uint64_t most;
        if (n || channel_gateway_sleep(ch, 0, &most))
            continue;
        struct timespec ts = { 0, (long)(most % NS_PER_S) };
        uint64_t drain;
        asleep++;
        if (ppoll(&pfd, 1, most == UINT64_MAX ? NULL : &ts, NULL) > 0)
            CHECK(read(efd, &drain, sizeof(drain)) == sizeof(drain));
        channel_gateway_awake(ch, 0);
    }
    *ret_requests = requests;
    printf("  sleeps %.3f", (double)asleep / (double)requests);
}

static void bench_processes(const char *name, const struct options *o, bool one_cpu)
{
    struct channel *ch = channel_new(o->workers);
    int efd = eventfd(0, EFD_NONBLOCK);
    struct rusage self, children;
    struct channel_counters c;
    uint64_t requests;

    channel_set_eventfds(ch, &efd);
    if (one_cpu)
        pin(0);
    for (uint32_t i = 0; i < o->workers; i++) {
        channel_worker_grant(ch, i, 1);
        if (fork() == 0) {
            worker_main(ch, i, efd, o->work_us);
            exit(0);
        }
    }
    uint64_t start = clock_monotonic_ns();
    printf("%s:", name);
    gateway_main(ch, efd, o, &requests);
    double n = (double)requests, elapsed = (double)(clock_monotonic_ns() - start);
    channel_close(ch);
    while (wait(NULL) > 0)
        ;
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    channel_count(ch, &c);
    double cpu = 0;
    const struct rusage *all[] = { &self, &children };
    for (int i = 0; i < 2; i++)
        cpu += (double)(all[i]->ru_utime.tv_sec + all[i]->ru_stime.tv_sec) * 1e9 +
               (double)(all[i]->ru_utime.tv_usec + all[i]->ru_stime.tv_usec) * 1e3;
    printf("  wakes %.3f  signals %.3f  switches %.3f  ring full %llu\n", (double)c.wakes / n,
           (double)c.signals / n,
           (double)(self.ru_nvcsw + children.ru_nvcsw + self.ru_nivcsw + children.ru_nivcsw) / n,
           (unsigned long long)c.ring_full);
    printf("  %.0f requests/s  %.0f ns a request  %.0f ns CPU (%.0f beside the work asked for)\n",
           n / elapsed * 1e9, elapsed / n, cpu / n, cpu / n - (o->work_us + o->io_us) * 1e3);
}

static uint32_t number(const char *text, const char *option)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (*end && *end != ',') {
        fprintf(stderr, "channel: %s wants a number, not \"%s\"\n", option, text);
        exit(2);
    }
    return (uint32_t)n;
}

int main(int argc, char **argv)
{
    struct options o = { .workers = 2, .inflight = 64, .work_us = 5, .io_us = 4, .seconds = 2 };

    setvbuf(stdout, NULL, _IONBF, 0);
    request_init();
    if (argc == 2 && strcmp(argv[1], "code") == 0) {
        bench_code();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "turn") == 0) {
        o = (struct options){ .workers = 1, .inflight = 1, .seconds = 2 };
        bench_processes("turn", &o, true);
        return 0;
    }
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1], *comma = strchr(value, ',');
        if (strcmp(name, "--workers") == 0)
            o.workers = number(value, name);
        else if (strcmp(name, "--inflight") == 0)
            o.inflight = number(value, name);
        else if (strcmp(name, "--work-us") == 0)
            o.work_us = number(value, name);
        else if (strcmp(name, "--io-us") == 0)
            o.io_us = number(value, name);
        else if (strcmp(name, "--seconds") == 0)
            o.seconds = number(value, name);
        else if (strcmp(name, "--defer") == 0 && comma) {
            o.defer_ns = number(value, name);
            o.defer_responses = number(comma + 1, name);
        } else
            argc = 0;
    }
    if (argc < 2 || argc % 2 || strcmp(argv[1], "load") != 0) {
        fprintf(stderr,
                "usage: channel code | turn | load [--workers N] [--inflight N] [--work-us N] "
                "[--io-us N] [--seconds N] [--defer NS,RESPONSES]\n");
        return 2;
    }
    bench_processes("load", &o, false);
    return 0;
}
